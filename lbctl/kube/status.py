"""The status: addresses and conditions on a Service, as the last part of a stack.

A provider like any other: what it wants refers to the cloud's outputs, so it is written once they exist, and a status
that somebody wiped is drift. One PATCH per write, none when nothing differs. Rules:

| the Service is           | addresses                 | Ready                                   |
|--------------------------|---------------------------|-----------------------------------------|
| served                   | the provider's            | True `ready`                            |
| served, last lane failed | as they are               | False, why it failed                    |
| refused                  | as they are, or what the  | False, why                              |
|                          | provider leaves it        |                                         |
| fought over              | as they are               | False `OwnershipConflict`               |
| being deleted            | not looked at, never written                                        |
| no longer ours           | cleared, if ours to clear | all three conditions removed            |
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from lbctl.errors import LbctlError, Retry, Unavailable
from lbctl.kube import conditions, read
from lbctl.kube.claims import Writer, _now
from lbctl.kube.client import Client, Invalid, NotFound, as_retry
from lbctl.kube.objects import Service
from lbctl.kube.store import Store
from lbctl.model import DEGRADED, READY, SERVING, Ingress, LoadBalancer, Note, Owner, Ref, Resource
from lbctl.plan import Change, Kind
from lbctl.provider import Answered, Desired, Observation, Scope

if TYPE_CHECKING:
    from lbctl.stack import Outcome

KIND = "status"
CONFLICT = "OwnershipConflict"
AT_ONCE = 32
"""Writes on their way at a time: they share what the API server's store does for each of its own turns."""

Said = tuple[str, str, str]
"""A condition without its type: (status, reason, message)."""


class Current(msgspec.Struct, frozen=True):
    """What a Service's status says now."""

    ingress: tuple[Mapping[str, Any], ...]
    conditions: Mapping[str, Said]
    version: str


class Written(msgspec.Struct):
    """What we wrote last for an owner, and how often somebody overwrote it lately (monotonic seconds)."""

    ingress: tuple[Mapping[str, Any], ...]
    asked: int
    ours: bool = True
    overwritten: tuple[float, ...] = ()
    conflict: bool = False


