"""What interfaces this machine has, by the kernel's own word: rtnetlink, read by struct from the kernel's own socket.

The data plane follows it (`Follower`): an interface that comes, goes, loses its carrier or finishes IPv6's duplicate
detection is known within the same turn of its loop, without a poll. Control takes a look (`snapshot`), to know every
address of this machine and what kube-proxy holds on `kube-ipvs0`.
No capability is needed. A message that cannot be read is counted and skipped: one interface never hides the others.

Sources: rtnetlink(7), netlink(7), netdevice(7), linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, and the kernel's
Documentation/networking/operstates.rst.
"""

import errno
import os
import re
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import NamedTuple

import msgspec

from lbctl_l2.values import Link

# Where pods, tunnels and other software make interfaces of their own: MetalLB's list (manifests, excludel2.yaml).
EXCLUDED = (
    "^docker.*", "^cbr.*", "^dummy.*", "^virbr.*", "^lxcbr.*", "^veth.*", "^lo$", "^cali.*", "^tunl.*", "^flannel.*",
    "^kube-ipvs.*", "^cni.*", "^nodelocaldns.*", "^lxc.*",
)
IPVS = "kube-ipvs0"

# linux/if.h, netdevice(7)
IFF_UP, IFF_BROADCAST, IFF_RUNNING, IFF_NOARP, IFF_MULTICAST, IFF_LOWER_UP = 0x1, 0x2, 0x40, 0x80, 0x1000, 0x10000
ARPHRD_ETHER = 1
# linux/if_addr.h
IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x08, 0x40

# linux/netlink.h, linux/rtnetlink.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_REQUEST, _DUMP, _DUMP_INTERRUPTED = 0x1, 0x300, 0x10
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_EXT_MASK = 1, 3, 10, 29
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_WITHOUT_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_NUMBER = struct.Struct("=I")
_ERROR = struct.Struct("=i")
_LARGEST = 65_536


class Address(msgspec.Struct, frozen=True):
    """An address of an interface; `flags` as linux/if_addr.h names them."""

    interface: IPv4Interface | IPv6Interface
    flags: int = 0

    @property
    def usable(self) -> bool:
        """Not while IPv6's duplicate detection runs, and never if it failed."""
        return not self.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)


class Interface(msgspec.Struct, frozen=True):
    """One network interface as the kernel has it; `flags` as netdevice(7) names them, `master` 0 for none."""

    index: int
    name: str
    type: int
    flags: int
    mac: bytes
    master: int = 0
    addresses: tuple[Address, ...] = ()

    @property
    def carrier(self) -> bool:
        """Frames can pass: IFF_RUNNING (RFC 2863: up or unknown) and the driver's carrier (operstates.rst)."""
        return self.flags & (IFF_RUNNING | IFF_LOWER_UP) == IFF_RUNNING | IFF_LOWER_UP

    @property
    def link_local(self) -> IPv6Address | None:
        """The address that neighbour advertisements are sent from (RFC 4861, 4.4), once it is sure to be unique."""
        mine = (address.interface.ip for address in self.addresses if address.usable)
        return min((ip for ip in mine if isinstance(ip, IPv6Address) and ip.is_link_local), default=None)


class Exclusion:
    """Names of interfaces that nothing is announced on: regular expressions, found anywhere in the name.

    Raises ValueError that names the expression which is none.
    """

    def __init__(self, patterns: Iterable[str] = EXCLUDED) -> None:
        self.patterns = tuple(patterns)
        self._compiled = tuple(map(_compiled, self.patterns))

    def __contains__(self, name: str) -> bool:
        return any(pattern.search(name) for pattern in self._compiled)


