"""ARP as the conformance list has it (P1–P9), and beyond: real frames, the real process."""

import socket
import struct

import pytest

from lbctl_l2.lab.namespaces import inside
from lbctl_l2.lab.probe import (
    ARP,
    BROADCAST,
    CLIENT,
    OTHER,
    REPLY,
    REQUEST,
    STRANGER,
    VIP,
    VLAN,
    Arp,
    Speaker,
    is_answer,
    is_gratuitous,
)
from lbctl_l2.wire import Order, State

STRANGE_MAC = bytes.fromhex("02deadbeef01")
ELSEWHERE = bytes.fromhex("020000000099")
ANY = CLIENT - int(CLIENT)
ME = "node-a"


@pytest.fixture
def ignored(segment, speaker):
    """Frames that get no answer: the question after them is the first to be answered."""

    def check(*frames: bytes) -> None:
        segment.prober.say(*frames, Arp(segment.prober.mac, STRANGER).frame)
        answer = Arp.of(segment.prober.hear(is_answer(VIP)))
        assert (answer.tpa, answer.tha) == (STRANGER, segment.prober.mac)

    return check


@pytest.fixture
def answered(segment, speaker):
    """The answer to one frame."""

    def ask(frame: bytes) -> Arp:
        segment.prober.say(frame)
        return Arp.of(segment.prober.hear(is_answer(VIP)))

    return ask


def test_p1_only_requests_are_answered(segment, ignored):
    ignored(*(Arp(segment.prober.mac, op=op).frame for op in (0, REPLY, 3, 4, 8, 9, 0xFFFF)))


def test_p2_a_unicast_request_is_answered_as_a_broadcast_one(segment, answered):
    assert answered(Arp(segment.prober.mac, to=segment.mac).frame) == answered(Arp(segment.prober.mac).frame)


def test_p2_a_frame_for_another_station_is_ignored(segment, ignored):
    ignored(Arp(segment.prober.mac, to=ELSEWHERE).frame)


def test_p2_even_where_the_card_hears_everything(segment, ignored):
    segment.node.run("link set eth0 promisc on")
    ignored(Arp(segment.prober.mac, to=ELSEWHERE).frame)


def test_p3_an_address_that_is_not_announced_is_not_answered(segment, ignored):
    ignored(Arp(segment.prober.mac, tpa=OTHER).frame)


def test_p3_only_the_advertised_interfaces_answer(segment, speaker, ignored):
    segment.connect("eth1")
    speaker.wait_for_links("eth0", "eth1")
    speaker.announce(VIP, Order(OTHER, (ME,), frozenset({"eth1"})))
    ignored(Arp(segment.prober.mac, tpa=OTHER).frame)


def test_p4_a_probe_without_a_sender_address_is_answered(segment, answered):
    assert answered(Arp(segment.prober.mac, ANY).frame).tpa == ANY


def test_p4_the_answer_goes_to_the_sender_in_the_packet_not_in_the_frame(segment, answered):
    answer = answered(Arp(segment.prober.mac, source=ELSEWHERE).frame)
    assert (answer.to, answer.tha) == (segment.prober.mac, segment.prober.mac)


def test_p4_the_target_hardware_address_of_a_question_means_nothing(segment, answered):
    assert answered(Arp(segment.prober.mac, tha=BROADCAST).frame).spa == VIP


def test_p4_every_one_of_many_questions_is_answered(segment, speaker):
    segment.prober.say(*[Arp(segment.prober.mac, CLIENT + number).frame for number in range(90)])
    answers = [Arp.of(segment.prober.hear(is_answer(VIP))).tpa for _ in range(90)]
    assert answers == [CLIENT + number for number in range(90)]


def test_p4_a_gratuitous_request_of_another_host_is_answered_by_a_defence(segment, speaker):
    segment.prober.say(Arp(STRANGE_MAC, VIP, VIP).frame)
    assert Arp.of(segment.prober.hear(is_gratuitous(VIP))).sha == segment.mac


def test_p5_the_answer_has_the_fields_of_rfc_826(segment, answered):
    assert answered(Arp(segment.prober.mac).frame) == Arp(
        sha=segment.mac, spa=VIP, tha=segment.prober.mac, tpa=CLIENT, op=REPLY,
        to=segment.prober.mac, source=segment.mac,
    )


