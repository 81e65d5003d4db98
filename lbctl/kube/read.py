"""Kubernetes objects made into lbctl's own values.  PURE.

The controller, the command line and `plan -f FILE` all come through here, so they cannot differ. What cannot be read is
not skipped: the load balancer carries it as its `problem`, with the field, the value and the way out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import cast

from msgspec.structs import replace

from lbctl import intent
from lbctl.errors import Refused
from lbctl.kube import objects
from lbctl.kube.objects import EndpointSlice, LoadBalancerIngress, Service, ServicePort
from lbctl.model import READY, Endpoints, Family, Ingress, IPAddress, LoadBalancer, Node, Owner, Port, Refusal

EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
SCALED_DOWN = "ToBeDeletedByClusterAutoscaler"

SERVED_ELSEWHERE = "served-elsewhere"

FOREIGN_FINALIZERS = (
    "service.kubernetes.io/load-balancer-cleanup",
    "service.k8s.aws/",
    "gke.networking.io/",
    "networking.gke.io/",
)
"""Finalizers (or their beginnings) by which other controllers hold a Service that they serve."""

ANNOTATION_BYTES = 256 * 1024
"""The API server's own limit for all annotations of an object together."""


def finalizer(provider: str) -> str:
    """By what the provider's stack holds a Service until its cloud resources are gone."""
    return f"lbctl.io/{provider}"


def load_balancer_class(provider: str) -> str:
    """The spec.loadBalancerClass that asks for the provider."""
    return f"lbctl.io/{provider}"


def owner(service: Service) -> Owner:
    return Owner(objects.key(service))


# ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def eligible(node: objects.Node) -> bool:
    """May load balancers send traffic to it? (KEP-3458: readiness and cordons are the health checks' business.)

    Not if it is being deleted, is labelled out (any value but a boolean false), or is being scaled down.
    """
    if node.metadata.deletion_timestamp is not None or _excluded(node):
        return False
    return all(taint.key != SCALED_DOWN for taint in node.spec.taints or ())


def _excluded(node: objects.Node) -> bool:
    value = (node.metadata.labels or {}).get(EXCLUDE)
    # Go's strconv.ParseBool, which is what kube-controller-manager asks.
    return value is not None and value not in ("0", "f", "F", "false", "False", "FALSE")


def nodes(items: Iterable[objects.Node], previous: tuple[Node, ...] = (), *, every: bool = False) -> tuple[Node, ...]:
    """The eligible nodes (or `every` one), sorted by name. Nothing differs: `previous` itself."""
    known = {node.name: node for node in previous}
    fresh = (_node(item) for item in items if every or eligible(item))
    found = tuple(sorted((known[n.name] if known.get(n.name) == n else n for n in fresh), key=lambda n: n.name))
    return previous if found == previous else found


def _node(item: objects.Node) -> Node:
    true = {c.type for c in item.status.conditions or () if c.status == "True"}
    return Node(
        name=item.metadata.name,
        provider_id=item.spec.provider_id,
        labels=item.metadata.labels or {},
        addresses=_node_addresses(item),
        ready="Ready" in true,
        excluded=not eligible(item),
        cordoned=item.spec.unschedulable,
        network_unavailable="NetworkUnavailable" in true,
    )


def _node_addresses(item: objects.Node) -> tuple[IPAddress, ...]:
    """Internal addresses first, then external ones; what is no address (a DNS name) is left out."""
    found: list[IPAddress] = []
    for wanted in ("InternalIP", "ExternalIP"):
        said = (entry.address for entry in item.status.addresses or () if entry.type == wanted)
        found += [address for text in said if (address := _address(text)) is not None]
    return tuple(dict.fromkeys(found))


def any_service(service: Service) -> LoadBalancer:
    """Any Service, of whatever type and class, without its nodes and endpoints: what addresses it holds and asks for.

    It has no `problem`: who is asked to serve it reads it with `load_balancer`.
    """
    base = _base(service, (), None)
    try:
        requested = intent.requested_addresses(service.spec.load_balancer_ip or "", base.annotations)
    except Refused:
        return base
    return replace(base, requested_addresses=requested)


