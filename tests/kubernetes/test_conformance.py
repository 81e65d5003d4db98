"""The Service controller's contract, case by case (C01 …), as far as it reaches the API server.

Kubernetes' own service controller (k8s.io/cloud-provider) asserts these; what differs on purpose is said at the case.
"""

from pathlib import Path

import pytest
import yaml

from lbctl.errors import Refused, Unavailable
from lbctl.kube.client import STRATEGIC
from lbctl.model import READY, SERVING

OURS = "lbctl.io/memory"
SERVICES = Path(__file__).parent.parent / "services"


def writes(plan):
    return [(change.action, change.kind) for change in plan.changes]


@pytest.fixture
def counted(kube, stage):
    """Every PATCH that our side sends."""
    seen = []
    kube.overhear(stage.client, lambda method, path: method == "PATCH" and seen.append(path.rpartition("/")[2]))
    return seen


def ready(kube, name="web"):
    found = kube.condition(READY, name)
    return found and (found["status"], found["reason"])


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_c02_c03_a_new_service_costs_two_writes(kube, stage, counted, protocol):
    kube.service(ports=[{"port": 80, "protocol": protocol}])
    stage.settle()
    assert counted == ["status", "status"]
    assert kube.finalizers() == [OURS]
    assert kube.ingress()[0]["ipMode"] == "VIP"
    assert ready(kube) == ("True", "ready")


def test_c04_a_protocol_that_the_provider_cannot_serve_is_refused_by_name(kube, stage):
    kube.service(ports=[{"port": 80, "protocol": "SCTP"}])
    stage.settle()
    assert kube.finalizers() == []
    assert kube.ingress() == []
    assert kube.condition(READY)["status"] == "False"


def test_c01_a_service_of_another_type_is_not_touched(kube, stage, counted):
    kube.service(type="ClusterIP", loadBalancerClass=None)
    stage.settle()
    assert (counted, stage.things()) == ([], set())


def test_c05_a_foreign_class_is_not_touched(kube, stage, counted):
    kube.service(loadBalancerClass="example.com/other")
    stage.settle()
    assert (counted, stage.things(), kube.get()["status"].get("conditions")) == ([], set(), None)


def test_a_class_less_service_is_for_the_default_alone(kube, make_stage):
    kube.service(loadBalancerClass=None)
    make_stage().settle()
    assert kube.finalizers() == []
    make_stage(default="memory").settle()
    assert kube.finalizers() == [OURS]


def test_c06_leaving_the_type_takes_everything_away(kube, stage):
    kube.service()
    stage.settle()
    kube.patch({"spec": {"type": "ClusterIP", "loadBalancerClass": None, "externalTrafficPolicy": None}})
    stage.settle()
    assert (kube.finalizers(), kube.ingress(), kube.condition(READY), stage.things()) == ([], [], None, set())


def test_c07_a_deleted_service_waits_for_the_cloud_and_then_goes(kube, stage, wait):
    kube.service()
    stage.settle()
    kube.delete()
    assert kube.get()["metadata"]["deletionTimestamp"]
    stage.settle()
    assert (kube.get(), stage.things()) == (None, set())


def test_the_status_is_not_cleared_of_what_is_being_deleted(kube, stage, counted):
    kube.service()
    stage.settle()
    counted.clear()
    kube.delete()
    stage.settle()
    assert counted == ["status"]


def test_c08_a_claim_that_is_there_is_not_written_again(kube, stage, counted):
    kube.service()
    kube.patch({"metadata": {"finalizers": [OURS]}})
    stage.settle()
    assert counted == ["status"]


def test_c09_a_claim_without_anything_in_the_cloud_is_just_released(kube, stage, counted):
    kube.service()
    kube.patch({"metadata": {"finalizers": [OURS]}})
    kube.delete()
    stage.settle()
    assert (kube.get(), counted) == (None, ["status"])


def failing(stage, error):
    """From now on the cloud fails like this."""
    real = stage.provider.apply
    stage.provider.apply = lambda changes: [error] * len(changes)
    return lambda: setattr(stage.provider, "apply", real)


