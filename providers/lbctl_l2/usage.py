"""How much of each pool is used, into the pool's own status: at most once a second, however many Services come and go.

Reporting, and no change of a plan: docs/adr/0010 says why. What is written is what a look saw that was asked for here,
at what is shared and at nobody's Service: only a controller grants that, so `lbctl plan` writes nothing, however often
it looks. MetalLB's own objects are MetalLB's to report on.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from lbctl.cluster import Kubernetes, Object, Watch
from lbctl.errors import LbctlError
from lbctl.model import SHARED, Owner
from lbctl.provider import Scope
from lbctl_l2 import crds
from lbctl_l2.configured import Configured
from lbctl_l2.ledger import Ledger

log = logging.getLogger(__name__)

HASTE = 1.0
"""Seconds between two reports, at least."""
PATIENCE = 10.0
"""Seconds until a report that failed is tried again."""


class Report(NamedTuple):
    """One object's status, as it ought to be."""

    watch: Watch
    item: Object
    status: Mapping[str, Any]


class Reporter:
    """`ask` from any thread; `look` on the planning thread. Writes on a thread of its own."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        again: Callable[[Iterable[Owner]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kubernetes, self._again, self._clock = kubernetes, again, clock
        self._lock = threading.Lock()
        self._next = float("-inf")
        self._timed = self._asked = self._writing = self._needed = False
        self._answers: dict[tuple[Watch, str], Object] = {}

    def ask(self) -> None:
        """Something changed: a look is due, soon."""
        with self._lock:
            if self._timed or not self._needed:
                return
            self._timed = True
            wait = max(0.0, self._next - self._clock())
        _later(wait, self._fire)

    def look(self, configured: Configured, ledger: Ledger, scope: Scope) -> None:
        """A look is under way. Report what it sees, if it is the one that was asked for; else ask."""
        answers = scope.owners is not None and SHARED in scope.owners
        with self._lock:
            self._needed = any(True for _ in _objects(configured))
            granted = answers and self._asked and not self._writing
            # A look at everybody takes all wishes with it.
            self._asked = self._asked and not answers and scope.owners is not None
            self._writing = self._writing or granted
        if not granted:
            self.ask()
            return
        reports = [report for report in _reports(configured, ledger, scope.at) if self._is_news(report)]
        _later(0.0, lambda: self._write(reports))

    def _fire(self) -> None:
        with self._lock:
            self._timed, self._asked = False, True
            self._next = self._clock() + HASTE
        self._again((SHARED,))

    def _is_news(self, report: Report) -> bool:
        """Is it other than what is there, or was written a moment ago?"""
        known = self._answers.get((report.watch, report.item.name))
        newer = known is not None and known.uid == report.item.uid and _number(known) > _number(report.item)
        return (known.status if known is not None and newer else report.item.status) != report.status

    def _write(self, reports: Iterable[Report]) -> None:
        failed: list[str] = []
        try:
            failed += (error for report in reports if (error := self._write_one(report)))
        finally:
            with self._lock:
                self._writing = False
                if failed:
                    self._next = self._clock() + PATIENCE
        if failed:
            log.warning("the usage of pools could not be reported", extra={"error": failed[0], "pools": len(failed)})
            self.ask()

    def _write_one(self, report: Report) -> str:
        """Why it could not be written, "" if it was. Of an object that is gone there is nothing to report."""
        try:
            answer = self._kubernetes.patch(report.watch, report.item.name, _patch(report), subresource="status")
        except LbctlError as error:
            return "" if error.reason == "NotFound" else error.message
        self._answers[report.watch, report.item.name] = answer
        return ""


def _objects(configured: Configured) -> Iterator[tuple[Watch, Object]]:
    """What has a status of ours."""
    for watch in (crds.ADDRESS_POOLS, crds.L2_ADVERTISEMENTS):
        yield from ((watch, item) for item in configured.objects(watch))


def _reports(configured: Configured, ledger: Ledger, now: datetime) -> Iterator[Report]:
    problems, usage = configured.supply.problems, ledger.book.usage(now)
    for watch, item in _objects(configured):
        if watch == crds.ADDRESS_POOLS:
            released = ledger.releases.get(item.name, ())
            yield Report(watch, item, crds.pool_status(item, usage.get(item.name), released, problems, now))
        else:
            yield Report(watch, item, crds.advertisement_status(item, problems, now))


def _patch(report: Report) -> dict[str, Any]:
    """A merge patch: what is there no more is said to be gone."""
    gone = dict.fromkeys(report.item.status.keys() - report.status.keys())
    return {"status": {**gone, **report.status}}


def _number(item: Object) -> int:
    return int(item.version) if item.version.isdecimal() else 0


def _later(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
