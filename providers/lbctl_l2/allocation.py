"""Which addresses each Service ought to have.  PURE: the same Book, the same time, the same answer.

Holders first: whoever has an address keeps it while any pool covers it and nobody older has it, too. The others are
served in the order of their creation. A refusal names the pools that were tried and why each did not fit.
"""

from collections.abc import Iterable
from datetime import datetime

from lbctl.model import Owner
from lbctl_l2.book import Book
from lbctl_l2.pool import Outcome


def allocate(book: Book, owners: Iterable[Owner] | None, now: datetime) -> dict[Owner, Outcome]:
    """What these owners' statuses ought to hold (None: everybody's). The Book stays as it is.

    Whoever asked before them and still waits is thought of first, so it does not matter who is looked at when. What is
    promised becomes a holding by `book.put` with the addresses in `held`.
    """
    raise NotImplementedError
