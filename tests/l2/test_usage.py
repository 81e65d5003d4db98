"""Reports of how full pools are: once a second at most, in looks that were asked for, tried again when they fail."""

import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from lbctl.cluster import NoKubernetes, Object, Watch
from lbctl.errors import LbctlError, Unavailable
from lbctl.model import SHARED, Owner
from lbctl.provider import Scope
from lbctl_l2 import crds, usage
from lbctl_l2.configured import Configured
from lbctl_l2.ledger import Ledger
from lbctl_l2.usage import Reporter

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POOL = Object("lab", uid="1", version="1", spec={"addresses": ["192.0.2.0/29"]})
ADVERT = Object("all", uid="2", version="1")


class Cluster(NoKubernetes):
    """One pool and one advertisement, and what was written to them."""

    def __init__(self) -> None:
        self.found = {crds.ADDRESS_POOLS: [POOL], crds.L2_ADVERTISEMENTS: [ADVERT]}
        self.written: list[tuple[str, dict[str, Any]]] = []
        self.broken = False
        self.done = threading.Semaphore(0)

    def objects(self, watch: Watch) -> list[Object]:
        return self.found.get(watch, [])

    def patch(self, watch: Watch, name: str, body: Any, namespace: str = "", subresource: str = "") -> Object:
        self.done.release()
        if self.broken:
            raise Unavailable("no answer")
        assert subresource == "status"
        self.written.append((name, body["status"]))
        uid, version = "1" if name == "lab" else "2", str(len(self.written) + 1)
        return Object(name, uid=uid, version=version, status=body["status"])


class Desk:
    """Grants every wish for a look, and counts them."""

    def __init__(self, cluster: Cluster, *, grants: bool = True) -> None:
        self.cluster, self.grants = cluster, grants
        self.asked: list[Iterable[Owner]] = []
        self.wished = threading.Semaphore(0)
        self.clock = 0.0
        self.configured = Configured(cluster, {})
        self.ledger = Ledger(cluster)
        self.reporter = Reporter(cluster, self._again, lambda: self.clock)

    def look(self, *owners: Owner) -> None:
        """At these, or at everybody."""
        self.ledger.book.set_pools(self.configured.look().pools)
        self.reporter.look(self.configured, self.ledger, Scope(NOW, frozenset(owners) if owners else None))

    def _again(self, owners: Iterable[Owner]) -> None:
        self.asked.append(owners)
        self.wished.release()

    def wish(self) -> bool:
        """Did somebody wish for a look?"""
        return self.wished.acquire(timeout=5)


def test_a_look_that_nobody_asked_for_writes_nothing_but_asks_for_one() -> None:
    desk = Desk(Cluster())
    desk.look()
    assert desk.wish()
    assert (desk.asked, desk.cluster.written) == ([(SHARED,)], [])


def test_the_look_that_was_asked_for_is_written_once() -> None:
    desk = Desk(Cluster())
    desk.look()
    assert desk.wish()
    desk.look(SHARED)
    assert all(desk.cluster.done.acquire(timeout=5) for _ in range(2))
    assert [name for name, _ in desk.cluster.written] == ["lab", "all"]
    status = desk.cluster.written[0][1]
    assert status["usage"]["ipv4"] == {"total": 8, "assigned": 0, "available": 8}
    assert [condition["status"] for condition in status["conditions"]] == ["True"]


def test_a_one_shot_that_looks_again_and_again_writes_nothing() -> None:
    desk = Desk(Cluster())
    for _ in range(3):
        desk.look()
        assert desk.wish()
        desk.clock += 2
        desk.look(Owner("a/web"))
    assert not desk.cluster.done.acquire(timeout=0.2)


def test_what_was_written_a_moment_ago_is_not_written_again() -> None:
    desk = Desk(Cluster())
    for _ in range(3):
        desk.clock += 2
        desk.look()
        assert desk.wish()
        desk.look(SHARED)
    assert all(desk.cluster.done.acquire(timeout=5) for _ in range(2))
    assert not desk.cluster.done.acquire(timeout=0.2)
    assert len(desk.cluster.written) == 2


def test_where_there_is_no_pool_object_nobody_asks() -> None:
    cluster = Cluster()
    cluster.found = {}
    desk = Desk(cluster)
    desk.look()
    desk.reporter.ask()
    assert not desk.wished.acquire(timeout=0.2)


def test_two_changes_within_a_second_are_one_look() -> None:
    desk = Desk(Cluster())
    desk.look()
    assert desk.wish()
    for _ in range(5):
        desk.reporter.ask()
    assert not desk.wished.acquire(timeout=0.2)
    assert desk.wish()
    assert not desk.wished.acquire(timeout=0.2)


def test_what_could_not_be_written_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "PATIENCE", 0.1)
    desk = Desk(Cluster())
    desk.cluster.broken = True
    desk.look()
    assert desk.wish()
    desk.look(SHARED)
    assert all(desk.cluster.done.acquire(timeout=5) for _ in range(2))
    desk.cluster.broken = False
    assert desk.wish()
    desk.look(SHARED)
    assert all(desk.cluster.done.acquire(timeout=5) for _ in range(2))
    assert [name for name, _ in desk.cluster.written] == ["lab", "all"]


def test_a_status_of_before_is_mended_field_by_field() -> None:
    cluster = Cluster()
    stale = {"usage": {"services": 7}, "nonsense": 1}
    cluster.found[crds.ADDRESS_POOLS] = [Object("lab", uid="1", version="1", spec={"addresses": ["x"]}, status=stale)]
    desk = Desk(cluster)
    desk.look()
    assert desk.wish()
    desk.look(SHARED)
    assert all(desk.cluster.done.acquire(timeout=5) for _ in range(2))
    status = dict(cluster.written)["lab"]
    assert (status["usage"], status["nonsense"]) == (None, None)
    assert status["conditions"][0]["reason"] == "invalid-pool"


def test_what_could_not_be_written_is_tried_again_though_another_object_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage, "PATIENCE", 0.1)
    desk = Desk(Cluster())
    answers = iter([Unavailable("no answer"), LbctlError("there is no such object", reason="NotFound")])
    monkeypatch.setattr(desk.cluster, "patch", lambda *_, **__: (_ for _ in ()).throw(next(answers)))
    desk.look()
    assert desk.wish()
    desk.look(SHARED)
    assert desk.wish()


def test_an_error_that_nobody_thought_of_costs_one_report_and_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, died = Desk(Cluster()), threading.Semaphore(0)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda _: died.release())
        patch.setattr(desk.cluster, "patch", lambda *_, **__: 1 / 0)
        desk.look()
        assert desk.wish()
        desk.look(SHARED)
        assert died.acquire(timeout=5)
    desk.clock += 2
    desk.look()
    assert desk.wish()
    desk.look(SHARED)
    assert all(desk.cluster.done.acquire(timeout=5) for _ in range(2))
