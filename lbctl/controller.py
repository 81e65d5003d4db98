"""The daemon's loop around the one path: what to look at, and when.

One controller per stack. It is told names ("default/web changed"), never objects; it reads what it needs when it
plans. It lets a burst settle, leaves alone who is in flight, waits as long as `Retry` says, backs off from failures
(5 s doubling to 300 s, as Kubernetes' service controller does), and audits everything from time to time. Cloud outages
end a pass, never the loop: the last good state stays.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Protocol

import msgspec

from lbctl import story
from lbctl.apply import Result
from lbctl.errors import LbctlError
from lbctl.model import SHARED, LoadBalancer, Owner, Refusal
from lbctl.plan import Plan
from lbctl.provider import Failure
from lbctl.reconcile import Reconciler, failure, worth_telling

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where load balancers come from: the stores of the Kubernetes edge."""

    def read(self, owner: Owner) -> LoadBalancer | None:
        """What this Service asks of this stack; None where it asks nothing (any more)."""
        ...

    def owners(self) -> Iterable[Owner]:
        """All Services that ask something of this stack."""
        ...


class Listener(Protocol):
    """Who wants to know (metrics, the demo)."""

    def planned(self, plan: Plan, *, audit: bool, seconds: float) -> None: ...

    def landed(self, result: Result) -> None: ...

    def interrupted(self, error: Exception) -> None: ...


class Timing(msgspec.Struct, frozen=True):
    """All in seconds."""

    settle: float = 0.05
    settle_most: float = 0.5
    audit: float = 600.0
    backoff: float = 5.0
    backoff_most: float = 300.0
    shutdown: float = 20.0


USUAL = Timing()

HASTY = 1.0
"""Seconds below which a wait is a short one."""


class Work(msgspec.Struct, frozen=True):
    """One pass: whom it is about (None: everybody), and whether the other side is read.

    marked    whom something had changed for, or who was to be tried again: what an audit finds of them is no drift
    unclear   whose last answer was unclear, before this look: still so, should it fail
    """

    owners: frozenset[Owner] | None
    fresh: bool
    audit: bool = False
    marked: frozenset[Owner] = frozenset()
    unclear: frozenset[Owner] = frozenset()


