"""The least that a bare-metal provider can be: a dictionary of addresses given out. What is measured with it is lbctl.

Registered as a stranger's would be, by an entry point: `registered` writes one into a folder for PYTHONPATH.
"""

import threading
from collections.abc import Hashable, Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from lbctl.model import Ingress, LoadBalancer, Owner, Ref, Resource
from lbctl.plan import Change, Kind
from lbctl.provider import Desired, Harness, Observation, Plugin, Scope

NAME = "benchpool"
FIRST = int(IPv4Address("10.200.0.0"))


class Pool:
    """Addresses by owner, the lowest free one first. In memory only: no restart is measured here."""

    name = NAME
    claims = False
    kinds: tuple[Kind, ...] = (Kind("address", event="IPAllocated", failure="AllocationFailed"),)

    def __init__(self, _harness: Harness) -> None:
        self._lock = threading.Lock()
        self._given: dict[Owner, Resource] = {}

    def observe(self, scope: Scope) -> Observation:
        """Facts: `taken`, every address that somebody has or is about to get."""
        with self._lock:
            chosen = self._given.keys() if scope.owners is None else scope.owners & self._given.keys()
            found = tuple(self._given[owner] for owner in chosen)
            taken = {given.fields["ip"] for given in self._given.values()}
        taken |= {resource.fields["ip"] for resource in scope.taken if resource.kind == "address"}
        return Observation(scope, found, {"taken": taken})

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        have = {resource.owner: resource for resource in seen.resources}
        free = (ip for n in range(1 << 20) if (ip := str(IPv4Address(FIRST + n))) not in seen.facts["taken"])
        wanted = tuple(have.get(lb.owner) or _address(lb.owner, next(free)) for lb in load_balancers)
        return Desired(wanted, addresses={r.owner: (Ref("address", r.name, "ip"),) for r in wanted})

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        return ()

    def adopts(self, status: Sequence[Ingress]) -> bool:
        return False

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | None]:
        return [self._apply(change) for change in changes]

    def _apply(self, change: Change) -> Resource | None:
        with self._lock:
            if change.after is None:
                self._given.pop(change.owner, None)
                return None
            given = self._given[change.owner] = _address(change.owner, change.after.fields["ip"])
            return given


def _address(owner: Owner, ip: str) -> Resource:
    return Resource("address", owner, owner, {"ip": ip}, {"ip": ip}, because=f"{ip} is free")


def registered(folder: Path) -> Path:
    """The folder, with what Python finds this provider by."""
    info = folder / f"{NAME}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[lbctl.providers]\n{NAME} = tests.bench.pool:plugin\n")
    return folder


plugin = Plugin(NAME, Pool)
