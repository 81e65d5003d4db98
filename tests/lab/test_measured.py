"""What the instruments' notes mean. Needs no namespaces."""

from lbctl_l2.lab.measured import Announcement, Answers, Asked, Longest, Probe, Seen
from lbctl_l2.lab.rig import vip
from lbctl_l2.lab.table import Row, lines, percentile


def answers(nodes: str) -> Answers:
    """One letter for each question, 10 ms apart, from 1 s on; a dot was not answered."""
    times = [1 + 0.01 * at for at in range(len(nodes))]
    asked = (Asked(at, None if node == "." else at, node.strip(".")) for at, node in zip(times, nodes, strict=True))
    return Answers(tuple(asked), 0.01)


def seen(*who: str) -> Seen:
    return Seen(tuple(Probe(0.01 * at, vip(0), tuple(nodes)) for at, nodes in enumerate(who)), (), 0.01)


def test_an_outage_is_the_longest_wait_less_the_interval() -> None:
    assert round(answers("aaa...bb.b").outage(), 6) == 0.03


def test_without_a_lost_question_there_is_none() -> None:
    assert round(answers("aaabbb").outage(), 6) == 0.0


def test_what_was_never_answered_counts_until_the_last_question() -> None:
    assert round(answers("aa....").outage(), 6) == 0.03
    assert round(answers("....").outage(), 6) == 0.02


def test_an_outage_that_fell_between_two_looks_is_told_whole_and_once() -> None:
    longest = Longest()
    whole = answers("aaa.........bbbbb..b").asked
    for look in (whole[:6], whole[6:12], whole[12:]):
        longest.see(Answers(look, 0.01))
    assert round(longest.tell(), 6) == 0.09
    assert longest.tell() == 0.0


def test_an_outage_that_was_told_before_its_end_is_told_again_from_its_beginning() -> None:
    longest = Longest()
    whole = answers("aaa.........b").asked
    longest.see(Answers(whole[:8], 0.01))
    assert round(longest.tell(), 6) == 0.04
    longest.see(Answers(whole[8:], 0.01))
    assert round(longest.tell(), 6) == 0.09


def test_only_the_time_asked_for_counts() -> None:
    assert round(answers("a..aaaa").outage(start=1.03), 6) == 0.0
    assert answers("a..aa.a").lost(start=1.03) == 1


def test_who_served_is_told_in_order() -> None:
    assert answers("aa.abb.ba").nodes() == ("a", "b", "a")


def test_nobody_and_several_are_measured_by_the_wire() -> None:
    wire = seen("a", "", "", "ab", "ab", "ab", "b", "")
    assert (round(wire.nobody(), 6), round(wire.several(), 6)) == (0.02, 0.03)


def test_one_node_that_answers_twice_is_one() -> None:
    assert seen("aa").several() == 0


def test_who_answers_at_the_end_announces() -> None:
    assert seen("a", "a", "ab", "b", "b").announcers(vip(0), 0.015) == {"b"}


def test_announcements_are_told_by_address_and_time() -> None:
    early, late = Announcement(1.0, "request", vip(0), "a"), Announcement(2.0, "reply", vip(0), "b")
    other = Announcement(2.0, "reply", vip(1), "b")
    assert Seen((), (early, late, other), 0.01).announced(vip(0), 1.5) == (late,)


def test_a_percentile_is_a_measured_value() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7.0], 0.99) == 7.0


def test_the_table_has_no_p99_of_few_trials() -> None:
    few, many = Row("few", (0.2, 0.3), 0.35, metallb="5.0 s"), Row("many", (0.2,) * 99 + (0.4,), 0.0, frames=23.4)
    _, _, first, second = lines([few, many])
    assert first.split() == ["few", "2", "200", "–", "300", "≤", "350", "0", "–", "5.0", "s", "·", "–"]
    assert second.split() == ["many", "100", "200", "200", "400", "no", "gap", "0", "23", "–", "·", "–"]
