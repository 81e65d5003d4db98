"""Frames of ARP, neighbour discovery and heartbeats: field by field, and none that does harm."""

import struct
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl_l2 import packets
from lbctl_l2.packets import Advertisement, Arp, Beat, Drop, Flag, Kind, Solicitation, parse

MAC, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
VIP, HOST = ip_address("10.0.0.100").packed, ip_address("10.0.0.7").packed
VIP6, HOST6 = ip_address("fd00::1:2345").packed, ip_address("fe80::7").packed
LOCAL6 = ip_address("fe80::1").packed

macs = st.binary(min_size=5, max_size=5).map(lambda rest: b"\x02" + rest)
v4 = st.ip_addresses(v=4).map(lambda a: a.packed)
v6 = st.integers(1, 2**96).map(lambda n: ip_address(0xFD << 120 | n).packed)


def test_a_probe_is_from_nobody_to_all():
    assert parse(packets.arp_probe(MAC, VIP)) == Arp(
        to=b"\xff" * 6, by=MAC, reply=False, sender_mac=MAC, sender=bytes(4), target_mac=bytes(6), target=VIP)


def test_a_reply_goes_to_the_asker_alone():
    assert parse(packets.arp_reply(MAC, VIP, OTHER, HOST)) == Arp(
        to=OTHER, by=MAC, reply=True, sender_mac=MAC, sender=VIP, target_mac=OTHER, target=HOST)


def test_a_gratuitous_announcement_is_a_request_and_then_a_reply():
    first, second = (parse(frame) for frame in packets.gratuitous(MAC, VIP))
    assert [first.reply, second.reply] == [False, True]
    for packet in (first, second):
        assert (packet.to, packet.target_mac, packet.sender, packet.target) == (b"\xff" * 6, b"\xff" * 6, VIP, VIP)


def test_the_bytes_of_an_arp_request():
    assert packets.arp_request(MAC, HOST, VIP).hex() == (
        "ffffffffffff" "020000000001" "0806" "0001" "0800" "06" "04" "0001"
        "020000000001" "0a000007" "000000000000" "0a000064")


def test_the_bytes_of_a_solicited_advertisement():
    frame = packets.answer(MAC, LOCAL6, VIP6, OTHER, HOST6)
    assert frame[:14].hex() == "020000000002" "020000000001" "86dd"
    assert frame[14:22].hex() == "60000000" "0020" "3a" "ff"
    assert frame[54:56] == bytes((136, 0))
    assert frame[58:62].hex() == "40000000"
    assert frame[62:78] == VIP6
    assert frame[78:].hex() == "0201" "020000000001"


def test_an_asker_without_an_address_is_answered_before_all_nodes():
    packet = parse(packets.answer(MAC, LOCAL6, VIP6, OTHER, bytes(16)))
    assert isinstance(packet, Advertisement)
    assert packet.to == bytes.fromhex("333300000001")
    assert not packet.solicited
    assert not packet.override


def test_an_unsolicited_advertisement_overrides():
    frame = packets.unsolicited(MAC, LOCAL6, VIP6)
    packet = parse(frame)
    assert (packet.to, packet.solicited, packet.override, packet.mac) == (
        bytes.fromhex("333300000001"), False, True, MAC)
    assert frame[38:54] == IPv6Address("ff02::1").packed


def test_a_solicitation_goes_to_the_group_of_the_address():
    frame = packets.solicitation(OTHER, HOST6, VIP6)
    assert frame[:6].hex() == "3333ff012345"
    assert frame[38:54] == IPv6Address("ff02::1:ff01:2345").packed
    assert parse(frame) == Solicitation(to=frame[:6], by=OTHER, source=HOST6, target=VIP6, asker=OTHER)


def test_a_unicast_solicitation_without_an_option_is_answered_to_its_ethernet_source():
    packet = parse(packets.solicitation(OTHER, HOST6, VIP6, to=MAC, option=False))
    assert (packet.to, packet.asker, packet.duplicate_check) == (MAC, OTHER, False)


def test_a_duplicate_check_comes_from_the_unspecified_address():
    packet = parse(packets.duplicate_check(OTHER, VIP6))
    assert packet.duplicate_check
    assert packet.asker == OTHER


def test_a_heartbeat_carries_who_and_how():
    frame = packets.beat(MAC, OTHER, b"clus", b"node-ate", b"life1234", Flag.WATCH | Flag.UNSETTLED, 7)
    assert parse(frame) == Beat(to=OTHER, by=MAC, kind=Kind.BEAT, flags=9, cluster=b"clus", node=b"node-ate",
                                subject=b"life1234", sequence=7)


