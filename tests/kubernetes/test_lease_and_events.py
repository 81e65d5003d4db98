"""Leases and Events on an API server."""

import threading

import pytest

from lbctl.kube.events import Recorder
from lbctl.kube.lease import Elector, Leases, Terms
from lbctl.kube.objects import Lease
from lbctl.model import Owner

QUICK = Terms(lease=3, renew=1.5, retry=0.1)


@pytest.fixture
def elector(kube):
    made = []

    def make(name, client=None, **options):
        leases = Leases(client or kube.client, kube.namespace)
        made.append(Elector(leases, "lbctl", name, terms=QUICK, chance=lambda: 0.0, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def lease(kube):
    return Leases(kube.client, kube.namespace).get("lbctl")


def test_one_of_two_leads_and_the_other_knows_who(kube, elector):
    one, two = elector("one"), elector("two")
    one.start()
    assert one.leading.wait(10)
    two.start()
    assert not two.leading.wait(0.5)
    assert (two.holder, two.may_write()) == ("one", False)


def test_a_clean_exit_lets_the_other_begin_at_once(kube, elector):
    one, two = elector("one"), elector("two")
    one.start()
    assert one.leading.wait(10)
    two.start()
    one.stop()
    assert two.leading.wait(2.5)
    assert lease(kube).spec.lease_transitions == 1


def test_a_leader_that_is_cut_off_stops_before_the_other_begins(kube, elector, wait):
    wire = kube.wire()
    lost, order = threading.Event(), []
    one = elector("one", kube.behind(wire), on_lost=lambda: (order.append("one ends"), lost.set()))
    two = elector("two", on_started=lambda: order.append("two begins"))
    one.start()
    assert one.leading.wait(10)
    two.start()
    wire.cut()
    assert two.leading.wait(20)
    assert lost.wait(5)
    assert order == ["one ends", "two begins"]
    assert not one.may_write()


def test_a_lease_is_renewed_as_kubernetes_writes_it(kube, elector, wait):
    one = elector("one")
    one.start()
    assert one.leading.wait(10)
    first = lease(kube)
    wait(lambda: lease(kube).spec.renew_time != first.spec.renew_time)
    assert (first.spec.holder_identity, first.spec.lease_duration_seconds) == ("one", 3)
    assert lease(kube).spec.acquire_time == first.spec.acquire_time


def test_what_others_write_on_a_lease_survives(kube):
    leases = Leases(kube.client, kube.namespace)
    made = leases.create("node", Lease({"annotations": {"a": "b"}, "labels": {"c": "d"}}))
    again = leases.update("node", made)
    assert (again.metadata["annotations"], again.metadata["labels"]) == ({"a": "b"}, {"c": "d"})


def test_two_hundred_times_the_same_is_one_event(kube, wait):
    service = kube.service()
    recorder = Recorder(kube.client)
    recorder.start()
    owner, uid = Owner(f"{kube.namespace}/web"), service["metadata"]["uid"]
    for _ in range(200):
        recorder.emit(owner, uid, "Warning", "SyncLoadBalancerFailed", "no subnets: tag them")
    assert recorder.flush(20)
    recorder.stop()
    (event,) = kube.events("SyncLoadBalancerFailed")
    assert (event["count"], event["involvedObject"]["uid"], event["source"]["component"]) == (25, uid, "lbctl")
