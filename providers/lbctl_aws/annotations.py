"""The AWS vocabulary of a Service's annotations, in the words of the two controllers that people know.  PURE.

`resources.py` asks `options` once per Service. One table says for each annotation where it goes and how it is read; a
value that cannot be read is a refusal that names the annotation, the value and the way out. What we know but do not
serve is refused too; what only ever meant something to classic load balancers is named in a condition.

The scheme, the source ranges and the requested addresses are read by `lbctl.intent`, for every provider alike.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import AddressValueError, IPv4Address
from typing import Any

import msgspec

from lbctl.errors import Refused
from lbctl.model import REQUESTED, LoadBalancer, Port
from lbctl_aws.names import fixed_name_problem

PREFIX = "service.beta.kubernetes.io/aws-load-balancer-"
NAME, TAGS = "lbctl.io/load-balancer-name", "lbctl.io/tags"

LOAD_BALANCER_ATTRIBUTES: Mapping[str, str] = {
    "access_logs.s3.bucket": "",
    "access_logs.s3.enabled": "false",
    "access_logs.s3.prefix": "",
    "deletion_protection.enabled": "false",
    "dns_record.client_routing_policy": "any_availability_zone",
    "load_balancing.cross_zone.enabled": "false",
    "zonal_shift.config.enabled": "false",
}
"""What we keep in step on a load balancer, and AWS's default for each (Network Load Balancers, user guide)."""

GROUP_ATTRIBUTES: Mapping[str, str] = {
    "deregistration_delay.connection_termination.enabled": "false",
    "deregistration_delay.timeout_seconds": "300",
    "load_balancing.cross_zone.enabled": "use_load_balancer_configuration",
    "preserve_client_ip.enabled": "true",
    "proxy_protocol_v2.enabled": "false",
    "stickiness.enabled": "false",
    "target_group_health.dns_failover.minimum_healthy_targets.count": "1",
    "target_group_health.dns_failover.minimum_healthy_targets.percentage": "off",
    "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count": "1",
    "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage": "off",
    "target_health_state.unhealthy.connection_termination.enabled": "true",
    "target_health_state.unhealthy.draining_interval_seconds": "0",
}
"""The same for a target group of instances (Target groups for your Network Load Balancers, user guide)."""

LISTENER_ATTRIBUTES: Mapping[str, str] = {"tcp.idle_timeout.seconds": "350"}
"""The same for a listener."""

ALPN = ("None", "HTTP1Only", "HTTP2Only", "HTTP2Optional", "HTTP2Preferred")

WITHOUT_EFFECT = frozenset({
    "access-log-emit-interval", "connection-draining-enabled", "connection-draining-timeout", "connection-idle-timeout",
})
"""They are about classic load balancers: a Network Load Balancer has nothing like it."""

UNSUPPORTED: Mapping[str, str] = {
    "disable-nlb-sg": "every load balancer of lbctl has a security group; bring your own with security-groups",
    "extra-security-groups": "list them in security-groups",
    "ipv6-addresses": "let AWS choose the IPv6 addresses",
    "multi-cluster-target-group": "use one Service per cluster",
    "enable-icmp-for-path-mtu-discovery": "add the ICMP rule to a group of your own (security-groups)",
    "enable-prefix-for-ipv6-source-nat": "use TCP, or clients on IPv4",
    "source-nat-ipv6-prefixes": "use TCP, or clients on IPv4",
    "minimum-load-balancer-capacity": "reserve capacity on the load balancer by hand",
    "quic-enabled-ports": "use UDP",
}
"""What a peer knows and we do not serve, with the way out."""

PRIVILEGED: Mapping[str, str] = {
    PREFIX + "access-log-s3-bucket-name": "*",
    PREFIX + "attributes": "*access_logs*",
    PREFIX + "eip-allocations": "*",
    PREFIX + "name": "*",
    PREFIX + "private-ipv4-addresses": "*",
    PREFIX + "security-group-prefix-lists": "*",
    PREFIX + "security-groups": "*",
    PREFIX + "ssl-cert": "*",
    PREFIX + "subnets": "*",
    NAME: "*",
    REQUESTED: "*",
}
"""The annotations that spend the controller's privileges on something that exists, and for which values."""


