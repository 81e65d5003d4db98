"""One sandbox per test, a client that hides nothing of HTTP, and the real kubectl where there is one."""

import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import pytest

from lbctl.sandbox.kube import KubeSandbox

JSON = "application/json"
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
SERVICES = "/api/v1/namespaces/default/services"


class Answer(NamedTuple):
    """What came back: the status, the document, the headers."""

    code: int
    body: Any
    headers: Mapping[str, str]

    @property
    def causes(self) -> dict[str, str]:
        """What is wrong, by field."""
        return {cause["field"]: cause["message"] for cause in self.body["details"]["causes"]}


class Raw:
    """HTTP as it is. Every call has a connection of its own and ten seconds."""

    def __init__(self, sandbox: KubeSandbox) -> None:
        self.netloc, self.token = urlsplit(sandbox.url).netloc, sandbox.token

    def send(self, method: str, path: str, body: object = None, media: str = JSON, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.netloc, timeout=10)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": media} | headers
        connection.request(method, path, data, {name.replace("_", "-"): text for name, text in sent.items()})
        response = connection.getresponse()
        raw = response.read()
        connection.close()
        readable = response.headers.get_content_type() == JSON
        return Answer(response.status, json.loads(raw) if readable else raw.decode(), dict(response.headers))

    def get(self, path: str, **query: str) -> Answer:
        return self.send("GET", f"{path}?{urlencode(query)}")

    def post(self, path: str, body: object, **query: str) -> Answer:
        return self.send("POST", f"{path}?{urlencode(query)}", body)

    def put(self, path: str, body: object, **query: str) -> Answer:
        return self.send("PUT", f"{path}?{urlencode(query)}", body)

    def patch(self, path: str, body: object, media: str = STRATEGIC, **query: str) -> Answer:
        return self.send("PATCH", f"{path}?{urlencode(query)}", body, media)

    def delete(self, path: str, body: object = None, **query: str) -> Answer:
        return self.send("DELETE", f"{path}?{urlencode(query)}", body)

    def watch(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """The events of a watch as they come, until the server ends it."""
        connection = http.client.HTTPConnection(self.netloc, timeout=10)
        target = f"{path}?{urlencode({'watch': 'true', **query})}"
        connection.request("GET", target, headers={"Authorization": f"Bearer {self.token}"})
        response = connection.getresponse()
        assert response.status == 200, response.read()

        def events() -> Iterator[dict[str, Any]]:
            try:
                while line := response.readline():
                    yield json.loads(line)
            finally:
                connection.close()

        return events()


def service(name: str = "web", **spec: Any) -> dict[str, Any]:
    """A Service of type LoadBalancer with one port, unless the spec says otherwise."""
    full = {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": 80}]} | spec
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": full}


@pytest.fixture
def sandbox() -> Iterator[KubeSandbox]:
    with KubeSandbox(bookmark_seconds=0.1) as running:
        yield running


@pytest.fixture
def raw(sandbox: KubeSandbox) -> Raw:
    return Raw(sandbox)


@pytest.fixture
def make(raw: Raw) -> Callable[..., dict[str, Any]]:
    """Create a Service in `default`; as it is stored."""

    def create(name: str = "web", **spec: Any) -> dict[str, Any]:
        answer = raw.post(SERVICES, service(name, **spec))
        assert answer.code == 201, answer.body
        created: dict[str, Any] = answer.body
        return created

    return create


@pytest.fixture
def kubectl(sandbox: KubeSandbox, tmp_path: Path) -> Callable[..., str]:
    """Run the real kubectl; what it said on both streams. `code` is what it must exit with, `stdin` what it reads."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not on PATH: install it to run these")
    config = sandbox.kubeconfig(tmp_path / "kubeconfig")
    environ = os.environ | {"KUBECONFIG": str(config), "KUBECACHEDIR": str(tmp_path / "cache")}

    def run(*words: str, stdin: str = "", code: int = 0, **more: str) -> str:
        done = subprocess.run(
            ["kubectl", *words],
            input=stdin,
            env=environ | more,
            text=True,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run
