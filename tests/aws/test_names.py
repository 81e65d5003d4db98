"""Names never collide, fit AWS's rules, and depend on nothing that files do not know."""

import re

from hypothesis import given
from hypothesis import strategies as st

from lbctl_aws.names import derived, digest, fixed_name_problem

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
OWNER = st.builds("{}/{}".format, LABEL, LABEL)
PARTS = st.lists(st.one_of(st.text(max_size=20), st.integers()), max_size=4).map(tuple)


@given(st.text(max_size=40), OWNER, PARTS)
def test_a_name_is_one_that_aws_takes(cluster, owner, parts):
    name = derived(cluster, owner, *parts)
    assert fixed_name_problem(name) is None
    assert re.fullmatch(r"(?!.*--)[a-z0-9-]{1,32}", name)


@given(st.sets(st.tuples(st.text(max_size=8), OWNER, PARTS), min_size=2, max_size=40))
def test_different_things_have_different_names(things):
    said = {(cluster, owner, tuple(map(str, parts))) for cluster, owner, parts in things}
    assert len({derived(cluster, owner, *parts) for cluster, owner, parts in said}) == len(said)


def test_no_part_can_pose_as_another():
    assert digest("a", "bc") != digest("ab", "c")
    assert derived("c", "a/b-c") != derived("c", "a-b/c")


def test_a_name_is_readable_at_the_front():
    assert re.fullmatch(r"default-web-[0-9a-f]{15}", derived("c", "default/web"))


def test_a_namespace_called_internal_makes_no_reserved_name():
    assert not derived("c", "internal/web").startswith("internal-")