class Controller:
    """Call `mark` and `mark_all` from anywhere; `run` on a thread of its own."""

    def __init__(
        self,
        reconciler: Reconciler,
        source: Source,
        *,
        tell: Callable[[story.Event], None] = lambda _event: None,
        listener: Listener | None = None,
        timing: Timing = USUAL,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.reconciler, self._source, self._timing = reconciler, source, timing
        self._tell, self._listener, self._clock, self._uniform = tell, listener, clock, uniform
        self._wake = threading.Condition()
        self._stopped = False
        self._dirty: set[Owner] = set()
        self._unclear: set[Owner] = set()
        self._later: dict[Owner, float] = {}
        self._attempts: dict[Owner, int] = {}
        self._hasty: dict[Owner, int] = {}
        self._untold: dict[Owner, Failure] = {}
        self._telling: dict[Owner, Failure] = {}
        self._tell_again: dict[Owner, tuple[float, Failure]] = {}
        self._audited: set[Owner] = set()
        self._refusals: dict[Owner, Refusal] = {}
        self._everything = self._looking = False
        self._first_mark = self._last_mark = 0.0
        self._next_audit = clock()
        self._outages = 0
        self.passed = threading.Event()
        """Set once a first look at everything has succeeded."""

    # -- what happens around us ---------------------------------------------------------------------------------

    def mark(self, owner: Owner) -> None:
        """Something about this Service changed."""
        with self._wake:
            self._note_mark()
            self._dirty.add(owner)
            self._wake.notify_all()

    def mark_all(self) -> None:
        """Something that every Service depends on changed (the nodes)."""
        with self._wake:
            self._note_mark()
            self._everything = True
            self._wake.notify_all()

    def audit(self) -> None:
        """Look at everything afresh as soon as possible."""
        with self._wake:
            self._next_audit = self._clock()
            self._wake.notify_all()

    def landed(self, result: Result) -> None:
        """A lane ended: forget it, wake later, or back off. Called on the lane's thread."""
        with self._wake:
            owner = result.owner
            told, audit = self._telling.pop(owner, None), owner in self._audited
            self._audited.discard(owner)
            if told is None:
                self._schedule(result)
            elif result.outcome != "done":
                self._tell_again[owner] = (self._clock() + max(result.after, self._timing.backoff), told)
            if result.outcome != "done" or self._dirty or self._untold:
                # Thousands that land well while nobody waits for one of them are no reason to wake the loop.
                self._wake.notify_all()
        if told is None:
            if result.outcome == "done" and any(step.action == "delete" for step in result.applied):
                self._look_again_at_refused()
            self._log(result)
            kinds, asked = self.reconciler.stack.kinds, self.reconciler.wanted.by_owner.get(owner)
            for event in story.landed(result, asked, audit=audit, kinds=kinds):
                self._tell(event)
        if self._listener:
            self._listener.landed(result)

    def stop(self) -> None:
        """End `run` after the pass under way. Lanes in flight get `Timing.shutdown` seconds."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()

    def idle(self) -> bool:
        """Is there nothing to do, and nothing in flight, right now?"""
        with self._wake:
            marked = self._dirty or self._everything or self._untold or self._looking
            due = self._next_audit <= self._clock()
        return not marked and not due and not self.reconciler.lanes.busy()

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Until `stop`. False if lanes were still in flight when their time ran out."""
        while (work := self._next()) is not None:
            self._pass(work)
            with self._wake:
                self._looking = False
        return self.reconciler.lanes.close(self._timing.shutdown)

    def _next(self) -> Work | None:
        """The next pass, as soon as there is one; None to stop."""
        with self._wake:
            while not self._stopped:
                work, wait = self._choose(self._clock())
                if work is not None:
                    self._looking = True
                    return work
                self._wake.wait(wait)
        return None

    def _choose(self, now: float) -> tuple[Work | None, float]:
        """(what to do now, or None) and how many seconds until there may be something."""
        due = {owner for owner, at in self._later.items() if at <= now}
        for owner in due:
            del self._later[owner]
        self._dirty |= due
        for owner in [owner for owner, (at, _) in self._tell_again.items() if at <= now]:
            self._untold.setdefault(owner, self._tell_again.pop(owner)[1])
        pressing = self._next_audit <= now or self._everything or self._dirty or self._untold
        busy = self.reconciler.lanes.busy() if pressing else frozenset[Owner]()
        if self._next_audit <= now:
            everybody = self.reconciler.wanted.by_owner.keys() if self._everything else ()
            marked, unclear = frozenset({*self._dirty, *self._later, *everybody}), frozenset(self._unclear - busy)
            self._everything, self._dirty = False, set(busy)
            self._unclear &= busy
            return Work(None, fresh=True, audit=True, marked=marked, unclear=unclear), 0.0
        ready = frozenset(self._dirty - busy)
        untold = self._untold.keys() - busy
        settled = min(self._last_mark + self._timing.settle, self._first_mark + self._timing.settle_most)
        if (self._everything or ready) and settled > now:
            return None, settled - now
        self._first_mark = 0.0
        if self._everything:
            self._everything, self._dirty = False, set(busy)
            return Work(None, fresh=False), 0.0
        if ready or untold:
            self._dirty -= ready
            unclear = ready & self._unclear
            self._unclear -= ready
            return Work(ready, fresh=bool(unclear), unclear=unclear), 0.0
        again = (at for at, _ in self._tell_again.values())
        return None, min([self._next_audit, *self._later.values(), *again]) - now

    def _pass(self, work: Work) -> None:
        """One walk along the path. Whatever goes wrong before a lane starts ends the pass, never the loop."""
        started = self._clock()
        try:
            self._look_again_after(self._tell_failures(), work)
            if work.owners is not None and not work.owners:
                return
            went = self._refresh(work.owners)
            plan = self.reconciler.plan(work.owners, fresh=work.fresh)
        except Exception as error:  # noqa: BLE001
            self._interrupted(work, error)
            return
        if went:
            self._look_again_at_refused()
        if work.audit:
            self._outages = 0
            with self._wake:
                self._next_audit = self._clock() + self._timing.audit
        if self._listener:
            self._listener.planned(plan, audit=work.audit, seconds=self._clock() - started)
        self._begin(plan, work)
        if work.owners is None:
            self.passed.set()

    def _look_again_after(self, telling: frozenset[Owner], work: Work) -> None:
        """Who is in flight now is left out of this pass's plan, and so is what is shared: look again when they land."""
        if work.owners is not None and not work.owners:
            return
        with self._wake:
            again = telling if work.owners is None else telling & work.owners
            self._dirty |= again | ({SHARED} & self.reconciler.lanes.busy())
            self._unclear |= again & work.unclear

    def _look_again_at_refused(self) -> None:
        """Something became free: whoever was refused may get it now."""
        with self._wake:
            if self._refusals:
                self._note_mark()
                self._dirty |= self._refusals.keys()

    def _refresh(self, owners: frozenset[Owner] | None) -> bool:
        """Bring what is wanted up to date with the stores. True if somebody went."""
        wanted = self.reconciler.wanted
        went = False
        # Everybody in the stores' order, which is nearly that of memory.
        for owner in owners if owners is not None else dict.fromkeys((*self._source.owners(), *wanted.by_owner)):
            load_balancer = None if owner == SHARED else self._source.read(owner)
            if load_balancer is None:
                went |= wanted.remove(owner)
            else:
                wanted.put(load_balancer)
        return went

    def _begin(self, plan: Plan, work: Work) -> None:
        lanes = plan.lanes()
        with self._wake:
            self._audited |= lanes.keys() - work.marked if work.audit and self.passed.is_set() else set()
            for change in plan.pending:
                if change.not_before and plan.at:
                    self._wake_at(change.owner, (change.not_before - plan.at).total_seconds())
        self._tell_refusals(plan, work)
        for owner in lanes:
            asked = self.reconciler.wanted.by_owner.get(owner)
            for event in story.begun(owner, lanes[owner], asked, self.reconciler.stack.kinds):
                self._tell(event)
        started = self.reconciler.start(plan)
        with self._wake:
            self._dirty |= lanes.keys() - started
            self._forget_gone(work, lanes.keys() | {change.owner for change in plan.pending})

    def _interrupted(self, work: Work, error: Exception) -> None:
        """The other side could not be read: nothing is known, so nothing is done, and those who wait hear why."""
        self._outages += 1
        delay = self._delay(self._outages)
        known = isinstance(error, LbctlError)
        log.error("a look failed", extra={"retry_seconds": round(delay, 1), "error": str(error)}, exc_info=not known)
        with self._wake:
            if work.owners is None:
                self._next_audit = self._clock() + delay
            for owner in work.owners or ():
                self._wake_at(owner, delay)
            self._unclear |= work.unclear | (work.owners or frozenset())
            waiting = [lb.owner for lb in self.reconciler.wanted.of(work.owners) if not lb.status]
            reason = error.reason if isinstance(error, LbctlError) else "plugin-fault"
            message = error.message if isinstance(error, LbctlError) else f"{type(error).__name__}: see the log"
            self._untold.update(dict.fromkeys(waiting, Failure(reason, message)))
        if self._listener:
            self._listener.interrupted(error)

    # -- telling ------------------------------------------------------------------------------------------------

    def _tell_failures(self) -> frozenset[Owner]:
        """Write into the statuses how lanes failed, for owners that are not in flight. Those begun."""
        with self._wake:
            busy = self.reconciler.lanes.busy()
            failures = {owner: text for owner, text in self._untold.items() if owner not in busy}
            for owner in failures:
                del self._untold[owner]
            self._telling |= failures
        if not failures:
            return frozenset()
        started = self.reconciler.start(self.reconciler.tell(failures))
        with self._wake:
            for owner in failures.keys() - started:
                self._telling.pop(owner, None)
        return started

    def _tell_refusals(self, plan: Plan, work: Work) -> None:
        """An Event for each refusal that is new or says something else than before."""
        current = {refusal.owner: refusal for refusal in plan.refused}
        for owner, refusal in current.items():
            if self._refusals.get(owner) != refusal:
                self._tell(story.refused(refusal, self.reconciler.stack.kinds))
        looked = self._refusals.keys() if work.owners is None else work.owners
        self._refusals = {o: r for o, r in self._refusals.items() if o not in looked} | current
        for owner in dict.fromkeys(change.owner for change in plan.frozen if change.owner != SHARED):
            self._tell(story.frozen(owner, plan.limit))

    def _log(self, result: Result) -> None:
        fields: Mapping[str, object] = {"service": result.owner, "provider": self.reconciler.stack.name}
        if result.outcome == "failed":
            log.warning("a lane failed", extra={**fields, "reason": result.reason, "error": result.message})
        elif result.outcome == "retry":
            log.info("a lane waits", extra={**fields, "reason": result.reason, "retry_seconds": result.after})

    # -- when ---------------------------------------------------------------------------------------------------

    def _note_mark(self) -> None:
        self._last_mark = self._clock()
        if not self._first_mark:
            self._first_mark = self._last_mark

    def _schedule(self, result: Result) -> None:
        owner = result.owner
        if result.outcome == "done":
            self._forget(owner)
            if owner == SHARED and any(step.action == "delete" for step in result.applied):
                self._dirty.add(SHARED)
            return
        if result.outcome == "retry":
            self._wake_at(owner, self._patience(owner, result.after))
        else:
            self._attempts[owner] = self._attempts.get(owner, 0) + 1
            self._wake_at(owner, self._delay(self._attempts[owner]))
        if result.unclear:
            self._unclear.add(owner)
        if worth_telling(result, self.reconciler.wanted.by_owner.get(owner)):
            self._untold[owner] = failure(result, again=True)

    def _forget(self, owner: Owner) -> None:
        """It is well, or it is gone: its failures count no more, and nobody needs to hear of them."""
        for memory in (self._attempts, self._hasty, self._untold, self._tell_again):
            memory.pop(owner, None)

    def _forget_gone(self, work: Work, concerned: Set[Owner]) -> None:
        """Of owners that nobody wants and for whom nothing is left to do, nothing is remembered."""
        known = self._attempts.keys() | self._hasty.keys() | self._untold.keys() | self._tell_again.keys()
        looked = known if work.owners is None else known & work.owners
        here = self.reconciler.wanted.by_owner.keys() | self.reconciler.lanes.busy() | {SHARED}
        for owner in looked - concerned - here:
            self._forget(owner)

    def _patience(self, owner: Owner, seconds: float) -> float:
        """A short wait that comes again and again grows: a lasting 409 is not asked about five times a second."""
        if seconds >= HASTY:
            return seconds
        tries = self._hasty[owner] = min(self._hasty.get(owner, 0) + 1, 20)
        return min(seconds * 2.0 ** max(tries - 3, 0), self._timing.backoff)

    def _wake_at(self, owner: Owner, seconds: float) -> None:
        """Look at the owner in so many seconds, or earlier if that was planned already."""
        at = self._clock() + max(seconds, 0.1)
        self._later[owner] = min(at, self._later.get(owner, at))

    def _delay(self, attempt: int) -> float:
        """Seconds to wait after so many failures in a row, with 10 % jitter."""
        delay = min(self._timing.backoff * 2.0 ** min(attempt - 1, 16), self._timing.backoff_most)
        return delay * self._uniform(0.9, 1.1)
