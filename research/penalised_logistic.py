"""Logistic regression of a few columns on many rows, with a prior and with signs held.

The one solver behind Platt's and the beta calibration, opinion pools and stacking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array
from catalog.errors import DataError

STEPS = 100
HALVINGS = 40
TOLERANCE = 1e-12
"""Stop when the next step can lower the objective by no more than this part of it: the step is
still taken, and Newton's method doubles the digits with each."""


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """What the coefficients are believed to be before any row is seen.

    Parameters
    ----------
    centre : (n_columns,) float64
        Where the penalty is zero.
    strength : (n_columns,) float64
        ``strength / 2 * (coefficient - centre)^2`` is added to the summed log loss. Positive, so
        that there is one solution whatever the columns are.
    non_negative : (n_columns,) bool
        Which coefficients may not fall below zero.
    """

    centre: Float64Array
    strength: Float64Array
    non_negative: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class WeightedRows:
    """Rows to regress.

    Parameters
    ----------
    columns : (n_columns, n_rows) float64
        Finite; a column of ones where an intercept is wanted.
    target : (n_rows,) float64
        In [0, 1]: labels, or smoothed ones.
    weight : (n_rows,) float64
        Positive.
    offset : float
        Added to the log-odds of every row.
    """

    columns: Float64Array
    target: Float64Array
    weight: Float64Array
    offset: float = 0.0

    def score(self, coefficient: Float64Array) -> Float64Array:
        """Return the log-odds of each row, (n_rows,)."""
        total = np.full(len(self.target), self.offset)
        for column, factor in zip(self.columns, coefficient, strict=True):
            total += factor * column
        return total


def fit_logistic(rows: WeightedRows, prior: Prior) -> Float64Array:
    """Minimise the summed weighted log loss plus the prior's penalty under its signs.

    Newton's method; each step minimises the quadratic model under the signs exactly and is
    halved until the objective falls. The sums over the rows use no BLAS: how that rounds depends
    on its number of threads.

    Returns
    -------
    (n_columns,) float64
        The coefficients.

    Raises
    ------
    DataError
        If Newton's method does not converge.
    """
    coefficient = np.where(prior.non_negative, np.maximum(prior.centre, 0.0), prior.centre)
    value = _objective(rows, prior, coefficient)
    for _ in range(STEPS):
        gradient, curvature = _derivatives(rows, prior, coefficient)
        aim = _quadratic_minimum(curvature, curvature @ coefficient - gradient, prior.non_negative)
        step = aim - coefficient
        if -float(gradient @ step) <= TOLERANCE * (1.0 + value):
            return aim
        coefficient, value = _descend(rows, prior, coefficient, step, value)
    raise DataError(
        f"logistic regression of {len(rows.columns)} columns must converge within {STEPS} steps, "
        f"did not; its coefficients were {coefficient.tolist()}"
    )


def _objective(rows: WeightedRows, prior: Prior, coefficient: Float64Array) -> float:
    score = rows.score(coefficient)
    # ln(1 + exp(score)), without overflow and several times as fast as logaddexp.
    ceiling = np.maximum(score, 0.0) + np.log1p(np.exp(-np.abs(score)))
    loss = np.sum(rows.weight * (ceiling - rows.target * score))
    return float(loss + 0.5 * np.sum(prior.strength * (coefficient - prior.centre) ** 2))


def _derivatives(
    rows: WeightedRows, prior: Prior, coefficient: Float64Array
) -> tuple[Float64Array, Float64Array]:
    probability = 1.0 / (1.0 + np.exp(-np.clip(rows.score(coefficient), -500.0, 500.0)))
    residual = rows.weight * (probability - rows.target)
    curvature_weight = rows.weight * probability * (1.0 - probability)
    gradient = prior.strength * (coefficient - prior.centre)
    curvature = np.diag(prior.strength)
    for i, column in enumerate(rows.columns):
        gradient[i] += np.sum(residual * column)
        bent = curvature_weight * column
        for j in range(i + 1):
            found = np.sum(bent * rows.columns[j])
            curvature[i, j] += found
            if i != j:
                curvature[j, i] += found
    return gradient, curvature


def _descend(
    rows: WeightedRows, prior: Prior, start: Float64Array, step: Float64Array, value: float
) -> tuple[Float64Array, float]:
    """Return the first halving of the step that does not raise the objective, with its value."""
    for halving in range(HALVINGS):
        found = start + step * 0.5**halving
        reached = _objective(rows, prior, found)
        if reached <= value:
            return found, reached
    return start, value


def _quadratic_minimum(
    curvature: Float64Array, linear: Float64Array, non_negative: NDArray[np.bool_]
) -> Float64Array:
    """Minimise ``x' curvature x / 2 - linear' x`` with some x at least zero, (n_columns,).

    The free ones are eliminated (Schur complement); what is left is a least-squares problem with
    signs (Lawson and Hanson, 1974, chapter 23).
    """
    found = np.linalg.solve(curvature, linear)
    if np.all(found[non_negative] >= 0.0):
        return np.asarray(found)
    from scipy.optimize import nnls

    held, free = np.flatnonzero(non_negative), np.flatnonzero(~non_negative)
    across = curvature[np.ix_(held, free)]
    inner = curvature[np.ix_(free, free)]
    reduced = curvature[np.ix_(held, held)] - across @ np.linalg.solve(inner, across.T)
    lower = np.linalg.cholesky(reduced)
    aim = np.linalg.solve(lower, linear[held] - across @ np.linalg.solve(inner, linear[free]))
    found[held] = nnls(lower.T, aim)[0]
    found[free] = np.linalg.solve(inner, linear[free] - across.T @ found[held])
    return np.asarray(found)
