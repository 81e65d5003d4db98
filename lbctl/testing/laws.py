"""The laws that every provider obeys. Each is a function whose name is the law; it takes a `World`, raises if broken.

`lbctl.testing.suite` makes a test of each: `pytest --pyargs lbctl.testing.suite --lbctl-provider=NAME`. They speak only
the contract (`lbctl.provider`) and the stand-in's few words, so they hold for a stranger's provider as for ours.
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from ipaddress import ip_address
from itertools import count
from typing import Any

import msgspec

from lbctl import intent
from lbctl.apply import Lanes
from lbctl.apply import Result as Landing
from lbctl.errors import LbctlError, Refused
from lbctl.model import SHARED, LoadBalancer, Node, Owner, Port, Resource, resolve
from lbctl.provider import Desired
from lbctl.testing import driver
from lbctl.testing.driver import SimulatedCrash, Step
from lbctl.testing.world import (
    Once,
    Outage,
    Trouble,
    World,
    api,
    check_answer,
    dns,
    replaced,
    throttled,
    told,
    unavailable,
    web,
    web_changed,
)

Law = Callable[[World], None]

WEB = Owner("laws/web")

LAWS: dict[str, Law] = {}
"""Every law by its name."""


def law(function: Law) -> Law:
    """Enter the function among the laws."""
    LAWS[function.__name__] = function
    return function


# -- looking and planning --------------------------------------------------------------------------------------------


@law
def planning_writes_nothing(world: World) -> None:
    """Whatever the plan says: making it changes nothing, and calls nothing that could."""
    nodes = world.standin.nodes(3)
    world.converge([web(nodes[:2])])
    before = world.standin.inventory()
    for wanted in ([], [web_changed(nodes), dns(nodes)], [web(nodes, scheme="internal")]):
        for owners in (None, [WEB]):
            for fresh in (True, False):
                world.wire.begin()
                world.plan(wanted, owners, fresh=fresh)
                assert not world.wire.changing, f"planning called {world.wire.changing}: only apply may change anything"
    assert world.standin.inventory() == before, f"planning changed {world.standin.inventory() ^ before}"


@law
def every_call_is_reported_before_and_after(world: World) -> None:
    """`Harness.on_call` hears of each call twice: how else would anybody count, or crash, them?"""
    world.converge([web(world.standin.nodes(1))])
    world.wire.begin()
    world.converge([])
    sent = [call.operation for call in world.wire.calls if call.code is None]
    answered = [call.operation for call in world.wire.calls if call.code is not None]
    assert sent, "no call was reported: tell Harness.on_call of each, before it is sent and after its answer"
    assert world.wire.changing, f"only reads were reported, though things were deleted: {sorted(set(sent))}"
    assert sorted(sent) == sorted(answered), f"sent {sent}, but answered {answered}"


@law
def a_failed_look_raises(world: World) -> None:
    """A read that fails halfway is no answer: "could not read" must never look like "is not there"."""
    nodes = world.standin.nodes(2)
    lbs = [web(nodes), dns(nodes)]
    world.converge(lbs)
    for error in (unavailable, throttled):
        for number in count(1):
            world.restart()
            world.wire.begin(Outage(number, error))
            try:
                seen = world.observe(lbs)
            except LbctlError:
                continue
            assert not world.wire.trouble.happened, (
                f"observe met an error {world.wire.trouble.happened}, and answered with {len(seen.resources)} resources"
            )
            break


@law
def desired_is_pure(world: World) -> None:
    """The same question has the same answer, no call is made for it, and what it was given stays as it was."""
    nodes = world.standin.nodes(2)
    lbs = [web(nodes), dns(nodes), api(nodes)]
    for present, wanted in (([], lbs), (lbs[:1], [web_changed(nodes), api(nodes)]), (lbs[:2], lbs[1:])):
        world.converge(present)
        seen = world.observe(wanted)
        given = deepcopy((wanted, seen))
        world.wire.begin()
        first, second = (world.provider.desired(wanted, seen) for _ in range(2))
        assert _told(first) == _told(second), "desired gave two answers to one question: no clock, no chance, no memory"
        assert not world.wire.calls, f"desired made calls: {world.wire.calls}"
        assert given == (wanted, seen), "desired changed what it was given"
        assert first.addresses == second.addresses, "desired gave two answers about addresses"
        shares = [world.provider.shares(lb) for lb in wanted]
        assert [set(s) for s in shares] == [set(world.provider.shares(lb)) for lb in wanted], "shares gave two answers"


@law
def a_new_provider_desires_the_same(world: World) -> None:
    """What ought to be follows from what is asked for and what is there, not from when the process began."""
    nodes = world.standin.nodes(2)
    lbs = [web(nodes), dns(nodes)]
    first = world.provider.desired(lbs, world.observe(lbs))
    world.restart()
    second = world.provider.desired(lbs, world.observe(lbs))
    assert _told(first) == _told(second), "a restarted provider desires something else: no memory, no chance"


@law
def desired_is_orderless(world: World) -> None:
    """Services, nodes and resources come in any order; the answer is one."""
    nodes = world.standin.nodes(3)
    lbs = [web(nodes), dns(nodes), api(nodes), _hostile(nodes)["sctp"]]
    world.converge(lbs[:2])
    seen = world.observe(lbs)
    expected = _told(world.provider.desired(lbs, seen))
    for seed in range(5):
        chance = random.Random(seed)
        other_nodes = tuple(chance.sample(nodes, 3))
        shuffled = [replaced(lb, nodes=other_nodes) for lb in chance.sample(lbs, len(lbs))]
        resources = tuple(chance.sample(seen.resources, len(seen.resources)))
        scope = msgspec.structs.replace(seen.scope, load_balancers=tuple(shuffled))
        other = _told(world.provider.desired(shuffled, msgspec.structs.replace(seen, resources=resources, scope=scope)))
        assert other == expected, "desired depends on the order of what it is given"


@law
def narrowed_desired_is_the_full_one_restricted(world: World) -> None:
    """Asked about one Service, it says of that one, and of what is shared, what it says when asked about all."""
    nodes = world.standin.nodes(2)
    lbs = [web(nodes), dns(nodes), api(nodes)]
    for present in ([], lbs[:2], lbs):
        world.converge(present)
        full, _ = driver.look(world.provider, world.scope(lbs))
        for lb in lbs:
            for fresh in (True, False):
                narrow, _ = driver.look(world.provider, world.scope(lbs, [lb.owner], fresh=fresh))
                assert _told(narrow) == _told(full, {lb.owner, SHARED}), (
                    f"narrowed to {lb.owner}, desired says something else than it does for all"
                )


# -- applying --------------------------------------------------------------------------------------------------------


@law
def applying_a_plan_makes_the_next_plan_empty(world: World) -> None:
    """What apply made is what desired said, and observe reads it back in the same words."""
    nodes = world.standin.nodes(3)
    for wanted, when in (
        ([web(nodes[:2]), dns(nodes[:2])], "after creating"),
        ([web_changed(nodes[:2]), dns(nodes[:2])], "after changing ports"),
        ([web_changed(nodes), dns(nodes)], "after a node came"),
        ([web_changed(nodes[1:]), dns(nodes[1:])], "after a node went"),
        ([web(nodes[1:], session_affinity="ClientIP"), dns(nodes[1:])], "after turning session affinity on"),
        ([web(nodes[1:], scheme="internal"), dns(nodes[1:])], "after changing the scheme"),
        ([dns(nodes[1:])], "after deleting one"),
        ([], "after deleting all"),
    ):
        world.converge(wanted)
        world.done(wanted, when)


@law
def what_is_unrelated_changes_nothing(world: World) -> None:
    """Somebody else's label or annotation on a Service is nobody's business."""
    lb = web(world.standin.nodes(2))
    world.converge([lb])
    other = replaced(lb, labels={"example.com/team": "blue"}, annotations={"example.com/note": "hello"})
    plan = world.plan([other])
    assert plan.empty, f"an unrelated label and annotation change: {told(plan.changes)}"
    assert not plan.refused, f"an unrelated label or annotation is refused: {plan.refused}"


@law
def every_address_becomes_an_output(world: World) -> None:
    """As soon as all is applied, each Ref of `Desired.addresses` is known: from its answers and every look."""
    nodes = world.standin.nodes(2)
    lbs = [web(nodes), dns(nodes)]
    answered = {s.change.key: s.answer.outputs for s in world.converge(lbs) if isinstance(s.answer, Resource)}
    warm = {r.key: r.outputs for r in world.observe(lbs, fresh=False).resources}
    fresh = {r.key: r.outputs for r in world.observe(lbs).resources}
    said = world.provider.desired(lbs, world.observe(lbs)).addresses
    for lb in lbs:
        refs = said.get(lb.owner, ())
        assert refs, f"{lb.owner} has no address: `Desired.addresses` must name the outputs that are its addresses"
        for ref in refs:
            assert ref.output in ("hostname", "ip"), f"{ref} is neither a `hostname` nor an `ip`"
            values = [resolve(ref, outputs) for outputs in (answered, warm, fresh)]
            assert isinstance(values[0], str), f"{ref} of {lb.owner} is not among the outputs that apply answered"
            assert values[0], f"{ref} of {lb.owner} is empty"
            assert len({*map(str, values)}) == 1, f"{ref}: apply, a warm and a fresh look disagree: {values}"


@law
def an_address_outlives_changes_of_ports_and_nodes(world: World) -> None:
    """People put addresses into DNS and firewalls: other ports or nodes are no reason for another one."""
    nodes = world.standin.nodes(3)
    had: list[Any] = []
    for wanted in ([web(nodes[:2])], [web_changed(nodes[:2])], [web_changed(nodes[1:])], [web(nodes), dns(nodes)]):
        world.converge(wanted)
        seen = world.observe(wanted)
        outputs = {r.key: r.outputs for r in seen.resources}
        said = world.provider.desired(wanted, seen).addresses
        had.append(resolve(said.get(wanted[0].owner, ()), outputs))
    assert all(addresses == had[0] for addresses in had), f"the address changed with ports or nodes: {had}"


@law
def the_unwanted_is_collected(world: World) -> None:
    """A Service that is gone leaves nothing, and a port that is gone neither."""
    nodes = world.standin.nodes(2)
    ground = world.standin.inventory()
    world.converge([web(nodes)])
    alone = world.standin.inventory()
    world.converge([web(nodes), dns(nodes), api(nodes)])
    world.converge([web(nodes)])
    assert len(world.standin.inventory()) == len(alone), f"left behind: {world.standin.inventory() - alone}"
    world.converge([])
    assert world.standin.inventory() == ground, f"left behind: {world.standin.inventory() - ground}"


@law
def orphans_are_collected_by_a_provider_that_never_knew_them(world: World) -> None:
    """There is no state but the cloud's: a new process finds what an old one made, by its marks alone."""
    nodes = world.standin.nodes(2)
    ground = world.standin.inventory()
    world.converge([web(nodes), dns(nodes)])
    world.restart()
    world.converge([])
    assert world.standin.inventory() == ground, f"left behind: {world.standin.inventory() - ground}"


