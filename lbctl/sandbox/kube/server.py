"""HTTP: requests become calls, answers become bytes, watches become streams. The only module that imports aiohttp.

One asyncio loop runs it. Only loopback is bound, only loopback names are accepted as Host (a web page that rebinds
a name cannot drive it), and everything but health and version needs the token: as a bearer token, or as the first part
of the path, because kubectl does not send bearer tokens without TLS.
"""

import asyncio
import hmac
import random
import socket
from collections.abc import Callable, Mapping, MutableSequence
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp import web

from lbctl.sandbox.kube import discovery, patch, status, tables
from lbctl.sandbox.kube.faults import Fault, Faults, Recorded
from lbctl.sandbox.kube.kinds import Kind
from lbctl.sandbox.kube.options import number
from lbctl.sandbox.kube.status import Refusal
from lbctl.sandbox.kube.store import Entry
from lbctl.sandbox.kube.verbs import Api, Call, Many, One, Said
from lbctl.sandbox.kube.watch import Watch
from lbctl.sandbox.kube.wire import (
    JSON,
    Lines,
    as_refusal,
    decoded,
    form_of,
    options,
    quoted,
    read_faults,
    target,
    verb_of,
)

_HEALTH = ("/livez", "/readyz", "/healthz")
_OPEN = (*_HEALTH, "/version")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_MAX_BODY = 3 * 1024 * 1024


