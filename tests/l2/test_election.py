"""Who announces an address: stories of a few nodes."""

from ipaddress import ip_address, ip_network

import pytest
from msgspec.structs import replace

from lbctl.model import Endpoints, Ingress, LoadBalancer, Owner
from lbctl_l2.election import Claim, Member, NodeLink, Rank, Roll, claims, elect, holders, moves, preference, verdicts
from lbctl_l2.pool import Advertisement, Requirement, Selector

VIP = ip_address("192.0.2.100")
NAMES = tuple(f"node-{number}" for number in range(1, 5))
LAN = (NodeLink("eth0", (ip_network("192.0.2.0/24"),)),)


def member(name: str, **changes) -> Member:
    return replace(Member(name, links=LAN), **changes)


EVERYWHERE = (Advertisement("all"),)


def roll(*members: Member, adverts=EVERYWHERE, **changes) -> Roll:
    given = {item.name: item for item in members}
    everybody = tuple(given.get(name, member(name)) for name in NAMES)
    return replace(Roll(everybody, tuple(adverts), lambda _address: "pool"), **changes)


def claim(**changes) -> Claim:
    return replace(Claim(Owner("default/web"), VIP), **changes)


def first(*members: Member, wanted=None, **changes) -> str:
    return elect([wanted or claim()], roll(*members, **changes))[VIP].first


def why(*members: Member, wanted=None, **changes) -> dict[str, str]:
    found = verdicts([wanted or claim()], roll(*members, **changes))
    return {verdict.node: verdict.reason for verdict in found if verdict.reason}


def selecting(**labels: str) -> tuple[Selector, ...]:
    return (Selector(tuple(Requirement(key, "In", (value,)) for key, value in labels.items())),)


ORDER = preference(VIP, NAMES)


def test_an_address_that_nobody_holds_goes_by_rendezvous():
    assert elect([claim()], roll())[VIP].ranking == ORDER


def test_whoever_holds_an_address_keeps_it():
    holder = member(ORDER[-1], announces={VIP: 1.0})
    assert elect([claim()], roll(holder))[VIP].ranking == (ORDER[-1], *ORDER[:-1])


def test_of_two_that_say_they_hold_it_the_later_one_does():
    assert first(member(ORDER[1], announces={VIP: 1.0}), member(ORDER[2], announces={VIP: 2.0})) == ORDER[2]


def test_a_living_holder_counts_before_one_with_a_fast_clock_that_died():
    dead = member(ORDER[1], announces={VIP: 9e9}, alive=False)
    assert first(dead, member(ORDER[2], announces={VIP: 2.0})) == ORDER[2]


@pytest.mark.parametrize("gone", [{"alive": False}, {"speaks": False, "alive": False}])
def test_the_heir_of_a_dead_or_parted_holder_is_the_next_by_rendezvous_as_the_data_planes_have_it(gone):
    before = elect([claim()], roll(member(ORDER[2], announces={VIP: 1.0})))[VIP]
    assert first(member(ORDER[2], announces={VIP: 1.0}, **gone)) == before.ranking[1] == ORDER[0]


def test_an_address_that_nobody_holds_goes_to_the_emptiest_node():
    busy = [member(name, announces={ip_address(f"192.0.2.{number}"): 1.0}) for number, name in enumerate(ORDER[:3], 1)]
    others = [claim(address=ip_address(f"192.0.2.{number}"), owner=Owner(f"a/{number}")) for number in (1, 2, 3)]
    assert elect([claim(), *others], roll(*busy))[VIP].first == ORDER[3]


def test_a_node_that_has_just_come_gets_nothing_and_is_ranked_behind():
    assert elect([claim()], roll(member(ORDER[0], settled=False)))[VIP].ranking == (*ORDER[1:], ORDER[0])


def test_where_nobody_has_settled_yet_somebody_announces_all_the_same():
    assert first(*(member(name, settled=False) for name in NAMES)) == ORDER[0]


def test_the_holder_gives_an_address_to_whom_it_names():
    assert first(member(ORDER[0], announces={VIP: 1.0}, gives={VIP: ORDER[3]})) == ORDER[3]


def test_what_is_given_to_somebody_who_has_not_settled_stays():
    giver = member(ORDER[0], announces={VIP: 1.0}, gives={VIP: ORDER[3]})
    assert first(giver, member(ORDER[3], settled=False)) == ORDER[0]


