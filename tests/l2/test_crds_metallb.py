"""MetalLB's layer 2 configuration, as its documentation shows it, is served as it is."""

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml

from lbctl.model import IPAddress, Owner
from lbctl_l2 import crds
from lbctl_l2.allocation import allocate
from lbctl_l2.book import Book
from lbctl_l2.crds import Supply
from lbctl_l2.pool import Request

FOLDER = Path(__file__).parent / "manifests"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def supply(name: str) -> Supply:
    found, strange = crds.manifests(yaml.safe_load_all((FOLDER / name).read_text()))
    assert strange == ()
    return crds.supply(found)


def given(served: Supply, request: Request) -> tuple[IPAddress, ...]:
    book = Book(served.pools)
    book.put(request)
    return allocate(book, None, NOW)[request.owner].addresses


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml") if "bgp" not in path.name))
def test_every_layer_2_manifest_is_served_whole(name: str) -> None:
    said = list(yaml.safe_load_all((FOLDER / name).read_text()))
    served = supply(name)
    assert all(problem.served for problem in served.problems)
    assert len(served.pools) + len(served.advertisements) == len(said)


def test_a_range_gives_its_first_address() -> None:
    assert given(supply("layer2.yaml"), Request(Owner("default/web"))) == (ip_address("192.168.1.240"),)


def test_a_pool_of_both_families_serves_a_dual_stack_service() -> None:
    both = Request(Owner("default/web"), families=("IPv6", "IPv4"), required=True)
    expected = (ip_address("fc00:f853:ccd:e799::"), ip_address("192.168.10.0"))
    assert given(supply("several-ranges.yaml"), both) == expected


def test_an_expensive_pool_is_for_who_asks() -> None:
    served = supply("auto-assign.yaml")
    assert given(served, Request(Owner("default/a"))) == (ip_address("192.168.20.0"),)
    assert given(served, Request(Owner("default/b"), pool="rare")) == (ip_address("203.0.113.64"),)


@pytest.mark.parametrize(("namespace", "labels", "app", "open_"), [
    ("team-a", {}, "shop", True),
    ("elsewhere", {"tier": "gold"}, "shop", True),
    ("team-a", {}, "blog", False),
    ("elsewhere", {}, "shop", False),
])
def test_service_allocation_asks_for_namespace_and_service(
    namespace: str, labels: dict[str, str], app: str, open_: bool
) -> None:
    asks = Request(Owner(f"{namespace}/web"), labels={"app": app}, namespace_labels=labels)
    assert given(supply("service-allocation.yaml"), asks) == ((ip_address("192.168.30.1"),) if open_ else ())


def test_node_selectors_are_alternatives() -> None:
    near_a, near_b = supply("node-selectors.yaml").advertisements
    nodes = [{"kubernetes.io/hostname": f"node-{letter}"} for letter in "abc"]
    assert [near_a.selects(node) for node in nodes] == [True, True, False]
    assert [near_b.selects(node) for node in nodes] == [False, False, True]
    assert near_a.serves("subnet-a")
    assert not near_a.serves("subnet-b")


def test_interfaces_are_taken_by_name() -> None:
    found = {advert.name: advert.interfaces for advert in supply("interfaces.yaml").advertisements}
    assert found == {"one-of-one": ("eth3",), "two-of-all": ("eth0", "eth1")}


def test_a_field_that_nobody_knows_says_nothing_but_is_told() -> None:
    served = supply("misspelt.yaml")
    assert all(advert.serves("wired") and advert.selects({}) for advert in served.advertisements)
    assert [(problem.reason, problem.served) for problem in served.problems] == [("unknown-field", True)] * 2


def test_pools_and_services_are_chosen_by_label() -> None:
    by_name, by_zone = supply("pool-labels.yaml").advertisements
    assert (by_zone.serves("east"), by_zone.serves("west")) == (True, False)
    assert (by_name.serves("east"), by_name.serves("west")) == (False, True)
    assert by_zone.admits({"announce": "yes"})
    assert not by_zone.admits({})


def test_what_only_bgp_would_announce_is_said_to_be_not_served() -> None:
    served = supply("layer2-and-bgp.yaml")
    told = {(problem.kind, problem.name, problem.reason) for problem in served.problems}
    assert told == {
        ("BGPPeer", "router", "bgp-not-served"), ("BGPAdvertisement", "far", "bgp-not-served"),
        ("IPAddressPool", "routed", "bgp-not-served"),
    }  # fmt: skip
    assert {pool.name: pool.closed for pool in served.pools} == {"both": "", "routed": "bgp-not-served"}


def test_services_of_all_namespaces_share_an_address_as_metallb_lets_them() -> None:
    assert {pool.sharing for pool in supply("layer2.yaml").pools} == {"cluster"}
