"""Allocation is a function: of pools, Services, what is claimed, what was released and the time; of nothing else."""

import random
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import combinations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lbctl.model import IPAddress, Owner
from lbctl_l2.allocation import allocate
from lbctl_l2.book import Book
from lbctl_l2.pool import Outcome, Pool, Release, Request
from lbctl_l2.ranges import parse
from lbctl_l2.sharing import clash

NOW = datetime(2026, 1, 1, tzinfo=UTC)
V4 = [ip_address(f"10.0.0.{n}") for n in (0, 1, 2, 3, 4, 5, 6, 7, 254, 255)]
V6 = [ip_address(f"fd00::{n}") for n in range(6)]
OWNERS = [Owner(f"{namespace}/{name}") for namespace in "ab" for name in "uvwxyz"]


class World(msgspec.Struct, frozen=True):
    """All that the answer may depend on."""

    pools: tuple[Pool, ...] = ()
    requests: tuple[Request, ...] = ()
    nodes: frozenset[IPAddress] = frozenset()
    claims: Mapping[Owner, tuple[IPAddress, ...]] = {}
    releases: tuple[Release, ...] = ()
    unknown: tuple[str, ...] = ()


# Neighbouring parts of one small network, so that pools never overlap, whichever of them there are.
PARTS = ("10.0.0.0-10.0.0.1", "10.0.0.2-10.0.0.3", "10.0.0.4-10.0.0.7", "10.0.0.254-10.0.1.1",
         "fd00::-fd00::1", "fd00::2-fd00::4")

some_v4, some_v6 = st.sampled_from(V4), st.sampled_from(V6)
addresses = st.one_of(some_v4, some_v6)


@st.composite
def pools(draw: st.DrawFn) -> tuple[Pool, ...]:
    where = draw(st.lists(st.integers(0, 3), min_size=len(PARTS), max_size=len(PARTS)))
    found = []
    for number, name in enumerate(("left", "middle", "right")):
        ranges = tuple(parse(text) for text, home in zip(PARTS, where, strict=True) if home == number)
        if ranges:
            found.append(Pool(
                name, ranges,
                auto_assign=draw(st.booleans()) or draw(st.booleans()),
                avoid_buggy=draw(st.booleans()),
                pinned=draw(st.booleans()),
                priority=draw(st.integers(0, 2)),
                namespaces=draw(st.sampled_from([(), (), ("a",)])),
                sharing=draw(st.sampled_from(["namespace", "cluster"])),
                reservations=draw(st.sampled_from([{}, {OWNERS[0]: (V4[2], V6[2])}, {OWNERS[7]: (V4[5],)}])),
                max_per_namespace=draw(st.sampled_from([0, 0, 2])),
                cooldown=timedelta(seconds=draw(st.sampled_from([0, 100]))),
            ))
    return tuple(found)


@st.composite
def request_of(draw: st.DrawFn, owner: Owner) -> Request:
    families = draw(st.sampled_from([("IPv4",), ("IPv4",), ("IPv6",), ("IPv4", "IPv6"), ("IPv6", "IPv4")]))
    asked = [draw(some_v4 if wanted == "IPv4" else some_v6) for wanted in families]
    if draw(st.integers(0, 6)) == 0:
        return silent(draw, owner)
    return Request(
        owner,
        created=draw(st.sampled_from([None, NOW, NOW + timedelta(hours=1)])),
        families=families,
        required=draw(st.booleans()),
        held=tuple(draw(st.lists(addresses, max_size=2, unique=True))),
        addresses=tuple(asked) if draw(st.integers(0, 3)) == 0 else (),
        pool=draw(st.sampled_from(["", "", "", "left", "right", "nowhere"])),
        key=draw(st.sampled_from(["", "", "k", "l"])),
        backend=draw(st.sampled_from(["", "", "app=x"])),
        ports=frozenset({("TCP", draw(st.sampled_from([80, 443])))}),
        scheme=draw(st.sampled_from([None, "internal"])),
    )


def silent(draw: st.DrawFn, owner: Owner) -> Request:
    """It is refused: it asks for nothing, and keeps what it has, on the terms that it says."""
    said = draw(st.sampled_from([(), ("k",), ("k", "l"), ("k", "m")]))
    return Request(
        owner,
        created=draw(st.sampled_from([None, NOW])),
        families=(),
        held=tuple(draw(st.lists(addresses, max_size=2, unique=True))),
        key=said[0] if len(said) == 1 else "",
        torn=said if len(said) > 1 else (),
        ports=frozenset({("TCP", draw(st.sampled_from([80, 443, 8080])))}),
    )


