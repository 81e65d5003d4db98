"""`lbctl speaker`: the process around a node's speaker, with its data plane in memory."""

import threading
import time
import urllib.error
import urllib.request
from ipaddress import ip_address

import pytest

from lbctl.cli.session import Session
from lbctl.cli.speaker import Speakers, speaker
from lbctl.errors import SettingsError
from lbctl.provider import Plugin
from lbctl.sandbox.kube import Fault, KubeSandbox
from lbctl_l2 import leases
from lbctl_l2.options import SETTINGS
from lbctl_l2.planes import MemoryPlane
from lbctl_l2.served import watches
from lbctl_l2.speaker import Speaker, World
from lbctl_l2.state import File, State
from lbctl_l2.values import Order

VIP = ip_address("192.0.2.100")
WORLD = World(MemoryPlane, interfaces=lambda: (), routes=frozenset, strict_arp=lambda _name: True)
STATE = State("node-1", "cluster", (Order(VIP, ("node-1",)),), owners={str(VIP): ("default/web",)})


def plugin(**changes) -> Plugin:
    def of(settings):
        return (*watches(settings), leases.watch(settings["home"]))

    whole = {"speaker": lambda harness: Speaker(harness, WORLD), "speaker_watches": of, "speaker_settings": SETTINGS}
    return Plugin("l2", lambda _harness: None, **{**whole, **changes})


@pytest.fixture
def kube():
    sandbox = KubeSandbox()
    sandbox.start()
    sandbox.seed([{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}])
    yield sandbox
    sandbox.stop()


@pytest.fixture
def make(kube, tmp_path):
    running: list[tuple[Speakers, threading.Thread]] = []

    def start(**changes) -> Speakers:
        config = str(kube.kubeconfig(tmp_path / "config"))
        flags = {"kubeconfig": config, "listen": "127.0.0.1:0", "cluster_id": "cluster"}
        session = Session(flags, daemon=True)
        session.installed["l2"] = plugin(**changes)
        given = {"node-name": "node-1", "state-file": str(tmp_path / "state"), "addresses": "192.0.2.96-192.0.2.111"}
        house = Speakers(session, "l2", given)
        running.append((house, threading.Thread(target=house.run)))
        running[-1][1].start()
        return house

    yield start
    for house, thread in running:
        house.stop()
        thread.join(20)


def eventually(question, within=15.0):
    pause, until = threading.Event(), time.monotonic() + within
    while not (answer := question()):
        assert time.monotonic() < until, "it never came to that"
        pause.wait(0.05)
    return answer


def page(house: Speakers, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{house.port}{path}", timeout=5) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
    except urllib.error.URLError:
        return ""


def test_it_announces_its_last_state_before_the_api_server_answers_and_waits_for_that(kube, make, tmp_path):
    File(str(tmp_path / "state")).write(STATE)
    kube.faults.inject(Fault(effect="outage"))
    house = make()
    assert VIP in house.speaker._plane.given
    assert eventually(lambda: "[+]data-plane ok" in page(house, "/livez?verbose"))
    assert "[-]caches failed" in page(house, "/readyz")
    kube.faults.clear()
    assert eventually(lambda: house.speaker._announcer is not None)
    assert len(house.speaker._plane.history) >= 1


def test_once_the_cluster_answers_it_keeps_a_lease_and_is_ready(kube, make):
    house = make()
    eventually(lambda: page(house, "/readyz") == "ok\n")
    eventually(lambda: house.speaker._announcer is not None)
    assert eventually(lambda: "lbctl_l2_announced 0.0" in page(house, "/metrics"))


def test_a_stop_ends_it_in_good_order(make):
    house = make()
    eventually(lambda: house.speaker._announcer is not None)
    house.stop()
    eventually(lambda: not house.speaker._plane.alive)


def test_a_provider_without_a_speaker_says_so(make):
    with pytest.raises(SettingsError, match="has no speaker"):
        make(speaker=None)


def test_its_flags_are_the_providers(monkeypatch):
    monkeypatch.setattr("lbctl.plugins.points", lambda _group: {"l2": None})
    monkeypatch.setattr("lbctl.plugins.plugin", lambda _name: plugin())
    flags = {flag for option in speaker.get_params(speaker.make_context("speaker", [])) for flag in option.opts}
    assert {f"--{setting.name}" for setting in SETTINGS} <= flags
