"""From a Service to resources: pure laws, for any Service and any order."""

from collections import Counter
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lbctl.model import LoadBalancer, Node, Owner, Port
from lbctl.plan import diff
from lbctl.provider import Observation, Scope
from lbctl_aws.desired import desired
from lbctl_aws.facts import Facts, Instance, Subnet
from lbctl_aws.marks import Mark
from lbctl_aws.resources import KINDS, Context, shares
from lbctl_aws.settings import parse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODES = tuple(Node(f"n{n}", f"aws:///eu-central-1a/i-{n}") for n in range(3))
SUBNETS = tuple(
    Subnet(f"subnet-{zone}", f"eu-central-1{zone}", IPv4Network(f"10.0.{n}.0/24"), (IPv6Network(f"2001:db8:{n}::/64"),),
           200, {"kubernetes.io/role/elb": "1", "kubernetes.io/role/internal-elb": "1"}, True)
    for n, zone in enumerate("abc")
)
FACTS = Facts("vpc-1", SUBNETS, {f"i-{n}": Instance(f"i-{n}", "vpc-1", "running", ("sg-nodes",)) for n in range(3)})
CONTEXT = Context(parse({"region": "eu-central-1"}), Mark("c1", "i1"), FACTS)
BETA = "service.beta.kubernetes.io/aws-load-balancer-"

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,12}[a-z0-9])?", fullmatch=True)
PORTS = st.lists(
    st.builds(Port, st.integers(1, 65535), st.sampled_from(["TCP", "UDP"]), st.integers(30000, 32767)),
    min_size=1, max_size=6, unique_by=lambda port: (port.port, port.protocol),
).map(tuple)
SERVICE = st.builds(
    LoadBalancer, st.builds(lambda ns, name: Owner(f"{ns}/{name}"), LABEL, LABEL), ports=PORTS, nodes=st.just(NODES),
    scheme=st.sampled_from([None, "internal", "internet-facing"]),
    session_affinity=st.sampled_from(["None", "ClientIP"]),
)
SERVICES = st.lists(SERVICE, max_size=12, unique_by=lambda lb: lb.owner)


def judged(lbs, context=CONTEXT):
    counted = Counter(share for lb in lbs for share in shares(lb, context.settings))
    scope = Scope(NOW, load_balancers=tuple(lbs), shares=counted)
    return desired(lbs, Observation(scope), context)


def kinds(found, kind):
    return [resource for resource in found.resources if resource.kind == kind]


@given(SERVICES)
def test_no_two_resources_share_a_name_and_nobody_is_forgotten(lbs):
    found = judged(lbs)
    keys = [resource.key for resource in found.resources]
    assert len(set(keys)) == len(keys)
    served = {r.owner for r in kinds(found, "load-balancer")}
    assert served | {r.owner for r in found.refused} == {lb.owner for lb in lbs}
    assert not served & {r.owner for r in found.refused}


@given(SERVICES, st.randoms())
@settings(max_examples=50)
def test_the_order_of_services_changes_nothing(lbs, random):
    other = list(lbs)
    random.shuffle(other)
    first, second = judged(lbs), judged(other)
    assert sorted(first.resources, key=lambda r: r.key) == sorted(second.resources, key=lambda r: r.key)
    assert set(first.refused) == set(second.refused)


@given(SERVICES)
@settings(max_examples=50)
def test_the_plan_can_be_ordered_and_refers_only_to_what_it_makes(lbs):
    found = judged(lbs)
    plan = diff(KINDS, found, Observation(Scope(NOW)))
    made = set()
    for change in plan.changes:
        assert {ref.key for ref in _refs(change)} <= made
        made.add(change.key)


def _refs(change):
    from lbctl.model import refs
    return refs(change.after.fields)


@given(SERVICE)
def test_internal_never_becomes_public(lb):
    found = judged([replace(lb, scheme="internal")])
    assert {r.fields["scheme"] for r in kinds(found, "load-balancer")} <= {"internal"}


