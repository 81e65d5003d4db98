"""Lanes: everything at once, each in order, nobody held up by somebody else."""

import threading
from collections.abc import Callable, Sequence

import msgspec
import pytest

from lbctl.apply import DOCUMENT_WAIT, Answer, Lanes, Result
from lbctl.errors import Refused, Retry, Unavailable
from lbctl.model import SHARED, Owner, Ref, Resource
from lbctl.plan import Change, Kind, Plan

WEB, DNS = Owner("default/web"), Owner("default/dns")
KINDS = (Kind("group"), Kind("rule", document="table"), Kind("balancer"))


def create(kind: str, name: str, owner: Owner, **fields: object) -> Change:
    return Change("create", kind, name, owner, after=Resource(kind, name, owner, fields))


def delete(kind: str, name: str, owner: Owner) -> Change:
    return Change("delete", kind, name, owner, before=Resource(kind, name, owner))


class Cloud:
    """Takes note of every batch; `answer` may be replaced to fail."""

    def __init__(self) -> None:
        self.batches: list[list[Change]] = []
        self.answer: Callable[[Change], Answer] = self.made

    @staticmethod
    def made(change: Change) -> Answer:
        return change.after and msgspec.structs.replace(change.after, outputs={"id": f"id-of-{change.name}"})

    def carry(self, changes: Sequence[Change]) -> Sequence[Answer]:
        self.batches.append(list(changes))
        return [self.answer(change) for change in changes]

    @property
    def names(self) -> list[str]:
        return [change.name for batch in self.batches for change in batch]


class Run:
    """Lanes over a Cloud, with what landed."""

    def __init__(self, carry: Callable[[Sequence[Change]], Sequence[Answer]]) -> None:
        self.results: dict[Owner, Result] = {}
        self.may_write = True
        self.lanes = Lanes(carry, KINDS, landed=self._landed, may_write=lambda: self.may_write)

    def _landed(self, result: Result) -> None:
        self.results[result.owner] = result

    def __call__(self, *changes: Change, wait: bool = True) -> dict[Owner, Result]:
        self.lanes.start(Plan(tuple(changes)))
        assert not wait or self.lanes.wait(20)
        return self.results


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def run(cloud: Cloud) -> Run:
    return Run(cloud.carry)


def test_a_lane_keeps_its_order(cloud: Cloud, run: Run) -> None:
    results = run(*(create("balancer", str(n), WEB) for n in range(5)))
    assert cloud.names == ["0", "1", "2", "3", "4"]
    assert results[WEB].outcome == "done"


def test_a_reference_is_filled_in_as_soon_as_its_target_appears(cloud: Cloud, run: Run) -> None:
    run(create("group", "g", WEB), create("balancer", "b", WEB, group=Ref("group", "g", "id")))
    after = cloud.batches[1][0].after
    assert after
    assert after.fields == {"group": "id-of-g"}


def test_a_lane_waits_for_what_another_lane_creates(cloud: Cloud, run: Run) -> None:
    results = run(create("balancer", "b", WEB, group=Ref("group", "g", "id")), create("group", "g", SHARED))
    assert cloud.names == ["g", "b"]
    assert results[WEB].outcome == "done"


def test_a_lane_whose_target_failed_tries_again_later(cloud: Cloud, run: Run) -> None:
    cloud.answer = lambda change: Refused("no") if change.kind == "group" else cloud.made(change)
    results = run(create("group", "g", SHARED), create("balancer", "b", WEB, group=Ref("group", "g", "id")))
    assert results[SHARED].reason == "refused"
    assert (results[WEB].outcome, results[WEB].reason) == ("retry", "waits-for")


def test_an_error_ends_its_lane_and_no_other(cloud: Cloud, run: Run) -> None:
    cloud.answer = lambda change: Refused("full", reason="quota") if change.owner == WEB else cloud.made(change)
    results = run(create("balancer", "a", WEB), create("balancer", "b", WEB), create("balancer", "c", DNS))
    assert (results[WEB].outcome, results[WEB].reason, results[WEB].applied) == ("failed", "quota", ())
    assert results[DNS].outcome == "done"
    assert "b" not in cloud.names


