"""Weights under which every position carries the same risk: pure functions on a covariance.

Sources: Maillard, Roncalli and Teiletche (2010), "The properties of equally weighted risk
contribution portfolios"; Griveau-Billion, Richard and Roncalli (2013), "A fast algorithm for
computing high-dimensional risk parity portfolios" (cyclical coordinate descent); Richard and
Roncalli (2019), "Constrained risk budgeting portfolios" (the largest weight); Ledoit and Wolf
(2004), "A well-conditioned estimator for large-dimensional covariance matrices".

Deviations: correlations are shrunk instead of covariances, and positions may be short, which turns
the sign of their rows and columns in the covariance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from catalog.errors import DataError
from strategies.kelly import shrunk_covariance

type FloatArray = NDArray[np.float64]

_MAX_SWEEPS = 10_000
_TOLERANCE = 1e-12
# Weights are sought as multiples of the largest allowed one between these powers of e.
_LOG_PENALTY = (-60.0, 20.0)


def risk_covariance(returns: FloatArray, names: Sequence[str]) -> FloatArray:
    """Return the covariance of returns with variances as measured and correlations shrunk.

    Ledoit and Wolf shrink a covariance towards equal variances (`strategies.kelly` does). Risk
    parity lives on how the variances differ, so returns are divided by their standard deviation
    first, which leaves only the correlations to be shrunk, and multiplied by it afterwards.

    Parameters
    ----------
    returns : ndarray of shape (n_bars, n_instruments)
        Log returns of complete bars, aligned, none missing; usable at the close of the last bar.
    names : sequence of str, n_instruments
        For messages.

    Returns
    -------
    ndarray of shape (n_instruments, n_instruments)
        Per bar.

    Raises
    ------
    DataError
        If a return is missing, there are fewer than 2 bars, or an instrument never moves.
    """
    returns = np.asarray(returns, dtype=np.float64)
    _check_returns(returns, names)
    scale = np.std(returns, axis=0)
    for name, value in zip(names, scale.tolist(), strict=True):
        if not value > 0.0:
            raise DataError(
                f"returns of {name} must not all be equal, were for {len(returns)} bars: its risk "
                "is unknown; leave it out, or look back further"
            )
    covariance: FloatArray = shrunk_covariance(returns / scale) * np.outer(scale, scale)
    return covariance


def risk_contributions(weights: FloatArray, covariance: FloatArray) -> FloatArray:
    """Return each position's share of the variance ``w'Cw``, (n_instruments,); they sum to it."""
    contributions: FloatArray = weights * (covariance @ weights)
    return contributions


def equal_risk_weights(
    covariance: FloatArray, sides: Sequence[int], gross: float, max_weight: float
) -> FloatArray:
    """Return the weights with equal risk contributions, none above `max_weight`.

    They minimise ``w'Cw / 2 - k sum(log |w|)`` on the given sides with ``|w| <= max_weight``,
    which has one solution for each k > 0; k is the one with ``sum(|w|) = gross``. Positions below
    the largest weight contribute the same, those at it less.

    Parameters
    ----------
    covariance : ndarray of shape (n_instruments, n_instruments)
        Of returns, positive definite; in any unit, which drops out.
    sides : sequence of {-1, 0, 1}, n_instruments
        1 long, -1 short; 0 gets no weight.
    gross : float
        Sum of absolute weights, a multiple of equity, at least 0. Where the largest weight does
        not allow as much, every position gets the largest.
    max_weight : float
        Largest absolute weight, a multiple of equity, above 0.

    Returns
    -------
    ndarray of shape (n_instruments,)
        Signed weights, multiples of equity.

    Raises
    ------
    DataError
        If the covariance is not positive definite.
    """
    side = np.asarray(sides, dtype=np.float64)
    weights = np.zeros(len(side))
    held = np.flatnonzero(side)
    if held.size == 0 or gross <= 0.0:
        return weights
    if gross >= held.size * max_weight:
        return side * max_weight
    flipped = covariance[np.ix_(held, held)] * np.outer(side[held], side[held])
    scale = _volatilities(flipped)
    # In units of the largest weight and of volatility, so that one tolerance fits every market.
    correlation = flipped / np.outer(scale, scale)
    bounds = scale / scale.max()
    solved = _of_gross(correlation, bounds, gross / max_weight)
    weights[held] = side[held] * np.minimum(solved / bounds, 1.0) * max_weight
    return weights


def _of_gross(correlation: FloatArray, bounds: FloatArray, gross: float) -> FloatArray:
    """Return the solution y (weight times volatility) whose weights ``y / bounds`` sum to gross."""
    # Imported here: it costs a live process memory that only a rebalancing needs.
    from scipy.optimize import brentq

    free = _descend(correlation, 1.0, np.full(len(bounds), math.inf), np.ones(len(bounds)))
    free *= gross / float((free / bounds).sum())
    if np.all(free <= bounds):
        return free
    last = np.minimum(free, bounds)

    def surplus(log_penalty: float) -> float:
        nonlocal last
        last = _descend(correlation, math.exp(log_penalty), bounds, last)
        return float((last / bounds).sum()) - gross

    root = brentq(surplus, *_LOG_PENALTY, xtol=1e-13, rtol=1e-13)
    return _descend(correlation, math.exp(root), bounds, last)


def _descend(
    correlation: FloatArray, penalty: float, bounds: FloatArray, start: FloatArray
) -> FloatArray:
    """Minimise ``y'Ry / 2 - penalty sum(log y)`` over ``0 < y <= bounds``, one y at a time."""
    y = start.copy()
    for _ in range(_MAX_SWEEPS):
        largest_change = 0.0
        for i in range(len(y)):
            others = float(correlation[i] @ y) - y[i]
            root = math.sqrt(others * others + 4.0 * penalty)
            # Two forms of one root: neither subtracts numbers that nearly cancel.
            best = 2.0 * penalty / (others + root) if others > 0.0 else (root - others) / 2.0
            best = min(best, float(bounds[i]))
            largest_change = max(largest_change, abs(best - y[i]) / best)
            y[i] = best
        if largest_change < _TOLERANCE:
            return y
    raise DataError(
        "covariance must let risk parity converge, did not within "
        f"{_MAX_SWEEPS} sweeps: instruments are too alike; look back further, or leave one out"
    )


def _volatilities(covariance: FloatArray) -> FloatArray:
    problem = DataError(
        "covariance must be known and positive definite, was not: instruments are too alike, or "
        "there are too few bars; look back further, or leave one out"
    )
    if not np.all(np.isfinite(covariance)):
        raise problem
    try:
        np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise problem from error
    volatilities: FloatArray = np.sqrt(np.diag(covariance))
    return volatilities


def _check_returns(returns: FloatArray, names: Sequence[str]) -> None:
    if returns.ndim != 2 or returns.shape[1] != len(names) or len(returns) < 2:
        raise DataError(
            f"returns must have shape (n_bars >= 2, {len(names)}), was {returns.shape}; "
            "look back further"
        )
    for name, column in zip(names, returns.T, strict=True):
        missing = int(np.count_nonzero(~np.isfinite(column)))
        if missing:
            raise DataError(
                f"returns of {name} must all be known, {missing} of {len(column)} were not; "
                "take bars that all instruments have, or leave it out"
            )
