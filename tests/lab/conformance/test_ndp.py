"""Neighbour discovery as the conformance list has it (N1–N10), and beyond: real frames, the real process."""

import socket
from ipaddress import IPv6Address

import pytest

from lbctl_l2.lab.namespaces import inside
from lbctl_l2.lab.probe import (
    ADVERTISEMENT,
    ALL_NODES,
    CLIENT6,
    CLIENT_LINK_LOCAL,
    LINK_LOCAL,
    OTHER6,
    VIP6,
    Ndp,
    Speaker,
    is_advertisement,
    is_answer,
    is_gratuitous,
    solicited,
)
from lbctl_l2.wire import Order, State

ANY6 = IPv6Address(0)
STRANGE_MAC = bytes.fromhex("02deadbeef01")
STRANGER6 = IPv6Address("2001:db8::66")
SAME_GROUP = IPv6Address("2001:db8::1:0:100")  # Its last 24 bits are VIP6's.
OVERRIDE, SOLICITED, ROUTER = 0x20, 0x40, 0x80
ME = "node-a"


@pytest.fixture
def question(segment):
    """A client's solicitation for VIP6, as its kernel sends it, with what is to be different."""

    def make(**changed) -> bytes:
        mac = segment.prober.mac
        return Ndp(**({"mac": mac, "source": CLIENT6, "to": solicited(VIP6), "option": mac} | changed)).frame

    return make


@pytest.fixture
def ignored(segment, speaker, question):
    """Frames that get no answer: the question after them is the first to be answered."""

    def check(*frames: bytes) -> None:
        segment.prober.say(*frames, question(source=STRANGER6))
        answer = segment.prober.hear(is_answer(VIP6))
        assert Ndp.of(answer).to == STRANGER6

    return check


@pytest.fixture
def answered(segment, speaker):
    """The answer to one frame."""

    def ask(frame: bytes) -> Ndp:
        segment.prober.say(frame)
        return Ndp.of(segment.prober.hear(is_answer(VIP6)))

    return ask


@pytest.mark.parametrize("kind", [133, 134, 136, 137, 128, 0, 255])
def test_n1_only_solicitations_are_answered(ignored, question, kind):
    ignored(question(kind=kind))


def test_n2_a_solicitation_without_a_link_layer_option_is_answered_to_who_sent_it(segment, answered, question):
    answer = answered(question(option=None))
    assert (answer.ethernet, answer.to, answer.option) == (segment.prober.mac, CLIENT6, segment.mac)


def test_n2_with_the_option_the_answer_goes_to_the_address_in_it(answered, question):
    assert answered(question(option=STRANGE_MAC)).ethernet == STRANGE_MAC


def test_n3_an_address_that_is_not_announced_is_not_answered(ignored, question):
    ignored(question(target=OTHER6, to=solicited(OTHER6)), question(target=OTHER6))


def test_n3_only_the_advertised_interfaces_answer(segment, speaker, ignored, question):
    segment.connect("eth1")
    segment.node.run("addr add fe80::a1/64 dev eth1 nodad")
    speaker.wait_for_links("eth0", "eth1")
    speaker.announce(VIP6, Order(OTHER6, (ME,), frozenset({"eth1"})))
    ignored(question(target=OTHER6, to=solicited(OTHER6)))


@pytest.mark.parametrize("hops", [0, 1, 64, 254])
def test_n4_a_hop_limit_below_255_was_forwarded_and_is_ignored(ignored, question, hops):
    ignored(question(hops=hops))


def test_n5_own_frames_that_come_back_get_no_answer_and_are_no_conflict(segment, speaker, ignored, question):
    ignored(
        question(mac=segment.mac, option=segment.mac),
        question(mac=segment.mac, option=segment.mac, kind=ADVERTISEMENT, to=ALL_NODES, flags=OVERRIDE),
    )
    assert speaker.plane.report().conflicts == ()


def test_n6_the_answer_has_the_fields_of_rfc_4861(segment, answered, question):
    answer = answered(question())
    assert answer.frame == Ndp(
        mac=segment.mac, source=LINK_LOCAL, to=CLIENT6, target=VIP6, kind=ADVERTISEMENT, flags=SOLICITED,
        option=segment.mac, ethernet=segment.prober.mac, hops=255,
    ).frame


