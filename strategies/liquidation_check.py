"""Whether the exchange took positions away when it had to, and only then.

Worked out anew from the ledger and the bars' opens, as `strategies.fill_check` does for orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.timestamps import format_time
from strategies.execution import slipped_price
from strategies.impact import fill_slippage_bps
from strategies.ledger import LedgerPoint
from strategies.market_data import BarVolumes, OpenQuotes, open_quotes
from strategies.policy import LIQUIDATED

if TYPE_CHECKING:
    from strategies.fill_check import FillRules
    from strategies.recorder import FillRow, RunRecorder

_TOLERANCE = 1e-9
"""Of the maintenance margin: the engine's account counts in decimals."""


class LiquidationCheck:
    """Compare the liquidations of a finished run with what its account was worth at each open.

    Parameters
    ----------
    recorder : RunRecorder
        Of a finished run.
    rules : FillRules
        Bars, terms and execution settings.
    """

    def __init__(self, recorder: RunRecorder, rules: FillRules) -> None:
        self._recorder = recorder
        self._rules = rules
        quotes = open_quotes(rules.bars, rules.execution.latency_ns)
        self._quotes: dict[str, OpenQuotes] = {one.instrument_id: one for one in quotes}
        self._volumes = {
            one.instrument_id: BarVolumes(one.ts_init, one.volume) for one in rules.bars
        }

    def faults(self) -> tuple[str, ...]:
        """Return what is wrong with the liquidations of the run, in words."""
        taken = [fill for fill in self._recorder.fills if fill.reason == LIQUIDATED]
        if not self._rules.execution.liquidation:
            return tuple(f"{_described(one)} although liquidation is off" for one in taken)
        found = list(self._missed())
        for ts in sorted({one.ts_event for one in taken}):
            found += self._uncalled(ts)
        for fill in taken:
            found += self._mispriced(fill)
        return tuple(found)

    def _missed(self) -> Iterator[str]:
        """Yield the first open after which positions were held that the account did not cover."""
        grid = np.unique(np.concatenate([one.ts_init for one in self._quotes.values()]))
        history = self._recorder.ledger.history
        equity = _as_of(history, grid, "cash", self._recorder.starting_balance)
        needed = np.zeros(len(grid))
        for name, quotes in self._quotes.items():
            own = [point for point in history if point.instrument_id == name]
            quantity = _as_of(own, grid, "quantity", 0.0)
            average = _as_of(own, grid, "average_open", 0.0)
            row = np.searchsorted(quotes.ts_init, grid, side="right") - 1
            price = np.where(row >= 0, quotes.price[np.maximum(row, 0)], average)
            equity += quantity * (price - average)
            needed += float(self._rules.terms[name].maintenance_frac) * abs(quantity) * average
        uncovered = np.flatnonzero((needed > 0.0) & (equity < needed * (1.0 - _TOLERANCE)))
        if len(uncovered):
            where = int(uncovered[0])
            yield (
                f"positions must be taken away at {format_time(int(grid[where]))}, when equity is "
                f"{equity[where]:.2f} and maintenance margin {needed[where]:.2f} USDT, were held"
            )

    def _uncalled(self, ts: int) -> Iterator[str]:
        """Yield a liquidation that the account did not call for, or that left something."""
        history = self._recorder.ledger.history
        taken = [one for one in self._recorder.fills if one.ts_event == ts]
        first = next(i for i, one in enumerate(taken) if one.reason == LIQUIDATED)
        until = sum(1 for point in history if point.ts_event <= ts) - (len(taken) - first)
        before = {point.instrument_id: point for point in history[:until]}
        equity, needed = history[until - 1].cash, 0.0
        for name, point in before.items():
            if point.quantity != 0.0:
                equity += point.quantity * (self._quotes[name].last(ts) - point.average_open)
                frac = float(self._rules.terms[name].maintenance_frac)
                needed += frac * abs(point.quantity) * point.average_open
        if equity > needed * (1.0 + _TOLERANCE):
            yield (
                f"positions must not be taken away at {format_time(ts)}, when equity is "
                f"{equity:.2f} and maintenance margin {needed:.2f} USDT, were"
            )
        after = {point.instrument_id: point for point in history if point.ts_event <= ts}
        left = [name for name, point in after.items() if point.quantity != 0.0]
        if left:
            yield f"a liquidation at {format_time(ts)} must take everything, left {', '.join(left)}"

    def _mispriced(self, fill: FillRow) -> Iterator[str]:
        name, execution = fill.instrument_id, self._rules.execution
        wanted = self._quotes[name].last(fill.ts_event)
        volume = self._volumes[name].before(fill.ts_event)
        slippage = fill_slippage_bps(execution, fill.quantity, volume)
        price = slipped_price(fill.side, wanted, slippage, self._rules.terms[name].tick)
        reference = self._recorder.references.get(fill.client_order_id, float("nan"))
        if (fill.price, reference) != (price, wanted):
            yield (
                f"{_described(fill)} must be for {price} ({wanted} with slippage), was for "
                f"{fill.price} (from {reference})"
            )


def _described(fill: FillRow) -> str:
    return f"liquidation of {fill.instrument_id} at {format_time(fill.ts_event)}"


def _as_of(
    history: Sequence[LedgerPoint], grid: Int64Array, field: str, before: float
) -> Float64Array:
    """Return a field of the ledger's history after the bookings of each time of the grid."""
    times = np.array([point.ts_event for point in history], dtype=np.int64)
    values = np.array([before, *(getattr(point, field) for point in history)], dtype=np.float64)
    found: Float64Array = values[np.searchsorted(times, grid, side="right")]
    return found
