"""The thread that keeps a node's Lease: renews it, gives addresses away for balance, and sees who has fallen silent.

It also writes the last state to disk. Whatever it waits for, nobody who answers for an address waits for it.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from lbctl.errors import LbctlError
from lbctl.model import IPAddress
from lbctl_l2 import because, leases
from lbctl_l2.election import Move
from lbctl_l2.state import File, State
from lbctl_l2.tidings import Tidings
from lbctl_l2.world import World

log = logging.getLogger(__name__)

TICK = 2.0
"""Seconds between two looks at whether anybody fell silent."""
HASTE = 1.0
"""Seconds between two writes of the Lease, at least."""
GATHER = 0.2
"""Seconds that news are gathered before they are written: by half of them, others would elect wrongly for the rest."""
GIVING = 30.0
"""Seconds that somebody has to take over what was given to him; then it stays where it is."""
PATIENCE = 600.0
"""Seconds until it is given away again."""
RELEASE = 3.0
"""Seconds that giving the Lease back may take."""


class Keeper:
    """One per node.

    moves    one round towards balance: what of it is ours to give
    check    called before each renewal: what is wrong here?
    look     called at every turn: has anybody fallen silent? It says in how many seconds to look again, at the latest
    tidy     called after each renewal: is there anything left of nodes that are gone?
    """

    def __init__(
        self,
        lease: leases.Lease,
        observed: leases.Observed,
        tidings: Tidings,
        file: File,
        world: World,
        *,
        moves: Callable[[], Sequence[Move]],
        check: Callable[[], None],
        look: Callable[[], float],
        tidy: Callable[[], None],
    ) -> None:
        self._lease, self._observed, self._tidings, self._file, self._world = lease, observed, tidings, file, world
        self._moves, self._check, self._look, self._tidy = moves, check, look, tidy
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self._unwritten: deque[State] = deque(maxlen=1)
        self._gives: dict[IPAddress, tuple[str, float]] = {}
        self._declined: dict[IPAddress, float] = {}
        self._failing = False
        self._due = self._may = self._next_look = 0.0
        self._pending = False
        self._said: Mapping[str, str] = {}

    @property
    def gives(self) -> Mapping[IPAddress, str]:
        """What others are to take over, as it is in the Lease, or about to be."""
        return {address: heir for address, (heir, _) in self._gives.items()}

    @property
    def alive(self) -> bool:
        return self._thread.ident is None or self._thread.is_alive() or self._stopped.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No new renewal comes after this. One under way may hang in a silent API server: nobody waits long for it."""
        self._stopped.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(1.0)

    def keep(self, state: State) -> None:
        """Write this to disk soon."""
        self._unwritten.append(state)
        self._wake.set()

    def hurry(self) -> None:
        """There may be something new to say."""
        if self._annotations() != self._said:
            if not self._pending:
                self._may = max(self._may, self._world.monotonic() + GATHER)
            self._pending = True
            self._wake.set()

    def release(self) -> None:
        """Give the Lease back; a silent API server is waited for no longer than `RELEASE`."""
        last = threading.Thread(target=self._release, name="lease-release", daemon=True)
        last.start()
        last.join(RELEASE)

    def _release(self) -> None:
        try:
            self._lease.release()
        except LbctlError as error:
            log.warning("the Lease could not be given back", extra={"error": str(error)})

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait(self.patience())
            self._wake.clear()
            if not self._stopped.is_set():
                self.turn(self._world.monotonic())
        self._write()

    def patience(self) -> float:
        now = self._world.monotonic()
        waits = [TICK, self._due - now, self._next_look - now]
        if self._annotations() != self._said:
            waits.append(self._may - now)
        return max(min(waits), 0.0)

    def turn(self, now: float) -> None:
        self._write()
        if now >= self._due:
            self._check()
        if now >= self._due or self._tidings.founds:
            self._balance(now)
        annotations = self._annotations()
        if now >= self._due or (annotations != self._said and now >= self._may):
            self._renew(annotations, now)
        self._next_look = now + self._look()

    def _renew(self, annotations: Mapping[str, str], now: float) -> None:
        self._may, self._pending = now + HASTE, False
        try:
            self._lease.renew(annotations)
        except LbctlError as error:
            if not self._failing:
                log.warning("the Lease cannot be renewed: announcing goes on", extra={"error": str(error)})
            self._failing, self._due, self._may = True, now + 2 * HASTE, now + 2 * HASTE
            return
        if self._failing:
            log.info("the Lease is renewed again")
        self._failing, self._said, self._due = False, annotations, now + leases.RENEWED
        self._observed.reached(self._world.monotonic())
        self._tidy()

    def _annotations(self) -> Mapping[str, str]:
        return self._tidings.annotations(self.gives)

    def _balance(self, now: float) -> None:
        """One round: what is ours to give. What nobody took within its time stays here for a while."""
        held = self._tidings.listed()
        late = {address for address, (_, until) in self._gives.items() if now >= until and address in held}
        self._gives = {a: entry for a, entry in self._gives.items() if a in held and a not in late}
        self._declined = {address: until for address, until in self._declined.items() if until > now}
        self._declined |= dict.fromkeys(late, now + PATIENCE)
        # While the API server is away, what is known of the others is old.
        found = self._moves() if not self._failing else ()
        mine = held.keys() - self._declined.keys() - self._gives.keys()
        fresh = {move.address: (move.new, now + GIVING) for move in found if move.address in mine}
        self._gives = {**self._gives, **fresh}
        if fresh:
            named = because.few(fresh)
            to = ",".join(sorted({heir for heir, _ in fresh.values()}))
            log.info("gives addresses away for balance", extra={"number": len(fresh), "addresses": named, "to": to})

    def _write(self) -> None:
        """A disk that is full costs a log line, not an announcement."""
        try:
            while self._unwritten:
                self._file.write(self._unwritten.pop())
        except OSError as error:
            log.warning("the last state cannot be written", extra={"error": str(error)})
