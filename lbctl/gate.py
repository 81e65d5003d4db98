"""A gate in front of one sort of API call: closes at the first throttle, and lets one probe at a time find out.

A provider's `api.py` holds one `Gate` and passes every call through it, by the category that the cloud throttles by.
Without it, every lane would learn by itself that the cloud is busy, by one more call that makes it busier. While a
category is closed, callers get `Retry(after)` and nothing is sent; other categories stay open.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lbctl.errors import LbctlError, Retry, Unavailable

FIRST_PROBE, STEP, USUAL_PROBE, LAST_PROBE = 0.5, 0.5, 1.5, 30.0
"""Seconds until a closed category is probed: 0.5, 1, 1.5, 1.5, …, and a tenth of the outage once that is more."""

WHILE_PROBING = 0.2
"""Seconds after which to ask again while somebody else's probe is on its way."""

AT_ONCE = 5
"""Calls of one category on their way at the same time: as many as a first throttle can hit at once."""

SLOW = 0.5
"""Seconds after which a call gives up its place among those: a throttle would have been its answer long ago, and a
call that hangs must not make the others fewer."""


class Throttled(Exception):
    """Raised inside `Gate.passing` by whoever saw the cloud say "too fast"."""


class _Category:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.on_their_way: list[float] = []
        self.closed_at: float | None = None
        self.probes = 0
        self.next_probe = 0.0
        self.probing: float | None = None


    def wait(self, now: float, at_once: int) -> float:
        """Seconds until another call may go, if no other ends before; 0 for at once."""
        quick = [since for since in self.on_their_way if now - since < SLOW]
        return max(min(quick) + SLOW - now, 0.001) if len(quick) >= at_once else 0.0


class Gate:
    """One gate per provider, with a door per category. Safe to use from several threads. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float], at_once: int = AT_ONCE) -> None:
        self._clock, self._at_once = clock, at_once
        self._lock = threading.Lock()
        self._categories: dict[str, _Category] = {}

    @contextmanager
    def passing(self, category: str) -> Iterator[None]:
        """Around one call. Raises `Retry` instead of letting it through while the category is closed.

        `Throttled` raised inside closes the category (or keeps it closed, if this was the probe) and becomes `Retry`.
        A probe that gets any other answer, an error too, opens it again; one that gets none leaves it closed.
        """
        door = self._category(category)
        probe, since = self._enter(door, category)
        answered = False
        try:
            yield
            answered = True
        except Throttled as slow:
            raise Retry(self._close(door, probe), _sentence(category), reason="throttled") from slow
        except LbctlError as error:
            answered = not isinstance(error, Unavailable)
            raise
        finally:
            self._leave(door, probe, since, opens=answered)

    def _category(self, name: str) -> _Category:
        with self._lock:
            return self._categories.setdefault(name, _Category())

    def _enter(self, door: _Category, category: str) -> tuple[bool, float]:
        """Take a place: (whether this call is the probe of a closed category, when it began)."""
        with door.changed:
            while door.closed_at is None and (seconds := door.wait(self._clock(), self._at_once)):
                door.changed.wait(seconds)
            now = self._clock()
            if door.closed_at is not None:
                answered_soon = door.probing is not None and now - door.probing < SLOW
                wait = WHILE_PROBING if answered_soon else door.next_probe - now
                if wait > 0:
                    raise Retry(wait, _sentence(category), reason="throttled")
                door.probing = now
            door.on_their_way.append(now)
            return door.closed_at is not None, now

    def _close(self, door: _Category, probe: bool) -> float:
        """Seconds until the next probe. A throttle of a call sent before the door closed does not put that off."""
        with door.changed:
            now = self._clock()
            if door.closed_at is None:
                door.closed_at, door.probes = now, 0
                door.next_probe = now + FIRST_PROBE
            elif probe:
                door.probes += 1
                usual = min(FIRST_PROBE + STEP * door.probes, USUAL_PROBE)
                door.next_probe = now + min(max(usual, (now - door.closed_at) / 10), LAST_PROBE)
            return max(door.next_probe - now, WHILE_PROBING)

    def _leave(self, door: _Category, probe: bool, since: float, *, opens: bool) -> None:
        with door.changed:
            door.on_their_way.remove(since)
            if probe:
                door.probing = None if door.probing == since else door.probing
                if opens:
                    door.closed_at = None
            door.changed.notify_all()


def _sentence(category: str) -> str:
    return f"the cloud asks to slow down ({category}): lbctl waits, nothing needs to be done"
