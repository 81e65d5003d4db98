"""Puts the parts together: a cluster that is watched, a desk per provider, a lease, and an orderly end.

`lbctl run` and the demo call `Daemon.run`; one-shots use `Cluster` and `reconciler` alone. Nothing is decided here: it
is the one place that knows which part is given to which.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgspec

from lbctl import plugins
from lbctl.cluster import Watch
from lbctl.controller import USUAL, Controller, Listener, Timing
from lbctl.errors import CredentialsError, LbctlError, Refused, SettingsError, Unavailable
from lbctl.kube import objects
from lbctl.kube.access import Access, Watched, served_groups
from lbctl.kube.claims import Claims
from lbctl.kube.client import Client, Forbidden, Unauthorized, Unreachable
from lbctl.kube.events import Recorder
from lbctl.kube.lease import Elector
from lbctl.kube.reflector import Reflector
from lbctl.kube.source import Stores, StoreSource, reflectors
from lbctl.kube.source import stores as empty_stores
from lbctl.kube.status import Statuses
from lbctl.model import Ingress, Node, Owner, Resource
from lbctl.plan import Change
from lbctl.policy import Policy
from lbctl.provider import Harness, Plugin, Provider, Scope
from lbctl.reconcile import Reconciler
from lbctl.stack import Stack
from lbctl.story import Event
from lbctl.wanted import Wanted

log = logging.getLogger(__name__)

REMAKE = 30.0
"""Seconds between two tries to make a provider that lacks a setting."""

AFTERWARDS = 3.0
"""Seconds that a desk which can only say why it serves nobody leaves to those that serve, at the beginning."""

ASK = 5.0
"""Seconds within which an API server that cannot be read must say why, where somebody waits for it."""


def utcnow() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class Cluster:
    """One Kubernetes cluster: who speaks to it, and what is known of it. `watches` are what its providers read.

    Without `namespaces` their labels are not known: who asks for no policy needs none.
    """

    def __init__(
        self,
        client: Client,
        stores: Stores | None = None,
        watches: Iterable[Watch] = (),
        *,
        namespaces: bool = True,
    ) -> None:
        self.client, self._namespaces = client, namespaces
        self.stores = stores or empty_stores()
        self.watched = Watched(watches)
        self.misread: dict[str, str] = {}
        """Services that could not be decoded, and why."""
        self.on_misread: Callable[[str, str], None] = lambda _key, _why: None
        self._reflectors: tuple[Reflector[Any], ...] = ()

    def watch(
        self, timeout: float = 60.0, wanted: Callable[[], bool] = lambda: True, *, patient: bool = True
    ) -> None:
        """Fill the stores and keep them up to date; give up as soon as that is no longer `wanted`.

        Raises `Unavailable` if it takes more than `timeout` seconds. Where somebody waits for it (not `patient`), what
        waiting seldom mends is raised at once: nobody is there, or these credentials are not enough.
        """
        shared = reflectors(self.client, self.stores, misread=self._misread, namespaces=self._namespaces)
        others = self.watched.reflectors(self.client)
        self._reflectors = (*shared, *others)
        for reflector in shared:
            reflector.start()
        for reflector, absent in self._presence(others):
            reflector.start(absent=absent)
        until, told = time.monotonic() + timeout, ""
        for reflector in self._reflectors:
            while wanted() and not reflector.synced.wait(0.2):
                if not patient and reflector.failing not in ("", told):
                    told = reflector.failing
                    self._ask()
                if time.monotonic() >= until:
                    self._give_up(reflector.failing or "no answer")

    def _presence(self, reflectors: Sequence[Reflector[Any]]) -> Iterator[tuple[Reflector[Any], bool]]:
        """Each, and whether the server certainly knows no such objects."""
        groups = served_groups(self.client) if reflectors else None
        return ((each, groups is not None and each.group != "" and each.group not in groups) for each in reflectors)

    def _ask(self) -> None:
        """Why can nothing be read? Raises that, unless it is a matter of time."""
        asked = (objects.SERVICES, objects.NODES, objects.SLICES, *((objects.NAMESPACES,) if self._namespaces else ()))
        try:
            for resource in asked:
                self.client.request("GET", resource.path(), params={"limit": "1"}, timeout=ASK)
        except (Unreachable, Unauthorized, Forbidden) as why:
            self.stop()
            raise _for_somebody(self.client.place, why) from why
        except LbctlError as why:
            log.info("the cluster cannot be read yet", extra={"error": str(why)})

    def _misread(self, key: str, why: str) -> None:
        self.misread[key] = why
        self.on_misread(key, why)

    def _give_up(self, why: str) -> NoReturn:
        self.stop()
        message = f"the Kubernetes API at {self.client.place} could not be read: {why}"
        raise Unavailable(message, reason="kubernetes-unavailable")

    def stop(self) -> None:
        """Stop watching."""
        for reflector in self._reflectors:
            reflector.stop()

    @property
    def synced(self) -> bool:
        return bool(self._reflectors) and all(reflector.synced.is_set() for reflector in self._reflectors)

    @property
    def watching(self) -> bool:
        """Is every watch at work, or none begun? What has broken off would leave its store as it was for ever."""
        return all(reflector.alive for reflector in self._reflectors)

    def look(self, watches: Iterable[Watch]) -> None:
        """Read these once (one-shots). Raises what the API server says."""
        self.watched = Watched(watches)
        for reflector, absent in self._presence(self.watched.reflectors(self.client)):
            reflector.once(absent=absent)

    def access(self, home: str, recorder: Recorder | None = None) -> Access:
        """The cluster as a provider sees it. Without a recorder nobody hears its Events (one-shots)."""
        emit = recorder.emit if recorder is not None else lambda *_: None
        return Access(self.client, self.stores, self.watched, home=home, emit=emit)

    def identity(self) -> str:
        """The cluster's id where none is configured: the UID of its kube-system namespace."""
        raw = self.client.get(objects.NAMESPACES.path(name="kube-system"))
        return msgspec.json.decode(raw, type=objects.Namespace).metadata.uid


