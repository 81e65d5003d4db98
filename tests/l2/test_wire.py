"""One node's data plane, frame by frame: what it answers, announces, joins, and leaves alone."""

from ipaddress import IPv6Address, ip_address, ip_interface, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl_l2 import packets
from lbctl_l2.packets import Advertisement, Arp, Beat
from lbctl_l2.wire import Join, Leave, Link, Machine, Order, Out, Peer, PeerLink, Report, Send, State, Timing, revive

MAC, PEER_MAC, HOST_MAC = (bytes((2, 0, 0, 0, 0, n)) for n in (1, 2, 99))
VIP, VIP6, SAME_GROUP = "10.0.0.100", "fd00::1:2345", "fd00::9:0001:2345"
HOST, HOST6 = ip_address("10.0.0.7").packed, ip_address("fe80::7").packed
LINK = Link(1, "eth0", MAC, addresses=(ip_interface("10.0.0.1/24"), ip_interface("fd00::1/64")),
            link_local=IPv6Address("fe80::1"))
SECOND = Link(2, "eth1", bytes((2, 0, 0, 0, 1, 1)), addresses=(ip_interface("10.0.0.2/24"),),
              link_local=IPv6Address("fe80::2"))
PEER = Peer("b", (PeerLink("eth0", PEER_MAC, (ip_network("10.0.0.0/24"),)),))
T = Timing()


