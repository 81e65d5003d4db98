"""Statuses: addresses, conditions, and when nothing is written."""

import json
import random
import threading
from datetime import UTC, datetime

import msgspec
import pytest

from lbctl.apply import Lanes
from lbctl.errors import LbctlError, Retry, Unavailable
from lbctl.kube import objects, store
from lbctl.kube.status import Statuses
from lbctl.model import DEGRADED, READY, SERVING, Endpoints, LoadBalancer, Node, Note, Owner, Ref, Refusal, Resource
from lbctl.plan import Change, Plan, diff
from lbctl.provider import Failure, Scope
from lbctl.stack import Outcome

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WEB = Owner("default/web")
LB = LoadBalancer(WEB, nodes=(Node("n1"),), endpoints=Endpoints(1, frozenset({"n1"})))
TRUE = {"type": READY, "status": "True", "reason": "ready", "message": "the load balancer is ready"}
SERVES = {"type": SERVING, "status": "True", "reason": "serving", "message": "ready pods receive traffic"}
HOSTNAME, ADDRESS = Ref("lb", "x", "hostname"), Ref("lb", "x", "ip")
HOST = {"hostname": "a.example.com"}
IP = {"ip": "192.0.2.1", "ipMode": "VIP"}


def body(ingress=(), conditions=(), *, version="5", type="LoadBalancer", finalizers=(), cls="lbctl.io/aws", **metadata):
    meta = {"name": "web", "namespace": "default", "uid": "u1", "resourceVersion": version, **metadata}
    spec = {"type": type, "loadBalancerClass": cls if type == "LoadBalancer" else None, "ports": [{"port": 80}]}
    status = {"loadBalancer": {"ingress": list(ingress)}, "conditions": list(conditions)}
    return {"metadata": {**meta, "finalizers": list(finalizers)}, "spec": spec, "status": status}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def services():
    return store.services()


@pytest.fixture
def statuses(client, services, clock):
    return Statuses(client, services, "aws", now=lambda: NOW, clock=clock)


def put(services, service):
    services.put(msgspec.convert(service, objects.Service))


def plan(statuses, lb=LB, *, refused=None, notes=(), failure=None, addresses=(HOSTNAME,), host="a"):
    failures = {WEB: failure} if failure else {}
    scope = Scope(NOW, load_balancers=(lb,) if lb else (), failures=failures)
    seen = statuses.observe(scope)
    serving = frozenset({WEB}) if lb and not refused else frozenset()
    outcome = Outcome(serving, {WEB: refused} if refused else {}, {WEB: tuple(notes)}, {WEB: addresses})
    seen = msgspec.structs.replace(seen, facts={**seen.facts, "outcome": outcome})
    cloud = Resource("lb", "x", WEB, {}, {"hostname": f"{host}.example.com", "ip": "192.0.2.1"})
    desired = statuses.desired((lb,) if lb else (), seen)
    planned = diff((*statuses.kinds, LBS), msgspec.structs.replace(desired, resources=(cloud, *desired.resources)),
                   msgspec.structs.replace(seen, resources=(cloud, *seen.resources)))  # fmt: skip
    return [change for change in planned.changes if change.kind == "status"]


LBS = type("K", (), {"name": "lb", "after": (), "immutable": frozenset(), "document": None})()


def wanted(statuses, **options):
    (change,) = plan(statuses, **options)
    return change.after.fields


def said(statuses, kind, **options):
    condition = wanted(statuses, **options)["conditions"].get(kind)
    return condition and condition[:2]


def resolved(change, ingress=(HOST,)):
    fields = {**change.after.fields, "ingress": tuple(ingress)}
    return msgspec.structs.replace(change, after=msgspec.structs.replace(change.after, fields=fields))


def test_a_new_service_gets_its_address_and_is_ready(statuses, services):
    put(services, body())
    (change,) = plan(statuses)
    assert change.action == "create"
    assert change.after.fields["ingress"] == ({"hostname": HOSTNAME},)
    assert change.after.fields["conditions"][READY][:2] == ("True", "ready")


def test_an_ip_is_published_with_its_mode(statuses, services):
    put(services, body())
    assert wanted(statuses, addresses=(ADDRESS,))["ingress"] == ({"ip": ADDRESS, "ipMode": "VIP"},)


@pytest.mark.parametrize("ingress", [HOST, {**HOST, "ip": ""}])
def test_c21_what_is_right_is_not_touched(statuses, services, ingress):
    put(services, body([ingress], [TRUE, SERVES]))
    assert plan(statuses) == []


