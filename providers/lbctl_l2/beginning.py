"""Speakers that begin together: after a power cut, or when lbctl is new in a cluster.  PURE.

`announcer.py` keeps one `Beginning`. Who begins first knows of nobody, would take every address, and keep it: it holds
them then, and balance is slow for the sake of connections that last. But there are none yet. So:

    it waits     for the others' Leases, before it announces what nobody announces: `CALM` after the last one came,
                 `LONGEST` in all, and no longer once every node's speaker is there, or anybody announces anything. What
                 is announced already, or was in the last state, is not held up.
    it founds    as long as no *elder* is known, for `FOUNDING`: a speaker that lives, has settled and is no founder
                 itself. A founder settles `SETTLES` after its start, and founders even out all at once among each other
                 (`election.moves`).

Who comes back into a cluster at work hears an elder on the wire within a second: nothing of this is for it.
"""

from collections.abc import Iterable

from lbctl_l2.election import Member
from lbctl_l2.values import Report

CALM = 1.0
LONGEST = 3.0
HEARD = 1.5
"""Seconds after which whoever lives on the wire has been heard: until then, a Lease is believed."""
SETTLES = 5.0
FOUNDING = 60.0


class Beginning:
    """One speaker's beginning. All times are seconds of one clock."""

    def __init__(self, me: str, now: float) -> None:
        self._me, self._began, self._changed = me, now, now
        self._there: frozenset[object] = frozenset()
        self.waits = True
        """What nobody announces is not announced by this node either, yet."""
        self.founds = True
        """As is said in the Lease. At first of everybody: else two that begin would take each other for elders, where
        the API server answers so late that they have settled by then."""
        self._over = self._settled = False

    def look(self, roll: Iterable[Member], report: Report | None, now: float) -> bool:
        """Take in who is there. Whether this node is to settle now, before its time."""
        found, age = tuple(roll), now - self._began
        self._over = self._over or age >= FOUNDING or (age >= HEARD and self._elders(found, report))
        self.founds = not self._over
        self.waits = self.waits and not self._over and self._misses(found, report, now)
        settles = self.founds and age >= SETTLES and not self._settled
        self._settled = self._settled or settles
        return settles and report is not None and not report.settled

    def due(self, now: float) -> float:
        """Seconds until the next look, at the latest."""
        ends = (self._changed + CALM, self._began + LONGEST) if self.waits else ()
        turns = (self._began + HEARD, self._began + SETTLES, self._began + FOUNDING)
        return min((when - now for when in (*ends, *turns) if when > now), default=float("inf"))

    def _misses(self, roll: tuple[Member, ...], report: Report | None, now: float) -> bool:
        """Whether more speakers may be about to come."""
        there = frozenset((member.name, member.links) for member in roll if member.speaks)
        if there != self._there:
            self._there, self._changed = there, now
        if report is not None and report.settled:
            return False
        whole = all(member.excluded or (member.speaks and member.links) for member in roll)
        if whole or any(member.announces for member in roll):
            return False
        return now - self._changed < CALM and now - self._began < LONGEST

    def _elders(self, roll: tuple[Member, ...], report: Report | None) -> bool:
        """Whether anybody was at work before. A Lease outlives its speaker: that one must be heard."""
        heard = {peer.name for peer in report.peers if peer.alive} if report is not None else set()
        return any(
            member.name in heard and member.speaks and member.settled and not member.founds
            for member in roll if member.name != self._me
        )  # fmt: skip
