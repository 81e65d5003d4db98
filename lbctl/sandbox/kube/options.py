"""The options of lists and watches: checked as kube-apiserver checks them, and the tokens that pages go on by."""

import base64
import re
from collections.abc import Mapping

import msgspec

from lbctl.sandbox.kube import status
from lbctl.sandbox.kube.status import Refusal, invalid
from lbctl.sandbox.kube.store import Key


def number(query: Mapping[str, str], name: str) -> int:
    """A number among the options; 0 if it is not there. Raises 400 if it is none."""
    text = query.get(name) or "0"
    if not re.fullmatch(r"-?\d+", text):
        raise status.bad_request(f'{name}: "{text}" is not a number')
    return int(text)


def page_token(version: int, after: Key) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode({"rv": version, "start": after})).decode().rstrip("=")


def read_token(token: str) -> tuple[int, Key]:
    try:
        read = msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(read["rv"]), (str(read["start"][0]), str(read["start"][1]))
    except (ValueError, KeyError, TypeError, IndexError, msgspec.DecodeError) as odd:
        raise status.bad_request(f"continue key is not valid: {odd}") from odd


def continue_expired(version: int, after: Key) -> Refusal:
    refusal = status.expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
        "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
        "modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )
    refusal.document["metadata"] = {"continue": page_token(version, after)}
    return refusal


def check_list_options(query: Mapping[str, str]) -> None:
    causes = []
    match, version = query.get("resourceVersionMatch", ""), query.get("resourceVersion", "")
    path = "resourceVersionMatch"
    if match and not version:
        causes.append(status.not_permitted(path, f"{path} is forbidden unless resourceVersion is provided"))
    if match and query.get("continue"):
        causes.append(status.not_permitted(path, f"{path} is forbidden when continue is provided"))
    if match and match not in ("Exact", "NotOlderThan"):
        causes.append(status.not_supported(path, match, ("Exact", "NotOlderThan", "")))
    if match == "Exact" and version == "0":
        causes.append(status.not_permitted(path, f'{path} "exact" is forbidden for resourceVersion "0"'))
    if "sendInitialEvents" in query:
        causes.append(status.not_permitted("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    if causes:
        raise invalid("meta.k8s.io", "ListOptions", "", causes)


def check_watch_options(query: Mapping[str, str]) -> None:
    causes = []
    match, initial, path = query.get("resourceVersionMatch", ""), "sendInitialEvents" in query, "resourceVersionMatch"
    if initial and match != "NotOlderThan":
        say = f"sendInitialEvents requires setting {path} to NotOlderThan"
        causes.append(status.not_permitted(path, say))
    if match and not initial:
        causes.append(status.not_permitted(path, f"{path} is forbidden for watch unless sendInitialEvents is provided"))
    if match and match != "NotOlderThan":
        causes.append(status.not_supported(path, match, ("NotOlderThan",)))
    if causes:
        raise invalid("meta.k8s.io", "ListOptions", "", causes)
