"""The stand-in refuses what AWS refuses, with AWS's own codes: else the laws would prove too little."""

import pytest
from botocore.exceptions import ClientError

from lbctl.model import Port


@pytest.fixture
def elb(aws):
    return aws.client()


@pytest.fixture
def ec2(aws):
    return aws.client("ec2")


def refused(call, /, **asked):
    with pytest.raises(ClientError) as told:
        call(**asked)
    return told.value.response["Error"]["Code"]


def balancer(aws, name="one", **asked):
    asked.setdefault("Subnets", [aws.standin.subnets["public-a"]])
    return aws.client().create_load_balancer(Name=name, Type="network", **asked)["LoadBalancers"][0]


def group(aws, name="group", protocol="TCP", **asked):
    said = {"HealthCheckTimeoutSeconds": 5, "HealthCheckProtocol": "TCP", **asked}
    return aws.client().create_target_group(Name=name, Protocol=protocol, Port=30080, VpcId=aws.standin.vpc,
                                            **said)["TargetGroups"][0]["TargetGroupArn"]


def forward(arn):
    return [{"Type": "forward", "TargetGroupArn": arn}]


def security_group(aws, name="mine"):
    return aws.client("ec2").create_security_group(GroupName=name, Description="x", VpcId=aws.standin.vpc)["GroupId"]


@pytest.mark.parametrize("name", ["internal-x", "-x", "x-", "x" * 33, "x_y"])
def test_names_that_aws_does_not_take(aws, elb, name):
    asked = {"Name": name, "Type": "network", "Subnets": [aws.standin.subnets["public-a"]]}
    assert refused(elb.create_load_balancer, **asked) == "ValidationError"


def test_the_same_load_balancer_again_is_the_same_and_another_is_refused(aws, elb):
    one = balancer(aws)
    assert balancer(aws)["LoadBalancerArn"] == one["LoadBalancerArn"]
    for other in ({"Scheme": "internal"}, {"Tags": [{"Key": "a", "Value": "b"}]}):
        asked = {"Name": "one", "Type": "network", "Subnets": [aws.standin.subnets["public-a"]], **other}
        assert refused(elb.create_load_balancer, **asked) == "DuplicateLoadBalancerName"


def test_its_arn_and_scheme_are_those_of_a_network_load_balancer(aws):
    one = balancer(aws)
    assert ":loadbalancer/net/one/" in one["LoadBalancerArn"]
    assert one["Scheme"] == "internet-facing"


def test_two_subnets_of_one_zone_are_refused(aws, elb):
    both = [aws.standin.subnets["public-a"], aws.standin.subnets["private-a"]]
    assert refused(elb.create_load_balancer, Name="x", Type="network", Subnets=both) == "InvalidConfigurationRequest"
    one = balancer(aws)["LoadBalancerArn"]
    swap = [aws.standin.subnets["private-a"]]
    assert refused(elb.set_subnets, LoadBalancerArn=one, Subnets=swap) == "InvalidConfigurationRequest"


def test_a_missing_security_group_is_refused(aws, elb):
    asked = {"Name": "x", "Type": "network", "Subnets": [aws.standin.subnets["public-a"]], "SecurityGroups": ["sg-0"]}
    assert refused(elb.create_load_balancer, **asked) == "InvalidSecurityGroup"


def test_a_load_balancer_without_groups_never_gets_any(aws, elb):
    one = balancer(aws)["LoadBalancerArn"]
    asked = {"LoadBalancerArn": one, "SecurityGroups": [security_group(aws)]}
    assert refused(elb.set_security_groups, **asked) == "InvalidConfigurationRequest"


def test_an_elastic_ip_stands_in_one_place(aws, elb):
    ip = aws.standin.elastic_ip()
    mapping = [{"SubnetId": aws.standin.subnets["public-a"], "AllocationId": ip}]
    made = elb.create_load_balancer(Name="one", Type="network", SubnetMappings=mapping)["LoadBalancers"][0]
    assert made["AvailabilityZones"][0]["LoadBalancerAddresses"][0]["AllocationId"] == ip
    assert refused(elb.create_load_balancer, Name="two", Type="network", SubnetMappings=mapping) == "ResourceInUse"
    unknown = [{**mapping[0], "AllocationId": "eipalloc-0"}]
    asked = {"Name": "two", "Type": "network", "SubnetMappings": unknown}
    assert refused(elb.create_load_balancer, **asked) == "AllocationIdNotFound"


