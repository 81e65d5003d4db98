"""The roll of speakers: who lives, by the heartbeats heard on each link; and my own heartbeats.  PURE.

`wire.Machine` owns one and asks it `alive` and `flags`. What has changed is left in `lost`, `changed`, `revived`,
`idle` and `cut_off` until the machine takes it.

Everybody sends a heartbeat every `Timing.beat` to everybody it shares a link with, up to 19 (`WATCHERS`). Where more
share a link, each is watched by the first 19 in its own rendezvous order, in which nobody's coming or going moves the
others; a watcher that misses it says so to all (DOWN), and a broadcast heartbeat (a *hello*) says the contrary. So a
node sends at most 200 frames a second however many there are.

Which links are shared is known from the Leases: those with a network in common or, where one has no address, of the
same name. A heartbeat of a known speaker that arrives elsewhere teaches us better: hosts of two subnets on one wire.

A Lease comes later than the first heartbeat. A speaker of this cluster that is heard and not on the roll is a
*newcomer* for a while: it is not watched, but it is no stranger either.
"""

import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lbctl_l2.packets import BROADCAST, Beat, Drop, Flag, Kind, beat, down, fingerprint
from lbctl_l2.values import IPNetwork, Link, Peer, PeerLink, Send, Timing

WATCHERS = 19
"""How many watch one node, on each link."""
LEAST_WATCHERS = 3
"""If fewer of them live, more are asked to watch."""
HELLOS = 3
"""Who has missed so many hellos is dead, where nobody watches it for me."""
LATE = 1024
"""A heartbeat that is so many behind the last one may have been overtaken; one further behind was not (it wraps)."""
MEETING = 10.0
"""Seconds that a newcomer has to come onto the roll. Whoever has not by then is a stranger as any other."""
MET = 64
"""So many newcomers are remembered, the latest."""
NEVER = math.inf


class Newcomer(NamedTuple):
    """A speaker that is not on the roll; `since` it was heard first in this life."""

    node: bytes
    life: bytes
    unsettled: bool
    since: float

    @property
    def name(self) -> str:
        """For a holder that has no name here yet: no node's name has a space."""
        return f"speaker {self.node.hex()}"


class Ear:
    """One peer on one of my links: what I hear of it there. `watch`: it has promised the next beat to me.

    `learnt` is a MAC that it speaks with though its Lease does not name it (yet). Only the last one is remembered:
    forgers must not make us grow.
    """

    __slots__ = ("alive", "expires", "heard", "learnt", "link", "macs", "speaker", "told", "watch")

    def __init__(self, speaker: "Speaker", link: int, macs: tuple[bytes, ...]) -> None:
        self.speaker, self.link, self.macs = speaker, link, macs
        self.learnt: bytes | None = None
        self.alive, self.watch = False, False
        self.heard = self.told = -NEVER
        self.expires = NEVER

    @property
    def targets(self) -> tuple[bytes, ...]:
        """Where it is reached."""
        return self.macs if self.learnt is None else (*self.macs, self.learnt)


class Speaker:
    """One peer. `flags` are of its last heartbeat; a leaver's stay until it is heard again. `life`: since its start."""

    __slots__ = ("ears", "flags", "life", "links", "name", "node", "sequence")

    def __init__(self, name: str) -> None:
        self.name, self.node = name, fingerprint(name, 8)
        self.flags = self.sequence = 0
        self.life = b""
        self.ears: dict[int, Ear] = {}
        self.links: tuple[PeerLink, ...] = ()

    @property
    def macs(self) -> Iterable[bytes]:
        """Those that it is heard with."""
        return [mac for ear in self.ears.values() for mac in ear.targets]

    @property
    def heard(self) -> float:
        """When it was last heard; -inf: never."""
        return max((ear.heard for ear in self.ears.values()), default=-NEVER)