def test_a_heartbeat_looks_like_an_arp_request_for_the_dummy_address():
    frame = packets.beat(MAC, OTHER, b"clus", b"node-ate", b"life1234", 0, 7)
    assert frame[12:14].hex() == "0806"
    assert ip_address(frame[38:42]) == ip_address("192.0.0.8")
    assert ip_address(frame[28:32]) == ip_address("0.0.0.0")


def test_later_versions_may_append_to_a_heartbeat():
    frame = packets.down(MAC, b"clus", b"node-ate", b"somebody", 7)
    assert parse(frame + b"more") == parse(frame)


def arp(at: int, value: str) -> bytes:
    frame = bytearray(packets.arp_request(MAC, HOST, VIP))
    frame[at:at + len(value) // 2] = bytes.fromhex(value)
    return bytes(frame)


@pytest.mark.parametrize(("frame", "reason"), [
    (b"", Drop.TRUNCATED),
    (packets.arp_request(MAC, HOST, VIP)[:41], Drop.TRUNCATED),
    (packets.arp_request(MAC, HOST, VIP) + bytes(1500), Drop.OVERSIZED),
    (arp(12, "8100"), Drop.VLAN_TAGGED),
    (arp(12, "88a8"), Drop.VLAN_TAGGED),
    (arp(12, "0800"), Drop.ETHERTYPE),
    (arp(14, "0006"), Drop.HARDWARE_TYPE),
    (arp(18, "08"), Drop.HARDWARE_TYPE),
    (arp(16, "86dd"), Drop.PROTOCOL_TYPE),
    (arp(19, "10"), Drop.PROTOCOL_TYPE),
    (arp(20, "0003"), Drop.OPERATION),
    (arp(22, "ffffffffffff"), Drop.BAD_SENDER),
    (arp(22, "000000000000"), Drop.BAD_SENDER),
    (arp(22, "010000000000"), Drop.BAD_SENDER),
    (packets.beat(MAC, OTHER, b"clus", b"node-ate", b"life1234", 0, 7)[:-1], Drop.TRUNCATED),
])
def test_an_arp_frame_that_is_wrong_is_dropped(frame, reason):
    assert parse(frame) is reason


def test_a_heartbeat_of_another_version_or_kind_is_dropped():
    frame = bytearray(packets.beat(MAC, OTHER, b"clus", b"node-ate", b"life1234", 0, 7))
    frame[47] = 9
    assert parse(bytes(frame)) is Drop.MALFORMED
    frame[46] = 9
    assert parse(bytes(frame)) is Drop.BEAT_VERSION


def test_padding_to_the_least_ethernet_frame_is_no_fault():
    assert isinstance(parse(packets.arp_request(MAC, HOST, VIP) + bytes(18)), Arp)


def ndp(**change: bytes) -> bytes:
    """A solicitation with some bytes changed, and the checksum put right again."""
    frame = bytearray(packets.solicitation(OTHER, HOST6, VIP6))
    for name, value in change.items():
        at = int(name[2:])
        frame[at:at + len(value)] = value
    frame[56:58] = bytes(2)
    pseudo = bytes(frame[22:54]) + struct.pack("!II", len(frame) - 54, 58)
    total = sum(struct.unpack(f"!{(len(frame) - 54 + len(pseudo)) // 2}H", pseudo + bytes(frame[54:])))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    frame[56:58] = struct.pack("!H", ~total & 0xFFFF)
    return bytes(frame)


def test_the_checksum_is_the_one_of_rfc_1071():
    assert ndp() == packets.solicitation(OTHER, HOST6, VIP6)


@pytest.mark.parametrize(("frame", "reason"), [
    (ndp()[:50], Drop.TRUNCATED),
    (ndp()[:-1], Drop.TRUNCATED),
    (ndp(at18=b"\x00\x10"), Drop.TRUNCATED),
    (ndp(at20=b"\x11"), Drop.NOT_ICMPV6),
    (ndp(at14=b"\x40"), Drop.NOT_ICMPV6),
    (ndp(at21=b"\xfe"), Drop.HOP_LIMIT),
    (ndp(at54=b"\x85"), Drop.OPERATION),
    (ndp(at55=b"\x01"), Drop.OPERATION),
    (packets.solicitation(OTHER, HOST6, VIP6)[:-1] + b"\x09", Drop.CHECKSUM),
    (ndp(at62=b"\xff"), Drop.MALFORMED),
    (ndp(at22=b"\xff"), Drop.MALFORMED),
    (ndp(at22=bytes(16)), Drop.MALFORMED),
    (ndp(at79=b"\x00"), Drop.MALFORMED),
    (ndp(at79=b"\x02"), Drop.MALFORMED),
    (ndp(at80=b"\xff"), Drop.BAD_SENDER),
    (ndp(at54=b"\x88", at58=b"\x40"), Drop.MALFORMED),
])
def test_a_neighbour_discovery_frame_that_is_wrong_is_dropped(frame, reason):
    assert parse(frame) is reason


def test_a_duplicate_check_to_another_group_is_dropped():
    frame = bytearray(packets.duplicate_check(OTHER, VIP6))
    frame[38:54] = packets.ALL_NODES
    assert parse(bytes(frame)) is Drop.CHECKSUM


@given(st.binary(max_size=1600))
def test_no_bytes_whatever_raise(data):
    assert isinstance(parse(data), Arp | Beat | Solicitation | Advertisement | Drop)


templates = st.sampled_from([
    packets.arp_request(MAC, HOST, VIP), packets.solicitation(OTHER, HOST6, VIP6),
    packets.unsolicited(MAC, LOCAL6, VIP6), packets.beat(MAC, OTHER, b"clus", b"node-ate", b"life1234", 0, 7)])
mutations = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=6)


