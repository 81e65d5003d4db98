"""Which addresses each Service ought to have.  PURE: the same Book, the same time, the same answer.

Holders first: whoever has an address keeps it while any pool covers it and nobody older has it, too; and while there
is a pool that cannot be read, of which it may be. The others are served in the order of their creation:

    an address by name (its own word, else a reservation)    that one or a refusal
    any address                                              pinned pools by priority, then the others by name;
                                                             one pool for both families before two
    a sharing key                                            an address that it may share, before one of its own

A Service that is to move keeps what it has until the next look: make before break. A refusal names the pools that
were tried and why each did not fit.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice

from lbctl.model import DEGRADED, Family, IPAddress, Note, Owner, Refusal
from lbctl_l2.book import Book, Place
from lbctl_l2.pool import TOLD, Outcome, Pool, Request, family, is_buggy, is_private

ROOMMATES = 16
"""So many addresses of one sharing key are looked at before a Service gets an address of its own, if there is one."""

REASONS = (
    "pool-exhausted", "namespace-quota", "bgp-not-served", "not-private", "no-family", "pool-not-allowed",
    "not-automatic",
)
"""Why a pool did not fit; the first that holds for any pool is the reason of the whole refusal, in this order. Where
only the last two hold, no pool is for the Service: `no-pool-match`."""


class Verdict(Exception):
    """Why something cannot be had: a reason and a sentence. Never leaves this module."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def allocate(book: Book, owners: Iterable[Owner] | None, now: datetime) -> dict[Owner, Outcome]:
    """What these owners' statuses ought to hold (None: everybody's). The Book stays as it is.

    Whoever asked before them and still waits is thought of first, so it does not matter who is looked at when. What is
    promised becomes a holding by `book.put` with the addresses in `held`.
    """
    asked = {owner for owner in (book.requests if owners is None else owners) if owner in book.requests}
    queue = list(book.waiting())
    book.cool(now)
    try:
        served = _serve_all(book, queue, asked)
    finally:
        book.undo()
    return {owner: served.get(owner) or _content(book, book.requests[owner]) for owner in sorted(asked)}


def _serve_all(book: Book, queue: Sequence[Request], asked: set[Owner]) -> dict[Owner, Outcome]:
    """Everybody who waits, in turn, up to the last one that was asked for.

    Who gets nothing is not thought of again until something happens that could help, unless it was a mere promise to
    somebody else that stood in the way: that may come to nothing.
    """
    last = max((at for at, request in enumerate(queue) if request.owner in asked), default=-1)
    served: dict[Owner, Outcome] = {}
    for request in queue[: last + 1]:
        if request.owner in asked or request.owner not in book.stuck:
            outcome = served[request.owner] = _serve(book, request)
            if not book.promises and set(outcome.addresses) <= set(request.held):
                book.stuck.add(request.owner)
    return served


def _content(book: Book, request: Request) -> Outcome:
    """It has what it asks for."""
    return _outcome(book, request, book.fitting(request))


def _serve(book: Book, request: Request) -> Outcome:
    fits = book.fitting(request)
    try:
        found = _found(book, request, fits)
    except Verdict as no:
        return _refused(book, request, no)
    for address in found.values():
        book.take(address, request)
    return _outcome(book, request, {**fits, **found})


def _outcome(book: Book, request: Request, has: dict[Family, IPAddress]) -> Outcome:
    addresses = tuple([has[wanted] for wanted in request.families if wanted in has])
    places = [book.locate(address) for address in addresses]
    pools = tuple([place.pool.name if place else "" for place in places])
    return Outcome(request.owner, addresses, pools, None, _notes(book, request, addresses, places))


def _refused(book: Book, request: Request, no: Verdict) -> Outcome:
    """It keeps what is its own, whether it fits or not."""
    kept = book.rightful(request)
    why = [f"{address} is {book.tenants(address)[0].owner}'s" for address in request.held if address not in kept]
    why += [sentence for address in kept if (sentence := book.unfit(request, address))]
    message = "; ".join((*why, no.message)) + (f"; it keeps {', '.join(map(str, kept))}" if kept else "")
    refusal = Refusal(request.owner, no.reason, message)
    return Outcome(request.owner, kept, tuple(map(book.pool_of, kept)), refusal)


