"""What a Service's annotations say, in whoever's words: scheme, sources, addresses, and what is not for us.  PURE.

`kube/read.py` asks once per Service; providers may ask again for their own keys. One law stands above all: what says
"internal" in any known vocabulary never becomes public. So a value that cannot be read is refused, never ignored, and
"public" counts only where every controller that knows the annotation would read it so.

Most Services say none of this, and thousands are read at a time: each question first asks whether anything is said.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, ip_address, ip_network
from typing import NamedTuple

from lbctl.errors import Refused
from lbctl.model import Family, IPAddress, IPNetwork, LoadBalancer, Refusal, Scheme

SCHEME = "lbctl.io/scheme"
SOURCE_RANGES = "lbctl.io/source-ranges"
ADDRESSES = "lbctl.io/load-balancer-ips"

OURS = "lbctl.io/"
OWN = frozenset({
    SCHEME, SOURCE_RANGES, ADDRESSES,
    "lbctl.io/address-pool", "lbctl.io/allow-shared-ip", "lbctl.io/load-balancer-name", "lbctl.io/tags",
})  # fmt: skip
"""Every annotation in lbctl's own name, whichever provider reads it. Another one is a slip of the pen: ignored, a
misspelt scheme would make public what was to be internal. Others' providers use names of their own."""

_BETA = "service.beta.kubernetes.io/"


class Words(NamedTuple):
    """What the values of a scheme annotation mean, in lower case. `internal=None`: any value means internal."""

    internal: frozenset[str] | None
    public: frozenset[str]


def _words(internal: str, public: str = "") -> Words:
    return Words(frozenset(internal.split()), frozenset(public.split()))


_BOOLEAN = _words("true", "false")
_GO_BOOLEAN = _words("true t 1", "false f 0")

SCHEME_WORDS: Mapping[str, Words] = {
    SCHEME: _words("internal", "internet-facing"),
    _BETA + "aws-load-balancer-scheme": _words("internal", "internet-facing"),
    # cloud-provider-aws reads every value but "false" as internal; 0.0.0.0/0 is how its first users wrote it.
    _BETA + "aws-load-balancer-internal": _words("true t 1 yes on 0.0.0.0/0", "false"),
    "networking.gke.io/load-balancer-type": _words("internal", "external"),
    "cloud.google.com/load-balancer-type": _words("internal", "external"),
    _BETA + "azure-load-balancer-internal": _BOOLEAN,
    _BETA + "openstack-internal-load-balancer": _GO_BOOLEAN,
    _BETA + "oci-load-balancer-internal": _GO_BOOLEAN,
    "oci-network-load-balancer.oraclecloud.com/internal": _GO_BOOLEAN,
    _BETA + "alibaba-cloud-loadbalancer-address-type": _words("intranet", "internet"),
    _BETA + "alicloud-loadbalancer-address-type": _words("intranet", "internet"),
    _BETA + "cce-load-balancer-internal-vpc": _BOOLEAN,
    _BETA + "do-loadbalancer-network": _words("internal", "external"),
    _BETA + "scw-loadbalancer-private": _GO_BOOLEAN,
    "load-balancer.hetzner.cloud/disable-public-network": _GO_BOOLEAN,
    "service.kubernetes.io/ibm-load-balancer-cloud-provider-ip-type": _words("private", "public"),
    "service.kubernetes.io/qcloud-loadbalancer-internal-subnetid": Words(None, frozenset()),
    "yandex.cloud/load-balancer-type": _words("internal", "external"),
}
"""Every annotation that is known to say who may reach a load balancer, by its vendor's documentation."""


def scheme(annotations: Mapping[str, str]) -> Scheme | None:
    """Internal, internet-facing, or None where nobody said.

    Raises `Refused`: `bad-scheme` for a value that cannot be read, `scheme-conflict` where two annotations disagree.
    """
    if SCHEME_WORDS.keys().isdisjoint(annotations):
        return None
    votes = {name: _vote(name, annotations[name]) for name in SCHEME_WORDS if name in annotations}
    if len(set(votes.values())) > 1:
        said = ", ".join(f"{name}={annotations[name]!r}" for name in sorted(votes))
        raise Refused(
            f"annotations disagree on who may reach it: {said}; keep those that are meant, remove the others",
            reason="scheme-conflict",
        )
    return next(iter(votes.values()), None)


def _vote(name: str, value: str) -> Scheme:
    words = SCHEME_WORDS[name]
    said = value.strip().lower()
    if words.internal is None or said in words.internal:
        return "internal"
    # Not stripped: a peer that compares exactly would read " false" as internal.
    if value.lower() in words.public and not (name.endswith("aws-load-balancer-internal") and value != "false"):
        return "internet-facing"
    choices = " or ".join(repr(word) for word in (*sorted(words.internal), *sorted(words.public)))
    raise Refused(f"annotation {name}={value[:80]!r} is not readable: say {choices}", reason="bad-scheme")


def source_ranges(
    spec: Iterable[str], annotations: Mapping[str, str], families: Iterable[Family] = ("IPv4",)
) -> tuple[IPNetwork, ...]:
    """Who may connect, sorted and without doubles; empty where everybody may.

    The spec wins over `lbctl.io/source-ranges`, that over Kubernetes' own annotation. Raises `Refused`:
    `bad-source-range` for what is not a network, `source-range-family` for a network of a family it does not serve.
    """
    where, texts = _ranges_said(tuple(spec), annotations)
    if not texts:
        return ()
    served = tuple(families)
    networks = {_network(where, text) for text in texts}
    for network in networks:
        if f"IPv{network.version}" not in served:
            raise Refused(
                f"{where} has {network}, but the Service has only {' and '.join(served)} addresses: "
                f"remove it, or add IPv{network.version} to spec.ipFamilies",
                reason="source-range-family",
            )
    open_to_all = {f"IPv{network.version}" for network in networks if network.prefixlen == 0}
    if open_to_all.issuperset(served):
        return ()
    return tuple(sorted(networks, key=lambda n: (n.version, int(n.network_address), n.prefixlen)))


