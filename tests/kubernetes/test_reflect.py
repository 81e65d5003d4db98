"""A store that follows an API server, whatever happens to the connection."""

import pytest

from lbctl.kube import objects, store
from lbctl.kube.reflector import Reflector


@pytest.fixture
def follow(kube):
    made = []

    def start(client=None, **options):
        services = store.services()
        services.told = []
        services.subscribe(lambda what, old, new: services.told.append((what, (new or old).metadata.name)))
        options = {"chance": lambda: -0.95, "namespace": kube.namespace, **options}
        reflector = Reflector(client or kube.client, objects.SERVICES, services, **options)
        reflector.start()
        made.append(reflector)
        assert reflector.synced.wait(20)
        return services

    yield start
    for reflector in made:
        reflector.stop()


@pytest.fixture
def wire(kube):
    made = kube.wire()
    yield made
    made.cut()


def test_it_knows_what_is_there_and_hears_what_changes(kube, follow, wait):
    kube.service("first")
    services = follow()
    assert services.told == [("added", "first")]
    kube.service("second")
    kube.patch({"metadata": {"labels": {"a": "b"}}}, "second")
    kube.delete("first")
    wait(lambda: len(services.told) == 4)
    assert services.told[1:] == [("added", "second"), ("updated", "second"), ("deleted", "first")]


def test_what_it_knows_is_what_the_server_says(kube, follow):
    made = kube.service()
    service = follow().get(f"{kube.namespace}/web")
    assert service.metadata.uid == made["metadata"]["uid"]
    assert service.spec.ports[0].node_port == made["spec"]["ports"][0]["nodePort"]
    assert service.spec.ip_families == tuple(made["spec"]["ipFamilies"])


def test_a_broken_connection_costs_a_watch_and_no_list(kube, follow, wait, wire):
    calls = []
    client = kube.behind(wire)
    client._observe = calls.append
    services = follow(client)

    def answered():
        return [call.operation for call in calls if call.code == "ok"]

    wait(lambda: answered() == ["get", "watch"])
    wire.cut(refuse=False)
    kube.service()
    wait(lambda: services.told)
    assert answered() == ["get", "watch", "watch"]


def test_what_happens_during_an_outage_is_heard_after_it(kube, follow, wait, wire):
    kube.service("old")
    services = follow(kube.behind(wire))
    wire.cut()
    kube.service("new")
    kube.delete("old")
    wire.mend()
    wait(lambda: len(services.told) == 3)
    assert sorted(services.told[1:]) == [("added", "new"), ("deleted", "old")]


def test_a_server_that_lags_behind_what_we_saw_is_asked_for_what_it_has(kube):
    kube.service()
    services = store.services()
    reflector = Reflector(
        kube.client, objects.SERVICES, services, namespace=kube.namespace, chance=lambda: -0.95
    )
    reflector._version = "999999999"
    reflector.start()
    assert reflector.synced.wait(30)
    reflector.stop()
    assert services.get(f"{kube.namespace}/web") is not None


def test_our_own_write_is_known_before_its_echo_and_told_once(kube, follow, wait):
    made = kube.service()
    services = follow()
    answer = kube.client.request(
        "PATCH", kube.path("services", "web"), {"metadata": {"labels": {"a": "b"}}}, "application/merge-patch+json"
    )
    ours = objects.decode(answer, objects.decoder(objects.Service))
    services.put_if_newer(ours)
    kube.service("fence")
    wait(lambda: ("added", "fence") in services.told)
    assert services.told.count(("updated", "web")) <= 1
    assert services.get(f"{kube.namespace}/web").metadata.resource_version > made["metadata"]["resourceVersion"]


def test_endpoint_slices_and_nodes_are_followed_too(kube, wait):
    body = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": {"ready": True}}],
    }  # fmt: skip
    kube.post(f"/apis/discovery.k8s.io/v1/namespaces/{kube.namespace}/endpointslices", body)
    kube.post("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"n-{kube.namespace}"}})
    slices, nodes = store.slices(), store.nodes()
    for resource, target in ((objects.SLICES, slices), (objects.NODES, nodes)):
        Reflector(kube.client, resource, target).once()
    assert slices.by("service", f"{kube.namespace}/web")[0].endpoints[0].node_name == "n1"
    assert nodes.get(f"n-{kube.namespace}") is not None
