"""Bare metal's controller on the sandbox and on the real API server: addresses, what they cost, and who keeps them.

Everybody's Services are in one store, so each test takes its Services and pools away when it ends.
"""

import itertools
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from lbctl.controller import Timing
from lbctl.daemon import Cluster, Daemon, Desk, Options, utcnow
from lbctl.kube.client import MERGE, Client, Conflict, NotFound, Throttled
from lbctl.kube.events import Recorder
from lbctl.model import READY
from lbctl.provider import Harness
from lbctl_l2.plugin import plugin

CRDS = Path(__file__).parents[2] / "deploy" / "crds"
RBAC = [CRDS.parent / "kustomize" / name for name in ("base/rbac.yaml", "l2/rbac-controller.yaml")]
SERVICES = sorted((Path(__file__).parents[1] / "services").glob("*.yaml"))
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
POOLS, ADVERTS = "/apis/lbctl.io/v1alpha1/addresspools", "/apis/lbctl.io/v1alpha1/l2advertisements"
NETWORKS = itertools.count(1)
"""Each test has a /24 of its own: pools of one cluster must not overlap."""


class House:
    """The controller as `lbctl run` puts it together, with pools of the test's own."""

    def __init__(self, kube, wait, default: str | None = None) -> None:
        self.kube, self.wait, self.default = kube, wait, default
        self.network = ip_network(f"10.77.{next(NETWORKS)}.0/24")
        self.writes: Counter[str] = Counter()
        self.settings: dict[str, str] = {"home": kube.namespace, "metallb-namespace": kube.namespace}
        self.pools: set[str] = set()
        self.daemon: Daemon | None = None
        define(kube, *CRDS.glob("*s.lbctl.io.yaml"))

    def start(self, kubeconfig: Path | None = None) -> "House":
        client = Client.from_config(str(kubeconfig or self.kube.kubeconfig), component="controller")
        self.kube.overhear(client, self._count)
        cluster = Cluster(client, watches=plugin.watches(self.settings))
        recorder = Recorder(client)
        self.daemon = Daemon(cluster, recorder)
        seen = cluster.access(self.kube.namespace, recorder)
        harness = Harness(self.settings, "cluster", now=utcnow, kubernetes=seen)
        timing = Timing(backoff=0.2, settle=0.05)
        self.desk = Desk(plugin, harness, cluster, Options(self.default, timing=timing), recorder=recorder)
        self.daemon.add(self.desk)
        self._thread = threading.Thread(target=self.daemon.run, daemon=True)
        self._thread.start()
        self.wait(self.desk.at_rest)
        return self

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.stop()
            self._thread.join(30)
            self.daemon = None

    def close(self) -> None:
        self.stop()
        for item in self.services():
            self.kube.delete(item["metadata"]["name"])
        for name in self.pools:
            self.kube.client.request("DELETE", f"{POOLS}/{name}")

    def pool(self, name: str = "lab", *ranges: str, **spec: Any) -> str:
        """A pool of the test's network (or these ranges), announced from everywhere."""
        full = f"{name}-{self.kube.namespace}"
        body = {"apiVersion": "lbctl.io/v1alpha1", "kind": "AddressPool", "metadata": {"name": full}}
        self.kube.post(POOLS, {**body, "spec": {"addresses": list(ranges) or [str(self.network)], **spec}})
        self.pools.add(full)
        return full

    def edit(self, name: str, **spec: Any) -> None:
        self.kube.client.request("PATCH", f"{POOLS}/{name}", {"spec": spec}, MERGE)

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.kube.client.get(f"{POOLS}/{name}")).get("status", {})
        return found

    def service(self, name: str = "web", **spec: Any) -> None:
        self.kube.service(name, **{"loadBalancerClass": "lbctl.io/l2", **spec})

    def services(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = msgspec.json.decode(self.kube.client.get(self.kube.path("services")))["items"]
        return found

    def address(self, name: str = "web") -> str:
        return ",".join(entry["ip"] for entry in self.kube.ingress(name))

    def ready(self, name: str = "web") -> str:
        return (self.kube.condition(READY, name) or {}).get("reason", "")

    def events(self, reason: str) -> list[str]:
        return [event["message"] for event in self.kube.events(reason)]

    def _count(self, method: str, path: str) -> None:
        self.writes[f"{method} {path.rpartition('/namespaces/')[2].partition('/')[2] or path}"] += 1


def define(kube, *files: Path) -> None:
    """Install these CustomResourceDefinitions, and wait until they are served."""
    for file in files:
        body = yaml.safe_load(file.read_text())
        define_one(kube, body)


def define_one(kube, body: dict[str, Any]) -> None:
    try:
        kube.post(DEFINITIONS, body)
    except Conflict:
        return
    path = f"/apis/{body['spec']['group']}/{body['spec']['versions'][0]['name']}/{body['spec']['names']['plural']}"
    for _ in range(1000):
        try:
            kube.client.get(path)
            return
        except (NotFound, Throttled):
            threading.Event().wait(0.02)
    raise AssertionError(f"{path} is not served")


@pytest.fixture
def make_house(kube, wait) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(**options: Any) -> House:
        made.append(House(kube, wait, **options))
        return made[-1]

    yield make
    for house in made:
        house.close()


@pytest.fixture
def house(make_house) -> House:
    return make_house()


def test_a_service_costs_one_status_write_and_one_event(house, wait):
    pool = house.pool()
    house.start()
    house.service()
    wait(lambda: house.address() == str(house.network[0]))
    wait(lambda: house.events("IPAllocated") == [f"{house.network[0]} from pool {pool}"])
    assert house.writes["PATCH services/web/status"] == 1
    assert [key for key in house.writes if "services/web" in key] == ["PATCH services/web/status"]
    assert house.kube.finalizers() == []


def contended(house, wait) -> None:
    """A pool of one address: the first has it, the second waits."""
    house.pool("lab", f"{house.network[7]}-{house.network[7]}", cooldownSeconds=0)
    house.start()
    house.service("first")
    wait(lambda: house.address("first"))
    house.service("second")
    wait(lambda: house.ready("second") == "pool-exhausted")


def test_a_deletion_costs_no_write_and_frees_the_address_for_who_waits(house, wait):
    contended(house, wait)
    house.writes.clear()
    house.kube.delete("first")
    wait(lambda: house.address("second") == str(house.network[7]))
    assert not [key for key in house.writes if "services/first" in key]


def test_a_restart_keeps_every_address(house, wait):
    house.pool()
    house.start()
    for number in range(5):
        house.service(f"s{number}")
    wait(lambda: all(house.address(f"s{n}") for n in range(5)))
    before = {item["metadata"]["name"]: item["status"] for item in house.services()}
    house.kube.delete("s1")
    house.stop()
    house.writes.clear()
    house.start()
    assert {item["metadata"]["name"]: item["status"] for item in house.services()}.items() <= before.items()
    assert not [key for key in house.writes if key.startswith("PATCH services")]


def test_a_pool_that_shrinks_moves_who_is_outside_and_keeps_who_has_nowhere_to_go(house, wait):
    pool = house.pool("lab", f"{house.network[1]}-{house.network[2]}")
    house.start()
    house.service("stays")
    wait(lambda: house.address("stays"))
    house.service("goes")
    wait(lambda: house.address("goes") == str(house.network[2]))
    house.edit(pool, addresses=[f"{house.network[1]}-{house.network[1]}"])
    wait(lambda: house.ready("goes") == "pool-exhausted")
    assert house.address("goes") == str(house.network[2])
    house.edit(pool, addresses=[f"{house.network[1]}-{house.network[1]}", f"{house.network[9]}-{house.network[9]}"])
    wait(lambda: house.address("goes") == str(house.network[9]))
    assert house.address("stays") == str(house.network[1])
    assert house.ready("goes") == "ready"
    told = f"{house.network[9]} from pool {pool}, instead of {house.network[2]}"
    wait(lambda: told in house.events("IPAllocated"))


def test_a_pools_status_says_how_full_it_is(house, wait):
    pool = house.pool("lab", f"{house.network[0]}-{house.network[9]}")
    house.start()
    for number in range(3):
        house.service(f"s{number}")
    used = {"total": 10, "assigned": 3, "available": 7}
    wait(lambda: house.status(pool).get("usage", {}).get("ipv4") == used)
    assert house.status(pool)["usage"]["services"] == 3
    house.kube.delete("s2")
    wait(lambda: house.status(pool)["usage"]["ipv4"]["assigned"] == 2)
    assert [one["address"] for one in house.status(pool)["released"]] == [str(house.network[2])]
    assert house.writes[f"PATCH {POOLS}/{pool}/status"] <= 6


def test_what_was_released_rests_also_after_a_restart(house, wait):
    pool = house.pool()
    house.start()
    house.service("first")
    wait(lambda: house.address("first"))
    house.kube.delete("first")
    wait(lambda: house.status(pool).get("released"))
    house.stop()
    house.start()
    house.service("second")
    wait(lambda: house.address("second") == str(house.network[1]))


def test_a_bad_pool_says_so_in_its_status_and_the_last_good_one_is_served(house, wait):
    pool = house.pool()
    other = house.pool("other", f"{house.network[5]}-{house.network[6]}")
    house.start()
    reason = lambda: {c["type"]: c["reason"] for c in house.status(other).get("conditions", [])}.get("Ready")  # noqa: E731
    wait(lambda: reason() == "overlapping-pool")
    house.service()
    wait(lambda: house.address() == str(house.network[0]))
    assert house.status(pool)["conditions"][0]["status"] == "True" or wait(lambda: house.status(pool)["usage"])


def test_services_of_one_address_in_two_statuses_end_up_with_one_each(house, wait):
    house.pool()
    for name in ("older", "younger"):
        house.service(name)
        body = {"status": {"loadBalancer": {"ingress": [{"ip": str(house.network[3])}]}}}
        house.kube.patch(body, name, "status")
        if name == "older":
            threading.Event().wait(1.1)
    house.start()
    wait(lambda: house.ready("younger") == "ready" and house.ready("older") == "ready")
    assert (house.address("older"), house.address("younger")) == (str(house.network[3]), str(house.network[0]))


def allowed(kube, folder: Path) -> Path:
    """A kubeconfig of who may do what the shipped manifests say, and nothing else."""
    rbac, name = "/apis/rbac.authorization.k8s.io/v1", kube.namespace
    inside, account = f"{rbac}/namespaces/{name}", {"kind": "ServiceAccount", "name": "lbctl", "namespace": name}
    kube.post(kube.path("serviceaccounts"), {"metadata": {"name": "lbctl"}})
    shipped = [item for file in RBAC for item in yaml.safe_load_all(file.read_text())]
    for place, kind in ((rbac, "ClusterRole"), (inside, "Role")):
        rules = [rule for item in shipped if item["kind"] == kind for rule in item["rules"]]
        kube.post(f"{place}/{kind.lower()}s", {"metadata": {"name": name}, "rules": rules})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        bound = {"metadata": {"name": name}, "roleRef": role, "subjects": [account]}
        kube.post(f"{place}/{kind.lower()}bindings", bound)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    config = yaml.safe_load(kube.kubeconfig.read_text())
    token = kube.post(kube.path("serviceaccounts", "lbctl", "token"), request)["status"]["token"]
    config["users"][0]["user"] = {"token": token}
    (folder / "allowed").write_text(yaml.safe_dump(config))
    return folder / "allowed"


@pytest.mark.realkube
def test_it_needs_no_more_than_the_shipped_rules(real_kube, wait, tmp_path):
    house = House(real_kube, wait)
    pool = house.pool()
    try:
        house.start(allowed(real_kube, tmp_path))
        house.service()
        wait(lambda: house.address() == str(house.network[0]))
        wait(lambda: house.status(pool).get("usage", {}).get("services") == 1)
        wait(lambda: house.events("IPAllocated"))
    finally:
        house.close()


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl builds it")
def test_the_manifests_for_bare_metal_fit_together():
    command = ["kubectl", "kustomize", str(CRDS.parent / "kustomize" / "bare-metal")]
    items = list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True).stdout))
    kinds = Counter(item["kind"] for item in items)
    assert (kinds["CustomResourceDefinition"], kinds["Deployment"], kinds["DaemonSet"]) == (2, 1, 1)
    [controller] = [item for item in items if item["kind"] == "Deployment"]
    assert "--provider=l2" in controller["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {item["metadata"].get("namespace", "lbctl-system") for item in items} == {"lbctl-system"}


def test_who_has_anothers_address_and_can_get_no_other_loses_it(house, wait):
    house.pool("lab", f"{house.network[3]}-{house.network[3]}")
    for name in ("older", "younger"):
        house.service(name)
        house.kube.patch({"status": {"loadBalancer": {"ingress": [{"ip": str(house.network[3])}]}}}, name, "status")
        threading.Event().wait(1.1 if name == "older" else 0)
    house.start()
    wait(lambda: house.ready("younger") == "pool-exhausted" and house.ready("older") == "ready")
    wait(lambda: (house.address("older"), house.address("younger")) == (str(house.network[3]), ""))
    house.kube.delete("older")
    wait(lambda: house.address("younger") == str(house.network[3]))


METALLB = {
    "ipaddresspools": "IPAddressPool", "l2advertisements": "L2Advertisement", "bgpadvertisements": "BGPAdvertisement",
    "communities": "Community", "bfdprofiles": "BFDProfile",
}  # fmt: skip


def metallb(kube) -> str:
    """MetalLB's CRDs, as far as the API server must know them. Where their objects are, but for the plural."""
    for plural, kind in METALLB.items():
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        version = {"name": "v1beta1", "served": True, "storage": True, "schema": schema, "subresources": {"status": {}}}
        names = {"plural": plural, "kind": kind, "singular": kind.lower(), "listKind": f"{kind}List"}
        spec = {"group": "metallb.io", "scope": "Namespaced", "names": names, "versions": [version]}
        meta = {"name": f"{plural}.metallb.io"}
        kind_of = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
        define_one(kube, {**kind_of, "metadata": meta, "spec": spec})
    return f"/apis/metallb.io/v1beta1/namespaces/{kube.namespace}"


def test_metallbs_objects_are_served_and_what_it_wrote_is_adopted(make_house, kube, wait):
    house, path = make_house(default="l2"), metallb(kube)
    own = {"apiVersion": "metallb.io/v1beta1"}
    pool = {**own, "kind": "IPAddressPool", "metadata": {"name": "first"}, "spec": {"addresses": [str(house.network)]}}
    kube.post(f"{path}/ipaddresspools", pool)
    kube.post(f"{path}/l2advertisements", {**own, "kind": "L2Advertisement", "metadata": {"name": "ad"}, "spec": {}})
    house.service("theirs", loadBalancerClass=None)
    body = {"status": {"loadBalancer": {"ingress": [{"ip": str(house.network[40]), "ipMode": "VIP"}]}}}
    kube.patch(body, "theirs", "status")
    house.service("elsewhere", loadBalancerClass=None)
    kube.patch({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}}}, "elsewhere", "status")
    house.start()
    house.service("new", loadBalancerClass=None)
    wait(lambda: house.ready("theirs") == "ready" and house.ready("new") == "ready")
    assert house.address("theirs") == str(house.network[40])
    # Other tests' Services without a class ask the default provider, too, and came first.
    assert ip_address(house.address("new")) in house.network
    assert house.ready("elsewhere") == "served-elsewhere"
    assert house.address("elsewhere") == "198.51.100.7"


