"""What every verb that looks at Services needs: the configuration, where Services come from, and a path per provider.

Three inputs, one way through: a cluster; files alone (a preview: nothing is written to Kubernetes, and a cloud is read
only if --cluster-id says whose resources are ours); files over a cluster (what would change if they were applied).
"""

import os
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from lbctl import config as configuration
from lbctl import plugins
from lbctl.apply import Result
from lbctl.config import Config
from lbctl.controller import Timing
from lbctl.daemon import Cluster, Options, make_provider, reconciler, utcnow
from lbctl.errors import LbctlError, SettingsError
from lbctl.kube import files as manifests
from lbctl.kube import objects, read
from lbctl.kube.client import Client, Conflict, Forbidden, NotFound
from lbctl.kube.lease import Terms
from lbctl.kube.source import Stores, StoreSource, stores
from lbctl.model import Owner
from lbctl.plan import Change, Plan
from lbctl.policy import Policy
from lbctl.provider import Call, Harness, Plugin, Provider, ignore
from lbctl.reconcile import Reconciler
from lbctl.render import Preview
from lbctl.stack import Stack
from lbctl.telemetry import Calls, configure_logging
from lbctl.wanted import Wanted

INSTALLATION = "lbctl-installation"
"""The ConfigMap that tells a cluster from its copies."""

HOME = "lbctl-system"
"""The namespace that the manifests install into."""

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Asked = Mapping[str, Any]


class Session:
    """One run of one verb: its configuration, and the API calls that it made."""

    def __init__(self, flags: Asked, *, daemon: bool = False) -> None:
        self.installed = installed()
        self.config = _config(flags, tuple(self.installed.values()))
        stream = sys.stdout if daemon else sys.stderr
        level = self.config.log.level if daemon or "log.level" in self.config.origins else "error"
        configure_logging(self.config.log.format if daemon else "text", level, stream)
        self.calls = Calls()
        self._client: Client | None = None
        self._namespace = self.config.leader_elect.resource_namespace

    def client(self, observe: Callable[[Call], None] = ignore) -> Client:
        """The cluster's client. Raises `SettingsError` where no cluster is configured."""
        if self._client is None:
            kubeconfig, context = self.config.kubeconfig or None, self.config.context or None
            self._client = Client.from_config(kubeconfig, context, observe=both(self.calls, observe))
        return self._client

    def namespace(self) -> str:
        """Where the Lease and the installation's id are: the same for the controller and for one-shots from outside."""
        if not self._namespace:
            pod = POD_NAMESPACE.read_text().strip() if POD_NAMESPACE.is_file() and not self.config.kubeconfig else ""
            self._namespace = HOME if self._is_there(HOME) else pod or "kube-system"
        return self._namespace

    def _is_there(self, namespace: str) -> bool:
        try:
            self.client().get(objects.NAMESPACES.path(name=namespace))
        except NotFound:
            return False
        except Forbidden:
            return True
        return True

    def chosen(self, services: Iterable[objects.Service] = ()) -> tuple[str, ...]:
        """The providers to run: those configured; else the default one, those with settings, those that Services name.

        Raises `SettingsError` if that is none.
        """
        if self.config.providers:
            return self.config.providers
        named = [self.config.default_provider] if self.config.default_provider else []
        asked = {name for service in services if (name := provider_of(service))}
        found = sorted({*named, *self.config.named(), *asked})
        if not found:
            raise SettingsError(
                f"no provider is chosen: give --provider NAME, LBCTL_PROVIDER or providers in the configuration file "
                f"(installed: {', '.join(self.installed) or 'none'})"
            )
        return tuple(found)

    def plugin(self, name: str) -> Plugin:
        """The provider's plugin. Raises `SettingsError` with what to install."""
        return self.installed.get(name) or plugins.plugin(name)

    def harness(self, plugin: Plugin, cluster_id: str, installation: str, observe: Callable[[Call], None]) -> Harness:
        """What the provider is made with."""
        said, take_over = self.config.given(plugin), self.config.take_over
        return Harness(said, cluster_id, installation, take_over=take_over, now=utcnow, on_call=observe)

    def options(self, plugin: Plugin | None, *, claims: bool, prune: bool = True) -> Options:
        """What the administrator decided, for one provider."""
        chosen = self.config.intervals
        timing = Timing(
            settle=chosen.settle, audit=chosen.audit, backoff=chosen.backoff, backoff_most=chosen.backoff_most,
            shutdown=chosen.shutdown,
        )  # fmt: skip
        policy = self.config.policy(plugin, prune=prune) if plugin else Policy()
        return Options(self.config.default_provider or None, claims, policy, timing, self.config.workers)

    def terms(self) -> Terms:
        """How leaders are elected."""
        chosen = self.config.leader_elect
        return Terms(chosen.lease_duration, chosen.renew_deadline, chosen.retry_period)


def installed() -> dict[str, Plugin]:
    """Every provider that can be imported; what is wrong with the others is said when they are chosen."""
    found: dict[str, Plugin] = {}
    for name in plugins.points(plugins.PROVIDERS):
        try:
            found[name] = plugins.plugin(name)
        except SettingsError:
            continue
    return found


