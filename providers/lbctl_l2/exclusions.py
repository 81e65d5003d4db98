"""Which interfaces nothing is announced on: the setting's own list, or a file that may change at any time.

`options.py` makes it; `announcer.py` looks again every ten seconds and hands the data plane what is new. A file that is
mounted (a ConfigMap) is replaced by its owner, not by us, so it may be wrong or gone for a while: the last good list
holds then, and what is wrong stands in the node's Lease.
"""

import logging
from pathlib import Path

from lbctl_l2.leases import Problem
from lbctl_l2.netlink import EXCLUDED, Exclusion

log = logging.getLogger(__name__)

FILE = "@"
"""What the setting begins with where it names a file."""


class Exclusions:
    """The list that holds now: `said` separated by commas, or as `@/path` a file with one expression per line, where
    empty lines and those that begin with # do not count. Raises ValueError for a bad expression in the setting itself.

    patterns   the last good list; before there is one, the default
    problems   what is wrong with the file, if anything
    """

    def __init__(self, said: str) -> None:
        self._path = Path(said.removeprefix(FILE)) if said.startswith(FILE) else None
        self._read: str | None = None
        self.patterns: tuple[str, ...] = EXCLUDED
        self.problems: tuple[Problem, ...] = ()
        if self._path is None:
            self.patterns = Exclusion(part.strip() for part in said.split(",") if part.strip()).patterns
        self.look()

    def look(self) -> bool:
        """Read the file again; whether another list holds now. Never raises."""
        before = self.patterns
        try:
            self._take(self._path.read_text(encoding="utf-8") if self._path is not None else "")
        except (OSError, ValueError) as error:
            self._complain(str(error))
        return self.patterns != before

    def _take(self, text: str) -> None:
        """Acts upon what is new; what is as it was read well before is no problem any more."""
        if self._path is not None and text != self._read:
            lines = (line.strip() for line in text.splitlines())
            self.patterns = Exclusion(line for line in lines if line and not line.startswith("#")).patterns
            self._read = text
        self.problems = ()

    def _complain(self, error: str) -> None:
        """Said once in the log, and in the Lease for as long as it is so."""
        kept = "the last good list holds" if self._read is not None else "the default list holds"
        problem = Problem("bad-exclude-interfaces", f"{self._path}: {error}: {kept} until the file is mended")
        if self.problems != (problem,):
            fields = {"path": str(self._path), "error": error}
            log.warning("the list of excluded interfaces cannot be used", extra=fields)
        self.problems = (problem,)