@law
def scope_is_respected(world: World) -> None:
    """Asked about one Service, nobody else's is seen, planned or touched, even if it ought to be."""
    nodes = world.standin.nodes(2)
    lbs = [web(nodes), dns(nodes), api(nodes)]
    world.converge(lbs)
    theirs = {r.key: r for r in world.observe(lbs).resources if r.owner != WEB}
    for fresh in (True, False):
        scope = world.scope([web_changed(nodes)], [WEB], fresh=fresh)
        seen = world.provider.observe(scope)
        strangers = {r.owner for r in seen.resources} - {WEB, SHARED}
        assert not strangers, f"a look at laws/web saw {strangers}"
    plan, _ = world.run([web_changed(nodes)], [WEB])
    beyond = [c for c in plan.changes if c.owner not in (WEB, SHARED)]
    assert not beyond, f"a plan for laws/web says: {told(beyond)}"
    world.run([], [WEB])
    left = {r.key: r for r in world.observe(lbs).resources if r.owner != WEB}
    assert left == theirs, f"touched, though out of scope: {_difference(theirs, left)}"


@law
def shared_resources_come_with_the_first_and_go_with_the_last(world: World) -> None:
    """What several need exists as soon as one needs it, and goes in a full, fresh pass once none does."""
    nodes = world.standin.nodes(2)
    lbs = [web(nodes), api(nodes)]
    world.run(lbs[:1], [WEB])
    world.converge(lbs[:1])
    first = _shared(world)
    world.converge(lbs)
    assert _shared(world).keys() >= first.keys(), "a second user made shared things go"
    for left, gone in ((lbs[1:], WEB), ([], Owner("laws/api"))):
        for _ in range(3):
            world.run(left, [gone], fresh=False)
            world.settle()
        missing = first.keys() - _shared(world).keys()
        assert not missing, f"{missing} went in a narrowed pass, which does not know who else needs it"
        if left:
            world.converge(left)
            world.done(left, "after one of two users left")
    world.converge([])
    assert not _shared(world), f"nobody needs {_shared(world).keys()} any more, but it stays"


