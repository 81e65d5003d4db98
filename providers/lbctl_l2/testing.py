"""A cluster that fits in a dict, for the laws: Services with statuses, nodes, and what writes the statuses.

A bare-metal address is an entry in a Service's status and nothing else, so the laws judge the provider together with
the part of the stack that writes it: `around` puts the two together, as `lbctl.stack` does, over statuses that are kept
here per cluster and refuse what the API server refuses. Every read and write of a status is a call that can fail.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import TypeVar, cast

import msgspec

from lbctl.errors import LbctlError, NotOurs, Retry
from lbctl.model import Ingress, LoadBalancer, Node, Owner, Resource
from lbctl.plan import Change, Kind
from lbctl.provider import Call, Desired, Harness, Observation, Provider, ProviderFactory, Scope
from lbctl.testing.standin import Standin
from lbctl_l2.ledger import ADDRESS, Ask
from lbctl_l2.pool import is_private

PUBLIC, PRIVATE, PUBLIC6, PRIVATE6 = "192.0.2.0/25", "10.7.0.0/24", "2001:db8::/120", "fd00:7::/120"
"""What is given out: documentation addresses (RFC 5737, RFC 3849) stand for public ones."""

STATUS = "status"

Answer = TypeVar("Answer")


class Status(msgspec.Struct, frozen=True):
    """A Service's status: whose word it is, its addresses, and the version of it that there is."""

    writer: str
    addresses: tuple[str, ...]
    version: int = 1


class Statuses:
    """The statuses of one cluster. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_owner: dict[Owner, Status] = {}

    def all(self) -> Mapping[Owner, Status]:
        with self._lock:
            return dict(self._by_owner)

    def write(self, owner: Owner, writer: str, addresses: tuple[str, ...], version: int) -> Status:
        """With the version that there was (0: none). Another one is a conflict, as the API server has it."""
        with self._lock:
            old = self._by_owner.get(owner)
            if (old.version if old else 0) != version:
                raise Retry(1, f"the status of {owner} is another one by now", reason="conflict")
            if old is not None and old.writer != writer:
                raise NotOurs(f"the status of {owner} is somebody else's: stop the other controller")
            self._by_owner[owner] = Status(writer, addresses, version + 1)
            return self._by_owner[owner]

    def clear(self, owner: Owner) -> None:
        """There are no addresses in it any more. Safe to repeat."""
        with self._lock:
            self._by_owner.pop(owner, None)

    def plant(self, owner: Owner, status: Status) -> bool:
        """Somebody else's word, where there is none yet."""
        with self._lock:
            return self._by_owner.setdefault(owner, status) is status


