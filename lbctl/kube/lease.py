"""Who may write: a Lease in the cluster, held by one at a time, to client-go's rules.

15 s long, to be renewed within 10 s, tried every 2 s. Whether somebody else's Lease has run out is judged by when *we*
saw it change last, never by the times written in it: clocks differ. A leader that could not renew for 10 s writes no
more (`may_write`, by the monotonic clock, asked before every write) and its process ends: nothing fences a late write,
so there must be none. A clean exit gives the Lease back, and the next leader starts at once.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from lbctl.errors import LbctlError
from lbctl.kube.client import Client, Conflict, NotFound
from lbctl.kube.objects import UNREADABLE, Lease, LeaseSpec, Resource

log = logging.getLogger(__name__)

_LEASES: Resource[Any] = Resource("leases", Lease, group="coordination.k8s.io")
_DECODER = msgspec.json.Decoder(Lease)


class Terms(msgspec.Struct, frozen=True):
    """In seconds: how long a Lease holds, within what time a leader must renew it, and how often it is tried."""

    lease: float = 15.0
    renew: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease > self.renew > 1.2 * self.retry > 0:
            raise ValueError(f"lease {self.lease} > renew {self.renew} > 1.2 × retry {self.retry} must hold")


USUAL = Terms()


class Leases:
    """Leases of one namespace: get, create, update. Metadata that we do not know of survives an update."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self.namespace = client, namespace

    def get(self, name: str, timeout: float | None = None) -> Lease | None:
        """The Lease, or None where there is none."""
        try:
            return _decoded(self._client.request("GET", self._path(name), timeout=timeout))
        except NotFound:
            return None

    def create(self, name: str, lease: Lease, timeout: float | None = None) -> Lease:
        """Raises `Conflict` where there is one already."""
        return self._write("POST", self._path(), name, lease, timeout)

    def update(self, name: str, lease: Lease, timeout: float | None = None) -> Lease:
        """Raises `Conflict` where somebody wrote it after it was read."""
        return self._write("PUT", self._path(name), name, lease, timeout)

    def _path(self, name: str = "") -> str:
        return _LEASES.path(self.namespace, name)

    def _write(self, method: str, path: str, name: str, lease: Lease, timeout: float | None) -> Lease:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {**lease.metadata, "name": name, "namespace": self.namespace},
            "spec": lease.spec,
        }
        return _decoded(self._client.request(method, path, body, timeout=timeout))


def _decoded(answer: bytes) -> Lease:
    try:
        return _DECODER.decode(answer)
    except UNREADABLE as why:
        raise LbctlError(f"the API server's answer is no Lease: {why}", reason="bad-lease") from why


