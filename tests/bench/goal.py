"""Goal and measurement, side by side. A benchmark reports; it is never a test."""

from collections.abc import Iterable, Iterator

import msgspec


class Measured(msgspec.Struct, frozen=True):
    """One row. `goal` is an upper bound in the unit of `value`."""

    what: str
    goal: float
    value: float
    unit: str

    @property
    def met(self) -> bool:
        return self.value <= self.goal


def table(rows: Iterable[Measured]) -> Iterator[str]:
    """One line per row: what, goal, measured, and whether the goal is met."""
    yield f"{'':56}{'goal':>12}{'measured':>12}"
    for row in rows:
        number = f"{row.value:.0f}" if row.unit == "calls" else f"{row.value:.2f}"
        yield f"{row.what:56}{f'≤ {row.goal:g}':>12}{number:>12} {row.unit}{'' if row.met else '   MISSED'}"
