"""The pytest plugin that ships the laws: its options, and the stand-in of the provider on trial.

It is loaded in every pytest run where lbctl is installed, so it imports nothing of lbctl until a law is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lbctl.testing.standin import Standin

pytest.register_assert_rewrite("lbctl.testing.laws", "lbctl.testing.world", "lbctl.testing.driver")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which provider is judged, and how thoroughly."""
    group = parser.getgroup("lbctl", "the laws for lbctl's providers (lbctl.testing.suite)")
    group.addoption(
        "--lbctl-provider", metavar="NAME", help="an entry point in lbctl.providers, or module:attribute of a Plugin"
    )
    group.addoption(
        "--lbctl-standin",
        metavar="NAME",
        help="an entry point in lbctl.standins (default: the provider's name), or module:attribute",
    )
    group.addoption(
        "--lbctl-small", action="store_true", help="shorter stories where every call fails once: for slow stand-ins"
    )


@pytest.fixture(scope="session")
def lbctl_standin(request: pytest.FixtureRequest) -> Iterator[Standin]:
    """The other side of the provider on trial, started once for all laws."""
    from lbctl.testing.world import load

    name = request.config.getoption("--lbctl-standin") or request.config.getoption("--lbctl-provider")
    if not name:
        raise pytest.UsageError("whom are the laws to judge? say --lbctl-provider=NAME")
    standin: Standin = load("lbctl.standins", name)()
    standin.start()
    yield standin
    standin.stop()
