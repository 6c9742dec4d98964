"""Whether one forecaster is better than another, where labels overlap and rows cluster.

Both tests compare two columns of probabilities on the rows that both have answered. Rows of one
step of time (a day unless said otherwise) stand or fall together: all instruments, all bars. A
label that looks ahead further than a step shares its future with the labels of the next steps, so
that their losses depend on each other by design; the long-run variance reaches at least as far.

`research.comparisons` compares many candidates in one table and corrects for their number; use it
where more than two are compared.

References
----------
Diebold, F. and Mariano, R. (1995). Comparing predictive accuracy. Journal of Business & Economic
Statistics 13.
Harvey, D., Leybourne, S. and Newbold, P. (1997). Testing the equality of prediction mean squared
errors. International Journal of Forecasting 13.
McNemar, Q. (1947). Note on the sampling error of the difference between correlated proportions or
percentages. Psychometrika 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import ConfigError, DataError
from catalog.timestamps import NS_PER_DAY
from research.comparisons import (
    MIN_DAYS,
    Score,
    check_forecasts,
    daily_sums,
    diebold_mariano,
    losses,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class LossTest:
    """Diebold and Mariano's test of equal loss.

    Parameters
    ----------
    difference : float
        Mean loss of the first less that of the second, over rows: below 0, the first is better.
    statistic : float
        The difference over its standard error, with the correction for small samples.
    p : float
        Two-sided. NaN with fewer than 8 steps.
    rows, steps : int
        Rows compared, and the steps of time that they fall into.
    horizon_steps : int
        How many steps a label can reach over.
    """

    difference: float
    statistic: float
    p: float
    rows: int
    steps: int
    horizon_steps: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with None in place of NaN."""
        return _plain({name: getattr(self, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class HitTest:
    """McNemar's test of equal accuracy.

    Parameters
    ----------
    first_only, second_only : int
        Rows that only the first or only the second got right. Where both did or neither did,
        nothing is learned.
    difference : float
        Accuracy of the first less that of the second, fraction of `rows`.
    p_rows : float
        Two-sided, exact binomial, as if rows were independent (McNemar's own). They are not:
        with bars of several instruments it is far too small. To compare with other software.
    p : float
        Two-sided, with rows of one step standing together and steps depending on each other:
        the one to quote. NaN with fewer than 8 steps.
    rows, steps : int
        Rows compared, and the steps of time that they fall into.
    """

    first_only: int
    second_only: int
    difference: float
    p_rows: float
    p: float
    rows: int
    steps: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with None in place of NaN."""
        return _plain({name: getattr(self, name) for name in self.__slots__})


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in found.items()}


class _Pair(NamedTuple):
    """Rows that both have answered and whose label is known."""

    label: Float64Array
    first: Float64Array
    second: Float64Array
    ts_init: Int64Array


def compare_losses(
    frame: pd.DataFrame,
    first: str,
    second: str,
    *,
    horizon_ns: int,
    score: Score = "log_loss",
    step_ns: int = NS_PER_DAY,
) -> LossTest:
    """Test whether two forecasts have the same mean loss (Diebold and Mariano, 1995).

    Parameters
    ----------
    frame : DataFrame
        Columns ts_init (int64 UTC ns), label (1, 0; NaN rows are left out), `first` and `second`:
        probabilities in (0, 1), NaN where there was no answer.
    first, second : str
        Columns to compare.
    horizon_ns : int
        How far ahead a label looks, nanoseconds.
    score : {"log_loss", "brier"}
        Which loss.
    step_ns : int
        Length of a step, nanoseconds. With that of a bar, only rows of the same close stand
        together.

    Raises
    ------
    ConfigError
        If horizon or step is not positive.
    DataError
        If a column is missing, a probability is outside (0, 1) or no row is answered by both.

    Notes
    -----
    Sums by step, the long-run variance of Newey and West (1987) with lags up to the larger of
    their rule of thumb and the label's reach, then the factor of Harvey, Leybourne and Newbold.
    See `research.comparisons.diebold_mariano`. Steps without rows are passed over, not taken as
    zero.
    """
    pair = _pair(frame, first, second)
    difference = losses(pair.first, pair.label, score) - losses(pair.second, pair.label, score)
    steps_ahead = _reach(horizon_ns, step_ns)
    sums, counts = daily_sums(difference, pair.ts_init, step_ns)
    found = diebold_mariano(sums, counts, horizon_steps=steps_ahead)
    return LossTest(
        difference=float(difference.mean()),
        statistic=found.statistic,
        p=found.p if len(sums) >= MIN_DAYS else float("nan"),
        rows=len(difference),
        steps=len(sums),
        horizon_steps=steps_ahead,
    )


def compare_hits(
    frame: pd.DataFrame,
    first: str,
    second: str,
    *,
    horizon_ns: int,
    step_ns: int = NS_PER_DAY,
) -> HitTest:
    """Test whether two forecasts are right equally often (McNemar, 1947).

    Parameters
    ----------
    frame, first, second, horizon_ns, step_ns
        As `compare_losses`. A probability of one half is no answer: such rows are left out.

    Raises
    ------
    ConfigError, DataError
        As `compare_losses`.

    Notes
    -----
    The clustered p-value is that of `compare_losses` on the differences of hits (1, 0, -1), in the
    manner of Durkalski et al. (2003) for clustered pairs, with steps that depend on each other.
    """
    from scipy.stats import binomtest

    pair = _pair(frame, first, second)
    answered = (pair.first != 0.5) & (pair.second != 0.5)
    if not answered.any():
        raise DataError(f"{first} or {second} must differ from 0.5 in some row, none does")
    up = pair.label[answered] > 0.5
    hits = [(one[answered] > 0.5) == up for one in (pair.first, pair.second)]
    first_only = int(np.sum(hits[0] & ~hits[1]))
    second_only = int(np.sum(hits[1] & ~hits[0]))
    discordant = first_only + second_only
    exact = float(binomtest(first_only, discordant, 0.5).pvalue) if discordant else 1.0
    difference = hits[0].astype(np.float64) - hits[1].astype(np.float64)
    sums, counts = daily_sums(difference, pair.ts_init[answered], step_ns)
    found = diebold_mariano(sums, counts, horizon_steps=_reach(horizon_ns, step_ns))
    return HitTest(
        first_only=first_only,
        second_only=second_only,
        difference=float(difference.mean()),
        p_rows=exact,
        p=found.p if len(sums) >= MIN_DAYS else float("nan"),
        rows=len(difference),
        steps=len(sums),
    )


def _pair(frame: pd.DataFrame, first: str, second: str) -> _Pair:
    check_forecasts(frame, [first, second])
    label, ours, theirs = (
        frame[name].to_numpy(dtype=np.float64) for name in ("label", first, second)
    )
    known = ~(np.isnan(label) | np.isnan(ours) | np.isnan(theirs))
    if not known.any():
        raise DataError(f"{first} and {second} must have answered rows in common, have none")
    ts_init = frame["ts_init"].to_numpy(dtype=np.int64)[known]
    return _Pair(label[known], ours[known], theirs[known], ts_init)


def _reach(horizon_ns: int, step_ns: int) -> int:
    """Return how many steps the labels of one step can look at, its own included."""
    for name, value in (("horizon_ns", horizon_ns), ("step_ns", step_ns)):
        if value <= 0:
            raise ConfigError(f"{name} must be positive, was {value}")
    # The label of a step's last row reaches so many steps on; the next one's first row, beside it.
    return -(-horizon_ns // step_ns) + 1
