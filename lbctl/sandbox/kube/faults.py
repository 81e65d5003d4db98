"""What should go wrong, on request: by the Python API (`sandbox.faults`), or by PUT to /sandbox/faults.

A fault matches requests by verb, resource and namespace, for a number of requests, a time, or until it is cleared.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

Effect = Literal[
    "latency", "conflict", "expired", "throttle", "error", "lose", "silence", "deny", "drop", "compact", "outage"
]  # fmt: skip

_VERBS: Mapping[str, tuple[str, ...]] = {
    "conflict": ("update", "patch"),
    "expired": ("list", "watch"),
    "drop": ("watch",),
}
_ONE_SHOT = frozenset({"compact"})


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """One thing that goes wrong.

    | effect | what happens |
    |---|---|
    | latency | the answer comes `delay` seconds later; other faults still apply |
    | conflict | 409 on updates and patches, as if somebody else had written in between |
    | expired | 410: to lists at once, to watches in the stream |
    | throttle | 429 with Retry-After: `retryAfter` |
    | error | the status `code` (default 500) |
    | lose | the request is carried out, but the connection breaks before the answer |
    | silence | no answer, the connection stays open until the fault is cleared |
    | deny | 403, and SelfSubjectAccessReviews say no |
    | drop | open watches end, and new ones at once, without an error |
    | compact | once: history is forgotten, open watches end with 410 |
    | outage | connections are refused, open ones broken |
    """

    effect: Effect
    verbs: tuple[str, ...] = ()
    """Empty: every verb (conflict: update and patch, expired: list and watch, drop: watch)."""
    resources: tuple[str, ...] = ()
    """`services`, `services/status`; empty: all."""
    namespaces: tuple[str, ...] = ()
    count: int | None = None
    """How many requests; None: no limit."""
    seconds: float | None = None
    """How long; None: until cleared."""
    delay: float = 0.0
    code: int = 500
    retry_after: int = 1

    def matches(self, verb: str, resource: str, namespace: str) -> bool:
        verbs = self.verbs or _VERBS.get(self.effect, ())
        return (
            (not verbs or verb in verbs)
            and (not self.resources or resource in self.resources)
            and (not self.namespaces or namespace in self.namespaces)
        )


class Recorded(NamedTuple):
    """One request as it came, for tests that count."""

    method: str
    path: str
    query: str
    agent: str
    verb: str
    resource: str


class _Active:
    """A fault, what is left of its count, and when it ends."""

    __slots__ = ("fault", "left", "until")

    def __init__(self, fault: Fault, now: float) -> None:
        self.fault, self.left = fault, fault.count
        self.until = None if fault.seconds is None else now + fault.seconds

    def over(self, now: float) -> bool:
        return self.left == 0 or (self.until is not None and now >= self.until)


class Faults:
    """The faults that are active. Any thread may use it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic."""
        self._clock, self._lock = clock, threading.Lock()
        self._active: deque[_Active] = deque()
        self.changed: Callable[[Fault | None], None] = lambda _: None
        """Called after each injection with the fault, and with None after `clear`: the server acts on some at once."""

    def inject(self, *faults: Fault) -> None:
        """From now on, these too."""
        with self._lock:
            self._active.extend(_Active(fault, self._clock()) for fault in faults if fault.effect not in _ONE_SHOT)
        for fault in faults:
            self.changed(fault)

    def clear(self) -> None:
        """All is well again."""
        with self._lock:
            self._active.clear()
        self.changed(None)

    @property
    def active(self) -> tuple[Fault, ...]:
        with self._lock:
            return tuple(item.fault for item in self._current())

    def take(self, verb: str, resource: str, namespace: str) -> list[Fault]:
        """The faults of one request, each counted: every delay, and the first of the others."""
        with self._lock:
            found: list[Fault] = []
            for item in self._current():
                last = bool(found) and found[-1].effect != "latency"
                if last or not item.fault.matches(verb, resource, namespace) or item.fault.effect == "outage":
                    continue
                found.append(item.fault)
                if item.left is not None:
                    item.left -= 1
            return found

    def denies(self, attributes: Mapping[str, Any]) -> str | None:
        """Why what these resourceAttributes describe is denied, if it is."""
        plural, part = attributes.get("resource", ""), attributes.get("subresource", "")
        resource = f"{plural}/{part}" if part else plural
        with self._lock:
            for item in self._current():
                fault = item.fault
                if fault.effect == "deny" and fault.matches(
                    attributes.get("verb", ""), resource, attributes.get("namespace", "")
                ):
                    return "denied by a fault of the sandbox"
        return None

    def _current(self) -> list[_Active]:
        now = self._clock()
        self._active = deque(item for item in self._active if not item.over(now))
        return list(self._active)
