"""Where the process answers whoever asks how it is: /livez, /readyz and /metrics.

`lbctl run` and `lbctl speaker` import it if they listen at all. What a page says is theirs.
"""

import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lbctl import __version__
from lbctl.errors import SettingsError

Probe = Callable[[], Mapping[str, bool]]
"""Named checks and whether each passes."""


class Probes:
    """A small HTTP server: /livez and /healthz, /readyz (with ?verbose), /metrics.

    Liveness never depends on a cloud: a restart mends no cloud.
    """

    def __init__(self, listen: str, *, live: Probe, ready: Probe, metrics: Callable[[], bytes]) -> None:
        pages = {"/livez": live, "/healthz": live, "/readyz": ready}
        self._server = _server(listen, _handler(pages, metrics))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="probes", daemon=True)
        self.port = int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _SixServer(_Server):
    """IPv6, and IPv4 where the address is `::`."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def _server(listen: str, handler: type[BaseHTTPRequestHandler]) -> _Server:
    """Bound to HOST:PORT; without a host, to every address of the machine."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]") or ("::" if socket.has_dualstack_ipv6() else "0.0.0.0")
    try:
        return (_SixServer if ":" in host else _Server)((host, int(port)), handler)
    except OSError as error:
        message = f"nothing can listen on {listen} ({error.strerror}): give another --listen, or an empty one for none"
        raise SettingsError(message) from error


def _handler(pages: Mapping[str, Probe], metrics: Callable[[], bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = f"lbctl/{__version__}"
        timeout = 10

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/metrics":
                self._answer(200, metrics(), "text/plain; version=0.0.4; charset=utf-8")
            elif path in pages:
                whole, said = _told(pages[path](), verbose="verbose" in query)
                self._answer(200 if whole else 503, said.encode(), "text/plain; charset=utf-8")
            else:
                self._answer(404, b"/livez /readyz /healthz /metrics", "text/plain; charset=utf-8")

        def _answer(self, code: int, body: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Probes come every few seconds: they are not news."""

    return Handler


def _told(checks: Mapping[str, bool], *, verbose: bool) -> tuple[bool, str]:
    """(do all pass, what the page says), as kube-apiserver says it."""
    whole = all(checks.values())
    rows = [f"[+]{name} ok" if passes else f"[-]{name} failed" for name, passes in checks.items()]
    return whole, "\n".join([*(rows if verbose or not whole else ()), "ok" if whole else "failed"]) + "\n"
