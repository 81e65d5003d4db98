"""`lbctl speaker`: a provider's part on every node, as the DaemonSet runs it."""

import gc
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click
import msgspec

from lbctl.cli import codes, options
from lbctl.errors import LbctlError, SettingsError

if TYPE_CHECKING:
    from lbctl.cli.session import Session
    from lbctl.daemon import Cluster, Desk
    from lbctl.kube.events import Recorder
    from lbctl.provider import Harness, Plugin, Provider, Setting, Speaker
    from lbctl.telemetry import Metrics

LISTEN = "127.0.0.1:7981"
"""Where probes and metrics answer, unless --listen says otherwise: the speaker lives in the host's network."""

RETRY, RETRY_MOST = 1.0, 10.0
"""Seconds until the API server is asked again, at first and at most."""

COLLECT = 10_000
"""From how many new objects on gc looks for cycles: a start makes more, but a speaker must stay small."""

SETTINGS = ("default_provider", "cluster_id", "listen", "leader_elect.resource_namespace", *options.CONNECTING)


class Speaking(options.Configured):
    """Takes the settings of every installed provider's speaker as flags."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self._completed:
            self.params += _flags()
        return super().get_params(ctx)

    def invoke(self, ctx: click.Context) -> Any:
        """The command gets them by name in `given`."""
        said = {name: value for name, value in ctx.params.items() if name.startswith("speaker:")}
        rest = {name: value for name, value in ctx.params.items() if name not in said}
        given = {name.removeprefix("speaker:"): value for name, value in said.items() if value is not None}
        ctx.params = {**rest, "given": given}
        return super().invoke(ctx)


def _flags() -> Iterator[click.Option]:
    from lbctl import plugins

    shown: set[str] = set()
    for name in plugins.points(plugins.PROVIDERS):
        try:
            found = plugins.plugin(name)
        except SettingsError:
            # What is wrong with it is said when it is chosen.
            continue
        for setting in found.speaker_settings:
            if setting.name not in shown:
                shown.add(setting.name)
                yield _flag(setting)


def _flag(setting: "Setting") -> click.Option:
    variables = [f"LBCTL_{setting.name.replace('-', '_').upper()}", *setting.env]
    said = f"{setting.help}  [{', '.join(variables)}]"
    parameter = f"speaker_{setting.name.replace('-', '_')}"
    option = click.Option([f"--{setting.name}", parameter], metavar=setting.metavar, help=said, envvar=variables)
    option.name = f"speaker:{setting.name}"
    return option


@click.command("speaker", cls=Speaking, keys=SETTINGS, concerns=lambda plugin: plugin.speaker is not None)
@click.option("--provider", default="l2", show_default=True, metavar="NAME", help="whose speaker")
def speaker(provider: str, given: Mapping[str, str], flags: dict[str, Any]) -> int:
    """A provider's part on this node: announces the addresses of its Services, and takes over from nodes that die.

    It starts with what it knew last, before the API server answers, and asks for that for as long as it takes. SIGTERM
    ends it in good order: others announce before it stops. It never writes Services.
    """
    from lbctl.cli.session import Session

    house = Speakers(Session(flags, daemon=True), provider, given)
    gc.set_threshold(COLLECT)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: house.stop())
    return codes.OK if house.run() else codes.ERROR


class Speakers:
    """The process of one node: its speaker, and the one path that gives it work as soon as the cluster answers."""

    def __init__(self, session: "Session", provider: str, given: Mapping[str, str]) -> None:
        from lbctl.telemetry import Metrics

        self._session, self._plugin = session, session.plugin(provider)
        self._given = {**session.config.given(self._plugin), **given}
        self._stopped = threading.Event()
        self._metrics = Metrics()
        self._cluster: Cluster | None = None
        self._desk: Desk | None = None
        self._recorder: Recorder | None = None
        self.port = 0
        # What is wrong with the configuration is said before anything is announced.
        self._client = session.client(lambda call: observe(call))
        observe = self._metrics.kubernetes_call(self._client.server)
        self.speaker = self._speaker(self._plugin)
        _show(self._metrics, self.speaker)

    def stop(self) -> None:
        """End in good order. Safe in a signal handler."""
        self._stopped.set()

    def run(self) -> bool:
        """Until `stop`. False if something was left in flight."""
        from lbctl.probes import Probes

        config = self._session.config
        listen = config.listen if "listen" in config.origins else LISTEN
        probes = Probes(listen, live=self._live, ready=self._ready, metrics=self._metrics.text) if listen else None
        if probes is not None:
            self.port = probes.port
            probes.start()
        try:
            self._work()
            self._stopped.wait()
        finally:
            finished = self._end()
            if probes is not None:
                probes.stop()
        return finished

    def _speaker(self, plugin: "Plugin") -> "Speaker":
        if plugin.speaker is None:
            raise SettingsError(f"{plugin.name} has no speaker: its addresses need nobody to announce them")
        return plugin.speaker(self._harness(self._session.config.cluster_id))

    def _harness(self, cluster_id: str, cluster: "Cluster | None" = None) -> "Harness":
        if cluster is None:
            found = self._session.harness(self._plugin, cluster_id, "", self._metrics.call(self._plugin.name))
            return msgspec.structs.replace(found, settings=self._given)
        home = self._session.namespace()
        seen = cluster.access(home, self._recorder)
        found = self._session.harness(self._plugin, cluster_id, "", self._metrics.call(self._plugin.name), seen)
        return msgspec.structs.replace(found, settings={**self._given, "home": home})

    # -- the cluster -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Find the cluster, for as long as that takes, and begin to plan."""
        from lbctl.daemon import Cluster
        from lbctl.kube.events import Recorder

        identity = self._identity()
        if identity is None:
            return
        settings = {**self._given, "home": self._session.namespace()}
        watches = self._plugin.speaker_watches(settings)
        self._cluster = cluster = Cluster(self._client, watches=watches, namespaces=False)
        cluster.watch(float("inf"), wanted=lambda: not self._stopped.is_set())
        if self._stopped.is_set():
            return
        self._recorder = Recorder(self._client, host=socket.gethostname())
        self._recorder.start()
        self._desk = self._made(identity, cluster)
        self._desk.start()

    def _identity(self) -> str | None:
        """Which cluster it is; None if we are to end before it answers."""
        import logging

        from lbctl.daemon import Cluster

        wait, told = RETRY, ""
        while not self._stopped.is_set():
            try:
                self._session.namespace()
                return self._session.config.cluster_id or Cluster(self._client).identity()
            except LbctlError as error:
                if str(error) != told:
                    logging.getLogger(__name__).warning("the cluster does not answer", extra={"error": str(error)})
                told = str(error)
            self._stopped.wait(wait * (1 + secrets.randbelow(100) / 200))
            wait = min(wait * 2, RETRY_MOST)
        return None

    def _made(self, identity: str, cluster: "Cluster") -> "Desk":
        from lbctl.daemon import Desk, Options
        from lbctl.policy import Limits, Policy

        # What a Service may have was decided when it got its address; what is announced follows from that alone.
        policy = Policy(tenancy="open", limits=Limits(max_delete=1.0, let_through=True))
        chosen = Options(self._session.config.default_provider or None, False, policy, workers=4, publishes=False)
        plugin = msgspec.structs.replace(self._plugin, make=self._join)
        return Desk(
            plugin, self._harness(identity, cluster), cluster, chosen, recorder=_Silent(self._client),
            listener=self._metrics.listener(plugin.name, lambda _owner: None),
        )  # fmt: skip

    def _join(self, harness: "Harness") -> "Provider":
        return self.speaker.join(harness)

    # -- how it is ---------------------------------------------------------------------------------------------

    def _live(self) -> Mapping[str, bool]:
        watching = self._cluster is None or self._stopped.is_set() or self._cluster.watching
        return {**self.speaker.checks(), "watches": watching, "desk": self._desk is None or self._desk.alive}

    def _ready(self) -> Mapping[str, bool]:
        return {"caches": self._cluster is not None and self._cluster.synced, **self.speaker.checks()}

    def _end(self) -> bool:
        """No more orders, then others take over, then the rest."""
        finished = True
        if self._desk is not None:
            self._desk.stop()
            finished = self._desk.controller is None or self._desk.join()
        self.speaker.leave()
        if self._cluster is not None:
            self._cluster.stop()
        if self._recorder is not None:
            self._recorder.stop()
        return finished


def _Silent(client: Any) -> "Recorder":  # noqa: N802
    """Tells nobody: each node's orders are its own business, and the speaker itself says what users should hear."""
    from lbctl.kube.events import Recorder

    class Silent(Recorder):
        def emit(self, *_arguments: Any) -> None:
            """Not told."""

    return Silent(client)


def _show(metrics: "Metrics", speaker: "Speaker") -> None:
    """The speaker's own figures on the metrics page."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    class Figures:
        def collect(self) -> Iterator[Any]:
            families: dict[str, Any] = {}
            for figure in speaker.figures():
                kind = CounterMetricFamily if figure.counter else GaugeMetricFamily
                family = families.setdefault(figure.name, kind(figure.name, figure.help, labels=tuple(figure.labels)))
                family.add_metric(tuple(figure.labels.values()), figure.value)
            yield from families.values()

    metrics.registry.register(Figures())
