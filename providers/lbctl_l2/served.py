"""The pools and advertisements that a speaker goes by: less of the cluster than the controller reads of it.

Of an object that cannot be read its last good version is served (`crds.py`). A speaker that begins anew knows it by the
objects in its last state: else it would leave the addresses of a pool that somebody has just got wrong.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from lbctl.cluster import Kubernetes, Object, Watch
from lbctl_l2 import configured, crds
from lbctl_l2.configured import Configured
from lbctl_l2.crds import NOTHING, Found, Supply

SORTS = ("addresspools", "ipaddresspools", "l2advertisements")
"""What says which addresses are announced, and from where. On every node: each sort is one watch more."""


def watches(settings: Mapping[str, str]) -> tuple[Watch, ...]:
    """What is read of the cluster."""
    return tuple(watch for watch in configured.watches(settings) if watch.plural in SORTS)


class Served:
    """What is served, look by look. `last` are the `objects` of the process before."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        settings: Mapping[str, str],
        changed: Callable[[], None] = lambda: None,
        last: Iterable[Found] = (),
    ) -> None:
        self._good = {(watch, item.name): item for watch, item in last}
        before = configured.said(settings, self.objects)
        self._configured = Configured(kubernetes, settings, changed, watches(settings), before)
        self._supply = NOTHING

    def look(self) -> Supply:
        """As it is said now."""
        supply = self._configured.look()
        if supply is not self._supply:
            self._supply, self._good = supply, dict(self._remembered(supply))
        return supply

    @property
    def objects(self) -> tuple[Found, ...]:
        """What is served of the cluster, each object in its last good version."""
        return tuple((watch, item) for (watch, _), item in self._good.items())

    @property
    def last_good(self) -> dict[str, int]:
        """What cannot be read (`pool/NAME`, `advertisement/GROUP/NAME`) → the generation that is served, 0 for none."""
        known = ((watch, item, self._good.get((watch, item.name))) for watch, item in self._said())
        return {
            _key(watch, item.name): good.generation if good is not None else 0
            for watch, item, good in known if good != _bare(item)
        }  # fmt: skip

    def _said(self) -> Iterator[Found]:
        for watch in self._configured.watches:
            yield from ((watch, item) for item in self._configured.objects(watch))

    def _remembered(self, supply: Supply) -> Iterator[tuple[tuple[Watch, str], Object]]:
        for watch, item in self._said():
            good = _bare(item) if _is_served(watch, item, supply) else self._good.get((watch, item.name))
            if good is not None:
                yield (watch, item.name), good


def _is_served(watch: Watch, item: Object, supply: Supply) -> bool:
    """As it stands, and not in a former version."""
    alone = crds.supply([(watch, item)])
    return bool(alone.advertisements or alone.read) and all(
        supply.read.get(name) == pool for name, pool in alone.read.items()
    )


def _bare(item: Object) -> Object:
    """Without what changes and says nothing of addresses."""
    return msgspec.structs.replace(item, version="", annotations={}, status={})


def _key(watch: Watch, name: str) -> str:
    return f"advertisement/{watch.group}/{name}" if watch.plural == "l2advertisements" else f"pool/{name}"
