"""`lbctl apply` (and `lbctl reconcile --once`, the same): plan once, and carry it out under the controller's Lease."""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lbctl.cli import codes, options, output
from lbctl.errors import LbctlError, SettingsError

if TYPE_CHECKING:
    from lbctl.apply import Result
    from lbctl.cli.inputs import Inputs
    from lbctl.cli.session import Session
    from lbctl.kube import objects
    from lbctl.model import Owner
    from lbctl.plan import Change, Plan
    from lbctl.reconcile import Report
    from lbctl.render import Preview

USUAL_WAIT = 300.0
PATIENCE = 60.0
"""Seconds that a one-shot spends on what is not ready yet, if nobody says --wait."""


class Stale(LbctlError):
    """What the saved plan was made from has changed."""

    reason = "stale-plan"


class Held(LbctlError):
    """Somebody else holds the Lease."""

    reason = "lease-held"


class _Ended:
    """How every lane ended last, and what was done in all."""

    def __init__(self) -> None:
        self.results: dict[tuple[str, Owner], Result] = {}
        self.applied = 0
        self.late = False

    def take(self, provider: str, results: Mapping["Owner", "Result"]) -> None:
        """Every provider has a lane for what is shared: one's must not hide another's."""
        self.results.update({(provider, owner): result for owner, result in results.items()})
        self.applied += sum(len(result.applied) for result in results.values())

    @property
    def lost(self) -> bool:
        """Did somebody else get the Lease meanwhile?"""
        from lbctl.apply import NOT_LEADER

        return any(result.reason == NOT_LEADER for result in self.results.values())

    def ended(self, *outcomes: str) -> list["Result"]:
        return sorted((r for r in self.results.values() if r.outcome in outcomes), key=lambda r: r.owner)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What apply and reconcile take."""
    for decorate in reversed((
        click.argument("saved", required=False, metavar="[PLAN]", type=click.Path(exists=True, path_type=Path)),
        options.files,
        options.namespaced,
        click.option("--prune", is_flag=True, help="also delete what is only inferred to be unwanted (orphans)"),
        click.option(
            "--wait", type=options.Duration(), is_flag=False, flag_value=USUAL_WAIT, default=None,
            help=f"until every Service has its address; 5m if no time is said; exit {codes.TIMEOUT} after that",
        ),
        click.option(
            "--lock-timeout", type=options.Duration(), default=20.0, show_default="20s",
            help="how long to try for the controller's Lease",
        ),
        click.option("--strict", is_flag=True, help=f"exit {codes.PARTIAL} if a Service is refused"),
        click.option("--yes", "-y", is_flag=True, help="do not ask (nobody is asked where there is no terminal)"),
        options.output("text", "json", "yaml", "markdown", "github"),
    )):  # fmt: skip
        command = decorate(command)
    return command


@click.command("apply", cls=options.Configured)
@_options
def apply(flags: dict[str, Any], **asked: Any) -> int:
    """Plan once, and carry it out.

    PLAN is a file that `lbctl plan --out` saved: it is carried out only if the same plan is made again now. The
    controller's Lease is held meanwhile, so a controller that runs has to be stopped first. What is only inferred to be
    unwanted goes with --prune. Claims (finalizers) are made with --claims=finalizer only: nobody would be there to
    take them away.
    """
    return _apply(flags, **asked)


@click.command("reconcile", cls=options.Configured)
@click.option("--once", is_flag=True, required=True, help="said for clarity: the loop is `lbctl run`")
@_options
def reconcile(once: bool, flags: dict[str, Any], **asked: Any) -> int:
    """The same as `lbctl apply`."""
    return _apply(flags, **asked)


def _apply(
    flags: dict[str, Any],
    *,
    saved: Path | None,
    paths: tuple[str, ...],
    namespace: str,
    all_namespaces: bool,
    selector: str,
    prune: bool,
    wait: float | None,
    lock_timeout: float,
    strict: bool,
    yes: bool,
    form: str,
) -> int:
    from lbctl.cli.inputs import chooser, inputs
    from lbctl.cli.session import Session

    session = Session(flags)
    if paths and (session.config.kubeconfig or session.config.context):
        raise click.UsageError("-f with a cluster is for `lbctl plan`: apply the files first (kubectl apply -f …), "
                               "then lbctl apply without -f")  # fmt: skip
    given = inputs(session, paths)
    try:
        _applicable(session, given)
        chosen = chooser("" if all_namespaces else namespace, selector)
        with _leading(session, given, lock_timeout) as held:
            # A plan that was made without an installation id would never be the same with a fresh one.
            writes = saved is None
            run = _Run(session, given, prune=prune, writes=writes, chosen=chosen, may_write=held.may_write)
            try:
                return run.go(saved, yes=yes, wait=wait, strict=strict, form=form)
            finally:
                held.in_flight = not run.close()
    finally:
        given.close()


class _Held:
    """The Lease while it is ours; `in_flight`: somebody of us may still write when we end."""

    def __init__(self, may_write: Callable[[], bool]) -> None:
        self.may_write = may_write
        self.in_flight = False


def _applicable(session: "Session", given: "Inputs") -> None:
    """Raises `SettingsError` where there is too little to apply: files alone need Nodes, nodePorts and a cluster id."""
    if given.read is None:
        return
    services = given.stores.services.all()
    bare = sorted(s.metadata.name for s in services if any(not p.node_port for p in s.spec.ports or ()))
    if bare or not given.read.nodes or not session.config.cluster_id:
        missing = (
            *((f"nodePorts ({', '.join(bare[:5])} have ports without one)",) if bare else ()),
            *(() if given.read.nodes else ("Nodes",)),
            *(() if session.config.cluster_id else ("--cluster-id",)),
        )
        raise SettingsError(f"files alone can be applied only with {' and '.join(missing)}; or give --kubeconfig")


@contextmanager
def _leading(session: "Session", given: "Inputs", patience: float) -> Iterator[_Held]:
    """Hold the controller's Lease. Files alone have no cluster, and so no Lease to hold.

    With changes still in flight it is not given back: nobody else may begin before it has run out.
    """
    if given.cluster is None:
        yield _Held(lambda: True)
        return
    from lbctl.kube.lease import Elector, Leases

    chosen = session.config.leader_elect
    identity = f"lbctl-apply@{socket.gethostname()}_{os.getpid()}_{secrets.token_hex(4)}"
    leases = Leases(given.cluster.client, session.namespace())
    elector = Elector(leases, chosen.resource_name, identity, terms=session.terms())
    # The elector's own thread acquires and renews; what is waited for here is only that it leads.
    elector.start()
    held = _Held(elector.may_write)
    try:
        if not elector.leading.wait(max(patience, 0.01)):
            holder = elector.holder or "nobody known"
            raise Held(
                f"the Lease {session.namespace()}/{chosen.resource_name} is held by {holder}: "
                f"stop that one (or let it do the work), or give a longer --lock-timeout"
            )
        yield held
    finally:
        elector.stop(release=not held.in_flight)


class _Run:
    """One plan, carried out; and again for what was not ready yet."""

    def __init__(
        self,
        session: "Session",
        given: "Inputs",
        *,
        prune: bool,
        writes: bool,
        chosen: "Callable[[objects.Service], bool] | None",
        may_write: Callable[[], bool],
    ) -> None:
        from lbctl.cli.paths import Paths

        self._chosen, self._prune = chosen, prune
        self._progress = _Progress()
        self._paths = Paths(
            session, given, prune=prune, writes=writes, stepped=self._progress.stepped, may_write=may_write
        )
        self._given, self._session = given, session

    def close(self) -> bool:
        """False if something is still in flight."""
        self._progress.stop()
        return self._paths.close()

    def go(self, saved: Path | None, *, yes: bool, wait: float | None, strict: bool, form: str) -> int:
        from lbctl.cli.paths import nothing_planned

        plans, problems = self._paths.plan(self._chosen)
        if problems and not plans:
            return nothing_planned(self._given, problems)
        preview = self._paths.preview(plans, problems)
        if saved is not None:
            _same(saved, preview)
        machine = form in ("json", "yaml")
        if not machine:
            output.say(output.preview(preview, form), signs=form == "text")
        broken = max(map(codes.of, problems.values()), default=codes.OK)
        if broken and not preview.changes():
            return broken
        if self._prune and preview.frozen():
            output.hint(f"lbctl: nothing is applied: {' '.join(preview.limits())}")
            return codes.LIMIT
        if preview.changes() and not _agreed(yes):
            return codes.INTERRUPTED
        ended = self._carry_out(plans, wait)
        self._tell(preview, ended, form)
        if broken:
            return codes.PARTIAL if ended.applied else broken
        return self._code(preview, ended, wait, strict)

    def _carry_out(self, plans: Mapping[str, "Plan"], wait: float | None) -> _Ended:
        """Every plan, then again whoever asked to be, until nobody does or time is up."""
        ended, deadline = _Ended(), time.monotonic() + (PATIENCE if wait is None else wait)
        while True:
            self._progress.start(sum(len(plan.changes) for plan in plans.values()))
            for name, report in self._together(plans, deadline):
                ended.take(name, report.results)
                ended.late = ended.late or bool(report.late)
            pause = min((r.after for r in ended.ended("retry")), default=None)
            if pause is None or ended.late or ended.lost or time.monotonic() + pause > deadline:
                return ended
            _pause(pause)
            plans = self._again(ended)

    def _together(self, plans: Mapping[str, "Plan"], deadline: float) -> "list[tuple[str, Report]]":
        """Every provider's plan at the same time: one that is slow costs the others nothing."""
        due = {name: plan for name, plan in plans.items() if plan.changes}
        begun = [(name, path) for name in due if (path := self._paths.paths[name].reconciler) is not None]
        for name, path in begun:
            path.begin(due[name])
        return [(name, path.finish(max(0.1, deadline - time.monotonic()))) for name, path in begun]

    def _again(self, ended: _Ended) -> dict[str, "Plan"]:
        """A fresh plan for those who asked to be tried again. What needs nothing any more is done."""
        from lbctl.model import SHARED

        owners = {result.owner for result in ended.ended("retry")}
        ended.results = {key: result for key, result in ended.results.items() if result.outcome != "retry"}
        self._paths.refresh()
        # What all share goes only in a look at everybody.
        narrow = None if SHARED in owners and self._chosen is None else frozenset(owners)
        return {
            name: way.reconciler.plan(narrow) for name, way in self._paths.paths.items() if way.reconciler is not None
        }

    def _tell(self, preview: "Preview", ended: _Ended, form: str) -> None:
        self._progress.stop()
        failed, waiting = ended.ended("failed"), ended.ended("retry")
        if form in ("json", "yaml"):
            from lbctl import render

            data = {**render.data(preview), "api_calls": self._session.calls.by_service(), "results": _results(ended)}
            output.say(output.as_json(data) if form == "json" else output.as_yaml(data))
            return
        from lbctl.model import SHARED
        from lbctl.render import calls, line

        done = sum(result.owner != SHARED for result in ended.ended("done"))
        rows = [f"! {r.owner}  {r.reason}: {r.message}" for r in failed]
        rows += [f"… {r.owner}  {r.reason}: {r.message}" for r in waiting]
        said = "".join(f"{line(row, 2)}\n" for row in rows)
        counted = calls(self._session.calls.by_service())
        summary = f"Done: {ended.applied} changes applied, {done} Services finished"
        summary += f", {len(failed)} failed" if failed else ""
        summary += f", {len(waiting)} not ready yet" if waiting else ""
        output.say(f"{said}{line(summary)}. API calls: {line(counted)}.\n", signs=True)

    def _code(self, preview: "Preview", ended: _Ended, wait: float | None, strict: bool) -> int:
        failed = ended.ended("failed")
        if failed:
            return _failure_code(failed, ended)
        if ended.lost:
            output.hint("lbctl: the Lease was lost meanwhile, nothing more was written: run it again")
            return codes.ERROR
        if ended.late or (wait is not None and ended.ended("retry")):
            return codes.TIMEOUT
        if strict and preview.refused():
            return codes.PARTIAL
        return codes.ERROR if self._given.problems else codes.OK


