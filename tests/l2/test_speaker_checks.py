"""What is never announced, whoever wrote it into a status."""

import sys
from ipaddress import ip_address, ip_network

import pytest

from lbctl_l2.checks import Surroundings, fault, gateways

POOLS = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"), ip_network("224.0.0.0/4"), ip_network("127.0.0.0/8"))
AROUND = Surroundings(
    nodes=frozenset({ip_address("192.0.2.11"), ip_address("2001:db8::11")}),
    own=frozenset({ip_address("192.0.2.12")}),
    gateways=frozenset({ip_address("192.0.2.1"), ip_address("2001:db8::1")}),
    networks=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"), ip_network("192.0.2.64/31")),
    pool_of=lambda address: "main" if any(address in network for network in POOLS) else "",
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("198.51.100.1", "not-in-a-pool"),
        ("192.0.2.11", "node-address"),
        ("2001:db8::11", "node-address"),
        ("192.0.2.12", "own-address"),
        ("192.0.2.1", "gateway-address"),
        ("2001:db8::1", "gateway-address"),
        ("192.0.2.0", "network-address"),
        ("192.0.2.255", "network-address"),
        ("2001:db8::", "network-address"),
        ("224.0.0.18", "not-announceable"),
        ("127.0.0.1", "not-announceable"),
        ("fe80::1", "not-announceable"),
        ("0.0.0.0", "not-announceable"),
    ],
)
def test_a_refused_address_has_its_token(text, reason):
    assert fault(ip_address(text), AROUND).reason == reason


@pytest.mark.parametrize("text", ["192.0.2.100", "192.0.2.64", "192.0.2.65", "2001:db8::ffff:ffff:ffff:ffff"])
def test_an_ordinary_address_of_a_pool_passes(text):
    assert fault(ip_address(text), AROUND) is None


@pytest.mark.skipif(sys.byteorder != "little", reason="the kernel writes these tables in the machine's byte order")
def test_the_gateways_are_the_next_hops_of_all_routes():
    routes = (
        "Iface\tDestination\tGateway \tFlags\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n"
    )
    routes6 = (
        "00000000000000000000000000000000 00 00000000000000000000000000000000 00 20010db8000000000000000000000001 "
        "00000400 00000001 00000000 00000003 eth0\n"
        "20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 "
        "00000100 00000001 00000000 00000001 eth0\n"
    )
    assert gateways(routes, routes6) == {ip_address("192.0.2.1"), ip_address("2001:db8::1")}


def test_a_kernel_without_a_family_has_no_gateways_of_it():
    assert gateways("", "") == frozenset()
