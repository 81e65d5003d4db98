"""Failover on real packets, often enough for a p99; and ten minutes with every core of the machine busy.

It needs root on Linux and takes about three quarters of an hour: `python -m tests.bench failover`. Where it cannot run,
it says why, and nothing is missed.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from lbctl.sandbox.kube import KubeSandbox
from lbctl_l2.lab.api import Api
from lbctl_l2.lab.cases import ENDED, FROZEN, KILLED, PULLED, SILENT, SPLIT, Pace, mass, rows, trial
from lbctl_l2.lab.cluster import Cluster
from lbctl_l2.lab.namespaces import missing
from lbctl_l2.lab.rig import family, vip
from lbctl_l2.lab.stage import Bare, pause
from lbctl_l2.lab.table import Row, lines, percentile
from tests.bench.goal import Measured

TRIALS = int(os.environ.get("LBCTL_BENCH_TRIALS", "100"))
"""Of each case that has a p99 as its goal; the others get a fifth."""
BUSY = float(os.environ.get("LBCTL_BENCH_BUSY_SECONDS", "600"))
QUICK = Pace(rest=0.0, start=0.2, before=0.3, after=1.0)
P50, P99, GAP = 250.0, 350.0, 20.0
"""Goals in ms; a gap is what exceeds two intervals of the client."""
BALANCED, RESTING = 900.0, 120.0
"""Seconds within which the addresses must be balanced, and of the speakers' rest after that."""
MANY = {5: "15.0 s", 7: "39 s"}


def measure() -> Iterator[Measured]:
    if reason := missing():
        print(f"failover: left out: {reason}")
        return
    table = [*_cases(), *_many()]
    print(*lines(table), sep="\n", flush=True)
    for line in table:
        times = [1000 * seconds for seconds in line.outages]
        if line.goal == 0.35:
            yield Measured(f"{line.case}: p50", P50, percentile(times, 0.5), "ms")
        goal = 1000 * line.goal or GAP
        yield Measured(f"{line.case}: p99, n = {len(times)}", goal, percentile(times, 0.99), "ms")
    yield from _busy()
    yield from _rest()


def _cases() -> Iterator[Row]:
    with Bare(3) as stage:
        for case, share in ((KILLED, 1), (FROZEN, 1), (SILENT, 1), (PULLED, 1), (ENDED, 5), (SPLIT, 5)):
            # The first trial counts the frames, too.
            done = [trial(stage, case, QUICK._replace(rest=0.0 if number else 2.0))
                    for number in _settled(stage, TRIALS // share)]  # fmt: skip
            yield from rows(case, done)


def _settled(stage: Bare, count: int) -> Iterator[int]:
    """Numbers, with all as it was before each."""
    for number in range(count):
        stage.settle()
        yield number


def _many() -> Iterator[Row]:
    with Bare(10, 20) as stage:
        for count, metallb in MANY.items():
            took = []
            for _ in range(max(3, TRIALS // 10)):
                seconds, living = mass(stage, count)
                stage.restart(*(set(stage.lab.nodes) - living))
                took.append(seconds)
            yield Row(f"{count} of 10 killed, last address back", tuple(took), 0.5, metallb=metallb)


def _busy() -> Iterator[Measured]:
    """Busy loops on every core, as much as anybody's pods may be; a client with an old cache and a new one."""
    with Bare(3) as stage:
        kept, watch = stage.lab.ask(vip(0), "kept"), stage.lab.watch(vip(0))
        pause(1.0)
        kept.take(), watch.take()
        before = _failovers(stage)
        lost, alone = 0, 0.0
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
        try:
            until = time.monotonic() + BUSY
            while time.monotonic() < until:
                pause(min(10.0, BUSY))
                lost += kept.take().lost()
                alone = max(alone, watch.take().nobody())
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
        minutes = f"{BUSY / 60:g} busy minutes"
        yield Measured(f"false takeovers in {minutes}", 0, _failovers(stage) - before, "times")
        yield Measured(f"datagrams lost in {minutes}", 0, lost, "of a client")
        yield Measured(f"longest time without an answer in {minutes}", P99, 1000 * alone, "ms")


def _rest() -> Iterator[Measured]:
    """How 100 addresses come to lie on ten nodes, and what speakers cost that have nothing to do."""
    with KubeSandbox() as kube, TemporaryDirectory() as folder:
        api = Api(kube.kubeconfig(Path(folder) / "kubeconfig"))
        with Cluster(10, 100, api) as stage:
            loads = _balanced(stage)
            kube.requests.clear()
            frames = -sum(stage.lab.frames(node) for node in stage.lab.nodes)
            pause(RESTING)
            frames += sum(stage.lab.frames(node) for node in stage.lab.nodes)
            asked = len(kube.requests)
            memory = max(_memory(running.process.pid) for running in stage.speakers.values())
    yield Measured("100 addresses on 10 nodes: most on one", 11, max(loads), "addresses")
    yield Measured("100 addresses on 10 nodes: fewer than 9 on", 0, sum(load < 9 for load in loads), "nodes")
    yield Measured("at rest, 100 Services: requests of a speaker", 8.0, asked / 10 * 60 / RESTING, "a minute")
    yield Measured("at rest, 100 Services: memory of a speaker", 64.0, memory, "MiB")
    yield Measured("at rest, 10 nodes: frames of a speaker", 200.0, frames / 10 / RESTING, "a second")


def _balanced(stage: Cluster) -> list[int]:
    """How many addresses each node holds, once nothing moves any more; balancing is slow on purpose."""
    until = time.monotonic() + BALANCED
    loads: list[int] = []
    while time.monotonic() < until:
        held = list(stage.holders().values())
        loads = [held.count(node) for node in stage.lab.nodes]
        if max(loads) - min(loads) <= 2:
            pause(20.0)
            break
        pause(5.0)
    return loads


def _memory(pid: int) -> float:
    """Both processes, in MiB: what is theirs alone, and their part of what they share (proc_pid_smaps(5): Pss)."""
    rolled = "".join(Path(f"/proc/{one}/smaps_rollup").read_text() for one in family(pid))
    return sum(int(line.split()[1]) for line in rolled.splitlines() if line.startswith("Pss:")) / 1024


def _failovers(stage: Bare) -> int:
    return sum(report.counters.failovers for report in stage.tell().values() if report)
