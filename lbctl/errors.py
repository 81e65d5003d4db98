"""What can go wrong, in the words that the rest of lbctl acts on.  PURE.

Providers raise these from `observe` and `apply`; the applier and the controller decide by type alone what happens
next. Every reason is a short stable token (for machines, metrics and conditions); every message is a sentence that
says what to do next (for people). Neither ever holds a secret or a request id.
"""


class LbctlError(Exception):
    """Anything that lbctl itself says is wrong. `reason` is a stable token, the text a sentence with the way out."""

    reason = "error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason


class Retry(LbctlError):
    """Not yet: ask again after so many seconds. Not a failure: back-off does not grow and no Warning is written."""

    reason = "not-ready"

    def __init__(self, after: float, message: str, *, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.after = after


class Refused(LbctlError):
    """A permanent no: asking again without a change cannot help (quota, permission, a name held by somebody else)."""

    reason = "refused"


class NotOurs(Refused):
    """The thing exists but does not carry our mark: it is never changed and never deleted, whatever its name."""

    reason = "not-ours"


class Unavailable(LbctlError):
    """The other side gave no clear answer (timeout, connection lost, 5xx): the call may or may not have taken effect.

    Whoever catches it reads fresh before it acts again.
    """

    reason = "provider-unavailable"


class SettingsError(LbctlError):
    """A setting is missing or wrong. The message names the setting and every way to give it. Exit code 5."""

    reason = "provider-not-configured"


class CredentialsError(SettingsError):
    """Credentials are missing, expired or not allowed to do this. Exit code 5."""

    reason = "credentials"
