"""For all tests: speed is a benchmark's matter (tests/bench), so hypothesis sets no deadlines.

What the labs measured is printed at the end all the same; no test depends on it. Tests that press Ctrl-C need somebody
who listens: what a shell starts in the background ignores SIGINT, and so would all that we start.
"""

import signal

import msgspec
import pytest
from hypothesis import settings

settings.register_profile("lbctl", deadline=None)
settings.load_profile("lbctl")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is timed must not run side by side: that pytest-xdist lost a group would be noticed by nobody."""
    grouped = (item for item in session.items if item.get_closest_marker("xdist_group"))
    if getattr(session.config.option, "loadgroup", False) and (lost := [i for i in grouped if "@" not in i.nodeid]):
        pytest.exit(f"pytest-xdist does not see the groups of {len(lost)} tests, {lost[0].nodeid} first", 3)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The failover table, out of what tests recorded as the property `failover`."""
    reports = [report for category in ("passed", "failed") for report in terminalreporter.getreports(category)]
    said = (value for report in reports for name, value in report.user_properties if name == "failover")
    if rows := {value["case"]: value for value in said}:
        from lbctl_l2.lab.table import Row, lines

        terminalreporter.section("failover")
        for line in lines(msgspec.convert(list(rows.values()), list[Row])):
            terminalreporter.write_line(line)
