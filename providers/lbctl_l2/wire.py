"""Who answers for an address at this instant: the data plane's state machine, without I/O.  PURE.

`dataplane.py` feeds it whole Ethernet frames, links, standing orders and the time, and does what it answers (`Out`);
`segment.py` feeds several of them in virtual time. Every method returns what to do now; `deadline()` says when `tick`
must be called next, at the latest. The values that go in and out are in `values.py`; who lives is in `roll.py`.

A standing order ranks the nodes for one address. Who speaks is decided here, and nobody is asked:

    who comes first     settled nodes (and whoever was heard announcing the address) in the ranking's order, then
                        unsettled ones, leaving ones last; the dead are skipped
    I come first        I announce at once; but I *ask the wire* first (one ARP probe, or a DAD-like solicitation) if a
                        better one is merely unheard, or I am unsettled; and I *probe* an address never seen announced
    another comes first if I was speaking, I keep answering until I hear it announce: never nobody
    another claims it   a speaker: whoever comes first defends (a gratuitous announcement), the other yields at once;
                        a stranger: it is reported, and defended against at most every `Timing.defend`

Dead means: unheard for `Timing.dead` on every link that can carry the address. A node that was frozen or cut off knows
that others may have taken over: it is unsettled, and asks.

Two whose orders differ may both think that they come first. That ends with the control plane's next word; until then,
the one with the lesser fingerprint defers after its third defence. Of two that begin and are not on each other's roll
yet it defers at once, and nobody is reported.
"""

import heapq
import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence, Set
from ipaddress import IPv6Address

import msgspec

from lbctl_l2.address import ANSWERING, NEVER, TRYING, Address, Backlog, Rank, carries, same_voice
from lbctl_l2.packets import (
    BROADCAST,
    Advertisement,
    Arp,
    Beat,
    Drop,
    Flag,
    Packet,
    Solicitation,
    answer,
    arp_probe,
    arp_reply,
    duplicate_check,
    fingerprint,
    gratuitous,
    parse,
    solicited_node,
    unsolicited,
)
from lbctl_l2.roll import Newcomer, Roll
from lbctl_l2.values import (
    AddressReport,
    Conflict,
    Counters,
    IPAddress,
    IPInterface,
    IPNetwork,
    Join,
    Leave,
    Link,
    Order,
    Out,
    Peer,
    PeerLink,
    PeerReport,
    Report,
    Send,
    State,
    Timing,
    revive,
)

__all__ = [
    "AddressReport", "Conflict", "Counters", "IPAddress", "IPInterface", "IPNetwork", "Join", "Leave", "Link",
    "Machine", "Order", "Out", "Peer", "PeerLink", "PeerReport", "Report", "Send", "State", "Timing", "revive",
]

MOST_CONFLICTS = 64
"""How many conflicts are remembered: strangers must not make us grow."""
LISTENERS = 3
"""So many of a ranking's first listen to an IPv6 address's group: to join only at a failover would be too late."""
BATCH = 0.02
"""Seconds between two reconsiderations of all addresses because somebody came or changed: deaths do not wait."""
SPREAD = 2e-5
"""The same for each address, where there are many: whoever forges heartbeats must not take up all of our time."""
TURN = 128
"""How many addresses are placed, judged and acted for from one `tick` to the next, each: 10,000 at once would keep
questions and heartbeats waiting. The rest follow with the next tick, which is due at once then."""
MOST_OFTEN = 1.1
"""Seconds between two periodic announcements at least, whatever the order says (Linux' ARP locktime is 1 s)."""
PATIENCE = 3
"""After so many defences against the same speaker, the one with the lesser fingerprint defers."""

_FLAGS = {Rank.SETTLED: 0, Rank.UNSETTLED: int(Flag.UNSETTLED), Rank.LEAVING: int(Flag.LEAVING)}
_IDLE = int(Flag.IDLE)  # As numbers: it is asked for at each change of thousands.


