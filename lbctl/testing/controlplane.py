"""A real Kubernetes API server for tests: built once from `tests/kubernetes/controlplane`, started in a few seconds.

In this order: `LBCTL_TEST_KUBECONFIG` names a cluster that is there already; `KUBEBUILDER_ASSETS` a folder with etcd
and kube-apiserver; otherwise our own binary, built by Go and kept in the user's cache folder by its sources' hash.
Where none of these can be had, `why_missing` says why.
"""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from ssl import CERT_NONE, create_default_context
from types import FrameType, TracebackType
from typing import NoReturn

import msgspec

READY_SECONDS = 90.0
STOP_SECONDS = 10.0
BUILD_SECONDS = 3600.0
# Waits for the end of its standard input, which we hold: that is our end, however it comes. Then it ends what we left.
GUARD = 'read -r _; folder=$1; shift; kill -KILL "$@"; rm -rf "$folder"'


class Missing(Exception):
    """No control plane can be had here; the text says why and how to get one."""


# -- the binary ------------------------------------------------------------------------------------------------------


def source() -> Path | None:
    """The folder of the Go sources: in a checkout of lbctl, or where LBCTL_CONTROLPLANE_SOURCE says."""
    said = os.environ.get("LBCTL_CONTROLPLANE_SOURCE")
    folder = Path(said) if said else Path(__file__).parents[2] / "tests" / "kubernetes" / "controlplane"
    return folder if (folder / "go.mod").is_file() else None


def why_missing() -> str:
    """Why there is no control plane here, and what to do; empty if there is one, or one can be built."""
    return "" if os.environ.get("LBCTL_TEST_KUBECONFIG") else why_not_ours()


def why_not_ours(*, build: bool = True) -> str:
    """Why `ControlPlane` cannot be started, and what to do; without `build` (it takes minutes), why not at once."""
    if said := os.environ.get("KUBEBUILDER_ASSETS"):
        return _why_not_assets(Path(said))
    folder = source()
    if folder is None:
        return "the Go sources are not here: use a checkout of lbctl, or set LBCTL_CONTROLPLANE_SOURCE"
    if _place(folder).is_file():
        return ""
    if shutil.which("go") is None:
        return "Go is not installed: install it, or set KUBEBUILDER_ASSETS or LBCTL_TEST_KUBECONFIG"
    return "" if build else "it is not built yet: run python -m lbctl.testing.controlplane build"


def binary() -> Path | None:
    """Our binary, built if it is not there yet; None where `why_missing` says why. Safe to call from several processes.

    Raises `Missing` with the compiler's words where the build fails.
    """
    folder = source()
    if folder is None:
        return None
    place = _place(folder)
    if place.is_file() or shutil.which("go") is None:
        return place if place.is_file() else None
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_file():
            _build(folder, place)
    return place


def kubectl() -> Path | None:
    """The kubectl on PATH, else the one in our binary (as a script beside it); None where there is neither."""
    there = shutil.which("kubectl")
    if there:
        return Path(there)
    ours = binary()
    if ours is None:
        return None
    script = ours.with_name("kubectl")
    fresh = ours.with_name(f"kubectl.{os.getpid()}")
    fresh.write_text(f'#!/bin/sh\nexec "{ours}" kubectl "$@"\n')
    fresh.chmod(0o755)
    fresh.replace(script)
    return script


def _place(folder: Path) -> Path:
    """Where the binary of these sources is kept."""
    content = hashlib.sha256()
    for file in sorted([*folder.glob("*.go"), folder / "go.mod", folder / "go.sum"]):
        content.update(file.name.encode() + b"\0" + file.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lbctl" / "controlplane" / content.hexdigest()[:16] / "controlplane"


def _build(folder: Path, place: Path) -> None:
    fresh = place.with_name(f"controlplane.{os.getpid()}")
    command = ["go", "build", "-trimpath", "-ldflags", f"-s -w {_version(folder)}", "-o", str(fresh), "."]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    if done.returncode:
        raise Missing(f"the control plane could not be built:\n{done.stderr[-2000:]}")
    fresh.replace(place)


def _version(folder: Path) -> str:
    """The linker's flags that make /version say which release this is; kubectl stumbles over the default."""
    major, minor, patch = re.findall(r"k8s\.io/kubernetes v(\d+)\.(\d+)\.(\d+)", (folder / "go.mod").read_text())[0]
    said = {"gitVersion": f"v{major}.{minor}.{patch}", "gitMajor": major, "gitMinor": minor}
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in said.items())


def _assets() -> Path | None:
    said = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(said) if said else None


