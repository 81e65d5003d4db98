"""What providers watch besides Services, on a server that may not know it; and who holds an address."""

import msgspec
import pytest

from lbctl.cluster import Watch
from lbctl.daemon import Cluster
from lbctl.kube import objects, source
from lbctl.kube.access import Access, Watched, served_groups
from lbctl.kube.claims import Writer

POOLS, LEASES = Watch("pools", "example.test", "v1"), Watch("leases", "coordination.k8s.io", "v1")
GROUPS = {"kind": "APIGroupList", "groups": [{"name": "coordination.k8s.io"}, {"name": "apps"}]}
NOTHING = {"metadata": {"resourceVersion": "7"}, "items": []}


def test_what_the_server_lacks_is_not_asked_for(api, client) -> None:
    api.plan(api.json(GROUPS), api.json(NOTHING))
    cluster = Cluster(client, watches=[POOLS, LEASES])
    cluster.look(cluster.watched.stores)
    assert [request["path"] for request in api.heard(2)] == ["/apis", "/apis/coordination.k8s.io/v1/leases"]


def test_a_server_that_does_not_say_what_it_has_is_asked_for_each(api, client) -> None:
    api.plan(api.error(403), api.error(404), api.json(NOTHING))
    cluster = Cluster(client, watches=[POOLS, LEASES])
    cluster.look(cluster.watched.stores)
    assert len(api.heard(3)) == 3


def test_groups_that_make_no_sense_are_not_known(api, client) -> None:
    def garbled(handler):
        handler.send_response(200)
        data = b'{"groups":[{"name":"\xff"}]}'
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    api.plan(api.json({"groups": "all"}), api.hang_up(), garbled, api.json(GROUPS))
    assert [served_groups(client) for _ in range(4)] == [None, None, None, {"coordination.k8s.io", "apps"}]


def service(version: int, kind: str = "LoadBalancer", *held: str, external: tuple[str, ...] = ()) -> objects.Service:
    body = {
        "metadata": {"name": "x", "namespace": "n", "uid": "u", "resourceVersion": str(version)},
        "spec": {"type": kind, "externalIPs": list(external) or None},
        "status": {"loadBalancer": {"ingress": [{"ip": text} for text in held]}},
    }
    return msgspec.convert(body, objects.Service)


@pytest.fixture
def stores():
    return source.stores()


@pytest.fixture
def holders(stores):
    """Who holds an address, as a provider hears it."""
    found = {}
    access = Access(None, stores, Watched(), home="", emit=lambda *_: None)
    access.follow_holders(lambda owner, lb: found.__setitem__(owner, lb) if lb is not None else found.pop(owner))
    return found


@pytest.mark.parametrize("before", [service(1, "LoadBalancer", "192.0.2.1"), service(1, external=("192.0.2.3",))])
def test_who_is_gone_while_we_write_holds_nothing_any_more(stores, holders, before) -> None:
    stores.services.put(before)
    assert set(holders) == {"n/x"}
    with stores.services.writing("n/x"):
        stores.services.put(service(2, "ClusterIP"))
        stores.services.remove("n/x", "3")
    assert holders == {}


def test_an_external_address_that_comes_with_our_answer_is_heard_of(api, client, stores, holders) -> None:
    stores.services.put(service(1, "ClusterIP"))
    api.plan(api.json(msgspec.to_builtins(service(2, "ClusterIP", external=("192.0.2.9",)))))
    Writer(client, stores.services).patch(stores.services.get("n/x"), {"metadata": {"labels": {"a": "b"}}})
    assert [str(ip) for ip in holders["n/x"].external_ips] == ["192.0.2.9"]
