"""Keeps a store equal to the API server: list, then watch, for as long as it takes.

One thread per sort of object. The semantics are those of client-go's reflector:

| what happens                                    | what follows                                                  |
|-------------------------------------------------|---------------------------------------------------------------|
| first                                           | a consistent list in pages, then a watch from its version      |
| the watch ends, breaks, or is silent for 70 s   | watch again from the last resourceVersion, at once             |
| it ends within a second without an event        | back off, list, watch                                          |
| no connection, one that breaks at once, or 429  | back off (or as long as it says), watch again without a list   |
| 410, as an answer or within the watch           | back off, list with RV=""                                      |
| anything else                                   | back off, list, watch                                          |

The store knows before handlers hear. One object that cannot be decoded is reported once and blocks no other; what was
known of it stays. API servers send a bookmark about once a minute and keep 75 s of history, so 70 s of silence mean
that the connection is dead. Time and chance are injected; waiting is on the stop event, so `stop` ends at once.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from lbctl.errors import LbctlError, Unavailable
from lbctl.kube import objects
from lbctl.kube.client import ApiError, Client, Gone, NotFound, Stream, Throttled, error
from lbctl.kube.objects import ListEnvelope, Object, Resource, Status, Undecodable, WatchEvent
from lbctl.kube.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)

LONGEST_WAIT = 300.0
"""Seconds that a server may ask to be left alone for; more is taken as so many."""

SILENCE = 70.0
"""Seconds without a byte after which a watch is dead."""

UNKNOWN, UNKNOWN_MOST = 30.0, 300.0
"""Seconds until a sort of object that the server does not know is asked for again; they double."""

PAGE = 500

_NONE: tuple[tuple[()], str, tuple[()]] = ((), "", ())


class VeryShort(LbctlError):
    """A watch that ended within a second without an event: the server does not mean it."""

    reason = "very-short-watch"


class Backoff:
    """0.8 s, doubling to 30 s, each stretched by chance up to twice its length; forgotten after 2 healthy minutes."""

    FIRST, MOST, RESET = 0.8, 30.0, 120.0

    def __init__(self, clock: Callable[[], float], chance: Callable[[], float]) -> None:
        self._clock, self._chance = clock, chance
        self._next = self.FIRST
        self._last = clock()

    def seconds(self) -> float:
        """How long to wait this time."""
        now = self._clock()
        if now - self._last > self.RESET:
            self._next = self.FIRST
        self._last = now
        base, self._next = self._next, min(self._next * 2, self.MOST)
        return base * (1 + self._chance())


class Reflector(Generic[T]):
    """Fills one store with one sort of object, of one namespace or of all.

    `selector` is a label selector. An `optional` sort of object may be unknown to the server: then there are none, and
    the server is asked again after `UNKNOWN` seconds, then ever less often.

    `misread` is told of each object that cannot be decoded, and why, once.

    synced    set as soon as the store has been filled once
    bad       what could not be decoded: key → problem
    failing   why the last attempt failed, empty while all is well
    """

    def __init__(
        self,
        client: Client,
        resource: Resource[T],
        store: Store[T],
        *,
        namespace: str = "",
        selector: str = "",
        optional: bool = False,
        misread: Callable[[str, str], None] = lambda _key, _problem: None,
        silence: float = SILENCE,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._client, self._resource, self._store, self._silence = client, resource, store, silence
        self._clock, self._chance = clock, chance
        self._path = resource.path(namespace)
        self._selector = {"labelSelector": selector} if selector else {}
        self._optional, self._misread = optional, misread
        self._decoder = objects.decoder(resource.type)
        self._bare: msgspec.json.Decoder[Any] = msgspec.json.Decoder(objects.Bare)
        self._events: msgspec.json.Decoder[WatchEvent] = msgspec.json.Decoder(WatchEvent)
        self._backoff = Backoff(clock, chance)
        self._version = ""
        self._expired = False
        self._unknown = UNKNOWN
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._thread: threading.Thread | None = None
        self._absent = False
        self.synced = threading.Event()
        self.bad: dict[str, str] = {}
        self.failing = ""

    @property
    def group(self) -> str:
        """The API group of what it reads; empty for the core's."""
        return self._resource.group

    def start(self, *, absent: bool = False) -> None:
        """Begin, on a thread of its own. `absent`: the server is known to know no such objects; ask later."""
        self._absent = absent
        self._thread = threading.Thread(target=self.run, name=f"reflector-{self._resource.plural}", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End at once, whatever it is waiting for. Safe to repeat."""
        self._stop.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        if self._thread is not None:
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Is the thread at work?"""
        return self._thread is not None and self._thread.is_alive()

    def once(self, *, absent: bool = False) -> None:
        """Fill the store from one consistent list and leave it at that. Raises what the API server says."""
        try:
            self._replace(*self._pages(PAGE) if not absent else _NONE)
        except NotFound:
            if not self._optional:
                raise
            self._replace(*_NONE)

    def run(self) -> None:
        """Until `stop`: fill the store, then follow what changes."""
        if self._absent:
            self._do_without()
        while not self._stop.is_set():
            try:
                self._fill()
                while not self._stop.is_set():
                    self._follow_patiently()
            except LbctlError as why:
                if self._optional and isinstance(why, NotFound):
                    self._do_without()
                    continue
                self._note_failure(why)
                self._expired = isinstance(why, Gone) or _too_large(why)
                self._wait(why)

    def _do_without(self) -> None:
        """The server does not know this sort of object (any more). Ask again later."""
        self._replace(*_NONE)
        self._stop.wait(self._unknown)
        self._unknown = min(2 * self._unknown, UNKNOWN_MOST)

    # -- filling ------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """One list into the store. Once something is known, it comes from the watch cache, unless that is too old."""
        if self._expired or not self._version:
            items, version, kept = self._pages(PAGE)
        else:
            items, version, kept = self._page({"resourceVersion": self._version})[:3]
        self._replace(items, version, kept)

    def _pages(self, limit: int) -> tuple[list[T], str, list[str]]:
        """A consistent list in pages; when its token expires meanwhile, in one piece."""
        items: list[T] = []
        kept: list[str] = []
        params = {"limit": str(limit)}
        try:
            while True:
                page, version, bad, token = self._page(params)
                items += page
                kept += bad
                if not token or self._stop.is_set():
                    return items, version, kept
                params = {"limit": str(limit), "continue": token}
        except Gone:
            return self._page({})[:3]

    def _page(self, params: dict[str, str]) -> tuple[list[T], str, list[str], str]:
        """(objects, resourceVersion, keys of what cannot be decoded, token of the next page)."""
        envelope = self._envelope(self._client.get(self._path, params | self._selector))
        items: list[T] = []
        bad: list[str] = []
        for raw in envelope.items or ():
            item = self._decode(raw)
            bad.append(item.key) if isinstance(item, Undecodable) else items.append(item)
        return items, envelope.metadata.resource_version, bad, envelope.metadata.continue_

    def _envelope(self, body: bytes) -> ListEnvelope:
        try:
            return msgspec.json.decode(body, type=ListEnvelope)
        except objects.UNREADABLE as why:
            raise LbctlError(f"the API server's list cannot be decoded: {why}", reason="bad-list") from why

    def _replace(self, items: Sequence[T], version: str, kept: Sequence[str]) -> None:
        self._store.replace(items, version, keep=kept)
        self._version, self._expired = version, False
        self.synced.set()

    # -- following ----------------------------------------------------------------------------------------------

    def _follow_patiently(self) -> None:
        """One watch from the last version. Where no connection can be had, wait and leave the list as it is."""
        try:
            self._watch()
        except (Unavailable, Throttled) as why:
            self._note_failure(why)
            self._wait(why)

    def _watch(self) -> None:
        """Open a watch and follow it until it ends, breaks off, or is silent for too long."""
        minutes = str(int(300 + 300 * self._chance()))
        asked = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": minutes, **self._selector}
        stream = self._open(asked | {"resourceVersion": self._version})
        started, seen = self._clock(), 0
        try:
            for line in stream:
                seen += 1
                self._heard(line)
                if self._stop.is_set():
                    return
        except Unavailable as why:
            if not seen and self._clock() - started < 1.0:
                raise
            log.info("a watch broke off", extra={"resource": self._resource.plural, "error": str(why)})
        finally:
            stream.close()
        if not self._stop.is_set() and not seen and self._clock() - started < 1.0:
            raise VeryShort("the watch ended within a second without an event")

    def _open(self, params: dict[str, str]) -> Stream:
        stream = self._client.stream(self._path, params, self._silence)
        self._note_success()
        with self._lock:
            self._stream = stream
            if self._stop.is_set():
                stream.close()
        return stream

    def _heard(self, line: bytes) -> None:
        """Take one line of a watch in."""
        try:
            self._take(self._events.decode(line))
        except objects.UNREADABLE as why:
            raise LbctlError(f"the watch sent what is no event: {why}", reason="bad-watch-event") from why

    def _take(self, event: WatchEvent) -> None:
        if event.type == "ERROR":
            raise _told(event.object)
        if event.type == "BOOKMARK":
            self._advance(str(self._bare.decode(event.object).metadata.get("resourceVersion", "")))
        elif event.type == "DELETED" or not self._echoes(event.object):
            self._apply(event, self._decode(event.object))

    def _echoes(self, raw: msgspec.Raw) -> bool:
        """Did the answer to a write of our own say the same already? In a rush that is half of all events."""
        stamped = objects.stamped(raw)
        if stamped is None or self._store.known(stamped) is None:
            return False
        self._advance(stamped.metadata.resource_version)
        return True

    def _apply(self, event: WatchEvent, item: T | Undecodable) -> None:
        if isinstance(item, Undecodable):
            # Its version is still progress: a watch from before it would stumble over it again.
            self._advance(str(self._bare.decode(event.object).metadata.get("resourceVersion", "")))
            if event.type == "DELETED":
                self._store.remove(item.key)
            return
        if event.type == "DELETED":
            self._store.remove(objects.key(item), item.metadata.resource_version)
        else:
            self._store.put(item)
        self._advance(item.metadata.resource_version)

    def _advance(self, version: str) -> None:
        if version:
            self._version = self._store.version = version

    # -- what went wrong ----------------------------------------------------------------------------------------

    def _decode(self, raw: msgspec.Raw) -> T | Undecodable:
        item = objects.decode(raw, self._decoder)
        if isinstance(item, Undecodable):
            if self.bad.get(item.key) != item.problem:
                fields = {"resource": self._resource.plural, "object": item.key, "error": item.problem}
                log.warning("an object cannot be decoded: it is left as it was last known", extra=fields)
                self._misread(item.key, item.problem)
            self.bad[item.key] = item.problem
        else:
            self.bad.pop(objects.key(item), None)
        return item

    def _note_failure(self, why: LbctlError) -> None:
        if str(why) != self.failing:
            log.warning("cannot follow", extra={"resource": self._resource.plural, "error": str(why)})
        self.failing = str(why)

    def _note_success(self) -> None:
        self.failing = ""

    def _wait(self, why: LbctlError) -> None:
        asked = why.retry_after if isinstance(why, ApiError) and why.retry_after else 0.0
        self._stop.wait(max(self._backoff.seconds(), min(asked, LONGEST_WAIT)))


def _told(raw: msgspec.Raw) -> ApiError:
    """The Status in an ERROR event, as the error that it would be as an answer."""
    status = msgspec.json.decode(raw, type=Status)
    return error(status.code, bytes(raw))


def _too_large(why: LbctlError) -> bool:
    """Is the server behind the version that we asked for? (Restored, or another member of it.)"""
    return isinstance(why, ApiError) and "Too large resource version" in why.message
