"""The three patches: JSON patch (RFC 6902), JSON merge patch (RFC 7396) and Kubernetes' own strategic merge patch.

None of them changes its input. Merge keys of strategic patches come from `schema`.
"""

from collections.abc import Mapping
from typing import Any

from lbctl.sandbox.kube import schema
from lbctl.sandbox.kube.status import Refusal, bad_request

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902. Raises 400 for what is no patch and 422 for one that does not apply."""
    if not isinstance(operations, list) or not all(isinstance(item, dict) for item in operations):
        raise bad_request("error decoding patch: a JSON patch is a list of operations")
    for operation in operations:
        target = _operate(target, operation)
    return target


def _operate(target: Any, operation: Mapping[str, Any]) -> Any:
    name, path = operation.get("op"), _pointer(operation.get("path"))
    if name == "test":
        if _read(target, path) != operation.get("value"):
            raise _unapplied(f"testing value {operation.get('path')} failed")
        return target
    if name == "remove":
        return _write(target, path, remove=True)
    if name in ("add", "replace"):
        return _write(target, path, operation.get("value"), insert=name == "add")
    if name in ("move", "copy"):
        source = _pointer(operation.get("from"))
        value = _read(target, source)
        rest = _write(target, source, remove=True) if name == "move" else target
        return _write(rest, path, value, insert=True)
    raise _unapplied(f"unexpected kind: {name}")


def _pointer(text: object) -> list[str]:
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise _unapplied(f"{text!r} is no JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _unapplied(message: str) -> Refusal:
    said = f"the server rejected our request due to an error in our request: {message}"
    return Refusal(422, "Invalid", said)


def _index(items: list[Any], part: str, size: int) -> int:
    if not part.isdecimal() or int(part) >= size:
        raise _unapplied(f"index {part} is out of range")
    return int(part)


def _read(target: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(target, list):
            target = target[_index(target, part, len(target))]
        elif isinstance(target, dict) and part in target:
            target = target[part]
        else:
            raise _unapplied(f"there is nothing at /{'/'.join(path)}")
    return target


def _write(target: Any, path: list[str], value: Any = None, *, remove: bool = False, insert: bool = False) -> Any:
    """A copy of the target with that one place changed."""
    if not path:
        return None if remove else value
    part, rest = path[0], path[1:]
    if isinstance(target, list):
        items = list(target)
        at = len(items) if part == "-" else _index(items, part, len(items) + (insert and not rest))
        if rest:
            items[at] = _write(items[at], rest, value, remove=remove, insert=insert)
        elif remove:
            del items[at]
        else:
            items[at : at + (not insert)] = [value]
        return items
    if not isinstance(target, dict) or ((rest or remove) and part not in target):
        raise _unapplied(f"there is nothing at {part}")
    result = dict(target)
    if rest:
        result[part] = _write(result[part], rest, value, remove=remove, insert=insert)
    elif remove:
        del result[part]
    else:
        result[part] = value
    return result


def strategic(target: Any, patch: Any, model: str) -> Any:
    """Kubernetes' patch: lists with a merge key are merged by it, other lists replaced, `$…` directives obeyed.

    https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
    """
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    if patch.get("$patch") == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        directive, _, field = name.partition("/")
        if directive == "$deleteFromPrimitiveList":
            result[field] = [item for item in result.get(field) or () if item not in value]
        elif directive == "$setElementOrder" and field not in patch and field in result:
            _merge_field(result, field, [], model, value)
        elif not name.startswith("$"):
            _merge_field(result, name, value, model, patch.get(f"$setElementOrder/{name}"))
    if isinstance(keep := patch.get("$retainKeys"), list):
        result = {name: value for name, value in result.items() if name in keep}
    return result


def _merge_field(result: dict[str, Any], name: str, value: Any, model: str, order: list[Any] | None) -> None:
    if isinstance(value, list) and (key := schema.merge_key(model, name)) is not None:
        held = result.get(name) or []
        merged = (
            _merge_set(held, value) if key == "" else _merge_list(held, value, key, schema.field_model(model, name))
        )
        result[name] = _ordered(merged, value if order is None else order, held, key)
    elif value is None:
        result.pop(name, None)
    else:
        result[name] = strategic(result.get(name), value, schema.field_model(model, name))


def _merge_set(held: list[Any], patch: list[Any]) -> list[Any]:
    return held + [item for item in patch if item not in held]


def _merge_list(held: list[Any], patch: list[Any], key: str, model: str) -> list[Any]:
    if any(not isinstance(item, dict) for item in (*held, *patch)):
        raise bad_request(f"a list that is merged by {key} is one of objects")
    items = [] if any(item.get("$patch") == "replace" for item in patch) else list(held)
    for change in patch:
        if key in change:
            _merge_item(items, change, key, model)
        elif "$patch" not in change:
            raise Refusal(500, "", f"map: {change} does not contain declared merge key: {key}")
    return items


def _merge_item(items: list[Any], change: dict[str, Any], key: str, model: str) -> None:
    at = next((index for index, item in enumerate(items) if item.get(key) == change[key]), None)
    if change.get("$patch") == "delete":
        items[:] = [item for item in items if item.get(key) != change[key]]
    elif at is None:
        items.append(strategic({}, change, model))
    else:
        items[at] = strategic(items[at], change, model)


def _ordered(items: list[Any], order: list[Any], held: list[Any], key: str) -> list[Any]:
    """What the patch names in the patch's order, between the rest in its own (mergeSortedSlice)."""
    wanted = [_identity(item, key) for item in order]
    before = [_identity(item, key) for item in held]
    named = sorted((i for i in items if _identity(i, key) in wanted), key=lambda i: wanted.index(_identity(i, key)))
    rest = [item for item in items if _identity(item, key) not in wanted]
    result = []
    while named and rest:
        left, right = _identity(named[0], key), _identity(rest[0], key)
        known = left in before and right in before
        result.append((rest if known and before.index(right) < before.index(left) else named).pop(0))
    return result + named + rest


def _identity(item: Any, key: str) -> Any:
    return item.get(key) if key and isinstance(item, dict) else item
