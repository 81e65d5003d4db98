"""A real data plane in one network namespace, a raw socket beside a real kernel in another, a veth between them.

For the packet conformance run (tests/lab/conformance). The frames are built here by struct, from the RFCs alone:
lbctl's own `packets` is what is judged. Sources: RFC 826, RFC 4861 4.3 and 4.4, RFC 1071, RFC 4291 2.7.1, packet(7).
"""

import errno
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from lbctl_l2.channel import TIMING, DataPlane, Log
from lbctl_l2.lab.namespaces import LabError, Namespace, inside
from lbctl_l2.wire import AddressReport, Order, State, Timing

VIP, OTHER, STRANGER = IPv4Address("192.0.2.100"), IPv4Address("192.0.2.101"), IPv4Address("192.0.2.66")
VIP6, OTHER6 = IPv6Address("2001:db8::100"), IPv6Address("2001:db8::101")
CLIENT, CLIENT6 = IPv4Address("192.0.2.2"), IPv6Address("2001:db8::2")
LINK_LOCAL, CLIENT_LINK_LOCAL = IPv6Address("fe80::a"), IPv6Address("fe80::c")
BROADCAST, NOBODY = b"\xff" * 6, bytes(6)
ALL_NODES = IPv6Address("ff02::1")
ARP, IPV6, VLAN = 0x0806, 0x86DD, 0x8100
REQUEST, REPLY = 1, 2
SOLICITATION, ADVERTISEMENT = 135, 136
ME = "node-a"
QUICK = Timing(rounds=(0.0, 0.1, 0.2, 0.3, 0.4))
Frame = Callable[[bytes], bool]


@dataclass(frozen=True)
class Arp:
    """An ARP packet in its frame (RFC 826); the defaults are a client's question for VIP."""

    sha: bytes
    spa: IPv4Address = CLIENT
    tpa: IPv4Address = VIP
    op: int = REQUEST
    tha: bytes = NOBODY
    to: bytes = BROADCAST
    source: bytes | None = None
    hardware: int = 1
    protocol: int = 0x0800
    sizes: tuple[int, int] = (6, 4)

    @property
    def frame(self) -> bytes:
        body = struct.pack("!HHBBH", self.hardware, self.protocol, *self.sizes, self.op)
        body += self.sha + self.spa.packed + self.tha + self.tpa.packed
        return self.to + (self.source or self.sha) + struct.pack("!H", ARP) + body

    @classmethod
    def of(cls, frame: bytes) -> Self:
        hardware, protocol, size, length, op = struct.unpack_from("!HHBBH", frame, 14)
        return cls(
            frame[22:28], IPv4Address(frame[28:32]), IPv4Address(frame[38:42]), op, frame[32:38],
            frame[:6], frame[6:12], hardware, protocol, (size, length),
        )


@dataclass(frozen=True)
class Ndp:
    """A neighbour solicitation or advertisement in its frame (RFC 4861, 4.3 and 4.4)."""

    mac: bytes
    source: IPv6Address
    to: IPv6Address
    target: IPv6Address = VIP6
    kind: int = SOLICITATION
    flags: int = 0
    option: bytes | None = None  # The link-layer address in the option, None for no option.
    ethernet: bytes | None = None
    hops: int = 255
    checksum: int | None = None

    @property
    def frame(self) -> bytes:
        kind_of_option = 1 if self.kind == SOLICITATION else 2
        options = b"" if self.option is None else bytes([kind_of_option, 1]) + self.option
        body = struct.pack("!BBHI", self.kind, 0, 0, self.flags << 24) + self.target.packed + options
        right = internet_checksum(self.source.packed + self.to.packed + struct.pack("!II", len(body), 58) + body)
        body = body[:2] + struct.pack("!H", right if self.checksum is None else self.checksum) + body[4:]
        head = struct.pack("!IHBB", 6 << 28, len(body), 58, self.hops) + self.source.packed + self.to.packed
        group = b"\x33\x33" + self.to.packed[-4:]
        return (self.ethernet or group) + self.mac + struct.pack("!H", IPV6) + head + body

    @classmethod
    def of(cls, frame: bytes) -> Self:
        option = frame[80:86] if len(frame) >= 86 else None
        return cls(
            frame[6:12], IPv6Address(frame[22:38]), IPv6Address(frame[38:54]), IPv6Address(frame[62:78]), frame[54],
            frame[58], option, frame[:6], frame[21], int.from_bytes(frame[56:58], "big"),
        )


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def solicited(address: IPv6Address) -> IPv6Address:
    """RFC 4291, 2.7.1."""
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])


class Prober:
    """A raw socket in the client's namespace: says and hears whole frames, whatever the client's kernel thinks."""

    def __init__(self, namespace: Namespace, name: str = "eth0") -> None:
        with inside(namespace.name):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        with inside(namespace.name):
            self.socket.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
            self.socket.bind((name, 3))  # ETH_P_ALL
        self.mac = mac_of(namespace, name)

    def say(self, *frames: bytes) -> None:
        for frame in frames:
            self.socket.send(frame)

    def hear(self, wanted: Frame, within: float = 5.0) -> bytes:
        """The next frame that is wanted. Fails after so many seconds."""
        frame = next((frame for _, frame in self.frames(within) if wanted(frame)), None)
        if frame is None:
            raise LabError(f"no such frame within {within} s")
        return frame

    def ask(self, frame: bytes, wanted: Frame, within: float = 0.1) -> bytes | None:
        """Says a frame; the next that is wanted, or None after so many seconds."""
        self.say(frame)
        return next((heard for _, heard in self.frames(within) if wanted(heard)), None)

    def collect(self, wanted: Frame, during: float) -> list[tuple[float, bytes]]:
        """Every frame that is wanted and comes within so many seconds, with the seconds since the first of them."""
        heard = [(at, frame) for at, frame in self.frames(during) if wanted(frame)]
        return [(at - heard[0][0], frame) for at, frame in heard]

    def forget(self) -> None:
        """What has arrived until now."""
        for _ in self.frames(0.01):
            pass

    def frames(self, during: float) -> Iterator[tuple[float, bytes]]:
        end = time.monotonic() + during
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                frame = self.socket.recv(4096)
            except TimeoutError:
                return
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # The interface was down for a while; the socket lives on.
                    raise
                continue
            yield time.monotonic(), frame


