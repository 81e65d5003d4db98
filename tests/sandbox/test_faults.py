"""What goes wrong when asked to."""

import http.client
import socket
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest

from lbctl.sandbox.kube import Fault, KubeSandbox
from lbctl.sandbox.kube.faults import Faults

SERVICES = "/api/v1/namespaces/default/services"
WEB = f"{SERVICES}/web"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

Make = Callable[..., dict[str, Any]]


def label(raw, value: str = "b") -> int:
    code: int = raw.patch(WEB, {"metadata": {"labels": {"a": value}}}).code
    return code


def test_the_next_writes_conflict_and_change_nothing(raw, make: Make, sandbox: KubeSandbox):
    before = make()
    sandbox.faults.inject(Fault(effect="conflict", count=2))

    assert [raw.get(WEB).code, label(raw), label(raw)] == [200, 409, 409]
    assert raw.get(WEB).body == before
    assert label(raw) == 200


def test_a_throttle_says_when_to_come_back(raw, sandbox: KubeSandbox):
    sandbox.faults.inject(Fault(effect="throttle", count=1, retry_after=7))

    answer = raw.get(SERVICES)

    assert (answer.code, answer.body["reason"]) == (429, "TooManyRequests")
    assert (answer.headers["Retry-After"], answer.body["details"]["retryAfterSeconds"]) == ("7", 7)


@pytest.mark.parametrize(("code", "reason"), [(500, "InternalError"), (503, "ServiceUnavailable"), (504, "Timeout")])
def test_errors_come_in_every_colour(raw, sandbox: KubeSandbox, code: int, reason: str):
    sandbox.faults.inject(Fault(effect="error", code=code))

    answer = raw.get(SERVICES)

    assert (answer.code, answer.body["reason"]) == (code, reason)


def test_a_fault_hits_only_what_it_names(raw, make: Make, sandbox: KubeSandbox):
    make()
    sandbox.faults.inject(Fault(effect="error", verbs=("patch",), resources=("services/status",)))

    assert [raw.patch(f"{WEB}/status", {}).code, label(raw), raw.get(WEB).code] == [500, 200, 200]


def test_expired_lists_are_gone_and_expired_watches_say_so(raw, sandbox: KubeSandbox):
    sandbox.faults.inject(Fault(effect="expired", count=2))

    assert raw.get(SERVICES).code == 410
    assert [event["object"]["code"] for event in raw.watch(SERVICES, resourceVersion="0")] == [410]
    assert raw.get(SERVICES).code == 200


def test_dropped_watches_end_and_can_be_taken_up_again(raw, make: Make, sandbox: KubeSandbox):
    version = raw.get(SERVICES).body["metadata"]["resourceVersion"]
    events = raw.watch(SERVICES, resourceVersion=version)
    make("web")
    assert next(events)["type"] == "ADDED"

    sandbox.faults.inject(Fault(effect="drop", count=0))

    assert list(events) == []
    assert next(raw.watch(SERVICES, resourceVersion=version))["type"] == "ADDED"


def test_compaction_ends_watches_and_forgets_what_was(raw, make: Make, sandbox: KubeSandbox):
    version = raw.get(SERVICES).body["metadata"]["resourceVersion"]
    events = raw.watch(SERVICES, resourceVersion=version)
    make("web")
    next(events)

    sandbox.faults.inject(Fault(effect="compact"))

    assert [event["object"]["code"] for event in events] == [410]
    assert [event["object"]["code"] for event in raw.watch(SERVICES, resourceVersion=version)] == [410]


def test_a_lost_answer_leaves_its_effect(raw, make: Make, sandbox: KubeSandbox):
    make()
    sandbox.faults.inject(Fault(effect="lose", count=1))

    with pytest.raises((http.client.HTTPException, ConnectionError)):
        label(raw, "written")

    assert raw.get(WEB).body["metadata"]["labels"] == {"a": "written"}


