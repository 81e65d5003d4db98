"""The one place that speaks HTTP to a Kubernetes API server, and the one that imports `kubernetes`.

The official client supplies configuration, credentials (in-cluster, exec plugins, token rotation) and transport; bytes
come back as they are, and `objects` decodes them. Imported lazily: `lbctl --help` must not pay for it; and without its
models, which nobody here needs (`official`). A `Client` works from many threads at once. Every request has a timeout;
nothing is retried here, because the callers know better.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from lbctl import __version__
from lbctl.errors import CredentialsError, LbctlError, Refused, Retry, SettingsError, Unavailable
from lbctl.kube.objects import UNREADABLE, Status
from lbctl.kube.postponed import later, postponed
from lbctl.provider import Call, ignore

if TYPE_CHECKING:
    from lbctl.kube.wire import Answer, Question, Wire

JSON = "application/json"
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"

_CONNECT = 10.0
_HEADERS = 1.0
"""Seconds for which a stream of writes shows the same credentials before it asks for them again."""

WAYS = (
    "give --kubeconfig FILE or set KUBECONFIG, put one at ~/.kube/config, "
    "run inside a cluster, or start `lbctl sandbox`"
)

WAY = "is the cluster up? Check --kubeconfig and --context"


class Unreachable(Unavailable):
    """No request could be made: nobody listens there, the host has no such name, no trust, or no token to show.

    Who runs for long asks again; a command that somebody waits for ends with it.
    """


class Reply(Protocol):
    """What an answer has, whole or as a stream."""

    @property
    def status(self) -> int: ...


R = TypeVar("R", bound=Reply)


class ApiError(LbctlError):
    """The API server answered with an error: `status` is HTTP's, `reason` Kubernetes' own word for it.

    `causes` are more words of Kubernetes', as `NamespaceTerminating`.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        retry_after: float | None = None,
        causes: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(message, reason=reason)
        self.status, self.retry_after, self.causes = status, retry_after, causes


class NotFound(ApiError):
    """404: there is no such object (or no such resource)."""


class Conflict(ApiError):
    """409: somebody else wrote it meanwhile, or it exists already."""


class Gone(ApiError):
    """410: the resourceVersion, or the continue token, is too old."""


class Forbidden(ApiError):
    """403: these credentials may not do that, or the object is being deleted."""


class Unauthorized(ApiError):
    """401: the API server does not know these credentials (any more)."""


class Invalid(ApiError):
    """422: the API server understood, and says that it must not be so."""


