"""`lbctl plan`: of files, of a cluster, of files over a cluster."""

import json
from pathlib import Path

import pytest
import yaml

from lbctl.cli import codes, inputs, output

NODE = """
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
"""
BAD = """
apiVersion: v1
kind: Service
metadata: {name: bad}
spec: {type: LoadBalancer, ports: [{port: 1, protocol: SCTP}]}
"""


def test_files_alone_are_a_preview(lbctl, manifest) -> None:
    ran = lbctl("plan", "-f", manifest("web", more="apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"))
    assert ran.code == codes.OK
    assert "Assumed: no Node stands in the files" in ran.out
    assert "Skipped: 1 ConfigMap" in ran.out
    assert "node_port: (known after apply)" in ran.out
    assert ran.out.count("Preview: 3 to create, 0 to change, 0 to delete; 0 unchanged.") == 1


def test_nodes_may_stand_in_the_files(lbctl, manifest) -> None:
    ran = lbctl("plan", "-f", manifest("web", more=NODE))
    assert 'targets: ["10.0.0.1"]' in ran.out
    assert "no Node" not in ran.out


def test_files_come_from_standard_input_too(process, manifest) -> None:
    ran = process("plan", "-f", "-", stdin=manifest("web").read_text())
    assert "+ listener" in ran.out


def test_a_folder_is_read_whole(lbctl, manifest, tmp_path: Path) -> None:
    manifest("web", name="a.yaml")
    manifest("api", name="b.yml")
    ran = lbctl("plan", "-f", tmp_path)
    assert "default/web" in ran.out
    assert "default/api" in ran.out


def test_changes_are_2_only_if_asked_for(lbctl, manifest) -> None:
    path = manifest("web")
    assert lbctl("plan", "-f", path).code == codes.OK
    assert lbctl("plan", "-f", path, "--detailed-exitcode").code == codes.CHANGES
    nothing = manifest("none", more="", name="empty.yaml")
    nothing.write_text("")
    assert lbctl("plan", "-f", nothing, "--provider", "memory", "--detailed-exitcode").code == codes.OK


def test_a_refusal_is_4_if_strict(lbctl, manifest) -> None:
    path = manifest("web", more=BAD)
    usual = lbctl("plan", "-f", path, "--default-provider", "memory")
    assert (usual.code, "! default/bad  unsupported-protocol" in usual.out) == (codes.OK, True)
    assert lbctl("plan", "-f", path, "--default-provider", "memory", "--strict").code == codes.PARTIAL


def test_a_file_that_cannot_be_read_is_1_and_the_rest_is_planned(lbctl, manifest) -> None:
    bad = manifest(more="a: [", name="bad.yaml")
    ran = lbctl("plan", "-f", bad, "-f", manifest("web"), "-f", "/no/such/file")
    assert ran.code == codes.ERROR
    assert ran.out.count("Not read:") == 2
    assert "default/web" in ran.out


def test_files_with_nothing_for_anybody_need_no_provider(lbctl, manifest) -> None:
    ran = lbctl("plan", "-f", manifest(more=BAD))
    assert ran.code == codes.OK
    assert "Services without a loadBalancerClass are left alone (1)" in ran.out


def test_a_provider_alone_serves_no_service_without_a_class_and_the_plan_says_so(lbctl, manifest) -> None:
    path = manifest(more=BAD)
    assert "are left alone (1)" in lbctl("plan", "-f", path, "--provider", "memory").out
    assert "left alone" not in lbctl("plan", "-f", path, "--default-provider", "memory").out


def test_services_of_another_controller_are_left_alone_and_the_plan_says_so(lbctl, manifest) -> None:
    path = manifest("web")
    text = Path(path).read_text()
    assert "loadBalancerClass: lbctl.io/memory" in text
    Path(path).write_text(text.replace("loadBalancerClass: lbctl.io/memory", "loadBalancerClass: metallb"))
    ran = lbctl("plan", "-f", path)
    assert ran.code == codes.OK
    assert "Services of another controller's loadBalancerClass (metallb) are left alone (1)" in ran.out


