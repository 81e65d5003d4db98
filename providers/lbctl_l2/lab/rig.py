"""A segment with nodes, a client and a router, each a network namespace, and the faults that can befall them.

    client  192.0.2.2     a host whose kernel does ARP and NDP      node-1   192.0.2.11 …
    watch   192.0.2.3     asks the wire, and hears it               outside  198.51.100.2, behind the router
    router  192.0.2.1     forwards for `outside`

        node-1  node-2 …           node-n  client  watch  router
      ─────┴───────┴── left bridge ──┴───────┴───────┴──────┘      `split` moves nodes to the right bridge and
                            ║                                       cuts the cable between the two
      ───────────────── right bridge ─────────

Every node takes packets for the `addresses` as if kube-proxy were there: they are local routes, on no interface, and
arp_ignore keeps the kernel from answering ARP for them. An announcer is whatever `Node.start` runs. Nothing leaves
these namespaces; the way to an API server is `reach`. Addresses are those of RFC 5737 and RFC 3849.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec

from lbctl_l2.lab.measured import Address, Announcement, Answers, Asked, Probe, Seen
from lbctl_l2.lab.namespaces import LabError, Namespace, Token, folder, inside, names, remove, sweep

PORT = 9000
"""Where every node's backend answers."""
INTERVAL = 0.01
ROUTER, CLIENT, WATCH, FIRST_NODE, FIRST_VIP = 1, 2, 3, 11, 100
PATIENCE = 20.0
"""How long an instrument may take to be ready, or to answer."""

Mode = Literal["kept", "fresh", "connect"]


def vip(number: int) -> IPv4Address:
    """The address for a load balancer of this number, from 0."""
    return _host(FIRST_VIP + number)


def vip6(number: int) -> IPv6Address:
    return _host6(FIRST_VIP + number)


def _host(number: int) -> IPv4Address:
    return IPv4Address("192.0.2.0") + number


def _host6(number: int) -> IPv6Address:
    return IPv6Address("2001:db8::") + number


class Running:
    """A process in a node's namespace, and whatever it has started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def send(self, number: signal.Signals) -> None:
        """To it alone."""
        self.process.send_signal(number)

    def send_all(self, number: signal.Signals) -> None:
        """To it and all that it has started. Killed, they are stopped first: none acts upon another's end."""
        pids = family(self.process.pid)
        for sent in (signal.SIGSTOP, number) if number == signal.SIGKILL else (number,):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent)

    def kill(self) -> None:
        """SIGKILL to all of them. Safe to repeat."""
        if self.process.poll() is None:
            self.send_all(signal.SIGKILL)
        self.wait()

    def wait(self, within: float = PATIENCE) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        code = self.process.wait(within)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        return code


def family(pid: int) -> list[int]:
    """A process and its descendants, parents first: proc_pid_task(5)."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += (one for child in task.read_text().split() for one in family(int(child)))
    return found


class Node:
    """One node of the lab. What it runs writes to `log`."""

    def __init__(self, token: str, number: int, logs: Path) -> None:
        self.name = f"node-{number}"
        self.namespace = Namespace(token, self.name)
        self.address, self.address6 = _host(FIRST_NODE - 1 + number), _host6(FIRST_NODE - 1 + number)
        self.mac = f"02:00:00:00:01:{number:02x}"
        self.log = logs / f"{self.name}.log"

    def start(self, *command: str, piped: bool = False, environment: Mapping[str, str] | None = None) -> Running:
        """Run this in the node, in a session of its own; `piped`: with pipes for standard input and output."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.namespace.command(*command), stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log, stderr=log, start_new_session=True,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        return Running(process)


