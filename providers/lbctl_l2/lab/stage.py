"""Speakers at work in a lab: who holds which address, how one is stopped and started again.

`Stage` is what every fault and measurement needs; `Bare` runs data planes with orders given by hand, without
Kubernetes. Most of failover is the data plane's affair, so most of it is measured there.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Self

from lbctl_l2.lab.announcers import Announcer, Told, roll
from lbctl_l2.lab.measured import Address
from lbctl_l2.lab.namespaces import LabError
from lbctl_l2.lab.rig import Lab, Running, vip, vip6
from lbctl_l2.wire import Order, Report, Timing

START = 30.0
"""Seconds within which every address must have found its announcer."""


def pause(seconds: float) -> None:
    """Let time pass."""
    threading.Event().wait(seconds)


class Stage(ABC):
    """A lab with a speaker on every node, as a context manager. `speakers` are their processes by node."""

    def __init__(self, nodes: int, addresses: int, *, ipv6: bool = False, proxied: bool = False) -> None:
        """`proxied`: real kube-proxies will forward; without them the lab's backends take what comes."""
        self.addresses: tuple[Address, ...] = tuple((vip6 if ipv6 else vip)(number) for number in range(addresses))
        self.lab = Lab(nodes, () if proxied else self.addresses)
        self.speakers: dict[str, Running] = {}
        self.others: list[Running] = []
        """What runs on the nodes beside the speakers."""

    def __enter__(self) -> Self:
        self.lab.__enter__()
        try:
            self.begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in (*self.speakers.values(), *self.others):
            running.kill()
        self.lab.__exit__(kind, error, trace)

    @abstractmethod
    def begin(self) -> None:
        """Start all speakers, and wait until every address has exactly one announcer."""

    @abstractmethod
    def restart(self, *chosen: str) -> None:
        """Start speakers that have ended; who holds an address keeps it. All count as settled soon after."""

    def answering(self, during: float = 0.3) -> Mapping[Address, frozenset[str]]:
        """Who answers the wire for each address, asked for so many seconds."""
        watch = self.lab.watch(*self.addresses, interval=0.05)
        pause(during)
        seen = watch.take()
        watch.close()
        return {address: seen.announcers(address, during + 1.0) for address in self.addresses}

    def holders(self) -> Mapping[Address, str]:
        """The one node that answers for each address. Waits for it; raises `LabError` when there is none, or two."""
        until = time.monotonic() + START
        answering = self.answering()
        while any(len(nodes) != 1 for nodes in answering.values()):
            if time.monotonic() > until:
                who = ", ".join(f"{address} by {', '.join(sorted(n)) or 'nobody'}" for address, n in answering.items())
                raise LabError(f"after {START:g} s not one node each answers: {who}\n{self.lab.said()}")
            pause(0.1)
            answering = self.answering()
        return {address: min(nodes) for address, nodes in answering.items()}

    @property
    def holder(self) -> str:
        """The node that answers for the first address."""
        return self.holders()[self.addresses[0]]


class Bare(Stage):
    """Data planes under hand-made orders: each address to one node, then to the others in turn."""

    def __init__(self, nodes: int, addresses: int = 1, timing: Timing | None = None, *, ipv6: bool = False) -> None:
        super().__init__(nodes, addresses, ipv6=ipv6)
        self._timing = timing or Timing()
        self._announcers: dict[str, Announcer] = {}
        self.first: dict[Address, str] = {}
        """The node that comes first for each address, in what `tell` says."""

    def begin(self) -> None:
        names = list(self.lab.nodes)
        self._announcers = {name: Announcer(node, self._timing) for name, node in self.lab.nodes.items()}
        self.first = {address: names[number % len(names)] for number, address in enumerate(self.addresses)}
        self.tell()
        self.settle()

    def restart(self, *chosen: str) -> None:
        self.start(*chosen)
        self.settle()

    def start(self, *chosen: str) -> None:
        """Start these again. They know nothing, and are not settled."""
        for name in chosen:
            self.speakers[name].kill()
            self._announcers[name].start()
        self.tell()

    def settle(self) -> None:
        """Let whoever holds an address come first for it, and all be settled."""
        self.first = dict(self.holders())
        self.tell(settled=True)

    def tell(self, chosen: Collection[str] = (), *, settled: bool = False) -> dict[str, Report | None]:
        """Give these nodes, or all, their orders; what they report."""
        self.speakers = {name: announcer.running for name, announcer in self._announcers.items()}
        orders = tuple(Order(address, self._ranking(first)) for address, first in self.first.items())
        told = Told(orders, roll(tuple(self.lab.nodes.values())), settled)
        return {name: self._announcers[name].tell(told) for name in chosen or self._announcers}

    def _ranking(self, first: str) -> tuple[str, ...]:
        names = list(self.lab.nodes)
        place = names.index(first)
        return (*names[place:], *names[:place])
