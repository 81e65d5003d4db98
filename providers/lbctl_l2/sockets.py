"""The data plane's raw sockets: whole Ethernet frames in and out, one pair of AF_PACKET sockets per link.

One socket for ARP and one for IPv6, not one for everything: a socket for ETH_P_ALL makes the kernel clone every frame
of the host, sent ones too. A filter in the kernel lets through what was sent to us, to everybody or to a group; of IPv6
only neighbour discovery, of ARP only what names our addresses: the rest never wakes the process. A VLAN-tagged frame
without a VLAN interface here is marked as somebody else's by the kernel, as are frames that a promiscuous card picks
up, and our own as outgoing.

CAP_NET_RAW is all that is needed. An interface that fails (ENXIO, ENODEV, …) loses its sockets until it is back; no
error of a socket ends anything else.

Sources: packet(7), ipv6(7), linux/filter.h, linux/if_packet.h, Documentation/networking/filter.rst.
"""

import array
import contextlib
import errno
import itertools
import selectors
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from lbctl_l2.wire import IPAddress, Link

ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
LARGEST = 2048  # No frame of ours is longer; of a longer one the rest is cut off, which makes its checksum wrong.

QUEUE = 1 << 20
"""Bytes that may wait at a socket, if net.core.rmem_max allows: more than a thousand frames."""

_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_DROP_MEMBERSHIP, _PACKET_STATISTICS = 1, 2, 6
_PACKET_MR_MULTICAST = 0
_SO_ATTACH_FILTER = 26
_IPV6_JOIN_GROUP, _IPV6_LEAVE_GROUP = 20, 21
_TC_PRIO_INTERACTIVE = 6  # socket(7), SO_PRIORITY: the highest that needs no privilege; first in pfifo_fast.

# linux/bpf_common.h: what an instruction does.
_LOAD_WORD, _LOAD_BYTE, _IF_GREATER, _IF_EQUAL, _RETURN = 0x20, 0x30, 0x25, 0x15, 0x06
_PACKET_TYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
_MULTICAST = 2  # PACKET_HOST 0, PACKET_BROADCAST 1, PACKET_MULTICAST 2; more is not for us.

Instruction = tuple[int, int, int, int]
Program = tuple[Instruction, ...]

_NO: Instruction = (_RETURN, 0, 0, 0)
_YES: Instruction = (_RETURN, 0, 0, LARGEST)
_SENT_TO_US: tuple[Instruction, ...] = ((_LOAD_WORD, 0, 0, _PACKET_TYPE), (_IF_GREATER, 0, 1, _MULTICAST), _NO)
_SENDER, _TARGET, _LAST = 28, 38, 41  # Offsets in a frame of ARP. A load behind its end means: not let through.
_OF_HEARTBEATS = IPv4Address("192.0.0.8")
ARP_FILTER = (*_SENT_TO_US, (_LOAD_BYTE, 0, 0, _LAST), _YES)
# IPv6's next header at 20 (58 is ICMPv6), ICMPv6's type at 54: 135 solicitation, 136 advertisement (RFC 4861).
NDP_FILTER = (
    *_SENT_TO_US, (_LOAD_BYTE, 0, 0, 20), (_IF_EQUAL, 0, 3, 58), (_LOAD_BYTE, 0, 0, 54), (_IF_EQUAL, 2, 0, 135),
    (_IF_EQUAL, 1, 0, 136), _NO, _YES,
)
MOST_LOOKED_FOR = 500
"""Of more addresses the kernel lets all of ARP through: a program's length is limited (BPF_MAXINSNS, optmem_max)."""


