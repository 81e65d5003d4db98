"""How many AWS calls each operation costs, against the stand-in over real HTTP. The same on every machine.

Measured warm, as a controller works: everything has been read once before the operation begins. The same operations are
asserted in tests/aws; here they are printed beside their goals.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from lbctl import plugins
from lbctl.model import LoadBalancer, Node, Owner, Port
from lbctl.policy import Limits, Policy
from lbctl.provider import Call, Harness
from lbctl.reconcile import Reconciler
from lbctl.stack import Stack
from lbctl.testing.standin import Standin
from lbctl.wanted import Wanted
from tests.bench.goal import Measured


def now() -> datetime:
    return datetime.now(UTC)


class Bench:
    """A warm controller without Kubernetes, and a count of what it sends."""

    def __init__(self, standin: Standin) -> None:
        self.calls: Counter[str] = Counter()
        self.standin = standin
        harness = Harness(standin.settings, "bench", now=now, on_call=self._count)
        provider = plugins.plugin("aws").make(harness)
        policy = Policy(limits=Limits(let_through=True))
        self.path = Reconciler(Stack(provider), Wanted(provider.shares), policy, now=now)
        self.nodes = tuple(standin.nodes(3))
        self.apply(fresh=True)

    def _count(self, call: Call) -> None:
        if call.code is not None:
            self.calls[call.operation] += 1

    def apply(self, *, fresh: bool = False, owners: frozenset[Owner] | None = None) -> None:
        report = self.path.apply(self.path.plan(owners, fresh=fresh))
        assert not report.failed, report.failed[0]

    def cost(self, what: Callable[[], object]) -> int:
        """How many calls it sends."""
        self.calls.clear()
        what()
        return sum(self.calls.values())

    def put(self, names: Sequence[str], ports: int = 1, nodes: tuple[Node, ...] | None = None, **more: object) -> None:
        """Services of these names, with so many ports each; then one warm pass over them."""
        for number, name in enumerate(names):
            wish = tuple(Port(80 + n, "TCP", 30000 + (number * ports + n) % 2700) for n in range(ports))
            owner = Owner(f"default/{name}")
            self.path.wanted.put(LoadBalancer(owner, ports=wish, nodes=nodes or self.nodes, **more))  # type: ignore[arg-type]
        self.apply(owners=frozenset(Owner(f"default/{name}") for name in names))

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self.path.wanted.remove(Owner(f"default/{name}"))
        owners = frozenset(Owner(f"default/{name}") for name in names)
        plan = self.path.plan(owners, fresh=False)
        self.path.apply(plan)


def measure() -> Iterator[Measured]:
    standin = plugins.standin("aws")
    standin.start()
    try:
        yield from _measure(Bench(standin))
    finally:
        standin.stop()


def _measure(bench: Bench) -> Iterator[Measured]:
    ten = [f"ten-{n}" for n in range(10)]
    hundred = [f"hundred-{n}" for n in range(100)]
    bench.put(["first"])
    yield _row("create, 1 port", 7, bench.cost(lambda: bench.put(["one"])))
    yield _row("create, 3 ports", 13, bench.cost(lambda: bench.put(["three"], 3)))
    noted = {"example.com/note": "hello"}
    yield _row("an unrelated annotation changes", 0, bench.cost(lambda: bench.put(["one"], annotations=noted)))
    yield _row("delete, 1 port", 5, bench.cost(lambda: bench.delete(["one"])))
    yield _row("delete, 3 ports", 7, bench.cost(lambda: bench.delete(["three"])))
    yield from _nodes(bench, ["first"], 1, (3, 3))
    bench.delete(["first"])
    bench.put(ten)
    yield from _nodes(bench, ten, 10, (12, 12))
    bench.delete(ten)
    yield _row("100 Services created at once", 650, bench.cost(lambda: bench.put(hundred)))
    bench.put([f"more-{n}" for n in range(400)])
    budget = int(bench.standin.settings.get("audit-budget", "300"))
    audit = bench.cost(lambda: bench.path.plan(None, fresh=True))
    singly = sum(count for name, count in bench.calls.items() if name in ONE_AT_A_TIME)
    yield _row("audit of 500 Services, in pages", 50, audit - singly)
    yield _row("audit of 500 Services, one at a time (budget)", budget, singly)


ONE_AT_A_TIME = (
    "DescribeTargetHealth", "DescribeTargetGroupAttributes", "DescribeLoadBalancerAttributes", "DescribeListeners",
    "DescribeListenerAttributes", "DescribeListenerCertificates",
)
"""What AWS tells of one resource per call: read in turn, within the audit's budget."""


def _nodes(bench: Bench, names: Sequence[str], count: int, goals: tuple[int, int]) -> Iterator[Measured]:
    more = tuple(bench.standin.nodes(4))
    services = "Service" if count == 1 else "Services"
    added = bench.cost(lambda: bench.put(names, nodes=more))
    yield _row(f"node added, {count} {services}", goals[0], added)
    removed = bench.cost(lambda: bench.put(names, nodes=bench.nodes))
    yield _row(f"node removed, {count} {services}", goals[1], removed)


def _row(what: str, goal: float, calls: int) -> Measured:
    return Measured(what, goal, calls, "calls")


