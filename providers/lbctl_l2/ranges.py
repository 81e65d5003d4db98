"""Ranges of addresses, and sets of numbers kept as intervals.  PURE.

What makes allocation cheap: a pool is a few ranges, and what is taken of a range is a few intervals, however large it
is. The lowest free address is one bisection away, in a /30 as in an IPv6 /64.
"""

from bisect import bisect_right
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Literal

import msgspec

from lbctl.model import IPAddress

BUGGY = (0, 255)
"""Last octets that some consumer equipment drops: it takes them for broadcasts of a /24 (smurf protection)."""


class Range(msgspec.Struct, frozen=True, gc=False):
    """Addresses from `first` to `last`, both included, as numbers of one family (`version` 4 or 6).

    `text` is how it was written; it takes no part in where an address lies.
    """

    version: Literal[4, 6]
    first: int
    last: int
    text: str = ""

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def address(self, number: int) -> IPAddress:
        return IPv4Address(number) if self.version == 4 else IPv6Address(number)

    def overlaps(self, other: "Range") -> bool:
        return self.version == other.version and self.first <= other.last and other.first <= self.last

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, IPv4Address | IPv6Address):
            return False
        return address.version == self.version and self.first <= int(address) <= self.last

    def __str__(self) -> str:
        return self.text or f"{self.address(self.first)}-{self.address(self.last)}"


def parse(text: str, *, bare: bool = True) -> Range:
    """`192.0.2.0/24` (bits of the host part are masked), `192.0.2.10-192.0.2.20`, or (if `bare`) one address.

    Spaces around each address do not matter. Raises ValueError with a sentence.
    """
    if "%" in text:
        raise ValueError(f"{text!r:.100} has a scope id: addresses of one link cannot be given to Services")
    start, dash, end = text.partition("-")
    if dash:
        return _between(text, start, end)
    if "/" not in text and not bare:
        raise ValueError(f"{text!r:.100} is neither a CIDR nor a range: write {_suggestion(text)}")
    try:
        network = ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(
            f"{text!r:.100} is not a range of addresses: write it like 192.0.2.0/24 or 192.0.2.10-192.0.2.20"
        ) from None
    return Range(network.version, int(network.network_address), int(network.broadcast_address), text.strip())


def _between(text: str, start: str, end: str) -> Range:
    try:
        first, last = ip_address(start.strip()), ip_address(end.strip())
    except ValueError:
        raise ValueError(f"{text!r:.100} is not a range of addresses: write it like 192.0.2.10-192.0.2.20") from None
    if first.version != last.version:
        raise ValueError(f"{text!r:.100} begins in one family and ends in the other: make two ranges of it")
    if int(first) > int(last):
        raise ValueError(f"{text!r:.100} ends before it begins: write {last}-{first}")
    return Range(first.version, int(first), int(last), f"{first}-{last}")


def _suggestion(text: str) -> str:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return "it like 192.0.2.0/24 or 192.0.2.10-192.0.2.20"
    return f"{address}/{address.max_prefixlen}"


class Plots:
    """Ranges that do not overlap, and whose each of them is. Looking and adding take O(log n) comparisons."""

    def __init__(self) -> None:
        self._starts: list[tuple[int, int]] = []
        self._plots: list[tuple[Range, str]] = []

    def add(self, part: Range, whose: str) -> None:
        """One that overlaps none of those that are there."""
        at = bisect_right(self._starts, (part.version, part.first))
        self._starts.insert(at, (part.version, part.first))
        self._plots.insert(at, (part, whose))

    def overlapping(self, part: Range) -> tuple[Range, str] | None:
        """The last one that overlaps it, and whose it is."""
        at = bisect_right(self._starts, (part.version, part.last)) - 1
        return self._plots[at] if at >= 0 and self._plots[at][0].overlaps(part) else None


class Intervals:
    """A set of whole numbers as sorted intervals that neither overlap nor touch.

    Adding, removing and looking take O(log n) comparisons for n intervals; numbers side by side are one interval.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.count = 0

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number <= self._ends[at]

    def add(self, number: int) -> None:
        """Put one in. Safe to repeat."""
        at = bisect_right(self._starts, number)
        before, after = at > 0 and self._ends[at - 1] >= number - 1, False
        if before and self._ends[at - 1] >= number:
            return
        self.count += 1
        after = at < len(self._starts) and self._starts[at] == number + 1
        if before and after:
            self._ends[at - 1] = self._ends.pop(at)
            del self._starts[at]
        elif before:
            self._ends[at - 1] = number
        elif after:
            self._starts[at] = number
        else:
            self._starts.insert(at, number)
            self._ends.insert(at, number)

    def discard(self, number: int) -> None:
        """Take one out. Safe to repeat."""
        at = bisect_right(self._starts, number) - 1
        if at < 0 or number > self._ends[at]:
            return
        self.count -= 1
        start, end = self._starts[at], self._ends[at]
        if start == end:
            del self._starts[at], self._ends[at]
        elif number == start:
            self._starts[at] = number + 1
        elif number == end:
            self._ends[at] = number - 1
        else:
            self._ends[at] = number - 1
            self._starts.insert(at + 1, number + 1)
            self._ends.insert(at + 1, end)

    def gap(self, number: int = 0) -> int:
        """The lowest number from this one on that is not in the set."""
        at = bisect_right(self._starts, number) - 1
        return self._ends[at] + 1 if at >= 0 and number <= self._ends[at] else number