def test_p6_garbage_ends_nothing(segment, ignored):
    head = BROADCAST + segment.prober.mac + struct.pack("!H", ARP)
    ignored(*(head + bytes([octet]) * length for octet in (0, 1, 255) for length in (1, 5, 27, 28, 46, 1400)))


def test_p6_a_socket_that_fails_is_opened_again(segment, speaker):
    for _ in range(3):
        segment.node.run("link set eth0 down", "link set eth0 up")
    # Asked as a client asks: Linux may tell of a carrier up to a second late (net/core/link_watch.c).
    asked = (segment.prober.ask(Arp(segment.prober.mac).frame, is_answer(VIP)) for _ in range(50))
    answer = next(filter(None, asked), None)
    assert answer
    assert Arp.of(answer).sha == segment.mac
    segment.prober.hear(is_gratuitous(VIP))


def test_p7_an_announcement_is_a_request_and_a_reply_to_everybody_on_each_interface(segment, speaker):
    segment.connect("eth1")
    speaker.wait_for_links("eth0", "eth1")
    segment.prober.forget()
    speaker.announce(VIP, OTHER)
    heard = [Arp.of(segment.prober.hear(is_gratuitous(OTHER))) for _ in range(2)]
    said = Arp(sha=segment.mac, spa=OTHER, tpa=OTHER, tha=BROADCAST, source=segment.mac)
    assert heard == [said, Arp(**{**vars(said), "op": REPLY})]
    assert speaker.addresses()[OTHER].gratuitous == 4


def test_p8_five_rounds_and_never_faster_than_linux_arp_lock_time(segment, speaker):
    speaker.announce(VIP, OTHER)
    heard = segment.prober.collect(is_gratuitous(OTHER), 6.5)
    assert [Arp.of(frame).op for _, frame in heard] == [REQUEST, REPLY] * 5
    begins = [at for at, _ in heard][::2]
    assert min(later - earlier for earlier, later in zip(begins, begins[1:], strict=False)) > 1.0


def test_p8_an_address_announced_anew_while_its_rounds_last_gets_all_rounds_again(segment, quick):
    quick.announce(VIP, OTHER)
    quick.announce(VIP)
    segment.prober.forget()
    quick.announce(VIP, OTHER)
    assert len(segment.prober.collect(is_gratuitous(OTHER), 1.5)) == 10


def test_p8_a_change_of_another_address_starts_no_new_rounds(segment, quick):
    quick.announce(VIP, OTHER)
    quick.plane.orders([Order(address, (ME, "node-b")) for address in (VIP, OTHER)], ())
    assert len(segment.prober.collect(is_gratuitous(OTHER), 1.5)) == 10


def test_p9_periodic_announcements_are_off_unless_ordered(segment, quick):
    quick.announce(Order(VIP, (ME,), periodic=0.1), Order(OTHER, (ME,)))
    heard = [Arp.of(frame).spa for _, frame in segment.prober.collect(is_gratuitous(VIP), 4.0)]
    assert len(heard) > 10


def test_p9_a_release_says_nothing_and_answers_no_longer(segment, quick):
    quick.announce(OTHER)
    quick.announce()
    segment.prober.forget()
    segment.prober.say(Arp(segment.prober.mac).frame)
    assert not segment.prober.collect(lambda frame: frame[6:12] == segment.mac and frame[12:14] == b"\x08\x06", 1.0)


