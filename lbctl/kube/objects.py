"""Kubernetes objects, as far as lbctl uses them.  PURE.

`reflector` and `files` decode into these; `read` makes lbctl's own values of them. Fields that nobody reads are not
kept: 10,000 Services cost about 20 MiB. Every object is decoded by itself, so one that does not fit blocks no other.
"""

from collections.abc import Hashable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from sys import intern
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec


class Metadata(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """`metadata`, without what nobody here reads (managedFields above all)."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: tuple[str, ...] | None = None


class Object(Protocol):
    """What every object has."""

    @property
    def metadata(self) -> Metadata: ...


class Condition(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One of an object's conditions. A null lastTransitionTime can be stored, so it can be read."""

    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class ServicePort(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One of a Service's ports. A `node_port` of None was not said (files) or not allocated (clusters)."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    node_port: int | None = None
    target_port: int | str | None = None
    app_protocol: str | None = None


class ClientIP(msgspec.Struct, frozen=True, rename="camel", gc=False):
    timeout_seconds: int | None = None


class SessionAffinityConfig(msgspec.Struct, frozen=True, gc=False):
    client_ip: ClientIP | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What a Service asks for."""

    type: str = "ClusterIP"
    load_balancer_class: str | None = None
    ports: tuple[ServicePort, ...] | None = None
    selector: dict[str, str] | None = None
    external_traffic_policy: str | None = None
    health_check_node_port: int | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    load_balancer_source_ranges: tuple[str, ...] | None = None
    load_balancer_ip: str | None = msgspec.field(default=None, name="loadBalancerIP")
    external_ips: tuple[str, ...] | None = msgspec.field(default=None, name="externalIPs")
    ip_families: tuple[str, ...] | None = None
    ip_family_policy: str | None = None
    allocate_load_balancer_node_ports: bool | None = None


class PortStatus(msgspec.Struct, frozen=True, gc=False):
    port: int
    protocol: str = "TCP"
    error: str | None = None


class LoadBalancerIngress(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One published address."""

    ip: str | None = None
    hostname: str | None = None
    ip_mode: str | None = None
    ports: tuple[PortStatus, ...] | None = None


class LoadBalancerStatus(msgspec.Struct, frozen=True, gc=False):
    ingress: tuple[LoadBalancerIngress, ...] | None = None


class ServiceStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What was published for a Service, by whomever."""

    load_balancer: LoadBalancerStatus | None = None
    conditions: tuple[Condition, ...] | None = None


class Service(msgspec.Struct, frozen=True, gc=False):
    metadata: Metadata = Metadata()
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def ingress(self) -> tuple[LoadBalancerIngress, ...]:
        return (self.status.load_balancer and self.status.load_balancer.ingress) or ()

    @property
    def conditions(self) -> dict[str, Condition]:
        return {condition.type: condition for condition in self.status.conditions or ()}


class Taint(msgspec.Struct, frozen=True, gc=False):
    key: str
    effect: str = ""
    value: str = ""


class NodeSpec(msgspec.Struct, frozen=True, gc=False):
    provider_id: str = msgspec.field(default="", name="providerID")
    unschedulable: bool = False
    taints: tuple[Taint, ...] | None = None


class NodeAddress(msgspec.Struct, frozen=True, gc=False):
    type: str
    address: str


class NodeCondition(msgspec.Struct, frozen=True, gc=False):
    """A node's condition without its heartbeat: that would make every node differ from itself each minute."""

    type: str
    status: str = "Unknown"


class NodeStatus(msgspec.Struct, frozen=True, gc=False):
    addresses: tuple[NodeAddress, ...] | None = None
    conditions: tuple[NodeCondition, ...] | None = None


class Node(msgspec.Struct, frozen=True, gc=False):
    metadata: Metadata = Metadata()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class EndpointConditions(msgspec.Struct, frozen=True, gc=False):
    """Null means: ready yes, serving yes, terminating no."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One endpoint, without its address: lbctl never connects to one."""

    conditions: EndpointConditions | None = None
    node_name: str | None = None


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel", gc=False):
    metadata: Metadata = Metadata()
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] | None = None

    @property
    def service(self) -> str:
        """`namespace/name` of the Service that it belongs to, or an empty string."""
        name = (self.metadata.labels or {}).get("kubernetes.io/service-name", "")
        return f"{self.metadata.namespace}/{name}" if name else ""


class Namespace(msgspec.Struct, frozen=True, gc=False):
    metadata: Metadata = Metadata()


class Custom(msgspec.Struct, frozen=True, gc=False):
    """Any object that only a provider understands."""

    metadata: Metadata = Metadata()
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Who leads. Times are RFC 3339 with microseconds, kept as they came."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None
    strategy: str | None = None
    preferred_holder: str | None = None


class Lease(msgspec.Struct, frozen=True):
    """A Lease. Its metadata is kept whole (annotations, owners), because a PUT replaces the whole."""

    metadata: dict[str, Any] = {}
    spec: LeaseSpec = LeaseSpec()


class StatusCause(msgspec.Struct, frozen=True):
    reason: str = ""


class StatusDetails(msgspec.Struct, frozen=True):
    causes: tuple[StatusCause, ...] | None = None


class Status(msgspec.Struct, frozen=True):
    """How the API server says that something went wrong, in an answer or within a watch."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: StatusDetails = StatusDetails()


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class ListEnvelope(msgspec.Struct, frozen=True):
    """A list whose items are still undecoded."""

    metadata: ListMeta = ListMeta()
    items: list[msgspec.Raw] | None = None


class Group(msgspec.Struct, frozen=True):
    name: str = ""


class GroupList(msgspec.Struct, frozen=True):
    """What `/apis` says."""

    groups: tuple[Group, ...] = ()


class WatchEvent(msgspec.Struct, frozen=True):
    """One line of a watch whose object is still undecoded."""

    type: str
    object: msgspec.Raw = msgspec.Raw()


class Bare(msgspec.Struct, frozen=True):
    """An object of which only the name matters: the address of one that cannot be decoded."""

    metadata: dict[str, Any] = {}


class Stamp(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Which version of which object this is."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class Stamped(msgspec.Struct, frozen=True):
    """An object of which only the stamp is read: a seventh of what it costs to decode it."""

    metadata: Stamp


T = TypeVar("T", bound=Object)
H = TypeVar("H", bound=Hashable)


class Undecodable(msgspec.Struct, frozen=True):
    """An object that does not fit its type: its name, as far as it has one, and what is wrong."""

    key: str
    problem: str


class Resource(msgspec.Struct, Generic[T], frozen=True):
    """Where objects of one sort live and what they decode into."""

    plural: str
    type: type[T]
    group: str = ""
    version: str = "v1"
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL's path: of all, of one namespace's, or of one object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, f"namespaces/{namespace}" if namespace else "", self.plural, name, subresource]
        return "/".join(part for part in parts if part)


SERVICES = Resource("services", Service)
NODES = Resource("nodes", Node, namespaced=False)
SLICES = Resource("endpointslices", EndpointSlice, group="discovery.k8s.io")
NAMESPACES = Resource("namespaces", Namespace, namespaced=False)

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""A copy of the whole manifest, written by kubectl. Nobody here reads it, and it is half of a Service's bytes."""


def key(item: Object | Stamped) -> str:
    """`namespace/name`, or `name` where there are no namespaces."""
    metadata = item.metadata
    return f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name


_stamps = msgspec.json.Decoder(Stamped)

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
"""What msgspec raises for what is no JSON, and for what is no text at all."""


def stamped(raw: bytes | msgspec.Raw) -> Stamped | None:
    """Which version of which object this is; None for what bears no such stamp."""
    try:
        return _stamps.decode(raw)
    except UNREADABLE:
        return None


def decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """What decodes one object. Make one per reflector: it is not cheap to make, and cheap to use."""
    return msgspec.json.Decoder(kind)


def decode(raw: bytes | msgspec.Raw, by: msgspec.json.Decoder[T]) -> T | Undecodable:
    """The object, slimmed, or by what name it goes and why it cannot be decoded."""
    try:
        return slim(by.decode(raw))
    except UNREADABLE as error:
        return Undecodable(_name_of(raw), str(error))


def _name_of(raw: bytes | msgspec.Raw) -> str:
    try:
        metadata = msgspec.json.decode(raw, type=Bare).metadata
    except UNREADABLE:
        return "?"
    return "/".join(str(metadata[part]) for part in ("namespace", "name") if metadata.get(part)) or "?"


def slim(item: T) -> T:
    """The same object with less memory: kubectl's copy of the manifest dropped, frequent strings shared."""
    if isinstance(item, EndpointSlice):
        return cast("T", _slim_slice(item))
    if isinstance(item, Service) and item.spec.type != "LoadBalancer":
        return cast("T", _slim_other(item))
    metadata = item.metadata
    annotations = {k: v for k, v in (metadata.annotations or {}).items() if k != LAST_APPLIED}
    lean = msgspec.structs.replace(
        metadata,
        namespace=intern(metadata.namespace),
        labels=_share(metadata.labels),
        annotations=annotations or None,
        finalizers=_same(metadata.finalizers),
    )
    if isinstance(item, Service):
        return cast("T", Service(lean, _lean_spec(item.spec), _lean_status(item.status)))
    return cast("T", msgspec.structs.replace(cast("Any", item), metadata=lean))


@lru_cache(4096, typed=True)
def _same(value: H) -> H:
    """The first value that was equal to this one: 10,000 Services say TCP, IPv4 and ready."""
    return value


def _lean_spec(spec: ServiceSpec) -> ServiceSpec:
    ports = tuple(
        msgspec.structs.replace(port, name=_same(port.name), protocol=_same(port.protocol))
        for port in spec.ports or ()
    )
    return ServiceSpec(
        type=_same(spec.type),
        load_balancer_class=_same(spec.load_balancer_class),
        ports=ports,
        selector=spec.selector,
        external_traffic_policy=_same(spec.external_traffic_policy),
        health_check_node_port=spec.health_check_node_port,
        session_affinity=_same(spec.session_affinity),
        session_affinity_config=_same(spec.session_affinity_config),
        load_balancer_source_ranges=_same(spec.load_balancer_source_ranges),
        load_balancer_ip=spec.load_balancer_ip,
        external_ips=_same(spec.external_ips),
        ip_families=_same(spec.ip_families),
        ip_family_policy=_same(spec.ip_family_policy),
        allocate_load_balancer_node_ports=spec.allocate_load_balancer_node_ports,
    )


def _lean_status(status: ServiceStatus) -> ServiceStatus:
    conditions = status.conditions and tuple(
        Condition(_same(c.type), _same(c.status), _same(c.reason), _same(c.message), _same(c.last_transition_time))
        for c in status.conditions
    )
    if not conditions and not (status.load_balancer and status.load_balancer.ingress):
        return _NOTHING
    return ServiceStatus(status.load_balancer, conditions)


def _slim_other(item: Service) -> Service:
    """A Service of another type: whether it carries something of ours, and which addresses it claims."""
    metadata = item.metadata
    lean = Metadata(
        name=metadata.name,
        namespace=intern(metadata.namespace),
        uid=metadata.uid,
        resource_version=metadata.resource_version,
        deletion_timestamp=metadata.deletion_timestamp,
        finalizers=metadata.finalizers,
    )
    status = item.status if item.status.conditions else _NOTHING
    return Service(lean, ServiceSpec(type=intern(item.spec.type), external_ips=item.spec.external_ips), status)


_NOTHING = ServiceStatus()


def _slim_slice(item: EndpointSlice) -> EndpointSlice:
    metadata = item.metadata
    service = (metadata.labels or {}).get("kubernetes.io/service-name")
    lean = Metadata(
        name=metadata.name,
        namespace=intern(metadata.namespace),
        uid=metadata.uid,
        resource_version=metadata.resource_version,
        labels={"kubernetes.io/service-name": service} if service else None,
    )
    return EndpointSlice(lean, intern(item.address_type), tuple(map(_same, item.endpoints or ())))


def _share(labels: Mapping[str, str] | None) -> dict[str, str] | None:
    return {intern(k): intern(v) for k, v in labels.items()} if labels else None


def by_key(items: Iterable[T]) -> dict[str, T]:
    return {key(item): item for item in items}
