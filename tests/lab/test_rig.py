"""The lab is what it says: the client's kernel asks, the nodes' kernels keep silent, faults do what they are called."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from lbctl_l2.lab.namespaces import names, running
from lbctl_l2.lab.rig import Client, Lab, Node, Watch, vip, vip6

VIP, VIP6 = vip(0), vip6(0)


def for_a_moment(seconds: float = 0.5) -> None:
    threading.Event().wait(seconds)


@pytest.fixture
def held(lab: Lab) -> Iterator[Node]:
    """A node whose own kernel answers for the addresses: they are on its eth0."""
    node = lab.nodes["node-1"]
    node.namespace.run(f"address add {VIP}/32 dev eth0", f"address add {VIP6}/128 dev eth0 nodad")
    yield node
    node.namespace.run(f"address del {VIP}/32 dev eth0", f"address del {VIP6}/128 dev eth0")
    node.namespace.run(f"route replace local {VIP} dev lo", f"route replace local {VIP6} dev lo")


@pytest.fixture
def watch(lab: Lab) -> Iterator[Watch]:
    made = lab.watch(VIP, VIP6)
    yield made
    made.close()


@pytest.fixture(params=["kept", "fresh", "connect"])
def client(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Client]:
    made = lab.ask(VIP, request.param)
    yield made
    made.close()


def test_the_kernel_answers_neither_arp_nor_ndp_for_what_a_node_serves(watch: Watch) -> None:
    for_a_moment()
    seen = watch.take()
    assert len(seen.probes) > 20
    assert not any(probe.nodes for probe in seen.probes)


def test_an_address_that_nobody_announces_is_dark(client: Client) -> None:
    for_a_moment()
    answers = client.take()
    assert answers.lost() == len(answers.asked) > 10


def test_a_client_hears_who_serves_it(held: Node, client: Client) -> None:
    for_a_moment(1.5)  # A kernel that asked in vain asks again after a second.
    assert client.take().nodes() == (held.name,)


@pytest.mark.parametrize("mode", ["kept", "fresh", "connect"])
def test_so_it_does_over_ipv6(lab: Lab, held: Node, mode: str) -> None:
    client = lab.ask(VIP6, mode)
    for_a_moment(1.5)
    assert client.take().nodes() == (held.name,)
    client.close()


def test_a_client_behind_the_router_is_served(lab: Lab, held: Node) -> None:
    client = lab.ask(VIP, "kept", outside=True)
    for_a_moment(1.5)
    assert client.take().nodes() == (held.name,)
    client.close()


def test_the_wire_is_asked_and_its_answers_are_told_apart(held: Node, watch: Watch) -> None:
    watch.take()
    for_a_moment()
    seen = watch.take()
    assert {probe.nodes for probe in seen.probes} == {(held.name,)}
    assert seen.nobody() == seen.several() == 0


def test_what_is_announced_unasked_is_heard(lab: Lab, watch: Watch) -> None:
    ours = bytes.fromhex("020000000101")
    reply = bytes.fromhex("08060001080006040002")
    gratuitous = b"\xff" * 6 + ours + reply + ours + VIP.packed + ours + VIP.packed
    lab.say(lab.nodes["node-1"].namespace, gratuitous)
    for_a_moment(0.1)
    assert [(said.kind, said.node) for said in watch.take().announced(VIP)] == [("reply", "node-1")]


def test_a_pulled_cable_takes_the_carrier_and_gives_it_back(lab: Lab) -> None:
    node = lab.nodes["node-2"]
    lab.pull(node.name)
    assert "LOWER_UP" not in node.namespace.json("link", "show", "eth0")[0]["flags"]
    lab.plug(node.name)
    assert "LOWER_UP" in node.namespace.json("link", "show", "eth0")[0]["flags"]


def test_a_silent_node_keeps_its_carrier_and_reaches_nobody(lab: Lab, held: Node, watch: Watch) -> None:
    lab.silence(held.name)
    watch.take()
    for_a_moment(0.2)
    assert not any(probe.nodes for probe in watch.take().probes)
    assert "LOWER_UP" in held.namespace.json("link", "show", "eth0")[0]["flags"]
    lab.mend(held.name)
    for_a_moment(0.2)
    assert watch.take().announcers(VIP, 0.1) == {held.name}


def test_a_split_segment_hears_its_own_side_alone_until_it_is_healed(lab: Lab, held: Node, watch: Watch) -> None:
    lab.split(held.name)
    watch.take()
    for_a_moment(0.2)
    assert not any(probe.nodes for probe in watch.take().probes)
    lab.heal()
    for_a_moment(0.2)
    assert watch.take().announcers(VIP, 0.1) == {held.name}
    lab.mend(held.name)


def test_an_api_server_on_loopback_is_reached_from_every_node(lab: Lab) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    relay = lab.reach(server.server_port)
    ask = f"import socket; print(socket.create_connection(('127.0.0.1', {server.server_port}), 5))"
    ended = [node.start(sys.executable, "-c", ask).wait() for node in lab.nodes.values()]
    assert ended == [0, 0, 0]
    relay.close()
    server.shutdown()
    server.server_close()


def test_what_a_killed_lab_left_behind_is_swept_away_by_the_next_one() -> None:
    script = "import os; from lbctl_l2.lab.rig import Lab; lab = Lab(1, []).__enter__(); print(lab.token, flush=True)"
    command = [sys.executable, "-c", f"{script}; os.kill(os.getpid(), 9)"]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    token = killed.stdout.strip()
    assert names(token)
    with Lab(1, []) as another:
        assert not names(token)
        assert running("test").keys() >= {another.token}
    assert not names(another.token)
