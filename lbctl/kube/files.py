"""Manifests from files, read into the same stores that a cluster fills.

`lbctl plan -f FILE|DIR|-` uses it. Files are untrusted: their size, depth, number of nodes and use of aliases are
bounded before anything is built from them. What is no Service of type LoadBalancer, Node, EndpointSlice or Namespace is
skipped and counted, unless a provider says that it reads it (`Files.of`). What cannot be read is a problem with file
and line, and does not stop the rest.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import yaml

from lbctl.cluster import Watch
from lbctl.kube import objects
from lbctl.kube.objects import Custom, EndpointSlice, Namespace, Node, Service
from lbctl.kube.source import Stores, stores

FILE_BYTES = 64 * 1024 * 1024
DEPTH = 64
NODES = 2_000_000

SUFFIXES = (".yaml", ".yml", ".json")

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""A DNS-1123 subdomain (RFC 1123): what every name here must be. The API server would say so; files must be asked."""

_KINDS: Mapping[tuple[str, str], type[Any]] = {
    ("v1", "Service"): Service,
    ("v1", "Node"): Node,
    ("v1", "Namespace"): Namespace,
    ("discovery.k8s.io/v1", "EndpointSlice"): EndpointSlice,
}


class Problem(msgspec.Struct, frozen=True):
    """Something in a file that cannot be used: where, a stable reason, and what to do."""

    where: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}: {self.message}"


class Other(msgspec.Struct, frozen=True):
    """An object of a sort that only a provider may know."""

    api_version: str
    kind: str
    item: Custom

    def is_of(self, watch: Watch) -> bool:
        """Is it one of those? The plural is guessed from the kind, as Kubernetes itself does where it must."""
        version = f"{watch.group}/{watch.version}" if watch.group else watch.version
        here = watch.namespace in ("", self.item.metadata.namespace)
        return here and self.api_version == version and _plural(self.kind) == watch.plural and not watch.selector