@law
def lanes_may_run_at_once(world: World) -> None:
    """The real applier calls from several threads, one per owner: nothing is lost or mixed up."""
    nodes = world.standin.nodes(2)
    world.converge([web(nodes), dns(nodes), api(nodes)])
    expected = len(world.standin.inventory())
    world.forget()
    nodes = world.standin.nodes(2)
    lbs = [web(nodes), dns(nodes), api(nodes)]
    landings: list[Landing] = []
    lanes = Lanes(world.provider.apply, world.provider.kinds, landed=landings.append, workers=4)
    lanes.start(world.plan(lbs))
    assert lanes.wait(60), f"the lanes of {lanes.busy()} did not end"
    lanes.close(10)
    failed = [f"{landing.owner}: {landing.message}" for landing in landings if landing.outcome == "failed"]
    assert not failed, f"lanes failed on a good day: {failed}"
    if any(landing.outcome == "retry" for landing in landings):
        world.converge(lbs)
    world.done(lbs, "after all lanes at once")
    assert len(world.standin.inventory()) == expected, f"lost or doubled: {sorted(world.standin.inventory())}"


# -- others' things --------------------------------------------------------------------------------------------------


@law
def foreign_resources_survive(world: World) -> None:
    """What does not carry our mark is never changed and never deleted, whatever its name."""
    nodes = world.standin.nodes(3)
    stages: tuple[list[LoadBalancer], ...]
    stages = ([web(nodes[:2]), dns(nodes[:2])], [web_changed(nodes), dns(nodes)], [web(nodes, scheme="internal")], [])
    for early in (True, False):
        world.forget()
        if not early:
            world.converge(stages[0])
        ours = {r.key for r in world.observe().resources}
        foreign = world.standin.plant_foreign()
        assert {r.key for r in world.observe().resources} == ours, "observe takes foreign things for ours"
        for wanted in stages:
            for step in world.converge(wanted):
                _refused_with_a_way_out(step)
            lost = foreign - world.standin.inventory()
            assert not lost, f"lost or taken over, though not ours: {lost}"


