"""The real API server that the tests stand on: that it is one, and that it can be handled."""

import os
from collections.abc import Iterator

import msgspec
import pytest

from lbctl.kube.client import STRATEGIC, Client, Conflict, Forbidden
from lbctl.testing import controlplane
from lbctl.testing.controlplane import ControlPlane

pytestmark = [pytest.mark.realkube, pytest.mark.xdist_group("controlplane")]
SERVICES = "/api/v1/namespaces/default/services"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


@pytest.fixture(scope="module")
def server() -> Iterator[ControlPlane]:
    missing = controlplane.why_missing()
    if missing and not os.environ.get("CI"):
        pytest.skip(missing)
    with ControlPlane({"nobody": ["nothing"]}) as running:
        yield running


@pytest.fixture
def client(server: ControlPlane) -> Iterator[Client]:
    made = Client.from_config(str(server.kubeconfig), component="handled")
    yield made
    made.close()


def service(name: str) -> dict[str, object]:
    return {"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}


def test_a_service_gets_its_node_port(client: Client) -> None:
    made = msgspec.json.decode(client.request("POST", SERVICES, service("port")))
    assert 30000 <= made["spec"]["ports"][0]["nodePort"] <= 32767


def test_finalizers_are_written_through_the_status_and_the_spec_is_not(client: Client) -> None:
    client.request("POST", SERVICES, service("status"))
    body = {"metadata": {"finalizers": ["lbctl.io/aws"]}, "spec": {"type": "ClusterIP"}}
    made = msgspec.json.decode(client.request("PATCH", f"{SERVICES}/status/status", body, STRATEGIC))
    assert made["metadata"]["finalizers"] == ["lbctl.io/aws"]
    assert made["spec"]["type"] == "LoadBalancer"


def test_a_lease_of_the_past_is_a_conflict(client: Client) -> None:
    lease = msgspec.json.decode(client.request("POST", LEASES, {"metadata": {"name": "one"}, "spec": {}}))
    lease["spec"] = {"holderIdentity": "a"}
    client.request("PUT", f"{LEASES}/one", lease)
    with pytest.raises(Conflict):
        client.request("PUT", f"{LEASES}/one", lease)


def test_who_has_no_role_may_nothing(server: ControlPlane) -> None:
    nobody = Client.from_config(str(server.kubeconfig_for("nobody")), component="nobody")
    with pytest.raises(Forbidden):
        nobody.get(SERVICES)
    nobody.close()


def test_the_audit_log_says_who_asked_for_what(server: ControlPlane, client: Client) -> None:
    client.get(SERVICES)
    asked = controlplane.requests(server.audit_log, user_agent="lbctl/", verbs=["list"], resource="services")
    assert any("(handled)" in request.user_agent for request in asked)


def test_a_restart_keeps_what_was_stored(server: ControlPlane) -> None:
    before = Client.from_config(str(server.kubeconfig))
    before.request("POST", SERVICES, service("kept"))
    before.close()
    server.restart()
    after = Client.from_config(str(server.kubeconfig))
    assert b'"kept"' in after.get(f"{SERVICES}/kept")
    after.close()
