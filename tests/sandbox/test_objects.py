"""Objects over raw HTTP: creating, replacing, versions, names, finalizers, namespaces."""

from collections.abc import Callable
from typing import Any

import pytest

SERVICES = "/api/v1/namespaces/default/services"
CONFIG = "/api/v1/namespaces/default/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"

Make = Callable[..., dict[str, Any]]


def lease(name: str = "lock", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


def test_a_new_object_gets_an_identity(make: Make):
    meta = make()["metadata"]

    assert meta["uid"]
    assert meta["creationTimestamp"].endswith("Z")
    assert int(meta["resourceVersion"]) > 0


def test_what_a_client_says_about_system_fields_is_ignored(raw):
    meta = {
        "name": "a",
        "uid": "mine",
        "creationTimestamp": "2001-01-01T00:00:00Z",
        "deletionTimestamp": "2001-01-01T00:00:00Z",
    }

    created = raw.post(CONFIG, {"metadata": meta}).body["metadata"]

    assert created["uid"] != "mine"
    assert not created["creationTimestamp"].startswith("2001")
    assert "deletionTimestamp" not in created


def test_a_name_is_taken_once(raw, make: Make):
    make("web")

    answer = raw.post(SERVICES, {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 1}]}})

    assert (answer.code, answer.body["reason"]) == (409, "AlreadyExists")
    assert answer.body["message"] == 'services "web" already exists'


def test_generate_name_makes_different_names(raw):
    names = {raw.post(CONFIG, {"metadata": {"generateName": "a-"}}).body["metadata"]["name"] for _ in range(5)}

    assert len(names) == 5
    assert all(name.startswith("a-") and len(name) == 7 for name in names)


def test_an_object_without_a_name_is_invalid(raw):
    answer = raw.post(CONFIG, {"metadata": {}})

    assert answer.code == 422
    assert answer.causes["metadata.name"] == "Required value: name or generateName is required"


def test_a_missing_object_is_not_found(raw):
    answer = raw.get(f"{SERVICES}/nope")

    assert (answer.code, answer.body["reason"]) == (404, "NotFound")
    assert answer.body["details"] == {"name": "nope", "kind": "services"}


def test_a_missing_namespace_is_not_found(raw):
    answer = raw.post("/api/v1/namespaces/nope/configmaps", {"metadata": {"name": "a"}})

    assert (answer.code, answer.body["message"]) == (404, 'namespaces "nope" not found')


def test_the_namespace_of_path_and_body_must_agree(raw):
    answer = raw.post(CONFIG, {"metadata": {"name": "a", "namespace": "other"}})

    assert (answer.code, answer.body["reason"]) == (400, "BadRequest")


def test_a_stale_put_is_a_conflict(raw, make: Make):
    old = make()
    raw.patch(f"{SERVICES}/web", {"metadata": {"labels": {"a": "b"}}})

    answer = raw.put(f"{SERVICES}/web", old)

    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
    assert "please apply your changes to the latest version" in answer.body["message"]


def test_a_put_without_a_version_replaces_whatever_is_there(raw, make: Make):
    old = make()
    del old["metadata"]["resourceVersion"]

    assert raw.put(f"{SERVICES}/web", old).code == 200


def test_a_put_for_another_uid_is_a_conflict(raw, make: Make):
    old = make()
    old["metadata"] |= {"uid": "another", "resourceVersion": ""}

    assert "Precondition failed: UID" in raw.put(f"{SERVICES}/web", old).body["message"]


def test_leases_are_replaced_with_a_version_only(raw):
    raw.post(LEASES, lease(holderIdentity="a"))

    answer = raw.put(f"{LEASES}/lock", lease(holderIdentity="b"))

    assert answer.code == 422
    assert "must be specified for an update" in answer.causes["metadata.resourceVersion"]


