"""What addresses there are, who asks for some, and what the answer is: the values of allocation.  PURE.

    pool.py          the values (this page)
    ranges.py        ranges of addresses, intervals
    sharing.py       who may share an address, and who keeps it when sharers part
    book.py          `Book`: who holds what, indexed; kept up to date event by event
    allocation.py    `allocate(book, owners, now)`: what each Service's status ought to hold, or why not
    crds.py          cluster objects and files → Pool, Advertisement, problems
    annotations.py   LoadBalancer → Request

The answer depends on pools, requests (with the addresses that their statuses hold), the addresses of nodes, claims by
externalIPs, the list of releases and the time; never on what happened before.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

import msgspec

from lbctl.model import Family, IPAddress, Note, Owner, Refusal, Scheme
from lbctl_l2.ranges import BUGGY, Range

Sharing = Literal["namespace", "cluster"]
Source = Literal["AddressPool", "IPAddressPool", "settings"]

COOLDOWN = timedelta(minutes=5)
"""How long an address rests after its release, where the pool does not say: most DNS answers live no longer."""

RELEASES = 256
"""How many releases a pool remembers."""

TOLD = 8
"""So many pools, and ranges of a pool, are named in a sentence; of more, their number."""

PRIVATE = (
    IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"), IPv6Network("fc00::/7"),
)
"""Addresses that an internal Service may have (RFC 1918, RFC 4193)."""


def is_private(address: IPAddress) -> bool:
    return any(address in network for network in PRIVATE)


def family(address: IPAddress) -> Family:
    return "IPv4" if address.version == 4 else "IPv6"


# ── selectors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Requirement(msgspec.Struct, frozen=True, gc=False):
    """One matchExpression of a label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def met(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


class Selector(msgspec.Struct, frozen=True, gc=False):
    """A Kubernetes label selector: all requirements must be met, so one without any matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.met(labels) for requirement in self.requirements)


def any_match(selectors: Iterable[Selector], labels: Mapping[str, str]) -> bool:
    return any(selector.matches(labels) for selector in selectors)


# ── supply ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Pool(msgspec.Struct, frozen=True):
    """Addresses to give out, and to whom. `ranges` do not overlap, neither within a pool nor between pools.

    auto_assign          False: only for who asks for the pool or an address by name
    avoid_buggy          IPv4 addresses that end in .0 or .255 are no part of it
    pinned               it says for whom it is (MetalLB's serviceAllocation): such pools come first
    priority             among pinned pools: lower numbers first, 0 last; equal ones by name
    namespaces …         a namespace by name or by label, AND a Service by label; OR inside each list; empty lists do
                         not ask, but a selector that matches nothing opens nothing
    sharing              may Services of different namespaces share an address?
    reservations         `namespace/name` → its addresses here, whether that Service exists or not
    max_per_namespace    addresses that one namespace may hold here; 0 for any number
    cooldown             how long an address rests after its release, while there are others
    labels               of the object, for advertisements that select pools by label
    closed               why it gives nothing new (`bgp-not-served`), "" if it does; who holds an address keeps it
    """

    name: str
    ranges: tuple[Range, ...]
    auto_assign: bool = True
    avoid_buggy: bool = False
    pinned: bool = False
    priority: int = 0
    namespaces: tuple[str, ...] = ()
    namespace_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()
    sharing: Sharing = "namespace"
    reservations: Mapping[Owner, tuple[IPAddress, ...]] = {}
    max_per_namespace: int = 0
    cooldown: timedelta = COOLDOWN
    labels: Mapping[str, str] = {}
    source: Source = "AddressPool"
    closed: str = ""

    @property
    def order(self) -> tuple[bool, bool, int, str]:
        """Pools are tried in this order, always."""
        return (not self.pinned, self.priority == 0, self.priority, self.name)

    @property
    def families(self) -> frozenset[Family]:
        return frozenset("IPv4" if part.version == 4 else "IPv6" for part in self.ranges)

    def covers(self, address: IPAddress) -> bool:
        """Is the address this pool's to give?"""
        return any(address in part for part in self.ranges) and not (self.avoid_buggy and is_buggy(address))

    def admits(self, namespace: str, namespace_labels: Mapping[str, str] | None, labels: Mapping[str, str]) -> bool:
        """May a Service with these labels, in that namespace, have an address from here?"""
        asks = bool(self.namespaces or self.namespace_selectors)
        by_label = namespace_labels is not None and any_match(self.namespace_selectors, namespace_labels)
        if asks and namespace not in self.namespaces and not by_label:
            return False
        return not self.service_selectors or any_match(self.service_selectors, labels)

    def __str__(self) -> str:
        more = f" and {len(self.ranges) - TOLD} more" if len(self.ranges) > TOLD else ""
        return f"{self.name} ({', '.join(map(str, self.ranges[:TOLD]))}{more})"


def is_buggy(address: IPAddress) -> bool:
    """Does it end in .0 or .255? (IPv4 only, whatever the subnet is, as MetalLB does.)"""
    return address.version == 4 and int(address) % 256 in BUGGY


class Advertisement(msgspec.Struct, frozen=True):
    """From where which pools' addresses are announced. Pools that are selected by label are resolved to names.

    pools              names; None for all pools
    node_selectors     empty for all nodes
    service_selectors  empty for all Services
    interfaces         names; empty for all
    source             the API group that it is of
    """

    name: str
    pools: frozenset[str] | None = None
    node_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()
    interfaces: tuple[str, ...] = ()
    source: str = "lbctl.io"

    def serves(self, pool: str) -> bool:
        return self.pools is None or pool in self.pools

    def admits(self, service: Mapping[str, str]) -> bool:
        """By the Service's labels."""
        return not self.service_selectors or any_match(self.service_selectors, service)

    def selects(self, node: Mapping[str, str]) -> bool:
        """By the node's labels."""
        return not self.node_selectors or any_match(self.node_selectors, node)


class Release(msgspec.Struct, frozen=True, gc=False):
    """An address was given back at that time."""

    address: IPAddress
    at: datetime


class Count(msgspec.Struct, frozen=True, gc=False):
    """How much of one family a pool has. `available` is what a Service that asks for nothing special could get."""

    total: int = 0
    assigned: int = 0
    available: int = 0


class Usage(msgspec.Struct, frozen=True, gc=False):
    """How much of a pool is used. `services` hold an address here, `cooling` addresses rest."""

    ipv4: Count = Count()
    ipv6: Count = Count()
    services: int = 0
    reserved: int = 0
    cooling: int = 0


# ── demand ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Request(msgspec.Struct, frozen=True, gc=False):
    """What one Service asks for (`annotations.request` makes it), and what it holds.

    created    who comes first; None (a file's Service) comes last
    families   in the Service's order; `required` says that it must have both
    held       addresses in its status, and such as were promised to it and are on their way there
    addresses  those that it asks for by name, at most one of a family
    pool       the pool that it asks for, "" for any
    key        what it shares addresses by, "" for not at all
    torn       the keys that it says, if these are several: nobody knows by which of them it shares
    backend    who may answer: "" for everybody (externalTrafficPolicy Cluster), else its selector
    ports      (protocol, port): no two sharers have the same
    """

    owner: Owner
    created: datetime | None = None
    labels: Mapping[str, str] = {}
    namespace_labels: Mapping[str, str] | None = None
    families: tuple[Family, ...] = ("IPv4",)
    required: bool = False
    held: tuple[IPAddress, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    pool: str = ""
    key: str = ""
    torn: tuple[str, ...] = ()
    backend: str = ""
    ports: frozenset[tuple[str, int]] = frozenset()
    scheme: Scheme | None = None

    @property
    def namespace(self) -> str:
        return self.owner.partition("/")[0]

    @property
    def keys(self) -> tuple[str, ...]:
        """By which it may be that it shares."""
        return (self.key,) if self.key else self.torn

    @property
    def turn(self) -> tuple[bool, float, Owner]:
        """First come, first served: by creation, then by name."""
        return (self.created is None, self.created.timestamp() if self.created else 0.0, self.owner)


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What one Service's status ought to hold.

    addresses  in the order of its families; of a refused Service: what it keeps. Empty: it may hold none
    pools      in which pool each of them lies, "" for one that lies in none
    refusal    why it does not get all that it asks for
    notes      what its user should know, though it is served
    """

    owner: Owner
    addresses: tuple[IPAddress, ...] = ()
    pools: tuple[str, ...] = ()
    refusal: Refusal | None = None
    notes: tuple[Note, ...] = ()


# ── releases ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def remember(pool: Pool, releases: Iterable[Release], now: datetime) -> tuple[Release, ...]:
    """Those of the releases that are the pool's: the oldest first, each address once, while they rest, 256 at most.

    What was released later than now, by a clock that was wrong then or is now, was released now.
    """
    newest: dict[IPAddress, Release] = {}
    past = (release if release.at <= now else Release(release.address, now) for release in releases)
    for release in sorted(past, key=lambda r: (r.at, r.address.version, int(r.address))):
        newest.pop(release.address, None)
        if pool.covers(release.address) and now - release.at < pool.cooldown:
            newest[release.address] = release
    return tuple(newest.values())[-RELEASES:]
