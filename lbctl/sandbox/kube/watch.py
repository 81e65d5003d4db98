"""One watch: what it has still to say, filled by the store and emptied by the connection it belongs to."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from lbctl.sandbox.kube.select import Predicate
from lbctl.sandbox.kube.status import Refusal
from lbctl.sandbox.kube.store import Change, Entry, Store

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class Frame(NamedTuple):
    """One event: ADDED, MODIFIED, DELETED with an entry; BOOKMARK with a version; ERROR with a refusal."""

    type: str
    entry: Entry | None = None
    version: int = 0
    initial_end: bool = False
    refusal: Refusal | None = None


class Watch:
    """Use it as a context: it listens to the store from `begin_…` until it is left."""

    def __init__(self, store: Store, resource: str, namespace: str, matches: Predicate) -> None:
        self.pending: deque[Frame] = deque()
        self.wake: Callable[[], None] = lambda: None
        """Called whenever there is something to say."""
        self.ended = False
        self._store, self._resource, self._namespace, self._matches = store, resource, namespace, matches
        self._unsubscribe: Callable[[], None] = lambda: None

    def begin_with_everything(self, *, mark_end: bool = False) -> None:
        """Everything there is as ADDED; a bookmark says where that ends (WatchList)."""
        for _, entry in self._store.entries(self._resource, self._namespace):
            if self._matches(entry.obj):
                self.pending.append(Frame("ADDED", entry))
        if mark_end:
            self.pending.append(Frame("BOOKMARK", version=self._store.version, initial_end=True))
        self._unsubscribe = self._store.subscribe(self._resource, self._hear)

    def begin_after(self, version: int) -> None:
        """What happened since. Raises 410 when that is forgotten."""
        for change in self._store.since(self._resource, version):
            self._hear(change)
        self._unsubscribe = self._store.subscribe(self._resource, self._hear)

    def fail(self, refusal: Refusal) -> None:
        """Say this, then end."""
        self.pending.append(Frame("ERROR", refusal=refusal))
        self.end()

    def end(self) -> None:
        """No more events; what is pending is still said."""
        self.ended = True
        self._unsubscribe()
        self.wake()

    def bookmark(self) -> Frame:
        """How far it has heard."""
        return Frame("BOOKMARK", version=self._store.version)

    def _hear(self, change: Change) -> None:
        if self._namespace and change.key[0] != self._namespace:
            return
        if frame := self._frame(change):
            self.pending.append(frame)
            self.wake()

    def _frame(self, change: Change) -> Frame | None:
        before = change.before is not None and self._matches(change.before.obj)
        after = change.after is not None and self._matches(change.after.obj)
        if after:
            return Frame("MODIFIED" if before else "ADDED", change.after)
        if not before or change.before is None:
            return None
        return Frame("DELETED", change.last or _as_of(change.before, change.version))


def _as_of(entry: Entry, version: int) -> Entry:
    """An object that no longer matches goes with the version of that change."""
    meta = entry.obj["metadata"] | {"resourceVersion": str(version)}
    return Entry(entry.obj | {"metadata": meta}, version)
