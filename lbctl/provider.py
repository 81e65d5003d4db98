"""The contract between lbctl and whatever makes addresses: what a provider is asked, told, and must promise.  PURE.

A provider is a plugin: an entry point in the group `lbctl.providers` that names a `Plugin`.
The laws in `lbctl.testing` judge one; `lbctl.memory` is the smallest that obeys them. The contract is synchronous
because the clouds' SDKs are; the shell owns the threads, and calls `apply` from several at once.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from lbctl.cluster import Kubernetes, NoKubernetes, Watch
from lbctl.model import Ingress, Key, LoadBalancer, Node, Note, Owner, Ref, Refusal, Resource
from lbctl.plan import Change, Kind

Answered = Callable[[Owner, Resource | Exception | None], None]
"""Told how one step ended, by its owner: what `Provider.apply` would have answered."""


class Failure(msgspec.Struct, frozen=True):
    """How an owner's last lane ended, if not well: a stable reason and a sentence."""

    reason: str
    message: str


class Scope(msgspec.Struct, frozen=True):
    """What a look is about.

    owners          whose resources; None means everybody's (resync, command line, CI)
    fresh           read the other side; False lets `observe` answer from what it read before and its own writes since
    at              the time of the look (time enters as a value)
    load_balancers  the admitted load balancers of these owners: `observe` may need their nodes, subnets, addresses
    shares          what all load balancers contribute to shared things, counted (see `Provider.shares`), never narrowed
    taken           what lanes in flight are about to create: counts as existing for whoever hands out addresses
    failures        how an owner's last lane failed
    refused         owners refused before the provider was asked (tenancy, malformed Services)
    """

    at: datetime
    owners: frozenset[Owner] | None = None
    fresh: bool = True
    load_balancers: tuple[LoadBalancer, ...] = ()
    shares: Mapping[Hashable, int] = {}
    taken: tuple[Resource, ...] = ()
    failures: Mapping[Owner, Failure] = {}
    refused: tuple[Refusal, ...] = ()

    def covers(self, owner: Owner) -> bool:
        return self.owners is None or owner in self.owners


class Observation(msgspec.Struct, frozen=True):
    """What a look saw: resources that carry our mark, in normal form, and the facts that `desired` needs to be pure.

    A narrowed look holds the scope's owners and `SHARED`. All or nothing: a partial read raises, because "could not
    read" mistaken for "absent" creates twice or deletes wrongly.
    """

    scope: Scope
    resources: tuple[Resource, ...] = ()
    facts: Mapping[str, Any] = {}


class Desired(msgspec.Struct, frozen=True):
    """What ought to exist for the scope, and what cannot.

    drains     keys that are no longer wanted but stay until the given time (their connections drain)
    notes      what served Services' users should know
    releases   owners whose Service itself said goodbye (deleted with our claim, or left the type): their deletes are
               not inferred from absence, so no safety limit guards them
    addresses  which outputs (`hostname` or `ip`) become each served owner's `status.loadBalancer.ingress`, in order
    keeps      the same of refused owners that are not to keep all that their status says: it holds what is another's
    """

    resources: tuple[Resource, ...] = ()
    refused: tuple[Refusal, ...] = ()
    drains: Mapping[Key, datetime] = {}
    notes: tuple[Note, ...] = ()
    releases: frozenset[Owner] = frozenset()
    addresses: Mapping[Owner, tuple[Ref, ...]] = {}
    keeps: Mapping[Owner, tuple[Ref, ...]] = {}


class Provider(Protocol):
    """Four questions and one order. Laws: `lbctl.testing`."""

    name: str
    kinds: tuple[Kind, ...]
    claims: bool
    """Does what it makes outlive the Service? Then a finalizer holds the Service until it is gone."""

    def observe(self, scope: Scope) -> Observation:
        """The only read. Batched: reads cost pages, not Services. Raises rather than answer in part."""
        ...

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        """Pure and orderless. `load_balancers` are the scope's; `seen.scope.shares` counts everybody's."""
        ...

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        """Pure: what this one contributes to shared things. lbctl counts these over all Services, per event."""
        ...

    def adopts(self, status: Sequence[Ingress]) -> bool:
        """May a status that somebody else wrote become ours? Only where its addresses are ours to give (bare metal)."""
        ...

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        """Carry out one change, or several parts of one document. One answer each, in order:

        a Resource  what exists now (fields resolved, outputs filled), for create and update
        None        it is gone, for delete
        an error    `Retry`, `Refused`, `NotOurs`, `Unavailable`: it did not (or may not) happen

        Safe to repeat. Never sleeps, never re-decides. Refs in `change.after` are already filled in.
        """
        ...


