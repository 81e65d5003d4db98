"""`lbctl status`, `explain` and `doctor`: what is, why, and what to do."""

import json
import os
import re
import threading
from functools import partial

import pytest
import yaml

from lbctl.cli import codes, doctor, status
from lbctl.cli.session import Session
from lbctl.daemon import Cluster
from lbctl.memory import MemoryProvider
from lbctl.model import Node
from lbctl.provider import Plugin
from lbctl.sandbox.kube import Fault

BARE_METAL = ("--provider", "l2", "--default-provider", "l2", "--l2-addresses", "192.0.2.96/29")
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


def endpoints(world, ready: bool) -> None:
    body = {
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.1"], "conditions": {"ready": ready}, "nodeName": "node-1"}],
        "ports": [{"port": 80}],
    }  # fmt: skip
    world.client.request("POST", SLICES, body)


def test_status_says_why_there_is_no_address(lbctl, world) -> None:
    world.put("web")
    world.put("bad", ports=[{"port": 1, "protocol": "SCTP"}])
    lbctl("apply")
    rows = lbctl("status").out.splitlines()
    assert re.fullmatch(r"default +bad +- +<pending> +False +- +unsupported-protocol", rows[1])
    assert re.fullmatch(r"default +web +- +198\.18\.\S+ +True +False +no-endpoints", rows[2])


def test_status_knows_other_forms(lbctl, world) -> None:
    world.put()
    found = json.loads(lbctl("status", "-o", "json").out)["services"]
    assert [(s["name"], s["addresses"], s["deleting"]) for s in found] == [("web", [], False)]
    assert lbctl("status", "-o", "markdown").out.startswith("| namespace |")


def test_status_narrows(lbctl, world) -> None:
    world.put("web")
    world.put("api")
    assert "api" not in lbctl("status", "-l", "app=web").out
    assert "No Services" in lbctl("status", "-n", "elsewhere").err


class Told:
    """What a provider could tell: the same of all, until that changes."""

    heading, word = "told by", "first"

    def cell(self, addresses) -> str:
        return self.word

    def data(self, addresses) -> list[str]:
        return [self.word, *addresses]


@pytest.fixture
def told(monkeypatch) -> type[Told]:
    monkeypatch.setattr(Session, "insight", lambda *_: Told())
    monkeypatch.setattr(Told, "word", "first")
    monkeypatch.setattr(status, "AGAIN", 0.2)
    return Told


def test_status_carries_what_providers_tell_in_every_form(lbctl, world, told) -> None:
    world.put()
    assert "TOLD BY" in lbctl("status").out
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        assert read(lbctl("status", "-o", form).out)["services"][0]["told_by"] == ["first"]


def test_status_tells_of_services_without_a_class_what_it_tells_of_the_others(lbctl, world, monkeypatch) -> None:
    monkeypatch.setenv("LBCTL_CONFIG", os.devnull)
    world.put("web")
    world.put("classy", loadBalancerClass="lbctl.io/l2")
    monkeypatch.setattr(Session, "insight", lambda _self, name, _cluster: Told() if name == "l2" else None)
    rows = lbctl("status", "--kubeconfig", world.sandbox.kubeconfig).out.splitlines()[1:]
    assert [row.split()[-1] for row in rows] == ["first", "first"]


@pytest.fixture
def follow(world, capsys):
    """Follow in a thread, as -w does; what it has printed once that matches."""
    following: list[tuple[Cluster, threading.Thread]] = []

    def start(form: str):
        cluster = Cluster(world.client)
        cluster.watch()
        table = status.Table(Session({"default_provider": "memory"}), cluster, lambda s: s.metadata.name == "web")
        table.look()
        arguments = (table, cluster.stores.services.subscribe, form)
        following.append((cluster, threading.Thread(target=status._follow, args=arguments)))
        following[-1][1].start()
        return partial(printed, capsys, [""])

    yield start
    for cluster, thread in following:
        cluster.stop()
        thread.join(10)


def printed(capsys, seen: list[str], pattern: str) -> str:
    for _ in range(200):
        seen[0] += capsys.readouterr().out
        if re.search(pattern, seen[0]):
            break
        threading.Event().wait(0.05)
    assert re.search(pattern, seen[0])
    return seen[0]


def test_status_follows_what_changes(world, follow) -> None:
    seen = follow("table")
    world.put()
    seen(r"default +web +- +<pending>")
    world.client.request("DELETE", "/api/v1/namespaces/default/services/web")
    seen(r"default +web +- +- +False +- +deleted")


