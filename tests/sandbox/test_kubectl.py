"""The real kubectl against the sandbox: what people type."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lbctl.sandbox.kube import KubeSandbox

Kubectl = Callable[..., str]

WEB = """
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}
"""
POOL = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: pools.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {plural: pools, kind: Pool, shortNames: [pl]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Addresses, type: string, jsonPath: .spec.addresses}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        x-kubernetes-preserve-unknown-fields: true
        properties:
          spec:
            type: object
            properties: {addresses: {description: CIDRs, type: array, items: {type: string}}}
"""
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/worker": ""}},
    "status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "nodeInfo": {"kubeletVersion": "v1.34.0"},
    },
}


@pytest.fixture
def web(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=WEB)


def columns(said: str) -> list[list[str]]:
    return [line.split() for line in said.splitlines()]


def publish(kubectl: Kubectl, address: str) -> None:
    body = json.dumps({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}})
    kubectl("patch", "svc", "web", "--subresource=status", "-p", body)


def test_get_shows_the_usual_columns_of_services(kubectl: Kubectl, web: None):
    header, _, row = columns(kubectl("get", "svc", "-o", "wide"))

    assert header == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"]
    assert (row[0], row[1], row[3], row[4], row[6]) == ("web", "LoadBalancer", "<pending>", "80:30086/TCP", "app=web")


def test_get_shows_the_address_once_it_is_there(kubectl: Kubectl, web: None):
    publish(kubectl, "192.0.2.1")

    assert columns(kubectl("get", "svc", "web"))[1][3] == "192.0.2.1"


def test_get_shows_nodes_and_namespaces(kubectl: Kubectl, sandbox: KubeSandbox):
    sandbox.seed([NODE])

    row = columns(kubectl("get", "nodes", "-o", "wide"))[1]
    assert (row[:3], row[4:6]) == (["n1", "Ready", "worker"], ["v1.34.0", "10.0.0.1"])
    assert columns(kubectl("get", "ns"))[1][:2] == ["default", "Active"]


def test_get_yaml_is_the_whole_object(kubectl: Kubectl, web: None):
    said = kubectl("get", "svc", "web", "-o", "yaml")

    assert said.startswith("apiVersion: v1\nkind: Service\n")
    assert "allocateLoadBalancerNodePorts: true" in said


def test_get_all_namespaces_and_by_label(kubectl: Kubectl, web: None):
    assert "default" in kubectl("get", "svc", "-A", "-l", "app=web")
    assert "No resources found" in kubectl("get", "svc", "-l", "app=none")


def test_get_watch_follows(kubectl: Kubectl, web: None, sandbox: KubeSandbox, tmp_path: Path):
    command = ["kubectl", "--kubeconfig", str(tmp_path / "kubeconfig"), "get", "svc", "web", "-w"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        first = [running.stdout.readline() for _ in range(2)]
        publish(kubectl, "192.0.2.7")
        followed = running.stdout.readline()
        running.terminate()

    assert "<pending>" in first[1]
    assert "192.0.2.7" in followed


def test_describe_shows_the_events(kubectl: Kubectl, web: None, sandbox: KubeSandbox):
    about = {"kind": "Service", "name": "web", "namespace": "default"}
    web_object = sandbox.object("services", "web", "default")
    assert web_object
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "web.1", "namespace": "default"},
             "involvedObject": about | {"uid": web_object["metadata"]["uid"]}, "type": "Warning", "count": 3,
             "reason": "SyncLoadBalancerFailed", "message": "no pool contains it", "source": {"component": "lbctl"},
             "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:05Z"}  # fmt: skip
    sandbox.seed([event])

    described = kubectl("describe", "svc", "web")

    assert "SyncLoadBalancerFailed" in described
    assert "(x3 over" in described
    assert "service/web" in kubectl("get", "events")


def test_apply_again_changes_nothing_and_a_change_is_configured(kubectl: Kubectl, web: None):
    assert "service/web unchanged" in kubectl("apply", "-f", "-", stdin=WEB)
    assert "service/web configured" in kubectl("apply", "-f", "-", stdin=WEB.replace("80", "81"))


def test_apply_on_the_server_without_effect(kubectl: Kubectl):
    assert "created (server dry run)" in kubectl("apply", "--dry-run=server", "-f", "-", stdin=WEB)
    assert "NotFound" in kubectl("get", "svc", "web", code=1)


def test_diff_shows_what_would_change(kubectl: Kubectl, web: None):
    assert kubectl("diff", "-f", "-", stdin=WEB) == ""
    assert "+    port: 81" in kubectl("diff", "-f", "-", stdin=WEB.replace("80", "81"), code=1)


def test_edit_writes_back(kubectl: Kubectl, web: None, tmp_path: Path):
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/sessionAffinity: None/sessionAffinity: ClientIP/' \"$1\"\n")
    editor.chmod(0o700)

    kubectl("edit", "svc", "web", KUBE_EDITOR=str(editor))

    assert kubectl("get", "svc", "web", "-o", "jsonpath={.spec.sessionAffinity}") == "ClientIP"


