"""Many questions over many connections from one thread: whose answer comes when, and what breaks for whom."""

import socket
import ssl
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from itertools import repeat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from urllib3 import PoolManager, ProxyManager
from urllib3.exceptions import HTTPError, NewConnectionError, ReadTimeoutError, SSLError

from lbctl.kube.wire import Answer, Question, Wire

WAIT = 10.0


def said(text):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text.encode())


class Server:
    """A thread for each connection. `answer` gives the bytes for a path, as late as it likes; b"" hangs up."""

    def __init__(self, answer=said, trust=None):
        self.answer, self._trust = answer, trust
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.asked, self._ends, self.flying, self.most = [], [], 0, 0
        self.left = threading.Semaphore(0)
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._ends.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    @property
    def connections(self):
        return len(self._ends)

    def hang_up(self):
        """On everybody, without a word."""
        for end in self._ends:
            end.shutdown(socket.SHUT_RDWR)

    def _talk(self, connection):
        with suppress(OSError):
            if self._trust is not None:
                connection = self._trust.wrap_socket(connection, server_side=True)
            with closing(connection):
                while (request := connection.recv(65536)) and (answer := self._answer(request)):
                    connection.sendall(answer)
        self.left.release()

    def _answer(self, request):
        with self._lock:
            path = request.partition(b" ")[2].partition(b" ")[0].decode()
            self.asked.append(path)
            self.flying += 1
            self.most = max(self.most, self.flying)
        answer = self.answer(path)
        with self._lock:
            self.flying -= 1
        return answer

    def close(self):
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def wire(server):
    made = Wire(PoolManager(maxsize=8), f"http://127.0.0.1:{server.port}")
    yield made
    made.close()


@pytest.fixture
def gate():
    """Something to wait for, that comes at the end of the test at the latest."""
    made = threading.Event()
    yield made
    made.set()


def ask(path, **headers):
    return Question("PATCH", path, b"{}", headers)


def ask_all(wire, questions, at_once=8, read=WAIT):
    return wire.send_all(iter(questions), at_once, WAIT, read)


def many(count):
    return [ask(f"/{number}") for number in range(count)]


def ok(count):
    return {number: Answer(200, b"/%d" % number) for number in range(count)}


def held(server, gate, *paths):
    """These paths are answered when the gate opens."""

    def answer(path):
        assert path not in paths or gate.wait(WAIT)
        return said(path)

    server.answer = answer


def test_everybody_gets_the_answer_to_the_own_question(wire):
    assert dict(ask_all(wire, many(200))) == ok(200)


def test_answers_come_as_they_come_and_not_in_order(server, wire, gate):
    held(server, gate, "/0")
    answers = ask_all(wire, many(3))
    assert {next(answers)[0], next(answers)[0]} == {1, 2}
    gate.set()
    assert [number for number, _ in answers] == [0]


def test_one_that_is_never_answered_holds_up_nobody_and_ends_in_time(server, wire, gate):
    held(server, gate, "/3")
    *others, last = ask_all(wire, many(50), read=0.3)
    assert dict(others) == {number: answer for number, answer in ok(50).items() if number != 3}
    assert last[0] == 3
    assert isinstance(last[1], ReadTimeoutError)


def test_an_answer_that_never_ends_is_none(server, wire, gate):
    server.answer = lambda path: said(path) if path == "/1" else said(path)[:-1]
    answers = dict(ask_all(wire, many(2), read=0.2))
    assert isinstance(answers[0], ReadTimeoutError)
    assert answers[1] == Answer(200, b"/1")


def test_so_many_are_on_their_way_and_no_more(server, wire):
    server.answer = lambda path: time.sleep(0.002) or said(path)
    assert dict(ask_all(wire, many(100), at_once=4)) == ok(100)
    assert (server.most, server.connections) == (4, 4)


def test_no_connection_is_opened_where_one_is_free(server, wire):
    answers = {}

    def one_after_the_other():
        for number, question in enumerate(many(20)):
            yield question
            while number not in answers:
                yield None

    answers.update(ask_all(wire, one_after_the_other()))
    assert (answers, server.connections) == (ok(20), 1)


