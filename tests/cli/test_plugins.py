"""Plugins by entry point: found, refused with the way out, or standing in for what is missing."""

from datetime import UTC, datetime
from importlib.metadata import EntryPoint

import pytest

from lbctl import plugins
from lbctl.errors import SettingsError
from lbctl.model import LoadBalancer, Owner
from lbctl.provider import Harness, Plugin, Scope


def missing(*_arguments: object) -> object:
    raise ModuleNotFoundError("No module named 'cloudsdk'", name="cloudsdk")


def registered(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    found = {name: EntryPoint(name, value, plugins.PROVIDERS) for name, value in points.items()}
    monkeypatch.setattr(plugins, "points", lambda group: found if group == plugins.PROVIDERS else {})


def test_ours_are_found_as_a_strangers_would_be() -> None:
    assert {"aws", "memory"} <= set(plugins.points(plugins.PROVIDERS))
    assert plugins.plugin("memory").name == "memory"


def test_what_is_installed_is_looked_for_once(monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: asked.append(group) or [])
    assert plugins.points("made.up") == plugins.points("made.up") == {}
    assert asked == ["made.up"]


@pytest.mark.parametrize(("name", "said"), [
    ("memry", "did you mean memory?"), ("gcp", "pip install 'lbctl[gcp]'"), ("zzz", "there are: aws,"),
])  # fmt: skip
def test_an_unknown_provider_says_what_there_is(name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=r".") as caught:
        plugins.plugin(name)
    assert said in caught.value.message


@pytest.mark.parametrize(("extra", "said"), [
    ("", plugins.install("cloud")), ("cloud", plugins.install("cloud")),
    ("their-thing[sdk]", "pip install 'their-thing[sdk]'"), ("pip install x", "pip install x"),
])  # fmt: skip
def test_a_missing_sdk_says_how_to_install_it(extra: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        plugins.provider(Plugin("cloud", missing, extra=extra), Harness())  # type: ignore[arg-type]
    assert caught.value.message == f"cloud needs the Python package cloudsdk, which is not installed: {said}"


def test_a_plugin_that_cannot_be_imported_is_listed_with_what_it_needs(monkeypatch) -> None:
    registered(monkeypatch, broken="no_such_module:plugin")
    assert [p.missing for p in plugins.listed()] == [
        "broken needs the Python package no_such_module, which is not installed: "
        "pip install 'lbctl[broken]' (in a clone of lbctl: pip install -e '.[broken]')"
    ]


def test_what_is_no_plugin_says_so(monkeypatch) -> None:
    registered(monkeypatch, odd="json:dumps")
    with pytest.raises(SettingsError, match="is no lbctl.provider.Plugin"):
        plugins.plugin("odd")


def test_an_unconfigured_provider_refuses_by_name_and_touches_nothing() -> None:
    stand = plugins.Unconfigured("gcp", SettingsError("give --gcp-project"))
    scope = Scope(datetime(2026, 1, 1, tzinfo=UTC))
    desired = stand.desired([LoadBalancer(Owner("a/b"))], stand.observe(scope))
    assert [(r.owner, r.reason, r.message) for r in desired.refused] == [
        ("a/b", "provider-not-configured", "give --gcp-project")
    ]
    assert (desired.resources, stand.kinds) == ((), ())
