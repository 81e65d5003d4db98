"""Reading AWS: everything that carries our mark, in pages, and the facts that desired needs.

`provider.py` calls `Look.everything` for a fresh look and `Look.facts` for every look. What AWS tells a page at a time
is read each time (load balancers, target groups, tags, security groups). What it tells one at a time is remembered:
targets and listeners are read once when first seen, attributes where a tag says that there are any, and all of them
again in turn, so that each is read within the hour at a fixed number of calls per audit.

At 500 Services of one port an audit costs some 40 pages and its share of the turn; the first look of a process costs
one call per target group more, for the targets, and one per 20 listeners: about 565 calls in all.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from itertools import chain
from sys import intern
from typing import Any, TypeVar

import msgspec

from lbctl.errors import CredentialsError
from lbctl.model import SHARED, Key, LoadBalancer, Owner, Resource
from lbctl.provider import Scope
from lbctl_aws import normal
from lbctl_aws.annotations import named_addresses
from lbctl_aws.api import Answer, Api, Told
from lbctl_aws.facts import Address, Facts, Group, Instance, Subnet
from lbctl_aws.marks import DETAILS, OWNER, Mark
from lbctl_aws.resources import NOTHING_UNUSUAL, backend_group_name
from lbctl_aws.settings import Settings, instance_id, missing
from lbctl_aws.subnets import CLUSTER_TAG

LISTENERS_AT_ONCE, TAGS_AT_ONCE, INSTANCES_AT_ONCE = 20, 20, 200
READERS = 4
"""Threads that read what AWS tells one at a time."""

QUEUED = 200
"""How many of these wait for a thread: what waits has its price in memory."""

HOUR = 3600.0

MOST_KEPT = 1000
"""Different answers that are remembered for being kept once."""

USUAL_LISTENER: Mapping[str, Any] = {"attributes": NOTHING_UNUSUAL, "certificates": ()}
USUAL: tuple[Mapping[str, Any], ...] = (NOTHING_UNUSUAL, USUAL_LISTENER)
"""The attributes of nearly everything, and what nearly every listener has beside its settings."""

GONE = frozenset({"TargetGroupNotFound", "LoadBalancerNotFound", "ListenerNotFound"})

Found = TypeVar("Found")

WHAT = ("targets", "settings", "group", "balancer", "listener", "foreign")
"""A group's targets, a listener's settings; the attributes of groups, load balancers and listeners; who is not ours."""

Detail = tuple[str, str]
"""(what, ARN)"""


class Memory:
    """What AWS tells one at a time, and when it was read. Own writes are put in as they happen.

    Most answers are alike (the same targets behind every group, no unusual attributes): equal ones are kept once.
    """

    def __init__(self) -> None:
        self._said: dict[str, dict[str, tuple[Any, datetime | None]]] = {what: {} for what in WHAT}
        self._once: dict[Hashable, tuple[Any, datetime | None]] = {}

    def __contains__(self, detail: Detail) -> bool:
        what, arn = detail
        return arn in self._said[what]

    def get(self, what: str, arn: str, default: Any = None) -> Any:
        return self._said[what].get(arn, (default, None))[0]

    def read_at(self, detail: Detail) -> datetime | None:
        """When AWS said it; None for what is not known but by our own writes."""
        what, arn = detail
        return self._said[what].get(arn, (None, None))[1]

    def of(self, what: str) -> list[str]:
        """The ARNs of which this is known."""
        return list(self._said[what])

    def put(self, detail: Detail, value: Any, at: datetime | None = None) -> None:
        what, arn = detail
        self._said[what][arn] = self._kept_once(value, at or self.read_at(detail))

    def forget(self, arn: str) -> None:
        for said in self._said.values():
            said.pop(arn, None)

    def keep(self, ours: Collection[str]) -> None:
        """Forget what is not ours any more, but not that others are foreign."""
        for what, said in self._said.items():
            for arn in [arn for arn in said if arn not in ours and what != "foreign"]:
                said.pop(arn, None)

    def _kept_once(self, value: Any, at: datetime | None) -> tuple[Any, datetime | None]:
        if len(self._once) > MOST_KEPT:
            self._once.clear()
        alike = next((usual for usual in USUAL if usual == value), value)
        if isinstance(alike, tuple):
            return self._once.setdefault((alike, at), (alike, at))
        return self._once.setdefault((id(alike), at), (alike, at)) if alike is not value else (value, at)


class Snapshot(msgspec.Struct):
    """The pages of one fresh look, before they become resources."""

    tags: dict[str, Mapping[str, str]] = {}
    balancers: dict[str, normal.Draft] = {}
    groups: dict[str, normal.Draft] = {}
    security_groups: list[Resource] = []
    foreign_groups: list[Answer] = []


class Look:
    """Reads for one provider. Planning is serial, so only one look is under way at a time."""

    def __init__(self, api: Api, settings: Settings, mark: Mark) -> None:
        self._api, self._settings, self._mark = api, settings, mark
        self.memory = Memory()
        self.vpc = settings.vpc_id
        self._subnets: tuple[Subnet, ...] = ()
        self._instances: dict[str, Instance | None] = {}
        self._groups: dict[str, Group] = {}
        self._addresses: dict[str, Address] = {}
        self._asked: set[str] = set()
        self._foreign: dict[Key, tuple[str, str]] = {}
        self._alike: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}
        self._recognised = False
        self._copied = False
        self._last: datetime | None = None

    # -- everything -------------------------------------------------------------------------------------------------

    def everything(self, scope: Scope, keep: Callable[[Resource], Resource]) -> list[Resource]:
        """All resources of ours. Raises rather than answer in part.

        What `keep` knows already is kept instead of its equal, so that a look that finds nothing new holds nothing new.
        """
        self._forget_facts()
        self._learn_instances(scope.load_balancers)
        snapshot = self._pages(scope.at)
        backends = [group.outputs["id"] for group in snapshot.security_groups if group.kind == "backend-group"]
        ours = {arn for arn, tags in snapshot.tags.items() if self._mark.is_ours(tags)}
        self._read_details(snapshot, ours, scope.at)
        rules = (rule for said in snapshot.foreign_groups for rule in normal.node_rules(said, backends))
        found = chain(self._elb(snapshot, ours, backends), snapshot.security_groups, rules)
        resources = [keep(resource) for resource in found]
        self._judge(resources)
        self._last, self._alike = scope.at, {}
        return resources

    def _pages(self, at: datetime) -> Snapshot:
        said = self._api.pages("elbv2", "DescribeLoadBalancers", "LoadBalancers", PageSize=400)
        balancers = {b["LoadBalancerArn"]: normal.balancer_draft(b) for b in said if self._is_here(b)}
        said = self._api.pages("elbv2", "DescribeTargetGroups", "TargetGroups", PageSize=400)
        groups = {g["TargetGroupArn"]: normal.group_draft(g) for g in said if self._is_here(g)}
        snapshot = Snapshot(self._tags(balancers, groups, at), balancers, groups)
        self._foreign, self._groups = {}, {}
        filters = [{"Name": "vpc-id", "Values": [self.vpc]}] if self.vpc else self._by_tag()
        said = self._api.pages("ec2", "DescribeSecurityGroups", "SecurityGroups", MaxResults=1000, Filters=filters)
        for group in said:
            self._security_group(group, snapshot)
        return snapshot

    def _is_here(self, said: Answer) -> bool:
        return not self.vpc or said.get("VpcId") == self.vpc

    def _by_tag(self) -> list[dict[str, Any]]:
        return [{"Name": "tag:lbctl.io/cluster", "Values": [self._mark.cluster_id]}]

    def _tags(
        self, balancers: Iterable[str], groups: Iterable[str], at: datetime
    ) -> dict[str, Mapping[str, str]]:
        """The tags of everything of ours, by ARN; and of what has our names but is not listed as ours (yet)."""
        try:
            pages = self._api.pages(
                "resourcegroupstaggingapi", "GetResources", "ResourceTagMappingList", ResourcesPerPage=100,
                TagFilters=[{"Key": "lbctl.io/cluster", "Values": [self._mark.cluster_id]}],
                ResourceTypeFilters=["elasticloadbalancing"],
            )
            tags = {intern(page["ResourceARN"]): self._said_tags(page) for page in pages}
        except CredentialsError as error:
            if error.reason != "permission":
                raise
            return self._tags_one_by_one(balancers, groups, at)
        # The tag index lags behind by some seconds: what it does not list and nobody knows is asked for by its ARN.
        unlisted = [arn for arn in (*balancers, *groups, *self.memory.of("settings"))
                    if arn not in tags and ("foreign", arn) not in self.memory]
        return {**tags, **self._described_tags(unlisted)}

    def _said_tags(self, said: Answer) -> Mapping[str, str]:
        """Its tags: the same mapping for all that carry the same, as the parts of one Service do."""
        tags = normal.tags_of(said.get("Tags", ()))
        return self._alike.setdefault(tuple(sorted(tags.items())), tags)

    def _tags_one_by_one(
        self, balancers: Iterable[str], groups: Iterable[str], at: datetime
    ) -> dict[str, Mapping[str, str]]:
        """Without permission for the tag index: the tags of everything, then the listeners of what is ours.

        A page of tags holds 20; every load balancer of ours costs one call more, which tells its listeners' settings.
        """
        tags = self._described_tags([*balancers, *groups])
        mine = [arn for arn in balancers if self._mark.is_ours(tags.get(arn, {}))]
        found = [said for part in _side_by_side([partial(self._listeners_of, arn) for arn in mine]) for said in part]
        for said in found:
            self.memory.put(("settings", said["ListenerArn"]), normal.listens(said), at)
        return {**tags, **self._described_tags([said["ListenerArn"] for said in found])}

    def _listeners_of(self, balancer: str) -> list[Answer]:
        try:
            return list(self._api.pages("elbv2", "DescribeListeners", "Listeners", told=GONE, LoadBalancerArn=balancer))
        except Told:
            # It went since the page was read.
            return []

    def _described_tags(self, arns: Sequence[str]) -> dict[str, Mapping[str, str]]:
        found: dict[str, Mapping[str, str]] = {}
        for part in _parts(arns, TAGS_AT_ONCE):
            for said in self._tag_descriptions(part):
                found[said["ResourceArn"]] = self._said_tags(said)
                if not self._mark.is_ours(found[said["ResourceArn"]]):
                    self.memory.put(("foreign", said["ResourceArn"]), True)
        return found

    def _tag_descriptions(self, arns: Sequence[str]) -> Iterable[Answer]:
        """One by one where one of them is gone: AWS refuses the whole call then."""
        try:
            yield from self._api.call("elbv2", "DescribeTags", told=GONE, ResourceArns=arns)["TagDescriptions"]
        except Told:
            for arn in arns if len(arns) > 1 else ():
                yield from self._tag_descriptions([arn])

    # -- what AWS tells one at a time -------------------------------------------------------------------------------

    def _read_details(self, snapshot: Snapshot, ours: set[str], at: datetime) -> None:
        """Read what was never read and has to be, and a fair share of the rest again."""
        listeners = ours - snapshot.balancers.keys() - snapshot.groups.keys()
        wanted: list[Detail] = []
        for arn in sorted(ours):
            wanted += self._details_of(arn, snapshot, listeners)
        self.memory.keep(ours)
        new = {d for d in wanted if d not in self.memory and self._must_be_read(d, snapshot)}
        self._read([*sorted(new), *self._in_turn([d for d in wanted if d not in new], at)], snapshot, at)

    def _details_of(self, arn: str, snapshot: Snapshot, listeners: set[str]) -> list[Detail]:
        if arn in snapshot.balancers:
            return [("balancer", arn)]
        if arn in snapshot.groups:
            return [("targets", arn), ("group", arn)]
        return [("settings", arn), ("listener", arn)] if arn in listeners else []

    def _must_be_read(self, detail: Detail, snapshot: Snapshot) -> bool:
        return detail[0] in ("targets", "settings") or DETAILS in snapshot.tags.get(detail[1], {})

    def _in_turn(self, details: list[Detail], at: datetime) -> list[Detail]:
        """Those read longest ago: so many that everything is read within the hour, within the budget."""
        passed = (at - self._last).total_seconds() if self._last else 0.0
        share = -(-len(details) * min(passed, HOUR) // HOUR)
        oldest = sorted(details, key=lambda d: (self.memory.read_at(d) is not None, self.memory.read_at(d) or at, d))
        sick = [detail for detail in oldest if self._is_sick(detail)]
        chosen = dict.fromkeys([*sick, *oldest[: int(share)]])
        return list(chosen)[: self._settings.audit_budget]

    def _is_sick(self, detail: Detail) -> bool:
        """No target was healthy when it was read last: worth another look in every audit."""
        what, arn = detail
        _, health = self.memory.get(what, arn, ((), None)) if what == "targets" else ((), None)
        return health is not None and health[0] == 0 < health[1]

    def _read(self, details: Sequence[Detail], snapshot: Snapshot, at: datetime) -> None:
        """What was read stays read, also if a later call fails: the next look goes on from there."""
        settings = [arn for what, arn in details if what == "settings"]
        jobs = [partial(self._read_listeners, part, at) for part in _parts(settings, LISTENERS_AT_ONCE)]
        jobs += [partial(self._read_one, detail, snapshot, at) for detail in details if detail[0] != "settings"]
        _side_by_side(jobs)

    def _read_listeners(self, arns: Sequence[str], at: datetime) -> None:
        try:
            found = list(self._api.call("elbv2", "DescribeListeners", told={"ListenerNotFound"}, ListenerArns=arns)
                         .get("Listeners", ()))
        except Told:
            # One of them is gone although the tag index still lists it.
            if len(arns) > 1:
                for arn in arns:
                    self._read_listeners([arn], at)
            else:
                self.memory.put(("settings", arns[0]), None, at)
            return
        for said in found:
            self.memory.put(("settings", intern(said["ListenerArn"])), normal.listens(said), at)

    def _read_one(self, detail: Detail, snapshot: Snapshot, at: datetime) -> None:
        what, arn = detail
        try:
            self.memory.put(detail, self._asked_for(what, arn, snapshot), at)
        except Told:
            self.memory.put(detail, _GONE_DETAIL.get(what, NOTHING_UNUSUAL), at)

    def _asked_for(self, what: str, arn: str, snapshot: Snapshot) -> Any:
        call = self._api.call
        if what == "targets":
            said = call("elbv2", "DescribeTargetHealth", told=GONE, TargetGroupArn=arn)
            return normal.registered(said.get("TargetHealthDescriptions", ()), snapshot.groups[arn].fields["port"])
        if what == "group":
            said = call("elbv2", "DescribeTargetGroupAttributes", told=GONE, TargetGroupArn=arn)
            return normal.unusual_of_group(said.get("Attributes", ()), snapshot.groups[arn].fields["protocol"])
        if what == "balancer":
            said = call("elbv2", "DescribeLoadBalancerAttributes", told=GONE, LoadBalancerArn=arn)
            return normal.unusual_of_balancer(said.get("Attributes", ()))
        said = call("elbv2", "DescribeListenerAttributes", told=GONE, ListenerArn=arn)
        more = call("elbv2", "DescribeListenerCertificates", told=GONE, ListenerArn=arn) if self._is_tls(arn) else {}
        certificates = tuple(c["CertificateArn"] for c in more.get("Certificates", ()) if not c.get("IsDefault"))
        return {"attributes": normal.unusual_of_listener(said.get("Attributes", ())), "certificates": certificates}

    def _is_tls(self, arn: str) -> bool:
        said: normal.Listens | None = self.memory.get("settings", arn)
        return said is not None and said.protocol == "TLS"

    # -- pages into resources ---------------------------------------------------------------------------------------

    def _elb(self, snapshot: Snapshot, ours: set[str], backends: Sequence[str]) -> Iterable[Resource]:
        known = self.memory.get
        backend = backends[0] if backends else ""
        for arn, draft in snapshot.balancers.items():
            tags = snapshot.tags.get(arn, {})
            if arn in ours:
                yield normal.load_balancer(draft, tags, known("balancer", arn, NOTHING_UNUSUAL), backend)
            else:
                self._note_foreign("load-balancer", draft.name, tags, arn)
        for arn, draft in snapshot.groups.items():
            tags = snapshot.tags.get(arn, {})
            if arn in ours:
                targets, health = known("targets", arn, ((), None))
                yield normal.target_group(draft, tags, known("group", arn, NOTHING_UNUSUAL), targets, health)
            else:
                self._note_foreign("target-group", draft.name, tags, arn)
        for arn in ours - snapshot.balancers.keys() - snapshot.groups.keys():
            said: normal.Listens | None = known("settings", arn)
            if said and said.load_balancer in snapshot.balancers:
                more = known("listener", arn, USUAL_LISTENER)
                name = snapshot.balancers[said.load_balancer].name
                yield normal.listener(said, arn, snapshot.tags[arn], more["attributes"], more["certificates"], name)

    def _security_group(self, said: Answer, snapshot: Snapshot) -> None:
        """Ours is a resource at once; of the others, what Services and rules may name."""
        tags = self._said_tags(said)
        if self._mark.is_ours(tags):
            make = normal.backend_group if tags[OWNER] == SHARED else normal.security_group
            snapshot.security_groups.append(make(said, tags))
            return
        snapshot.foreign_groups.append(said)
        self._groups[said["GroupId"]] = Group(said["GroupId"], said["GroupName"], frozenset(tags))
        for kind in ("security-group", "backend-group"):
            self._note_foreign(kind, said["GroupName"], tags, said["GroupId"])

    def _note_foreign(self, kind: str, name: str, tags: Mapping[str, str], thing: str) -> None:
        reason = self._mark.why_not(tags)
        if kind == "backend-group" and name != backend_group_name(self._mark):
            return
        self._foreign[kind, name] = (reason, self._command(thing))

    def _command(self, thing: str) -> str:
        """How an administrator gives the mark back; OWNER stands for whom."""
        tags = " ".join(f"Key={key},Value={value}" for key, value in self._mark.tags(Owner("OWNER")).items())
        if thing.startswith("sg-"):
            return f"aws ec2 create-tags --resources {thing} --tags {tags}"
        return f"aws elbv2 add-tags --resource-arns {thing} --tags {tags}"

    def _judge(self, resources: Iterable[Resource]) -> None:
        """Once: are these load balancers ours, or did somebody copy the cluster that they belong to?"""
        targets = {target for r in resources if r.kind == "target-group" for target in r.fields["targets"]}
        ours = {found.id for found in self._instances.values() if found is not None}
        if self._mark.take_over or not targets or targets & ours:
            self._recognised, self._copied = True, False
        elif not self._recognised and ours:
            self._copied = True

    # -- facts ------------------------------------------------------------------------------------------------------

    def facts(self, scope: Scope, holders: Mapping[str, Owner]) -> Facts:
        """What desired needs beside resources. Asks only for what is not known yet."""
        self._learn_instances(scope.load_balancers)
        if scope.load_balancers:
            self._learn_subnets()
            self._learn_addresses(scope.load_balancers)
        return Facts(self.vpc, self._subnets, self._instances, self._groups, self._addresses, self._foreign, holders,
                     self._copied)

    def zones(self) -> Mapping[str, str]:
        """The zone of every known subnet."""
        return {subnet.id: subnet.zone for subnet in self._subnets}

    def forget_instances(self) -> None:
        """An instance turned out to be gone: ask again."""
        self._instances = {}

    def _forget_facts(self) -> None:
        self._subnets, self._instances, self._addresses = (), {}, {}
        self._asked = set()

    def _learn_instances(self, load_balancers: Sequence[LoadBalancer]) -> None:
        seen: set[int] = set()
        unknown: dict[str, None] = {}
        for lb in load_balancers:
            if id(lb.nodes) not in seen:
                seen.add(id(lb.nodes))
                unknown.update((i, None) for node in lb.nodes if (i := instance_id(node)) not in self._instances and i)
        for part in _parts(list(unknown), INSTANCES_AT_ONCE):
            filters = [{"Name": "instance-id", "Values": part}]
            reservations = self._api.pages("ec2", "DescribeInstances", "Reservations", Filters=filters)
            found = {i.id: i for reservation in reservations for i in map(_instance, reservation["Instances"])}
            self._instances |= {name: found.get(name) for name in part}
        if not self.vpc:
            self._find_vpc(bool(load_balancers))

    def _find_vpc(self, needed: bool) -> None:
        """The VPC of most of the nodes' instances, else this machine's. Raises `SettingsError` where it is needed and
        nothing tells.
        """
        votes = sorted(i.vpc for i in self._instances.values() if i is not None and i.vpc)
        if votes:
            self.vpc = max(sorted(set(votes)), key=votes.count)
        elif needed:
            self.vpc = self._api.vpc_of_this_machine()
            if not self.vpc:
                raise missing("vpc-id")

    def _learn_subnets(self) -> None:
        if self._subnets or not self.vpc:
            return
        filters = [{"Name": "vpc-id", "Values": [self.vpc]}]
        found = [_subnet(s) for s in self._api.pages("ec2", "DescribeSubnets", "Subnets", Filters=filters)]
        tables = list(self._api.pages("ec2", "DescribeRouteTables", "RouteTables", Filters=filters))
        self._subnets = tuple(sorted(_routed(found, tables), key=lambda s: s.id))

    def _learn_addresses(self, load_balancers: Sequence[LoadBalancer]) -> None:
        """Elastic IPs that Services name, by allocation or by address."""
        asked = {text for lb in load_balancers for text in named_addresses(lb)} - self._asked
        if not asked:
            return
        self._asked |= asked
        for name, values in (("allocation-id", [a for a in asked if a.startswith("eipalloc-")]),
                             ("public-ip", [a for a in asked if not a.startswith("eipalloc-")])):
            for part in _parts(sorted(values), INSTANCES_AT_ONCE):
                said = self._api.call("ec2", "DescribeAddresses", Filters=[{"Name": name, "Values": part}])
                for found in said.get("Addresses", ()):
                    address = Address(found["AllocationId"], found["PublicIp"])
                    self._addresses |= {address.allocation: address, address.public_ip: address}


_GONE_DETAIL: Mapping[str, Any] = {"targets": ((), (0, 0)), "listener": USUAL_LISTENER}
"""What is remembered of what went while it was read: the next look does not list it."""


def _side_by_side(jobs: Sequence[Callable[[], Found]]) -> list[Found]:
    """The answers of all, in order; a few at a time. Raises what the first that failed raised."""
    if len(jobs) < READERS:
        return [job() for job in jobs]
    found: list[Found] = []
    with ThreadPoolExecutor(READERS, thread_name_prefix="aws-look") as pool:
        for start in range(0, len(jobs), QUEUED):
            found += [done.result() for done in [pool.submit(job) for job in jobs[start:start + QUEUED]]]
    return found


def _parts(items: Sequence[str], size: int) -> list[list[str]]:
    return [list(items[start:start + size]) for start in range(0, len(items), size)]


def _instance(said: Answer) -> Instance:
    primary = next((i for i in said.get("NetworkInterfaces", ()) if i["Attachment"].get("DeviceIndex") == 0), said)
    groups = primary.get("Groups") or said.get("SecurityGroups", ())
    ipv6 = any(address.get("IsPrimaryIpv6") for address in primary.get("Ipv6Addresses", ()))
    return Instance(said["InstanceId"], said.get("VpcId", ""), said["State"]["Name"],
                    tuple(sorted(group["GroupId"] for group in groups)),
                    frozenset(t["Key"] for t in said.get("Tags", ()) if t["Key"].startswith(CLUSTER_TAG)), ipv6)


def _subnet(said: Answer) -> Subnet:
    cidrs6 = tuple(IPv6Network(a["Ipv6CidrBlock"]) for a in said.get("Ipv6CidrBlockAssociationSet", ())
                   if a.get("Ipv6CidrBlockState", {}).get("State") == "associated")
    return Subnet(said["SubnetId"], said["AvailabilityZone"], IPv4Network(said["CidrBlock"]), cidrs6,
                  int(said.get("AvailableIpAddressCount", 0)), normal.tags_of(said.get("Tags", ())))


def _routed(subnets: Iterable[Subnet], tables: Iterable[Answer]) -> Iterable[Subnet]:
    """Each subnet with whether its route table, or else the VPC's main one, leads to an internet gateway."""
    explicit: dict[str, bool] = {}
    main = False
    for table in tables:
        public = any(route.get("GatewayId", "").startswith("igw-") for route in table.get("Routes", ()))
        for association in table.get("Associations", ()):
            if association.get("Main"):
                main = public
            elif "SubnetId" in association:
                explicit[association["SubnetId"]] = public
    return (msgspec.structs.replace(subnet, public=explicit.get(subnet.id, main)) for subnet in subnets)
