"""docs/write-a-provider.md, followed to the letter: its files are written, and judged by its command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lbctl.testing.laws import LAWS

GUIDE = Path(__file__).parents[2] / "docs" / "write-a-provider.md"
FILES = re.compile(r"```(?:python|toml)\n# (\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.findall(GUIDE.read_text()):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return tmp_path


def _python(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)


def test_the_guides_provider_obeys_every_law(package: Path) -> None:
    names = ("--lbctl-provider=lbctl_folder.provider:plugin", "--lbctl-standin=lbctl_folder.testing:standin")
    run = _python(package, "pytest", "-p", "no:cacheprovider", "--pyargs", "lbctl.testing.suite", *names)
    assert f"{len(LAWS)} passed" in run.stdout, run.stdout


def test_the_guides_code_has_right_types(package: Path) -> None:
    run = _python(package, "mypy", "--strict", "--cache-dir", os.devnull, "-p", "lbctl_folder")
    assert run.returncode == 0, run.stdout


def test_the_guide_has_a_row_for_every_law() -> None:
    assert set(re.findall(r"`(\w+)`(?=.*\|$)", GUIDE.read_text(), re.MULTILINE)) >= LAWS.keys()
