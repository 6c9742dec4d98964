"""How good predictions are, with intervals that respect how markets cluster.

Rows of one day are not independent: volatility clusters, and all instruments move together. The
intervals therefore come from a stationary bootstrap (Politis and Romano, 1994) over whole UTC
days that all instruments share: blocks of consecutive days of geometric length are drawn until
there are as many days as in the sample, going round at the end.

Every metric is a function of sums by day, so a bootstrap sample is a vector of day counts and
all samples are one matrix product. Ranks need a histogram: rows of equal score stand together,
and where there are more than `MAX_GROUPS` different scores, neighbours are put together for the
intervals (never for the value itself). No metric depends on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from catalog.arrays import Float64Array, Int64Array
from catalog.config import Config
from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY
from research.estimates import Estimate

if TYPE_CHECKING:
    import pandas as pd

PREDICTION_METRICS = (
    "n",
    "auc",
    "accuracy",
    "accuracy_at_10pct",
    "log_loss_skill",
    "brier",
    "ece",
    "accuracy_at_1pct",
)
"""Keys of `prediction_metrics`, an interface: change none, add at the end."""
COVERAGE_FRAC = 0.10
"""Which fraction of the rows, the most confident first, `accuracy_at_10pct` looks at."""
NARROW_COVERAGE_FRAC = 0.01
"""The same for `accuracy_at_1pct`."""
ECE_BINS = 15
INTERVAL_COVERAGE = 0.95
MAX_GROUPS = 2048
_CHUNK = 256  # bootstrap samples at a time: bounds memory to a few MB per histogram


class BootstrapConfig(Config):
    """How intervals are made.

    Parameters
    ----------
    samples : int
        Bootstrap samples; 0 leaves every interval open (NaN).
    mean_block_days : float
        Mean length of a block of consecutive days.
    seed : int
        Seed of the draws.
    """

    samples: int = Field(default=1000, ge=0, le=1_000_000)
    mean_block_days: float = Field(default=7.0, ge=1.0)
    seed: int = Field(default=7, ge=0)


@dataclass(frozen=True, slots=True)
class ReliabilityCurve:
    """What happened against what was said, by bins of about equally many rows.

    Parameters
    ----------
    mean_probability : (n_bins,) float64
        Mean of the predicted probabilities in each bin, ascending.
    observed : tuple of Estimate
        Share of rises in each bin, with its bootstrap interval.
    count : (n_bins,) int64
        Rows in each bin.
    """

    mean_probability: Float64Array
    observed: tuple[Estimate, ...]
    count: Int64Array


def prediction_metrics(
    frame: pd.DataFrame,
    *,
    seed: int = 7,
    samples: int = 1000,
    mean_block_days: float = 7.0,
    column: str = "prob_up",
) -> dict[str, Estimate]:
    """Measure out-of-sample predictions against what happened.

    Parameters
    ----------
    frame : DataFrame
        Columns ts_init (int64 UTC ns), label (1 up, 0 down; rows with NaN are left out),
        base_prob (share of rises in the rows that the row's fold was trained on) and `column`.
    seed, samples, mean_block_days
        See `BootstrapConfig`.
    column : str
        The probabilities of a rise to measure, in (0, 1).

    Returns
    -------
    dict of Estimate
        n                  rows with a label; no interval
        auc                area under the ROC curve, ties count half
        accuracy           share of rows where ``p > 0.5`` agrees with the label; p = 0.5 half
        accuracy_at_10pct  the same over the tenth of the rows with the largest |p - 0.5|; rows
                           tied at its border count in part
        log_loss_skill     1 - LL / LL_base, LL_base that of always saying base_prob, which was
                           known before the test; above 0 is better than the base rate
        brier              mean squared error of the probability
        ece                expected calibration error (Naeini et al., 2015): mean over 15 bins of
                           about equally many rows (equal scores stay together) of
                           |mean probability - share of rises|
        accuracy_at_1pct   as accuracy_at_10pct, over the hundredth

        Intervals are the central 95 % of the bootstrap values. For ece they are moved so that
        the bootstrap mean lies on the value: resampling adds noise, and noise raises ece.
        NaN where one class only is present, or for the ends with fewer than two days.

    Raises
    ------
    DataError
        If a column is missing, no row has a label, or a probability is outside (0, 1).
    """
    rows = _Rows.from_frame(frame, column)
    weights = day_weights(rows.n_days, samples, mean_block_days, seed)
    nan = float("nan")
    found = {"n": Estimate(float(len(rows.label)), nan, nan)}
    found["auc"] = _interval(rows.auc(), _chunked(weights, rows.auc_drawn))
    found["accuracy"] = _mean(rows, rows.hit, weights)
    found["accuracy_at_10pct"] = _top(rows, weights, COVERAGE_FRAC)
    found["log_loss_skill"] = _skill(rows, weights)
    found["brier"] = _mean(rows, (rows.probability - rows.label) ** 2, weights)
    found["ece"] = _ece(rows, weights)
    found["accuracy_at_1pct"] = _top(rows, weights, NARROW_COVERAGE_FRAC)
    return found


def reliability_curve(
    frame: pd.DataFrame,
    bins: int = ECE_BINS,
    *,
    config: BootstrapConfig | None = None,
    column: str = "prob_up",
) -> ReliabilityCurve:
    """Return what a reliability diagram shows.

    Parameters
    ----------
    frame : DataFrame
        As for `prediction_metrics`.
    bins : int
        At most this many bins; fewer where many rows share a score.
    config : BootstrapConfig, optional
        How intervals are made.
    column : str
        The probabilities of a rise.

    Raises
    ------
    DataError
        As `prediction_metrics`.
    """
    config = BootstrapConfig() if config is None else config
    rows = _Rows.from_frame(frame, column)
    bin_of = rows.bins(bins)
    n_bins = int(bin_of.max()) + 1
    count = np.bincount(bin_of, minlength=n_bins)
    mean = np.bincount(bin_of, rows.probability, n_bins) / count
    observed = np.bincount(bin_of, rows.label, n_bins) / count
    weights = day_weights(rows.n_days, config.samples, config.mean_block_days, config.seed)
    ups = _drawn(weights, rows.by_day(bin_of, n_bins, rows.label))
    rows_drawn = _drawn(weights, rows.by_day(bin_of, n_bins, None))
    shares = _ratio(ups, rows_drawn)
    estimates = tuple(_interval(float(observed[b]), shares[:, b]) for b in range(n_bins))
    return ReliabilityCurve(mean, estimates, count.astype(np.int64))


def accuracy_by_coverage(
    frame: pd.DataFrame,
    shares: Sequence[float],
    *,
    config: BootstrapConfig | None = None,
    column: str = "prob_up",
) -> tuple[Estimate, ...]:
    """Return the accuracy over the most confident rows, for several shares of all rows.

    Parameters
    ----------
    frame : DataFrame
        As for `prediction_metrics`.
    shares : sequence of float
        Fractions of the rows in (0, 1]; 0.1 gives `accuracy_at_10pct`, 1 gives `accuracy`.
    config : BootstrapConfig, optional
        How intervals are made.
    column : str
        The probabilities of a rise.

    Raises
    ------
    DataError
        As `prediction_metrics`; also if a share is not in (0, 1].
    """
    wrong = [share for share in shares if not 0.0 < share <= 1.0]
    if wrong:
        raise DataError(f"shares must be in (0, 1], was {wrong[0]}; give fractions of the rows")
    config = BootstrapConfig() if config is None else config
    rows = _Rows.from_frame(frame, column)
    weights = day_weights(rows.n_days, config.samples, config.mean_block_days, config.seed)
    drawn = np.concatenate(
        [
            np.empty((0, len(shares))),  # there may be no samples
            *(rows.accuracies_drawn(chunk, np.asarray(shares)) for chunk in _chunks(weights)),
        ]
    )
    return tuple(
        _interval(rows.top_accuracy(share), drawn[:, at]) for at, share in enumerate(shares)
    )


def day_weights(n_days: int, samples: int, mean_block_days: float, seed: int) -> Float64Array:
    """Draw stationary-bootstrap samples of days (Politis and Romano, 1994, section 2).

    Parameters
    ----------
    n_days : int
        Days in the sample, in time order.
    samples : int
        How many bootstrap samples.
    mean_block_days : float
        Mean of the geometric block length.
    seed : int
        Seed of the draws.

    Returns
    -------
    (samples, n_days) float64
        How often each day was drawn; every row sums to n_days. No rows with fewer than two days.
    """
    if n_days < 2 or samples == 0:
        return np.empty((0, n_days))
    random = np.random.default_rng(seed)
    jump = random.random((n_days, samples)) < 1.0 / mean_block_days
    target = random.integers(0, n_days, (n_days, samples))
    day = target[0]
    offset = np.arange(samples) * n_days
    counts = np.bincount(offset + day, minlength=samples * n_days)
    for step in range(1, n_days):
        day = np.where(jump[step], target[step], (day + 1) % n_days)
        # One draw per sample and step: the positions are distinct, so += loses none.
        counts[offset + day] += 1
    return counts.reshape(samples, n_days).astype(np.float64)


@dataclass(frozen=True)
class _Rows:
    """Labelled rows as columns, with the groups and sums by day that the metrics need."""

    probability: Float64Array
    label: Float64Array
    base: Float64Array
    day: Int64Array
    n_days: int

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, column: str) -> _Rows:
        missing = [
            name for name in ("ts_init", "label", "base_prob", column) if name not in frame.columns
        ]
        if missing:
            raise DataError(
                f"predictions must have the columns {missing}, had {list(frame.columns)}"
            )
        label = frame["label"].to_numpy(dtype=np.float64)
        known = ~np.isnan(label)
        if not known.any():
            raise DataError(f"predictions must have rows with a label, none of {len(label)} has")
        probability = frame[column].to_numpy(dtype=np.float64)[known]
        base = frame["base_prob"].to_numpy(dtype=np.float64)[known]
        for name, values in ((column, probability), ("base_prob", base)):
            outside = ~((values > 0.0) & (values < 1.0))
            if outside.any():
                raise DataError(f"{name} must be inside (0, 1), was {values[outside][0]}")
        # A bar that closes at midnight belongs to the day that ends there.
        stamps = (frame["ts_init"].to_numpy(dtype=np.int64)[known] - 1) // NS_PER_DAY
        days, day = np.unique(stamps, return_inverse=True)
        return cls(probability, label[known], base, day.astype(np.int64), len(days))

    @cached_property
    def hit(self) -> Float64Array:
        agrees = (self.probability > 0.5) == (self.label > 0.5)
        return np.where(self.probability == 0.5, 0.5, agrees.astype(np.float64))

    @cached_property
    def groups(self) -> tuple[Int64Array, int]:
        """Rows of equal probability, ascending."""
        return _groups(self.probability)

    @cached_property
    def confidence_groups(self) -> tuple[Int64Array, int]:
        """Rows of equal |p - 0.5|, descending."""
        return _groups(-np.abs(self.probability - 0.5))

    def bins(self, bins: int) -> Int64Array:
        """Return each row's bin: about equally many rows, equal scores together, none empty."""
        group, n_groups = self.groups
        return _merge(group, n_groups, bins)[0]

    def by_day(self, group: Int64Array, n_groups: int, values: Float64Array | None) -> Float64Array:
        """Sum values (or count rows) by day and group, (n_days, n_groups)."""
        flat = np.bincount(self.day * n_groups + group, values, self.n_days * n_groups)
        return flat.reshape(self.n_days, n_groups).astype(np.float64)

    @cached_property
    def _class_histograms(self) -> tuple[Float64Array, Float64Array]:
        group, n_groups = _merge(*self.groups, MAX_GROUPS)
        ups = self.by_day(group, n_groups, self.label)
        return ups, self.by_day(group, n_groups, None) - ups

    @cached_property
    def _hit_histograms(self) -> tuple[Float64Array, Float64Array]:
        group, n_groups = _merge(*self.confidence_groups, MAX_GROUPS)
        return self.by_day(group, n_groups, None), self.by_day(group, n_groups, self.hit)

    def auc(self) -> float:
        group, n_groups = self.groups
        ups = np.bincount(group, self.label, n_groups)
        downs = np.bincount(group, 1.0 - self.label, n_groups)
        return float(_auc(ups[None], downs[None])[0])

    def auc_drawn(self, weights: Float64Array) -> Float64Array:
        ups, downs = self._class_histograms
        return _auc(weights @ ups, weights @ downs)

    def top_accuracy(self, coverage_frac: float) -> float:
        group, n_groups = self.confidence_groups
        count = np.bincount(group, minlength=n_groups).astype(np.float64)
        hits = np.bincount(group, self.hit, n_groups)
        return float(_top_accuracy(count[None], hits[None], coverage_frac)[0])

    def accuracies_drawn(self, weights: Float64Array, shares: Float64Array) -> Float64Array:
        """Return `top_accuracy` of each draw for several shares, (n_draws, n_shares)."""
        count, hits = (np.cumsum(weights @ part, axis=1) for part in self._hit_histograms)
        found = np.full((len(weights), len(shares)), np.nan)
        for draw in np.flatnonzero(count[:, -1] > 0.0):
            # Rows tied at the border count in part: between groups, hits rise with the count.
            wanted = shares * count[draw, -1]
            rows = np.append(0.0, count[draw])
            found[draw] = np.interp(wanted, rows, np.append(0.0, hits[draw])) / wanted
        return found

    def top_accuracy_drawn(self, weights: Float64Array, coverage_frac: float) -> Float64Array:
        count, hits = self._hit_histograms
        return _top_accuracy(weights @ count, weights @ hits, coverage_frac)


def _groups(score: Float64Array) -> tuple[Int64Array, int]:
    found, group = np.unique(score, return_inverse=True)
    return group.astype(np.int64), len(found)


def _merge(group: Int64Array, n_groups: int, most: int) -> tuple[Int64Array, int]:
    """Put neighbouring groups together until there are at most `most`, of about equal size."""
    if n_groups <= most:
        return group, n_groups
    size = np.bincount(group, minlength=n_groups)
    middle = np.cumsum(size) - size / 2.0
    wide = np.minimum((middle * most / len(group)).astype(np.int64), most - 1)
    _, dense = np.unique(wide, return_inverse=True)
    merged = dense.astype(np.int64)
    return merged[group], int(merged[-1]) + 1


def _auc(ups: Float64Array, downs: Float64Array) -> Float64Array:
    """Return the area under the ROC curve from class counts by ascending score, (n, n_groups)."""
    below = np.cumsum(downs, axis=1)
    pairs = (ups * (below - downs / 2.0)).sum(axis=1)
    return _ratio(pairs, ups.sum(axis=1) * below[:, -1])


def _top_accuracy(count: Float64Array, hits: Float64Array, coverage_frac: float) -> Float64Array:
    """Return the accuracy over the first part of the rows, (n, n_groups) by confidence."""
    reached = np.cumsum(count, axis=1)
    wanted = reached[:, -1:] * coverage_frac
    inside = np.clip(wanted - (reached - count), 0.0, count)
    share = np.divide(inside, count, out=np.zeros_like(count), where=count > 0)
    return _ratio((share * hits).sum(axis=1), wanted[:, 0])


def _ratio(numerator: Float64Array, denominator: Float64Array) -> Float64Array:
    """Divide, with NaN where there is nothing to divide by."""
    quotient: Float64Array = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _chunks(weights: Float64Array) -> Iterator[Float64Array]:
    for first in range(0, len(weights), _CHUNK):
        yield weights[first : first + _CHUNK]


def _chunked(weights: Float64Array, compute: object) -> Float64Array:
    assert callable(compute)
    parts = [compute(chunk) for chunk in _chunks(weights)]
    return np.concatenate(parts) if parts else np.empty(0)


def _drawn(weights: Float64Array, sums: Float64Array) -> Float64Array:
    """Return the sums of every sample, (samples, k), from sums by day, (n_days, k).

    Not a BLAS product: its rounding depends on the number of threads. (Counts are exact there.)
    """
    sums_drawn: Float64Array = np.einsum("sd,dk->sk", weights, sums, optimize=False)
    return sums_drawn


def _day_sums(rows: _Rows, *columns: Float64Array) -> Float64Array:
    return np.stack([np.bincount(rows.day, column, rows.n_days) for column in columns], axis=1)


def _mean(rows: _Rows, values: Float64Array, weights: Float64Array) -> Estimate:
    drawn = _drawn(weights, _day_sums(rows, values, np.ones_like(values)))
    return _interval(float(values.mean()), drawn[:, 0] / drawn[:, 1])


def _top(rows: _Rows, weights: Float64Array, coverage_frac: float) -> Estimate:
    drawn = _chunked(weights, lambda part: rows.top_accuracy_drawn(part, coverage_frac))
    return _interval(rows.top_accuracy(coverage_frac), drawn)


def _skill(rows: _Rows, weights: Float64Array) -> Estimate:
    loss = -np.log(np.where(rows.label > 0.5, rows.probability, 1.0 - rows.probability))
    base = -np.log(np.where(rows.label > 0.5, rows.base, 1.0 - rows.base))
    drawn = _drawn(weights, _day_sums(rows, loss, base))
    return _interval(float(1.0 - loss.sum() / base.sum()), 1.0 - drawn[:, 0] / drawn[:, 1])


def _ece(rows: _Rows, weights: Float64Array) -> Estimate:
    bin_of = rows.bins(ECE_BINS)
    n_bins = int(bin_of.max()) + 1
    gap = rows.probability - rows.label
    value = np.abs(np.bincount(bin_of, gap, n_bins)).sum() / len(gap)
    drawn = np.abs(_drawn(weights, rows.by_day(bin_of, n_bins, gap))).sum(axis=1)
    count = _drawn(weights, _day_sums(rows, np.ones_like(gap)))[:, 0]
    values = drawn / count
    if len(values):
        values = np.maximum(values - values.mean() + value, 0.0)
    return _interval(float(value), np.asarray(values))


def _interval(value: float, drawn: Float64Array) -> Estimate:
    usable = drawn[np.isfinite(drawn)]
    if len(usable) == 0:
        return Estimate(value, float("nan"), float("nan"))
    tail = (1.0 - INTERVAL_COVERAGE) / 2.0
    low, high = np.quantile(usable, [tail, 1.0 - tail])
    return Estimate(value, float(low), float(high))
