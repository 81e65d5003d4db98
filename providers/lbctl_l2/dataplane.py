"""The data plane: a small process that answers for addresses, whatever control is busy with.

`python -m lbctl_l2.dataplane FD`, started by `channel.DataPlane`; FD is its end of the socketpair. It holds the raw
sockets, follows the interfaces and turns `wire.Machine`, which decides everything. One thread, one loop; a turn is

    frames waiting → what is due → interfaces → one message of control → what waits to go out → news for control

and each step does a bounded amount of work, so that no flood, no dump of interfaces and no large set of orders keeps a
question waiting for long. Signs of life, and what goes to one station (answers), leave at once; what goes to all of
them (announcements, probes) may be thousands of frames, and leaves in batches of a turn: in order, and no announcement
of an address that is no longer ours by then.

When its loop stood still for longer than others wait (`Timing.frozen`: SIGSTOP, a starved or suspended machine), every
frame that waits is as old as that: they are thrown away unread, and the machine begins as one that was away.
When control is gone, or on SIGTERM, it hands over in good order and ends.

It needs CAP_NET_RAW and nothing else: no root, no file, no Kubernetes.
"""

import contextlib
import gc
import itertools
import selectors
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from types import FrameType

import msgspec

from lbctl_l2 import netlink, wire
from lbctl_l2.channel import (
    Command,
    Depart,
    Differences,
    Exclude,
    Garbled,
    Line,
    Log,
    Seen,
    Settle,
    Start,
    Told,
    Update,
    clock,
)
from lbctl_l2.sockets import Port, Sockets
from lbctl_l2.wire import AddressReport, IPAddress, Link, Machine, Order, Out, Peer, Report, Send

FRAMES = 32
"""Frames read from one socket in one turn."""
BATCH = 2 * wire.TURN
"""Announcements and probes sent on each link in one turn: as many as the machine makes, two frames for an address."""
MOST_WAITING = 50_000
"""Frames that may wait: more than thousands of addresses need, and no flood makes this process grow further."""
SLICE = 500
"""Orders taken up in one turn."""
LOOKED_AT = 256
"""Addresses looked at for a report in one turn."""
LONGEST = 0.05
"""Seconds of the longest wait: a gap much longer than this is not ours."""
REOPEN = 0.2
"""Seconds before a socket that failed is opened again."""
CHANGED, ALWAYS = 0.1, 1.0
"""Seconds between two reports, if something changed and if nothing did."""
END = 1.9
"""Seconds after which it ends though nobody has taken over."""
COLLECT = (10_000, 50, 1000)
"""gc's thresholds: nothing here makes cycles, and a full collection among thousands of orders takes milliseconds."""


