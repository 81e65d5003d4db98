"""`lbctl sandbox` as a process: what it wrote down goes with it, unless the folder is the user's."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lbctl.cli import codes

Sandbox = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """Start one; it is up when this answers."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", "from lbctl.cli import main; main()", "sandbox", "--provider=memory", *flags]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout
        assert any("Ctrl-C ends it" in line for line in process.stdout)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_a_sandbox_that_ends_leaves_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    process = sandbox()
    assert {path.name for path in (tmp_path / ".lbctl").iterdir()} == {"kubeconfig", "lbctl.yaml"}
    end(process)
    assert list(tmp_path.iterdir()) == []


def test_it_keeps_what_others_put_there(sandbox: Sandbox, tmp_path: Path) -> None:
    first, second = sandbox(), sandbox()
    (tmp_path / ".lbctl" / "mine").write_text("mine")
    end(first)
    assert (tmp_path / ".lbctl" / "kubeconfig").exists()
    end(second)
    assert [path.name for path in (tmp_path / ".lbctl").iterdir()] == ["mine"]


def test_a_folder_that_was_asked_for_is_the_users(sandbox: Sandbox, tmp_path: Path) -> None:
    end(sandbox("--state=here"))
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"kubeconfig", "lbctl.yaml"}


def test_where_another_sandbox_listens_there_is_no_second(sandbox: Sandbox, process, tmp_path: Path) -> None:
    sandbox("--state=first")
    port = re.search(r"http://127\.0\.0\.1:(\d+)/", (tmp_path / "first" / "kubeconfig").read_text())[1]
    ran = process("sandbox", "--provider=memory", "--state=second", f"--port={port}")
    assert ran.code == codes.SETTINGS
    assert f"nothing can listen on 127.0.0.1:{port} (Address already in use): give another --port" in ran.err


def test_a_demo_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from lbctl.cli import main; main()", "demo", "--provider=memory"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any("are up, on loopback only" in line for line in process.stdout)
        process.terminate()
        assert "interrupted" in process.communicate(timeout=60)[1]
    assert process.returncode == codes.INTERRUPTED
    assert list(tmp_path.iterdir()) == []
