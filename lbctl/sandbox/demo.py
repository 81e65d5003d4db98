"""The whole life of a few Services in a minute: applied, served, damaged, repaired, deleted, and nothing left.

`make demo` runs this. It is the real controller (the same `Daemon` as `lbctl run`) against the sandbox. Every promise
that it shows is checked: if one does not come true, it says which, and ends with an error.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import yaml

from lbctl import plugins
from lbctl.controller import Timing
from lbctl.daemon import Cluster, Daemon, Desk, Options, utcnow
from lbctl.errors import LbctlError
from lbctl.kube.client import Client
from lbctl.kube.events import Recorder
from lbctl.kube.read import load_balancer_class
from lbctl.model import READY, SHARED, Resource
from lbctl.provider import Call, Harness
from lbctl.render import for_terminal, table
from lbctl.sandbox.sandbox import Sandbox, endpoint_slice

PATIENCE = 30.0
"""Seconds to wait for any one promise."""

SERVICES = """
# A web site on two ports.
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{name: http, port: 80}, {name: https, port: 443}]
---
# DNS, over UDP.
apiVersion: v1
kind: Service
metadata: {name: dns, namespace: shop}
spec:
  type: LoadBalancer
  selector: {app: dns}
  ports: [{name: dns, port: 53, protocol: UDP}]
---
# Only for the network inside; and the client's address is kept.
apiVersion: v1
kind: Service
metadata:
  name: orders
  namespace: shop
  annotations: {lbctl.io/scheme: internal}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: orders}
  ports: [{name: grpc, port: 8443}]
---
# Asks for what cannot be served: it is told so, and nobody else is held up.
apiVersion: v1
kind: Service
metadata: {name: legacy, namespace: shop}
spec:
  type: LoadBalancer
  selector: {app: legacy}
  ports: [{name: sctp, port: 3868, protocol: SCTP}]
