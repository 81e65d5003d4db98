"""Who asks for addresses and who has which, as a Book, brought up to date at every look.

The provider owns one. What it knows comes from four sides:

    `Scope.shares`            every Service that we are to serve, with its status, as the stores had it
    `promise`, `give_up`      our own writes, by the lanes: the stores do not tell of them, so they count until the
                              Service is read again
    `Scope.taken`             what lanes in flight are about to write
    `follow_holders`          whoever else holds an address: Services that others serve, and externalIPs

A Service may be read while its lane is in flight, and what was read is then older than the write. So a promise outlives
the first reading after it, and every reading during the flight: better an address is held a moment too long than twice.
"""

import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import NamedTuple, cast

import msgspec

from lbctl.cluster import Kubernetes
from lbctl.errors import Refused
from lbctl.model import IPAddress, LoadBalancer, Node, Owner, Refusal
from lbctl.provider import Scope
from lbctl_l2 import annotations
from lbctl_l2.book import Book
from lbctl_l2.crds import NOTHING, Supply
from lbctl_l2.pool import Pool, Release, remember

ADDRESS = "address"
"""The kind of what is promised."""


class Claimed(NamedTuple):
    """Somebody's externalIPs, what is in his status, and on what terms others may share that, if they may."""

    external: tuple[IPAddress, ...] = ()
    published: tuple[IPAddress, ...] = ()
    terms: object = None


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What one Service asks for and has. A share: a look at one Service knows all the others' by it."""

    load_balancer: LoadBalancer

    @staticmethod
    def of(load_balancer: LoadBalancer) -> "Ask":
        """Without what has nothing to do with addresses, and changes often."""
        return Ask(msgspec.structs.replace(load_balancer, nodes=(), endpoints=None))

    @property
    def owner(self) -> Owner:
        return self.load_balancer.owner

    def __hash__(self) -> int:
        return hash(self.load_balancer.owner)


class Promise(msgspec.Struct, frozen=True, gc=False):
    """What we wrote since a Service was read: addresses that it got, those that it no longer has; after which look."""

    given: tuple[IPAddress, ...] = ()
    gone: tuple[IPAddress, ...] = ()
    look: int = 0


