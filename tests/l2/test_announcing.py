"""What the controller tells of announcing, out of the speakers' Leases."""

import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from lbctl.cluster import NoKubernetes, Object, Watch
from lbctl.model import Endpoints, LoadBalancer, Node, Note, Owner, Port
from lbctl.provider import Scope
from lbctl_l2 import crds, leases
from lbctl_l2.announcing import Announcing
from lbctl_l2.leases import Facts, SaidConflict, SaidLink
from lbctl_l2.pool import Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VIP = ip_address("192.0.2.7")
WEB = Owner("a/web")
NODES = tuple(Node(f"node-{number}") for number in (1, 2))
LINK = SaidLink("eth0", "02:00:00:00:00:01", (ip_network("192.0.2.0/24"),))
SUPPLY = crds.supply([(crds.ADDRESS_POOLS, Object("lab", spec={"addresses": ["192.0.2.0/24"]})),
                      (crds.L2_ADVERTISEMENTS, Object("all"))])  # fmt: skip


def lease(node: str, *vips: Any, age: float = 1, held: bool = True, **facts: Any) -> Object:
    said = Facts(node, settled=True, **{"links": (LINK,), **facts})
    spec = {"holderIdentity": node if held else "", "renewTime": leases.micro(NOW - timedelta(seconds=age))}
    told = leases.encode(said, dict.fromkeys(vips, 7))
    return Object(leases.name(node), "home", version="1", annotations=told, spec=spec)


class Cluster(NoKubernetes):
    def __init__(self, *found: Object) -> None:
        self.found = list(found)
        self.told: Any = None

    def objects(self, watch: Watch) -> list[Object]:
        return self.found

    def follow(self, watch: Watch, told: Any) -> None:
        self.told = told


def notes(
    *found: Object, nodes: tuple[Node, ...] = NODES, home: str = "home", supply: crds.Supply = SUPPLY, **rest: Any
) -> list[Note]:
    announcing = Announcing(Cluster(*found), {"home": home}, lambda _owners: None)
    lb = LoadBalancer(WEB, ports=(Port(80),), **rest)
    scope = Scope(NOW, load_balancers=(lb,))
    return list(announcing.notes(scope, {WEB: Outcome(WEB, (VIP,), ("lab",))}, supply, nodes))


def test_where_a_node_may_announce_there_is_nothing_to_tell() -> None:
    assert notes(lease("node-1"), lease("node-2")) == []
    assert notes(lease("node-1")) == []


def test_where_nobody_may_each_nodes_reason_is_told() -> None:
    [note] = notes(lease("node-1", held=False))
    assert (note.condition, note.reason) == ("lbctl.io/Serving", "no-announcer")
    assert note.message.startswith("nobody announces 192.0.2.7: node-1, node-2: no-speaker: ")


@pytest.mark.parametrize("wrong", ["addresspools", "l2advertisements"])
def test_where_speakers_know_a_good_version_that_the_controller_never_saw_nobody_is_missed(wrong: str) -> None:
    pool, advert = Object("lab", spec={"addresses": ["192.0.2.0/24"]}), Object("all")
    bad = Object("lab", spec={"wrong": 1})
    supply = crds.supply([(crds.ADDRESS_POOLS, bad if wrong == "addresspools" else pool),
                          (crds.L2_ADVERTISEMENTS, bad if wrong == "l2advertisements" else advert)])  # fmt: skip
    assert notes(lease("node-1", VIP), supply=supply) == []
    assert [note.reason for note in notes(lease("node-1"), supply=supply)] == ["no-announcer"]
    assert [note.reason for note in notes(lease("node-1", VIP, age=100), supply=supply)] == ["no-announcer"]


def test_excluded_nodes_are_told_with_the_way_out() -> None:
    nodes = tuple(Node(node.name, excluded=True) for node in NODES)
    [note] = notes(lease("node-1"), lease("node-2"), nodes=nodes)
    assert "excluded" in note.message
    assert "--ignore-exclude-lb" in note.message
    assert notes(lease("node-1", ignores_exclusion=True), nodes=nodes) == []


def test_a_matter_of_pods_is_told_elsewhere() -> None:
    nobody = Endpoints(0, frozenset(), frozenset())
    assert notes(lease("node-1"), lease("node-2"), endpoints=nobody) == []


def test_of_many_services_each_is_told_what_it_would_be_told_alone() -> None:
    advert = Object("some", spec={"serviceSelectors": [{"matchLabels": {"tier": "web"}}]})
    pool = Object("lab", spec={"addresses": ["192.0.2.0/24", "198.51.100.0/24"]})
    supply = crds.supply([(crds.ADDRESS_POOLS, pool), (crds.L2_ADVERTISEMENTS, advert)])
    serving = (Endpoints(1, frozenset({name}), frozenset({name})) for name in ("node-1", "node-2"))
    kinds: list[dict[str, Any]] = [{"external_traffic_policy": "Local", "endpoints": one} for one in serving]
    asks = [
        LoadBalancer(Owner(f"a/{number}-{tier}"), labels={"tier": tier}, **kind)
        for number, kind in enumerate([{}, *kinds]) for tier in ("web", "db")
    ]
    given = {lb.owner: Outcome(lb.owner, (ip_address(f"192.0.2.{n}"),), ("lab",)) for n, lb in enumerate(asks)}
    found = Cluster(lease("node-1"), lease("node-2", held=False))

    def told(*some: LoadBalancer) -> list[Note]:
        announcing = Announcing(found, {"home": "home"}, lambda _owners: None)
        return list(announcing.notes(Scope(NOW, load_balancers=some), given, supply, NODES))

    assert told(*asks) == [note for lb in asks for note in told(lb)]
    assert {note.owner for note in told(*asks)} == {lb.owner for lb in asks if lb.labels["tier"] == "db"}


def test_a_stranger_that_answers_is_told_with_its_mac_for_as_long_as_it_is_news() -> None:
    def conflict(age: int) -> SaidConflict:
        return SaidConflict("192.0.2.7", "02:00:00:00:00:99", "eth0", int(NOW.timestamp()) - age)

    [note] = notes(lease("node-1", conflicts=(conflict(5),)))
    assert (note.condition, note.reason) == ("lbctl.io/Degraded", "address-conflict")
    assert "02:00:00:00:00:99" in note.message
    assert notes(lease("node-1", conflicts=(conflict(3600),))) == []


def test_without_a_cluster_nobody_announces_and_nobody_is_told() -> None:
    assert notes(home="") == []


def test_a_renewal_is_no_news_and_a_lost_link_is(monkeypatch: Any) -> None:
    monkeypatch.setattr("lbctl_l2.announcing.HASTE", 0.0)
    heard = threading.Semaphore(0)
    cluster = Cluster()
    Announcing(cluster, {"home": "home"}, lambda _owners: heard.release())
    cluster.told(lease("node-1"), lease("node-1", age=0))
    assert not heard.acquire(timeout=0.2)
    cluster.told(lease("node-1"), lease("node-1", links=()))
    assert heard.acquire(timeout=5)
