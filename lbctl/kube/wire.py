"""A request on urllib3's connections for a third of its price: what 10,000 small writes in a row are made of.

`client` sends everything but watches through here. urllib3 keeps what it is good at: opening connections, the pool of
them, TLS, proxies, time limits, errors. Replaced is what happens on one connection, where http.client feeds the
answer's head to a parser for mail, and what urllib3 does around it for connections that are not open yet: of 0.55 ms of
CPU for one small PATCH, less than half is left, and the API server's own work is the limit again.
What is understood is HTTP/1.1 as API servers and their proxies speak it (RFC 9112): a length, chunks, or the end of the
connection; nothing is compressed, because nothing is asked for compressed.
"""

import re
from collections.abc import Mapping
from http.client import BadStatusLine, HTTPException, LineTooLong, RemoteDisconnected
from queue import Empty, Full
from socket import socket
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ProtocolError, ReadTimeoutError
from urllib3.util.connection import is_connection_dropped

_LONGEST_HEAD = 65536
_PIECE = 65536
_FIRST = re.compile(rb"HTTP/1\.(\d) (\d{3})(?!\d)")
_FIELDS = re.compile(rb"\r\n(content-length|transfer-encoding|connection|retry-after):([^\r\n]*)", re.IGNORECASE)


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
        headers = {"Host": self._host, **headers}
        if (open_one := self._idle()) is not None:
            return self._over(open_one, method, f"{self._root}{path}", body, headers, read)
        how: dict[str, Any] = {
            "body": body, "headers": headers, "retries": False, "redirect": False,
            "timeout": Timeout(connect=connect, read=read),
        }  # fmt: skip
        if self._manager.proxy is not None:
            answer = self._manager.urlopen(method, f"{self._server}{path}", **how)
        else:
            answer = self._pool.urlopen(method, f"{self._root}{path}", assert_same_host=False, **how)
        return Answer(answer.status, answer.data or b"", answer.headers.get("Retry-After"))

    def _idle(self) -> "_Lean | None":
        """A connection of the pool that is open and waits for a request; None if urllib3 has to see to one."""
        idle = self._pool.pool
        if self._manager.proxy is not None or idle is None:
            return None
        try:
            connection = cast("_Lean | None", idle.get(block=False))
        except Empty:
            return None
        if connection is not None and connection.sock is not None and not is_connection_dropped(connection):  # type: ignore[arg-type]
            return connection
        self._return(connection)
        return None

    def _return(self, connection: "_Lean | None") -> None:
        """To the pool, or closed where there is no room (or no pool) any more."""
        idle = self._pool.pool
        try:
            if idle is not None:
                idle.put(connection, block=False)
        except Full:
            idle = None
        if idle is None and connection is not None:
            connection.close()

    def _over(
        self, connection: "_Lean", method: str, url: str, body: bytes | None, headers: dict[str, str], read: float
    ) -> Answer:
        """What `urlopen` would do over a connection that is open already."""
        connection.timeout, whole = read, False
        try:
            connection.request(method, url, body, headers)
            answer = connection.answer()
            whole = True
        except TimeoutError as late:
            raise ReadTimeoutError(self._pool, url, f"Read timed out. (read timeout={read})") from late
        except (OSError, HTTPException) as broken:
            raise ProtocolError("Connection aborted.", broken) from broken
        finally:
            if not whole:
                connection.close()
            self._return(connection)
        return answer

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

    def answer(self) -> Answer:
        """Raises http.client's errors for what is no answer, and a half one: the pool knows what they mean."""
        stream = _Stream(self.sock)
        status, headers = stream.head()
        while 100 <= status < 200:
            status, headers = stream.head()
        body = b"" if status in (204, 304) else stream.body(headers)
        if stream.ended or headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, body, headers.get("retry-after"))

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        """The same in urllib3's form."""
        self.sock.settimeout(self.timeout)
        status, body, after = self.answer()
        kept = {} if after is None else {"Retry-After": after}
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
        """(status, and of the headers those that we read, by name in lower case)."""
        head = self._until(b"\r\n\r\n", _LONGEST_HEAD)
        first = _FIRST.match(head)
        if first is None:
            raise BadStatusLine(head.partition(b"\r\n")[0][:100].decode("latin-1"))
        self.ended = first[1] == b"0"
        said = _FIELDS.findall(head)
        return int(first[2]), {name.decode().lower(): value.decode("latin-1").strip() for name, value in said}

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