def node_matters(old: objects.Node | None, new: objects.Node | None) -> bool:
    """Does an event of a node ask for a look? It came, went, was labelled in or out, or its providerID changed.

    Taints, readiness and other labels are taken along at the next look (service-controller's rule).
    """
    if old is None or new is None:
        return True
    return _excluded(old) != _excluded(new) or old.spec.provider_id != new.spec.provider_id


# ── endpoints ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def endpoints(slices: Sequence[EndpointSlice]) -> Endpoints:
    """How many endpoints are ready, and on which nodes. A dual-stack pod is one endpoint, though it has two slices."""
    if not slices:
        return _NOTHING_READY
    ready: dict[str, int] = {}
    where: set[str] = set()
    serving: set[str] = set()
    for item in slices:
        for endpoint in item.endpoints or ():
            said = endpoint.conditions
            # Null means ready, and serving (EndpointSlice API).
            if endpoint.node_name and (said is None or said.serving is not False):
                serving.add(endpoint.node_name)
            if said is not None and said.ready is False:
                continue
            ready[item.address_type] = ready.get(item.address_type, 0) + 1
            if endpoint.node_name:
                where.add(endpoint.node_name)
    found = Endpoints(max(ready.values(), default=0), frozenset(where), frozenset(serving))
    # An empty set takes 216 bytes, and whole clusters are made with nothing ready yet.
    return _NOTHING_READY if found == _NOTHING_READY else found


_NOTHING_READY = Endpoints()


# ── services ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def wants(service: Service, *, provider: str, default_provider: str | None) -> bool:
    """Is it for this provider to serve? By its class; without one, only if the provider is the default."""
    spec = service.spec
    if spec.type != "LoadBalancer" or service.metadata.deletion_timestamp is not None:
        return False
    if not spec.load_balancer_class:
        return provider == default_provider
    return spec.load_balancer_class == load_balancer_class(provider)


def provider_of(service: Service) -> str:
    """The provider that a Service's class names; empty where it names none of lbctl's."""
    prefix, named = load_balancer_class(""), service.spec.load_balancer_class or ""
    return named.removeprefix(prefix) if service.spec.type == "LoadBalancer" and named.startswith(prefix) else ""


def claimed(service: Service, provider: str) -> bool:
    """Does it carry the provider's finalizer?"""
    return finalizer(provider) in (service.metadata.finalizers or ())


def needs_update(old: Service, new: Service) -> bool:
    """Does an event of a Service ask for a look? Not if only labels, selector, status or finalizers changed.

    The rules of Kubernetes' own service controller, and: allocation of nodePorts, the IP family policy, the beginning
    of a deletion.
    """
    if "LoadBalancer" not in (old.spec.type, new.spec.type):
        return False
    return _relevant(old) != _relevant(new)


def fingerprint(service: Service) -> int:
    """What `needs_update` compares, as a number that is good within this process."""
    return hash(_relevant(service))


def _relevant(service: Service) -> tuple[object, ...]:
    metadata, spec = service.metadata, service.spec
    return (
        metadata.uid,
        metadata.deletion_timestamp is None,
        tuple(sorted((metadata.annotations or {}).items())),
        spec.type,
        spec.load_balancer_class or "",
        spec.ports or (),
        spec.load_balancer_source_ranges or (),
        spec.session_affinity or "None",
        spec.session_affinity_config,
        spec.load_balancer_ip or "",
        spec.external_ips or (),
        spec.external_traffic_policy or "",
        spec.health_check_node_port or 0,
        spec.ip_families or (),
        spec.ip_family_policy or "",
        spec.allocate_load_balancer_node_ports,
        # Where pods decide who may answer for an address, who they are decides who may share it.
        tuple(sorted((spec.selector or {}).items())) if spec.external_traffic_policy == "Local" else (),
    )


