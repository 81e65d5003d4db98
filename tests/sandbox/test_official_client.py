"""The official `kubernetes` client against the sandbox, as operators use it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, watch

from lbctl.sandbox.kube import KubeSandbox


@pytest.fixture
def api(sandbox: KubeSandbox, tmp_path: Path) -> Iterator[Any]:
    found = config.new_client_from_config(str(sandbox.kubeconfig(tmp_path / "kubeconfig")))
    yield found
    found.close()
    found.rest_client.pool_manager.clear()


@pytest.fixture
def core(api: Any) -> Any:
    return client.CoreV1Api(api)


def service(name: str) -> Any:
    spec = client.V1ServiceSpec(type="LoadBalancer", ports=[client.V1ServicePort(port=80)])
    return client.V1Service(metadata=client.V1ObjectMeta(name=name), spec=spec)


def test_it_creates_and_lists(core: Any):
    core.create_namespaced_service("default", service("web"))

    listed = core.list_service_for_all_namespaces()

    assert [item.metadata.name for item in listed.items] == ["kubernetes", "web"]
    assert listed.items[1].spec.ports[0].node_port >= 30000


def test_it_watches(core: Any):
    core.create_namespaced_service("default", service("web"))

    events = watch.Watch().stream(core.list_service_for_all_namespaces, timeout_seconds=1)

    assert [(event["type"], event["object"].metadata.name) for event in events] == [
        ("ADDED", "kubernetes"), ("ADDED", "web"),
    ]  # fmt: skip


def test_it_is_told_when_its_version_is_too_old(core: Any):
    events = watch.Watch().stream(core.list_service_for_all_namespaces, resource_version="1", timeout_seconds=1)

    with pytest.raises(client.ApiException) as refused:
        list(events)

    assert refused.value.status == 410


def test_it_leads_by_a_lease_that_somebody_else_cannot_take_at_the_same_time(api: Any):
    leases = client.CoordinationV1Api(api)
    spec = client.V1LeaseSpec(holder_identity="a", lease_duration_seconds=15)
    held = leases.create_namespaced_lease("default", client.V1Lease(metadata={"name": "lock"}, spec=spec))
    held.spec.holder_identity = "b"
    leases.replace_namespaced_lease("lock", "default", held)

    with pytest.raises(client.ApiException) as refused:
        leases.replace_namespaced_lease("lock", "default", held)

    assert (refused.value.status, leases.read_namespaced_lease("lock", "default").spec.holder_identity) == (409, "b")


def test_it_writes_a_status(core: Any):
    core.create_namespaced_service("default", service("web"))

    written = core.patch_namespaced_service_status(
        "web", "default", {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    )  # fmt: skip

    assert (written.status.load_balancer.ingress[0].ip, written.status.load_balancer.ingress[0].ip_mode) == (
        "192.0.2.1",
        "VIP",
    )


def test_it_asks_what_it_may_do(api: Any):
    attributes = client.V1ResourceAttributes(verb="patch", resource="services", subresource="status")
    spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
    review = client.V1SelfSubjectAccessReview(spec=spec)

    assert client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed is True


def test_it_finds_custom_kinds_by_discovery(api: Any, sandbox: KubeSandbox):
    from kubernetes.dynamic import DynamicClient

    services = DynamicClient(api).resources.get(api_version="v1", kind="Service")

    assert services.get(name="kubernetes", namespace="default").spec.clusterIP == "10.96.0.1"
