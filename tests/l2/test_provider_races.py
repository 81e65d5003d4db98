"""No order of reads, looks, lanes and writes gives one address to two Services.

A model of the controller around the real provider: statuses as the API server has them, a store that reads them, lanes
that make their steps whenever chance lets them, some of which fail. Chance is a seed, so that a failure can be seen
again: `Model(seed).run()`.
"""

import random
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lbctl.model import Ingress, LoadBalancer, Owner, Port
from lbctl.plan import Change, diff
from lbctl.provider import Harness, Scope
from lbctl_l2.ledger import Ledger
from lbctl_l2.provider import AddressProvider

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = tuple(Owner(f"a/{name}") for name in ("one", "two", "three", "four"))


class Lane:
    """One Service's way: promises, its status, what it gives up. `planned` is the version that it was planned from."""

    def __init__(self, changes: list[Change], planned: int, wanted: tuple[str, ...]) -> None:
        first, last = ([c for c in changes if c.action == action] for action in ("create", "delete"))
        self.steps: deque[Any] = deque([*first, (planned, wanted), *last])
        self.created = [c.after for c in changes if c.after is not None]


class Model:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.provider = AddressProvider(Harness({"addresses": "192.0.2.0/31", "cooldown": "0"}))
        self.truth: dict[Owner, tuple[str, ...]] = {}
        self.versions: Counter[Owner] = Counter()
        self.edits: Counter[Owner] = Counter()
        self.read: dict[Owner, LoadBalancer] = {}
        self.shares: dict[Owner, Any] = {}
        self.lanes: dict[Owner, Lane] = {}
        self.dirty: set[Owner] = set()
        self.calm = False

    def chance(self, most: int) -> int:
        return self._random.randint(0, most)

    # -- what people do

    def create(self, owner: Owner) -> None:
        if owner not in self.truth:
            self.truth[owner] = ()
            self.changed(owner)

    def edit(self, owner: Owner) -> None:
        if owner in self.truth:
            self.edits[owner] += 1
            self.changed(owner)

    def delete(self, owner: Owner) -> None:
        if self.truth.pop(owner, None) is not None:
            self.changed(owner)

    def wipe(self, owner: Owner) -> None:
        if self.truth.get(owner):
            self.truth[owner] = ()
            self.changed(owner)

    def bother(self) -> None:
        if not self.calm:
            (self.edit, self.wipe, self.create)[self.chance(2)](NAMES[self.chance(len(NAMES) - 1)])

    def changed(self, owner: Owner) -> None:
        self.versions[owner] += 1
        self.dirty.add(owner)

    # -- what the controller does

    def refresh(self, owner: Owner) -> None:
        """The store is read; an equal reading is the old one."""
        if owner not in self.truth:
            self.read.pop(owner, None)
            self.shares.pop(owner, None)
            return
        found = LoadBalancer(
            owner, ports=(Port(80),), created=START - timedelta(seconds=self.edits[owner] % 3),
            annotations={"edits": str(self.edits[owner])}, status=tuple(Ingress(ip=a) for a in self.truth[owner]),
        )  # fmt: skip
        if self.read.get(owner) != found:
            self.read[owner] = found
            [self.shares[owner]] = self.provider.shares(found)

    def look(self, everybody: bool) -> None:
        busy = set(self.lanes)
        owners = None if everybody else frozenset(self.dirty - busy)
        if owners is not None and not owners:
            return
        self.dirty = self.dirty & busy if owners is None else self.dirty - owners
        self.dirty |= busy if owners is None else set()
        for owner in sorted(self.truth.keys() | self.read.keys()) if owners is None else sorted(owners):
            self.refresh(owner)
            self.advance(self.chance(2))
        self.advance(self.chance(3))
        self.plan(owners, fresh=everybody and bool(self.chance(1)))

    def plan(self, owners: Any, *, fresh: bool) -> None:
        flying = set(self.lanes)
        taken = tuple(resource for lane in self.lanes.values() for resource in lane.created)
        lbs = tuple(lb for owner, lb in self.read.items() if owners is None or owner in owners)
        scope = Scope(START, owners, fresh, load_balancers=lbs, shares=Counter(self.shares.values()), taken=taken)
        seen = self.provider.observe(scope)
        # The stack's status part looks a moment later: whoever is edited in between was read as he was before.
        self.bother()
        current, versions = dict(self.truth), Counter(self.versions)
        self.advance(self.chance(2))
        desired = self.provider.desired(lbs, seen)
        changes = diff(self.provider.kinds, desired, seen).changes
        wanted = {r.owner: r.fields["address"] for r in desired.resources}
        for lb in lbs:
            # Who was in flight when the look began is left out: what was seen may be half the truth.
            if lb.owner in flying or lb.owner not in wanted or lb.owner not in current:
                continue
            own = [c for c in changes if c.owner == lb.owner]
            if own or current[lb.owner] != (wanted[lb.owner],):
                self.lanes[lb.owner] = Lane(own, versions[lb.owner], (wanted[lb.owner],))

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            if self.lanes:
                owner = sorted(self.lanes)[self.chance(len(self.lanes) - 1)]
                self.step(owner, self.lanes[owner])

    def step(self, owner: Owner, lane: Lane) -> None:
        step = lane.steps.popleft()
        if isinstance(step, Change):
            self.provider.apply([step])
        elif self.versions[owner] != step[0] or owner not in self.truth or (not self.calm and not self.chance(4)):
            # Another version by now, or the network: plan again.
            lane.steps.clear()
            self.dirty.add(owner)
        else:
            self.truth[owner] = step[1]
            self.versions[owner] += 1
            held = Counter(address for status in self.truth.values() for address in status)
            assert max(held.values(), default=0) <= 1, f"doubled: {self.truth}"
        if not lane.steps:
            del self.lanes[owner]


    def run(self) -> None:
        """Some deeds and looks in any order; then all is calm, and everybody is served whom the pool suffices for."""
        deeds = (self.create, self.create, self.edit, self.delete, self.wipe)
        for _ in range(self.chance(30)):
            what = self.chance(len(deeds) + 3)
            if what < len(deeds):
                deeds[what](NAMES[self.chance(len(NAMES) - 1)])
            elif what == len(deeds):
                self.look(everybody=True)
            elif what == len(deeds) + 1:
                self.advance(3)
            else:
                self.look(everybody=False)
        self.calm = True
        for _ in range(8):
            while self.lanes:
                self.advance(1)
            self.look(everybody=True)
        assert sum(map(bool, self.truth.values())) == min(2, len(self.truth)), f"forgotten: {self.truth}"


def first_doubled(seeds: int) -> int | None:
    """The first seed by which an address is given twice."""
    for seed in range(seeds):
        try:
            Model(seed).run()
        except AssertionError as error:
            if "doubled" in str(error):
                return seed
            raise
    return None


def test_no_interleaving_gives_one_address_twice() -> None:
    assert first_doubled(700) is None


def test_the_model_notices_who_believes_every_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "_settle", lambda self, owner, _flew: self._promises.pop(owner, None))
    assert first_doubled(3000) is not None


def test_the_model_notices_who_forgets_what_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbctl_l2.ledger._flying", lambda _scope: {})
    assert first_doubled(3000) is not None
