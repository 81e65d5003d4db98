"""What a registry does with an object before it is stored: defaults, what an update may not touch, what is refused.

One `Rules` per kind, called by `verbs` in the order of kube-apiserver's registry: default, then create or update.
They change the object in place and say what is wrong with it; they keep no state but what `stored` tells them.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any

from lbctl.sandbox.kube.kinds import Kind, Object
from lbctl.sandbox.kube.status import Cause, not_permitted, not_supported, required, too_long, wrong

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_NAME = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"

_SAY_LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_SAY_LABEL_1035 = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    f"'{_LABEL_1035}')"
)
_SAY_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    rf"'{_LABEL}(\.{_LABEL})*')"
)
_SAY_NAME = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_SAY_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_MAX_ANNOTATIONS = 256 * 1024


def _matches(pattern: str, value: str, limit: int, say: str) -> list[str]:
    long = [f"must be no more than {limit} characters"] if len(value) > limit else []
    return long + ([] if re.fullmatch(pattern, value) else [say])


def dns_label(value: str) -> list[str]:
    """What is wrong with an RFC 1123 label."""
    return _matches(_LABEL, value, 63, _SAY_LABEL)


def dns_label_1035(value: str) -> list[str]:
    """What is wrong with an RFC 1035 label: the names of Services."""
    return _matches(_LABEL_1035, value, 63, _SAY_LABEL_1035)


def dns_subdomain(value: str) -> list[str]:
    """What is wrong with an RFC 1123 subdomain."""
    return _matches(_SUBDOMAIN, value, 253, _SAY_SUBDOMAIN)


def qualified_name(value: str) -> list[str]:
    """What is wrong with `example.com/MyName` or `MyName`."""
    prefix, slash, name = value.rpartition("/")
    said = [f"prefix part {word}" for word in dns_subdomain(prefix)] if slash else []
    if "/" in prefix:
        say = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        return [f"a qualified name {_SAY_NAME} {say}"]
    empty = [] if name else ["must be non-empty"]
    return said + [f"name part {word}" for word in (*empty, *_matches(_NAME, name, 63, _SAY_NAME))]


def check_labels(labels: Mapping[str, str], path: str) -> list[Cause]:
    """Every key a qualified name, every value a label value."""
    causes = [wrong(path, name, word) for name in labels for word in qualified_name(name)]
    for value in labels.values():
        causes += [wrong(path, value, word) for word in _matches(f"({_NAME})?", value, 63, _SAY_VALUE)]
    return causes


def check_metadata(meta: Object) -> list[Cause]:
    """What every object's metadata must be, whatever its kind; the name has rules of its own."""
    causes = check_labels(meta.get("labels") or {}, "metadata.labels")
    annotations = meta.get("annotations") or {}
    for name in annotations:
        causes += [wrong("metadata.annotations", name, word) for word in qualified_name(name.lower())]
    if sum(len(name.encode()) + len(value.encode()) for name, value in annotations.items()) > _MAX_ANNOTATIONS:
        causes.append(too_long("metadata.annotations", _MAX_ANNOTATIONS))
    for index, name in enumerate(meta.get("finalizers") or ()):
        causes += [wrong("metadata.finalizers", name, word) for word in qualified_name(name)]
        if "/" not in name and name not in ("kubernetes", "orphan", "foregroundDeletion"):
            say = "name is neither a standard finalizer name nor is it fully qualified"
            causes.append(wrong(f"metadata.finalizers[{index}]", name, say))
    return causes


def check_metadata_update(meta: Object, old: Object) -> list[Cause]:
    """What an update may not do to metadata."""
    fixed = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp")
    changed = [name for name in fixed if meta.get(name) != old.get(name)]
    causes = [wrong(f"metadata.{name}", meta.get(name), "field is immutable") for name in changed]
    added = [name for name in meta.get("finalizers") or () if name not in (old.get("finalizers") or ())]
    if old.get("deletionTimestamp") and added:
        shown = ", ".join(f'"{name}"' for name in added)
        say = f"no new finalizers can be added if the object is being deleted, found new finalizers []string{{{shown}}}"
        causes.append(not_permitted("metadata.finalizers", say))
    return causes