requests = st.sampled_from(OWNERS).flatmap(request_of)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    found = draw(st.lists(requests, max_size=10, unique_by=lambda request: request.owner))
    return World(
        draw(pools()), tuple(found),
        frozenset(draw(st.lists(addresses, max_size=1))),
        {Owner("c/plain"): tuple(draw(st.lists(addresses, max_size=1)))},
        tuple(Release(address, NOW - timedelta(seconds=draw(st.integers(0, 150))))
              for address in draw(st.lists(addresses, max_size=4))),
        draw(st.sampled_from([(), (), ("lost",)])),
    )


def book_of(world: World, order: random.Random | None = None) -> Book:
    """Made from scratch, in some order."""
    shuffled = list(world.requests)
    pools_ = list(world.pools)
    if order is not None:
        order.shuffle(shuffled)
        order.shuffle(pools_)
    book = Book(pools_, world.nodes)
    for request in shuffled:
        book.put(request)
    for owner, claimed in world.claims.items():
        book.claim(owner, claimed)
    book.set_released(world.releases)
    book.set_unknown(world.unknown)
    return book


def become(book: Book, world: World, order: random.Random) -> None:
    """Change a used Book into this world, step by step, looking at it in between."""
    steps = [lambda: book.set_pools(world.pools), lambda: book.set_nodes(world.nodes),
             lambda: book.set_released(world.releases), lambda: book.set_unknown(world.unknown)]
    gone = book.requests.keys() - {request.owner for request in world.requests}
    steps += [lambda owner=owner: book.remove(owner) for owner in sorted(gone)]
    steps += [lambda request=request: book.put(request) for request in world.requests]
    steps += [lambda owner=owner, claimed=claimed: book.claim(owner, claimed)
              for owner, claimed in world.claims.items()]
    order.shuffle(steps)
    for step in steps:
        step()
        if order.random() < 0.3:
            allocate(book, order.sample(OWNERS, 3), NOW + timedelta(seconds=order.randint(-200, 200)))


def seen(book: Book) -> tuple[object, ...]:
    answer = allocate(book, None, NOW)
    return answer, book.usage(NOW), book.conflicts(), [book.holders(address) for address in (*V4, *V6)]


@settings(max_examples=60)
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_told_does_not_matter(world: World, order: random.Random) -> None:
    assert seen(book_of(world)) == seen(book_of(world, order))


@settings(max_examples=100)
@given(worlds(), worlds(), worlds(), st.randoms(use_true_random=False))
def test_a_book_with_a_history_equals_one_made_from_scratch(
    first: World, second: World, last: World, order: random.Random
) -> None:
    book = book_of(first)
    become(book, second, order)
    become(book, last, order)
    assert seen(book) == seen(book_of(last))


@settings(max_examples=60)
@given(worlds(), st.randoms(use_true_random=False))
def test_who_is_looked_at_alone_gets_the_same_as_among_all(world: World, order: random.Random) -> None:
    everybody, book = allocate(book_of(world), None, NOW), book_of(world)
    for owner in order.sample(OWNERS, len(OWNERS)):
        assert allocate(book, [owner], NOW) == {o: everybody[o] for o in (owner,) if o in everybody}


@settings(max_examples=60)
@given(worlds(), st.lists(st.one_of(requests, st.sampled_from(OWNERS)), max_size=6), st.randoms(use_true_random=False))
def test_after_every_event_a_look_at_one_equals_a_look_at_all(
    world: World, events: list[Request | Owner], order: random.Random
) -> None:
    world = carried_out(world, allocate(book_of(world), None, NOW))
    book = book_of(world)
    allocate(book, None, NOW)
    for event in events:
        owner = event.owner if isinstance(event, Request) else event
        others = tuple(request for request in world.requests if request.owner != owner)
        if isinstance(event, Request):
            book.put(event)
            world = replace(world, requests=(*others, event))
        else:
            book.remove(event)
            world = replace(world, requests=others)
        everybody, one = allocate(book_of(world), None, NOW), order.choice(OWNERS)
        assert allocate(book, [one], NOW) == {o: everybody[o] for o in (one,) if o in everybody}


@settings(max_examples=60)
@given(worlds())
def test_looking_changes_nothing(world: World) -> None:
    book = book_of(world)
    assert seen(book) == seen(book)


@settings(max_examples=60)
@given(worlds())
def test_no_two_have_what_they_cannot_share(world: World) -> None:
    has = settled(world, allocate(book_of(world), None, NOW))
    for one, other in combinations(world.requests, 2):
        if has[one.owner] & has[other.owner]:
            assert clash(one, [other]) is None


@settings(max_examples=60)
@given(worlds())
def test_who_loses_an_address_could_not_share_it_with_somebody_who_keeps_it(world: World) -> None:
    book = book_of(world)
    allocate(book, None, NOW)
    for request in world.requests:
        for address in set(request.held) - set(book.rightful(request)):
            assert clash(request, book.tenants(address)) is not None


