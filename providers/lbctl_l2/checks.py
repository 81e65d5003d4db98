"""What keeps an address from being announced, whatever anybody wrote into a Service's status.  PURE.

`announcer.py` asks before it gives any order, `speaker.py` before it takes up one of its last state. Nobody's address
but a pool's goes out: a status is a field that many may write, and one gratuitous ARP for the gateway's address is an
outage of the segment.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

import msgspec

from lbctl.model import IPAddress, IPNetwork

_EVERYBODY = IPv4Address("255.255.255.255")


class Surroundings(msgspec.Struct, frozen=True):
    """What is where this node is.

    nodes     the addresses of all nodes
    own       those on the interfaces that can announce
    gateways  the next hops of all routes
    networks  the subnets of the interfaces that can announce
    pool_of   which pool an address lies in, "" for none
    """

    nodes: frozenset[IPAddress]
    own: frozenset[IPAddress]
    gateways: frozenset[IPAddress]
    networks: tuple[IPNetwork, ...]
    pool_of: Callable[[IPAddress], str]


class Fault(msgspec.Struct, frozen=True):
    """Why an address is not announced: a token, and a sentence with the way out."""

    reason: str
    message: str


def fault(address: IPAddress, around: Surroundings) -> Fault | None:
    """The first thing that speaks against it, or None."""
    if not _is_of_a_host(address):
        return Fault("not-announceable", f"{address} is no address of a host: a status must hold an address of a pool")
    if not around.pool_of(address):
        return Fault("not-in-a-pool", f"{address} lies in no pool that is served here: see lbctl pools")
    if address in around.own:
        return Fault("own-address", f"{address} is on an interface of this node: take it out of the pool")
    if address in around.nodes:
        return Fault("node-address", f"{address} is the address of a node: take it out of the pool")
    if address in around.gateways:
        return Fault("gateway-address", f"{address} is a gateway of this node: take it out of the pool")
    if any(_is_edge(address, network) for network in around.networks):
        return Fault(
            "network-address",
            f"{address} is the first or last address of a subnet of this node, which no host may have: take it out "
            "of the pool",
        )
    return None


def _is_of_a_host(address: IPAddress) -> bool:
    """One that all of a segment may ask for: with a zone (RFC 4007) it would be another and yet the same."""
    if address.version == 6:
        special = address.is_link_local or address.scope_id is not None
    else:
        special = address.is_link_local or address == _EVERYBODY
    return not (special or address.is_multicast or address.is_loopback or address.is_unspecified)


def _is_edge(address: IPAddress, network: IPNetwork) -> bool:
    """The network's or its broadcast address; in IPv6 the first is the routers' (RFC 4291, 2.6.1), the last is a host.

    Networks of two addresses or one have neither (RFC 3021, RFC 6164).
    """
    if address.version != network.version or network.prefixlen >= network.max_prefixlen - 1:
        return False
    last = network.version == 4 and address == network.broadcast_address
    return last or address == network.network_address


def gateways(routes: str, routes6: str) -> frozenset[IPAddress]:
    """The next hops in /proc/net/route and /proc/net/ipv6_route (proc_net(5); the kernel's fib_trie.c, ip6_fib.c)."""
    return frozenset((*_hops(routes.splitlines()[1:]), *_hops6(routes6.splitlines())))


def _hops(lines: Iterable[str]) -> Iterator[IPv4Address]:
    for fields in map(str.split, lines):
        # The third field is the gateway as the machine holds it, in its own byte order.
        if len(fields) > 2 and (number := int(fields[2], 16)):
            yield IPv4Address(struct.pack("=I", number))


def _hops6(lines: Iterable[str]) -> Iterator[IPv6Address]:
    for fields in map(str.split, lines):
        if len(fields) > 4 and (number := int(fields[4], 16)):
            yield IPv6Address(number)
