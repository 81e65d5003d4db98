"""What the administrator says of pools and advertisements: the cluster's objects, a file, and plain ranges.

The controller asks `look` at every pass, `lbctl pools` once. What the objects mean `crds.py` says. Of what cannot be
read the last good version is served, and the same value stays the same object, so that only what changed costs work.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import yaml

from lbctl.cluster import Kubernetes, Object, Watch
from lbctl.errors import SettingsError
from lbctl_l2 import crds
from lbctl_l2.crds import Found, Problem, Supply

NOWHERE = "none"
"""The `metallb-namespace` of who wants none of it read."""

FILE_BYTES = 4 * 1024 * 1024


def watches(settings: Mapping[str, str]) -> tuple[Watch, ...]:
    """What is read of the cluster: our own sorts, and MetalLB's in its namespace."""
    namespace = settings.get("metallb-namespace", "metallb-system")
    theirs = crds.metallb(namespace) if namespace not in ("", NOWHERE) else ()
    return (crds.ADDRESS_POOLS, crds.L2_ADVERTISEMENTS, *theirs)


class Configured:
    """Pools and advertisements as of the last look. Raises `SettingsError` where a setting cannot be read.

    `changed` is called, on a watch's thread, when somebody changed more than a status. `sorts`: less than all of
    `watches`, for who need not know everything (a node's speaker). `last`: what was served before this process.
    """

    def __init__(
        self,
        kubernetes: Kubernetes,
        settings: Mapping[str, str],
        changed: Callable[[], None] = lambda: None,
        sorts: tuple[Watch, ...] | None = None,
        last: Supply = crds.NOTHING,
    ) -> None:
        self._kubernetes, self._changed = kubernetes, changed
        self.watches = watches(settings) if sorts is None else sorts
        self._said, self._misread = _said(settings)
        self._found: tuple[Found, ...] = ()
        self._stale = True
        self.supply = last
        for watch in self.watches:
            kubernetes.follow(watch, self._hear)

    def look(self) -> Supply:
        """As it is said now."""
        if self._stale:
            self._stale = False
            try:
                self._read()
            except BaseException:
                self._stale = True
                raise
        return self.supply

    def _read(self) -> None:
        self._found = crds.read(self._kubernetes.objects, self.watches)
        fresh = crds.supply((*self._found, *self._said), self.supply)
        fresh = msgspec.structs.replace(fresh, problems=(*self._misread, *fresh.problems))
        self.supply = fresh if fresh != self.supply else self.supply

    def objects(self, watch: Watch) -> Iterator[Object]:
        """The cluster's objects of this sort, as of the last look."""
        return (item for sort, item in self._found if sort == watch)

    def _hear(self, before: Object | None, now: Object | None) -> None:
        self._stale = True
        if _asked(before) != _asked(now):
            self._changed()


def said(settings: Mapping[str, str], objects: Iterable[Found] = ()) -> Supply:
    """What these objects and the settings say, without a look at the cluster."""
    return crds.supply((*objects, *_said(settings)[0]))


def _asked(item: Object | None) -> object:
    """All of an object that people write."""
    return item and (item.spec, item.labels, item.deleting)


def _said(settings: Mapping[str, str]) -> tuple[tuple[Found, ...], tuple[Problem, ...]]:
    """What the settings say of pools. A range that cannot be read is an error here: nobody would see it elsewhere."""
    plain = _plain(settings)
    found, problems = crds.manifests(_documents(settings.get("pools", "")))
    wrong = [problem for problem in crds.supply(plain).problems if not problem.served]
    if wrong:
        raise SettingsError(f"--l2-addresses cannot be used: {wrong[0].message}")
    return (*plain, *found), problems


def _plain(settings: Mapping[str, str]) -> tuple[Found, ...]:
    texts = [text.strip() for text in settings.get("addresses", "").split(",") if text.strip()]
    found, _ = crds.manifests(texts)
    rest = _cooldown(settings)
    return tuple((watch, _resting(item, rest) if watch == crds.RANGES else item) for watch, item in found)


def _resting(item: Object, rest: timedelta) -> Object:
    return msgspec.structs.replace(item, spec={**item.spec, "cooldownSeconds": int(rest.total_seconds())})


def _cooldown(settings: Mapping[str, str]) -> timedelta:
    text = settings.get("cooldown", "300")
    if not text.isdecimal() or len(text) > 9:
        raise SettingsError(f"--l2-cooldown is {text!r}: give a number of seconds")
    return timedelta(seconds=int(text))


def _documents(path: str) -> Sequence[Any]:
    """The documents of the pools' file. Files that people write: YAML without tags and aliases, of a bounded size."""
    if not path:
        return ()
    try:
        if Path(path).stat().st_size > FILE_BYTES:
            raise SettingsError(f"--l2-pools {path} is larger than {FILE_BYTES // 2**20} MiB: split the pools' file")
        text = Path(path).read_text(encoding="utf-8")
        # A few lines of nested aliases can stand for billions of values.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise SettingsError(f"--l2-pools {path} uses aliases (*name): write out what they stand for")
        return tuple(yaml.safe_load_all(text))
    except RecursionError as error:
        raise SettingsError(f"--l2-pools {path} is nested too deeply for a file of pools") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"--l2-pools {path} cannot be read: {error}") from error
