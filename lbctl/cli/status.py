"""`lbctl status`: Services, their addresses, and why one has none. Asks Kubernetes only, never a cloud."""

import queue
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from lbctl.cli import codes, options, output

if TYPE_CHECKING:
    from lbctl.cli.session import Session
    from lbctl.daemon import Cluster
    from lbctl.kube.objects import Service
    from lbctl.provider import Insight

HEADER = ("namespace", "name", "class", "address", "ready", "serving", "reason")

AGAIN = 5.0
"""Seconds after which -w asks again what providers can tell."""


@click.command("status", cls=options.Configured, keys=(*options.CONNECTING, "default_provider"))
@options.namespaced
@click.option("-w", "--watch", is_flag=True, help="go on, and print what changes, until Ctrl-C")
@options.output("table", "json", "yaml", "markdown")
def status(namespace: str, all_namespaces: bool, selector: str, watch: bool, form: str, flags: dict[str, Any]) -> int:
    """Services of type LoadBalancer, their addresses, and why one has none."""
    from lbctl.cli.inputs import chooser
    from lbctl.cli.session import Session
    from lbctl.daemon import Cluster

    session = Session(flags)
    chosen = chooser("" if all_namespaces else namespace, selector) or (lambda _service: True)
    cluster = Cluster(session.client())
    cluster.watch(patient=False)
    table = Table(session, cluster, _shown(chosen, session.config.default_provider))
    try:
        table.look()
        services = table.services()
        if not services and form == "table":
            output.hint("No Services of type LoadBalancer found.")
        else:
            rows = [table.row(service) for service in services]
            output.rows(table.header, rows, form, {"services": [table.data(s) for s in services]})
        if watch:
            _follow(table, cluster.stores.services.subscribe, form)
    finally:
        cluster.stop()
    return codes.OK


class Table:
    """Services, with a column for each thing that their providers can tell beyond conditions."""

    def __init__(self, session: "Session", cluster: "Cluster", shown: "Callable[[Service], bool]") -> None:
        self._session, self._cluster, self.shown = session, cluster, shown
        self._seen: dict[str, Insight | None] = {}

    def services(self) -> "list[Service]":
        """Those to show, in their order."""
        return sorted(filter(self.shown, self._cluster.stores.services.all()), key=_place)

    def look(self) -> None:
        """Read what providers tell. Where one could not tell, it is said once and not asked again."""
        names = dict.fromkeys(name for service in self.services() for name in self._candidates(service))
        asked = [name for name in names if name and self._seen.get(name, True) is not None]
        self._seen |= {name: self._session.insight(name, self._cluster) for name in asked}

    @property
    def watching(self) -> bool:
        """Does the cluster still tell what changes?"""
        return self._cluster.watching

    @property
    def header(self) -> tuple[str, ...]:
        return (*HEADER, *self._headings())

    def row(self, service: "Service") -> tuple[str, ...]:
        """Empty cells where another provider has the word."""
        mine, addresses = self._insight(service), _addresses(service)
        told = (mine.cell(addresses) if mine and mine.heading == heading else "" for heading in self._headings())
        return (*_row(service), *told)

    def data(self, service: "Service") -> dict[str, Any]:
        """The same, as JSON and YAML show it."""
        mine = self._insight(service)
        told = {mine.heading.replace(" ", "_"): mine.data(_addresses(service))} if mine is not None else {}
        return {**_data(service), **told}

    def _headings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(insight.heading for insight in self._seen.values() if insight is not None))

    def _insight(self, service: "Service") -> "Insight | None":
        """Whoever can tell of it. Of one without a class that may be any: the controller's default provider need not
        be known here."""
        told = (self._seen.get(name) for name in self._candidates(service) or self._seen)
        return next((insight for insight in told if insight is not None), None)

    def _candidates(self, service: "Service") -> tuple[str, ...]:
        from lbctl.kube.read import provider_of

        config = self._session.config
        name = provider_of(service) or config.default_provider
        return (name,) if name or service.spec.load_balancer_class else config.providers