def test_status_follows_what_providers_tell_though_the_service_is_as_it_was(world, follow, told) -> None:
    world.put()
    seen = follow("table")
    told.word = "second"
    seen(r"default +web +- +<pending> .*second\n")


def test_status_follows_in_documents_of_the_same_shape(world, follow, told) -> None:
    seen = follow("yaml")
    world.put()
    text = seen("told_by:\n +- first")
    assert {s["name"] for part in yaml.safe_load_all(text) if part for s in part["services"]} == {"web"}


def test_explain_walks_from_the_address_to_the_pods(lbctl, world) -> None:
    world.put()
    endpoints(world, ready=True)
    lbctl("apply")
    said = lbctl("explain", "web").out
    assert said.startswith("default/web: it is served as it asks\n")
    assert re.search(r"1\. ok address: 198\.18\.\S+, ports 80/TCP", said)
    assert re.search(r"3\. ok NodePorts: 80/TCP → 3\d+", said)
    assert "6. ok ready pods: 1 of 1 are ready, on node-1" in said
    assert "$ kubectl get pods -o wide -n default -l app=web" in said


def test_explain_says_where_the_way_ends(lbctl, world) -> None:
    world.put()
    endpoints(world, ready=False)
    lbctl("apply")
    said = lbctl("explain", "svc/web").out
    assert said.startswith("default/web: it has its address, but not all is well on the way: see target health, ready")
    assert "!!: look here" in said
    assert "!! ready pods: 0 of 1 are ready" in said
    assert "!! target health: no-endpoints" in said


def test_explain_tells_of_a_refusal_and_of_changes(lbctl, world) -> None:
    world.put("bad", ports=[{"port": 1, "protocol": "SCTP"}])
    world.put("web")
    assert "! unsupported-protocol: only TCP and UDP can be served" in lbctl("explain", "default/bad").out
    assert "+ address" in lbctl("explain", "web").out
    assert json.loads(lbctl("explain", "bad", "-o", "json").out)["refusal"]["reason"] == "unsupported-protocol"


@pytest.mark.parametrize(("spec", "said"), [
    ({"loadBalancerClass": "example.com/other"}, "its class example.com/other is somebody else's"),
    ({"type": "ClusterIP"}, "its type is ClusterIP"),
])  # fmt: skip
def test_explain_says_what_is_not_ours(lbctl, world, spec, said: str) -> None:
    world.put(**spec)
    assert said in lbctl("explain", "web").out


def test_explain_without_such_a_service_is_1(lbctl, world) -> None:
    ran = lbctl("explain", "nobody")
    assert (ran.code, "there is no Service default/nobody" in ran.err) == (codes.ERROR, True)


def test_explain_does_not_send_to_itself(lbctl, world) -> None:
    world.put()
    assert "run lbctl explain default/web" in lbctl("plan").out
    assert "lbctl explain" not in lbctl("explain", "web").out
    lbctl("apply")
    assert "run lbctl explain" in world.client.get("/api/v1/namespaces/default/services/web").decode()
    said = lbctl("explain", "web").out
    assert "no-endpoints: no pod behind it is ready\n" in said
    assert "lbctl explain" not in said


def test_explain_has_no_node_ports_where_the_nodes_have_the_address(lbctl, world) -> None:
    world.put(loadBalancerClass="lbctl.io/l2", allocateLoadBalancerNodePorts=False)
    said = lbctl("explain", "web", *BARE_METAL).out
    assert "NodePorts" not in said
    assert "3. ok nodes: 3 may receive traffic" in said


@pytest.mark.parametrize(("name", "missing"), [
    ("nobodys", "no provider 'nobodys' is installed"), ("aws", "the AWS vpc-id is not known: give --aws-vpc-id"),
])  # fmt: skip
def test_explain_and_doctor_say_what_a_provider_lacks_and_promise_no_change(lbctl, world, name, missing: str) -> None:
    world.put(loadBalancerClass=f"lbctl.io/{name}")
    said = lbctl("explain", "web", "--provider", "memory").out
    assert re.match(rf"default/web: it cannot be planned here: .*{missing}", said)
    assert "Would change" not in said
    assert "it can be used" not in lbctl("doctor", "--no-reach", "--provider", name).out


def test_explain_quotes_what_a_name_could_do_to_a_shell(lbctl, manifest) -> None:
    path = manifest("web")
    path.write_text(path.read_text().replace("ports:", "selector: {app: '$(reboot)'}, ports:"))
    assert "-l 'app=$(reboot)'" in lbctl("explain", "web", "-f", path).out