@pytest.mark.parametrize(("error", "outcome", "unclear"), [
    (Retry(7.0, "wait"), "retry", False),
    (Unavailable("timeout"), "failed", True),
    (ValueError("a plugin's bug"), "failed", True),
])
def test_each_error_says_how_to_go_on(
    cloud: Cloud, run: Run, error: Exception, outcome: str, unclear: bool
) -> None:
    cloud.answer = lambda _change: error
    result = run(create("balancer", "b", WEB))[WEB]
    assert (result.outcome, result.unclear, result.error) == (outcome, unclear, error)


def test_a_plugin_that_raises_is_its_owners_failure_and_keeps_its_secret() -> None:
    def carry(_changes: Sequence[Change]) -> Sequence[Answer]:
        raise RuntimeError("password=hunter2")
    result = Run(carry)(create("balancer", "b", WEB))[WEB]
    assert result.reason == "plugin-fault"
    assert "hunter2" not in result.message


def test_a_plugin_that_answers_too_little_is_a_fault() -> None:
    result = Run(lambda _changes: [])(create("balancer", "b", WEB))[WEB]
    assert "0 answers to 1 changes" in result.message


def test_one_call_that_hangs_delays_nobody_else(cloud: Cloud) -> None:
    hang = threading.Event()
    def carry(changes: Sequence[Change]) -> Sequence[Answer]:
        if changes[0].owner == WEB:
            hang.wait(60)
        return cloud.carry(changes)
    run = Run(carry)
    others = [Owner(f"default/s{n}") for n in range(200)]
    run(create("balancer", "slow", WEB), *(create("balancer", owner, owner) for owner in others), wait=False)
    while len(run.results) < 200:
        threading.Event().wait(0.01)
    assert run.lanes.busy() == {WEB}
    hang.set()
    assert run.lanes.wait(20)


def test_what_is_in_flight_counts_as_taken(cloud: Cloud) -> None:
    hang = threading.Event()
    def carry(changes: Sequence[Change]) -> Sequence[Answer]:
        hang.wait(60)
        return cloud.carry(changes)
    run = Run(carry)
    run(create("balancer", "b", WEB), wait=False)
    assert [resource.name for resource in run.lanes.taken()] == ["b"]
    assert run.lanes.start(Plan((create("balancer", "b", WEB),))) == frozenset()
    hang.set()
    assert run.lanes.wait(20)
    assert run.lanes.taken() == ()


def test_nothing_is_written_once_the_lease_is_lost(cloud: Cloud, run: Run) -> None:
    run.may_write = False
    assert run(create("balancer", "b", WEB))[WEB].reason == "not-leader"
    assert cloud.batches == []


def test_shared_things_go_after_everybody_elses(cloud: Cloud, run: Run) -> None:
    run(delete("group", "g", SHARED), delete("balancer", "a", WEB), delete("balancer", "b", DNS))
    assert cloud.names[-1] == "g"


def test_shared_things_stay_when_something_else_began_meanwhile(cloud: Cloud) -> None:
    hang = threading.Event()
    def carry(changes: Sequence[Change]) -> Sequence[Answer]:
        hang.wait(60)
        return cloud.carry(changes)
    run = Run(carry)
    run(delete("group", "g", SHARED), delete("balancer", "a", WEB), wait=False)
    run(create("balancer", "b", DNS), wait=False)
    assert _until(lambda: run.lanes.busy() == {WEB, DNS}), "what is shared must be free for those who need more of it"
    hang.set()
    assert run.lanes.wait(20)
    assert run.results[SHARED].reason == "not-quiet"
    assert "g" not in cloud.names


def test_parts_of_one_document_are_applied_together(cloud: Cloud, run: Run) -> None:
    owners = [Owner(f"default/s{n}") for n in range(20)]
    results = run(*(create("rule", owner, owner, table="t") for owner in owners))
    assert [len(batch) for batch in cloud.batches] == [20]
    assert {result.outcome for result in results.values()} == {"done"}


def test_a_services_own_parts_of_a_document_go_together(cloud: Cloud, run: Run) -> None:
    run(*(create("rule", str(n), WEB, table="t") for n in range(3)), create("balancer", "b", WEB))
    assert [len(batch) for batch in cloud.batches] == [3, 1]