@law
def two_clusters_share_a_cloud_without_seeing_each_other(world: World) -> None:
    """The same Service in two clusters is two load balancers, and each cluster collects only its own."""
    lbs = [web(world.standin.nodes(2))]
    other = World(world.make, world.standin, cluster="other-laws")
    ground = world.standin.inventory()
    world.converge(lbs)
    ours = world.standin.inventory()
    assert not other.observe(lbs).resources, "a provider sees what another cluster made"
    other.converge(lbs)
    world.done(lbs, "after another cluster came")
    world.converge([])
    other.done(lbs, "after the first cluster left")
    other.converge([])
    assert len(ours) > len(ground), "nothing was made at all"
    assert world.standin.inventory() == ground, f"left behind: {world.standin.inventory() - ground}"


@law
def drift_is_seen_and_repaired(world: World) -> None:
    """Whatever somebody changes by hand in one of our things: a fresh plan says so, and applying it puts it right."""
    nodes = world.standin.nodes(2)
    lbs = [web(nodes), dns(nodes)]
    world.converge(lbs)
    size, done = len(world.standin.inventory()), []
    for key in sorted(r.key for r in world.observe(lbs).resources):
        resource = next(r for r in world.observe(lbs).resources if r.key == key)
        what = world.standin.drift(resource)
        if what is None:
            continue
        done.append(what)
        world.standin.settle()
        assert not world.plan(lbs).empty, f"not seen: {what}"
        world.converge(lbs)
        world.done(lbs, f"after repairing this: {what}")
        assert len(world.standin.inventory()) == size, f"repairing this lost or doubled something: {what}"
    assert done, "the stand-in can drift nothing: let it change or delete at least one sort of resource"


