"""What a signal is worth before anything trades on it: order, spread, decay and turnover.

A signal is one number for each instrument and bar: the larger, the more the price should rise. It
is known when its bar closes and is held against what could have been earned from then on: bought
at the next open, sold at the open `horizon` bars later. Nothing here knows fees or thresholds.

Ranks are taken within each instrument over the whole span, so that neither the level nor the
volatility of an instrument counts as skill; the pooled information coefficient is then the mean of
the instruments', weighted by rows. The one called ``cross-section`` compares instruments with each
other at each time instead (Grinold and Kahn, 2000, chapter 6).

Returns over several bars overlap, and the days of all instruments move together. Intervals
therefore come from the stationary bootstrap over whole UTC days of `research.metrics`, in blocks of
a mean length of at least twice the return's own span; the p-value is that of a mean of zero by
daily sums whose long-run variance reaches over the span (see `research.comparisons`), corrected by
Holm's method for the number of horizons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from catalog.arrays import BarArrays, Float64Array, Int64Array
from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY
from research.comparisons import MIN_DAYS, diebold_mariano, holm
from research.estimates import Estimate
from research.metrics import day_weights
from research.performance import estimate_of
from research.signal_results import (
    CROSS_SECTION,
    POOLED,
    InformationRow,
    MonthRow,
    QuantileRow,
    SignalConfig,
    SignalQuality,
    SpreadRow,
    TurnoverRow,
)

if TYPE_CHECKING:
    import pandas as pd

MIN_INSTRUMENTS = 3
"""Fewer instruments than this at one time have no order to speak of."""
_BPS = 1e4


def forward_returns(
    bars: BarArrays, ts_init: Int64Array, *, horizon_bars: int, delay_bars: int = 0
) -> Float64Array:
    """Return what could be earned after each time: from the next open to one `horizon_bars` later.

    The bar that opens at ``ts_init`` (and closes an interval later) is the first that somebody who
    knows the signal can buy in; a delay moves both ends. Opens are looked up by time: where one of
    the two bars is missing, nothing is known.

    Parameters
    ----------
    bars : BarArrays
        Of one instrument.
    ts_init : (n,) int64
        When each signal became known: the close of its bar, UTC nanoseconds.
    horizon_bars, delay_bars : int
        How long it is held, and by how many bars one is late.

    Returns
    -------
    (n,) float64
        Simple returns, fractions; NaN where not known.
    """
    bought = _open_at(bars, ts_init + (delay_bars + 1) * bars.interval_ns)
    sold = _open_at(bars, ts_init + (delay_bars + 1 + horizon_bars) * bars.interval_ns)
    return np.asarray(sold / bought - 1.0)


def _open_at(bars: BarArrays, closes: Int64Array) -> Float64Array:
    """Return the opens of the bars that close at given times, NaN where there is none."""
    place = np.minimum(np.searchsorted(bars.ts_init, closes), len(bars) - 1)
    return np.where(bars.ts_init[place] == closes, bars.open[place], np.nan)


def signal_quality(
    frame: pd.DataFrame, bars: Sequence[BarArrays], config: SignalConfig, column: str = "prob_up"
) -> SignalQuality:
    """Measure a signal against the bars that followed.

    Parameters
    ----------
    frame : DataFrame
        Columns ts_init (int64 UTC ns), instrument_id and `column` (NaN for no signal), such as a
        run's out-of-sample predictions. Each value must have been known at its ts_init.
    bars : sequence of BarArrays
        Of these instruments, at the interval of the signal, reaching beyond it as far as the
        returns do.
    config : SignalConfig
        What is measured.
    column : str
        The signal.

    Raises
    ------
    DataError
        If a column is missing, an instrument has no bars, a row is there twice, or no row has both
        a signal and a return.
    """
    signal = _Signal.of(frame, bars, column)
    every = {h: signal.returns(h) for h in config.horizons_bars}
    own = signal.returns(config.horizon_bars)
    late = {d: signal.returns(config.horizon_bars, d) for d in config.delays_bars}
    if not np.isfinite(own[~np.isnan(signal.value)]).any():
        raise DataError(
            f"the signal {column!r} must have rows with a return {config.horizon_bars} bars "
            f"ahead, none of {len(own)} has; give bars that reach beyond the signal"
        )
    information, delays, spreads, quantiles, turnover = [], [], [], [], []
    for scope in signal.scopes():
        information += _information(
            signal, scope, {(h, 0): found for h, found in every.items()}, config
        )
        delays += _information(
            signal, scope, {(config.horizon_bars, d): found for d, found in late.items()}, config
        )
        if scope == CROSS_SECTION:
            continue
        spreads += [_spread(signal, scope, h, found, config)[0] for h, found in every.items()]
        quantiles += _spread(signal, scope, config.horizon_bars, own, config)[1]
        turnover += _turnover(signal, scope, config)
    return SignalQuality(
        column,
        signal.interval_ns,
        config,
        tuple(information),
        tuple(delays),
        tuple(spreads),
        tuple(quantiles),
        tuple(turnover),
        _months(signal, own),
    )


def information_decay(
    frame: pd.DataFrame, bars: Sequence[BarArrays], config: SignalConfig, column: str = "prob_up"
) -> tuple[InformationRow, ...]:
    """Return the pooled information coefficients by horizon alone, as `signal_quality` has them.

    Parameters
    ----------
    frame, bars, config, column
        As for `signal_quality`; no delays, quantiles or turnover are measured, which takes a tenth
        of the time.

    Raises
    ------
    DataError
        As `signal_quality`.
    """
    signal = _Signal.of(frame, bars, column)
    returns = {(h, 0): signal.returns(h) for h in config.horizons_bars}
    return tuple(_information(signal, POOLED, returns, config))


@dataclass(frozen=True, slots=True, eq=False)
class _Signal:
    """Signals sorted by instrument and time, beside the bars they are held against."""

    bars: tuple[BarArrays, ...]
    code: Int64Array
    ts: Int64Array
    value: Float64Array
    day: Int64Array
    n_days: int

    @classmethod
    def of(cls, frame: pd.DataFrame, bars: Sequence[BarArrays], column: str) -> Self:
        missing = [
            name for name in ("ts_init", "instrument_id", column) if name not in frame.columns
        ]
        if missing:
            raise DataError(f"signals must have the columns {missing}, had {list(frame.columns)}")
        there = {one.instrument_id: one for one in bars if len(one)}
        names = sorted(set(frame["instrument_id"]))
        without = [name for name in names if name not in there]
        if without or not names:
            raise DataError(
                f"every instrument of the signal must have bars, {without or 'none'} had; load "
                "the bars of the signal's instruments"
            )
        lookup = {name: number for number, name in enumerate(names)}
        code = frame["instrument_id"].map(lookup).to_numpy(dtype=np.int64)
        ts = frame["ts_init"].to_numpy(dtype=np.int64)
        order = np.lexsort((ts, code))
        code, ts = code[order], ts[order]
        twice = np.flatnonzero((np.diff(code) == 0) & (np.diff(ts) == 0))
        if len(twice):
            raise DataError(
                f"the signal must have one row for an instrument and time, {len(twice)} are there "
                f"twice, the first of {names[code[twice[0]]]} at {ts[twice[0]]}"
            )
        value = frame[column].to_numpy(dtype=np.float64)[order]
        days, day = np.unique((ts - 1) // NS_PER_DAY, return_inverse=True)
        own = tuple(there[name] for name in names)
        return cls(own, code, ts, value, day.astype(np.int64), len(days))

    @property
    def interval_ns(self) -> int:
        return self.bars[0].interval_ns

    def scopes(self) -> tuple[str, ...]:
        names = tuple(one.instrument_id for one in self.bars)
        several = (POOLED,) if len(names) < MIN_INSTRUMENTS else (POOLED, CROSS_SECTION)
        return names + several

    def returns(self, horizon_bars: int, delay_bars: int = 0) -> Float64Array:
        return np.concatenate(
            [
                forward_returns(
                    one,
                    self.ts[self.code == number],
                    horizon_bars=horizon_bars,
                    delay_bars=delay_bars,
                )
                for number, one in enumerate(self.bars)
            ]
        )

    def inside(self, scope: str) -> Int64Array:
        """Return the rows of a scope."""
        names = [one.instrument_id for one in self.bars]
        if scope not in names:
            return np.arange(len(self.ts))
        return np.flatnonzero(self.code == names.index(scope))

    def day_sums(self, rows: Int64Array, columns: Float64Array) -> Float64Array:
        """Return sums by day, (n_days, n_columns), of values (n_rows, n_columns)."""
        return np.stack(
            [np.bincount(self.day[rows], column, self.n_days) for column in columns.T], axis=1
        )

    def draws(self, config: SignalConfig, bars_ahead: int) -> Float64Array:
        """Return bootstrap counts of days in blocks that outlast returns over so many bars."""
        span_days = bars_ahead * self.interval_ns / NS_PER_DAY
        own = config.bootstrap
        block = max(own.mean_block_days, 2.0 * span_days)
        return day_weights(self.n_days, own.samples, block, own.seed)


def _standard_ranks(values: Float64Array, code: Int64Array) -> Float64Array:
    """Return ranks within each instrument with mean 0 and variance 1; NaN where all are equal."""
    from scipy.stats import rankdata

    found = np.full(len(values), np.nan)
    for number in np.unique(code):
        rows = np.flatnonzero(code == number)
        ranks = rankdata(values[rows])
        spread = float(ranks.std())
        if spread > 0.0:
            found[rows] = (ranks - ranks.mean()) / spread
    return found


def _products(
    signal: _Signal, scope: str, returns: Float64Array
) -> tuple[Int64Array, Float64Array]:
    """Return rows and, for each, the part of the coefficient, which is their mean.

    In the cross-section the rows are the first of each time, and the parts its rank correlations.
    """
    rows = signal.inside(scope)
    rows = rows[~np.isnan(signal.value[rows]) & ~np.isnan(returns[rows])]
    if scope == CROSS_SECTION:
        return _cross_section(signal, rows, returns)
    code = signal.code[rows]
    part = _standard_ranks(signal.value[rows], code) * _standard_ranks(returns[rows], code)
    known = ~np.isnan(part)
    return rows[known], part[known]


def _cross_section(
    signal: _Signal, rows: Int64Array, returns: Float64Array
) -> tuple[Int64Array, Float64Array]:
    """Return a row of each time at which enough instruments are there, and its rank correlation."""
    _, time = np.unique(signal.ts[rows], return_inverse=True)
    enough = np.bincount(time)[time] >= MIN_INSTRUMENTS
    rows, time = rows[enough], time[enough].astype(np.int64)
    if len(rows) == 0:
        return rows, np.empty(0)
    ours, theirs = (_ranks_by_group(values[rows], time) for values in (signal.value, returns))
    sums = [np.bincount(time, values) for values in (ours * theirs, ours**2, theirs**2)]
    there = (sums[1] > 0.0) & (sums[2] > 0.0)
    first = np.full(len(there), -1, dtype=np.int64)
    first[time[::-1]] = rows[::-1]
    found = sums[0][there] / np.sqrt(sums[1][there] * sums[2][there])
    return first[there], found


def _ranks_by_group(values: Float64Array, group: Int64Array) -> Float64Array:
    """Return ranks within each group less their mean, ties sharing theirs; groups are small."""
    order = np.lexsort((values, group))
    place = np.arange(len(values), dtype=np.float64)
    sorted_group, sorted_values = group[order], values[order]
    tied = np.concatenate([[False], (np.diff(sorted_group) == 0) & (np.diff(sorted_values) == 0.0)])
    number = np.cumsum(~tied) - 1
    shared = (np.bincount(number, place) / np.bincount(number))[number]
    ranks = np.empty(len(values))
    ranks[order] = shared
    mean = np.bincount(group, ranks) / np.maximum(np.bincount(group), 1)
    return np.asarray(ranks - mean[group])


def _information(
    signal: _Signal,
    scope: str,
    returns: Mapping[tuple[int, int], Float64Array],
    config: SignalConfig,
) -> list[InformationRow]:
    """Return the coefficients of a scope by (horizon, delay), with Holm's correction."""
    found = []
    for (horizon, delay), values in returns.items():
        rows, part = _products(signal, scope, values)
        if len(part) == 0:
            nowhere = Estimate(math.nan, math.nan, math.nan)
            found.append(InformationRow(scope, horizon, delay, 0, nowhere, math.nan, math.nan))
            continue
        ones = np.ones_like(part)
        sums = signal.day_sums(rows, np.stack([part, ones], axis=1))
        drawn = _drawn(signal.draws(config, horizon + delay), sums)
        # Ranks are those of the whole span, so that a mean over drawn days is no correlation of
        # theirs and may lie beyond what any can be.
        drawn_ics = np.clip(drawn[:, 0] / np.maximum(drawn[:, 1], 1.0), -1.0, 1.0)
        ic = estimate_of(float(part.mean()), drawn_ics)
        there = sums[:, 1] > 0.0
        span_days = math.ceil((horizon + delay) * signal.interval_ns / NS_PER_DAY)
        test = diebold_mariano(sums[there, 0], sums[there, 1], horizon_steps=1 + span_days)
        p = test.p if int(there.sum()) >= MIN_DAYS else math.nan
        found.append(InformationRow(scope, horizon, delay, len(part), ic, p, math.nan))
    corrected = holm(np.array([row.p for row in found]))
    return [row._replace(p_holm=float(p)) for row, p in zip(found, corrected, strict=True)]


