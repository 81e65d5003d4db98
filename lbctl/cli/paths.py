"""A path per provider, filled from one input: what plan, apply, explain and doctor walk along."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from lbctl import plugins
from lbctl.apply import Result
from lbctl.cli import codes
from lbctl.cli.inputs import Inputs
from lbctl.cli.output import hint
from lbctl.cli.session import Session, installation, renamed
from lbctl.daemon import Cluster, make_provider, preview_provider, reconciler, utcnow
from lbctl.errors import LbctlError, SettingsError
from lbctl.kube import objects, read
from lbctl.kube.access import Access, Watched
from lbctl.kube.files import overlay_other
from lbctl.kube.source import StoreSource
from lbctl.model import Ingress, Owner
from lbctl.plan import Change, Plan
from lbctl.provider import Provider
from lbctl.reconcile import Reconciler
from lbctl.render import Preview
from lbctl.stack import Stack
from lbctl.wanted import Wanted


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
        self._session, self._given, self._prune = session, given, prune
        self._hooks: dict[str, Any] = {"landed": landed, "stepped": stepped, "may_write": may_write}
        self.cluster_id = session.config.cluster_id
        self._installation = ""
        if given.cluster is not None:
            self.cluster_id = self.cluster_id or given.cluster.identity()
            self._installation = installation(given.cluster.client, session.namespace(), create=writes)
        self.offline = given.cluster is None and not self.cluster_id
        """Files alone, and nobody said whose: a preview."""
        self.names = only or self._names()
        self._watched = self._look()
        self.sources = {name: self._source(name) for name in self.names}
        self.paths = {name: self._path(name) for name in self.names}
        self.refresh()

    def _look(self) -> Watched:
        """What the providers read beside Services and Nodes: the cluster's, the files', or the files' over those."""
        cluster, read = self._given.cluster, self._given.read
        if cluster is not None:
            cluster.look(self._session.watches(self.names, self._session.namespace()))
        watched = cluster.watched if cluster is not None else Watched(self._session.watches(self.names))
        if read is not None:
            watched.overlay(read.of, overlay_other)
        return watched

    def _names(self) -> tuple[str, ...]:
        """The providers to ask. Files in which nothing is for anybody need none."""
        services = self._given.stores.services.all()
        if self._given.cluster is not None:
            return self._session.chosen(services)
        bare = sum(s.spec.type == "LoadBalancer" and not s.spec.load_balancer_class for s in services)
        if bare and not self._session.config.default_provider:
            left = f"Services without a loadBalancerClass are left alone ({bare}): nobody said --default-provider"
            self._given.assumptions += (left,)
        classes = [s.spec.load_balancer_class for s in services if s.spec.type == "LoadBalancer"]
        foreign = [name for name in classes if name and not name.startswith("lbctl.io/")]
        if foreign:
            whose = ", ".join(sorted(set(foreign)))
            left = f"Services of another controller's loadBalancerClass ({whose}) are left alone ({len(foreign)})"
            self._given.assumptions += (left,)
        try:
            return self._session.chosen(services)
        except SettingsError:
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
        skipped = given.read.passed_over(self._watched.stores) if given.read else {}
        unread = tuple(f"{name}: {error.reason}: {error.message}" for name, error in sorted(problems.items()))
        return Preview(
            plans, given.source, self.cluster_id, self._session.calls.by_service(),
            skipped, given.assumptions, (*given.problems, *unread), self.offline,
        )  # fmt: skip

    def _source(self, name: str) -> StoreSource:
        default = self._session.config.default_provider or None
        known = self._given.cluster is not None
        return StoreSource(
            self._given.stores, provider=name, default_provider=default, endpoints=known,
            adopts=lambda status: self._adopts(name, status),
        )  # fmt: skip

    def _adopts(self, name: str, status: Sequence[Ingress]) -> bool:
        path = self.paths.get(name)
        return path is not None and path.reconciler is not None and path.reconciler.stack.provider.adopts(status)

    def _path(self, name: str) -> Way:
        try:
            made = self._made(name, self._provider(name))
        except SettingsError as error:
            if name in self._session.installed or name in self._session.config.providers:
                return Way(name, problem=error)
            # Only Services speak of it: they are told, and nobody else is held up.
            made = self._made(name, plugins.Unconfigured(name, plugins.unheard_of(name, error)))
        return Way(name, made)

    def _provider(self, name: str) -> Provider:
        plugin = self._session.plugin(name)
        observe = renamed(self._session.calls, name)
        harness = self._session.harness(plugin, self.cluster_id, self._installation, observe, self._seen())
        if not self.offline:
            return make_provider(plugin, harness, self.sources[name].nodes())
        provider, assumed = preview_provider(plugin, harness, self.sources[name].nodes())
        self._given.assumptions += assumed
        return provider

    def _seen(self) -> Access:
        """The cluster as the provider sees it, with the Services as they would be."""
        client = self._given.cluster.client if self._given.cluster is not None else None
        home = self._session.namespace() if client is not None else ""
        return Access(client, self._given.stores, self._watched, home=home, emit=lambda *_: None)

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

    def close(self) -> bool:
        """End every path; what is in flight is given up. False if there was something."""
        paths = [path.reconciler for path in self.paths.values() if path.reconciler is not None]
        finished = [path.lanes.close(0.0) for path in paths]
        return all(finished)


def nothing_planned(given: Inputs, problems: Mapping[str, LbctlError]) -> int:
    """Where no provider could plan there is no plan to show: what is wrong, on stderr, and the exit code."""
    for sentence in given.problems:
        hint(f"lbctl: {sentence}")
    for name, error in sorted(problems.items()):
        token = "" if isinstance(error, SettingsError) else f"{error.reason}: "
        hint(f"lbctl: {name}: {token}{error.message}")
    return max(map(codes.of, problems.values()))


def fill(wanted: Wanted, source: StoreSource) -> None:
    """What is wanted, as the stores say it now."""
    current = set(source.owners())
    for owner in current | wanted.by_owner.keys():
        load_balancer = source.read(owner) if owner in current else None
        if load_balancer is None:
            wanted.remove(owner)
        else:
            wanted.put(load_balancer)