# ── finding ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _found(book: Book, request: Request, fits: dict[Family, IPAddress]) -> dict[Family, IPAddress]:
    """What it lacks. Raises `Verdict` where it cannot be had; one family is enough for who only prefers both."""
    missing = [wanted for wanted in request.families if wanted not in fits]
    wishes = {wanted: wish for wanted in missing if (wish := book.wish(request, wanted)) is not None}
    for at, address in enumerate(wishes.values()):
        _check(book, request, address, tuple(wishes.values())[:at])
    others = [wanted for wanted in missing if wanted not in wishes]
    enough = not request.required and bool(fits or wishes or len(others) > 1)
    return wishes | _any(book, request, others, {**fits, **wishes}, enough=enough)


def _check(book: Book, request: Request, address: IPAddress, found: Sequence[IPAddress] = ()) -> None:
    """May it have this one address, besides those that are found already? Raises `Verdict`."""
    place, reserved = book.locate(address), book.reserved.get(address)
    if place is None:
        pools = _listed([str(pool) for pool in book.pools]) or "none"
        avoided = " that gives addresses which end in .0 or .255 (avoidBuggyIPs)" if _is_avoided(book, address) else ""
        message = f"it asks for {address}, which lies in no pool{avoided}; there are: {pools}"
        raise Verdict("address-not-in-pool", message)
    pool = place.pool
    if request.pool not in ("", pool.name):
        raise Verdict(
            "address-not-in-pool", f"{address} lies in the pool {pool.name}, and the Service asks for {request.pool}"
        )
    if reserved not in (None, request.owner):
        raise Verdict("address-reserved", f"{address} is reserved in the pool {pool.name} for another Service")
    if address in book.nodes:
        raise Verdict("node-address", f"{address} is the address of a node: take it out of the pool {pool.name}")
    if request.scheme == "internal" and not is_private(address):
        raise Verdict("not-private", f"{address} is no private address (RFC 1918, RFC 4193), and it is to be internal")
    _check_pool(book, request, pool, address, found)
    _check_taken(book, request, pool, address)


def _is_avoided(book: Book, address: IPAddress) -> bool:
    """Is it within a pool's ranges, and not the pool's to give?"""
    return is_buggy(address) and any(address in part for pool in book.pools for part in pool.ranges)


def _check_pool(book: Book, request: Request, pool: Pool, address: IPAddress, found: Sequence[IPAddress]) -> None:
    if pool.closed:
        raise Verdict(pool.closed, f"{address} lies in the pool {pool.name}, which is not served here: see its status")
    if book.reserved.get(address) == request.owner:
        return
    if not _admitted(pool, request):
        raise Verdict(
            "pool-not-allowed",
            f"{address} lies in the pool {pool.name}, whose serviceAllocation is for other namespaces or Services",
        )
    if not book.at_home(address, request.namespace):
        _check_quota(book, request, pool, found)


def _check_taken(book: Book, request: Request, pool: Pool, address: IPAddress) -> None:
    other = book.foreign(address, request.owner)
    if other is not None:
        raise Verdict("address-in-use", f"{address} is in spec.externalIPs or the status of {other}")
    if (found := book.clash(address, request, pool)) is not None:
        reason, sentence = found
        raise Verdict(reason, f"{address} of the pool {pool.name} cannot be had: {sentence}")


def _any(
    book: Book, request: Request, missing: Sequence[Family], has: dict[Family, IPAddress], *, enough: bool
) -> dict[Family, IPAddress]:
    """An address of each missing family. If that is `enough`, what can be had of them."""
    if not missing:
        return {}
    pools: Sequence[Pool] = _candidates(book, request)
    if has:
        near = {book.pool_of(address) for address in has.values()}
        pools = sorted(pools, key=lambda pool: pool.name not in near)
    if len(missing) > 1 and (found := _first(book, request, pools, missing, has)):
        return found
    found = {}
    for wanted in missing:
        more = _first(book, request, pools, [wanted], has | found)
        if not (more or enough):
            raise _summary(book, request, pools, [wanted])
        found |= more
    if not found and not has:
        raise _summary(book, request, pools, missing)
    return found


