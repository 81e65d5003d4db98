"""From the stores to the controller: which Services ask something of a stack, and who has to hear of which event.

The stores hold objects; the controller is told names only, and reads what it needs when it plans. The command line uses
the same `Source` over stores filled from a list or from files.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from lbctl.kube import objects, read
from lbctl.kube.objects import EndpointSlice, Namespace, Service
from lbctl.kube.store import Event, Store
from lbctl.model import Endpoints, Ingress, LoadBalancer, Node, Owner


class Stores(msgspec.Struct, frozen=True):
    """What is known of the cluster. `slices` is None where endpoints cannot be known (files)."""

    services: Store[Service]
    nodes: Store[objects.Node]
    slices: Store[EndpointSlice] | None = None
    namespaces: Store[Namespace] | None = None

    def labels(self, namespace: str) -> Mapping[str, str]:
        """A namespace's labels, empty where they are not known."""
        found = self.namespaces.get(namespace) if self.namespaces else None
        return (found.metadata.labels if found else None) or {}


class Nodes:
    """The eligible nodes as one tuple that all load balancers share, made anew only after an event that changes it."""

    def __init__(self, store: Store[objects.Node]) -> None:
        self._store = store
        self._current: tuple[Node, ...] = ()
        self._stale = True
        store.subscribe(self._heard)

    def current(self) -> tuple[Node, ...]:
        """As of now; the same object as before if nothing differs."""
        if self._stale:
            self._stale = False
            self._current = read.nodes(self._store.all(), self._current)
        return self._current

    def _heard(self, _event: Event, _old: objects.Node | None, _new: objects.Node | None) -> None:
        self._stale = True


class Source:
    """One stack's view of the stores."""

    def __init__(
        self,
        stores: Stores,
        nodes: Nodes,
        *,
        provider: str,
        default_provider: str | None = None,
        adopts: Callable[[Sequence[Ingress]], bool] = lambda _status: False,
    ) -> None:
        self._stores, self._nodes, self._adopts = stores, nodes, adopts
        self._provider, self._default = provider, default_provider

    def read(self, owner: Owner) -> LoadBalancer | None:
        """What this Service asks of this stack; None where it asks nothing (any more)."""
        service = self._stores.services.get(owner)
        if service is None or not self._wants(service):
            return None
        return read.load_balancer(
            service, self._nodes.current(), self._endpoints(owner), provider=self._provider, adopts=self._adopts
        )

    def owners(self) -> Iterable[Owner]:
        """All Services that ask something of this stack."""
        return [read.owner(service) for service in self._stores.services.all() if self._wants(service)]

    def uid(self, owner: Owner) -> str:
        """The Service's UID, for Events; empty where it is gone."""
        service = self._stores.services.get(owner)
        return service.metadata.uid if service else ""

    def concerns(self, service: Service | None) -> bool:
        """Does this stack have anything to do with the Service: asked to serve it, or holding it?"""
        return service is not None and (self._wants(service) or read.claimed(service, self._provider))

    def _wants(self, service: Service) -> bool:
        return read.wants(service, provider=self._provider, default_provider=self._default)

    def _endpoints(self, owner: Owner) -> Endpoints | None:
        return read.endpoints(self._stores.slices.by("service", owner)) if self._stores.slices is not None else None


def connect(stores: Stores, source: Source, mark: Callable[[Owner], None], mark_all: Callable[[], None]) -> None:
    """From now on, tell a controller which Services to look at. Echoes of our own writes never come this far."""

    def service_heard(_event: Event, old: Service | None, new: Service | None) -> None:
        present = new or old
        if present is not None and (source.concerns(old) or source.concerns(new)):
            mark(read.owner(present))

    def node_heard(_event: Event, old: objects.Node | None, new: objects.Node | None) -> None:
        if read.node_matters(old, new):
            mark_all()

    def slice_heard(_event: Event, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for name in {item.service for item in (old, new) if item is not None and item.service}:
            if source.concerns(stores.services.get(name)):
                mark(Owner(name))

    stores.services.subscribe(service_heard)
    stores.nodes.subscribe(node_heard)
    if stores.slices is not None:
        stores.slices.subscribe(slice_heard)
