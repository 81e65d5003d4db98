"""Kubernetes Events: what `kubectl describe` tells of a Service, without flooding the cluster.

`emit` returns at once; a thread writes. The rules are client-go's correlator's: an identical Event raises the count of
the first, from the tenth different message of one reason within ten minutes they become one, and an object that gets
more than 25 in a row gets one every five minutes. What cannot be kept or written is counted and logged, never waited
for. Addresses come first: while anything else is being written, at most one Event per `YIELD` is.
"""

import logging
import random
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Generic, Literal, TypeVar

import msgspec

from lbctl.errors import LbctlError
from lbctl.kube.client import STRATEGIC, ApiError, Client, Conflict, NotFound
from lbctl.kube.conditions import stamp
from lbctl.model import Owner

log = logging.getLogger(__name__)

Type = Literal["Normal", "Warning"]

COMPONENT = "lbctl"

REMEMBERED = 4096
QUEUE = 16384
"""Events that wait: 10,000 Services may get their addresses at once."""

YIELD = 0.5
"""Seconds that an Event waits for the other writes to end."""

SIMILAR, SIMILAR_WINDOW = 10, 600.0
BURST, REFILL = 25, 1 / 300.0
TRIES, PAUSE = 12, 10.0


class Said(msgspec.Struct, frozen=True, gc=False):
    """One thing to tell of one Service."""

    owner: Owner
    uid: str
    type: Type
    reason: str
    message: str


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What to write: a new Event, or a higher count of one that was written before."""

    said: Said
    name: str
    first: str
    last: str
    count: int


V = TypeVar("V")


class _Recent(Generic[V]):
    """A dictionary that forgets what was used longest ago."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: OrderedDict[object, V] = OrderedDict()

    def get(self, key: object) -> V | None:
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def put(self, key: object, value: V) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._most:
            self._items.popitem(last=False)


class Correlator:
    """Decides what becomes of each thing said. Not thread-safe: the recorder's thread owns it."""

    def __init__(self, clock: Callable[[], float], now: Callable[[], datetime]) -> None:
        self._clock, self._now = clock, now
        self._tokens: _Recent[tuple[float, float]] = _Recent(REMEMBERED)
        self._similar: _Recent[tuple[float, frozenset[str]]] = _Recent(REMEMBERED)
        self._written: _Recent[Entry] = _Recent(REMEMBERED)

    def entry(self, said: Said) -> Entry | None:
        """What to write, or None if this Service has been told too much."""
        told, combined = self._combined(said)
        if not self._may_speak(said):
            return None
        key = (told.owner, told.uid, told.type, told.reason, "" if combined else told.message)
        moment = stamp(self._now())
        old = self._written.get(key)
        if old is None:
            name = f"{told.owner.partition('/')[2][:230]}.{secrets.token_hex(8)}"
            entry = Entry(told, name, moment, moment, 1)
        else:
            entry = msgspec.structs.replace(old, said=told, last=moment, count=old.count + 1)
        self._written.put(key, entry)
        return entry

    def again(self, entry: Entry) -> Entry:
        """The Event that was to be counted is gone: the same as a new one, under a new name."""
        name = f"{entry.said.owner.partition('/')[2][:230]}.{secrets.token_hex(8)}"
        fresh = msgspec.structs.replace(entry, name=name, count=1, first=entry.last)
        said = entry.said
        for message in (said.message, ""):
            key = (said.owner, said.uid, said.type, said.reason, message)
            if (known := self._written.get(key)) is not None and known.name == entry.name:
                self._written.put(key, fresh)
        return fresh

    def _combined(self, said: Said) -> tuple[Said, bool]:
        """From the tenth different message on, one Event for all of its kind."""
        key = (said.owner, said.uid, said.type, said.reason)
        now = self._clock()
        since, messages = self._similar.get(key) or (now, frozenset())
        messages = frozenset({said.message}) if now - since > SIMILAR_WINDOW else messages | {said.message}
        self._similar.put(key, (now, messages if len(messages) <= SIMILAR else self._one_less(messages, said)))
        if len(messages) < SIMILAR:
            return said, False
        return msgspec.structs.replace(said, message=f"(combined from similar events): {said.message}"), True

    @staticmethod
    def _one_less(messages: frozenset[str], said: Said) -> frozenset[str]:
        return frozenset(sorted(messages - {said.message})[1:]) | {said.message}

    def _may_speak(self, said: Said) -> bool:
        key = (said.owner, said.uid, said.type)
        now = self._clock()
        tokens, at = self._tokens.get(key) or (float(BURST), now)
        tokens = min(float(BURST), tokens + (now - at) * REFILL)
        allowed = tokens >= 1
        self._tokens.put(key, (tokens - 1 if allowed else tokens, now))
        return allowed


