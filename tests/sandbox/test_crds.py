"""Custom resources: served as soon as they are defined, held to their schema, gone with their definition."""

from typing import Any

import pytest

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
POOLS = "/apis/example.com/v1/pools"

OWN = {"apiVersion": "example.com/v1", "kind": "Pool"}
UP = {"type": "boolean", "default": True}
SPEC = {
    "type": "object",
    "required": ["addresses"],
    "properties": {
        "addresses": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^[0-9.:/-]+$"}},
        "mode": {"type": "string", "enum": ["l2", "bgp"], "default": "l2"},
        "weight": {"type": "integer", "minimum": 1, "maximum": 10},
        "nick": {"type": "string", "minLength": 2, "maxLength": 4},
        "port": {"x-kubernetes-int-or-string": True},
        "net": {"type": "string", "format": "cidr"},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "peers": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "up": UP}},
        },
    },
}  # fmt: skip


def definition(scope: str = "Cluster", **version: Any) -> dict[str, Any]:
    status = {"type": "object", "properties": {"free": {"type": "integer"}}}
    schema = {"type": "object", "required": ["spec"], "properties": {"spec": SPEC, "status": status}}
    served = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "pools", "kind": "Pool", "shortNames": ["pl"]}
    spec = {"group": "example.com", "scope": scope, "names": names}
    versions = [served | {"subresources": {"status": {}}} | version]
    return {"metadata": {"name": "pools.example.com"}, "spec": spec | {"versions": versions}}


def pool(name: str = "a", **spec: Any) -> dict[str, Any]:
    return OWN | {"metadata": {"name": name}, "spec": {"addresses": ["10.0.0.0/24"]} | spec}


@pytest.fixture(autouse=True)
def _defined(raw) -> None:
    assert raw.post(CRDS, definition()).code == 201


def test_a_definition_is_established_and_discovered(raw):
    conditions = raw.get(f"{CRDS}/pools.example.com").body["status"]["conditions"]

    assert {item["type"]: item["status"] for item in conditions} == {"NamesAccepted": "True", "Established": "True"}
    assert raw.get("/apis/example.com/v1").body["resources"][0]["shortNames"] == ["pl"]
    assert "example.com" in [group["name"] for group in raw.get("/apis").body["groups"]]


def test_defaults_are_filled_in(raw):
    made = raw.post(POOLS, pool(peers=[{"name": "x"}])).body

    assert (made["kind"], made["apiVersion"]) == ("Pool", "example.com/v1")
    assert (made["spec"]["mode"], made["spec"]["peers"]) == ("l2", [{"name": "x", "up": True}])


def test_unknown_fields_are_pruned_where_they_are_not_preserved(raw):
    made = raw.post(POOLS, pool(extra=1, any={"extra": 1}, labels={"a": "b"}) | {"more": 1}).body

    assert "more" not in made
    assert "extra" not in made["spec"]
    assert (made["spec"]["any"], made["spec"]["labels"]) == ({"extra": 1}, {"a": "b"})


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"addresses": []}, "spec.addresses", "spec.addresses in body should have at least 1 items"),
        ({"addresses": ["x"]}, "spec.addresses[0]", "spec.addresses[0] in body should match '^[0-9.:/-]+$'"),
        ({"addresses": "x"}, "spec.addresses", 'spec.addresses in body must be of type array: "string"'),
        ({"addresses": None}, "spec.addresses", "Required value"),
        ({"mode": "x"}, "spec.mode", 'supported values: "l2", "bgp"'),
        ({"weight": 0}, "spec.weight", "should be greater than or equal to 1"),
        ({"weight": 11}, "spec.weight", "should be less than or equal to 10"),
        ({"weight": True}, "spec.weight", "must be of type integer"),
        ({"nick": "x"}, "spec.nick", "should be at least 2 chars long"),
        ({"nick": "xxxxx"}, "spec.nick", "may not be more than 4 bytes"),
        ({"port": True}, "spec.port", 'spec.port in body must be of type integer,string: "boolean"'),
        ({"net": "10.0.0.1"}, "spec.net", 'spec.net in body must be of type cidr: "10.0.0.1"'),
        ({"labels": {"a": 1}}, "spec.labels.a", "must be of type string"),
        ({"peers": [{"name": "x"}, {"name": "x"}]}, "spec.peers[1]", 'Duplicate value: {"name":"x"}'),
    ],
)
def test_what_the_schema_forbids_is_named(raw, spec: dict[str, Any], field: str, message: str):
    answer = raw.post(POOLS, pool(**spec))

    assert answer.code == 422
    assert message in answer.causes[field]


