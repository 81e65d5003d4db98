"""The announcer: a provider on the one path whose resources are the standing orders of one node's data plane.

`speaker.py` makes it once the cluster answers. What it observes are the orders given; what it desires are those that
follow from the Services' statuses, the election and the checks; applying is giving orders. A roll of the other speakers
goes with them, as a resource of its own. It never writes to Kubernetes but for the node's Lease.
"""

import logging
import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, cast

import msgspec

from lbctl.model import SHARED, Ingress, IPAddress, LoadBalancer, Owner, Resource
from lbctl.plan import Change, Kind
from lbctl.provider import Desired, Harness, Observation, Scope
from lbctl_l2 import checks, election, leases
from lbctl_l2.beginning import Beginning
from lbctl_l2.checks import Surroundings
from lbctl_l2.crds import NOTHING, Supply
from lbctl_l2.election import Claim, Member, Move, Roll, Standing
from lbctl_l2.keeper import Keeper
from lbctl_l2.leases import Said
from lbctl_l2.neighbours import Neighbours
from lbctl_l2.options import Options
from lbctl_l2.served import Served
from lbctl_l2.state import File, State
from lbctl_l2.tidings import Tidings
from lbctl_l2.values import Order, Peer, Report
from lbctl_l2.world import Plane, World

log = logging.getLogger(__name__)


