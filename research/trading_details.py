"""The second table: what stands behind the headline numbers of a strategy."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from catalog.arrays import Float64Array
from catalog.timestamps import DAYS_PER_YEAR, NS_PER_DAY
from research.performance import (
    TradingSpan,
    Waterfall,
    cost_waterfall,
    max_drawdown,
    net_return,
    sharpe,
)

if TYPE_CHECKING:
    import pandas as pd

_BPS = 1e4


class Detail(NamedTuple):
    """One row: a number, its unit and, when it has no value (NaN), the reason."""

    key: str
    label: str
    value: float
    unit: str
    reason: str = ""

    def as_dict(self) -> dict[str, float | str | None]:
        """Return the row for JSON, with None in place of NaN."""
        value = float(self.value) if math.isfinite(self.value) else None
        return {"value": value, "unit": self.unit, "reason": self.reason}


def trading_details(span: TradingSpan) -> tuple[Detail, ...]:
    """Return the details of a span of a run.

    Sortino divides by the root of the mean squared negative return (Sortino and Price 1994, target
    zero), Calmar is the compound annual growth over the largest daily drawdown (Young 1991). The
    probabilistic Sharpe ratio is that of Bailey and López de Prado (2012), against a ratio of
    zero. Break-even cost is what a traded unit of value might have cost, fees and slippage
    together, for net to be zero.
    """
    waterfall = cost_waterfall(span)
    return (*_return_details(span, waterfall), *_activity_details(span, waterfall), *_trades(span))


def _detail(key: str, label: str, value: float, unit: str, reason: str) -> Detail:
    """Return a row whose reason is kept only where the value is missing."""
    return Detail(key, label, value, unit, "" if math.isfinite(value) else reason)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator != 0.0 else math.nan


def _return_details(span: TradingSpan, waterfall: Waterfall) -> tuple[Detail, ...]:
    daily, returns = span.daily, span.daily.returns
    growth = annual_growth(span)
    fall = max_drawdown(daily.equity)
    marks = np.append(daily.equity[0], span.frames.equity["equity"].to_numpy(dtype=np.float64))
    deviation = float(returns.std(ddof=1)) if len(returns) > 1 else math.nan
    still = "equity never moved"
    return (
        _detail("gross_return", "Gross return", _ratio(waterfall.gross, float(daily.equity[0])),
                "fraction", "no equity at the start"),
        _detail("annual_growth", "Compound annual growth", growth, "fraction", "equity used up"),
        _detail("annual_volatility", "Annual volatility", deviation * math.sqrt(DAYS_PER_YEAR),
                "fraction", "needs at least two days"),
        _detail("sortino", "Sortino ratio", sortino(returns), "ratio", "no losing day"),
        _detail("calmar", "Calmar ratio", _ratio(growth, -fall), "ratio", "no drawdown"),
        _detail("probabilistic_sharpe", "Probability that the Sharpe ratio is above 0",
                probabilistic_sharpe(returns), "fraction", still),
        _detail("max_drawdown_bars", "Largest drawdown between bar closes", max_drawdown(marks),
                "fraction", "no equity at the start"),
    )  # fmt: skip


def annual_growth(span: TradingSpan) -> float:
    """Return the compound annual growth rate over the calendar length of the span, 365 days."""
    daily = span.daily
    years = float(daily.ts[-1] - daily.ts[0]) / (DAYS_PER_YEAR * NS_PER_DAY)
    level = 1.0 + net_return(daily)
    return float(level ** (1.0 / years) - 1.0) if level > 0.0 else math.nan


def sortino(returns: Float64Array) -> float:
    """Return the annualised Sortino ratio of daily returns; NaN without a loss."""
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2)))
    return _ratio(float(returns.mean()) * math.sqrt(DAYS_PER_YEAR), downside)


def probabilistic_sharpe(returns: Float64Array) -> float:
    """Return P(true Sharpe > 0) (Bailey and López de Prado 2012); NaN without variation.

    Skewness and kurtosis are the biased sample moments.
    """
    daily_sharpe = sharpe(returns) / math.sqrt(DAYS_PER_YEAR)
    if math.isnan(daily_sharpe):
        return math.nan
    standard = (returns - returns.mean()) / returns.std()
    skewness, kurtosis = float((standard**3).mean()), float((standard**4).mean())
    variance = 1.0 - skewness * daily_sharpe + (kurtosis - 1.0) / 4.0 * daily_sharpe**2
    # With few, very skewed returns the approximation's variance may not be positive.
    if variance <= 0.0:
        return math.nan
    return NormalDist().cdf(daily_sharpe * math.sqrt((len(returns) - 1) / variance))


def _activity_details(span: TradingSpan, waterfall: Waterfall) -> tuple[Detail, ...]:
    equity = span.frames.equity
    level = equity["equity"].to_numpy(dtype=np.float64)
    gross = equity["gross_exposure"].to_numpy(dtype=np.float64)
    net = equity["net_exposure"].to_numpy(dtype=np.float64)
    days = float(span.daily.ts[-1] - span.daily.ts[0]) / NS_PER_DAY
    traded, cost = waterfall.traded_value, waterfall.fees + waterfall.slippage
    before_costs = waterfall.gross + waterfall.funding
    none, ruin = "no trades", "equity was zero or below"
    usable = bool((level > 0.0).all())
    return (
        _detail("turnover", "Turnover", _ratio(traded / days, float(level.mean()))
                if usable else math.nan, "times equity per day", ruin),
        _detail("time_in_market", "Time in the market", float((gross > 0.0).mean()), "fraction",
                ""),
        _detail("gross_exposure", "Mean gross exposure", _mean_share(gross, level, usable),
                "fraction of equity", ruin),
        _detail("net_exposure", "Mean net exposure", _mean_share(net, level, usable),
                "fraction of equity", ruin),
        _detail("cost_bps", "Cost of a traded unit (fees and slippage)",
                _BPS * _ratio(cost, traded), "bps", none),
        _detail("break_even_cost_bps", "Break-even cost of a traded unit",
                _BPS * _ratio(before_costs, traded), "bps", none),
    )  # fmt: skip


def _mean_share(part: Float64Array, whole: Float64Array, usable: bool) -> float:
    return float((part / whole).mean()) if usable else math.nan


def trade_results(positions: pd.DataFrame) -> tuple[Float64Array, Float64Array]:
    """Return the net result of each closed position: USDT, and bps of its opening value."""
    net = (positions["realized_pnl"] - positions["commission"] + positions["funding"]).to_numpy(
        dtype=np.float64
    )
    value = (positions["quantity"] * positions["average_open"]).to_numpy(dtype=np.float64)
    return net, _BPS * net / value


def _trades(span: TradingSpan) -> tuple[Detail, ...]:
    net, bps = trade_results(span.frames.positions)
    held = span.frames.positions
    hours = (held["ts_closed"] - held["ts_opened"]).to_numpy(dtype=np.float64) / (NS_PER_DAY / 24)
    none = "no closed trades"
    any_trade = len(net) > 0
    return (
        _detail("win_rate", "Trades that won after costs",
                float((net > 0.0).mean()) if any_trade else math.nan, "fraction", none),
        _detail("average_trade_bps", "Mean result of a trade after costs",
                float(bps.mean()) if any_trade else math.nan, "bps", none),
        _detail("median_hours_held", "Median time held",
                float(np.median(hours)) if any_trade else math.nan, "hours", none),
    )  # fmt: skip