def _config(flags: Asked, plugins_: Sequence[Plugin]) -> Config:
    path = configuration.find(flags.get("config"), os.environ, Path.cwd())
    content = configuration.read_file(path) if path else {}
    said = {key: value for key, value in flags.items() if key != "config"}
    loaded = configuration.load(plugins_, file=content, name=str(path), environ=os.environ, flags=said)
    from lbctl.cli.output import hint

    for warning in loaded.warnings:
        hint(f"lbctl: {warning}")
    return loaded


def provider_of(service: objects.Service) -> str:
    """The provider that a Service's class names; empty where it names none of lbctl's."""
    prefix, named = read.load_balancer_class(""), service.spec.load_balancer_class or ""
    return named.removeprefix(prefix) if service.spec.type == "LoadBalancer" and named.startswith(prefix) else ""


def both(*observers: Callable[[Call], None]) -> Callable[[Call], None]:
    """One observer that tells several."""

    def observe(call: Call) -> None:
        for observer in observers:
            observer(call)

    return observe


def renamed(observer: Callable[[Call], None], name: str) -> Callable[[Call], None]:
    """An observer that hears of a provider's calls under the provider's name."""
    return lambda call: observer(msgspec.structs.replace(call, service=name))


def installation(client: Client, namespace: str, *, create: bool) -> str:
    """The random id that tells this cluster from its copies; empty where it is not kept (or must not be read)."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    try:
        return _read_id(client, f"{path}/{INSTALLATION}")
    except Forbidden:
        return ""
    except NotFound:
        if not create:
            return ""
    fresh = secrets.token_hex(8)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": INSTALLATION}, "data": {"id": fresh}}
    try:
        client.request("POST", path, body)
    except Conflict:
        return _read_id(client, f"{path}/{INSTALLATION}")
    except (Forbidden, NotFound):
        return ""
    return fresh


class _ConfigMap(msgspec.Struct):
    data: dict[str, str] = {}


def _read_id(client: Client, path: str) -> str:
    return msgspec.json.decode(client.get(path), type=_ConfigMap).data.get("id", "")


# ── where Services come from ──────────────────────────────────────────────────────────────────────────────────────────


class Inputs(msgspec.Struct):
    """Services and Nodes, and where they come from. `cluster` is None for files alone."""

    stores: Stores
    source: str
    cluster: Cluster | None = None
    read: manifests.Files | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(map(str, self.read.problems)) if self.read else ()

    def close(self) -> None:
        """Stop watching the cluster."""
        if self.cluster is not None:
            self.cluster.stop()


def inputs(session: Session, paths: Sequence[str]) -> Inputs:
    """Files, a cluster, or files over a cluster (if one was named by flag, environment or configuration file)."""
    found = manifests.load(paths) if paths else None
    if found is not None and not (session.config.kubeconfig or session.config.context):
        return _offline(found)
    cluster = Cluster(session.client())
    cluster.watch()
    if found is None:
        return Inputs(cluster.stores, _host(cluster.client.server), cluster)
    cluster.stop()
    return Inputs(_over(cluster.stores, found), f"files over {_host(cluster.client.server)}", cluster, found)


def _host(server: str) -> str:
    """The API server without what may be a secret in its address (a path, a password)."""
    parts = urlsplit(server)
    return f"{parts.hostname or server}{f':{parts.port}' if parts.port else ''}"


def _offline(found: manifests.Files) -> Inputs:
    unknown = "nodePorts that the files do not say are known after apply"
    nodes = () if found.nodes else ("no Node stands in the files: load balancers are planned without targets",)
    return Inputs(found.stores(), "files alone", None, found, (unknown, *nodes))


def _over(live: Stores, found: manifests.Files) -> Stores:
    """The cluster as it would be once the files were applied."""
    merged = {objects.key(service): service for service in live.services.all()}
    merged |= {objects.key(s): manifests.overlay(merged.get(objects.key(s)), s) for s in found.services}
    filled = stores()
    filled.services.replace(merged.values(), "")
    filled.nodes.replace(live.nodes.all(), "")
    filled.slices.replace(live.slices.all(), "")
    filled.namespaces.replace(live.namespaces.all(), "")
    return filled


# ── a path per provider ───────────────────────────────────────────────────────────────────────────────────────────────


class Way(msgspec.Struct):
    """One provider's path, with what is wanted of it; or why there is none."""

    name: str
    reconciler: Reconciler | None = None
    problem: LbctlError | None = None