class Health(msgspec.Struct, frozen=True):
    """What a Service says about its health checks; None where it says nothing."""

    protocol: str | None = None
    port: str | None = None
    path: str | None = None
    interval: int | None = None
    timeout: int | None = None
    healthy: int | None = None
    unhealthy: int | None = None
    codes: str | None = None


class Options(msgspec.Struct, frozen=True):
    """A Service's AWS annotations, typed. Empty or None where it says nothing."""

    name: str = ""
    ip_address_type: str = "ipv4"
    subnets: tuple[str, ...] = ()
    allocations: tuple[str, ...] = ()
    private_addresses: tuple[IPv4Address, ...] = ()
    security_groups: tuple[str, ...] = ()
    prefix_lists: tuple[str, ...] = ()
    manage_backend_rules: bool = False
    certificates: tuple[str, ...] = ()
    tls_ports: tuple[str, ...] = ()
    tls_policy: str = ""
    alpn: str = "None"
    backend_protocol: str = "tcp"
    health: Health = Health()
    attributes: Mapping[str, str] = {}
    group_attributes: Mapping[str, str] = {}
    port_group_attributes: Mapping[int, Mapping[str, str]] = {}
    listener_attributes: Mapping[str, Mapping[str, str]] = {}
    private_link: str = "on"
    proxy_protocol: bool = False
    proxy_ports: tuple[int, ...] = ()
    tags: Mapping[str, str] = {}
    node_labels: Mapping[str, str] = {}
    without_effect: tuple[str, ...] = ()


NOTHING = Options()


def options(load_balancer: LoadBalancer) -> Options:
    """What the Service asks of AWS. Raises `Refused`, naming the annotation, the value and the way out."""
    said = {key: value for key, value in load_balancer.annotations.items() if _is_ours(key)}
    if not said:
        return NOTHING
    _check_target_type(load_balancer)
    found: dict[str, Any] = {}
    for key in sorted(said):
        _read(key, said[key], found)
    health = {field[7:]: found.pop(field) for field in list(found) if field.startswith("health.")}
    chosen = Options(**found, health=Health(**health))
    _check_together(chosen, load_balancer)
    return chosen


def named_addresses(load_balancer: LoadBalancer) -> Iterator[str]:
    """The Elastic IPs that a Service names, by allocation or by address."""
    yield from (str(address) for address in load_balancer.requested_addresses if load_balancer.scheme != "internal")
    try:
        yield from options(load_balancer).allocations
    except Refused:
        return


def listens_with_tls(chosen: Options, port: Port) -> bool:
    """Whether a port gets a TLS listener: it has a certificate, and is TCP, and is meant."""
    if not chosen.certificates or port.protocol != "TCP":
        return False
    return not chosen.tls_ports or "*" in chosen.tls_ports or bool({port.name, str(port.port)} & set(chosen.tls_ports))


def _is_ours(key: str) -> bool:
    return key.startswith(PREFIX) or key in (NAME, TAGS)


def _read(key: str, value: str, found: dict[str, Any]) -> None:
    suffix = key.removeprefix(PREFIX)
    base, dot, rest = suffix.partition(".")
    if suffix in WITHOUT_EFFECT:
        found["without_effect"] = (*found.get("without_effect", ()), key)
    elif base in UNSUPPORTED or base == "actions":
        if value.strip().lower() in ("false", "off", ""):
            return
        way = UNSUPPORTED.get(base, "remove it: traffic goes to the Service's own nodePorts")
        raise _refused(key, value, f"lbctl does not serve this: {way}", "unsupported-annotation")
    elif dot and base in _DOTTED:
        _DOTTED[base](key, rest, value, found)
    elif suffix in _TABLE:
        field, reader = _TABLE[suffix]
        _put(found, field, _reading(key, value, reader))
    else:
        raise Refused(f"annotation {key} is not known: check its spelling, or remove it", reason="unknown-annotation")


