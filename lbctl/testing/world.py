"""Where the laws take place: a provider, its stand-in, a clock that only the laws turn, and a wire that can fail.

A stranger's provider needs nothing of this; the pytest plugin opens a world by the provider's name.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from typing import Any

import msgspec

from lbctl.errors import LbctlError, Refused, Retry, Unavailable
from lbctl.model import SHARED, LoadBalancer, Node, Owner, Port, Resource
from lbctl.plan import Change, Plan
from lbctl.provider import Call, Harness, Observation, Provider, ProviderFactory, Scope
from lbctl.testing import driver
from lbctl.testing.driver import START, SimulatedCrash, Step
from lbctl.testing.standin import Standin

CLUSTER = "laws"
PASSES = 40
"""After so many passes without an end, a provider is going round in circles."""

READS = re.compile(r"(describe|get|list|find|search|read|show|head|count|aggregated|batchget)", re.IGNORECASE)
"""How the names of operations begin that change nothing."""


class Trouble:
    """None: a good day. What the others raise, the provider meets.

    `happened` says where, once it did. `deadly` is what kills the process.
    """

    happened = ""
    deadly = False

    def __call__(self, number: int, call: Call) -> None:
        """Told of each call, with its number, before it is sent and after it was answered."""


class Once(Trouble):
    """One trouble at the k-th call: before it is sent, or when its answer is on its way (it took effect, then)."""

    def __init__(self, number: int, when: str, error: Callable[[], BaseException]) -> None:
        self.number, self.when, self.error = number, when, error
        self.deadly = error is SimulatedCrash

    def __call__(self, number: int, call: Call) -> None:
        now = "before" if call.code is None else "after"
        if not self.happened and number >= self.number and now == self.when:
            self.happened = f"{now} call {number} ({call.operation})"
            raise self.error()


class Outage(Trouble):
    """From the k-th call on, none gets through any more."""

    def __init__(self, number: int, error: Callable[[], BaseException]) -> None:
        self.number, self.error = number, error

    def __call__(self, number: int, call: Call) -> None:
        if number >= self.number and call.code is None:
            self.happened = self.happened or f"from call {number} ({call.operation}) on"
            raise self.error()


def unavailable() -> Unavailable:
    """A timeout."""
    return Unavailable("no answer came in time (the laws cut the line)")


def throttled() -> Retry:
    """Too many requests."""
    return Retry(1, "too many requests (the laws say so)", reason="throttled")


class Wire:
    """Hears every call, and is where trouble begins."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.sent = 0
        self.trouble = Trouble()

    def __call__(self, call: Call) -> None:
        self.calls.append(call)
        if call.code is None:
            self.sent += 1
        self.trouble(self.sent, call)

    def begin(self, trouble: Trouble | None = None) -> None:
        """Count from nothing again, with this trouble ahead, or none."""
        self.calls, self.sent, self.trouble = [], 0, trouble or Trouble()

    def mend(self) -> None:
        """What happened is over; what did not happen yet is still ahead."""
        if self.trouble.happened:
            self.trouble = Trouble()

    @property
    def changing(self) -> list[str]:
        """The operations heard that are not reads by their name (its last part, where it has dots)."""
        return [call.operation for call in self.calls if not READS.match(call.operation.rpartition(".")[2])]


class World:
    """One provider against its stand-in. `small` keeps the longest stories short, for clouds that answer slowly."""

    def __init__(
        self, make: ProviderFactory, standin: Standin, *, cluster: str = CLUSTER, small: bool = False
    ) -> None:
        self.make, self.standin, self.cluster, self.small = make, standin, cluster, small
        around = getattr(standin, "around", None)
        self._factory: ProviderFactory = around(make) if around is not None else make
        self.wire = Wire()
        self.now = datetime.now(UTC)
        self.provider = self._new()

    @property
    def settings(self) -> dict[str, str]:
        """The stand-in's, and a secret that no provider knows and none may tell."""
        return {**self.standin.settings, "laws_password": "hunter2-of-the-laws"}

    def _new(self) -> Provider:
        return self._factory(
            Harness(
                settings=self.settings,
                cluster_id=self.cluster,
                installation_id=f"{self.cluster}-1",
                now=lambda: self.now,
                on_call=self.wire,
            )
        )

    def restart(self) -> None:
        """The process died and another one starts: a new provider from the same harness, on a good day."""
        self.wire.begin()
        self.provider = self._new()

    def forget(self) -> None:
        """A new world on the same ground: nothing exists, the clock stands where it began."""
        self.standin.reset()
        self.now = datetime.now(UTC)
        self.restart()

    def settle(self) -> None:
        """An hour goes by: outages and drains are over, whatever takes its time is done."""
        self.wire.mend()
        self.standin.settle()
        self.now += timedelta(hours=1)

    # -- what the laws ask ------------------------------------------------------------------------------------------

    def scope(
        self, lbs: Iterable[LoadBalancer], owners: Iterable[Owner] | None = None, *, fresh: bool = True
    ) -> Scope:
        return driver.scope(self.provider, lbs, owners, fresh=fresh, at=self.now)

    def observe(self, lbs: Iterable[LoadBalancer] = (), *, fresh: bool = True) -> Observation:
        return self.provider.observe(self.scope(lbs, fresh=fresh))

    def plan(self, lbs: Iterable[LoadBalancer], owners: Iterable[Owner] | None = None, *, fresh: bool = True) -> Plan:
        return driver.plan(self.provider, lbs, owners, fresh=fresh, at=self.now)

    def run(
        self, lbs: Iterable[LoadBalancer], owners: Iterable[Owner] | None = None, *, fresh: bool = True
    ) -> tuple[Plan, list[Step]]:
        """One pass: plan, and carry it out."""
        plan = self.plan(lbs, owners, fresh=fresh)
        steps = driver.carry_out(self.provider, plan)
        for step in steps:
            check_answer(step)
        return plan, steps

    def converge(self, lbs: Sequence[LoadBalancer], *, fresh: bool = True) -> list[Step]:
        """Passes, warm where nothing was unclear, until there is nothing left to do, warm or fresh. All steps taken.

        Refusals by `apply` end it too, if nothing else is left: they are in the steps.
        """
        taken: list[Step] = []
        for _ in range(PASSES):
            try:
                plan, steps = self.run(lbs, fresh=fresh)
            except LbctlError:
                fresh = True
            else:
                taken += steps
                nothing_left = not plan.pending and all(isinstance(step.answer, Refused) for step in steps)
                if nothing_left and (fresh or self._fresh_agrees(plan, lbs)):
                    return taken
                fresh = nothing_left or any(unclear(step) for step in steps)
            self.settle()
        raise AssertionError(f"after {PASSES} passes there is still something to do: {told(plan.changes)}")

    def _fresh_agrees(self, warm: Plan, lbs: Sequence[LoadBalancer]) -> bool:
        """Nobody meddled: what a warm look calls done, a fresh one must, too (but shared things go only in that)."""
        try:
            left = self.plan(lbs).changes
        except LbctlError:
            return False
        more = [c for c in left if (c.owner, c.action) != (SHARED, "delete")]
        assert warm.changes or not more, f"a warm look said that all is done, a fresh one finds: {told(more)}"
        return not left

    def done(self, lbs: Sequence[LoadBalancer], when: str) -> None:
        """Nothing is left to do for this provider, warm and fresh, nor for one that starts now."""
        for fresh in (False, True):
            left = self.plan(lbs, fresh=fresh)
            assert left.empty, f"{when}, a {'fresh' if fresh else 'warm'} plan is not empty: {told(left.changes)}"
        self.restart()
        left = self.plan(lbs)
        assert left.empty, f"{when}, a new provider plans: {told(left.changes)}"


