"""What clients ask before they ask for anything: /version, /api, /apis, and enough of OpenAPI v3 for kubectl."""

from collections.abc import Iterable, Mapping
from typing import Any

from lbctl.sandbox.kube import schema
from lbctl.sandbox.kube.kinds import Kind, Kinds, Object
from lbctl.sandbox.kube.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH

VERSION = {
    "major": "1", "minor": "34", "gitVersion": "v1.34.0+lbctl.sandbox", "gitCommit": "", "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
}  # fmt: skip


def document(kinds: Kinds, path: str, base: str = "") -> Object | None:
    """The answer to a discovery path, or None if it is none; links begin with `base`."""
    parts = path.strip("/").split("/")
    match parts:
        case ["version"]:
            return dict(VERSION)
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": _groups(kinds)}
        case ["apis", group]:
            found = next((item for item in _groups(kinds) if item["name"] == group), None)
            return {"kind": "APIGroup", "apiVersion": "v1", **found} if found else None
        case ["api", version]:
            return _resources([kind for kind in kinds if (kind.group, kind.version) == ("", version)])
        case ["apis", group, version]:
            return _resources([kind for kind in kinds if (kind.group, kind.version) == (group, version)])
        case ["openapi", "v3"]:
            return {"paths": {kind.path[1:]: {"serverRelativeURL": f"{base}/openapi/v3{kind.path}"} for kind in kinds}}
        case ["openapi", "v3", *rest]:
            return _openapi([kind for kind in kinds if kind.path == f"/{'/'.join(rest)}"])
    return None


def _groups(kinds: Kinds) -> list[Object]:
    versions: dict[str, list[str]] = {}
    for kind in kinds:
        if kind.group and kind.version not in versions.setdefault(kind.group, []):
            versions[kind.group].append(kind.version)
    return [_group(name, sorted(found, key=_rank)) for name, found in versions.items()]


def _rank(version: str) -> tuple[int, str]:
    """v1 before v1beta1 before v1alpha1."""
    return (2 if "alpha" in version else 1 if "beta" in version else 0, version)


def _group(name: str, versions: list[str]) -> Object:
    said = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": said, "preferredVersion": said[0]}


def _resources(kinds: list[Kind]) -> Object | None:
    if not kinds:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds[0].api_version,
        "resources": [item for kind in kinds for item in (_resource(kind), *_subresources(kind))],
    }


def _resource(kind: Kind) -> Object:
    said: Object = {
        "name": kind.plural, "singularName": kind.singular or kind.kind.lower(), "namespaced": kind.namespaced,
        "kind": kind.kind, "verbs": list(kind.verbs),
    }  # fmt: skip
    said |= {"shortNames": list(kind.short)} if kind.short else {}
    return said | ({"categories": list(kind.categories)} if kind.categories else {})


def _subresources(kind: Kind) -> Iterable[Object]:
    for name in kind.subresources:
        yield {
            "name": f"{kind.plural}/{name}", "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": ["get", "patch", "update"],
        }  # fmt: skip


# OpenAPI v3: schemas for `kubectl explain`, and of each path what tells kubectl that the server validates fields.


def _openapi(kinds: list[Kind]) -> Object | None:
    if not kinds:
        return None
    schemas: dict[str, Any] = {}
    for kind in kinds:
        for model in schema.references(kind.model):
            schemas.setdefault(model, dict(schema.definition(model)))
    for kind in kinds:
        shape = dict(_custom_schema(kind) if kind.custom else schemas[kind.model])
        schemas[_name(kind)] = shape | {"x-kubernetes-group-version-kind": [_gvk(kind)]}
    if any(kind.custom for kind in kinds):
        for model in schema.references("V1ObjectMeta"):
            schemas.setdefault(model, dict(schema.definition(model)))
    paths = {path: item for kind in kinds for path, item in _paths(kind)}
    return {
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": paths, "components": {"schemas": schemas},
    }  # fmt: skip


def _gvk(kind: Kind) -> Mapping[str, str]:
    return {"group": kind.group, "kind": kind.kind, "version": kind.version}


def _name(kind: Kind) -> str:
    return f"{kind.group or 'core'}.{kind.version}.{kind.kind}"


def _custom_schema(kind: Kind) -> Object:
    meta = {"allOf": [{"$ref": "#/components/schemas/V1ObjectMeta"}]}
    own = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": meta}
    return {**kind.schema, "properties": {**kind.schema.get("properties", {}), **own}}


def _paths(kind: Kind) -> Iterable[tuple[str, Object]]:
    place = f"{kind.path}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{kind.path}/{kind.plural}"
    yield place, {"post": _operation(kind, ("application/json",))}
    media = (JSON_PATCH, MERGE_PATCH) if kind.custom else (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)
    yield f"{place}/{{name}}", {"put": _operation(kind, ("application/json",)), "patch": _operation(kind, media)}


def _operation(kind: Kind, media: Iterable[str]) -> Object:
    reference = {"schema": {"$ref": f"#/components/schemas/{_name(kind)}"}}
    return {
        "parameters": [
            {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
            for name in ("dryRun", "fieldManager", "fieldValidation")
        ],
        "requestBody": {"content": dict.fromkeys(media, reference)},
        "responses": {"200": {"description": "OK", "content": {"application/json": reference}}},
        "x-kubernetes-group-version-kind": _gvk(kind),
    }