def test_an_outage_refuses_connections_until_it_is_over(raw, sandbox: KubeSandbox):
    sandbox.faults.inject(Fault(effect="outage"))
    with pytest.raises(ConnectionRefusedError):
        raw.get(SERVICES)

    sandbox.faults.clear()

    assert raw.get(SERVICES).code == 200


def test_an_outage_breaks_open_watches_and_ends_by_itself(raw, sandbox: KubeSandbox):
    events = raw.watch(SERVICES, resourceVersion="0")
    next(events)

    sandbox.faults.inject(Fault(effect="outage", seconds=0.05))

    with suppress(http.client.HTTPException, ConnectionError):
        assert list(events) == []
    while True:
        with suppress(ConnectionRefusedError):
            assert raw.get(SERVICES).code == 200
            break


def test_silence_leaves_requests_without_an_answer(raw, sandbox: KubeSandbox):
    sandbox.faults.inject(Fault(effect="silence", count=1))
    connection = http.client.HTTPConnection(raw.netloc, timeout=0.2)
    connection.request("GET", SERVICES, headers={"Authorization": f"Bearer {raw.token}"})

    with pytest.raises((TimeoutError, socket.timeout)):
        connection.getresponse()

    connection.close()
    assert raw.get(SERVICES).code == 200


def test_latency_adds_up_with_other_faults(raw, sandbox: KubeSandbox):
    sandbox.faults.inject(Fault(effect="latency", delay=0.01), Fault(effect="error", count=1))

    assert [raw.get(SERVICES).code, raw.get(SERVICES).code] == [500, 200]


def test_denials_forbid_and_reviews_know_of_them(raw, sandbox: KubeSandbox):
    sandbox.faults.inject(Fault(effect="deny", verbs=("patch",), resources=("services/status",)))

    def allowed(verb: str) -> bool:
        attributes = {"verb": verb, "resource": "services", "subresource": "status"}
        answer: bool = raw.post(REVIEWS, {"spec": {"resourceAttributes": attributes}}).body["status"]["allowed"]
        return answer

    assert [allowed("patch"), allowed("get")] == [False, True]
    refused = raw.patch(f"{WEB}/status", {})
    assert (refused.code, refused.body["reason"]) == (403, "Forbidden")
    assert 'cannot patch resource "services/status"' in refused.body["message"]


def test_faults_are_asked_for_over_http_too(raw):
    put = raw.put("/sandbox/faults", {"faults": [{"effect": "throttle", "retryAfter": 3, "verbs": ["list"]}]})

    assert put.body["faults"][0]["retryAfter"] == 3
    assert raw.get(SERVICES).code == 429
    assert raw.delete("/sandbox/faults").body == {"faults": []}
    assert raw.get(SERVICES).code == 200


@pytest.mark.parametrize("body", [{}, {"faults": [{"effect": "earthquake"}]}, {"faults": [{"efect": "drop"}]}])
def test_a_misspelt_fault_is_refused(raw, body: object):
    assert raw.put("/sandbox/faults", body).code == 400


def test_a_fault_ends_with_its_time():
    now = [0.0]
    faults = Faults(lambda: now[0])
    faults.inject(Fault(effect="error", seconds=5))

    assert faults.take("get", "services", "default")
    now[0] = 5.0
    assert not faults.take("get", "services", "default")
    assert faults.active == ()


def test_requests_are_recorded_for_those_who_count(raw, make: Make, sandbox: KubeSandbox):
    make()
    sandbox.requests.clear()

    raw.send("PATCH", f"{WEB}/status", {}, "application/merge-patch+json", User_Agent="me/1")
    list(islice(raw.watch(SERVICES, resourceVersion="0"), 1))

    first, second = sandbox.requests
    assert (first.method, first.path, first.agent) == ("PATCH", f"{WEB}/status", "me/1")
    assert [(item.verb, item.resource) for item in (first, second)] == [
        ("patch", "services/status"),
        ("watch", "services"),
    ]
