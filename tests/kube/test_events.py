"""What is told, counted, combined and dropped."""

import threading

import pytest

from lbctl.kube.events import Correlator, Recorder, Said
from lbctl.model import Owner

WEB = Owner("default/web")


def said(message="it failed", reason="SyncLoadBalancerFailed", type="Warning", owner=WEB):
    return Said(owner, "u1", type, reason, message)


@pytest.fixture
def correlator(moment):
    class Timed(Correlator):
        clock = 0.0

    return Timed(lambda: Timed.clock, lambda: moment)


def test_a_repeated_event_is_counted(correlator):
    first, second = correlator.entry(said()), correlator.entry(said())
    assert (first.count, second.count) == (1, 2)
    assert first.name == second.name


def test_another_message_is_another_event(correlator):
    assert correlator.entry(said("a")).name != correlator.entry(said("b")).name


def test_from_the_tenth_different_message_on_they_are_one(correlator):
    entries = [correlator.entry(said(f"attempt {n}")) for n in range(12)]
    assert entries[8].said.message == "attempt 8"
    assert entries[9].said.message == "(combined from similar events): attempt 9"
    assert entries[10].name == entries[9].name
    assert entries[11].count == 3


def test_ten_quiet_minutes_begin_anew(correlator):
    for n in range(12):
        correlator.entry(said(f"attempt {n}"))
    type(correlator).clock = 601.0
    assert correlator.entry(said("later")).said.message == "later"


def test_after_twenty_five_in_a_row_one_comes_every_five_minutes(correlator):
    told = [correlator.entry(said()) for _ in range(40)]
    assert sum(entry is not None for entry in told) == 25
    type(correlator).clock += 301.0
    assert correlator.entry(said()) is not None
    assert correlator.entry(said()) is None


def test_one_noisy_service_silences_no_other(correlator):
    for _ in range(40):
        correlator.entry(said())
    assert correlator.entry(said(owner=Owner("default/api"))) is not None


@pytest.fixture
def recorder(client):
    made = Recorder(client, host="node-1", chance=lambda: 0.0)
    yield made
    made.stop(1.0)


def test_an_event_is_written_as_kubectl_describe_finds_it(api, recorder):
    api.plan(api.json({}, 201))
    recorder.start()
    recorder.emit(WEB, "u1", "Warning", "SyncLoadBalancerFailed", "no subnets")
    assert recorder.flush()
    asked = api.asked[0]
    assert (asked["method"], asked["path"]) == ("POST", "/api/v1/namespaces/default/events")
    assert asked["body"]["involvedObject"]["uid"] == "u1"
    assert (asked["body"]["reason"], asked["body"]["message"]) == ("SyncLoadBalancerFailed", "no subnets")


def test_a_repeat_raises_the_count_of_the_first(api, recorder):
    api.plan(api.json({}, 201), api.json({}))
    recorder.start()
    for _ in range(2):
        recorder.emit(WEB, "u1", "Normal", "EnsuredLoadBalancer", "ok")
    assert recorder.flush()
    assert (api.asked[1]["method"], api.asked[1]["body"]["count"]) == ("PATCH", 2)


def test_a_count_of_an_event_that_is_gone_becomes_a_new_one(api, recorder):
    api.plan(api.json({}, 201), api.error(404), api.json({}, 201))
    recorder.start()
    for _ in range(2):
        recorder.emit(WEB, "u1", "Normal", "EnsuredLoadBalancer", "ok")
    assert recorder.flush()
    assert [a["method"] for a in api.asked] == ["POST", "PATCH", "POST"]
    assert api.asked[2]["body"]["count"] == 1


def test_what_a_terminating_namespace_refuses_is_dropped(api, recorder):
    api.plan(api.error(403, "Forbidden", "namespace is being terminated"))
    recorder.start()
    recorder.emit(WEB, "u1", "Normal", "EnsuredLoadBalancer", "ok")
    assert recorder.flush()
    assert (len(api.asked), recorder.dropped) == (1, 1)


def test_an_outage_is_tried_again(api, recorder):
    api.plan(api.error(503), api.json({}, 201))
    recorder.start()
    recorder.emit(WEB, "u1", "Normal", "EnsuredLoadBalancer", "ok")
    assert recorder.flush()
    assert (len(api.asked), recorder.dropped) == (2, 0)


def test_telling_never_waits_and_counts_what_it_drops(client):
    recorder = Recorder(client)
    for n in range(1005):
        recorder.emit(WEB, "u1", "Normal", "Test", f"{n}")
    assert recorder.dropped == 5


def test_stopping_writes_what_is_waiting(api, client):
    api.plan(*[api.json({}, 201) for _ in range(5)])
    recorder = Recorder(client)
    recorder.start()
    for n in range(5):
        recorder.emit(WEB, "u1", "Normal", "Test", f"{n}")
    recorder.stop()
    assert len(api.asked) == 5
    assert not any(t.name == "events" for t in threading.enumerate())
