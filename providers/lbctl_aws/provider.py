"""AWS as a provider: the four questions answered with what the other modules know.

    look.py       reads AWS                 desired.py, resources.py   say what ought to be (PURE)
    carry.py      carries out one change    api.py                     sends every call

A warm look answers from `Known`: what was read before, and our own writes since. It costs no call unless a Service or
node names something that nobody has asked for yet.
"""

from collections import ChainMap
from collections.abc import Hashable, Iterable, Sequence

import msgspec

from lbctl.errors import LbctlError, Refused, SettingsError
from lbctl.model import SHARED, Ingress, LoadBalancer, Owner, Resource, Scheme
from lbctl.plan import Change, Kind
from lbctl.provider import Desired, Harness, Known, Observation, Scope
from lbctl_aws import resources
from lbctl_aws.api import Api
from lbctl_aws.carry import Carrier
from lbctl_aws.desired import desired
from lbctl_aws.facts import Facts
from lbctl_aws.look import Look
from lbctl_aws.marks import Mark
from lbctl_aws.resources import KINDS, Context, checked, load_balancer_name, scheme_of
from lbctl_aws.settings import parse


class AwsProvider:
    """Network Load Balancers with the nodes' instances behind them."""

    name = "aws"
    kinds: tuple[Kind, ...] = KINDS
    claims = True

    def __init__(self, harness: Harness, api: Api) -> None:
        self.settings = parse(harness.settings)
        self.mark = Mark(harness.cluster_id, harness.installation_id, harness.take_over)
        self._look = Look(api, self.settings, self.mark)
        self._carrier = Carrier(api, self.mark, self._look)
        self._known = Known()
        self._holders: dict[str, Owner] = {}
        self._names: dict[Owner, tuple[LoadBalancer, Scheme, str]] = {}

    def observe(self, scope: Scope) -> Observation:
        """Fresh: a number of pages, and in turn what AWS tells one at a time. Warm: usually no call at all."""
        if not self.mark.cluster_id:
            raise SettingsError("the cluster's id is not known: give --cluster-id, LBCTL_CLUSTER_ID or a kubeconfig")
        if scope.fresh or not self._known.complete:
            self._known.begin()
            self._known.replace(self._look.everything(scope, self._known.same))
            self._names = {}
            self._holders = dict(hold for r in self._known.of(None) for hold in _holds(r))
            scope = msgspec.structs.replace(scope, fresh=True)
        taken = {hold: owner for r in scope.taken for hold in r.holds for owner in (r.owner,)}
        facts = self._look.facts(scope, ChainMap(taken, self._holders) if taken else self._holders)
        owners = None if scope.owners is None else {*scope.owners, SHARED}
        seen = self._without_parts_that_go(self._known.of(owners), scope)
        return Observation(scope, tuple(seen), {"facts": facts})

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        return desired(load_balancers, seen, self._context(seen.facts["facts"]))

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        return resources.shares(load_balancer, self.settings)

    def adopts(self, status: Sequence[Ingress]) -> bool:
        return False

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        return [self._carry(change) for change in changes]

    def _carry(self, change: Change) -> Resource | Exception | None:
        try:
            result = self._carrier.carry(change)
        except LbctlError as error:
            return error
        self._known.note(change, result)
        self._take_note(change, result)
        return result

    def _take_note(self, change: Change, result: Resource | None) -> None:
        if change.kind != "load-balancer":
            return
        for hold, owner in _holds(result or change.before):
            if result is not None:
                self._holders[hold] = owner
            elif self._holders.get(hold) == owner:
                del self._holders[hold]
        if result is None and change.before is not None:
            self._forget_listeners(change.owner, str(change.before.outputs.get("arn", "")))

    def _forget_listeners(self, owner: Owner, arn: str) -> None:
        """AWS deletes a load balancer's listeners with it."""
        for resource in self._known.of([owner]):
            if resource.kind == "listener" and resource.fields["load_balancer"] == arn:
                self._known.note(Change("delete", resource.kind, resource.name, owner, resource), None)

    def _without_parts_that_go(self, seen: Sequence[Resource], scope: Scope) -> Iterable[Resource]:
        """Listeners of load balancers that nobody wants go with those: as parts, not as changes of their own."""
        current: dict[Owner, list[Resource]] = {}
        for resource in seen:
            if resource.kind == "load-balancer":
                current.setdefault(resource.owner, []).append(resource)
        wanted = {name for lb in scope.load_balancers if (name := self._name(lb, current.get(lb.owner, ())))}
        refused = {refusal.owner for refusal in scope.refused}
        return (r for r in seen
                if r.kind != "listener" or r.owner in refused or r.name.rpartition(":")[0] in wanted)

    def _name(self, lb: LoadBalancer, current: Iterable[Resource]) -> str:
        """The load balancer's name; empty where the Service cannot be served. Worked out once per version of it."""
        try:
            scheme = scheme_of(lb, current, self._context(Facts()))
            known = self._names.get(lb.owner)
            if known is None or known[0] is not lb or known[1] != scheme:
                name = load_balancer_name(lb, checked(lb)[0], scheme, self._context(Facts()))
                known = self._names[lb.owner] = (lb, scheme, name)
            return known[2]
        except Refused:
            return ""

    def _context(self, facts: Facts) -> Context:
        return Context(self.settings, self.mark, facts)


def _holds(resource: Resource | None) -> Iterable[tuple[str, Owner]]:
    """What a load balancer holds that nobody else can have: its name and its static addresses."""
    return ((hold, resource.owner) for hold in resource.holds) if resource is not None else ()
