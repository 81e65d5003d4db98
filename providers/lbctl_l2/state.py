"""What a speaker knew last, in a file on its node: it announces by that when it starts and the API server is away.

Written by `keeper.py` when something changed, read once, at its start. The file is replaced as a whole, so that a
crash in the middle leaves the old one; one that cannot be read is as good as none. It says nothing secret.
"""

import contextlib
import itertools
import logging
import os
import stat
import tempfile
from ipaddress import ip_address
from pathlib import Path

import msgspec

from lbctl.cluster import Object, Watch
from lbctl_l2.values import Order, Peer, revive

log = logging.getLogger(__name__)

VERSION = 2
LARGEST = 64 << 20
"""Bytes that are read: 10,000 orders among 100 nodes are a third of it."""


class State(msgspec.Struct, frozen=True):
    """The standing orders and the roll of speakers as they were given last, and what checks them.

    owners  address → the Services that it is announced for, for logs and Events
    served  the pools and advertisements of the cluster, each in its last good version
    nodes   the addresses of all nodes
    """

    node: str
    cluster: str
    orders: tuple[Order, ...] = ()
    peers: tuple[Peer, ...] = ()
    served: tuple[tuple[Watch, Object], ...] = ()
    nodes: tuple[str, ...] = ()
    owners: dict[str, tuple[str, ...]] = {}
    version: int = VERSION


_ENCODER = msgspec.json.Encoder(enc_hook=str, order="deterministic")
_DECODER = msgspec.json.Decoder(State, dec_hook=revive)


class File:
    """The file, or none (an empty path: nothing is kept)."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._written = b""

    def read(self, node: str, cluster: str = "") -> State | None:
        """The last state of this node, in this cluster if that is known; None if there is none that can be used.

        The log says why one that is there cannot.
        """
        if self._path is None:
            return None
        try:
            raw = _contents(self._path)
            state = _DECODER.decode(raw)
            _check(state, node, cluster)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            log.warning("the last state cannot be used", extra={"path": str(self._path), "reason": str(error)})
            return None
        self._written = raw
        return state

    def write(self, state: State) -> bool:
        """Keep it, if it is another than before. Raises OSError. Whether anything was written."""
        raw = _ENCODER.encode(state)
        if self._path is None or raw == self._written:
            return False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _replace(self._path, raw)
        self._written = raw
        return True


def _contents(path: Path) -> bytes:
    """Of a file that lbctl may have written. Raises OSError (a symlink is ELOOP), ValueError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")  # A pipe would never end.
        if status.st_uid not in (0, os.geteuid()):
            raise ValueError(f"it belongs to user {status.st_uid}: lbctl did not write it")
        if status.st_size > LARGEST:
            raise ValueError(f"it has {status.st_size} bytes: lbctl did not write it")
        return file.read(LARGEST)


def _check(state: State, node: str, cluster: str) -> None:
    """What types cannot say. Raises ValueError."""
    if state.version != VERSION:
        raise ValueError(f"it is of version {state.version}, not {VERSION}")
    if state.node != node:
        raise ValueError(f"it is of node {state.node!r}")
    if cluster not in ("", state.cluster):
        raise ValueError(f"it is of cluster {state.cluster!r}")
    for text in state.nodes:
        ip_address(text)
    for owner in itertools.chain.from_iterable(state.owners.values()):
        if owner.count("/") != 1:
            raise ValueError(f"{owner!r} is no namespace/name")


def _replace(path: Path, raw: bytes) -> None:
    """All or nothing, also where the power fails."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