def test_who_does_not_say_gets_the_clusters_default():
    lb = LoadBalancer(Owner("a/b"), ports=(Port(80, node_port=30080),), nodes=NODES)
    for default in ("internal", "internet-facing"):
        context = replace(CONTEXT, settings=replace(CONTEXT.settings, default_scheme=default))
        (found,) = kinds(judged([lb], context), "load-balancer")
        assert found.fields["scheme"] == default


def test_dual_stack_opens_to_both_families():
    lb = LoadBalancer(Owner("a/b"), ports=(Port(80, node_port=30080),), nodes=NODES, ip_families=("IPv4", "IPv6"),
                      annotations={BETA + "ip-address-type": "dualstack"})
    found = judged([lb])
    assert kinds(found, "load-balancer")[0].fields["ip_address_type"] == "dualstack"
    assert kinds(found, "security-group")[0].fields["rules"] == ("tcp:80:0.0.0.0/0", "tcp:80:::/0")
    assert not found.notes


def test_an_ipv6_service_has_ipv6_targets():
    lb = LoadBalancer(Owner("a/b"), ports=(Port(80, node_port=30080),), nodes=NODES, ip_families=("IPv6",),
                      annotations={BETA + "ip-address-type": "dualstack"})
    assert kinds(judged([lb]), "target-group")[0].fields["ip_address_type"] == "ipv6"


def test_prefix_lists_stand_for_networks():
    lb = LoadBalancer(Owner("a/b"), ports=(Port(80, node_port=30080),), nodes=NODES,
                      annotations={BETA + "security-group-prefix-lists": "pl-0a1b"})
    assert kinds(judged([lb]), "security-group")[0].fields["rules"] == ("tcp:80:pl-0a1b",)


def test_all_services_share_one_tuple_of_targets():
    lbs = [LoadBalancer(Owner(f"a/s{n}"), ports=(Port(80, node_port=30080),), nodes=NODES) for n in range(5)]
    assert len({id(r.fields["targets"]) for r in kinds(judged(lbs), "target-group")}) == 1


def test_proxy_protocol_is_said_for_all_ports_or_for_some():
    ports = (Port(80, node_port=30080), Port(81, node_port=30081))
    some = LoadBalancer(Owner("a/b"), ports=ports, nodes=NODES,
                        annotations={BETA + "proxy-protocol-per-target-group": "81"})
    every = replace(some, annotations={BETA + "proxy-protocol": "*"})
    said = [[r.fields["attributes"].get("proxy_protocol_v2.enabled") for r in kinds(judged([lb]), "target-group")]
            for lb in (some, every)]
    assert said == [[None, "true"], ["true", "true"]]


def test_a_port_may_have_attributes_of_its_own():
    lb = LoadBalancer(Owner("a/b"), ports=(Port(80, node_port=30080), Port(81, node_port=30081)), nodes=NODES,
                      annotations={BETA + "target-group-attributes": "deregistration_delay.timeout_seconds=10",
                                   BETA + "target-group-attributes.81": "deregistration_delay.timeout_seconds=20",
                                   BETA + "listener-attributes.TCP-81": "tcp.idle_timeout.seconds=60"})
    found = judged([lb])
    assert [r.fields["attributes"] for r in kinds(found, "target-group")] == [
        {"deregistration_delay.timeout_seconds": "10"}, {"deregistration_delay.timeout_seconds": "20"}]
    assert [r.fields["attributes"] for r in kinds(found, "listener")] == [{}, {"tcp.idle_timeout.seconds": "60"}]


def test_tls_to_the_nodes_is_said_by_the_backend_protocol():
    arn = "arn:aws:acm:eu-central-1:123456789012:certificate/00000000-0000-4000-8000-000000000000"
    lb = LoadBalancer(Owner("a/b"), ports=(Port(443, node_port=30443),), nodes=NODES,
                      annotations={BETA + "ssl-cert": arn, BETA + "backend-protocol": "ssl", BETA + "ssl-ports": "*",
                                   BETA + "alpn-policy": "HTTP2Preferred"})
    found = judged([lb])
    assert kinds(found, "target-group")[0].fields["protocol"] == "TLS"
    assert kinds(found, "listener")[0].fields["alpn"] == "HTTP2Preferred"
