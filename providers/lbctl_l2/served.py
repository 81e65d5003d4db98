"""The pools and advertisements that a speaker goes by: read out of the cluster, and worked out when they change.

The speaker asks it at every look, the command line once. What the objects mean `crds.py` says, as for the controller.
"""

from collections.abc import Iterator, Mapping, Sequence

from lbctl.cluster import Kubernetes, Watch
from lbctl_l2 import crds, state
from lbctl_l2.crds import Found, Supply

METALLB = ("ipaddresspools", "l2advertisements")
"""What of MetalLB's configuration says who announces."""


def watches(settings: Mapping[str, str]) -> Sequence[Watch]:
    """What is read of the cluster. MetalLB's only where its namespace is named."""
    namespace = settings.get("metallb-namespace", "metallb-system")
    theirs = [watch for watch in crds.metallb(namespace) if watch.plural in METALLB] if namespace else []
    return (crds.ADDRESS_POOLS, crds.L2_ADVERTISEMENTS, *theirs)


class Served:
    """What is served as of the last look. The same value stays the same object."""

    def __init__(self, kubernetes: Kubernetes, settings: Mapping[str, str]) -> None:
        self._kubernetes, self._watches = kubernetes, watches(settings)
        texts = [text.strip() for text in settings.get("addresses", "").split(",") if text.strip()]
        self._plain, _ = crds.manifests(texts)
        self._found: tuple[Found, ...] | None = None
        self.supply: Supply = crds.NOTHING

    def look(self) -> Supply:
        """As the cluster says it now. Of what cannot be read the last good version is served."""
        found = (*crds.read(self._kubernetes.objects, self._watches), *self._plain)
        if found != self._found:
            fresh = crds.supply(found, self.supply)
            self._found, self.supply = found, fresh if fresh != self.supply else self.supply
        return self.supply


def ranges(supply: Supply) -> tuple[state.Range, ...]:
    """The pools, as they are kept on disk."""
    return tuple(_ranges(supply))


def _ranges(supply: Supply) -> Iterator[state.Range]:
    for pool in supply.pools:
        for part in pool.ranges:
            yield state.Range(pool.name, str(part.address(part.first)), str(part.address(part.last)))
