"""The lab's measuring instruments: small processes that live in its namespaces, led by one line of JSON at a time.

    backends   answers UDP and TCP on every node with the node's name
    client     asks an address for its node every few milliseconds, through the real kernel's ARP and NDP
    watch      asks the wire who answers for an address, and writes down what is announced unasked
    relay      leads 127.0.0.1:PORT in each node's namespace to the same port outside: the way to the API server

`rig.py` starts them. Every time is CLOCK_MONOTONIC, the same for all processes of the machine. They ask the kernel for
real-time priority, so that a busy machine delays what is measured and not the measuring. They end with their
standard input. Imports the standard library alone.
"""

import contextlib
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from lbctl_l2.lab.namespaces import inside

GRACE = 0.2
"""Seconds that a late answer is still awaited when results are asked for."""
SOURCES = IPv4Address("198.18.0.0")
"""Probes carry their number in the sender's address, which answers repeat: RFC 2544's range for benchmarks, a /15."""
NUMBERS = 1 << 17
FAR = 1e12
"""A time that never comes. select(2) takes a day at most, so nothing is waited for longer than `LONGEST`."""
LONGEST = 3600.0
SOURCES6 = int(IPv6Address("fe80::1:0:0:0"))
ALL_NODES = IPv6Address("ff02::1")

_ARP, _IPV6, _ALL = 0x0806, 0x86DD, 3
_REQUEST, _REPLY = 1, 2
_NS, _NA = 135, 136
_IPV6_FREEBIND = 78  # linux/in6.h
_PKTINFO = struct.Struct("=I4s4s")  # in_pktinfo, ip(7): interface, our address, the datagram's destination

Address = IPv4Address | IPv6Address


class Ending(Exception):
    """Standard input has closed: who started us has ended."""


class Orders:
    """Standard input: `take` on a line asks for results, which are one line of JSON."""

    def __init__(self) -> None:
        os.set_blocking(0, False)
        self.answer("ready")

    def wait(self, sockets: Iterable[socket.socket], until: float | None = None) -> tuple[list[socket.socket], bool]:
        """The sockets that can be read, as soon as any can, and whether results are wanted. Raises `Ending`."""
        seconds = None if until is None else min(max(0.0, until - time.monotonic()), LONGEST)
        watched: list[Any] = [0, *sockets]
        ready = select.select(watched, [], [], seconds)[0]
        wanted = 0 in ready
        if wanted and not os.read(0, 4096):
            raise Ending
        return [one for one in ready if one != 0], wanted

    @staticmethod
    def answer(value: object) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()


# -- backends --------------------------------------------------------------------------------------------------------


def backends(port: int, nodes: Mapping[str, str]) -> None:
    """Answer every datagram and connection with the name of the node, whatever address it was sent to.

    nodes  name → its namespace
    """
    serve: dict[socket.socket, Callable[[socket.socket], None]] = {}
    for node, namespace in nodes.items():
        with inside(namespace):
            for family in (socket.AF_INET, socket.AF_INET6):
                serve[_datagrams(family, port)] = lambda listener, node=node: _echo(listener, node)  # type: ignore[misc]
                serve[_connections(family, port)] = lambda listener, node=node: _greet(listener, node)  # type: ignore[misc]
    orders = Orders()
    while True:
        for ready in orders.wait(serve)[0]:
            with contextlib.suppress(OSError):
                serve[ready](ready)


def _datagrams(family: socket.AddressFamily, port: int) -> socket.socket:
    udp = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        # Its answers come from an address that is routed here, but on no interface.
        udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        udp.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
    udp.bind(("", port))
    return udp


def _connections(family: socket.AddressFamily, port: int) -> socket.socket:
    tcp = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        tcp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind(("", port))
    tcp.listen(128)
    return tcp


def _echo(udp: socket.socket, node: str) -> None:
    """From the address that was asked: a client takes an answer from no other."""
    said, control, _, sender = udp.recvmsg(64, 128)
    level, kind, info = control[0]
    if udp.family == socket.AF_INET:
        _, _, asked = _PKTINFO.unpack(info)
        info = _PKTINFO.pack(0, asked, bytes(4))
    udp.sendmsg([said + node.encode()], [(level, kind, info)], 0, sender)


def _greet(listener: socket.socket, node: str) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.send(node.encode())


# -- client ----------------------------------------------------------------------------------------------------------


def client(namespace: str, interface: str, address: str, port: int, interval: float, mode: str) -> None:
    """Ask `address` every `interval` seconds who serves it. `take` answers [sent, answered or null, node] of each.

    kept      one UDP socket; the kernel's neighbour cache is left alone, as a long-lived client's
    fresh     one UDP socket; the neighbour is forgotten before each datagram, so each asks the wire as a new client
    connect   a new TCP connection each time, and the neighbour forgotten before it
    """
    asker = (_Connector if mode == "connect" else _Sender)(namespace, interface, ip_address(address), port, mode)
    orders, taking = Orders(), 0.0
    due = time.monotonic()
    while True:
        ready, wanted = orders.wait(asker.waiting(), due)
        now = time.monotonic()
        taking = now if wanted else taking
        for heard in ready:
            asker.hear(heard, now)
        if taking and now > taking + GRACE:
            orders.answer(asker.take(taking))
            taking = 0.0
        if now >= due:
            asker.ask(time.monotonic())
            # A late turn is not made up for: a burst would hide the gap.
            due = max(due + interval, now)


