"""The verbs: what a request does to the store, step by step as in kube-apiserver's generic registry.

The server translates HTTP to a `Call` and an answer back to bytes; everything between happens here, synchronously, so
that every call is a transaction. Raises `Refusal`.
"""

import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from lbctl.sandbox.kube import patch, schema, status
from lbctl.sandbox.kube.crds import CrdRules, CustomRules
from lbctl.sandbox.kube.kinds import CRD, NAMESPACE, SERVICE, Kind, Kinds, Object
from lbctl.sandbox.kube.options import (
    check_list_options,
    check_watch_options,
    continue_expired,
    number,
    page_token,
    read_token,
)
from lbctl.sandbox.kube.rules import (
    EndpointSliceRules,
    EventRules,
    LeaseRules,
    NamespaceRules,
    NodeRules,
    PodRules,
    Rules,
    SecretRules,
    check_metadata,
    check_metadata_update,
)
from lbctl.sandbox.kube.select import always, selector
from lbctl.sandbox.kube.services import ServiceRules
from lbctl.sandbox.kube.status import Cause, Refusal, invalid, wrong
from lbctl.sandbox.kube.store import Entry, Key, Store
from lbctl.sandbox.kube.watch import Watch

_RULES: Mapping[str, type[Rules]] = {
    "namespaces": NamespaceRules, "nodes": NodeRules, "pods": PodRules, "secrets": SecretRules, "events": EventRules,
    "leases.coordination.k8s.io": LeaseRules, "endpointslices.discovery.k8s.io": EndpointSliceRules,
}  # fmt: skip
_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, taken apart."""

    verb: str
    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    media: str = "application/json"

    @property
    def resource(self) -> str:
        """As faults and rules name it: `services`, `services/status`."""
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class One:
    """An answer of one object."""

    entry: Entry
    code: int = 200
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Many:
    """An answer of a list."""

    entries: Sequence[Entry]
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """An answer that is no stored object: a Status, a review."""

    document: Object
    code: int = 200


Answer = One | Many | Said


class Api:
    """Everything served, and what is stored of it."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        node_ports: tuple[int, int] = (30000, 32767),
        may: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
    ) -> None:
        """`may` says why somebody may not do what resourceAttributes describe, or None."""
        self.store = Store(int(clock()))
        self.kinds = Kinds()
        self._clock, self._may = clock, may
        self._rules: dict[str, Rules] = {SERVICE.resource: ServiceRules(node_ports)}
        self._rules[CRD.resource] = CrdRules(self.kinds, clock)

    def answer(self, call: Call) -> Answer:
        """Carry it out."""
        actions: Mapping[str, Callable[[Call], Answer]] = {
            "get": self._get, "list": self._list, "create": self._create, "update": self._put, "patch": self._patch,
            "delete": self._delete, "deletecollection": self._delete_collection,
        }  # fmt: skip
        return actions[call.verb](call)

    def now(self) -> str:
        """The time as metadata has it, in seconds."""
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def seed(self, obj: Object) -> Entry:
        """Put an object directly, with its status, as if it had always been there; one of the same name is replaced."""
        kind = self._kind_of(obj)
        call = Call(verb="create", kind=kind, query={"fieldValidation": "Strict"})
        obj, _ = self._decode(call, msgspec.json.decode(msgspec.json.encode(obj)))
        meta = obj["metadata"]
        if kind.namespaced:
            meta.setdefault("namespace", "default")
        state = obj.get("status")
        key = (meta.get("namespace", ""), meta["name"])
        if (held := self.store.get(kind.resource, key)) is not None:
            self._forget(kind, key, held)
        self._fresh(kind, obj)
        self._accept(kind, obj, self._rules_of(kind).create(obj))
        if state is not None:
            obj["status"] = state
        return self._store(kind, key, None, obj)

    def _kind_of(self, obj: Object) -> Kind:
        wanted = (obj.get("apiVersion"), obj.get("kind"))
        found = [kind for kind in self.kinds if (kind.api_version, kind.kind) == wanted]
        if not found:
            raise status.bad_request(f"{obj.get('apiVersion')} {obj.get('kind')} is not served here")
        return found[0]

    # Reading.

    def _held(self, call: Call) -> Entry:
        entry = self.store.get(call.kind.resource, call.key)
        if entry is None:
            raise status.not_found(call.kind.group, call.kind.plural, call.name)
        return entry

    def _get(self, call: Call) -> Answer:
        return One(self._held(call))

    def _list(self, call: Call) -> Answer:
        check_list_options(call.query)
        version, after = self._page(call)
        try:
            entries = self.store.at(call.kind.resource, version, call.namespace)
        except Refusal as gone:
            raise status.expired("The resourceVersion for the provided list is too old.") from gone
        matches = selector(call.kind, call.query.get("labelSelector", ""), call.query.get("fieldSelector", ""))
        rest = [(key, entry) for key, entry in entries if (after is None or key > after) and matches(entry.obj)]
        limit = number(call.query, "limit")
        meta: dict[str, Any] = {"resourceVersion": str(version)} | ({"continue": ""} if call.kind.custom else {})
        if limit > 0 and len(rest) > limit:
            meta["continue"] = page_token(version, rest[limit - 1][0])
            if matches is always:
                meta["remainingItemCount"] = len(rest) - limit
            rest = rest[:limit]
        return Many([entry for _, entry in rest], meta)

    def _page(self, call: Call) -> tuple[int, Key | None]:
        """The version to list at, and the key after which to go on."""
        if token := call.query.get("continue"):
            version, after = read_token(token)
            try:
                self.store.since(call.kind.resource, version)
            except Refusal as gone:
                raise continue_expired(self.store.version, after) from gone
            return version, after
        version = self._version(call.query.get("resourceVersion", ""))
        exact = call.query.get("resourceVersionMatch") == "Exact"
        # A limit with a version that is not 0 reads that very version, unless told otherwise.
        pinned = version and call.query.get("limit") and not call.query.get("resourceVersionMatch")
        return (version if exact or pinned else self.store.version), None

    def _version(self, text: str) -> int:
        """0 for none. Raises when it lies in the future."""
        if text and not text.isdecimal():
            raise status.bad_request(f'invalid resource version: resourceVersion: Invalid value: "{text}"')
        version = int(text or 0)
        if version > self.store.version:
            raise status.too_large_version(version, self.store.version)
        return version

    def watch(self, call: Call) -> Watch:
        """Start one. What is wrong with its version is said in the stream, as kube-apiserver does."""
        query = call.query
        check_watch_options(query)
        matches = selector(call.kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        if call.name:
            matches = selector(call.kind, "", f"metadata.name={call.name}")
        watch = Watch(self.store, call.kind.resource, call.namespace, matches)
        text = query.get("resourceVersion", "")
        # Who asks from nowhere, or from 0, gets a WatchList too (SetListOptionsDefaults).
        initial = query.get("sendInitialEvents", "true" if text in ("", "0") else "")
        if text and not text.isdecimal():
            raise Refusal(500, "", f'resourceVersion: Invalid value: "{text}": it is not a number')
        try:
            if initial == "true":
                self._version(text)
                watch.begin_with_everything(mark_end=query.get("allowWatchBookmarks") == "true")
            else:
                watch.begin_after(int(text) if text not in ("", "0") else self.store.version)
        except Refusal as refusal:
            watch.fail(refusal)
        return watch

    # Writing.

    def _create(self, call: Call) -> Answer:
        if call.kind.plural == "selfsubjectaccessreviews":
            return Said(self._review(call.body), 201)
        obj, warnings = self._decode(call, call.body)
        meta = obj["metadata"]
        self._place(call, meta)
        if meta.get("resourceVersion"):
            raise Refusal(500, "", "resourceVersion should not be set on objects to be created")
        generated = not meta.get("name") and meta.get("generateName")
        if generated:
            meta["name"] = meta["generateName"][:58] + "".join(random.choices(_NAME_ALPHABET, k=5))
        key = (call.namespace, meta.get("name", ""))
        self._check_namespace(call, key[1])
        self._fresh(call.kind, obj)
        self._accept(call.kind, obj, [*self._check_name(call.kind, meta), *self._rules_of(call.kind).create(obj)])
        # After validation, as in the real one: a taken node port is said before a taken name.
        if (held := self.store.get(call.kind.resource, key)) is not None:
            going = "deletionTimestamp" in held.obj["metadata"]
            raise status.already_exists(call.kind.group, call.kind.plural, key[1], going=going)
        return One(self._commit(call, key, None, obj), 201, warnings)

    def _put(self, call: Call) -> Answer:
        held = self.store.get(call.kind.resource, call.key)
        if held is None and call.kind.create_on_update and not call.subresource:
            return self._create(call)
        held = self._held(call)
        obj, warnings = self._decode(call, call.body)
        return One(self._replace(call, held, obj), 200, warnings)

    def _patch(self, call: Call) -> Answer:
        self._check_media(call)
        held = self._held(call)
        before = held.copy()
        try:
            after = self._patched(call, before)
        except (TypeError, AttributeError) as odd:
            raise _undecodable(call, f"the patch does not fit the object: {odd}") from odd
        if not isinstance(after, dict):
            raise status.bad_request("the patch leaves no object")
        obj, warnings = self._decode(call, after)
        return One(self._replace(call, held, obj), 200, warnings)

    def _check_media(self, call: Call) -> None:
        allowed = [patch.JSON_PATCH, patch.MERGE_PATCH] + ([] if call.kind.custom else [patch.STRATEGIC_PATCH])
        if call.media == patch.APPLY_PATCH:
            raise status.unsupported_media(
                "the sandbox does not do server-side apply: leave out --server-side; "
                f"accepted media types include: {', '.join(allowed)}"
            )
        if call.media not in allowed:
            raise status.unsupported_media(
                f"the body of the request was in an unknown format - accepted media types include: {', '.join(allowed)}"
            )

    def _patched(self, call: Call, obj: Object) -> Any:
        if call.media == patch.JSON_PATCH:
            return patch.json_patch(obj, call.body)
        if not isinstance(call.body, dict) and (call.body is not None or call.media == patch.MERGE_PATCH):
            raise status.bad_request("error decoding patch: a merge patch is an object")
        if call.media == patch.MERGE_PATCH:
            return patch.merge(obj, call.body)
        if call.body is None:
            return obj
        same = {"kind": call.kind.kind, "apiVersion": call.kind.api_version}
        return patch.strategic(obj, call.body, call.kind.model) | same

    def _replace(self, call: Call, held: Entry, obj: Object) -> Entry:
        """Store the object in place of what is held, if it may be."""
        old, meta = held.obj, obj["metadata"]
        self._place(call, meta)
        if meta.get("name") != call.name:
            given = meta.get("name", "")
            say = f"the name of the object ({given}) does not match the name on the URL ({call.name})"
            raise status.bad_request(say)
        self._check_version(call, meta, held)
        self._carry(meta, old["metadata"])
        rules = self._rules_of(call.kind)
        obj.setdefault("kind", call.kind.kind)
        causes = rules.update_status(obj, old) if call.subresource else rules.update(obj, old)
        self._accept(call.kind, obj, [*check_metadata_update(meta, old["metadata"]), *causes])
        meta = obj["metadata"]
        if call.kind.generation and not call.subresource and _substance(call.kind, obj) != _substance(call.kind, old):
            meta["generation"] = old["metadata"].get("generation", 0) + 1
        meta["resourceVersion"] = old["metadata"]["resourceVersion"]
        if obj == old:
            return held
        if old["metadata"].get("deletionTimestamp") and not self._held_back(call.kind, obj):
            return self._finish(call, held, obj)
        return self._commit(call, call.key, held, obj)

    def _check_version(self, call: Call, meta: Object, held: Entry) -> None:
        kind, old = call.kind, held.obj["metadata"]
        given = meta.get("resourceVersion")
        if not given and not kind.unconditional:
            cause = wrong("metadata.resourceVersion", 0, "must be specified for an update")
            raise invalid(kind.group, kind.plural, call.name, [cause])
        if given and given != old["resourceVersion"]:
            raise status.conflict(kind.group, kind.plural, call.name)
        if call.verb == "update" and meta.get("uid", old["uid"]) != old["uid"]:
            if call.verb == "patch":
                cause = wrong("metadata.uid", meta["uid"], "field is immutable")
                raise invalid(kind.group, kind.kind, call.name, [cause])
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {old['uid']}"
            raise status.conflict(kind.group, kind.plural, call.name, why)

    def _carry(self, meta: Object, old: Object) -> None:
        """System fields are not the client's to change."""
        meta.setdefault("uid", old["uid"])
        for name in ("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
            if name in old:
                meta[name] = old[name]
        if "generation" not in old:
            meta.pop("generation", None)

    def _commit(self, call: Call, key: Key, held: Entry | None, obj: Object) -> Entry:
        if _dry_run(call):
            return Entry(obj, held.version if held else 0)
        return self._store(call.kind, key, held, obj)

    def _store(self, kind: Kind, key: Key, held: Entry | None, obj: Object) -> Entry:
        entry = self.store.put(kind.resource, key, obj)
        self._rules_of(kind).stored(held.obj if held else None, obj)
        return entry

    # Deleting.

    def _delete(self, call: Call) -> Answer:
        held = self._held(call)
        self._check_preconditions(call, held)
        kind, meta = call.kind, held.obj["metadata"]
        if meta.get("deletionTimestamp"):
            return One(held)
        if self._held_back(kind, held.obj):
            return One(self._terminate(call, held))
        final = self._finish(call, held, None)
        if kind.returns_deleted:
            return One(final)
        return Said(status.success(kind.group, kind.plural, call.name, meta["uid"]))

    def _delete_collection(self, call: Call) -> Answer:
        listed = self._list(Call(verb="list", kind=call.kind, namespace=call.namespace, query=call.query))
        assert isinstance(listed, Many)
        for entry in listed.entries:
            meta = entry.obj["metadata"]
            self._delete(replace(call, verb="delete", namespace=meta.get("namespace", ""), name=meta["name"]))
        return listed

    def _check_preconditions(self, call: Call, held: Entry) -> None:
        wanted = ((call.body or {}).get("preconditions") or {}) if isinstance(call.body, dict) else {}
        meta = held.obj["metadata"]
        for name, label, guess in (
            ("uid", "UID", "deleted and then recreated"),
            ("resourceVersion", "ResourceVersion", "modified"),
        ):
            if wanted.get(name) and wanted[name] != meta[name]:
                why = f"the {label} in the precondition ({wanted[name]}) does not match the {label} in record"
                why += f" ({meta[name]}). The object might have been {guess}"
                raise status.conflict(call.kind.group, call.kind.kind, call.name, why)

    def _held_back(self, kind: Kind, obj: Object) -> bool:
        """Does it outlive its deletion: by finalizers, or because something is in it?"""
        return bool(obj["metadata"].get("finalizers")) or next(self._contents(kind, obj), None) is not None

    def _contents(self, kind: Kind, obj: Object) -> Any:
        """What is in a namespace, and the objects of a CustomResourceDefinition."""
        name = obj["metadata"]["name"]
        if kind is NAMESPACE:
            yield from (
                (other, entry)
                for other in {other.resource: other for other in self.kinds if other.namespaced}.values()
                for _, entry in self.store.entries(other.resource, name)
            )
        elif kind is CRD:
            place = (obj["spec"]["group"], obj["spec"]["names"]["plural"])
            served = [other for other in self.kinds if (other.group, other.plural) == place]
            yield from ((other, entry) for other in served[:1] for _, entry in self.store.entries(other.resource))

    def _terminate(self, call: Call, held: Entry) -> Entry:
        """Mark it as being deleted; what is in it is deleted at once."""
        obj = held.copy()
        obj["metadata"] |= {"deletionTimestamp": self.now(), "deletionGracePeriodSeconds": 0}
        if call.kind is NAMESPACE:
            obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        entry = self._commit(call, call.key, held, obj)
        if _dry_run(call):
            return entry
        for kind, inside in list(self._contents(call.kind, obj)):
            meta = inside.obj["metadata"]
            self._delete(Call(verb="delete", kind=kind, namespace=meta.get("namespace", ""), name=meta["name"]))
        return entry

    def _finish(self, call: Call, held: Entry, last: Object | None) -> Entry:
        """It goes, and with it whatever waited only for that."""
        if _dry_run(call):
            return Entry(last or held.obj, held.version)
        final = self._forget(call.kind, call.key, held, last)
        self._finish_waiting(call.namespace)
        return final

    def _forget(self, kind: Kind, key: Key, held: Entry, last: Object | None = None) -> Entry:
        final = self.store.remove(kind.resource, key, last)
        assert final is not None, "held entries are stored"
        self._rules_of(kind).stored(held.obj, None)
        return final

    def _finish_waiting(self, namespace: str) -> None:
        """Namespaces and definitions that are being deleted go as soon as they are empty."""
        for kind, key in ((NAMESPACE, ("", namespace)), *((CRD, key) for key, _ in self.store.entries(CRD.resource))):
            held = self.store.get(kind.resource, key)
            if held and held.obj["metadata"].get("deletionTimestamp") and not self._held_back(kind, held.obj):
                self._forget(kind, key, held)

    # Steps of writing.

    def _rules_of(self, kind: Kind) -> Rules:
        if kind.custom:
            return CustomRules(kind)
        if kind.resource not in self._rules:
            self._rules[kind.resource] = _RULES.get(kind.resource, Rules)(kind)
        return self._rules[kind.resource]

    def _decode(self, call: Call, body: Any) -> tuple[Object, tuple[str, ...]]:
        """The body as an object of the call's kind, with defaults, and warnings about what was dropped."""
        kind = call.kind
        if not isinstance(body, dict):
            say = "couldn't get version/kind; it is no JSON object"
            raise status.bad_request(f"the object provided is unrecognized (must be of type {kind.kind}): {say}")
        _check_group_kind(call, body)
        obj: Object = {"kind": kind.kind, "apiVersion": kind.api_version} | body
        meta = obj["metadata"] = dict(obj.get("metadata") or {})
        meta.pop("managedFields", None)
        meta.pop("selfLink", None)
        unknown = self._prune(call, obj)
        rules = self._rules_of(kind)
        if isinstance(rules, CustomRules):
            unknown += rules.prune(obj)
        rules.default(obj)
        return obj, self._complain(call, unknown)

    def _prune(self, call: Call, obj: Object) -> list[str]:
        kind = call.kind
        try:
            if not kind.custom:
                return schema.prune(obj, kind.model)
            return [f"metadata.{path}" for path in schema.prune(obj["metadata"], "V1ObjectMeta")]
        except schema.Mistyped as odd:
            raise _undecodable(call, str(odd)) from odd

    def _complain(self, call: Call, unknown: list[str]) -> tuple[str, ...]:
        said = tuple(f'unknown field "{path}"' for path in unknown)
        match call.query.get("fieldValidation", "Warn"):
            case "Ignore":
                return ()
            case "Strict" if said:
                raise _undecodable(call, f"strict decoding error: {', '.join(said)}")
        return said

    def _place(self, call: Call, meta: Object) -> None:
        if not call.kind.namespaced:
            meta.pop("namespace", None)
        elif meta.setdefault("namespace", call.namespace) != call.namespace:
            raise status.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )

    def _check_namespace(self, call: Call, name: str) -> None:
        if not call.kind.namespaced:
            return
        held = self.store.get(NAMESPACE.resource, ("", call.namespace))
        if held is None:
            raise status.not_found("", "namespaces", call.namespace)
        if held.obj["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {call.namespace} because it is being terminated"
            say = f"namespace {call.namespace} is being terminated"
            cause = Cause("NamespaceTerminating", "metadata.namespace", say)
            raise status.forbidden(call.kind.group, call.kind.plural, name, why, [cause])

    def _check_name(self, kind: Kind, meta: Object) -> list[Cause]:
        name = meta.get("name", "")
        if not name:
            return [status.required("metadata.name", "name or generateName is required")]
        return [wrong("metadata.name", name, word) for word in self._rules_of(kind).name(name)]

    def _fresh(self, kind: Kind, obj: Object) -> None:
        """What every new object gets."""
        meta = obj["metadata"]
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion"):
            meta.pop(name, None)
        meta["uid"], meta["creationTimestamp"] = str(uuid.uuid4()), self.now()
        if kind.generation:
            meta["generation"] = 1

    def _accept(self, kind: Kind, obj: Object, causes: list[Cause]) -> None:
        """Raises 422 if anything is wrong."""
        every = [*check_metadata(obj["metadata"]), *causes]
        if every:
            raise invalid(kind.group, kind.kind, obj["metadata"].get("name", ""), every)

    def _review(self, body: Any) -> Object:
        """A SelfSubjectAccessReview, answered."""
        spec = (body or {}).get("spec") or {}
        wanted = spec.get("resourceAttributes") or spec.get("nonResourceAttributes") or {}
        why = self._may(wanted)
        answer = {"allowed": why is None} | ({"reason": why} if why else {})
        return {
            "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
            "spec": spec, "status": answer,
        }  # fmt: skip


def _dry_run(call: Call) -> bool:
    options = call.body if call.verb.startswith("delete") and isinstance(call.body, dict) else {}
    given = call.query.get("dryRun") or "".join(options.get("dryRun") or ())
    if given not in ("", "All"):
        raise invalid("meta.k8s.io", "CreateOptions", "", [status.not_supported("dryRun", [given], ("All",))])
    return given == "All"


def _substance(kind: Kind, obj: Object) -> Object:
    """What metadata.generation counts the changes of: for EndpointSlices that includes the labels."""
    labels = {"labels": obj["metadata"].get("labels")} if kind.plural == "endpointslices" else {}
    own = ("metadata", "status", "kind", "apiVersion")
    return labels | {name: value for name, value in obj.items() if name not in own}


def _check_group_kind(call: Call, body: Mapping[str, Any]) -> None:
    kind = call.kind
    for name in ("kind", "apiVersion"):
        if kind.custom and call.verb != "patch" and not body.get(name):
            why = f"Object '{name[0].upper()}{name[1:]}' is missing"
            raise status.bad_request(f"the object provided is unrecognized (must be of type {kind.kind}): {why}")
    name, version = body.get("kind") or kind.kind, body.get("apiVersion") or kind.api_version
    if version != kind.api_version:
        why = f'no kind "{name}" is registered for version "{version}"'
    elif name != kind.kind:
        why = f"{name} is another kind: unknown conversion"
    else:
        return
    raise _undecodable(call, why, name, version.rpartition("/")[2])


def _undecodable(call: Call, why: str, name: str = "", version: str = "") -> Refusal:
    """A body that is no such object is a bad request; a patch that makes one is invalid."""
    kind = call.kind
    if call.verb == "patch":
        return invalid("", "", "", [wrong("patch", call.body, why)])
    said = f'{name or kind.kind} in version "{version or kind.version}" cannot be handled as a {kind.kind}: {why}'
    return status.bad_request(said)
