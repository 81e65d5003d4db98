"""kubectl's columns: objects as rows of a meta.k8s.io/v1 Table (kubernetes/pkg/printers/internalversion)."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from lbctl.sandbox.kube.kinds import Kind, Object

Cells = Sequence[object]


class Column(NamedTuple):
    """One column; priority 1 is shown by `-o wide` only."""

    name: str
    cell: Callable[[Object, float], object]
    type: str = "string"
    priority: int = 0


def table(kind: Kind, objects: Iterable[Object], meta: Mapping[str, Any], include: str, now: float) -> Object:
    """A Table; `include` is what each row carries of its object: None, Metadata or Object. `now` in Unix seconds."""
    columns = columns_of(kind)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": dict(meta),
        "columnDefinitions": [_definition(column) for column in columns],
        "rows": [_row(obj, columns, include, now) for obj in objects],
    }


def _definition(column: Column) -> Object:
    shape = "name" if column.name == "Name" else ""
    return {
        "name": column.name, "type": column.type, "format": shape, "description": "", "priority": column.priority,
    }  # fmt: skip


def _row(obj: Object, columns: Sequence[Column], include: str, now: float) -> Object:
    row: Object = {"cells": [column.cell(obj, now) for column in columns]}
    if include == "Object":
        row["object"] = obj
    elif include != "None":
        row["object"] = partial(obj)
    return row


def partial(obj: Object) -> Object:
    """Only its metadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def columns_of(kind: Kind) -> Sequence[Column]:
    if kind.custom:
        return _custom(kind)
    return _COLUMNS.get(kind.resource, (_NAME, Column("Created At", _at("metadata.creationTimestamp"))))


# Reading fields.


def _get(obj: object, path: str) -> Any:
    for part in path.split("."):
        obj = obj.get(part) if isinstance(obj, Mapping) else None
    return obj


def _at(path: str, missing: object = "") -> Callable[[Object, float], object]:
    def read(obj: Object, _: float) -> object:
        value = _get(obj, path)
        return missing if value in (None, "") else value

    return read


def _count(*names: str) -> Callable[[Object, float], object]:
    return lambda obj, _: sum(len(obj.get(name) or ()) for name in names)


