"""What bars alone say about fills: when an order can meet a price, and which.

The checks that follow a run work fills out anew with it, without quotes, clock or fill model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from catalog.arrays import BarArrays, Int64Array, Ohlcv
from catalog.timestamps import format_time
from strategies.execution import BUY, ExecutionConfig, InstrumentTerms, Side, slipped_price
from strategies.impact import fill_slippage_bps
from strategies.market_data import BarVolumes
from strategies.recorder import OrderRow
from strategies.stops import ExitRules

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FillRules:
    """What the fills of a run must follow.

    Parameters
    ----------
    bars : sequence of BarArrays
        What was replayed.
    terms : mapping of instrument id to InstrumentTerms
        Ticks.
    execution : ExecutionConfig
        Latency and slippage.
    exits : ExitRules, optional
        What the policy says about stops and targets; None if it has none.
    """

    bars: Sequence[BarArrays]
    terms: Mapping[str, InstrumentTerms]
    execution: ExecutionConfig
    exits: ExitRules | None


class Moments:
    """The two moments of each bar at which orders can fill: its open and, complete, its range.

    Moment ``2 i`` is the open of bar ``i`` plus the latency, moment ``2 i + 1`` its close.

    Parameters
    ----------
    bars : BarArrays
        Of one instrument.
    latency_ns : int
        From the open to its quote.
    """

    def __init__(self, bars: BarArrays, latency_ns: int) -> None:
        self._bars = bars
        self.opens: Int64Array = bars.ts_init - bars.interval_ns + latency_ns
        self.price = bars.open
        self.times = _interleaved(self.opens, bars.ts_init)
        lowest = np.minimum(np.minimum(bars.open, bars.close), bars.low)
        highest = np.maximum(np.maximum(bars.open, bars.close), bars.high)
        self._low = _interleaved(bars.open, lowest)
        self._high = _interleaved(bars.open, highest)

    def first_open(self, ts: int) -> int | None:
        """Return the first bar whose open can be met at or after `ts`."""
        bar = bisect_left(self.opens.data, ts)
        return bar if bar < len(self.opens) else None

    def at_or_before(self, ts: int) -> int:
        """Return the last moment not after `ts`, -1 if there is none."""
        return int(np.searchsorted(self.times, ts, side="right")) - 1

    def first_reach(self, side: Side, trigger: float, first: int, last: int) -> int | None:
        """Return the first of the moments `first` to `last` that reaches a stop's trigger."""
        part = slice(first, last + 1)
        reached = self._high[part] >= trigger if side == BUY else self._low[part] <= trigger
        where = int(np.argmax(reached)) if len(reached) else 0
        return first + where if len(reached) and reached[where] else None

    def range_at(self, moment: int) -> tuple[float, float]:
        """Return the highest and the lowest price that a moment shows."""
        return float(self._high[moment]), float(self._low[moment])

    def bar_at(self, moment: int) -> Ohlcv:
        """Return the bar that a moment belongs to."""
        bars, row = self._bars, moment // 2
        high, low = self.range_at(2 * row + 1)
        close, volume = float(bars.close[row]), float(bars.volume[row])
        return Ohlcv(float(bars.open[row]), high, low, close, volume)

    def last_price(self, moment: int) -> float:
        """Return the price with which a moment ends: the open, or the bar's close."""
        row = moment // 2
        return float(self._bars.close[row] if moment % 2 else self.price[row])

    def told(self, moment: int) -> str:
        """Return when a moment is, in words."""
        where = "within the bar that closes" if moment % 2 else "with the bar's open"
        return f"{where} at {format_time(int(self.times[moment]))}"


class BarMarket:
    """All instruments' moments, and what fills there cost.

    Parameters
    ----------
    rules : FillRules
        Bars and costs.

    Attributes
    ----------
    moments : dict of Moments
        By instrument id.
    volumes : dict of BarVolumes
        By instrument id.
    """

    def __init__(self, rules: FillRules) -> None:
        self._rules = rules
        latency = rules.execution.latency_ns
        self.moments = {one.instrument_id: Moments(one, latency) for one in rules.bars}
        self.volumes = {
            one.instrument_id: BarVolumes(one.ts_init, one.volume) for one in rules.bars
        }

    def next_open(self, row: OrderRow) -> tuple[int, float] | None:
        """Return time and price of the first open that an order can meet."""
        moments = self.moments[row.instrument_id]
        bar = moments.first_open(row.ts_init + self._rules.execution.latency_ns)
        return None if bar is None else (int(moments.opens[bar]), float(moments.price[bar]))

    def slipped(self, row: OrderRow, quantity: float, reference: float, ts: int) -> float:
        """Return the price of a fill that must happen at `ts`."""
        name = row.instrument_id
        volume = self.volumes[name].before(ts)
        slippage = fill_slippage_bps(self._rules.execution, quantity, volume)
        return slipped_price(row.side, reference, slippage, self._rules.terms[name].tick)


def described(row: OrderRow) -> str:
    """Return an order in words."""
    action = "buy" if row.side == BUY else "sell"
    return (
        f"{row.client_order_id} ({action} {row.quantity:g} {row.instrument_id}, sent at "
        f"{format_time(row.ts_init)})"
    )


def _interleaved[N: np.generic](first: NDArray[N], second: NDArray[N]) -> NDArray[N]:
    """Return the items of two arrays in turn."""
    return np.stack([first, second], axis=1).reshape(-1)