class Port:
    """One raw socket on one link, for one protocol."""

    def __init__(self, link: Link, protocol: int) -> None:
        self.link, self.protocol = link.index, protocol
        # Bound to no protocol at first, so that no frame passes before the filter stands.
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self.socket.setblocking(False)
            attach(self.socket, ARP_FILTER if protocol == ETH_P_ARP else NDP_FILTER)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _TC_PRIO_INTERACTIVE)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE)
            self.socket.bind((link.name, protocol))
            self._check(link)
        except OSError:
            self.socket.close()
            raise

    def fileno(self) -> int:
        return self.socket.fileno()

    def _check(self, link: Link) -> None:
        """Names can move: was it still this link's when the socket was bound by it? Raises OSError."""
        if socket.if_nametoindex(self.socket.getsockname()[0]) != link.index:
            raise OSError(errno.ENXIO, f"{link.name} is another interface now")

    def frames(self, most: int) -> Iterator[bytes]:
        """What has arrived, at most so many. Raises OSError if the interface failed."""
        for _ in range(most):
            try:
                yield self.socket.recv(LARGEST)
            except BlockingIOError:
                return

    def look_for(self, program: Program) -> None:
        """Lets through what this program does from now on; if it is too long for this kernel, all of ARP."""
        try:
            attach(self.socket, program)
        except OSError:
            attach(self.socket, ARP_FILTER)

    def hear(self, group: IPv6Address, wanted: bool = True) -> None:
        """Tells the card to let a group's frames in (RFC 2464, 7), or not any more."""
        request = struct.pack("=iHH8s", self.link, _PACKET_MR_MULTICAST, 6, b"\x33\x33" + group.packed[-4:])
        option = _PACKET_ADD_MEMBERSHIP if wanted else _PACKET_DROP_MEMBERSHIP
        self.socket.setsockopt(_SOL_PACKET, option, request)

    def overflows(self) -> int:
        """Frames that the kernel dropped since the last call, as the queue was full."""
        return int(struct.unpack("=II", self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1])


class Sockets:
    """Every port of every link. What went wrong is counted in `failures`, by the error's name."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._links: dict[int, Link] = {}
        self._ports: dict[tuple[int, int], Port] = {}
        self._groups: dict[int, set[IPv6Address]] = {}
        self._members = Members()
        self._arp_filter: Program = arp_filter(())
        self._overflows = 0
        self.failures: Counter[str] = Counter()
        self.refused: dict[str, str] = {}

    @property
    def ports(self) -> tuple[Port, ...]:
        return tuple(self._ports.values())

    @property
    def complete(self) -> bool:
        """Whether every port is open."""
        return len(self._ports) == 2 * len(self._links)

    def set_links(self, links: Iterable[Link]) -> None:
        """Opens what is new and closes what is gone. Ports are bound to the index, whatever the name."""
        wanted = {link.index: link for link in links}
        for port in self.ports:
            if port.link not in wanted:
                self._close(port)
        for index in self._groups.keys() - wanted.keys():
            for group in tuple(self._groups[index]):
                self.leave(index, group)
        self._links = wanted
        self.reopen()

    def reopen(self) -> None:
        """Opens what should be open and is not; what the kernel refuses is in `refused`, by the link's name."""
        self.refused = {}
        for link in self._links.values():
            for protocol in (ETH_P_ARP, ETH_P_IPV6):
                if (link.index, protocol) not in self._ports:
                    try:
                        self._open(Port(link, protocol))
                    except OSError as error:
                        self._count(error)
                        self.refused[link.name] = f"socket-refused: {error.strerror}{hint(error)}"

    def look_for(self, addresses: Iterable[IPAddress]) -> None:
        """Of ARP only what names one of these, and heartbeats, wakes this process: others' storms pass it by."""
        program = arp_filter(address for address in addresses if isinstance(address, IPv4Address))
        if program != self._arp_filter:
            self._arp_filter = program
            for port in self.ports:
                if port.protocol == ETH_P_ARP:
                    port.look_for(program)

    def receive(self, port: Port, most: int) -> list[bytes]:
        """What has arrived at a port, at most so many frames; of one that failed nothing, and it is closed."""
        if self._ports.get((port.link, port.protocol)) is not port:
            return []
        try:
            return list(port.frames(most))
        except OSError as error:
            self._failed(port, error)
            return []

    def send(self, link: int, frame: bytes) -> bool:
        """Sends a frame at once or drops it: one that waits would keep the next from going. Says whether it went."""
        port = self._ports.get((link, int.from_bytes(frame[12:14], "big")))
        if port is None:
            self.failures["ENXIO"] += 1
            return False
        try:
            port.socket.send(frame)
        except OSError as error:
            self._failed(port, error)
            return False
        return True

    def join(self, link: int, group: IPv6Address) -> None:
        """Hears a group on a link: the card by packet(7), switches that snoop by MLD."""
        self._groups.setdefault(link, set()).add(group)
        with self._noting():
            self._members.join(link, group)
        if (port := self._ports.get((link, ETH_P_IPV6))) is not None:
            with self._noting():
                port.hear(group)

    def leave(self, link: int, group: IPv6Address) -> None:
        """Hears a group no longer."""
        self._groups.get(link, set()).discard(group)
        with self._noting():
            self._members.leave(link, group)
        if (port := self._ports.get((link, ETH_P_IPV6))) is not None:
            with self._noting():
                port.hear(group, wanted=False)

    def discard(self, most: int = 10_000) -> int:
        """Throws away what waits in the queues, at most so many frames a port; says how many."""
        return sum(len(self.receive(port, most)) for port in self.ports)

    def overflows(self) -> int:
        """Frames lost since the start, as a queue was full."""
        for port in self.ports:
            with self._noting():
                self._overflows += port.overflows()
        return self._overflows

    def close(self) -> None:
        for port in self.ports:
            self._close(port)
        self._members.close()

    def _open(self, port: Port) -> None:
        if port.protocol == ETH_P_ARP:
            port.look_for(self._arp_filter)
        self._ports[port.link, port.protocol] = port
        self._selector.register(port, selectors.EVENT_READ, port)
        for group in self._groups.get(port.link, ()) if port.protocol == ETH_P_IPV6 else ():
            with self._noting():
                port.hear(group)

    def _close(self, port: Port) -> None:
        del self._ports[port.link, port.protocol]
        self._selector.unregister(port)
        port.socket.close()

    def _failed(self, port: Port, error: OSError) -> None:
        """Ends a port, unless it is a queue that is full, a frame that is too long, or an interface that was down:

        the kernel binds the socket again when that is up (packet(7), NETDEV_UP), so a hole need not become longer.
        """
        self._count(error)
        if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE, errno.ENETDOWN):
            self._close(port)

    def _count(self, error: OSError) -> None:
        self.failures[errno.errorcode.get(error.errno or 0, "unknown")] += 1

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._count(error)


