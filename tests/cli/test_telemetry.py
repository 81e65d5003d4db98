"""Logs that hold no secrets, counters that count calls, metrics by their names."""

import io
import json
import logging
import socket
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl import probes
from lbctl.errors import SettingsError
from lbctl.provider import Call
from lbctl.telemetry import Calls, Metrics, configure_logging, redacted


def logged(form: str, message: str, **fields: object) -> str:
    stream = io.StringIO()
    configure_logging(form, "info", stream)
    logging.getLogger("lbctl.test").info(message, extra=fields)
    return stream.getvalue()


def test_json_lines_have_a_constant_message_and_fields() -> None:
    line = json.loads(logged("json", "changed", service="a/b", count=2))
    assert (line["level"], line["msg"], line["service"], line["count"]) == ("info", "changed", "a/b", 2)


@pytest.mark.parametrize("value", ["schön", "\udcff", 2**70, "x\ny", True, None, 0.5])
def test_a_json_line_is_ascii_and_says_whatever_it_was_given(value: object) -> None:
    said = logged("json", "changed", value=value)
    assert said.isascii()
    assert said.count("\n") == 1
    assert json.loads(said)["value"] == value


def test_auto_is_json_where_nobody_looks() -> None:
    assert logged("auto", "x").startswith("{")


def test_a_text_line_stays_one_line() -> None:
    line = logged("text", "changed", service="a\n::error::b\x1b[31m")
    assert line.count("\n") == 1
    assert "\x1b" not in line


def test_nothing_below_the_level_is_logged() -> None:
    stream = io.StringIO()
    configure_logging("json", "warn", stream)
    logging.getLogger("lbctl.test").info("x")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("secret", [
    "Authorization: Bearer abcdefgh12345678", "password=hunter22", '{"token": "abcdefgh"}', "AKIAABCDEFGHIJKLMNOP",
    "https://x/?X-Amz-Signature=0123456789", "client_secret: s3cr3ts3cr3t",
])  # fmt: skip
@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_is_logged(form: str, secret: str) -> None:
    said = logged(form, "failed", error=f"it said {secret}", api_token="hunter22") + logged(form, secret)
    for word in ("hunter22", "abcdefgh", "AKIA", "0123456789", "s3cr3t"):
        assert word not in said


PIECES = st.sampled_from([
    "Bearer ", "basic ", "TOKEN", "client-Secret", "=", ": ", "AKIA", "ASIAABCDEFGHIJKLMNOP", "s3cr3t99", "password",
    "-Signature", '"', " ", "a/b", "\n",
])  # fmt: skip


@given(st.lists(PIECES, max_size=8).map("".join))
def test_a_secret_is_found_in_ascii_as_in_any_other_text(text: str) -> None:
    assert f"é {redacted(text)}" == redacted(f"é {text}")


def test_an_exception_is_logged_without_its_secrets() -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    try:
        raise ValueError("password=hunter22")
    except ValueError:
        logging.getLogger("lbctl.test").exception("failed")
    assert "ValueError" in stream.getvalue()
    assert "hunter22" not in stream.getvalue()


def test_a_trace_cannot_write_to_the_terminal_or_the_runner() -> None:
    stream = io.StringIO()
    configure_logging("text", "info", stream)
    try:
        raise ValueError("x\n::error::\x1b[2J")
    except ValueError:
        logging.getLogger("lbctl.test").exception("failed")
    assert "\x1b" not in stream.getvalue()
    assert not any(row.lstrip().startswith("::") for row in stream.getvalue().splitlines())


@given(st.from_regex(r"[a-z]{1,12}", fullmatch=True))
def test_ordinary_words_are_left_alone(word: str) -> None:
    assert redacted(f"{word} of default/web") == f"{word} of default/web"


def test_calls_are_counted_once_each_and_by_service() -> None:
    calls = Calls()
    for code in (None, "ok", None, "Throttling"):
        calls(Call("elbv2", "DescribeTags", code))
    calls(Call("kubernetes", "get", "ok"))
    assert calls.by_service() == {"elbv2": 2, "kubernetes": 1}


def test_throttles_are_counted() -> None:
    metrics = Metrics()
    metrics.call("aws")(Call("elbv2", "DescribeTags", "Throttling", 0.1))
    assert 'lbctl_provider_api_throttled_total{provider="aws"} 1.0' in metrics.text().decode()


NAMES = (
    "lbctl_build_info", "lbctl_reconcile_total", "lbctl_reconcile_duration_seconds", "lbctl_services",
    "lbctl_time_to_external_ip_seconds", "lbctl_provider_api_requests_total", "lbctl_provider_api_duration_seconds",
    "lbctl_provider_api_throttled_total", "lbctl_last_successful_sync_timestamp_seconds", "lbctl_drift_resources",
    "lbctl_config_loaded", "lbctl_frozen_deletes", "workqueue_depth", "workqueue_adds_total", "workqueue_retries_total",
    "workqueue_work_duration_seconds", "rest_client_requests_total", "leader_election_master_status",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_keeps_its_name(name: str) -> None:
    assert f"# HELP {name} " in Metrics().text().decode()


def test_what_writes_the_page_is_imported_when_somebody_reads_it() -> None:
    said = run("""
        import sys
        from lbctl.telemetry import Metrics
        metrics = Metrics()
        print([name for name in ("prometheus_client.exposition", "http.server") if name in sys.modules])
        print(b"lbctl_build_info" in metrics.text(), "prometheus_client.exposition" in sys.modules)
        from prometheus_client import Counter, start_http_server
        print(Counter is type(metrics.adds))
    """)
    assert said.splitlines() == ["[]", "True True", "True"]


def test_metrics_come_whole_where_they_are_built_in_another_way() -> None:
    said = run("""
        import sys
        from lbctl import telemetry
        from lbctl.kube import postponed
        def another_way(name): raise ImportError(name)
        postponed._postpone = another_way
        print(b"lbctl_build_info" in telemetry.Metrics().text(), "prometheus_client.gc_collector" in sys.modules)
    """)
    assert said == "True True\n"


def run(code: str) -> str:
    """In a process of its own: here somebody has imported everything long ago."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_check_that_fails_is_named() -> None:
    assert probes._told({"caches": True, "lease": False}, verbose=False) == (
        False, "[+]caches ok\n[-]lease failed\nfailed\n"
    )  # fmt: skip


def test_a_port_that_is_taken_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingsError, match="give another --listen"):
            probes.Probes(place, live=dict, ready=dict, metrics=bytes)
