"""Where Services come from: a cluster, files alone, or files over a cluster.

Files alone are a preview: nothing is written to Kubernetes, and a cloud is read only if --cluster-id says whose
resources are ours. Files over a cluster say what would change if they were applied.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from lbctl.cli.options import selector
from lbctl.daemon import Cluster
from lbctl.kube import files as manifests
from lbctl.kube import objects
from lbctl.kube.source import Stores, stores

if TYPE_CHECKING:
    from lbctl.cli.session import Session


class Inputs(msgspec.Struct):
    """Services and Nodes, and where they come from. `cluster` is None for files alone."""

    stores: Stores
    source: str
    cluster: Cluster | None = None
    read: manifests.Files | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(map(str, self.read.problems)) if self.read else ()

    def close(self) -> None:
        """Stop watching the cluster."""
        if self.cluster is not None:
            self.cluster.stop()


def inputs(session: "Session", paths: Sequence[str]) -> Inputs:
    """Files, a cluster, or files over a cluster (if one was named by flag, environment or configuration file)."""
    found = manifests.load(paths) if paths else None
    if found is not None and not (session.config.kubeconfig or session.config.context):
        return _offline(found)
    cluster = Cluster(session.client())
    cluster.watch(patient=False)
    if found is None:
        return Inputs(cluster.stores, _host(cluster.client.server), cluster)
    cluster.stop()
    return Inputs(_over(cluster.stores, found), f"files over {_host(cluster.client.server)}", cluster, found)


def _host(server: str) -> str:
    """The API server without what may be a secret in its address (a path, a password)."""
    parts = urlsplit(server)
    return f"{parts.hostname or server}{f':{parts.port}' if parts.port else ''}"


def _offline(found: manifests.Files) -> Inputs:
    unknown = "nodePorts that the files do not say are known after apply"
    nodes = () if found.nodes else ("no Node stands in the files: load balancers are planned without targets",)
    return Inputs(found.stores(), "files alone", None, found, (unknown, *nodes))


def _over(live: Stores, found: manifests.Files) -> Stores:
    """The cluster as it would be once the files were applied."""
    merged = {objects.key(service): service for service in live.services.all()}
    merged |= {objects.key(s): manifests.overlay(merged.get(objects.key(s)), s) for s in found.services}
    filled = stores()
    filled.services.replace(merged.values(), "")
    filled.nodes.replace(live.nodes.all(), "")
    filled.slices.replace(live.slices.all(), "")
    filled.namespaces.replace(live.namespaces.all(), "")
    return filled


def chooser(namespace: str, labels: str) -> Callable[[objects.Service], bool] | None:
    """Does -n and -l choose this Service? None where they choose all."""
    if not namespace and not labels:
        return None
    matches = selector(labels)
    return lambda s: (not namespace or s.metadata.namespace == namespace) and matches(s.metadata.labels or {})