class Streaming(Protocol):
    """What a provider of `Kind.streamed` has besides: thousands of small writes, and one thread that makes them."""

    def bring(self, changes: Iterator[Change | None], answered: Answered) -> None:
        """Carry out as many changes as come, one of an owner at a time, and tell of each as soon as it ended.

        They are drawn as there is room for more. None says that there is none right now: while something is on its way
        it is worth asking again in a moment, else this is the end. What it raises is the answer to whatever has none.
        """
        ...


class Call(msgspec.Struct, frozen=True):
    """One API call on its way: `code` is None before it is sent, and the outcome (`ok`, an error code) after."""

    service: str
    operation: str
    code: str | None = None
    seconds: float = 0.0


def ignore(_call: Call) -> None:
    """The observer that does not care."""


class Harness(msgspec.Struct, frozen=True):
    """What lbctl gives a provider when it is made.

    settings         the provider's own section of the configuration, as strings (flag > environment > file), and
                     lbctl's own namespace as `home`, where there is a cluster
    cluster_id       marks what we make; default the UID of the kube-system namespace
    installation_id  random, kept in the cluster: a copied or restored cluster is told from the first by it
    take_over        resources of another installation with our cluster id become ours
    now              the clock, for tags and tokens; never for decisions
    on_call          told of every API call, before and after; raising here is how tests crash and throttle a provider
    kubernetes       the cluster, for providers whose state is there
    again            asks for another look: at these owners, or (None) at everybody; for changes that only the provider
                     sees
    """

    settings: Mapping[str, str] = {}
    cluster_id: str = ""
    installation_id: str = ""
    take_over: bool = False
    now: Callable[[], datetime] = datetime.now
    on_call: Callable[[Call], None] = ignore
    kubernetes: Kubernetes = NoKubernetes()
    again: Callable[[Iterable[Owner] | None], None] = lambda _owners: None


ProviderFactory = Callable[[Harness], Provider]


class Known:
    """What was read before and written since: lets a provider answer a warm look without a call.

    The provider holds one, calls `begin` before and `replace` after a fresh read of everything, and `note` after each
    of its own writes. Writes noted while a read is under way outlive it: the read may have been too early for them.
    Not pure (it remembers) but without I/O, and safe to use from several threads.
    """

    def __init__(self) -> None:
        self.complete = False
        self._lock = threading.Lock()
        self._by_owner: dict[Owner, dict[Key, Resource]] = {}
        self._since: list[tuple[Change, Resource | None]] | None = None

    def begin(self) -> None:
        """A fresh read begins now."""
        with self._lock:
            self._since = []

    def replace(self, resources: Iterable[Resource]) -> None:
        """Forget everything and remember these, and what was written since `begin`: that is all there is."""
        with self._lock:
            self._by_owner = {}
            for resource in resources:
                self._by_owner.setdefault(resource.owner, {})[resource.key] = resource
            for change, result in self._since or ():
                self._put(change, result)
            self._since = None
            self.complete = True

    def same(self, resource: Resource) -> Resource:
        """The equal one that is remembered, else this one: a look that finds nothing new need hold nothing new."""
        known = self._by_owner.get(resource.owner, {}).get(resource.key)
        return known if known == resource else resource

    def note(self, change: Change, result: Resource | Exception | None) -> None:
        """Remember the outcome of one of our own changes; an error changes nothing here."""
        if isinstance(result, Exception):
            return
        with self._lock:
            if self._since is not None:
                self._since.append((change, result))
            self._put(change, result)

    def _put(self, change: Change, result: Resource | None) -> None:
        if result is None:
            self._by_owner.get(change.owner, {}).pop(change.key, None)
        else:
            self._by_owner.setdefault(result.owner, {})[result.key] = result

    def of(self, owners: Iterable[Owner] | None) -> tuple[Resource, ...]:
        """Everything of these owners, or of everybody."""
        with self._lock:
            chosen = self._by_owner.keys() if owners is None else owners
            return tuple(r for owner in chosen for r in self._by_owner.get(owner, {}).values())


