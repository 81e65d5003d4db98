"""Options that several verbs take. Flags for settings follow from `config.FIELDS` and from each `Plugin.settings`."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lbctl import config

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    from lbctl.provider import Plugin

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType

CONNECTING = ("kubeconfig", "context", "log.level", "log.format")
CHOOSING = ("providers", "default_provider", "cluster_id")
PLANNING = (
    *CHOOSING, "claims", "take_over", "default_scheme", "tenancy", "limits.max_delete", "workers",
    "leader_elect.resource_namespace", "leader_elect.resource_name", *CONNECTING,
)  # fmt: skip
EVERYTHING = tuple(field.key for field in config.FIELDS)

_FIELDS = {field.key: field for field in config.FIELDS}


class Said(ParamType):
    """A value that the configuration's own parser reads: what is wrong on the command line is wrong usage."""

    def __init__(self, field: config.Field) -> None:
        self._field = field
        self.name = "text" if field.wanted == "text" else field.wanted

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._field.parse(value)
        except (ValueError, KeyError, TypeError):
            self.fail(f"{value!r} is not {self._field.wanted}.", param, ctx)


class Duration(ParamType):
    """Seconds, written as 90s, 5m or 250ms."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return config.duration(value)
        except ValueError:
            self.fail(f"{value!r} is not {config.SECONDS}.", param, ctx)


class Configured(click.Command):
    """A command that takes settings as flags: those of `keys`, and those of each provider that it `concerns`."""

    def __init__(
        self,
        *arguments: Any,
        keys: tuple[str, ...] = PLANNING,
        concerns: Callable[["Plugin"], bool] = lambda _plugin: True,
        **rest: Any,
    ) -> None:
        super().__init__(*arguments, **rest)
        self._keys, self._concerns = keys, concerns
        self._completed = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self._completed:
            self._completed = True
            settings = (_option(_FIELDS[key]) for key in self._keys)
            self.params += [_config_option(), *settings, *_provider_options(self._concerns)]
        return super().get_params(ctx)

    def invoke(self, ctx: click.Context) -> Any:
        """The command gets its flags by key in `flags`, beside its own parameters."""
        own = {name: value for name, value in ctx.params.items() if not name.startswith("setting:")}
        flags = {name.removeprefix("setting:"): value for name, value in ctx.params.items() if name not in own}
        ctx.params = {**own, "flags": {key: value for key, value in flags.items() if value not in (None, ())}}
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = {param.name or "": record for param in self.get_params(ctx) if (record := param.get_help_record(ctx))}
        ours: dict[str, tuple[str, str]] = {}
        settings, providers = dict(ours), dict(ours)
        for name, record in rows.items():
            key = name.removeprefix("setting:")
            group = ours if key == name else settings if key in _FIELDS or key == "config" else providers
            group[name] = record
        for title, chosen in (("Options", ours), ("Settings", settings), ("Providers' settings", providers)):
            if chosen:
                with formatter.section(title):
                    formatter.write_dl(list(chosen.values()))


def _named(option: click.Option, name: str) -> click.Option:
    option.name = name
    return option


def _config_option() -> click.Option:
    said = f"the configuration file  [LBCTL_CONFIG; ./{config.DEFAULT_FILE} if there is one]"
    return _named(click.Option(["--config", "setting_config"], metavar="FILE", help=said), "setting:config")


def _option(field: config.Field) -> click.Option:
    name = f"setting_{field.key.replace('.', '_')}"
    said = f"{field.help}  [{field.environment}]"
    if field.wanted == "true or false":
        flag = click.Option([f"{field.flag}/--no-{field.flag[2:]}", name], default=None, help=said)
    else:
        several = field.key == "providers"
        kind: Any = str if several else Said(field)
        flag = click.Option([field.flag, name], type=kind, multiple=several, metavar=_metavar(field), help=said)
    return _named(flag, f"setting:{field.key}")


_METAVARS = {
    "kubeconfig": "FILE", "cluster_id": "ID", "listen": "HOST:PORT", "workers": "NUMBER", "limits.from_count": "NUMBER",
    "limits.max_delete": "PERCENT",
}  # fmt: skip


def _metavar(field: config.Field) -> str:
    """What stands for its value in --help."""
    if field.key in _METAVARS:
        return _METAVARS[field.key]
    if field.wanted == config.SECONDS:
        return "DURATION"
    return f"[{field.wanted.replace(' or ', '|')}]" if " or " in field.wanted else "NAME"


def _provider_options(concerns: Callable[["Plugin"], bool]) -> Iterable[click.Option]:
    from lbctl import plugins
    from lbctl.errors import SettingsError

    for name in plugins.points(plugins.PROVIDERS):
        try:
            plugin = plugins.plugin(name)
        except SettingsError:
            # What is wrong with it is said when it is chosen, and by `lbctl providers`.
            continue
        for setting in plugin.settings if concerns(plugin) else ():
            said = f"{setting.help}  [{config.variable(plugin, setting)}]"
            parameter = f"setting_{name}_{setting.name}".replace("-", "_")
            option = click.Option([config.option(plugin, setting), parameter], metavar=setting.metavar, help=said)
            yield _named(option, f"setting:{name}.{setting.name}")


def namespaced(command: F) -> F:
    """-n, -A and -l."""
    labels, every, one = "only Services with these labels", "all namespaces (the usual)", "only this namespace"
    command = click.option("-l", "--selector", default="", metavar="LABELS", help=labels)(command)
    command = click.option("-A", "--all-namespaces", is_flag=True, help=every)(command)
    return click.option("-n", "--namespace", default="", metavar="NAME", help=one)(command)


def files(command: F) -> F:
    """-f."""
    said = "manifests instead of a cluster; with --kubeconfig or --context: over that cluster's Services"
    return click.option("-f", "--filename", "paths", multiple=True, metavar="FILE|DIR|-", help=said)(command)


def output(*forms: str) -> Callable[[F], F]:
    """-o."""
    names = click.Choice(forms)
    return click.option("-o", "--output", "form", type=names, default=forms[0], show_default=True, help="the form")


def selector(text: str) -> Callable[[Mapping[str, str]], bool]:
    """Kubernetes' label selectors, the equality-based and the set-based part: `a=b,c!=d,e,!f,g in (h,i)`."""
    checks = [_requirement(part.strip()) for part in re.findall(r"(?:[^,(]|\([^)]*\))+", text)]
    return lambda labels: all(check(labels) for check in checks)


def _requirement(part: str) -> Callable[[Mapping[str, str]], bool]:
    if match := re.fullmatch(r"([\w./-]+)\s+(in|notin)\s+\(([^)]*)\)", part):
        key, values = match[1], {value.strip() for value in match[3].split(",")}
        wanted = match[2] == "in"
        return lambda labels: (labels.get(key) in values) if wanted else labels.get(key) not in values
    if match := re.fullmatch(r"([\w./-]+)\s*(==|=|!=)\s*([\w.-]*)", part):
        key, sign, value = match[1], match[2], match[3]
        return lambda labels: (labels.get(key) == value) != (sign == "!=")
    if match := re.fullmatch(r"(!?)\s*([\w./-]+)", part):
        absent, key = bool(match[1]), match[2]
        return lambda labels: (key in labels) != absent
    raise click.BadParameter(f"{part!r} is no label selector: write a=b, a!=b, a, !a or 'a in (b,c)'", param_hint="-l")
