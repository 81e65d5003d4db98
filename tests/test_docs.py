"""The reference is what the code says. `LBCTL_UPDATE_GOLDEN=1 pytest tests/test_docs.py` writes it anew."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lbctl import config, plugins
from lbctl_aws import annotations as aws

DOCS = Path(__file__).parents[1] / "docs"
GENERATED = re.compile(r"(<!-- generated: [^>]* -->\n).*(<!-- end -->)", re.S)


def settings() -> Iterator[str]:
    """Every setting of lbctl and of the providers, as rows of a table."""
    yield "| key | flag | environment | what for |\n|---|---|---|---|"
    for field in config.FIELDS:
        yield f"| `{field.key}` | `{field.flag}` | `{field.environment}` | {field.help} |"
    for name in ("aws", "memory"):
        plugin = plugins.plugin(name)
        for setting in plugin.settings:
            flag, variable = config.option(plugin, setting), config.variable(plugin, setting)
            names = ", ".join(f"`{one}`" for one in (variable, *setting.env))
            yield f"| `{name}.{setting.name}` | `{flag}` | {names} | {setting.help} |"


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


PAGES = [("configuration.md", settings), ("aws.md", annotations)]


@pytest.mark.parametrize(("page", "content"), PAGES)
def test_the_reference_is_up_to_date(page: str, content) -> None:
    path = DOCS / page
    text = path.read_text()
    rows = "\n".join(content())
    wanted = GENERATED.sub(lambda found: f"{found[1]}{rows}\n{found[2]}", text)
    if os.environ.get("LBCTL_UPDATE_GOLDEN"):
        path.write_text(wanted)
    assert text == wanted or os.environ.get("LBCTL_UPDATE_GOLDEN"), f"docs/{page} is behind the code"


def test_the_configuration_in_the_docs_is_one() -> None:
    sample = re.search(r"```yaml\n(.*?)```", (DOCS / "configuration.md").read_text(), re.S)
    assert sample
    said = yaml.safe_load(sample[1])
    installed = [plugins.plugin(name) for name in ("aws", "memory")]
    found = config.load(installed, file=said)
    assert [rule.max_load_balancers for rule in found.rules] == [None, None, 20]
