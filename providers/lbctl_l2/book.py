"""Who holds which address, who claims one, what is free: an index that follows every event.  PURE (it does no I/O).

The provider keeps one and tells it what it reads; `allocation.py` asks it. Whatever the order of the calls, a Book
equals the one that is made from scratch with the same content (a law). Adding or removing a Service costs O(log n),
and one pass over those who share its address.

What follows from the content is worked out late, address by address (`_settle`) and Service by Service (`_look`): a
change marks what it touches, the next question works those out.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from lbctl.model import DEGRADED, Family, IPAddress, Note, Owner
from lbctl_l2.pool import PRIVATE, Count, Pool, Release, Request, Usage, family, is_private
from lbctl_l2.ranges import BUGGY, Intervals, Range
from lbctl_l2.sharing import alike, clash, keepers, unclear

Turn = tuple[bool, float, Owner]


class Place:
    """One range of a pool: what is taken of it, and what is taken or rests.

    Numbers within are counted without those that the pool avoids, so that these cost nothing.
    """

    def __init__(self, pool: Pool, part: Range, rank: int) -> None:
        self.pool, self.part, self.rank = pool, part, rank
        self._squeezed = pool.avoid_buggy and part.version == 4
        self.first, self.last = self._up(part.first), self._down(part.last)
        self.taken, self.resting = Intervals(), Intervals()
        self.size = max(0, self.last - self.first + 1)
        self.gives = self.size > 0
        """Is it among the Book's ranges of which not everything is taken?"""

    def covers(self, number: int) -> bool:
        """Is it this range's, which begins no later than there?"""
        return number <= self.part.last and not (self._squeezed and number % 256 in BUGGY)

    def number(self, address: IPAddress) -> int:
        return self._up(int(address))

    def address(self, number: int) -> IPAddress:
        if self._squeezed:
            number = number // 254 * 256 + number % 254 + 1
        return self.part.address(number)

    def free(self, numbers: Intervals, private: bool) -> IPAddress | None:
        """The lowest address that is not among these numbers; if `private`, the lowest private one."""
        for first, last in self._windows(private):
            if (number := numbers.gap(first)) <= last:
                return self.address(number)
        return None

    def _windows(self, private: bool) -> Iterator[tuple[int, int]]:
        if not private:
            yield self.first, self.last
            return
        for network in PRIVATE:
            if network.version == self.part.version:
                first = max(self.part.first, int(network.network_address))
                last = min(self.part.last, int(network.broadcast_address))
                if first <= last:
                    yield self._up(first), self._down(last)

    def _up(self, number: int) -> int:
        """The place of this address, or of the next one that is not avoided."""
        return number // 256 * 254 + min(max(number % 256, 1) - 1, 254) if self._squeezed else number

    def _down(self, number: int) -> int:
        """The place of this address, or of the last one before it that is not avoided."""
        return number // 256 * 254 + min(number % 256, 254) - 1 if self._squeezed else number


class _Entry(NamedTuple):
    """Who has an address at the moment, and what that counts for: kept together, so that however many share it, one
    more costs little."""

    tenants: tuple[Request, ...] = ()
    owners: frozenset[Owner] = frozenset()
    namespaces: frozenset[str] = frozenset()
    ports: frozenset[tuple[str, int]] = frozenset()

    def admits(self, request: Request) -> bool:
        """May it move in, as far as one can tell at once? (`clash` looks closer, and says why not.)"""
        return not self.tenants or (alike(self.tenants[0], request) and self.ports.isdisjoint(request.ports))

    def joined(self, *more: Request) -> "_Entry":
        if not self.tenants and len(more) == 1:
            # Nearly everybody is alone. Its ports are the entry's, and take no memory again.
            return _Entry(more, frozenset((more[0].owner,)), frozenset((more[0].namespace,)), more[0].ports)
        return _Entry(
            (*self.tenants, *more),
            self.owners.union([tenant.owner for tenant in more]),
            self.namespaces.union([tenant.namespace for tenant in more]),
            self.ports.union(*[tenant.ports for tenant in more]),
        )


_NOBODY = _Entry()


