"""`lbctl doctor`: what is wrong, and how to mend it.

Each finding says what was looked at, what was seen, and the way out. It writes nothing, but for the questions that
Kubernetes answers only to a POST (SelfSubjectAccessReview). NodePorts are tried on the addresses that Nodes carry,
never on one out of a Service, an EndpointSlice or an annotation.
"""

import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from lbctl.cli import codes, options, output
from lbctl.errors import CredentialsError, LbctlError

if TYPE_CHECKING:
    from lbctl.cli.inputs import Inputs
    from lbctl.cli.paths import Paths
    from lbctl.cli.session import Session
    from lbctl.cluster import Watch
    from lbctl.kube.client import Client
    from lbctl.model import LoadBalancer, Node, Scheme
    from lbctl.provider import Plugin

Level = Literal["ok", "warning", "error"]

RIVALS = {
    "aws-load-balancer-controller": "it serves class-less Services once its webhook has given them its class",
    "metallb-controller": "it serves class-less Services unless it runs with --lb-class",
    "metallb-speaker": "it announces what metallb-controller gave out",
    "metallb-system/controller": "MetalLB's controller serves class-less Services unless it runs with --lb-class",
    "metallb-system/speaker": "MetalLB's speaker announces what its controller gave out",
    "kube-vip-ds": "it serves class-less Services unless it runs with lb_class_only",
    "kube-vip": "it serves class-less Services unless it runs with lb_class_only",
    "kube-vip-cloud-provider": "it gives addresses to class-less Services",
    "purelb": "it serves class-less Services where it is the default announcer",
    "allocator": "PureLB's allocator serves class-less Services",
    "cloud-controller-manager": "it serves class-less Services",
    "aws-cloud-controller-manager": "it serves class-less Services",
    "cloud-provider-azure": "it serves class-less Services",
    "gcp-cloud-controller-manager": "it serves class-less Services",
}
"""Controllers that give addresses to Services, by the name of their Deployment or DaemonSet; where that says little,
by the namespace that their manifests name, too."""

REACH_TIMEOUT = 1.0
REACH_MOST = 6


class Finding(msgspec.Struct, frozen=True):
    """One line. `fix` is empty where nothing has to be done. `code` is the exit code of an error."""

    level: Level
    topic: str
    finding: str
    fix: str = ""
    code: int = codes.ERROR