def _drawn(weights: Float64Array, sums: Float64Array) -> Float64Array:
    # Not a BLAS product: its rounding depends on the number of threads.
    return np.asarray(np.einsum("sd,dk->sk", weights, sums, optimize=False))


def _quantile_of(signal: _Signal, rows: Int64Array, quantiles: int) -> Int64Array:
    """Return each row's quantile among its instrument's rows, from 0; equal signals together."""
    from scipy.stats import rankdata

    found = np.empty(len(rows), dtype=np.int64)
    for number in np.unique(signal.code[rows]):
        own = np.flatnonzero(signal.code[rows] == number)
        place = (rankdata(signal.value[rows[own]]) - 0.5) / len(own)
        found[own] = np.minimum((place * quantiles).astype(np.int64), quantiles - 1)
    return found


def _spread(
    signal: _Signal, scope: str, horizon: int, returns: Float64Array, config: SignalConfig
) -> tuple[SpreadRow, list[QuantileRow]]:
    """Return the spread of a scope at a horizon, and the quantiles behind it."""
    rows = signal.inside(scope)
    rows = rows[~np.isnan(signal.value[rows]) & ~np.isnan(returns[rows])]
    n = config.quantiles
    quantile = _quantile_of(signal, rows, n)
    inside = (quantile[:, None] == np.arange(n)).astype(np.float64)
    bps = _BPS * returns[rows]
    sums = signal.day_sums(rows, np.concatenate([inside * bps[:, None], inside], axis=1))
    total = sums.sum(axis=0)
    drawn = _drawn(signal.draws(config, horizon), sums)
    means, drawn_means = _means(total[None], n)[0], _means(drawn, n)
    table = [
        QuantileRow(
            scope, q + 1, int(total[n + q]), estimate_of(float(means[q]), drawn_means[:, q])
        )
        for q in range(n)
    ]
    spread = estimate_of(float(means[-1] - means[0]), drawn_means[:, -1] - drawn_means[:, 0])
    return SpreadRow(scope, horizon, spread, _monotony(means)), table


