"""A scripted API server: it answers each request with the next line of its script, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from lbctl.kube.client import Client

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do(self) -> None:
        split = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = {
            "method": self.command,
            "path": split.path,
            "params": dict(parse_qsl(split.query, keep_blank_values=True)),
            "headers": dict(self.headers),
            "body": json.loads(body) if body else None,
        }
        script: Script = self.server.script  # type: ignore[attr-defined]
        script.next(asked)(self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815


class Script:
    """`plan` answers in order; what comes after hangs until the test ends."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._changed = threading.Condition()
        self._answers: list[Answer] = []
        self.asked: list[dict[str, Any]] = []
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{server.server_port}"

    def plan(self, *answers: Answer) -> None:
        self._answers += answers

    def next(self, asked: dict[str, Any]) -> Answer:
        with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()
            return self._answers.pop(0) if self._answers else self.watch()

    def heard(self, count: int, timeout: float = 10.0) -> list[dict[str, Any]]:
        """Wait until so many requests have come in."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= count, timeout), self.asked
            return list(self.asked)

    def json(self, body: object, status: int = 200, **headers: str) -> Answer:
        def answer(handler: Handler) -> None:
            data = json.dumps(body).encode()
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(data)

        return answer

    def error(self, status: int, reason: str = "", message: str = "no", **headers: str) -> Answer:
        return self.json({"kind": "Status", "code": status, "reason": reason, "message": message}, status, **headers)

    def watch(self, *events: dict[str, Any], hold: bool = True) -> Answer:
        """A watch that sends these and then stays silent until the test ends (or ends at once)."""

        def answer(handler: Handler) -> None:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for event in events:
                line = json.dumps(event).encode() + b"\n"
                handler.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            handler.wfile.flush()
            if hold:
                self.over.wait(30)
            else:
                handler.wfile.write(b"0\r\n\r\n")

        return answer

    def half(self, status: int = 200) -> Answer:
        """The connection breaks within the answer."""

        def answer(handler: Handler) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", "100")
            handler.end_headers()
            handler.wfile.write(b"{")
            handler.close_connection = True

        return answer

    def hang_up(self) -> Answer:
        """The connection breaks without an answer."""
        return lambda handler: setattr(handler, "close_connection", True)


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


@pytest.fixture
def api() -> Iterator[Script]:
    server = Quiet(("127.0.0.1", 0), Handler)
    script = server.script = Script(server)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield script
    script.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def client(api: Script, tmp_path) -> Iterator[Client]:
    made = Client.from_config(str(_kubeconfig(tmp_path, api.url)), component="test", timeout=5.0)
    yield made
    made.close()


@pytest.fixture
def kubeconfig() -> Callable[..., Path]:
    """`kubeconfig(folder, url, user={…})` writes one."""
    return _kubeconfig


def _kubeconfig(folder: Path, url: str, user: dict[str, Any] | None = None) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": url}}],
                "users": [{"name": "test", "user": user or {"token": "made-up"}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            }
        )
    )
    return path


@pytest.fixture
def moment() -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
