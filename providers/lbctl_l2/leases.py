"""A node's Lease: that its speaker lives, what everybody must know of the node, and what it announces.

One Lease per node, `lbctl-speaker-<node>` in lbctl's own namespace, nothing per Service. Speakers write their own and
read everybody's; the controller makes conditions of them, the command line shows them. Two annotations:

    lbctl.io/speaker     JSON of `Facts`
    lbctl.io/announcing  JSON object: address → since, in whole seconds since the epoch; at most `MOST` bytes

`since` also orders takeovers: who begins says a time after the one that was known, so that wrong clocks decide nothing.
A speaker that leaves in good order gives its Lease back (no holder) but leaves the annotations: they say who comes
next. Whether a Lease has run out is judged by when *we* saw it change last (`Observed`), and only as long as we reach
the API server ourselves: in an outage nobody looks dead.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Literal

import msgspec

from lbctl.cluster import Kubernetes, Object, Watch
from lbctl.errors import LbctlError
from lbctl.model import IPAddress
from lbctl_l2.values import IPNetwork, revive

SPEAKER, ANNOUNCING = "lbctl.io/speaker", "lbctl.io/announcing"
PREFIX = "lbctl-speaker-"
LABELS = {"app.kubernetes.io/part-of": "lbctl", "app.kubernetes.io/component": "speaker"}

LASTS = 40
"""Seconds that a Lease holds without being renewed."""
RENEWED = 10.0
"""Seconds between two renewals."""
FORGOTTEN = 600.0
"""Seconds after which a silent speaker is off the roll, though its Lease is still there. If its node has left the
cluster, the Lease is deleted then."""

MOST = 150_000
"""Bytes of one annotation, at most: the API server takes 256 KiB for all of them together."""
CONFLICTS = 16
PROBLEMS = 16
LINKS = 64


DrainOn = Literal["cordon", "drain", "none"]
"""When a node hands its addresses over though it lives: as soon as it is cordoned; when it is cordoned and no endpoint
of our Services is left there; never."""


# ── what is said ──────────────────────────────────────────────────────────────────────────────────────────────────────


class SaidLink(msgspec.Struct, frozen=True, omit_defaults=True):
    """An interface that can announce: up, with a carrier. `mac` in hexadecimal with colons."""

    name: str
    mac: str
    networks: tuple[IPNetwork, ...] = ()


class SaidConflict(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody who is no speaker claims an address. `last` in seconds since the epoch."""

    address: str
    mac: str
    link: str
    last: int
    count: int = 1


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that is wrong with the node, or keeps it from announcing one address: a token and a sentence."""

    reason: str
    message: str
    address: str = ""


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a speaker says of its node.

    started            seconds since the epoch
    settled            it has been there for a while, and may be given addresses
    founds             it began when nobody was there before it, not long ago
    gives              address → node: the holder wants that node to take the address over
    last_good          pool or advertisement that cannot be read → the generation that is served there, 0 for none
    drain_on           when it counts a node as draining
    ignores_exclusion  whether it counts the label that excludes nodes for nothing
    """

    node: str
    started: int = 0
    settled: bool = False
    founds: bool = False
    links: tuple[SaidLink, ...] = ()
    gives: Mapping[str, str] = {}
    last_good: Mapping[str, int] = {}
    conflicts: tuple[SaidConflict, ...] = ()
    problems: tuple[Problem, ...] = ()
    drain_on: DrainOn = "drain"
    ignores_exclusion: bool = False


class Said(msgspec.Struct, frozen=True):
    """One Lease, read. `held` is False once it was given back."""

    facts: Facts
    announcing: Mapping[IPAddress, int] = {}
    held: bool = True
    renewed: datetime | None = None


_ENCODER = msgspec.json.Encoder(enc_hook=str, order="deterministic")
_FACTS = msgspec.json.Decoder(Facts, dec_hook=revive)
_ANNOUNCING = msgspec.json.Decoder(dict[str, int])


def encode(facts: Facts, announcing: Mapping[IPAddress, int]) -> dict[str, str]:
    """The annotations. What is too much is left out: the newest announcements, all but a few conflicts."""
    bounded = msgspec.structs.replace(
        facts, conflicts=facts.conflicts[-CONFLICTS:], problems=facts.problems[:PROBLEMS], links=facts.links[:LINKS]
    )
    return {SPEAKER: _ENCODER.encode(bounded).decode(), ANNOUNCING: _listed(announcing)}


def _listed(announcing: Mapping[IPAddress, int]) -> str:
    kept: dict[str, int] = {}
    room = MOST
    for address, since in sorted(announcing.items(), key=lambda item: (item[1], str(item[0]))):
        room -= len(str(address)) + 16
        if room < 0:
            break
        kept[str(address)] = since
    return _ENCODER.encode(kept).decode()


def decode(lease: Object) -> Said | None:
    """What a Lease says; None if it is no speaker's, or cannot be read."""
    try:
        facts = _FACTS.decode(lease.annotations.get(SPEAKER, ""))
        for text in facts.gives:
            ip_address(text)
        listed = _ANNOUNCING.decode(lease.annotations.get(ANNOUNCING, "{}"))
        announcing = {ip_address(text): since for text, since in listed.items()}
        for link in facts.links:
            read(link.mac)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return with_spec(Said(facts, announcing), lease)