def _means(sums: Float64Array, n: int) -> Float64Array:
    """Return means from sums and counts side by side, NaN where there are no rows."""
    count = sums[:, n:]
    return np.asarray(sums[:, :n] / np.where(count > 0.0, count, np.nan))


def _monotony(means: Float64Array) -> float:
    from scipy.stats import rankdata

    if np.isnan(means).any() or float(means.min()) == float(means.max()):
        return math.nan
    return float(np.corrcoef(np.arange(len(means)), rankdata(means))[0, 1])


def _turnover(signal: _Signal, scope: str, config: SignalConfig) -> list[TurnoverRow]:
    """Return how much of the signal stays over lags of one bar and of the horizons."""
    rows = signal.inside(scope)
    rows = rows[~np.isnan(signal.value[rows])]
    code, ts = signal.code[rows], signal.ts[rows]
    ranks = _standard_ranks(signal.value[rows], code)
    quantile = _quantile_of(signal, rows, config.quantiles)
    found = []
    for lag in sorted({1, *config.horizons_bars}):
        before = _rows_before(code, ts, lag * signal.interval_ns)
        there = np.flatnonzero(before >= 0)
        both = ranks[there] * ranks[before[there]]
        changed = [
            _share(quantile[before[there]][quantile[there] == end] != end)
            for end in (config.quantiles - 1, 0)
        ]
        level = float(np.nanmean(both)) if np.isfinite(both).any() else math.nan
        found.append(TurnoverRow(scope, lag, level, changed[0], changed[1]))
    return found


def _share(marks: Any) -> float:
    return float(np.mean(marks)) if len(marks) else math.nan


def _rows_before(code: Int64Array, ts: Int64Array, lag_ns: int) -> Int64Array:
    """Return the row of the same instrument exactly so much earlier, -1 where there is none."""
    found = np.full(len(ts), -1, dtype=np.int64)
    for number in np.unique(code):
        own = np.flatnonzero(code == number)
        place = np.searchsorted(ts[own], ts[own] - lag_ns)
        same = ts[own[place]] == ts[own] - lag_ns
        found[own[same]] = own[place[same]]
    return found


def _months(signal: _Signal, returns: Float64Array) -> tuple[MonthRow, ...]:
    rows, part = _products(signal, POOLED, returns)
    months = ((signal.ts[rows] - 1) // NS_PER_DAY).astype("datetime64[D]").astype("datetime64[M]")
    return tuple(
        MonthRow(str(month), int((months == month).sum()), float(part[months == month].mean()))
        for month in np.unique(months)
    )
