"""Who else is there: the cluster's nodes and their speakers, as this node's speaker sees them.

`announcer.py` asks at every look. What the Leases say comes from the cluster; who lives is judged by what we observed
of their renewals ourselves, and by what the data plane hears on the wire.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address

import msgspec

from lbctl.cluster import Kubernetes, Object
from lbctl.errors import LbctlError
from lbctl.model import IPAddress
from lbctl_l2 import leases, members
from lbctl_l2.checks import Surroundings
from lbctl_l2.election import Claim, Member, NodeLink, preference
from lbctl_l2.leases import Said
from lbctl_l2.members import Alive
from lbctl_l2.options import Options
from lbctl_l2.values import Peer
from lbctl_l2.world import Plane, World, surroundings

log = logging.getLogger(__name__)

FEW = 3
"""Leases of parted nodes that one look deletes, at most."""


class Neighbours:
    """All nodes of the cluster, this one included.

    news   called when another look is worth it, on a watch's thread
    mine   what this node's Lease says, or is about to
    """

    def __init__(
        self,
        kubernetes: Kubernetes,
        chosen: Options,
        world: World,
        plane: Plane,
        news: Callable[[], None],
        mine: Callable[[], Said],
    ) -> None:
        self._kubernetes, self._options, self._world, self._plane = kubernetes, chosen, world, plane
        self._news, self._mine = news, mine
        self._lock = threading.Lock()
        self._leases: dict[str, Object] = {}
        self._tidies_after = float("-inf")
        self.observed = leases.Observed()

    def start(self) -> None:
        """Follow Leases and nodes."""
        self._kubernetes.follow(leases.watch(self._kubernetes.home), self._lease_changed)
        self._kubernetes.follow_nodes(self._news)

    def members(self, wanted: Iterable[Claim]) -> tuple[Member, ...]:
        """Everybody as of now. That this node lives it knows best."""
        found = members.members(self._kubernetes.nodes(), self._said(), self._alive(), self._options.drain_on, wanted)
        me = self._options.node
        return self._with_heard([self._myself(member) if member.name == me else member for member in found])

    def peers(self, roll: Iterable[Member]) -> tuple[Peer, ...]:
        """The other speakers, as the data plane knows them."""
        return members.peers(roll, self._said(), self._options.node)

    def surroundings(self, pool_of: Callable[[IPAddress], str]) -> Surroundings:
        """What is where this node is, the addresses of all nodes too."""
        nodes = frozenset(address for node in self._kubernetes.nodes() for address in node.addresses)
        return surroundings(self._world, self._options, nodes, pool_of)

    def tidy(self, roll: Iterable[Member]) -> None:
        """Delete a few Leases of nodes that have left the cluster: each falls to one of the speakers that live.

        A node that comes back meanwhile has renewed its Lease, so that it is another version, which stays.
        """
        now = self._world.monotonic()
        living = tuple(sorted(member.name for member in roll if member.speaks and member.alive))
        nodes = frozenset(node.name for node in self._kubernetes.nodes())
        if now < self._tidies_after or self._options.node not in nodes.intersection(living):
            return
        with self._lock:
            found = sorted(self._leases.values(), key=lambda lease: lease.name)
        kept = frozenset(map(leases.name, nodes))
        old = (lease for lease in found if leases.abandoned(lease, kept, self.observed))
        mine = [lease for lease in old if preference(lease.name, living)[0] == self._options.node]
        try:
            for lease in mine[:FEW]:
                self._delete(lease)
        except LbctlError as error:
            self._tidies_after = now + leases.FORGOTTEN
            log.warning("Leases of nodes that are gone cannot be deleted", extra={"error": str(error)})

    def _delete(self, lease: Object) -> None:
        try:
            self._kubernetes.delete(leases.watch(self._kubernetes.home), lease)
        except LbctlError as error:
            if error.reason not in ("NotFound", "Conflict"):
                raise
            return
        log.info("deleted the Lease of a node that is gone", extra={"lease": lease.name})

    def _said(self) -> dict[str, Said]:
        with self._lock:
            return members.said(tuple(self._leases.values()))

    def _myself(self, member: Member) -> Member:
        said = self._mine()
        return msgspec.structs.replace(
            member, speaks=True, alive=True, settled=said.facts.settled, founds=said.facts.founds,
            links=tuple(NodeLink(link.name, link.networks) for link in said.facts.links), announces=said.announcing,
            gives={ip_address(text): heir for text, heir in said.facts.gives.items()}, last_good=said.facts.last_good,
        )  # fmt: skip

    def _with_heard(self, found: Sequence[Member]) -> tuple[Member, ...]:
        """What somebody was heard announcing and no Lease lists yet: it is his.

        A Lease is a second behind the wire. Who elected somebody else meanwhile would take the address away again.
        """
        report = self._plane.report()
        listed = set[IPAddress]().union(*(member.announces for member in found))
        heard: dict[str, dict[IPAddress, float]] = {}
        for item in report.addresses if report is not None else ():
            if item.holder and item.address not in listed:
                heard.setdefault(item.holder, {})[item.address] = 0.0
        return tuple(
            msgspec.structs.replace(member, announces={**heard[member.name], **member.announces})
            if member.name in heard else member
            for member in found
        )  # fmt: skip

    def _alive(self) -> Alive:
        """By its Lease as we observed it, or because it is heard on the wire."""
        report = self._plane.report()
        heard = {peer.name for peer in report.peers if peer.alive and peer.shared} if report else set()

        def judge(node: str, _said: Said) -> tuple[bool, bool]:
            age = self.observed.age(node)
            return node in heard or age < leases.FORGOTTEN, node in heard or age < leases.LASTS

        return judge

    def _lease_changed(self, before: Object | None, now: Object | None) -> None:
        """A renewal is no news, nor is our own; what else it says is. A Lease that is known has been observed."""
        if now is not None:
            self._keep(now)
        elif before is not None:
            self._drop(before)
        lease = now or before
        if leases.is_news(before, now) and lease is not None and lease.name != leases.name(self._options.node):
            self._news()

    def _keep(self, lease: Object) -> None:
        for node in members.said([lease]):
            self.observed.note(node, lease.version, self._world.monotonic())
        with self._lock:
            self._leases[lease.name] = lease

    def _drop(self, lease: Object) -> None:
        with self._lock:
            self._leases.pop(lease.name, None)
        for node in members.said([lease]):
            self.observed.forget(node)
