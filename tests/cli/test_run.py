"""`lbctl run` and `lbctl demo`: the controller as a process, in good order from start to end."""

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import msgspec
import pytest

from lbctl.cli import codes
from lbctl.kube.lease import Elector, Leases
from lbctl.sandbox.kube.faults import Fault

LEASE = (
    "--leader-elect-lease-duration", "3s", "--leader-elect-renew-deadline", "2s", "--leader-elect-retry-period", "1s",
)  # fmt: skip


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        threading.Event().wait(0.05)


class Running:
    """One `lbctl run`; its log's lines as they come."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", "from lbctl.cli import main; main()", "run", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def end(self) -> int:
        """Ask it to end, if it has not, and wait. Safe to repeat."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self._reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return code


@pytest.fixture
def run(world) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*arguments: str) -> Running:
        started.append(Running("--listen", "", *arguments))
        return started[-1]

    yield start
    for running in started:
        running.end()


def test_it_serves_and_ends_in_good_order(run, world) -> None:
    running = run(*LEASE)
    world.put()
    until(world.address)
    assert running.end() == codes.OK
    lease = Leases(world.client, "kube-system").get("lbctl")
    assert lease is not None
    assert lease.spec.holder_identity == ""
    assert world.address()


def test_it_ends_at_once_though_the_cluster_cannot_be_read_yet(run, world) -> None:
    world.sandbox.kube.faults.inject(Fault(effect="error", verbs=("list", "watch"), resources=("services",), code=503))
    running = run(*LEASE)
    until(lambda: any("the sandbox answers 503" in line for line in running.lines))
    assert running.end() == codes.OK


@pytest.mark.parametrize("code", [500, 503, 429])
def test_it_begins_though_the_api_server_is_not_well_at_first(run, world, code) -> None:
    world.sandbox.kube.faults.inject(Fault(effect="error", resources=("namespaces",), code=code, count=2))
    running = run("--no-leader-elect")
    world.put()
    until(world.address)
    assert any("not well yet" in line for line in running.lines)
    assert running.end() == codes.OK


def test_it_ends_in_good_order_while_it_asks_its_first_question(run, world) -> None:
    world.sandbox.kube.faults.inject(Fault(effect="error", resources=("namespaces",), code=500))
    running = run("--no-leader-elect")
    until(lambda: any("not well yet" in line for line in running.lines))
    assert running.end() == codes.OK


def test_it_logs_one_json_line_per_change_on_stdout(run, world) -> None:
    running = run("--no-leader-elect")
    world.put()
    until(world.address)
    running.end()
    changed = [line for line in map(json.loads, running.lines) if line["msg"] == "changed"]
    assert {line["kind"] for line in changed} == {"rule", "address", "listener"}
    assert {"ts", "level", "provider", "service", "action"} <= changed[0].keys()


def test_a_follower_waits_and_takes_over(run, world) -> None:
    held = Elector(Leases(world.client, "kube-system"), "lbctl", "somebody")
    assert held.acquire(5)
    running = run(*LEASE)
    world.put()
    threading.Event().wait(1.0)
    assert world.address() == ""
    held.stop()
    until(world.address)
    assert running.end() == codes.OK


def test_a_lost_lease_ends_the_process(run, world) -> None:
    running = run(*LEASE)
    world.put()
    until(world.address)
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/lbctl"

    def steal() -> bool:
        lease = msgspec.json.decode(world.client.get(path))
        lease["spec"] |= {"holderIdentity": "thief", "leaseDurationSeconds": 60}
        world.client.request("PUT", path, lease)
        return running.process.poll() is not None

    until(steal)
    assert running.process.returncode == codes.ERROR


@pytest.mark.parametrize(("name", "way_out"), [("gcp", "LBCTL_PROVIDER"), ("memroy", "did you mean memory?")])
def test_a_service_of_a_provider_that_does_not_run_here_hears_why(run, world, name, way_out) -> None:
    world.put(loadBalancerClass=f"lbctl.io/{name}")
    running = run("--no-leader-elect")

    def told() -> bool:
        found = msgspec.json.decode(world.client.get("/api/v1/namespaces/default/services/web"))
        conditions = found["status"].get("conditions") or []
        return any(c["reason"] == "provider-not-configured" and way_out in c["message"] for c in conditions)

    until(told)
    running.end()
    assert not [line for line in running.lines if '"error"' in line], "nobody chose it: that is no error of the log"


def test_probes_and_metrics_answer(world) -> None:
    from lbctl.cli.run import Controllers
    from lbctl.cli.session import Session

    house = Controllers(Session({"listen": "127.0.0.1:0", "leader_elect.enabled": False}, daemon=True))
    thread = threading.Thread(target=house.run)
    thread.start()

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{house.port}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    world.put()
    until(world.address)
    until(lambda: get("/readyz")[0] == 200)
    assert get("/livez") == (200, "ok\n")
    assert get("/readyz?verbose") == (200, "[+]caches ok\nok\n")
    assert get("/nothing")[0] == 404
    said = get("/metrics")[1]
    for line in (
        'lbctl_services{provider="memory",state="ready"} 1.0',
        'leader_election_master_status{name="lbctl"} 1.0',
        'lbctl_config_loaded{provider="memory"} 1.0',
        'lbctl_time_to_external_ip_seconds_count{provider="memory"} 1.0',
        'lbctl_provider_api_requests_total{code="ok",operation="memory:create",provider="memory"} 2.0',
    ):
        assert line in said
    assert 'rest_client_requests_total{code="200"' in said
    assert "workqueue_work_duration_seconds_count" in said
    house.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_an_interrupted_watch_is_130(world) -> None:
    world.put()
    command = [sys.executable, "-c", "from lbctl.cli import main; main()", "status", "-w"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        while "web" not in running.stdout.readline():
            pass
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == codes.INTERRUPTED


def test_the_demo_shows_it_all_and_ends_by_itself(process) -> None:
    ran = process("demo", "--provider", "memory")
    assert (ran.code, ran.err) == (codes.OK, "")
    for said in ("EXTERNAL-IP", "API calls", "unsupported-protocol", "puts it right", "Left in the cloud: nothing."):
        assert said in ran.out


def test_the_sandbox_says_what_to_do_next_and_ends_on_sigterm(tmp_path) -> None:
    command = [sys.executable, "-c", "from lbctl.cli import main; main()", "sandbox", "--provider", "memory"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        seen = ""
        while "Ctrl-C" not in seen:
            seen += running.stdout.readline()
        assert "export KUBECONFIG=" in seen
        assert (tmp_path / ".lbctl" / "kubeconfig").stat().st_mode & 0o777 == 0o600
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == codes.OK
