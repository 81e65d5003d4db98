"""What an operator may set for AWS, and what the nodes say about it.  PURE.

`Settings` is the typed form of `Harness.settings`; a value that cannot be read is a `SettingsError` that names the
setting and every way to give it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import get_args

import msgspec

from lbctl.errors import SettingsError
from lbctl.model import Node, Scheme
from lbctl.provider import Setting

SETTINGS = (
    Setting("region", "the AWS region, e.g. eu-central-1", env=("AWS_REGION", "AWS_DEFAULT_REGION"), required=True,
            metavar="REGION"),
    Setting("vpc-id", "the VPC; found from the nodes' instances, else this machine's metadata, where not given",
            env=("AWS_VPC_ID",), metavar="ID"),
    Setting(
        "cluster-name",
        "the cluster's name in AWS tags: kubernetes.io/cluster/NAME on subnets, security groups and instances",
        env=("AWS_CLUSTER_NAME", "CLUSTER_NAME"),
        metavar="NAME",
    ),
    Setting("node-port-range", "the API server's --service-node-port-range", default="30000-32767",
            metavar="FIRST-LAST"),
    Setting("default-scheme", "who may reach a Service that does not say: internet-facing or internal",
            default="internet-facing", metavar="[internet-facing|internal]"),
    Setting("drain-seconds", "how long a replaced load balancer outlives its replacement's creation", default="120",
            metavar="SECONDS"),
    Setting("ssl-policy", "the TLS policy of Services that name none", default="ELBSecurityPolicy-2016-08",
            metavar="NAME"),
    Setting("tags", "tags for everything that lbctl makes: key=value,key=value", metavar="KEY=VALUE,…"),
    Setting("audit-budget", "calls that one audit may spend on what AWS tells one at a time (targets, attributes)",
            default="300", metavar="NUMBER"),
    Setting("endpoint-url", "another address for the AWS API: a VPC endpoint, a stand-in", env=("AWS_ENDPOINT_URL",),
            metavar="URL"),
)


class Settings(msgspec.Struct, frozen=True):
    """The operator's choices, typed. `region` and `vpc_id` are empty where they still have to be found."""

    region: str = ""
    vpc_id: str = ""
    cluster_name: str = ""
    node_ports: tuple[int, int] = (30000, 32767)
    default_scheme: Scheme = "internet-facing"
    drain_seconds: int = 120
    ssl_policy: str = "ELBSecurityPolicy-2016-08"
    tags: Mapping[str, str] = {}
    audit_budget: int = 300
    endpoint_url: str = ""


def parse(given: Mapping[str, str]) -> Settings:
    """The settings as values. Raises `SettingsError`."""
    said = {setting.name: given.get(setting.name, "").strip() or setting.default for setting in SETTINGS}
    return Settings(
        region=_matching(said, "region", r"[a-z]{2}(-[a-z]+)+-\d|", "a region like eu-central-1"),
        vpc_id=_matching(said, "vpc-id", r"vpc-[0-9a-f]+|", "an id like vpc-0a1b2c3d"),
        cluster_name=said["cluster-name"],
        node_ports=_port_range(said["node-port-range"]),
        default_scheme=_scheme(said["default-scheme"]),
        drain_seconds=_number(said, "drain-seconds"),
        ssl_policy=said["ssl-policy"],
        tags=_tags(said["tags"]),
        audit_budget=_number(said, "audit-budget"),
        endpoint_url=_matching(said, "endpoint-url", r"https?://\S+|", "an http(s) address"),
    )


def discover(nodes: Sequence[Node]) -> Mapping[str, str]:
    """What the nodes say about the region: their label, else the zone in their providerID."""
    regions = {region for node in nodes if (region := _region_of(node))}
    return {"region": regions.pop()} if len(regions) == 1 else {}


def instance_id(node: Node) -> str:
    """The EC2 instance behind a node: `aws:///zone/i-…`, `aws:////i-…` or a bare `i-…`; empty if it is none."""
    last = node.provider_id.rpartition("/")[2]
    ours = node.provider_id == last or node.provider_id.startswith("aws://")
    return last if ours and re.fullmatch(r"i-[0-9a-f]+", last) else ""


def missing(name: str) -> SettingsError:
    """The error for a setting that nobody gave and nothing tells."""
    setting = next(setting for setting in SETTINGS if setting.name == name)
    return SettingsError(f"the AWS {name} is not known: {_ways(setting)}")


def _region_of(node: Node) -> str:
    zone = re.match(r"aws:///([a-z]{2}(?:-[a-z]+)+-\d)[a-z]/", node.provider_id)
    return node.labels.get("topology.kubernetes.io/region", "") or (zone.group(1) if zone else "")


def _ways(setting: Setting) -> str:
    variables = " or ".join((f"LBCTL_AWS_{setting.name.upper().replace('-', '_')}", *setting.env))
    name = setting.name
    return f"give --aws-{name}, the environment variable {variables}, or aws.{name} in the configuration"


def _wrong(name: str, value: str, wanted: str) -> SettingsError:
    setting = next(setting for setting in SETTINGS if setting.name == name)
    return SettingsError(f"the AWS {name} {value[:80]!r} is not {wanted}: {_ways(setting)}")


def _matching(said: Mapping[str, str], name: str, pattern: str, wanted: str) -> str:
    if not re.fullmatch(pattern, said[name]):
        raise _wrong(name, said[name], wanted)
    return said[name]


def _number(said: Mapping[str, str], name: str) -> int:
    if not re.fullmatch(r"\d{1,7}", said[name]):
        raise _wrong(name, said[name], "a number")
    return int(said[name])


def _port_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if not match or not 0 < int(match[1]) <= int(match[2]) < 65536:
        raise _wrong("node-port-range", text, "a range like 30000-32767")
    return int(match[1]), int(match[2])


def _scheme(text: str) -> Scheme:
    for scheme in get_args(Scheme):
        if scheme == text:
            return text  # type: ignore[return-value]
    raise _wrong("default-scheme", text, "internet-facing or internal")


def _tags(text: str) -> Mapping[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(equals and key.strip() for key, equals, _ in pairs):
        raise _wrong("tags", text, "a list like team=network,stage=test")
    return {key.strip(): value.strip() for key, _, value in pairs}