def test_doctor_finds_nothing_wrong_in_a_good_cluster(lbctl, world) -> None:
    ran = lbctl("doctor", "--no-reach")
    assert ran.code == codes.OK
    assert re.search(r"^ok +permissions +all \d+ that the controller needs are granted", ran.out, re.M)
    assert re.search(r"^ok +memory +an ordinary Service would be served", ran.out, re.M)
    assert re.search(r"^warning +leader +nobody holds the Lease kube-system/lbctl.* lbctl run$", ran.out, re.M)


def test_doctor_names_a_missing_permission_and_its_fix(lbctl, world) -> None:
    world.sandbox.kube.faults.inject(Fault(effect="deny", verbs=("patch",), resources=("services/status",)))
    ran = lbctl("doctor", "--no-reach", "-o", "json")
    found = [f for f in json.loads(ran.out)["findings"] if f["level"] == "error"]
    assert ran.code == codes.SETTINGS
    assert "patch of services/status is not allowed" in found[0]["finding"]
    assert "--verb=patch --resource=services/status" in found[0]["fix"]


def test_doctor_says_which_settings_are_missing(lbctl, world) -> None:
    ran = lbctl("doctor", "--no-reach", "--provider", "memory", "--memory-drain", "soon")
    assert ran.code == codes.SETTINGS
    assert re.search(r"^error +memory ", ran.out, re.M)


def test_doctor_says_which_services_are_refused(lbctl, world) -> None:
    world.put("bad", ports=[{"port": 1, "protocol": "SCTP"}])
    assert "default/bad is refused: unsupported-protocol" in lbctl("doctor", "--no-reach").out


def test_doctor_tries_node_ports_from_here(lbctl, world, monkeypatch) -> None:
    tried: list[tuple[str, int]] = []

    def connect(place: tuple[str, int], _timeout: float) -> None:
        tried.append(place)
        raise OSError("refused")

    monkeypatch.setattr(doctor.socket, "create_connection", connect)
    world.put()
    said = lbctl("doctor").out
    assert {address for address, _ in tried} == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    assert re.search(r"^warning +NodePorts +3 of 3 do not answer from here: 10\.0\.0\.1:3\d+ \(refused\); ", said, re.M)


def test_doctor_asks_bare_metal_for_no_instances(lbctl, world) -> None:
    world.put()
    nodes = json.loads(world.client.get("/api/v1/nodes"))["items"]
    world.client.request("DELETE", f"/api/v1/nodes/{nodes[0]['metadata']['name']}")
    world.client.request("POST", "/api/v1/nodes", {"metadata": {"name": "bare"}, "status": nodes[0]["status"]})
    said = lbctl("doctor", *BARE_METAL).out
    assert re.search(r"^ok +nodes +3 may receive traffic from l2", said, re.M)
    assert not {"providerID", "NodePorts"} & set(said.split())


def test_doctor_asks_where_instances_are_found_by_provider_ids() -> None:
    cloud = Plugin("cloud", MemoryProvider, needs_provider_ids=True)
    (found,) = doctor._nodes(cloud, (Node("a", provider_id="cloud:///1"), Node("b")))
    assert (found.level, found.finding) == ("warning", "1 of 2 have no providerID, b among them")


def test_doctor_asks_for_what_the_provider_reads(lbctl, world) -> None:
    world.sandbox.kube.faults.inject(Fault(effect="deny", verbs=("watch",), resources=("addresspools",)))
    ran = lbctl("doctor", "--no-reach", *BARE_METAL)
    assert "watch of addresspools is not allowed" in ran.out
    assert "--verb=watch --resource=addresspools.lbctl.io" in ran.out


def test_doctor_asks_for_the_status_that_the_provider_writes(lbctl, world) -> None:
    world.sandbox.kube.faults.inject(Fault(effect="deny", verbs=("patch",), resources=("addresspools/status",)))
    said = lbctl("doctor", "--no-reach", *BARE_METAL).out
    assert re.search(r"^warning +permissions +patch of addresspools/status is not allowed: ", said, re.M)
    assert "--verb=patch --resource=addresspools.lbctl.io/status" in said


@pytest.mark.parametrize("place", ["metallb-system/controller", "kube-system/kube-vip-ds", "any/metallb-speaker"])
def test_doctor_knows_rivals_by_the_names_of_their_manifests(place: str) -> None:
    assert doctor._rivalry(place)
    assert not doctor._rivalry("default/controller")


def test_what_doctor_asks_for_is_what_the_controller_does() -> None:
    asked = {(verb, permission.name) for permission in doctor.PERMISSIONS for verb in permission.verbs}
    assert {("patch", "services/status"), ("update", "leases"), ("create", "events")} < asked
    assert not any(verb in ("delete", "*") for verb, _ in asked)