class Files(msgspec.Struct, frozen=True):
    """What the files hold. `skipped` counts by kind; `where` says in which file and line each object stands.

    `others` are among the skipped: of sorts that a provider may know.
    """

    services: tuple[Service, ...] = ()
    nodes: tuple[Node, ...] = ()
    slices: tuple[EndpointSlice, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    skipped: Mapping[str, int] = {}
    problems: tuple[Problem, ...] = ()
    where: Mapping[str, str] = {}
    others: tuple[Other, ...] = ()

    def of(self, watch: Watch) -> tuple[Custom, ...]:
        """The objects of a sort that a provider watches."""
        return tuple(other.item for other in self.others if other.is_of(watch))

    def passed_over(self, watches: Iterable[Watch]) -> Mapping[str, int]:
        """What is skipped, counted by kind, where providers read these."""
        known = tuple(watches)
        read = Counter(other.kind for other in self.others if any(map(other.is_of, known)))
        return {kind: left for kind, count in self.skipped.items() if (left := count - read[kind])}

    def stores(self) -> Stores:
        """Filled as a cluster would have filled them."""
        filled = stores()
        filled.services.replace(self.services, "")
        filled.nodes.replace(self.nodes, "")
        filled.slices.replace(self.slices, "")
        filled.namespaces.replace(self.namespaces, "")
        return filled


class _Loader(yaml.CSafeLoader):
    """YAML as kubectl reads it: dates stay text, and 12:30 is no number of seconds."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:timestamp",)]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_WITHOUT_COLONS = re.compile(r"^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+)$")
for _first, _resolvers in _Loader.yaml_implicit_resolvers.items():
    _Loader.yaml_implicit_resolvers[_first] = [
        (tag, _WITHOUT_COLONS if tag == "tag:yaml.org,2002:int" else pattern) for tag, pattern in _resolvers
    ]


class _Bad(Exception):
    """A document that must not, or cannot, be built."""

    def __init__(self, line: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.line, self.reason, self.message = line, reason, message


class _Reading:
    """Collects what the files hold."""

    def __init__(self) -> None:
        self.found: dict[type[Any], dict[str, Any]] = {kind: {} for kind in _KINDS.values()}
        self.where: dict[str, str] = {}
        self.skipped: Counter[str] = Counter()
        self.problems: list[Problem] = []
        self.others: list[Other] = []

    def file(self, name: str, text: bytes) -> None:
        """One file: all its documents, or a problem: of a file that is no YAML nothing is used."""
        try:
            for line, document in _documents(text):
                self._item(f"{name}:{line}", document)
        except _Bad as bad:
            self.problems.append(Problem(f"{name}:{bad.line}", bad.reason, bad.message))

    def _item(self, where: str, document: Any) -> None:
        if document is None:
            return
        if not isinstance(document, dict):
            self._problem(where, "not-an-object", "a manifest is a mapping with apiVersion and kind")
            return
        kind = str(document.get("kind", "?"))
        if kind.endswith("List") and isinstance(document.get("items"), list):
            for index, item in enumerate(document["items"]):
                self._item(f"{where} (item {index + 1})", item)
            return
        wanted = _KINDS.get((str(document.get("apiVersion", "")), kind))
        if wanted is None:
            self.skipped[kind] += 1
            self._put_aside(kind, document)
        else:
            self._take(where, kind, wanted, document)

    def _put_aside(self, kind: str, document: dict[str, Any]) -> None:
        """Perhaps a provider knows it; what has not even the shape of an object, nobody does."""
        with suppress(msgspec.ValidationError):
            item = objects.slim(msgspec.convert(document, Custom))
            self.others.append(Other(str(document.get("apiVersion", "")), kind, item))

    def _take(self, where: str, kind: str, wanted: type[Any], document: dict[str, Any]) -> None:
        try:
            item = objects.slim(msgspec.convert(document, wanted, strict=True))
        except msgspec.ValidationError as error:
            message = f"{kind} {_name(document)}: {error}; `kubectl explain {kind.lower()}` shows what belongs there"
            self._problem(where, f"malformed-{kind.lower()}", message)
            return
        if isinstance(item, Service) and item.spec.type != "LoadBalancer":
            self.skipped[f"Service of type {item.spec.type}"] += 1
            return
        if not _NAME.fullmatch(item.metadata.name) or not _NAME.fullmatch(item.metadata.namespace or "default"):
            said = f"{item.metadata.namespace[:80]}/{item.metadata.name[:80]}"
            self._problem(where, "bad-name", f"{said!r} is no name: use lower-case letters, digits and dashes")
            return
        self._keep(where, kind, wanted, _placed(item))

    def _keep(self, where: str, kind: str, wanted: type[Any], item: Any) -> None:
        key = objects.key(item)
        label = f"{kind} {key}"
        if key in self.found[wanted]:
            message = f"{label} stands in {self.where[label]} already: keep one of the two"
            self._problem(where, f"duplicate-{kind.lower()}", message)
            return
        self.found[wanted][key] = item
        self.where[label] = where

    def _problem(self, where: str, reason: str, message: str) -> None:
        self.problems.append(Problem(where, reason, message))

    def files(self) -> Files:
        found = self.found
        return Files(
            tuple(found[Service].values()), tuple(found[Node].values()), tuple(found[EndpointSlice].values()),
            tuple(found[Namespace].values()), dict(self.skipped), tuple(self.problems), self.where,
            tuple(self.others),
        )  # fmt: skip


def load(paths: Iterable[str | Path], *, stdin: Iterable[bytes] | None = None) -> Files:
    """Everything in these files; of a folder, its .yaml, .yml and .json, however deep; `-` is standard input.

    Nothing is raised: what cannot be read is in `problems`.
    """
    reading = _Reading()
    for path in paths:
        if str(path) == "-":
            _read(reading, "<stdin>", b"".join(stdin if stdin is not None else sys.stdin.buffer))
            continue
        for name in _files_of(Path(path)):
            try:
                size = name.stat().st_size
                text = name.read_bytes() if size <= FILE_BYTES else b"\0" * (FILE_BYTES + 1)
            except OSError as error:
                reading.problems.append(Problem(str(name), "unreadable", f"{error.strerror}: check the path"))
                continue
            _read(reading, str(name), text)
    return reading.files()


def parse(text: str | bytes, name: str = "<text>") -> Files:
    """The same for one text."""
    reading = _Reading()
    _read(reading, name, text.encode() if isinstance(text, str) else text)
    return reading.files()


def overlay_other(live: Custom | None, item: Custom) -> Custom:
    """What the cluster's object would be once the file's is applied: it keeps its identity and its status."""
    if live is None:
        return item
    said = item.metadata
    metadata = msgspec.structs.replace(live.metadata, labels=said.labels, annotations=said.annotations)
    return Custom(metadata, item.spec, live.status)


def overlay(live: Service | None, item: Service) -> Service:
    """What the cluster's Service would be once the file's is applied.

    It keeps its identity, its status, our claim, and what the API server allocated where the file does not say.
    """
    if live is None:
        return item
    allocated = {(port.port, port.protocol): port.node_port for port in live.spec.ports or ()}
    ports = tuple(
        msgspec.structs.replace(port, node_port=port.node_port or allocated.get((port.port, port.protocol)))
        for port in item.spec.ports or ()
    )
    spec = msgspec.structs.replace(
        item.spec,
        ports=ports,
        health_check_node_port=item.spec.health_check_node_port or live.spec.health_check_node_port,
        ip_families=item.spec.ip_families or live.spec.ip_families,
        ip_family_policy=item.spec.ip_family_policy or live.spec.ip_family_policy,
        load_balancer_class=item.spec.load_balancer_class or live.spec.load_balancer_class,
    )
    # Without a version: what the API server is still to allocate is known after apply.
    metadata = msgspec.structs.replace(
        live.metadata, labels=item.metadata.labels, annotations=item.metadata.annotations, resource_version=""
    )
    return Service(metadata, spec, live.status)


def _read(reading: _Reading, name: str, text: bytes) -> None:
    if len(text) > FILE_BYTES:
        message = f"more than {FILE_BYTES // 2**20} MiB: split it"
        reading.problems.append(Problem(name, "file-too-large", message))
        return
    reading.file(name, text)


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    else:
        yield path


def _documents(text: bytes) -> Iterator[tuple[int, Any]]:
    """(line of its first key, document), each checked before it is built."""
    try:
        if (document := _json(text)) is not None:
            yield 1, document
            return
        _check(text)
        loader = _Loader(text)
        try:
            while loader.check_node():
                node: Any = loader.get_node()
                yield _line(node), _built(loader, node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _Bad(mark.line + 1 if mark else 1, "not-yaml", error.problem or "this is no YAML") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _Bad(_line_of(text, error), "not-yaml", f"this is no YAML text: {_reason(error)}") from error


def _json(text: bytes) -> Any:
    """What `kubectl get -o json` prints, thirty times as fast as by way of YAML. None if it is something else."""
    if text.lstrip()[:1] != b"{":
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _built(loader: _Loader, node: Any) -> Any:
    try:
        return loader.construct_document(node)
    except (ValueError, OverflowError, RecursionError) as error:
        raise _Bad(_line(node), "not-yaml", f"a value cannot be read: {error}") from error


def _check(text: bytes) -> None:
    """Depth, and size with every alias written out, from the stream of events.

    Nothing is built here, so nothing can explode: a few lines of nested aliases can stand for billions of values.
    """
    open_nodes: list[tuple[str | None, int]] = []
    sizes: dict[str | None, int] = {}
    total = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            sizes[event.anchor] = NODES
            size = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor] = size = 1
        total += size
        if len(open_nodes) > DEPTH:
            raise _Bad(_line(event), "too-deep", f"nested deeper than {DEPTH}: no manifest is")
        if total > NODES:
            message = f"more than {NODES} values, aliases written out: split the file, or use fewer aliases"
            raise _Bad(_line(event), "too-many-values", message)


def _line(of: Any) -> int:
    """1 for the first line."""
    return int(of.start_mark.line) + 1


def _placed(item: Any) -> Any:
    """In the namespace that kubectl would put it."""
    if item.metadata.namespace or isinstance(item, Node | Namespace):
        return item
    return msgspec.structs.replace(item, metadata=msgspec.structs.replace(item.metadata, namespace="default"))


def _plural(kind: str) -> str:
    """As Kubernetes' UnsafeGuessKindToResource."""
    lower = kind.lower()
    if lower.endswith("s"):
        return f"{lower}es"
    return f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}s"


def _name(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name", "?")) if isinstance(metadata, dict) else "?"


def _line_of(text: bytes, error: Exception) -> int:
    position = getattr(error, "position", None) or getattr(error, "start", None) or 0
    return text[: position if isinstance(position, int) else 0].count(b"\n") + 1


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).splitlines()[0]
