"""Every row of the failover table, in virtual time: several speakers on one wire, and what fails."""

import pytest

from lbctl_l2.segment import Segment
from lbctl_l2.values import Order

VIP = "10.0.0.100"
VIP6 = "fd00::100"
GOAL = 0.35


def cluster(*names: str, addresses: tuple[str, ...] = (VIP, VIP6), **wire: float) -> Segment:
    """Settled speakers; the first announces all addresses, and all is quiet."""
    segment = Segment(**wire)
    segment.add(*names)
    for address in addresses:
        segment.order(address, *names)
    segment.run(1)
    segment.settle()
    segment.run(6)
    assert all(segment.speakers(address) == [names[0]] for address in addresses)
    return segment


@pytest.mark.parametrize("address", [VIP, VIP6])
@pytest.mark.parametrize("fail", ["kill", "silence", "unplug", "freeze"])
@pytest.mark.parametrize("phase", [0.0, 0.03, 0.06, 0.09])
def test_the_next_one_announces_within_350_ms(address, fail, phase):
    segment = cluster("a", "b", "c")
    segment.run(phase)
    began = segment.now
    getattr(segment, fail)("a")
    segment.run(2)
    others = [spell for spell in segment.spells[segment.address(address)] if spell.node == "b"]
    assert others[0].since - began <= GOAL
    assert segment.announcers(address, began)[-1] == "b" if fail == "silence" else ["b"]


def test_a_client_that_knows_the_dead_ones_mac_learns_the_new_one():
    segment = cluster("a", "b")
    client = segment.host("client")
    client.ask(VIP)
    client.ask(VIP6)
    segment.run(0.1)
    segment.kill("a")
    segment.run(1)
    assert set(client.cache.values()) == {segment.mac("b")}


class Untold(Segment):
    """Nobody is told of anybody, for now."""

    def tell(self, *names: str) -> None:
        """Later."""


@pytest.mark.parametrize("late", [0.0, 0.05, 0.15, 0.25, 0.35, 1.0])
@pytest.mark.parametrize("address", [VIP, VIP6])
@pytest.mark.parametrize("names", ["ab", "ba"])
def test_two_that_begin_before_they_know_each_other_take_no_offence(address, names, late):
    segment = Untold()
    segment.add(*names)
    segment.kill(*names)
    for name in names:
        segment.nodes[name].told = ((Order(segment.address(address), (name,), probe=True),), ())
    segment.start(names[0])
    segment.at(segment.now + late, lambda: segment.start(names[1]))
    segment.run(9)
    assert [len(node.machine.report().conflicts) for node in segment.nodes.values()] == [0, 0]
    assert len(segment.speakers(address)) == 1
    segment.order(address, *names)
    Segment.tell(segment)
    segment.run(3)
    assert [len(node.machine.report().conflicts) for node in segment.nodes.values()] == [0, 0]
    assert len(segment.speakers(address)) == 1


def test_one_lost_heartbeat_moves_nothing():
    segment = cluster("a", "b", loss=0.02)
    began = segment.now
    segment.run(60)
    assert segment.announcers(VIP, began) in ([], ["a"])


def test_nothing_moves_on_a_busy_machine():
    for seed in range(3):
        segment = cluster(*"abcde", late=0.12, seed=seed)
        began = segment.now
        segment.run(30)
        assert segment.announcers(VIP, began) == []


def test_nothing_moves_where_frames_are_read_late_too():
    for seed in range(3):
        segment = cluster(*"abcde", late=0.06, slow=0.05, seed=seed)
        began = segment.now
        segment.run(30)
        assert segment.announcers(VIP, began) == []


def test_a_frozen_one_that_resumes_says_nothing_and_stands_by():
    segment = cluster("a", "b")
    segment.freeze("a")
    segment.run(6)
    began = segment.now
    segment.resume("a")
    segment.run(5)
    assert segment.speakers(VIP) == ["b"]
    assert segment.announcers(VIP, began) == []
    assert segment.longest_double(VIP, began) == 0


