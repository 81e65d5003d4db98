"""What desired must know of the network and the nodes' instances: `look.py` reads it.  PURE."""

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network

import msgspec

from lbctl.model import Key, Owner

UNKNOWN = "(known after apply)"
"""Stands in a preview for an id that only AWS knows."""


class Subnet(msgspec.Struct, frozen=True):
    """`public` says whether its route table leads to an internet gateway; None where no route table was read."""

    id: str
    zone: str
    cidr: IPv4Network | None = None
    cidrs6: tuple[IPv6Network, ...] = ()
    free: int = 0
    tags: Mapping[str, str] = {}
    public: bool | None = None

    @property
    def name(self) -> str:
        return self.tags.get("Name", "")


class Instance(msgspec.Struct, frozen=True):
    """A node's instance. `groups` are the security groups of its primary interface; `ipv6` says that this one has a
    primary IPv6 address, which IPv6 target groups want.
    """

    id: str
    vpc: str
    state: str
    groups: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    ipv6: bool = False


class Group(msgspec.Struct, frozen=True):
    """A security group of the VPC that is not ours. `tags` are the keys of its tags."""

    id: str
    name: str
    tags: frozenset[str] = frozenset()


class Address(msgspec.Struct, frozen=True):
    """An Elastic IP of the account."""

    allocation: str
    public_ip: str


class Facts(msgspec.Struct, frozen=True):
    """One look's facts.

    instances   by id; None for an id that EC2 does not know
    addresses   Elastic IPs, by allocation id and by address
    foreign     names that somebody else holds → why they are not ours ("not-ours", "ownership-lost",
                "other-installation"), and the command that would give them to us, with OWNER for whom
    holders     who holds a fixed name or an Elastic IP, among everybody's load balancers
    copied      this looks like a copy of the cluster that these load balancers belong to
    assumed     nobody asked AWS: whatever a Service names is taken to exist (`preview.py`)
    """

    vpc: str = ""
    subnets: tuple[Subnet, ...] = ()
    instances: Mapping[str, Instance | None] = {}
    groups: Mapping[str, Group] = {}
    addresses: Mapping[str, Address] = {}
    foreign: Mapping[Key, tuple[str, str]] = {}
    holders: Mapping[str, Owner] = {}
    copied: bool = False
    assumed: bool = False
