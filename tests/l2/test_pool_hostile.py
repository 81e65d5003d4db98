"""Pools that people get wrong, or mean badly: they cost a sentence, never the controller."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from lbctl.cluster import Object
from lbctl.model import Owner
from lbctl_l2 import crds
from lbctl_l2.allocation import allocate
from lbctl_l2.book import Book
from lbctl_l2.crds import ADDRESS_POOLS, L2_ADVERTISEMENTS, Supply
from lbctl_l2.pool import RELEASES, Release, Request, remember
from lbctl_l2.ranges import Range

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERYWHERE = (L2_ADVERTISEMENTS, Object("everywhere"))


def supply(*addresses: str, status: dict[str, Any] | None = None, **spec: Any) -> Supply:
    found = Object("a", spec={"addresses": list(addresses), **spec}, status=status or {})
    return crds.supply([(ADDRESS_POOLS, found), EVERYWHERE])


@pytest.mark.parametrize("around", [
    "0.0.0.0/0", "::/0", "126.0.0.0-128.0.0.0", "192.0.2.0-250.0.0.0", "0.0.0.1-0.0.0.9", "255.255.255.0/24",
    "fe00::-fec0::", "8000::-fffe::", "::ffff:192.0.2.0/120", "169.0.0.0/8",
])
def test_a_range_around_what_no_host_can_have_is_refused_wherever_it_begins_and_ends(around: str) -> None:
    found = supply(around)
    assert (found.pools, [problem.reason for problem in found.problems]) == ((), ["invalid-pool"])
    assert "which no host can have: leave it out" in found.problems[0].message


def test_a_rest_longer_than_a_clock_can_say_is_refused() -> None:
    assert [problem.reason for problem in supply("10.0.0.0/24", cooldownSeconds=10**18).problems] == ["invalid-pool"]


def test_a_release_at_the_end_of_time_was_released_now() -> None:
    found = supply("10.0.0.0/24", status={"released": [{"address": "10.0.0.1", "at": "9999-12-31T23:59:59Z"}]})
    rests = remember(found.pools[0], found.released, NOW)
    assert rests == (Release(ip_address("10.0.0.1"), NOW),)
    book = Book(found.pools)
    book.set_released(rests)
    assert book.usage(NOW)["a"].cooling == 1


@pytest.mark.parametrize("at", ["2026-01-01T00:00:00", "0001-01-01T00:00:00+01:00"])
def test_a_release_whose_time_is_none_costs_the_memory_only(at: str) -> None:
    found = supply("10.0.0.0/24", status={"released": [{"address": "10.0.0.1", "at": at}]})
    assert (found.released, [problem.reason for problem in found.problems]) == ((), ["unreadable-status"])


def test_a_clock_that_was_ahead_lets_no_address_rest_longer_than_the_pool_says() -> None:
    [pool] = supply("10.0.0.0/24", cooldownSeconds=60).pools
    ahead = [Release(ip_address("10.0.0.1"), NOW + timedelta(days=1))]
    assert remember(pool, remember(pool, ahead, NOW), NOW + timedelta(seconds=60)) == ()


def test_a_pool_remembers_the_latest_releases_each_address_once() -> None:
    [pool] = supply("10.0.0.0/16").pools
    first = ip_address("10.0.0.0")
    said = [Release(first + number % 300, NOW - timedelta(milliseconds=600 - number)) for number in range(600)]
    kept = remember(pool, said, NOW)
    assert kept == tuple(said[-RELEASES:])


def test_ranges_by_the_thousand_are_each_compared_with_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Counter[int]()
    overlaps = Range.overlaps
    monkeypatch.setattr(Range, "overlaps", lambda self, other: looks.update([other.version]) or overlaps(self, other))
    found = supply(*(f"10.{number // 256}.{number % 256}.1" for number in range(5000)), "10.1.1.0/24")
    assert [problem.reason for problem in found.problems] == ["overlapping-pool"]
    assert looks.total() < 20 * 5000


@pytest.mark.parametrize(("avoids", "pools"), [(False, ["a", "a", "a", "", "a"]), (True, ["", "a", "a", "", "a"])])
def test_which_pool_an_address_is_of(avoids: bool, pools: list[str]) -> None:
    found = supply("192.0.2.0/30", "192.0.2.16", "2001:db8::/64", avoidBuggyIPs=avoids)
    asked = ("192.0.2.0", "192.0.2.3", "192.0.2.16", "192.0.2.4", "2001:db8::")
    assert [found.pool_of(ip_address(text)) for text in asked] == pools


def test_what_is_wrong_many_times_is_told_in_as_much_as_a_status_takes() -> None:
    outside = [{"service": f"n/s{number}", "addresses": ["192.0.2.1"]} for number in range(512)]
    found = supply("10.0.0.0/24", reservations=outside)
    assert len(found.problems) >= 512
    [ready] = crds.pool_status(Object("a"), None, (), found.problems, NOW)["conditions"]
    assert len(ready["message"]) == 1024


def test_a_text_that_is_no_range_is_quoted_in_part_and_without_what_acts_on_terminals() -> None:
    [problem] = supply("\x1b[31m" + "x" * 10**6).problems
    assert len(problem.message) < 300
    assert "\x1b" not in problem.message


def test_a_refusal_names_some_of_many_ranges() -> None:
    book = Book(supply(*(f"10.0.{number}.1" for number in range(200))).pools)
    book.put(Request(Owner("a/x"), addresses=(ip_address("10.9.9.9"),)))
    refusal = allocate(book, None, NOW)[Owner("a/x")].refusal
    assert refusal is not None
    assert refusal.message.endswith("10.0.6.1, 10.0.7.1 and 192 more)")
