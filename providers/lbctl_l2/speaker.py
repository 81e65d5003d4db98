"""A node's speaker: gives its data plane standing orders, and tells the others by the node's Lease.

`lbctl speaker` makes a `Speaker` before any cluster is known: the data plane starts with the last state that is on
disk. Once the cluster answers, `join` makes the `Announcer`, a provider on the one path: what it observes are the
orders given, what it desires are those that follow from the Services' statuses and the election, and applying is giving
orders. A thread of its own keeps the Lease. Whoever answers for an address never waits for anything here.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from lbctl.cluster import Object
from lbctl.errors import LbctlError
from lbctl.model import SHARED, Ingress, IPAddress, LoadBalancer, Node, Owner, Resource
from lbctl.plan import Change, Kind
from lbctl.provider import Desired, Figure, Harness, Observation, Scope
from lbctl_l2 import checks, election, leases, members, netlink
from lbctl_l2.channel import DataPlane, Log, clock
from lbctl_l2.checks import Surroundings
from lbctl_l2.crds import Supply
from lbctl_l2.election import Claim, Roll, Standing
from lbctl_l2.leases import Facts, Problem, Said, SaidConflict, SaidLink
from lbctl_l2.options import Options, options
from lbctl_l2.served import ranges, served
from lbctl_l2.state import File, State
from lbctl_l2.values import IPNetwork, Link, Order, Peer, Report, Timing
from lbctl_l2.values import State as Doing

log = logging.getLogger(__name__)

TICK = 2.0
"""Seconds between two looks at whether anybody fell silent."""
HASTE = 1.0
"""Seconds between two writes of the Lease, at least."""
GIVING = 30.0
"""Seconds that somebody has to take over what was given to him; then it stays where it is."""
PATIENCE = 600.0
"""Seconds until it is given away again."""

ANSWERS = (Doing.SPEAKING, Doing.YIELDING)

class Plane(Protocol):
    """What is asked of `channel.DataPlane`."""

    def start(self) -> Any: ...

    def orders(self, orders: Iterable[Order], peers: Iterable[Peer]) -> None: ...

    def report(self) -> Report | None: ...

    def links(self) -> tuple[Link, ...]: ...

    @property
    def alive(self) -> bool: ...

    def leave(self, timeout: float = 3.0) -> bool: ...


class World(msgspec.Struct, frozen=True):
    """The machine around a speaker: what it reads of it, and the data plane that it starts. Tests make their own."""

    plane: Callable[..., Plane]
    interfaces: Callable[[], Sequence[netlink.Interface]] = netlink.snapshot
    strict_arp: Callable[[str], bool] = netlink.strict_arp
    routes: Callable[[], frozenset[IPAddress]] = lambda: checks.gateways(
        _text("/proc/net/route"), _text("/proc/net/ipv6_route")
    )
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    clock: Callable[[], float] = clock


def _text(path: str) -> str:
    """A file of the kernel's; nothing where a family is switched off."""
    try:
        return Path(path).read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


