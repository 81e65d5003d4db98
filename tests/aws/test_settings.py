"""Settings: typed, discovered from the nodes, and named when they are missing or wrong."""

import pytest

from lbctl.errors import SettingsError
from lbctl.model import Node
from lbctl.provider import Harness
from lbctl_aws import plugin
from lbctl_aws.settings import SETTINGS, discover, instance_id, missing, parse


@pytest.mark.parametrize(("name", "value"), [
    ("region", "Frankfurt"), ("vpc-id", "my-vpc"), ("node-port-range", "all"), ("node-port-range", "32767-30000"),
    ("default-scheme", "public"), ("drain-seconds", "soon"), ("audit-budget", "-1"), ("tags", "team"),
    ("endpoint-url", "127.0.0.1:5000"),
])
def test_a_wrong_value_is_named_with_every_way_to_give_it(name, value):
    with pytest.raises(SettingsError) as told:
        parse({name: value})
    assert all(way in told.value.message for way in (
        repr(value), f"--aws-{name}", f"LBCTL_AWS_{name.upper().replace('-', '_')}", f"aws.{name}"))


def test_what_nobody_says_has_its_default():
    settings = parse({})
    assert (settings.node_ports, settings.drain_seconds) == ((30000, 32767), 120)
    assert settings.default_scheme == "internet-facing"


def test_a_missing_one_names_the_ways():
    assert "AWS_REGION" in missing("region").message


@pytest.mark.parametrize(("provider_id", "found"), [
    ("aws:///eu-central-1a/i-0a1b", "i-0a1b"), ("aws:////i-0a1b", "i-0a1b"), ("i-0a1b", "i-0a1b"),
    ("", ""), ("gce://project/zone/i-0a1b", ""), ("aws:///eu-central-1a/fargate-10.0.0.1", ""),
])
def test_a_node_says_its_instance(provider_id, found):
    assert instance_id(Node("n", provider_id)) == found


@pytest.mark.parametrize(("nodes", "found"), [
    ([Node("a", "aws:///eu-central-1a/i-0a")], {"region": "eu-central-1"}),
    ([Node("a", "aws:///us-gov-west-1b/i-0a")], {"region": "us-gov-west-1"}),
    ([Node("a", "i-0a", {"topology.kubernetes.io/region": "us-east-1"})], {"region": "us-east-1"}),
    ([Node("a", "aws:///eu-central-1a/i-0a"), Node("b", "aws:///us-east-1a/i-0b")], {}),
    ([Node("a", "kind://docker/kind/kind-worker")], {}),
])
def test_nodes_tell_the_region_if_they_agree(nodes, found):
    assert discover(nodes) == found


def test_wrong_settings_end_the_making():
    with pytest.raises(SettingsError):
        plugin.make(Harness({"region": "Frankfurt"}))


def test_every_setting_says_what_it_is_for():
    assert all(setting.help and not setting.help.endswith(".") for setting in SETTINGS)
