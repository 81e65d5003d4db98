"""`lbctl doctor` on bare metal: what is wrong with pools and advertisements, and what is only old."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest

from lbctl.cluster import NoKubernetes, Object, Watch
from lbctl.model import LoadBalancer, Owner
from lbctl.provider import Harness, Sight
from lbctl_l2.insight import Insight

LAB = Object("lab", spec={"addresses": ["192.0.2.0/29"]})
TWICE = Object("twice", spec={"addresses": ["192.0.2.4/31"]})
ROUTED = Object("routed", spec={"addresses": ["198.51.100.0/24"]})
ALL = Object("all")
PREFERRED = Object("all", spec={"preferredNodeSelectors": [{"weight": 1, "preference": {"matchLabels": {"a": "b"}}}]})

Objects = Mapping[str, Sequence[Object]]


class Cluster(NoKubernetes):
    """`objects` by `group/plural`; every Service has an annotation of each name."""

    home = "lbctl-system"

    def __init__(self, objects: Objects, *names: str) -> None:
        self._objects, self._names = objects, names

    def objects(self, watch: Watch) -> Sequence[Object]:
        return self._objects.get(f"{watch.group}/{watch.plural}", ())

    def services(self) -> list[LoadBalancer]:
        said = dict.fromkeys(self._names, "x")
        return [LoadBalancer(owner, annotations=said) for owner in map(Owner, ("a/one", "a/two"))]


def found(objects: Objects, *names: str) -> list[Sight]:
    kubernetes = Cluster(objects, *names)
    harness = Harness(now=lambda: datetime(2026, 1, 1, tzinfo=UTC), kubernetes=kubernetes)
    return [sight for sight in Insight(harness).findings() if sight.topic != "speakers"]


def test_pools_that_are_served_are_counted() -> None:
    (sight,) = found({"lbctl.io/addresspools": [LAB], "lbctl.io/l2advertisements": [ALL]})
    assert (sight.topic, sight.text, sight.ok) == ("pools", "1 pool is served, and announced", True)


def test_without_a_pool_it_says_how_to_make_one() -> None:
    (sight,) = found({})
    assert (sight.text, sight.ok, "AddressPool" in sight.way) == ("there is no pool", False, True)


@pytest.mark.parametrize(("objects", "said"), [
    ({"lbctl.io/addresspools": [LAB, TWICE]}, "AddressPool twice: overlapping-pool"),
    ({"lbctl.io/addresspools": [Object("bad", spec={"addresses": ["192.0.2"]})]}, "AddressPool bad: invalid-pool"),
    ({"lbctl.io/addresspools": [LAB], "lbctl.io/l2advertisements": []}, "AddressPool lab: not-advertised"),
    ({"lbctl.io/l2advertisements": [Object("ad", spec={"x": 1})]}, "L2Advertisement ad: invalid-advertisement"),
    ({"metallb.io/ipaddresspools": [ROUTED], "metallb.io/bgpadvertisements": [ALL], "lbctl.io/l2advertisements": []},
     "IPAddressPool routed: bgp-not-served"),
    ({"metallb.io/bgppeers": [Object("router")]}, "BGPPeer router: bgp-not-served"),
    ({"metallb.io/bgpadvertisements": [Object("far")]}, "BGPAdvertisement far: bgp-not-served"),
    ({"metallb.io/l2advertisements": [Object("typo", spec={"nodeSelector": []})]},
     "metallb.io/L2Advertisement typo: unknown-field"),
    ({"metallb.io/l2advertisements": [PREFERRED]}, "metallb.io/L2Advertisement all: field-not-served"),
])  # fmt: skip
def test_what_is_wrong_with_an_object_is_found_with_its_way_out(objects: Objects, said: str) -> None:
    usual: dict[str, Sequence[Object]] = {"lbctl.io/addresspools": [LAB], "lbctl.io/l2advertisements": [ALL]}
    wrong = [sight for sight in found(usual | dict(objects)) if sight.text == said]
    assert [(sight.ok, bool(sight.way)) for sight in wrong] == [(False, True)]


def test_old_names_are_a_mild_notice() -> None:
    objects: Objects = {"lbctl.io/addresspools": [LAB], "lbctl.io/l2advertisements": [ALL]}
    _, sight = found(objects, "metallb.universe.tf/address-pool", "metallb.universe.tf/ip-allocated-from-pool")
    assert (sight.topic, sight.ok) == ("annotations", None)
    assert sight.text == "MetalLB's old names metallb.universe.tf/address-pool are used by a/one, a/two"
    assert "metallb.io" in sight.way


def test_names_that_are_not_old_are_not_noticed() -> None:
    objects: Objects = {"lbctl.io/addresspools": [LAB], "lbctl.io/l2advertisements": [ALL]}
    assert len(found(objects, "metallb.io/address-pool", "lbctl.io/address-pool")) == 1
