"""The policy that `lbctl policy aws` prints holds exactly what lbctl calls: nothing is missing, nothing is spare."""

import ast
from pathlib import Path

import lbctl_aws
from lbctl_aws.api import IAM_PREFIX
from lbctl_aws.permissions import actions, policy

SOURCE = Path(lbctl_aws.__file__).parent


def called():
    """Every operation that the provider's own code names: `call("elbv2", "CreateListener", …)` and its relatives."""
    for name in ("look.py", "carry.py"):
        for node in ast.walk(ast.parse((SOURCE / name).read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in OPERATIONS:
                yield node.value


OPERATIONS = {action.partition(":")[2] for action in actions()}


def test_every_action_is_used():
    assert set(called()) | {"CreateTags"} == OPERATIONS


def test_every_call_that_stories_record_is_permitted(aws, recorded):
    aws.serve(aws.service(said={"proxy-protocol": "*", "additional-resource-tags": "a=b"}))
    aws.serve(aws.service(scheme="internal"))
    aws.serve()
    sent = {f"{IAM_PREFIX[call.service]}:{call.operation}" for call in recorded}
    assert len(sent) > 20
    assert sent <= actions()


def test_the_policy_is_one_that_iam_takes():
    document = policy()
    assert document["Version"] == "2012-10-17"
    assert len({statement["Sid"] for statement in document["Statement"]}) == len(document["Statement"])
    assert "elasticloadbalancing:CreateLoadBalancer" in str(document)


def test_every_operation_is_one_that_the_sdk_knows():
    from botocore import xform_name
    from botocore.session import Session
    loader = Session()
    known = {f"{IAM_PREFIX[service]}:{name}" for service in IAM_PREFIX
             for name in loader.get_service_model(service).operation_names}
    assert actions() <= known
    assert xform_name("SetSubnets") == "set_subnets"
