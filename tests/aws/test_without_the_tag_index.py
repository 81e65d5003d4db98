"""A role that lacks tag:GetResources: everything works all the same, at a price that is counted. Over real HTTP."""

from datetime import timedelta

import pytest

from lbctl.errors import CredentialsError
from lbctl.model import Port
from lbctl.testing.world import Trouble

SINGLY = ("DescribeTargetHealth", "DescribeTargetGroupAttributes", "DescribeLoadBalancerAttributes",
          "DescribeListenerAttributes", "DescribeListenerCertificates")


@pytest.fixture
def poor(aws):
    """The world with a role that may not ask the tag index."""
    aws.standin.wire.deny("GetResources")
    aws.restart()
    return aws


def services(aws, count):
    nodes = aws.standin.nodes(2)
    return [aws.service(f"s{n}", Port(80, node_port=30100 + n), nodes=nodes) for n in range(count)]


def test_it_converges_and_a_fresh_process_finds_everything_again(poor):
    lbs = services(poor, 3)
    poor.serve(*lbs)
    poor.restart()
    assert poor.plan(lbs).empty
    poor.run([])
    poor.standin.settle()
    poor.run([])
    assert poor.standin.inventory() == frozenset()


def test_what_is_not_ours_stays_where_it_is(poor):
    theirs = poor.standin.plant_foreign()
    poor.serve(*services(poor, 1))
    poor.run([])
    poor.run([])
    assert poor.standin.inventory() == theirs


def test_a_listener_deleted_by_hand_comes_back(poor):
    lbs = services(poor, 2)
    poor.serve(*lbs)
    before = poor.standin.inventory()
    poor.standin.drift(poor.seen("listener", "laws/s0")[0])
    assert poor.standin.inventory() != before
    poor.run(lbs)
    assert poor.standin.inventory() == before


def test_an_audit_costs_a_call_per_load_balancer_and_one_per_twenty_tags(poor):
    lbs = services(poor, 25)
    poor.serve(*lbs)
    calls = poor.cost(lambda: poor.observe(lbs))
    assert (calls["GetResources"], calls["DescribeTags"], calls["DescribeListeners"]) == (1, 3 + 2, 25)
    assert not {name: calls[name] for name in SINGLY if calls[name]}


def test_listeners_are_not_read_a_second_time_for_their_settings(poor):
    lbs = services(poor, 4)
    poor.serve(*lbs)
    poor.restart()
    assert poor.cost(lambda: poor.observe(lbs))["DescribeListeners"] == 4


def test_a_load_balancer_that_goes_during_the_look_does_not_stop_it(poor):
    lbs = services(poor, 2)
    poor.serve(*lbs)
    arn = poor.seen("load-balancer", "laws/s0")[0].outputs["arn"]

    class Goes(Trouble):
        def __call__(self, number, call):
            if call.operation == "DescribeListeners" and call.code is None and not self.happened:
                self.happened = "gone"
                poor.client().delete_load_balancer(LoadBalancerArn=arn)

    poor.wire.begin(Goes())
    plan = poor.plan(lbs)
    assert {change.owner for change in plan.changes} <= {"laws/s0"}
    poor.run(lbs)
    assert poor.plan(lbs).empty


def test_the_permission_that_comes_later_is_used(poor):
    lbs = services(poor, 2)
    poor.serve(*lbs)
    poor.standin.wire.deny()
    poor.now += timedelta(minutes=10)
    calls = poor.cost(lambda: poor.observe(lbs))
    assert (calls["GetResources"], calls["DescribeTags"]) == (1, 0)


def test_without_either_permission_the_missing_action_is_named(poor):
    poor.serve(*services(poor, 1))
    poor.standin.wire.deny("GetResources", "DescribeTags")
    with pytest.raises(CredentialsError, match="elasticloadbalancing:DescribeTags"):
        poor.observe([])


@pytest.mark.parametrize("operation", ["ec2:DescribeSecurityGroups", "elasticloadbalancing:DescribeLoadBalancers"])
def test_a_look_that_is_not_permitted_names_the_action(aws, operation):
    aws.standin.wire.deny(operation.partition(":")[2])
    with pytest.raises(CredentialsError, match=operation):
        aws.observe([])