def _put(found: dict[str, Any], field: str | None, value: Any) -> None:
    if field is None:
        return
    if field in found and isinstance(value, dict):
        found[field] = {**found[field], **value}
    else:
        found[field] = value


class _Bad(Exception):
    """A value that cannot be read; the text says what would be right."""


def _reading(key: str, value: str, reader: Callable[[str], Any]) -> Any:
    try:
        return reader(value.strip())
    except _Bad as bad:
        raise _refused(key, value, str(bad)) from None


def _refused(key: str, value: str, wanted: str, reason: str = "bad-annotation") -> Refused:
    return Refused(f"annotation {key}={_short(value)}: {wanted}", reason=reason)


def _short(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "…")


# -- readers: text → value, or _Bad with what would be right --------------------------------------------------------


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise _Bad("say " + " or ".join(choices))
        return text
    return read


def _boolean(text: str) -> bool:
    if text not in {"true", "True", "TRUE", "t", "T", "1", "false", "False", "FALSE", "f", "F", "0"}:
        raise _Bad("say true or false")
    return text.lower() in {"true", "t", "1"}


def _number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,6}", text) or not low <= int(text) <= high:
            raise _Bad(f"say a number from {low} to {high}")
        return int(text)
    return read


def _list(text: str) -> tuple[str, ...]:
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise _Bad("the list is empty: fill it or remove the annotation")
    return parts


def _list_of(pattern: str, wanted: str) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        for part in _list(text):
            if not re.fullmatch(pattern, part):
                raise _Bad(f"{_short(part)} is not {wanted}")
        return _list(text)
    return read


def _matching(pattern: str, wanted: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise _Bad(f"write it like {wanted}")
        return text
    return read


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for key, equals, _ in pairs:
        if not equals or not key.strip():
            raise _Bad(f"{_short(key)} is not key=value: write a list like key=value,key=value")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _labels(text: str) -> dict[str, str]:
    return {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in _list(text))}


def _private(text: str) -> tuple[IPv4Address, ...]:
    try:
        return tuple(IPv4Address(part) for part in _list(text))
    except AddressValueError as error:
        raise _Bad(f"{error}: write IPv4 addresses, one per subnet") from None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_number(1, 65535)(part) for part in _list(text))


def _type(text: str) -> str:
    if text == "nlb-ip":
        raise _Bad("lbctl registers instances, not pods: say nlb, or remove it")
    return _one_of("nlb", "external")(text)


def _target_type(text: str) -> str:
    return _one_of("instance")(text)


def _name(text: str) -> str:
    if problem := fixed_name_problem(text):
        raise _Bad(problem)
    return text


def _star(text: str) -> bool:
    if text != "*":
        raise _Bad("say * for every port, or list ports in proxy-protocol-per-target-group")
    return True


def _anything(text: str) -> str:
    return text


def _backend(text: str) -> str:
    return "tls" if _one_of("tcp", "ssl", "tls")(text.lower()) in ("ssl", "tls") else "tcp"


def _health_protocol(text: str) -> str:
    return _one_of("TCP", "HTTP", "HTTPS")(text.upper())


def _port_or_traffic(text: str) -> str:
    if text.isdecimal():
        return str(_number(1, 65535)(text))
    return _matching(r"traffic-port|[a-z0-9]([a-z0-9-]*[a-z0-9])?", "traffic-port, a number or a port's name")(text)


# -- attributes: keys and values that AWS takes ---------------------------------------------------------------------

_ATTRIBUTE_VALUES: Mapping[str, Callable[[str], Any]] = {
    "access_logs.s3.bucket": _matching(r"[a-z0-9.-]{3,63}", "a bucket's name"),
    "access_logs.s3.prefix": _anything,
    "dns_record.client_routing_policy": _one_of(
        "any_availability_zone", "availability_zone_affinity", "partial_availability_zone_affinity"
    ),
    "deregistration_delay.timeout_seconds": _number(0, 3600),
    "stickiness.type": _one_of("source_ip"),
    "target_health_state.unhealthy.draining_interval_seconds": _number(0, 360000),
    "tcp.idle_timeout.seconds": _number(60, 6000),
}


