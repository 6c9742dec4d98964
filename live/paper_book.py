"""What a paper exchange does with orders: pure Python, no engine, no clock of its own.

It follows the timetable in `strategies.execution`: a command takes effect one latency after it
was sent; a market order fills at the first quote of its instrument from then on; a stop or target
fills at the first quote or bar that reaches its trigger, and is refused where the market has passed
it when it arrives. A price meets the orders that rest before those that arrive with it, so of an
exit and a stop at one open the stop trades. What closes a position ends its stops and targets at
once. Prices come from the same functions as the replay's fill model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from strategies.execution import (
    BUY,
    ExecutionConfig,
    InstrumentTerms,
    Side,
    commission,
    slipped_price,
    stop_is_triggered,
    stop_reference,
    target_reference,
)
from strategies.impact import fill_slippage_bps, takes
from strategies.ledger import FundingRow, Ledger, LedgerFill
from strategies.liquidation import is_liquidated, maintenance_margin
from strategies.stops import target_is_reached

_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class PaperOrder:
    """An order as the exchange knows it.

    Parameters
    ----------
    client_order_id : str
        Unique among all orders of a run.
    instrument_id : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    side : {-1, 1}
        Sells or buys.
    quantity : float
        Base units, positive.
    trigger : float or None
        Trigger price of a stop or target, quote units; None for a market order.
    reduce_only : bool
        Whether it may only bring the position closer to zero.
    immediate : bool
        Whether it fills up to the participation limit and the rest is cancelled.
    is_target : bool
        Whether the trigger is that of a target.
    """

    client_order_id: str
    instrument_id: str
    side: Side
    quantity: float
    trigger: float | None
    reduce_only: bool
    immediate: bool = False
    is_target: bool = False

    @property
    def rises(self) -> bool:
        """Whether it waits for a higher price."""
        return (self.side == BUY) != self.is_target


class PaperFill(NamedTuple):
    """An order's only fill; `reference` is before slippage, `commission` a cost, both in USDT."""

    order: PaperOrder
    quantity: float
    price: float
    reference: float
    commission: float
    ts_event: int


class PaperAccept(NamedTuple):
    """A stop or target that arrived and rests."""

    order: PaperOrder
    ts_event: int


class PaperCancel(NamedTuple):
    """An order that was taken back on request, or ended with its position."""

    order: PaperOrder
    ts_event: int


class PaperReject(NamedTuple):
    """An order that the exchange refused when it arrived or would have traded, and why."""

    order: PaperOrder
    ts_event: int
    reason: str


type PaperEvent = PaperFill | PaperAccept | PaperCancel | PaperReject


