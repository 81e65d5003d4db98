"""Pools and advertisements, decoded: our own resources, MetalLB's, and files of either.  PURE.

    lbctl.io/v1alpha1     AddressPool, L2Advertisement         cluster-scoped
    metallb.io/v1beta1    IPAddressPool, L2Advertisement       as they are, of one namespace
    metallb.io            BGPPeer, BGPAdvertisement …          said to be not served, never passed over
    a list of texts       ranges: one pool `default`, announced from everywhere (labs, CI)

`provider.py` and `speaker.py` ask at every look: `supply(sort by sort, last)`. What cannot be served becomes a
`Problem`, and the last good one of the same name stays. Pools that have not changed since go before changed ones, so
that an edit which overlaps is refused, not the pool that it overlaps with; after a restart the older one goes first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from lbctl.cluster import Object, Watch
from lbctl.model import IPAddress, Owner
from lbctl_l2.pool import (
    COOLDOWN,
    Advertisement,
    Count,
    Pool,
    Release,
    Requirement,
    Selector,
    Sharing,
    Source,
    Usage,
    any_match,
    is_buggy,
)
from lbctl_l2.ranges import Plots, Range, parse

ADDRESS_POOLS = Watch("addresspools", "lbctl.io", "v1alpha1")
L2_ADVERTISEMENTS = Watch("l2advertisements", "lbctl.io", "v1alpha1")
RANGES = Watch("addresspools", "settings")
"""No sort of the cluster's: the pool that plain ranges in the settings make, which kubectl cannot show."""

DEFAULT = "default"
"""The pool, and the advertisement, that a plain list of ranges makes."""

LONGEST = 2**30
"""The longest rest of an address, in seconds: so that times stay within what a clock can say."""

LARGEST = 2**63 - 1
"""The largest number that a status can say (int64): an IPv6 pool is often larger, and then it says this."""


def metallb(namespace: str) -> tuple[Watch, ...]:
    """What MetalLB's configuration is made of, where its CRDs are installed."""
    beta1 = ("ipaddresspools", "l2advertisements", "bgpadvertisements", "communities", "bfdprofiles")
    sorts = [Watch(plural, "metallb.io", "v1beta1", namespace) for plural in beta1]
    return (*sorts, Watch("bgppeers", "metallb.io", "v1beta2", namespace))


_KINDS: Mapping[tuple[str, str], str] = {
    ("lbctl.io", "AddressPool"): "addresspools",
    ("lbctl.io", "L2Advertisement"): "l2advertisements",
    ("metallb.io", "IPAddressPool"): "ipaddresspools",
    ("metallb.io", "L2Advertisement"): "l2advertisements",
    ("metallb.io", "BGPAdvertisement"): "bgpadvertisements",
    ("metallb.io", "BGPPeer"): "bgppeers",
    ("metallb.io", "Community"): "communities",
    ("metallb.io", "BFDProfile"): "bfdprofiles",
}
_KIND_OF: Mapping[tuple[str, str], str] = {
    **{(group, plural): kind for (group, kind), plural in _KINDS.items()},
    (RANGES.group, RANGES.plural): "settings",
}
_BGP = ("bgppeers", "bgpadvertisements", "communities", "bfdprofiles")


