"""The loop around the one path, with time in the test's hands where it matters."""

import threading
from collections.abc import Callable, Iterator

import pytest

from lbctl import story
from lbctl.controller import Controller, Timing
from lbctl.errors import Unavailable
from lbctl.memory import CLOUDS, MemoryCloud, MemoryProvider
from lbctl.model import Ingress, LoadBalancer, Node, Owner, Port
from lbctl.plan import Plan
from lbctl.policy import Limits, Policy
from lbctl.provider import Call, Harness
from lbctl.reconcile import Reconciler
from lbctl.stack import Stack
from lbctl.wanted import Wanted

WEB = Owner("default/web")
QUICK = Timing(settle=0.01, settle_most=0.05, audit=3600, backoff=0.05, backoff_most=0.2, shutdown=5)


class House:
    """A controller over the reference provider, running; `services` is what its source reads."""

    def __init__(self, timing: Timing = QUICK) -> None:
        self.services: dict[Owner, LoadBalancer] = {}
        self.events: list[story.Event] = []
        self.calls: list[Call] = []
        self.plans: list[Plan] = []
        self.fault: Callable[[Call], None] = lambda _call: None
        self.cloud = CLOUDS["controller"] = MemoryCloud()
        provider = MemoryProvider(Harness({"cloud": "controller"}, "c1", on_call=self._called, now=_now))
        policy = Policy(limits=Limits(let_through=True))
        reconciler = Reconciler(
            Stack(provider), Wanted(provider.shares), policy, now=_now, landed=lambda r: self.controller.landed(r)
        )
        self.controller = Controller(reconciler, self, tell=self.events.append, listener=self, timing=timing)
        self.thread = threading.Thread(target=self.controller.run, daemon=True)

    def _called(self, call: Call) -> None:
        self.calls.append(call)
        self.fault(call)

    def read(self, owner: Owner) -> LoadBalancer | None:
        return self.services.get(owner)

    def owners(self) -> list[Owner]:
        return list(self.services)

    def planned(self, plan: Plan, *, fresh: bool, seconds: float) -> None:
        self.plans.append(plan)

    def landed(self, result: object) -> None: ...

    def interrupted(self, error: Exception) -> None: ...

    def put(self, name: str = "web", port: int = 80, **more: object) -> Owner:
        owner = Owner(f"default/{name}")
        ports = (Port(port, "TCP", 30000 + port),)
        self.services[owner] = LoadBalancer(owner, ports=ports, nodes=(Node("n1"),), **more)  # type: ignore[arg-type]
        self.controller.mark(owner)
        return owner

    def until(self, true: Callable[[], bool]) -> None:
        for _ in range(2000):
            if true():
                return
            threading.Event().wait(0.005)
        raise AssertionError("it never came true")

    def rest(self) -> None:
        self.until(lambda: self.controller.passed.is_set() and self.controller.idle())

    def reasons(self) -> list[str]:
        return [event.reason for event in self.events]


def _now():  # noqa: ANN202
    from datetime import UTC, datetime
    return datetime.now(UTC)


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    house.thread.start()
    yield house
    house.controller.stop()
    house.thread.join(10)
    assert not house.thread.is_alive()
    del CLOUDS["controller"]


def test_a_new_service_gets_its_address_and_its_events(house: House) -> None:
    house.put()
    house.until(lambda: "EnsuredLoadBalancer" in house.reasons())
    assert house.reasons() == ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]
    assert len(house.cloud.list("address")) == 1


def test_a_service_that_is_gone_is_cleaned_up(house: House) -> None:
    owner = house.put()
    house.rest()
    del house.services[owner]
    house.controller.mark(owner)
    house.until(lambda: "DeletedLoadBalancer" in house.reasons())
    assert house.cloud.list("address") == ()


def test_a_burst_is_one_pass(house: House) -> None:
    house.rest()
    house.plans.clear()
    for number in range(50):
        house.put(f"s{number}", 80 + number)
    house.until(lambda: len(house.cloud.list("address")) == 50)
    assert len(house.plans) <= 3


def test_drift_is_repaired_at_the_next_audit_and_said(house: House) -> None:
    house.put(status=(Ingress(ip="198.18.0.1"),))
    house.rest()
    house.cloud.delete(house.cloud.list("listener")[0].id)
    house.controller.audit()
    house.until(lambda: "DriftCorrected" in house.reasons())
    assert len(house.cloud.list("listener")) == 1


def test_a_failure_is_tried_again_and_told_once_per_try(house: House) -> None:
    house.rest()
    failures = iter([True, True])

    def fault(call: Call) -> None:
        if call.operation == "create" and call.code is None and next(failures, False):
            raise Unavailable("no answer")
    house.fault = fault
    house.put()
    house.until(lambda: len(house.cloud.list("listener")) == 1)
    assert "SyncLoadBalancerFailed" in house.reasons()


def test_an_outage_at_the_start_loses_nothing(house: House) -> None:
    outage = iter(range(3))

    def fault(_call: Call) -> None:
        if next(outage, None) is not None:
            raise Unavailable("the cloud is away")
    house.fault = fault
    house.put()
    house.controller.audit()
    house.until(lambda: len(house.cloud.list("listener")) == 1)


def test_a_refusal_is_an_event_once(house: House) -> None:
    owner = Owner("default/bad")
    house.services[owner] = LoadBalancer(owner, ports=(Port(80, "SCTP", 30080),))
    for _ in range(3):
        house.controller.mark(owner)
        house.rest()
    house.until(lambda: house.events != [])
    assert len(house.events) == 1
    assert "SCTP" in house.events[0].message or "unsupported-protocol" in house.events[0].message


def test_changes_while_in_flight_are_seen_after_landing(house: House) -> None:
    hang = threading.Event()
    house.rest()
    house.fault = lambda call: None if call.operation != "create" or call.code else (hang.wait(20), None)[1]
    house.put(port=80)
    house.until(lambda: bool(house.controller.reconciler.lanes.busy()))
    house.put(port=81)
    hang.set()
    house.until(lambda: [thing.properties["port"] for thing in house.cloud.list("listener")] == [81])


def test_the_delay_doubles_up_to_its_limit(house: House) -> None:
    controller = Controller(house.controller.reconciler, house, uniform=lambda low, high: (low + high) / 2)
    assert [controller._delay(n) for n in (1, 2, 3, 7, 50)] == [5, 10, 20, 300, 300]


def test_five_thousand_nodes_that_come_up_at_once_are_one_pass(house: House) -> None:
    house.rest()
    house.plans.clear()
    for _ in range(5000):
        house.controller.mark_all()
    house.until(lambda: bool(house.plans) and house.controller.idle())
    assert len(house.plans) <= 2
