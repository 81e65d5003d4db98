"""The command line in this process and as a process, and a sandbox of memory for it to work on."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from lbctl.cli import outcome
from lbctl.kube.client import Client
from lbctl.sandbox.sandbox import Sandbox

SERVICES = "/api/v1/namespaces/default/services"


class Ran(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


Lbctl = Callable[..., Ran]


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """The command line sets up logging for its process: here that is everybody's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration, no kubeconfig, nobody's environment, a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("LBCTL_", "KUBE", "AWS_", "GITHUB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def lbctl(capsys: pytest.CaptureFixture[str]) -> Lbctl:
    """Run one command in this process."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = outcome([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def process() -> Lbctl:
    """Run one command as a process of its own."""

    def run(*arguments: object, stdin: str = "", env: Mapping[str, str] | None = None) -> Ran:
        command = [sys.executable, "-c", "from lbctl.cli import main; main()", *map(str, arguments)]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})},
            check=False,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


class World:
    """A sandbox with the dict for a cloud, and the words to change it."""

    def __init__(self, state: Path) -> None:
        self.sandbox = Sandbox(["memory"], state)
        self.sandbox.start()
        self.client = Client.from_config(str(self.sandbox.kubeconfig), component="test")

    def put(self, name: str = "web", **spec: Any) -> None:
        """Make a Service of type LoadBalancer."""
        annotations = spec.pop("annotations", {})
        body = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "annotations": annotations, "labels": {"app": name}},
            "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": 80}], **spec},
        }
        self.client.request("POST", SERVICES, body)

    def remove(self, name: str) -> None:
        self.client.request("DELETE", f"{SERVICES}/{name}")

    def address(self, name: str = "web") -> str:
        found = msgspec.json.decode(self.client.get(f"{SERVICES}/{name}"))
        ingress = found["status"].get("loadBalancer", {}).get("ingress") or [{}]
        return str(ingress[0].get("ip", ""))

    @property
    def cloud(self) -> Any:
        return self.sandbox.standins["memory"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A running sandbox that the environment points to."""
    made = World(tmp_path / ".lbctl")
    monkeypatch.setenv("LBCTL_CONFIG", str(made.sandbox.config))
    yield made
    made.client.close()
    made.sandbox.stop()


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Write a file with Services of memory's class (and whatever else is given)."""

    def write(*names: str, more: str = "", node_port: int = 0, name: str = "services.yaml") -> Path:
        ports = f"[{{port: 80{f', nodePort: {node_port}' if node_port else ''}}}]"
        services = (
            f"apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, labels: {{app: {service}}}}}\n"
            f"spec: {{type: LoadBalancer, loadBalancerClass: lbctl.io/memory, ports: {ports}}}\n"
            for service in names
        )
        path = tmp_path / name
        path.write_text("---\n".join([*services, more]))
        return path

    return write
