"""Lists, pages, selectors and watches over raw HTTP."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from lbctl.sandbox.kube import Fault, KubeSandbox

SERVICES = "/api/v1/namespaces/default/services"
CONFIG = "/api/v1/namespaces/default/configmaps"
END = "k8s.io/initial-events-end"

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def maps(raw) -> list[str]:
    """Five ConfigMaps."""
    names = [f"m{number}" for number in range(5)]
    for number, name in enumerate(names):
        raw.post(CONFIG, {"metadata": {"name": name, "labels": {"odd": str(number % 2), "n": str(number)}}})
    return names


def names(listed: Any) -> list[str]:
    return [item["metadata"]["name"] for item in listed.body["items"]]


def told(events: Any, count: int) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in islice(events, count)]


def test_a_list_says_kind_and_version_and_its_items_do_not(raw, make: Make):
    make()

    listed = raw.get(SERVICES).body

    assert (listed["kind"], listed["apiVersion"]) == ("ServiceList", "v1")
    assert int(listed["metadata"]["resourceVersion"]) > 0
    assert not {"kind", "apiVersion"} & {key for item in listed["items"] for key in item}


def test_pages_lead_through_one_consistent_list(raw, maps: list[str]):
    first = raw.get(CONFIG, limit="2")
    raw.delete(f"{CONFIG}/m3")
    raw.post(CONFIG, {"metadata": {"name": "m9"}})

    rest = raw.get(CONFIG, limit="9", **{"continue": first.body["metadata"]["continue"]})

    assert first.body["metadata"]["remainingItemCount"] == 3
    assert names(first) + names(rest) == maps
    assert rest.body["metadata"]["resourceVersion"] == first.body["metadata"]["resourceVersion"]


def test_a_page_that_waited_too_long_is_gone(raw, maps: list[str], sandbox: KubeSandbox):
    first = raw.get(CONFIG, limit="2")
    raw.delete(f"{CONFIG}/m3")
    sandbox.faults.inject(Fault(effect="compact"))

    gone = raw.get(CONFIG, **{"continue": first.body["metadata"]["continue"]})

    assert (gone.code, gone.body["reason"]) == (410, "Expired")
    assert names(raw.get(CONFIG, **{"continue": gone.body["metadata"]["continue"]})) == ["m2", "m4"]


def test_an_exact_version_shows_what_was(raw, maps: list[str]):
    then = raw.get(CONFIG).body["metadata"]["resourceVersion"]
    raw.delete(f"{CONFIG}/m0")

    assert names(raw.get(CONFIG, resourceVersion=then, resourceVersionMatch="Exact")) == maps
    assert names(raw.get(CONFIG, resourceVersion=then, resourceVersionMatch="NotOlderThan")) == maps[1:]


def test_a_version_of_the_future_is_a_timeout(raw):
    answer = raw.get(CONFIG, resourceVersion="99999999999")

    assert (answer.code, answer.body["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"resourceVersionMatch": "Exact"}, "resourceVersionMatch"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, "resourceVersionMatch"),
        ({"sendInitialEvents": "true"}, "sendInitialEvents"),
        ({"sendInitialEvents": "true", "watch": "1"}, "resourceVersionMatch"),
        ({"resourceVersionMatch": "NotOlderThan", "watch": "1"}, "resourceVersionMatch"),
    ],
)
def test_options_that_do_not_go_together_are_invalid(raw, query: dict[str, str], field: str):
    answer = raw.get(CONFIG, **query)

    assert answer.code == 422
    assert field in answer.causes


@pytest.mark.parametrize(
    ("selector", "count"),
    [
        ("odd=1", 2), ("odd==1", 2), ("odd!=1", 3), ("odd", 5), ("!odd", 0), ("odd in (0,1)", 5), ("odd notin (0)", 2),
        ("n>2", 2), ("n<2", 2), ("odd=1,n in (1, 2)", 1),
    ],
)  # fmt: skip
def test_label_selectors_select(raw, maps: list[str], selector: str, count: int):
    assert len(names(raw.get(CONFIG, labelSelector=selector))) == count


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("metadata.name=web", ["web"]),
        ("metadata.name!=web", ["kubernetes"]),
        ("spec.type=LoadBalancer", ["web"]),
        ("spec.clusterIP=10.96.0.1", ["kubernetes"]),
    ],
)
def test_field_selectors_select(raw, make: Make, selector: str, found: list[str]):
    make("web")

    assert names(raw.get(SERVICES, fieldSelector=selector)) == found


def test_other_fields_are_not_selectable(raw):
    answer = raw.get(SERVICES, fieldSelector="spec.ports=1")

    assert (answer.code, answer.body["message"]) == (400, "field label not supported: spec.ports")


@pytest.mark.parametrize(
    ("query", "code"), [({"limit": "x"}, 400), ({"resourceVersion": "x"}, 400), ({"limit": "-1"}, 200)]
)
def test_options_are_numbers_where_they_should_be(raw, query: dict[str, str], code: int):
    assert raw.get(CONFIG, **query).code == code


def test_a_selector_that_makes_no_sense_is_refused(raw):
    assert raw.get(SERVICES, labelSelector="a in b in c").code == 400


def test_a_watch_tells_what_happens_after_a_version(raw, make: Make):
    version = raw.get(SERVICES).body["metadata"]["resourceVersion"]
    events = raw.watch(SERVICES, resourceVersion=version)
    make("web")
    raw.patch(f"{SERVICES}/web", {"metadata": {"labels": {"a": "b"}}})
    raw.delete(f"{SERVICES}/web")

    assert told(events, 3) == [("ADDED", "web"), ("MODIFIED", "web"), ("DELETED", "web")]


def test_a_watch_from_the_past_catches_up_in_order(raw, maps: list[str]):
    version = raw.get(f"{CONFIG}/m2").body["metadata"]["resourceVersion"]

    assert told(raw.watch(CONFIG, resourceVersion=version), 2) == [("ADDED", "m3"), ("ADDED", "m4")]


def test_a_deletion_carries_the_version_at_which_it_happened(raw, make: Make):
    made = make("web")["metadata"]["resourceVersion"]
    raw.delete(f"{SERVICES}/web")

    event = next(iter(raw.watch(SERVICES, resourceVersion=made)))

    assert int(event["object"]["metadata"]["resourceVersion"]) == int(made) + 1


@pytest.mark.parametrize("version", ["", "0"])
def test_a_watch_without_a_version_begins_with_everything(raw, maps: list[str], version: str):
    assert told(raw.watch(CONFIG, resourceVersion=version), 5) == [("ADDED", name) for name in maps]


def test_a_watch_list_says_where_the_beginning_ends(raw, maps: list[str]):
    events = raw.watch(
        CONFIG, sendInitialEvents="true", resourceVersionMatch="NotOlderThan", allowWatchBookmarks="true"
    )  # fmt: skip

    *initial, last = islice(events, 6)

    assert [event["type"] for event in initial] == ["ADDED"] * 5
    assert (last["type"], last["object"]["metadata"]["annotations"]) == ("BOOKMARK", {END: "true"})
    assert last["object"]["metadata"]["resourceVersion"] == raw.get(CONFIG).body["metadata"]["resourceVersion"]


def test_bookmarks_come_when_nothing_else_does(raw, make: Make):
    events = raw.watch(CONFIG, resourceVersion="0", allowWatchBookmarks="true")
    made = make()["metadata"]["resourceVersion"]

    versions = [event["object"]["metadata"]["resourceVersion"] for event in islice(events, 3)]

    assert made in versions


def test_a_watch_ends_when_its_time_is_over(raw):
    assert list(raw.watch(CONFIG, resourceVersion="0", timeoutSeconds="1")) == []


def test_a_watch_ends_with_a_bookmark(raw):
    with KubeSandbox() as quiet:
        events = list(
            type(raw)(quiet).watch(CONFIG, resourceVersion="0", timeoutSeconds="1", allowWatchBookmarks="true")
        )

    assert [event["type"] for event in events] == ["BOOKMARK", "BOOKMARK"]
    assert [bool(event["object"]["metadata"].get("annotations")) for event in events] == [True, False]


def test_an_old_version_is_expired_in_the_stream(raw):
    (event,) = raw.watch(CONFIG, resourceVersion="1")

    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")


def test_an_object_that_stops_matching_leaves_a_selective_watch(raw, make: Make):
    version = make("web")["metadata"]["resourceVersion"]
    events = raw.watch(SERVICES, resourceVersion=version, labelSelector="on=yes")
    for value in ("no", "yes", "yes", "no"):
        raw.patch(f"{SERVICES}/web", {"metadata": {"labels": {"on": value, "more": value}}})
    raw.patch(f"{SERVICES}/web", {"metadata": {"labels": {"on": "yes"}}})

    assert told(events, 3) == [("ADDED", "web"), ("DELETED", "web"), ("ADDED", "web")]


def test_a_watch_of_one_namespace_hears_nothing_of_others(raw, make: Make):
    version = raw.get(SERVICES).body["metadata"]["resourceVersion"]
    events = raw.watch(CONFIG, resourceVersion=version)
    raw.post("/api/v1/namespaces/kube-system/configmaps", {"metadata": {"name": "far"}})
    raw.post(CONFIG, {"metadata": {"name": "near"}})

    assert told(events, 1) == [("ADDED", "near")]


def test_history_is_bounded_and_forgets_the_oldest():
    from lbctl.sandbox.kube.status import Refusal
    from lbctl.sandbox.kube.store import Store

    store = Store(0, history=2)
    for _ in range(3):
        store.put("things", ("", "a"), {"metadata": {}})

    assert [change.version for change in store.since("things", 1)] == [2, 3]
    with pytest.raises(Refusal, match="too old resource version"):
        store.since("things", 0)
