"""The claim: our finalizer on a Service, so that it cannot vanish before what was made for it.

A provider like any other (the first of a stack): created before anything in the cloud, deleted after everything. Reads
only the store. Writes one PATCH of the `status` subresource, which may change metadata but never the spec; a strategic
merge patch, so that others' finalizers survive whatever happens at the same moment.
"""

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lbctl.errors import LbctlError, Retry
from lbctl.kube import conditions, read
from lbctl.kube.client import Client, Invalid, NotFound, Patch, as_retry
from lbctl.kube.objects import SERVICES, Service, decode, decoder, key, stamped
from lbctl.kube.store import Store
from lbctl.model import READY, Ingress, LoadBalancer, Owner, Resource
from lbctl.plan import Change, Kind
from lbctl.provider import Desired, Observation, Scope

if TYPE_CHECKING:
    from lbctl.stack import Outcome

KIND = "claim"
PROVISIONING = "provisioning"


def _now() -> datetime:
    return datetime.now(UTC)


UNWARNED = "fieldValidation=Ignore"
"""Nobody reads what the API server would warn of, and to look for it is a tenth of what a PATCH costs it."""


class Writer:
    """PATCHes a Service's status subresource, and puts the answer into the store at once."""

    def __init__(self, client: Client, services: Store[Service], now: Callable[[], datetime] = _now) -> None:
        self._client, self._services, self.now = client, services, now
        self._decoder = decoder(Service)

    def get(self, owner: Owner) -> Service | None:
        return self._services.get(owner)

    def patch(self, service: Service, body: Mapping[str, Any]) -> Service:
        """The Service as it is now. The UID goes along: a namesake that was made meanwhile is not touched."""
        with self._services.writing(key(service), news=_somebody_else_too) as answered:
            path, guarded, kind = _guarded(service, body)
            written = self._read(self._client.request("PATCH", path, guarded, kind), key(service))
            answered(written)
        return written

    def patch_all(
        self, patches: Iterator[tuple[Service, Mapping[str, Any]] | None], at_once: int
    ) -> Generator[tuple[Service, Service | LbctlError], None, None]:
        """As many as come: (the Service as it was given, as it is now or why it was not written), as answers come."""
        flying: dict[int, Service] = {}
        try:
            for number, answer in self._client.patch_all(self._begun(patches, flying), at_once):
                written = self._ended(flying[number], answer)
                yield flying.pop(number), written
        finally:
            for service in flying.values():
                self._services.wrote(key(service), None)

    def _begun(
        self, patches: Iterator[tuple[Service, Mapping[str, Any]] | None], flying: dict[int, Service]
    ) -> Iterator[Patch | None]:
        number = 0
        for patch in patches:
            if patch is None:
                yield None
                continue
            service, body = patch
            self._services.expect(key(service))
            flying[number] = service
            number += 1
            yield _guarded(service, body)

    def _ended(self, service: Service, answer: bytes | LbctlError) -> Service | LbctlError:
        written: Service | LbctlError
        try:
            written = answer if isinstance(answer, LbctlError) else self._read(answer, key(service))
        except LbctlError as unreadable:
            written = unreadable
        known = written if isinstance(written, Service) else None
        self._services.wrote(key(service), known, news=_somebody_else_too)
        return written

    def _read(self, answer: bytes, name: str) -> Service:
        """The answer decoded, unless the watch was faster and it is here already."""
        stamp = stamped(answer)
        if stamp is not None and (known := self._services.known(stamp)) is not None:
            return known
        written = decode(answer, self._decoder)
        if isinstance(written, Service) and key(written) == name:
            return written
        problem = "it is about something else" if isinstance(written, Service) else written.problem
        raise LbctlError(f"the API server's answer for {name}: {problem}")


def _guarded(service: Service, body: Mapping[str, Any]) -> Patch:
    metadata = service.metadata
    same = {"uid": metadata.uid} if metadata.uid else {}
    path = SERVICES.path(metadata.namespace, metadata.name, "status")
    return Patch(f"{path}?{UNWARNED}", {**body, "metadata": {**body.get("metadata", {}), **same}})


def _somebody_else_too(old: Service, new: Service) -> bool:
    if old.metadata.deletion_timestamp != new.metadata.deletion_timestamp:
        return True
    return read.needs_update(old, new) or old.spec.external_ips != new.spec.external_ips