class Book:
    """Pools, the Services that ask or hold, the addresses that are nobody's to give. Not thread-safe."""

    def __init__(self, pools: Iterable[Pool] = (), nodes: Iterable[IPAddress] = ()) -> None:
        self.requests: dict[Owner, Request] = {}
        self.nodes = frozenset(nodes)
        self.unknown: tuple[str, ...] = ()
        self.stuck: set[Owner] = set()
        """Who was refused, and nothing has happened since that could help: a cache, nothing follows from it."""
        self.bereft: set[Owner] = set()
        """Who lost an address that its status still holds, since somebody emptied this."""
        self._claimants: dict[IPAddress, set[Owner]] = {}
        self._foreign: dict[IPAddress, set[Owner]] = {}
        self._claims: dict[Owner, tuple[frozenset[IPAddress], frozenset[IPAddress]]] = {}
        self._released: dict[IPAddress, datetime] = {}
        self._waiting: list[Turn] = []
        self._unseen: set[Owner] = set()
        self._trial: dict[IPAddress, _Entry] = {}
        self._movers: set[Owner] = set()
        self.set_pools(pools)

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────

    def set_pools(self, pools: Iterable[Pool]) -> None:
        """These are the pools now. Raises ValueError if two overlap (`crds.py` gives none that do)."""
        self.pools = tuple(sorted(pools, key=lambda pool: pool.order))
        self.by_name = {pool.name: pool for pool in self.pools}
        parts = [(pool, part) for pool in self.pools for part in pool.ranges]
        places = [Place(pool, part, rank) for rank, (pool, part) in enumerate(parts)]
        self._ranked = tuple(places)
        self._places = {
            version: sorted((p for p in places if p.part.version == version), key=lambda p: p.part.first)
            for version in (4, 6)
        }
        self._starts = {version: [p.part.first for p in found] for version, found in self._places.items()}
        for found in self._places.values():
            for one, other in pairwise(found):
                if one.part.overlaps(other.part):
                    raise ValueError(f"pool {one.pool.name} ({one.part}) overlaps {other.pool.name} ({other.part})")
        self._by_pool: dict[tuple[str, Family], list[Place]] = {}
        self._spare: dict[tuple[str, Family], list[int]] = {}
        """By rank, the ranges of which not everything is taken."""
        for place in places:
            where = (place.pool.name, family_of(place.part))
            self._by_pool.setdefault(where, []).append(place)
            self._spare.setdefault(where, []).extend([place.rank] if place.gives else ())
        self._index_reservations()
        self._reindex()

    def _index_reservations(self) -> None:
        self.reserved: dict[IPAddress, Owner] = {}
        self.reservations: dict[Owner, list[tuple[IPAddress, Pool]]] = {}
        for pool in self.pools:
            for owner, addresses in sorted(pool.reservations.items()):
                for address in addresses:
                    if pool.covers(address) and self.reserved.setdefault(address, owner) == owner:
                        self.reservations.setdefault(owner, []).append((address, pool))

    def _reindex(self) -> None:
        """Everything is to be worked out anew."""
        self._entries: dict[IPAddress, _Entry] = {}
        self._held: Counter[tuple[str, Family]] = Counter()
        self._quota: Counter[tuple[str, str]] = Counter()
        self._members: defaultdict[str, Counter[Owner]] = defaultdict(Counter)
        self._rooms: dict[tuple[object, ...], list[tuple[int, int]]] = {}
        self._touched: set[IPAddress] = {*self._claimants, *self._foreign, *self.nodes, *self.reserved}
        self._order_rests()
        self._unseen.update(self.requests)
        self.stuck.clear()

    def set_unknown(self, pools: tuple[str, ...]) -> None:
        """Of these pools nobody knows what is theirs: while there are any, who has an address of no pool keeps it."""
        if pools != self.unknown:
            self.unknown = pools
            self._unseen.update(self.requests)
            self.stuck.clear()

    def set_nodes(self, addresses: Iterable[IPAddress]) -> None:
        """These are the nodes' addresses now: never given out."""
        before, self.nodes = self.nodes, frozenset(addresses)
        if before != self.nodes:
            self._touched |= before ^ self.nodes
            self._unseen.update(self.requests)
            self.stuck.clear()

    def set_released(self, releases: Iterable[Release]) -> None:
        """All pools' releases, as their statuses (or memory) have them."""
        self._released = {}
        for release in releases:
            self._released[release.address] = max(release.at, self._released.get(release.address, release.at))
        for address in self._resting:
            if place := self.locate(address):
                _set(place.resting, place.number(address), place.number(address) in place.taken)
        self._order_rests()

    def _order_rests(self) -> None:
        """When each released address has rested enough, the earliest first; from `_awake` on they rest."""
        places = ((self.locate(address), address, at) for address, at in self._released.items())
        rests = ((at + place.pool.cooldown, at, place, address) for place, address, at in places if place)
        self._rests = sorted(rests, key=lambda r: (r[0], r[2].rank, r[2].number(r[3])))
        self._awake = len(self._rests)
        self._resting: dict[IPAddress, datetime] = {}

    def put(self, request: Request) -> None:
        """A Service that we serve: new, changed, or with another status. Replaces what it asked and held before."""
        old = self.requests.get(request.owner)
        if old == request:
            return
        self._helped(old, request)
        if old is not None:
            self._drop(old)
        self.stuck.discard(request.owner)
        self.requests[request.owner] = request
        for address in request.held:
            self._claimants.setdefault(address, set()).add(request.owner)
        self._touched.update(request.held)
        self._unseen.add(request.owner)

    def remove(self, owner: Owner) -> None:
        """It is gone, or not ours to serve any more. Safe to repeat."""
        old = self.requests.pop(owner, None)
        if old is not None:
            self._drop(old)
            self._unseen.discard(owner)
            self.stuck.discard(owner)
            if old.held:
                self.stuck.clear()

    def claim(self, owner: Owner, external_ips: Iterable[IPAddress], published: Iterable[IPAddress] = ()) -> None:
        """Any Service's spec.externalIPs, and what the status of a Service that we do not serve holds. Empty: none."""
        claimed = (frozenset(external_ips), frozenset(published))
        before = self._claims.get(owner, (frozenset(), frozenset()))
        if claimed == before:
            return
        if any(claimed):
            self._claims[owner] = claimed
        else:
            del self._claims[owner]
        for address in before[0] | before[1]:
            _remove(self._foreign, address, owner)
        for address in claimed[0] | claimed[1]:
            self._foreign.setdefault(address, set()).add(owner)
        self._touched |= frozenset().union(*before, *claimed)
        self.stuck.clear()

    def _contested(self, request: Request) -> bool:
        return any(self._claimants.get(address, set()) - {request.owner} for address in request.held)

    def _helped(self, old: Request | None, new: Request) -> None:
        """Could what happened help somebody who was refused? Anything may, but what only takes away."""
        gives = old is not None and not set(old.held) <= set(new.held)
        shares = bool(new.keys or (old is not None and old.keys))
        if gives or shares or self._contested(new):
            self.stuck.clear()

    def _drop(self, old: Request) -> None:
        """Forget what it asked and held."""
        for address in old.held:
            _remove(self._claimants, address, old.owner)
        self._touched.update(old.held)
        self._wait(old, waits=False)

    # ── what follows ──────────────────────────────────────────────────────────────────────────────────────────────

    def _settled(self) -> None:
        """Everything that was touched is worked out."""
        touched, self._touched = self._touched, set()
        for address in touched:
            self._settle(address)
        unseen, self._unseen = self._unseen, set()
        for owner in unseen:
            self._look(self.requests[owner])

    def _settle(self, address: IPAddress) -> None:
        """Who has the address, and all that is counted by it."""
        before = self._entries.get(address, _NOBODY)
        claimants = self._claimants.get(address, set())
        now = _NOBODY.joined(*keepers([self.requests[owner] for owner in claimants])) if claimants else _NOBODY
        self._become(address, before, now)
        if claimants:
            self.bereft |= (before.owners - now.owners) & claimants
            self._unseen |= (before.owners ^ now.owners) & claimants

    def _become(self, address: IPAddress, before: _Entry, now: _Entry) -> None:
        """Count what it is now, and no more what it was."""
        place = self.locate(address)
        if now.tenants:
            self._entries[address] = now
        else:
            self._entries.pop(address, None)
        if place is not None:
            number = place.number(address)
            self._count(place, number, before, now)
            self._mark(place, number, address, bool(now.tenants))

    def _count(self, place: Place, number: int, before: _Entry, now: _Entry) -> None:
        pool, members = place.pool.name, self._members[place.pool.name]
        self._held[pool, family_of(place.part)] += bool(now.tenants) - bool(before.tenants)
        for namespace in now.namespaces ^ before.namespaces:
            self._quota[pool, namespace] += 1 if namespace in now.namespaces else -1
        for owner in now.owners ^ before.owners:
            members[owner] += 1 if owner in now.owners else -1
            if not members[owner]:
                del members[owner]
        left, entered = _room(place, before), _room(place, now)
        if left != entered:
            self._enter(left, (place.rank, number), -1)
            self._enter(entered, (place.rank, number), 1)

    def _enter(self, room: tuple[object, ...] | None, where: tuple[int, int], sign: int) -> None:
        if room is None:
            return
        known = self._rooms.setdefault(room, [])
        if sign > 0:
            insort(known, where)
        else:
            del known[bisect_left(known, where)]
            if not known:
                del self._rooms[room]

    def _mark(self, place: Place, number: int, address: IPAddress, held: bool) -> None:
        taken = held or address in self._foreign or address in self.nodes or address in self.reserved
        _set(place.taken, number, taken)
        _set(place.resting, number, taken or address in self._resting)
        self._spare_or_not(place)

    def _spare_or_not(self, place: Place) -> None:
        """Is the range one that has something to give?"""
        gives = place.taken.count < place.size
        if gives == place.gives:
            return
        place.gives, spare = gives, self._spare[place.pool.name, family_of(place.part)]
        if gives:
            insort(spare, place.rank)
        else:
            spare.remove(place.rank)

    def _look(self, request: Request) -> None:
        """Does it wait for something?"""
        self._wait(request, waits=len(self.fitting(request)) < len(request.families))

    def _wait(self, request: Request, *, waits: bool) -> None:
        turn = request.turn
        at = bisect_left(self._waiting, turn)
        there = at < len(self._waiting) and self._waiting[at] == turn
        if waits and not there:
            self._waiting.insert(at, turn)
        elif there and not waits:
            del self._waiting[at]

    # ── questions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def locate(self, address: IPAddress) -> Place | None:
        """The range that covers it."""
        version, number = address.version, int(address)
        at = bisect_right(self._starts[version], number) - 1
        if at < 0:
            return None
        place = self._places[version][at]
        return place if place.covers(number) else None

    def pool_of(self, address: IPAddress) -> str:
        """The pool that covers the address, "" for none."""
        place = self.locate(address)
        return place.pool.name if place else ""

    def holders(self, address: IPAddress) -> tuple[Owner, ...]:
        """Who holds it rightfully, the oldest first."""
        self._settled()
        return tuple(tenant.owner for tenant in self.tenants(address))

    def tenants(self, address: IPAddress) -> tuple[Request, ...]:
        """Who holds it rightfully, or is to get it in the allocation that is under way."""
        return self._entries.get(address, _NOBODY).tenants

    def namespaces(self, address: IPAddress) -> frozenset[str]:
        """Of its tenants."""
        return self._entries.get(address, _NOBODY).namespaces

    def at_home(self, address: IPAddress, namespace: str) -> bool:
        """Does somebody of the namespace have the address, who does not leave it in the allocation under way?"""
        entry = self._entries.get(address, _NOBODY)
        if namespace not in entry.namespaces or not self._movers:
            return namespace in entry.namespaces
        return any(not self._leaves(tenant, address) for tenant in entry.tenants if tenant.namespace == namespace)

    def _leaves(self, tenant: Request, address: IPAddress) -> bool:
        return tenant.owner in self._movers and bool(self.unfit(tenant, address))

    def clash(self, address: IPAddress, request: Request, pool: Pool) -> tuple[str, str] | None:
        """Why it cannot move in with the tenants: a reason and a sentence. See `clash`."""
        entry = self._entries.get(address, _NOBODY)
        at_home = pool.sharing == "cluster" or entry.namespaces <= {request.namespace}
        if at_home and entry.admits(request):
            return None
        return clash(request, entry.tenants, pool) or unclear(entry.tenants)

    def foreign(self, address: IPAddress, owner: Owner) -> Owner | None:
        """Somebody else who claims it by externalIPs, or by a status that we do not serve."""
        return min(self._foreign.get(address, set()) - {owner}, default=None)

    def rightful(self, request: Request) -> tuple[IPAddress, ...]:
        """Those of the addresses in its status that are its own."""
        return tuple(a for a in request.held if request.owner in self._entries.get(a, _NOBODY).owners)

    def wish(self, request: Request, wanted: Family) -> IPAddress | None:
        """The one address that it must have: by its own word, else by a reservation."""
        for address in request.addresses:
            if family(address) == wanted:
                return address
        for address, pool in self.reservations.get(request.owner, ()):
            if family(address) == wanted and request.pool in ("", pool.name):
                return address
        return None

    def fitting(self, request: Request) -> dict[Family, IPAddress]:
        """Those of its own addresses that are as it asks, one of a family."""
        found: dict[Family, IPAddress] = {}
        for address in self.rightful(request):
            if family(address) in request.families and not self.unfit(request, address):
                found.setdefault(family(address), address)
        return found

    def unfit(self, request: Request, address: IPAddress) -> str:
        """Why it should have another address, as a sentence; "" if it should not."""
        pool, wish = self.pool_of(address), self.wish(request, family(address))
        if not pool and not self.unknown:
            return f"{address} lies in no pool any more"
        if address in self.nodes:
            return f"{address} is the address of a node"
        if request.scheme == "internal" and not is_private(address):
            return f"{address} is no private address, and it is to be internal"
        if wish is not None and wish != address:
            return f"it has {address}, and is to have {wish}"
        if pool and request.pool and request.pool != pool:
            return f"it has {address} of the pool {pool}, and asks for {request.pool}"
        return ""

    def waiting(self) -> Iterator[Request]:
        """Who does not have all that it asks for, first come first."""
        self._settled()
        return (self.requests[owner] for _undated, _created, owner in tuple(self._waiting))

    def used_by(self, pool: str, namespace: str) -> int:
        """How many of the pool's addresses a namespace holds."""
        return self._quota[pool, namespace]

    def usage(self, now: datetime) -> Mapping[str, Usage]:
        """By pool."""
        self._settled()
        self.cool(now)
        return {pool.name: self._usage(pool) for pool in self.pools}

    def _usage(self, pool: Pool) -> Usage:
        return Usage(
            self._counted(pool.name, "IPv4"),
            self._counted(pool.name, "IPv6"),
            services=len(self._members.get(pool.name, ())),
            reserved=sum(self.pool_of(address) == pool.name for address in self.reserved),
            cooling=sum(self.pool_of(address) == pool.name for address in self._resting),
        )

    def _counted(self, pool: str, wanted: Family) -> Count:
        places = self._by_pool.get((pool, wanted), ())
        total = sum(place.size for place in places)
        return Count(total, self._held[pool, wanted], total - sum(place.taken.count for place in places))

    def conflicts(self) -> tuple[Note, ...]:
        """`external-ip-conflict`: Services whose externalIPs name an address of a pool that they do not own."""
        self._settled()
        found = (
            _conflict(owner, address, self.pool_of(address), self.tenants(address))
            for owner, (external_ips, _published) in sorted(self._claims.items())
            for address in sorted(external_ips, key=lambda a: (a.version, int(a)))
            if self.pool_of(address) and owner not in self._entries.get(address, _NOBODY).owners
        )
        return tuple(found)

    # ── for an allocation that is under way ───────────────────────────────────────────────────────────────────────

    def cool(self, now: datetime) -> None:
        """Work out which released addresses rest at that time."""
        awake = bisect_right(self._rests, now, key=lambda rest: rest[0])
        for _until, at, place, address in self._rests[min(awake, self._awake) : max(awake, self._awake)]:
            number = place.number(address)
            if awake < self._awake:
                self._resting[address] = at
            else:
                del self._resting[address]
            _set(place.resting, number, number in place.taken or address in self._resting)
        self._awake = awake

    def offers(self, pool: Pool, wanted: Family) -> bool:
        """Has the pool addresses of this family, free or not?"""
        return (pool.name, wanted) in self._by_pool

    def full(self, pool: Pool, wanted: Family) -> bool:
        """Has the pool no address of this family that is not taken?"""
        return not self._spare.get((pool.name, wanted))

    def free(self, pool: Pool, wanted: Family, *, private: bool = False) -> IPAddress | None:
        """The first free address, in the order of the ranges; where all that is free rests, what rests the longest."""
        for rank in self._spare.get((pool.name, wanted), ()):
            place = self._ranked[rank]
            if (address := place.free(place.resting, private)) is not None:
                return address
        return self._rested(pool, wanted, private)

    def _rested(self, pool: Pool, wanted: Family, private: bool) -> IPAddress | None:
        usable = [
            (at, place.rank, place.number(address), address)
            for address, at in self._resting.items()
            if (place := self.locate(address)) is not None and place.pool.name == pool.name
            and family(address) == wanted and place.number(address) not in place.taken
            and (is_private(address) or not private)
        ]
        return min(usable)[-1] if usable else None

    def roommates(self, pool: Pool, wanted: Family, request: Request) -> Iterator[IPAddress]:
        """Addresses that it might share, in the order of the pool's ranges."""
        for rank, number in self._rooms.get(_room_of(pool, wanted, request), ()):
            yield self._ranked[rank].address(number)

    @property
    def promises(self) -> bool:
        """Was anything given to anybody since the last `undo`?"""
        return bool(self._trial)

    def take(self, address: IPAddress, request: Request) -> None:
        """Until `undo` the address counts as given to this one, which leaves what does not fit any more."""
        if request.held:
            self._movers.add(request.owner)
        before = self._entries.get(address, _NOBODY)
        self._trial.setdefault(address, before)
        self._become(address, before, before.joined(request))

    def undo(self) -> None:
        """Nothing was given to anybody."""
        trial, self._trial = self._trial, {}
        self._movers.clear()
        # The last first: what was taken side by side leaves from its end, and no interval falls apart meanwhile.
        for address, before in reversed(trial.items()):
            self._become(address, self._entries[address], before)


