"""An Ethernet segment in memory, in virtual time: nodes with real `wire.Machine`s, hosts, and everything that fails.

Tests tell their stories with it, and `lbctl demo` shows a failover where there is no root for a real one. Nothing
waits: `run` jumps from event to event. The same seed gives the same run.

    segment = Segment()
    segment.add("a", "b", "c")
    segment.order("10.0.0.100", "a", "b", "c")
    segment.run(1)
    segment.kill("a")
    segment.run(1)
    segment.speakers("10.0.0.100")      # ["b"]
"""

import heapq
import itertools
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_interface

import msgspec

from lbctl_l2 import packets
from lbctl_l2.packets import Advertisement, Arp, Solicitation
from lbctl_l2.values import IPAddress, IPInterface, Join, Leave, Link, Order, Out, Peer, PeerLink, Send, Timing
from lbctl_l2.wire import Machine

QUEUE = 300
"""So many frames wait in a frozen node's socket; more are lost, as in a kernel."""


class Port:
    """One end of the wire. `silent`: nothing passes, and the carrier does not show it. `last`: when what was sent by
    whom arrives here; a wire changes no order.
    """

    def __init__(self, owner: "Node | Host", link: Link, wire: str) -> None:
        self.owner, self.link, self.wire = owner, link, wire
        self.silent = False
        self.last: dict[bytes, float] = {}


