"""Between bytes and calls: what a path and a method mean, how bodies are read, how events and faults are written.

Pure; `server` adds the connection.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import yaml

from lbctl.sandbox.kube import status, tables
from lbctl.sandbox.kube.faults import Fault
from lbctl.sandbox.kube.kinds import Kind, Object
from lbctl.sandbox.kube.status import Refusal
from lbctl.sandbox.kube.verbs import Call
from lbctl.sandbox.kube.watch import INITIAL_EVENTS_END, Frame

JSON = "application/json"
_FLAGS = ("watch", "allowWatchBookmarks", "sendInitialEvents")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


def options(query: Mapping[str, str]) -> dict[str, str]:
    """The options of a request; booleans as Go reads them (the official client says `True`)."""
    flags = {name: value.lower() in ("true", "t", "1") for name, value in query.items() if name in _FLAGS}
    return {**query, **{name: "true" if value else "false" for name, value in flags.items()}}


def target(rest: list[str]) -> tuple[str, str, str, str]:
    """(namespace, plural, name, subresource) of what follows the version in a path."""
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3 and not (len(rest) == 3 and rest[2] in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    if len(rest) > 3:
        raise status.no_such_path()
    plural, name, sub = (*rest, "", "")[:3]
    return namespace, plural, name, sub


def verb_of(method: str, kind: Kind, namespace: str, name: str, query: Mapping[str, str]) -> str:
    """The verb that this method is at this place. Raises 404 and 405 as the router of kube-apiserver would."""
    if namespace and not kind.namespaced:
        raise status.no_such_path()
    if name and kind.namespaced and not namespace:
        raise status.no_such_path()
    watching = query.get("watch") == "true"
    if method in ("GET", "HEAD"):
        verb = "get" if name else "watch" if watching else "list"
    elif method == "DELETE":
        verb = "delete" if name else "deletecollection"
    else:
        verb = _VERBS.get(method, "")
    fits = bool(name) == (verb in ("get", "update", "patch", "delete"))
    needs_namespace = kind.namespaced and verb in ("create", "deletecollection") and not namespace
    if verb not in kind.verbs or not fits or needs_namespace:
        raise status.not_allowed()
    return verb


def decoded(raw: bytes, media: str, *, patching: bool) -> Any:
    """A body, read. Raises 415 for what is neither JSON nor YAML, 400 for what does not parse."""
    if "protobuf" in media or "cbor" in media:
        raise status.unsupported_media(
            f"the sandbox reads JSON and YAML, not {media}: use kubectl apply -f or kubectl expose"
        )
    try:
        if media == "application/yaml":
            return yaml.load(raw, Loader=yaml.CSafeLoader)
        if patching or media in (JSON, "application/octet-stream"):
            return msgspec.json.decode(raw)
    except (msgspec.DecodeError, yaml.YAMLError) as odd:
        raise status.bad_request(f"the body cannot be read: {odd}") from odd
    raise status.unsupported_media(
        f"the body of the request was in an unknown format - accepted media types include: {JSON}, application/yaml"
    )


def form_of(accept: str) -> str:
    """What the client wants objects as: Table, PartialObjectMetadata, or plain (empty)."""
    for part in accept.split(","):
        media, *pairs = (word.strip() for word in part.split(";"))
        options = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if media in (JSON, "*/*", "application/*", "") and options.get("as", "") in ("", "Table"):
            return options.get("as", "")
        if media == JSON and options["as"].startswith("PartialObjectMetadata"):
            return "PartialObjectMetadata"
    message = f"only the following media types are accepted: {JSON}"
    raise Refusal(406, "NotAcceptable", message)


def quoted(text: str) -> str:
    """For a quoted string in a header."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


class Lines:
    """Frames as the lines of one watch; as Tables where the client asked for them."""

    def __init__(self, call: Call, form: str, now: Callable[[], float]) -> None:
        self._call, self._form, self._now, self._first = call, form, now, True

    def line(self, frame: Frame) -> bytes:
        return b"".join((b'{"type":"', frame.type.encode(), b'","object":', self._object(frame), b"}\n"))

    def _object(self, frame: Frame) -> bytes:
        kind = self._call.kind
        if frame.refusal is not None:
            return msgspec.json.encode(frame.refusal.document)
        if frame.entry is None:
            return self._bookmark(frame)
        if self._form == "PartialObjectMetadata":
            return msgspec.json.encode(tables.partial(frame.entry.obj))
        if self._form == "Table":
            return msgspec.json.encode(self._table([frame.entry.obj], frame.entry.obj["metadata"]["resourceVersion"]))
        return kind.prefix + frame.entry.rest

    def _table(self, objects: list[Object], version: str) -> Object:
        include = self._call.query.get("includeObject", "Metadata")
        said = tables.table(self._call.kind, objects, {"resourceVersion": version}, include, self._now())
        # Only the first event says what the columns are.
        if not self._first:
            said["columnDefinitions"] = None
        self._first = False
        return said

    def _bookmark(self, frame: Frame) -> bytes:
        meta: Object = {"resourceVersion": str(frame.version)}
        if frame.initial_end:
            meta["annotations"] = {INITIAL_EVENTS_END: "true"}
        kind = self._call.kind
        empty = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta}
        if self._form == "Table":
            empty = self._table([empty], str(frame.version))
        elif self._form:
            empty = tables.partial(empty)
        return msgspec.json.encode(empty)


def read_faults(raw: bytes) -> list[Fault]:
    """The faults that a body asks for. Raises 400, with an example, for anything else."""
    try:
        found = msgspec.json.decode(raw, type=dict[str, list[Fault]])
        return found["faults"]
    except (msgspec.DecodeError, KeyError) as odd:
        raise status.bad_request(f'say {{"faults": [{{"effect": "latency", "delay": 0.2}}]}}: {odd}') from odd


def as_refusal(fault: Fault, call: Call) -> Refusal:
    """The answer that a fault gives in place of the real one."""
    kind = call.kind
    match fault.effect:
        case "conflict":
            return status.conflict(kind.group, kind.plural, call.name)
        case "expired":
            return status.expired("The resourceVersion for the provided list is too old.")
        case "throttle":
            say = "Too many requests, please try again later."
            return Refusal(429, "TooManyRequests", say, retry_after=fault.retry_after)
        case "deny":
            where = f'in the namespace "{call.namespace}"' if call.namespace else "at the cluster scope"
            why = f'User "sandbox" cannot {call.verb} resource "{call.resource}" in API group "{kind.group}" {where}'
            return status.forbidden(kind.group, kind.plural, call.name, why)
    reason = {500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}.get(fault.code, "")
    return Refusal(fault.code, reason, f"the sandbox answers {fault.code} on request")