class Machine:
    """One node's data plane. Never raises on a frame, however hostile, and does a bounded amount of work for each."""

    def __init__(self, me: str, cluster: str, timing: Timing, now: float) -> None:
        """A node that starts is unsettled. `cluster` keeps the heartbeats of two installations on one wire apart."""
        self._me, self._node, self._timing = me, fingerprint(me, 8), timing
        self._out: list[Out] = []
        self._roll = Roll(me, cluster, timing, now, self._send)
        self._addresses: dict[IPAddress, Address] = {}
        self._index: dict[bytes, Address] = {}
        self._links: dict[int, Link] = {}
        self._macs: frozenset[bytes] = frozenset()
        self._groups: Counter[tuple[int, bytes]] = Counter()
        self._heap: list[tuple[float, int, Address]] = []
        self._unplaced, self._unjudged = Backlog(TURN), Backlog(TURN)
        self._order_of_due = itertools.count()
        self._conflicts: OrderedDict[tuple[bytes, bytes], Conflict] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._dark = 0.0
        self._speaking = self._yielding = 0
        self._returned: dict[tuple[str, int], None] = {}
        self._living: dict[frozenset[int], dict[str, Rank]] = {}
        self._reconsider, self._reconsidered = NEVER, -NEVER
        self._now, self._deaf = now, -NEVER
        self._settles, self._leaves, self._left = now + timing.settle, NEVER, False
        self.revision = 0
        """Grows whenever a report would say something new besides counters and times."""
        self._flag()

    @property
    def settled(self) -> bool:
        """Whether it has been here for `Timing.settle`, so that it may get addresses back."""
        return self._settles == NEVER

    @property
    def left(self) -> bool:
        """After `leave`: nothing is left to do here, end now."""
        return self._left

    # -- what comes in --

    def set_links(self, links: Iterable[Link], now: float) -> list[Out]:
        """All own links. A late one, or one whose carrier is back, gets groups joined and its addresses announced."""
        self._enter(now)
        self._links = {link.index: link for link in links}
        self._macs = frozenset(link.mac for link in self._links.values())
        self._leave_groups()
        self._unplaced.add_all(self._addresses.values())
        self._place_some()
        self._roll.set_links(self._links, now)
        self._react()
        self._judge_all()
        return self._flush()

    def set_orders(self, orders: Iterable[Order], peers: Sequence[Peer], now: float) -> list[Out]:
        """All standing orders and the whole roll of speakers."""
        named = {order.address: order for order in orders}
        return self.change_orders(named.values(), self._addresses.keys() - named.keys(), now, peers)

    def change_orders(
        self, orders: Iterable[Order], ended: Iterable[IPAddress], now: float, peers: Sequence[Peer] | None = None
    ) -> list[Out]:
        """The orders that are new or other, and those that ended: without a frame. The whole roll, if it is another."""
        self._enter(now)
        if peers is not None:
            self._roll.set_peers(peers, now)
        for known in map(self._addresses.get, ended):
            if known is not None:
                self._forget(known)
        fresh = [address for order in orders if (address := self._take(order)) is not None]
        self._react()
        self._unjudged.add(fresh)
        return self._flush()

    def settle(self, now: float) -> list[Out]:
        """Count as settled from now on, instead of after `Timing.settle`."""
        self._enter(now)
        self._settled()
        return self._flush()

    def leave(self, now: float) -> list[Out]:
        """Hand over in good order: tell all, answer until others announce (at most `Timing.leave`), then `left`."""
        self._enter(now)
        if self._leaves == NEVER:
            self._leaves = now + self._timing.leave
            self._flag()
            self._roll.hello_all(now)
            self._judge_all()
            self.revision += 1
        return self._flush()

    def frame(self, link: int, data: bytes, now: float) -> list[Out]:
        """A whole Ethernet frame, ARP or IPv6, as AF_PACKET gives it on the link of this index."""
        self._enter(now)
        self._counts["received"] += 1
        drop = self._receive(self._links.get(link), data)
        if drop is not None:
            self._dropped[drop] += 1
        return self._flush()

    def tick(self, now: float) -> list[Out]:
        """Do what is due, heartbeats first, for at most `TURN` addresses: `deadline` is past while there is more.

        Calling it early is harmless; more than `Timing.frozen` late means: I was frozen.
        """
        self._enter(now)
        self._unplaced.turn()
        self._unjudged.turn()
        if now >= self._settles:
            self._settled()
        self._roll.tick(now)
        self._place_some()
        self._react()
        self._judge_some()
        self._act_for_some()
        return self._flush()

    def deadline(self) -> float | None:
        """When `tick` is due next; None once `left`."""
        if self._left:
            return None
        if self._unplaced or self._unjudged:
            return self._now
        due = self._heap[0][0] if self._heap else NEVER
        return min(due, self._roll.deadline(), self._reconsider, self._settles, self._leaves)

    def _enter(self, now: float) -> None:
        """Every call begins here: take the time, and see whether I was frozen."""
        self._now = now
        if now - self._roll.beaten > self._timing.frozen:
            self._wake()

    def _flush(self) -> list[Out]:
        self._judge_some()
        if self._leaves != NEVER and not self._left:
            self._see_whether_left()
        out, self._out = self._out, []
        return out

    def _send(self, frame: Send) -> None:
        self._counts["sent"] += 1
        self._out.append(frame)

    # -- what I am --

    @property
    def _rank(self) -> Rank:
        if self._leaves != NEVER:
            return Rank.LEAVING
        return Rank.UNSETTLED if self._settles != NEVER else Rank.SETTLED

    def _flag(self) -> None:
        flags = _FLAGS[self._rank] | (0 if self._speaking else _IDLE)
        if flags != self._roll.my_flags:
            self._roll.my_flags = flags
            self._living.clear()

    def _settled(self) -> None:
        self._settles = NEVER
        self._flag()
        self._roll.hello_all(self._now)
        self.revision += 1
        self._judge_all()

    def _unsettle(self) -> None:
        """Others may have taken over what I speak for: I come after them until I have been here for a while."""
        self._settles = self._now + self._timing.settle
        self._flag()
        self.revision += 1

    def _wake(self) -> None:
        """I was frozen. What is queued is old; what I spoke for may be another's: forget it, greet, and ask."""
        self._counts["frozen"] += 1
        self._deaf = self._now + self._timing.deaf
        self._roll.beaten = self._now
        for address in self._addresses.values():
            if address.holder == self._me:
                address.holder = ""
            address.first = ""
            if address.state is not State.NO_LINK:
                self._become(address, State.STANDBY)
        self._unsettle()
        self._roll.greet(self._links, self._now, self._timing.deaf)
        self._react()
        self._judge_all()

    def _see_whether_left(self) -> None:
        handed_over = not (self._yielding or self._unplaced or self._unjudged)
        if self._now >= self._leaves or handed_over or not self._roll.somebody:
            self._left = True
            self.revision += 1

    # -- orders and links --

    def _take(self, order: Order) -> Address | None:
        """A new or changed order; None if it is as it was."""
        address = self._addresses.get(order.address)
        if address is None:
            address = self._addresses[order.address] = Address(order, self._now)
            self._index[address.packed] = address
            self.revision += 1
        elif address.order is order or address.order == order:
            return None
        address.order, address.first, address.deferred, address.defences = order, "", "", 0
        address.placed = False
        if order.periodic and address.state is State.SPEAKING and address.due == NEVER:
            self._next_round(address)
        return address

    def _forget(self, address: Address) -> None:
        self._become(address, State.STANDBY)
        for key in address.groups:
            self._unlisten(key)
        address.groups = set()
        self._unplaced.discard(address)
        self._unjudged.discard(address)
        del self._addresses[address.order.address], self._index[address.packed]
        self.revision += 1

    def _place_some(self) -> None:
        while (address := self._unplaced.next()) is not None:
            self._place(address)

    def _place(self, address: Address) -> None:
        """Where the address is announced, and which links decide. A link that is new to it hears of it at once."""
        address.placed = True
        only, target = address.order.interfaces, address.order.address
        allowed = [link for link in self._links.values() if only is None or link.name in only]
        homes = [link for link in allowed if any(target in own.network for own in link.addresses)] or allowed
        usable = {link.index: link for link in allowed if carries(link, address.v6)}
        before, address.judged = address.links, frozenset(link.index for link in homes if link.index in usable)
        address.able = bool(address.judged)
        address.links = usable if address.able else {}
        late = [link for link in address.links.values() if not same_voice(link, before.get(link.index))]
        if not address.able:
            self._darken(address)
        elif address.state is State.NO_LINK:
            self._resume(address)
        elif address.state is State.SPEAKING and late:
            self._announce(address, late)
        self._listen(address)

    def _darken(self, address: Address) -> None:
        if address.state is not State.NO_LINK:
            address.lost_links = self._now if address.state in ANSWERING else None
            self._become(address, State.NO_LINK)

    def _resume(self, address: Address) -> None:
        """The link is back. After a short while nobody has noticed; after a longer one, another has taken over."""
        spoke, address.lost_links = address.lost_links, None
        address.first = ""
        self._become(address, State.STANDBY)
        if spoke is None:
            return
        if self._now - spoke <= self._timing.frozen:
            self._speak(address)
        elif address.holder == self._me:
            address.holder = ""
            if self._rank is not Rank.UNSETTLED:
                self._unsettle()

    # -- who comes first --

    def _react(self) -> None:
        """Draw the consequences of what the roll has learnt: of a death at once, of much else together."""
        roll = self._roll
        if roll.lost or roll.changed:
            self._living.clear()
        if roll.cut_off:
            roll.cut_off = False
            self._unsettle()
            roll.hello_all(self._now)
            roll.changed.add(self._me)
        lost, roll.lost = roll.lost, set()
        if lost:
            self.revision += 1
            self._unjudged.add(
                address for address in self._addresses.values() if address.first in lost or not address.first)
        if roll.changed or roll.revived or roll.idle:
            # One that was cut off says so as soon as it hears us again: wait for that.
            rest = max(BATCH, SPREAD * len(self._addresses))
            earliest = max(self._now + (BATCH if roll.revived else 0.0), self._reconsidered + rest)
            self._reconsider = min(self._reconsider, earliest)
            if self._reconsider <= self._now:
                self._reconsider_all()

    def _reconsider_all(self) -> None:
        """Somebody has come, or its rank has changed. At a start that is everybody, one after the other."""
        roll = self._roll
        revived, idle = roll.revived, roll.idle
        roll.changed, roll.revived, roll.idle = set(), set(), set()
        self._reconsider, self._reconsidered = NEVER, self._now
        self.revision += 1
        for address in self._addresses.values() if idle else ():
            if address.holder in idle:
                address.holder = ""
        self._returned.update(dict.fromkeys(one for one in revived if self._announces(one[0])))
        self._judge_all()

    def _repeat(self, address: Address) -> None:
        """Speakers are heard again that may have announced what I announce: say it again, when all are heard."""
        if address.state is State.SPEAKING and any(
                link in address.links and name in address.order.ranking for name, link in self._returned):
            address.announced, address.round = self._now + self._timing.greet, 0
            self._at(address, address.announced)

    def _rank_of(self, name: str) -> Rank:
        """As it says itself."""
        if name == self._me:
            return self._rank
        speaker = self._roll.speaker(name)
        flags = speaker.flags if speaker else 0
        if flags & Flag.LEAVING:
            return Rank.LEAVING
        return Rank.UNSETTLED if flags & Flag.UNSETTLED else Rank.SETTLED

    def _announces(self, name: str) -> bool:
        """Whether it speaks for anything at all, by its last heartbeat: frames of its former life may come late."""
        speaker = self._roll.speaker(name)
        return name == self._me or (speaker is not None and not speaker.flags & Flag.IDLE)

    def _lives(self, name: str, address: Address) -> bool:
        return address.able if name == self._me else self._roll.alive(name, address.judged)

    def _first(self, address: Address) -> str:
        """Who ought to speak: the best of the living; "" if nobody lives."""
        if address.deferred:
            if self._lives(address.deferred, address) and self._rank_of(address.deferred) is not Rank.LEAVING:
                return address.deferred
            address.deferred = ""
        living = self._living.get(address.judged)
        if living is None:
            living = self._living[address.judged] = self._ranks(address.judged)
        best, best_rank = "", Rank.UNRANKED
        for name in address.order.ranking:
            rank = living.get(name)
            if rank is None:
                continue
            if rank is Rank.UNSETTLED and name == address.holder and self._announces(name):
                rank = Rank.SETTLED
            if rank is Rank.LEAVING and name not in (self._me, address.holder):
                continue  # It takes nothing any more.
            if rank < best_rank:
                best, best_rank = name, rank
            if rank is Rank.SETTLED:
                break
        return best

    def _ranks(self, judged: frozenset[int]) -> dict[str, Rank]:
        """Who lives, as heard on these links, and as what; kept until something changes."""
        names = [speaker.name for speaker in self._roll.speakers() if self._roll.alive(speaker.name, judged)]
        return {name: self._rank_of(name) for name in (*names, *([self._me] if judged else []))}

    def _better(self, name: str, address: Address, answered: bool = False) -> bool:
        """Whether this peer comes before me. One that answers holds the address: then it is as good as settled."""
        theirs, mine = self._rank_of(name), self._rank
        if answered and theirs is Rank.UNSETTLED and self._announces(name):
            theirs = Rank.SETTLED
        ranking = address.order.ranking
        theirs = theirs if name in ranking else Rank.UNRANKED
        mine = mine if self._me in ranking else Rank.UNRANKED
        return (theirs, address.place(name)) < (mine, address.place(self._me))

    def _doubtful(self, address: Address) -> bool:
        """Whether somebody better, or who held it, is merely unheard, so that the wire must be asked."""
        if self._rank is Rank.UNSETTLED:
            return True
        before = address.order.ranking[:address.place(self._me)]
        return any(not self._lives(name, address) and self._rank_of(name) is not Rank.LEAVING
                   for name in (*before, address.holder) if name)

    def _judge_all(self) -> None:
        self._unjudged.add_all(self._addresses.values())

    def _judge_some(self) -> None:
        """None while links are new to some: what one has missed there may change what I am for all of them."""
        while not self._unplaced and (address := self._unjudged.next()) is not None:
            self._see_to(address)
        if not self._unjudged:
            self._returned.clear()

    def _see_to(self, address: Address) -> None:
        if not address.placed:
            self._place(address)
        self._judge(address)
        if self._returned:
            self._repeat(address)

    def _judge(self, address: Address) -> None:
        """Bring the address's state in line with who comes first."""
        before, address.first = address.first, self._first(address)
        state = address.state
        if state is State.NO_LINK:
            return
        if address.first != self._me:
            self._stand_back(address)
        elif state is State.YIELDING:
            self._become(address, State.SPEAKING)
            self._announce(address, ())
        elif state is State.STANDBY and (before != self._me or address.due == NEVER):
            self._begin(address)

    def _stand_back(self, address: Address) -> None:
        if address.state is State.SPEAKING:
            self._become(address, State.YIELDING)
            self._at(address, self._now + self._timing.handover)
            if self._rank is not Rank.LEAVING and address.first and self._now - address.asked >= self._timing.again:
                address.asked = self._now
                self._ask(address)
        elif address.state is not State.YIELDING:
            self._become(address, State.STANDBY)

    def _begin(self, address: Address) -> None:
        """I come first, and do not answer yet."""
        if self._rank is Rank.LEAVING:
            return
        if address.order.probe and not address.seen:
            self._become(address, State.PROBING)
            address.questions = self._timing.probes
        elif self._doubtful(address):
            self._become(address, State.ASKING)
            address.questions = 1
        else:
            self._take_over(address)
            return
        if self._now < self._deaf:
            self._at(address, self._deaf)
        else:
            self._try(address)

    # -- what is due --

    def _at(self, address: Address, when: float) -> None:
        address.due = when
        if when != NEVER:
            heapq.heappush(self._heap, (when, next(self._order_of_due), address))

    def _act_for_some(self) -> None:
        """What is due, of those that are judged: nobody takes over by what was true before."""
        for _ in range(TURN):
            if self._unplaced or not self._heap or self._heap[0][0] > self._now:
                return
            due, _, address = heapq.heappop(self._heap)
            if address.due == due and self._unjudged.discard(address):
                self._see_to(address)
            if address.due == due:
                address.due = NEVER
                self._act(address)

    def _act(self, address: Address) -> None:
        """What is pending for this address is due."""
        if address.state in TRYING:
            self._try(address)
        elif address.state is State.SPEAKING:
            self._announce_round(address)
        elif address.state is State.YIELDING:
            self._yield_on(address)
        else:
            self._retry(address)

    def _try(self, address: Address) -> None:
        """Ask once more; after the last question's silence, the address is free."""
        if not address.questions:
            self._take_over(address)
            return
        address.questions -= 1
        self._ask(address)
        self._at(address, self._now + (self._timing.ask if address.state is State.ASKING else self._timing.probe))

    def _yield_on(self, address: Address) -> None:
        """Nobody has announced it yet. Ask whether somebody answers, and answer meanwhile."""
        if self._me not in address.order.ranking and self._now - address.since >= self._timing.release:
            self._become(address, State.STANDBY)
            return
        self._ask(address)
        self._at(address, self._now + self._timing.handover)

    def _retry(self, address: Address) -> None:
        """Somebody answered who ought not to; perhaps it is gone."""
        if address.state is State.DUPLICATE:
            self._become(address, State.STANDBY)
        address.first = ""
        self._judge(address)

    def _take_over(self, address: Address) -> None:
        holder = address.holder
        if holder not in ("", self._me) and not self._lives(holder, address):
            self._note_failover(holder)
        self._speak(address)

    def _note_failover(self, holder: str) -> None:
        speaker = self._roll.speaker(holder)
        if speaker is not None and not speaker.flags & Flag.LEAVING:
            self._counts["failovers"] += 1
            # Of one that was never heard nobody knows since when it is dead.
            self._dark += self._now - speaker.heard if speaker.heard != -NEVER else 0.0

    def _speak(self, address: Address) -> None:
        self._become(address, State.SPEAKING)
        address.holder, address.seen = self._me, True
        self._announce(address, address.links.values())

    def _become(self, address: Address, state: State) -> None:
        """Change the state; whatever was pending in the old one is off."""
        before, address.state = address.state, state
        address.due = NEVER
        if before is state:
            return
        address.since = self._now
        self.revision += 1
        self._yielding += (state is State.YIELDING) - (before is State.YIELDING)
        answered, answers = before in ANSWERING, state in ANSWERING
        if answers is not answered:
            self._speaking += answers - answered
            self._flag()
            self._listen(address)

    # -- what goes out --

    def _announce(self, address: Address, links: Iterable[Link]) -> None:
        """Say it on these links now, and begin the rounds on all."""
        for link in links:
            self._gratuitous(address, link)
        address.announced, address.round = self._now - self._timing.rounds[0], 1
        self._next_round(address)

    def _announce_round(self, address: Address) -> None:
        for link in address.links.values():
            self._gratuitous(address, link)
        address.round += 1
        self._next_round(address)

    def _next_round(self, address: Address) -> None:
        rounds = self._timing.rounds
        if address.round < len(rounds):
            self._at(address, address.announced + rounds[address.round])
        else:
            self._at(address, self._now + max(MOST_OFTEN, address.order.periodic) if address.order.periodic else NEVER)

    def _gratuitous(self, address: Address, link: Link) -> None:
        if address.v6:
            assert link.link_local is not None
            frames: tuple[bytes, ...] = (unsolicited(link.mac, link.link_local.packed, address.packed),)
        else:
            frames = gratuitous(link.mac, address.packed)
        address.gratuitous += len(frames)
        self._counts["gratuitous"] += len(frames)
        for frame in frames:
            self._send(Send(link.index, frame, announces=address.order.address))

    def _ask(self, address: Address) -> None:
        question = duplicate_check if address.v6 else arp_probe
        for link in address.links.values():
            self._send(Send(link.index, question(link.mac, address.packed)))

    # -- groups --

    def _listen(self, address: Address) -> None:
        """Be in the address's solicited-node group on each of its links while it matters here."""
        if not address.v6:
            return
        near = self._me in address.order.ranking[:LISTENERS]
        group = solicited_node(address.packed)
        wanted = {(index, group) for index in address.links} if near or address.state in ANSWERING else set()
        for key in address.groups - wanted:
            self._unlisten(key)
        for key in wanted - address.groups:
            self._groups[key] += 1
            if self._groups[key] == 1:
                self._out.append(Join(key[0], IPv6Address(group)))
        address.groups = wanted

    def _leave_groups(self) -> None:
        """Those of links that are gone: the kernel has left them, and they are joined anew if the link comes back."""
        gone = {key for key in self._groups if key[0] not in self._links}
        for key in gone:
            del self._groups[key]
        for address in self._addresses.values() if gone else ():
            address.groups -= gone

    def _unlisten(self, key: tuple[int, bytes]) -> None:
        if key not in self._groups:
            return
        self._groups[key] -= 1
        if not self._groups[key]:
            del self._groups[key]
            self._out.append(Leave(key[0], IPv6Address(key[1])))

    # -- frames --

    def _receive(self, here: Link | None, data: bytes) -> Drop | None:
        if here is None:
            return Drop.UNKNOWN_LINK
        if self._now < self._deaf:
            return Drop.STALE
        packet = parse(data)
        if isinstance(packet, Drop):
            return packet
        if packet.by in self._macs:
            return Drop.OWN
        if packet.to != here.mac and not _to_many(packet):
            return Drop.NOT_FOR_US
        if isinstance(packet, Beat):
            drop = self._roll.hear(packet, here.index, self._now)
            self._react()
            return drop
        if isinstance(packet, Arp):
            return self._read_arp(packet, here)
        return self._read_ndp(packet, here)

    def _read_arp(self, packet: Arp, here: Link) -> Drop | None:
        if packet.sender_mac in self._macs:
            return Drop.OWN
        claimed = self._index.get(packet.sender)
        if claimed is not None:
            self._claim(claimed, packet.sender_mac, here)
        if packet.reply:
            return None if claimed else Drop.NOT_SERVED
        address = self._index.get(packet.target)
        if address is None:
            return Drop.NOT_SERVED
        if address is claimed:
            return None
        return self._question(address, here, packet.sender_mac, packet.sender, not any(packet.sender))

    def _read_ndp(self, packet: Solicitation | Advertisement, here: Link) -> Drop | None:
        claimed = self._index.get(packet.target if isinstance(packet, Advertisement) else packet.source)
        mac = packet.mac if isinstance(packet, Advertisement) else packet.asker
        if mac in self._macs:
            return Drop.OWN
        if claimed is not None:
            self._claim(claimed, mac, here)
        if isinstance(packet, Advertisement):
            return None if claimed else Drop.NOT_SERVED
        address = self._index.get(packet.target)
        if address is None:
            return Drop.NOT_SERVED
        return self._question(address, here, mac, packet.source, packet.duplicate_check)

    def _question(self, address: Address, here: Link, mac: bytes, asker: bytes, probing: bool) -> Drop | None:
        """Somebody asks for the address; a speaker may ask because it is about to take it, or wants to be rid of it."""
        if probing and address.state not in ANSWERING:
            self._heed_probe(address, here, mac)
        if address.state not in ANSWERING:
            return Drop.NOT_SERVED
        address.requests += 1
        self._counts["requests"] += 1
        if here.index not in address.links or not carries(here, address.v6):
            return Drop.NOT_HERE
        self._reply(address, here, mac, asker)
        return None

    def _reply(self, address: Address, here: Link, mac: bytes, asker: bytes) -> None:
        address.replies += 1
        self._counts["replies"] += 1
        if address.v6:
            assert here.link_local is not None
            frame = answer(here.mac, here.link_local.packed, address.packed, mac, asker)
        else:
            frame = arp_reply(here.mac, address.packed, mac, asker)
        self._send(Send(here.index, frame))

    def _heed_probe(self, address: Address, here: Link, mac: bytes) -> None:
        """Two ask at the same time: the better one goes on. A stranger that wants it has as good a claim as I."""
        peer = self._roll.owner(mac)
        if (newcomer := self._roll.newcomer(mac, self._now)) is not None:
            if address.state in TRYING and self._gives_way_to(newcomer):
                self._wait(address, State.STANDBY, self._timing.again)
        elif peer is None:
            if address.state is State.PROBING and here.index in address.links:
                self._note_conflict(address, mac, here)
                self._wait(address, State.DUPLICATE, self._timing.reprobe)
        elif address.deferred == peer:
            address.deferred, address.first = "", ""
            self._judge(address)
        elif address.state in TRYING and self._better(peer, address):
            self._wait(address, State.STANDBY, 3 * self._timing.ask)

    # -- claims --

    def _claim(self, address: Address, mac: bytes, here: Link) -> None:
        """Somebody else says that it has the address: it announces it, or answers, or sends from it."""
        peer = self._roll.owner(mac)
        if (newcomer := self._roll.newcomer(mac, self._now)) is not None:
            self._newcomer_claims(address, newcomer)
        elif peer is None:
            self._stranger_claims(address, mac, here)
        elif address.state in ANSWERING:
            self._contend(address, peer)
        else:
            self._learn_holder(address, peer)
            if address.state in TRYING:
                self._hear_answer(address, peer)

    def _stranger_claims(self, address: Address, mac: bytes, here: Link) -> None:
        if here.index not in address.links or address.state in (State.STANDBY, State.NO_LINK):
            return
        self._note_conflict(address, mac, here)
        if address.state in TRYING:
            probing = address.state is State.PROBING
            self._wait(address, State.DUPLICATE, self._timing.reprobe if probing else self._timing.again)
        elif address.state in ANSWERING:
            self._defend(address, self._timing.defend, stranger=True)

    def _newcomer_claims(self, address: Address, newcomer: Newcomer) -> None:
        """A speaker whose place nobody has told me yet. While it answers, nobody is needed."""
        if address.state in TRYING or (address.state in ANSWERING and self._gives_way_to(newcomer)):
            self._wait(address, State.STANDBY, self._timing.again)
            self._learn_holder(address, newcomer.name)
        elif address.state in ANSWERING:
            self._defend(address, self._timing.contend, stranger=False)

    def _gives_way_to(self, newcomer: Newcomer) -> bool:
        """Never once I am settled; of two that begin the one with the lesser fingerprint does: both see that alike."""
        if self._rank is Rank.UNSETTLED:
            return not newcomer.unsettled or self._node < newcomer.node
        return self._rank is Rank.LEAVING

    def _hear_answer(self, address: Address, peer: str) -> None:
        """I was about to take it, and this speaker answers: it stays, or I take it from one who comes after me."""
        if self._better(peer, address, answered=True):
            self._wait(address, State.STANDBY, self._timing.again)
        else:
            self._speak(address)

    def _wait(self, address: Address, state: State, seconds: float) -> None:
        self._become(address, state)
        self._at(address, self._now + seconds)

    def _contend(self, address: Address, peer: str) -> None:
        """Two speakers speak for it. The better one stays; the other says no more."""
        if self._better(peer, address, answered=address.state is State.YIELDING):
            self._give_way(address, peer)
        elif self._defend(address, self._timing.contend, stranger=False):
            if address.state is State.SPEAKING:
                # One announcement more than the usual rounds, soon: the other may hold to its claim.
                self._announce(address, ())
                address.round = 0
                self._at(address, self._now + self._timing.contend)
            address.defences += 1
            speaker = self._roll.speaker(peer)
            if address.defences >= PATIENCE and speaker is not None and self._node < speaker.node:
                address.deferred = peer
                self._give_way(address, peer)

    def _give_way(self, address: Address, peer: str) -> None:
        self._become(address, State.STANDBY)
        self._learn_holder(address, peer)
        address.defences = 0
        self._at(address, self._now + self._timing.again)

    def _defend(self, address: Address, interval: float, *, stranger: bool) -> bool:
        """Announce it once more, unless that was done so recently against their like (RFC 5227 §2.4)."""
        if self._now - address.defended.get(stranger, -NEVER) < interval:
            return False
        address.defended[stranger] = self._now
        self._counts["defences"] += 1
        for link in address.links.values():
            self._gratuitous(address, link)
        return True

    def _learn_holder(self, address: Address, peer: str) -> None:
        address.seen = True
        if address.holder != peer:
            address.holder = peer
            self.revision += 1

    def _note_conflict(self, address: Address, mac: bytes, here: Link) -> None:
        """Remember the latest; whoever comes back is moved to the end."""
        self._counts["conflicts"] += 1
        key = (address.packed, mac)
        old = self._conflicts.pop(key, None)
        if old is None:
            self.revision += 1
            if len(self._conflicts) >= MOST_CONFLICTS:
                self._conflicts.popitem(last=False)
        self._conflicts[key] = Conflict(
            address=address.order.address, mac=mac, link=here.name, first=old.first if old else self._now,
            last=self._now, count=old.count + 1 if old else 1)

    # -- what is told --

    def answers(self, address: IPAddress) -> bool:
        """Whether this node answers for the address now."""
        known = self._addresses.get(address)
        return known is not None and known.state in ANSWERING

    @property
    def held(self) -> Set[IPAddress]:
        """What there are orders for, as a view."""
        return self._addresses.keys()

    def look(self) -> Iterator[AddressReport]:
        """Each address that there is an order for now, as it is when it is asked for: thousands need not be at once."""
        return map(self._report_address, tuple(self._addresses.values()))

    def report(self) -> Report:
        """A snapshot, O(addresses + peers)."""
        return msgspec.structs.replace(self.summary(), addresses=tuple(self.look()))

    def summary(self) -> Report:
        """A snapshot without the addresses, O(peers)."""
        return Report(
            me=self._me, at=self._now, settled=self.settled, leaving=self._leaves != NEVER, left=self._left,
            addresses=(),
            peers=tuple(self._report_peer(name.name) for name in self._roll.speakers()),
            conflicts=tuple(self._conflicts.values()), counters=self._report_counters(),
        )

    def _report_address(self, address: Address) -> AddressReport:
        return AddressReport(
            address=address.order.address, state=address.state, since=address.since, holder=address.holder,
            requests=address.requests, replies=address.replies, gratuitous=address.gratuitous)

    def _report_peer(self, name: str) -> PeerReport:
        speaker = self._roll.speaker(name)
        assert speaker is not None
        return PeerReport(
            name=name, alive=self._roll.alive(name, frozenset(self._links)),
            heard=None if speaker.heard == -NEVER else speaker.heard, shared=bool(speaker.ears),
            unsettled=bool(speaker.flags & Flag.UNSETTLED), leaving=bool(speaker.flags & Flag.LEAVING))

    def _report_counters(self) -> Counters:
        return Counters(
            requests=self._counts["requests"], replies=self._counts["replies"], gratuitous=self._counts["gratuitous"],
            conflicts=self._counts["conflicts"], defences=self._counts["defences"], dark=self._dark,
            failovers=self._counts["failovers"], beats=self._roll.beats, sent=self._counts["sent"],
            received=self._counts["received"], frozen=self._counts["frozen"], dropped=dict(self._dropped))


def _to_many(packet: Packet) -> bool:
    """ARP goes to all; neighbour discovery goes to groups (RFC 2464 §7)."""
    if isinstance(packet, Arp | Beat):
        return packet.to == BROADCAST
    return packet.to[:2] == b"\x33\x33"