class Loop:
    """Everything of one data plane. `time` is `channel.clock`, or a test's."""

    def __init__(self, line: Line[Command], start: Start, time: Callable[[], float] = clock) -> None:
        self._line: Line[Command] | None = line
        self._time = time
        self._now = self._looked = time()
        self._timing = start.timing
        self._excluded = netlink.Exclusion(start.excluded)
        self._machine = Machine(start.me, start.cluster, start.timing, self._now)
        self._orders: dict[IPAddress, Order] = {}
        self._ended: dict[IPAddress, None] = {}
        self._peers: dict[str, Peer] = {}
        self._other_peers = False
        self._links: tuple[Link, ...] = ()
        self._unusable: dict[str, str] = {}
        self._waiting: deque[Send] = deque()
        self._crowded_out = self._garbled = 0
        self._selector = selectors.DefaultSelector()
        self._sockets = Sockets(self._selector)
        self._follower: netlink.Follower | None = None
        self._news = Reporter(line)
        self._looking: Iterator[AddressReport] | None = None
        self._revision, self._spent = -1, 0.0
        self._retry_at = float("inf")
        self._end_at = float("inf")
        self._asked_to_leave = False
        self._selector.register(line, selectors.EVENT_READ)
        self._follow()

    def run(self) -> None:
        """Turns until it has handed over."""
        while self._now < self._end_at and not self._machine.left:
            self.turn()
            if self._asked_to_leave:
                self.leave()
        self.close()

    def turn(self) -> None:
        """Waits for something to do, at most `LONGEST`, and does a bounded part of it."""
        ready = [key.data or key.fileobj for key, _ in self._selector.select(self._patience())]
        self._now = self._time()
        if self._now - self._looked > self._timing.frozen:
            self._thaw()
        self._looked = self._now
        for port in ready:
            if isinstance(port, Port):
                self._answer(port)
        self._do(self._machine.tick(self._now))
        if self._follower in ready:
            self._look_at_interfaces()
        if self._line in ready:
            self._listen()
        if self._now >= self._retry_at:
            self._retry()
        self._send_waiting()
        self._tell()

    def ask_to_leave(self, number: int = 0, frame: FrameType | None = None) -> None:
        """A signal's handler: leaves after the turn that runs."""
        self._asked_to_leave = True

    def leave(self) -> None:
        """Hands over in good order; `run` ends when that is done. Safe to repeat."""
        if self._end_at == float("inf"):
            self._end_at = self._now + END
            self._do(self._machine.leave(self._now))
            self._send_waiting()

    def close(self) -> None:
        self._sockets.close()
        if self._follower is not None:
            self._follower.close()
        self._selector.close()

    def _patience(self) -> float:
        if self._waiting or self._news.eager or self._looking is not None:
            return 0.0
        deadline = self._machine.deadline()
        left = LONGEST if deadline is None else deadline - self._time()
        return min(max(left, 0.0), LONGEST)

    def _thaw(self) -> None:
        """This process stood still: what waits to come in or go out is of the time before, and no longer true."""
        discarded = self._sockets.discard()
        self._waiting.clear()
        gap = f"{self._now - self._looked:.3f}"
        self._log("warning", "the data plane stood still", {"seconds": gap, "discarded": str(discarded)})

    def _answer(self, port: Port) -> None:
        for frame in self._sockets.receive(port, FRAMES):
            self._do(self._machine.frame(port.link, frame, self._now))
        self._reopen_soon()

    def _do(self, outs: Iterable[Out]) -> None:
        for out in outs:
            if isinstance(out, Send):
                if out.urgent or not out.frame[0] & 1:  # An Ethernet address's group bit: to everybody, or to many.
                    self._sockets.send(out.link, out.frame)
                elif len(self._waiting) < MOST_WAITING:
                    self._waiting.append(out)
                else:
                    self._crowded_out += 1
            elif isinstance(out, wire.Join):
                self._sockets.join(out.link, out.group)
            else:
                self._sockets.leave(out.link, out.group)

    def _send_waiting(self) -> None:
        for _ in range(min(BATCH * max(len(self._links), 1), len(self._waiting))):
            out = self._waiting.popleft()
            if out.announces is None or self._machine.answers(out.announces):
                self._sockets.send(out.link, out.frame)
        self._reopen_soon()

    # -- interfaces

    def _follow(self) -> None:
        self._follower = netlink.Follower()
        self._selector.register(self._follower, selectors.EVENT_READ)

    def _follow_again(self) -> None:
        try:
            self._follow()
        except OSError as error:
            self._cannot_follow(error)

    def _cannot_follow(self, error: OSError) -> None:
        self._log("error", "interfaces cannot be followed; trying again", {"error": str(error)})
        self._retry_at = self._now + REOPEN

    def _look_at_interfaces(self) -> None:
        assert self._follower is not None
        try:
            changed = self._follower.read()
        except OSError as error:
            self._selector.unregister(self._follower)
            self._follower.close()
            self._follower = None
            self._cannot_follow(error)
            return
        if changed:
            self._use_links()

    def _use_links(self) -> None:
        if self._follower is None or not self._follower.knows:
            return  # What was known goes on, until all are known again.
        interfaces = self._follower.interfaces(self._excluded)
        links = netlink.links(interfaces, self._excluded)
        reasons = ((found.name, netlink.unusable(found, self._excluded)) for found in interfaces)
        self._unusable = {name: reason for name, reason in reasons if reason is not None}
        if links != self._links:
            self._links = links
            self._sockets.set_links(links)
            self._reopen_soon()
            self._do(self._machine.set_links(links, self._now))
        self._show_links()

    def _show_links(self) -> None:
        self._news.seen(Seen(self._links, self._unusable | self._sockets.refused))

    def _reopen_soon(self) -> None:
        if not self._sockets.complete:
            self._retry_at = min(self._retry_at, self._now + REOPEN)

    def _retry(self) -> None:
        """Opens again what failed; what fails once more is tried again later."""
        self._retry_at = float("inf")
        if self._follower is None:
            self._follow_again()
        before = dict(self._sockets.refused)
        self._sockets.reopen()
        self._reopen_soon()
        if before != self._sockets.refused:
            self._show_links()

    # -- control

    def _listen(self) -> None:
        assert self._line is not None
        try:
            command = self._line.receive()
        except (EOFError, ConnectionError):
            self._selector.unregister(self._line)
            self._line = self._looking = None
            self.leave()
            return
        except Garbled as error:
            self._not_understood(error)
            return
        if command is not None:
            self._obey(command)

    def _not_understood(self, error: Exception) -> None:
        """The orders stand: to go on by the last ones harms less than to end. Said once, and counted."""
        self._garbled += 1
        if self._garbled == 1:
            self._log("error", "control cannot be understood; the last orders stand", {"error": str(error)})

    def _obey(self, command: Command) -> None:
        if isinstance(command, Update):
            self._update(command)
        elif isinstance(command, Exclude):
            self._exclude(command)
        elif isinstance(command, Settle):
            self._do(self._machine.settle(self._now))
        elif isinstance(command, Depart):
            self.leave()

    def _exclude(self, exclude: Exclude) -> None:
        try:
            self._excluded = netlink.Exclusion(exclude.patterns)
        except ValueError as error:
            self._not_understood(error)
        else:
            self._use_links()

    def _update(self, update: Update) -> None:
        for order in update.orders:
            # The same hundred names in thousands of rankings: one string each.
            self._orders[order.address] = msgspec.structs.replace(order, ranking=tuple(map(sys.intern, order.ranking)))
            self._ended.pop(order.address, None)
        for address in update.ended:
            self._orders.pop(address, None)
            self._ended[address] = None
        self._peers.update((peer.name, peer) for peer in update.peers)
        for name in update.gone:
            self._peers.pop(name, None)
        self._other_peers |= bool(update.peers or update.gone)
        # Thousands of new orders at once would keep a question waiting; the roll they need comes before them.
        if not update.more or len(self._orders) + len(self._ended) >= SLICE:
            self._act_upon_orders()

    def _act_upon_orders(self) -> None:
        """Upon what has come since the last time."""
        orders, self._orders = self._orders, {}
        ended, self._ended = self._ended, {}
        peers = tuple(self._peers.values()) if self._other_peers else None
        self._other_peers = False
        outs = self._machine.change_orders(orders.values(), ended, self._now, peers)
        if any(address.version == 4 for address in (*orders, *ended)):
            self._sockets.look_for(self._machine.held)
        self._do(outs)

    def _log(self, level: str, message: str, fields: dict[str, str]) -> None:
        self._news.log(Log(level, message, fields))

    def _tell(self) -> None:
        if self._line is not None:
            if self._looking is None and self._news.due(self._machine.revision, self._now):
                self._looking, self._revision, self._spent = self._machine.look(), self._machine.revision, 0.0
            if self._looking is not None:
                self._look_on(self._looking)
            self._news.send()

    def _look_on(self, addresses: Iterator[AddressReport]) -> None:
        """A part of a report's addresses; after the last, the report."""
        began, part = self._time(), tuple(itertools.islice(addresses, LOOKED_AT))
        self._news.see(part)
        if len(part) < LOOKED_AT:
            self._looking = None
            self._news.take(self._report(), self._revision, self._machine.held)
        self._spent += self._time() - began
        self._news.rest = 9 * self._spent

    def _report(self) -> Report:
        """The machine's without the addresses, with what the sockets lost among what was dropped."""
        report = self._machine.summary()
        lost = {f"socket-{name.lower()}": count for name, count in self._sockets.failures.items()}
        lost |= {"queue-full": self._sockets.overflows(), "log-line": self._news.lost,
                 "crowded-out": self._crowded_out, "news-too-large": self._news.oversized,
                 "control-garbled": self._garbled}
        if self._follower is not None:
            lost |= {"netlink-overrun": self._follower.overruns, "netlink-unreadable": self._follower.unreadable}
        dropped = report.counters.dropped | {name: count for name, count in lost.items() if count}
        return msgspec.structs.replace(report, counters=msgspec.structs.replace(report.counters, dropped=dropped))


