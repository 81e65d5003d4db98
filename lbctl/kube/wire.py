"""A request on urllib3's connections for a third of its price: what 10,000 small writes in a row are made of.

`client` sends everything but watches through here. urllib3 keeps what it is good at: the pool, TLS, proxies, time
limits, errors. Replaced is what happens on one connection, where http.client feeds the answer's head to a parser for
mail: of 0.55 ms of CPU for one small PATCH, 0.25 ms are left, and the API server's own work is the limit again.
What is understood is HTTP/1.1 as API servers and their proxies speak it (RFC 9112): a length, chunks, or the end of the
connection; nothing is compressed, because nothing is asked for compressed.
"""

from collections.abc import Mapping
from http.client import BadStatusLine, HTTPException, LineTooLong, RemoteDisconnected
from socket import socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection

_LONGEST_HEAD = 65536
_PIECE = 65536


class Answer(NamedTuple):
    """What the server said."""

    status: int
    data: bytes
    retry_after: str | None = None


class Wire:
    """Requests to one server, over a manager of connections that becomes this one's own."""

    def __init__(self, manager: PoolManager, server: str) -> None:
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        self._manager, self._server = manager, server
        url = urlsplit(server)
        self._host, self._root = url.netloc, url.path.rstrip("/")
        self._pool = manager.connection_from_url(server)

    def send(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], connect: float, read: float
    ) -> Answer:
        """The whole answer, whatever its status. Times in seconds. Raises urllib3's errors; nothing is sent twice."""
        how: dict[str, Any] = {
            "body": body, "headers": {"Host": self._host, **headers}, "retries": False, "redirect": False,
            "timeout": Timeout(connect=connect, read=read),
        }  # fmt: skip
        if self._manager.proxy is not None:
            answer = self._manager.urlopen(method, f"{self._server}{path}", **how)
        else:
            answer = self._pool.urlopen(method, f"{self._root}{path}", assert_same_host=False, **how)
        return Answer(answer.status, answer.data or b"", answer.headers.get("Retry-After"))

    def close(self) -> None:
        """Close idle connections."""
        self._manager.clear()
        self._pool = self._manager.connection_from_url(self._server)


class _Lean(HTTPConnection):
    """Sends a request in one piece and reads the whole answer."""

    def request(  # type: ignore[override]
        self, method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None, **_how: object
    ) -> None:
        """`headers` include Host."""
        if self.sock is None:
            self.connect()
        self.sock.settimeout(self.timeout)
        length = {} if body is None else {"Content-Length": str(len(body))}
        lines = [f"{method} {url} HTTP/1.1", *(f"{k}: {v}" for k, v in {**(headers or {}), **length}.items())]
        if any("\n" in line or "\r" in line for line in lines):
            raise ValueError("a header or path with a line break cannot be sent")
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        """Raises http.client's errors for what is no answer, and a half one: the pool knows what they mean."""
        self.sock.settimeout(self.timeout)
        stream = _Stream(self.sock)
        status, headers = stream.head()
        while 100 <= status < 200:
            status, headers = stream.head()
        body = b"" if status in (204, 304) else stream.body(headers)
        if stream.ended or headers.get("connection", "").lower() == "close":
            self.close()
        kept = {"Retry-After": headers["retry-after"]} if "retry-after" in headers else {}
        return HTTPResponse(body, kept, status, preload_content=False, decode_content=False)


class _SecureLean(_Lean, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Lean  # type: ignore[assignment]


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureLean  # type: ignore[assignment]


class _Stream:
    """One answer, as it comes. `ended` says that nothing can follow it on this connection."""

    def __init__(self, sock: socket) -> None:
        self._sock, self._rest, self.ended = sock, b"", False

    def head(self) -> tuple[int, dict[str, str]]:
        """(status, headers by name in lower case)."""
        first, *lines = self._until(b"\r\n\r\n", _LONGEST_HEAD).decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
            raise BadStatusLine(first[:100])
        self.ended = version == "HTTP/1.0"
        fields = (line.partition(":") for line in lines)
        return int(rest[:3]), {name.lower(): value.strip() for name, _, value in fields}

    def body(self, headers: Mapping[str, str]) -> bytes:
        """Chunks, or as many bytes as the head says, or all until the end."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        if "content-length" in headers:
            return self._exactly(_number(headers["content-length"], 10))
        parts = [self._rest]
        while part := self._sock.recv(_PIECE):
            parts.append(part)
        self.ended = True
        return b"".join(parts)

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while size := _number(self._until(b"\r\n", _LONGEST_HEAD).partition(b";")[0], 16):
            parts.append(self._exactly(size + 2)[:-2])
        while self._until(b"\r\n", _LONGEST_HEAD):
            pass
        return b"".join(parts)

    def _until(self, mark: bytes, most: int) -> bytes:
        """What comes before the mark."""
        while mark not in self._rest:
            if len(self._rest) > most:
                raise LineTooLong("head")
            self._rest += self._more()
        found, _, self._rest = self._rest.partition(mark)
        return found

    def _exactly(self, size: int) -> bytes:
        parts, missing = [self._rest], size - len(self._rest)
        while missing > 0:
            parts.append(self._more())
            missing -= len(parts[-1])
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]

    def _more(self) -> bytes:
        piece: bytes = self._sock.recv(_PIECE)
        if not piece:
            raise RemoteDisconnected("the connection ended before the answer did")
        return piece


def _number(text: str | bytes, base: int) -> int:
    try:
        return int(text, base)
    except ValueError as error:
        raise HTTPException(f"a length of {text!r}") from error
