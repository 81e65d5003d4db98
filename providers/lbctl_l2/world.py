"""The machine around a speaker: its data plane, its interfaces and routes, its clocks.

`speaker.py` and `announcer.py` reach for all of it through one value, `World`, so that tests can make their own.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from lbctl.model import IPAddress
from lbctl_l2 import checks, netlink
from lbctl_l2.checks import Surroundings
from lbctl_l2.options import Options
from lbctl_l2.values import Link, Order, Peer, Report, State

ANSWERS = (State.SPEAKING, State.YIELDING)
"""What the data plane does about an address that it answers for."""


class Plane(Protocol):
    """What is asked of `channel.DataPlane`."""

    def start(self) -> Any: ...

    def orders(self, orders: Iterable[Order], peers: Iterable[Peer]) -> None: ...

    def settle(self) -> None: ...

    def exclude(self, patterns: Iterable[str]) -> None: ...

    def report(self) -> Report | None: ...

    def links(self) -> tuple[Link, ...]: ...

    @property
    def alive(self) -> bool: ...

    def leave(self, timeout: float = 3.0) -> bool: ...


class World(msgspec.Struct, frozen=True):
    """The machine around a speaker: what it reads of it, and the data plane that it starts. Tests make their own."""

    plane: Callable[..., Plane]
    interfaces: Callable[[], Sequence[netlink.Interface]] = netlink.snapshot
    strict_arp: Callable[[str], bool] = netlink.strict_arp
    routes: Callable[[], frozenset[IPAddress]] = lambda: checks.gateways(
        _text("/proc/net/route"), _text("/proc/net/ipv6_route")
    )
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


def _text(path: str) -> str:
    """A file of the kernel's; nothing where a family is switched off."""
    try:
        return Path(path).read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


def surroundings(
    world: World, chosen: Options, nodes: frozenset[IPAddress], pool_of: Callable[[IPAddress], str]
) -> Surroundings:
    """What is where this node is, right now. An address on an excluded interface (kube-ipvs0, lo) is nobody's."""
    excluded = netlink.Exclusion(chosen.exclusions.patterns)
    usable = [interface for interface in world.interfaces() if interface.name not in excluded]
    found = [address.interface for interface in usable for address in interface.addresses]
    return Surroundings(
        nodes=nodes,
        own=frozenset(interface.ip for interface in found),
        gateways=world.routes(),
        networks=tuple(dict.fromkeys(interface.network for interface in found)),
        pool_of=pool_of,
    )
