"""How fast N pending Services get their addresses, beside the least that anybody could take: a bare loop of PATCHes.

On the real API server, whole processes: `lbctl run` starts when N Services wait, and the clock stops as soon as a
watch has seen an address on each. The bare loop PATCHes an address into the same Services' statuses 32 at a time, seen
by the same watch. Between them the least controller (`least`): a process that begins when the clock does, lists,
watches, and PATCHes addresses and conditions together, and does nothing else (`docs/adr/0014`). All in turn, several
times; medians are shown. The audit log counts what was written.

    python -m tests.bench.ipam [--provider NAME] [--runs N] [--size N]… [-- FURTHER ARGUMENTS OF lbctl run]

The provider is bare metal's own, or `benchpool`: a dictionary of addresses, so that what is measured is lbctl's core.
"""

import argparse
import asyncio
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import msgspec

from lbctl.testing import controlplane
from lbctl.testing.controlplane import ControlPlane
from tests.bench import pool
from tests.bench.goal import Measured, table

SIZES = (1_000, 10_000)
ROOT = Path(__file__).parents[2]
SOURCES = tuple(str(ROOT / folder) for folder in ("lbctl", "providers", "tests/bench"))
PROVIDERS = {"l2": ("--l2-addresses", "10.0.0.0/16"), pool.NAME: ()}
"""Who gives the addresses, and what it has to be told."""
AT_ONCE = 32
NAMESPACE = "bench"
MERGE = "application/merge-patch+json"
PATIENCE = 600.0
SETTLED = 5.0
"""Seconds without a write after which a controller has nothing more to say."""


class Trial(msgspec.Struct, frozen=True):
    """One start of the controller.

    `seconds` and `processor` (its CPU) until every Service has an address, `told` until every Event is written;
    `memory` is the peak in MiB, `writes` by verb and resource, as the audit log has them.
    """

    seconds: float
    processor: float
    memory: float
    told: float
    writes: Counter[str]


