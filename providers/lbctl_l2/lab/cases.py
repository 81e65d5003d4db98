"""The faults that failover is measured by, and one trial of each: before, fault, cure, and what was seen.

Tests judge what is not timed of a `Trial`, benchmarks the times. The figures beside are MetalLB's (0.16), measured on a
rig like this one: by default, and tuned as far as its configuration allows.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from lbctl_l2.lab.measured import Answers, Seen
from lbctl_l2.lab.namespaces import LabError
from lbctl_l2.lab.rig import Lab, Mode
from lbctl_l2.lab.stage import Stage, pause
from lbctl_l2.lab.table import Row

LAST = 0.3
"""Who answers in the last so many seconds is who announces at the end."""
MARGIN = 0.1
"""Seconds before the fault from which on a gap is counted as the fault's."""

Act = Callable[[Stage, str], None]


class Case(NamedTuple):
    """One fault that befalls the holder of an address.

    mode     how the client asks; `fresh` where a host that knows the way already would not notice
    goal     seconds at p99; 0: no gap
    metallb, tuned  its figures
    """

    name: str
    fault: Act
    cure: Act
    mode: Mode
    goal: float
    metallb: str = "–"
    tuned: str = "–"


class Pace(NamedTuple):
    """Seconds of a trial.

    rest    nobody asks anything, frames are counted; 0: they are not
    start   until the instruments run evenly
    before  the client is served as ever: the noise floor
    after   from the fault to the cure, and from the cure to the end
    """

    rest: float = 0.3
    start: float = 0.2
    before: float = 0.5
    after: float = 1.2


PACE = Pace()


class Trial(msgspec.Struct, frozen=True):
    """What one fault did. Times in seconds.

    holder, heir      who served the client before, and after
    outage, floor     the client's longest wait after the fault; and before it
    cured             the client's longest wait after the cure
    nobody, several   for how long nobody, or more than one, answered ARP at the longest, in the whole trial
    left, end         who answered just before the cure, and at the end
    announced         gratuitous frames of the heir before the cure
    frames            sent by each node per second, on the average, while nobody asked anything
    lost              questions of the client that were never answered
    """

    case: str
    holder: str
    heir: str
    outage: float
    floor: float
    cured: float
    nobody: float
    several: float
    left: frozenset[str]
    end: frozenset[str]
    announced: int
    frames: float | None
    lost: int


def trial(stage: Stage, case: Case, pace: Pace = PACE) -> Trial:
    """Let the fault of this case befall whoever holds the stage's first address, and then the cure."""
    holder, frames = stage.holder, _count(stage.lab, pace.rest)
    client, watch = stage.lab.ask(stage.addresses[0], case.mode), stage.lab.watch(stage.addresses[0])
    try:
        pause(pace.start)
        client.take(), watch.take()
        pause(pace.before)
        began = time.monotonic()
        case.fault(stage, holder)
        pause(pace.after)
        before = client.take(), watch.take()
        case.cure(stage, holder)
        pause(pace.after)
        return _judged(stage, case, holder, frames, began, *before, client.take(), watch.take())
    finally:
        client.close()
        watch.close()
        stage.lab.mend(*stage.lab.nodes)


def rows(case: Case, trials: Sequence[Trial]) -> Iterator[Row]:
    """A case's lines in the table: the client's outage; and what the wire saw, where that is the point of the case."""
    counted = [done.frames for done in trials if done.frames is not None]
    yield Row(
        case=case.name,
        outages=tuple(done.outage for done in trials),
        goal=case.goal,
        floor=max(done.floor for done in trials),
        frames=sum(counted) / len(counted) if counted else None,
        metallb=case.metallb,
        tuned=case.tuned,
    )
    if not case.goal:
        yield Row(f"{case.name}: nobody answers", tuple(done.nobody for done in trials), 0.0, metallb="≤ 14 ms")
    if case is SPLIT:
        several = tuple(done.several for done in trials)
        yield Row("the same: two answer", several, 1.0, metallb="0 / 11.8 / 19.8 s")


