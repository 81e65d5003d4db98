"""What the process tells of itself: logs and metrics.

The command line and the daemon call it. Providers know nothing of it: they are watched from outside, by a decorator
(`Measured`), by their `on_call` observer (`Calls`, `Metrics.call`), and by the controller's listener. Metric names that
every Kubernetes dashboard knows (`workqueue_*`, `rest_client_requests_total`, `leader_election_master_status`) are kept
word for word. `prometheus_client` is imported when the first `Metrics` is made, and its page writer, which brings a web
server and more, when somebody reads the first page. `probes` serves it.
"""

import json
import logging
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, TextIO

import msgspec

from lbctl import __version__
from lbctl.apply import Result
from lbctl.errors import LbctlError, Retry
from lbctl.kube.postponed import postponed
from lbctl.model import Ingress, LoadBalancer, Owner, Resource
from lbctl.plan import Change, Plan
from lbctl.provider import Call, Desired, Observation, Provider, Scope
from lbctl.render import for_terminal, line

# ── logs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
MASK = "********"

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_NAME = re.compile(r"secret|password|token|credential|private_?key|authorization", re.IGNORECASE)
_SECRETS = re.compile(
    r"(?P<keep>\b(?:Bearer|Basic)\s+)[\w.~+/=-]{8,}"
    r"|(?P<named>(?:secret|password|token|signature)[\w-]*[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]{4,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    re.IGNORECASE,
)


_HINTS = ("bearer", "basic", "secret", "password", "token", "signature", "akia", "asia")
"""Without one of these words the pattern finds nothing, and nearly no text has one."""


def redacted(text: str) -> str:
    """The text without what looks like a credential."""
    if _innocent(text):
        return text
    return _SECRETS.sub(lambda match: (match["keep"] or match["named"] or "") + MASK, text)


def _innocent(text: str) -> bool:
    """Can nothing of it look like a credential?"""
    if not text.isascii():
        return False
    small = text.lower()
    for hint in _HINTS:  # noqa: SIM110 (a line of a log passes here: `any` and its generator take twice as long)
        if hint in small:
            return False
    return True


def _fields(record: logging.LogRecord, plain: Callable[[Any], Any]) -> dict[str, Any]:
    own = ((name, item) for name, item in vars(record).items() if name not in _USUAL)
    return {name: MASK if _is_secret(name) else plain(item) for name, item in own}


@cache
def _is_secret(name: str) -> bool:
    """Names of fields are few: they are written in the code."""
    return _SECRET_NAME.search(name) is not None


_PLAIN = (int, float, type(None))


def _plain(item: Any) -> Any:
    return item if isinstance(item, _PLAIN) else str(item)


def _safe(item: Any) -> Any:
    return item if isinstance(item, _PLAIN) else redacted(str(item))


def _json(said: Mapping[str, Any]) -> str:
    """In one line and in ASCII alone, whoever reads it."""
    text = _quickly(said)
    return text if text and text.isascii() else json.dumps(said, default=str, separators=(",", ":"))


def _quickly(said: Mapping[str, Any]) -> str:
    """In one line; empty for numbers beyond 64 bits, and bytes of a path that are no text."""
    try:
        return msgspec.json.encode(said, enc_hook=str).decode()
    except (OverflowError, UnicodeEncodeError):
        return ""


class JsonLines(logging.Formatter):
    """One JSON object per line: ts, level, msg, then the fields; ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        text = _quickly(self._said(record, _plain))
        # One look at the whole line instead of one at each part of it.
        return text if text and _innocent(text) else _json(self._said(record, _safe))

    def _said(self, record: logging.LogRecord, plain: Callable[[Any], Any]) -> dict[str, Any]:
        seconds, rest = divmod(record.created, 1)
        at = f"{_second(seconds)}.{int(rest * 1000):03}+00:00"
        said = {"ts": at, "level": record.levelname.lower(), "msg": plain(record.getMessage())}
        said |= _fields(record, plain)
        if record.exc_info:
            said["err"] = plain(self.formatException(record.exc_info))
        return said


@lru_cache(2)
def _second(seconds: float) -> str:
    """In a rush a hundred lines are of the same second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class Lines(logging.StreamHandler[TextIO]):
    """Writes each record whole, and lets no thread wait for another's writing.

    Whoever comes while somebody writes leaves its line with that one. Under the usual lock, sixteen threads that log
    one line each stand in line for it, and each for the interpreter's besides.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._left: deque[str] = deque()
        self._pen = threading.Lock()

    def handle(self, record: logging.LogRecord) -> bool:
        """Called by `logging`. True: it is (or is about to be) written."""
        if not self.filter(record):
            return False
        try:
            self._left.append(self.format(record) + self.terminator)
            while self._left and self._pen.acquire(blocking=False):
                try:
                    self._write()
                finally:
                    self._pen.release()
        except Exception:  # noqa: BLE001
            self.handleError(record)
        return True

    def _write(self) -> None:
        while self._left:
            self.stream.write("".join(self._left.popleft() for _ in range(len(self._left))))
        self.stream.flush()


class TextLines(logging.Formatter):
    """One line for people: time, level, message, name=value; every value escaped for the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = "".join(f"  {name}={for_terminal(str(item))}" for name, item in _fields(record, _safe).items())
        said = f"{at} {record.levelname.lower():7} {for_terminal(redacted(record.getMessage()))}{fields}"
        trace = redacted(self.formatException(record.exc_info)).split("\n") if record.exc_info else []
        return "\n".join([said, *(line(row, 2) for row in trace)])


