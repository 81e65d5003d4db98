"""Plans and explanations for people and machines: text, markdown, GitHub annotations, plain data.  PURE.

The command line calls it; nothing here decides anything. What is rendered is deterministic and carries no time of its
own, so that two plans of the same state compare clean. Names and values come from users (and from files that nobody
has reviewed yet), so each renderer escapes them for where they go:

| goes to        | what must not work there                              | how                       |
|----------------|-------------------------------------------------------|---------------------------|
| terminal       | control characters, colours, invisible and bidi marks | written as `\\x1b`        |
| CI logs        | workflow commands (`::set-output`, `##[group]`)       | no line begins with one   |
| markdown, HTML | tables, links, images, tags, mentions, issue numbers  | entities within `<code>`  |
| JSON, YAML     | all of the above, should somebody print it            | ASCII only, quoted        |
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from lbctl.model import SHARED, Key, Note, Owner, Ref, Refusal, refs, resolve
from lbctl.plan import Change, FieldDiff, Plan

FORMAT_VERSION = "1"
"""Of the JSON and YAML forms. A field may be added within a version; none changes its meaning or goes."""

UNKNOWN = "(known after apply)"
SIGNS = {"create": "+", "update": "~", "delete": "-"}
COMMENT_LIMIT = 65_000
"""Characters that a comment on GitHub takes (65,536), with some room."""

ANNOTATIONS = 10
"""How many annotations of a level GitHub shows for one step."""

_UNKNOWN = re.compile(rf"{re.escape(UNKNOWN)}( \d+)?")
"""What a preview puts in the place of a text that nobody knows yet; numbered where there are several."""

_LONGEST = 240
_Entries = list[tuple[str, Change]]


class Preview(msgspec.Struct, frozen=True):
    """What is rendered: plans by provider, and what they were made from.

    source        where the Services come from
    calls         API calls that were made, by service
    skipped       what stood in files and is no Service of type LoadBalancer, counted by kind
    assumptions   what had to be assumed, in sentences
    problems      what could not be read, in sentences
    offline       made of files alone: nobody said which cluster's things to compare with
    """

    plans: Mapping[str, Plan]
    source: str = ""
    cluster_id: str = ""
    calls: Mapping[str, int] = {}
    skipped: Mapping[str, int] = {}
    assumptions: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    offline: bool = False

    @property
    def title(self) -> str:
        """What to call it."""
        return "Preview" if self.offline else "Plan"

    def changes(self) -> _Entries:
        """Every step with its provider, in the plans' order; see `steps`."""
        return [(name, change) for name, plan in sorted(self.plans.items()) for change in steps(plan)]

    def pending(self) -> _Entries:
        return [(name, change) for name, plan in sorted(self.plans.items()) for change in plan.pending]

    def frozen(self) -> _Entries:
        return [(name, change) for name, plan in sorted(self.plans.items()) for change in plan.frozen]

    def limits(self) -> tuple[str, ...]:
        """Why the frozen changes are held back, one sentence per provider."""
        return tuple(plan.limit for _, plan in sorted(self.plans.items()) if plan.limit)

    def refused(self) -> tuple[Refusal, ...]:
        """One per Service and reason, by name."""
        found = {refusal for plan in self.plans.values() for refusal in plan.refused}
        return tuple(sorted(found, key=lambda r: (r.owner, r.reason, r.message)))

    def notes(self) -> tuple[Note, ...]:
        found = {note for plan in self.plans.values() for note in plan.notes}
        return tuple(sorted(found, key=lambda n: (n.owner, n.condition, n.reason, n.message)))

    def counts(self) -> dict[str, int]:
        """How many of what, over all providers."""
        counts = {"create": 0, "update": 0, "delete": 0}
        for _, change in self.changes():
            counts[change.action] += 1
        unchanged = sum(plan.unchanged for plan in self.plans.values())
        held = {"pending": len(self.pending()), "frozen": len(self.frozen()), "refused": len(self.refused())}
        return {**counts, "unchanged": unchanged, **held}

    @property
    def digest(self) -> str:
        """What all these plans would do, as a SHA-256 in hex. Equal for equal plans, whenever they were made."""
        parts = "".join(f"{name}={plan.digest}\n" for name, plan in sorted(self.plans.items()))
        return hashlib.sha256(parts.encode()).hexdigest()


