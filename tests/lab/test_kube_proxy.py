"""From a client to a pod: lbctl answers ARP, the real kube-proxy forwards, and the API server is real, too."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lbctl.testing import controlplane
from lbctl_l2.lab.api import Api
from lbctl_l2.lab.cases import KILLED, trial
from lbctl_l2.lab.cluster import HTTP, Cluster
from lbctl_l2.lab.measured import Address
from lbctl_l2.lab.rig import vip
from lbctl_l2.lab.stage import pause

pytestmark = pytest.mark.realkube


def missing() -> str:
    if not shutil.which("nft"):
        return "kube-proxy needs nft: install nftables (make test does, as root on Debian)"
    if os.environ.get("KUBEBUILDER_ASSETS"):
        return "kube-proxy is in our own control plane alone: unset KUBEBUILDER_ASSETS"
    return controlplane.why_not_ours(build=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with kube-proxy and a speaker each."""
    if reason := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with controlplane.ControlPlane() as server, Cluster(2, 1, Api(server.kubeconfig), proxied=True) as made:
        made.proxy(controlplane.binary() or Path())
        yield made


@pytest.fixture
def served(cluster: Cluster) -> Callable[[Address, int], set[str]]:
    """Which nodes' pods answer new connections to an address and port; waits for the first answer."""

    def ask(address: Address, port: int) -> set[str]:
        client = cluster.lab.ask(address, "connect", port=port, interval=0.05)
        try:
            for _ in range(60):
                pause(0.5)
                if found := set(client.take().nodes()):
                    return found
            raise AssertionError(f"{address}:{port} is not served\n{cluster.lab.said()}")
        finally:
            client.close()

    return ask


def test_a_client_reaches_a_pod_by_the_services_address(cluster: Cluster, served: Callable[..., set[str]]) -> None:
    assert served(vip(0), HTTP) <= set(cluster.lab.nodes)


def test_it_reaches_one_by_any_nodes_port(cluster: Cluster, served: Callable[..., set[str]]) -> None:
    for node in cluster.lab.nodes.values():
        assert served(node.address, cluster.node_port("web-0")) <= set(cluster.lab.nodes)


def test_when_the_announcer_dies_the_other_node_forwards(cluster: Cluster, served: Callable[..., set[str]]) -> None:
    served(vip(0), HTTP)
    done = trial(cluster, KILLED)
    assert len(done.left) == 1
    assert done.left != {done.holder}
    assert served(vip(0), HTTP)
