"""The same command line against kube-apiserver itself: where it differs from the sandbox, the sandbox is wrong."""

import os
import re
from collections.abc import Iterator

import msgspec
import pytest

from lbctl.cli import codes
from lbctl.kube.client import Client
from lbctl.testing import controlplane

pytestmark = [
    pytest.mark.realkube, pytest.mark.xdist_group("controlplane"),
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]  # fmt: skip
SERVICES = "/api/v1/namespaces/default/services"
NODE = {
    "metadata": {"name": "n1"}, "spec": {"providerID": "memory://n1"},
    "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[controlplane.ControlPlane]:
    missing = controlplane.why_missing()
    if missing and not os.environ.get("CI"):
        pytest.skip(missing)
    with controlplane.ControlPlane() as running:
        yield running


@pytest.fixture
def client(server, monkeypatch) -> Iterator[Client]:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    monkeypatch.setenv("LBCTL_DEFAULT_PROVIDER", "memory")
    monkeypatch.setenv("LBCTL_MEMORY_CLOUD", "on-the-real-one")
    made = Client.from_config(str(server.kubeconfig), component="test")
    yield made
    made.close()


def test_a_service_is_planned_applied_explained_and_pruned(lbctl, client) -> None:
    client.request("POST", "/api/v1/nodes", NODE)
    for name, spec in (("web", {}), ("bad", {"ports": [{"port": 1, "protocol": "SCTP"}]})):
        wanted = {"type": "LoadBalancer", "ports": [{"port": 80}], "selector": {"app": name}, **spec}
        client.request("POST", SERVICES, {"metadata": {"name": name}, "spec": wanted})

    assert lbctl("doctor", "--no-reach").code == codes.OK
    lbctl("plan", "--out", "p.json")
    assert lbctl("apply", "p.json", "--wait").code == codes.OK
    assert lbctl("plan", "--detailed-exitcode").code == codes.OK
    rows = lbctl("status").out
    assert re.search(r"default +web +- +198\.18\.0\.1 +True +False +no-endpoints", rows)
    assert re.search(r"default +bad +- +<pending> +False +- +unsupported-protocol", rows)
    assert "it has its address, but not all is well on the way" in lbctl("explain", "web").out

    client.request("DELETE", f"{SERVICES}/web")
    assert lbctl("apply", "--prune", "--max-delete=100%").code == codes.OK
    assert lbctl("plan", "--prune").out.count("- address") == 0
    conditions = msgspec.json.decode(client.get(f"{SERVICES}/bad"))["status"]["conditions"]
    assert [c["reason"] for c in conditions] == ["unsupported-protocol"]
