"""Claims: who gets one, who keeps it, what is written."""

import json
from datetime import UTC, datetime

import msgspec
import pytest

from lbctl.errors import Refused, Retry, Unavailable
from lbctl.kube import objects, store
from lbctl.kube.claims import Claims
from lbctl.model import LoadBalancer, Owner, Refusal, Resource
from lbctl.plan import Change, diff
from lbctl.provider import Scope
from lbctl.stack import Outcome

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WEB = Owner("default/web")
OURS = "lbctl.io/aws"


def body(finalizers=(), version="5", type="LoadBalancer", **metadata):
    return {
        "metadata": {
            "name": "web", "namespace": "default", "uid": "u1", "resourceVersion": version,
            "finalizers": list(finalizers), **metadata,
        },
        "spec": {"type": type, "loadBalancerClass": "lbctl.io/aws" if type == "LoadBalancer" else None},
    }  # fmt: skip


def leaving(finalizers=(OURS,)):
    return body(finalizers, deletionTimestamp="2026-01-01T00:00:00Z")


@pytest.fixture
def services():
    return store.services()


@pytest.fixture
def claims(client, services):
    return Claims(client, services, "aws", now=lambda: NOW)


def put(services, service):
    services.put(msgspec.convert(service, objects.Service))


def plan(claims, *, serving=(WEB,), refused=(), owners=None):
    refusals = {owner: Refusal(owner, "bad", "bad") for owner in refused}
    scope = Scope(NOW, owners, load_balancers=tuple(LoadBalancer(owner) for owner in serving))
    seen = claims.observe(scope)
    outcome = Outcome(frozenset(serving), refusals, {}, {})
    seen = msgspec.structs.replace(seen, facts={**seen.facts, "outcome": outcome})
    desired = claims.desired((), seen)
    return diff(claims.kinds, desired, seen), desired


def actions(planned):
    return [change.action for change in planned.changes]


@pytest.mark.parametrize(
    ("service", "serving", "refused", "expected"),
    [
        (body(), [WEB], [], ["create"]),
        (body([OURS]), [WEB], [], []),
        (body(["foo"]), [WEB], [], ["create"]),
        (body(), [], [WEB], []),
        (body([OURS]), [], [WEB], []),
        (leaving(), [], [], ["delete"]),
        (leaving(["foo"]), [], [], []),
        (body([OURS], type="ClusterIP"), [], [], ["delete"]),
        (body([], type="ClusterIP"), [], [], []),
        (None, [WEB], [], []),
    ],
    ids=["C02 new", "C24 present", "C25 beside foo", "refused new", "refused held", "C07 deleted",
         "C53 foreign finalizer", "C06 left the type", "C01 never ours", "only in a file"],
)  # fmt: skip
def test_the_table_of_claims(claims, services, service, serving, refused, expected):
    if service:
        put(services, service)
    assert actions(plan(claims, serving=serving, refused=refused)[0]) == expected


def test_without_claims_none_is_made_but_those_that_exist_are_honoured(client, services):
    claims = Claims(client, services, "aws", create=False)
    put(services, body())
    assert actions(plan(claims)[0]) == []
    put(services, body([OURS], version="6"))
    assert actions(plan(claims)[0]) == []
    put(services, msgspec.convert(leaving(), dict) | {"metadata": {**leaving()["metadata"], "resourceVersion": "7"}})
    assert actions(plan(claims, serving=[])[0]) == ["delete"]


def test_who_said_goodbye_is_released_without_guard(claims, services):
    put(services, leaving())
    assert plan(claims, serving=[])[1].releases == {WEB}


def test_the_scope_is_respected(claims, services):
    put(services, leaving())
    assert actions(plan(claims, serving=[], owners=frozenset({Owner("default/api")}))[0]) == []


def create():
    return Change("create", "claim", WEB, WEB, after=Resource("claim", WEB, WEB))


def delete():
    return Change("delete", "claim", WEB, WEB, before=Resource("claim", WEB, WEB))


def test_a_claim_is_one_patch_of_the_status_with_a_reason(api, claims, services):
    put(services, body())
    api.plan(api.json(body([OURS], version="6")))
    (result,) = claims.apply([create()])
    assert isinstance(result, Resource)
    (asked,) = api.asked
    assert (asked["method"], asked["path"]) == ("PATCH", "/api/v1/namespaces/default/services/web/status")
    assert asked["headers"]["Content-Type"] == "application/strategic-merge-patch+json"
    assert asked["body"]["metadata"] == {"finalizers": [OURS], "uid": "u1"}
    (condition,) = asked["body"]["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("lbctl.io/Ready", "False", "provisioning")
    assert condition["lastTransitionTime"] == "2026-01-02T03:04:05Z"


def test_the_next_look_sees_our_claim_without_waiting_for_its_echo(api, claims, services):
    put(services, body())
    api.plan(api.json(body([OURS], version="6")))
    claims.apply([create()])
    assert actions(plan(claims)[0]) == []


def test_releasing_removes_our_finalizer_and_nothing_else(api, claims, services):
    put(services, leaving([OURS, "foo"]))
    api.plan(api.json(leaving(["foo"])))
    assert claims.apply([delete()]) == [None]
    assert api.asked[0]["body"] == {"metadata": {"$deleteFromPrimitiveList/finalizers": [OURS], "uid": "u1"}}


def test_releasing_what_is_gone_is_done(api, claims, services):
    put(services, leaving())
    api.plan(api.error(404, "NotFound"))
    assert claims.apply([delete()]) == [None]
    services.remove(WEB)
    assert claims.apply([delete()]) == [None]
    assert len(api.asked) == 1


@pytest.mark.parametrize("refusal", [404, 422])
def test_nothing_is_made_for_a_service_that_goes_away_meanwhile(api, claims, services, refusal):
    put(services, body())
    api.plan(api.error(refusal))
    (result,) = claims.apply([create()])
    assert isinstance(result, Retry)


def test_a_finalizer_is_never_added_to_what_is_being_deleted(api, claims, services):
    put(services, leaving([]))
    (result,) = claims.apply([create()])
    assert isinstance(result, Retry)
    assert api.asked == []


@pytest.mark.parametrize(("status", "kind"), [(409, Retry), (429, Retry), (500, Unavailable), (403, Refused)])
def test_what_the_server_says_becomes_what_a_lane_understands(api, claims, services, status, kind):
    put(services, body())
    api.plan(api.error(status))
    (result,) = claims.apply([create()])
    assert isinstance(result, kind)


def test_a_plan_of_claims_can_be_saved(claims, services):
    put(services, body())
    assert json.loads(msgspec.json.encode(plan(claims)[0].changes))