def _first(
    book: Book,
    request: Request,
    pools: Iterable[Pool],
    missing: Sequence[Family],
    has: Mapping[Family, IPAddress],
) -> dict[Family, IPAddress]:
    """An address of each of these families, from the first pool that has them; empty if none does.

    What it `has`, or found already, counts towards the quota.
    """
    for pool in pools:
        if not request.key and any(book.full(pool, wanted) for wanted in missing):
            continue
        try:
            return _from(book, request, pool, missing, tuple(has.values()))
        except Verdict:
            continue
    return {}


def _from(
    book: Book, request: Request, pool: Pool, missing: Sequence[Family], has: Sequence[IPAddress] = ()
) -> dict[Family, IPAddress]:
    """An address of each family from this pool. Raises `Verdict` if it has not all of them."""
    _open(pool, request)
    found: dict[Family, IPAddress] = {}
    for wanted in missing:
        if not book.offers(pool, wanted):
            raise Verdict("no-family", f"has no {wanted} addresses")
        so_far = (*has, *found.values())
        shared = _shared(book, request, pool, wanted, so_far, ROOMMATES)
        found[wanted] = shared or _own(book, request, pool, wanted, so_far)
    return found


def _shared(
    book: Book, request: Request, pool: Pool, wanted: Family, has: Sequence[IPAddress], most: int | None = None
) -> IPAddress | None:
    """An address that it may share with those who have it; of the first so many."""
    if not request.key:
        return None
    for address in islice(book.roommates(pool, wanted, request), most):
        try:
            _check(book, request, address, has)
        except Verdict:
            continue
        return address
    return None


def _own(book: Book, request: Request, pool: Pool, wanted: Family, has: Sequence[IPAddress]) -> IPAddress:
    """The first free address; without one, whatever it may share."""
    try:
        return _free(book, request, pool, wanted, has)
    except Verdict:
        shared = _shared(book, request, pool, wanted, has)
        if shared is None:
            raise
        return shared


def _free(book: Book, request: Request, pool: Pool, wanted: Family, has: Sequence[IPAddress]) -> IPAddress:
    _check_quota(book, request, pool, has)
    address = book.free(pool, wanted, private=request.scheme == "internal")
    if address is not None:
        return address
    if request.scheme == "internal" and book.free(pool, wanted) is not None:
        raise Verdict("not-private", f"has no free private {wanted} address (RFC 1918, RFC 4193), as internal needs")
    raise Verdict("pool-exhausted", f"has no free {wanted} address")


# ── pools ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _candidates(book: Book, request: Request) -> tuple[Pool, ...]:
    """The pools to try: all, or the one that it asks for. Raises `Verdict` if there is none of that name."""
    if not request.pool:
        return book.pools
    if request.pool in book.by_name:
        return (book.by_name[request.pool],)
    names = _listed(sorted(book.by_name)) or "none"
    raise Verdict("no-pool-match", f"there is no pool {request.pool}; there are: {names}")


def _open(pool: Pool, request: Request) -> None:
    """Does it give addresses to this Service? Raises `Verdict`."""
    if pool.closed:
        raise Verdict(pool.closed, "is not served here: see its status")
    if not _admitted(pool, request):
        raise Verdict("pool-not-allowed", "is for other namespaces or Services (serviceAllocation)")
    if not pool.auto_assign and not request.pool:
        raise Verdict("not-automatic", "gives only to who asks for it (autoAssign: false)")


def _admitted(pool: Pool, request: Request) -> bool:
    return pool.admits(request.namespace, request.namespace_labels, request.labels)


