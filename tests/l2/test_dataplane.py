"""The data-plane process and its handle, on no interface at all: what passes between control and it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest

from lbctl_l2 import channel
from lbctl_l2.channel import Command, DataPlane, Line, Log, News, Start, Told, Update
from lbctl_l2.dataplane import LOOKED_AT, Loop, Reporter
from lbctl_l2.wire import AddressReport, Counters, Order, Peer, Report, State, Timing

if not hasattr(socket, "AF_PACKET"):
    pytest.skip("the speaker is Linux's", allow_module_level=True)

VIP = IPv4Address("10.0.0.0")
NOWHERE = (".*",)
"""Every interface excluded: not one frame leaves this machine."""


def orders(count: int, *ranking: str) -> list[Order]:
    return [Order(VIP + number, ranking or ("a", "b")) for number in range(count)]


def until(condition: Callable[[], object], within: float = 10.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def logs() -> list[Log]:
    return []


@pytest.fixture
def plane(logs) -> Iterator[DataPlane]:
    made = DataPlane("a", "test", excluded=NOWHERE, logged=logs.append).start()
    yield made
    made.leave(1.0)


def told(plane: DataPlane) -> set[IPv4Address]:
    report = plane.report()
    return set() if report is None else {address.address for address in report.addresses}


def test_it_reports_what_it_was_told(plane):
    plane.orders(orders(3), [Peer("b")])
    until(lambda: told(plane) == {VIP, VIP + 1, VIP + 2})
    assert {address.state for address in plane.report().addresses} == {State.NO_LINK}
    assert plane.alive


def test_thousands_of_orders_arrive_whole(plane):
    plane.orders(orders(5000, *[f"node-{number}.example" for number in range(20)]), ())
    until(lambda: len(told(plane)) == 5000)


def test_orders_that_end_leave_the_report(plane):
    plane.orders(orders(1000), ())
    until(lambda: len(told(plane)) == 1000)
    plane.orders(orders(1), ())
    until(lambda: told(plane) == {VIP})


def test_its_links_are_told(plane):
    until(lambda: plane.report() is not None)
    assert plane.links() == ()
    assert plane.unusable() == {}


def test_a_killed_one_is_replaced_told_everything_and_reported(plane, logs):
    plane.orders(orders(700), ())
    until(lambda: len(told(plane)) == 700)
    first = plane.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: plane.pid != first and len(told(plane)) == 700)
    assert (plane.restarts, logs[0].level, logs[0].fields["code"]) == (1, "error", "-9")


def test_one_that_says_nothing_is_replaced(plane, monkeypatch):
    monkeypatch.setattr(channel, "SILENT", 1)
    until(lambda: plane.report() is not None)
    first = plane.pid
    os.kill(first, signal.SIGSTOP)
    until(lambda: plane.pid != first and plane.alive)


def test_a_stopped_one_delays_nobody_who_gives_orders(plane):
    until(lambda: plane.report() is not None)
    os.kill(plane.pid, signal.SIGSTOP)
    for _ in range(3):
        plane.orders(orders(3000), ())
        plane.orders((), ())
    plane.orders(orders(2), ())
    os.kill(plane.pid, signal.SIGCONT)
    until(lambda: told(plane) == {VIP, VIP + 1})


def test_sigterm_ends_it_in_good_order(plane, monkeypatch):
    until(lambda: plane.report() is not None)
    process = plane._process
    os.kill(process.pid, signal.SIGTERM)
    until(lambda: process.poll() is not None)
    assert process.returncode == 0


def test_told_to_leave_it_ends_in_good_order(plane):
    until(lambda: plane.report() is not None)
    assert plane.leave(3.0)
    assert not plane.alive


def test_one_that_cannot_leave_is_killed(plane):
    until(lambda: plane.report() is not None)
    os.kill(plane.pid, signal.SIGSTOP)
    assert not plane.leave(0.2)


def test_a_wrong_list_of_interfaces_never_reaches_it(plane):
    with pytest.raises(ValueError, match="regular expression"):
        plane.exclude(("(",))
    until(lambda: plane.alive)
    assert plane.restarts == 0


def test_the_process_imports_nothing_that_is_not_needed():
    imported = "import sys, lbctl_l2.dataplane; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"kubernetes", "urllib3", "click", "rich", "yaml", "asyncio", "subprocess", "ctypes", "lbctl.provider",
             "_hashlib", "pathlib"}
    assert heavy & set(names) == set()


def test_settling_can_be_had_at_once(plane):
    until(lambda: plane.report() is not None)
    assert not plane.report().settled
    plane.settle()
    until(lambda: plane.report().settled)


# -- the loop and its reporter, without a process


@pytest.fixture
def ends() -> Iterator[tuple[Line[News], Line[Command]]]:
    control, plane = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control, plane:
        yield Line(control, News), Line(plane, Command)


@pytest.fixture
def loop(ends) -> Iterator[Loop]:
    made = Loop(ends[1], Start("a", "test", Timing(), NOWHERE))
    yield made
    made.close()


def test_a_set_in_parts_is_acted_upon_when_the_last_is_there(ends, loop):
    control, _ = ends
    control.send(Update(tuple(orders(2)), more=True))
    control.send(Update((Order(VIP + 9, ("a",)),)))
    loop.turn()
    assert loop._machine.report().addresses == ()
    for _ in range(5):
        loop.turn()
    assert len(loop._machine.report().addresses) == 3


def test_control_that_went_away_is_the_signal_to_leave(ends, loop):
    ends[0].close()
    loop.run()
    assert loop._machine.left


def test_control_that_never_reads_makes_nothing_wait(ends, loop):
    control, _ = ends
    control.send(Update(tuple(orders(500))))
    for number in range(50):
        loop._log("info", "x" * 9000, {"number": str(number)})
        loop.turn()
    assert loop._news.lost > 0
    assert len(loop._machine.report().addresses) == 500


def report(*addresses: AddressReport, at: float = 1.0) -> Report:
    return Report("a", at, True, False, False, addresses, (), (), Counters())


def give(reporter: Reporter, whole: Report, revision: int) -> None:
    reporter.see(whole.addresses)
    reporter.take(report(at=whole.at), revision, {address.address for address in whole.addresses})


def test_a_report_says_only_what_changed(ends):
    control, plane = ends
    reporter = Reporter(plane)
    first, second = (AddressReport(VIP + number, State.STANDBY, 0.0) for number in range(2))
    give(reporter, report(first, second), 1)
    reporter.send()
    give(reporter, report(first), 2)
    reporter.send()
    assert control.receive() == Told(report(first, second))
    assert control.receive() == Told(report(), (VIP + 1,))


def test_a_large_report_goes_in_parts_without_waiting(ends):
    control, plane = ends
    reporter = Reporter(plane)
    give(reporter, report(*[AddressReport(VIP + number, State.STANDBY, 0.0) for number in range(20_000)]), 1)
    heard: list[Told] = []
    while not heard or heard[-1].more:
        reporter.send()
        while (part := control.receive()) is not None:
            heard.append(part)
    assert sum(len(part.report.addresses) for part in heard) == 20_000
    assert len(heard) > 10


def test_thousands_are_looked_at_in_parts_and_told_whole(ends, loop, monkeypatch):
    control, _ = ends
    looked: list[int] = []
    see = loop._news.see
    monkeypatch.setattr(loop._news, "see", lambda part: (looked.append(len(part)), see(part)))
    loop._update(Update(tuple(orders(1000))))
    told: list[Told] = []
    while not told or told[-1].more:
        loop.turn()
        while (news := control.receive()) is not None:
            told += [news] if isinstance(news, Told) else []
    assert looked[:4] == [LOOKED_AT] * 3 + [1000 - 3 * LOOKED_AT]
    assert sum(len(part.report.addresses) for part in told) == 1000


def test_what_ends_while_it_is_looked_at_is_not_told(ends, loop):
    loop._update(Update(tuple(orders(1000))))
    loop._tell()
    loop._update(Update(ended=tuple(VIP + number for number in range(900))))
    while loop._looking is not None:
        loop._tell()
    assert loop._news._addresses.latest.keys() == {VIP + number for number in range(900, 1000)}


@pytest.mark.parametrize(("revision", "now", "due"), [
    (1, 1.05, False), (1, 1.5, False), (1, 2.0, True), (2, 1.05, False), (2, 1.1, True),
])
def test_reports_are_ten_a_second_after_changes_and_one_otherwise(ends, revision, now, due):
    reporter = Reporter(ends[1])
    assert reporter.due(1, 0.0)
    give(reporter, report(at=1.0), 1)
    assert reporter.due(revision, now) is due


def test_a_report_that_took_long_is_not_made_often(ends):
    reporter = Reporter(ends[1])
    give(reporter, report(at=1.0), 1)
    reporter.rest = 3.0
    assert [reporter.due(2, now) for now in (2.5, 4.1)] == [False, True]
