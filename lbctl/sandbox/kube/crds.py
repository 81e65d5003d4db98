"""Custom resources: a CustomResourceDefinition makes its kind served, and its schema is what the objects must be."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from lbctl.sandbox.kube.kinds import CRD, Kind, Kinds, Object
from lbctl.sandbox.kube.rules import Rules
from lbctl.sandbox.kube.status import Cause, duplicate, mistyped, not_supported, required, too_long, wrong

Schema = Mapping[str, Any]

_OWN = ("kind", "apiVersion", "metadata")
_TYPES: Mapping[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
}  # fmt: skip
_WORDS = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


class CrdRules(Rules):
    """Definitions themselves: accepted and established at once, their versions served until they go."""

    def __init__(self, kinds: Kinds, clock: Callable[[], float]) -> None:
        super().__init__(CRD)
        self._kinds, self._clock = kinds, clock

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        names = spec.setdefault("names", {})
        kind = names.get("kind", "")
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", f"{kind}List" if kind else "")
        spec.setdefault("conversion", {"strategy": "None"})

    def create(self, obj: Object) -> list[Cause]:
        super().create(obj)
        causes = self._check(obj)
        if not causes:
            obj["status"] = self._established(obj["spec"])
        return causes

    def update(self, obj: Object, old: Object) -> list[Cause]:
        super().update(obj, old)
        causes = self._check(obj)
        for name in ("group", "scope"):
            if obj["spec"].get(name) != old["spec"].get(name):
                causes.append(wrong(f"spec.{name}", obj["spec"].get(name), "field is immutable"))
        return causes

    def stored(self, before: Object | None, after: Object | None) -> None:
        spec = (after or before or {})["spec"]
        versions = tuple(_kinds_of(after["spec"])) if after else ()
        self._kinds.replace(spec["group"], spec["names"]["plural"], versions)

    def _established(self, spec: Schema) -> Object:
        when = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

        def condition(name: str, reason: str, message: str) -> Object:
            said = {"type": name, "status": "True", "lastTransitionTime": when, "reason": reason}
            return said | {"message": message}

        return {
            "conditions": [
                condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ],
            "acceptedNames": dict(spec["names"]),
            "storedVersions": [version["name"] for version in spec["versions"] if version.get("storage")],
        }

    def _check(self, obj: Object) -> list[Cause]:
        spec, names = obj["spec"], obj["spec"]["names"]
        causes = [required(f"spec.{name}") for name in ("group", "scope", "versions") if not spec.get(name)]
        causes += [required(f"spec.names.{name}") for name in ("plural", "kind") if not names.get(name)]
        if causes:
            return causes
        if obj["metadata"].get("name") != f"{names['plural']}.{spec['group']}":
            say = 'must be spec.names.plural+"."+spec.group'
            causes.append(wrong("metadata.name", obj["metadata"].get("name"), say))
        if spec["scope"] not in ("Cluster", "Namespaced"):
            causes.append(not_supported("spec.scope", spec["scope"], ("Cluster", "Namespaced")))
        if sum(bool(version.get("storage")) for version in spec["versions"]) != 1:
            say = "must have exactly one version marked as storage version"
            causes.append(wrong("spec.versions", [version["name"] for version in spec["versions"]], say))
        for index, version in enumerate(spec["versions"]):
            if not (version.get("schema") or {}).get("openAPIV3Schema"):
                causes.append(required(f"spec.versions[{index}].schema.openAPIV3Schema", "schemas are required"))
        return causes


def _kinds_of(spec: Schema) -> Iterator[Kind]:
    names = spec["names"]
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        paths = tuple(item["jsonPath"].removeprefix(".") for item in version.get("selectableFields") or ())
        yield Kind(
            group=spec["group"], version=version["name"], plural=names["plural"], kind=names["kind"],
            singular=names["singular"], namespaced=spec["scope"] == "Namespaced",
            short=tuple(names.get("shortNames") or ()), categories=tuple(names.get("categories") or ()),
            subresources=("status",) if "status" in (version.get("subresources") or {}) else (),
            unconditional=False, generation=True, custom=True, selectable=paths,
            schema=version["schema"]["openAPIV3Schema"], columns=tuple(version.get("additionalPrinterColumns") or ()),
        )  # fmt: skip


class CustomRules(Rules):
    """Objects of a custom kind: pruned, defaulted and checked by the definition's schema."""

    def prune(self, obj: Object) -> list[str]:
        """Drop what the schema does not know; its paths."""
        return [path for name, value in list(obj.items()) for path in self._prune_top(obj, name, value)]

    def _prune_top(self, obj: Object, name: str, value: Any) -> list[str]:
        if name in _OWN:
            return []
        known = self.kind.schema.get("properties", {})
        if name in known:
            return list(_prune(value, known[name], name))
        if self.kind.schema.get("x-kubernetes-preserve-unknown-fields"):
            return []
        del obj[name]
        return [name]

    def default(self, obj: Object) -> None:
        _default(obj, self.kind.schema)

    def create(self, obj: Object) -> list[Cause]:
        super().create(obj)
        return self._check(obj)

    def update(self, obj: Object, old: Object) -> list[Cause]:
        super().update(obj, old)
        return self._check(obj)

    def update_status(self, obj: Object, old: Object) -> list[Cause]:
        super().update_status(obj, old)
        obj["metadata"] = dict(old["metadata"])
        return self._check(obj)

    def _check(self, obj: Object) -> list[Cause]:
        body = {name: value for name, value in obj.items() if name not in _OWN}
        needed = [name for name in self.kind.schema.get("required", ()) if name not in _OWN]
        return [*_validate(body, {**self.kind.schema, "required": needed}, "")]


