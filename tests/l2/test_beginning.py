"""Speakers that begin together: for how long one waits for the others, and when it is a founder."""

import pytest
from msgspec.structs import replace

from lbctl_l2.beginning import Beginning
from lbctl_l2.election import Member, NodeLink
from lbctl_l2.values import Counters, PeerReport, Report

REPORT = Report("a", 0.0, False, False, False, (), (), (), Counters())
LINKS = (NodeLink("eth0"),)


def member(name: str, **changes) -> Member:
    return replace(Member(name, links=LINKS, settled=False), **changes)


def absent(name: str) -> Member:
    return Member(name, speaks=False, alive=False, settled=False)


def heard(*names: str, **changes) -> Report:
    return replace(REPORT, peers=tuple(PeerReport(name, True) for name in names), **changes)


def looked(*looks: tuple[float, list[Member]], report: Report = REPORT) -> Beginning:
    beginning = Beginning("a", 0.0)
    for at, roll in looks:
        beginning.look(roll, report, at)
    return beginning


def test_it_waits_until_nobody_has_come_for_a_second():
    roll = [member("a"), absent("b"), absent("c")]
    more = [member("a"), member("b"), absent("c")]
    assert looked((0.0, roll), (0.9, roll)).waits
    assert looked((0.0, roll), (0.9, more), (1.8, more)).waits
    assert not looked((0.0, roll), (0.9, more), (2.0, more)).waits


def test_it_waits_three_seconds_at_most():
    waves = [(at / 2, [member("a"), *(member(f"n{n}") for n in range(at)), absent("z")]) for at in range(7)]
    assert looked(*waves[:6]).waits
    assert not looked(*waves).waits


@pytest.mark.parametrize(
    "roll",
    [
        [member("a")],
        [member("a"), member("b"), Member("control-plane", speaks=False, excluded=True)],
        [member("a"), member("b", announces={"192.0.2.1": 1.0}), absent("c")],
    ],
    ids=["everybody is there", "all who may are there", "somebody announces"],
)
def test_it_does_not_wait_where_there_is_nobody_to_wait_for(roll):
    assert not looked((0.0, roll)).waits


def test_a_speaker_whose_interfaces_are_not_known_yet_is_waited_for():
    assert looked((0.0, [member("a"), member("b", links=())])).waits


def test_what_has_been_waited_for_once_is_not_waited_for_again():
    assert not looked((0.0, [member("a")]), (0.5, [member("a"), absent("b")])).waits


def test_a_founder_settles_once_after_five_seconds_and_is_none_after_a_minute():
    beginning, roll = Beginning("a", 0.0), [member("a"), absent("b")]
    told = [beginning.look(roll, REPORT, at) for at in (0.0, 4.9, 5.0, 6.0)]
    assert (told, beginning.founds) == ([False, False, True, False], True)
    beginning.look(roll, REPORT, 60.0)
    assert not beginning.founds


def test_among_elders_that_are_heard_nobody_founds():
    beginning = looked((1.5, [member("a"), member("b", settled=True)]), report=heard("b"))
    assert (beginning.founds, beginning.waits) == (False, False)
    assert not beginning.look([member("a")], REPORT, 6.0)


@pytest.mark.parametrize(
    ("other", "report"),
    [
        (member("b", settled=True), REPORT),
        (member("b"), heard("b")),
        (member("b", settled=True, founds=True), heard("b")),
    ],
    ids=["its Lease outlived it", "it has not settled either", "it founds, too"],
)
def test_who_is_no_elder_keeps_nobody_from_founding(other, report):
    assert looked((1.5, [member("a"), other]), report=report).founds


def test_before_elders_could_be_heard_it_takes_itself_for_a_founder():
    elder = member("b", settled=True)
    assert looked((1.4, [member("a"), elder]), report=heard("b")).founds
    assert not looked((1.4, [member("a"), elder]), (1.5, [member("a"), elder]), report=heard("b")).founds


def test_the_next_look_is_when_something_can_change():
    beginning = looked((0.0, [member("a"), absent("b")]))
    assert [beginning.due(at) for at in (0.0, 1.0, 2.0)] == [1.0, 0.5, 1.0]
    assert beginning.due(61.0) == float("inf")
