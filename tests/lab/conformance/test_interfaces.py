"""Interfaces as the conformance list has them (I1–I8), and beyond: made, changed and removed under a real process."""

import os
import select
import selectors
import signal
from ipaddress import IPv4Address, IPv6Address

import pytest

from lbctl_l2.lab.namespaces import inside
from lbctl_l2.lab.probe import (
    LINK_LOCAL,
    VIP,
    VIP6,
    Arp,
    Prober,
    Speaker,
    is_answer,
    is_gratuitous,
    mac_of,
    solicited,
)
from lbctl_l2.netlink import Exclusion, Follower
from lbctl_l2.sockets import Sockets
from lbctl_l2.wire import Link, Order, State

ME = "node-a"
STRANGE_MAC = bytes.fromhex("02deadbeef01")


@pytest.fixture
def still_answers(segment, speaker):
    """eth0 is served as before."""

    def check() -> None:
        segment.prober.say(Arp(segment.prober.mac).frame)
        assert Arp.of(segment.prober.hear(is_answer(VIP))).sha == segment.mac

    return check


def reason(speaker: Speaker, name: str) -> str:
    """The token that says why an interface is not used."""
    speaker.wait(lambda: name in speaker.plane.unusable(), lambda: name)
    return speaker.plane.unusable()[name].partition(":")[0]


def test_i1_an_interface_is_used_while_it_is_up(segment, speaker, still_answers):
    segment.connect("eth1", up=False)
    assert reason(speaker, "eth1") == "down"
    segment.node.run("link set eth1 up")
    speaker.wait_for_links("eth0", "eth1")
    segment.node.run("link set eth1 down")
    speaker.wait_for_links("eth0")
    still_answers()


def test_i2_a_port_is_left_to_its_bridge_which_answers_with_its_own_mac(segment, speaker):
    segment.node.run(
        "link add br0 address 02:00:00:00:0b:00 type bridge", "link set br0 up", "link set eth0 master br0",
    )
    assert reason(speaker, "eth0") == "enslaved"
    assert Arp.of(segment.prober.hear(is_gratuitous(VIP))).sha == mac_of(segment.node, "br0")
    segment.prober.say(Arp(segment.prober.mac).frame)
    assert Arp.of(segment.prober.hear(is_answer(VIP))).sha == mac_of(segment.node, "br0")


def test_i2_a_port_that_leaves_its_bridge_is_used_again(segment, speaker, still_answers):
    segment.node.run("link add br0 type bridge", "link set br0 up", "link set eth0 master br0")
    assert reason(speaker, "eth0") == "enslaved"
    segment.node.run("link set eth0 nomaster", "link del br0")
    speaker.wait_for_links("eth0")
    still_answers()


def test_i3_an_interface_without_arp_is_not_used(segment, speaker, still_answers):
    segment.node.run("link set eth0 arp off")
    assert reason(speaker, "eth0") == "noarp"
    speaker.wait_for(VIP, State.NO_LINK)
    segment.node.run("link set eth0 arp on")
    speaker.wait_for(VIP, State.SPEAKING)
    still_answers()


def test_i4_a_tunnel_without_broadcast_is_not_used(segment, speaker, still_answers):
    segment.node.run("tuntap add tun0 mode tun", "link set tun0 up")
    assert reason(speaker, "tun0") == "not-ethernet"
    still_answers()


def test_i4_no_ipv4_address_is_needed(segment, speaker, still_answers):
    assert not [a for a in segment.node.json("addr", "show", "dev", "eth0")[0]["addr_info"] if a["family"] == "inet"]
    still_answers()


def test_i5_an_excluded_interface_is_left_alone(segment, speaker, still_answers):
    segment.connect("docker0")
    speaker.plane.exclude(("^docker",))
    speaker.wait_for_links("eth0")
    still_answers()


def test_i5_the_list_changes_while_it_runs(segment, speaker, still_answers):
    speaker.plane.exclude(("^eth",))
    speaker.wait_for_links()
    speaker.plane.exclude(("^lo$",))
    speaker.wait_for_links("eth0")
    speaker.wait_for(VIP, State.SPEAKING)
    still_answers()


def test_i5_the_default_list_leaves_out_what_containers_make(segment):
    segment.connect("veth7")
    speaker = Speaker(segment.node, excluded=("^veth.*", "^lo$"))
    speaker.wait_for_links("eth0")
    speaker.end()


def test_i6_a_late_interface_announces_and_joins_at_once(segment, speaker):
    segment.connect("eth1", up=False)
    late = Prober(segment.client, "eth1")
    segment.node.run("addr add fe80::a1/64 dev eth1 nodad", "link set eth1 up")
    late.hear(is_gratuitous(VIP))
    late.hear(is_gratuitous(VIP6))
    speaker.wait(lambda: solicited(VIP6) in groups(segment, "eth1"))
    late.say(Arp(late.mac).frame)
    assert Arp.of(late.hear(is_answer(VIP))).sha == mac_of(segment.node, "eth1")
    late.socket.close()


def test_i7_an_interface_that_vanishes_takes_nothing_with_it(segment, speaker, still_answers):
    segment.connect("eth1")
    speaker.wait_for_links("eth0", "eth1")
    segment.node.run("link del eth1")
    speaker.wait_for_links("eth0")
    still_answers()


def test_i7_an_interface_that_comes_back_under_its_name_is_served_anew(segment, speaker):
    for _ in range(2):
        segment.connect("eth1", up=False)
        back = Prober(segment.client, "eth1")
        segment.node.run("link set eth1 up")
        back.hear(is_gratuitous(VIP))
        segment.node.run("link del eth1")
        back.socket.close()


