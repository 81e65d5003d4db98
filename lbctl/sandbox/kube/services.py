"""The rules of Services: defaults, cluster IPs and node ports, what a change of type wipes, and what is refused.

In the order and the words of kube-apiserver: pkg/registry/core/service (storage, alloc, strategy) and
pkg/apis/core/validation (validateService, ValidateServiceUpdate, ValidateLoadBalancerStatus), release 1.34.
"""

import ipaddress
from collections.abc import Container, Iterator, Mapping, Set
from itertools import chain
from typing import Any

from lbctl.sandbox.kube.kinds import SERVICE, Object
from lbctl.sandbox.kube.rules import Rules, check_labels, dns_label, dns_label_1035, dns_subdomain, qualified_name
from lbctl.sandbox.kube.status import (
    Cause,
    duplicate,
    internal,
    invalid,
    not_permitted,
    not_supported,
    required,
    wrong,
)

AFFINITY_SECONDS = 10800
SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"
NETWORKS = {"IPv4": "10.96.0.0/12", "IPv6": "fd00:10:96::/112"}
"""The cluster is dual-stack with IPv4 first; the networks are kubeadm's and kind's."""

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_SAY_IP = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_SAY_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_SAY_PORT = "must be between 1 and 65535, inclusive"
_LOCAL_MULTICAST = {4: ipaddress.ip_network("224.0.0.0/24"), 6: ipaddress.ip_network("ff02::/16")}
_ONLY_LB = "may only be used when `type` is 'LoadBalancer'"


class Taken(Exception):
    """A node port cannot be had; the message is the allocator's."""