@settings(max_examples=60)
@given(st.lists(requests, min_size=2, max_size=2, unique_by=lambda request: request.owner))
def test_of_two_that_hold_what_they_cannot_share_the_older_keeps_it(pair: list[Request]) -> None:
    book = book_of(World(requests=tuple(replace(request, held=(V4[0],)) for request in pair)))
    older, younger = sorted(pair, key=lambda request: request.turn)
    shared = clash(older, [younger]) is None
    assert book.holders(V4[0]) == ((older.owner, younger.owner) if shared else (older.owner,))


@settings(max_examples=60)
@given(worlds())
def test_who_has_an_address_of_a_pool_rightfully_and_asks_for_no_other_keeps_it(world: World) -> None:
    book = book_of(world)
    for owner, outcome in allocate(book, None, NOW).items():
        fits = book.fitting(book.requests[owner])
        assert set(fits.values()) <= set(outcome.addresses)


@settings(max_examples=60)
@given(worlds())
def test_what_is_new_is_free_of_everybody_elses(world: World) -> None:
    book = book_of(world)
    asks = {request.owner: request for request in world.requests}
    others = {address for claimed in world.claims.values() for address in claimed}
    for owner, outcome in allocate(book, None, NOW).items():
        for address in set(outcome.addresses) - set(asks[owner].held):
            assert address not in world.nodes | others
            assert book.reserved.get(address) in (None, owner)
            assert book.pool_of(address)


@settings(max_examples=100)
@given(worlds())
def test_where_nobody_holds_anything_yet_no_namespace_gets_more_than_its_quota_but_reservations(world: World) -> None:
    book = book_of(replace(world, requests=tuple(replace(request, held=()) for request in world.requests)))
    found = allocate(book, None, NOW)
    used = {(book.pool_of(address), book.requests[owner].namespace, address)
            for owner, outcome in found.items() for address in outcome.addresses if address not in book.reserved}
    for (pool, _namespace), number in Counter((pool, namespace) for pool, namespace, _ in used).items():
        assert number <= (book.by_name[pool].max_per_namespace or number)


@settings(max_examples=200)
@given(worlds())
def test_no_namespace_gets_more_than_its_quota_if_it_has_not_more_already_but_reservations(world: World) -> None:
    book = book_of(world)
    has = settled(world, allocate(book, None, NOW))
    before, after = (
        Counter({(book.pool_of(address), request.namespace, address): 1
                 for request in world.requests for address in whose[request.owner] if address not in book.reserved})
        for whose in ({request.owner: book.rightful(request) for request in world.requests}, has)
    )  # fmt: skip
    had = Counter((pool, namespace) for pool, namespace, _ in before)
    for (pool, namespace), number in Counter((pool, namespace) for pool, namespace, _ in after if pool).items():
        quota = book.by_name[pool].max_per_namespace
        assert number <= max(quota or number, had[pool, namespace])


@settings(max_examples=60)
@given(worlds())
def test_nobody_is_without_what_it_asks_for_and_without_a_reason(world: World) -> None:
    asks = {request.owner: request for request in world.requests}
    for owner, outcome in allocate(book_of(world), None, NOW).items():
        if not asks[owner].families:
            continue
        whole = len(outcome.addresses) == len(asks[owner].families)
        assert whole or outcome.refusal or outcome.notes
        if outcome.refusal is None:
            assert outcome.addresses
            assert len({address.version for address in outcome.addresses}) == len(outcome.addresses)


def settled(world: World, answer: Mapping[Owner, Outcome]) -> dict[Owner, set[IPAddress]]:
    """What everybody has then; who asks for nothing keeps what is its own."""
    book = book_of(world)
    return {
        request.owner: set(answer[request.owner].addresses if request.families else book.rightful(request))
        for request in world.requests
    }


def carried_out(world: World, answer: Mapping[Owner, Outcome]) -> World:
    """The statuses are written."""
    book = book_of(world)
    return replace(world, requests=tuple(
        replace(request, held=answer[request.owner].addresses if request.families else book.rightful(request))
        for request in world.requests
    ))


@settings(max_examples=60)
@given(worlds())
def test_it_comes_to_rest(world: World) -> None:
    for _look in range(8):
        answer = allocate(book_of(world), None, NOW)
        after = carried_out(world, answer)
        if after == world:
            return
        world = after
    raise AssertionError("addresses still move")


@settings(max_examples=60)
@given(worlds())
def test_whoever_is_served_stays_as_it_is(world: World) -> None:
    before = allocate(book_of(world), None, NOW)
    after = allocate(book_of(carried_out(world, before)), None, NOW)
    for owner, outcome in before.items():
        if outcome.refusal is None:
            assert after[owner].refusal is None
            assert set(outcome.addresses) <= set(after[owner].addresses)
