"""A Kubernetes cluster as a provider may see and touch it.  PURE.

Clouds need none of this: their state is in the cloud. A provider whose state is in the cluster itself (pools, Leases,
other Services' addresses) gets it through `Harness.kubernetes`, so that no provider ever imports `lbctl.kube`. What a
provider wants to read beyond Services and Nodes it says beforehand, in `Plugin.watches`.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec

from lbctl.model import Endpoints, LoadBalancer, Node, Owner


class Watch(msgspec.Struct, frozen=True):
    """A sort of Kubernetes object that a provider reads: of all namespaces, or of one; those that `selector` matches.

    A sort that the cluster does not know (its CRD is not installed) has no objects, until it is known.
    """

    plural: str
    group: str = ""
    version: str = "v1"
    namespace: str = ""
    selector: str = ""


class Object(msgspec.Struct, frozen=True, gc=False):
    """One such object. `version` is its resourceVersion; `spec` and `status` are as the API server says them."""

    name: str
    namespace: str = ""
    uid: str = ""
    version: str = ""
    generation: int = 0
    created: datetime | None = None
    deleting: bool = False
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    spec: Mapping[str, Any] = {}
    status: Mapping[str, Any] = {}


class Kubernetes(Protocol):
    """What is known of the cluster, at no call, and the few writes that are a provider's own.

    Handlers are called on the watches' threads, after the change is known here; they must not block. What is there
    already is told first. Writes raise `LbctlError` with Kubernetes' own word as its `reason`: `NotFound`, `Conflict`,
    `AlreadyExists`.
    """

    @property
    def home(self) -> str:
        """The namespace that lbctl itself lives in: its Leases are there."""
        ...

    def objects(self, watch: Watch) -> Sequence[Object]:
        """All objects of a sort that `Plugin.watches` named."""
        ...

    def follow(self, watch: Watch, told: Callable[[Object | None, Object | None], None]) -> None:
        """Tell of every change of such an object: (before, now)."""
        ...

    def services(self) -> Sequence[LoadBalancer]:
        """Every Service that may hold an address, whoever serves it: of type LoadBalancer, or with externalIPs.
        Without nodes, endpoints and `problem`."""
        ...

    def follow_holders(self, told: Callable[[Owner, LoadBalancer | None], None]) -> None:
        """Tell of every such Service that holds an address, or claims one by externalIPs; with None once it does so no
        more, or is gone. Our own status writes are not told."""
        ...

    def endpoints(self, owner: Owner) -> Endpoints | None:
        """What stands behind a Service; None where that is not known (files)."""
        ...

    def nodes(self) -> tuple[Node, ...]:
        """Every node, eligible or not; the same tuple until one of them changes."""
        ...

    def follow_nodes(self, told: Callable[[], None]) -> None:
        """Tell that the nodes changed, in anything that `Node` says."""
        ...

    def namespaces(self, name: str) -> Mapping[str, str]:
        """A namespace's labels."""
        ...

    def create(self, watch: Watch, body: Mapping[str, Any], namespace: str = "") -> Object:
        """Make an object. One of this name is an `AlreadyExists`."""
        ...

    def patch(
        self, watch: Watch, name: str, body: Mapping[str, Any], namespace: str = "", subresource: str = ""
    ) -> Object:
        """A merge patch (RFC 7386). With `metadata.resourceVersion` in the body it may be a `Conflict`."""
        ...

    def delete(self, watch: Watch, seen: Object) -> None:
        """Delete an object as it was seen. One that was written since, or made anew, stays: that is a `Conflict`."""
        ...

    def event(self, owner: Owner, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """An Event on a Service. Never blocks, never fails."""
        ...


class NoKubernetes:
    """Where there is no cluster: files alone, and the laws. Nothing is there and nothing ever happens."""

    home = ""

    def objects(self, watch: Watch) -> Sequence[Object]:
        return ()

    def follow(self, watch: Watch, told: Callable[[Object | None, Object | None], None]) -> None:
        """Nothing will be told."""

    def services(self) -> Sequence[LoadBalancer]:
        return ()

    def follow_holders(self, told: Callable[[Owner, LoadBalancer | None], None]) -> None:
        """Nothing will be told."""

    def endpoints(self, owner: Owner) -> Endpoints | None:
        return None

    def nodes(self) -> tuple[Node, ...]:
        return ()

    def follow_nodes(self, told: Callable[[], None]) -> None:
        """Nothing will be told."""

    def namespaces(self, name: str) -> Mapping[str, str]:
        return {}

    def create(self, watch: Watch, body: Mapping[str, Any], namespace: str = "") -> Object:
        raise LookupError(f"there is no cluster to create one of {watch.plural} in")

    def patch(
        self, watch: Watch, name: str, body: Mapping[str, Any], namespace: str = "", subresource: str = ""
    ) -> Object:
        raise LookupError(f"there is no cluster that has {watch.plural}/{name}")

    def delete(self, watch: Watch, seen: Object) -> None:
        raise LookupError(f"there is no cluster that has {watch.plural}/{seen.name}")

    def event(self, owner: Owner, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Nobody listens."""


class Shell(Protocol):
    """What a command that a plugin adds finds in `click.Context.obj`, and why it takes --kubeconfig, --context and
    --config. One that needs no cluster is made with `context_settings={"obj": None}`, and takes neither."""

    def harness(self, provider: str) -> Any:
        """The provider's `Harness` with the cluster read once, as --kubeconfig and the configuration say."""
        ...
