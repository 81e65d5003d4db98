"""How long planning takes and how much memory a controller needs, at 2,000 and 10,000 Services.

Each size in a process of its own, filled as the real one is: JSON of Services, decoded into stores, read, planned. The
reference provider's cloud lives in the same process; its things are counted in the memory shown.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from tests.bench.goal import Measured

NODES = 100


def measure() -> Iterator[Measured]:
    for size in (2_000, 10_000):
        command = [sys.executable, "-m", "tests.bench.plans", str(size)]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        yield Measured(f"full plan, fresh, {size:,} Services", 2.0 * size / 10_000, said["full"], "s of CPU")
        yield Measured(f"one event among {size:,} Services", 5.0, said["event"], "ms of CPU")
        yield Measured(f"peak memory, {size:,} Services", 120.0, said["memory"], "MiB")


def service(number: int) -> bytes:
    """One Service as the API server sends it."""
    return json.dumps({
        "metadata": {
            "name": f"s{number}", "namespace": f"ns{number % 50}", "uid": f"uid-{number}",
            "resourceVersion": str(number + 1), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": f"a{number}"}, "annotations": {"example.com/team": "shop"},
            "finalizers": ["lbctl.io/memory"],
        },
        "spec": {
            "type": "LoadBalancer", "selector": {"app": f"a{number}"}, "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30000 + number % 2700, "protocol": "TCP"}],
        },
    }).encode()


def cpu(what: Callable[[], object]) -> float:
    """Seconds of CPU that the call took."""
    started = time.process_time()
    what()
    return time.process_time() - started


def main(size: int) -> dict[str, float]:
    from lbctl.kube import objects
    from lbctl.kube.source import StoreSource, stores
    from lbctl.memory import MemoryProvider
    from lbctl.model import Owner
    from lbctl.policy import Policy
    from lbctl.provider import Harness
    from lbctl.reconcile import Reconciler
    from lbctl.stack import Stack
    from lbctl.wanted import Wanted

    filled = stores()
    decoder = objects.decoder(objects.Service)
    decoded = (objects.decode(service(number), decoder) for number in range(size))
    filled.services.replace((item for item in decoded if isinstance(item, objects.Service)), str(size))
    filled.nodes.replace((objects.Node(objects.Metadata(name=f"n{n}")) for n in range(NODES)), "1")
    source = StoreSource(filled, provider="memory", default_provider="memory")
    provider = MemoryProvider(Harness({"cloud": "bench"}, "bench", now=now))
    reconciler = Reconciler(Stack(provider), Wanted(provider.shares), Policy(), now=now)
    for owner in source.owners():
        load_balancer = source.read(owner)
        assert load_balancer is not None
        reconciler.wanted.put(load_balancer)
    report = reconciler.apply(reconciler.plan())
    assert not report.failed, report.failed[0]
    full = min(cpu(reconciler.plan) for _ in range(3))
    one = frozenset({Owner("ns1/s1")})
    event = cpu(lambda: [reconciler.plan(one, fresh=False) for _ in range(100)]) / 100
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"full": full, "event": event * 1000, "memory": memory}


def now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
