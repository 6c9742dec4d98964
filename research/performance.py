"""What a strategy earned, what it paid for it, and how sure one can be.

Everything is computed from the frames that a run leaves behind (fills, positions, funding,
equity) over a span ``(start, end]``. Equity is marked at every midnight UTC; a return is that of
one such day (the first and the last may be shorter) and a year has 365 of them, since crypto
trades every day.

Intervals are those of a stationary bootstrap (Politis and Romano 1994): days are drawn in blocks
of geometric length, going round at the end, and the daily series (returns for ratios, daily sums
for counts and costs) is evaluated on each draw. They say what another run of luck through the
same days would have given; they know nothing of regimes that the span does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array, span_slice
from catalog.errors import ConfigError, DataError, RunFailedError
from catalog.timestamps import DAYS_PER_YEAR, NS_PER_DAY, format_time
from research.estimates import Estimate
from research.metrics import INTERVAL_COVERAGE

if TYPE_CHECKING:
    import pandas as pd

TRADING_METRICS = (
    "net_return",
    "net_sharpe",
    "max_drawdown",
    "trades",
    "fees",
    "slippage",
    "funding",
)
"""Keys of `trading_metrics`, an interface: change none."""
UNEXPLAINED_TOLERANCE = 1e-8
"""Largest gap between fills and equity, as a fraction of the traded value plus the balance."""


class OutcomeFrames(Protocol):
    """What the frames of a run are read from, such as the outcome of a backtest.

    See `TradingFrames` for the columns.
    """

    @property
    def fills(self) -> pd.DataFrame:
        """Every fill."""

    @property
    def positions(self) -> pd.DataFrame:
        """Every position, from flat to flat."""

    @property
    def funding(self) -> pd.DataFrame:
        """Every settlement booked."""

    @property
    def equity(self) -> pd.DataFrame:
        """The account at each bar close."""


@dataclass(frozen=True, slots=True)
class TradingFrames:
    """What a run left behind.

    Parameters
    ----------
    fills : DataFrame
        ts_event, instrument_id, side (1 buy, -1 sell), quantity (positive, base units), price,
        reference_price (before slippage), commission and slippage_cost (USDT, cost positive).
    positions : DataFrame
        ts_opened, ts_closed, instrument_id, side, quantity, average_open, realized_pnl (USDT,
        before costs), commission (USDT, cost positive), funding (USDT, received positive), and
        optionally reason. Those that the end of the data found open count as closed there.
    funding : DataFrame
        ts_event, payment (USDT, received positive).
    equity : DataFrame
        ts_init, equity, gross_exposure, net_exposure (USDT), one row for each bar close.
    """

    fills: pd.DataFrame
    positions: pd.DataFrame
    funding: pd.DataFrame
    equity: pd.DataFrame


@dataclass(frozen=True, slots=True)
class DailyEquity:
    """Equity at the start, at every midnight UTC in between and at the end.

    Parameters
    ----------
    ts : (n_days + 1,) int64
        UTC nanoseconds.
    equity : (n_days + 1,) float64
        Last equity known at each of them, USDT.
    """

    ts: Int64Array
    equity: Float64Array

    @property
    def returns(self) -> Float64Array:
        """Simple return of each day, (n_days,); NaN after equity has reached zero."""
        before = np.where(self.equity[:-1] > 0.0, self.equity[:-1], np.nan)
        return np.asarray(self.equity[1:] / before - 1.0)

    @property
    def ruined(self) -> bool:
        """Whether equity was zero or below at any mark."""
        return bool((self.equity <= 0.0).any())

    def day_of(self, ts: Int64Array) -> Int64Array:
        """Return the number of the day ``(ts[i], ts[i + 1]]`` in which each time lies."""
        return np.searchsorted(self.ts, ts, side="left").astype(np.int64) - 1


@dataclass(frozen=True, slots=True)
class Waterfall:
    """From gross to net, USDT: ``gross - fees - slippage + funding = net``.

    Parameters
    ----------
    gross : float
        What the positions earned at prices before slippage.
    fees, slippage : float
        Costs, positive when paid.
    funding : float
        Settlements, positive when received.
    net : float
        Change of equity.
    unexplained : float
        Gross as computed from fills at reference prices and open positions, minus `gross`. Zero
        but for rounding, unless the run's books are wrong.
    traded_value : float
        Sum of quantity times price over all fills.
    """

    gross: float
    fees: float
    slippage: float
    funding: float
    net: float
    unexplained: float
    traded_value: float

    def check(self, balance: float) -> None:
        """Refuse books in which fills and equity tell different stories.

        Parameters
        ----------
        balance : float
            Equity at the start, USDT: the scale of what is small.

        Raises
        ------
        RunFailedError
            If the unexplained part exceeds `UNEXPLAINED_TOLERANCE` of balance and traded value.
        """
        limit = UNEXPLAINED_TOLERANCE * (abs(balance) + self.traded_value)
        if not abs(self.unexplained) <= limit:
            raise RunFailedError(
                f"the fills' profit must agree with the change of equity to {limit:.6f} USDT, "
                f"differed by {self.unexplained:.6f}; the run's result must not be used"
            )


@dataclass(frozen=True, slots=True)
class TradingSpan:
    """The part of a run in ``(start, end]``, as columns.

    Parameters
    ----------
    daily : DailyEquity
        Marks from start to end.
    frames : TradingFrames
        Rows of the span only.
    exposure_change : float
        Marked value of what is held at the end minus that at the start, USDT, signed.
    """

    daily: DailyEquity
    frames: TradingFrames
    exposure_change: float

    @classmethod
    def cut(cls, frames: OutcomeFrames, *, start: int, end: int, starting_balance: float) -> Self:
        """Cut a span out of a run.

        Parameters
        ----------
        frames : OutcomeFrames
            Of the whole run; each in time order.
        start, end : int
            The span ``(start, end]``, UTC nanoseconds.
        starting_balance : float
            Equity before the first row of the run's equity, USDT.

        Raises
        ------
        ConfigError
            If the span is empty or the balance not positive.
        DataError
            If the span has no row of equity, or a frame is not in time order.
        """
        if end <= start:
            raise ConfigError(f"end must be after start, was {end} against {start}")
        if not starting_balance > 0.0:
            raise ConfigError(f"starting_balance must be positive, was {starting_balance}")
        equity = frames.equity
        rows = span_slice(_times(equity, "ts_init", "equity"), start, end)
        if rows.start == rows.stop:
            raise DataError(
                f"equity must have a row after {format_time(start)} and no later than "
                f"{format_time(end)}, had none; replay the span first"
            )
        held = equity["net_exposure"].to_numpy(dtype=np.float64)
        return cls(
            daily=daily_equity(equity, start=start, end=end, starting_balance=starting_balance),
            frames=TradingFrames(
                fills=_between(frames.fills, "ts_event", start, end),
                positions=_between(
                    frames.positions.sort_values("ts_closed", kind="stable"),
                    "ts_closed",
                    start,
                    end,
                ),
                funding=_between(frames.funding, "ts_event", start, end),
                equity=equity.iloc[rows],
            ),
            exposure_change=held[rows.stop - 1] - (held[rows.start - 1] if rows.start else 0.0),
        )

    def daily_sum(self, frame: pd.DataFrame, time: str, column: str | None) -> Float64Array:
        """Return the sum of a column (or the number of rows) for each day, (n_days,)."""
        day = self.daily.day_of(frame[time].to_numpy(dtype=np.int64))
        weights = None if column is None else frame[column].to_numpy(dtype=np.float64)
        sums = np.bincount(day, weights=weights, minlength=len(self.daily.ts) - 1)
        return sums.astype(np.float64)


def _times(frame: pd.DataFrame, column: str, name: str) -> Int64Array:
    ts = frame[column].to_numpy(dtype=np.int64)
    if (np.diff(ts) < 0).any():
        row = int(np.flatnonzero(np.diff(ts) < 0)[0]) + 1
        raise DataError(f"{name} must be in the order of {column}, row {row} goes back in time")
    return ts


def _between(frame: pd.DataFrame, column: str, start: int, end: int) -> pd.DataFrame:
    return frame.iloc[span_slice(_times(frame, column, f"the frame of {column}"), start, end)]


def daily_equity(
    equity: pd.DataFrame, *, start: int, end: int, starting_balance: float
) -> DailyEquity:
    """Mark equity at the start, at every midnight UTC inside the span and at the end.

    Parameters
    ----------
    equity : DataFrame
        ts_init and equity, in time order; may reach beyond the span.
    start, end : int
        UTC nanoseconds.
    starting_balance : float
        Equity before the first row, USDT.
    """
    # Not arange with a step: it counts in floating point, which is too coarse for nanoseconds.
    days = np.arange(start // NS_PER_DAY + 1, (end - 1) // NS_PER_DAY + 1, dtype=np.int64)
    marks = np.concatenate([[start], days * NS_PER_DAY, [end]])
    ts = _times(equity, "ts_init", "equity")
    known = np.append(starting_balance, equity["equity"].to_numpy(dtype=np.float64))
    return DailyEquity(marks, known[np.searchsorted(ts, marks, side="right")])


def block_bootstrap_rows(
    n_rows: int, *, samples: int, mean_block: float, seed: int
) -> NDArray[np.int64]:
    """Draw rows for a stationary bootstrap (Politis and Romano 1994, section 2).

    Parameters
    ----------
    n_rows : int
        Length of the series.
    samples : int
        Number of draws.
    mean_block : float
        Mean of the geometric length of a block, in rows.
    seed : int
        Same seed, same draws.

    Returns
    -------
    (samples, n_rows) int64
        Row numbers; each draw is as long as the series.
    """
    random = np.random.default_rng(seed)
    first = random.integers(0, n_rows, (samples, n_rows))
    fresh = random.random((samples, n_rows)) < 1.0 / mean_block
    fresh[:, 0] = True
    column = np.arange(n_rows)
    began = np.maximum.accumulate(np.where(fresh, column, 0), axis=1)
    return np.asarray((np.take_along_axis(first, began, axis=1) + column - began) % n_rows)


def trading_metrics(
    frames: OutcomeFrames,
    *,
    start: int,
    end: int,
    starting_balance: float,
    seed: int = 7,
    samples: int = 1000,
    mean_block_days: float = 7.0,
) -> dict[str, Estimate]:
    """Measure a span of a run, with 95 % intervals.

    Parameters
    ----------
    frames : OutcomeFrames
        Of the whole run, such as a backtest's outcome.
    start, end : int
        The span ``(start, end]``, UTC nanoseconds; a fold's span gives the fold's metrics.
    starting_balance : float
        Equity before the first row of the run, USDT.
    seed, samples, mean_block_days
        Of the bootstrap: seed of the draws, their number, mean length of a block.

    Returns
    -------
    dict of str to Estimate
        * `net_return`: change of equity, fraction. Interval: compounded daily returns.
        * `net_sharpe`: mean over standard deviation (n - 1) of daily returns, times the root of
          365; no risk-free rate. NaN where it is not defined (see `undefined_reasons`).
        * `max_drawdown`: largest fall from a peak between daily marks, fraction, never positive.
        * `trades`: positions, those open at the end included. `fees`, `slippage`: USDT, paid
          positive. `funding`: USDT, received positive. Interval: sums of bootstrapped days.

    Raises
    ------
    ConfigError, DataError
        As `TradingSpan.cut`.
    """
    span = TradingSpan.cut(frames, start=start, end=end, starting_balance=starting_balance)
    own = span.frames
    sums = {
        "trades": span.daily_sum(own.positions, "ts_closed", None),
        "fees": span.daily_sum(own.fills, "ts_event", "commission"),
        "slippage": span.daily_sum(own.fills, "ts_event", "slippage_cost"),
        "funding": span.daily_sum(own.funding, "ts_event", "payment"),
    }
    returns = span.daily.returns
    rows = block_bootstrap_rows(
        len(returns), samples=samples, mean_block=mean_block_days, seed=seed
    )
    found = _return_metrics(span.daily, returns[rows])
    found |= {
        name: estimate_of(math.fsum(day), day[rows].sum(axis=1)) for name, day in sums.items()
    }
    return {name: found[name] for name in TRADING_METRICS}


def _return_metrics(daily: DailyEquity, draws: Float64Array) -> dict[str, Estimate]:
    """Return the three metrics of daily returns; `draws` is (samples, n_days)."""
    returns = daily.returns
    measures: dict[str, Callable[[Float64Array], Float64Array]] = {
        "net_return": lambda rows: np.prod(1.0 + rows, axis=1) - 1.0,
        "net_sharpe": sharpe_rows,
        "max_drawdown": drawdown_rows,
    }
    if daily.ruined or draws.shape[1] < 2:
        draws = np.empty((0, len(returns)))
    found = {
        name: estimate_of(float(measure(returns[None, :])[0]), measure(draws))
        for name, measure in measures.items()
    }
    exact = {"net_return": net_return(daily), "max_drawdown": max_drawdown(daily.equity)}
    return {name: found[name]._replace(value=exact.get(name, found[name].value)) for name in found}


def sharpe_rows(returns: Float64Array) -> Float64Array:
    """Return the annualised Sharpe ratio of each row, NaN where nothing varies."""
    if returns.shape[1] < 2:
        return np.full(len(returns), np.nan)
    deviation = returns.std(axis=1, ddof=1)
    # Equal returns have a deviation of rounding noise only, which must not become a ratio.
    varies = returns.max(axis=1) > returns.min(axis=1)
    safe = np.where(varies, deviation, np.nan)
    return np.asarray(returns.mean(axis=1) / safe * math.sqrt(DAYS_PER_YEAR))


def drawdown_rows(returns: Float64Array) -> Float64Array:
    """Return the largest fall from a peak of each row's compounded returns."""
    level = np.cumprod(1.0 + returns, axis=1)
    peak = np.maximum(np.maximum.accumulate(level, axis=1), 1.0)
    return np.asarray((level / peak - 1.0).min(axis=1, initial=0.0))