LAST_GOOD = "; until it is mended, its last good version is served"


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with an object, as a stable reason and a sentence with the way out.

    `served` says whether it is served nevertheless (or its last good version is).
    """

    kind: str
    name: str
    reason: str
    message: str
    served: bool = False


class Supply(msgspec.Struct, frozen=True, dict=True):
    """Everything that one look at the cluster (or a file) gave: what to serve, and what is wrong.

    `read` are the pools as their objects said, before advertisements closed any: tells an edit from a repetition.
    """

    pools: tuple[Pool, ...] = ()
    advertisements: tuple[Advertisement, ...] = ()
    released: tuple[Release, ...] = ()
    problems: tuple[Problem, ...] = ()
    read: Mapping[str, Pool] = {}

    @property
    def unknown(self) -> tuple[str, ...]:
        """Pools of which no good version is known (any more): an address that lies in no pool may be one of theirs."""
        wrong = (problem for problem in self.problems if problem.reason in _NO_POOL and not problem.served)
        return tuple(sorted({problem.name for problem in wrong}))

    def pool_of(self, address: IPAddress) -> str:
        """The pool that covers the address, "" for none. However many there are: every Service is asked for."""
        found = self._plots.overlapping(Range(address.version, int(address), int(address)))
        avoided = found is not None and is_buggy(address) and found[1] in self._avoiding
        return found[1] if found is not None and not avoided else ""

    @cached_property
    def _plots(self) -> Plots:
        plots = Plots()
        for pool in self.pools:
            for part in pool.ranges:
                plots.add(part, pool.name)
        return plots

    @cached_property
    def _avoiding(self) -> frozenset[str]:
        return frozenset(pool.name for pool in self.pools if pool.avoid_buggy)


NOTHING = Supply()

_NO_POOL = ("invalid-pool", "overlapping-pool")

Found = tuple[Watch, Object]
"""An object, and what sort it is of."""


# ── the objects' own shape ────────────────────────────────────────────────────────────────────────────────────────────


class _Shape(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The fields of something. A field that nobody knows might have been meant to narrow it down: it is refused."""


class _Expression(_Shape, frozen=True):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] | None = None


class _Selector(_Shape, frozen=True):
    match_labels: Mapping[str, str] | None = None
    match_expressions: tuple[_Expression, ...] | None = None


class _Allocation(_Shape, frozen=True):
    priority: int = 0
    namespaces: tuple[str, ...] | None = None
    namespace_selectors: tuple[_Selector, ...] | None = None
    service_selectors: tuple[_Selector, ...] | None = None


class _Reservation(_Shape, frozen=True):
    service: Annotated[str, msgspec.Meta(pattern="^[^/]+/[^/]+$")]
    addresses: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class _IPAddressPool(_Shape, frozen=True, forbid_unknown_fields=False):
    """MetalLB's: fields that nobody knows are told and passed over, as the API server does."""

    addresses: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    auto_assign: bool | None = None
    avoid_buggy_ips: bool = msgspec.field(default=False, name="avoidBuggyIPs")
    service_allocation: _Allocation | None = None


class _AddressPool(_IPAddressPool, frozen=True, forbid_unknown_fields=True):
    """Ours: MetalLB's fields and more."""

    sharing: Sharing = "namespace"
    reservations: tuple[_Reservation, ...] = ()
    max_per_namespace: Annotated[int, msgspec.Meta(ge=0)] = 0
    cooldown_seconds: Annotated[int, msgspec.Meta(ge=0, le=LONGEST)] = int(COOLDOWN.total_seconds())


class _Preference(_Shape, frozen=True):
    weight: int
    preference: _Selector


class _Adverts(_Shape, frozen=True, forbid_unknown_fields=False):
    """What says which pools: L2Advertisement and BGPAdvertisement."""

    ip_address_pools: tuple[str, ...] | None = None
    ip_address_pool_selectors: tuple[_Selector, ...] | None = None


class _L2Advertisement(_Adverts, frozen=True, forbid_unknown_fields=True):
    node_selectors: tuple[_Selector, ...] | None = None
    service_selectors: tuple[_Selector, ...] | None = None
    interfaces: tuple[str, ...] | None = None


class _MetalLBAdvertisement(_L2Advertisement, frozen=True, forbid_unknown_fields=False):
    preferred_node_selectors: tuple[_Preference, ...] | None = None


class _Released(_Shape, frozen=True):
    address: str
    at: Annotated[datetime, msgspec.Meta(tz=True)]