def micro(moment: datetime) -> str:
    """RFC 3339 with microseconds, as Kubernetes' `metav1.MicroTime`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Elector:
    """Tries for one Lease until `stop`, and says at every moment whether it is ours.

    on_started   called once, on the elector's thread, when the Lease became ours
    on_lost      called once when it is lost without our will: the process must end now
    on_leader    told of each holder that is seen, ourselves included
    """

    def __init__(
        self,
        leases: Leases,
        name: str,
        identity: str,
        *,
        terms: Terms = USUAL,
        on_started: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
        on_leader: Callable[[str], None] = lambda _holder: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._leases, self._name, self.identity, self._terms = leases, name, identity, terms
        self._on_started, self._on_lost, self._on_leader = on_started, on_lost, on_leader
        self._clock, self._now, self._chance = clock, now, chance
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: Lease | None = None
        self._seen_at = 0.0
        self._renewed: float | None = None
        self._told = ""
        self.leading = threading.Event()
        """Set while the Lease is ours."""

    # -- asked by others ----------------------------------------------------------------------------------------

    def may_write(self) -> bool:
        """Is the Lease certainly still ours? True until `renew` seconds after it was renewed last."""
        renewed = self._renewed
        return renewed is not None and self._clock() < renewed + self._terms.renew

    @property
    def holder(self) -> str:
        """Who holds the Lease, as last seen; an empty string if nobody does, or it has run out."""
        if self._seen is None or self._runs_out() <= self._clock():
            return ""
        return self._seen.spec.holder_identity or ""

    def healthy(self) -> bool:
        """For the watchdog: False if we think that we lead, but renewed longer ago than a Lease and 20 s."""
        renewed = self._renewed
        return renewed is None or self._clock() < renewed + self._terms.lease + 20.0

    # -- its life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="elector", daemon=True)
        self._thread.start()

    def stop(self, *, release: bool = True, timeout: float = 5.0) -> None:
        """End; give the Lease back if it is ours. Call it last, when nothing of ours writes any more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)
        if release and self.may_write():
            self._release()
        self._renewed = None
        self.leading.clear()

    def run(self) -> None:
        """Acquire, then renew; returns when stopped or when the Lease is lost."""
        if not self.acquire():
            return
        self.leading.set()
        self._on_started()
        self._keep()
        if not self._stop.is_set():
            self.leading.clear()
            self._renewed = None
            log.error("the lease is lost", extra={"lease": self._name, "holder": self.holder})
            self._on_lost()

    def acquire(self, within: float | None = None) -> bool:
        """Try until the Lease is ours. False if stopped before, or after `within` seconds."""
        until = None if within is None else self._clock() + within
        while not self._stop.is_set():
            if self.attempt():
                return True
            wait = self._terms.retry * (1 + 1.2 * self._chance())
            if until is not None:
                wait = min(wait, until - self._clock())
                if wait <= 0:
                    return False
            self._stop.wait(wait)
        return False

    def _keep(self) -> None:
        """Renew until stopped, or until `renew` seconds went by without success.

        A process that stood still for longer (SIGSTOP, a suspended machine) has lost the Lease, even if it is free
        again: somebody else may have led meanwhile, and what we remember is of the past.
        """
        while not self._stop.wait(self._terms.retry):
            if not self.may_write() or not (self.attempt() or self.may_write()):
                return

    def attempt(self) -> bool:
        """One try to get or renew the Lease. False if it is another's, or nothing clear was heard."""
        started = self._clock()
        try:
            mine = self._renew() if self.may_write() else self._try()
        except LbctlError as why:
            log.warning("the lease could not be written", extra={"lease": self._name, "error": str(why)})
            return False
        if mine:
            # From before the call: the API server took it in no earlier.
            self._renewed = started
        return mine

    def _renew(self) -> bool:
        """With what we wrote last, in one call; if somebody wrote in between, read first."""
        assert self._seen is not None
        try:
            self._note(self._leases.update(self._name, self._mine(self._seen), self._patience()))
        except (Conflict, NotFound):
            return self._try()
        return True

    def _try(self) -> bool:
        found = self._leases.get(self._name, self._patience())
        try:
            if found is None:
                self._note(self._leases.create(self._name, self._mine(Lease()), self._patience()))
                return True
            self._note(found)
            if self._somebody_elses():
                self._renewed = None
                return False
            self._note(self._leases.update(self._name, self._mine(found), self._patience()))
        except Conflict:
            return False
        return True

    def _somebody_elses(self) -> bool:
        assert self._seen is not None
        holder = self._seen.spec.holder_identity
        return bool(holder) and holder != self.identity and self._clock() < self._runs_out()

    def _runs_out(self) -> float:
        """When the Lease that we saw runs out, unless it changes: by our clock, and its own duration."""
        assert self._seen is not None
        return self._seen_at + (self._seen.spec.lease_duration_seconds or 0)

    def _note(self, lease: Lease) -> None:
        if self._seen is None or self._seen.spec != lease.spec:
            self._seen_at = self._clock()
        self._seen = lease
        holder = lease.spec.holder_identity or ""
        if holder and holder != self._told:
            self._told = holder
            self._on_leader(holder)

    def _mine(self, old: Lease) -> Lease:
        """The old one with our name in it."""
        spec, now = old.spec, micro(self._now())
        again = spec.holder_identity == self.identity
        return Lease(
            old.metadata,
            msgspec.structs.replace(
                spec,
                holder_identity=self.identity,
                lease_duration_seconds=int(self._terms.lease),
                acquire_time=spec.acquire_time if again and spec.acquire_time else now,
                renew_time=now,
                lease_transitions=(spec.lease_transitions or 0) + (0 if again or not old.metadata else 1),
            ),
        )

    def _release(self) -> None:
        """Nobody's, and run out in a second; tried again if somebody annotated it at the same moment."""
        for _ in range(3):
            try:
                lease = self._leases.get(self._name)
                if lease is None or lease.spec.holder_identity != self.identity:
                    return
                now = micro(self._now())
                given = LeaseSpec(
                    holder_identity="", lease_duration_seconds=1, acquire_time=now, renew_time=now,
                    lease_transitions=lease.spec.lease_transitions,
                )  # fmt: skip
                self._leases.update(self._name, Lease(lease.metadata, given))
                return
            except Conflict:
                continue
            except LbctlError as why:
                log.warning("the lease could not be given back", extra={"lease": self._name, "error": str(why)})
                return

    def _patience(self) -> float:
        """How long one call may take: no longer than the Lease is certainly ours, nor than a renewal may take."""
        if self._renewed is None:
            return self._terms.renew
        return max(0.5, self._renewed + self._terms.renew - self._clock())
