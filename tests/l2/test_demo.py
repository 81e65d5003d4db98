"""The demo's act of bare metal keeps its promises, and says so when they are not kept."""

import pytest

from lbctl_l2 import demo
from lbctl_l2.lab import namespaces
from lbctl_l2.segment import Segment

NODES = ("node-1", "node-2", "node-3")


@pytest.mark.parametrize("address", ["192.0.2.240", "2001:db8::240"])
def test_another_node_answers_and_the_first_one_does_not_come_back_for_it(address):
    said = []
    demo.in_memory(address, NODES, said.append)
    first, second = said[0].split()[4].rstrip(";"), said[1].split()[3]
    assert {first, second} < set(NODES)
    assert first != second


@pytest.mark.skipif(namespaces.missing() is not None, reason=str(namespaces.missing()))
@pytest.mark.xdist_group("lab")
def test_as_root_the_frames_are_real():
    said = []
    demo.show("192.0.2.240", NODES, said.append)
    assert "network namespaces" in said[0]
    assert "answers, and the client waited" in said[1]


def test_a_node_that_does_not_die_breaks_the_promise(monkeypatch):
    monkeypatch.setattr(Segment, "kill", lambda self, *names: None)
    with pytest.raises(demo.Silent, match="still answered"):
        demo.in_memory("192.0.2.240", NODES, lambda _line: None)


def test_a_wire_on_which_all_are_dead_breaks_the_promise(monkeypatch):
    kill = Segment.kill
    monkeypatch.setattr(Segment, "kill", lambda self, *names: kill(self, *self.nodes))
    with pytest.raises(demo.Silent, match="0 nodes answer"):
        demo.in_memory("192.0.2.240", NODES, lambda _line: None)
