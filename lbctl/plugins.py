"""Providers, their stand-ins and their commands, by entry point: found by name, imported only when used.

Groups: `lbctl.providers` (a `Plugin`), `lbctl.standins` (makes a `Standin`), `lbctl.commands` (a click command),
`lbctl.policies` (makes the permissions that a cloud takes, as JSON values), `lbctl.demos` (a module with `SERVICE`,
`TITLE`, `SETTINGS` and `show`: a provider's own act of the demo, which needs no stand-in). Ours are registered as a
stranger's would be. What is missing is an error that says what to install.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

from lbctl.errors import SettingsError
from lbctl.model import Ingress, LoadBalancer, Refusal, Resource
from lbctl.plan import Change, Kind
from lbctl.provider import Desired, Harness, Observation, Plugin, Provider, Scope
from lbctl.testing.standin import Standin

PROVIDERS, STANDINS, COMMANDS = "lbctl.providers", "lbctl.standins", "lbctl.commands"
POLICIES, DEMOS = "lbctl.policies", "lbctl.demos"

EXTRAS = ("aws", "gcp", "azure")
"""Providers that come with lbctl, and what `pip install 'lbctl[…]'` calls them."""


class Listed(msgspec.Struct, frozen=True):
    """One installed provider, for `lbctl providers`. `missing` says how to make it usable, if it is not."""

    name: str
    load_balancer_class: str
    origin: str
    settings: tuple[str, ...] = ()
    missing: str = ""


@cache
def points(group: str) -> Mapping[str, EntryPoint]:
    """Entry points of a group by name, sorted; nothing is imported. To find them all packages are read: once."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def plugin(name: str) -> Plugin:
    """The provider of this name. Raises `SettingsError` that says which there are, or what to install."""
    found = _load(PROVIDERS, name, "provider")
    if not isinstance(found, Plugin):
        raise SettingsError(f"the entry point {name} in {PROVIDERS} is no lbctl.provider.Plugin: ask its authors")
    return found


def provider(chosen: Plugin, harness: Harness) -> Provider:
    """Made and ready. What its SDK misses is a `SettingsError` with the command that installs it."""
    try:
        return chosen.make(harness)
    except ImportError as error:
        raise SettingsError(_to_install(chosen.name, error, chosen.extra)) from error


def standin(name: str) -> Standin:
    """A fresh, small cloud for the provider of this name, not started yet."""
    make: Callable[[], Standin] = _load(STANDINS, name, "stand-in")
    try:
        return make()
    except ImportError as error:
        raise SettingsError(_to_install(name, error, install("sandbox"))) from error


def install(extra: str) -> str:
    """The command that installs what lbctl calls so, wherever lbctl itself came from."""
    return f"pip install 'lbctl[{extra}]' (in a clone of lbctl: pip install -e '.[{extra}]')"


def command(name: str) -> Any:
    """The click command that a plugin adds under this name."""
    return _load(COMMANDS, name, "command")


def acts() -> dict[str, Any]:
    """The acts that providers add to the demo, by the provider's name; none of what cannot be imported here."""
    found: dict[str, Any] = {}
    for name, point in points(DEMOS).items():
        try:
            plugin(name)
            found[name] = point.load()
        except (ImportError, SettingsError):
            continue
    return found


def permissions(name: str) -> Any:
    """What the provider needs to be allowed in its cloud, as the cloud's own JSON; None if it does not say."""
    plugin(name)
    found = points(POLICIES)
    return found[name].load()() if name in found else None


def listed() -> tuple[Listed, ...]:
    """Every provider that is installed, usable or not."""
    return tuple(_listed(point) for point in points(PROVIDERS).values())


def _listed(point: EntryPoint) -> Listed:
    origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    try:
        found = plugin(point.name)
    except SettingsError as error:
        return Listed(point.name, f"lbctl.io/{point.name}", origin, missing=error.message)
    return Listed(point.name, f"lbctl.io/{point.name}", origin, tuple(setting.name for setting in found.settings))


def _load(group: str, name: str, what: str) -> Any:
    found = points(group)
    if name not in found:
        raise SettingsError(_unknown(name, what, tuple(found)))
    try:
        return found[name].load()
    except ImportError as error:
        extra = "sandbox" if group == STANDINS else name
        raise SettingsError(_to_install(name, error, install(extra))) from error


def _unknown(name: str, what: str, there: Sequence[str]) -> str:
    close = get_close_matches(name, there, 1)
    meant = f"; did you mean {close[0]}?" if close else ""
    hint = f"; or install it: {install(name)}" if name in EXTRAS else ""
    return f"no {what} {name!r} is installed (there are: {', '.join(there) or 'none'}){meant}{hint}"


def _to_install(name: str, error: ImportError, extra: str) -> str:
    how = extra or install(name)
    if not how.startswith("pip "):
        how = f"pip install '{how}'" if "[" in how else install(how)
    return f"{name} needs the Python package {error.name or error}, which is not installed: {how}"


def unheard_of(name: str, why: SettingsError) -> SettingsError:
    """What a Service hears whose class names no provider there is: the same from the controller and from a plan."""
    return SettingsError(f"spec.loadBalancerClass is lbctl.io/{name}: {why.message}")


class Unconfigured:
    """Stands in a stack where a provider cannot be made, and tells its Services why.

    It refuses everybody by name, sees nothing and changes nothing: what exists stays, and so do claims (the stack is
    built without that part).
    """

    kinds: tuple[Kind, ...] = ()
    claims = False

    def __init__(self, name: str, why: SettingsError) -> None:
        self.name, self._why = name, why

    def observe(self, scope: Scope) -> Observation:
        """Nothing is asked, nothing is known."""
        return Observation(scope)

    def desired(self, load_balancers: Sequence[LoadBalancer], seen: Observation) -> Desired:
        """Refuses them all: `provider-not-configured`, with the way out."""
        return Desired(refused=tuple(Refusal(lb.owner, self._why.reason, self._why.message) for lb in load_balancers))

    def shares(self, load_balancer: LoadBalancer) -> Iterable[Hashable]:
        return ()

    def adopts(self, status: Sequence[Ingress]) -> bool:
        return False

    def apply(self, changes: Sequence[Change]) -> Sequence[Resource | Exception | None]:
        """There are never any changes."""
        return [self._why for _ in changes]

