"""Lanes whose statuses go in a stream: one thread carries them all, and nobody is lost on the way."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from lbctl.apply import Answer, Lanes, Result
from lbctl.errors import Refused, Retry, Unavailable
from lbctl.model import SHARED, Owner, Ref, Resource
from lbctl.plan import Change, Kind, Plan
from lbctl.provider import Answered

WEB, DNS = Owner("default/web"), Owner("default/dns")
KINDS = (Kind("address", local=True), Kind("balancer"), Kind("status", streamed=True))
WAIT = 20.0


def create(kind: str, owner: Owner, **fields: object) -> Change:
    return Change("create", kind, owner, owner, after=Resource(kind, owner, owner, fields, {"id": f"id-of-{owner}"}))


def delete(kind: str, owner: Owner) -> Change:
    return Change("delete", kind, owner, owner, before=Resource(kind, owner, owner))


def owners(count: int) -> list[Owner]:
    return [Owner(f"default/s{number}") for number in range(count)]


def statuses(count: int) -> list[Change]:
    return [create("status", owner) for owner in owners(count)]


class Stage:
    """Lanes over a provider that takes note of everything: what was done, by which thread. Its stream is `bring`."""

    def __init__(self, kinds: Sequence[Kind] = KINDS, workers: int = 16) -> None:
        self.done: list[tuple[str, Owner]] = []
        self.threads: dict[str, set[int]] = {kind.name: set() for kind in kinds}
        self.answer: Callable[[Change], Answer] = lambda change: change.after
        self.streams = 0
        self.results: list[Result] = []
        self.may_write: Callable[[], bool] = lambda: True
        self.lanes = Lanes(
            self.carry, kinds, bring=lambda changes, answered: self.bring(changes, answered),
            landed=self.results.append, may_write=lambda: self.may_write(), workers=workers,
        )  # fmt: skip

    def carry(self, changes: Sequence[Change]) -> Sequence[Answer]:
        return [self.do(change) for change in changes]

    def do(self, change: Change) -> Answer:
        self.done.append((change.kind, change.owner))
        self.threads[change.kind].add(threading.get_ident())
        return self.answer(change)

    def bring(self, changes: Iterator[Change | None], answered: Answered) -> None:
        """Up to eight on their way; the first that came is the first to be answered."""
        self.streams += 1
        flying: list[Change] = []
        while True:
            while len(flying) < 8 and (change := next(changes, None)) is not None:
                flying.append(change)
            if not flying:
                return
            first = flying.pop(0)
            answered(first.owner, self.do(first))

    def start(self, *changes: Change) -> None:
        self.lanes.start(Plan(changes))

    def run(self, *changes: Change) -> dict[Owner, Result]:
        self.start(*changes)
        assert self.lanes.wait(WAIT)
        return self.landed

    @property
    def landed(self) -> dict[Owner, Result]:
        landed = {result.owner: result for result in self.results}
        assert len(landed) == len(self.results)
        return landed


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_thousands_of_lanes_that_make_no_call_but_their_status_need_one_thread(stage: Stage) -> None:
    results = stage.run(*(create(kind, owner) for owner in owners(3000) for kind in ("address", "status")))
    assert {result.outcome for result in results.values()} == {"done"}
    assert len(results) == 3000
    assert len(stage.threads["address"] | stage.threads["status"]) == 1
    assert stage.done.index(("address", "default/s7")) < stage.done.index(("status", "default/s7"))


def test_statuses_alone_need_one_thread(stage: Stage) -> None:
    assert len(stage.run(*statuses(1000))) == 1000
    assert len(stage.lanes._crew._threads) == 1


def test_a_fault_ends_those_on_their_way_and_nobody_else(stage: Stage) -> None:
    whole, hit = stage.bring, []

    def breaks(changes: Iterator[Change | None], answered: Answered) -> None:
        stage.bring = whole  # type: ignore[method-assign]
        hit.extend(change.owner for change in (next(changes), next(changes), next(changes)) if change)
        answered(hit.pop(), None)
        raise RuntimeError("a fault")

    stage.bring = breaks  # type: ignore[method-assign]
    results = stage.run(*statuses(20))
    assert len(results) == 20
    assert {owner for owner, result in results.items() if result.outcome == "failed"} == set(hit)
    assert len(hit) == 2


def test_who_is_left_without_an_answer_lands_as_well(stage: Stage) -> None:
    def forgets(changes: Iterator[Change | None], _answered: Answered) -> None:
        while next(changes) is not None:
            pass

    stage.bring = forgets  # type: ignore[method-assign]
    results = stage.run(*statuses(5))
    assert {(result.outcome, result.reason) for result in results.values()} == {("failed", "plugin-fault")}


def test_a_stream_that_cannot_begin_fails_each_lane_once(stage: Stage) -> None:
    begun = []

    def away(_changes: Iterator[Change | None], _answered: Answered) -> None:
        begun.append(1)
        raise Unavailable("the credentials cannot be read")

    stage.bring = away  # type: ignore[method-assign]
    results = stage.run(*(create(kind, owner) for owner in owners(50) for kind in ("address", "status")))
    assert {result.message for result in results.values()} == {"the credentials cannot be read"}
    assert (len(results), len(begun)) == (50, 50)


def test_a_stream_that_takes_nothing_is_a_fault_and_no_endless_loop(stage: Stage) -> None:
    stage.bring = lambda _changes, _answered: None  # type: ignore[method-assign]
    assert {result.reason for result in stage.run(*statuses(5)).values()} == {"plugin-fault"}


def test_once_the_lease_is_lost_nothing_more_is_sent(stage: Stage) -> None:
    stage.may_write = lambda: len(stage.done) < 10
    results = stage.run(*statuses(50))
    sent = {owner for _, owner in stage.done}
    assert {owner for owner, result in results.items() if result.outcome == "done"} == sent
    assert {result.reason for owner, result in results.items() if owner not in sent} == {"not-leader"}
    assert 10 <= len(sent) < 20


def test_a_lane_that_comes_while_a_stream_runs_is_carried_by_it(stage: Stage) -> None:
    came = threading.Event()

    def holds(changes: Iterator[Change | None], answered: Answered) -> None:
        stage.streams += 1
        first = next(changes)
        assert first is not None
        came.set()
        while (second := next(changes)) is None:
            threading.Event().wait(0.001)
        answered(second.owner, None)
        answered(first.owner, None)

    def late(change: Change) -> Answer:
        assert came.wait(WAIT)
        return change.after

    stage.bring, stage.answer = holds, late  # type: ignore[method-assign]
    results = stage.run(create("status", WEB), create("balancer", DNS), create("status", DNS))
    assert list(results) == [DNS, WEB]
    assert stage.streams == 1


def test_a_call_after_a_note_in_memory_does_not_hold_up_the_stream(stage: Stage) -> None:
    begun, others = threading.Event(), threading.Event()

    def each_waits_for_the_other(change: Change) -> Answer:
        if change.kind == "balancer":
            begun.set()
            assert others.wait(WAIT)
        elif change.kind == "status":
            assert begun.wait(WAIT)
            if change.owner == "default/s99":
                others.set()
        return change.after

    stage.answer = each_waits_for_the_other
    steps = [create(kind, WEB) for kind in ("address", "balancer", "status")]
    results = stage.run(*steps, *statuses(100))
    assert list(results)[-1] == WEB
    assert {result.outcome for result in results.values()} == {"done"}


def test_a_lane_whose_note_is_refused_ends_there(stage: Stage) -> None:
    stage.answer = lambda change: Refused("no address left") if change.kind == "address" else change.after
    results = stage.run(create("address", WEB), create("status", WEB), create("status", DNS))
    assert (results[WEB].outcome, results[WEB].message, results[DNS].outcome) == ("failed", "no address left", "done")
    assert ("status", WEB) not in stage.done


def test_a_lane_waits_on_the_stream_for_what_another_makes_on_it(stage: Stage) -> None:
    seen: list[object] = []

    def answer(change: Change) -> Answer:
        seen.extend(change.after.fields.values() if change.kind == "status" and change.after else ())
        return change.after

    stage.answer = answer
    results = stage.run(create("status", WEB, address=Ref("address", DNS, "id")), create("address", DNS))
    assert (len(results), seen) == (2, ["id-of-default/dns"])


def test_what_goes_takes_its_status_away_before_the_rest(stage: Stage) -> None:
    stage.run(*(delete(kind, WEB) for kind in ("status", "balancer", "address")))
    assert [kind for kind, _ in stage.done] == ["status", "balancer", "address"]


def test_shared_things_go_after_the_last_status(stage: Stage) -> None:
    stage.run(delete("balancer", SHARED), *statuses(20))
    assert stage.done[-1] == ("balancer", SHARED)


@pytest.mark.parametrize("workers", [1, 2])
def test_few_threads_are_enough(workers: int) -> None:
    stage = Stage(workers=workers)
    results = stage.run(*(create(kind.name, owner) for owner in owners(50) for kind in KINDS))
    assert {result.outcome for result in results.values()} == {"done"}
    assert len(results) == 50


def test_closing_waits_for_a_stream(stage: Stage) -> None:
    stage.start(*statuses(500))
    assert stage.lanes.close(WAIT)
    assert len(stage.landed) == 500


def test_a_stream_that_is_given_up_sends_nothing_more_but_hears_the_rest(stage: Stage) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(change: Change) -> Answer:
        begun.set()
        assert go.wait(WAIT)
        return change.after

    stage.answer = slow
    stage.start(*(create(kind, owner) for owner in owners(50) for kind in ("address", "status")))
    assert begun.wait(WAIT)
    assert not stage.lanes.close(0.0)
    go.set()
    (thread,) = stage.lanes._crew._threads
    thread.join(WAIT)
    assert not thread.is_alive()
    assert len(stage.done) < 20
    assert {owner for kind, owner in stage.done if kind == "status"} == set(stage.landed)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_together_each_lane_lands_once(seed: int) -> None:
    chance = random.Random(seed)
    stage, started, again = Stage(workers=4), Counter[Owner](), threading.Lock()
    some = owners(60)

    def answer(_change: Change) -> Answer:
        threading.Event().wait(chance.random() / 2000)
        what = chance.random()
        return Retry(1.0, "later") if what < 0.1 else Refused("no") if what < 0.2 else _change.after

    def bring(changes: Iterator[Change | None], answered: Answered) -> None:
        whole(changes, lambda owner, answer: _break(chance) or answered(owner, answer))

    def starts() -> None:
        for _ in range(60):
            kinds = chance.choice((("address", "status"), ("status",), ("balancer", "status"), ("address", "balancer")))
            plan = Plan(tuple(create(kind, owner) for owner in chance.sample(some, 10) for kind in kinds))
            threading.Event().wait(chance.random() / 500)
            mine = stage.lanes.start(plan)
            with again:
                started.update(mine)

    whole, stage.answer, stage.bring = stage.bring, answer, bring  # type: ignore[method-assign]
    threads = [threading.Thread(target=starts) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stage.lanes.wait(WAIT)
    assert Counter(result.owner for result in stage.results) == started
    assert stage.lanes.busy() == frozenset()


def _break(chance: random.Random) -> None:
    if chance.random() < 0.03:
        raise RuntimeError("a fault")


def test_statuses_are_written_while_calls_still_wait_for_their_turn() -> None:
    stage = Stage(workers=2)
    many = [create(kind, owner) for owner in owners(50) for kind in ("balancer", "status")]
    stage.run(*many, create("status", WEB))
    order = [kind for kind, _ in stage.done]
    assert order.index("status") < 5
    assert Counter(order) == {"balancer": 50, "status": 51}


def test_where_no_thread_can_be_had_for_a_moment_everybody_lands_with_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage, start, refused = Stage(workers=2), threading.Thread.start, [True]

    def scarce(thread: threading.Thread) -> None:
        if thread.name.startswith("lane") and refused and refused.pop():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    stage.start(create("status", WEB))
    assert set(stage.run(create("balancer", DNS), create("status", DNS))) == {WEB, DNS}
    assert "no thread can be had" in caplog.text