class _Status(_Shape, frozen=True, forbid_unknown_fields=False):
    released: tuple[_Released, ...] | None = None


class Wrong(ValueError):
    """Why an object cannot be served: a reason and a sentence. Never leaves this module."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


# ── where objects come from ───────────────────────────────────────────────────────────────────────────────────────────


def read(objects: Callable[[Watch], Sequence[Object]], watches: Iterable[Watch]) -> tuple[Found, ...]:
    """All objects of these sorts (`Harness.kubernetes.objects`)."""
    return tuple((watch, item) for watch in watches for item in objects(watch) if not item.deleting)


def manifests(documents: Iterable[Any]) -> tuple[tuple[Found, ...], tuple[Problem, ...]]:
    """Documents of a file: objects, lists of objects, and ranges as plain texts; and those that are none of these."""
    texts: list[str] = []
    found: list[Found] = []
    problems: list[Problem] = []
    for document in _flat(documents):
        if isinstance(document, str):
            texts.append(document)
        elif isinstance(document, Mapping):
            one = _manifest(document)
            (problems if isinstance(one, Problem) else found).append(one)  # type: ignore[arg-type]
        else:
            problems.append(Problem("", "", "unknown-kind", f"{document!r:.80} is neither an object nor a range"))
    return (*found, *_plain(texts)), tuple(problems)


def _flat(documents: Iterable[Any]) -> Iterator[Any]:
    for document in documents:
        if isinstance(document, Mapping) and isinstance(document.get("items"), Sequence):
            yield from _flat(document["items"])
        elif isinstance(document, Sequence) and not isinstance(document, str):
            yield from _flat(document)
        elif document is not None:
            yield document


def _manifest(document: Mapping[str, Any]) -> Found | Problem:
    kind, meta = str(document.get("kind", "")), _mapping(document.get("metadata"))
    group, _, version = str(document.get("apiVersion", "")).partition("/")
    plural = _KINDS.get((group, kind))
    name = str(meta.get("name", ""))
    if plural is None:
        known = ", ".join(sorted({f"{group}/{kind}" for group, kind in _KINDS}))
        message = f"{group}/{kind} is no part of the pools' configuration; known are {known}"
        return Problem(kind, name, "unknown-kind", message)
    if not name:
        return Problem(kind, name, "unnamed", f"a {kind} has no metadata.name: give it one")
    item = Object(
        name,
        str(meta.get("namespace", "")),
        labels={str(key): str(value) for key, value in _mapping(meta.get("labels")).items()},
        spec=_mapping(document.get("spec")),
        status=_mapping(document.get("status")),
    )
    return Watch(plural, group, version, item.namespace), item


def _mapping(said: Any) -> Mapping[str, Any]:
    """A file may say anything: what is no mapping says nothing here, and lacks its required fields."""
    return {str(key): value for key, value in said.items()} if isinstance(said, Mapping) else {}


def _plain(texts: Sequence[str]) -> tuple[Found, ...]:
    """A list of ranges as the objects that would say the same."""
    if not texts:
        return ()
    pool = Object(DEFAULT, spec={"addresses": tuple(texts)})
    advertisement = Object(DEFAULT, spec={"ipAddressPools": (DEFAULT,)})
    return (RANGES, pool), (L2_ADVERTISEMENTS, advertisement)


# ── what is served ────────────────────────────────────────────────────────────────────────────────────────────────────


def supply(found: Iterable[Found], last: Supply = NOTHING) -> Supply:
    """All objects, whatever their order, as pools and advertisements; last good ones come from `last`."""
    objects = sorted(found, key=_seniority)
    problems = [problem for watch, item in objects for problem in _told(watch, item)]
    read = _pools(_of(objects, "addresspools", "ipaddresspools"), last, problems)
    pools = [read[name] for name in sorted(read)]
    adverts = _advertisements(_of(objects, "l2advertisements"), pools, last, problems)
    bgp = _by_bgp(_of(objects, "bgpadvertisements"), pools)
    pools = [_announced(pool, adverts, bgp, problems) for pool in pools]
    released = [r for watch, item in _of(objects, "addresspools") for r in _released(watch, item, problems)]
    return Supply(tuple(pools), tuple(adverts), tuple(released), tuple(problems), read)


def _seniority(found: Found) -> tuple[bool, datetime, str, str, str]:
    watch, item = found
    created = item.created or datetime.max.replace(tzinfo=UTC)
    return item.created is None, created, item.name, watch.group, watch.plural


def _of(objects: Iterable[Found], *plurals: str) -> list[Found]:
    return [(watch, item) for watch, item in objects if watch.plural in plurals]


def _kind(watch: Watch) -> str:
    """What people call it. Where ours has the same name, MetalLB's has its group before it."""
    kind = _KIND_OF.get((watch.group, watch.plural), watch.plural)
    return kind if watch.group != "metallb.io" or ("lbctl.io", kind) not in _KINDS else f"{watch.group}/{kind}"