def steps(plan: Plan) -> tuple[Change, ...]:
    """The plan's changes, with what they refer to filled in where it is known before it is made: an address that is
    allocated already (bare metal)."""
    made = {c.key: c.after.outputs for c in plan.changes if c.action == "create" and c.after and c.after.outputs}
    return tuple(_filled(change, made) for change in plan.changes) if made else plan.changes


def _filled(change: Change, made: Mapping[Key, Mapping[str, Any]]) -> Change:
    if change.after is None or not any(ref.key in made for diff in change.diffs for ref in refs(diff.after)):
        return change
    after = replace(change.after, fields=resolve(dict(change.after.fields), made))
    return replace(change, after=after, updates=tuple(replace(d, after=resolve(d.after, made)) for d in change.updates))


# ── escaping ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def for_terminal(text: str) -> str:
    """The text on one line, with everything that a terminal or a CI runner would act on made visible."""
    seen = text if text.isprintable() else "".join(c if c.isprintable() else _visible(c) for c in text)
    return seen.replace("##[", "#\\#[")


def _visible(character: str) -> str:
    code = ord(character)
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return named.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def line(text: str, indent: int = 0) -> str:
    """One line of output, indented. It never begins with what a CI runner takes for a command."""
    safe = for_terminal(text)
    return " " * indent + (f"\\{safe}" if safe.lstrip().startswith("::") else safe)


_PLAIN = re.compile(r"[^0-9A-Za-z /,=%-]|(?<=[wW])\.")


def for_markdown(text: str) -> str:
    """The text as inline code that no markdown, HTML, link or mention can break out of."""
    return f"<code>{_PLAIN.sub(_entity, for_terminal(text))}</code>"


def _entity(match: re.Match[str]) -> str:
    character = match[0]
    if character == "." and match.string[max(match.start() - 1, 0) : match.start()] not in ("w", "W"):
        return "."
    # GitHub looks for mentions in the rendered text: the comment keeps the sign and the name apart.
    return f"&#{ord(character)};" + ("<!-- -->" if character == "@" else "")


def annotation(level: str, title: str, message: str) -> str:
    """One GitHub workflow command: `level` is error, warning or notice."""
    return f"::{level} title={_for_property(for_terminal(title))}::{_for_command(for_terminal(message))}"


def _for_command(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _for_property(text: str) -> str:
    return _for_command(text).replace(":", "%3A").replace(",", "%2C")


# ── values ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def value(of: Any, field: str = "") -> str:
    """A field's value on one line. A Ref is known only after apply, and so is a port that nobody has allocated yet."""
    if isinstance(of, Ref) or (of is None and "port" in field):
        return UNKNOWN
    if of is None:
        return "none"
    if isinstance(of, bool):
        return "true" if of else "false"
    if isinstance(of, tuple | list | frozenset):
        return f"[{', '.join(value(item, field) for item in of)}]"
    if isinstance(of, Mapping):
        return f"{{{', '.join(f'{key}: {value(item, str(key))}' for key, item in of.items())}}}"
    return f'"{of}"' if isinstance(of, str) and not _UNKNOWN.fullmatch(of) else str(of)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text) - _LONGEST} characters more)"


def fields(change: Change) -> Iterator[tuple[str, str]]:
    """(field, what happens to it) for everything in a change that is worth a line."""
    if change.action == "update":
        for diff in change.diffs:
            yield from _updated(diff)
    elif change.after is not None:
        for name, item in change.after.fields.items():
            # An empty list or text says "as usual".
            if item not in ((), "", {}, False) and (item is not None or "port" in name):
                yield name, _short(value(item, name))


