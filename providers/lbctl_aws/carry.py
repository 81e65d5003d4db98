"""Carrying out one change: a create, an update or a delete of one resource, in as few calls as AWS allows.

`provider.py` calls `Carrier.carry`. Every step may be repeated: what exists already is taken over if it carries our
mark, what is gone already is gone, and tags come with the creating call, so that nothing of ours is ever unmarked.
Nothing waits here: what is not ready yet is `Retry`, what somebody else changed meanwhile is `Unavailable`, so that
the next look is fresh.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from lbctl.errors import NotOurs, Refused, Retry, Unavailable
from lbctl.model import Resource
from lbctl.plan import Change
from lbctl_aws import normal
from lbctl_aws.annotations import LISTENER_ATTRIBUTES, LOAD_BALANCER_ATTRIBUTES
from lbctl_aws.api import Answer, Api, Told
from lbctl_aws.look import Look, Memory
from lbctl_aws.marks import UID, Mark
from lbctl_aws.resources import group_defaults

TARGETS_AT_ONCE = 200
"""Targets registered in one call."""

IN_USE_SECONDS = (2.0, 4.0, 8.0, 15.0, 30.0)
"""When to ask again for a security group that still has interfaces: a deleted load balancer's take a minute or two."""

Fields = Mapping[str, Any]


