"""What is known of one sort of object: a thread-safe dictionary with indexes, filled by a reflector or from files.

Reflectors write, everybody reads. Readers get whole objects and whole snapshots, never half of a change. Our own
writes' responses are put in at once (`writing`), so that the next look sees them without waiting for their echo, and
the echo is nobody's news, whether it comes after the response or, as it does half of the time, before.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, Literal, TypeVar

from lbctl.kube import objects
from lbctl.kube.objects import Object

T = TypeVar("T", bound=Object)
Event = Literal["added", "updated", "deleted"]
Handler = Callable[[Event, T | None, T | None], None]
"""Told of a change after the store knows it: (what happened, the object before, the object now). Must not block."""

Index = Callable[[T], Iterable[str]]
"""The values under which an object is found."""


def newer(candidate: str, current: str) -> bool:
    """Is the first resourceVersion after the second? Those of another form than a number only count as different."""
    if candidate.isdecimal() and current.isdecimal():
        return int(candidate) > int(current)
    return candidate != current


def later(candidate: str, current: str) -> bool:
    """Is the first resourceVersion certainly after the second?"""
    return candidate.isdecimal() and current.isdecimal() and int(candidate) > int(current)


class Store(Generic[T]):
    """Objects by `namespace/name`, in no particular order, with indexes."""

    def __init__(self, indexes: Mapping[str, Index[T]] | None = None) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, T] = {}
        self._snapshot: tuple[T, ...] | None = ()
        self._index_of = dict(indexes or {})
        self._indexes: dict[str, dict[str, dict[str, None]]] = {name: {} for name in self._index_of}
        self._handlers: list[Handler[T]] = []
        self._writing: dict[str, T | None] = {}
        self.version = ""
        """The resourceVersion of the last list, event or bookmark."""

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: str) -> T | None:
        """The object with this key, as last heard."""
        return self._objects.get(key)

    def known(self, stamped: objects.Stamped) -> T | None:
        """The object, if just this version of it is here: then there is no need to decode it again."""
        item = self._objects.get(objects.key(stamped))
        return item if item and item.metadata.resource_version == stamped.metadata.resource_version else None

    def all(self) -> tuple[T, ...]:
        """Every object, as of one moment."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = tuple(self._objects.values())
            return self._snapshot

    def by(self, index: str, value: str) -> tuple[T, ...]:
        """The objects that the index files under this value, as of one moment."""
        with self._lock:
            return tuple(self._objects[key] for key in self._indexes[index].get(value, ()))

    def subscribe(self, handler: Handler[T], *, present: bool = True) -> None:
        """Tell this one of every change from now on, and first of everything that is there already, if `present`."""
        with self._lock:
            there = tuple(self._objects.values()) if present else ()
            self._handlers.append(handler)
        for item in there:
            handler("added", None, item)

    def put(self, item: T) -> None:
        """What the watch says. An echo of what is already known is dropped without a word."""
        key = objects.key(item)
        with self._lock:
            old = self._objects.get(key)
            if old is not None and not newer(item.metadata.resource_version, old.metadata.resource_version):
                return
            self._set(key, item)
            if old is not None and key in self._writing:
                # Perhaps the echo of what is being written: that is known when the answer is there.
                self._writing[key] = self._writing[key] or old
                return
        self._tell("updated" if old is not None else "added", old, item)

    @contextmanager
    def writing(
        self, key: str, *, news: Callable[[T, T], bool] = lambda _old, _new: False
    ) -> Iterator[Callable[[T], None]]:
        """Around a write of our own: give the answer to what this yields.

        Handlers hear of the write only if `news` finds more than our own change in it: the answer may hold somebody
        else's change as well, whose own event is then an echo. What the watch says of the object meanwhile is told
        afterwards, unless it was this write. An object that is not here (any more) is left to the watch: the answer may
        be older than its deletion.
        """
        answers: list[T] = []
        self.expect(key)
        try:
            yield answers.append
        finally:
            self.wrote(key, answers[-1] if answers else None, news=news)

    def expect(self, key: str) -> None:
        """A write of our own begins. `wrote` must follow, whatever comes of it; see `writing`."""
        with self._lock:
            self._writing.setdefault(key, None)

    def wrote(
        self, key: str, answer: T | None, *, news: Callable[[T, T], bool] = lambda _old, _new: False
    ) -> None:
        """The write has ended: with this answer, or without one."""
        with self._lock:
            before, current = self._writing.pop(key, None), self._objects.get(key)
            if current is None:
                return
            if answer is not None and newer(answer.metadata.resource_version, current.metadata.resource_version):
                self._set(key, answer)
                before, current = before or current, answer
        if before is None:
            return
        ours = answer is not None and answer.metadata.resource_version == current.metadata.resource_version
        if not ours or news(before, current):
            self._tell("updated", before, current)

    def put_if_newer(self, item: T, *, news: Callable[[T, T], bool] = lambda _old, _new: False) -> None:
        """The answer to a write that began just now: see `writing`."""
        with self.writing(objects.key(item), news=news) as answered:
            answered(item)

    def remove(self, key: str, version: str = "") -> None:
        """What the watch says of a deletion. Handlers get the last that was known."""
        with self._lock:
            old = self._objects.get(key)
            if old is None or later(old.metadata.resource_version, version):
                return
            self._unset(key, old)
        self._tell("deleted", old, None)

    def replace(self, items: Iterable[T], version: str, *, keep: Iterable[str] = ()) -> None:
        """What a list says: these are all there are (beside `keep`: there, but undecodable).

        What is missing is told as deleted, with the last that was known. What our own writes brought after the list
        was made stays, unless the server's clock itself went back (restored from a backup).
        """
        fresh = objects.by_key(items)
        kept = set(keep)
        told: list[tuple[Event, T | None, T | None]] = []
        with self._lock:
            went_back = later(self.version, version)
            for key, old in list(self._objects.items()):
                ours = not went_back and later(old.metadata.resource_version, version)
                if key not in fresh and key not in kept and not ours:
                    self._unset(key, old)
                    told.append(("deleted", old, None))
            for key, item in fresh.items():
                known = self._objects.get(key)
                if known is not None and not self._replaces(item, known, went_back):
                    continue
                self._set(key, item)
                told.append(("added" if known is None else "updated", known, item))
            self.version = version
        for event, before, after in told:
            self._tell(event, before, after)

    @staticmethod
    def _replaces(item: T, known: T, went_back: bool) -> bool:
        now, before = item.metadata.resource_version, known.metadata.resource_version
        return now != before if went_back else newer(now, before)

    def _set(self, key: str, item: T) -> None:
        old = self._objects.get(key)
        if old is not None:
            self._unfile(key, old)
        self._objects[key] = item
        self._snapshot = None
        for name, index in self._index_of.items():
            for value in index(item):
                self._indexes[name].setdefault(value, {})[key] = None

    def _unset(self, key: str, old: T) -> None:
        del self._objects[key]
        self._snapshot = None
        self._unfile(key, old)
        if key in self._writing:
            self._writing[key] = None

    def _unfile(self, key: str, old: T) -> None:
        for name, index in self._index_of.items():
            for value in index(old):
                keys = self._indexes[name].get(value, {})
                keys.pop(key, None)
                if not keys:
                    self._indexes[name].pop(value, None)

    def _tell(self, event: Event, old: T | None, new: T | None) -> None:
        for handler in tuple(self._handlers):
            handler(event, old, new)


def services() -> Store[objects.Service]:
    """A store of Services, found by their finalizers."""
    return Store({"finalizer": lambda service: service.metadata.finalizers or ()})


def slices() -> Store[objects.EndpointSlice]:
    """A store of EndpointSlices, found by their Service."""
    return Store({"service": lambda item: (item.service,) if item.service else ()})


def nodes() -> Store[objects.Node]:
    return Store()


def namespaces() -> Store[objects.Namespace]:
    return Store()
