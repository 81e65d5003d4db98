"""The shipped CRDs say what the decoder reads: the same fields, the same defaults."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from lbctl_l2 import crds
from lbctl_l2.pool import RELEASES

FOLDER = Path(__file__).parents[2] / "deploy" / "crds"


def definition(plural: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{plural}.lbctl.io.yaml").read_text())["spec"]
    return found


def schema(plural: str) -> dict[str, Any]:
    found: dict[str, Any] = definition(plural)["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return found


def fields(shape: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.encode_name: field.default for field in msgspec.structs.fields(shape)}


@pytest.mark.parametrize(("plural", "shape"), [
    ("addresspools", crds._AddressPool), ("l2advertisements", crds._L2Advertisement),
])
def test_the_schema_has_exactly_the_fields_that_are_read(plural: str, shape: type[msgspec.Struct]) -> None:
    assert schema(plural)["spec"]["properties"].keys() == fields(shape).keys()


def test_the_schemas_defaults_are_the_decoders() -> None:
    said = {name: field["default"] for name, field in schema("addresspools")["spec"]["properties"].items()
            if "default" in field}
    # autoAssign is true where nothing is said, which the decoder knows as None.
    read = {name: default for name, default in fields(crds._AddressPool).items() if name in said}
    assert said == read | {"autoAssign": True}


def test_what_a_pool_allocates_for_and_selects_by_is_spelt_the_same() -> None:
    allocation = schema("addresspools")["spec"]["properties"]["serviceAllocation"]["properties"]
    assert allocation.keys() == fields(crds._Allocation).keys()
    selector = allocation["namespaceSelectors"]["items"]["properties"]
    assert selector.keys() == fields(crds._Selector).keys()
    assert selector["matchExpressions"]["items"]["properties"].keys() == fields(crds._Expression).keys()


@pytest.mark.parametrize("plural", ["addresspools", "l2advertisements"])
def test_they_are_cluster_scoped_and_have_a_status_of_their_own(plural: str) -> None:
    (version,) = definition(plural)["versions"]
    assert (definition(plural)["scope"], version["name"]) == ("Cluster", "v1alpha1")
    assert version["subresources"] == {"status": {}}


def test_a_status_holds_as_many_releases_as_are_remembered() -> None:
    assert schema("addresspools")["status"]["properties"]["released"]["maxItems"] == RELEASES