def test_a_private_address_lies_in_its_subnet(aws, elb):
    mapping = [{"SubnetId": aws.standin.subnets["private-a"], "PrivateIPv4Address": "10.0.9.9"}]
    asked = {"Name": "one", "Type": "network", "Scheme": "internal", "SubnetMappings": mapping}
    assert refused(elb.create_load_balancer, **asked) == "InvalidConfigurationRequest"


def test_protected_load_balancers_are_not_deleted(aws, elb):
    one = balancer(aws)["LoadBalancerArn"]
    elb.modify_load_balancer_attributes(LoadBalancerArn=one,
                                        Attributes=[{"Key": "deletion_protection.enabled", "Value": "true"}])
    assert refused(elb.delete_load_balancer, LoadBalancerArn=one) == "OperationNotPermitted"


def test_dual_stack_needs_subnets_with_ipv6(aws, elb):
    asked = {"Name": "x", "Type": "network", "Subnets": [aws.standin.subnets["public-a"]], "IpAddressType": "dualstack"}
    assert refused(elb.create_load_balancer, **asked) == "InvalidSubnet"


@pytest.mark.parametrize("asked", [
    {"HealthCheckProtocol": "UDP"}, {"HealthCheckPort": "70000"}, {"HealthyThresholdCount": 11},
    {"UnhealthyThresholdCount": 11}, {"protocol": "HTTP"},
])
def test_health_checks_that_aws_does_not_take(aws, asked):
    assert refused(group, aws=aws, **asked) == "ValidationError"


def test_the_same_target_group_again_is_the_same_and_another_is_refused(aws):
    assert group(aws) == group(aws)
    assert refused(group, aws=aws, protocol="UDP") == "DuplicateTargetGroupName"


def test_attributes_of_a_target_group_are_known_ones(aws, elb):
    tcp, udp = group(aws), group(aws, "udp", "UDP")
    bogus = [{"Key": "no.such", "Value": "1"}]
    assert refused(elb.modify_target_group_attributes, TargetGroupArn=tcp, Attributes=bogus) == "ValidationError"
    hide = [{"Key": "preserve_client_ip.enabled", "Value": "false"}]
    said = refused(elb.modify_target_group_attributes, TargetGroupArn=udp, Attributes=hide)
    assert said == "InvalidConfigurationRequest"


def test_targets_are_running_instances_of_the_vpc(aws, elb, ec2):
    arn = group(aws)
    assert refused(elb.register_targets, TargetGroupArn=arn, Targets=[{"Id": "i-0"}]) == "InvalidTarget"
    name = aws.standin.nodes(1)[0].provider_id.rpartition("/")[2]
    ec2.stop_instances(InstanceIds=[name])
    assert refused(elb.register_targets, TargetGroupArn=arn, Targets=[{"Id": name}]) == "InvalidTarget"


def test_an_instance_is_a_target_once_per_port(aws, elb):
    arn, name = group(aws), aws.standin.nodes(1)[0].provider_id.rpartition("/")[2]
    elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": name}, {"Id": name, "Port": 31000}])
    found = elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
    assert sorted(one["Target"]["Port"] for one in found) == [30080, 31000]
    elb.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": name, "Port": 31000}])
    found = elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
    assert [one["Target"]["Port"] for one in found] == [30080]


def test_what_is_gone_may_be_deleted_and_deregistered_again(aws, elb):
    arn, name = group(aws), aws.standin.nodes(1)[0].provider_id.rpartition("/")[2]
    elb.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": name}])
    elb.delete_target_group(TargetGroupArn=arn)
    elb.delete_target_group(TargetGroupArn=arn)


def test_a_port_has_one_listener(aws, elb):
    one, arn = balancer(aws)["LoadBalancerArn"], group(aws)
    asked = {"LoadBalancerArn": one, "Protocol": "TCP", "Port": 80, "DefaultActions": forward(arn)}
    elb.create_listener(**asked)
    assert refused(elb.create_listener, **asked) == "DuplicateListener"


def test_listeners_fit_their_groups(aws, elb):
    one, two = balancer(aws)["LoadBalancerArn"], balancer(aws, "two")["LoadBalancerArn"]
    tcp, udp = group(aws), group(aws, "udp", "UDP")
    asked = {"LoadBalancerArn": one, "Protocol": "TCP", "Port": 80}
    assert refused(elb.create_listener, DefaultActions=forward(udp), **asked) == "IncompatibleProtocols"
    elb.create_listener(DefaultActions=forward(tcp), **asked)
    there = {**asked, "LoadBalancerArn": two, "DefaultActions": forward(tcp)}
    assert refused(elb.create_listener, **there) == "TargetGroupAssociationLimit"
    assert refused(elb.delete_target_group, TargetGroupArn=tcp) == "ResourceInUse"