def test_a_short_stop_moves_nothing():
    segment = cluster("a", "b")
    began = segment.now
    segment.freeze("a")
    segment.run(0.12)
    segment.resume("a")
    segment.run(5)
    assert segment.speakers(VIP) == ["a"]
    assert segment.announcers(VIP, began) == []


def test_a_whole_cluster_that_was_suspended_announces_again():
    segment = cluster("a", "b", "c")
    segment.freeze(*"abc")
    segment.run(60)
    began = segment.now
    segment.resume(*"abc")
    segment.run(2)
    assert segment.speakers(VIP) == ["a"]
    assert segment.longest_silence(VIP, began) <= GOAL


@pytest.mark.parametrize("many", [5, 7])
def test_several_of_ten_killed_at_once(many):
    names = "abcdefghij"
    segment = cluster(*names)
    for number, name in enumerate(names[:many]):
        segment.order(f"10.0.1.{number}", name, *(other for other in names if other != name))
    segment.run(2)
    began = segment.now
    segment.kill(*names[:many])
    segment.run(2)
    for address in (VIP, VIP6, *(f"10.0.1.{n}" for n in range(many))):
        assert segment.speakers(address) == [names[many]]
        assert segment.longest_silence(address, began) <= GOAL


def test_a_kill_20_s_after_two_left_in_good_order():
    segment = cluster("a", "b", "c", "d")
    segment.leave("b")
    segment.leave("c")
    segment.run(20)
    began = segment.now
    segment.kill("a")
    segment.run(2)
    assert segment.speakers(VIP) == ["d"]
    assert segment.longest_silence(VIP, began) <= GOAL


@pytest.mark.parametrize("address", [VIP, VIP6])
def test_sigterm_hands_over_without_a_moment_when_nobody_answers(address):
    segment = cluster("a", "b", "c")
    began = segment.now
    segment.leave("a")
    segment.run(5)
    assert segment.nodes["a"].machine is None
    assert segment.longest_silence(address, began) == 0
    assert segment.announcers(address, began) == ["b"]
    assert segment.longest_double(address, began) < 0.01


def test_leaving_takes_a_blink_and_a_lone_one_leaves_at_once():
    segment = cluster("a", "b")
    segment.leave("a")
    segment.run(0.05)
    assert segment.nodes["a"].machine is None
    segment.leave("b")
    assert segment.nodes["b"].machine is None


def test_all_leave_one_after_the_other():
    segment = cluster("a", "b", "c")
    began = segment.now
    for name in "ab":
        segment.leave(name)
        segment.run(0.5)
    assert segment.speakers(VIP) == ["c"]
    assert segment.longest_silence(VIP, began) == 0


@pytest.mark.parametrize(("one", "other"), [("a", "bcd"), ("ab", "cd"), ("b", "acd"), ("abc", "d")])
def test_a_healed_partition_leaves_exactly_one_within_a_second(one, other):
    segment = cluster("a", "b", "c", "d")
    client = segment.host("client")
    segment.partition({*one}, {*other, "client"})
    segment.run(10)
    client.ask(VIP)
    segment.run(0.1)
    segment.heal()
    segment.run(1)
    assert len(segment.speakers(VIP)) == 1
    segment.run(10)
    assert client.cache[segment.address(VIP)] == segment.mac(*segment.speakers(VIP))


def test_no_cache_is_left_at_a_node_that_does_not_announce_after_a_partition():
    for seed in range(10):
        segment = cluster("a", "b", "c", "d", seed=seed)
        here, there = segment.host("here"), segment.host("there")
        segment.partition({"a", "here"}, {"b", "c", "d", "there"})
        segment.run(3)
        here.ask(VIP)
        there.ask(VIP)
        segment.run(1)
        segment.heal()
        segment.run(6)
        assert here.cache == there.cache == {segment.address(VIP): segment.mac(*segment.speakers(VIP))}


