"""Between a node's two processes: what control and data plane say to each other, and the handle that control holds.

Control (Kubernetes, planning; may be slow) makes a `DataPlane`, tells it standing orders and reads reports. The data
plane (`dataplane.py`: raw sockets, never waits) is a process of its own behind a socketpair of SOCK_SEQPACKET
(unix(7)): whole messages, in order, and an end of file as soon as either side is gone, however it ended.

    control → data plane   Start · Update (differences of orders and roll) · Exclude · Settle · Depart
    data plane → control   Told (differences of a report) · Seen (own links) · Log

Nothing here can make the data plane wait: it sends without blocking, and what does not fit is sent later (reports,
the latest state) or dropped and counted (logs). Large sets travel in parts of at most `PART` bytes, well under the
kernel's default send buffer; the last part says so, and the set is acted upon then (a large one in slices).
"""

import contextlib
import errno
import itertools
import os
import selectors
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec

from lbctl_l2.netlink import EXCLUDED, Exclusion
from lbctl_l2.wire import AddressReport, IPAddress, Link, Order, Peer, Report, Timing, revive

if TYPE_CHECKING:
    import subprocess

PART = 32_768
LARGEST = 4 * PART
RESTARTS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before a data plane that ended is started again, the last for every further one; anew after `STEADY`."""
STEADY = 60.0
TIMING = Timing()
SILENT = 10
"""Seconds without a word, of one that speaks every second, after which a data plane is replaced."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def clock() -> float:
    """The data plane's time, in seconds. Unlike CLOCK_MONOTONIC it goes on while the machine is suspended.

    A report's times are of this clock: `report.at - since` is an age.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# -- control → data plane -------------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True, tag=True):
    """Who this node is; the first message. `excluded`: regular expressions of interface names."""

    me: str
    cluster: str
    timing: Timing
    excluded: tuple[str, ...]


class Update(msgspec.Struct, frozen=True, tag=True):
    """A part of what changed in the standing orders and the roll of speakers. `more`: the rest is on its way."""

    orders: tuple[Order, ...] = ()
    ended: tuple[IPAddress, ...] = ()
    peers: tuple[Peer, ...] = ()
    gone: tuple[str, ...] = ()
    more: bool = False


class Exclude(msgspec.Struct, frozen=True, tag=True):
    """Another list of excluded interfaces, from now on."""

    patterns: tuple[str, ...]


class Settle(msgspec.Struct, frozen=True, tag=True):
    """Count as settled now."""


class Depart(msgspec.Struct, frozen=True, tag=True):
    """Hand over in good order and end."""


# -- data plane → control -------------------------------------------------------------------------------------------


class Told(msgspec.Struct, frozen=True, tag=True):
    """A part of a report: of the addresses only those that changed, and those that `ended`. The rest is whole."""

    report: Report
    ended: tuple[IPAddress, ...] = ()
    more: bool = False


class Seen(msgspec.Struct, frozen=True, tag=True):
    """The links that can be used, and why others cannot (`token: sentence` by name), without the excluded ones."""

    links: tuple[Link, ...]
    unusable: dict[str, str]


class Log(msgspec.Struct, frozen=True, tag=True):
    """A line for control's log: a constant message and fields."""

    level: str
    message: str
    fields: dict[str, str]


Command = Start | Update | Exclude | Settle | Depart
News = Told | Seen | Log


# -- the line -------------------------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder(enc_hook=str)


class Garbled(Exception):
    """What the other side said makes no sense."""


class Line(Generic[Value]):
    """One end of the socketpair. `heard` is the union of messages that the other end says."""

    def __init__(self, end: socket.socket, heard: Any) -> None:
        end.setblocking(False)
        self._end = end
        self.oversized = 0
        self._decoder: msgspec.msgpack.Decoder[Value] = msgspec.msgpack.Decoder(heard, dec_hook=revive)

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: Command | News) -> bool:
        """Sends at once; False if there is no room now. Raises ConnectionError if the other side is gone.

        What could not be received whole (no part is so large by far, but one value might be) is dropped and counted.
        """
        data = _encoder.encode(message)
        try:
            if len(data) > LARGEST:
                raise OSError(errno.EMSGSIZE, "longer than what the other side takes")
            self._end.send(data)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
                return False
            if error.errno != errno.EMSGSIZE:
                raise
            self.oversized += 1
        return True

    def receive(self) -> Value | None:
        """The next message, None if there is none.

        Raises EOFError (or ConnectionError) if the other side is gone, `Garbled` if it makes no sense.
        """
        try:
            data = self._end.recv(LARGEST)
        except BlockingIOError:
            return None
        if not data:
            raise EOFError("the other side of the channel is gone")
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Garbled(str(error)) from error

    def close(self) -> None:
        self._end.close()