class Rivals:
    """Remembers our own writes, to notice somebody who writes against us: twice within a minute is a conflict.

    It lasts until the Service asks for something else, or somebody may have stopped the other: after ten minutes we try
    again, at the next look. In memory only: after a restart the fight has to show again.
    """

    WINDOW, PEACE = 60.0, 600.0
    """Seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._written: dict[Owner, Written] = {}

    def wrote(self, owner: Owner, service: Service) -> None:
        """Our own write took effect: this is what it left."""
        with self._lock:
            old = self._written.get(owner)
            asked = read.fingerprint(service)
            fresh = Written(_ingress(service), asked)
            if old is not None and old.asked == asked:
                fresh.overwritten, fresh.conflict = old.overwritten, old.conflict
            self._written[owner] = fresh

    def forget(self, owner: Owner) -> None:
        """We do not know what is there (no clear answer), or there is nothing to remember."""
        with self._lock:
            self._written.pop(owner, None)

    def fought_over(self, owner: Owner, service: Service) -> bool:
        """Is somebody writing against us? Ask at every look."""
        with self._lock:
            memory = self._written.get(owner)
            if memory is None:
                return False
            if memory.asked != read.fingerprint(service):
                del self._written[owner]
                return False
            now = self._clock()
            if memory.conflict and now - memory.overwritten[-1] >= self.PEACE:
                memory.overwritten, memory.conflict = (), False
            if memory.ours and _ingress(service) != memory.ingress:
                memory.ours = False
                memory.overwritten = (*(t for t in memory.overwritten if now - t < self.WINDOW), now)
                memory.conflict = memory.conflict or len(memory.overwritten) >= 2
            return memory.conflict


class Statuses:
    """The statuses of one provider's stack.

    `guard` makes a write of addresses carry the resourceVersion that its plan was made from: a 409 means plan again
    (bare metal, where two controllers must not give one address twice). `at_once` writes are on their way at a time.
    """

    name = "status"
    kinds: tuple[Kind, ...] = (Kind(KIND, streamed=True),)
    claims = False

    def __init__(
        self,
        client: Client,
        services: Store[Service],
        provider: str = "aws",
        *,
        default_provider: str | None = None,
        guard: bool = False,
        at_once: int = AT_ONCE,
        now: Callable[[], datetime] = _now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = Writer(client, services, now)
        self._services, self._provider, self._default, self._guard = services, provider, default_provider, guard
        self._at_once = at_once
        self._rivals = Rivals(clock)

    # -- the look -----------------------------------------------------------------------------------------------

    def observe(self, scope: Scope) -> Observation:
        """The statuses that are ours, from the store.

        Facts: `current` (what the wanted Services' statuses say now, whoever wrote it) and `conflicts` (owners whose
        status somebody else keeps writing).
        """
        current: dict[Owner, Current] = {}
        resources: list[Resource] = []
        conflicts: set[Owner] = set()
        for owner, service in self._services_of(scope):
            if service.metadata.deletion_timestamp is not None:
                self._rivals.forget(owner)
                continue
            wanted = read.wants(service, provider=self._provider, default_provider=self._default)
            if wanted:
                current[owner] = _current(service)
                if self._rivals.fought_over(owner, service):
                    conflicts.add(owner)
            if conditions.of(service) and (wanted or self._left_behind(service)):
                resources.append(_resource(owner, _current(service)))
        return Observation(scope, tuple(resources), {"current": current, "conflicts": frozenset(conflicts)})

    def _services_of(self, scope: Scope) -> Iterable[tuple[Owner, Service]]:
        if scope.owners is None:
            return ((read.owner(service), service) for service in self._services.all())
        found = {owner: self._services.get(owner) for owner in sorted(scope.owners)}
        for owner in (owner for owner, service in found.items() if service is None):
            self._rivals.forget(owner)
        return [(owner, service) for owner, service in found.items() if service is not None]

    def _left_behind(self, service: Service) -> bool:
        """Are our conditions on a Service that is no longer ours? Those of another provider's stack are its own."""
        if read.claimed(service, self._provider):
            return True
        others = any(name.startswith("lbctl.io/") for name in service.metadata.finalizers or ())
        return service.spec.type != "LoadBalancer" and not others

    # -- what ought to be ---------------------------------------------------------------------------------------

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        """One status for every owner that is wanted, served or refused; pure."""
        outcome: Outcome = seen.facts["outcome"]
        by_owner = {lb.owner: lb for lb in load_balancers}
        nodes: dict[int, frozenset[str]] = {}
        resources = []
        for owner, current in seen.facts["current"].items():
            if owner in outcome.serving or owner in outcome.refused:
                lb = by_owner.get(owner)
                if lb is not None and id(lb.nodes) not in nodes:
                    nodes[id(lb.nodes)] = frozenset(node.name for node in lb.nodes)
                names = nodes[id(lb.nodes)] if lb is not None else frozenset[str]()
                resources.append(self._want(owner, lb, names, current, outcome, seen))
            elif current.conditions:
                # Wanted, but this look says nothing about it: it stays as it is.
                resources.append(_resource(owner, current))
        return Desired(tuple(resources))

    def _want(
        self,
        owner: Owner,
        lb: LoadBalancer | None,
        nodes: frozenset[str],
        current: Current,
        outcome: "Outcome",
        seen: Observation,
    ) -> Resource:
        ready, keeps = self._ready(owner, outcome, seen)
        notes = outcome.notes.get(owner, ())
        said: dict[str, Said | None] = {READY: ready}
        said[DEGRADED] = current.conditions.get(DEGRADED) if keeps else _noted(notes, DEGRADED, "True")
        said[SERVING] = _serving(lb, nodes, notes) if lb is not None else None
        if keeps:
            said[SERVING] = _kept_serving(current, said[SERVING])
        if ready[1] == read.SERVED_ELSEWHERE:
            said = {READY: ready}
        refs = outcome.keeps.get(owner) if keeps else outcome.addresses.get(owner, ())
        ingress = current.ingress if refs is None else tuple(map(_entry, refs))
        wanted = {kind: value for kind, value in said.items() if value is not None}
        return _resource(owner, Current(ingress, wanted, current.version), "says where the Service is reached")

    def _ready(self, owner: Owner, outcome: "Outcome", seen: Observation) -> tuple[Said, bool]:
        """(the Ready condition, whether the addresses stay as they are)."""
        if (refusal := outcome.refused.get(owner)) is not None:
            return _said("False", refusal.reason, refusal.message), True
        if owner in seen.facts["conflicts"]:
            message = (
                "somebody else keeps writing status.loadBalancer: stop the other controller or give the Service a "
                "loadBalancerClass; lbctl tries again at its first audit after ten minutes, and as soon as its spec or "
                "annotations change"
            )
            return _said("False", CONFLICT, message), True
        if (failure := seen.scope.failures.get(owner)) is not None:
            return _said("False", failure.reason, failure.message), True
        return _IS_READY, False

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        return ()

    def adopts(self, status: Sequence[Ingress]) -> bool:
        return False

    # -- the write ----------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        """Safe to repeat: what is right already is not written."""
        answers: dict[Owner, Resource | Exception | None] = {}
        self.bring(iter(changes), answers.__setitem__)
        return [answers[change.owner] for change in changes]

    def bring(self, changes: Iterator[Change | None], answered: Answered) -> None:
        """The same for as many as come, on this thread alone: see `Streaming`."""
        flying: dict[Owner, Change] = {}
        try:
            with closing(self._writer.patch_all(self._needed(changes, flying, answered), self._at_once)) as answers:
                for service, written in answers:
                    change = flying.pop(read.owner(service))
                    answered(change.owner, self._outcome(change, written))
        finally:
            # Broken off: as without an answer.
            for owner in flying:
                self._rivals.forget(owner)

    def _needed(
        self, changes: Iterator[Change | None], flying: dict[Owner, Change], answered: Answered
    ) -> Iterator[tuple[Service, Mapping[str, Any]] | None]:
        """What has to be written. What is right already is answered at once."""
        for change in changes:
            if change is None:
                yield None
                continue
            if change.after is None:
                self._rivals.forget(change.owner)
            service = self._writer.get(change.owner)
            patch: Mapping[str, Any] = {}
            if service is not None and service.metadata.deletion_timestamp is None:
                patch = self._clearing(service) if change.after is None else self._patch(service, change.after)
            if service is not None and patch:
                flying[change.owner] = change
                yield service, patch
            else:
                answered(change.owner, self._right(change, service))

    def _right(self, change: Change, service: Service | None) -> Resource | None:
        """It is as it ought to be, or there is nothing to write it on."""
        if change.after is not None and service is not None and service.metadata.deletion_timestamp is None:
            self._rivals.wrote(change.owner, service)
        return change.after

    def _outcome(self, change: Change, written: Service | LbctlError) -> Resource | Exception | None:
        if isinstance(written, Service):
            return self._right(change, written)
        if isinstance(written, NotFound) or (isinstance(written, Invalid) and change.after is None):
            return change.after
        if isinstance(written, Invalid):
            # Of another type by now, or another Service of this name: the plan was made for a Service that is gone.
            return Retry(1.0, f"the Service changed under the plan: {written.message}", reason="conflict")
        answer = as_retry(written)
        if isinstance(answer, Unavailable):
            # It may have taken effect all the same: then what is there is ours, not a rival's.
            self._rivals.forget(change.owner)
        return answer

    def _patch(self, service: Service, want: Resource) -> dict[str, Any]:
        """Only what differs. A condition that is no longer wanted is deleted by its type."""
        have, wanted = conditions.of(service), want.fields["conditions"]
        now = self._writer.now()
        entries: list[Mapping[str, str]] = [
            conditions.written((kind, *said), service, now) for kind, said in wanted.items() if have.get(kind) != said
        ]
        entries += [{"type": kind, "$patch": "delete"} for kind in have if kind not in wanted]
        status: dict[str, Any] = {"conditions": entries} if entries else {}
        patch: dict[str, Any] = {}
        if _ingress(service) != want.fields["ingress"]:
            status["loadBalancer"] = {"ingress": list(want.fields["ingress"]) or None}
            version = want.outputs.get("resourceVersion", "")
            patch = {"metadata": {"resourceVersion": version}} if self._guard and version else {}
        return {**patch, "status": status} if status else {}

    def _clearing(self, service: Service) -> dict[str, Any]:
        """Takes our conditions away, and our addresses where nobody else can have written them."""
        status: dict[str, Any] = {
            "conditions": [{"type": kind, "$patch": "delete"} for kind in conditions.of(service)]
        }
        # The API server blanks the addresses itself when the type changes; under another class they are another's.
        if _ours_to_clear(service):
            status["loadBalancer"] = {"ingress": None}
        return {"status": status}


