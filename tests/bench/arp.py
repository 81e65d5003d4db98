"""How soon a node answers for an address: lbctl's data plane against the node's own kernel, asked in turns in one run.

Two network namespaces and a veth; in the node's the kernel owns one address of each family and lbctl serves another.
A client asks for them alternately, one question at a time, then in bursts; the ratios are what counts, since both
pay for the same wire and the same client. Needs root on Linux.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

from lbctl_l2.lab.namespaces import Token, missing, names, remove
from lbctl_l2.lab.probe import (
    CLIENT,
    CLIENT6,
    VIP,
    VIP6,
    Arp,
    Ndp,
    Prober,
    Segment,
    Speaker,
    is_answer,
    solicited,
)
from tests.bench.goal import Measured

KERNELS, KERNELS6 = IPv4Address("192.0.2.50"), IPv6Address("2001:db8::50")
QUESTIONS, BURST, BURSTS = 2000, 50, 40
Question = tuple[bytes, Callable[[bytes], bool]]


def measure() -> Iterator[Measured]:
    if reason := missing():
        print(f"arp: left out: {reason}", file=sys.stderr)
        return
    token = Token("packets")
    try:
        segment = Segment(token.name)
        segment.node.run(f"addr add {KERNELS}/24 dev eth0", f"addr add {KERNELS6}/64 dev eth0 nodad")
        speaker = Speaker(segment.node)
        speaker.announce(VIP, VIP6)
        yield from compare("ARP", segment.prober, arp(segment.prober, VIP), arp(segment.prober, KERNELS))
        yield from compare("NDP", segment.prober, ndp(segment.prober, VIP6), ndp(segment.prober, KERNELS6))
        yield from at_rest(speaker)
        speaker.end()
    finally:
        remove(names(token.name))
        token.release()


def arp(prober: Prober, address: IPv4Address) -> Question:
    return Arp(prober.mac, CLIENT, address).frame, is_answer(address)


def ndp(prober: Prober, address: IPv6Address) -> Question:
    frame = Ndp(prober.mac, CLIENT6, solicited(address), address, option=prober.mac).frame
    return frame, is_answer(address)


def compare(what: str, prober: Prober, ours: Question, kernels: Question) -> Iterator[Measured]:
    """One question at a time, then bursts; always both in turns."""
    prober.forget()
    mine, theirs = zip(*((ask(prober, ours), ask(prober, kernels)) for _ in range(QUESTIONS)), strict=True)
    median = statistics.median(mine) / statistics.median(theirs)
    yield Measured(f"{what}: median of one answer, lbctl", 500.0, statistics.median(mine) * 1e6, "µs")
    yield Measured(f"{what}: median of one answer, kernel", 500.0, statistics.median(theirs) * 1e6, "µs")
    yield Measured(f"{what}: median of one answer, lbctl / kernel", 10.0, median, "times")
    # No ratio: the kernel answers in the interrupt of the question, a process waits for its turn on a busy machine.
    yield Measured(f"{what}: p99 of one answer, lbctl", 10_000.0, p99(mine) * 1e6, "µs")
    yield Measured(f"{what}: p99 of one answer, kernel", 10_000.0, p99(theirs) * 1e6, "µs")
    mine, theirs = zip(*((burst(prober, ours), burst(prober, kernels)) for _ in range(BURSTS)), strict=True)
    ratio = statistics.median(mine) / statistics.median(theirs)
    yield Measured(f"{what}: {BURST} questions at once, lbctl", 20.0, statistics.median(mine) * 1e3, "ms")
    yield Measured(f"{what}: {BURST} questions at once, lbctl / kernel", 20.0, ratio, "times")


def at_rest(speaker: Speaker) -> Iterator[Measured]:
    """What the process costs when nobody asks."""
    before, began = ticks(speaker.plane.pid), time.monotonic()
    time.sleep(5.0)
    used = (ticks(speaker.plane.pid) - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
    yield Measured("data plane at rest", 1.0, used * 100, "% of a core")
    yield Measured("data plane's memory, resident", 40.0, kilobytes(speaker.plane.pid, "Rss") / 1024, "MiB")
    yield Measured("data plane's memory, its share", 30.0, kilobytes(speaker.plane.pid, "Pss") / 1024, "MiB")


def ask(prober: Prober, question: Question) -> float:
    frame, is_answer = question
    began = time.perf_counter()
    prober.say(frame)
    prober.hear(is_answer)
    return time.perf_counter() - began


def burst(prober: Prober, question: Question) -> float:
    """Seconds from the first of many questions to the answer to the last."""
    frame, is_answer = question
    began = time.perf_counter()
    prober.say(*[frame] * BURST)
    for _ in range(BURST):
        prober.hear(is_answer)
    return time.perf_counter() - began


def p99(values: tuple[float, ...]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def ticks(pid: int | None) -> int:
    """User and system time of a process so far. proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def kilobytes(pid: int | None, which: str) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith(f"{which}:"))