class Reporter:
    """News for control, sent without ever waiting: of reports and links the latest, of lines of log what fits."""

    def __init__(self, line: Line[Command]) -> None:
        self._line = line
        self._addresses: Differences[IPAddress, AddressReport] = Differences()
        self._report: Report | None = None
        self._seen: Seen | None = None
        self._revision = -1
        self._told = True
        self.eager = False
        self.rest = 0.0
        self.lost = 0

    def due(self, revision: int, now: float) -> bool:
        """Soon after a change, and now and then; `rest` keeps large reports to a tenth of the time."""
        age = float("inf") if self._report is None else now - self._report.at
        return age >= max(ALWAYS, self.rest) or (revision != self._revision and age >= max(CHANGED, self.rest))

    @property
    def oversized(self) -> int:
        """News that were too large to be told."""
        return self._line.oversized

    def see(self, addresses: Iterable[AddressReport]) -> None:
        """Some addresses, before the report that they belong to is taken."""
        self._addresses.see({address.address: address for address in addresses})

    def take(self, report: Report, revision: int, held: Set[IPAddress]) -> None:
        """A report without its addresses: they are those that were seen and are still held."""
        self._revision = revision
        self._addresses.keep(held)
        self._report = report
        self._told = False

    def seen(self, seen: Seen) -> None:
        self._seen = seen

    def log(self, line: Log) -> None:
        with contextlib.suppress(ConnectionError):  # Control is gone: the loop reads it as an end of file.
            self.lost += not self._line.send(line)

    def send(self) -> None:
        """Says what there is to say, at most one part of a report; `eager` if there is more and it would fit."""
        with contextlib.suppress(ConnectionError):  # As in `log`.
            if self._seen is not None and self._line.send(self._seen):
                self._seen = None
            self.eager = not self._told and self._send_part() and not self._told

    def _send_part(self) -> bool:
        assert self._report is not None
        changed, ended = self._addresses.part()
        more = self._addresses.size > len(changed) + len(ended)
        if not self._line.send(Told(msgspec.structs.replace(self._report, addresses=changed), ended, more)):
            return False
        self._addresses.said(len(changed), len(ended))
        self._told = not more
        return True


def main(descriptor: int) -> None:
    """Runs until control is gone or says so, or SIGTERM comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Of a terminal, where it goes to control too, which decides.
    with socket.socket(fileno=descriptor) as end:
        line: Line[Command] = Line(end, Command)
        loop = Loop(line, begin(line))
        signal.signal(signal.SIGTERM, loop.ask_to_leave)
        gc.set_threshold(*COLLECT)
        gc.freeze()
        loop.run()


def begin(line: Line[Command]) -> Start:
    """Waits for control's first word."""
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        selector.select()
    start = line.receive()
    if not isinstance(start, Start):
        raise TypeError(f"the first message of control is a Start, not {start!r}")
    return start


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("usage: python -m lbctl_l2.dataplane FD (started by lbctl speaker, FD is its end of a socketpair)")
    main(int(sys.argv[1]))
