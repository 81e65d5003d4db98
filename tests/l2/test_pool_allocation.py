"""Who gets which address, story by story."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from msgspec.structs import replace

from lbctl.model import IPAddress, Owner
from lbctl_l2.allocation import allocate
from lbctl_l2.book import Book, Place
from lbctl_l2.pool import Outcome, Pool, Release, Request, Requirement, Selector
from lbctl_l2.ranges import parse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BOTH = ("IPv4", "IPv6")


def pool(name: str, *ranges: str, **more: Any) -> Pool:
    return Pool(name, tuple(map(parse, ranges)), **more)


def asks(name: str, age: float = 0, **more: Any) -> Request:
    """Created so many hours ago."""
    owner = Owner(name if "/" in name else f"default/{name}")
    return Request(owner, NOW - timedelta(hours=age), **more)


def ips(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(map(ip_address, texts))


def answers(pools: Sequence[Pool], *requests: Request, nodes: Sequence[IPAddress] = ()) -> Mapping[str, Outcome]:
    book = Book(pools, nodes)
    for request in requests:
        book.put(request)
    return {owner.partition("/")[2]: outcome for owner, outcome in allocate(book, None, NOW).items()}


def answer(pools: Sequence[Pool], request: Request, *others: Request, nodes: Sequence[IPAddress] = ()) -> Outcome:
    return answers(pools, request, *others, nodes=nodes)[request.owner.partition("/")[2]]


def refused(outcome: Outcome) -> tuple[str, str]:
    assert outcome.refusal is not None
    return outcome.refusal.reason, outcome.refusal.message


# ── which pool, which address ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_lowest_free_address_of_the_first_range_is_given() -> None:
    found = answers([pool("a", "10.0.0.8/31", "10.0.0.1")], asks("x", 3), asks("y", 2), asks("z", 1))
    assert [found[name].addresses for name in "xyz"] == [ips("10.0.0.8"), ips("10.0.0.9"), ips("10.0.0.1")]
    assert found["z"].pools == ("a",)


def test_pending_services_are_served_first_come_first_served_then_by_name() -> None:
    found = answers([pool("a", "10.0.0.0/30")], asks("late", 0), asks("b", 5), asks("a", 5), asks("oldest", 9))
    assert sorted(found, key=lambda name: int(found[name].addresses[0])) == ["oldest", "a", "b", "late"]


def test_pools_are_tried_by_priority_zero_last_then_by_name_unpinned_ones_at_the_end() -> None:
    pools = [pool("e", "10.0.5.1"), pool("a", "10.0.1.1", pinned=True), pool("d", "10.0.4.1"),
             pool("b", "10.0.2.1", pinned=True, priority=7), pool("c", "10.0.3.1", pinned=True, priority=2)]
    found = answers(pools, *(asks(str(n), 9 - n) for n in range(5)))
    assert [found[str(n)].pools for n in range(5)] == [("c",), ("b",), ("a",), ("d",), ("e",)]


def test_a_pool_without_auto_assign_is_for_who_names_it() -> None:
    rare = pool("rare", "10.0.0.1", auto_assign=False)
    reason, message = refused(answer([rare], asks("x")))
    assert (reason, "autoAssign" in message) == ("no-pool-match", True)
    assert answer([rare], asks("x", pool="rare")).addresses == ips("10.0.0.1")
    assert answer([rare], asks("x", addresses=ips("10.0.0.1"))).addresses == ips("10.0.0.1")


def test_buggy_addresses_are_avoided_and_not_given_by_name_either() -> None:
    careful = pool("a", "10.0.0.254-10.0.1.2", avoid_buggy=True)
    found = answers([careful], *(asks(str(n), 9 - n) for n in range(4)))
    assert [found[str(n)].addresses for n in range(4)] == [ips("10.0.0.254"), ips("10.0.1.1"), ips("10.0.1.2"), ()]
    assert refused(answer([careful], asks("x", addresses=ips("10.0.0.255"))))[0] == "address-not-in-pool"


TEAM = Selector((Requirement("team", "In", ("a",)),))


@pytest.mark.parametrize(("namespace", "labels", "service", "gets"), [
    ("named", {}, {"app": "x"}, True),
    ("other", {"team": "a"}, {"app": "x"}, True),
    ("other", {"team": "b"}, {"app": "x"}, False),
    ("other", None, {"app": "x"}, False),
    ("named", {}, {"app": "z"}, False),
])
def test_a_pool_opens_to_a_namespace_by_name_or_label_and_a_service_by_label(
    namespace: str, labels: Mapping[str, str] | None, service: Mapping[str, str], gets: bool
) -> None:
    apps = Selector((Requirement("app", "In", ("x", "y")),))
    closed = pool("a", "10.0.0.1", namespaces=("named",), namespace_selectors=(TEAM,), service_selectors=(apps,))
    outcome = answer([closed], asks(f"{namespace}/web", namespace_labels=labels, labels=service))
    assert bool(outcome.addresses) is gets
    assert gets or refused(outcome)[0] == "no-pool-match"


def test_a_selector_that_matches_no_namespace_opens_the_pool_to_nobody_not_even_by_name() -> None:
    closed = pool("a", "10.0.0.1", namespace_selectors=(TEAM,))
    stranger = asks("x", namespace_labels={}, addresses=ips("10.0.0.1"))
    assert refused(answer([closed], stranger))[0] == "pool-not-allowed"


@pytest.mark.parametrize(("operator", "values", "labels", "met"), [
    ("In", ("a",), {"k": "a"}, True), ("In", ("a",), {}, False), ("NotIn", ("a",), {}, True),
    ("NotIn", ("a",), {"k": "a"}, False), ("Exists", (), {"k": ""}, True), ("Exists", (), {}, False),
    ("DoesNotExist", (), {}, True), ("DoesNotExist", (), {"k": ""}, False),
])
def test_selectors_mean_what_kubernetes_says(operator: Any, values: Any, labels: Mapping[str, str], met: bool) -> None:
    assert Selector((Requirement("k", operator, values),)).matches(labels) is met


def test_an_exhausted_pool_is_named_with_every_other_and_why_it_did_not_fit() -> None:
    pools = [pool("full", "10.0.0.1"), pool("mine", "10.0.0.2", auto_assign=False),
             pool("six", "fd00::/64"), pool("theirs", "10.0.0.3", namespaces=("theirs",))]
    reason, message = refused(answer(pools, asks("x"), asks("y", 5, held=ips("10.0.0.1"))))
    assert reason == "pool-exhausted"
    assert message == (
        "no pool gives it an IPv4 address: full has no free IPv4 address; mine gives only to who asks for it "
        "(autoAssign: false); six has no IPv4 addresses; theirs is for other namespaces or Services (serviceAllocation)"
    )


def test_where_there_is_no_pool_it_is_said_what_to_make() -> None:
    assert refused(answer([], asks("x"))) == (
        "no-pool-match", "there is no pool: make an AddressPool with IPv4 addresses")


def test_an_unknown_pool_is_refused_with_those_there_are() -> None:
    assert refused(answer([pool("a", "10.0.0.1")], asks("x", pool="b"))) == (
        "no-pool-match", "there is no pool b; there are: a")


# ── addresses by name ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_address_asked_for_by_name_is_given() -> None:
    assert answer([pool("a", "10.0.0.0/24")], asks("x", addresses=ips("10.0.0.77"))).addresses == ips("10.0.0.77")


@pytest.mark.parametrize(("request_", "reason"), [
    (asks("x", addresses=ips("10.9.9.9")), "address-not-in-pool"),
    (asks("x", addresses=ips("10.0.0.1"), pool="b"), "address-not-in-pool"),
    (asks("x", addresses=ips("10.0.0.2")), "address-in-use"),
    (asks("x", addresses=ips("10.0.0.3")), "node-address"),
    (asks("x", addresses=ips("10.0.0.4")), "address-reserved"),
    (asks("x", addresses=ips("10.0.1.1")), "pool-not-allowed"),
    (asks("x", addresses=ips("198.51.100.1"), scheme="internal"), "not-private"),
])
def test_an_address_that_cannot_be_had_is_refused_with_the_reason(request_: Request, reason: str) -> None:
    pools = [pool("a", "10.0.0.0/24", reservations={Owner("other/db"): ips("10.0.0.4")}),
             pool("b", "10.0.1.0/24", namespaces=("other",)), pool("c", "198.51.100.0/24")]
    outcome = answer(pools, request_, asks("holder", 5, held=ips("10.0.0.2")), nodes=ips("10.0.0.3"))
    assert refused(outcome)[0] == reason
    assert outcome.addresses == ()


def test_a_service_that_asks_for_another_address_moves_when_it_can_and_keeps_what_it_has_when_not() -> None:
    pools = [pool("a", "10.0.0.0/24")]
    moves = asks("x", held=ips("10.0.0.1"), addresses=ips("10.0.0.2"))
    assert answer(pools, moves).addresses == ips("10.0.0.2")
    stays = answer(pools, moves, asks("y", 5, held=ips("10.0.0.2")))
    assert (stays.addresses, refused(stays)[0]) == (ips("10.0.0.1"), "address-in-use")


def test_what_a_moving_service_leaves_is_given_only_at_the_next_look() -> None:
    found = answers([pool("a", "10.0.0.1-10.0.0.2")], asks("x", 5, held=ips("10.0.0.1"), addresses=ips("10.0.0.2")),
                    asks("y"))
    assert found["x"].addresses == ips("10.0.0.2")
    assert refused(found["y"])[0] == "pool-exhausted"


# ── two families ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_both_families_come_from_one_pool_before_two_in_the_services_order() -> None:
    pools = [pool("four", "10.0.0.1"), pool("mixed", "10.0.1.1", "fd00::1"), pool("six", "fd00::2")]
    found = answers(pools, asks("x", 5, families=("IPv6", "IPv4"), required=True), asks("y", families=BOTH))
    assert (found["x"].addresses, found["x"].pools) == (ips("fd00::1", "10.0.1.1"), ("mixed", "mixed"))
    assert (found["y"].addresses, found["y"].pools) == (ips("10.0.0.1", "fd00::2"), ("four", "six"))


def test_who_requires_both_families_gets_none_alone() -> None:
    outcome = answer([pool("four", "10.0.0.1")], asks("x", families=BOTH, required=True))
    assert (outcome.addresses, refused(outcome)[0]) == ((), "no-family")


def test_who_prefers_both_families_gets_one_and_a_note_and_later_the_other() -> None:
    prefers = asks("x", families=BOTH)
    alone = answer([pool("four", "10.0.0.1")], prefers)
    assert (alone.addresses, [note.reason for note in alone.notes]) == (ips("10.0.0.1"), ["one-family"])
    later = answer([pool("four", "10.0.0.1"), pool("six", "fd00::1")], replace(prefers, held=alone.addresses))
    assert (later.addresses, later.notes) == (ips("10.0.0.1", "fd00::1"), ())


def test_the_second_family_comes_from_the_pool_of_the_first_if_it_can() -> None:
    pools = [pool("a", "fd00:a::/64"), pool("b", "10.0.0.1", "fd00:b::/64")]
    found = answer(pools, asks("x", families=BOTH, held=ips("10.0.0.1")))
    assert found.addresses == ips("10.0.0.1", "fd00:b::")


def test_one_address_by_name_does_for_one_family_and_the_other_is_found() -> None:
    found = answer([pool("a", "10.0.0.0/24", "fd00::/64")], asks("x", families=BOTH, addresses=ips("10.0.0.9")))
    assert found.addresses == ips("10.0.0.9", "fd00::")


def test_a_family_that_is_not_asked_for_any_more_is_given_back() -> None:
    found = answer([pool("a", "10.0.0.0/24", "fd00::/64")], asks("x", held=ips("10.0.0.1", "fd00::1")))
    assert found.addresses == ips("10.0.0.1")


# ── holders ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_has_an_address_keeps_it_however_old_the_others_are() -> None:
    found = answers([pool("a", "10.0.0.1-10.0.0.2")], asks("new", 0, held=ips("10.0.0.1")), asks("old", 9))
    assert (found["new"].addresses, found["old"].addresses) == (ips("10.0.0.1"), ips("10.0.0.2"))


def test_of_two_that_have_one_address_the_older_keeps_it_and_the_other_gets_another() -> None:
    one, two = asks("young", 1, held=ips("10.0.0.1")), asks("old", 2, held=ips("10.0.0.1"))
    found = answers([pool("a", "10.0.0.1-10.0.0.2")], one, two)
    assert (found["old"].addresses, found["young"].addresses) == (ips("10.0.0.1"), ips("10.0.0.2"))
    alone = answer([pool("a", "10.0.0.1")], one, two)
    assert (alone.addresses, "10.0.0.1 is default/old's" in refused(alone)[1]) == ((), True)


@pytest.mark.parametrize("after", [
    [pool("renamed", "10.0.0.0/24")],
    [pool("a", "10.0.0.0/25"), pool("b", "10.0.0.128/25")],
    [pool("a", "10.0.0.200-10.0.0.210")],
    [pool("a", "10.0.0.0/24", namespaces=("other",))],
    [pool("a", "10.0.0.0/24", closed="bgp-not-served")],
])
def test_an_address_that_any_pool_covers_is_kept(after: Sequence[Pool]) -> None:
    outcome = answer(after, asks("x", held=ips("10.0.0.200")))
    assert (outcome.addresses, outcome.refusal) == (ips("10.0.0.200"), None)


def test_who_keeps_an_address_of_a_pool_that_is_not_for_it_any_more_is_told() -> None:
    outcome = answer([pool("a", "10.0.0.0/24", namespaces=("other",))], asks("x", held=ips("10.0.0.1")))
    assert [note.reason for note in outcome.notes] == ["pool-not-allowed"]


def test_an_address_outside_all_pools_is_replaced_or_else_kept_with_a_refusal() -> None:
    lost = asks("x", held=ips("192.0.2.1"))
    assert answer([pool("a", "10.0.0.1")], lost).addresses == ips("10.0.0.1")
    kept = answer([], lost)
    assert (kept.addresses, kept.pools, refused(kept)[0]) == (ips("192.0.2.1"), ("",), "no-pool-match")
    assert "192.0.2.1 lies in no pool any more" in refused(kept)[1]


def test_an_address_that_a_node_has_now_is_replaced() -> None:
    outcome = answer([pool("a", "10.0.0.0/30")], asks("x", held=ips("10.0.0.0")), nodes=ips("10.0.0.0", "10.0.0.1"))
    assert outcome.addresses == ips("10.0.0.2")


# ── internal ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_internal_service_gets_private_addresses_only() -> None:
    pools = [pool("a", "9.255.255.255-10.0.0.1"), pool("b", "2001:db8::/64", "fd00::/64")]
    found = answer(pools, asks("x", scheme="internal", families=BOTH, required=True))
    assert found.addresses == ips("10.0.0.0", "fd00::")


def test_where_no_address_is_private_an_internal_service_is_refused() -> None:
    assert refused(answer([pool("a", "198.51.100.0/24")], asks("x", scheme="internal")))[0] == "not-private"


# ── reservations, quotas, cooldown, claims ────────────────────────────────────────────────────────────────────────────


def test_a_reserved_address_waits_for_its_service_whatever_the_pool_says() -> None:
    kept = pool("a", "10.0.0.0-10.0.0.1", auto_assign=False, namespaces=("nobody",),
                reservations={Owner("default/db"): ips("10.0.0.1")})
    assert answer([kept], asks("db")).addresses == ips("10.0.0.1")
    assert answer([replace(kept, auto_assign=True, namespaces=())], asks("x")).addresses == ips("10.0.0.0")


def test_a_service_moves_to_its_reservation_as_soon_as_that_is_free() -> None:
    here = [pool("a", "10.0.0.0/24", reservations={Owner("default/db"): ips("10.0.0.1")})]
    db = asks("db", held=ips("10.0.0.9"))
    assert answer(here, db).addresses == ips("10.0.0.1")
    waits = answer(here, db, asks("x", held=ips("10.0.0.1")))
    assert (waits.addresses, refused(waits)[0]) == (ips("10.0.0.9"), "address-in-use")


def test_a_namespace_gets_so_many_addresses_of_a_pool_and_no_more() -> None:
    few = pool("a", "10.0.0.0/24", max_per_namespace=2)
    found = answers([few], *(asks(f"a/s{n}", 9 - n) for n in range(3)), asks("b/other"))
    assert [bool(found[name].addresses) for name in ("s0", "s1", "s2", "other")] == [True, True, False, True]
    assert refused(found["s2"])[0] == "namespace-quota"


def test_a_released_address_rests_unless_the_pool_is_exhausted_then_the_one_that_rested_longest_is_given() -> None:
    book = Book([pool("a", "10.0.0.1-10.0.0.3", cooldown=timedelta(minutes=5))])
    book.set_released([Release(ips("10.0.0.1")[0], NOW - timedelta(minutes=1)),
                       Release(ips("10.0.0.2")[0], NOW - timedelta(minutes=2))])
    for name, age in (("x", 3), ("y", 2), ("z", 1)):
        book.put(asks(name, age))
    found = allocate(book, None, NOW)
    assert [found[Owner(f"default/{name}")].addresses for name in "xyz"] == [
        ips("10.0.0.3"), ips("10.0.0.2"), ips("10.0.0.1")]
    rested = allocate(book, None, NOW + timedelta(minutes=4))
    assert rested[Owner("default/x")].addresses == ips("10.0.0.1")


def test_an_address_in_somebodys_external_ips_is_taken_and_that_one_is_told() -> None:
    book = Book([pool("a", "10.0.0.1-10.0.0.2")])
    book.claim(Owner("default/plain"), ips("10.0.0.1", "192.0.2.1"))
    book.put(asks("x"))
    assert allocate(book, None, NOW)[Owner("default/x")].addresses == ips("10.0.0.2")
    assert [(note.owner, note.reason) for note in book.conflicts()] == [("default/plain", "external-ip-conflict")]
    book.put(asks("y", addresses=ips("10.0.0.1")))
    assert refused(allocate(book, None, NOW)[Owner("default/y")])[0] == "address-in-use"


def test_who_names_its_own_address_in_external_ips_conflicts_with_nobody() -> None:
    book = Book([pool("a", "10.0.0.0/24")])
    book.put(asks("x", held=ips("10.0.0.1")))
    book.claim(Owner("default/x"), ips("10.0.0.1"))
    assert book.conflicts() == ()


def test_an_address_that_another_controllers_service_has_is_taken() -> None:
    book = Book([pool("a", "10.0.0.1-10.0.0.2")])
    book.claim(Owner("default/foreign"), (), published=ips("10.0.0.1"))
    book.put(asks("x"))
    assert allocate(book, None, NOW)[Owner("default/x")].addresses == ips("10.0.0.2")
    assert book.conflicts() == ()


# ── the book ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_usage_counts_addresses_not_services() -> None:
    book = Book([pool("a", "10.0.0.0/29", "fd00::/64", avoid_buggy=True,
                      reservations={Owner("default/db"): ips("10.0.0.7")})], nodes=ips("10.0.0.6"))
    book.put(asks("x", families=BOTH, held=ips("10.0.0.1", "fd00::1"), key="k", ports=frozenset({("TCP", 80)})))
    book.put(asks("y", held=ips("10.0.0.1"), key="k", ports=frozenset({("TCP", 81)})))
    book.set_released([Release(ips("10.0.0.5")[0], NOW)])
    used = book.usage(NOW)["a"]
    assert (used.ipv4.total, used.ipv4.assigned, used.ipv4.available) == (7, 1, 4)
    assert (used.ipv6.total, used.ipv6.assigned, used.ipv6.available) == (2**64, 1, 2**64 - 1)
    assert (used.services, used.reserved, used.cooling) == (2, 1, 1)


def test_overlapping_pools_make_no_book() -> None:
    with pytest.raises(ValueError, match="overlaps"):
        Book([pool("a", "10.0.0.0/24"), pool("b", "10.0.0.128/25")])


def waiting(pools: Sequence[Pool], *requests: Request) -> Book:
    """A Book in which everybody was thought of before."""
    book = Book(pools)
    for request in requests:
        book.put(request)
    allocate(book, None, NOW)
    return book


def after(book: Book, name: str) -> Outcome:
    """What it gets when nobody else is looked at."""
    return allocate(book, [Owner(f"default/{name}")], NOW)[Owner(f"default/{name}")]


HOLDER = asks("holder", 9, held=ips("10.0.0.1"))


def test_what_is_given_back_goes_to_who_waits_the_longest_though_only_a_newcomer_is_looked_at() -> None:
    book = waiting([pool("a", "10.0.0.1")], HOLDER, asks("waits", 5))
    book.remove(HOLDER.owner)
    book.put(asks("newcomer"))
    assert refused(after(book, "newcomer"))[0] == "pool-exhausted"
    assert after(book, "waits").addresses == ips("10.0.0.1")


@pytest.mark.parametrize("change", [
    lambda book: book.put(replace(HOLDER, held=())),
    lambda book: book.set_pools([pool("a", "10.0.0.1-10.0.0.2")]),
    lambda book: book.put(replace(HOLDER, key="k", ports=frozenset({("TCP", 1)}))),
])
def test_whatever_helps_who_waits_is_noticed(change: Any) -> None:
    patient = asks("waits", 10, key="k", ports=frozenset({("TCP", 2)}))
    book = waiting([pool("a", "10.0.0.1")], HOLDER, patient)
    change(book)
    book.put(asks("newcomer"))
    assert after(book, "newcomer").addresses == ()
    assert after(book, "waits").addresses


def test_an_older_holder_that_appears_frees_a_place_in_a_namespaces_quota_for_who_waits() -> None:
    few = pool("a", "10.0.0.0/24", max_per_namespace=1)
    book = waiting([few], asks("x/young", 1, held=ips("10.0.0.1")), asks("x/waits", 5))
    book.put(asks("y/older", 9, held=ips("10.0.0.1")))
    newcomer = asks("x/newcomer")
    book.put(newcomer)
    assert allocate(book, [newcomer.owner], NOW)[newcomer.owner].addresses == ()
    assert allocate(book, [Owner("x/waits")], NOW)[Owner("x/waits")].addresses == ips("10.0.0.0")


def test_a_moving_services_old_place_in_the_quota_does_not_keep_it_from_moving() -> None:
    few = pool("a", "10.0.0.0/24", max_per_namespace=1)
    assert answer([few], asks("x", held=ips("10.0.0.1"), addresses=ips("10.0.0.2"))).addresses == ips("10.0.0.2")


@pytest.mark.parametrize("wishes", [("10.0.0.1",), ("10.0.0.1", "fd00::1")])
def test_addresses_asked_for_of_both_families_count_together_for_a_namespaces_quota(wishes: tuple[str, ...]) -> None:
    few = pool("a", "10.0.0.0/24", "fd00::/120", max_per_namespace=1)
    found = answer([few], asks("x", families=BOTH, required=True, addresses=ips(*wishes)))
    assert (found.addresses, refused(found)[0]) == ((), "namespace-quota")


def test_ranges_that_are_full_are_not_looked_into_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Counter[int]()
    free = Place.free
    monkeypatch.setattr(Place, "free", lambda self, *more: looks.update([self.rank]) or free(self, *more))
    found = answers([pool("a", *(f"10.0.{n}.1" for n in range(100)))], *(asks(f"s{n:02}") for n in range(100)))
    assert all(outcome.addresses for outcome in found.values())
    assert looks.total() == 100


def test_who_asks_for_an_address_that_its_pool_avoids_hears_why() -> None:
    avoids = [pool("a", "10.0.0.0/24", avoid_buggy=True)]
    assert "avoidBuggyIPs" in refused(answer(avoids, asks("x", addresses=ips("10.0.0.255"))))[1]
    assert "avoidBuggyIPs" not in refused(answer(avoids, asks("x", addresses=ips("10.0.1.0"))))[1]


# ── quotas: who moves, who shares ─────────────────────────────────────────────────────────────────────────────────────

def port(number: int) -> dict[str, Any]:
    return {"key": "k", "ports": frozenset({("TCP", number)})}


@pytest.mark.parametrize("asked", [ips("10.0.0.1"), ()])
def test_what_one_leaves_for_another_address_is_not_given_to_a_sharer_over_the_namespaces_quota(asked: Any) -> None:
    few = pool("a", "10.0.0.1-10.0.0.9", max_per_namespace=1)
    moves = asks("x", 5, held=ips("10.0.0.1"), addresses=ips("10.0.0.2"), **port(80))
    found = answers([few], moves, asks("y", addresses=asked, **port(81)))
    assert found["x"].addresses == ips("10.0.0.2")
    assert found["y"].addresses == (() if asked else ips("10.0.0.2"))


def test_what_one_leaves_stays_his_namespaces_while_another_of_it_is_there() -> None:
    few = pool("a", "10.0.0.1-10.0.0.9", max_per_namespace=1)
    moves = asks("x", 5, held=ips("10.0.0.1"), pool="b", **port(80))
    stays = asks("z", 4, held=ips("10.0.0.1"), **port(82))
    found = answers([few, pool("b", "10.0.1.1")], moves, stays, asks("y", **port(81)))
    assert [found[name].addresses for name in "xzy"] == [ips("10.0.1.1"), ips("10.0.0.1"), ips("10.0.0.1")]


@pytest.mark.parametrize("six", [ips("fd00::1"), ()])
def test_addresses_shared_with_another_namespace_count_for_ones_own(six: tuple[IPAddress, ...]) -> None:
    few = pool("a", "10.0.0.0/24", "fd00::/120", max_per_namespace=1, sharing="cluster")
    shared = (*ips("10.0.0.1"), *six)
    theirs = [asks(f"other/{address}", 5, families=(), held=(address,), **port(81)) for address in shared]
    found = answers([few], *theirs, asks("x", families=BOTH, required=True, **port(80)))
    assert (found["x"].addresses, refused(found["x"])[0]) == ((), "namespace-quota")


def test_a_shared_address_of_the_own_namespace_leaves_the_quota_to_the_other_family() -> None:
    few = pool("a", "10.0.0.1", "fd00::/120", max_per_namespace=2)
    theirs = asks("y", 5, families=(), held=ips("10.0.0.1"), **port(81))
    found = answers([few], theirs, asks("x", families=BOTH, required=True, **port(80)))
    assert found["x"].addresses == ips("10.0.0.1", "fd00::")