def _judged(
    stage: Stage, case: Case, holder: str, frames: float | None, began: float, answers: Answers, seen: Seen,
    later: Answers, healed: Seen,
) -> Trial:  # fmt: skip
    address = stage.addresses[0]
    heir = (answers.nodes(began) or (holder,))[-1]
    return Trial(
        case=case.name,
        holder=holder,
        heir=heir,
        outage=answers.outage(began - MARGIN),
        floor=answers.outage(end=began),
        cured=later.outage(),
        nobody=max(seen.nobody(), healed.nobody()),
        several=max(seen.several(), healed.several()),
        left=seen.announcers(address, LAST),
        end=healed.announcers(address, LAST),
        announced=sum(said.node == heir for said in seen.announced(address, began)),
        frames=frames,
        lost=answers.lost(began - MARGIN),
    )


def _count(lab: Lab, seconds: float) -> float | None:
    """Frames that a node sends in a second, on the average of all nodes."""
    if not seconds:
        return None
    before = [lab.frames(node) for node in lab.nodes]
    pause(seconds)
    after = [lab.frames(node) for node in lab.nodes]
    return (sum(after) - sum(before)) / len(before) / seconds


# -- faults and cures ------------------------------------------------------------------------------------------------


def kill(stage: Stage, node: str) -> None:
    """Both processes at once."""
    stage.speakers[node].kill()


def freeze(stage: Stage, node: str) -> None:
    stage.speakers[node].send_all(signal.SIGSTOP)


def thaw(stage: Stage, node: str) -> None:
    stage.speakers[node].send_all(signal.SIGCONT)


def end(stage: Stage, node: str) -> None:
    """In good order, as Kubernetes ends a pod."""
    stage.speakers[node].send(signal.SIGTERM)


def begin_again(stage: Stage, node: str) -> None:
    stage.restart(node)


def silence(stage: Stage, node: str) -> None:
    stage.lab.silence(node)


def mend(stage: Stage, node: str) -> None:
    stage.lab.mend(node)


def pull(stage: Stage, node: str) -> None:
    stage.lab.pull(node)


def plug(stage: Stage, node: str) -> None:
    stage.lab.plug(node)


def split(stage: Stage, node: str) -> None:
    """The client is on the other side."""
    stage.lab.split(node)


def heal(stage: Stage, node: str) -> None:
    stage.lab.heal()


KILLED = Case("speaker killed (new client)", kill, begin_again, "fresh", 0.35, "5.0–7.9 s", "0.9–1.1 s")
FROZEN = Case("speaker frozen (new client)", freeze, thaw, "fresh", 0.35, "5.0–7.9 s", "0.9–1.1 s")
SILENT = Case("node silent", silence, mend, "kept", 0.35, "5.0–7.9 s", "0.9–1.1 s")
PULLED = Case("link pulled", pull, plug, "kept", 0.35, "5.0–7.9 s", "0.9–1.1 s")
ENDED = Case("SIGTERM (new client)", end, begin_again, "fresh", 0.0, "no gap")
SPLIT = Case("segment split, then healed", split, heal, "kept", 0.35, "5.0–7.9 s", "0.9–1.1 s")

BARE = (KILLED, FROZEN, SILENT, PULLED, ENDED, SPLIT)
"""What needs no Kubernetes."""


# -- several nodes at once -------------------------------------------------------------------------------------------


def mass(stage: Stage, count: int) -> tuple[float, frozenset[str]]:
    """Kill `count` speakers at once. Seconds until the last of their addresses was announced by another; the living.

    The announcement is what reaches every client; a client for each address would load the machine, not the speakers.
    Raises `LabError` when an address stays dark.
    """
    holders = stage.holders()
    dead = frozenset(sorted(stage.lab.nodes, key=lambda node: node not in holders.values())[:count])
    watch = stage.lab.watch(*stage.addresses, interval=0.0)
    try:
        began = time.monotonic()
        for node in dead:
            stage.speakers[node].send_all(signal.SIGKILL)
        pause(PACE.after)
        seen = watch.take()
    finally:
        watch.close()
        for node in dead:
            stage.speakers[node].kill()
    lost = [address for address, holder in holders.items() if holder in dead]
    back = [[said.heard for said in seen.announced(address, began) if said.node not in dead] for address in lost]
    if not all(back):
        dark = [str(address) for address, heard in zip(lost, back, strict=True) if not heard]
        raise LabError(f"nobody has announced {', '.join(dark)} within {PACE.after:g} s")
    return max(min(heard) for heard in back) - began, frozenset(stage.lab.nodes) - dead
