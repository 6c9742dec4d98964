"""Isotonic regression of labels on scores, kept as knots.

Isotonic regression (Zadrozny and Elkan, 2002) of out-of-fold labels on out-of-fold scores. What
is kept are the knots of the step function with its ramps, as JSON; evaluating it is linear
interpolation between them, as scikit-learn does.

Two deviations from the plain method, both at the ends, where a step that rests on a handful of
rows would claim near certainty: the outermost `tail_frac` of the rows at either end share one
score, so that an end step rests on at least that many rows; and no probability goes beyond what
Laplace's rule of succession allows for that many rows of one kind, ``1 / (rows + 2)`` from 0 or
1. One miss at a probability of 0 or 1 would cost infinite log loss.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import IntegrityError
from research.calibrators.protocol import check_rows


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
    name: ClassVar[str] = "isotonic"

    @property
    def n_parameters(self) -> int:
        """Number of knots."""
        return len(self.score)

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
            See `research.calibration.CalibrationConfig`.

        Raises
        ------
        DataError
            If there are too few rows, or a score, label or weight is not usable.
        """
        from scipy.optimize import isotonic_regression

        check_rows(score, label, weight)
        tail = max(1, int(len(score) * tail_frac))
        bound = 1.0 / (tail + 2.0)
        level, share, total = grouped(join_tails(score, tail), label, weight)
        curve = np.clip(isotonic_regression(share, weights=total).x, bound, 1.0 - bound)
        # Inside a step only its ends are knots.
        kept = np.ones(len(level), dtype=bool)
        kept[1:-1] = (curve[1:-1] != curve[:-2]) | (curve[1:-1] != curve[2:])
        return cls(level[kept], curve[kept])

    def __call__(self, score: Float64Array) -> Float64Array:
        """Return calibrated probabilities, (n_rows,), flat beyond the outermost knots."""
        return np.asarray(np.interp(score, self.score, self.probability), dtype=np.float64)

    def to_json(self) -> str:
        """Return the knots as JSON; numbers survive the round trip bit for bit."""
        return json.dumps(
            {
                "method": self.name,
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
        if method != cls.name:
            raise IntegrityError(f"calibration method must be 'isotonic', was {method!r}")
        _check_knots(score, probability)
        return cls(score, probability)


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


def grouped(
    score: Float64Array, label: Float64Array, weight: Float64Array | None
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Put rows of equal score together.

    Returns
    -------
    level, share, total : (n_levels,) float64
        The scores, ascending; the weighted share of rises at each; the weight at each.
    """
    level, group = np.unique(score, return_inverse=True)
    counted = np.ones(len(score)) if weight is None else weight
    total = np.bincount(group, counted, len(level))
    return level, np.bincount(group, counted * label, len(level)) / total, total


def join_tails(score: Float64Array, tail: int) -> Float64Array:
    """Give the `tail` lowest scores the highest score among them, and the highest likewise."""
    ordered = np.sort(score)
    low, high = ordered[tail - 1], ordered[-tail]
    return np.asarray(np.clip(score, low, high))