# ── the speaker ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Speaker:
    """See `lbctl.provider.Speaker`."""

    def __init__(self, harness: Harness, world: World | None = None) -> None:
        self._world = world or World(DataPlane)
        self.options = options(harness.settings)
        self._file = File(self.options.state_file)
        self._plane: Plane | None = None
        self._cluster = harness.cluster_id
        self._announcer: Announcer | None = None
        self._resumed = State(self.options.node, "")
        self._answers: frozenset[IPAddress] = frozenset()
        if (state := self._file.read(self.options.node)) and self._cluster in ("", state.cluster):
            self._resume(state)

    def join(self, harness: Harness) -> "Announcer":
        """From now on the orders follow from the cluster. What runs goes on running, unless it is another cluster's."""
        if self._plane is not None and self._cluster != harness.cluster_id:
            self._plane.leave()
            self._plane, self._resumed = None, State(self.options.node, harness.cluster_id)
        plane = self._plane or self._start(harness.cluster_id)
        self._announcer = announcer = Announcer(
            harness, self.options, self._world, plane, self._file, self._resumed
        )
        announcer.start()
        return announcer

    def leave(self) -> None:
        """Others take over before this returns, or a few seconds have passed; then the Lease is given back."""
        if self._announcer is not None:
            self._announcer.stop()
        if self._plane is not None:
            handed_over = self._plane.leave()
            log.info("the data plane has ended", extra={"handed_over": handed_over})
        if self._announcer is not None:
            self._announcer.release()

    def checks(self) -> Mapping[str, bool]:
        keeps = self._announcer is None or self._announcer.alive
        return {"data-plane": self._plane is None or self._plane.alive, "lease-keeper": keeps}

    def figures(self) -> Iterable[Figure]:
        report = self._plane.report() if self._plane is not None else None
        return _figures(report) if report is not None else ()

    def _start(self, cluster: str) -> Plane:
        timing = msgspec.structs.replace(Timing(), settle=self.options.settle)
        plane = self._world.plane(
            self.options.node, cluster, timing, self.options.excluded, heard=self._heard, logged=_log
        )
        self._plane, self._cluster = plane, cluster
        plane.start()
        return plane

    def _resume(self, state: State) -> None:
        """Take up the last orders, as far as they pass the checks."""
        nodes = frozenset(ip_address(text) for text in state.nodes)
        around = surroundings(self._world, self.options, nodes, state.pool_of)
        orders = tuple(order for order in state.orders if checks.fault(order.address, around) is None)
        left_out = len(state.orders) - len(orders)
        log.info("going by the last state", extra={"addresses": len(orders), "left_out": left_out})
        self._resumed = msgspec.structs.replace(state, orders=orders)
        self._start(state.cluster).orders(orders, state.peers)

    def _heard(self) -> None:
        """The data plane has reported."""
        report = self._plane.report() if self._plane is not None else None
        if report is None:
            return
        before, self._answers = self._answers, frozenset(a.address for a in report.addresses if a.state in ANSWERS)
        for address in sorted(self._answers - before, key=str):
            log.info("announces", extra={"address": str(address), "node": self.options.node})
        for address in sorted(before - self._answers, key=str):
            log.info("announces no more", extra={"address": str(address), "node": self.options.node})
        if self._announcer is not None:
            self._announcer.heard(report)


def surroundings(
    world: World, chosen: Options, nodes: frozenset[IPAddress], pool_of: Callable[[IPAddress], str]
) -> Surroundings:
    """What is where this node is, right now. An address on an excluded interface (kube-ipvs0, lo) is nobody's."""
    excluded = netlink.Exclusion(chosen.excluded)
    usable = [interface for interface in world.interfaces() if interface.name not in excluded]
    found = [address.interface for interface in usable for address in interface.addresses]
    return Surroundings(
        nodes=nodes,
        own=frozenset(interface.ip for interface in found),
        gateways=world.routes(),
        networks=tuple(dict.fromkeys(interface.network for interface in found)),
        pool_of=pool_of,
    )


def _log(line: Log) -> None:
    levels = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
    log.log(levels.get(line.level, logging.WARNING), line.message, extra=dict(line.fields))


def _figures(report: Report) -> Iterable[Figure]:
    counted = report.counters
    answers = sum(address.state in ANSWERS for address in report.addresses)
    living = sum(peer.alive for peer in report.peers)
    yield Figure("lbctl_l2_announced", "Addresses that this node answers for.", answers, counter=False)
    yield Figure("lbctl_l2_peers", "Other speakers that live.", living, counter=False)
    yield Figure("lbctl_l2_settled", "1 once this node may be given addresses.", report.settled, counter=False)
    yield Figure("lbctl_l2_requests", "ARP requests and solicitations for announced addresses.", counted.requests)
    yield Figure("lbctl_l2_replies", "Answers to them.", counted.replies)
    yield Figure("lbctl_l2_gratuitous", "Frames of gratuitous announcement sent.", counted.gratuitous)
    yield Figure("lbctl_l2_conflicts", "Claims of our addresses by hosts that are no speakers.", counted.conflicts)
    yield Figure("lbctl_l2_failovers", "Addresses taken over from a node that was dead.", counted.failovers)
    yield Figure("lbctl_l2_dark_seconds", "From the last sign of life to our announcement, in sum.", counted.dark)
    yield Figure("lbctl_l2_frames_sent", "Frames sent, heartbeats too.", counted.sent)
    yield Figure("lbctl_l2_heartbeats", "Heartbeats sent.", counted.beats)
    for reason, number in sorted(counted.dropped.items()):
        yield Figure("lbctl_l2_frames_dropped", "Frames not acted upon.", number, {"reason": reason})