def _ours_to_clear(service: Service) -> bool:
    ready = service.conditions.get(READY)
    if not service.ingress or service.spec.type != "LoadBalancer" or service.spec.load_balancer_class:
        return False
    return ready is not None and ready.reason not in (CONFLICT, read.SERVED_ELSEWHERE)


def _ingress(service: Service) -> tuple[Mapping[str, Any], ...]:
    return tuple(read.normal(entry) for entry in service.ingress)


def _current(service: Service) -> Current:
    return Current(_ingress(service), conditions.of(service), service.metadata.resource_version)


def _resource(owner: Owner, current: Current, because: str = "") -> Resource:
    fields = {"ingress": current.ingress, "conditions": dict(current.conditions)}
    return Resource(KIND, owner, owner, fields, {"resourceVersion": current.version}, because=because)


def _entry(ref: Ref) -> dict[str, Any]:
    return {"hostname": ref} if ref.output == "hostname" else {"ip": ref, "ipMode": "VIP"}


def _said(status: str, reason: str, message: str) -> Said:
    kept = conditions.make(READY, "True" if status == "True" else "False", reason, message)
    return kept[1:]


_IS_READY = _said("True", "ready", "the load balancer is ready")


def _noted(notes: Sequence[Note], kind: str, status: str) -> Said | None:
    """All notes of one type as one condition: the first one's reason, everybody's sentence."""
    if not notes:
        return None
    chosen = sorted((n for n in notes if n.condition == kind), key=lambda n: (n.reason, n.message))
    return _said(status, chosen[0].reason, "; ".join(n.message for n in chosen)) if chosen else None


