"""The interfaces by the kernel's word: the rules that choose them, and messages as bytes, well-formed and not."""

import socket
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl_l2 import netlink
from lbctl_l2.netlink import Address, Exclusion, Interface, Table, unusable

NEWLINK, DELLINK, NEWADDR, DELADDR = 16, 17, 20, 21
UP = netlink.IFF_UP | netlink.IFF_BROADCAST | netlink.IFF_RUNNING | netlink.IFF_MULTICAST | netlink.IFF_LOWER_UP
MAC = bytes.fromhex("020000000001")
ETH0 = Interface(2, "eth0", netlink.ARPHRD_ETHER, UP, MAC)


def interface(**changed: object) -> Interface:
    import msgspec

    return msgspec.structs.replace(ETH0, **changed)


def attribute(kind: int, value: bytes) -> bytes:
    packed = struct.pack("=HH", 4 + len(value), kind) + value
    return packed + bytes(-len(packed) % 4)


def link_message(index: int = 2, name: str = "eth0", flags: int = UP, master: int = 0, family: int = 0) -> bytes:
    body = struct.pack("=BxHiII", family, netlink.ARPHRD_ETHER, index, flags, 0)
    body += attribute(1, MAC) + attribute(3, name.encode() + b"\0")
    return body + (attribute(10, struct.pack("=I", master)) if master else b"")


def address_message(address: str, index: int = 2, flags: int = 0) -> bytes:
    ip = (IPv6Interface if ":" in address else IPv4Interface)(address)
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    head = struct.pack("=BBBBI", family, ip.network.prefixlen, flags & 0xFF, 0, index)
    return head + attribute(1, ip.ip.packed) + attribute(8, struct.pack("=I", flags))


def filled(*messages: tuple[int, bytes]) -> Table:
    table = Table()
    for kind, body in messages:
        table.take(kind, body)
    return table


@pytest.mark.parametrize(("found", "token"), [
    (interface(), None),
    (interface(flags=UP & ~netlink.IFF_UP), "down"),
    (interface(master=7), "enslaved"),
    (interface(flags=UP | netlink.IFF_NOARP), "noarp"),
    (interface(name="veth12"), "excluded"),
    (interface(type=32), "not-ethernet"),
    (interface(mac=bytes(6)), "not-ethernet"),
    (interface(mac=bytes(20)), "not-ethernet"),
])
def test_an_interface_is_used_or_says_why_not(found, token):
    assert (unusable(found, Exclusion()) or "").partition(":")[0] == (token or "")


@pytest.mark.parametrize("name", [
    "docker0", "cbr0", "dummy0", "virbr0", "lxcbr0", "veth1a2b", "lo", "cali123", "tunl0", "flannel.1", "kube-ipvs0",
    "cni0", "nodelocaldns", "lxc3",
])
def test_software_interfaces_are_excluded_by_default(name):
    assert name in Exclusion()


@pytest.mark.parametrize("name", ["eth0", "bond0", "br0", "eth0.100", "enp3s0", "wlan0", "loop", "xdocker"])
def test_real_interfaces_are_not(name):
    assert name not in Exclusion()


def test_an_exclude_list_can_be_empty_and_each_expression_stands_alone():
    assert "lo" not in Exclusion(())
    assert "eth1" in Exclusion(("^a|b$", "eth1"))


def test_a_pattern_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"'\('"):
        Exclusion(("^eth", "("))


def test_arp_needs_broadcast():
    found = netlink.link(interface(flags=UP & ~netlink.IFF_BROADCAST))
    assert (found.arp, found.up) == (False, True)


def test_an_interface_without_any_address_does_arp_but_not_ndp():
    found = netlink.link(interface())
    assert (found.arp, found.ndp, found.addresses) == (True, False, ())


@pytest.mark.parametrize(("flags", "usable"), [
    (0, True), (netlink.IFA_F_TENTATIVE, False), (netlink.IFA_F_DADFAILED, False), (0x80, True),
])
def test_ndp_waits_for_a_link_local_that_is_sure(flags, usable):
    found = netlink.link(interface(addresses=(Address(IPv6Interface("fe80::1/64"), flags),)))
    assert found.ndp is usable
    assert found.link_local == (IPv6Address("fe80::1") if usable else None)


def test_a_global_address_alone_is_not_enough_for_ndp():
    assert not netlink.link(interface(addresses=(Address(IPv6Interface("2001:db8::1/64")),))).ndp


def test_an_interface_without_carrier_is_a_link_that_is_not_up():
    without = interface(flags=UP & ~netlink.IFF_LOWER_UP & ~netlink.IFF_RUNNING)
    assert [link.up for link in netlink.links([without], Exclusion())] == [False]