@pytest.mark.parametrize("port", [80, "http"])
def test_int_or_string_takes_both(raw, port: object):
    assert raw.post(POOLS, pool(port=port)).code == 201


def test_the_status_is_apart_and_takes_no_metadata_along(raw):
    raw.post(POOLS, pool() | {"status": {"free": 1}})

    change = {"metadata": {"labels": {"a": "b"}}, "spec": {"weight": 5}, "status": {"free": 7}}
    written = raw.patch(f"{POOLS}/a/status", change, "application/merge-patch+json").body

    assert (written["status"], "weight" in written["spec"]) == ({"free": 7}, False)
    assert "labels" not in written["metadata"]


def test_the_generation_counts_changes_of_the_spec_only(raw):
    raw.post(POOLS, pool())
    merge = "application/merge-patch+json"

    raw.patch(f"{POOLS}/a", {"metadata": {"labels": {"a": "b"}}}, merge)
    raw.patch(f"{POOLS}/a/status", {"status": {"free": 1}}, merge)
    assert raw.get(f"{POOLS}/a").body["metadata"]["generation"] == 1
    assert raw.patch(f"{POOLS}/a", {"spec": {"weight": 2}}, merge).body["metadata"]["generation"] == 2


def test_custom_resources_say_what_they_are(raw):
    answer = raw.post(POOLS, {"metadata": {"name": "a"}, "spec": {"addresses": ["1"]}})

    assert (answer.code, "Object 'Kind' is missing" in answer.body["message"]) == (400, True)


def test_strategic_patches_are_for_built_in_kinds(raw):
    raw.post(POOLS, pool())

    assert raw.patch(f"{POOLS}/a", {"spec": {"weight": 2}}).code == 415


def test_custom_resources_are_replaced_with_a_version_only(raw):
    raw.post(POOLS, pool())

    assert "must be specified for an update" in raw.put(f"{POOLS}/a", pool()).causes["metadata.resourceVersion"]


def test_items_of_custom_lists_say_what_they_are(raw):
    raw.post(POOLS, pool())

    listed = raw.get(POOLS).body

    assert (listed["kind"], listed["items"][0]["kind"]) == ("PoolList", "Pool")


def test_a_definition_takes_its_objects_along(raw):
    raw.post(POOLS, pool())

    raw.delete(f"{CRDS}/pools.example.com")

    assert raw.get(POOLS).code == 404
    raw.post(CRDS, definition())
    assert raw.get(POOLS).body["items"] == []


def test_a_new_schema_counts_from_now_on(raw):
    held = raw.get(f"{CRDS}/pools.example.com").body
    held["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["weight"][
        "maximum"
    ] = 99
    raw.put(f"{CRDS}/pools.example.com", held)

    assert raw.post(POOLS, pool(weight=50)).code == 201


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"metadata": {"name": "wrong"}}, "metadata.name"),
        ({"spec": {"group": "example.com", "names": {"plural": "pools", "kind": "Pool"}}}, "spec.scope"),
    ],
)
def test_a_bad_definition_is_refused(raw, change: dict[str, Any], field: str):
    assert field in raw.post(CRDS, definition() | change).causes


def test_a_definition_needs_one_storage_version_and_a_schema(raw):
    raw.delete(f"{CRDS}/pools.example.com")

    answer = raw.post(CRDS, definition(storage=False, schema=None))

    assert {"spec.versions", "spec.versions[0].schema.openAPIV3Schema"} <= {*answer.causes}
