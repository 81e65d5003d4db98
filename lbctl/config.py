"""File, environment and flags made into one frozen `Config` that knows where each value came from.

Precedence: flag > environment > file > discovery > default. `FIELDS` is the one list of what can be set; the flags, the
environment variables, `lbctl config view` and `lbctl config schema` follow from it, and so do a provider's from its
`Plugin.settings`. Environment and files enter as values; only `read_file` opens one. An unknown key, or a value that
cannot be read, is a `SettingsError` that names the field, the value and the way out.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from lbctl.errors import SettingsError
from lbctl.model import Scheme
from lbctl.policy import Limits, NamespaceRule, Policy
from lbctl.provider import Plugin, Setting
from lbctl.render import plain

API_VERSION, KIND = "lbctl.io/v1alpha1", "Config"
DEFAULT_FILE = "lbctl.yaml"
SCHEME = "default-scheme"
"""The setting by which a provider learns what Services get that do not say who may reach them."""

Claims = Literal["finalizer", "none"]
Tenancy = Literal["closed", "open"]
LogFormat = Literal["auto", "text", "json"]
LogLevel = Literal["debug", "info", "warn", "error"]


class Logs(msgspec.Struct, frozen=True):
    """How and how much is logged. `auto` is text on a terminal and JSON elsewhere."""

    format: LogFormat = "auto"
    level: LogLevel = "info"


class Intervals(msgspec.Struct, frozen=True):
    """In seconds. `audit` is how often everything is read afresh; `shutdown` is what lanes in flight get at the end."""

    audit: float = 600.0
    settle: float = 0.05
    backoff: float = 5.0
    backoff_most: float = 300.0
    shutdown: float = 20.0


class LeaderElect(msgspec.Struct, frozen=True):
    """In seconds: lease_duration > renew_deadline > 1.2 × retry_period. The names are kube-controller-manager's."""

    enabled: bool = True
    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0
    resource_name: str = "lbctl"
    resource_namespace: str = ""


class Config(msgspec.Struct, frozen=True):
    """Everything that can be set. `origins` says of each key where its value came from."""

    providers: tuple[str, ...] = ()
    default_provider: str = ""
    cluster_id: str = ""
    kubeconfig: str = ""
    context: str = ""
    claims: Claims = "finalizer"
    take_over: bool = False
    workers: int = 16
    listen: str = ":7980"
    log: Logs = Logs()
    intervals: Intervals = Intervals()
    leader_elect: LeaderElect = LeaderElect()
    tenancy: Tenancy = "closed"
    default_scheme: Scheme = "internet-facing"
    limits: Limits = Limits()
    rules: tuple[NamespaceRule, ...] = ()
    settings: Mapping[str, Mapping[str, str]] = {}
    origins: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()

    def policy(self, plugin: Plugin, *, prune: bool = True) -> Policy:
        """The administrator's word for one provider's stack."""
        limits = msgspec.structs.replace(self.limits, prune=prune, let_through=self.limits.max_delete >= 1)
        scheme = cast("Scheme", self.given(plugin).get(SCHEME) or self.default_scheme)
        return Policy(self.tenancy, self.rules, limits, scheme, plugin.privileged)

    def given(self, plugin: Plugin) -> Mapping[str, str]:
        """A provider's settings as they were said. One default scheme serves for all that do not say their own."""
        said = self.settings.get(plugin.name, {})
        asks = any(setting.name == SCHEME for setting in plugin.settings) and "default_scheme" in self.origins
        return {SCHEME: self.default_scheme, **said} if asks else said

    def named(self) -> tuple[str, ...]:
        """Providers that somebody set something of, in lbctl's own words: AWS_REGION alone does not choose AWS."""
        ours = [key.split(".")[0] for key, origin in self.origins.items() if not _is_generic(origin)]
        return tuple(name for name in self.settings if name in ours)


def _is_generic(origin: str) -> bool:
    return origin.startswith("environment ") and not origin.startswith("environment LBCTL_")


# ── what can be set ───────────────────────────────────────────────────────────────────────────────────────────────────

Parse = Callable[[Any], Any]


