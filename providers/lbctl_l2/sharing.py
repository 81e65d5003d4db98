"""Who may share an address, and which of those that hold one keep it.  PURE.

MetalLB's rules, and the pool's: sharers say the same non-empty key; the same may answer for them (anybody, or pods of
the same selector); no port is the same; they are of one namespace, unless the pool is shared by the whole cluster.

Services that share may change afterwards, so that they cannot any more. MetalLB remembers on what terms it gave the
address and takes it from the one that changed. Here nothing is remembered: a restart, or another replica, must come to
the same. What objects say suffices where one Service parts with several, since one change is likelier than many:

    the largest number of holders that can share with each other keeps the address; of equally large ones the one with
    the oldest Service

Of two that part it does not suffice. With the keys `k` and `l` they may be two that said `k`, or two that said `l`:
the same Services with the same statuses, of which MetalLB would move one in the first case and the other in the second.
No rule that sees only these can do so, and the older stays. (`metadata.generation` counts no annotations, and the times
in `managedFields` are of writers, not of annotations: neither tells more.)
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from lbctl_l2.pool import Pool, Request


def alike(one: Request, other: Request) -> bool:
    """Do they say the same of whom they share with?"""
    return bool(one.key) and (one.key, one.backend) == (other.key, other.backend)


def clash(request: Request, tenants: Iterable[Request], pool: Pool | None = None) -> tuple[str, str] | None:
    """Why it cannot share an address with those who have it: a reason and a sentence."""
    keys = frozenset(request.keys)
    for tenant in tenants:
        if tenant.owner == request.owner:
            continue
        if not (keys and tenant.keys):
            return "address-in-use", f"{tenant.owner} has it"
        if keys.isdisjoint(tenant.keys):
            return "sharing-conflict", f"{tenant.owner} has it and shares it by another key"
        if request.backend != tenant.backend:
            return "sharing-conflict", f"{tenant.owner} has it, with another externalTrafficPolicy or selector"
        if same := request.ports & tenant.ports:
            ports = ", ".join(f"{port}/{protocol}" for protocol, port in sorted(same))
            return "sharing-conflict", f"{tenant.owner} has {ports} on it"
        if pool is not None and pool.sharing == "namespace" and request.namespace != tenant.namespace:
            return "sharing-conflict", f"{tenant.owner} has it, and {pool.name} is shared within one namespace only"
    return None


def unclear(tenants: Sequence[Request]) -> tuple[str, str] | None:
    """Why nobody can share an address with these, if none of them says by which key."""
    if tenants and not any(tenant.key for tenant in tenants):
        return "sharing-conflict", f"{tenants[0].owner} has it, and its annotations disagree about the key"
    return None


def keepers(holders: Sequence[Request]) -> Sequence[Request]:
    """Who keeps an address that all of these hold, the oldest first. See above for the rule.

    A pool that is not shared across namespaces any more takes nothing from who shares already.
    """
    if len(holders) == 1:
        return holders
    queue = sorted(holders, key=lambda request: request.turn)
    return queue if _agree(queue) else _largest(queue)


def _agree(queue: Sequence[Request]) -> bool:
    """Can they all share? One pass, for that is how it nearly always is."""
    ports: set[tuple[str, int]] = set()
    for at, request in enumerate(queue):
        if at and not (alike(queue[0], request) and ports.isdisjoint(request.ports)):
            return False
        ports |= request.ports
    return True


def _largest(queue: Sequence[Request]) -> list[Request]:
    parties = [[request] for request in queue if not request.keys]
    said: dict[tuple[str, str], list[Request]] = {}
    for request in queue:
        for key in request.keys:
            said.setdefault((key, request.backend), []).append(request)
    parties += [_compatible(party) for party in said.values()]
    return min(parties, key=lambda party: (-len(party), [request.turn for request in party]))


def _compatible(party: Sequence[Request]) -> list[Request]:
    """Those of one key who have no port in common: whose ports are others', too, the least come first, then the oldest.

    To find the most that there could be is set packing, which is NP-hard. Where one Service took others' ports, this
    does: of several it is the one that goes, of two the younger.
    """
    crowd = Counter(port for request in party for port in request.ports)
    kept: list[Request] = []
    ports: set[tuple[str, int]] = set()
    for request in sorted(party, key=lambda r: (sum(crowd[port] for port in r.ports) - len(r.ports), r.turn)):
        if ports.isdisjoint(request.ports):
            kept.append(request)
            ports |= request.ports
    return sorted(kept, key=lambda request: request.turn)
