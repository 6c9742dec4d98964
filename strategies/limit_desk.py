"""Decisions that are sent as limit orders: how long they wait, and what follows.

An entry or exit by decision waits at its limit. What ends the waiting:

- It is complete.
- `timeout_bars` bars of its instrument have closed since it was sent, or one in which it filled in
  part: the rest is taken back, as that of a market order is. The rest of an exit goes to the market
  at once: both only reduce, so they cannot do too much together. The rest of an entry goes to the
  market with the next decision that still wants its side, after the exchange has said what had
  filled: a market order that leaves together with the cancel would double the position where the
  next open gaps through the limit.
- Of an entry: a decision no longer wants its side. It is taken back at once.
- It is worth less than the exchange's minimum at its limit: it goes to the market at once.
- It is post-only and would have taken, so the exchange refuses it: it counts as timed out.
- Something else closes the position that it adds to or reduces, or the risk guard flattens.

While it waits nothing else is decided. An exit, once decided, is carried through. A reversal is an
exit; the other side is entered by a decision after it. Bars are counted by the stamps of data, so
replay and live do the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from strategies.execution import BUY, SELL, InstrumentTerms, exact_decimal
from strategies.limit_orders import QUANTITY_DECIMALS, LimitStyle, limit_price
from strategies.order_desk import Intent, OrderDesk
from strategies.policy import LIMIT_WITHDRAWN
from strategies.recorder import OrderRow, RunRecorder
from strategies.snapshots import LimitsSnapshot, MissedSnapshot, WaitingSnapshot

if TYPE_CHECKING:
    from strategies.guard_desk import GuardDesk


@dataclass(slots=True)
class _Sent:
    """A limit order under way: bars of its instrument that have closed since, and its end.

    `missed` says that the rest of it is to go to the market.
    """

    row: OrderRow
    bars: int = 0
    missed: bool = False


class _Missed(NamedTuple):
    """What a limit left undone: its order, and what had not filled."""

    row: OrderRow
    left: float


class LimitDesk:
    """What one strategy's decisions send, in the profile's order style.

    Parameters
    ----------
    style : LimitStyle or None
        Offset, time-out, post-only; None for market orders.
    desk : OrderDesk
        Where orders leave, and what is under way.
    recorder : RunRecorder
        Holds the ledger and the orders.
    """

    def __init__(self, style: LimitStyle | None, desk: OrderDesk, recorder: RunRecorder) -> None:
        self._style = style
        self._desk = desk
        self._recorder = recorder
        self._sent: dict[str, _Sent] = {}
        self._missed: dict[str, _Missed] = {}

    def snapshot(self) -> LimitsSnapshot:
        """Return what waits, and what was missed."""
        sent = {
            name: WaitingSnapshot(one.row.client_order_id, one.bars, one.missed)
            for name, one in self._sent.items()
        }
        missed = {
            name: MissedSnapshot(one.row.client_order_id, one.left)
            for name, one in self._missed.items()
        }
        return LimitsSnapshot(sent, missed)

    def restore(self, snapshot: LimitsSnapshot) -> None:
        """Take over the limits of an earlier process, whose orders the recorder has already."""
        orders = self._recorder.orders
        self._sent = {
            name: _Sent(orders[one.client_order_id], one.bars, one.missed)
            for name, one in snapshot.sent.items()
        }
        self._missed = {
            name: _Missed(orders[one.client_order_id], one.left)
            for name, one in snapshot.missed.items()
        }

    def wanted(self) -> set[str]:
        """Return the orders that something here still refers to."""
        rows = [one.row for one in self._sent.values()]
        rows += [one.row for one in self._missed.values()]
        return {row.client_order_id for row in rows}

    def send(self, intent: Intent) -> str:
        """Send what a decision wants: at the market, or as a limit unless one was missed before.

        Returns
        -------
        str
            The order's identifier.
        """
        if self._style is None:
            return self._desk.send(intent)
        name, side = intent.instrument_id, BUY if intent.quantity > 0.0 else SELL
        missed = self._missed.get(name)
        if missed is not None and missed.row.side == side:
            if intent.kind == "E":
                del self._missed[name]
            return self._desk.send(intent._replace(ts_decided=missed.row.ts_decided))
        self._missed.pop(name, None)
        terms = self._desk.states[name].terms
        limit = limit_price(side, intent.price, self._style.offset_bps, terms.tick)
        if intent.kind == "E" and not _large_enough(abs(intent.quantity), limit, terms):
            # Worth enough at the close, but not at a limit below it: an exchange refuses it.
            return self._desk.send(intent)
        identity = self._desk.limit(intent, limit, post_only=self._style.post_only)
        self._sent[name] = _Sent(self._recorder.orders[identity])
        return identity

    def entry_waiting(self, name: str) -> OrderRow | None:
        """Return the entry that waits for an instrument; None if anything else is under way."""
        one = self._sent.get(name)
        if one is None or one.row.reduce_only or one.row.ts_cancel:
            return None
        alone = self._desk.states[name].under_way == {one.row.client_order_id}
        return one.row if alone else None

    def on_bar(self, name: str, ts: int) -> None:
        """Count a bar of an instrument, and end the waiting of a limit whose time is over.

        Parameters
        ----------
        name : str
            Instrument.
        ts : int
            Close of the bar, UTC nanoseconds; what the bar filled is known.
        """
        one = self._sent.get(name)
        if one is None or self._style is None or one.row.ts_cancel:
            return
        one.bars += 1
        row = one.row
        if one.bars < self._style.timeout_bars and row.filled_quantity == 0.0:
            return
        # Where a market order gets out at this close, nobody wants the rest of an entry.
        leaving = self._desk.is_leaving(name)
        one.missed = row.reduce_only or not leaving
        self._desk.withdraw(row.client_order_id, ts)
        held = self._recorder.ledger.quantity(name)
        if row.reduce_only and held != 0.0 and not leaving:
            rest = Intent("X", name, ts, -held, row.limit_price, row.reason)
            self._desk.send(rest._replace(ts_decided=row.ts_decided))

    def review(self, waiting: OrderRow, side: int, ts: int) -> str:
        """Let an entry wait, or take it back where another side is wanted; return the reason."""
        if waiting.side == side:
            return "order_pending"
        self._desk.withdraw(waiting.client_order_id, ts)
        return LIMIT_WITHDRAWN

    def would_take(self, client_order_id: str) -> None:
        """Take note that a post-only order is about to be refused because it would have taken."""
        row = self._recorder.orders[client_order_id]
        one = self._sent.get(row.instrument_id)
        if one is not None and one.row is row:
            one.missed = True

    def ended(self, row: OrderRow) -> None:
        """Take note of an order's end."""
        one = self._sent.get(row.instrument_id)
        if one is None or one.row is not row:
            return
        del self._sent[row.instrument_id]
        left = round(row.quantity - row.filled_quantity, QUANTITY_DECIMALS)
        if one.missed and left > 0.0 and row.status != "FILLED":
            self._missed[row.instrument_id] = _Missed(row, left)

    def closed(self, name: str, ts: int) -> None:
        """Take back what would add to a position that has just been closed.

        What it or an exit leaves undone ends with the position: it may be taken back only after
        this, and no later decision is about it.
        """
        self._missed.pop(name, None)
        one = self._sent.get(name)
        if one is None or one.row.ts_init >= ts:
            return
        del self._sent[name]
        if not one.row.reduce_only:
            self._desk.withdraw(one.row.client_order_id, ts)

    def held_on(
        self, name: str, ts: int, price: float, guard: GuardDesk | None
    ) -> tuple[str, float]:
        """Send to the market what an entry missed of a position that a decision holds on to.

        Parameters
        ----------
        name : str
            Instrument.
        ts : int
            Of the decision, UTC nanoseconds.
        price : float
            Last close, quote units.
        guard : GuardDesk or None
            Is shown the order first.

        Returns
        -------
        (str, float)
            The order's identifier and signed quantity; empty and 0 where nothing is sent.
        """
        missed = self._missed.pop(name, None)
        held = self._recorder.ledger.quantity(name)
        if missed is None or missed.row.reduce_only or missed.row.side * held <= 0.0:
            return "", 0.0
        row, bound_by = missed.row, missed.row.bound_by
        quantity = row.side * missed.left
        if guard is not None:
            quantity, why = guard.allowed(name, ts, quantity, price)
            bound_by = why or bound_by
        if not _large_enough(abs(quantity), price, self._desk.states[name].terms):
            return "", 0.0
        intent = Intent("E", name, ts, quantity, price, row.reason, bound_by, row.stop_frac)
        return self._desk.send(intent._replace(ts_decided=row.ts_decided)), quantity


def _large_enough(quantity: float, price: float, terms: InstrumentTerms) -> bool:
    """Return whether an exchange takes an order of this size."""
    exact = exact_decimal(quantity)
    smallest = max(terms.min_quantity, terms.step)
    return exact >= smallest and exact * exact_decimal(price) >= terms.min_notional