_NOT_SERVED = {
    "preferredNodeSelectors": "spec.preferredNodeSelectors has no effect: any node that spec.nodeSelectors allow may "
    "be elected; narrow those down, or take it out",
}
"""Fields of MetalLB's L2Advertisement that are known, and not served."""


def _told(watch: Watch, item: Object) -> Iterator[Problem]:
    """What is not served at all, and fields that are not."""
    kind = _kind(watch)
    if watch.plural in _BGP:
        yield Problem(
            kind, item.name, "bgp-not-served",
            "lbctl announces by ARP and NDP, not by BGP: it has no effect; make an L2Advertisement for the pools "
            "that it was for, where there is none",
        )
    shapes: dict[str, type[_Shape]] = {"ipaddresspools": _IPAddressPool, "l2advertisements": _MetalLBAdvertisement}
    shape = shapes.get(watch.plural)
    if shape is not None and watch.group == "metallb.io":
        for field in sorted(item.spec.keys() - {field.encode_name for field in msgspec.structs.fields(shape)}):
            message = f"spec.{field} is no field that lbctl knows, and has no effect: see how it is spelt"
            yield Problem(kind, item.name, "unknown-field", message, served=True)
        yield from (Problem(kind, item.name, "field-not-served", why, served=True)
                    for field, why in _NOT_SERVED.items() if field in item.spec)  # fmt: skip


S = TypeVar("S", bound=_Shape)


def _read(item: Object, shape: type[S]) -> S:
    try:
        return msgspec.convert(item.spec, shape)
    except msgspec.ValidationError as error:
        # msgspec says where by `$.field`, which is `spec.field` to a user.
        raise Wrong("invalid", str(error).replace("`$", "`spec")) from error


# ── pools ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pools(objects: Sequence[Found], last: Supply, problems: list[Problem]) -> dict[str, Pool]:
    """The pools to serve, by name, none overlapping another."""
    made: list[tuple[Found, Pool | Wrong]] = [(found, _try(_pool, found)) for found in objects]
    made.sort(key=lambda pair: not (isinstance(pair[1], Pool) and last.read.get(pair[1].name) == pair[1]))
    before = {pool.name: pool for pool in last.pools}
    accepted = _Accepted()
    for found, pool in made:
        wrong = pool if isinstance(pool, Wrong) else accepted.against(pool)
        if isinstance(pool, Pool) and wrong is None:
            accepted.add(pool)
            problems += _misplaced(_kind(found[0]), pool)
        elif wrong is not None:
            problems.append(_fall_back(found, wrong, before, accepted))
    return accepted.pools


_ORIGINS: Mapping[Source, str] = {
    "AddressPool": "an AddressPool", "IPAddressPool": "an IPAddressPool", "settings": "that of the settings",
}  # fmt: skip