"""

REFUSED = "legacy"


class Broken(LbctlError):
    """The demo promised something that did not come true."""

    reason = "demo-broken"


class Demo:
    """One run. `say` gets each line that a person should read; `lent` as of a `Sandbox`."""

    def __init__(self, provider: str, state: Path, say: Callable[[str], None], *, lent: bool = False) -> None:
        self._provider, self._say = provider, say
        self._sandbox = Sandbox([provider], state, lent=lent)
        self._calls: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._client: Client
        self._desk: Desk
        self._others: list[Desk] = []
        self._acts = {name: act for name, act in plugins.acts().items() if name != provider}
        self._services: list[dict[str, Any]] = list(yaml.load_all(SERVICES, Loader=yaml.CSafeLoader))
        self._services += [_asking_for(name, act.SERVICE) for name, act in self._acts.items()]

    def run(self, *, keep: Callable[[], None] | None = None) -> None:
        """Everything in order. Raises `Broken` at the first promise that is not kept. `keep` holds it up at the end."""
        try:
            self._start()
            before = self._inventory()
            with self._controller():
                self._serve()
                made = self._inventory() - before
                self._show(made)
                self._damage()
                self._act()
                if keep:
                    self._say(
                        f"\nIt stays up until Ctrl-C. In another terminal:\n"
                        f"  export KUBECONFIG={self._sandbox.kubeconfig}\n  kubectl get services -A -w"
                    )
                    keep()
                self._delete(before)
        finally:
            self._sandbox.stop()

    # -- acts ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._sandbox.start()
        self._client = Client.from_config(str(self._sandbox.kubeconfig), component="demo")
        self._say(f"A Kubernetes API and a stand-in for {self._provider} are up, on loopback only. Nodes:")
        self._say(
            table(
                ("NAME", "PROVIDER-ID"),
                [
                    (node["metadata"]["name"], node["spec"].get("providerID", ""))
                    for node in self._list("/api/v1/nodes")
                ],
            )
        )

    def _serve(self) -> None:
        self._say(f"\nApplying {len(self._services)} Services of type LoadBalancer …")
        started = time.monotonic()
        self._request("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
        nodes = self._desk.nodes()
        for service in self._services:
            name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
            slices = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
            self._request("POST", slices, endpoint_slice("shop", name, nodes, port))
            self._request("POST", "/api/v1/namespaces/shop/services", service)
        self._until("every Service has an address or a reason", lambda: all(map(_answered, self._shop())))
        self._until("the controller is at rest", self._at_rest)
        wrong = [s["metadata"]["name"] for s in self._shop() if bool(_address(s)) == (s["metadata"]["name"] == REFUSED)]
        if wrong:
            raise Broken(f"these Services are not as they should be: {', '.join(wrong)}")
        self._say(f"… all answered after {time.monotonic() - started:.1f} s:\n")
        rows = [(s["metadata"]["name"], _address(s) or "<pending>", _ports(s), *_ready(s)) for s in self._shop()]
        self._say(table(("NAME", "EXTERNAL-IP", "PORT(S)", "READY", "WHY"), rows))

    def _show(self, made: frozenset[str]) -> None:
        calls = sum(self._calls.values())
        self._say(f"\nMade in the cloud, with {calls} API calls:\n")
        self._say("\n".join(f"  + {for_terminal(line)}" for line in sorted(made)))
        self._say(f"\n  {', '.join(f'{count} {name}' for name, count in self._calls.most_common())}")

    def _damage(self) -> None:
        """Change something behind the controller's back, and see the audit put it right."""
        good = self._inventory()
        resource, done = self._drift()
        self._say(f"\nSomebody changes something by hand: {done}")
        damaged = self._inventory()
        self._calls.clear()
        repaired = self._desk.repairs
        self._desk.audit()
        self._until("the damage is repaired", lambda: self._at_rest() and (
            self._inventory() == good if damaged != good else self._desk.repairs > repaired
        ))  # fmt: skip
        self._say(
            f"… the next audit puts it right ({resource.kind} of {resource.owner}), "
            f"with {sum(self._calls.values())} API calls."
        )

    def _act(self) -> None:
        """What providers without a cloud show of the addresses that they gave out."""
        addresses = {s["metadata"]["name"]: _address(s) for s in self._shop()}
        for act in self._acts.values():
            self._say(f"\n{act.TITLE}")
            act.show(addresses[act.SERVICE], [node.name for node in self._desk.nodes()], self._say)

    def _delete(self, before: frozenset[str]) -> None:
        self._say("\nDeleting all Services …")
        self._calls.clear()
        for service in self._services:
            self._request("DELETE", f"/api/v1/namespaces/shop/services/{service['metadata']['name']}")
        self._until("the Services are gone", lambda: not self._shop())
        self._until("nothing is left in the cloud", lambda: self._swept(before))
        self._say(f"… gone, with {sum(self._calls.values())} API calls. Left in the cloud: nothing.")

    # -- helpers ------------------------------------------------------------------------------------------------

    @contextmanager
    def _controller(self) -> Iterator[None]:
        """The real one, as `lbctl run` puts it together."""
        client = Client.from_config(str(self._sandbox.kubeconfig), component="controller")
        watches = [w for name, act in self._acts.items() for w in plugins.plugin(name).watches(act.SETTINGS)]
        cluster, recorder = Cluster(client, watches=watches), Recorder(client)
        daemon = Daemon(cluster, recorder)
        harness = Harness(self._sandbox.settings(self._provider), cluster.identity(), now=utcnow, on_call=self._count)
        options = Options(default_provider=self._provider, timing=Timing(backoff=0.5))
        self._desk = Desk(plugins.plugin(self._provider), harness, cluster, options, recorder=recorder)
        seen = cluster.access("kube-system", recorder)
        for name, act in self._acts.items():
            own = Harness(act.SETTINGS, harness.cluster_id, now=utcnow, kubernetes=seen)
            self._others.append(Desk(plugins.plugin(name), own, cluster, Options(), recorder=recorder))
        daemon.desks += [self._desk, *self._others]
        thread = threading.Thread(target=daemon.run, name="daemon", daemon=True)
        thread.start()
        try:
            self._until("the controller has looked at everything once", self._at_rest)
            yield
        finally:
            daemon.stop()
            thread.join(PATIENCE)

    def _count(self, call: Call) -> None:
        if call.code is not None:
            with self._counting:
                self._calls[call.operation] += 1

    def _standin(self) -> Any:
        return self._sandbox.standins[self._provider]

    def _inventory(self) -> frozenset[str]:
        found: frozenset[str] = self._standin().inventory()
        return found

    def _drift(self) -> tuple[Resource, str]:
        """Damage the first resource of a Service that the stand-in knows how to damage."""
        for resource in sorted(self._desk.resources(), key=lambda r: (r.owner == SHARED, r.kind, r.name)):
            done = self._standin().drift(resource)
            if done:
                return resource, done
        raise Broken("the stand-in cannot damage anything")

    def _swept(self, before: frozenset[str]) -> bool:
        if self._inventory() <= before:
            return True
        if self._at_rest():
            # Interfaces linger for a while after their load balancer, and hold its security group.
            self._standin().settle()
            self._desk.audit()
        return False

    def _at_rest(self) -> bool:
        return all(desk.at_rest() for desk in (self._desk, *self._others))

    def _shop(self) -> list[dict[str, Any]]:
        return self._list("/api/v1/namespaces/shop/services")

    def _list(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = msgspec.json.decode(self._client.get(path))["items"]
        return found

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        self._client.request(method, path, body)

    def _until(self, promise: str, kept: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not kept():
            if time.monotonic() > deadline:
                raise Broken(f"this did not come true within {PATIENCE:.0f} s: {promise}")
            threading.Event().wait(0.05)


def _asking_for(provider: str, name: str) -> dict[str, Any]:
    """A Service that asks for another provider than the demo's first."""
    spec = {"type": "LoadBalancer", "loadBalancerClass": load_balancer_class(provider), "selector": {"app": name}}
    ports = [{"name": "main", "port": 631}]
    return {"kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": {**spec, "ports": ports}}


def _telling(resource: Resource) -> tuple[bool, bool, str, str]:
    """What is worth showing first: a Service's own things before shared ones, listeners above all."""
    return (resource.owner == SHARED, resource.kind != "listener", resource.owner, resource.name)


def _address(service: dict[str, Any]) -> str:
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or [{}]
    return str(ingress[0].get("hostname") or ingress[0].get("ip") or "")


def _ready(service: dict[str, Any]) -> tuple[str, str]:
    for condition in service.get("status", {}).get("conditions") or ():
        if condition["type"] == READY:
            good = condition["status"] == "True"
            why = "" if good else f"{condition['reason']}: {condition['message']}"
            return condition["status"], for_terminal(why)
    return "Unknown", ""


def _answered(service: dict[str, Any]) -> bool:
    """Does it have an address, or a reason that is not just a matter of time?"""
    status, why = _ready(service)
    return (bool(_address(service)) and status == "True") or (status == "False" and not why.startswith("provisioning"))


def _ports(service: dict[str, Any]) -> str:
    return ",".join(f"{p['port']}:{p.get('nodePort', '?')}/{p['protocol']}" for p in service["spec"]["ports"])
