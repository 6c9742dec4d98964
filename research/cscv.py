"""How often the best rule of one half of the past falls behind on the other half.

Combinatorially symmetric cross-validation cuts a table of returns by day into groups of days. For
every choice of half of the groups, the trial with the highest Sharpe ratio there is looked up in
the other half. If it lies below the median of all trials there as often as above, choosing the
best has chosen luck. No model is fitted here: all trials' returns must exist.

References
----------
Bailey, D., Borwein, J., López de Prado, M. and Zhu, Q. (2015). The probability of backtest
overfitting. Journal of Computational Finance 20.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import ConfigError, DataError

type Measure = Literal["sharpe", "mean"]

GROUPS = 16
"""Groups of days unless said otherwise, as in the paper: 12,870 ways to choose half of them."""
MAX_GROUPS = 20
_CHUNK = 2048  # combinations at a time: bounds memory at a few MB for a hundred trials
# A deviation this far below the mean is rounding: nothing varies, and there is no ratio.
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class OverfittingProbability:
    """What choosing the best trial on one half of the days was worth on the other.

    Parameters
    ----------
    value : float
        Probability of backtest overfitting: share of combinations in which the chosen trial was
        no better than the median of all trials on the other half. Luck alone gives about a half,
        rules bent to the span more; 0 where the best stays the best.
    logits : (n_combinations,) float64
        ``ln(w / (1 - w))`` of the chosen trial's relative rank ``w = rank / (n_trials + 1)`` on
        the other half, rank 1 = worst; 0 is the median.
    chosen : (n_combinations,) int64
        Column of the chosen trial.
    in_sample, out_of_sample : (n_combinations,) float64
        Its measure on the half that it was chosen on and on the other, per period.
    slope, intercept, r_squared : float
        Least squares of `out_of_sample` on `in_sample` (performance degradation): a slope below
        zero means that the better it looked, the worse it became. NaN where the measure in
        sample never varies.
    probability_of_loss : float
        Share of combinations in which the chosen trial lost on the other half.
    n_trials, n_groups : int
        Columns and groups of days.
    """

    value: float
    logits: Float64Array
    chosen: Int64Array
    in_sample: Float64Array
    out_of_sample: Float64Array
    slope: float
    intercept: float
    r_squared: float
    probability_of_loss: float
    n_trials: int
    n_groups: int

    def as_dict(self) -> dict[str, Any]:
        """Return the headline numbers for JSON, with None in place of NaN."""
        names = ("value", "probability_of_loss", "slope", "intercept", "r_squared")
        numbers: dict[str, Any] = {name: float(getattr(self, name)) for name in names}
        numbers = {name: None if number != number else number for name, number in numbers.items()}
        return numbers | {
            "median_logit": float(np.median(self.logits)),
            "combinations": len(self.logits),
            "trials": self.n_trials,
            "groups": self.n_groups,
        }


def backtest_overfitting(
    returns: Float64Array, *, groups: int = GROUPS, measure: Measure = "sharpe"
) -> OverfittingProbability:
    """Estimate the probability that the best of several backtests was overfitted.

    Parameters
    ----------
    returns : (n_days, n_trials) float64
        Returns of every trial on the same days, in time order. All that were tried belong here,
        not only those that looked well: leaving out the bad ones hides the overfitting.
    groups : int
        Even number of groups of consecutive days, at least 4 and at most 20. Groups should be
        longer than trades last.
    measure : {"sharpe", "mean"}
        What the best is chosen by: Sharpe ratio per period, or mean return. A trial that never
        trades has a ratio of 0.

    Raises
    ------
    ConfigError
        If `groups` is odd or out of range, or there are fewer than two days in a group.
    DataError
        If there are fewer than two trials, a return is not finite, or a trial's returns are all
        equal on some half but not zero, so that it has no Sharpe ratio.

    Notes
    -----
    The paper cuts groups of equal length; here they differ by one day where the days do not
    divide, so that none is left out. Trials of equal measure share the mean of their ranks. Of
    equal trials in sample the first column is taken.
    """
    values = np.asarray(returns, dtype=np.float64)
    _check(values, groups)
    n_trials = values.shape[1]
    edges = np.linspace(0, len(values), groups + 1).astype(np.int64)
    lengths = np.diff(edges).astype(np.float64)
    sums = np.add.reduceat(values, edges[:-1], axis=0)
    squares = np.add.reduceat(values**2, edges[:-1], axis=0)
    halves = _halves(groups)
    parts = []
    for first in range(0, len(halves), _CHUNK):
        half = halves[first : first + _CHUNK]
        inside, outside = (
            _measured(weights, lengths, sums, squares, measure) for weights in (half, ~half)
        )
        parts.append(_chosen(inside, outside))
    chosen, in_sample, out_of_sample, rank = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    relative = rank / (n_trials + 1.0)
    logits = np.log(relative / (1.0 - relative))
    slope, intercept, r_squared = _line(in_sample, out_of_sample)
    return OverfittingProbability(
        value=float(np.mean(logits <= 0.0)),
        logits=logits,
        chosen=chosen.astype(np.int64),
        in_sample=in_sample,
        out_of_sample=out_of_sample,
        slope=slope,
        intercept=intercept,
        r_squared=r_squared,
        probability_of_loss=float(np.mean(out_of_sample < 0.0)),
        n_trials=n_trials,
        n_groups=groups,
    )


def _check(returns: Float64Array, groups: int) -> None:
    if groups % 2 or not 4 <= groups <= MAX_GROUPS:
        raise ConfigError(f"groups must be even and from 4 to {MAX_GROUPS}, was {groups}")
    if returns.ndim != 2 or returns.shape[1] < 2:
        raise DataError(
            f"returns must have the shape (n_days, n_trials) with at least two trials, had "
            f"{returns.shape}; one trial cannot be the best of several"
        )
    if len(returns) < 2 * groups:
        raise ConfigError(
            f"{groups} groups must have two days each, there were {len(returns)} days; take "
            "fewer groups"
        )
    wrong = np.argwhere(~np.isfinite(returns))
    if len(wrong):
        day, trial = wrong[0]
        raise DataError(
            f"returns must be finite, day {day} of trial {trial} was {returns[day, trial]}; "
            "leave out trials whose equity was used up, and count them where trials are counted"
        )


def _halves(groups: int) -> NDArray[np.bool_]:
    """Return every choice of half of the groups, (n_combinations, n_groups)."""
    choices = list(itertools.combinations(range(groups), groups // 2))
    found = np.zeros((len(choices), groups), dtype=np.bool_)
    np.put_along_axis(found, np.array(choices), True, axis=1)
    return found


def _measured(
    half: NDArray[np.bool_],
    lengths: Float64Array,
    sums: Float64Array,
    squares: Float64Array,
    measure: Measure,
) -> Float64Array:
    """Return each trial's measure on each half, (n_combinations, n_trials)."""
    weights = half.astype(np.float64)
    # Not BLAS products: their rounding depends on the number of threads.
    count = np.einsum("cg,g->c", weights, lengths, optimize=False)[:, None]
    mean = np.einsum("cg,gk->ck", weights, sums, optimize=False) / count
    if measure == "mean":
        return np.asarray(mean)
    square = np.einsum("cg,gk->ck", weights, squares, optimize=False) / count
    variance = (square - mean**2) * count / (count - 1.0)
    equal = variance <= _NOTHING * square
    constant = equal & (square > 0.0)
    if constant.any():
        trial = int(np.argwhere(constant)[0][1])
        raise DataError(
            f"returns of trial {trial} must vary on every half of the days, were all equal on "
            "one; choose by the mean (measure='mean'), or leave the trial out"
        )
    return np.asarray(mean / np.sqrt(np.where(equal, np.inf, variance)))


def _chosen(
    inside: Float64Array, outside: Float64Array
) -> tuple[Int64Array, Float64Array, Float64Array, Float64Array]:
    """Return the best inside, its measure inside and outside, and its rank outside (1 = worst)."""
    rows = np.arange(len(inside))
    best = inside.argmax(axis=1)
    then = outside[rows, best]
    below = (outside < then[:, None]).sum(axis=1)
    same = (outside == then[:, None]).sum(axis=1)
    return best, inside[rows, best], then, below + (same + 1.0) / 2.0


def _line(x: Float64Array, y: Float64Array) -> tuple[float, float, float]:
    """Return slope, intercept and R² of least squares; NaN where x does not vary."""
    across, up = x - x.mean(), y - y.mean()
    spread, total = float(np.sum(across**2)), float(np.sum(up**2))
    if spread == 0.0:
        return math.nan, math.nan, math.nan
    slope = float(np.sum(across * up)) / spread
    explained = slope**2 * spread / total if total > 0.0 else math.nan
    return slope, float(y.mean() - slope * x.mean()), explained
