"""A data plane without sockets and without a process: the real machine, alone on a wire, in virtual time.

Tests hand it to a `Speaker` in place of `channel.DataPlane`, and see every frame that would have gone out.
"""

import threading
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, ip_interface
from typing import Any, Self

from lbctl_l2.netlink import Exclusion
from lbctl_l2.values import IPAddress, Link, Order, Out, Peer, Report, Send, Timing
from lbctl_l2.wire import Machine

ETH0 = Link(
    index=1,
    name="eth0",
    mac=bytes.fromhex("020000000101"),
    addresses=(ip_interface("192.0.2.11/24"), ip_interface("2001:db8::11/64")),
    link_local=IPv6Address("fe80::11"),
)
"""What a node looks like that says nothing else."""


class MemoryPlane:
    """See `channel.DataPlane`. Each order is followed at once by as many seconds as it takes to announce."""

    def __init__(
        self,
        me: str,
        cluster: str,
        timing: Timing,
        excluded: Iterable[str] = (),
        *,
        heard: Callable[[], None] = lambda: None,
        logged: Callable[[Any], None] = lambda _line: None,
        links: tuple[Link, ...] = (ETH0,),
    ) -> None:
        self.me, self.cluster, self._heard, self._all = me, cluster, heard, links
        self._links = self._chosen(excluded)
        self._lock = threading.RLock()
        self._now = 0.0
        self._machine = Machine(me, cluster, timing, self._now)
        self.frames: list[bytes] = []
        self.given: dict[IPAddress, Order] = {}
        self.peers: tuple[Peer, ...] = ()
        self.history: list[frozenset[IPAddress]] = []
        self.alive = False

    def start(self) -> Self:
        self.alive = True
        with self._lock:
            self._do(self._machine.set_links(self._links, self._now))
            self._do(self._machine.settle(self._now))
        return self

    def orders(self, orders: Iterable[Order], peers: Iterable[Peer]) -> None:
        with self._lock:
            self.given, self.peers = {order.address: order for order in orders}, tuple(peers)
            self.history.append(frozenset(self.given))
            self._do(self._machine.set_orders(tuple(self.given.values()), self.peers, self._now))
        self.run(6.0)

    def settle(self) -> None:
        with self._lock:
            self._do(self._machine.settle(self._now))

    def exclude(self, patterns: Iterable[str]) -> None:
        with self._lock:
            self._links = self._chosen(patterns)
            self._do(self._machine.set_links(self._links, self._now))
        self._heard()

    def _chosen(self, excluded: Iterable[str]) -> tuple[Link, ...]:
        named = Exclusion(excluded)
        return tuple(link for link in self._all if link.name not in named)

    def run(self, seconds: float) -> None:
        """Let so many seconds pass on the wire."""
        with self._lock:
            end = self._now + seconds
            while (due := self._machine.deadline()) is not None and due <= end:
                self._now = max(self._now, due)
                self._do(self._machine.tick(self._now))
            self._now = end
        self._heard()

    def receive(self, frame: bytes) -> None:
        """A frame arrives."""
        with self._lock:
            self._do(self._machine.frame(self._all[0].index, frame, self._now))
        self._heard()

    def said(self, address: IPAddress) -> int:
        """How many frames speak of this address."""
        with self._lock:
            return sum(address.packed in frame for frame in self.frames)

    def report(self) -> Report | None:
        with self._lock:
            return self._machine.report() if self.alive else None

    def clock(self) -> float:
        """The wire's time."""
        return self._now

    def links(self) -> tuple[Link, ...]:
        return self._links

    def leave(self, timeout: float = 3.0) -> bool:
        with self._lock:
            self._do(self._machine.leave(self._now))
        self.run(timeout)
        self.alive = False
        return True

    def _do(self, outs: Iterable[Out]) -> None:
        self.frames += [out.frame for out in outs if isinstance(out, Send)]