class Lab:
    """One segment. A context manager: what it made is gone at its end; if it is killed, when the next one starts."""

    title = "test"
    """What sort of lab this is, to everybody on this machine."""

    def __init__(self, nodes: int, addresses: Sequence[Address]) -> None:
        if not 1 <= nodes <= 80:
            raise LabError(f"a lab has 1 to 80 nodes, not {nodes}")
        self._count, self.addresses = nodes, tuple(addresses)
        self._instruments: list[Instrument] = []
        self.nodes: dict[str, Node] = {}

    def __enter__(self) -> "Lab":
        sweep()
        self._lock = Token(self.title)
        self.token = self._lock.name
        self.folder = folder(self.token)
        self.folder.mkdir(mode=0o700)
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for instrument in self._instruments:
            instrument.close()
        remove(names(self.token))
        shutil.rmtree(self.folder)
        self._lock.release()

    # -- what it is made of ------------------------------------------------------------------------------------------

    def _build(self) -> None:
        token = self.token
        self.wire = Namespace(token, "wire")
        # The wire itself has no addresses: what a disconnected node says must meet nobody.
        self.wire.sysctl({"ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/default/disable_ipv6": 1})
        self.wire.run(
            "link add left type bridge forward_delay 0", "link add right type bridge forward_delay 0",
            "link add cable-left type veth peer name cable-right",
            *(f"link set cable-{side} master {side} up" for side in ("left", "right")),
            "link set left up", "link set right up",
        )  # fmt: skip
        self.client, self.watcher = self._host("client", CLIENT), self._host("watch", WATCH)
        self.router, self.outside = self._host("router", ROUTER), Namespace(token, "outside")
        self._connect_outside()
        for number in range(1, self._count + 1):
            node = Node(token, number, self.folder)
            self.nodes[node.name] = node
            self._plug(node.namespace, node.mac, FIRST_NODE - 1 + number)
            self._serve(node)
        self._instrument("backends", port=PORT, nodes={node.name: node.namespace.name for node in self.nodes.values()})

    def _host(self, role: str, number: int) -> Namespace:
        namespace = Namespace(self.token, role)
        self._plug(namespace, f"02:00:00:00:00:{number:02x}", number)
        return namespace

    def _plug(self, namespace: Namespace, mac: str, number: int) -> None:
        """An eth0 in the namespace, its other end in the left bridge."""
        namespace.sysctl({
            "ipv6/conf/all/accept_dad": 0, "ipv6/conf/default/accept_dad": 0, "ipv4/conf/all/rp_filter": 0,
            "ipv4/conf/default/rp_filter": 0,
        })  # fmt: skip
        self.wire.run(
            f"link add {namespace.role} type veth peer name eth0 address {mac} netns {namespace.name}",
            f"link set {namespace.role} master left up",
        )
        namespace.run(
            "link set eth0 up", f"address add {_host(number)}/24 dev eth0",
            f"address add {_host6(number)}/64 dev eth0 nodad",
        )  # fmt: skip

    def _connect_outside(self) -> None:
        self.outside.run(f"link add eth0 type veth peer name outside netns {self.router.name}")
        self.outside.run("address add 198.51.100.2/24 dev eth0", "link set eth0 up")
        self.outside.run("route add default via 198.51.100.1")
        self.router.run("address add 198.51.100.1/24 dev outside", "link set outside up")
        self.router.sysctl({"ipv4/ip_forward": 1})

    def _serve(self, node: Node) -> None:
        node.namespace.sysctl({"ipv4/conf/all/arp_ignore": 1, "ipv4/conf/all/arp_announce": 2})
        node.namespace.run(f"route add default via {_host(ROUTER)}")
        node.namespace.run(*(f"route add local {address} dev lo" for address in self.addresses))

    # -- instruments -------------------------------------------------------------------------------------------------

    def ask(
        self, address: Address, mode: Mode = "fresh", *, outside: bool = False, port: int = PORT,
        interval: float = INTERVAL,
    ) -> "Client":  # fmt: skip
        """A client that asks the address who serves it, again and again, until it is closed.

        Clients of one address share their kernel's cache: a `fresh` one forgets for a `kept` one, too.
        """
        namespace = self.outside if outside else self.client
        made = self._instrument(
            "client", namespace=namespace.name, interface="eth0", address=str(address), port=port, interval=interval,
            mode=mode,
        )  # fmt: skip
        return Client(made, interval)

    def watch(self, *addresses: Address, interval: float = INTERVAL) -> "Watch":
        """Ask the wire who answers for these addresses, and hear what is announced for them, until it is closed."""
        chosen = [str(address) for address in addresses]
        made = self._instrument(
            "watch", namespace=self.watcher.name, interface="eth0", addresses=chosen, interval=interval
        )
        return Watch(made, {node.mac: node.name for node in self.nodes.values()}, interval)

    def reach(self, port: int) -> "Instrument":
        """Lead 127.0.0.1:port of every node to that port of our own loopback. Pause it, and the API is silent."""
        return self._instrument("relay", port=port, namespaces=[node.namespace.name for node in self.nodes.values()])

    def _instrument(self, role: str, **arguments: object) -> "Instrument":
        made = Instrument(role, **arguments)
        self._instruments.append(made)
        return made

    def said(self, lines: int = 8) -> str:
        """The last lines of every node's log."""
        logs = (node.log for node in self.nodes.values() if node.log.exists())
        return "\n".join(f"{log.stem}: {line}" for log in logs for line in log.read_text().splitlines()[-lines:])

    def frames(self, node: str) -> int:
        """How many frames the node has sent so far, all in all."""
        found = self.wire.json("-s", "link", "show", "dev", node)
        return int(found[0]["stats64"]["rx"]["packets"])

    # -- faults ------------------------------------------------------------------------------------------------------

    def pull(self, *chosen: str) -> None:
        """Pull these nodes' cables: no carrier."""
        self.wire.run(*(f"link set {node} down" for node in chosen))

    def plug(self, *chosen: str) -> None:
        """Put the cables back."""
        self.wire.run(*(f"link set {node} up" for node in chosen))

    def silence(self, *chosen: str) -> None:
        """Nothing comes from these nodes and nothing reaches them, though their links are up, as with a dead switch."""
        self.wire.run(*(f"link set {node} nomaster" for node in chosen))

    def mend(self, *chosen: str) -> None:
        """Connect them again."""
        self.wire.run(*(f"link set {node} master left" for node in chosen))

    def split(self, *chosen: str) -> None:
        """Put these nodes on the other bridge, and cut the cable between the two."""
        self.wire.run("link set cable-left down", *(f"link set {node} master right" for node in chosen))

    def heal(self) -> None:
        """Connect the two bridges again."""
        self.wire.run("link set cable-left up")

    def say(self, namespace: Namespace, frame: bytes) -> None:
        """A frame from a host that is no node."""
        with inside(namespace.name), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
            wire.bind(("eth0", 0))
            wire.send(frame)


