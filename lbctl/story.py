"""What is told of a plan and of a landed lane: the Events that `kubectl describe service` shows.  PURE.

The reasons of the life cycle are Kubernetes' own, word for word (k8s.io/cloud-provider), so that people find what
they know; messages are stable (no ids, no times), so that repeats are counted and not listed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from lbctl.apply import Result
from lbctl.model import SHARED, LoadBalancer, Owner, Refusal
from lbctl.plan import Change, Kind

KUBERNETES = ("claim", "status")
"""The kinds of the stack's Kubernetes parts: of those alone nobody needs to hear."""


class Event(msgspec.Struct, frozen=True):
    """One line of `kubectl describe`."""

    owner: Owner
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def begun(
    owner: Owner, steps: Sequence[Change], load_balancer: LoadBalancer | None, kinds: Sequence[Kind] = ()
) -> Iterator[Event]:
    """A lane starts. What is told in one Event of its own (`Kind.event`) is told when it landed."""
    one = {kind.name for kind in kinds if kind.event}
    actions = {step.action for step in steps if step.kind not in KUBERNETES and step.kind not in one}
    if owner == SHARED or not actions:
        return
    if load_balancer is None:
        yield Event(owner, "Normal", "DeletingLoadBalancer", "Deleting load balancer")
    elif "create" in actions:
        yield Event(owner, "Normal", "EnsuringLoadBalancer", "Ensuring load balancer")
    if load_balancer is not None and not load_balancer.nodes:
        yield Event(owner, "Warning", "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer")


def landed(
    result: Result, load_balancer: LoadBalancer | None, *, audit: bool, kinds: Sequence[Kind] = ()
) -> Iterator[Event]:
    """A lane ended. `audit`: nothing had changed on our side, so what was applied repaired a drift."""
    events = {kind.name: kind.event for kind in kinds if kind.event}
    if result.outcome == "done" and any(step.kind in events for step in result.applied):
        yield from _single(result, events)
        return
    actions = {step.action for step in result.applied if step.kind not in KUBERNETES}
    if result.owner == SHARED:
        return
    if result.outcome == "failed":
        yield Event(result.owner, "Warning", "SyncLoadBalancerFailed", _error(result.reason, result.message))
    elif result.outcome == "retry" or not actions:
        return
    elif load_balancer is None:
        yield Event(result.owner, "Normal", "DeletedLoadBalancer", "Deleted load balancer")
    elif audit and load_balancer.status:
        things = ", ".join(sorted({step.kind for step in result.applied if step.kind not in KUBERNETES}))
        yield Event(result.owner, "Normal", "DriftCorrected", f"Somebody had changed: {things}. It is as planned again")
    elif "create" in actions:
        yield Event(result.owner, "Normal", "EnsuredLoadBalancer", "Ensured load balancer")
    else:
        yield Event(result.owner, "Normal", "UpdatedLoadBalancer", "Updated load balancer")


def refused(refusal: Refusal, kinds: Sequence[Kind] = ()) -> Event:
    """A Service is not served as it asks."""
    own = next((kind.failure for kind in kinds if kind.failure), "")
    if own:
        return Event(refusal.owner, "Warning", own, f"{refusal.reason}: {refusal.message[:700]}")
    return Event(refusal.owner, "Warning", "SyncLoadBalancerFailed", _error(refusal.reason, refusal.message))


def frozen(owner: Owner, limit: str) -> Event:
    """An owner's deletes stopped at a safety limit."""
    return Event(owner, "Warning", "DeleteLoadBalancerFailed", f"Deletes are held back: {limit}")


def _single(result: Result, events: Mapping[str, str]) -> Iterator[Event]:
    """One Event for all that the lane made, whatever it made: `because` says what it was."""
    made = [step for step in result.applied if step.kind in events and step.action != "delete"]
    if made and result.owner != SHARED:
        yield Event(result.owner, "Normal", events[made[0].kind], ", ".join(step.because for step in made))


def _error(reason: str, message: str) -> str:
    return f"Error syncing load balancer: {reason}: {message[:700]}"
