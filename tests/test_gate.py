"""The gate before the cloud's calls: one throttle closes it for everybody, one probe at a time finds out."""

import threading
import time

import pytest

from lbctl.errors import NotOurs, Retry, Unavailable
from lbctl.gate import Gate, Throttled


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def gate(clock):
    return Gate(clock)


def throttle(gate, category="write"):
    with pytest.raises(Retry) as told, gate.passing(category):
        raise Throttled("slow down")
    return told.value


def closed(gate, category="write"):
    try:
        with gate.passing(category):
            return None
    except Retry as told:
        return told.after


def test_an_open_gate_lets_calls_through(gate):
    assert closed(gate) is None


def test_the_first_throttle_closes_it_without_another_call(gate):
    assert throttle(gate).after == pytest.approx(0.5)
    assert closed(gate) == pytest.approx(0.5)


def test_other_categories_stay_open(gate):
    throttle(gate)
    assert closed(gate, "read") is None


def test_one_probe_reopens_it(gate, clock):
    throttle(gate)
    clock.now += 0.5
    assert closed(gate) is None
    assert closed(gate) is None


def test_while_one_probes_the_others_wait(gate, clock):
    throttle(gate)
    clock.now += 0.5
    with gate.passing("write"):
        assert closed(gate) == pytest.approx(0.2)


def test_a_probe_that_is_throttled_puts_the_next_one_off(gate, clock):
    throttle(gate)
    waits = []
    for _ in range(4):
        clock.now += closed(gate) or 0
        waits.append(throttle(gate).after)
    assert waits == pytest.approx([1.0, 1.5, 1.5, 1.5])


def test_after_long_outages_it_probes_seldom_but_not_never(gate, clock):
    throttle(gate)
    for _ in range(200):
        clock.now += closed(gate) or 0
        last = throttle(gate).after
    assert 10 < last <= 30


def test_a_probe_that_gets_an_error_was_answered(gate, clock):
    throttle(gate)
    clock.now += 0.5
    with pytest.raises(NotOurs), gate.passing("write"):
        raise NotOurs("no")
    assert closed(gate) is None


def test_a_probe_that_nobody_answers_leaves_it_closed_for_the_next(gate, clock):
    throttle(gate)
    clock.now += 0.5
    with pytest.raises(Unavailable), gate.passing("write"):
        raise Unavailable("?")
    with gate.passing("write"):
        assert closed(gate) == pytest.approx(0.2)


def test_a_late_throttle_of_a_call_sent_before_does_not_put_the_probe_off(gate, clock):
    def sent_before():
        throttle(gate)
        clock.now += 0.4
        raise Throttled("late")

    with pytest.raises(Retry), gate.passing("write"):
        sent_before()
    assert closed(gate) == pytest.approx(0.1)


def test_no_more_than_a_few_calls_are_on_their_way_at_once(clock):
    gate, going, most = Gate(clock, at_once=2), [], []
    together = threading.Barrier(2, timeout=5)

    def call():
        with gate.passing("write"):
            going.append(1)
            most.append(len(going))
            together.wait()
            going.pop()
    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert max(most) == 2
    assert len(most) == 6


def test_a_waiting_caller_is_sent_away_when_the_gate_closes(clock):
    gate, told = Gate(clock, at_once=1), []
    inside, done = threading.Event(), threading.Event()

    def slow():
        inside.set()
        done.wait(5)
        raise Throttled("slow down")

    def first():
        with pytest.raises(Retry), gate.passing("write"):
            slow()

    def second():
        inside.wait(5)
        told.append(closed(gate))
    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    inside.wait(5)
    done.set()
    for thread in threads:
        thread.join(5)
    assert told[0] is not None


def test_a_call_that_hangs_makes_the_others_no_fewer(clock):
    gate = Gate(clock, at_once=2)
    with gate.passing("write"):
        clock.now += 0.5
        with gate.passing("write"), gate.passing("write"):
            pass


def test_who_waits_behind_calls_that_hang_goes_on_in_time():
    gate = Gate(time.monotonic, at_once=1)
    with gate.passing("write"):
        other = threading.Thread(target=closed, args=(gate,))
        other.start()
        other.join(30)
        assert not other.is_alive()


def test_a_probe_that_hangs_keeps_nobody_out(gate, clock):
    throttle(gate)
    clock.now += 0.5
    with gate.passing("write"):
        clock.now += 0.5
        assert closed(gate) is None
    assert closed(gate) is None
