"""The difference between what ought to be and what is, in the order it can be carried out.  PURE.

`reconcile.py` calls `diff` and nothing else decides what changes. Order and replacement come from `Kind` values, which
are data of the provider. Two plans made from the same inputs are equal, and so are their digests.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from lbctl.model import SHARED, Key, Note, Owner, Ref, Refusal, Resource, refs, resolve

if TYPE_CHECKING:
    from lbctl.provider import Desired, Observation, Scope

Action = Literal["create", "update", "delete"]


class Kind(msgspec.Struct, frozen=True, gc=False):
    """What lbctl must know of a sort of resource to order and replace it.

    after       kinds that must exist before it (and outlive it)
    immutable   fields that cannot be changed in place: a difference there is a delete and a create
    document    the field that names the document it is a part of; changes to one document are applied together
    event       the reason of the one Event that tells of its creation (with its `because`), instead of Kubernetes'
                life cycle of a cloud's load balancer; `failure` likewise where its Service is refused
    streamed    one thread carries out the steps of all lanes that come to one, as they come (`provider.Streaming`);
                one kind of a stack at most
    local       to apply it takes a note in memory, and makes no call
    """

    name: str
    after: tuple[str, ...] = ()
    immutable: frozenset[str] = frozenset()
    document: str | None = None
    event: str = ""
    failure: str = ""
    streamed: bool = False
    local: bool = False


class FieldDiff(msgspec.Struct, frozen=True, gc=False):
    """One field that differs. A `Ref` in `after` is known only after apply."""

    field: str
    before: Any
    after: Any


class Change(msgspec.Struct, frozen=True, gc=False):
    """One step. `before` is None for a create, `after` for a delete.

    `outage` says that the old must go before the new can come. `not_before` is set where it waits for a time (a drain):
    then it is pending, not drift.
    """

    action: Action
    kind: str
    name: str
    owner: Owner
    before: Resource | None = None
    after: Resource | None = None
    updates: tuple[FieldDiff, ...] = ()
    because: str = ""
    outage: bool = False
    not_before: datetime | None = None

    @property
    def key(self) -> Key:
        return (self.kind, self.name)

    @property
    def diffs(self) -> tuple[FieldDiff, ...]:
        """What differs, field by field; of a create, everything."""
        if self.action == "create" and self.after is not None:
            return tuple(FieldDiff(field, None, value) for field, value in self.after.fields.items())
        return self.updates


class Plan(msgspec.Struct, frozen=True):
    """Every step, in order: a lane's steps are those of one owner, in this order.

    `pending` wait for a time. `frozen` are held back by a safety limit, which `limit` names. `known` are the outputs
    of what exists, for Refs.
    """

    changes: tuple[Change, ...] = ()
    pending: tuple[Change, ...] = ()
    frozen: tuple[Change, ...] = ()
    limit: str = ""
    refused: tuple[Refusal, ...] = ()
    notes: tuple[Note, ...] = ()
    unchanged: int = 0
    at: datetime | None = None
    known: Mapping[Key, Mapping[str, Any]] = {}

    @property
    def empty(self) -> bool:
        return not self.changes

    def lanes(self) -> dict[Owner, tuple[Change, ...]]:
        """The steps by owner, each owner's in order; `SHARED` first."""
        lanes: dict[Owner, list[Change]] = {SHARED: []}
        for change in self.changes:
            lanes.setdefault(change.owner, []).append(change)
        return {owner: tuple(steps) for owner, steps in lanes.items() if steps}

    def counts(self) -> dict[Action, int]:
        """How many creates, updates and deletes."""
        counts: dict[Action, int] = {"create": 0, "update": 0, "delete": 0}
        for change in self.changes:
            counts[change.action] += 1
        return counts

    @property
    def digest(self) -> str:
        """What this plan would do, as a SHA-256 in hex: equal for equal plans, whenever they were made."""
        steps = [(c.action, c.kind, c.name, c.owner, c.after and c.after.fields, c.before and c.before.fields)
                 for c in (*self.changes, *self.frozen)]
        return hashlib.sha256(msgspec.json.encode(steps, enc_hook=str, order="deterministic")).hexdigest()


def ranks(kinds: Sequence[Kind]) -> dict[str, int]:
    """Each kind's place in the order of creation: behind everything in its `after`. A circle is a ValueError."""
    places: dict[str, int] = {}
    waiting = list(kinds)
    while waiting:
        ready = [kind for kind in waiting if all(name in places for name in kind.after)]
        if not ready:
            raise ValueError(f"kinds need each other in a circle: {', '.join(kind.name for kind in waiting)}")
        for kind in ready:
            places[kind.name] = len(places)
        waiting = [kind for kind in waiting if kind.name not in places]
    return places