_FROM_HERE = ("no-nodes", "no-endpoints", "no-local-endpoints")


def _kept_serving(current: Current, pure: Said | None) -> Said | None:
    """Where the provider was not heard, its own word stays; ours is brought up to date; no address needs none."""
    if not current.ingress:
        return None
    old = current.conditions.get(SERVING)
    provider_said = old is not None and old[0] == "False" and old[1] not in _FROM_HERE
    return old if provider_said and (pure is None or pure[0] == "True") else pure


def look(owner: Owner) -> str:
    """The end of a condition's message where one Service has to be looked at. `lbctl explain` itself leaves it out."""
    return f": run lbctl explain {owner}"


def _serving(lb: LoadBalancer, nodes: frozenset[str], notes: Sequence[Note]) -> Said | None:
    """Does the address lead anywhere? None where the endpoints are unknown and no provider's note says more."""
    if not lb.nodes:
        return _said("False", "no-nodes", "no node may receive traffic: see kubectl get nodes")
    if lb.endpoints is not None and not lb.endpoints.ready:
        return _said("False", "no-endpoints", f"no pod behind it is ready{look(lb.owner)}")
    if lb.endpoints is not None and lb.external_traffic_policy == "Local" and not lb.endpoints.nodes & nodes:
        message = f"externalTrafficPolicy is Local, and no eligible node has a ready pod{look(lb.owner)}"
        return _said("False", "no-local-endpoints", message)
    noted = _noted(notes, SERVING, "False")
    if noted is not None or lb.endpoints is None:
        return noted
    return _said("True", "serving", "ready pods receive traffic")