def test_a_refused_batch_is_halved_until_the_culprit_stands_alone(cloud: Cloud) -> None:
    def carry(changes: Sequence[Change]) -> Sequence[Answer]:
        cloud.batches.append(list(changes))
        bad = any(change.name == "bad" for change in changes)
        return [Refused("the document is refused") if bad else cloud.made(change) for change in changes]
    run = Run(carry)
    owners = [Owner(f"default/s{n}") for n in range(7)]
    results = run(create("rule", "bad", WEB, table="t"), *(create("rule", owner, owner, table="t") for owner in owners))
    assert results[WEB].outcome == "failed"
    assert {results[owner].outcome for owner in owners} == {"done"}
    assert len(cloud.batches) <= 7


def test_documents_do_not_wait_for_each_other(cloud: Cloud, run: Run) -> None:
    run(create("rule", "a", WEB, table="one"), create("rule", "b", DNS, table="two"))
    assert sorted(len(batch) for batch in cloud.batches) == [1, 1]


def test_closing_waits_for_what_is_in_flight_and_starts_nothing_more(cloud: Cloud, run: Run) -> None:
    run(create("balancer", "a", WEB), wait=False)
    assert run.lanes.close(20)
    assert run.lanes.start(Plan((create("balancer", "b", DNS),))) == frozenset()
    assert cloud.names == ["a"]


def test_a_batch_that_is_due_while_another_is_on_its_way_goes_right_after_it() -> None:
    first, slow, begun = threading.Event(), threading.Event(), threading.Event()

    def carry(changes: Sequence[Change]) -> Sequence[Answer]:
        begun.set()
        waits = {"first": first, "slow": slow}.get(changes[0].name)
        assert waits is None or waits.wait(20)
        return [Cloud.made(change) for change in changes]

    run = Run(carry)
    run(create("rule", "first", Owner("a/first"), table="t"), wait=False)
    assert begun.wait(20)
    run(create("balancer", "slow", Owner("a/slow")), create("rule", "late", Owner("a/slow"), table="t"), wait=False)
    run(create("rule", "second", Owner("a/second"), table="t"), wait=False)
    threading.Event().wait(DOCUMENT_WAIT * 1.3)
    first.set()
    landed = _until(lambda: Owner("a/second") in run.results)
    slow.set()
    assert landed
    assert run.lanes.wait(20)


def test_a_batch_that_waited_is_not_written_once_the_lease_is_lost(cloud: Cloud) -> None:
    first, begun = threading.Event(), threading.Event()

    def carry(changes: Sequence[Change]) -> Sequence[Answer]:
        if changes[0].name == "first":
            begun.set()
            assert first.wait(20)
        return cloud.carry(changes)

    run = Run(carry)
    run(create("rule", "first", WEB, table="t"), wait=False)
    assert begun.wait(20)
    run(create("rule", "second", DNS, table="t"), wait=False)
    threading.Event().wait(0.3)
    run.may_write = False
    first.set()
    assert run.lanes.wait(20)
    assert cloud.names == ["first"]
    assert run.results[DNS].reason == "not-leader"


def test_a_plan_that_looked_before_does_not_bring_an_old_output_back() -> None:
    gate = threading.Event()
    seen: list[object] = []

    def carry(changes: Sequence[Change]) -> Sequence[Answer]:
        if changes[0].kind == "group":
            assert gate.wait(20)
        else:
            seen.append(changes[0].after and changes[0].after.fields["group"])
        return [Cloud.made(change) for change in changes]

    run = Run(carry)
    run(create("group", "g", SHARED), wait=False)
    late = create("balancer", "b", WEB, group=Ref("group", "g", "id"))
    run.lanes.start(Plan((late,), known={("group", "g"): {"id": "the-one-that-goes"}}))
    gate.set()
    assert run.lanes.wait(20)
    assert seen == ["id-of-g"]


def _until(true: Callable[[], bool]) -> bool:
    """Did it come true within a few seconds?"""
    for _ in range(500):
        if true():
            return True
        threading.Event().wait(0.01)
    return False


def test_a_listener_that_raises_strands_nobody(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    def landed(_result: Result) -> None:
        raise RuntimeError("a listener's bug")
    lanes = Lanes(cloud.carry, KINDS, landed=landed, stepped=landed)
    lanes.start(Plan((create("balancer", "b", WEB),)))
    assert lanes.wait(20)
    assert lanes.busy() == frozenset()
    assert "a listener of the lanes raised" in caplog.text
