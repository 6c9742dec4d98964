"""What a run would have earned had trading cost more, less, or come a bar later.

The trades are those that were made: nothing is decided anew, and sizes stay. So the table says
how much of a result hangs on assumptions about costs, not what a strategy that knew them would do.
Days and their resampling are those of `research.performance`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.arrays import BarArrays, Float64Array
from research.estimates import Estimate
from research.performance import (
    OutcomeFrames,
    TradingSpan,
    block_bootstrap_rows,
    estimate_of,
    sharpe_rows,
)

if TYPE_CHECKING:
    import pandas as pd

MULTIPLES = (0.0, 1.0, 2.0, 3.0)
_REACHED = ("stop_loss", "trailing_stop", "take_profit")
"""Reasons of fills whose time the market chose."""


@dataclass(frozen=True, slots=True)
class StressedResult:
    """The result under one assumption: compounded return (a fraction) and annual Sharpe ratio."""

    name: str
    net_return: Estimate
    net_sharpe: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return {
            "name": self.name,
            "net_return": self.net_return.as_dict(),
            "net_sharpe": self.net_sharpe.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class CostStress:
    """A run under other costs.

    Parameters
    ----------
    rows : tuple of StressedResult
        No costs, the run's own, twice and three times as much; then the run's own with every
        order that fills at an open filled one bar later.
    break_even : float
        How many times the run's fees and slippage its trades would just have paid for; 0 where
        they lost before costs, infinite where there were none and they won, NaN without trades.
    delay_cost : float
        What the bar of delay would have cost, USDT; below zero it would have gained.
    """

    rows: tuple[StressedResult, ...]
    break_even: float
    delay_cost: float

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON; what is not finite as None."""
        finite = math.isfinite(self.break_even)
        return {
            "rows": [row.as_dict() for row in self.rows],
            "break_even": self.break_even if finite else None,
            "delay_cost": self.delay_cost,
        }


def cost_stress(
    frames: OutcomeFrames,
    bars: Sequence[BarArrays],
    *,
    start: int,
    end: int,
    starting_balance: float,
    seed: int = 7,
    samples: int = 1000,
    mean_block_days: float = 7.0,
) -> CostStress:
    """Put a run under other costs.

    Parameters
    ----------
    frames : OutcomeFrames
        Of the whole run.
    bars : sequence of BarArrays
        Of the instruments traded, for the opens that a delay would have met.
    start, end : int
        The span ``(start, end]``, UTC nanoseconds.
    starting_balance : float
        Equity before the first row of the run, USDT.
    seed, samples, mean_block_days
        Of the bootstrap; see `research.performance.trading_metrics`.

    Raises
    ------
    ConfigError, DataError
        As `TradingSpan.cut`.
    """
    span = TradingSpan.cut(frames, start=start, end=end, starting_balance=starting_balance)
    fills = span.frames.fills
    costs = span.daily_sum(fills, "ts_event", "commission")
    costs = costs + span.daily_sum(fills, "ts_event", "slippage_cost")
    late = delay_costs(fills, {one.instrument_id: one for one in bars})
    day = span.daily.day_of(fills["ts_event"].to_numpy(dtype=np.int64))
    delay = np.bincount(day, weights=late, minlength=len(costs))
    draws = block_bootstrap_rows(len(costs), samples=samples, mean_block=mean_block_days, seed=seed)
    changes = {f"costs x {multiple:g}": (1.0 - multiple) * costs for multiple in MULTIPLES}
    changes["one bar later"] = -delay
    rows = [_stressed(name, span, change, draws) for name, change in changes.items()]
    gross = float(span.daily.equity[-1] - span.daily.equity[0]) + math.fsum(costs)
    return CostStress(
        tuple(rows), _break_even(gross, math.fsum(costs), len(fills)), math.fsum(late)
    )


def delay_costs(fills: pd.DataFrame, bars: Mapping[str, BarArrays]) -> Float64Array:
    """Return what filling one bar later would have cost each fill, USDT, (n_fills,).

    A fill at a bar's open is moved to the next open of its instrument, where there is one; stops
    and targets stay where the market reached them, limits that rested where it came to them.
    """
    found = np.zeros(len(fills))
    signed = fills["side"].to_numpy(dtype=np.float64) * fills["quantity"].to_numpy(dtype=np.float64)
    price = fills["reference_price"].to_numpy(dtype=np.float64)
    ts = fills["ts_event"].to_numpy(dtype=np.int64)
    names = fills["instrument_id"].to_numpy(dtype=object)
    stays = fills["reason"].isin(_REACHED).to_numpy()
    if "liquidity" in fills:
        stays = stays | (fills["liquidity"].to_numpy(dtype=object) == "maker")
    for name, one in bars.items():
        rows = np.flatnonzero((names == name) & ~stays)
        # The bar in which a fill lies closes at or after it; the next one's open is asked for.
        after = np.searchsorted(one.ts_init, ts[rows], side="left") + 1
        there = after < len(one)
        opens = one.open[np.minimum(after, len(one) - 1)]
        found[rows] = np.where(there, signed[rows] * (opens - price[rows]), 0.0)
    return found


def _break_even(gross: float, costs: float, n_fills: int) -> float:
    if n_fills == 0:
        return math.nan
    if gross <= 0.0:
        return 0.0
    return gross / costs if costs > 0.0 else math.inf


def _stressed(name: str, span: TradingSpan, change: Float64Array, draws: Any) -> StressedResult:
    """Return the result of the days' results, each changed by so many USDT."""
    equity = span.daily.equity
    before = np.where(equity[:-1] > 0.0, equity[:-1], np.nan)
    returns = (np.diff(equity) + change) / before
    if not np.isfinite(returns).all() or len(returns) < 2:
        draws = draws[:0]
    sampled = returns[draws]
    value = float(np.prod(1.0 + returns) - 1.0)
    ratio = float(sharpe_rows(returns[None, :])[0])
    return StressedResult(
        name,
        estimate_of(value, np.prod(1.0 + sampled, axis=1) - 1.0),
        estimate_of(ratio, sharpe_rows(sampled)),
    )
