"""kill -9 of the real process at random moments, and nodes that come and go: nothing is lost, leaked or doubled.

A sandbox in this process plays Kubernetes and AWS; `lbctl` is a process of its own. The seed of every run is printed.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lbctl.kube.client import Client, NotFound
from lbctl.sandbox.sandbox import Sandbox, manifest

SERVICES = "/api/v1/namespaces/default/services"
QUICK = {
    "LBCTL_LISTEN": "", "LBCTL_INTERVALS_SETTLE": "100ms", "LBCTL_INTERVALS_BACKOFF": "200ms",
    "LBCTL_INTERVALS_BACKOFF_MOST": "2s", "LBCTL_LEADER_ELECT_LEASE_DURATION": "2s",
    "LBCTL_LEADER_ELECT_RENEW_DEADLINE": "1500ms", "LBCTL_LEADER_ELECT_RETRY_PERIOD": "300ms",
    "LBCTL_AWS_DRAIN_SECONDS": "0", "AWS_EC2_METADATA_DISABLED": "true",
}
"""Nobody waits longer than the story needs: a killed leader's Lease ends after two seconds."""

NAMES = tuple(f"web-{number}" for number in range(8))


class Rig:
    """The sandbox, what a user does in it, and lbctl as a process that can be killed."""

    def __init__(self, state: Path) -> None:
        self.sandbox = Sandbox(["aws"], state)
        self.sandbox.start()
        self.aws: Any = self.sandbox.standins["aws"]
        self.client = Client.from_config(str(self.sandbox.kubeconfig), component="user")
        self.running: subprocess.Popen[bytes] | None = None
        self.log = (state.parent / "log").open("ab")

    def start(self, *verb: str) -> None:
        command = [sys.executable, "-c", "from lbctl.cli import main; main()", *verb]
        environ = {**os.environ, **QUICK, "LBCTL_CONFIG": str(self.sandbox.config)}
        self.running = subprocess.Popen(command, env=environ, stdout=self.log, stderr=self.log)

    def until(self, true: Callable[[], object], seconds: float = 90.0) -> None:
        """Wait for it, no longer than the process that is to bring it about lives."""
        deadline = time.monotonic() + seconds
        while not true():
            assert self.running is not None
            assert self.running.poll() is None, f"lbctl ended: {self.said()}"
            assert time.monotonic() < deadline, f"it did not come true in time: {self.said()}"
            threading.Event().wait(0.1)

    def said(self) -> str:
        """The end of what it logged."""
        return Path(self.log.name).read_text()[-2000:]

    def kill_after(self, calls: int, patience: float = 6.0) -> None:
        """Kill it once it has sent so many calls to AWS, or at rest."""
        assert self.running is not None
        target, deadline = self.sent() + calls, time.monotonic() + patience
        while self.sent() < target and time.monotonic() < deadline and self.running.poll() is None:
            threading.Event().wait(0.002)
        assert self.running.poll() in (None, 0), f"lbctl ended: {self.said()}"
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.running is not None:
            self.running.send_signal(how)
            self.running.wait(30)
            self.running = None

    def sent(self) -> int:
        return int(self.aws.wire.sent.total())

    def put(self, name: str, *ports: int, scheme: str = "internet-facing") -> None:
        """Create the Service, or make it so."""
        annotations = {"lbctl.io/scheme": scheme}
        wanted = [{"name": f"p{port}", "port": port} for port in ports]
        spec = {"type": "LoadBalancer", "ports": wanted}
        body = {"metadata": {"name": name, "annotations": annotations}, "spec": spec}
        there = self.get(name)
        if there is None:
            self.client.request("POST", SERVICES, body)
        elif "deletionTimestamp" not in there["metadata"]:
            self.client.request("PATCH", f"{SERVICES}/{name}", body, content_type="application/merge-patch+json")

    def delete(self, name: str) -> None:
        if self.get(name) is not None:
            self.client.request("DELETE", f"{SERVICES}/{name}")

    def get(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = msgspec.json.decode(self.client.get(f"{SERVICES}/{name}"))
        except NotFound:
            return None
        return found

    def everybody(self) -> dict[str, dict[str, Any]]:
        found = msgspec.json.decode(self.client.get(SERVICES))["items"]
        return {s["metadata"]["name"]: s for s in found if s["spec"].get("type") == "LoadBalancer"}

    def inventory(self) -> Counter[str]:
        return Counter(line.partition(" ")[0] for line in self.aws.inventory())

    def expected(self) -> Counter[str]:
        """One load balancer and group per Service, one target group and listener per port; what all share once."""
        ports = [len(service["spec"]["ports"]) for service in self.everybody().values()]
        shared = {"security-group": len(ports) + 1, "node-rule": 1} if ports else {}
        own = {"load-balancer": len(ports), "target-group": sum(ports), "listener": sum(ports)} if ports else {}
        return Counter({**own, **shared})

    def settled(self) -> bool:
        """Is everything as it should be: addresses that exist, and exactly what belongs there?"""
        names = {balancer.dns_name for balancer in list(self.aws.load_balancing.load_balancers.values())}
        said = [hostname(service) for service in self.everybody().values()]
        going = [s for s in self.everybody().values() if "deletionTimestamp" in s["metadata"]]
        return self.inventory() == self.expected() and set(said) == names and not going

    def mutate(self, dice: random.Random) -> None:
        """A user at work: a few Services come, change and go."""
        for name in dice.sample(NAMES, 3):
            if dice.random() < 0.25:
                self.delete(name)
            else:
                self.put(name, *dice.sample((80, 443, 8080), dice.choice((1, 2))),
                         scheme=dice.choice(("internal", "internet-facing")))

    def close(self) -> None:
        self.end(signal.SIGKILL)
        self.client.close()
        self.sandbox.stop()
        self.log.close()


def hostname(service: dict[str, Any]) -> str:
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or [{}]
    return str(ingress[0].get("hostname", ""))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / ".lbctl")
    yield made
    made.close()