class Announcer:
    """Four questions and one order, over a data plane. `resumed` is what that goes by already."""

    name = "l2"
    claims = False
    kinds: tuple[Kind, ...] = (Kind("roll"), Kind("order", after=("roll",), document="node"))

    def __init__(
        self, harness: Harness, chosen: Options, world: World, plane: Plane, file: File, resumed: State
    ) -> None:
        kubernetes = harness.kubernetes
        self._harness, self._options, self._plane, self._me = harness, chosen, plane, chosen.node
        self._lock = threading.Lock()
        self._given = {(item.owner, item.name): item for item in self._resumed(resumed)}
        self._roll_given = self._peers_resource(resumed.peers)
        self._peers = resumed.peers
        self._last = frozenset(order.address for order in resumed.orders)
        self._around: Surroundings | None = None
        self._state = msgspec.structs.replace(resumed, node=self._me, cluster=harness.cluster_id)
        self._served = Served(kubernetes, harness.settings, self._look_again, resumed.served)
        self._supply = NOTHING
        self._pool_of = self._supply.pool_of
        self._elector = election.Elector(self._me)
        self._elected: dict[IPAddress, Standing] = {}
        self._wanted: tuple[Claim, ...] = ()
        self._roll: Roll | None = None
        self._reasons: election.Reasons | None = None
        self._world, self._beginning = world, Beginning(self._me, world.monotonic())
        self._tidings = Tidings(kubernetes, chosen, world, plane, self.owners, self._known)
        self._others = Neighbours(kubernetes, chosen, world, plane, self._look_again, self._mine)
        self._keeper = Keeper(
            leases.Lease(kubernetes, self._me, harness.now), self._others.observed, self._tidings, file, world,
            moves=self._moves, check=self._check, look=self._look_around, tidy=self._tidy,
        )  # fmt: skip

    # -- the one path ------------------------------------------------------------------------------------------

    def observe(self, scope: Scope) -> Observation:
        """The orders as they were given; and who is where, whom the election is among, and how it ends."""
        self._use(self._served.look())
        self._wanted = tuple(cast("Iterable[Claim]", scope.shares))
        self._roll = roll = self._make_roll()
        self._elected = elected = self._elector.elect(self._wanted, roll)
        self._around = around = self._others.surroundings(self._pool_of)
        self._peers = peers = self._others.peers(roll.members)
        with self._lock:
            given = tuple(resource for resource in self._given.values() if scope.covers(resource.owner))
            whole = (*given, self._roll_given)
        self._look_beyond(scope)
        return Observation(scope, whole, {"elected": elected, "around": around, "peers": peers})

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        """An order for each address that somebody may announce and that nothing speaks against."""
        elected: Mapping[IPAddress, Standing] = seen.facts["elected"]
        around: Surroundings = seen.facts["around"]
        orders = (
            self._order(load_balancer.owner, elected[address])
            for load_balancer in load_balancers
            for address in dict.fromkeys(claim.address for claim in election.claims(load_balancer))
            if address in elected and self._is_to_announce(elected[address], around)
        )
        return Desired((self._peers_resource(seen.facts["peers"]), *orders))

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        """Its addresses: the election is among all of them. A Service that cannot be read claims none."""
        return () if load_balancer.problem else set(election.claims(load_balancer))

    def adopts(self, status: Sequence[Ingress]) -> bool:
        """Addresses of our pools, as of now, are ours to announce, whoever wrote them there."""
        found, pool_of = [election.address(entry.ip) for entry in status], self._served.look().pool_of
        return bool(found) and all(item is not None and bool(pool_of(item)) for item in found)

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        """Gives the data plane its orders, all that there are: it sees itself what is new. Safe to repeat."""
        with self._lock:
            for change in changes:
                self._take(change)
            self._give()
        return [change.after for change in changes]

    # -- orders ------------------------------------------------------------------------------------------------

    def _order(self, owner: Owner, standing: Standing) -> Resource:
        because = f"{standing.first} comes first" if standing.first != self._me else "this node comes first"
        return self._resource(owner, standing.address, standing.ranking, standing.interfaces, because)

    def _resource(
        self, owner: Owner, address: IPAddress, ranking: tuple[str, ...], interfaces: frozenset[str] | None, why: str
    ) -> Resource:
        ways = None if interfaces is None else tuple(sorted(interfaces))
        fields = {"address": str(address), "ranking": ranking, "interfaces": ways, "node": self._me}
        return Resource("order", f"{owner} {address}", owner, fields, because=why)

    def _resumed(self, state: State) -> Iterator[Resource]:
        for order in state.orders:
            for owner in state.owners.get(str(order.address), ()):
                yield self._resource(Owner(owner), order.address, order.ranking, order.interfaces, "the last state")

    def _peers_resource(self, peers: Iterable[Peer]) -> Resource:
        fields = {"peers": tuple((peer.name, *(_plain(link) for link in peer.links)) for peer in peers)}
        return Resource("roll", "roll", SHARED, fields, because="these speakers are there")

    def _take(self, change: Change) -> None:
        if change.kind == "roll" and change.after is not None:
            self._roll_given = change.after
        elif change.after is not None:
            self._given[change.owner, change.name] = change.after
        else:
            self._given.pop((change.owner, change.name), None)

    def _give(self) -> None:
        """All orders and the whole roll, once more past the checks: whatever happened since they were planned."""
        around = self._around or self._others.surroundings(self._pool_of)
        orders: dict[IPAddress, Order] = {}
        owners: dict[str, tuple[str, ...]] = {}
        for resource in self._given.values():
            address = ip_address(resource.fields["address"])
            if checks.fault(address, around) is None:
                orders[address] = self._standing_order(address, resource)
                owners[str(address)] = (*owners.get(str(address), ()), resource.owner)
        self._plane.orders(orders.values(), self._peers)
        nodes = tuple(sorted(map(str, around.nodes)))
        self._remember(orders=tuple(orders.values()), peers=self._peers, nodes=nodes, owners=owners)

    def _remember(self, **changes: Any) -> None:
        """For who begins anew here."""
        self._state = msgspec.structs.replace(self._state, served=self._served.objects, **changes)
        self._keeper.keep(self._state)

    def _standing_order(self, address: IPAddress, resource: Resource) -> Order:
        ways, standing = resource.fields["interfaces"], self._elected.get(address)
        return Order(
            address,
            ranking=resource.fields["ranking"],
            interfaces=None if ways is None else frozenset(ways),
            probe=standing is not None and not standing.holder,
            periodic=self._options.periodic,
        )

    # -- when to look again ------------------------------------------------------------------------------------

    def _look_again(self) -> None:
        self._harness.again(None)

    def _look_beyond(self, scope: Scope) -> None:
        """One Service's coming or going can move others' addresses: ask for a look at those, too."""
        if scope.owners is None or self._around is None:
            return
        with self._lock:
            rankings = {key: resource.fields["ranking"] for key, resource in self._given.items()}
        moved = {
            owner
            for address, standing in self._elected.items()
            if self._is_to_announce(standing, self._around)
            for owner in standing.owners
            if owner not in scope.owners and rankings.get((owner, f"{owner} {address}")) != standing.ranking
        }
        if moved:
            self._harness.again(moved)

    def _look_around(self) -> float:
        """Has anybody fallen silent, or been heard again, without a word of the cluster?"""
        roll, waited = self._roll, self._beginning.waits
        changed = roll is not None and self._make_roll().members != roll.members
        if changed or waited != self._beginning.waits:
            self._look_again()
        return self._beginning.due(self._world.monotonic())

    def _make_roll(self) -> Roll:
        found = self._others.members(self._wanted)
        self._begin(found)
        return Roll(found, self._supply.advertisements, self._pool_of, self._options.ignore_excluded)

    def _begin(self, roll: tuple[Member, ...]) -> None:
        """Nothing, once the speakers have begun."""
        if self._beginning.look(roll, self._plane.report(), self._world.monotonic()):
            log.info("nobody was here before: settles at once")
            self._plane.settle()
        if self._tidings.founds != self._beginning.founds:
            self._tidings.founds = self._beginning.founds
            self._keeper.hurry()

    def _is_to_announce(self, standing: Standing, around: Surroundings) -> bool:
        """Whether this is to be an order. What nobody announces yet may have to wait for others to come."""
        if not standing.ranking or checks.fault(standing.address, around) is not None:
            return False
        return not self._beginning.waits or bool(standing.holder) or standing.address in self._last

    def _use(self, supply: Supply) -> None:
        """What was worked out from the same pools holds. Of others the state on disk must know, whoever has orders."""
        if supply is self._supply:
            return
        self._supply, self._pool_of = supply, supply.pool_of
        with self._lock:
            self._remember()
        self._tidings.last_good = self._served.last_good
        self._keeper.hurry()

    # -- why ---------------------------------------------------------------------------------------------------

    def holder(self, address: IPAddress) -> str:
        """Who announces it by the Leases."""
        standing = self._elected.get(address)
        return standing.holder if standing is not None else ""

    def given(self, address: IPAddress, heir: str) -> str:
        """Why an address goes from here to that node, "" for no matter whom. On the data plane's thread only."""
        standing, around = self._elected.get(address), self._around
        if standing is None:
            return "no Service holds it"
        if around is not None and (fault := checks.fault(address, around)) is not None:
            return fault.message
        if heir and self._keeper.gives.get(address) == heir:
            return "for balance"
        return self._against(address, self._me, "this node is cordoned")

    def taken(self, address: IPAddress, holder: str) -> str:
        """Why one comes here from that node, which lives. On the data plane's thread only."""
        gives = next((member.gives for member in self._members() if member.name == holder), {})
        return "for balance" if gives.get(address) == self._me else self._against(address, holder, "it is cordoned")

    def _against(self, address: IPAddress, name: str, draining: str) -> str:
        """What speaks against that node."""
        if any(member.name == name and member.draining for member in self._members()):
            return draining
        if self._roll is not None and (self._reasons is None or self._reasons.roll is not self._roll):
            self._reasons = election.Reasons(self._wanted, self._roll)
        return self._reasons.why(address, name) if self._reasons is not None else ""

    # -- what is told ------------------------------------------------------------------------------------------

    def heard(self, report: Report) -> None:
        """The data plane has reported."""
        self._tidings.heard(report)
        self._keeper.hurry()

    def owners(self, address: IPAddress) -> Sequence[Owner]:
        standing = self._elected.get(address)
        return standing.owners if standing else ()

    def _known(self) -> Mapping[IPAddress, int]:
        """Since when others say that they announce what."""
        found: dict[IPAddress, int] = {}
        for member in self._members():
            for address, since in member.announces.items() if member.name != self._me else ():
                found[address] = max(found.get(address, 0), int(since))
        return found

    def _mine(self) -> Said:
        """What this node's Lease is about to say: it knows that before the others, and stands back before they come."""
        gives = {str(address): heir for address, heir in self._keeper.gives.items()}
        return Said(msgspec.structs.replace(self._tidings.facts(), gives=gives), self._tidings.listed())

    def _members(self) -> tuple[Member, ...]:
        return self._roll.members if self._roll is not None else ()

    def _moves(self) -> Sequence[Move]:
        if self._roll is None:
            return ()
        return [m for m in election.moves(self._elected, self._wanted, self._roll) if m.old == self._me]

    def _check(self) -> None:
        self._look_at_exclusions()
        # In this order: what was elected is never newer than the pools it is judged by.
        addresses = sorted(self._elected, key=str)
        try:
            self._tidings.look_for_problems(addresses, self._others.surroundings(self._pool_of))
        except OSError as error:  # An interface went meanwhile, or the kernel is slow: the Lease is kept all the same.
            log.warning("whether anything is wrong here cannot be seen", extra={"error": str(error)})

    def _tidy(self) -> None:
        self._others.tidy(self._members())

    def _look_at_exclusions(self) -> None:
        """Others see what follows from another list by the links in our Lease."""
        if self._options.exclusions.look():
            patterns = self._options.exclusions.patterns
            log.info("other interfaces are excluded", extra={"exclude_interfaces": ",".join(patterns)})
            self._plane.exclude(patterns)

    # -- its life ----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self._keeper.alive

    def start(self) -> None:
        """Follow the cluster, and keep the Lease."""
        self._others.start()
        self._keeper.start()

    def stop(self) -> None:
        """No renewal comes after this."""
        self._keeper.stop()

    def release(self) -> None:
        """Give the Lease back."""
        self._keeper.release()


def _plain(link: Any) -> tuple[Any, ...]:
    return (link.name, leases.written(link.mac), tuple(map(str, link.networks)))
