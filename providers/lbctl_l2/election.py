"""Who announces which address: a function of what all nodes can read, the same on every one of them.  PURE.

`announcer.py` makes standing orders of it, `lbctl election` and `lbctl explain` show it, the controller says by it why
nobody announces. A node's own history is no input: who holds an address, since when, and to whom it gives it away
stand in the node Leases (`leases.py`). Nobody waits for an election: the data planes go by the last ranking.

    may it       a speaker that lives, not excluded, an advertisement that selects it, an interface, a subnet, endpoints
    who first    1. to whom the holder gives it away
                 2. the holder (sticky)
                 3. its holder died or left: the next by rendezvous, as the data planes have decided already
                 4. never held, or the holder may not any more: the least load, a tie goes by rendezvous
    then         settled, unsettled, draining, silent ones; within each by rendezvous

So a node's end moves its own addresses only, and a node that comes moves none. Balance is kept by `moves`, a few at a
time, decided by each holder about its own: the new one announces before the old one stops. Only where all begin
together, balance is made at once: nobody has connections yet.

Rendezvous: every node has a weight for every address, the highest comes first (Thaler and Ravishankar, 1998).
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from ipaddress import ip_address

import msgspec

from lbctl.model import Endpoints, IPAddress, IPNetwork, LoadBalancer, Owner
from lbctl_l2.pool import Advertisement

RANKED = 32
"""Nodes in a ranking, at most: all of them would have to die within a Lease's time before nobody is left."""

SPREAD = 2
"""By how many addresses the fullest and the emptiest node may differ, at rest."""

ROUND = 20
"""One round of balancing moves at most one of so many addresses, and at least one."""

TOGETHER = 500
"""One round among those who begin together moves at most so many: they are all named in one annotation of a Lease."""


# ── what goes in ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Claim(msgspec.Struct, frozen=True):
    """One Service's wish to have one address announced.

    endpoints  nodes with an endpoint that serves
    served     whether there is any such endpoint, on a node or not
    """

    owner: Owner
    address: IPAddress
    created: float = 0.0
    labels: tuple[tuple[str, str], ...] = ()
    local: bool = False
    endpoints: frozenset[str] = frozenset()
    served: bool = True


class NodeLink(msgspec.Struct, frozen=True):
    """One interface of a node, up and with a carrier, and the subnets that it is in."""

    name: str
    networks: tuple[IPNetwork, ...] = ()


class Member(msgspec.Struct, frozen=True):
    """One node, as everybody sees it.

    speaks     a speaker's Lease is there: not given back, not silent for too long
    alive      that Lease is fresh, or the node is heard on the wire
    settled    it has been there for a while
    founds     it began when nobody was there before it, and not long ago (`beginning.py`)
    draining   it is to be emptied, by the administrator's choice (`Roll`)
    links      its interfaces; None where they are not known
    announces  the addresses that it announces, and since when (seconds since the epoch)
    gives      the addresses that it wants somebody else to take over
    last_good  pool or advertisement that cannot be read → the generation that it goes by, 0 for none
    """

    name: str
    labels: Mapping[str, str] = {}
    speaks: bool = True
    alive: bool = True
    settled: bool = True
    founds: bool = False
    excluded: bool = False
    network_unavailable: bool = False
    draining: bool = False
    links: tuple[NodeLink, ...] | None = None
    announces: Mapping[IPAddress, float] = {}
    gives: Mapping[IPAddress, str] = {}
    last_good: Mapping[str, int] = {}


class Roll(msgspec.Struct, frozen=True):
    """Everything that decides beside the Services: the nodes, the advertisements, which pool an address lies in.

    `pool_of` says "" for an address that lies in none. `ignore_excluded`: the label that takes nodes out of external
    load balancers does not count (labs with one node).
    """

    members: tuple[Member, ...]
    adverts: tuple[Advertisement, ...]
    pool_of: Callable[[IPAddress], str]
    ignore_excluded: bool = False


