"""Plans and explanations as they are printed: golden files, and nothing that a name could smuggle out.

`LBCTL_UPDATE_GOLDEN=1 pytest tests/test_render.py` writes the golden files anew: read the difference before you commit.
"""

import html
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lbctl import render
from lbctl.cli import output
from lbctl.model import SHARED, Note, Owner, Ref, Refusal, Resource
from lbctl.plan import Change, FieldDiff, Plan

GOLDEN = Path(__file__).parent / "golden"
WEB = Owner("default/web")
HOSTILE = "\x1b[31m\u202eweb|<img src=x onerror=1>@admins #1 [a](http://x) `c`\n::set-output name=a::b ##[add-mask]"


def is_golden(name: str, text: str) -> bool:
    """Is this what the golden file says? Writes it instead, if the environment says so."""
    path = GOLDEN / name
    if os.environ.get("LBCTL_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return path.read_text() == text


def resource(kind: str, name: str, owner: Owner = WEB, **fields: object) -> Resource:
    return Resource(kind, name, owner, fields, because=f"{owner} wants it")


def create(kind: str, name: str, owner: Owner = WEB, **fields: object) -> Change:
    after = resource(kind, name, owner, **fields)
    diffs = tuple(FieldDiff(field, None, value) for field, value in fields.items())
    return Change("create", kind, name, owner, None, after, diffs, after.because)


def update(kind: str, name: str, *diffs: FieldDiff) -> Change:
    return Change("update", kind, name, WEB, resource(kind, name), resource(kind, name), diffs, "the Service changed")


def usual() -> render.Preview:
    """A bit of everything."""
    old = resource("listener", "web-80")
    changes = (
        create("rule", "nodes", SHARED, protocol="TCP", ports=(30000, 32767)),
        create("listener", "web-443", address=Ref("address", "web", "id"), port=443, node_port=None, tags={"a": "b"}),
        update(
            "target-group", "web", FieldDiff("targets", ("i-1", "i-2"), ("i-2", "i-3")),
            FieldDiff("health_check", {"port": 1, "path": "/"}, {"port": 2, "path": "/"}), FieldDiff("name", None, "x"),
        ),
        Change("delete", "listener", "web-80", WEB, old, None, (), "nothing wants it any more", outage=True),
    )  # fmt: skip
    later = Change("delete", "address", "old", WEB, old, None, not_before=datetime(2026, 1, 2, tzinfo=UTC))
    gone = Change("delete", "address", "lost", Owner("gone/app"), old, None)
    plan = Plan(
        changes, (later,), (gone,), "9 of 10 owners would lose everything", (Refusal(Owner("default/bad"), "no-ports",
        "it has none: give it one"),), (Note(WEB, "lbctl.io/Degraded", "sticky", "its timeout is AWS's"),), 14,
    )  # fmt: skip
    counted = {"aws": 9, "kubernetes": 2}
    return render.Preview({"aws": plan}, "prod.example", "c1", counted, {"Deployment": 3}, ("there are no Nodes",))


def hostile() -> render.Preview:
    """The same with a name that nobody should have, everywhere where a user can put one."""
    owner = Owner(f"default/{HOSTILE}")
    change = Change(
        "update", "listener", HOSTILE, owner, resource("listener", HOSTILE), resource("listener", HOSTILE),
        (FieldDiff("tags", {HOSTILE: HOSTILE}, {HOSTILE: "x"}), FieldDiff("::error::x", HOSTILE, (HOSTILE,))), HOSTILE,
    )  # fmt: skip
    plan = Plan((change,), (), (change,), HOSTILE, (Refusal(owner, "bad", HOSTILE),), (Note(owner, "x", "y", HOSTILE),))
    return render.Preview({"aws": plan}, HOSTILE, HOSTILE, {HOSTILE: 1}, {HOSTILE: 1}, (HOSTILE,), (HOSTILE,))


def explained(name: str = "web") -> render.Explanation:
    owner = Owner(f"default/{name}")
    walk = (
        render.Step("address", f"{name}.example", True, f"kubectl describe service {name}"),
        render.Step("ready pods", "0 of 3 are ready", False, "kubectl get pods"),
        render.Step("selector", f"app={name}"),
    )
    condition = ("lbctl.io/Ready", "False", "no-ports", name)
    return render.Explanation(
        owner, f"{name} is refused", "lbctl.io/aws", "aws", (f"{name}.example",), (condition,),
        Refusal(owner, "no-ports", name), (Note(owner, "x", "sticky", name),), usual().plans["aws"].changes[:2],
        limit=name, walk=walk,
    )  # fmt: skip


FORMS = {
    "plan.txt": lambda preview, _: render.text(preview),
    "plan.md": lambda preview, _: render.markdown(preview),
    "plan.github": lambda preview, _: render.annotations(preview),
    "plan.json": lambda preview, _: output.as_json(render.data(preview)),
    "plan.yaml": lambda preview, _: output.as_yaml(render.data(preview)),
    "explain.txt": lambda _, explanation: render.explanation_text(explanation),
    "explain.md": lambda _, explanation: render.explanation_markdown(explanation),
    "explain.json": lambda _, explanation: output.as_json(render.explanation_data(explanation)),
}


@pytest.mark.parametrize("name", FORMS)
def test_everything_is_rendered_as_the_golden_file_says(name: str) -> None:
    assert is_golden(name, FORMS[name](usual(), explained()))


@pytest.mark.parametrize("name", FORMS)
def test_hostile_names_are_rendered_as_the_golden_file_says(name: str) -> None:
    assert is_golden(f"hostile-{name}", FORMS[name](hostile(), explained(HOSTILE)))


@pytest.mark.parametrize("name", FORMS)
def test_no_form_lets_a_control_or_bidi_character_through(name: str) -> None:
    text = FORMS[name](hostile(), explained(HOSTILE))
    assert [c for c in text if not c.isprintable() and c != "\n"] == []


@pytest.mark.parametrize("name", FORMS)
def test_no_line_is_a_workflow_command_that_a_name_made(name: str) -> None:
    ours = re.compile(r"::(error|notice|warning) title=[^:]*::")
    for line in FORMS[name](hostile(), explained(HOSTILE)).splitlines():
        assert not line.lstrip().startswith("::") or ours.match(line)
        assert "##[" not in line


@pytest.mark.parametrize("name", ["plan.md", "explain.md"])
def test_markdown_holds_no_tag_link_or_mention_that_a_name_made(name: str) -> None:
    text = FORMS[name](hostile(), explained(HOSTILE))
    plain = re.sub(r"</?code>|<br>|<!-- -->", "", text)
    assert not re.search(r"[<>@]|\]\(|#\d(?!\d*;)", plain.replace("### ", ""))


def test_markdown_says_the_name_as_it_is() -> None:
    shown = html.unescape(render.for_markdown("a|b_c*d@e").replace("<!-- -->", ""))
    assert shown == "<code>a|b_c*d@e</code>"


def test_a_table_row_stays_one_row() -> None:
    rows = [line for line in render.markdown(hostile()).splitlines() if line.startswith("| `")]
    assert [row.count("|") for row in rows] == [6]


def test_json_and_yaml_say_the_same() -> None:
    data = render.data(hostile())
    assert json.loads(output.as_json(data)) == yaml.safe_load(output.as_yaml(data)) == data


@given(st.text())
def test_any_text_stays_one_line_on_a_terminal(text: str) -> None:
    assert render.for_terminal(text).isprintable()
    assert not render.line(text, 4).lstrip().startswith("::")


@given(st.text())
def test_any_text_survives_yaml(text: str) -> None:
    assert yaml.safe_load(output.as_yaml({"key": text, text or "x": 1}))["key"] == text or text == "key"


def test_two_plans_of_the_same_state_have_the_same_text_and_digest() -> None:
    assert render.text(usual()) == render.text(usual())
    assert usual().digest == usual().digest != hostile().digest


def test_the_footer_counts() -> None:
    said = render.summary(usual())
    assert said == "Plan: 2 to create, 1 to change, 1 to delete; 14 unchanged, 1 later, 1 held back, 1 refused."


def test_an_empty_plan_says_so() -> None:
    assert render.summary(render.Preview({"aws": Plan(unchanged=3)})) == (
        "Plan: 0 to create, 0 to change, 0 to delete; 3 unchanged."
    )


def test_what_concerns_everybody_is_not_called_shared() -> None:
    plan = Plan(notes=(Note(SHARED, "lbctl.io/Degraded", "invalid-pool", "AddressPool lab: no range"),))
    assert "\n  i invalid-pool: AddressPool lab: no range\n" in render.text(render.Preview({"l2": plan}))


def test_a_comment_is_cut_with_a_count() -> None:
    many = Plan(tuple(create("listener", f"l-{number}", port=number) for number in range(2000)))
    text = render.markdown(render.Preview({"aws": many}))
    assert len(text) <= render.COMMENT_LIMIT
    assert re.search(r"… and \d+ changes more", text)


def test_annotations_are_as_many_as_github_shows() -> None:
    many = Plan(refused=tuple(Refusal(Owner(f"a/{number}"), "no", "no") for number in range(30)))
    rows = render.annotations(render.Preview({"aws": many})).splitlines()
    assert sum(row.startswith("::error") for row in rows) == render.ANNOTATIONS
    assert "… and 20 more: see lbctl plan -o text" in rows


def test_an_annotation_escapes_what_ends_its_parts() -> None:
    assert render.annotation("error", "a,b:c%", "x%\ny") == "::error title=a%2Cb%3Ac%25::x%25\\ny"


@pytest.mark.parametrize(("value", "field", "said"), [
    (None, "name", "none"),
    (None, "node_port", render.UNKNOWN),
    (Ref("a", "b", "c"), "x", render.UNKNOWN),
    (render.UNKNOWN, "x", render.UNKNOWN),
    ({"a": f"{render.UNKNOWN} 2"}, "x", f"{{a: {render.UNKNOWN} 2}}"),
    (f'{render.UNKNOWN}, "b"', "x", f'"{render.UNKNOWN}, "b""'),
    (True, "x", "true"),
    (("a", 1), "x", '["a", 1]'),
    ({"a": {"b": None}}, "x", "{a: {b: none}}"),
])  # fmt: skip
def test_values_are_said_on_one_line(value: object, field: str, said: str) -> None:
    assert render.value(value, field) == said


def test_an_output_that_is_known_before_its_resource_is_made_is_shown() -> None:
    made = create("address", "web", address="192.0.2.7")
    assert made.after
    made = replace(made, after=replace(made.after, outputs={"ip": "192.0.2.7"}))
    ingress = ({"ip": Ref("address", "web", "ip")},)
    said = update("status", "web", FieldDiff("ingress", (), ingress))
    preview = render.Preview({"l2": Plan((made, said, create("status", "other", ingress=ingress)))})
    assert render.text(preview).count('[{ip: "192.0.2.7"}]') == 2
    assert render.UNKNOWN not in render.markdown(preview) + json.dumps(render.data(preview))


def test_a_long_value_is_cut_with_a_count() -> None:
    change = create("listener", "l", targets="x" * 1000)
    assert "characters more" in dict(render.fields(change))["targets"]


def test_no_cell_breaks_out_of_a_table() -> None:
    plain = render.table(("name", "why"), [(HOSTILE, "x"), ("::error::", HOSTILE)])
    assert len(plain.splitlines()) == 3
    assert not any(row.startswith("::") or "\x1b" in row for row in plain.splitlines())
    rows = render.markdown_table(("name", "why"), [(HOSTILE, "x")]).splitlines()
    assert rows[2].count("|") == 3


def test_a_table_is_aligned_and_says_nothing_for_nothing() -> None:
    assert render.table(("name", "why"), [("a", ""), ("bcd", "x")]) == "NAME   WHY\na      -\nbcd    x\n"