class Carrier:
    """Writes for one provider. Safe to use from several threads: each resource is in one lane only."""

    def __init__(self, api: Api, mark: Mark, look: Look) -> None:
        self._api, self._mark, self._look = api, mark, look
        self._in_use: dict[str, int] = {}
        self._steps: Mapping[tuple[str, str], Callable[[Change], Resource | None]] = {
            ("create", "security-group"): self._create_group,
            ("update", "security-group"): self._update_group,
            ("delete", "security-group"): self._delete_group,
            ("create", "backend-group"): self._create_group,
            ("update", "backend-group"): self._update_group,
            ("delete", "backend-group"): self._delete_group,
            ("create", "node-rule"): self._create_rule,
            ("delete", "node-rule"): self._delete_rule,
            ("create", "target-group"): self._create_targets,
            ("update", "target-group"): self._update_targets,
            ("delete", "target-group"): self._delete_targets,
            ("create", "load-balancer"): self._create_balancer,
            ("update", "load-balancer"): self._update_balancer,
            ("delete", "load-balancer"): self._delete_balancer,
            ("create", "listener"): self._create_listener,
            ("update", "listener"): self._update_listener,
            ("delete", "listener"): self._delete_listener,
        }

    @property
    def _memory(self) -> Memory:
        return self._look.memory

    def carry(self, change: Change) -> Resource | None:
        """What exists now, or None if it is gone. Raises lbctl's errors."""
        try:
            return self._steps[change.action, change.kind](change)
        except Unavailable:
            if change.before is not None:
                self._memory.forget(change.before.outputs.get("arn", ""))
            raise

    # -- security groups --------------------------------------------------------------------------------------------

    def _create_group(self, change: Change) -> Resource:
        want = _after(change)
        try:
            group = self._api.call(
                "ec2", "CreateSecurityGroup", told={"InvalidGroup.Duplicate"}, GroupName=want.name,
                Description=f"lbctl: {want.because}"[:255], VpcId=want.fields["vpc"],
                TagSpecifications=[{"ResourceType": "security-group", "Tags": _pairs(want.fields["tags"])}],
            )["GroupId"]
            have: tuple[str, ...] = ()
        except Told:
            group, have = self._our_group(want)
        self._set_rules(group, have, want.fields.get("rules", ()))
        return _made(want, id=group)

    def _our_group(self, want: Resource) -> tuple[str, tuple[str, ...]]:
        """(id, rules) of the group that has this name already. Raises `NotOurs`."""
        filters = [{"Name": "vpc-id", "Values": [want.fields["vpc"]]}, {"Name": "group-name", "Values": [want.name]}]
        for said in self._api.call("ec2", "DescribeSecurityGroups", Filters=filters).get("SecurityGroups", ()):
            self._check_ours(want, normal.tags_of(said.get("Tags", ())))
            return said["GroupId"], normal.rules_of(said) if want.kind == "security-group" else ()
        raise _changed(want)

    def _update_group(self, change: Change) -> Resource:
        want, have = _after(change), _before(change)
        group = have.outputs["id"]
        added, removed = _tag_changes(change)
        if added:
            self._api.call("ec2", "CreateTags", Resources=[group], Tags=_pairs(added))
        if "rules" in _changed_fields(change):
            self._set_rules(group, have.fields["rules"], want.fields["rules"])
        if removed:
            self._api.call("ec2", "DeleteTags", Resources=[group], Tags=[{"Key": key} for key in removed])
        return _made(want, **have.outputs)

    def _set_rules(self, group: str, have: Sequence[str], want: Sequence[str]) -> None:
        missing, surplus = sorted(set(want) - set(have)), sorted(set(have) - set(want))
        if missing:
            self._rules("AuthorizeSecurityGroupIngress", group, _permissions(missing), "InvalidPermission.Duplicate")
        if surplus:
            self._rules("RevokeSecurityGroupIngress", group, _permissions(surplus), "InvalidPermission.NotFound")

    def _rules(self, operation: str, group: str, permissions: list[dict[str, Any]], fine: str) -> None:
        """One call for all; where some are right already, AWS refuses the call, and each goes by itself."""
        try:
            self._api.call("ec2", operation, told={fine}, GroupId=group, IpPermissions=permissions)
        except Told:
            for permission in permissions if len(permissions) > 1 else ():
                self._rules(operation, group, [permission], fine)

    def _delete_group(self, change: Change) -> None:
        group = _before(change).outputs["id"]
        try:
            self._api.call("ec2", "DeleteSecurityGroup", GroupId=group,
                           told={"InvalidGroup.NotFound", "DependencyViolation", "InvalidGroup.InUse"})
        except Told as answer:
            if answer.code != "InvalidGroup.NotFound":
                tries = self._in_use[group] = self._in_use.get(group, 0) + 1
                raise Retry(
                    IN_USE_SECONDS[min(tries, len(IN_USE_SECONDS)) - 1],
                    f"security group {group} is still in use: AWS takes its interfaces away after the load balancer",
                    reason="security-group-in-use",
                ) from answer
        self._in_use.pop(group, None)

    # -- rules on the nodes' groups ---------------------------------------------------------------------------------

    def _create_rule(self, change: Change) -> Resource:
        want = _after(change)
        self._rules("AuthorizeSecurityGroupIngress", want.fields["group"],
                    [_node_permission(want.fields, "lbctl.io: load balancers to nodes")], "InvalidPermission.Duplicate")
        return _made(want)

    def _delete_rule(self, change: Change) -> None:
        fields = _before(change).fields
        told = {"InvalidPermission.NotFound", "InvalidGroup.NotFound"}
        try:
            self._api.call("ec2", "RevokeSecurityGroupIngress", told=told, GroupId=fields["group"],
                           IpPermissions=[_node_permission(fields)])
        except Told:
            return

    # -- target groups ----------------------------------------------------------------------------------------------

    def _create_targets(self, change: Change) -> Resource:
        want = _after(change)
        fields = want.fields
        try:
            said = self._api.call(
                "elbv2", "CreateTargetGroup", told={"DuplicateTargetGroupName"}, Name=want.name,
                Protocol=fields["protocol"], Port=fields["port"], VpcId=fields["vpc"], TargetType="instance",
                IpAddressType=fields["ip_address_type"], Tags=_pairs(fields["tags"]), **_health(fields["health_check"]),
            )["TargetGroups"][0]
        except Told:
            said = self._ours_by_name(want, "DescribeTargetGroups", "TargetGroups", "TargetGroupArn")
            self._api.call("elbv2", "ModifyTargetGroup", TargetGroupArn=said["TargetGroupArn"],
                           **_health(fields["health_check"]))
        arn = said["TargetGroupArn"]
        self._set_group_attributes(arn, fields["protocol"], fields["attributes"], {})
        self._register(arn, fields["targets"])
        return self._group_made(want, arn)

    def _update_targets(self, change: Change) -> Resource:
        want, have = _after(change), _before(change)
        arn, fields, differs = have.outputs["arn"], want.fields, _changed_fields(change)
        added, removed = _tag_changes(change)
        self._add_tags(want, arn, added)
        if "health_check" in differs:
            self._existing(want, "ModifyTargetGroup", TargetGroupArn=arn, **_health(fields["health_check"]))
        if "attributes" in differs:
            self._set_group_attributes(arn, fields["protocol"], fields["attributes"], have.fields["attributes"])
        if "targets" in differs:
            self._register(arn, sorted(set(fields["targets"]) - set(have.fields["targets"])))
            self._deregister(arn, sorted(set(have.fields["targets"]) - set(fields["targets"])))
        self._remove_tags(want, arn, removed)
        return self._group_made(want, arn)

    def _group_made(self, want: Resource, arn: str) -> Resource:
        self._memory.put(("targets", arn), (tuple(want.fields["targets"]), None))
        self._memory.put(("group", arn), dict(want.fields["attributes"]))
        return _made(want, arn=arn)

    def _set_group_attributes(self, arn: str, protocol: str, want: Fields, have: Fields) -> None:
        attributes = _with_defaults(want, have, group_defaults(protocol))
        if attributes.get("stickiness.enabled") == "true":
            attributes["stickiness.type"] = "source_ip"
        if attributes:
            self._api.call("elbv2", "ModifyTargetGroupAttributes", TargetGroupArn=arn, Attributes=_pairs(attributes))

    def _register(self, arn: str, targets: Sequence[str]) -> None:
        for start in range(0, len(targets), TARGETS_AT_ONCE):
            part = [_target(text) for text in targets[start:start + TARGETS_AT_ONCE]]
            try:
                self._api.call("elbv2", "RegisterTargets", told={"InvalidTarget", "TargetGroupNotFound"},
                               TargetGroupArn=arn, Targets=part)
            except Told as answer:
                self._look.forget_instances()
                raise Unavailable("a node's instance stopped, or its target group went, while lbctl registered it: "
                                  "lbctl looks again") from answer

    def _deregister(self, arn: str, targets: Sequence[str]) -> None:
        for start in range(0, len(targets), TARGETS_AT_ONCE):
            part = [_target(text) for text in targets[start:start + TARGETS_AT_ONCE]]
            try:
                self._api.call("elbv2", "DeregisterTargets", told={"InvalidTarget"}, TargetGroupArn=arn, Targets=part)
            except Told:
                # An instance that no longer exists is no longer registered either.
                continue

    def _delete_targets(self, change: Change) -> None:
        arn = _before(change).outputs["arn"]
        try:
            self._api.call("elbv2", "DeleteTargetGroup", told={"TargetGroupNotFound", "ResourceInUse"},
                           TargetGroupArn=arn)
        except Told as answer:
            if answer.code == "ResourceInUse":
                raise Retry(5.0, f"target group {change.name} is still behind a listener", reason="in-use") from answer
        self._memory.forget(arn)

    # -- load balancers ---------------------------------------------------------------------------------------------

    def _create_balancer(self, change: Change) -> Resource:
        want = _after(change)
        fields = want.fields
        try:
            said = self._api.call(
                "elbv2", "CreateLoadBalancer", told={"DuplicateLoadBalancerName"}, Name=want.name, Type="network",
                Scheme=fields["scheme"], IpAddressType=fields["ip_address_type"], Tags=_pairs(fields["tags"]),
                SubnetMappings=_mappings(fields["subnets"], fields["scheme"]), SecurityGroups=_groups(fields),
            )["LoadBalancers"][0]
        except Told as answer:
            self._ours_by_name(want, "DescribeLoadBalancers", "LoadBalancers", "LoadBalancerArn")
            raise _changed(want) from answer
        if fields["private_link"] != "on":
            self._set_groups(want, said["LoadBalancerArn"])
        self._set_balancer_attributes(said["LoadBalancerArn"], fields["attributes"], {})
        return self._balancer_made(want, normal.balancer_outputs(said))

    def _set_groups(self, want: Resource, arn: str) -> None:
        """The security groups, and whether their rules hold for PrivateLink, too: AWS takes both in one call."""
        self._existing(want, "SetSecurityGroups", LoadBalancerArn=arn, SecurityGroups=_groups(want.fields),
                       EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic=want.fields["private_link"])

    def _update_balancer(self, change: Change) -> Resource:
        want, have = _after(change), _before(change)
        arn, fields, differs = have.outputs["arn"], want.fields, _changed_fields(change)
        added, removed = _tag_changes(change)
        self._add_tags(want, arn, added)
        if "ip_address_type" in differs and fields["ip_address_type"] == "ipv4":
            self._existing(want, "SetIpAddressType", LoadBalancerArn=arn, IpAddressType="ipv4")
        if "subnets" in differs:
            self._set_subnets(want, have, arn)
        if "ip_address_type" in differs and fields["ip_address_type"] != "ipv4":
            self._existing(want, "SetIpAddressType", LoadBalancerArn=arn, IpAddressType=fields["ip_address_type"])
        if differs & {"security_groups", "backend_group", "private_link"}:
            self._set_groups(want, arn)
        if "attributes" in differs:
            self._set_balancer_attributes(arn, fields["attributes"], have.fields["attributes"])
        self._remove_tags(want, arn, removed)
        return self._balancer_made(want, have.outputs)

    def _set_subnets(self, want: Resource, have: Resource, arn: str) -> None:
        """AWS does not swap two subnets of one zone in one call: what goes, goes first."""
        old, new = have.fields["subnets"], want.fields["subnets"]
        staying = {subnet: text for subnet, text in new.items() if old.get(subnet) == text}
        zones = self._look.zones()
        coming, going = ({zones.get(subnet) for subnet in some.keys() - staying.keys()} for some in (new, old))
        crowded = coming & going
        if crowded and not staying:
            raise Refused(
                f"AWS cannot exchange every subnet of {want.name} at once: first name one of "
                f"{', '.join(sorted(old))} together with a new one of another zone", reason="subnets-cannot-swap",
            )
        if crowded:
            self._existing(want, "SetSubnets", LoadBalancerArn=arn,
                           SubnetMappings=_mappings(staying, want.fields["scheme"]))
        self._existing(want, "SetSubnets", LoadBalancerArn=arn, SubnetMappings=_mappings(new, want.fields["scheme"]))

    def _set_balancer_attributes(self, arn: str, want: Fields, have: Fields) -> None:
        attributes = _with_defaults(want, have, LOAD_BALANCER_ATTRIBUTES)
        if attributes.get("access_logs.s3.enabled") == "false":
            # A bucket cannot be emptied; it means nothing while logs are off.
            attributes = {key: value for key, value in attributes.items() if value}
        if attributes:
            self._api.call("elbv2", "ModifyLoadBalancerAttributes", LoadBalancerArn=arn, Attributes=_pairs(attributes))

    def _balancer_made(self, want: Resource, outputs: Mapping[str, Any]) -> Resource:
        self._memory.put(("balancer", outputs["arn"]), dict(want.fields["attributes"]))
        made = _made(want, **outputs)
        return msgspec.structs.replace(made, fields={**made.fields, "uid": made.fields["tags"].get(UID, "")})

    def _delete_balancer(self, change: Change) -> None:
        arn = _before(change).outputs["arn"]
        try:
            self._api.call("elbv2", "DeleteLoadBalancer", LoadBalancerArn=arn,
                           told={"LoadBalancerNotFound", "OperationNotPermitted", "ResourceInUse"})
        except Told as answer:
            if answer.code == "OperationNotPermitted":
                raise Refused(
                    f"load balancer {change.name} has deletion protection: take deletion_protection.enabled=true out "
                    f"of the annotation aws-load-balancer-attributes, or switch it off in AWS",
                    reason="deletion-protection",
                ) from answer
            if answer.code == "ResourceInUse":
                raise Refused(f"load balancer {change.name} is used by another AWS service (an endpoint service?): "
                              f"remove that first", reason="in-use") from answer
        self._memory.forget(arn)

    # -- listeners --------------------------------------------------------------------------------------------------

    def _create_listener(self, change: Change) -> Resource:
        want = _after(change)
        fields = want.fields
        try:
            said = self._api.call(
                "elbv2", "CreateListener", LoadBalancerArn=fields["load_balancer"], Port=fields["port"],
                told={"DuplicateListener", "CertificateNotFound", "LoadBalancerNotFound", "TargetGroupNotFound"},
                Tags=_pairs(fields["tags"]), **_speaks(fields),
            )["Listeners"][0]
        except Told as answer:
            if answer.code != "DuplicateListener":
                raise self._cannot_listen(want, answer) from answer
            said = self._take_listener(want)
        arn = said["ListenerArn"]
        self._set_certificates(arn, fields["certificates"][1:], ())
        self._set_listener_attributes(arn, fields["attributes"], {})
        return self._listener_made(want, said)

    def _take_listener(self, want: Resource) -> Answer:
        """The port of our load balancer is taken already: make that listener what it ought to be, and ours."""
        fields = want.fields
        for said in self._api.pages("elbv2", "DescribeListeners", "Listeners", LoadBalancerArn=fields["load_balancer"]):
            if said["Port"] == fields["port"]:
                self._add_tags(want, said["ListenerArn"], fields["tags"])
                modified = self._existing(want, "ModifyListener", ListenerArn=said["ListenerArn"], **_speaks(fields))
                taken: Answer = modified["Listeners"][0]
                return taken
        raise _changed(want)

    def _update_listener(self, change: Change) -> Resource:
        want, have = _after(change), _before(change)
        arn, fields, differs = have.outputs["arn"], want.fields, _changed_fields(change)
        added, removed = _tag_changes(change)
        self._add_tags(want, arn, added)
        said: Answer = {"ListenerArn": arn}
        if differs & {"protocol", "target_group", "tls_policy", "alpn"} or (
            fields["certificates"][:1] != have.fields["certificates"][:1]
        ):
            try:
                said = self._api.call("elbv2", "ModifyListener", told={"CertificateNotFound", "ListenerNotFound"},
                                      ListenerArn=arn, **_speaks(fields))["Listeners"][0]
            except Told as answer:
                raise self._cannot_listen(want, answer) from answer
        self._set_certificates(arn, fields["certificates"][1:], have.fields["certificates"][1:])
        if "attributes" in differs:
            self._set_listener_attributes(arn, fields["attributes"], have.fields["attributes"])
        self._remove_tags(want, arn, removed)
        return self._listener_made(want, said)

    def _cannot_listen(self, want: Resource, answer: Told) -> Exception:
        if answer.code == "CertificateNotFound":
            return Refused(f"AWS has no certificate {', '.join(want.fields['certificates'])}: correct "
                           f"aws-load-balancer-ssl-cert", reason="certificate-not-found")
        return _changed(want)

    def _set_certificates(self, arn: str, want: Sequence[str], have: Sequence[str]) -> None:
        """The certificates beside the default one."""
        for operation, arns in (("AddListenerCertificates", sorted(set(want) - set(have))),
                                ("RemoveListenerCertificates", sorted(set(have) - set(want)))):
            if arns:
                self._api.call("elbv2", operation, ListenerArn=arn,
                               Certificates=[{"CertificateArn": certificate} for certificate in arns])

    def _set_listener_attributes(self, arn: str, want: Fields, have: Fields) -> None:
        attributes = _with_defaults(want, have, LISTENER_ATTRIBUTES)
        if attributes:
            self._api.call("elbv2", "ModifyListenerAttributes", ListenerArn=arn, Attributes=_pairs(attributes))

    def _listener_made(self, want: Resource, said: Answer) -> Resource:
        arn = said["ListenerArn"]
        if "Port" in said:
            self._memory.put(("settings", arn), normal.listens(said))
        self._memory.put(("listener", arn), {"attributes": dict(want.fields["attributes"]),
                                             "certificates": tuple(want.fields["certificates"][1:])})
        return _made(want, arn=arn)

    def _delete_listener(self, change: Change) -> None:
        arn = _before(change).outputs["arn"]
        try:
            self._api.call("elbv2", "DeleteListener", told={"ListenerNotFound"}, ListenerArn=arn)
        except Told:
            pass
        finally:
            self._memory.forget(arn)

    # -- what load balancers, target groups and listeners have in common --------------------------------------------

    def _existing(self, want: Resource, operation: str, **parameters: Any) -> Answer:
        """A call about something that we saw: if it is gone, somebody else was faster, and the next look is fresh."""
        gone = {"LoadBalancerNotFound", "TargetGroupNotFound", "ListenerNotFound"}
        try:
            return self._api.call("elbv2", operation, told=gone, **parameters)
        except Told as answer:
            raise _changed(want) from answer

    def _add_tags(self, want: Resource, arn: str, tags: Mapping[str, str]) -> None:
        if tags:
            self._existing(want, "AddTags", ResourceArns=[arn], Tags=_pairs(tags))

    def _remove_tags(self, want: Resource, arn: str, keys: Sequence[str]) -> None:
        if keys:
            self._existing(want, "RemoveTags", ResourceArns=[arn], TagKeys=list(keys))

    def _ours_by_name(self, want: Resource, operation: str, key: str, arn: str) -> Answer:
        """What has the name already, if it carries our mark. Raises `NotOurs`."""
        said: Answer = self._existing(want, operation, Names=[want.name])[key][0]
        described = self._api.call("elbv2", "DescribeTags", ResourceArns=[said[arn]])["TagDescriptions"]
        self._check_ours(want, normal.tags_of(described[0].get("Tags", ()) if described else ()))
        return said

    def _check_ours(self, want: Resource, tags: Mapping[str, str]) -> None:
        if self._mark.why_not(tags):
            raise NotOurs(f"the {want.kind} {want.name} exists already and does not carry our mark: choose another "
                          f"name, or delete it")