def test_c23_a_missing_ip_mode_is_vip(statuses, services):
    put(services, body([{"ip": "192.0.2.1"}], [TRUE, SERVES]))
    assert plan(statuses, addresses=(ADDRESS,)) == []


@pytest.mark.parametrize("change", [{"ipMode": "Proxy"}, {"ports": [{"port": 80, "protocol": "TCP"}]}])
def test_c23_another_ip_mode_or_ports_are_a_difference(statuses, services, change):
    put(services, body([{**IP, **change}], [TRUE, SERVES]))
    assert [c.action for c in plan(statuses, addresses=(ADDRESS,))] == ["update"]


def test_a_wiped_status_is_drift(statuses, services):
    put(services, body())
    assert [c.action for c in plan(statuses)] == ["create"]


def test_a_failure_keeps_the_addresses_and_says_why(statuses, services):
    put(services, body([HOST], [TRUE, SERVES]))
    fields = wanted(statuses, failure=Failure("throttled", "AWS is busy"))
    assert fields["ingress"] == (HOST,)
    assert fields["conditions"][READY] == ("False", "throttled", "AWS is busy")


def test_a_refused_service_keeps_what_it_has(statuses, services):
    put(services, body([HOST], [TRUE, SERVES]))
    fields = wanted(statuses, refused=Refusal(WEB, "unsupported-protocol", "SCTP"))
    assert (fields["ingress"], fields["conditions"][READY][:2]) == ((HOST,), ("False", "unsupported-protocol"))


def test_a_refusal_beside_somebody_elses_status_leaves_it_alone(statuses, services):
    put(services, body([HOST], cls=None))
    statuses._default = "aws"
    fields = wanted(statuses, refused=Refusal(WEB, "served-elsewhere", "theirs"))
    assert fields["ingress"] == (HOST,)
    assert list(fields["conditions"]) == [READY]


@pytest.mark.parametrize(
    ("lb", "notes", "expected"),
    [
        (LB, (), ("True", "serving")),
        (msgspec.structs.replace(LB, endpoints=Endpoints()), (), ("False", "no-endpoints")),
        (msgspec.structs.replace(LB, nodes=()), (), ("False", "no-nodes")),
        (
            msgspec.structs.replace(LB, external_traffic_policy="Local", endpoints=Endpoints(1, frozenset({"n9"}))), (),
            ("False", "no-local-endpoints"),
        ),
        (msgspec.structs.replace(LB, external_traffic_policy="Local"), (), ("True", "serving")),
        (LB, [Note(WEB, SERVING, "targets-unhealthy", "2 of 2")], ("False", "targets-unhealthy")),
        (msgspec.structs.replace(LB, endpoints=None), (), None),
    ],
)  # fmt: skip
def test_the_table_of_serving(statuses, services, lb, notes, expected):
    put(services, body())
    assert said(statuses, SERVING, lb=lb, notes=notes) == expected


def test_notes_make_it_degraded(statuses, services):
    put(services, body())
    note = Note(WEB, DEGRADED, "affinity-timeout", "AWS has no timeout")
    assert said(statuses, DEGRADED, notes=[note]) == ("True", "affinity-timeout")


def test_a_provider_that_was_not_heard_does_not_take_its_word_back(statuses, services):
    unhealthy = {**SERVES, "status": "False", "reason": "targets-unhealthy", "message": "2 of 2"}
    degraded = {"type": DEGRADED, "status": "True", "reason": "x", "message": "y"}
    put(services, body([HOST], [TRUE, unhealthy, degraded]))
    fields = wanted(statuses, failure=Failure("throttled", "busy"))
    assert fields["conditions"][SERVING][1] == "targets-unhealthy"
    assert fields["conditions"][DEGRADED][1] == "x"


def test_what_is_being_deleted_is_neither_seen_nor_written(api, statuses, services):
    put(services, body([HOST], [TRUE], deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["lbctl.io/aws"]))
    assert plan(statuses, lb=None) == []