class Members:
    """Memberships of IPv6 groups by the kernel (ipv6(7), IPV6_JOIN_GROUP), which speaks MLD for us.

    One socket holds as many as net.core.optmem_max allows; when it takes no more, another is opened.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._held: dict[tuple[int, IPv6Address], socket.socket] = {}

    def join(self, link: int, group: IPv6Address) -> None:
        """Raises OSError if the interface takes no IPv6 group."""
        if (link, group) in self._held:
            return
        try:
            self._join(self._sockets[-1] if self._sockets else self._another(), link, group)
        except OSError as error:
            if error.errno not in (errno.ENOBUFS, errno.ENOMEM):
                raise
            self._join(self._another(), link, group)

    def leave(self, link: int, group: IPv6Address) -> None:
        """Safe for a group that is not held, and for an interface that is gone."""
        member = self._held.pop((link, group), None)
        if member is not None:
            with contextlib.suppress(OSError):  # The kernel ended the membership with the interface.
                member.setsockopt(socket.IPPROTO_IPV6, _IPV6_LEAVE_GROUP, _membership(link, group))

    def close(self) -> None:
        for member in self._sockets:
            member.close()

    def _another(self) -> socket.socket:
        self._sockets.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
        return self._sockets[-1]

    def _join(self, member: socket.socket, link: int, group: IPv6Address) -> None:
        member.setsockopt(socket.IPPROTO_IPV6, _IPV6_JOIN_GROUP, _membership(link, group))
        self._held[link, group] = member


def arp_filter(addresses: Iterable[IPv4Address]) -> Program:
    """Lets through what has one of these as its target or its sender, and heartbeats."""
    found = list(itertools.islice(addresses, MOST_LOOKED_FOR + 1))
    if len(found) > MOST_LOOKED_FOR:
        return ARP_FILTER
    targets = named(_TARGET, (_OF_HEARTBEATS, *found))
    return (*_SENT_TO_US, (_LOAD_BYTE, 0, 0, _LAST), *targets, *named(_SENDER, found), _NO)


def named(offset: int, addresses: Iterable[IPv4Address]) -> Iterator[Instruction]:
    """Lets through a frame that has one of these at that offset."""
    yield (_LOAD_WORD, 0, 0, offset)
    for address in addresses:
        yield from ((_IF_EQUAL, 0, 1, int(address)), _YES)


def attach(to: socket.socket, program: Program) -> None:
    """Attaches a classic BPF program: struct sock_fprog points at struct sock_filter, each 8 bytes."""
    code = array.array("B", b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), code.buffer_info()[0]))


def hint(error: OSError) -> str:
    """What to do about a socket that the kernel refuses."""
    missing = error.errno in (errno.EPERM, errno.EACCES)
    return "; give the speaker's container the capability NET_RAW" if missing else "; tried again until it works"


def _membership(link: int, group: IPv6Address) -> bytes:
    return group.packed + struct.pack("=I", link)
