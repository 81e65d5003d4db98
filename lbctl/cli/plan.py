"""`lbctl plan`: what would change, and why. Writes nothing, needs no Lease."""

from pathlib import Path
from typing import Any

import click

from lbctl.cli import codes, options, output


@click.command("plan", cls=options.Configured)
@options.files
@options.namespaced
@click.option("--prune", is_flag=True, help="also delete what is only inferred to be unwanted (orphans)")
@click.option("--detailed-exitcode", is_flag=True, help=f"exit {codes.CHANGES} if there are changes")
@click.option("--strict", is_flag=True, help=f"exit {codes.PARTIAL} if a Service is refused or a file cannot be read")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="save the plan for `lbctl apply PLAN`")
@options.output("text", "json", "yaml", "markdown", "github")
def plan(
    paths: tuple[str, ...],
    namespace: str,
    all_namespaces: bool,
    selector: str,
    prune: bool,
    detailed_exitcode: bool,
    strict: bool,
    out: Path | None,
    form: str,
    flags: dict[str, Any],
) -> int:
    """What would change, and why.

    Of the Services in the cluster; with -f, of those in files: alone (a preview), or over a cluster that --kubeconfig
    or --context names (what a pull request would change). A cloud is read if its settings are there; with files alone
    --cluster-id says whose resources are ours.
    """
    from lbctl.cli.inputs import chooser, inputs
    from lbctl.cli.paths import Paths, nothing_planned
    from lbctl.cli.session import Session

    session = Session(flags)
    given = inputs(session, paths)
    ways = None
    try:
        ways = Paths(session, given, prune=prune)
        plans, problems = ways.plan(chooser("" if all_namespaces else namespace, selector))
        preview = ways.preview(plans, problems)
    finally:
        given.close()
        if ways is not None:
            ways.close()
    if problems and not plans:
        return nothing_planned(given, problems)
    output.say(output.preview(preview, form), signs=form == "text")
    if out is not None:
        save(out, output.preview(preview, "json"))
    if problems:
        return max(map(codes.of, problems.values()))
    if prune and preview.frozen():
        return codes.LIMIT
    if strict and (preview.refused() or preview.problems):
        return codes.PARTIAL
    if given.problems:
        return codes.ERROR
    return codes.CHANGES if detailed_exitcode and preview.changes() else codes.OK


def save(path: Path, text: str) -> None:
    """Readable by the owner only, whatever the file was before: annotations may say more than all should know."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)