def with_spec(said: Said, lease: Object) -> Said:
    """The same, with what the Lease itself says: whether it is held, and when it was renewed."""
    held, renewed = bool(_holder(lease)), _moment(lease.spec.get("renewTime"))
    return msgspec.structs.replace(said, held=held, renewed=renewed)


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def watch(home: str) -> Watch:
    """All speakers' Leases, and no others: the controller's own changes every two seconds."""
    selector = ",".join(f"{key}={value}" for key, value in LABELS.items())
    return Watch("leases", "coordination.k8s.io", "v1", home, selector)


def name(node: str) -> str:
    """The Lease of a node. A node's name may be too long for it: then its end is a digest."""
    whole = f"{PREFIX}{node}"
    return whole if len(whole) <= 253 else f"{whole[:220]}-{hashlib.sha256(node.encode()).hexdigest()[:16]}"


def is_news(before: Object | None, now: Object | None) -> bool:
    """Does a change say more than that the speaker lives?"""
    if before is None or now is None:
        return True
    return before.annotations != now.annotations or _holder(before) != _holder(now)


def _holder(lease: Object) -> object:
    return lease.spec.get("holderIdentity")


def fresh(said: Said, now: datetime) -> bool:
    """Whether a Lease holds by the clocks: for who looks only once (the command line)."""
    return said.held and said.renewed is not None and (now - said.renewed).total_seconds() < LASTS


# ── who lives ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def abandoned(lease: Object, kept: frozenset[str], observed: "Observed") -> bool:
    """Whether it is the Lease of a node that has left the cluster, and nobody renewed it for long.

    `kept`: the names of the Leases of nodes that are there. What no speaker wrote is none of our business.
    """
    if lease.name in kept or lease.deleting or (said := decode(lease)) is None:
        return False
    return lease.name == name(said.facts.node) and observed.age(said.facts.node) >= FORGOTTEN


class Observed:
    """How long ago each speaker renewed its Lease, by our own clock, in seconds in which we reached the API server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[str, float]] = {}
        self._reached = float("-inf")

    def note(self, node: str, version: str, now: float) -> None:
        """The node's Lease is in this version."""
        with self._lock:
            if self._seen.get(node, ("", 0.0))[0] != version:
                self._seen[node] = (version, now)

    def reached(self, now: float) -> None:
        """The API server took our own renewal. After an outage everybody gets the time to be seen again."""
        with self._lock:
            if now - self._reached > 2 * RENEWED:
                self._seen = {node: (version, now) for node, (version, _) in self._seen.items()}
            self._reached = now

    def forget(self, node: str) -> None:
        """Its Lease is gone."""
        with self._lock:
            self._seen.pop(node, None)

    def age(self, node: str) -> float:
        """Seconds; infinite for a node without a Lease."""
        known = self._seen.get(node)
        return float("inf") if known is None else max(0.0, self._reached - known[1])


# ── our own ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Lease:
    """This node's Lease. One write per call, and only what is new travels. Not thread-safe."""

    def __init__(self, kubernetes: Kubernetes, node: str, now: Callable[[], datetime]) -> None:
        self._kubernetes, self._node, self._now = kubernetes, node, now
        self._written: Mapping[str, str] = {}
        self._there = False

    def renew(self, annotations: Mapping[str, str]) -> None:
        """Says that we live, and what changed. Raises what the API server says."""
        changed = {key: value for key, value in annotations.items() if self._written.get(key) != value}
        try:
            self._patch(changed if self._there else dict(annotations), self._spec())
        except LbctlError as error:
            if error.reason != "NotFound":
                # Whether it was written is unknown: all of it is said again.
                self._there = False
                raise
            self._create(annotations)
        self._written, self._there = dict(annotations), True

    def release(self) -> None:
        """Gives it back: this speaker has handed over. Raises what the API server says."""
        if self._there:
            self._patch({}, {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro(self._now())})
            self._there = False

    def _patch(self, annotations: Mapping[str, str], spec: Mapping[str, Any]) -> None:
        metadata = {"annotations": annotations, **({} if self._there else {"labels": LABELS})} if annotations else {}
        body = {"spec": spec, **({"metadata": metadata} if metadata else {})}
        kubernetes = self._kubernetes
        kubernetes.patch(watch(kubernetes.home), name(self._node), body, kubernetes.home)

    def _create(self, annotations: Mapping[str, str]) -> None:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name(self._node), "labels": LABELS, "annotations": dict(annotations)},
            "spec": {**self._spec(), "acquireTime": micro(self._now())},
        }
        kubernetes = self._kubernetes
        kubernetes.create(watch(kubernetes.home), body, kubernetes.home)

    def _spec(self) -> dict[str, Any]:
        return {"holderIdentity": self._node, "leaseDurationSeconds": LASTS, "renewTime": micro(self._now())}


def micro(moment: datetime) -> str:
    """RFC 3339 with microseconds, as Kubernetes' MicroTime."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def written(mac: bytes) -> str:
    """A MAC as people write it."""
    return mac.hex(":")


def read(mac: str) -> bytes:
    """The MAC again. Raises ValueError."""
    return bytes.fromhex(mac.replace(":", ""))


