"""docs/bare-metal.md says what is: its objects are served, its reasons and annotations are those of the code."""

import re
from pathlib import Path

import msgspec
import yaml

from lbctl_l2 import allocation, annotations, crds, dataplane
from lbctl_l2.packets import Drop

GUIDE = (Path(__file__).parents[2] / "docs" / "bare-metal.md").read_text()


def test_its_objects_are_served_as_they_stand() -> None:
    [sample] = re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)
    found, problems = crds.manifests(yaml.safe_load_all(sample))
    supply = crds.supply(found)
    assert (problems, supply.problems) == ((), ())
    assert [pool.name for pool in supply.pools] == ["lab"]
    assert [advert.name for advert in supply.advertisements] == ["everywhere"]


def test_it_names_every_reason_of_a_refusal() -> None:
    source = (Path(allocation.__file__).read_text(), Path(annotations.__file__).read_text())
    reasons = {reason for text in source for reason in re.findall(r'Verdict\(\s*"([a-z-]+)"', text)}
    reasons |= {reason for text in source for reason in re.findall(r'reason="([a-z-]+)"', text)}
    assert reasons - {""} <= set(re.findall(r"`([a-z-]+)`", GUIDE)) | {"not-automatic"}


def test_it_names_every_field_of_a_pool() -> None:
    fields = {field.encode_name for field in msgspec.structs.fields(crds._AddressPool)}
    assert fields <= set(re.findall(r"`(\w+)", GUIDE))


def test_it_names_every_reason_for_a_dropped_frame() -> None:
    reasons = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)": self', Path(dataplane.__file__).read_text())) | set(Drop)
    assert {"crowded-out", "netlink-overrun"} <= reasons <= set(re.findall(r"`([a-z0-9-]+)`", GUIDE))


def test_it_names_our_annotations() -> None:
    legacy = ("metallb.universe.tf/", "io.cilium/")
    named = [name for name in (*annotations.POOL, *annotations.SHARING) if not name.startswith(legacy)]
    assert [name for name in named if f"`{name}" not in GUIDE] == []

