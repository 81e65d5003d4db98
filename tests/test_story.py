"""Which Events a lane is told by."""

from lbctl import story
from lbctl.apply import Result
from lbctl.model import LoadBalancer, Owner, Refusal, Resource
from lbctl.plan import Change, Kind

WEB = Owner("default/web")
LOCAL = (Kind("address", event="IPAllocated", failure="AllocationFailed"), Kind("status", after=("address",)))
CLOUD = (Kind("balancer"), Kind("status", after=("balancer",)))


def created(kind, because=""):
    return Change("create", kind, "x", WEB, None, Resource(kind, "x", WEB, because=because), because=because)


def told(steps, kinds):
    result = Result(WEB, "done", applied=tuple(steps))
    web = LoadBalancer(WEB, nodes=("n1",))
    events = [*story.begun(WEB, steps, web, kinds), *story.landed(result, web, audit=False, kinds=kinds)]
    return [(event.reason, event.message) for event in events]


def test_a_clouds_load_balancer_is_told_in_kubernetes_own_words():
    assert [reason for reason, _ in told([created("balancer"), created("status")], CLOUD)] == [
        "EnsuringLoadBalancer", "EnsuredLoadBalancer"]  # fmt: skip


def test_an_address_out_of_a_pool_is_one_event_that_names_it():
    steps = [created("address", "192.0.2.7 from pool lab"), created("address", "2001:db8::7 from pool lab")]
    assert told([*steps, created("status")], LOCAL) == [
        ("IPAllocated", "192.0.2.7 from pool lab, 2001:db8::7 from pool lab")]  # fmt: skip


def test_a_refusal_of_it_is_told_by_its_own_reason():
    assert story.refused(Refusal(WEB, "pool-exhausted", "lab is full"), LOCAL).reason == "AllocationFailed"
    assert story.refused(Refusal(WEB, "quota", "no more"), CLOUD).reason == "SyncLoadBalancerFailed"