class Permission(msgspec.Struct, frozen=True):
    """Something that the controller has to be allowed."""

    verbs: tuple[str, ...]
    resource: str
    group: str = ""
    namespaced: bool = False
    subresource: str = ""
    without: str = ""
    """What is lost without it, if the rest goes on."""

    @property
    def name(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


PERMISSIONS = (
    Permission(("get", "list", "watch"), "services"),
    Permission(("patch",), "services", subresource="status"),
    Permission(("list", "watch"), "nodes"),
    Permission(("get", "list", "watch"), "namespaces"),
    Permission(("list", "watch"), "endpointslices", "discovery.k8s.io"),
    Permission(("create", "patch"), "events"),
    Permission(("get", "create", "update"), "leases", "coordination.k8s.io", namespaced=True),
    Permission(
        ("get", "create"), "configmaps", namespaced=True,
        without="a copy or backup of this cluster is not told from the original",
    ),
)
"""What `lbctl run` needs. The chart's ClusterRole and Role grant the same."""

UNSAID = "what is wrong with them, and how much is used, is not said in their status"
"""What is lost where a provider may not write the status of what it reads."""


@click.command("doctor", cls=options.Configured)
@click.option("--reach/--no-reach", default=True, help="try NodePorts from here, by TCP")
@options.output("table", "json", "yaml", "markdown")
def doctor(reach: bool, form: str, flags: dict[str, Any]) -> int:
    """Permissions, credentials, network, other controllers: what is wrong, and how to mend it.

    Permissions are those of the credentials it runs with: in the cluster, run it in the controller's pod.
    """
    from lbctl.cli.session import Session

    findings = list(_findings(Session(flags), reach=reach))
    rows = [(f.level, f.topic, f.finding, f.fix) for f in findings]
    output.rows(("level", "topic", "finding", "fix"), rows, form, {"findings": [_data(f) for f in findings]})
    return max((f.code for f in findings if f.level == "error"), default=codes.OK)


def _data(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in ("level", "topic", "finding", "fix")}


def _findings(session: "Session", *, reach: bool) -> Iterator[Finding]:
    from lbctl.cli.inputs import inputs
    from lbctl.cli.paths import Paths
    from lbctl.kube.client import Unreachable

    client = session.client()
    try:
        given = inputs(session, ())
    except LbctlError as error:
        # Who is not let in at all has no permissions to be asked for.
        if not isinstance(error, Unreachable | CredentialsError):
            yield from _guarded("cluster", lambda: _access(client, session.namespace()))
        yield _broken("cluster", error)
        return
    try:
        yield from _guarded("cluster", lambda: _access(client, session.namespace()))
        yield from _guarded("other controllers", lambda: _rivals(client, session.config.default_provider))
        yield from _guarded("leader", lambda: _leader(session, client))
        yield from _claims(session, given)
        for name in session.chosen(given.stores.services.all()):
            watches = session.watches((name,), session.namespace())
            reports = session.installed[name].reports() if name in session.installed else ()
            look = partial(_needs, client, name, watches, reports)
            yield from _guarded("permissions", look)
        ways = Paths(session, given)
        for name in ways.names:
            yield from _guarded(name, partial(_provider, session, ways, name))
            yield from _guarded(name, partial(_insight, session, name))
        ways.close()
        if reach:
            yield from _reachable(given, _sent_to(session, ways))
    except LbctlError as error:
        yield _broken("providers", error)
    finally:
        given.close()


def _broken(topic: str, error: LbctlError) -> Finding:
    said, _, fix = error.message.rpartition(": ")
    return Finding("error", topic, f"{error.reason}: {said or fix}", fix if said else "", codes.of(error))


def _guarded(topic: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a look finds; an error that ends it is a finding, too."""
    try:
        yield from look()
    except LbctlError as error:
        yield _broken(topic, error)


# ── Kubernetes ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Review(msgspec.Struct, frozen=True):
    class Status(msgspec.Struct, frozen=True):
        allowed: bool = False
        reason: str = ""

    status: Status = Status()


def _access(client: "Client", namespace: str) -> Iterator[Finding]:
    denied: list[Finding] = []
    for permission in PERMISSIONS:
        missing = [verb for verb in permission.verbs if not _allowed(client, permission, verb, namespace)]
        if missing:
            denied.append(_denied(permission, missing, namespace))
    count = sum(len(permission.verbs) for permission in PERMISSIONS)
    yield from denied or [Finding("ok", "permissions", f"all {count} that the controller needs are granted")]


def _needs(client: "Client", name: str, watches: "Iterable[Watch]", reports: "Iterable[Watch]") -> Iterator[Finding]:
    """May what this provider reads of the cluster be read, and the status that it writes be written?"""
    asked = [(Permission(("list", "watch"), w.plural, w.group, namespaced=bool(w.namespace)), w) for w in watches]
    asked += [(Permission(("patch",), w.plural, w.group, subresource="status", without=UNSAID), w) for w in reports]
    denied: list[Finding] = []
    for permission, watch in asked:
        missing = [verb for verb in permission.verbs if not _allowed(client, permission, verb, watch.namespace)]
        denied += [_denied(permission, missing, watch.namespace)] if missing else []
    count = sum(len(permission.verbs) for permission, _ in asked)
    if count:
        yield from denied or [Finding("ok", "permissions", f"all {count} more that {name} needs are granted")]


def _allowed(client: "Client", permission: Permission, verb: str, namespace: str) -> bool:
    asked = {"verb": verb, "group": permission.group, "resource": permission.resource}
    asked |= {"subresource": permission.subresource} if permission.subresource else {}
    asked |= {"namespace": namespace} if permission.namespaced else {}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = client.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
    return msgspec.json.decode(answer, type=_Review).status.allowed


def _denied(permission: Permission, missing: list[str], namespace: str) -> Finding:
    where = f" in namespace {namespace}" if permission.namespaced else ""
    resource = f"{permission.resource}.{permission.group}" if permission.group else permission.resource
    resource += f"/{permission.subresource}" if permission.subresource else ""
    kind = "role" if permission.namespaced else "clusterrole"
    scope = f" -n {namespace}" if permission.namespaced else ""
    fix = f"kubectl create {kind} lbctl-{permission.resource}{scope} --verb={','.join(missing)} --resource={resource}"
    said = f"{', '.join(missing)} of {permission.name}{where} is not allowed"
    said += f": {permission.without}" if permission.without else ""
    level: Level = "warning" if permission.without else "error"
    return Finding(level, "permissions", said, f"{fix}, and bind it to the service account", codes.SETTINGS)


class _Named(msgspec.Struct, frozen=True):
    class Metadata(msgspec.Struct, frozen=True):
        name: str = ""
        namespace: str = ""

    metadata: Metadata = Metadata()


class _NamedList(msgspec.Struct, frozen=True):
    items: tuple[_Named, ...] = ()


def _rivals(client: "Client", default_provider: str) -> Iterator[Finding]:
    from lbctl.kube.client import Forbidden, NotFound

    found: list[str] = []
    unknown: list[str] = []
    for plural in ("deployments", "daemonsets"):
        try:
            listed = msgspec.json.decode(client.get(f"/apis/apps/v1/{plural}"), type=_NamedList)
        except Forbidden as error:
            unknown.append(f"{plural} cannot be listed: {error.message}")
            continue
        except NotFound:
            # No such API (the sandbox): then nothing of it runs here.
            continue
        found += [f"{item.metadata.namespace}/{item.metadata.name}" for item in listed.items]
    rivals = {place: said for place in sorted(found) if (said := _rivalry(place))}
    for place, said in rivals.items():
        fix = "" if not default_provider else (
            "give Services a loadBalancerClass and take default_provider away, or remove the other controller"
        )
        yield Finding("warning", "other controllers", f"{place} runs here: {said}", fix)
    for said in unknown:
        yield Finding("warning", "other controllers", said, "look yourself: kubectl get deployments,daemonsets -A")
    if not rivals and not unknown:
        yield Finding("ok", "other controllers", "none is known by name")


def _rivalry(place: str) -> str:
    """What this Deployment or DaemonSet would do to class-less Services, as far as its name says; "" for nothing."""
    return RIVALS.get(place) or RIVALS.get(place.partition("/")[2], "")


def _leader(session: "Session", client: "Client") -> Iterator[Finding]:
    from lbctl.kube.lease import Leases

    chosen = session.config.leader_elect
    lease = Leases(client, session.namespace()).get(chosen.resource_name)
    holder = lease.spec.holder_identity if lease else ""
    place = f"{session.namespace()}/{chosen.resource_name}"
    if holder and lease:
        yield Finding("ok", "leader", f"{place} is held by {holder}, renewed {lease.spec.renew_time or 'never'}")
    else:
        said = f"nobody holds the Lease {place}: no controller runs, or one with --no-leader-elect"
        yield Finding("warning", "leader", said, "start one: lbctl run")


def _claims(session: "Session", given: "Inputs") -> Iterator[Finding]:
    """Services that wait for a provider that is not here."""
    from lbctl.plugins import install

    for service in given.stores.services.all():
        for finalizer in service.metadata.finalizers or ():
            name = finalizer.removeprefix("lbctl.io/")
            if finalizer.startswith("lbctl.io/") and name not in session.installed:
                place = f"{service.metadata.namespace}/{service.metadata.name}"
                yield Finding("error", "claims", f"{place} is held by {finalizer}, but {name} is not installed",
                              f"{install(name)}, and add {name} to providers")  # fmt: skip


def _nodes(plugin: "Plugin", nodes: "tuple[Node, ...]") -> Iterator[Finding]:
    if not nodes:
        yield Finding("error", "nodes", "no node may receive traffic",
                      "kubectl get nodes --show-labels: look for exclude-from-external-load-balancers")  # fmt: skip
        return
    bare = [node.name for node in nodes if not node.provider_id]
    if bare and plugin.needs_provider_ids:
        said = f"{len(bare)} of {len(nodes)} have no providerID, {bare[0]} among them"
        fix = f"{plugin.name} finds instances by it: run the cloud's node controller, or set kubelet's --provider-id"
        yield Finding("warning", "nodes", said, fix)
    else:
        yield Finding("ok", "nodes", f"{len(nodes)} may receive traffic from {plugin.name}")


# ── providers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _provider(session: "Session", ways: "Paths", name: str) -> Iterator[Finding]:
    """Its nodes, a fresh look at the cloud, and a trial of what it would do for an ordinary Service."""
    way = ways.paths[name]
    yield from _nodes(session.plugin(name), ways.sources[name].nodes())
    if way.reconciler is None:
        raise way.problem or LbctlError(f"{name} cannot be used")
    plan = way.reconciler.plan()
    yield Finding("ok", name, f"it can be used: {plan.unchanged} of its resources are as they should be")
    if plan.limit:
        yield Finding("warning", name, "deletes are held back", plan.limit)
    yield from _trials(ways, name)
    for refusal in plan.refused:
        yield Finding("warning", name, f"{refusal.owner} is refused: {refusal.reason}", refusal.message)


def _insight(session: "Session", name: str) -> Iterator[Finding]:
    """What the provider itself sees in the cluster."""
    insight = session.insight(name)
    for sight in insight.findings() if insight is not None else ():
        yield Finding("warning" if sight.ok is False else "ok", sight.topic, sight.text, sight.way)


def _trials(ways: "Paths", name: str) -> Iterator[Finding]:
    """Would an ordinary Service be served? What holds for both schemes is said once."""
    schemes: tuple[Scheme, ...] = ("internal", "internet-facing")
    found: dict[tuple[str, str], list[str]] = {}
    for scheme in schemes:
        found.setdefault(_trial(ways, name, scheme), []).append(scheme)
    for (reason, message), of in found.items():
        which = "an ordinary Service" if len(of) == len(schemes) else f"an ordinary {of[0]} Service"
        if reason:
            yield Finding("warning", name, f"{which} would be refused: {reason}", message)
        else:
            yield Finding("ok", name, f"{which} would be served")


def _trial(ways: "Paths", name: str, scheme: "Scheme") -> tuple[str, str]:
    """Would a load balancer of this scheme find its subnets, groups, addresses and nodes? Why not, else ("", "")."""
    path = ways.paths[name].reconciler
    assert path is not None
    probe = _probe(scheme, ways.sources[name].nodes())
    path.wanted.put(probe)
    try:
        plan = path.plan(frozenset({probe.owner}), fresh=False)
    finally:
        path.wanted.remove(probe.owner)
    refusal = next((refusal for refusal in plan.refused if refusal.owner == probe.owner), None)
    return (refusal.reason, refusal.message) if refusal is not None else ("", "")


def _probe(scheme: "Scheme", nodes: "tuple[Node, ...]") -> "LoadBalancer":
    from lbctl.model import LoadBalancer, Owner, Port

    return LoadBalancer(Owner("lbctl-doctor/probe"), ports=(Port(80, node_port=30080),), scheme=scheme, nodes=nodes)


def _sent_to(session: "Session", ways: "Paths") -> "tuple[Node, ...]":
    """The nodes that traffic reaches at NodePorts, of the first provider that sends it there."""
    known = (session.installed.get(name) for name in ways.names)
    return next((ways.sources[p.name].nodes() for p in known if p is not None and p.needs_node_ports), ())


def _reachable(given: "Inputs", nodes: "tuple[Node, ...]") -> Iterator[Finding]:
    """Does anything answer at NodePorts, from where this runs?"""
    places = _node_ports(given, nodes)
    with ThreadPoolExecutor(REACH_MOST) as threads:
        failed = [said for said in threads.map(_silent, places) if said]
    if failed:
        said = f"{len(failed)} of {len(places)} do not answer from here: {'; '.join(failed)}"
        yield Finding("warning", "NodePorts", said,
                      "open the NodePort range in firewalls and security groups, see kube-proxy's log; or run this "
                      "inside the cluster's network")  # fmt: skip
    elif places:
        yield Finding("ok", "NodePorts", f"{len(places)} answer from here")


def _silent(place: tuple[str, int]) -> str:
    """What happens instead of an answer; empty if there is one."""
    try:
        socket.create_connection(place, REACH_TIMEOUT).close()
    except OSError as error:
        return f"{place[0]}:{place[1]} ({error.strerror or error})"
    return ""


def _node_ports(given: "Inputs", nodes: "tuple[Node, ...]") -> list[tuple[str, int]]:
    addresses = [str(node.addresses[0]) for node in nodes if node.addresses]
    ports = [
        port.node_port for service in given.stores.services.all() for port in service.spec.ports or ()
        if port.node_port and (port.protocol or "TCP") == "TCP" and service.spec.external_traffic_policy != "Local"
    ]  # fmt: skip
    return [(address, port) for port in ports[:2] for address in addresses[:3]][:REACH_MOST]
