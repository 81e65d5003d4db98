"""Help, exit codes and what is imported: the outside of the command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lbctl import config, plugins
from lbctl.cli import COMMANDS, _name, codes, complete
from lbctl.cli import lbctl as group
from lbctl.errors import CredentialsError, LbctlError, Refused, SettingsError
from lbctl.sandbox.kube.faults import Fault

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
UPDATE = bool(os.environ.get("LBCTL_UPDATE_GOLDEN"))
HEAVY = ("kubernetes", "rich", "prometheus_client", "yaml", "boto3", "botocore", "msgspec", "aiohttp", "moto")


def test_help_imports_nothing_heavy() -> None:
    watched = f"import sys\nfrom lbctl.cli import outcome\noutcome(['--help'])\nprint(*set({HEAVY}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", watched], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_help_names_every_verb_and_every_exit_code(lbctl) -> None:
    ran = lbctl("--help")
    assert ran.code == codes.OK
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", ran.out, re.M)
    for code, text in codes.TABLE.items():
        assert re.search(rf"^ +{code}  {re.escape(text)}$", ran.out, re.M)


@pytest.mark.parametrize("name", [*COMMANDS, *plugins.points(plugins.COMMANDS)])
def test_every_option_says_what_sort_of_value_it_takes(lbctl, name: str) -> None:
    said = lbctl(name, "--help").out
    assert not re.search(r"^  -.* (TEXT|VALUE|INTEGER|FLOAT|PATH)\b", said, re.M)


def test_a_plugins_command_is_left_as_its_plugin_made_it(lbctl) -> None:
    lbctl("pools", "--help")
    assert "kubeconfig" not in {option.name for option in plugins.command("pools").params}


def test_help_lists_what_a_verb_takes_and_nothing_else(lbctl) -> None:
    assert not {"--aws-region", "--memory-drain"} & set(lbctl("speaker", "--help").out.split())
    assert "--l2-addresses" in lbctl("speaker", "--help").out
    assert not {"--kubeconfig", "--context", "--config"} & set(lbctl("lab", "--help").out.split())
    assert "--kubeconfig" in lbctl("pools", "--help").out


def test_help_and_typos_know_the_verbs_that_providers_add(lbctl) -> None:
    ran = lbctl("--help")
    for name in plugins.points(plugins.COMMANDS):
        assert re.search(rf"^  {name} ", ran.out, re.M)
    assert "Did you mean pools?" in lbctl("pool").err


def test_the_documentation_has_the_same_exit_codes_and_verbs() -> None:
    said = DOCS.read_text()
    for code, text in codes.TABLE.items():
        assert f"| {code} | {text} |" in said
    for name in COMMANDS:
        assert f"lbctl {name}" in said


def settings_table() -> str:
    rows = (
        f"| `{field.flag}` | `{field.environment}` | `{field.key}` | {field.help} |"
        for field in sorted(config.FIELDS, key=lambda field: field.key)
    )
    return "\n".join(["| flag | environment | file | what for |", "|---|---|---|---|", *rows]) + "\n"


def test_the_documentation_lists_every_setting() -> None:
    """`LBCTL_UPDATE_GOLDEN=1` writes the table anew."""
    said = DOCS.read_text()
    found = re.search(r"(?<=<!-- settings -->\n).*?(?=<!-- end -->)", said, re.S)
    assert found is not None
    if UPDATE:
        DOCS.write_text(said[: found.start()] + settings_table() + said[found.end() :])
    else:
        assert found[0] == settings_table()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_has_help(name: str) -> None:
    done = CliRunner().invoke(group, [name, "--help"], prog_name="lbctl")
    assert done.exit_code == 0
    assert f"Usage: lbctl {name}" in done.output


@pytest.mark.parametrize("arguments", [
    ["no-such-verb"], ["plan", "--no-such-flag"], ["plan", "-o", "xml"], ["plan", "--claims", "some"],
    ["apply", "--wait=soon"], ["plan", "--max-delete", "200%"], ["explain"], ["reconcile"],
])  # fmt: skip
def test_wrong_usage_is_64(process, arguments: list[str]) -> None:
    ran = process(*arguments)
    assert (ran.code, ran.out) == (codes.USAGE, "")
    assert "Error" in ran.err


def test_files_over_a_cluster_are_not_applied(lbctl, manifest) -> None:
    ran = lbctl("apply", "-f", manifest("web"), "--context", "prod")
    assert (ran.code, "kubectl apply -f" in ran.err) == (codes.USAGE, True)


def test_a_misspelt_verb_gets_a_guess(lbctl) -> None:
    assert "Did you mean status?" in lbctl("statsu").err


def test_without_a_cluster_it_says_how_to_name_one(process) -> None:
    ran = process("plan")
    assert ran.code == codes.SETTINGS
    assert "give --kubeconfig FILE or set KUBECONFIG" in ran.err


def reaching(server: str, token: str, path: Path) -> Path:
    """A kubeconfig."""
    user, cluster = {"name": "u", "user": {"token": token}}, {"name": "c", "cluster": {"server": server}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    said = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "x"}
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **said}))
    return path


@pytest.mark.parametrize("verb", ["status", "pools", "plan", "doctor"])
def test_a_cluster_where_nobody_listens_is_named_with_the_way_out(lbctl, tmp_path: Path, verb: str) -> None:
    ran = lbctl(verb, "--kubeconfig", reaching("http://127.0.0.1:1", "x", tmp_path / "nowhere"))
    assert ran.code == codes.ERROR
    assert "no answer from the API server at http://127.0.0.1:1: connection refused" in ran.out + ran.err
    assert "Check --kubeconfig and --context" in ran.out + ran.err


def test_an_unknown_host_is_said_at_once(lbctl, tmp_path: Path) -> None:
    ran = lbctl("status", "--kubeconfig", reaching("http://no-such-host.invalid", "x", tmp_path / "nowhere"))
    assert ran.code == codes.ERROR
    assert "no answer from the API server at http://no-such-host.invalid: " in ran.err


@pytest.mark.parametrize("verb", ["status", "doctor"])
def test_credentials_that_nobody_knows_are_5(lbctl, world, tmp_path: Path, verb: str) -> None:
    server = world.sandbox.kube.url
    ran = lbctl(verb, "--kubeconfig", reaching(server, "old", tmp_path / "old"))
    assert ran.code == codes.SETTINGS
    assert f"the API server at {server} rejects these credentials (Unauthorized)" in ran.out + ran.err


def test_credentials_that_may_not_read_are_5(lbctl, world) -> None:
    world.sandbox.kube.faults.inject(Fault(effect="deny", verbs=("list", "watch"), resources=("nodes",)))
    ran = lbctl("status")
    assert ran.code == codes.SETTINGS
    assert "nodes is forbidden" in ran.err
    assert "`lbctl doctor` names the rule" in ran.err


def test_a_token_that_is_not_there_is_named(lbctl, tmp_path: Path) -> None:
    path = reaching("http://127.0.0.1:1", "x", tmp_path / "kubeconfig")
    path.write_text(path.read_text().replace('"token": "x"', '"tokenFile": "/nowhere/token"'))
    ran = lbctl("status", "--kubeconfig", path)
    assert (ran.code, "/nowhere/token" in ran.err) == (codes.SETTINGS, True)


def test_a_provider_that_is_not_installed_says_what_to_install(lbctl, manifest) -> None:
    ran = lbctl("plan", "-f", manifest("web"), "--provider", "gcp")
    assert ran.code == codes.SETTINGS
    assert "pip install 'lbctl[gcp]'" in ran.out + ran.err


def test_a_wrong_configuration_is_5(process, tmp_path: Path) -> None:
    (tmp_path / "lbctl.yaml").write_text("apiVersion: lbctl.io/v1alpha1\nkind: Config\nproviderz: [aws]\n")
    ran = process("plan")
    assert ran.code == codes.SETTINGS
    assert ran.err.endswith("lbctl.yaml has an unknown key 'providerz'; did you mean providers?\n")


@pytest.mark.parametrize(("error", "code"), [
    (LbctlError("x"), codes.ERROR),
    (Refused("x"), codes.ERROR),
    (Refused("x", reason="permission"), codes.SETTINGS),
    (SettingsError("x"), codes.SETTINGS),
    (CredentialsError("x"), codes.SETTINGS),
])  # fmt: skip
def test_errors_have_their_codes(error: LbctlError, code: int) -> None:
    assert codes.of(error) == code


def test_an_interrupt_is_130(lbctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Group, "invoke", interrupted)
    assert lbctl("version").code == codes.INTERRUPTED


def test_as_kubectls_plugin_it_is_called_so() -> None:
    assert (_name("/usr/bin/kubectl-lbctl"), _name("/usr/bin/lbctl")) == ("kubectl lbctl", "lbctl")


def test_kubectl_completes_verbs_and_flags(capsys) -> None:
    complete(["sta"])
    assert capsys.readouterr().out == "status\tServices and their addresses, and why one has none.\n:4\n"
    complete(["plan", "--detailed"])
    assert capsys.readouterr().out.startswith("--detailed-exitcode\t")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_has_a_script_for_every_shell(lbctl, shell: str) -> None:
    assert "_LBCTL_COMPLETE" in lbctl("completion", shell).out


def test_version_says_which(lbctl) -> None:
    assert lbctl("version").out.startswith("lbctl ")
    assert '"lbctl": "' in lbctl("version", "-o", "json").out


def test_providers_lists_what_is_installed(lbctl) -> None:
    said = lbctl("providers").out
    assert re.search(r"^memory +lbctl\.io/memory +lbctl .* yes +cloud, drain$", said, re.M)


def test_a_provider_without_a_policy_says_so(lbctl) -> None:
    ran = lbctl("policy", "memory")
    assert (ran.code, "no-policy: memory needs no permissions" in ran.err) == (codes.ERROR, True)


def test_config_view_shows_where_values_came_from(lbctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LBCTL_MEMORY_DRAIN", "5")
    said = lbctl("config", "view", "--show-origin", "--workers", "3").out
    assert re.search(r"^workers +3 +flag --workers$", said, re.M)
    assert re.search(r"^memory\.drain +5 +environment LBCTL_MEMORY_DRAIN$", said, re.M)
    assert re.search(r"^claims +finalizer +default$", said, re.M)


def test_config_view_can_be_used_as_a_file(lbctl, tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(lbctl("config", "view").out)
    assert lbctl("config", "validate", "shown.yaml").code == codes.OK


def test_the_schema_is_json(lbctl) -> None:
    assert json.loads(lbctl("config", "schema").out)["title"] == "lbctl configuration"


def test_config_view_asks_the_cluster_for_what_nobody_said(lbctl, world) -> None:
    said = lbctl("config", "view", "--show-origin", "--discover").out
    assert re.search(r"^cluster_id +[0-9a-f-]{36} +discovered from kube-system$", said, re.M)
