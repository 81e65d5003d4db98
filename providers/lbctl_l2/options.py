"""The settings of a node's speaker: the flags of `lbctl speaker`, and what they mean."""

from collections.abc import Mapping
from typing import cast, get_args

import msgspec

from lbctl.errors import SettingsError
from lbctl.provider import Setting
from lbctl_l2.exclusions import Exclusions
from lbctl_l2.leases import DrainOn
from lbctl_l2.netlink import EXCLUDED

LONGEST = 86_400
"""Seconds of the longest time that a setting may say."""

SETTINGS = (
    Setting("node-name", "this node's name in Kubernetes", env=("NODE_NAME",), required=True, metavar="NAME"),
    Setting("state-file", "where the last state is kept, for a start without the API server; empty for nowhere",
            "/var/lib/lbctl/speaker.json", metavar="FILE"),
    Setting("exclude-interfaces", "regular expressions of interfaces that nothing is announced on: with commas "
            "between, or @/path of a file with one on each line, which may change at any time", ",".join(EXCLUDED),
            metavar="REGEX,…|@FILE"),
    Setting("settle", "seconds that a node must have been back before it is given addresses", "30", metavar="SECONDS"),
    Setting("ignore-exclude-lb", "true: the label that excludes nodes from load balancers does not count (one-node "
            "labs)", "false", metavar="[true|false]"),
    Setting("drain-on", "when a node hands its addresses over: cordon, drain (cordoned and none of our Services' "
            "endpoints is left) or none", "drain", metavar="[cordon|drain|none]"),
    Setting("garp-interval", "seconds between gratuitous announcements after the first five, 1.1 at least; 0 for none",
            "0", metavar="SECONDS"),
)  # fmt: skip
"""The flags of `lbctl speaker`."""


class Options(msgspec.Struct, frozen=True):
    """The settings, read. What may change while the speaker runs are `exclusions`."""

    node: str
    exclusions: Exclusions
    state_file: str = ""
    settle: float = 30.0
    ignore_excluded: bool = False
    drain_on: DrainOn = "drain"
    periodic: float = 0.0


def options(settings: Mapping[str, str]) -> Options:
    """Raises `SettingsError` that names the setting."""
    said = {setting.name: settings.get(setting.name, setting.default) for setting in SETTINGS}
    if not said["node-name"]:
        raise SettingsError("no node is named: give --node-name NAME, or set NODE_NAME to the Pod's spec.nodeName")
    if said["drain-on"] not in get_args(DrainOn):
        raise SettingsError(f"--drain-on is {said['drain-on']!r}: it must be one of {', '.join(get_args(DrainOn))}")
    if said["ignore-exclude-lb"] not in ("true", "false"):
        raise SettingsError(f"--ignore-exclude-lb is {said['ignore-exclude-lb']!r}: it must be true or false")
    settle, periodic = (_seconds(name, said[name]) for name in ("settle", "garp-interval"))
    try:
        exclusions = Exclusions(said["exclude-interfaces"])
    except ValueError as error:
        raise SettingsError(f"--exclude-interfaces cannot be read: {error}") from error
    return Options(
        said["node-name"], exclusions, said["state-file"], settle, said["ignore-exclude-lb"] == "true",
        cast("DrainOn", said["drain-on"]), periodic,
    )  # fmt: skip


def _seconds(name: str, said: str) -> float:
    """A time that clocks can count to: no other would ever come, or the one after next would be now."""
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST:
        raise SettingsError(f"--{name} is {said!r}: give a number of seconds, from 0 to {LONGEST}")
    return seconds
