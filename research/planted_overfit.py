"""A hundred worthless rules, each tuned until it looks well, and what gives them away.

Every rule bets on the next day's direction by a random weighting of the days before. Nothing is
known of the market, so each rule is luck; but each is drawn anew many times and the luckiest draw
is kept, as one tunes a rule on the very span that it is then shown on. The best of them has a
handsome Sharpe ratio. What gives it away is how the rules behave on halves of the span, and how
many were tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import ConfigError, DataError
from research.cscv import OverfittingProbability, backtest_overfitting
from research.overfitting import DeflatedSharpe, SharpeMoments, deflated_sharpe

MEMORY_DAYS = 10
"""Days before that a rule looks at."""
_MOST_AT_ONCE = 512  # rules evaluated together: bounds memory at a few MB for years of days


@dataclass(frozen=True, slots=True, eq=False)
class PlantedOverfit:
    """Tuned rules, and what three judges say of them.

    Parameters
    ----------
    returns : (n_days, n_rules) float64
        Daily returns of the tuned rules, without costs.
    best : int
        Column of the highest Sharpe ratio.
    tried : int
        How many rules were looked at in all, tuning included.
    probability : OverfittingProbability
        By CSCV over the tuned rules. Rules that were bent until they all look equally well have
        used up the luck of the span: whoever did better on one half did worse on the other.
    naive : DeflatedSharpe
        Of the best as if it were the only one: what its inventor says.
    honest : DeflatedSharpe
        With everything that was tried, and the spread of all of it.
    """

    returns: Float64Array
    best: int
    tried: int
    probability: OverfittingProbability
    naive: DeflatedSharpe
    honest: DeflatedSharpe

    @property
    def is_exposed(self) -> bool:
        """Whether both judges refuse what looks well: PBO above 0.5, deflated ratio below 0.95."""
        return self.probability.value > 0.5 and self.honest.value < 0.95


def plant_overfit(
    market: Float64Array, *, rules: int = 100, tunings: int = 50, groups: int = 16, seed: int = 7
) -> PlantedOverfit:
    """Tune random rules on a market's whole span and judge them.

    Parameters
    ----------
    market : (n_days,) float64
        Simple returns of the market by day, in time order; a real or a made-up one. The first
        `MEMORY_DAYS` only feed the rules.
    rules : int
        Rules that are kept.
    tunings : int
        Draws for each rule, of which the one with the highest Sharpe ratio is kept.
    groups : int
        Groups of days for CSCV.
    seed : int
        Of all draws.

    Raises
    ------
    ConfigError
        If there are fewer than two rules or no draw, or too few days for the groups.
    DataError
        If a return is not finite.

    Notes
    -----
    A rule holds ``sign(w · (r[t-1], …, r[t-10]))`` over day `t`, with weights drawn from a normal
    distribution: it knows nothing of day `t`, and is fitted to all days only by which draw is
    kept.
    """
    values = np.asarray(market, dtype=np.float64)
    if rules < 2 or tunings < 1:
        raise ConfigError(f"there must be 2 rules and a draw of each, were {rules} and {tunings}")
    if values.ndim != 1 or not np.isfinite(values).all():
        raise DataError("market must hold a finite return for each day, in one column")
    if len(values) <= MEMORY_DAYS + groups:
        raise ConfigError(
            f"market must have more than {MEMORY_DAYS + groups} days for {groups} groups, had "
            f"{len(values)}"
        )
    random = np.random.default_rng(seed)
    weights = random.standard_normal((rules * tunings, MEMORY_DAYS))
    past = np.lib.stride_tricks.sliding_window_view(values[:-1], MEMORY_DAYS)
    ratios = np.concatenate(
        [
            _ratios(_played(past, weights[first : first + _MOST_AT_ONCE], values))
            for first in range(0, len(weights), _MOST_AT_ONCE)
        ]
    )
    kept = ratios.reshape(rules, tunings).argmax(axis=1) + tunings * np.arange(rules)
    returns = _played(past, weights[kept], values)
    best = int(ratios[kept].argmax())
    moments = SharpeMoments.of(returns[:, best])
    return PlantedOverfit(
        returns=returns,
        best=best,
        tried=len(weights),
        probability=backtest_overfitting(returns, groups=groups),
        naive=deflated_sharpe(moments, trials=1),
        honest=deflated_sharpe(moments, trials=len(weights), spread=float(np.std(ratios, ddof=1))),
    )


def _played(past: Float64Array, weights: Float64Array, market: Float64Array) -> Float64Array:
    """Return what rules earn by day, (n_days - MEMORY_DAYS, n_rules)."""
    # Not a BLAS product: its rounding depends on the number of threads.
    opinion = np.einsum("tk,rk->tr", past, weights, optimize=False)
    return np.asarray(np.sign(opinion) * market[MEMORY_DAYS:, None])


def _ratios(returns: Float64Array) -> Float64Array:
    return np.asarray(returns.mean(axis=0) / returns.std(axis=0, ddof=1))
