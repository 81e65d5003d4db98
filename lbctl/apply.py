"""Carries out plans: one lane per owner, all lanes at once, each lane in the plan's order.

`reconcile.py` starts plans here and hears how each lane landed. A lane is the steps of one owner. It ends at its first
error, so whatever comes after (the status, the removal of the claim) never claims what did not happen. A slow or
failing call holds up its own lane and nobody else's. Four things connect lanes:

- A step with a `Ref` to something that another lane is about to create waits for that, without a thread.
- Steps of one document that are ready together reach the provider together; a batch closes when nothing in flight
  feeds it any more, or `DOCUMENT_WAIT` after its first part. A batch that is refused whole is halved until the
  culprit stands alone.
- Steps of the streamed kind (the statuses) are all carried out by one thread, for as long as there are any, and so are
  local ones: whoever comes to one meanwhile leaves its lane there and goes on with another.
- Shared things go only when nothing else is in flight and nothing was started since: who knows who needs them now.

Nothing here sleeps. "Not ready yet" ends the lane with `Retry`, and the lane is free until then.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from inspect import GEN_CREATED, getgeneratorstate
from queue import SimpleQueue
from typing import Any, Literal

import msgspec

from lbctl.errors import LbctlError, Refused, Retry, Unavailable
from lbctl.model import SHARED, Key, Owner, Ref, Resource, resolve
from lbctl.plan import Change, Kind, Plan, waits_for

log = logging.getLogger(__name__)

DOCUMENT_WAIT = 1.0
"""Seconds after which a document's batch closes although something in flight might still feed it."""

NOT_LEADER = "not-leader"
"""The reason of a lane that ended because somebody else leads now."""

Answer = Resource | Exception | None
Carrier = Callable[[Sequence[Change]], Sequence[Answer]]
Bringer = Callable[[Iterator[Change | None], Callable[[Owner, Answer], None]], None]
Document = tuple[str, Any]

_PARKED = LbctlError("somebody else will wake this lane")
_QUIET: Key = ("", "nothing else in flight")


class Result(msgspec.Struct, frozen=True):
    """How a lane landed. `after` is in seconds. `unclear` says that the next look must be fresh."""

    owner: Owner
    outcome: Literal["done", "retry", "failed"]
    applied: tuple[Change, ...] = ()
    step: Change | None = None
    reason: str = ""
    message: str = ""
    after: float = 0.0
    unclear: bool = False
    error: Exception | None = None


class _Lane:
    """One owner's steps on their way, some of them done. `start` is the number of the start that it came with."""

    __slots__ = ("_refs", "all", "done", "owner", "start")

    def __init__(self, owner: Owner, steps: Sequence[Change], start: int) -> None:
        self.owner, self.all, self.done, self.start = owner, tuple(steps), 0, start
        self._refs: tuple[Ref, ...] | None = None

    @property
    def next(self) -> Change | None:
        """The step that is to be done now; None at the end."""
        return self.all[self.done] if self.done < len(self.all) else None

    @property
    def refs(self) -> tuple[Ref, ...]:
        """What the next step waits for: asked for more than once, and looked up once."""
        if self._refs is None:
            self._refs = waits_for(self.all[self.done])
        return self._refs

    def proceed(self) -> Change:
        """The next step is done. Which one that was."""
        self.done, self._refs = self.done + 1, None
        return self.all[self.done - 1]

    @property
    def steps(self) -> tuple[Change, ...]:
        """What is still to do."""
        return self.all[self.done :]

    @property
    def applied(self) -> tuple[Change, ...]:
        return self.all[: self.done]


class _Stream:
    """Lanes on their way through steps that one thread takes for all. That takes them out; any may leave some here."""

    def __init__(self) -> None:
        self._lanes: deque[_Lane] = deque()
        self._lock = threading.Lock()
        self._carried = False

    def join(self, lanes: Sequence[_Lane]) -> bool:
        """Leave them here. True: nobody carries yet, and it is for the caller to see that somebody begins."""
        with self._lock:
            self._lanes.extend(lanes)
            return not self._carried

    def begin(self) -> bool:
        """Is there something to carry, and nobody at it? Then the caller is, from now on, until it may `leave`."""
        with self._lock:
            if self._carried or not self._lanes:
                return False
            self._carried = True
            return True

    def take(self) -> _Lane | None:
        """The next lane, or None if there is none right now."""
        with self._lock:
            return self._lanes.popleft() if self._lanes else None

    def leave(self) -> bool:
        """Did whoever carries find it empty, and may go? The next to come begins again."""
        with self._lock:
            self._carried = bool(self._lanes)
            return not self._carried


