"""The values that everything else is said in: owners, ports, nodes, load balancers, resources, references.  PURE.

`kube/read.py` makes `LoadBalancer` values out of Services; a provider's `resources.py` makes `Resource` values out of
those. All of them are frozen: what a plan was made from cannot change while it is carried out. None can hold itself,
so the garbage collector need not look at them (`gc=False`): with 10,000 Services that is half of its work.
"""

from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal, NewType

import msgspec

Owner = NewType("Owner", str)
"""Whom a resource is for: `namespace/name` of a Service, or `SHARED`."""

SHARED = Owner("shared")
"""The owner of what several Services need together. It has no slash, so no Service can be called that."""

Key = tuple[str, str]
"""(kind, name) of a resource: unique within one provider."""

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
Scheme = Literal["internal", "internet-facing"]
Family = Literal["IPv4", "IPv6"]

READY, SERVING, DEGRADED = "lbctl.io/Ready", "lbctl.io/Serving", "lbctl.io/Degraded"
"""The condition types that lbctl writes on a Service."""


REQUESTED = "spec.loadBalancerIP"
"""By this name an administrator's rules speak of the addresses that a Service asks for, whichever field says them."""


class Port(msgspec.Struct, frozen=True, gc=False):
    """One port of a Service. `node_port` is 0 where none is allocated; None where it is known only after apply."""

    port: int
    protocol: str = "TCP"
    node_port: int | None = 0
    name: str = ""
    target_port: int | str = 0
    app_protocol: str = ""

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


class Node(msgspec.Struct, frozen=True, gc=False):
    """One node. A `LoadBalancer` holds the eligible ones only (KEP-3458's rules: see `kube/read.py`).

    excluded             labelled out of external load balancers, being deleted or scaled down
    cordoned             spec.unschedulable
    network_unavailable  its condition NetworkUnavailable is True
    """

    name: str
    provider_id: str = ""
    labels: Mapping[str, str] = {}
    addresses: tuple[IPAddress, ...] = ()
    ready: bool = True
    excluded: bool = False
    cordoned: bool = False
    network_unavailable: bool = False


class Endpoints(msgspec.Struct, frozen=True, gc=False):
    """What stands behind a Service, summed over its EndpointSlices. None in `LoadBalancer.endpoints` means unknown.

    `nodes` have a ready endpoint; `serving` have one that serves still (a terminating one may).
    """

    ready: int = 0
    nodes: frozenset[str] = frozenset()
    serving: frozenset[str] = frozenset()


class Ingress(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One entry of `status.loadBalancer.ingress`: an `ip` (with its `ip_mode`) or a `hostname`."""

    ip: str = ""
    hostname: str = ""
    ip_mode: str = ""


class LoadBalancer(msgspec.Struct, frozen=True, gc=False):
    """What one Service asks for, in no cloud's words.

    `nodes` is one tuple shared by all load balancers. `scheme` is None where nobody said. `source_ranges` is empty
    where everybody may connect. `problem` is set where the Service cannot be served at all, whoever the provider is.
    """

    owner: Owner
    uid: str = ""
    created: datetime | None = None
    load_balancer_class: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    ports: tuple[Port, ...] = ()
    scheme: Scheme | None = None
    source_ranges: tuple[IPNetwork, ...] = ()
    requested_addresses: tuple[IPAddress, ...] = ()
    session_affinity: Literal["None", "ClientIP"] = "None"
    affinity_timeout: int = 10800
    external_traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    health_check_node_port: int = 0
    ip_families: tuple[Family, ...] = ("IPv4",)
    ip_family_policy: str = "SingleStack"
    allocate_node_ports: bool = True
    selector: Mapping[str, str] = {}
    external_ips: tuple[IPAddress, ...] = ()
    status: tuple[Ingress, ...] = ()
    nodes: tuple[Node, ...] = ()
    endpoints: Endpoints | None = None
    problem: "Refusal | None" = None

    @property
    def namespace(self) -> str:
        return self.owner.partition("/")[0]

    @property
    def name(self) -> str:
        return self.owner.partition("/")[2]


class Ref(msgspec.Struct, frozen=True, gc=False, tag=True):
    """An output of another resource, filled in as soon as that exists: a load balancer's DNS name, a group's id."""

    kind: str
    name: str
    output: str

    @property
    def key(self) -> Key:
        return (self.kind, self.name)


class Resource(msgspec.Struct, frozen=True, gc=False):
    """One thing that a provider makes.

    `fields` are what desired says and observe reads back, in one normal form (str, int, bool, None, tuple, dict;
    desired may also say `Ref`, which observe never does). `outputs` are what only the other side knows (ids,
    addresses). `holds` names immovables that no two resources can hold at once (`eip:eipalloc-1`, `port:80/TCP`).
    `because` says in a few words why it is wanted; it takes no part in comparisons.
    """

    kind: str
    name: str
    owner: Owner
    fields: Mapping[str, Any] = {}
    outputs: Mapping[str, Any] = {}
    holds: tuple[str, ...] = ()
    because: str = ""

    @property
    def key(self) -> Key:
        return (self.kind, self.name)


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A Service that cannot be served as it asks. It keeps what it has. `message` says the way out."""

    owner: Owner
    reason: str
    message: str


class Note(msgspec.Struct, frozen=True, gc=False):
    """Something that a served Service's user should know: becomes a condition of the type `condition`."""

    owner: Owner
    condition: str
    reason: str
    message: str


_PLAIN = (str, int, type(None))


def refs(value: Any) -> tuple[Ref, ...]:
    """Every Ref in a field's value, however deep."""
    found: list[Ref] = []
    _gather(value, found)
    return tuple(found)


def _gather(value: Any, found: list[Ref]) -> None:
    if isinstance(value, Ref):
        found.append(value)
    elif isinstance(value, dict | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            # Nearly all are plain, and a call for each would be most of the work.
            if not isinstance(item, _PLAIN):
                _gather(item, found)


def resolve(value: Any, outputs: Mapping[Key, Mapping[str, Any]]) -> Any:
    """The value with each Ref replaced by the output that it names, where that is known; others stay Refs."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Ref):
        return outputs.get(value.key, {}).get(value.output, value)
    if isinstance(value, dict):
        return {key: item if isinstance(item, _PLAIN) else resolve(item, outputs) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple([item if isinstance(item, _PLAIN) else resolve(item, outputs) for item in value])
    return value
