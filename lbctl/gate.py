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


class Throttled(Exception):
    """Raised inside `Gate.passing` by whoever saw the cloud say "too fast"."""


class _Category:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.on_their_way = 0
        self.closed_at: float | None = None
        self.probes = 0
        self.next_probe = 0.0
        self.probing = False


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
        probe = self._enter(door, category)
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
            self._leave(door, probe, opens=answered)

    def _category(self, name: str) -> _Category:
        with self._lock:
            return self._categories.setdefault(name, _Category())

    def _enter(self, door: _Category, category: str) -> bool:
        """Take a place. True if this call is the probe of a closed category."""
        with door.changed:
            while door.closed_at is None and door.on_their_way >= self._at_once:
                door.changed.wait()
            if door.closed_at is not None:
                wait = WHILE_PROBING if door.probing else door.next_probe - self._clock()
                if wait > 0:
                    raise Retry(wait, _sentence(category), reason="throttled")
                door.probing = True
            door.on_their_way += 1
            return door.closed_at is not None

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

    def _leave(self, door: _Category, probe: bool, *, opens: bool) -> None:
        with door.changed:
            door.on_their_way -= 1
            if probe:
                door.probing = False
                if opens:
                    door.closed_at = None
            door.changed.notify_all()


def _sentence(category: str) -> str:
    return f"the cloud asks to slow down ({category}): lbctl waits, nothing needs to be done"