@pytest.mark.parametrize("finalizers", [["lbctl.io/aws"], []])
def test_c06_conditions_go_when_the_type_does(api, statuses, services, finalizers):
    put(services, body([], [TRUE, SERVES], type="ClusterIP", finalizers=finalizers))
    (change,) = plan(statuses, lb=None)
    api.plan(api.json(body(type="ClusterIP", version="6")))
    assert statuses.apply([change]) == [None]
    entries = api.asked[0]["body"]["status"]["conditions"]
    assert entries == [{"type": READY, "$patch": "delete"}, {"type": SERVING, "$patch": "delete"}]
    assert "loadBalancer" not in api.asked[0]["body"]["status"]


def test_another_stacks_conditions_are_its_own(statuses, services):
    put(services, body([], [TRUE], type="ClusterIP", finalizers=["lbctl.io/gcp"]))
    assert plan(statuses, lb=None) == []


def test_addresses_of_a_service_that_left_us_are_cleared_if_they_are_ours(api, statuses, services):
    put(services, body([HOST], [TRUE], cls=None, finalizers=["lbctl.io/aws"]))
    api.plan(api.json(body(version="6", cls=None)))
    statuses.apply(plan(statuses, lb=None))
    assert api.asked[0]["body"]["status"]["loadBalancer"] == {"ingress": None}


def test_one_patch_writes_addresses_and_what_differs_of_the_conditions(api, statuses, services):
    put(services, body([], [SERVES]))
    (change,) = plan(statuses)
    api.plan(api.json(body([HOST], [TRUE, SERVES], version="6")))
    statuses.apply([resolved(change)])
    (asked,) = api.asked
    assert asked["path"] == "/api/v1/namespaces/default/services/web/status"
    assert asked["body"]["metadata"] == {"uid": "u1"}
    assert asked["body"]["status"]["loadBalancer"] == {"ingress": [HOST]}
    assert [c["type"] for c in asked["body"]["status"]["conditions"]] == [READY]


def test_a_transition_is_stamped_and_a_new_reason_is_not(api, statuses, services):
    old = {"type": READY, "status": "False", "reason": "provisioning", "lastTransitionTime": "2025-01-01T00:00:00Z"}
    put(services, body([], [old]))
    api.plan(api.json(body(version="6")), api.json(body(version="7")))
    statuses.apply([resolved(plan(statuses, failure=Failure("throttled", "busy"))[0], ())])
    put(services, body([], [old], version="9"))
    statuses.apply([resolved(plan(statuses)[0])])
    stamps = [a["body"]["status"]["conditions"][0]["lastTransitionTime"] for a in api.asked]
    assert stamps == ["2025-01-01T00:00:00Z", "2026-01-02T03:04:05Z"]


def test_repeating_a_write_costs_nothing(api, statuses, services):
    put(services, body())
    (change,) = plan(statuses)
    api.plan(api.json(body([HOST], [TRUE, SERVES], version="6")))
    statuses.apply([resolved(change)])
    statuses.apply([resolved(change)])
    assert len(api.asked) == 1


def test_c20_a_service_that_vanished_is_a_success(api, statuses, services):
    put(services, body())
    api.plan(api.error(404))
    (result,) = statuses.apply([resolved(plan(statuses)[0])])
    assert isinstance(result, Resource)


def test_a_guarded_write_carries_the_version_that_the_plan_saw(api, client, services):
    statuses = Statuses(client, services, "aws", guard=True, now=lambda: NOW)
    put(services, body(version="5"))
    (change,) = plan(statuses)
    put(services, body(version="8"))
    api.plan(api.error(409, "Conflict"))
    (result,) = statuses.apply([resolved(change)])
    assert api.asked[0]["body"]["metadata"]["resourceVersion"] == "5"
    assert isinstance(result, Retry)


@pytest.fixture
def fight(api, statuses, services):
    """Write ours, and let somebody overwrite it; the version grows with each."""
    version = [10]

    def written():
        version[0] += 1
        api.plan(api.json(body([HOST], [TRUE, SERVES], version=str(version[0]))))
        statuses.apply([resolved(plan(statuses)[0])])

    def overwritten(**more):
        version[0] += 1
        put(services, body([{"hostname": "rival.example.com"}], [TRUE, SERVES], version=str(version[0]), **more))
        return said(statuses, READY)

    put(services, body())
    written()
    return written, overwritten


def test_somebody_who_overwrites_us_twice_in_a_minute_is_a_conflict(fight, statuses):
    written, overwritten = fight
    assert overwritten() == ("True", "ready")
    written()
    assert overwritten() == ("False", "OwnershipConflict")
    assert wanted(statuses)["ingress"] == ({"hostname": "rival.example.com"},)