def test_a_lease_changes_hands_once(raw):
    held = raw.post(LEASES, lease(holderIdentity="a", leaseDurationSeconds=15)).body
    held["spec"]["holderIdentity"] = "b"

    first, second = raw.put(f"{LEASES}/lock", held), raw.put(f"{LEASES}/lock", held)

    assert (first.code, second.code) == (200, 409)


def test_an_empty_holder_is_kept(raw):
    assert raw.post(LEASES, lease(holderIdentity="")).body["spec"] == {"holderIdentity": ""}


def test_a_lease_lasts_at_least_a_second(raw):
    assert raw.post(LEASES, lease(leaseDurationSeconds=0)).code == 422


def test_a_put_may_create_what_the_real_api_lets_it_create(raw):
    codes = [raw.put(f"{LEASES}/new", lease("new")).code, raw.put(f"{CONFIG}/new", {"metadata": {"name": "new"}}).code]

    assert codes == [201, 404]


def test_an_update_that_changes_nothing_has_no_version_of_its_own(raw, make: Make):
    before = make()

    after = raw.patch(f"{SERVICES}/web", {"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}}).body

    assert after == before


def test_a_dry_run_leaves_no_trace(raw):
    answer = raw.post(SERVICES, {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 1}]}}, dryRun="All")

    assert (answer.code, raw.get(f"{SERVICES}/a").code) == (201, 404)


def test_a_deleted_service_is_returned_and_gone(raw, make: Make):
    make()

    assert raw.delete(f"{SERVICES}/web").body["kind"] == "Service"
    assert raw.get(f"{SERVICES}/web").code == 404


def test_a_deleted_configmap_is_answered_with_a_status(raw):
    raw.post(CONFIG, {"metadata": {"name": "a"}})

    answer = raw.delete(f"{CONFIG}/a").body

    assert (answer["status"], answer["details"]["name"]) == ("Success", "a")


def test_a_delete_with_the_wrong_uid_is_a_conflict(raw, make: Make):
    make()

    assert raw.delete(f"{SERVICES}/web", {"preconditions": {"uid": "another"}}).code == 409


def test_finalizers_hold_a_deleted_object_until_the_last_is_gone(raw, make: Make):
    make()
    raw.patch(f"{SERVICES}/web/status", {"metadata": {"finalizers": ["lbctl.io/a", "lbctl.io/b"]}})

    assert raw.delete(f"{SERVICES}/web").body["metadata"]["deletionTimestamp"]
    raw.patch(f"{SERVICES}/web/status", {"metadata": {"$deleteFromPrimitiveList/finalizers": ["lbctl.io/a"]}})
    assert raw.get(f"{SERVICES}/web").body["metadata"]["finalizers"] == ["lbctl.io/b"]
    raw.patch(f"{SERVICES}/web/status", {"metadata": {"finalizers": None}})
    assert raw.get(f"{SERVICES}/web").code == 404


def test_what_is_being_deleted_takes_no_new_finalizer(raw, make: Make):
    make()
    raw.patch(f"{SERVICES}/web", {"metadata": {"finalizers": ["lbctl.io/a"]}})
    raw.delete(f"{SERVICES}/web")

    answer = raw.patch(f"{SERVICES}/web", {"metadata": {"finalizers": ["lbctl.io/b"]}})

    assert (answer.code, list(answer.causes)) == (422, ["metadata.finalizers"])


def test_delete_collection_takes_what_is_selected(raw, make: Make):
    make("a")
    make("b")
    raw.patch(f"{SERVICES}/a", {"metadata": {"labels": {"go": "yes"}}})

    raw.delete(SERVICES, labelSelector="go=yes")

    assert [raw.get(f"{SERVICES}/{name}").code for name in "ab"] == [404, 200]


def test_a_deleted_namespace_takes_its_contents_along(raw):
    raw.post("/api/v1/namespaces", {"metadata": {"name": "shop"}})
    raw.post("/api/v1/namespaces/shop/configmaps", {"metadata": {"name": "a"}})

    raw.delete("/api/v1/namespaces/shop")

    assert raw.get("/api/v1/namespaces/shop").code == 404
    assert raw.get("/api/v1/configmaps").body["items"] == []


