"""`lbctl plan` of an edit of pools: who would lose or change its address; from files alone, and over a cluster."""

from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from lbctl.cli import outcome
from lbctl.kube.client import Client
from lbctl.sandbox.kube import KubeSandbox

CRDS = Path(__file__).parents[2] / "deploy" / "crds"


def pool(*ranges: str, name: str = "lab", **spec: Any) -> dict[str, Any]:
    meta = {"name": name}
    return {"apiVersion": "lbctl.io/v1alpha1", "kind": "AddressPool", "metadata": meta,
            "spec": {"addresses": list(ranges), **spec}}  # fmt: skip


def service(name: str) -> dict[str, Any]:
    spec = {"type": "LoadBalancer", "loadBalancerClass": "lbctl.io/l2", "ports": [{"port": 80}], "selector": {"a": "b"}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


class Lab:
    """A cluster with a pool and two Services that have addresses; and the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kube = KubeSandbox()
        self.kube.start()
        self.config = self.kube.kubeconfig(folder / "kubeconfig")
        self.client = Client.from_config(str(folder / "kubeconfig"))
        for file in CRDS.glob("*s.lbctl.io.yaml"):
            self.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(file.read_text()))

    def post(self, path: str, body: object) -> Any:
        return msgspec.json.decode(self.client.request("POST", path, body))

    def fill(self) -> None:
        self.post("/apis/lbctl.io/v1alpha1/addresspools", pool("192.0.2.0/29"))
        for name, address in (("web", "192.0.2.1"), ("dns", "192.0.2.6")):
            self.post("/api/v1/namespaces/default/services", service(name))
            ready = {"type": "lbctl.io/Ready", "status": "True", "reason": "ready"}
            ready |= {"message": "the load balancer is ready", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            status = {"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}, "conditions": [ready]}
            path = f"/api/v1/namespaces/default/services/{name}/status"
            self.client.request("PATCH", path, {"status": status}, "application/merge-patch+json")

    def plan(self, *documents: object, cluster: bool = True) -> dict[str, Any]:
        file = self.folder / "edit.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        where = ["--kubeconfig", str(self.folder / "kubeconfig")] if cluster else []
        return said(["plan", "-f", str(file), "-o", "json", "--provider", "l2", *where])


def said(words: list[str]) -> Any:
    out = StringIO()
    with redirect_stdout(out):
        outcome(words)
    return msgspec.json.decode(out.getvalue())


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.client.close()
    made.kube.stop()


def steps(plan: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(c["action"], c["name"], c["because"]) for c in plan["changes"] if c["kind"] == "address"]


def test_an_edit_says_whose_address_changes_and_leaves_the_others_out(lab: Lab) -> None:
    lab.fill()
    plan = lab.plan(pool("192.0.2.0-192.0.2.3"))
    assert steps(plan) == [
        ("create", "default/dns 192.0.2.0", "192.0.2.0 from pool lab, instead of 192.0.2.6"),
        ("delete", "default/dns 192.0.2.6", "nothing wants it any more"),
    ]
    assert plan["skipped"] == {}


def test_an_edit_says_who_would_have_nowhere_to_go(lab: Lab) -> None:
    lab.fill()
    plan = lab.plan(pool("192.0.2.1-192.0.2.1"))
    assert steps(plan) == []
    [refusal] = plan["refused"]
    assert (refusal["owner"], refusal["reason"]) == ("default/dns", "pool-exhausted")
    assert "192.0.2.6 lies in no pool any more" in refusal["message"]


def test_an_edit_that_is_wrong_says_so(lab: Lab) -> None:
    lab.fill()
    plan = lab.plan(pool("192.0.2.0/29"), pool("192.0.2.4/30", name="other"))
    assert steps(plan) == []
    assert [note["reason"] for note in plan["notes"] if "other" in note["message"]][0] == "overlapping-pool"


def test_files_alone_are_a_preview_with_their_own_pools(lab: Lab) -> None:
    plan = lab.plan(pool("192.0.2.0/29"), service("web"), {"apiVersion": "v1", "kind": "Pod"}, cluster=False)
    assert [(action, name) for action, name, _ in steps(plan)] == [("create", "default/web 192.0.2.0")]
    assert plan["skipped"] == {"Pod": 1}


def test_metallbs_own_manifests_are_pools_too(lab: Lab) -> None:
    meta = {"name": "first", "namespace": "metallb-system"}
    theirs = {"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": meta,
              "spec": {"addresses": ["198.51.100.16/30"]}}  # fmt: skip
    plan = lab.plan(theirs, service("web"), cluster=False)
    assert [name for _, name, _ in steps(plan)] == ["default/web 198.51.100.16"]