class _Accepted:
    """Pools that do not overlap. Another one costs O(log n) for each of its ranges."""

    def __init__(self) -> None:
        self.pools: dict[str, Pool] = {}
        self._plots = Plots()

    def add(self, pool: Pool) -> None:
        self.pools[pool.name] = pool
        for part in pool.ranges:
            self._plots.add(part, f"the pool {pool.name}")

    def against(self, pool: Pool) -> Wrong | None:
        """What stands in its way: another pool of its name, or an address that is in two ranges."""
        if (other := self.pools.get(pool.name)) is not None:
            return Wrong("invalid", f"there is another pool {pool.name}, {_ORIGINS[other.source]}: rename one of them")
        own = Plots()
        for part in pool.ranges:
            if (found := self._plots.overlapping(part) or own.overlapping(part)) is not None:
                taken, whose = found
                return Wrong("overlapping", f"spec.addresses: {part} overlaps {taken} of {whose}: take it out of one")
            own.add(part, "the same pool")
        return None


def _fall_back(found: Found, wrong: Wrong, before: Mapping[str, Pool], accepted: _Accepted) -> Problem:
    """Serve the last good one, if there is one and nothing is in its way now."""
    watch, item = found
    good = before.get(item.name)
    kept = good is not None and accepted.against(good) is None
    if kept and good is not None:
        accepted.add(msgspec.structs.replace(good, closed=""))
    return Problem(
        _kind(watch), item.name, f"{wrong.reason}-pool", wrong.message + (LAST_GOOD if kept else ""), served=kept
    )


Made = TypeVar("Made")


def _try(make: Callable[[Watch, Object], Made], found: Found) -> Made | Wrong:
    try:
        return make(*found)
    except Wrong as wrong:
        return wrong


def _pool(watch: Watch, item: Object) -> Pool:
    """One object as a pool. Raises `Wrong`."""
    ours = watch.plural == "addresspools"
    spec = _read(item, _AddressPool if ours else _IPAddressPool)
    more = spec if isinstance(spec, _AddressPool) else None
    given = spec.service_allocation or _Allocation()
    return Pool(
        name=item.name,
        ranges=tuple(_range(text, bare=ours) for text in spec.addresses),
        auto_assign=spec.auto_assign is not False,
        avoid_buggy=spec.avoid_buggy_ips,
        pinned=spec.service_allocation is not None,
        priority=given.priority,
        namespaces=given.namespaces or (),
        namespace_selectors=_selectors(given.namespace_selectors),
        service_selectors=_selectors(given.service_selectors),
        sharing=more.sharing if more else "cluster",
        reservations=_reservations(more.reservations) if more else {},
        max_per_namespace=more.max_per_namespace if more else 0,
        cooldown=timedelta(seconds=more.cooldown_seconds) if more else COOLDOWN,
        labels=item.labels,
        source="settings" if watch == RANGES else "AddressPool" if ours else "IPAddressPool",
    )


def _range(text: str, *, bare: bool) -> Range:
    try:
        found = parse(text, bare=bare)
    except ValueError as error:
        raise Wrong("invalid", f"spec.addresses: {error}") from error
    for never in _NOBODYS:
        if found.overlaps(never):
            way = f"{text!r:.100} reaches to {never}, which no host can have: leave it out"
            raise Wrong("invalid", f"spec.addresses: {way}")
    return found


_NOBODYS = tuple(map(parse, (
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255", "::/127", "::ffff:0:0/96",
    "fe80::/10", "ff00::/8",
)))  # fmt: skip
"""What no Service can have: this network, loopback, link-local, multicast, broadcast, unspecified and IPv4-mapped
addresses (RFC 6890, RFC 1112, RFC 4291)."""


