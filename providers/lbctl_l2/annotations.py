"""What a Service asks of the pools, in whoever's words.  PURE.

`request` makes one `Request` of a `LoadBalancer`; `provider.py` calls it for every Service. Which addresses are asked
for is read already (`lbctl.intent`); which pool, and with whom to share, is bare metal's own:

    lbctl.io                     address-pool      allow-shared-ip
    metallb.io                   address-pool      allow-shared-ip
    metallb.universe.tf (old)    address-pool      allow-shared-ip
    purelb.io                    service-group     allow-shared-ip
    lbipam.cilium.io                               sharing-key

Several names may say the same. Where they differ, the Service is refused: nobody knows which of them was meant.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address

from lbctl.errors import Refused
from lbctl.intent import ADDRESS_ANNOTATIONS
from lbctl.model import Family, IPAddress, LoadBalancer
from lbctl_l2.pool import Request, family

POOL = (
    "lbctl.io/address-pool", "metallb.io/address-pool", "metallb.universe.tf/address-pool", "purelb.io/service-group",
)
"""Annotations that name the pool to take an address from."""

SHARING = (
    "lbctl.io/allow-shared-ip", "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip",
    "purelb.io/allow-shared-ip", "lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key",
)
"""Annotations that say a key: Services that say the same one may share an address."""

OLD = frozenset(name for name in (*ADDRESS_ANNOTATIONS, *POOL, *SHARING) if name.startswith("metallb.universe.tf/"))
"""MetalLB's names of long ago. They mean what those under metallb.io/ do."""


def request(
    load_balancer: LoadBalancer,
    namespace_labels: Mapping[str, str] | None,
    held: tuple[IPAddress, ...] | None = None,
) -> Request:
    """What the Service asks for. `held`: what it has, if that is not what its status says.

    Raises `Refused` where it contradicts itself: `pool-conflict`, `sharing-key-conflict`, `address-family`.
    """
    key, families = _one(load_balancer.annotations, SHARING, "sharing-key-conflict"), _families(load_balancer)
    return Request(
        owner=load_balancer.owner,
        created=load_balancer.created,
        labels=load_balancer.labels,
        namespace_labels=namespace_labels,
        families=families,
        required=load_balancer.ip_family_policy == "RequireDualStack",
        held=tuple(dict.fromkeys(addresses(load_balancer))) if held is None else held,
        addresses=_asked(load_balancer, families),
        pool=_one(load_balancer.annotations, POOL, "pool-conflict"),
        key=key,
        backend=_backend(load_balancer),
        ports=_ports(load_balancer),
        scheme=load_balancer.scheme,
    )


def holder(load_balancer: LoadBalancer, held: tuple[IPAddress, ...] = ()) -> Request:
    """What a Service asks that is refused: nothing. But what it has it keeps, on the terms that it says.

    Where it says several keys, it stays with who says one of them, and lets nobody in by itself.
    """
    keys = sorted(set(_said(load_balancer.annotations, SHARING).values()))
    return Request(
        owner=load_balancer.owner,
        created=load_balancer.created,
        labels=load_balancer.labels,
        families=(),
        held=held,
        key=keys[0] if len(keys) == 1 else "",
        torn=tuple(keys) if len(keys) > 1 else (),
        backend=_backend(load_balancer),
        ports=_ports(load_balancer),
    )


def addresses(load_balancer: LoadBalancer) -> Iterator[IPAddress]:
    """The addresses in its status. Whoever may write there may write nonsense: that is no address."""
    for entry in load_balancer.status:
        try:
            found = ip_address(entry.ip)
        except ValueError:
            continue
        if not getattr(found, "scope_id", None):
            yield found


def terms(load_balancer: LoadBalancer) -> object:
    """All that decides who may share its addresses; equal ones let in the same. None: nobody may."""
    said = tuple(load_balancer.annotations.get(name, "").strip() for name in SHARING)
    return (said, _backend(load_balancer), load_balancer.ports) if any(said) else None


def _families(load_balancer: LoadBalancer) -> tuple[Family, ...]:
    several = load_balancer.ip_family_policy in ("PreferDualStack", "RequireDualStack")
    return load_balancer.ip_families if several else load_balancer.ip_families[:1]


def _asked(load_balancer: LoadBalancer, families: tuple[Family, ...]) -> tuple[IPAddress, ...]:
    """The addresses asked for: at most one of each family that the Service has."""
    asked = load_balancer.requested_addresses
    for at, address in enumerate(asked):
        if family(address) not in families:
            raise Refused(
                f"{address} is asked for, but the Service has only {' and '.join(families)} addresses: add the family "
                "to spec.ipFamilies, or ask for another address",
                reason="address-family",
            )
        twin = next((other for other in asked[:at] if other.version == address.version), None)
        if twin is not None:
            raise Refused(
                f"{twin} and {address} are asked for, both {family(address)}: a Service has one of each family, ask "
                "for one of them",
                reason="address-family",
            )
    return asked


def _one(annotations: Mapping[str, str], names: Sequence[str], reason: str) -> str:
    """The one value that these annotations say, "" for none."""
    said = _said(annotations, names)
    if len(set(said.values())) > 1:
        told = ", ".join(f"{name}={value!r}" for name, value in said.items())
        raise Refused(f"annotations disagree: {told}; keep the one that is meant, remove the others", reason=reason)
    return next(iter(said.values()), "")


def _said(annotations: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    # Most Services have no annotation at all.
    return {name: value for name in names if (value := annotations.get(name, "").strip())} if annotations else {}


def _ports(load_balancer: LoadBalancer) -> frozenset[tuple[str, int]]:
    return frozenset([(port.protocol, port.port) for port in load_balancer.ports])


def _backend(load_balancer: LoadBalancer) -> str:
    """Who may answer for it: with externalTrafficPolicy Cluster anybody, else the pods that it selects."""
    if load_balancer.external_traffic_policy == "Cluster":
        return ""
    return ",".join(f"{key}={value}" for key, value in sorted(load_balancer.selector.items()))