def diff(kinds: Sequence[Kind], desired: "Desired", seen: "Observation") -> Plan:
    """The plan that makes what was seen into what is desired, within the scope of the look.

    Refused owners keep what they have. Shared resources come in any pass, and go only in a fresh one over everybody:
    a narrowed look does not know who else needs them.
    """
    order = ranks(kinds)
    have = {resource.key: resource for resource in seen.resources}
    known = {key: resource.outputs for key, resource in have.items()}
    first, forward, wanted, unchanged = _compare(kinds, order, desired, have, known)
    unwanted = _unwanted([resource for key, resource in have.items() if key not in wanted], desired, seen.scope)
    in_the_way = _in_the_way(unwanted, forward)
    leaving = [_delete(r, outage=r.key in in_the_way) for r in unwanted]
    due, pending = _by_time(leaving, desired.drains, seen.scope.at)
    by_rank = _by_rank(order)
    return Plan(
        changes=(
            *sorted((c for c in (*first, *due) if c.outage), key=by_rank, reverse=True),
            *sorted(forward, key=by_rank),
            *sorted((c for c in due if not c.outage), key=by_rank, reverse=True),
        ),
        pending=tuple(sorted(pending, key=by_rank, reverse=True)),
        refused=desired.refused,
        notes=desired.notes,
        unchanged=unchanged,
        at=seen.scope.at,
        known=known,
    )


def _by_rank(order: Mapping[str, int]) -> "Any":
    return lambda change: (order[change.kind], change.owner, change.name)


def _compare(
    kinds: Sequence[Kind],
    order: Mapping[str, int],
    desired: "Desired",
    have: Mapping[Key, Resource],
    known: dict[Key, Mapping[str, Any]],
) -> tuple[list[Change], list[Change], set[Key], int]:
    """(deletes that make way for their own successor, creates and updates, all wanted keys, how many are right).

    In the order of creation, so that whoever refers to a replaced resource sees its Ref unknown, and is replaced or
    updated in turn.
    """
    immutable = {kind.name: kind.immutable for kind in kinds}
    first: list[Change] = []
    forward: list[Change] = []
    wanted: set[Key] = set()
    unchanged = 0
    for want in sorted(desired.resources, key=lambda r: order[r.kind]):
        key = want.key
        if key in wanted:
            raise ValueError(f"two resources are called {want.kind}/{want.name}: names must not collide")
        wanted.add(key)
        old = have.get(key)
        if old is None:
            forward.append(_create(want))
            continue
        diffs = _differences(want, old, known)
        if not diffs:
            unchanged += 1
        elif old.owner != want.owner or any(d.field in immutable[want.kind] for d in diffs):
            known.pop(key, None)
            first.append(_delete(old, outage=True))
            forward.append(_create(want, outage=True))
        else:
            forward.append(Change("update", want.kind, want.name, want.owner, old, want, diffs, want.because))
    return first, forward, wanted, unchanged


def _differences(want: Resource, have: Resource, known: Mapping[Key, Mapping[str, Any]]) -> tuple[FieldDiff, ...]:
    diffs = []
    for field, value in want.fields.items():
        old = have.fields.get(field)
        # Only what differs as it stands can differ because of a Ref: most fields need no second look.
        if value != old and (now := resolve(value, known)) != old:
            diffs.append(FieldDiff(field, old, now))
    return tuple(diffs)


def _unwanted(surplus: Sequence[Resource], desired: "Desired", scope: "Scope") -> list[Resource]:
    """What may go. Refused owners keep everything; shared things stay while anything lingers that may need them."""
    refused = {refusal.owner for refusal in desired.refused}
    lingers = any(r.owner in refused or r.key in desired.drains for r in surplus)
    shared_may_go = scope.owners is None and scope.fresh and not lingers
    return [
        r for r in surplus
        if (shared_may_go if r.owner == SHARED else scope.covers(r.owner) and r.owner not in refused)
    ]


def _in_the_way(unwanted: Sequence[Resource], forward: Iterable[Change]) -> set[Key]:
    """Old resources that hold what a new one needs (a port, an address), and whatever refers to nothing else."""
    if not unwanted:
        return set()
    needed = {(c.owner, hold) for c in forward if c.after for hold in c.after.holds}
    return {r.key for r in unwanted if any((r.owner, hold) in needed for hold in r.holds)}


def _by_time(
    changes: Iterable[Change], drains: Mapping[Key, datetime], at: datetime
) -> tuple[list[Change], list[Change]]:
    due: list[Change] = []
    pending: list[Change] = []
    for change in changes:
        until = drains.get(change.key)
        if until is None or until <= at or change.outage:
            due.append(change)
        else:
            pending.append(msgspec.structs.replace(change, not_before=until))
    return due, pending


def _create(want: Resource, *, outage: bool = False) -> Change:
    return Change("create", want.kind, want.name, want.owner, None, want, (), want.because, outage)


def _delete(old: Resource, *, outage: bool = False) -> Change:
    because = "makes way for its replacement" if outage else "nothing wants it any more"
    return Change("delete", old.kind, old.name, old.owner, old, None, (), because, outage)


def waits_for(change: Change) -> tuple[Ref, ...]:
    """The Refs that must be filled in before the change can be applied."""
    return refs(change.after.fields) if change.after else ()