def _for_somebody(server: str, why: LbctlError) -> LbctlError:
    """What a user can do about it."""
    if isinstance(why, Unauthorized):
        return CredentialsError(
            f"the API server at {server} rejects these credentials ({why.message}): "
            f"renew them, or check --kubeconfig and --context"
        )
    if isinstance(why, Forbidden):
        return Refused(
            f"the API server at {server} refuses: {why.message}: grant it (`lbctl doctor` names the rule), "
            f"or check --kubeconfig and --context",
            reason="permission",
        )
    return why


class Options(msgspec.Struct, frozen=True):
    """What the administrator decided, beyond the providers' own settings. `publishes=False` writes no status."""

    default_provider: str | None = None
    claims: bool = True
    policy: Policy = Policy()
    timing: Timing = USUAL
    workers: int = 16
    publishes: bool = True


def make_provider(plugin: Plugin, harness: Harness, nodes: Sequence[Node]) -> Provider:
    """The provider, with what the nodes say where nobody said it. Raises `SettingsError` with the way out."""
    return plugins.provider(plugin, _discovered(plugin, harness, nodes))


def preview_provider(plugin: Plugin, harness: Harness, nodes: Sequence[Node]) -> tuple[Provider, tuple[str, ...]]:
    """What plans files alone, and what it assumes: the provider itself, where the plugin has nothing for that."""
    if plugin.preview is None:
        return make_provider(plugin, harness, nodes), ()
    return plugin.preview(_discovered(plugin, harness, nodes))


def _discovered(plugin: Plugin, harness: Harness, nodes: Sequence[Node]) -> Harness:
    settings = {setting.name: setting.default for setting in plugin.settings if setting.default}
    given = {name: value for name, value in harness.settings.items() if value}
    return msgspec.structs.replace(harness, settings={**settings, **plugin.discover(nodes), **given})


def reconciler(
    provider: Provider,
    cluster: Cluster,
    source: StoreSource,
    options: Options,
    *,
    landed: Callable[..., None] = lambda _result: None,
    stepped: Callable[[Change], None] = lambda _change: None,
    may_write: Callable[[], bool] = lambda: True,
    wrap: Callable[[Provider], Provider] = lambda provider: provider,
) -> Reconciler:
    """One provider between its claim and its status, ready to plan."""
    name, default = provider.name, options.default_provider
    claims = Claims(cluster.client, cluster.stores.services, name, options.claims, default_provider=default)
    status = Statuses(
        cluster.client, cluster.stores.services, name, default_provider=default, guard=not provider.claims
    )
    stack = Stack(wrap(provider), claims if provider.claims else None, status if options.publishes else None)
    return Reconciler(
        stack,
        Wanted(provider.shares),
        options.policy,
        now=utcnow,
        labels=source.labels,
        landed=landed,
        stepped=stepped,
        may_write=may_write,
        workers=options.workers,
    )