# -- trouble ---------------------------------------------------------------------------------------------------------


@law
def every_change_may_be_repeated(world: World) -> None:
    """Nobody knows whether an unanswered call took effect; so each change is safe to carry out again."""
    nodes = world.standin.nodes(3)
    for wanted in ([web(nodes[:2]), dns(nodes[:2])], [web_changed(nodes), dns(nodes)], [dns(nodes)], []):
        for again in range(10):
            plan = world.plan(wanted)
            if plan.empty and not plan.pending:
                break
            for step in driver.carry_out(_Twice(world), plan):
                check_answer(step)
                assert not isinstance(step.answer, Refused), f"refused when repeated: {step.answer}"
            world.settle()
            assert again < 9, f"never done: {told(plan.changes)}"
        world.done(wanted, "after carrying out each change twice")


@law
def a_crash_after_any_call_leaks_and_doubles_nothing(world: World) -> None:
    """The process dies before its k-th call, or when that took effect but was not answered: for every k."""
    _through(world, lambda k: Once(k, "before", SimulatedCrash))
    _through(world, lambda k: Once(k, "after", SimulatedCrash))


@law
def a_throttle_at_any_call_loses_nothing(world: World) -> None:
    """Too many requests, at the k-th call: for every k."""
    _through(world, lambda k: Once(k, "before", throttled))


@law
def a_timeout_after_the_effect_of_any_call_loses_nothing(world: World) -> None:
    """The k-th call takes effect, and its answer is lost: for every k. Nothing is taken for done that may not be."""
    _through(world, lambda k: Once(k, "after", unavailable))


@law
def an_outage_from_any_call_on_loses_nothing(world: World) -> None:
    """From the k-th call of a pass on, nothing gets through until the pass is over: for every k."""
    _through(world, lambda k: Outage(k, unavailable))


# -- refusals and promises -------------------------------------------------------------------------------------------


@law
def refusals_have_a_name_a_reason_and_a_way_out(world: World) -> None:
    """What asks for the impossible is refused loudly, is served, or both never: and who is served notices nothing."""
    nodes = world.standin.nodes(2)
    good = web(nodes)
    world.converge([good])
    for what, bad in _hostile(nodes).items():
        want, _ = driver.look(world.provider, world.scope([good, bad]))
        owners = {refusal.owner for refusal in want.refused}
        made = {r.owner for r in want.resources}
        assert owners <= {bad.owner}, f"{what}: {owners} were refused, but only {bad.owner} asked for it"
        assert (bad.owner in owners) != (bad.owner in made), f"{what}: say resources or a refusal, not none or both"
        for refusal in want.refused:
            _sentence(what, refusal.reason, refusal.message)
        again, _ = driver.look(world.provider, world.scope([bad, good]))
        assert want.refused == again.refused, f"{what}: refused in other words the second time"
        alone, _ = driver.look(world.provider, world.scope([good]))
        assert _told(want, {good.owner}) == _told(alone, {good.owner}), f"{what}: disturbs another Service"


@law
def a_refused_service_keeps_what_it_has(world: World) -> None:
    """An edit that cannot be served leaves the Service as it was before, and takes nothing from it."""
    nodes = world.standin.nodes(2)
    lbs = [web(nodes), dns(nodes)]
    world.converge(lbs)
    before = world.standin.inventory()
    for what, bad in _hostile(nodes).items():
        edited = replaced(bad, owner=WEB)
        want, _ = driver.look(world.provider, world.scope([edited, lbs[1]]))
        if WEB in {r.owner for r in want.resources}:
            continue
        plan = world.plan([edited, lbs[1]])
        assert plan.empty, f"{what}: cannot be served, and loses what it had: {told(plan.changes)}"
        world.converge([edited, lbs[1]])
        assert world.standin.inventory() == before, f"{what}: lost {before - world.standin.inventory()}"
    world.converge([])
    world.done([], "after all refusals")


