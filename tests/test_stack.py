"""Claim, cloud, status: created in that order, deleted in reverse; one provider's word, three parts."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from lbctl.model import SERVING, Ingress, LoadBalancer, Note, Owner, Ref, Refusal, Resource
from lbctl.plan import Change, Kind, diff
from lbctl.provider import Desired, Failure, Observation, Scope
from lbctl.stack import Outcome, Stack

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB, BAD = Owner("default/web"), Owner("default/bad")


class Part:
    """A part of a stack that says what it is told to say."""

    claims = True

    def __init__(self, name: str, *kinds: Kind, have: tuple[Resource, ...] = ()) -> None:
        self.name, self.have = name, have
        self.kinds: tuple[Kind, ...] = kinds or (Kind(name),)
        self.says = Desired()
        self.heard: list[Outcome] = []
        self.applied: list[Change] = []

    def observe(self, scope: Scope) -> Observation:
        return Observation(scope, self.have, {"name": self.name})

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        assert seen.facts["name"] == self.name
        if "outcome" in seen.facts:
            self.heard.append(seen.facts["outcome"])
        return self.says

    def shares(self, load_balancer: LoadBalancer) -> list[str]:
        return [load_balancer.owner]

    def adopts(self, status: Sequence[Ingress]) -> bool:
        return False

    def apply(self, changes: Sequence[Change]) -> list[None]:
        self.applied += changes
        return [None] * len(changes)


def stack() -> tuple[Stack, Part, Part, Part]:
    claims, status = Part("claim"), Part("status")
    cloud = Part("cloud", Kind("listener", after=("balancer",)), Kind("balancer"))
    return Stack(cloud, claims, status), claims, cloud, status


def wanting(kind: str, owner: Owner = WEB) -> Desired:
    return Desired((Resource(kind, owner, owner),))


def test_a_new_service_is_claimed_first_and_told_last() -> None:
    whole, claims, cloud, status = stack()
    claims.says, status.says = wanting("claim"), wanting("status")
    cloud.says = Desired((Resource("listener", "l", WEB), Resource("balancer", "b", WEB)))
    seen = whole.observe(Scope(NOW))
    plan = diff(whole.kinds, whole.desired((), seen), seen)
    assert [change.kind for change in plan.changes] == ["claim", "balancer", "listener", "status"]


def test_a_service_that_goes_is_released_last() -> None:
    whole, claims, cloud, status = stack()
    claims.have, cloud.have = (Resource("claim", WEB, WEB),), (Resource("balancer", "b", WEB),)
    status.have = (Resource("status", WEB, WEB),)
    seen = whole.observe(Scope(NOW))
    plan = diff(whole.kinds, whole.desired((), seen), seen)
    assert [change.kind for change in plan.changes] == ["status", "balancer", "claim"]


def test_claim_and_status_hear_what_the_cloud_came_to() -> None:
    whole, claims, cloud, status = stack()
    refusal, note = Refusal(BAD, "no", "because"), Note(WEB, SERVING, "targets-unhealthy", "all are down")
    address = (Ref("balancer", "web", "ip"),)
    cloud.says = Desired(refused=(refusal,), notes=(note,), addresses={WEB: address})
    whole.desired((LoadBalancer(WEB), LoadBalancer(BAD)), whole.observe(Scope(NOW)))
    expected = Outcome(frozenset({WEB}), {BAD: refusal}, {WEB: (note,)}, {WEB: address})
    assert claims.heard == status.heard == [expected]


def test_who_was_refused_before_is_heard_of_and_kept() -> None:
    whole, claims, _, _ = stack()
    refusal = Refusal(BAD, "quota-namespace", "full")
    desired = whole.desired((), whole.observe(Scope(NOW, refused=(refusal,))))
    assert desired.refused == (refusal,)
    assert claims.heard[0].refused == {BAD: refusal}


def test_each_change_goes_to_the_part_whose_kind_it_is() -> None:
    whole, claims, cloud, _ = stack()
    change = Change("delete", "listener", "l", WEB)
    whole.apply([change])
    assert (cloud.applied, claims.applied) == ([change], [])


def test_a_failure_is_told_without_a_look_at_the_cloud() -> None:
    whole, _, cloud, status = stack()
    status.says = wanting("status")
    cloud.observe = None  # type: ignore[assignment]
    plan = whole.telling(Scope(NOW, frozenset({WEB}), failures={WEB: Failure("quota", "full")}))
    assert [change.kind for change in plan.changes] == ["status"]


def test_two_parts_with_one_kind_are_a_fault() -> None:
    with pytest.raises(ValueError, match="two kinds"):
        Stack(Part("cloud", Kind("claim")), Part("claim"))
