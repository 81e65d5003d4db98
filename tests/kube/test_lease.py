"""Who may write, with a clock that the test turns, against a Lease in memory."""

import threading

import msgspec
import pytest

from lbctl.errors import Unavailable
from lbctl.kube.client import Conflict
from lbctl.kube.lease import Elector, Terms
from lbctl.kube.objects import Lease


class Memory:
    """The API server's side of one Lease: optimistic locking and nothing else."""

    def __init__(self):
        self.lease, self.version, self.writes, self.down = None, 0, 0, False

    def get(self, name, timeout=None):
        self._up()
        return self.lease

    def create(self, name, lease, timeout=None):
        self._up()
        if self.lease is not None:
            raise Conflict(409, "AlreadyExists", "exists")
        return self._store(lease)

    def update(self, name, lease, timeout=None):
        self._up()
        if self.lease is None or lease.metadata.get("resourceVersion") != self.lease.metadata["resourceVersion"]:
            raise Conflict(409, "Conflict", "changed")
        return self._store(lease)

    def _store(self, lease):
        self.version += 1
        self.writes += 1
        self.lease = Lease({**lease.metadata, "resourceVersion": str(self.version)}, lease.spec)
        return self.lease

    def _up(self):
        if self.down:
            raise Unavailable("down")


@pytest.fixture
def world():
    class World:
        now = 100.0
        leases = Memory()

        def elector(self, name, **options):
            options = {"clock": lambda: self.now, "chance": lambda: 0.0, **options}
            return Elector(self.leases, "lbctl", name, **options)

    return World()


def test_the_first_gets_it(world):
    one = world.elector("one")
    assert one.attempt()
    assert one.may_write()
    assert world.leases.lease.spec.holder_identity == "one"
    assert world.leases.lease.spec.lease_transitions == 0


def test_the_second_waits_and_can_name_the_first(world):
    one, two = world.elector("one"), world.elector("two")
    one.attempt()
    assert not two.attempt()
    assert two.holder == "one"
    assert not two.may_write()


def test_a_lease_is_judged_by_when_we_saw_it_change_not_by_its_own_times(world):
    one, two = world.elector("one"), world.elector("two")
    one.attempt()
    world.now += 1000
    assert not two.attempt()
    world.now += 14.9
    assert not two.attempt()
    world.now += 0.2
    assert two.attempt()
    assert world.leases.lease.spec.lease_transitions == 1


def test_a_holder_who_renews_keeps_it(world):
    one, two = world.elector("one"), world.elector("two")
    one.attempt()
    for _ in range(20):
        world.now += 2
        assert one.attempt()
        assert not two.attempt()


def test_the_records_own_duration_counts(world):
    long = world.elector("one", terms=Terms(lease=60, renew=40, retry=2))
    two = world.elector("two")
    long.attempt()
    two.attempt()
    world.now += 59
    assert not two.attempt()
    world.now += 2
    assert two.attempt()


def test_a_leader_that_cannot_renew_stops_writing_before_anybody_else_may_start(world):
    one, two = world.elector("one"), world.elector("two")
    one.attempt()
    two.attempt()
    world.leases.down = True
    world.now += 9.9
    assert not one.attempt()
    assert one.may_write()
    world.now += 0.2
    assert not one.may_write()
    world.leases.down = False
    assert not two.attempt()


def test_a_leader_that_sees_another_holder_stops_at_once(world):
    one, two = world.elector("one"), world.elector("two")
    one.attempt()
    spec = msgspec.structs.replace(world.leases.lease.spec, holder_identity="two")
    world.leases.update("lbctl", Lease(world.leases.lease.metadata, spec))
    assert not one.attempt()
    assert not one.may_write()
    assert two.attempt()


def test_renewing_costs_one_call(world):
    one = world.elector("one")
    one.attempt()
    reads = []
    world.leases.get = lambda name, timeout=None: reads.append(name)
    one.attempt()
    assert (reads, world.leases.writes) == ([], 2)


def test_somebody_who_annotates_the_lease_does_not_take_it(world):
    one = world.elector("one")
    one.attempt()
    lease = world.leases.lease
    world.leases.update("lbctl", Lease({**lease.metadata, "annotations": {"a": "b"}}, lease.spec))
    assert one.attempt()
    assert world.leases.lease.metadata["annotations"] == {"a": "b"}


def test_a_clean_exit_gives_it_back_and_the_next_starts_at_once(world):
    one, two = world.elector("one"), world.elector("two")
    one.attempt()
    two.attempt()
    one.stop()
    assert not one.may_write()
    assert two.attempt()
    assert world.leases.lease.spec.lease_transitions == 1


def test_an_exit_after_a_loss_gives_nothing_back(world):
    one = world.elector("one")
    one.attempt()
    world.now += 11
    one.stop()
    assert world.leases.lease.spec.holder_identity == "one"


def test_a_deleted_lease_is_made_again(world):
    one = world.elector("one")
    one.attempt()
    world.leases.lease = None
    assert one.attempt()
    assert one.may_write()


def test_acquiring_gives_up_in_time(world):
    one, two = world.elector("one"), world.elector("two")
    one.attempt()
    assert not two.acquire(within=0)


def test_the_watchdog_barks_only_at_a_leader_that_forgot_to_renew(world):
    one = world.elector("one")
    assert one.healthy()
    one.attempt()
    world.now += 34
    assert one.healthy()
    world.now += 2
    assert not one.healthy()


def test_a_leader_that_stood_still_does_not_go_on_with_a_lease_that_is_free_again(world):
    lost = threading.Event()
    one = world.elector("one", terms=Terms(lease=3, renew=1, retry=0.01), on_lost=lost.set)
    two = world.elector("two")

    def stand_still():
        two.attempt()
        world.now += 4
        two.attempt()
        two.stop()

    one._on_started = stand_still
    one.start()
    assert lost.wait(5)
    assert (one.leading.is_set(), one.may_write()) == (False, False)
    one.stop()


def test_losing_the_lease_ends_the_run(world):
    lost = []
    quick = Terms(lease=3, renew=1, retry=0.01)
    one = world.elector("one", terms=quick, on_lost=lambda: lost.append(1))
    real_update = world.leases.update

    def update(name, lease, timeout=None):
        world.now += 2
        raise Unavailable("down")

    world.leases.update = update
    one.run()
    world.leases.update = real_update
    assert (lost, one.leading.is_set(), one.may_write()) == ([1], False, False)


@pytest.mark.parametrize("terms", [(10, 10, 2), (15, 2, 2), (15, 10, 0)])
def test_terms_that_cannot_hold_are_refused(terms):
    with pytest.raises(ValueError, match="must hold"):
        Terms(*terms)
