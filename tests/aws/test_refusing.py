"""What cannot be served is refused by name: a reason token, the field, the value, the way out.  Pure: no AWS."""

from datetime import UTC, datetime
from ipaddress import IPv4Network, ip_address, ip_network

import pytest
from msgspec.structs import replace

from lbctl.model import LoadBalancer, Node, Owner, Port, Refusal
from lbctl.provider import Observation, Scope
from lbctl_aws.annotations import PREFIX, UNSUPPORTED
from lbctl_aws.desired import desired
from lbctl_aws.facts import Address, Facts, Instance, Subnet
from lbctl_aws.marks import Mark
from lbctl_aws.resources import Context
from lbctl_aws.settings import parse

ARN = "arn:aws:acm:eu-central-1:123456789012:certificate/00000000-0000-4000-8000-000000000000"
HTTP, HTTPS = Port(80, node_port=30080, name="http"), Port(443, node_port=30443, name="https")
NODES = (Node("a", "aws:///eu-central-1a/i-0a"), Node("b", "aws:///eu-central-1b/i-0b"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def subnet(name, zone, network, role):
    return Subnet(f"subnet-{name}", f"eu-central-1{zone}", IPv4Network(network), (), 200,
                  {"Name": name, f"kubernetes.io/role/{role}": "1"}, role == "elb")


FACTS = Facts(
    "vpc-1",
    (subnet("public-a", "a", "10.0.0.0/24", "elb"), subnet("public-b", "b", "10.0.1.0/24", "elb"),
     subnet("private-a", "a", "10.0.2.0/24", "internal-elb"), subnet("private-b", "b", "10.0.3.0/24", "internal-elb")),
    {i: Instance(i, "vpc-1", "running", ("sg-nodes",)) for i in ("i-0a", "i-0b")},
    addresses={name: Address("eipalloc-0a", "192.0.2.1") for name in ("eipalloc-0a", "192.0.2.1")},
)


def judged(lb, facts=FACTS, **settings):
    context = Context(parse({"region": "eu-central-1", **settings}), Mark("c1"), facts)
    return desired([lb], Observation(Scope(NOW, load_balancers=(lb,))), context)


def service(said=(), ports=(HTTP, HTTPS), **rest):
    annotations = {key if "/" in key else PREFIX + key: value for key, value in dict(said).items()}
    return LoadBalancer(Owner("default/web"), ports=ports, nodes=NODES, annotations=annotations, **rest)


def refusal(lb, facts=FACTS, **settings) -> Refusal:
    (found,) = judged(lb, facts, **settings).refused
    return found


@pytest.mark.parametrize(("name", "value", "reason"), [
    ("type", "clb", "bad-annotation"),
    ("type", "nlb-ip", "target-type-ip"),
    ("nlb-target-type", "ip", "target-type-ip"),
    ("nlb-target-type", "pod", "bad-annotation"),
    ("subnets", " , ", "bad-annotation"),
    ("subnets", "subnet-00000000", "subnet-not-found"),
    ("subnets", "public-a,no-such", "subnet-not-found"),
    ("subnets", "public-a,private-a", "subnet-zone"),
    ("cross-zone-load-balancing-enabled", "maybe", "bad-annotation"),
    ("ssl-cert", "arn:aws:acm:us-west-2:XXXXXXXX:certificate/XXXXXX-XXXXXXX-XXXXXXX-XXXXXXXX", "bad-annotation"),
    ("ssl-cert", "my-certificate", "bad-annotation"),
    ("ssl-cert", ARN.replace("eu-central-1", "us-west-1"), "certificate-region"),
    ("ssl-ports", "8443", "unused-ssl-port"),
    ("ssl-negotiation-policy", "strong please", "bad-annotation"),
    ("backend-protocol", "http", "bad-annotation"),
    ("healthcheck-protocol", "udp", "bad-annotation"),
    ("healthcheck-port", "70000", "bad-annotation"),
    ("healthcheck-port", "no-such-port", "bad-annotation"),
    ("healthcheck-path", "healthz", "bad-annotation"),
    ("healthcheck-interval", "1", "bad-annotation"),
    ("healthcheck-timeout", "1000", "bad-annotation"),
    ("healthcheck-healthy-threshold", "1", "bad-annotation"),
    ("healthcheck-unhealthy-threshold", "eleven", "bad-annotation"),
    ("healthcheck-success-codes", "ok", "bad-annotation"),
    ("target-group-attributes", "preserve_client_ip.enabled=yes", "bad-annotation"),
    ("target-group-attributes", "no.such.key=true", "bad-annotation"),
    ("target-group-attributes", "nonsense", "bad-annotation"),
    ("target-group-attributes.8080", "preserve_client_ip.enabled=true", "unused-port"),
    ("proxy-protocol", "v2", "bad-annotation"),
    ("proxy-protocol-per-target-group", "http", "bad-annotation"),
    ("proxy-protocol-per-target-group", "8080", "unused-port"),
    ("additional-resource-tags", "team", "bad-annotation"),
    ("additional-resource-tags", "lbctl.io/owner=me", "reserved-tag"),
    ("additional-resource-tags", "kubernetes.io/cluster/x=owned", "reserved-tag"),
    ("additional-resource-tags", "AWS:me=me", "reserved-tag"),
    ("additional-resource-tags", "elbv2.k8s.aws/cluster=x", "reserved-tag"),
    ("additional-resource-tags", "team=<script>", "bad-tag"),
    ("eip-allocations", "203.0.113.1", "bad-annotation"),
    ("eip-allocations", "eipalloc-0b,eipalloc-0c", "eip-not-found"),
    ("eip-allocations", "eipalloc-0a", "eip-count"),
    ("private-ipv4-addresses", "10.0.0.300", "bad-annotation"),
    ("private-ipv4-addresses", "10.0.0.7,10.0.1.7", "private-on-public"),
    ("ip-address-type", "ipv6", "bad-annotation"),
    ("ip-address-type", "dualstack", "no-subnets"),
    ("name", "a" * 33, "bad-annotation"),
    ("name", "internal-web", "bad-annotation"),
    ("name", "-web", "bad-annotation"),
    ("lbctl.io/load-balancer-name", "a b", "bad-annotation"),
    ("lbctl.io/tags", "=x", "bad-annotation"),
    ("security-groups", "no-such-group", "security-group-not-found"),
    ("security-group-prefix-lists", "office", "bad-annotation"),
    ("manage-backend-security-group-rules", "on", "bad-annotation"),
    ("attributes", "deletion_protection.enabled=yes", "bad-annotation"),
    ("attributes", "dns_record.client_routing_policy=near", "bad-annotation"),
    ("access-log-enabled", "on", "bad-annotation"),
    ("access-log-s3-bucket-name", "My Bucket", "bad-annotation"),
    ("listener-attributes.TCP-80", "tcp.idle_timeout.seconds=5", "bad-annotation"),
    ("listener-attributes.80", "tcp.idle_timeout.seconds=60", "bad-annotation"),
    ("alpn-policy", "HTTP3", "bad-annotation"),
    ("alpn-policy", "HTTP2Only", "bad-annotation"),
    ("enable-tcp-udp-listener", "si", "bad-annotation"),
    ("intenral", "true", "unknown-annotation"),
    ("actions.TCP-80", "{}", "unsupported-annotation"),
    *((name, "something", "unsupported-annotation") for name in sorted(UNSUPPORTED)),
])
def test_a_value_that_cannot_be_served_is_refused_by_name(name, value, reason):
    said = refusal(service({name: value}))
    assert said.reason == reason
    last = value.strip()[:70].split(",")[-1].split("=")[0]
    assert name.partition(".")[0] in said.message or last in said.message
    assert len(said.message) > 30


@pytest.mark.parametrize(("rest", "reason"), [
    ({"ports": (Port(80, "SCTP", 30080),)}, "unsupported-protocol"),
    ({"ports": (Port(80, node_port=0),)}, "no-node-port"),
    ({"ports": tuple(Port(n, node_port=30000 + n) for n in range(1, 52))}, "too-many-ports"),
    ({"ports": (Port(53, "TCP", 30053), Port(53, "UDP", 30054))}, "node-ports-differ"),
    ({"ip_families": ("IPv6",)}, "ip-family"),
    ({"ip_families": ("IPv4", "IPv6"), "ip_family_policy": "RequireDualStack"}, "ip-family"),
    ({"source_ranges": (ip_network("2001:db8::/32"),)}, "source-range-family"),
    ({"requested_addresses": (ip_address("104.154.109.191"),)}, "address-not-found"),
    ({"requested_addresses": (ip_address("10.9.9.9"),), "scheme": "internal"}, "private-address"),
    ({"said": {"service.beta.kubernetes.io/azure-allowed-ip-ranges": "10.0.0.0/8"}}, "foreign-annotation"),
    ({"said": {"eip-allocations": "eipalloc-0a"}, "scheme": "internal"}, "eip-on-internal"),
    ({"said": {"target-group-attributes": "preserve_client_ip.enabled=false"}, "ports": (Port(53, "UDP", 30053),)},
     "preserve-client-ip"),
    ({"said": {"ssl-cert": ARN}, "session_affinity": "ClientIP"}, "affinity-with-tls"),
    ({"said": {"ssl-cert": ARN}, "ports": (Port(443, "TCP", 30443), Port(443, "UDP", 30443))}, "tls-with-udp"),
    ({"said": {"name": "one", "lbctl.io/load-balancer-name": "two"}}, "bad-annotation"),
])
def test_a_service_that_cannot_be_served_is_refused(rest, reason):
    assert refusal(service(**rest)).reason == reason


def test_ports_that_differ_are_both_named():
    said = refusal(service(ports=(Port(53, "TCP", 30053), Port(53, "UDP", 30054))))
    assert "30053" in said.message
    assert "30054" in said.message


def test_no_fitting_subnet_says_which_tag_is_missing():
    assert "kubernetes.io/role/elb=1" in refusal(service(), replace(FACTS, subnets=())).message


def test_a_name_that_somebody_else_holds_is_refused():
    lb = service({"name": "shop"})
    theirs = replace(FACTS, foreign={("load-balancer", "shop"): ("not-ours", "")})
    assert refusal(lb, theirs).reason == "not-ours"


def test_a_lost_mark_comes_with_the_command_that_restores_it():
    lb = service({"name": "shop"})
    lost = replace(FACTS, foreign={("load-balancer", "shop"): ("ownership-lost", "aws elbv2 add-tags …")})
    assert "aws elbv2 add-tags" in refusal(lb, lost).message


def test_what_one_service_holds_another_never_takes():
    held = replace(FACTS, holders={"name:shop": Owner("other/shop")})
    said = refusal(service({"name": "shop"}), held)
    assert (said.reason, "other/shop" in said.message) == ("held-by-another", True)


def test_of_two_that_want_the_same_name_the_older_gets_it():
    old = service({"name": "shop"}, created=NOW.replace(year=2025))
    new = replace(old, owner=Owner("default/a"), created=NOW)
    context = Context(parse({"region": "eu-central-1"}), Mark("c1"), FACTS)
    for order in ([old, new], [new, old]):
        found = desired(order, Observation(Scope(NOW, load_balancers=tuple(order))), context)
        assert [r.owner for r in found.refused] == ["default/a"]


def test_nodes_that_are_not_ours_are_left_out_and_named():
    marked = frozenset({"kubernetes.io/cluster/prod"})
    instances = {"i-0a": Instance("i-0a", "vpc-1", "running", ("sg-nodes",), marked),
                 "i-0b": Instance("i-0b", "vpc-1", "running", ("sg-nodes",)),
                 "i-0c": Instance("i-0c", "vpc-2", "running", ("sg-nodes",), marked), "i-0d": None}
    nodes = (*NODES, Node("c", "aws:///x/i-0c"), Node("d", "aws:///x/i-0d"), Node("e", ""))
    found = judged(replace(service(), nodes=nodes), replace(FACTS, instances=instances), **{"cluster-name": "prod"})
    assert {r.fields["targets"] for r in found.resources if r.kind == "target-group"} == {("i-0a",)}
    (note,) = found.notes
    assert all(word in note.message for word in ("b, c", "d ", "e ", "spec.providerID"))


def test_nodes_with_several_groups_need_one_marked():
    instances = {i: Instance(i, "vpc-1", "running", ("sg-1", "sg-2")) for i in ("i-0a", "i-0b")}
    assert refusal(service(), replace(FACTS, instances=instances)).reason == "node-security-group"


def test_what_only_classic_load_balancers_know_is_a_note():
    (note,) = judged(service({"connection-idle-timeout": "60"})).notes
    assert (note.reason, "connection-idle-timeout" in note.message) == ("without-effect", True)


def test_a_preferred_second_family_is_served_in_one_with_a_note():
    found = judged(service(ip_families=("IPv4", "IPv6"), ip_family_policy="PreferDualStack"))
    assert [note.reason for note in found.notes] == ["single-stack"]
