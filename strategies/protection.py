"""What protects a position: its stop is sent when it opens and taken back when it ends.

An order that protects only ever reduces. Where one is refused, the position is closed at the
market: none is left naked.
"""

from __future__ import annotations

import math

from strategies.execution import BUY, SELL, stop_trigger
from strategies.order_desk import OrderDesk
from strategies.policy import STOP_LOSS, STOP_REFUSED
from strategies.recorder import FINAL_STATUSES, RunRecorder


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

    def opened(self, name: str, ts: int) -> None:
        """Protect a new position as the decision that opened it asked for."""
        state = self._desk.states[name]
        if math.isnan(state.stop_frac):
            return
        position = self._recorder.ledger.positions[name]
        side = SELL if position.quantity > 0.0 else BUY
        trigger = stop_trigger(side, position.average_open, state.stop_frac, state.terms.tick)
        self._desk.stop(name, ts, -position.quantity, trigger, STOP_LOSS)

    def closed(self, name: str) -> None:
        """Take back what protected a position that something else closed."""
        state = self._desk.states[name]
        stop_id, state.stop_id = state.stop_id, ""
        if stop_id and self._recorder.orders[stop_id].status not in FINAL_STATUSES:
            self._desk.cancel(stop_id)

    def refused(self, order_id: str, ts: int) -> None:
        """Close the position at the market whose stop was refused."""
        row = self._recorder.orders[order_id]
        state = self._desk.states[row.instrument_id]
        held = self._recorder.ledger.quantity(row.instrument_id)
        if order_id == state.stop_id and held != 0.0:
            state.stop_id = ""
            if not state.under_way:
                self._desk.market("F", row.instrument_id, ts, -held, STOP_REFUSED)
