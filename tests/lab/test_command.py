"""`lbctl lab`, as somebody uses it: it comes up, tells what happens, and is gone at the end."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl_l2.lab.namespaces import names

LBCTL = Path(sys.executable).with_name("lbctl")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([LBCTL, "lab", "--services=1"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def line(lab: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The next line that has this in it."""
    assert lab.stdout
    said = []
    for text in lab.stdout:
        said.append(text)
        if found := re.search(pattern, text):
            return found
    raise AssertionError(f"no {pattern} in:\n{''.join(said)}")


def test_a_lab_tells_who_announces_revives_the_dead_and_leaves_nothing(
    lab: subprocess.Popen[str], tmp_path: Path
) -> None:
    token = line(lab, r"node-1 +ip netns exec lbctl-lab-(\w+)-node-1 bash")[1]
    holder = line(lab, r"192\.0\.2\.100  (node-\d)")[1]
    pids = subprocess.run(["ip", "netns", "pids", f"lbctl-lab-{token}-{holder}"], capture_output=True, check=True)
    subprocess.run(["kill", "-9", *pids.stdout.decode().split()], check=True)
    assert line(lab, r"192\.0\.2\.100  (node-\d) +a client waited [1-9]\d+ ms")[1] != holder
    line(lab, rf"the speaker of {holder} is started again")
    lab.send_signal(signal.SIGINT)
    line(lab, "The lab is gone")
    assert lab.wait() == 0
    assert not names(token)
    assert list(tmp_path.iterdir()) == []
