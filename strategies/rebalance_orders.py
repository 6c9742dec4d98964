"""Orders of a rebalancing in the exchange's steps, and the plan as people read it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import NamedTuple

from catalog.timestamps import format_time
from strategies.execution import InstrumentTerms, Side, exact_decimal

# Weights are quotients of floats: two that differ by less are the same.
_TOLERANCE = 1e-12


@dataclass(slots=True)
class Line:
    """One position on its way through the planning; weights are multiples of equity.

    Parameters
    ----------
    terms : InstrumentTerms
        Name, step and minima.
    quantity : float
        Held, base units, signed.
    price : float
        Quote units.
    cost_frac : float
        One way, a fraction of the traded value.
    before : float
        Weight held.
    target : float
        Weight wanted; NaN if none is.
    after : float
        Weight that is to be; `before` where nothing is to be done.
    least : float
        The weight nearest to 0 that needs no order more than `after` does.
    reason : str
        Of the order: ``drift``, ``close``, ``max_gross``; empty for none.
    note : str
        Why there is none, where that is worth saying; or ``max_quantity``, if `after` is only as
        far as one order goes.
    """

    terms: InstrumentTerms
    quantity: float
    price: float
    cost_frac: float
    before: float
    target: float = math.nan
    after: float = math.nan
    least: float = math.nan
    reason: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if math.isnan(self.after):
            self.after = self.before
        if math.isnan(self.least):
            self.least = self.before


class Trade(NamedTuple):
    """One order of a plan.

    Parameters
    ----------
    instrument : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    side : {-1, 1}
        1 buys, -1 sells.
    quantity : float
        Base units, a multiple of the step (a position is closed as it is).
    reduce_only : bool
        Whether the position only becomes smaller.
    cost : float
        Expected fee and slippage, USDT.
    reason : str
        ``drift``, ``close`` (not wanted any more) or ``max_gross`` (too much exposure).
    """

    instrument: str
    side: Side
    quantity: float
    reduce_only: bool
    cost: float
    reason: str


class Move(NamedTuple):
    """What a plan does to one position.

    Parameters
    ----------
    instrument : str
        Its name.
    before, target, after : float
        Weights, multiples of equity; `target` is NaN where there is none.
    value : float
        What is traded, USDT.
    trade : Trade or None
        The order; None where nothing is to be done or can be.
    note : str
        Why nothing is done: ``in_band``, ``no_target``; or cannot be: ``step`` (the band lies
        between two steps), ``below_minimum`` (the exchange takes no order so small),
        ``max_gross`` (no exposure left to give). Of an order: ``max_quantity`` where it is only
        as large as the exchange takes; the next rebalancing goes on from there.
    """

    instrument: str
    before: float
    target: float
    after: float
    value: float
    trade: Trade | None
    note: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Every position and what is to be done with it; `str` gives the table of a dry run.

    Parameters
    ----------
    ts_ns : int
        The close that it was made at, UTC nanoseconds.
    next_ns : int or None
        When the schedule comes true next.
    equity : float
        USDT.
    moves : tuple of Move
        Orders that reduce first, largest first; what takes no order last.
    refused : str
        Why nothing could be planned; empty otherwise.
    """

    ts_ns: int
    next_ns: int | None
    equity: float
    moves: tuple[Move, ...]
    refused: str

    @property
    def trades(self) -> tuple[Trade, ...]:
        """The orders, in the order in which they should be sent."""
        return tuple(move.trade for move in self.moves if move.trade is not None)

    @property
    def cost(self) -> float:
        """Expected cost of all orders, USDT."""
        return sum(trade.cost for trade in self.trades)

    @property
    def turnover(self) -> float:
        """What is traded in all, USDT."""
        return sum(move.value for move in self.moves)

    def __str__(self) -> str:
        """Return the table of a dry run."""
        head = f"Rebalancing at {format_time(self.ts_ns)}"
        if self.next_ns is not None:
            head += f" (next {format_time(self.next_ns)})"
        if self.refused:
            return f"{head}: nothing planned, {self.refused}"
        gross = [sum(abs(weight) for weight in weights) for weights in self._weights()]
        return "\n".join([f"{head}: {self._totals(gross[0], gross[1])}", *self._table()])

    def _weights(self) -> tuple[list[float], list[float]]:
        return [move.before for move in self.moves], [move.after for move in self.moves]

    def _totals(self, before: float, after: float) -> str:
        count = len(self.trades)
        orders = f"{count} order" if count == 1 else f"{count or 'no'} orders"
        share = self.cost / self.equity * 1e4
        return (
            f"{orders}, {self.turnover:,.2f} USDT traded at {self.cost:,.2f} USDT "
            f"({share:.2f} bps of equity {self.equity:,.2f}); "
            f"exposure {before:.1%} -> {after:.1%}"
        )

    def _table(self) -> list[str]:
        if not self.moves:
            return ["no positions"]
        width = max(len("instrument"), *(len(move.instrument) for move in self.moves))
        rows = [f"{'instrument':<{width}}  {'weight':>8}  {'target':>8}  {'after':>8}  order"]
        rows += [
            f"{move.instrument:<{width}}  {_percent(move.before)}  {_percent(move.target)}  "
            f"{_percent(move.after)}  {_order_text(move)}"
            for move in self.moves
        ]
        return rows


