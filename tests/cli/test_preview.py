"""`lbctl plan -f` for a cloud that nobody may ask: no credentials, no network, no cluster id, no SDK."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lbctl.cli import codes

SERVICES = sorted((Path(__file__).parents[1] / "services").glob("*.yaml"))

WEB = """
apiVersion: v1
kind: Service
metadata: {{name: web, annotations: {annotations}}}
spec: {{type: LoadBalancer, {spec}, ports: [{{port: 80, protocol: {protocol}}}]}}
"""
BETA = "service.beta.kubernetes.io/aws-load-balancer-"
NODE = """
---
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {providerID: "aws:///eu-central-1a/i-0abc"}
"""


@pytest.fixture(autouse=True)
def no_network(monkeypatch) -> None:
    """Whoever calls, fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("a preview called somebody")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def plan(lbctl, tmp_path: Path):
    """A preview for AWS of one Service (and what else stands in its file)."""

    def run(*flags: str, more: str = "", protocol: str = "TCP", spec: str = "selector: {a: b}", **said: str):
        path = tmp_path / "web.yaml"
        annotations = json.dumps({BETA + key.replace("_", "-"): value for key, value in said.items()})
        path.write_text(WEB.format(annotations=annotations, protocol=protocol, spec=spec) + more)
        return lbctl("plan", "-f", path, "--default-provider", "aws", *flags)

    return run


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_every_example_is_previewed_without_anything(lbctl, path: Path) -> None:
    ran = lbctl("plan", "-f", path, "--default-provider", "aws")
    assert ran.code == codes.OK
    assert "Assumed: AWS is not read" in ran.out
    assert "+ load-balancer" in ran.out or "Refused" in ran.out


def test_the_sdk_is_not_needed() -> None:
    script = "import sys; sys.modules.update(boto3=None, botocore=None); from lbctl.cli import main; main()"
    command = [sys.executable, "-c", script, "plan", "-f", str(SERVICES[0]), "--default-provider", "aws"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, "+ load-balancer" in ran.stdout) == (codes.OK, True)


def test_what_only_aws_knows_is_known_after_apply(plan) -> None:
    said = plan().out
    assert said.count("vpc: (known after apply)") == 3
    assert "subnets: {(known after apply): " in said
    assert "port: (known after apply)" in said
    assert "the region is (known after apply), the VPC is (known after apply)" in said


def test_what_is_said_is_shown_as_said(plan) -> None:
    said = plan("--aws-vpc-id", "vpc-0a", "--aws-region", "eu-west-1", scheme="internal").out
    assert 'vpc: "vpc-0a"' in said
    assert "the region is eu-west-1, the VPC is vpc-0a" in said
    assert 'scheme: "internal"' in said


def test_nodes_in_the_files_are_targets(plan) -> None:
    ran = plan(more=NODE)
    assert 'targets: ["i-0abc"]' in ran.out
    assert "+ node-rule" in ran.out
    assert "the region is eu-central-1" in ran.out


def test_named_things_are_taken_to_exist(plan) -> None:
    said = plan("--tenancy", "open", subnets="subnet-0a,named-b", security_groups="sg-0a",
                eip_allocations="eipalloc-0a,eipalloc-0b").out  # fmt: skip
    assert "named-b: \"eipalloc-0b\", subnet-0a: \"eipalloc-0a\"" in said
    assert 'security_groups: ["sg-0a"]' in said


def test_as_many_unknown_subnets_as_addresses(plan) -> None:
    ran = plan("--tenancy", "open", scheme="internal", private_ipv4_addresses="10.0.0.9,10.0.1.9")
    assert '{(known after apply): "10.0.0.9", (known after apply) 2: "10.0.1.9"}' in ran.out


def test_a_health_check_by_a_port_that_is_not_allocated_yet(plan) -> None:
    ran = plan(spec="externalTrafficPolicy: Local")
    assert 'health_check: {protocol: "HTTP", port: (known after apply), path: "/healthz"' in ran.out


@pytest.mark.parametrize(("said", "reason"), [
    ({"protocol": "SCTP"}, "unsupported-protocol"),
    ({"nlb_target_type": "ip"}, "target-type-ip"),
    ({"healthcheck_interval": "often"}, "bad-annotation"),
    ({"subnets": "subnet-0a"}, "not-allowed-in-namespace"),
    ({"ip_address_type": "dualstack", "protocol": "UDP"}, "udp-dualstack"),
    ({"scheme": "internal", "internal": "false"}, "scheme-conflict"),
])  # fmt: skip
def test_what_can_be_refused_without_a_look_is_refused(plan, said, reason: str) -> None:
    ran = plan(**said)
    assert (ran.code, f"! default/web  {reason}" in ran.out) == (codes.OK, True)
    assert plan("--strict", **said).code == codes.PARTIAL


def test_every_form_is_marked(plan) -> None:
    assert plan().out.startswith("Preview for files alone, with aws")
    assert "\nPreview: " in plan().out
    assert plan("-o", "markdown").out.startswith("### lbctl preview: ")
    assert plan("-o", "github").out.splitlines()[-1].startswith("Preview: ")
    assert json.loads(plan("-o", "json").out)["preview"] is True
    assert yaml.safe_load(plan("-o", "yaml").out)["preview"] is True


def test_a_wrong_setting_is_still_5(plan) -> None:
    ran = plan("--aws-region", "Frankfurt")
    assert (ran.code, "'Frankfurt' is not a region" in ran.err) == (codes.SETTINGS, True)


def test_with_a_cluster_id_the_cloud_is_asked_for(plan, monkeypatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    ran = plan("--cluster-id", "c1")
    assert (ran.code, ran.out, ran.err[:12]) == (codes.SETTINGS, "", "lbctl: aws: ")


def test_a_preview_is_never_applied(plan, lbctl, tmp_path: Path) -> None:
    plan(more=NODE)
    ran = lbctl("apply", "-f", tmp_path / "web.yaml", "--default-provider", "aws", "--yes")
    assert ran.code == codes.SETTINGS
