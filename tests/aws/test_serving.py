"""What a Service gets on AWS, told of the stand-in's own state."""

from ipaddress import ip_address, ip_network

import pytest
from msgspec.structs import replace

from lbctl.model import Port

TLS = Port(443, node_port=30443, name="https")
DNS = (Port(53, "TCP", 30053), Port(53, "UDP", 30053))


def only(found):
    (one,) = found
    return one


def balancer(aws):
    return only(aws.client().describe_load_balancers()["LoadBalancers"])


def groups(aws):
    return aws.client().describe_target_groups()["TargetGroups"]


def listeners(aws):
    return aws.client().describe_listeners(LoadBalancerArn=balancer(aws)["LoadBalancerArn"])["Listeners"]


def targets(aws, group):
    found = aws.client().describe_target_health(TargetGroupArn=group["TargetGroupArn"])["TargetHealthDescriptions"]
    return sorted(description["Target"]["Id"] for description in found)


def attributes(aws, group):
    said = aws.client().describe_target_group_attributes(TargetGroupArn=group["TargetGroupArn"])["Attributes"]
    return {pair["Key"]: pair["Value"] for pair in said}


def test_a_service_gets_a_network_load_balancer_with_its_nodes(aws):
    aws.serve(aws.service())
    found, group = balancer(aws), only(groups(aws))
    assert (found["Type"], found["Scheme"], len(found["AvailabilityZones"])) == ("network", "internet-facing", 2)
    assert (group["Protocol"], group["Port"], group["TargetType"]) == ("TCP", 30080, "instance")
    assert targets(aws, group) == sorted(node.provider_id.rpartition("/")[2] for node in aws.standin.nodes(2))
    assert [(one["Port"], one["Protocol"]) for one in listeners(aws)] == [(80, "TCP")]


def test_its_address_is_the_load_balancers_name(aws):
    lb = aws.service()
    aws.serve(lb)
    seen = aws.observe([lb])
    (ref,) = aws.provider.desired([lb], seen).addresses[lb.owner]
    outputs = {r.key: r.outputs for r in seen.resources}
    assert outputs[ref.key][ref.output] == balancer(aws)["DNSName"]


def test_all_its_rules_are_in_one_group_of_its_own(aws):
    aws.serve(aws.service("web", Port(80, node_port=30080), TLS,
                          source_ranges=(ip_network("192.0.2.0/24"), ip_network("198.51.100.0/24"))))
    group = only(aws.seen("security-group"))
    assert group.fields["rules"] == ("tcp:443:192.0.2.0/24", "tcp:443:198.51.100.0/24",
                                     "tcp:80:192.0.2.0/24", "tcp:80:198.51.100.0/24")


def test_two_services_share_one_rule_on_the_nodes(aws):
    aws.serve(aws.service("web"), aws.service("api", Port(81, node_port=30081)))
    assert [line for line in aws.standin.inventory() if line.startswith("node-rule")] == [
        f"node-rule tcp 30000-32767 from {only(aws.seen('backend-group', 'shared')).outputs['id']}"
    ]


def test_a_node_port_outside_the_range_gets_a_rule_of_its_own(aws):
    aws.serve(aws.service("web", Port(80, node_port=8080)), aws.service("api", Port(81, node_port=30081)))
    ports = sorted((r.fields["from_port"], r.fields["to_port"]) for r in aws.seen("node-rule", "shared"))
    assert ports == [(8080, 8080), (30000, 32767)]


def test_a_udp_service_is_checked_at_kube_proxy(aws):
    aws.serve(aws.service("web", Port(53, "UDP", 30053)))
    group = only(groups(aws))
    assert (group["Protocol"], group["HealthCheckProtocol"], group["HealthCheckPort"]) == ("UDP", "HTTP", "10256")
    assert {r.fields["protocol"] for r in aws.seen("node-rule", "shared")} == {"tcp", "udp"}


def test_tcp_and_udp_of_one_port_are_one_listener(aws):
    aws.serve(aws.service("web", *DNS))
    assert [one["Protocol"] for one in listeners(aws)] == ["TCP_UDP"]
    assert only(aws.seen("security-group")).fields["rules"] == ("tcp:53:0.0.0.0/0", "udp:53:0.0.0.0/0")


