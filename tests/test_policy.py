"""Who may ask for what, and how much one plan may take away."""

from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from msgspec.structs import replace

from lbctl.model import REQUESTED, SHARED, LoadBalancer, Owner, Refusal, Scheme
from lbctl.plan import Change, Plan
from lbctl.policy import Limits, NamespaceRule, Policy, admit, guard
from lbctl.wanted import Wanted

SUBNETS = "service.beta.kubernetes.io/aws-load-balancer-subnets"
WEB = Owner("shop/web")


def web(scheme: Scheme | None = None, **annotations: str) -> LoadBalancer:
    return LoadBalancer(WEB, scheme=scheme, annotations=annotations)


def token(policy: Policy, lb: LoadBalancer, labels: dict[str, str] | None = None) -> str | None:
    refusal = admit(policy, lb, labels or {}, [lb.owner])
    return refusal and refusal.reason


def test_without_rules_everybody_has_addresses() -> None:
    assert token(Policy(), web()) is None


def test_an_address_that_is_asked_for_is_an_existing_object_by_whichever_name() -> None:
    asking = LoadBalancer(WEB, requested_addresses=(ip_address("198.51.100.7"), ip_address("198.51.100.8")))
    policy = Policy(privileged={REQUESTED: "*"})
    rules = (NamespaceRule(("shop",), annotations={REQUESTED: ("198.51.100.*",)}),)
    assert token(policy, asking) == "not-allowed-in-namespace"
    assert token(replace(policy, rules=rules), asking) is None
    assert token(policy, web()) is token(Policy(), asking) is None


def test_what_is_malformed_is_refused_whoever_asks() -> None:
    problem = Refusal(WEB, "bad-source-range", "no")
    assert admit(Policy(tenancy="open"), LoadBalancer(WEB, problem=problem), {}, []) == problem


@pytest.mark.parametrize(("policy", "expected"), [
    (Policy(privileged={SUBNETS: "*"}), "not-allowed-in-namespace"),
    (Policy(privileged={SUBNETS: "*"}, tenancy="open"), None),
    (Policy(privileged={SUBNETS: "*"}, rules=(NamespaceRule(("shop",), annotations={SUBNETS: ("subnet-*",)}),)), None),
    (Policy(privileged={SUBNETS: "*"}, rules=(NamespaceRule(("shop",), annotations={SUBNETS: ("subnet-1",)}),)),
     "not-allowed-in-namespace"),
    (Policy(privileged={SUBNETS: "*"}, rules=(NamespaceRule(("other",), annotations={SUBNETS: ("*",)}),)),
     "not-allowed-in-namespace"),
    (Policy(privileged={SUBNETS: "vpc-*"}), None),
])
def test_naming_an_existing_object_takes_a_rule(policy: Policy, expected: str | None) -> None:
    assert token(policy, LoadBalancer(WEB, annotations={SUBNETS: "subnet-1, subnet-2"})) == expected


def test_an_open_tenancy_still_obeys_the_rules_that_there_are() -> None:
    rules = (NamespaceRule(("shop",), annotations={SUBNETS: ("subnet-9",)}),)
    policy = Policy(tenancy="open", rules=rules, privileged={SUBNETS: "*"})
    assert token(policy, LoadBalancer(WEB, annotations={SUBNETS: "subnet-1"})) == "not-allowed-in-namespace"


def test_a_namespace_without_public_addresses_must_say_internal() -> None:
    policy = Policy(rules=(NamespaceRule(selector={"tier": "private"}, schemes=("internal",)),))
    assert token(policy, web(), {"tier": "private"}) == "not-allowed-in-namespace"
    assert token(policy, web("internal"), {"tier": "private"}) is None
    assert token(policy, web(), {"tier": "public"}) is None


def test_a_full_namespace_refuses_the_youngest() -> None:
    wanted = Wanted()
    for day, name in enumerate(["web", "dns", "mail"], start=1):
        wanted.put(LoadBalancer(Owner(f"shop/{name}"), created=datetime(2026, 1, 4 - day, tzinfo=UTC)))
    policy = Policy(rules=(NamespaceRule(max_load_balancers=2),))
    refused = [lb.name for lb in wanted.of(None) if admit(policy, lb, {}, wanted.ranking("shop"))]
    assert refused == ["web"]


GONE = tuple(Owner(f"old/s{n}") for n in range(20))


def deleting(count: int, managed: int, limits: Limits = Limits(), **told: object) -> Plan:  # noqa: B008
    changes = tuple(Change("delete", "lb", owner, owner) for owner in GONE[:count])
    shared = Change("delete", "group", "g", SHARED)
    arguments = {"wanted": {WEB}, "released": set(), "managed": set(GONE[:managed]), **told}
    return guard(Plan((*changes, shared)), limits, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "managed", "stops"), [(3, 10, False), (4, 10, True), (9, 9, False), (20, 20, True)])
def test_many_inferred_deletes_stop(count: int, managed: int, stops: bool) -> None:
    plan = deleting(count, managed)
    assert bool(plan.limit) == stops
    assert bool(plan.changes) != stops


def test_frozen_deletes_keep_the_shared_things_they_stand_on() -> None:
    plan = deleting(20, 20)
    assert plan.frozen[-1].owner == SHARED
    assert "--max-delete=100%" in plan.limit


def test_a_shared_replacement_is_not_torn_in_two() -> None:
    old = Change("delete", "group", "g", SHARED, outage=True)
    new = Change("create", "group", "g", SHARED, outage=True)
    gone = tuple(Change("delete", "lb", owner, owner) for owner in GONE)
    plan = guard(Plan((old, new, *gone)), Limits(), wanted={WEB}, released=(), managed=GONE)
    assert plan.changes == (old, new)


def test_a_service_that_says_goodbye_is_never_guarded() -> None:
    assert not deleting(20, 20, released=set(GONE)).limit


def test_an_empty_cluster_stops_whatever_the_numbers() -> None:
    assert "right cluster" in deleting(1, 1, wanted=set()).limit


def test_somebody_who_looked_lets_it_through() -> None:
    assert not deleting(20, 20, Limits(let_through=True), wanted=set()).limit


def test_without_prune_nothing_goes_by_inference() -> None:
    plan = deleting(1, 20, Limits(prune=False))
    assert "--prune" in plan.limit
    assert len(plan.frozen) == 2
