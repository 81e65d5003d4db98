"""The data plane as a process: what it needs, what it survives, and how it ends, with real frames to judge by."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from lbctl_l2 import channel
from lbctl_l2.lab.namespaces import LabError, inside
from lbctl_l2.lab.probe import (
    CLIENT,
    CLIENT6,
    OTHER,
    STRANGER,
    VIP,
    VIP6,
    Arp,
    Ndp,
    Prober,
    Speaker,
    is_answer,
    is_gratuitous,
    solicited,
)
from lbctl_l2.sockets import MOST_LOOKED_FOR
from lbctl_l2.wire import Order, Peer, PeerLink, State

ME = "node-a"
UNPRIVILEGED = """
import ctypes, os, struct, sys
from lbctl_l2.dataplane import main

NET_RAW, NOBODY, libc = 13, 65534, ctypes.CDLL(None)
KEEP_CAPABILITIES, DROP_BOUND, NO_NEW_PRIVILEGES = 8, 24, 38  # linux/prctl.h
for capability in range(64):
    if capability != NET_RAW:
        libc.prctl(DROP_BOUND, capability, 0, 0, 0)
libc.prctl(KEEP_CAPABILITIES, 1, 0, 0, 0)
os.setgroups([])
os.setresgid(NOBODY, NOBODY, NOBODY)
os.setresuid(NOBODY, NOBODY, NOBODY)
only = 1 << NET_RAW
header, data = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", only, only, 0, 0, 0, 0)  # capset(2), version 3
assert libc.capset(header, data) == 0
libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
main(int(sys.argv[1]))
"""

CONTROL = """
import sys, time
from lbctl_l2.channel import DataPlane
from lbctl_l2.lab.probe import VIP
from lbctl_l2.wire import Order, Peer, PeerLink
peers = [Peer(name, (PeerLink("eth0", bytes.fromhex(mac)),)) for name, mac in (("a", sys.argv[1]), ("b", sys.argv[2]))]
plane = DataPlane("a", "conformance", excluded=("^lo$",)).start()
plane.orders([Order(VIP, ("a", "b"))], peers)
while not plane.alive:
    time.sleep(0.05)