def test_connections_go_back_to_the_pool(server, wire):
    together = threading.Barrier(8)
    server.answer = lambda path: together.wait(WAIT) is None or said(path)
    assert dict(ask_all(wire, many(16))) == ok(16)
    assert dict(ask_all(wire, many(8))) == ok(8)
    server.answer = said
    assert wire.send("GET", "/one", None, {}, WAIT, WAIT).data == b"/one"
    assert server.connections == 8


def test_a_server_that_hangs_up_between_answers_costs_a_connection_and_no_question(server, wire):
    answers = ask_all(wire, many(3), at_once=1)
    first = next(answers)
    server.hang_up()
    assert dict([first, *answers]) == ok(3)
    assert server.connections == 2


def test_nor_does_one_that_hangs_up_while_the_next_question_is_thought_of(server, wire):
    together = threading.Barrier(8)
    server.answer = lambda path: together.wait(WAIT) is None or said(path)
    answers = {}

    def questions():
        yield from many(8)
        while len(answers) < 8:
            yield None
        server.answer = said
        yield ask("/8")
        server.hang_up()
        time.sleep(0.1)
        yield ask("/9")
        yield ask("/10")

    answers.update(ask_all(wire, questions(), at_once=8))
    answers.pop(8)  # It may have been on its way.
    assert answers == {number: ok(11)[number] for number in (*range(8), 9, 10)}


def test_a_question_that_meets_a_hang_up_is_not_asked_again(server, wire):
    server.answer = lambda path: b"" if path == "/1" else said(path)
    answers = dict(ask_all(wire, many(5)))
    assert isinstance(answers.pop(1), HTTPError)
    assert len(answers) == 4
    assert sorted(server.asked) == [f"/{number}" for number in range(5)]


def test_where_nobody_listens_each_question_has_its_error_and_that_is_all(server, wire):
    server.close()
    questions = iter(many(50))
    answers = dict(ask_all(wire, questions))
    assert len(answers) == 50
    assert {type(answer) for answer in answers.values()} == {NewConnectionError}
    assert next(questions, None) is None


def test_answers_are_heard_while_no_connection_can_be_opened(server, wire, gate):
    held(server, gate, "/0")

    def questions():
        yield ask("/0")
        yield None
        server.close()
        gate.set()
        yield from many(50)[1:]

    order = [number for number, _ in ask_all(wire, questions())]
    assert sorted(order) == list(range(50))
    assert order.index(0) < 10


def test_a_question_that_cannot_be_sent_ends_alone(wire):
    answers = dict(ask_all(wire, [ask("/0", Accept="a\r\nX: y"), ask("/1"), ask("/2")]))
    assert isinstance(answers[0], ValueError)
    assert [answers[1].data, answers[2].data] == [b"/1", b"/2"]


def test_a_server_that_does_not_read_on_is_too_late_as_well(server, wire, gate):
    held(server, gate, "/0")
    ((_, answer),) = ask_all(wire, [ask("/0")._replace(body=bytes(30_000_000))], read=0.2)
    assert isinstance(answer, ReadTimeoutError)


def test_none_is_asked_again_while_something_is_on_its_way(server, wire, gate):
    held(server, gate, "/slow")

    def questions():
        yield ask("/slow")
        yield from repeat(None, 3)
        yield ask("/late")
        yield from repeat(None)

    answers = ask_all(wire, questions())
    assert next(answers) == (1, Answer(200, b"/late"))
    gate.set()
    assert list(answers) == [(0, Answer(200, b"/slow"))]


def test_whoever_goes_half_way_leaves_nothing_behind(server, wire, gate):
    full = threading.Event()

    def answer(path):
        if path == "/7":
            full.set()
        (full if path == "/0" else gate).wait(WAIT)
        return said(path)

    server.answer = answer
    answers = ask_all(wire, many(8))
    assert next(answers) == (0, Answer(200, b"/0"))
    answers.close()
    gate.set()
    assert all(server.left.acquire(timeout=WAIT) for _ in range(7)), "who is not heard any more must be hung up on"
    assert dict(ask_all(wire, many(8))) == ok(8)


