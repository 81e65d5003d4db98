"""One address as the data plane knows it: its order, where it can be announced, and how far we are with it.  PURE.

`wire.Machine` has one for each standing order, and is the only one who changes it.
"""

import enum
import math
from collections import OrderedDict
from collections.abc import Iterable

from lbctl_l2.values import Link, Order, State

NEVER = math.inf
ANSWERING = (State.SPEAKING, State.YIELDING)
TRYING = (State.ASKING, State.PROBING)


class Rank(enum.IntEnum):
    """What comes before the place in the ranking."""

    SETTLED = 0
    UNSETTLED = 1
    LEAVING = 2
    UNRANKED = 3


class Address:
    """One address: its order, and how far we are with it.

    due         when something must be done for it; `NEVER`: nothing is pending
    first       who came first when it was last judged
    holder      who was last heard announcing it, or answering for it
    seen        somebody has announced it, so that it needs no duplicate probe
    deferred    the speaker to whom I leave it though my order says otherwise; "" for nobody
    asked       when it was asked, on standing back, whether another answers: peers that flap must not make a storm
    placed      `links`, `judged` and `able` are its order's
    links       where it is announced and answered for: allowed, up, and able to carry its family
    judged      the links that decide who lives: those with a network that contains it, else all allowed
    able        one of the judged links is up
    lost_links  since when none is, if I was speaking then
    questions   still to be asked
    defended    when against a speaker (False) and a stranger (True): one must not use up the other's turn
    round       the next of `Timing.rounds`, counted from `announced`
    """

    __slots__ = (
        "able", "announced", "asked", "defences", "defended", "deferred", "due", "first", "gratuitous", "groups",
        "holder", "judged", "links", "lost_links", "order", "packed", "placed", "questions", "replies", "requests",
        "round", "seen", "since", "state", "v6",
    )

    def __init__(self, order: Order, now: float) -> None:
        self.order = order
        self.packed = order.address.packed
        self.v6 = order.address.version == 6
        self.state, self.since, self.due = State.STANDBY, now, NEVER
        self.first = self.deferred = ""
        self.holder, self.seen = "", False
        self.links: dict[int, Link] = {}
        self.judged: frozenset[int] = frozenset()
        self.able = self.placed = False
        self.lost_links: float | None = None
        self.groups: set[tuple[int, bytes]] = set()
        self.questions = self.round = self.defences = 0
        self.announced = self.asked = -NEVER
        self.defended: dict[bool, float] = {}
        self.requests = self.replies = self.gratuitous = 0

    def place(self, name: str) -> int:
        """The place in the ranking; behind all if it has none."""
        ranking = self.order.ranking
        return ranking.index(name) if name in ranking else len(ranking)


class Backlog:
    """Addresses that wait to be seen to: each once, in order, and at most so many a turn.

    To add all of them costs no more than a list of them: who has been seen to meanwhile is skipped when its turn comes.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._some: OrderedDict[Address, None] = OrderedDict()
        self._all: list[Address] = []
        """The rest of all, the last first."""
        self._seen: set[Address] = set()
        """Who need not come any more, while there is such a rest."""

    def __bool__(self) -> bool:
        return bool(self._some or self._all)

    def turn(self) -> None:
        """As many again."""
        self._left = self._most

    def add(self, addresses: Iterable[Address]) -> None:
        """These, before the rest of all."""
        self._some.update(dict.fromkeys(addresses))

    def add_all(self, addresses: Iterable[Address]) -> None:
        """All that there are."""
        self._all, self._seen = list(addresses), set()
        self._all.reverse()

    def discard(self, address: Address) -> bool:
        """Whether it waited; it does so no longer. Of one that began after `add_all` it says yes."""
        waited = address in self._some or (bool(self._all) and address not in self._seen)
        self._some.pop(address, None)
        self._see(address)
        return waited

    def next(self) -> Address | None:
        """Whose turn it is; None if nobody waits, or this turn is over."""
        found = self._first() if self._left else None
        if found is not None:
            self._left -= 1
            self._see(found)
        return found

    def _first(self) -> Address | None:
        if self._some:
            return self._some.popitem(last=False)[0]
        while self._all and self._all[-1] in self._seen:
            self._all.pop()
        return self._all.pop() if self._all else None

    def _see(self, address: Address) -> None:
        if self._all:
            self._seen.add(address)
        else:
            self._seen.clear()


def carries(link: Link, v6: bool) -> bool:
    """Whether the link can carry an address of this family now."""
    return link.up and (link.ndp and link.link_local is not None if v6 else link.arp)


def same_voice(link: Link, before: Link | None) -> bool:
    """Whether an announcement on it says the same as before."""
    return before is not None and (before.mac, before.link_local) == (link.mac, link.link_local)
