"""Which nodes receive traffic, and which of their events ask for a look (KEP-3458, service-controller)."""

import pytest

from lbctl.kube import objects, read

EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"


def node(name="n1", *, labels=None, taints=(), provider_id="aws:///a/i-1", ready="True", **metadata):
    return objects.Node(
        objects.Metadata(name=name, labels=labels, **metadata),
        objects.NodeSpec(provider_id, taints=tuple(objects.Taint(key) for key in taints)),
        objects.NodeStatus(
            (objects.NodeAddress("Hostname", "n1"), objects.NodeAddress("InternalIP", "10.0.0.1")),
            (objects.NodeCondition("Ready", ready),),
        ),
    )


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (node(), True),
        (node(ready="False"), True),
        (node(ready="Unknown"), True),
        (node(taints=["node.kubernetes.io/unschedulable"]), True),
        (node(taints=["node-role.kubernetes.io/control-plane"]), True),
        (node(labels={"node-role.kubernetes.io/control-plane": ""}), True),
        (node(provider_id=""), True),
        (node(taints=["ToBeDeletedByClusterAutoscaler"]), False),
        (node(labels={EXCLUDE: "false"}), True),
        (node(labels={EXCLUDE: "0"}), True),
        (node(labels={EXCLUDE: "true"}), False),
        (node(labels={EXCLUDE: ""}), False),
        (node(labels={EXCLUDE: "no"}), False),
    ],
)
def test_the_table_of_eligible_nodes(made, expected):
    assert read.eligible(made) is expected


def test_a_node_that_is_being_deleted_receives_nothing(moment):
    assert not read.eligible(node(deletion_timestamp=moment))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, node(), True),
        (node(), None, True),
        (node(), node(labels={EXCLUDE: ""}), True),
        (node(labels={EXCLUDE: ""}), node(), True),
        (node(labels={EXCLUDE: "true"}), node(labels={EXCLUDE: "x"}), False),
        (node(provider_id=""), node(), True),
        (node(), node(provider_id=""), True),
        (node(), node(ready="False"), False),
        (node(), node(taints=["ToBeDeletedByClusterAutoscaler"]), False),
        (node(), node(labels={"zone": "a"}), False),
    ],
)
def test_the_table_of_node_events(old, new, expected):
    assert read.node_matters(old, new) is expected


def test_nodes_are_sorted_by_name():
    assert [n.name for n in read.nodes([node("b"), node("a"), node("c", labels={EXCLUDE: ""})])] == ["a", "b"]


def test_an_unchanged_set_is_the_same_tuple():
    before = read.nodes([node("a"), node("b")])
    assert read.nodes([node("b"), node("a")], before) is before


def test_an_unchanged_node_of_a_changed_set_is_the_same_value():
    before = read.nodes([node("a")])
    assert read.nodes([node("b"), node("a")], before)[0] is before[0]


def test_a_node_value_carries_what_providers_need():
    (value,) = read.nodes([node(labels={"zone": "a"})])
    assert (value.provider_id, value.labels, value.ready) == ("aws:///a/i-1", {"zone": "a"}, True)
    assert [str(a) for a in value.addresses] == ["10.0.0.1"]
