"""Exit codes: one table, printed by --help, and the code of each error.  Nothing heavy is imported here."""

from lbctl.errors import LbctlError, SettingsError

OK, ERROR, CHANGES, LIMIT, PARTIAL, SETTINGS, STALE, TIMEOUT, USAGE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 7, 64, 130

TABLE: dict[int, str] = {
    OK: "success (a plan with changes is a success)",
    ERROR: "error",
    CHANGES: "changes are present (only with --detailed-exitcode)",
    LIMIT: "stopped by a safety limit",
    PARTIAL: "some Services failed, others were applied; with --strict: some are refused",
    SETTINGS: "credentials, permissions or settings are missing",
    STALE: "the saved plan is stale",
    TIMEOUT: "timed out waiting for addresses",
    USAGE: "wrong usage",
    INTERRUPTED: "interrupted",
}


def epilog() -> str:
    """The table for --help."""
    rows = "\n".join(f"{code:>5}  {text}" for code, text in TABLE.items())
    return f"\b\nExit codes:\n{rows}"


def of(error: LbctlError) -> int:
    """The exit code of an error. Duck-typed for the API server's answers, so that `kube.client` stays unimported."""
    denied = getattr(error, "status", 0) in (401, 403) or error.reason in ("permission", "credentials")
    if error.reason == "stale-plan":
        return STALE
    return SETTINGS if isinstance(error, SettingsError) or denied else ERROR
