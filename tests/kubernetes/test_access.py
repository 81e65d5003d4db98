"""The cluster as a provider sees it, on the real API server and on the sandbox."""

import time

import pytest
from msgspec.structs import replace

from lbctl.cluster import Watch
from lbctl.daemon import Cluster
from lbctl.errors import LbctlError
from lbctl.kube.client import Client

UNKNOWN = Watch("nobodies", "example.test", "v1")


def config_maps(kube):
    return Watch("configmaps", namespace=kube.namespace, selector="app=pools")


@pytest.fixture
def access(kube):
    client = Client.from_config(str(kube.kubeconfig), component="access")
    cluster = Cluster(client, watches=[config_maps(kube), UNKNOWN])
    cluster.watch()
    yield cluster.access(kube.namespace)
    cluster.stop()


def wait(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def body(name="a", **labels):
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "labels": labels or {"app": "pools"}}}


def test_a_provider_follows_what_it_said_it_watches(kube, access):
    heard = []
    access.follow(config_maps(kube), lambda old, new: heard.append((old and old.name, new and new.name)))
    access.create(config_maps(kube), body(), kube.namespace)
    access.create(config_maps(kube), body("other", app="else"), kube.namespace)
    access.patch(config_maps(kube), "a", {"metadata": {"annotations": {"x": "1"}}}, kube.namespace)
    wait(lambda: heard == [(None, "a"), ("a", "a")])
    assert [(item.name, item.annotations) for item in access.objects(config_maps(kube))] == [("a", {"x": "1"})]


def test_a_sort_that_the_cluster_does_not_know_is_empty(access):
    assert access.objects(UNKNOWN) == []


def test_a_patch_from_an_old_version_is_a_conflict_and_a_second_create_too(kube, access):
    made = access.create(config_maps(kube), body(), kube.namespace)
    access.patch(config_maps(kube), "a", {"data": {"k": "v"}}, kube.namespace)
    stale = {"metadata": {"resourceVersion": made.version}, "data": {"k": "w"}}
    for write in (lambda: access.patch(config_maps(kube), "a", stale, kube.namespace),
                  lambda: access.create(config_maps(kube), body(), kube.namespace)):
        with pytest.raises(LbctlError) as error:
            write()
        assert error.value.reason in ("Conflict", "AlreadyExists")


def test_an_object_is_deleted_as_it_was_seen_and_stays_if_it_was_written_since(kube, access):
    made = access.create(config_maps(kube), body(), kube.namespace)
    now = access.patch(config_maps(kube), "a", {"data": {"k": "v"}}, kube.namespace)
    for seen in (made, replace(now, uid="of-another-life")):
        with pytest.raises(LbctlError) as error:
            access.delete(config_maps(kube), seen)
        assert error.value.reason == "Conflict"
    access.delete(config_maps(kube), now)
    with pytest.raises(LbctlError) as error:
        access.delete(config_maps(kube), now)
    assert error.value.reason == "NotFound"


def test_every_service_that_holds_an_address_is_told_whoever_serves_it_and_once_it_does_no_more(kube, access):
    heard = {}
    access.follow_holders(lambda owner, lb: heard.update({owner: lb}))
    theirs, claims, waits, plain = (f"{kube.namespace}/{name}" for name in ("theirs", "claims", "waits", "plain"))
    kube.service("waits", loadBalancerClass="example.test/other")
    kube.service("plain", type="ClusterIP", loadBalancerClass=None)
    kube.service("theirs", loadBalancerClass="example.test/other")
    kube.patch({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}}, "theirs", "status")
    kube.service("claims", type="ClusterIP", loadBalancerClass=None, externalIPs=["192.0.2.7"])
    wait(lambda: heard.get(claims) is not None and heard.get(theirs) is not None)
    assert [str(ip) for ip in heard[claims].external_ips] == ["192.0.2.7"]
    assert [entry.ip for entry in heard[theirs].status] == ["192.0.2.9"]
    served = {lb.owner for lb in access.services() if lb.namespace == kube.namespace}
    assert served == {theirs, claims, waits}
    kube.patch({"status": {"loadBalancer": {"ingress": None}}}, "theirs", "status")
    wait(lambda: heard[theirs] is None)
    kube.delete("waits")
    kube.delete("claims")
    wait(lambda: heard[claims] is None)
    assert heard.keys().isdisjoint({waits, plain})