def _updated(diff: FieldDiff) -> Iterator[tuple[str, str]]:
    before, after = diff.before, diff.after
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}, key=str):
            if before.get(key) != after.get(key):
                yield from _updated(FieldDiff(f"{diff.field}.{key}", before.get(key), after.get(key)))
    elif _is_set(before) and _is_set(after) and (before and after):
        gone = [f"-{value(item)}" for item in before if item not in after]
        come = [f"+{value(item)}" for item in after if item not in before]
        yield diff.field, _short(", ".join([*come, *gone]) or f"{value(before)} → {value(after)}")
    else:
        yield diff.field, f"{_short(value(before, ''))} → {_short(value(after, diff.field))}"


def _is_set(of: Any) -> bool:
    return isinstance(of, tuple) and all(isinstance(item, str | int) for item in of)


# ── a plan as text ────────────────────────────────────────────────────────────────────────────────────────────────────


def text(preview: Preview) -> str:
    """The plan for a terminal or a log, without colour."""
    return "\n".join(_text(preview)) + "\n"


def _text(preview: Preview) -> Iterator[str]:
    yield from _head(preview)
    for owner, entries in _by_owner(preview.changes()):
        yield line(owner)
        for provider, change in entries:
            yield from _change(change, provider if len(preview.plans) > 1 else "")
        yield ""
    yield from _held("Later, once its time has come:", preview.pending())
    yield from _held("Held back: " + " ".join(preview.limits()), preview.frozen())
    refused = [f"! {r.owner}  {r.reason}: {r.message}" for r in preview.refused()]
    yield from _listed("Refused, and left as it is:", refused)
    yield from _listed("To know:", [f"i {_noted(n)}" for n in preview.notes()])
    yield summary(preview)
    if preview.calls:
        yield line(f"API calls: {calls(preview.calls)}.")


def _head(preview: Preview) -> Iterator[str]:
    where = f", cluster {preview.cluster_id}" if preview.cluster_id else ""
    names = ", ".join(sorted(preview.plans)) or "no provider"
    yield line(f"{preview.title} for {preview.source or 'the cluster'}{where}, with {names}")
    for sentence in preview.problems:
        yield line(f"Not read: {sentence}")
    for sentence in preview.assumptions:
        yield line(f"Assumed: {sentence}")
    if preview.skipped:
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(preview.skipped.items()))
        yield line(f"Skipped: {counted}")
    yield ""


def _by_owner(entries: _Entries) -> list[tuple[Owner, _Entries]]:
    """By Service, sorted; what all share comes first, as it is made first."""
    groups: dict[Owner, _Entries] = {}
    for provider, change in entries:
        groups.setdefault(change.owner, []).append((provider, change))
    return sorted(groups.items(), key=lambda group: (group[0] != SHARED, group[0]))


def _change(change: Change, provider: str) -> Iterator[str]:
    yield line(_title(change, provider), 2)
    for name, what in fields(change):
        yield line(f"{name}: {what}", 6)


def _title(change: Change, provider: str = "") -> str:
    parts = [f"{SIGNS[change.action]} {f'{provider} ' if provider else ''}{change.kind} {change.name}"]
    if change.because:
        parts.append(f"({change.because})")
    if change.outage:
        parts.append("! outage: the old goes before the new can come")
    return "  ".join(parts)


def _noted(note: Note) -> str:
    """What concerns everybody names in its message what it is about: "shared" would be read as a shared address."""
    whose = "" if note.owner == SHARED else f"{note.owner}  "
    return f"{whose}{note.reason}: {note.message}"


def _held(title: str, entries: _Entries) -> Iterator[str]:
    if entries:
        yield from _listed(title, [f"{c.owner}  {SIGNS[c.action]} {c.kind} {c.name}" for _, c in entries])


def _listed(title: str, rows: Sequence[str]) -> Iterator[str]:
    if rows:
        yield line(title)
        yield from (line(row, 2) for row in rows)
        yield ""


