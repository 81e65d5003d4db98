"""The one path, over the reference provider: observe → desired → diff → guard → apply."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Literal

import msgspec
import pytest

from lbctl.apply import Result
from lbctl.memory import CLOUDS, MemoryCloud, MemoryProvider
from lbctl.model import SHARED, Ingress, LoadBalancer, Node, Owner, Port, Refusal
from lbctl.plan import Change
from lbctl.policy import Limits, NamespaceRule, Policy
from lbctl.provider import Call, Harness, ignore
from lbctl.reconcile import Reconciler, worth_telling
from lbctl.stack import Stack
from lbctl.wanted import Wanted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODES = (Node("n1", "memory://n1"),)
Make = Callable[..., Reconciler]


def web(name: str = "web", *, port: int = 80, node_port: int = 30080, protocol: str = "TCP") -> LoadBalancer:
    return LoadBalancer(Owner(f"default/{name}"), ports=(Port(port, protocol, node_port),), nodes=NODES)


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a Reconciler over one cloud; call it again for a restart."""
    name = f"reconcile-{threading.get_ident()}"
    CLOUDS[name] = MemoryCloud()

    def make(*wanted: LoadBalancer, policy: Policy = Policy(), on_call: Callable[[Call], None] = ignore) -> Reconciler:  # noqa: B008
        provider = MemoryProvider(Harness({"cloud": name}, "c1", now=lambda: NOW, on_call=on_call))
        everything = Wanted(provider.shares)
        for lb in wanted:
            everything.put(lb)
        return Reconciler(Stack(provider), everything, policy, now=lambda: NOW)

    yield make
    del CLOUDS[name]


def steps(reconciler: Reconciler) -> list[str]:
    return [f"{change.action} {change.kind}" for change in reconciler.plan().changes]


def test_a_service_becomes_an_address(make: Make) -> None:
    reconciler = make(web())
    assert steps(reconciler) == ["create rule", "create address", "create listener"]
    assert not reconciler.apply(reconciler.plan()).failed
    assert steps(reconciler) == []


def test_a_restart_changes_nothing(make: Make) -> None:
    first = make(web())
    first.apply(first.plan())
    assert steps(make(web())) == []


def test_what_disappeared_is_collected_with_the_shared_things_last(make: Make) -> None:
    first = make(web(), web("dns", port=53, node_port=30053, protocol="UDP"))
    first.apply(first.plan())
    second = make(web())
    second.apply(second.plan())
    assert steps(second) == []
    assert {r.owner for r in second.stack.observe(second._scope(None, True)).resources} == {SHARED, "default/web"}


def test_an_event_looks_at_one_service_without_a_call(make: Make) -> None:
    calls: list[Call] = []
    reconciler = make(web(), web("dns"), on_call=calls.append)
    reconciler.apply(reconciler.plan())
    calls.clear()
    assert reconciler.plan(frozenset({Owner("default/web")}), fresh=False).empty
    assert calls == []


def test_a_malformed_service_is_refused_and_the_others_are_served(make: Make) -> None:
    bad = LoadBalancer(Owner("default/bad"), problem=Refusal(Owner("default/bad"), "bad-source-range", "no"))
    reconciler = make(bad, web())
    plan = reconciler.plan()
    assert [refusal.reason for refusal in plan.refused] == ["bad-source-range"]
    assert set(plan.lanes()) == {SHARED, "default/web"}


def test_a_service_that_becomes_malformed_keeps_what_it_has(make: Make) -> None:
    reconciler = make(web())
    reconciler.apply(reconciler.plan())
    owner = Owner("default/web")
    reconciler.wanted.put(LoadBalancer(owner, problem=Refusal(owner, "bad-source-range", "no")))
    assert reconciler.plan().empty


def test_policy_speaks_before_the_provider(make: Make) -> None:
    policy = Policy(rules=(NamespaceRule(("default",), max_load_balancers=1),))
    plan = make(web("a"), web("b"), policy=policy).plan()
    assert [(refusal.owner, refusal.reason) for refusal in plan.refused] == [("default/b", "quota-namespace")]


def test_an_empty_cluster_deletes_nothing(make: Make) -> None:
    first = make(web())
    first.apply(first.plan())
    plan = make().plan()
    assert plan.empty
    assert "right cluster" in plan.limit


def test_ten_of_many_services_may_go_at_once(make: Make) -> None:
    services = [web(f"s{n}", port=n, node_port=30000 + n) for n in range(1, 61)]
    reconciler = make(*services)
    reconciler.apply(reconciler.plan())
    gone = frozenset(lb.owner for lb in services[:12])
    for owner in gone:
        reconciler.wanted.remove(owner)
    assert not reconciler.plan(gone, fresh=False).limit


def test_somebody_who_looked_may_empty_it(make: Make) -> None:
    first = make(web())
    first.apply(first.plan())
    second = make(policy=Policy(limits=Limits(let_through=True)))
    second.apply(second.plan())
    assert steps(second) == []


def test_an_owner_in_flight_is_not_planned_again(make: Make) -> None:
    hang = threading.Event()
    reconciler = make(web(), on_call=lambda call: None if call.operation != "create" else (hang.wait(30), None)[1])
    reconciler.start(reconciler.plan())
    assert reconciler.plan(frozenset({Owner("default/web")}), fresh=False).empty
    hang.set()
    assert reconciler.lanes.wait(20)


def test_a_failure_is_reported_by_owner(make: Make) -> None:
    hostile = LoadBalancer(Owner("default/x"), ports=tuple(Port(n, "TCP", 30000 + n) for n in range(1, 70)))
    reconciler = make(hostile, web())
    report = reconciler.apply(reconciler.plan())
    assert [result.owner for result in report.failed] == ["default/x"]
    assert report.results[Owner("default/web")].outcome == "done"


def ended(outcome: Literal["done", "retry", "failed"], step: Change | None = None) -> Result:
    return Result(Owner("default/web"), outcome, (), step)


OUTAGE = Change("delete", "eip", "e", Owner("default/web"), outage=True)
TIDYING = Change("delete", "eip", "e", Owner("default/web"))


@pytest.mark.parametrize(
    ("result", "has_address", "told"),
    [
        (ended("done"), False, False),
        (ended("failed"), True, True),
        (ended("retry"), False, True),
        (ended("retry"), True, False),
        (ended("failed", TIDYING), True, False),
        (ended("failed", OUTAGE), True, True),
    ],
)
def test_what_keeps_a_service_from_what_it_asked_for_is_told(result: Result, has_address: bool, told: bool) -> None:
    status = (Ingress(ip="192.0.2.1"),) if has_address else ()
    assert worth_telling(result, msgspec.structs.replace(web(), status=status)) == told
