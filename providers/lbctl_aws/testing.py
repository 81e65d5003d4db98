"""AWS that fits on loopback: moto over real HTTP, made as strict as AWS where moto is not.

`standin` is the entry point. boto3 speaks to it as it would to AWS; what AWS refuses and moto takes is refused here,
with AWS's own error codes (Elastic Load Balancing and EC2 API references): names used twice, security groups in use,
deletion protection, listeners that do not fit their target groups, targets that are no running instances of the VPC,
static addresses held by somebody else. What moto forgets is remembered: static addresses, listeners in the tag index,
changed protocols, a target's port. Throttling, AWS's token buckets, missing permissions, lost answers, delays,
lingering interfaces, slow provisioning and listings that lag behind can be switched on.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from itertools import cycle
from typing import Any
from urllib.parse import parse_qsl

import boto3
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.subnets import Subnet
from moto.elbv2.exceptions import ELBClientError
from moto.elbv2.models import (
    AvailabilityZone,
    ELBv2Backend,
    FakeHealthStatus,
    FakeListener,
    FakeLoadBalancer,
    FakeTargetGroup,
    elbv2_backends,
)
from moto.elbv2.ssl_policies import SSL_POLICIES
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from lbctl.model import Node, Resource
from lbctl_aws.api import category
from lbctl_aws.marks import CLUSTER, OWNER
from lbctl_aws.resources import group_defaults

ACCOUNT = "123456789012"
KEYS = {"aws_access_key_id": "stand-in", "aws_secret_access_key": "stand-in"}
CLUSTER_NAME = "sandbox"
IMAGE = "ami-12c6146b"
"""One of moto's own."""

ZONES = ("a", "b")
LISTENS = {"TCP": {"TCP"}, "UDP": {"UDP"}, "TCP_UDP": {"TCP_UDP"}, "TLS": {"TCP", "TLS"}}
"""Which target groups' protocols a listener may forward to (Listeners for your Network Load Balancers)."""

BUCKETS: Mapping[str, tuple[float, float]] = {
    "elbv2 describing": (40, 10), "elbv2 registration": (20, 4), "elbv2 mutating": (10, 3),
    "elbv2 resource-intensive": (10, 0.2),
}
"""Category → (size, refill per second). AWS documents only the first; the others are what its clients observe."""

_REGIONS = cycle(("eu-central-1", "us-east-1", "eu-west-1", "us-west-2", "eu-north-1", "ap-south-1", "us-east-2"))
"""Regions are apart in moto, too: stand-ins of one process that are up at the same time share nothing."""


def _no(code: str, message: str) -> Exception:
    """The load-balancing API's no, as moto sends it (by the module that the exception's class is from)."""
    error: Exception = ELBClientError(code, message)
    return error


# -- load balancing, strictly ----------------------------------------------------------------------------------------


class _Zone(AvailabilityZone):
    """A load balancer's subnet, with the static address that it was given."""

    def __init__(self, subnet: Any, address: Mapping[str, str]) -> None:
        super().__init__(subnet)
        self.load_balancer_addresses = [dict(address)] if address else []


class _Group(FakeTargetGroup):
    """A target group where an instance is a target once per port; deregistering what is not registered is fine."""

    state = "healthy"
    """What health checks say of running instances."""

    def register(self, targets: list[dict[str, Any]]) -> None:
        for target in targets:
            self.targets[self._key(target)] = {"Id": target["Id"], "Port": int(target.get("Port") or self.port)}

    def deregister(self, targets: list[dict[str, Any]]) -> None:
        for target in targets:
            self.targets.pop(self._key(target), None)

    def deregister_terminated_instances(self, instance_ids: list[str]) -> None:
        for key in [key for key, target in self.targets.items() if target["Id"] in instance_ids]:
            del self.targets[key]

    def health_for(self, target: dict[str, Any], ec2_backend: EC2Backend) -> FakeHealthStatus:
        instance = ec2_backend.get_instance_by_id(target["Id"])
        running = instance is not None and instance.state == "running" and self._key(target) in self.targets
        port = target.get("Port") or self.port
        return FakeHealthStatus(target["Id"], str(port), self.health_check_port, self.state if running else "unused")

    def _key(self, target: Mapping[str, Any]) -> str:
        return f"{target['Id']}:{target.get('Port') or self.port}"


