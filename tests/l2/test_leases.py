"""What rides in a node's Lease, how it is written, and how it is judged."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.cluster import NoKubernetes, Object
from lbctl.errors import LbctlError
from lbctl.model import Node
from lbctl_l2 import leases, members
from lbctl_l2.election import Claim
from lbctl_l2.leases import Facts, Lease, Observed, Problem, Said, SaidConflict, SaidLink
from lbctl_l2.values import PeerLink

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
VIP = ip_address("192.0.2.100")
FACTS = Facts(
    "node-1", started=100, settled=True, gives={"192.0.2.7": "node-2"},
    links=(SaidLink("eth0", "02:00:00:00:01:01", (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"))),),
    conflicts=(SaidConflict("192.0.2.100", "02:00:00:00:09:09", "eth0", 120),),
    problems=(Problem("own-address", "take it out", "192.0.2.9"),),
)  # fmt: skip


class Api(NoKubernetes):
    """Leases by name, as an API server merges patches into them."""

    home = "lbctl-system"

    def __init__(self) -> None:
        self.leases: dict[str, dict[str, Any]] = {}
        self.bodies: list[Any] = []
        self.failing = False

    def create(self, watch, body, namespace=""):
        self.leases[body["metadata"]["name"]] = msgspec.json.decode(msgspec.json.encode(body))
        self.bodies.append(("create", body))
        return Object(body["metadata"]["name"])

    def patch(self, watch, name, body, namespace="", subresource=""):
        self.bodies.append(("patch", body))
        if self.failing:
            raise LbctlError("no answer", reason="kubernetes-unavailable")
        if name not in self.leases:
            raise LbctlError("there is none", reason="NotFound")
        found = self.leases[name]
        found["spec"] |= body["spec"]
        found["metadata"].setdefault("annotations", {}).update(body.get("metadata", {}).get("annotations", {}))
        return Object(name)

    def lease(self, name: str) -> Object:
        found = self.leases[name]
        return Object(name, annotations=found["metadata"]["annotations"], spec=found["spec"])


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def lease(api) -> Lease:
    return Lease(api, "node-1", lambda: NOW)


def written(**spec: Any) -> Object:
    held = {"holderIdentity": "node-1", "renewTime": leases.micro(NOW), **spec}
    return Object("lbctl-speaker-node-1", annotations=leases.encode(FACTS, {VIP: 110}), spec=held)


def test_what_is_encoded_is_decoded():
    assert leases.decode(written()) == Said(FACTS, {VIP: 110}, True, NOW)


def test_a_lease_that_was_given_back_still_says_what_it_said():
    found = leases.decode(written(holderIdentity=""))
    assert (found.held, found.announcing) == (False, {VIP: 110})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"node":1}', '{"node":"a","links":[{"name":"e","mac":"zz"}]}',
                                  '{"node":"a","gives":{"x":"b"}}'])  # fmt: skip
def test_a_lease_that_cannot_be_read_is_no_speakers(text):
    assert leases.decode(Object("x", annotations={leases.SPEAKER: text})) is None


@given(st.text())
def test_no_text_in_an_annotation_is_more_than_unreadable(text):
    leases.decode(Object("x", annotations={leases.SPEAKER: leases.encode(FACTS, {})[leases.SPEAKER],
                                           leases.ANNOUNCING: text}))  # fmt: skip


def test_an_annotation_is_bounded_and_the_oldest_announcements_are_kept():
    many = {ip_address("2001:db8::") + number: 1_000_000_000 + number for number in range(20_000)}
    facts = msgspec.structs.replace(FACTS, conflicts=FACTS.conflicts * 100, problems=FACTS.problems * 100)
    said = leases.encode(facts, many)
    assert sum(map(len, said.values())) < 200_000
    assert ip_address("2001:db8::") in leases.decode(Object("x", annotations=said)).announcing


def test_the_first_renewal_makes_the_lease_and_the_next_says_only_what_is_new(api, lease):
    lease.renew(leases.encode(FACTS, {}))
    lease.renew(leases.encode(FACTS, {VIP: 110}))
    lease.renew(leases.encode(FACTS, {VIP: 110}))
    verbs, bodies = zip(*api.bodies, strict=True)
    assert verbs == ("patch", "create", "patch", "patch")
    assert bodies[2]["metadata"] == {"annotations": {leases.ANNOUNCING: '{"192.0.2.100":110}'}}
    assert "metadata" not in bodies[3]
    assert leases.decode(api.lease("lbctl-speaker-node-1")) == Said(FACTS, {VIP: 110}, True, NOW)


def test_after_a_renewal_without_an_answer_everything_is_said_again(api, lease):
    lease.renew(leases.encode(FACTS, {}))
    api.failing = True
    with pytest.raises(LbctlError):
        lease.renew(leases.encode(FACTS, {VIP: 110}))
    api.failing = False
    lease.renew(leases.encode(FACTS, {VIP: 110}))
    assert api.bodies[-1][1]["metadata"]["annotations"] == leases.encode(FACTS, {VIP: 110})


def test_a_lease_that_somebody_deleted_is_made_again(api, lease):
    lease.renew(leases.encode(FACTS, {}))
    api.leases.clear()
    lease.renew(leases.encode(FACTS, {}))
    assert api.leases["lbctl-speaker-node-1"]["metadata"]["labels"] == leases.LABELS


def test_a_clean_end_gives_the_lease_back_and_leaves_what_it_said(api, lease):
    lease.renew(leases.encode(FACTS, {VIP: 110}))
    lease.release()
    found = leases.decode(api.lease("lbctl-speaker-node-1"))
    assert (found.held, found.announcing) == (False, {VIP: 110})


def test_a_renewal_is_no_news_and_everything_else_is():
    later = written(renewTime=leases.micro(NOW + timedelta(seconds=10)))
    assert not leases.is_news(written(), later)
    assert leases.is_news(written(), written(holderIdentity=""))
    assert leases.is_news(written(), msgspec.structs.replace(written(), annotations={}))
    assert leases.is_news(None, written())
    assert leases.is_news(written(), None)


def test_a_long_node_name_still_has_a_lease_of_its_own():
    names = {leases.name("n" * 253), leases.name("n" * 252), leases.name("node-1")}
    assert len(names) == 3
    assert max(map(len, names)) <= 253


def test_age_is_the_time_since_it_was_seen_to_change_by_our_own_clock():
    observed = Observed()
    observed.reached(0.0)
    observed.note("a", "1", 0.0)
    for second in (10.0, 20.0, 30.0):
        observed.reached(second)
        observed.note("a", "1", second)
    assert observed.age("a") == 30.0
    observed.note("a", "2", 30.0)
    assert observed.age("a") == 0.0
    assert observed.age("stranger") == float("inf")


def observed_for(seconds: float) -> Observed:
    """The node's Lease was seen once, and nobody renewed it for so long."""
    observed = Observed()
    observed.reached(0.0)
    observed.note("node-1", "1", 0.0)
    for second in range(0, int(seconds) + 1, 10):
        observed.reached(float(second))
    return observed


