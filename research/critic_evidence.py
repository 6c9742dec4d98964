"""The numbers behind the critic's objections, each a pure function of frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import ConfigError
from catalog.timestamps import DAYS_PER_YEAR, NS_PER_DAY
from research.estimates import Estimate
from research.guidance import HeldOutRows, net_trades
from research.metrics import COVERAGE_FRAC, BootstrapConfig, day_weights
from research.performance import DailyEquity, estimate_of

if TYPE_CHECKING:
    import pandas as pd

_NORMAL = NormalDist()
_Z_95 = 1.959963984540054
SHIFTS = (-0.02, -0.01, 0.0, 0.01, 0.02)
"""By how much thresholds are moved to see whether the chosen ones stand on a plateau."""


class BestDays(NamedTuple):
    """How much of a profit hangs on its best days.

    Parameters
    ----------
    share : float
        Part of the sum of log returns that the best days made.
    expected_share : float
        The same for as many normal returns of equal mean and spread.
    without : float
        Net return had nothing happened on these days, a fraction.
    """

    share: float
    expected_share: float
    without: float


def best_days(daily: DailyEquity, count: int) -> BestDays:
    """Measure how much the best days of a record that earned made of it.

    Even a sound record makes much of its profit on few days: five of 500 days of a normal record
    with a Sharpe ratio of 1 make half of it. Hence the share that one must expect, from Blom's
    (1958) approximation of the normal order statistics.

    Parameters
    ----------
    daily : DailyEquity
        With a positive net return, over more than `count` days.
    count : int
        How many days.
    """
    logs = np.log1p(daily.returns)
    n, total = len(logs), float(logs.sum())
    best = float(np.sort(logs)[-count:].sum())
    place = (np.arange(n - count + 1, n + 1) - 0.375) / (n + 0.25)
    order = math.fsum(_NORMAL.inv_cdf(float(one)) for one in place)
    expected = count * float(logs.mean()) + float(logs.std(ddof=1)) * order
    return BestDays(best / total, expected / total, math.expm1(total - best))


class TailGap(NamedTuple):
    """What the most confident predictions said, and how often they were right.

    Parameters
    ----------
    coverage_frac : float
        Which part of the rows.
    said, right : float
        Mean confidence (the probability of the likelier side), and share of rows that it had right.
    gap : Estimate
        `said` less `right`, with the interval of the bootstrap over days; above 0 is overconfident.
    """

    coverage_frac: float
    said: float
    right: float
    gap: Estimate


def tail_gap(
    frame: pd.DataFrame, bootstrap: BootstrapConfig, coverage_frac: float = COVERAGE_FRAC
) -> TailGap | None:
    """Compare what the most confident part of the predictions said with what happened.

    Parameters
    ----------
    frame : DataFrame
        Columns ts_init (int64 UTC ns), prob_up and label (1, 0, NaN for unknown).
    bootstrap : BootstrapConfig
        How the interval is made.
    coverage_frac : float
        Which part of the labelled rows, in (0, 1]; rows as confident as the last one come along.

    Returns
    -------
    TailGap or None
        None where no row has a label.
    """
    label = frame["label"].to_numpy(dtype=np.float64)
    known = ~np.isnan(label)
    if not known.any():
        return None
    label = label[known]
    prob_up = frame["prob_up"].to_numpy(dtype=np.float64)[known]
    confidence = np.maximum(prob_up, 1.0 - prob_up)
    inside = confidence >= np.quantile(confidence, 1.0 - coverage_frac, method="higher")
    said = confidence[inside]
    hit = np.where(prob_up == 0.5, 0.5, (prob_up > 0.5) == (label > 0.5))[inside]
    stamps = (frame["ts_init"].to_numpy(dtype=np.int64)[known][inside] - 1) // NS_PER_DAY
    days, day = np.unique(stamps, return_inverse=True)
    sums = np.bincount(day, said - hit)
    counts = np.bincount(day).astype(np.float64)
    weights = day_weights(len(days), bootstrap.samples, bootstrap.mean_block_days, bootstrap.seed)
    # Not a BLAS product: its rounding depends on the number of threads.
    drawn = np.einsum("sd,dk->sk", weights, np.stack([sums, counts], axis=1), optimize=False)
    gap = estimate_of(float((said - hit).mean()), drawn[:, 0] / drawn[:, 1])
    return TailGap(coverage_frac, float(said.mean()), float(hit.mean()), gap)


class FoldDrift(NamedTuple):
    """Whether folds differ by more than their intervals allow.

    Parameters
    ----------
    p_equal, p_trend : float
        P-values of Cochran's (1954) test of equal means and of a weighted linear trend, each
        doubled because there are two. NaN with fewer than three folds with an interval.
    slope : float
        Change from one fold to the next along the trend.
    """

    p_equal: float
    p_trend: float
    slope: float


def fold_drift(folds: Sequence[Estimate]) -> FoldDrift:
    """Test whether a metric is the same in all folds, each known to its own interval.

    Parameters
    ----------
    folds : sequence of Estimate
        In time order, with 95 % intervals, taken as normal and independent of each other.
    """
    from scipy.stats import chi2

    value = np.array([one.value for one in folds])
    spread = np.array([(one.high - one.low) / (2.0 * _Z_95) for one in folds])
    usable = np.isfinite(value) & (spread > 0.0)
    if int(usable.sum()) < 3:
        return FoldDrift(math.nan, math.nan, math.nan)
    value, weight = value[usable], 1.0 / spread[usable] ** 2
    place = np.flatnonzero(usable).astype(np.float64)
    mean = float(np.average(value, weights=weight))
    equal = float(chi2.sf(np.sum(weight * (value - mean) ** 2), len(value) - 1))
    centred = place - np.average(place, weights=weight)
    precision = float(np.sum(weight * centred**2))
    slope = float(np.sum(weight * centred * value)) / precision
    trend = 2.0 * _NORMAL.cdf(-abs(slope) * math.sqrt(precision))
    return FoldDrift(min(1.0, 2.0 * equal), min(1.0, 2.0 * trend), slope)


def implied_information_ratio(auc: float, horizon_ns: int) -> float:
    """Return the yearly information ratio that an AUC amounts to, one bet after the other.

    For two normal scores of equal spread the AUC gives their distance, and that the correlation of
    the score with the side (equal chances of both); times the root of the bets in a year it is the
    information ratio of Grinold's (1989) fundamental law, for one instrument and before costs.

    Parameters
    ----------
    auc : float
        In (0, 1).
    horizon_ns : int
        Length of a bet.
    """
    distance = math.sqrt(2.0) * _NORMAL.inv_cdf(auc)
    correlation = distance / math.sqrt(distance**2 + 4.0)
    return correlation * math.sqrt(DAYS_PER_YEAR * NS_PER_DAY / horizon_ns)


class Spike(NamedTuple):
    """A choice that does not stand on a plateau.

    Parameters
    ----------
    chosen : float
        Its result.
    beside : float
        Mean of the results beside it.
    worst : float
        The lowest result right beside it.
    neighbours : tuple of float
        The values beside it.
    """

    chosen: float
    beside: float
    worst: float
    neighbours: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ParameterSweep:
    """Results of one setting's values, all else equal.

    Parameters
    ----------
    parameter, measure : str
        What was varied, and what was measured (larger is better).
    values : tuple of float
        Ascending, no two alike.
    results : tuple of float
        One for each; NaN where there is none.
    chosen : float
        The value in use, one of them.

    Raises
    ------
    ConfigError
        If values and results do not fit, do not ascend, or the chosen one is not among them.
    """

    parameter: str
    measure: str
    values: tuple[float, ...]
    results: tuple[float, ...]
    chosen: float

    def __post_init__(self) -> None:
        if len(self.values) != len(self.results) or list(self.values) != sorted(set(self.values)):
            raise ConfigError(
                f"values of {self.parameter} must ascend with one result each, were {self.values} "
                f"and {len(self.results)} results"
            )
        if self.chosen not in self.values:
            raise ConfigError(
                f"chosen must be one of the values of {self.parameter}, was {self.chosen} among "
                f"{self.values}"
            )

    def spike(self, share: float = 0.5) -> Spike | None:
        """Return the choice and its neighbours where it stands alone or at an edge, else None.

        Its result is positive and, of the two values on each side (as many as there are), the mean
        is below `share` of it, or one right beside it is not positive. None without two neighbours
        that have a result: then nothing is known.
        """
        place = self.values.index(self.chosen)
        chosen = self.results[place]
        around = [*range(max(place - 2, 0), place), *range(place + 1, place + 3)]
        known = [at for at in around if at < len(self.values) and math.isfinite(self.results[at])]
        if len(known) < 2 or not chosen > 0.0:
            return None
        beside = float(np.mean([self.results[at] for at in known]))
        worst = min((self.results[at] for at in known if abs(at - place) == 1), default=math.inf)
        if beside >= share * chosen and worst > 0.0:
            return None
        return Spike(chosen, beside, worst, tuple(self.values[at] for at in known))


def threshold_sweep(
    frame: pd.DataFrame, threshold: Float64Array, horizon_ns: int, cost_bps: float
) -> ParameterSweep | None:
    """Move the entry threshold and see what a plain version of the strategy would have earned.

    Plain: equal stakes, entered where a side's probability reaches the threshold and no trade of
    the instrument is open, left after the horizon, each paying a round trip
    (`research.guidance.net_trades`). So it measures the threshold, not the strategy's sizes or
    stops.

    Parameters
    ----------
    frame : DataFrame
        Columns ts_init, instrument_id, prob_up and forward_return (simple, over the horizon).
    threshold : (n_rows,) float64
        In use at each row, in [0.5, 1); NaN where nothing may be entered.
    horizon_ns : int
        How far ahead the predictions look.
    cost_bps : float
        Of a round trip.

    Returns
    -------
    ParameterSweep or None
        By the shift of the threshold; results are sums of the trades' returns, fractions. None
        where nothing may be entered.
    """
    usable = ~np.isnan(threshold)
    if not usable.any():
        return None
    code = np.unique(frame["instrument_id"].to_numpy(dtype=str), return_inverse=True)[1]
    ts = frame["ts_init"].to_numpy(dtype=np.int64)
    order = np.lexsort((ts, code))
    order = order[usable[order]]
    prob_up = frame["prob_up"].to_numpy(dtype=np.float64)[order]
    # Each row's distance to its own threshold, moved to where one threshold fits all.
    margin = np.abs(prob_up - 0.5) - (threshold[order] - 0.5)
    moved = 0.75 + np.clip(margin, -0.2, 0.2)
    moved = np.where(prob_up >= 0.5, moved, 1.0 - moved)
    known = np.ones(len(order))
    rows = HeldOutRows(
        prob_up=moved,
        value=known,
        weight=known,
        forward_return=np.log1p(frame["forward_return"].to_numpy(dtype=np.float64)[order]),
        ts_init=ts[order],
        ts_end=ts[order] + horizon_ns,
        instrument=code[order].astype(np.int64),
    )
    results = tuple(float(net_trades(rows, 0.75 + shift, cost_bps).sum()) for shift in SHIFTS)
    return ParameterSweep(
        "the entry threshold (its shift)",
        "the sum of returns of equal stakes",
        SHIFTS,
        results,
        0.0,
    )
