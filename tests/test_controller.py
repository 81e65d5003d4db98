"""The loop around the one path, with time in the test's hands where it matters."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from lbctl import story
from lbctl.controller import Controller, Timing
from lbctl.errors import Refused, Retry, Unavailable
from lbctl.memory import CLOUDS, MemoryCloud, MemoryProvider
from lbctl.model import SHARED, Ingress, LoadBalancer, Node, Owner, Port, Resource
from lbctl.plan import Change, Kind, Plan
from lbctl.policy import Limits, NamespaceRule, Policy
from lbctl.provider import Call, Desired, Harness, Observation, Scope
from lbctl.reconcile import Reconciler
from lbctl.stack import Stack
from lbctl.wanted import Wanted

WEB = Owner("default/web")
QUICK = Timing(settle=0.01, settle_most=0.05, audit=3600, backoff=0.05, backoff_most=0.2, shutdown=5)


class Board:
    """A status part of the stack, in memory: what each owner was told last."""

    name = "status"
    kinds: tuple[Kind, ...] = (Kind("status"),)
    claims = False

    def __init__(self) -> None:
        self.said: dict[Owner, str] = {}
        self.fault: Callable[[], None] = lambda: None

    def observe(self, scope: Scope) -> Observation:
        return Observation(scope, tuple(self._line(o, text) for o, text in self.said.items() if scope.covers(o)))

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        failures = seen.scope.failures
        told = ((lb.owner, failures[lb.owner].reason if lb.owner in failures else "ready") for lb in load_balancers)
        return Desired(tuple(self._line(owner, text) for owner, text in told))

    def _line(self, owner: Owner, text: str) -> Resource:
        return Resource("status", owner, owner, {"said": text})

    def shares(self, load_balancer: LoadBalancer) -> tuple[()]:
        return ()

    def adopts(self, status: Sequence[Ingress]) -> bool:
        return False

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | None]:
        self.fault()
        for change in changes:
            if change.after is None:
                self.said.pop(change.owner, None)
            else:
                self.said[change.owner] = change.after.fields["said"]
        return [change.after for change in changes]


class House:
    """A controller over the reference provider, running; `services` is what its source reads."""

    def __init__(self, timing: Timing = QUICK, policy: Policy = Policy(limits=Limits(let_through=True))) -> None:  # noqa: B008
        self.services: dict[Owner, LoadBalancer] = {}
        self.events: list[story.Event] = []
        self.calls: list[Call] = []
        self.plans: list[Plan] = []
        self.fault: Callable[[Call], None] = lambda _call: None
        self.cloud = CLOUDS["controller"] = MemoryCloud()
        provider = MemoryProvider(Harness({"cloud": "controller"}, "c1", on_call=self._called, now=_now))
        self.board = Board()
        reconciler = Reconciler(
            Stack(provider, status=self.board), Wanted(provider.shares), policy, now=_now,
            landed=lambda result: self.controller.landed(result),
        )  # fmt: skip
        self.controller = Controller(reconciler, self, tell=self.events.append, listener=self, timing=timing)
        self.thread = threading.Thread(target=self.controller.run, daemon=True)

    def _called(self, call: Call) -> None:
        self.calls.append(call)
        self.fault(call)

    def read(self, owner: Owner) -> LoadBalancer | None:
        return self.services.get(owner)

    def owners(self) -> list[Owner]:
        return list(self.services)

    def planned(self, plan: Plan, *, audit: bool, seconds: float) -> None:
        self.plans.append(plan)

    def landed(self, result: object) -> None: ...

    def interrupted(self, error: Exception) -> None: ...

    def put(self, name: str = "web", port: int = 80, **more: object) -> Owner:
        owner = Owner(f"default/{name}")
        ports = (Port(port, "TCP", 30000 + port),)
        self.services[owner] = LoadBalancer(owner, ports=ports, nodes=(Node("n1"),), **more)  # type: ignore[arg-type]
        self.controller.mark(owner)
        return owner

    def until(self, true: Callable[[], bool], tries: int = 2000) -> None:
        for _ in range(tries):
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


@contextmanager
def living(house: House) -> Iterator[House]:
    house.thread.start()
    yield house
    house.controller.stop()
    house.thread.join(10)
    assert not house.thread.is_alive()
    del CLOUDS["controller"]


@pytest.fixture
def house() -> Iterator[House]:
    with living(House()) as house:
        yield house


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


PATIENT = Timing(settle=0.01, settle_most=0.05, audit=3600, backoff=3600, backoff_most=3600, shutdown=5)


def test_a_change_while_a_lane_fails_waits_for_no_back_off() -> None:
    with living(House(PATIENT)) as house:
        hang, first = threading.Event(), iter([True])

        def fault(call: Call) -> None:
            if call.operation == "create" and call.code is None and next(first, False):
                hang.wait(20)
                raise Refused("the quota is full", reason="quota")
        house.put("other", 443)
        house.rest()
        house.fault = fault
        house.put(port=80)
        house.until(lambda: bool(house.controller.reconciler.lanes.busy()))
        house.put(port=81)
        hang.set()
        house.until(lambda: {thing.properties["port"] for thing in house.cloud.list("listener")} == {81, 443})


def test_what_is_shared_grows_although_it_was_in_flight_when_asked() -> None:
    with living(House(PATIENT)) as house:
        hang = threading.Event()
        house.rest()
        house.fault = lambda call: None if call.operation != "create" or call.code else (hang.wait(20), None)[1]
        house.put("web", 80)
        house.until(lambda: SHARED in house.controller.reconciler.lanes.busy())
        owner = Owner("default/dns")
        house.services[owner] = LoadBalancer(owner, ports=(Port(53, "UDP", 30053),), nodes=(Node("n1"),))
        house.controller.mark(owner)
        house.until(lambda: owner in house.controller.reconciler.lanes.busy())
        hang.set()
        # Sooner than the 5 s after which the Service itself would ask again.
        house.until(lambda: len(house.cloud.list("rule")) == 2, tries=500)


def test_a_refused_service_is_looked_at_again_when_another_goes() -> None:
    one = Policy(rules=(NamespaceRule(max_load_balancers=1),), limits=Limits(let_through=True))
    with living(House(PATIENT, one)) as house:
        house.rest()
        first, second = house.put("a"), house.put("b", 81)
        house.until(lambda: [event.owner for event in house.events if "quota" in event.message] == [second])
        del house.services[first]
        house.controller.mark(first)
        house.until(lambda: [thing.properties["port"] for thing in house.cloud.list("listener")] == [81])


def test_an_audit_that_comes_with_a_change_calls_it_no_drift(house: House) -> None:
    house.put(status=(Ingress(ip="198.18.0.1"),))
    house.rest()
    with house.controller._wake:
        house.put(port=81, status=(Ingress(ip="198.18.0.1"),))
        house.controller.audit()
    house.until(lambda: [thing.properties["port"] for thing in house.cloud.list("listener")] == [81])
    house.rest()
    assert "DriftCorrected" not in house.reasons()


def test_after_a_failed_audit_an_unclear_answer_is_still_unclear(house: House) -> None:
    house.rest()
    controller = house.controller
    controller.stop()
    house.thread.join(10)
    controller._unclear.add(WEB)
    controller._next_audit = 0.0
    work, _ = controller._choose(1.0)
    assert work is not None
    assert work.audit
    controller._interrupted(work, Unavailable("the cloud is away"))
    assert WEB in controller._unclear


def test_a_short_wait_that_comes_again_and_again_grows(house: House) -> None:
    controller = Controller(house.controller.reconciler, house)
    waits = [controller._patience(Owner("default/web"), 0.2) for _ in range(10)]
    assert waits[:3] == [0.2, 0.2, 0.2]
    assert waits[-1] == 5.0
    assert controller._patience(Owner("default/web"), 42.0) == 42.0


def test_what_could_not_be_told_is_told_again(house: House) -> None:
    house.rest()
    away = iter([True, True])

    def cloud(call: Call) -> None:
        if call.operation == "create" and call.code is None:
            raise Retry(3600, "the quota is used up until tomorrow", reason="quota")

    def kubernetes() -> None:
        if next(away, False):
            raise Unavailable("the API server is away")
    house.fault, house.board.fault = cloud, kubernetes
    house.put()
    house.until(lambda: house.board.said.get(WEB) == "quota")


def test_of_a_service_that_never_worked_and_is_gone_nothing_is_remembered(house: House) -> None:
    house.rest()

    def fault(call: Call) -> None:
        if call.operation == "create" and call.code is None:
            raise Unavailable("no answer")
    house.fault = fault
    owner = house.put()
    house.until(lambda: bool(house.controller._attempts))
    del house.services[owner]
    house.controller.mark(owner)
    loop = house.controller
    house.until(lambda: not {*loop._attempts, *loop._hasty, *loop._untold, *loop._tell_again} - {SHARED})
