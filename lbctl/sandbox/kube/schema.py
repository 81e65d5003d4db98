"""The fields of the built-in kinds and their types, read from the official client's model classes.

Those classes are generated from Kubernetes' OpenAPI document, so field names, types and descriptions are the real ones.
`prune` does what decoding into Go structs does: unknown fields go, nulls and empty lists go, wrong types are refused.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from lbctl.sandbox.kube.kinds import Object

MERGE_KEYS: Mapping[tuple[str, str], str] = {
    ("V1ObjectMeta", "finalizers"): "",
    ("V1ObjectMeta", "ownerReferences"): "uid",
    ("V1ServiceSpec", "ports"): "port",
    ("V1ServiceStatus", "conditions"): "type",
    ("V1NamespaceStatus", "conditions"): "type",
    ("V1NodeSpec", "podCIDRs"): "",
    ("V1NodeStatus", "addresses"): "type",
    ("V1NodeStatus", "conditions"): "type",
    ("V1PodSpec", "containers"): "name",
    ("V1PodSpec", "initContainers"): "name",
    ("V1PodSpec", "volumes"): "name",
    ("V1PodSpec", "imagePullSecrets"): "name",
    ("V1PodSpec", "hostAliases"): "ip",
    ("V1PodStatus", "conditions"): "type",
    ("V1PodStatus", "podIPs"): "ip",
    ("V1Container", "env"): "name",
    ("V1Container", "ports"): "containerPort",
    ("V1Container", "volumeMounts"): "mountPath",
    ("V1ServiceAccount", "secrets"): "name",
    ("V1ServiceAccount", "imagePullSecrets"): "name",
}  # fmt: skip
"""Lists that strategic patches merge: by this key of their items, or as a set where it is empty (k8s.io/api's tags)."""

_QUANTITIES = frozenset({"capacity", "allocatable", "limits", "requests", "overhead"})
_NODE_INFO = (
    "architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion", "kubeletVersion",
    "machineID", "operatingSystem", "osImage", "systemUUID",
)  # fmt: skip
_NODE_STATUS = {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": dict.fromkeys(_NODE_INFO, "")}
_ALWAYS: Mapping[str, Mapping[str, Any]] = {
    "V1Condition": {"lastTransitionTime": None, "message": "", "reason": ""},
    "V1EndpointSlice": {"endpoints": None, "ports": None},
    "V1Endpoint": {"conditions": {}},
    "V1Lease": {"spec": {}},
    "V1Node": {"spec": {}, "status": _NODE_STATUS},
    "V1NodeStatus": _NODE_STATUS,
    "V1NodeSystemInfo": dict.fromkeys(_NODE_INFO, ""),
    "V1NodeCondition": {"lastHeartbeatTime": None, "lastTransitionTime": None},
    "CoreV1Event": {
        "eventTime": None, "firstTimestamp": None, "lastTimestamp": None, "reportingComponent": "",
        "reportingInstance": "", "source": {},
    },
}  # fmt: skip
"""Fields that are there even when nobody set them (no omitempty)."""
_GO_TYPE = {"str": "string", "int": "int32", "float": "float64", "bool": "bool", "datetime": "Time"}


class Field(NamedTuple):
    """One field of a model: its attribute in Python, and its type in the client's notation (`list[V1ServicePort]`)."""

    attribute: str
    type: str


class Mistyped(Exception):
    """A value of another type than its field has; the message is Go's."""


@cache
def _model(name: str) -> Any:
    # Imported on first use: it takes half a second, and `lbctl --help` must not pay for it.
    import kubernetes.client

    return getattr(kubernetes.client, name, None)


@cache
def fields(model: str) -> Mapping[str, Field]:
    """The fields of a model by their names in JSON; empty for what is no model (custom resources, free objects)."""
    found = _model(model) if model else None
    if found is None:
        return {}
    return {name: Field(attribute, found.openapi_types[attribute]) for attribute, name in found.attribute_map.items()}


@cache
def inner(kind: str) -> str:
    """What a list or a map holds: `list[V1ServicePort]` → `V1ServicePort` (older clients write `dict(str, …)`)."""
    found = re.match(r"^(?:list\[|dict[\[(]str, )(.*)[\])]$", kind)
    return found[1] if found else kind


def field_model(model: str, field: str) -> str:
    """The model of a field, or of its items."""
    known = fields(model).get(field)
    return inner(known.type) if known else ""


def merge_key(model: str, field: str) -> str | None:
    """By what a strategic patch merges this list: a key, "" for a set of plain values, None: it is replaced."""
    known = fields(model).get(field)
    if known and field == "conditions" and known.type == "list[V1Condition]":
        return "type"
    return MERGE_KEYS.get((model, field))


def prune(obj: Object, model: str) -> list[str]:
    """Make of the object, in place, what decoding keeps of it. The paths of unknown fields; raises `Mistyped`."""
    return list(_prune(obj, model, ""))


def _prune(obj: Object, model: str, path: str) -> Iterator[str]:
    known, always = fields(model), _ALWAYS.get(model, {})
    for name in list(obj):
        value, here = obj[name], f"{path}.{name}" if path else name
        if name not in known:
            yield here
            del obj[name]
        elif value is None:
            del obj[name]
        else:
            yield from _check(value, known[name].type, here, f"{_go(model)[3:]}.{name}")
            if value in ([], {}) and known[name].type[:4] in ("list", "dict"):
                del obj[name]
    for name, value in always.items():
        obj.setdefault(name, value)


def _check(value: Any, kind: str, path: str, name: str) -> Iterator[str]:
    """`name` is the struct and its field, as Go's messages have it."""
    if kind.startswith("list["):
        _expect(isinstance(value, list), value, f"[]{_go(inner(kind))}", path, name)
        for index, item in enumerate(value):
            yield from _check(item, inner(kind), f"{path}[{index}]", name)
    elif kind.startswith("dict"):
        _expect(isinstance(value, dict), value, f"map[string]{_go(inner(kind))}", path, name)
        for item in value.values():
            yield from _check(item, inner(kind), path, name)
    elif fields(kind):
        _expect(isinstance(value, dict), value, _go(kind), path, name)
        yield from _prune(value, kind, path)
    else:
        _expect(_fits(value, kind, name.rpartition(".")[2]), value, _go(kind), path, name)


def _fits(value: Any, kind: str, name: str) -> bool:
    match kind:
        case "str":
            return isinstance(value, str) or name in _QUANTITIES
        case "datetime":
            return isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", value) is not None
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "bool":
            return isinstance(value, bool)
    return True


@cache
def _go(kind: str) -> str:
    return _GO_TYPE.get(kind, "v1." + kind.removeprefix("V1").removeprefix("Core"))


def _expect(fits: bool, value: Any, kind: str, path: str, name: str) -> None:
    if not fits:
        place = name.partition(".")[0] + "." + re.sub(r"\[\d+\]", "", path)
        raise Mistyped(f"json: cannot unmarshal {_json_word(value)} into Go struct field {place} of type {kind}")


def _json_word(value: Any) -> str:
    words = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return words.get(type(value), "null")


@cache
def definition(model: str) -> dict[str, Any]:
    """The model as an OpenAPI v3 schema, with references to the models of its fields."""
    properties = {}
    for name, known in fields(model).items():
        shape = _shape(known.type)
        if (key := merge_key(model, name)) is not None:
            shape |= {"x-kubernetes-patch-strategy": "merge"} | ({"x-kubernetes-patch-merge-key": key} if key else {})
        properties[name] = shape | {"description": _description(model, known.attribute)}
    return {"type": "object", "properties": properties, "description": _description(model, "")}


def _shape(kind: str) -> dict[str, Any]:
    if kind.startswith("list["):
        return {"type": "array", "items": _shape(inner(kind))}
    if kind.startswith("dict"):
        return {"type": "object", "additionalProperties": _shape(inner(kind))}
    if fields(kind):
        return {"allOf": [{"$ref": f"#/components/schemas/{kind}"}]}
    plain = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
    if kind == "datetime":
        return {"type": "string", "format": "date-time"}
    return {"type": plain[kind]} if kind in plain else {"x-kubernetes-int-or-string": True}


def _description(model: str, attribute: str) -> str:
    found = _model(model)
    text = (getattr(found, attribute).__doc__ or "") if attribute else ""
    lines = [line.strip() for line in text.splitlines()]
    return next((line.removesuffix("# noqa: E501").strip() for line in lines[2:] if line), "")


def references(model: str) -> set[str]:
    """The model and every model that it refers to."""
    found, queue = set[str](), [model]
    while queue:
        if (name := queue.pop()) not in found and fields(name):
            found.add(name)
            queue += [inner(known.type) for known in fields(name).values()]
    return found
