"""`lbctl run`: the controller, as the Deployment runs it."""

import gc
import secrets
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lbctl.cli import codes, options
from lbctl.errors import LbctlError, SettingsError, Unavailable

if TYPE_CHECKING:
    from lbctl.cli.session import Session
    from lbctl.daemon import Cluster, Daemon, Desk
    from lbctl.kube.events import Recorder
    from lbctl.kube.lease import Elector
    from lbctl.kube.objects import Service
    from lbctl.model import Owner
    from lbctl.probes import Probes
    from lbctl.provider import Harness, Plugin, Provider


T = TypeVar("T")


@click.command("run", cls=options.Configured, keys=options.EVERYTHING)
def run(flags: dict[str, Any]) -> int:
    """The controller: watch Services, plan, apply, for as long as it runs.

    SIGTERM ends it in good order: what is in flight lands, the Lease is given back, nothing in the cloud is touched.
    A provider that lacks a setting does not end it: its Services get the condition provider-not-configured.
    """
    from lbctl.cli.session import Session

    # The first process of a container has no default for signals, and the first answers may take their time.
    _on_signals(lambda: sys.exit(codes.OK))
    house = Controllers(Session(flags, daemon=True))
    _on_signals(house.stop)
    # What a start leaves stays: it is never looked at again.
    gc.freeze()
    gc.set_threshold(*COLLECT)
    return codes.OK if house.run() else codes.ERROR


def _on_signals(end: Callable[[], object]) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: end())


class Controllers:
    """The daemon with its probes and metrics. `run` returns False if the Lease was lost: the process must end."""

    def __init__(self, session: "Session") -> None:
        from lbctl.daemon import Cluster, Daemon
        from lbctl.kube.events import Recorder
        from lbctl.telemetry import Metrics

        self._session, self._metrics = session, Metrics()
        self._strangers: set[str] = set()
        config = session.config
        client = session.client(lambda call: self._observe(call))
        self._observe = self._metrics.kubernetes_call(client.server)
        home = patiently(session.namespace)
        cluster = Cluster(client, watches=session.watches(self._chosen(), home))
        recorder = Recorder(client, host=socket.gethostname())
        self._daemon = Daemon(cluster, recorder, self._elector(cluster))
        self._furnish(self._daemon, cluster, recorder)
        cluster.stores.services.subscribe(lambda _event, _old, new: self._meet(new, cluster, recorder))
        self._probes = self._probe(config.listen) if config.listen else None

    def run(self) -> bool:
        """Until `stop`, or until the Lease is lost."""
        if self._probes is not None:
            self._probes.start()
        try:
            return self._daemon.run()
        finally:
            if self._probes is not None:
                self._probes.stop()

    def stop(self) -> None:
        """End in good order. Safe in a signal handler."""
        threading.Thread(target=self._daemon.stop, name="stop", daemon=True).start()

    @property
    def port(self) -> int:
        """Where the probes answer; 0 for nowhere."""
        return self._probes.port if self._probes else 0

    def _elector(self, cluster: "Cluster") -> "Elector | None":
        from lbctl.kube.lease import Elector, Leases

        chosen = self._session.config.leader_elect
        if not chosen.enabled:
            self._metrics.leader.labels(chosen.resource_name).set(1)
            return None
        identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self._metrics.leader.labels(chosen.resource_name).set(0)
        return Elector(
            Leases(cluster.client, self._session.namespace()), chosen.resource_name, identity,
            terms=self._session.terms(), on_started=lambda: self._lead(1), on_lost=self._lose,
        )  # fmt: skip

    def _lead(self, leads: int) -> None:
        self._metrics.leader.labels(self._session.config.leader_elect.resource_name).set(leads)

    def _lose(self) -> None:
        self._lead(0)
        self._daemon.lose()

    def _furnish(self, daemon: "Daemon", cluster: "Cluster", recorder: "Recorder") -> None:
        """A desk for every provider: those that run, and those whose Services must hear why nobody serves them."""
        from lbctl.cli.session import installation
        from lbctl.daemon import Desk

        config = self._session.config
        cluster_id = config.cluster_id or patiently(cluster.identity)
        installed = patiently(lambda: installation(cluster.client, self._session.namespace(), create=True))
        claims, chosen = config.claims == "finalizer", self._chosen()
        seen = cluster.access(self._session.namespace(), recorder)
        for plugin in map(self._plugin, chosen):
            harness = self._session.harness(plugin, cluster_id, installed, self._metrics.call(plugin.name), seen)
            daemon.desks.append(
                Desk(
                    plugin, harness, cluster, self._session.options(plugin, claims=claims), recorder=recorder,
                    listener=self._metrics.listener(plugin.name, _created(cluster)),
                    stepped=_log_step(plugin.name), may_write=daemon.may_write, wrap=self._measured,
                )
            )  # fmt: skip
        self._serving = tuple(daemon.desks)
        for name in self._others(chosen):
            daemon.desks.append(self._absentee(_absent(name), cluster, recorder))

    def _absentee(self, plugin: "Plugin", cluster: "Cluster", recorder: "Recorder") -> "Desk":
        """A desk that tells the Services of a provider that does not run here why nobody serves them."""
        from lbctl.daemon import Desk
        from lbctl.provider import ignore

        options, harness = self._session.options(plugin, claims=False), self._session.harness(plugin, "", "", ignore)
        daemon = self._daemon
        return Desk(plugin, harness, cluster, options, recorder=recorder, may_write=daemon.may_write, chosen=False)

    def _meet(self, service: "Service | None", cluster: "Cluster", recorder: "Recorder") -> None:
        """A class of ours that nobody has heard of: most likely a slip of the pen, and its author is waiting."""
        from lbctl.kube.read import provider_of

        name = provider_of(service) if service is not None else ""
        if name and len(self._strangers) < STRANGERS and all(name != desk.name for desk in self._daemon.desks):
            self._strangers.add(name)
            self._daemon.add(self._absentee(_unheard_of(name), cluster, recorder))

    def _chosen(self) -> tuple[str, ...]:
        try:
            return self._session.chosen()
        except SettingsError:
            return ()

    def _others(self, chosen: tuple[str, ...]) -> list[str]:
        """Providers that do not run here, whose Services must hear it."""
        from lbctl import plugins

        return [name for name in dict.fromkeys((*self._session.installed, *plugins.EXTRAS)) if name not in chosen]

    def _plugin(self, name: str) -> "Plugin":
        try:
            return self._session.plugin(name)
        except SettingsError as error:
            return _absent(name, error)

    def _measured(self, provider: "Provider") -> "Provider":
        from lbctl.telemetry import Measured

        return Measured(provider, self._metrics)

    def _probe(self, listen: str) -> "Probes":
        from lbctl.probes import Probes

        return Probes(listen, live=self._daemon.healthy, ready=self._daemon.ready, metrics=self._exposition)

    def _exposition(self) -> bytes:
        default = self._session.config.default_provider
        states = Counter(_state(service, default) for service in self._daemon.cluster.stores.services.all())
        for desk in self._serving:
            self._metrics.config.labels(desk.name).set(desk.problem is None)
            for state in STATES:
                self._metrics.services.labels(desk.name, state).set(states[desk.name, state])
        return self._metrics.text()


