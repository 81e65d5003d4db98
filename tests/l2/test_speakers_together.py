"""Many speakers on one segment: real data planes, announcers and Leases, in virtual time and without processes.

Kubernetes is a dictionary whose news arrive late. What takes time in a cluster (watches, looks, reports) takes it here.
"""

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest
from msgspec.structs import replace

from lbctl.cluster import NoKubernetes, Object
from lbctl.errors import LbctlError
from lbctl.model import Ingress, LoadBalancer, Node
from lbctl.plan import diff
from lbctl.provider import Harness, Scope
from lbctl_l2.announcer import Announcer
from lbctl_l2.because import Word, changes
from lbctl_l2.options import options
from lbctl_l2.segment import Segment
from lbctl_l2.state import File, State
from lbctl_l2.world import World

FIRST = ip_address("10.0.128.1")


class Cluster:
    """Leases and nodes, as an API server has them."""

    def __init__(self, segment: Segment, delay: float) -> None:
        self.segment, self.delay = segment, delay
        self.nodes: tuple[Node, ...] = ()
        self.leases: dict[str, Object] = {}
        self.followers: list[Callable[[Object | None, Object | None], None]] = []
        self.writes: Counter[str] = Counter()
        self.told: dict[int, float] = {}
        self.down = False
        self.version = 0

    def put(self, lease: Object) -> Object:
        self.version += 1
        before, now = self.leases.get(lease.name), replace(lease, version=str(self.version))
        self.leases[lease.name] = now
        for number, told in enumerate(self.followers):
            when = self.segment.now + self.delay * (0.5 + self.segment.random.random())
            self.told[number] = max(when, self.told.get(number, 0.0))
            self.segment.at(self.told[number], lambda told=told: told(before, now))
        return now


class Seat(NoKubernetes):
    """The cluster as one node's speaker has it."""

    home = "lbctl-system"

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name

    def nodes(self):
        return self.cluster.nodes

    def follow(self, watch, told):
        if watch.plural == "leases":
            for lease in self.cluster.leases.values():
                told(None, lease)
            self.cluster.followers.append(told)

    def create(self, watch, body, namespace=""):
        self.ask()
        metadata = body["metadata"]
        made = Object(metadata["name"], namespace, annotations=metadata["annotations"], spec=body["spec"])
        return self.cluster.put(made)

    def patch(self, watch, name, body, namespace="", subresource=""):
        self.ask()
        if (old := self.cluster.leases.get(name)) is None:
            raise LbctlError("there is none", reason="NotFound")
        said = {**old.annotations, **body.get("metadata", {}).get("annotations", {})}
        return self.cluster.put(replace(old, annotations=said, spec={**old.spec, **body["spec"]}))

    def ask(self) -> None:
        self.cluster.writes[self.name] += 1
        if self.cluster.down:
            raise LbctlError("no answer", reason="kubernetes-unavailable")


class Quiet(Segment):
    """Each node is told by its own speaker."""

    def tell(self, *names: str) -> None:
        """Nothing is told."""


class Plane:
    """One node of the segment as its speaker's data plane. It reports ten times a second at most."""

    def __init__(self, segment: Segment, name: str) -> None:
        self.segment, self.node, self.known, self.revision = segment, segment.nodes[name], None, -1
        self.alive = True

    def start(self):
        return self

    def orders(self, orders, peers):
        self.node.told = (tuple(orders), tuple(peers))
        if self.node.works:
            self.segment._call(self.node, self.segment._telling(self.node))

    def settle(self):
        self.segment.settle(self.node.name)

    def exclude(self, patterns):
        raise AssertionError("nobody excludes anything here")

    def links(self):
        return tuple(port.link for port in self.node.ports.values())

    def report(self):
        return self.known

    def look(self) -> bool:
        """Whether there is something new."""
        machine = self.node.machine
        if machine is None or self.node.frozen or machine.revision == self.revision:
            return False
        self.revision, self.known = machine.revision, machine.report()
        return True


