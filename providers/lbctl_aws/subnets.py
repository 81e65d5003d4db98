"""Which subnets a load balancer stands in, and with which addresses.  PURE.

Named subnets come first; then those where it already stands; then discovery as both peers do it: by role tag, else by
the way to the internet, one per zone, ours before unmarked ones.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network

from lbctl.errors import Refused
from lbctl.model import IPAddress, Scheme
from lbctl_aws.facts import UNKNOWN, Facts, Subnet

ROLES = {"internet-facing": "kubernetes.io/role/elb", "internal": "kubernetes.io/role/internal-elb"}
CLUSTER_TAG = "kubernetes.io/cluster/"
LEAST_FREE = 8
"""Free addresses that AWS wants in a subnet of an internet-facing load balancer."""


def named(facts: Facts, names: Sequence[str], *, dualstack: bool) -> tuple[Subnet, ...]:
    """The subnets of these ids or Name tags, in that order. Raises `Refused`."""
    chosen = tuple(_named(facts, name) for name in names)
    zones = [subnet.zone for subnet in chosen]
    if len(set(zones)) < len(zones):
        twice = ", ".join(f"{subnet.id} in {subnet.zone}" for subnet in chosen)
        raise Refused(f"AWS takes one subnet per zone, asked for are {twice}: remove one", reason="subnet-zone")
    check_family(chosen, dualstack=dualstack)
    return chosen


def assumed(names: Sequence[str], count: int) -> tuple[Subnet, ...]:
    """The subnets of a preview: those named, else so many that nobody knows yet; each in a zone of its own."""
    ids = names or [UNKNOWN, *(f"{UNKNOWN} {number}" for number in range(2, count + 1))]
    return tuple(Subnet(name, zone=name, cidr=IPv4Network("0.0.0.0/0")) for name in ids)


def check_family(chosen: Iterable[Subnet], *, dualstack: bool) -> None:
    """Raises `Refused` where dual stack is asked for in subnets without IPv6."""
    without = [subnet.id for subnet in chosen if dualstack and not subnet.cidrs6]
    if without:
        raise Refused(
            f"subnet {', '.join(without)} has no IPv6 range, which ip-address-type: dualstack needs: associate one, or "
            f"name other subnets in aws-load-balancer-subnets", reason="subnet-ipv6",
        )


def discovered(facts: Facts, scheme: Scheme, cluster_name: str, *, dualstack: bool) -> tuple[Subnet, ...]:
    """One subnet per zone, sorted by zone. Raises `Refused` where there is none."""
    tagged = [s for s in facts.subnets if s.tags.get(ROLES[scheme]) in ("", "1")]
    reachable = [s for s in facts.subnets if s.public is (scheme == "internet-facing")]
    fitting = [
        subnet for subnet in tagged or reachable
        if _is_for(subnet, cluster_name) and subnet.free >= LEAST_FREE and (subnet.cidrs6 or not dualstack)
    ]
    own = CLUSTER_TAG + cluster_name
    best: dict[str, Subnet] = {}
    for subnet in sorted(fitting, key=lambda s: (s.zone, own not in s.tags, s.id)):
        best.setdefault(subnet.zone, subnet)
    if not best:
        also = " and an IPv6 range (ip-address-type: dualstack)" if dualstack else ""
        raise Refused(
            f"no subnet of {facts.vpc or 'the VPC'} fits an {scheme} load balancer: it needs {LEAST_FREE} free "
            f"addresses{also}; tag one per zone with {ROLES[scheme]}=1, or name them in aws-load-balancer-subnets",
            reason="no-subnets",
        )
    return tuple(best.values())


def by_id(facts: Facts, ids: Iterable[str]) -> tuple[Subnet, ...]:
    """The known subnets among these, sorted by zone."""
    wanted = set(ids)
    return tuple(sorted((s for s in facts.subnets if s.id in wanted), key=lambda s: (s.zone, s.id)))


def with_addresses(chosen: Sequence[Subnet], addresses: Sequence[IPAddress], *, fewer: bool) -> dict[str, str]:
    """Each subnet's private address. With `fewer`, subnets without one are left out. Raises `Refused`."""
    placed: dict[str, str] = {}
    for address in addresses:
        home = next((s for s in chosen if s.cidr and address in s.cidr and s.id not in placed), None)
        if home is None:
            raise Refused(
                f"private address {address} lies in none of the free subnets {', '.join(s.id for s in chosen)}: "
                f"choose one address in each subnet", reason="private-address",
            )
        placed[home.id] = str(address)
    if len(placed) < len(chosen) and not fewer:
        raise Refused(
            f"{len(addresses)} private addresses do not fit {len(chosen)} subnets: give one per subnet, or name "
            f"fewer in aws-load-balancer-subnets", reason="private-address",
        )
    return placed


def with_allocations(chosen: Sequence[Subnet], allocations: Sequence[str], *, fewer: bool) -> dict[str, str]:
    """Each subnet's Elastic IP, in order. With `fewer`, as many subnets as addresses are taken. Raises `Refused`."""
    if len(allocations) > len(chosen) or (len(allocations) < len(chosen) and not fewer):
        raise Refused(
            f"{len(allocations)} Elastic IPs (eip-allocations) do not fit {len(chosen)} subnets "
            f"({', '.join(s.id for s in chosen)}): give one per subnet, or name the subnets in "
            f"aws-load-balancer-subnets", reason="eip-count",
        )
    return {subnet.id: allocation for subnet, allocation in zip(chosen, allocations, strict=False)}


def _named(facts: Facts, name: str) -> Subnet:
    found = [subnet for subnet in facts.subnets if name in (subnet.id, subnet.name)]
    if len(found) == 1:
        return found[0]
    seen = "is not in" if not found else f"names {len(found)} subnets of"
    raise Refused(
        f"subnet {name[:80]!r} {seen} {facts.vpc or 'the VPC'}: correct aws-load-balancer-subnets",
        reason="subnet-not-found",
    )


def _is_for(subnet: Subnet, cluster_name: str) -> bool:
    """Not tagged for other clusters only."""
    clusters = {key.removeprefix(CLUSTER_TAG) for key in subnet.tags if key.startswith(CLUSTER_TAG)}
    return not clusters or cluster_name in clusters