class Field(msgspec.Struct, frozen=True):
    """One thing that can be set: its key in the file (sections dotted), how to read it, and what it is for."""

    key: str
    parse: Parse
    help: str
    wanted: str = "text"
    short: str = ""
    empty: bool = False
    """Does an empty environment variable say something? Elsewhere it is one that nobody set."""

    @property
    def flag(self) -> str:
        return f"--{self.short or self.key.removesuffix('.enabled').replace('.', '-').replace('_', '-')}"

    @property
    def environment(self) -> str:
        return f"LBCTL_{self.flag[2:].replace('-', '_').upper()}"


def _text(said: Any) -> str:
    if not isinstance(said, str | int) or isinstance(said, bool):
        raise ValueError
    return str(said).strip()


def _texts(said: Any) -> tuple[str, ...]:
    parts = said.split(",") if isinstance(said, str) else said
    if not isinstance(parts, list | tuple):
        raise ValueError
    return tuple(part for part in (_text(part) for part in parts) if part)


def _boolean(said: Any) -> bool:
    words = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
    return words[str(said).strip().lower()]


def _number(said: Any) -> int:
    number = int(_text(said))
    if not 1 <= number <= 1000:
        raise ValueError
    return number


UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(said: Any) -> float:
    """Seconds out of `90`, `90s`, `1m30s`, `250ms` or `2h`. Raises ValueError."""
    text = str(said).strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h))+", text):
        raise ValueError
    return sum(float(number) * UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|s|m|h)", text))


def _interval(said: Any) -> float:
    seconds = duration(said)
    if not seconds:
        raise ValueError
    return seconds


def share(said: Any) -> float:
    """A part of the whole out of `30%` or `0.3`. Raises ValueError."""
    text = str(said).strip()
    number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 <= number <= 1:
        raise ValueError
    return number


def _one_of(words: Any) -> Parse:
    def parse(said: Any) -> Any:
        if said not in get_args(words):
            raise ValueError
        return said

    return parse


def _words(kind: Any) -> str:
    return " or ".join(get_args(kind))


def _listen(said: Any) -> str:
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]*):\d{1,5}", text := _text(said)) and text != "":
        raise ValueError
    return text


SECONDS = "a duration like 90s, 10m or 250ms"

FIELDS: tuple[Field, ...] = (
    Field("providers", _texts, "which providers to run, by name", "a list of names", "provider"),
    Field("default_provider", _text, "the provider of Services without a loadBalancerClass; none: they are left alone"),
    Field("cluster_id", _text, "marks what lbctl makes; the UID of the kube-system namespace where it is not given"),
    Field("kubeconfig", _text, "the kubeconfig file; KUBECONFIG, ~/.kube/config or the pod's account otherwise"),
    Field("context", _text, "the context within the kubeconfig"),
    Field("claims", _one_of(Claims), "how Services are held until their cloud resources are gone", _words(Claims)),
    Field("take_over", _boolean, "what another installation made for this cluster id becomes ours", "true or false"),
    Field("workers", _number, "how many Services are worked on at a time", "a number from 1 to 1000"),
    Field(
        "listen", _listen, "where /livez, /readyz, /healthz and /metrics answer; empty for nowhere", "HOST:PORT",
        empty=True,
    ),
    Field("log.format", _one_of(LogFormat), "auto is text on a terminal and JSON elsewhere", _words(LogFormat)),
    Field("log.level", _one_of(LogLevel), "how much is logged", _words(LogLevel)),
    Field("intervals.audit", _interval, "how often all is read afresh and drift repaired", SECONDS, "audit-interval"),
    Field("intervals.settle", _interval, "how long a burst of events may settle before it is looked at", SECONDS),
    Field("intervals.backoff", _interval, "the first wait after a failure; it doubles", SECONDS),
    Field("intervals.backoff_most", _interval, "the longest wait after failures", SECONDS),
    Field("intervals.shutdown", _interval, "what is in flight gets so long to land at the end", SECONDS),
    Field("leader_elect.enabled", _boolean, "whether one replica leads by a Lease", "true or false"),
    Field("leader_elect.lease_duration", _interval, "how long a Lease holds", SECONDS),
    Field("leader_elect.renew_deadline", _interval, "a leader that could not renew for so long ends", SECONDS),
    Field("leader_elect.retry_period", _interval, "how often it is tried", SECONDS),
    Field("leader_elect.resource_name", _text, "the Lease's name"),
    Field(
        "leader_elect.resource_namespace", _text,
        "the Lease's namespace; lbctl-system if there is one, the pod's own in a cluster, kube-system otherwise",
    ),
    Field("tenancy", _one_of(Tenancy), "may annotations name cloud objects where no rule says so", _words(Tenancy)),
    Field("default_scheme", _one_of(Scheme), "who may reach Services that do not say", _words(Scheme)),
    Field(
        "limits.max_delete", share, "the largest share of owners that one plan may delete by inference; 100% for any",
        "30% or 0.3", "max-delete",
    ),
    Field("limits.from_count", _number, "from how many managed owners on that share counts", "a number from 1 to 1000"),
)

