"""One AWS on loopback per test worker, emptied between tests, and a provider before it as the laws would drive it."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lbctl.model import LoadBalancer, Note, Owner, Port, Refusal, Resource
from lbctl.provider import Call, Harness, Provider
from lbctl.testing import driver
from lbctl.testing.world import Trouble, World, load_balancer
from lbctl_aws import plugin
from lbctl_aws.testing import AwsStandin

BETA = "service.beta.kubernetes.io/aws-load-balancer-"

class Aws(World):
    """A world with words for what the stories ask of AWS."""

    standin: AwsStandin

    @property
    def settings(self) -> dict[str, str]:
        return {**self.standin.settings, **self.more}

    more: dict[str, str] = {}
    take_over = False

    def _new(self) -> Provider:
        return self.make(Harness(settings=self.settings, cluster_id=self.cluster, installation_id=f"{self.cluster}-1",
                                 take_over=self.take_over, on_call=self.wire))

    def given(self, **settings: str) -> None:
        """A new provider with these settings beside the stand-in's."""
        self.more = {name.replace("_", "-"): value for name, value in settings.items()}
        self.restart()

    def service(self, name: str = "web", *ports: Port, said: dict[str, str] | None = None, **rest: Any) -> LoadBalancer:
        """A Service; `said` are its annotations without the prefix."""
        annotations = {key if "/" in key else BETA + key: value for key, value in (said or {}).items()}
        nodes = rest.pop("nodes", None) or self.standin.nodes(2)
        rest.setdefault("scheme", None)
        return load_balancer(name, ports or (Port(80, node_port=30080),), nodes, annotations=annotations, **rest)

    def serve(self, *lbs: LoadBalancer) -> None:
        self.everybody = lbs
        self.converge(lbs)

    def refusal(self, *lbs: LoadBalancer) -> Refusal:
        """Why the only refused one is refused."""
        (refusal,) = self.plan(lbs).refused
        return refusal

    def notes(self, *lbs: LoadBalancer) -> dict[str, Note]:
        return {note.reason: note for note in self.plan(lbs).notes}

    def seen(self, kind: str, owner: str = "laws/web") -> list[Resource]:
        """Our resources of a kind, as a fresh look sees them."""
        provider = self._new()
        found = provider.observe(driver.scope(provider, self.everybody, at=self.now)).resources
        return [r for r in found if r.kind == kind and r.owner == Owner(owner)]

    everybody: tuple[LoadBalancer, ...] = ()

    def cost(self, what: Callable[[], object]) -> Counter[str]:
        """The calls that it sends, by operation."""
        self.wire.begin()
        what()
        return Counter(call.operation for call in self.wire.calls if call.code is None)

    def client(self, service: str = "elbv2") -> Any:
        return self.standin.client(service)


@pytest.fixture(scope="session")
def standin() -> Iterator[AwsStandin]:
    cloud = AwsStandin()
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests may be an EC2 instance; the stories are not about it."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def aws(standin: AwsStandin) -> Aws:
    standin.reset()
    return Aws(plugin.make, standin)


@pytest.fixture
def recorded(aws: Aws) -> list[Call]:
    """Every call of the test's world, restarts included."""
    calls: list[Call] = []

    class Recorder(Trouble):
        def __call__(self, number: int, call: Call) -> None:
            calls.append(call)
    aws.wire.begin(Recorder())
    return calls
