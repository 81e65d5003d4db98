"""The other side of a provider, for the laws, the sandbox and the demo: a cloud that fits on loopback.

A provider ships one as an entry point in the group `lbctl.standins` under the provider's own name: a callable without
arguments that returns a `Standin`. A stand-in is strict: it refuses what the cloud refuses.

Where the other side is Kubernetes itself (a Service's status is all that there is of its address), a stand-in may have
`around(make)`, too: it puts a provider between the cluster that the stand-in plays and the status that holds its state,
and the laws judge the two as one.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from lbctl.model import Node, Resource


class Standin(Protocol):
    """One small cloud. `start` before use, `stop` after; both are safe to repeat."""

    settings: Mapping[str, str]
    """What the provider's `Harness.settings` must say to reach it (endpoint, region, made-up credentials)."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def reset(self) -> None:
        """Forget every load balancer, group, address and node; keep what the network is made of (VPC, subnets)."""
        ...

    def nodes(self, count: int) -> Sequence[Node]:
        """Make sure that at least `count` instances run, and say the first `count` of them as Kubernetes would."""
        ...

    def inventory(self) -> frozenset[str]:
        """Everything there that could leak or double, ours or not, marked or not: one line each, stable."""
        ...

    def plant_foreign(self) -> frozenset[str]:
        """Put there what is not ours but looks like it (our names, no mark). The inventory lines it adds."""
        ...

    def drift(self, resource: Resource) -> str | None:
        """Change one of our resources by hand behind the provider's back. What was done, or None if this sort can't."""
        ...

    def settle(self) -> None:
        """Let everything that takes its time be done: provisioning, consistency, interfaces that linger."""
        ...
