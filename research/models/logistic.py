"""Logistic regression: the plain reference that an expert must beat on the same features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import DataError

STEPS = 30
TOLERANCE = 1e-8


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
    def fit(cls, values: Float64Array, label: Float64Array, l2: float = 1.0) -> Self:
        """Fit on training rows.

        Minimises ``sum of log losses + l2 / 2 * |coefficients without intercept|^2``, the form
        of scikit-learn's LogisticRegression with ``C = 1 / l2``.

        Parameters
        ----------
        values : (n_rows, n_features) float64
            NaN where undefined.
        label : (n_rows,) float64
            1 for up, 0 for down.
        l2 : float
            Ridge penalty.

        Raises
        ------
        DataError
            If Newton's method does not converge.
        """
        known = np.isfinite(values)
        count = np.maximum(known.sum(axis=0), 1)
        filled = np.where(known, values, 0.0)
        mean = filled.sum(axis=0) / count
        spread = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(axis=0) / count)
        scale = np.where(spread > 0.0, spread, 1.0)
        design = _design(values, mean, scale)
        penalty = np.full(design.shape[1], l2)
        penalty[-1] = 0.0
        coefficient = np.zeros(design.shape[1])
        for _ in range(STEPS):
            probability = _sigmoid(design @ coefficient)
            gradient = design.T @ (probability - label) + penalty * coefficient
            curvature = (design.T * (probability * (1.0 - probability))) @ design
            step = np.linalg.solve(curvature + np.diag(penalty + 1e-12), gradient)
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


def _design(values: Float64Array, mean: Float64Array, scale: Float64Array) -> Float64Array:
    standard = (values - mean) / scale
    standard[~np.isfinite(standard)] = 0.0
    return np.column_stack((standard, np.ones(len(values))))


def _sigmoid(score: Float64Array) -> Float64Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(score, -40.0, 40.0))))
