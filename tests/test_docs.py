"""The reference is what the code says. `LBCTL_UPDATE_GOLDEN=1 pytest tests/test_docs.py` writes it anew."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from lbctl import config, plugins
from lbctl_aws import annotations as aws

DOCS = Path(__file__).parents[1] / "docs"
GENERATED = re.compile(r"(<!-- generated: [^>]* -->\n).*(<!-- end -->)", re.S)


def annotations() -> Iterator[str]:
    """Every AWS annotation: served, without effect on a Network Load Balancer, or refused with the way out."""
    yield "| annotation | |\n|---|---|"
    named = {key.removeprefix(aws.PREFIX) for key, value in aws.PRIVILEGED.items() if value == "*"}
    for name in sorted(aws._TABLE):
        yield f"| `{name}` | served{'; named' if name in named else ''} |"
    for name in sorted(aws._DOTTED):
        yield f"| `{name}.…` | served, for one port |"
    for name in sorted(aws.WITHOUT_EFFECT):
        yield f"| `{name}` | about classic load balancers: no effect, and a condition says so |"
    for name, way in sorted(aws.UNSUPPORTED.items()):
        yield f"| `{name}` | refused: {way} |"


def test_the_annotations_are_those_that_are_served() -> None:
    path = DOCS / "aws.md"
    text = path.read_text()
    rows = "\n".join(annotations())
    wanted = GENERATED.sub(lambda found: f"{found[1]}{rows}\n{found[2]}", text)
    if os.environ.get("LBCTL_UPDATE_GOLDEN"):
        path.write_text(wanted)
    assert text == wanted or os.environ.get("LBCTL_UPDATE_GOLDEN"), "docs/aws.md is behind the code"


def test_the_configuration_in_the_docs_is_one() -> None:
    sample = re.search(r"```yaml\n(.*?)```", (DOCS / "configuration.md").read_text(), re.S)
    assert sample
    said = yaml.safe_load(sample[1])
    installed = [plugins.plugin(name) for name in ("aws", "memory")]
    found = config.load(installed, file=said)
    assert [rule.max_load_balancers for rule in found.rules] == [None, None, 20]
