"""A node's speaker: keeps its data plane at work, with the cluster and without.

`lbctl speaker` makes a `Speaker` before any cluster is known: the data plane starts with the last state that is on
disk. Once the cluster answers, `join` makes the `Announcer` (`announcer.py`), from whose orders it lives then. Whoever
answers for an address never waits for anything here.

    announcer.py   the orders, on the one path          neighbours.py   who else is there
    keeper.py      the node's Lease, the last state     tidings.py      what this node tells
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

import msgspec

from lbctl.model import IPAddress
from lbctl.provider import Figure, Harness
from lbctl_l2 import because, checks, configured
from lbctl_l2.announcer import Announcer
from lbctl_l2.channel import DataPlane, Log
from lbctl_l2.options import options
from lbctl_l2.state import File, State
from lbctl_l2.values import Report, Timing
from lbctl_l2.world import ANSWERS, Plane, World, surroundings

log = logging.getLogger(__name__)

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Speaker:
    """See `lbctl.provider.Speaker`."""

    def __init__(self, harness: Harness, world: World | None = None) -> None:
        self._world = world or World(DataPlane)
        self.options = options(harness.settings)
        self._file = File(self.options.state_file)
        self._plane: Plane | None = None
        self._cluster, self._settings = harness.cluster_id, harness.settings
        self._announcer: Announcer | None = None
        self._resumed = State(self.options.node, "")
        self._last: Report | None = None
        if state := self._file.read(self.options.node, self._cluster):
            self._resume(state)

    def join(self, harness: Harness) -> "Announcer":
        """From now on the orders follow from the cluster. What runs goes on running, unless it is another cluster's."""
        if self._plane is not None and self._cluster != harness.cluster_id:
            log.warning("the last state was another cluster's", extra={"cluster": self._cluster})
            self._plane.leave()
            self._plane, self._resumed = None, State(self.options.node, harness.cluster_id)
        plane = self._plane or self._start(harness.cluster_id)
        self._announcer = announcer = Announcer(
            harness, self.options, self._world, plane, self._file, self._resumed
        )
        announcer.start()
        return announcer

    def leave(self) -> None:
        """Others take over before this returns, or a few seconds have passed; then the Lease is given back."""
        if self._announcer is not None:
            self._announcer.stop()
        if self._plane is not None:
            handed_over = self._plane.leave()
            log.info("the data plane has ended", extra={"handed_over": handed_over})
        if self._announcer is not None:
            self._announcer.release()

    def checks(self) -> Mapping[str, bool]:
        keeps = self._announcer is None or self._announcer.alive
        return {"data-plane": self._plane is None or self._plane.alive, "lease-keeper": keeps}

    def figures(self) -> Iterable[Figure]:
        report = self._plane.report() if self._plane is not None else None
        return _figures(report) if report is not None else ()

    def _start(self, cluster: str) -> Plane:
        timing = msgspec.structs.replace(Timing(), settle=self.options.settle)
        plane = self._world.plane(
            self.options.node, cluster, timing, self.options.exclusions.patterns, heard=self._heard, logged=_log
        )
        self._plane, self._cluster = plane, cluster
        plane.start()
        return plane

    def _resume(self, state: State) -> None:
        """Take up the last orders, as far as they pass the checks."""
        nodes = frozenset(ip_address(text) for text in state.nodes)
        supply = configured.said(self._settings, state.served)
        around = surroundings(self._world, self.options, nodes, supply.pool_of)
        orders = tuple(order for order in state.orders if checks.fault(order.address, around) is None)
        left_out = len(state.orders) - len(orders)
        log.info("going by the last state", extra={"addresses": len(orders), "left_out": left_out})
        self._resumed = msgspec.structs.replace(state, orders=orders)
        self._start(state.cluster).orders(orders, state.peers)

    def _heard(self) -> None:
        """The data plane has reported."""
        report = self._plane.report() if self._plane is not None else None
        if report is None:
            return
        before, self._last = self._last, report
        announcer = self._announcer
        words = because.changes(before, report, announcer or because.NoCluster())
        for message, fields in because.lines(words, self._services):
            log.info(message, extra={"node": self.options.node, **fields})
        if announcer is not None:
            announcer.heard(report)

    def _services(self, address: IPAddress) -> Sequence[str]:
        known = self._announcer.owners(address) if self._announcer is not None else ()
        return known or self._resumed.owners.get(str(address), ())


def _log(line: Log) -> None:
    log.log(LEVELS.get(line.level, logging.WARNING), line.message, extra=dict(line.fields))


def _figures(report: Report) -> Iterable[Figure]:
    counted = report.counters
    answers = sum(address.state in ANSWERS for address in report.addresses)
    living = sum(peer.alive for peer in report.peers)
    yield Figure("lbctl_l2_announced", "Addresses that this node answers for.", answers, counter=False)
    yield Figure("lbctl_l2_peers", "Other speakers that live.", living, counter=False)
    yield Figure("lbctl_l2_settled", "1 once this node may be given addresses.", report.settled, counter=False)
    yield Figure("lbctl_l2_requests", "ARP requests and solicitations for announced addresses.", counted.requests)
    yield Figure("lbctl_l2_replies", "Answers to them.", counted.replies)
    yield Figure("lbctl_l2_gratuitous", "Frames of gratuitous announcement sent.", counted.gratuitous)
    yield Figure("lbctl_l2_conflicts", "Claims of our addresses by hosts that are no speakers.", counted.conflicts)
    yield Figure("lbctl_l2_failovers", "Addresses taken over from a node that was dead.", counted.failovers)
    yield Figure("lbctl_l2_dark_seconds", "From the last sign of life to our announcement, in sum.", counted.dark)
    yield Figure("lbctl_l2_frames_sent", "Frames sent, heartbeats too.", counted.sent)
    yield Figure("lbctl_l2_heartbeats", "Heartbeats sent.", counted.beats)
    for reason, number in sorted(counted.dropped.items()):
        yield Figure("lbctl_l2_frames_dropped", "Frames not acted upon.", number, {"reason": reason})