class _Sender:
    """One UDP socket that asks again and again."""

    def __init__(self, namespace: str, interface: str, address: Address, port: int, mode: str) -> None:
        self._fresh = mode != "kept"
        self._family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        self._target = (str(address), port)
        self._namespace = namespace
        self.asked: dict[int, list[Any]] = {}
        self._number = 0
        with inside(namespace):
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
            self._forget = _delete_neighbour(socket.if_nametoindex(interface), address)
            self._open()

    def _open(self) -> None:
        self._udp = socket.socket(self._family, socket.SOCK_DGRAM)
        self._udp.connect(self._target)
        self._udp.setblocking(False)

    def waiting(self) -> Sequence[socket.socket]:
        return [self._udp]

    def ask(self, now: float) -> None:
        self._number += 1
        self.asked[self._number] = [now, None, ""]
        self.forget()
        # The second time, because the first one may only report that an earlier datagram found no neighbour.
        for _ in range(2):
            with contextlib.suppress(OSError):
                self._udp.send(struct.pack("!I", self._number))
                return

    def forget(self) -> None:
        """Make the kernel forget the neighbour. It complains where it knows none; nobody listens."""
        if self._fresh:
            self._netlink.send(self._forget)

    def hear(self, udp: socket.socket, now: float) -> None:
        with contextlib.suppress(OSError):
            while True:
                said = udp.recv(64)
                asked = self.asked.get(int.from_bytes(said[:4], "big"))
                if asked and asked[1] is None:
                    asked[1:] = now, said[4:].decode()

    def take(self, before: float) -> list[list[Any]]:
        taken = [number for number, asked in self.asked.items() if asked[0] <= before]
        return [self.asked.pop(number) for number in taken]


class _Connector(_Sender):
    """A new connection for each question."""

    def _open(self) -> None:
        self._open_ones: dict[socket.socket, tuple[int, float]] = {}

    def waiting(self) -> Sequence[socket.socket]:
        return list(self._open_ones)

    def ask(self, now: float) -> None:
        self._number += 1
        self.asked[self._number] = [now, None, ""]
        self.forget()
        with inside(self._namespace):
            tcp = socket.socket(self._family, socket.SOCK_STREAM)
        tcp.setblocking(False)
        tcp.connect_ex(self._target)
        self._open_ones[tcp] = self._number, now
        for old in [old for old, (_, since) in self._open_ones.items() if now - since > 1.0]:
            self._close(old)

    def hear(self, tcp: socket.socket, now: float) -> None:
        number, _ = self._open_ones[tcp]
        with contextlib.suppress(OSError):
            if said := tcp.recv(64):
                self.asked.get(number, [])[1:] = [now, said.decode()]
        self._close(tcp)

    def _close(self, tcp: socket.socket) -> None:
        del self._open_ones[tcp]
        tcp.close()