def test_c11_a_failed_delete_keeps_the_claim(kube, stage):
    kube.service()
    stage.settle()
    kube.delete()
    mend = failing(stage, Unavailable("the cloud is down"))
    stage.catch_up()
    stage.path.apply(stage.plan(), 20)
    assert kube.finalizers() == [OURS]
    mend()
    stage.settle()
    assert kube.get() is None


def test_c10_a_cloud_that_cannot_be_read_keeps_the_claim(kube, stage):
    kube.service()
    stage.settle()
    kube.delete()
    stage.catch_up()
    observe, stage.provider.observe = stage.provider.observe, None
    with pytest.raises(TypeError):
        stage.plan()
    stage.provider.observe = observe
    assert kube.finalizers() == [OURS]


def test_c14_a_failed_create_says_why_and_keeps_the_claim(kube, stage):
    kube.service()
    mend = failing(stage, Refused("no more load balancers: raise the quota", reason="quota"))
    stage.catch_up()
    stage.path.apply(stage.plan(), 20)
    stage.catch_up()
    assert (kube.finalizers(), ready(kube), kube.ingress()) == ([OURS], ("False", "quota"), [])
    mend()
    stage.settle()
    assert ready(kube) == ("True", "ready")


def test_c19_a_conflict_is_retried(kube, stage):
    kube.service()
    stage.catch_up()
    plan = stage.plan()
    kube.patch({"metadata": {"labels": {"somebody": "else"}}})
    stage.path.apply(plan, 20)
    assert kube.get()["metadata"]["labels"] == {"somebody": "else"}
    assert ready(kube) == ("True", "ready")


def test_c20_a_service_that_vanishes_in_the_middle_leaves_nothing(kube, stage):
    kube.service()
    stage.catch_up()
    plan = stage.plan()
    kube.delete()
    stage.path.apply(plan, 20)
    stage.settle()
    assert (kube.get(), stage.things()) == (None, set())


def test_c21_a_second_look_writes_nothing(kube, stage, counted):
    kube.service()
    stage.settle()
    counted.clear()
    stage.settle()
    assert counted == []


def test_c22_a_wiped_status_is_written_again(kube, stage):
    kube.service()
    stage.settle()
    before = kube.ingress()
    kube.patch({"status": {"loadBalancer": {"ingress": None}, "conditions": None}}, sub="status")
    stage.settle()
    assert (kube.ingress(), ready(kube)) == (before, ("True", "ready"))


def test_c23_another_ip_mode_is_put_right(kube, stage):
    kube.service()
    stage.settle()
    entry = kube.ingress()[0]
    kube.patch({"status": {"loadBalancer": {"ingress": [{**entry, "ipMode": "Proxy"}]}}}, sub="status")
    stage.settle()
    assert kube.ingress()[0]["ipMode"] == "VIP"


def test_c25_other_finalizers_survive_ours_coming_and_going(kube, stage):
    kube.service()
    kube.patch({"metadata": {"finalizers": ["example.com/foo"]}})
    stage.settle()
    assert sorted(kube.finalizers()) == ["example.com/foo", OURS]
    kube.delete()
    stage.settle()
    assert kube.finalizers() == ["example.com/foo"]


def test_c26_what_a_user_edits_between_our_look_and_our_write_survives(kube, stage):
    kube.service()
    stage.catch_up()
    plan = stage.plan()
    kube.patch({"metadata": {"annotations": {"mine": "yes"}, "finalizers": ["example.com/foo"]}})
    kube.patch({"spec": {"sessionAffinity": "ClientIP"}})
    stage.path.apply(plan, 20)
    service = kube.get()
    assert service["metadata"]["annotations"] == {"mine": "yes"}
    assert service["spec"]["sessionAffinity"] == "ClientIP"
    assert sorted(service["metadata"]["finalizers"]) == ["example.com/foo", OURS]


