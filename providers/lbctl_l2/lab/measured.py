"""What the lab's instruments saw, and what it means: outages, nobody, several.  PURE.

Times are seconds of one monotonic clock.
"""

import itertools
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import msgspec

Address = IPv4Address | IPv6Address


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """One question of a client; `answered` is None where no answer came."""

    sent: float
    answered: float | None
    node: str


class Answers(msgspec.Struct, frozen=True):
    """All questions of a client in order of time, one each `interval` seconds."""

    asked: tuple[Asked, ...]
    interval: float

    def outage(self, start: float = 0.0, end: float = float("inf")) -> float:
        """The longest time between two questions that were answered, less the interval: seconds.

        What was never answered at the end counts until the last question.
        """
        inside = [asked for asked in self.asked if start <= asked.sent <= end]
        times = [asked.sent for asked in inside if asked.answered is not None]
        edges = [inside[0].sent, *times, inside[-1].sent] if inside else []
        gaps = (after - before for before, after in itertools.pairwise(edges))
        return max(0.0, max(gaps, default=0.0) - self.interval)

    def lost(self, start: float = 0.0, end: float = float("inf")) -> int:
        """How many questions were not answered."""
        return sum(asked.answered is None for asked in self.asked if start <= asked.sent <= end)

    def nodes(self, start: float = 0.0) -> tuple[str, ...]:
        """Who served, in this order."""
        served = [asked.node for asked in self.asked if asked.sent >= start and asked.node]
        return tuple(node for node, before in zip(served, ["", *served], strict=False) if node != before)


class Longest:
    """The longest outage of one client since it was last told, over any number of looks: none falls between two."""

    def __init__(self) -> None:
        self._since: tuple[Asked, ...] = ()
        self._longest = 0.0

    def see(self, answers: Answers) -> None:
        """What the client asked since the last look."""
        together = msgspec.structs.replace(answers, asked=(*self._since, *answers.asked))
        answered = tuple(asked for asked in together.asked if asked.answered is not None)
        self._longest = max(self._longest, together.outage())
        self._since = answered[-1:] or together.asked[:1]

    def tell(self) -> float:
        """Seconds; from now on only what comes counts, and what has not ended yet, from its beginning."""
        told, self._longest = self._longest, 0.0
        return told


class Probe(msgspec.Struct, frozen=True):
    """One question to the wire, and the nodes that answered it; a stranger's name is its MAC."""

    sent: float
    address: Address
    nodes: tuple[str, ...]


class Announcement(msgspec.Struct, frozen=True):
    """A gratuitous ARP `request` or `reply`, or an unsolicited neighbour `advertisement`."""

    heard: float
    kind: str
    address: Address
    node: str


class Seen(msgspec.Struct, frozen=True):
    """What the wire said, in order of time."""

    probes: tuple[Probe, ...]
    announcements: tuple[Announcement, ...]
    interval: float

    def nobody(self, start: float = 0.0, end: float = float("inf")) -> float:
        """For how long nobody answered, at the longest, in seconds: probes in a row times the interval."""
        return self._longest(lambda probe: not probe.nodes, start, end)

    def several(self, start: float = 0.0, end: float = float("inf")) -> float:
        """For how long more than one node answered, at the longest, in seconds."""
        return self._longest(lambda probe: len(set(probe.nodes)) > 1, start, end)

    def announcers(self, address: Address, last: float) -> frozenset[str]:
        """Who answered for the address in the last so many seconds."""
        end = max((probe.sent for probe in self.probes), default=0.0)
        late = (probe for probe in self.probes if probe.address == address and probe.sent > end - last)
        return frozenset(node for probe in late for node in probe.nodes)

    def announced(self, address: Address, start: float = 0.0) -> tuple[Announcement, ...]:
        """What was announced unasked for the address."""
        return tuple(said for said in self.announcements if said.address == address and said.heard >= start)

    def _longest(self, bad: Callable[[Probe], bool], start: float, end: float) -> float:
        longest = run = 0
        for probe in self.probes:
            if start <= probe.sent <= end:
                run = run + 1 if bad(probe) else 0
                longest = max(longest, run)
        return longest * self.interval
