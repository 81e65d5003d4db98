"""What the controller hears of, and what it reads then."""

from datetime import UTC, datetime
from threading import Thread
from time import sleep

import msgspec
import pytest

from lbctl.controller import Controller, Timing
from lbctl.kube import objects, source
from lbctl.memory import MemoryProvider
from lbctl.policy import Limits, Policy
from lbctl.provider import Harness
from lbctl.reconcile import Reconciler
from lbctl.stack import Stack
from lbctl.wanted import Wanted

WEB = "default/web"


def utcnow():
    return datetime.now(UTC)


def service(version="1", *, spec=None, metadata=None, status=None):
    meta = {"name": "web", "namespace": "default", "uid": "u1", "resourceVersion": version, **(metadata or {})}
    wish = {"type": "LoadBalancer", "loadBalancerClass": "lbctl.io/aws", "ports": [{"port": 80}], **(spec or {})}
    return msgspec.convert({"metadata": meta, "spec": wish, "status": status or {}}, objects.Service)


def node(name, version="1", **labels):
    metadata = objects.Metadata(name=name, resource_version=version, labels=labels)
    return objects.Node(metadata, objects.NodeSpec(f"aws:///a/{name}"))


def slice_of(version="1", ready=True, name="web-x", on="n1"):
    endpoint = objects.Endpoint(objects.EndpointConditions(ready), on)
    labels = {"kubernetes.io/service-name": "web"}
    metadata = objects.Metadata(name, "default", resource_version=version, labels=labels)
    return objects.EndpointSlice(metadata, endpoints=(endpoint,))


@pytest.fixture
def stores():
    return source.stores()


@pytest.fixture
def wired(stores):
    made = source.StoreSource(stores, provider="aws")
    made.marks = []
    made.connect(made.marks.append, lambda: made.marks.append("everybody"))
    return made


def test_c52_at_the_start_only_what_concerns_us_is_marked(stores, wired):
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["lbctl.io/aws"], "name": "old"}
    stores.services.put(service())
    stores.services.put(service(metadata=gone))
    stores.services.put(service(metadata={"name": "inner"}, spec={"type": "ClusterIP", "loadBalancerClass": None}))
    stores.services.put(service(metadata={"name": "other"}, spec={"loadBalancerClass": "example.com/x"}))
    assert wired.marks == ["default/web", "default/old"]


@pytest.mark.parametrize(
    ("parts", "marked"),
    [
        ({"metadata": {"labels": {"a": "b"}}}, False),
        ({"metadata": {"annotations": {"a": "b"}}}, True),
        ({"spec": {"type": "ClusterIP", "loadBalancerClass": None}}, True),
        ({"metadata": {"finalizers": ["lbctl.io/aws"]}}, True),
        ({"metadata": {"finalizers": ["example.com/x"]}}, False),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, True),
        ({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}, True),
        ({"status": {"conditions": [{"type": "example.com/X"}]}}, False),
    ],
)
def test_the_table_of_service_events(stores, wired, parts, marked):
    stores.services.put(service("1"))
    wired.marks.clear()
    stores.services.put(service("2", **parts))
    assert wired.marks == ([WEB] if marked else [])


def test_a_service_that_is_gone_is_looked_at_once_more(stores, wired):
    stores.services.put(service())
    stores.services.remove(WEB)
    assert wired.marks == [WEB, WEB]
    assert wired.read(WEB) is None


def test_five_thousand_nodes_are_read_once(stores, wired, monkeypatch):
    stores.services.put(service())
    for n in range(5000):
        stores.nodes.put(node(f"n{n:04}"))
    assert len(wired.read(WEB).nodes) == 5000
    assert wired.read(WEB).nodes is wired.nodes()


class Counting:
    """Hears of every pass that a controller makes."""

    def __init__(self):
        self.passes = 0

    def planned(self, plan, *, audit, seconds):
        self.passes += 1

    def landed(self, result): ...

    def interrupted(self, error): ...


def test_whoever_connects_late_knows_every_node_by_then(stores):
    made = source.StoreSource(stores, provider="aws")
    assert made.nodes() == ()
    stores.nodes.put(node("n1"))
    made.connect(lambda _owner: None, lambda: None)
    assert [known.name for known in made.nodes()] == ["n1"]


def test_five_thousand_nodes_at_once_are_one_pass(stores):
    counting = Counting()
    provider = MemoryProvider(Harness({"cloud": "burst"}, "c1", now=utcnow))
    path = Reconciler(Stack(provider), Wanted(provider.shares), Policy(limits=Limits(let_through=True)), now=utcnow)
    made = source.StoreSource(stores, provider="aws")
    controller = Controller(path, made, listener=counting, timing=Timing(settle=0.3, settle_most=30.0))
    made.connect(controller.mark, controller.mark_all)
    thread = Thread(target=controller.run)
    thread.start()
    assert controller.passed.wait(10)
    for n in range(5000):
        stores.nodes.put(node(f"n{n:04}"))
    while not controller.idle():
        sleep(0.02)
    controller.stop()
    thread.join()
    assert counting.passes == 2


def test_node_events_that_change_nothing_mark_nobody(stores, wired):
    stores.nodes.put(node("n1"))
    wired.marks.clear()
    stores.nodes.put(node("n1", "2", zone="a"))
    assert wired.marks == []
    assert wired.nodes()[0].labels == {"zone": "a"}


def test_endpoints_that_appear_or_vanish_mark_their_service(stores, wired):
    stores.services.put(service())
    wired.marks.clear()
    stores.slices.put(slice_of("1"))
    stores.slices.put(slice_of("2"))
    stores.slices.put(slice_of("3", ready=False))
    assert wired.marks == [WEB, WEB]
    assert wired.read(WEB).endpoints.ready == 0


def test_endpoints_of_other_services_mark_nobody(stores, wired):
    stores.slices.put(slice_of())
    assert wired.marks == []


def test_without_knowledge_of_endpoints_none_are_claimed(stores):
    stores.services.put(service())
    assert source.StoreSource(stores, provider="aws", endpoints=False).read(WEB).endpoints is None


def test_one_list_of_everything_is_enough_for_one_look(api, client, stores):
    for reflector in source.reflectors(client, stores):
        item = {"metadata": {"name": "x", "resourceVersion": "3"}}
        api.plan(api.json({"metadata": {"resourceVersion": "9"}, "items": [item]}))
        reflector.once()
    assert [len(store) for store in stores] == [1, 1, 1, 1]
