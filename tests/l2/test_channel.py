"""What control and data plane say to each other: only differences, in parts, and never so that anyone waits."""

import socket
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl_l2.channel import Command, Differences, Exclude, Line, Log, News, Seen, Start, Told, Update
from lbctl_l2.wire import AddressReport, Counters, Link, Order, Peer, PeerLink, Report, State, Timing

if not hasattr(socket, "SOCK_SEQPACKET") or not hasattr(socket, "AF_PACKET"):
    pytest.skip("the speaker is Linux's", allow_module_level=True)

VIP = IPv4Address("192.0.2.100")
MAC = bytes.fromhex("020000000001")


def order(number: int, *ranking: str) -> Order:
    return Order(VIP + number, ranking or ("a", "b"))


@pytest.fixture
def lines():
    control, plane = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control, plane:
        yield Line(control, News), Line(plane, Command)


def drain(differences: Differences, room: int = 32_768) -> list[tuple]:
    parts = []
    while differences:
        new, old = differences.part(room)
        differences.said(len(new), len(old))
        parts.append((new, old))
    return parts


def test_only_what_changed_is_said():
    differences = Differences()
    differences.want({1: "one", 2: "two"})
    drain(differences)
    differences.want({1: "one", 2: "zwei", 3: "three"})
    assert drain(differences) == [(("zwei", "three"), ())]


def test_what_is_gone_is_said_once():
    differences = Differences()
    differences.want({1: "one", 2: "two"})
    drain(differences)
    differences.want({2: "two"})
    assert drain(differences) == [((), (1,))]


def test_nothing_is_said_twice():
    differences = Differences()
    differences.want({1: "one"})
    drain(differences)
    differences.want({1: "one"})
    assert not differences


def test_a_value_that_came_and_went_before_it_was_said_ends_as_gone():
    differences = Differences()
    differences.want({1: "one"})
    differences.want({})
    assert drain(differences) == [((), (1,))]


def test_a_new_other_side_hears_everything():
    differences = Differences()
    differences.want({1: "one", 2: "two"})
    drain(differences)
    differences.forget()
    assert drain(differences) == [(("one", "two"), ())]


def test_a_large_set_travels_in_parts_that_fit():
    differences = Differences()
    differences.want(dict.fromkeys(range(1000), "x" * 100))
    parts = drain(differences, room=1000)
    assert sum(len(new) for new, _ in parts) == 1000
    assert max(len(new) for new, _ in parts) <= 10


def test_a_value_larger_than_a_part_travels_alone():
    differences = Differences()
    differences.want({1: "x" * 5000, 2: "y"})
    assert [len(new) for new, _ in drain(differences, room=1000)] == [1, 1]


@given(st.lists(st.dictionaries(st.integers(0, 20), st.text(max_size=8))), st.integers(1, 100), st.data())
def test_the_other_side_ends_with_the_latest_whatever_was_said_meanwhile(wanted, room, data):
    differences, known = Differences(), {}
    for latest in [*wanted, {9: "last"}]:
        differences.want({key: (key, value) for key, value in latest.items()})
        for _ in range(data.draw(st.integers(0, 3))):
            say(differences, known, room)
    while differences:
        say(differences, known, room)
    assert known == {9: "last"}


def say(differences: Differences, known: dict, room: int) -> None:
    new, old = differences.part(room)
    known.update(new)
    for key in old:
        known.pop(key, None)
    differences.said(len(new), len(old))


@pytest.mark.parametrize("message", [
    Start("a", "c", Timing(), ("^lo$",)),
    Update((order(1), Order(ip_address("2001:db8::1"), ("a",), frozenset({"eth0"}), True, 60.0)), (VIP,), (
        Peer("b", (PeerLink("eth0", MAC),)),
    ), ("c",), more=True),
    Exclude(("a", "b")),
])
def test_commands_arrive_as_they_were_said(lines, message):
    control, plane = lines
    control.send(message)
    assert plane.receive() == message


@pytest.mark.parametrize("message", [
    Told(Report("a", 1.0, True, False, False, (AddressReport(VIP, State.SPEAKING, 0.5),), (), (), Counters()), (VIP,)),
    Seen((Link(2, "eth0", MAC),), {"eth1": "down: switched off"}),
    Log("error", "what", {"why": "because"}),
])
def test_news_arrive_as_they_were_said(lines, message):
    control, plane = lines
    plane.send(message)
    assert control.receive() == message


def test_a_full_line_refuses_and_does_not_wait(lines):
    _, plane = lines
    line = Log("info", "x" * 10_000, {})
    assert not all(plane.send(line) for _ in range(100))


def test_nothing_said_is_nothing_heard(lines):
    assert lines[1].receive() is None


def test_the_end_of_one_side_is_heard_by_the_other(lines):
    control, plane = lines
    control.close()
    with pytest.raises((EOFError, ConnectionError)):
        plane.receive()


def test_the_largest_part_fits_a_socket_of_default_size(lines):
    control, plane = lines
    ranking = tuple(f"node-{number:04}.example.internal" for number in range(1000))
    orders: Differences = Differences()
    orders.want({number: order(number, *ranking) for number in range(50)})
    new, old = orders.part()
    assert control.send(Update(new, old))
    assert plane.receive() == Update(new, old)
