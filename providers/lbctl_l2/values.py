"""What goes in and out of the bare-metal data plane: links, peers, standing orders, times, frames, reports.  PURE.

Control (`announcer.py`) makes orders of them, `channel.py` carries them to the data plane, `wire.py` lives by them and
re-exports them. All times are seconds of one monotonic clock (`channel.clock`, which control and data plane of a node
share, so that control can say a time of a `Report` on the wall).

The values go through msgspec: encode with `enc_hook=str`, decode with `dec_hook=revive`.
"""

import enum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    _BaseAddress,
    _BaseNetwork,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    IPAddress = IPv4Address | IPv6Address
    IPNetwork = IPv4Network | IPv6Network
    IPInterface = IPv4Interface | IPv6Interface
else:
    # msgspec decodes no union of two foreign classes, but it does decode their common base.
    IPAddress = IPInterface = _BaseAddress
    IPNetwork = _BaseNetwork


def revive(kind: type, text: str) -> Any:
    """An address, interface (with a slash) or network from its text: msgspec's `dec_hook` for this module's values."""
    if kind is _BaseNetwork:
        return ip_network(text)
    if kind is IPv6Address:
        return IPv6Address(text)
    return ip_interface(text) if "/" in text else ip_address(text)


# -- what goes in ---------------------------------------------------------------------------------------------------


class Link(msgspec.Struct, frozen=True):
    """One own network interface that is not excluded and has no master, as netlink shows it.

    up          IFF_UP and carrier
    arp, ndp    it can do these: Ethernet, not IFF_NOARP, BROADCAST (ARP) or MULTICAST (NDP)
    addresses   its own addresses with their prefixes, link-local ones too
    link_local  its IPv6 link-local address, None while it is tentative or failed DAD: no NDP without one (RFC 4861)
    """

    index: int
    name: str
    mac: bytes
    up: bool = True
    arp: bool = True
    ndp: bool = True
    addresses: tuple[IPInterface, ...] = ()
    link_local: IPv6Address | None = None


class PeerLink(msgspec.Struct, frozen=True):
    """One interface of another speaker, from its Lease. `networks` without link-local ones (those are everywhere)."""

    name: str
    mac: bytes
    networks: tuple[IPNetwork, ...] = ()


class Peer(msgspec.Struct, frozen=True):
    """Another speaker. One that is dead stays on the roll until its Lease is gone. Myself in the roll is ignored."""

    name: str
    links: tuple[PeerLink, ...] = ()


class Order(msgspec.Struct, frozen=True):
    """The standing order for one address.

    ranking     node names, best first; a node that is not in it never takes the address, and gives it up
    interfaces  names of the only interfaces to announce on; None: all
    probe       the address was never seen announced: probe it for duplicates first (RFC 5227 §2.1.1, RFC 4862 §5.4)
    periodic    seconds between gratuitous announcements after the first five; 0: none
    """

    address: IPAddress
    ranking: tuple[str, ...]
    interfaces: frozenset[str] | None = None
    probe: bool = False
    periodic: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError: an interface's address compares unlike the address that it is."""
        if isinstance(self.address, IPv4Interface | IPv6Interface):
            raise ValueError(f"{self.address} is an interface's address: an order is for one without a prefix length")


class Timing(msgspec.Struct, frozen=True):
    """All times, in seconds. The worst case of a failover is `dead` + `ask` after the last heartbeat.

    beat      between two heartbeats to the same peer
    dead      a peer is dead when unheard for so long; two beats lost, or one and 130 ms late
    ask       how long an answer to "does anybody answer for this address?" is awaited
    again     before asking again, where somebody answered who ought not to
    greet     after a start, or a link's return, how long peers are given to answer a ping before they count as dead
    probe     between two of the `probes` of a never announced address
    reprobe   before a duplicate address is probed again
    frozen    own silence after which others may have taken over (less than dead + ask, more than a late beat)
    deaf      after having been frozen, frames are as old as the freeze: they are not read for so long
    settle    a node that started, froze or was cut off gets nothing back for so long
    handover  between two askings whether the new one speaks, while the old one still answers
    release   a node that is no longer in the ranking stops answering after so long, whatever the others do
    leave     leaving in good order takes at most so long
    defend    at most one defence per address against a stranger in so long (RFC 5227 §2.4: DEFEND_INTERVAL)
    contend   the same against a speaker: with contradictory orders two answer until the third, so it must not be long
    hello     between two broadcast heartbeats, where not everybody hears everybody (more than 20 speakers)
    rounds    when the gratuitous announcements go out; Linux ignores a second one within its ARP locktime of 1 s
    """

    beat: float = 0.1
    dead: float = 0.23
    ask: float = 0.04
    again: float = 1.0
    greet: float = 0.1
    probe: float = 0.1
    probes: int = 3
    reprobe: float = 10.0
    frozen: float = 0.25
    deaf: float = 0.02
    settle: float = 30.0
    handover: float = 2.0
    release: float = 10.0
    leave: float = 1.5
    defend: float = 10.0
    contend: float = 0.25
    hello: float = 5.0
    rounds: tuple[float, ...] = (0.0, 1.1, 2.2, 3.3, 4.4)


