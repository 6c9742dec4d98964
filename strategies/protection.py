"""What protects a position: its stop is sent when it opens and taken back when it ends.

An order that protects only ever reduces. It is replaced rather than modified, because exchanges
do not modify stops: the new one is sent first, and the old one is taken back only once the new one
is accepted, so that a position is never naked. Where a replacement is refused, the old one stays
until the position is closed at the market.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from catalog.timestamps import NS_PER_SECOND
from strategies.execution import BUY, SELL, Side, stop_trigger
from strategies.order_desk import OrderDesk
from strategies.policy import STOP_LOSS, STOP_REFUSED
from strategies.recorder import FINAL_STATUSES, RunRecorder


@dataclass(slots=True)
class _Exit:
    """One sort of exit of one position: its orders from the oldest that may still be alive on."""

    sent: list[str]
    trigger: float
    reason: str


@dataclass(slots=True)
class _Exits:
    """What protects one position: `side` is that of its exits, `quantity` what they cover."""

    side: Side
    quantity: float
    stop: _Exit = field(default_factory=lambda: _Exit([], math.nan, STOP_LOSS))


class Protection:
    """The stops of one strategy's positions.

    Parameters
    ----------
    desk : OrderDesk
        Where orders leave, and what is under way.
    recorder : RunRecorder
        Holds the ledger and the orders.
    """

    def __init__(self, desk: OrderDesk, recorder: RunRecorder) -> None:
        self._desk = desk
        self._recorder = recorder
        self._exits: dict[str, _Exits] = {}
        self._named: dict[str, int] = {}

    def opened(self, name: str, ts: int) -> None:
        """Protect a new position as the decision that opened it asked for."""
        state = self._desk.states[name]
        if math.isnan(state.stop_frac):
            return
        position = self._recorder.ledger.positions[name]
        side = SELL if position.quantity > 0.0 else BUY
        exits = self._exits[name] = _Exits(side, abs(position.quantity))
        exits.stop.trigger = stop_trigger(
            side, position.average_open, state.stop_frac, state.terms.tick
        )
        self._send(name, ts, exits, state.since)

    def resize(self, name: str, ts: int) -> None:
        """Cover what is held of an instrument now, at the same triggers.

        To be called after every fill that may have changed the size of an open position. Nothing
        is done for a position that is gone, has no stop, or is covered already.

        Parameters
        ----------
        name : str
            Instrument.
        ts : int
            Of the fill, UTC nanoseconds.
        """
        exits = self._exits.get(name)
        held = self._recorder.ledger.quantity(name)
        if exits is None or held * exits.side >= 0.0 or abs(held) == exits.quantity:
            return
        exits.quantity = abs(held)
        self._send(name, ts, exits, ts)

    def accepted(self, order_id: str) -> None:
        """Take back what an order that the exchange now has replaces."""
        row = self._recorder.orders.get(order_id)
        exits = None if row is None else self._exits.get(row.instrument_id)
        if exits is None or order_id not in exits.stop.sent:
            return
        place = exits.stop.sent.index(order_id)
        older, exits.stop.sent = exits.stop.sent[:place], exits.stop.sent[place:]
        self._take_back(older)

    def closed(self, name: str) -> None:
        """Take back what protected a position that something else closed."""
        exits = self._exits.pop(name, None)
        if exits is not None:
            self._take_back(exits.stop.sent)

    def refused(self, order_id: str, ts: int) -> None:
        """Close the position at the market whose stop was refused."""
        row = self._recorder.orders[order_id]
        exits = self._exits.get(row.instrument_id)
        if exits is None or order_id not in exits.stop.sent:
            return
        exits.stop.sent.remove(order_id)
        held = self._recorder.ledger.quantity(row.instrument_id)
        if held != 0.0 and not self._desk.states[row.instrument_id].under_way:
            self._desk.market("F", row.instrument_id, ts, -held, STOP_REFUSED)

    def _send(self, name: str, ts: int, exits: _Exits, named: int) -> None:
        """Send a stop as `exits` has it; its identifier carries a time that no other has."""
        named = max(named, self._named.get(name, 0) + NS_PER_SECOND)
        self._named[name] = named
        quantity, stop = exits.side * exits.quantity, exits.stop
        stop.sent.append(self._desk.stop(name, ts, quantity, stop.trigger, stop.reason, named))

    def _take_back(self, order_ids: list[str]) -> None:
        for one in order_ids:
            if self._recorder.orders[one].status not in FINAL_STATUSES:
                self._desk.cancel(one)
