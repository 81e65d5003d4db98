"""What a node tells of conflicts, and what its keeper survives."""

import itertools
import threading
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from lbctl.cluster import NoKubernetes, Object
from lbctl_l2 import leases
from lbctl_l2.keeper import Keeper
from lbctl_l2.options import options
from lbctl_l2.state import File, State
from lbctl_l2.tidings import REMEMBERED, Tidings
from lbctl_l2.values import Conflict, Counters, Report
from lbctl_l2.world import World

VIP = ip_address("192.0.2.100")
QUIET = Report("node-1", 0.0, True, False, False, (), (), (), Counters())
MAC = bytes.fromhex("020000000909")


class Node:
    """One node's tidings, at a time of day that is its data plane's plus 1000."""

    def __init__(self) -> None:
        self.time = 0.0
        plane = SimpleNamespace(report=lambda: QUIET, links=lambda: ())
        world = World(lambda: None, now=lambda: 1000.0 + self.time, monotonic=lambda: self.time)
        chosen = options({"node-name": "node-1"})
        self.tidings = Tidings(NoKubernetes(), chosen, world, plane, lambda _address: (), dict)

    def hear(self, at: float, *macs: bytes, count: int = 1) -> tuple[leases.SaidConflict, ...]:
        """The data plane reports that these claim the address, just now; what the Lease says then."""
        self.time = at
        found = tuple(Conflict(VIP, mac, "eth0", at, at, count) for mac in macs)
        self.tidings.heard(replace(QUIET, at=at, conflicts=found))
        return leases.decode(Object("x", annotations=self.tidings.annotations({}))).facts.conflicts


def test_a_conflict_that_goes_on_is_told_anew_each_minute():
    node = Node()
    told = [node.hear(at, MAC, count=int(at) + 1)[0] for at in (0.0, 59.0, 60.0, 119.0, 120.0)]
    assert [(item.last, item.count) for item in told] == [(1000, 1), (1000, 1), (1060, 61), (1060, 61), (1120, 121)]


def test_what_goes_on_is_among_those_that_a_lease_has_room_for():
    node = Node()
    node.hear(0.0, MAC)
    node.hear(1.0, *(bytes((2, 0, 0, 0, 1, number)) for number in range(leases.CONFLICTS)))
    assert leases.written(MAC) not in {item.mac for item in node.hear(2.0)}
    assert leases.written(MAC) in {item.mac for item in node.hear(61.0, MAC)}


def test_strangers_cannot_make_a_speaker_grow():
    node = Node()
    for number in range(1000):
        node.hear(number / 100, number.to_bytes(6, "big"))
    assert len(node.tidings._conflicts) == REMEMBERED


@pytest.fixture
def keeper(tmp_path):
    """A keeper of a node that has nothing to do."""
    world = World(lambda: None, monotonic=lambda: 0.0)
    tidings, lease = Node().tidings, SimpleNamespace(renew=lambda _annotations: None)
    return Keeper(
        lease, leases.Observed(), tidings, File(str(tmp_path / "state")), world,
        moves=lambda: (), check=lambda: None, look=lambda: 1.0, tidy=lambda: None,
    )  # fmt: skip


def test_of_states_to_keep_the_last_is_written_even_at_the_end(keeper, tmp_path):
    keeper.start()
    for number in range(20):
        keeper.keep(State("node-1", str(number)))
    keeper.stop()
    assert File(str(tmp_path / "state")).read("node-1") == State("node-1", "19")


def test_leases_may_go_while_the_others_are_looked_at():
    observed, stop = leases.Observed(), threading.Event()

    def come_and_go() -> None:
        for number in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
            observed.note(f"node-{number % 100}", str(number), 0.0)
            observed.forget(f"node-{(number + 50) % 100}")

    other = threading.Thread(target=come_and_go)
    other.start()
    for look in range(2000):
        observed.reached(100.0 * look)
    stop.set()
    other.join()
