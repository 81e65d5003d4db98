"""Who holds which address, who claims one, what is free: an index that follows every event.  PURE (it does no I/O).

The provider keeps one and tells it what it reads. Whatever the order of the calls, a Book equals the one that is made
from scratch with the same content (a law). Adding or removing a Service costs O(log n).
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

from lbctl.model import IPAddress, Note, Owner
from lbctl_l2.pool import Pool, Release, Request, Usage


class Book:
    """Pools, the Services that ask or hold, the addresses that are nobody's to give. Not thread-safe."""

    def __init__(self, pools: Iterable[Pool] = (), nodes: Iterable[IPAddress] = ()) -> None:
        raise NotImplementedError

    def set_pools(self, pools: Iterable[Pool]) -> None:
        """These are the pools now. Raises ValueError if two overlap (`crds.py` gives none that do)."""
        raise NotImplementedError

    def set_nodes(self, addresses: Iterable[IPAddress]) -> None:
        """These are the nodes' addresses now: never given out."""
        raise NotImplementedError

    def set_released(self, releases: Iterable[Release]) -> None:
        """All pools' releases, as their statuses (or memory) have them."""
        raise NotImplementedError

    def put(self, request: Request) -> None:
        """A Service that we serve: new, changed, or with another status. Replaces what it asked and held before."""
        raise NotImplementedError

    def remove(self, owner: Owner) -> None:
        """It is gone, or not ours to serve any more. Safe to repeat."""
        raise NotImplementedError

    def claim(self, owner: Owner, external_ips: Iterable[IPAddress], published: Iterable[IPAddress] = ()) -> None:
        """Any Service's spec.externalIPs, and what the status of a Service that we do not serve holds. Empty: none."""
        raise NotImplementedError

    def pool_of(self, address: IPAddress) -> str:
        """The pool that covers the address, "" for none."""
        raise NotImplementedError

    def holders(self, address: IPAddress) -> tuple[Owner, ...]:
        """Who holds it rightfully, the oldest first."""
        raise NotImplementedError

    def usage(self, now: datetime) -> Mapping[str, Usage]:
        """By pool."""
        raise NotImplementedError

    def conflicts(self) -> tuple[Note, ...]:
        """`external-ip-conflict`: Services whose externalIPs name an address of a pool that they do not own."""
        raise NotImplementedError
