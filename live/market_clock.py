"""What time it is where the data come from.

On a real exchange that is the wall clock's time. An exchange that plays recorded data has a time of
its own, at a pace of its own: whoever lives by the wall clock would take its bars for years old.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from nautilus_trader.common import DataActor, DataActorConfig
from nautilus_trader.model import ActorId, InstrumentId

from catalog.timestamps import NS_PER_SECOND

SAME_TIME_NS = 3_600 * NS_PER_SECOND
"""A market whose time is no further from ours than this lives by the wall clock."""


def wall_clock() -> int:
    """Return the wall clock's time, UTC nanoseconds."""
    return time.time_ns()


class MarketClock:
    """The time of a market that plays recorded data, interpolated between its stamps.

    It never goes back, and runs ahead of the newest stamp at the market's pace, so that data that
    stay away are seen to be old.

    Parameters
    ----------
    ts : int
        The market's time now, UTC nanoseconds.
    speed : float or None
        Seconds of data in a second of the wall clock; None where it is not known: then time only
        passes with the data.
    monotonic : callable
        Nanoseconds of a clock that only goes forward.
    """

    def __init__(
        self, ts: int, speed: float | None, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.speed = speed
        self._monotonic = monotonic
        self._ts = ts
        self._least = ts
        self._seen_at = monotonic()

    def newest(self) -> int:
        """Return the newest stamp that was seen, UTC nanoseconds."""
        return self._ts

    def seen(self, ts: int) -> None:
        """Take note of the stamp of a record that has just come."""
        if ts > self._ts:
            # Never back: interpolation may have run ahead of the stamps.
            self._least = max(self._least, self())
            self._ts, self._seen_at = ts, self._monotonic()

    def __call__(self) -> int:
        """Return the market's time now, UTC nanoseconds."""
        if self.speed is None:
            return self._ts
        ahead = round((self._monotonic() - self._seen_at) * self.speed)
        return max(self._least, self._ts + ahead)


def clock_for(market_ns: int, speed: float | None) -> MarketClock | None:
    """Return the clock of a market that says what time it is; None where it is the wall clock's."""
    if abs(market_ns - wall_clock()) <= SAME_TIME_NS:
        return None
    return MarketClock(market_ns, speed)


class ClockTap(DataActor):
    """Tell a market's clock the stamps of quotes and mark prices; added before whoever asks it.

    Parameters
    ----------
    clock : MarketClock
        Is told.
    instruments : sequence of str
        Whose records.
    """

    def __new__(cls, clock: MarketClock, instruments: Sequence[str]) -> Self:
        """Create the native part, whose own constructor refuses our arguments."""
        return super().__new__(cls)

    def __init__(self, clock: MarketClock, instruments: Sequence[str]) -> None:
        super().__init__(DataActorConfig(actor_id=ActorId("CLOCK-TAP-001")))
        self._clock = clock
        self._instruments = tuple(InstrumentId.from_str(name) for name in instruments)

    def on_start(self) -> None:
        """Subscribe."""
        for one in self._instruments:
            self.subscribe_quotes(one)
            self.subscribe_mark_prices(one)

    def on_quote(self, quote: Any) -> None:
        """Take a stamp."""
        self._clock.seen(quote.ts_event)

    def on_mark_price(self, mark_price: Any) -> None:
        """Take a stamp."""
        self._clock.seen(mark_price.ts_event)
