"""The three patches, as functions and over HTTP."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.sandbox.kube.patch import json_patch, merge, strategic
from lbctl.sandbox.kube.status import Refusal

SERVICES = "/api/v1/namespaces/default/services"
JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"

Make = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ({"a": {"b": 1}}, {"a": {"c": None, "d": 2}}, {"a": {"b": 1, "d": 2}}),
        ({"a": "x"}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
        ([1], {"a": 1}, {"a": 1}),
    ],
)
def test_a_merge_patch_is_rfc_7396(target: Any, patch: Any, result: Any):
    assert merge(target, patch) == result


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ({"op": "add", "path": "/b", "value": 1}, {"a": [1, 2], "b": 1}),
        ({"op": "add", "path": "/a/1", "value": 9}, {"a": [1, 9, 2]}),
        ({"op": "add", "path": "/a/-", "value": 9}, {"a": [1, 2, 9]}),
        ({"op": "remove", "path": "/a/0"}, {"a": [2]}),
        ({"op": "replace", "path": "/a/0", "value": 9}, {"a": [9, 2]}),
        ({"op": "move", "from": "/a", "path": "/c~1d"}, {"c/d": [1, 2]}),
        ({"op": "copy", "from": "/a/0", "path": "/c"}, {"a": [1, 2], "c": 1}),
        ({"op": "test", "path": "/a/0", "value": 1}, {"a": [1, 2]}),
    ],
)
def test_a_json_patch_is_rfc_6902(operation: Any, result: Any):
    target = {"a": [1, 2]}

    assert json_patch(target, [operation]) == result
    assert target == {"a": [1, 2]}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/nope"},
        {"op": "replace", "path": "/a/7", "value": 1},
        {"op": "add", "path": "/a/7", "value": 1},
        {"op": "test", "path": "/a/0", "value": 2},
        {"op": "dance", "path": "/a"},
        {"op": "add", "path": "no-pointer", "value": 1},
    ],
)
def test_a_json_patch_that_does_not_apply_is_refused(operation: Any):
    with pytest.raises(Refusal):
        json_patch({"a": [1, 2]}, [operation])


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"ports": [{"port": 1, "name": "a"}]}, {"ports": [{"port": 2}]}, [{"port": 2}, {"port": 1, "name": "a"}]),
        ({"ports": [{"port": 1}]}, {"ports": [{"port": 1, "name": "b"}]}, [{"port": 1, "name": "b"}]),
        ({"ports": [{"port": 1}, {"port": 2}]}, {"ports": [{"port": 1, "$patch": "delete"}]}, [{"port": 2}]),
        ({"ports": [{"port": 1}]}, {"ports": [{"port": 2}, {"$patch": "replace"}]}, [{"port": 2}]),
        (
            {"ports": [{"port": 1}, {"port": 2}]},
            {"$setElementOrder/ports": [{"port": 2}, {"port": 1}], "ports": [{"port": 2, "name": "b"}]},
            [{"port": 2, "name": "b"}, {"port": 1}],
        ),
    ],
)
def test_a_strategic_patch_merges_ports_by_their_number(target: Any, patch: Any, result: Any):
    assert strategic(target, patch, "V1ServiceSpec")["ports"] == result


def test_a_strategic_patch_keeps_the_finalizers_of_others():
    held = {"finalizers": ["foo.io/a", "lbctl.io/b"]}

    assert strategic(held, {"finalizers": ["lbctl.io/c"]}, "V1ObjectMeta")["finalizers"] == [
        "lbctl.io/c", "foo.io/a", "lbctl.io/b",
    ]  # fmt: skip
    removed = strategic(held, {"$deleteFromPrimitiveList/finalizers": ["lbctl.io/b"]}, "V1ObjectMeta")
    assert removed["finalizers"] == ["foo.io/a"]


def test_a_strategic_patch_replaces_ingress_as_a_whole():
    held = {"ingress": [{"ip": "1.1.1.1"}, {"ip": "2.2.2.2"}]}

    assert strategic(held, {"ingress": [{"ip": "3.3.3.3"}]}, "V1LoadBalancerStatus") == {"ingress": [{"ip": "3.3.3.3"}]}


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_merging_twice_is_merging_once(patch: Any):
    once = merge({"a": {"b": 1}}, patch)

    assert merge(once, patch) == once


def test_a_patch_with_a_stale_version_is_a_conflict(raw, make: Make):
    stale = make()["metadata"]["resourceVersion"]
    raw.patch(f"{SERVICES}/web", {"metadata": {"labels": {"a": "b"}}})

    assert raw.patch(f"{SERVICES}/web", {"metadata": {"resourceVersion": stale, "labels": {"a": "c"}}}).code == 409


def test_a_patch_without_a_version_applies_to_the_latest(raw, make: Make):
    make()
    raw.patch(f"{SERVICES}/web", {"metadata": {"annotations": {"user": "edit"}}})

    patched = raw.patch(f"{SERVICES}/web/status", {"metadata": {"finalizers": ["lbctl.io/a"]}}).body["metadata"]

    assert (patched["annotations"], patched["finalizers"]) == ({"user": "edit"}, ["lbctl.io/a"])


def test_all_three_work_over_http(raw, make: Make):
    make()

    raw.patch(f"{SERVICES}/web", {"spec": {"ports": [{"port": 443, "name": "b"}, {"port": 80, "name": "a"}]}})
    raw.patch(f"{SERVICES}/web", {"metadata": {"labels": {"a": "b"}}}, MERGE)
    patched = raw.patch(f"{SERVICES}/web", [{"op": "remove", "path": "/spec/ports/0"}], JSON_PATCH).body

    assert patched["metadata"]["labels"] == {"a": "b"}
    assert [port["port"] for port in patched["spec"]["ports"]] == [80]


def test_a_patch_that_renames_is_refused(raw, make: Make):
    make()

    answer = raw.patch(f"{SERVICES}/web", {"metadata": {"name": "other"}})

    assert (answer.code, answer.body["message"]) == (
        400, "the name of the object (other) does not match the name on the URL (web)",
    )  # fmt: skip


@pytest.mark.parametrize("body", [[1], "text", {"spec": []}, {"metadata": {"labels": 1}}])
def test_nonsense_is_refused_and_changes_nothing(raw, make: Make, body: Any):
    before = make()

    assert raw.patch(f"{SERVICES}/web", body).code in (400, 422)
    assert raw.get(f"{SERVICES}/web").body == before


def test_server_side_apply_is_refused_with_a_way_out(raw, make: Make):
    make()

    answer = raw.patch(f"{SERVICES}/web", {"spec": {}}, "application/apply-patch+yaml")

    assert (answer.code, answer.body["reason"]) == (415, "UnsupportedMediaType")
    assert "leave out --server-side" in answer.body["message"]