class Desk:
    """One provider at work: its controller, made anew once the provider has a setting that it lacked.

    Of a provider that nobody chose (`chosen=False`) only Services that ask for it hear, never the log.
    """

    def __init__(
        self,
        plugin: Plugin,
        harness: Harness,
        cluster: Cluster,
        options: Options,
        *,
        recorder: Recorder,
        listener: Listener | None = None,
        stepped: Callable[[Change], None] = lambda _change: None,
        may_write: Callable[[], bool] = lambda: True,
        wrap: Callable[[Provider], Provider] = lambda provider: provider,
        chosen: bool = True,
    ) -> None:
        self.name, self._chosen = plugin.name, chosen
        self._plugin, self._cluster, self._options = plugin, cluster, options
        self._harness = msgspec.structs.replace(harness, again=self._again)
        self._recorder, self._listener, self._stepped = recorder, listener, stepped
        self._may_write, self._wrap = may_write, wrap
        self._source = StoreSource(
            cluster.stores, provider=plugin.name, default_provider=options.default_provider, adopts=self._adopts
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"desk-{plugin.name}", daemon=True)
        self.controller: Controller | None = None
        self.problem: SettingsError | None = None
        self.finished = True
        self._afterwards = 0.0
        self.repairs = 0
        """How often a drift was repaired."""

    def start(self, afterwards: float = 0.0) -> None:
        """Begin to work; if nobody chose it, after so many seconds. The cluster's stores must be filled."""
        self._afterwards = afterwards
        self._source.connect(self._mark, self._mark_all)
        self._thread.start()

    def stop(self) -> None:
        """Begin to end: no new pass, and what is in flight gets its time."""
        self._stopped.set()
        if self.controller is not None:
            self.controller.stop()

    @property
    def alive(self) -> bool:
        """Is it at work, not begun, or ended by our own will?"""
        return self._thread.ident is None or self._thread.is_alive() or self._stopped.is_set()

    def join(self) -> bool:
        """Wait for the end. False if something was left in flight."""
        self._thread.join()
        return self.finished

    def audit(self) -> None:
        """Look at everything afresh as soon as possible."""
        if self.controller is not None:
            self.controller.audit()

    def at_rest(self) -> bool:
        """Has it looked at everything once, and is there nothing to do right now?"""
        return self.controller is not None and self.controller.passed.is_set() and self.controller.idle()

    def nodes(self) -> tuple[Node, ...]:
        """The nodes that traffic is sent to."""
        return self._source.nodes()

    def resources(self) -> tuple[Resource, ...]:
        """What the provider holds for us, as last known."""
        if self.controller is None:
            return ()
        scope = Scope(at=utcnow(), fresh=False)
        return self.controller.reconciler.stack.provider.observe(scope).resources

    def _run(self) -> None:
        if not self._chosen:
            self._stopped.wait(self._afterwards)
        while not self._stopped.is_set():
            provider = self._make()
            self.controller = controller = self._controller(provider)
            if self.problem is not None:
                threading.Thread(target=self._wait_for_settings, args=(controller,), daemon=True).start()
            if self._stopped.is_set():
                controller.stop()
            self.finished = controller.run()

    def _wait_for_settings(self, controller: Controller) -> None:
        """End the controller once the provider can be made, or cannot for another reason. Until then it has spoken."""
        try:
            while not self._stopped.wait(REMAKE) and self._lacks_the_same():
                pass
        finally:
            controller.stop()

    def _lacks_the_same(self) -> bool:
        try:
            make_provider(self._plugin, self._harness, self._source.nodes())
        except LbctlError as error:
            return str(error) == str(self.problem)
        return False

    def _make(self) -> Provider:
        told, self.problem = self.problem, None
        try:
            return make_provider(self._plugin, self._harness, self._source.nodes())
        except LbctlError as error:
            self.problem = error if isinstance(error, SettingsError) else SettingsError(str(error), reason=error.reason)
            if self._chosen and str(error) != str(told):
                log.error("a provider is not configured", extra={"provider": self.name, "error": str(error)})
            return plugins.Unconfigured(self.name, self.problem)

    def _controller(self, provider: Provider) -> Controller:
        path = reconciler(
            provider,
            self._cluster,
            self._source,
            self._options,
            landed=lambda result: controller.landed(result),
            stepped=self._stepped,
            may_write=self._may_write,
            wrap=self._wrap,
        )
        controller = Controller(
            path, self._source, tell=self._tell, listener=self._listener, timing=self._options.timing
        )
        return controller

    def _tell(self, event: Event) -> None:
        self.repairs += event.reason == "DriftCorrected"
        service = self._cluster.stores.services.get(event.owner)
        uid = service.metadata.uid if service else ""
        self._recorder.emit(event.owner, uid, event.type, event.reason, event.message)

    def _adopts(self, status: Sequence[Ingress]) -> bool:
        return self.controller is not None and self.controller.reconciler.stack.provider.adopts(status)

    def _again(self, owners: Iterable[Owner] | None) -> None:
        """A provider asks for another look."""
        if owners is None:
            self._mark_all()
        for owner in owners or ():
            self._mark(owner)

    def _mark(self, owner: Owner) -> None:
        if self.controller is not None:
            self.controller.mark(owner)

    def _mark_all(self) -> None:
        if self.controller is not None:
            self.controller.mark_all()