def test_tls_ends_at_the_load_balancer(aws):
    arn = aws.standin.certificate()
    aws.serve(aws.service("web", Port(80, node_port=30080), TLS, said={"ssl-cert": arn, "ssl-ports": "https"}))
    by_port = {one["Port"]: one for one in listeners(aws)}
    assert (by_port[443]["Protocol"], by_port[443]["Certificates"][0]["CertificateArn"]) == ("TLS", arn)
    assert by_port[80]["Protocol"] == "TCP"


def test_more_certificates_are_offered_by_name(aws):
    first, second = aws.standin.certificate("a.example.com"), aws.standin.certificate("b.example.com")
    aws.serve(aws.service("web", TLS, said={"ssl-cert": f"{first},{second}"}))
    aws.serve(aws.service("web", TLS, said={"ssl-cert": first}))
    assert only(aws.seen("listener")).fields["certificates"] == (first,)


def test_another_certificate_is_exchanged_in_place(aws):
    first, second = aws.standin.certificate("a.example.com"), aws.standin.certificate("b.example.com")
    aws.serve(aws.service("web", TLS, said={"ssl-cert": first}))
    before = listeners(aws)[0]["ListenerArn"]
    aws.serve(aws.service("web", TLS, said={"ssl-cert": second}))
    after = listeners(aws)[0]
    assert (after["ListenerArn"], after["Certificates"][0]["CertificateArn"]) == (before, second)


def test_a_port_that_begins_to_speak_tls_keeps_its_listener(aws):
    aws.serve(aws.service("web", TLS))
    before = listeners(aws)[0]["ListenerArn"]
    aws.serve(aws.service("web", TLS, said={"ssl-cert": aws.standin.certificate()}))
    assert [(one["ListenerArn"], one["Protocol"]) for one in listeners(aws)] == [(before, "TLS")]


def test_local_traffic_is_checked_where_kubernetes_says(aws):
    aws.serve(aws.service(external_traffic_policy="Local", health_check_node_port=31999))
    group = only(groups(aws))
    assert (group["HealthCheckProtocol"], group["HealthCheckPort"], group["HealthCheckPath"]) == (
        "HTTP", "31999", "/healthz")
    assert (group["Matcher"]["HttpCode"], group["UnhealthyThresholdCount"]) == ("200-399", 2)


def test_a_change_of_the_traffic_policy_changes_the_check_in_place(aws):
    aws.serve(aws.service())
    before = only(groups(aws))["TargetGroupArn"]
    aws.serve(aws.service(external_traffic_policy="Local", health_check_node_port=31999))
    after = only(groups(aws))
    assert (after["TargetGroupArn"], after["HealthCheckProtocol"]) == (before, "HTTP")


def test_session_affinity_is_stickiness_by_source_and_its_timeout_a_note(aws):
    lb = aws.service(session_affinity="ClientIP")
    aws.serve(lb)
    assert attributes(aws, only(groups(aws)))["stickiness.enabled"] == "true"
    assert "affinity-timeout-ignored" in aws.notes(lb)
    aws.serve(aws.service())
    assert attributes(aws, only(groups(aws)))["stickiness.enabled"] == "false"


def test_a_removed_attribute_goes_back_to_awss_default(aws):
    aws.serve(aws.service(said={"target-group-attributes": "deregistration_delay.timeout_seconds=10",
                                "attributes": "load_balancing.cross_zone.enabled=true"}))
    assert attributes(aws, only(groups(aws)))["deregistration_delay.timeout_seconds"] == "10"
    aws.serve(aws.service())
    arn = balancer(aws)["LoadBalancerArn"]
    pairs = aws.client().describe_load_balancer_attributes(LoadBalancerArn=arn)["Attributes"]
    said = {pair["Key"]: pair["Value"] for pair in pairs}
    assert attributes(aws, only(groups(aws)))["deregistration_delay.timeout_seconds"] == "300"
    assert said["load_balancing.cross_zone.enabled"] == "false"


def test_tags_are_kept_in_step(aws):
    def user_tags():
        arn = balancer(aws)["LoadBalancerArn"]
        (said,) = aws.client().describe_tags(ResourceArns=[arn])["TagDescriptions"]
        return {tag["Key"]: tag["Value"] for tag in said["Tags"] if not tag["Key"].startswith("lbctl.io/")}
    aws.serve(aws.service(said={"additional-resource-tags": "team=net,url=a=b"}))
    assert user_tags() == {"team": "net", "url": "a=b"}
    aws.serve(aws.service(said={"lbctl.io/tags": "stage=test"}))
    assert user_tags() == {"stage": "test"}