_BY_KEY = {field.key: field for field in FIELDS}
_SECTIONS = {field.key.partition(".")[0] for field in FIELDS if "." in field.key}


def variable(plugin: Plugin, setting: Setting) -> str:
    """The environment variable of a provider's setting."""
    return f"LBCTL_{plugin.name}_{setting.name}".upper().replace("-", "_")


def option(plugin: Plugin, setting: Setting) -> str:
    """The flag of a provider's setting."""
    return f"--{plugin.name}-{setting.name}"


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Said = dict[str, tuple[Any, str]]
"""key → (what was said, where)"""


def read_file(path: Path) -> Mapping[str, Any]:
    """The file's content. Raises `SettingsError` with the way out."""
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"the configuration {path} cannot be read ({error.strerror}): check --config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"the configuration {path} is no YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"the configuration {path} holds a {type(content).__name__}: it must be a mapping")
    return {str(key): item for key, item in content.items()}


def find(flag: str | None, environ: Mapping[str, str], folder: Path) -> Path | None:
    """The file to read: --config, else LBCTL_CONFIG, else ./lbctl.yaml if there is one."""
    named = flag or environ.get("LBCTL_CONFIG")
    if named:
        return Path(named)
    usual = folder / DEFAULT_FILE
    return usual if usual.is_file() else None