def claims(load_balancer: LoadBalancer, known: Endpoints | None = None) -> Iterator[Claim]:
    """What a Service's status says: the addresses to announce for it. `known`: its endpoints, if it does not say."""
    found = (address(entry.ip) for entry in load_balancer.status)
    return (claim(load_balancer, item, known) for item in found if item is not None)


def claim(load_balancer: LoadBalancer, address: IPAddress, known: Endpoints | None = None) -> Claim:
    """What it would be if the Service's status said this address."""
    known, created = known or load_balancer.endpoints, load_balancer.created
    return Claim(
        owner=load_balancer.owner,
        address=address,
        created=created.timestamp() if created else 0.0,
        labels=tuple(sorted(load_balancer.labels.items())),
        local=load_balancer.external_traffic_policy == "Local",
        endpoints=known.serving if known else frozenset(),
        served=known is None or known.ready > 0 or bool(known.serving),
    )


def address(text: str) -> IPAddress | None:
    """None for what is no address, or one within a link (a scope id): a status is written by whoever may."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return None if getattr(found, "scope_id", None) else found


# ── what comes out ────────────────────────────────────────────────────────────────────────────────────────────────────


class Standing(msgspec.Struct, frozen=True):
    """One address: who may announce it, best first.

    holder      who does by its Lease, "" if nobody does
    interfaces  the only ones that the node that asked may announce it on; None: all
    """

    address: IPAddress
    owners: tuple[Owner, ...]
    ranking: tuple[str, ...]
    holder: str = ""
    interfaces: frozenset[str] | None = None

    @property
    def first(self) -> str:
        """Who ought to announce it; "" for nobody."""
        return self.ranking[0] if self.ranking else ""


class Verdict(msgspec.Struct, frozen=True):
    """Why a node may not announce an address; `reason` is "" if it may."""

    node: str
    reason: str = ""
    message: str = ""


class Move(msgspec.Struct, frozen=True):
    """An address that goes from its holder to another node."""

    address: IPAddress
    old: str
    new: str


class Rank(IntEnum):
    """The order among nodes that may announce an address."""

    SETTLED = 0
    UNSETTLED = 1
    DRAINING = 2
    SILENT = 3


REASONS = {
    "no-speaker": "no speaker runs there (its Lease is missing, given back, or ran out long ago): see the DaemonSet",
    "excluded": "the label node.kubernetes.io/exclude-from-external-load-balancers keeps it out, or it is going away: "
    "take the label off, or run the speakers with --ignore-exclude-lb=true",
    "network-unavailable": "its condition NetworkUnavailable is True: see the network plugin",
    "no-pool": "the address lies in no pool that is served there (of one that cannot be read, it may not know the last "
    "good version): see lbctl pools",
    "no-advertisement": "no advertisement covers the address's pool and the Service's labels: make an L2Advertisement",
    "not-selected": "no advertisement that covers the address selects this node: see its nodeSelectors",
    "no-interface": "none of the interfaces that the advertisement names is there and up with a carrier",
    "no-subnet": "none of its interfaces is in a subnet that holds the address, and other nodes' are",
    "no-endpoint": "no endpoint of the Service serves anywhere: see its pods",
    "no-local-endpoint": "externalTrafficPolicy is Local and no endpoint of the Service serves there",
    "serves-fewer": "the address is shared, and other nodes can serve more of its Services",
}
"""Why a node may not announce an address: token → sentence, in the order that they are looked at."""


# ── the election ──────────────────────────────────────────────────────────────────────────────────────────────────────


def elect(wanted: Iterable[Claim], roll: Roll, me: str = "") -> dict[IPAddress, Standing]:
    """The ranking of every address, and the interfaces that `me` may use. The same for any order of what goes in."""
    return Elector(me).elect(wanted, roll)


class Elector:
    """Elects again and again for one node, and works out only what is new. The answer is always that of `elect`."""

    def __init__(self, me: str = "") -> None:
        self._me = me
        self._ground: _Ground | None = None

    def elect(self, wanted: Iterable[Claim], roll: Roll) -> dict[IPAddress, Standing]:
        ground, shared, held = self._prepared(roll), _by_address(wanted), holders(roll.members)
        candidates = {address: ground.candidates(parts) for address, parts in shared.items()}
        first = _firsts(ground, shared, held, candidates)
        ground.prune(len(shared))
        return {
            address: Standing(
                address,
                tuple(sorted(part.owner for part in parts)),
                ground.ranking(address, first.get(address, ""), candidates[address]),
                held.get(address, ""),
                ground.interfaces(parts, self._me),
            )
            for address, parts in shared.items()
        }

    def _prepared(self, roll: Roll) -> "_Ground":
        if self._ground is None or not self._ground.use(roll):
            self._ground = _Ground(roll)
        return self._ground


def _firsts(
    ground: "_Ground",
    shared: Mapping[IPAddress, Sequence[Claim]],
    held: Mapping[IPAddress, str],
    candidates: Mapping[IPAddress, frozenset[str]],
) -> dict[IPAddress, str]:
    """Who comes first for each address that anybody may announce: those that are settled, then by load."""
    load: Counter[str] = Counter()
    first: dict[IPAddress, str] = {}
    for address, may in candidates.items():
        if chosen := ground.kept(address, held.get(address, ""), may):
            first[address] = chosen
            load[chosen] += 1
    left = (address for address, may in candidates.items() if may and address not in first)
    for address in sorted(left, key=lambda address: _seniority(shared[address])):
        first[address] = chosen = ground.emptiest(address, candidates[address], load)
        load[chosen] += 1
    return first


def verdicts(parts: Sequence[Claim], roll: Roll) -> tuple[Verdict, ...]:
    """What keeps each node from announcing one address; `parts` are all claims to it."""
    ground = _Ground(roll)
    candidates = ground.candidates(parts)
    return tuple(_verdict(ground, parts, name, name in candidates) for name in ground.names)


def _verdict(ground: "_Ground", parts: Sequence[Claim], name: str, may: bool) -> Verdict:
    if may:
        return Verdict(name)
    failed = [next((token for token, passing in ground.screens(part) if name not in passing), "") for part in parts]
    reason = "serves-fewer" if "" in failed else max(failed, key=list(REASONS).index)
    return Verdict(name, reason, REASONS[reason])


class Reasons:
    """Why nodes may not announce, for many addresses of one election. Not thread-safe."""

    def __init__(self, wanted: Iterable[Claim], roll: Roll) -> None:
        self.roll = roll
        self._ground, self._shared = _Ground(roll), _by_address(wanted)

    def why(self, address: IPAddress, name: str) -> str:
        """What keeps this node from announcing it, as a sentence; "" for nothing."""
        parts = self._shared.get(address, ())
        if not parts or name in self._ground.candidates(parts):
            return ""
        return _verdict(self._ground, parts, name, may=False).message


def moves(elected: Mapping[IPAddress, Standing], wanted: Iterable[Claim], roll: Roll) -> tuple[Move, ...]:
    """One round towards balance: from the fullest nodes to the emptiest that may have it.

    Nothing as long as any address is on its way from the round before. Those who found the cluster even out in one
    round, as soon as none of them is still to settle.
    """
    if any(standing.holder != standing.first and _is_given(standing, roll) for standing in elected.values()):
        return ()
    ground, shared = _Ground(roll), _by_address(wanted)
    held = [standing for standing in elected.values() if standing.first]
    steady = [name for name in ground.names if ground.rank[name] is Rank.SETTLED]
    load = Counter(dict.fromkeys(steady, 0))
    load.update(standing.first for standing in held if standing.first in load)
    mine: dict[str, list[IPAddress]] = {name: [] for name in steady}
    for standing in sorted(held, key=lambda s: _seed(str(s.address))):
        if standing.first in mine and standing.holder == standing.first:
            mine[standing.first].append(standing.address)
    may = {standing.address: ground.candidates(shared[standing.address]) for standing in held}
    if founders := [name for name in ground.names if ground.members[name].founds]:
        unready = any(ground.rank[name] is Rank.UNSETTLED and member.speaks for name, member in ground.members.items())
        return () if unready else _round({name: load[name] for name in founders if name in load}, mine, may, TOGETHER)
    return _round(load, mine, may, max(1, len(held) // ROUND))


def _round(
    load: Mapping[str, int], mine: Mapping[str, list[IPAddress]], may: Mapping[IPAddress, frozenset[str]], most: int
) -> tuple[Move, ...]:
    """So many moves at most, among the nodes of `load`."""
    carried, left = dict(load), {name: list(mine[name]) for name in load}
    found: list[Move] = []
    while len(found) < most and (move := _move(carried, left, may)):
        found.append(move)
        left[move.old].remove(move.address)
        carried[move.old] -= 1
        carried[move.new] += 1
    return tuple(found)


def _is_given(standing: Standing, roll: Roll) -> bool:
    return any(member.name == standing.holder and standing.address in member.gives for member in roll.members)


def _move(
    load: Mapping[str, int], mine: Mapping[str, list[IPAddress]], may: Mapping[IPAddress, frozenset[str]]
) -> Move | None:
    """The one move that helps most; None where the difference is small enough, or no address can go."""
    ascending = sorted(load, key=lambda name: (load[name], name))
    for old in reversed(ascending):
        for new in ascending:
            if load[old] - load[new] <= SPREAD:
                break
            for address in mine[old]:
                if new in may[address]:
                    return Move(address, old, new)
    return None


class _Ground:
    """A roll, prepared: what is the same for many addresses is worked out once."""

    def __init__(self, roll: Roll) -> None:
        self._roll, self._bare = roll, _bare(roll)
        self.members = {member.name: member for member in roll.members}
        self.names = tuple(sorted(self.members))
        self.rank = {name: _rank(member) for name, member in self.members.items()}
        self._everybody = frozenset(self.names)
        self._unknown = self._where(lambda member: member.links is None)
        self._outdated = _outdated(roll.members)
        self._node_screens = tuple(self._by_node())
        self._selected: dict[object, Mapping[str, frozenset[str] | None] | None] = {}
        self._subnets: dict[frozenset[str] | None, dict[tuple[int, int], dict[int, set[str]]]] = {}
        self._interfaces: dict[frozenset[str] | None, frozenset[str]] = {}
        self._may: dict[Claim, frozenset[str]] = {}
        self._ordered: dict[tuple[IPAddress, frozenset[str]], list[str]] = {}

    def use(self, roll: Roll) -> bool:
        """Go on with another roll. False if it differs in more than who announces and gives what."""
        if self._bare != _bare(roll):
            return False
        self._roll = roll
        self.members = {member.name: member for member in roll.members}
        return True

    def prune(self, size: int) -> None:
        """Forget what was worked out for claims of the past."""
        if len(self._may) > 2 * size + 100:
            self._may, self._ordered = {}, {}

    # -- who may -----------------------------------------------------------------------------------------------

    def candidates(self, parts: Sequence[Claim]) -> frozenset[str]:
        """The nodes that can serve the most of the Services that share the address; usually there is one Service."""
        if len(parts) == 1:
            return self._able(parts[0])
        counted = Counter(name for part in parts for name in self._able(part))
        most = max(counted.values(), default=0)
        return frozenset(name for name, count in counted.items() if count == most)

    def screens(self, claim: Claim) -> Iterator[tuple[str, frozenset[str]]]:
        """What is asked of a node, one after the other: (token, the nodes that pass)."""
        yield from self._node_screens
        pool = self._roll.pool_of(claim.address)
        yield "no-pool", self._everybody - self._outdated.get(f"pool/{pool}", frozenset()) if pool else frozenset()
        selected = self.selected(pool, claim.labels)
        yield "no-advertisement", frozenset() if selected is None else self._everybody
        chosen = selected or {}
        yield "not-selected", frozenset(chosen)
        yield from self._by_wire(claim.address, chosen)
        yield "no-endpoint", self._everybody if claim.served else frozenset()
        yield "no-local-endpoint", claim.endpoints if claim.local else self._everybody

    def selected(self, pool: str, labels: tuple[tuple[str, str], ...]) -> Mapping[str, frozenset[str] | None] | None:
        """The nodes that advertisements select, and the interfaces they name (None: all). None: there are none."""
        if (pool, labels) not in self._selected:
            self._selected[pool, labels] = self._select(pool, dict(labels))
        return self._selected[pool, labels]

    def interfaces(self, parts: Sequence[Claim], name: str) -> frozenset[str] | None:
        """Those that the advertisements name for this node; None for all."""
        found: frozenset[str] = frozenset()
        for part in parts:
            chosen = self.selected(self._roll.pool_of(part.address), part.labels) or {}
            way = chosen.get(name, frozenset())
            if way is None:
                return None
            found |= way
        return found

    def _able(self, claim: Claim) -> frozenset[str]:
        if claim not in self._may:
            found = self._everybody
            for _token, passing in self.screens(claim):
                found &= passing
            self._may[claim] = found
        return self._may[claim]

    def _by_node(self) -> Iterator[tuple[str, frozenset[str]]]:
        ignored = self._roll.ignore_excluded
        yield "no-speaker", self._where(lambda member: member.speaks)
        yield "excluded", self._where(lambda member: ignored or not member.excluded)
        yield "network-unavailable", self._where(lambda member: not member.network_unavailable)

    def _where(self, passes: Callable[[Member], bool]) -> frozenset[str]:
        return frozenset(name for name, member in self.members.items() if passes(member))

    def _select(self, pool: str, labels: Mapping[str, str]) -> Mapping[str, frozenset[str] | None] | None:
        covering = [advert for advert in self._roll.adverts if advert.serves(pool) and advert.admits(labels)]
        found: dict[str, frozenset[str] | None] = {}
        for advert in covering:
            named = frozenset(advert.interfaces) or None
            outdated = self._outdated.get(f"advertisement/{advert.source}/{advert.name}", frozenset())
            for name, member in self.members.items():
                if advert.selects(member.labels) and name not in outdated:
                    known = found.get(name, frozenset())
                    found[name] = None if named is None or known is None else known | named
        return found if covering else None

    def _by_wire(
        self, address: IPAddress, chosen: Mapping[str, frozenset[str] | None]
    ) -> Iterator[tuple[str, frozenset[str]]]:
        """By interface and subnet, where they are known. If nobody's subnet holds the address, it is routed to us."""
        ways = set(chosen.values())
        has = {way: self._with_interface(way) for way in ways}
        yield "no-interface", frozenset(name for name, way in chosen.items() if name in has[way])
        near = {way: self._near(address, way) for way in ways}
        if any(near.values()):
            yield "no-subnet", self._unknown | {name for name, way in chosen.items() if name in near[way]}

    def _with_interface(self, way: frozenset[str] | None) -> frozenset[str]:
        if way not in self._interfaces:
            self._interfaces[way] = self._where(lambda member: member.links is None or any(_usable(member, way)))
        return self._interfaces[way]

    def _near(self, address: IPAddress, way: frozenset[str] | None) -> set[str]:
        """The nodes with an interface in a subnet that holds the address."""
        if way not in self._subnets:
            self._subnets[way] = self._index(way)
        number, found = int(address), set[str]()
        for (version, host_bits), places in self._subnets[way].items():
            if version == address.version:
                found |= places.get(number >> host_bits, set())
        return found

    def _index(self, way: frozenset[str] | None) -> dict[tuple[int, int], dict[int, set[str]]]:
        """(family, bits of the host part) → the network's number → nodes."""
        index: dict[tuple[int, int], dict[int, set[str]]] = {}
        for name, member in self.members.items():
            for link in _usable(member, way):
                for network in link.networks:
                    bits = network.max_prefixlen - network.prefixlen
                    places = index.setdefault((network.version, bits), {})
                    places.setdefault(int(network.network_address) >> bits, set()).add(name)
        return index

    # -- who first ---------------------------------------------------------------------------------------------

    def kept(self, address: IPAddress, holder: str, candidates: frozenset[str]) -> str:
        """Who comes first because of who holds it; "" if that says nothing."""
        if not holder or not candidates:
            return ""
        member = self.members[holder]
        heir = member.gives.get(address, "")
        if heir in candidates and self.rank[heir] is Rank.SETTLED:
            return heir
        if holder in candidates and self.rank[holder] <= max(Rank.UNSETTLED, self._best(candidates)):
            return holder
        return "" if member.alive and member.speaks else self.ordered(address, candidates)[0]

    def emptiest(self, address: IPAddress, candidates: frozenset[str], load: Mapping[str, int]) -> str:
        """The node with the least to do among the best; a tie goes by rendezvous."""
        best = self._best(candidates)
        among = [name for name in self.ordered(address, candidates) if self.rank[name] is best]
        return min(among, key=lambda name: load[name])

    def ranking(self, address: IPAddress, first: str, candidates: frozenset[str]) -> tuple[str, ...]:
        """All who may, best first."""
        if not first:
            return ()
        return (first, *(name for name in self.ordered(address, candidates) if name != first))[:RANKED]

    def ordered(self, address: IPAddress, candidates: frozenset[str]) -> list[str]:
        """By rank, then by rendezvous."""
        key = (address, candidates)
        if key not in self._ordered:
            among = (name for name in preference(address, self.names) if name in candidates)
            self._ordered[key] = sorted(among, key=self.rank.__getitem__)
        return self._ordered[key]

    def _best(self, candidates: frozenset[str]) -> Rank:
        return min(self.rank[name] for name in candidates)


