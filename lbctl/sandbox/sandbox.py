"""The embedded default: a Kubernetes API, nodes and the providers' stand-ins, in one process on loopback.

`lbctl sandbox` keeps one up, the demo and tests use one for a moment. Nothing outside this machine is ever spoken to;
state is in memory and goes with the process.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lbctl import plugins
from lbctl.errors import SettingsError
from lbctl.model import Node
from lbctl.sandbox.kube import KubeSandbox
from lbctl.testing.standin import Standin

NODES = 3


class Sandbox:
    """One small world. `start` before use, `stop` after.

    state   the folder for the kubeconfig and the configuration file, both readable by their owner only
    port    where the Kubernetes API listens; 0 for any free port
    lent    the folder is ours for as long as it is up: what was written there goes at the end, and an empty folder, too
    """

    def __init__(
        self, providers: Sequence[str], state: Path, *, port: int = 0, nodes: int = NODES, lent: bool = False
    ) -> None:
        self.providers, self.state, self._port, self._count = tuple(providers), state, port, nodes
        self._lent, self._written = lent, dict[Path, bytes]()
        self.kube = KubeSandbox()
        self.standins: dict[str, Standin] = {name: plugins.standin(name) for name in providers}
        self.kubeconfig = state / "kubeconfig"
        self.config = state / "lbctl.yaml"

    def start(self) -> None:
        """Begin everything, and write down how to reach it."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        for standin in self.standins.values():
            standin.start()
        self._listen()
        self.kube.seed([manifest(node) for node in self._nodes()])
        self.kube.kubeconfig(self.kubeconfig)
        self._write_config()
        self._written = {path: path.read_bytes() for path in (self.kubeconfig, self.config)}

    def _listen(self) -> None:
        try:
            self.kube.start(self._port)
        except OSError as error:
            place = f"127.0.0.1:{self._port} ({error.strerror})"
            raise SettingsError(f"nothing can listen on {place}: give another --port, or 0 for any") from error

    def stop(self) -> None:
        """End everything. Safe to repeat."""
        self.kube.stop()
        for standin in self.standins.values():
            standin.stop()
        if self._lent:
            self._sweep()

    def _sweep(self) -> None:
        """Remove what we wrote, if it is still that: another sandbox may have been started here since."""
        for path, content in self._written.items():
            if path.is_file() and path.read_bytes() == content:
                path.unlink()
        if self.state.is_dir() and not any(self.state.iterdir()):
            self.state.rmdir()

    def settings(self, provider: str) -> Mapping[str, str]:
        """What the provider has to be told to reach its stand-in."""
        return self.standins[provider].settings

    def _nodes(self) -> Sequence[Node]:
        """The first cloud's instances are the cluster's nodes; a cluster lives in one cloud."""
        first = next(iter(self.standins.values()))
        return first.nodes(self._count)

    def _write_config(self) -> None:
        content: dict[str, Any] = {
            "apiVersion": "lbctl.io/v1alpha1",
            "kind": "Config",
            "kubeconfig": str(self.kubeconfig.resolve()),
            "default_provider": self.providers[0],
            "providers": list(self.providers),
            **{name: dict(standin.settings) for name, standin in self.standins.items()},
        }
        self.config.touch(mode=0o600)
        # JSON is YAML, and needs no library to write.
        self.config.write_text(json.dumps(content, indent=2) + "\n")


def manifest(node: Node) -> dict[str, Any]:
    """The Kubernetes object that such a node would have."""
    addresses = [{"type": "InternalIP", "address": str(address)} for address in node.addresses]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name, **node.labels}},
        "spec": {"providerID": node.provider_id} if node.provider_id else {},
        "status": {
            "addresses": [*addresses, {"type": "Hostname", "address": node.name}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "nodeInfo": {"kubeletVersion": "v1.34.4"},
        },
    }


def endpoint_slice(namespace: str, service: str, nodes: Sequence[Node], port: int) -> dict[str, Any]:
    """The EndpointSlice of a Service with one ready pod on each node."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-1",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": port, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [f"10.244.{number}.10"], "conditions": {"ready": True}, "nodeName": node.name}
            for number, node in enumerate(nodes, start=1)
        ],
    }