def load_balancer(
    service: Service,
    nodes: tuple[Node, ...],
    endpoints: Endpoints | None,
    *,
    provider: str,
    adopts: Callable[[Sequence[Ingress]], bool] = lambda _status: False,
) -> LoadBalancer:
    """What the Service asks for; `problem` says why nobody could serve it.

    `adopts` says whether a status that somebody else wrote may become ours (bare metal: it lies in our pools).
    """
    base = _base(service, nodes, endpoints)
    try:
        whole = _read(service, base, adopts)
        refusal = intent.foreign(whole, provider)
    except Refused as no:
        whole, refusal = base, Refusal(base.owner, no.reason, no.message)
    if refusal is None:
        return whole
    # What it has, it keeps, and so it still needs its part of what is shared; a new one needs nothing.
    holds = claimed(service, provider) or (bool(base.status) and ours(service))
    return replace(whole, problem=refusal, ports=whole.ports if holds else ())


def _read(service: Service, base: LoadBalancer, adopts: Callable[[Sequence[Ingress]], bool]) -> LoadBalancer:
    """What can be wrong, read; raises `Refused` where it is."""
    _check_elsewhere(service, base.status, adopts)
    _check_annotations(service)
    _check_ports(service.spec.ports or ())
    said, annotations = service.spec, base.annotations
    return replace(
        base,
        scheme=intent.scheme(annotations),
        source_ranges=intent.source_ranges(said.load_balancer_source_ranges or (), annotations, base.ip_families),
        requested_addresses=intent.requested_addresses(said.load_balancer_ip or "", annotations),
        affinity_timeout=_affinity_timeout(service),
    )


def _base(service: Service, nodes: tuple[Node, ...], endpoints: Endpoints | None) -> LoadBalancer:
    metadata, spec = service.metadata, service.spec
    families = _families(service)
    return LoadBalancer(
        owner=owner(service),
        uid=metadata.uid,
        created=metadata.creation_timestamp,
        load_balancer_class=spec.load_balancer_class or "",
        labels=metadata.labels or {},
        ports=_ports(service),
        annotations={} if _annotation_bytes(service) > ANNOTATION_BYTES else metadata.annotations or {},
        session_affinity="ClientIP" if spec.session_affinity == "ClientIP" else "None",
        external_traffic_policy="Local" if spec.external_traffic_policy == "Local" else "Cluster",
        health_check_node_port=spec.health_check_node_port or 0,
        ip_families=families,
        ip_family_policy=spec.ip_family_policy or "SingleStack",
        allocate_node_ports=spec.allocate_load_balancer_node_ports is not False,
        selector=spec.selector or {},
        external_ips=_external_ips(spec.external_ips) if spec.external_ips else (),
        status=published(service),
        nodes=nodes,
        endpoints=endpoints,
    )


def published(service: Service) -> tuple[Ingress, ...]:
    """The addresses in its status, with ipMode in normal form (VIP where an ip has none)."""
    return tuple([
        Ingress(entry.ip or "", entry.hostname or "", (entry.ip_mode or "VIP") if entry.ip else "")
        for entry in service.ingress
    ])


def _families(service: Service) -> tuple[Family, ...]:
    said = tuple([f for f in service.spec.ip_families or () if f in ("IPv4", "IPv6")])
    if said:
        return cast("tuple[Family, ...]", said)
    return ("IPv4", "IPv6") if service.spec.ip_family_policy == "RequireDualStack" else ("IPv4",)


def _ports(service: Service) -> tuple[Port, ...]:
    return tuple(
        Port(
            port=port.port,
            protocol=port.protocol or "TCP",
            node_port=_node_port(service, port),
            name=port.name,
            target_port=port.target_port or port.port,
            app_protocol=port.app_protocol or "",
        )
        for port in service.spec.ports or ()
    )


def _external_ips(said: Iterable[str]) -> tuple[IPAddress, ...]:
    """What is no address is left out: the API server refuses it, so only a file can say it, and nothing is taken."""
    return tuple(address for text in said if (address := _address(text)) is not None)


def _address(text: str) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _node_port(service: Service, port: ServicePort) -> int | None:
    """0 where none is allocated. None where the Service is not in a cluster as it stands, and will get one there."""
    if port.node_port:
        return port.node_port
    from_file = not service.metadata.resource_version
    return None if from_file and service.spec.allocate_load_balancer_node_ports is not False else 0