def family_of(part: Range) -> Family:
    return "IPv4" if part.version == 4 else "IPv6"


def _room(place: Place, entry: _Entry) -> tuple[object, ...] | None:
    """Who might move in with the tenants: those whose room is the same."""
    for tenant in entry.tenants:
        if tenant.key:
            return _room_of(place.pool, family_of(place.part), tenant)
    return None


def _room_of(pool: Pool, wanted: Family, request: Request) -> tuple[object, ...]:
    return pool.name, wanted, request.key, request.backend, request.namespace if pool.sharing == "namespace" else ""


def _conflict(owner: Owner, address: IPAddress, pool: str, tenants: tuple[Request, ...]) -> Note:
    whose = f"{tenants[0].owner} has it" if tenants else "nobody has it yet"
    return Note(
        owner,
        DEGRADED,
        "external-ip-conflict",
        f"spec.externalIPs names {address}, which lies in the pool {pool} ({whose}): take it out, or ask for it by "
        "lbctl.io/load-balancer-ips on a Service of type LoadBalancer",
    )


def _set(numbers: Intervals, number: int, present: bool) -> None:
    if present:
        numbers.add(number)
    else:
        numbers.discard(number)


def _remove(index: dict[IPAddress, set[Owner]], address: IPAddress, owner: Owner) -> None:
    owners = index.get(address, set())
    owners.discard(owner)
    if not owners:
        index.pop(address, None)
