"""`lbctl explain [NAMESPACE/]SERVICE`: everything about one Service, from its class to its pods."""

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from lbctl.cli import codes, options, output
from lbctl.errors import LbctlError, SettingsError
from lbctl.render import (
    Explanation,
    Step,
    explanation_data,
    explanation_markdown,
    explanation_text,
    steps,
)

if TYPE_CHECKING:
    from lbctl.cli.inputs import Inputs
    from lbctl.cli.session import Session
    from lbctl.kube.objects import EndpointSlice, Service
    from lbctl.model import LoadBalancer, Node, Note, Owner
    from lbctl.plan import Change, Plan


@click.command("explain", cls=options.Configured)
@click.argument("service")
@click.option("-n", "--namespace", default="default", show_default=True, metavar="NAME", help="its namespace")
@options.files
@options.output("text", "json", "yaml", "markdown")
def explain(service: str, namespace: str, paths: tuple[str, ...], form: str, flags: dict[str, Any]) -> int:
    """Why one Service is as it is: its class, who serves it, refusals, what would change, and the way of a packet from
    the address to a pod, each station with the command that shows it.
    """
    from lbctl.cli.inputs import inputs
    from lbctl.cli.session import Session
    from lbctl.model import Owner

    session = Session(flags)
    given = inputs(session, paths)
    try:
        name = service.removeprefix("service/").removeprefix("svc/")
        found = _explanation(session, given, Owner(name if "/" in name else f"{namespace}/{name}"))
    finally:
        given.close()
    if form in ("json", "yaml"):
        data = explanation_data(found)
        output.say(output.as_json(data) if form == "json" else output.as_yaml(data))
    else:
        output.say((explanation_markdown if form == "markdown" else explanation_text)(found), signs=form == "text")
    return codes.OK


def _explanation(session: "Session", given: "Inputs", owner: "Owner") -> Explanation:
    service = given.stores.services.get(owner)
    if service is None:
        message = f"there is no Service {owner} in {given.source}: see kubectl get services -A"
        raise LbctlError(message, reason="no-service")
    provider = _provider(session, service)
    bare = Explanation(
        owner, "", service.spec.load_balancer_class or "", provider,
        tuple(entry.hostname or entry.ip or "" for entry in service.ingress), _conditions(service),
    )  # fmt: skip
    if not provider:
        return replace(bare, verdict=_not_ours(service))
    plan, load_balancer, problem = _planned(session, given, owner, provider)
    slices = given.stores.slices.by("service", owner)
    known = given.cluster is not None
    plugin = session.installed.get(provider)
    ports = plugin is None or plugin.needs_node_ports
    walk = (
        *_walk(service, slices, load_balancer, plan.notes if plan else (), known=known, ports=ports),
        *(_seen(session, provider, load_balancer) if known and load_balancer is not None else ()),
    )
    if plan is None:
        return replace(bare, verdict=f"it cannot be planned here: {problem}", walk=walk)
    mine = [[c for c in held if c.owner == owner] for held in (steps(plan), plan.pending, plan.frozen)]
    refusal = next((refusal for refusal in plan.refused if refusal.owner == owner), None)
    if refusal is not None and refusal.reason == SettingsError.reason:
        return replace(bare, verdict=f"it cannot be planned here: {refusal.message}", refusal=refusal, walk=walk)
    return replace(
        bare, verdict=_verdict(service, refusal is not None, bool(mine[0]), walk),
        refusal=refusal, notes=tuple(note for note in plan.notes if note.owner == owner),
        changes=tuple(map(_change_here, mine[0])), pending=tuple(mine[1]), frozen=tuple(mine[2]),
        limit=plan.limit if mine[2] else "", unchanged=plan.unchanged, walk=walk,
    )  # fmt: skip


def _provider(session: "Session", service: "Service") -> str:
    """Whose it is: by its class, or the default provider's; empty if nobody's here."""
    from lbctl.kube.read import provider_of

    if service.spec.type != "LoadBalancer":
        return ""
    return provider_of(service) if service.spec.load_balancer_class else session.config.default_provider