@law
def what_says_internal_anywhere_gets_no_public_address(world: World) -> None:
    """Internal by the Service's own word or by any known annotation of any vendor: never reachable from outside."""
    nodes = world.standin.nodes(1)
    said: list[Mapping[str, str]] = [{}]
    for name, words in intent.SCHEME_WORDS.items():
        said += [{name: value} for value in sorted(words.internal or {"yes"})[:1]]
    lbs = [
        web(nodes, ports=(Port(80, node_port=30100 + i, name="http"),), annotations=annotations, scheme=scheme)
        for i, annotations in enumerate(said)
        for scheme in [intent.scheme(annotations) or "internal"]
    ]
    lbs = [replaced(lb, owner=Owner(f"laws/inside-{i}")) for i, lb in enumerate(lbs)]
    assert all(lb.scheme == "internal" for lb in lbs)
    public = _public(world, ())
    world.converge(lbs)
    more = _public(world, lbs) - public
    assert not more, f"said to be internal, but public: {more}"


@law
def secrets_never_appear(world: World) -> None:
    """No plan, refusal, resource or error holds a secret out of the settings."""
    nodes = world.standin.nodes(2)
    wanted = [web(nodes), _hostile(nodes)["sctp"]]
    heard: list[object] = [world.plan(wanted), world.plan(wanted).digest]
    for number in count(1):
        world.forget()
        world.wire.begin(Outage(number, unavailable))
        try:
            plan, steps = world.run(wanted)
            heard += [plan, *(_everything_said(step.answer) for step in steps)]
        except LbctlError as error:
            heard.append(_everything_said(error))
        if not world.wire.trouble.happened:
            break
    world.wire.begin()
    heard.append(world.observe(wanted))
    secrets = {value for name, value in world.settings.items() if SECRET.search(name) and len(value) > 3}
    for secret in secrets:
        leaks = [text for text in map(repr, heard) if secret in text]
        assert not leaks, f"a secret setting appears: {leaks[0].replace(secret, '***')[:500]}"


SECRET = re.compile(r"secret|password|token|credential|private", re.IGNORECASE)
"""Which settings are nobody's business."""


# -- how the laws look at things -------------------------------------------------------------------------------------


def _told(desired: Desired, owners: Iterable[str] | None = None) -> Any:
    """What it says of these owners, in one order."""
    chosen = None if owners is None else set(owners)

    def ours(thing: Any) -> bool:
        return chosen is None or thing.owner in chosen

    resources = sorted(filter(ours, desired.resources), key=lambda r: r.key)
    refused = sorted(filter(ours, desired.refused), key=lambda r: (r.owner, r.reason))
    notes = sorted(filter(ours, desired.notes), key=lambda n: (n.owner, n.condition, n.reason))
    drains = desired.drains if chosen is None else {}
    return [(r.key, r.owner, r.fields, r.holds) for r in resources], refused, notes, drains


def _shared(world: World) -> dict[tuple[str, str], Resource]:
    return {r.key: r for r in world.observe().resources if r.owner == SHARED}


def _difference(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> list[Any]:
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]


class _Twice:
    """The world's provider, doing everything twice: the second time as a process would that knows only what it sees."""

    claims = True

    def __init__(self, world: World) -> None:
        self._world = world
        self.name, self.kinds = world.provider.name, world.provider.kinds
        self.observe, self.desired = world.provider.observe, world.provider.desired
        self.shares, self.adopts = world.provider.shares, world.provider.adopts

    def apply(self, changes: Sequence[Any]) -> Sequence[Any]:
        first = self._world.provider.apply(changes)
        if any(isinstance(answer, Exception) for answer in first):
            return first
        self._world.restart()
        self._world.observe()
        return self._world.provider.apply(changes)


def _story(world: World) -> list[tuple[str, list[LoadBalancer]]]:
    """A life: created, changed, replaced, its nodes changed, deleted."""
    nodes = world.standin.nodes(3)
    old, new = nodes[:2], nodes[1:]
    if world.small:
        one = (Port(80, node_port=30080),)
        other = (Port(80, node_port=30081),)
        return [
            ("create", [web(old, ports=one)]),
            ("change", [web(old, ports=other)]),
            ("node change", [web(new, ports=other)]),
            ("delete", []),
        ]
    return [
        ("create", [web(old), dns(old)]),
        ("change", [web_changed(old), dns(old)]),
        ("node change", [web_changed(new), dns(new)]),
        ("replacement", [web_changed(new, scheme="internal"), dns(new)]),
        ("delete of one", [dns(new)]),
        ("delete", []),
    ]


