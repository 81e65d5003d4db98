"""What AWS ought to hold for all load balancers of a look, and whom we must refuse.  PURE.

`provider.py` calls `desired` once per pass. It is orderless: who comes first where two want the same immovable thing
is decided by who holds it, then by age and name.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from lbctl.errors import Refused
from lbctl.model import DEGRADED, SERVING, SHARED, Key, LoadBalancer, Node, Note, Owner, Ref, Refusal, Resource
from lbctl.provider import Desired, Observation
from lbctl_aws.facts import Facts, Instance
from lbctl_aws.resources import Context, build, shared, target_family
from lbctl_aws.settings import instance_id
from lbctl_aws.subnets import CLUSTER_TAG

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_WAY_OUT = {
    "not-ours": "it carries no mark of ours, so lbctl leaves it alone: choose another name, or delete it",
    "ownership-lost": "it has our name but not our tags; to give it back to lbctl: {command}",
    "other-installation": "it belongs to another installation with the same cluster id: give this cluster an id of its "
                          "own, or run lbctl with --take-over if the other is gone",
}


def desired(load_balancers: Sequence[LoadBalancer], seen: Observation, context: Context) -> Desired:
    """The resources, refusals, drains, notes and addresses of one pass."""
    mine: dict[Owner, list[Resource]] = defaultdict(list)
    for resource in seen.resources:
        mine[resource.owner].append(resource)
    if context.facts.copied:
        return _nothing_moves(load_balancers, mine)
    targets = _Targets(context)
    answers = [_answer(lb, mine[lb.owner], targets, context) for lb in load_balancers]
    served, refused = _settle(answers, context.facts)
    wanted = [resource for _, resources, _ in served for resource in resources]
    nodes = load_balancers[0].nodes if load_balancers else ()
    wanted += _shared(seen, nodes, bool(served), refused, mine, context)
    return Desired(
        resources=tuple(wanted),
        refused=tuple(refused),
        drains=_drains(served, mine, seen.scope.at, context.settings.drain_seconds),
        notes=tuple(note for _, _, notes in served for note in notes),
        addresses={r.owner: (Ref(r.kind, r.name, "hostname"),) for r in wanted if r.kind == "load-balancer"},
    )


Answer = tuple[LoadBalancer, list[Resource], list[Note]] | Refusal
Served = tuple[LoadBalancer, list[Resource], list[Note]]


def _answer(lb: LoadBalancer, mine: Iterable[Resource], targets: "_Targets", context: Context) -> Answer:
    current = {r.name: r for r in mine if r.kind == "load-balancer"}
    try:
        chosen, skipped = targets.of(lb)
        resources, notes = build(lb, chosen, current, context)
        _check_names(resources, context.facts)
    except Refused as no:
        return Refusal(lb.owner, no.reason, no.message)
    return lb, resources, [*notes, *_health_notes(lb, mine), *([skipped(lb.owner)] if skipped else [])]


def _check_names(resources: Iterable[Resource], facts: Facts) -> None:
    for resource in resources:
        if resource.key in facts.foreign:
            reason, command = facts.foreign[resource.key]
            way = _WAY_OUT[reason].format(command=command.replace("OWNER", resource.owner))
            raise Refused(f"the {resource.kind} {resource.name} exists already: {way}", reason=reason)


def _health_notes(lb: LoadBalancer, mine: Iterable[Resource]) -> Iterable[Note]:
    """What the last look said of the groups' targets and of the load balancer itself."""
    for resource in mine:
        healthy, total = resource.outputs.get("health", (1, 1))
        if total and not healthy:
            port = resource.fields.get("port")
            yield Note(lb.owner, SERVING, "targets-unhealthy",
                       f"none of {total} nodes passes the health check at nodePort {port}: check the pods, "
                       f"externalTrafficPolicy and the nodes' security group")
        if resource.outputs.get("state") in ("failed", "active_impaired"):
            yield Note(lb.owner, DEGRADED, "provisioning-failed",
                       f"AWS says that load balancer {resource.name} is {resource.outputs['state']}: check the "
                       f"subnets' free addresses")