def test_n6_a_link_local_client_is_answered(answered, question):
    assert answered(question(source=CLIENT_LINK_LOCAL)).to == CLIENT_LINK_LOCAL


def test_n7_an_announcement_is_an_unsolicited_override_to_all_nodes(segment, speaker):
    speaker.announce(VIP6, OTHER6)
    assert Ndp.of(segment.prober.hear(is_gratuitous(OTHER6))).frame == Ndp(
        mac=segment.mac, source=LINK_LOCAL, to=ALL_NODES, target=OTHER6, kind=ADVERTISEMENT, flags=OVERRIDE,
        option=segment.mac,
    ).frame


def test_n7_five_rounds_of_one_packet(segment, speaker):
    speaker.announce(VIP6, OTHER6)
    heard = [at for at, _ in segment.prober.collect(is_gratuitous(OTHER6), 6.5)]
    assert len(heard) == 5
    assert min(later - earlier for earlier, later in zip(heard, heard[1:], strict=False)) > 1.0


def test_n8_the_solicited_node_group_is_joined_and_told_by_mld(segment, speaker):
    group = solicited(OTHER6).packed
    speaker.announce(VIP6, OTHER6)
    # MLDv2: the report follows a hop-by-hop router alert (RFC 3810, 5 and 5.2).
    segment.prober.hear(lambda frame: frame[20:21] == b"\0" and frame[62:63] == bytes([143]) and group in frame)
    assert heard_groups(segment) >= {solicited(VIP6), solicited(OTHER6)}


def test_n8_two_addresses_of_one_group_share_it_until_both_are_released(segment, speaker, answered, question):
    speaker.announce(VIP6, SAME_GROUP)
    speaker.announce(VIP6)
    assert solicited(VIP6) in heard_groups(segment)
    assert answered(question()).target == VIP6
    speaker.announce()
    speaker.wait(lambda: solicited(VIP6) not in heard_groups(segment))


def test_n8_the_card_lets_the_group_in(segment, speaker):
    with inside(segment.node.name), open("/proc/thread-self/net/dev_mcast") as listed:
        users = [int(line.split()[2]) for line in listed if line.split()[4] == "3333ff000100"]
    assert users == [2]  # One for packet(7), one for MLD.


def test_n9_a_unicast_solicitation_without_option_is_answered(segment, answered, question):
    answer = answered(question(to=VIP6, ethernet=segment.mac, option=None))
    assert (answer.to, answer.flags) == (CLIENT6, SOLICITED)


def test_n9_the_kernel_of_a_client_confirms_the_address_again_and_again(segment, speaker):
    with inside(segment.client.name), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", (str(VIP6), 9))
    assert neighbour(segment, speaker) == ("REACHABLE", segment.mac)
    for _ in range(3):
        segment.client.run(f"neigh change {VIP6} dev eth0 nud probe")
        assert neighbour(segment, speaker) == ("REACHABLE", segment.mac)


def test_n10_nothing_is_said_while_the_link_local_is_tentative(segment, speaker):
    segment.node.run("addr flush dev eth0 scope link")
    speaker.wait_for(VIP6, State.NO_LINK)
    detect_duplicates(segment.node, probes=600)
    segment.node.run("addr add fe80::b/64 dev eth0")
    assert not segment.prober.collect(is_advertisement(), 0.5)
    assert speaker.addresses()[VIP6].state == State.NO_LINK


def test_n10_nothing_is_said_with_a_link_local_that_another_host_has(segment, speaker):
    segment.client.run("addr add fe80::b/64 dev eth0 nodad")
    segment.node.run("addr flush dev eth0 scope link")
    detect_duplicates(segment.node, probes=1)
    segment.node.run("addr add fe80::b/64 dev eth0")
    speaker.wait(lambda: segment.node.json("-6", "addr", "show", "dev", "eth0")[0]["addr_info"][0].get("dadfailed"))
    speaker.wait_for(VIP6, State.NO_LINK)
    assert not segment.prober.collect(is_advertisement(), 0.3)


def test_n10_a_usable_link_local_announces_at_once(segment, speaker):
    segment.node.run("addr flush dev eth0 scope link")
    speaker.wait_for(VIP6, State.NO_LINK)
    segment.node.run("addr add fe80::b/64 dev eth0 nodad")
    assert Ndp.of(segment.prober.hear(is_gratuitous(VIP6))).source == IPv6Address("fe80::b")