def since(text: object, now: float) -> str:
    """How long ago, as kubectl says it (HumanDuration)."""
    if not isinstance(text, str) or not text:
        return "<unknown>"
    return human(now - datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def human(seconds: float) -> str:
    """120 → 2m, 3600 → 60m, 90000 → 25h: two or three significant figures."""
    total = int(seconds)
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < -1:
        return "<invalid>"
    if total < 120:
        return f"{max(total, 0)}s"
    if minutes < 10:
        return _two(minutes, "m", total % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    return _two(days // 365, "y", days % 365, "d") if days < 2920 else f"{days // 365}y"


def _two(large: int, unit: str, small: int, subunit: str) -> str:
    return f"{large}{unit}{small}{subunit}" if small else f"{large}{unit}"


def _age(path: str = "metadata.creationTimestamp") -> Callable[[Object, float], object]:
    return lambda obj, now: since(_get(obj, path), now)


def _more(words: Sequence[str], limit: int = 3) -> str:
    """A list, cut: `a,b,c + 2 more...`."""
    if len(words) > limit:
        return f"{','.join(words[:limit])} + {len(words) - limit} more..."
    return ",".join(words) or "<unset>"


# Services.


def _external(obj: Object, _: float) -> str:
    spec = obj.get("spec", {})
    extra = list(spec.get("externalIPs") or ())
    match spec.get("type"):
        case "ExternalName":
            return str(spec.get("externalName", ""))
        case "LoadBalancer":
            ingress = _get(obj, "status.loadBalancer.ingress") or ()
            published = sorted({entry.get("ip") or entry.get("hostname", "") for entry in ingress} - {""})
            return ",".join([*published, *extra]) or "<pending>"
    return ",".join(extra) or "<none>"


def _ports(obj: Object, _: float) -> str:
    said = []
    for port in _get(obj, "spec.ports") or ():
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        said.append(f"{port.get('port')}{node_port}/{port.get('protocol')}")
    return ",".join(said) or "<none>"


def _cluster_ip(obj: Object, _: float) -> str:
    return str((_get(obj, "spec.clusterIPs") or ["<none>"])[0])


def _selector(obj: Object, _: float) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((_get(obj, "spec.selector") or {}).items())) or "<none>"


# Nodes.


def _node_status(obj: Object, _: float) -> str:
    ready = [item for item in _get(obj, "status.conditions") or () if item.get("type") == "Ready"]
    word = ("Ready" if ready[0].get("status") == "True" else "NotReady") if ready else "Unknown"
    return word + (",SchedulingDisabled" if _get(obj, "spec.unschedulable") else "")


def _node_roles(obj: Object, _: float) -> str:
    labels = obj["metadata"].get("labels") or {}
    prefix = "node-role.kubernetes.io/"
    roles = {label.removeprefix(prefix) for label in labels if label.startswith(prefix)} - {""}
    if role := labels.get("kubernetes.io/role"):
        roles.add(role)
    return ",".join(sorted(roles)) or "<none>"


def _node_address(kind: str) -> Callable[[Object, float], object]:
    def read(obj: Object, _: float) -> str:
        found = [item for item in _get(obj, "status.addresses") or () if item.get("type") == kind]
        return str(found[0].get("address")) if found else "<none>"

    return read


# Events, slices, the rest.


def _event_first(obj: Object, now: float) -> str:
    return since(obj.get("firstTimestamp") or obj.get("eventTime"), now)


def _event_last(obj: Object, now: float) -> str:
    if series := obj.get("series"):
        return since(series.get("lastObservedTime"), now)
    return since(obj["lastTimestamp"], now) if obj.get("lastTimestamp") else _event_first(obj, now)


def _event_object(obj: Object, _: float) -> str:
    about = obj.get("involvedObject", {})
    return "/".join(word for word in (about.get("kind", "").lower(), about.get("name")) if word)


def _event_source(obj: Object, _: float) -> str:
    source = obj.get("source") or {}
    component = source.get("component") or obj.get("reportingComponent") or ""
    host = source.get("host") or obj.get("reportingInstance")
    return f"{component}, {host}" if host else component


def _event_count(obj: Object, _: float) -> object:
    return (obj.get("series") or {}).get("count") or obj.get("count") or 1


def _slice_ports(obj: Object, _: float) -> str:
    return _more([str(port.get("port") or port.get("name") or "*") for port in obj.get("ports") or ()])


def _slice_addresses(obj: Object, _: float) -> str:
    return _more([text for item in obj.get("endpoints") or () for text in item.get("addresses") or ()])


def _endpoints(obj: Object, _: float) -> str:
    pairs = [
        f"{address.get('ip')}:{port.get('port')}"
        for subset in obj.get("subsets") or ()
        for address in subset.get("addresses") or ()
        for port in subset.get("ports") or ({"port": ""},)
    ]
    return "<none>" if not pairs else _more(pairs)


def _pod_ready(obj: Object, _: float) -> str:
    states = _get(obj, "status.containerStatuses") or ()
    return f"{sum(bool(state.get('ready')) for state in states)}/{len(_get(obj, 'spec.containers') or ())}"


def _pod_restarts(obj: Object, _: float) -> str:
    return str(sum(state.get("restartCount", 0) for state in _get(obj, "status.containerStatuses") or ()))


_NAME = Column("Name", _at("metadata.name"))
_AGE = Column("Age", _age())

_COLUMNS: Mapping[str, Sequence[Column]] = {
    "services": (
        _NAME,
        Column("Type", _at("spec.type")),
        Column("Cluster-IP", _cluster_ip),
        Column("External-IP", _external),
        Column("Port(s)", _ports),
        _AGE,
        Column("Selector", _selector, priority=1),
    ),
    "nodes": (
        _NAME,
        Column("Status", _node_status),
        Column("Roles", _node_roles),
        _AGE,
        Column("Version", _at("status.nodeInfo.kubeletVersion")),
        Column("Internal-IP", _node_address("InternalIP"), priority=1),
        Column("External-IP", _node_address("ExternalIP"), priority=1),
        Column("OS-Image", _at("status.nodeInfo.osImage", "<unknown>"), priority=1),
        Column("Kernel-Version", _at("status.nodeInfo.kernelVersion", "<unknown>"), priority=1),
        Column("Container-Runtime", _at("status.nodeInfo.containerRuntimeVersion", "<unknown>"), priority=1),
    ),
    "namespaces": (_NAME, Column("Status", _at("status.phase")), _AGE),
    "events": (
        Column("Last Seen", _event_last),
        Column("Type", _at("type")),
        Column("Reason", _at("reason")),
        Column("Object", _event_object),
        Column("Subobject", _at("involvedObject.fieldPath"), priority=1),
        Column("Source", _event_source, priority=1),
        Column("Message", lambda obj, _: str(obj.get("message", "")).strip()),
        Column("First Seen", _event_first, priority=1),
        Column("Count", _event_count, priority=1),
        Column("Name", _at("metadata.name"), priority=1),
    ),
    "pods": (
        _NAME,
        Column("Ready", _pod_ready),
        Column("Status", _at("status.phase")),
        Column("Restarts", _pod_restarts),
        _AGE,
        Column("IP", _at("status.podIP", "<none>"), priority=1),
        Column("Node", _at("spec.nodeName", "<none>"), priority=1),
    ),
    "endpoints": (_NAME, Column("Endpoints", _endpoints), _AGE),
    "endpointslices.discovery.k8s.io": (
        _NAME,
        Column("AddressType", _at("addressType")),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_addresses),
        _AGE,
    ),
    "leases.coordination.k8s.io": (_NAME, Column("Holder", _at("spec.holderIdentity")), _AGE),
    "configmaps": (_NAME, Column("Data", _count("data", "binaryData")), _AGE),
    "secrets": (_NAME, Column("Type", _at("type")), Column("Data", _count("data")), _AGE),
    "serviceaccounts": (_NAME, Column("Secrets", _count("secrets")), _AGE),
}


# Custom resources: additionalPrinterColumns.


def _custom(kind: Kind) -> Sequence[Column]:
    if not kind.columns:
        return (_NAME, _AGE)
    return (_NAME, *(_printed(column) for column in kind.columns))


def _printed(column: Mapping[str, Any]) -> Column:
    path, form = column["jsonPath"], column.get("type", "string")

    def cell(obj: Object, now: float) -> object:
        # Only the first value counts, as in apiextensions' tableconvertor.
        value = next(iter(json_path(obj, path)), None)
        if form == "date":
            return since(value, now)
        if form != "string" or value is None or isinstance(value, str):
            return value
        return msgspec.json.encode(value).decode()

    return Column(column["name"], cell, form, column.get("priority", 0))


_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\*|\d+)\]|\[\?\(@\.([^=!<>]+)==\s*[\"']([^\"']*)[\"']\)\]|\['([^']+)'\]")


def json_path(obj: object, path: str) -> list[Any]:
    """The values at a JSONPath of the sort that printer columns use: `.a.b`, `[0]`, `[*]`, `[?(@.type=="Ready")]`."""
    found = [obj]
    for field, index, key, wanted, quoted in _STEP.findall(path.replace(r"\.", "\0")):
        name = (field or quoted).replace("\0", ".")
        found = [value for item in found for value in _step(item, name, index, key, wanted)]
    return found


def _step(item: Any, field: str, index: str, key: str, wanted: str) -> list[Any]:
    if field:
        return [item[field]] if isinstance(item, dict) and item.get(field) is not None else []
    if not isinstance(item, list):
        return []
    if key:
        return [value for value in item if isinstance(value, dict) and str(value.get(key.strip())) == wanted]
    if index == "*":
        return item
    return item[int(index) : int(index) + 1]
