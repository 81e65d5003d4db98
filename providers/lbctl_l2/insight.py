"""What people see of announcing: who announces what since when, and why a node does not.

`lbctl status`, `explain` and `doctor` show it through `Plugin.insight`, `lbctl election` prints it whole. It reads the
cluster once: the Leases by the clocks, the Services with their endpoints, the pools, nothing of the wire.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from lbctl.model import IPAddress, LoadBalancer
from lbctl.provider import Harness, Sight
from lbctl_l2 import election, leases, members
from lbctl_l2.annotations import OLD
from lbctl_l2.configured import Configured
from lbctl_l2.election import Claim, Roll, Standing, Verdict
from lbctl_l2.served import Served

NAMED = 5
"""Nodes that are named where several have the same to say."""


class Look:
    """The cluster as it was a moment ago, seen by an election."""

    def __init__(self, harness: Harness) -> None:
        self.kubernetes, self.now, self.settings = harness.kubernetes, harness.now(), harness.settings
        self.supply = Served(self.kubernetes, harness.settings).look()
        self.said = members.said(self.kubernetes.objects(leases.watch(self.kubernetes.home)))
        self.services = self.kubernetes.services()
        self.claims = tuple(claim for load_balancer in self.services for claim in self._claims(load_balancer))
        self.roll = self._roll()

    def holder(self, address: IPAddress) -> tuple[str, int]:
        """(who announces it by a Lease that holds, since when); ("", 0) if nobody does."""
        holder = election.holders(self.roll.members).get(address, "")
        item = self.said.get(holder)
        if item is None or not leases.fresh(item, self.now):
            return "", 0
        return holder, item.announcing[address]

    def elected(self) -> dict[IPAddress, Standing]:
        """The election as it stands."""
        return election.elect(self.claims, self.roll)

    def drained(self, node: str) -> Roll:
        """The same roll, but this node is being drained."""
        changed = (msgspec.structs.replace(m, draining=True) if m.name == node else m for m in self.roll.members)
        return msgspec.structs.replace(self.roll, members=tuple(changed))

    def parts(self, address: IPAddress) -> tuple[Claim, ...]:
        """All Services that share the address."""
        return tuple(claim for claim in self.claims if claim.address == address)

    def _claims(self, load_balancer: LoadBalancer) -> Iterator[Claim]:
        """Of Services whose addresses lie in our pools: whether they are ours, the controller has decided."""
        known = self.kubernetes.endpoints(load_balancer.owner)
        return (c for c in election.claims(load_balancer, known) if self.supply.pool_of(c.address))

    def _roll(self) -> Roll:
        told = next(iter(self.said.values()), None)
        facts = told.facts if told else leases.Facts("")
        alive = members.by_clock(self.now)
        found = members.members(self.kubernetes.nodes(), self.said, alive, facts.drain_on, self.claims)
        return Roll(found, self.supply.advertisements, self.supply.pool_of, facts.ignores_exclusion)


class Insight:
    """See `lbctl.provider.Insight`."""

    heading = "announced by"

    def __init__(self, harness: Harness) -> None:
        self._look = Look(harness)

    def cell(self, addresses: Sequence[str]) -> str:
        """`node-1 (3m)`, one for each address; `nobody` stands where nobody does."""
        found = [item for text in addresses if (item := election.address(text)) is not None]
        return ",".join(self._cell(item) for item in found)

    def data(self, addresses: Sequence[str]) -> list[dict[str, str]]:
        """Each address with its node and since when; an empty node where nobody announces it."""
        found = [item for text in addresses if (item := election.address(text)) is not None]
        return [self._entry(item) for item in found]

    def explain(self, load_balancer: LoadBalancer) -> Iterable[Sight]:
        """Who announces each address, why not the others, and what is wrong with it."""
        for claim in election.claims(load_balancer):
            yield self._announcer(claim.address)
            yield from self._others(claim.address)
            yield from self._trouble(str(claim.address))

    def findings(self) -> Iterable[Sight]:
        """Nodes without a speaker, what speakers complain of, strangers that claim addresses; what is wrong with pools,
        and what is merely old."""
        silent = [member.name for member in self._look.roll.members if not (member.speaks and member.alive)]
        if silent:
            way = f"kubectl get pods -n {self._look.kubernetes.home} -l app.kubernetes.io/component=speaker -o wide"
            yield Sight("speakers", f"no speaker lives on {_named(silent)}", False, way)
        else:
            yield Sight("speakers", f"{len(self._look.roll.members)} nodes have one that lives", True)
        yield from self._complaints()
        yield from self._trouble("")
        yield from self._pools()
        yield from self._old_names()

    def _complaints(self) -> Iterator[Sight]:
        """What several speakers say of one thing is said once, in the first one's words."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        for name, item in sorted(self._look.said.items()):
            for problem in item.facts.problems:
                found.setdefault((problem.reason, problem.address), {}).setdefault(name, problem.message)
        for (reason, _), said in found.items():
            yield Sight("speakers", f"{_named(tuple(said))}: {reason}", False, next(iter(said.values())))

    def _pools(self) -> Iterator[Sight]:
        """All that is wrong with objects, also with those that speakers need not know (BGP)."""
        supply = Configured(self._look.kubernetes, self._look.settings).look()
        for problem in supply.problems:
            yield Sight("pools", f"{problem.kind} {problem.name}: {problem.reason}", False, problem.message)
        count = len(supply.pools)
        if not count:
            way = "make an AddressPool (its CRD comes with deploy/kustomize/bare-metal), or give --l2-addresses"
            yield Sight("pools", "there is no pool", False, way)
        elif not supply.problems:
            yield Sight("pools", f"{f'{count} pools are' if count > 1 else '1 pool is'} served, and announced", True)

    def _old_names(self) -> Iterator[Sight]:
        found = {lb.owner: names for lb in self._look.services if (names := OLD & lb.annotations.keys())}
        if found:
            said = ", ".join(sorted(frozenset().union(*found.values())))
            way = "nothing has to be done: they mean the same as those under metallb.io/"
            yield Sight("annotations", f"MetalLB's old names {said} are used by {_named(sorted(found))}", None, way)

    def _cell(self, address: IPAddress) -> str:
        holder, since = self._look.holder(address)
        return f"{holder} ({age(since, self._look.now)})" if holder else "nobody"

    def _entry(self, address: IPAddress) -> dict[str, str]:
        holder, since = self._look.holder(address)
        began = f"{datetime.fromtimestamp(since, UTC):%Y-%m-%dT%H:%M:%SZ}" if holder else ""
        return {"address": str(address), "node": holder, "since": began}

    def _announcer(self, address: IPAddress) -> Sight:
        holder, since = self._look.holder(address)
        command = f"kubectl get lease -n {self._look.kubernetes.home} {leases.name(holder)} -o yaml"
        if not holder:
            return Sight("announcer", f"nobody announces {address}", False, "lbctl election")
        return Sight("announcer", f"{holder} announces {address}, for {age(since, self._look.now)} now", True, command)

    def _others(self, address: IPAddress) -> Iterator[Sight]:
        """Those who may, in their order; those who may not, by their reason."""
        standing = self._look.elected().get(address)
        if standing is not None and standing.ranking:
            said = f"{_named(standing.ranking)} may announce {address}: the first that lives does"
            yield Sight("in order", said, True)
        for reason, found in by_reason(election.verdicts(self._look.parts(address), self._look.roll)).items():
            yield Sight(reason, f"{_named([v.node for v in found])} may not: {found[0].message}", None)

    def _trouble(self, address: str) -> Iterator[Sight]:
        for name, item in sorted(self._look.said.items()):
            for conflict in item.facts.conflicts:
                if address in ("", conflict.address):
                    text = f"{conflict.mac} answers for {conflict.address}, too, on {conflict.link} of {name}"
                    way = "find that host, or take the address out of the pool"
                    yield Sight("address-conflict", text, False, way)
            for problem in item.facts.problems:
                if address and problem.address == address:
                    yield Sight(problem.reason, f"{name}: {problem.message}", False)


def by_reason(found: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    """Nodes that may not announce an address, by why."""
    said: dict[str, list[Verdict]] = {}
    for verdict in found:
        if verdict.reason:
            said.setdefault(verdict.reason, []).append(verdict)
    return said


def age(since: int, now: datetime) -> str:
    """`12s`, `3m`, `5h` or `2d`."""
    seconds = max(0, int(now.timestamp()) - since)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