class Throttled(ApiError):
    """429: ask again after `retry_after` seconds."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone, 422: Invalid, 429: Throttled,
}  # fmt: skip


def error(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """An answer that is not 2xx, as the error that it means."""
    said = _status_of(body)
    kind = _BY_STATUS.get(status, ApiError)
    message = said.message or f"the API server answered {status}"
    causes = frozenset(cause.reason for cause in said.details.causes or ())
    return kind(status, said.reason or f"HTTP {status}", message, _after(retry_after), causes)


def _status_of(body: bytes) -> Status:
    try:
        return msgspec.json.decode(body, type=Status)
    except UNREADABLE:
        return Status(message=body[:200].decode("utf-8", "replace").strip())


def _after(header: str | None) -> float | None:
    return float(header) if header and header.isdecimal() else None


def as_retry(error: LbctlError) -> Exception:
    """What a failed write means for a lane: most of it is a matter of time."""
    if isinstance(error, Conflict):
        return Retry(0.2, f"somebody else wrote at the same time: {error.message}", reason="conflict")
    if isinstance(error, Throttled):
        return Retry(error.retry_after or 1.0, "the API server is busy", reason="throttled")
    if isinstance(error, Unauthorized):
        return CredentialsError(f"the API server rejects our credentials: {error.message}; renew them")
    if isinstance(error, Forbidden):
        return Refused(f"{error.message}; grant it: `lbctl doctor` names the rule", reason="permission")
    if isinstance(error, ApiError) and error.status >= 500:
        return Unavailable(f"the API server answered {error.status}: {error.message}", reason="kubernetes-unavailable")
    return error


class Patch(NamedTuple):
    """A write of part of an object."""

    path: str
    body: object
    content_type: str = STRATEGIC


class Stream:
    """The lines of a watch as they come. `close` from any thread ends the loop over it."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._lock = threading.Lock()
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        """Raises `Unavailable` when the connection breaks or is silent for too long; ends when the server ends it."""
        rest = b""
        try:
            for chunk in self._chunks():
                *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else ((rest + chunk),)
                for line in lines:
                    if line.strip():
                        yield line
        finally:
            with self._lock:
                self._closed = True
                self._response.close()

    def _chunks(self) -> Iterator[bytes]:
        from urllib3.exceptions import HTTPError

        try:
            yield from self._response.stream(65536)
        except (HTTPError, OSError, ValueError, AttributeError) as broken:
            # Closed by another thread: what the half-closed response raises then is of no interest.
            if not self._closed:
                raise Unavailable(f"the watch broke off: {_plain(broken)}", reason="kubernetes-unavailable") from broken

    def close(self) -> None:
        """Safe to repeat."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._shut()

    def _shut(self) -> None:
        try:
            self._response.shutdown()
        except (OSError, ValueError, RuntimeError):
            # The answer is complete: its connection is back in the pool already.
            return


class Client:
    """One API server, with the credentials to speak to it."""

    def __init__(
        self,
        api: Any,
        *,
        component: str = "lbctl",
        timeout: float = 30.0,
        observe: Callable[[Call], None] = ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._timeout, self._observe, self._clock = api, timeout, observe, clock
        self._auth = threading.Lock()
        self._writes = threading.Condition()
        self._writing = 0
        self._agent = f"lbctl/{__version__} ({component})"
        self.server: str = api.configuration.host
        self.place = _place(self.server)
        self._wire = _wire(api.configuration)

    @classmethod
    def from_config(
        cls,
        kubeconfig: str | None = None,
        context: str | None = None,
        *,
        component: str = "lbctl",
        connections: int = 64,
        timeout: float = 30.0,
        observe: Callable[[Call], None] = ignore,
        environ: Mapping[str, str] = os.environ,
    ) -> "Client":
        """By --kubeconfig, KUBECONFIG, ~/.kube/config or the service account of a pod, whichever is there first.

        Raises `SettingsError`, which names these ways out, if none is.
        """
        configuration = _configuration(kubeconfig, context, environ)
        configuration.connection_pool_maxsize = connections
        return cls(official().api_client(configuration), component=component, timeout=timeout, observe=observe)

    def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """The body of a GET."""
        return self.request("GET", path, params=params)

    def request(
        self,
        method: str,
        path: str,
        body: object | None = None,
        content_type: str = JSON,
        params: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """The body of the answer. Raises `ApiError` for every answer but 2xx, `Unavailable` for none."""
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        seconds = timeout or self._timeout
        headers = self._headers(content_type if body is not None else None)

        def send() -> "Answer":
            return self._wire.send(method, _target(path, params), data, headers, min(_CONNECT, seconds), seconds)

        with self._counted(method):
            response = self._observed(method.lower(), send)
        return _good(response)

    def patch_all(self, patches: Iterator[Patch | None], at_once: int) -> Iterator[tuple[int, bytes | LbctlError]]:
        """PATCH as many objects as come, from one thread: (which, the answer's body or why there is none).

        Errors are those that `request` raises, and `Unavailable` for what cannot be sent at all. `at_once` are on their
        way at a time; answers come as they come. None says that there is none right now.
        """
        calls: dict[int, tuple[Call, float]] = {}
        with self._counted("PATCH"):
            asked = self._asked(patches, calls)
            for number, answer in self._wire.send_all(asked, at_once, min(_CONNECT, self._timeout), self._timeout):
                call, started = calls.pop(number)
                seconds = self._clock() - started
                if isinstance(answer, Exception):
                    self._observe(msgspec.structs.replace(call, code="no-answer", seconds=seconds))
                    yield number, answer if isinstance(answer, LbctlError) else self._no_answer(answer)
                    continue
                self._observe(msgspec.structs.replace(call, code=_code(answer), seconds=seconds))
                try:
                    yield number, _good(answer)
                except ApiError as refused:
                    yield number, refused

    def _asked(
        self, patches: Iterator[Patch | None], calls: dict[int, tuple[Call, float]]
    ) -> "Iterator[Question | LbctlError | None]":
        from lbctl.kube.wire import Question

        headers, due, number = self._headers(None), self._clock() + _HEADERS, 0
        for patch in patches:
            if patch is None:
                yield None
                continue
            if self._clock() >= due:
                headers, due = self._renewed(headers), self._clock() + _HEADERS
            call = Call("kubernetes", "patch")
            self._observe(call)
            calls[number] = call, self._clock()
            number += 1
            said = {**headers, "Content-Type": patch.content_type}
            try:
                body = msgspec.json.encode(patch.body)
            except (TypeError, ValueError) as unsayable:
                yield LbctlError(f"this cannot be written to {patch.path}: {unsayable}", reason="plugin-fault")
                continue
            yield Question("PATCH", patch.path, body, said)

    def _renewed(self, headers: dict[str, str]) -> dict[str, str]:
        """Where the credentials cannot be read just now, those from a moment ago may still do."""
        try:
            return self._headers(None)
        except Unreachable:
            return headers

    @contextmanager
    def _counted(self, method: str) -> Iterator[None]:
        """Count a write while it is on its way."""
        if method == "GET":
            yield
            return
        with self._writes:
            self._writing += 1
        try:
            yield
        finally:
            with self._writes:
                self._writing -= 1
                if not self._writing:
                    self._writes.notify_all()

    def calm(self, timeout: float) -> bool:
        """Wait until no write is on its way, but at most so many seconds: for what is to come after everything else."""
        with self._writes:
            return self._writes.wait_for(lambda: not self._writing, timeout)

    def stream(self, path: str, params: Mapping[str, str], timeout: float) -> Stream:
        """Open a watch. `timeout` is for how many seconds it may be silent. Raises as `request` does."""
        from urllib3 import Timeout

        url, headers = f"{self.server}{_target(path, params)}", self._headers(None)
        how = {"preload_content": False, "retries": False, "redirect": False}
        limits = Timeout(connect=_CONNECT, read=timeout)

        def send() -> Any:
            return self._api.rest_client.pool_manager.request("GET", url, headers=headers, timeout=limits, **how)

        response = self._observed("watch", send)
        if response.status != 200:
            raise error(response.status, _beginning(response), response.headers.get("Retry-After"))
        return Stream(response)

    def close(self) -> None:
        """Close idle connections."""
        self._api.rest_client.pool_manager.clear()
        self._wire.close()

    def _observed(self, operation: str, send: Callable[[], R]) -> R:
        """The answer, told of before and after. Raises `Unavailable` for none."""
        from urllib3.exceptions import HTTPError

        call = Call("kubernetes", operation)
        self._observe(call)
        started = self._clock()
        try:
            response = send()
        except (HTTPError, OSError) as broken:
            self._observe(msgspec.structs.replace(call, code="no-answer", seconds=self._clock() - started))
            raise self._no_answer(broken) from broken
        self._observe(msgspec.structs.replace(call, code=_code(response), seconds=self._clock() - started))
        return response

    def _no_answer(self, broken: Exception) -> Unavailable:
        from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, SSLError

        message = f"no answer from the API server at {self.place}: {_plain(broken)}"
        if isinstance(getattr(broken, "original_error", broken), NewConnectionError | ConnectTimeoutError | SSLError):
            return Unreachable(f"{message}: {WAY}", reason="kubernetes-unavailable")
        return Unavailable(message, reason="kubernetes-unavailable")

    def _headers(self, content_type: str | None) -> dict[str, str]:
        headers = {"Accept": JSON, "User-Agent": self._agent}
        if content_type:
            headers["Content-Type"] = content_type
        # Runs exec plugins and re-reads rotated tokens when they are due.
        with self._auth:
            try:
                self._api.update_params_for_auth(headers, [], ["BearerToken"])
            except (OSError, official().config.ConfigException) as broken:
                # The token's file is away or empty, as between two rotations: the next call asks again.
                message = f"the credentials for {self.place} cannot be read ({broken}): see that the token is there"
                raise Unreachable(message, reason="kubernetes-unavailable") from broken
        return headers


def _code(reply: Reply) -> str:
    return "ok" if reply.status < 300 else str(reply.status)


def _good(answer: "Answer") -> bytes:
    """Its body. Raises `ApiError` for every answer but 2xx."""
    if not 200 <= answer.status < 300:
        raise error(answer.status, answer.data, answer.retry_after)
    return answer.data


def _place(server: str) -> str:
    """The server as it may be shown: its address without what may be a secret in it (a path, a password)."""
    parts = urlsplit(server)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], path="", query="", fragment="").geturl()


def _target(path: str, params: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(params)}" if params else path


def _beginning(response: Any) -> bytes:
    """What a refused watch says. The status alone says enough where the connection breaks within the words."""
    from urllib3.exceptions import HTTPError

    try:
        said: bytes = response.read(65536)
    except (HTTPError, OSError):
        return b""
    finally:
        response.close()
    return said


def _plain(broken: Exception) -> str:
    """What happened, without object addresses: conditions and Events must say the same every time."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    cause = getattr(broken, "original_error", broken)
    if isinstance(cause, NewConnectionError) and isinstance(cause.__cause__, OSError):
        return (cause.__cause__.strerror or type(cause).__name__).lower()
    if isinstance(cause, ConnectTimeoutError):
        return "no connection within the time for it"
    trusted = getattr(cause.args[0] if cause.args else None, "verify_message", "")
    return trusted or type(getattr(cause, "reason", None) or cause).__name__


class Official(NamedTuple):
    """What we use of the official package."""

    api_client: type[Any]
    configuration: type[Any]
    config: Any
    rest: Any


_POSTPONED = (
    "kubernetes", "kubernetes.client", "kubernetes.client.models", "oauthlib", "oauthlib.oauth2", "yaml",
)  # fmt: skip
"""YAML is for kubeconfigs: a pod has none."""


@cache
def official() -> Official:
    """Imported without the models and what else nobody needs; as it is, should a release be built in another way."""
    try:
        with postponed(*_POSTPONED):
            return _import_official(later)
    except ImportError:
        return _import_official(lambda *_, **__: nullcontext())


def _import_official(lazily: Callable[..., AbstractContextManager[None]]) -> Official:
    # Each finds what it wants of the packages above it (`rest`, then the two classes): nothing else makes them run.
    with lazily("requests.utils", "should_bypass_proxies"):
        import kubernetes.client.rest
    with lazily("multiprocessing", cpu_count=os.cpu_count):
        from kubernetes.client.configuration import Configuration
    with lazily("multiprocessing.pool", "ThreadPool"), lazily("dateutil.parser", "parse"):
        from kubernetes.client.api_client import ApiClient

    vars(sys.modules["kubernetes.client"]).update(ApiClient=ApiClient, Configuration=Configuration)
    with lazily("requests_oauthlib", "OAuth2Session"):
        import kubernetes.config

    return Official(ApiClient, Configuration, kubernetes.config, kubernetes.client.rest)


def _wire(configuration: Any) -> "Wire":
    """A second set of connections, of the same settings, for everything but watches."""
    from lbctl.kube.wire import Wire

    return Wire(official().rest.RESTClientObject(configuration).pool_manager, configuration.host)


def _configuration(kubeconfig: str | None, context: str | None, environ: Mapping[str, str]) -> Any:
    # `Configuration()` would copy a process-wide default that somebody else may have set.
    configuration = type.__call__(official().configuration)
    path = os.path.expanduser(kubeconfig or environ.get("KUBECONFIG") or "~/.kube/config")
    try:
        _load(path, named=bool(kubeconfig), context=context, configuration=configuration, environ=environ)
    except SettingsError:
        raise
    except Exception as broken:
        raise SettingsError(f"kubeconfig {path} cannot be used: {broken}; {WAYS}") from broken
    return configuration


def _load(path: str, *, named: bool, context: str | None, configuration: Any, environ: Mapping[str, str]) -> None:
    config = official().config
    exists = [part for part in path.split(os.pathsep) if part and os.path.exists(part)]
    if exists:
        config.load_kube_config(path, context=context, client_configuration=configuration, persist_config=False)
    elif named or context:
        raise SettingsError(f"there is no kubeconfig at {path}: {WAYS}")
    elif "KUBERNETES_SERVICE_HOST" in environ:
        config.load_incluster_config(client_configuration=configuration)
    else:
        raise SettingsError(f"no Kubernetes cluster is configured ({path} does not exist): {WAYS}")
