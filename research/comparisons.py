"""Is a forecast better than another, or was it lucky? Paired tests, corrected for their number.

Losses are compared row by row, on the same rows. Rows of one UTC day stand or fall together (all
instruments, all bars), days depend on their neighbours. Two answers, which should agree:

* the interval and a p-value from the stationary bootstrap over days of `research.metrics`;
* the test of Diebold and Mariano (1995) on daily sums, with the long-run variance of Newey and
  West (1987) and the small-sample correction of Harvey, Leybourne and Newbold (1997).

The p-value that counts is the larger of the two, and Holm's (1979) step-down method holds the
chance of a single false claim among all comparisons of a table to `alpha`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pydantic import Field

from catalog.arrays import Float64Array, Int64Array
from catalog.config import Config
from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY
from research.metrics import INTERVAL_COVERAGE, day_weights
from research.probabilities import log_losses

if TYPE_CHECKING:
    import pandas as pd

type Score = Literal["log_loss", "brier"]
SCORES: tuple[Score, ...] = ("log_loss", "brier")
MIN_DAYS = 8
"""Fewer days than this give no p-value: neither the bootstrap nor the variance means anything."""


class ComparisonConfig(Config):
    """How forecasts are compared.

    Parameters
    ----------
    samples : int
        Bootstrap samples; no bootstrap p-value is below ``1 / (samples + 1)``.
    mean_block_days : float
        Mean length of a block of consecutive days.
    seed : int
        Seed of the draws.
    alpha : float
        Chance of at least one false claim among the comparisons of a table.
    """

    samples: int = Field(default=2000, ge=100, le=1_000_000)
    mean_block_days: float = Field(default=7.0, ge=1.0)
    seed: int = Field(default=7, ge=0)
    alpha: float = Field(default=0.05, gt=0.0, lt=1.0)


class DieboldMariano(NamedTuple):
    """A test of equal loss.

    Parameters
    ----------
    statistic : float
        Positive where the first forecast's losses are larger.
    p : float
        Two-sided, from Student's t with one degree of freedom less than there are steps.
    """

    statistic: float
    p: float


def compare_forecasts(
    frame: pd.DataFrame,
    baseline: str,
    candidates: Mapping[str, str],
    config: ComparisonConfig | None = None,
    *,
    scores: Sequence[Score] = SCORES,
) -> pd.DataFrame:
    """Compare forecasts with a baseline, pair by pair on the rows that both have answered.

    Parameters
    ----------
    frame : DataFrame
        Columns ts_init (int64 UTC ns), label (1, 0; NaN rows are left out), `baseline` and the
        candidates' columns: probabilities in (0, 1), NaN where there was no answer.
    baseline : str
        Column to compare with.
    candidates : mapping of str
        Name to print by column.
    config : ComparisonConfig, optional
        Settings.
    scores : sequence of {"log_loss", "brier"}
        What to compare by. Each score's p-values are corrected among themselves.

    Returns
    -------
    DataFrame
        One row for each score and candidate:

        score, name        as above
        rows               rows compared
        difference         candidate's mean loss less the baseline's: negative is better
        low, high          central 95 % of the bootstrap
        p_bootstrap, p_dm  see the module
        p                  the larger of the two, NaN with fewer than 8 days
        p_holm             corrected for the number of comparisons
        verdict            ``better``, ``worse`` or ``no difference shown``, at `alpha`

    Raises
    ------
    DataError
        If a column is missing, a probability is outside (0, 1), or a pair has no row in common.
    """
    import pandas as pd

    config = ComparisonConfig() if config is None else config
    check_forecasts(frame, [baseline, *candidates.values()])
    tables = []
    for score in scores:
        table = pd.DataFrame(
            [
                {"score": score, "name": name, **_compare(frame, column, baseline, score, config)}
                for name, column in candidates.items()
            ]
        )
        table["p_holm"] = holm(table["p"].to_numpy(dtype=np.float64))
        table["verdict"] = [
            _verdict(p, difference, config.alpha)
            for p, difference in zip(table["p_holm"], table["difference"], strict=True)
        ]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def check_forecasts(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a frame without times, labels or these columns, or with impossible probabilities.

    Raises
    ------
    DataError
        If a column is missing or a probability is outside (0, 1); NaN is no answer.
    """
    missing = [name for name in ("ts_init", "label", *columns) if name not in frame.columns]
    if missing:
        raise DataError(f"forecasts must have the columns {missing}, had {list(frame.columns)}")
    for name in columns:
        values = frame[name].to_numpy(dtype=np.float64)
        outside = (values <= 0.0) | (values >= 1.0)
        if outside.any():
            raise DataError(f"{name} must be inside (0, 1) or NaN, was {values[outside][0]}")


def _compare(
    frame: pd.DataFrame, column: str, baseline: str, score: Score, config: ComparisonConfig
) -> dict[str, float]:
    label, ours, theirs = (
        frame[name].to_numpy(dtype=np.float64) for name in ("label", column, baseline)
    )
    known = ~(np.isnan(label) | np.isnan(ours) | np.isnan(theirs))
    if not known.any():
        raise DataError(f"{column} and {baseline} must have answered rows in common, have none")
    label = label[known]
    difference = losses(ours[known], label, score) - losses(theirs[known], label, score)
    sums, counts = daily_sums(difference, frame["ts_init"].to_numpy(dtype=np.int64)[known])
    mean = float(difference.mean())
    low, high, p_bootstrap = _bootstrap(sums, counts, mean, config)
    # Days with more rows weigh more: a day's sum less what the mean would have given it.
    found = diebold_mariano(sums, counts)
    enough = len(sums) >= MIN_DAYS
    return {
        "rows": int(known.sum()),
        "difference": mean,
        "low": low,
        "high": high,
        "p_bootstrap": p_bootstrap if enough else float("nan"),
        "p_dm": found.p if enough else float("nan"),
        "p": max(p_bootstrap, found.p) if enough else float("nan"),
    }


