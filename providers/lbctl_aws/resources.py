"""From a Service's `LoadBalancer` to what it needs in AWS.  PURE.

    Service ─┬─ security-group         who may connect; one per Service, all its rules
             ├─ target-group           one per port: the nodes' instances at the nodePort, and how they are checked
             ├─ load-balancer          where it stands, who reaches it
             └─ listener               one per port: load balancer → target group
    shared  ─┬─ backend-group          carried by every load balancer, so that one rule lets them all in
             └─ node-rule              on the nodes' own group: from the backend group to the node port range

`desired.py` calls `build` for every Service and `shared` once. Names hold the fields that cannot be changed in place,
so a replacement is another resource and can be created before the old one goes.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from lbctl.errors import Refused
from lbctl.intent import everybody, foreign
from lbctl.model import DEGRADED, SHARED, LoadBalancer, Note, Port, Ref, Resource, Scheme
from lbctl.plan import Kind
from lbctl_aws import names, subnets
from lbctl_aws.annotations import GROUP_ATTRIBUTES, LOAD_BALANCER_ATTRIBUTES, PREFIX, Options, listens_with_tls, options
from lbctl_aws.facts import UNKNOWN, Facts, Subnet
from lbctl_aws.marks import DETAILS, Mark, check_user_tags
from lbctl_aws.settings import Settings

KINDS = (
    Kind("security-group", immutable=frozenset({"vpc"})),
    Kind("backend-group", immutable=frozenset({"vpc"})),
    Kind("node-rule", after=("backend-group",),
         immutable=frozenset({"group", "protocol", "from_port", "to_port", "source"})),
    Kind("target-group", immutable=frozenset({"vpc", "protocol", "port", "ip_address_type"})),
    Kind("load-balancer", after=("security-group", "backend-group", "target-group"),
         immutable=frozenset({"scheme", "uid"})),
    Kind("listener", after=("load-balancer", "target-group"), immutable=frozenset({"load_balancer"})),
)

MOST_LISTENERS = 50
"""Listeners of one Network Load Balancer (AWS quotas; cannot be raised)."""

NOTHING_UNUSUAL: Mapping[str, str] = {}
"""The attributes of nearly everything."""

PROXY_HEALTH_PORT = 10256
"""kube-proxy's own health port, the same on every node (KEP-3458); the only TCP port behind a UDP Service."""


class Context(msgspec.Struct, frozen=True):
    """What `build` is told beside the Service: the same for all Services of a pass."""

    settings: Settings
    mark: Mark
    facts: Facts


class Front(msgspec.Struct, frozen=True):
    """One listener to be: a port number, what it speaks, and the nodePort behind it."""

    port: int
    protocol: str
    group_protocol: str
    node_port: int | None


def build(
    lb: LoadBalancer, targets: tuple[str, ...], current: Mapping[str, Resource], context: Context
) -> tuple[list[Resource], list[Note]]:
    """Everything one Service needs, and what its user should know. Raises `Refused` with the way out.

    `current` are the owner's load balancers as seen, by name: an existing one keeps its scheme and subnets where the
    Service does not say.
    """
    chosen, fronts = checked(lb)
    scheme = scheme_of(lb, current.values(), context)
    name = load_balancer_name(lb, chosen, scheme, context)
    seen = current.get(name)
    uid = lb.uid or (str(seen.fields.get("uid", "")) if seen else "")
    tags = {**context.settings.tags, **chosen.tags, **context.mark.tags(lb.owner, uid)}
    balancer = _load_balancer(lb, chosen, scheme, name, seen, tags, context)
    resources = [balancer]
    if not chosen.security_groups:
        resources.append(_security_group(lb, chosen, tags, context))
    for front in fronts:
        group = _target_group(lb, chosen, front, name, targets, tags, context)
        resources += [group, _listener(lb, chosen, front, balancer, group, tags, context)]
    return resources, list(_notes(lb, chosen))


def checked(lb: LoadBalancer) -> tuple[Options, tuple[Front, ...]]:
    """What the Service says, read and found servable without a look at AWS. Raises `Refused`."""
    if problem := lb.problem or foreign(lb, "aws"):
        raise Refused(problem.message, reason=problem.reason)
    chosen = options(lb)
    fronts = _fronts(lb, chosen)
    _check_families(lb, chosen, fronts)
    _check_affinity(lb, chosen)
    check_user_tags(chosen.tags)
    for front in fronts:
        _check_group_attributes(front, _group_attributes(lb, chosen, front))
    return chosen, fronts


