"""From a model's score to a probability that means what it says.

Isotonic regression (Zadrozny and Elkan, 2002) of out-of-fold labels on out-of-fold scores. What
is kept are the knots of the step function with its ramps, as JSON; evaluating it is linear
interpolation between them, equal to scikit-learn's own prediction, without scikit-learn.

Two deviations from the plain method, both at the ends, where a step that rests on a handful of
rows would claim near certainty: the outermost `tail_frac` of the rows at either end share one
score, so that an end step rests on at least that many rows; and no probability goes beyond what
Laplace's rule of succession allows for that many rows of one kind, ``1 / (rows + 2)`` from 0 or
1. One miss at a probability of 0 or 1 would cost infinite log loss.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import Field

from catalog.arrays import Float64Array
from catalog.config import Config
from catalog.errors import DataError, IntegrityError

MIN_ROWS = 50
"""Fewer out-of-fold rows than this say nothing about a curve."""


class CalibrationConfig(Config):
    """How scores become probabilities.

    Parameters
    ----------
    method : {"isotonic"}
        The shape of the curve.
    inner_folds : int
        Contiguous blocks of the training span, each scored by a model fitted on the others, with
        purge and embargo. The out-of-fold scores are what the curve is fitted on.
    tail_frac : float
        Fraction of the rows at either end that share one score.
    """

    method: Literal["isotonic"] = "isotonic"
    inner_folds: int = Field(default=2, ge=2, le=50)
    tail_frac: float = Field(default=0.005, gt=0.0, lt=0.5)


@dataclass(frozen=True, slots=True, eq=False)
class IsotonicCalibration:
    """A fitted curve.

    Parameters
    ----------
    score : (n_knots,) float64
        Raw probabilities, strictly ascending.
    probability : (n_knots,) float64
        Calibrated probabilities at the knots, ascending, inside (0, 1).
    """

    score: Float64Array
    probability: Float64Array

    @classmethod
    def fit(
        cls,
        score: Float64Array,
        label: Float64Array,
        weight: Float64Array | None = None,
        *,
        tail_frac: float = 0.005,
    ) -> Self:
        """Fit the curve on scores of rows that their models had not seen.

        Parameters
        ----------
        score : (n_rows,) float64
            Out-of-fold raw probabilities.
        label : (n_rows,) float64
            1 for up, 0 for down.
        weight : (n_rows,) float64, optional
            Positive sample weights; equal if absent.
        tail_frac : float
            See `CalibrationConfig`.

        Raises
        ------
        DataError
            If there are too few rows, or a score or label is not usable.
        """
        from sklearn.isotonic import IsotonicRegression

        _check_rows(score, label)
        tail = max(1, int(len(score) * tail_frac))
        bound = 1.0 / (tail + 2.0)
        curve = IsotonicRegression(y_min=bound, y_max=1.0 - bound, out_of_bounds="clip")
        curve.fit(join_tails(score, tail), label, sample_weight=weight)
        return cls(
            np.asarray(curve.X_thresholds_, dtype=np.float64),
            np.asarray(curve.y_thresholds_, dtype=np.float64),
        )

    def __call__(self, score: Float64Array) -> Float64Array:
        """Return calibrated probabilities, (n_rows,), flat beyond the outermost knots."""
        return np.asarray(np.interp(score, self.score, self.probability), dtype=np.float64)

    def to_json(self) -> str:
        """Return the knots as JSON; numbers survive the round trip bit for bit."""
        return json.dumps(
            {
                "method": "isotonic",
                "score": self.score.tolist(),
                "probability": self.probability.tolist(),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Load a curve.

        Raises
        ------
        IntegrityError
            If the text is not a curve that `to_json` could have written.
        """
        try:
            record = json.loads(text)
            method = record["method"]
            score = np.array(record["score"], dtype=np.float64)
            probability = np.array(record["probability"], dtype=np.float64)
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"calibration must be a JSON record of knots: {error}") from error
        if method != "isotonic":
            raise IntegrityError(f"calibration method must be 'isotonic', was {method!r}")
        _check_knots(score, probability)
        return cls(score, probability)


def _check_rows(score: Float64Array, label: Float64Array) -> None:
    if len(score) < MIN_ROWS:
        raise DataError(
            f"calibration must have at least {MIN_ROWS} out-of-fold rows, had {len(score)}"
        )
    if not np.isfinite(score).all():
        raise DataError("scores to calibrate must be finite, some were not")
    if not np.isin(label, (0.0, 1.0)).all():
        raise DataError("labels to calibrate on must be 0 or 1, some were neither")


def _check_knots(score: Float64Array, probability: Float64Array) -> None:
    usable = (
        score.ndim == 1
        and score.shape == probability.shape
        and len(score) > 0
        and bool(np.isfinite(score).all())
        and bool((np.diff(score) > 0).all())
        and bool((np.diff(probability) >= 0).all())
        and bool(((probability > 0) & (probability < 1)).all())
    )
    if not usable:
        raise IntegrityError(
            "calibration knots must be equally many, scores strictly ascending, probabilities "
            f"ascending inside (0, 1); were {score.shape} scores, {probability.shape} probabilities"
        )


def join_tails(score: Float64Array, tail: int) -> Float64Array:
    """Give the `tail` lowest scores the highest score among them, and the highest likewise."""
    ordered = np.sort(score)
    low, high = ordered[tail - 1], ordered[-tail]
    return np.asarray(np.clip(score, low, high))