def _attributes(known: Mapping[str, str]) -> Callable[[str], dict[str, str]]:
    def read(text: str) -> dict[str, str]:
        pairs = _pairs(text)
        for key, value in pairs.items():
            if key not in known and key != "stickiness.type":
                raise _Bad(f"{_short(key)} is not served: take {', '.join(sorted(known))}")
            _attribute_value(key, value, known.get(key, ""))
        return {key: value for key, value in pairs.items() if key != "stickiness.type"}
    return read


def _attribute_value(key: str, value: str, default: str) -> None:
    try:
        if key in _ATTRIBUTE_VALUES:
            _ATTRIBUTE_VALUES[key](value)
        elif default in ("true", "false"):
            _one_of("true", "false")(value)
        elif default == "use_load_balancer_configuration":
            _one_of("true", "false", default)(value)
        elif default in ("off", "1"):
            _matching(r"off|\d{1,4}", "off or a number")(value)
    except _Bad as bad:
        raise _Bad(f"{key}={_short(value)}: {bad}") from None


_group_attributes = _attributes(GROUP_ATTRIBUTES)


def _port_group_attributes(key: str, rest: str, value: str, found: dict[str, Any]) -> None:
    port = _reading(key, rest, _number(1, 65535))
    _put(found, "port_group_attributes", {port: _reading(key, value, _group_attributes)})


def _listener_attributes(key: str, rest: str, value: str, found: dict[str, Any]) -> None:
    where = _reading(key, rest, _matching(r"(TCP|UDP|TLS|TCP_UDP)-\d{1,5}", "listener-attributes.TCP-80"))
    _put(found, "listener_attributes", {where: _reading(key, value, _attributes(LISTENER_ATTRIBUTES))})


def _flag(attribute: str) -> Callable[[str], dict[str, str]]:
    return lambda text: {attribute: "true" if _boolean(text) else "false"}


def _text(attribute: str) -> Callable[[str], dict[str, str]]:
    def read(text: str) -> dict[str, str]:
        _attribute_value(attribute, text, "")
        return {attribute: text}
    return read


_ARN = (
    r"arn:aws[a-z-]*:acm:[a-z0-9-]+:\d{12}:certificate/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|arn:aws[a-z-]*:iam::\d{12}:server-certificate/[\w+=,.@/-]+"
)

_DOTTED: Mapping[str, Callable[[str, str, str, dict[str, Any]], None]] = {
    "listener-attributes": _listener_attributes,
    "target-group-attributes": _port_group_attributes,
}