class Claims:
    """The finalizers of one provider's stack. `create=False` makes no new ones but honours those that exist."""

    name = "claims"
    kinds: tuple[Kind, ...] = (Kind(KIND),)
    claims = True

    def __init__(
        self,
        client: Client,
        services: Store[Service],
        provider: str = "aws",
        create: bool = True,
        *,
        default_provider: str | None = None,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._writer = Writer(client, services, now)
        self._services, self._provider, self._create, self._default = services, provider, create, default_provider
        self._finalizer = read.finalizer(provider)

    def observe(self, scope: Scope) -> Observation:
        """Every claim of ours in scope, from the store.

        Facts: `claimable` (owners whose Service exists and is not being deleted) and `releases` (owners whose Service
        carries our claim but said goodbye: deleted, or of another type or class now).
        """
        carriers = self._carriers(scope)
        leaving = frozenset(read.owner(service) for service in carriers if not self._wants(service))
        return Observation(
            scope,
            tuple(self._claim(read.owner(service)) for service in carriers),
            {"claimable": self._claimable(scope), "releases": leaving},
        )

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        """A claim for everybody who is served; a refused one keeps the claim that it has, and gets no new one."""
        outcome: Outcome = seen.facts["outcome"]
        held = {resource.owner for resource in seen.resources} - seen.facts["releases"]
        fresh = outcome.serving & seen.facts["claimable"] if self._create else frozenset[Owner]()
        wanted = {owner for owner in fresh if seen.scope.covers(owner)}
        wanted |= held & (outcome.serving | outcome.refused.keys())
        return Desired(tuple(map(self._claim, sorted(wanted))), releases=seen.facts["releases"])

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        return ()

    def adopts(self, status: Sequence[Ingress]) -> bool:
        return False

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        """Safe to repeat: a finalizer that is there already stays one, one that is gone already is gone."""
        return [self._apply(change) for change in changes]

    def _apply(self, change: Change) -> Resource | Exception | None:
        try:
            if change.action == "delete":
                self._release(change.owner)
                return None
            return self._take(change.owner)
        except LbctlError as error:
            return as_retry(error)

    def _take(self, owner: Owner) -> Resource:
        service = self._writer.get(owner)
        if service is None or service.metadata.deletion_timestamp is not None:
            raise _gone(owner)
        try:
            self._writer.patch(service, {"metadata": {"finalizers": [self._finalizer]}, **self._begun(service)})
        except (NotFound, Invalid) as error:
            # Gone, made again under the same name, or being deleted: all of them end here, before any cloud call.
            raise _gone(owner) from error
        return self._claim(owner)

    def _begun(self, service: Service) -> Mapping[str, Any]:
        """The reason why it has no address yet, in the same write. A Service that is ready stays so."""
        if conditions.of(service).get(READY, ("",))[0] == "True":
            return {}
        begun = conditions.make(READY, "False", PROVISIONING, "lbctl is making the load balancer")
        return {"status": {"conditions": [conditions.written(begun, service, self._writer.now())]}}

    def _release(self, owner: Owner) -> None:
        service = self._writer.get(owner)
        if service is None or not read.claimed(service, self._provider):
            return
        try:
            self._writer.patch(service, {"metadata": {"$deleteFromPrimitiveList/finalizers": [self._finalizer]}})
        except (NotFound, Invalid):
            # Invalid: another Service of this name, with another UID. Ours is gone.
            return

    def _claim(self, owner: Owner) -> Resource:
        fields = {"finalizer": self._finalizer}
        return Resource(KIND, owner, owner, fields, because="holds the Service until all is gone")

    def _carriers(self, scope: Scope) -> tuple[Service, ...]:
        if scope.owners is None:
            return self._services.by("finalizer", self._finalizer)
        found = (self._services.get(owner) for owner in sorted(scope.owners))
        return tuple(service for service in found if service is not None and read.claimed(service, self._provider))

    def _claimable(self, scope: Scope) -> frozenset[Owner]:
        found = ((lb.owner, self._services.get(lb.owner)) for lb in scope.load_balancers)
        return frozenset(owner for owner, service in found if service and not service.metadata.deletion_timestamp)

    def _wants(self, service: Service) -> bool:
        return read.wants(service, provider=self._provider, default_provider=self._default)


def _gone(owner: Owner) -> Retry:
    return Retry(1.0, f"the Service {owner} is gone or being deleted: nothing is made for it", reason="service-gone")