@pytest.fixture
def dice() -> random.Random:
    seed = int(os.environ.get("LBCTL_TEST_SEED") or random.SystemRandom().randrange(10**6))
    sys.stdout.write(f"LBCTL_TEST_SEED={seed}\n")
    return random.Random(seed)


@pytest.mark.timeout(400)
def test_a_controller_killed_ten_times_converges_with_nothing_leaked_or_doubled(rig, dice) -> None:
    for _ in range(10):
        rig.mutate(dice)
        rig.start("run")
        rig.kill_after(dice.randrange(1, 45))
    rig.start("run")
    rig.until(rig.settled)
    for name in NAMES:
        rig.delete(name)
    rig.until(lambda: not rig.everybody())
    # What all share goes with an audit; a start is one, too.
    rig.end()
    rig.start("run")
    rig.until(lambda: not rig.aws.inventory())


@pytest.mark.timeout(600)
def test_a_one_shot_killed_ten_times_converges_when_it_is_run_again(rig, dice) -> None:
    apply = ("apply", "--yes", "--prune", "--max-delete", "100%", "--lock-timeout", "20s")
    for _ in range(10):
        rig.mutate(dice)
        rig.start(*apply)
        rig.kill_after(dice.randrange(1, 45))
    for _ in range(2):
        rig.start(*apply)
        assert rig.running is not None
        assert rig.running.wait(60) == 0
    assert rig.settled()


@pytest.mark.timeout(600)
def test_nodes_that_come_and_go_while_a_hundred_services_are_made(rig, dice) -> None:
    nodes = rig.aws.nodes(8)
    # On a busy machine a Lease of two seconds may be lost, and this story is not about that.
    rig.start("run", "--no-leader-elect")
    for number in range(100):
        rig.put(f"many-{number}", 80)
        if number % 10 == 5:
            churn(rig, dice, nodes)
    rig.until(rig.settled, 300)
    rig.until(lambda: targets(rig) == {frozenset(instances(rig))})
    rig.end()


def churn(rig: Rig, dice: random.Random, nodes: Any) -> None:
    """One node comes or goes; the first stays."""
    node = dice.choice(nodes[1:])
    try:
        rig.client.request("DELETE", f"/api/v1/nodes/{node.name}")
    except NotFound:
        rig.client.request("POST", "/api/v1/nodes", manifest(node))


def instances(rig: Rig) -> list[str]:
    found = msgspec.json.decode(rig.client.get("/api/v1/nodes"))["items"]
    return [node["spec"]["providerID"].rpartition("/")[2] for node in found]


def targets(rig: Rig) -> set[frozenset[str]]:
    """What is registered: one set, if all groups have the same."""
    groups = list(rig.aws.load_balancing.target_groups.values())
    return {frozenset(target["Id"] for target in list(group.targets.values())) for group in groups}
