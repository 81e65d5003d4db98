"""The last state on disk."""

import logging
import os
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from lbctl.cluster import Object
from lbctl_l2.crds import ADDRESS_POOLS
from lbctl_l2.state import VERSION, File, State
from lbctl_l2.values import Order, Peer, PeerLink

ORDER = Order(ip_address("192.0.2.100"), ("node-1", "node-2"), frozenset({"eth0"}))
PEER = Peer("node-2", (PeerLink("eth0", b"\x02\0\0\0\x01\x02", (ip_network("2001:db8::/64"),)),))
POOL = Object("main", generation=3, created=datetime(2026, 3, 1, tzinfo=UTC), labels={"a": "b"},
              spec={"addresses": ["192.0.2.100-192.0.2.110"], "avoidBuggyIPs": True})  # fmt: skip
STATE = State(
    "node-1", "cluster", (ORDER,), (PEER,), ((ADDRESS_POOLS, POOL),), ("192.0.2.11",),
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


# -- attacks, and what else can be in the way


@pytest.fixture
def state(tmp_path):
    """A file with a good state in it."""
    File(str(tmp_path / "state")).write(State("a", "c"))
    return tmp_path / "state"


def test_a_state_that_is_not_there_is_nothing_to_speak_of(tmp_path, caplog):
    assert File(str(tmp_path / "state")).read("a") is None
    assert not caplog.messages


def refused(path, caplog, node: str = "a", cluster: str = "c") -> str:
    """Why it was; said once."""
    caplog.set_level(logging.WARNING, "lbctl_l2.state")
    assert File(str(path)).read(node, cluster) is None
    [line] = caplog.records
    assert (line.message, line.levelname) == ("the last state cannot be used", "WARNING")
    return line.reason


def test_a_pipe_is_no_state(tmp_path, caplog):
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe", caplog) == "it is no regular file"


def test_a_huge_state_is_not_read(state, caplog):
    os.truncate(state, 1 << 40)
    assert "bytes: lbctl did not write it" in refused(state, caplog)


def test_a_symlink_is_not_followed_and_not_written_through(state, tmp_path, caplog):
    (tmp_path / "link").symlink_to(state)
    assert "symbolic links" in refused(tmp_path / "link", caplog)
    File(str(tmp_path / "link")).write(State("b", "c"))
    assert File(str(state)).read("a") == State("a", "c")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_state_that_another_wrote_is_not_believed(state, caplog):
    os.chown(state, 12345, 12345)
    assert refused(state, caplog) == "it belongs to user 12345: lbctl did not write it"


@pytest.mark.parametrize(("node", "cluster"), [("b", "c"), ("a", "d")])
def test_another_nodes_or_clusters_state_is_not_used(state, caplog, node, cluster):
    assert refused(state, caplog, node, cluster).startswith("it is of ")


def test_a_state_cut_short_anywhere_ends_nothing(state):
    whole = state.read_bytes()
    for length in range(len(whole)):
        state.write_bytes(whole[:length])
        assert File(str(state)).read("a") is None


@pytest.mark.parametrize("nonsense", [
    {"served": [{"pool": "p"}]}, {"served": [[{"plural": "addresspools"}, {"name": 7}]]},
    {"nodes": ["node-1"]}, {"owners": {"192.0.2.100": ["shared"]}}, {"version": VERSION + 1},
    {"orders": [{"address": "10.0.0.1/24", "ranking": ["a"]}]},
    {"orders": [{"address": "10.0.0.1", "ranking": "a"}]},
    {"peers": [{"name": "b", "links": [{"name": "eth0", "mac": "AgAAAAAB", "networks": ["everywhere"]}]}]}])
def test_a_state_of_nonsense_is_not_used(state, caplog, nonsense):
    state.write_bytes(msgspec.json.encode({"node": "a", "cluster": "c"} | nonsense))
    assert refused(state, caplog)


def test_a_state_of_endless_depth_is_not_used(state, caplog):
    state.write_text('{"node": "a", "cluster": "c", "more": ' + "[" * 200_000)
    assert refused(state, caplog)
