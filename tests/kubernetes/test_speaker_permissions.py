"""How little a speaker may be allowed to do: the real API server's RBAC says no to everything else."""

import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from lbctl.daemon import Cluster, Desk, Options, utcnow
from lbctl.kube.client import JSON, Client, Forbidden, NotFound
from lbctl.kube.events import Recorder
from lbctl.policy import Limits, Policy
from lbctl.provider import Harness, Plugin
from lbctl_l2 import leases
from lbctl_l2.planes import MemoryPlane
from lbctl_l2.served import watches
from lbctl_l2.speaker import Speaker, World

RBAC = Path(__file__).parents[2] / "deploy" / "kustomize" / "l2" / "rbac-speaker.yaml"
VIP = ip_address("192.0.2.100")


def rules(kind: str) -> list[dict[str, Any]]:
    """What the shipped ClusterRole or Role allows."""
    return [rule for item in yaml.safe_load_all(RBAC.read_text()) if item["kind"] == kind for rule in item["rules"]]


@pytest.fixture
def kube(real_kube):
    return real_kube


@pytest.fixture
def allowed(kube, tmp_path) -> Client:
    """A client that may do what the shipped manifest says, and nothing else."""
    rbac, name = "/apis/rbac.authorization.k8s.io/v1", kube.namespace
    inside = f"{rbac}/namespaces/{name}"
    kube.post(kube.path("serviceaccounts"), {"metadata": {"name": "lbctl-speaker"}})
    for place, kind in ((rbac, "ClusterRole"), (inside, "Role")):
        kube.post(f"{place}/{kind.lower()}s", {"metadata": {"name": f"{name}-speaker"}, "rules": rules(kind)})
        binding = {
            "metadata": {"name": f"{name}-speaker"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": f"{name}-speaker"},
            "subjects": [{"kind": "ServiceAccount", "name": "lbctl-speaker", "namespace": name}],
        }
        kube.post(f"{place}/{kind.lower()}bindings", binding)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = kube.post(kube.path("serviceaccounts", "lbctl-speaker", "token"), request)["status"]["token"]
    config = yaml.safe_load(kube.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path: Path = tmp_path / "allowed"
    path.write_text(yaml.safe_dump(config))
    return Client.from_config(str(path), component="speaker")


@pytest.fixture
def node(kube):
    """A node of the cluster, gone after the test."""
    name = f"n-{kube.namespace}"
    kube.post("/api/v1/nodes", {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name}})
    yield name
    kube.client.request("DELETE", f"/api/v1/nodes/{name}", None, JSON)


def announced(kube, node: str) -> None:
    """A Service of ours that holds an address, with an endpoint on the node."""
    kube.service(loadBalancerClass="lbctl.io/l2")
    kube.patch({"status": {"loadBalancer": {"ingress": [{"ip": str(VIP)}]}}}, sub="status")
    endpoint = {"addresses": ["10.244.0.9"], "nodeName": node, "conditions": {"ready": True, "serving": True}}
    body = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [endpoint],
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
    }  # fmt: skip
    kube.post(f"/apis/discovery.k8s.io/v1/namespaces/{kube.namespace}/endpointslices", body)


def left_behind(kube, node: str) -> str:
    """The Lease of a node that is gone: its path."""
    said = leases.encode(leases.Facts(node), {})
    metadata = {"name": leases.name(node), "labels": leases.LABELS, "annotations": said}
    path = f"/apis/coordination.k8s.io/v1/namespaces/{kube.namespace}/leases"
    kube.post(path, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata})
    return f"{path}/{leases.name(node)}"


def is_there(kube, path: str) -> bool:
    try:
        return bool(kube.client.get(path))
    except NotFound:
        return False


@pytest.mark.realkube
def test_a_speakers_whole_life_needs_no_more_than_the_rules(kube, allowed, node, wait, monkeypatch):
    monkeypatch.setattr(leases, "RENEWED", 0.5)
    monkeypatch.setattr(leases, "FORGOTTEN", 1.0)
    announced(kube, node)
    old = left_behind(kube, f"gone-{kube.namespace}")
    wait(lambda: may(allowed, kube))
    settings = {"node-name": node, "state-file": "", "addresses": "192.0.2.96-192.0.2.111", "home": kube.namespace}
    world = World(MemoryPlane, interfaces=lambda: (), routes=frozenset, strict_arp=lambda _name: True, now=time.time)
    speaker = Speaker(Harness(settings), world)
    cluster = Cluster(allowed, watches=(*watches(settings), leases.watch(kube.namespace)), namespaces=False)
    cluster.watch()
    recorder = Recorder(allowed)
    recorder.start()
    harness = Harness(
        settings, cluster.identity(), now=utcnow, kubernetes=cluster.access(kube.namespace, recorder)
    )
    chosen = Options(claims=False, policy=Policy(tenancy="open", limits=Limits(let_through=True)), publishes=False)
    desk = Desk(Plugin("l2", speaker.join), harness, cluster, chosen, recorder=Recorder(allowed))
    desk.start()
    path = f"/apis/coordination.k8s.io/v1/namespaces/{kube.namespace}/leases/{leases.name(node)}"
    try:
        wait(lambda: kube.events("AnnouncingFromNode"))
        wait(lambda: str(VIP) in annotation(kube, path, leases.ANNOUNCING))
        wait(lambda: not is_there(kube, old))
    finally:
        desk.stop()
        desk.join()
        speaker.leave()
        recorder.stop()
        cluster.stop()
    assert msgspec.json.decode(kube.client.get(path))["spec"].get("holderIdentity", "") == ""


def annotation(kube, path: str, name: str) -> str:
    found = msgspec.json.decode(kube.client.get(path))
    said: str = found["metadata"]["annotations"].get(name, "")
    return said


@pytest.mark.realkube
def test_a_service_and_its_status_are_beyond_the_rules(kube, allowed, wait):
    kube.service(loadBalancerClass="lbctl.io/l2")
    wait(lambda: may(allowed, kube))
    for place in ("", "status"):
        with pytest.raises(Forbidden):
            allowed.request("PATCH", kube.path("services", "web", place), {}, "application/merge-patch+json")


def may(client: Client, kube) -> bool:
    """Have the rules reached the authorizer?"""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "verb": "patch", "group": "coordination.k8s.io", "resource": "leases", "namespace": kube.namespace,
        }},
    }  # fmt: skip
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = msgspec.json.decode(client.request("POST", path, review))
    return bool(answer["status"].get("allowed"))