def test_the_kernel_of_a_client_resolves_and_confirms_the_address(segment, speaker):
    with inside(segment.client.name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", (str(VIP), 9))
    assert neighbour(segment, speaker) == ("REACHABLE", segment.mac)
    segment.client.run(f"neigh change {VIP} dev eth0 nud probe")
    assert neighbour(segment, speaker) == ("REACHABLE", segment.mac)


def test_the_kernel_of_a_client_believes_an_announcement(segment, speaker):
    segment.client.run(f"neigh add {OTHER} lladdr 02:00:00:00:00:99 dev eth0 nud stale")
    speaker.announce(VIP, OTHER)
    speaker.wait(lambda: segment.client.json("neigh", "show", str(OTHER))[0]["lladdr"] == text(segment.mac))


@pytest.mark.parametrize("changed", [
    {"hardware": 6}, {"hardware": 0}, {"protocol": 0x86DD}, {"protocol": 0}, {"sizes": (8, 4)}, {"sizes": (6, 16)},
    {"sizes": (0, 0)},
])
def test_arp_of_other_hardware_or_protocols_is_ignored(segment, ignored, changed):
    ignored(Arp(segment.prober.mac, **changed).frame)


@pytest.mark.parametrize("length", [14, 20, 27, 38, 41])
def test_truncated_arp_is_ignored(segment, ignored, length):
    ignored(Arp(segment.prober.mac).frame[:length])


def test_padding_to_the_shortest_ethernet_frame_does_not_matter(segment, answered):
    assert answered(Arp(segment.prober.mac).frame.ljust(60, b"\0")).spa == VIP


def test_an_oversized_frame_does_not_matter(segment, speaker, answered):
    segment.prober.say(Arp(segment.prober.mac, STRANGER).frame.ljust(1514, b"\xff"))
    assert speaker.plane.alive
    assert answered(Arp(segment.prober.mac).frame).spa == VIP


@pytest.mark.parametrize("tag", [100, 4094, 0x2000 | 5])
def test_a_tagged_frame_on_the_parent_interface_is_ignored(segment, ignored, tag):
    plain = Arp(segment.prober.mac).frame
    ignored(plain[:12] + struct.pack("!HH", VLAN, tag) + plain[12:])


def test_a_priority_tag_is_no_vlan(segment, answered):
    plain = Arp(segment.prober.mac).frame
    assert answered(plain[:12] + struct.pack("!HH", VLAN, 0xE000) + plain[12:]).spa == VIP


def test_own_frames_that_come_back_are_no_conflict_and_get_no_answer(segment, speaker, ignored):
    ignored(Arp(segment.mac, VIP, VIP).frame, Arp(segment.mac, CLIENT).frame)
    assert speaker.plane.report().conflicts == ()


def test_a_foreign_host_that_claims_the_address_is_a_conflict(segment, speaker):
    segment.prober.say(Arp(STRANGE_MAC, VIP, VIP).frame)
    speaker.wait(lambda: speaker.plane.report().conflicts)
    conflict = speaker.plane.report().conflicts[0]
    assert (conflict.address, conflict.mac, conflict.link) == (VIP, STRANGE_MAC, "eth0")


def test_the_address_is_defended_against_a_foreign_host_once_in_ten_seconds(segment, quick):
    quick.wait(lambda: quick.addresses()[VIP].gratuitous == 10)
    segment.prober.forget()
    segment.prober.say(*[Arp(STRANGE_MAC, VIP, VIP).frame for _ in range(50)])
    assert len(segment.prober.collect(is_gratuitous(VIP), 1.0)) == 2
    quick.wait(lambda: quick.plane.report().conflicts[0].count == 50)


def test_a_foreign_host_that_answers_the_first_probe_keeps_the_address(segment, speaker):
    segment.client.run(f"addr add {OTHER}/32 dev eth0")
    speaker.announce(VIP, Order(OTHER, (ME,), probe=True), until=None)
    speaker.wait_for(OTHER, State.DUPLICATE)
    assert speaker.plane.report().conflicts[0].mac == segment.prober.mac


def test_three_probes_precede_the_first_announcement(segment, speaker):
    speaker.plane.orders([Order(OTHER, (ME,), probe=True)], ())
    of_it = lambda frame: frame[6:12] == segment.mac and frame[38:42] == OTHER.packed  # noqa: E731
    asked = [Arp.of(segment.prober.hear(of_it)) for _ in range(4)]
    assert [(packet.op, packet.spa) for packet in asked] == [(REQUEST, ANY)] * 3 + [(REQUEST, OTHER)]


def text(mac: bytes) -> str:
    return mac.hex(":")


def neighbour(segment, speaker: Speaker) -> tuple[str, bytes]:
    """What the client's kernel knows of VIP, once it has an answer."""
    known = lambda: segment.client.json("neigh", "show", str(VIP))[0]  # noqa: E731
    speaker.wait(lambda: known()["state"] not in (["INCOMPLETE"], ["PROBE"], ["DELAY"]))
    return known()["state"][0], bytes.fromhex(known()["lladdr"].replace(":", ""))
