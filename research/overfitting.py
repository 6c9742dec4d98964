"""How much of a Sharpe ratio is skill, after counting how often one has tried.

Whoever tries a hundred rules on pure noise finds one with a handsome Sharpe ratio. The statistics
here say how handsome the best of so many would have been by luck alone, how long a record must be
before its ratio means anything, and how often the rule that looked best on one half of the past
fell behind on the other half.

Every Sharpe ratio is one *per period* (per day for daily returns), never annual: a year of daily
returns has 365 of them here, so an annual ratio divided by the root of 365 is one per day. Skew
and kurtosis are those of the returns; a normal distribution has a kurtosis of 3, not 0.

The formulas take returns of different periods as independent of each other. Where they are not,
`research.data_snooping` resamples blocks of days instead.

References
----------
Bailey, D. and López de Prado, M. (2012). The Sharpe ratio efficient frontier. Journal of Risk 15.
Bailey, D. and López de Prado, M. (2014). The deflated Sharpe ratio. Journal of Portfolio
Management 40.
Bailey, D., Borwein, J., López de Prado, M. and Zhu, Q. (2014). Pseudo-mathematics and financial
charlatanism. Notices of the AMS 61.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import ConfigError, DataError

CONFIDENCE = 0.95
"""Chance of being right that a record must show, where none is given."""
MIN_OBSERVATIONS = 4
"""With fewer returns skew and kurtosis are made of nothing, and no statistic is given."""
_NORMAL = NormalDist()
_EULER = 0.57721566490153286
# Moments that no distribution has are refused; rounding of those of a two-point one is not.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class SharpeMoments:
    """What the distribution of an estimated Sharpe ratio depends on.

    Parameters
    ----------
    observations : int
        Number of returns.
    sharpe : float
        Mean over standard deviation of the returns, per period.
    skew, kurtosis : float
        Third and fourth standardised moment of the returns; 0 and 3 for a normal distribution.

    Raises
    ------
    DataError
        If there is no distribution with such moments.
    """

    observations: int
    sharpe: float
    skew: float = 0.0
    kurtosis: float = 3.0

    def __post_init__(self) -> None:
        if self.observations < 0:
            raise DataError(f"observations must be at least 0, was {self.observations}")
        least = 1.0 + self.skew**2
        if self.kurtosis < least - _ROUNDING * least:
            raise DataError(
                f"kurtosis must be at least 1 + skew² = {least:.6g}, was {self.kurtosis:.6g}; "
                "a normal distribution has 3 (give the kurtosis, not its excess over 3)"
            )

    @classmethod
    def of(cls, returns: Float64Array) -> Self:
        """Measure simple returns, (n_periods,).

        The standard deviation has n - 1 below, as the reported Sharpe ratio has; the papers
        leave it open. Skew and kurtosis are the plain moments. All are NaN with fewer than
        `MIN_OBSERVATIONS` returns, where nothing varies, or where a return is NaN (equity was
        used up).
        """
        values = np.asarray(returns, dtype=np.float64)
        nan = math.nan
        if values.ndim != 1:
            raise DataError(f"returns must have the shape (n_periods,), had {values.shape}")
        defined = len(values) >= MIN_OBSERVATIONS and bool(np.isfinite(values).all())
        if not defined or values.max() == values.min():
            return cls(len(values), nan, nan, nan)
        centred = values - values.mean()
        spread = float(np.sqrt(np.mean(centred**2)))
        scaled = centred / spread
        return cls(
            observations=len(values),
            sharpe=float(values.mean() / values.std(ddof=1)),
            skew=float(np.mean(scaled**3)),
            kurtosis=float(np.mean(scaled**4)),
        )

    @property
    def variance(self) -> float:
        """Variance of the estimated Sharpe ratio times ``observations - 1``.

        Bailey and López de Prado (2012, equation 6), after Mertens (2002) and Christie (2005).
        """
        ratio = self.sharpe
        return max(1.0 - self.skew * ratio + (self.kurtosis - 1.0) / 4.0 * ratio**2, 0.0)


@dataclass(frozen=True, slots=True)
class DeflatedSharpe:
    """Whether a Sharpe ratio is higher than the best of so many lucky ones would be.

    Parameters
    ----------
    value : float
        Chance that the true ratio is above `threshold`; above 0.95 is called significant. NaN
        where the ratio is not defined.
    threshold : float
        Expected ratio of the best of `trials` without any skill, per period.
    sharpe : float
        The observed ratio, per period.
    observations : int
        Returns that it was computed from.
    trials : float
        Number of (independent) trials.
    spread : float
        Standard deviation of their ratios, per period; NaN with one trial.
    """

    value: float
    threshold: float
    sharpe: float
    observations: int
    trials: float
    spread: float

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the fields for JSON, with None in place of NaN."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: None if value != value else value for name, value in found.items()}


def probabilistic_sharpe(moments: SharpeMoments, benchmark: float = 0.0) -> float:
    """Return the chance that the true Sharpe ratio is above a benchmark.

    Parameters
    ----------
    moments : SharpeMoments
        Of the observed returns.
    benchmark : float
        Ratio to exceed, per period.

    Returns
    -------
    float
        In [0, 1]; NaN where the observed ratio is not defined.

    Notes
    -----
    Bailey and López de Prado (2012, equation 11).
    """
    excess = moments.sharpe - benchmark
    if math.isnan(excess) or moments.observations < 2:
        return math.nan
    if moments.variance == 0.0:
        # Two returns only, one of them ruled out: the ratio is known exactly.
        return 0.5 if excess == 0.0 else float(excess > 0.0)
    return _NORMAL.cdf(excess * math.sqrt((moments.observations - 1) / moments.variance))


def expected_maximum(trials: float) -> float:
    """Return the expected largest of so many independent standard normal numbers.

    Parameters
    ----------
    trials : float
        At least 1; not whole where it is an effective number (`independent_trials`).

    Raises
    ------
    ConfigError
        If there is less than one trial.

    Notes
    -----
    The approximation of Bailey et al. (2014, proposition 1), which is within 0.03 of the truth
    from 5 trials on. For one trial it is minus infinity; the expected value is zero, and nothing
    below zero is ever returned.
    """
    if not trials >= 1.0:
        raise ConfigError(f"trials must be at least 1, was {trials}; count the result itself")
    if trials == 1.0:
        return 0.0
    usual = _NORMAL.inv_cdf(1.0 - 1.0 / trials)
    extreme = _NORMAL.inv_cdf(1.0 - 1.0 / (trials * math.e))
    return max((1.0 - _EULER) * usual + _EULER * extreme, 0.0)


def deflated_sharpe(
    moments: SharpeMoments, *, trials: float, spread: float | None = None
) -> DeflatedSharpe:
    """Ask whether a Sharpe ratio beats the luck of the best of all trials.

    Parameters
    ----------
    moments : SharpeMoments
        Of the returns of the result that was chosen (`SharpeMoments.of`).
    trials : float
        How many were tried on these data, the chosen one included.
    spread : float, optional
        Standard deviation of the trials' Sharpe ratios, per period (n - 1 below). Needed from
        two trials on.

    Raises
    ------
    ConfigError
        If there is less than one trial, or the spread is missing, negative or not finite.

    Notes
    -----
    Bailey and López de Prado (2014, equation 2). With one trial it is the probabilistic Sharpe
    ratio against zero. Trials that resemble each other count as fewer: see `independent_trials`.
    """
    luck = expected_maximum(trials)
    if trials > 1.0 and (spread is None or not 0.0 <= spread < math.inf):
        raise ConfigError(
            f"spread of the Sharpe ratios of {trials:g} trials must be a number of at least 0, "
            f"was {spread}; give the standard deviation of their ratios per period"
        )
    threshold = luck * spread if spread is not None and trials > 1.0 else 0.0
    return DeflatedSharpe(
        value=probabilistic_sharpe(moments, threshold),
        threshold=threshold,
        sharpe=moments.sharpe,
        observations=moments.observations,
        trials=trials,
        spread=math.nan if spread is None else spread,
    )


def independent_trials(trials: int, mean_correlation: float) -> float:
    """Return how many independent trials so many correlated ones amount to.

    Parameters
    ----------
    trials : int
        Their number, at least 1.
    mean_correlation : float
        Mean correlation between the returns of two different trials; below 0 counts as 0.

    Raises
    ------
    ConfigError
        If there is no trial, or the correlation is outside [-1, 1].

    Notes
    -----
    ``correlation + (1 - correlation) trials``: Bailey and López de Prado (2014, appendix 3).
    """
    if trials < 1:
        raise ConfigError(f"trials must be at least 1, was {trials}; count the result itself")
    if not -1.0 <= mean_correlation <= 1.0:
        raise ConfigError(f"mean_correlation must be in [-1, 1], was {mean_correlation}")
    share = max(mean_correlation, 0.0)
    return share + (1.0 - share) * trials


def minimum_track_record(
    moments: SharpeMoments, benchmark: float = 0.0, *, confidence: float = CONFIDENCE
) -> float:
    """Return how many returns a record needs before its Sharpe ratio beats a benchmark.

    Parameters
    ----------
    moments : SharpeMoments
        Of the record so far; its length does not matter.
    benchmark : float
        Ratio to exceed, per period.
    confidence : float
        Wanted chance that the true ratio exceeds it, in (0.5, 1).

    Returns
    -------
    float
        Number of returns, not rounded. Infinite where the observed ratio is not above the
        benchmark, NaN where it is not defined.

    Raises
    ------
    ConfigError
        If `confidence` is outside (0.5, 1).

    Notes
    -----
    Bailey and López de Prado (2012, equation 13): the length at which `probabilistic_sharpe`
    reaches `confidence`, were the moments to stay.
    """
    if not 0.5 < confidence < 1.0:
        raise ConfigError(f"confidence must be in (0.5, 1), was {confidence}")
    excess = moments.sharpe - benchmark
    if math.isnan(excess):
        return math.nan
    if excess <= 0.0:
        return math.inf
    return 1.0 + moments.variance * (_NORMAL.inv_cdf(confidence) / excess) ** 2


def minimum_backtest_length(trials: float, sharpe: float) -> float:
    """Return how many returns a backtest needs so that luck alone stays below a Sharpe ratio.

    With fewer returns, the best of so many independent trials without skill is expected to show
    a ratio of `sharpe` or more.

    Parameters
    ----------
    trials : float
        How many are tried.
    sharpe : float
        Ratio that shall not come by luck, positive. Per period gives a number of periods; annual
        gives years.

    Raises
    ------
    ConfigError
        If the ratio is not positive or there is less than one trial.

    Notes
    -----
    Bailey, Borwein, López de Prado and Zhu (2014, theorem 3), which takes the variance of an
    estimated ratio of zero as one over the number of returns.
    """
    if not sharpe > 0.0:
        raise ConfigError(f"sharpe must be positive, was {sharpe}")
    return (expected_maximum(trials) / sharpe) ** 2
