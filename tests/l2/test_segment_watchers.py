"""Many speakers on one wire: each is watched by 19, everybody knows of a death, and nobody sends too much."""

import random

from lbctl_l2.packets import Beat, Kind, down, fingerprint, parse
from lbctl_l2.segment import Segment
from lbctl_l2.values import Timing

VIP = "10.0.0.100"
NAMES = tuple(f"n{number:02}" for number in range(30))


def crowd(names: tuple[str, ...] = NAMES) -> Segment:
    segment = Segment()
    segment.add(*names)
    segment.order(VIP, *names)
    segment.run(1)
    segment.settle()
    segment.run(1)
    return segment


def dead(segment: Segment, seen_by: str) -> set[str]:
    machine = segment.nodes[seen_by].machine
    assert machine is not None
    return {peer.name for peer in machine.report().peers if not peer.alive}


def notices(segment: Segment) -> list[str]:
    """From now on, the names of those who say that somebody is missed."""
    names: list[str] = []
    transmit = segment.transmit

    def listen(port, frame):
        packet = parse(frame)
        if isinstance(packet, Beat) and packet.kind is Kind.DOWN:
            names.append(port.owner.name)
        transmit(port, frame)

    segment.transmit = listen
    return names


def test_every_one_of_thirty_knows_of_a_death_in_350_ms():
    segment = crowd()
    segment.kill("n03")
    segment.run(0.35)
    assert all(dead(segment, name) == {"n03"} for name in NAMES if name != "n03")


def test_the_next_of_thirty_announces_within_350_ms():
    segment = crowd()
    began = segment.now
    segment.kill("n00", "n01", "n02")
    segment.run(1)
    assert segment.speakers(VIP) == ["n03"]
    assert segment.longest_silence(VIP, began) <= 0.35


def test_each_is_watched_by_nineteen_and_sends_as_much():
    segment = crowd()
    segment.run(4)
    before = dict(segment.sent)
    segment.run(2)
    assert all(185 <= (segment.sent[name] - before[name]) / 2 <= 200 for name in NAMES)


def test_a_restarted_one_is_known_to_all_at_once():
    segment = crowd()
    segment.kill("n03")
    segment.run(2)
    segment.start("n03")
    segment.run(0.2)
    assert not any(dead(segment, name) for name in NAMES)


def test_after_a_healed_partition_all_know_all_within_a_second():
    segment = crowd()
    segment.partition(NAMES[:15], NAMES[15:])
    segment.run(2)
    assert dead(segment, "n00") == set(NAMES[15:])
    segment.heal()
    segment.run(1)
    assert not any(dead(segment, name) for name in NAMES)
    assert segment.speakers(VIP) == ["n00"]


def test_a_false_notice_is_contradicted_by_its_subject_and_moves_nothing():
    segment = crowd()
    began = segment.now
    port = segment.port("n29")
    segment.transmit(port, down(port.link.mac, fingerprint("test", 4), fingerprint("n29", 8), fingerprint("n00", 8), 1))
    segment.run(1)
    assert not any(dead(segment, name) for name in NAMES)
    assert segment.speakers(VIP) == ["n00"]
    assert "n01" not in segment.announcers(VIP, began)


def test_those_who_need_not_watch_any_more_are_told_and_miss_nobody():
    segment = crowd(NAMES[:25])
    heard = notices(segment)
    segment.add("n90", "n91", "n92")
    segment.run(5)
    assert heard == []


def test_a_node_that_nobody_else_is_left_to_watch_is_watched_by_those_who_live():
    segment = crowd()
    segment.kill(*NAMES[4:])
    segment.run(1)
    segment.kill("n00")
    segment.run(0.35)
    assert all("n00" in dead(segment, name) for name in NAMES[1:4])
    assert segment.speakers(VIP) == ["n01"]


def test_leaving_is_heard_by_all_of_thirty():
    segment = crowd()
    began = segment.now
    segment.leave("n00")
    segment.run(1)
    assert segment.speakers(VIP) == ["n01"]
    assert segment.longest_silence(VIP, began) == 0


def test_two_subnets_on_one_wire_find_each_other_by_their_hellos():
    segment = Segment()
    segment.add("a", links=[("eth0", "lan")])
    segment.add("b", links=[("eth7", "nowhere"), ("eth8", "lan")])
    segment.order("192.0.2.1", "a", "b")
    segment.run(1)
    segment.settle()
    segment.run(6)
    segment.kill("a")
    segment.run(0.35)
    assert segment.speakers("192.0.2.1") == ["b"]


def test_a_hundred_nodes_with_a_thousand_addresses_send_at_most_200_frames_a_second_each():
    """At rest: a single round of announcements gets them there sooner."""
    names = tuple(f"n{number:02}" for number in range(100))
    segment = Segment(Timing(rounds=(0.0,)))
    segment.history = False
    segment.add(*names)
    segment.run(0.3)
    segment.settle()
    segment.run(0.2)
    dice = random.Random(1)
    segment.order_all({f"10.0.{n // 250}.{n % 250}": dice.sample(names, len(names)) for n in range(1000)})
    segment.run(0.3)
    before = dict(segment.sent)
    segment.run(1)
    assert max(segment.sent[name] - before[name] for name in names) <= 200
    assert all(len(segment.speakers(str(address))) == 1 for address in segment.orders)
