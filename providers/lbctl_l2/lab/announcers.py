"""A speaker without Kubernetes: the real data plane under a control process that is told its orders by hand.

Most of failover is the data plane's affair, so most of it is measured with this: `python -m lbctl_l2.lab.announcers
NAME TIMING` in a node's namespace. As a speaker does, it keeps its data plane running and hands over on SIGTERM. One
line of JSON in, one out: orders and roll of speakers in, the latest report out.
"""

import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from ipaddress import ip_network
from types import FrameType

import msgspec

from lbctl_l2.channel import DataPlane
from lbctl_l2.lab.namespaces import LabError
from lbctl_l2.lab.rig import Node
from lbctl_l2.wire import Order, Peer, PeerLink, Report, Timing, revive

CLUSTER = "lab"
NETWORKS = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"))


class Told(msgspec.Struct, frozen=True):
    """What control tells its data plane."""

    orders: tuple[Order, ...] = ()
    peers: tuple[Peer, ...] = ()
    settled: bool = False


class Announcer:
    """The control process of one node, seen from outside."""

    def __init__(self, node: Node, timing: Timing) -> None:
        self.node, self._timing = node, json.dumps(msgspec.to_builtins(timing))
        self.start()

    def start(self) -> None:
        """Begin (again), knowing nothing."""
        module = ("-m", "lbctl_l2.lab.announcers")
        self.running = self.node.start(sys.executable, *module, self.node.name, self._timing, piped=True)

    def tell(self, told: Told) -> Report | None:
        """Give orders. The latest report of its data plane, if it has made one."""
        streams = self.running.process
        assert streams.stdin is not None
        assert streams.stdout is not None
        streams.stdin.write(msgspec.json.encode(told, enc_hook=str) + b"\n")
        streams.stdin.flush()
        said = streams.stdout.readline()
        if not said:
            raise LabError(f"the announcer of {self.node.name} has ended: {self.node.log.read_text()[-2000:]}")
        return msgspec.json.decode(said, type=Report | None, dec_hook=revive)


def roll(nodes: Sequence[Node]) -> tuple[Peer, ...]:
    """The speakers of a lab as their Leases would tell of them."""
    return tuple(
        Peer(node.name, (PeerLink("eth0", bytes.fromhex(node.mac.replace(":", "")), NETWORKS),)) for node in nodes
    )


class _Ending(Exception):
    """SIGTERM."""


def main(name: str, timing: str) -> int:
    """Until SIGTERM, which hands over, or until standard input ends."""
    plane = DataPlane(name, CLUSTER, msgspec.convert(json.loads(timing), Timing)).start()
    signal.signal(signal.SIGTERM, _end)
    with contextlib.suppress(_Ending):
        for line in sys.stdin.buffer:
            told = msgspec.json.decode(line, type=Told, dec_hook=revive)
            plane.orders(told.orders, told.peers)
            if told.settled:
                plane.settle()
            sys.stdout.buffer.write(msgspec.json.encode(plane.report(), enc_hook=str) + b"\n")
            sys.stdout.buffer.flush()
    return 0 if plane.leave() else 1


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ending


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
