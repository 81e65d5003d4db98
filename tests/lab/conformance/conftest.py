"""The packet conformance run: namespaces for each test, and one line per item of the list at the end."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl_l2.channel import TIMING
from lbctl_l2.lab.namespaces import Token, missing, names, remove
from lbctl_l2.lab.probe import QUICK, VIP, VIP6, Segment, Speaker
from lbctl_l2.wire import Timing

_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves the packet tests out together, saying how many; never in CI, where one that cannot run has failed."""
    mine = [item for item in items if item.path.parent == _HERE]
    reason = mine and not os.environ.get("CI") and missing()
    for item in mine:
        item.add_marker(pytest.mark.xdist_group("packets"))
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"{len(mine)} packet tests left out: {reason}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per item of the conformance list: what is promised, and whether it was kept."""
    told = {outcome: terminalreporter.getreports(outcome) for outcome in ("passed", "failed", "error", "skipped")}
    lines = [(report.nodeid, outcome) for outcome, reports in told.items() for report in reports
             if "lab/conformance/" in report.nodeid and (report.when == "call" or outcome != "passed")]
    if lines:
        terminalreporter.section("packet conformance")
        for nodeid, outcome in sorted(lines, key=lambda line: order_of(line[0])):
            item, promise = item_and_promise(nodeid)
            terminalreporter.write_line(f"{item:>5}  {outcome:8}{promise}")
        terminalreporter.write_line(f"{len(lines)} items: {dict(Counter(outcome for _, outcome in lines))}")


def item_and_promise(nodeid: str) -> tuple[str, str]:
    """`…::test_p1_only_requests_are_answered` → P1, the sentence."""
    words = nodeid.partition("::test_")[2].removesuffix("@packets").split("_")
    numbered = words[0][:1] in "pni" and words[0][1:].isdigit()
    return (words[0].upper(), " ".join(words[1:])) if numbered else ("+", " ".join(words))


def order_of(nodeid: str) -> tuple[int, int, str]:
    item, promise = item_and_promise(nodeid)
    return "PNI+".index(item[0]), int(item[1:] or 0), promise


@pytest.fixture(scope="session")
def token() -> Iterator[str]:
    token = Token("packets")
    yield token.name
    remove(names(token.name))
    token.release()


@pytest.fixture
def segment(token: str) -> Iterator[Segment]:
    made = Segment(token)
    yield made
    made.prober.socket.close()
    remove(names(token))


@pytest.fixture
def speaker(segment: Segment) -> Iterator[Speaker]:
    """It announces VIP and VIP6, and their first announcements have been heard."""
    yield from announcing(segment, TIMING)


@pytest.fixture
def quick(segment: Segment) -> Iterator[Speaker]:
    """The same, with its five rounds of announcements in half a second and not in five."""
    yield from announcing(segment, QUICK)


def announcing(segment: Segment, timing: Timing) -> Iterator[Speaker]:
    made = Speaker(segment.node, timing)
    made.announce(VIP, VIP6)
    segment.prober.forget()
    yield made
    made.end()
