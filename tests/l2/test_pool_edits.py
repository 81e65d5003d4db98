"""What an edit of the pools would take away, and what a pool remembers of what was given back."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from lbctl.model import Owner
from lbctl_l2.pool import RELEASES, Holding, Loss, Pool, Release, losing, remember
from lbctl_l2.ranges import parse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB, API = Owner("default/web"), Owner("default/api")
HOLDINGS = (Holding(WEB, ip_address("10.0.0.200")), Holding(API, ip_address("10.0.0.0")))


def pool(name: str, *ranges: str, **more: Any) -> Pool:
    return Pool(name, tuple(map(parse, ranges)), **more)


@pytest.mark.parametrize(("new", "losers"), [
    ([pool("a", "10.0.0.0/24")], []),
    ([pool("b", "10.0.0.0/16")], []),
    ([pool("a", "10.0.0.0/25"), pool("b", "10.0.0.128/25")], []),
    ([pool("a", "10.0.0.0/25")], [WEB]),
    ([pool("a", "10.0.0.0/24", avoid_buggy=True)], [API]),
    ([], [API, WEB]),
])
def test_an_edit_takes_the_addresses_that_no_pool_covers_any_more(new: list[Pool], losers: list[Owner]) -> None:
    assert [loss.owner for loss in losing([pool("a", "10.0.0.0/24")], new, HOLDINGS)] == losers


def test_a_loss_names_the_pool_that_gave_the_address() -> None:
    old = [pool("a", "10.0.0.0/25"), pool("b", "10.0.0.128/25")]
    assert losing(old, old[:1], HOLDINGS) == (Loss(WEB, ip_address("10.0.0.200"), "b"),)


def test_an_address_that_lay_in_no_pool_before_is_not_lost_by_the_edit() -> None:
    assert losing([pool("a", "10.1.0.0/24")], [], HOLDINGS) == ()


def released(*minutes: int) -> list[Release]:
    return [Release(ip_address("10.0.0.0") + minute, NOW - timedelta(minutes=minute)) for minute in minutes]


def test_a_pool_remembers_what_rests_the_oldest_first() -> None:
    here = pool("a", "10.0.0.0/24", cooldown=timedelta(minutes=5))
    assert remember(here, released(4, 9), released(1, 5), NOW) == tuple(released(4, 1))


def test_of_an_address_given_back_twice_the_last_time_counts() -> None:
    twice = [Release(ip_address("10.0.0.1"), NOW - timedelta(seconds=seconds)) for seconds in (9, 3)]
    assert remember(pool("a", "10.0.0.0/24"), twice[1:], twice[:1], NOW) == (twice[1],)


def test_a_pool_remembers_its_own_addresses_only_and_no_more_than_a_status_holds() -> None:
    many = [Release(ip_address("10.0.0.0") + n, NOW - timedelta(microseconds=1000 - n)) for n in range(300)]
    kept = remember(pool("a", "10.0.0.0/23"), (), [*many, Release(ip_address("10.9.0.0"), NOW)], NOW)
    assert kept == tuple(many[-RELEASES:])
