"""A lab with everything: real speakers on every node, a Kubernetes API that they reach, Services that have addresses.

The API is the caller's: a sandbox, or a real API server, on this machine's loopback. Every node reaches it at the same
127.0.0.1:PORT through a relay, so the way to the API can be cut (`api_gone`) while the nodes' network is whole.
"""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from lbctl_l2.lab.api import NODES, SERVICES, SLICES, Api, Manifest, endpoints, node, ready, service
from lbctl_l2.lab.rig import PORT, Instrument
from lbctl_l2.lab.stage import Stage

NAMESPACE = "default"
HTTP = 80
"""Where a Service is reached, if kube-proxy is there."""
EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
SPARE = 10
"""So many addresses of the pool are nobody's yet."""
SETTLE = 2.0
"""Seconds; by default a speaker takes 30, and a lab is watched by somebody who waits."""


def lbctl() -> str:
    """The lbctl of this Python."""
    return shutil.which("lbctl", path=str(Path(sys.executable).parent)) or "lbctl"


def bound(*words: str) -> list[str]:
    """A command line of lbctl that ends with this process, also when that is killed: setpriv(1), where it is."""
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig=TERM"] if setpriv else []), lbctl(), *words]


class Cluster(Stage):
    """`lbctl speaker` on every node, one Service for each address.

    flags    further flags of the speakers
    """

    def __init__(self, nodes: int, addresses: int, api: Api, *flags: str, proxied: bool = False) -> None:
        super().__init__(nodes, addresses, proxied=proxied)
        self.api, self._flags = api, flags
        self._relay: Instrument | None = None

    def begin(self) -> None:
        self._relay = self.lab.reach(self.api.port)
        for host in self.lab.nodes.values():
            self.api.put(NODES, node(host.name, str(host.address), str(host.address6)))
        for number, address in enumerate(self.addresses):
            self.serve(f"web-{number}", str(address))
        self.configure()
        self.start(*self.lab.nodes)
        self.holders()

    def serve(self, name: str, address: str = "") -> None:
        """A Service with a pod on every node."""
        pods = {str(host.address): host.name for host in self.lab.nodes.values()}
        self.api.put(SLICES.format(NAMESPACE), endpoints(name, PORT, pods))
        self.api.put(SERVICES.format(NAMESPACE), service(name, HTTP, PORT, address))

    def start(self, *chosen: str) -> None:
        """Start speakers; they are settled `SETTLE` seconds later."""
        for name in chosen:
            if name in self.speakers:
                self.speakers[name].kill()
            self.speakers[name] = self.lab.nodes[name].start(*self.command(name))

    def restart(self, *chosen: str) -> None:
        self.start(*chosen)

    def command(self, name: str) -> list[str]:
        """The command line of a node's speaker."""
        return [
            lbctl(), "speaker", f"--node-name={name}", f"--kubeconfig={self.api.kubeconfig}",
            f"--config={self.config}", f"--state-file={self.lab.folder / name}.state",
            f"--settle={SETTLE:g}", "--log-format=text", *self._flags,
        ]  # fmt: skip

    def configure(self) -> None:
        """Write lbctl's configuration: the addresses of this lab are its pool, and some more for whoever tries."""
        content = {
            "apiVersion": "lbctl.io/v1alpha1", "kind": "Config", "providers": ["l2"], "default_provider": "l2",
            "l2": {"addresses": f"{self.addresses[0]}-{self.addresses[-1] + SPARE}"},
        }  # fmt: skip
        self.config.write_text(json.dumps(content))

    @property
    def config(self) -> Path:
        """lbctl's configuration file."""
        return self.lab.folder / "lbctl.yaml"

    def proxy(self, binary: Path) -> None:
        """Start kube-proxy on every node, in nftables mode; `binary proxy` is its command."""
        for name, host in self.lab.nodes.items():
            # What kubelet expects of a host; the limits of connection tracking belong to the whole machine.
            host.namespace.sysctl({"ipv4/ip_forward": 1})
            command = (
                str(binary), "proxy", "--proxy-mode=nftables", f"--hostname-override={name}",
                f"--kubeconfig={self.api.kubeconfig}", "--cluster-cidr=10.244.0.0/16", "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
            )  # fmt: skip
            self.others.append(host.start(*command))

    def node_port(self, name: str) -> int:
        """The first NodePort of a Service."""
        found = self.api.get(f"{SERVICES.format(NAMESPACE)}/{name}")
        return int(found["spec"]["ports"][0]["nodePort"])

    # -- faults that Kubernetes tells of -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def api_gone(self) -> Iterator[None]:
        """The API server does not answer for a while, and no connection to it breaks."""
        assert self._relay is not None
        self._relay.pause()
        try:
            yield
        finally:
            self._relay.resume()

    def label(self, name: str, key: str, value: str | None) -> None:
        """Put a label on a node; None takes it away."""
        self.api.patch(f"{NODES}/{name}", {"metadata": {"labels": {key: value}}})

    def cordon(self, name: str, unschedulable: bool = True) -> None:
        self.api.patch(f"{NODES}/{name}", {"spec": {"unschedulable": unschedulable or None}})

    def say_ready(self, name: str, status: str) -> None:
        """What the API says of a node's health."""
        self.api.patch(f"{NODES}/{name}/status", {"status": {"conditions": [ready(status)]}})

    def lease(self, name: str) -> Manifest:
        """A speaker's Lease, wherever it keeps it; empty where it has none."""
        items: list[dict[str, Any]] = self.api.get("apis/coordination.k8s.io/v1/leases").get("items", [])
        return next((item for item in items if item["metadata"]["name"] == f"lbctl-speaker-{name}"), {})


class Whole(Cluster):
    """The same with the controller: it is who gives the Services their addresses."""

    def __init__(self, nodes: int, addresses: int, api: Api, *flags: str) -> None:
        super().__init__(nodes, addresses, api, *flags)
        self._controller: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        self.configure()
        self._controller = self._control()
        super().begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._controller:
            self._controller.terminate()
            self._controller.wait()
        super().__exit__(kind, error, trace)

    def serve(self, name: str, address: str = "") -> None:
        """Whatever address the controller chooses."""
        super().serve(name)

    def _control(self) -> "subprocess.Popen[bytes]":
        """Outside, where the API is."""
        command = bound(
            "run", f"--kubeconfig={self.api.kubeconfig}", f"--config={self.config}", "--listen=", "--log-format=text",
        )  # fmt: skip
        with (self.lab.folder / "controller.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
