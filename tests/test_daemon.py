"""How the house ends, and what it says of its own health."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from lbctl.daemon import Cluster, Daemon, Desk, Options
from lbctl.errors import SettingsError, Unavailable
from lbctl.memory import plugin as memory
from lbctl.provider import Harness, Plugin


class Part:
    """A part of the house that takes note of how it was stopped."""

    def __init__(self, **more: Any) -> None:
        self.stopped: list[dict[str, Any]] = []
        self.__dict__ |= more

    def stop(self, **how: Any) -> None:
        self.stopped.append(how)

    def healthy(self) -> bool:
        return True


def house(*desks: Any, watching: bool = True) -> tuple[Daemon, Part]:
    elector: Any = Part()
    cluster: Any = Part(watching=watching)
    recorder: Any = Part()
    daemon = Daemon(cluster, recorder, elector)
    daemon.desks += desks
    return daemon, elector


@pytest.mark.parametrize("finished", [True, False])
def test_the_lease_is_given_back_only_when_nothing_is_in_flight(finished: bool) -> None:
    desk = Part(name="aws", controller=object(), join=lambda: finished)
    daemon, elector = house(desk)
    daemon._end()
    assert elector.stopped == [{"release": finished}]


def test_whoever_wrote_a_service_that_cannot_be_read_hears_it_from_the_leader() -> None:
    said: list[str] = []
    cluster = Cluster(SimpleNamespace(server="none"))  # type: ignore[arg-type]
    recorder: Any = Part(emit=lambda owner, *more: said.append(f"{owner} {more[-1]}"))
    daemon = Daemon(cluster, recorder)
    cluster._misread("default/early", "ports are no list")
    assert said == []
    daemon._begin()
    cluster._misread("default/late", "type is a number")
    assert [text.split()[0] for text in said] == ["default/early", "default/late"]
    assert all("undecodable" in text and "mend" in text for text in said)


def test_a_desk_or_a_watch_that_broke_off_makes_it_unhealthy() -> None:
    assert all(house(SimpleNamespace(alive=True))[0].healthy().values())
    assert house(SimpleNamespace(alive=False))[0].healthy() == {"lease": True, "watches": True, "desks": False}
    assert house(watching=False)[0].healthy() == {"lease": True, "watches": False, "desks": True}


def test_a_provider_that_cannot_be_asked_while_it_is_made_ends_no_desk() -> None:
    def make(_harness: Harness) -> Any:
        raise Unavailable("no answer from the instance metadata: try again later")

    nobody: Any = None
    desk = Desk(Plugin("aws", make), Harness(), Cluster(nobody), Options(), recorder=nobody)
    desk._make()
    assert desk.problem is not None
    assert (desk.problem.reason, "instance metadata" in desk.problem.message) == ("provider-unavailable", True)


def test_a_provider_that_still_lacks_the_same_setting_is_not_spoken_of_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbctl.daemon.REMAKE", 0.01)
    lacks, at_work = iter(["region"] * 9 + ["vpc"] * 9), threading.Event()
    controllers: list[str] = []

    def make(harness: Harness) -> Any:
        if lack := next(lacks, ""):
            raise SettingsError(f"there is no {lack}")
        return memory.make(harness)

    def controller(_provider: Any) -> Any:
        controllers.append(str(desk.problem))
        ended = threading.Event()
        if desk.problem is None:
            at_work.set()
        return SimpleNamespace(stop=ended.set, run=ended.wait)

    nobody: Any = None
    desk = Desk(Plugin("memory", make), Harness(), Cluster(nobody), Options(), recorder=nobody)
    monkeypatch.setattr(desk, "_controller", controller)
    desk.start()
    assert at_work.wait(10)
    desk.stop()
    desk.join()
    assert controllers == ["there is no region", "there is no vpc", "None"]
