"""What pools and advertisements say of announcing: which addresses, from which nodes and interfaces.  PURE.

The speaker asks it at every look, the command line once. It reads the custom resources as the controller does.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from lbctl.cluster import Kubernetes, Object, Watch
from lbctl.model import IPAddress
from lbctl_l2 import state
from lbctl_l2.pool import Advertisement, Pool
from lbctl_l2.ranges import parse

POOLS = Watch("addresspools", "lbctl.io", "v1alpha1")
ADVERTS = Watch("l2advertisements", "lbctl.io", "v1alpha1")


class Served(msgspec.Struct, frozen=True):
    """Pools and what is said of announcing them."""

    pools: tuple[Pool, ...] = ()
    adverts: tuple[Advertisement, ...] = ()

    @staticmethod
    def watches(_settings: Mapping[str, str]) -> Sequence[Watch]:
        """What it is read from."""
        return (POOLS, ADVERTS)

    @staticmethod
    def read(kubernetes: Kubernetes, _settings: Mapping[str, str]) -> "Served":
        """As the cluster says it now."""
        adverts = (Advertisement(o.name, interfaces=tuple(o.spec.get("interfaces") or ())) for o in kubernetes.objects(ADVERTS))
        return Served(tuple(map(_pool, kubernetes.objects(POOLS))), tuple(adverts))

    def pool_of(self, address: IPAddress) -> str:
        """Whose address it is; "" if it is no pool's."""
        return next((pool.name for pool in self.pools if pool.covers(address)), "")

    @property
    def ranges(self) -> tuple[state.Range, ...]:
        """The pools, as they are kept on disk."""
        return tuple(self._ranges())

    def _ranges(self) -> Iterator[state.Range]:
        for pool in self.pools:
            for part in pool.ranges:
                yield state.Range(pool.name, str(part.address(part.first)), str(part.address(part.last)))


def _pool(item: Object) -> Pool:
    return Pool(item.name, tuple(parse(text) for text in item.spec.get("addresses", ())))
