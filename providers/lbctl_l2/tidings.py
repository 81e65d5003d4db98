"""What a node says of itself and of its addresses: in its Lease, and in Events of the Services.

`speaker.py` hands over each report of the data plane, `keeper.py` writes what comes of it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from ipaddress import ip_address
from typing import Literal, cast

import msgspec

from lbctl.cluster import Kubernetes
from lbctl.model import IPAddress, Owner
from lbctl_l2 import checks, leases, netlink
from lbctl_l2.checks import Surroundings
from lbctl_l2.leases import Facts, Problem, SaidConflict, SaidLink
from lbctl_l2.options import Options
from lbctl_l2.values import IPNetwork, Link, Report
from lbctl_l2.world import ANSWERS, Plane, World

log = logging.getLogger(__name__)

LINGERS = 10.0
"""Seconds that an address stays in the Lease after this node has stopped answering for it, if nobody else lists it."""
RETOLD = 60
"""Seconds after which a conflict that goes on is written down anew: the controller forgets those of ten minutes ago."""
REMEMBERED = 64
"""Conflicts that are remembered, the latest: a stranger can have any number of MACs."""


class Tidings:
    """Everything that this node tells.

    owners   the Services that an address is announced for
    known    since when each address was announced last, by whomever else: what we begin comes after that
    """

    def __init__(
        self,
        kubernetes: Kubernetes,
        chosen: Options,
        world: World,
        plane: Plane,
        owners: Callable[[IPAddress], Sequence[Owner]],
        known: Callable[[], Mapping[IPAddress, int]],
    ) -> None:
        self._kubernetes, self._options, self._world, self._plane = kubernetes, chosen, world, plane
        self._owners, self._known, self._me = owners, known, chosen.node
        self._conflicts: dict[tuple[str, str], SaidConflict] = {}
        self._started = int(world.now())
        self._left: Mapping[IPAddress, tuple[int, float]] = {}
        self.problems: tuple[Problem, ...] = ()
        self.founds = True
        self.last_good: Mapping[str, int] = {}
        self.answering: Mapping[IPAddress, int] = {}
        """The addresses that this node answers for, and since when, in seconds since the epoch."""

    def listed(self) -> Mapping[IPAddress, int]:
        """What the Lease lists: also what has just been left, until its next announcer lists it.

        Else it would be nobody's in between, and everybody would elect somebody for it, perhaps a third.
        """
        if not self._left:
            return self.answering
        now, known = self._world.monotonic(), self._known()
        left = {
            address: since for address, (since, until) in self._left.items()
            if now < until and known.get(address, 0) <= since and address not in self.answering
        }  # fmt: skip
        return {**left, **self.answering}

    def annotations(self, gives: Mapping[IPAddress, str]) -> Mapping[str, str]:
        """What the Lease ought to say."""
        facts = msgspec.structs.replace(
            self.facts(),
            gives={str(address): heir for address, heir in gives.items()},
            conflicts=tuple(self._conflicts.values()),
            problems=self.problems,
        )
        return leases.encode(facts, self.listed())

    def facts(self) -> Facts:
        """This node, as it is now."""
        report = self._plane.report()
        return Facts(
            node=self._me,
            started=self._started,
            settled=report.settled if report else False,
            founds=self.founds,
            last_good=self.last_good,
            links=tuple(_said_link(link) for link in self._plane.links() if link.up and (link.arp or link.ndp)),
            drain_on=self._options.drain_on,
            ignores_exclusion=self._options.ignore_excluded,
        )

    def heard(self, report: Report) -> None:
        """What the data plane begins to answer for, what no longer, and who else claims what is ours."""
        answers = {item.address: item.since for item in report.addresses if item.state in ANSWERS}
        listed = self.listed()
        begun = answers.keys() - listed.keys()
        known = self._known() if begun else {}
        kept = {address: since for address, since in listed.items() if address in answers}
        self._leave(listed, {item.address for item in report.addresses} - answers.keys())
        # Later than what the one before said, so that wrong clocks decide nothing.
        now = self._world.now() - report.at
        new = {address: max(int(now + answers[address]), known.get(address, 0) + 1) for address in begun}
        self.answering = {**kept, **new}
        for address in sorted(begun, key=str):
            self._tell("Normal", address, "AnnouncingFromNode", f'announcing {address} from node "{self._me}"')
        self._hear_conflicts(report)

    def _leave(self, listed: Mapping[IPAddress, int], silent: Set[IPAddress]) -> None:
        """Remember what this node answers for no more though it is still ordered, and since when it had."""
        until = self._world.monotonic() + LINGERS
        before = {address: entry for address, entry in self._left.items() if address in silent and address in listed}
        gone = {address: (listed[address], until) for address in self.answering.keys() & silent}
        self._left = {**gone, **before}

    def look_for_problems(self, addresses: Sequence[IPAddress], around: Surroundings) -> None:
        """What is wrong here, as of now: the whole node first, then addresses."""
        looked = ((address, checks.fault(address, around)) for address in addresses)
        faults = (Problem(no.reason, no.message, str(address)) for address, no in looked if no is not None)
        self.problems = (*self._options.exclusions.problems, *self._shadowed(addresses), *faults)

    def _shadowed(self, addresses: Sequence[IPAddress]) -> tuple[Problem, ...]:
        """Where every node's kernel answers on its own: kube-proxy holds the addresses, and nothing forbids it."""
        held = sorted(netlink.ipvs_addresses(self._world.interfaces()) & frozenset(addresses), key=str)
        if not held or all(self._world.strict_arp(link.name) for link in self._plane.links()):
            return ()
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        message = (
            f"kube-proxy holds {', '.join(map(str, held[:3]))}{more} on {netlink.IPVS}, so every node answers for "
            "them: set ipvs.strictARP: true in kube-proxy's configuration"
        )
        return (Problem("ipvs-without-strict-arp", message),)

    def _hear_conflicts(self, report: Report) -> None:
        for conflict in report.conflicts:
            key = (str(conflict.address), leases.written(conflict.mac))
            known, last = self._conflicts.get(key), int(self._world.now() - report.at + conflict.last)
            if known is None or last - known.last >= RETOLD:
                others = [entry for entry in self._conflicts.items() if entry[0] != key][1 - REMEMBERED :]
                said = SaidConflict(*key, conflict.link, last, conflict.count)
                self._conflicts = {**dict(others), key: said}
                if known is None:
                    self._conflicting(said)

    def _conflicting(self, conflict: SaidConflict) -> None:
        log.warning("a stranger claims an address", extra={"address": conflict.address, "mac": conflict.mac})
        message = (
            f"{conflict.mac} on {conflict.link} of node {self._me} answers for {conflict.address}, too: find that "
            "host, or take the address out of the pool"
        )
        self._tell("Warning", ip_address(conflict.address), "AddressConflict", message)

    def _tell(self, kind: Literal["Normal", "Warning"], address: IPAddress, reason: str, message: str) -> None:
        for owner in self._owners(address):
            self._kubernetes.event(owner, kind, reason, message)


def _said_link(link: Link) -> SaidLink:
    networks = dict.fromkeys(a.network for a in link.addresses if not a.ip.is_link_local)
    return SaidLink(link.name, leases.written(link.mac), cast("tuple[IPNetwork, ...]", tuple(networks)))
