"""What `lbctl demo` shows of bare metal: an address that outlives the node that announces it.

The core's demo finds `show` by the entry-point group `lbctl.demos` and hands it what the controller gave out. As root
on Linux the frames are real: data planes, a client and a wire in network namespaces of their own. Without, nodes, wire
and time are in memory (`segment.py`), and only the machines are real.
"""

import time
from collections.abc import Callable, Sequence

from lbctl.errors import LbctlError
from lbctl_l2.election import preference
from lbctl_l2.lab.namespaces import missing
from lbctl_l2.segment import Host, Segment

SERVICE = "printer"
"""The Service of the demo that asks for us."""

TITLE = "Bare metal: no cloud, the nodes themselves answer for the address (ARP and NDP)."

SETTINGS = {"addresses": "192.0.2.240-192.0.2.250"}
"""How the controller is set up for it: RFC 5737's documentation addresses."""

BEFORE, AFTER = 0.3, 0.8
"""Seconds that the client is watched before and after."""


class Silent(LbctlError):
    """The address was not answered for as it should have been."""

    reason = "demo-broken"


def show(address: str, nodes: Sequence[str], say: Callable[[str], None]) -> None:
    """Let nodes announce an address, kill the one that does, and tell what a client sees. Raises `Silent`."""
    if missing() is None:
        on_real_frames(say)
    else:
        in_memory(address, nodes, say)


def on_real_frames(say: Callable[[str], None]) -> None:
    """In network namespaces: three nodes, and a client that sends a datagram every 10 ms and knows nobody's MAC."""
    from lbctl_l2.lab.stage import Bare, pause

    with Bare(nodes=3) as stage:
        address, first = stage.addresses[0], stage.holder
        say(f"In three network namespaces, {address} is announced by {first}: real ARP frames, real data planes.")
        client = stage.lab.ask(address)
        pause(BEFORE)
        client.take()
        killed = time.monotonic()
        stage.speakers[first].kill()
        pause(AFTER)
        answers = client.take()
        client.close()
    served = answers.nodes(killed)
    if not served or served[-1] == first:
        raise Silent(f"nobody answers for {address} {AFTER:g} s after {first} was killed")
    outage = answers.outage(killed - BEFORE)
    say(f"{first} is killed: {served[-1]} answers, and the client waited {outage * 1000:.0f} ms for a datagram.")


def in_memory(address: str, nodes: Sequence[str], say: Callable[[str], None]) -> None:
    """On a segment in memory, in virtual time."""
    segment = Segment()
    segment.add(*nodes)
    segment.order(address, *preference(segment.address(address), tuple(nodes)))
    client = segment.host("client")
    segment.settle()
    segment.run(2)
    first = _answering(segment, client, address)
    say(f"{address} is announced by {first}; every other node listens to its heartbeats, ten a second.")
    killed = segment.now
    segment.kill(first)
    segment.run(2)
    second = _answering(segment, client, address)
    if second == first:
        raise Silent(f"{address} is still answered for by {first}, which is dead")
    say(f"{first} is killed: {second} answers {segment.longest_silence(address, killed) * 1000:.0f} ms later.")
    healed = segment.now
    segment.start(first)
    segment.run(2)
    if _answering(segment, client, address) != second or segment.longest_double(address, healed) > 0:
        raise Silent(f"{first} came back and took {address} away from {second}")
    say(f"{first} comes back: it stands by, and {address} stays where it is.")


def _answering(segment: Segment, client: Host, address: str) -> str:
    """Who answers for the address, as the only one, and as a client hears it."""
    client.cache.pop(segment.address(address), None)
    client.ask(address)
    segment.run(0.1)
    heard, speakers = client.cache.get(segment.address(address)), segment.speakers(address)
    if len(speakers) != 1 or heard != segment.mac(speakers[0]):
        raise Silent(f"{len(speakers)} nodes answer for {address}")
    return speakers[0]
