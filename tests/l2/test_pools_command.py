"""`lbctl pools`: how full each pool is, whoever serves the Services, and what is wrong with which object."""

import json
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from lbctl.cluster import NoKubernetes, Object, Watch
from lbctl.model import Ingress, LoadBalancer, Node, Owner, Port
from lbctl.provider import Harness
from lbctl_l2.commands import pools

POOLS = [
    Object("lab", uid="1", spec={"addresses": ["192.0.2.0/29", "2001:db8::/64"], "reservations": [
        {"service": "a/kept", "addresses": ["192.0.2.5"]}]}),
    Object("spare", uid="2", spec={"addresses": ["198.51.100.1-198.51.100.4"], "autoAssign": False}),
    Object("twice", uid="3", spec={"addresses": ["192.0.2.4/31"]}),
]  # fmt: skip


class Cluster(NoKubernetes):
    def objects(self, watch: Watch) -> list[Object]:
        found = {"addresspools": POOLS, "l2advertisements": [Object("all", uid="9")]}
        return found.get(watch.plural, []) if watch.group == "lbctl.io" else []

    def services(self) -> list[LoadBalancer]:
        found = []
        for name, *held in (("a/one", "192.0.2.1", "2001:db8::7"), ("b/two", "192.0.2.2"), ("c/none",)):
            status = tuple(Ingress(ip=text) for text in held)
            found.append(LoadBalancer(Owner(name), ports=(Port(80),), status=status))
        return found

    def nodes(self) -> tuple[Node, ...]:
        return (Node("n", addresses=(ip_address("192.0.2.7"),)),)


class Old(Cluster):
    """Objects know when they were made; settings do not, and stand back."""

    def objects(self, watch: Watch) -> list[Object]:
        made = datetime(2025, 1, 1, tzinfo=UTC)
        return [msgspec.structs.replace(item, created=made) for item in super().objects(watch)]


class Shell:
    def __init__(self, kubernetes: NoKubernetes, **settings: str) -> None:
        self._kubernetes, self._settings = kubernetes, settings

    def harness(self, provider: str) -> Harness:
        assert provider == "l2"
        return Harness(self._settings, now=lambda: datetime(2026, 1, 1, tzinfo=UTC), kubernetes=self._kubernetes)


def said(*words: str, kubernetes: NoKubernetes | None = None, **settings: str) -> str:
    found = CliRunner().invoke(pools, words, obj=Shell(kubernetes or Cluster(), **settings), standalone_mode=False)
    assert found.exception is None, found.exception
    return found.stdout


def test_the_table_has_a_row_for_each_family() -> None:
    lines = [line.split() for line in said().splitlines()]
    assert " ".join(lines[0]) == "POOL FROM RANGES FAMILY TOTAL USED FREE RESERVED COOLING STATE"
    assert lines[1] == ["lab", "AddressPool", "192.0.2.0/29", "IPv4", "8", "2", "4", "1", "0", "serving"]
    assert lines[2][2:6] == ["2001:db8::/64", "IPv6", "1.8e19", "1"]
    assert " ".join(lines[3]) == "spare AddressPool 198.51.100.1-198.51.100.4 IPv4 4 0 4 0 0 serving, by request"


def test_what_is_wrong_is_told_below() -> None:
    told = [line for line in said().splitlines() if line.startswith("AddressPool twice")]
    assert told[0].startswith("AddressPool twice: overlapping-pool: ")


def test_ranges_of_the_settings_are_no_object_that_kubectl_could_show() -> None:
    lines = said(kubernetes=NoKubernetes(), addresses="203.0.113.0/30").splitlines()
    assert lines[1].split()[:3] == ["default", "settings", "203.0.113.0/30"]
    told = said(kubernetes=Old(), addresses="192.0.2.0/30").splitlines()[-1]
    assert told.startswith("settings default: overlapping-pool: ")


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_machines_read_the_same(form: str, read: Any) -> None:
    data = read(said("-o", form))
    assert [pool["name"] for pool in data["pools"]] == ["lab", "spare"]
    assert data["pools"][0]["usage"]["IPv4"] == {"total": 8, "used": 2, "free": 4}
    assert [problem["reason"] for problem in data["problems"]] == ["overlapping-pool"]


def test_where_there_is_no_pool_it_says_how_to_make_one() -> None:
    assert "make an AddressPool" in said(kubernetes=NoKubernetes())
