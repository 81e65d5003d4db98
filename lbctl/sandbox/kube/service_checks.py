"""What is refused of a Service: every cause, by field, in kube-apiserver's words.

pkg/apis/core/validation of release 1.34: validateService, ValidateServiceUpdate, ValidateLoadBalancerStatus. Pure;
called by `services` with objects that have their defaults.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from lbctl.sandbox.kube.kinds import Object
from lbctl.sandbox.kube.rules import check_labels, dns_label, dns_subdomain, qualified_name
from lbctl.sandbox.kube.status import Cause, duplicate, not_permitted, not_supported, required, wrong

SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_SAY_IP = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_SAY_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_SAY_PORT = "must be between 1 and 65535, inclusive"
_LOCAL_MULTICAST = {4: ipaddress.ip_network("224.0.0.0/24"), 6: ipaddress.ip_network("ff02::/16")}
_ONLY_LB = "may only be used when `type` is 'LoadBalancer'"


def reachable(spec: Mapping[str, Any]) -> bool:
    """ExternallyAccessible: from outside, by whatever way."""
    kind = spec.get("type")
    return kind in ("LoadBalancer", "NodePort") or (kind == "ClusterIP" and bool(spec.get("externalIPs")))


def needs_check_port(spec: Mapping[str, Any]) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def ingress_of(obj: Object) -> list[Object]:
    found: list[Object] = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return found


def family_of(address: str) -> str:
    return f"IPv{ipaddress.ip_address(address).version}"


def validate(obj: Object, was: Mapping[str, Any] | None) -> Iterator[Cause]:
    spec = obj["spec"]
    yield from _validate_type(spec)
    headless = spec.get("clusterIP") == "None"
    ports = spec.get("ports", [])
    if not ports and not headless and spec["type"] != "ExternalName":
        yield required("spec.ports")
    yield from _validate_ports(spec, ports)
    yield from check_labels(spec.get("selector") or {}, "spec.selector")
    yield from _validate_affinity(spec)
    if spec["type"] != "ExternalName":
        yield from validate_addresses(spec)
    yield from _validate_external_ips(spec)
    yield from _validate_source_ranges(obj, was or {})
    yield from _validate_load_balancer(spec)
    yield from _validate_policies(spec)


def _validate_type(spec: Object) -> Iterator[Cause]:
    kind = spec["type"]
    if kind not in _TYPES:
        yield not_supported("spec.type", kind, _TYPES)
    if kind in ("LoadBalancer", "NodePort") and spec.get("clusterIP") == "None":
        yield wrong("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    if kind == "ExternalName":
        for name in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get(name):
                yield not_permitted(f"spec.{name}", "may not be set for ExternalName services")
        name = spec.get("externalName", "").removesuffix(".")
        if not name:
            yield required("spec.externalName")
        for word in dns_subdomain(name) if name else ():
            yield wrong("spec.externalName", name, word)


def _validate_ports(spec: Object, ports: list[Object]) -> Iterator[Cause]:
    names = set[str]()
    for index, port in enumerate(ports):
        yield from _validate_port(port, f"spec.ports[{index}]", len(ports) > 1, names)
    if spec["type"] == "ClusterIP":
        for index, port in enumerate(ports):
            if port.get("nodePort"):
                yield not_permitted(f"spec.ports[{index}].nodePort", "may not be used when `type` is 'ClusterIP'")
    node_ports, pairs = set[tuple[str, int]](), set[tuple[str, int]]()
    for index, port in enumerate(ports):
        if number := port.get("nodePort"):
            if (port["protocol"], number) in node_ports:
                yield duplicate(f"spec.ports[{index}].nodePort", number)
            node_ports.add((port["protocol"], number))
    for index, port in enumerate(ports):
        pair = (port["protocol"], port.get("port", 0))
        if pair in pairs:
            yield duplicate(f"spec.ports[{index}]", {"port": pair[1], "protocol": pair[0], "targetPort": 0})
        pairs.add(pair)


def _validate_port(port: Object, path: str, need_name: bool, names: set[str]) -> Iterator[Cause]:
    name = port.get("name", "")
    if need_name and not name:
        yield required(f"{path}.name")
    elif name:
        for word in dns_label(name):
            yield wrong(f"{path}.name", name, word)
        if name in names:
            yield duplicate(f"{path}.name", name)
        names.add(name)
    if not 1 <= port.get("port", 0) <= 65535:
        yield wrong(f"{path}.port", port.get("port", 0), _SAY_PORT)
    if port["protocol"] not in ("SCTP", "TCP", "UDP"):
        yield not_supported(f"{path}.protocol", port["protocol"], ("SCTP", "TCP", "UDP"))
    yield from _validate_target(port["targetPort"], f"{path}.targetPort")
    for word in qualified_name(port["appProtocol"]) if port.get("appProtocol") is not None else ():
        yield wrong(f"{path}.appProtocol", port["appProtocol"], word)


def _validate_target(target: object, path: str) -> Iterator[Cause]:
    if isinstance(target, int):
        if not 1 <= target <= 65535:
            yield wrong(path, target, _SAY_PORT)
        return
    name = str(target)
    if len(name) > 15:
        yield wrong(path, name, "must be no more than 15 characters")
    if not all(char.isdigit() or char.islower() or char == "-" for char in name) or not name.isascii():
        yield wrong(path, name, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not any(char.isalpha() for char in name):
        yield wrong(path, name, "must contain at least one letter (a-z)")
    if "--" in name:
        yield wrong(path, name, "must not contain consecutive hyphens")
    if name.startswith("-") or name.endswith("-"):
        yield wrong(path, name, "must not begin or end with a hyphen")


def _validate_affinity(spec: Object) -> Iterator[Cause]:
    if spec["sessionAffinity"] not in ("ClientIP", "None"):
        yield not_supported("spec.sessionAffinity", spec["sessionAffinity"], ("ClientIP", "None"))
    elif spec["sessionAffinity"] == "ClientIP":
        seconds = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
        if not 0 < seconds <= 86400:
            path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
            yield wrong(path, seconds, "must be greater than 0 and less than 86400")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text


def validate_addresses(spec: Object) -> Iterator[Cause]:
    """ValidateServiceClusterIPsRelatedFields."""
    addresses, families = spec.get("clusterIPs", []), spec.get("ipFamilies", [])
    if spec.get("clusterIP"):
        if not addresses:
            yield required("spec.clusterIPs")
        elif addresses[0] != spec["clusterIP"]:
            yield wrong("spec.clusterIPs", addresses, "first value must match `clusterIP`")
    elif addresses:
        yield wrong("spec.clusterIPs", addresses, "must be empty when `clusterIP` is not specified")
    for index, family in enumerate(families):
        if family not in ("IPv4", "IPv6"):
            yield not_supported(f"spec.ipFamilies[{index}]", family, ("IPv4", "IPv6"))
        if family in families[:index]:
            yield duplicate(f"spec.ipFamilies[{index}]", family)
    policies = ("PreferDualStack", "RequireDualStack", "SingleStack")
    if spec.get("ipFamilyPolicy") is not None and spec["ipFamilyPolicy"] not in policies:
        yield not_supported("spec.ipFamilyPolicy", spec["ipFamilyPolicy"], policies)
    if len(addresses) > 1 and addresses[0] == "None":
        yield wrong("spec.clusterIPs", addresses, "'None' must be the first and only value")
        return
    bad = [index for index, text in enumerate(addresses) if text != "None" and not _is_ip(text)]
    for index in bad:
        yield wrong(f"spec.clusterIPs[{index}]", addresses[index], _SAY_IP)
    if len(addresses) > 2:
        yield wrong("spec.clusterIPs", addresses, "may only hold up to 2 values")
    if not bad and addresses != ["None"]:
        yield from _validate_matching(addresses, families)


def _validate_matching(addresses: list[str], families: list[str]) -> Iterator[Cause]:
    actual = [family_of(text) for text in addresses]
    if len(actual) > 1 and len({*actual}) == 1:
        yield wrong("spec.clusterIPs", addresses, "may specify no more than one IP for each IP family")
    for index, (wanted, family) in enumerate(zip(families, actual, strict=False)):
        if wanted != family:
            say = f"expected an {wanted} value as indicated by `ipFamilies[{index}]`"
            yield wrong(f"spec.clusterIPs[{index}]", addresses[index], say)


def validate_policy(spec: Object, was: Mapping[str, Any], single: bool) -> Iterator[Cause]:
    path, policy = "spec.ipFamilyPolicy", spec["ipFamilyPolicy"]
    for name, released, several in (
        ("clusterIPs", "cluster IP", "cluster IPs"),
        ("ipFamilies", "IP family", "IP families"),
    ):
        now, before = len(spec.get(name, ())), len(was.get(name, ()))
        if single and now == 2:
            say = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {several} are specified"
            yield wrong(path, policy, say)
        if not single and 0 < now < before:
            yield wrong(path, policy, f"must be 'SingleStack' to release the secondary {released}")


def _validate_external_ips(spec: Object) -> Iterator[Cause]:
    for index, text in enumerate(spec.get("externalIPs", ())):
        path = f"spec.externalIPs[{index}]"
        if not _is_ip(text):
            yield wrong(path, text, _SAY_IP)
            continue
        address = ipaddress.ip_address(text)
        if address.is_unspecified:
            yield wrong(path, text, f"may not be unspecified ({text})")
        if address.is_loopback:
            yield wrong(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
        if address.is_link_local:
            yield wrong(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
        if address in _LOCAL_MULTICAST[address.version]:
            yield wrong(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")


def _validate_source_ranges(obj: Object, was: Mapping[str, Any]) -> Iterator[Cause]:
    spec = obj["spec"]
    annotation = (obj["metadata"].get("annotations") or {}).get(SOURCE_RANGES)
    if ranges := spec.get("loadBalancerSourceRanges"):
        # The capital letter is Kubernetes' own.
        path = "spec.LoadBalancerSourceRanges"
        if spec["type"] != "LoadBalancer":
            yield not_permitted(path, _ONLY_LB)
        for index, text in enumerate(ranges):
            if text not in was.get("loadBalancerSourceRanges", ()) and not _is_network(text.strip()):
                yield wrong(f"{path}[{index}]", text.strip(), _SAY_CIDR)
    elif annotation is not None:
        path = f"metadata.annotations[{SOURCE_RANGES}]"
        if spec["type"] != "LoadBalancer":
            yield not_permitted(path, _ONLY_LB)
        for text in annotation.split(",") if annotation.strip() else ():
            if not _is_network(text.strip()):
                yield wrong(path, text.strip(), _SAY_CIDR)


def _validate_load_balancer(spec: Object) -> Iterator[Cause]:
    balanced, name = spec["type"] == "LoadBalancer", spec.get("loadBalancerClass")
    if not balanced and spec.get("allocateLoadBalancerNodePorts") is not None:
        yield not_permitted("spec.allocateLoadBalancerNodePorts", _ONLY_LB)
    if name is not None and not balanced:
        yield not_permitted("spec.loadBalancerClass", _ONLY_LB)
    for word in qualified_name(name) if name is not None and balanced else ():
        yield wrong("spec.loadBalancerClass", name, word)


def _validate_policies(spec: Object) -> Iterator[Cause]:
    policy, port = spec.get("externalTrafficPolicy"), spec.get("healthCheckNodePort")
    if policy and not reachable(spec):
        yield wrong("spec.externalTrafficPolicy", policy, "may only be set for externally-accessible services")
    elif policy and policy not in ("Cluster", "Local"):
        yield not_supported("spec.externalTrafficPolicy", policy, ("Cluster", "Local"))
    if port and not needs_check_port(spec):
        say = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield wrong("spec.healthCheckNodePort", port, say)
    inside = spec.get("internalTrafficPolicy")
    if inside is not None and inside not in ("Cluster", "Local"):
        yield not_supported("spec.internalTrafficPolicy", inside, ("Cluster", "Local"))
    spread, allowed = spec.get("trafficDistribution"), ("PreferClose", "PreferSameZone", "PreferSameNode")
    if spread is not None and spread not in allowed:
        yield not_supported("spec.trafficDistribution", spread, allowed)


def validate_update(spec: Object, was: Mapping[str, Any]) -> Iterator[Cause]:
    if "ExternalName" not in (spec["type"], was["type"]):
        yield from _validate_kept(spec, was)
    if spec["type"] == was["type"] == "LoadBalancer" and spec.get("loadBalancerClass") != was.get("loadBalancerClass"):
        yield wrong("spec.loadBalancerClass", spec.get("loadBalancerClass"), "may not change once set")
    port = was.get("healthCheckNodePort")
    if needs_check_port(spec) and needs_check_port(was) and spec.get("healthCheckNodePort") != port:
        yield not_permitted("spec.healthCheckNodePort", "field is immutable")


def _validate_kept(spec: Object, was: Mapping[str, Any]) -> Iterator[Cause]:
    """What was allocated first stays; a second family may come and go."""
    if spec.get("clusterIP") == was.get("clusterIP") == "None":
        return
    for name, index_of in (("clusterIPs", lambda at: at), ("ipFamilies", lambda at: 0)):
        now, before = spec.get(name, []), was.get(name, [])
        if name == "ipFamilies" and "None" in (spec.get("clusterIP"), was.get("clusterIP")):
            continue
        for at, (new, old) in enumerate(zip(now, before, strict=False)):
            if new != old and (at == 0 or len(now) == len(before)):
                yield wrong(f"spec.{name}[{index_of(at)}]", now, "may not change once set")


def validate_status(obj: Object) -> Iterator[Cause]:
    """ValidateLoadBalancerStatus."""
    path, entries = "status.loadBalancer.ingress", ingress_of(obj)
    if entries and obj["spec"]["type"] != "LoadBalancer":
        yield not_permitted(path, "may only be used when `spec.type` is 'LoadBalancer'")
        return
    for index, ingress in enumerate(entries):
        yield from _validate_ingress(ingress, f"{path}[{index}]")


def _validate_ingress(ingress: Object, path: str) -> Iterator[Cause]:
    address, mode, name = ingress.get("ip"), ingress.get("ipMode"), ingress.get("hostname")
    if address and not _is_ip(address):
        yield wrong(f"{path}.ip", address, _SAY_IP)
    if mode is not None and not address:
        yield not_permitted(f"{path}.ipMode", "may not be specified when `ip` is not set")
    elif mode is None and address:
        yield required(f"{path}.ipMode", "must be specified when `ip` is set")
    elif mode is not None and mode not in ("Proxy", "VIP"):
        yield not_supported(f"{path}.ipMode", mode, ("Proxy", "VIP"))
    if name:
        for word in dns_subdomain(name):
            yield wrong(f"{path}.hostname", name, word)
        if _is_ip(name):
            yield wrong(f"{path}.hostname", name, "must be a DNS name, not an IP address")