def test_a_node_that_was_cut_off_does_not_take_its_addresses_back():
    segment = cluster("a", "b", "c", "d")
    segment.silence("a")
    segment.run(5)
    segment.silence("a", silent=False)
    segment.run(10)
    assert segment.speakers(VIP) == ["b"]


def test_a_node_that_comes_back_waits_until_it_is_settled():
    segment = cluster("a", "b")
    segment.kill("a")
    segment.run(6)
    began = segment.now
    segment.start("a")
    segment.run(29)
    assert segment.speakers(VIP) == ["b"]
    assert segment.announcers(VIP, began) == []
    segment.run(10)
    assert segment.speakers(VIP) == ["a"]
    assert segment.announcers(VIP, began) == ["a"]
    assert segment.longest_silence(VIP, began) == 0


def test_an_announcer_that_restarts_alone_announces_again_at_once():
    segment = cluster("a")
    segment.kill("a")
    segment.run(1)
    began = segment.now
    segment.start("a")
    segment.run(1)
    assert segment.longest_silence(VIP, began) < 0.05


def test_a_restart_faster_than_its_death_is_noticed_leaves_one():
    segment = cluster("a", "b")
    began = segment.now
    segment.kill("a")
    segment.run(0.05)
    segment.start("a")
    segment.run(2)
    assert len(segment.speakers(VIP)) == 1
    assert segment.longest_silence(VIP, began) <= GOAL


def test_a_new_announcer_always_sends_a_gratuitous_announcement():
    segment = cluster("a", "b", "c")
    for fail, heal in (("kill", "start"), ("unplug", "plug"), ("freeze", "resume")):
        for _ in range(3):
            began, before = segment.now, segment.speakers(VIP)
            getattr(segment, fail)(*before)
            segment.run(2)
            assert segment.announcers(VIP, began) == segment.speakers(VIP) != before
            getattr(segment, heal)(*before)
            segment.run(40)
            assert segment.announcers(VIP, began)[-1:] == segment.speakers(VIP)


def test_a_pulled_link_that_is_back_in_200_ms_is_announced_by_the_same():
    segment = cluster("a", "b")
    began = segment.now
    segment.unplug("a")
    segment.run(0.15)
    segment.plug("a")
    segment.run(2)
    assert segment.speakers(VIP) == ["a"]
    assert segment.announcers(VIP, began) == ["a"]


def test_a_pulled_link_that_is_back_later_waits_until_it_is_settled():
    segment = cluster("a", "b")
    segment.unplug("a")
    segment.run(6)
    began = segment.now
    segment.plug("a")
    segment.run(20)
    assert segment.speakers(VIP) == ["b"]
    assert segment.announcers(VIP, began) == []


def test_all_links_lost_and_back():
    segment = cluster("a", "b", "c")
    for name in "abc":
        segment.unplug(name)
    segment.run(10)
    assert segment.speakers(VIP) == []
    began = segment.now
    for name in "abc":
        segment.plug(name)
    segment.run(1)
    assert len(segment.speakers(VIP)) == 1
    assert segment.longest_silence(VIP, began) <= GOAL


def test_the_switch_is_silent_for_a_while():
    segment = cluster("a", "b", "c")
    for name in "abc":
        segment.silence(name)
    segment.run(10)
    assert segment.speakers(VIP) == ["a", "b", "c"]
    for name in "abc":
        segment.silence(name, silent=False)
    segment.run(1)
    assert segment.speakers(VIP) == ["a"]


def test_one_deaf_ear_is_not_enough_where_two_links_are_shared():
    segment = Segment()
    segment.add("a", "b", links=[("eth0", "lan"), ("eth1", "dmz")])
    segment.order("192.0.2.1", "a", "b")
    segment.run(1)
    segment.settle()
    segment.run(6)
    began = segment.now
    segment.silence("a", 1)
    segment.run(3)
    assert segment.announcers("192.0.2.1", began) == []
    segment.silence("a", 2)
    segment.run(1)
    assert segment.announcers("192.0.2.1", began)[-1:] or segment.speakers("192.0.2.1") == ["a", "b"]


