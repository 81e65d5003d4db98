"""What a namespace may ask for, and how much one plan may take away.  PURE.

`admit` stands before desired: annotations spend the controller's privileges, so the administrator says which
namespace may name which existing cloud objects. `guard` stands behind the plan: a delete that nobody asked for, only
inferred because something was not seen, stops when there are suspiciously many.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from lbctl.model import REQUESTED, SHARED, LoadBalancer, Owner, Refusal, Scheme
from lbctl.plan import Change, Plan


class NamespaceRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the namespaces that match may ask for. The first rule that matches counts.

    namespaces           names or globs; with `selector`, the namespace's labels must match, too
    schemes              allowed schemes
    annotations          keys (or globs) that name existing cloud objects → allowed values (or globs)
    max_load_balancers   how many; None for any number
    """

    namespaces: tuple[str, ...] = ("*",)
    selector: Mapping[str, str] = {}
    schemes: tuple[Scheme, ...] = ("internal", "internet-facing")
    annotations: Mapping[str, tuple[str, ...]] = {}
    max_load_balancers: int | None = None

    def matches(self, namespace: str, labels: Mapping[str, str]) -> bool:
        named = any(fnmatchcase(namespace, pattern) for pattern in self.namespaces)
        return named and all(labels.get(key) == value for key, value in self.selector.items())


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many owners may lose everything by inference in one plan.

    max_delete      the largest share of the managed owners (0.3 = 30 %), counted once `from_count` are managed
    prune           False keeps whatever is only inferred to be unwanted (one-shot runs without --prune)
    let_through     True lifts the limit for one run: somebody has looked
    """

    max_delete: float = 0.30
    from_count: int = 10
    prune: bool = True
    let_through: bool = False


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The administrator's word.

    privileged   annotation keys that name existing cloud objects → a glob of the values that do (`*` for all): they
                 work only where a rule lists them, unless tenancy is `open`. `REQUESTED` stands for the addresses that
                 a Service asks for, by whichever of the fields and annotations that say them
    """

    tenancy: Literal["closed", "open"] = "closed"
    rules: tuple[NamespaceRule, ...] = ()
    limits: Limits = Limits()
    default_scheme: Scheme = "internet-facing"
    privileged: Mapping[str, str] = {}

    def rule(self, namespace: str, labels: Mapping[str, str]) -> NamespaceRule:
        """The rule for a namespace; where none matches, one that allows what needs no privilege."""
        return next((rule for rule in self.rules if rule.matches(namespace, labels)), NamespaceRule())


def admit(policy: Policy, lb: LoadBalancer, labels: Mapping[str, str], ranking: Sequence[Owner]) -> Refusal | None:
    """Why this load balancer may not be served, or None. `ranking` are its namespace's owners, first come first."""
    rule = policy.rule(lb.namespace, labels)
    return lb.problem or _scheme(policy, rule, lb) or _annotations(policy, rule, lb) or _quota(rule, lb, ranking)


def needs_ranking(policy: Policy) -> bool:
    """Does any rule limit numbers? If not, `admit` never looks at the ranking."""
    return any(rule.max_load_balancers is not None for rule in policy.rules)


def _scheme(policy: Policy, rule: NamespaceRule, lb: LoadBalancer) -> Refusal | None:
    scheme = lb.scheme or policy.default_scheme
    if scheme in rule.schemes:
        return None
    return Refusal(lb.owner, "not-allowed-in-namespace", (
        f"namespace {lb.namespace} may not have {scheme} load balancers, only {' or '.join(rule.schemes) or 'none'}: "
        f"set the annotation lbctl.io/scheme, or ask the administrator for a rule in the policy"
    ))


