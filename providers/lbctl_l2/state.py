"""What a speaker knew last, in a file on its node: it announces by that when it starts and the API server is away.

Written by `speaker.py` when something changed, read once, at its start. The file is replaced as a whole, so that a
crash in the middle leaves the old one; one that cannot be read is as good as none. It says nothing secret.
"""

import contextlib
import os
import tempfile
from ipaddress import ip_address
from pathlib import Path

import msgspec

from lbctl.model import IPAddress
from lbctl_l2.values import Order, Peer, revive

VERSION = 1


class Range(msgspec.Struct, frozen=True):
    """A part of a pool, from its first to its last address."""

    pool: str
    first: str
    last: str


class State(msgspec.Struct, frozen=True):
    """The standing orders and the roll of speakers as they were given last, and what checks them.

    owners  address → the Services that it is announced for, for logs and Events
    nodes   the addresses of all nodes
    """

    node: str
    cluster: str
    orders: tuple[Order, ...] = ()
    peers: tuple[Peer, ...] = ()
    pools: tuple[Range, ...] = ()
    nodes: tuple[str, ...] = ()
    owners: dict[str, tuple[str, ...]] = {}
    version: int = VERSION

    def pool_of(self, address: IPAddress) -> str:
        """The pool that the address lay in, "" for none."""
        for part in self.pools:
            first, last = ip_address(part.first), ip_address(part.last)
            if first.version == address.version and int(first) <= int(address) <= int(last):
                return part.pool
        return ""


_ENCODER = msgspec.json.Encoder(enc_hook=str, order="deterministic")
_DECODER = msgspec.json.Decoder(State, dec_hook=revive)


class File:
    """The file, or none (an empty path: nothing is kept)."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._written = b""

    def read(self, node: str) -> State | None:
        """The last state of this node; None if there is none that can be used."""
        try:
            raw = self._path.read_bytes() if self._path else b""
            state = _DECODER.decode(raw)
        except (OSError, msgspec.DecodeError, ValueError):
            return None
        self._written = raw
        return state if (state.node, state.version) == (node, VERSION) else None

    def write(self, state: State) -> bool:
        """Keep it, if it is another than before. Raises OSError. Whether anything was written."""
        raw = _ENCODER.encode(state)
        if self._path is None or raw == self._written:
            return False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _replace(self._path, raw)
        self._written = raw
        return True


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
