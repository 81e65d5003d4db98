"""All load balancers that one stack is to serve, kept up to date event by event.

The controller and the command line fill it from `kube/source.py`; `reconcile.py` takes the part that a look is about.
What load balancers contribute to shared things is counted here as they come and go, so that an event among 10,000
Services costs one addition: the count equals the one made from scratch (a law).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from datetime import UTC, datetime

from lbctl.model import LoadBalancer, Owner

Shares = Callable[[LoadBalancer], Iterable[Hashable]]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Wanted:
    """The wanted load balancers by owner, by namespace, and summed up. Not thread-safe: planning is serial."""

    def __init__(self, shares: Shares = lambda _load_balancer: ()) -> None:
        self.by_owner: dict[Owner, LoadBalancer] = {}
        self.shares: Counter[Hashable] = Counter()
        self._share = shares
        self._namespaces: defaultdict[str, set[Owner]] = defaultdict(set)

    def put(self, load_balancer: LoadBalancer) -> bool:
        """Add or replace one. False if that changed nothing."""
        old = self.by_owner.get(load_balancer.owner)
        if old == load_balancer:
            return False
        if old is not None:
            self.remove(old.owner)
        self.by_owner[load_balancer.owner] = load_balancer
        for share in self._share(load_balancer):
            self.shares[share] += 1
        self._namespaces[load_balancer.namespace].add(load_balancer.owner)
        return True

    def remove(self, owner: Owner) -> bool:
        """Take one away. False if it was not there."""
        old = self.by_owner.pop(owner, None)
        if old is None:
            return False
        for share in self._share(old):
            self.shares[share] -= 1
            if not self.shares[share]:
                del self.shares[share]
        self._namespaces[old.namespace].discard(owner)
        return True

    def of(self, owners: frozenset[Owner] | None) -> tuple[LoadBalancer, ...]:
        """Those of these owners, or all of them."""
        if owners is None:
            return tuple(self.by_owner.values())
        return tuple(self.by_owner[owner] for owner in sorted(owners) if owner in self.by_owner)

    def ranking(self, namespace: str) -> list[Owner]:
        """A namespace's owners: those with an address first, then the oldest, then by name."""
        members = (self.by_owner[owner] for owner in self._namespaces.get(namespace, ()))
        return [lb.owner for lb in sorted(members, key=lambda lb: (not lb.status, lb.created or _EPOCH, lb.owner))]

    def __contains__(self, owner: object) -> bool:
        return owner in self.by_owner

    def __len__(self) -> int:
        return len(self.by_owner)
