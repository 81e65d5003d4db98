"""The pools and advertisements that a speaker goes by: less of the cluster than the controller reads of it."""

from collections.abc import Callable, Iterator, Mapping

from lbctl.cluster import Kubernetes, Watch
from lbctl_l2 import configured, state
from lbctl_l2.configured import Configured
from lbctl_l2.crds import Supply

SORTS = ("addresspools", "ipaddresspools", "l2advertisements")
"""What says which addresses are announced, and from where. On every node: each sort is one watch more."""


def watches(settings: Mapping[str, str]) -> tuple[Watch, ...]:
    """What is read of the cluster."""
    return tuple(watch for watch in configured.watches(settings) if watch.plural in SORTS)


def served(
    kubernetes: Kubernetes, settings: Mapping[str, str], changed: Callable[[], None] = lambda: None
) -> Configured:
    """What is served, look by look."""
    return Configured(kubernetes, settings, changed, watches(settings))


def ranges(supply: Supply) -> tuple[state.Range, ...]:
    """The pools, as they are kept on disk."""
    return tuple(_ranges(supply))


def _ranges(supply: Supply) -> Iterator[state.Range]:
    for pool in supply.pools:
        for part in pool.ranges:
            yield state.Range(pool.name, str(part.address(part.first)), str(part.address(part.last)))
