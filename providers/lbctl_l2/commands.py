"""`lbctl pools`: how full each pool is, and what is wrong with it."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import click
import msgspec

from lbctl.errors import Refused
from lbctl.model import Family, IPAddress, LoadBalancer
from lbctl.provider import Harness
from lbctl.render import for_terminal, table
from lbctl_l2 import annotations
from lbctl_l2.book import Book
from lbctl_l2.configured import Configured
from lbctl_l2.crds import Problem
from lbctl_l2.pool import Count, Pool, Usage, remember

HEADER = ("pool", "from", "ranges", "family", "total", "used", "free", "reserved", "cooling", "state")
FAMILIES: tuple[Family, ...] = ("IPv4", "IPv6")
FORMS = ("table", "json", "yaml")
LARGE = 10**12
"""From here on a number is rounded for people: nobody counts the addresses of a /64."""


@click.command("pools")
@click.option("-o", "--output", "form", type=click.Choice(FORMS), default="table", show_default=True)
@click.pass_context
def pools(ctx: click.Context, form: str) -> int:
    """How full each bare-metal pool is, and what is wrong with it. Writes nothing.

    Of the cluster's AddressPools, MetalLB's IPAddressPools, and those of the settings.
    """
    data = overview(ctx.obj.harness("l2"))
    if form == "table":
        click.echo(_text(data))
    elif form == "json":
        click.echo(json.dumps(data, indent=2))
    else:
        import yaml

        click.echo(yaml.safe_dump(data, sort_keys=False), nl=False)
    return 0


def overview(harness: Harness) -> dict[str, Any]:
    """Every pool with its use, and every problem, in plain values."""
    configured = Configured(harness.kubernetes, harness.settings)
    supply = configured.look()
    book = Book(supply.pools, (address for node in harness.kubernetes.nodes() for address in node.addresses))
    now = harness.now()
    book.set_released(release for pool in supply.pools for release in remember(pool, supply.released, now))
    for load_balancer in harness.kubernetes.services():
        _enter(book, load_balancer)
    usage = book.usage(now)
    return {
        "pools": [_plain(pool, usage[pool.name], supply.problems) for pool in book.pools],
        "problems": [msgspec.structs.asdict(problem) for problem in supply.problems],
    }


def _enter(book: Book, load_balancer: LoadBalancer) -> None:
    """What a Service has counts, whoever serves it."""
    published: tuple[IPAddress, ...] = ()
    try:
        book.put(annotations.request(load_balancer, {}))
    except Refused:
        published = tuple(annotations.addresses(load_balancer))
    book.claim(load_balancer.owner, load_balancer.external_ips, published)


def _plain(pool: Pool, usage: Usage, problems: Iterable[Problem]) -> dict[str, Any]:
    own = [problem.reason for problem in problems if (problem.kind, problem.name) == (pool.source, pool.name)]
    return {
        "name": pool.name,
        "source": pool.source,
        "ranges": [str(part) for part in pool.ranges],
        "auto_assign": pool.auto_assign,
        "usage": {family: _counted(usage, family) for family in FAMILIES if family in pool.families},
        "services": usage.services,
        "reserved": usage.reserved,
        "cooling": usage.cooling,
        "conditions": list(dict.fromkeys(own)),
    }


def _counted(usage: Usage, family: Family) -> dict[str, int]:
    count: Count = usage.ipv4 if family == "IPv4" else usage.ipv6
    return {"total": count.total, "used": count.assigned, "free": count.available}


def _text(data: dict[str, Any]) -> str:
    if not data["pools"] and not data["problems"]:
        return "There is no pool: make an AddressPool, or give --l2-addresses."
    rows = [row for pool in data["pools"] for row in _rows(pool)]
    lines = [table(HEADER, rows).rstrip("\n")] if rows else []
    told = (f"{p['kind']} {p['name']}: {p['reason']}: {p['message']}" for p in data["problems"])
    return "\n".join((*lines, *map(for_terminal, told)))


def _rows(pool: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """One for each family: the first says whose they are."""
    state = ",".join(pool["conditions"]) or ("serving" if pool["auto_assign"] else "serving, by request")
    for number, (family, count) in enumerate(pool["usage"].items()):
        ranges = ",".join(text for text in pool["ranges"] if (":" in text) == (family == "IPv6"))
        ends = (str(pool["reserved"]), str(pool["cooling"]), state) if not number else ("", "", "")
        whose = (pool["name"], pool["source"]) if not number else ("", "")
        yield (*whose, ranges, family, *(_number(count[what]) for what in ("total", "used", "free")), *ends)


def _number(number: int) -> str:
    return str(number) if number < LARGE else f"{number:.1e}".replace("e+", "e")