class StrictLoadBalancing(ELBv2Backend):
    """moto's load balancing, minus what AWS would not have taken."""

    def _begin(self) -> None:
        """linger: deletes of a group that fail after its load balancer went. lag: looks that do not see what is new.
        provisioning: new load balancers stay so until `settle`."""
        self.addresses: dict[str, dict[str, dict[str, str]]] = {}
        self.lingering: dict[str, int] = {}
        self.unseen: dict[str, int] = {}
        self.linger = self.lag = 0
        self.provisioning = False

    def _sees(self, arn: str) -> bool:
        """Eventual consistency: what was created just now is not in every listing yet."""
        left = self.unseen.get(arn, 0)
        self.unseen[arn] = max(left - 1, 0)
        return left == 0

    def settled(self) -> None:
        self.lingering.clear()
        self.unseen.clear()
        self.provisioning = False

    # load balancers

    def create_load_balancer(self, name: str, security_groups: list[str], subnet_ids: list[str],  # type: ignore[override]
                             subnet_mappings: list[dict[str, str]] | None = None, **more: Any) -> FakeLoadBalancer:
        mappings = [*({"SubnetId": subnet} for subnet in subnet_ids), *(subnet_mappings or [])]
        self._check_name(name)
        self._check_security_groups(security_groups)
        self._check_subnets(mappings, more.get("ip_address_type") or "ipv4")
        for balancer in self.load_balancers.values():
            if balancer.name == name:
                return self._same(balancer, security_groups, mappings, more)
        self._check_addresses(mappings, "")
        more["scheme"] = more.get("scheme") or "internet-facing"
        made = super().create_load_balancer(name, security_groups, [], mappings, **more)
        made.arn, old = made.arn.replace("/app/", "/net/"), made.arn
        self._rename(old, made)
        self._hold(made, mappings)
        self.unseen[made.arn] = self.lag
        return made

    def _rename(self, old: str, made: FakeLoadBalancer) -> None:
        """A network load balancer's ARN says so; moto's does not."""
        self.load_balancers[made.arn] = self.load_balancers.pop(old)
        tags = self.tagging_service.list_tags_for_resource(old)["Tags"]
        self.tagging_service.delete_all_tags_for_resource(old)
        self.tagging_service.tag_resource(made.arn, tags)

    def _same(
        self, there: FakeLoadBalancer, groups: list[str], mappings: list[dict[str, str]], more: Any
    ) -> FakeLoadBalancer:
        """The same again is the same load balancer; anything else of that name is refused."""
        same = (
            sorted(there.security_groups) == sorted(groups)
            and there.scheme == (more.get("scheme") or "internet-facing")
            and {subnet.id for subnet in there.subnets} == {mapping["SubnetId"] for mapping in mappings}
            and self._has_tags(there.arn, more.get("tags"))
        )
        if not same:
            raise _no("DuplicateLoadBalancerName", f"A load balancer with the name '{there.name}' exists already")
        return there

    def _has_tags(self, arn: str, tags: Iterable[Mapping[str, str]] | None) -> bool:
        have: dict[str, str] = self.tagging_service.get_tag_dict_for_resource(arn)
        return have == {tag["Key"]: tag["Value"] for tag in tags or ()}

    def _check_name(self, name: str) -> None:
        if not re.fullmatch(r"(?!internal-)(?!-)[A-Za-z0-9-]{1,32}(?<!-)", name):
            raise _no("ValidationError", f"The load balancer name '{name}' is not valid")

    def _check_security_groups(self, groups: Iterable[str]) -> None:
        for group in groups:
            if self.ec2_backend.get_security_group_from_id(group) is None:
                raise _no("InvalidSecurityGroup", f"Security group '{group}' does not exist")

    def _check_subnets(self, mappings: Sequence[Mapping[str, str]], family: str) -> None:
        subnets = [self.ec2_backend.get_subnet(mapping["SubnetId"]) for mapping in mappings]
        if len({subnet.availability_zone for subnet in subnets}) < len(subnets):
            raise _no("InvalidConfigurationRequest", "A load balancer cannot be attached to two subnets of one zone")
        if family == "dualstack" and not all(subnet.ipv6_cidr_block_association_set for subnet in subnets):
            raise _no("InvalidSubnet", "You must specify subnets with an associated IPv6 CIDR block")

    def _check_addresses(self, mappings: Iterable[Mapping[str, str]], mine: str) -> None:
        taken = {a.get("AllocationId") for arn, held in self.addresses.items() if arn != mine for a in held.values()}
        for mapping in mappings:
            allocation = mapping.get("AllocationId")
            if allocation and allocation in taken:
                raise _no("ResourceInUse", f"Elastic IP '{allocation}' is associated already")
            self._check_private(mapping, mine)
            if allocation and not any(a.allocation_id == allocation for a in self.ec2_backend.describe_addresses()):
                raise _no("AllocationIdNotFound", f"The allocation IDs '{allocation}' do not exist")

    def _check_private(self, mapping: Mapping[str, str], mine: str) -> None:
        address, subnet = mapping.get("PrivateIPv4Address"), self.ec2_backend.get_subnet(mapping["SubnetId"])
        others = (held for arn, held in self.addresses.items() if arn != mine)
        taken = {address.get("PrivateIPv4Address") for held in others for address in held.values()}
        if address and (address in taken or ip_address(address) not in ip_network(subnet.cidr_block)):
            raise _no("InvalidConfigurationRequest", f"Private address '{address}' is not free in {subnet.id}")

    def _hold(self, balancer: FakeLoadBalancer, mappings: Iterable[Mapping[str, str]]) -> None:
        """Remember static addresses, and say them wherever the load balancer is described."""
        held = {m["SubnetId"]: {k: m[k] for k in ("AllocationId", "PrivateIPv4Address") if m.get(k)} for m in mappings}
        self.addresses[balancer.arn] = held

        backend = self

        class Described(type(balancer)):  # type: ignore[misc]
            def activate(self) -> None:
                if not backend.provisioning:
                    super().activate()

            @property
            def availability_zones(self) -> list[AvailabilityZone]:
                return [_Zone(subnet, held.get(subnet.id, {})) for subnet in self.subnets]

        balancer.__class__ = Described

    def describe_load_balancers(self, arns: list[str], names: list[str]) -> list[FakeLoadBalancer]:
        there = {balancer.name for balancer in self.load_balancers.values()}
        if set(names or ()) - there or set(arns or ()) - self.load_balancers.keys():
            raise _no("LoadBalancerNotFound", f"One or more load balancers not found: {names or arns}")
        found = super().describe_load_balancers(arns, names)
        return found if arns or names else [balancer for balancer in found if self._sees(balancer.arn)]

    def delete_load_balancer(self, arn: str) -> None:
        balancer = self.load_balancers.get(arn)
        if balancer is not None and balancer.attrs.get("deletion_protection.enabled") == "true":
            raise _no("OperationNotPermitted", f"Load balancer '{arn}' has deletion protection")
        if balancer is not None:
            self.lingering |= dict.fromkeys(balancer.security_groups, self.linger)
        self.addresses.pop(arn, None)
        super().delete_load_balancer(arn)

    def set_security_groups(self, arn: str, sec_groups: list[str]) -> None:
        balancer = self.load_balancers.get(arn)
        if balancer is not None and bool(balancer.security_groups) != bool(sec_groups):
            raise _no("InvalidConfigurationRequest", "Security groups come with a load balancer or never")
        super().set_security_groups(arn, sec_groups)

    def set_ip_address_type(self, arn: str, ip_type: str) -> None:
        balancer = self.load_balancers.get(arn)
        if balancer is not None:
            self._check_subnets([{"SubnetId": subnet.id} for subnet in balancer.subnets], ip_type)
            for listener in balancer.listeners.values():
                self._check_family(ip_type, listener.protocol, [a.data for a in listener.default_actions])
        super().set_ip_address_type(arn, ip_type)

    def set_subnets(
        self, arn: str, subnets: list[str], subnet_mappings: list[dict[str, Any]]
    ) -> list[AvailabilityZone]:
        balancer = self.load_balancers.get(arn)
        if balancer is None:
            raise _no("LoadBalancerNotFound", f"Load balancer '{arn}' not found")
        mappings = [*({"SubnetId": subnet} for subnet in subnets), *subnet_mappings]
        self._check_subnets(mappings, balancer.ip_address_type)
        self._check_addresses(mappings, arn)
        self._check_swap(balancer, mappings)
        balancer.subnets = [self.ec2_backend.get_subnet(mapping["SubnetId"]) for mapping in mappings]
        self._hold(balancer, mappings)
        zones: list[AvailabilityZone] = balancer.availability_zones
        return zones

    def _check_swap(self, balancer: FakeLoadBalancer, mappings: Iterable[Mapping[str, str]]) -> None:
        zones = {subnet.availability_zone: subnet.id for subnet in balancer.subnets}
        for mapping in mappings:
            zone = self.ec2_backend.get_subnet(mapping["SubnetId"]).availability_zone
            if zones.get(zone, mapping["SubnetId"]) != mapping["SubnetId"]:
                raise _no("InvalidConfigurationRequest", f"Remove the old subnet of {zone} before you add the new one")

    # target groups

    def create_target_group(self, name: str, **asked: Any) -> FakeTargetGroup:
        """The same again is the same group; anything else of that name is refused."""
        self._check_health(asked, asked.get("protocol") or "")
        for group in self.target_groups.values():
            if group.name == name and self._is_same(group, asked):
                return group
        matcher = asked.pop("matcher", None)
        made = super().create_target_group(name, **asked)
        made.matcher = {"HttpCode": (matcher or {}).get("HttpCode", "200-399")} if _is_web(made) else None
        made.__class__ = _Group
        made.attributes = dict(_GROUP_DEFAULTS[made.protocol])
        self.unseen[made.arn] = self.lag
        return made

    def describe_target_groups(
        self, load_balancer_arn: Any, target_group_arns: Any, names: Any
    ) -> list[FakeTargetGroup]:
        found = super().describe_target_groups(load_balancer_arn, target_group_arns, names)
        asked = load_balancer_arn or target_group_arns or names
        return list(found) if asked else [group for group in found if self._sees(group.arn)]

    def _is_same(self, group: FakeTargetGroup, asked: Mapping[str, Any]) -> bool:
        have, want = (group.protocol, group.port, group.vpc_id), (asked["protocol"], asked["port"], asked["vpc_id"])
        same = [str(part) for part in have] == [str(part) for part in want]
        return same and self._has_tags(group.arn, asked.get("tags"))

    def modify_target_group(self, arn: str, *more: Any, **named: Any) -> FakeTargetGroup:
        names = ("healthcheck_protocol", "healthcheck_port", "", "healthcheck_interval_seconds",
                 "healthcheck_timeout_seconds", "healthy_threshold_count", "unhealthy_threshold_count", "codes")
        asked = dict(zip(names, more, strict=False))
        self._check_health(asked, "")
        group = super().modify_target_group(arn, *more, **named)
        group.matcher = {"HttpCode": asked["codes"] or (group.matcher or {}).get("HttpCode", "200-399")} \
            if _is_web(group) else None
        return group  # type: ignore[no-any-return]

    def _check_health(self, asked: Mapping[str, Any], protocol: str) -> None:
        """What AWS takes of a Network Load Balancer's health checks (CreateTargetGroup, API reference)."""
        if protocol not in ("", *_GROUP_DEFAULTS):
            raise _no("ValidationError", f"A network load balancer has no {protocol} target groups")
        if (asked.get("healthcheck_protocol") or "TCP") not in ("TCP", "HTTP", "HTTPS"):
            raise _no("ValidationError", "Health check protocol must be one of TCP, HTTP, HTTPS")
        port = asked.get("healthcheck_port") or "traffic-port"
        if port != "traffic-port" and not 0 < int(port) < 65536:
            raise _no("ValidationError", f"Health check port '{port}' must be 'traffic-port' or from 1 to 65535")
        for key, low, high in (("healthcheck_interval_seconds", 5, 300), ("healthcheck_timeout_seconds", 2, 120),
                               ("healthy_threshold_count", 2, 10), ("unhealthy_threshold_count", 2, 10)):
            if asked.get(key) is not None and not low <= int(asked[key]) <= high:
                raise _no("ValidationError", f"{key} must be from {low} to {high}")

    def modify_target_group_attributes(self, target_group_arn: str, attributes: dict[str, Any]) -> None:
        group = self.target_groups.get(target_group_arn)
        for key in attributes if group is not None else ():
            if key not in _GROUP_DEFAULTS[group.protocol]:
                raise _no("ValidationError", f"Target group attribute key '{key}' is not recognized")
        if group is not None and "UDP" in group.protocol and attributes.get("preserve_client_ip.enabled") == "false":
            raise _no("InvalidConfigurationRequest", "Client IP preservation cannot be disabled for UDP and TCP_UDP")
        super().modify_target_group_attributes(target_group_arn, attributes)

    def delete_target_group(self, target_group_arn: str) -> FakeTargetGroup | None:  # type: ignore[override]
        """Deleting what is gone is a success."""
        return super().delete_target_group(target_group_arn) if target_group_arn in self.target_groups else None

    def register_targets(self, target_group_arn: str, instances: list[Any]) -> None:
        group = self.target_groups.get(target_group_arn)
        for target in instances if group is not None else ():
            instance = self.ec2_backend.get_instance_by_id(target["Id"])
            if instance is None or instance.state != "running" or instance.vpc_id != group.vpc_id:
                raise _no("InvalidTarget", f"These targets are not running in the VPC: {target['Id']}")
            if group.ip_address_type == "ipv6" and not instance.nics[0].ipv6_addresses:
                raise _no("InvalidTarget", f"These targets have no primary IPv6 address: {target['Id']}")
        super().register_targets(target_group_arn, instances)

    # listeners

    def create_listener(
        self, load_balancer_arn: str, protocol: str, port: str, *more: Any, **named: Any
    ) -> FakeListener:
        balancer = self.load_balancers.get(load_balancer_arn)
        if balancer is not None and any(str(there.port) == str(port) for there in balancer.listeners.values()):
            raise _no("DuplicateListener", f"A listener already exists on port {port} for this load balancer")
        given = dict(zip(("ssl_policy", "certificate", "actions"), more, strict=False)) | named
        self._check_listener(load_balancer_arn, protocol, given["actions"], given.get("certificate"))
        if balancer is not None:
            self._check_family(balancer.ip_address_type, protocol, given["actions"])
        if protocol == "TLS" and given.get("ssl_policy") not in SSL_POLICIES:
            raise _no("SSLPolicyNotFound", f"SSL policy '{given.get('ssl_policy')}' not found")
        made = super().create_listener(load_balancer_arn, protocol, port, *more, **named)
        self.unseen[made.arn] = self.lag
        return made

    def _check_family(self, family: str, protocol: str, actions: Iterable[Any]) -> None:
        """IPv6 targets stand behind dual stack only; UDP there wants a prefix for source NAT, which we never give."""
        if family == "dualstack" and protocol in ("UDP", "TCP_UDP"):
            raise _no("InvalidConfigurationRequest", "UDP on dual stack needs EnablePrefixForIpv6SourceNat")
        groups = [self.target_groups[arn] for arn in _forwards(actions) if arn in self.target_groups]
        if family != "dualstack" and any(group.ip_address_type == "ipv6" for group in groups):
            raise _no("InvalidConfigurationRequest", "IPv6 target groups need a dual-stack load balancer")

    def _check_listener(self, balancer: str, protocol: str, actions: Iterable[Any], certificate: str | None) -> None:
        for arn in _forwards(actions):
            group = self.target_groups.get(arn)
            if group is None:
                raise _no("TargetGroupNotFound", f"Target group '{arn}' not found")
            if group.protocol not in LISTENS.get(protocol, ()):
                raise _no("IncompatibleProtocols", f"{protocol} listeners do not forward to {group.protocol} groups")
            if any(arn in _groups_of(other) for other in self.load_balancers.values() if other.arn != balancer):
                raise _no("TargetGroupAssociationLimit", f"Target group '{arn}' is behind another load balancer")
        if protocol == "TLS" and not certificate:
            raise _no("CertificateNotFound", "A TLS listener needs a certificate")
        if protocol == "TLS" and certificate and not self._certificate_exists(certificate):
            raise _no("CertificateNotFound", f"Certificate '{certificate}' not found")

    def modify_listener(self, arn: str, port: Any = None, protocol: Any = None, ssl_policy: Any = None,  # type: ignore[override]
                        certificates: Any = None, actions: Any = None) -> FakeListener:
        """moto knows HTTP and TCP only; a network load balancer's listeners change their protocol, too."""
        listener = self.describe_listeners(None, [arn])[0]
        wanted = protocol or listener.protocol
        default = certificates[0]["CertificateArn"] if certificates else listener.certificate
        if certificates and not self._certificate_exists(default):
            raise _no("CertificateNotFound", f"Certificate '{default}' not found")
        self._check_listener(listener.load_balancer_arn, wanted, actions or (), default if wanted == "TLS" else "none")
        changed = super().modify_listener(arn, port, None, ssl_policy, [], actions or [])
        changed.protocol = wanted
        if wanted == "TLS":
            changed.certificate, changed.certificates = default, [default, *changed.certificates[1:]]
        else:
            changed.certificate, changed.certificates = None, []
        return changed  # type: ignore[no-any-return]

    # tags

    def add_tags(self, resource_arns: list[str], tags: list[dict[str, str]]) -> None:
        """AWS takes 50 tags; moto stops at 10."""
        for arn in resource_arns:
            self._get_resource_by_arn(arn)
            if len(self.tagging_service.get_tag_dict_for_resource(arn).keys() | {tag["Key"] for tag in tags}) > 50:
                raise _no("TooManyTags", "A resource takes 50 tags")
            self.tagging_service.tag_resource(arn, tags)

    def describe_tags(self, resource_arns: list[str]) -> dict[str, dict[str, str]]:
        if len(resource_arns) > 20:
            raise _no("ValidationError", "DescribeTags takes 20 ARNs at the most")
        for arn in resource_arns:
            self._get_resource_by_arn(arn)
        return super().describe_tags(resource_arns)  # type: ignore[no-any-return]


