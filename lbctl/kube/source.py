"""Where load balancers come from: the stores, read as one stack needs them.

The controller asks `read` for one Service when it plans, and hears from `connect` which names to look at again. The
command line fills the same stores from one list, or from files. Nodes are read once per change, not once per Service:
5,000 nodes that come up at once are one look.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lbctl.kube import objects, read, store
from lbctl.kube.client import Client
from lbctl.kube.objects import EndpointSlice, Namespace, Node, Service
from lbctl.kube.reflector import Reflector
from lbctl.kube.store import Event, Store
from lbctl.model import Ingress, LoadBalancer, Owner
from lbctl.model import Node as NodeValue


class Stores(NamedTuple):
    """Everything that is read from a cluster."""

    services: Store[Service]
    nodes: Store[Node]
    slices: Store[EndpointSlice]
    namespaces: Store[Namespace]


def stores() -> Stores:
    """Empty ones."""
    return Stores(store.services(), store.nodes(), store.slices(), store.namespaces())


def reflectors(
    client: Client,
    stores: Stores,
    *,
    misread: Callable[[str, str], None] = lambda _key, _why: None,
    namespaces: bool = True,
    **options: Any,
) -> tuple[Reflector[Any], ...]:
    """What fills them: `start` each to follow the cluster, or call `once` on each for one look.

    `misread` is told of Services that cannot be decoded.
    """
    needed = (
        Reflector(client, objects.SERVICES, stores.services, misread=misread, **options),
        Reflector(client, objects.NODES, stores.nodes, **options),
        Reflector(client, objects.SLICES, stores.slices, **options),
    )
    if not namespaces:
        return needed
    return (*needed, Reflector(client, objects.NAMESPACES, stores.namespaces, **options))


class StoreSource:
    """One stack's load balancers, out of the stores.

    `endpoints=False` where nobody knows them (files): then no condition speaks of them.
    """

    def __init__(
        self,
        stores: Stores,
        *,
        provider: str,
        default_provider: str | None = None,
        adopts: Callable[[Sequence[Ingress]], bool] = lambda _status: False,
        endpoints: bool = True,
    ) -> None:
        self._stores, self.provider, self.default_provider = stores, provider, default_provider
        self._adopts, self._endpoints = adopts, endpoints
        self._lock = threading.Lock()
        self._nodes: tuple[NodeValue, ...] = ()
        self._stale = True

    def read(self, owner: Owner) -> LoadBalancer | None:
        """What this Service asks of this stack; None where it asks nothing (any more)."""
        service = self._stores.services.get(owner)
        if service is None or not self._wants(service):
            return None
        endpoints = read.endpoints(self._stores.slices.by("service", owner)) if self._endpoints else None
        return read.load_balancer(
            service, self.nodes(), endpoints, provider=self.provider, adopts=self._adopts
        )

    def owners(self) -> Iterable[Owner]:
        """All Services that ask something of this stack."""
        return tuple(read.owner(service) for service in self._stores.services.all() if self._wants(service))

    def nodes(self) -> tuple[NodeValue, ...]:
        """The eligible nodes. The same tuple until one of them changes."""
        with self._lock:
            if self._stale:
                self._stale = False
                self._nodes = read.nodes(self._stores.nodes.all(), self._nodes)
            return self._nodes

    def labels(self, namespace: str) -> Mapping[str, str]:
        """A namespace's labels, for policy."""
        found = self._stores.namespaces.get(namespace)
        return (found.metadata.labels if found else None) or {}

    def connect(self, mark: Callable[[Owner], None], mark_all: Callable[[], None]) -> None:
        """From now on, call `mark` for each Service to look at again, and `mark_all` where it may be any.

        What is there already is not told: whoever connects looks at everything first.
        """

        def on_service(_event: Event, old: Service | None, new: Service | None) -> None:
            if self.matters(old, new):
                mark(read.owner(new or old or Service()))

        def on_slice(_event: Event, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
            for item in {old.service if old else "", new.service if new else ""} - {""}:
                service = self._stores.services.get(item)
                if service is not None and self._wants(service) and _reach(old) != _reach(new):
                    mark(Owner(item))

        def on_node(_event: Event, old: Node | None, new: Node | None) -> None:
            self.forget_nodes()
            if read.node_matters(old, new):
                mark_all()

        def on_namespace(_event: Event, old: Namespace | None, new: Namespace | None) -> None:
            if old is not None and new is not None and old.metadata.labels != new.metadata.labels:
                mark_all()

        self._stores.services.subscribe(on_service, present=False)
        self._stores.slices.subscribe(on_slice, present=False)
        self._stores.nodes.subscribe(on_node, present=False)
        self._stores.namespaces.subscribe(on_namespace, present=False)
        self.forget_nodes()

    def forget_nodes(self) -> None:
        """Read the nodes again at the next look."""
        with self._lock:
            self._stale = True

    def matters(self, old: Service | None, new: Service | None) -> bool:
        """Does this event ask for a look?

        It does if the Service asks for something else, came, went, or is to be released; and if somebody changed its
        addresses, our conditions or our claim (our own writes are never told as events).
        """
        concerned = [service for service in (old, new) if service is not None and self._concerns(service)]
        if not concerned:
            return False
        if old is None or new is None:
            return True
        return read.needs_update(old, new) or self._state(old) != self._state(new)

    def _concerns(self, service: Service) -> bool:
        return self._wants(service) or read.claimed(service, self.provider)

    def _state(self, service: Service) -> object:
        foreign = [n for n in service.metadata.finalizers or () if n.startswith(read.FOREIGN_FINALIZERS)]
        ours = [c for c in service.status.conditions or () if c.type.startswith("lbctl.io/")]
        claimed = read.claimed(service, self.provider)
        return (service.metadata.deletion_timestamp is None, claimed, foreign, read.published(service), ours)

    def _wants(self, service: Service) -> bool:
        return read.wants(service, provider=self.provider, default_provider=self.default_provider)


def _reach(item: EndpointSlice | None) -> object:
    """What of a slice can change a condition or an announcer: whether anything is ready, and what serves where."""
    found = read.endpoints([item] if item is not None else [])
    return (found.ready > 0, found.nodes, found.serving)
