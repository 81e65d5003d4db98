"""Ranges as people write them, and sets of numbers kept as intervals."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl_l2.book import Place
from lbctl_l2.pool import Pool
from lbctl_l2.ranges import BUGGY, Intervals, parse


@pytest.mark.parametrize(("text", "first", "last"), [
    ("192.0.2.0/24", "192.0.2.0", "192.0.2.255"),
    ("192.0.2.77/24", "192.0.2.0", "192.0.2.255"),
    (" 192.0.2.8 - 192.0.2.9 ", "192.0.2.8", "192.0.2.9"),
    ("192.0.2.8-192.0.2.8", "192.0.2.8", "192.0.2.8"),
    ("192.0.2.8", "192.0.2.8", "192.0.2.8"),
    ("2001:db8::/126", "2001:db8::", "2001:db8::3"),
    ("2001:db8::1-2001:db8::a", "2001:db8::1", "2001:db8::a"),
])
def test_a_range_is_read(text: str, first: str, last: str) -> None:
    found = parse(text)
    assert (found.address(found.first), found.address(found.last)) == (ip_address(first), ip_address(last))


@pytest.mark.parametrize(("text", "said"), [
    ("192.0.2.9-192.0.2.8", "write 192.0.2.8-192.0.2.9"),
    ("192.0.2.1-2001:db8::1", "one family"),
    ("192.0.2.0/33", "not a range"),
    ("fe80::1%eth0", "scope"),
    ("web", "not a range"),
    ("192.0.2.1-", "not a range"),
    ("", "not a range"),
])
def test_what_is_no_range_is_refused_with_the_way_out(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)


def test_a_bare_address_is_refused_where_metallb_refuses_it() -> None:
    with pytest.raises(ValueError, match="write 192.0.2.8/32"):
        parse("192.0.2.8", bare=False)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20))))
def test_intervals_are_a_set(steps: list[tuple[bool, int]]) -> None:
    intervals, plain = Intervals(), set[int]()
    for adds, number in steps:
        (intervals.add if adds else intervals.discard)(number)
        (plain.add if adds else plain.discard)(number)
        assert intervals.count == len(plain)
        assert all((n in intervals) == (n in plain) for n in range(22))
        assert all(intervals.gap(n) == next(m for m in range(n, 99) if m not in plain) for n in range(22))


def test_numbers_side_by_side_are_one_interval() -> None:
    intervals = Intervals()
    for number in (1, 3, 2):
        intervals.add(number)
    assert (intervals._starts, intervals._ends) == ([1], [3])


@given(st.integers(0, 1200), st.integers(0, 700))
def test_addresses_that_a_pool_avoids_have_no_place(first: int, length: int) -> None:
    base = int(ip_address("10.0.0.0"))
    part = parse(f"{ip_address(base + first)}-{ip_address(base + first + length)}")
    place = Place(Pool("a", (part,), avoid_buggy=True), part, 0)
    expected = [n for n in range(part.first, part.last + 1) if n % 256 not in BUGGY]
    assert [int(place.address(number)) for number in range(place.first, place.last + 1)] == expected
    assert [place.number(ip_address(n)) for n in expected] == list(range(place.first, place.last + 1))