def _shown(chosen: "Callable[[Service], bool]", default_provider: str) -> "Callable[[Service], bool]":
    """Ours: of an lbctl class, without any, or held by our finalizer."""

    def ours(service: "Service") -> bool:
        if service.spec.type != "LoadBalancer" or not chosen(service):
            return False
        named = service.spec.load_balancer_class
        return not named or named.startswith("lbctl.io/")

    return ours


def _place(service: "Service") -> tuple[str, str]:
    return service.metadata.namespace, service.metadata.name


def _row(service: "Service") -> tuple[str, ...]:
    ready, serving, why = _said(service)
    address = ",".join(_addresses(service)) or "<pending>"
    return (*_place(service), service.spec.load_balancer_class or "", address, ready, serving, why)


def _addresses(service: "Service") -> list[str]:
    return [entry.hostname or entry.ip or "" for entry in service.ingress]


def _said(service: "Service") -> tuple[str, str, str]:
    """(Ready, Serving, the reason of what is not as it should be)."""
    from lbctl.model import DEGRADED, READY, SERVING

    conditions = service.conditions
    ready, serving, degraded = (conditions.get(kind) for kind in (READY, SERVING, DEGRADED))
    if service.metadata.deletion_timestamp is not None:
        return "False", "", "deleting"
    bad = [c.reason for c in (ready, serving) if c and c.status != "True"]
    bad += [degraded.reason] if degraded and degraded.status == "True" else []
    return ready.status if ready else "Unknown", serving.status if serving else "", ",".join(bad)


def _data(service: "Service") -> dict[str, Any]:
    import msgspec

    return {
        "namespace": service.metadata.namespace,
        "name": service.metadata.name,
        "load_balancer_class": service.spec.load_balancer_class or "",
        "addresses": _addresses(service),
        "deleting": service.metadata.deletion_timestamp is not None,
        "conditions": [
            {key: value for key, value in msgspec.to_builtins(condition).items() if key != "last_transition_time"}
            for condition in service.status.conditions or () if condition.type.startswith("lbctl.io/")
        ],
    }  # fmt: skip


def _follow(table: Table, subscribe: Callable[..., None], form: str) -> None:
    """Print each Service that differs from what was printed, as it comes. Ends by Ctrl-C."""
    known = {_place(service): table.data(service) for service in table.services()}
    news: queue.SimpleQueue[tuple[Service | None, Service | None]] = queue.SimpleQueue()
    subscribe(lambda _event, old, new: news.put((old, new)))
    due = time.monotonic() + AGAIN
    while table.watching:
        if time.monotonic() >= due:
            table.look()
            for service in table.services():
                news.put((service, service))
            due = time.monotonic() + AGAIN
        try:
            old, new = news.get(timeout=0.5)
        except queue.Empty:
            continue
        _tell(table, old, new, known, form)


def _tell(
    table: Table, old: "Service | None", new: "Service | None", known: dict[tuple[str, str], dict[str, Any]], form: str
) -> None:
    """One Service, if there is anything new about it."""
    service = new or old
    if service is None or not (table.shown(service) or _place(service) in known):
        return
    data = table.data(service) if new is not None else {**_data(service), "deleted": True}
    if known.get(_place(service)) == data:
        return
    if new is not None:
        known[_place(service)] = data
        row = table.row(service)
    else:
        known.pop(_place(service), None)
        row = (*_place(service), "", "", "False", "", "deleted", *[""] * (len(table.header) - len(HEADER)))
    click.echo(_line(table.header, row, data, form), nl=False)


def _line(header: Sequence[str], row: Sequence[str], data: dict[str, Any], form: str) -> str:
    """One more of what was printed before: a row, or a document of the same shape."""
    from lbctl import render

    if form == "json":
        return output.as_json({"services": [data]})
    if form == "yaml":
        return f"---\n{output.as_yaml({'services': [data]})}"
    written = render.markdown_table if form == "markdown" else render.table
    return written(header, [row]).splitlines(keepends=True)[-1]