def _through(world: World, trouble: Callable[[int], Trouble]) -> None:
    """The whole story with one trouble in each chapter: at the first call, then at the second, until none is left."""
    sizes: dict[str, int] = {}
    world.forget()
    ground = world.standin.inventory()
    for chapter, wanted in _story(world):
        world.converge(wanted)
        sizes[chapter] = len(world.standin.inventory())
    for number in count(1):
        world.forget()
        chapters = [_chapter(world, name, wanted, trouble(number), sizes[name]) for name, wanted in _story(world)]
        left = world.standin.inventory() - ground
        assert not left, f"at call {number} of each chapter: left behind in the end: {left}"
        if not any(chapters):
            return


def _chapter(world: World, name: str, wanted: Sequence[LoadBalancer], trouble: Trouble, size: int) -> bool:
    """One chapter with its trouble, and what must be true when it is over. Did the trouble happen?"""
    world.wire.begin(trouble)
    try:
        try:
            world.converge(wanted)
            assert not (trouble.deadly and trouble.happened), "a crash was stopped on its way: catch no BaseException"
        except SimulatedCrash:
            world.restart()
            world.converge(wanted)
        world.wire.begin()
        left = world.plan(wanted)
        assert left.empty, f"still planned: {told(left.changes)}"
        there = world.standin.inventory()
        assert len(there) == size, f"{size} things would be right, there are: {sorted(there)}"
    except AssertionError as error:
        raise AssertionError(f"{name}, trouble {trouble.happened or 'none'}: {error}") from error
    return bool(trouble.happened)


def _hostile(nodes: Sequence[Node]) -> dict[str, LoadBalancer]:
    """Services that many clouds cannot serve."""
    bad = web(nodes, ports=(Port(7000, node_port=30700),))
    bad = replaced(bad, owner=Owner("laws/bad"), uid="00000000-0000-4000-8000-000000000bad")
    return {
        "sctp": replaced(bad, ports=(Port(7000, "SCTP", 30700),)),
        "no node port": replaced(bad, ports=(Port(7000, node_port=0),), allocate_node_ports=False),
        "an address from elsewhere": replaced(bad, requested_addresses=(ip_address("203.0.113.77"),)),
        "IPv6 alone": replaced(bad, ip_families=("IPv6",)),
        "200 ports": replaced(bad, ports=tuple(Port(7000 + i, node_port=30700 + i, name=f"p{i}") for i in range(200))),
        "local without a health check port": replaced(bad, external_traffic_policy="Local"),
    }


TOKEN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""How reasons look: `no-node-port`."""


def _sentence(what: str, reason: str, message: str) -> None:
    assert TOKEN.fullmatch(reason), f"{what}: the reason {reason!r} is not a short token like no-node-port"
    assert len(message.split()) >= 4, f"{what}: {message!r} is no sentence that says the way out"
    assert "\n" not in message, f"{what}: {message!r} is more than a line"


def _refused_with_a_way_out(step: Step) -> None:
    """What a good day may answer: what exists, or a refusal that its user understands."""
    if isinstance(step.answer, Refused):
        _sentence(f"{step.change.action} {step.change.name}", step.answer.reason, step.answer.message)


def _public(world: World, lbs: Sequence[LoadBalancer]) -> frozenset[str]:
    """What the internet reaches: by the stand-in's word (`public()`, where it has it), or by what observe says."""
    hook = getattr(world.standin, "public", None)
    if hook is not None:
        return frozenset(hook())
    return frozenset(
        f"{r.kind} {r.name}: {value}"
        for r in world.observe(lbs).resources
        if r.owner != SHARED
        for value in (*r.fields.values(), *r.outputs.values())
        if value == "internet-facing" or _is_global(value)
    )


def _is_global(value: object) -> bool:
    try:
        return ip_address(str(value)).is_global
    except ValueError:
        return False


def _everything_said(answer: object) -> str:
    """The answer; of an error, also what it came from, which ends up in logs."""
    said = repr(answer)
    while isinstance(answer, BaseException):
        said += f" {answer} {answer.args!r}"
        answer = answer.__cause__
    return said