class Numbers:
    """A range of numbers given out once each; the dynamic ones come from the upper part, as in kube-apiserver."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self._used: dict[int, int] = {}
        size = last - first + 1
        self._start = self._next = first + (min(max(16, size // 32), 128) if size > 16 else 0)

    def take(self, number: int) -> None:
        self._used[number] = self._used.get(number, 0) + 1

    def give_back(self, number: int) -> None:
        if self._used.get(number, 0) > 1:
            self._used[number] -= 1
        else:
            self._used.pop(number, None)

    def check(self, number: int, besides: Container[int] = ()) -> None:
        """Raises `Taken` if it cannot be had."""
        if not self.first <= number <= self.last:
            say = "provided port is not in the valid range. The range of valid ports is"
            raise Taken(f"{say} {self.first}-{self.last}")
        if number in self._used or number in besides:
            raise Taken("provided port is already allocated")

    def pick(self, besides: Set[int] = frozenset()) -> int:
        """One that nobody has. Raises `Taken` when there is none."""
        upper, lower = range(self._start, self._next), range(self.first, self._start)
        for number in chain(range(self._next, self.last + 1), upper, lower):
            if number not in self._used and number not in besides:
                self._next = number + 1 if number < self.last else self._start
                return number
        raise Taken("range is full")


class ServiceRules(Rules):
    """Every Service's. Keeps which node ports and cluster IPs are taken, from what is stored."""

    def __init__(self, node_ports: tuple[int, int]) -> None:
        super().__init__(SERVICE)
        self._ports = Numbers(*node_ports)
        self._networks = {family: ipaddress.ip_network(network) for family, network in NETWORKS.items()}
        self._addresses = {
            family: Numbers(int(network[1]), int(network[0]) + min(network.num_addresses, 1 << 20) - 2)
            for family, network in self._networks.items()
        }

    def name(self, name: str) -> list[str]:
        return dns_label_1035(name)

    # Defaults: SetDefaults_Service.

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        _drop_zeros(spec)
        spec.setdefault("sessionAffinity", "None")
        spec.setdefault("type", "ClusterIP")
        _default_affinity(spec)
        for port in spec.get("ports", ()):
            port.setdefault("protocol", "TCP")
            if port.get("targetPort") in (None, 0, ""):
                port["targetPort"] = port.get("port", 0)
        if _reachable(spec):
            spec.setdefault("externalTrafficPolicy", "Cluster")
        if spec["type"] in ("ClusterIP", "NodePort", "LoadBalancer"):
            spec.setdefault("internalTrafficPolicy", "Cluster")
        if spec["type"] == "LoadBalancer":
            spec.setdefault("allocateLoadBalancerNodePorts", True)
        for ingress in _ingress(obj):
            _drop(ingress, "ip", "hostname")
            if "ip" in ingress and spec["type"] == "LoadBalancer":
                ingress.setdefault("ipMode", "VIP")
        obj.setdefault("status", {}).setdefault("loadBalancer", {})

    # Create: begin, prepare, validate.

    def create(self, obj: Object) -> list[Cause]:
        spec = obj["spec"]
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
        self._families(obj, None)
        self._allocate_addresses(obj, spec)
        self._allocate_ports(obj, {})
        obj["status"] = {"loadBalancer": {}}
        _settle(spec)
        return [*_validate(obj, None)]

    # Update: begin (keep what was allocated), prepare (wipe what the type does not have), validate.

    def update(self, obj: Object, old: Object) -> list[Cause]:
        spec, was = obj["spec"], old["spec"]
        _keep_allocated(spec, was)
        _align_cluster_ips(spec, was)
        self._families(obj, old)
        if was.get("clusterIPs", [""])[0] != "None":
            self._allocate_addresses(obj, was)
        self._allocate_ports(obj, was)
        obj["status"] = {**old.get("status", {})}
        _wipe(obj, was)
        _settle(spec)
        return [*_validate_update(spec, was), *_validate(obj, was)]

    def update_status(self, obj: Object, old: Object) -> list[Cause]:
        super().update_status(obj, old)
        return [*_validate_status(obj)]

    def stored(self, before: Object | None, after: Object | None) -> None:
        for obj, count in ((before, Numbers.give_back), (after, Numbers.take)):
            spec = obj["spec"] if obj else {}
            for port in {*_node_ports(spec), spec.get("healthCheckNodePort", 0)} - {0}:
                count(self._ports, port)
            for address in spec.get("clusterIPs", ()):
                if address != "None":
                    count(self._addresses[_family(address)], int(ipaddress.ip_address(address)))

    # Families and addresses.

    def _families(self, obj: Object, old: Object | None) -> None:
        spec, was = obj["spec"], old["spec"] if old else {}
        if spec["type"] == "ExternalName":
            return
        headless = spec.get("clusterIP") == "None"
        if "ipFamilyPolicy" not in spec:
            fallback = "RequireDualStack" if headless and not spec.get("selector") else "SingleStack"
            spec["ipFamilyPolicy"] = was.get("ipFamilyPolicy", fallback)
        name = obj["metadata"].get("name", "")
        if causes := [*_validate_addresses(spec)]:
            raise invalid("", "Service", name, causes)
        single = spec["ipFamilyPolicy"] == "SingleStack"
        if single and old:
            for field in ("clusterIPs", "ipFamilies"):
                if spec.get(field) == was.get(field):
                    spec[field] = spec.get(field, [])[:1]
        if causes := [*_validate_policy(spec, was, single)]:
            raise invalid("", "Service", name, causes)
        families = list(spec.get("ipFamilies", ()))
        if not headless:
            families += [_family(address) for address in spec.get("clusterIPs", ())[len(families) :]]
        families = families or ["IPv4"]
        if not single and len(families) == 1:
            families.append("IPv6" if families[0] == "IPv4" else "IPv4")
        spec["ipFamilies"] = families

    def _allocate_addresses(self, obj: Object, was: Mapping[str, Any]) -> None:
        spec = obj["spec"]
        if spec["type"] == "ExternalName" or spec.get("clusterIP") == "None":
            return
        held = was.get("clusterIPs", ()) if was is not spec else ()
        addresses = list(spec.get("clusterIPs", ()))
        for index, family in enumerate(spec["ipFamilies"]):
            if index == len(addresses):
                addresses.append(str(self._pick_address(family)))
            elif addresses[index] not in held:
                self._check_address(obj, addresses[index], family)
        spec["clusterIPs"], spec["clusterIP"] = addresses, addresses[0]

    def _pick_address(self, family: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        try:
            number = self._addresses[family].pick()
        except Taken as full:
            raise internal(f"failed to allocate a serviceIP: {full}") from full
        return self._networks[family][0] + (number - int(self._networks[family][0]))

    def _check_address(self, obj: Object, address: str, family: str) -> None:
        parsed = ipaddress.ip_address(address)
        why = ""
        if parsed not in self._networks[family]:
            why = "the provided network does not match the current range"
        else:
            try:
                self._addresses[family].check(int(parsed))
            except Taken:
                why = "provided IP is already allocated"
        if why:
            cause = wrong("spec.clusterIPs", obj["spec"]["clusterIPs"], f"failed to allocate IP {address}: {why}")
            raise invalid("", "Service", obj["metadata"].get("name", ""), [cause])

    # Node ports.

    def _allocate_ports(self, obj: Object, was: Mapping[str, Any]) -> None:
        spec = obj["spec"]
        held = frozenset(_node_ports(was)) if was.get("type") in ("NodePort", "LoadBalancer") else frozenset()
        if spec["type"] in ("NodePort", "LoadBalancer"):
            self._allocate_node_ports(obj, held, new=not was)
        if _needs_check_port(spec) and not (_needs_check_port(was) and spec.get("healthCheckNodePort")):
            self._allocate_check_port(spec)

    def _allocate_node_ports(self, obj: Object, held: frozenset[int], *, new: bool) -> None:
        """On create, ports of the same number (TCP and UDP) share a node port, and no others may."""
        ports = obj["spec"].get("ports", [])
        shared = {port.get("port"): port["nodePort"] for port in reversed(ports) if port.get("nodePort")} if new else {}
        granted = dict.fromkeys(held, 0)
        for index, port in enumerate(ports):
            number = port.get("nodePort") or shared.get(port.get("port"), 0)
            if number:
                if number not in granted or (new and granted[number] != port.get("port")):
                    self._check_port(obj, index, number, granted)
            elif not _wants_node_ports(obj["spec"]):
                continue
            else:
                number = self._pick_port({*granted, *_node_ports(obj["spec"])}, "a nodePort")
            if new:
                shared.setdefault(port.get("port"), number)
            port["nodePort"] = number
            granted[number] = port.get("port", 0)

    def _check_port(self, obj: Object, index: int, number: int, granted: Mapping[int, int]) -> None:
        try:
            self._ports.check(number, granted)
        except Taken as taken:
            cause = wrong(f"spec.ports[{index}].nodePort", number, str(taken))
            raise invalid("", "Service", obj["metadata"].get("name", ""), [cause]) from taken

    def _pick_port(self, besides: Set[int], what: str) -> int:
        try:
            return self._ports.pick(besides)
        except Taken as full:
            raise internal(f"failed to allocate {what}: {full}") from full

    def _allocate_check_port(self, spec: Object) -> None:
        wanted = spec.get("healthCheckNodePort")
        if not wanted:
            spec["healthCheckNodePort"] = self._pick_port({*_node_ports(spec)}, "a HealthCheck NodePort 0")
            return
        try:
            self._ports.check(wanted)
        except Taken as taken:
            raise internal(f"failed to allocate requested HealthCheck NodePort {wanted}: {taken}") from taken


def _drop(fields: Object, *names: str) -> None:
    """Empty strings and zeros are absent (omitempty)."""
    for name in names:
        if not fields.get(name, True):
            del fields[name]


def _drop_zeros(spec: Object) -> None:
    _drop(spec, "clusterIP", "externalName", "externalTrafficPolicy", "loadBalancerIP", "sessionAffinity", "type")
    _drop(spec, "healthCheckNodePort", "publishNotReadyAddresses")
    for port in spec.get("ports", ()):
        _drop(port, "nodePort", "name", "protocol")


def _default_affinity(spec: Object) -> None:
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        held = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        if held.get("timeoutSeconds") is None:
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}