def _reservations(said: Iterable[_Reservation]) -> dict[Owner, tuple[IPAddress, ...]]:
    found: dict[Owner, tuple[IPAddress, ...]] = {}
    for one in said:
        try:
            addresses = tuple(ip_address(text.strip()) for text in one.addresses)
        except ValueError as error:
            raise Wrong("invalid", f"spec.reservations of {one.service}: {error}") from error
        found[Owner(one.service)] = (*found.get(Owner(one.service), ()), *addresses)
    return found


def _misplaced(kind: str, pool: Pool) -> Iterator[Problem]:
    """Reservations that bind nothing."""
    seen: dict[IPAddress, Owner] = {}
    for owner, addresses in sorted(pool.reservations.items()):
        for address in addresses:
            other = seen.setdefault(address, owner)
            if not pool.covers(address):
                message = f"spec.reservations: {address} for {owner} lies outside the pool: move it to its own pool"
                yield Problem(kind, pool.name, "reservation-outside", message, served=True)
            elif other != owner:
                message = f"spec.reservations: {address} is reserved for {other} and for {owner}: {other} has it"
                yield Problem(kind, pool.name, "reserved-twice", message, served=True)


def _selectors(said: Iterable[_Selector] | None) -> tuple[Selector, ...]:
    return tuple(map(_selector, said or ()))


def _selector(said: _Selector) -> Selector:
    labels = (Requirement(key, "In", (value,)) for key, value in sorted((said.match_labels or {}).items()))
    return Selector((*labels, *map(_requirement, said.match_expressions or ())))


def _requirement(said: _Expression) -> Requirement:
    """Kubernetes' own rule: In and NotIn have values, the others none."""
    values = said.values or ()
    if bool(values) != (said.operator in ("In", "NotIn")):
        lacks = "needs values" if not values else "takes no values"
        raise Wrong("invalid", f"a label selector says {said.operator} for {said.key}, which {lacks}")
    return Requirement(said.key, said.operator, values)


# ── advertisements ────────────────────────────────────────────────────────────────────────────────────────────────────


def _advertisements(
    objects: Sequence[Found], pools: Sequence[Pool], last: Supply, problems: list[Problem]
) -> list[Advertisement]:
    before = {(ad.source, ad.name): ad for ad in last.advertisements}
    found: list[Advertisement] = []
    for watch, item in objects:
        try:
            found.append(_advertisement(watch, item, pools))
        except Wrong as wrong:
            good = before.get((watch.group, item.name))
            found += [good] if good else []
            message = wrong.message + (LAST_GOOD if good else "")
            problems.append(Problem(_kind(watch), item.name, "invalid-advertisement", message, served=good is not None))
    return found


def _advertisement(watch: Watch, item: Object, pools: Sequence[Pool]) -> Advertisement:
    """One object as an advertisement. MetalLB's are for MetalLB's pools, ours for all. Raises `Wrong`."""
    spec = _read(item, _L2Advertisement if watch.group == "lbctl.io" else _MetalLBAdvertisement)
    return Advertisement(
        name=item.name,
        pools=frozenset(_chosen(spec, _reach(watch, pools))),
        node_selectors=_selectors(spec.node_selectors),
        service_selectors=_selectors(spec.service_selectors),
        interfaces=spec.interfaces or (),
        source=watch.group,
    )


def _reach(watch: Watch, pools: Sequence[Pool]) -> list[Pool]:
    return [pool for pool in pools if watch.group == "lbctl.io" or pool.source == "IPAddressPool"]


def _chosen(spec: _Adverts, pools: Iterable[Pool]) -> Iterator[str]:
    """The pools by name or by label; all, where it says neither."""
    names, selectors = spec.ip_address_pools or (), _selectors(spec.ip_address_pool_selectors)
    for pool in pools:
        if pool.name in names or any_match(selectors, pool.labels) or not (names or selectors):
            yield pool.name


def _by_bgp(objects: Sequence[Found], pools: Sequence[Pool]) -> frozenset[str]:
    """The pools that BGP advertisements are for. One that cannot be read is for none."""
    found: set[str] = set()
    for watch, item in objects:
        spec = _try(lambda _watch, one: _read(one, _Adverts), (watch, item))
        if isinstance(spec, _Adverts):
            found.update(_chosen(spec, _reach(watch, pools)))
    return frozenset(found)


