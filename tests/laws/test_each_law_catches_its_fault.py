"""Deliberately broken providers, one fault each, and the proof that the law made for it says so.

A fault names the laws that must catch it, and what they must say: a law that fails for another reason proves nothing.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from lbctl.errors import LbctlError, Refused, Retry, Unavailable
from lbctl.memory import MemoryProvider
from lbctl.model import SHARED, LoadBalancer, Refusal, Resource
from lbctl.plan import Change
from lbctl.provider import Call, Desired, Observation, Scope, ignore
from lbctl.testing import laws
from lbctl.testing.laws import LAWS
from lbctl.testing.memory import MemoryStandin, Thing
from lbctl.testing.world import Once, World

FAULTS: list[tuple[type[MemoryProvider], str, str]] = []

Answers = Sequence[Resource | Exception | None]


def breaks(**laws: str) -> Callable[[type[MemoryProvider]], type[MemoryProvider]]:
    """The decorated provider breaks these laws, which then say this (a regular expression)."""

    def enter(provider: type[MemoryProvider]) -> type[MemoryProvider]:
        FAULTS.extend((provider, law, says) for law, says in laws.items())
        return provider

    return enter


# -- faults of observe -----------------------------------------------------------------------------------------------


@breaks(planning_writes_nothing="planning called")
class MakesRoomWhileItLooks(MemoryProvider):
    _rooms = itertools.count()

    def observe(self, scope: Scope) -> Observation:
        self._call("create", self._cloud.create, Thing("rule", f"room-{next(self._rooms)}", {"protocol": "TCP"}))
        return super().observe(scope)


@breaks(planning_writes_nothing="planning changed")
class TidiesUpUnheard(MemoryProvider):
    def observe(self, scope: Scope) -> Observation:
        if not scope.load_balancers:
            for listener in self._cloud.list("listener"):
                self._cloud.delete(listener.id)
        return super().observe(scope)


@breaks(a_failed_look_raises="met an error .* and answered")
class AnswersInPart(MemoryProvider):
    def observe(self, scope: Scope) -> Observation:
        try:
            return super().observe(scope)
        except LbctlError:
            return Observation(scope, self._known.of(scope.owners))


@breaks(scope_is_respected="a look at laws/web saw")
class SeesEverybody(MemoryProvider):
    def observe(self, scope: Scope) -> Observation:
        return replace(super().observe(replace(scope, owners=None)), scope=scope)


@breaks(drift_is_seen_and_repaired="not seen")
class NeverReadsAgain(MemoryProvider):
    def observe(self, scope: Scope) -> Observation:
        return super().observe(replace(scope, fresh=not self._known.complete))


@breaks(orphans_are_collected_by_a_provider_that_never_knew_them="left behind")
class KnowsOnlyItsOwnWork(MemoryProvider):
    def observe(self, scope: Scope) -> Observation:
        if not self._known.complete:
            self._known.replace(())
        return Observation(scope, self._known.of(scope.owners and {*scope.owners, SHARED}))


@breaks(applying_a_plan_makes_the_next_plan_empty="still something to do: .*port", what_is_unrelated_changes_nothing="")
class ReadsBackInOtherWords(MemoryProvider):
    def observe(self, scope: Scope) -> Observation:
        def reworded(r: Resource) -> Resource:
            return replace(r, fields={k: str(v) if k == "port" else v for k, v in r.fields.items()})

        seen = super().observe(scope)
        return replace(seen, resources=tuple(map(reworded, seen.resources)))


@breaks(foreign_resources_survive="observe takes foreign things for ours")
class SeesByNameAlone(MemoryProvider):
    def _ours(self, thing: Thing) -> bool:
        return thing.name.startswith("laws.")

    def observe(self, scope: Scope) -> Observation:
        with _tagged(self):
            return super().observe(scope)


@contextlib.contextmanager
def _tagged(provider: MemoryProvider) -> Iterator[None]:
    """Whatever bears no mark gets ours, as far as this provider can tell."""
    tags = {"cluster": "laws", "owner": "laws/web", "created": "2026-01-01T00:00:00+00:00"}
    listed = provider._cloud.list
    provider._cloud.list = lambda kind: tuple(replace(t, tags=t.tags or tags) for t in listed(kind))  # type: ignore
    yield
    del provider._cloud.list


# -- faults of desired -----------------------------------------------------------------------------------------------


@breaks(desired_is_pure="two answers to one question")
class NamesByChance(MemoryProvider):
    _numbers = itertools.count()

    def _address_name(self, lb: LoadBalancer) -> str:
        return f"{super()._address_name(lb)}.{next(self._numbers)}"


@breaks(desired_is_pure="desired made calls")
class AsksAgainWhileItThinks(MemoryProvider):
    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        self._call("list", self._cloud.list, "rule")
        return super().desired(load_balancers, seen)


@breaks(desired_is_pure="changed what it was given")
class ScribblesOnWhatItSaw(MemoryProvider):
    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        for resource in seen.resources:
            resource.fields["times"] = resource.fields.get("times", 0) + 1  # type: ignore[index]
        return super().desired(load_balancers, seen)


@breaks(
    a_new_provider_desires_the_same="a restarted provider desires something else",
    a_crash_after_any_call_leaks_and_doubles_nothing="7 things would be right",
)
class NamesByProcess(MemoryProvider):
    _processes = itertools.count()

    def __init__(self, harness: Any) -> None:
        super().__init__(harness)
        self._process = next(self._processes)

    def _address_name(self, lb: LoadBalancer) -> str:
        return f"{super()._address_name(lb)}.{self._process}"

    def _drains(self, wanted: Any, seen: Observation) -> dict[Any, Any]:
        return {}

    def _ours(self, thing: Thing) -> bool:
        return super()._ours(thing) and (thing.kind == "rule" or f".{self._process}" in thing.name)


@breaks(desired_is_orderless="depends on the order")
class TakesNodesAsTheyCome(MemoryProvider):
    def _listener(self, lb: LoadBalancer, *rest: Any) -> Resource:
        listener = super()._listener(lb, *rest)
        targets = tuple(str(node.addresses[0]) for node in lb.nodes)
        return replace(listener, fields={**listener.fields, "targets": targets})


@breaks(narrowed_desired_is_the_full_one_restricted="says something else than it does for all")
class CountsOnlyWhomItIsAskedAbout(MemoryProvider):
    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        shares = {share: 1 for lb in load_balancers for share in self.shares(lb)}
        return super().desired(load_balancers, replace(seen, scope=replace(seen.scope, shares=shares)))


@breaks(what_is_unrelated_changes_nothing="an unrelated label and annotation change")
class CopiesEveryAnnotation(MemoryProvider):
    def _listener(self, lb: LoadBalancer, *rest: Any) -> Resource:
        listener = super()._listener(lb, *rest)
        return replace(listener, fields={**listener.fields, "annotations": dict(lb.annotations)})


@breaks(an_address_outlives_changes_of_ports_and_nodes="the address changed")
class NamesAfterPorts(MemoryProvider):
    def _address_name(self, lb: LoadBalancer) -> str:
        return f"{super()._address_name(lb)}.{'.'.join(str(port.port) for port in lb.ports)}"


@breaks(
    refusals_have_a_name_a_reason_and_a_way_out="say resources or a refusal",
    a_refused_service_keeps_what_it_has="loses what it had",
)
class RefusesInSilence(MemoryProvider):
    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        return replace(super().desired(load_balancers, seen), refused=())


@breaks(refusals_have_a_name_a_reason_and_a_way_out="is not a short token")
class RefusesWithoutAReason(MemoryProvider):
    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        want = super().desired(load_balancers, seen)
        return replace(want, refused=tuple(Refusal(r.owner, "", r.message) for r in want.refused))


@breaks(refusals_have_a_name_a_reason_and_a_way_out="no sentence")
class RefusesWithoutAWayOut(MemoryProvider):
    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        want = super().desired(load_balancers, seen)
        return replace(want, refused=tuple(Refusal(r.owner, r.reason, "invalid") for r in want.refused))


@breaks(refusals_have_a_name_a_reason_and_a_way_out="only laws/bad asked for it")
class RefusesAllForOne(MemoryProvider):
    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        want = super().desired(load_balancers, seen)
        if not want.refused:
            return want
        return Desired(refused=tuple(replace(want.refused[0], owner=lb.owner) for lb in load_balancers))


@breaks(what_says_internal_anywhere_gets_no_public_address="said to be internal, but public")
class PublishesEverything(MemoryProvider):
    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        return super().desired([replace(lb, scheme="internet-facing") for lb in load_balancers], seen)


@breaks(shared_resources_come_with_the_first_and_go_with_the_last="nobody needs .* any more")
class KeepsSharedThingsForLater(MemoryProvider):
    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        shares = {"TCP": 1, **seen.scope.shares}
        return super().desired(load_balancers, replace(seen, scope=replace(seen.scope, shares=shares)))


@breaks(secrets_never_appear="a secret setting appears")
class WritesItsSettingsDown(MemoryProvider):
    def _rule(self, protocol: str) -> Resource:
        return replace(super()._rule(protocol), because=f"settings {dict(self._harness.settings)}")


# -- faults of apply -------------------------------------------------------------------------------------------------


@breaks(secrets_never_appear="a secret setting appears")
class ComplainsWithItsSettings(MemoryProvider):
    def _call(self, operation: str, *rest: Any) -> Any:
        try:
            return super()._call(operation, *rest)
        except Unavailable as error:
            raise Unavailable("the cloud is away") from RuntimeError(f"{error} at {self._harness.settings}")


@breaks(every_call_is_reported_before_and_after="no call was reported")
class CallsUnheard(MemoryProvider):
    def __init__(self, harness: Any) -> None:
        super().__init__(replace(harness, on_call=ignore))


@breaks(every_call_is_reported_before_and_after="but answered")
class ReportsOnlyWhatItSends(MemoryProvider):
    def __init__(self, harness: Any) -> None:
        super().__init__(replace(harness, on_call=lambda call: harness.on_call(call) if call.code is None else None))


@breaks(every_address_becomes_an_output="is not among the outputs that apply answered")
class AnswersWithoutOutputs(MemoryProvider):
    def apply(self, changes: Sequence[Change]) -> Answers:
        answers = super().apply(changes)
        return [_without_ip(answer) if isinstance(answer, Resource) else answer for answer in answers]


def _without_ip(resource: Resource) -> Resource:
    return replace(resource, outputs={k: v for k, v in resource.outputs.items() if k != "ip"})


@breaks(the_unwanted_is_collected="left behind")
class LetsGoInsteadOfDeleting(MemoryProvider):
    def _delete(self, change: Change) -> None:
        assert change.before
        for thing in self._cloud.find(change.kind, [change.name]):
            if change.kind == "address":
                self._cloud.delete(thing.id)
                self._cloud.create(replace(thing, name=f"lost-{thing.id}", tags={}, id="", ip=""))
            else:
                super()._delete(change)


@breaks(scope_is_respected="touched, though out of scope")
class DeletesItsNeighbours(MemoryProvider):
    def _delete(self, change: Change) -> None:
        super()._delete(change)
        for thing in self._cloud.list("listener"):
            self._cloud.delete(thing.id)


@breaks(shared_resources_come_with_the_first_and_go_with_the_last="went in a narrowed pass")
class TurnsOffTheLightForEverybody(MemoryProvider):
    def _delete(self, change: Change) -> None:
        super()._delete(change)
        for rule in () if self._cloud.list("listener") else self._cloud.list("rule"):
            self._cloud.delete(rule.id)


@breaks(foreign_resources_survive="lost or taken over")
class TakesOverWhatHasItsName(MemoryProvider):
    def _marked(self, thing: Thing, wanted: Resource) -> Thing:
        for user in self._cloud.list("listener"):
            if user.properties["address"] == thing.id:
                self._cloud.delete(user.id)
        self._cloud.delete(thing.id)
        return self._cloud.create(replace(self._thing(wanted), id="", ip=""))


@breaks(two_clusters_share_a_cloud_without_seeing_each_other="sees what another cluster made")
class MarksWithoutTheCluster(MemoryProvider):
    def _ours(self, thing: Thing) -> bool:
        return bool(thing.tags)


@breaks(every_change_may_be_repeated="refused when repeated: .*already")
class CreatesOnlyOnce(MemoryProvider):
    def _adopt(self, wanted: Resource) -> Resource:
        raise Refused(f"there is a {wanted.kind} {wanted.name} already: delete it", reason="name-taken")


@breaks(every_change_may_be_repeated="refused when repeated: .*gone")
class DeletesOnlyOnce(MemoryProvider):
    def _delete(self, change: Change) -> None:
        if not self._cloud.find(change.kind, [change.name]):
            raise Refused("it is gone and cannot be deleted", reason="gone")
        super()._delete(change)


@breaks(a_crash_after_any_call_leaks_and_doubles_nothing="trouble (before|after) call .*")
class MarksInASecondCall(MemoryProvider):
    def _carry_out(self, change: Change) -> Resource | None:
        if change.kind != "address" or change.action != "create" or not change.after:
            return super()._carry_out(change)
        thing = self._thing(change.after)
        made = self._call("create", self._cloud.create, replace(thing, tags={}))
        self._call("tag", self._cloud._things.update, {made.key: replace(made, tags=thing.tags)})
        return self._adopt(change.after)


@breaks(a_crash_after_any_call_leaks_and_doubles_nothing="a crash was stopped on its way")
class SurvivesItsOwnDeath(MemoryProvider):
    def apply(self, changes: Sequence[Change]) -> Answers:
        try:
            return super().apply(changes)
        except BaseException as error:  # noqa: BLE001
            return [Unavailable(f"something went wrong: {error!r}")] * len(changes)


@breaks(a_timeout_after_the_effect_of_any_call_loses_nothing="still planned")
class TakesSilenceForANo(MemoryProvider):
    def apply(self, changes: Sequence[Change]) -> Answers:
        answers = super().apply(changes)
        return [Refused("the cloud says no") if isinstance(answer, Unavailable) else answer for answer in answers]


@breaks(
    an_outage_from_any_call_on_loses_nothing="a warm look said that all is done|still something to do",
    a_timeout_after_the_effect_of_any_call_loses_nothing="",
)
class TakesSilenceForConsent(MemoryProvider):
    def apply(self, changes: Sequence[Change]) -> Answers:
        answers = [
            _imagined(change) if isinstance(answer, Unavailable) else answer
            for change, answer in zip(changes, super().apply(changes), strict=True)
        ]
        for change, answer in zip(changes, answers, strict=True):
            self._known.note(change, answer)
        return answers


@breaks(a_throttle_at_any_call_loses_nothing="a warm look said that all is done|still something to do")
class TakesThrottlesForConsent(MemoryProvider):
    def apply(self, changes: Sequence[Change]) -> Answers:
        answers = [
            _imagined(change) if isinstance(answer, Retry) else answer
            for change, answer in zip(changes, super().apply(changes), strict=True)
        ]
        for change, answer in zip(changes, answers, strict=True):
            self._known.note(change, answer)
        return answers


def _imagined(change: Change) -> Resource | None:
    """What would exist now if the call had gone well."""
    outputs = {"id": "?", "ip": "?", "created": "2026-01-01T00:00:00+00:00"}
    return replace(change.after, outputs=outputs) if change.after else None


@breaks(lanes_may_run_at_once="lanes failed|after all lanes at once")
class RemembersOneChangeAtATime(MemoryProvider):
    def __init__(self, harness: Any) -> None:
        super().__init__(harness)
        self._both = threading.Barrier(2)
        self._changes: Sequence[Change] = ()

    def apply(self, changes: Sequence[Change]) -> Answers:
        self._changes = changes
        with contextlib.suppress(threading.BrokenBarrierError):
            self._both.wait(0.05)
        self._both.reset()
        return super().apply(self._changes)


# -- the proof -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("broken", "law", "says"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_the_law_catches_the_fault(broken: type[MemoryProvider], law: str, says: str) -> None:
    standin = MemoryStandin()
    standin.start()
    with pytest.raises(AssertionError, match=f"(?s){says}"):
        LAWS[law](World(broken, standin))
    standin.stop()


def test_every_call_of_a_chapter_meets_its_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    standin, met = MemoryStandin(), set[str]()
    standin.start()

    class Watched(Once):
        def __call__(self, number: int, call: Call) -> None:
            try:
                super().__call__(number, call)
            finally:
                met.add(self.happened)

    monkeypatch.setattr(laws, "Once", Watched)
    LAWS["a_crash_after_any_call_leaks_and_doubles_nothing"](World(MemoryProvider, standin))
    heard = {(words[0], int(words[2])) for words in map(str.split, met - {""})}
    assert heard == {(when, number) for when in ("before", "after") for number in range(1, 13)}


def test_every_law_has_a_fault_that_it_catches() -> None:
    assert LAWS.keys() == {law for _, law, _ in FAULTS}
