"""The memory provider's own stories: what the laws do not ask because it is this provider's choice."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, ip_address

import pytest
from msgspec.structs import replace

from lbctl.apply import Lanes, Result
from lbctl.errors import NotOurs, Refused, Retry, SettingsError
from lbctl.memory import MemoryProvider, refusal
from lbctl.model import LoadBalancer, Owner, Port, Resource
from lbctl.provider import Harness
from lbctl.testing.memory import CloudError, MemoryCloud, MemoryStandin, Thing
from lbctl.testing.world import World, dns, web, web_changed


@pytest.fixture
def world() -> World:
    standin = MemoryStandin()
    standin.start()
    return World(MemoryProvider, standin)


def _cloud(world: World) -> MemoryCloud:
    assert isinstance(world.standin, MemoryStandin)
    return world.standin.cloud


# -- calls -----------------------------------------------------------------------------------------------------------


def test_a_fresh_look_costs_three_calls_however_many_services_there_are(world: World) -> None:
    world.converge([web(()), dns(())])
    world.wire.begin()
    world.observe()
    assert world.wire.sent == 3


def test_a_warm_look_costs_none_and_knows_our_own_writes(world: World) -> None:
    world.run([web(())])
    world.wire.begin()
    assert len(world.observe(fresh=False).resources) == 4
    assert world.wire.sent == 0


def test_the_listeners_of_a_frontend_are_written_together(world: World) -> None:
    world.run([web(()), dns(())])
    assert [call.operation for call in world.wire.calls if call.code == "ok"].count("edit") == 1


# -- documents -------------------------------------------------------------------------------------------------------


def test_one_bad_part_refuses_the_whole_document(world: World) -> None:
    _cloud(world).max_listeners = 1
    _, steps = world.run([web(()), dns(())])
    listeners = [step.answer for step in steps if step.change.kind == "listener"]
    assert [getattr(answer, "reason", None) for answer in listeners] == ["limit-exceeded"] * 3
    assert not _cloud(world).list("listener")


def test_the_applier_finds_the_culprit_and_serves_the_others(world: World) -> None:
    _cloud(world).max_listeners = 1
    landings: dict[Owner, Result] = {}
    lanes = Lanes(world.provider.apply, world.provider.kinds, landed=lambda r: landings.update({r.owner: r}))
    lanes.start(world.plan([web(()), dns(())]))
    assert lanes.wait(30)
    assert {owner: landing.reason for owner, landing in landings.items() if landing.reason} == {
        "laws/web": "limit-exceeded"
    }
    assert [thing.tags["owner"] for thing in _cloud(world).list("listener")] == ["laws/dns"]


def test_a_part_held_by_a_stranger_spares_the_other_parts(world: World) -> None:
    world.converge([web(())])
    listener = next(thing for thing in _cloud(world).list("listener") if thing.properties["port"] == 443)
    _cloud(world).delete(listener.id)
    _cloud(world).create(replace(listener, tags={}, id=""))
    _, steps = world.run([web(())])
    assert [type(step.answer) for step in steps] == [NotOurs]


# -- replacement -----------------------------------------------------------------------------------------------------


def test_a_replaced_address_drains_before_it_goes(world: World) -> None:
    world.converge([web(())])
    inside = [web((), scheme="internal")]
    world.run(inside)
    waiting = world.plan(inside)
    assert waiting.empty
    assert {change.not_before for change in waiting.pending} == {world.now + timedelta(seconds=120)}
    world.now += timedelta(seconds=121)
    assert {change.action for change in world.plan(inside).changes} == {"delete"}


def test_another_fixed_address_is_an_outage_and_says_so(world: World) -> None:
    world.converge([web((), requested_addresses=(ip_address("198.18.9.1"),))])
    plan, _ = world.run([web((), requested_addresses=(ip_address("198.18.9.2"),))])
    assert {change.outage for change in plan.changes} == {True}
    assert {thing.ip for thing in _cloud(world).list("address")} == {"198.18.9.2"}


def test_a_fixed_address_that_somebody_has_is_refused(world: World) -> None:
    wish = (ip_address("198.18.9.1"),)
    _, steps = world.run([web((), requested_addresses=wish), dns((), requested_addresses=wish)])
    assert [step.answer.reason for step in steps if isinstance(step.answer, Refused)] == ["invalid"]


def test_a_rule_in_use_waits(world: World) -> None:
    plan, _ = world.run([web(())])
    rule = next(change for change in plan.changes if change.kind == "rule")
    made = next(r for r in world.observe().resources if r.key == rule.key)
    (answer,) = world.provider.apply([replace(rule, action="delete", before=made, after=None)])
    assert isinstance(answer, Retry)
    assert answer.reason == "in-use"


def test_what_vanished_before_an_update_is_looked_at_again(world: World) -> None:
    world.converge([web(())])
    plan = world.plan([web_changed(())])
    _cloud(world).clear()
    update = next(change for change in plan.changes if change.action == "update")
    (answer,) = world.provider.apply([update])
    assert not isinstance(answer, Resource)


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"ports": ()}, "no-ports"),
        ({"ports": (Port(80, "SCTP", 30080),)}, "unsupported-protocol"),
        ({"ports": (Port(80),)}, "no-node-port"),
        ({"ip_families": ("IPv6",)}, "unsupported-family"),
        ({"requested_addresses": (ip_address("203.0.113.1"),)}, "no-pool-match"),
        ({"requested_addresses": (ip_address("2001:db8::1"),)}, "no-pool-match"),
        ({"requested_addresses": (ip_address("198.18.0.1"), ip_address("198.18.0.2"))}, "too-many-addresses"),
        ({}, None),
        ({"ports": (Port(80, node_port=None),)}, None),
    ],
)
def test_it_refuses_what_it_cannot_serve(edit: dict[str, object], reason: str | None) -> None:
    lb = LoadBalancer(Owner("default/web"), ports=(Port(80, node_port=30080),))
    said = refusal(replace(lb, **edit))
    assert (said and said.reason) == reason


def test_a_drain_that_is_no_number_names_the_setting_and_every_way_to_give_it() -> None:
    with pytest.raises(SettingsError, match=r"memory\.drain.*--memory-drain.*LBCTL_MEMORY_DRAIN"):
        MemoryProvider(Harness(settings={"drain": "soon"}))


# -- the cloud's own strictness --------------------------------------------------------------------------------------


def _address(name: str, ip: str = "") -> Thing:
    return Thing("address", name, {"scheme": "internal", "ip": ip})


def test_names_are_unique() -> None:
    cloud = MemoryCloud()
    cloud.create(_address("a"))
    with pytest.raises(CloudError, match="there is a address a already"):
        cloud.create(_address("a"))


def test_addresses_run_out_and_come_back() -> None:
    cloud = MemoryCloud(pools={"internal": IPv4Network("10.0.0.0/30")})
    first, second = cloud.create(_address("a")), cloud.create(_address("b"))
    with pytest.raises(CloudError, match="no address is left"):
        cloud.create(_address("c"))
    cloud.delete(first.id)
    assert {cloud.create(_address("c")).ip, second.ip} == {"10.0.0.1", "10.0.0.2"}


def test_a_refused_edit_leaves_everything_as_it_was() -> None:
    cloud = MemoryCloud()
    kept = cloud.create(_address("a"))

    def fail() -> None:
        raise CloudError("Invalid", "no")

    with pytest.raises(CloudError):
        cloud.edit([(kept.key, lambda: cloud.delete(kept.id)), (kept.key, fail)])
    assert cloud.find("address", ["a"]) == (kept,)
    with pytest.raises(CloudError, match="taken"):
        cloud.create(_address("b", ip=kept.ip))


def test_the_clock_is_only_for_tags() -> None:
    naive = MemoryProvider(Harness(settings={"cloud": "clock"}, now=lambda: datetime(2026, 1, 1)))  # noqa: DTZ001
    made = naive._thing(Resource("rule", "r", Owner("shared")))
    assert datetime.fromisoformat(made.tags["created"]).tzinfo == UTC
