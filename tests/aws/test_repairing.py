"""What somebody changes by hand is put right: at the next audit; what AWS tells one at a time, within the hour."""

from datetime import timedelta

import pytest

from lbctl.model import Port


@pytest.fixture
def served(aws):
    lb = aws.service("web", Port(80, node_port=30080))
    aws.serve(lb)
    aws.lb = lb
    return aws


def arn(aws, kind):
    (found,) = aws.seen(kind)
    return found.outputs["arn"]


def delete_listener(aws):
    aws.client().delete_listener(ListenerArn=arn(aws, "listener"))


def open_the_group(aws):
    (group,) = aws.seen("security-group")
    aws.client("ec2").authorize_security_group_ingress(
        GroupId=group.outputs["id"], IpPermissions=[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22,
                                                    "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}])


def close_the_group(aws):
    (group,) = aws.seen("security-group")
    aws.client("ec2").revoke_security_group_ingress(
        GroupId=group.outputs["id"], IpPermissions=[{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80,
                                                    "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}])


def close_the_nodes(aws):
    (rule,) = aws.seen("node-rule", "shared")
    aws.client("ec2").revoke_security_group_ingress(
        GroupId=rule.fields["group"],
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": 30000, "ToPort": 32767,
                        "UserIdGroupPairs": [{"GroupId": rule.fields["source"]}]}])


def change_the_check(aws):
    aws.client().modify_target_group(TargetGroupArn=arn(aws, "target-group"), HealthCheckIntervalSeconds=30)


def change_a_tag(aws):
    aws.client().add_tags(ResourceArns=[arn(aws, "target-group")], Tags=[{"Key": "lbctl.io/uid", "Value": "x"}])


def remove_a_tag(aws):
    aws.client().remove_tags(ResourceArns=[arn(aws, "listener")], TagKeys=["lbctl.io/uid"])


def take_the_groups_away(aws):
    (group,) = aws.seen("security-group")
    aws.client().set_security_groups(LoadBalancerArn=arn(aws, "load-balancer"), SecurityGroups=[group.outputs["id"]])


def delete_the_load_balancer(aws):
    aws.client().delete_load_balancer(LoadBalancerArn=arn(aws, "load-balancer"))


@pytest.mark.parametrize("damage", [
    delete_listener, open_the_group, close_the_group, close_the_nodes, change_the_check, change_a_tag, remove_a_tag,
    take_the_groups_away, delete_the_load_balancer,
])
def test_the_next_audit_puts_it_right(served, damage):
    damage(served)
    plan, _ = served.run([served.lb])
    assert plan.changes
    served.done([served.lb], "after the repair")


def lose_a_target(aws):
    group = arn(aws, "target-group")
    (one, *_) = aws.client().describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
    aws.client().deregister_targets(TargetGroupArn=group, Targets=[{"Id": one["Target"]["Id"]}])


def change_an_attribute(aws):
    aws.client().modify_target_group_attributes(
        TargetGroupArn=arn(aws, "target-group"), Attributes=[{"Key": "proxy_protocol_v2.enabled", "Value": "true"}])


def protect_the_load_balancer(aws):
    aws.client().modify_load_balancer_attributes(
        LoadBalancerArn=arn(aws, "load-balancer"), Attributes=[{"Key": "deletion_protection.enabled", "Value": "true"}])


def change_the_idle_timeout(aws):
    aws.client().modify_listener_attributes(
        ListenerArn=arn(aws, "listener"), Attributes=[{"Key": "tcp.idle_timeout.seconds", "Value": "60"}])


def point_the_listener_elsewhere(aws):
    made = aws.client().create_target_group(Name="elsewhere", Protocol="TCP", Port=30999, VpcId=aws.standin.vpc,
                                            HealthCheckTimeoutSeconds=5)["TargetGroups"][0]["TargetGroupArn"]
    aws.client().modify_listener(ListenerArn=arn(aws, "listener"),
                                 DefaultActions=[{"Type": "forward", "TargetGroupArn": made}])


@pytest.mark.parametrize("damage", [
    lose_a_target, change_an_attribute, protect_the_load_balancer, change_the_idle_timeout,
    point_the_listener_elsewhere,
])
def test_within_the_hour_it_is_put_right(served, damage):
    damage(served)
    changed = []
    for _ in range(6):
        served.now += timedelta(minutes=10)
        plan, _ = served.run([served.lb])
        changed += plan.changes
    assert [change.action for change in changed] == ["update"]
    served.now += timedelta(hours=1)
    served.done([served.lb], "after the repair")


def test_a_new_process_sees_lost_targets_at_once(served):
    lose_a_target(served)
    served.restart()
    assert [change.diffs[0].field for change in served.plan([served.lb]).changes] == ["targets"]


def test_unusual_attributes_are_read_at_once_by_a_new_process(served):
    lb = served.service("web", Port(80, node_port=30080), said={"proxy-protocol": "*"})
    served.serve(lb)
    served.client().modify_target_group_attributes(
        TargetGroupArn=arn(served, "target-group"), Attributes=[{"Key": "proxy_protocol_v2.enabled", "Value": "false"}])
    served.restart()
    assert [change.diffs[0].field for change in served.plan([lb]).changes] == ["attributes"]


def test_nodes_that_fail_the_check_are_a_note_until_they_pass(served):
    for group in served.standin.load_balancing.target_groups.values():
        group.state = "unhealthy"
    served.restart()
    assert "targets-unhealthy" in served.notes(served.lb)
    for group in served.standin.load_balancing.target_groups.values():
        group.state = "healthy"
    served.now += timedelta(minutes=1)
    assert served.notes(served.lb) == {}


def test_a_stopped_instance_is_left_out_and_named(served):
    nodes = served.standin.nodes(2)
    served.client("ec2").stop_instances(InstanceIds=[nodes[0].provider_id.rpartition("/")[2]])
    served.run([served.lb])
    (group,) = served.seen("target-group")
    assert group.fields["targets"] == (nodes[1].provider_id.rpartition("/")[2],)
    assert "not-running" in served.notes(served.lb)
