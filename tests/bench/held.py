"""200 Services created at once, with and without one whose cloud calls are held: how long until all have an address.

In turn, in one run; each cloud call takes 20 ms. That the calls are the same is a test (tests/test_held.py).
"""

import time
from collections.abc import Iterator, Sequence
from statistics import median

from lbctl.model import Owner
from tests.bench.goal import Measured
from tests.test_held import HELD, OTHERS, street

RUNS = 5
LATENCY = 0.02


def measure() -> Iterator[Measured]:
    alone, beside = zip(*((_seconds(()), _seconds((HELD,))) for _ in range(RUNS)), strict=True)
    yield Measured("(200 Services, nothing held)", max(alone), median(alone), "s")
    what = f"200 Services, one held ({min(beside):.2f} to {max(beside):.2f} s)"
    yield Measured(what, 1.1, _ratio(alone, beside), "times")


def _ratio(alone: Sequence[float], beside: Sequence[float]) -> float:
    return median(b / a for a, b in zip(alone, beside, strict=True))


def _seconds(held: Sequence[Owner]) -> float:
    started = time.monotonic()
    with street(held, workers=16, latency=LATENCY) as busy:
        busy.wait(OTHERS)
        return time.monotonic() - started
