"""A speaker on a small Kubernetes: what it gives its data plane, what goes out, and what it tells the others."""

import re
import threading
import time
from datetime import datetime
from ipaddress import ip_address, ip_interface, ip_network
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from lbctl.daemon import Cluster, Desk, Options, utcnow
from lbctl.errors import LbctlError, SettingsError
from lbctl.kube.client import MERGE, Client
from lbctl.kube.events import Recorder
from lbctl.model import Node
from lbctl.policy import Limits, Policy
from lbctl.provider import Harness, Plugin, Scope
from lbctl.sandbox.kube import KubeSandbox
from lbctl.sandbox.sandbox import endpoint_slice, manifest
from lbctl_l2 import configured, elections, leases, netlink
from lbctl_l2.election import REASONS
from lbctl_l2.insight import Insight
from lbctl_l2.leases import Facts, SaidLink
from lbctl_l2.planes import MemoryPlane
from lbctl_l2.served import watches
from lbctl_l2.speaker import Speaker, World

VIP = ip_address("192.0.2.100")
GATEWAY = ip_address("192.0.2.1")
NODES = tuple(Node(f"node-{number}", addresses=(ip_address(f"192.0.2.{10 + number}"),)) for number in (1, 2, 3))
ETH0 = netlink.Interface(
    1, "eth0", netlink.ARPHRD_ETHER, netlink.IFF_UP, b"", 0,
    tuple(netlink.Address(ip_interface(text)) for text in ("192.0.2.11/24", "2001:db8::11/64")),
)  # fmt: skip
HOME = "lbctl-system"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases"


def crd(plural: str, kind: str) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": schema}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.lbctl.io"},
        "spec": {"group": "lbctl.io", "scope": "Cluster", "names": names, "versions": [version]},
    }  # fmt: skip


def custom(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "lbctl.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def service(name: str, *ips: str, load_balancer_class: str = "lbctl.io/l2", **spec: Any) -> dict[str, Any]:
    wish = {"type": "LoadBalancer", "loadBalancerClass": load_balancer_class, "ports": [{"port": 80}], **spec}
    status = {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in ips]}}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": wish, "status": status}


class House:
    """One node's speaker, its data plane in memory, and the cluster."""

    def __init__(self, kube: KubeSandbox, folder: Any, node: str = "node-1", **settings: str) -> None:
        self.kube, self.node = kube, node
        self.client = Client.from_config(str(kube.kubeconfig(folder / f"kubeconfig-{node}")))
        self.settings = {"node-name": node, "state-file": str(folder / f"{node}.json"), "home": HOME, **settings}
        self.planes: list[MemoryPlane] = []
        self.desk: Desk | None = None
        self.cluster: Cluster | None = None
        self.wall = time.time
        world = World(
            self._plane, interfaces=lambda: (ETH0,), routes=lambda: frozenset({GATEWAY}), strict_arp=lambda _name: True,
            now=lambda: self.wall(),
        )  # fmt: skip
        self.speaker = Speaker(Harness(self.settings), world)

    @property
    def plane(self) -> MemoryPlane:
        return self.planes[-1]

    def _plane(self, *arguments: Any, **options: Any) -> MemoryPlane:
        self.planes.append(MemoryPlane(*arguments, **options))
        return self.planes[-1]

    def join(self, cluster_id: str = "cluster", default: str | None = None) -> "House":
        self.cluster = Cluster(
            self.client, watches=(*watches({}), leases.watch(HOME)), namespaces=False
        )
        self.cluster.watch()
        self.recorder = Recorder(self.client)
        self.recorder.start()
        seen = self.cluster.access(HOME, self.recorder)
        policy = Policy(tenancy="open", limits=Limits(let_through=True))
        harness = Harness(self.settings, cluster_id, now=utcnow, kubernetes=seen)
        options = Options(default, False, policy, publishes=False, workers=2)
        quiet = Recorder(self.client)
        self.desk = Desk(Plugin("l2", self.speaker.join), harness, self.cluster, options, recorder=quiet)
        self.desk.start()
        return self

    def leave(self) -> None:
        if self.desk is not None and self.cluster is not None:
            self.desk.stop()
            self.desk.join()
        self.speaker.leave()
        if self.cluster is not None:
            self.recorder.stop()
            self.cluster.stop()

    def harness(self) -> Harness:
        """What a command of the command line gets: the cluster, read once."""
        cluster = Cluster(self.client, namespaces=False)
        cluster.watch()
        cluster.stop()
        cluster.look((*configured.watches({}), leases.watch(HOME)))
        return Harness(self.settings, "cluster", now=utcnow, kubernetes=cluster.access(HOME))

    def insight(self) -> Insight:
        return Insight(self.harness())

    def api(self, path: str) -> Any:
        return msgspec.json.decode(self.client.get(path))

    def patch(self, path: str, body: object) -> None:
        self.client.request("PATCH", path, body, MERGE)

    def lease(self) -> leases.Said:
        found = self.api(f"{LEASES}/{leases.name(self.node)}")
        metadata, spec = found["metadata"], found["spec"]
        return leases.decode(leases.Object(metadata["name"], annotations=metadata["annotations"], spec=spec))

    def events(self, reason: str) -> list[str]:
        found = self.api("/api/v1/namespaces/default/events")["items"]
        return [event["message"] for event in found if event["reason"] == reason]


