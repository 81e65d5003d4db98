"""The thread around the server: what tests, the demo and `lbctl sandbox` start, seed, break and stop."""

import asyncio
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import yaml

from lbctl.sandbox.kube.faults import Fault, Faults, Recorded
from lbctl.sandbox.kube.kinds import Object
from lbctl.sandbox.kube.verbs import Api

if TYPE_CHECKING:
    from lbctl.sandbox.kube.server import Server

T = TypeVar("T")

_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_RECORDED = 100_000


class KubeSandbox:
    """A small Kubernetes API on loopback, in a thread of its own. Any thread may use it; it is a context manager.

    with KubeSandbox() as sandbox:
        sandbox.seed([node])
        subprocess.run(["kubectl", "--kubeconfig", sandbox.kubeconfig(path), "get", "nodes"])
        sandbox.faults.inject(Fault(effect="conflict", count=3))
    """

    def __init__(
        self,
        *,
        node_port_range: tuple[int, int] = (30000, 32767),
        clock: Callable[[], float] = time.time,
        token: str | None = None,
        bookmark_seconds: float = 60.0,
    ) -> None:
        """`clock` says Unix seconds: creation timestamps and ages come from it."""
        self.token = token or secrets.token_urlsafe(24)
        self.faults = Faults(time.monotonic)
        self.requests: deque[Recorded] = deque(maxlen=_RECORDED)
        """The newest requests, health and discovery included; clear it to count from here."""
        self._clock, self._bookmark_seconds = clock, bookmark_seconds
        self._api = Api(clock=clock, node_ports=node_port_range, may=self.faults.denies)
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: Server | None = None
        self._stopping: asyncio.Event | None = None
        self.seed(_first_objects())

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`; the port is known once it is started."""
        return f"http://127.0.0.1:{self._port}"

    def start(self, port: int = 0) -> None:
        """Listen; returns when it answers. Raises `OSError` when the port is taken."""
        started = _Promise()
        self._thread = threading.Thread(target=self._run, args=(port, started), name="kube-sandbox", daemon=True)
        self._thread.start()
        try:
            self._port = started.get()
        except OSError:
            # Its loop ends by itself: there is nothing left to stop.
            self._thread.join()
            self._thread = self._loop = None
            raise
        self.faults.changed = self._act

    def stop(self) -> None:
        """Close every connection and end the thread. Safe to repeat."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None and self._stopping is not None:
            self.faults.changed = lambda _: None
            self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join()
            self._loop = None

    def __enter__(self) -> "KubeSandbox":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def seed(self, objects: Iterable[Object]) -> list[Object]:
        """Put these objects directly, status included; what is left out gets its default. As they are stored now.

        Raises `Refusal` for what the API would refuse.
        """
        wanted = list(objects)
        return self._in_loop(lambda: [self._api.seed(obj).copy() for obj in wanted])

    def object(self, resource: str, name: str, namespace: str = "") -> Object | None:
        """A copy of one object, without a request: `sandbox.object("services", "web", "default")`."""

        def read() -> Object | None:
            entry = self._api.store.get(resource, (namespace, name))
            return entry.copy() if entry else None

        return self._in_loop(read)

    def kubeconfig(self, path: str | Path) -> Path:
        """Write one that leads here, readable by its owner only."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            os.fchmod(file.fileno(), 0o600)
            yaml.safe_dump(self._kubeconfig(), file, sort_keys=False)
        return target

    def _kubeconfig(self) -> Object:
        name = "lbctl-sandbox"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            # kubectl sends bearer tokens over TLS only; here the first part of the path stands for one.
            "clusters": [{"name": name, "cluster": {"server": f"{self.url}/{self.token}"}}],
            "users": [{"name": name, "user": {"token": self.token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
            "current-context": name,
        }

    # The thread.

    def _run(self, port: int, started: "_Promise") -> None:
        asyncio.run(self._main(port, started))

    async def _main(self, port: int, started: "_Promise") -> None:
        from lbctl.sandbox.kube.server import Server

        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._server = Server(
            self._api, self.faults, token=self.token, requests=self.requests, now=self._clock,
            bookmark_seconds=self._bookmark_seconds,
        )  # fmt: skip
        try:
            started.set(await self._server.start(port))
        except OSError as taken:
            started.fail(taken)
            return
        await self._stopping.wait()
        await self._server.stop()

    def _in_loop(self, work: Callable[[], T]) -> T:
        """The store belongs to the loop's thread; before `start` and after `stop` to whoever calls."""
        loop = self._loop
        if loop is None or self._thread is None or threading.current_thread() is self._thread:
            return work()

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), loop).result()

    def _act(self, fault: Fault | None) -> None:
        loop, server = self._loop, self._server
        if loop is None or server is None:
            return
        done = asyncio.run_coroutine_threadsafe(server.act(fault), loop)
        if threading.current_thread() is not self._thread:
            done.result()


class _Promise:
    """A value that another thread will have, or an error."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._value = 0
        self._error: OSError | None = None

    def set(self, value: int) -> None:
        self._value = value
        self._ready.set()

    def fail(self, error: OSError) -> None:
        self._error = error
        self._ready.set()

    def get(self) -> int:
        self._ready.wait()
        if self._error:
            raise self._error
        return self._value


def _first_objects() -> list[Object]:
    """What a new cluster has."""
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in _NAMESPACES]
    labels = {"component": "apiserver", "provider": "kubernetes"}
    ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]
    api: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {"clusterIP": "10.96.0.1", "ports": ports},
    }
    return [*spaces, api]