@pytest.mark.parametrize("kind", ["strategic", "merge"])
def test_patch(kubectl: Kubectl, web: None, kind: str):
    kubectl("patch", "svc", "web", "--type", kind, "-p", '{"spec":{"sessionAffinity":"ClientIP"}}')

    assert (
        kubectl("get", "svc", "web", "-o", "jsonpath={.spec.sessionAffinityConfig.clientIP.timeoutSeconds}") == "10800"
    )


def test_label_and_annotate(kubectl: Kubectl, web: None):
    kubectl("label", "svc", "web", "tier=front")
    kubectl("annotate", "svc", "web", "lbctl.io/scheme=internal")

    assert "tier=front" in kubectl("get", "svc", "web", "--show-labels")
    assert "lbctl.io/scheme: internal" in kubectl("get", "svc", "web", "-o", "yaml")


def test_replace_and_create_know_what_is_there(kubectl: Kubectl, web: None):
    assert "replaced" in kubectl("replace", "-f", "-", stdin=WEB.replace("80", "82"))
    assert "AlreadyExists" in kubectl("create", "-f", "-", stdin=WEB, code=1)


def test_wait_for_an_address(kubectl: Kubectl, web: None):
    publish(kubectl, "192.0.2.1")

    said = kubectl("wait", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}=192.0.2.1", "svc/web", "--timeout=5s")

    assert "condition met" in said


def test_delete_waits_for_finalizers(kubectl: Kubectl, web: None, sandbox: KubeSandbox, tmp_path: Path):
    kubectl("patch", "svc", "web", "--type=merge", "-p", '{"metadata":{"finalizers":["lbctl.io/aws"]}}')
    assert "timed out" in kubectl("delete", "svc", "web", "--timeout=1s", code=1)

    command = ["kubectl", "--kubeconfig", str(tmp_path / "kubeconfig"), "delete", "svc", "web"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as waiting:
        kubectl("patch", "svc", "web", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        assert waiting.wait(20) in (0, 1)

    assert "NotFound" in kubectl("get", "svc", "web", code=1)


def test_delete_a_namespace_with_what_is_in_it(kubectl: Kubectl):
    kubectl("apply", "-f", "-", stdin='{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}')
    kubectl("apply", "-n", "shop", "-f", "-", stdin=WEB)

    kubectl("delete", "ns", "shop", "--timeout=5s")

    assert "shop" not in kubectl("get", "svc", "-A")


def test_expose_a_pod(kubectl: Kubectl):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"app": "p"}},
           "spec": {"containers": [{"name": "c", "image": "x"}]}}  # fmt: skip
    kubectl("apply", "-f", "-", stdin=json.dumps(pod))

    kubectl("expose", "pod", "p", "--port=80", "--type=LoadBalancer")

    assert columns(kubectl("get", "svc", "p"))[1][1] == "LoadBalancer"


def test_create_refuses_what_it_does_not_know(kubectl: Kubectl):
    wrong = WEB.replace("type: LoadBalancer", "typ: LoadBalancer")

    assert 'unknown field "spec.typ"' in kubectl("create", "-f", "-", stdin=wrong, code=1)
    assert 'Warning: unknown field "spec.typ"' in kubectl("create", "--validate=warn", "-f", "-", stdin=wrong)


def test_invalid_services_are_explained_by_field(kubectl: Kubectl):
    said = kubectl("create", "-f", "-", stdin=WEB.replace("port: 80", "port: 99999, protocol: HTTP"), code=1)

    assert "* spec.ports[0].port: Invalid value: 99999: must be between 1 and 65535, inclusive" in said
    assert '* spec.ports[0].protocol: Unsupported value: "HTTP"' in said


def test_server_side_apply_and_protobuf_are_refused_with_a_sentence(kubectl: Kubectl):
    assert "Server-side apply not available" in kubectl("apply", "--server-side", "-f", "-", stdin=WEB, code=1)
    said = kubectl("create", "service", "loadbalancer", "x", "--tcp=80", code=1)
    assert "use kubectl apply -f or kubectl expose" in said


def test_explain_knows_fields_of_built_in_kinds_and_of_custom_ones(kubectl: Kubectl):
    kubectl("apply", "-f", "-", stdin=POOL)

    assert "loadBalancerClass" in kubectl("explain", "svc.spec.loadBalancerClass")
    assert "CIDRs" in kubectl("explain", "pool.spec.addresses")


def test_custom_kinds_have_their_own_columns(kubectl: Kubectl):
    kubectl("apply", "-f", "-", stdin=POOL)
    kubectl("wait", "--for=condition=Established", "crd/pools.example.com", "--timeout=5s")
    pool = {"apiVersion": "example.com/v1", "kind": "Pool", "metadata": {"name": "a"},
            "spec": {"addresses": ["10.0.0.0/8"]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}  # fmt: skip
    kubectl("apply", "-f", "-", stdin=json.dumps(pool))

    header, row = columns(kubectl("get", "pl"))

    assert header == ["NAME", "ADDRESSES", "READY", "AGE"]
    assert row[:3] == ["a", '["10.0.0.0/8"]', "True"]


def test_version_and_api_resources(kubectl: Kubectl):
    assert "Server Version: v1.34" in kubectl("version")
    assert "endpointslices" in kubectl("api-resources")
