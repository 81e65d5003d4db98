"""`lbctl status`: Services, their addresses, and why one has none. Asks Kubernetes only, never a cloud."""

import queue
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from lbctl.cli import codes, options, output

if TYPE_CHECKING:
    from lbctl.cli.session import Session
    from lbctl.kube.objects import Service
    from lbctl.provider import Insight

HEADER = ("namespace", "name", "class", "address", "ready", "serving", "reason")


@click.command("status", cls=options.Configured, keys=(*options.CONNECTING, "default_provider"))
@options.namespaced
@click.option("-w", "--watch", is_flag=True, help="go on, and print what changes, until Ctrl-C")
@options.output("table", "json", "yaml", "markdown")
def status(
    namespace: str, all_namespaces: bool, selector: str, watch: bool, form: str, flags: dict[str, Any]
) -> int:
    """Services of type LoadBalancer, their addresses, and why one has none."""
    from lbctl.cli.inputs import chooser
    from lbctl.cli.session import Session
    from lbctl.daemon import Cluster

    session = Session(flags)
    chosen = chooser("" if all_namespaces else namespace, selector) or (lambda _service: True)
    shown = _shown(chosen, session.config.default_provider)
    cluster = Cluster(session.client())
    cluster.watch()
    try:
        services = sorted(filter(shown, cluster.stores.services.all()), key=_place)
        if not services and form == "table":
            output.hint("No Services of type LoadBalancer found.")
        else:
            seen = _insights(session, services)
            header = (*HEADER, *dict.fromkeys(insight.heading for insight in seen.values()))
            rows = [(*_row(s), *_told(s, seen, session.config.default_provider)) for s in services]
            output.rows(header, rows, form, {"services": [_data(s) for s in services]})
        if watch:
            _follow(cluster.stores.services.subscribe, shown, {_place(s): _row(s) for s in services})
    finally:
        cluster.stop()
    return codes.OK


def _insights(session: "Session", services: "Sequence[Service]") -> "dict[str, Insight]":
    """What the providers of these Services can tell beyond conditions, by provider."""
    from lbctl.cli.inputs import provider_of

    default = session.config.default_provider
    names = dict.fromkeys(provider_of(service) or default for service in services)
    return {name: found for name in names if name and (found := session.insight(name)) is not None}


def _told(service: "Service", seen: "Mapping[str, Insight]", default_provider: str) -> tuple[str, ...]:
    """One cell for each heading; empty where another provider has the word."""
    from lbctl.cli.inputs import provider_of

    name = provider_of(service) or default_provider
    mine = seen.get(name)
    headings = dict.fromkeys(insight.heading for insight in seen.values())
    return tuple(mine.cell(_addresses(service)) if mine and mine.heading == heading else "" for heading in headings)


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


def _follow(
    subscribe: Callable[..., None], shown: "Callable[[Service], bool]", known: dict[tuple[str, str], tuple[str, ...]]
) -> None:
    """Print each row that differs from what was printed, as it comes. Ends by Ctrl-C."""
    from lbctl.render import table

    news: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()

    def heard(_event: str, old: "Service | None", new: "Service | None") -> None:
        service = new or old
        if service is None or not (shown(service) or _place(service) in known):
            return
        row = _row(service) if new is not None else (*_place(service), "", "", "False", "", "deleted")
        if known.get(_place(service)) != row:
            known[_place(service)] = row
            news.put(row)

    subscribe(heard)
    while True:
        try:
            row = news.get(timeout=0.5)
        except queue.Empty:
            continue
        click.echo(table(HEADER, [row]).splitlines()[1])