class Speaker:
    """A node's control, which turns when it is woken."""

    def __init__(self, room: "Room", name: str) -> None:
        self.room, self.name, self.asked = room, name, False
        self.words: list[Word] = []
        segment = room.segment
        segment.add(name)
        self.plane = Plane(segment, name)
        clock = lambda: segment.now  # noqa: E731
        world = World(
            lambda *_a, **_k: self.plane, interfaces=lambda: (), routes=frozenset, strict_arp=lambda _name: True,
            now=clock, monotonic=clock,
        )  # fmt: skip
        settings = {"node-name": name, "state-file": "", "addresses": f"{FIRST}-{FIRST + 255}"}
        harness = Harness(
            settings, "cluster", now=lambda: datetime.fromtimestamp(segment.now, UTC),
            kubernetes=Seat(room.cluster, name), again=lambda _owners: self.again(),
        )  # fmt: skip
        self.announcer = Announcer(harness, options(settings), world, self.plane, File(""), State(name, ""))
        self.keeper, self.due = self.announcer._keeper, segment.now
        self.announcer._others.start()
        self.again()
        self.turn()

    def again(self) -> None:
        if not self.asked:
            self.asked = True
            self.room.segment.at(self.room.segment.now + self.room.pace, self.look)

    def look(self) -> None:
        self.asked, wanted = False, self.room.wanted
        shares = Counter(share for item in wanted for share in self.announcer.shares(item))
        seen = self.announcer.observe(Scope(at=datetime.now(UTC), load_balancers=wanted, shares=shares))
        plan = diff(self.announcer.kinds, self.announcer.desired(wanted, seen), seen)
        if plan.changes:
            self.announcer.apply(plan.changes)

    def turn(self) -> None:
        segment = self.room.segment
        if self.name in self.room.dead:
            return
        before = self.plane.known
        if self.plane.look():
            self.words += changes(before, self.plane.known, self.announcer)
            self.announcer.heard(self.plane.known)
        if self.keeper._wake.is_set() or segment.now >= self.due:
            self.keeper._wake.clear()
            self.keeper.turn(segment.now)
            self.due = segment.now + self.keeper.patience()
        segment.at(segment.now + 0.1, self.turn)


class Room:
    """A segment, a cluster, its Services, and a speaker on each node that has begun.

    delay  of what is told of Leases, in seconds on the average
    pace   from a wish for another look to the look
    """

    def __init__(self, nodes: int, addresses: int, *, delay: float = 0.05, pace: float = 0.05, seed: int = 0) -> None:
        self.segment = Quiet(seed=seed)
        self.cluster, self.pace = Cluster(self.segment, delay), pace
        self.names = tuple(f"node-{number:02}" for number in range(nodes))
        self.cluster.nodes = tuple(Node(name) for name in self.names)
        self.addresses = tuple(FIRST + number for number in range(addresses))
        self.wanted = tuple(
            LoadBalancer(f"default/web{n:03}", status=(Ingress(ip=str(ip)),)) for n, ip in enumerate(self.addresses)
        )
        self.segment.orders = dict.fromkeys(self.addresses)
        self.speakers: dict[str, Speaker] = {}
        self.dead: set[str] = set()

    def start(self, *names: str, apart: float = 0.0) -> None:
        """The speakers begin, one after the other, somewhat irregularly."""
        for number, name in enumerate(names):
            when = self.segment.now + number * apart + self.segment.random.random() * min(apart, 0.5)
            self.segment.at(when, lambda name=name: self.speakers.__setitem__(name, Speaker(self, name)))

    def run(self, seconds: float) -> None:
        self.segment.run(seconds)

    def holders(self) -> dict[Any, list[str]]:
        return {address: self.segment.speakers(str(address)) for address in self.addresses}

    def loads(self) -> list[int]:
        counted = Counter(name for names in self.holders().values() for name in names)
        return sorted(counted.get(name, 0) for name in self.names)

    def why(self, name: str) -> set[str]:
        """The reasons that this node has had since the last time, without numbers."""
        words, self.speakers[name].words = self.speakers[name].words, []
        return {re.sub("[0-9]+ ms", "some ms", word.because) for word in words}

    def moves(self, since: float) -> Counter[str]:
        """How often each address changed its announcer since then."""
        return Counter({str(a): len(self.segment.announcers(str(a), since)) - 1 for a in self.addresses})


def test_speakers_that_begin_at_once_share_out_evenly_and_nothing_moves():
    room = Room(5, 30)
    began = room.segment.now
    room.start(*room.names, apart=0.1)
    room.run(40)
    assert room.loads() == [6] * 5
    assert set(room.moves(began).values()) == {0}


@pytest.mark.parametrize("seed", range(3))
def test_speakers_that_begin_one_after_the_other_are_even_soon_after_the_last_and_nothing_moves_twice(seed):
    room = Room(6, 48, seed=seed)
    began = room.segment.now
    room.start(*room.names, apart=1.5)
    room.run(5 * 1.5 + 0.5 + 12)
    assert room.loads()[-1] - room.loads()[0] <= 2
    room.run(40)
    assert max(room.moves(began).values()) <= 1
    assert max(room.segment.longest_silence(str(a), began + 5) for a in room.addresses) < 0.001


