"""Whether this machine's clock is the exchange's: one that is off has orders refused, stops too.

Requests are stamped with our time. The reference venue refuses those that are a second ahead of its
clock or five behind, and the engine's client does not correct for it. So an engine does not start
with such a clock, and one that finds it while it runs says so and opens nothing new: its stop and
its way out might be refused as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from adapters.accounts import AccountReader
from adapters.errors import AdapterError
from catalog.errors import LeviBotError
from catalog.timestamps import NS_PER_SECOND
from strategies.guard_orders import Refused

AHEAD_SECS, BEHIND_SECS = 0.9, 4.0
"""How far our clock may be ahead of the exchange's, and behind; a little less than the venue's own
limits, for the way there."""
PERIOD_SECS, AGAIN_SECS = 60.0, 5.0
"""Between two questions, where the clock is right and where it is not, seconds."""
_SLOW_SECS = 1.0
"""A question that took longer tells nothing, seconds."""


def clock_fault(account: AccountReader) -> str:
    """Return in words how the clock is wrong; "" where it is right.

    Raises
    ------
    AdapterError
        If the exchange cannot be asked.
    """
    began, before = time.monotonic(), time.time_ns()
    theirs = account.server_ns()
    took = time.monotonic() - began
    off = (before - theirs) / NS_PER_SECOND + took / 2.0
    if took > _SLOW_SECS or -BEHIND_SECS <= off <= AHEAD_SECS:
        return ""
    way = "ahead" if off > 0.0 else "behind"
    return (
        f"this machine's clock must be at most {AHEAD_SECS:g} s ahead of the exchange's and "
        f"{BEHIND_SECS:g} s behind, is {abs(off):.1f} s {way}: set it by NTP"
    )


def require_clock(account: AccountReader) -> None:
    """Refuse to start with a wrong clock.

    Raises
    ------
    AdapterError
        If it is wrong, which NTP may mend in a while, or the exchange cannot be asked.
    """
    fault = clock_fault(account)
    if fault:
        raise AdapterError(fault)


class ClockCheck:
    """Compares the clocks while an engine runs.

    Parameters
    ----------
    account : AccountReader
        Asked from a thread.
    teller : Teller
        Told when the clock goes wrong, and when it is right again.

    Attributes
    ----------
    fault : str
        How the clock is wrong; "" where it is right.
    """

    def __init__(self, account: AccountReader, teller: Any) -> None:
        self.fault = ""
        self._account = account
        self._teller = teller
        self._ask_at = time.monotonic() + PERIOD_SECS
        self._thread: Callable[..., threading.Thread] = threading.Thread

    def look(self, wall_ns: int) -> None:
        """Ask when it is time; never waits."""
        clock = time.monotonic()
        if clock >= self._ask_at:
            self._ask_at = clock + PERIOD_SECS
            self._thread(target=self._ask, name="clock", daemon=True).start()

    def refused(self) -> Refused | None:
        """Return why nothing may be opened, or None."""
        return Refused("clock", self.fault) if self.fault else None

    def _ask(self) -> None:
        try:
            fault = clock_fault(self._account)
        except LeviBotError:
            # Whether it answers is watched elsewhere.
            return
        if bool(fault) != bool(self.fault):
            text = f"{fault}; nothing new is opened until it is" if fault else "it is right again"
            self._teller.event("clock", text, level="warning" if fault else "info")
        self.fault = fault
        if fault:
            self._ask_at = time.monotonic() + AGAIN_SECS
