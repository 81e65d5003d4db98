"""From AWS's answers to resources in the form that desired would have said.  PURE.

The sort of a thing is known from the call that told of it, never from its ARN (stand-ins shape those differently).
What thousands of answers have in common (ids, tags, health checks) is kept once.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from sys import intern
from typing import Any

import msgspec

from lbctl.model import SHARED, Owner, Resource
from lbctl_aws.annotations import LISTENER_ATTRIBUTES, LOAD_BALANCER_ATTRIBUTES
from lbctl_aws.marks import OWNER, UID
from lbctl_aws.resources import group_defaults, health_check, holds, listener_name, placed, rule_name

Json = Mapping[str, Any]


class Draft(msgspec.Struct, frozen=True, gc=False):
    """What a page says of one thing, in normal form: all but its tags and what AWS tells one at a time."""

    name: str
    fields: Mapping[str, Any]
    outputs: Mapping[str, Any]


def tags_of(pairs: Iterable[Json]) -> dict[str, str]:
    """Tags as a mapping, without those of AWS itself, which nobody can change."""
    return {intern(pair["Key"]): intern(pair.get("Value", "")) for pair in pairs if not pair["Key"].startswith("aws:")}


def balancer_draft(said: Json) -> Draft:
    """From DescribeLoadBalancers."""
    fields = {
        "scheme": said.get("Scheme") or "internet-facing",
        "ip_address_type": intern(said.get("IpAddressType", "ipv4")),
        "subnets": placed((zone["SubnetId"], _static_address(zone)) for zone in said.get("AvailabilityZones", ())),
        "security_groups": tuple(sorted(map(intern, said.get("SecurityGroups") or ()))),
        "private_link": said.get("EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic") or "on",
    }
    return Draft(said["LoadBalancerName"], fields, balancer_outputs(said))


def load_balancer(draft: Draft, tags: Mapping[str, str], attributes: Mapping[str, str], backend: str) -> Resource:
    """With its tags and its unusual attributes; `backend` is our backend group's id."""
    groups = draft.fields["security_groups"]
    fields = {
        **draft.fields,
        "security_groups": tuple(group for group in groups if group != backend),
        "backend_group": backend if backend in groups else "",
        "attributes": attributes,
        "tags": tags,
        "uid": tags.get(UID, ""),
    }
    static = holds(draft.name, fields["subnets"])
    return Resource("load-balancer", draft.name, Owner(tags[OWNER]), fields, draft.outputs, static)


def balancer_outputs(said: Json) -> dict[str, Any]:
    created = said.get("CreatedTime")
    return {
        "arn": intern(said["LoadBalancerArn"]),
        "hostname": said["DNSName"],
        "state": intern(said.get("State", {}).get("Code", "")),
        "created": created.isoformat() if isinstance(created, datetime) else "",
    }


def _static_address(zone: Json) -> str:
    for address in zone.get("LoadBalancerAddresses") or ():
        said = address.get("AllocationId") or address.get("PrivateIPv4Address")
        if said:
            return str(said)
    return ""


def group_draft(said: Json) -> Draft:
    """From DescribeTargetGroups."""
    web = said.get("HealthCheckProtocol") != "TCP"
    fields = {
        "vpc": intern(said.get("VpcId", "")),
        "protocol": intern(said["Protocol"]),
        "port": int(said["Port"]),
        "ip_address_type": intern(said.get("IpAddressType") or "ipv4"),
        "health_check": health_check(
            protocol=said.get("HealthCheckProtocol", ""),
            port=str(said.get("HealthCheckPort", "")),
            path=said.get("HealthCheckPath", "") if web else "",
            codes=said.get("Matcher", {}).get("HttpCode", "") if web else "",
            interval=int(said.get("HealthCheckIntervalSeconds", 0)),
            timeout=int(said.get("HealthCheckTimeoutSeconds", 0)),
            healthy=int(said.get("HealthyThresholdCount", 0)),
            unhealthy=int(said.get("UnhealthyThresholdCount", 0)),
        ),
    }
    return Draft(said["TargetGroupName"], fields, {"arn": intern(said["TargetGroupArn"])})


def target_group(
    draft: Draft, tags: Mapping[str, str], attributes: Mapping[str, str], targets: tuple[str, ...],
    health: tuple[int, int] | None,
) -> Resource:
    """With its tags, its unusual attributes and what is registered."""
    fields = {**draft.fields, "attributes": attributes, "targets": targets, "tags": tags}
    outputs = draft.outputs if health is None else {**draft.outputs, "health": health}
    return Resource("target-group", draft.name, Owner(tags[OWNER]), fields, outputs)


def registered(descriptions: Iterable[Json], port: int) -> tuple[tuple[str, ...], tuple[int, int]]:
    """From DescribeTargetHealth: what is registered (with its port where that is not the group's), and
    (healthy, judged). A target that is still being checked for the first time is not judged."""
    targets: list[str] = []
    healthy = judged = 0
    for description in descriptions:
        state = description.get("TargetHealth", {}).get("State", "")
        if state == "draining":
            continue
        target = description["Target"]
        at = int(target.get("Port", port))
        targets.append(intern(target["Id"]) if at == port else f"{target['Id']}:{at}")
        healthy += state == "healthy"
        judged += state in ("healthy", "unhealthy", "unavailable")
    return tuple(sorted(targets)), (healthy, judged)


