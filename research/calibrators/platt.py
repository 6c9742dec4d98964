"""Platt's sigmoid, on the log-odds of the score."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import IntegrityError
from research.calibrators.protocol import check_rows, read_numbers
from research.penalised_logistic import Prior, WeightedRows, fit_logistic
from research.probabilities import equal_mean_weights, from_log_odds, log_odds

PRIOR_STRENGTH = 1e-6
"""Only so that scores that are all equal have one solution: nothing else can feel it."""


@dataclass(frozen=True, slots=True)
class PlattCalibration:
    """``log-odds(p) = slope * log-odds(score) + intercept`` (Platt, 1999).

    Deviations: the score's log-odds take the place of a margin, so that slope 1 and intercept 0
    leave a probability alone; and the slope is not negative, so that order is kept.

    Parameters
    ----------
    slope, intercept : float
        The two coefficients.
    """

    slope: float
    intercept: float
    name: ClassVar[str] = "platt"
    n_parameters: ClassVar[int] = 2

    @classmethod
    def fit(
        cls, score: Float64Array, label: Float64Array, weight: Float64Array | None = None
    ) -> Self:
        """Fit by maximum likelihood against Platt's smoothed targets.

        Parameters
        ----------
        score : (n_rows,) float64
            Out-of-fold raw probabilities.
        label : (n_rows,) float64
            1 for up, 0 for down.
        weight : (n_rows,) float64, optional
            Positive sample weights; equal if absent. Their scale does not matter.

        Raises
        ------
        DataError
            If there are too few rows, or a score, label or weight is not usable.
        """
        check_rows(score, label, weight)
        even = equal_mean_weights(weight, len(score))
        rows = WeightedRows(
            np.stack([log_odds(score), np.ones(len(score))]), smoothed(label, even), even
        )
        prior = Prior(np.array([1.0, 0.0]), np.full(2, PRIOR_STRENGTH), np.array([True, False]))
        slope, intercept = fit_logistic(rows, prior)
        return cls(float(slope), float(intercept))

    def __call__(self, score: Float64Array) -> Float64Array:
        """Return calibrated probabilities, (n_rows,)."""
        return from_log_odds(self.slope * log_odds(score) + self.intercept)

    def to_json(self) -> str:
        """Return the coefficients as JSON; they survive the round trip bit for bit."""
        record = {"method": self.name, "slope": self.slope, "intercept": self.intercept}
        return json.dumps(record, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Load the coefficients.

        Raises
        ------
        IntegrityError
            If the text is not what `to_json` writes.
        """
        found = read_numbers(text, cls.name, ("slope", "intercept"))
        if found["slope"] < 0.0:
            raise IntegrityError(f"slope of a calibration must be >= 0, was {found['slope']}")
        return cls(**found)


def smoothed(label: Float64Array, weight: Float64Array) -> Float64Array:
    """Return Platt's targets, (n_rows,): Laplace's rule for each class (Platt, 1999, eq. 12-13)."""
    ups = float(np.sum(weight * label))
    downs = float(np.sum(weight)) - ups
    return np.asarray(np.where(label > 0.5, (ups + 1.0) / (ups + 2.0), 1.0 / (downs + 2.0)))
