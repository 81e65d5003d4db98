"""Services made into load balancers."""

from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl import intent
from lbctl.kube import objects, read
from lbctl.model import READY, Endpoints

BASE = {
    "metadata": {"name": "web", "namespace": "default", "uid": "u1", "resourceVersion": "7"},
    "spec": {"type": "LoadBalancer", "loadBalancerClass": "lbctl.io/aws", "ports": [{"port": 80, "nodePort": 30080}]},
}


def service(spec=None, metadata=None, status=None):
    return msgspec.convert(
        {
            "metadata": {**BASE["metadata"], **(metadata or {})},
            "spec": {**BASE["spec"], **(spec or {})},
            "status": status or {},
        },
        objects.Service,
    )


def read_it(provider="aws", **parts):
    return read.load_balancer(service(**parts), (), Endpoints(), provider=provider)


def problem(**parts):
    found = read_it(**parts).problem
    return found and found.reason


BETA = "service.beta.kubernetes.io/"
CLASSLESS = {"loadBalancerClass": None}


def test_what_a_service_asks_for_is_read_whole():
    lb = read_it(
        spec={
            "ports": [{"port": 443, "name": "tls", "protocol": "TCP", "nodePort": 30443, "targetPort": "web"}],
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 31000,
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "PreferDualStack",
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "loadBalancerIP": "192.0.2.1",
        }
    )
    assert (lb.owner, lb.uid, lb.load_balancer_class) == ("default/web", "u1", "lbctl.io/aws")
    assert (lb.ports[0].target_port, lb.ports[0].node_port, lb.health_check_node_port) == ("web", 30443, 31000)
    assert (lb.external_traffic_policy, lb.session_affinity, lb.affinity_timeout) == ("Local", "ClientIP", 60)
    assert (lb.ip_families, lb.source_ranges) == (("IPv4", "IPv6"), (ip_network("10.0.0.0/8"),))
    assert lb.requested_addresses == (ip_address("192.0.2.1"),)
    assert lb.problem is None


@pytest.mark.parametrize(("name", "way"), [
    ("lbctl.io/shceme", "did you mean lbctl.io/scheme? If not, remove it"),
    ("lbctl.io/loadbalancer-ips", "did you mean lbctl.io/load-balancer-ips? If not, remove it"),
    ("lbctl.io/colour", "check its spelling, or remove it"),
])
def test_a_slip_of_the_pen_in_our_own_name_is_refused(name, way):
    found = read_it(metadata={"annotations": {name: "internal"}}).problem
    assert (found.reason, found.message) == ("unknown-annotation", f"annotation {name} is not known: {way}")


def test_every_provider_s_own_names_are_known():
    from lbctl_aws import annotations as aws
    from lbctl_l2 import annotations as l2

    names = {name for name in (*l2.POOL, *l2.SHARING, aws.NAME, aws.TAGS) if name.startswith(intent.OURS)}
    assert names | {intent.SCHEME, intent.SOURCE_RANGES, intent.ADDRESSES} == intent.OWN
    assert not any(read_it(metadata={"annotations": {name: ""}}).problem for name in intent.OWN - {intent.SCHEME})


@pytest.mark.parametrize(
    ("spec", "default", "expected"),
    [
        ({}, None, True),
        ({"loadBalancerClass": "lbctl.io/gcp"}, "aws", False),
        ({"loadBalancerClass": "example.com/other"}, "aws", False),
        (CLASSLESS, "aws", True),
        (CLASSLESS, "gcp", False),
        (CLASSLESS, None, False),
        ({"type": "ClusterIP"}, "aws", False),
    ],
)
def test_the_table_of_who_serves(spec, default, expected):
    assert read.wants(service(spec), provider="aws", default_provider=default) is expected


def test_a_service_that_is_being_deleted_wants_nothing():
    leaving = service(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert not read.wants(leaving, provider="aws", default_provider=None)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"spec": {"ports": []}}, "no-ports"),
        ({"spec": {"ports": [{"port": 80}, {"port": 80}]}}, "duplicate-port"),
        ({"spec": {"ports": [{"port": 80}, {"port": 80, "protocol": "UDP"}]}}, None),
        ({"spec": {"ports": [{"port": 70000}]}}, "bad-port"),
        ({"spec": {"loadBalancerSourceRanges": ["10.0.0.0"]}}, "bad-source-range"),
        ({"spec": {"loadBalancerSourceRanges": ["everyone"]}}, "bad-source-range"),
        ({"spec": {"loadBalancerSourceRanges": ["2001:db8::/32"]}}, "source-range-family"),
        ({"spec": {"loadBalancerIP": "web.example.com"}}, "bad-address"),
        ({"metadata": {"annotations": {"lbctl.io/scheme": "secret"}}}, "bad-scheme"),
        ({"metadata": {"annotations": {"a": "x" * 300_000}}}, "annotations-too-large"),
        ({"metadata": {"annotations": {f"{BETA}azure-allowed-ip-ranges": "x"}}}, "foreign-annotation"),
        (
            {"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}},
            "bad-affinity-timeout",
        ),
    ],
)  # fmt: skip
def test_the_table_of_what_nobody_can_serve(parts, reason):
    assert problem(**parts) == reason


