"""`lbctl apply`: once along the path, under the controller's Lease, and an honest exit code."""

import json
import threading
from pathlib import Path

import pytest

from lbctl.apply import Result
from lbctl.cli import apply as verb
from lbctl.cli import codes
from lbctl.errors import CredentialsError, LbctlError, Refused, Retry
from lbctl.kube.lease import Elector, Leases
from lbctl.memory import MemoryProvider
from lbctl.model import SHARED


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, *, service: str = "") -> None:
    """From now on the provider answers changes (of one Service, or of all) with this error."""
    good = MemoryProvider.apply

    def apply(self, changes):
        hit = all(service in change.owner for change in changes)
        return [error] * len(changes) if hit else good(self, changes)

    monkeypatch.setattr(MemoryProvider, "apply", apply)


def test_a_service_gets_its_address(lbctl, world) -> None:
    world.put()
    ran = lbctl("apply")
    assert ran.code == codes.OK
    assert "Done: 4 changes applied" in ran.out
    assert world.address().startswith("198.18.")


def test_the_second_time_there_is_nothing_to_do(lbctl, world) -> None:
    world.put()
    lbctl("apply")
    ran = lbctl("reconcile", "--once")
    assert (ran.code, "Plan: 0 to create, 0 to change, 0 to delete; 4 unchanged." in ran.out) == (codes.OK, True)


def test_a_one_shot_leaves_no_finalizer_unless_it_is_told_to(lbctl, world) -> None:
    world.put()
    assert "+ claim" not in lbctl("apply").out
    assert "+ claim default/web" in lbctl("apply", "--claims", "finalizer").out


def test_what_is_only_inferred_to_be_unwanted_needs_prune(lbctl, world) -> None:
    world.put("web")
    world.put("api")
    lbctl("apply")
    world.remove("web")
    kept = lbctl("apply")
    assert (kept.code, "without --prune" in kept.out) == (codes.OK, True)
    assert lbctl("apply", "--prune").code == codes.OK
    assert not any(".web." in line for line in world.cloud.inventory())


def test_a_safety_limit_stops_all_of_it_with_3(lbctl, world) -> None:
    world.put()
    lbctl("apply")
    world.remove("web")
    before = world.cloud.inventory()
    ran = lbctl("apply", "--prune")
    assert (ran.code, "is this the right cluster?" in ran.err) == (codes.LIMIT, True)
    assert lbctl("plan", "--prune").code == codes.LIMIT
    assert world.cloud.inventory() == before
    assert lbctl("apply", "--prune", "--max-delete=100%").code == codes.OK
    assert world.cloud.inventory() == frozenset()


def test_narrowed_it_deletes_nothing_outside(lbctl, world) -> None:
    world.put("web")
    world.put("api")
    lbctl("apply")
    world.remove("web")
    ran = lbctl("apply", "-l", "app=api", "--prune")
    assert (ran.code, "default/web" in ran.out) == (codes.OK, False)


def test_a_saved_plan_is_applied_if_it_is_still_the_plan(lbctl, world) -> None:
    world.put()
    lbctl("plan", "--out", "p.json")
    assert lbctl("apply", "p.json").code == codes.OK
    assert world.address()


def test_a_stale_plan_is_6(lbctl, world) -> None:
    world.put()
    lbctl("plan", "--out", "p.json")
    world.put("another")
    ran = lbctl("apply", "p.json")
    assert (ran.code, "plan, review and apply again" in ran.err) == (codes.STALE, True)
    assert world.address() == ""


def test_what_is_no_saved_plan_is_1(lbctl, world, tmp_path: Path) -> None:
    world.put()
    (tmp_path / "p.json").write_text("{}")
    assert lbctl("apply", "p.json").code == codes.ERROR


def test_a_live_controller_is_named_and_1(lbctl, world) -> None:
    world.put()
    held = Elector(Leases(world.client, "kube-system"), "lbctl", "somebody")
    assert held.acquire(5)
    ran = lbctl("apply", "--lock-timeout", "100ms")
    assert (ran.code, "is held by somebody" in ran.err) == (codes.ERROR, True)
    held.stop()
    assert lbctl("apply").code == codes.OK


def test_the_lease_is_given_back(lbctl, world) -> None:
    world.put()
    lbctl("apply")
    lease = Leases(world.client, "kube-system").get("lbctl")
    assert lease is not None
    assert lease.spec.holder_identity == ""


def test_a_lease_lost_meanwhile_ends_it_with_1(lbctl, world, monkeypatch) -> None:
    world.put()
    monkeypatch.setattr(Elector, "may_write", lambda _self: False)
    monkeypatch.setattr(verb, "PATIENCE", 2.0)
    ran = lbctl("apply")
    assert (ran.code, "the Lease was lost" in ran.err) == (codes.ERROR, True)
    assert not world.address()


def test_what_one_provider_shares_hides_no_failure_of_anothers() -> None:
    ended = verb._Ended()
    ended.take("aws", {SHARED: Result(SHARED, "failed")})
    ended.take("gcp", {SHARED: Result(SHARED, "done")})
    assert [result.outcome for result in ended.ended("failed", "done")] == ["failed", "done"]


