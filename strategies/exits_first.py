"""A reversal at an exchange: the entry leaves once the exchange has answered the exit.

A reversal is an exit and an entry, decided at one close. A replay fills them in the order in which
they were sent. Two messages to an exchange may arrive in the other order: the entry would then
close the position, the exit would be refused for there is nothing to reduce, and the strategy would
be flat where it wanted the other side. So the entry waits for the first word about the exit, which
is that of its acceptance and comes long before the next bar: both still meet the same price, and
fill in the replay's order. An exit that ends without having closed the position takes the entry
with it, and the next close decides anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from strategies.recorder import RunRecorder

if TYPE_CHECKING:
    from strategies.order_desk import OrderDesk

UNANSWERED = ("INITIALIZED", "SUBMITTED")
"""The statuses of an order of which the exchange has not said a word."""

type Turn = Literal["leave", "wait", "end"]


def turn_of(client_order_id: str, desk: OrderDesk, recorder: RunRecorder) -> Turn:
    """Return whether an order that is next may leave, must wait, or is to end where it is.

    Parameters
    ----------
    client_order_id : str
        Of an order that has not left.
    desk : OrderDesk
        What is under way.
    recorder : RunRecorder
        Holds the ledger and the orders.
    """
    row = recorder.orders[client_order_id]
    if row.reduce_only:
        return "leave"
    if row.ts_cancel:
        return "end"
    under_way = (recorder.orders[one] for one in desk.states[row.instrument_id].under_way)
    exits = [one.status for one in under_way if one.reduce_only]
    if any(status in UNANSWERED for status in exits):
        return "wait"
    is_opposite = row.side * recorder.ledger.quantity(row.instrument_id) < 0.0
    return "end" if is_opposite and not exits else "leave"