@pytest.mark.parametrize(
    ("finalizers", "status", "expected"),
    [
        ([], {}, []),
        (["lbctl.io/aws"], {}, [30080]),
        ([], {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}, "conditions": [{"type": READY}]}, [30080]),
        ([], {"conditions": [{"type": READY, "status": "False", "reason": "bad-scheme"}]}, []),
    ],
)
def test_a_service_with_a_problem_says_its_ports_if_it_has_something_to_keep(finalizers, status, expected):
    metadata = {"annotations": {"lbctl.io/scheme": "secret"}, "finalizers": finalizers}
    lb = read_it(metadata=metadata, status=status)
    assert lb.problem is not None
    assert [port.node_port for port in lb.ports] == expected


def test_ten_megabytes_of_annotations_are_not_carried_along():
    lb = read_it(metadata={"annotations": {"a": "x" * 10_000_000}})
    assert lb.problem is not None
    assert lb.annotations == {}


@pytest.mark.parametrize(
    "finalizer",
    [
        "service.kubernetes.io/load-balancer-cleanup",
        "service.k8s.aws/resources",
        "gke.networking.io/l4-netlb-v1",
        "networking.gke.io/l4-ilb-v2",
    ],
)
def test_what_another_controller_holds_is_left_to_it(finalizer):
    assert problem(spec=CLASSLESS, metadata={"finalizers": [finalizer]}) == "served-elsewhere"
    assert problem(metadata={"finalizers": [finalizer]}) is None


def addressed(**ready):
    conditions = [{"type": READY, "status": "True", "lastTransitionTime": None, **ready}] if ready else []
    return {"loadBalancer": {"ingress": [{"hostname": "x.example.com"}]}, "conditions": conditions}


def test_a_status_that_we_did_not_write_is_left_alone():
    assert problem(spec=CLASSLESS, status=addressed()) == "served-elsewhere"
    assert problem(spec=CLASSLESS, status=addressed(reason="ready")) is None
    assert problem(status=addressed()) is None


def test_saying_so_does_not_make_it_ours():
    assert problem(spec=CLASSLESS, status=addressed(reason="served-elsewhere")) == "served-elsewhere"


def test_a_claim_makes_a_status_ours_even_if_somebody_wiped_the_conditions():
    assert problem(spec=CLASSLESS, status=addressed(), metadata={"finalizers": ["lbctl.io/aws"]}) is None


def test_a_status_out_of_our_pools_is_adopted():
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    adopted = read.load_balancer(service(CLASSLESS, status=status), (), None, provider="l2", adopts=lambda _: True)
    assert adopted.problem is None
    assert adopted.status[0].ip_mode == "VIP"


@pytest.mark.parametrize(
    ("metadata", "spec", "expected"),
    [
        ({}, {"ports": [{"port": 80}]}, 0),
        ({"uid": "", "resourceVersion": ""}, {"ports": [{"port": 80}]}, None),
        ({"uid": "", "resourceVersion": ""}, {"ports": [{"port": 80, "nodePort": 30001}]}, 30001),
        ({"uid": "", "resourceVersion": ""}, {"ports": [{"port": 80}], "allocateLoadBalancerNodePorts": False}, 0),
    ],
)
def test_a_node_port_is_unknown_only_before_the_cluster_gave_one(metadata, spec, expected):
    assert read_it(metadata=metadata, spec=spec).ports[0].node_port == expected


PORT = {"port": 80, "nodePort": 30080}
ENQUEUED = {
    "C34 loadBalancerIP": {"loadBalancerIP": "192.0.2.9"},
    "C35 type": {"type": "ClusterIP"},
    "C36 port number": {"ports": [{**PORT, "port": 81}]},
    "C36 port count": {"ports": [PORT, {"port": 81}]},
    "C37 externalIPs count": {"externalIPs": ["192.0.2.2"]},
    "C40 externalTrafficPolicy": {"externalTrafficPolicy": "Local"},
    "C41 healthCheckNodePort": {"healthCheckNodePort": 31000},
    "C42 targetPort": {"ports": [{**PORT, "targetPort": 21}]},
    "C43 targetPort name": {"ports": [{**PORT, "targetPort": "dns"}]},
    "C44 appProtocol": {"ports": [{**PORT, "appProtocol": "http"}]},
    "C45 ipFamilies": {"ipFamilies": ["IPv4", "IPv6"]},
    "C46 sourceRanges": {"loadBalancerSourceRanges": ["10.0.0.0/8"]},
    "C46 sessionAffinity": {"sessionAffinity": "ClientIP"},
    "C46 affinity timeout": {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}},
    "C46 port name": {"ports": [{**PORT, "name": "x"}]},
    "C46 protocol": {"ports": [{**PORT, "protocol": "UDP"}]},
    "C46 nodePort": {"ports": [{**PORT, "nodePort": 30081}]},
}