print(plane.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def still_answers(segment):
    """eth0 is served."""

    def check() -> None:
        segment.prober.say(Arp(segment.prober.mac).frame)
        assert Arp.of(segment.prober.hear(is_answer(VIP))).sha == segment.mac

    return check


def test_an_unprivileged_user_with_cap_net_raw_alone_serves_addresses(segment, monkeypatch, still_answers):
    def spawn(end: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", UNPRIVILEGED, str(end)], pass_fds=[end])

    monkeypatch.setattr(channel, "spawn", spawn)
    speaker = Speaker(segment.node)
    speaker.announce(VIP, VIP6)
    with open(f"/proc/{speaker.plane.pid}/status") as lines:
        status = dict(line.split(":\t", 1) for line in lines)
    assert status["Uid"].split()[0] == "65534"
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {1 << 13}
    still_answers()
    speaker.end()


def test_without_cap_net_raw_it_says_what_to_do(segment, monkeypatch):
    without = UNPRIVILEGED.replace("only = 1 << NET_RAW", "only = 0")

    def spawn(end: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", without, str(end)], pass_fds=[end])

    monkeypatch.setattr(channel, "spawn", spawn)
    speaker = Speaker(segment.node)
    speaker.wait(lambda: "capability NET_RAW" in speaker.plane.unusable().get("eth0", ""))
    speaker.end()


def test_a_process_that_stood_still_reads_nothing_of_before(segment, speaker, still_answers):
    os.kill(speaker.plane.pid, signal.SIGSTOP)
    segment.prober.say(*[Arp(segment.prober.mac).frame for _ in range(20)])
    segment.prober.collect(is_answer(VIP), 0.5)
    os.kill(speaker.plane.pid, signal.SIGCONT)
    speaker.wait(lambda: speaker.plane.report().counters.frozen == 1)
    speaker.wait_for(VIP, State.SPEAKING)
    assert speaker.addresses()[VIP].requests == 0
    assert int(speaker.logs[0].fields["discarded"]) >= 20
    still_answers()


def test_a_killed_process_is_replaced_and_told_everything(segment, speaker, still_answers):
    os.kill(speaker.plane.pid, signal.SIGKILL)
    segment.prober.hear(is_gratuitous(VIP))
    speaker.wait(lambda: speaker.plane.alive)
    still_answers()
    assert speaker.plane.restarts == 1


def test_when_control_is_killed_it_hands_over_and_ends(segment):
    peers = [Peer(name, (PeerLink("eth0", mac),)) for name, mac in (("a", segment.mac), ("b", segment.prober.mac))]
    order = Order(VIP, ("a", "b"))
    with inside(segment.node.name):
        macs = (segment.mac.hex(), segment.prober.mac.hex())
        control = subprocess.Popen([sys.executable, "-c", CONTROL, *macs], stdout=subprocess.PIPE, text=True)
    plane = int(control.stdout.readline())
    other = Speaker(segment.client, me="b")
    other.plane.orders([order], peers)
    other.wait(lambda: other.addresses().get(VIP) and other.addresses()[VIP].holder == "a")
    control.kill()
    other.wait_for(VIP, State.SPEAKING)
    other.wait(lambda: ended(plane), within=2.0)
    assert other.plane.report().counters.failovers == 0  # It was handed over; nobody had to notice a death.
    control.wait()
    control.stdout.close()
    other.end()


def test_questions_for_other_hosts_never_wake_it(segment, speaker, still_answers):
    before = speaker.plane.report().counters.received
    segment.prober.say(*[Arp(segment.prober.mac, tpa=STRANGER + number).frame for number in range(30)])
    still_answers()
    speaker.wait(lambda: speaker.plane.report().counters.received > before)
    assert speaker.plane.report().counters.received < before + 30


def test_more_addresses_than_the_kernel_s_filter_takes_are_served_all_the_same(segment, speaker):
    addresses = [VIP + number for number in range(MOST_LOOKED_FOR + 100)]
    speaker.announce(*addresses)
    segment.prober.say(Arp(segment.prober.mac, tpa=addresses[-1]).frame)
    segment.prober.hear(is_answer(addresses[-1]))


def test_a_storm_of_five_thousand_frames_a_second_keeps_no_client_without_an_answer(segment, speaker):
    with poured(segment, pause=0.01, times=6):
        for number in range(20):
            ask_as_a_kernel_does(segment, CLIENT + number)


def test_a_flood_of_all_that_the_wire_carries_stops_nothing(segment, speaker, still_answers):
    with poured(segment):
        speaker.wait(lambda: speaker.plane.report().counters.received > 20_000)
    segment.prober.forget()
    still_answers()
    # A machine that is so busy that it stood still asks anew, and the flood has claimed the address meanwhile.
    speaker.wait(lambda: speaker.addresses()[VIP].state == State.SPEAKING)


def ask_as_a_kernel_does(segment, who) -> None:
    """Three times, if need be: a flood fills queues, and what does not fit is lost, as it is with a kernel."""
    for _ in range(3):
        segment.prober.say(Arp(segment.prober.mac, who).frame)
        with contextlib.suppress(LabError):
            segment.prober.hear(lambda frame: is_answer(VIP)(frame) and frame[38:42] == who.packed, within=1.0)
            return
    pytest.fail(f"{who} got no answer")


def test_it_ends_in_good_order_when_told(segment, speaker):
    plane = speaker.plane.pid
    assert speaker.plane.leave(3.0)
    assert ended(plane)


def test_it_needs_little_memory(segment, speaker, record_property):
    speaker.announce(*[Order(VIP + number, (ME, *(f"node-{other}" for other in range(99)))) for number in range(100)])
    with open(f"/proc/{speaker.plane.pid}/status") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    record_property("resident KiB", resident)
    assert resident < 40 * 1024


@contextlib.contextmanager
def poured(segment, pause: float = 0.0, times: int = 1) -> Iterator[None]:
    """Everything that is ugly, so many times between two pauses, from a socket of its own."""
    mac, stop = segment.prober.mac, threading.Event()
    question = Ndp(mac, CLIENT6, solicited(VIP6), option=mac)
    ugly = [
        Arp(mac, tpa=OTHER).frame, Arp(mac).frame[:41], Arp(mac, hardware=9).frame, Arp(mac, STRANGER).frame,
        question.frame[:60], Ndp(mac, CLIENT6, solicited(VIP6), option=mac, checksum=1).frame, question.frame,
        Arp(bytes.fromhex("02deadbeef01"), VIP, VIP).frame,
    ]
    flooder = Prober(segment.client)

    def pour() -> None:
        while not stop.wait(pause):
            flooder.say(*ugly * times)

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        flooder.socket.close()


def ended(pid: int) -> bool:
    """Whether a process has ended, though its parent may not have asked yet."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
