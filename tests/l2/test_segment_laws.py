"""Laws of the data plane under any history of faults: whatever happened, soon exactly one answers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl_l2.segment import Segment, Spell

NAMES = "abcd"
VIPS = ("10.0.0.100", "10.0.0.101", "fd00::100")
QUIET = 3.0

node = st.sampled_from(NAMES)
pause = st.sampled_from([0.0, 0.01, 0.05, 0.15, 0.24, 0.26, 0.3, 0.5, 1.0, 3.0])
stop = st.sampled_from(["kill", "start", "freeze", "resume", "unplug", "plug"])
fault = st.one_of(stop, st.sampled_from(["silence", "hear", "partition", "heal", "leave", "settle"]))
rankings = st.tuples(*(st.permutations(NAMES) for _ in VIPS))


def steps(kind: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[str, str, float]]]:
    return st.lists(st.tuples(kind, node, pause), max_size=12)


def cluster(orders: tuple[list[str], ...], settled: bool, seed: int) -> Segment:
    segment = Segment(seed=seed)
    segment.add(*NAMES, links=[("eth0", "lan"), ("eth1", "dmz")][:1 + seed % 2])
    for vip, ranking in zip(VIPS, orders, strict=True):
        segment.order(vip, *ranking)
    segment.run(1)
    if settled:
        segment.settle()
    segment.run(1)
    return segment


def happen(segment: Segment, what: str, name: str) -> None:
    match what:
        case "hear":
            segment.silence(name, silent=False)
        case "partition":
            segment.partition({name}, set(NAMES) - {name})
        case "heal":
            segment.heal()
        case "leave" if not segment.nodes[name].works:
            pass
        case "settle":
            segment.settle(name)
        case _:
            getattr(segment, what)(name)


def quieten(segment: Segment) -> None:
    """What nobody can see ends; what everybody can see stays as it is."""
    segment.heal()
    for name in NAMES:
        segment.silence(name, silent=False)
    segment.run(QUIET)


def able(segment: Segment) -> set[str]:
    return {name for name, node in segment.nodes.items() if node.works and node.ports[1].link.up}


@given(orders=rankings, history=steps(fault), settled=st.booleans(), seed=st.integers(0, 9))
@settings(max_examples=60)
def test_after_any_faults_exactly_one_of_the_living_answers_and_none_if_none_lives(orders, history, settled, seed):
    segment = cluster(orders, settled, seed)
    for what, name, seconds in history:
        happen(segment, what, name)
        segment.run(seconds)
    quieten(segment)
    for vip in VIPS:
        assert len(segment.speakers(vip)) == min(1, len(able(segment))), segment.speakers(vip)


@given(orders=rankings, history=steps(stop), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_without_a_partition_two_never_answer_for_long(orders, history, seed):
    segment = cluster(orders, True, seed)
    began = segment.now
    for what, name, seconds in history:
        happen(segment, what, name)
        segment.run(seconds)
    quieten(segment)
    assert max(segment.longest_double(vip, began) for vip in VIPS) <= 0.15


@given(orders=rankings, history=steps(stop), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_an_unsettled_node_never_takes_what_a_settled_one_speaks_for(orders, history, seed):
    segment = cluster(orders, True, seed)
    began = segment.now
    for what, name, seconds in history:
        happen(segment, what, name)
        segment.run(seconds)
    quieten(segment)
    for spells in segment.spells.values():
        for spell in spells:
            if spell.since > began and not spell.settled:
                assert not [other for other in spells if _held(other, spell)]


def _held(other: Spell, spell: Spell) -> bool:
    """Whether the other, settled, spoke before and went on speaking."""
    return (other.settled and other.node != spell.node and other.since < spell.since
            and (other.until is None or other.until > spell.since + 0.05))


@given(orders=rankings, history=steps(stop), loss=st.sampled_from([0.01, 0.05]), seed=st.integers(0, 9))
@settings(max_examples=30)
def test_lost_frames_delay_agreement_but_do_not_prevent_it(orders, history, loss, seed):
    segment = cluster(orders, True, seed)
    segment.loss = loss
    for what, name, seconds in history:
        happen(segment, what, name)
        segment.run(seconds)
    segment.loss = 0.0
    quieten(segment)
    for vip in VIPS:
        assert len(segment.speakers(vip)) == min(1, len(able(segment)))