@pytest.mark.parametrize("change", ENQUEUED.values(), ids=ENQUEUED.keys())
def test_a_change_of_what_it_asks_for_matters(change):
    assert read.needs_update(service(), service(change))
    assert read.needs_update(service(change), service())


def test_c38_other_external_ips_matter():
    assert read.needs_update(service({"externalIPs": ["192.0.2.2"]}), service({"externalIPs": ["192.0.2.3"]}))


def test_c39_another_uid_matters():
    assert read.needs_update(service(), service(metadata={"uid": "u2"}))


@pytest.mark.parametrize("annotations", [{"a": "1"}, {"a": "2"}, {}])
def test_c47_any_annotation_matters(annotations):
    before, after = service(metadata={"annotations": {"a": "0"}}), service(metadata={"annotations": annotations})
    assert read.needs_update(before, after)


@pytest.mark.parametrize(
    "parts",
    [
        {"metadata": {"labels": {"a": "b"}}},
        {"spec": {"selector": {"a": "b"}}},
        {"status": addressed(reason="ready")},
        {"metadata": {"finalizers": ["lbctl.io/aws"]}},
        {"metadata": {"resourceVersion": "8"}},
    ],
)
def test_c48_what_it_does_not_ask_for_does_not_matter(parts):
    assert not read.needs_update(service(), service(**parts))


def test_services_of_other_types_never_matter():
    assert not read.needs_update(service({"type": "ClusterIP"}), service({"type": "ClusterIP", "ports": [{"port": 9}]}))


def slice_of(*endpoints, family="IPv4"):
    return objects.EndpointSlice(address_type=family, endpoints=tuple(endpoints))


def endpoint(ready=None, node="n1", **conditions):
    return objects.Endpoint(objects.EndpointConditions(ready, **conditions), node)


def test_only_ready_endpoints_count_and_unknown_is_ready():
    seen = read.endpoints([slice_of(endpoint(None), endpoint(True, "n2"), endpoint(False, "n3"))])
    assert (seen.ready, seen.nodes) == (2, frozenset({"n1", "n2"}))


def test_a_terminating_endpoint_that_still_serves_is_not_ready():
    going, gone = endpoint(False, serving=True, terminating=True), endpoint(False, "n2", serving=False)
    seen = read.endpoints([slice_of(going, gone)])
    assert seen == Endpoints(0, frozenset(), frozenset({"n1"}))


def test_a_service_of_another_type_still_says_which_external_addresses_it_claims():
    lean = objects.slim(service({"type": "ClusterIP", "externalIPs": ["192.0.2.9", "no address"]}))
    assert read.any_service(lean).external_ips == (ip_address("192.0.2.9"),)


def test_a_dual_stack_pod_is_one_endpoint():
    assert read.endpoints([slice_of(endpoint()), slice_of(endpoint(), family="IPv6")]).ready == 1


texts = st.one_of(st.none(), st.text(max_size=12), st.sampled_from(["ClientIP", "Local", "IPv6", "10.0.0.0/8", "::/0"]))
numbers = st.one_of(st.none(), st.integers(-(2**40), 2**40))
ports = st.fixed_dictionaries(
    {"port": st.integers(-(2**40), 2**40)},
    optional={"nodePort": numbers, "protocol": st.text(max_size=5), "targetPort": st.one_of(numbers, texts)},
)
specs = st.fixed_dictionaries(
    {},
    optional={
        "ports": st.lists(ports, max_size=3),
        "externalTrafficPolicy": texts,
        "sessionAffinity": texts,
        "sessionAffinityConfig": st.builds(lambda n: {"clientIP": {"timeoutSeconds": n}}, numbers),
        "loadBalancerSourceRanges": st.lists(st.text(max_size=20), max_size=3),
        "loadBalancerIP": texts,
        "ipFamilies": st.lists(st.sampled_from(["IPv4", "IPv6", "IPv5"]), max_size=3),
        "ipFamilyPolicy": texts,
        "healthCheckNodePort": numbers,
    },
)


@given(specs, st.dictionaries(st.sampled_from(sorted(intent.SCHEME_WORDS)), st.text(max_size=9), max_size=2))
def test_whatever_a_service_says_it_is_read_or_refused_by_name(spec, annotations):
    lb = read_it(spec=spec, metadata={"annotations": annotations})
    assert lb.problem is None or (lb.problem.reason and lb.problem.message)