class Paths:
    """The paths of all chosen providers, filled from one input."""

    def __init__(
        self,
        session: Session,
        given: Inputs,
        *,
        prune: bool = False,
        writes: bool = False,
        only: tuple[str, ...] = (),
        landed: Callable[[Result], None] = lambda _result: None,
        stepped: Callable[[Change], None] = lambda _change: None,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._session, self._given, self._prune, self._writes = session, given, prune, writes
        self._hooks: dict[str, Any] = {"landed": landed, "stepped": stepped, "may_write": may_write}
        self.cluster_id = session.config.cluster_id
        self._installation = ""
        if given.cluster is not None:
            self.cluster_id = self.cluster_id or given.cluster.identity()
            self._installation = installation(given.cluster.client, session.namespace(), create=writes)
        self.names = only or self._names()
        self.sources = {name: self._source(name) for name in self.names}
        self.paths = {name: self._path(name) for name in self.names}

    def _names(self) -> tuple[str, ...]:
        """The providers to ask. Files in which nothing is for anybody need none."""
        services = self._given.stores.services.all()
        try:
            return self._session.chosen(services)
        except SettingsError:
            if self._given.cluster is not None:
                raise
        bare = sum(not service.spec.load_balancer_class for service in services)
        if bare:
            left = f"{bare} Services without a loadBalancerClass are left alone: nobody said --default-provider"
            self._given.assumptions += (left,)
        return ()

    def refresh(self) -> None:
        """Bring what is wanted up to date with the stores."""
        for name, path in self.paths.items():
            if path.reconciler is not None:
                fill(path.reconciler.wanted, self.sources[name])

    def plan(self, chosen: Callable[[objects.Service], bool] | None) -> tuple[dict[str, Plan], dict[str, LbctlError]]:
        """(plans, problems) by provider; `chosen` narrows to some Services."""
        plans: dict[str, Plan] = {}
        problems: dict[str, LbctlError] = {}
        for name, path in self.paths.items():
            try:
                if path.reconciler is None:
                    raise path.problem or SettingsError(f"{name} cannot be used")
                plans[name] = path.reconciler.plan(self.narrowed(chosen))
            except LbctlError as error:
                problems[name] = error
        return plans, problems

    def narrowed(self, chosen: Callable[[objects.Service], bool] | None) -> frozenset[Owner] | None:
        """The owners that a narrowed run is about; None for everybody."""
        if chosen is None:
            return None
        return frozenset(read.owner(s) for s in self._given.stores.services.all() if chosen(s))

    def preview(self, plans: Mapping[str, Plan], problems: Mapping[str, LbctlError]) -> Preview:
        """What is rendered of them."""
        given = self._given
        unread = tuple(f"{name}: {error.reason}: {error.message}" for name, error in sorted(problems.items()))
        return Preview(
            plans, given.source, self.cluster_id, self._session.calls.by_service(),
            given.read.skipped if given.read else {}, given.assumptions, (*given.problems, *unread),
        )  # fmt: skip

    def _source(self, name: str) -> StoreSource:
        default = self._session.config.default_provider or None
        known = self._given.cluster is not None
        return StoreSource(self._given.stores, provider=name, default_provider=default, endpoints=known)

    def _path(self, name: str) -> Way:
        try:
            made = self._made(name, self._provider(name))
        except SettingsError as error:
            if name in self._session.installed or name in self._session.config.providers:
                return Way(name, problem=error)
            # Only Services speak of it: they are told, and nobody else is held up.
            made = self._made(name, plugins.Unconfigured(name, error))
        fill(made.wanted, self.sources[name])
        return Way(name, made)

    def _provider(self, name: str) -> Provider:
        plugin = self._session.plugin(name)
        observe = renamed(self._session.calls, name)
        harness = self._session.harness(plugin, self.cluster_id, self._installation, observe)
        return make_provider(plugin, harness, self.sources[name].nodes())

    def _made(self, name: str, provider: Provider) -> Reconciler:
        plugin = self._session.installed.get(name)
        options = self._session.options(plugin, claims=self._claims(), prune=self._prune)
        cluster = self._given.cluster
        if cluster is None:
            return Reconciler(
                Stack(provider), Wanted(provider.shares), options.policy, now=utcnow,
                labels=self.sources[name].labels, workers=options.workers, **self._hooks,
            )  # fmt: skip
        if cluster.stores is not self._given.stores:
            cluster = Cluster(cluster.client, self._given.stores)
        return reconciler(provider, cluster, self.sources[name], options, **self._hooks)

    def _claims(self) -> bool:
        """One-shots leave no finalizer behind unless somebody says so: nobody would be there to take it away."""
        said = self._session.config.origins.get("claims")
        return said is not None and self._session.config.claims == "finalizer"

    def close(self) -> None:
        """End every path; what is in flight is given up."""
        for path in self.paths.values():
            if path.reconciler is not None:
                path.reconciler.lanes.close(0.0)


def fill(wanted: Wanted, source: StoreSource) -> None:
    """What is wanted, as the stores say it now."""
    current = set(source.owners())
    for owner in current | wanted.by_owner.keys():
        load_balancer = source.read(owner) if owner in current else None
        if load_balancer is None:
            wanted.remove(owner)
        else:
            wanted.put(load_balancer)


def chooser(namespace: str, labels: str) -> Callable[[objects.Service], bool] | None:
    """Does -n and -l choose this Service? None where they choose all."""
    from lbctl.cli.options import selector

    if not namespace and not labels:
        return None
    matches = selector(labels)
    return lambda s: (not namespace or s.metadata.namespace == namespace) and matches(s.metadata.labels or {})
