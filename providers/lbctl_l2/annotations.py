"""What a Service asks of the pools, in whoever's words.  PURE."""

from collections.abc import Iterable, Mapping

from lbctl.model import IPAddress, LoadBalancer
from lbctl_l2.pool import Request


def request(
    load_balancer: LoadBalancer, namespace_labels: Mapping[str, str] | None, promised: Iterable[IPAddress] = ()
) -> Request:
    """What the Service asks for. `promised` are addresses on their way into its status (`Scope.taken`).

    Raises `Refused` where it contradicts itself: `pool-conflict`, `sharing-key-conflict`, `address-family`,
    `too-many-addresses`.
    """
    raise NotImplementedError
