"""The command line: one file per family of verbs, imported only when its verb is used.

`lbctl` and `kubectl lbctl` call `main`. Nothing heavy is imported for `lbctl --help`: no SDK, no `kubernetes`, `rich`,
`prometheus_client` or `yaml`. Every way to end has its exit code, and this is where errors become one.
"""

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from lbctl.cli import codes
from lbctl.errors import LbctlError, SettingsError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from lbctl.provider import Harness

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("lbctl.cli.sandbox:demo", "See it work: a cluster, a cloud and the controller, all on this machine."),
    "sandbox": ("lbctl.cli.sandbox:sandbox", "A small Kubernetes and small clouds on loopback, until Ctrl-C."),
    "run": ("lbctl.cli.run:run", "The controller: watch, plan, apply, for as long as it runs."),
    "speaker": ("lbctl.cli.speaker:speaker", "A provider's part on every node: announces addresses (bare metal)."),
    "plan": ("lbctl.cli.plan:plan", "What would change, and why. Writes nothing."),
    "apply": ("lbctl.cli.apply:apply", "Plan once, and carry it out."),
    "reconcile": ("lbctl.cli.apply:reconcile", "The same as apply: reconcile --once."),
    "status": ("lbctl.cli.status:status", "Services and their addresses, and why one has none."),
    "explain": ("lbctl.cli.explain:explain", "Everything about one Service, from its class to its pods."),
    "doctor": ("lbctl.cli.doctor:doctor", "Permissions, credentials, network: what is wrong, and how to mend it."),
    "providers": ("lbctl.cli.about:providers", "Which providers are installed, and what they can be set to."),
    "policy": ("lbctl.cli.about:policy", "The least permissions that a provider needs in its cloud, as JSON."),
    "config": ("lbctl.cli.configuration:config", "What is configured, and where each value came from."),
    "completion": ("lbctl.cli.about:completion", "The script that completes lbctl's words in your shell."),
    "version": ("lbctl.cli.about:version", "Which lbctl this is."),
}
"""verb → (where it is, one line for --help)"""


CONNECTION = {
    "kubeconfig": ("FILE", "the kubeconfig file"),
    "context": ("NAME", "the context within the kubeconfig"),
    "config": ("FILE", "the configuration file"),
}
"""What a command that a plugin adds takes beside its own options: what stands for a value, and what it is."""


class Verbs(click.Group):
    """Commands by name; a command's module is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return _added(cmd_name)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        if added := _names_added():
            with formatter.section("Commands of providers"):
                formatter.write_dl([(name, f"See `lbctl {name} --help`.") for name in added])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Verbs by their names alone: nothing is imported while somebody types."""
        from click.shell_completion import CompletionItem

        verbs = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        verbs += [CompletionItem(name) for name in _names_added() if name.startswith(incomplete)]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(args[0], [*COMMANDS, *_names_added()], 1)
            raise click.UsageError(error.message + (f" Did you mean {close[0]}?" if close else ""), ctx) from error


def _names_added() -> list[str]:
    """The names of commands that plugins add. `lbctl.plugins` would import more than --help and completion may."""
    from importlib.metadata import entry_points

    return sorted({point.name for point in entry_points(group="lbctl.commands")} - COMMANDS.keys())


def _added(name: str) -> click.Command | None:
    """A command that a plugin adds."""
    from lbctl import plugins

    if name not in plugins.points(plugins.COMMANDS):
        return None
    return _connected(plugins.command(name))


def _connected(command: click.Command) -> click.Command:
    """A plugin's command that also takes what leads to a cluster, and finds the `Shell` in its context. The plugin's
    own stays as it is, and so does one that says itself what stands there."""
    if "obj" in command.context_settings:
        return command
    command = copy(command)
    command.params = [*command.params]
    given: dict[str, str] = {}

    def take(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
        if value:
            given[str(option.name)] = value
        ctx.obj = _Shell(given)

    names = {option for parameter in command.params for option in parameter.opts}
    for name, (metavar, text) in CONNECTION.items():
        if f"--{name}" not in names:
            option = click.Option([f"--{name}"], metavar=metavar, help=text, expose_value=False, callback=take)
            command.params.append(option)
    return command


class _Shell:
    """See `lbctl.cluster.Shell`."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def harness(self, provider: str) -> "Harness":
        from lbctl.cli.session import Session

        return Session(self._given).look(provider)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=codes.epilog(),
)
def lbctl() -> None:
    """Addresses for Kubernetes Services of type LoadBalancer: every change is a plan first.

    New here? Run `lbctl demo`: it needs nothing but this machine.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command, and end the process with its exit code."""
    # Imports make objects that stay: to look for cycles at every 700th is a fifteenth of a start, and finds none.
    gc.set_threshold(50_000)
    sys.exit(outcome(list(sys.argv[1:] if arguments is None else arguments)))


def complete(arguments: Sequence[str] | None = None) -> None:
    """`kubectl_complete-lbctl`: what kubectl offers behind `kubectl lbctl`. The last argument is what was begun."""
    from click.shell_completion import ShellComplete

    *words, incomplete = list(sys.argv[1:] if arguments is None else arguments) or [""]
    for item in ShellComplete(lbctl, {}, "lbctl", "").get_completions(words, incomplete):
        click.echo(f"{item.value}\t{item.help or ''}")
    # Cobra's directive 4: no file names.
    click.echo(":4")


def outcome(arguments: list[str]) -> int:
    """Run one command. Its exit code; what went wrong is on stderr."""
    try:
        done: Any = lbctl.main(arguments, prog_name=_name(sys.argv[0]), standalone_mode=False)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("lbctl: interrupted", err=True)
        return codes.INTERRUPTED
    except click.UsageError as error:
        error.show()
        return codes.USAGE
    except click.ClickException as error:
        error.show()
        return codes.ERROR
    except BrokenPipeError:
        # Whoever read our output (head, less) has seen enough; nothing must be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.OK
    except LbctlError as error:
        return _failed(error)
    return done if isinstance(done, int) else codes.OK


def _failed(error: LbctlError) -> int:
    from lbctl.render import line

    # A missing setting's token is for conditions; on the command line the sentence says it all.
    token = "" if isinstance(error, SettingsError) else f"{error.reason}: "
    click.echo(line(f"lbctl: {token}{error.message}"), err=True)
    return codes.of(error)


def _name(program: str) -> str:
    """How the user calls it: as kubectl's plugin, the help must say so."""
    called = os.path.basename(program)
    return "kubectl lbctl" if called.startswith("kubectl") else "lbctl"