def _compiled(pattern: str) -> re.Pattern[str]:
    """Each on its own: joined, one's flags and groups would be another's."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"excluded interfaces: {pattern!r} is not a regular expression: {error}") from error


def unusable(interface: Interface, excluded: Exclusion) -> str | None:
    """Why nothing is announced on an interface, as `token: sentence`; None if it can be used.

    As MetalLB chooses: up, not a port of a bridge or bond (its master is used), able to do ARP, not excluded. No
    address is needed. Beyond it: Ethernet only, since nothing else is framed alike.
    """
    if interface.name in excluded:
        return "excluded: its name is on the list of excluded interfaces"
    if interface.type != ARPHRD_ETHER or len(interface.mac) != 6 or not any(interface.mac):
        return f"not-ethernet: hardware type {interface.type} is not Ethernet"
    if interface.master:
        return "enslaved: it is a port of another interface, which is used in its place"
    if interface.flags & IFF_NOARP:
        return "noarp: ARP is switched off (ip link set … arp on)"
    if not interface.flags & IFF_UP:
        return "down: switched off (ip link set … up)"
    return None


def links(interfaces: Iterable[Interface], excluded: Exclusion) -> tuple[Link, ...]:
    """The links that addresses can be announced on, by index. One without carrier is among them, as not `up`."""
    usable = (interface for interface in interfaces if unusable(interface, excluded) is None)
    return tuple(link(interface) for interface in sorted(usable, key=lambda interface: interface.index))


def link(interface: Interface) -> Link:
    """An interface as the state machine needs it. ARP needs IFF_BROADCAST, NDP IFF_MULTICAST and a link-local."""
    link_local = interface.link_local
    return Link(
        index=interface.index,
        name=interface.name,
        mac=interface.mac,
        up=interface.carrier,
        arp=bool(interface.flags & IFF_BROADCAST),
        ndp=link_local is not None and bool(interface.flags & IFF_MULTICAST),
        addresses=tuple(address.interface for address in interface.addresses if address.usable),
        link_local=link_local,
    )


class Table:
    """Interfaces and addresses, one message at a time. No I/O.

    Addresses are kept as they came, 4 or 16 bytes: kube-proxy's `kube-ipvs0` may hold ten thousand.
    """

    def __init__(self) -> None:
        self._links: dict[int, Interface] = {}
        self._addresses: dict[int, dict[tuple[bytes, int], int]] = {}
        self.unreadable = 0

    def __iter__(self) -> Iterator[Interface]:
        return iter(self.without(Exclusion(())))

    def without(self, excluded: Exclusion) -> Iterator[Interface]:
        """The interfaces that are not excluded, by index, each with its addresses in order."""
        for index, found in sorted(self._links.items()):
            if found.name not in excluded:
                held = sorted(self._addresses.get(index, {}).items(), key=lambda one: (len(one[0][0]), one[0]))
                addresses = tuple(Address(interface_address(*address), flags) for address, flags in held)
                yield msgspec.structs.replace(found, addresses=addresses)

    def same(self, other: "Table") -> bool:
        """Whether both say the same of this machine."""
        return (self._links, self._addresses) == (other._links, other._addresses)

    def take(self, kind: int, body: bytes) -> bool:
        """Notes one message; says whether anything that matters is different now."""
        try:
            if kind in (_RTM_NEWLINK, _RTM_DELLINK):
                return self._take_link(kind == _RTM_NEWLINK, body)
            if kind in (_RTM_NEWADDR, _RTM_DELADDR):
                return self._take_address(kind == _RTM_NEWADDR, body)
        except (struct.error, ValueError):
            self.unreadable += 1
        return False

    def _take_link(self, there: bool, body: bytes) -> bool:
        family, kind, index, flags, _ = _LINK.unpack_from(body)
        if family != socket.AF_UNSPEC:
            # A bridge says RTM_DELLINK with AF_BRIDGE when a port leaves it; the interface itself lives on.
            return False
        if not there:
            self._addresses.pop(index, None)
            return self._links.pop(index, None) is not None
        found = _attributes(body, _LINK.size)
        if _IFLA_IFNAME not in found:
            # News of a wireless driver come as RTM_NEWLINK with nothing of the interface in it.
            return False
        name = found[_IFLA_IFNAME].rstrip(b"\0").decode()
        new = Interface(index, name, kind, flags, found.get(_IFLA_ADDRESS, b""), _number(found.get(_IFLA_MASTER)))
        changed = self._links.get(index) != new
        self._links[index] = new
        return changed

    def _take_address(self, there: bool, body: bytes) -> bool:
        _, length, flags, _, index = _ADDRESS.unpack_from(body)
        found = _attributes(body, _ADDRESS.size)
        # On a point-to-point interface IFA_ADDRESS is the other end's; IFA_LOCAL is ours wherever it is given.
        packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
        if len(packed) not in (4, 16) or length > 8 * len(packed):
            raise ValueError("neither an IPv4 nor an IPv6 address")
        address = (packed, length)
        if not there:
            return self._addresses.get(index, {}).pop(address, None) is not None
        held = self._addresses.setdefault(index, {})
        new = _number(found.get(_IFA_FLAGS), flags)
        changed = held.get(address) != new
        held[address] = new
        return changed


class Message(NamedTuple):
    """One message of netlink(7): an event carries the port and sequence of whoever caused it, an answer ours."""

    kind: int
    flags: int
    sequence: int
    port: int
    body: bytes


class Follower:
    """The interfaces of this network namespace, kept up to date. Not for more than one thread.

    A dump fills a second table beside the one in use, so that nobody ever sees half a machine; what happens meanwhile
    goes into both. After an overrun (ENOBUFS: the kernel dropped messages) and an interrupted dump it dumps again.
    """

    def __init__(self, *, follow: bool = True) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUPS if follow else 0))
        self._socket.setblocking(False)
        self._port = self._socket.getsockname()[0]
        self._table = Table()
        self._filling: Table | None = None
        self._known = False
        self._sequence = 0
        self._again = False
        self.overruns = 0
        self.refresh()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def dumping(self) -> bool:
        return self._filling is not None

    @property
    def knows(self) -> bool:
        """Whether the first dump is complete: until then there seem to be no interfaces at all."""
        return self._known

    def interfaces(self, excluded: Exclusion) -> tuple[Interface, ...]:
        """As last known, without the excluded ones."""
        return tuple(self._table.without(excluded))

    @property
    def unreadable(self) -> int:
        """Messages skipped since they made no sense."""
        return self._table.unreadable

    def refresh(self) -> None:
        """Asks for everything anew; `read` takes the answer. A dump that runs already is repeated at its end."""
        if self.dumping:
            self._again = True
        else:
            self._filling = Table()
            self._ask(_RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_EXT_MASK, _WITHOUT_STATISTICS))

    def read(self, datagrams: int = 32) -> bool:
        """Takes what is there, at most so many datagrams; says whether the interfaces are different now."""
        changed = False
        for _ in range(datagrams):
            try:
                data, (sender, _) = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1
                self.refresh()
                continue
            if sender == 0:  # The kernel's port; nobody else's word counts.
                for message in messages(data):
                    changed |= self._take(message)
        return changed

    def _take(self, message: Message) -> bool:
        if self._filling is None:
            return self._table.take(message.kind, message.body)
        if (message.port, message.sequence) != (self._port, self._sequence):
            self._filling.take(message.kind, message.body)
            return self._table.take(message.kind, message.body)
        self._again |= bool(message.flags & _DUMP_INTERRUPTED)
        if message.kind in (_NLMSG_DONE, _NLMSG_ERROR):
            return self._dumped(message.body)
        self._filling.take(message.kind, message.body)
        return False

    def _dumped(self, body: bytes) -> bool:
        """One part of the dump is there: links first, then addresses. Raises OSError if the kernel refused it."""
        assert self._filling is not None
        if len(body) >= _ERROR.size and (refused := _ERROR.unpack_from(body)[0]) < 0:
            raise OSError(-refused, f"rtnetlink: the kernel refused to list interfaces: {os.strerror(-refused)}")
        if self._asked == _RTM_GETLINK:
            self._ask(_RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0))
            return False
        before, self._table, self._filling, self._known = self._table, self._filling, None, True
        self._table.unreadable += before.unreadable
        if self._again:
            self._again = False
            self.refresh()
        return not before.same(self._table)

    def _ask(self, kind: int, body: bytes) -> None:
        self._asked = kind
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, self._sequence, 0)
        self._socket.send(header + body)


def snapshot(timeout: float = 5.0) -> tuple[Interface, ...]:
    """Every interface of this network namespace, with its addresses. Raises TimeoutError after so many seconds."""
    follower = Follower(follow=False)
    follower._socket.settimeout(timeout)
    try:
        while follower.dumping:
            follower.read(1)
    finally:
        follower.close()
    return follower.interfaces(Exclusion(()))


def ipvs_addresses(interfaces: Iterable[Interface]) -> frozenset[IPv4Address | IPv6Address]:
    """What kube-proxy in IPVS mode holds on `kube-ipvs0`: without strictARP the kernel answers for these on its own."""
    held = (interface.addresses for interface in interfaces if interface.name == IPVS)
    return frozenset(address.interface.ip for addresses in held for address in addresses)


def strict_arp(name: str, sysctls: str | os.PathLike[str] = "/proc/sys/net/ipv4/conf") -> bool:
    """Whether an interface answers only for its own addresses: arp_ignore of 1 or more, the larger of all and its own.

    kube-proxy's strictARP sets it (with arp_announce 2) for all. Source: Documentation/networking/ip-sysctl.rst.
    """
    return max(_sysctl(os.path.join(sysctls, which, "arp_ignore")) for which in ("all", name)) >= 1


def _sysctl(path: str) -> int:
    # Without pathlib: the data plane imports this module, and every node pays for what it loads.
    with open(path, encoding="ascii") as file:
        return int(file.read())


def interface_address(packed: bytes, length: int) -> IPv4Interface | IPv6Interface:
    return IPv4Interface((packed, length)) if len(packed) == 4 else IPv6Interface((packed, length))


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram. What is cut short ends it."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            return
        yield Message(kind, flags, sequence, port, data[at + _HEADER.size : at + length])
        at += (length + 3) & ~3


def _attributes(body: bytes, at: int) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if not _ATTRIBUTE.size <= length <= len(body) - at:
            raise ValueError("an attribute is longer than its message")
        found[kind & 0x3FFF] = body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _attribute(kind: int, value: int) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + _NUMBER.size, kind) + _NUMBER.pack(value)


def _number(packed: bytes | None, otherwise: int = 0) -> int:
    return otherwise if packed is None else int(_NUMBER.unpack(packed)[0])