def unclear(step: Step) -> bool:
    """Must the next look be fresh after this? (`Unavailable`, and whatever is neither `Retry` nor `Refused`.)"""
    return isinstance(step.answer, Exception) and not isinstance(step.answer, Retry | Refused)


def check_answer(step: Step) -> None:
    """Every answer is a Resource, None or an error, as its change demands."""
    change, answer = step.change, step.answer
    what = f"{change.action} {change.kind} {change.name}"
    if isinstance(answer, Exception):
        assert isinstance(answer, LbctlError), f"{what} answered a raw {type(answer).__name__}: say it in lbctl.errors"
    elif change.action == "delete":
        assert answer is None, f"{what} answered {answer!r}: None says that it is gone"
    else:
        assert isinstance(answer, Resource), f"{what} answered {answer!r}: say what exists now"
        assert (answer.key, answer.owner) == (change.key, change.owner), f"{what} answered another thing: {answer!r}"


def told(changes: Iterable[Change]) -> str:
    """Changes in a line each, with what differs."""
    return "\n".join(
        f"  {c.action} {c.kind} {c.name} ({c.owner}) "
        + ", ".join(f"{d.field}: {d.before!r} -> {d.after!r}" for d in c.diffs if c.action == "update")
        for c in changes
    ) or "nothing"


# -- Services --------------------------------------------------------------------------------------------------------


def load_balancer(name: str, ports: Iterable[Port], nodes: Sequence[Node], **rest: Any) -> LoadBalancer:
    """A Service of the laws' own namespace."""
    return LoadBalancer(
        Owner(f"laws/{name}"),
        uid=f"00000000-0000-4000-8000-{sum(name.encode()):012d}",
        created=START,
        ports=tuple(ports),
        nodes=tuple(nodes),
        **{"scheme": "internet-facing", **rest},
    )


def web(nodes: Sequence[Node], **rest: Any) -> LoadBalancer:
    """Two TCP ports for everybody."""
    ports = (Port(80, node_port=30080, name="http"), Port(443, node_port=30443, name="https"))
    return load_balancer("web", rest.pop("ports", ports), nodes, **rest)


def web_changed(nodes: Sequence[Node], **rest: Any) -> LoadBalancer:
    """The same with a port gone, a port new, and a port that leads elsewhere."""
    ports = (Port(80, node_port=30081, name="http"), Port(8443, node_port=30843, name="https"))
    return web(nodes, ports=ports, **rest)


def dns(nodes: Sequence[Node], **rest: Any) -> LoadBalancer:
    """One UDP port."""
    return load_balancer("dns", rest.pop("ports", (Port(53, "UDP", 30053, name="dns"),)), nodes, **rest)


def api(nodes: Sequence[Node], **rest: Any) -> LoadBalancer:
    """One TCP port."""
    return load_balancer("api", (Port(6443, node_port=30643, name="api"),), nodes, **rest)


def replaced(lb: LoadBalancer, **changes: Any) -> LoadBalancer:
    """The same Service, edited."""
    return msgspec.structs.replace(lb, **changes)


# -- by name ---------------------------------------------------------------------------------------------------------


def load(group: str, name: str) -> Any:
    """What an entry point of the group names, or `module:attribute` itself. LookupError says which there are."""
    if ":" in name:
        module, _, attribute = name.partition(":")
        return getattr(importlib.import_module(module), attribute)
    found = {point.name: point for point in entry_points(group=group)}
    if name not in found:
        there = ", ".join(sorted(found)) or "none"
        raise LookupError(f"no entry point {name!r} in the group {group} (there are: {there}); or say module:attribute")
    return found[name].load()
