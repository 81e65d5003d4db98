"""What would be made in AWS, said without AWS: an empty cloud, and facts that are assumed.

`lbctl plan -f` asks it where nobody said whose cluster it is (`Plugin.preview`). Everything that can be refused without
a look at AWS is refused here, too, by the same code; needs neither the SDK, nor credentials, nor a network.
"""

from collections.abc import Hashable, Iterable, Sequence

from lbctl.errors import Refused, SettingsError
from lbctl.model import Ingress, LoadBalancer, Resource
from lbctl.plan import Change, Kind
from lbctl.provider import Desired, Harness, Observation, Scope
from lbctl_aws import resources
from lbctl_aws.annotations import named_addresses, options
from lbctl_aws.desired import desired
from lbctl_aws.facts import UNKNOWN, Address, Facts, Group, Instance
from lbctl_aws.marks import Mark
from lbctl_aws.resources import KINDS, Context
from lbctl_aws.settings import Settings, instance_id, parse


class AwsPreview:
    """`AwsProvider` for files alone: sees nothing, and carries nothing out."""

    name = "aws"
    kinds: tuple[Kind, ...] = KINDS
    claims = True

    def __init__(self, harness: Harness) -> None:
        self.settings = parse(harness.settings)
        self._mark = Mark(UNKNOWN)

    def observe(self, scope: Scope) -> Observation:
        return Observation(scope, facts={"facts": assumed(scope.load_balancers, self.settings)})

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        return desired(load_balancers, seen, Context(self.settings, self._mark, seen.facts["facts"]))

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        return resources.shares(load_balancer, self.settings)

    def adopts(self, status: Sequence[Ingress]) -> bool:
        return False

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        return [SettingsError("a preview cannot be carried out: give --cluster-id") for _ in changes]

    def assumptions(self) -> tuple[str, ...]:
        """What the plan rests on, in sentences."""
        known = {"region": self.settings.region, "VPC": self.settings.vpc_id}
        places = ", ".join(f"the {what} is {said or UNKNOWN}" for what, said in known.items())
        return (
            "AWS is not read, so all is planned as new, under names that the cluster's id will change: give "
            "--cluster-id, and credentials, to plan against what is there",
            f"{places}, as are the subnets and the nodes' security group",
            "subnets, security groups, Elastic IPs and certificates that annotations name are taken to exist",
        )


def assumed(load_balancers: Iterable[LoadBalancer], settings: Settings) -> Facts:
    """Facts in which the nodes run, and everything that a Service names is there."""
    vpc = settings.vpc_id or UNKNOWN
    instances: dict[str, Instance | None] = {}
    groups: dict[str, Group] = {}
    addresses: dict[str, Address] = {}
    for lb in load_balancers:
        found = (name for node in lb.nodes if (name := instance_id(node)))
        instances |= {name: Instance(name, vpc, "running", (UNKNOWN,), ipv6=True) for name in found}
        addresses |= {said: Address(said, said) for said in named_addresses(lb)}
        groups |= {said: Group(said, said) for said in _named_groups(lb)}
    return Facts(vpc, instances=instances, groups=groups, addresses=addresses, assumed=True)


def _named_groups(lb: LoadBalancer) -> tuple[str, ...]:
    try:
        return options(lb).security_groups
    except Refused:
        return ()
