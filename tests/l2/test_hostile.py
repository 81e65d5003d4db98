"""Attacks: by hosts of the segment, by what others wrote, by a machine that gives nothing; and what remains of them."""

import itertools
import math
import os
import signal
import socket
import time
import types
from collections import Counter
from ipaddress import IPv4Address, ip_address, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl_l2 import channel, packets
from lbctl_l2.address import Address, Backlog
from lbctl_l2.checks import Surroundings, fault
from lbctl_l2.packets import Beat, Flag, Kind
from lbctl_l2.wire import MOST_CONFLICTS, TURN, Link, Machine, Order, Out, Peer, PeerLink, Send, State, Timing

if not hasattr(socket, "AF_PACKET"):
    pytest.skip("the speaker is Linux's", allow_module_level=True)

from lbctl_l2.channel import LARGEST, Command, DataPlane, Exclude, Line, Seen, Start, Update
from lbctl_l2.dataplane import FRAMES, MOST_WAITING, Loop

MAC, PEER_MAC, EVIL = (bytes((2, 0, 0, 0, 0, n)) for n in (1, 2, 66))
VIP = IPv4Address("10.0.0.0")
LINK = Link(1, "eth0", MAC)
PEER = Peer("b", (PeerLink("eth0", PEER_MAC),))
T = Timing()