def _annotations(policy: Policy, rule: NamespaceRule, lb: LoadBalancer) -> Refusal | None:
    for key, value in _said(lb):
        if _is_privileged(policy, key, value) and not _is_allowed(policy, rule, key, value):
            what = key if key == REQUESTED else f"annotation {key}"
            return Refusal(lb.owner, "not-allowed-in-namespace", (
                f"{what} names an existing object of the cloud ({value[:80]!r}), and no rule allows that in namespace "
                f"{lb.namespace}: remove it, or have the administrator list key and value in the policy"
            ))
    return None


def _said(lb: LoadBalancer) -> Iterator[tuple[str, str]]:
    """What may name an existing object: annotations, and the addresses asked for in any way."""
    yield from sorted(lb.annotations.items())
    if lb.requested_addresses:
        yield REQUESTED, ",".join(map(str, lb.requested_addresses))


def _is_privileged(policy: Policy, key: str, value: str) -> bool:
    return any(fnmatchcase(key, k) and fnmatchcase(value, v) for k, v in policy.privileged.items())


def _is_allowed(policy: Policy, rule: NamespaceRule, key: str, value: str) -> bool:
    listed = [patterns for pattern, patterns in rule.annotations.items() if fnmatchcase(key, pattern)]
    if not listed:
        return policy.tenancy == "open"
    parts = [part.strip() for part in value.split(",")]
    return any(all(any(fnmatchcase(part, p) for p in patterns) for part in parts) for patterns in listed)


def _quota(rule: NamespaceRule, lb: LoadBalancer, ranking: Sequence[Owner]) -> Refusal | None:
    limit = rule.max_load_balancers
    if limit is None or lb.owner in ranking[:limit]:
        return None
    return Refusal(lb.owner, "quota-namespace", (
        f"namespace {lb.namespace} may have {limit} load balancers and has them already: "
        f"delete one, or have the administrator raise max_load_balancers"
    ))


def guard(
    plan: Plan,
    limits: Limits,
    *,
    wanted: Collection[Owner],
    released: Collection[Owner],
    managed: Collection[Owner],
) -> Plan:
    """The plan without deletes that are only inferred from absence, where those are too many (or not asked for).

    A Service that says goodbye itself (its owner is `released`) is never guarded, nor is what a wanted Service sheds.
    `managed` are all owners that have, or are to have, something: of how many these are too many.
    """
    gone = {c.owner for c in plan.changes if c.action == "delete" and _is_inferred(c, wanted, released)}
    limit = _limit(gone, limits, wanted, managed) if gone else ""
    if not limit:
        return plan
    frozen = tuple(c for c in plan.changes if _is_held(c, gone))
    kept = tuple(c for c in plan.changes if not _is_held(c, gone))
    return msgspec.structs.replace(plan, changes=kept, frozen=frozen, limit=limit)


def _is_held(change: Change, gone: Collection[Owner]) -> bool:
    """What the lost owners have, and the shared things that it stands on (but no half of a replacement)."""
    return change.action == "delete" and (change.owner in gone or (change.owner == SHARED and not change.outage))


def _is_inferred(change: Change, wanted: Collection[Owner], released: Collection[Owner]) -> bool:
    return change.owner != SHARED and change.owner not in wanted and change.owner not in released


def _limit(gone: Collection[Owner], limits: Limits, wanted: Collection[Owner], managed: Collection[Owner]) -> str:
    """Why these deletes stop, with the way on; empty if they may go ahead."""
    if not limits.prune:
        return f"{len(gone)} owners look gone; nothing is deleted by inference without --prune"
    if limits.let_through:
        return ""
    if not wanted:
        return (f"no Service is wanted at all, yet {len(gone)} owners have resources here: is this the right cluster? "
                f"If it is: lbctl apply --prune --max-delete=100%")
    if len(managed) >= limits.from_count and len(gone) > limits.max_delete * len(managed):
        return (f"{len(gone)} of {len(managed)} owners would lose everything, the limit is {limits.max_delete:.0%}. "
                f"If that is right: lbctl apply --prune --max-delete=100%")
    return ""
