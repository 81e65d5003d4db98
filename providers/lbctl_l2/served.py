"""What the cluster's pools and advertisements say of announcing: which addresses, from which nodes and interfaces.  PURE.

The speaker asks it at every look. It reads the custom resources through `crds.py`, as the controller does.
"""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network

import msgspec

from lbctl.cluster import Kubernetes, Watch
from lbctl.model import IPAddress
from lbctl_l2.state import Range


class Ad(msgspec.Struct, frozen=True):
    name: str
    interfaces: tuple[str, ...] = ()

    def serves(self, pool: str) -> bool:
        return True

    def admits(self, service: Mapping[str, str]) -> bool:
        return True

    def selects(self, node: Mapping[str, str]) -> bool:
        return True


POOLS = Watch("addresspools", "lbctl.io", "v1alpha1")
ADS = Watch("l2advertisements", "lbctl.io", "v1alpha1")


class Served(msgspec.Struct, frozen=True):
    adverts: tuple[Ad, ...] = ()
    ranges: tuple[Range, ...] = ()

    @staticmethod
    def watches(settings: Mapping[str, str]) -> Sequence[Watch]:
        return (POOLS, ADS)

    @staticmethod
    def read(kubernetes: Kubernetes, settings: Mapping[str, str]) -> "Served":
        ranges = []
        for pool in kubernetes.objects(POOLS):
            for text in pool.spec.get("addresses", ()):
                if "-" in text:
                    first, last = text.split("-")
                else:
                    net = ip_network(text, strict=False)
                    first, last = str(net[0]), str(net[-1])
                ranges.append(Range(pool.name, first.strip(), last.strip()))
        return Served(tuple(Ad(o.name, tuple(o.spec.get("interfaces") or ())) for o in kubernetes.objects(ADS)), tuple(ranges))

    def pool_of(self, address: IPAddress) -> str:
        for part in self.ranges:
            first, last = ip_address(part.first), ip_address(part.last)
            if first.version == address.version and int(first) <= int(address) <= int(last):
                return part.pool
        return ""


def nothing() -> Served:
    return Served()
