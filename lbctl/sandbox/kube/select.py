"""Label and field selectors, as `labelSelector=` and `fieldSelector=` say them (apimachinery's pkg/labels, fields)."""

import re
from collections.abc import Callable, Mapping

from lbctl.sandbox.kube.kinds import Kind, Object
from lbctl.sandbox.kube.status import bad_request

Predicate = Callable[[Object], bool]

_SET = re.compile(r"^\s*(\S+)\s+(in|notin)\s*\(([^)]*)\)\s*$")
_COMPARE = re.compile(r"^\s*([^\s=!<>]+)\s*(==|=|!=|>|<)\s*([^\s=!<>]*)\s*$")
_EXISTS = re.compile(r"^\s*(!?)\s*([A-Za-z0-9][-A-Za-z0-9_./]*)\s*$")


def always(_: Object) -> bool:
    return True


def selector(kind: Kind, labels: str, fields: str) -> Predicate:
    """One predicate for both. Raises 400 for what does not parse, and for fields that the kind does not select by."""
    parts = [*_label_terms(labels), *_field_terms(kind, fields)]
    if not parts:
        return always
    return parts[0] if len(parts) == 1 else lambda obj: all(part(obj) for part in parts)


def _label_terms(text: str) -> list[Predicate]:
    terms = (_label_term(term, text) for term in re.split(r",(?![^(]*\))", text) if text.strip())
    return [_on_labels(term) for term in terms]


def _on_labels(term: Callable[[Mapping[str, str]], bool]) -> Predicate:
    return lambda obj: term(obj["metadata"].get("labels") or {})


def _label_term(term: str, whole: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.match(term):
        name, values = found[1], frozenset(value.strip() for value in found[3].split(","))
        if found[2] == "in":
            return lambda labels: labels.get(name) in values
        return lambda labels: labels.get(name) not in values
    if found := _COMPARE.match(term):
        return _comparison(found[1], found[2], found[3])
    if found := _EXISTS.match(term):
        name, wanted = found[2], not found[1]
        return lambda labels: (name in labels) is wanted
    raise bad_request(f"unable to parse requirement: {term!r} in label selector {whole!r}")


def _comparison(name: str, sign: str, value: str) -> Callable[[Mapping[str, str]], bool]:
    if sign in ("=", "=="):
        return lambda labels: labels.get(name) == value
    if sign == "!=":
        return lambda labels: labels.get(name) != value
    if not value.lstrip("-").isdecimal():
        say = "for 'Gt', 'Lt' operators, the value must be an integer"
        raise bad_request(f"unable to parse requirement: {say}: {value!r}")
    bound = int(value)

    def compare(labels: Mapping[str, str]) -> bool:
        held = labels.get(name, "")
        return held.lstrip("-").isdecimal() and (int(held) > bound if sign == ">" else int(held) < bound)

    return compare


def _field_terms(kind: Kind, text: str) -> list[Predicate]:
    return [_field_term(kind, term, text) for term in text.split(",") if term.strip()]


def _field_term(kind: Kind, term: str, whole: str) -> Predicate:
    found = _COMPARE.match(term)
    if not found or found[2] in "<>":
        raise bad_request(f"invalid selector: '{whole}'; can't understand '{term}'")
    name, equal, value = found[1], found[2] != "!=", found[3]
    known = ("metadata.name", *(("metadata.namespace",) if kind.namespaced else ()), *kind.selectable)
    if name not in known:
        choices = ", ".join(f'"{item}"' for item in known)
        what = f'"{name}" is not a known field selector: only {choices}'
        raise bad_request(f"field label not supported: {name}" if kind.selectable and not kind.custom else what)
    return lambda obj: (field_value(obj, name) == value) is equal


def field_value(obj: Object, path: str) -> str:
    """The field as selectors compare it: absent is empty, booleans are words."""
    value: object = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if path == "source":
        value = (obj.get("source") or {}).get("component") or obj.get("reportingComponent")
    if path == "spec.unschedulable":
        value = bool(value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