def eventually(question: Any, within: float = 10.0) -> Any:
    """Its answer, as soon as it is true. What is not there yet is no answer."""
    pause, until = threading.Event(), time.monotonic() + within
    while time.monotonic() < until:
        try:
            if answer := question():
                return answer
        except LookupError:
            pass
        except Exception as error:
            if getattr(error, "status", 0) != 404:
                raise
        pause.wait(0.02)
    raise AssertionError("it never came to that")


def stays(question: Any, seconds: float = 0.6) -> bool:
    pause, until = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < until:
        if not question():
            return False
        pause.wait(0.02)
    return True


@pytest.fixture
def kube():
    with KubeSandbox() as sandbox:
        sandbox.seed([manifest(node) for node in NODES])
        sandbox.seed([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}}])
        sandbox.seed([crd("addresspools", "AddressPool"), crd("l2advertisements", "L2Advertisement")])
        sandbox.seed([custom("AddressPool", "main", addresses=["192.0.2.96-192.0.2.200", "2001:db8::100/120"])])
        sandbox.seed([custom("L2Advertisement", "main")])
        yield sandbox


@pytest.fixture
def make_house(kube, tmp_path):
    made: list[House] = []

    def make(node: str = "node-1", **settings: str) -> House:
        made.append(House(kube, tmp_path, node, **settings))
        return made[-1]

    yield make
    for house in made:
        house.leave()


@pytest.fixture
def house(make_house):
    return make_house()


def served(kube, name: str, *ips: str, **changes: Any) -> None:
    kube.seed([endpoint_slice("default", name, NODES, 9000), service(name, *ips, **changes)])


def rankings(house: House) -> dict[Any, tuple[str, ...]]:
    return {address: order.ranking for address, order in house.plane.given.items()}


# ── orders ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_address_of_a_service_is_announced_and_told(kube, house):
    served(kube, "web", "192.0.2.100")
    house.join()
    assert eventually(lambda: VIP in house.lease().announcing)
    assert house.plane.given[VIP].ranking[0] == "node-1"
    assert house.plane.given[VIP].probe is True
    assert house.plane.said(VIP) > 0
    assert eventually(lambda: house.events("AnnouncingFromNode")) == ['announcing 192.0.2.100 from node "node-1"']


def test_both_families_of_a_service_are_announced(kube, house):
    served(kube, "web", "192.0.2.100", "2001:db8::100")
    house.join()
    eventually(lambda: len(house.lease().announcing) == 2)
    assert house.plane.said(ip_address("2001:db8::100")) > 0