def _reachable(spec: Mapping[str, Any]) -> bool:
    """ExternallyAccessible: from outside, by whatever way."""
    kind = spec.get("type")
    return kind in ("LoadBalancer", "NodePort") or (kind == "ClusterIP" and bool(spec.get("externalIPs")))


def _needs_check_port(spec: Mapping[str, Any]) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _wants_node_ports(spec: Mapping[str, Any]) -> bool:
    kind = spec.get("type")
    return kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False)


def _node_ports(spec: Mapping[str, Any]) -> list[int]:
    return [port["nodePort"] for port in spec.get("ports", ()) if port.get("nodePort")]


def _ingress(obj: Object) -> list[Object]:
    found: list[Object] = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return found


def _family(address: str) -> str:
    return f"IPv{ipaddress.ip_address(address).version}"


def _keep_allocated(spec: Object, was: Mapping[str, Any]) -> None:
    """Who sends a manifest again, without what was allocated for it, keeps that."""
    if "ExternalName" not in (spec["type"], was["type"]):
        for name in ("clusterIP", "clusterIPs"):
            if not spec.get(name) and was.get(name):
                spec[name] = was[name]
    if _wants_node_ports(spec) and _wants_node_ports(was):
        used = {*_node_ports(was)} & {*_node_ports(spec)}
        named = {port.get("name", ""): port.get("nodePort") for port in was.get("ports", ())}
        for port in spec.get("ports", ()):
            number = named.get(port.get("name", ""))
            if not port.get("nodePort") and number and number not in used:
                port["nodePort"] = number
    if _needs_check_port(spec) and _needs_check_port(was) and was.get("healthCheckNodePort"):
        spec.setdefault("healthCheckNodePort", was["healthCheckNodePort"])


