"""What holds for every election, whatever the nodes and Services."""

from ipaddress import ip_address, ip_network
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lbctl.model import IPAddress, Owner
from lbctl_l2.election import Claim, Elector, Member, NodeLink, Roll, Standing, elect, moves
from lbctl_l2.pool import Advertisement

LAN = (NodeLink("eth0", (ip_network("192.0.2.0/24"), ip_network("198.51.100.0/24"))),)
BASE = ip_address("192.0.2.0")

laws = settings(max_examples=40, deadline=None)
seeds = st.randoms(use_true_random=False)


def members(count: int) -> list[Member]:
    return [Member(f"node-{number:02}", links=LAN) for number in range(count)]


def services(count: int, policy=lambda _number: {}) -> list[Claim]:
    return [Claim(Owner(f"a/web{n}"), BASE + n, created=n // 3, **policy(n)) for n in range(count)]


def roll(found: list[Member]) -> Roll:
    return Roll(tuple(found), (Advertisement("all"),), lambda _address: "pool")


def announced(found: list[Member], elected: dict[IPAddress, Standing], at: float) -> list[Member]:
    """Everybody announces what he ought to, and says so."""
    return [
        replace(item, gives={}, announces={
            address: item.announces.get(address, at) for address, standing in elected.items()
            if standing.first == item.name
        })
        for item in found
    ]  # fmt: skip


def at_rest(wanted: list[Claim], found: list[Member], rounds: int = 200) -> list[Member]:
    """The nodes after as many rounds of balance as it takes."""
    for at in range(rounds):
        elected = elect(wanted, roll(found))
        found = announced(found, elected, at)
        elected = elect(wanted, roll(found))
        given = {move.address: move for move in moves(elected, wanted, roll(found))}
        if not given:
            return found
        found = [replace(m, gives={a: move.new for a, move in given.items() if move.old == m.name}) for m in found]
    raise AssertionError("balance never comes to rest")


def loads(found: list[Member]) -> list[int]:
    return sorted(len(item.announces) for item in found)


@laws
@given(seeds, st.integers(1, 12), st.integers(0, 60))
def test_the_same_for_any_order_of_what_goes_in(random: Random, nodes: int, count: int):
    found = members(nodes)
    shuffled = random.sample(found, len(found))
    wanted = services(count)
    assert elect(random.sample(wanted, len(wanted)), roll(shuffled)) == elect(wanted, roll(found))


def test_a_hundred_addresses_on_ten_nodes_are_nine_to_eleven_each():
    found = at_rest(services(100), members(10))
    assert 9 <= loads(found)[0] <= loads(found)[-1] <= 11


def test_a_hundred_addresses_that_one_node_began_with_end_up_nine_to_eleven_each():
    wanted, ten = services(100), members(10)
    alone = replace(ten[3], announces={item.address: 1.0 for item in wanted})
    assert loads(at_rest(wanted, [alone if item.name == alone.name else item for item in ten]))[0] >= 9


@laws
@given(st.integers(2, 12), st.integers(0, 80), st.data())
def test_a_nodes_end_moves_its_own_addresses_only(nodes: int, count: int, data: st.DataObject):
    wanted = services(count)
    before = at_rest(wanted, members(nodes))
    dead = data.draw(st.sampled_from([item.name for item in before]))
    way = data.draw(st.sampled_from([{"alive": False}, {"alive": False, "speaks": False}, {"excluded": True}]))
    after = [replace(item, **way) if item.name == dead else item for item in before]
    old, new = elect(wanted, roll(before)), elect(wanted, roll(after))
    assert all(new[address].first == standing.first for address, standing in old.items() if standing.first != dead)
    assert all(new[address].first != dead for address in new)


@laws
@given(st.integers(2, 12), st.integers(0, 80))
def test_who_comes_back_gets_nothing_before_it_is_settled_and_then_only_what_balance_needs(nodes: int, count: int):
    wanted = services(count)
    found = at_rest(wanted, members(nodes))
    without = at_rest(wanted, announced(found[1:], elect(wanted, roll(found[1:])), 10))
    back = replace(found[0], announces={}, settled=False)
    assert elect(wanted, roll([back, *without])).keys() == {item.address for item in wanted}
    assert all(s.first != back.name for s in elect(wanted, roll([back, *without])).values())
    settled = at_rest(wanted, [replace(back, settled=True), *without])
    pairs = zip(settled[1:], without, strict=True)
    assert all(now.announces.keys() <= before.announces.keys() for now, before in pairs)
    assert loads(settled)[-1] - loads(settled)[0] <= 2


@laws
@given(seeds, st.integers(1, 12), st.integers(1, 60))
def test_wherever_a_node_may_announce_somebody_does(random: Random, nodes: int, count: int):
    found = [
        replace(
            item, settled=random.random() < 0.7, alive=random.random() < 0.7, draining=random.random() < 0.3,
            excluded=random.random() < 0.3, links=random.choice((LAN, None, ())),
        )
        for item in members(nodes)
    ]  # fmt: skip
    names = [item.name for item in found]
    wanted = services(count, lambda _n: {
        "local": random.random() < 0.5, "endpoints": frozenset(random.sample(names, random.randint(0, nodes))),
    })  # fmt: skip
    for standing in elect(wanted, roll(found)).values():
        living = [m for m in found if m.name in standing.ranking and m.alive]
        assert not living or next(m for m in found if m.name == standing.first).alive
    open_nodes = [m.name for m in found if not m.excluded and m.links != ()]
    for item in wanted:
        may = [name for name in open_nodes if not item.local or name in item.endpoints]
        assert bool(elect(wanted, roll(found))[item.address].ranking) == bool(may)


@laws
@given(st.integers(1, 10), st.integers(1, 60), st.data())
def test_a_newer_service_takes_nobodys_place(nodes: int, count: int, data: st.DataObject):
    wanted = services(count)
    fewer = wanted[: data.draw(st.integers(0, count))]
    whole, part = elect(wanted, roll(members(nodes))), elect(fewer, roll(members(nodes)))
    assert all(whole[item.address].first == part[item.address].first for item in fewer if item.created < (
        wanted[len(fewer)].created if len(fewer) < count else float("inf")
    ))  # fmt: skip


@laws
@given(st.integers(1, 10), st.integers(0, 60))
def test_announcing_what_was_elected_changes_no_election(nodes: int, count: int):
    wanted, found = services(count), members(nodes)
    elected = elect(wanted, roll(found))
    again = elect(wanted, roll(announced(found, elected, 1.0)))
    assert {a: s.ranking for a, s in again.items()} == {a: s.ranking for a, s in elected.items()}


@laws
@given(seeds, st.integers(1, 10), st.integers(1, 40))
def test_electing_again_and_again_says_the_same_as_once(random: Random, nodes: int, count: int):
    elector, found, wanted = Elector("node-00"), members(nodes), services(count)
    for at in range(6):
        elected = elector.elect(wanted, roll(found))
        assert elected == elect(wanted, roll(found), "node-00")
        found = announced(found, elected, at)
        victim = random.randrange(nodes)
        ways = ({"alive": False}, {"settled": False}, {"draining": True}, {"gives": {BASE: "node-01"}})
        found[victim] = replace(found[victim], **random.choice(ways))
        wanted[random.randrange(count)] = replace(wanted[0], local=True, endpoints=frozenset({"node-01"}))