@pytest.mark.parametrize(
    "ip", ["192.0.2.1", "192.0.2.11", "192.0.2.12", "192.0.2.255", "198.51.100.7", "127.0.0.1", "224.0.0.18", "fe80::1"]
)
def test_a_status_that_somebody_patched_to_something_else_gets_not_one_frame_out(kube, house, ip):
    served(kube, "web", "192.0.2.100")
    house.patch("/apis/lbctl.io/v1alpha1/addresspools/main", {"spec": {"addresses": ["192.0.2.0/24"]}})
    house.join()
    eventually(lambda: VIP in house.lease().announcing)
    status = {"status": {"loadBalancer": {"ingress": [{"ip": ip}]}}}
    house.patch("/api/v1/namespaces/default/services/web/status", status)
    eventually(lambda: not house.plane.given)
    served(kube, "other", "192.0.2.150")
    eventually(lambda: ip_address("192.0.2.150") in house.plane.given)
    if ip != "192.0.2.11":
        assert house.plane.said(ip_address(ip)) == 0
    assert ip_address(ip) not in house.plane.given


def test_addresses_that_may_not_be_announced_leave_the_speaker_in_peace(kube, house):
    house.patch("/apis/lbctl.io/v1alpha1/addresspools/main", {"spec": {"addresses": ["192.0.2.0/24"]}})
    for name, ip in (("web", "192.0.2.100"), ("gateway", "192.0.2.1"), ("node", "192.0.2.12")):
        served(kube, name, ip)
    house.join()
    eventually(lambda: VIP in house.lease().announcing and house.lease().facts.founds and house.desk.at_rest())
    house.desk.controller.mark("default/web")
    eventually(house.desk.at_rest)
    assert stays(house.desk.at_rest)
    assert {problem.reason for problem in house.lease().facts.problems} <= {"gateway-address", "node-address"}


def test_what_was_planned_is_what_is_there(kube, house):
    served(kube, "web", "192.0.2.100")
    house.join()
    eventually(lambda: VIP in house.lease().announcing and house.desk.at_rest())
    path = house.desk.controller.reconciler
    before = dict(house.plane.given)
    assert eventually(lambda: path.plan().empty)
    assert house.plane.given == before
    (order,) = [r for r in path.stack.provider.observe(Scope(at=utcnow())).resources if r.kind == "order"]
    assert order.fields["ranking"] == ("node-1",)


def test_an_address_outside_all_pools_is_given_up_when_its_pool_goes(kube, house):
    served(kube, "web", "192.0.2.100")
    house.join()
    eventually(lambda: VIP in house.plane.given)
    house.patch("/apis/lbctl.io/v1alpha1/addresspools/main", {"spec": {"addresses": ["192.0.2.150-192.0.2.160"]}})
    assert eventually(lambda: not house.plane.given)


@pytest.mark.parametrize("of_class", ["lbctl.io/aws", "example.test/other"])
def test_a_service_of_another_class_is_not_announced(kube, house, of_class):
    served(kube, "web", "192.0.2.100", load_balancer_class=of_class)
    served(kube, "ours", "192.0.2.101")
    house.join()
    eventually(lambda: house.plane.given)
    assert set(house.plane.given) == {ip_address("192.0.2.101")}


def test_a_service_without_an_endpoint_that_serves_is_not_announced(kube, house):
    kube.seed([service("web", "192.0.2.100")])
    served(kube, "ours", "192.0.2.101")
    house.join()
    eventually(lambda: ip_address("192.0.2.101") in house.plane.given)
    assert VIP not in house.plane.given
    kube.seed([endpoint_slice("default", "web", NODES[1:2], 9000)])
    assert eventually(lambda: VIP in house.plane.given)