class Segment:
    """The speaker's namespace and the client's, `eth0` in each the two ends of a veth; link-locals without a wait."""

    def __init__(self, token: str) -> None:
        self.node, self.client = Namespace(token, "node"), Namespace(token, "client")
        for namespace in (self.node, self.client):
            namespace.sysctl({f"ipv6/conf/{which}/accept_dad": 0 for which in ("all", "default")})
            namespace.sysctl({"ipv6/conf/default/addr_gen_mode": 1, "ipv6/conf/default/router_solicitations": 0})
        self.connect("eth0")
        self.node.run(f"addr add {LINK_LOCAL}/64 dev eth0 nodad")
        self.client.run(
            f"addr add {CLIENT}/24 dev eth0", f"addr add {CLIENT6}/64 dev eth0 nodad",
            f"addr add {CLIENT_LINK_LOCAL}/64 dev eth0 nodad",
        )
        self.mac = mac_of(self.node)
        self.prober = Prober(self.client)

    def connect(self, name: str, up: bool = True) -> None:
        """Another veth between the two."""
        self.node.run(f"link add {name} type veth peer name {name} netns {self.client.name}")
        self.client.run(f"link set {name} up")
        if up:
            self.node.run(f"link set {name} up")


class Speaker:
    """The handle of a real data plane, with words for tests. Alone on its wire it announces at once."""

    def __init__(
        self, namespace: Namespace, timing: Timing = TIMING, excluded: tuple[str, ...] = ("^lo$",), me: str = ME,
    ) -> None:
        self.logs: list[Log] = []
        self._news = threading.Event()
        self.plane = DataPlane(
            me, "conformance", timing, excluded, heard=self._news.set, logged=self.logs.append,
        )
        with inside(namespace.name):
            self.plane.start()

    def announce(self, *orders: Order | IPv4Address | IPv6Address, until: State | None = State.SPEAKING) -> None:
        """Orders for these addresses and no others, and waits until all are in that state."""
        whole = [order if isinstance(order, Order) else Order(order, (ME,)) for order in orders]
        self.plane.orders(whole, ())
        wanted = {order.address for order in whole}
        self.wait(lambda: self.addresses().keys() == wanted)
        for address in wanted if until else ():
            self.wait_for(address, until)

    def addresses(self) -> dict[IPv4Address | IPv6Address, AddressReport]:
        report = self.plane.report()
        return {} if report is None else {address.address: address for address in report.addresses}

    def wait_for(self, address: IPv4Address | IPv6Address, state: State | None) -> None:
        self.wait(lambda: self.addresses()[address].state == state, lambda: f"{address}: {self.addresses()[address]}")

    def wait(self, until: Callable[[], bool], why: Callable[[], object] = lambda: "", within: float = 10.0) -> None:
        end = time.monotonic() + within
        while not until():
            if time.monotonic() > end:
                raise LabError(f"not within {within} s; {why()} {self.logs} {self.plane.report()}")
            self._news.wait(0.05)
            self._news.clear()

    def wait_for_links(self, *names: str) -> None:
        """Until these, and no others, can pass frames."""
        self.wait(lambda: {link.name for link in self.plane.links() if link.up} == set(names))

    def end(self) -> None:
        self.plane.leave(0.5)


def mac_of(namespace: Namespace, name: str = "eth0") -> bytes:
    return bytes.fromhex(namespace.json("link", "show", "dev", name)[0]["address"].replace(":", ""))


def is_arp(op: int, spa: IPv4Address = VIP) -> Frame:
    """A frame that carries an ARP packet of that kind, said in the name of that address."""
    return lambda frame: frame[12:14] == b"\x08\x06" and frame[20:22] == bytes([0, op]) and frame[28:32] == spa.packed


def is_advertisement(target: IPv6Address = VIP6) -> Frame:
    return lambda frame: frame[12:14] == b"\x86\xdd" and frame[54:55] == bytes([ADVERTISEMENT]) \
        and frame[62:78] == target.packed


def is_answer(address: IPv4Address | IPv6Address) -> Frame:
    """An answer to somebody's question: no announcement, which come on their own."""
    announced = is_gratuitous(address)
    said = is_advertisement(address) if isinstance(address, IPv6Address) else is_arp(REPLY, address)
    return lambda frame: said(frame) and not announced(frame)


def is_gratuitous(address: IPv4Address | IPv6Address) -> Frame:
    """An announcement to everybody."""
    if isinstance(address, IPv6Address):
        said = is_advertisement(address)
        return lambda frame: said(frame) and frame[58] == 0x20  # Override, and not solicited.
    return lambda frame: frame[:6] == BROADCAST and frame[12:14] == b"\x08\x06" and \
        frame[28:32] == frame[38:42] == address.packed