def at_work(nodes: int, addresses: int, delay: float = 0.05) -> Room:
    """Speakers that have been there for long. From now on, news of Leases are so late."""
    room = Room(nodes, addresses)
    room.start(*room.names)
    room.run(80)
    room.cluster.delay = delay
    return room


def newcomer(room: Room) -> str:
    """One more node of the cluster, whose speaker begins."""
    name = f"node-{len(room.names):02}"
    room.names = (*room.names, name)
    room.cluster.nodes = (*room.cluster.nodes, Node(name))
    room.start(name)
    return name


@pytest.mark.parametrize("delay", [0.05, 1.5])
def test_who_comes_into_a_cluster_at_work_waits_to_be_settled_and_is_given_a_few_at_a_time(delay):
    room = at_work(2, 40, delay=delay)
    began, name = room.segment.now, newcomer(room)
    room.run(30)
    assert (room.loads(), max(room.moves(began).values())) == ([0, 20, 20], -1)
    room.run(15)
    assert 1 <= sum(name in names for names in room.holders().values()) <= 5
    room.run(140)
    assert room.loads()[-1] - room.loads()[0] <= 2
    told = {str(a): room.segment.announcers(str(a), began) for a in room.addresses}
    assert all(names in ([], [name]) for names in told.values()), "an address went another way than it was given"


def test_a_newcomer_among_founders_does_not_found_once_they_have_grown_old():
    room = at_work(2, 20)
    newcomer(room)
    room.run(20)
    facts = [item.announcer._tidings.facts() for item in room.speakers.values()]
    assert [(item.settled, item.founds) for item in facts] == [(True, False), (True, False), (False, False)]


def test_while_the_api_server_is_away_nothing_is_given_away():
    room = at_work(2, 40)
    room.cluster.down = True
    newcomer(room)
    began = room.segment.now
    room.run(120)
    assert not any(item.keeper.gives for item in room.speakers.values())
    assert max(room.moves(began).values()) == -1


@pytest.mark.parametrize("late", [0.05, 2.0])
def test_a_stall_that_nobody_took_over_in_moves_nothing_afterwards(late):
    room = at_work(3, 30, delay=late)
    before, began = room.holders(), room.segment.now
    room.segment.freeze("node-01")
    room.run(0.2)
    room.segment.resume("node-01")
    room.run(60)
    assert room.holders() == before
    assert max(room.moves(began).values()) == -1


def test_both_sides_of_a_move_say_why():
    room = at_work(2, 40)
    name = newcomer(room)
    room.run(45)
    assert room.why(name) == {"handed over by node-00: for balance", "handed over by node-01: for balance"}
    assert room.why("node-00") == {"first in the ranking", f"handed over to {name}: for balance"}


def test_of_a_drained_node_both_sides_say_that_it_is_cordoned():
    room = at_work(2, 10)
    room.why("node-01"), room.why("node-00")
    room.cluster.nodes = (replace(room.cluster.nodes[0], cordoned=True), room.cluster.nodes[1])
    room.run(10)
    assert room.why("node-01") == {"handed over by node-00: it is cordoned"}
    assert room.why("node-00") == {"handed over to node-01: this node is cordoned"}


def test_who_takes_over_from_a_dead_node_says_for_how_long_it_was_silent():
    room = at_work(2, 10)
    room.why("node-01")
    room.dead.add("node-00")
    room.segment.kill("node-00")
    room.run(2)
    assert room.why("node-01") == {"node node-00 silent some ms"}


def test_an_address_whose_service_is_gone_says_so():
    room = at_work(2, 2)
    room.wanted = room.wanted[:1]
    for item in room.speakers.values():
        item.again()
    room.run(2)
    assert "no Service holds it" in room.why("node-00") | room.why("node-01")


def test_speakers_that_had_settled_before_the_api_server_answered_are_even_soon():
    room = Room(4, 32)
    room.segment.timing = replace(room.segment.timing, settle=0.5)
    began = room.segment.now
    room.start(*room.names, apart=2.0)
    room.run(3 * 2.0 + 0.5 + 12)
    assert room.loads()[-1] - room.loads()[0] <= 2
    assert max(room.moves(began).values()) <= 2
