"""Our own pools and advertisements, good ones and bad ones."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.cluster import Object, Watch
from lbctl.model import Owner
from lbctl_l2 import crds
from lbctl_l2.crds import ADDRESS_POOLS, L2_ADVERTISEMENTS, Found, Supply
from lbctl_l2.pool import Count, Release, Usage

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERYWHERE: Found = (L2_ADVERTISEMENTS, Object("everywhere"))
IP_ADDRESS_POOLS = Watch("ipaddresspools", "metallb.io", "v1beta1", "metallb-system")


def pool(name: str, *addresses: str, age: float = 0, labels: Mapping[str, str] | None = None, **more: Any) -> Found:
    """An AddressPool, created so many hours ago."""
    spec = {"addresses": list(addresses), **more}
    return ADDRESS_POOLS, Object(name, created=NOW - timedelta(hours=age), labels=labels or {}, spec=spec)


def ranges(supply: Supply) -> dict[str, str]:
    return {pool.name: ", ".join(map(str, pool.ranges)) for pool in supply.pools}


def reasons(supply: Supply) -> list[tuple[str, str, bool]]:
    return [(problem.name, problem.reason, problem.served) for problem in supply.problems]


def test_every_field_of_a_pool_is_read() -> None:
    found = pool(
        "a", "10.0.0.0/24", "10.0.1.5", labels={"zone": "east"}, autoAssign=False, avoidBuggyIPs=True,
        serviceAllocation={
            "priority": 5, "namespaces": ["n"], "namespaceSelectors": [{"matchLabels": {"team": "a"}}],
            "serviceSelectors": [{"matchExpressions": [{"key": "app", "operator": "Exists"}]}],
        },
        sharing="cluster", maxPerNamespace=3, cooldownSeconds=60,
        reservations=[{"service": "default/db", "addresses": ["10.0.0.9"]}],
    )
    (one,) = crds.supply([found, EVERYWHERE]).pools
    assert (one.auto_assign, one.avoid_buggy, one.pinned, one.priority) == (False, True, True, 5)
    assert (one.sharing, one.max_per_namespace, one.cooldown.seconds) == ("cluster", 3, 60)
    assert one.reservations == {Owner("default/db"): (ip_address("10.0.0.9"),)}
    assert one.admits("n", {}, {"app": ""})
    assert one.admits("m", {"team": "a"}, {"app": ""})
    assert not one.admits("m", {}, {"app": ""})
    assert one.labels == {"zone": "east"}


def test_defaults_are_those_of_the_schema() -> None:
    (one,) = crds.supply([pool("a", "10.0.0.0/24"), EVERYWHERE]).pools
    assert (one.auto_assign, one.avoid_buggy, one.pinned, one.sharing) == (True, False, False, "namespace")
    assert (one.max_per_namespace, one.cooldown) == (0, timedelta(minutes=5))


@pytest.mark.parametrize("bad", [
    {"addresses": []},
    {"addresses": ["10.0.0.9-10.0.0.1"]},
    {"addresses": ["127.0.0.0/8"]},
    {"addresses": ["10.0.0.0/24"], "sharing": "everybody"},
    {"addresses": ["10.0.0.0/24"], "autoasign": False},
    {"addresses": ["10.0.0.0/24"], "serviceAllocation": {"namespace": ["a"]}},
    {"addresses": ["10.0.0.0/24"], "serviceAllocation": {"namespaceSelectors": [{"matchLabel": {}}]}},
    {"addresses": ["10.0.0.0/24"],
     "serviceAllocation": {"serviceSelectors": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}},
    {"addresses": ["10.0.0.0/24"], "reservations": [{"service": "db", "addresses": ["10.0.0.1"]}]},
    {"addresses": ["10.0.0.0/24"], "reservations": [{"service": "a/db", "addresses": ["10.0.0"]}]},
])
def test_an_invalid_pool_is_not_served_and_its_last_good_one_is(bad: dict[str, Any]) -> None:
    wrong = (ADDRESS_POOLS, Object("a", spec=bad))
    assert reasons(crds.supply([wrong, EVERYWHERE])) == [("a", "invalid-pool", False)]
    good = crds.supply([pool("a", "10.9.0.0/24"), EVERYWHERE])
    kept = crds.supply([wrong, EVERYWHERE], good)
    assert (ranges(kept), reasons(kept)) == ({"a": "10.9.0.0/24"}, [("a", "invalid-pool", True)])


def test_what_is_wrong_is_said_with_its_field() -> None:
    supply = crds.supply([pool("a", "10.0.0.9-10.0.0.1"), pool("b", "10.0.0.0/24", maxPerNamespace=-1)])
    told = {problem.name: problem.message for problem in supply.problems}
    assert told["a"] == "spec.addresses: '10.0.0.9-10.0.0.1' ends before it begins: write 10.0.0.1-10.0.0.9"
    assert "spec.maxPerNamespace" in told["b"]


def test_a_last_good_pool_stays_as_long_as_the_bad_one() -> None:
    supply = crds.supply([pool("a", "10.0.0.0/24"), EVERYWHERE])
    for _look in range(3):
        supply = crds.supply([pool("a", "nonsense"), EVERYWHERE], supply)
    assert ranges(supply) == {"a": "10.0.0.0/24"}
    assert ranges(crds.supply([EVERYWHERE], supply)) == {}


def test_an_edit_that_overlaps_is_refused_and_the_other_pool_is_not() -> None:
    before = crds.supply([pool("a", "10.0.0.0/24", age=9), pool("b", "10.0.1.0/24"), EVERYWHERE])
    after = crds.supply([pool("a", "10.0.0.0/16", age=9), pool("b", "10.0.1.0/24"), EVERYWHERE], before)
    assert ranges(after) == {"a": "10.0.0.0/24", "b": "10.0.1.0/24"}
    assert reasons(after) == [("a", "overlapping-pool", True)]


def test_of_two_overlapping_pools_seen_for_the_first_time_the_older_is_served() -> None:
    supply = crds.supply([pool("a", "10.0.0.0/24"), pool("b", "10.0.0.0/16", age=1), EVERYWHERE])
    assert (ranges(supply), reasons(supply)) == ({"b": "10.0.0.0/16"}, [("a", "overlapping-pool", False)])


def test_ranges_that_overlap_within_a_pool_are_refused() -> None:
    assert reasons(crds.supply([pool("a", "10.0.0.0/24", "10.0.0.7")])) == [("a", "overlapping-pool", False)]


def test_two_pools_may_change_places() -> None:
    before = crds.supply([pool("a", "10.0.0.0/24"), pool("b", "10.0.1.0/24"), EVERYWHERE])
    after = crds.supply([pool("a", "10.0.1.0/24"), pool("b", "10.0.0.0/24"), EVERYWHERE], before)
    assert (ranges(after), reasons(after)) == ({"a": "10.0.1.0/24", "b": "10.0.0.0/24"}, [])


def test_a_pool_of_ours_and_one_of_metallbs_cannot_have_one_name() -> None:
    theirs = (IP_ADDRESS_POOLS, Object("a", spec={"addresses": ["10.1.0.0/24"]}))
    supply = crds.supply([theirs, pool("a", "10.0.0.0/24", age=1), EVERYWHERE])
    assert (ranges(supply), reasons(supply)) == ({"a": "10.0.0.0/24"}, [("a", "invalid-pool", False)])


def test_metallb_refuses_a_bare_address_and_so_it_is_here() -> None:
    bare = {"addresses": ["10.0.0.1"]}
    assert ranges(crds.supply([(ADDRESS_POOLS, Object("a", spec=bare)), EVERYWHERE])) == {"a": "10.0.0.1"}
    theirs = crds.supply([(IP_ADDRESS_POOLS, Object("a", spec=bare)), EVERYWHERE])
    assert reasons(theirs) == [("a", "invalid-pool", False)]


def test_a_reservation_that_binds_nothing_is_told() -> None:
    said = [{"service": "n/a", "addresses": ["10.0.0.1", "10.9.9.9"]}, {"service": "n/b", "addresses": ["10.0.0.1"]}]
    supply = crds.supply([pool("a", "10.0.0.0/24", reservations=said), EVERYWHERE])
    assert reasons(supply) == [("a", "reservation-outside", True), ("a", "reserved-twice", True)]


def test_a_pool_that_nobody_announces_is_told_but_served() -> None:
    supply = crds.supply([pool("a", "10.0.0.0/24")])
    assert (ranges(supply), reasons(supply)) == ({"a": "10.0.0.0/24"}, [("a", "not-advertised", True)])


def test_metallbs_advertisements_are_for_metallbs_pools_and_ours_for_all() -> None:
    theirs = Watch("l2advertisements", "metallb.io", "v1beta1", "metallb-system")
    found = [pool("a", "10.0.0.0/24"), (IP_ADDRESS_POOLS, Object("b", spec={"addresses": ["10.1.0.0/24"]}))]
    (one,) = crds.supply([*found, (theirs, Object("x"))]).advertisements
    assert one.pools == {"b"}
    (one,) = crds.supply([*found, EVERYWHERE]).advertisements
    assert one.pools == {"a", "b"}


def test_an_invalid_advertisement_keeps_its_last_good_one() -> None:
    good = crds.supply([pool("a", "10.0.0.0/24"), EVERYWHERE])
    wrong = (L2_ADVERTISEMENTS, Object("everywhere", spec={"interfaces": "eth0"}))
    kept = crds.supply([pool("a", "10.0.0.0/24"), wrong], good)
    assert kept.advertisements == good.advertisements
    assert reasons(kept) == [("everywhere", "invalid-advertisement", True)]


def test_a_plain_list_of_ranges_is_a_pool_that_is_announced_from_everywhere() -> None:
    found, strange = crds.manifests(["10.0.0.0/24", "10.0.1.1-10.0.1.9"])
    supply = crds.supply(found)
    assert (ranges(supply), strange, supply.problems) == ({"default": "10.0.0.0/24, 10.0.1.1-10.0.1.9"}, (), ())
    assert [advert.serves("default") for advert in supply.advertisements] == [True]


def test_lists_and_empty_documents_of_a_file_are_opened() -> None:
    one = {"apiVersion": "lbctl.io/v1alpha1", "kind": "AddressPool", "metadata": {"name": "a"},
           "spec": {"addresses": ["10.0.0.0/24"]}}
    found, strange = crds.manifests([None, {"kind": "List", "items": [one]}])
    assert ([item.name for _watch, item in found], strange) == (["a"], ())


@pytest.mark.parametrize("document", [7, {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "web"}}, {}])
def test_what_is_no_part_of_the_pools_is_told(document: Any) -> None:
    found, (problem,) = crds.manifests([document])
    assert (found, problem.reason, problem.served) == ((), "unknown-kind", False)


@given(st.permutations([
    pool("a", "10.0.0.0/24", age=1), pool("b", "10.0.0.0/25"), pool("c", "10.1.0.0/24"), pool("d", "no"), EVERYWHERE,
    (IP_ADDRESS_POOLS, Object("c", spec={"addresses": ["10.2.0.0/24"]})),
]))
def test_the_order_of_the_objects_does_not_matter(objects: list[Found]) -> None:
    assert crds.supply(objects) == crds.supply(sorted(objects, key=lambda found: (found[1].name, found[0].plural)))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(["10.0.0.0/24", "fd00::", "In"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        "addresses", "serviceAllocation", "namespaceSelectors", "matchLabels", "matchExpressions", "key", "operator",
        "values", "reservations", "service", "nodeSelectors", "interfaces", "conditions", "released", "name", "labels",
    ]), inner, max_size=4),
    max_leaves=12,
)
documents = st.fixed_dictionaries({
    "apiVersion": st.sampled_from(["lbctl.io/v1alpha1", "metallb.io/v1beta1"]),
    "kind": st.sampled_from(["AddressPool", "IPAddressPool", "L2Advertisement", "BGPAdvertisement", "BGPPeer"]),
    "metadata": anything | st.just({"name": "a"}), "spec": anything, "status": anything,
})


@given(st.lists(documents | anything, max_size=3))
def test_whatever_is_written_is_served_or_told_and_never_an_error(said: list[Any]) -> None:
    found, _strange = crds.manifests(said)
    supply = crds.supply(found)
    for _watch, item in found:
        crds.pool_status(item, None, (), supply.problems, NOW)
        told = {problem.name for problem in supply.problems}
        served = {pool.name for pool in supply.pools} | {advert.name for advert in supply.advertisements}
        assert item.name in told | served or _watch.plural == "bgpadvertisements"


# ── status ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_status_remembers_is_read_back() -> None:
    released = (Release(ip_address("10.0.0.1"), NOW), Release(ip_address("fd00::1"), NOW + timedelta(seconds=1)))
    status = crds.pool_status(Object("a"), Usage(), released, (), NOW)
    found = (ADDRESS_POOLS, Object("a", spec={"addresses": ["10.0.0.0/24"]}, status=status))
    assert crds.supply([found, EVERYWHERE]).released == released


def test_a_status_that_cannot_be_read_is_told_and_costs_the_memory_only() -> None:
    broken = Object("a", spec={"addresses": ["10.0.0.0/24"]}, status={"released": [{"address": "x", "at": "y"}]})
    supply = crds.supply([(ADDRESS_POOLS, broken), EVERYWHERE])
    assert (ranges(supply), supply.released) == ({"a": "10.0.0.0/24"}, ())
    assert reasons(supply) == [("a", "unreadable-status", True)]


def test_numbers_in_a_status_stay_within_64_bits() -> None:
    status = crds.pool_status(Object("a"), Usage(ipv6=Count(2**64, 1, 2**64 - 1)), (), (), NOW)
    assert status["usage"]["ipv6"] == {"total": 2**63 - 1, "assigned": 1, "available": 2**63 - 1}


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    first = crds.advertisement_status(Object("a"), (), NOW)
    later = crds.advertisement_status(Object("a", status=first), (), NOW + timedelta(hours=1))
    assert later == first
    problem = crds.Problem("L2Advertisement", "a", "invalid-advertisement", "it is wrong")
    turned = crds.advertisement_status(Object("a", status=first), [problem], NOW + timedelta(hours=1))
    assert turned["conditions"][0] == {
        "type": "Ready", "status": "False", "reason": "invalid-advertisement", "observedGeneration": 0,
        "message": "invalid-advertisement: it is wrong.", "lastTransitionTime": "2026-01-01T01:00:00Z",
    }


def test_a_hint_does_not_make_a_pool_unready() -> None:
    hint = crds.Problem("AddressPool", "a", "reservation-outside", "…", served=True)
    (ready,) = crds.pool_status(Object("a"), Usage(), (), [hint], NOW)["conditions"]
    assert (ready["status"], ready["reason"]) == ("True", "reservation-outside")


def test_metallbs_sorts_are_read_from_its_namespace_and_what_is_being_deleted_is_not() -> None:
    watches = crds.metallb("metallb-system")
    assert {watch.namespace for watch in watches} == {"metallb-system"}
    there = {watches[0]: [Object("a"), Object("b", deleting=True)]}
    assert crds.read(lambda watch: there.get(watch, []), watches) == ((watches[0], Object("a")),)