def test_twice_in_an_hour_is_drift(fight, clock):
    written, overwritten = fight
    overwritten()
    written()
    clock.now += 61
    assert overwritten() == ("True", "ready")


def test_looking_twice_at_one_overwrite_counts_it_once(fight, statuses):
    _, overwritten = fight
    overwritten()
    assert said(statuses, READY) == ("True", "ready")


def test_a_conflict_ends_when_the_service_asks_for_something_else(fight):
    written, overwritten = fight
    overwritten()
    written()
    assert overwritten() == ("False", "OwnershipConflict")
    assert overwritten(annotations={"a": "b"}) == ("True", "ready")


def test_after_ten_minutes_of_peace_we_write_again_and_a_rival_who_goes_on_is_noticed_again(fight, clock, statuses):
    written, overwritten = fight
    overwritten()
    written()
    overwritten()
    clock.now += 600
    assert said(statuses, READY) == ("True", "ready")
    written()
    assert overwritten() == ("True", "ready")
    written()
    assert overwritten() == ("False", "OwnershipConflict")


def test_a_write_of_ours_whose_answer_was_lost_is_no_rivals(fight, api, statuses):
    written, overwritten = fight
    for _ in range(2):
        api.plan(api.error(504, "Timeout"))
        statuses.apply([resolved(plan(statuses, host="b")[0], ({"hostname": "rival.example.com"},))])
        assert overwritten() == ("True", "ready")
        written()


# -- as they come ----------------------------------------------------------------------------------------------------

API = Owner("default/api")


@pytest.fixture
def both(statuses, services):
    """(a change that has to be written, of `web`; one that is right already, of `api`)."""
    put(services, body([HOST], [TRUE, SERVES], name="api", uid="u2"))
    right = Resource("status", API, API, {"ingress": (HOST,), "conditions": {READY: SAYS, SERVING: TOLD}})
    put(services, body())
    (change,) = plan(statuses)
    return resolved(change), Change("update", "status", API, API, after=right)


ODD = Owner("default/odd")
SAYS, TOLD = (tuple(said[key] for key in ("status", "reason", "message")) for said in (TRUE, SERVES))


def brought(statuses, *changes):
    """What each was answered, in the order of the answers."""
    answers = {}
    statuses.bring(iter(changes), answers.__setitem__)
    return answers


def test_what_is_right_already_waits_for_no_write(api, statuses, both):
    answers, right = {}, threading.Event()

    def answer(handler):
        assert right.wait(10)
        api.json(body([HOST], [TRUE, SERVES], version="6"))(handler)

    def answered(owner, answer):
        answers[owner] = answer
        right.set()

    api.plan(answer)
    statuses.bring(iter(both), answered)
    assert list(answers.items()) == [(API, both[1].after), (WEB, both[0].after)]
    assert [asked["path"].rpartition("/services/")[2] for asked in api.asked] == ["web/status"]


@pytest.mark.parametrize(("status", "expected"), [(409, Retry), (404, Resource), (422, Retry), (503, Unavailable)])
def test_each_refusal_of_a_status_says_how_to_go_on(api, statuses, both, status, expected):
    api.plan(api.error(status))
    assert isinstance(brought(statuses, *both)[WEB], expected)


@pytest.mark.parametrize("status", [404, 422])
def test_there_is_nothing_to_clear_on_another_service_of_this_name(api, statuses, services, status):
    put(services, body([], [TRUE], type="ClusterIP"))
    api.plan(api.error(status))
    assert brought(statuses, *plan(statuses, lb=None)) == {WEB: None}


def test_a_status_without_an_answer_may_be_there_all_the_same(fight, api, statuses):
    written, overwritten = fight
    for _ in range(2):
        api.plan(api.hang_up())
        change = resolved(plan(statuses, host="b")[0], ({"hostname": "rival.example.com"},))
        assert isinstance(brought(statuses, change)[WEB], Unavailable)
        assert overwritten() == ("True", "ready")
        written()


def test_a_status_on_its_way_when_all_breaks_off_may_be_there_all_the_same(fight, api, statuses):
    written, overwritten = fight
    for _ in range(2):

        def changes():
            yield resolved(plan(statuses, host="b")[0], ({"hostname": "rival.example.com"},))
            raise LookupError("a fault")

        before = len(api.asked)
        with pytest.raises(LookupError):
            statuses.bring(changes(), lambda _owner, _answer: None)
        api.heard(before + 1)
        assert overwritten() == ("True", "ready")
        written()