def summary(preview: Preview) -> str:
    """The last line: `Plan: 2 to create, 1 to change, 0 to delete; 14 unchanged.`"""
    n = preview.counts()
    said = f"{preview.title}: {n['create']} to create, {n['update']} to change, {n['delete']} to delete"
    said += f"; {n['unchanged']} unchanged"
    for count, word in ((n["pending"], "later"), (n["frozen"], "held back"), (n["refused"], "refused")):
        said += f", {count} {word}" if count else ""
    return f"{said}."


def calls(counted: Mapping[str, int]) -> str:
    """`aws 13, kubernetes 2 (15 in all)`."""
    total = f" ({sum(counted.values())} in all)" if len(counted) > 1 else ""
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items())) + total


# ── a plan as markdown, annotations, data ─────────────────────────────────────────────────────────────────────────────


def markdown(preview: Preview, limit: int = COMMENT_LIMIT) -> str:
    """The plan as a comment on a pull request: at most `limit` characters; what does not fit is counted."""
    head, rows, tail = list(_markdown_head(preview)), list(_markdown_rows(preview)), list(_markdown_tail(preview))
    room = limit - sum(len(part) + 1 for part in (*head, *tail)) - 100
    kept, left = _fitting(rows, room)
    cut = ["", f"… and {left} changes more: see the log."] if left else []
    return _cut("\n".join([*head, *kept, *cut, *tail]) + "\n", limit)


def _cut(whole: str, limit: int) -> str:
    if len(whole) <= limit:
        return whole
    end = whole.rfind("\n", 0, limit - 40)
    return f"{whole[:end]}\n\n… cut at {limit} characters: see the log.\n"


def _fitting(rows: Sequence[str], room: int) -> tuple[list[str], int]:
    kept: list[str] = []
    for row in rows:
        room -= len(row) + 1
        if room < 0:
            break
        kept.append(row)
    return kept, len(rows) - len(kept)


def _markdown_head(preview: Preview) -> Iterator[str]:
    yield f"### lbctl {summary(preview)[0].lower()}{summary(preview)[1:].rstrip('.')}"
    yield ""
    for word, sentences in (("Not read", preview.problems), ("Assumed", preview.assumptions)):
        yield from (f"- {word}: {for_markdown(sentence)}" for sentence in sentences)
    if preview.changes():
        yield "\n| | Service | Resource | Change | Why |\n|---|---|---|---|---|"


def _markdown_rows(preview: Preview) -> Iterator[str]:
    for owner, entries in _by_owner(preview.changes()):
        for _, c in entries:
            what = "<br>".join(for_markdown(f"{name}: {said}") for name, said in fields(c))
            sign = f"`{SIGNS[c.action]}`" + (" outage" if c.outage else "")
            cells = (sign, for_markdown(owner), for_markdown(f"{c.kind} {c.name}"), what, for_markdown(c.because))
            yield f"| {' | '.join(cells)} |"


def _markdown_tail(preview: Preview) -> Iterator[str]:
    held = [f"{c.owner} {c.action} {c.kind} {c.name}" for _, c in preview.frozen()]
    lists: tuple[tuple[str, Sequence[str]], ...] = (
        ("Refused, and left as it is", [f"{r.owner} {r.reason}: {r.message}" for r in preview.refused()]),
        ("Held back", [*preview.limits(), *held]),
        ("Later, once its time has come", [f"{c.owner} {c.action} {c.kind} {c.name}" for _, c in preview.pending()]),
    )
    for title, rows in lists:
        if rows:
            yield f"\n**{title}**\n"
            yield from (f"- {for_markdown(row)}" for row in rows)
    if preview.calls:
        yield f"\nAPI calls: {for_markdown(calls(preview.calls))}"


