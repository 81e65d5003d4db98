"""One run of one verb: its configuration, the cluster that it speaks to, and the API calls that it made."""

import os
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lbctl import config as configuration
from lbctl import plugins
from lbctl.cli.output import hint
from lbctl.cluster import Kubernetes, NoKubernetes, Watch
from lbctl.config import Config
from lbctl.controller import Timing
from lbctl.daemon import Cluster, Options, utcnow
from lbctl.errors import LbctlError, SettingsError
from lbctl.kube import objects
from lbctl.kube.client import Client, Conflict, Forbidden, NotFound
from lbctl.kube.lease import Terms
from lbctl.kube.read import provider_of
from lbctl.policy import Policy
from lbctl.provider import Call, Harness, Insight, Plugin, ignore
from lbctl.telemetry import Calls, configure_logging

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

    def harness(
        self,
        plugin: Plugin,
        cluster_id: str,
        installation: str,
        observe: Callable[[Call], None],
        kubernetes: Kubernetes | None = None,
    ) -> Harness:
        """What the provider is made with. `kubernetes` is None where there is no cluster (files alone)."""
        said, take_over = self.config.given(plugin), self.config.take_over
        seen = kubernetes or NoKubernetes()
        given = {**said, "home": seen.home} if seen.home else said
        return Harness(
            given, cluster_id, installation, take_over=take_over, now=utcnow, on_call=observe, kubernetes=seen
        )

    def watches(self, names: Iterable[str], home: str = "") -> tuple[Watch, ...]:
        """What of the cluster these providers read, beside Services and Nodes. `home` is lbctl's own namespace."""
        known = [self.installed[name] for name in names if name in self.installed]
        more = {"home": home} if home else {}
        asked = (plugin.watches({**self.config.given(plugin), **more}) for plugin in known)
        return tuple(dict.fromkeys(watch for watches in asked for watch in watches))

    def look(self, name: str, cluster: Cluster | None = None) -> Harness:
        """A provider's harness over a cluster that was read once (or this one), for commands that plugins add."""
        plugin = self.plugin(name)
        if cluster is None:
            cluster = Cluster(self.client())
            cluster.watch(patient=False)
            cluster.stop()
        given = {**self.config.given(plugin), "home": self.namespace()}
        cluster.look(dict.fromkeys((*plugin.watches(given), *plugin.speaker_watches(given))))
        identity = self.config.cluster_id or cluster.identity()
        found = self.harness(plugin, identity, "", self.calls, cluster.access(self.namespace()))
        return msgspec.structs.replace(found, settings=given)

    def insight(self, name: str, cluster: Cluster | None = None) -> Insight | None:
        """What this provider can tell of the cluster beyond conditions; None if it has nothing to tell, or may not.

        Of a cluster that is read already only what the provider alone watches is read.
        """
        plugin = self.installed.get(name)
        if plugin is None or plugin.insight is None:
            return None
        try:
            return plugin.insight(self.look(name, cluster))
        except LbctlError as error:
            hint(f"lbctl: what {name} itself could tell is left out: {error.message}")
            return None

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
    for warning in loaded.warnings:
        hint(f"lbctl: {warning}")
    return loaded


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
