"""Who announces 1,000 addresses on 100 nodes: the first election, one after an event, a round of balance."""

import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

from msgspec.structs import replace

from lbctl.model import Owner
from lbctl_l2.election import Claim, Elector, Member, NodeLink, Roll, moves
from lbctl_l2.pool import Advertisement
from tests.bench.goal import Measured

ADDRESSES, NODES = 1_000, 100
BASE = ip_address("10.0.0.0")


def measure() -> Iterator[Measured]:
    wanted = [Claim(Owner(f"a/s{number}"), BASE + number, created=number) for number in range(ADDRESSES)]
    links = (NodeLink("eth0", (ip_network("10.0.0.0/8"),)),)
    members = tuple(Member(f"node-{number}", links=links) for number in range(NODES))
    roll = Roll(members, (Advertisement("all"),), _pool)
    elector = Elector("node-0")
    what = f"{ADDRESSES:,} addresses × {NODES} nodes"
    yield Measured(f"election, {what}", 1.0, _seconds(lambda: elector.elect(wanted, roll)), "s of CPU")
    elected = elector.elect(wanted, roll)
    held: dict[str, dict[object, float]] = {member.name: {} for member in members}
    for address, standing in elected.items():
        held[standing.first][address] = 1.0
    settled = replace(roll, members=tuple(replace(member, announces=held[member.name]) for member in members))
    wanted[7] = replace(wanted[7], local=True, endpoints=frozenset({"node-3"}))
    event = _seconds(lambda: elector.elect(wanted, settled)) * 1000
    yield Measured(f"one event among {what}", 50.0, event, "ms of CPU")
    dead = replace(settled, members=tuple(replace(m, alive=m.name != "node-9") for m in settled.members))
    yield Measured(f"a node dies, {what}", 1.0, _seconds(lambda: elector.elect(wanted, dead)), "s of CPU")
    balance = _seconds(lambda: moves(elector.elect(wanted, settled), wanted, settled))
    yield Measured(f"a round of balance, {what}", 1.0, balance, "s of CPU")


def _pool(_address: object) -> str:
    return "main"


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