def test_i8_an_interface_that_can_do_no_ipv6_hides_no_other(segment, speaker, still_answers):
    segment.connect("eth1", up=False)
    segment.node.sysctl({"ipv6/conf/eth1/disable_ipv6": 1})
    second = Prober(segment.client, "eth1")
    segment.node.run("link set eth1 up")
    second.hear(is_gratuitous(VIP))
    second.socket.close()
    still_answers()


def test_i8_a_hundred_interfaces_that_come_and_go_disturb_nothing(segment, speaker, still_answers):
    for number in range(100):
        name = f"x{number}"
        segment.node.run(f"link add {name} type veth peer name y{number}", f"link set {name} up", f"link del {name}")
        if number % 20 == 0:
            still_answers()
    speaker.wait_for_links("eth0")
    still_answers()


def test_i8_messages_that_the_kernel_had_to_drop_are_made_up_for(segment):
    with inside(segment.node.name):
        follower = Follower()
    read_all(follower)
    segment.node.run(*[f"addr add {IPv4Address('10.9.0.0') + number}/32 dev lo" for number in range(2000)])
    read_all(follower)
    held = {found.name: len(found.addresses) for found in follower.interfaces(Exclusion(()))}
    follower.close()
    assert (held["lo"] > 2000, follower.overruns > 0) == (True, True)


def test_a_carrier_that_returns_is_followed_by_announcements(segment, speaker):
    segment.client.run("link set eth0 down")
    speaker.wait_for(VIP, State.NO_LINK)
    segment.client.run("link set eth0 up")
    segment.prober.hear(is_gratuitous(VIP))
    segment.prober.hear(is_gratuitous(VIP6))


def test_an_interface_that_was_down_for_a_moment_unnoticed_is_served_on(segment, speaker, still_answers):
    os.kill(speaker.plane.pid, signal.SIGSTOP)
    segment.node.run("link set eth0 down", "link set eth0 up", f"addr add {LINK_LOCAL}/64 dev eth0 nodad")
    os.kill(speaker.plane.pid, signal.SIGCONT)
    speaker.wait(lambda: speaker.plane.report().counters.dropped.get("socket-enetdown"))
    still_answers()


def test_a_socket_that_the_kernel_refused_is_opened_later(segment):
    eth1 = Link(99, "eth1", bytes(6))
    with inside(segment.node.name), selectors.DefaultSelector() as selector:
        sockets = Sockets(selector)
        sockets.set_links([eth1])
        assert (sockets.complete, list(sockets.refused)) == (False, ["eth1"])
        segment.node.run("link add eth1 index 99 type veth peer name eth1x", "link set eth1 up")
        sockets.reopen()
        assert (sockets.complete, sockets.refused) == (True, {})
        sockets.close()


def test_a_name_that_has_moved_to_another_interface_is_refused(segment):
    with inside(segment.node.name), selectors.DefaultSelector() as selector:
        sockets = Sockets(selector)
        sockets.set_links([Link(99, "eth0", bytes(6))])
        assert sockets.refused == {"eth0": "socket-refused: eth0 is another interface now; tried again until it works"}
        sockets.close()


def test_another_mac_is_announced_at_once(segment, speaker):
    segment.node.run("link set eth0 address 02:00:00:00:00:77")
    said = lambda frame: is_gratuitous(VIP)(frame) and frame[22:28] == bytes.fromhex("020000000077")  # noqa: E731
    segment.prober.hear(said)


def test_a_renamed_interface_is_served_under_its_new_name(segment, speaker):
    segment.node.run("link set eth0 down", "link set eth0 name lan0", "link set lan0 up")
    speaker.wait_for_links("lan0")
    segment.prober.hear(is_gratuitous(VIP))


def test_a_macvlan_is_served_as_a_card_of_its_own(segment, speaker):
    segment.node.run("link add mac0 link eth0 address 02:00:00:00:00:33 type macvlan mode bridge", "link set mac0 up")
    speaker.wait_for_links("eth0", "mac0")
    segment.prober.forget()
    segment.prober.say(Arp(segment.prober.mac).frame)
    answers = {Arp.of(segment.prober.hear(is_answer(VIP))).sha for _ in range(2)}
    assert answers == {segment.mac, bytes.fromhex("020000000033")}


def test_five_hundred_addresses_are_announced_and_their_groups_joined(segment, speaker):
    addresses = [IPv4Address("10.1.0.0") + number for number in range(250)]
    addresses += [IPv6Address("2001:db8:1::") + number for number in range(250)]
    speaker.plane.orders([Order(address, (ME,)) for address in addresses], ())
    missing, began = set(addresses), None
    for at, frame in segment.prober.frames(10.0):
        address = IPv4Address(frame[28:32]) if frame[12:14] == b"\x08\x06" else IPv6Address(frame[62:78])
        if address in missing and is_gratuitous(address)(frame):
            began = began or at
            missing.discard(address)
        if not missing:
            break
    assert not missing
    speaker.wait(lambda: {solicited(address) for address in addresses[250:]} <= groups(segment, "eth0"))
    assert at - began < 1.0


def read_all(follower: Follower) -> None:
    """Until nothing is left to read and no dump runs."""
    while select.select([follower], [], [], 5.0 if follower.dumping else 0.0)[0]:
        follower.read()


def groups(segment, name: str) -> set[IPv6Address]:
    """The IPv6 groups that the node's kernel is in on an interface."""
    with inside(segment.node.name), open("/proc/thread-self/net/igmp6") as listed:
        return {IPv6Address(bytes.fromhex(line.split()[2])) for line in listed if line.split()[1] == name}
