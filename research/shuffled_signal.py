"""The same trades at other times: what they would have earned had the signal known nothing.

All trades are moved through time together, round the end of the span, by the same number of bars.
Each keeps its instrument, side, worth and length, and their order among each other stays; only what
they know of the bars in which they fall is gone (a rotation test: Aronson, 2006, chapter 5, has the
idea for rules, Masters, 2018, for positions). A strategy that is always long earns as much at any
time, and is told so; one whose profit is in its timing earns it only where it was.

Results are before costs: moved trades would have paid the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.arrays import BarArrays, Float64Array, Int64Array

if TYPE_CHECKING:
    import pandas as pd

ROTATIONS = 500
"""How many times the trades are moved, where none is given."""
PATHS = 100
"""The same where the way of each is followed through time."""


@dataclass(frozen=True, slots=True)
class ShuffledTrades:
    """What trades earned at their own times and at others.

    Parameters
    ----------
    observed : float
        Sum over the trades of worth times return between opens, signed by side, quote currency.
        Without costs, and without what stops reached inside a bar: not the account's profit.
    drawn : (n_rotations,) float64
        The same after each rotation.
    """

    observed: float
    drawn: Float64Array

    @property
    def p(self) -> float:
        """Share of rotations, the own one counted, that earned as much; NaN without any.

        Phipson and Smyth (2010): an estimate of a p-value that is never zero.
        """
        if len(self.drawn) == 0:
            return math.nan
        return float((np.sum(self.drawn >= self.observed) + 1) / (len(self.drawn) + 1))

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        some = len(self.drawn) > 0
        return {
            "observed": self.observed,
            "mean": float(self.drawn.mean()) if some else None,
            "rotations": len(self.drawn),
            "p": self.p if some else None,
        }


def shuffled_trades(
    positions: pd.DataFrame, bars: Sequence[BarArrays], *, seed: int, rotations: int = ROTATIONS
) -> ShuffledTrades:
    """Move all trades through time together, many times.

    Parameters
    ----------
    positions : DataFrame
        instrument_id, ts_opened, ts_closed (UTC nanoseconds), side (1 long, -1 short), quantity
        and average_open, as `research.performance.TradingFrames` has them.
    bars : sequence of BarArrays
        Of the span in which trades may lie; instruments without any are left out.
    seed : int
        Of the draws; equal seeds move equally.
    rotations : int
        Most rotations to draw: there are no more different ones than bars.

    Returns
    -------
    ShuffledTrades
        Without rotations where there are no trades or fewer than three bars.
    """
    legs = [leg for one in bars if len(leg := _Leg.of(positions, one))]
    n_bars = min((leg.n_bars for leg in legs), default=0)
    if n_bars < 3:
        return ShuffledTrades(math.fsum(leg.result(0) for leg in legs), np.empty(0))
    random = np.random.default_rng(seed)
    shifts = 1 + random.permutation(n_bars - 1)[:rotations]
    drawn = [math.fsum(leg.result(int(shift)) for leg in legs) for shift in shifts]
    return ShuffledTrades(math.fsum(leg.result(0) for leg in legs), np.array(drawn))


def shuffled_paths(
    positions: pd.DataFrame,
    bars: Sequence[BarArrays],
    marks: Int64Array,
    *,
    seed: int,
    rotations: int = PATHS,
) -> Float64Array:
    """Return what moved trades had earned by given times, before costs, rotation by rotation.

    The rotations are the first of those of `shuffled_trades` with the same seed.

    Parameters
    ----------
    positions, bars, seed, rotations
        As for `shuffled_trades`.
    marks : (n_marks,) int64
        UTC nanoseconds, ascending. What a bar brings is there from its close on.

    Returns
    -------
    (n_rotations, n_marks) float64
        Quote currency; no rows where nothing can be moved.
    """
    legs = [leg for one in bars if len(leg := _Leg.of(positions, one))]
    n_bars = min((leg.n_bars for leg in legs), default=0)
    if n_bars < 3:
        return np.empty((0, len(marks)))
    random = np.random.default_rng(seed)
    shifts = (1 + random.permutation(n_bars - 1)[:rotations]).tolist()
    return np.array([sum(leg.path(shift, marks) for leg in legs) for shift in shifts])


@dataclass(frozen=True, slots=True, eq=False)
class _Leg:
    """One instrument's trades as bars, and its log opens."""

    log_open: Float64Array
    first: Int64Array
    length: Int64Array
    worth: Float64Array
    closes: Int64Array

    def __len__(self) -> int:
        return len(self.first)

    @property
    def n_bars(self) -> int:
        return len(self.log_open)

    @classmethod
    def of(cls, positions: pd.DataFrame, bars: BarArrays) -> _Leg:
        own = positions[positions["instrument_id"] == bars.instrument_id]
        opens = bars.ts_init - bars.interval_ns
        # A fill comes a moment after the open of the bar in which it lies.
        first, last = (
            np.searchsorted(opens, own[name].to_numpy(dtype=np.int64), side="right") - 1
            for name in ("ts_opened", "ts_closed")
        )
        inside = (first >= 0) & (len(bars) > 0)
        worth = (own["side"] * own["quantity"] * own["average_open"]).to_numpy(dtype=np.float64)
        length = np.maximum(last - first, 1)
        log_open = np.log(bars.open)
        return cls(log_open, first[inside], length[inside], worth[inside], bars.ts_init)

    def result(self, shift: int) -> float:
        """Return what the trades earn so many bars later, going round at the end.

        A trade that reaches over the end goes on at the beginning, from bar to bar.
        """
        first = (self.first + shift) % self.n_bars
        last = first + self.length
        over = last >= self.n_bars
        # What is left of the bars up to the last open, then the rest from the first one on.
        end = np.where(over, self.n_bars - 1, last)
        gain = self.log_open[end] - self.log_open[first]
        rest = np.minimum(np.where(over, last - self.n_bars, 0), self.n_bars - 1)
        gain = gain + self.log_open[rest] - self.log_open[0]
        return float(np.sum(self.worth * np.expm1(gain)))

    def path(self, shift: int, marks: Int64Array) -> Float64Array:
        """Return what had been earned so many bars later by given times; ends as `result`."""
        n, log_open = self.n_bars, self.log_open
        # The bars twice, one after the other: a trade that goes round the end goes straight on.
        level = np.exp(
            np.append(log_open, log_open[1:] + (log_open[-1] - log_open[0])) - log_open[0]
        )
        level = np.insert(level, n, level[n - 1])
        first = (self.first + shift) % n
        last = np.minimum(first + self.length, 2 * n - 1)
        quantity = self.worth / level[first]
        held = np.bincount(first, quantity, 2 * n) - np.bincount(last, quantity, 2 * n)
        change = np.cumsum(held)[:-1] * np.diff(level)
        gain = change[:n] + np.append(change[n:], 0.0)
        earned = np.append(0.0, np.cumsum(gain))
        return np.asarray(earned[np.searchsorted(self.closes, marks, side="right")])