def load(
    plugins: Sequence[Plugin],
    *,
    file: Mapping[str, Any] | None = None,
    name: str = DEFAULT_FILE,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """One Config out of a file's content, the environment, and flags by key (`aws.region` for a provider's).

    Raises `SettingsError`.
    """
    known = {*_BY_KEY, "rules", *(f"{p.name}.{s.name}" for p in plugins for s in p.settings)}
    said: Said = {}
    said |= _from_file(file or {}, name, known, plugins)
    said |= _from_environment(environ or {}, plugins)
    said |= {k: (v, f"flag {_flag_of(k)}") for k, v in (flags or {}).items() if v is not None}
    config = _built(said, plugins)
    _check(config)
    return msgspec.structs.replace(config, warnings=_suspicious(environ or {}, plugins))


def _flag_of(key: str) -> str:
    return _BY_KEY[key].flag if key in _BY_KEY else f"--{key.replace('.', '-').replace('_', '-')}"


def _from_file(content: Mapping[str, Any], name: str, known: set[str], plugins: Sequence[Plugin]) -> Said:
    version, kind = content.get("apiVersion"), content.get("kind")
    if content and (version, kind) != (API_VERSION, KIND):
        raise SettingsError(
            f"{name} says apiVersion {version!r} and kind {kind!r}: this lbctl reads {API_VERSION} and {KIND}"
        )
    found: Said = {}
    for key, item in _flat(content, _SECTIONS | {plugin.name for plugin in plugins}):
        exact = _known_as(key, known, name)
        found[exact] = (item, f"file {name}")
    return found


def _flat(content: Mapping[str, Any], sections: set[str]) -> Iterable[tuple[str, Any]]:
    for key, item in content.items():
        if key in ("apiVersion", "kind"):
            continue
        section = key.replace("-", "_") if key.replace("-", "_") in sections else key
        if section in sections and isinstance(item, Mapping):
            yield from ((f"{section}.{inner}", value) for inner, value in item.items())
        else:
            yield key, item


def _known_as(key: str, known: set[str], name: str) -> str:
    """The key as it is called; `-` and `_` are the same here."""
    by_form = {exact.replace("-", "_"): exact for exact in known}
    if (form := key.replace("-", "_")) in by_form:
        return by_form[form]
    close = get_close_matches(form, by_form, 1)
    meant = f"; did you mean {by_form[close[0]]}?" if close else f"; known are {', '.join(sorted(known))}"
    raise SettingsError(f"{name} has an unknown key {key[:80]!r}{meant}")


def _from_environment(environ: Mapping[str, str], plugins: Sequence[Plugin]) -> Said:
    found: Said = {}
    for plugin in plugins:
        for setting in plugin.settings:
            names = (variable(plugin, setting), *setting.env)
            first = next((name for name in names if environ.get(name)), None)
            if first is not None:
                found[f"{plugin.name}.{setting.name}"] = (environ[first], f"environment {first}")
    for field in FIELDS:
        text = environ.get(field.environment)
        if text or (field.empty and text is not None):
            found[field.key] = (text, f"environment {field.environment}")
    return found


def _suspicious(environ: Mapping[str, str], plugins: Sequence[Plugin]) -> tuple[str, ...]:
    """Variables that look like a misspelt setting."""
    known = {"LBCTL_CONFIG", *(f.environment for f in FIELDS), *(variable(p, s) for p in plugins for s in p.settings)}
    close = {
        name: get_close_matches(name, known, 1, 0.9)
        for name in sorted(environ) if name.startswith("LBCTL_") and name not in known
    }
    return tuple(f"the environment variable {n} is not known; did you mean {c[0]}?" for n, c in close.items() if c)


# ── building ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _built(said: Said, plugins: Sequence[Plugin]) -> Config:
    values: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    settings: dict[str, dict[str, str]] = {plugin.name: {} for plugin in plugins}
    for key, (item, origin) in said.items():
        section, dot, name = key.partition(".")
        if key == "rules":
            values["rules"] = _rules(item, origin)
        elif key not in _BY_KEY:
            settings[section][name] = _setting(key, item, origin)
        elif dot:
            sections.setdefault(section, {})[name] = _parsed(_BY_KEY[key], item, origin)
        else:
            values[key] = _parsed(_BY_KEY[key], item, origin)
    for section, content in sections.items():
        values[section] = msgspec.structs.replace(getattr(_DEFAULTS, section), **content)
    origins = {key: origin for key, (_, origin) in said.items()}
    return Config(**values, settings={n: s for n, s in settings.items() if s}, origins=origins)


_DEFAULTS = Config()


def _parsed(field: Field, item: Any, origin: str) -> Any:
    try:
        return field.parse(item)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{field.key} is {_quoted(item)} ({origin}): it must be {field.wanted}") from error


def _setting(key: str, item: Any, origin: str) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, list):
        return ",".join(map(str, item))
    if isinstance(item, Mapping):
        return ",".join(f"{name}={value}" for name, value in item.items())
    if item is None:
        raise SettingsError(f"{key} has no value ({origin}): give it one, or take the line out")
    return str(item)


def _quoted(item: Any) -> str:
    return repr(item if len(repr(item)) < 80 else f"{str(item)[:80]}…")


def _rules(items: Any, origin: str) -> tuple[NamespaceRule, ...]:
    if not isinstance(items, list):
        raise SettingsError(f"rules is {_quoted(items)} ({origin}): it must be a list of namespace rules")
    return tuple(_rule(number, item, origin) for number, item in enumerate(items))


def _rule(number: int, item: Any, origin: str) -> NamespaceRule:
    where = f"rules[{number}] ({origin})"
    names = NamespaceRule.__struct_fields__
    if not isinstance(item, Mapping):
        raise SettingsError(f"{where} is {_quoted(item)}: it must be a mapping with {', '.join(names)}")
    content = {str(key).replace("-", "_"): value for key, value in item.items()}
    for key in content:
        if key not in names:
            close = get_close_matches(key, names, 1)
            raise SettingsError(f"{where} has an unknown key {key[:80]!r}; did you mean {(close or names)[0]}?")
    try:
        return msgspec.convert(content, NamespaceRule)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {error}") from error


