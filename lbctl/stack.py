"""Several providers seen as one: claim, cloud, status; created in that order, deleted in reverse.  PURE.

Kubernetes is a provider too. The claim (our finalizer) comes first and goes last; the status refers to the cloud's
outputs. So there is no publish step and no finalizer code anywhere else: a new Service plans as `create claim,
create …, create status`, and its deletion is that list backwards.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import cast

import msgspec

from lbctl.model import LoadBalancer, Note, Owner, Ref, Refusal, Resource
from lbctl.plan import Change, Kind, Plan, diff
from lbctl.provider import Answered, Desired, Observation, Provider, Scope, Streaming


class Outcome(msgspec.Struct, frozen=True):
    """What the cloud's desired came to: the fact `outcome` that the claim and the status are desired from.

    `refused` holds those refused before the provider was asked, too. `addresses` are Refs into the cloud's resources,
    `keeps` those that are left of a refused owner's (see `Desired`).
    """

    serving: frozenset[Owner]
    refused: Mapping[Owner, Refusal]
    notes: Mapping[Owner, tuple[Note, ...]]
    addresses: Mapping[Owner, tuple[Ref, ...]]
    keeps: Mapping[Owner, tuple[Ref, ...]] = {}


class Stack:
    """One provider between its claim and its status, either of which may be missing."""

    def __init__(self, provider: Provider, claims: Provider | None = None, status: Provider | None = None) -> None:
        self.provider, self.claims, self.status = provider, claims, status
        self.name = provider.name
        self.parts = tuple(part for part in (claims, provider, status) if part is not None)
        self.kinds = _stacked(self.parts)
        self._part_of = {kind.name: part for part in self.parts for kind in part.kinds}

    def observe(self, scope: Scope) -> Observation:
        """Every part's look in one. The facts of the whole are the looks of its parts, by name."""
        looks = {part.name: part.observe(scope) for part in self.parts}
        resources = tuple(chain.from_iterable(look.resources for look in looks.values()))
        return Observation(scope, resources, looks)

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        """The provider's word first; the claim and the status follow from it."""
        cloud = self.provider.desired(load_balancers, seen.facts[self.provider.name])
        outcome = self._outcome(load_balancers, cloud, seen.scope)
        others = [self._around(part, load_balancers, seen, outcome) for part in (self.claims, self.status) if part]
        return _together([cloud, *others], tuple(outcome.refused.values()))

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        return self.provider.shares(load_balancer)

    def telling(self, scope: Scope) -> Plan:
        """The plan for the statuses alone: what `scope.failures` has to be said of, without a look at the cloud."""
        if self.status is None:
            return Plan()
        outcome = Outcome(frozenset(lb.owner for lb in scope.load_balancers), {}, {}, {})
        look = self.status.observe(scope)
        facts = {**look.facts, "outcome": outcome}
        desired = self.status.desired(scope.load_balancers, msgspec.structs.replace(look, facts=facts))
        return diff(self.status.kinds, desired, look)

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        """Carried out by the part whose kind it is. Several changes are always of one kind (one document)."""
        return self._part_of[changes[0].kind].apply(changes)

    def bring(self, changes: Iterator[Change | None], answered: Answered) -> None:
        """Carried out as they come, by the part whose streamed kind they are."""
        kind = next(kind.name for kind in self.kinds if kind.streamed)
        cast("Streaming", self._part_of[kind]).bring(changes, answered)

    def _outcome(self, load_balancers: Sequence[LoadBalancer], cloud: Desired, scope: Scope) -> Outcome:
        refused = {refusal.owner: refusal for refusal in (*cloud.refused, *scope.refused)}
        serving = [lb for lb in load_balancers if lb.owner not in refused]
        notes: dict[Owner, tuple[Note, ...]] = {}
        for note in cloud.notes:
            notes[note.owner] = (*notes.get(note.owner, ()), note)
        addresses = {lb.owner: cloud.addresses.get(lb.owner, ()) for lb in serving}
        return Outcome(frozenset(lb.owner for lb in serving), refused, notes, addresses, cloud.keeps)

    def _around(
        self, part: Provider, load_balancers: Sequence[LoadBalancer], seen: Observation, outcome: Outcome
    ) -> Desired:
        look: Observation = seen.facts[part.name]
        return part.desired(load_balancers, msgspec.structs.replace(look, facts={**look.facts, "outcome": outcome}))


def _stacked(parts: Sequence[Provider]) -> tuple[Kind, ...]:
    """All kinds, each after everything of the part before its own."""
    kinds: list[Kind] = []
    below: tuple[str, ...] = ()
    for part in parts:
        kinds += [msgspec.structs.replace(kind, after=(*kind.after, *below)) for kind in part.kinds]
        below = tuple(kind.name for kind in part.kinds) or below
    if len({kind.name for kind in kinds}) < len(kinds):
        raise ValueError(f"two kinds of one name in the stack of {', '.join(part.name for part in parts)}")
    return tuple(kinds)


def _together(parts: Sequence[Desired], refused: tuple[Refusal, ...]) -> Desired:
    return Desired(
        resources=tuple(chain.from_iterable(part.resources for part in parts)),
        refused=refused,
        drains={key: until for part in parts for key, until in part.drains.items()},
        notes=tuple(chain.from_iterable(part.notes for part in parts)),
        releases=frozenset(chain.from_iterable(part.releases for part in parts)),
    )