class Roll:
    """Who lives. `send` is called with every frame that is to go out."""

    def __init__(self, me: str, cluster: str, timing: Timing, now: float, send: Callable[[Send], None]) -> None:
        self._me, self._node, self._cluster = me, fingerprint(me, 8), fingerprint(cluster, 4)
        self._timing, self._send = timing, send
        self._speakers: dict[str, Speaker] = {}
        self._by_node: dict[bytes, Speaker] = {}
        self._by_mac: dict[bytes, str] = {}
        self._met: OrderedDict[bytes, Newcomer] = OrderedDict()
        self._links: dict[int, Link] = {}
        self._watchers: dict[int, tuple[Ear, ...]] = {}
        self._crowded: frozenset[int] = frozenset()
        self._helloed: dict[int, float] = {}
        self._life, self._sequence = struct.pack("!d", now), 0
        self._company = now
        self._expiry = self._next_hello = NEVER
        self._next_beat = now
        self.my_flags = 0
        self.beaten = NEVER
        self.beats = 0
        self.lost: set[str] = set()
        self.changed: set[str] = set()
        self.revived: set[tuple[str, int]] = set()
        self.idle: set[str] = set()
        self.cut_off = False

    # -- who lives --

    def alive(self, name: str, links: frozenset[int]) -> bool:
        """Whether it was heard on one of these links; or on any, if it shares none of these.

        One that shares no link with me cannot be judged from here: it counts as living while it is on the roll.
        """
        speaker = self._speakers.get(name)
        if speaker is None:
            return False
        shared = False
        for ear in speaker.ears.values():
            if ear.link in links:
                if ear.alive:
                    return True
                shared = True
        return not shared and (not speaker.ears or any(ear.alive for ear in speaker.ears.values()))

    def speaker(self, name: str) -> Speaker | None:
        """What is known of a peer; None if it is not on the roll."""
        return self._speakers.get(name)

    def speakers(self) -> Iterable[Speaker]:
        """All of the roll but me."""
        return self._speakers.values()

    def owner(self, mac: bytes) -> str | None:
        """The peer whose interface has this MAC."""
        return self._by_mac.get(mac)

    def newcomer(self, mac: bytes, now: float) -> Newcomer | None:
        """The speaker with this MAC that is not on the roll yet."""
        found = None if mac in self._by_mac else self._met.get(mac)
        return found if found is not None and now - found.since < MEETING else None

    @property
    def somebody(self) -> bool:
        """Whether any peer is heard at all."""
        return any(ear.alive for speaker in self._speakers.values() for ear in speaker.ears.values())

    # -- links and peers --

    def set_links(self, links: dict[int, Link], now: float) -> None:
        """A link that comes up is greeted: whoever answers lives; until the answers are in, all count as living."""
        before, self._links = self._links, links
        for speaker in self._speakers.values():
            self._drop_ears(speaker, {index for index in speaker.ears if index not in links})
        self._pair(now)
        for index, link in links.items():
            old = before.get(index)
            if not link.up:
                self._deafen(index)
            elif old is None or not old.up:
                self.greet([index], now)

    def set_peers(self, peers: Sequence[Peer], now: float) -> None:
        """The whole roll. Who has gone from it is dead, who is new is greeted."""
        named = {peer.name: peer for peer in peers if peer.name != self._me}
        for name in self._speakers.keys() - named.keys():
            del self._by_node[self._speakers.pop(name).node]
            self.lost.add(name)
        for name, peer in named.items():
            speaker = self._speakers.get(name)
            if speaker is None:
                speaker = self._speakers[name] = Speaker(name)
                self._by_node[speaker.node] = speaker
                self.changed.add(name)
            speaker.links = peer.links
        self._pair(now)

    def greet(self, links: Iterable[int], now: float, after: float = 0.0) -> None:
        """Ask everybody on these links for a sign of life; who gives none in `Timing.greet` is dead."""
        until = now + after + self._timing.greet
        asked = set(links)
        for speaker in self._speakers.values():
            for ear in speaker.ears.values():
                if ear.link in asked:
                    self._presume(ear, until)
        for index in asked:
            if self._helloed.get(index) != now:
                self.hello(self._links[index], now, Flag.PING)

    def _presume(self, ear: Ear, until: float) -> None:
        if not ear.alive:
            ear.alive = True
            self.changed.add(ear.speaker.name)
        ear.watch, ear.expires = False, until
        self._expiry = min(self._expiry, until)

    def _deafen(self, index: int) -> None:
        for speaker in self._speakers.values():
            ear = speaker.ears.get(index)
            if ear is not None and ear.alive:
                ear.alive = ear.watch = False
                self.lost.add(speaker.name)

    def _pair(self, now: float) -> None:
        """An ear for each peer on each link that we share."""
        networks = {index: _networks(link) for index, link in self._links.items()}
        self._by_mac = {mac: speaker.name for speaker in self._speakers.values()
                        for mac in (*(link.mac for link in speaker.links), *speaker.macs)}
        new: set[int] = set()
        for speaker in self._speakers.values():
            for index, link in self._links.items():
                macs = tuple(theirs.mac for theirs in speaker.links if _shared(link, networks[index], theirs))
                if self._hint(speaker, index, macs, now) and link.up:
                    new.add(index)
        self._choose_watchers(now)
        for index in new:
            self.hello(self._links[index], now, Flag.PING)

    def _hint(self, speaker: Speaker, index: int, macs: tuple[bytes, ...], now: float) -> bool:
        """Take in what the Leases say of one peer on one link; whether that is news. What was heard there stays."""
        ear = speaker.ears.get(index)
        if macs and ear is not None:
            ear.macs, ear.learnt = macs, None if ear.learnt in macs else ear.learnt
        elif macs:
            self._new_ear(speaker, index, macs, now)
            return True
        elif ear is not None and not ear.alive:
            self._drop_ears(speaker, {index})
        return False

    def _new_ear(self, speaker: Speaker, index: int, macs: tuple[bytes, ...], now: float) -> Ear:
        ear = speaker.ears[index] = Ear(speaker, index, macs)
        if self._links[index].up:
            self._presume(ear, now + self._timing.greet)
        self.changed.add(speaker.name)
        return ear

    def _drop_ears(self, speaker: Speaker, links: set[int]) -> None:
        for index in links:
            del speaker.ears[index]
            self.lost.add(speaker.name)

    def _choose_watchers(self, now: float) -> None:
        """Those who need not watch me any more are told so, lest they miss me."""
        before, self._watchers = self._watchers, {}
        crowded = set()
        for index, link in self._links.items():
            ears = sorted((speaker.ears[index] for speaker in self._speakers.values() if index in speaker.ears),
                          key=lambda ear: fingerprint(self._node.hex() + ear.speaker.node.hex(), 8))
            if len(ears) > WATCHERS:
                crowded.add(index)
            living = [ear for ear in ears if ear.alive]
            chosen = {*ears[:WATCHERS], *living[:LEAST_WATCHERS]}
            self._watchers[index] = tuple(ear for ear in ears if ear in chosen)
            if link.up:
                for ear in before.get(index, ()):
                    if ear not in chosen and ear.speaker.name in self._speakers:
                        self._beat(link, ear, watch=False)
        self._crowded = frozenset(crowded)
        self._next_hello = min(self._next_hello, now + self._timing.hello) if crowded else NEVER

    # -- speaking --

    def hello(self, link: Link, now: float, flags: int = 0) -> None:
        """A heartbeat to all on this link."""
        if link.up:
            self._helloed[link.index] = now
            self._out(link, self._frame(link, BROADCAST, self.my_flags | flags))

    def hello_all(self, now: float, flags: int = 0) -> None:
        """My flags have changed: tell everybody at once."""
        for link in self._links.values():
            self.hello(link, now, flags)

    def _beat(self, link: Link, ear: Ear, watch: bool) -> None:
        flags = self.my_flags | (Flag.WATCH if watch else 0)
        for mac in ear.targets:
            self._out(link, self._frame(link, mac, flags))

    def _frame(self, link: Link, to: bytes, flags: int) -> bytes:
        return beat(link.mac, to, self._cluster, self._node, self._life, flags, self._count())

    def _out(self, link: Link, frame: bytes) -> None:
        self.beats += 1
        self._send(Send(link.index, frame, urgent=True))

    def _count(self) -> int:
        self._sequence += 1
        return self._sequence

    # -- listening --

    def hear(self, packet: Beat, index: int, now: float) -> Drop | None:
        """One heartbeat or notice. Only those of this cluster and of this roll count."""
        if packet.cluster != self._cluster:
            return Drop.OTHER_CLUSTER
        speaker = self._by_node.get(packet.node)
        if packet.node == self._node:
            return Drop.NAMESAKE
        if speaker is None:
            self._meet(packet, index, now)
            return Drop.UNKNOWN_PEER
        if packet.kind is Kind.DOWN:
            self._hear_notice(packet, index, now)
        else:
            self._hear_beat(speaker, packet, index, now)
        return None

    def _hear_beat(self, speaker: Speaker, packet: Beat, index: int, now: float) -> None:
        ear = speaker.ears.get(index)
        if ear is None:
            ear = self._new_ear(speaker, index, (), now)
            self._choose_watchers(now)
        if packet.by not in self._by_mac:
            self._learn_mac(ear, packet.by)
        if packet.to != BROADCAST:
            ear.watch = bool(packet.flags & Flag.WATCH)
        self._note_company(speaker, packet.flags, now)
        self._note_flags(speaker, packet)
        self._keep(ear, now)
        if packet.flags & Flag.PING:
            self._beat(self._links[index], ear, watch=ear in self._watchers[index])

    def _meet(self, packet: Beat, index: int, now: float) -> None:
        """Remember a newcomer, and let it know me if it asks. A notice says nothing of its sender's life."""
        if packet.kind is not Kind.BEAT:
            return
        unsettled = bool(packet.flags & (Flag.UNSETTLED | Flag.LEAVING))
        known = self._met.pop(packet.by, None)
        again = known is None or (known.node, known.life) != (packet.node, packet.subject)
        since = now if known is None or again else known.since
        self._met[packet.by] = Newcomer(packet.node, packet.subject, unsettled, since)
        if len(self._met) > MET:
            self._met.popitem(last=False)
        if packet.flags & Flag.PING:
            link = self._links[index]
            self._out(link, self._frame(link, packet.by, self.my_flags))

    def _learn_mac(self, ear: Ear, mac: bytes) -> None:
        if ear.learnt is not None:
            self._by_mac.pop(ear.learnt, None)
        ear.learnt, self._by_mac[mac] = mac, ear.speaker.name

    def _note_company(self, speaker: Speaker, flags: int, now: float) -> None:
        """Was I cut off? Then nobody was heard for long, and now comes one that has not just begun."""
        fresh = flags & (Flag.UNSETTLED | Flag.IDLE) == Flag.UNSETTLED | Flag.IDLE
        if now - self._company > self._timing.frozen and not fresh:
            self.cut_off = True
        self._company = now

    def _note_flags(self, speaker: Speaker, packet: Beat) -> None:
        """One that has begun again, or says so, announces nothing of what it announced before. Order is kept."""
        again = packet.subject != speaker.life
        if not again and 0 < speaker.sequence - packet.sequence & 0xFFFFFFFF < LATE:
            return
        said = packet.flags & (Flag.UNSETTLED | Flag.LEAVING | Flag.IDLE)
        if again or said & ~speaker.flags & Flag.IDLE:
            self.idle.add(speaker.name)
        if (said ^ speaker.flags) & (Flag.UNSETTLED | Flag.LEAVING):
            self.changed.add(speaker.name)
        speaker.flags, speaker.life, speaker.sequence = said, packet.subject, packet.sequence

    def _keep(self, ear: Ear, now: float) -> None:
        """It lives, until it is unheard for as long as it promised. Its return is news for everybody on the link."""
        patient = ear.link in self._crowded and not ear.watch
        ear.heard, ear.expires = now, now + (HELLOS * self._timing.hello if patient else self._timing.dead)
        self._expiry = min(self._expiry, ear.expires)
        if not ear.alive:
            ear.alive = True
            self.changed.add(ear.speaker.name)
            self.revived.add((ear.speaker.name, ear.link))
            if now - self._helloed.get(ear.link, -NEVER) >= self._timing.beat:
                self.hello(self._links[ear.link], now)

    def _hear_notice(self, packet: Beat, index: int, now: float) -> None:
        """Somebody is missed. If it is me, I say that I live; if I watch it, or heard it just now, I know better."""
        if packet.subject == self._node:
            if now - self._helloed.get(index, -NEVER) >= self._timing.beat:
                self.hello(self._links[index], now)
            return
        subject = self._by_node.get(packet.subject)
        ear = subject.ears.get(index) if subject else None
        if ear is not None and index in self._crowded and not ear.watch and now - ear.heard >= self._credible:
            ear.told = now
            self._bury(ear)

    @property
    def _credible(self) -> float:
        """A notice comes `dead` after the last sign of life; sooner, less one beat of doubt, it is old or forged."""
        return self._timing.dead - self._timing.beat

    def _bury(self, ear: Ear) -> None:
        ear.expires, ear.watch = NEVER, False
        if ear.alive:
            ear.alive = False
            self.lost.add(ear.speaker.name)

    # -- time --

    def deadline(self) -> float:
        """When `tick` is due."""
        return min(self._next_beat, self._expiry, self._next_hello)

    def tick(self, now: float) -> None:
        """Send what is due, and miss who is overdue."""
        if now >= self._next_beat:
            self._beat_all(now)
        if now >= self._next_hello:
            self._next_hello = now + self._timing.hello
            for index in self._crowded:
                self.hello(self._links[index], now)
        if now >= self._expiry:
            self._miss(now)

    def _beat_all(self, now: float) -> None:
        """In step, unless a whole beat was missed. Even with nobody to tell, for `beaten` shows that I am awake."""
        self._next_beat += self._timing.beat
        if self._next_beat <= now:
            self._next_beat = now + self._timing.beat
        self.beaten = now
        for index, ears in self._watchers.items():
            link = self._links[index]
            if link.up:
                for ear in ears:
                    self._beat(link, ear, watch=True)

    def _miss(self, now: float) -> None:
        """Bury the overdue. The expiry kept is a lower bound: hearing somebody only moves it away."""
        ears = [ear for speaker in self._speakers.values() for ear in speaker.ears.values() if ear.alive]
        overdue = [ear for ear in ears if ear.expires <= now]
        self._expiry = min((ear.expires for ear in ears if ear.expires > now), default=NEVER)
        for ear in overdue:
            if ear.watch and ear.link in self._crowded:
                self._tell(ear, now)
            self._bury(ear)
        if overdue and self._crowded:
            self._choose_watchers(now)

    def _tell(self, ear: Ear, now: float) -> None:
        """All ought to know; once a second is enough, and not if another watcher has said it just now."""
        if now - ear.told >= self._timing.again:
            ear.told = now
            link = self._links[ear.link]
            self._out(link, down(link.mac, self._cluster, self._node, ear.speaker.node, self._count()))


def _networks(link: Link) -> frozenset[IPNetwork]:
    return frozenset(a.network for a in link.addresses if not a.is_link_local and a.network.num_addresses > 1)


def _shared(link: Link, networks: frozenset[IPNetwork], theirs: PeerLink) -> bool:
    if networks and theirs.networks:
        return not networks.isdisjoint(theirs.networks)
    return link.name == theirs.name