def _announced(pool: Pool, adverts: Sequence[Advertisement], bgp: frozenset[str], problems: list[Problem]) -> Pool:
    """The pool, closed if only BGP would announce it."""
    if any(advert.serves(pool.name) for advert in adverts):
        return pool
    if pool.name in bgp:
        problems.append(Problem(
            pool.source, pool.name, "bgp-not-served",
            f"the pool {pool.name} is advertised by BGP only, which lbctl does not speak: make an L2Advertisement for "
            "it; until then it gives no addresses, and who has one keeps it",
        ))
        return msgspec.structs.replace(pool, closed="bgp-not-served")
    problems.append(Problem(
        pool.source, pool.name, "not-advertised",
        f"no L2Advertisement is for the pool {pool.name}: its addresses are given out, but nobody announces them; make "
        "an L2Advertisement",
        served=True,
    ))
    return pool


# ── status ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _released(watch: Watch, item: Object, problems: list[Problem]) -> tuple[Release, ...]:
    """What the pool's status remembers. A status that cannot be read is written anew, without it."""
    try:
        said = msgspec.convert(item.status, _Status).released or ()
        return tuple(Release(ip_address(one.address), one.at.astimezone(UTC)) for one in said)
    except (ValueError, OverflowError) as error:
        message = f"status.released cannot be read ({error}): what was released a moment ago may be given out again"
        problems.append(Problem(_kind(watch), item.name, "unreadable-status", message, served=True))
        return ()


def pool_status(
    item: Object, usage: Usage | None, released: Iterable[Release], problems: Iterable[Problem], now: datetime
) -> dict[str, Any]:
    """The `status` of an AddressPool; `usage` is None where it is not served. Equal ones need no write."""
    status: dict[str, Any] = advertisement_status(item, problems, now, kind="AddressPool")
    status["released"] = [{"address": str(one.address), "at": _time(one.at)} for one in released]
    if usage is not None:
        status["usage"] = {
            "ipv4": _count(usage.ipv4), "ipv6": _count(usage.ipv6), "services": usage.services,
            "reserved": usage.reserved, "cooling": usage.cooling,
        }
    return status


def advertisement_status(
    item: Object, problems: Iterable[Problem], now: datetime, *, kind: str = "L2Advertisement"
) -> dict[str, Any]:
    """The `status` of an L2Advertisement: its conditions."""
    own = [problem for problem in problems if (problem.kind, problem.name) == (kind, item.name)]
    grave = [problem for problem in own if problem.reason not in _HINTS]
    first = next(iter((*grave, *own)), None)
    said = "False" if grave else "True"
    conditions = item.status.get("conditions") or ()
    known = conditions if isinstance(conditions, Sequence) else ()
    before = next((one for one in map(_mapping, known) if one.get("type") == "Ready"), {})
    since = before.get("lastTransitionTime") if before.get("status") == said else None
    ready = {
        "type": "Ready",
        "status": said,
        "reason": first.reason if first else "serving",
        "message": _short(" ".join(f"{problem.reason}: {problem.message}." for problem in own)),
        "lastTransitionTime": since or _time(now),
        "observedGeneration": item.generation,
    }
    return {"conditions": [ready]}


_HINTS = ("unknown-field", "field-not-served", "reservation-outside", "reserved-twice", "unreadable-status")
"""Problems of an object that is served as it stands."""


def _short(message: str) -> str:
    """Cut to what a person reads, and the API server takes."""
    return message if len(message) <= 1024 else f"{message[:1023]}…"


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _count(count: Count) -> dict[str, int]:
    told = msgspec.structs.asdict(count)
    return {name: min(number, LARGEST) for name, number in told.items()}
