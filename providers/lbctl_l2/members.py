"""The cluster read as an election needs it: nodes and Leases made into a roll.  PURE.

The speaker judges the Leases by what it observed itself, the command line and the controller by the clocks; all build
the same `election.Roll` of it.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_address

from lbctl.cluster import Object
from lbctl.model import Node
from lbctl_l2 import leases
from lbctl_l2.election import Claim, Member, NodeLink
from lbctl_l2.leases import DrainOn, Facts, Said
from lbctl_l2.values import Peer, PeerLink

Alive = Callable[[str, Said], tuple[bool, bool]]
"""(is its speaker there at all, does it live): of a node with a Lease that is held."""


def said(found: Iterable[Object]) -> dict[str, Said]:
    """What the Leases say, by node."""
    told = (_said(lease) for lease in found)
    return {item.facts.node: item for item in told if item is not None and item.facts.node}


def _said(lease: Object) -> Said | None:
    known = _decoded(lease.annotations.get(leases.SPEAKER, ""), lease.annotations.get(leases.ANNOUNCING, "{}"))
    return None if known is None else leases.with_spec(known, lease)


@lru_cache(maxsize=512)
def _decoded(speaker: str, announcing: str) -> Said | None:
    """Annotations seldom change, renewals come all the time."""
    return leases.decode(Object("", annotations={leases.SPEAKER: speaker, leases.ANNOUNCING: announcing}))


def by_clock(now: datetime) -> Alive:
    """For who looks only once."""

    def judge(_node: str, item: Said) -> tuple[bool, bool]:
        age = (now - item.renewed).total_seconds() if item.renewed else float("inf")
        return age < leases.FORGOTTEN, age < leases.LASTS

    return judge


def members(
    nodes: Iterable[Node], told: Mapping[str, Said], alive: Alive, drain_on: DrainOn, wanted: Iterable[Claim]
) -> tuple[Member, ...]:
    """Every node of the cluster. A Lease of a node that is gone counts for nothing."""
    busy = frozenset(name for claim in wanted for name in claim.endpoints) if drain_on == "drain" else frozenset()
    return tuple(_member(node, told.get(node.name), alive, drain_on, busy) for node in nodes)


def _member(node: Node, item: Said | None, alive: Alive, drain_on: DrainOn, busy: frozenset[str]) -> Member:
    there, lives = alive(node.name, item) if item is not None and item.held else (False, False)
    facts = item.facts if item is not None else Facts(node.name)
    return Member(
        node.name,
        labels=node.labels,
        speaks=there,
        alive=lives,
        settled=facts.settled,
        founds=facts.founds,
        excluded=node.excluded,
        network_unavailable=node.network_unavailable,
        draining=_draining(node, drain_on, busy),
        links=None if item is None else tuple(NodeLink(link.name, link.networks) for link in facts.links),
        announces={} if item is None else item.announcing,
        gives={ip_address(text): heir for text, heir in facts.gives.items()},
        last_good=facts.last_good,
    )


def _draining(node: Node, drain_on: DrainOn, busy: frozenset[str]) -> bool:
    return node.cordoned and (drain_on == "cordon" or (drain_on == "drain" and node.name not in busy))


def peers(roll: Iterable[Member], told: Mapping[str, Said], me: str) -> tuple[Peer, ...]:
    """The other speakers, as the data plane knows them."""
    return tuple(
        Peer(member.name, tuple(map(_link, told[member.name].facts.links)))
        for member in sorted(roll, key=lambda member: member.name)
        if member.speaks and member.name != me and member.name in told
    )


def _link(link: leases.SaidLink) -> PeerLink:
    return PeerLink(link.name, leases.read(link.mac), link.networks)