@pytest.mark.parametrize(("more", "code"), [
    ({}, "CertificateNotFound"),
    ({"Certificates": [{"CertificateArn": "arn:aws:acm:eu-central-1:1:certificate/none"}]}, "CertificateNotFound"),
    ({"Certificates": "real", "SslPolicy": "ELBSecurityPolicy-None"}, "SSLPolicyNotFound"),
])
def test_tls_needs_a_certificate_and_a_policy_that_exist(aws, elb, more, code):
    if more.get("Certificates") == "real":
        more = {**more, "Certificates": [{"CertificateArn": aws.standin.certificate()}]}
    asked = {"LoadBalancerArn": balancer(aws)["LoadBalancerArn"], "Protocol": "TLS", "Port": 443,
             "DefaultActions": forward(group(aws)), **more}
    assert refused(elb.create_listener, **asked) == code


def test_groups_in_use_are_not_deleted(aws, elb, ec2):
    used, referred, user = security_group(aws), security_group(aws, "referred"), security_group(aws, "user")
    one = balancer(aws, SecurityGroups=[used])["LoadBalancerArn"]
    pair = [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "UserIdGroupPairs": [{"GroupId": referred}]}]
    ec2.authorize_security_group_ingress(GroupId=user, IpPermissions=pair)
    for name in (used, referred):
        assert refused(ec2.delete_security_group, GroupId=name) == "DependencyViolation"
    aws.standin.load_balancing.linger = 1
    elb.delete_load_balancer(LoadBalancerArn=one)
    assert refused(ec2.delete_security_group, GroupId=used) == "DependencyViolation"
    ec2.delete_security_group(GroupId=used)


def test_a_group_takes_sixty_rules(aws, ec2):
    ranges = [{"CidrIp": f"10.9.{n}.0/24"} for n in range(61)]
    asked = [{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": ranges}]
    said = refused(ec2.authorize_security_group_ingress, GroupId=security_group(aws), IpPermissions=asked)
    assert said == "RulesPerSecurityGroupLimitExceeded"


def test_tags_are_asked_for_twenty_at_a_time_and_of_what_exists(aws, elb):
    one = balancer(aws)["LoadBalancerArn"]
    assert refused(elb.describe_tags, ResourceArns=[one] * 21) == "ValidationError"
    gone = one.replace("one", "gone")
    assert refused(elb.describe_tags, ResourceArns=[gone]) == "LoadBalancerNotFound"
    many = [{"Key": f"k{n}", "Value": "v"} for n in range(51)]
    assert refused(elb.add_tags, ResourceArns=[one], Tags=many) == "TooManyTags"


def test_listeners_are_in_the_tag_index(aws):
    aws.serve(aws.service())
    said = aws.client("resourcegroupstaggingapi").get_resources(
        TagFilters=[{"Key": "lbctl.io/cluster", "Values": ["laws"]}])["ResourceTagMappingList"]
    assert sorted(one["ResourceARN"].split(":")[5].split("/")[0] for one in said) == [
        "listener", "loadbalancer", "targetgroup"]


def test_listings_lag_behind_and_nothing_is_made_twice(aws):
    aws.standin.load_balancing.lag = 2
    lb = aws.service()
    aws.run([lb])
    for _ in range(4):
        aws.run([lb])
    aws.standin.settle()
    lines = aws.standin.inventory()
    counted = [sum(line.startswith(kind) for line in lines) for kind in ("load-balancer", "listener", "target-group")]
    assert counted == [1, 1, 1]
    aws.done([lb], "once the listings are up to date")


def test_provisioning_takes_its_time_and_the_address_is_there_at_once(aws):
    aws.standin.load_balancing.provisioning = True
    aws.run([aws.service()])
    (found,) = aws.seen("load-balancer")
    assert (found.outputs["state"], bool(found.outputs["hostname"])) == ("provisioning", True)
    aws.standin.settle()
    (found,) = aws.seen("load-balancer")
    assert found.outputs["state"] == "active"


@pytest.mark.parametrize("operation", ["CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "CreateTargetGroup",
                                       "RegisterTargets", "CreateLoadBalancer", "CreateListener"])
def test_a_lost_answer_leads_to_one_thing_not_two(aws, operation):
    aws.standin.wire.drop(operation)
    lb = aws.service("web", Port(80, node_port=30080))
    aws.serve(lb)
    kinds = [line.split()[0] for line in aws.standin.inventory() if " laws/web" in line]
    assert sorted(kinds) == ["listener", "load-balancer", "security-group", "target-group"]