@given(templates, mutations, st.integers(0, 120), st.binary(max_size=40))
def test_no_mutation_raises(frame, changes, length, tail):
    changed = bytearray(frame)
    for at, value in changes:
        changed[at % len(changed)] = value
    assert parse(bytes(changed[:length]) + tail) is not None


@given(st.binary(max_size=200))
def test_no_options_whatever_raise_or_loop(options):
    assert parse(ndp_with(options)) is not None


def ndp_with(options: bytes) -> bytes:
    return packets._ndp(MAC, OTHER, HOST6, VIP6, 135, 0, VIP6, options)


@given(macs, v4, macs, v4)
def test_arp_goes_round(mac, address, asker_mac, asker):
    packet = parse(packets.arp_reply(mac, address, asker_mac, asker))
    assert (packet.sender_mac, packet.sender, packet.to, packet.target) == (mac, address, asker_mac, asker)


@given(macs, v6, v6, macs, v6)
def test_neighbour_discovery_goes_round(mac, source, address, asker_mac, asker):
    packet = parse(packets.answer(mac, source, address, asker_mac, asker))
    assert (packet.mac, packet.target, packet.source, packet.to) == (mac, address, source, asker_mac)
    question = parse(packets.solicitation(asker_mac, asker, address))
    assert (question.asker, question.source, question.target) == (asker_mac, asker, address)


# -- the filters, run as the kernel runs them -----------------------------------------------------------------------


def run(program: tuple[packets.Instruction, ...], frame: bytes, packet_type: int = 0, tagged: int = 0) -> int:
    """A classic BPF machine, as far as the filters need one (Documentation/networking/filter.rst)."""
    at = value = 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == 0x06:
            return operand
        if code in (0x20, 0x28, 0x30):
            size = {0x20: 4, 0x28: 2, 0x30: 1}[code]
            if operand >= 0xFFFFF000:
                value = {4: packet_type, 48: tagged}[operand - 0xFFFFF000]
            elif operand + size > len(frame):
                return 0
            else:
                value = int.from_bytes(frame[operand:operand + size], "big")
        else:
            at += yes if (value == operand if code == 0x15 else value > operand) else no


ARPS = [packets.arp_request(MAC, HOST, VIP), *packets.gratuitous(MAC, VIP),
        packets.beat(MAC, OTHER, b"clus", b"node-ate", b"life1234", 0, 7)]
NDPS = [packets.solicitation(OTHER, HOST6, VIP6, option=False), packets.duplicate_check(OTHER, VIP6),
        packets.unsolicited(MAC, LOCAL6, VIP6)]


def test_the_filters_let_through_what_is_ours_and_whole():
    for frame in ARPS:
        assert run(packets.ARP_FILTER, frame) > packets.LARGEST
        assert not run(packets.NDP_FILTER, frame)
    for frame in NDPS:
        assert run(packets.NDP_FILTER, frame) > packets.LARGEST
        assert not run(packets.ARP_FILTER, frame)


def test_the_filters_keep_out_what_is_others_or_tagged_or_our_own():
    for program, frame in ((packets.ARP_FILTER, ARPS[0]), (packets.NDP_FILTER, NDPS[0])):
        assert not run(program, frame, packet_type=3)
        assert not run(program, frame, packet_type=4)
        assert not run(program, frame, tagged=1)
        assert run(program, frame, packet_type=2)


@given(st.sampled_from([packets.ARP_FILTER, packets.NDP_FILTER]), st.sampled_from(ARPS + NDPS), mutations,
       st.integers(0, 120))
def test_the_filters_keep_out_only_what_the_parser_drops(program, frame, changes, length):
    changed = bytearray(frame)
    for at, value in changes:
        changed[at % len(changed)] = value
    whole = bytes(changed[:length])
    packet = parse(whole)
    if not isinstance(packet, Drop):
        assert run(packets.ARP_FILTER if isinstance(packet, Arp | Beat) else packets.NDP_FILTER, whole)
    assert run(program, whole) in (0, 2048)