def test_a_fault_of_who_asks_ends_it_and_what_is_on_its_way(server, wire, gate):
    held(server, gate, "/0")

    def questions():
        yield ask("/0")
        raise LookupError("no credentials")

    with pytest.raises(LookupError, match="no credentials"):
        list(ask_all(wire, questions()))
    gate.set()
    assert server.left.acquire(timeout=WAIT)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Of 127.0.0.1, signed by itself, in one file with its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now, hosts = datetime.now(UTC), x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    signed = made.add_extension(hosts, critical=False).sign(key, SHA256())
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(secret + signed.public_bytes(Encoding.PEM))
    return file


@pytest.fixture
def secure(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    made = Server(trust=context)
    yield made
    made.close()


def secure_wire(secure, certificate=None):
    return Wire(PoolManager(maxsize=8, ca_certs=certificate and str(certificate)), f"https://127.0.0.1:{secure.port}")


def test_all_of_it_works_over_tls(secure, certificate):
    wire = secure_wire(secure, certificate)
    secure.answer = lambda path: said(path * 20_000)
    assert dict(ask_all(wire, many(60))) == {n: Answer(200, b"/%d" % n * 20_000) for n in range(60)}
    assert secure.connections <= 8
    connections = secure.connections
    assert dict(ask_all(wire, many(1)))[0].status == 200
    assert secure.connections == connections


def test_who_is_not_trusted_is_not_asked(secure):
    answers = dict(ask_all(secure_wire(secure), many(3)))
    assert [type(answers[number]) for number in range(3)] == [SSLError] * 3
    assert secure.asked == []


def test_behind_a_proxy_one_goes_after_the_other(server):
    wire = Wire(ProxyManager(f"http://127.0.0.1:{server.port}"), "http://kubernetes.example:8080")
    server.answer = lambda path: b"" if path.endswith("/1") else said("hi")
    answers = dict(ask_all(wire, [*many(3), None, ask("/never")]))
    assert server.asked == [f"http://kubernetes.example:8080/{number}" for number in range(3)]
    assert isinstance(answers.pop(1), HTTPError)
    assert answers == {0: Answer(200, b"hi"), 2: Answer(200, b"hi")}


def test_where_no_more_connections_can_be_had_those_that_are_open_carry_on(server):
    server.answer, told = lambda path: time.sleep(0.002) or said(path), []

    def questions():
        yield from many(4)
        while len(told) < 4:
            yield None
        server.close()
        yield from many(60)

    wire = Wire(PoolManager(maxsize=32), f"http://127.0.0.1:{server.port}")
    for _, answer in wire.send_all(questions(), 32, WAIT, WAIT):
        told.append(answer)
    assert len(told) == 64
    assert sum(isinstance(answer, NewConnectionError) for answer in told) <= 1


@pytest.mark.parametrize("field", ["close", "Close", "close, te", "te,close"])
def test_a_connection_that_the_server_will_close_is_not_asked_again(server, wire, field):
    server.answer = lambda path: said(path).replace(b"\r\n", b"\r\nConnection: %s\r\n" % field.encode(), 1)
    assert dict(ask_all(wire, many(10), at_once=1)) == ok(10)
    assert server.connections == 10


def test_a_connection_on_which_more_came_than_was_asked_for_is_not_asked_again(server, wire):
    server.answer = lambda path: said(path) + b"surplus"
    assert dict(ask_all(wire, many(10), at_once=1)) == ok(10)
    assert server.connections == 10


def test_an_error_in_a_questions_place_is_its_answer_alone(wire):
    broken = ValueError("not to be said")
    assert dict(ask_all(wire, [ask("/0"), broken, ask("/2")])) == {0: ok(1)[0], 1: broken, 2: ok(3)[2]}