def test_a_draining_holder_comes_last_and_another_takes_over():
    ranking = elect([claim()], roll(member(ORDER[0], announces={VIP: 1.0}, draining=True)))[VIP].ranking
    assert ranking == (*ORDER[1:], ORDER[0])


def test_where_every_node_drains_the_holder_goes_on():
    drained = [member(name, draining=True) for name in NAMES if name != ORDER[2]]
    assert first(*drained, member(ORDER[2], draining=True, announces={VIP: 1.0})) == ORDER[2]


def test_the_label_that_excludes_nodes_counts_unless_it_is_to_be_ignored():
    excluded = [member(name, excluded=True) for name in NAMES]
    assert elect([claim()], roll(*excluded))[VIP].ranking == ()
    assert set(why(*excluded).values()) == {"excluded"}
    assert elect([claim()], roll(*excluded, ignore_excluded=True))[VIP].ranking == ORDER


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"speaks": False, "alive": False}, "no-speaker"),
        ({"excluded": True}, "excluded"),
        ({"network_unavailable": True}, "network-unavailable"),
        ({"links": ()}, "no-interface"),
        ({"links": (NodeLink("eth0", (ip_network("198.51.100.0/24"),)),)}, "no-subnet"),
    ],
)
def test_what_keeps_a_node_from_announcing_has_a_name(changes, reason):
    assert why(member("node-2", **changes)) == {"node-2": reason}
    assert "node-2" not in elect([claim()], roll(member("node-2", **changes)))[VIP].ranking


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pool_of": lambda _address: ""}, "no-pool"),
        ({"adverts": ()}, "no-advertisement"),
        ({"adverts": (Advertisement("other", pools=frozenset({"other"})),)}, "no-advertisement"),
        ({"adverts": (Advertisement("by label", service_selectors=selecting(app="db")),)}, "no-advertisement"),
        ({"adverts": (Advertisement("rack 1", node_selectors=selecting(rack="1")),)}, "not-selected"),
        ({"adverts": (Advertisement("bond", interfaces=("bond0",)),)}, "no-interface"),
        ({"wanted": claim(served=False)}, "no-endpoint"),
        ({"wanted": claim(local=True)}, "no-local-endpoint"),
    ],
)
def test_what_keeps_every_node_from_announcing_has_a_name(changes, reason):
    assert why(**changes) == dict.fromkeys(NAMES, reason)


@pytest.mark.parametrize(("key", "reason"), [("pool/pool", "no-pool"), ("advertisement/lbctl.io/all", "not-selected")])
def test_of_what_cannot_be_read_only_who_knows_its_newest_good_version_may_announce(key, reason):
    said = {"node-1": 0, "node-2": 3, "node-3": 4}
    told = [member(name, last_good={key: generation}) for name, generation in said.items()]
    assert why(*told) == dict.fromkeys(("node-1", "node-2"), reason)
    dead = member("node-3", speaks=False, last_good={key: 4})
    assert why(*told[:2], dead) == {"node-1": reason, "node-3": "no-speaker"}
    assert why(told[0]) == {}


def test_local_traffic_is_announced_where_an_endpoint_serves():
    wanted = claim(local=True, endpoints=frozenset({"node-3"}))
    assert elect([wanted], roll())[VIP].ranking == ("node-3",)


def test_an_advertisement_selects_nodes_and_interfaces():
    adverts = (
        Advertisement("rack 1", node_selectors=selecting(rack="1"), interfaces=("eth0", "eth7")),
        Advertisement("rack 2", node_selectors=selecting(rack="2")),
    )
    here = roll(member("node-1", labels={"rack": "1"}), member("node-2", labels={"rack": "2"}), adverts=adverts)
    assert set(elect([claim()], here)[VIP].ranking) == {"node-1", "node-2"}
    assert elect([claim()], here, "node-1")[VIP].interfaces == {"eth0", "eth7"}
    assert elect([claim()], here, "node-2")[VIP].interfaces is None


def test_an_address_that_is_in_nobodys_subnet_is_routed_to_us_and_anybody_may_announce_it():
    far = claim(address=ip_address("203.0.113.5"))
    assert set(elect([far], roll())[far.address].ranking) == set(NAMES)


def test_a_node_whose_interfaces_are_not_known_is_no_worse_than_where_nobodys_are():
    unknown = [member(name, links=None) for name in NAMES]
    assert first(*unknown) == ORDER[0]