class Recorder:
    """Takes Events from anywhere and writes them on a thread of its own. `dropped` counts what was not written."""

    def __init__(
        self,
        client: Client,
        *,
        host: str = "",
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._client, self._host, self._chance = client, host, chance
        self._correlator = Correlator(clock, now)
        self._queue: deque[Said] = deque()
        self._wake = threading.Condition()
        self._stop = threading.Event()
        self._busy = False
        self._full = False
        self._not_taken = ""
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def emit(self, owner: Owner, uid: str, type: Type, reason: str, message: str) -> None:
        """Tell it, soon. Never blocks, never fails."""
        with self._wake:
            if len(self._queue) < QUEUE and not self._stop.is_set():
                self._queue.append(Said(owner, uid, type, reason, message[:1024]))
                self._wake.notify_all()
                return
            self.dropped += 1
            first, self._full = not self._full, True
        if first:
            log.warning("events are dropped: more is told than can be written", extra={"waiting": QUEUE})

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all is written. False if that took longer."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._queue and not self._busy, timeout)

    def stop(self, timeout: float = 5.0) -> None:
        """Write what is waiting, for at most so many seconds, and end."""
        if self._thread is not None and self._thread.is_alive():
            self.flush(timeout)
        self._stop.set()
        with self._wake:
            left = len(self._queue)
            self.dropped += left
            self._queue.clear()
            self._wake.notify_all()
        if left:
            log.warning("events were not written in time", extra={"events": left})
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while (said := self._take()) is not None:
            entry = self._correlator.entry(said)
            if entry is None or not self._write(entry):
                self.dropped += 1
            with self._wake:
                self._busy = False
                self._wake.notify_all()

    def _take(self) -> Said | None:
        with self._wake:
            self._wake.wait_for(lambda: bool(self._queue) or self._stop.is_set())
            if not self._queue:
                return None
            self._busy = True
            said = self._queue.popleft()
            self._full = self._full and bool(self._queue)
        self._client.calm(YIELD)
        return said

    def _write(self, entry: Entry) -> bool:
        """Try a dozen times while no clear answer comes, the first pause by chance. False if it was not written."""
        for attempt in range(TRIES):
            try:
                self._send(entry)
                self._not_taken = ""
                return True
            except LbctlError as why:
                if isinstance(why, ApiError) and why.status < 500 and why.status != 429:
                    return isinstance(why, Conflict) or self._refused(entry, why)
                if self._stop.wait(PAUSE * (self._chance() if attempt == 0 else 1.0)):
                    return False
        log.warning("an event could not be written", extra={"service": entry.said.owner, "reason": entry.said.reason})
        return False

    def _refused(self, entry: Entry, why: ApiError) -> Literal[False]:
        """Telling again would not help. That a namespace goes is no news; that we may not is, once."""
        going = isinstance(why, NotFound) or "NamespaceTerminating" in why.causes
        if not going and why.reason != self._not_taken:
            self._not_taken = why.reason
            log.warning("events are not taken", extra={"service": entry.said.owner, "error": str(why)})
        return False

    def _send(self, entry: Entry) -> None:
        namespace = entry.said.owner.partition("/")[0]
        path = f"/api/v1/namespaces/{namespace}/events"
        if entry.count > 1:
            body = {"count": entry.count, "lastTimestamp": entry.last, "message": entry.said.message}
            try:
                self._client.request("PATCH", f"{path}/{entry.name}", body, STRATEGIC)
                return
            except NotFound:
                entry = self._correlator.again(entry)
        self._client.request("POST", path, self._event(entry, namespace))

    def _event(self, entry: Entry, namespace: str) -> dict[str, object]:
        said = entry.said
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": entry.name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Service", "namespace": namespace,
                "name": said.owner.partition("/")[2], "uid": said.uid,
            },
            "type": said.type,
            "reason": said.reason,
            "message": said.message,
            "count": entry.count,
            "firstTimestamp": entry.first,
            "lastTimestamp": entry.last,
            "source": {"component": COMPONENT, **({"host": self._host} if self._host else {})},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._host,
        }  # fmt: skip