class Node:
    """One machine with its links. `told` is what control has said last, so that a restart can say it again."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.number = name, number
        self.machine: Machine | None = None
        self.ports: dict[int, Port] = {}
        self.frozen = False
        self.queue: deque[tuple[int, bytes]] = deque(maxlen=QUEUE)
        self.wakes: float | None = None
        self.due = math.inf
        self.revision = -1
        self.groups: set[tuple[int, IPv6Address]] = set()
        self.told: tuple[tuple[Order, ...], tuple[Peer, ...]] = ((), ())

    @property
    def peer(self) -> Peer:
        """As the others know it from its Lease."""
        return Peer(self.name, tuple(PeerLink(port.link.name, port.link.mac, tuple(
            address.network for address in port.link.addresses if not address.is_link_local))
            for port in self.ports.values()))

    @property
    def works(self) -> bool:
        """Its data plane runs."""
        return self.machine is not None and not self.frozen


class Host:
    """A client or router that is no speaker: it asks, keeps a neighbour cache as a kernel does, and may claim."""

    def __init__(self, segment: "Segment", name: str, number: int) -> None:
        self.name, self._segment = name, segment
        self.link = _link(1, "eth0", number)
        self.cache: dict[IPAddress, bytes] = {}
        self.answers: list[tuple[float, IPAddress, bytes]] = []
        self.claimed: set[IPAddress] = set()

    def ask(self, address: str) -> None:
        """Who has it?"""
        target, mac = ip_address(address), self.link.mac
        own = self.link.addresses[0 if target.version == 4 else 1].packed
        question = packets.arp_request if target.version == 4 else packets.solicitation
        self.send(question(mac, own, target.packed))

    def claim(self, address: str) -> None:
        """Announce the address as my own, and answer for it from now on."""
        target, mac = ip_address(address), self.link.mac
        self.claimed.add(target)
        if target.version == 4:
            for frame in packets.gratuitous(mac, target.packed):
                self.send(frame)
        else:
            self.send(packets.unsolicited(mac, self.link.addresses[2].packed, target.packed))

    def send(self, frame: bytes) -> None:
        """Any frame whatever."""
        self._segment.transmit(self._segment.port(self.name), frame)

    def hear(self, frame: bytes) -> None:
        """Answers and announcements go into the cache; questions for what I claim are answered."""
        packet = packets.parse(frame)
        if isinstance(packet, Arp):
            self._learn(packet.sender, packet.sender_mac, asked=packet.reply and packet.to == self.link.mac)
            if not packet.reply and ip_address(packet.target) in self.claimed:
                self.send(packets.arp_reply(self.link.mac, packet.target, packet.sender_mac, packet.sender))
        elif isinstance(packet, Advertisement):
            self._learn(packet.target, packet.mac, asked=packet.solicited)
        elif isinstance(packet, Solicitation) and ip_address(packet.target) in self.claimed:
            own = self.link.addresses[2].packed
            self.send(packets.answer(self.link.mac, own, packet.target, packet.asker, packet.source))

    def _learn(self, packed: bytes, mac: bytes, asked: bool) -> None:
        """An announcement changes what is known, and teaches nothing new (arp_accept is off)."""
        if not any(packed):
            return
        address = ip_address(packed)
        if asked:
            self.answers.append((self._segment.now, address, mac))
        if asked or address in self.cache:
            self.cache[address] = mac


class Spell(msgspec.Struct):
    """A time in which one node answered for one address; `settled` at its beginning. No `until` while it still does."""

    node: str
    since: float
    settled: bool
    until: float | None = None


class Segment:
    """The wire and all that is on it. All times are in seconds, and `loss` is a share.

    late   a data plane's timers go off up to so much late
    slow   a data plane wakes up to so much late when a frame arrives
    """

    def __init__(self, timing: Timing | None = None, *, seed: int = 0, delay: float = 0.0002, jitter: float = 0.0001,
                 loss: float = 0.0, late: float = 0.0, slow: float = 0.0, cluster: str = "test") -> None:
        self.timing, self.cluster = timing or Timing(), cluster
        self.random = random.Random(seed)
        self.now = 1000.0
        self.delay, self.jitter, self.loss, self.late, self.slow = delay, jitter, loss, late, slow
        self.nodes: dict[str, Node] = {}
        self.hosts: dict[str, Host] = {}
        self.sent: Counter[str] = Counter()
        self.announcements: list[tuple[float, str, IPAddress]] = []
        self.spells: dict[IPAddress, list[Spell]] = defaultdict(list)
        self.orders: dict[IPAddress, Order] = {}
        self.history = True
        self._ports: dict[str, list[Port]] = defaultdict(list)
        self._by_mac: dict[tuple[str, bytes], Port] = {}
        self._groups: list[frozenset[str]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    # -- building --

    def add(self, *names: str, links: Iterable[tuple[str, str]] = (("eth0", "lan"),)) -> None:
        """Nodes with links (interface, wire). They start, and are told of all others and of all orders."""
        for name in names:
            number = len(self.nodes) + 1
            node = self.nodes[name] = Node(name, number)
            for index, (interface, wire) in enumerate(links, 1):
                self._attach(Port(node, _link(index, interface, number), wire))
        for name in names:
            self.start(name)
        self.tell()

    def host(self, name: str, wire: str = "lan") -> Host:
        """A host on a wire."""
        host = self.hosts[name] = Host(self, name, 200 + len(self.hosts))
        self._attach(Port(host, host.link, wire))
        return host

    def _attach(self, port: Port) -> None:
        self._ports[port.wire].append(port)
        self._by_mac[port.wire, port.link.mac] = port
        if isinstance(port.owner, Node):
            port.owner.ports[port.link.index] = port

    def mac(self, name: str) -> bytes:
        """The MAC of a host's or node's first port."""
        return self.port(name).link.mac

    def address(self, text: str) -> IPAddress:
        """An address as the segment's tables know it."""
        return ip_address(text)

    def port(self, name: str) -> Port:
        """A host's or node's first port."""
        return next(port for ports in self._ports.values() for port in ports if port.owner.name == name)

    # -- control --

    def order(self, address: str, *ranking: str, told: Iterable[str] | None = None, **more: object) -> None:
        """A standing order, from now on; `told` only these nodes, until `tell`."""
        order = msgspec.structs.replace(Order(ip_address(address), ranking), **more)
        self.orders[order.address] = order
        self.tell(*(self.nodes if told is None else told))

    def order_all(self, rankings: Mapping[str, Iterable[str]]) -> None:
        """Many orders at once."""
        for address, ranking in rankings.items():
            order = Order(ip_address(address), tuple(ranking))
            self.orders[order.address] = order
        self.tell()

    def withdraw(self, address: str) -> None:
        """No order for it any more."""
        del self.orders[ip_address(address)]
        self.tell()

    def tell(self, *names: str) -> None:
        """Give these nodes (or all) the orders and the roll as they are now."""
        peers = tuple(node.peer for node in self.nodes.values())
        for name in names or self.nodes:
            node = self.nodes[name]
            node.told = (tuple(self.orders.values()), peers)
            if node.works:
                self._call(node, self._telling(node))

    def settle(self, *names: str) -> None:
        """These nodes (or all) count as settled."""
        for name in names or self.nodes:
            if self.nodes[name].works:
                self._call(self.nodes[name], lambda machine: machine.settle(self.now))

    def leave(self, name: str) -> None:
        """SIGTERM: hand over and end."""
        self._call(self.nodes[name], lambda machine: machine.leave(self.now))

    # -- what fails --

    def start(self, name: str) -> None:
        """Start a node, or start it again: it knows its last orders, and nothing else."""
        node = self.nodes[name]
        node.machine, node.frozen, node.revision = Machine(name, self.cluster, self.timing, self.now), False, -1
        node.queue.clear()
        node.wakes, node.groups = None, set()
        self._call(node, self._linking(node))
        self._call(node, self._telling(node))

    def _linking(self, node: Node) -> Callable[[Machine], list[Out]]:
        return lambda machine: machine.set_links([port.link for port in node.ports.values()], self.now)

    def _telling(self, node: Node) -> Callable[[Machine], list[Out]]:
        return lambda machine: machine.set_orders(*node.told, self.now)

    def kill(self, *names: str) -> None:
        """The process is gone, without a word."""
        for name in names:
            self.nodes[name].machine = None
            self._note(self.nodes[name])

    def freeze(self, *names: str) -> None:
        """SIGSTOP: it does nothing, and its frames queue up."""
        for name in names:
            self.nodes[name].frozen = True
            self._note(self.nodes[name])

    def resume(self, *names: str) -> None:
        """SIGCONT: all that has queued up comes at once."""
        for name in names:
            node = self.nodes[name]
            node.frozen = False
            self._wake(node)
            self._call(node, self._linking(node))

    def unplug(self, name: str, index: int = 1) -> None:
        """The cable is pulled: the node sees the carrier go."""
        self._carrier(name, index, False)

    def plug(self, name: str, index: int = 1) -> None:
        """The cable is back."""
        self._carrier(name, index, True)

    def _carrier(self, name: str, index: int, up: bool) -> None:
        node = self.nodes[name]
        port = node.ports[index]
        port.link = msgspec.structs.replace(port.link, up=up)
        if node.works:
            self._call(node, self._linking(node))

    def silence(self, name: str, index: int = 1, silent: bool = True) -> None:
        """Nothing passes this port, and nobody sees that."""
        self.nodes[name].ports[index].silent = silent

    def partition(self, *groups: Iterable[str]) -> None:
        """Only those within the same group hear each other; who is in none hears nobody."""
        self._groups = [frozenset(group) for group in groups]

    def heal(self) -> None:
        """No partition any more."""
        self._groups = []

    # -- what is seen --

    def speakers(self, address: str) -> list[str]:
        """Who answers for it now, as the machines say; the frozen and the unplugged do not."""
        target = ip_address(address)
        return [node.name for node in self.nodes.values() if self._answers(node, target)]

    def longest_silence(self, address: str, since: float) -> float:
        """The longest time, from `since` until now, in which nobody answered for the address."""
        spells = sorted((max(s.since, since), self.now if s.until is None else s.until)
                        for s in self.spells[ip_address(address)] if s.until is None or s.until > since)
        reached, longest = since, 0.0
        for begin, end in spells:
            longest, reached = max(longest, begin - reached), max(reached, end)
        return max(longest, self.now - reached)

    def longest_double(self, address: str, since: float) -> float:
        """The longest time, from `since` until now, in which two or more answered for the address."""
        edges = []
        for spell in self.spells[ip_address(address)]:
            end = self.now if spell.until is None else spell.until
            if end > since:
                edges += [(max(spell.since, since), 1), (end, -1)]
        many, longest, began = 0, 0.0, since
        for at, step in sorted(edges):
            if many >= 2:
                longest = max(longest, at - began)
            if many < 2 <= many + step:
                began = at
            many += step
        return longest

    def announcers(self, address: str, since: float) -> list[str]:
        """Who sent gratuitous announcements for it since then, in order, each once in a row."""
        names = [name for at, name, said in self.announcements if said == ip_address(address) and at >= since]
        return [name for name, _ in itertools.groupby(names)]

    def _answers(self, node: Node, address: IPAddress) -> bool:
        return node.machine is not None and not node.frozen and node.machine.answers(address)

    # -- time --

    def run(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Do this then."""
        heapq.heappush(self._events, (when, next(self._count), event))

    def _call(self, node: Node, step: Callable[[Machine], list[Out]]) -> None:
        """One step of a machine, and all that follows from it."""
        machine = node.machine
        if machine is None:
            return
        for out in step(machine):
            self._carry_out(node, out)
        if machine.left:
            node.machine = None
        if machine.revision != node.revision or node.machine is None:
            node.revision = machine.revision
            self._note(node)
        self._plan(node)

    def _carry_out(self, node: Node, out: Out) -> None:
        if isinstance(out, Send):
            self.transmit(node.ports[out.link], out.frame)
        elif isinstance(out, Join):
            assert (out.link, out.group) not in node.groups
            node.groups.add((out.link, out.group))
        elif isinstance(out, Leave):
            node.groups.remove((out.link, out.group))

    def _plan(self, node: Node) -> None:
        """Wake the node when its machine wants it, unless it wakes before that anyway."""
        due = node.machine.deadline() if node.machine else None
        if due is None or node.frozen:
            return
        if node.wakes is None or due < node.due:
            node.due = due
            self._schedule(node, max(due, self.now) + self.random.random() * self.late)

    def _schedule(self, node: Node, when: float) -> None:
        node.wakes = when
        machine = node.machine
        self.at(when, lambda: self._wake(node) if node.wakes == when and node.machine is machine else None)

    def _wake(self, node: Node) -> None:
        """As the process does: read all that is there, then see what is due."""
        node.wakes = None
        if not node.works:
            return
        while node.queue and node.works:
            index, frame = node.queue.popleft()
            self._read(node, index, frame)
        node.wakes = None
        self._call(node, lambda machine: machine.tick(self.now))

    def _read(self, node: Node, index: int, frame: bytes) -> None:
        self._call(node, lambda machine: machine.frame(index, frame, self.now))

    # -- the wire --

    def transmit(self, port: Port, frame: bytes) -> None:
        """A switch: to the owner of a MAC, or to all; each copy late or lost as it happens."""
        self.sent[port.owner.name] += 1
        self._note_announcement(port, frame)
        if not port.link.up or port.silent:
            return
        target = self._by_mac.get((port.wire, frame[:6]))
        for other in (target,) if target else self._ports[port.wire] if frame[0] & 1 else ():
            if other is not port and self._reaches(port, other) and self.random.random() >= self.loss:
                arrives = max(self.now + self.delay + self.random.random() * self.jitter,
                              other.last.get(port.link.mac, 0.0))
                other.last[port.link.mac] = arrives
                self.at(arrives, partial(self._deliver, other, frame))

    def _reaches(self, port: Port, other: Port) -> bool:
        if other.silent or not other.link.up:
            return False
        names = {port.owner.name, other.owner.name}
        return not self._groups or any(names <= group for group in self._groups)

    def _deliver(self, port: Port, frame: bytes) -> None:
        if port.silent or not port.link.up:
            return
        owner = port.owner
        if isinstance(owner, Host):
            owner.hear(frame)
        elif owner.frozen:
            owner.queue.append((port.link.index, frame))
        elif self.slow:
            owner.queue.append((port.link.index, frame))
            wake = self.now + self.random.random() * self.slow
            if owner.wakes is None or wake < owner.wakes:
                self._schedule(owner, wake)
        elif owner.machine is not None:
            self._read(owner, port.link.index, frame)

    def _note_announcement(self, port: Port, frame: bytes) -> None:
        if not self.history or not frame[0] & 1:
            return
        packet = packets.parse(frame)
        if isinstance(packet, Arp) and packet.sender == packet.target:
            self.announcements.append((self.now, port.owner.name, ip_address(packet.sender)))
        elif isinstance(packet, Advertisement) and packet.override:
            self.announcements.append((self.now, port.owner.name, ip_address(packet.target)))

    def _note(self, node: Node) -> None:
        """Keep the history of who answered when."""
        for address in self.orders if self.history else ():
            spells = self.spells[address]
            open_spell = next((spell for spell in reversed(spells) if spell.node == node.name and spell.until is None),
                              None)
            answers = self._answers(node, address)
            if answers and open_spell is None:
                settled = node.machine is not None and node.machine.settled
                spells.append(Spell(node.name, self.now, settled))
            elif not answers and open_spell is not None:
                open_spell.until = self.now


def _link(index: int, name: str, number: int) -> Link:
    """Interface `index` of host `number`: 10.0.0.<number>/24 and fd00::<number>/64 on the first, and so on."""
    net = index - 1
    local = IPv6Address(f"fe80::{index}:{number:x}")
    high, low = divmod(number, 250)
    addresses: tuple[IPInterface, ...] = (
        ip_interface(f"10.{net}.{high}.{low + 1}/16"), ip_interface(f"fd00:{net}::{number:x}/64"),
        ip_interface(f"{local}/64"))
    return Link(index, name, bytes((2, 0, 0, index, high, low)), addresses=addresses, link_local=local)