class _Crew:
    """Threads that take tasks in turn, begun as they are needed. Ten thousand tasks wait for the price of a tuple each.

    (An executor's Future costs ten times as much, and its threads keep a process alive that has a call hanging.)
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: SimpleQueue[tuple[Callable[..., None], tuple[object, ...]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open = 0
        self.ended = False

    def submit(self, task: Callable[..., None], *arguments: object) -> None:
        """Have it done soon; after `end`, never."""
        with self._lock:
            self._open += 1
            if len(self._threads) < min(self._open, self._most) and not self.ended:
                self._begin_another()
        self._tasks.put((task, arguments))

    def _begin_another(self) -> None:
        """Where no thread can be had just now, those that there are take it, or the one that comes with the next."""
        thread = threading.Thread(target=self._work, name=f"lane-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            log.exception("no thread can be had")
        else:
            self._threads.append(thread)

    def end(self, *, wait: bool) -> None:
        """What has not begun is dropped. With `wait`, until the threads have ended."""
        with self._lock:
            self.ended = True
            threads = list(self._threads)
        for _thread in threads:
            self._tasks.put(None)
        for thread in threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while (job := self._tasks.get()) is not None:
            task, arguments = job
            try:
                if not self.ended:
                    task(*arguments)
            except Exception:
                # A fault of ours (no plugin's): no owner is to blame for it, but it must be seen.
                log.exception("a lane broke off")
            with self._lock:
                self._open -= 1


class Lanes:
    """Everything that is in flight. Safe to use from several threads.

    carry     carries out steps: `Stack.apply`
    bring     carries out the steps of the streamed kind: `Stack.bring`
    landed    told of each lane that ends, on the lane's thread, once `busy` no longer names it
    may_write asked right before every write: False ends the lane (the lease is lost)
    stepped   told of each step that is done, for progress and logs
    """

    def __init__(
        self,
        carry: Carrier,
        kinds: Sequence[Kind],
        *,
        bring: Bringer | None = None,
        landed: Callable[[Result], None] = lambda _result: None,
        stepped: Callable[[Change], None] = lambda _change: None,
        may_write: Callable[[], bool] = lambda: True,
        workers: int = 16,
    ) -> None:
        self._carry, self._landed, self._stepped, self._may_write = carry, landed, stepped, may_write
        self._documents = {kind.name: kind.document for kind in kinds if kind.document}
        self._bring, self._stream = bring, _Stream()
        self._streamed = next((kind.name for kind in kinds if kind.streamed and bring is not None), None)
        self._swift = {kind.name for kind in kinds if (kind.local or kind.streamed) and self._streamed is not None}
        self._crew = _Crew(workers)
        self._lock = threading.Condition()
        self._lanes: dict[Owner, _Lane] = {}
        self._starts = 0
        self._unheard = 0
        self._known: dict[Key, Mapping[str, Any]] = {}
        self._coming: dict[Key, Owner] = {}
        self._waiting: dict[Key, list[_Lane]] = {}
        self._outside: Counter[Document] = Counter()
        self._batches: dict[Document, list[_Lane]] = {}
        self._applying: set[Document] = set()
        self._timers: dict[Document, threading.Timer] = {}
        self._overdue: set[Document] = set()
        self._closed = False

    def start(self, plan: Plan) -> frozenset[Owner]:
        """Start the plan's lanes, but for owners that are still in flight. The owners started."""
        with self._lock:
            if self._closed:
                return frozenset()
            self._starts += 1
            lanes = [_Lane(o, steps, self._starts) for o, steps in plan.lanes().items() if o not in self._lanes]
            if not self._lanes:
                self._known.clear()
            # What a lane in flight is about to change, it knows better than a plan that looked before.
            self._known.update((key, outputs) for key, outputs in plan.known.items() if key not in self._coming)
            for lane in lanes:
                self._enter(lane)
            # Shared things that wait to go give way: somebody may need more of them.
            parked = self._waiting.pop(_QUIET, [])
        self._wake([*parked, *lanes])
        return frozenset(lane.owner for lane in lanes)

    def _enter(self, lane: _Lane) -> None:
        self._lanes[lane.owner] = lane
        self._unheard += 1
        self._outside.update(self._documents_of(lane))
        for step in lane.steps:
            if step.after:
                self._coming[step.key] = lane.owner
            if step.action == "create":
                self._known.pop(step.key, None)

    def busy(self) -> frozenset[Owner]:
        """The owners in flight."""
        with self._lock:
            return frozenset(self._lanes)

    def taken(self) -> tuple[Resource, ...]:
        """What lanes in flight have made, or are about to."""
        with self._lock:
            steps = [step for lane in self._lanes.values() for step in lane.all]
        return tuple(step.after for step in steps if step.after)

    def wait(self, timeout: float | None = None) -> bool:
        """Until nothing is in flight and every landing was told. False if that took longer than `timeout` seconds."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._unheard, timeout)

    def close(self, timeout: float) -> bool:
        """Start nothing more; give what is in flight `timeout` seconds. False if something is left."""
        with self._lock:
            self._closed = True
        finished = self.wait(timeout)
        with self._lock:
            for timer in self._timers.values():
                timer.cancel()
        self._crew.end(wait=finished)
        return finished

    # -- a lane's life ------------------------------------------------------------------------------------------

    def _run(self, lane: _Lane) -> None:
        """Take steps for as long as this thread may."""
        if self._advance(lane) and self._stream.join([lane]):
            self._carry_stream()

    def _advance(self, lane: _Lane, *, locally: bool = False) -> bool:
        """Take steps until the lane ends, waits for another, or joins a batch; True: the next one is the stream's.

        `locally`: on the stream's thread, which makes no calls.
        """
        while (step := lane.next) is not None:
            obstacle = self._obstacle(lane, step)
            if obstacle is _PARKED:
                return False
            if obstacle is not None:
                self._land(lane, obstacle)
                return False
            if step.kind in self._documents:
                self._join(lane)
                return False
            if step.kind == self._streamed:
                return True
            if locally and step.kind not in self._swift:
                self._crew.submit(self._run, lane)
                return False
            if not self._settle(lane, self._carry_out([self._resolved(step, lane.refs)])):
                return False
        self._land(lane, None)
        return False

    def _obstacle(self, lane: _Lane, step: Change) -> LbctlError | None:
        """Why the step cannot be carried out now: an error, or `_PARKED` if somebody will wake the lane."""
        refs = lane.refs
        if not refs and step.owner != SHARED:
            return None
        with self._lock:
            if step.owner == SHARED and step.action == "delete" and not step.outage:
                return self._until_quiet(lane)
            for ref in refs:
                if ref.output in self._known.get(ref.key, {}):
                    continue
                if self._coming.get(ref.key, lane.owner) == lane.owner:
                    return Retry(5.0, f"waits for {ref.kind} {ref.name}, which is not there yet", reason="waits-for")
                self._waiting.setdefault(ref.key, []).append(lane)
                return _PARKED
        return None

    def _until_quiet(self, lane: _Lane) -> LbctlError | None:
        if lane.start != self._starts:
            return Retry(60.0, "something else began meanwhile: the next audit decides again", reason="not-quiet")
        if len(self._lanes) == 1:
            return None
        self._waiting.setdefault(_QUIET, []).append(lane)
        return _PARKED

    def _settle(self, lane: _Lane, answers: Sequence[Answer]) -> bool:
        """Take note of the outcome of the lane's first steps. False if one ended the lane."""
        for answer in answers:
            if isinstance(answer, Exception):
                self._land(lane, answer)
                return False
            self._tell(self._stepped, self._note(lane, answer))
        return True

    def _note(self, lane: _Lane, answer: Resource | None) -> Change:
        with self._lock:
            before = self._documents_of(lane)
            step = lane.proceed()
            if before:
                self._outside.subtract(before - self._documents_of(lane))
            if isinstance(answer, Resource):
                self._known[step.key] = answer.outputs
            else:
                self._known.pop(step.key, None)
            woken = self._arrived(step.key) if step.after else []
        self._wake(woken)
        return step

    def _arrived(self, key: Key) -> list[_Lane]:
        self._coming.pop(key, None)
        return self._waiting.pop(key, [])

    def _land(self, lane: _Lane, error: Exception | None) -> None:
        with self._lock:
            del self._lanes[lane.owner]
            if self._documents:
                self._outside.subtract(self._documents_of(lane))
            woken = [other for step in lane.steps if step.after for other in self._arrived(step.key)]
            if len(self._lanes) <= 1:
                woken += self._waiting.pop(_QUIET, [])
        self._wake(woken)
        self._close_complete()
        try:
            self._tell(self._landed, _result(lane, error))
        finally:
            with self._lock:
                self._unheard -= 1
                if not self._unheard:
                    self._lock.notify_all()

    def _tell(self, listener: Callable[[Any], None], what: Change | Result) -> None:
        """A listener's fault is logged and ends nothing: whoever is in flight still has to land."""
        try:
            listener(what)
        except Exception:
            log.exception("a listener of the lanes raised")

    def _wake(self, lanes: Sequence[_Lane]) -> None:
        """Have them go on. Those whose next step is no call, or the stream's, are no work for many threads."""
        swift: list[_Lane] = []
        others: list[_Lane] = []
        for lane in lanes:
            (swift if lane.next and lane.next.kind in self._swift else others).append(lane)
        # The stream first: behind thousands of calls its turn would come last. (From here on, lanes are on their way.)
        if swift and self._stream.join(swift):
            self._crew.submit(self._carry_stream)
        for lane in others:
            self._crew.submit(self._run, lane)

    # -- steps --------------------------------------------------------------------------------------------------

    def _carry_out(self, steps: Sequence[Change]) -> list[Answer]:
        """One answer for each of these steps, whose Refs are filled in.

        The only broad catch: a plugin's fault is its owner's failure, never the controller's.
        """
        if not self._may_write():
            return [_not_leader()] * len(steps)
        try:
            answers = list(self._carry(steps))
        except Exception as error:  # noqa: BLE001
            return [error] * len(steps)
        if len(answers) == len(steps):
            return answers
        fault = f"the provider gave {len(answers)} answers to {len(steps)} changes"
        return [LbctlError(fault, reason="plugin-fault")] * len(steps)

    def _resolved(self, step: Change, refs: Sequence[Ref]) -> Change:
        """The step with these Refs of its own filled in."""
        if step.after is None or not refs:
            return step
        with self._lock:
            fields = resolve(step.after.fields, self._known)
        return msgspec.structs.replace(step, after=msgspec.structs.replace(step.after, fields=fields))

    # -- the stream ---------------------------------------------------------------------------------------------

    def _carry_stream(self) -> None:
        """Carry out what has come, and what comes meanwhile, until there is nothing left."""
        assert self._bring is not None
        if not self._stream.begin():
            return
        flying: dict[Owner, _Lane] = {}

        def answered(owner: Owner, answer: Answer) -> None:
            lane = flying.pop(owner)
            if self._settle(lane, [answer]):
                self._wake([lane]) if lane.next else self._land(lane, None)

        while not self._crew.ended and not self._stream.leave():
            changes = self._taken(flying)
            fault: Exception = LbctlError(f"a {self._streamed} was left without an answer", reason="plugin-fault")
            try:
                self._bring(changes, answered)
            except Exception as error:  # noqa: BLE001
                fault = error
            if getgeneratorstate(changes) == GEN_CREATED and (lane := self._stream.take()) is not None:
                # It did not even begin. Whoever is next hears of it, or this would go on for ever.
                flying[lane.owner] = lane
            while flying:
                self._land(flying.popitem()[1], fault)

    def _taken(self, flying: dict[Owner, _Lane]) -> Generator[Change | None, None, None]:
        """The streamed step of each lane that has come; None while there is none. It ends with the crew."""
        while not self._crew.ended:
            if (lane := self._stream.take()) is None:
                yield None
            elif self._advance(lane, locally=True):
                if self._may_write():
                    flying[lane.owner] = lane
                    yield self._resolved(lane.all[lane.done], lane.refs)
                else:
                    self._land(lane, _not_leader())

    # -- documents ----------------------------------------------------------------------------------------------

    def _document(self, step: Change) -> Document | None:
        field = self._documents.get(step.kind)
        resource = step.after or step.before
        return (field, resource.fields.get(field)) if field and resource else None

    def _documents_of(self, lane: _Lane) -> set[Document]:
        """The documents that the lane still has parts of."""
        if not self._documents:
            return set()
        return {document for step in lane.steps if (document := self._document(step))}

    def _join(self, lane: _Lane) -> None:
        """Put the lane's next parts into their document's batch, and see whether that may close."""
        document = self._document(lane.steps[0])
        assert document is not None
        with self._lock:
            self._outside[document] -= 1
            batch = self._batches.setdefault(document, [])
            batch.append(lane)
            if len(batch) == 1:
                timer = self._timers[document] = threading.Timer(DOCUMENT_WAIT, self._close, (document, True))
                timer.daemon = True
                timer.start()
        self._close(document)

    def _close_complete(self) -> None:
        with self._lock:
            documents = list(self._batches)
        for document in documents:
            self._close(document)

    def _close(self, document: Document, overdue: bool = False) -> None:
        """Carry out a document's batch if nothing in flight feeds it any more; one batch per document at a time."""
        with self._lock:
            if document not in self._batches:
                return
            if overdue:
                self._overdue.add(document)
            ready = document in self._overdue or not self._outside[document]
            if document in self._applying or not ready:
                return
            self._overdue.discard(document)
            batch = self._batches.pop(document)
            self._timers.pop(document).cancel()
            self._applying.add(document)
        self._crew.submit(self._carry_batch, document, batch)

    def _carry_batch(self, document: Document, batch: list[_Lane]) -> None:
        answers = self._halving(batch, [self._parts(lane, document) for lane in batch])
        with self._lock:
            self._applying.discard(document)
            self._outside[document] += len(batch)
        self._wake([lane for lane, given in zip(batch, answers, strict=True) if self._settle(lane, given)])
        self._close_complete()

    def _parts(self, lane: _Lane, document: Document) -> list[Change]:
        """The lane's next steps that are parts of the document and need nothing that is not there yet."""
        first, *rest = lane.steps
        parts = [first]
        for step in rest:
            with self._lock:
                known = all(ref.output in self._known.get(ref.key, {}) for ref in waits_for(step))
            if self._document(step) != document or not known:
                break
            parts.append(step)
        return parts

    def _halving(self, lanes: Sequence[_Lane], parts: Sequence[Sequence[Change]]) -> list[list[Answer]]:
        """The answers for each lane's parts; a batch refused whole is tried again in halves."""
        answers = self._carry_out([self._resolved(step, waits_for(step)) for steps in parts for step in steps])
        if len(lanes) > 1 and all(isinstance(answer, Refused) for answer in answers):
            half = len(lanes) // 2
            return self._halving(lanes[:half], parts[:half]) + self._halving(lanes[half:], parts[half:])
        rest = iter(answers)
        return [[next(rest) for _ in steps] for steps in parts]


def _not_leader() -> Retry:
    return Retry(0.0, "no longer the leader: nothing more is written", reason=NOT_LEADER)


def _result(lane: _Lane, error: Exception | None) -> Result:
    applied = lane.applied
    step = lane.steps[0] if lane.steps else None
    if error is None:
        return Result(lane.owner, "done", applied)
    if isinstance(error, Retry):
        return Result(lane.owner, "retry", applied, step, error.reason, error.message, error.after, error=error)
    if isinstance(error, LbctlError):
        unclear = isinstance(error, Unavailable)
        return Result(lane.owner, "failed", applied, step, error.reason, error.message, unclear=unclear, error=error)
    message = f"{type(error).__name__} while it should {step.action if step else 'act'}: see the log, then lbctl doctor"
    return Result(lane.owner, "failed", applied, step, "plugin-fault", message, unclear=True, error=error)
