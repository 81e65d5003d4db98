"""A dict for a cloud: the smallest provider that obeys every law, the tutorial, and everybody's test double.

Read it from top to bottom to learn what a provider is (`docs/write-a-provider.md` walks through it). Three sorts of
things, and each shows one idea of the contract:

    rule      lets one protocol through to the nodes       shared: comes with the first user, goes with the last
    address   an IP out of the pool of its scheme          has outputs; a new scheme is a new name, the old one drains
    listener  one port of an address, sent to the nodes    refers to both; parts of one document per scheme
"""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from lbctl.errors import LbctlError, NotOurs, Refused, Retry, SettingsError, Unavailable
from lbctl.model import SHARED, Ingress, Key, LoadBalancer, Node, Owner, Port, Ref, Refusal, Resource
from lbctl.plan import Change, Kind
from lbctl.provider import Call, Desired, Harness, Known, Observation, Plugin, Scope, Setting
from lbctl.testing.memory import CLOUDS, POOLS, CloudError, MemoryCloud, Step, Thing, standin

__all__ = ["CLOUDS", "MemoryCloud", "MemoryProvider", "plugin", "refusal", "standin"]

PROTOCOLS = ("TCP", "UDP")

Answer = TypeVar("Answer")


class MemoryProvider:
    """Four questions and one order, over a `MemoryCloud`."""

    name = "memory"
    claims = True
    kinds: tuple[Kind, ...] = (
        Kind("rule", immutable=frozenset({"protocol"})),
        Kind("address", immutable=frozenset({"scheme", "ip"})),
        Kind("listener", after=("rule", "address"), immutable=frozenset({"address", "rule"}), document="frontend"),
    )

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self._cloud = CLOUDS.setdefault(harness.settings.get("cloud", "default"), MemoryCloud())
        self._drain = timedelta(seconds=_seconds(harness.settings.get("drain", "120")))
        self._known = Known()

    def observe(self, scope: Scope) -> Observation:
        """Three calls for everything when fresh, none when warm. Whatever lacks our mark is not even mentioned."""
        if scope.fresh or not self._known.complete:
            self._known.begin()
            things = [thing for kind in self.kinds for thing in self._call("list", self._cloud.list, kind.name)]
            self._known.replace(_resource(thing) for thing in things if self._ours(thing))
        owners = None if scope.owners is None else {*scope.owners, SHARED}
        return Observation(scope, self._known.of(owners))

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        """Rules for the protocols that anybody needs; an address and its listeners for whoever can be served."""
        refused = {lb.owner: no for lb in load_balancers if (no := refusal(lb))}
        targets = {key: _targets(nodes) for key, nodes in {id(lb.nodes): lb.nodes for lb in load_balancers}.items()}
        served = (lb for lb in load_balancers if lb.owner not in refused)
        own = [part for lb in served for part in self._parts(lb, targets[id(lb.nodes)])]
        drains = self._drains({part.key: part for part in own}, seen)
        rules = [self._rule(str(protocol)) for protocol in seen.scope.shares]
        addresses = {part.owner: (Ref("address", part.name, "ip"),) for part in own if part.kind == "address"}
        return Desired((*rules, *own), tuple(refused.values()), drains, addresses=addresses)

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        """The protocols of its ports: each needs its rule."""
        return {port.protocol for port in load_balancer.ports} & set(PROTOCOLS)

    def adopts(self, status: Sequence[Ingress]) -> bool:
        """What somebody else published leads somewhere else."""
        return False

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        """One thing at a time, but listeners of one frontend together. Safe to repeat."""
        together = changes[0].kind == "listener"
        answers = self._edit(changes) if together else [_attempt(partial(self._carry_out, step)) for step in changes]
        for change, answer in zip(changes, answers, strict=True):
            self._known.note(change, answer)
        return answers

    # -- desired: pure -----------------------------------------------------------------------------------------------

    def _parts(self, lb: LoadBalancer, targets: tuple[str, ...]) -> list[Resource]:
        """Names come from what never changes, so that making a thing twice is noticed."""
        name, scheme = self._address_name(lb), _scheme(lb)
        wish = next((str(ip) for ip in lb.requested_addresses), "")
        holds = (f"ip:{wish}",) if wish else ()
        address = Resource(
            "address", name, lb.owner, {"scheme": scheme, "ip": wish}, holds=holds, because=f"{lb.owner} is {scheme}"
        )
        return [address, *(self._listener(lb, port, address, targets) for port in lb.ports)]

    def _listener(self, lb: LoadBalancer, port: Port, address: Resource, targets: tuple[str, ...]) -> Resource:
        fields = {
            "frontend": address.fields["scheme"],
            "address": Ref("address", address.name, "id"),
            "rule": Ref("rule", self._rule(port.protocol).name, "id"),
            "port": port.port,
            "protocol": port.protocol,
            "node_port": port.node_port,
            "targets": targets,
            "allowed": tuple(map(str, lb.source_ranges)),
            "sticky": lb.session_affinity == "ClientIP",
            "health_check_port": lb.health_check_node_port or port.node_port,
        }
        name = f"{address.name}.{port.port}-{port.protocol.lower()}"
        return Resource("listener", name, lb.owner, fields, because=f"port {port} of {lb.owner}")

    def _rule(self, protocol: str) -> Resource:
        name = f"{self._harness.cluster_id}.nodes-{protocol.lower()}"
        return Resource("rule", name, SHARED, {"protocol": protocol}, because=f"some Service has a {protocol} port")

    def _address_name(self, lb: LoadBalancer) -> str:
        return f"{self._harness.cluster_id}.{lb.namespace}.{lb.name}.{_scheme(lb)}"

    def _drains(self, wanted: Mapping[Key, Resource], seen: Observation) -> dict[Key, datetime]:
        """An address whose successor is wanted stays, with its listeners, until `drain` after the successor came."""
        served = {part.owner for part in wanted.values()}
        addresses = [r for r in seen.resources if r.kind == "address" and r.owner in served]
        came = {r.owner: datetime.fromisoformat(r.outputs["created"]) for r in addresses if r.key in wanted}
        leaving = {r.outputs["id"]: r for r in addresses if r.key not in wanted}
        return {
            r.key: came.get(r.owner, seen.scope.at) + self._drain
            for r in seen.resources
            if r.outputs["id"] in leaving or (r.kind == "listener" and r.fields["address"] in leaving)
        }

    # -- apply: calls ------------------------------------------------------------------------------------------------

    def _carry_out(self, change: Change) -> Resource | None:
        """What exists goes by its id, never by its name: a stranger's thing of that name is not ours to touch."""
        if change.after is None:
            self._delete(change)
            return None
        if change.before:
            return _resource(self._call("update", self._cloud.update, change.before.outputs["id"], change.after.fields))
        try:
            return _resource(self._call("create", self._cloud.create, self._thing(change.after)))
        except CloudError as error:
            if error.code != "NameTaken":
                raise
            return self._adopt(change.after)

    def _delete(self, change: Change) -> None:
        """What is gone already is as good as deleted."""
        assert change.before
        try:
            self._call("delete", self._cloud.delete, change.before.outputs["id"])
        except CloudError as error:
            if error.code != "NotFound":
                raise

    def _adopt(self, wanted: Resource) -> Resource:
        """The name is taken: by ourselves, before a crash or an unclear answer, or by somebody else."""
        for thing in self._call("find", self._cloud.find, wanted.kind, [wanted.name]):
            return _resource(self._marked(thing, wanted))
        raise Unavailable(f"{wanted.kind} {wanted.name} came and went: lbctl looks again")

    def _edit(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        """Read the parts, then write them all in one call, which the cloud takes or refuses as a whole."""
        names = [change.name for change in changes]
        found = _attempt(lambda: self._call("find", self._cloud.find, "listener", names))
        if isinstance(found, Exception):
            return [found] * len(changes)
        have = {thing.name: thing for thing in found}
        steps = [_attempt(partial(self._step, change, have)) for change in changes]
        good = [step for step in steps if not isinstance(step, Exception)]
        done = _attempt(lambda: self._call("edit", self._cloud.edit, good) if good else ())
        if isinstance(done, Exception):
            return [step if isinstance(step, Exception) else done for step in steps]
        written = iter(done)
        return [step if isinstance(step, Exception) else _answer(next(written)) for step in steps]

    def _step(self, change: Change, have: dict[str, Thing]) -> tuple[Key, Step]:
        """What to do about one part, seeing what will be there of that name by then."""
        thing = have.get(change.name)
        if change.after is None:
            old = change.before and change.before.outputs["id"]
            if thing is None or thing.id != old:
                return change.key, _nothing
            del have[change.name]
            return change.key, partial(self._cloud.delete, thing.id)
        if thing is None:
            return change.key, partial(self._cloud.create, self._thing(change.after))
        return change.key, partial(self._cloud.update, self._marked(thing, change.after).id, change.after.fields)

    def _thing(self, resource: Resource) -> Thing:
        tags = {
            "cluster": self._harness.cluster_id,
            "owner": resource.owner,
            "created": self._harness.now().astimezone(UTC).isoformat(),
        }
        return Thing(resource.kind, resource.name, resource.fields, tags)

    def _ours(self, thing: Thing) -> bool:
        return thing.tags.get("cluster") == self._harness.cluster_id

    def _marked(self, thing: Thing, wanted: Resource) -> Thing:
        if self._ours(thing) and thing.tags["owner"] == wanted.owner:
            return thing
        raise NotOurs(f"the {thing.kind} {thing.name} is somebody else's: remove or rename it, or rename the Service")

    def _call(self, operation: str, function: Callable[..., Answer], *arguments: object) -> Answer:
        """Every call is told to the harness before it is sent and after it was answered."""
        self._harness.on_call(Call("memory", operation))
        try:
            answer = function(*arguments)
        except CloudError as error:
            self._harness.on_call(Call("memory", operation, error.code))
            raise
        self._harness.on_call(Call("memory", operation, "ok"))
        return answer


def refusal(lb: LoadBalancer) -> Refusal | None:
    """Why this one cannot be served, in the words that its user will read; None if it can."""
    pool = POOLS[_scheme(lb)]
    checks: tuple[tuple[bool, str, str], ...] = (
        (not lb.ports, "no-ports", "the Service has no ports: give it one"),
        (
            any(port.protocol not in PROTOCOLS for port in lb.ports),
            "unsupported-protocol",
            f"only {' and '.join(PROTOCOLS)} can be served: remove the other ports",
        ),
        (
            any(port.node_port == 0 for port in lb.ports),
            "no-node-port",
            "a port has no nodePort: leave allocateLoadBalancerNodePorts at true",
        ),
        ("IPv4" not in lb.ip_families, "unsupported-family", "only IPv4 can be served: add it to ipFamilies"),
        (
            any(ip not in pool for ip in lb.requested_addresses),
            "no-pool-match",
            f"{', '.join(map(str, lb.requested_addresses))} is not in {pool}: ask for another address, or for none",
        ),
        (len(lb.requested_addresses) > 1, "too-many-addresses", "there is one address per Service: ask for one"),
    )
    return next((Refusal(lb.owner, reason, message) for no, reason, message in checks if no), None)


def _scheme(lb: LoadBalancer) -> str:
    return lb.scheme or "internet-facing"


def _targets(nodes: Sequence[Node]) -> tuple[str, ...]:
    """The nodes' addresses in one order, whatever order they came in. All Services share one tuple of nodes."""
    return tuple(sorted(str(node.addresses[0]) for node in nodes if node.addresses))


def _resource(thing: Thing) -> Resource:
    """What desired would have said of it: the properties were its fields."""
    outputs = {"id": thing.id, "ip": thing.ip, "created": thing.tags["created"]}
    holds = (f"ip:{thing.ip}",) if thing.properties.get("ip") else ()
    return Resource(thing.kind, thing.name, Owner(thing.tags["owner"]), thing.properties, outputs, holds)


def _answer(thing: Thing | None) -> Resource | None:
    return _resource(thing) if thing else None


def _nothing() -> None:
    """The step for what is gone already."""


def _attempt(call: Callable[[], Answer]) -> Answer | Exception:
    """The answer, or the error in lbctl's words. Anything else, a crash above all, is let through."""
    try:
        return call()
    except LbctlError as error:
        return error
    except CloudError as error:
        return _translated(error)


def _translated(error: CloudError) -> LbctlError:
    """By code, never by text."""
    match error.code:
        case "InUse":
            return Retry(5, f"{error}: waiting until it is not", reason="in-use")
        case "NotFound" | "NameTaken":
            return Unavailable(f"{error}, unlike a moment ago: lbctl looks again")
        case "LimitExceeded":
            return Refused(f"{error}: raise the limit, or split the Service", reason="limit-exceeded")
        case _:
            return Refused(f"{error}: change the Service", reason="invalid")


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d+", text):
        raise SettingsError(f"memory.drain is {text!r}: give a number of seconds (--memory-drain, LBCTL_MEMORY_DRAIN)")
    return float(text)


plugin = Plugin(
    name="memory",
    make=MemoryProvider,
    settings=(
        Setting("cloud", "which of this process's clouds to use", default="default", metavar="NAME"),
        Setting("drain", "seconds that a replaced address stays for its connections", default="120", metavar="SECONDS"),
    ),
)
