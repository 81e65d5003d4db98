"""A cluster that grows to 2,000 Services on AWS, a hundred at a time: calls, CPU and memory of what makes them.

The stand-in is another process, so that moto's memory and CPU are not counted. No token buckets: calls are what counts.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from lbctl import plugins
from lbctl.model import Node
from tests.bench.calls import ONE_AT_A_TIME, Bench
from tests.bench.goal import Measured
from tests.bench.plans import cpu

SERVICES, AT_ONCE, NODES = 2_000, 100, 4


class Elsewhere:
    """A stand-in of another process, as `Bench` needs it."""

    def __init__(self, settings: dict[str, str], nodes: list[list[Any]]) -> None:
        self.settings = settings
        self._nodes = tuple(Node(name, provider_id, labels) for name, provider_id, labels in nodes)

    def nodes(self, count: int) -> tuple[Node, ...]:
        return self._nodes[:count]


def measure() -> Iterator[Measured]:
    me = [sys.executable, "-m", "tests.bench.growth"]
    with subprocess.Popen([*me, "play"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cloud:
        try:
            assert cloud.stdout is not None
            ran = subprocess.run([*me, cloud.stdout.readline()], check=True, stdout=subprocess.PIPE, text=True)
        finally:
            cloud.terminate()
    for row in json.loads(ran.stdout):
        yield Measured(*row)


def grow(standin: Elsewhere) -> Iterator[tuple[str, float, float, str]]:
    bench = Bench(standin)  # type: ignore[arg-type]
    spent: list[int] = []
    for start in range(0, SERVICES, AT_ONCE):
        names = [f"s{number}" for number in range(start, start + AT_ONCE)]
        spent.append(bench.cost(lambda names=names: bench.put(names)))  # type: ignore[misc]
    yield f"growth: the first {AT_ONCE} Services", 650, spent[0], "calls"
    yield f"growth: the {AT_ONCE} that make it {SERVICES:,}", 650, spent[-1], "calls"
    more = standin.nodes(NODES)
    some = [f"s{number}" for number in range(10)]
    yield f"node added for 10 of {SERVICES:,} Services", 12, bench.cost(lambda: bench.put(some, nodes=more)), "calls"
    bench.put(some)
    audit = bench.cost(lambda: bench.path.plan(None, fresh=True))
    singly = sum(count for name, count in bench.calls.items() if name in ONE_AT_A_TIME)
    yield f"audit of {SERVICES:,} Services, in pages", 0.1 * SERVICES, audit - singly, "calls"
    yield f"full plan of {SERVICES:,} Services, read before", 0.4, cpu(lambda: bench.path.plan(fresh=False)), "s of CPU"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield f"AWS: peak memory, grown to {SERVICES:,} Services", 120, memory, "MiB"


def play() -> None:
    """A stand-in until the end of standard input; the first line says how to reach it."""
    standin = plugins.standin("aws")
    standin.start()
    nodes = [[node.name, node.provider_id, dict(node.labels)] for node in standin.nodes(NODES)]
    print(json.dumps({"settings": dict(standin.settings), "nodes": nodes}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1] == "play":
        play()
    else:
        print(json.dumps(list(grow(Elsewhere(**json.loads(sys.argv[1]))))))
