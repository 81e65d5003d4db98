"""What lbctl is made of: its version, its providers, the permissions they need, and shell completion."""

from typing import Any

import click

from lbctl import __version__
from lbctl.cli import codes, output
from lbctl.cli.options import output as form_option
from lbctl.errors import LbctlError


@click.command("version")
@form_option("text", "json", "yaml")
def version(form: str) -> int:
    """Which lbctl this is."""
    import platform

    if form == "text":
        output.say(f"lbctl {__version__}\n")
        return codes.OK
    data = {"lbctl": __version__, "python": platform.python_version(), "platform": platform.system().lower()}
    output.say(output.as_json(data) if form == "json" else output.as_yaml(data))
    return codes.OK


@click.command("providers")
@form_option("table", "json", "yaml", "markdown")
def providers(form: str) -> int:
    """Which providers are installed, the class by which a Service asks for each, and what they can be set to."""
    import msgspec

    from lbctl import plugins

    found = plugins.listed()
    stands, added = plugins.points(plugins.STANDINS), plugins.points(plugins.COMMANDS)
    known = {p.name: p.missing or ", ".join(p.settings) for p in found}
    small = {p.name: "yes" if p.name in stands else "no" for p in found}
    rows = [(p.name, p.load_balancer_class, p.origin, small[p.name], known[p.name]) for p in found]
    data = {
        "providers": [{**msgspec.to_builtins(p), "sandbox": p.name in stands} for p in found],
        "commands": sorted(added),
    }
    output.rows(("name", "class", "from", "sandbox", "settings"), rows, form, data)
    return codes.OK


@click.command("policy")
@click.argument("name", metavar="PROVIDER")
def policy(name: str) -> int:
    """The least permissions that PROVIDER needs in its cloud, as the JSON that the cloud takes."""
    from lbctl import plugins

    document: Any = plugins.permissions(name)
    if document is None:
        raise LbctlError(f"{name} needs no permissions, or does not say which", reason="no-policy")
    output.say(output.as_json(document))
    return codes.OK


SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> int:
    """The script that completes lbctl's words in SHELL: source it, e.g. `source <(lbctl completion bash)`."""
    from click.shell_completion import get_completion_class

    from lbctl.cli import lbctl

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(lbctl, {}, "lbctl", "_LBCTL_COMPLETE").source())
    return codes.OK
