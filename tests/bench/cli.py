"""How long a person waits for `lbctl --help`: the shortest of ten runs, as whole processes."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.goal import Measured


def measure() -> Iterator[Measured]:
    lbctl = Path(sys.executable).with_name("lbctl")
    yield Measured("lbctl --help", 120.0, min(_run([str(lbctl), "--help"]) for _ in range(10)), "ms")
    bare = min(_run([sys.executable, "-c", "pass"]) for _ in range(10))
    yield Measured("(python -c pass, to compare)", 120.0, bare, "ms")


def _run(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return (time.perf_counter() - started) * 1000
