"""Who may come in, and what is refused at the door."""

import socket
import stat
from pathlib import Path

import pytest
import yaml

from lbctl.sandbox.kube import KubeSandbox

SERVICES = "/api/v1/namespaces/default/services"


@pytest.mark.parametrize("given", ["", "Bearer wrong", "Basic abc"])
def test_without_the_token_nobody_comes_in(raw, given: str):
    answer = raw.send("GET", SERVICES, Authorization=given)

    assert (answer.code, answer.body["reason"]) == (401, "Unauthorized")


def test_the_token_may_stand_in_the_path(raw):
    assert raw.send("GET", f"/{raw.token}{SERVICES}", Authorization="").code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/version"])
def test_health_and_version_are_for_everybody(raw, path: str):
    assert raw.send("GET", path, Authorization="").code == 200


def test_the_version_is_a_recent_one(raw):
    assert raw.get("/version").body["minor"] == "34"


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:80", "127.0.0.1.evil.example.com"])
def test_other_names_than_loopback_are_turned_away(raw, host: str):
    assert raw.send("GET", SERVICES, Host=host).code == 403


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80"])
def test_every_name_of_loopback_is_welcome(raw, host: str):
    assert raw.send("GET", SERVICES, Host=host).code == 200


def test_protobuf_is_refused_with_a_way_out(raw):
    answer = raw.send("POST", SERVICES, b"k8s\0", "application/vnd.kubernetes.protobuf")

    assert (answer.code, answer.body["reason"]) == (415, "UnsupportedMediaType")
    assert "use kubectl apply -f or kubectl expose" in answer.body["message"]


def test_who_accepts_protobuf_only_is_told(raw):
    assert raw.send("GET", SERVICES, Accept="application/vnd.kubernetes.protobuf").code == 406


def test_yaml_is_read(raw):
    manifest = yaml.safe_dump({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 1}]}}).encode()

    assert raw.send("POST", SERVICES, manifest, "application/yaml").code == 201


@pytest.mark.parametrize("body", [b"{", b"[]", b"", b"null"])
def test_what_is_no_object_is_refused(raw, body: bytes):
    assert raw.send("POST", SERVICES, body).code == 400


def test_too_large_is_refused(raw):
    answer = raw.post(SERVICES, {"metadata": {"name": "a", "annotations": {"a": "x" * 4_000_000}}})

    assert (answer.code, answer.body["reason"]) == (413, "RequestEntityTooLarge")


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/apis/apps/v1/deployments", 404),
        ("GET", "/nowhere", 404),
        ("GET", f"{SERVICES}/web/proxy", 404),
        ("GET", "/api/v1/namespaces/default/pods/a/log", 404),
        ("POST", "/api/v1/namespaces/default/pods/a/exec", 404),
        ("POST", "/api/v1/services", 405),
        ("POST", f"{SERVICES}/web", 405),
        ("PUT", SERVICES, 405),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 405),
        ("POST", "/apis", 405),
    ],
)
def test_what_is_not_there_is_said_as_the_api_says_it(raw, method: str, path: str, code: int):
    answer = raw.send(method, path, {} if method != "GET" else None)

    assert (answer.code, answer.body["kind"]) == (code, "Status")


def test_the_kind_of_the_body_must_be_the_one_of_the_path(raw):
    answer = raw.post(SERVICES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})

    assert (answer.code, answer.body["reason"]) == (400, "BadRequest")


def test_the_kubeconfig_is_for_its_owner_only(sandbox: KubeSandbox, tmp_path: Path):
    path = sandbox.kubeconfig(tmp_path / "deep" / "kubeconfig")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_stopping_is_safe_to_repeat_and_frees_the_port():
    first = KubeSandbox()
    first.start()
    port = int(first.url.rpartition(":")[2])
    first.stop()
    first.stop()

    second = KubeSandbox()
    second.start(port)
    second.stop()


def test_a_taken_port_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        KubeSandbox().start(other.getsockname()[1])


def test_seeded_objects_are_there_with_their_status(raw, sandbox: KubeSandbox):
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": {"phase": "x"}}
    lb = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
          "spec": {"type": "LoadBalancer", "ports": [{"port": 1}]},
          "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}  # fmt: skip

    sandbox.seed([node, lb])

    assert raw.get("/api/v1/nodes/n1").body["status"]["phase"] == "x"
    assert raw.get(f"{SERVICES}/a").body["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.1"
    stored = sandbox.object("services", "a", "default")
    assert stored == raw.get(f"{SERVICES}/a").body