def _align_cluster_ips(spec: Object, was: Mapping[str, Any]) -> None:
    """A client that knows only `clusterIP` changes `clusterIPs` with it."""
    old, new = was.get("clusterIP"), spec.get("clusterIP")
    if old != new and spec.get("clusterIPs") == was.get("clusterIPs"):
        if new:
            spec["clusterIPs"] = [new]
        else:
            spec.pop("clusterIPs", None)


def _wipe(obj: Object, was: Mapping[str, Any]) -> None:
    """What the new type does not have goes, unless the user changed it too (then validation says so)."""
    spec = obj["spec"]

    def drop(*names: str) -> None:
        for name in names:
            if spec.get(name) == was.get(name):
                spec.pop(name, None)

    if was["type"] != "ExternalName" and spec["type"] == "ExternalName":
        if spec.get("clusterIPs") == was.get("clusterIPs"):
            drop("clusterIP", "clusterIPs")
        drop("ipFamilies", "ipFamilyPolicy")
    with_ports = ("NodePort", "LoadBalancer")
    if was["type"] in with_ports and spec["type"] not in with_ports and {*_node_ports(spec)} <= {*_node_ports(was)}:
        for port in spec.get("ports", ()):
            port.pop("nodePort", None)
    if _needs_check_port(was) and not _needs_check_port(spec):
        drop("healthCheckNodePort")
    if was["type"] == "LoadBalancer" and spec["type"] != "LoadBalancer":
        drop("allocateLoadBalancerNodePorts", "loadBalancerClass")
    if _reachable(was) and not _reachable(spec):
        drop("externalTrafficPolicy")
    if spec["type"] != "LoadBalancer":
        obj["status"] = {**obj.get("status", {}), "loadBalancer": {}}


def _settle(spec: Object) -> None:
    """An external name has no inside."""
    if spec["type"] == "ExternalName":
        spec.pop("internalTrafficPolicy", None)


def _validate(obj: Object, was: Mapping[str, Any] | None) -> Iterator[Cause]:
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
        yield from _validate_addresses(spec)
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


def _validate_addresses(spec: Object) -> Iterator[Cause]:
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
    actual = [_family(text) for text in addresses]
    if len(actual) > 1 and len({*actual}) == 1:
        yield wrong("spec.clusterIPs", addresses, "may specify no more than one IP for each IP family")
    for index, (wanted, family) in enumerate(zip(families, actual, strict=False)):
        if wanted != family:
            say = f"expected an {wanted} value as indicated by `ipFamilies[{index}]`"
            yield wrong(f"spec.clusterIPs[{index}]", addresses[index], say)


def _validate_policy(spec: Object, was: Mapping[str, Any], single: bool) -> Iterator[Cause]:
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
    if policy and not _reachable(spec):
        yield wrong("spec.externalTrafficPolicy", policy, "may only be set for externally-accessible services")
    elif policy and policy not in ("Cluster", "Local"):
        yield not_supported("spec.externalTrafficPolicy", policy, ("Cluster", "Local"))
    if port and not _needs_check_port(spec):
        say = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield wrong("spec.healthCheckNodePort", port, say)
    inside = spec.get("internalTrafficPolicy")
    if inside is not None and inside not in ("Cluster", "Local"):
        yield not_supported("spec.internalTrafficPolicy", inside, ("Cluster", "Local"))
    spread, allowed = spec.get("trafficDistribution"), ("PreferClose", "PreferSameZone", "PreferSameNode")
    if spread is not None and spread not in allowed:
        yield not_supported("spec.trafficDistribution", spread, allowed)


def _validate_update(spec: Object, was: Mapping[str, Any]) -> Iterator[Cause]:
    if "ExternalName" not in (spec["type"], was["type"]):
        yield from _validate_kept(spec, was)
    if spec["type"] == was["type"] == "LoadBalancer" and spec.get("loadBalancerClass") != was.get("loadBalancerClass"):
        yield wrong("spec.loadBalancerClass", spec.get("loadBalancerClass"), "may not change once set")
    port = was.get("healthCheckNodePort")
    if _needs_check_port(spec) and _needs_check_port(was) and spec.get("healthCheckNodePort") != port:
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


def _validate_status(obj: Object) -> Iterator[Cause]:
    """ValidateLoadBalancerStatus."""
    path, entries = "status.loadBalancer.ingress", _ingress(obj)
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