def test_a_status_that_somebody_wipes_is_written_again_with_the_same_address(house, wait):
    house.pool()
    house.start()
    house.service()
    wait(lambda: house.address())
    house.kube.patch({"status": {"loadBalancer": {"ingress": None}}}, "web", "status")
    wait(lambda: house.address() == str(house.network[0]))
    assert house.writes["PATCH services/web/status"] == 2


def test_both_families_come_in_one_write(house, wait):
    six = f"2001:db8:77:{house.network.network_address.packed[2]:x}::/120"
    house.pool("lab", str(house.network), six)
    house.start()
    house.service("both", ipFamilyPolicy="PreferDualStack", ipFamilies=["IPv4", "IPv6"])
    families = house.kube.get("both")["spec"]["ipFamilies"]
    wait(lambda: house.ready("both") == "ready")
    found = house.address("both").split(",")
    assert [":" in text for text in found] == [family == "IPv6" for family in families]
    assert house.writes["PATCH services/both/status"] == 1


def test_a_service_that_leaves_the_type_gives_its_address_back(house, wait):
    contended(house, wait)
    house.kube.patch({"spec": {"type": "ClusterIP", "loadBalancerClass": None}}, "first")
    wait(lambda: house.address("second") == str(house.network[7]))
    wait(lambda: house.kube.condition(READY, "first") is None)


def test_external_ips_in_a_pool_are_taken_and_who_claims_them_hears_it(house, wait):
    house.pool()
    house.start()
    house.kube.service("plain", type="ClusterIP", loadBalancerClass=None, externalIPs=[str(house.network[0])])
    wait(lambda: house.events("ExternalIPConflict"))
    house.service()
    wait(lambda: house.address() == str(house.network[1]))


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_services_of_real_projects_have_an_address_or_a_reason(sandbox_kube, wait, path):
    house = House(sandbox_kube, wait, default="l2")
    house.pool()
    house.start()
    try:
        for document in yaml.safe_load_all(path.read_text()):
            document["metadata"].pop("namespace", None)
            name = document["metadata"]["name"]
            sandbox_kube.post(sandbox_kube.path("services"), document)
            wait(lambda name=name: house.ready(name))
            assert house.address(name) or len(sandbox_kube.condition(READY, name)["message"]) > 20
    finally:
        house.close()