def test_elastic_ips_stand_one_in_each_subnet(aws):
    ips = [aws.standin.elastic_ip(), aws.standin.elastic_ip()]
    aws.serve(aws.service(said={"eip-allocations": ",".join(ips)}))
    assert sorted(only(aws.seen("load-balancer")).fields["subnets"].values()) == sorted(ips)


def test_an_asked_address_is_found_among_the_elastic_ips(aws):
    made = aws.client("ec2").allocate_address(Domain="vpc")
    aws.serve(aws.service(requested_addresses=(ip_address(made["PublicIp"]),)))
    assert list(only(aws.seen("load-balancer")).fields["subnets"].values()) == [made["AllocationId"]]


def test_private_addresses_find_their_subnets_in_any_order(aws):
    aws.serve(aws.service(scheme="internal", said={"private-ipv4-addresses": "10.0.3.7,10.0.2.7"}))
    homes = {aws.standin.subnets["private-a"]: "10.0.2.7", aws.standin.subnets["private-b"]: "10.0.3.7"}
    assert only(aws.seen("load-balancer")).fields["subnets"] == homes


@pytest.mark.parametrize(("scheme", "sort"), [("internal", "private"), ("internet-facing", "public")])
def test_subnets_are_found_by_their_role(aws, scheme, sort):
    aws.serve(aws.service(scheme=scheme))
    homes = {zone["SubnetId"] for zone in balancer(aws)["AvailabilityZones"]}
    assert homes == {aws.standin.subnets[f"{sort}-a"], aws.standin.subnets[f"{sort}-b"]}


def test_named_subnets_are_taken_and_changed_in_place(aws):
    aws.serve(aws.service(said={"subnets": "public-a"}))
    before = balancer(aws)["LoadBalancerArn"]
    aws.serve(aws.service(said={"subnets": "public-a,public-b"}))
    assert (balancer(aws)["LoadBalancerArn"], len(balancer(aws)["AvailabilityZones"])) == (before, 2)


def test_two_subnets_of_one_zone_are_swapped_in_two_steps(aws):
    aws.serve(aws.service(said={"subnets": "public-a,public-b"}))
    before = balancer(aws)["LoadBalancerArn"]
    aws.serve(aws.service(said={"subnets": "public-a,private-b"}))
    homes = {zone["SubnetId"] for zone in balancer(aws)["AvailabilityZones"]}
    assert homes == {aws.standin.subnets["public-a"], aws.standin.subnets["private-b"]}
    assert balancer(aws)["LoadBalancerArn"] == before


def test_own_security_groups_come_instead_of_ours(aws):
    made = aws.client("ec2").create_security_group(GroupName="mine", Description="mine", VpcId=aws.standin.vpc)
    aws.serve(aws.service(said={"security-groups": "mine"}))
    assert balancer(aws)["SecurityGroups"] == [made["GroupId"]]
    assert not aws.seen("security-group")
    aws.serve(aws.service())
    assert made["GroupId"] not in balancer(aws)["SecurityGroups"]


def test_labels_choose_the_nodes(aws):
    nodes = aws.standin.nodes(2)
    chosen = replace(nodes[0], labels={**nodes[0].labels, "role": "edge"})
    aws.serve(aws.service(said={"target-node-labels": "role=edge"}, nodes=(chosen, nodes[1])))
    assert targets(aws, only(groups(aws))) == [chosen.provider_id.rpartition("/")[2]]


def test_a_fixed_name_is_the_name(aws):
    aws.serve(aws.service(said={"lbctl.io/load-balancer-name": "shop"}))
    assert balancer(aws)["LoadBalancerName"] == "shop"


def test_what_nobody_asks_for_any_more_goes_and_leaves_nothing(aws):
    before = aws.standin.inventory()
    aws.serve(aws.service("web", Port(80, node_port=30080), TLS), aws.service("dns", *DNS))
    aws.serve()
    assert aws.standin.inventory() == before


def test_private_links_traffic_is_let_past_the_groups_on_request_and_back(aws):
    said = "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"
    aws.serve(aws.service(said={"inbound-sg-rules-on-private-link-traffic": "off"}))
    assert balancer(aws)[said] == "off"
    aws.serve(aws.service())
    assert balancer(aws)[said] == "on"