def _affinity_timeout(service: Service) -> int:
    config = service.spec.session_affinity_config
    said = config.client_ip.timeout_seconds if config and config.client_ip else None
    seconds = 10800 if said is None else said
    if not 1 <= seconds <= 86400:
        raise Refused(
            f"spec.sessionAffinityConfig.clientIP.timeoutSeconds is {seconds}: it must be 1 to 86400 (a day)",
            reason="bad-affinity-timeout",
        )
    return seconds


def _check_elsewhere(
    service: Service, status: Sequence[Ingress], adopts: Callable[[Sequence[Ingress]], bool]
) -> None:
    """A class-less Service that somebody else holds, or published for, is theirs."""
    if service.spec.load_balancer_class:
        return
    for name in service.metadata.finalizers or ():
        if name.startswith(FOREIGN_FINALIZERS):
            raise Refused(
                f"another controller holds it by the finalizer {name}: to have it served here, make it again with "
                "spec.loadBalancerClass, which the other one leaves alone",
                reason=SERVED_ELSEWHERE,
            )
    if status and not ours(service) and not adopts(status):
        raise Refused(
            f"its status holds {_said(status)}, which lbctl did not write: to have it served here, make it again with "
            "spec.loadBalancerClass, or stop the other controller and clear status.loadBalancer",
            reason=SERVED_ELSEWHERE,
        )


def ours(service: Service) -> bool:
    """Did lbctl write its addresses? It carries a claim, or our Ready condition (not saying served elsewhere)."""
    if any(name.startswith("lbctl.io/") for name in service.metadata.finalizers or ()):
        return True
    ready = service.conditions.get(READY)
    return ready is not None and ready.reason != SERVED_ELSEWHERE


def _said(status: Sequence[Ingress]) -> str:
    return ", ".join(entry.hostname or entry.ip for entry in status)


def _annotation_bytes(service: Service) -> int:
    said = service.metadata.annotations
    return sum(len(name) + len(value) for name, value in said.items()) if said else 0


def _check_annotations(service: Service) -> None:
    size = _annotation_bytes(service)
    if size > ANNOTATION_BYTES:
        raise Refused(
            f"metadata.annotations hold {size} bytes, the API server takes {ANNOTATION_BYTES}: shorten them",
            reason="annotations-too-large",
        )
    for name in service.metadata.annotations or ():
        if name.startswith(intent.OURS) and name not in intent.OWN:
            raise Refused(f"annotation {name} is not known: {_spelling(name)}", reason="unknown-annotation")


def _spelling(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, sorted(intent.OWN), 1, 0.8)
    return f"did you mean {near[0]}? If not, remove it" if near else "check its spelling, or remove it"


def _check_ports(ports: Sequence[ServicePort]) -> None:
    if not ports:
        raise Refused("spec.ports is empty: a load balancer needs at least one port", reason="no-ports")
    seen: Mapping[tuple[int, str], ServicePort] = {(p.port, p.protocol or "TCP"): p for p in ports}
    if len(seen) < len(ports):
        raise Refused("spec.ports has the same port and protocol twice: remove one of them", reason="duplicate-port")
    for port in ports:
        if not 1 <= port.port <= 65535 or not 0 <= (port.node_port or 0) <= 65535:
            raise Refused(
                f"spec.ports has port {port.port} with nodePort {port.node_port or 0}: ports are 1 to 65535",
                reason="bad-port",
            )


def normal(entry: LoadBalancerIngress) -> dict[str, object]:
    """An ingress entry as `status` compares it: ipMode said, nothing empty."""
    found: dict[str, object] = {}
    if entry.hostname:
        found["hostname"] = entry.hostname
    if entry.ip:
        found |= {"ip": entry.ip, "ipMode": entry.ip_mode or "VIP"}
    if entry.ports:
        found["ports"] = tuple({"port": p.port, "protocol": p.protocol, "error": p.error or ""} for p in entry.ports)
    return found