class Daemon:
    """The whole controller. `run` returns when stopped (True) or when the lease was lost (False: end the process)."""

    def __init__(self, cluster: Cluster, recorder: Recorder, elector: Elector | None = None) -> None:
        self.cluster, self._recorder, self._elector = cluster, recorder, elector
        self.desks: list[Desk] = []
        self._lock = threading.Lock()
        self._working = False
        self._ended = threading.Event()
        self._lost = False

    def add(self, desk: Desk) -> None:
        """One more desk; it begins at once if the others are at work. Safe on any thread."""
        with self._lock:
            self.desks.append(desk)
            working = self._working
        if working:
            desk.start()

    def may_write(self) -> bool:
        """Asked before every write."""
        return self._elector is None or self._elector.may_write()

    def lose(self) -> None:
        """The lease went to somebody else: nothing is finished, nothing is given back."""
        self._lost = True
        self._ended.set()

    def stop(self) -> None:
        """End in good order (SIGTERM)."""
        self._ended.set()

    def ready(self) -> Mapping[str, bool]:
        """What /readyz says: caches filled. A follower is ready, too; an outage of a cloud makes nobody unready."""
        return {"caches": self.cluster.synced}

    def healthy(self) -> Mapping[str, bool]:
        """What /livez says: whether a restart would mend something. Never whether a cloud answers."""
        return {
            "lease": self._elector is None or self._elector.healthy(),
            "watches": self._ended.is_set() or self.cluster.watching,
            "desks": all(desk.alive for desk in self.desks),
        }

    def run(self) -> bool:
        """Watch, wait for the lease, work, and end: controllers first, the lease last."""
        try:
            self.cluster.watch(wanted=lambda: not self._ended.is_set())
            self._recorder.start()
            if self._await_lease():
                self._begin()
                self._ended.wait()
        finally:
            self._end()
        return not self._lost

    def _begin(self) -> None:
        with self._lock:
            self._working, present = True, tuple(self.desks)
        self.cluster.on_misread = self._tell_misread
        for key, why in dict(self.cluster.misread).items():
            self._tell_misread(key, why)
        for desk in present:
            desk.start(AFTERWARDS)

    def _tell_misread(self, key: str, why: str) -> None:
        """Its author hears it: nobody else can mend a Service that cannot be read."""
        message = f"Error syncing load balancer: undecodable: {why}: mend the Service; until then it stays as it was"
        self._recorder.emit(Owner(key), "", "Warning", "SyncLoadBalancerFailed", message)

    def _await_lease(self) -> bool:
        if self._elector is None or self._ended.is_set():
            return not self._ended.is_set()
        self._elector.start()
        while not self._ended.is_set():
            if self._elector.leading.wait(0.2):
                return True
        return False

    def _end(self) -> None:
        left: list[str] = []
        with self._lock:
            self._working, present = False, tuple(self.desks)
        for desk in present:
            desk.stop()
        if not self._lost:
            left = [desk.name for desk in present if desk.controller is not None and not desk.join()]
            if left:
                log.warning("ended with changes in flight", extra={"providers": ",".join(left)})
        self.cluster.stop()
        self._recorder.stop()
        if self._elector is not None:
            # What is still in flight may write: nobody else may begin before the Lease has run out.
            self._elector.stop(release=not self._lost and not left)