def test_one_service_twice_in_files_is_a_problem(lbctl, manifest) -> None:
    assert "duplicate-service" in lbctl("plan", "-f", manifest("web", "web")).out


def test_narrowed_by_namespace_and_labels(lbctl, manifest) -> None:
    path = manifest("web", "api")
    assert "default/api" not in lbctl("plan", "-f", path, "-l", "app=web").out
    assert "default/api" not in lbctl("plan", "-f", path, "-n", "elsewhere").out
    assert "default/api" in lbctl("plan", "-f", path, "-l", "app in (api, x),app!=web").out
    assert lbctl("plan", "-f", path, "-l", "a=b=c").code == codes.USAGE


def test_every_form_says_the_same(lbctl, manifest) -> None:
    path = manifest("web")
    as_json = json.loads(lbctl("plan", "-f", path, "-o", "json").out)
    as_yaml = yaml.safe_load(lbctl("plan", "-f", path, "-o", "yaml").out)
    assert as_json == as_yaml
    assert as_json["summary"]["create"] == 3
    assert lbctl("plan", "-f", path, "-o", "markdown").out.startswith("### lbctl preview: 3 to create")
    assert lbctl("plan", "-f", path, "-o", "github").out.startswith("::notice title=")


def test_a_plan_is_the_same_twice(lbctl, manifest) -> None:
    path = manifest("web", "api")
    assert lbctl("plan", "-f", path, "-o", "json").out == lbctl("plan", "-f", path, "-o", "json").out


def test_a_cluster_is_planned_and_nothing_is_written(lbctl, world) -> None:
    world.put()
    before = world.sandbox.kube.requests.copy()
    ran = lbctl("plan")
    assert "+ status default/web" in ran.out
    assert {r.method for r in list(world.sandbox.kube.requests)[len(before) :]} == {"GET"}
    assert world.cloud.inventory() == frozenset()


def test_files_over_a_cluster_say_what_a_pull_request_changes(lbctl, world, manifest) -> None:
    world.put(loadBalancerClass="lbctl.io/memory")
    lbctl("apply")
    path = manifest("web", more="")
    path.write_text(path.read_text().replace("port: 80", "port: 81"))
    ran = lbctl("plan", "-f", path)
    assert "files over 127.0.0.1" in ran.out
    assert "+ listener" in ran.out
    assert "- listener" in ran.out


def test_the_servers_address_keeps_its_secrets() -> None:
    assert inputs._host("https://user:secret@prod.example:6443/also-secret") == "prod.example:6443"


def test_a_cloud_that_cannot_be_read_is_named_and_5(lbctl, manifest) -> None:
    ran = lbctl("plan", "-f", manifest("web"), "--provider", "memory", "--memory-drain", "soon")
    assert (ran.code, ran.out) == (codes.SETTINGS, "")
    assert ran.err.startswith("lbctl: memory: ")


def test_where_one_provider_cannot_plan_the_others_do(lbctl, manifest) -> None:
    ran = lbctl("plan", "-f", manifest("web"), "--provider", "memory", "--provider", "nope")
    assert ran.code == codes.SETTINGS
    assert ran.out.splitlines()[1].startswith("Not read: nope: ")
    assert "+ address" in ran.out


def test_a_saved_plan_is_readable_by_its_owner_only(lbctl, manifest, tmp_path: Path) -> None:
    lbctl("plan", "-f", manifest("web"), "--out", "p.json")
    assert (tmp_path / "p.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "p.json").read_text())["format_version"] == "1"


def test_there_is_no_colour_without_a_terminal(lbctl, manifest) -> None:
    assert "\x1b" not in lbctl("plan", "-f", manifest("web")).out


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_is_for_terminals_that_want_it(monkeypatch, no_color: str, coloured: bool) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(output.sys.stdout, "isatty", lambda: True, raising=False)
    assert output.colourful() is coloured