def load_balancer_name(lb: LoadBalancer, chosen: Options, scheme: Scheme, context: Context) -> str:
    """Its name in AWS: the fixed one, else derived from what cannot be changed in place."""
    return chosen.name or _derived_name(lb, chosen, context, scheme)


def scheme_of(lb: LoadBalancer, current: Iterable[Resource], context: Context) -> Scheme:
    """Who may reach it. Where the Service does not say: as its load balancer stands, whatever the default is by now.

    Of two (one replaces the other) the younger counts. Where there is none, the Service's status tells of one that
    went by hand: an address begins with the load balancer's name, which holds the scheme.
    """
    if lb.scheme is not None:
        return lb.scheme
    standing = max(current, key=lambda balancer: str(balancer.outputs.get("created", "")), default=None)
    if standing is not None:
        return "internal" if standing.fields["scheme"] == "internal" else "internet-facing"
    default = context.settings.default_scheme
    other: Scheme = "internal" if default == "internet-facing" else "internet-facing"
    if not lb.status:
        return default
    old = _derived_name(lb, options(lb), context, other)
    return other if any(ingress.hostname.startswith(f"{old}-") for ingress in lb.status) else default


def target_family(lb: LoadBalancer) -> str:
    """How the load balancer speaks to the nodes: by the Service's first family, whatever its clients speak."""
    return "ipv6" if lb.ip_families[:1] == ("IPv6",) else "ipv4"


def shares(lb: LoadBalancer, settings: Settings) -> Iterator[Hashable]:
    """What one Service needs of the rules on the nodes' group: (protocol, first port, last port)."""
    try:
        chosen, fronts = checked(lb)
    except Refused:
        return
    if chosen.security_groups and not chosen.manage_backend_rules:
        return
    for front in fronts:
        for protocol in _wire(front.group_protocol):
            yield _port_range(protocol, front.node_port, settings)
        port = _health_check(lb, chosen, front)["port"]
        yield _port_range("tcp", front.node_port if port == "traffic-port" else int(port), settings)


def shared(wanted: Iterable[tuple[str, int, int]], groups: Iterable[str], context: Context) -> list[Resource]:
    """The backend group, and the rules that let it reach the nodes. Nothing where nobody needs them."""
    ranges = sorted(set(wanted))
    if not ranges or not context.facts.vpc:
        return []
    backend = Resource(
        "backend-group", backend_group_name(context.mark), SHARED,
        {"vpc": context.facts.vpc, "tags": {**context.settings.tags, **context.mark.tags(SHARED)}},
        because="carried by every load balancer, so that one rule on the nodes lets them all in",
    )
    source = Ref(backend.kind, backend.name, "id")
    rules = [
        Resource(
            "node-rule", rule_name(group, protocol, first, last), SHARED,
            {"group": group, "protocol": protocol, "from_port": first, "to_port": last, "source": source},
            because="lets load balancers reach the nodes",
        )
        for group in sorted(set(groups)) for protocol, first, last in ranges
    ]
    return [backend, *rules]


def backend_group_name(mark: Mark) -> str:
    return names.derived(mark.cluster_id, SHARED, "backend")


def rule_name(group: str, protocol: str, first: int, last: int) -> str:
    return f"{group}:{protocol}:{first}-{last}"


def listener_name(balancer: str, port: int) -> str:
    return f"{balancer}:{port}"


def holds(name: str, homes: Mapping[str, str]) -> tuple[str, ...]:
    """What a load balancer has that no other can have at the same time: its name and its static addresses."""
    static = sorted((subnet, text) for subnet, text in homes.items() if text)
    return (f"name:{name}", *(f"eip:{text}" if text.startswith("eipalloc-") else f"private:{subnet}:{text}"
                              for subnet, text in static))