def _settle(answers: Iterable[Answer], facts: Facts) -> tuple[list[Served], list[Refusal]]:
    """No two Services hold the same immovable thing: who has it keeps it, else the oldest gets it."""
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    served = [answer for answer in answers if not isinstance(answer, Refusal)]
    holders: dict[str, Owner] = dict(facts.holders)
    passed: list[Served] = []
    for answer in sorted(served, key=lambda a: (a[0].created or _EPOCH, a[0].owner)):
        owner = answer[0].owner
        holds = [hold for resource in answer[1] for hold in resource.holds]
        taken = next((hold for hold in holds if holders.get(hold, owner) != owner), None)
        if taken is None:
            holders.update(dict.fromkeys(holds, owner))
            passed.append(answer)
        else:
            sort, _, what = taken.partition(":")
            refused.append(Refusal(owner, "held-by-another", f"{sort} {what} is held by Service {holders[taken]}: "
                                                             f"choose another, or remove it there first"))
    return passed, refused


def _nothing_moves(load_balancers: Sequence[LoadBalancer], mine: Mapping[Owner, list[Resource]]) -> Desired:
    """A copied or restored cluster must not collect what serves the first one."""
    message = (
        "none of the registered targets is a node of this cluster, which looks like a copy of another: nothing is "
        "changed; give this cluster an id of its own, or run lbctl with --take-over if the other is gone"
    )
    owners = sorted({lb.owner for lb in load_balancers} | mine.keys() - {SHARED})
    return Desired(resources=tuple(mine.get(SHARED, ())),
                   refused=tuple(Refusal(owner, "cluster-copied", message) for owner in owners))


# -- shared things --------------------------------------------------------------------------------------------------


def _shared(
    seen: Observation, nodes: Sequence[Node], any_served: bool, refused: Sequence[Refusal],
    mine: Mapping[Owner, list[Resource]], context: Context,
) -> list[Resource]:
    """What all Services need together. Whoever is refused keeps what it has, so its shared part stays too."""
    keeps = any(mine.get(refusal.owner) for refusal in (*refused, *seen.scope.refused))
    if not any_served:
        return list(mine.get(SHARED, ())) if keeps or seen.scope.owners is not None else []
    wanted = [share for share, count in seen.scope.shares.items() if count > 0 and _is_share(share)]
    fresh = shared(wanted, node_groups(nodes, context), context)  # type: ignore[arg-type]
    if keeps or (wanted and not nodes):
        have = {resource.key for resource in fresh}
        return fresh + [resource for resource in mine.get(SHARED, ()) if resource.key not in have]
    return fresh


def _is_share(share: object) -> bool:
    return isinstance(share, tuple) and len(share) == 3


def node_groups(nodes: Sequence[Node], context: Context) -> set[str]:
    """The security groups of the nodes: of each primary interface the only one, or the only one with a cluster tag."""
    found: set[str] = set()
    for groups in {i.groups for node in nodes if (i := context.facts.instances.get(instance_id(node)))}:
        tagged = [group for group in groups if _is_tagged(group, context)]
        if len(groups) == 1:
            found.add(groups[0])
        elif len(tagged) == 1:
            found.add(tagged[0])
    return found


def _is_tagged(group: str, context: Context) -> bool:
    known = context.facts.groups.get(group)
    name = context.settings.cluster_name
    return known is not None and any(
        key == CLUSTER_TAG + name if name else key.startswith(CLUSTER_TAG) for key in known.tags
    )


# -- targets --------------------------------------------------------------------------------------------------------


