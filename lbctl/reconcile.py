"""THE ONE PATH; read this first.

    observe (I/O) → desired (pure) → diff (pure) → guard (pure) → apply (I/O)

`plan` is all of it but the last arrow; `start` and `apply` are the last. The controller calls them for what events
named and, from time to time, for everything; the command line calls them once. Dry run, drift repair, garbage
collection, crash recovery and `explain` are this same path, stopped earlier or looked at more closely.

Planning is serial and fast; applying is concurrent (`apply.py`). An owner in flight is not planned again until it
lands, and what is in flight counts as taken.
"""

import time
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from lbctl.apply import Lanes, Result
from lbctl.errors import Retry
from lbctl.model import SHARED, LoadBalancer, Owner, Refusal
from lbctl.plan import Change, Plan, diff
from lbctl.policy import Policy, admit, guard, needs_ranking
from lbctl.provider import Failure, Observation, Scope
from lbctl.stack import Stack
from lbctl.wanted import Wanted

NamespaceLabels = Callable[[str], Mapping[str, str]]


class Report(msgspec.Struct, frozen=True):
    """How every lane of an applied plan landed. `late` were still in flight when time ran out."""

    results: Mapping[Owner, Result]
    late: frozenset[Owner] = frozenset()

    @property
    def failed(self) -> tuple[Result, ...]:
        """Lanes that did not end well, those that only have to wait included."""
        return tuple(result for result in self.results.values() if result.outcome != "done")


class Reconciler:
    """One stack, what is wanted of it, and what is in flight.

    now        the wall clock, for drains and tags
    landed     told of every lane that ends, on the lane's thread
    may_write  False stops every lane before its next step
    """

    def __init__(
        self,
        stack: Stack,
        wanted: Wanted,
        policy: Policy,
        *,
        now: Callable[[], datetime],
        labels: NamespaceLabels = lambda _namespace: {},
        landed: Callable[[Result], None] = lambda _result: None,
        stepped: Callable[[Change], None] = lambda _change: None,
        may_write: Callable[[], bool] = lambda: True,
        workers: int = 16,
    ) -> None:
        self.stack, self.wanted, self.policy = stack, wanted, policy
        self._now, self._labels = now, labels
        self._on_landed = landed
        self._results: dict[Owner, Result] | None = None
        self.lanes = Lanes(
            stack.apply, stack.kinds, bring=stack.bring, landed=self._land, stepped=stepped, may_write=may_write,
            workers=workers,
        )  # fmt: skip

    def plan(self, owners: frozenset[Owner] | None = None, *, fresh: bool = True) -> Plan:
        """What has to change for these owners, or for everybody. Writes nothing. Raises what `observe` raises."""
        busy = self.lanes.busy()
        scope = self._scope(owners, fresh)
        return self._without(busy, self._planned(scope))

    def tell(self, failures: Mapping[Owner, Failure]) -> Plan:
        """Only the status changes that say how these owners' lanes failed. Costs no call of the cloud."""
        busy = self.lanes.busy()
        scope = msgspec.structs.replace(self._scope(frozenset(failures), False), failures=failures)
        return self._without(busy, self.stack.telling(scope))

    def start(self, plan: Plan) -> frozenset[Owner]:
        """Carry a plan out in the background. The owners whose lanes were started."""
        return self.lanes.start(plan)

    def apply(self, plan: Plan, timeout: float | None = None) -> Report:
        """Carry a plan out, say what failed in the statuses, and wait for it all (at most `timeout` seconds)."""
        self.begin(plan)
        return self.finish(timeout)

    def begin(self, plan: Plan) -> None:
        """Start a plan whose end `finish` waits for."""
        self._results = {}
        self.start(plan)

    def finish(self, timeout: float | None = None) -> Report:
        """Wait for what `begin` started, say what failed in the statuses, and tell how every lane landed."""
        until = None if timeout is None else time.monotonic() + timeout
        self.lanes.wait(timeout)
        results, self._results = self._results or {}, None
        asked = self.wanted.by_owner
        failures = {o: failure(r, again=False) for o, r in results.items() if worth_telling(r, asked.get(o))}
        if failures:
            self.start(self.tell(failures))
            self.lanes.wait(None if until is None else max(0.1, until - time.monotonic()))
        return Report(results, self.lanes.busy())

    def admitted(self, owners: frozenset[Owner] | None) -> tuple[tuple[LoadBalancer, ...], tuple[Refusal, ...]]:
        """These owners' load balancers that policy lets through, and the refusals of the others."""
        ranked = needs_ranking(self.policy)
        passed: list[LoadBalancer] = []
        refused: list[Refusal] = []
        for lb in self.wanted.of(owners):
            ranking = self.wanted.ranking(lb.namespace) if ranked else ()
            refusal = admit(self.policy, lb, self._labels(lb.namespace), ranking)
            passed.append(lb) if refusal is None else refused.append(refusal)
        return tuple(passed), tuple(refused)

    def _planned(self, scope: Scope) -> Plan:
        seen = self.stack.observe(scope)
        desired = self.stack.desired(scope.load_balancers, seen)
        plan = diff(self.stack.kinds, desired, seen)
        return guard(
            plan,
            self.policy.limits,
            wanted=self.wanted.by_owner.keys(),
            released=desired.releases,
            managed=self._managed(seen),
        )

    def _managed(self, seen: Observation) -> frozenset[Owner]:
        """Who has something in the cloud. A narrowed look does not see the others: there, who is wanted counts."""
        look: Observation = seen.facts[self.stack.provider.name]
        unseen = () if seen.scope.owners is None else self.wanted.by_owner
        return frozenset({resource.owner for resource in look.resources}.union(unseen) - {SHARED})

    def _scope(self, owners: frozenset[Owner] | None, fresh: bool) -> Scope:
        load_balancers, refused = self.admitted(owners)
        return Scope(
            at=self._now(),
            owners=owners,
            fresh=fresh,
            load_balancers=load_balancers,
            shares=self.wanted.shares,
            taken=self.lanes.taken(),
            refused=refused,
        )

    def _without(self, busy: frozenset[Owner], plan: Plan) -> Plan:
        """The plan without owners that were in flight when we looked: what we saw of them may be half the truth."""
        if not busy:
            return plan
        return msgspec.structs.replace(plan, changes=tuple(c for c in plan.changes if c.owner not in busy))

    def _land(self, result: Result) -> None:
        if self._results is not None:
            self._results[result.owner] = result
        self._on_landed(result)


def worth_telling(result: Result, load_balancer: LoadBalancer | None) -> bool:
    """Does it keep somebody from what was asked? Once there is an address, waiting and tidying up do not."""
    tidies_up = result.step is not None and result.step.action == "delete" and not result.step.outage
    if result.outcome == "done" or load_balancer is None or tidies_up:
        return False
    return result.outcome == "failed" or not load_balancer.status


def failure(result: Result, *, again: bool) -> Failure:
    """What a lane that did not end well is remembered by, in the Service's condition. `again`: it is tried again."""
    waits = isinstance(result.error, Retry) or not again
    return Failure(result.reason, result.message if waits else f"{result.message} (lbctl tries again)")
