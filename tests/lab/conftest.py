"""Labs for tests: root on Linux, or the tests are left out; in CI nothing is.

Timing is what these tests look at, so they run one after the other, in one worker.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from lbctl_l2.lab.namespaces import missing
from lbctl_l2.lab.rig import Lab, vip, vip6
from lbctl_l2.lab.table import Row

PURE = ("test_measured.py",)


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    mine = [item for item in items if item.path.parent == here and item.path.name not in PURE]
    reason = mine and not os.environ.get("CI") and missing()
    for item in mine:
        item.add_marker(pytest.mark.xdist_group("lab"))
        # Trials last as long as they last, and a busy machine starts a dozen processes slowly.
        item.add_marker(pytest.mark.timeout(300))
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"{len(mine)} tests in namespaces left out: {reason}"))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three nodes that nobody announces anything on."""
    with Lab(3, [vip(0), vip6(0)]) as made:
        yield made


@pytest.fixture
def table(record_property: Callable[[str, object], None]) -> Callable[[Row], None]:
    """Puts a line into the table that is printed at the end of the run."""
    return lambda row: record_property("failover", msgspec.to_builtins(row))