def test_messages_become_an_interface_with_its_addresses():
    table = filled(
        (NEWLINK, link_message()), (NEWADDR, address_message("192.0.2.9/24")), (NEWADDR, address_message("fe80::9/64")),
    )
    assert list(table) == [interface(addresses=(
        Address(IPv4Interface("192.0.2.9/24")), Address(IPv6Interface("fe80::9/64")),
    ))]


def test_only_a_difference_counts_as_a_change():
    table = filled((NEWLINK, link_message()))
    assert not table.take(NEWLINK, link_message())
    assert table.take(NEWLINK, link_message(flags=0))
    assert table.take(DELLINK, link_message())
    assert not table.take(DELLINK, link_message())


def test_an_address_that_finished_detection_is_a_change():
    table = filled((NEWLINK, link_message()), (NEWADDR, address_message("fe80::9/64", flags=netlink.IFA_F_TENTATIVE)))
    assert not netlink.link(next(iter(table))).ndp
    assert table.take(NEWADDR, address_message("fe80::9/64"))
    assert netlink.link(next(iter(table))).ndp


def test_a_deleted_address_is_gone():
    table = filled((NEWLINK, link_message()), (NEWADDR, address_message("192.0.2.9/24")))
    assert table.take(DELADDR, address_message("192.0.2.9/24"))
    assert next(iter(table)).addresses == ()


def test_a_port_that_leaves_its_bridge_is_no_interface_that_vanished():
    of_a_bridge = link_message(family=7)  # AF_BRIDGE, linux/socket.h
    table = filled((NEWLINK, link_message()))
    assert not table.take(DELLINK, of_a_bridge)
    assert len(list(table)) == 1


def test_news_of_a_wireless_driver_leave_the_interface_as_it_is():
    table = filled((NEWLINK, link_message()))
    assert not table.take(NEWLINK, struct.pack("=BxHiII", 0, 1, 2, UP, 0) + attribute(11, b"scan"))
    assert next(iter(table)).name == "eth0"


def test_a_message_that_cannot_be_read_hides_no_other_interface():
    table = filled(
        (NEWLINK, link_message(3, "eth1")), (NEWLINK, link_message(2)[:-5]), (NEWLINK, b"\x00"),
        (NEWADDR, struct.pack("=BBBBI", 2, 24, 0, 0, 3) + attribute(1, b"12345")), (NEWLINK, link_message(4, "eth2")),
    )
    assert [found.name for found in table] == ["eth1", "eth2"]
    assert table.unreadable == 3


@given(st.sampled_from([NEWLINK, DELLINK, NEWADDR, DELADDR, 0, 3]), st.binary(max_size=80))
def test_no_message_stops_it(kind, body):
    list(filled((NEWLINK, link_message()), (kind, body)))


@given(st.binary(max_size=200))
def test_no_datagram_stops_it(data):
    assert all(len(message.body) <= len(data) for message in netlink.messages(data))


def test_several_messages_in_one_datagram_are_read_apart():
    data = b"".join(struct.pack("=IHHII", 16 + len(body), 16, 0, 1, 2) + body for body in (b"abcd", b"efghijkl"))
    assert [message.body for message in netlink.messages(data)] == [b"abcd", b"efghijkl"]


def test_what_kube_proxy_holds_is_found():
    ipvs = interface(name=netlink.IPVS, addresses=(Address(IPv4Interface("198.51.100.7/32")),))
    assert netlink.ipvs_addresses([ETH0, ipvs]) == {IPv4Address("198.51.100.7")}


@pytest.mark.parametrize(("everywhere", "here", "strict"), [("0", "0", False), ("1", "0", True), ("0", "2", True)])
def test_strict_arp_is_the_larger_of_both_settings(tmp_path, everywhere, here, strict):
    for name, value in (("all", everywhere), ("eth0", here)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "arp_ignore").write_text(f"{value}\n")
    assert netlink.strict_arp("eth0", tmp_path) is strict


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="rtnetlink is Linux's")
def test_the_loopback_of_this_machine_is_seen():
    assert any(str(address.interface.ip) == "127.0.0.1" for found in netlink.snapshot() for address in found.addresses)


def test_each_excluded_expression_stands_alone():
    excluded = netlink.Exclusion(("^eth9$", "(?i)^VETH", "(?P<a>x)1", "(?P<a>y)1"))
    assert [name in excluded for name in ("veth0", "y1", "ETH9", "eth0")] == [True, True, False, False]