def _failure_code(failed: "list[Result]", ended: _Ended) -> int:
    denied = [codes.of(r.error) for r in failed if isinstance(r.error, LbctlError)]
    if len(failed) < len(ended.results):
        return codes.PARTIAL
    return codes.SETTINGS if denied and all(code == codes.SETTINGS for code in denied) else codes.ERROR


def _results(ended: _Ended) -> list[dict[str, Any]]:
    return [
        {
            "service": result.owner, "outcome": result.outcome, "applied": len(result.applied),
            "reason": result.reason, "message": result.message, "retry_after": result.after,
        }
        for result in sorted(ended.results.values(), key=lambda r: r.owner)
    ]  # fmt: skip


def _same(saved: Path, preview: "Preview") -> None:
    """Raises `Stale` unless the saved plan is the one that was made now."""
    from lbctl.render import FORMAT_VERSION

    try:
        said = json.loads(saved.read_text())
        digest, version = said["digest"], said["format_version"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise LbctlError(f"{saved} is no saved plan: make one with lbctl plan --out", reason="bad-plan") from error
    if version != FORMAT_VERSION:
        raise Stale(f"{saved} has format_version {version}, this lbctl writes {FORMAT_VERSION}: plan again")
    if digest != preview.digest or said.get("cluster_id") != preview.cluster_id:
        raise Stale(f"what {saved} was made from has changed since: plan, review and apply again")


def _agreed(yes: bool) -> bool:
    """Ask, where there is somebody to ask."""
    if yes or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    return click.confirm("Apply this plan?", err=True)


def _pause(seconds: float) -> None:
    threading.Event().wait(min(max(seconds, 0.05), 30.0))


class _Progress:
    """How far a long apply is, on stderr, where somebody looks."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._total = 0

    def start(self, steps: int) -> None:
        if not steps or not sys.stderr.isatty():
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("applying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("apply", total=0)
            self._bar.start()
        self._total += steps
        self._bar.update(self._task, total=self._total)

    def stepped(self, _change: "Change") -> None:
        """Called on the lanes' threads."""
        bar = self._bar
        if bar is not None:
            bar.advance(self._task)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
