"""The Kelly criterion: the sizes that make the logarithm of wealth grow fastest.

Pure functions on floats and small arrays. Sizes are fractions of equity, not yet limited by any
cap but those that `kelly_weights` is given.

References
----------
.. [1] Kelly, J. L. (1956). A new interpretation of information rate. Bell System Technical
   Journal 35(4).
.. [2] Thorp, E. O. (2006). The Kelly criterion in blackjack, sports betting, and the stock
   market. Handbook of Asset and Liability Management 1. Sections 2, 3 (binary), 7 (continuous).
.. [3] Baker, R. D. and McHale, I. G. (2013). Optimal betting under parameter uncertainty:
   improving the Kelly criterion. Decision Analysis 10(3).
.. [4] Ledoit, O. and Wolf, M. (2004). A well-conditioned estimator for large-dimensional
   covariance matrices. Journal of Multivariate Analysis 88(2).
.. [5] Lawson, C. L. and Hanson, R. J. (1974). Solving Least Squares Problems. Chapter 23.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

type Array = NDArray[np.float64]

_ROUNDING = 1e-12
"""How far, relatively, a solved weight is pulled inside its limits against rounding."""


def binary_fraction(prob_win: float, gain: float, loss: float) -> float:
    """Return the full Kelly fraction of a bet with two outcomes, at least 0.

    Maximises ``p log(1 + gain f) + q log(1 - loss f)``, so ``f = p / loss - q / gain`` ([1]_;
    with a loss other than the whole stake [2]_, section 3). With the payoff ratio
    ``b = gain / loss`` this is Kelly's ``(p b - q) / b``, divided by the loss.

    Parameters
    ----------
    prob_win : float
        Probability of the gain.
    gain, loss : float
        What one unit staked gains and loses, fractions after costs; `loss` above 0. A `gain` of 0
        or less is never worth a stake.

    Returns
    -------
    float
        Fraction of equity to stake, below ``1 / loss``.
    """
    if gain <= 0.0:
        return 0.0
    return max(0.0, binary_edge(prob_win, gain, loss) / gain / loss)


def binary_edge(prob_win: float, gain: float, loss: float) -> float:
    """Return what one unit staked is expected to earn: ``p gain - q loss``."""
    return prob_win * gain - (1.0 - prob_win) * loss


def continuous_fraction(edge: float, sigma: float) -> float:
    """Return the full Kelly fraction of a continuous return: ``mu / sigma^2``, at least 0.

    Maximises ``f mu - f^2 sigma^2 / 2``, the growth to second order ([2]_, section 7).

    Parameters
    ----------
    edge : float
        Expected return over a span, a fraction after costs.
    sigma : float
        Standard deviation of the return over the same span, a fraction above 0.
    """
    return max(0.0, edge / sigma / sigma)


def uncertainty_factor(edge: float, edge_std: float) -> float:
    """Return by how much to shrink a Kelly fraction whose edge is an estimate, in [0, 1].

    The log growth of a given stake is linear in the probability: averaged over ``p ~ N(p, s^2)``
    it is the same as at the mean, and so is its best stake. What uncertainty costs is that the
    stake is computed from the estimate, which errs, and that growth falls off on both sides of the
    best stake. Averaging the growth of the stake ``k f(p_hat)`` over ``p_hat ~ N(p, s^2)``, to
    second order ``E[g] = k mu f - v k^2 (f^2 + t^2) / 2`` with ``f = mu / v`` and ``t`` the
    standard error of the stake, is maximal at

    ``k = f^2 / (f^2 + t^2) = edge^2 / (edge^2 + edge_std^2)``,

    for stake and edge are proportional. This is the closed form of [3]_, with the estimate in the
    place of the true edge, as there. For two outcomes ``edge_std = s (gain + loss)``.

    ``edge k`` grows with the edge (its slope is positive), is continuous, and 0 at no edge.

    Parameters
    ----------
    edge : float
        Estimated edge; what is not positive has no stake to shrink and gives 0.
    edge_std : float
        Its standard error, at least 0, in the same unit.
    """
    if edge <= 0.0:
        return 0.0
    # Not edge^2 / (edge^2 + std^2): that overflows and underflows.
    ratio = edge_std / edge
    return 1.0 / (1.0 + ratio * ratio)


class WeightCaps(NamedTuple):
    """Limits of `kelly_weights`, in multiples of equity, each above 0.

    Parameters
    ----------
    max_position : float
        Of one instrument's size.
    max_gross : float
        Of the sum of sizes.
    max_net : float
        Of the size of the sum with signs.
    """

    max_position: float
    max_gross: float
    max_net: float


def shrunk_covariance(returns: Array) -> Array:
    """Return the covariance of returns, shrunk towards a multiple of the identity ([4]_).

    Needs no more bars than instruments. The weight of the target is estimated from the data.
    Equal to `sklearn.covariance.ledoit_wolf`, which live processes cannot afford to import.
    For `rebalance` and `kelly_weights`: once in many bars, not at every decision.

    Parameters
    ----------
    returns : Array, shape (n_bars, n_instruments)
        One-bar log returns, known at the last bar's close; finite, at least three
        bars: two lie on a line through their mean, from which nothing can be told about error.

    Returns
    -------
    Array, shape (n_instruments, n_instruments)
        Per bar; positive definite unless every return is constant.

    Raises
    ------
    ValueError
        Where the returns are too few or not finite.
    """
    if returns.ndim != 2 or returns.shape[0] < 3 or returns.shape[1] < 1:
        raise ValueError(
            "returns must have the shape (n_bars >= 3, n_instruments >= 1), "
            f"was {returns.shape}: give more history"
        )
    if not np.isfinite(returns).all():
        raise ValueError("returns must be finite, was not: leave out bars with missing prices")
    count, width = returns.shape
    centred = returns - returns.mean(axis=0)
    sample = centred.T @ centred / count
    mean = float(np.trace(sample)) / width
    squares = centred * centred
    # Mean over bars of |x x' - S|^2 and |S - mean I|^2, both per instrument, as [4]_ has them.
    spread = float((squares.T @ squares / count - sample * sample).sum()) / width / count
    distance = float((sample * sample).sum()) / width - mean * mean
    weight = 1.0 if distance <= 0.0 else min(max(spread, 0.0) / distance, 1.0)
    shrunk: Array = (1.0 - weight) * sample
    shrunk[np.diag_indices(width)] += weight * mean
    return shrunk


def rescaled_covariance(covariance: Array, sigmas: Array) -> Array:
    """Return the covariance with the same correlations and other scales.

    So that the risk of one instrument in `kelly_weights` is that of its own prediction.

    Parameters
    ----------
    covariance : Array, shape (n_instruments, n_instruments)
        With positive variances.
    sigmas : Array, shape (n_instruments,)
        Standard deviations wanted, fractions above 0.
    """
    factor = sigmas / np.sqrt(np.diag(covariance))
    rescaled: Array = covariance * np.outer(factor, factor)
    return rescaled


def kelly_weights(mu: Array, covariance: Array, fraction: float, caps: WeightCaps) -> Array:
    """Return the fractional Kelly weights of instruments held together, within limits.

    Maximises ``w' mu - w' Sigma w / (2 fraction)`` subject to ``w_i sign(mu_i) >= 0``,
    ``|w_i| <= max_position``, ``sum |w_i| <= max_gross``, ``|sum w_i| <= max_net``. Without
    limits this is ``fraction Sigma^-1 mu`` ([2]_, section 7); within them correlated instruments
    share what room there is by what they add.

    The sign constraint is ours: full Kelly may short an instrument with a rising signal to hedge
    another, but no position may be taken against its own prediction.

    Parameters
    ----------
    mu : Array, shape (n_instruments,)
        Expected returns over one span after costs and shrinkage (`strategies.sizing.shrunk_edge`),
        signed by the side wanted; 0 where nothing is wanted, whose weight is then 0.
    covariance : Array, shape (n_instruments, n_instruments)
        Of the returns over the same span: per bar times the horizon in bars.
    fraction : float
        Of full Kelly, in (0, 1].
    caps : WeightCaps
        Limits; kept exactly.

    Returns
    -------
    Array, shape (n_instruments,)
        Signed fractions of equity.

    Raises
    ------
    ValueError
        Where shapes disagree, a number is not finite or the covariance is not positive definite.
    """
    _check(mu, covariance, fraction, caps)
    weights = np.zeros(len(mu))
    kept = np.flatnonzero(mu)
    if len(kept) == 0:
        return weights
    signs = np.sign(mu[kept])
    risk = covariance[np.ix_(kept, kept)] * np.outer(signs, signs) / fraction
    sizes = _largest_growth(np.abs(mu[kept]), risk, signs, caps)
    weights[kept] = signs * sizes
    return weights


def _check(mu: Array, covariance: Array, fraction: float, caps: WeightCaps) -> None:
    if mu.ndim != 1 or covariance.shape != (len(mu), len(mu)):
        raise ValueError(
            "covariance must have one row and column for each expected return "
            f"({mu.shape}), was {covariance.shape}"
        )
    if not (np.isfinite(mu).all() and np.isfinite(covariance).all()):
        raise ValueError("mu and covariance must be finite, were not: leave the instrument out")
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction must be in (0, 1], was {fraction}")
    if not all(cap > 0.0 for cap in caps):
        raise ValueError(f"caps must be above 0, were {caps}")


def _largest_growth(edges: Array, risk: Array, signs: Array, caps: WeightCaps) -> Array:
    """Return the sizes ``x`` in [0, max_position] that maximise ``x' edges - x' risk x / 2``.

    With ``risk = L L'`` and ``y = L' x - L^-1 edges`` this is the least ``|y|`` subject to linear
    inequalities, solved exactly by one non-negative least squares problem ([5]_, section 23.4).
    """
    # Imported here: it costs a live process memory that only this method needs.
    from scipy.optimize import nnls

    try:
        lower = np.linalg.cholesky(risk)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "covariance must be positive definite, was not: use shrunk_covariance"
        ) from error
    count = len(edges)
    # Every inequality as rows x >= bounds.
    identity, ones = np.eye(count), np.ones(count)
    rows = np.vstack([identity, -identity, -ones, -signs, signs])
    totals = [-caps.max_gross, -caps.max_net, -caps.max_net]
    bounds = np.concatenate([np.zeros(count), np.full(count, -caps.max_position), totals])
    free = np.linalg.solve(lower, edges)
    in_y = np.linalg.solve(lower, rows.T).T
    slack = bounds - in_y @ free
    # Rows of like size: the solver's tolerance is absolute.
    norms = np.linalg.norm(in_y, axis=1)
    stacked = np.vstack([(in_y / norms[:, None]).T, slack / norms])
    goal = np.zeros(count + 1)
    goal[-1] = 1.0
    solution, _ = nnls(stacked, goal)
    residual = stacked @ solution - goal
    y = -residual[:-1] / residual[-1]
    return _inside(np.linalg.solve(lower.T, y + free), signs, caps)


def _inside(sizes: Array, signs: Array, caps: WeightCaps) -> Array:
    """Return the sizes without what rounding left outside the limits."""
    sizes = np.clip(sizes, 0.0, caps.max_position)
    for total, cap in (
        (float(sizes.sum()), caps.max_gross),
        (abs(float(signs @ sizes)), caps.max_net),
    ):
        if total > cap:
            sizes = sizes * (cap / total * (1.0 - _ROUNDING))
    return sizes
