"""Conditions on a Service: made, compared, and written so that lastTransitionTime tells the truth.  PURE."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from lbctl.kube.objects import Service
from lbctl.model import DEGRADED, READY, SERVING

Value = tuple[str, str, str, str]
"""(type, status, reason, message)"""

OURS = (READY, SERVING, DEGRADED)

_LONGEST = 1024
"""Characters of a message. Kubernetes' conditions take 32768; nobody reads that far."""


def make(kind: str, status: Literal["True", "False"], reason: str, message: str) -> Value:
    """One condition, its message cut to what a person reads."""
    short = message if len(message) <= _LONGEST else message[: _LONGEST - 1] + "…"
    return (kind, status, reason, short)


def of(service: Service) -> dict[str, tuple[str, str, str]]:
    """Our conditions on it: type → (status, reason, message)."""
    return {c.type: (c.status, c.reason, c.message) for c in service.status.conditions or () if c.type in OURS}


def written(value: Value, service: Service, now: datetime) -> Mapping[str, str]:
    """The condition as it goes to the API server. lastTransitionTime moves only when the status does."""
    kind, status, reason, message = value
    old = service.conditions.get(kind)
    since = old.last_transition_time if old is not None and old.status == status else None
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since or stamp(now),
    }


def stamp(moment: datetime) -> str:
    """A moment in UTC by RFC 3339 with whole seconds, as Kubernetes' `metav1.Time`."""
    return f"{moment.replace(tzinfo=None).isoformat(timespec='seconds')}Z"