_GROUP_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    protocol: {**group_defaults(protocol), "stickiness.type": "source_ip"}
    for protocol in ("TCP", "UDP", "TCP_UDP", "TLS")
}
"""The attributes of a target group of each protocol, as AWS would say them."""


def _is_web(group: FakeTargetGroup) -> bool:
    return group.health_check_protocol in ("HTTP", "HTTPS")


def _forwards(actions: Iterable[Any]) -> list[str]:
    return [action["TargetGroupArn"] for action in actions if action.get("TargetGroupArn")]


def _groups_of(balancer: FakeLoadBalancer) -> set[str]:
    actions = (action.data for listener in balancer.listeners.values() for action in listener.default_actions)
    return set(_forwards(actions))


class _Subnet(Subnet):
    """A subnet that tells its IPv6 ranges as AWS does."""

    @property
    def ipv6_cidr_block_association_set(self) -> list[dict[str, Any]]:
        found = self.ipv6_cidr_block_associations.values()
        return [{**said, "ipv6CidrBlockState": {"state": "associated"}} for said in found
                if said["ipv6CidrBlockState"]["State"] == "associated"]


class _Interface(NetworkInterface):
    """An interface whose first IPv6 address is its primary one."""

    @property
    def instance_ipv6_address_list(self) -> list[dict[str, Any]]:
        return [{"Ipv6Address": text, "IsPrimaryIpv6": text == self.ipv6_addresses[0]} for text in self.ipv6_addresses]


