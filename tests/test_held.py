"""One Service's cloud calls are held, and nobody else's are: the real controller over whole Services, with and without.

What is compared needs no clock: which calls everybody else's Services cost, and that all of them have their address
while the one is still held. (How long that takes, side by side: `python -m tests.bench held`.)
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from lbctl.apply import Result
from lbctl.controller import Controller, Timing
from lbctl.gate import Gate
from lbctl.memory import CLOUDS, MemoryCloud, MemoryProvider
from lbctl.model import SHARED, LoadBalancer, Node, Owner, Port, Resource
from lbctl.plan import Change
from lbctl.policy import Limits, Policy
from lbctl.provider import Call, Harness
from lbctl.reconcile import Reconciler
from lbctl.stack import Stack
from lbctl.wanted import Wanted

HELD = Owner("default/held")
OTHERS = [Owner(f"default/s{number}") for number in range(200)]


class Cloud(MemoryProvider):
    """The reference provider behind a gate, where one owner's calls can be held. Its parts are no one document's."""

    kinds = tuple(msgspec.structs.replace(kind, document=None) for kind in MemoryProvider.kinds)

    def __init__(self, name: str, held: frozenset[Owner], latency: float) -> None:
        super().__init__(Harness({"cloud": name}, "c1", on_call=self._called, now=lambda: datetime.now(UTC)))
        self._held, self._latency = held, latency
        self._gate, self._for = Gate(time.monotonic), threading.local()
        self.release = threading.Event()
        self.calls: list[tuple[Owner, str]] = []
        self.at_once: Counter[Owner] = Counter()
        self.most: Counter[Owner] = Counter()

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        owner = self._for.owner = changes[0].owner
        self.at_once[owner] += 1
        self.most[owner] = max(self.most[owner], self.at_once[owner])
        try:
            with self._gate.passing("write"):
                return super().apply(changes)
        finally:
            self.at_once[owner] -= 1
            self._for.owner = None

    def _called(self, call: Call) -> None:
        owner = getattr(self._for, "owner", None)
        if call.code is not None or owner is None:
            return
        self.calls.append((owner, call.operation))
        self.release.wait(60 if owner in self._held else self._latency)


class Street:
    """A controller, and Services that are created at once."""

    def __init__(self, held: Sequence[Owner], workers: int, latency: float) -> None:
        CLOUDS["street"] = MemoryCloud()
        self.cloud = Cloud("street", frozenset(held), latency)
        self.services = {owner: _service(owner) for owner in (*held, *OTHERS)}
        self.done: set[Owner] = set()
        self._changed = threading.Condition()
        path = Reconciler(
            Stack(self.cloud), Wanted(self.cloud.shares), Policy(limits=Limits(let_through=True)),
            now=lambda: datetime.now(UTC), landed=lambda result: self.controller.landed(result), workers=workers,
        )  # fmt: skip
        self.controller = Controller(path, self, listener=self, timing=Timing(settle=0.0, audit=3600))

    def read(self, owner: Owner) -> LoadBalancer | None:
        return self.services.get(owner)

    def owners(self) -> list[Owner]:
        return list(self.services)

    def planned(self, *_: Any, **__: Any) -> None: ...

    def interrupted(self, error: Exception) -> None:
        raise error

    def landed(self, result: Result) -> None:
        with self._changed:
            if result.outcome == "done":
                self.done.add(result.owner)
                self._changed.notify_all()

    def wait(self, owners: Sequence[Owner]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.done.issuperset(owners), 60)

    def costs(self) -> Counter[tuple[Owner, str]]:
        """The calls of everybody but the held one."""
        return Counter(call for call in self.cloud.calls if call[0] in (SHARED, *OTHERS))


def _service(owner: Owner) -> LoadBalancer:
    return LoadBalancer(owner, ports=(Port(80, "TCP", 30080),), nodes=(Node("n1"),))


@contextmanager
def street(held: Sequence[Owner] = (), workers: int = 4, latency: float = 0.0) -> Iterator[Street]:
    """One at work; a cloud call takes `latency` seconds."""
    made = Street(held, workers, latency)
    thread = threading.Thread(target=made.controller.run, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.cloud.release.set()
        made.controller.stop()
        thread.join(60)
        del CLOUDS["street"]


@pytest.fixture(scope="module")
def undisturbed() -> Counter[tuple[Owner, str]]:
    """What 200 Services cost where nothing is held."""
    with street() as quiet:
        quiet.wait(OTHERS)
        return quiet.costs()


def test_two_hundred_get_their_address_while_one_is_held_at_the_same_cost(undisturbed) -> None:
    with street([HELD]) as busy:
        busy.wait(OTHERS)
        assert HELD not in busy.done
        assert busy.costs() == undisturbed


def test_it_takes_two_workers_to_hold_nobody_up(undisturbed) -> None:
    with street([HELD], workers=2) as busy:
        busy.wait(OTHERS)
        assert (HELD in busy.done, busy.costs()) == (False, undisturbed)


def test_one_service_has_one_call_under_way_however_often_it_is_looked_at() -> None:
    with street([HELD]) as busy:
        for owner in OTHERS:
            busy.controller.mark(HELD)
            busy.wait([owner])
        busy.controller.audit()
        assert busy.cloud.most[HELD] == 1


def test_the_held_one_gets_its_address_as_soon_as_it_is_let_go() -> None:
    with street([HELD]) as busy:
        busy.wait(OTHERS)
        busy.cloud.release.set()
        busy.wait([HELD])
