"""What providers watch besides Services, on a server that may not know it."""

from lbctl.cluster import Watch
from lbctl.daemon import Cluster
from lbctl.kube.access import served_groups

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
