"""Objects in memory, one counter of resourceVersions, and the history that watches and pages are read from.

One thread uses it (the server's loop), so every method is a transaction. What was put is never changed afterwards:
entries are shared by readers, watchers and history.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from lbctl.sandbox.kube.kinds import Object
from lbctl.sandbox.kube.status import Refusal, expired

Key = tuple[str, str]
"""(namespace, name); the namespace of cluster-scoped objects is empty."""


class Entry:
    """One object as of one version; `rest` is its JSON after `{"kind":…,"apiVersion":…,`, encoded once."""

    __slots__ = ("_rest", "obj", "version")

    def __init__(self, obj: Object, version: int) -> None:
        self.obj, self.version = obj, version
        self._rest: bytes | None = None

    @property
    def rest(self) -> bytes:
        if self._rest is None:
            bare = {key: value for key, value in self.obj.items() if key not in ("kind", "apiVersion")}
            self._rest = msgspec.json.encode(bare)[1:]
        return self._rest

    def copy(self) -> Object:
        """An object of one's own, to change."""
        fresh: Object = msgspec.json.decode(b"{" + self.rest)
        return {"kind": self.obj["kind"], "apiVersion": self.obj["apiVersion"], **fresh}


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one object at one version; no `before`: created, no `after`: deleted."""

    version: int
    key: Key
    before: Entry | None
    after: Entry | None
    last: Entry | None = None
    """A deleted object as its watchers see it: as it was, with the version of its deletion."""


@dataclass(slots=True)
class _Shelf:
    """Everything of one resource."""

    floor: int
    """History is complete after this version."""
    namespaces: dict[str, dict[str, Entry]] = field(default_factory=dict)
    history: deque[Change] = field(default_factory=deque)
    watchers: set[Callable[[Change], None]] = field(default_factory=set)


def _too_old(version: int, floor: int) -> Refusal:
    return expired(f"too old resource version: {version} ({floor + 1})")


class Store:
    """`version` is that of the newest change. History holds the last `history` changes of each resource."""

    def __init__(self, version: int, history: int = 20_000) -> None:
        self.version = version
        self._history = history
        self._floor = version
        self._shelves: dict[str, _Shelf] = {}

    def _shelf(self, resource: str) -> _Shelf:
        shelf = self._shelves.get(resource)
        if shelf is None:
            shelf = self._shelves[resource] = _Shelf(self._floor)
        return shelf

    def get(self, resource: str, key: Key) -> Entry | None:
        return self._shelf(resource).namespaces.get(key[0], {}).get(key[1])

    def entries(self, resource: str, namespace: str = "") -> list[tuple[Key, Entry]]:
        """What is there now, of one namespace or of all, in the order of etcd's keys."""
        spaces = self._shelf(resource).namespaces
        chosen = [namespace] if namespace else sorted(spaces)
        return [((space, name), entry) for space in chosen for name, entry in sorted(spaces.get(space, {}).items())]

    def at(self, resource: str, version: int, namespace: str = "") -> list[tuple[Key, Entry]]:
        """What was there at an earlier version. Raises 410 when that is forgotten."""
        if version >= self.version:
            return self.entries(resource, namespace)
        found = dict(self.entries(resource, namespace))
        for change in reversed(self.since(resource, version)):
            if namespace and change.key[0] != namespace:
                continue
            if change.before is None:
                found.pop(change.key, None)
            else:
                found[change.key] = change.before
        return sorted(found.items())

    def since(self, resource: str, version: int) -> list[Change]:
        """Every change after that version, oldest first. Raises 410 when some of them are forgotten."""
        shelf = self._shelf(resource)
        if version < shelf.floor:
            raise _too_old(version, shelf.floor)
        if not shelf.history or shelf.history[-1].version <= version:
            return []
        changes = list(shelf.history)
        return changes[bisect_right(changes, version, key=lambda change: change.version) :]

    def put(self, resource: str, key: Key, obj: Object) -> Entry:
        """Store it under a new resourceVersion, which is written into it; tell those who watch."""
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        names = self._shelf(resource).namespaces.setdefault(key[0], {})
        before, entry = names.get(key[1]), Entry(obj, self.version)
        names[key[1]] = entry
        self._happened(resource, Change(self.version, key, before, entry))
        return entry

    def remove(self, resource: str, key: Key, last: Object | None = None) -> Entry | None:
        """Forget it; `last` is its state at the end where that differs from what is stored. None: it was not there."""
        entry = self._shelf(resource).namespaces.get(key[0], {}).pop(key[1], None)
        if entry is None:
            return None
        self.version += 1
        gone = dict(last or entry.obj)
        gone["metadata"] = gone["metadata"] | {"resourceVersion": str(self.version)}
        final = Entry(gone, self.version)
        self._happened(resource, Change(self.version, key, entry, None, final))
        return final

    def _happened(self, resource: str, change: Change) -> None:
        shelf = self._shelf(resource)
        shelf.history.append(change)
        while len(shelf.history) > self._history:
            shelf.floor = shelf.history.popleft().version
        for notify in tuple(shelf.watchers):
            notify(change)

    def subscribe(self, resource: str, notify: Callable[[Change], None]) -> Callable[[], None]:
        """Call this one for every change from now on, until the returned function is called."""
        watchers = self._shelf(resource).watchers
        watchers.add(notify)
        return lambda: watchers.discard(notify)

    def compact(self) -> None:
        """Forget history, as etcd does every five minutes: whoever comes back with an old version gets 410."""
        self._floor = self.version
        for shelf in self._shelves.values():
            shelf.floor = self.version
            shelf.history.clear()

    def resources(self) -> Iterator[str]:
        return iter(tuple(self._shelves))