def _not_ours(service: "Service") -> str:
    if service.spec.type != "LoadBalancer":
        return f"its type is {service.spec.type}: only Services of type LoadBalancer are served"
    if service.spec.load_balancer_class:
        return f"its class {service.spec.load_balancer_class} is somebody else's: lbctl does not touch it"
    return (
        "it has no loadBalancerClass and there is no default provider: set spec.loadBalancerClass (lbctl.io/aws, …), "
        "or give --default-provider"
    )


def _planned(
    session: "Session", given: "Inputs", owner: "Owner", provider: str
) -> "tuple[Plan | None, LoadBalancer | None, str]":
    from lbctl.cli.paths import Paths
    from lbctl.model import SHARED

    ways = Paths(session, given, only=(provider,))
    try:
        way = ways.paths[provider]
        load_balancer = ways.sources[provider].read(owner)
        if way.reconciler is None:
            return None, load_balancer, way.problem.message if way.problem else f"{provider} cannot be used"
        return way.reconciler.plan(frozenset({owner, SHARED})), load_balancer, ""
    except LbctlError as error:
        return None, ways.sources[provider].read(owner), f"{error.reason}: {error.message}"
    finally:
        ways.close()


def _verdict(service: "Service", refused: bool, changes: bool, walk: Sequence[Step]) -> str:
    if refused:
        return "it is refused, and keeps what it has"
    if service.metadata.deletion_timestamp is not None:
        return "it is being deleted: what was made for it goes first"
    if changes:
        return "it is served, but not all is as it should be yet" if service.ingress else "it is about to be made"
    if not service.ingress:
        return "it has no address, and nothing is left to do here"
    bad = ", ".join(step.station for step in walk if step.ok is False)
    return f"it has its address, but not all is well on the way: see {bad}" if bad else "it is served as it asks"


def _conditions(service: "Service") -> tuple[tuple[str, str, str, str], ...]:
    found = (c for c in service.status.conditions or () if c.type.startswith("lbctl.io/"))
    return tuple((c.type, c.status, c.reason, _told(service, c.message)) for c in found)


def _told(service: "Service", message: str) -> str:
    from lbctl.kube import read

    return str(_here(read.owner(service), message))


def _here(owner: "Owner", said: Any) -> Any:
    """What a condition says, or a field with conditions in it, without the hint to look here."""
    from lbctl.kube.status import look

    if isinstance(said, str):
        return said.removesuffix(look(owner))
    if isinstance(said, tuple):
        return tuple(_here(owner, item) for item in said)
    return {key: _here(owner, item) for key, item in said.items()} if isinstance(said, dict) else said


def _change_here(change: "Change") -> "Change":
    owner, after = change.owner, change.after
    updates = (replace(d, before=_here(owner, d.before), after=_here(owner, d.after)) for d in change.updates)
    after = after and replace(after, fields=_here(owner, dict(after.fields)))
    return replace(change, after=after, updates=tuple(updates))


# ── the way of a packet ───────────────────────────────────────────────────────────────────────────────────────────────


def _walk(
    service: "Service",
    slices: "Sequence[EndpointSlice]",
    load_balancer: "LoadBalancer | None",
    notes: "Sequence[Note]",
    *,
    known: bool,
    ports: bool,
) -> Iterator[Step]:
    """Address → health → NodePort (where they are on the way) → nodes → targetPort → ready pods → selector."""
    yield _address(service)
    yield _health(service, load_balancer, notes)
    if ports:
        yield _node_ports(service)
    yield _nodes(load_balancer.nodes if load_balancer else ())
    yield _target_ports(service)
    yield _pods(service, slices, load_balancer) if known else Step("ready pods", "not known: files say nothing of pods")
    yield _selector(service)


def _seen(session: "Session", provider: str, load_balancer: "LoadBalancer") -> Iterator[Step]:
    """What the provider itself can show of it."""
    insight = session.insight(provider)
    for sight in insight.explain(load_balancer) if insight is not None else ():
        yield Step(sight.topic, sight.text, sight.ok, sight.way)