def _bare(roll: Roll) -> tuple[object, ...]:
    """All that decides who may announce what, and in which order: without what they announce and give away."""
    members = tuple(msgspec.structs.replace(member, announces={}, gives={}) for member in roll.members)
    return (members, roll.adverts, roll.pool_of, roll.ignore_excluded)


def _outdated(members: Iterable[Member]) -> dict[str, frozenset[str]]:
    """Of what cannot be read: the nodes that go by an older version than others. They would not take what these do."""
    there = [member for member in members if member.speaks and member.last_good]
    newest: dict[str, int] = {}
    for key, version in (said for member in there for said in member.last_good.items()):
        newest[key] = max(version, newest.get(key, 0))
    return {
        key: frozenset(member.name for member in there if member.last_good.get(key, best) < best)
        for key, best in newest.items()
    }


def _rank(member: Member) -> Rank:
    if not member.alive:
        return Rank.SILENT
    if member.draining:
        return Rank.DRAINING
    return Rank.SETTLED if member.settled else Rank.UNSETTLED


def _usable(member: Member, way: frozenset[str] | None) -> Iterator[NodeLink]:
    return (link for link in member.links or () if way is None or link.name in way)


def _by_address(wanted: Iterable[Claim]) -> dict[IPAddress, list[Claim]]:
    found: dict[IPAddress, list[Claim]] = {}
    for claim in wanted:
        found.setdefault(claim.address, []).append(claim)
    return found


def holders(members: Iterable[Member]) -> dict[IPAddress, str]:
    """Who announces each address: of several that say so one that lives, and that began last."""
    newest: dict[IPAddress, tuple[bool, float, str]] = {}
    for member in members:
        lives = member.speaks and member.alive
        for address, since in member.announces.items():
            newest[address] = max(newest.get(address, (False, 0.0, "")), (lives, since, member.name))
    return {address: name for address, (_, _, name) in newest.items()}


def _seniority(parts: Sequence[Claim]) -> tuple[float, str, str]:
    """The oldest Service first, so that a newer one moves nobody's place."""
    return min((part.created, part.owner, str(part.address)) for part in parts)


# ── rendezvous ────────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=16_384)
def preference(address: IPAddress | str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The nodes in this address's own order: as good as random, and the same everywhere and always."""
    seed = _seed(str(address))
    return tuple(sorted(names, key=lambda name: _mixed(seed ^ _seed(name))))


@lru_cache(maxsize=65_536)
def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _mixed(value: int) -> int:
    """Every bit of 64 depends on every other (the finalizer of splitmix64: Steele, Lea and Flood, 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)
