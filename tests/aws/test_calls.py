"""How many calls each operation costs: what was sent, counted by botocore's own hook. Goals, not measurements."""

from datetime import timedelta

from msgspec.structs import replace

from lbctl.model import Port
from lbctl_aws.look import WHAT

READ_ONE_AT_A_TIME = {
    "DescribeTargetHealth", "DescribeTargetGroupAttributes", "DescribeLoadBalancerAttributes", "DescribeListeners",
    "DescribeListenerAttributes", "DescribeListenerCertificates",
}


def services(aws, count, nodes=None):
    nodes = nodes or aws.standin.nodes(2)
    return [aws.service(f"s{n}", Port(80, node_port=30100 + n), nodes=nodes) for n in range(count)]


def three(aws):
    return aws.service("three", *(Port(n, node_port=30000 + n) for n in (80, 443, 8080)))


def warm(aws, lbs, *owners):
    """One warm pass over some owners, as an event causes it."""
    return aws.cost(lambda: aws.run(lbs, [f"laws/{name}" for name in owners], fresh=False))


def test_a_service_of_one_port_costs_six_calls(aws):
    aws.serve(*services(aws, 1))
    calls = warm(aws, [*services(aws, 1), aws.service()], "web")
    assert calls.total() <= 7
    assert not {name for name in calls if name.startswith("Describe")}


def test_three_ports_cost_twelve(aws):
    aws.serve(*services(aws, 1))
    assert warm(aws, [*services(aws, 1), three(aws)], "three").total() <= 13


def test_deleting_costs_a_call_for_each_part_that_aws_does_not_delete_itself(aws):
    aws.serve(*services(aws, 1), aws.service(), three(aws))
    rest = services(aws, 1)
    assert warm(aws, [*rest, three(aws)], "web").total() <= 5
    assert warm(aws, rest, "three").total() <= 7


def test_an_unrelated_annotation_costs_nothing(aws):
    lb = aws.service()
    aws.serve(lb)
    assert warm(aws, [replace(lb, annotations={"example.com/note": "x"})], "web").total() == 0


def test_a_new_node_costs_one_call_per_group_and_one_to_know_it(aws):
    aws.serve(*services(aws, 1))
    assert warm(aws, services(aws, 1, aws.standin.nodes(3)), "s0").total() <= 3


def test_a_new_node_for_ten_services(aws):
    aws.serve(*services(aws, 10))
    names = [f"s{n}" for n in range(10)]
    assert warm(aws, services(aws, 10, aws.standin.nodes(3)), *names).total() <= 12


def test_a_node_that_goes_for_ten_services(aws):
    aws.serve(*services(aws, 10, aws.standin.nodes(3)))
    names = [f"s{n}" for n in range(10)]
    assert warm(aws, services(aws, 10), *names).total() <= 12


def test_a_warm_look_at_what_is_right_costs_nothing(aws):
    lbs = services(aws, 3)
    aws.serve(*lbs)
    assert aws.cost(lambda: aws.observe(lbs, fresh=False)).total() == 0


def test_an_audit_costs_pages_not_services(aws):
    lbs = services(aws, 30)
    aws.serve(*lbs)
    few = aws.cost(lambda: aws.observe(lbs[:2]))
    many = aws.cost(lambda: aws.observe(lbs))
    pages = {name: count for name, count in many.items() if name not in READ_ONE_AT_A_TIME}
    assert sum(pages.values()) <= 9
    assert few["DescribeLoadBalancers"] == many["DescribeLoadBalancers"] == 1


def test_what_aws_tells_singly_is_read_once_after_a_start_and_then_in_turn_within_the_budget(aws):
    lbs = services(aws, 10)
    aws.serve(*lbs)
    aws.given(audit_budget="7")
    first = aws.cost(lambda: aws.observe(lbs))
    singly = ("DescribeTargetHealth", "DescribeListeners", "DescribeTargetGroupAttributes")
    assert [first[name] for name in singly] == [10, 1, 0]
    aws.now += timedelta(hours=1)
    later = aws.cost(lambda: aws.observe(lbs))
    assert sum(count for name, count in later.items() if name in READ_ONE_AT_A_TIME) <= 7


def test_within_an_hour_of_audits_everything_is_read_again(aws):
    lbs = services(aws, 5)
    aws.serve(*lbs)
    aws.restart()
    aws.observe(lbs)
    read = set()
    for _ in range(6):
        aws.now += timedelta(minutes=10)
        aws.wire.begin()
        aws.observe(lbs)
        read |= {call.operation for call in aws.wire.calls}
    memory = aws.provider._look.memory
    wanted = [(what, arn) for what in WHAT if what != "foreign" for arn in memory.of(what)]
    assert len(wanted) == 5 * 5
    assert all((aws.now - memory.read_at(detail)).total_seconds() < 3600 for detail in wanted)