def _ranges_said(spec: tuple[str, ...], annotations: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    if spec:
        return "spec.loadBalancerSourceRanges", spec
    for name in (SOURCE_RANGES, _BETA + "load-balancer-source-ranges"):
        said = annotations.get(name)
        if said and (texts := tuple(part for part in said.split(",") if part.strip())):
            return f"annotation {name}", texts
    return "", ()


def _network(where: str, text: str) -> IPNetwork:
    try:
        if "/" not in text:
            raise ValueError(text)
        return ip_network(text.strip(), strict=False)
    except ValueError:
        raise Refused(
            f"{where} has {text.strip()[:80]!r}, which is not a network: write it like 192.0.2.0/24 or 2001:db8::/32",
            reason="bad-source-range",
        ) from None


ADDRESS_ANNOTATIONS = (
    ADDRESSES,
    "metallb.io/loadBalancerIPs",
    "metallb.universe.tf/loadBalancerIPs",
    "kube-vip.io/loadbalancerIPs",
    "purelb.io/addresses",
    "lbipam.cilium.io/ips",
    "io.cilium/lb-ipam-ips",
)
"""Where peers let a Service ask for addresses, as a comma list."""

_ASKING = frozenset(ADDRESS_ANNOTATIONS)


def requested_addresses(load_balancer_ip: str, annotations: Mapping[str, str]) -> tuple[IPAddress, ...]:
    """The addresses it asks for, in its own order.

    Raises `Refused`: `bad-address` for what is not one, `address-conflict` where two places ask for different ones.
    """
    if not load_balancer_ip and _ASKING.isdisjoint(annotations):
        return ()
    said = {name: annotations.get(name, "") for name in ADDRESS_ANNOTATIONS}
    said["spec.loadBalancerIP"] = load_balancer_ip
    asked = {where: _addresses(where, text) for where, text in said.items() if text.strip()}
    if len({frozenset(addresses) for addresses in asked.values()}) > 1:
        places = ", ".join(f"{where}={said[where]!r}" for where in asked)
        raise Refused(f"different addresses are asked for: {places}; keep one of them", reason="address-conflict")
    return next(iter(asked.values()), ())


def _addresses(where: str, text: str) -> tuple[IPAddress, ...]:
    return tuple(dict.fromkeys(_address(where, part) for part in text.split(",") if part.strip()))


def _address(where: str, text: str) -> IPAddress:
    try:
        address = ip_address(text.strip())
    except ValueError:
        address = None
    if address is None or address.is_unspecified:
        raise Refused(
            f"{where} has {text.strip()[:80]!r}, which is not an address: write it like 192.0.2.10 or 2001:db8::10",
            reason="bad-address",
        )
    return address


FOREIGN: Mapping[str, tuple[str, str]] = {
    _BETA + "aws-load-balancer-ssl-cert": ("aws", "TLS"),
    _BETA + "aws-load-balancer-security-groups": ("aws", "restricts who may connect"),
    _BETA + "aws-load-balancer-security-group-prefix-lists": ("aws", "restricts who may connect"),
    _BETA + "azure-allowed-ip-ranges": ("azure", "restricts who may connect"),
    _BETA + "azure-allowed-service-tags": ("azure", "restricts who may connect"),
    _BETA + "azure-deny-all-except-load-balancer-source-ranges": ("azure", "restricts who may connect"),
    _BETA + "do-loadbalancer-certificate-id": ("digitalocean", "TLS"),
    _BETA + "do-loadbalancer-certificate-name": ("digitalocean", "TLS"),
    _BETA + "do-loadbalancer-allow-rules": ("digitalocean", "restricts who may connect"),
    _BETA + "do-loadbalancer-deny-rules": ("digitalocean", "restricts who may connect"),
    _BETA + "oci-load-balancer-ssl-ports": ("oci", "TLS"),
    _BETA + "oci-load-balancer-tls-secret": ("oci", "TLS"),
    _BETA + "alibaba-cloud-loadbalancer-cert-id": ("alibaba", "TLS"),
    _BETA + "scw-loadbalancer-certificate-ids": ("scaleway", "TLS"),
    "load-balancer.hetzner.cloud/http-certificates": ("hetzner", "TLS"),
    "service.kubernetes.io/qcloud-loadbalancer-source-endpoints": ("tencent", "restricts who may connect"),
}
"""Annotations of one provider that protect a Service. Another cannot keep that promise, and must not be silent."""


def foreign(load_balancer: LoadBalancer, provider: str) -> Refusal | None:
    """Why this provider cannot serve it: somebody else's annotation asks for TLS or restricts who may connect."""
    if FOREIGN.keys().isdisjoint(load_balancer.annotations):
        return None
    for name, (whose, what) in FOREIGN.items():
        if whose != provider and load_balancer.annotations.get(name, "").strip():
            way = f"use {SOURCE_RANGES} or spec.loadBalancerSourceRanges" if what != "TLS" else "end TLS in the pods"
            return Refusal(
                load_balancer.owner,
                "foreign-annotation",
                f"annotation {name} ({what}) is for {whose}, and {provider} does not honour it: {way}, then remove it",
            )
    return None


def everybody(family: Family) -> IPNetwork:
    """The network of all addresses of a family."""
    return IPv4Network("0.0.0.0/0") if family == "IPv4" else ip_network("::/0")
