"""What a paper exchange sees of a real feed beside bars: quotes, and the passing of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from nautilus_trader.common import DataActor, DataActorConfig
from nautilus_trader.model import ActorId, QuoteTick

from live.paper import PaperExecutionClient

_TIMER = "paper-clock"
_TICK_NS = 20_000_000
_QUIET_NS = 500_000_000
"""Without a quote for so long, what was sent arrives by the wall clock; an alarm about positions
without their stops comes after two seconds of it."""


class LatePaper:
    """A paper exchange that is made with the node, for whoever is made before it.

    Attributes
    ----------
    client : PaperExecutionClient or None
        Set once it is there.
    """

    def __init__(self) -> None:
        self.client: PaperExecutionClient | None = None

    def on_record(self, record: Any) -> None:
        """Show it a record."""
        assert self.client is not None, "records come after the node is built"
        self.client.on_record(record)


class Quiet:
    """How long nothing has come, for whoever looks at each tick.

    Time in which nobody could look does not count: what came in it has not been seen yet.

    Parameters
    ----------
    monotonic : callable
        Nanoseconds of a clock that only goes forward.
    """

    def __init__(self, monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic = monotonic
        self.heard()

    def heard(self) -> None:
        """Begin again: something has come."""
        self._nanos, self._looked = 0, self._monotonic()

    def look(self) -> int:
        """Return for how long nothing has come, nanoseconds."""
        now = self._monotonic()
        self._nanos += min(now - self._looked, 2 * _TICK_NS)
        self._looked = now
        return self._nanos


class PaperQuotes(DataActor):
    """Show a paper exchange the quotes of its instruments, and let time pass for its orders.

    Parameters
    ----------
    instruments : sequence of Nautilus instruments
        What is traded.
    paper : LatePaper
        Who is shown.
    now : callable
        The time of the data, UTC nanoseconds.
    seen : callable or None
        Told the stamp of each quote where the data have a time of their own; quotes then count as
        of that stamp, and time passes with them, or where none comes for half a second. None where
        it is the wall clock's.
    on_error : callable
        Told an exception, which the node would only log.
    """

    def __new__(cls, *arguments: Any) -> Self:
        """Create the native part, whose own constructor refuses our arguments."""
        return super().__new__(cls)

    def __init__(
        self,
        instruments: Sequence[Any],
        paper: LatePaper,
        now: Callable[[], int],
        seen: Callable[[int], None] | None,
        on_error: Callable[[BaseException], None],
    ) -> None:
        super().__init__(DataActorConfig(actor_id=ActorId("PAPER-QUOTES-001")))
        self._instruments = tuple(instruments)
        self._paper = paper
        self._now = now
        self._seen = seen
        self._on_error = on_error
        self._quiet = Quiet()

    def on_start(self) -> None:
        """Subscribe."""
        for one in self._instruments:
            self.subscribe_quotes(one.id)
        self.clock.set_timer_ns(_TIMER, _TICK_NS, callback=self._on_timer)

    def on_quote(self, quote: Any) -> None:
        """Show a quote; what it fills is filled now."""
        self._quiet.heard()
        try:
            if self._seen is not None:
                self._seen(quote.ts_event)
                quote = _at(quote, quote.ts_event)
            self._paper.on_record(quote)
        except Exception as error:
            self._on_error(error)
            raise

    def _on_timer(self, event: Any) -> None:
        """Let arrive what is due though no quote comes."""
        client = self._paper.client
        if client is None:
            return
        due = client.next_due()
        until = self._arrived(due)
        if due > until:
            return
        try:
            client.on_clock(until)
        except Exception as error:
            self._on_error(error)
            raise

    def _arrived(self, due: int) -> int:
        """Return up to when what was sent has arrived, UTC nanoseconds; the next is due at `due`.

        Played data say nothing between two bars: what is sent meanwhile is there before the next.
        """
        if self._seen is None:
            return self._now()
        return due if self._quiet.look() >= _QUIET_NS else 0


def _at(quote: Any, ts: int) -> QuoteTick:
    sizes = (quote.bid_size, quote.ask_size)
    return QuoteTick(quote.instrument_id, quote.bid_price, quote.ask_price, *sizes, ts, ts)
