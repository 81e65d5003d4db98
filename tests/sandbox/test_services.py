"""A Service's rules: what is filled in, what is kept, what goes with a type, what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbctl.sandbox.kube import KubeSandbox
from lbctl.sandbox.kube.services import Numbers, Taken

SERVICES = "/api/v1/namespaces/default/services"
WEB = f"{SERVICES}/web"
STATUS = f"{WEB}/status"
EXAMPLES = sorted((Path(__file__).parents[1] / "services").glob("*.yaml"))

Make = Callable[..., dict[str, Any]]


def ports(*numbers: int, **more: Any) -> list[dict[str, Any]]:
    return [{"name": f"p{number}", "port": number, **more} for number in numbers]


def address(**ingress: Any) -> dict[str, Any]:
    return {"status": {"loadBalancer": {"ingress": [ingress]}}}


def test_a_load_balancer_gets_the_real_defaults(make: Make):
    made = make()

    cluster_ip = made["spec"]["clusterIP"]
    assert made["status"] == {"loadBalancer": {}}
    assert made["spec"] == {
        "allocateLoadBalancerNodePorts": True,
        "clusterIP": cluster_ip,
        "clusterIPs": [cluster_ip],
        "externalTrafficPolicy": "Cluster",
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"nodePort": 30086, "port": 80, "protocol": "TCP", "targetPort": 80}],
        "selector": {"app": "web"},
        "sessionAffinity": "None",
        "type": "LoadBalancer",
    }


def test_affinity_lasts_three_hours_unless_said(make: Make):
    assert make(sessionAffinity="ClientIP")["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}


def test_dual_stack_gets_an_address_of_each_family(make: Make):
    spec = make(ipFamilyPolicy="PreferDualStack")["spec"]

    assert spec["ipFamilies"] == ["IPv4", "IPv6"]
    assert [":" in ip for ip in spec["clusterIPs"]] == [False, True]


def test_a_second_family_comes_and_goes(raw, make: Make):
    make()
    up = raw.patch(WEB, {"spec": {"ipFamilyPolicy": "RequireDualStack"}}).body["spec"]
    down = raw.patch(WEB, {"spec": {"ipFamilyPolicy": "SingleStack"}}).body["spec"]

    assert (len(up["clusterIPs"]), up["ipFamilies"]) == (2, ["IPv4", "IPv6"])
    assert (down["clusterIPs"], down["ipFamilies"]) == (up["clusterIPs"][:1], ["IPv4"])


def test_releasing_the_second_family_must_be_said(raw, make: Make):
    make(ipFamilyPolicy="RequireDualStack")

    assert "spec.ipFamilyPolicy" in raw.patch(WEB, {"spec": {"ipFamilies": ["IPv4"]}}).causes


def test_headless_services_have_no_address(raw, make: Make):
    spec = make(type="ClusterIP", clusterIP="None")["spec"]

    assert (spec["clusterIPs"], "nodePort" in spec["ports"][0]) == (["None"], False)


def test_a_cluster_ip_is_given_once(raw, make: Make):
    taken = make("a")["spec"]["clusterIP"]

    answer = raw.post(SERVICES, {"metadata": {"name": "b"}, "spec": {"clusterIP": taken, "ports": [{"port": 1}]}})

    assert "provided IP is already allocated" in answer.causes["spec.clusterIPs"]


def test_a_manifest_sent_again_keeps_what_was_allocated(raw, make: Make):
    before = make(ports=ports(80, 443), externalTrafficPolicy="Local")
    manifest = {"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer", "ports": ports(80, 443)}}
    manifest["spec"]["externalTrafficPolicy"] = "Local"

    after = raw.put(WEB, manifest).body

    for name in ("clusterIP", "ports", "healthCheckNodePort"):
        assert after["spec"][name] == before["spec"][name]


def test_a_port_keeps_its_node_port_by_name(raw, make: Make):
    before = make(ports=[{"name": "http", "port": 80}])["spec"]["ports"][0]

    after = raw.patch(WEB, [{"op": "replace", "path": "/spec/ports", "value": [{"name": "http", "port": 8080}]}],
                      "application/json-patch+json")  # fmt: skip

    assert after.body["spec"]["ports"][0]["nodePort"] == before["nodePort"]


def test_tcp_and_udp_of_one_port_share_a_node_port(make: Make):
    both = [{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]

    assert len({port["nodePort"] for port in make(ports=both)["spec"]["ports"]}) == 1


def test_a_node_port_is_given_once_and_comes_back(raw, make: Make):
    make("a", ports=[{"port": 80, "nodePort": 30000}])
    wanted = {"metadata": {"name": "b"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}}

    assert raw.post(SERVICES, wanted).causes["spec.ports[0].nodePort"].endswith("provided port is already allocated")
    raw.delete(f"{SERVICES}/a")
    assert raw.post(SERVICES, wanted).code == 201


def test_a_dry_run_takes_no_node_port(raw, make: Make):
    wanted = {"metadata": {"name": "b"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}}

    assert [raw.post(SERVICES, wanted, dryRun="All").code, raw.post(SERVICES, wanted).code] == [201, 201]


def test_a_node_port_outside_the_range_is_refused(raw):
    wanted = {"metadata": {"name": "b"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}}

    assert "The range of valid ports is 30000-32767" in raw.post(SERVICES, wanted).causes["spec.ports[0].nodePort"]


def test_the_range_of_node_ports_can_be_said_and_runs_out():
    with KubeSandbox(node_port_range=(40000, 40000)) as small:
        spec = {"type": "NodePort", "ports": [{"port": 80}]}
        made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec}

        assert small.seed([made])[0]["spec"]["ports"][0]["nodePort"] == 40000
        with pytest.raises(Exception, match="failed to allocate a nodePort: range is full"):
            small.seed([made | {"metadata": {"name": "b"}}])


def test_no_node_ports_when_none_are_wanted(raw, make: Make):
    made = make(allocateLoadBalancerNodePorts=False)

    assert "nodePort" not in made["spec"]["ports"][0]
    allowed = raw.patch(WEB, {"spec": {"allocateLoadBalancerNodePorts": True}}).body
    assert allowed["spec"]["ports"][0]["nodePort"]


def test_node_ports_stay_when_allocation_is_switched_off(raw, make: Make):
    before = make()["spec"]["ports"]

    assert raw.patch(WEB, {"spec": {"allocateLoadBalancerNodePorts": False}}).body["spec"]["ports"] == before


def test_local_traffic_needs_a_port_to_check_and_cluster_traffic_does_not(raw, make: Make):
    local = make(externalTrafficPolicy="Local")["spec"]["healthCheckNodePort"]

    assert local >= 30000
    assert "healthCheckNodePort" not in raw.patch(WEB, {"spec": {"externalTrafficPolicy": "Cluster"}}).body["spec"]
    assert raw.patch(WEB, {"spec": {"externalTrafficPolicy": "Local"}}).body["spec"]["healthCheckNodePort"]


def test_the_health_check_port_stays(raw, make: Make):
    make(externalTrafficPolicy="Local", healthCheckNodePort=30001)

    assert raw.patch(WEB, {"spec": {"healthCheckNodePort": 30002}}).causes == {
        "spec.healthCheckNodePort": "Forbidden: field is immutable"
    }


def test_leaving_the_type_wipes_what_belongs_to_it(raw, make: Make):
    make(loadBalancerClass="lbctl.io/aws", externalTrafficPolicy="Local")
    raw.patch(STATUS, address(ip="192.0.2.1"))

    left = raw.patch(WEB, {"spec": {"type": "ClusterIP"}}).body

    assert left["status"] == {"loadBalancer": {}}
    gone = {"loadBalancerClass", "healthCheckNodePort", "allocateLoadBalancerNodePorts", "externalTrafficPolicy"}
    assert not gone & {*left["spec"]}
    assert "nodePort" not in left["spec"]["ports"][0]


def test_leaving_for_a_node_port_keeps_the_node_ports(raw, make: Make):
    before = make()["spec"]["ports"]

    assert raw.patch(WEB, {"spec": {"type": "NodePort"}}).body["spec"]["ports"] == before


def test_an_external_name_has_no_addresses(raw, make: Make):
    make()

    left = raw.patch(WEB, {"spec": {"type": "ExternalName", "externalName": "db.example.com"}}).body["spec"]

    assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & {*left}


@pytest.mark.parametrize(
    ("before", "after"), [("lbctl.io/a", "lbctl.io/b"), (None, "lbctl.io/b"), ("lbctl.io/a", None)]
)
def test_the_class_of_a_load_balancer_stays(raw, make: Make, before: str | None, after: str | None):
    make(**({"loadBalancerClass": before} if before else {}))

    answer = raw.patch(WEB, {"spec": {"loadBalancerClass": after}})

    assert answer.code == 422
    assert answer.causes["spec.loadBalancerClass"].endswith("may not change once set")


def test_a_class_changes_by_way_of_another_type(raw, make: Make):
    make(loadBalancerClass="lbctl.io/a")
    raw.patch(WEB, {"spec": {"type": "ClusterIP"}})

    back = raw.patch(WEB, {"spec": {"type": "LoadBalancer", "loadBalancerClass": "lbctl.io/b"}}).body

    assert back["spec"]["loadBalancerClass"] == "lbctl.io/b"


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"ports": []}, "spec.ports", "Required value"),
        ({"ports": [{"port": 80}, {"port": 81}]}, "spec.ports[0].name", "Required value"),
        ({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}, "spec.ports[1].name", "Duplicate value"),
        ({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}, "spec.ports[1]", "Duplicate value"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port", "must be between 1 and 65535"),
        ({"ports": [{"port": 80, "protocol": "HTTP"}]}, "spec.ports[0].protocol", '"SCTP", "TCP", "UDP"'),
        ({"ports": [{"port": 80, "targetPort": "Not_A_Port"}]}, "spec.ports[0].targetPort", "alpha-numeric"),
        ({"ports": [{"port": 80, "targetPort": 70000}]}, "spec.ports[0].targetPort", "must be between 1 and 65535"),
        ({"ports": [{"port": 80, "appProtocol": "a b"}]}, "spec.ports[0].appProtocol", "name part"),
        ({"loadBalancerSourceRanges": ["10.0.0.0"]}, "spec.LoadBalancerSourceRanges[0]", "must be a valid CIDR value"),
        ({"loadBalancerClass": "not a name"}, "spec.loadBalancerClass", "name part"),
        ({"sessionAffinity": "Cookie"}, "spec.sessionAffinity", "Unsupported value"),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds", "less than 86400",
        ),
        ({"externalTrafficPolicy": "Global"}, "spec.externalTrafficPolicy", "Unsupported value"),
        ({"type": "Balancer"}, "spec.type", "Unsupported value"),
        ({"clusterIP": "None"}, "spec.clusterIPs[0]", "may not be set to 'None'"),
        ({"ipFamilies": ["IPv4", "IPv4"]}, "spec.ipFamilies[1]", "Duplicate value"),
        ({"ipFamilies": ["IPv5"]}, "spec.ipFamilies[0]", "Unsupported value"),
        ({"externalIPs": ["127.0.0.1"]}, "spec.externalIPs[0]", "may not be in the loopback range"),
        ({"healthCheckNodePort": 30001}, "spec.healthCheckNodePort", "may only be set when"),
        ({"type": "ClusterIP", "loadBalancerClass": "a/b"}, "spec.loadBalancerClass", "may only be used when"),
        ({"type": "ClusterIP", "externalTrafficPolicy": "Local"}, "spec.externalTrafficPolicy", "externally-acc"),
        ({"type": "ClusterIP", "ports": [{"port": 1, "nodePort": 30001}]}, "spec.ports[0].nodePort", "may not be used"),
        ({"type": "ExternalName"}, "spec.externalName", "Required value"),
        ({"trafficDistribution": "Far"}, "spec.trafficDistribution", "Unsupported value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_field(raw, spec: dict[str, Any], field: str, message: str):
    full = {"type": "LoadBalancer", "ports": [{"port": 80}]} | spec

    answer = raw.post(SERVICES, {"metadata": {"name": "web"}, "spec": full})

    assert (answer.code, answer.body["reason"]) == (422, "Invalid")
    assert message in answer.causes[field]


def test_names_of_services_begin_with_a_letter(raw):
    answer = raw.post(SERVICES, {"metadata": {"name": "1web"}, "spec": {"ports": [{"port": 80}]}})

    assert "DNS-1035 label" in answer.causes["metadata.name"]


def test_source_ranges_may_have_spaces_around_them(make: Make):
    assert make(loadBalancerSourceRanges=[" 10.0.0.0/8 "])


def test_several_causes_come_at_once(raw):
    wrong = {"type": "LoadBalancer", "ports": [{"port": 0, "protocol": "X"}]}

    answer = raw.post(SERVICES, {"metadata": {"name": "web"}, "spec": wrong})

    assert {"spec.ports[0].port", "spec.ports[0].protocol"} <= {*answer.causes}
    assert answer.body["message"].startswith('Service "web" is invalid: [')


def test_a_status_is_written_by_its_subresource_only(raw, make: Make):
    make()

    assert raw.patch(WEB, address(ip="192.0.2.1")).body["status"] == {"loadBalancer": {}}
    assert raw.patch(STATUS, {"spec": {"sessionAffinity": "ClientIP"}}).body["spec"]["sessionAffinity"] == "None"


def test_a_status_write_takes_metadata_along(raw, make: Make):
    make()

    written = raw.patch(STATUS, {"metadata": {"finalizers": ["lbctl.io/aws"], "labels": {"a": "b"}}}).body["metadata"]

    assert (written["finalizers"], written["labels"]) == (["lbctl.io/aws"], {"a": "b"})


def test_an_address_is_vip_unless_said(raw, make: Make):
    make()

    assert raw.patch(STATUS, address(ip="192.0.2.1")).body["status"]["loadBalancer"]["ingress"] == [
        {"ip": "192.0.2.1", "ipMode": "VIP"}
    ]


def test_conditions_merge_by_type(raw, make: Make):
    make()
    for name, state in (("a", "True"), ("b", "True"), ("a", "False")):
        condition = {"type": name, "status": state, "reason": "R", "message": "", "lastTransitionTime": None}
        raw.patch(STATUS, {"status": {"conditions": [condition]}})

    conditions = raw.get(WEB).body["status"]["conditions"]

    assert {item["type"]: item["status"] for item in conditions} == {"a": "False", "b": "True"}
    assert conditions[0]["lastTransitionTime"] is None


@pytest.mark.parametrize(
    ("ingress", "field"),
    [
        ({"ip": "x"}, "ip"),
        ({"ip": "192.0.2.1", "ipMode": "Maybe"}, "ipMode"),
        ({"hostname": "a.example.com", "ipMode": "VIP"}, "ipMode"),
        ({"hostname": "Not A Name"}, "hostname"),
        ({"hostname": "192.0.2.1"}, "hostname"),
    ],
)
def test_a_bad_address_is_refused(raw, make: Make, ingress: dict[str, str], field: str):
    make()

    assert f"status.loadBalancer.ingress[0].{field}" in raw.patch(STATUS, address(**ingress)).causes


def test_only_load_balancers_have_addresses(raw, make: Make):
    make(type="ClusterIP")

    assert raw.patch(STATUS, address(ip="192.0.2.1")).causes == {
        "status.loadBalancer.ingress": "Forbidden: may only be used when `spec.type` is 'LoadBalancer'"
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_services_are_taken(raw, path: Path):
    for manifest in yaml.safe_load_all(path.read_text()):
        namespace = manifest["metadata"].get("namespace", "default")
        raw.post("/api/v1/namespaces", {"metadata": {"name": namespace}})

        answer = raw.post(f"/api/v1/namespaces/{namespace}/services", manifest, fieldValidation="Strict")

        assert answer.code == 201, answer.body


def test_numbers_come_from_the_upper_part_first_and_are_not_reused_at_once():
    numbers = Numbers(30000, 32767)

    first = numbers.pick()
    numbers.take(first)
    numbers.give_back(first)

    assert (first, numbers.pick()) == (30086, 30087)


def test_every_number_can_be_had_before_the_range_is_full():
    numbers = Numbers(1, 40)
    for _ in range(40):
        numbers.take(numbers.pick())

    with pytest.raises(Taken, match="range is full"):
        numbers.pick()