def _kubectl(service: "Service", *words: str, selects: str = "") -> str:
    parts = ["kubectl", *words, "-n", service.metadata.namespace]
    return " ".join(map(shlex.quote, [*parts, *(("-l", selects) if selects else ())]))


def _address(service: "Service") -> Step:
    found = ", ".join(entry.hostname or entry.ip or "" for entry in service.ingress)
    ports = ", ".join(f"{p.port}/{p.protocol or 'TCP'}" for p in service.spec.ports or ())
    command = _kubectl(service, "describe", "service", service.metadata.name)
    return Step("address", f"{found or 'none yet'}, ports {ports or 'none'}", bool(found), command)


def _health(service: "Service", load_balancer: "LoadBalancer | None", notes: "Sequence[Note]") -> Step:
    from lbctl.model import SERVING

    command = _kubectl(service, "get", "service", service.metadata.name, "-o", "jsonpath={.status.conditions}")
    bad = [n for n in notes if load_balancer is not None and n.owner == load_balancer.owner and n.condition == SERVING]
    if bad:
        return Step("target health", "; ".join(f"{note.reason}: {note.message}" for note in bad), False, command)
    told = service.conditions.get(SERVING)
    if told is None:
        return Step("target health", "nothing is known of it", None, command)
    return Step("target health", f"{told.reason}: {_told(service, told.message)}", told.status == "True", command)


def _node_ports(service: "Service") -> Step:
    ports = service.spec.ports or ()
    said = ", ".join(f"{p.port}/{p.protocol or 'TCP'} → {p.node_port or '(known after apply)'}" for p in ports)
    command = _kubectl(service, "get", "service", service.metadata.name, "-o", "wide")
    return Step("NodePorts", said or "none", bool(ports) and all(p.node_port for p in ports), command)


def _nodes(nodes: "Sequence[Node]") -> Step:
    names = ", ".join(node.name for node in nodes[:5]) + (f" and {len(nodes) - 5} more" if len(nodes) > 5 else "")
    return Step("nodes", f"{len(nodes)} may receive traffic: {names}" if nodes else "no node may receive traffic",
                bool(nodes), "kubectl get nodes -o wide")  # fmt: skip


def _target_ports(service: "Service") -> Step:
    said = ", ".join(f"{p.port} → {p.target_port or p.port}" for p in service.spec.ports or ())
    path = "jsonpath={range .items[*]}{.metadata.name}{.spec.containers[*].ports}{end}"
    command = _kubectl(service, "get", "pods", "-o", path, selects=_labels(service))
    return Step("targetPort", said or "none", None, command)


def _labels(service: "Service") -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((service.spec.selector or {}).items()))


def _pods(service: "Service", slices: "Sequence[EndpointSlice]", load_balancer: "LoadBalancer | None") -> Step:
    from lbctl.kube import read

    ready = read.endpoints(slices)
    total = max((len(item.endpoints or ()) for item in slices), default=0)
    chosen = f"kubernetes.io/service-name={service.metadata.name}"
    command = _kubectl(service, "get", "endpointslices", selects=chosen)
    where = ", ".join(sorted(ready.nodes)) or "no node"
    said = f"{ready.ready} of {max(total, ready.ready)} are ready, on {where}"
    if service.spec.external_traffic_policy != "Local":
        return Step("ready pods", said, ready.ready > 0, command)
    nodes = {node.name for node in load_balancer.nodes} if load_balancer else set()
    local = bool(ready.nodes & nodes)
    said += "; externalTrafficPolicy is Local, so only these answer" if local else "; none of these is an eligible node"
    return Step("ready pods", said, ready.ready > 0 and local, command)


def _selector(service: "Service") -> Step:
    labels = _labels(service)
    if not labels:
        said = "none: EndpointSlices are made by hand, or by somebody else's controller"
        return Step("selector", said, None, _kubectl(service, "get", "endpointslices"))
    return Step("selector", labels, None, _kubectl(service, "get", "pods", "-o", "wide", selects=labels))