def test_the_log_says_why_an_address_is_announced_and_why_no_more(kube, house, caplog):
    caplog.set_level("INFO", "lbctl_l2.speaker")
    served(kube, "web", "192.0.2.100")
    house.join()
    eventually(lambda: VIP in house.lease().announcing)
    kube.seed([endpoint_slice("default", "web", (), 9000)])
    eventually(lambda: VIP not in house.plane.given)
    told = [(line.message, line.services, line.because) for line in caplog.records if hasattr(line, "because")]
    assert told[0] == ("announces", "default/web", "first in the ranking")
    assert told[-1] == ("announces no more", "default/web", REASONS["no-endpoint"])


def test_a_service_that_goes_takes_its_order_along(kube, house):
    served(kube, "web", "192.0.2.100")
    house.join()
    eventually(lambda: VIP in house.lease().announcing)
    house.client.request("DELETE", "/api/v1/namespaces/default/services/web")
    eventually(lambda: not house.plane.given)
    assert eventually(lambda: not house.lease().announcing)


def test_two_services_share_an_address_and_one_order(kube, house):
    served(kube, "web", "192.0.2.100")
    served(kube, "dns", "192.0.2.100")
    house.join()
    eventually(lambda: VIP in house.lease().announcing)
    house.client.request("DELETE", "/api/v1/namespaces/default/services/dns")
    assert stays(lambda: VIP in house.plane.given)