def placed(homes: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """Subnets, each with its static address or nothing, in normal form. Kept once: most stand in the same ones."""
    return _placed_once(tuple(sorted(homes)))


@lru_cache(maxsize=1024)
def _placed_once(homes: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return dict(homes)


def detailed(tags: Mapping[str, str], details: object) -> Mapping[str, str]:
    """The tags, with the one that says that a cold start must read this resource's attributes, if there are any."""
    return {**tags, DETAILS: "attributes"} if details else tags


# -- ports ----------------------------------------------------------------------------------------------------------


def _fronts(lb: LoadBalancer, chosen: Options) -> tuple[Front, ...]:
    """One front per port number, TCP and UDP of one number together. Raises `Refused`."""
    by_number: dict[int, list[Port]] = {}
    for port in lb.ports:
        if port.protocol not in ("TCP", "UDP"):
            raise Refused(
                f"port {port}: a Network Load Balancer speaks TCP and UDP; change the protocol",
                reason="unsupported-protocol",
            )
        if port.node_port == 0:
            raise Refused(
                f"port {port} has no nodePort, and targets are registered there: set allocateLoadBalancerNodePorts "
                f"to true", reason="no-node-port",
            )
        by_number.setdefault(port.port, []).append(port)
    if len(by_number) > MOST_LISTENERS:
        raise Refused(
            f"{len(by_number)} ports, a Network Load Balancer takes {MOST_LISTENERS}: split the Service",
            reason="too-many-ports",
        )
    return tuple(_front(ports, chosen) for _, ports in sorted(by_number.items()))


def _front(ports: list[Port], chosen: Options) -> Front:
    first = ports[0]
    tls = any(listens_with_tls(chosen, port) for port in ports)
    if len(ports) == 1:
        backend = "TLS" if tls and chosen.backend_protocol == "tls" else first.protocol
        return Front(first.port, "TLS" if tls else first.protocol, backend, first.node_port)
    if tls:
        raise Refused(
            f"port {first.port} is TCP with a certificate and UDP: AWS has one listener per port; leave it out of "
            f"ssl-ports, or use another port", reason="tls-with-udp",
        )
    if len({port.node_port for port in ports}) > 1:
        both = " and ".join(f"{port} at nodePort {port.node_port}" for port in ports)
        raise Refused(
            f"{both}: one listener serves TCP and UDP of a port only at the same nodePort; set both nodePorts alike",
            reason="node-ports-differ",
        )
    return Front(first.port, "TCP_UDP", "TCP_UDP", first.node_port)


def _wire(protocol: str) -> tuple[str, ...]:
    """What a listener's protocol is to a security group."""
    return {"TCP": ("tcp",), "TLS": ("tcp",), "UDP": ("udp",), "TCP_UDP": ("tcp", "udp")}[protocol]


def _port_range(protocol: str, port: int | None, settings: Settings) -> tuple[str, int, int]:
    first, last = settings.node_ports
    inside = port is None or first <= port <= last
    return (protocol, first, last) if inside else (protocol, port or 0, port or 0)


# -- checks that need no look at AWS --------------------------------------------------------------------------------


def _check_families(lb: LoadBalancer, chosen: Options, fronts: Iterable[Front]) -> None:
    dualstack = chosen.ip_address_type == "dualstack"
    udp = [str(front.port) for front in fronts if "udp" in _wire(front.protocol)]
    if dualstack and udp:
        raise Refused(
            f"port {', '.join(udp)} is UDP, which AWS takes on a dual-stack load balancer only with IPv6 prefixes for "
            f"source NAT, and lbctl gives it none: set {PREFIX}ip-address-type to ipv4, or split the Service",
            reason="udp-dualstack",
        )
    way = f"set {PREFIX}ip-address-type: dualstack"
    if not dualstack and (lb.ip_families[:1] == ("IPv6",) or lb.ip_family_policy == "RequireDualStack"):
        raise Refused(f"the Service wants IPv6 addresses: {way}, or spec.ipFamilies to IPv4", reason="ip-family")
    if not dualstack and any(network.version == 6 for network in lb.source_ranges):
        raise Refused(f"a source range is IPv6, but the load balancer is IPv4 only: {way}, or remove it",
                      reason="source-range-family")


def _check_affinity(lb: LoadBalancer, chosen: Options) -> None:
    if lb.session_affinity == "ClientIP" and any(listens_with_tls(chosen, port) for port in lb.ports):
        raise Refused(
            "sessionAffinity ClientIP does not work with TLS listeners on AWS: set it to None, or end TLS in the pods",
            reason="affinity-with-tls",
        )


def _check_group_attributes(front: Front, attributes: Mapping[str, str]) -> None:
    if front.group_protocol in ("UDP", "TCP_UDP") and attributes.get("preserve_client_ip.enabled") == "false":
        raise Refused(
            f"port {front.port} is UDP, where AWS always preserves the client's address: remove "
            f"preserve_client_ip.enabled=false", reason="preserve-client-ip",
        )


def _notes(lb: LoadBalancer, chosen: Options) -> Iterator[Note]:
    if lb.session_affinity == "ClientIP":
        yield Note(lb.owner, DEGRADED, "affinity-timeout-ignored",
                   f"AWS keeps a client at its node for a time of its own, not for {lb.affinity_timeout} s")
    if len(lb.ip_families) > 1 and chosen.ip_address_type == "ipv4":
        yield Note(lb.owner, DEGRADED, "single-stack",
                   f"served on IPv4 only: set {PREFIX}ip-address-type: dualstack for IPv6 too")
    if chosen.without_effect:
        yield Note(lb.owner, DEGRADED, "without-effect",
                   f"{', '.join(chosen.without_effect)} mean nothing to a Network Load Balancer: remove them")


# -- the resources --------------------------------------------------------------------------------------------------


def _derived_name(lb: LoadBalancer, chosen: Options, context: Context, scheme: str) -> str:
    addresses = ",".join(sorted((*chosen.allocations, *map(str, chosen.private_addresses),
                                 *map(str, lb.requested_addresses))))
    return names.derived(context.mark.cluster_id, lb.owner, scheme, addresses)


def _load_balancer(
    lb: LoadBalancer, chosen: Options, scheme: Scheme, name: str, seen: Resource | None, tags: Mapping[str, str],
    context: Context,
) -> Resource:
    homes = _homes(lb, chosen, scheme, seen, context)
    attributes = _unusual(chosen.attributes, LOAD_BALANCER_ATTRIBUTES)
    managed = not chosen.security_groups or chosen.manage_backend_rules
    fields = {
        "scheme": scheme,
        "ip_address_type": chosen.ip_address_type,
        "subnets": homes,
        "security_groups": _frontends(lb, chosen, context),
        "backend_group": Ref("backend-group", backend_group_name(context.mark), "id") if managed else "",
        "private_link": chosen.private_link,
        "attributes": attributes,
        "tags": detailed(tags, attributes),
        **_other_uid(lb, seen),
    }
    return Resource("load-balancer", name, lb.owner, fields, holds=holds(name, homes), because=f"serves {lb.owner}")


def _other_uid(lb: LoadBalancer, seen: Resource | None) -> dict[str, str]:
    """Another Service of the same name is another Service: its load balancer is made anew."""
    theirs = seen.fields.get("uid", "") if seen else ""
    return {"uid": lb.uid} if theirs and lb.uid and theirs != lb.uid else {}


def _homes(
    lb: LoadBalancer, chosen: Options, scheme: Scheme, seen: Resource | None, context: Context
) -> Mapping[str, str]:
    """The subnets, and the static address in each (an Elastic IP's allocation or a private address)."""
    facts = context.facts
    dualstack = chosen.ip_address_type == "dualstack"
    if facts.assumed:
        static = chosen.allocations or chosen.private_addresses or lb.requested_addresses
        homes = subnets.assumed(chosen.subnets, len(static))
    elif chosen.subnets:
        homes = subnets.named(facts, chosen.subnets, dualstack=dualstack)
    elif seen is not None and seen.fields["subnets"] and seen.fields["scheme"] == scheme:
        subnets.check_family(subnets.by_id(facts, seen.fields["subnets"]), dualstack=dualstack)
        return _subnets_of(seen)
    else:
        homes = subnets.discovered(facts, scheme, context.settings.cluster_name, dualstack=dualstack)
    return _with_static(lb, chosen, scheme, homes, seen, facts)


def _with_static(
    lb: LoadBalancer, chosen: Options, scheme: Scheme, homes: tuple[Subnet, ...], seen: Resource | None,
    facts: Facts,
) -> Mapping[str, str]:
    public = scheme == "internet-facing"
    if chosen.allocations and not public:
        raise Refused("Elastic IPs are for internet-facing load balancers: remove eip-allocations, or the scheme",
                      reason="eip-on-internal")
    if chosen.private_addresses and public:
        raise Refused("private addresses are for internal load balancers: remove private-ipv4-addresses, or set the "
                      "scheme to internal", reason="private-on-public")
    allocations = chosen.allocations or (_requested(lb, facts) if public else ())
    private = chosen.private_addresses or (() if public else lb.requested_addresses)
    fewer = not chosen.subnets and not chosen.allocations and not chosen.private_addresses
    for allocation in allocations:
        _check_allocation(allocation, facts)
    if seen is not None and allocations and sorted(seen.fields["subnets"].values()) == sorted(allocations):
        return _subnets_of(seen)
    if allocations:
        return placed(subnets.with_allocations(homes, allocations, fewer=fewer).items())
    if private:
        return placed(subnets.with_addresses(homes, private, fewer=fewer).items())
    return placed((subnet.id, "") for subnet in homes)


def _subnets_of(seen: Resource) -> Mapping[str, str]:
    there: Mapping[str, str] = seen.fields["subnets"]
    return there


def _requested(lb: LoadBalancer, facts: Facts) -> tuple[str, ...]:
    missing = [str(address) for address in lb.requested_addresses if str(address) not in facts.addresses]
    if missing:
        raise Refused(
            f"{', '.join(missing)} is no Elastic IP of this account and region: allocate it, name it in "
            f"{PREFIX}eip-allocations, or remove spec.loadBalancerIP", reason="address-not-found",
        )
    return tuple(facts.addresses[str(address)].allocation for address in lb.requested_addresses)


def _check_allocation(allocation: str, facts: Facts) -> None:
    if allocation not in facts.addresses:
        raise Refused(f"Elastic IP {allocation} is not in this account and region: correct eip-allocations",
                      reason="eip-not-found")


def _frontends(lb: LoadBalancer, chosen: Options, context: Context) -> tuple[str | Ref, ...]:
    if not chosen.security_groups:
        return (Ref("security-group", names.derived(context.mark.cluster_id, lb.owner, "frontend"), "id"),)
    by_name = {group.name: group.id for group in context.facts.groups.values()}
    found = {said: said if said in context.facts.groups else by_name.get(said) for said in chosen.security_groups}
    missing = [said for said, group in found.items() if group is None]
    if missing:
        raise Refused(f"security group {', '.join(missing)} is not in {context.facts.vpc}: correct security-groups",
                      reason="security-group-not-found")
    return tuple(sorted({group for group in found.values() if group}))


def _security_group(lb: LoadBalancer, chosen: Options, tags: Mapping[str, str], context: Context) -> Resource:
    sources = [str(network) for network in lb.source_ranges] + list(chosen.prefix_lists)
    if not sources:
        families = ("IPv4", "IPv6") if chosen.ip_address_type == "dualstack" else ("IPv4",)
        sources = [str(everybody(family)) for family in families]  # type: ignore[arg-type]
    rules = {f"{port.protocol.lower()}:{port.port}:{source}" for port in lb.ports for source in sources}
    fields = {"vpc": context.facts.vpc, "rules": tuple(sorted(rules)), "tags": tags}
    name = names.derived(context.mark.cluster_id, lb.owner, "frontend")
    return Resource("security-group", name, lb.owner, fields, because="says who may connect")


def _target_group(
    lb: LoadBalancer, chosen: Options, front: Front, balancer: str, targets: tuple[str, ...], tags: Mapping[str, str],
    context: Context,
) -> Resource:
    family = target_family(lb)
    name = names.derived(context.mark.cluster_id, lb.owner, balancer, front.port, front.group_protocol,
                         front.node_port, family)
    attributes = _unusual(_group_attributes(lb, chosen, front), group_defaults(front.group_protocol))
    fields = {
        "vpc": context.facts.vpc,
        "protocol": front.group_protocol,
        "port": front.node_port,
        "ip_address_type": family,
        "health_check": _health_check(lb, chosen, front, assumed=context.facts.assumed),
        "attributes": attributes,
        "targets": targets,
        "tags": detailed(tags, attributes),
    }
    return Resource("target-group", name, lb.owner, fields, because=f"the nodes behind port {front.port}")


def _listener(
    lb: LoadBalancer, chosen: Options, front: Front, balancer: Resource, group: Resource, tags: Mapping[str, str],
    context: Context,
) -> Resource:
    tls = front.protocol == "TLS"
    attributes = chosen.listener_attributes.get(f"{front.protocol}-{front.port}", NOTHING_UNUSUAL)
    unusual = _unusual(attributes, {"tcp.idle_timeout.seconds": "350"})
    certificates = _certificates(chosen, context) if tls else ()
    fields = {
        "load_balancer": Ref("load-balancer", balancer.name, "arn"),
        "port": front.port,
        "protocol": front.protocol,
        "target_group": Ref("target-group", group.name, "arn"),
        "certificates": certificates,
        "tls_policy": (chosen.tls_policy or context.settings.ssl_policy) if tls else "",
        "alpn": chosen.alpn if tls else "None",
        "attributes": unusual,
        "tags": detailed(tags, unusual or certificates[1:]),
    }
    return Resource("listener", listener_name(balancer.name, front.port), lb.owner, fields,
                    because=f"port {front.port}")


def _certificates(chosen: Options, context: Context) -> tuple[str, ...]:
    """The default first, the others sorted: AWS returns them in no order."""
    for arn in chosen.certificates:
        region = arn.split(":")[3]
        if region and context.settings.region and region != context.settings.region:
            raise Refused(
                f"annotation {PREFIX}ssl-cert: {arn} is a certificate of {region}, the load balancer of "
                f"{context.settings.region}: issue it there too", reason="certificate-region",
            )
    return (chosen.certificates[0], *sorted(chosen.certificates[1:]))


def _health_check(
    lb: LoadBalancer, chosen: Options, front: Front, *, assumed: bool = False
) -> Mapping[str, Any]:
    """The AWS Load Balancer Controller's defaults, and for UDP alone kube-proxy's health: a UDP port answers no check.

    | traffic policy | protocol | port | interval | timeout | healthy, unhealthy |
    |---|---|---|---|---|---|
    | Cluster | TCP | the nodePort | 10 | 10 | 3, 3 |
    | Cluster, UDP | HTTP /healthz | 10256 | 10 | 6 | 3, 3 |
    | Local | HTTP /healthz | healthCheckNodePort | 10 | 6 | 2, 2 |
    """
    said = chosen.health
    local = lb.external_traffic_policy == "Local" and (lb.health_check_node_port > 0 or assumed)
    proxy = front.group_protocol == "UDP" and not local
    protocol = said.protocol or ("HTTP" if local or proxy else "TCP")
    port = str(lb.health_check_node_port or UNKNOWN) if local else str(PROXY_HEALTH_PORT) if proxy else "traffic-port"
    web = protocol != "TCP"
    thresholds = 2 if local else 3
    return health_check(
        protocol=protocol,
        port=_health_port(said.port, lb) if said.port else port,
        path=(said.path or "/healthz") if web else "",
        codes=(said.codes or "200-399") if web else "",
        interval=said.interval or 10,
        timeout=said.timeout or (6 if web else 10),
        healthy=said.healthy or thresholds,
        unhealthy=said.unhealthy or thresholds,
    )


@lru_cache(maxsize=1024)
def health_check(
    *, protocol: str, port: str, path: str, codes: str, interval: int, timeout: int, healthy: int, unhealthy: int
) -> Mapping[str, Any]:
    """A health check in normal form. Most Services have the same: it is kept once."""
    return {"protocol": protocol, "port": port, "path": path, "codes": codes, "interval": interval, "timeout": timeout,
            "healthy": healthy, "unhealthy": unhealthy}


def _health_port(said: str, lb: LoadBalancer) -> str:
    """A port's name means where its pods are found from outside: its nodePort."""
    named = next((port for port in lb.ports if port.name == said), None)
    return said if named is None else str(named.node_port or 0)


def _group_attributes(lb: LoadBalancer, chosen: Options, front: Front) -> dict[str, str]:
    said = {**chosen.group_attributes, **chosen.port_group_attributes.get(front.port, {})}
    if chosen.proxy_protocol or front.port in chosen.proxy_ports:
        said["proxy_protocol_v2.enabled"] = "true"
    if lb.session_affinity == "ClientIP":
        said["stickiness.enabled"] = "true"
    return said


def group_defaults(protocol: str) -> Mapping[str, str]:
    """AWS's defaults for a target group's attributes: connections over UDP end with the registration."""
    if protocol not in ("UDP", "TCP_UDP"):
        return GROUP_ATTRIBUTES
    return {**GROUP_ATTRIBUTES, "deregistration_delay.connection_termination.enabled": "true"}


def _unusual(said: Mapping[str, str], defaults: Mapping[str, str]) -> Mapping[str, str]:
    """Only what differs from AWS's default: what is not said goes back to it."""
    if not said:
        return NOTHING_UNUSUAL
    return {key: value for key, value in said.items() if value != defaults.get(key)}
