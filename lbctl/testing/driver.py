"""The smallest reconcile: plans, and carries plans out, one change after the other.

The laws are written against this and not against `lbctl.apply`, so that a provider is judged by what it does itself:
no concurrency, no back-off, nothing that hides a fault. What a real run adds (lanes, batches that close by time) has
tests of its own.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import msgspec

from lbctl.errors import LbctlError, Retry
from lbctl.model import Key, LoadBalancer, Owner, Resource, resolve
from lbctl.plan import Change, Plan, diff, waits_for
from lbctl.provider import Desired, Observation, Provider, Scope

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When the laws' clock begins."""

Answer = Resource | Exception | None


class SimulatedCrash(BaseException):
    """The process dies here. Raised from `Harness.on_call`; no provider may stop it on its way."""


class Step(msgspec.Struct, frozen=True):
    """One change as it was given to the provider, and what the provider answered."""

    change: Change
    answer: Answer


def scope(
    provider: Provider,
    load_balancers: Iterable[LoadBalancer],
    owners: Iterable[Owner] | None = None,
    *,
    fresh: bool = True,
    at: datetime = START,
) -> Scope:
    """A look at these owners, or everybody. Shares are counted over all load balancers, as they always are."""
    everybody = tuple(load_balancers)
    chosen = None if owners is None else frozenset(owners)
    return Scope(
        at=at,
        owners=chosen,
        fresh=fresh,
        load_balancers=tuple(lb for lb in everybody if chosen is None or lb.owner in chosen),
        shares=Counter(share for lb in everybody for share in provider.shares(lb)),
    )


def look(provider: Provider, about: Scope) -> tuple[Desired, Observation]:
    """What ought to be, and what is."""
    seen = provider.observe(about)
    return provider.desired(about.load_balancers, seen), seen


def plan(
    provider: Provider,
    load_balancers: Iterable[LoadBalancer],
    owners: Iterable[Owner] | None = None,
    *,
    fresh: bool = True,
    at: datetime = START,
) -> Plan:
    """What would be done. Raises what `observe` raises."""
    return diff(provider.kinds, *look(provider, scope(provider, load_balancers, owners, fresh=fresh, at=at)))


def carry_out(provider: Provider, plan: Plan) -> list[Step]:
    """Do it, in the plan's order. An owner's first error ends that owner's steps; parts of a document go together."""
    outputs: dict[Key, Mapping[str, Any]] = dict(plan.known)
    ended: set[Owner] = set()
    taken: list[Step] = []
    for _, changes in groupby(plan.changes, lambda change: _batch(provider, change)):
        batch = [_filled_in(change, outputs) for change in changes if change.owner not in ended]
        for step in _apply(provider, batch):
            taken.append(step)
            if isinstance(step.answer, Exception):
                ended.add(step.change.owner)
            elif step.answer is None:
                outputs.pop(step.change.key, None)
            else:
                outputs[step.change.key] = step.answer.outputs
    return taken


def _batch(provider: Provider, change: Change) -> object:
    """Equal for neighbours in the plan that are parts of one document; otherwise each change is its own."""
    field = next(kind.document for kind in provider.kinds if kind.name == change.kind)
    resource = change.after or change.before
    return (change.kind, resource.fields.get(field)) if field and resource else (*change.key, change.action)


def _filled_in(change: Change, outputs: Mapping[Key, Mapping[str, Any]]) -> Change:
    if change.after is None:
        return change
    after = msgspec.structs.replace(change.after, fields=resolve(change.after.fields, outputs))
    return msgspec.structs.replace(change, after=after)


def _apply(provider: Provider, batch: Sequence[Change]) -> list[Step]:
    """What still waits for something that did not come is put off; the rest is the provider's turn."""
    waiting = [Step(change, Retry(5, f"{change.name} waits for another")) for change in batch if waits_for(change)]
    ready = [change for change in batch if not waits_for(change)]
    if not ready:
        return waiting
    try:
        answers = provider.apply(ready)
    except LbctlError as error:
        answers = [error] * len(ready)
    assert len(answers) == len(ready), f"apply gave {len(answers)} answers to {len(ready)} changes: give one for each"
    return [*waiting, *map(Step, ready, answers)]