def _check(config: Config) -> None:
    """What no field can know by itself."""
    terms = config.leader_elect
    if not terms.lease_duration > terms.renew_deadline > 1.2 * terms.retry_period > 0:
        raise SettingsError(
            f"leader_elect: lease_duration {terms.lease_duration:g}s > renew_deadline {terms.renew_deadline:g}s > "
            f"1.2 × retry_period {terms.retry_period:g}s must hold: 15s, 10s and 2s are usual"
        )
    if config.default_provider and config.providers and config.default_provider not in config.providers:
        raise SettingsError(
            f"default_provider {config.default_provider!r} is not among providers ({', '.join(config.providers)}): "
            f"add it there, or take it out here"
        )


def discovered(config: Config, plugin: Plugin, found: Mapping[str, str], source: str) -> Config:
    """The config with what was found out about settings that nobody gave."""
    said = config.settings.get(plugin.name, {})
    fresh = {name: text for name, text in found.items() if text and name not in said}
    origins = {f"{plugin.name}.{name}": f"discovered from {source}" for name in fresh}
    settings = {**config.settings, plugin.name: {**said, **fresh}}
    return msgspec.structs.replace(config, settings=settings, origins={**config.origins, **origins})


def identified(config: Config, cluster_id: str, source: str) -> Config:
    """The config with the cluster's id, if nobody gave one."""
    if config.cluster_id:
        return config
    origins = {**config.origins, "cluster_id": f"discovered from {source}"}
    return msgspec.structs.replace(config, cluster_id=cluster_id, origins=origins)


# ── showing ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_SECRET = re.compile(r"secret|password|token|credential|private[-_]?key|access[-_]?key", re.IGNORECASE)
MASK = "********"


class Shown(msgspec.Struct, frozen=True):
    """One line of `lbctl config view`."""

    key: str
    value: Any
    origin: str


def shown(config: Config, plugins: Sequence[Plugin]) -> tuple[Shown, ...]:
    """Every key with its value and origin; secrets masked."""
    own = [Shown(field.key, _at(config, field.key), config.origins.get(field.key, "default")) for field in FIELDS]
    rules = Shown("rules", plain(msgspec.to_builtins(config.rules)), config.origins.get("rules", "default"))
    return (*own, rules, *(_theirs(config, plugin, setting) for plugin in plugins for setting in plugin.settings))


def _theirs(config: Config, plugin: Plugin, setting: Setting) -> Shown:
    key = f"{plugin.name}.{setting.name}"
    said = config.settings.get(plugin.name, {}).get(setting.name, setting.default)
    return Shown(key, masked(key, said), config.origins.get(key, "default"))


def _at(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    found = getattr(config, section)
    return plain(getattr(found, name) if name else found)


def masked(key: str, said: str) -> str:
    """The value, unless its key says that it is a secret."""
    return MASK if said and _SECRET.search(key) else said


def nested(rows: Iterable[Shown]) -> dict[str, Any]:
    """As it would stand in a file."""
    content: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND}
    for row in rows:
        section, dot, name = row.key.partition(".")
        if dot:
            cast("dict[str, Any]", content.setdefault(section, {}))[name] = row.value
        else:
            content[section] = row.value
    return content


def schema(plugins: Sequence[Plugin]) -> dict[str, Any]:
    """The file's JSON schema, for editors."""
    content: dict[str, Any] = {"apiVersion": {"const": API_VERSION}, "kind": {"const": KIND}}
    for field in FIELDS:
        section, dot, name = field.key.partition(".")
        described = {"description": f"{field.help} ({field.wanted})", "default": _at(_DEFAULTS, field.key)}
        if dot:
            _section(content, section)[name] = described
        else:
            content[section] = described
    content["rules"] = {"type": "array", "items": {"$ref": "#/$defs/NamespaceRule"}}
    for plugin in plugins:
        for setting in plugin.settings:
            _section(content, plugin.name)[setting.name] = {"description": setting.help, "default": setting.default}
    definitions = {"NamespaceRule": msgspec.json.schema(NamespaceRule)["$defs"]["NamespaceRule"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lbctl configuration",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": content,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _section(content: dict[str, Any], name: str) -> dict[str, Any]:
    section = content.setdefault(name, {"type": "object", "additionalProperties": False, "properties": {}})
    return cast("dict[str, Any]", section["properties"])
