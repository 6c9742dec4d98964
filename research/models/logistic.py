"""Logistic regression: the plain reference that an expert must beat on the same features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import DataError

STEPS = 30
TOLERANCE = 1e-6
"""Newton's method doubles the digits with every step: what is left is far below this."""
CHUNK_ROWS = 2048
"""Rows standardised at a time: few enough for the processor's cache, and no copy of all of them."""


@dataclass(frozen=True, slots=True, eq=False)
class LogisticReference:
    """A ridge-penalised logistic regression on standardised features.

    Fitted by Newton's method (iteratively reweighted least squares), which for some thirty
    features needs a handful of passes over the rows.

    Parameters
    ----------
    mean, scale : (n_features,) float64
        Of the training rows; undefined values count as the mean.
    coefficient : (n_features + 1,) float64
        Last the intercept.
    """

    mean: Float64Array
    scale: Float64Array
    coefficient: Float64Array

    @classmethod
    def fit(
        cls, table: Float64Array, rows: Int64Array, label: Float64Array, l2: float = 1.0
    ) -> Self:
        """Fit on training rows.

        Minimises ``sum of log losses + l2 / 2 * |coefficients without intercept|^2``, the form
        of scikit-learn's LogisticRegression with ``C = 1 / l2``.

        Parameters
        ----------
        table : (n_table, n_features) float64
            NaN where undefined.
        rows : (n_rows,) int64
            Which of them are the training rows; the others are never read.
        label : (n_rows,) float64
            1 for up, 0 for down.
        l2 : float
            Ridge penalty.

        Raises
        ------
        DataError
            If Newton's method does not converge.
        """
        mean, scale = _moments(table, rows)
        width = table.shape[1] + 1
        penalty = np.full(width, l2)
        penalty[-1] = 0.0
        coefficient = np.zeros(width)
        for _ in range(STEPS):
            gradient, curvature = penalty * coefficient, np.diag(penalty + 1e-12)
            for first in range(0, len(rows), CHUNK_ROWS):
                part = slice(first, first + CHUNK_ROWS)
                design = _design(table[rows[part]], mean, scale)
                probability = _sigmoid(design @ coefficient)
                gradient += design.T @ (probability - label[part])
                # A matrix times its own transpose takes half the multiplications of any other.
                design *= np.sqrt(probability * (1.0 - probability))[:, np.newaxis]
                curvature += design.T @ design
            step = np.linalg.solve(curvature, gradient)
            coefficient = coefficient - step
            if np.abs(step).max() < TOLERANCE:
                return cls(mean, scale, coefficient)
        raise DataError(
            f"logistic regression must converge within {STEPS} Newton steps, did not; "
            "look for a feature that separates ups from downs completely: it is a leak"
        )

    def predict(self, values: Float64Array) -> Float64Array:
        """Return the probability of a rise for each row, (n_rows,), inside (0, 1)."""
        probability = _sigmoid(_design(values, self.mean, self.scale) @ self.coefficient)
        return np.clip(probability, 1e-9, 1.0 - 1e-9)


def _moments(table: Float64Array, rows: Int64Array) -> tuple[Float64Array, Float64Array]:
    """Return each column's mean and standard deviation (1 if constant) over its defined values."""
    width = table.shape[1]
    mean, scale = np.zeros(width), np.ones(width)
    for column in range(width):
        known = table[:, column][rows]
        known = known[np.isfinite(known)]
        if len(known):
            mean[column] = known.mean()
            spread = float(known.std())
            scale[column] = spread if spread > 0.0 else 1.0
    return mean, scale


def _design(values: Float64Array, mean: Float64Array, scale: Float64Array) -> Float64Array:
    design = np.ones((len(values), values.shape[1] + 1))
    standard = design[:, :-1]
    np.subtract(values, mean, out=standard)
    standard /= scale
    standard[~np.isfinite(standard)] = 0.0
    return design


def _sigmoid(score: Float64Array) -> Float64Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(score, -40.0, 40.0))))
