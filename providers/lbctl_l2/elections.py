"""`lbctl election`: who announces which address, who would come next, and what a drain would move."""

import json
from typing import Any

import click

from lbctl.errors import LbctlError
from lbctl.render import table
from lbctl_l2 import election as elections
from lbctl_l2.election import Member, Standing
from lbctl_l2.insight import Look, by_reason

HEADER = ("address", "services", "announced by", "first", "then", "moves to")
THEN = 3
"""How many who come next are shown in the table."""


@click.command("election")
@click.option("--simulate-drain", "node", metavar="NODE", help="what would move if this node were drained")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_context
def election(ctx: click.Context, node: str | None, form: str) -> int:
    """Who announces which bare-metal address, who would come next, and why others may not. Writes nothing."""
    look = Look(ctx.obj.harness("l2"))
    if node is not None and node not in {member.name for member in look.roll.members}:
        raise LbctlError(f"there is no node {node}: see kubectl get nodes", reason="no-node")
    before = look.elected()
    after = elections.elect(look.claims, look.drained(node)) if node is not None else before
    rows = [_row(look, standing, after[address]) for address, standing in sorted(before.items(), key=_place)]
    click.echo(json.dumps(_data(rows, look), indent=2) if form == "json" else _text(rows, look, node))
    return 0


def _place(item: tuple[Any, Standing]) -> tuple[int, int]:
    return item[0].version, int(item[0])


def _row(look: Look, before: Standing, after: Standing) -> dict[str, Any]:
    """One address, in plain values."""
    verdicts = elections.verdicts(look.parts(before.address), look.roll) if not before.ranking else ()
    return {
        "address": str(before.address),
        "services": list(before.owners),
        "announced_by": look.holder(before.address)[0],
        "ranking": list(before.ranking),
        "moves_to": after.first if after.first != before.first else "",
        "nobody_because": {why: [v.node for v in found] for why, found in by_reason(verdicts).items()},
    }


def _data(rows: list[dict[str, Any]], look: Look) -> dict[str, Any]:
    return {"addresses": rows, "nodes": [_member(member) for member in look.roll.members]}


def _member(member: Member) -> dict[str, Any]:
    states = ("speaks", "alive", "settled", "excluded", "network_unavailable", "draining")
    return {"name": member.name, "announces": len(member.announces), **{key: getattr(member, key) for key in states}}


def _text(rows: list[dict[str, Any]], look: Look, node: str | None) -> str:
    if not rows:
        return "No Service holds an address out of a pool."
    lines = [table(HEADER, [_cells(row) for row in rows])]
    lines += [f"{row['address']}: nobody may announce it: {_because(row)}" for row in rows if not row["ranking"]]
    if node is not None:
        moved = sum(bool(row["moves_to"]) for row in rows)
        lines.append(f"Draining {node} moves {moved} of {len(rows)} addresses: the new node announces before it stops.")
    return "\n".join(line.rstrip("\n") for line in lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    ranking = row["ranking"]
    then = ",".join(ranking[1 : 1 + THEN]) + ("…" if len(ranking) > 1 + THEN else "")
    first = ranking[0] if ranking else "nobody"
    return (row["address"], ",".join(row["services"]), row["announced_by"] or "nobody", first, then, row["moves_to"])


def _because(row: dict[str, Any]) -> str:
    return "; ".join(f"{','.join(nodes[:THEN])}: {why}" for why, nodes in row["nobody_because"].items()) or "no node"