@pytest.mark.parametrize("echo", ["before", "after"])
def test_the_watchs_echo_of_a_status_is_nobodys_news(api, statuses, services, both, echo):
    heard, echoed = [], body([HOST], [TRUE, SERVES], version="6")

    def answer(handler):
        if echo == "before":
            put(services, echoed)
        api.json(echoed)(handler)

    services.subscribe(lambda *event: heard.append(event))
    heard.clear()
    api.plan(answer)
    brought(statuses, both[0])
    put(services, echoed)
    assert heard == []
    assert services.get(WEB).ingress


def test_what_the_watch_said_while_a_status_was_refused_is_news(api, statuses, services, both):
    heard = []

    def answer(handler):
        put(services, body(version="6", annotations={"a": "b"}))
        assert heard == []
        api.error(409)(handler)

    services.subscribe(lambda what, _old, _new: heard.append(what))
    heard.clear()
    api.plan(answer)
    brought(statuses, both[0])
    assert heard == ["updated"]


def test_what_the_watch_said_before_all_broke_off_is_news(api, statuses, services, both):
    heard = []

    def changes():
        yield both[0]
        put(services, body(version="6", annotations={"a": "b"}))
        raise LookupError("a fault")

    services.subscribe(lambda what, _old, _new: heard.append(what))
    heard.clear()
    with pytest.raises(LookupError):
        statuses.bring(changes(), lambda _owner, _answer: None)
    assert heard == ["updated"]


def test_an_answer_that_cannot_be_read_fails_its_own_service_alone(api, statuses, both):
    api.plan(api.json([]))
    answers = brought(statuses, *both)
    assert isinstance(answers[WEB], LbctlError)
    assert answers[API] == both[1].after


def test_an_answer_that_is_no_text_fails_its_own_service_alone_and_withholds_no_news(api, statuses, services, both):
    def answer(handler):
        data = json.dumps(body([HOST], [TRUE, SERVES], version="6", annotations={"a": "?"})).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data.replace(b'"?"', b'"\xff"'))

    heard = []
    services.subscribe(lambda what, _old, _new: heard.append(what))
    api.plan(answer)
    answers = brought(statuses, *both)
    assert isinstance(answers[WEB], LbctlError)
    assert answers[API] == both[1].after
    heard.clear()
    put(services, body(version="7", annotations={"a": "b"}))
    assert heard == ["updated"]


def test_what_cannot_be_said_fails_its_own_service_alone(api, statuses, services, both):
    put(services, body(name="odd", uid="u3"))
    odd = Resource("status", ODD, ODD, {"ingress": (HOST,), "conditions": {READY: ("False", "x", "no \udc80")}})
    api.plan(api.json(body([HOST], [TRUE, SERVES], version="6")))
    answers = brought(statuses, Change("update", "status", ODD, ODD, after=odd), *both)
    assert (answers[ODD].reason, answers[WEB], answers[API]) == ("plugin-fault", both[0].after, both[1].after)


def test_whatever_becomes_of_the_answers_each_lane_lands_once(api, statuses, services):
    chance, landed = random.Random(5), []
    owners = [Owner(f"default/s{number}") for number in range(200)]
    after = {"ingress": (HOST,), "conditions": {READY: SAYS, SERVING: TOLD}}
    for owner in owners:
        put(services, body(name=owner.partition("/")[2]))

    def written(handler):
        name = handler.path.split("/")[-2]
        api.json(body([HOST], [TRUE, SERVES], version="6", name=name))(handler)

    forms = [written, api.half(), api.hang_up(), api.error(404), api.error(409), api.error(500), api.error(429)]
    said = [chance.choice([*forms, *[written] * 10]) for _ in owners]
    api.plan(*said)
    lanes = Lanes(statuses.apply, statuses.kinds, bring=statuses.bring, landed=landed.append)
    lanes.start(Plan(tuple(Change("create", "status", o, o, after=Resource("status", o, o, after)) for o in owners)))
    assert lanes.wait(60)
    assert sorted(result.owner for result in landed) == sorted(owners)
    assert sum(bool(services.get(owner).ingress) for owner in owners) == said.count(written)
    assert sum(result.outcome == "done" for result in landed) == sum(form in (written, forms[3]) for form in said)
    assert sum(result.unclear for result in landed) == sum(form in (forms[1], forms[2], forms[5]) for form in said)