_TABLE: Mapping[str, tuple[str | None, Callable[[str], Any]]] = {
    # annotation                              option and how it is read
    "access-log-enabled":                     ("attributes", _flag("access_logs.s3.enabled")),
    "access-log-s3-bucket-name":              ("attributes", _text("access_logs.s3.bucket")),
    "access-log-s3-bucket-prefix":            ("attributes", _text("access_logs.s3.prefix")),
    "additional-resource-tags":               ("tags", _pairs),
    "alpn-policy":                            ("alpn", _one_of(*ALPN)),
    "attributes":                             ("attributes", _attributes(LOAD_BALANCER_ATTRIBUTES)),
    "backend-protocol":                       ("backend_protocol", _backend),
    "cross-zone-load-balancing-enabled":      ("attributes", _flag("load_balancing.cross_zone.enabled")),
    "eip-allocations":                        ("allocations", _list_of(r"eipalloc-[0-9a-f]+", "like eipalloc-0a1b")),
    "enable-tcp-udp-listener":                (None, _boolean),
    "healthcheck-healthy-threshold":          ("health.healthy", _number(2, 10)),
    "healthcheck-interval":                   ("health.interval", _number(5, 300)),
    "healthcheck-path":                       ("health.path", _matching(r"/\S{0,1023}", "/healthz")),
    "healthcheck-port":                       ("health.port", _port_or_traffic),
    "healthcheck-protocol":                   ("health.protocol", _health_protocol),
    "healthcheck-success-codes":              ("health.codes", _matching(r"\d{3}([,-]\d{3})*", "200-399")),
    "healthcheck-timeout":                    ("health.timeout", _number(2, 120)),
    "healthcheck-unhealthy-threshold":        ("health.unhealthy", _number(2, 10)),
    "inbound-sg-rules-on-private-link-traffic": ("private_link", _one_of("on", "off")),
    "internal":                               (None, _anything),
    "ip-address-type":                        ("ip_address_type", _one_of("ipv4", "dualstack")),
    "manage-backend-security-group-rules":    ("manage_backend_rules", _boolean),
    "name":                                   ("name", _name),
    "nlb-target-type":                        (None, _target_type),
    "private-ipv4-addresses":                 ("private_addresses", _private),
    "proxy-protocol":                         ("proxy_protocol", _star),
    "proxy-protocol-per-target-group":        ("proxy_ports", _numbers),
    "scheme":                                 (None, _anything),
    "security-group-prefix-lists":            ("prefix_lists", _list_of(r"pl-[0-9a-f]+", "like pl-0a1b2c3d")),
    "security-groups":                        ("security_groups", _list),
    "ssl-cert":                               ("certificates", _list_of(_ARN, "the ARN of a certificate")),
    "ssl-negotiation-policy":                 ("tls_policy", _matching(r"ELBSecurityPolicy-[\w-]{1,80}",
                                                                      "ELBSecurityPolicy-TLS13-1-2-2021-06")),
    "ssl-ports":                              ("tls_ports", _list),
    "subnets":                                ("subnets", _list),
    "target-group-attributes":                ("group_attributes", _group_attributes),
    "target-node-labels":                     ("node_labels", _labels),
    "type":                                   (None, _type),
    NAME:                                     ("name", _name),
    TAGS:                                     ("tags", _pairs),
}


# -- what only makes sense together ---------------------------------------------------------------------------------


def _check_together(chosen: Options, lb: LoadBalancer) -> None:
    numbers = {str(port.port) for port in lb.ports}
    names = {port.name for port in lb.ports if port.name}
    for port in chosen.tls_ports:
        if port not in names | numbers | {"*"}:
            raise _refused(PREFIX + "ssl-ports", port, "the Service has no such port", "unused-ssl-port")
    for number in (*chosen.proxy_ports, *chosen.port_group_attributes):
        if str(number) not in numbers:
            raise _refused(PREFIX + "target-group-attributes / proxy-protocol-per-target-group", str(number),
                           "the Service has no such port", "unused-port")
    if chosen.health.port and not chosen.health.port.isdecimal() and chosen.health.port not in {*names, "traffic-port"}:
        raise _refused(PREFIX + "healthcheck-port", chosen.health.port, "the Service has no port of that name")
    if chosen.alpn != "None" and not any(listens_with_tls(chosen, port) for port in lb.ports):
        raise _refused(PREFIX + "alpn-policy", chosen.alpn, "only TLS listeners have one: add ssl-cert, or remove it")
    if NAME in lb.annotations and lb.annotations.get(PREFIX + "name", lb.annotations[NAME]) != lb.annotations[NAME]:
        raise _refused(PREFIX + "name", lb.annotations[PREFIX + "name"], f"{NAME} says otherwise: keep one of them")


def _check_target_type(lb: LoadBalancer) -> None:
    """Before the table's own answer, for its own reason token."""
    key = PREFIX + "nlb-target-type"
    if lb.annotations.get(key, "").strip() == "ip" or lb.annotations.get(PREFIX + "type", "").strip() == "nlb-ip":
        raise _refused(key, "ip", "lbctl registers instances: say instance, or remove it", "target-type-ip")
