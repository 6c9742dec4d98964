"""Whether the account's stream still speaks: trades that the account has and that nobody told.

A socket may be open, and answer, and yet nothing comes through it: the listen key was ended by
somebody else, or the exchange has lost the subscription. Prices and answers go on. What the account
is asked for is booked all the same (`live.account_watch`), some seconds late; but a stop that fills
is learnt of at the next question only, and exits are sent that have nothing to reduce. So nothing
new is opened in that state, and the connections are made new.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

from strategies.guard_orders import Refused

STREAM_SILENT = "stream_silent"
LATE_SECS = 6.0
"""How much later than a question the stream may tell a trade: a busy machine, seconds."""
STALL_SECS = 1.0
"""Looks that are further apart are those of a process that stood still between them."""
HOLD_SECS = 300.0
"""For how long nothing is opened where the stream is silent and says nothing after that."""


class StreamWatch:
    """Tells a stream that is silent from one that is late or was away for a moment. Pure.

    A trade that was learnt by asking and that the stream has not told some seconds later is missed.
    One may be of a moment in which the socket was away. Where another is learnt by asking after
    that, with not one told between them, the stream is silent: it is made new, and nothing is
    opened until it tells something, or five minutes are over. The next miss begins that again.

    Parameters
    ----------
    heard : callable
        Returns the trades of an order that the stream has told, by the exchange's names of them.
    tell : callable
        Told in words, with a level.
    renew : callable
        Makes the connections new.

    Attributes
    ----------
    fault : str
        Why nothing new may be opened; "" where the stream speaks, as far as is known.
    """

    def __init__(
        self,
        heard: Callable[[str], Collection[str]],
        tell: Callable[[str, str], None],
        renew: Callable[[], None],
    ) -> None:
        self.fault = ""
        self._heard = heard
        self._tell = tell
        self._renew = renew
        self._until = 0.0
        self._asked: dict[tuple[str, str], float] = {}
        self._missed: set[tuple[str, str]] = set()
        self._missed_at: float | None = None
        self._looked_at = self._heard_from = 0.0

    def learnt(self, order: str, trades: Iterable[str], clock: float) -> None:
        """Take note of trades of an order that were learnt by asking, at a monotonic clock."""
        # Each counts once: an order that fills in parts is asked for again and again. What the
        # stream has told of it before says nothing of now.
        known = {*self._heard(order)}
        for key in {(order, one) for one in trades if one not in known} - self._missed:
            self._asked.setdefault(key, clock)

    def told(self) -> None:
        """Take note that the stream has told something."""
        self._missed_at = None
        self._asked.clear()
        self._lift("the account's stream speaks again")

    def look(self, clock: float) -> None:
        """Judge the trades that the stream has had time to tell."""
        if clock > self._until:
            self._lift("the account's stream was made new: entries are open again")
        if clock - self._looked_at > STALL_SECS:
            # Who stood still has yet to hear what was told meanwhile.
            self._heard_from = clock + STALL_SECS
        self._looked_at = clock
        if clock < self._heard_from:
            return
        due = [key for key, at in self._asked.items() if clock - at > LATE_SECS]
        for order, trade in due:
            at = self._asked.pop((order, trade), None)
            if at is None:
                return
            if trade in self._heard(order):
                self.told()
            else:
                self._missed.add((order, trade))
                self._miss(order, at, clock)

    def _miss(self, order: str, learnt_at: float, clock: float) -> None:
        before = self._missed_at
        if before is None:
            self._missed_at = clock
            text = f"a trade of order {order} was learnt by asking, the account's stream was silent"
            self._tell(text, "warning")
        elif learnt_at > before and not self.fault:
            self._missed_at, self._until = clock, clock + HOLD_SECS
            self.fault = (
                f"the account's stream must tell of trades, that of order {order} and others were "
                "learnt by asking only"
            )
            text = "nothing new is opened until it does, and all connections are made new"
            self._tell(f"{self.fault}: {text}", "error")
            self._renew()

    def _lift(self, why: str) -> None:
        if self.fault:
            self.fault = ""
            self._tell(why, "info")

    def refused(self) -> Refused | None:
        """Return why nothing may be opened, or None."""
        return Refused(STREAM_SILENT, self.fault) if self.fault else None


def cut_connections() -> None:
    """End every TCP connection of this process as a fallen line does.

    The engine's client offers no other way to its stream, and of its sockets nobody can say which
    one is the account's. It takes such an end for what it is: within a second it is connected anew,
    with a new listen key, and bars that were missed are fetched.
    """
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            _cut(int(one.name))


def _cut(descriptor: int) -> None:
    found = socket.socket(fileno=descriptor)
    try:
        if found.family in (socket.AF_INET, socket.AF_INET6):
            found.getpeername()  # what only listens has no other end
            found.shutdown(socket.SHUT_RDWR)
    finally:
        # Whose it is closes it.
        found.detach()