def test_duplicate_detection_of_another_host_is_answered_to_all_nodes(segment, answered, question):
    answer = answered(question(source=ANY6, option=None))
    assert (answer.to, answer.ethernet) == (ALL_NODES, b"\x33\x33\x00\x00\x00\x01")
    assert answer.flags & SOLICITED == 0
    assert answer.option == segment.mac


def test_a_client_s_kernel_that_wants_the_address_finds_it_taken(segment, speaker):
    detect_duplicates(segment.client, probes=1)
    segment.client.run(f"addr add {VIP6}/64 dev eth0")
    mine = lambda: [a for a in segment.client.json("-6", "addr", "show", "dev", "eth0")[0]["addr_info"]  # noqa: E731
                    if a["local"] == str(VIP6)]
    speaker.wait(lambda: mine() and mine()[0].get("dadfailed"))


@pytest.mark.parametrize("checksum", [0, 0xFFFF, 0x1234])
def test_a_wrong_checksum_is_ignored(ignored, question, checksum):
    ignored(question(checksum=checksum))


@pytest.mark.parametrize("length", [14, 40, 53, 54, 57, 61, 77, 79, 81, 85])
def test_truncated_packets_are_ignored(ignored, question, length):
    ignored(question()[:length])


def test_garbage_ends_nothing(segment, ignored, question):
    head = question()[:54]
    ignored(*(head + bytes([kind]) + bytes([octet]) * length
              for kind in (135, 136) for octet in (0, 1, 255) for length in (0, 1, 23, 31, 200, 1400)))


def test_a_solicitation_for_another_station_is_ignored(segment, ignored, question):
    segment.node.run("link set eth0 promisc on")
    ignored(question(ethernet=bytes.fromhex("020000000099")))


def test_a_foreign_host_that_claims_the_address_is_a_conflict_and_answered_by_a_defence(segment, quick):
    quick.wait(lambda: quick.addresses()[VIP6].gratuitous == 5)
    segment.prober.forget()
    segment.prober.say(*[Ndp(
        STRANGE_MAC, STRANGER6, ALL_NODES, kind=ADVERTISEMENT, flags=OVERRIDE, option=STRANGE_MAC,
    ).frame for _ in range(20)])
    assert len(segment.prober.collect(is_gratuitous(VIP6), 1.0)) == 1
    quick.wait(lambda: quick.plane.report().conflicts[0].count == 20)
    assert quick.plane.report().conflicts[0].mac == STRANGE_MAC


def test_a_foreign_host_that_answers_the_first_probe_keeps_the_address(segment, speaker):
    segment.client.run(f"addr add {OTHER6}/128 dev eth0 nodad")
    speaker.announce(VIP6, Order(OTHER6, (ME,), probe=True), until=None)
    speaker.wait_for(OTHER6, State.DUPLICATE)


def test_a_release_says_nothing_and_answers_no_longer(segment, quick, question):
    quick.announce()
    segment.prober.forget()
    segment.prober.say(question())
    assert not segment.prober.collect(is_advertisement(), 1.0)


def detect_duplicates(namespace, probes: int) -> None:
    namespace.sysctl({"ipv6/conf/all/accept_dad": 1, "ipv6/conf/eth0/accept_dad": 1})
    namespace.sysctl({"ipv6/conf/eth0/dad_transmits": probes})


def heard_groups(segment) -> set[IPv6Address]:
    """The IPv6 groups that the node's kernel is in on eth0."""
    with inside(segment.node.name), open("/proc/thread-self/net/igmp6") as listed:
        return {IPv6Address(bytes.fromhex(line.split()[2])) for line in listed if line.split()[1] == "eth0"}


def neighbour(segment, speaker: Speaker) -> tuple[str, bytes]:
    """What the client's kernel knows of VIP6, once it has an answer."""
    known = lambda: segment.client.json("neigh", "show", str(VIP6))[0]  # noqa: E731
    speaker.wait(lambda: known()["state"] not in (["INCOMPLETE"], ["PROBE"], ["DELAY"]))
    return known()["state"][0], bytes.fromhex(known()["lladdr"].replace(":", ""))