def configure_logging(form: str, level: str, stream: TextIO) -> None:
    """Log to this stream from now on. `auto` is text on a terminal and JSON elsewhere."""
    handler = Lines(stream)
    as_text = form == "text" or (form == "auto" and stream.isatty())
    handler.setFormatter(TextLines() if as_text else JsonLines())
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    # Nothing of this is in our lines, and it is half of what one costs (Python's logging HOWTO, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # These speak of every request at INFO or DEBUG, credentials' names included.
    for chatty in ("urllib3", "botocore", "boto3", "kubernetes", "asyncio", "aiohttp", "werkzeug", "moto"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


# ── API calls ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Calls:
    """Counts API calls that were answered, or given up, by service. An `on_call` observer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def __call__(self, call: Call) -> None:
        if call.code is not None:
            with self._lock:
                self._counts[call.service] += 1

    def by_service(self) -> dict[str, int]:
        """How many, by service."""
        with self._lock:
            return dict(sorted(self._counts.items()))


# ── metrics ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LATENCY = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
WAITING = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """Every metric of one process, in a registry of its own. Safe to use from several threads."""

    def __init__(self) -> None:
        _import_prometheus()
        import prometheus_client.core as client
        from prometheus_client.metrics import disable_created_metrics
        from prometheus_client.platform_collector import PlatformCollector
        from prometheus_client.process_collector import ProcessCollector

        # Otherwise every counter gets a twin that says since when it counts.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = client.CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Any:
            return _at_hand(client.Counter(name, text, labels, registry=registry))

        def gauge(name: str, text: str, *labels: str) -> Any:
            return _at_hand(client.Gauge(name, text, labels, registry=registry))

        def histogram(name: str, text: str, *labels: str, buckets: Sequence[float] = LATENCY) -> Any:
            return _at_hand(client.Histogram(name, text, labels, registry=registry, buckets=buckets))

        gauge("lbctl_build_info", "Always 1; the version is the label.", "version").labels(__version__).set(1)
        self.reconciles = counter("lbctl_reconcile_total", "Passes and lanes that ended.", "provider", "result")
        self.stages = histogram("lbctl_reconcile_duration_seconds", "How long a stage took.", "provider", "stage")
        self.first_address = histogram(
            "lbctl_time_to_external_ip_seconds", "From a Service's creation to its first address.", "provider",
            buckets=WAITING,
        )  # fmt: skip
        self.services = gauge("lbctl_services", "Services by state.", "provider", "state")
        self.requests = counter(
            "lbctl_provider_api_requests_total", "Calls of a provider's API.", "provider", "operation", "code"
        )
        self.latency = histogram(
            "lbctl_provider_api_duration_seconds", "How long calls took.", "provider", "operation"
        )
        self.throttled = counter("lbctl_provider_api_throttled_total", "Calls told to slow down.", "provider")
        self.synced = gauge(
            "lbctl_last_successful_sync_timestamp_seconds", "When everything was read afresh last.", "provider"
        )
        self.drift = gauge("lbctl_drift_resources", "What an audit found changed by somebody else.", "provider")
        self.frozen = gauge("lbctl_frozen_deletes", "Deletes held back by a safety limit.", "provider")
        self.config = gauge("lbctl_config_loaded", "1 if the provider's settings are complete.", "provider")
        self.kubernetes = counter("rest_client_requests_total", "Calls of Kubernetes.", "code", "method", "host")
        self.leader = gauge("leader_election_master_status", "1 for the leader.", "name")
        self.depth = gauge("workqueue_depth", "Services being worked on.", "name")
        self.adds = counter("workqueue_adds_total", "Services taken up.", "name")
        self.retries = counter("workqueue_retries_total", "Services to be tried again.", "name")
        self.work = histogram("workqueue_work_duration_seconds", "How long a Service was worked on.", "name")

    def text(self) -> bytes:
        """The Prometheus exposition format."""
        from prometheus_client.exposition import generate_latest

        return generate_latest(self.registry)

    def call(self, provider: str) -> Callable[[Call], None]:
        """An `on_call` observer for a provider."""

        def observe(call: Call) -> None:
            if call.code is None:
                return
            operation = f"{call.service}:{call.operation}"
            self.requests.labels(provider, operation, call.code).inc()
            self.latency.labels(provider, operation).observe(call.seconds)
            if "throttl" in call.code.lower() or call.code in ("RequestLimitExceeded", "429"):
                self.throttled.labels(provider).inc()

        return observe

    def kubernetes_call(self, host: str) -> Callable[[Call], None]:
        """The same for the Kubernetes client."""

        def observe(call: Call) -> None:
            if call.code is not None:
                code = "200" if call.code == "ok" else call.code
                self.kubernetes.labels(code, call.operation.upper(), host).inc()

        return observe

    def listener(self, provider: str, created: Callable[[Owner], datetime | None]) -> "Watching":
        """What the provider's controller tells."""
        return Watching(self, provider, created)


def _import_prometheus() -> None:
    """Without its page writer; whole, should a release be built in another way."""
    with suppress(ImportError), postponed("prometheus_client"):
        # `metrics` asks the package for `values`: were it not there, the package would have to run.
        import_module("prometheus_client.values")
        import_module("prometheus_client.metrics")


def _at_hand(metric: Any) -> Any:
    """With its children at hand: there are few, and to look one up costs more than to count."""
    metric.labels = cache(metric.labels)
    return metric


class Watching:
    """A controller's listener that keeps the metrics. `created` knows when a Service came to be."""

    def __init__(self, metrics: Metrics, provider: str, created: Callable[[Owner], datetime | None]) -> None:
        self._metrics, self._provider, self._created = metrics, provider, created
        self._lock = threading.Lock()
        self._started: dict[Owner, float] = {}
        self._audited = False

    def planned(self, plan: Plan, *, audit: bool, seconds: float) -> None:
        metrics, name = self._metrics, self._provider
        metrics.stages.labels(name, "plan").observe(seconds)
        metrics.reconciles.labels(name, "planned").inc()
        if audit:
            # A look at a few owners knows nothing of what is frozen elsewhere.
            metrics.frozen.labels(name).set(len(plan.frozen))
            # The first look finds work that is nobody's doing.
            metrics.drift.labels(name).set(_drifted(plan) if self._audited else 0)
            metrics.synced.labels(name).set(time.time())
            self._audited = True
        with self._lock:
            taken = [owner for owner in plan.lanes() if owner not in self._started]
            self._started.update(dict.fromkeys(taken, time.monotonic()))
            metrics.depth.labels(name).set(len(self._started))
        metrics.adds.labels(name).inc(len(taken))

    def landed(self, result: Result) -> None:
        metrics, name = self._metrics, self._provider
        metrics.reconciles.labels(name, result.outcome).inc()
        if result.outcome != "done":
            metrics.retries.labels(name).inc()
        with self._lock:
            since = self._started.pop(result.owner, None)
            metrics.depth.labels(name).set(len(self._started))
        if since is not None:
            metrics.work.labels(name).observe(time.monotonic() - since)
        self._first_address(result)

    def interrupted(self, error: Exception) -> None:
        reason = error.reason if isinstance(error, LbctlError) else "plugin-fault"
        self._metrics.reconciles.labels(self._provider, "interrupted").inc()
        if isinstance(error, Retry) and reason == "throttled":
            self._metrics.throttled.labels(self._provider).inc()

    def _first_address(self, result: Result) -> None:
        created = self._created(result.owner)
        if created is not None and any(map(_is_first_address, result.applied)):
            waited = (datetime.now(UTC) - created).total_seconds()
            self._metrics.first_address.labels(self._provider).observe(waited)


def _drifted(plan: Plan) -> int:
    return sum(change.kind not in ("claim", "status") for change in plan.changes)


def _is_first_address(step: Change) -> bool:
    if step.kind != "status" or step.after is None:
        return False
    return bool(step.after.fields.get("ingress")) and not (step.before and step.before.fields.get("ingress"))


class Measured:
    """A provider whose questions and orders are timed: `wrap` of `daemon.Desk`."""

    def __init__(self, provider: Provider, metrics: Metrics) -> None:
        self._provider, self._metrics = provider, metrics
        self.name, self.kinds, self.claims = provider.name, provider.kinds, provider.claims

    def observe(self, scope: Scope) -> Observation:
        with self._metrics.stages.labels(self.name, "observe").time():
            return self._provider.observe(scope)

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        with self._metrics.stages.labels(self.name, "desired").time():
            return self._provider.desired(load_balancers, seen)

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        return self._provider.shares(load_balancer)

    def adopts(self, status: Sequence[Ingress]) -> bool:
        return self._provider.adopts(status)

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        with self._metrics.stages.labels(self.name, "apply").time():
            return self._provider.apply(changes)
