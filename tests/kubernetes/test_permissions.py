"""How little the controller may be allowed to do: the real API server's RBAC says no to everything else."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from lbctl.kube.client import Client, Forbidden
from lbctl.kube.events import Recorder
from lbctl.kube.lease import Elector, Leases
from lbctl.model import READY, Owner

RBAC = Path(__file__).parents[2] / "deploy" / "kustomize" / "base" / "rbac.yaml"


def rules(kind: str) -> list[dict[str, Any]]:
    """What the shipped ClusterRoles or Roles allow."""
    return [rule for item in yaml.safe_load_all(RBAC.read_text()) if item["kind"] == kind for rule in item["rules"]]


@pytest.fixture
def kube(real_kube):
    return real_kube


@pytest.fixture
def allowed(kube, tmp_path) -> Client:
    """A client that may do what the shipped manifests say, and nothing else."""
    rbac, name = "/apis/rbac.authorization.k8s.io/v1", kube.namespace
    inside = f"{rbac}/namespaces/{name}"
    kube.post(kube.path("serviceaccounts"), {"metadata": {"name": "lbctl"}})
    for place, kind in ((rbac, "ClusterRole"), (inside, "Role")):
        kube.post(f"{place}/{kind.lower()}s", {"metadata": {"name": name}, "rules": rules(kind)})
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "lbctl", "namespace": name}],
        }
        kube.post(f"{place}/{kind.lower()}bindings", binding)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = kube.post(kube.path("serviceaccounts", "lbctl", "token"), request)["status"]["token"]
    config = yaml.safe_load(kube.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path: Path = tmp_path / "allowed"
    path.write_text(yaml.safe_dump(config))
    return Client.from_config(str(path), component="allowed")


@pytest.mark.realkube
def test_a_services_whole_life_needs_no_more_than_the_rules(kube, allowed, make_stage, wait):
    wait(lambda: may(allowed, kube))
    stage = make_stage(client=allowed)
    service = kube.service()
    stage.settle()
    assert kube.condition(READY)["reason"] == "ready"
    elector = Elector(Leases(allowed, kube.namespace), "lbctl", "one")
    assert elector.attempt()
    assert elector.attempt()
    elector.stop()
    recorder = Recorder(allowed)
    recorder.start()
    for _ in range(2):
        recorder.emit(Owner(f"{kube.namespace}/web"), service["metadata"]["uid"], "Normal", "Test", "said")
    recorder.stop()
    assert [event["count"] for event in kube.events("Test")] == [2]
    kube.delete()
    stage.settle()
    assert kube.get() is None


@pytest.mark.realkube
def test_a_spec_is_beyond_the_rules(kube, allowed, wait):
    kube.service()
    wait(lambda: may(allowed, kube))
    with pytest.raises(Forbidden):
        allowed.request("PATCH", kube.path("services", "web"), {"spec": {}}, "application/merge-patch+json")


def may(client: Client, kube) -> bool:
    """Have the rules reached the authorizer?"""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "services", "namespace": kube.namespace}},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = msgspec.json.decode(client.request("POST", path, review))
    return bool(answer["status"].get("allowed"))