def test_a_class_less_service_is_announced_where_we_are_the_default_and_its_address_is_ours(kube, house):
    kube.seed([{**service("web", "192.0.2.100"), "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}])
    kube.seed([endpoint_slice("default", "web", NODES, 9000)])
    house.join(default="l2")
    assert eventually(lambda: VIP in house.plane.given)


def test_a_class_less_service_is_announced_once_its_address_lies_in_a_pool(kube, house):
    kube.seed([{**service("web", "192.0.2.250"), "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}])
    kube.seed([endpoint_slice("default", "web", NODES, 9000)])
    house.join(default="l2")
    eventually(lambda: house.lease().held and house.desk.at_rest())
    house.patch("/apis/lbctl.io/v1alpha1/addresspools/main", {"spec": {"addresses": ["192.0.2.240-192.0.2.254"]}})
    assert eventually(lambda: ip_address("192.0.2.250") in house.plane.given)


# ── several nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_speakers_that_know_each_other_share_the_addresses_out(kube, make_house):
    for number in range(12):
        served(kube, f"web{number}", f"192.0.2.{100 + number}")
    houses = [make_house(node.name).join() for node in NODES]
    eventually(lambda: all(len(house.plane.peers) == 2 for house in houses))
    eventually(lambda: all(len(house.plane.given) == 12 for house in houses))
    assert eventually(lambda: all(rankings(house) == rankings(houses[0]) for house in houses))
    assert eventually(lambda: {len(ranking) for ranking in rankings(houses[0]).values()} == {3})


def other_lease(kube, announcing: dict[Any, int], holder: str = "node-2") -> None:
    link = SaidLink("eth0", "02:00:00:00:01:02", (ip_network("192.0.2.0/24"),))
    said = leases.encode(Facts("node-2", settled=True, links=(link,)), announcing)
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 40, "renewTime": leases.micro(utcnow())}
    metadata = {"name": leases.name("node-2"), "namespace": HOME, "labels": leases.LABELS, "annotations": said}
    kube.seed([{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}])


def test_who_announces_by_its_lease_comes_first_everywhere(kube, make_house):
    served(kube, "web", "192.0.2.100")
    other_lease(kube, {VIP: 100})
    house = make_house("node-1").join()
    eventually(lambda: VIP in house.plane.given)
    assert house.plane.given[VIP].ranking == ("node-2", "node-1")
    assert house.plane.given[VIP].probe is False
    assert [peer.name for peer in house.plane.peers] == ["node-2"]


def test_a_renewal_of_another_lease_makes_no_pass_and_anything_else_does(kube, make_house):
    served(kube, "web", "192.0.2.100")
    other_lease(kube, {})
    house = make_house("node-1").join()
    eventually(lambda: VIP in house.lease().announcing and house.lease().facts.founds and house.desk.at_rest())
    passes: list[int] = []
    house.desk.controller.mark_all = lambda: passes.append(1)
    eventually(lambda: passes.clear() or stays(lambda: not passes), 30)
    for _ in range(5):
        house.patch(f"{LEASES}/{leases.name('node-2')}", {"spec": {"renewTime": leases.micro(utcnow())}})
    assert stays(lambda: not passes)
    other_lease(kube, {VIP: 9})
    assert eventually(lambda: passes)


def test_since_comes_after_what_the_one_before_said_whatever_the_clocks_say(kube, make_house):
    served(kube, "web", "192.0.2.100")
    ahead = int(time.time()) + 10_000
    other_lease(kube, {VIP: ahead}, holder="")
    house = make_house("node-1").join()
    assert eventually(lambda: house.lease().announcing.get(VIP, 0) == ahead + 1)


def lease_names(house: House) -> set[str]:
    return {item["metadata"]["name"].removeprefix(leases.PREFIX) for item in house.api(LEASES)["items"]}


def parted(kube, node: str, **changes: Any) -> None:
    """The Lease of a node's speaker that nobody renews."""
    metadata = {"name": leases.name(node), "namespace": HOME, "labels": leases.LABELS}
    metadata |= {"annotations": leases.encode(Facts(node), {}), **changes}
    kube.seed([{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": {}}])


def test_leases_of_nodes_that_left_the_cluster_are_deleted_a_few_at_a_time(kube, make_house, monkeypatch):
    monkeypatch.setattr(leases, "RENEWED", 0.2)
    monkeypatch.setattr(leases, "FORGOTTEN", 0.5)
    for number in range(2, 9):
        parted(kube, f"node-{number}")
    house = make_house().join()
    eventually(lambda: len(lease_names(house)) in (4, 5))
    assert eventually(lambda: lease_names(house) == {"node-1", "node-2", "node-3"})
    assert stays(lambda: len(lease_names(house)) == 3)


def test_two_speakers_share_the_leases_of_parted_nodes_out(kube, make_house, monkeypatch):
    monkeypatch.setattr(leases, "RENEWED", 0.2)
    houses = [make_house("node-1").join(), make_house("node-2").join()]
    eventually(lambda: {"node-1", "node-2"} <= lease_names(houses[0]))
    monkeypatch.setattr(leases, "FORGOTTEN", 0.5)
    for number in range(4, 12):
        parted(kube, f"node-{number}")
    assert eventually(lambda: lease_names(houses[0]) == {"node-1", "node-2"}, 20)


def test_what_only_looks_like_the_lease_of_a_parted_node_stays(kube, make_house, monkeypatch):
    monkeypatch.setattr(leases, "RENEWED", 0.2)
    monkeypatch.setattr(leases, "FORGOTTEN", 0.5)
    parted(kube, "node-7", name="lbctl-speaker-renamed")
    parted(kube, "node-8", annotations={leases.SPEAKER: "of another version"})
    parted(kube, "node-9")
    house = make_house().join()
    assert eventually(lambda: lease_names(house) == {"node-1", "renamed", "node-8"})
    assert stays(lambda: len(lease_names(house)) == 3)


# ── its life ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_an_api_server_it_starts_with_its_last_state(kube, make_house):
    served(kube, "web", "192.0.2.100")
    before = make_house().join()
    eventually(lambda: VIP in before.plane.given)
    eventually(lambda: make_house().planes)
    again = make_house()
    assert again.plane.given == before.plane.given
    assert again.plane.cluster == "cluster"
    assert again.plane.said(VIP) > 0


def test_what_it_took_up_goes_on_when_the_cluster_answers(kube, make_house):
    served(kube, "web", "192.0.2.100")
    before = make_house().join()
    eventually(lambda: VIP in before.plane.given and before.speaker._file.read("node-1"))
    before.leave()
    again = make_house().join()
    eventually(lambda: again.lease().held)
    assert len(again.planes) == 1
    eventually(again.desk.at_rest)
    assert all(VIP in given for given in again.plane.history)


def test_the_state_of_another_cluster_is_dropped(kube, make_house):
    served(kube, "web", "192.0.2.100")
    before = make_house().join("cluster")
    eventually(lambda: before.speaker._file.read("node-1"))
    before.leave()
    again = make_house().join("another")
    eventually(lambda: len(again.planes) == 2)
    assert [plane.cluster for plane in again.planes] == ["cluster", "another"]
    assert not again.planes[0].alive


def test_the_last_state_passes_the_checks_too(kube, make_house, tmp_path):
    served(kube, "web", "192.0.2.100")
    before = make_house().join()
    state = eventually(lambda: before.speaker._file.read("node-1"))
    before.leave()
    before.speaker._file.write(msgspec.structs.replace(state, served=()))
    assert make_house().plane.given == {}


WRONG = {"addresspools": {"addresses": ["192.0.2.96-192.0.2.300"]}, "l2advertisements": {"nodeSelector": "none"}}


@pytest.mark.parametrize("sort", WRONG)
def test_a_restart_gives_up_nothing_that_somebody_got_wrong_meanwhile(kube, make_house, sort):
    served(kube, "web", "192.0.2.100")
    before = make_house().join()
    eventually(lambda: VIP in before.plane.given and before.speaker._file.read("node-1"))
    before.patch(f"/apis/lbctl.io/v1alpha1/{sort}/main", {"spec": WRONG[sort]})
    before.leave()
    again = make_house().join()
    eventually(lambda: again.lease().held and again.lease().facts.last_good and again.desk.at_rest())
    assert VIP in again.plane.given
    assert all(VIP in given for given in again.plane.history)


def test_the_last_good_pools_are_on_disk_though_no_order_changed(kube, house):
    served(kube, "web", "192.0.2.100")
    house.join()
    eventually(lambda: VIP in house.plane.given)
    split = {"main": ["192.0.2.150-192.0.2.160"], "other": ["192.0.2.100-192.0.2.110"]}
    kube.seed([custom("AddressPool", name, addresses=ranges) for name, ranges in sorted(split.items(), reverse=True)])

    def kept() -> dict[str, Any]:
        found = house.speaker._file.read("node-1").served
        return {item.name: item.spec["addresses"] for watch, item in found if watch.plural == "addresspools"}

    assert eventually(lambda: kept() == split)


@pytest.mark.parametrize("gone", [True, False], ids=["deleted", "another range"])
def test_what_no_pool_has_any_more_is_given_up_after_a_restart(kube, make_house, gone):
    served(kube, "web", "192.0.2.100")
    before = make_house().join()
    eventually(lambda: VIP in before.plane.given and before.speaker._file.read("node-1"))
    before.leave()
    pool = "/apis/lbctl.io/v1alpha1/addresspools/main"
    before.client.request("DELETE", pool) if gone else before.patch(pool, {"spec": {"addresses": ["192.0.2.9/32"]}})
    again = make_house().join()
    assert eventually(lambda: again.lease().held and not again.plane.given)


@pytest.mark.parametrize("ip", ["192.0.2.1", "192.0.2.12", "192.0.2.99", "198.51.100.7"])
def test_a_patched_status_gets_no_frame_out_after_a_restart_over_a_wrong_pool(kube, make_house, ip):
    served(kube, "web", "192.0.2.100")
    kube.seed([custom("AddressPool", "main", addresses=["192.0.2.100-192.0.2.110", "192.0.2.1/32"])])
    before = make_house().join()
    eventually(lambda: VIP in before.plane.given and before.speaker._file.read("node-1"))
    before.patch("/apis/lbctl.io/v1alpha1/addresspools/main", {"spec": WRONG["addresspools"]})
    before.leave()
    served(kube, "evil", ip)
    again = make_house().join()
    eventually(lambda: again.lease().facts.last_good and VIP in again.plane.given and again.desk.at_rest())
    assert (ip_address(ip) in again.plane.given, again.plane.said(ip_address(ip))) == (False, 0)


def test_a_node_that_never_saw_a_pool_is_not_counted_upon_for_its_addresses(kube, make_house):
    served(kube, "web", "192.0.2.100")
    house = make_house().join()
    eventually(lambda: VIP in house.plane.given)
    house.patch("/apis/lbctl.io/v1alpha1/addresspools/main", {"spec": WRONG["addresspools"]})
    new = make_house("node-2").join()
    eventually(lambda: new.lease().facts.last_good == {"pool/main": 0})
    assert eventually(lambda: [peer.name for peer in house.plane.peers] == ["node-2"])
    eventually(lambda: rankings(house) == {VIP: ("node-1",)})
    assert stays(lambda: rankings(house) == {VIP: ("node-1",)})
    house.patch("/apis/lbctl.io/v1alpha1/addresspools/main", {"spec": {"addresses": ["192.0.2.96-192.0.2.200"]}})
    assert eventually(lambda: rankings(house) == rankings(new) == {VIP: ("node-1", "node-2")})


def test_it_hands_over_before_it_gives_its_lease_back(kube, house):
    served(kube, "web", "192.0.2.100")
    house.join()
    eventually(lambda: VIP in house.lease().announcing)
    house.leave()
    assert not house.plane.alive
    assert house.lease().held is False
    assert VIP in house.lease().announcing


def test_an_api_server_that_goes_away_changes_nothing(kube, house):
    served(kube, "web", "192.0.2.100")
    house.join()
    eventually(lambda: VIP in house.lease().announcing)
    given = dict(house.plane.given)
    kube.stop()
    assert stays(lambda: house.plane.given == given)
    assert house.speaker.checks() == {"data-plane": True, "lease-keeper": True}


def test_a_stranger_that_claims_an_address_is_told(kube, house):
    served(kube, "web", "192.0.2.100")
    house.join()
    eventually(lambda: VIP in house.lease().announcing)
    stranger = bytes.fromhex("020000000909")
    arp = b"\x00\x01\x08\x00\x06\x04\x00\x02" + stranger + VIP.packed + b"\xff" * 6 + VIP.packed
    house.plane.receive(b"\xff" * 6 + stranger + b"\x08\x06" + arp.ljust(46, b"\0"))
    conflict = eventually(lambda: house.lease().facts.conflicts)[0]
    assert (conflict.address, conflict.mac) == ("192.0.2.100", "02:00:00:00:09:09")
    assert eventually(lambda: house.events("AddressConflict"))[0].startswith("02:00:00:00:09:09 on eth0 of node node-1")
    figures = {figure.name: figure.value for figure in house.speaker.figures()}
    assert (figures["lbctl_l2_announced"], figures["lbctl_l2_conflicts"]) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"node-name": ""}, "--node-name"),
        ({"drain-on": "never"}, "--drain-on"),
        *(({name: text}, f"--{name} is '{text}': give a number of seconds")
          for name in ("settle", "garp-interval") for text in ("soon", "-1", "nan", "inf")),
        ({"ignore-exclude-lb": "yes"}, "must be true or false"),
        ({"exclude-interfaces": "("}, "not a regular expression"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named(settings, said):
    with pytest.raises(SettingsError, match=said):
        Speaker(Harness({"node-name": "node-1", "state-file": "", **settings}), World(MemoryPlane))


def test_a_file_of_excluded_interfaces_is_followed_and_a_bad_one_is_a_problem(kube, make_house, tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "RENEWED", 0.2)
    served(kube, "web", "192.0.2.100")
    file = tmp_path / "excluded"
    file.write_text("^lo$")
    house = make_house(**{"exclude-interfaces": f"@{file}"}).join()
    eventually(lambda: VIP in house.lease().announcing)
    file.write_text("^eth")
    eventually(lambda: house.plane.links() == house.lease().facts.links == ())
    file.write_text("(")
    (problem,) = eventually(lambda: house.lease().facts.problems)
    assert (problem.reason, house.plane.links()) == ("bad-exclude-interfaces", ())


def test_a_vip_that_kube_proxy_holds_without_strict_arp_is_told(kube, make_house, monkeypatch):
    served(kube, "web", "192.0.2.100")
    house = make_house()
    held = netlink.Interface(9, netlink.IPVS, 1, 0, b"", 0, (netlink.Address(ip_interface("192.0.2.100/32")),))
    world = msgspec.structs.replace(
        house.speaker._world, interfaces=lambda: (ETH0, held), strict_arp=lambda _name: False
    )
    house.speaker._world = world
    house.join()
    (problem,) = eventually(lambda: house.lease().facts.problems, 20)
    assert (problem.reason, "192.0.2.100" in problem.message) == ("ipvs-without-strict-arp", True)
    assert VIP in house.plane.given
    found = eventually(lambda: [s for s in house.insight().findings() if "ipvs-without-strict-arp" in s.text])
    assert [(s.text, s.ok, "strictARP" in s.way) for s in found] == [("node-1: ipvs-without-strict-arp", False, True)]


# ── what people see ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_status_says_who_announces_and_since_when(kube, house):
    served(kube, "web", "192.0.2.100")
    kube.seed([service("idle", "192.0.2.101")])
    house.join()
    eventually(lambda: VIP in house.lease().announcing)
    cell = house.insight().cell(["192.0.2.100", "192.0.2.101", "not.an.address"])
    assert re.fullmatch(r"node-1 \(\d+s\),nobody", cell)
    one, other = house.insight().data(["192.0.2.100", "192.0.2.101", "not.an.address"])
    assert (one["address"], one["node"], other["node"], other["since"]) == ("192.0.2.100", "node-1", "", "")
    assert datetime.fromisoformat(one["since"]).timestamp() == house.lease().announcing[VIP]


def test_explain_says_why_each_node_does_or_does_not(kube, house):
    served(kube, "web", "192.0.2.100")
    house.join()
    eventually(lambda: VIP in house.lease().announcing)
    sights = {sight.topic: sight for sight in house.insight().explain(house.desk._source.read("default/web"))}
    assert sights["announcer"].ok
    assert sights["in order"].text.startswith("node-1 may announce 192.0.2.100")
    assert sights["no-speaker"].text.startswith("node-2, node-3 may not: no speaker runs there")


def test_doctor_says_where_no_speaker_lives(kube, house):
    house.join()
    eventually(lambda: house.lease().held)
    first, *_ = house.insight().findings()
    assert (first.ok, first.text) == (False, "no speaker lives on node-2, node-3")


def test_the_election_and_what_a_drain_would_move_are_printed(kube, house):
    served(kube, "web", "192.0.2.100")
    other_lease(kube, {})
    kube.seed([service("idle", "192.0.2.101")])
    house.join()
    holder = eventually(lambda: VIP in house.lease().announcing and "node-1" or VIP in house.plane.given and "node-2")
    shell = SimpleNamespace(harness=lambda _provider: house.harness())
    text = CliRunner().invoke(elections.election, [], obj=shell).output
    assert re.search(rf"192.0.2.100 +default/web +(nobody|{holder}) +node-", text)
    assert "192.0.2.101: nobody may announce it: node-1,node-2" in text
    drained = CliRunner().invoke(elections.election, ["--simulate-drain", holder], obj=shell).output
    assert f"Draining {holder} moves 1 of 2 addresses" in drained
    said = CliRunner().invoke(elections.election, ["-o", "json"], obj=shell).output
    found = msgspec.json.decode(said)
    assert found["addresses"][1]["nobody_because"]["no-endpoint"] == ["node-1", "node-2"]
    assert [node["name"] for node in found["nodes"]] == ["node-1", "node-2", "node-3"]


def test_an_unknown_node_cannot_be_drained(kube, house):
    shell = SimpleNamespace(harness=lambda _provider: house.harness())
    result = CliRunner().invoke(elections.election, ["--simulate-drain", "node-9"], obj=shell)
    assert isinstance(result.exception, LbctlError)