# -- small translations ---------------------------------------------------------------------------------------------


def _after(change: Change) -> Resource:
    assert change.after is not None
    return change.after


def _before(change: Change) -> Resource:
    assert change.before is not None
    return change.before


def _made(want: Resource, **outputs: Any) -> Resource:
    return msgspec.structs.replace(want, outputs=outputs)


def _changed(want: Resource) -> Unavailable:
    return Unavailable(f"the {want.kind} {want.name} was changed by somebody else meanwhile: lbctl looks again")


def _changed_fields(change: Change) -> set[str]:
    return {diff.field for diff in change.diffs}


def _tag_changes(change: Change) -> tuple[dict[str, str], list[str]]:
    """(tags to set, keys to remove)."""
    want, have = _after(change).fields["tags"], _before(change).fields["tags"]
    return {key: value for key, value in want.items() if have.get(key) != value}, sorted(have.keys() - want.keys())


def _with_defaults(want: Fields, have: Fields, defaults: Mapping[str, str]) -> dict[str, str]:
    """What has to be said so that `have` becomes `want`: what is no longer wanted goes back to AWS's default."""
    gone = {key: defaults[key] for key in have if key not in want}
    return {**gone, **{key: value for key, value in want.items() if have.get(key) != value}}


def _pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def _groups(fields: Fields) -> list[str]:
    return [*fields["security_groups"], *([fields["backend_group"]] if fields["backend_group"] else [])]


