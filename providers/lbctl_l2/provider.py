"""The controller's part of bare metal: gives Services addresses out of pools.

What it makes is an entry in a Service's status, so there is nothing to clean up and no finalizer. `observe` reads who
has which address, and what the pools have to give (`ledger.py`, `configured.py`); what every Service ought to have is
worked out there (`allocation.allocate`, a pure function of the Book) and is a fact like an election's. `desired` says
it in resources, one per address; `apply` remembers a promise, and the stack's status part makes the one write. A
Service that moves gets its new address first, and gives the old one up once its status says so.
"""

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from itertools import chain

from lbctl.model import DEGRADED, SHARED, Ingress, IPAddress, LoadBalancer, Node, Note, Owner, Ref, Refusal, Resource
from lbctl.plan import Change, Kind
from lbctl.provider import Desired, Harness, Observation, Scope
from lbctl_l2.allocation import allocate
from lbctl_l2.announcing import Announcing
from lbctl_l2.configured import Configured
from lbctl_l2.crds import Problem
from lbctl_l2.election import address
from lbctl_l2.ledger import ADDRESS, Ask, Ledger
from lbctl_l2.pool import Outcome, family
from lbctl_l2.usage import Reporter

log = logging.getLogger(__name__)


class AddressProvider:
    """Four questions and one order; see `lbctl.provider.Provider`."""

    name = "l2"
    claims = False
    kinds: tuple[Kind, ...] = (Kind(ADDRESS, event="IPAllocated", failure="AllocationFailed", local=True),)

    def __init__(self, harness: Harness) -> None:
        self._kubernetes, self._again = harness.kubernetes, harness.again
        self._nodes: tuple[Node, ...] = ()
        self._nodes_changed = True
        self._waiting: frozenset[Owner] = frozenset()
        self._conflicts: frozenset[Note] = frozenset()
        self._logged: frozenset[Problem] = frozenset()
        self._configured = Configured(harness.kubernetes, harness.settings, lambda: harness.again(None))
        self._ledger = Ledger(harness.kubernetes)
        self._announcing = Announcing(harness.kubernetes, harness.settings, harness.again)
        self._reporter = Reporter(harness.kubernetes, harness.again)
        harness.kubernetes.follow_nodes(self._hear_of_nodes)
        harness.kubernetes.follow_holders(self._hear_of_service)

    # -- the contract -------------------------------------------------------------------------------------------

    def observe(self, scope: Scope) -> Observation:
        """Who has which address, and what everybody in scope ought to have."""
        supply, ledger = self._configured.look(), self._ledger
        self._log(supply.problems)
        ledger.look(scope, supply, self._known_nodes())
        found = allocate(ledger.book, scope.owners, scope.at)
        outcomes = {owner: outcome for owner, outcome in found.items() if owner not in ledger.silent}
        kept = {owner: own for owner in ledger.silent if owner in found and (own := self._kept(owner)) is not None}
        refused = {owner: no for owner, no in ledger.refused.items() if scope.covers(owner)}
        self._remember_waiting(scope, outcomes)
        self._look_at_bereft(scope)
        resources = tuple(
            _resource(owner, str(held))
            for owner in (ledger.book.requests if scope.owners is None else sorted(scope.owners))
            if owner in outcomes
            for held in ledger.book.requests[owner].held
        )
        resources += tuple(_resource(owner, str(held)) for owner, own in sorted(kept.items()) for held in own)
        announcing = self._announcing.notes(scope, outcomes, supply, self._nodes)
        notes = (*self._conflicting(), *announcing, *(_problems(supply.problems) if scope.owners is None else ()))
        self._reporter.look(self._configured, ledger, scope)
        return Observation(scope, resources, {"outcomes": outcomes, "refused": refused, "kept": kept, "notes": notes})

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        """An address of each family that a Service asks for, or why it gets none."""
        outcomes: Mapping[Owner, Outcome] = seen.facts["outcomes"]
        contradictory: Mapping[Owner, Refusal] = seen.facts["refused"]
        held: dict[Owner, list[IPAddress]] = {}
        for resource in seen.resources:
            held.setdefault(resource.owner, []).append(ip_address(resource.fields["address"]))
        kept: Mapping[Owner, tuple[IPAddress, ...]] = seen.facts["kept"]
        asking = {lb.owner for lb in load_balancers}
        given = [outcomes[lb.owner] for lb in load_balancers if lb.owner in outcomes]
        served = [outcome for outcome in given if outcome.refusal is None]
        wanted = {outcome.owner: tuple(_wanted(outcome, held.get(outcome.owner, ()))) for outcome in served}
        noted = (note for note in seen.facts["notes"] if note.owner in asking or note.owner == SHARED)
        return Desired(
            resources=tuple(chain.from_iterable(wanted.values())),
            refused=(
                *(outcome.refusal for outcome in given if outcome.refusal is not None),
                *(refusal for owner, refusal in contradictory.items() if owner in asking),
            ),
            notes=(*chain.from_iterable(outcome.notes for outcome in served), *noted),
            addresses={owner: _refs(own) for owner, own in wanted.items()},
            keeps={
                outcome.owner: _named(outcome.owner, outcome.addresses)
                for outcome in given
                if outcome.refusal is not None and not set(held.get(outcome.owner, ())) <= set(outcome.addresses)
            }
            | {owner: _named(owner, own) for owner, own in kept.items()},
        )

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        """All that it asks for: who gets which address depends on everybody."""
        return (Ask.of(load_balancer),)

    def adopts(self, status: Sequence[Ingress]) -> bool:
        """Addresses of our pools are ours to give, whoever gave them before."""
        supply = self._configured.look()
        found = [address(entry.ip) for entry in status]
        return bool(found) and all(item is not None and supply.pool_of(item) for item in found)

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        """Remember it. What makes it true is the status."""
        return [self._apply(change) for change in changes]

    def _apply(self, change: Change) -> Resource | None:
        resource = change.after or change.before
        assert resource is not None
        held = ip_address(resource.fields["address"])
        if change.after is None:
            self._ledger.give_up(change.owner, held)
        else:
            self._ledger.promise(change.owner, held)
        self._reporter.ask()
        return change.after

    def _kept(self, owner: Owner) -> tuple[IPAddress, ...] | None:
        """What is its own of a refused Service's addresses; None if all are."""
        book = self._ledger.book
        request = book.requests[owner]
        own = book.rightful(request)
        return own if own != request.held else None

    # -- what happens around us ---------------------------------------------------------------------------------

    def _hear_of_nodes(self) -> None:
        self._nodes_changed = True

    def _known_nodes(self) -> tuple[Node, ...]:
        if self._nodes_changed:
            self._nodes_changed = False
            self._nodes = self._kubernetes.nodes()
        return self._nodes

    def _hear_of_service(self, owner: Owner, load_balancer: LoadBalancer | None) -> None:
        """What a stranger takes or leaves in our pools may be what somebody waits for, or a conflict to be told."""
        changed = self._ledger.told(owner, load_balancer)
        if any(self._configured.supply.pool_of(address) for address in changed):
            self._again((owner, *self._waiting))

    def _log(self, problems: tuple[Problem, ...]) -> None:
        """What is wrong with pools and advertisements, once. (MetalLB's have no status of ours to say it in.)"""
        for problem in frozenset(problems) - self._logged:
            fields = {"kind": problem.kind, "object": problem.name, "reason": problem.reason, "error": problem.message}
            log.warning("not served as it stands", extra=fields)
        self._logged = frozenset(problems)

    def _remember_waiting(self, scope: Scope, outcomes: Mapping[Owner, Outcome]) -> None:
        stays = (owner for owner in self._waiting if not scope.covers(owner))
        asks = self._ledger.book.requests
        lacking = (
            owner for owner, outcome in outcomes.items()
            if outcome.refusal is not None or len(outcome.addresses) < len(asks[owner].families)
        )
        self._waiting = frozenset((*stays, *lacking))

    def _look_at_bereft(self, scope: Scope) -> None:
        """Sharers parted, or an older holder appeared: whoever lost its address by that is to get another one."""
        bereft = {owner for owner in self._ledger.book.bereft if not scope.covers(owner)}
        self._ledger.book.bereft.clear()
        if bereft:
            self._again(bereft)

    def _conflicting(self) -> tuple[Note, ...]:
        """externalIPs that name addresses of our pools. Whom we do not serve gets no condition, but an Event."""
        notes = self._ledger.book.conflicts() if self._ledger.external else ()
        for note in sorted(frozenset(notes) - self._conflicts, key=lambda note: (note.owner, note.message)):
            if note.owner not in self._ledger.book.requests or note.owner in self._ledger.silent:
                self._kubernetes.event(note.owner, "Warning", "ExternalIPConflict", note.message)
        self._conflicts = frozenset(notes)
        return notes


def _refs(resources: Iterable[Resource]) -> tuple[Ref, ...]:
    return tuple([Ref(ADDRESS, resource.name, "ip") for resource in resources])


def _named(owner: Owner, addresses: Iterable[IPAddress]) -> tuple[Ref, ...]:
    return _refs(_resource(owner, str(address)) for address in addresses)


def _resource(owner: Owner, text: str, because: str = "") -> Resource:
    return Resource(ADDRESS, f"{owner} {text}", owner, {"address": text}, {"ip": text}, because=because)


def _problems(found: Iterable[Problem]) -> Iterable[Note]:
    """What is wrong with pools and advertisements is nobody's in particular, and everybody's who plans."""
    return (Note(SHARED, DEGRADED, p.reason, f"{p.kind} {p.name}: {p.message}") for p in found)


def _wanted(outcome: Outcome, held: Sequence[IPAddress]) -> Iterable[Resource]:
    for given, pool in zip(outcome.addresses, outcome.pools, strict=True):
        left = (old for old in held if old not in outcome.addresses and family(old) == family(given))
        moved = "" if given in held else "".join(f", instead of {old}" for old in left)
        text = str(given)
        yield _resource(outcome.owner, text, f"{text} from pool {pool}{moved}")