COLLECT = (100_000, 10, 20)
"""gc's thresholds: next to nothing here makes cycles, and to look for some among ten thousand Services takes long."""

LONGEST_PAUSE = 10.0
"""Seconds between two first questions to an API server that is not well, at most."""

STRANGERS = 16
"""How many unknown classes are answered; more are somebody's game."""

STATES = ("ready", "pending", "failing", "deleting")


def _state(service: "Service", default_provider: str) -> tuple[str, str]:
    """(provider, state): failing has an address, but not all that was asked for; pending has none yet."""
    from lbctl.kube.read import provider_of
    from lbctl.model import READY

    provider = provider_of(service) or ("" if service.spec.load_balancer_class else default_provider)
    ready = service.conditions.get(READY)
    if service.spec.type != "LoadBalancer":
        return "", ""
    if service.metadata.deletion_timestamp is not None:
        return provider, "deleting"
    if ready is not None and ready.status == "True":
        return provider, "ready"
    return provider, "failing" if service.ingress else "pending"


def _created(cluster: "Cluster") -> "Callable[[Owner], datetime | None]":
    def created(owner: "Owner") -> datetime | None:
        service = cluster.stores.services.get(owner)
        return service.metadata.creation_timestamp if service else None

    return created


def patiently(ask: Callable[[], T]) -> T:
    """The answer to a first question, however long the API server takes to be well: it may be starting as we are.

    After one failure it is asked again at once, then with pauses. Where it cannot be reached at all the settings may
    be wrong: whoever started us hears of it at once.
    """
    try:
        return ask()
    except LbctlError as error:
        if not _passes(error):
            raise
    from tenacity import Retrying, retry_if_exception, wait_random_exponential

    return Retrying(
        retry=retry_if_exception(_passes), wait=wait_random_exponential(1, LONGEST_PAUSE), before_sleep=_log_pause
    )(ask)


def _passes(error: BaseException) -> bool:
    from lbctl.kube.client import ApiError, Unreachable

    if isinstance(error, ApiError):
        return error.status >= 500 or error.status == 429
    return isinstance(error, Unavailable) and not isinstance(error, Unreachable)


def _log_pause(state: Any) -> None:
    import logging

    fields = {"error": str(state.outcome.exception()), "retry_seconds": round(state.next_action.sleep, 1)}
    logging.getLogger(__name__).warning("the API server is not well yet", extra=fields)


def _log_step(provider: str) -> Callable[[Any], None]:
    """One line per change applied. What only says so in Kubernetes has its Event: at DEBUG alone."""
    import logging

    log = logging.getLogger("lbctl.change")

    def stepped(change: Any) -> None:
        level = logging.DEBUG if change.kind in ("claim", "status") else logging.INFO
        if log.isEnabledFor(level):
            fields = {"provider": provider, "service": change.owner, "action": change.action, "kind": change.kind}
            log.log(level, "changed", extra={**fields, "resource": change.name, "because": change.because})

    return stepped


def _unheard_of(name: str) -> "Plugin":
    """A plugin for a class that names no provider there is."""
    from lbctl import plugins

    try:
        plugins.plugin(name)
    except SettingsError as error:
        return _absent(name, plugins.unheard_of(name, error))
    return _absent(name)


def _absent(name: str, why: SettingsError | None = None) -> "Plugin":
    """A plugin that says why this provider does not run here."""
    from lbctl.provider import Plugin

    said = why or SettingsError(
        f"the provider {name} is not configured in this lbctl: have the administrator add it to providers "
        f"(LBCTL_PROVIDER), or choose another spec.loadBalancerClass"
    )

    def make(_harness: "Harness") -> "Provider":
        raise said

    return Plugin(name, make)
