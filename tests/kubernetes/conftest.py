"""Two Kubernetes to test on, the sandbox and the real API server, behind one fixture: where they differ, the sandbox is
wrong. Each test has a namespace of its own, so both are started once per test process.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import yaml

from lbctl.kube import objects, source
from lbctl.kube.claims import Claims
from lbctl.kube.client import JSON, MERGE, Client, NotFound
from lbctl.kube.reflector import Reflector
from lbctl.kube.status import Statuses
from lbctl.memory import CLOUDS, MemoryCloud, MemoryProvider
from lbctl.plan import Plan
from lbctl.policy import Limits, Policy
from lbctl.provider import Harness
from lbctl.reconcile import Reconciler
from lbctl.stack import Stack
from lbctl.testing import controlplane
from lbctl.wanted import Wanted


class Kube:
    """One API server, a namespace of the test's own in it, and the few things that a user does there."""

    def __init__(self, flavour: str, kubeconfig: Path, folder: Path) -> None:
        self.flavour, self.kubeconfig, self.folder = flavour, kubeconfig, folder
        self.client = Client.from_config(str(kubeconfig), component="test")
        self.namespace = f"t-{uuid.uuid4().hex[:10]}"
        self.post("/api/v1/namespaces", {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": self.namespace}})

    def post(self, path: str, body: object) -> dict[str, Any]:
        return msgspec.json.decode(self.client.request("POST", path, body))

    @staticmethod
    def overhear(client: Client, heard: Callable[[str, str], None]) -> None:
        """Hear of every request that this client sends: its method and its path (without a query), on the wire."""
        wire, one, many = client._wire, client._wire.send, client._wire.send_all

        def send(method: str, path: str, *rest: Any) -> Any:
            heard(method, path.partition("?")[0])
            return one(method, path, *rest)

        def told(questions: Iterator[Any]) -> Iterator[Any]:
            for question in questions:
                if question is not None:
                    heard(question.method, question.path.partition("?")[0])
                yield question

        def send_all(questions: Iterator[Any], *rest: Any) -> Any:
            return many(told(questions), *rest)

        wire.send, wire.send_all = send, send_all  # type: ignore[method-assign]

    def path(self, plural: str, name: str = "", sub: str = "") -> str:
        parts = [f"/api/v1/namespaces/{self.namespace}/{plural}", name, sub]
        return "/".join(part for part in parts if part)

    def service(self, name: str = "web", **spec: Any) -> dict[str, Any]:
        """Create a Service of ours."""
        wish = {
            "type": "LoadBalancer",
            "loadBalancerClass": "lbctl.io/memory",
            "ports": [{"port": 80, "name": "http"}],
            "selector": {"app": name},
        }
        wanted = {k: v for k, v in {**wish, **spec}.items() if v is not None}
        body = {"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}, "spec": wanted}
        return self.post(self.path("services"), body)

    def get(self, name: str = "web", plural: str = "services") -> dict[str, Any] | None:
        try:
            return msgspec.json.decode(self.client.get(self.path(plural, name)))
        except NotFound:
            return None

    def patch(self, body: object, name: str = "web", sub: str = "", kind: str = MERGE) -> dict[str, Any]:
        return msgspec.json.decode(self.client.request("PATCH", self.path("services", name, sub), body, kind))

    def delete(self, name: str = "web", plural: str = "services") -> None:
        self.client.request("DELETE", self.path(plural, name), None, JSON)

    def events(self, reason: str) -> list[dict[str, Any]]:
        """What was told for this reason. (The API server tells things of its own.)"""
        found = msgspec.json.decode(self.client.get(self.path("events")))["items"]
        return [event for event in found if event["reason"] == reason]

    def finalizers(self, name: str = "web") -> list[str]:
        service = self.get(name)
        assert service is not None
        return service["metadata"].get("finalizers", [])

    def ingress(self, name: str = "web") -> list[dict[str, Any]]:
        service = self.get(name)
        assert service is not None
        return service["status"]["loadBalancer"].get("ingress", [])

    def condition(self, kind: str, name: str = "web") -> dict[str, Any] | None:
        service = self.get(name)
        assert service is not None
        return {c["type"]: c for c in service["status"].get("conditions", [])}.get(kind)

    def behind(self, wire: "Wire") -> Client:
        """A client whose every byte goes through the wire."""
        config = yaml.safe_load(self.kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        server = urlsplit(cluster["server"])
        cluster["server"] = server._replace(netloc=f"{server.hostname}:{wire.port}").geturl()
        path = self.folder / "behind-a-wire"
        path.write_text(yaml.safe_dump(config))
        return Client.from_config(str(path), component="test")

    def wire(self) -> "Wire":
        server = urlsplit(self.client.server)
        return Wire((str(server.hostname), int(server.port or 443)))


class Stage:
    """A stack over the reference provider at work on the test's namespace, one look at a time.

    Its nodes are put in by hand: those of the cluster belong to all tests.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        default: str | None = None,
        claims: bool = True,
        guard: bool = False,
        client: Client | None = None,
    ) -> None:
        self.kube = kube
        self.client = client or Client.from_config(str(kube.kubeconfig), component="stage")
        self.stores = source.stores()
        self.cloud = CLOUDS[kube.namespace] = MemoryCloud()
        self.provider = MemoryProvider(Harness({"cloud": kube.namespace, "drain": "0"}, "test", now=_now))
        self.source = source.StoreSource(self.stores, provider="memory", default_provider=default)
        services = self.stores.services
        self.claims = Claims(self.client, services, "memory", claims, default_provider=default)
        self.status = Statuses(self.client, services, "memory", default_provider=default, guard=guard)
        stack = Stack(self.provider, self.claims, self.status)
        self.path = Reconciler(stack, Wanted(self.provider.shares), Policy(limits=Limits(let_through=True)), now=_now)
        self.reflectors = [
            Reflector(self.client, objects.SERVICES, services, namespace=kube.namespace),
            Reflector(self.client, objects.SLICES, self.stores.slices, namespace=kube.namespace),
        ]
        for reflector in self.reflectors:
            reflector.start()
            assert reflector.synced.wait(20)
        self.nodes("n1", "n2")

    def nodes(self, *names: str) -> None:
        """These are the nodes now."""
        version = str(len(names) + int(self.stores.nodes.version or 0) + 1)
        made = [_node(name, version, f"10.0.0.{n}") for n, name in enumerate(names, 1)]
        self.stores.nodes.replace(made, version)
        self.source.forget_nodes()

    def plan(self) -> Plan:
        """What has to change, for what the stores know now."""
        known = set(self.source.owners())
        for owner in known | set(self.path.wanted.by_owner):
            read = self.source.read(owner)
            self.path.wanted.put(read) if read is not None else self.path.wanted.remove(owner)
        return self.path.plan()

    def settle(self, name: str = "web") -> Plan:
        """Hear what the API server has to say of the Service, then look and apply until nothing is left to do."""
        self.catch_up(name)
        for _ in range(20):
            plan = self.plan()
            if plan.empty:
                return plan
            self.path.apply(plan, 20)
        raise AssertionError(plan.changes)

    def catch_up(self, name: str = "web") -> None:
        """Wait until the store is where the API server is."""
        key = f"{self.kube.namespace}/{name}"

        def there() -> bool:
            live, known = self.kube.get(name), self.stores.services.get(key)
            if live is None or known is None:
                return live is None and known is None
            return live["metadata"]["resourceVersion"] == known.metadata.resource_version

        eventually(there)

    def things(self) -> set[str]:
        """What is in the cloud."""
        return {thing.kind for kind in ("rule", "address", "listener") for thing in self.cloud.list(kind)}

    def close(self) -> None:
        for reflector in self.reflectors:
            reflector.stop()
        self.path.lanes.close(5)
        self.client.close()


def _node(name: str, version: str, address: str) -> objects.Node:
    status = objects.NodeStatus((objects.NodeAddress("InternalIP", address),))
    return objects.Node(objects.Metadata(name, resource_version=version), status=status)


class Wire:
    """A TCP connection to the API server that can be cut and mended. `lines` counts the connections made."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener: socket.socket | None = None
        self._pairs: list[socket.socket] = []
        self.lines = 0
        self.port = 0
        self.mend()

    def mend(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self, *, refuse: bool = True) -> None:
        """Break every connection; with `refuse`, let no new one in."""
        if refuse and self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        pairs, self._pairs = self._pairs, []
        for end in pairs:
            with_linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, with_linger)
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
            finally:
                end.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self.lines += 1
            self._pairs += [near, far]
            for ends in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=ends, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


def eventually(true: Callable[[], Any], timeout: float = 20.0) -> Any:
    """What the question answers, as soon as it is true."""
    until = time.monotonic() + timeout
    while not (answer := true()):
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.02)
    return answer


def _now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Any]:
    """The embedded API server, with its faults."""
    from lbctl.sandbox.kube import KubeSandbox

    server = KubeSandbox()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _sandbox_config(sandbox: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sandbox-config") / "kubeconfig"
    sandbox.kubeconfig(path)
    return path


@pytest.fixture(scope="session")
def _real_config() -> Iterator[Path]:
    """The real API server. Where it cannot be had its tests are left out, in CI they fail."""
    if given := os.environ.get("LBCTL_TEST_KUBECONFIG"):
        yield Path(given)
        return
    if missing := _why_missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    with controlplane.ControlPlane() as server:
        yield server.kubeconfig


def _why_missing() -> str:
    """A build takes minutes: `make test` does it beforehand, no test waits for it."""
    folder = controlplane.source()
    built = os.environ.get("KUBEBUILDER_ASSETS") or (folder and controlplane._place(folder).is_file())
    way = "the control plane is not built yet: run python -m lbctl.testing.controlplane build"
    return controlplane.why_missing() or ("" if built else way)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The control plane's certificate is its own: a kubeconfig may say that it need not be verified."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:Unverified HTTPS request"))


@pytest.fixture(params=["sandbox", pytest.param("real", marks=pytest.mark.realkube)])
def kube(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kube]:
    """An API server with a namespace of the test's own."""
    config = request.getfixturevalue(f"_{request.param}_config")
    made = Kube(request.param, config, tmp_path)
    yield made
    made.client.close()


@pytest.fixture
def sandbox_kube(_sandbox_config: Path, tmp_path: Path) -> Iterator[Kube]:
    """The sandbox alone: for what only it can be asked to do."""
    made = Kube("sandbox", _sandbox_config, tmp_path)
    yield made
    made.client.close()


@pytest.fixture
def real_kube(_real_config: Path, tmp_path: Path) -> Iterator[Kube]:
    """The real API server alone: for what the sandbox does not have."""
    made = Kube("real", _real_config, tmp_path)
    yield made
    made.client.close()


@pytest.fixture
def stage(kube: Kube) -> Iterator[Stage]:
    """A stack at work on the namespace."""
    made = Stage(kube)
    yield made
    made.close()


@pytest.fixture
def make_stage(kube: Kube) -> Iterator[Callable[..., Stage]]:
    """The same, made as the test wants it."""
    made: list[Stage] = []

    def make(**options: Any) -> Stage:
        made.append(Stage(kube, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def wait() -> Callable[..., Any]:
    """`wait(question)`: its answer, as soon as it is true."""
    return eventually