class Listens(msgspec.Struct, frozen=True, gc=False):
    """A listener's settings. `certificates` holds the default one, if there is any: the others are told elsewhere."""

    load_balancer: str
    port: int
    protocol: str
    target_group: str
    certificates: tuple[str, ...] = ()
    tls_policy: str = ""
    alpn: str = "None"


def listens(said: Json) -> Listens:
    """From DescribeListeners."""
    actions: Sequence[Json] = said.get("DefaultActions") or ({},)
    where = (intern(said["LoadBalancerArn"]), int(said["Port"]), intern(said["Protocol"]))
    plain = Listens(*where, intern(_forwards_to(actions[0])))
    if plain.protocol != "TLS":
        return plain
    certificates = tuple(certificate["CertificateArn"] for certificate in said.get("Certificates") or ())[:1]
    alpn = (said.get("AlpnPolicy") or ["None"])[0]
    return msgspec.structs.replace(plain, certificates=certificates, tls_policy=said.get("SslPolicy", ""), alpn=alpn)


def listener(
    said: Listens, arn: str, tags: Mapping[str, str], attributes: Mapping[str, str], more: Iterable[str], balancer: str
) -> Resource:
    """With its tags and unusual attributes; `more` are the certificates beside the default, `balancer` the load
    balancer's name.
    """
    others = sorted(certificate for certificate in more if certificate not in said.certificates)
    fields = {
        **msgspec.structs.asdict(said),
        "certificates": (*said.certificates, *others),
        "attributes": attributes,
        "tags": tags,
    }
    return Resource("listener", listener_name(balancer, said.port), Owner(tags[OWNER]), fields, {"arn": arn})


def _forwards_to(action: Json) -> str:
    groups = action.get("ForwardConfig", {}).get("TargetGroups") or ()
    if len(groups) > 1:
        return "several"
    return str(action.get("TargetGroupArn") or (groups[0]["TargetGroupArn"] if groups else ""))


def security_group(said: Json, tags: Mapping[str, str]) -> Resource:
    """From DescribeSecurityGroups: a Service's own group with all its rules."""
    fields = {"vpc": intern(said.get("VpcId", "")), "rules": rules_of(said), "tags": tags}
    return Resource("security-group", said["GroupName"], Owner(tags[OWNER]), fields, {"id": intern(said["GroupId"])})


def backend_group(said: Json, tags: Mapping[str, str]) -> Resource:
    fields = {"vpc": intern(said.get("VpcId", "")), "tags": tags}
    return Resource("backend-group", said["GroupName"], SHARED, fields, {"id": said["GroupId"]})


def rules_of(said: Json) -> tuple[str, ...]:
    """Every rule for what comes in, as `protocol:port:source` or `protocol:first-last:source`, sorted."""
    return tuple(sorted(
        intern(f"{permission['IpProtocol']}:{_ports(permission)}:{source}")
        for permission in said.get("IpPermissions", ()) for source in _sources(permission)
    ))


def _ports(permission: Json) -> str:
    first, last = permission.get("FromPort", -1), permission.get("ToPort", -1)
    return str(first) if first == last else f"{first}-{last}"


def _sources(permission: Json) -> Iterable[str]:
    yield from (source["CidrIp"] for source in permission.get("IpRanges", ()))
    yield from (source["CidrIpv6"] for source in permission.get("Ipv6Ranges", ()))
    yield from (source["PrefixListId"] for source in permission.get("PrefixListIds", ()))
    yield from (source["GroupId"] for source in permission.get("UserIdGroupPairs", ()) if "GroupId" in source)


def node_rules(said: Json, backends: Iterable[str]) -> Iterable[Resource]:
    """From DescribeSecurityGroups of a group that is not ours: its rules that let our backend group in.

    Whatever refers to our group is ours: it means nothing without it, and the group cannot go before it.
    """
    ours = set(backends)
    for permission in said.get("IpPermissions", ()):
        for source in permission.get("UserIdGroupPairs", ()):
            if source.get("GroupId") in ours:
                yield _node_rule(said["GroupId"], permission, source["GroupId"])


def _node_rule(group: str, permission: Json, source: str) -> Resource:
    protocol, first, last = permission["IpProtocol"], permission.get("FromPort", 0), permission.get("ToPort", 65535)
    fields = {"group": group, "protocol": protocol, "from_port": first, "to_port": last, "source": source}
    return Resource("node-rule", rule_name(group, protocol, first, last), SHARED, fields)


def unusual_of_balancer(pairs: Iterable[Json]) -> dict[str, str]:
    return _unusual(pairs, LOAD_BALANCER_ATTRIBUTES)


def unusual_of_group(pairs: Iterable[Json], protocol: str) -> dict[str, str]:
    return _unusual(pairs, group_defaults(protocol))


def unusual_of_listener(pairs: Iterable[Json]) -> dict[str, str]:
    return _unusual(pairs, LISTENER_ATTRIBUTES)


def _unusual(pairs: Iterable[Json], defaults: Mapping[str, str]) -> dict[str, str]:
    """What differs from AWS's default, among the attributes that we keep in step."""
    said = {pair["Key"]: str(pair.get("Value", "")) for pair in pairs}
    return {key: value for key, value in sorted(said.items()) if key in defaults and value != defaults[key]}
