"""The failover table: what was measured beside the goal and MetalLB's figures.  PURE."""

import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec


class Row(msgspec.Struct, frozen=True):
    """The trials of one case. `outages` and `goal` in seconds, `frames` sent per node and second at rest."""

    case: str
    outages: tuple[float, ...]
    goal: float
    floor: float = 0.0
    frames: float | None = None
    metallb: str = "–"
    tuned: str = "–"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of all values does not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """One line a case. Fewer than 100 trials have no p99: the longest says more."""
    yield "outage in ms, as a client saw it that asks every 10 ms; floor: its longest wait without a fault"
    yield f"{'case':44}{'n':>5}{'p50':>6}{'p99':>6}{'max':>6}{'goal':>8}{'floor':>7}{'frames/s':>10}  MetalLB · tuned"
    for row in rows:
        times = [round(1000 * value) for value in row.outages]
        tail = percentile(times, 0.99) if len(times) >= 100 else "–"
        goal = f"≤ {1000 * row.goal:.0f}" if row.goal else "no gap"
        frames = "–" if row.frames is None else f"{row.frames:.0f}"
        yield (
            f"{row.case:44}{len(times):>5}{percentile(times, 0.5):>6}{tail:>6}{max(times):>6}{goal:>8}"
            f"{1000 * row.floor:>7.0f}{frames:>10}  {row.metallb} · {row.tuned}"
        )