def test_with_changes_in_flight_the_lease_is_kept_until_it_runs_out(lbctl, world, monkeypatch) -> None:
    world.put()
    hang = threading.Event()

    def apply(_self, changes):
        hang.wait(20)
        return [Retry(1.0, "too late") for _ in changes]

    monkeypatch.setattr(MemoryProvider, "apply", apply)
    assert lbctl("apply", "--wait=300ms").code == codes.TIMEOUT
    lease = Leases(world.client, "kube-system").get("lbctl")
    hang.set()
    assert lease is not None
    assert lease.spec.holder_identity.startswith("lbctl-apply@")


def test_one_failure_among_others_is_4(lbctl, world, monkeypatch) -> None:
    world.put("web")
    world.put("api")
    failing(monkeypatch, Refused("no more of them", reason="quota"), service="web")
    ran = lbctl("apply")
    assert (ran.code, "! default/web  quota: no more of them" in ran.out) == (codes.PARTIAL, True)
    assert world.address("api")


def test_if_all_fail_it_is_1_or_5(lbctl, world, monkeypatch) -> None:
    world.put()
    failing(monkeypatch, LbctlError("the cloud fell down"))
    assert lbctl("apply").code == codes.ERROR
    failing(monkeypatch, CredentialsError("expired: renew them"))
    assert lbctl("apply").code == codes.SETTINGS


def test_what_is_not_ready_in_time_is_7_if_it_was_waited_for(lbctl, world, monkeypatch) -> None:
    world.put()
    failing(monkeypatch, Retry(0.1, "still provisioning"), service="web")
    ran = lbctl("apply", "--wait=500ms")
    assert (ran.code, "… default/web  not-ready: still provisioning" in ran.out) == (codes.TIMEOUT, True)


def test_what_is_not_ready_yet_is_tried_again(lbctl, world, monkeypatch) -> None:
    world.put()
    good, answers = MemoryProvider.apply, [Retry(0.05, "still provisioning")] * 2

    def apply(self, changes):
        return [answers.pop()] if answers and changes[0].kind == "address" else good(self, changes)

    monkeypatch.setattr(MemoryProvider, "apply", apply)
    assert lbctl("apply", "--wait").code == codes.OK
    assert world.address()


def test_strict_is_4_for_a_refusal_and_the_others_are_applied(lbctl, world) -> None:
    world.put("web")
    world.put("bad", ports=[{"port": 1, "protocol": "SCTP"}])
    assert lbctl("apply", "--strict").code == codes.PARTIAL
    assert world.address("web")


def test_json_tells_how_every_service_ended(lbctl, world) -> None:
    world.put()
    said = json.loads(lbctl("apply", "-o", "json").out)
    ended = {result["service"]: result["outcome"] for result in said["results"]}
    assert ended == {"shared": "done", "default/web": "done"}
    assert said["api_calls"]["memory"] > 0


def test_files_alone_need_nodes_ports_and_a_cluster_id(lbctl, manifest) -> None:
    ran = lbctl("apply", "-f", manifest("web"))
    assert ran.code == codes.SETTINGS
    assert "nodePorts (web have ports without one) and Nodes and --cluster-id" in ran.err


def test_files_alone_can_be_applied_if_they_say_all(lbctl, manifest) -> None:
    path = manifest("web", more="apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n", node_port=30080)
    cloud = ("--memory-cloud", "files-alone", "--cluster-id", "c1")
    assert "Done: 3 changes applied" in lbctl("apply", "-f", path, *cloud).out
    assert "3 unchanged" in lbctl("plan", "-f", path, *cloud).out


def test_files_over_a_cluster_are_for_planning(lbctl, world, manifest) -> None:
    assert lbctl("apply", "-f", manifest("web")).code == codes.USAGE


def test_somebody_who_says_no_is_taken_at_the_word(lbctl, world, monkeypatch) -> None:
    world.put()
    monkeypatch.setattr(verb, "_agreed", lambda _yes: False)
    assert lbctl("apply").code == codes.INTERRUPTED
    assert world.address() == ""


def test_the_lease_is_where_the_manifests_put_the_controller(lbctl, world) -> None:
    world.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": "lbctl-system"}})
    world.put()
    lbctl("apply")
    assert Leases(world.client, "lbctl-system").get("lbctl")
    assert Leases(world.client, "kube-system").get("lbctl") is None


def test_services_of_a_provider_that_is_not_installed_are_told(lbctl, world) -> None:
    world.put("web")
    world.put("far", loadBalancerClass="lbctl.io/gcp")
    config = world.sandbox.config
    config.write_text(config.read_text().replace('"providers": [\n    "memory"\n  ],', ""))
    ran = lbctl("apply", "--strict")
    assert (ran.code, "! default/far  provider-not-configured" in ran.out) == (codes.PARTIAL, True)
    assert "pip install 'lbctl[gcp]'" in lbctl("explain", "far").out
    assert world.address("web")


def test_one_clouds_outage_does_not_hold_up_another(lbctl, world, monkeypatch) -> None:
    world.put()
    ran = lbctl("apply", "--provider", "memory", "--provider", "gcp")
    assert (ran.code, "Not read: gcp" in ran.out) == (codes.PARTIAL, True)
    assert world.address()
