"""Requests as they go over a connection, and answers in every form that HTTP/1.1 has for them."""

import socket
import threading
from contextlib import closing, suppress

import pytest
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError, ReadTimeoutError

from lbctl.kube.wire import Question, Wire


class Server:
    """Answers each request with the next bytes of its script; an empty answer closes the connection."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.script, self.asked, self.connections = [], [], 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with closing(connection), suppress(ConnectionError):  # Whoever has read enough hangs up.
                self._answer(connection)

    def _answer(self, connection):
        while self.script and (request := connection.recv(65536)):
            self.asked.append(request)
            pieces = self.script.pop(0)
            for piece in pieces:
                connection.sendall(piece)
            if not pieces or pieces[-1] == b"":
                return

    def close(self):
        self._listener.close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def wire(server):
    made = Wire(PoolManager(), f"http://127.0.0.1:{server.port}")
    yield made
    made.close()


@pytest.fixture(params=["alone", "in a stream"])
def send(request):
    """Ask one thing, in each of the two ways that there are. Raises what is no answer."""

    def alone(wire, method="GET", path="/api", body=None, read=5.0, **headers):
        return wire.send(method, path, body, headers, 5.0, read)

    def in_a_stream(wire, method="GET", path="/api", body=None, read=5.0, **headers):
        question = Question(method, path, body, headers)
        ((_, answer),) = wire.send_all(iter([question]), 4, 5.0, read)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return alone if request.param == "alone" else in_a_stream


LONG = b"x" * 200_000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSED = [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", b""]

ANSWERS = {
    "a length": ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"], b"hi"),
    "in pieces": ([b"HTTP/1.1 200 OK\r\nConte", b"nt-Length: 2\r\n\r", b"\nh", b"i"], b"hi"),
    "nothing": ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], b""),
    "no content": ([b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
    "chunks": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n", b"1;x=y\r\ni\r\n0\r\n\r\n"], b"hi"),
    "a trailer": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n"], b"hi"),
    "the end": ([b"HTTP/1.1 200 OK\r\n\r\nhi", b""], b"hi"),
    "HTTP/1.0": ([b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b""], b"hi"),
    "to be continued": ([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"], b"hi"),
    "much": ([b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n", LONG], LONG),
    "much in chunks": ([CHUNKED, b"30d40\r\n", LONG, b"\r\n0\r\n\r\n"], LONG),
}  # fmt: skip


@pytest.mark.parametrize("form", ANSWERS)
def test_an_answer_is_read_whole_whatever_its_form(server, wire, send, form):
    pieces, body = ANSWERS[form]
    server.script = [pieces, [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"]]
    assert send(wire).data == body
    assert send(wire).data == b"next"


def test_a_connection_is_used_again(server, wire, send):
    server.script = [ANSWERS["a length"][0], ANSWERS["chunks"][0], ANSWERS["nothing"][0]]
    for _ in range(3):
        send(wire)
    assert server.connections == 1


def test_a_connection_that_the_server_gave_up_is_not(server, wire, send):
    server.script = [CLOSED, ANSWERS["a length"][0]]
    assert [send(wire).data, send(wire).data] == [b"hi", b"hi"]
    assert server.connections == 2


def test_status_and_retry_after_come_through(server, wire, send):
    server.script = [[b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\nContent-Length: 0\r\n\r\n"]]
    answer = send(wire)
    assert (answer.status, answer.retry_after) == (429, "7")


def test_a_request_goes_out_in_one_piece(server, wire, send):
    server.script = [ANSWERS["a length"][0]]
    send(wire, "PATCH", "/api/v1?a=b", b"{}", Accept="application/json")
    head, _, body = server.asked[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"PATCH /api/v1?a=b HTTP/1.1", b"Host: 127.0.0.1:%d" % server.port, b"Accept: application/json",
        b"Content-Length: 2",
    ]  # fmt: skip
    assert body == b"{}"


def test_a_server_below_a_path_is_asked_there(server, send):
    wire = Wire(PoolManager(), f"http://127.0.0.1:{server.port}/k8s/clusters/c-1/")
    server.script = [ANSWERS["a length"][0]]
    send(wire, path="/api/v1")
    assert server.asked[0].startswith(b"GET /k8s/clusters/c-1/api/v1 HTTP/1.1\r\n")


NONSENSE = {
    "hanging up": [],
    "another protocol": [b"SSH-2.0-OpenSSH_9.6\r\n\r\n"],
    "no number": [b"HTTP/1.1 OK\r\n\r\n"],
    "half a head": [b"HTTP/1.1 200 OK\r\nContent-", b""],
    "half a body": [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", b""],
    "half a chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhi", b""],
    "less than nothing": [b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhi", b""],
    "a chunk of less": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nhi\r\n0\r\n\r\n", b""],
    "an endless head": [b"HTTP/1.1 200 OK\r\n" + b"A: " + b"b" * 200_000, b""],
}


@pytest.fixture(params=["a new connection", "an open one"])
def warm(request, server, wire, send):
    """A script, over a connection that is new, or has answered before. How many requests that took."""
    before = [ANSWERS["a length"][0]] if request.param == "an open one" else []

    def begin(*script):
        server.script = [*before, *script]
        for _ in before:
            send(wire)
        return len(before)

    return begin


@pytest.mark.parametrize("form", NONSENSE)
def test_what_is_no_answer_is_an_error_and_is_not_asked_for_again(server, wire, send, warm, form):
    before = warm(NONSENSE[form], [b"never asked for"])
    with pytest.raises(HTTPError):
        send(wire)
    assert len(server.asked) == before + 1


def test_after_an_error_the_connection_is_not_used_again(server, wire, send, warm):
    warm(NONSENSE["no number"], ANSWERS["a length"][0])
    with pytest.raises(HTTPError):
        send(wire)
    before = server.connections
    assert send(wire).data == b"hi"
    assert server.connections == before + 1


def test_a_length_that_is_none_is_an_error(server, wire, send):
    server.script = [[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b""]]
    with pytest.raises(HTTPError):
        send(wire)


def test_nobody_smuggles_a_header_in(wire, send, warm):
    warm(ANSWERS["nothing"][0])
    with pytest.raises(ValueError, match="line break"):
        send(wire, Accept="a\r\nX: y")


def test_silence_is_an_error_in_time(wire, send, warm):
    warm([b"HTTP/1.1 200 OK\r\n"], [])
    with pytest.raises(ReadTimeoutError):
        send(wire, read=0.05)
