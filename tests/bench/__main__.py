"""`make bench`: every goal that is a number, beside what this machine measured.

Calls are counted and the same everywhere; times and memory are this machine's. Exit code 1 if a goal is missed.
"""

import sys
from collections.abc import Callable, Iterator, Mapping

from tests.bench import arp, aws_memory, calls, cli, election, failover, growth, held, ipam, plans, pools
from tests.bench.goal import Measured, table

PARTS: Mapping[str, Callable[[], Iterator[Measured]]] = {
    "calls": calls.measure, "plans": plans.measure, "cli": cli.measure, "arp": arp.measure,
    "failover": failover.measure,
    "election": election.measure, "pools": pools.measure,
    "held": held.measure, "ipam": ipam.measure, "aws-memory": aws_memory.measure, "growth": growth.measure,
}


def main(chosen: list[str]) -> int:
    missed = 0
    for name in chosen or PARTS:
        rows = list(PARTS[name]())
        missed += sum(not row.met for row in rows)
        print(f"\n{name}", *table(rows), sep="\n", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
