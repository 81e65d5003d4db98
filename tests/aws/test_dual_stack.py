"""IPv4 and IPv6 at one load balancer: subnets with IPv6 ranges, both families' rules, IPv6 targets. Over real HTTP."""

from ipaddress import ip_network

import pytest
from botocore.exceptions import ClientError

from lbctl.model import Port

DUAL = {"ip-address-type": "dualstack"}


@pytest.fixture
def six(aws):
    """A VPC whose subnets and instances have IPv6."""
    aws.standin.nodes(2)
    aws.standin.lay_ipv6()
    return aws


def dual(aws, *ports, families=("IPv4", "IPv6"), said=None, **rest):
    return aws.service("web", *ports, said={**DUAL, **(said or {})}, ip_families=families, **rest)


def refused(call, **asked):
    with pytest.raises(ClientError) as told:
        call(**asked)
    return told.value.response["Error"]["Code"]


def test_clients_of_both_families_are_let_in_and_a_fresh_process_agrees(six):
    six.serve(dual(six))
    (found,) = six.client().describe_load_balancers()["LoadBalancers"]
    (group,) = six.seen("security-group")
    assert found["IpAddressType"] == "dualstack"
    assert group.fields["rules"] == ("tcp:80:0.0.0.0/0", "tcp:80:::/0")
    six.restart()
    assert six.plan([dual(six)]).empty


def test_only_subnets_with_ipv6_are_taken(aws):
    aws.standin.lay_ipv6("public-b")
    aws.serve(dual(aws))
    (found,) = aws.seen("load-balancer")
    assert list(found.fields["subnets"]) == [aws.standin.subnets["public-b"]]


def test_a_service_on_ipv6_has_ipv6_targets(six):
    six.serve(dual(six, families=("IPv6",)))
    (group,) = six.seen("target-group")
    assert group.fields["ip_address_type"] == "ipv6"
    assert len(group.fields["targets"]) == 2
    six.restart()
    assert six.plan([dual(six, families=("IPv6",))]).empty


def test_a_node_without_a_primary_ipv6_address_is_no_ipv6_target_and_the_condition_says_so(aws):
    aws.standin.nodes(2)
    aws.standin.lay_ipv6("public-a", "public-b", "private-a")
    lb = dual(aws, families=("IPv6",))
    aws.serve(lb)
    (group,) = aws.seen("target-group")
    assert len(group.fields["targets"]) == 1
    assert "node-2" in aws.notes(lb)["no-primary-ipv6"].message


def test_ipv4_becomes_dual_stack_and_back_in_place(six):
    six.serve(six.service())
    (before,) = six.seen("load-balancer")
    six.serve(dual(six))
    assert six.seen("load-balancer")[0].fields["ip_address_type"] == "dualstack"
    six.serve(six.service())
    (after,) = six.seen("load-balancer")
    assert after.outputs["arn"] == before.outputs["arn"]
    assert after.fields["ip_address_type"] == "ipv4"


def test_source_ranges_of_both_families(six):
    lb = dual(six, source_ranges=tuple(map(ip_network, ("192.0.2.0/24", "2001:db8::/32"))))
    six.serve(lb)
    assert six.seen("security-group")[0].fields["rules"] == ("tcp:80:192.0.2.0/24", "tcp:80:2001:db8::/32")


@pytest.mark.parametrize("protocols", [("UDP",), ("TCP", "UDP")])
def test_udp_on_dual_stack_is_refused_with_the_way_out(six, protocols):
    lb = dual(six, *(Port(53, protocol, node_port=30053) for protocol in protocols))
    assert six.refusal(lb).reason == "udp-dualstack"


def test_named_subnets_without_ipv6_are_refused_by_name(aws):
    subnet = aws.standin.subnets["public-a"]
    said = aws.refusal(dual(aws, said={"subnets": subnet}))
    assert (said.reason, subnet in said.message) == ("subnet-ipv6", True)


def test_where_it_stands_has_no_ipv6_it_keeps_what_it_has(aws):
    aws.serve(aws.service())
    before = aws.standin.inventory()
    assert aws.refusal(dual(aws)).reason == "subnet-ipv6"
    aws.run([dual(aws)])
    assert aws.standin.inventory() == before


# -- the stand-in is as strict as AWS ---------------------------------------------------------------------------------


def test_a_subnets_range_is_a_64_of_the_vpcs(aws):
    subnet = aws.standin.subnets["public-a"]
    associate = aws.client("ec2").associate_subnet_cidr_block
    assert refused(associate, SubnetId=subnet, Ipv6CidrBlock="2001:db8::/64") == "InvalidSubnet.Range"


def test_two_subnets_never_share_a_range(six):
    (said,) = six.client("ec2").describe_subnets(SubnetIds=[six.standin.subnets["public-a"]])["Subnets"]
    taken = said["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"]
    asked = {"SubnetId": six.standin.subnets["public-b"], "Ipv6CidrBlock": taken}
    assert refused(six.client("ec2").associate_subnet_cidr_block, **asked) == "InvalidSubnet.Conflict"


def test_dual_stack_cannot_be_switched_on_without_ipv6(aws):
    aws.serve(aws.service())
    arn = aws.seen("load-balancer")[0].outputs["arn"]
    asked = {"LoadBalancerArn": arn, "IpAddressType": "dualstack"}
    assert refused(aws.client().set_ip_address_type, **asked) == "InvalidSubnet"


def test_ipv6_targets_need_dual_stack(six):
    elb = six.client()
    six.serve(six.service())
    group = elb.create_target_group(Name="six", Protocol="TCP", Port=30081, VpcId=six.standin.vpc, IpAddressType="ipv6",
                                    HealthCheckTimeoutSeconds=5)["TargetGroups"][0]["TargetGroupArn"]
    asked = {"LoadBalancerArn": six.seen("load-balancer")[0].outputs["arn"], "Protocol": "TCP", "Port": 81,
             "DefaultActions": [{"Type": "forward", "TargetGroupArn": group}]}
    assert refused(elb.create_listener, **asked) == "InvalidConfigurationRequest"
