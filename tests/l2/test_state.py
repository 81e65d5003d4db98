"""The last state on disk."""

import os
from ipaddress import ip_address, ip_network

import pytest

from lbctl_l2.state import File, Range, State
from lbctl_l2.values import Order, Peer, PeerLink

ORDER = Order(ip_address("192.0.2.100"), ("node-1", "node-2"), frozenset({"eth0"}))
PEER = Peer("node-2", (PeerLink("eth0", b"\x02\0\0\0\x01\x02", (ip_network("2001:db8::/64"),)),))
STATE = State(
    "node-1", "cluster", (ORDER,), (PEER,), (Range("main", "192.0.2.100", "192.0.2.110"),), ("192.0.2.11",),
    {"192.0.2.100": ("default/web",)},
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "speaker.json"


def test_what_was_written_is_read(path):
    assert File(str(path)).write(STATE)
    assert File(str(path)).read("node-1") == STATE


def test_the_same_again_is_not_written(path):
    file = File(str(path))
    file.write(STATE)
    path.unlink()
    assert not file.write(STATE)
    assert not path.exists()


def test_another_nodes_state_is_none(path):
    File(str(path)).write(STATE)
    assert File(str(path)).read("node-2") is None


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"node":"node-1"}', b"\xff\xfe", b'{"node":"node-1","cluster":'
                                     b'"c","orders":[{"address":"x","ranking":[]}]}'])  # fmt: skip
def test_a_file_that_cannot_be_read_is_as_good_as_none(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert File(str(path)).read("node-1") is None


def test_a_write_that_fails_leaves_the_old_state_and_no_litter(path, monkeypatch):
    File(str(path)).write(State("node-1", "before"))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        File(str(path)).write(STATE)
    assert File(str(path)).read("node-1") == State("node-1", "before")
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_without_a_path_nothing_is_kept():
    assert not File("").write(STATE)
    assert File("").read("node-1") is None


def test_the_pools_check_what_is_taken_up_again():
    assert STATE.pool_of(ip_address("192.0.2.105")) == "main"
    assert STATE.pool_of(ip_address("192.0.2.111")) == ""
    assert STATE.pool_of(ip_address("2001:db8::1")) == ""