def _mappings(subnets: Mapping[str, str], scheme: str) -> list[dict[str, str]]:
    static = "AllocationId" if scheme == "internet-facing" else "PrivateIPv4Address"
    return [{"SubnetId": subnet, **({static: text} if text else {})} for subnet, text in sorted(subnets.items())]


def _health(check: Fields) -> dict[str, Any]:
    path = {"HealthCheckPath": check["path"], "Matcher": {"HttpCode": check["codes"]}}
    web = path if check["protocol"] != "TCP" else {}
    return {
        "HealthCheckProtocol": check["protocol"],
        "HealthCheckPort": check["port"],
        "HealthCheckIntervalSeconds": check["interval"],
        "HealthCheckTimeoutSeconds": check["timeout"],
        "HealthyThresholdCount": check["healthy"],
        "UnhealthyThresholdCount": check["unhealthy"],
        **web,
    }


def _speaks(fields: Fields) -> dict[str, Any]:
    tls: dict[str, Any] = {}
    if fields["protocol"] == "TLS":
        tls = {"Certificates": [{"CertificateArn": fields["certificates"][0]}], "SslPolicy": fields["tls_policy"],
               "AlpnPolicy": [fields["alpn"]]}
    forward = [{"Type": "forward", "TargetGroupArn": fields["target_group"]}]
    return {"Protocol": fields["protocol"], "DefaultActions": forward, **tls}


