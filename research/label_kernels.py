"""What labels need a loop for: a causal volatility, and which barrier is touched first.

Plain Python that `research.kernel_cache` compiles. Rows are the bars of one instrument in the
order of time; missing bars are rows that are not there.
"""

from __future__ import annotations

import math
from typing import Any

from research.kernel_tools import MAX_CARRIED
from research.kernels import NAN

type Array = Any
"""One dimension; a list would do as well."""

NEITHER, UPPER, LOWER, BOTH, WITHOUT = range(5)


def trailing_volatility(slots: Array, closes: Array, ring: Array, result: Array) -> None:
    """Write the root mean square of the last one-bar log returns up to each bar.

    A missing bar is a slot with the last close carried forward, and a hole of more than
    `MAX_CARRIED` slots begins a new run, as for the features: with a window of 96 the values are
    those that scale the features, but for rounding. The sum is taken anew for each bar, in an
    order that absolute time decides, so that a value depends on nothing before its window.

    Parameters
    ----------
    slots : (n_bars,) int64
        ``ts_init // interval_ns``, ascending.
    closes : (n_bars,) float64
        Prices.
    ring : (window,) float64
        Scratch; as long as the window that is looked back over, in slots.
    result : (n_bars,) float64
        Receives the volatility per bar; NaN until a run is as old as the window.
    """
    window = len(ring)
    run_start = 0
    for row in range(len(slots)):
        slot = slots[row]
        change = 0.0
        if row == 0 or slot - slots[row - 1] > MAX_CARRIED:
            run_start = slot
        else:
            for missing in range(slots[row - 1] + 1, slot):
                ring[missing % window] = 0.0
            change = math.log(closes[row] / closes[row - 1])
        ring[slot % window] = change * change
        result[row] = NAN
        if slot - run_start >= window:
            total = 0.0
            for square in ring:
                total += square
            result[row] = math.sqrt(total / window)


def first_touch(
    slots: Array, bars: Any, width: Array, horizon: int, touched: Array, row_of: Array, exits: Array
) -> None:
    """Find the barrier that each bar's future touches first.

    The barriers lie at ``close * exp(width)`` and ``close * exp(-width)``. A bar that opens beyond
    one has touched that one, at its open; else its high and low say, at the barrier. A bar that
    reaches both from between them has touched `BOTH`: the order within a bar is not known.

    Parameters
    ----------
    slots : (n_bars,) int64
        ``ts_init // interval_ns``, ascending.
    bars : tuple of four (n_bars,) float64
        Open, high, low, close.
    width : (n_bars,) float64
        Log distance of the barriers from the close; a bar where it is not above zero has none.
    horizon : int
        Slots after which time is out; the bar of the last one still counts.
    touched : (n_bars,) int64
        Receives `NEITHER`, `UPPER`, `LOWER` or `BOTH`, or `WITHOUT` where there are no barriers.
    row_of : (n_bars,) int64
        Receives the row of the bar that touched; else left as it is.
    exits : (n_bars,) float64
        Receives the price at which `UPPER` or `LOWER` was touched; else left as it is.
    """
    opens, highs, lows, closes = bars
    for row in range(len(slots)):
        touched[row] = WITHOUT
        if not width[row] > 0.0:  # NaN is not, either
            continue
        touched[row] = NEITHER
        upper, lower = closes[row] * math.exp(width[row]), closes[row] * math.exp(-width[row])
        last = slots[row] + horizon
        later = row + 1
        while later < len(slots) and slots[later] <= last:
            if highs[later] >= upper or lows[later] <= lower:
                row_of[row] = later
                touched[row] = which(opens[later], highs[later], lows[later], upper, lower)
                if touched[row] == UPPER:
                    exits[row] = max(upper, opens[later])
                elif touched[row] == LOWER:
                    exits[row] = min(lower, opens[later])
                break
            later += 1


def which(first: float, high: float, low: float, upper: float, lower: float) -> int:
    """Return the barrier that a bar touched first, given that it touched one."""
    if first >= upper:
        return UPPER
    if first <= lower:
        return LOWER
    if high >= upper and low <= lower:
        return BOTH
    return UPPER if high >= upper else LOWER


HELPERS = (which,)
ENTRY_POINTS = (trailing_volatility, first_touch)