def _prune(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _prune(item, schema.get("items", {}), f"{path}[{index}]")
    elif isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name in list(value):
            if name in known or isinstance(others, dict):
                yield from _prune(value[name], known.get(name, others), f"{path}.{name}")
            elif not (others or schema.get("x-kubernetes-preserve-unknown-fields")):
                yield f"{path}.{name}"
                del value[name]


def _default(value: Any, schema: Schema) -> None:
    if isinstance(value, list):
        for item in value:
            _default(item, schema.get("items", {}))
    elif isinstance(value, dict):
        for name, shape in schema.get("properties", {}).items():
            missing = name not in value or (value[name] is None and not shape.get("nullable"))
            if missing and "default" in shape:
                value[name] = msgspec.json.decode(msgspec.json.encode(shape["default"]))
            elif missing and name in value:
                del value[name]
            if name in value:
                _default(value[name], shape)
        if isinstance(others := schema.get("additionalProperties"), dict):
            for item in value.values():
                _default(item, others)


def _fits(value: Any, schema: Schema) -> bool:
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        return isinstance(value, (int, str)) and not isinstance(value, bool)
    if kind is None or (value is None and schema.get("nullable")):
        return True
    if isinstance(value, bool) and kind != "boolean":
        return False
    return isinstance(value, _TYPES[kind]) or (kind == "integer" and isinstance(value, float) and value.is_integer())


def _validate(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    if not _fits(value, schema):
        word, kind = _WORDS.get(type(value), "null"), schema.get("type", "integer,string")
        yield mistyped(path, word, f'{path} in body must be of type {kind}: "{word}"')
        return
    if value is None:
        return
    yield from _check_value(value, schema, path)
    if isinstance(value, dict):
        yield from _check_object(value, schema, path)
    elif isinstance(value, list):
        yield from _check_array(value, schema, path)
    elif isinstance(value, str):
        yield from _check_text(value, schema, path)
    elif isinstance(value, (int, float)):
        yield from _check_number(value, schema, path)


def _check_value(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    if "enum" in schema and value not in schema["enum"]:
        yield not_supported(path, value, [str(choice) for choice in schema["enum"]])
    for shape in schema.get("allOf", ()):
        yield from _validate(value, shape, path)
    for word, count in (("anyOf", None), ("oneOf", 1)):
        shapes = schema.get(word, ())
        passing = sum(not any(_validate(value, shape, path)) for shape in shapes)
        if shapes and (passing == 0 or (count and passing != count)):
            say = f"must validate {'one and only' if count else 'at least'} one schema ({word})"
            found = f". Found {f'{passing} valid alternatives' if passing else 'none valid'}" if count else ""
            # The place is lost in go-openapi's composite errors.
            yield wrong("<nil>", "", f'"{path}" {say}{found}')
    if (banned := schema.get("not")) and not any(_validate(value, banned, path)):
        yield wrong(path, value, f'"{path}" must not validate the schema (not)')


def _check_object(value: Object, schema: Schema, path: str) -> Iterator[Cause]:
    for name in schema.get("required", ()):
        if name not in value:
            yield required(f"{path}.{name}".lstrip("."))
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, item in value.items():
        shape = known.get(name, others)
        if isinstance(shape, dict):
            yield from _validate(item, shape, f"{path}.{name}".lstrip("."))
    yield from _check_size(len(value), schema, "Properties", path, value)


def _check_array(value: list[Any], schema: Schema, path: str) -> Iterator[Cause]:
    yield from _check_size(len(value), schema, "Items", path, value)
    for index, item in enumerate(value):
        yield from _validate(item, schema.get("items", {}), f"{path}[{index}]")
    keys = schema.get("x-kubernetes-list-map-keys")
    if schema.get("x-kubernetes-list-type") in ("set", "map"):
        marks = [tuple(item.get(key) for key in keys) if keys and isinstance(item, dict) else item for item in value]
        for index, mark in enumerate(marks):
            if mark in marks[:index]:
                shown = dict(zip(keys, mark, strict=True)) if keys and isinstance(mark, tuple) else mark
                yield duplicate(f"{path}[{index}]", shown)


def _check_size(size: int, schema: Schema, what: str, path: str, value: Any) -> Iterator[Cause]:
    if size < schema.get(f"min{what}", 0):
        yield wrong(path, size, f"{path} in body should have at least {schema[f'min{what}']} {what.lower()}")
    if size > schema.get(f"max{what}", size):
        message = f"Too many: {size}: must have at most {schema[f'max{what}']} items"
        yield Cause("FieldValueTooMany", path, message)


def _check_text(value: str, schema: Schema, path: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxLength", len(value)):
        yield too_long(path, schema["maxLength"])
    if len(value) < schema.get("minLength", 0):
        yield wrong(path, value, f"{path} in body should be at least {schema['minLength']} chars long")
    if not _FORMATS.get(schema.get("format", ""), _anything)(value):
        kind = schema["format"]
        yield mistyped(path, value, f'{path} in body must be of type {kind}: "{value}"')
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield wrong(path, value, f"{path} in body should match '{schema['pattern']}'")


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _anything(_: str) -> bool:
    return True


def _network(text: str) -> object:
    if "/" not in text:
        raise ValueError(text)
    return ipaddress.ip_interface(text)


_FORMATS: Mapping[str, Callable[[str], bool]] = {
    "cidr": _parses(_network),
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
    "date-time": _parses(datetime.fromisoformat),
    "mac": lambda text: re.fullmatch(r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}", text) is not None,
}
"""The formats that are checked; others are taken for documentation."""


def _check_number(value: float, schema: Schema, path: str) -> Iterator[Cause]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        word = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield wrong(path, value, f"{path} in body should be {word} {low}")
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        word = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield wrong(path, value, f"{path} in body should be {word} {high}")
    if (step := schema.get("multipleOf")) and value % step:
        yield wrong(path, value, f"{path} in body should be a multiple of {step}")
