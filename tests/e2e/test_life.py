"""A Service's life through the whole house: Kubernetes over HTTP on one side, the cloud on the other."""

from pathlib import Path
from typing import Any

import pytest

SERVICES = sorted((Path(__file__).parents[1] / "services").glob("*.yaml"))
WEB = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}
"""


def served(house: Any, name: str = "web") -> bool:
    return bool(house.address(name)) and house.condition("Ready", name).get("status") == "True"


def test_a_service_gets_an_address_with_two_writes(house) -> None:
    house.apply(WEB)
    house.until(lambda: served(house))
    house.rest()
    writes = [r for r in house.sandbox.kube.requests if r.verb == "patch" and r.resource.startswith("services")]
    assert len(writes) == 2
    assert all(r.path.endswith("/status") and "(controller)" in r.agent for r in writes)
    house.until(lambda: set(house.events()) == {"EnsuringLoadBalancer", "EnsuredLoadBalancer"})


def test_deleting_it_leaves_nothing(house) -> None:
    before = house.standin.inventory()
    house.apply(WEB)
    house.until(lambda: served(house))
    house.delete()
    house.until(lambda: not house.service())
    house.rest()
    house.standin.settle()

    def swept() -> bool:
        house.desk.audit()
        house.rest()
        return house.standin.inventory() <= before
    house.until(swept)


def test_leaving_the_type_cleans_up_and_says_nothing_more(house) -> None:
    house.apply(WEB)
    house.until(lambda: served(house))
    house.patch({"spec": {"type": "ClusterIP"}})
    house.until(lambda: not house.service()["metadata"].get("finalizers"))
    house.rest()
    assert house.condition("Ready") == {}
    assert house.address() == ""


def test_an_unrelated_annotation_costs_no_call(house) -> None:
    house.apply(WEB)
    house.until(lambda: served(house))
    house.rest()
    house.calls.clear()
    house.patch({"metadata": {"annotations": {"example.com/note": "hello"}}})
    house.rest()
    assert house.calls == {}


def test_a_wiped_status_is_written_again(house) -> None:
    house.apply(WEB)
    house.until(lambda: served(house))
    house.rest()
    address = house.address()
    path = "/api/v1/namespaces/default/services/web/status"
    wiped = {"status": {"loadBalancer": {"ingress": None}}}
    house.client.request("PATCH", path, wiped, "application/merge-patch+json")
    house.until(lambda: house.address() == address)


def test_a_restart_in_the_middle_goes_on(house) -> None:
    house.apply(WEB)
    house.stop()
    house.start()
    house.until(lambda: served(house))


def test_a_service_deleted_while_nobody_controls_is_cleaned_up_later(house) -> None:
    house.apply(WEB)
    house.until(lambda: served(house))
    house.stop()
    house.delete()
    assert house.service()["metadata"]["deletionTimestamp"]
    house.start()
    house.until(lambda: not house.service())


def test_a_foreign_class_hears_nothing_from_us(house) -> None:
    house.apply(WEB.replace("type: LoadBalancer", "type: LoadBalancer, loadBalancerClass: example.com/other"))
    house.rest()
    service = house.service()
    assert "finalizers" not in service["metadata"]
    assert service["status"] == {"loadBalancer": {}}
    assert house.events() == []


def test_a_refusal_is_a_condition_and_an_event_and_no_claim(house) -> None:
    house.apply(WEB.replace("port: 80", "port: 80, protocol: SCTP"))
    ready = house.until(lambda: house.condition("Ready"))
    assert (ready["status"], ready["reason"]) == ("False", "unsupported-protocol")
    assert "finalizers" not in house.service()["metadata"]
    house.until(lambda: "SyncLoadBalancerFailed" in house.events())


def test_an_address_without_endpoints_says_that_it_leads_nowhere(house) -> None:
    house.apply(WEB)
    house.until(lambda: served(house))
    assert house.condition("Serving")["reason"] == "no-endpoints"


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_services_of_real_projects_have_an_address_or_a_reason(house, path: Path) -> None:
    [(namespace, name)] = house.apply(path.read_text())


    def decided() -> Any:
        ready = house.condition("Ready", name, namespace)
        return ready.get("reason", "provisioning") != "provisioning" and ready

    ready = house.until(decided)
    if ready["status"] == "True":
        assert house.address(name, namespace)
    else:
        assert house.address(name, namespace) == ""
        assert len(ready["message"]) > 20
