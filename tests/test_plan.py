"""What changes, in which order: `diff` as tables and laws."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.model import SHARED, Owner, Ref, Refusal, Resource
from lbctl.plan import Kind, Plan, diff, ranks
from lbctl.provider import Desired, Observation, Scope

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB, DNS = Owner("default/web"), Owner("default/dns")
KINDS = (
    Kind("group"),
    Kind("balancer", after=("group",), immutable=frozenset({"scheme"})),
    Kind("listener", after=("balancer",), immutable=frozenset({"balancer"})),
)


def group(owner: Owner = SHARED, **fields: object) -> Resource:
    return Resource("group", "g", owner, fields, {"id": "sg-1"})


def balancer(scheme: str = "internal", owner: Owner = WEB, name: str = "b", holds: tuple[str, ...] = ()) -> Resource:
    return Resource("balancer", name, owner, {"scheme": scheme}, {"arn": f"arn-{name}"}, holds)


def listener(target: object = "arn-b", owner: Owner = WEB) -> Resource:
    return Resource("listener", "l", owner, {"balancer": target, "port": 80})


def planned(want: tuple[Resource, ...], have: tuple[Resource, ...] = (), **desired: object) -> Plan:
    return diff(KINDS, Desired(want, **desired), Observation(Scope(NOW), have))  # type: ignore[arg-type]


def steps(plan: Plan) -> list[str]:
    return [f"{change.action} {change.kind}" for change in plan.changes]


def test_what_is_missing_is_created_behind_what_it_needs() -> None:
    plan = planned((listener(Ref("balancer", "b", "arn")), balancer(), group()))
    assert steps(plan) == ["create group", "create balancer", "create listener"]


def test_what_nobody_wants_is_deleted_in_reverse() -> None:
    plan = planned((), (group(), balancer(), listener()))
    assert steps(plan) == ["delete listener", "delete balancer", "delete group"]


def test_what_is_right_is_left_alone() -> None:
    plan = planned((balancer(), listener(Ref("balancer", "b", "arn"))), (balancer(), listener()))
    assert plan.empty
    assert plan.unchanged == 2


def test_a_reference_to_something_else_is_a_difference() -> None:
    plan = planned((balancer(), listener(Ref("balancer", "b", "arn"))), (balancer(), listener("arn-old")))
    assert steps(plan) == ["delete listener", "create listener"]


def test_an_immutable_field_makes_way_first_and_says_outage() -> None:
    plan = planned((balancer("internet-facing"),), (balancer(),))
    assert steps(plan) == ["delete balancer", "create balancer"]
    assert all(change.outage for change in plan.changes)


def test_whoever_refers_to_a_replaced_resource_is_replaced_in_turn() -> None:
    want = (balancer("internet-facing"), listener(Ref("balancer", "b", "arn")))
    assert steps(planned(want, (balancer(), listener()))) == [
        "delete listener", "delete balancer", "create balancer", "create listener",
    ]


def test_a_replacement_of_another_name_comes_before_the_old_one_goes() -> None:
    plan = planned((balancer("internet-facing", name="new"),), (balancer(),))
    assert steps(plan) == ["create balancer", "delete balancer"]


def test_a_replacement_that_needs_what_the_old_one_holds_comes_after_it() -> None:
    old, new = balancer(holds=("eip:1",)), balancer("internet-facing", name="new", holds=("eip:1",))
    plan = planned((new,), (old,))
    assert steps(plan) == ["delete balancer", "create balancer"]
    assert plan.changes[0].outage


def test_a_drain_is_pending_until_its_time() -> None:
    until = NOW + timedelta(seconds=120)
    plan = planned((), (balancer(),), drains={("balancer", "b"): until})
    assert plan.empty
    assert plan.pending[0].not_before == until
    assert steps(planned((), (balancer(),), drains={("balancer", "b"): NOW})) == ["delete balancer"]


def test_a_refused_owner_keeps_what_it_has() -> None:
    assert planned((), (balancer(),), refused=(Refusal(WEB, "no", "because"),)).empty


def test_shared_things_do_not_go_in_a_narrowed_or_warm_look() -> None:
    for scope in (Scope(NOW, frozenset({WEB})), Scope(NOW, fresh=False)):
        assert diff(KINDS, Desired(), Observation(scope, (group(),))).empty
    assert steps(planned((), (group(),))) == ["delete group"]


def test_a_narrowed_look_deletes_nothing_of_others() -> None:
    seen = Observation(Scope(NOW, frozenset({WEB})), (balancer(owner=DNS),))
    assert diff(KINDS, Desired(), seen).empty


def test_two_resources_of_one_name_are_a_fault() -> None:
    with pytest.raises(ValueError, match="balancer/b"):
        planned((balancer(), balancer()))


def test_kinds_that_need_each_other_are_a_fault() -> None:
    with pytest.raises(ValueError, match="circle"):
        ranks((Kind("a", after=("b",)), Kind("b", after=("a",))))


def test_equal_plans_have_equal_digests() -> None:
    first, second = planned((balancer(),)), planned((balancer(),))
    assert first.digest == second.digest
    assert first.digest != planned((balancer("internet-facing"),)).digest


NAMES = st.sampled_from(["b", "c", "d"])
SOME = st.dictionaries(NAMES, st.sampled_from(["internal", "internet-facing"]))


@given(SOME, SOME)
def test_carrying_out_a_plan_leaves_nothing_to_do(want: dict[str, str], have: dict[str, str]) -> None:
    wanted = tuple(balancer(scheme, name=name) for name, scheme in want.items())
    there = {("balancer", name): balancer(scheme, name=name) for name, scheme in have.items()}
    for change in planned(wanted, tuple(there.values())).changes:
        there.pop(change.key, None)
        if change.after:
            there[change.key] = change.after
    assert planned(wanted, tuple(there.values())).empty