# -- what comes out -------------------------------------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True, tag=True):
    """Send this whole Ethernet frame on the link of this index. A failed send is not repeated: the next round is.

    urgent     a sign of life: it waits for no announcements
    announces  it says that this node has the address: not to be sent any more once that is no longer so
    """

    link: int
    frame: bytes
    urgent: bool = False
    announces: IPAddress | None = None


class Join(msgspec.Struct, frozen=True, tag=True):
    """Join this solicited-node group on this link (IPV6_JOIN_GROUP), so that MLD and the NIC let its frames through."""

    link: int
    group: IPv6Address


class Leave(msgspec.Struct, frozen=True, tag=True):
    """Leave this group on this link. Never said of a link that has gone: the kernel has left it there."""

    link: int
    group: IPv6Address


Out = Send | Join | Leave


class State(enum.StrEnum):
    """What this node does about one address. It answers in `SPEAKING` and `YIELDING`, and in no other state."""

    STANDBY = "standby"
    """Another comes first."""
    ASKING = "asking"
    """I come first, and am asking the wire whether somebody answers."""
    PROBING = "probing"
    """I come first, and am probing a never announced address."""
    SPEAKING = "speaking"
    YIELDING = "yielding"
    """Another comes first now; I answer until it does."""
    DUPLICATE = "duplicate"
    """A stranger answered my probe or question: not announced; asked again now and then."""
    NO_LINK = "no-link"
    """No interface that may carry the address is up."""


class AddressReport(msgspec.Struct, frozen=True):
    """One address: `since` is when its state began, `holder` who was last heard announcing it ("" if nobody)."""

    address: IPAddress
    state: State
    since: float
    holder: str = ""
    requests: int = 0
    replies: int = 0
    gratuitous: int = 0


class PeerReport(msgspec.Struct, frozen=True):
    """One peer. `heard` is when it was last heard (None: never). `shared`: no common link means `alive` is assumed."""

    name: str
    alive: bool
    heard: float | None = None
    unsettled: bool = False
    leaving: bool = False
    shared: bool = True


class Conflict(msgspec.Struct, frozen=True):
    """Somebody who is no speaker claims one of our addresses. At most 64 are kept, the latest."""

    address: IPAddress
    mac: bytes
    link: str
    first: float
    last: float
    count: int


class Counters(msgspec.Struct, frozen=True):
    """Since the start. `dropped` is by reason (`packets.Drop` and a few of this module's own).

    requests, replies  ARP requests and solicitations for a served address; answers given
    gratuitous         frames of gratuitous announcement
    failovers          addresses taken over from somebody who was dead
    dark               seconds, summed over those: from the last sign of life to the first announcement
    beats              heartbeat frames among `sent`
    """

    requests: int = 0
    replies: int = 0
    gratuitous: int = 0
    conflicts: int = 0
    defences: int = 0
    failovers: int = 0
    dark: float = 0.0
    beats: int = 0
    sent: int = 0
    received: int = 0
    frozen: int = 0
    dropped: dict[str, int] = {}


class Report(msgspec.Struct, frozen=True):
    """All that control wants to know. `at` is the machine's time when it was made."""

    me: str
    at: float
    settled: bool
    leaving: bool
    left: bool
    addresses: tuple[AddressReport, ...]
    peers: tuple[PeerReport, ...]
    conflicts: tuple[Conflict, ...]
    counters: Counters