def _percent(weight: float) -> str:
    return f"{'-':>8}" if math.isnan(weight) else f"{weight:>+8.2%}"


def _order_text(move: Move) -> str:
    trade = move.trade
    if trade is None:
        return f"none: {move.note}"
    side = "buy" if trade.side > 0 else "sell"
    only = " reduce-only" if trade.reduce_only else ""
    text = f"{side} {exact_decimal(trade.quantity):f}{only}, {trade.cost:,.2f} USDT: {trade.reason}"
    return f"{text}, cut by {move.note}" if move.note else text


def to_move(line: Line, equity: float, band: float) -> Move:
    """Return what is done to a position, its size rounded towards zero by whole steps.

    Parameters
    ----------
    line : Line
        The position.
    equity : float
        USDT.
    band : float
        Largest distance of a weight from its target that is still no drift.
    """
    if not line.reason:
        return _still(line, line.note or "in_band")
    held = exact_decimal(line.quantity)
    if line.reason == "close":
        return _moved(line, equity, held, Decimal(0))
    position = _rounded_position(line, equity, band)
    if position is None or _steps_between(line, held, position) == 0:
        given_up = abs(line.after - line.before) <= _TOLERANCE
        return _still(line, "max_gross" if given_up else "step")
    enlarged = _at_least_minimum(line, held, position)
    if enlarged != position and not _fits(line, equity, band, enlarged):
        return _still(line, "below_minimum")
    return _moved(line, equity, held, enlarged)


def _rounded_position(line: Line, equity: float, band: float) -> Decimal | None:
    """Return the signed position wanted; None if no multiple of the step is inside the band."""
    step = line.terms.step
    size = exact_decimal(abs(line.after)) * exact_decimal(equity) / exact_decimal(line.price)
    sign = -1 if line.after < 0.0 else 1
    nearer = sign * (size / step).to_integral_value(ROUND_FLOOR) * step
    if abs(line.after - line.target) > band:
        # Exposure has pulled it out of the band; what there is room for is taken.
        return nearer
    for position in (nearer, nearer + sign * step):
        if _fits(line, equity, band, position):
            return position
    return None


def _fits(line: Line, equity: float, band: float, position: Decimal) -> bool:
    """Return whether a position is in the band, and beyond neither target, holding nor 0."""
    weight = float(position) * line.price / equity
    least, most = min(line.before, line.target, 0.0), max(line.before, line.target, 0.0)
    inside = least - _TOLERANCE <= weight <= most + _TOLERANCE
    return inside and abs(weight - line.target) <= band


def _steps_between(line: Line, held: Decimal, position: Decimal) -> Decimal:
    return (abs(position - held) / line.terms.step).to_integral_value(ROUND_FLOOR)


def _at_least_minimum(line: Line, held: Decimal, position: Decimal) -> Decimal:
    """Return the position after the smallest order that the exchange takes, or `position`.

    An order that only reduces has no smallest value on Binance, though a smallest quantity.
    """
    terms = line.terms
    least = terms.min_quantity
    if not _only_reduces(held, position):
        least = max(least, terms.min_notional / exact_decimal(line.price))
    if abs(position - held) >= least:
        return position
    steps = (least / terms.step).to_integral_value(ROUND_CEILING)
    return held + (1 if position > held else -1) * steps * terms.step


def _only_reduces(held: Decimal, position: Decimal) -> bool:
    return held * position >= 0 and abs(position) < abs(held)


def _still(line: Line, note: str) -> Move:
    name = line.terms.instrument_id
    return Move(name, line.before, line.target, line.before, 0.0, None, note)


def _moved(line: Line, equity: float, held: Decimal, position: Decimal) -> Move:
    quantity, note = abs(position - held), ""
    if position != 0:
        quantity = _steps_between(line, held, position) * line.terms.step
    if line.terms.max_quantity > 0:
        steps = (line.terms.max_quantity / line.terms.step).to_integral_value(ROUND_FLOOR)
        largest = steps * line.terms.step
        if quantity > largest or (quantity == largest and line.note):
            quantity, note = largest, "max_quantity"
    if quantity == 0:
        return _still(line, note or "step")
    side: Side = 1 if position > held else -1
    value = float(quantity) * line.price
    trade = Trade(
        instrument=line.terms.instrument_id,
        side=side,
        quantity=float(quantity),
        reduce_only=_only_reduces(held, held + side * quantity),
        cost=value * line.cost_frac,
        reason=line.reason,
    )
    after = float(held + side * quantity) * line.price / equity
    return Move(trade.instrument, line.before, line.target, after, value, trade, note)
