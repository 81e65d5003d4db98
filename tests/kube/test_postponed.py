"""Packages that run only when somebody asks for what they define, and the official client without its models."""

import importlib
import subprocess
import sys
import textwrap

import pytest

from lbctl.kube.postponed import Later, Postponed, later, postponed


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`package(init, part)` writes a package with one submodule, and gives its name."""
    written = []

    def write(init, part="color = 'blue'"):
        name = f"made_up_{tmp_path.name.replace('-', '_')}_{len(written)}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(init)
        (folder / "part.py").write_text(part)
        written.append(name)
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    for loaded in [m for m in sys.modules if m.partition(".")[0] in written]:
        del sys.modules[loaded]


def test_a_submodule_comes_without_the_packages_code(package):
    name = package("raise RuntimeError('it ran')")
    with postponed(name):
        assert importlib.import_module(f"{name}.part").color == "blue"
    assert isinstance(sys.modules[name], Postponed)


def test_the_code_runs_once_when_somebody_asks_for_what_it_defines(package):
    name = package("runs = globals().get('runs', 0) + 1\nfrom .part import color")
    with postponed(name):
        found = importlib.import_module(name)
    assert (found.color, found.runs, found.runs) == ("blue", 1, 1)
    assert type(sys.modules[name]) is type(sys)


def test_what_nobody_defines_is_missing_as_ever(package):
    name = package("")
    with postponed(name):
        found = importlib.import_module(name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = found.nothing


def test_code_that_fails_is_tried_again(package):
    name = package("import not_there_at_all")
    with postponed(name):
        found = importlib.import_module(name)
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
            _ = found.color


def test_after_an_import_error_nothing_is_left_of_the_attempt(package):
    name = package("", "from . import part_two")
    with pytest.raises(ImportError), postponed(name):
        importlib.import_module(f"{name}.part")
    assert not [m for m in sys.modules if m.partition(".")[0] == name]


def test_what_was_imported_before_stays(package):
    name = package("color = 'red'")
    importlib.import_module(name)
    with postponed(name):
        assert sys.modules[name].color == "red"


def test_a_package_that_is_not_there_is_an_import_error():
    with pytest.raises(ImportError, match="no_such_package"), postponed("no_such_package"):
        pass


def test_what_is_taken_for_later_is_imported_when_it_is_called(package):
    name = package("", "def double(number, times=2): return times * number")
    user = package(f"from {name}.part import double")
    with later(f"{name}.part", "double"):
        taken = importlib.import_module(user).double
    assert isinstance(taken, Later)
    assert f"{name}.part" not in sys.modules
    assert (taken(4), taken(4, times=3)) == (8, 12)
    assert importlib.import_module(f"{name}.part").double(1) == 2


def test_what_is_known_already_is_given_for_it(package):
    name = package("", "def double(number): return 2 * number")
    user = package(f"from {name} import part\ndef four(): return part.double(2)")
    with later(f"{name}.part", double=len):
        assert importlib.import_module(f"{name}.part").double is len
    assert importlib.import_module(user).four() == 4


def test_what_nobody_said_is_missing_while_it_is_put_off(package):
    name = package("", "double = quadruple = None")
    user = package(f"from {name}.part import quadruple")
    with pytest.raises(ImportError, match="quadruple"), later(f"{name}.part", "double"):
        importlib.import_module(user)
    assert importlib.import_module(user).quadruple is None


def test_what_was_imported_before_is_not_put_off(package):
    name = package("", "color = 'blue'")
    found = importlib.import_module(f"{name}.part")
    with later(f"{name}.part", "color"):
        assert sys.modules[f"{name}.part"] is found


def run(code):
    """In a process of its own: here somebody has imported the models long ago."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_official_client_comes_without_its_models():
    loaded = run("""
        import sys
        from lbctl.kube.client import official
        official()
        print(*(name for name in sys.modules if name.startswith("kubernetes.client.")))
    """).split()
    assert "kubernetes.client.api_client" in loaded
    assert not [name for name in loaded if name.startswith(("kubernetes.client.models.", "kubernetes.client.api."))]


def test_what_the_official_client_hardly_ever_needs_comes_when_it_does():
    said = run("""
        import sys
        from lbctl.kube.client import official
        ours, kube_config = official(), official().config.kube_config
        rare = ["requests", "requests_oauthlib", "oauthlib.common", "multiprocessing", "dateutil.parser", "yaml.reader"]
        print([name for name in rare if name in sys.modules])
        import os
        print(ours.configuration().connection_pool_maxsize == 5 * os.cpu_count(), "multiprocessing" in sys.modules)
        print(sys.modules["kubernetes.client.api_client"].parse("2026-01-02").day, kube_config.yaml.safe_load("[6]"))
        print(ours.rest.should_bypass_proxies("https://kube.local", no_proxy="kube.local"))
        print(kube_config.OAuth2Session(client_id="me").client_id, issubclass(
            kube_config.oauthlib.oauth2.rfc6749.errors.InvalidClientIdError, Exception))
        print(ours.api_client(ours.configuration(), pool_threads=1).pool.apply(len, ["three"]))
        import requests.utils, oauthlib
        print(requests.utils.should_bypass_proxies.__module__, oauthlib.common.Request.__name__)
    """)
    assert said.splitlines() == ["[]", "True False", "2 [6]", "True", "me True", "5", "requests.utils Request"]


def test_who_wants_the_models_in_the_same_process_gets_them():
    said = run("""
        from lbctl.kube.client import official
        ours = official()
        from lbctl.sandbox.kube.schema import fields
        from kubernetes import client, config, watch
        print("spec" in fields("V1Service"), client.ApiClient is ours.api_client, config is ours.config)
        print(client.ApiClient(client.Configuration()).deserialize, watch.Watch, client.models.V1Pod is client.V1Pod)
    """)
    assert said.splitlines()[0] == "True True True"
    assert said.endswith("True\n")


def test_who_had_them_before_keeps_them():
    said = run("""
        import kubernetes
        from lbctl.kube.client import official
        print(official().api_client is kubernetes.client.ApiClient, official().config is kubernetes.config)
    """)
    assert said == "True True\n"


def test_a_release_that_is_built_in_another_way_is_imported_as_it_is():
    said = run("""
        import sys
        from lbctl.kube import client, postponed
        def another_way(name): raise ImportError(name)
        postponed._postpone = another_way
        print(client.official().api_client.__name__, "kubernetes.client.models.v1_pod" in sys.modules)
        print("requests" in sys.modules)
    """)
    assert said == "ApiClient True\nTrue\n"