def test_a_namespace_waits_for_finalizers_within_and_takes_nothing_new(raw):
    held = "/api/v1/namespaces/shop/configmaps"
    raw.post("/api/v1/namespaces", {"metadata": {"name": "shop"}})
    raw.post(held, {"metadata": {"name": "a", "finalizers": ["lbctl.io/a"]}})

    raw.delete("/api/v1/namespaces/shop")
    assert raw.get("/api/v1/namespaces/shop").body["status"]["phase"] == "Terminating"
    refused = raw.post(held, {"metadata": {"name": "b"}})
    assert (refused.code, refused.body["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")
    raw.patch(f"{held}/a", {"metadata": {"finalizers": None}})
    assert raw.get("/api/v1/namespaces/shop").code == 404


def test_a_cluster_begins_with_its_namespaces_and_an_id(raw):
    names = [item["metadata"]["name"] for item in raw.get("/api/v1/namespaces").body["items"]]

    assert names == ["default", "kube-node-lease", "kube-public", "kube-system"]
    assert raw.get("/api/v1/namespaces/kube-system").body["metadata"]["uid"]


@pytest.mark.parametrize(
    ("meta", "field"),
    [
        ({"name": "A"}, "metadata.name"),
        ({"name": "a", "labels": {"a b": "c"}}, "metadata.labels"),
        ({"name": "a", "labels": {"a": "b c"}}, "metadata.labels"),
        ({"name": "a", "annotations": {"a": "x" * 262145}}, "metadata.annotations"),
        ({"name": "a", "finalizers": ["unqualified"]}, "metadata.finalizers[0]"),
    ],
)
def test_bad_metadata_is_named(raw, meta: dict[str, Any], field: str):
    answer = raw.post(CONFIG, {"metadata": meta})

    assert answer.code == 422
    assert field in answer.causes


def test_unknown_fields_are_dropped_with_a_warning(raw):
    answer = raw.post(CONFIG, {"metadata": {"name": "a"}, "spec": 1})

    assert "spec" not in answer.body
    assert answer.headers["Warning"] == '299 - "unknown field \\"spec\\""'


def test_unknown_fields_are_refused_when_asked_to_be_strict(raw):
    answer = raw.post(CONFIG, {"metadata": {"name": "a"}, "spec": 1}, fieldValidation="Strict")

    assert answer.code == 400
    assert 'strict decoding error: unknown field "spec"' in answer.body["message"]


def test_a_wrong_type_is_said_as_go_says_it(raw):
    answer = raw.post(CONFIG, {"metadata": {"name": "a", "annotations": {"a": True}}})

    assert answer.code == 400
    assert "cannot unmarshal bool into Go struct field ObjectMeta.metadata.annotations" in answer.body["message"]


def test_a_node_registers_with_a_status_that_later_only_the_subresource_changes(raw):
    node = {"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}
    raw.post("/api/v1/nodes", node)

    raw.patch("/api/v1/nodes/n1", {"status": {"addresses": [{"type": "Hostname", "address": "x"}]}})

    assert raw.get("/api/v1/nodes/n1").body["status"]["addresses"] == node["status"]["addresses"]


def test_an_event_lives_with_what_it_is_about(raw):
    about = {"kind": "Service", "name": "web", "namespace": "other"}

    answer = raw.post("/api/v1/namespaces/default/events", {"metadata": {"name": "e"}, "involvedObject": about})

    assert (answer.code, list(answer.causes)) == (422, ["involvedObject.namespace"])


def test_endpoint_slices_say_how_often_they_changed(raw):
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    made = raw.post(slices, {"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": []})

    changed = raw.patch(f"{slices}/a", {"endpoints": [{"addresses": ["10.0.0.1"]}]})

    assert (made.body["metadata"]["generation"], changed.body["metadata"]["generation"]) == (1, 2)
