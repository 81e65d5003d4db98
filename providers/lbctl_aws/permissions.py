"""The IAM actions that lbctl needs on AWS, and for what.  PURE.

`lbctl policy aws` prints `policy()`. A test holds the table against every call that the suite records: nothing is
missing, and nothing is there that is never used.
"""

from collections.abc import Mapping
from typing import Any

READING: Mapping[str, tuple[str, ...]] = {
    "ec2": (
        "DescribeAddresses", "DescribeInstances", "DescribeRouteTables", "DescribeSecurityGroups", "DescribeSubnets",
    ),
    "elasticloadbalancing": (
        "DescribeListenerAttributes", "DescribeListenerCertificates", "DescribeListeners",
        "DescribeLoadBalancerAttributes", "DescribeLoadBalancers", "DescribeTags", "DescribeTargetGroupAttributes",
        "DescribeTargetGroups", "DescribeTargetHealth",
    ),
    "tag": ("GetResources",),
}
"""What a look reads. AWS cannot narrow most of these to single resources."""

CREATING: Mapping[str, tuple[str, ...]] = {
    "ec2": ("CreateSecurityGroup",),
    "elasticloadbalancing": ("CreateListener", "CreateLoadBalancer", "CreateTargetGroup"),
}
"""What creates. Everything is created with its tags, so tagging is needed with it."""

CHANGING: Mapping[str, tuple[str, ...]] = {
    "ec2": (
        "AuthorizeSecurityGroupIngress", "CreateTags", "DeleteSecurityGroup", "DeleteTags",
        "RevokeSecurityGroupIngress",
    ),
    "elasticloadbalancing": (
        "AddListenerCertificates", "AddTags", "DeleteListener", "DeleteLoadBalancer", "DeleteTargetGroup",
        "DeregisterTargets", "ModifyListener", "ModifyListenerAttributes", "ModifyLoadBalancerAttributes",
        "ModifyTargetGroup", "ModifyTargetGroupAttributes", "RegisterTargets", "RemoveListenerCertificates",
        "RemoveTags", "SetIpAddressType", "SetSecurityGroups", "SetSubnets",
    ),
}
"""What changes and deletes. The nodes' own security groups are among what is changed, and they are not ours."""

LINKED_ROLE = "iam:CreateServiceLinkedRole"
"""The first load balancer of an account makes AWS create its own role for load balancing."""


def actions() -> frozenset[str]:
    """Every IAM action of a call that lbctl may send."""
    tables = (READING, CREATING, CHANGING)
    return frozenset(f"{service}:{name}" for table in tables for service, names in table.items() for name in names)


def policy() -> dict[str, Any]:
    """An IAM policy document with the least that lbctl needs."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            _statement("Look", READING),
            _statement("Create", CREATING),
            _statement("Change", CHANGING),
            {
                "Sid": "LinkedRole",
                "Effect": "Allow",
                "Action": [LINKED_ROLE],
                "Resource": "*",
                "Condition": {"StringEquals": {"iam:AWSServiceName": "elasticloadbalancing.amazonaws.com"}},
            },
        ],
    }


def _statement(sid: str, table: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    wanted = sorted(f"{service}:{name}" for service, names in table.items() for name in names)
    return {"Sid": sid, "Effect": "Allow", "Action": wanted, "Resource": "*"}
