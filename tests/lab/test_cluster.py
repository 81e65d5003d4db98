"""Real speakers, a Kubernetes API that comes and goes, real packets: what Kubernetes says moves addresses, or does not.

Nodes and Services are the lab's; the addresses stand in the Services' statuses, as the controller writes them.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address

import pytest

from lbctl.sandbox.kube import KubeSandbox
from lbctl_l2.lab.api import Api
from lbctl_l2.lab.cases import ENDED, KILLED, Case, Trial, rows, trial
from lbctl_l2.lab.cluster import EXCLUDE, Cluster
from lbctl_l2.lab.measured import Address
from lbctl_l2.lab.rig import vip
from lbctl_l2.lab.stage import Stage, pause
from lbctl_l2.lab.table import Row

log = logging.getLogger(__name__)

TRIALS = 3
Table = Callable[[Row], None]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, two Services; a cordoned node hands over."""
    with KubeSandbox() as kube:
        api = Api(kube.kubeconfig(tmp_path_factory.mktemp("api") / "kubeconfig"))
        with Cluster(3, 2, api, "--drain-on=cordon") as made:
            yield made


def exclude(stage: Stage, node: str) -> None:
    assert isinstance(stage, Cluster)
    stage.label(node, EXCLUDE, "true")


def include(stage: Stage, node: str) -> None:
    assert isinstance(stage, Cluster)
    stage.label(node, EXCLUDE, None)


def cordon(stage: Stage, node: str) -> None:
    assert isinstance(stage, Cluster)
    stage.cordon(node)


def uncordon(stage: Stage, node: str) -> None:
    assert isinstance(stage, Cluster)
    stage.cordon(node, False)


EXCLUDED = Case("exclude label (new client)", exclude, include, "fresh", 0.0, "no gap")
CORDONED = Case("cordon, by flag (new client)", cordon, uncordon, "fresh", 0.0, "ignored")


def tries(cluster: Cluster, table: Table, case: Case) -> list[Trial]:
    done = [undisturbed(cluster, case) for _ in range(TRIALS)]
    for line in rows(case, done):
        table(line)
    return done


def undisturbed(cluster: Cluster, case: Case) -> Trial:
    """One trial; again, twice at most, where the machine was so busy that a node stood still: that is another fault."""
    for _ in range(3):
        before = stood_still(cluster)
        done = trial(cluster, case)
        pause(2.5)  # Whoever was started anew has settled.
        if stood_still(cluster) == before:
            break
        log.warning("%s: a node stood still; once more", case.name)
    return done


def stood_still(cluster: Cluster) -> int:
    logs = (node.log for node in cluster.lab.nodes.values())
    return sum(log.read_text().count("this node stood still") for log in logs if log.exists())


def test_a_killed_speaker_is_replaced(cluster: Cluster, table: Table) -> None:
    done = tries(cluster, table, KILLED._replace(name="whole speaker killed (new client)"))
    assert all(one.left == {one.heir} != {one.holder} for one in done)


def test_so_it_is_while_the_api_server_is_gone(cluster: Cluster, table: Table) -> None:
    case = KILLED._replace(name="the same, API server gone", metallb="5.1–6.5 s", tuned="–")
    with cluster.api_gone():
        done = tries(cluster, table, case)
    assert all(one.left == {one.heir} != {one.holder} for one in done)
    assert all(one.announced >= 2 for one in done)


def test_a_speaker_that_is_ended_leaves_nobody_without_an_answer(cluster: Cluster, table: Table) -> None:
    done = tries(cluster, table, ENDED._replace(name="whole speaker SIGTERM (new client)"))
    assert [one.nobody for one in done] == [0.0] * TRIALS
    assert all(one.heir != one.holder for one in done)


def test_speakers_that_all_start_while_the_api_server_is_gone_go_by_their_last_state(cluster: Cluster) -> None:
    with cluster.api_gone():
        for node in cluster.lab.nodes:
            cluster.speakers[node].kill()
        assert not any(cluster.answering().values())
        cluster.start(*cluster.lab.nodes)
        assert set(cluster.holders()) == {vip(0), vip(1)}


@pytest.mark.parametrize("case", [EXCLUDED, CORDONED], ids=["excluded", "cordoned"])
def test_a_node_that_may_not_announce_hands_over_before_it_stops(cluster: Cluster, table: Table, case: Case) -> None:
    done = tries(cluster, table, case)
    assert [one.nobody for one in done] == [0.0] * TRIALS
    assert all(one.left == one.end == {one.heir} != {one.holder} for one in done)


def test_what_the_api_alone_says_of_a_nodes_health_moves_nothing(cluster: Cluster) -> None:
    before = steady(cluster)
    node = cluster.holder
    cluster.say_ready(node, "Unknown")
    pause(3.0)
    assert cluster.holders() == before
    cluster.say_ready(node, "True")


def steady(cluster: Cluster) -> Mapping[Address, str]:
    """Who holds what, once no address is on its way to balance: one round of that takes ten seconds."""
    before, now = None, cluster.holders()
    while now != before:
        pause(12.0)
        before, now = now, cluster.holders()
    return now


def test_without_an_api_server_nothing_is_withdrawn(cluster: Cluster) -> None:
    before = steady(cluster)
    with cluster.api_gone():
        pause(5.0)
        assert cluster.holders() == before


@pytest.mark.parametrize("claimed", ["192.0.2.1", "192.0.2.12", "192.0.2.255", "198.51.100.2", "224.0.0.9"])
def test_of_a_status_that_somebody_else_wrote_not_one_frame_goes_out(cluster: Cluster, claimed: str) -> None:
    watch = cluster.lab.watch(ip_address(claimed), interval=0.0)
    cluster.serve("hostile", claimed)
    pause(3.0)
    assert not watch.take().announcements
    watch.close()
    cluster.api.delete("api/v1/namespaces/default/services/hostile")


def test_the_lease_says_who_announces(cluster: Cluster) -> None:
    pause(2.0)
    for address, node in cluster.holders().items():
        assert str(address) in json.loads(cluster.lease(node)["metadata"]["annotations"]["lbctl.io/announcing"])