class _Skipped:
    """Why some nodes are no targets: one sentence for all Services of a pass."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason, self.message = reason, message

    def __call__(self, owner: Owner) -> Note:
        return Note(owner, DEGRADED, self.reason, self.message)


class _Targets:
    """The nodes' instances, worked out once per pass and choice of labels. All Services share one tuple."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[tuple[int, bool, tuple[tuple[str, str], ...]], tuple[tuple[str, ...], _Skipped | None]] = {}

    def of(self, lb: LoadBalancer) -> tuple[tuple[str, ...], _Skipped | None]:
        """(instance ids, why some nodes are left out). Raises `Refused` for annotations that cannot be read."""
        text = lb.annotations.get("service.beta.kubernetes.io/aws-load-balancer-target-node-labels", "")
        labels = tuple((key.strip(), value.strip()) for key, _, value in
                       (part.partition("=") for part in text.split(",") if part.strip()))
        ipv6 = target_family(lb) == "ipv6"
        key = (id(lb.nodes), ipv6, labels)
        if key not in self._known:
            self._known[key] = self._work_out([n for n in lb.nodes if _has(n, labels)], ipv6)
        return self._known[key]

    def _work_out(self, nodes: Sequence[Node], ipv6: bool) -> tuple[tuple[str, ...], _Skipped | None]:
        facts = self._context.facts
        instances = {node.name: facts.instances.get(instance_id(node)) for node in nodes}
        tag = CLUSTER_TAG + self._context.settings.cluster_name
        marked = bool(self._context.settings.cluster_name) and any(i and tag in i.tags for i in instances.values())
        fine: list[str] = []
        why: dict[str, list[str]] = defaultdict(list)
        for node in nodes:
            instance = instances[node.name]
            problem = _problem(node, instance, facts.vpc, tag if marked else "", ipv6)
            if problem or instance is None:
                why[problem].append(node.name)
            else:
                fine.append(instance.id)
        self._check_groups(nodes)
        return tuple(sorted(set(fine))), _skipped(why, facts.vpc)

    def _check_groups(self, nodes: Sequence[Node]) -> None:
        if not nodes or node_groups(nodes, self._context):
            return
        for groups in {i.groups for n in nodes if (i := self._context.facts.instances.get(instance_id(n)))}:
            raise Refused(
                f"the nodes carry {len(groups)} security groups ({', '.join(groups)}) and not exactly one of them is "
                f"tagged kubernetes.io/cluster/{self._context.settings.cluster_name or 'NAME'}: tag the one that "
                f"lbctl may open, or set --aws-cluster-name", reason="node-security-group",
            )


def _has(node: Node, labels: Sequence[tuple[str, str]]) -> bool:
    return all(key in node.labels and value in ("", node.labels[key]) for key, value in labels)


def _problem(node: Node, instance: Instance | None, vpc: str, tag: str, ipv6: bool) -> str:
    if not instance_id(node):
        return "no-provider-id"
    if instance is None:
        return "unknown-instance"
    if instance.vpc != vpc or (tag and tag not in instance.tags):
        return "node-not-ours"
    if instance.state not in ("running", ""):
        return "not-running"
    return "no-primary-ipv6" if ipv6 and not instance.ipv6 else ""


_SENTENCES = {
    "no-provider-id": "has no EC2 instance in spec.providerID: start its kubelet with --cloud-provider=external",
    "unknown-instance": "is an instance that EC2 does not know in this account and region",
    "node-not-ours": "is an instance outside {vpc} or without the cluster's tag: tag it if it belongs to the cluster",
    "not-running": "is an instance that is not running",
    "no-primary-ipv6": "is an instance without a primary IPv6 address, which AWS wants of IPv6 targets: assign one, or "
                       "set spec.ipFamilies to IPv4 first",
}


def _skipped(why: Mapping[str, list[str]], vpc: str) -> _Skipped | None:
    if not why:
        return None
    reason = min(why)
    parts = [f"{_some(names)} {_SENTENCES[token].format(vpc=vpc)}" for token, names in sorted(why.items())]
    return _Skipped(reason, "not registered: " + "; ".join(parts))


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


# -- drains ---------------------------------------------------------------------------------------------------------


def _drains(
    served: Sequence[Served], mine: Mapping[Owner, list[Resource]], at: datetime, seconds: int
) -> dict[Key, datetime]:
    """Replaced load balancers stay until their replacement is so old; with them the groups that they send to."""
    drains: dict[Key, datetime] = {}
    for lb, resources, _ in served:
        wanted = {resource.key for resource in resources}
        name = next(r.name for r in resources if r.kind == "load-balancer")
        old = [r for r in mine[lb.owner] if r.kind == "load-balancer" and r.key not in wanted]
        if not old:
            continue
        born = [_created(r) for r in mine[lb.owner] if r.kind == "load-balancer" and r.name == name]
        until = (born[0] or at if born else at) + timedelta(seconds=seconds)
        going = [r for r in mine[lb.owner] if r.kind in ("load-balancer", "target-group") and r.key not in wanted]
        drains |= dict.fromkeys((r.key for r in going), until)
    return drains


def _created(resource: Resource) -> datetime | None:
    said = resource.outputs.get("created", "")
    return datetime.fromisoformat(said) if said else None
