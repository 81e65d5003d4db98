"""The shipped CRDs on the real API server: what it takes, and what its schema and CEL rules refuse."""

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from lbctl.cluster import Object
from lbctl.kube.client import ApiError, Client, Conflict
from lbctl_l2 import crds
from lbctl_l2.pool import Release, Usage

FOLDER = Path(__file__).parents[2] / "deploy" / "crds"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "/apis/lbctl.io/v1alpha1"
LABELS = [{"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}]

pytestmark = pytest.mark.realkube


@pytest.fixture
def client(real_kube: Any, wait: Any) -> Client:
    """The API server with the CRDs in it."""
    found: Client = real_kube.client
    for path in FOLDER.glob("*.lbctl.io.yaml"):
        try:
            found.request("POST", DEFINITIONS, yaml.safe_load(path.read_text()))
        except Conflict:
            continue
    for plural in ("addresspools", "l2advertisements"):
        wait(lambda plural=plural: known(found, plural))
    return found


def known(client: Client, plural: str) -> bool:
    definition = msgspec.json.decode(client.get(f"{DEFINITIONS}/{plural}.lbctl.io"))
    conditions = {one["type"]: one["status"] for one in definition["status"].get("conditions") or ()}
    assert conditions.get("NonStructuralSchema") != "True", definition["status"]
    return conditions.get("Established") == "True" and conditions.get("NamesAccepted") == "True"


def tried(client: Client, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """What would be stored; nothing is."""
    body = {"apiVersion": "lbctl.io/v1alpha1", "kind": kind, "metadata": {"generateName": "try-"}, "spec": spec}
    path = f"{GROUP}/{kind.lower()}s?dryRun=All&fieldValidation=Strict"
    found: dict[str, Any] = msgspec.json.decode(client.request("POST", path, body))
    return found


def pool(**spec: Any) -> dict[str, Any]:
    return {"addresses": ["10.0.0.0/24"], **spec}


@pytest.mark.parametrize("spec", [
    {"addresses": ["10.0.0.0/24", "10.1.0.1 - 10.1.0.9", "10.2.0.1", "fd00::/64", "fd01::1-fd01::f", "::ffff:1.2.3.4"]},
    pool(autoAssign=False, avoidBuggyIPs=True, sharing="cluster", maxPerNamespace=3, cooldownSeconds=0),
    pool(serviceAllocation={
        "priority": 5, "namespaces": ["a"], "namespaceSelectors": LABELS, "serviceSelectors": LABELS}),
    pool(reservations=[{"service": "default/db", "addresses": ["10.0.0.1", "fd00::1"]}]),
])
def test_good_pools_are_taken(client: Client, spec: dict[str, Any]) -> None:
    defaults = {"autoAssign": True, "avoidBuggyIPs": False, "sharing": "namespace", "maxPerNamespace": 0,
                "cooldownSeconds": 300}
    assert tried(client, "AddressPool", spec)["spec"] == defaults | spec


@pytest.mark.parametrize("spec", [
    {}, {"addresses": []}, {"addresses": ["10.0.0.0/24", "10.0.0.0/24"]}, {"addresses": ["10.0.0.0/33"]},
    {"addresses": ["10.0.0.1-fd00::1"]}, {"addresses": ["fd00::/129"]}, {"addresses": ["web.example"]},
    pool(sharing="everybody"), pool(maxPerNamespace=-1), pool(cooldownSeconds=-1), pool(autoasign=False),
    pool(serviceAllocation={"priority": -1}),
    pool(serviceAllocation={"namespaceSelectors": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}),
    pool(serviceAllocation={"serviceSelectors": [
        {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}]}),
    pool(reservations=[{"service": "db", "addresses": ["10.0.0.1"]}]),
    pool(reservations=[{"service": "a/db", "addresses": ["10.0.0.1", "10.0.0.2"]}]),
    pool(reservations=[{"service": "a/db", "addresses": ["10.0.0.1"]}, {"service": "a/db", "addresses": ["10.0.0.2"]}]),
])
def test_bad_pools_are_refused(client: Client, spec: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        tried(client, "AddressPool", spec)


@pytest.mark.parametrize(("spec", "taken"), [
    ({}, True),
    ({"ipAddressPools": ["a"], "ipAddressPoolSelectors": LABELS, "nodeSelectors": LABELS, "serviceSelectors": LABELS,
      "interfaces": ["eth0", "br-lan.10"]}, True),
    ({"interfaces": ["a-name-that-is-too-long"]}, False),
    ({"nodeSelector": LABELS}, False),
    ({"nodeSelectors": [{"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]}]}, False),
])
def test_advertisements(client: Client, spec: dict[str, Any], taken: bool) -> None:
    if taken:
        assert tried(client, "L2Advertisement", spec)["spec"] == spec
    else:
        with pytest.raises(ApiError):
            tried(client, "L2Advertisement", spec)


def test_a_status_that_lbctl_writes_is_stored_as_it_is(client: Client, real_kube: Any) -> None:
    name, now = real_kube.namespace, datetime(2026, 1, 1, tzinfo=UTC)
    body = {"apiVersion": "lbctl.io/v1alpha1", "kind": "AddressPool", "metadata": {"name": name}, "spec": pool()}
    client.request("POST", f"{GROUP}/addresspools", body)
    status = crds.pool_status(Object(name), Usage(), [Release(ip_address("10.0.0.1"), now)], (), now)
    path, merge = f"{GROUP}/addresspools/{name}/status", "application/merge-patch+json"
    answer = client.request("PATCH", path, {"status": status}, merge)
    assert msgspec.json.decode(answer)["status"] == status
    client.request("DELETE", f"{GROUP}/addresspools/{name}", None)
