"""Why a node begins to announce an address, and why it stops, as its log says it."""

from ipaddress import ip_address

import pytest
from msgspec.structs import replace

from lbctl_l2.because import LINES, NoCluster, Word, changes, lines
from lbctl_l2.values import AddressReport, Counters, PeerReport, Report, State

VIP = ip_address("192.0.2.100")
BARE = Report("a", 100.0, True, False, False, (), (), (), Counters())


def report(state: State | None = None, holder: str = "", peer: PeerReport | None = None, **more) -> Report:
    addresses = () if state is None else (AddressReport(VIP, state, 90.0, holder),)
    return replace(BARE, addresses=addresses, peers=(peer,) if peer else (), **more)


class Cluster(NoCluster):
    """It says the same of every address."""

    def __init__(self, given: str, taken: str, holder: str) -> None:
        self.given, self.taken, self.holder = lambda *_: given, lambda *_: taken, lambda _: holder


def said(before: Report | None, after: Report, given: str = "", taken: str = "", holder: str = "") -> list[str]:
    return [word.because for word in changes(before, after, Cluster(given, taken, holder))]


B = PeerReport("b", True, heard=99.9)


@pytest.mark.parametrize(
    ("before", "peer", "because"),
    [
        (None, None, "first in the ranking"),
        (report(State.PROBING), None, "first in the ranking"),
        (report(State.ASKING), None, "nobody else answers for it"),
        (report(State.STANDBY, "b"), None, "b is not on the roll"),
        (report(State.STANDBY, "b"), replace(B, alive=False, heard=99.77), "node b silent 230 ms"),
        (report(State.STANDBY, "b"), replace(B, alive=False, heard=None), "node b never heard"),
        (report(State.STANDBY, "b"), replace(B, leaving=True), "handed over by b: it leaves"),
        (report(State.STANDBY, "b"), replace(B, unsettled=True), "node b has begun anew, or stood still"),
        (report(State.STANDBY, "b"), B, "handed over by b: for balance"),
    ],
)
def test_why_it_begins(before, peer, because):
    assert said(before, report(State.SPEAKING, "a", peer), taken="for balance") == [because]


def test_who_has_just_begun_to_listen_knows_the_holder_from_its_lease():
    speaks = report(State.SPEAKING, "a", B)
    assert said(report(State.STANDBY), speaks, taken="for balance", holder="b") == ["handed over by b: for balance"]


@pytest.mark.parametrize(
    ("after", "given", "because"),
    [
        (report(), "no Service holds it", "no Service holds it"),
        (report(), "", "the data plane has begun anew"),
        (report(State.NO_LINK, "a"), "", "no interface that may carry it is up"),
        (report(State.DUPLICATE, "a"), "", "a host that is no speaker answers for it"),
        (report(State.STANDBY, "b", counters=Counters(frozen=1)), "",
         "this node stood still, and asks who answers meanwhile"),
        (report(State.STANDBY, "b"), "this node is cordoned", "handed over to b: this node is cordoned"),
        (report(State.STANDBY, "b"), "", "handed over to b: it comes first"),
        (report(State.STANDBY, "b", leaving=True), "", "handed over to b: this node leaves"),
        (report(State.STANDBY, "a"), "", "another comes first"),
    ],
)  # fmt: skip
def test_why_it_stops(after, given, because):
    assert said(report(State.SPEAKING, "a"), after, given=given) == [because]


def test_what_stays_as_it_is_is_not_told():
    assert said(report(State.SPEAKING, "a"), report(State.YIELDING, "a")) == []


def told(words: list[Word]) -> list[tuple[str, dict[str, str]]]:
    return list(lines(words, lambda _address: ("default/web",)))


def test_a_change_is_a_line_with_its_service():
    fields = {"address": "192.0.2.100", "services": "default/web", "because": "first in the ranking"}
    assert told([Word("announces", VIP, "first in the ranking")]) == [("announces", fields)]


def test_hundreds_of_changes_at_once_are_a_line_for_each_reason():
    words = [Word("announces", VIP + n, "node b silent 230 ms" if n % 3 else "first") for n in range(300)]
    (message, fields), other = told(words)
    assert (message, fields["number"], fields["because"]) == (
        "announces several addresses", "200", "node b silent 230 ms"
    )  # fmt: skip
    assert fields["addresses"] == "192.0.2.101,192.0.2.102,192.0.2.104 and 197 more"
    assert other[1]["number"] == "100"


def test_however_many_reasons_there_are_the_lines_are_few():
    words = [Word("announces", VIP + n, f"node {n} silent") for n in range(50)]
    found = told(words)
    assert len(found) == LINES + 1
    assert found[-1][1]["number"] == str(50 - LINES)
