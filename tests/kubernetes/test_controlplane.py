"""The real API server that the tests stand on: that it is one, and that it can be handled."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from lbctl.errors import Unavailable
from lbctl.kube.client import MERGE, STRATEGIC, Client, Conflict, Forbidden, Invalid, NotFound
from lbctl.testing import controlplane
from lbctl.testing.controlplane import ControlPlane

pytestmark = [pytest.mark.realkube, pytest.mark.xdist_group("controlplane")]
SERVICES = "/api/v1/namespaces/default/services"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
RULE = {"rule": "self.size > 0", "message": "size must be positive"}
SPEC = {"type": "object", "properties": {"size": {"type": "integer"}}, "x-kubernetes-validations": [RULE]}
SCHEMA = {"openAPIV3Schema": {"type": "object", "properties": {"spec": SPEC}}}
POOLS = {
    "metadata": {"name": "pools.test.lbctl.io"},
    "spec": {
        "group": "test.lbctl.io",
        "scope": "Cluster",
        "names": {"plural": "pools", "kind": "Pool"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": SCHEMA}],
    },
}
# Starts one, pauses it, says where it is, and is killed before it can clear anything up.
KILLED = """
import os, signal
from lbctl.testing.controlplane import ControlPlane
left = ControlPlane()
left.start()
left.pause()
print(left.url, left.audit_log.parent, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ControlPlane]:
    if missing := controlplane.why_not_ours(build=False):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    with ControlPlane({"nobody": ["nothing"]}) as running:
        yield running


@pytest.fixture
def client(server: ControlPlane) -> Iterator[Client]:
    made = Client.from_config(str(server.kubeconfig), component="handled")
    yield made
    made.close()


def service(name: str) -> dict[str, object]:
    return {"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}


def eventually(true: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not _now(true):
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.05)


def _now(true: Callable[[], bool]) -> bool:
    try:
        return true()
    except NotFound:
        return False


def listens(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as asking:
        return asking.connect_ex((address.hostname, address.port)) == 0


def test_it_is_ready_and_says_which_release_it_is(client: Client) -> None:
    assert client.get("/readyz") == b"ok"
    assert msgspec.json.decode(client.get("/version"))["gitVersion"].startswith("v1.")


def test_a_service_gets_its_node_port(client: Client) -> None:
    made = msgspec.json.decode(client.request("POST", SERVICES, service("port")))
    assert 30000 <= made["spec"]["ports"][0]["nodePort"] <= 32767


@pytest.mark.parametrize(("name", "kind"), [("strategic", STRATEGIC), ("merge", MERGE)])
def test_finalizers_are_written_through_the_status_and_the_spec_is_not(client: Client, name: str, kind: str) -> None:
    client.request("POST", SERVICES, service(name))
    at = "2026-01-01T00:00:00Z"
    ready = {"type": "Ready", "status": "True", "reason": "r", "message": "", "lastTransitionTime": at}
    body = {
        "metadata": {"finalizers": ["lbctl.io/aws"]},
        "spec": {"type": "ClusterIP"},
        "status": {"conditions": [ready]},
    }
    made = msgspec.json.decode(client.request("PATCH", f"{SERVICES}/{name}/status", body, kind))
    assert made["metadata"]["finalizers"] == ["lbctl.io/aws"]
    assert made["status"]["conditions"] == [ready]
    assert made["spec"]["type"] == "LoadBalancer"


def test_it_shows_the_certificate_that_it_names(server: ControlPlane) -> None:
    trusting = ssl.create_default_context(cafile=str(server.ca))
    with urllib.request.urlopen(f"{server.url}/readyz", timeout=10, context=trusting) as answer:
        assert answer.read() == b"ok"


def test_a_definition_brings_a_resource_with_its_rules(client: Client) -> None:
    client.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", POOLS)
    pool = {"apiVersion": "test.lbctl.io/v1", "kind": "Pool", "metadata": {"name": "one"}}
    eventually(lambda: b"pools" in client.get("/apis/test.lbctl.io/v1"))
    with pytest.raises(Invalid, match="size must be positive"):
        client.request("POST", "/apis/test.lbctl.io/v1/pools", {**pool, "spec": {"size": 0}})
    client.request("POST", "/apis/test.lbctl.io/v1/pools", {**pool, "spec": {"size": 1}})


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


def test_a_watch_counts_as_one_request(server: ControlPlane, client: Client) -> None:
    client.get(f"{SERVICES}?watch=1&timeoutSeconds=1")
    lines = [line for line in server.audit_log.read_text().splitlines() if "timeoutSeconds=1" in line]
    asked = controlplane.requests(server.audit_log, verbs=["watch"], resource="services")
    assert len(lines) == 2
    assert len([request for request in asked if "timeoutSeconds=1" in request.request_uri]) == 1


def test_paused_it_keeps_silent_and_resumed_it_goes_on(server: ControlPlane, client: Client) -> None:
    client.get(SERVICES)
    server.pause()
    try:
        with pytest.raises(Unavailable):
            client.request("GET", SERVICES, timeout=0.5)
    finally:
        server.resume()
    client.get(SERVICES)


def test_without_go_the_build_says_what_is_left_out_and_fails_in_ci_alone(tmp_path: Path) -> None:
    bare = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    build = [sys.executable, "-m", "lbctl.testing.controlplane", "build"]
    here = subprocess.run(build, env=bare, capture_output=True, text=True, check=False)
    in_ci = subprocess.run(build, env={**bare, "CI": "true"}, capture_output=True, text=True, check=False)
    assert (here.returncode, in_ci.returncode) == (0, 1)
    assert "realkube" in here.stdout
    assert "Go is not installed" in here.stdout


def test_a_restart_keeps_what_was_stored(server: ControlPlane) -> None:
    before = Client.from_config(str(server.kubeconfig))
    before.request("POST", SERVICES, service("kept"))
    before.close()
    server.restart()
    after = Client.from_config(str(server.kubeconfig))
    assert b'"kept"' in after.get(f"{SERVICES}/kept")
    after.close()


def test_while_it_is_down_nobody_else_gets_its_port(server: ControlPlane) -> None:
    server.stop()
    try:
        assert not listens(server.url)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", urlsplit(server.url).port))
    finally:
        server.start()


@pytest.mark.usefixtures("server")
def test_it_ends_though_whoever_started_it_was_killed_while_it_was_paused() -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    url, folder = killed.stdout.split()
    eventually(lambda: not listens(url) and not Path(folder).exists())


def test_assets_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    (tmp_path / "etcd").touch()
    assert "has no kube-apiserver" in controlplane.why_not_ours()
    with pytest.raises(controlplane.Missing, match="has no kube-apiserver"), ControlPlane():
        pass
