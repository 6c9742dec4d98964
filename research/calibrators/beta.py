"""The beta calibration: two slopes, one for each end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import IntegrityError
from research.calibrators.platt import PRIOR_STRENGTH, smoothed
from research.calibrators.protocol import check_rows, read_numbers
from research.penalised_logistic import Prior, WeightedRows, fit_logistic
from research.probabilities import equal_mean_weights, from_log_odds, inside


@dataclass(frozen=True, slots=True)
class BetaCalibration:
    """``log-odds(p) = up_slope ln s - down_slope ln(1 - s) + intercept`` (Kull et al., 2017).

    Equal slopes are Platt's map on log-odds. Deviations from the paper: the best slopes that are
    not negative are found at once, where the paper drops a negative one and fits the rest again;
    and the targets are Platt's smoothed ones, so that separated classes give no infinite slope.

    Parameters
    ----------
    up_slope, down_slope, intercept : float
        a, b and c of the paper; neither slope is negative.
    """

    up_slope: float
    down_slope: float
    intercept: float
    name: ClassVar[str] = "beta"
    n_parameters: ClassVar[int] = 3

    @classmethod
    def fit(
        cls, score: Float64Array, label: Float64Array, weight: Float64Array | None = None
    ) -> Self:
        """Fit by maximum likelihood; arguments and errors as `PlattCalibration.fit`."""
        check_rows(score, label, weight)
        even = equal_mean_weights(weight, len(score))
        columns = np.stack([*_terms(score), np.ones(len(score))])
        rows = WeightedRows(columns, smoothed(label, even), even)
        prior = Prior(
            np.array([1.0, 1.0, 0.0]), np.full(3, PRIOR_STRENGTH), np.array([True, True, False])
        )
        up_slope, down_slope, intercept = fit_logistic(rows, prior)
        return cls(float(up_slope), float(down_slope), float(intercept))

    def __call__(self, score: Float64Array) -> Float64Array:
        """Return calibrated probabilities, (n_rows,)."""
        up, down = _terms(score)
        return from_log_odds(self.up_slope * up + self.down_slope * down + self.intercept)

    def to_json(self) -> str:
        """Return the coefficients as JSON; they survive the round trip bit for bit."""
        return json.dumps(
            {
                "method": self.name,
                "up_slope": self.up_slope,
                "down_slope": self.down_slope,
                "intercept": self.intercept,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Load the coefficients.

        Raises
        ------
        IntegrityError
            If the text is not what `to_json` writes.
        """
        found = read_numbers(text, cls.name, ("up_slope", "down_slope", "intercept"))
        for name in ("up_slope", "down_slope"):
            if found[name] < 0.0:
                raise IntegrityError(f"{name} of a calibration must be >= 0, was {found[name]}")
        return cls(**found)


def _terms(score: Float64Array) -> tuple[Float64Array, Float64Array]:
    safe = np.ascontiguousarray(inside(score))
    return np.log(safe), -np.log(1.0 - safe)