def test_an_address_moves_where_the_link_of_its_network_is_lost_though_others_live():
    segment = Segment()
    segment.add("a", "b", links=[("eth0", "lan"), ("eth1", "dmz")])
    segment.order(VIP, "a", "b")
    segment.run(1)
    segment.settle()
    segment.run(6)
    began = segment.now
    segment.unplug("a", 1)
    segment.run(2)
    assert segment.speakers(VIP) == ["b"]
    assert segment.longest_silence(VIP, began) <= GOAL


def test_an_order_that_moves_an_address_makes_before_it_breaks():
    segment = cluster("a", "b", "c")
    began = segment.now
    segment.order(VIP, "c", "a", "b")
    segment.run(5)
    assert segment.speakers(VIP) == ["c"]
    assert segment.longest_silence(VIP, began) == 0
    assert segment.announcers(VIP, began) == ["c"]


@pytest.mark.parametrize("ranking", ["cab", "cb"])
def test_the_old_one_answers_until_the_new_one_has_heard_its_order(ranking):
    segment = cluster("a", "b", "c")
    began = segment.now
    segment.order(VIP, *ranking, told=["a"])
    segment.run(5)
    assert segment.speakers(VIP) == ["a"]
    segment.tell()
    segment.run(1)
    assert segment.speakers(VIP) == ["c"]
    assert segment.longest_silence(VIP, began) == 0


def test_a_node_out_of_the_ranking_stops_at_last():
    segment = cluster("a", "b")
    segment.kill("b")
    segment.order(VIP, "b")
    segment.run(9)
    assert segment.speakers(VIP) == ["a"]
    segment.run(5)
    assert segment.speakers(VIP) == []


def test_two_with_different_orders_agree_within_a_second():
    segment = cluster("a", "b", "c")
    began = segment.now
    segment.order(VIP, "b", "a", "c", told=["b"])
    segment.run(8)
    assert len(segment.speakers(VIP)) == 1
    assert 0 < segment.longest_double(VIP, began) <= 1.0
    segment.tell()
    segment.run(5)
    assert segment.speakers(VIP) == ["b"]
    assert segment.longest_silence(VIP, began) == 0


@pytest.mark.parametrize("other", ["b", "c"])
def test_whoever_another_deferred_to_leaves_without_a_gap_too(other):
    segment = cluster("a", "b", "c")
    segment.order(VIP, other, "a", told=[other])
    segment.run(8)
    [speaker] = segment.speakers(VIP)
    began = segment.now
    segment.leave(speaker)
    segment.run(5)
    assert segment.longest_silence(VIP, began) == 0
    assert len(set(segment.speakers(VIP)) - {speaker}) == len(segment.speakers(VIP)) == 1


def test_a_withdrawn_address_ends_without_a_frame():
    segment = cluster("a", "b")
    began = segment.now
    segment.withdraw(VIP)
    segment.run(5)
    assert segment.speakers(VIP) == []
    assert segment.announcers(VIP, began) == []


def test_five_hundred_addresses_are_taken_over_as_fast_as_one():
    segment = cluster("a", "b", addresses=tuple(f"10.0.{n // 250 + 1}.{n % 250}" for n in range(500)))
    began = segment.now
    segment.kill("a")
    segment.run(0.35)
    assert all(segment.speakers(str(address)) == ["b"] for address in segment.orders)
    assert began


def test_a_cold_start_moves_nothing_when_one_after_the_other_settles():
    segment = Segment()
    for name in "abc":
        segment.add(name)
        segment.run(5)
    segment.order(VIP, "c", "b", "a")
    segment.run(6)
    began = segment.now
    assert segment.speakers(VIP) == ["c"]
    segment.run(60)
    assert segment.speakers(VIP) == ["c"]
    assert segment.announcers(VIP, began) == []