def annotations(preview: Preview) -> str:
    """The plan as GitHub workflow commands: refusals and safety limits are errors, changes are notices."""
    errors = [annotation("error", f"{r.owner} is refused", f"{r.reason}: {r.message}") for r in preview.refused()]
    errors += [annotation("error", "deletes are held back", limit) for limit in preview.limits()]
    notices = [
        annotation("notice", c.owner, _title(c, provider)) for provider, c in preview.changes()
    ]
    rows = [*_some(errors), *_some(notices), for_terminal(summary(preview))]
    return "\n".join(rows) + "\n"


def _some(rows: Sequence[str]) -> list[str]:
    left = len(rows) - ANNOTATIONS
    return [*rows[:ANNOTATIONS], *([f"… and {left} more: see lbctl plan -o text"] if left > 0 else [])]


def data(preview: Preview) -> dict[str, Any]:
    """The plan as plain values for JSON and YAML: `format_version`, stable names in snake_case."""
    return {
        "format_version": FORMAT_VERSION,
        "digest": preview.digest,
        "source": preview.source,
        "preview": preview.offline,
        "cluster_id": preview.cluster_id,
        "providers": sorted(preview.plans),
        "summary": preview.counts(),
        "changes": [_change_data(*entry) for entry in preview.changes()],
        "pending": [_change_data(*entry) for entry in preview.pending()],
        "frozen": [_change_data(*entry) for entry in preview.frozen()],
        "limits": list(preview.limits()),
        "refused": [msgspec.to_builtins(refusal) for refusal in preview.refused()],
        "notes": [msgspec.to_builtins(note) for note in preview.notes()],
        "assumptions": list(preview.assumptions),
        "problems": list(preview.problems),
        "skipped": dict(sorted(preview.skipped.items())),
        "api_calls": dict(sorted(preview.calls.items())),
    }


def _change_data(provider: str, change: Change) -> dict[str, Any]:
    waits = {"not_before": change.not_before.isoformat()} if change.not_before else {}
    return {
        "provider": provider,
        "service": None if change.owner == SHARED else change.owner,
        "action": change.action,
        "kind": change.kind,
        "name": change.name,
        "because": change.because,
        "outage": change.outage,
        "fields": [_diff_data(diff) for diff in change.diffs],
        **waits,
    }


def _diff_data(diff: FieldDiff) -> dict[str, Any]:
    unknown = value(diff.after, diff.field) == UNKNOWN
    return {
        "field": diff.field,
        "before": plain(diff.before),
        "after": None if unknown else plain(diff.after),
        "after_unknown": unknown,
    }


def plain(of: Any) -> Any:
    """A value out of text, numbers, lists and dicts alone; what is known only after apply says so."""
    if isinstance(of, Ref):
        return UNKNOWN
    if isinstance(of, Mapping):
        return {str(key): plain(item) for key, item in of.items()}
    if isinstance(of, tuple | list | frozenset | set):
        return [plain(item) for item in of]
    return of if isinstance(of, str | int | float | bool | None) else str(of)


# ── one Service explained ─────────────────────────────────────────────────────────────────────────────────────────────


class Step(msgspec.Struct, frozen=True):
    """One station on the way from the address to a pod. `ok` is None where nobody knows. `command` shows it."""

    station: str
    finding: str
    ok: bool | None = None
    command: str = ""


class Explanation(msgspec.Struct, frozen=True):
    """Why one Service is as it is. `verdict` is one sentence; `conditions` are (type, status, reason, message)."""

    owner: Owner
    verdict: str
    load_balancer_class: str = ""
    provider: str = ""
    addresses: tuple[str, ...] = ()
    conditions: tuple[tuple[str, str, str, str], ...] = ()
    refusal: Refusal | None = None
    notes: tuple[Note, ...] = ()
    changes: tuple[Change, ...] = ()
    pending: tuple[Change, ...] = ()
    frozen: tuple[Change, ...] = ()
    limit: str = ""
    unchanged: int = 0
    walk: tuple[Step, ...] = ()


