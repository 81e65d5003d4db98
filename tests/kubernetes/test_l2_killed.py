"""The controller is killed again and again while it gives out addresses: none is ever given twice, none is lost."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import msgspec

SERVICES = 120
KILLS = 4


def held(kube) -> dict[str, str]:
    """Who has which address."""
    items: list[Any] = msgspec.json.decode(kube.client.get(kube.path("services")))["items"]
    found = {item["metadata"]["name"]: item["status"]["loadBalancer"].get("ingress") for item in items}
    return {name: ingress[0]["ip"] for name, ingress in found.items() if ingress}


def controller(kube, log) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-c", "from lbctl.cli import main; main()", "run", "--kubeconfig", str(kube.kubeconfig),
        "--provider", "l2", "--l2-addresses", "10.99.0.0/25", "--no-leader-elect", "--listen", "127.0.0.1:0",
    ]  # fmt: skip
    environment = {**os.environ, "LBCTL_LEADER_ELECT_RESOURCE_NAMESPACE": kube.namespace}
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def test_no_kill_gives_an_address_twice(sandbox_kube, wait, tmp_path):
    for number in range(SERVICES):
        sandbox_kube.service(f"s{number:03d}", loadBalancerClass="lbctl.io/l2")
    chance, before = random.Random(7), dict[str, str]()
    with (tmp_path / "log").open("wb") as log:
        for kill in range(KILLS + 1):
            process = controller(sandbox_kube, log)
            try:
                goal = SERVICES if kill == KILLS else min(SERVICES, len(before) + chance.randint(1, 40))
                wait(lambda goal=goal: len(held(sandbox_kube)) >= goal, timeout=60)
                threading.Event().wait(chance.random() / 20)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
            now = held(sandbox_kube)
            assert max(Counter(now.values()).values()) == 1
            assert now.items() >= before.items()
            before = now
            # Somebody's Service goes, and another one comes, while nobody controls.
            sandbox_kube.delete(gone := sorted(now)[kill])
            sandbox_kube.service(f"new-{kill}", loadBalancerClass="lbctl.io/l2")
            before.pop(gone)
