"""The laws' own reconcile: what it hands to a provider, and what it makes of the answers."""

from collections.abc import Sequence
from itertools import count

import pytest
from msgspec.structs import replace

from lbctl.errors import Refused, Retry, Unavailable
from lbctl.memory import MemoryProvider
from lbctl.model import Resource
from lbctl.plan import Change
from lbctl.provider import Harness
from lbctl.testing import driver
from lbctl.testing.driver import SimulatedCrash
from lbctl.testing.world import api, dns, web

_NUMBERS = count()


class Scripted(MemoryProvider):
    """Answers with an error for what the script names, and keeps the batches that it was given."""

    def __init__(self, **script: Exception) -> None:
        super().__init__(Harness(settings={"cloud": f"scripted-{next(_NUMBERS)}"}, cluster_id="laws"))
        self.script = script
        self.batches: list[list[str]] = []

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        self.batches.append([f"{change.kind} {change.owner}" for change in changes])
        for change in changes:
            for word, error in self.script.items():
                if f"{change.kind}_{change.owner.partition('/')[2]}" == word:
                    return [error] * len(changes)
        return super().apply(changes)


def _run(provider: MemoryProvider) -> list[driver.Step]:
    lbs = [web(()), api(())]
    return driver.carry_out(provider, driver.plan(provider, lbs))


def test_parts_of_one_document_go_together() -> None:
    provider = Scripted()
    _run(provider)
    assert provider.batches[-1] == ["listener laws/api", "listener laws/web", "listener laws/web"]
    assert [len(batch) for batch in provider.batches] == [1, 1, 1, 3]


def test_an_error_ends_its_owners_steps_and_nobody_elses() -> None:
    provider = Scripted(address_web=Refused("no"))
    _run(provider)
    assert provider.batches[-1] == ["listener laws/api"]


def test_what_refers_to_what_did_not_come_is_put_off() -> None:
    provider = Scripted(rule_=Unavailable("no answer"))
    steps = _run(provider)
    put_off = [step.answer for step in steps if step.change.kind == "listener"]
    assert {type(answer) for answer in put_off} == {Retry}


def test_a_shared_step_that_fails_leaves_the_others_their_turn() -> None:
    steps = _run(Scripted(rule_=Unavailable("no answer")))
    assert {step.change.kind for step in steps if isinstance(step.answer, Resource)} == {"address"}


def test_an_error_that_is_raised_is_the_answer_to_each_change() -> None:
    class Raises(Scripted):
        def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
            raise Unavailable("no answer")

    assert {type(step.answer) for step in _run(Raises()) if step.change.kind != "listener"} == {Unavailable}


def test_a_crash_comes_through() -> None:
    class Dies(Scripted):
        def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
            raise SimulatedCrash

    with pytest.raises(SimulatedCrash):
        _run(Dies())


def test_too_few_answers_are_a_fault() -> None:
    class Short(Scripted):
        def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
            return super().apply(changes)[1:]

    with pytest.raises(AssertionError, match="give one for each"):
        _run(Short())


def test_a_narrowed_scope_counts_everybodys_shares() -> None:
    provider = Scripted()
    about = driver.scope(provider, [web(()), dns(())], [web(()).owner])
    assert [lb.owner for lb in about.load_balancers] == ["laws/web"]
    assert about.shares == {"TCP": 1, "UDP": 1}
    assert replace(about, owners=None).covers(dns(()).owner)