def _check_quota(book: Book, request: Request, pool: Pool, has: Sequence[IPAddress]) -> None:
    """May its namespace have one more address of the pool, besides those that it is to have already? What it leaves
    itself does not count. Raises `Verdict`."""
    if not pool.max_per_namespace:
        return
    leaves = sum(_leaves(book, request, pool, address) for address in book.rightful(request))
    more = sum(
        book.pool_of(address) == pool.name and not book.at_home(address, request.namespace) for address in has
    )
    if book.used_by(pool.name, request.namespace) - leaves + more >= pool.max_per_namespace:
        raise Verdict("namespace-quota", _quota(book, request, pool))


def _leaves(book: Book, request: Request, pool: Pool, address: IPAddress) -> bool:
    """Will its namespace no longer have this address of the pool?"""
    others = (tenant for tenant in book.tenants(address) if tenant.owner != request.owner)
    alone = all(tenant.namespace != request.namespace for tenant in others)
    return alone and book.pool_of(address) == pool.name and bool(book.unfit(request, address))


def _quota(book: Book, request: Request, pool: Pool) -> str:
    used = book.used_by(pool.name, request.namespace)
    return f"the namespace {request.namespace} has {used} of {pool.max_per_namespace} addresses of {pool.name} already"


# ── telling ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _summary(book: Book, request: Request, pools: Sequence[Pool], missing: Sequence[Family]) -> Verdict:
    """One refusal out of all pools' answers."""
    wanted = " and ".join(missing)
    if not pools:
        return Verdict("no-pool-match", f"there is no pool: make an AddressPool with {wanted} addresses")
    answers = [(pool.name, _verdict(book, request, pool, missing)) for pool in pools]
    reasons = {no.reason for _name, no in answers}
    reason = next((reason for reason in REASONS if reason in reasons), min(reasons))
    if reason in ("pool-not-allowed", "not-automatic") and not request.pool:
        reason = "no-pool-match"
    told = _listed([f"{name} {no.message}" for name, no in answers])
    return Verdict(reason, f"no pool gives it an {wanted} address: {told}")


def _verdict(book: Book, request: Request, pool: Pool, missing: Sequence[Family]) -> Verdict:
    """Why the pool does not fit."""
    try:
        _from(book, request, pool, missing)
    except Verdict as no:
        return no
    return Verdict("namespace-quota", _quota(book, request, pool))


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - TOLD} more" if len(items) > TOLD else ""
    return "; ".join(items[:TOLD]) + more


def _notes(
    book: Book, request: Request, addresses: Sequence[IPAddress], places: Sequence[Place | None]
) -> tuple[Note, ...]:
    """What a user should know who has an address in each of these places."""
    found = []
    for address, place in zip(addresses, places, strict=True):
        if not book.namespaces(address) <= {request.namespace}:
            strangers = [t.owner for t in book.tenants(address) if t.namespace != request.namespace]
            found.append(Note(
                request.owner, DEGRADED, "shared-across-namespaces",
                f"{address} is shared with {_listed(sorted(strangers))}: give it another key if that is not meant",
            ))
        if place is None:
            found.append(Note(
                request.owner, DEGRADED, "pool-unknown",
                f"{address} lies in no pool that is known: it keeps it until {_listed(book.unknown)} can be read again",
            ))
        elif not _keeps_rightly(book, request, place.pool, address):
            found.append(Note(
                request.owner, DEGRADED, place.pool.closed or "pool-not-allowed",
                f"it keeps {address}, but would not get it again: the pool {place.pool.name} is not for it any more",
            ))
    if len(addresses) < len(request.families):
        there = {family(address) for address in addresses}
        missing = [wanted for wanted in request.families if wanted not in there]
        found.append(Note(
            request.owner, DEGRADED, "one-family",
            f"it prefers both families, but no pool has an {missing[0]} address for it: see lbctl pools",
        ))
    return tuple(found)


def _keeps_rightly(book: Book, request: Request, pool: Pool, address: IPAddress) -> bool:
    if pool.closed:
        return False
    return _admitted(pool, request) or book.reserved.get(address) == request.owner