def _target(text: str) -> dict[str, Any]:
    instance, _, port = text.partition(":")
    return {"Id": instance, "Port": int(port)} if port else {"Id": instance}


def _permissions(rules: Sequence[str]) -> list[dict[str, Any]]:
    """Rules as EC2 wants them: one permission per protocol and ports, with all its sources."""
    together: dict[str, list[str]] = {}
    for rule in rules:
        protocol, ports, source = rule.split(":", 2)
        together.setdefault(f"{protocol}:{ports}", []).append(source)
    return [_permission(where, sources) for where, sources in sorted(together.items())]


def _permission(where: str, sources: Sequence[str]) -> dict[str, Any]:
    protocol, _, ports = where.partition(":")
    said: dict[str, Any] = {"IpProtocol": protocol}
    if protocol != "-1":
        first, _, last = ports.rpartition("-") if ports.count("-") == 1 and ports[0] != "-" else (ports, "", ports)
        said |= {"FromPort": int(first), "ToPort": int(last)}
    for key, field, mine in (
        ("IpRanges", "CidrIp", [s for s in sources if "." in s and "/" in s and ":" not in s]),
        ("Ipv6Ranges", "CidrIpv6", [s for s in sources if ":" in s]),
        ("PrefixListIds", "PrefixListId", [s for s in sources if s.startswith("pl-")]),
        ("UserIdGroupPairs", "GroupId", [s for s in sources if s.startswith("sg-")]),
    ):
        if mine:
            said[key] = [{field: source} for source in mine]
    return said


def _node_permission(fields: Fields, description: str = "") -> dict[str, Any]:
    pair = {"GroupId": fields["source"], **({"Description": description} if description else {})}
    said = {"IpProtocol": fields["protocol"], "UserIdGroupPairs": [pair]}
    if fields["protocol"] != "-1":
        said |= {"FromPort": fields["from_port"], "ToPort": fields["to_port"]}
    return said