def _delete_neighbour(index: int, address: Address) -> bytes:
    """RTM_DELNEIGH of rtnetlink(7), without asking for a receipt."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = struct.pack("=BxxxiHBB", family, index, 0, 0, 0)
    body += struct.pack("=HH", 4 + len(address.packed), 1) + address.packed  # NDA_DST
    return struct.pack("=IHHII", 16 + len(body), 29, 0x1, 0, 0) + body


# -- watch -----------------------------------------------------------------------------------------------------------


def watch(namespace: str, interface: str, addresses: Sequence[str], interval: float) -> None:
    """Ask the wire for every address, every `interval` seconds (0: never), and hear what is announced unasked.

    `take` answers {"probes": [[sent, address, [MAC, …]], …], "announcements": [[heard, kind, address, MAC], …]},
    where kind is `request` or `reply` (gratuitous ARP) or `advertisement` (unsolicited, NDP).
    """
    watcher = _Watcher(namespace, interface, [ip_address(address) for address in addresses])
    orders, taking = Orders(), 0.0
    due = time.monotonic() if interval else FAR
    while True:
        ready, wanted = orders.wait([watcher.wire], min(due, taking + GRACE) if taking else due)
        now = time.monotonic()
        taking = now if wanted else taking
        if ready:
            watcher.hear(now)
        if taking and now >= taking + GRACE:
            orders.answer(watcher.take(taking))
            taking = 0.0
        if now >= due:
            watcher.ask(time.monotonic())
            due = max(due + interval, now)


class _Watcher:
    """A raw socket that asks and hears."""

    def __init__(self, namespace: str, interface: str, addresses: Sequence[Address]) -> None:
        with inside(namespace):
            self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            self.wire.bind((interface, _ALL))
            self._mac = self.wire.getsockname()[4]
        self.wire.setblocking(False)
        self._addresses = {address.packed: str(address) for address in addresses}
        self._probes: dict[int, list[Any]] = {}
        self._announcements: list[list[Any]] = []
        self._number = 0

    def ask(self, now: float) -> None:
        for packed, address in self._addresses.items():
            self._number = (self._number + 1) % NUMBERS
            self._probes[self._number] = [now, address, []]
            build = arp_request if len(packed) == 4 else solicitation
            self.wire.send(build(self._mac, self._number, packed))

    def hear(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, protocol, kind, *_) = self.wire.recvfrom(2048)
                if kind != socket.PACKET_OUTGOING and protocol in (_ARP, _IPV6):
                    (self._arp if protocol == _ARP else self._ndp)(frame, now)

    def take(self, before: float) -> dict[str, Any]:
        taken = [number for number, probe in self._probes.items() if probe[0] <= before]
        probes = [self._probes.pop(number) for number in taken]
        heard, self._announcements = self._announcements, []
        return {"probes": probes, "announcements": heard}

    def _arp(self, frame: bytes, now: float) -> None:
        op, sender, target = int.from_bytes(frame[20:22], "big"), frame[28:32], frame[38:42]
        if sender not in self._addresses:
            return
        if sender == target:
            said = "request" if op == _REQUEST else "reply"
            self._announcements.append([now, said, self._addresses[sender], frame[22:28].hex(":")])
        elif op == _REPLY:
            self._answered(int(IPv4Address(target)) - int(SOURCES), frame[22:28])

    def _ndp(self, frame: bytes, now: float) -> None:
        if frame[20] != socket.IPPROTO_ICMPV6 or frame[54] != _NA or (target := frame[62:78]) not in self._addresses:
            return
        to = IPv6Address(frame[38:54])
        if to == ALL_NODES:
            self._announcements.append([now, "advertisement", self._addresses[target], frame[80:86].hex(":")])
        else:
            self._answered(int(to) - SOURCES6, frame[80:86])

    def _answered(self, number: int, mac: bytes) -> None:
        if probe := self._probes.get(number):
            probe[2].append(mac.hex(":"))


def arp_request(mac: bytes, number: int, target: bytes) -> bytes:
    """Who has the target (RFC 826)? Asked by the number."""
    sender = (SOURCES + number).packed
    head = b"\xff" * 6 + mac + struct.pack("!HHHBBH", _ARP, 1, 0x0800, 6, 4, _REQUEST)
    return head + mac + sender + bytes(6) + target


def solicitation(mac: bytes, number: int, target: bytes) -> bytes:
    """The same as a neighbour solicitation (RFC 4861, 4.3) to the target's solicited-node group."""
    source = IPv6Address(SOURCES6 + number).packed
    group = IPv6Address("ff02::1:ff00:0").packed[:13] + target[13:]
    body = struct.pack("!BBHI", _NS, 0, 0, 0) + target + b"\x01\x01" + mac
    check = _checksum(source + group + struct.pack("!II", len(body), 58) + body)
    body = body[:2] + struct.pack("!H", check) + body[4:]
    head = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + group
    return b"\x33\x33" + group[12:] + mac + struct.pack("!H", _IPV6) + head + body


def _checksum(data: bytes) -> int:
    """RFC 1071; the length is even."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# -- relay -----------------------------------------------------------------------------------------------------------


def relay(port: int, namespaces: Sequence[str]) -> None:
    """Let 127.0.0.1:port in each namespace be the same port out here, where this process was started."""
    listeners = []
    for namespace in namespaces:
        with inside(namespace):
            listener = socket.create_server(("127.0.0.1", port), backlog=64)
        listener.setblocking(False)
        listeners.append(listener)
    orders, pipes = Orders(), _Pipes()
    while True:
        for ready in orders.wait([*listeners, *pipes.ends])[0]:
            if ready in listeners:
                pipes.open(ready, port)
            else:
                pipes.pass_on(ready)


class _Pipes:
    """Pairs of connections; what comes out of one end goes into the other."""

    def __init__(self) -> None:
        self.ends: dict[socket.socket, socket.socket] = {}

    def open(self, listener: socket.socket, port: int) -> None:
        near, _ = listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", port), 1.0)
        except OSError:
            near.close()
            return
        near.settimeout(5.0)
        far.settimeout(5.0)
        self.ends |= {near: far, far: near}

    def pass_on(self, end: socket.socket) -> None:
        """As much as is there; the end of one side is the end of both."""
        if end not in self.ends:
            return
        other = self.ends[end]
        try:
            if said := end.recv(65536):
                other.sendall(said)
                return
        except OSError:
            pass
        for gone in (end, other):
            del self.ends[gone]
            gone.close()


ROLES: Mapping[str, Callable[..., None]] = {"backends": backends, "client": client, "watch": watch, "relay": relay}


def main(role: str, arguments: str) -> None:
    """One instrument, until its standard input ends."""
    if role != "relay":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    with contextlib.suppress(Ending, KeyboardInterrupt, BrokenPipeError):
        ROLES[role](**json.loads(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
