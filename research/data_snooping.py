"""Whether anything among many trials is better than luck, resampling days instead of assuming.

All draws are those of the stationary bootstrap (Politis and Romano, 1994): blocks of consecutive
days of geometric length, since volatile days come together. The tests of Hansen are those of the
library `arch`, with what is noted at each function.

References
----------
White, H. (2000). A reality check for data snooping. Econometrica 68.
Hansen, P. (2005). A test for superior predictive ability. Journal of Business & Economic
Statistics 23.
Hansen, P., Lunde, A. and Nason, J. (2011). The model confidence set. Econometrica 79.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import ConfigError, DataError
from research.comparisons import MIN_DAYS, ComparisonConfig
from research.performance import block_bootstrap_rows, sharpe_rows


@dataclass(frozen=True, slots=True)
class SuperiorAbility:
    """Hansen's test that no trial is better than the benchmark.

    Parameters
    ----------
    lower, consistent, upper : float
        p-values. `consistent` is the one to quote. `lower` takes trials that are worse than the
        benchmark as exactly that bad, and is too liberal; `upper` takes all as just as good
        (White's reality check, studentised), and poor trials make it conservative.
    statistic : float
        Largest mean advantage over its standard error.
    best : str
        Name of the trial that has it.
    trials : int
        Trials compared, those equal to the benchmark left out.
    seed, samples : int
        Of the draws.
    mean_block_days : int
        Mean length of a block.
    """

    lower: float
    consistent: float
    upper: float
    statistic: float
    best: str
    trials: int
    seed: int
    samples: int
    mean_block_days: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class ConfidenceSet:
    """The trials among which the best one is, as far as the data can tell.

    Parameters
    ----------
    included : tuple of str
        Names of the trials that cannot be told from the best, in the given order.
    p_values : mapping of str to float
        Of every trial: the largest `alpha` at which it would still be in the set.
    alpha : float
        Chance that the set does not hold the best trial.
    seed, samples : int
        Of the draws.
    mean_block_days : int
        Mean length of a block.
    """

    included: tuple[str, ...]
    p_values: Mapping[str, float]
    alpha: float
    seed: int
    samples: int
    mean_block_days: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return found | {"included": list(self.included), "p_values": dict(self.p_values)}


def bootstrap_p_value(
    returns: Float64Array,
    benchmark: Float64Array | None = None,
    config: ComparisonConfig | None = None,
) -> float:
    """Return the one-sided p-value of a Sharpe ratio of zero or less.

    Parameters
    ----------
    returns : (n_days,) float64
        Returns of one strategy, in time order.
    benchmark : (n_days,) float64, optional
        Returns of what it must beat on the same days; nothing (cash) if absent.
    config : ComparisonConfig, optional
        Number and seed of the draws, mean length of a block; `alpha` is not used.

    Returns
    -------
    float
        Share of the draws, from returns less their mean, whose ratio is as high as the observed
        one, with the observed one counted in (Davison and Hinkley, 1997, section 4.2). NaN with
        fewer than 8 days, where nothing varies or a return is NaN (equity was used up).

    Raises
    ------
    DataError
        If the shapes differ.
    """
    config = ComparisonConfig() if config is None else config
    values = np.asarray(returns, dtype=np.float64)
    if benchmark is not None:
        if np.shape(benchmark) != values.shape:
            raise DataError(
                f"benchmark must have a return for each day, {values.shape}, had "
                f"{np.shape(benchmark)}"
            )
        values = values - np.asarray(benchmark, dtype=np.float64)
    if len(values) < MIN_DAYS or not np.isfinite(values).all() or values.max() == values.min():
        return float("nan")
    rows = block_bootstrap_rows(
        len(values),
        samples=config.samples,
        mean_block=config.mean_block_days,
        seed=config.seed,
    )
    observed = sharpe_rows(values[None, :])[0]
    drawn = sharpe_rows((values - values.mean())[rows])
    # A draw of one day again and again has no ratio; it counts against the strategy.
    reached = int(np.sum(~(drawn < observed)))
    return (reached + 1.0) / (len(drawn) + 1.0)


def superior_ability(
    returns: Float64Array,
    names: tuple[str, ...],
    benchmark: Float64Array | None = None,
    config: ComparisonConfig | None = None,
) -> SuperiorAbility:
    """Test whether the best of many trials beats a benchmark (Hansen's SPA, 2005).

    Parameters
    ----------
    returns : (n_days, n_trials) float64
        Returns of all trials on the same days, in time order. To compare forecasts give their
        losses by day with the sign turned round.
    names : tuple of str
        Of the trials, each once.
    benchmark : (n_days,) float64, optional
        What to beat; nothing (cash) if absent.
    config : ComparisonConfig, optional
        Number and seed of the draws and mean length of a block (a whole number of days here).

    Raises
    ------
    ConfigError
        If the mean block is not a whole number of days.
    DataError
        If shapes or names do not fit, a return is not finite, there are fewer than 8 days, every
        trial equals the benchmark, or one differs from it by the same amount every day.

    Notes
    -----
    `arch` resamples and counts, but compares mean advantages in the unit of returns, so that the
    wildest trial decides. Hansen's statistic divides each by its standard error. Each column is
    therefore divided by it first, with the bootstrap's own variance (Politis and Romano, 1994,
    lemma 1; Hansen's equation in section 3.2). The observed sample counts as one of the draws.
    """
    from arch.bootstrap import SPA

    config = ComparisonConfig() if config is None else config
    block = _whole_block(config)
    values = _checked(returns, names)
    lead = values if benchmark is None else values - _column(benchmark, len(values))
    differs = np.flatnonzero((lead != 0.0).any(axis=0))
    if len(differs) == 0:
        raise DataError(
            f"at least one of {len(names)} trials must differ from the benchmark, none does; "
            "look for trials that never traded"
        )
    lead = lead[:, differs]
    error = np.sqrt(_bootstrap_variance(lead, block))
    fixed = np.flatnonzero(lead.max(axis=0) == lead.min(axis=0))
    if len(fixed):
        raise DataError(
            f"trial {names[differs[fixed[0]]]} must not differ from the benchmark by the same "
            f"amount every day, was {lead[0, fixed[0]]:g} apart; leave it out"
        )
    scaled = lead / error
    test = SPA(
        np.zeros(len(lead)), -scaled, block_size=block, reps=config.samples, seed=config.seed
    )
    test.compute()
    corrected = {
        str(name): (float(p) * config.samples + 1.0) / (config.samples + 1.0)
        for name, p in test.pvalues.items()
    }
    best = int(scaled.mean(axis=0).argmax())
    return SuperiorAbility(
        lower=corrected["lower"],
        consistent=corrected["consistent"],
        upper=corrected["upper"],
        statistic=float(scaled[:, best].mean() * np.sqrt(len(lead))),
        best=names[differs[best]],
        trials=len(differs),
        seed=config.seed,
        samples=config.samples,
        mean_block_days=block,
    )


def model_confidence_set(
    losses: Float64Array, names: tuple[str, ...], config: ComparisonConfig | None = None
) -> ConfidenceSet:
    """Return the trials that cannot be told from the best (Hansen, Lunde and Nason, 2011).

    Parameters
    ----------
    losses : (n_days, n_trials) float64
        Losses of all trials on the same days, in time order: less is better. For returns give
        them with the sign turned round.
    names : tuple of str
        Of the trials, each once.
    config : ComparisonConfig, optional
        Number and seed of the draws, mean length of a block (a whole number of days here), and
        `alpha`.

    Raises
    ------
    ConfigError
        If the mean block is not a whole number of days.
    DataError
        As `superior_ability`, without the benchmark.

    Notes
    -----
    The range statistic (T_R) of the paper. Trials with the same losses on all days share one
    column: their difference has no variance.
    """
    from arch.bootstrap import MCS

    config = ComparisonConfig() if config is None else config
    block = _whole_block(config)
    values = _checked(losses, names)
    columns, which = np.unique(values, axis=1, return_inverse=True)
    found: dict[Hashable, float] = {0: 1.0}
    if columns.shape[1] > 1:
        test = MCS(
            columns,
            size=config.alpha,
            reps=config.samples,
            block_size=block,
            method="R",
            seed=config.seed,
        )
        test.compute()
        found = {index: float(p) for index, p in test.pvalues["Pvalue"].items()}
    p_values = {name: found[int(column)] for name, column in zip(names, which, strict=True)}
    return ConfidenceSet(
        included=tuple(name for name in names if p_values[name] > config.alpha),
        p_values=p_values,
        alpha=config.alpha,
        seed=config.seed,
        samples=config.samples,
        mean_block_days=block,
    )


def _whole_block(config: ComparisonConfig) -> int:
    if config.mean_block_days % 1.0:
        raise ConfigError(
            f"mean_block_days must be a whole number for this test, was {config.mean_block_days}"
        )
    return int(config.mean_block_days)


def _checked(values: Float64Array, names: tuple[str, ...]) -> Float64Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != len(names) or not names:
        raise DataError(
            f"values must have the shape (n_days, n_trials) with a column for each of "
            f"{len(names)} names, had {found.shape}"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"names of trials must be distinct, {twice} is there twice")
    if len(found) < MIN_DAYS:
        raise DataError(f"there must be at least {MIN_DAYS} days, were {len(found)}")
    wrong = np.argwhere(~np.isfinite(found))
    if len(wrong):
        day, trial = wrong[0]
        raise DataError(
            f"values must be finite, day {day} of {names[trial]} was {found[day, trial]}"
        )
    return found


def _column(benchmark: Float64Array, n_days: int) -> Float64Array:
    found = np.asarray(benchmark, dtype=np.float64)
    if found.shape != (n_days,) or not np.isfinite(found).all():
        raise DataError(
            f"benchmark must have a finite return for each of {n_days} days, had the shape "
            f"{found.shape}"
        )
    return found[:, None]


def _bootstrap_variance(values: Float64Array, mean_block: int) -> Float64Array:
    """Return the variance of the root of n times the bootstrapped mean, (n_columns,).

    Autocovariances with the weights of the stationary bootstrap: Politis and Romano (1994), lemma
    1. It is the exact variance of the draws, hence never negative.
    """
    n = len(values)
    centred = values - values.mean(axis=0)
    stay = 1.0 - 1.0 / mean_block
    found = np.sum(centred**2, axis=0) / n
    for lag in range(1, n):
        weight = (1.0 - lag / n) * stay**lag + lag / n * stay ** (n - lag)
        found += 2.0 * weight * np.sum(centred[lag:] * centred[:-lag], axis=0) / n
    return np.asarray(found)
