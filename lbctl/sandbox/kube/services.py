"""The rules of Services: defaults, cluster IPs and node ports, and what a change of type wipes.

In the order of kube-apiserver, pkg/registry/core/service (storage, alloc, strategy), release 1.34; what is refused is
in `service_checks`.
"""

import ipaddress
from collections.abc import Container, Mapping, Set
from itertools import chain
from typing import Any

from lbctl.sandbox.kube.kinds import SERVICE, Object
from lbctl.sandbox.kube.rules import Rules, dns_label_1035
from lbctl.sandbox.kube.service_checks import (
    family_of,
    ingress_of,
    needs_check_port,
    reachable,
    validate,
    validate_addresses,
    validate_policy,
    validate_status,
    validate_update,
)
from lbctl.sandbox.kube.status import Cause, internal, invalid, wrong

AFFINITY_SECONDS = 10800
NETWORKS = {"IPv4": "10.96.0.0/12", "IPv6": "fd00:10:96::/112"}
"""The cluster is dual-stack with IPv4 first; the networks are kubeadm's and kind's."""


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
        if reachable(spec):
            spec.setdefault("externalTrafficPolicy", "Cluster")
        if spec["type"] in ("ClusterIP", "NodePort", "LoadBalancer"):
            spec.setdefault("internalTrafficPolicy", "Cluster")
        if spec["type"] == "LoadBalancer":
            spec.setdefault("allocateLoadBalancerNodePorts", True)
        for ingress in ingress_of(obj):
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
        return [*validate(obj, None)]

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
        return [*validate_update(spec, was), *validate(obj, was)]

    def update_status(self, obj: Object, old: Object) -> list[Cause]:
        super().update_status(obj, old)
        return [*validate_status(obj)]

    def stored(self, before: Object | None, after: Object | None) -> None:
        for obj, count in ((before, Numbers.give_back), (after, Numbers.take)):
            spec = obj["spec"] if obj else {}
            for port in {*_node_ports(spec), spec.get("healthCheckNodePort", 0)} - {0}:
                count(self._ports, port)
            for address in spec.get("clusterIPs", ()):
                if address != "None":
                    count(self._addresses[family_of(address)], int(ipaddress.ip_address(address)))

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
        if causes := [*validate_addresses(spec)]:
            raise invalid("", "Service", name, causes)
        single = spec["ipFamilyPolicy"] == "SingleStack"
        if single and old:
            for field in ("clusterIPs", "ipFamilies"):
                if spec.get(field) == was.get(field):
                    spec[field] = spec.get(field, [])[:1]
        if causes := [*validate_policy(spec, was, single)]:
            raise invalid("", "Service", name, causes)
        families = list(spec.get("ipFamilies", ()))
        if not headless:
            families += [family_of(address) for address in spec.get("clusterIPs", ())[len(families) :]]
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
        if needs_check_port(spec) and not (needs_check_port(was) and spec.get("healthCheckNodePort")):
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


def _wants_node_ports(spec: Mapping[str, Any]) -> bool:
    kind = spec.get("type")
    return kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False)


def _node_ports(spec: Mapping[str, Any]) -> list[int]:
    return [port["nodePort"] for port in spec.get("ports", ()) if port.get("nodePort")]


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
    if needs_check_port(spec) and needs_check_port(was) and was.get("healthCheckNodePort"):
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
    if needs_check_port(was) and not needs_check_port(spec):
        drop("healthCheckNodePort")
    if was["type"] == "LoadBalancer" and spec["type"] != "LoadBalancer":
        drop("allocateLoadBalancerNodePorts", "loadBalancerClass")
    if reachable(was) and not reachable(spec):
        drop("externalTrafficPolicy")
    if spec["type"] != "LoadBalancer":
        obj["status"] = {**obj.get("status", {}), "loadBalancer": {}}


def _settle(spec: Object) -> None:
    """An external name has no inside."""
    if spec["type"] == "ExternalName":
        spec.pop("internalTrafficPolicy", None)