class Server:
    """The listener and everything behind it."""

    def __init__(
        self,
        api: Api,
        faults: Faults,
        *,
        token: str,
        requests: MutableSequence[Recorded],
        now: Callable[[], float],
        bookmark_seconds: float,
    ) -> None:
        self._api, self._faults, self._token = api, faults, token
        self._requests, self._now, self._bookmark = requests, now, bookmark_seconds
        self._watches: dict[Watch, Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._healed = asyncio.Event()
        self._place: socket.socket | None = None
        self._site: web.SockSite | None = None
        self._reopen: asyncio.TimerHandle | None = None
        self._server = web.Server(self._serve, request_factory=_request, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(self._server)

    # The listener.

    async def start(self, port: int) -> int:
        """Listen on loopback; the port, chosen if it is 0. Raises `OSError` when the port is taken."""
        _claim(port)
        # Bound but not listening, it keeps the port ours through an outage: refused to clients, not free for others.
        self._place = _bind(port)
        await self._runner.setup()
        await self._listen()
        chosen: int = self._place.getsockname()[1]
        return chosen

    async def _listen(self) -> None:
        if self._site is None and self._place is not None:
            self._site = web.SockSite(self._runner, _bind(self._place.getsockname()[1]), backlog=1024)
            await self._site.start()

    async def _refuse(self) -> None:
        if self._site is not None:
            site, self._site = self._site, None
            await site.stop()
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def stop(self) -> None:
        self._healed.set()
        for watch in tuple(self._watches):
            watch.end()
        if self._reopen:
            self._reopen.cancel()
        await self._refuse()
        await self._runner.cleanup()
        if self._place is not None:
            self._place.close()

    # Faults that act at once.

    async def act(self, fault: Fault | None) -> None:
        """A fault was injected, or (None) all were cleared."""
        if fault is None:
            self._healed.set()
            await self._listen()
        elif fault.effect in ("drop", "compact"):
            self._end_watches(fault)
        elif fault.effect == "silence":
            self._healed.clear()
        elif fault.effect == "outage":
            await self._refuse()
            if fault.seconds is not None:
                self._reopen = asyncio.get_running_loop().call_later(fault.seconds, self._spawn_listen)

    def _spawn_listen(self) -> None:
        task = asyncio.get_running_loop().create_task(self._listen())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end_watches(self, fault: Fault) -> None:
        if fault.effect == "compact":
            self._api.store.compact()
        for watch, call in tuple(self._watches.items()):
            if fault.effect == "compact":
                watch.fail(status.expired("The resourceVersion for the provided watch is too old."))
            elif fault.matches("watch", call.resource, call.namespace):
                watch.end()

    # One request.

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except Refusal as refusal:
            return _refused(refusal)
        except web.HTTPRequestEntityTooLarge:
            return _refused(Refusal(413, "RequestEntityTooLarge", f"Request entity too large: limit is {_MAX_BODY}"))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        base, path = self._admit(request)
        if path in _HEALTH:
            return web.Response(text="ok")
        if path == "/sandbox/faults":
            return await self._administer(request)
        call = self._route(request, path)
        self._record(request, path, call)
        if call is None:
            return self._discover(request, base, path)
        fault = await self._suffer(call)
        if call.verb == "watch":
            return await self._watch(request, call, fault)
        call = await _with_body(request, call)
        response = self._respond(request, call)
        if fault == "lose" and request.transport is not None:
            request.transport.abort()
        return response

    def _admit(self, request: web.BaseRequest) -> tuple[str, str]:
        """The token's part of the path and the rest, if this request may come in."""
        host = request.host if request.host.endswith("]") else request.host.rsplit(":", 1)[0]
        if host.lower() not in _LOOPBACK:
            raise Refusal(403, "Forbidden", f"the sandbox answers to {', '.join(_LOOPBACK)} only, not to {host!r}")
        first, _, rest = request.path[1:].partition("/")
        if self._is_token(first):
            return f"/{first}", f"/{rest}"
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if request.path not in _OPEN and not (scheme.lower() == "bearer" and self._is_token(given)):
            raise Refusal(401, "Unauthorized", "Unauthorized")
        return "", request.path

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    def _record(self, request: web.BaseRequest, path: str, call: Call | None) -> None:
        verb, resource = (call.verb, call.resource) if call else (request.method.lower(), "")
        agent = request.headers.get("User-Agent", "")
        self._requests.append(Recorded(request.method, path, request.query_string, agent, verb, resource))

    def _discover(self, request: web.BaseRequest, base: str, path: str) -> web.Response:
        found = discovery.document(self._api.kinds, path, base)
        if found is None:
            raise status.no_such_path()
        if request.method != "GET":
            raise status.not_allowed()
        return _json(found)

    async def _administer(self, request: web.BaseRequest) -> web.Response:
        """GET says the active faults, PUT replaces them, POST adds, DELETE clears."""
        if request.method in ("PUT", "POST"):
            faults = read_faults(await request.read())
            if request.method == "PUT":
                self._faults.clear()
            self._faults.inject(*faults)
        elif request.method == "DELETE":
            self._faults.clear()
        elif request.method != "GET":
            raise status.not_allowed()
        return _json({"faults": self._faults.active})

    async def _suffer(self, call: Call) -> str:
        """Let the faults of this request happen; the effect of the one that shows in the answer."""
        for fault in self._faults.take(call.verb, call.resource, call.namespace):
            if fault.effect == "latency":
                await asyncio.sleep(fault.delay)
            elif fault.effect == "silence":
                await self._healed.wait()
                raise Refusal(503, "ServiceUnavailable", "the sandbox was silent on request")
            elif fault.effect == "lose" or (call.verb == "watch" and fault.effect in ("expired", "drop")):
                return fault.effect
            else:
                raise as_refusal(fault, call)
        return ""

    def _route(self, request: web.BaseRequest, path: str) -> Call | None:
        """The call that this request is; None if it is not about a resource."""
        parts = path.strip("/").split("/")
        if parts[0] not in ("api", "apis"):
            return None
        place, rest = (("", *parts[1:2]), parts[2:]) if parts[0] == "api" else (tuple(parts[1:3]), parts[3:])
        if not rest or len(place) != 2:
            return None
        namespace, plural, name, sub = target(rest)
        kind = self._api.kinds.find(place[0], place[1], plural)
        if kind is None or (sub and sub not in kind.subresources):
            raise status.no_such_path()
        query = options(request.query)
        verb = verb_of(request.method, kind, namespace, name, query)
        if sub and verb not in ("get", "update", "patch"):
            raise status.not_allowed()
        return Call(verb=verb, kind=kind, namespace=namespace, name=name, subresource=sub, query=query)

    # Answers.

    def _respond(self, request: web.BaseRequest, call: Call) -> web.Response:
        form = form_of(request.headers.get("Accept", ""))
        answer = self._api.answer(call)
        include = call.query.get("includeObject", "Metadata")
        if isinstance(answer, Said):
            return _json(answer.document, answer.code)
        if isinstance(answer, One):
            return self._one(call.kind, answer, form, include)
        return self._many(call.kind, answer, form, include)

    def _one(self, kind: Kind, answer: One, form: str, include: str) -> web.Response:
        headers = [("Warning", f'299 - "{quoted(text)}"') for text in answer.warnings]
        body = self._encode(kind, answer.entry, form, include)
        return web.Response(body=body, status=answer.code, headers=headers, content_type=JSON)

    def _encode(self, kind: Kind, entry: Entry, form: str, include: str) -> bytes:
        if form == "Table":
            meta = {"resourceVersion": entry.obj["metadata"].get("resourceVersion", "")}
            return msgspec.json.encode(tables.table(kind, [entry.obj], meta, include, self._now()))
        if form == "PartialObjectMetadata":
            return msgspec.json.encode(tables.partial(entry.obj))
        return kind.prefix + entry.rest

    def _many(self, kind: Kind, answer: Many, form: str, include: str) -> web.Response:
        if form == "Table":
            objects = (entry.obj for entry in answer.entries)
            return _json(tables.table(kind, objects, answer.meta, include, self._now()))
        if form == "PartialObjectMetadata":
            items = [tables.partial(entry.obj) for entry in answer.entries]
            said = {"kind": f"{form}List", "apiVersion": "meta.k8s.io/v1", "metadata": answer.meta, "items": items}
            return _json(said)
        # Items of built-in lists carry neither kind nor apiVersion, those of custom resources do.
        prefix = kind.prefix if kind.custom else b"{"
        head = f'{{"kind":"{kind.kind}List","apiVersion":"{kind.api_version}","metadata":'.encode()
        items_ = b",".join([prefix + entry.rest for entry in answer.entries])
        body = b"".join((head, msgspec.json.encode(answer.meta), b',"items":[', items_, b"]}"))
        return web.Response(body=body, content_type=JSON)

    # Watches.

    async def _watch(self, request: web.BaseRequest, call: Call, fault: str) -> web.StreamResponse:
        form = form_of(request.headers.get("Accept", ""))
        watch = self._api.watch(call)
        if fault == "expired":
            watch.pending.clear()
            watch.fail(status.expired("The resourceVersion for the provided watch is too old."))
        elif fault:
            watch.end()
        return await self._stream(request, call, watch, form)

    async def _stream(self, request: web.BaseRequest, call: Call, watch: Watch, form: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"})
        response.enable_chunked_encoding()
        self._watches[watch] = call
        try:
            await response.prepare(request)
            await self._tell(response, call, watch, Lines(call, form, self._now))
            await response.write_eof()
        except ConnectionError:
            # The client went away: that is how most watches end.
            return response
        finally:
            self._watches.pop(watch, None)
            watch.end()
        return response

    async def _tell(self, response: web.StreamResponse, call: Call, watch: Watch, lines: "Lines") -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        watch.wake = ready.set
        end = loop.time() + (number(call.query, "timeoutSeconds") or random.uniform(1800, 3600))
        bookmarks = call.query.get("allowWatchBookmarks") == "true"
        next_bookmark = loop.time() + self._bookmark if bookmarks else end
        while True:
            ready.clear()
            if watch.pending:
                batch = [lines.line(watch.pending.popleft()) for _ in range(min(len(watch.pending), 500))]
                await response.write(b"".join(batch))
                continue
            if watch.ended or loop.time() >= end:
                if bookmarks and not watch.ended:
                    await response.write(lines.line(watch.bookmark()))
                return
            if loop.time() >= next_bookmark:
                next_bookmark = loop.time() + self._bookmark
                watch.pending.append(watch.bookmark())
                continue
            await _wait(ready, min(end, next_bookmark) - loop.time())


async def _wait(ready: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await ready.wait()
    except TimeoutError:
        return


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_BODY)


def _claim(port: int) -> None:
    """Raises `OSError` where somebody has the port: sockets that share it, as ours do, would not be told of another."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind(("127.0.0.1", port))


def _bind(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.close()
        raise
    return bound


def _json(document: object, code: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=code, headers=headers, content_type=JSON)


def _refused(refusal: Refusal) -> web.Response:
    headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else None
    return _json(refusal.document, refusal.code, headers)


async def _with_body(request: web.BaseRequest, call: Call) -> Call:
    raw = await request.read() if call.verb not in ("get", "list") else b""
    media = request.content_type if raw else JSON
    if not raw and call.verb in ("create", "update", "patch"):
        raise status.bad_request("the request has no body")
    body = None if media == patch.APPLY_PATCH else decoded(raw, media, patching=call.verb == "patch") if raw else None
    return replace(call, body=body, media=media)