class Bench:
    """A machine, its clock, and what it has put out."""

    def __init__(self, *orders: Order, links: tuple[Link, ...] = (LINK,), peers: tuple[Peer, ...] = (),
                 settled: bool = True) -> None:
        self.now = 50.0
        self.machine = Machine("a", "test", T, self.now)
        self.out: list[Out] = self.machine.set_links(links, self.now)
        if settled:
            self.machine.settle(self.now)
        self.orders(*orders, peers=peers)

    def orders(self, *orders: Order, peers: tuple[Peer, ...] = ()) -> list[Out]:
        out = self.machine.set_orders(orders, peers, self.now)
        self.out += out
        return out

    def links(self, *links: Link) -> list[Out]:
        out = self.machine.set_links(links, self.now)
        self.out += out
        return out

    def run(self, seconds: float) -> list[tuple[float, Out]]:
        """Let time pass; what went out, and when."""
        until, log = self.now + seconds, []
        while (due := self.machine.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            log += [(round(self.now - until + seconds, 3), out) for out in self.machine.tick(self.now)]
        self.now = until
        self.out += [out for _, out in log]
        return log

    def hear(self, frame: bytes, link: int = 1) -> list[Out]:
        out = self.machine.frame(link, frame, self.now)
        self.out += out
        return out

    def state(self, address: str = VIP) -> State:
        return next(a.state for a in self.machine.report().addresses if a.address == ip_address(address))

    def dropped(self) -> dict[str, int]:
        return self.machine.report().counters.dropped


def order(address: str = VIP, *ranking: str, **more: object) -> Order:
    return msgspec.structs.replace(Order(ip_address(address), ranking or ("a",)), **more)


def said(out: list[Out]) -> list[packets.Packet | packets.Drop]:
    """What went out, without heartbeats."""
    parsed = [packets.parse(o.frame) for o in out if isinstance(o, Send)]
    return [packet for packet in parsed if not isinstance(packet, Beat)]


def gratuitous(out: list[Out]) -> list[packets.Packet | packets.Drop]:
    return [p for p in said(out) if (isinstance(p, Arp) and p.sender == p.target)
            or (isinstance(p, Advertisement) and p.override)]


ASK = packets.arp_request(HOST_MAC, HOST, ip_address(VIP).packed)
ASK6 = packets.solicitation(HOST_MAC, HOST6, ip_address(VIP6).packed)


# -- ARP ------------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_to_the_asker_alone():
    [reply] = said(Bench(order()).hear(ASK))
    assert reply == Arp(to=HOST_MAC, by=MAC, reply=True, sender_mac=MAC, sender=ip_address(VIP).packed,
                        target_mac=HOST_MAC, target=HOST)


def test_a_unicast_request_is_answered():
    assert said(Bench(order()).hear(packets.arp_request(HOST_MAC, HOST, ip_address(VIP).packed, to=MAC)))


def test_a_request_to_another_mac_is_not_answered():
    bench = Bench(order())
    assert not bench.hear(packets.arp_request(HOST_MAC, HOST, ip_address(VIP).packed, to=PEER_MAC))
    assert bench.dropped() == {"not-for-us": 1}


def test_a_reply_is_never_answered():
    assert not Bench(order()).hear(packets.arp_reply(HOST_MAC, HOST, MAC, ip_address(VIP).packed))


def test_a_probe_from_nobody_is_answered():
    assert said(Bench(order()).hear(packets.arp_probe(HOST_MAC, ip_address(VIP).packed)))


def test_an_address_that_is_not_ours_is_not_answered():
    bench = Bench(order("10.0.0.101"))
    assert not bench.hear(ASK)
    assert bench.dropped() == {"not-served": 1}


def test_an_interface_that_is_not_in_the_order_is_silent():
    bench = Bench(order(interfaces=frozenset({"eth1"})), links=(LINK, SECOND))
    assert not bench.hear(ASK, link=1)
    assert bench.hear(ASK, link=2)
    assert {o.link for o in bench.out if isinstance(o, Send) and gratuitous([o])} == {2}


def test_own_frames_are_ignored():
    bench = Bench(order())
    assert not bench.hear(packets.arp_request(MAC, HOST, ip_address(VIP).packed))
    assert not bench.hear(packets.gratuitous(MAC, ip_address(VIP).packed)[0])
    assert bench.dropped() == {"own": 2}


def test_the_announcement_is_said_five_times_in_pairs_1_1_s_apart():
    bench = Bench(order())
    first = gratuitous(bench.out)
    assert [packet.reply for packet in first] == [False, True]
    log = [(at, out) for at, out in bench.run(60) if gratuitous([out])]
    assert [at for at, _ in log] == [1.1, 1.1, 2.2, 2.2, 3.3, 3.3, 4.4, 4.4]


def test_a_periodic_announcement_goes_on():
    bench = Bench(order(periodic=10.0))
    bench.run(5)
    assert len(gratuitous([out for _, out in bench.run(60)])) == 12


def test_a_released_address_is_silent_at_once_and_announced_anew_when_it_is_back():
    bench = Bench(order())
    bench.run(1)
    assert bench.orders() == []
    assert not bench.hear(ASK)
    assert len(gratuitous(bench.orders(order()))) == 2
    assert len(gratuitous([out for _, out in bench.run(20)])) == 8


def test_two_links_announce_both():
    bench = Bench(order(), links=(LINK, SECOND))
    assert [(o.link, gratuitous([o])[0].by) for o in bench.out if gratuitous([o])] == [
        (1, MAC), (1, MAC), (2, SECOND.mac), (2, SECOND.mac)]


# -- neighbour discovery --------------------------------------------------------------------------------------------


def test_a_solicitation_is_answered_solicited_and_not_overriding():
    [answer] = said(Bench(order(VIP6)).hear(ASK6))
    assert answer == Advertisement(to=HOST_MAC, by=MAC, source=ip_address("fe80::1").packed,
                                   target=ip_address(VIP6).packed, mac=MAC, solicited=True, override=False)


def test_a_unicast_solicitation_without_an_option_is_answered():
    frame = packets.solicitation(HOST_MAC, HOST6, ip_address(VIP6).packed, to=MAC, option=False)
    [answer] = said(Bench(order(VIP6)).hear(frame))
    assert (answer.to, answer.solicited) == (HOST_MAC, True)


def test_a_duplicate_check_is_answered_before_all_nodes():
    [answer] = said(Bench(order(VIP6)).hear(packets.duplicate_check(HOST_MAC, ip_address(VIP6).packed)))
    assert (answer.to, answer.solicited) == (bytes.fromhex("333300000001"), False)


def test_the_ipv6_announcement_has_the_same_rounds():
    bench = Bench(order(VIP6))
    assert len(gratuitous(bench.out)) == 1
    assert [at for at, out in bench.run(60) if gratuitous([out])] == [1.1, 2.2, 3.3, 4.4]


def test_without_a_link_local_address_there_is_no_neighbour_discovery_until_there_is_one():
    tentative = msgspec.structs.replace(LINK, link_local=None)
    bench = Bench(order(VIP6), links=(tentative,))
    assert bench.state(VIP6) is State.NO_LINK
    assert not bench.hear(ASK6)
    out = bench.links(LINK)
    assert Join(1, IPv6Address("ff02::1:ff01:2345")) in out
    assert gratuitous(out)


def test_two_addresses_of_one_group_join_once_and_leave_with_the_last():
    group = IPv6Address("ff02::1:ff01:2345")
    bench = Bench(order(VIP6), order(SAME_GROUP))
    assert [out for out in bench.out if isinstance(out, Join)] == [Join(1, group)]
    assert bench.orders(order(SAME_GROUP)) == []
    assert said(bench.hear(packets.solicitation(HOST_MAC, HOST6, ip_address(SAME_GROUP).packed)))
    assert bench.orders() == [Leave(1, group)]


def test_the_next_in_the_ranking_listen_to_the_group_and_the_last_does_not():
    assert [out for out in Bench(order(VIP6, "b", "c", "a"), peers=(PEER,)).out if isinstance(out, Join)]
    peers = tuple(Peer(name, PEER.links) for name in "bcd")
    assert not [out for out in Bench(order(VIP6, *"bcda"), peers=peers).out if isinstance(out, Join)]


# -- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"up": False}, {"arp": False}])
def test_a_link_that_cannot_carry_arp_is_not_used(change):
    bench = Bench(order(), links=(msgspec.structs.replace(LINK, **change),))
    assert bench.state() is State.NO_LINK
    assert not bench.hear(ASK)


def test_no_ipv4_address_is_needed():
    assert said(Bench(order(), links=(msgspec.structs.replace(LINK, addresses=()),)).hear(ASK))


def test_a_late_interface_hears_the_announcements_and_joins_the_groups():
    bench = Bench(order(), order(VIP6))
    bench.run(30)
    out = bench.links(LINK, SECOND)
    assert {o.link for o in out if isinstance(o, Send)} == {2}
    assert len(gratuitous(out)) == 3
    assert [o for o in out if isinstance(o, Join)] == [Join(2, IPv6Address("ff02::1:ff01:2345"))]


def test_a_link_that_is_gone_is_forgotten_without_a_leave():
    bench = Bench(order(VIP6), links=(LINK, SECOND))
    assert not [out for out in bench.links(LINK) if isinstance(out, Leave)]
    assert not bench.hear(ASK6, link=2)
    assert bench.dropped() == {"unknown-link": 1}


def test_a_carrier_that_is_back_hears_the_announcements_again():
    bench = Bench(order())
    bench.run(30)
    bench.links(msgspec.structs.replace(LINK, up=False))
    assert not bench.hear(ASK)
    bench.run(0.2)
    assert len(gratuitous(bench.links(LINK))) == 2


def test_a_lone_node_whose_carrier_was_away_for_long_asks_and_announces():
    bench = Bench(order())
    bench.links(msgspec.structs.replace(LINK, up=False))
    bench.run(60)
    bench.links(LINK)
    assert bench.state() is State.ASKING
    assert len(gratuitous([out for _, out in bench.run(0.05)])) == 2


def test_a_new_mac_is_announced():
    bench = Bench(order())
    bench.run(10)
    assert gratuitous(bench.links(msgspec.structs.replace(LINK, mac=HOST_MAC)))[0].sender_mac == HOST_MAC


# -- probing and asking ---------------------------------------------------------------------------------------------


def probes(log: list[tuple[float, Out]]) -> list[float]:
    return [at for at, out in log for p in said([out]) if isinstance(p, Arp) and not any(p.sender)]


@pytest.mark.parametrize("address", [VIP, VIP6])
def test_an_address_never_announced_is_probed_three_times(address):
    bench = Bench(order(address, probe=True))
    assert bench.state(address) is State.PROBING
    assert len(said(bench.out)) == 1
    log = bench.run(0.31)
    assert [at for at, out in log if said([out]) and not gratuitous([out])] == [0.1, 0.2]
    assert bench.state(address) is State.SPEAKING


def test_a_duplicate_is_reported_not_announced_and_probed_again():
    bench = Bench(order(probe=True))
    bench.hear(packets.arp_reply(HOST_MAC, ip_address(VIP).packed, MAC, bytes(4)))
    assert bench.state() is State.DUPLICATE
    [conflict] = bench.machine.report().conflicts
    assert (conflict.address, conflict.mac, conflict.link, conflict.count) == (ip_address(VIP), HOST_MAC, "eth0", 1)
    assert not gratuitous([out for _, out in bench.run(9.9)])
    bench.run(0.5)
    assert bench.state() is State.SPEAKING


def test_a_duplicate_of_an_ipv6_address_is_reported():
    bench = Bench(order(VIP6, probe=True))
    bench.hear(packets.answer(HOST_MAC, HOST6, ip_address(VIP6).packed, MAC, bytes(16)))
    assert bench.state(VIP6) is State.DUPLICATE


def test_another_host_that_probes_the_same_address_is_a_duplicate():
    bench = Bench(order(probe=True))
    bench.hear(packets.arp_probe(HOST_MAC, ip_address(VIP).packed))
    assert bench.state() is State.DUPLICATE


def test_an_unsettled_node_asks_once_and_announces_on_silence():
    bench = Bench(order(), settled=False)
    assert bench.state() is State.ASKING
    log = bench.run(0.045)
    assert [at for at, out in log if gratuitous([out])] == [0.04, 0.04]


def test_a_stranger_that_answers_keeps_us_quiet_and_is_asked_again():
    bench = Bench(order(), settled=False)
    bench.hear(packets.arp_reply(HOST_MAC, ip_address(VIP).packed, MAC, bytes(4)))
    assert bench.state() is State.DUPLICATE
    assert len(probes(bench.run(1.01))) == 1


# -- conflicts ------------------------------------------------------------------------------------------------------

CLAIM = packets.gratuitous(HOST_MAC, ip_address(VIP).packed)[0]


def test_a_stranger_s_claim_is_reported_and_defended_against_once_in_ten_seconds():
    bench = Bench(order())
    bench.run(20)
    assert len(gratuitous(bench.hear(CLAIM))) == 2
    for _ in range(50):
        assert not bench.hear(CLAIM)
    bench.run(10)
    assert len(gratuitous(bench.hear(CLAIM))) == 2
    [conflict] = bench.machine.report().conflicts
    assert conflict.count == 52


def test_a_defence_against_a_speaker_does_not_use_up_the_one_against_a_stranger():
    bench = Bench(order(VIP, "a", "b"), peers=(PEER,))
    bench.run(20)
    [_, says_so] = packets.gratuitous(PEER.links[0].mac, ip_address(VIP).packed)
    assert gratuitous(bench.hear(says_so))
    assert gratuitous(bench.hear(CLAIM))


@pytest.mark.parametrize("claim", [
    packets.unsolicited(HOST_MAC, HOST6, ip_address(VIP6).packed),
    packets.solicitation(HOST_MAC, ip_address(VIP6).packed, HOST6),
])
def test_a_stranger_s_claim_of_an_ipv6_address_is_defended_against(claim):
    bench = Bench(order(VIP6))
    bench.run(20)
    assert len(gratuitous(bench.hear(claim))) == 1


def met(number: int = 99, life: bytes = bytes(8), flags: int = packets.Flag.UNSETTLED) -> bytes:
    """A heartbeat of a speaker that is on nobody's roll, from the host's MAC."""
    cluster, node = packets.fingerprint("test", 4), packets.fingerprint("z", 8)
    return packets.beat(HOST_MAC[:-1] + bytes([number]), packets.BROADCAST, cluster, node, life, flags, 1)


def test_a_newcomer_that_asks_for_a_sign_of_life_gets_one_alone():
    [out] = Bench(order()).hear(met(flags=packets.Flag.PING))
    assert (packets.parse(out.frame).to, packets.parse(out.frame).flags & packets.Flag.PING) == (HOST_MAC, 0)


def test_whoever_is_settled_gives_no_way_to_a_newcomer_and_reports_it_once_it_ought_to_be_known():
    bench = Bench(order())
    bench.run(20)
    bench.hear(met(flags=0))
    for _ in range(9):
        assert bench.hear(CLAIM)
        bench.run(1.0)
        bench.hear(met(flags=0))
    assert (bench.state(), bench.machine.report().conflicts) == (State.SPEAKING, ())
    bench.run(1.1)
    bench.hear(CLAIM)
    assert [conflict.mac for conflict in bench.machine.report().conflicts] == [HOST_MAC]


def test_a_newcomer_that_answers_is_left_the_address_and_asked_again():
    bench = Bench(order(), settled=False)
    bench.hear(met())
    bench.hear(packets.arp_reply(HOST_MAC, ip_address(VIP).packed, MAC, bytes(4)))
    assert (bench.state(), bench.machine.report().conflicts) == (State.STANDBY, ())
    bench.run(1.01)
    assert bench.state() is State.ASKING
    bench.run(1.0)
    assert bench.state() is State.SPEAKING


def test_newcomers_cannot_make_us_grow():
    bench = Bench(order())
    for number in range(250):
        bench.hear(met(number))
    assert len(bench.machine._roll._met) == 64


def test_strangers_cannot_make_the_conflicts_grow():
    bench = Bench(order())
    for n in range(1000):
        bench.hear(packets.gratuitous(b"\x02\x00\x01\x00" + n.to_bytes(2, "big"), ip_address(VIP).packed)[0])
    conflicts = bench.machine.report().conflicts
    assert len(conflicts) == 64
    assert conflicts[-1].mac[-2:] == (999).to_bytes(2, "big")
    assert len(gratuitous(bench.out)) == 4


def test_a_better_speaker_s_claim_silences_us_at_once_and_without_a_frame():
    bench = Bench(order(VIP, "b", "a"), peers=(PEER,))
    bench.run(0.5)
    assert bench.state() is State.SPEAKING
    assert not bench.hear(packets.gratuitous(PEER_MAC, ip_address(VIP).packed)[0])
    assert bench.state() is State.STANDBY
    assert not bench.hear(ASK)
    assert not bench.machine.report().conflicts


def test_a_worse_speaker_s_claim_is_defended_against():
    bench = Bench(order(VIP, "a", "b"), peers=(PEER,))
    bench.run(20)
    assert len(gratuitous(bench.hear(packets.gratuitous(PEER_MAC, ip_address(VIP).packed)[0]))) == 2
    assert bench.state() is State.SPEAKING


def test_a_late_frame_of_a_speaker_s_former_life_does_not_keep_us_quiet():
    bench = Bench(order(VIP, "x", "b", "a"), peers=(PEER,))
    for n in range(13):
        flags = packets.Flag.UNSETTLED | packets.Flag.IDLE | packets.Flag.WATCH
        bench.hear(packets.beat(PEER_MAC, MAC, packets.fingerprint("test", 4), packets.fingerprint("b", 8), bytes(8),
                                flags, n))
        if not n:
            bench.run(0.03)
            assert bench.state() is State.ASKING
            bench.hear(packets.gratuitous(PEER_MAC, ip_address(VIP).packed)[0])
        bench.run(0.1)
    assert bench.state() is State.SPEAKING


# -- strangers' frames ----------------------------------------------------------------------------------------------


def test_heartbeats_of_another_cluster_or_of_nobody_known_are_dropped():
    bench = Bench(order(), peers=(PEER,))
    mine, theirs = packets.fingerprint("test", 4), packets.fingerprint("other", 4)
    bench.hear(packets.beat(PEER_MAC, MAC, theirs, packets.fingerprint("b", 8), bytes(8), 0, 1))
    bench.hear(packets.beat(PEER_MAC, MAC, mine, packets.fingerprint("z", 8), bytes(8), 0, 1))
    assert bench.dropped() == {"other-cluster": 1, "unknown-peer": 1}
    assert bench.machine.report().peers[0].heard is None


def test_a_heartbeat_in_my_own_name_from_another_mac_is_a_namesake():
    bench = Bench(order(), peers=(PEER,))
    bench.hear(packets.beat(HOST_MAC, MAC, packets.fingerprint("test", 4), packets.fingerprint("a", 8), bytes(8), 0, 1))
    assert bench.dropped() == {"namesake": 1}


def test_a_speaker_with_a_new_mac_is_no_stranger_and_forgers_make_nothing_grow():
    bench = Bench(order(VIP, "b", "a"), peers=(PEER,))
    bench.run(0.5)
    for n in range(100):
        mac = bytes((2, 7, 7, 7, 7, n))
        bench.hear(packets.beat(mac, MAC, packets.fingerprint("test", 4), packets.fingerprint("b", 8), bytes(8), 8, n))
    assert not bench.hear(packets.gratuitous(mac, ip_address(VIP).packed)[0])
    assert bench.state() is State.STANDBY
    assert not bench.machine.report().conflicts
    assert {out.frame[:6] for _, out in bench.run(0.1)} == {PEER_MAC, mac}


def test_a_ping_is_answered_at_once():
    bench = Bench(peers=(PEER,))
    [out] = bench.hear(packets.beat(PEER_MAC, b"\xff" * 6, packets.fingerprint("test", 4), packets.fingerprint("b", 8),
                                    bytes(8), packets.Flag.PING, 1))
    assert packets.parse(out.frame).to == PEER_MAC


def test_a_heartbeat_goes_out_every_100_ms_to_each_peer():
    bench = Bench(peers=(PEER,))
    log = bench.run(1.0)
    beats = [at for at, out in log if packets.parse(out.frame).to == PEER_MAC]
    assert beats[:10] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


frames = st.one_of(
    st.binary(max_size=200), st.sampled_from([ASK, ASK6, CLAIM]),
    st.tuples(st.sampled_from([ASK, ASK6, CLAIM]), st.integers(0, 79), st.integers(0, 255)).map(
        lambda t: t[0][:t[1]] + bytes([t[2]]) + t[0][t[1] + 1:]))


@given(st.lists(st.tuples(frames, st.sampled_from([0, 1, 2]), st.floats(0, 0.2)), max_size=20))
def test_no_frames_whatever_stop_it(history):
    bench = Bench(order(VIP, "b", "a"), order(VIP6), peers=(PEER,))
    for frame, link, seconds in history:
        assert len(bench.hear(frame, link)) <= 6
        bench.run(seconds)
    bench.run(1)
    assert bench.state(VIP6) is State.SPEAKING
    assert said(bench.hear(ASK6))


# -- the rest -------------------------------------------------------------------------------------------------------


def test_a_node_that_was_frozen_forgets_what_it_spoke_for_and_what_was_queued():
    bench = Bench(order(), peers=(PEER,))
    bench.run(5)
    bench.now += 1.0
    assert not said(bench.hear(ASK))
    assert bench.state() is State.ASKING
    assert bench.dropped()["stale"] == 1
    assert not bench.machine.report().settled
    assert probes(bench.run(0.05)) == [0.02]
    assert bench.state() is State.ASKING


def test_a_report_survives_the_way_to_control():
    bench = Bench(order(), order(VIP6, "b", "a"), peers=(PEER,))
    bench.run(3)
    bench.hear(CLAIM)
    report = bench.machine.report()
    packed = msgspec.msgpack.encode(report, enc_hook=str)
    assert msgspec.msgpack.decode(packed, type=Report, dec_hook=revive) == report
    assert report.counters.gratuitous >= 8


def test_the_revision_grows_with_what_is_new_and_not_with_time():
    bench = Bench(order(), peers=())
    bench.run(10)
    before = bench.machine.revision
    bench.run(10)
    bench.hear(ASK)
    assert bench.machine.revision == before
    bench.hear(CLAIM)
    assert bench.machine.revision > before


def test_an_unchanged_order_changes_nothing():
    bench = Bench(order(), peers=(PEER,))
    bench.run(10)
    assert bench.orders(order(), peers=(PEER,)) == []


def test_a_lone_node_that_leaves_has_left():
    bench = Bench(order())
    out = bench.machine.leave(bench.now)
    assert bench.machine.left
    assert bench.machine.deadline() is None
    assert [packets.parse(o.frame).flags & packets.Flag.LEAVING for o in out] == [packets.Flag.LEAVING]


def test_leaving_takes_no_longer_than_it_may():
    bench = Bench(order(VIP, "a", "b"), peers=(PEER,))
    beat = packets.beat(PEER_MAC, MAC, packets.fingerprint("test", 4), packets.fingerprint("b", 8), bytes(8), 8, 1)
    bench.hear(beat)
    bench.machine.leave(bench.now)
    assert bench.state() is State.YIELDING
    for _ in range(14):
        bench.hear(beat)
        bench.run(0.1)
    assert said(bench.hear(ASK))
    bench.run(0.2)
    assert bench.machine.left


def test_a_death_s_dark_seconds_are_counted():
    bench = Bench(order(VIP, "b", "a"), peers=(PEER,))
    for n in range(10):
        bench.hear(packets.beat(PEER_MAC, MAC, packets.fingerprint("test", 4), packets.fingerprint("b", 8), bytes(8),
                                packets.Flag.WATCH, n))
        bench.hear(packets.gratuitous(PEER_MAC, ip_address(VIP).packed)[0])
        bench.run(0.1)
    bench.run(1)
    counters = bench.machine.report().counters
    assert counters.failovers == 1
    assert counters.dark == pytest.approx(0.27)


def test_changed_orders_leave_the_others_as_they_are():
    bench = Bench(order(VIP), order("10.0.0.101"), order("10.0.0.102"))
    out = bench.machine.change_orders([order("10.0.0.103"), order(VIP, "b")], [ip_address("10.0.0.101")], bench.now)
    assert {packet.target[-1] for packet in gratuitous(out)} == {103}
    states = {str(entry.address): entry.state for entry in bench.machine.report().addresses}
    assert states == {VIP: State.YIELDING, "10.0.0.102": State.SPEAKING, "10.0.0.103": State.SPEAKING}


def test_an_order_that_ended_twice_is_no_matter():
    bench = Bench(order(VIP))
    for _ in range(2):
        assert not said(bench.machine.change_orders((), [ip_address(VIP)], bench.now))
    assert not bench.machine.held


def test_without_another_roll_the_roll_stays():
    bench = Bench(order(VIP, "b", "a"), peers=(PEER,))
    bench.machine.change_orders([order("10.0.0.101", "b", "a")], (), bench.now)
    assert [peer.name for peer in bench.machine.report().peers] == ["b"]


def test_of_one_that_was_never_heard_no_dark_seconds_are_counted():
    bench = Bench(order(VIP, "b", "a"), peers=(PEER,))
    bench.hear(packets.gratuitous(PEER_MAC, ip_address(VIP).packed)[0])
    bench.run(1.0)
    counters = bench.machine.report().counters
    assert (bench.state(), counters.failovers, counters.dark) == (State.SPEAKING, 1, 0.0)
