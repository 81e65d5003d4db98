"""How things are printed: colour where somebody looks, plain where a program reads, safe wherever it ends up."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from lbctl import render

COLOURS = {"+": "green", "~": "yellow", "-": "red", "!": "magenta"}


def colourful() -> bool:
    """May stdout be coloured?"""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str, *, signs: bool = False) -> None:
    """Text on stdout; with `signs`, lines are coloured by their sign where that is welcome."""
    if not (signs and colourful()):
        click.echo(text, nl=False)
        return
    for line in text.splitlines():
        sign = line[2:3] if line.startswith("  ") and line[3:4] == " " else ""
        bold = line.startswith(("Plan:", "Done:"))
        click.echo(click.style(line, fg=COLOURS.get(sign), bold=bold or None))


def hint(text: str) -> None:
    """One line on stderr, for the person; never part of the output."""
    click.echo(render.line(text), err=True)


def as_json(content: Any) -> str:
    """ASCII only, so that nothing in it can move a cursor, and no `##[` for a CI runner to take for a command."""
    return json.dumps(content, indent=2, ensure_ascii=True).replace("##[", "\\u0023#[") + "\n"


def as_yaml(content: Any) -> str:
    """ASCII only; what a CI runner would take for a command is quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = '"' if "::" in value or "##[" in value or not value.isascii() else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)

    Dumper.add_representer(str, text)
    plain = yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=False, width=1_000_000)
    return str(plain).replace("##[", "\\x23#[")


def preview(of: render.Preview, form: str) -> str:
    """A plan in the form asked for."""
    if form == "json":
        return as_json(render.data(of))
    if form == "yaml":
        return as_yaml(render.data(of))
    return {"markdown": render.markdown, "github": render.annotations}.get(form, render.text)(of)


def rows(header: Sequence[str], body: Sequence[Sequence[str]], form: str, data: Any) -> None:
    """A table in the form asked for; `data` is what JSON and YAML show."""
    if form == "json":
        click.echo(as_json(data), nl=False)
    elif form == "yaml":
        click.echo(as_yaml(data), nl=False)
    elif form == "markdown":
        click.echo(render.markdown_table(header, body), nl=False)
    elif colourful():
        _rich(header, body)
    else:
        click.echo(render.table(header, body), nl=False)


def _rich(header: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for title in header:
        table.add_column(title.upper(), overflow="fold")
    for row in body:
        table.add_row(*(Text(render.for_terminal(cell) or "-", style=_style(cell)) for cell in row))
    Console().print(table)


def _style(cell: str) -> str:
    return {"True": "green", "False": "red", "ok": "green", "error": "red", "warning": "yellow"}.get(cell, "")
