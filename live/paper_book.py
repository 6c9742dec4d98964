"""What a paper exchange does with orders: pure Python, no engine, no clock of its own.

It follows the timetable in `strategies.execution`: a command takes effect one latency after it
was sent; a market order fills at the first quote of its instrument from then on; a stop or target
fills at the first quote or bar that reaches its trigger, and is refused where the market has passed
it when it arrives; a limit takes at its first quote, or rests, by `strategies.limit_orders`. A
price meets the orders that rest before those that arrive with it, so of an exit and a stop at one
open the stop trades. What arrives meets it in the order in which it was sent. What closes a
position ends what could only reduce it at once. Prices come from the same functions as the replay's
fill model.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from catalog.errors import ConfigError
from live.paper_orders import (
    PaperAccept,
    PaperCancel,
    PaperEvent,
    PaperFill,
    PaperOrder,
    PaperReject,
    in_the_market,
    place,
    reached,
    would_increase,
)
from live.paper_state import BookSnapshot, TravellingCommand
from strategies.execution import (
    ExecutionConfig,
    InstrumentTerms,
    commission,
    slipped_price,
    stop_reference,
    target_reference,
)
from strategies.impact import fill_slippage_bps, takes
from strategies.ledger import FundingRow, Ledger, LedgerFill
from strategies.limit_orders import (
    QUANTITY_DECIMALS,
    Waiting,
    is_marketable,
    maker_fill,
    taker_fill,
    trades_through,
    would_take,
)
from strategies.liquidation import is_liquidated, maintenance_margin

__all__ = [
    "PaperAccept",
    "PaperBook",
    "PaperCancel",
    "PaperEvent",
    "PaperFill",
    "PaperOrder",
    "PaperReject",
]

_NEVER = 1 << 62


class _Command(NamedTuple):
    ts_arrival: int
    number: int
    action: Literal["submit", "cancel"]
    order: PaperOrder


class PaperBook:
    """Orders, positions and cash of a paper account on one exchange.

    Parameters
    ----------
    terms : mapping of instrument id to InstrumentTerms
        Ticks and steps.
    execution : ExecutionConfig
        Fees, latency, slippage and the starting balance.

    Attributes
    ----------
    ledger : Ledger
        Cash, positions and settlements.
    filled : dict of client order id to float
        How much of each order was filled, base units.
    """

    def __init__(self, terms: dict[str, InstrumentTerms], execution: ExecutionConfig) -> None:
        self._terms = terms
        self._execution = execution
        self._travelling: dict[str, list[_Command]] = {name: [] for name in terms}
        self._markets: dict[str, list[PaperOrder]] = {name: [] for name in terms}
        self._resting: dict[str, list[PaperOrder]] = {name: [] for name in terms}
        self._taken: dict[str, dict[str, float]] = {name: {} for name in terms}
        self._known: dict[str, PaperOrder] = {}
        self._volumes = dict.fromkeys(terms, math.nan)
        self._quotes: dict[str, float] = {}
        self._prices: dict[str, float] = {}
        self._commands = 0
        self._due = _NEVER
        self.ledger = Ledger(execution.starting_balance)
        self.filled: dict[str, float] = {}

    def snapshot(self) -> BookSnapshot:
        """Return orders, positions and cash; of orders that have ended nothing is kept."""
        orders = dict(self._known)
        for row in self._travelling.values():
            orders |= {one.order.client_order_id: one.order for one in row}
        return BookSnapshot(
            ledger=self.ledger.snapshot(),
            orders=orders,
            known=tuple(self._known),
            travelling={
                name: tuple(TravellingCommand(*one[:3], one.order.client_order_id) for one in row)
                for name, row in self._travelling.items()
            },
            markets=_named(self._markets),
            resting=_named(self._resting),
            taken={name: dict(one) for name, one in self._taken.items()},
            volumes=dict(self._volumes),
            quotes=dict(self._quotes),
            prices=dict(self._prices),
            commands=self._commands,
            filled={name: one for name, one in self.filled.items() if name in orders},
        )

    def restore(self, snapshot: BookSnapshot) -> None:
        """Go on where an earlier process ended.

        Raises
        ------
        ConfigError
            If an instrument that has orders or a position is not traded any more.
        """
        orders, terms = snapshot.orders, self._terms
        gone = {*snapshot.ledger.positions, *(one.instrument_id for one in orders.values())}
        if not gone <= set(terms):
            raise ConfigError(
                f"instruments with positions or orders must be traded, "
                f"{', '.join(sorted(gone - set(terms)))} are not any more: close them with the old "
                f"profile first"
            )
        self.ledger.restore(snapshot.ledger)
        self._known = {name: orders[name] for name in snapshot.known}
        for name in terms:
            self._travelling[name] = [
                _Command(one.ts_arrival, one.number, one.action, orders[one.client_order_id])
                for one in snapshot.travelling.get(name, ())
            ]
            self._markets[name] = [orders[one] for one in snapshot.markets.get(name, ())]
            self._resting[name] = [orders[one] for one in snapshot.resting.get(name, ())]
            self._taken[name] = dict(snapshot.taken.get(name, {}))
            self._volumes[name] = snapshot.volumes.get(name, math.nan)
        self._quotes, self._prices = dict(snapshot.quotes), dict(snapshot.prices)
        self._commands, self.filled = snapshot.commands, dict(snapshot.filled)
        self._set_due()

    def submit(self, order: PaperOrder, ts_sent: int) -> None:
        """Send an order at `ts_sent`; it takes effect one latency later."""
        self._known[order.client_order_id] = order
        self._travel("submit", order, ts_sent)

    def cancel(self, client_order_id: str, ts_sent: int) -> bool:
        """Ask at `ts_sent` for an order's end; return whether there is such an order."""
        order = self._known.get(client_order_id)
        if order is None:
            return False
        self._travel("cancel", order, ts_sent)
        return True

    def _travel(self, action: Literal["submit", "cancel"], order: PaperOrder, ts_sent: int) -> None:
        self._commands += 1
        arrival = ts_sent + self._execution.latency_ns
        command = _Command(arrival, self._commands, action, order)
        self._travelling[order.instrument_id].append(command)
        self._due = min(self._due, arrival)

    def open_orders(self) -> list[PaperOrder]:
        """Return the orders that are neither filled nor cancelled."""
        return list(self._known.values())

    def is_on_its_way(self, client_order_id: str) -> bool:
        """Return whether an order was sent and has not arrived."""
        return any(
            one.action == "submit" and one.order.client_order_id == client_order_id
            for row in self._travelling.values()
            for one in row
        )

    def quote_would_act(self, instrument_id: str, price: float, ts_event: int) -> bool:
        """Return whether a quote would fill or cancel anything."""
        due = any(one.ts_arrival <= ts_event for one in self._travelling[instrument_id])
        return (
            due or bool(self._markets[instrument_id]) or self._reaches(instrument_id, price, price)
        )

    def bar_would_act(self, instrument_id: str, high: float, low: float, ts_event: int) -> bool:
        """Return whether a complete bar would fill or cancel anything."""
        due = any(one.ts_arrival <= ts_event for one in self._travelling[instrument_id])
        return due or self._reaches(instrument_id, high, low)

    def _reaches(self, instrument_id: str, high: float, low: float) -> bool:
        return any(reached(order, high, low) for order in self._resting[instrument_id])

    def on_quote(self, instrument_id: str, price: float, ts_event: int) -> list[PaperEvent]:
        """Take a quote: what rests and is passed by it fills, then what arrives."""
        self._quotes[instrument_id] = price
        events = self._arrive(instrument_id, ts_event - 1)
        previous = self._prices.get(instrument_id, math.nan)
        self._prices[instrument_id] = price
        events += self._meet(instrument_id, (price,) * 3, ts_event, previous)
        # Each command meets the price before the next arrives: what closes a position comes before
        # the cancel that was sent after it. What has waited for a price comes last: the replay
        # holds it back, and sends it once everything else of the time has left.
        for command in self._arrived(instrument_id, ts_event):
            if command.action == "submit" and command.order.trigger is None:
                events += self._first_price(command.order, price, ts_event)
            else:
                events += self._effect(command, ts_event)
        waiting, self._markets[instrument_id] = self._markets[instrument_id], []
        for order in waiting:
            events += self._first_price(order, price, ts_event)
        return events

    def _first_price(self, order: PaperOrder, price: float, ts_event: int) -> list[PaperEvent]:
        """Let an order meet its first price at the exchange."""
        if order.limit is None:
            return self._fill(order, price, ts_event)
        return self._take_limit(order, order.limit, price, ts_event)

    def on_bar(
        self, instrument_id: str, prices: tuple[float, float, float, float], ts_event: int
    ) -> list[PaperEvent]:
        """Take a complete bar's open, high, low and close: its range fills what it reached."""
        events = self._arrive(instrument_id, ts_event)
        self._prices[instrument_id] = prices[3]
        return events + self._meet(instrument_id, prices[:3], ts_event)

    def next_arrival(self) -> int:
        """Return when the next command takes effect, UTC nanoseconds; far away if none is sent."""
        return self._due

    def on_time(self, ts_event: int) -> list[PaperEvent]:
        """Let the commands take effect that arrive before a time, of all instruments.

        To be called with the time of every record, before it is taken: an instrument that pauses
        sends none of its own. What arrives with a record meets its prices first, but for the cancel
        of an order that still waits for a first price.
        """
        events: list[PaperEvent] = []
        if ts_event < self._due:
            return events
        due = [
            one
            for row in self._travelling.values()
            for one in row
            if one.ts_arrival < ts_event + self._takes_back_waiting(one)
        ]
        for name, row in self._travelling.items():
            self._travelling[name] = [one for one in row if one not in due]
        for command in sorted(due, key=lambda one: one[:2]):
            events += self._effect(command, command.ts_arrival)
        self._set_due()
        return events

    def _takes_back_waiting(self, command: _Command) -> bool:
        order = command.order
        return command.action == "cancel" and order in self._markets[order.instrument_id]

    def _set_due(self) -> None:
        times = (one.ts_arrival for row in self._travelling.values() for one in row)
        self._due = min(times, default=_NEVER)

    def on_volume(self, instrument_id: str, volume: float) -> None:
        """Take note, after `on_bar`, of what was traded in the bar: later fills are sized by it."""
        self._volumes[instrument_id] = volume
        self._taken[instrument_id].clear()

    def liquidation(self) -> str | None:
        """Return in words why the exchange would take all positions away, None if it would not.

        To be asked once everything of a time is in: each position is worth its last quote.
        """
        if not self._execution.liquidation or not self.ledger.positions:
            return None
        equity, needed = self.ledger.cash, 0.0
        for name, one in self.ledger.positions.items():
            equity += one.quantity * (self._quotes[name] - one.average_open)
            frac = float(self._terms[name].maintenance_frac)
            needed += maintenance_margin([one.quantity * one.average_open], frac)
        if not is_liquidated(equity, needed):
            return None
        return f"equity must be more than the maintenance margin {needed:.2f}, was {equity:.2f}"

    def on_mark(self, instrument_id: str, price: float) -> None:
        """Take note of the mark price, at which settlements are paid."""
        self.ledger.mark(instrument_id, price)

    def on_funding(self, instrument_id: str, rate: float, ts_event: int) -> FundingRow | None:
        """Pay a settlement at the latest mark; None when nothing is held."""
        if self.ledger.quantity(instrument_id) == 0.0:
            return None
        self.ledger.apply_funding(instrument_id, rate, ts_event)
        return self.ledger.settlements[-1]

    def _arrive(self, instrument_id: str, ts_event: int) -> list[PaperEvent]:
        events: list[PaperEvent] = []
        for command in self._arrived(instrument_id, ts_event):
            events += self._effect(command, ts_event)
        return events

    def _arrived(self, instrument_id: str, ts_event: int) -> list[_Command]:
        """Take off the way what has arrived, in the order in which it was sent."""
        row = self._travelling[instrument_id]
        if not row:
            return []
        self._travelling[instrument_id] = [one for one in row if one.ts_arrival > ts_event]
        self._set_due()
        return [one for one in row if one.ts_arrival <= ts_event]

    def _effect(self, command: _Command, ts_event: int) -> list[PaperEvent]:
        """Let a command take effect; what has no price waits for the next quote."""
        order = command.order
        if command.action == "cancel":
            return [PaperCancel(order, ts_event)] if self._remove(order) else []
        if order.trigger is not None:
            return [self._rest(order, command.ts_arrival)]
        self._markets[order.instrument_id].append(order)
        return []

    def _rest(self, order: PaperOrder, ts_event: int) -> PaperEvent:
        """Take a stop or target in, or refuse it as the engine would, in its own words."""
        name = order.instrument_id
        if order.reduce_only and order.side * self.ledger.quantity(name) >= 0.0:
            reason = would_increase(order)
        elif name in self._prices and reached(order, self._prices[name], self._prices[name]):
            reason = in_the_market(order, self._prices[name], self._terms[name])
        else:
            self._resting[name].append(order)
            return PaperAccept(order, ts_event)
        self._known.pop(order.client_order_id, None)
        return PaperReject(order, ts_event, reason)

    def _remove(self, order: PaperOrder) -> bool:
        """Forget an open order; False when it ended before."""
        if self._known.pop(order.client_order_id, None) is None:
            return False
        for queue in (self._markets, self._resting):
            if order in queue[order.instrument_id]:
                queue[order.instrument_id].remove(order)
        return True

    def _take_limit(
        self, order: PaperOrder, limit: float, price: float, ts_event: int
    ) -> list[PaperEvent]:
        """Take a limit order in at its first quote: refuse it, let it take, let it rest."""
        terms = self._terms[order.instrument_id]
        takes_now = is_marketable(order.side, limit, price)
        refusal = None
        if order.reduce_only and self._left(order) == 0.0:
            refusal = PaperReject(order, ts_event, would_increase(order))
        elif order.post_only and takes_now:
            why = would_take(order.side, limit, price, terms.tick)
            refusal = PaperReject(order, ts_event, why, would_take=True)
        if refusal is not None:
            self._known.pop(order.client_order_id, None)
            return [refusal]
        self._resting[order.instrument_id].append(order)
        events: list[PaperEvent] = [PaperAccept(order, ts_event)]
        if takes_now:
            events += self._fill_limit(order, limit, price, ts_event)
        return events

    def _left(self, order: PaperOrder) -> float:
        """Return what an order is still for: one that only reduces is for what is held."""
        if order.reduce_only:
            return max(0.0, -order.side * self.ledger.quantity(order.instrument_id))
        filled = self.filled.get(order.client_order_id, 0.0)
        return round(order.quantity - filled, QUANTITY_DECIMALS)

    def _fill_limit(
        self, order: PaperOrder, limit: float, price: float | None, ts_event: int
    ) -> list[PaperEvent]:
        """Fill a limit order's part of the bar: as a taker at a price, or resting (None)."""
        name, execution = order.instrument_id, self._execution
        taken = self._taken[name].get(order.client_order_id, 0.0)
        waiting = Waiting(order.side, limit, self._left(order), taken)
        volume, terms = self._volumes[name], self._terms[name]
        if price is None:
            found, fee_bps = maker_fill(waiting, volume, execution, terms), execution.maker_fee_bps
        else:
            found = taker_fill(waiting, price, volume, execution, terms)
            fee_bps = execution.taker_fee_bps
        if found.quantity == 0.0:
            return []
        self._taken[name][order.client_order_id] = round(taken + found.quantity, QUANTITY_DECIMALS)
        left = round(waiting.left - found.quantity, QUANTITY_DECIMALS)
        fee = commission(found.quantity, found.price, fee_bps)
        self._book(order, found.quantity, found.price, fee, ts_event)
        if left == 0.0:
            self._remove(order)
        fill = PaperFill(order, *found, fee, ts_event, left, price is None)
        return [fill, *self._end_with_position(name, ts_event)]

    def _book(
        self, order: PaperOrder, quantity: float, price: float, fee: float, ts_event: int
    ) -> None:
        self.ledger.apply_fill(
            LedgerFill(ts_event, order.instrument_id, order.side, quantity, price, fee, "")
        )
        filled = self.filled.get(order.client_order_id, 0.0) + quantity
        self.filled[order.client_order_id] = round(filled, QUANTITY_DECIMALS)

    def _meet(
        self,
        instrument_id: str,
        path: tuple[float, float, float],
        ts_event: int,
        previous: float = math.nan,
    ) -> list[PaperEvent]:
        open_, high, low = path
        hit = [one for one in self._resting[instrument_id] if reached(one, high, low)]
        # The path inside a bar is open, high, low, close: what waits for a higher price comes
        # first. At one price the engine looks at what buys, then at what sells, and on each side
        # at limits, then at the rest, of which what is nearer comes before what is further away.
        hit.sort(key=place)
        events: list[PaperEvent] = []
        for order in hit:
            if order not in self._resting[instrument_id]:
                continue
            if order.limit is not None:
                # What the last close had passed has had its part.
                if not trades_through(order.side, order.limit, previous, previous):
                    events += self._fill_limit(order, order.limit, None, ts_event)
                continue
            assert order.trigger is not None
            self._resting[instrument_id].remove(order)
            find = target_reference if order.is_target else stop_reference
            events += self._fill(order, find(order.side, order.trigger, open_), ts_event)
        return events

    def _end_with_position(self, instrument_id: str, ts_event: int) -> list[PaperEvent]:
        """Cancel what could only reduce a position that is gone."""
        events: list[PaperEvent] = []
        if self.ledger.quantity(instrument_id) == 0.0:
            for order in [one for one in self._resting[instrument_id] if one.reduce_only]:
                self._remove(order)
                events.append(PaperCancel(order, ts_event))
        return events

    def _fill(self, order: PaperOrder, reference: float, ts_event: int) -> list[PaperEvent]:
        self._known.pop(order.client_order_id, None)
        quantity = order.quantity
        if order.reduce_only:
            # What rests grows and shrinks with the position; what arrives is no larger than it.
            held = self._left(order)
            quantity = held if order.trigger is not None else min(quantity, held)
            if quantity == 0.0:
                return [PaperReject(order, ts_event, would_increase(order))]
        terms, execution = self._terms[order.instrument_id], self._execution
        volume = self._volumes[order.instrument_id]
        cancelled: list[PaperEvent] = []
        if order.immediate:
            asked = quantity
            quantity = takes(asked, volume, execution.max_participation, terms.step)
            if quantity < asked:
                cancelled.append(PaperCancel(order, ts_event))
        slippage = fill_slippage_bps(execution, quantity, volume)
        price = slipped_price(order.side, reference, slippage, terms.tick)
        fee = commission(quantity, price, execution.taker_fee_bps)
        self._book(order, quantity, price, fee, ts_event)
        fill = PaperFill(order, quantity, price, reference, fee, ts_event)
        return [fill, *cancelled, *self._end_with_position(order.instrument_id, ts_event)]


def _named(orders: dict[str, list[PaperOrder]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(one.client_order_id for one in row) for name, row in orders.items()}
