"""The controller and the speakers together, as in a cluster: from a Service without an address to what people see."""

import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lbctl.sandbox.kube import KubeSandbox
from lbctl_l2.lab.api import SERVICES, SLICES, Api, endpoints
from lbctl_l2.lab.cluster import NAMESPACE, Whole
from lbctl_l2.lab.namespaces import inside
from lbctl_l2.lab.rig import PORT, Node, vip
from lbctl_l2.lab.stage import pause

WEB = ("web-0", "web-1")
STRANGER = bytes.fromhex("020000000003")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Three nodes and two Services that are given addresses."""
    with KubeSandbox() as kube:
        api = Api(kube.kubeconfig(tmp_path_factory.mktemp("api") / "kubeconfig"))
        with Whole(3, 2, api) as made:
            yield made


def eventually(question: Callable[[], Any], seconds: float = 30.0) -> Any:
    for _ in range(int(seconds / 0.25)):
        if answer := question():
            return answer
        pause(0.25)
    raise AssertionError("it never came true")


def status(whole: Whole, name: str) -> dict[str, Any]:
    return whole.api.get(f"{SERVICES.format(NAMESPACE)}/{name}")["status"]


def conditions(whole: Whole, name: str) -> list[dict[str, Any]]:
    return status(whole, name).get("conditions", [])


def events(whole: Whole, name: str) -> list[str]:
    found = whole.api.get(f"api/v1/namespaces/{NAMESPACE}/events")["items"]
    return [event["reason"] for event in found if event["involvedObject"]["name"] == name]


def metrics(node: Node) -> str:
    with inside(node.namespace.name):
        return urllib.request.urlopen("http://127.0.0.1:7981/metrics", timeout=5).read().decode()


def test_each_service_has_an_address_and_one_node_announces_it(whole: Whole) -> None:
    assert set(whole.holders()) == {vip(0), vip(1)}
    assert any(condition["reason"] for condition in conditions(whole, "web-0"))


def test_who_announces_is_told_in_an_event(whole: Whole) -> None:
    assert eventually(lambda: "AnnouncingFromNode" in events(whole, "web-0"))


def test_a_stranger_who_claims_an_address_is_seen_in_an_event_a_condition_and_a_metric(whole: Whole) -> None:
    claim = b"\xff" * 6 + STRANGER + bytes.fromhex("08060001080006040002") + (STRANGER + vip(0).packed) * 2
    name = next(name for name in WEB if str(vip(0)) in str(status(whole, name)))
    before, holder = set(events(whole, name)), whole.lab.nodes[whole.holder]
    whole.lab.say(whole.lab.watcher, claim)
    assert eventually(lambda: set(events(whole, name)) - before)
    assert eventually(lambda: "address-conflict" in str(conditions(whole, name)))
    assert "lbctl_l2_conflicts_total 1.0" in metrics(holder)
    assert whole.holder == holder.name


def test_a_cordoned_node_keeps_its_addresses_until_it_is_drained(whole: Whole) -> None:
    node, watch = whole.holder, whole.lab.watch(vip(0))
    whole.cordon(node)
    pause(3.0)
    assert whole.holder == node
    rest = {str(host.address): host.name for host in whole.lab.nodes.values() if host.name != node}
    for name in WEB:
        left = {"endpoints": endpoints(name, PORT, rest)["endpoints"]}
        whole.api.patch(f"{SLICES.format(NAMESPACE)}/{name}-lab", left)
    assert eventually(lambda: whole.holder != node)
    assert watch.take().nobody() == 0.0
    watch.close()
    whole.cordon(node, False)