class Node:
    """Node a and its clock; `b` is its peer, whose heartbeats anybody can forge."""

    def __init__(self, addresses: int = 1, *ranking: str, peers: tuple[Peer, ...] = ()) -> None:
        self.now, self.sent = 50.0, itertools.count(1)
        self.machine = Machine("a", "test", T, self.now)
        self.machine.set_links([LINK], self.now)
        self.machine.settle(self.now)
        orders = [Order(VIP + number, ranking or ("a",)) for number in range(addresses)]
        self.out = self.machine.set_orders(orders, peers, self.now)

    def run(self, seconds: float) -> list[Out]:
        until, out = self.now + seconds, []
        while (due := self.machine.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            out += self.machine.tick(self.now)
        self.now = until
        return out

    def forge(self, flags: int = 0, sequence: int | None = None, kind: Kind = Kind.BEAT, life: bytes = b"lifelife",
              name: str = "b") -> list[Out]:
        number = next(self.sent) if sequence is None else sequence
        to = MAC if kind is Kind.BEAT else packets.BROADCAST
        cluster, node = packets.fingerprint("test", 4), packets.fingerprint(name, 8)
        subject = life if kind is Kind.BEAT else packets.fingerprint("b", 8)
        return self.machine.frame(1, packets._beat(PEER_MAC, to, kind, flags, cluster, node, subject, number), self.now)

    def state(self) -> State:
        return self.machine.report().addresses[0].state


def to_all(out: list[Out]) -> list[Send]:
    return [one for one in out if isinstance(one, Send) and one.frame[0] & 1 and not one.urgent]


# -- much at once


def test_one_tick_acts_for_so_many_and_the_next_for_the_rest_in_order():
    node = Node(1000)
    node.run(1.0)
    node.now += 0.11
    ticks = [to_all(node.machine.tick(node.now)) for _ in range(8)]
    assert [len(tick) for tick in ticks] == [2 * TURN] * 7 + [2 * (1000 - 7 * TURN)]
    said = [IPv4Address(send.frame[28:32]) for send in itertools.chain(*ticks)]
    assert said == sorted(said)


def test_each_waits_once_however_often_and_in_whatever_way_it_is_added():
    addresses = [Address(Order(VIP + number, ("a",)), 0.0) for number in range(6)]
    backlog = Backlog(2)
    backlog.add_all(addresses)
    backlog.add([addresses[4]])
    assert [backlog.next(), backlog.next(), backlog.next()] == [addresses[4], addresses[0], None]
    assert [backlog.discard(addresses[number]) for number in (2, 2, 0)] == [True, False, False]
    backlog.add([addresses[0]])
    found = []
    while backlog:
        backlog.turn()
        found += [address for address in (backlog.next(), backlog.next()) if address is not None]
    assert found == [addresses[0], addresses[1], addresses[3], addresses[5]]
    assert not backlog._seen


@given(st.lists(st.one_of(
    st.tuples(st.sampled_from(["add", "discard"]), st.integers(0, 5)),
    st.tuples(st.sampled_from(["all", "next"]), st.none())), max_size=40))
def test_a_backlog_is_as_a_plain_list_would_be(does):
    addresses = [Address(Order(VIP + number, ("a",)), 0.0) for number in range(6)]
    backlog, waiting = Backlog(1), set()
    for what, number in does:
        if what == "all":
            backlog.add_all(addresses)
            waiting = set(addresses)
        elif what == "add":
            backlog.add([addresses[number]])
            waiting.add(addresses[number])
        elif what == "discard":
            assert backlog.discard(addresses[number]) is (addresses[number] in waiting)
            waiting.discard(addresses[number])
        else:
            backlog.turn()
            found = backlog.next()
            assert found in waiting if waiting else found is None
            waiting.discard(found)
        assert bool(backlog) or not waiting


def test_what_was_withdrawn_is_not_announced_by_what_was_due_for_it():
    node = Node(300)
    node.run(0.5)
    node.machine.change_orders((), [VIP], node.now)
    node.now = 51.1
    node.machine.set_links([msgspec.structs.replace(LINK, name="lan0")], node.now)
    out = node.run(5.0)
    assert len(node.machine.held) == node.machine._speaking == 299
    assert VIP not in {send.announces for send in to_all(out)}


def test_while_there_is_more_the_deadline_is_past():
    node = Node(1000)
    node.run(1.0)
    node.now += 0.11
    node.machine.tick(node.now)
    assert node.machine.deadline() <= node.now


@pytest.mark.parametrize("periodic", [-1.0, 1e-9, math.nan])
def test_an_absurd_period_is_no_storm(periodic):
    node = Node()
    node.machine.set_orders([Order(VIP, ("a",), periodic=periodic)], (), node.now)
    assert len(to_all(node.run(60.0))) < 120


@pytest.fixture
def work(monkeypatch):
    """What one call did: addresses placed, judged and acted for."""
    done: Counter[str] = Counter()
    for name in ("_place", "_judge", "_act"):
        monkeypatch.setattr(Machine, name, counting(done, name, getattr(Machine, name)))
    return done


def counting(done, name, real):
    def counted(machine, address):
        done[name] += 1
        return real(machine, address)

    return counted


def test_no_call_does_more_than_its_share_whatever_happens_to_thousands(work):
    node, most = Node(3000, "b", "a", peers=(PEER,)), 0
    node.forge()
    for happens in (lambda: (), lambda: node.forge(Flag.LEAVING), lambda: node.machine.set_links([], node.now),
                    lambda: node.machine.set_links([LINK], node.now), lambda: node.machine.leave(node.now)):
        work.clear()
        happens()
        most = max(most, *work.values(), 0)
        end = node.now + 2.0
        while (due := node.machine.deadline()) is not None and due < end:
            work.clear()
            node.now = max(node.now, due)
            node.machine.tick(node.now)
            most = max(most, *work.values(), 0)
    assert TURN <= most <= 3 * TURN


def test_thousands_are_taken_over_at_the_same_instant_without_a_pause():
    node = Node(1000, "b", "a", peers=(PEER,))
    node.forge()
    out = to_all(node.run(T.dead + T.ask + 0.001))
    asked = [send for send in out if send.announces is None]
    assert (len(asked), len({send.announces for send in out} - {None})) == (1000, 1000)


def test_heartbeats_come_before_what_is_due_for_thousands():
    node = Node(1000, peers=(PEER,))
    node.run(1.0)
    node.now += 0.11
    first, *rest = (send.urgent for send in node.machine.tick(node.now) if isinstance(send, Send))
    assert (first, any(rest)) == (True, False)


def test_nobody_takes_over_by_what_was_true_before():
    node = Node(1000, "b", "a", peers=(PEER,))
    node.forge()
    node.run(T.dead + T.ask - 0.001)
    node.forge()
    node.now += 0.05
    while node.machine.deadline() <= node.now:
        out = node.machine.tick(node.now)
        assert not [send for send in out if isinstance(send, Send) and send.announces]


def test_whoever_leaves_with_thousands_stays_until_all_are_handed_over():
    node = Node(1000, "a", "b", peers=(PEER,))
    node.run(0.05)
    node.forge()
    node.machine.leave(node.now)
    assert not node.machine.left
    node.run(0.1)
    assert {address.state for address in node.machine.report().addresses} == {State.YIELDING}
    assert not node.machine.left


# -- forged heartbeats


def test_a_heartbeats_number_wraps_and_the_flags_still_count():
    node = Node(1, "b", "a", peers=(PEER,))
    node.forge(sequence=2**32 - 1)
    node.run(0.05)
    node.forge(Flag.LEAVING, sequence=3)
    node.run(0.05)
    assert node.machine.report().peers[0].leaving


def test_a_forged_number_far_ahead_does_not_mute_a_speaker():
    node = Node(1, "b", "a", peers=(PEER,))
    node.forge(sequence=2**31)
    node.forge(Flag.LEAVING, sequence=7)
    assert node.machine.report().peers[0].leaving


def test_an_overtaken_heartbeat_is_no_news():
    node = Node(1, "b", "a", peers=(PEER,))
    node.forge(sequence=100)
    node.forge(Flag.LEAVING, sequence=99)
    assert not node.machine.report().peers[0].leaving


def test_a_forged_notice_buries_nobody_where_all_watch_all():
    node = Node(1, "b", "a", peers=(PEER,))
    node.forge()
    node.forge(kind=Kind.DOWN)
    assert node.machine.report().peers[0].alive


def test_a_speaker_that_seems_to_come_and_go_makes_no_storm_of_questions():
    node, out = Node(500, "b", "a", peers=(PEER,)), []
    node.run(1.0)
    for turn in range(200):
        out += node.forge(0 if turn % 2 else Flag.LEAVING, life=bytes(7) + bytes([turn % 2]))
        out += node.run(0.01)
    assert len(to_all(out)) < 2.5 * 500 * 2


def test_forged_heartbeats_do_not_make_the_machine_grow():
    node = Node(50, "b", "a", peers=(PEER,))
    for turn in range(3000):
        node.forge(0 if turn % 2 else Flag.LEAVING, life=turn.to_bytes(8, "big"))
        node.run(0.01)
    assert len(node.machine._heap) < 50 * 200


# -- frames of any kind

QUESTION = packets.arp_request(EVIL, IPv4Address("10.9.9.9").packed, VIP.packed)
CLAIM = packets.gratuitous(EVIL, VIP.packed)[0]
BEAT = packets._beat(PEER_MAC, MAC, Kind.BEAT, 0, packets.fingerprint("test", 4), packets.fingerprint("b", 8),
                     b"lifelife", 1)


@pytest.mark.parametrize("frame", [QUESTION, CLAIM, BEAT], ids=["question", "claim", "beat"])
def test_a_frame_cut_short_anywhere_or_far_too_long_ends_nothing_and_is_counted(frame):
    node = Node(1, "b", "a", peers=(PEER,))
    for data in (*(frame[:length] for length in range(len(frame))), frame + bytes(9000), b"", bytes(65_535)):
        node.machine.frame(1, data, node.now)
    counters = node.machine.report().counters
    assert counters.received == len(frame) + 3
    assert counters.requests + counters.conflicts + sum(counters.dropped.values()) >= len(frame) - 64


@given(st.binary(max_size=200), st.sampled_from([b"", QUESTION[:14], BEAT[:42], b"\x33" * 2 + bytes(10) + b"\x86\xdd"]))
def test_no_frame_whatever_ends_the_machine(noise, head):
    node = Node(2, "a", "b", peers=(PEER,))
    node.machine.frame(1, head + noise, node.now)
    node.machine.tick(node.now)


def test_a_storm_of_claims_is_answered_now_and_then_and_remembered_in_bounds():
    node, out = Node(), []
    for number in range(5000):
        evil = b"\x02\x66" + number.to_bytes(4, "big")
        out += node.machine.frame(1, packets.gratuitous(evil, VIP.packed)[0], node.now)
        node.now += 0.0001
    report = node.machine.report()
    assert (len(to_all(out)), len(report.conflicts), report.counters.conflicts) == (2, MOST_CONFLICTS, 5000)


def test_a_storm_of_questions_gets_one_answer_each_and_nothing_to_all():
    node = Node()
    out = [one for _ in range(1000) for one in node.machine.frame(1, QUESTION, node.now)]
    assert (len(out), to_all(out)) == (1000, [])


def test_one_turn_reads_so_many_frames_and_no_more(loop, monkeypatch):
    asked = []
    monkeypatch.setattr(loop._sockets, "receive", lambda port, most: asked.append(most) or [QUESTION] * most)
    loop._answer(types.SimpleNamespace(link=1))
    assert (asked, loop._machine.report().counters.received) == ([FRAMES], FRAMES)


# -- what waits to be sent


@pytest.fixture
def ends():
    control, plane = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control, plane:
        yield control, plane


@pytest.fixture
def control(ends):
    """Control's end of the channel."""
    return ends[0]


@pytest.fixture
def loop(ends):
    line: Line[Command] = Line(ends[1], Command)
    made = Loop(line, Start("a", "test", T, (".*",)))
    yield made
    made.close()


@pytest.fixture
def sent(loop, monkeypatch):
    frames: list[bytes] = []
    monkeypatch.setattr(loop._sockets, "send", lambda link, frame: frames.append(frame))
    return frames


def test_a_goodbye_overtakes_all_that_waits(loop, sent):
    loop._do([Send(1, packets.BROADCAST + bytes(36))] * 1000)
    loop._do([Send(1, packets.BROADCAST + b"leaving", urgent=True)])
    assert sent == [packets.BROADCAST + b"leaving"]


def test_the_machines_goodbye_is_urgent():
    node = Node(1, "a", "b", peers=(PEER,))
    assert [send.urgent for send in node.machine.leave(node.now) if isinstance(send, Send)] == [True]


def test_an_announcement_that_waited_too_long_is_not_sent(loop, sent):
    loop._do([Send(1, packets.BROADCAST + bytes(36), announces=VIP)])
    loop._send_waiting()
    assert not sent


def test_a_flood_does_not_make_the_queue_grow(loop, sent):
    loop._do([Send(1, packets.BROADCAST + bytes(36))] * (MOST_WAITING + 10))
    assert len(loop._waiting) == MOST_WAITING
    assert loop._report().counters.dropped["crowded-out"] == 10


@pytest.mark.parametrize("links", [1, 3])
def test_one_turn_sends_what_one_turn_makes_on_every_link(loop, sent, links):
    loop._links = (LINK,) * links
    loop._do([Send(1, packets.BROADCAST + bytes(36))] * 10_000)
    loop._send_waiting()
    assert len(sent) == 2 * TURN * links


def test_what_the_kernel_takes_in_no_piece_is_counted_and_ends_nothing(loop, ends):
    ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    loop._news.seen(Seen((), {"eth0": "x" * 100_000}))
    loop._tell()
    assert loop._report().counters.dropped["news-too-large"] == 1


def test_news_too_large_for_the_line_are_counted_and_end_nothing(loop):
    loop._news.seen(Seen((), {f"eth{number}": "x" * 100 for number in range(2000)}))
    loop._tell()
    assert loop._report().counters.dropped["news-too-large"] == 1


# -- the last word


@pytest.mark.parametrize("why", ["asked", "control is gone"])
def test_goodbyes_are_out_before_the_end_though_thousands_of_frames_wait(loop, control, sent, why):
    loop._do(loop._machine.set_links([LINK], loop._now))
    loop._do(loop._machine.set_orders([Order(VIP + number, ("a",)) for number in range(500)], (PEER,), loop._now))
    loop._do([Send(1, packets.BROADCAST + bytes(36))] * 10_000)
    loop.leave() if why == "asked" else control.close()
    loop.run()
    assert any(isinstance(beat := packets.parse(frame), Beat) and beat.flags & Flag.LEAVING for frame in sent)


def test_what_waits_at_the_end_is_not_said_of_addresses_that_are_others_now(loop, sent):
    loop._do([Send(1, packets.BROADCAST + bytes(36), announces=VIP)] * 1000)
    loop.leave()
    loop.run()
    assert not sent


# -- what control never means

ORDER = {"type": "Update", "orders": [{"address": str(VIP), "ranking": ["a"]}]}
GARBAGE = [b"\xc1", b"\x91" * 100_000, b"\x00", b"\x81\xa4type\xa1\xff", *map(msgspec.msgpack.encode, (
    {"type": "Elope"}, {"type": "Exclude", "patterns": ["("]}, ["Settle"],
    {"type": "Update", "orders": [{"address": "10.0.0.1/8", "ranking": ["a"]}]},
    {"type": "Update", "orders": [{"address": "banana", "ranking": ["a"]}]},
    {"type": "Update", "peers": [{"name": "b", "links": [{"name": "eth0", "mac": 7}]}]}))]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_of_control_is_counted_and_the_orders_stand(loop, control, garbage):
    for message in (msgspec.msgpack.encode(ORDER), garbage, garbage):
        control.send(message)
        loop._listen()
    assert (set(loop._machine.held), loop._report().counters.dropped["control-garbled"]) == ({VIP}, 2)


def test_garbage_of_control_is_said_once(loop, control):
    for _ in range(3):
        control.send(b"\xc1")
        loop._listen()
    said = [msgspec.msgpack.decode(control.recv(LARGEST))]
    assert [line["message"] for line in said] == ["control cannot be understood; the last orders stand"]
    with pytest.raises(BlockingIOError):
        control.recv(LARGEST, socket.MSG_DONTWAIT)


# -- the handle


def until(condition, within: float = 10.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_machine_without_room_for_a_process_gets_one_later(monkeypatch):
    real, failures, logs = channel.spawn, iter([OSError(11, "no more processes")] * 2), []

    def spawn(end: int):
        if error := next(failures, None):
            raise error
        return real(end)

    monkeypatch.setattr(channel, "spawn", spawn)
    plane = DataPlane("a", "test", excluded=(".*",), logged=logs.append).start()
    until(plane.report)
    plane.leave(1.0)
    assert [log.message for log in logs][:2] == ["the data plane cannot be started; trying again"] * 2


def test_a_data_plane_that_is_stuck_is_replaced_however_busy_control_is(monkeypatch):
    monkeypatch.setattr(channel, "SILENT", 2)
    plane = DataPlane("a", "test", excluded=(".*",)).start()
    until(plane.report)
    stuck = plane.pid
    os.kill(stuck, signal.SIGSTOP)
    busy = itertools.count(1)
    until(lambda: plane.orders([Order(VIP + next(busy), ("a",))], ()) or plane.pid != stuck)
    plane.leave(1.0)


def test_a_speaker_of_absurd_size_ends_nothing():
    plane = DataPlane("a", "test", excluded=(".*",)).start()
    huge = Peer("b", tuple(PeerLink(f"eth{number}", MAC, (ip_network("10.0.0.0/24"),)) for number in range(9000)))
    plane.orders([Order(VIP, ("a", "b"))], [huge])
    until(lambda: (report := plane.report()) and report.addresses)
    plane.leave(1.0)
    assert plane.restarts == 0


# -- what others wrote

AROUND = Surroundings(frozenset(), frozenset(), frozenset(), (), lambda address: "everything")


@pytest.mark.parametrize("address", ["255.255.255.255", "2001:db8::1%eth0", "fe80::1", "ff02::1", "::", "0.0.0.0"])
def test_what_no_host_may_have_is_not_announced_even_from_a_pool(address):
    assert fault(ip_address(address), AROUND).reason == "not-announceable"


def test_orders_for_an_update_that_never_ends_are_acted_upon_all_the_same(loop):
    for part in range(3):
        loop._update(Update(tuple(Order(VIP + part * 500 + n, ("a",)) for n in range(500)), more=True))
    assert len(loop._machine.report().addresses) == 1500


def test_one_order_among_a_thousand_costs_one(loop, monkeypatch):
    loop._update(Update(tuple(Order(VIP + number, ("a",)) for number in range(1000))))
    taken: Counter[str] = Counter()
    monkeypatch.setattr(Machine, "_take", counting(taken, "_take", Machine._take))
    loop._update(Update((Order(VIP + 7, ("b", "a")),), (VIP + 8,)))
    assert (taken["_take"], len(loop._machine.held), loop._orders, loop._ended) == (1, 999, {}, {})


def test_what_ends_and_begins_again_in_parts_is_there(loop):
    loop._update(Update((Order(VIP, ("a",)),), more=True))
    loop._update(Update((), (VIP,), more=True))
    loop._update(Update((Order(VIP, ("b", "a")),)))
    assert set(loop._machine.held) == {VIP}


def test_another_list_of_exclusions_drops_no_link_while_interfaces_are_listed_anew(loop):
    loop._links = (LINK,)
    loop._exclude(Exclude(()))
    assert (loop._follower.knows, loop._links) == (False, (LINK,))
    loop._selector.unregister(loop._follower)
    loop._follower.close()
    loop._follower = None
    loop._exclude(Exclude(("eth9",)))
    assert (loop._links, loop._excluded.patterns) == ((LINK,), ("eth9",))


def test_once_all_interfaces_are_listed_they_are_used(loop):
    while not loop._follower.knows:
        loop.turn()
    loop._exclude(Exclude(("^nothing$",)))
    assert loop._unusable["lo"].startswith("not-ethernet")