def explanation_text(of: Explanation) -> str:
    """For a terminal."""
    return "\n".join(_explained(of)) + "\n"


def _explained(of: Explanation) -> Iterator[str]:
    yield line(f"{of.owner}: {of.verdict}")
    yield line(f"class {of.load_balancer_class or '(none)'} → provider {of.provider or '(none)'}", 2)
    if of.addresses:
        yield line(f"address {', '.join(of.addresses)}", 2)
    for kind, status, reason, message in of.conditions:
        yield line(f"{kind} is {status}  {reason}: {message}", 2)
    yield ""
    if of.refusal is not None:
        yield from _listed("Refused:", [f"! {of.refusal.reason}: {of.refusal.message}"])
    yield from _listed("To know:", [f"i {note.reason}: {note.message}" for note in of.notes])
    if of.changes:
        yield "Would change now:"
        for change in of.changes:
            yield from _change(change, "")
        yield ""
    yield from _held("Later, once its time has come:", [("", change) for change in of.pending])
    yield from _held(f"Held back: {of.limit}", [("", change) for change in of.frozen])
    if of.walk:
        yield f"The way of a packet ({LEGEND}):"
        for number, step in enumerate(of.walk, 1):
            yield from _station(number, step)


MARKS = {True: "ok", False: "!!", None: "--"}
LEGEND = "ok: good, !!: look here, --: nothing to judge"


def _station(number: int, step: Step) -> Iterator[str]:
    yield line(f"{number}. {MARKS[step.ok]} {step.station}: {step.finding}", 2)
    if step.command:
        yield line(f"$ {step.command}", 8)


def explanation_markdown(of: Explanation) -> str:
    """As a comment."""
    rows = [f"### lbctl explain {for_markdown(of.owner)}", "", for_markdown(of.verdict), ""]
    said = [
        *([f"refused: {of.refusal.reason}: {of.refusal.message}"] if of.refusal else []),
        *(f"{note.reason}: {note.message}" for note in of.notes),
        *(_title(change) for change in of.changes),
    ]
    rows += [f"- {for_markdown(row)}" for row in said]
    rows += ["", LEGEND, "", "| | Station | Finding | See |", "|---|---|---|---|"] if of.walk else []
    rows += [
        f"| {MARKS[s.ok]} | {for_markdown(s.station)} | {for_markdown(s.finding)} | {for_markdown(s.command)} |"
        for s in of.walk
    ]
    return _cut("\n".join(rows) + "\n", COMMENT_LIMIT)


def explanation_data(of: Explanation) -> dict[str, Any]:
    """As plain values."""
    names = ("type", "status", "reason", "message")
    return {
        "format_version": FORMAT_VERSION,
        "service": of.owner,
        "verdict": of.verdict,
        "load_balancer_class": of.load_balancer_class,
        "provider": of.provider,
        "addresses": list(of.addresses),
        "conditions": [dict(zip(names, said, strict=True)) for said in of.conditions],
        "refusal": msgspec.to_builtins(of.refusal),
        "notes": [msgspec.to_builtins(note) for note in of.notes],
        "changes": [_change_data(of.provider, change) for change in of.changes],
        "pending": [_change_data(of.provider, change) for change in of.pending],
        "frozen": [_change_data(of.provider, change) for change in of.frozen],
        "limit": of.limit,
        "unchanged": of.unchanged,
        "walk": [msgspec.to_builtins(step) for step in of.walk],
    }


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as kubectl prints them: upper case, aligned by three blanks, nothing cut off."""
    cells = [[part.upper() for part in header], *([for_terminal(part) or "-" for part in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    padded = ("   ".join(part.ljust(width) for part, width in zip(row, widths, strict=True)) for row in cells)
    return "".join(f"{line(row.rstrip())}\n" for row in padded)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same as markdown."""
    body = "".join(f"| {' | '.join(for_markdown(part) for part in row)} |\n" for row in rows)
    return f"| {' | '.join(header)} |\n|{'---|' * len(header)}\n{body}"
