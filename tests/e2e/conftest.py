"""The real controller, as `lbctl run` puts it together, between the sandbox's Kubernetes API and a stand-in cloud."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from lbctl import plugins
from lbctl.controller import Timing
from lbctl.daemon import Cluster, Daemon, Desk, Options, utcnow
from lbctl.kube.client import Client
from lbctl.kube.events import Recorder
from lbctl.provider import Call, Harness
from lbctl.sandbox.sandbox import Sandbox

PATIENCE = 60.0


class House:
    """One running controller, and what a user can do and see."""

    def __init__(self, provider: str, folder: Path) -> None:
        self.provider = provider
        self.sandbox = Sandbox([provider], folder)
        self.sandbox.start()
        self.standin: Any = self.sandbox.standins[provider]
        self.client = Client.from_config(str(self.sandbox.kubeconfig), component="user")
        self.calls: Counter[str] = Counter()
        self.fault: Callable[[Call], None] = lambda _call: None
        self._counting = threading.Lock()
        self.desk: Desk
        self.start()

    def start(self) -> None:
        """Begin (again) to control."""
        client = Client.from_config(str(self.sandbox.kubeconfig), component="controller")
        cluster, recorder = Cluster(client), Recorder(client)
        self._daemon = Daemon(cluster, recorder)
        harness = Harness(self.sandbox.settings(self.provider), cluster.identity(), now=utcnow, on_call=self._called)
        options = Options(default_provider=self.provider, timing=Timing(backoff=0.2, settle=0.2))
        plugin = plugins.plugin(self.provider)
        self.desk = Desk(plugin, harness, cluster, options, recorder=recorder)
        self._daemon.desks.append(self.desk)
        self._thread = threading.Thread(target=self._daemon.run, daemon=True)
        self._thread.start()
        self.until(self.desk.at_rest)

    def stop(self) -> None:
        self._daemon.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop()
        self.client.close()
        self.sandbox.stop()

    def apply(self, text: str) -> list[tuple[str, str]]:
        """Create the manifests, each in its namespace. Their (namespace, name)."""
        made = []
        for document in yaml.safe_load_all(text):
            namespace = document["metadata"].get("namespace", "default")
            if namespace not in ("default", "kube-system") and self.get(f"/api/v1/namespaces/{namespace}") is None:
                self.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            self.client.request("POST", f"/api/v1/namespaces/{namespace}/services", document)
            made.append((namespace, document["metadata"]["name"]))
        return made

    def get(self, path: str) -> dict[str, Any] | None:
        from lbctl.kube.client import NotFound
        try:
            found: dict[str, Any] = msgspec.json.decode(self.client.get(path))
        except NotFound:
            return None
        return found

    def service(self, name: str = "web", namespace: str = "default") -> dict[str, Any]:
        return self.get(f"/api/v1/namespaces/{namespace}/services/{name}") or {}

    def patch(self, body: object, name: str = "web") -> None:
        path = f"/api/v1/namespaces/default/services/{name}"
        self.client.request("PATCH", path, body, "application/merge-patch+json")

    def delete(self, name: str = "web", namespace: str = "default") -> None:
        self.client.request("DELETE", f"/api/v1/namespaces/{namespace}/services/{name}")

    def address(self, name: str = "web", namespace: str = "default") -> str:
        ingress = self.service(name, namespace).get("status", {}).get("loadBalancer", {}).get("ingress") or [{}]
        return str(ingress[0].get("hostname") or ingress[0].get("ip") or "")

    def condition(self, kind: str, name: str = "web", namespace: str = "default") -> dict[str, str]:
        conditions = self.service(name, namespace).get("status", {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == f"lbctl.io/{kind}"), {})

    def events(self, name: str = "web") -> list[str]:
        found = self.get("/api/v1/namespaces/default/events") or {"items": []}
        return [e["reason"] for e in found["items"] if e["involvedObject"]["name"] == name]

    def until(self, true: Callable[[], Any]) -> Any:
        for _ in range(int(PATIENCE / 0.02)):
            if found := true():
                return found
            threading.Event().wait(0.02)
        raise AssertionError("it never came true")

    def rest(self) -> None:
        """Until nothing is left to do."""
        threading.Event().wait(0.3)
        self.until(self.desk.at_rest)

    def _called(self, call: Call) -> None:
        if call.code is not None:
            with self._counting:
                self.calls[call.operation] += 1
        self.fault(call)


@pytest.fixture(params=["memory", "aws"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    made = House(request.param, tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def aws_house(tmp_path: Path) -> Iterator[House]:
    made = House("aws", tmp_path / "state")
    yield made
    made.close()
