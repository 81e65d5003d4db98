"""A request on urllib3's connections for a third of its price: what 10,000 small writes in a row are made of.

`client` sends everything but watches through here. urllib3 keeps what it is good at: opening connections, the pool of
them, TLS, proxies, time limits, errors. Replaced is what happens on one connection, where http.client feeds the
answer's head to a parser for mail, and what urllib3 does around it for connections that are not open yet: of 0.55 ms of
CPU for one small PATCH, less than half is left, and the API server's own work is the limit again.

Many small writes at once go from one thread (`send_all`): a thread for each spends three times the CPU, most of it on
finding its way back into a processor's caches after every wait.

What is understood is HTTP/1.1 as API servers and their proxies speak it (RFC 9112): a length, chunks, or the end of the
connection; nothing is compressed, because nothing is asked for compressed.
"""

import re
import time
from collections.abc import Iterator, Mapping
from http.client import BadStatusLine, HTTPException, LineTooLong, RemoteDisconnected
from queue import Empty, Full
from selectors import EVENT_READ, DefaultSelector
from ssl import CertificateError, SSLError, SSLWantReadError, SSLWantWriteError
from typing import Any, NamedTuple, Protocol, Self, cast
from urllib.parse import urlsplit

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ProtocolError, ReadTimeoutError
from urllib3.exceptions import SSLError as Untrusted
from urllib3.util.connection import is_connection_dropped

GLANCE = 0.02
"""Seconds of silence after which `send_all` asks whether there is more to send."""

REST = 0.005
"""Seconds, at most, that `send_all` lets answers gather while the server has as much to do as it may have at once and
less than a quarter of that has come. Waking up for each costs a tenth more CPU in all: between two answers the server
has the processor, and its caches, to itself. Of a server that answers half of it meanwhile, half the time is enough."""

FRESH = 0.005
"""Seconds for which it is believed that nobody hung up on a connection that was looked at."""

_LONGEST_HEAD = 65536
_PIECE = 65536
_FIRST = re.compile(rb"HTTP/1\.(\d) (\d{3})(?!\d)")
_CLOSE = re.compile(r"(?:^|[ ,\t])close(?:[ ,\t]|$)", re.IGNORECASE)
_FIELDS = re.compile(rb"\r\n(content-length|transfer-encoding|connection|retry-after):([^\r\n]*)", re.IGNORECASE)


class Answer(NamedTuple):
    """What the server said."""

    status: int
    data: bytes
    retry_after: str | None = None