def test_the_lease_of_a_node_that_is_gone_is_abandoned_after_ten_minutes():
    assert leases.abandoned(written(), frozenset(), observed_for(600))
    assert not leases.abandoned(written(), frozenset(), observed_for(590))
    assert not leases.abandoned(written(), frozenset({"lbctl-speaker-node-1"}), observed_for(600))
    assert leases.abandoned(written(holderIdentity=""), frozenset(), observed_for(600))


def test_while_we_reach_no_api_server_ourselves_nobody_ages():
    observed = Observed()
    observed.reached(0.0)
    observed.note("a", "1", 0.0)
    observed.reached(10.0)
    assert observed.age("a") == 10.0
    observed.reached(310.0)
    assert observed.age("a") == 0.0
    observed.reached(320.0)
    assert observed.age("a") == 10.0


# ── the roll ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_member_is_its_node_and_what_its_lease_says():
    said = members.said([written()])
    (found,) = members.members([Node("node-1", labels={"rack": "1"})], said, members.by_clock(NOW), "none", ())
    assert (found.speaks, found.alive, found.settled, found.announces) == (True, True, True, {VIP: 110})
    assert found.gives == {ip_address("192.0.2.7"): "node-2"}
    assert [link.name for link in found.links or ()] == ["eth0"]


@pytest.mark.parametrize(("seconds", "speaks", "alive"), [(39, True, True), (41, True, False), (601, False, False)])
def test_by_the_clock_a_lease_lasts_forty_seconds_and_is_forgotten_after_ten_minutes(seconds, speaks, alive):
    judge = members.by_clock(NOW + timedelta(seconds=seconds))
    (found,) = members.members([Node("node-1")], members.said([written()]), judge, "none", ())
    assert (found.speaks, found.alive) == (speaks, alive)


def test_a_node_without_a_speaker_and_a_lease_without_a_node_are_no_announcers():
    (found,) = members.members([Node("node-7")], members.said([written()]), members.by_clock(NOW), "none", ())
    assert (found.name, found.speaks, found.links) == ("node-7", False, None)


@pytest.mark.parametrize(
    ("drain_on", "endpoints", "draining"),
    [
        ("cordon", {"node-1"}, True),
        ("drain", {"node-1"}, False),
        ("drain", {"node-2"}, True),
        ("none", {"node-2"}, False),
    ],
)
def test_when_a_cordoned_node_hands_over_is_a_choice(drain_on, endpoints, draining):
    wanted = [Claim("default/web", VIP, endpoints=frozenset(endpoints))]
    node = Node("node-1", cordoned=True)
    (found,) = members.members([node], members.said([written()]), members.by_clock(NOW), drain_on, wanted)
    assert found.draining is draining


def test_the_data_planes_peers_are_the_others_that_speak():
    said = members.said([written()])
    roll = members.members([Node("node-1"), Node("node-2")], said, members.by_clock(NOW), "none", ())
    (peer,) = members.peers(roll, said, "node-2")
    assert peer.links == (PeerLink("eth0", bytes.fromhex("020000000101"), FACTS.links[0].networks),)
    assert members.peers(roll, said, "node-1") == ()
