"""What quantstats says about daily returns, with a year of 365 days.

quantstats annualises with 252 days by default and takes seconds to import (it brings its plots
and a market-data client along). It is therefore imported only when asked.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from catalog.errors import DataError
from catalog.timestamps import DAYS_PER_YEAR, NS_PER_DAY
from research.performance import DailyEquity

if TYPE_CHECKING:
    import pandas as pd

_PERIODS: dict[str, Any] = {"periods": DAYS_PER_YEAR}
# quantstats' function, label, keyword arguments, whether the value is a fraction to print as %.
_ROWS: tuple[tuple[str, str, dict[str, Any], bool], ...] = (
    ("comp", "Cumulative return", {}, True),
    ("cagr", "Compound annual growth", _PERIODS, True),
    ("volatility", "Annual volatility", _PERIODS, True),
    ("sharpe", "Sharpe", _PERIODS, False),
    ("smart_sharpe", "Smart Sharpe (penalised for autocorrelation)", _PERIODS, False),
    ("sortino", "Sortino", _PERIODS, False),
    ("calmar", "Calmar", _PERIODS, False),
    ("max_drawdown", "Largest drawdown", {}, True),
    ("ulcer_index", "Ulcer index", {}, False),
    ("value_at_risk", "Daily value at risk, 95 %", {}, True),
    ("cvar", "Expected shortfall, 95 %", {}, True),
    ("skew", "Skewness of daily returns", {}, False),
    ("kurtosis", "Excess kurtosis of daily returns", {}, False),
    ("tail_ratio", "Tail ratio", {}, False),
    ("best", "Best day", {}, True),
    ("worst", "Worst day", {}, True),
    ("win_rate", "Winning days", {}, True),
    ("profit_factor", "Profit factor of days", {}, False),
    ("gain_to_pain_ratio", "Gain to pain", {}, False),
    ("kelly_criterion", "Kelly fraction", {}, True),
)


class QuantstatsRow(NamedTuple):
    """One number of quantstats; NaN where it gives none."""

    label: str
    value: float
    is_fraction: bool


def daily_returns(daily: DailyEquity) -> pd.Series[float]:
    """Return the daily returns as quantstats wants them: a series by the day that they are of."""
    import pandas as pd

    stamps = pd.to_datetime((daily.ts[1:] - 1) // NS_PER_DAY * NS_PER_DAY)
    return pd.Series(daily.returns, index=stamps, name="strategy")


def quantstats_rows(daily: DailyEquity) -> tuple[QuantstatsRow, ...]:
    """Compute the table.

    Raises
    ------
    DataError
        If there are fewer than two days or equity never moved: quantstats fails on such returns.
    """
    returns = _usable_returns(daily)
    import quantstats.stats as stats

    return tuple(
        QuantstatsRow(label, _number(getattr(stats, name), returns, keywords), is_fraction)
        for name, label, keywords, is_fraction in _ROWS
    )


def _number(
    function: Callable[..., Any], returns: pd.Series[float], keywords: dict[str, Any]
) -> float:
    # It divides by zero on returns without a loss and warns; NaN is printed as such.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(function(returns, **keywords))
    return value if math.isfinite(value) else math.nan


def write_quantstats_report(
    daily: DailyEquity, path: Path, *, title: str, benchmark: DailyEquity | None = None
) -> None:
    """Write quantstats' own HTML report.

    It takes several seconds and carries the date of the day on which it is made, so that it is
    not a part of a run that can be repeated bit for bit.

    Raises
    ------
    DataError
        As `quantstats_rows`.
    """
    returns = _usable_returns(daily)
    import quantstats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantstats.reports.html(  # type: ignore[no-untyped-call]
            returns,
            benchmark=None if benchmark is None else daily_returns(benchmark),
            output=str(path),
            title=title,
            periods_per_year=DAYS_PER_YEAR,
        )


def _usable_returns(daily: DailyEquity) -> pd.Series[float]:
    returns = daily_returns(daily)
    if len(returns) < 2 or daily.ruined or returns.max() == returns.min():
        raise DataError(
            f"quantstats needs at least two days of returns that vary, had {len(returns)} "
            f"{'after ruin' if daily.ruined else 'that do not'}"
        )
    return returns