class Question(NamedTuple):
    """What is asked."""

    method: str
    path: str
    body: bytes | None
    headers: dict[str, str]


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

    def send_all(
        self, questions: Iterator[Question | Exception | None], at_once: int, connect: float, read: float
    ) -> Iterator[tuple[int, Answer | Exception]]:
        """Ask as many things as come, from one thread: (which question, its answer or why there is none).

        Questions are drawn as there is room for them, `at_once` on their way at a time, and answers come as they come.
        None says that there is no question right now: it ends when there is none and every answer is there. An error in
        a question's place is its answer. What went wrong is an error of urllib3's, or the ValueError of a question that
        cannot be sent. Nothing is sent twice. Questions are small: while one is sent, or a connection is opened,
        answers wait.
        """
        if self._manager.proxy is not None:
            yield from self._in_turn(questions, connect, read)
            return
        with _Flock(self, at_once, connect, read) as flock:
            asked = 0
            while True:
                for question in flock.room(questions):
                    yield from flock.depart(asked, question)
                    asked += 1
                if flock.landed:
                    return
                yield from flock.arrivals()

    def _in_turn(
        self, questions: Iterator[Question | Exception | None], connect: float, read: float
    ) -> Iterator[tuple[int, Answer | Exception]]:
        """One by one, where a proxy has to be spoken to first: urllib3 knows how."""
        number = 0
        while (question := next(questions, None)) is not None:
            try:
                yield number, self.send(*question, connect, read) if isinstance(question, Question) else question
            except (HTTPError, OSError, ValueError) as broken:
                yield number, broken
            number += 1

    def _open(self, connect: float) -> "_Lean":
        """A new connection, as the pool makes them. Raises urllib3's errors."""
        connection = cast("_Lean", self._pool._new_conn())
        connection.timeout = connect
        try:
            connection.connect()
        except TimeoutError as late:
            connection.close()
            raise ConnectTimeoutError(connection, f"no connection within {connect} s") from late
        except (SSLError, CertificateError) as wrong:
            connection.close()
            raise Untrusted(wrong) from wrong
        except OSError as broken:
            connection.close()
            raise ProtocolError("Connection aborted.", broken) from broken
        return connection

    def _idle(self) -> "_Lean | None":
        """A connection of the pool that is open and waits for a request; None if urllib3 has to see to one."""
        if self._manager.proxy is not None:
            return None
        try:
            connection = self._take()
        except Empty:
            return None
        if connection is None:
            self._return(None)
        return connection

    def _take(self) -> "_Lean | None":
        """A place in the pool, with an open connection if there is one. Raises Empty where all are taken."""
        places = self._pool.pool
        if places is None:
            raise Empty
        connection = cast("_Lean | None", places.get(block=False))
        if connection is None or connection.sock is None:
            return None
        if is_connection_dropped(connection):  # type: ignore[arg-type]
            connection.close()
            return None
        return connection

    def _return(self, connection: "_Lean | None") -> None:
        """Its place to the pool; closed where there is none (or no pool) any more."""
        places = self._pool.pool
        try:
            if places is not None:
                places.put(connection, block=False)
        except Full:
            places = None
        if places is None and connection is not None:
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
        except (OSError, HTTPException) as broken:
            raise self._no_answer(broken, url, read) from broken
        finally:
            if not whole:
                connection.close()
            self._return(connection)
        return answer

    def _no_answer(self, broken: Exception, url: str, read: float) -> HTTPError:
        """What happened on an open connection, in urllib3's words."""
        if isinstance(broken, TimeoutError):
            return ReadTimeoutError(self._pool, url, f"Read timed out. (read timeout={read})")
        return ProtocolError("Connection aborted.", broken)

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
        self.sock.sendall(_framed(method, url, body, headers or {}))

    def send_at_once(self, framed: bytes) -> None:
        """Over a socket that does not wait: it takes nearly all whole. What it does not may take `timeout` seconds."""
        try:
            sent = self.sock.send(framed)
        except (BlockingIOError, SSLWantReadError, SSLWantWriteError):
            sent = 0
        if sent < len(framed):
            self.sock.settimeout(self.timeout)
            self.sock.sendall(framed[sent:])
            self.sock.settimeout(0)

    def answer(self, source: "_Source | None" = None) -> Answer:
        """Raises http.client's errors for what is no answer, and a half one: the pool knows what they mean."""
        stream = _Stream(source or self.sock)
        status, headers = stream.head()
        while 100 <= status < 200:
            status, headers = stream.head()
        body = b"" if status in (204, 304) else stream.body(headers)
        if stream.ended or stream.surplus or _CLOSE.search(headers.get("connection", "")):
            self.close()
        return Answer(status, body, headers.get("retry-after"))

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        """The same in urllib3's form."""
        self.sock.settimeout(self.timeout)
        status, body, after = self.answer()
        kept = {} if after is None else {"Retry-After": after}
        return HTTPResponse(body, kept, status, preload_content=False, decode_content=False)


