"""`lbctl config view` and `lbctl config schema`: what is configured, and what can be."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lbctl import config as configuration
from lbctl.cli import codes, options, output

if TYPE_CHECKING:
    from lbctl.cli.session import Session


@click.group("config")
def config() -> None:
    """What is configured, and where each value came from."""


@config.command("view", cls=options.Configured, keys=options.EVERYTHING)
@click.option("--show-origin", is_flag=True, help="say of each value where it came from")
@click.option("--discover", is_flag=True, help="ask the cluster for what nobody said")
@options.output("yaml", "json", "table")
def view(show_origin: bool, discover: bool, form: str, flags: dict[str, Any]) -> int:
    """Every setting as it would be used now. Secrets are masked."""
    from lbctl.cli.session import Session

    session = Session(flags)
    plugins = tuple(session.installed.values())
    rows = configuration.shown(_discovered(session) if discover else session.config, plugins)
    if show_origin or form == "table":
        data = {"settings": [{"key": r.key, "value": r.value, "origin": r.origin} for r in rows]}
        table = [(row.key, _flat(row.value), row.origin) for row in rows]
        output.rows(("setting", "value", "from"), table, "table" if form == "yaml" and show_origin else form, data)
        return codes.OK
    data = configuration.nested(rows)
    output.say(output.as_yaml(data) if form == "yaml" else output.as_json(data))
    return codes.OK


def _discovered(session: "Session") -> configuration.Config:
    """With what the cluster's nodes and its kube-system namespace say."""
    from lbctl.cli.inputs import inputs
    from lbctl.kube.source import StoreSource

    given = inputs(session, ())
    assert given.cluster is not None
    try:
        nodes = StoreSource(given.stores, provider="").nodes()
        found = session.config
        for plugin in session.installed.values():
            found = configuration.discovered(found, plugin, plugin.discover(nodes), "the nodes")
        return configuration.identified(found, given.cluster.identity(), "kube-system")
    finally:
        given.close()


def _flat(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        return f"{len(value)} (lbctl config view -o yaml shows them)"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@config.command("schema")
def schema() -> int:
    """The configuration file's JSON schema, for editors and CI."""
    from lbctl.cli.session import installed

    output.say(output.as_json(configuration.schema(tuple(installed().values()))))
    return codes.OK


@config.command("validate")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def validate(file: Path) -> int:
    """Read FILE as `lbctl run` would, and say what is wrong."""
    from lbctl.cli.session import installed

    content = configuration.read_file(file)
    configuration.load(tuple(installed().values()), file=content, name=str(file), environ=os.environ)
    output.say(f"{file}: ok\n")
    return codes.OK