class Figure(msgspec.Struct, frozen=True):
    """One number for the metrics page. A `counter` only grows."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = {}
    counter: bool = True


class Speaker(Protocol):
    """What runs on every node for as long as the node does, whether the cluster can be reached or not.

    `lbctl speaker` makes it before it knows any cluster (`Harness.kubernetes` is empty then, `cluster_id` too, unless
    it was configured), so that it can take up what it did last while the API server is away.
    """

    def join(self, harness: Harness) -> Provider:
        """The cluster answers: what this node does follows the one path from now on. Called once."""
        ...

    def leave(self) -> None:
        """Hand over in good order, and end. Takes a few seconds at most."""
        ...

    def checks(self) -> Mapping[str, bool]:
        """What /livez asks: whether a restart would mend something."""
        ...

    def figures(self) -> Iterable[Figure]:
        """For /metrics."""
        ...


SpeakerFactory = Callable[[Harness], Speaker]


class Sight(msgspec.Struct, frozen=True):
    """One thing that a provider shows to people: `ok` is None where it is neither good nor bad.

    `way` is the command that shows it, or what to do about it.
    """

    topic: str
    text: str
    ok: bool | None = None
    way: str = ""


class Insight(Protocol):
    """What a provider can tell of the cluster beyond conditions. It reads, and writes nothing."""

    heading: str
    """Of its column in `lbctl status`."""

    def cell(self, addresses: Sequence[str]) -> str:
        """What stands there for a Service with these addresses."""
        ...

    def data(self, addresses: Sequence[str]) -> Any:
        """The same as JSON shows it, under the heading; it changes only when something happens, unlike an age."""
        ...

    def explain(self, load_balancer: LoadBalancer) -> Iterable[Sight]:
        """More stations on the way of a packet to this Service, for `lbctl explain`."""
        ...

    def findings(self) -> Iterable[Sight]:
        """What `lbctl doctor` ought to say: what is wrong has `ok=False`."""
        ...


InsightFactory = Callable[[Harness], Insight]


class Setting(msgspec.Struct, frozen=True):
    """One setting of a provider: `--aws-region`, `LBCTL_AWS_REGION` (or one of `env`), `aws.region` in the file.

    `metavar` is what stands for its value in --help: `--aws-region REGION`.
    """

    name: str
    help: str
    default: str = ""
    env: tuple[str, ...] = ()
    required: bool = False
    metavar: str = "VALUE"


class Plugin(msgspec.Struct, frozen=True):
    """What an entry point in the group `lbctl.providers` names. Importing it must not import an SDK.

    `discover` is pure: what the nodes' providerIDs and labels say about settings that nobody gave.
    `privileged` are annotation keys that name existing cloud objects → a glob of the values that do: see `policy.py`.
    `extra` is what to install where `make` raises ImportError: `pip install 'lbctl[aws]'`.
    `preview` makes a provider that plans files alone, and says what it assumes, in sentences: it sees an empty cloud,
    and calls nobody. Without it files alone are planned with what `make` makes.
    `watches` says, from the settings, what of the cluster the provider reads beside Services and Nodes (`home` is among
    them, too).
    `reports` says of which of these it writes the status.
    `speaker` makes the part that runs on every node, if there is one: a provider without claim and status, whose
    resources are what this node announces. `speaker_watches` is what that one reads (the settings hold lbctl's own
    namespace as `home`), `speaker_settings` are its flags. See `lbctl speaker`.
    `insight` makes what status, explain and doctor show of it; it reads what `watches` and `speaker_watches` say.
    `needs_provider_ids`: its nodes are a cloud's instances, found by the Nodes' `spec.providerID`. `needs_node_ports`:
    its traffic comes in at NodePorts; not where the nodes themselves have the addresses. Doctor and explain ask.
    """

    name: str
    make: ProviderFactory
    settings: tuple[Setting, ...] = ()
    discover: Callable[[Sequence[Node]], Mapping[str, str]] = lambda _nodes: {}
    privileged: Mapping[str, str] = {}
    extra: str = ""
    preview: Callable[[Harness], tuple[Provider, tuple[str, ...]]] | None = None
    watches: Callable[[Mapping[str, str]], Sequence[Watch]] = lambda _settings: ()
    reports: Callable[[], Sequence[Watch]] = lambda: ()
    speaker: SpeakerFactory | None = None
    speaker_watches: Callable[[Mapping[str, str]], Sequence[Watch]] = lambda _settings: ()
    speaker_settings: tuple[Setting, ...] = ()
    insight: InsightFactory | None = None
    needs_provider_ids: bool = False
    needs_node_ports: bool = True