class StrictNetwork(EC2Backend):
    """moto's EC2, where a security group in use cannot be deleted and IPv6 ranges have to fit."""

    def create_subnet(self, *given: Any, **named: Any) -> Subnet:
        made = super().create_subnet(*given, **named)
        made.__class__ = _Subnet
        return made

    def associate_subnet_cidr_block(self, subnet_id: str, ipv6_cidr_block: str) -> dict[str, Any]:
        """A subnet's IPv6 range is a /64 of its VPC's, and nobody else's (VPC user guide, subnet sizing)."""
        wanted = ip_network(ipv6_cidr_block)
        subnets = [subnet for zone in self.subnets.values() for subnet in zone.values()]
        taken = [said["ipv6CidrBlock"] for s in subnets for said in s.ipv6_cidr_block_association_set]
        vpc = self.get_vpc(self.get_subnet(subnet_id).vpc_id)
        homes = [ip_network(said["ipv6CidrBlock"], strict=False) for said in vpc.ipv6_cidr_block_association_set]
        if wanted.prefixlen != 64 or not any(wanted.subnet_of(home) for home in homes):  # type: ignore[arg-type]
            raise EC2ClientError("InvalidSubnet.Range", f"The CIDR '{ipv6_cidr_block}' is invalid")
        if any(wanted.overlaps(ip_network(other)) for other in taken):
            raise EC2ClientError("InvalidSubnet.Conflict", f"The CIDR '{ipv6_cidr_block}' conflicts with another")
        made: dict[str, Any] = super().associate_subnet_cidr_block(subnet_id, ipv6_cidr_block)
        return made

    def give_primary_ipv6(self, instance: Any) -> None:
        """An address out of its subnet's range, for good."""
        interface = instance.nics[0]
        interface.__class__ = _Interface
        (said, *_) = interface.subnet.ipv6_cidr_block_association_set
        number = sum(bool(other.nics[0].ipv6_addresses) for other in self.all_instances())
        interface.ipv6_addresses = [str(ip_network(said["ipv6CidrBlock"])[16 + number])]

    def delete_security_group(self, name: str | None = None, group_id: str | None = None) -> None:
        if group_id and self._users(group_id):
            raise EC2ClientError("DependencyViolation", f"resource {group_id} has a dependent object")
        super().delete_security_group(name, group_id)

    def revoke_security_group_ingress(
        self, group_name_or_id: str, ip_protocol: str, from_port: str, to_port: str, ip_ranges: list[Any],
        source_groups: list[dict[str, Any]] | None = None, *more: Any, **named: Any,
    ) -> None:
        """A rule is known by what it lets through; moto would want its description, too."""
        group = self.get_security_group_by_name_or_id(group_name_or_id, named.get("vpc_id"))
        described = {
            rule.source_group["GroupId"]: rule.source_group
            for rule in (group.ingress_rules if group else ())
            if rule.source_group and (rule.ip_protocol, str(rule.from_port)) == (ip_protocol, str(from_port))
        }
        pairs = [{**pair, **described.get(pair.get("GroupId"), {})} for pair in source_groups or ()]
        super().revoke_security_group_ingress(
            group_name_or_id, ip_protocol, from_port, to_port, ip_ranges, pairs, *more, **named
        )

    def _users(self, group: str) -> bool:
        load_balancing = elbv2_backends[self.account_id][self.region_name]
        left = load_balancing.lingering.get(group, 0)
        if left > 0:
            load_balancing.lingering[group] = left - 1
            return True
        rules = (rule for other in _all_groups(self) if other.id != group for rule in other.ingress_rules)
        return (
            any(group in balancer.security_groups for balancer in load_balancing.load_balancers.values())
            or any(rule.source_group.get("GroupId") == group for rule in rules)
            or any(group == g.id for i in self.all_instances() if i.state == "running" for g in i.security_groups)
        )


