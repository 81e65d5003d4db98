"""The few calls that a lab makes to its Kubernetes API: nodes, Services and what stands behind them.

The lab plays the part of everything that is not lbctl: kubelets, the endpoint controller, the person with kubectl. So
it speaks HTTP on its own, by the kubeconfig that everybody else gets, and uses nothing of lbctl's client.
"""

import base64
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from lbctl_l2.lab.namespaces import LabError

Manifest = dict[str, Any]
TIMEOUT = 10.0


class Api:
    """A Kubernetes API on this machine's loopback."""

    def __init__(self, kubeconfig: Path) -> None:
        said = yaml.safe_load(kubeconfig.read_text())
        cluster, user = said["clusters"][0]["cluster"], said["users"][0]["user"]
        self.kubeconfig, self._server, self._token = kubeconfig, cluster["server"], user.get("token", "")
        self._context = _trust(cluster) if self._server.startswith("https") else None

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return urllib.parse.urlsplit(self._server).port or 443

    def put(self, path: str, manifest: Manifest) -> None:
        """Create it, its status too; what is there already is left as it is. `path` is the collection's."""
        if self._call("POST", path, manifest, ignored=409) and "status" in manifest:
            name = manifest["metadata"]["name"]
            self.patch(f"{path}/{name}/status", {"status": manifest["status"]})

    def patch(self, path: str, change: Manifest) -> None:
        """A JSON merge patch (RFC 7386). What is not there cannot be patched."""
        self._call("PATCH", path, change, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Safe to repeat."""
        self._call("DELETE", path, ignored=404)

    def get(self, path: str) -> Manifest:
        """One object or list; an empty one where there is none."""
        return self._call("GET", path, ignored=404) or {}

    def _call(
        self, method: str, path: str, content: Manifest | None = None, kind: str = "application/json", ignored: int = 0
    ) -> Manifest | None:
        headers = {"Content-Type": kind, "Accept": "application/json", "Authorization": f"Bearer {self._token}"}
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self._server}/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT, context=self._context) as answer:
                found: Manifest = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            with error:
                if error.code == ignored:
                    return None
                said = error.read().decode(errors="replace")
            raise LabError(f"{method} {path}: {error.code}: {said[:500]}") from error
        except OSError as error:
            raise LabError(f"the Kubernetes API does not answer ({method} {path}): {error}") from error


def _trust(cluster: Manifest) -> ssl.SSLContext:
    """Only who shows the kubeconfig's certificate."""
    data = cluster.get("certificate-authority-data")
    return ssl.create_default_context(
        cafile=cluster.get("certificate-authority"), cadata=base64.b64decode(data).decode() if data else None
    )


# -- manifests -------------------------------------------------------------------------------------------------------

NODES, SERVICES = "api/v1/nodes", "api/v1/namespaces/{}/services"
SLICES = "apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"


def node(name: str, *addresses: str) -> Manifest:
    """A Node that is Ready."""
    internal = [{"type": "InternalIP", "address": address} for address in addresses]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "addresses": [*internal, {"type": "Hostname", "address": name}],
            "conditions": [ready("True")],
        },
    }


def ready(status: str) -> Manifest:
    """The condition Ready, as kubelet (True, False) or the node controller (Unknown) says it."""
    return {"type": "Ready", "status": status, "reason": "Lab", "message": "said by the lab"}


def service(name: str, port: int, target: int, address: str = "") -> Manifest:
    """A LoadBalancer Service of the class lbctl.io/l2; with an address, one that it has already."""
    ports = [{"name": "echo", "protocol": "TCP", "port": port, "targetPort": target}]
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "lbctl.io/l2", "ports": ports},
    }
    if address:
        manifest["status"] = {"loadBalancer": {"ingress": [{"ip": address}]}}
    return manifest


def endpoints(service: str, port: int, pods: dict[str, str]) -> Manifest:
    """The EndpointSlice of a Service: pod address → node."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{service}-lab", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "echo", "port": port, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": True}, "nodeName": node} for address, node in pods.items()
        ],
    }
