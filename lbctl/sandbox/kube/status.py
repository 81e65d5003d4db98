"""What the API says when it says no: a `Status` with a code, a reason and, for invalid objects, a cause per field.

Wordings and codes are apimachinery's (pkg/api/errors, pkg/util/validation/field): clients and tests read them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

OMIT = object()
"""In place of a bad value: do not show one."""


class Cause(NamedTuple):
    """One field that is wrong: the machine's word for why, its path, and the sentence."""

    type: str
    field: str
    message: str


class Refusal(Exception):
    """The request is refused; `document` is the Status to answer with."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        group: str = "",
        kind: str = "",
        name: str = "",
        causes: Sequence[Cause] = (),
        retry_after: int = 0,
    ) -> None:
        super().__init__(message)
        self.code, self.retry_after = code, retry_after
        details: dict[str, Any] = {"name": name, "group": group, "kind": kind, "retryAfterSeconds": retry_after}
        details["causes"] = [_stated({"reason": c.type, "message": c.message, "field": c.field}) for c in causes]
        said = {"status": "Failure", "message": message, "reason": reason, "details": _stated(details), "code": code}
        self.document: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, **_stated(said)}


def _stated(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty (omitempty)."""
    return {name: value for name, value in fields.items() if value}


def success(group: str, plural: str, name: str, uid: str) -> dict[str, Any]:
    """The Status that answers a delete that is done."""
    details = {"name": name, "kind": plural, "uid": uid} | ({"group": group} if group else {})
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _qualified(group: str, name: str) -> str:
    return f"{name}.{group}" if group else name


def bad_request(message: str) -> Refusal:
    return Refusal(400, "BadRequest", message)


def not_found(group: str, plural: str, name: str) -> Refusal:
    message = f'{_qualified(group, plural)} "{name}" not found'
    return Refusal(404, "NotFound", message, group=group, kind=plural, name=name)


def no_such_path() -> Refusal:
    return Refusal(404, "NotFound", "the server could not find the requested resource")


def not_allowed() -> Refusal:
    return Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def already_exists(group: str, plural: str, name: str, *, going: bool = False) -> Refusal:
    message = f'{"object is being deleted: " if going else ""}{_qualified(group, plural)} "{name}" already exists'
    return Refusal(409, "AlreadyExists", message, group=group, kind=plural, name=name)


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(group: str, plural: str, name: str, why: str = MODIFIED) -> Refusal:
    message = f'Operation cannot be fulfilled on {_qualified(group, plural)} "{name}": {why}'
    return Refusal(409, "Conflict", message, group=group, kind=plural, name=name)


def forbidden(group: str, plural: str, name: str, why: str, causes: Sequence[Cause] = ()) -> Refusal:
    what = _qualified(group, plural) + (f' "{name}"' if name else "")
    return Refusal(403, "Forbidden", f"{what} is forbidden: {why}", group=group, kind=plural, name=name, causes=causes)


def invalid(group: str, kind: str, name: str, causes: Sequence[Cause]) -> Refusal:
    """422, every wrong field named."""
    said = list(dict.fromkeys(f"{c.field}: {c.message}" for c in causes))
    why = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    message = f'{_qualified(group, kind)} "{name}" is invalid: {why}'
    return Refusal(422, "Invalid", message, group=group, kind=kind, name=name, causes=causes)


def expired(message: str) -> Refusal:
    return Refusal(410, "Expired", message)


def internal(message: str) -> Refusal:
    said = f"Internal error occurred: {message}"
    return Refusal(500, "InternalError", said, causes=[Cause("", "", message)])


def too_large_version(wanted: int, current: int) -> Refusal:
    """A version of the future: the client spoke to another, or an earlier, server."""
    message = f"Timeout: Too large resource version: {wanted}, current: {current}"
    cause = Cause("ResourceVersionTooLarge", "", "Too large resource version")
    return Refusal(504, "Timeout", message, causes=[cause], retry_after=1)


def unsupported_media(message: str) -> Refusal:
    return Refusal(415, "UnsupportedMediaType", message)


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _body(word: str, value: object, detail: str) -> str:
    shown = "" if value is OMIT else f": {_shown(value)}"
    return f"{word}{shown}{f': {detail}' if detail else ''}"


def required(field: str, detail: str = "") -> Cause:
    return Cause("FieldValueRequired", field, _body("Required value", OMIT, detail))


def wrong(field: str, value: object, detail: str) -> Cause:
    return Cause("FieldValueInvalid", field, _body("Invalid value", value, detail))


def duplicate(field: str, value: object) -> Cause:
    return Cause("FieldValueDuplicate", field, _body("Duplicate value", value, ""))


def not_permitted(field: str, detail: str) -> Cause:
    return Cause("FieldValueForbidden", field, _body("Forbidden", OMIT, detail))


def not_supported(field: str, value: object, allowed: Iterable[str]) -> Cause:
    choices = ", ".join(f'"{choice}"' for choice in allowed)
    return Cause("FieldValueNotSupported", field, _body("Unsupported value", value, f"supported values: {choices}"))


def too_long(field: str, limit: int) -> Cause:
    return Cause("FieldValueTooLong", field, _body("Too long", OMIT, f"may not be more than {limit} bytes"))


def mistyped(field: str, value: object, detail: str) -> Cause:
    return Cause("FieldValueTypeInvalid", field, _body("Invalid value", value, detail))