def test_a_shared_address_is_announced_by_nodes_that_can_serve_all_of_its_services():
    one = claim(local=True, endpoints=frozenset({"node-1", "node-2"}))
    two = claim(owner=Owner("default/dns"), local=True, endpoints=frozenset({"node-2", "node-3"}))
    assert elect([one, two], roll())[VIP].ranking == ("node-2",)
    assert {v.node: v.reason for v in verdicts([one, two], roll())}["node-1"] == "serves-fewer"


def test_a_shared_address_that_no_node_can_serve_whole_is_announced_by_those_that_serve_the_most():
    one = claim(local=True, endpoints=frozenset({"node-1"}))
    two = claim(owner=Owner("default/dns"), local=True, endpoints=frozenset({"node-3"}))
    assert set(elect([one, two], roll())[VIP].ranking) == {"node-1", "node-3"}


def test_a_service_without_endpoints_takes_nothing_from_the_one_it_shares_its_address_with():
    assert set(elect([claim(), claim(owner=Owner("default/idle"), served=False)], roll())[VIP].ranking) == set(NAMES)


def test_balance_moves_no_more_than_it_must():
    wanted = [claim(address=VIP + number, owner=Owner(f"a/{number}")) for number in range(8)]
    full = member("node-1", announces={item.address: 1.0 for item in wanted})
    elected = elect(wanted, roll(full))
    (move,) = moves(elected, wanted, roll(full))
    assert (move.old, elected[move.address].first) == ("node-1", "node-1")
    assert move.new != "node-1"


def test_there_is_no_round_while_an_address_is_on_its_way():
    wanted = [claim(address=VIP + number, owner=Owner(f"a/{number}")) for number in range(8)]
    giving = member("node-1", announces={item.address: 1.0 for item in wanted}, gives={VIP: "node-2"})
    assert moves(elect(wanted, roll(giving)), wanted, roll(giving)) == ()


def founders(wanted: list[Claim], **changes: dict) -> Roll:
    """Node 1 began first and holds everything. `changes`: of single nodes."""
    named = {name: member(name, **{"founds": True, **changes.get(name[-1:], {})}) for name in NAMES}
    named["node-1"] = replace(named["node-1"], announces={item.address: 1.0 for item in wanted})
    return roll(*named.values())


def test_those_who_begin_together_even_out_in_one_round():
    wanted = [claim(address=VIP + number, owner=Owner(f"a/{number}")) for number in range(40)]
    begun = founders(wanted)
    given = [move.new for move in moves(elect(wanted, begun), wanted, begun)]
    assert all(9 <= given.count(name) <= 10 for name in NAMES[1:])


def test_those_who_begin_together_wait_until_all_have_settled():
    wanted = [claim(address=VIP + number, owner=Owner(f"a/{number}")) for number in range(40)]
    begun = founders(wanted, **{"4": {"settled": False}})
    assert moves(elect(wanted, begun), wanted, begun) == ()


def test_who_comes_later_gets_nothing_of_the_founders_round():
    wanted = [claim(address=VIP + number, owner=Owner(f"a/{number}")) for number in range(40)]
    begun = founders(wanted, **{"4": {"founds": False}})
    assert {move.new for move in moves(elect(wanted, begun), wanted, begun)} == {"node-2", "node-3"}


def test_the_holders_are_who_the_leases_name():
    assert holders([member("a", announces={VIP: 1.0}), member("b")]) == {VIP: "a"}


def test_a_status_is_read_as_claims_and_what_is_no_address_is_none():
    texts = ("192.0.2.100", "2001:db8::1", "fe80::1%eth0", "example.test", "")
    load_balancer = LoadBalancer(
        Owner("default/web"), status=tuple(Ingress(ip=text) for text in texts),
        external_traffic_policy="Local", endpoints=Endpoints(1, frozenset({"a"}), frozenset({"a", "b"})),
    )  # fmt: skip
    found = list(claims(load_balancer))
    assert [str(item.address) for item in found] == ["192.0.2.100", "2001:db8::1"]
    assert all(item.local and item.endpoints == {"a", "b"} for item in found)


def test_ranks_are_ordered():
    assert sorted(Rank) == [Rank.SETTLED, Rank.UNSETTLED, Rank.DRAINING, Rank.SILENT]
