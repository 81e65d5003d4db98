"""Why this node begins to announce an address, and why it stops: for its log.  PURE.

`speaker.py` asks at each report of the data plane. What happened on the wire the reports tell: who held the address
before, and whether that one is silent, leaves, or lives and has handed it over. What the cluster's word in it is
(`Cluster`) the announcer knows. Hundreds of changes at once are told in few lines.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from lbctl.model import IPAddress
from lbctl_l2.values import AddressReport, PeerReport, Report, State
from lbctl_l2.world import ANSWERS

LINES = 10
"""Changes at once that are told one by one; of more, each reason is told once, so many reasons at most."""
NAMED = 3
"""Addresses that such a line names."""

BEGINS, ENDS = "announces", "announces no more"
SEVERAL = {BEGINS: "announces several addresses", ENDS: "announces several addresses no more"}


class Cluster(Protocol):
    """What the cluster has to say of an address."""

    def holder(self, address: IPAddress) -> str:
        """Who announces it by the Leases: whoever has just begun to listen has not heard it."""
        ...

    def given(self, address: IPAddress, heir: str) -> str:
        """Why it goes from here to that node, "" for no matter whom."""
        ...

    def taken(self, address: IPAddress, holder: str) -> str:
        """Why it comes here from that node, which lives."""
        ...


class NoCluster:
    """The API server has not answered yet."""

    def holder(self, address: IPAddress) -> str:
        return ""

    def given(self, address: IPAddress, heir: str) -> str:
        return ""

    def taken(self, address: IPAddress, holder: str) -> str:
        return ""


class Word(msgspec.Struct, frozen=True):
    """One change: `message` says which."""

    message: str
    address: IPAddress
    because: str


def changes(before: Report | None, after: Report, cluster: Cluster) -> list[Word]:
    """What this node announces now and did not, and the contrary, in the order of the addresses."""
    old, new = _entries(before), _entries(after)
    was, now = _answered(old), _answered(new)
    peers = {peer.name: peer for peer in after.peers}
    begun = (Word(BEGINS, a, _begun(old.get(a), a, peers, after, cluster)) for a in now - was)
    ended = (Word(ENDS, a, _ended(new.get(a), a, before, after, cluster)) for a in was - now)
    return sorted((*begun, *ended), key=lambda word: (word.address.version, int(word.address)))


def lines(
    words: Sequence[Word], services: Callable[[IPAddress], Sequence[str]]
) -> Iterator[tuple[str, dict[str, str]]]:
    """A constant message and its fields, for each line of the log."""
    if len(words) <= LINES:
        for word in words:
            yield word.message, {
                "address": str(word.address), "services": ",".join(services(word.address)), "because": word.because,
            }  # fmt: skip
        return
    alike: dict[tuple[str, str], list[IPAddress]] = {}
    for word in words:
        alike.setdefault((word.message, word.because), []).append(word.address)
    most = sorted(alike.items(), key=lambda item: -len(item[1]))
    for (message, because), found in most[:LINES]:
        yield SEVERAL[message], {"number": str(len(found)), "addresses": few(found), "because": because}
    if rest := [address for _, found in most[LINES:] for address in found]:
        yield "announces other addresses, or no more", {"number": str(len(rest)), "addresses": few(rest)}


def _begun(
    old: AddressReport | None, address: IPAddress, peers: Mapping[str, PeerReport], after: Report, cluster: Cluster
) -> str:
    holder = (old.holder if old is not None else "") or cluster.holder(address)
    if holder in ("", after.me):
        return "nobody else answers for it" if old is not None and old.state is State.ASKING else "first in the ranking"
    peer = peers.get(holder)
    if peer is None:
        return f"{holder} is not on the roll"
    if peer.leaving:
        return f"handed over by {holder}: it leaves"
    if not peer.alive:
        silent = f"silent {1000 * (after.at - peer.heard):.0f} ms" if peer.heard is not None else "never heard"
        return f"node {holder} {silent}"
    if peer.unsettled:
        return f"node {holder} has begun anew, or stood still"
    return f"handed over by {holder}: {cluster.taken(address, holder) or 'this node comes first'}"


def _ended(
    new: AddressReport | None, address: IPAddress, before: Report | None, after: Report, cluster: Cluster
) -> str:
    if new is None:
        return cluster.given(address, "") or "the data plane has begun anew"
    if new.state is State.NO_LINK:
        return "no interface that may carry it is up"
    if new.state is State.DUPLICATE:
        return "a host that is no speaker answers for it"
    if before is not None and after.counters.frozen > before.counters.frozen:
        return "this node stood still, and asks who answers meanwhile"
    if new.holder in ("", after.me):
        return "another comes first"
    return f"handed over to {new.holder}: {_leaving(after) or cluster.given(address, new.holder) or 'it comes first'}"


def _leaving(report: Report) -> str:
    return "this node leaves" if report.leaving else ""


def _entries(report: Report | None) -> dict[IPAddress, AddressReport]:
    return {entry.address: entry for entry in report.addresses} if report is not None else {}


def _answered(entries: Mapping[IPAddress, AddressReport]) -> set[IPAddress]:
    return {address for address, entry in entries.items() if entry.state in ANSWERS}


def few(found: Iterable[IPAddress]) -> str:
    """The first of them, and how many more there are."""
    named = [str(address) for address in found]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return ",".join(named[:NAMED]) + more
