"""What a Service asks of the pools, in lbctl's words and its peers'."""

from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest

from lbctl.errors import Refused
from lbctl.model import Ingress, LoadBalancer, Owner, Port
from lbctl_l2 import annotations
from lbctl_l2.pool import Request

NOW = datetime(2026, 1, 1, tzinfo=UTC)
V4, V6 = ip_address("10.0.0.1"), ip_address("fd00::1")


def request(**more: Any) -> Request:
    return annotations.request(LoadBalancer(Owner("default/web"), **more), {})


def reason(**more: Any) -> str:
    with pytest.raises(Refused) as no:
        request(**more)
    return no.value.reason


@pytest.mark.parametrize("name", annotations.POOL)
def test_a_pool_is_asked_for_in_any_vocabulary(name: str) -> None:
    assert request(annotations={name: " gold "}).pool == "gold"


@pytest.mark.parametrize("name", annotations.SHARING)
def test_a_sharing_key_is_said_in_any_vocabulary(name: str) -> None:
    assert request(annotations={name: "k"}).key == "k"


def test_two_words_for_the_same_are_one() -> None:
    assert request(annotations={"lbctl.io/address-pool": "a", "metallb.io/address-pool": "a"}).pool == "a"


def test_words_that_disagree_are_refused() -> None:
    assert reason(annotations={"lbctl.io/address-pool": "a", "metallb.io/address-pool": "b"}) == "pool-conflict"
    said = {"metallb.io/allow-shared-ip": "k", "metallb.universe.tf/allow-shared-ip": "l"}
    assert reason(annotations=said) == "sharing-key-conflict"
    kept = annotations.holder(LoadBalancer(Owner("default/web"), annotations=said))
    assert (kept.key, kept.torn, kept.families) == ("", ("k", "l"), ())


@pytest.mark.parametrize(("policy", "families", "asked", "required"), [
    ("SingleStack", ("IPv6", "IPv4"), ("IPv6",), False),
    ("PreferDualStack", ("IPv6", "IPv4"), ("IPv6", "IPv4"), False),
    ("PreferDualStack", ("IPv4",), ("IPv4",), False),
    ("RequireDualStack", ("IPv4", "IPv6"), ("IPv4", "IPv6"), True),
])
def test_families_follow_the_policy(policy: str, families: Any, asked: Any, required: bool) -> None:
    found = request(ip_family_policy=policy, ip_families=families)
    assert (found.families, found.required) == (asked, required)


@pytest.mark.parametrize("asked", [(V6,), (V4, ip_address("10.0.0.2")), (V4, V6)])
def test_an_address_of_another_family_or_two_of_one_are_refused(asked: Any) -> None:
    assert reason(requested_addresses=asked) == "address-family"


def test_what_it_has_is_what_its_status_says() -> None:
    status = (Ingress("10.0.0.1"), Ingress(hostname="web.example"), Ingress("nonsense"), Ingress("fe80::1%eth0"))
    found = annotations.request(LoadBalancer(Owner("default/web"), status=status), {})
    assert found.held == (V4,)


def test_with_local_traffic_the_selected_pods_answer() -> None:
    assert request(selector={"b": "2", "a": "1"}).backend == ""
    local = request(selector={"b": "2", "a": "1"}, external_traffic_policy="Local")
    assert local.backend == "a=1,b=2"


def test_ports_are_told_by_protocol() -> None:
    found = request(ports=(Port(80), Port(80, "UDP")), created=NOW, scheme="internal")
    assert found.ports == {("TCP", 80), ("UDP", 80)}
    assert (found.created, found.scheme) == (NOW, "internal")