# moto finds a service's addresses beside the module of its backend's class.
StrictLoadBalancing.__module__, StrictNetwork.__module__ = ELBv2Backend.__module__, EC2Backend.__module__


def _all_groups(network: EC2Backend) -> list[Any]:
    return [group for groups in list(network.groups.values()) for group in list(groups.values())]


# -- the wire --------------------------------------------------------------------------------------------------------


class Wire:
    """Between HTTP and moto: the tag index as AWS has it, and throttling as AWS does it."""

    def __init__(self, app: Callable[..., Iterable[bytes]], clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._clock = app, clock
        self._lock, self._serving = threading.Lock(), threading.Lock()
        self._hold_back = threading.Event()
        self._dropped: list[str] = []
        self._denied: frozenset[str] = frozenset()
        self.calm()
        self._levels: dict[str, tuple[float, float]] = {}
        self.buckets: Mapping[str, tuple[float, float]] = {}
        self.throttled: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.agents: set[str] = set()

    def throttle(self, seconds: float) -> None:
        """Say "Rate exceeded" to every writing call for so long."""
        self._throttled_until = self._clock() + seconds

    def delay(self, seconds: float) -> None:
        """Hold every call back for so long, from now on."""
        self._delay = seconds

    def drop(self, *operations: str) -> None:
        """Carry the next call of each of these operations out, and lose the answer."""
        self._dropped.extend(operations)

    def deny(self, *operations: str) -> None:
        """The role's policy lacks these operations from now on, and has all others."""
        self._denied = frozenset(operations)

    def calm(self) -> None:
        """No more throttling, delays or lost answers."""
        self._throttled_until, self._delay = float("-inf"), 0.0
        self._dropped.clear()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = _Body(body)
        region, service = _scope(environ.get("HTTP_AUTHORIZATION", ""))
        if service == "tagging":
            return self._tag_index(environ, start_response, region, body)
        asked = dict(parse_qsl(body.decode("utf-8", "replace")))
        operation = asked.get("Action", "")
        if operation in self._denied:
            return _answer(start_response, 403, _error(service, *_DENIED[service]), "text/xml")
        if operation == "SetSecurityGroups":
            _note_private_link(region, asked)
        name = {"elasticloadbalancing": "elbv2"}.get(service, service)
        with self._lock:
            self.sent[operation] += 1
            self.agents.add(environ.get("HTTP_USER_AGENT", ""))
            too_fast = self._is_too_fast(name, operation)
            self.throttled[operation] += too_fast
            lost = operation in self._dropped and not too_fast
            if lost:
                self._dropped.remove(operation)
        if too_fast:
            no = _error(service, *_BUSY[service])
            return _answer(start_response, 503 if service == "ec2" else 400, no, "text/xml")
        if self._delay:
            self._hold_back.wait(self._delay)
        if lost:
            self._answered(environ, _nothing)
            return _answer(start_response, 500, b"", "text/xml")
        return self._answered(environ, start_response)

    def _answered(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """moto's stores are not made for several threads; AWS answers each call from one state."""
        with self._serving:
            return list(self._app(environ, start_response))

    def _tag_index(
        self, environ: Mapping[str, Any], start_response: Callable[..., Any], region: str, body: bytes
    ) -> Iterable[bytes]:
        """The tag index speaks JSON, and has one operation."""
        self.agents.add(environ.get("HTTP_USER_AGENT", ""))
        self.sent["GetResources"] += 1
        if "GetResources" in self._denied:
            no = json.dumps({"__type": "AccessDeniedException", "message": "not authorized: tag:GetResources"})
            return _answer(start_response, 400, no.encode(), "application/x-amz-json-1.1")
        said = _resources(region, json.loads(body or b"{}"))
        return _answer(start_response, 200, said, "application/x-amz-json-1.1")

    def _is_too_fast(self, service: str, operation: str) -> bool:
        if self._clock() < self._throttled_until and not operation.startswith("Describe"):
            return True
        bucket = self.buckets.get(sort := category(service, operation))
        if bucket is None:
            return False
        size, refill = bucket
        level, at = self._levels.get(sort, (size, self._clock()))
        level = min(size, level + (self._clock() - at) * refill)
        self._levels[sort] = (level - 1 if level >= 1 else level, self._clock())
        return level < 1


def _nothing(_status: str, _headers: Any, _error: Any = None) -> Callable[[bytes], None]:
    """Takes an answer that nobody will hear."""
    return lambda _part: None


def _note_private_link(region: str, said: Mapping[str, str]) -> None:
    """moto does not keep it."""
    balancer = elbv2_backends[ACCOUNT][region].load_balancers.get(said.get("LoadBalancerArn", ""))
    wish = said.get("EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic")
    if balancer is not None and wish:
        balancer.enforce_security_group_inbound_rules_on_private_link_traffic = wish


class _Body:
    """A request's body that can be read (again)."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, size: int = -1) -> bytes:
        part, self._content = (self._content, b"") if size < 0 else (self._content[:size], self._content[size:])
        return part

    def readline(self, size: int = -1) -> bytes:
        return self.read(size)

    def __iter__(self) -> Iterator[bytes]:
        yield self.read()


def _scope(authorization: str) -> tuple[str, str]:
    """(region, service) of a signed request: `Credential=KEY/DATE/REGION/SERVICE/aws4_request`."""
    found = re.search(r"Credential=[^/]+/[^/]+/([^/]+)/([^/]+)/", authorization)
    return (found[1], found[2]) if found else ("", "")


def _resources(region: str, asked: Mapping[str, Any]) -> bytes:
    """GetResources of load balancing as AWS has it, listeners included; 100 at a time."""
    backend = elbv2_backends[ACCOUNT][region]
    listeners = [arn for balancer in list(backend.load_balancers.values()) for arn in list(balancer.listeners)]
    found = []
    everything = [*list(backend.load_balancers), *list(backend.target_groups), *listeners]
    for arn in [arn for arn in everything if backend._sees(arn)]:
        tags = backend.tagging_service.get_tag_dict_for_resource(arn)
        if all(tags.get(wish["Key"]) in wish["Values"] for wish in asked.get("TagFilters", ())):
            pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
            found.append({"ResourceARN": arn, "Tags": pairs})
    start, size = int(asked.get("PaginationToken") or 0), int(asked.get("ResourcesPerPage") or 50)
    following = str(start + size) if start + size < len(found) else ""
    return json.dumps({"ResourceTagMappingList": found[start:start + size], "PaginationToken": following}).encode()


_BUSY = {"ec2": ("RequestLimitExceeded", "Request limit exceeded."),
         "elasticloadbalancing": ("Throttling", "Rate exceeded")}
_DENIED = {"ec2": ("UnauthorizedOperation", "You are not authorized to perform this operation."),
           "elasticloadbalancing": ("AccessDenied", "You are not authorized to perform this operation.")}


def _error(service: str, code: str, message: str) -> bytes:
    """A no in the service's own shape."""
    said = f"<Code>{code}</Code><Message>{message}</Message>"
    if service == "ec2":
        return f"<Response><Errors><Error>{said}</Error></Errors><RequestID>0</RequestID></Response>".encode()
    return f"<ErrorResponse><Error><Type>Sender</Type>{said}</Error><RequestId>0</RequestId></ErrorResponse>".encode()


def _answer(start_response: Callable[..., Any], status: int, body: bytes, kind: str) -> Iterable[bytes]:
    start_response(f"{status} said", [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """One line per request would drown what the demo says."""


# -- the stand-in ----------------------------------------------------------------------------------------------------


class AwsStandin:
    """One region of AWS with a VPC, two public and two private subnets, and as many instances as asked for.

    wire   counts what was sent; `throttle(seconds)`, `buckets = BUCKETS`
    """

    def __init__(self) -> None:
        self.region = next(_REGIONS)
        self.settings: Mapping[str, str] = {}
        self._server: BaseWSGIServer | None = None
        self.wire: Wire
        self.vpc = ""
        self.subnets: dict[str, str] = {}
        self._instances: list[str] = []

    def start(self) -> None:
        """Listen, and lay the network."""
        if self._server is not None:
            return
        elb = elbv2_backends[ACCOUNT]
        dict.__setitem__(elb, self.region, StrictLoadBalancing(self.region, ACCOUNT))
        dict.__setitem__(ec2_backends[ACCOUNT], self.region, StrictNetwork(self.region, ACCOUNT))
        self.load_balancing._begin()
        self.wire = Wire(DomainDispatcherApplication(create_backend_app))
        self._server = make_server("127.0.0.1", 0, self.wire, threaded=True, request_handler=_Quiet)
        threading.Thread(target=self._server.serve_forever, name="aws-standin", daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._lay_network()
        self.settings = {
            "region": self.region, "vpc-id": self.vpc, "cluster-name": CLUSTER_NAME, "endpoint-url": self.endpoint,
        }

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def client(self, service: str) -> Any:
        """A boto3 client that speaks to this stand-in, for doing things by hand."""
        return boto3.client(service, region_name=self.region, endpoint_url=self.endpoint, **KEYS)  # type: ignore[call-overload]

    @property
    def load_balancing(self) -> StrictLoadBalancing:
        found: StrictLoadBalancing = elbv2_backends[ACCOUNT][self.region]
        return found

    @property
    def network(self) -> StrictNetwork:
        found: StrictNetwork = ec2_backends[ACCOUNT][self.region]
        return found

    def reset(self) -> None:
        """Forget load balancers, groups and addresses; keep VPC, subnets and the nodes' security group.

        Instances run on, as they would: whoever asks for nodes is told of the same ones again.
        """
        elb, network = self.load_balancing, self.network
        elb.load_balancers.clear()
        elb.target_groups.clear()
        elb._begin()
        for group in _all_groups(network):
            if group.id == self.node_group:
                group.ingress_rules.clear()
            elif group.name != "default":
                network.groups[self.vpc].pop(group.id, None)
        for instance in network.all_instances():
            if instance.state == "stopped":
                instance.start()
        self._instances = [instance.id for instance in network.all_instances() if instance.state == "running"]
        network.addresses.clear()
        for subnet in self.subnets.values():
            network.get_subnet(subnet).ipv6_cidr_block_associations.clear()
        for instance in network.all_instances():
            instance.nics[0].ipv6_addresses = []
        self.wire.deny()
        self.settle()

    def nodes(self, count: int) -> Sequence[Node]:
        """Instances as Kubernetes would say them, in the private subnets by turns."""
        missing = count - len(self._instances)
        ec2 = self.client("ec2")
        for number in range(len(self._instances), len(self._instances) + max(missing, 0)):
            made = ec2.run_instances(
                ImageId=IMAGE, MinCount=1, MaxCount=1, SecurityGroupIds=[self.node_group],
                SubnetId=self.subnets[f"private-{ZONES[number % len(ZONES)]}"],
                TagSpecifications=[{"ResourceType": "instance", "Tags": [_cluster_tag()]}],
            )
            self._instances.append(made["Instances"][0]["InstanceId"])
        return tuple(self._node(number, name) for number, name in enumerate(self._instances[:count], start=1))

    def _node(self, number: int, name: str) -> Node:
        instance = self.network.get_instance_by_id(name)
        zone = f"{self.region}{ZONES[(number - 1) % len(ZONES)]}"
        labels = {"topology.kubernetes.io/region": self.region, "topology.kubernetes.io/zone": zone}
        return Node(f"node-{number}", f"aws:///{zone}/{name}", labels, (ip_address(instance.private_ip),))

    def inventory(self) -> frozenset[str]:
        """Load balancers, listeners and groups of both sorts, each with its mark; rules on the nodes' group."""
        return frozenset(self._lines())

    def _lines(self) -> Iterator[str]:
        elb = self.load_balancing
        for balancer in list(elb.load_balancers.values()):
            yield f"load-balancer {balancer.name} ({balancer.scheme}) of {self._mark(balancer.arn)}"
            for listener in list(balancer.listeners.values()):
                yield f"listener {balancer.name}:{listener.port}/{listener.protocol} of {self._mark(listener.arn)}"
        for group in list(elb.target_groups.values()):
            yield f"target-group {group.name} of {self._mark(group.arn)}"
        for security in _all_groups(self.network):
            if security.id == self.node_group:
                yield from (f"node-rule {text}" for text in _rules(security))
            elif security.name != "default":
                tags = {tag["key"]: tag["value"] for tag in self.network.describe_tags({"resource-id": [security.id]})}
                yield f"security-group {security.name} of {tags.get(CLUSTER, 'nobody')} {tags.get(OWNER, '')}".rstrip()

    def _mark(self, arn: str) -> str:
        tags = self.load_balancing.tagging_service.get_tag_dict_for_resource(arn)
        return f"{tags.get(CLUSTER, 'nobody')} {tags.get(OWNER, '')}".rstrip()

    def plant_foreign(self) -> frozenset[str]:
        """A neighbour's load balancer, target group and security group, and a rule of the administrator's."""
        before = self.inventory()
        ec2, elb = self.client("ec2"), self.client("elbv2")
        theirs = [{"Key": OWNER, "Value": "laws/web"}, {"Key": "team", "Value": "neighbours"}]
        group = ec2.create_security_group(GroupName="lbctl-neighbour", Description="theirs", VpcId=self.vpc)["GroupId"]
        elb.create_load_balancer(Name="lbctl-neighbour", Type="network", Tags=theirs, SecurityGroups=[group],
                                 Subnets=[self.subnets["public-a"]])
        elb.create_target_group(Name="lbctl-neighbour", Protocol="TCP", Port=30080, VpcId=self.vpc, Tags=theirs,
                                HealthCheckTimeoutSeconds=5)
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.0/24"}]}
        ec2.authorize_security_group_ingress(GroupId=self.node_group, IpPermissions=[ssh])
        return self.inventory() - before

    def drift(self, resource: Resource) -> str | None:
        """Somebody changes it in the console."""
        damage = getattr(self, f"_drift_{resource.kind.replace('-', '_')}", None)
        done: str | None = damage(resource) if damage else None
        return done

    def _drift_listener(self, resource: Resource) -> str:
        self.client("elbv2").delete_listener(ListenerArn=resource.outputs["arn"])
        return f"the listener {resource.name} is deleted"

    def _drift_target_group(self, resource: Resource) -> str:
        self.client("elbv2").modify_target_group(TargetGroupArn=resource.outputs["arn"], HealthyThresholdCount=9)
        return f"the health check of {resource.name} asks for 9 successes"

    def _drift_load_balancer(self, resource: Resource) -> str:
        elb = self.client("elbv2")
        elb.add_tags(ResourceArns=[resource.outputs["arn"]], Tags=[{"Key": "by-hand", "Value": "yes"}])
        return f"the load balancer {resource.name} gets a tag"

    def _drift_security_group(self, resource: Resource) -> str:
        everything = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
        self.client("ec2").authorize_security_group_ingress(GroupId=resource.outputs["id"], IpPermissions=[everything])
        return f"the security group {resource.name} is opened to the world"

    def _drift_node_rule(self, resource: Resource) -> str:
        group = self.network.get_security_group_from_id(self.node_group)
        assert group is not None
        group.ingress_rules.clear()
        return "all rules of the nodes' security group are removed"

    def settle(self) -> None:
        """Interfaces are gone, load balancers are active, everything is listed, the wire is calm."""
        self.load_balancing.settled()
        self.wire.calm()

    def public(self) -> frozenset[str]:
        """The names of what the internet reaches."""
        found = self.load_balancing.load_balancers.values()
        return frozenset(balancer.dns_name for balancer in list(found) if balancer.scheme != "internal")

    def lay_ipv6(self, *subnets: str) -> None:
        """IPv6 ranges for these subnets (all, if none is named), and primary addresses for the instances in them."""
        ec2 = self.client("ec2")
        (vpc,) = ec2.describe_vpcs(VpcIds=[self.vpc])["Vpcs"]
        ranges = ip_network(vpc["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"], strict=False).subnets(new_prefix=64)
        for (name, subnet), network in zip(self.subnets.items(), ranges, strict=False):
            if not subnets or name in subnets:
                ec2.associate_subnet_cidr_block(SubnetId=subnet, Ipv6CidrBlock=str(network))
        for instance in self.network.all_instances():
            if self.network.get_subnet(instance.subnet_id).ipv6_cidr_block_association_set:
                self.network.give_primary_ipv6(instance)

    def certificate(self, name: str = "shop.example.com") -> str:
        """The ARN of a fresh certificate."""
        made: str = self.client("acm").request_certificate(DomainName=name)["CertificateArn"]
        return made

    def elastic_ip(self) -> str:
        """The allocation id of a fresh Elastic IP."""
        made: str = self.client("ec2").allocate_address(Domain="vpc")["AllocationId"]
        return made

    def _lay_network(self) -> None:
        ec2 = self.client("ec2")
        self.vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=self.vpc)
        table = ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
        for number, name in enumerate(f"{sort}-{zone}" for sort in ("public", "private") for zone in ZONES):
            self.subnets[name] = self._lay_subnet(ec2, name, number)
            if name.startswith("public"):
                ec2.associate_route_table(RouteTableId=table, SubnetId=self.subnets[name])
        made = ec2.create_security_group(GroupName="nodes", Description="the cluster's nodes", VpcId=self.vpc)
        self.node_group = made["GroupId"]
        ec2.create_tags(Resources=[self.node_group], Tags=[_cluster_tag()])

    def _lay_subnet(self, ec2: Any, name: str, number: int) -> str:
        role = "kubernetes.io/role/elb" if name.startswith("public") else "kubernetes.io/role/internal-elb"
        tags = [{"Key": "Name", "Value": name}, {"Key": role, "Value": "1"}, _cluster_tag()]
        made: str = ec2.create_subnet(
            VpcId=self.vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{self.region}{name[-1]}",
            TagSpecifications=[{"ResourceType": "subnet", "Tags": tags}],
        )["Subnet"]["SubnetId"]
        return made


def _cluster_tag() -> dict[str, str]:
    return {"Key": f"kubernetes.io/cluster/{CLUSTER_NAME}", "Value": "owned"}


def _rules(group: Any) -> Iterator[str]:
    for rule in list(group.ingress_rules):
        source = rule.ip_range.get("CidrIp") or rule.ip_range.get("CidrIpv6") or rule.source_group.get("GroupId")
        yield f"{rule.ip_protocol} {rule.from_port}-{rule.to_port} from {source or rule.prefix_list_id}"


def standin() -> AwsStandin:
    """A fresh one, not started yet."""
    return AwsStandin()