def estimate_of(value: float, draws: Float64Array) -> Estimate:
    """Return a value with the central 95 % of what resampling gave; no interval without any."""
    usable = draws[np.isfinite(draws)]
    if not math.isfinite(value) or len(usable) == 0:
        return Estimate(value, math.nan, math.nan)
    tail = (1.0 - INTERVAL_COVERAGE) / 2.0
    low, high = np.quantile(usable, [tail, 1.0 - tail])
    return Estimate(value, float(low), float(high))


def net_return(daily: DailyEquity) -> float:
    """Return the change of equity as a fraction of that at the start; NaN if that was not > 0."""
    first = float(daily.equity[0])
    return float(daily.equity[-1]) / first - 1.0 if first > 0.0 else math.nan


def sharpe(returns: Float64Array) -> float:
    """Return the annualised Sharpe ratio of daily returns; NaN where it is not defined."""
    return float(sharpe_rows(returns[None, :])[0])


def max_drawdown(equity: Float64Array) -> float:
    """Return the largest fall from a peak as a fraction, never positive; NaN without a peak > 0."""
    peak = np.maximum.accumulate(equity)
    return float((equity / peak - 1.0).min()) if peak[0] > 0.0 else math.nan


def undefined_reasons(span: TradingSpan) -> dict[str, str]:
    """Return for each headline ratio that has no value (NaN, JSON null) why, in words."""
    daily = span.daily
    reasons = {}
    if not daily.equity[0] > 0.0:
        reasons["net_return"] = reasons["max_drawdown"] = "equity was used up before the span"
    if math.isnan(sharpe(daily.returns)):
        if daily.ruined:
            reason = "equity fell to zero or below"
        elif len(daily.returns) < 2:
            reason = "needs at least two days"
        elif len(span.frames.fills) == 0:
            reason = "no trades, so that equity never moved"
        else:
            reason = "all daily returns are equal"
        reasons["net_sharpe"] = reason
    return reasons


def cost_waterfall(span: TradingSpan) -> Waterfall:
    """Split the change of equity into gross profit, fees, slippage and funding.

    Gross is net plus costs, so that the parts add up; `unexplained` compares it with the profit
    computed anew from fills at reference prices and the marked value of what is held.
    """
    fills = span.frames.fills
    quantity = fills["quantity"].to_numpy(dtype=np.float64)
    signed = quantity * fills["side"].to_numpy(dtype=np.float64)
    fees = math.fsum(fills["commission"])
    slippage = math.fsum(fills["slippage_cost"])
    funding = math.fsum(span.frames.funding["payment"])
    net = float(span.daily.equity[-1] - span.daily.equity[0])
    gross = math.fsum([net, fees, slippage, -funding])
    reference = fills["reference_price"].to_numpy(dtype=np.float64)
    from_fills = math.fsum([span.exposure_change, *(-signed * reference).tolist()])
    return Waterfall(
        gross=gross,
        fees=fees,
        slippage=slippage,
        funding=funding,
        net=net,
        unexplained=from_fills - gross,
        traded_value=math.fsum(quantity * fills["price"].to_numpy(dtype=np.float64)),
    )