class Cluster:
    """An API server with Services in it, as the bench sees it."""

    def __init__(self, server: ControlPlane, session: aiohttp.ClientSession) -> None:
        self._server, self._session = server, session
        self.kubeconfig = server.kubeconfig
        self.size = 0

    async def send(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": kind}
        async with self._session.request(method, self._server.url + path, data=data, headers=headers) as answer:
            said = await answer.read()
            if answer.status >= 300:
                raise SystemExit(f"{method} {path}: {answer.status} {said[:300]!r}")
            return msgspec.json.decode(said)

    async def fill(self, size: int) -> None:
        """So many Services that wait for an address."""
        if not self.size:
            await self.send("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        path = f"/api/v1/namespaces/{NAMESPACE}/services"
        await self._each(lambda n: self.send("POST", path, _service(n)), range(self.size, size))
        self.size = size

    async def bare_loop(self) -> float:
        """Seconds until every Service has an address that this loop PATCHed."""
        return await self._until_all(lambda: self._statuses(_published))

    async def least(self, environment: dict[str, str]) -> float:
        """The same by the least controller, which begins now."""
        command = [sys.executable, "-m", "tests.bench.least", str(self.kubeconfig), NAMESPACE]

        async def run() -> None:
            process = await asyncio.create_subprocess_exec(*command, env=environment)
            if code := await process.wait():
                raise SystemExit(f"{' '.join(command)} ended with {code}")

        return await self._until_all(run)

    async def clear(self) -> None:
        """Back to pending, every one."""
        await self._statuses(lambda _number: None)

    async def _statuses(self, of: Callable[[int], object]) -> None:
        def patch(number: int) -> Awaitable[Any]:
            body = {"status": {"loadBalancer": of(number), "conditions": None}}
            return self.send("PATCH", f"/api/v1/namespaces/{NAMESPACE}/services/{_name(number)}/status", body, MERGE)

        await self._each(patch, range(self.size))

    async def controller(self, command: Sequence[str], environment: dict[str, str], log: Path) -> Trial:
        """Start it, wait until every Service has an address, then until all Events are written, and end it."""
        before = self._server.audit_log.stat().st_size
        running: list[subprocess.Popen[bytes]] = []

        async def start() -> None:
            with log.open("wb") as said:
                running.append(subprocess.Popen(command, env=environment, stdout=said, stderr=said))

        started = time.monotonic()
        seconds = await self._until_all(start)
        (process,) = running
        processor, _ = _used(process.pid)
        told = await self._quiet(before) - started
        _, memory = _used(process.pid)
        process.terminate()
        process.wait(30)
        return Trial(seconds, processor, memory, told, self._writes(before))

    async def _quiet(self, offset: int) -> float:
        """Wait until it writes nothing any more, but for its Lease. When that began, on the monotonic clock."""
        known, since = -1, time.monotonic()
        while time.monotonic() - since < SETTLED:
            writes = self._writes(offset)
            if (now := writes["patch services/status"] + writes["create events"]) != known:
                known, since = now, time.monotonic()
            await asyncio.sleep(1.0)
        return since

    def _writes(self, offset: int) -> Counter[str]:
        with self._server.audit_log.open("rb") as log:
            log.seek(offset)
            whole = log.read().rpartition(b"\n")[0]
        asked = (msgspec.json.decode(line, type=controlplane.Request) for line in whole.splitlines())
        ours = (request for request in asked if request.user_agent.startswith("lbctl/"))
        return Counter(_what(request) for request in ours if request.verb not in ("get", "list", "watch"))

    async def _until_all(self, begin: Callable[[], Awaitable[None]]) -> float:
        """Seconds from `begin` until the watch has seen an address on every Service."""
        path = f"{self._server.url}/api/v1/namespaces/{NAMESPACE}/services"
        listed = await self.send("GET", f"/api/v1/namespaces/{NAMESPACE}/services?limit=1")
        since = listed["metadata"]["resourceVersion"]
        async with self._session.get(f"{path}?watch=1&resourceVersion={since}") as watch:
            started = time.monotonic()
            work = asyncio.ensure_future(begin())
            async with asyncio.timeout(PATIENCE):
                await _addressed(watch, self.size)
            await work
            return time.monotonic() - started

    async def _each(self, task: Callable[[int], Awaitable[Any]], numbers: Sequence[int]) -> None:
        waiting = iter(numbers)

        async def worker() -> None:
            for number in waiting:
                await task(number)

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def _addressed(watch: aiohttp.ClientResponse, size: int) -> None:
    found: set[str] = set()
    rest = b""
    async for chunk in watch.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            event = msgspec.json.decode(line, type=_Event)
            if event.object.status.load_balancer.get("ingress"):
                found.add(event.object.metadata["name"])
        if len(found) >= size:
            return


class _Status(msgspec.Struct, rename="camel"):
    load_balancer: dict[str, Any] = {}


class _Seen(msgspec.Struct):
    metadata: dict[str, Any] = {}
    status: _Status = msgspec.field(default_factory=_Status)


class _Event(msgspec.Struct):
    object: _Seen


def _what(request: controlplane.Request) -> str:
    about = request.object_ref
    return f"{request.verb} {about.resource}{'/' if about.subresource else ''}{about.subresource}"


def _name(number: int) -> str:
    return f"s{number:05}"


def _service(number: int) -> dict[str, Any]:
    ports = [{"port": 80, "protocol": "TCP"}]
    return {
        "metadata": {"name": _name(number)},
        "spec": {"type": "LoadBalancer", "ports": ports, "selector": {"app": _name(number)}},
    }


def _published(number: int) -> object:
    return {"ingress": [{"ip": str(IPv4Address(pool.FIRST + number))}]}


def _used(pid: int) -> tuple[float, float]:
    """(seconds of CPU, peak MiB) of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), peak / 1024


@asynccontextmanager
async def _cluster() -> AsyncIterator[Cluster]:
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    with ControlPlane(node_port_range="10000-60000") as server:
        connector = aiohttp.TCPConnector(limit=AT_ONCE * 2, ssl=trust)
        headers = {"Authorization": f"Bearer {server.token}", "User-Agent": "bench"}
        forever = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=forever) as session:
            yield Cluster(server, session)


async def _trials(
    provider: str, sizes: Sequence[int], runs: int, further: Sequence[str]
) -> AsyncIterator[tuple[int, list[float], list[float], list[Trial]]]:
    with tempfile.TemporaryDirectory(prefix="lbctl-bench-") as folder:
        async with _cluster() as cluster:
            command, environment = _command(provider, cluster.kubeconfig, further), _environment(Path(folder))
            subprocess.run([sys.executable, "-m", "compileall", "-q", *SOURCES], env=environment, check=True)
            for size in sizes:
                await cluster.fill(size)
                bare: list[float] = []
                least: list[float] = []
                ours: list[Trial] = []
                for _ in range(runs):
                    bare.append(await cluster.bare_loop())
                    await cluster.clear()
                    least.append(await cluster.least(environment))
                    await cluster.clear()
                    ours.append(await cluster.controller(command, environment, Path(folder) / "log"))
                    await cluster.clear()
                yield size, bare, least, ours


def _command(provider: str, kubeconfig: Path, further: Sequence[str]) -> list[str]:
    lbctl = str(Path(sys.executable).with_name("lbctl"))
    chosen = ["--provider", provider, "--default-provider", provider, *PROVIDERS[provider]]
    return [lbctl, "run", "--kubeconfig", str(kubeconfig), *chosen, "--listen", "", *further]


def _environment(folder: Path) -> dict[str, str]:
    """Where the bench's own provider is found, too. Bytecode may be on disk, as that of everything installed is."""
    found = os.pathsep.join((str(pool.registered(folder)), str(ROOT)))
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": found}


async def _rows(provider: str, sizes: Sequence[int], runs: int, further: Sequence[str]) -> list[Measured]:
    rows: list[Measured] = []
    async for size, bare, least, ours in _trials(provider, sizes, runs, further):
        print(size, [round(s, 2) for s in bare], [round(s, 2) for s in least], *ours, sep="\n", file=sys.stderr)
        rows += _row(provider, size, bare, least, ours)
    return rows


def _row(
    provider: str, size: int, bare: Sequence[float], least: Sequence[float], ours: Sequence[Trial]
) -> Iterator[Measured]:
    name, floor = f"{provider}, {size:,} Services", median(bare)
    spread = f"{min(bare):.1f} to {max(bare):.1f} s"
    yield Measured(f"(bare loop of PATCHes, {size:,} Services: {spread})", floor, floor, "s")
    began = median(least)
    yield Measured(f"(the least controller: {began / floor:.2f} times)", began, began, "s")
    seconds = [trial.seconds for trial in ours]
    yield Measured(f"{name}: {min(seconds):.1f} to {max(seconds):.1f} s", 1.3 * floor, median(seconds), "s")
    yield Measured(f"{name}: per bare loop", 1.3, median(seconds) / floor, "times")
    yield Measured(f"{name}: per least controller", 1.3, median(seconds) / began, "times")
    yield Measured(f"{name}: peak memory", 120.0, max(trial.memory for trial in ours), "MiB")
    yield Measured(f"{name}: CPU", 1.3 * floor, median(trial.processor for trial in ours), "s")
    for what in ("patch services/status", "create events"):
        yield Measured(f"{name}: {what}", 1.0, max(trial.writes[what] for trial in ours) / size, "per Service")
    others = max(trial.writes.total() for trial in ours) - 2 * size
    yield Measured(f"{name}: other writes", 60.0, others, "calls")
    yield Measured(f"{name}: Events are written", 6 * floor, median(trial.told for trial in ours), "s")


def measure() -> Iterator[Measured]:
    for provider in PROVIDERS:
        yield from asyncio.run(_rows(provider, SIZES, 3, ()))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ipam", description=__doc__)
    parser.add_argument("--provider", default="l2", choices=PROVIDERS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, action="append")
    parser.add_argument("further", nargs="*")
    given = parser.parse_args(arguments)
    rows = asyncio.run(_rows(given.provider, given.size or SIZES, given.runs, given.further))
    print(*table(rows), sep="\n")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