def _framed(method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    """The whole request. Raises ValueError for what cannot be sent."""
    lines = [f"{method} {url} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "", ""])
    if head.count("\n") > len(lines) + 1 or head.count("\r") > len(lines) + 1:
        raise ValueError("a header or path with a line break cannot be sent")
    return head.encode("latin-1") + (body or b"")


class _SecureLean(_Lean, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Lean  # type: ignore[assignment]


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureLean  # type: ignore[assignment]


class _Source(Protocol):
    """Where an answer comes from: a socket, or what has come of it so far."""

    def recv(self, size: int, /) -> bytes: ...


class _NotYet(Exception):
    """More has to come before this is an answer."""


class _Come:
    """What has come so far. An answer is read from its beginning until it is whole: nearly all come in one piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._read = 0

    def add(self, piece: bytes) -> "_Come":
        """Nothing means that nothing will follow."""
        self._pieces.append(piece)
        self._read = 0
        return self

    def recv(self, _size: int, /) -> bytes:
        if self._read == len(self._pieces):
            raise _NotYet
        self._read += 1
        return self._pieces[self._read - 1]


class _Flight(NamedTuple):
    """One question on its way: which, over what, what has come of its answer, until when there is time (monotonic)."""

    number: int
    connection: _Lean
    url: str
    come: _Come
    until: float


class _Flock:
    """Questions that are on their way together, and the connections that they go over; all on one thread."""

    def __init__(self, wire: Wire, most: int, connect: float, read: float) -> None:
        self._wire, self._most, self._connect, self._read = wire, most, connect, read
        self._selector = DefaultSelector()
        self._free: list[_Lean] = []
        self._flights: dict[_Lean, _Flight] = {}
        self._opened = self._nobody = False
        self._again = self._swept = 0.0
        self._rest = REST

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_why: object) -> None:
        self._selector.close()
        for connection in self._flights:
            connection.close()
        for connection in (*self._flights, *self._free):
            self._wire._return(connection)

    @property
    def landed(self) -> bool:
        """Is every answer there, and was there nothing more to ask?"""
        return self._nobody and not self._flights

    def room(self, questions: Iterator[Question | Exception | None]) -> Iterator[Question | Exception]:
        """As many as may depart now: one connection at most is opened in between two looks for answers."""
        self._opened = self._nobody = False
        if self._free:
            self._sweep()
        while len(self._flights) < self._most and not self._opened and self._may_have_one():
            question = next(questions, None)
            if question is None:
                self._nobody = True
                return
            yield question

    def _sweep(self) -> None:
        """By now the server hung up on these, or speaks without being asked: nothing more is asked over them."""
        self._swept = time.monotonic()
        for key, _events in self._selector.select(0):
            if key.data not in self._flights:
                self._free.remove(key.data)
                self._drop(key.data)

    def _may_have_one(self) -> bool:
        """Is there a connection, or may one be opened? Not for a while after that failed: answers come first."""
        return bool(self._free) or not self._flights or time.monotonic() >= self._again

    def depart(self, number: int, question: Question | Exception) -> Iterator[tuple[int, Exception]]:
        """Send it; or tell why that cannot be."""
        if not isinstance(question, Question):
            yield number, question
            return
        method, path, body, headers = question
        url = f"{self._wire._root}{path}"
        try:
            connection = self._connection()
        except HTTPError as broken:
            yield number, broken
            return
        try:
            connection.send_at_once(_framed(method, url, body, {"Host": self._wire._host, **headers}))
        except (OSError, ValueError) as broken:
            self._drop(connection)
            yield number, broken if isinstance(broken, ValueError) else self._no_answer(broken, url)
            return
        self._flights[connection] = _Flight(number, connection, url, _Come(), time.monotonic() + self._read)

    def _connection(self) -> _Lean:
        if self._free and time.monotonic() >= self._swept + FRESH:
            self._sweep()
        if self._free:
            return self._free.pop()
        try:
            connection = self._wire._take()
        except Empty:
            connection = None
        if connection is None:
            self._opened = True
            connection = self._new()
        connection.timeout = self._read
        connection.sock.settimeout(0)
        self._selector.register(connection.sock, EVENT_READ, connection)
        return connection

    def _new(self) -> _Lean:
        try:
            return self._wire._open(self._connect)
        except HTTPError:
            self._wire._return(None)
            self._again = time.monotonic() + self._connect
            raise

    def arrivals(self) -> Iterator[tuple[int, Answer | Exception]]:
        """What has come, after waiting for it a moment; and what has not come in time."""
        events = self._selector.select(GLANCE if self._flights else 0)
        if events and len(self._flights) == self._most and 4 * len(events) < self._most:
            time.sleep(self._rest)
            events = self._selector.select(0)
            self._rest = self._rest / 2 if 2 * len(events) > self._most else min(REST, 2 * self._rest)
        for key, _events in events:
            flight = self._flights.get(key.data)
            if flight is not None and (answer := self._arrived(flight)) is not None:
                yield flight.number, answer
        now = time.monotonic()
        while self._flights and (oldest := next(iter(self._flights.values()))).until <= now:
            del self._flights[oldest.connection]
            self._drop(oldest.connection)
            yield oldest.number, self._no_answer(TimeoutError(), oldest.url)

    def _arrived(self, flight: _Flight) -> Answer | Exception | None:
        """The answer, or why there will be none; None where more has to come."""
        try:
            answer = self._answer(flight)
        except (OSError, HTTPException) as broken:
            del self._flights[flight.connection]
            self._drop(flight.connection)
            return self._no_answer(broken, flight.url)
        if answer is not None:
            del self._flights[flight.connection]
            self._keep(flight.connection)
        return answer

    def _answer(self, flight: _Flight) -> Answer | None:
        socket = flight.connection.sock
        while True:
            try:
                piece = socket.recv(_PIECE)
            except (BlockingIOError, SSLWantReadError, SSLWantWriteError):
                return None
            try:
                return flight.connection.answer(flight.come.add(piece))
            except _NotYet:
                continue

    def _no_answer(self, broken: Exception, url: str) -> HTTPError:
        return self._wire._no_answer(broken, url, self._read)

    def _keep(self, connection: _Lean) -> None:
        if connection.sock is None:
            self._drop(connection)
        else:
            self._free.append(connection)

    def _drop(self, connection: _Lean) -> None:
        """Close it, and let the pool have its place back."""
        for key in [key for key in self._selector.get_map().values() if key.data is connection]:
            self._selector.unregister(key.fileobj)
        connection.close()
        self._wire._return(connection)


class _Stream:
    """One answer, as it comes. `ended` says that nothing can follow it on this connection."""

    def __init__(self, sock: _Source) -> None:
        self._sock, self._rest, self.ended = sock, b"", False

    @property
    def surplus(self) -> bool:
        """Did more come than was asked for? Then nobody knows whose the next will be."""
        return bool(self._rest)

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
        number = int(text, base)
    except ValueError as error:
        raise HTTPException(f"a length of {text!r}") from error
    if number < 0:
        raise HTTPException(f"a length of {number}")
    return number