def test_conditions_of_others_survive_ours(kube, stage):
    kube.service()
    theirs = {
        "type": "example.com/X", "status": "True", "reason": "Y", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    kube.patch({"status": {"conditions": [theirs]}}, sub="status", kind=STRATEGIC)
    stage.settle()
    assert kube.condition("example.com/X")["reason"] == "Y"
    assert ready(kube) == ("True", "ready")


def test_c27_a_namesake_with_another_uid_is_served_anew(kube, stage):
    first = kube.service()
    stage.settle()
    kube.patch({"metadata": {"finalizers": None}})
    kube.delete()
    second = kube.service()
    stage.settle()
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert (kube.finalizers(), ready(kube)) == ([OURS], ("True", "ready"))


def test_a_patch_for_the_first_never_lands_on_its_namesake(kube, stage):
    kube.service()
    stage.catch_up()
    plan = stage.plan()
    for reflector in stage.reflectors:
        reflector.stop()
    kube.delete()
    kube.service()
    report = stage.path.apply(plan, 20)
    assert kube.finalizers() == []
    assert [result.reason for result in report.failed] == ["service-gone"]
    assert not stage.things() & {"address", "listener"}


def test_c29_what_went_without_a_trace_is_collected(kube, make_stage):
    stage = make_stage(claims=False)
    kube.service()
    stage.settle()
    assert kube.finalizers() == []
    kube.delete()
    stage.settle()
    assert stage.things() == set()


def test_c35_to_c46_a_changed_service_is_served_as_it_asks_now(kube, stage):
    kube.service()
    stage.settle()
    kube.patch({"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 443, "name": "https"}]}})
    stage.settle()
    assert len(stage.cloud.list("listener")) == 2


def test_c48_labels_and_selectors_cost_nothing(kube, stage, counted):
    kube.service()
    stage.settle()
    counted.clear()
    kube.patch({"metadata": {"labels": {"a": "b"}}, "spec": {"selector": {"app": "other"}}})
    stage.catch_up()
    assert writes(stage.plan()) == []


def test_c53_nothing_is_begun_for_what_is_being_deleted(kube, stage, counted):
    kube.service()
    kube.patch({"metadata": {"finalizers": ["example.com/foo"]}})
    kube.delete()
    stage.settle()
    assert (counted, stage.things()) == ([], set())


def test_a_finalizer_is_never_added_to_what_began_to_go_meanwhile(kube, stage):
    kube.service()
    kube.patch({"metadata": {"finalizers": ["example.com/foo"]}})
    stage.catch_up()
    plan = stage.plan()
    for reflector in stage.reflectors:
        reflector.stop()
    kube.delete()
    report = stage.path.apply(plan, 20)
    assert kube.finalizers() == ["example.com/foo"]
    assert [result.reason for result in report.failed] == ["service-gone"]
    assert not stage.things() & {"address", "listener"}


def test_a_guarded_address_is_not_written_over_what_somebody_changed_meanwhile(kube, make_stage):
    stage = make_stage(claims=False, guard=True)
    kube.service()
    stage.catch_up()
    plan = stage.plan()
    kube.patch({"metadata": {"annotations": {"a": "b"}}})
    report = stage.path.apply(plan, 20)
    assert [result.reason for result in report.failed] == ["conflict"]
    assert kube.ingress() == []
    stage.settle()
    assert kube.ingress()


def test_c56_a_new_node_reaches_every_service(kube, stage):
    for name in ("a", "b", "c"):
        kube.service(name)
    for name in ("a", "b", "c"):
        stage.settle(name)
    stage.nodes("n1", "n2", "n3")
    assert {change.owner for change in stage.plan().changes} >= {f"{kube.namespace}/{n}" for n in "abc"}


def test_c54_c55_nodes_are_nobodys_business_without_a_service_of_ours(kube, stage):
    kube.service(type="NodePort", loadBalancerClass=None)
    stage.settle()
    stage.nodes("n1", "n2", "n3")
    assert writes(stage.plan()) == []


def test_c60_the_same_nodes_change_nothing(kube, stage):
    kube.service()
    stage.settle()
    stage.nodes("n2", "n1")
    assert writes(stage.plan()) == []


def test_without_nodes_it_is_served_and_says_that_it_leads_nowhere(kube, stage):
    stage.nodes()
    kube.service()
    stage.settle()
    assert kube.ingress()
    assert kube.condition(SERVING)["reason"] == "no-nodes"


def test_endpoints_are_told_without_holding_the_address_back(kube, stage, wait):
    kube.service()
    stage.settle()
    assert kube.condition(SERVING)["reason"] == "no-endpoints"
    body = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": {"ready": True}}],
    }  # fmt: skip
    kube.post(f"/apis/discovery.k8s.io/v1/namespaces/{kube.namespace}/endpointslices", body)
    wait(lambda: len(stage.stores.slices) == 1)
    stage.settle()
    assert (kube.condition(SERVING)["status"], kube.condition(SERVING)["reason"]) == ("True", "serving")


@pytest.mark.parametrize("finalizer", ["service.kubernetes.io/load-balancer-cleanup", "service.k8s.aws/resources"])
def test_what_another_controller_holds_is_left_alone_and_told_so(kube, make_stage, finalizer):
    kube.service(loadBalancerClass=None)
    kube.patch({"metadata": {"finalizers": [finalizer]}})
    kube.patch({"status": {"loadBalancer": {"ingress": [{"hostname": "theirs.example.com"}]}}}, sub="status")
    stage = make_stage(default="memory")
    stage.settle()
    stage.settle()
    assert kube.ingress() == [{"hostname": "theirs.example.com"}]
    assert (kube.finalizers(), ready(kube)) == ([finalizer], ("False", "served-elsewhere"))
    assert stage.things() == set()


def test_a_status_that_we_did_not_write_is_left_alone_look_after_look(kube, make_stage):
    kube.service(loadBalancerClass=None)
    kube.patch({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}}, sub="status")
    for _ in range(2):
        make_stage(default="memory").settle()
    assert (kube.ingress()[0]["ip"], ready(kube)) == ("192.0.2.9", ("False", "served-elsewhere"))


def test_somebody_who_overwrites_us_twice_is_left_alone(kube, stage):
    kube.service()
    stage.settle()
    for n in range(3):
        kube.patch({"status": {"loadBalancer": {"ingress": [{"ip": f"192.0.2.{n}"}]}}}, sub="status")
        stage.settle()
    assert ready(kube) == ("False", "OwnershipConflict")
    assert kube.ingress()[0]["ip"] == "192.0.2.2"
    kube.patch({"metadata": {"annotations": {"try": "again"}}})
    stage.settle()
    assert ready(kube) == ("True", "ready")


def test_a_lost_claim_is_made_again(kube, stage):
    kube.service()
    stage.settle()
    kube.patch({"metadata": {"finalizers": None}})
    stage.settle()
    assert kube.finalizers() == [OURS]


def test_a_claim_that_is_made_again_does_not_unsettle_a_service_that_is_ready(kube, stage):
    kube.service()
    stage.settle()
    since = kube.condition(READY)["lastTransitionTime"]
    kube.patch({"metadata": {"finalizers": None}})
    stage.settle()
    assert (ready(kube), kube.condition(READY)["lastTransitionTime"]) == (("True", "ready"), since)


@pytest.mark.parametrize("path", sorted(SERVICES.glob("*.yaml")), ids=lambda path: path.stem)
def test_real_services_get_an_address_or_a_reason(kube, make_stage, path):
    body = yaml.safe_load(path.read_text())
    body["metadata"]["namespace"] = kube.namespace
    kube.post(kube.path("services"), body)
    make_stage(default="memory").settle(body["metadata"]["name"])
    condition = kube.condition(READY, body["metadata"]["name"])
    served = bool(kube.ingress(body["metadata"]["name"]))
    assert served == (condition["status"] == "True")
    assert condition["message"]


def test_a_restart_finds_everything_as_it_was(kube, stage, make_stage):
    kube.service()
    stage.settle()
    again = make_stage()
    again.cloud.__dict__.update(stage.cloud.__dict__)
    assert writes(again.plan()) == []