class Differences(Generic[Key, Value]):
    """What the other side does not know yet of a set of values by key. Level-based: only the latest state counts."""

    def __init__(self) -> None:
        self.latest: dict[Key, Value] = {}
        self._new: dict[Key, Value] = {}
        self._old: dict[Key, None] = {}

    def __bool__(self) -> bool:
        return bool(self._new or self._old)

    @property
    def size(self) -> int:
        """How many values and ends are not said yet."""
        return len(self._new) + len(self._old)

    def want(self, latest: Mapping[Key, Value]) -> None:
        """The whole set as it should be known."""
        self.see(latest)
        self.keep(latest.keys())

    def see(self, some: Mapping[Key, Value]) -> None:
        """A part of the set as it should be known; the rest is as it was."""
        for key, value in some.items():
            if self.latest.get(key) != value:
                self.latest[key] = self._new[key] = value
                self._old.pop(key, None)

    def keep(self, held: Set[Key]) -> None:
        """Only these of what was seen, all of which were."""
        for key in self.latest.keys() - held if len(self.latest) > len(held) else ():
            self._new.pop(key, None)
            self._old[key] = None
            del self.latest[key]

    def forget(self) -> None:
        """The other side is a new one, and knows nothing."""
        self._new, self._old = dict(self.latest), {}

    def part(self, room: int = PART) -> tuple[tuple[Value, ...], tuple[Key, ...]]:
        """What to say next, in so many bytes: new values, and keys that ended. `said` must follow once it is said."""
        new: list[Value] = []
        for value in self._new.values():
            room -= len(_encoder.encode(value))
            if new and room < 0:
                break
            new.append(value)
        return tuple(new), tuple(itertools.islice(self._old, max(room // 64, 0 if new else 1)))

    def said(self, new: int, old: int) -> None:
        """The first so many are known to the other side now."""
        for key in list(itertools.islice(self._new, new)):
            del self._new[key]
        for key in list(itertools.islice(self._old, old)):
            del self._old[key]


# -- the handle -----------------------------------------------------------------------------------------------------


class DataPlane:
    """The data-plane process of this node, kept running; every method returns at once but `leave`. Thread-safe.

    A process that ends, or says nothing for `SILENT` seconds, is replaced, and the new one told everything anew; that
    is logged as an error and counted in `restarts`. `heard` is called after each report, `logged` for each line, both
    in a thread of this handle. Processes live in the network namespace of the thread that called `start`.
    """

    def __init__(
        self,
        me: str,
        cluster: str,
        timing: Timing = TIMING,
        excluded: Iterable[str] = EXCLUDED,
        *,
        heard: Callable[[], None] = lambda: None,
        logged: Callable[[Log], None] = lambda line: None,
    ) -> None:
        self._who = (me, cluster, timing)
        self._excluded = Exclusion(excluded).patterns
        self._heard, self._logged = heard, logged
        self._lock = threading.Lock()
        self._orders: Differences[IPAddress, Order] = Differences()
        self._roll: Differences[str, Peer] = Differences()
        self._commands: deque[Command] = deque()
        self._addresses: dict[IPAddress, AddressReport] = {}
        self._told: Report | None = None
        self._seen = Seen((), {})
        self._departing = False
        self._process: subprocess.Popen[bytes] | None = None
        self._last_heard = float("-inf")
        self._doorbell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._doorbell)
        self._thread = threading.Thread(target=self._run, name="data-plane", daemon=True)
        self.restarts = 0

    def start(self) -> Self:
        self._thread.start()
        return self

    def orders(self, orders: Iterable[Order], peers: Iterable[Peer]) -> None:
        """All standing orders and the whole roll of speakers. Only what is different travels."""
        with self._lock:
            self._orders.want({order.address: order for order in orders})
            self._roll.want({peer.name: peer for peer in peers})
        self._ring()

    def exclude(self, patterns: Iterable[str]) -> None:
        """Another list of excluded interfaces. Raises ValueError that names an expression which is none."""
        self._excluded = Exclusion(patterns).patterns
        self._say(Exclude(self._excluded))

    def settle(self) -> None:
        """Count as settled now, instead of after `Timing.settle`."""
        self._say(Settle())

    def report(self) -> Report | None:
        """The latest whole report; None before the first of this process. Its times are of `clock`."""
        with self._lock:
            if self._told is None:
                return None
            return msgspec.structs.replace(self._told, addresses=tuple(self._addresses.values()))

    def links(self) -> tuple[Link, ...]:
        """The interfaces that can be used, as last seen."""
        return self._seen.links

    def unusable(self) -> Mapping[str, str]:
        """Why other interfaces are not used, as `token: sentence` by name; excluded ones are left out."""
        return self._seen.unusable

    @property
    def alive(self) -> bool:
        """It runs, and has reported within the last three seconds (it does so every second)."""
        running = self._process is not None and self._process.poll() is None
        return running and time.monotonic() - self._last_heard < 3.0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def leave(self, timeout: float = 3.0) -> bool:
        """Hands over and ends the process; kills it after so many seconds. Says whether it ended in good order."""
        self._departing = True
        self._say(Depart())
        if self._thread.ident is None:
            return True
        self._thread.join(timeout)
        process = self._process
        if self._thread.is_alive() and process is not None:
            process.kill()
            self._thread.join()
        return process is not None and process.returncode == 0

    def _say(self, command: Command) -> None:
        with self._lock:
            self._commands.append(command)
        self._ring()

    def _ring(self) -> None:
        os.eventfd_write(self._doorbell, 1)

    def _run(self) -> None:
        failed = 0
        while not self._departing:
            began = time.monotonic()
            try:
                told = Log("error", "the data plane ended and is started again", {"code": str(self._serve())})
            except OSError as error:  # No more processes or descriptors here, for now.
                told = Log("error", "the data plane cannot be started; trying again", {"error": str(error)})
            if self._departing:
                break
            failed = 0 if time.monotonic() - began > STEADY else failed
            self.restarts += 1
            self._logged(told)
            self._pause(RESTARTS[min(failed, len(RESTARTS) - 1)])
            failed += 1

    def _pause(self, seconds: float) -> None:
        """Waits, but not when told to leave."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._doorbell, selectors.EVENT_READ)
            end = time.monotonic() + seconds
            while not self._departing and (left := end - time.monotonic()) > 0:
                if selector.select(left):
                    os.eventfd_read(self._doorbell)

    def _serve(self) -> int:
        """One process, from its start to its end; returns its exit code. Raises OSError if none can be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                self._process = process = spawn(theirs.fileno())
            self._begin()
            try:
                with contextlib.suppress(EOFError, OSError):  # The other side is gone.
                    self._converse(Line(ours, News))
            except Garbled as error:
                self._logged(Log("error", "the data plane cannot be understood", {"error": str(error)}))
        return ended(process)

    def _begin(self) -> None:
        """What a new process must hear first, and all that it cannot know."""
        with self._lock:
            unsaid = [command for command in self._commands if not isinstance(command, Start | Exclude)]
            self._commands = deque([Start(*self._who, self._excluded), *unsaid])
            self._orders.forget()
            self._roll.forget()
            self._addresses, self._told = {}, None

    def _converse(self, line: Line[News]) -> None:
        """Sends and receives until the other side is gone (EOFError, ConnectionError), or silent for too long."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._doorbell, selectors.EVENT_READ)
            selector.register(line, selectors.EVENT_READ)
            silent = 0.0
            while silent < SILENT:
                full = self._send(line)
                selector.modify(line, selectors.EVENT_READ | (selectors.EVENT_WRITE if full else 0))
                began = time.monotonic()
                ready = {key.fileobj for key, _ in selector.select(1.0)}
                # What was waited counts, not the clock: it may have been this process that stood still.
                waited = min(time.monotonic() - began, 1.0)
                if self._doorbell in ready:
                    os.eventfd_read(self._doorbell)
                silent = 0.0 if self._receive(line) else silent + waited
        self._logged(Log("error", "the data plane says nothing and is killed", {"seconds": str(SILENT)}))

    def _send(self, line: Line[News]) -> bool:
        """Says what there is to say; True if there is more than fits now."""
        with self._lock:
            while self._commands:
                if not line.send(self._commands[0]):
                    return True
                self._commands.popleft()
            while self._orders or self._roll:
                if not self._send_part(line):
                    return True
        return False

    def _send_part(self, line: Line[News]) -> bool:
        # The roll first: who ranks before whom means nothing without it.
        peers, gone = self._roll.part()
        orders, closed = ((), ()) if self._roll else self._orders.part()
        rest = self._orders.size + self._roll.size - len(orders) - len(closed) - len(peers) - len(gone)
        if not line.send(Update(orders, closed, peers, gone, more=rest > 0)):
            return False
        self._orders.said(len(orders), len(closed))
        self._roll.said(len(peers), len(gone))
        return True

    def _receive(self, line: Line[News]) -> bool:
        """Takes all that has come; says whether there was anything."""
        found = False
        while (news := line.receive()) is not None:
            found = True
            self._last_heard = time.monotonic()
            self._take(news)
        return found

    def _take(self, news: News) -> None:
        if isinstance(news, Log):
            self._logged(news)
        elif isinstance(news, Seen):
            self._seen = news
        else:
            with self._lock:
                self._addresses.update((address.address, address) for address in news.report.addresses)
                for address in news.ended:
                    self._addresses.pop(address, None)
                if not news.more:
                    self._told = news.report
            if not news.more:
                self._heard()


def spawn(end: int) -> "subprocess.Popen[bytes]":
    """Starts a data plane that speaks on this descriptor. In a session of its own: Ctrl-C is control's to act upon."""
    import subprocess  # Here and not above: the data plane imports this module, and never needs it.

    command = [sys.executable, "-m", "lbctl_l2.dataplane", str(end)]
    return subprocess.Popen(command, pass_fds=[end], stdin=subprocess.DEVNULL, start_new_session=True)


def ended(process: "subprocess.Popen[bytes]") -> int:
    """The exit code of a process that has closed its end; one that does not end then is killed."""
    import subprocess

    try:
        return process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