class Ledger:
    """`look` and what follows from it on the planning thread; `promise`, `give_up` and `told` on any."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self._kubernetes = kubernetes
        self.book = Book()
        self.refused: dict[Owner, Refusal] = {}
        """Who contradicts itself, and how."""
        self.silent: set[Owner] = set()
        """Who is in the Book by what it has alone: it is refused, and asks for nothing."""
        self.external: set[Owner] = set()
        """Whose spec.externalIPs claim addresses."""
        self.releases: dict[str, tuple[Release, ...]] = {}
        """By pool."""
        self._lock = threading.Lock()
        self._looks = 0
        self._asks: dict[Owner, Ask] = {}
        self._barred: set[Owner] = set()
        self._promises: dict[Owner, Promise] = {}
        self._kept: set[IPAddress] = set()
        """Of promises that need not be remembered any more."""
        self._renewed: set[Owner] = set()
        self._flying: dict[Owner, tuple[IPAddress, ...]] = {}
        self._told: dict[Owner, Claimed] = {}
        self._news: set[Owner] = set()
        self._supply, self._nodes = NOTHING, tuple[Node, ...]()
        self._pools: tuple[Pool, ...] = ()
        self._remembered: tuple[Release, ...] = ()

    # -- what happens, on any thread ----------------------------------------------------------------------------

    def promise(self, owner: Owner, address: IPAddress) -> None:
        """It is to have this address: its status says so, or will."""
        with self._lock:
            old = self._promises.get(owner, Promise())
            given = tuple(dict.fromkeys((*old.given, address)))
            self._promises[owner] = Promise(given, _without(old.gone, address), self._looks)
            self._renewed.add(owner)

    def give_up(self, owner: Owner, address: IPAddress) -> None:
        """It does not have this address any more: its status says so."""
        with self._lock:
            old = self._promises.get(owner, Promise())
            gone = tuple(dict.fromkeys((*old.gone, address)))
            self._promises[owner] = Promise(_without(old.given, address), gone, self._looks)
            self._renewed.add(owner)

    def told(self, owner: Owner, load_balancer: LoadBalancer | None) -> frozenset[IPAddress]:
        """Somebody's Service, as it is now. The addresses that it claims now and did not before, or the reverse; and
        those that others may share on other terms."""
        now = _claimed(load_balancer)
        with self._lock:
            before = self._told.pop(owner, Claimed())
            if any(now):
                self._told[owner] = now
            self._news.add(owner)
        moved = {*before.external, *before.published} ^ {*now.external, *now.published}
        return frozenset(moved.union(now.published if before.terms != now.terms else ()))

    # -- a look, on the planning thread -------------------------------------------------------------------------

    def look(self, scope: Scope, supply: Supply, nodes: tuple[Node, ...]) -> None:
        """Bring the Book up to date with what the scope and the cluster say now."""
        # Of namespaces' labels nobody tells: whoever looks at everybody asks for them again.
        everybody = set(self._asks) if scope.owners is None else set[Owner]()
        touched = everybody | self._hear(scope) | self._bar(scope)
        old = self.book
        if scope.fresh and scope.owners is None:
            touched |= self._begin_anew(supply)
        self._surround(supply, nodes)
        left, self._kept = self._kept, set()
        for owner in touched:
            before = old.requests.get(owner)
            left.update(before.held if before is not None else ())
            self._update(owner)
        self._release(left, supply, scope.at)

    def _begin_anew(self, supply: Supply) -> set[Owner]:
        """A new Book, as if the process had just begun. Whom it must hear of."""
        everybody = self.book.requests.keys() | self._told.keys()
        self.book, self._pools, self._nodes = Book(supply.pools), supply.pools, ()
        self.book.set_released(self._remembered)
        return everybody

    def _surround(self, supply: Supply, nodes: tuple[Node, ...]) -> None:
        """Pools and nodes, if they are not as they were."""
        if supply.pools != self._pools:
            self._pools = supply.pools
            self.book.set_pools(supply.pools)
        self.book.set_unknown(supply.unknown)
        if nodes is not self._nodes:
            self._nodes = nodes
            self.book.set_nodes(address for node in nodes for address in node.addresses)

    def _hear(self, scope: Scope) -> set[Owner]:
        """Take in what was said since the last look: whom it is about."""
        asked, fresh = self._ask(scope)
        flying = _flying(scope)
        with self._lock:
            self._looks += 1
            news, self._news = self._news, set()
            renewed, self._renewed = self._renewed, set()
            for owner in asked:
                self._settle(owner, owner in self._flying or owner in flying)
            for owner in self._promises.keys() - self._asks.keys():
                self._kept.update(self._promises.pop(owner).given)
        moved = {owner for owner in flying.keys() | self._flying.keys() if flying.get(owner) != self._flying.get(owner)}
        self._flying = flying
        return asked | fresh | news | renewed | moved

    def _ask(self, scope: Scope) -> tuple[set[Owner], set[Owner]]:
        """(who was read anew, who asks no more)."""
        shares = cast("Mapping[Ask, int]", scope.shares)
        known = self._asks
        new = {ask.owner: ask for ask in shares if known.get(ask.load_balancer.owner) is not ask}
        known.update(new)
        gone: set[Owner] = set()
        if len(known) > len(shares):
            gone = known.keys() - {ask.owner for ask in shares}
            for owner in gone:
                del known[owner]
        return set(new), gone

    def _settle(self, owner: Owner, flew: bool) -> None:
        """It was read anew: what was promised is in its status, or was undone there, unless it may have been read
        before the write."""
        promise = self._promises.get(owner)
        if promise is not None and not flew and promise.look < self._looks - 1:
            self._kept.update(self._promises.pop(owner).given)

    def _bar(self, scope: Scope) -> set[Owner]:
        """Who is refused by others, and so asks for nothing; as far as this look says."""
        refused = {refusal.owner for refusal in scope.refused}
        heard = {lb.owner for lb in scope.load_balancers} | refused
        before = self._barred
        self._barred = (before - heard if scope.owners is not None else set()) | refused
        return before ^ self._barred

    def _update(self, owner: Owner) -> None:
        """One Service, as everything says now."""
        self.refused.pop(owner, None)
        self.silent.discard(owner)
        ask = self._asks.get(owner)
        external, published, _ = self._claims(owner)
        if ask is None:
            self.book.remove(owner)
            self._claim(owner, external, published)
            return
        lb = ask.load_balancer
        held = self._holds(lb)
        try:
            request = annotations.request(lb, self._kubernetes.namespaces(lb.namespace), held)
        except Refused as no:
            self.refused[owner] = Refusal(owner, no.reason, no.message)
        else:
            if owner not in self._barred and lb.problem is None:
                self.book.put(request)
                self._claim(owner, lb.external_ips)
                return
        self._silence(lb, held)

    def _silence(self, lb: LoadBalancer, held: tuple[IPAddress, ...]) -> None:
        """It keeps what it has, unless that is another's, and asks for nothing more."""
        self.book.put(annotations.holder(lb, held))
        self.silent.add(lb.owner)
        self._claim(lb.owner, lb.external_ips)

    def _claim(self, owner: Owner, external: Iterable[IPAddress], published: Iterable[IPAddress] = ()) -> None:
        (self.external.add if external else self.external.discard)(owner)
        self.book.claim(owner, external, published)

    def _holds(self, load_balancer: LoadBalancer) -> tuple[IPAddress, ...]:
        """What is in its status, and on its way there."""
        with self._lock:
            promise = self._promises.get(load_balancer.owner, _NO_PROMISE)
        there = [address for address in annotations.addresses(load_balancer) if address not in promise.gone]
        return tuple(dict.fromkeys([*there, *promise.given, *self._flying.get(load_balancer.owner, ())]))

    def _claims(self, owner: Owner) -> Claimed:
        """What somebody claims whom we do not serve."""
        with self._lock:
            return self._told.get(owner, _NO_CLAIM)

    # -- releases -----------------------------------------------------------------------------------------------

    def _release(self, left: Iterable[IPAddress], supply: Supply, now: datetime) -> None:
        """Remember when an address was left that nobody has any more."""
        fresh = [Release(address, now) for address in left if self._is_nobodys(address)]
        if not fresh and supply is self._supply:
            return
        self._supply = supply
        known = dict.fromkeys((*self._remembered, *supply.released, *fresh))
        self.releases = {pool.name: remember(pool, known, now) for pool in supply.pools}
        remembered = tuple(release for found in self.releases.values() for release in found)
        if remembered != self._remembered:
            self._remembered = remembered
            self.book.set_released(remembered)

    def _is_nobodys(self, address: IPAddress) -> bool:
        return not self.book.holders(address) and self.book.foreign(address, NOBODY) is None


NOBODY = Owner("")
_NO_PROMISE, _NO_CLAIM = Promise(), Claimed()


def _without(addresses: tuple[IPAddress, ...], gone: IPAddress) -> tuple[IPAddress, ...]:
    return tuple(address for address in addresses if address != gone)


def _flying(scope: Scope) -> dict[Owner, tuple[IPAddress, ...]]:
    """What lanes in flight are about to give."""
    found: dict[Owner, tuple[IPAddress, ...]] = {}
    for resource in scope.taken:
        if resource.kind == ADDRESS:
            found[resource.owner] = (*found.get(resource.owner, ()), ip_address(resource.fields["address"]))
    return found


def _claimed(load_balancer: LoadBalancer | None) -> Claimed:
    if load_balancer is None:
        return Claimed()
    published = tuple(annotations.addresses(load_balancer))
    return Claimed(load_balancer.external_ips, published, annotations.terms(load_balancer) if published else None)
