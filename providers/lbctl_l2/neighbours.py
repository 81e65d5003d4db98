"""Who else is there: the cluster's nodes and their speakers, as this node's speaker sees them.

`announcer.py` asks at every look. What the Leases say comes from the cluster; who lives is judged by what we observed
of their renewals ourselves, and by what the data plane hears on the wire.
"""

import threading
from collections.abc import Callable, Iterable

import msgspec

from lbctl.cluster import Kubernetes, Object
from lbctl.model import IPAddress
from lbctl_l2 import leases, members
from lbctl_l2.checks import Surroundings
from lbctl_l2.election import Claim, Member, NodeLink
from lbctl_l2.leases import Facts, Said
from lbctl_l2.members import Alive
from lbctl_l2.options import Options
from lbctl_l2.values import Peer
from lbctl_l2.world import Plane, World, surroundings


class Neighbours:
    """All nodes of the cluster, this one included.

    news   called when another look is worth it, on a watch's thread
    mine   what this node says of itself, for as long as its own Lease is not there
    """

    def __init__(
        self,
        kubernetes: Kubernetes,
        chosen: Options,
        world: World,
        plane: Plane,
        news: Callable[[], None],
        mine: Callable[[], Facts],
    ) -> None:
        self._kubernetes, self._options, self._world, self._plane = kubernetes, chosen, world, plane
        self._news, self._mine = news, mine
        self._lock = threading.Lock()
        self._leases: dict[str, Object] = {}
        self.observed = leases.Observed()

    def start(self) -> None:
        """Follow Leases and nodes."""
        self._kubernetes.follow(leases.watch(self._kubernetes.home), self._lease_changed)
        self._kubernetes.follow_nodes(self._news)

    def members(self, wanted: Iterable[Claim]) -> tuple[Member, ...]:
        """Everybody as of now. That this node lives it knows best."""
        found = members.members(self._kubernetes.nodes(), self._said(), self._alive(), self._options.drain_on, wanted)
        return tuple(self._myself(member) if member.name == self._options.node else member for member in found)

    def peers(self, roll: Iterable[Member]) -> tuple[Peer, ...]:
        """The other speakers, as the data plane knows them."""
        return members.peers(roll, self._said(), self._options.node)

    def surroundings(self, pool_of: Callable[[IPAddress], str]) -> Surroundings:
        """What is where this node is, the addresses of all nodes too."""
        nodes = frozenset(address for node in self._kubernetes.nodes() for address in node.addresses)
        return surroundings(self._world, self._options, nodes, pool_of)

    def _said(self) -> dict[str, Said]:
        with self._lock:
            return members.said(tuple(self._leases.values()))

    def _myself(self, member: Member) -> Member:
        if member.links is not None:
            return msgspec.structs.replace(member, speaks=True, alive=True)
        facts = self._mine()
        links = tuple(NodeLink(link.name, link.networks) for link in facts.links)
        return msgspec.structs.replace(member, speaks=True, alive=True, settled=facts.settled, links=links)

    def _alive(self) -> Alive:
        """By its Lease as we observed it, or because it is heard on the wire."""
        report = self._plane.report()
        heard = {peer.name for peer in report.peers if peer.alive and peer.shared} if report else set()

        def judge(node: str, _said: Said) -> tuple[bool, bool]:
            age = self.observed.age(node)
            return node in heard or age < leases.FORGOTTEN, node in heard or age < leases.LASTS

        return judge

    def _lease_changed(self, before: Object | None, now: Object | None) -> None:
        """A renewal is no news, what else it says is."""
        with self._lock:
            if now is not None:
                self._leases[now.name] = now
            elif before is not None:
                self._leases.pop(before.name, None)
        for node in members.said([lease for lease in (now or before,) if lease is not None]):
            if now is None:
                self.observed.forget(node)
            else:
                self.observed.note(node, now.version, self._world.monotonic())
        if leases.is_news(before, now):
            self._news()
