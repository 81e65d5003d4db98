"""What the controller tells of announcing: that nobody can, that a stranger answers, too.

The speakers say what they see in their node Leases; here it becomes notes, and those become conditions. Whether anybody
may announce follows from the same election that the speakers hold, so a Service hears it with its address already.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from lbctl.cluster import Kubernetes, Object
from lbctl.model import DEGRADED, SERVING, IPAddress, Node, Note, Owner
from lbctl.provider import Scope
from lbctl_l2 import election, leases, members
from lbctl_l2.crds import Problem, Supply
from lbctl_l2.election import Claim, Roll, Verdict
from lbctl_l2.leases import Facts, Said
from lbctl_l2.pool import Outcome

HASTE = 2.0
"""Seconds that news of speakers are collected before everybody is looked at again."""
RECENT = 600
"""Seconds that a conflict is told after it was seen last."""
NAMED = 5

PODS = ("no-endpoint", "no-local-endpoint")
"""Why nobody announces, where it is a matter of pods: that is said of every Service already."""


class Announcing:
    """Silent where lbctl's own namespace is not known: without a cluster nobody announces anything."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        settings: Mapping[str, str],
        again: Callable[[Iterable[Owner] | None], None],
    ) -> None:
        self._kubernetes, self._again = kubernetes, again
        self._watch = leases.watch(settings["home"]) if settings.get("home") else None
        self._lock = threading.Lock()
        self._timed = False
        self._stale = True
        self._seen: tuple[Supply, tuple[Node, ...]] | None = None
        self._said: Mapping[str, Said] = {}
        self._roll = Roll((), (), str)
        self._verdicts: dict[object, str] = {}
        self._surely: Mapping[IPAddress, str] = {}
        if self._watch is not None:
            kubernetes.follow(self._watch, self._hear)

    def notes(
        self, scope: Scope, outcomes: Mapping[Owner, Outcome], supply: Supply, nodes: tuple[Node, ...]
    ) -> Iterator[Note]:
        """What to tell the Services in scope of their addresses."""
        if self._watch is None:
            return
        self._read(scope, supply, nodes)
        troubles = self._troubles(scope.at)
        for load_balancer in scope.load_balancers:
            outcome = outcomes.get(load_balancer.owner, _NOTHING)
            for address, pool in zip(outcome.addresses, outcome.pools, strict=True):
                if address not in self._surely and (why := self._judged(election.claim(load_balancer, address), pool)):
                    message = f"nobody announces {address}: {why}"
                    yield Note(load_balancer.owner, SERVING, "no-announcer", message)
                for trouble in troubles.get(address, ()):
                    yield Note(load_balancer.owner, DEGRADED, *trouble)

    # -- who may ------------------------------------------------------------------------------------------------

    def _read(self, scope: Scope, supply: Supply, nodes: tuple[Node, ...]) -> None:
        """The election's ground, if it is another one. That a Lease ran out nobody tells: full looks see it."""
        around = (supply, nodes)
        if not self._stale and scope.owners is not None and self._seen is not None and _same(self._seen, around):
            return
        self._stale, self._seen = False, around
        self._verdicts = {}
        assert self._watch is not None
        self._said = members.said(self._kubernetes.objects(self._watch))
        facts = next((item.facts for item in self._said.values()), Facts(""))
        found = members.members(nodes, self._said, members.by_clock(scope.at), "none", ())
        self._roll = Roll(found, supply.advertisements, supply.pool_of, facts.ignores_exclusion)
        # Of what cannot be read the speakers may know a good version that this controller has never seen.
        living = (member for member in found if member.alive)
        self._surely = election.holders(living) if any(map(_is_unreadable, supply.problems)) else {}
        self._networks = sorted({n for m in found for link in m.links or () for n in link.networks}, key=str)

    def _judged(self, claim: Claim, pool: str) -> str:
        """Each node's reason, if there is nobody who may announce it, else "". Claims to a pool's addresses that nobody
        can tell apart are judged once."""
        labels = dict(claim.labels)
        adverts = tuple([advert.serves(pool) and advert.admits(labels) for advert in self._roll.adverts])
        near = tuple([claim.address in network for network in self._networks])
        key = (pool, adverts, near, claim.served, claim.endpoints if claim.local else None)
        if key not in self._verdicts:
            self._verdicts[key] = _nobody(election.verdicts((claim,), self._roll))
        return self._verdicts[key]

    # -- what speakers complain of ------------------------------------------------------------------------------

    def _troubles(self, now: datetime) -> Mapping[IPAddress, list[tuple[str, str]]]:
        """By address: a reason and a sentence."""
        found: dict[IPAddress, list[tuple[str, str]]] = {}
        for node, item in sorted(self._said.items()):
            for text, reason, message in _complaints(node, item.facts, now):
                if (address := election.address(text)) is not None:
                    found.setdefault(address, []).append((reason, message))
        return found

    def _hear(self, before: Object | None, now: Object | None) -> None:
        if _matter(before) == _matter(now):
            return
        self._stale = True
        with self._lock:
            if self._timed:
                return
            self._timed = True
        timer = threading.Timer(HASTE, self._fire)
        timer.daemon = True
        timer.start()

    def _fire(self) -> None:
        with self._lock:
            self._timed = False
        self._again(None)


def _is_unreadable(problem: Problem) -> bool:
    return not problem.served and problem.reason in ("invalid-pool", "overlapping-pool", "invalid-advertisement")


def _same(one: tuple[Supply, tuple[Node, ...]], other: tuple[Supply, tuple[Node, ...]]) -> bool:
    return one[0] is other[0] and one[1] is other[1]


def _matter(lease: Object | None) -> object:
    """All of a speaker's Lease that conditions can follow from."""
    said = leases.decode(lease) if lease is not None else None
    if said is None:
        return None
    facts = said.facts
    conflicts = frozenset((c.address, c.mac, c.link) for c in facts.conflicts)
    return said.held, facts.links, conflicts, facts.problems, facts.ignores_exclusion, facts.last_good


def _complaints(node: str, facts: Facts, now: datetime) -> Iterator[tuple[str, str, str]]:
    """(address, reason, sentence)."""
    for conflict in facts.conflicts:
        if now.timestamp() - conflict.last < RECENT:
            yield conflict.address, "address-conflict", (
                f"{conflict.mac} answers for {conflict.address}, too, on {conflict.link} of {node}: find that host, or "
                "take the address out of the pool"
            )
    for problem in facts.problems:
        if problem.address:
            yield problem.address, problem.reason, f"{node}: {problem.message}"


_NOTHING = Outcome(Owner(""))


def _nobody(verdicts: Sequence[Verdict]) -> str:
    """Why nobody may; "" if somebody may, or would with other pods."""
    reasons = {verdict.reason for verdict in verdicts}
    return "" if reasons & {"", *PODS} else _why(verdicts)


def _why(verdicts: Iterable[Verdict]) -> str:
    """Each reason once, with the nodes that it holds for."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        nodes.setdefault((verdict.reason, verdict.message), []).append(verdict.node)
    said = (f"{_named(names)}: {reason}: {message}" for (reason, message), names in sorted(nodes.items()))
    return "; ".join(said) or "there is no node"


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
