"""One distribution that installs from a clone, and whose named packages do the work that they are named for."""

import ast
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHELF = sorted(path.name for path in (ROOT / "providers").iterdir() if path.name.startswith("lbctl_"))


def importers(package: str) -> set[str]:
    """The files of lbctl and its providers that import a package, however deep in a function."""
    files = [*(ROOT / "lbctl").rglob("*.py"), *(ROOT / "providers").rglob("*.py")]
    return {str(file.relative_to(ROOT)) for file in files if package in set(imported(file))}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def test_the_shelf_is_what_is_packaged_and_registered() -> None:
    packaged = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    registered = PROJECT["project"]["entry-points"]["lbctl.providers"]
    assert packaged == ["lbctl", *(f"providers/{name}" for name in SHELF)]
    assert {f"lbctl_{name}" for name in registered} - {"lbctl_memory"} == set(SHELF)
    assert PROJECT["tool"]["importlinter"]["root_packages"] == ["lbctl", *SHELF]


def test_kubernetes_is_spoken_through_its_own_client_in_one_place() -> None:
    """The sandbox, the other end of the wire, borrows the client's models to know Kubernetes' fields."""
    assert importers("kubernetes") == {"lbctl/kube/client.py", "lbctl/sandbox/kube/schema.py"}


def test_aws_is_spoken_through_boto3_in_one_place() -> None:
    assert importers("boto3") <= {"providers/lbctl_aws/api.py", "providers/lbctl_aws/testing.py"}
    assert "providers/lbctl_aws/api.py" in importers("boto3")


def test_single_calls_are_tried_again_by_tenacity_where_the_sdk_is_and_first_ones_where_run_begins() -> None:
    assert importers("tenacity") == {"providers/lbctl_aws/api.py", "lbctl/cli/run.py"}


def test_the_cloud_on_loopback_is_moto() -> None:
    assert all(file.startswith("providers/lbctl_aws/testing") for file in importers("moto"))
    assert importers("moto")


def test_an_installed_lbctl_has_everything_and_nothing_else(tmp_path: Path) -> None:
    """`pip install '.[all]'` in a fresh environment, as the README says it."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{ROOT}[all]"]
    subprocess.run(command, check=True, env=clean, cwd=tmp_path)
    shown = subprocess.run([tmp_path / "venv/bin/lbctl", "providers"], check=True, capture_output=True, text=True)
    assert all(name.removeprefix("lbctl_") in shown.stdout for name in SHELF)
    code = "import boto3, moto, google.cloud.compute_v1, azure.mgmt.network, azure.identity, kubernetes, aiohttp"
    subprocess.run([python, "-c", code], check=True, env=clean, cwd=tmp_path)


def test_the_wheel_carries_the_providers_as_packages_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    made = subprocess.run([sys.executable, "-c", build, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / made.stdout.split()[-1]) as wheel:
        tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"lbctl", *SHELF}


def workloads() -> Iterator[dict[str, Any]]:
    """Deployments and DaemonSets of the manifests."""
    for path in sorted((ROOT / "deploy" / "kustomize").glob("*/*.yaml")):
        yield from (found for found in yaml.safe_load_all(path.read_text()) if "template" in found.get("spec", {}))


def test_no_workload_selects_the_pods_of_another() -> None:
    chosen = [w["spec"]["selector"]["matchLabels"].items() for w in workloads()]
    labels = [w["spec"]["template"]["metadata"]["labels"].items() for w in workloads()]
    matching = [[chooser <= label for label in labels] for chooser in chosen]
    assert matching == [[True, False], [False, True]]
