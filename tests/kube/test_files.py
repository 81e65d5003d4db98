"""Manifests from files: what is used, what is skipped, what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from lbctl.cluster import Watch
from lbctl.kube import files, objects, read

HERE = Path(__file__).parent.parent / "services"

WEB = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, ports: [{port: 80}]}
"""


def reasons(text):
    return [problem.reason for problem in files.parse(text).problems]


@pytest.mark.parametrize("path", sorted(HERE.glob("*.yaml")), ids=lambda path: path.stem)
def test_real_services_are_read(path):
    (service,) = files.load([path]).services
    assert read.load_balancer(service, (), None, provider="aws").problem is None


def test_a_folder_is_read_whole(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.yml").write_text(WEB)
    (tmp_path / "b.json").write_text('{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}')
    (tmp_path / "README.md").write_text("not a manifest: [")
    found = files.load([tmp_path])
    assert (len(found.services), len(found.nodes), found.problems) == (1, 1, ())


def test_standard_input_is_a_dash():
    assert len(files.load(["-"], stdin=[WEB.encode()]).services) == 1


def test_documents_and_lists_are_taken_apart():
    text = WEB + "---\napiVersion: v1\nkind: List\nitems:\n- " + WEB.replace("web", "api").replace("\n", "\n  ")
    assert [objects.key(s) for s in files.parse(text).services] == ["default/web", "default/api"]


def test_what_is_not_ours_is_counted():
    text = WEB.replace("LoadBalancer", "ClusterIP") + "---\nkind: Pod\n---\nkind: Pod\n---\n"
    assert files.parse(text).skipped == {"Service of type ClusterIP": 1, "Pod": 2}


def test_a_service_twice_names_both_places(tmp_path):
    (tmp_path / "a.yaml").write_text(WEB)
    (tmp_path / "b.yaml").write_text("---\n\n" + WEB)
    (problem,) = files.load([tmp_path]).problems
    assert problem.reason == "duplicate-service"
    assert problem.where == f"{tmp_path}/b.yaml:3"
    assert f"{tmp_path}/a.yaml:1" in problem.message


def test_what_is_no_yaml_is_named_with_its_line():
    (problem,) = files.parse("a: 1\nb: [\n", "f.yaml").problems
    assert (problem.where, problem.reason) == ("f.yaml:3", "not-yaml")


@pytest.mark.parametrize("text", [b"\xff\xfe\x00\x00\xd8", b"a: \x80", b"a: \x00", b"a: !!python/object:os.system x"])
def test_hostile_bytes_are_a_problem_not_a_crash(text):
    assert reasons(text) in (["not-yaml"], [])


def test_one_malformed_service_does_not_hide_the_next():
    found = files.parse(WEB.replace("80", "'80'") + "---\n" + WEB.replace("web", "api"), "f")
    assert [objects.key(s) for s in found.services] == ["default/api"]
    assert [(p.where, p.reason) for p in found.problems] == [("f:1", "malformed-service")]


@pytest.mark.parametrize("name", ["../../secrets/x", "a/b", "A", "", "x\ny", "\x1b[31m"])
def test_a_name_that_is_none_is_refused(name):
    text = WEB.replace("{name: web}", "{name: " + json.dumps(name) + "}")
    assert reasons(text) == ["bad-name"]


def test_a_few_lines_of_aliases_do_not_become_billions_of_values():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(12))
    assert reasons(bomb) == ["too-many-values"]


def test_merged_aliases_do_not_either():
    bomb = "a0: &a0 {k: v}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(40))
    assert reasons(bomb) == ["too-many-values"]


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 100_000, '{"a":' * 100_000])
def test_what_has_no_end_is_refused(text):
    assert reasons(text) in (["too-deep"], ["too-many-values"])


def test_ordinary_aliases_work():
    text = WEB.replace("metadata: {name: web}", "metadata: {name: web, labels: &l {a: b}, annotations: *l}")
    assert files.parse(text).services[0].metadata.annotations == {"a": "b"}


def test_dates_and_times_stay_text():
    text = WEB.replace("{name: web}", "{name: web, annotations: {on: 2026-01-01, at: 12:30:45}}")
    assert reasons(text) == ["malformed-service"]
    quoted = text.replace("{on:", "{'on':")
    assert files.parse(quoted).services[0].metadata.annotations == {"on": "2026-01-01", "at": "12:30:45"}


def test_a_missing_file_is_a_problem(tmp_path):
    assert [p.reason for p in files.load([tmp_path / "none.yaml"]).problems] == ["unreadable"]


def test_files_fill_stores_as_a_cluster_would():
    assert files.parse(WEB).stores().services.get("default/web") is not None


def test_over_a_cluster_a_file_keeps_what_the_cluster_allocated():
    (item,) = files.parse(WEB.replace("80}", "80}, {port: 81}")).services
    live = objects.Service(
        objects.Metadata("web", "default", "u1", "7", finalizers=("lbctl.io/aws",)),
        objects.ServiceSpec("LoadBalancer", ports=(objects.ServicePort(80, node_port=30080),), ip_families=("IPv4",)),
    )
    merged = files.overlay(live, item)
    assert [p.node_port for p in merged.spec.ports] == [30080, None]
    assert (merged.metadata.uid, merged.metadata.finalizers) == ("u1", ("lbctl.io/aws",))


def test_what_only_a_provider_knows_is_put_aside_for_it():
    pool = {"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "spec": {"addresses": ["192.0.2.0/24"]}}
    found = files.parse(yaml.safe_dump({**pool, "metadata": {"name": "lab", "namespace": "metallb-system"}}))
    watch = Watch("ipaddresspools", "metallb.io", "v1beta1", "metallb-system")
    assert [item.spec for item in found.of(watch)] == [{"addresses": ["192.0.2.0/24"]}]
    assert (found.skipped, found.passed_over([watch])) == ({"IPAddressPool": 1}, {})
    assert found.of(Watch("ipaddresspools", "metallb.io", "v1beta1", "elsewhere")) == ()
