"""AWS says "too fast": nobody is lost, and few calls are wasted. Over real HTTP, in a time of its own."""

import time
from datetime import UTC, datetime

import pytest

from lbctl.errors import Retry
from lbctl.model import Port
from lbctl.plan import diff
from lbctl.testing import driver
from lbctl_aws.testing import BUCKETS


class Lanes:
    """What the controller does with `Retry`, in the stand-in's own time: each owner's lane again when it says so."""

    def __init__(self, aws, lbs):
        self.aws, self.lbs = aws, {str(lb.owner): lb for lb in lbs}
        self.clock = Clock()
        aws.standin.wire._clock = self.clock
        aws.provider._carrier._api._gate._clock = self.clock
        aws.standin.wire.throttle(0)

    def run(self, most=60.0):
        """Seconds until all is served."""
        began, due = self.clock.now, dict.fromkeys(self.lbs, self.clock.now)
        due["shared"] = self.clock.now
        while due:
            owner = min(due, key=lambda name: (due[name], name))
            self.clock.now = max(self.clock.now, due[owner])
            assert self.clock.now - began < most
            wait = self._pass(owner)
            due.pop(owner) if wait is None else due.update({owner: self.clock.now + wait})
        return self.clock.now - began

    def _pass(self, owner):
        self.clock.now += 0.01
        provider, everybody = self.aws.provider, list(self.lbs.values())
        scope = driver.scope(provider, everybody, [owner], fresh=False, at=datetime.now(UTC))
        seen = provider.observe(scope)
        plan = diff(provider.kinds, provider.desired(scope.load_balancers, seen), seen)
        steps = driver.carry_out(provider, plan)
        wrong = [step.answer for step in steps if isinstance(step.answer, Exception)]
        waits = [answer.after for answer in wrong if isinstance(answer, Retry)]
        assert len(waits) == len(wrong)
        return min(waits) if waits else None


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def twenty(aws):
    yield [aws.service(f"s{n}", Port(80, node_port=30100 + n)) for n in range(20)]
    aws.standin.wire._clock, aws.standin.wire.buckets = time.monotonic, {}
    aws.standin.wire._levels.clear()
    aws.standin.settle()


def test_twenty_creates_outlive_ten_seconds_of_throttling(aws, twenty):
    aws.serve(aws.service("first"))
    lanes = Lanes(aws, [aws.service("first"), *twenty])
    aws.standin.wire.throttled.clear()
    aws.standin.wire.throttle(10)
    assert lanes.run() <= 13
    assert aws.standin.wire.throttled.total() <= 13
    assert len([line for line in aws.standin.inventory() if line.startswith("load-balancer")]) == 21


def test_awss_token_buckets_slow_it_down_and_lose_nothing(aws, twenty):
    aws.serve(aws.service("first"))
    lanes = Lanes(aws, [aws.service("first"), *twenty])
    aws.standin.wire.buckets = BUCKETS
    lanes.run(most=300)
    assert len([line for line in aws.standin.inventory() if line.startswith("load-balancer")]) == 21


def test_an_audit_that_is_throttled_goes_on_where_it_was(aws):
    lbs = [aws.service(f"s{n}", Port(80, node_port=30100 + n)) for n in range(6)]
    aws.serve(*lbs)
    aws.restart()
    from lbctl.testing.world import Outage, throttled
    aws.wire.begin(Outage(9, throttled))
    with pytest.raises(Retry):
        aws.observe(lbs)
    aws.wire.begin()
    aws.observe(lbs)
    assert 0 < sum(call.operation == "DescribeTargetHealth" for call in aws.wire.calls if call.code) < 6
