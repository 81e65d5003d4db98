"""What the entry point `l2` names: bare metal's settings, what it reads of the cluster, and its makers.

Beside the package, not in it: the data plane of a node imports the package, and must not pay for this. The makers
import what they make when they are called.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lbctl.cluster import Watch
from lbctl.provider import Harness, Plugin, Setting
from lbctl_l2.options import SETTINGS as SPEAKER_SETTINGS

if TYPE_CHECKING:
    from lbctl.provider import Insight, Provider, Speaker

SETTINGS = (
    Setting("addresses", "ranges to give out beside the cluster's pools, separated by commas (labs, CI)",
            metavar="CIDR|FIRST-LAST,…"),
    Setting("pools", "a file with more AddressPools and L2Advertisements, or MetalLB's own", metavar="FILE"),
    Setting("metallb-namespace", "where MetalLB's configuration is read from; none: it is not read", "metallb-system",
            metavar="NAME"),
    Setting("cooldown", "seconds that an address of --l2-addresses rests after its release", "300", metavar="SECONDS"),
)  # fmt: skip


def watches(settings: Mapping[str, str]) -> Sequence[Watch]:
    """Pools and advertisements; and, where lbctl's own namespace is known, what speakers say of their nodes."""
    from lbctl_l2 import leases
    from lbctl_l2.configured import watches as configured

    home = settings.get("home", "")
    return (*configured(settings), *((leases.watch(home),) if home else ()))


def reports() -> Sequence[Watch]:
    """Ours say how they are. MetalLB's are never written."""
    from lbctl_l2 import crds

    return crds.ADDRESS_POOLS, crds.L2_ADVERTISEMENTS


def speaker_watches(settings: Mapping[str, str]) -> Sequence[Watch]:
    """What a node's speaker goes by."""
    from lbctl_l2 import leases, served

    return (*served.watches(settings), leases.watch(settings.get("home", "")))


def make(harness: Harness) -> "Provider":
    """The controller's part."""
    from lbctl_l2.provider import AddressProvider

    return AddressProvider(harness)


def speak(harness: Harness) -> "Speaker":
    """A node's part."""
    from lbctl_l2.speaker import Speaker

    return Speaker(harness)


def insight(harness: Harness) -> "Insight":
    """What status, explain and doctor show of announcing."""
    from lbctl_l2.insight import Insight

    return Insight(harness)


plugin = Plugin(
    name="l2",
    make=make,
    settings=SETTINGS,
    watches=watches,
    reports=reports,
    speaker=speak,
    speaker_watches=speaker_watches,
    speaker_settings=SPEAKER_SETTINGS,
    insight=insight,
    needs_node_ports=False,
)
