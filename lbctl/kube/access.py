"""The cluster as providers see it (`lbctl.cluster.Kubernetes`), over our stores and client.

`daemon` makes one per provider. What a provider watches has stores and reflectors of its own here; Services, Nodes and
namespaces are the ones that everybody shares.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from lbctl.cluster import Object, Watch
from lbctl.errors import LbctlError
from lbctl.kube import objects, read
from lbctl.kube.client import MERGE, Client
from lbctl.kube.objects import Custom, Resource, Service, Undecodable
from lbctl.kube.reflector import Reflector
from lbctl.kube.source import Stores
from lbctl.kube.store import Event, Store
from lbctl.model import Endpoints, LoadBalancer, Node, Owner

Emit = Callable[[Owner, str, Literal["Normal", "Warning"], str, str], None]
"""Who tells Events: (owner, uid, type, reason, message)."""


PATIENCE = 5.0
"""Seconds that the server gets to say which groups it has."""


class Watched:
    """The stores of what providers watch, filled like all others."""

    def __init__(self, watches: Iterable[Watch] = ()) -> None:
        self.stores: dict[Watch, Store[Custom]] = {watch: Store() for watch in watches}

    def overlay(
        self, found: Callable[[Watch], Sequence[Custom]], merged: Callable[[Custom | None, Custom], Custom]
    ) -> None:
        """Put these over what is there: as it would be once they were applied."""
        for watch, store in self.stores.items():
            items = {objects.key(item): item for item in store.all()}
            items |= {objects.key(item): merged(items.get(objects.key(item)), item) for item in found(watch)}
            fresh = self.stores[watch] = Store[Custom]()
            fresh.replace(items.values(), "")

    def reflectors(self, client: Client) -> tuple[Reflector[Any], ...]:
        """What fills them. A sort of object that the server does not know is empty."""
        return tuple(
            Reflector(
                client, _resource(watch), store, namespace=watch.namespace, selector=watch.selector, optional=True
            )
            for watch, store in self.stores.items()
        )


def served_groups(client: Client) -> frozenset[str] | None:
    """The API groups that the server has, in one question instead of one for each sort of object that may be unknown.

    None where it does not say. https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api
    """
    try:
        found = msgspec.json.decode(client.request("GET", "/apis", timeout=PATIENCE), type=objects.GroupList)
    except (LbctlError, *objects.UNREADABLE):
        return None
    return frozenset(group.name for group in found.groups)


class Access:
    """One provider's view. Without a client (files alone) there is nothing to write to."""

    def __init__(self, client: Client | None, stores: Stores, watched: Watched, *, home: str, emit: Emit) -> None:
        self._client, self._stores, self._watched, self._emit = client, stores, watched, emit
        self._decoder = objects.decoder(Custom)
        self._lock = threading.Lock()
        self._nodes: tuple[Node, ...] = ()
        self.home = home

    # -- what is known ------------------------------------------------------------------------------------------

    def objects(self, watch: Watch) -> Sequence[Object]:
        return [_object(item) for item in self._watched.stores[watch].all()]

    def follow(self, watch: Watch, told: Callable[[Object | None, Object | None], None]) -> None:
        def on_event(_event: Event, old: Custom | None, new: Custom | None) -> None:
            told(_object(old) if old else None, _object(new) if new else None)

        self._watched.stores[watch].subscribe(on_event)

    def services(self) -> Sequence[LoadBalancer]:
        return [read.any_service(service) for service in self._stores.services.all() if _may_hold(service)]

    def follow_holders(self, told: Callable[[Owner, LoadBalancer | None], None]) -> None:
        known: set[Owner] = set()

        def on_event(_event: Event, old: Service | None, new: Service | None) -> None:
            if new is not None and _holds(new):
                known.add(read.owner(new))
                told(read.owner(new), read.any_service(new))
            elif (some := new or old) is not None and read.owner(some) in known:
                # What it was before may be older than what was told: our own writes hide what happens meanwhile.
                known.discard(read.owner(some))
                told(read.owner(some), None)

        self._stores.services.subscribe(on_event)

    def endpoints(self, owner: Owner) -> Endpoints | None:
        return read.endpoints(self._stores.slices.by("service", owner))

    def nodes(self) -> tuple[Node, ...]:
        with self._lock:
            self._nodes = read.nodes(self._stores.nodes.all(), self._nodes, every=True)
            return self._nodes

    def follow_nodes(self, told: Callable[[], None]) -> None:
        def on_event(_event: Event, old: objects.Node | None, new: objects.Node | None) -> None:
            if old is None or new is None or read.nodes([old], every=True) != read.nodes([new], every=True):
                told()

        self._stores.nodes.subscribe(on_event)

    def namespaces(self, name: str) -> Mapping[str, str]:
        found = self._stores.namespaces.get(name)
        return (found.metadata.labels if found else None) or {}

    # -- what is written ----------------------------------------------------------------------------------------

    def create(self, watch: Watch, body: Mapping[str, Any], namespace: str = "") -> Object:
        return self._answer(self._writer().request("POST", _resource(watch).path(namespace), body))

    def patch(
        self, watch: Watch, name: str, body: Mapping[str, Any], namespace: str = "", subresource: str = ""
    ) -> Object:
        path = _resource(watch).path(namespace, name, subresource)
        return self._answer(self._writer().request("PATCH", path, body, MERGE))

    def delete(self, watch: Watch, seen: Object) -> None:
        body = {"preconditions": {"uid": seen.uid, "resourceVersion": seen.version}}
        self._writer().request("DELETE", _resource(watch).path(seen.namespace, seen.name), body)

    def event(self, owner: Owner, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        service = self._stores.services.get(owner)
        if service is not None:
            self._emit(owner, service.metadata.uid, kind, reason, message)

    def _writer(self) -> Client:
        if self._client is None:
            raise LookupError("there is no cluster to write to, only files")
        return self._client

    def _answer(self, body: bytes) -> Object:
        item = objects.decode(body, self._decoder)
        if isinstance(item, Undecodable):
            raise LbctlError(f"the API server's answer for {item.key}: {item.problem}", reason="bad-answer")
        return _object(item)


def _resource(watch: Watch) -> Resource[Custom]:
    return Resource(watch.plural, Custom, watch.group, watch.version)


def _may_hold(service: Service) -> bool:
    return service.spec.type == "LoadBalancer" or bool(service.spec.external_ips)


def _holds(service: Service) -> bool:
    return bool(service.spec.external_ips or (service.ingress and service.spec.type == "LoadBalancer"))


def _object(item: Custom) -> Object:
    metadata = item.metadata
    return Object(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        version=metadata.resource_version,
        generation=metadata.generation,
        created=metadata.creation_timestamp,
        deleting=metadata.deletion_timestamp is not None,
        labels=metadata.labels or {},
        annotations=metadata.annotations or {},
        spec=item.spec,
        status=item.status,
    )