class Instrument:
    """A running process of `instruments.py`. `close` is safe to repeat."""

    def __init__(self, role: str, **arguments: object) -> None:
        self.role = role
        command = [sys.executable, "-m", "lbctl_l2.lab.instruments", role, json.dumps(arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._said = b""
        self._hear()

    def take(self) -> Any:
        """What it has measured since the last time."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"take\n")
        self._process.stdin.flush()
        return self._hear()

    def pause(self) -> None:
        """It does nothing (SIGSTOP) until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _hear(self) -> Any:
        """One line of JSON. Raises `LabError` when none comes."""
        assert self._process.stdout is not None
        until = time.monotonic() + PATIENCE
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            said = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            if not said:
                raise LabError(f"the lab's {self.role} does not answer: see what it wrote on standard error")
            self._said += said
        line, _, self._said = self._said.partition(b"\n")
        return json.loads(line)


class Client:
    """Asks one address again and again."""

    def __init__(self, instrument: Instrument, interval: float) -> None:
        self._instrument, self._interval = instrument, interval

    def take(self) -> Answers:
        """What it asked since the last time, and what was answered."""
        return Answers(msgspec.convert(self._instrument.take(), tuple[Asked, ...]), self._interval)

    def close(self) -> None:
        self._instrument.close()


class Watch:
    """Asks the wire, and hears it."""

    def __init__(self, instrument: Instrument, nodes: Mapping[str, str], interval: float) -> None:
        self._instrument, self._nodes, self._interval = instrument, nodes, interval

    def take(self) -> Seen:
        """What was asked, answered and announced since the last time."""
        said = self._instrument.take()
        probes = (Probe(sent, ip_address(address), self._names(macs)) for sent, address, macs in said["probes"])
        announced = (
            Announcement(heard, kind, ip_address(address), *self._names([mac]))
            for heard, kind, address, mac in said["announcements"]
        )
        return Seen(tuple(probes), tuple(announced), self._interval)

    def close(self) -> None:
        self._instrument.close()

    def _names(self, macs: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._nodes.get(mac, mac) for mac in macs)
