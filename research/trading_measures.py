"""The measures by which ways of trading the same predictions are compared, with intervals.

Days and their resampling are those of `research.performance`: with the same span, seed and number
of samples two runs are evaluated on the same draws of days.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.timestamps import DAYS_PER_YEAR, NS_PER_DAY
from research.estimates import Estimate
from research.performance import (
    OutcomeFrames,
    TradingSpan,
    block_bootstrap_rows,
    drawdown_rows,
    estimate_of,
    max_drawdown,
    sharpe_rows,
)

MEASURES = (
    *("net_return", "net_sharpe", "sortino", "max_drawdown", "turnover", "cost_share"),
    *("time_in_market", "largest_position", "trades"),
)
"""Keys of `trading_measures`, in the order in which they are shown."""


def trading_measures(
    frames: OutcomeFrames,
    *,
    start: int,
    end: int,
    starting_balance: float,
    seed: int = 7,
    samples: int = 1000,
    mean_block_days: float = 7.0,
) -> dict[str, Estimate]:
    """Measure a run for comparison with others over the same predictions.

    Parameters
    ----------
    frames : OutcomeFrames
        Of the whole run.
    start, end : int
        The span ``(start, end]``, UTC nanoseconds.
    starting_balance : float
        Equity before the first row of the run, USDT.
    seed, samples, mean_block_days
        Of the bootstrap; see `research.performance.trading_metrics`.

    Returns
    -------
    dict of str to Estimate
        * `net_return`, `net_sharpe`, `max_drawdown`, `trades`: as in `trading_metrics`.
        * `sortino`: mean daily return over the root of the mean squared negative one, annual.
        * `turnover`: traded value over equity, per year.
        * `cost_share`: fees and slippage over the result before them; NaN where that is a loss.
        * `time_in_market`: share of bars at whose close anything is held.
        * `largest_position`: largest worth of one position at its entry, of equity; no interval,
          because an extreme cannot be resampled.

    Raises
    ------
    ConfigError, DataError
        As `TradingSpan.cut`.
    """
    span = TradingSpan.cut(frames, start=start, end=end, starting_balance=starting_balance)
    daily, own = span.daily, span.frames
    returns = daily.returns
    draws = block_bootstrap_rows(
        len(returns), samples=samples, mean_block=mean_block_days, seed=seed
    )
    if daily.ruined or len(returns) < 2:
        draws = draws[:0]
    before = np.where(daily.equity[:-1] > 0.0, daily.equity[:-1], np.nan)
    traded = span.daily_sum(
        own.fills.assign(value=own.fills["quantity"] * own.fills["price"]), "ts_event", "value"
    )
    costs = span.daily_sum(own.fills, "ts_event", "commission")
    costs = costs + span.daily_sum(own.fills, "ts_event", "slippage_cost")
    held = own.equity.assign(held=(own.equity["gross_exposure"] > 0.0).astype(np.float64))
    held_bars = span.daily_sum(held, "ts_init", "held")
    bars = span.daily_sum(held, "ts_init", None)
    years = (end - start) / (DAYS_PER_YEAR * NS_PER_DAY)
    per_year = len(returns) / years
    columns = np.stack([returns, traded / before, costs, np.diff(daily.equity), held_bars, bars])
    measures: dict[str, Callable[[Float64Array], Float64Array]] = {
        "net_return": lambda rows: np.prod(1.0 + rows[0], axis=1) - 1.0,
        "net_sharpe": lambda rows: sharpe_rows(rows[0]),
        "sortino": lambda rows: _sortino_rows(rows[0]),
        "max_drawdown": lambda rows: drawdown_rows(rows[0]),
        "turnover": lambda rows: rows[1].mean(axis=1) * per_year,
        "cost_share": lambda rows: _cost_share(rows[2], rows[3]),
        "time_in_market": lambda rows: rows[4].sum(axis=1) / rows[5].sum(axis=1),
    }
    found = {
        name: estimate_of(
            float(measure(columns[:, None, :])[0]),
            measure(columns[:, draws]) if len(draws) else np.empty(0),
        )
        for name, measure in measures.items()
    }
    largest = _largest_position(own.positions, own.equity, starting_balance)
    found["largest_position"] = Estimate(largest, math.nan, math.nan)
    trades = span.daily_sum(own.positions, "ts_closed", None)
    found["trades"] = estimate_of(trades.sum(), trades[draws].sum(axis=1))
    exact = Estimate(max_drawdown(daily.equity), *found["max_drawdown"][1:])
    return {name: (found | {"max_drawdown": exact})[name] for name in MEASURES}


def _sortino_rows(returns: Float64Array) -> Float64Array:
    downside = np.sqrt(np.mean(np.minimum(returns, 0.0) ** 2, axis=1))
    safe = np.where(downside > 0.0, downside, np.nan)
    return np.asarray(returns.mean(axis=1) / safe * math.sqrt(DAYS_PER_YEAR))


def _cost_share(costs: Float64Array, results: Float64Array) -> Float64Array:
    paid = costs.sum(axis=1)
    gross = results.sum(axis=1) + paid
    return np.asarray(paid / np.where(gross > 0.0, gross, np.nan))


def _largest_position(positions: object, equity: object, starting_balance: float) -> float:
    """Return the largest worth of a position at its entry, of the equity known then."""
    import pandas as pd

    assert isinstance(positions, pd.DataFrame)
    assert isinstance(equity, pd.DataFrame)
    if len(positions) == 0:
        return 0.0
    times: Int64Array = equity["ts_init"].to_numpy(dtype=np.int64)
    known = np.append(starting_balance, equity["equity"].to_numpy(dtype=np.float64))
    opened = positions["ts_opened"].to_numpy(dtype=np.int64)
    then = known[np.searchsorted(times, opened, side="right")]
    worth = positions["quantity"].to_numpy() * positions["average_open"].to_numpy()
    return float(np.max(worth / np.where(then > 0.0, then, np.nan)))
