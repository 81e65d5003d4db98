"""What is told, counted, combined and dropped."""

import threading

import pytest

from lbctl.kube import events
from lbctl.kube.events import QUEUE, Correlator, Recorder, Said
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


def test_what_a_terminating_namespace_refuses_is_no_news(api, recorder, caplog):
    going = {"kind": "Status", "reason": "Forbidden", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}
    api.plan(api.json(going, 403))
    recorder.start()
    recorder.emit(WEB, "u1", "Normal", "EnsuredLoadBalancer", "ok")
    assert recorder.flush()
    assert (len(api.asked), recorder.dropped, caplog.records) == (1, 1, [])


def test_an_outage_is_tried_again(api, recorder):
    api.plan(api.error(503), api.json({}, 201))
    recorder.start()
    recorder.emit(WEB, "u1", "Normal", "EnsuredLoadBalancer", "ok")
    assert recorder.flush()
    assert (len(api.asked), recorder.dropped) == (2, 0)


def test_telling_never_waits_and_says_once_that_it_drops(client, caplog):
    recorder = Recorder(client)
    for n in range(QUEUE + 5):
        recorder.emit(WEB, "u1", "Normal", "Test", f"{n}")
    assert recorder.dropped == 5
    assert [record.message for record in caplog.records] == ["events are dropped: more is told than can be written"]


def test_an_address_comes_before_an_event(api, client, recorder, monkeypatch):
    monkeypatch.setattr(events, "YIELD", 10.0)
    order, go_on = [], threading.Event()

    def late(handler):
        go_on.wait(10)
        order.append("address")
        api.json({})(handler)

    def event(handler):
        order.append("event")
        api.json({}, 201)(handler)

    api.plan(late, event)
    writer = threading.Thread(target=client.request, args=("PATCH", "/status", {}))
    writer.start()
    api.heard(1)
    recorder.start()
    recorder.emit(WEB, "u1", "Normal", "IPAllocated", "10.0.0.1")
    assert not client.calm(0.2)
    go_on.set()
    assert recorder.flush()
    writer.join()
    assert order == ["address", "event"]


def test_a_write_that_hangs_holds_no_event_back(api, client, recorder):
    go_on = threading.Event()

    def late(handler):
        go_on.wait(10)
        api.json({})(handler)

    api.plan(late, api.json({}, 201))
    writer = threading.Thread(target=client.request, args=("PATCH", "/status", {}))
    writer.start()
    api.heard(1)
    recorder.start()
    recorder.emit(WEB, "u1", "Normal", "IPAllocated", "10.0.0.1")
    assert recorder.flush()
    go_on.set()
    writer.join()


def test_that_events_may_not_be_written_is_said_once(api, recorder, caplog):
    api.plan(api.error(403, "Forbidden", "you may not"), api.error(403, "Forbidden", "you may not"))
    recorder.start()
    for name in ("default/a", "default/b"):
        recorder.emit(Owner(name), "u1", "Normal", "EnsuredLoadBalancer", "ok")
    assert recorder.flush()
    assert [record.message for record in caplog.records] == ["events are not taken"]


def test_stopping_writes_what_is_waiting(api, client):
    api.plan(*[api.json({}, 201) for _ in range(5)])
    recorder = Recorder(client)
    recorder.start()
    for n in range(5):
        recorder.emit(WEB, "u1", "Normal", "Test", f"{n}")
    recorder.stop()
    assert len(api.asked) == 5
    assert not any(t.name == "events" for t in threading.enumerate())