class _Command(NamedTuple):
    action: Literal["submit", "cancel"]
    order: PaperOrder
    ts_arrival: int


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
        self._stops: dict[str, list[PaperOrder]] = {name: [] for name in terms}
        self._known: dict[str, PaperOrder] = {}
        self._volumes = dict.fromkeys(terms, math.nan)
        self._quotes: dict[str, float] = {}
        self._prices: dict[str, float] = {}
        self._cancel_due = _NEVER
        self.ledger = Ledger(execution.starting_balance)
        self.filled: dict[str, float] = {}

    def submit(self, order: PaperOrder, ts_sent: int) -> None:
        """Send an order at `ts_sent`; it takes effect one latency later."""
        self._known[order.client_order_id] = order
        arrival = ts_sent + self._execution.latency_ns
        self._travelling[order.instrument_id].append(_Command("submit", order, arrival))

    def cancel(self, client_order_id: str, ts_sent: int) -> bool:
        """Ask at `ts_sent` for an order's end; return whether there is such an order."""
        order = self._known.get(client_order_id)
        if order is None:
            return False
        arrival = ts_sent + self._execution.latency_ns
        self._travelling[order.instrument_id].append(_Command("cancel", order, arrival))
        self._cancel_due = min(self._cancel_due, arrival)
        return True

    def open_orders(self) -> list[PaperOrder]:
        """Return the orders that are neither filled nor cancelled."""
        return list(self._known.values())

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
        return any(_reached(order, high, low) for order in self._stops[instrument_id])

    def on_quote(self, instrument_id: str, price: float, ts_event: int) -> list[PaperEvent]:
        """Take a quote: stops and targets that it has passed fill, then market orders."""
        self._quotes[instrument_id] = price
        events = self._arrive(instrument_id, ts_event - 1)
        self._prices[instrument_id] = price
        events += self._trigger_stops(instrument_id, (price,) * 3, ts_event)
        events += self._arrive(instrument_id, ts_event)
        markets, self._markets[instrument_id] = self._markets[instrument_id], []
        for order in markets:
            events += self._fill(order, price, ts_event)
        return events

    def on_bar(
        self, instrument_id: str, prices: tuple[float, float, float, float], ts_event: int
    ) -> list[PaperEvent]:
        """Take a complete bar's open, high, low and close: its range fills what it reached."""
        events = self._arrive(instrument_id, ts_event)
        self._prices[instrument_id] = prices[3]
        return events + self._trigger_stops(instrument_id, prices[:3], ts_event)

    def would_take_back(self, ts_event: int) -> bool:
        """Return whether `on_time` would cancel anything."""
        return ts_event >= self._cancel_due and bool(self._taken_back(ts_event))

    def on_time(self, ts_event: int) -> list[PaperEvent]:
        """Cancel the market orders that wait for a price and were taken back by now.

        To be called with the time of every record, before it is taken: an instrument that pauses
        sends none of its own.
        """
        if ts_event < self._cancel_due:
            return []
        taken = self._taken_back(ts_event)
        for order in taken:
            self._remove(order)
            commands = self._travelling[order.instrument_id]
            self._travelling[order.instrument_id] = [one for one in commands if one.order != order]
        self._cancel_due = min(
            (
                one.ts_arrival
                for commands in self._travelling.values()
                for one in commands
                if one.action == "cancel"
            ),
            default=_NEVER,
        )
        return [PaperCancel(order, ts_event) for order in taken]

    def _taken_back(self, ts_event: int) -> list[PaperOrder]:
        return [
            one.order
            for commands in self._travelling.values()
            for one in commands
            if one.action == "cancel"
            and one.ts_arrival <= ts_event
            and one.order.trigger is None
            and one.order.client_order_id in self._known
        ]

    def on_volume(self, instrument_id: str, volume: float) -> None:
        """Take note, after `on_bar`, of what was traded in the bar: later fills are sized by it."""
        self._volumes[instrument_id] = volume

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
        waiting: list[_Command] = []
        for command in self._travelling[instrument_id]:
            if command.ts_arrival > ts_event:
                waiting.append(command)
            elif command.action == "submit" and command.order.trigger is None:
                self._markets[instrument_id].append(command.order)
            elif command.action == "submit":
                events.append(self._rest(command.order, command.ts_arrival))
            elif self._remove(command.order):
                events.append(PaperCancel(command.order, ts_event))
        self._travelling[instrument_id] = waiting
        return events

    def _rest(self, order: PaperOrder, ts_event: int) -> PaperEvent:
        """Take a stop or target in, or refuse it as the engine would, in its own words."""
        name = order.instrument_id
        if order.reduce_only and order.side * self.ledger.quantity(name) >= 0.0:
            reason = _would_increase(order)
        elif name in self._prices and _reached(order, self._prices[name], self._prices[name]):
            reason = _in_the_market(order, self._prices[name], self._terms[name])
        else:
            self._stops[name].append(order)
            return PaperAccept(order, ts_event)
        self._known.pop(order.client_order_id, None)
        return PaperReject(order, ts_event, reason)

    def _remove(self, order: PaperOrder) -> bool:
        """Forget an open order; False when it ended before."""
        if self._known.pop(order.client_order_id, None) is None:
            return False
        for queue in (self._markets, self._stops):
            if order in queue[order.instrument_id]:
                queue[order.instrument_id].remove(order)
        return True

    def _trigger_stops(
        self, instrument_id: str, path: tuple[float, float, float], ts_event: int
    ) -> list[PaperEvent]:
        open_, high, low = path
        hit = [o for o in self._stops[instrument_id] if _reached(o, high, low)]
        # The path inside a bar is open, high, low, close: what waits for a higher price comes
        # first, and what is nearer comes before what is further away.
        hit.sort(key=_place)
        events: list[PaperEvent] = []
        for order in hit:
            if order not in self._stops[instrument_id]:
                continue
            assert order.trigger is not None
            self._stops[instrument_id].remove(order)
            find = target_reference if order.is_target else stop_reference
            events += self._fill(order, find(order.side, order.trigger, open_), ts_event)
        return events

    def _end_with_position(self, instrument_id: str, ts_event: int) -> list[PaperEvent]:
        """Cancel what could only reduce a position that is gone."""
        events: list[PaperEvent] = []
        if self.ledger.quantity(instrument_id) == 0.0:
            for order in [one for one in self._stops[instrument_id] if one.reduce_only]:
                self._remove(order)
                events.append(PaperCancel(order, ts_event))
        return events

    def _fill(self, order: PaperOrder, reference: float, ts_event: int) -> list[PaperEvent]:
        self._known.pop(order.client_order_id, None)
        held = self.ledger.quantity(order.instrument_id)
        quantity = order.quantity
        if order.reduce_only:
            quantity = min(quantity, max(0.0, -order.side * held))
            if quantity == 0.0:
                return [PaperReject(order, ts_event, _would_increase(order))]
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
        self.ledger.apply_fill(
            LedgerFill(ts_event, order.instrument_id, order.side, quantity, price, fee, "")
        )
        self.filled[order.client_order_id] = quantity
        fill = PaperFill(order, quantity, price, reference, fee, ts_event)
        return [fill, *cancelled, *self._end_with_position(order.instrument_id, ts_event)]


def _place(order: PaperOrder) -> tuple[bool, float]:
    """Return an order's place among those that one bar reaches."""
    assert order.trigger is not None
    return (False, order.trigger) if order.rises else (True, -order.trigger)


def _reached(order: PaperOrder, high: float, low: float) -> bool:
    assert order.trigger is not None
    if order.is_target:
        return target_is_reached(order.side, order.trigger, high, low)
    return stop_is_triggered(order.side, order.trigger, high, low)


def _would_increase(order: PaperOrder) -> str:
    # The engine's own words, so that the backtest's table of orders and ours are equal.
    return (
        f"Reduce-only order {order.client_order_id} ({_type(order)}-{_way(order)}) would have "
        f"increased position"
    )


def _in_the_market(order: PaperOrder, price: float, terms: InstrumentTerms) -> str:
    # The engine's own words, too.
    what = "trigger" if order.is_target else "stop"
    shown = f"{price:.{terms.price_decimals}f}"
    return (
        f"{_type(order)} {_way(order)} order {what} px of "
        f"{order.trigger:.{terms.price_decimals}f} was in the market: bid={shown}, ask={shown}, "
        f"but rejected because of configuration"
    )


def _type(order: PaperOrder) -> str:
    if order.trigger is None:
        return "MARKET"
    return "MARKET_IF_TOUCHED" if order.is_target else "STOP_MARKET"


def _way(order: PaperOrder) -> str:
    return "BUY" if order.side == BUY else "SELL"
