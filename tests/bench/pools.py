"""How long allocation takes: 10,000 pending Services at once, and one more among 10,000. Whatever the pool's size.

CPU time of one process, in the terms of `lbctl_l2` alone: what the cluster adds is measured by `ipam`.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from lbctl.model import Family, Owner
from lbctl_l2.allocation import allocate
from lbctl_l2.book import Book
from lbctl_l2.pool import Pool, Release, Request
from lbctl_l2.ranges import parse
from tests.bench.goal import Measured

SERVICES = 10_000
EVENTS = 500
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def measure() -> Iterator[Measured]:
    for text in ("10.0.0.0/16", "10.0.0.0/8", "fd00::/64"):
        pools = (Pool("bench", (parse(text),)),)
        yield Measured(f"{SERVICES:,} pending Services, one pool of {text}", 1.0, everybody(pools), "s of CPU")
        yield Measured(f"one more Service among {SERVICES:,}, {text}", 1.0, one_more(pools), "ms of CPU")
    many = tuple(Pool(f"p{n:03}", (parse(f"10.{n}.0.0/24"),), avoid_buggy=True) for n in range(100))
    yield Measured(f"{SERVICES:,} pending Services, 100 pools of a /24", 2.0, everybody(many), "s of CPU")
    full = (Pool("bench", (parse("10.0.0.0/24"),)),)
    yield Measured(f"{SERVICES:,} pending Services, one pool of 10.0.0.0/24", 1.0, everybody(full), "s of CPU")
    yield Measured(f"one more Service among {SERVICES:,} that wait", 10.0, one_more(full), "ms of CPU")


def everybody(pools: tuple[Pool, ...]) -> float:
    """Seconds from nothing to an answer for everybody; the best of three."""
    return min(cpu(lambda: allocate(waiting(pools), None, NOW)) for _ in range(3))


def one_more(pools: tuple[Pool, ...]) -> float:
    """Milliseconds from a Service's event to its promise, where all others have an address or wait for one."""
    book = waiting(pools)
    for owner, outcome in allocate(book, None, NOW).items():
        book.put(replace(book.requests[owner], held=outcome.addresses))
    allocate(book, None, NOW)
    fresh = [service(SERVICES + number, pools[0]) for number in range(EVENTS)]

    def events() -> None:
        for request in fresh:
            book.put(request)
            outcome = allocate(book, [request.owner], NOW)[request.owner]
            book.put(replace(request, held=outcome.addresses))

    return cpu(events) / EVENTS * 1000


def waiting(pools: tuple[Pool, ...]) -> Book:
    """A Book in which everybody waits, with what was released lately."""
    book = Book(pools)
    book.set_released(Release(part.address(part.first + 3), NOW) for pool in pools for part in pool.ranges)
    for number in range(SERVICES):
        book.put(service(number, pools[0]))
    return book


def service(number: int, pool: Pool) -> Request:
    families: tuple[Family, ...] = ("IPv4",) if "IPv4" in pool.families else ("IPv6",)
    created = NOW + timedelta(seconds=number)
    return Request(
        Owner(f"ns{number % 50}/s{number}"), created, families=families, ports=frozenset({("TCP", 80)}),
        labels={"app": f"a{number}"}, namespace_labels={},
    )


def cpu(what: Callable[[], object]) -> float:
    """Seconds of CPU that the call took."""
    started = time.process_time()
    what()
    return time.process_time() - started
