"""Network namespaces by `ip`: made under one token per lab, entered by a thread, removed with all that runs in them.

A lab holds a lock while it lives. What a killed one left behind is known by its lock being free, and is swept away when
the next one starts. Sources: ip-netns(8), setns(2), flock(2).
"""

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lbctl.errors import LbctlError

LOCKS = Path("/run/lbctl-lab")
NAMED = Path("/run/netns")
PREFIX = "lbctl-lab"

_NEWNET = 0x40000000  # CLONE_NEWNET, linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(LbctlError):
    """The lab cannot be built, or something in it did not do as told."""

    reason = "lab"


def missing() -> str | None:
    """What keeps a lab from running on this machine, and what to do; None if nothing does."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "it needs root on Linux, for network namespaces: run it with sudo"
    if _ip() is None:
        return "it needs the program `ip`: install iproute2 (Debian: apt-get install iproute2)"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "network namespaces are not allowed here: use a privileged container"


class Token:
    """A lab's own name on this machine, locked as long as this process holds it. `release` frees it.

    title   what sort of lab it is, for `running`
    """

    def __init__(self, title: str) -> None:
        LOCKS.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.name = secrets.token_hex(3)
        # Under a hidden name until it is locked: nobody must find it free.
        hidden = LOCKS / f".{self.name}"
        self._lock = hidden.open("x")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._lock.write(f"{os.getpid()} {title}")
        self._lock.flush()
        hidden.rename(LOCKS / self.name)

    def release(self) -> None:
        """Safe to repeat."""
        (LOCKS / self.name).unlink(missing_ok=True)
        self._lock.close()


def running(title: str) -> dict[str, int]:
    """The labs of this sort that are up on this machine: token → id of the process that holds it."""
    found = {}
    for path in _locks():
        with contextlib.suppress(OSError), path.open() as lock:
            pid, _, said = lock.read().partition(" ")
            if said == title and not _free(lock):
                found[path.name] = int(pid)
    return found


def sweep() -> list[str]:
    """Remove what labs left behind that did not end themselves; their tokens."""
    swept = []
    for path in _locks():
        with contextlib.suppress(OSError), path.open() as lock:
            if _free(lock):
                remove(names(path.name))
                shutil.rmtree(folder(path.name), ignore_errors=True)
                path.unlink(missing_ok=True)
                swept.append(path.name)
    return swept


def names(token: str) -> list[str]:
    """The namespaces of a lab, as ip-netns(8) calls them."""
    return sorted(path.name for path in NAMED.glob(f"{PREFIX}-{token}-*"))


def folder(token: str) -> Path:
    """Where a lab keeps its files."""
    return Path(tempfile.gettempdir()) / f"{PREFIX}-{token}"


def remove(namespaces: Iterable[str]) -> None:
    """End every process in these namespaces, then them. Interfaces inside go with them. Safe to repeat."""
    for name in namespaces:
        for pid in ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        ip("netns", "del", name)


class Namespace:
    """One network namespace with its loopback up."""

    def __init__(self, token: str, role: str) -> None:
        self.role, self.name = role, f"{PREFIX}-{token}-{role}"
        ip("netns", "add", self.name)
        self.run("link set lo up")

    def run(self, *lines: str) -> str:
        """Lines for `ip`, all in one call. Raises `LabError` with what it said."""
        return ip("-n", self.name, "-batch", "-", text="\n".join(lines))

    def json(self, *words: str) -> list[dict[str, Any]]:
        """What `ip -j` answers."""
        answer: list[dict[str, Any]] = json.loads(ip("-n", self.name, "-j", *words) or "[]")
        return answer

    def sysctl(self, values: dict[str, str | int]) -> None:
        """Settings below /proc/sys/net."""
        with inside(self.name):
            for name, value in values.items():
                Path("/proc/sys/net", name).write_text(str(value))

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` in here, with a /sys of its own."""
        return [_ip() or "ip", "netns", "exec", self.name, *words]


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread, what it starts and the sockets that it makes are in that namespace for a while."""
    with open("/proc/thread-self/ns/net") as home, (NAMED / name).open() as there:
        _enter(there)
        try:
            yield
        finally:
            _enter(home)


def ip(*words: str, text: str = "") -> str:
    """Run ip(8); what it says. Raises `LabError` with its complaint."""
    done = subprocess.run([_ip() or "ip", *words], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"ip {' '.join(words)}: {done.stderr.strip()}; it was told:\n{text}")
    return done.stdout


def _enter(namespace: IO[str]) -> None:
    if _libc.setns(namespace.fileno(), _NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _locks() -> list[Path]:
    return sorted(LOCKS.glob("[!.]*"))


def _free(lock: IO[str]) -> bool:
    """Whether nobody holds it. It is ours then, until it is closed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ip() -> str | None:
    return shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
