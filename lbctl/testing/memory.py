"""The cloud that `lbctl.memory` talks to: things in a dict, as strict as a real cloud, and its stand-in for the laws.

A real provider has an SDK in this place, and its stand-in in a `testing.py`. Names are unique, what is in use cannot
go, what is referred to must exist, quotas hold: a test that passes here means something.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, ip_address
from itertools import count, cycle, islice
from typing import Any

import msgspec

from lbctl.model import Key, Node, Resource
from lbctl.testing.standin import Standin

KINDS = ("rule", "address", "listener")

POOLS = {"internet-facing": IPv4Network("198.18.0.0/15"), "internal": IPv4Network("10.128.0.0/12")}
"""Where addresses come from. The public ones are those that RFC 2544 sets apart for tests."""


class Thing(msgspec.Struct, frozen=True):
    """One thing in the cloud. `tags` are ours to write, `id` and `ip` are the cloud's."""

    kind: str
    name: str
    properties: Mapping[str, Any]
    tags: Mapping[str, str] = {}
    id: str = ""
    ip: str = ""

    @property
    def key(self) -> Key:
        return (self.kind, self.name)


Step = Callable[[], Thing | None]
"""One change to a document, ready to be made."""


class CloudError(Exception):
    """The cloud says no: `NameTaken`, `NotFound`, `InUse`, `Invalid` or `LimitExceeded`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class MemoryCloud:
    """Things by name. Safe to use from several threads; a call takes effect entirely or not at all."""

    def __init__(self, max_listeners: int = 50, pools: Mapping[str, IPv4Network] = POOLS) -> None:
        self.max_listeners, self.pools = max_listeners, pools
        self._lock = threading.RLock()
        self._ids = count(1)
        self._free = {scheme: cycle(map(str, pool.hosts())) for scheme, pool in pools.items()}
        self._things: dict[Key, Thing] = {}
        self._names: dict[str, Key] = {}
        self._users: dict[str, set[Key]] = {}
        self._ips: set[str] = set()

    def list(self, kind: str) -> tuple[Thing, ...]:
        """Everything of one kind, whoever made it."""
        with self._lock:
            return tuple(thing for thing in self._things.values() if thing.kind == kind)

    def find(self, kind: str, names: Iterable[str]) -> tuple[Thing, ...]:
        """Those of these names that there are."""
        with self._lock:
            return tuple(self._things[kind, name] for name in names if (kind, name) in self._things)

    def create(self, thing: Thing) -> Thing:
        """Make one thing; an address gets its IP here."""
        with self._lock:
            if thing.key in self._things:
                raise CloudError("NameTaken", f"there is a {thing.kind} {thing.name} already")
            self._check(thing)
            ip = self._ip(thing) if thing.kind == "address" else ""
            return self._put(msgspec.structs.replace(thing, id=f"{thing.kind}-{next(self._ids)}", ip=ip))

    def update(self, id: str, properties: Mapping[str, Any]) -> Thing:
        """Change the properties of one thing, which keeps its id and its IP."""
        with self._lock:
            old = self._by_id(id)
            new = msgspec.structs.replace(old, properties=properties)
            self._check(new)
            self._drop(old)
            return self._put(new)

    def delete(self, id: str) -> None:
        """Remove one thing that nothing refers to."""
        with self._lock:
            thing = self._by_id(id)
            if users := self._users.get(id):
                raise CloudError("InUse", f"{thing.kind} {thing.name} is in use by {min(users)[1]}")
            self._drop(thing)
            self._users.pop(id, None)

    def edit(self, steps: Sequence[tuple[Key, Step]]) -> Sequence[Thing | None]:
        """Several changes to one document, each with the key that it changes: all of them, or, if one is bad, none."""
        with self._lock:
            before = {key: self._things.get(key) for key, _ in steps}
            try:
                return [step() for _, step in steps]
            except CloudError:
                for key in before.keys() & self._things.keys():
                    self._drop(self._things[key])
                for thing in filter(None, before.values()):
                    self._put(thing)
                raise

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for thing in tuple(self._things.values()):
                self._drop(thing)

    def _by_id(self, id: str) -> Thing:
        if id not in self._names:
            raise CloudError("NotFound", f"there is no {id}")
        return self._things[self._names[id]]

    def _check(self, thing: Thing) -> None:
        if thing.kind != "listener":
            return
        for needed in ("address", "rule"):
            self._by_id(thing.properties[needed])
        others = [self._things[key] for key in self._users.get(thing.properties["address"], ()) if key != thing.key]
        if any(_port(other) == _port(thing) for other in others):
            raise CloudError("Invalid", f"port {_port(thing)} of the address is taken")
        if len(others) >= self.max_listeners:
            raise CloudError("LimitExceeded", f"an address carries at most {self.max_listeners} listeners")

    def _ip(self, thing: Thing) -> str:
        wish, scheme = thing.properties["ip"], thing.properties["scheme"]
        if wish in self._ips:
            raise CloudError("Invalid", f"{wish} is taken")
        candidates = islice(self._free[scheme], self.pools[scheme].num_addresses)
        ip: str = wish or next((ip for ip in candidates if ip not in self._ips), "")
        if not ip:
            raise CloudError("LimitExceeded", f"no address is left in {self.pools[scheme]}")
        return ip

    def _put(self, thing: Thing) -> Thing:
        self._things[thing.key] = thing
        self._names[thing.id] = thing.key
        self._ips |= {thing.ip} - {""}
        for used in _uses(thing):
            self._users.setdefault(used, set()).add(thing.key)
        return thing

    def _drop(self, thing: Thing) -> None:
        del self._things[thing.key], self._names[thing.id]
        self._ips.discard(thing.ip)
        for used in _uses(thing):
            self._users[used].discard(thing.key)


def _port(listener: Thing) -> str:
    return f"{listener.properties['port']}/{listener.properties['protocol']}"


def _uses(thing: Thing) -> tuple[str, ...]:
    return (thing.properties["address"], thing.properties["rule"]) if thing.kind == "listener" else ()


CLOUDS: dict[str, MemoryCloud] = {}
"""The clouds of this process by name: a provider that is made anew finds its things where it left them."""


class MemoryStandin:
    """A cloud of its own for each test. See `lbctl.testing.standin`."""

    def __init__(self) -> None:
        self.cloud = MemoryCloud()
        self.settings: Mapping[str, str] = {"cloud": f"standin-{id(self)}"}

    def start(self) -> None:
        CLOUDS[self.settings["cloud"]] = self.cloud

    def stop(self) -> None:
        CLOUDS.pop(self.settings["cloud"], None)

    def reset(self) -> None:
        self.cloud.clear()

    def nodes(self, count: int) -> Sequence[Node]:
        return tuple(_node(number) for number in range(1, count + 1))

    def inventory(self) -> frozenset[str]:
        return frozenset(_line(thing) for thing in self._everything())

    def plant_foreign(self) -> frozenset[str]:
        """What another cluster made, and an address without any mark that has the name ours would have."""
        tags = {"cluster": "another", "owner": "laws/web", "created": "2020-01-01T00:00:00+00:00"}
        held = Thing("address", "laws.laws.web.internet-facing", {"scheme": "internet-facing", "ip": ""})
        rule = Thing("rule", "another.nodes-tcp", {"protocol": "TCP"}, tags)
        address = Thing("address", "another.laws.web.internal", {"scheme": "internal", "ip": ""}, tags)
        free = [thing for thing in (held, rule, address) if not self.cloud.find(thing.kind, [thing.name])]
        return frozenset(_line(self.cloud.create(thing)) for thing in free)

    def drift(self, resource: Resource) -> str | None:
        """Somebody empties a listener, or deletes an address or a rule with all that uses it."""
        id = resource.outputs["id"]
        if resource.kind == "listener":
            self.cloud.update(id, {**resource.fields, "allowed": ("192.0.2.0/24",), "targets": ()})
            return f"the targets of {resource.name} are gone"
        users = [thing.id for thing in self.cloud.list("listener") if id in _uses(thing)]
        for gone in (*users, id):
            self.cloud.delete(gone)
        return f"{resource.kind} {resource.name} was deleted with all that uses it"

    def settle(self) -> None:
        """Nothing takes time here."""

    def public(self) -> frozenset[str]:
        """Inventory lines of what the internet reaches."""
        found = (thing for thing in self.cloud.list("address") if ip_address(thing.ip) in POOLS["internet-facing"])
        return frozenset(map(_line, found))

    def _everything(self) -> Iterable[Thing]:
        return (thing for kind in KINDS for thing in self.cloud.list(kind))


def _node(number: int) -> Node:
    address = IPv4Address("10.0.0.0") + number
    return Node(f"node-{number}", f"memory://node-{number}", addresses=(address,))


def _line(thing: Thing) -> str:
    """With its mark, so that a thing that is taken over is another line."""
    return f"{thing.kind} {thing.name} of {thing.tags.get('cluster', 'nobody')}"


def standin() -> Standin:
    """What the entry point `memory` in the group `lbctl.standins` names."""
    return MemoryStandin()
