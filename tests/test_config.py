"""File, environment and flags: who wins, where a value came from, and what is said of a mistake."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl import config
from lbctl.errors import SettingsError
from lbctl.provider import Plugin, Setting

CLOUD = Plugin(
    "cloud", lambda _harness: pytest.fail("nothing is made here"),
    settings=(
        Setting("region", "where", env=("CLOUD_REGION",), required=True),
        Setting("api-token", "who"),
        Setting("drain", "how long", default="120"),
    ),
    privileged={"cloud/subnet": "*"},
)  # fmt: skip
HEAD = {"apiVersion": config.API_VERSION, "kind": config.KIND}


def load(file: dict[str, Any] | None = None, environ: dict[str, str] | None = None, **flags: Any) -> config.Config:
    content = {**HEAD, **file} if file else {}
    return config.load([CLOUD], file=content, environ=environ or {}, flags=flags)


def wrong(**content: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(content)
    return caught.value.message


def test_without_anything_said_the_defaults_hold() -> None:
    assert load() == config.Config()


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default() -> None:
    file, environ = {"workers": 2, "listen": ":1", "claims": "none"}, {"LBCTL_WORKERS": "3", "LBCTL_LISTEN": ":2"}
    found = load(file, environ, workers=4)
    assert (found.workers, found.listen, found.claims, found.tenancy) == (4, ":2", "none", "closed")


def test_every_value_knows_its_origin() -> None:
    found = load({"claims": "none"}, {"LBCTL_LISTEN": ":2", "CLOUD_REGION": "r"}, workers=4)
    assert found.origins == {
        "claims": "file lbctl.yaml",
        "listen": "environment LBCTL_LISTEN",
        "cloud.region": "environment CLOUD_REGION",
        "workers": "flag --workers",
    }


def test_an_empty_variable_is_one_that_nobody_set_but_where_empty_means_something() -> None:
    found = load({"listen": ":1", "workers": 2}, {"LBCTL_LISTEN": "", "LBCTL_WORKERS": ""})
    assert (found.listen, found.workers) == ("", 2)


def test_lbctls_own_variable_beats_the_clouds() -> None:
    found = load(None, {"LBCTL_CLOUD_REGION": "ours", "CLOUD_REGION": "theirs"})
    assert found.given(CLOUD) == {"region": "ours"}


def test_discovery_fills_only_what_nobody_said() -> None:
    said = load({"cloud": {"region": "said"}})
    assert config.discovered(said, CLOUD, {"region": "found"}, "the nodes").given(CLOUD)["region"] == "said"
    found = config.discovered(load(), CLOUD, {"region": "found"}, "the nodes")
    assert (found.given(CLOUD)["region"], found.origins["cloud.region"]) == ("found", "discovered from the nodes")


def test_hyphens_and_underscores_are_the_same_in_a_file() -> None:
    found = load({"default-scheme": "internal", "leader-elect": {"retry-period": "1s"}, "cloud": {"api_token": "x"}})
    assert (found.default_scheme, found.leader_elect.retry_period) == ("internal", 1.0)
    assert found.settings["cloud"] == {"api-token": "x"}


def test_an_unknown_key_is_an_error_that_guesses() -> None:
    assert wrong(workerz=2) == "lbctl.yaml has an unknown key 'workerz'; did you mean workers?"
    assert "did you mean intervals.audit?" in wrong(intervals={"audits": "1m"})
    assert "did you mean cloud.region?" in wrong(cloud={"regoin": "x"})


def test_a_wrong_value_is_an_error_that_names_the_way_out() -> None:
    assert wrong(claims="some") == "claims is 'some' (file lbctl.yaml): it must be finalizer or none"
    assert "intervals.audit is 'soon'" in wrong(intervals={"audit": "soon"})
    assert "intervals.audit is 0" in wrong(intervals={"audit": 0})
    assert "workers is True" in wrong(workers=True)
    assert "it must be HOST:PORT" in wrong(listen="everywhere")


def test_another_version_is_not_guessed_at() -> None:
    assert "this lbctl reads lbctl.io/v1alpha1 and Config" in wrong(apiVersion="lbctl.io/v9")


def test_a_leader_that_could_lead_twice_is_refused() -> None:
    assert "must hold: 15s, 10s and 2s are usual" in wrong(leader_elect={"lease_duration": "9s"})
    assert "must hold" in wrong(leader_elect={"retry_period": "9s"})


def test_a_default_provider_has_to_run() -> None:
    assert "is not among providers" in wrong(providers=["memory"], default_provider="cloud")


def test_a_rule_becomes_part_of_the_policy() -> None:
    rule = {"namespaces": ["team-*"], "annotations": {"cloud/*": ["a"]}, "max_load_balancers": 3}
    policy = load({"rules": [rule], "tenancy": "open"}).policy(CLOUD)
    assert policy.rule("team-a", {}).max_load_balancers == 3
    assert (policy.tenancy, policy.privileged) == ("open", CLOUD.privileged)


def test_a_wrong_rule_says_which() -> None:
    assert "rules[1] (file lbctl.yaml) has an unknown key 'scheme'; did you mean schemes?" in wrong(
        rules=[{}, {"scheme": ["internal"]}]
    )
    assert "rules[0] (file lbctl.yaml): Invalid enum value 'public'" in wrong(rules=[{"schemes": ["public"]}])
    assert "it must be a list" in wrong(rules="all")


def test_a_hundred_percent_lets_every_delete_through() -> None:
    assert load(None, None, **{"limits.max_delete": 1.0}).policy(CLOUD).limits.let_through
    assert not load().policy(CLOUD).limits.let_through


def test_one_default_scheme_serves_policy_and_providers_alike() -> None:
    asks = Plugin("asks", CLOUD.make, (Setting("default-scheme", "who"),))
    common = config.load([asks], flags={"default_scheme": "internal"})
    assert (common.given(asks), common.policy(asks).default_scheme) == ({"default-scheme": "internal"}, "internal")
    own = config.load([asks], flags={"default_scheme": "internal", "asks.default-scheme": "internet-facing"})
    assert own.given(asks)["default-scheme"] == own.policy(asks).default_scheme == "internet-facing"


def test_a_clouds_own_variable_does_not_choose_the_provider() -> None:
    assert load(None, {"CLOUD_REGION": "r"}).named() == ()
    assert load(None, {"LBCTL_CLOUD_REGION": "r"}).named() == load({"cloud": {"drain": 5}}).named() == ("cloud",)


def test_a_variable_that_looks_misspelt_is_mentioned() -> None:
    found = load(None, {"LBCTL_WORKER": "3", "LBCTL_TEST_KUBECONFIG": "x", "PATH": "x"})
    assert found.warnings == ("the environment variable LBCTL_WORKER is not known; did you mean LBCTL_WORKERS?",)


def test_secrets_are_masked_when_shown() -> None:
    rows = {row.key: row.value for row in config.shown(load({"cloud": {"api-token": "hunter2"}}), [CLOUD])}
    assert (rows["cloud.api-token"], rows["cloud.drain"]) == (config.MASK, "120")
    assert "hunter2" not in str(rows)


def test_what_is_shown_can_be_read_again() -> None:
    first = load({"workers": 5, "limits": {"max_delete": "50%"}, "rules": [{"schemes": ["internal"]}]})
    again = config.load([CLOUD], file=config.nested(config.shown(first, [])))
    assert (again.workers, again.limits, again.rules) == (first.workers, first.limits, first.rules)


def test_every_field_has_a_default_and_its_own_flag_and_variable() -> None:
    rows = config.shown(config.Config(), [])
    assert {row.key for row in rows} == {field.key for field in config.FIELDS} | {"rules"}
    for names in ([field.flag for field in config.FIELDS], [field.environment for field in config.FIELDS]):
        assert len(set(names)) == len(config.FIELDS)


def test_the_schema_knows_every_key() -> None:
    properties = config.schema([CLOUD])["properties"]
    assert set(properties["cloud"]["properties"]) == {"region", "api-token", "drain"}
    assert {field.key.partition(".")[0] for field in config.FIELDS} < set(properties)


@pytest.mark.parametrize(("text", "seconds"), [
    ("90", 90), ("90s", 90), ("1m30s", 90), ("250ms", 0.25), ("2h", 7200), ("1.5s", 1.5),
])  # fmt: skip
def test_durations_are_read_as_kubernetes_writes_them(text: str, seconds: float) -> None:
    assert config.duration(text) == seconds


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert config.duration(text) >= 0


def test_the_file_is_the_flag_then_the_variable_then_the_usual_one(tmp_path: Path) -> None:
    assert config.find("a", {"LBCTL_CONFIG": "b"}, tmp_path) == Path("a")
    assert config.find(None, {"LBCTL_CONFIG": "b"}, tmp_path) == Path("b")
    assert config.find(None, {}, tmp_path) is None
    (tmp_path / "lbctl.yaml").touch()
    assert config.find(None, {}, tmp_path) == tmp_path / "lbctl.yaml"


def test_a_file_that_is_not_there_or_no_yaml_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        config.read_file(tmp_path / "none")
    (tmp_path / "bad").write_text("a: [")
    with pytest.raises(SettingsError, match="is no YAML"):
        config.read_file(tmp_path / "bad")
    (tmp_path / "list").write_text("[1]")
    with pytest.raises(SettingsError, match="must be a mapping"):
        config.read_file(tmp_path / "list")