def _why_not_assets(folder: Path) -> str:
    if absent := [name for name in ("etcd", "kube-apiserver") if not (folder / name).is_file()]:
        return f"KUBEBUILDER_ASSETS={folder} has no {' and no '.join(absent)}: correct it, or unset it and install Go"
    return "" if shutil.which("openssl") else "KUBEBUILDER_ASSETS needs openssl, for a key: install it"


# -- a running one ---------------------------------------------------------------------------------------------------


class ControlPlane:
    """One API server on loopback with an admin, RBAC, and an audit log. A context manager.

    users            further users by name, with their groups; `token_for` and `kubeconfig_for` are theirs
    node_port_range  as kube-apiserver's --service-node-port-range

    Its port is its own until the context ends. However this process ends, it ends, too, and its data goes.
    """

    def __init__(
        self, users: Mapping[str, Sequence[str]] | None = None, *, node_port_range: str = "30000-32767"
    ) -> None:
        self._users, self._node_ports = dict(users or {}), node_port_range
        self._tokens = {user: secrets.token_urlsafe() for user in self._users}
        self._folder = Path(tempfile.mkdtemp(prefix="lbctl-controlplane-"))
        self._held = _held_port()
        self._port = int(self._held.getsockname()[1])
        self._processes: list[subprocess.Popen[bytes]] = []
        self._guard: subprocess.Popen[bytes] | None = None
        self.audit_log = self._folder / "audit.log"
        self.kubeconfig = self._folder / "data" / "kubeconfig"
        self.ca = self._folder / "data" / "certificates" / "apiserver.crt"
        self.url = f"https://127.0.0.1:{self._port}"

    def __enter__(self) -> "ControlPlane":
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._held.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start, and wait until it is ready. Raises `Missing` where it cannot be had."""
        (self._folder / "data").mkdir(exist_ok=True)
        assets = _assets()
        if assets:
            self._start_assets(assets)
        else:
            self._start_ours()
        self._await_ready()

    def stop(self) -> None:
        """End it. Its data stays for `start`, until the context ends."""
        self._dismiss_guard()
        for process in reversed(self._processes):
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin:
                process.stdin.close()
        self._processes.clear()

    def restart(self) -> None:
        """The same data on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """It answers no more (SIGSTOP) once this returns; connections stay open."""
        for process in self._processes:
            process.send_signal(signal.SIGSTOP)
            # Its threads stop one by one, and the last may still answer. WNOWAIT leaves a death to Popen.
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """It goes on where it was paused."""
        for process in self._processes:
            process.send_signal(signal.SIGCONT)

    @property
    def token(self) -> str:
        """The admin's bearer token. It is there once the server was started."""
        return (self._folder / "data" / "admin.token").read_text()

    def token_for(self, user: str) -> str:
        """The bearer token of one of the `users`. KeyError for who was not named at the beginning."""
        return self._tokens[user]

    def kubeconfig_for(self, user: str) -> Path:
        """A kubeconfig that speaks as this user."""
        path = self._folder / f"kubeconfig-{user}"
        path.touch(0o600)
        path.write_text(self.kubeconfig.read_text().replace(self.token, self.token_for(user)))
        return path

    @property
    def kubectl(self) -> Path | None:
        """As the function of that name says."""
        return kubectl()

    def _start_ours(self) -> None:
        ours = binary()
        if ours is None:
            raise Missing(why_not_ours())
        self._run([
            str(ours), "apiserver", f"--data-dir={self._folder / 'data'}", f"--port={self._port}",
            f"--audit-log={self.audit_log}", f"--tokens={self._further_tokens()}",
            f"--service-node-port-range={self._node_ports}", "--", "--permit-port-sharing",
        ])

    def _start_assets(self, assets: Path) -> None:
        """etcd and kube-apiserver as others ship them."""
        if missing := _why_not_assets(assets):
            raise Missing(missing)
        data, client, peer = self._folder / "data", _free_port(), _free_port()
        self._run([
            str(assets / "etcd"), f"--data-dir={data / 'etcd'}", "--unsafe-no-fsync", "--log-level=error",
            f"--listen-client-urls=http://127.0.0.1:{client}", f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
        ])
        key, policy, tokens = data / "key.pem", data / "audit.yaml", data / "tokens.csv"
        if not key.exists():
            (data / "admin.token").write_text(secrets.token_urlsafe())
            subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        policy.write_text(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n"
        )
        tokens.write_text(f'{self.token},admin,admin,"system:masters"\n{self._further_tokens().read_text()}')
        self._run([
            str(assets / "kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{client}", "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1", f"--secure-port={self._port}", "--permit-port-sharing",
            f"--cert-dir={self.ca.parent}",
            "--authorization-mode=RBAC", f"--token-auth-file={tokens}", f"--service-account-key-file={key}",
            "--service-account-issuer=https://controlplane.test", f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112", "--endpoint-reconciler-type=none",
            f"--service-node-port-range={self._node_ports}", "--disable-admission-plugins=ServiceAccount",
            f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_log}",
            "--audit-log-maxsize=1000000",
        ])
        self._write_kubeconfig()

    def _write_kubeconfig(self) -> None:
        self.kubeconfig.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
            f"clusters: [{{name: c, cluster: {{server: '{self.url}', certificate-authority: '{self.ca}'}}}}]\n"
            f"users: [{{name: u, user: {{token: '{self.token}'}}}}]\n"
            "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
        )
        self.kubeconfig.chmod(0o600)

    def _further_tokens(self) -> Path:
        path = self._folder / "tokens.csv"
        rows = (f'{self.token_for(name)},{name},{name},"{",".join(groups)}"' for name, groups in self._users.items())
        path.write_text("".join(f"{row}\n" for row in rows))
        return path

    def _run(self, command: list[str]) -> None:
        # Our own verb ends with its standard input, so that must be one that stays open.
        with (self._folder / "log").open("ab") as log:
            self._processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log))
        self._dismiss_guard()
        pids = [str(process.pid) for process in self._processes]
        # In a session of its own: Ctrl-C in a terminal is for us alone.
        guard = ["sh", "-c", GUARD, "guard", str(self._folder), *pids]
        self._guard = subprocess.Popen(
            guard, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def _dismiss_guard(self) -> None:
        """Before its standard input is closed, or it would take that for our end."""
        guard, self._guard = self._guard, None
        if guard:
            guard.kill()
            guard.communicate()

    def _await_ready(self) -> None:
        until = time.monotonic() + READY_SECONDS
        while not (self._is_ready() and self.kubeconfig.is_file()):
            if self._ended_within(0.05) or time.monotonic() > until:
                log = (self._folder / "log").read_text(errors="replace")[-2000:]
                self.stop()
                raise Missing(f"the control plane did not become ready:\n{log}")

    def _ended_within(self, seconds: float) -> bool:
        try:
            self._processes[-1].wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _is_ready(self) -> bool:
        context = create_default_context()
        context.check_hostname, context.verify_mode = False, CERT_NONE
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _held_port() -> socket.socket:
    """A free port on loopback, held without listening and shared with the server alone.

    Otherwise anybody could take it while the server starts or is down: even a client that asks for it in vain, since a
    connection's own end gets a port from the same range.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    return held


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- what was asked of it --------------------------------------------------------------------------------------------


class Reference(msgspec.Struct, frozen=True, rename="camel"):
    """What a request was about."""

    resource: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class User(msgspec.Struct, frozen=True):
    """Who asked."""

    username: str = ""
    groups: tuple[str, ...] = ()


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """One request in the audit log."""

    verb: str
    request_uri: str = msgspec.field(name="requestURI")
    audit_id: str = msgspec.field(name="auditID")
    user: User = User()
    user_agent: str = ""
    object_ref: Reference = Reference()


def requests(
    audit_log: Path, *, user_agent: str = "", verbs: Iterable[str] = (), resource: str = ""
) -> list[Request]:
    """What was asked and answered, narrowed by the beginning of the user agent, by verbs, by resource.

    Each request once: a watch has a line for its beginning and one for its end.
    """
    wanted = set(verbs)
    whole = audit_log.read_bytes().rpartition(b"\n")[0]  # the last line may be half written
    lines = [msgspec.json.decode(line, type=Request) for line in whole.splitlines()]
    return [
        line for line in {line.audit_id: line for line in lines}.values()
        if line.user_agent.startswith(user_agent)
        and (not wanted or line.verb in wanted)
        and (not resource or line.object_ref.resource == resource)
    ]


# -- by hand ---------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """`build` or `serve`."""
    if arguments == ["build"]:
        return _build_by_hand()
    if arguments == ["serve"]:
        return _serve()
    sys.stderr.write("usage: python -m lbctl.testing.controlplane build|serve\n")
    return 64


def _build_by_hand() -> int:
    """Exit code 1 in CI where it cannot be had: there nothing may be left out."""
    started = time.monotonic()
    missing = why_missing()
    if not missing and not os.environ.get("LBCTL_TEST_KUBECONFIG") and not _assets():
        if why_not_ours(build=False):
            _say("the control plane is built once (about six minutes), then kept …")
        try:
            _say(f"{binary()} ({time.monotonic() - started:.0f} s)")
        except Missing as failure:
            missing = str(failure)
    if not missing:
        return 0
    _say(f"The tests on the real API server (pytest -m realkube) are left out: {missing}")
    return 1 if os.environ.get("CI") else 0


def _serve() -> int:
    """Until SIGINT or SIGTERM."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    with ControlPlane() as server:
        _say(f"export KUBECONFIG={server.kubeconfig}")
        signal.pause()
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