class Stacked:
    """The provider, and the statuses that its addresses stand in, as one."""

    claims = False

    def __init__(self, provider: Provider, statuses: Statuses, harness: Harness) -> None:
        self._provider, self._statuses, self._tell = provider, statuses, harness.on_call
        self._mark = f"lbctl of {harness.cluster_id}"
        self.name = provider.name
        self.kinds = (*provider.kinds, Kind(STATUS, after=tuple(kind.name for kind in provider.kinds)))
        self._known: Mapping[Owner, Status] = {}
        self._shown: Mapping[Owner, Status] = {}

    def observe(self, scope: Scope) -> Observation:
        """The statuses, read at every look; and the provider's look at Services that have them."""
        there = self._call("list", self._statuses.all)
        self._known = there
        self._shown = {owner: status for owner, status in there.items() if status.writer == self._mark}
        inner = self._provider.observe(self._inner(scope))
        own = tuple(
            _status(owner, status.addresses, status.version)
            for owner, status in self._shown.items()
            if scope.covers(owner)
        )
        return Observation(scope, (*inner.resources, *own), {"inner": inner})

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        """What the provider says, and a status for each Service that it serves."""
        inner: Observation = seen.facts["inner"]
        known = {resource.owner: resource.outputs["version"] for resource in seen.resources if resource.kind == STATUS}
        there = tuple(resource for resource in seen.resources if resource.kind == ADDRESS)
        said = self._provider.desired(load_balancers, msgspec.structs.replace(inner, resources=there))
        statuses = (
            Resource(STATUS, owner, owner, {"addresses": refs}, {"version": known.get(owner, 0)})
            for owner, refs in sorted(said.addresses.items())
        )
        return msgspec.structs.replace(said, resources=(*said.resources, *statuses))

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        return self._provider.shares(load_balancer)

    def adopts(self, status: Sequence[Ingress]) -> bool:
        return self._provider.adopts(status)

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        if changes[0].kind == ADDRESS:
            return self._provider.apply(changes)
        return [self._apply(change) for change in changes]

    def _inner(self, scope: Scope) -> Scope:
        """The same look, at Services with the statuses that they have."""
        shares = {
            share: count
            for old, count in scope.shares.items()
            for share in self._provider.shares(self._with_status(cast("Ask", old).load_balancer))
        }
        served = tuple(map(self._with_status, scope.load_balancers))
        return msgspec.structs.replace(scope, load_balancers=served, shares=shares)

    def _with_status(self, load_balancer: LoadBalancer) -> LoadBalancer:
        status = self._shown.get(load_balancer.owner)
        ingress = tuple(Ingress(ip=text, ip_mode="VIP") for text in status.addresses) if status else ()
        return msgspec.structs.replace(load_balancer, status=ingress)

    def _apply(self, change: Change) -> Resource | Exception | None:
        try:
            if change.after is None:
                self._call("clear", self._statuses.clear, change.owner)
                return None
            wanted: tuple[str, ...] = change.after.fields["addresses"]
            old = self._call("get", self._statuses.all).get(change.owner)
            if old is None or old.writer != self._mark or old.addresses != wanted:
                version = change.after.outputs.get("version", 0)
                old = self._call("patch", self._statuses.write, change.owner, self._mark, wanted, version)
            return _status(change.owner, wanted, old.version)
        except LbctlError as error:
            return error

    def _call(self, operation: str, function: Callable[..., Answer], *arguments: object) -> Answer:
        self._tell(Call("statuses", operation))
        try:
            answer = function(*arguments)
        except LbctlError as error:
            self._tell(Call("statuses", operation, error.reason))
            raise
        self._tell(Call("statuses", operation, "ok"))
        return answer


def _status(owner: Owner, addresses: tuple[str, ...], version: int) -> Resource:
    return Resource(STATUS, owner, owner, {"addresses": addresses}, {"version": version})


class ClusterStandin:
    """Some clusters, by their id. See `lbctl.testing.standin`."""

    def __init__(self) -> None:
        self.settings: Mapping[str, str] = {"addresses": ", ".join((PUBLIC, PRIVATE, PUBLIC6, PRIVATE6))}
        self._clusters: dict[str, Statuses] = {}

    def around(self, make: ProviderFactory) -> ProviderFactory:
        """Makers of providers that have the statuses of their cluster below them."""

        def factory(harness: Harness) -> Provider:
            statuses = self._clusters.setdefault(harness.cluster_id, Statuses())
            return Stacked(make(harness), statuses, harness)

        return factory

    def start(self) -> None:
        """Nothing needs to."""

    def stop(self) -> None:
        """Nothing needs to."""

    def reset(self) -> None:
        self._clusters.clear()

    def nodes(self, count: int) -> Sequence[Node]:
        first = IPv4Address("198.51.100.0")
        return tuple(Node(f"node-{number}", addresses=(first + number,)) for number in range(1, count + 1))

    def inventory(self) -> frozenset[str]:
        return frozenset(
            f"{cluster} {owner} {address} by {status.writer}"
            for cluster, statuses in self._clusters.items()
            for owner, status in statuses.all().items()
            for address in status.addresses
        )

    def public(self) -> frozenset[str]:
        """Inventory lines of what the internet reaches."""
        return frozenset(line for line in self.inventory() if not is_private(_address(line)))

    def plant_foreign(self) -> frozenset[str]:
        """Another controller's word on a Service of another class, in each cluster; its address lies in our pool."""
        before = self.inventory()
        for statuses in self._clusters.values():
            statuses.plant(Owner("laws/foreign"), Status("another controller", ("192.0.2.9",)))
        return self.inventory() - before

    def drift(self, resource: Resource) -> str | None:
        """Somebody wipes the status that the resource stands in."""
        for statuses in self._clusters.values():
            statuses.clear(resource.owner)
        return f"the status of {resource.owner} was wiped"

    def settle(self) -> None:
        """Nothing takes time here."""


def _address(line: str) -> IPv4Address:
    return IPv4Address(line.split()[2])


def standin() -> Standin:
    """What the entry point `l2` in the group `lbctl.standins` names."""
    return ClusterStandin()