class Rules:
    """The rules of a kind that has none of its own, and the base of those that have."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def name(self, name: str) -> list[str]:
        """What is wrong with a name."""
        return dns_label(name) if self.kind.label_names else dns_subdomain(name)

    def default(self, obj: Object) -> None:
        """Fill in what was left out (SetDefaults_…)."""

    def create(self, obj: Object) -> list[Cause]:
        """Prepare a new object and check it."""
        if "status" in self.kind.subresources:
            obj.pop("status", None)
        return []

    def update(self, obj: Object, old: Object) -> list[Cause]:
        """Undo what an update may not touch, and check the rest."""
        if "status" in self.kind.subresources:
            _take(obj, old, "status")
        return []

    def update_status(self, obj: Object, old: Object) -> list[Cause]:
        """The same for the status subresource: metadata and status may change, nothing else."""
        for name in {*obj, *old} - {"kind", "apiVersion", "metadata", "status"}:
            _take(obj, old, name)
        return []

    def stored(self, before: Object | None, after: Object | None) -> None:
        """This change is in the store (never called for dry runs)."""


def _take(obj: Object, old: Object, name: str) -> None:
    if name in old:
        obj[name] = old[name]
    else:
        obj.pop(name, None)


class NamespaceRules(Rules):
    """Active until deleted; emptied by `verbs` before it goes."""

    def create(self, obj: Object) -> list[Cause]:
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
        return []

    def update(self, obj: Object, old: Object) -> list[Cause]:
        super().update(obj, old)
        _take(obj, old, "spec")
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
        return []


class NodeRules(Rules):
    """A kubelet registers its Node with a status; afterwards only the subresource writes it."""

    def create(self, obj: Object) -> list[Cause]:
        return []

    def update(self, obj: Object, old: Object) -> list[Cause]:
        super().update(obj, old)
        was, now = (node.get("spec", {}).get("providerID") for node in (old, obj))
        if was and now != was:
            say = 'node updates may not change providerID except from "" to valid'
            return [not_permitted("spec.providerID", say)]
        return []


class PodRules(Rules):
    """Pods are stored only: nothing schedules or runs them."""

    def create(self, obj: Object) -> list[Cause]:
        obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        return [] if obj.get("spec", {}).get("containers") else [required("spec.containers")]


class SecretRules(Rules):
    """stringData is written into data; the type is Opaque unless said, and stays."""

    def default(self, obj: Object) -> None:
        obj.setdefault("type", "Opaque")
        if plain := obj.pop("stringData", None):
            coded = {name: base64.b64encode(value.encode()).decode() for name, value in plain.items()}
            obj["data"] = obj.get("data", {}) | coded

    def update(self, obj: Object, old: Object) -> list[Cause]:
        return [wrong("type", obj["type"], "field is immutable")] if obj["type"] != old["type"] else []


class LeaseRules(Rules):
    """Durations and counters in range; who holds it is the clients' affair."""

    def create(self, obj: Object) -> list[Cause]:
        return self._check(obj.get("spec", {}))

    def update(self, obj: Object, old: Object) -> list[Cause]:
        return self._check(obj.get("spec", {}))

    def _check(self, spec: Mapping[str, Any]) -> list[Cause]:
        causes = []
        if (seconds := spec.get("leaseDurationSeconds")) is not None and seconds <= 0:
            causes.append(wrong("spec.leaseDurationSeconds", seconds, "must be greater than 0"))
        if (transitions := spec.get("leaseTransitions")) is not None and transitions < 0:
            causes.append(wrong("spec.leaseTransitions", transitions, "must be greater than or equal to 0"))
        return causes


class EventRules(Rules):
    """An Event lives in the namespace of what it is about."""

    def create(self, obj: Object) -> list[Cause]:
        about, own = obj.get("involvedObject", {}).get("namespace", ""), obj["metadata"]["namespace"]
        if about == own or (not about and own in ("default", "kube-system")):
            return []
        return [wrong("involvedObject.namespace", about, "does not match event.namespace")]


class EndpointSliceRules(Rules):
    """The address type is one of three, and stays."""

    def default(self, obj: Object) -> None:
        for port in obj.get("ports") or ():
            port.setdefault("name", "")
            port.setdefault("protocol", "TCP")

    def create(self, obj: Object) -> list[Cause]:
        kind, allowed = obj.get("addressType"), ("FQDN", "IPv4", "IPv6")
        if not kind:
            return [required("addressType")]
        return [] if kind in allowed else [not_supported("addressType", kind, allowed)]

    def update(self, obj: Object, old: Object) -> list[Cause]:
        kind = obj.get("addressType")
        return [] if kind == old.get("addressType") else [wrong("addressType", kind, "field is immutable")]
