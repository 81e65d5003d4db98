"""Whose things are whose, what a change keeps, and what replaces what."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from lbctl.model import Ingress, Port
from lbctl.testing import driver
from lbctl.testing.world import Trouble, unavailable
from lbctl_aws.marks import CLUSTER, INSTALLATION, OWNER


def balancers(aws):
    return {b["LoadBalancerName"]: b for b in aws.client().describe_load_balancers()["LoadBalancers"]}


def schemes(aws):
    return sorted(b["Scheme"] for b in balancers(aws).values())


def one_pass(aws, *lbs):
    return aws.run(lbs)[0]


def test_another_scheme_is_created_before_the_old_one_goes_after_its_drain(aws):
    aws.serve(aws.service())
    aws.now = datetime.now(UTC)
    internal = aws.service(scheme="internal")
    plan = one_pass(aws, internal)
    assert schemes(aws) == ["internal", "internet-facing"]
    assert {c.kind for c in plan.pending} == {"load-balancer", "target-group"}
    assert one_pass(aws, internal).changes == ()
    aws.now += timedelta(seconds=130)
    one_pass(aws, internal)
    assert schemes(aws) == ["internal"]


def test_the_drain_counts_from_the_replacements_creation_not_from_the_look(aws):
    aws.given(drain_seconds="600")
    aws.serve(aws.service())
    aws.now = datetime.now(UTC)
    internal = aws.service(scheme="internal")
    one_pass(aws, internal)
    aws.restart()
    aws.now += timedelta(seconds=590)
    (until,) = {c.not_before for c in one_pass(aws, internal).pending}
    assert (until - aws.now).total_seconds() < 60


def test_a_fixed_name_cannot_be_held_twice_so_the_old_one_goes_first(aws):
    named = {"lbctl.io/load-balancer-name": "shop"}
    aws.serve(aws.service(said=named))
    plan = aws.plan([aws.service(said=named, scheme="internal")])
    assert [c.action for c in plan.changes if c.kind == "load-balancer"] == ["delete", "create"]
    assert all(c.outage for c in plan.changes if c.kind == "load-balancer")
    aws.serve(aws.service(said=named, scheme="internal"))
    assert schemes(aws) == ["internal"]


def test_an_elastic_ip_moves_with_an_outage_that_the_plan_announces(aws):
    first, second, third = (aws.standin.elastic_ip() for _ in range(3))
    aws.serve(aws.service(said={"eip-allocations": f"{first},{second}"}))
    change = aws.service(said={"eip-allocations": f"{first},{third}"})
    assert any(c.outage and c.action == "delete" for c in aws.plan([change]).changes)
    aws.serve(change)
    (found,) = aws.seen("load-balancer")
    assert sorted(found.fields["subnets"].values()) == sorted([first, third])


def test_saying_what_is_already_so_changes_nothing(aws):
    aws.serve(aws.service())
    assert aws.plan([aws.service(scheme="internet-facing")]).empty


def test_a_changed_default_replaces_nothing(aws):
    lb = aws.service()
    aws.serve(lb)
    (before,) = balancers(aws).values()
    aws.given(default_scheme="internal")
    published = replace(lb, status=(Ingress(hostname=before["DNSName"]),))
    assert aws.plan([published]).empty
    (ref,) = aws.provider.desired([published], aws.observe([published])).addresses[published.owner]
    assert ref.name == before["LoadBalancerName"]
    aws.serve(published, aws.service("new"))
    assert schemes(aws) == ["internal", "internet-facing"]


def test_a_changed_default_replaces_nothing_though_the_status_was_wiped(aws):
    lb = aws.service()
    aws.serve(lb)
    (before,) = balancers(aws).values()
    aws.given(default_scheme="internal")
    assert aws.plan([lb]).empty
    (ref,) = aws.provider.desired([lb], aws.observe([lb])).addresses[lb.owner]
    assert ref.name == before["LoadBalancerName"]


def test_a_scheme_that_is_no_longer_said_stays_as_it_is(aws):
    aws.serve(aws.service(scheme="internal"))
    assert aws.plan([aws.service()]).empty


def test_a_new_name_or_address_keeps_the_scheme_too(aws):
    aws.serve(aws.service())
    aws.given(default_scheme="internal")
    aws.serve(aws.service(said={"eip-allocations": ",".join(aws.standin.elastic_ip() for _ in range(2))}))
    assert schemes(aws) == ["internet-facing"]


def test_while_one_replaces_the_other_the_younger_scheme_counts(aws):
    aws.serve(aws.service())
    aws.now = datetime.now(UTC)
    one_pass(aws, aws.service(scheme="internal"))
    assert schemes(aws) == ["internal", "internet-facing"]
    aws.now += timedelta(seconds=130)
    one_pass(aws, aws.service())
    assert schemes(aws) == ["internal"]


def test_a_load_balancer_deleted_by_hand_comes_back_with_its_scheme(aws):
    lb = aws.service()
    aws.serve(lb)
    (before,) = balancers(aws).values()
    aws.client().delete_load_balancer(LoadBalancerArn=before["LoadBalancerArn"])
    aws.given(default_scheme="internal")
    aws.serve(replace(lb, status=(Ingress(hostname=before["DNSName"]),)))
    assert schemes(aws) == ["internet-facing"]


def test_another_node_port_is_another_group_behind_the_same_listener(aws):
    aws.serve(aws.service())
    (before,) = aws.seen("listener")
    aws.serve(aws.service("web", Port(80, node_port=30081)))
    (after,), (group,) = aws.seen("listener"), aws.seen("target-group")
    assert after.outputs["arn"] == before.outputs["arn"]
    assert group.fields["port"] == 30081


def test_another_service_of_the_same_name_is_another_service(aws):
    lb = aws.service()
    aws.serve(lb)
    (before,) = aws.seen("load-balancer")
    aws.serve(replace(lb, uid="00000000-0000-4000-8000-999999999999"))
    (after,) = aws.seen("load-balancer")
    assert (before.name, before.outputs["arn"]) != (after.name, before.outputs["arn"]) or (
        before.outputs["arn"] != after.outputs["arn"])


def test_files_that_know_no_uid_keep_what_the_controller_made(aws):
    lb = aws.service()
    aws.serve(lb)
    assert aws.plan([replace(lb, uid="")]).empty


def test_a_refused_service_keeps_what_it_has(aws):
    aws.serve(aws.service())
    before = aws.standin.inventory()
    aws.run([aws.service(said={"ssl-cert": "nonsense"})])
    assert aws.standin.inventory() == before


def test_a_foreign_load_balancer_of_our_name_is_never_taken(aws):
    elb = aws.client()
    elb.create_load_balancer(Name="shop", Type="network", Subnets=[aws.standin.subnets["public-a"]])
    lb = aws.service(said={"name": "shop"})
    assert aws.refusal(lb).reason == "not-ours"
    before = aws.standin.inventory()
    aws.run([lb])
    assert aws.standin.inventory() == before


def test_a_foreign_name_that_appears_meanwhile_is_not_taken_either(aws):
    other = aws.service("other", Port(81, node_port=30081))
    aws.serve(other)
    aws.client().create_load_balancer(Name="shop", Type="network", Subnets=[aws.standin.subnets["public-a"]])
    _, steps = aws.run([other, aws.service(said={"name": "shop"})], fresh=False)
    assert [step.answer.reason for step in steps if isinstance(step.answer, Exception)] == ["not-ours"]


def test_a_stripped_mark_is_reported_with_the_command_that_restores_it(aws):
    lb = aws.service()
    aws.serve(lb)
    (found,) = balancers(aws).values()
    aws.client().remove_tags(ResourceArns=[found["LoadBalancerArn"]], TagKeys=[CLUSTER])
    said = aws.refusal(lb)
    assert said.reason == "ownership-lost"
    assert f"aws elbv2 add-tags --resource-arns {found['LoadBalancerArn']}" in said.message


def test_another_installation_with_our_cluster_id_is_left_alone_until_take_over(aws):
    lb = aws.service()
    aws.serve(lb)
    (found,) = balancers(aws).values()
    aws.client().add_tags(ResourceArns=[found["LoadBalancerArn"]], Tags=[{"Key": INSTALLATION, "Value": "first"}])
    aws.restart()
    assert aws.refusal(lb).reason == "other-installation"
    aws.take_over = True
    aws.restart()
    assert [(c.action, c.kind) for c in aws.plan([lb]).changes] == [("update", "load-balancer")]


def test_a_copied_cluster_changes_nothing(aws):
    aws.serve(aws.service())
    before = aws.standin.inventory()
    aws.restart()
    other = aws.standin.nodes(4)[2:]
    copied = aws.service(nodes=other)
    assert aws.refusal(copied).reason == "cluster-copied"
    aws.run([])
    aws.run([replace(copied, ports=(Port(81, node_port=30081),))])
    assert aws.standin.inventory() == before


def test_orphans_are_found_by_their_tags(aws):
    aws.serve(aws.service())
    aws.restart()
    assert {c.action for c in aws.plan([]).changes} == {"delete"}


def test_deletion_protection_is_a_refusal_with_the_way_out(aws):
    aws.serve(aws.service(said={"attributes": "deletion_protection.enabled=true"}))
    _, steps = aws.run([])
    (no,) = [step.answer for step in steps if step.change.kind == "load-balancer"]
    assert no.reason == "deletion-protection"
    aws.serve(aws.service())
    aws.serve()
    assert not balancers(aws)


def test_a_group_whose_interfaces_linger_is_deleted_later_and_not_waited_for(aws):
    aws.serve(aws.service())
    aws.standin.load_balancing.linger = 2
    _, steps = aws.run([])
    last = [step.answer for step in steps if step.change.kind == "security-group"]
    assert [(type(no).__name__, no.reason, no.after) for no in last] == [("Retry", "security-group-in-use", 2.0)]


def test_the_owner_is_read_from_the_tag(aws):
    aws.serve(aws.service())
    (found,) = aws.seen("load-balancer")
    assert found.fields["tags"][OWNER] == "laws/web"
    assert driver.plan(aws.provider, [], ["other/web"], at=aws.now).empty


@pytest.mark.parametrize("kind", ["load-balancer", "target-group", "security-group"])
def test_what_an_unclear_answer_left_behind_is_taken_over(aws, kind):
    """The call took effect, its answer was lost: the next pass finds it by its tags."""
    operation = {"load-balancer": "CreateLoadBalancer", "target-group": "CreateTargetGroup",
                 "security-group": "CreateSecurityGroup"}[kind]
    class Lost(Trouble):
        def __call__(self, number, call):
            if call.operation == operation and call.code is not None and not self.happened:
                self.happened = "lost"
                raise unavailable()
    aws.wire.begin(Lost())
    aws.serve(aws.service())
    assert len(aws.seen(kind)) == 1
