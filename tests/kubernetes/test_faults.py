"""What the API server does on bad days, as only the sandbox can be asked to: the stack arrives all the same."""

import pytest

from lbctl.kube import objects, store
from lbctl.kube.reflector import Reflector
from lbctl.model import READY
from lbctl.sandbox.kube import Fault


@pytest.fixture
def faults(kube, sandbox):
    yield lambda **wish: sandbox.faults.inject(Fault(namespaces=(kube.namespace,), **wish))
    sandbox.faults.clear()


@pytest.fixture
def kube(sandbox_kube):
    return sandbox_kube


@pytest.mark.parametrize(
    "fault",
    [
        {"effect": "conflict", "count": 3},
        {"effect": "throttle", "verbs": ("patch",), "count": 2},
        {"effect": "error", "verbs": ("patch",), "count": 2, "code": 503},
        {"effect": "lose", "verbs": ("patch",), "count": 1},
        {"effect": "lose", "verbs": ("patch",), "count": 3},
    ],
    ids=lambda fault: f"{fault['effect']}-{fault['count']}",
)
def test_a_service_gets_its_address_all_the_same(kube, stage, faults, fault):
    kube.service()
    faults(**fault)
    stage.settle()
    assert kube.condition(READY)["reason"] == "ready"
    assert len(stage.cloud.list("address")) == 1


@pytest.mark.parametrize("effect", ["conflict", "lose"])
def test_a_service_goes_all_the_same(kube, stage, faults, effect):
    kube.service()
    stage.settle()
    kube.delete()
    faults(effect=effect, verbs=("patch",), count=1)
    stage.settle()
    assert (kube.get(), stage.things()) == (None, set())


def test_c13_without_a_claim_nothing_is_begun_in_the_cloud(kube, stage, faults):
    kube.service()
    faults(effect="deny", verbs=("patch",))
    stage.catch_up()
    report = stage.path.apply(stage.plan(), 20)
    assert not stage.things() & {"address", "listener"}
    assert "permission" in {result.reason for result in report.failed}


def test_an_answer_that_was_lost_is_no_rival(kube, stage, faults):
    kube.service()
    stage.settle()
    for n in range(3):
        kube.patch({"metadata": {"annotations": {"n": str(n)}}})
        kube.patch({"status": {"loadBalancer": {"ingress": None}}}, sub="status")
        faults(effect="lose", verbs=("patch",), count=1)
        stage.settle()
    assert kube.condition(READY)["reason"] == "ready"


def test_what_was_deleted_while_history_was_forgotten_is_told(kube, faults, wait, sandbox):
    for name in ("a", "b"):
        kube.service(name)
    services = store.services()
    told = []
    services.subscribe(lambda what, old, new: told.append((what, (new or old).metadata.name)))
    reflector = Reflector(kube.client, objects.SERVICES, services, namespace=kube.namespace, chance=lambda: -0.9)
    reflector.start()
    assert reflector.synced.wait(10)
    faults(effect="throttle", verbs=("watch", "list"))
    sandbox.faults.inject(Fault(effect="drop", count=1), Fault(effect="compact"))
    kube.delete("a")
    sandbox.faults.inject(Fault(effect="compact"))
    sandbox.faults.clear()
    wait(lambda: ("deleted", "a") in told)
    reflector.stop()
    assert [service.metadata.name for service in services.all()] == ["b"]


def test_a_throttled_watch_comes_back_without_a_list(kube, faults, wait, sandbox):
    services = store.services()
    reflector = Reflector(
        kube.client, objects.SERVICES, services, namespace=kube.namespace, chance=lambda: -0.9
    )
    reflector.start()
    assert reflector.synced.wait(10)
    kube.service("before")
    wait(lambda: len(services) == 1)
    sandbox.requests.clear()
    faults(effect="throttle", verbs=("watch",), count=1, retry_after=0)
    faults(effect="drop", count=1)
    kube.service("after")
    wait(lambda: len(services) == 2)
    reflector.stop()
    assert "list" not in {r.verb for r in sandbox.requests if r.resource == "services"}


def test_slow_answers_only_take_longer(kube, stage, faults):
    kube.service()
    faults(effect="latency", delay=0.1)
    stage.settle()
    assert kube.condition(READY)["reason"] == "ready"