def losses(probability: Float64Array, label: Float64Array, score: Score) -> Float64Array:
    """Return each row's loss: log loss in nats or squared error of the probability, (n_rows,)."""
    if score == "brier":
        return np.asarray((probability - label) ** 2)
    return log_losses(probability, label)


def daily_sums(
    values: Float64Array, ts_init: Int64Array, step_ns: int = NS_PER_DAY
) -> tuple[Float64Array, Float64Array]:
    """Return sums and numbers of rows by UTC day, (n_days,) each, in time order.

    A bar that closes at midnight belongs to the day that ends there. Days without rows are not
    there. Another `step_ns` (nanoseconds) than a day gives steps of that length.
    """
    days, day = np.unique((ts_init - 1) // step_ns, return_inverse=True)
    count = len(days)
    return np.bincount(day, values, count), np.bincount(day, minlength=count).astype(np.float64)


def _bootstrap(
    sums: Float64Array, counts: Float64Array, mean: float, config: ComparisonConfig
) -> tuple[float, float, float]:
    """Return the ends of the interval and the two-sided p-value of a mean of zero."""
    weights = day_weights(len(sums), config.samples, config.mean_block_days, config.seed)
    if len(weights) == 0:
        return float("nan"), float("nan"), float("nan")
    # Not a BLAS product: its rounding depends on the number of threads.
    drawn = np.einsum("sd,dk->sk", weights, np.stack([sums, counts], axis=1), optimize=False)
    means = drawn[:, 0] / drawn[:, 1]
    tail = (1.0 - INTERVAL_COVERAGE) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    # As far from the sample's mean as that is from zero: the null, moved to where the draws are.
    beyond = int(np.sum(np.abs(means - mean) >= abs(mean)))
    return float(low), float(high), (beyond + 1.0) / (len(means) + 1.0)


def diebold_mariano(
    sums: Float64Array, counts: Float64Array | None = None, *, horizon_steps: int = 1
) -> DieboldMariano:
    """Test whether differences of losses have a mean of zero.

    Parameters
    ----------
    sums : (n_steps,) float64
        Differences by step, in time order; sums over the rows of a step where it has several.
    counts : (n_steps,) float64, optional
        Rows of each step; one each if absent.
    horizon_steps : int
        How many steps ahead the forecasts look: losses depend on each other that far by design.

    Returns
    -------
    DieboldMariano
        NaN with fewer than two steps; p = 1 where no difference ever varies from zero.

    Notes
    -----
    Bartlett weights to the larger of ``horizon_steps - 1`` and ``4 (n / 100)^(2/9)`` lags (Newey
    and West, 1994), so that the variance is never negative, as the rectangular one of Diebold
    and Mariano can be. Then the factor of Harvey, Leybourne and Newbold (1997, equation 8).
    """
    from scipy.special import stdtr

    n = len(sums)
    if n < 2:
        return DieboldMariano(float("nan"), float("nan"))
    counts = np.ones(n) if counts is None else counts
    mean = float(np.sum(sums) / np.sum(counts))
    parts = (sums - mean * counts) / counts.mean()
    variance = long_run_variance(parts, max(horizon_steps - 1, _lags(n))) / n
    h = horizon_steps
    shrink = (n + 1.0 - 2.0 * h + h * (h - 1.0) / n) / n
    if variance <= 0.0 or shrink <= 0.0:
        return (
            DieboldMariano(0.0, 1.0) if mean == 0.0 else DieboldMariano(float("nan"), float("nan"))
        )
    statistic = mean / float(np.sqrt(variance)) * float(np.sqrt(shrink))
    return DieboldMariano(statistic, float(2.0 * stdtr(n - 1.0, -abs(statistic))))


def _lags(n: int) -> int:
    return int(4.0 * (n / 100.0) ** (2.0 / 9.0))


def long_run_variance(values: Float64Array, lags: int) -> float:
    """Return the variance of a series whose neighbours depend on each other, Bartlett weights.

    Parameters
    ----------
    values : (n_steps,) float64
        Less their mean.
    lags : int
        How many neighbours count; at most ``n_steps - 1`` do.
    """
    n = len(values)
    found = float(np.sum(values**2)) / n
    for lag in range(1, min(lags, n - 1) + 1):
        weight = 1.0 - lag / (lags + 1.0)
        found += 2.0 * weight * float(np.sum(values[lag:] * values[:-lag])) / n
    return found


def holm(p: Float64Array) -> Float64Array:
    """Return p-values corrected for their number by Holm's (1979) step-down method.

    Parameters
    ----------
    p : (n_comparisons,) float64
        In [0, 1]; NaN = not tested, which stays NaN and does not count.
    """
    found = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    ordered = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(ordered), 0, -1)
    found[ordered] = np.minimum(np.maximum.accumulate(p[ordered] * factors), 1.0)
    return found


def _verdict(p: float, difference: float, alpha: float) -> str:
    if not p < alpha:
        return "no difference shown"
    return "better" if difference < 0.0 else "worse"