# ── the announcer ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Announcer:
    """A provider whose resources are the standing orders of this node's data plane, and the roll of its peers."""

    name = "l2"
    claims = False
    kinds: tuple[Kind, ...] = (Kind("roll"), Kind("order", after=("roll",), document="node"))

    def __init__(
        self, harness: Harness, chosen: Options, world: World, plane: Plane, file: File, resumed: State
    ) -> None:
        """`resumed` is what the data plane goes by already."""
        self._harness, self._options, self._world, self._plane, self._file = harness, chosen, world, plane, file
        self._kubernetes, self._me = harness.kubernetes, chosen.node
        self._lock = threading.Lock()
        self._given = {(item.owner, item.name): item for item in self._resumed(resumed)}
        self._roll_given: Resource | None = self._roll(resumed.peers)
        self._peers = resumed.peers
        self._around: Surroundings | None = None
        self._served = served(self._kubernetes, harness.settings, lambda: harness.again(None))
        self._supply = self._served.supply
        self._pool_of = self._supply.pool_of
        self._elector = election.Elector(self._me)
        self._leases: dict[str, Object] = {}
        self._elected: dict[IPAddress, Standing] = {}
        self._seen_by_all: tuple[Any, ...] = ()
        self._keeper = Keeper(self)
        self.observed = leases.Observed()
        self.answering: dict[IPAddress, int] = {}
        self.wanted: tuple[Claim, ...] = ()
        self.roll: Roll | None = None
        self.faults: dict[IPAddress, checks.Fault] = {}

    # -- the one path ------------------------------------------------------------------------------------------

    def observe(self, scope: Scope) -> Observation:
        """The orders as they were given; and who is where, whom the election is among, and how it ends."""
        self._use(self._served.look())
        self.wanted = tuple(cast("Iterable[Claim]", scope.shares))
        self.roll = roll = self.make_roll()
        self._elected = elected = self._elector.elect(self.wanted, roll)
        self._around = around = self._surroundings()
        self._peers = members.peers(roll.members, self._said(), self._me)
        self._seen_by_all = (roll.members, self._peers)
        with self._lock:
            given = tuple(r for r in self._given.values() if scope.covers(r.owner))
            whole = (*given, self._roll_given) if self._roll_given else given
        self._look_beyond(scope, elected)
        return Observation(scope, whole, {"elected": elected, "around": around, "peers": self._peers})

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        """An order for each address that somebody may announce and that nothing speaks against."""
        elected: Mapping[IPAddress, Standing] = seen.facts["elected"]
        around: Surroundings = seen.facts["around"]
        orders = (
            self._order(load_balancer.owner, elected[claim.address])
            for load_balancer in load_balancers
            for claim in {claim.address: claim for claim in election.claims(load_balancer)}.values()
            if claim.address in elected and elected[claim.address].ranking
            if checks.fault(claim.address, around) is None
        )
        return Desired((self._roll(seen.facts["peers"]), *orders))

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        """Its addresses: the election is among all of them. A Service that cannot be read claims none."""
        return () if load_balancer.problem else set(election.claims(load_balancer))

    def adopts(self, status: Sequence[Ingress]) -> bool:
        """Addresses of our pools are ours to announce, whoever wrote them there."""
        found = [election.address(entry.ip) for entry in status]
        return bool(found) and all(item is not None and bool(self._pool_of(item)) for item in found)

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        """Gives the data plane its orders, all that there are: it sees itself what is new."""
        with self._lock:
            for change in changes:
                if change.kind == "roll":
                    self._roll_given = change.after
                elif change.after is None:
                    self._given.pop((change.owner, change.name), None)
                else:
                    self._given[change.owner, change.name] = change.after
            self._give()
        return [change.after for change in changes]

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

    def _roll(self, peers: Iterable[Peer]) -> Resource:
        fields = {"peers": tuple((peer.name, *(_plain(link) for link in peer.links)) for peer in peers)}
        return Resource("roll", "roll", SHARED, fields, because="these speakers are there")

    def _give(self) -> None:
        """All orders and the whole roll, once more past the checks: whatever happened since they were planned."""
        around = self._around or self._surroundings()
        orders: dict[IPAddress, Order] = {}
        owners: dict[str, tuple[str, ...]] = {}
        for resource in self._given.values():
            address = ip_address(resource.fields["address"])
            if checks.fault(address, around) is None:
                orders[address] = self._standing_order(address, resource)
                owners[str(address)] = (*owners.get(str(address), ()), resource.owner)
        self._plane.orders(orders.values(), self._peers)
        self._keeper.keep(
            State(
                self._me, self._harness.cluster_id, tuple(orders.values()), self._peers, ranges(self._supply),
                tuple(sorted(map(str, around.nodes))), owners,
            )
        )  # fmt: skip

    def _standing_order(self, address: IPAddress, resource: Resource) -> Order:
        ways, standing = resource.fields["interfaces"], self._elected.get(address)
        never_seen = standing is not None and not standing.holder
        return Order(
            address, resource.fields["ranking"], None if ways is None else frozenset(ways), never_seen,
            self._options.periodic,
        )  # fmt: skip

    def _look_beyond(self, scope: Scope, elected: Mapping[IPAddress, Standing]) -> None:
        """One Service's coming or going can move others' addresses: ask for a look at those, too."""
        if scope.owners is None:
            return
        with self._lock:
            rankings = {key: resource.fields["ranking"] for key, resource in self._given.items()}
        stale = {
            owner
            for address, standing in elected.items()
            for owner in standing.owners
            if rankings.get((owner, f"{owner} {address}"), ()) != standing.ranking and owner not in scope.owners
        }
        if stale:
            self._harness.again(stale)

    # -- who is there ------------------------------------------------------------------------------------------

    def make_roll(self) -> Roll:
        """Everybody as of now."""
        chosen = self._options
        found = members.members(self._nodes(), self._said(), self._alive, chosen.drain_on, self.wanted)
        here = tuple(self._myself(member) if member.name == self._me else member for member in found)
        return Roll(here, self._supply.advertisements, self._pool_of, chosen.ignore_excluded)

    def _use(self, supply: Supply) -> None:
        """What was worked out from the same pools holds."""
        if supply is not self._supply:
            self._supply, self._pool_of = supply, supply.pool_of

    def _nodes(self) -> tuple[Node, ...]:
        return self._kubernetes.nodes()

    def _said(self) -> dict[str, Said]:
        with self._lock:
            return members.said(tuple(self._leases.values()))

    def _myself(self, member: election.Member) -> election.Member:
        """That I live I know best, also before my Lease is there."""
        if member.links is not None:
            return msgspec.structs.replace(member, speaks=True, alive=True)
        facts = self.facts()
        links = tuple(election.NodeLink(link.name, link.networks) for link in facts.links)
        return msgspec.structs.replace(member, speaks=True, alive=True, settled=facts.settled, links=links)

    def _alive(self, node: str, _said: Said) -> tuple[bool, bool]:
        """By its Lease as we observed it, or because it is heard on the wire."""
        report = self._plane.report()
        heard = {peer.name for peer in report.peers if peer.alive and peer.shared} if report else set()
        age = self.observed.age(node)
        return node in heard or age < leases.FORGOTTEN, node in heard or age < leases.LASTS

    def _surroundings(self) -> Surroundings:
        nodes = frozenset(address for node in self._nodes() for address in node.addresses)
        return surroundings(self._world, self._options, nodes, self._pool_of)

    # -- what others tell --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Follow the cluster, and keep the Lease."""
        kubernetes, watch = self._kubernetes, leases.watch(self._kubernetes.home)
        kubernetes.follow(watch, self._lease_changed)
        kubernetes.follow_nodes(lambda: self._harness.again(None))
        self._keeper.start()

    def _lease_changed(self, before: Object | None, now: Object | None) -> None:
        """A renewal is no news, what else it says is."""
        changed = now or before
        assert changed is not None
        node = (item.facts.node for item in members.said((changed,)).values())
        with self._lock:
            if now is None:
                self._leases.pop(changed.name, None)
            else:
                self._leases[now.name] = now
            for name in node:
                self.observed.forget(name) if now is None else self.observed.note(
                    name, now.version, self._world.monotonic()
                )
        if leases.is_news(before, now):
            self._harness.again(None)

    def look_around(self) -> None:
        """Has anybody fallen silent, or been heard again, without a word of the cluster?"""
        before = self._seen_by_all
        roll = self.make_roll()
        if before and before != (roll.members, members.peers(roll.members, self._said(), self._me)):
            self._harness.again(None)

    # -- what we tell ------------------------------------------------------------------------------------------

    def heard(self, report: Report) -> None:
        """What the data plane begins to answer for, what no longer, and who else claims what is ours."""
        answers = {item.address: item.since for item in report.addresses if item.state in ANSWERS}
        self.answering = {address: since for address, since in self.answering.items() if address in answers}
        for address in answers.keys() - self.answering.keys():
            self._begins(address, report.at - answers[address])
        self._keeper.reported(report)

    def _begins(self, address: IPAddress, age: float) -> None:
        """`since` comes after whatever the one before said, so that wrong clocks decide nothing."""
        others = self.roll.members if self.roll else ()
        known = max((int(m.announces.get(address, 0)) for m in others if m.name != self._me), default=0)
        self.answering = {**self.answering, address: max(int(self._world.now() - age), known + 1)}
        message = f'announcing {address} from node "{self._me}"'
        for owner in self.owners(address):
            self._kubernetes.event(owner, "Normal", "AnnouncingFromNode", message)

    def conflicting(self, conflict: SaidConflict) -> None:
        """A stranger claims an address: its Services hear of it."""
        message = (
            f"{conflict.mac} on {conflict.link} of node {self._me} answers for {conflict.address}, too: find that "
            f"host, or take the address out of the pool"
        )
        log.warning("a stranger claims an address", extra={"address": conflict.address, "mac": conflict.mac})
        for owner in self.owners(ip_address(conflict.address)):
            self._kubernetes.event(owner, "Warning", "AddressConflict", message)

    def owners(self, address: IPAddress) -> tuple[Owner, ...]:
        standing = self._elected.get(address)
        return standing.owners if standing else ()

    def facts(self) -> Facts:
        """What the Lease says of this node, but for what the keeper adds."""
        report = self._plane.report()
        return Facts(
            node=self._me,
            started=self._keeper.started,
            settled=report.settled if report else False,
            links=tuple(_said_link(link) for link in self._plane.links() if link.up and (link.arp or link.ndp)),
            drain_on=self._options.drain_on,
            ignores_exclusion=self._options.ignore_excluded,
        )

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong here, as of now: the whole node first, then addresses."""
        # In this order: what was elected is never newer than the pools it is judged by.
        elected, around = self._elected, self._surroundings()
        looked = ((address, checks.fault(address, around)) for address in sorted(elected, key=str))
        faults = (Problem(no.reason, no.message, str(address)) for address, no in looked if no is not None)
        shadowed = self._shadowed()
        return (*((Problem(*_ipvs(shadowed)),) if shadowed else ()), *faults)

    def _shadowed(self) -> tuple[IPAddress, ...]:
        """Addresses that the kernel answers for on its own: kube-proxy holds them, and nothing forbids it."""
        held = netlink.ipvs_addresses(self._world.interfaces()) & self._elected.keys()
        lax = any(not self._world.strict_arp(link.name) for link in self._plane.links()) if held else False
        return tuple(sorted(held, key=str)) if lax else ()

    def mine_to_move(self) -> tuple[election.Move, ...]:
        """One round towards balance: what of it is mine."""
        if self.roll is None:
            return ()
        found = election.moves(self._elected, self.wanted, self.roll)
        return tuple(move for move in found if move.old == self._me)

    # -- its end -----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self._keeper.alive

    def stop(self) -> None:
        """No order and no renewal comes after this."""
        self._keeper.stop()

    def release(self) -> None:
        """Give the Lease back."""
        self._keeper.release()

    def lease(self, now: Callable[[], datetime]) -> leases.Lease:
        return leases.Lease(self._kubernetes, self._me, now)

    @property
    def harness(self) -> Harness:
        return self._harness

    @property
    def world(self) -> World:
        return self._world

    def write(self, state: State) -> None:
        """Keep the last state. A disk that is full costs a log line, not an announcement."""
        try:
            self._file.write(state)
        except OSError as error:
            log.warning("the last state cannot be written", extra={"error": str(error)})


def _plain(link: Any) -> tuple[Any, ...]:
    return (link.name, leases.written(link.mac), tuple(map(str, link.networks)))


def _said_link(link: Link) -> SaidLink:
    networks = dict.fromkeys(a.network for a in link.addresses if not a.ip.is_link_local)
    return SaidLink(link.name, leases.written(link.mac), cast("tuple[IPNetwork, ...]", tuple(networks)))


def _ipvs(shadowed: Sequence[IPAddress]) -> tuple[str, str]:
    more = f" and {len(shadowed) - 3} more" if len(shadowed) > 3 else ""
    return "ipvs-without-strict-arp", (
        f"kube-proxy holds {', '.join(map(str, shadowed[:3]))}{more} on {netlink.IPVS}, so every node answers for "
        "them: set ipvs.strictARP: true in kube-proxy's configuration"
    )


# ── the Lease's keeper ────────────────────────────────────────────────────────────────────────────────────────────────


class Keeper:
    """The thread that renews the node's Lease, writes the last state, and sees who has fallen silent."""

    def __init__(self, announcer: Announcer) -> None:
        self._announcer, self._world = announcer, announcer.world
        self._lease = announcer.lease(announcer.harness.now)
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self._state: State | None = None
        self._conflicts: dict[tuple[str, str], SaidConflict] = {}
        self._gives: dict[IPAddress, tuple[str, float]] = {}
        self._declined: dict[IPAddress, float] = {}
        self._problems: tuple[Problem, ...] = ()
        self._failing = False
        self._due = self._may = 0.0
        self._said: Mapping[str, str] = {}
        self.started = int(self._world.now())

    @property
    def alive(self) -> bool:
        return self._thread.ident is None or self._thread.is_alive() or self._stopped.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def keep(self, state: State) -> None:
        """Write this to disk soon."""
        self._state = state
        self._wake.set()

    def reported(self, report: Report) -> None:
        """The data plane has reported; wakes the thread if the others must hear of it."""
        for conflict in report.conflicts:
            key = (str(conflict.address), leases.written(conflict.mac))
            if key not in self._conflicts:
                ago = report.at - conflict.last
                told = SaidConflict(*key, conflict.link, int(self._world.now() - ago), conflict.count)
                self._conflicts = {**self._conflicts, key: told}
                self._announcer.conflicting(told)
        if self._annotations() != self._said:
            self._wake.set()

    def release(self) -> None:
        try:
            self._lease.release()
        except LbctlError as error:
            log.warning("the Lease could not be given back", extra={"error": str(error)})

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait(self._patience())
            self._wake.clear()
            if not self._stopped.is_set():
                self._turn(self._world.monotonic())

    def _patience(self) -> float:
        now = self._world.monotonic()
        waits = [TICK, self._due - now]
        if self._annotations() != self._said:
            waits.append(self._may - now)
        return max(min(waits), 0.0)

    def _turn(self, now: float) -> None:
        if self._state is not None:
            state, self._state = self._state, None
            self._announcer.write(state)
        if now >= self._due:
            self._problems = self._announcer.problems()
            self._balance(now)
        annotations = self._annotations()
        if now >= self._due or (annotations != self._said and now >= self._may):
            self._renew(annotations, now)
        self._announcer.look_around()

    def _renew(self, annotations: Mapping[str, str], now: float) -> None:
        self._may = now + HASTE
        try:
            self._lease.renew(annotations)
        except LbctlError as error:
            if not self._failing:
                log.warning("the Lease cannot be renewed: announcing goes on", extra={"error": str(error)})
            self._failing, self._due = True, now + 2 * HASTE
            self._may = self._due
            return
        if self._failing:
            log.info("the Lease is renewed again")
        self._failing, self._said, self._due = False, annotations, now + leases.RENEWED
        self._announcer.observed.reached(self._world.monotonic())

    def _annotations(self) -> Mapping[str, str]:
        facts = msgspec.structs.replace(
            self._announcer.facts(),
            gives={str(address): heir for address, (heir, _) in self._gives.items()},
            conflicts=tuple(self._conflicts.values()),
            problems=self._problems,
        )
        return leases.encode(facts, self._announcer.answering)

    def _balance(self, now: float) -> None:
        """One round: what is mine to give. What nobody took within its time stays here for a while."""
        held = self._announcer.answering
        for address, (_, until) in list(self._gives.items()):
            if address not in held:
                del self._gives[address]
            elif now >= until:
                del self._gives[address]
                self._declined[address] = now + PATIENCE
        self._declined = {address: until for address, until in self._declined.items() if until > now}
        for move in self._announcer.mine_to_move():
            if move.address in held and move.address not in self._declined:
                self._gives[move.address] = (move.new, now + GIVING)
                log.info("gives an address away", extra={"address": str(move.address), "to": move.new})
