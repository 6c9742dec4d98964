"""Venn-Abers predictors: isotonic regression that says how much it leaves open.

The label of the row to predict is unknown, so it is tried both ways: the isotonic regression of
the calibration rows and this row as a fall gives the lower probability, as a rise the upper one
(Vovk and Petej, 2014). One of the two is calibrated whatever the distribution, if rows are
exchangeable. Both are step functions of the score, found here for all scores in one pass.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import IntegrityError
from research.calibrators.isotonic import grouped
from research.calibrators.protocol import check_rows
from research.probabilities import equal_mean_weights, inside


@dataclass(frozen=True, slots=True, eq=False)
class VennAbersCalibration:
    """An inductive Venn-Abers predictor.

    Parameters
    ----------
    lower_score, lower : (n_lower,) float64
        From each score on (inclusive) the lower probability is this; 0 below the first.
    upper_score, upper : (n_upper,) float64
        Up to each score (inclusive) the upper probability is this; 1 above the last.
    """

    lower_score: Float64Array
    lower: Float64Array
    upper_score: Float64Array
    upper: Float64Array
    name: ClassVar[str] = "venn_abers"

    @property
    def n_parameters(self) -> int:
        """Number of steps of both functions."""
        return len(self.lower_score) + len(self.upper_score)

    @classmethod
    def fit(
        cls, score: Float64Array, label: Float64Array, weight: Float64Array | None = None
    ) -> Self:
        """Fit on scores of rows that their models had not seen.

        Arguments and errors as `research.calibrators.PlattCalibration.fit`. The row to predict
        counts as one of average weight.
        """
        check_rows(score, label, weight)
        level, share, total = grouped(score, label, equal_mean_weights(weight, len(score)))
        upper = _upper(share, total)
        lower = 1.0 - _upper(1.0 - share[::-1], total[::-1])[::-1]
        # A step is told by one end only: the last score of an upper one, the first of a lower one.
        ends = np.append(upper[1:] != upper[:-1], True)
        starts = np.insert(lower[1:] != lower[:-1], 0, True)
        return cls(level[starts], lower[starts], level[ends], upper[ends])

    def bounds(self, score: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the lower and the upper probability of each score, (n_rows,) each, in [0, 1]."""
        below = np.searchsorted(self.lower_score, score, side="right")
        above = np.searchsorted(self.upper_score, score, side="left")
        lower = np.concatenate([[0.0], self.lower])[below]
        upper = np.concatenate([self.upper, [1.0]])[above]
        unknown = np.isnan(score)
        return np.where(unknown, np.nan, lower), np.where(unknown, np.nan, upper)

    def __call__(self, score: Float64Array) -> Float64Array:
        """Return ``upper / (1 - lower + upper)``, the minimax merging for log loss, (n_rows,)."""
        lower, upper = self.bounds(score)
        return inside(upper / (1.0 - lower + upper))

    def to_json(self) -> str:
        """Return the steps as JSON; numbers survive the round trip bit for bit."""
        steps = {
            "lower_score": self.lower_score,
            "lower": self.lower,
            "upper_score": self.upper_score,
            "upper": self.upper,
        }
        record = {name: values.tolist() for name, values in steps.items()}
        return json.dumps({"method": self.name, **record}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Load the steps.

        Raises
        ------
        IntegrityError
            If the text is not what `to_json` could have written.
        """
        names = ("lower_score", "lower", "upper_score", "upper")
        try:
            record = json.loads(text)
            method = record["method"]
            steps = {name: np.array(record[name], dtype=np.float64) for name in names}
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"calibration must be a JSON record of steps: {error!r}"
            ) from error
        if method != cls.name:
            raise IntegrityError(f"calibration method must be 'venn_abers', was {method!r}")
        for side in ("lower", "upper"):
            _check_steps(side, steps[f"{side}_score"], steps[side])
        return cls(**steps)


def _check_steps(side: str, score: Float64Array, value: Float64Array) -> None:
    usable = (
        score.ndim == 1
        and score.shape == value.shape
        and len(score) > 0
        and bool(np.isfinite(score).all())
        and bool((np.diff(score) > 0).all())
        and bool((np.diff(value) >= 0).all())
        and bool(((value >= 0) & (value <= 1)).all())
    )
    if not usable:
        raise IntegrityError(
            f"{side} steps must be equally many, scores strictly ascending, probabilities "
            f"ascending in [0, 1]; were {score.shape} scores, {value.shape} probabilities"
        )


def _upper(share: Float64Array, total: Float64Array) -> Float64Array:
    """Return the isotonic value of a rise of weight one that joins each level in turn.

    Notes
    -----
    Vovk, Petej and Fedorova (2015), "Large-scale probabilistic predictors with and without
    guarantees of validity", algorithms 1 and 2: the cumulative sum diagram with the new row in
    front, its greatest convex minorant on a stack, then the row moves from level to level and
    only the corners that it passes are made anew.
    """
    x = [-1.0, 0.0, *np.cumsum(total).tolist()]
    y = [-1.0, 0.0, *np.cumsum(share * total).tolist()]
    stack: list[tuple[float, float]] = []
    for point in zip(x, y, strict=True):
        while len(stack) > 1 and not _turns_left(stack[-2], stack[-1], point):
            stack.pop()
        stack.append(point)
    stack.reverse()  # the leftmost corner on top
    found = np.empty(len(share))
    for i in range(len(share)):
        (left_x, left_y), (right_x, right_y) = stack[-1], stack[-2]
        found[i] = (right_y - left_y) / (right_x - left_x)
        # The row changes places with level i: what stood between them moves.
        x[i + 1] = x[i] + x[i + 2] - x[i + 1]
        y[i + 1] = y[i] + y[i + 2] - y[i + 1]
        moved = (x[i + 1], y[i + 1])
        if not _below(stack[-1], stack[-2], moved):
            continue
        stack.pop()
        while len(stack) > 1 and not _turns_left(moved, stack[-1], stack[-2]):
            stack.pop()
        stack.append(moved)
    return np.clip(np.maximum.accumulate(found), 0.0, 1.0)


def _turns_left(
    first: tuple[float, float], second: tuple[float, float], third: tuple[float, float]
) -> bool:
    """Return whether the slope rises at the second point."""
    return (second[0] - first[0]) * (third[1] - first[1]) > (third[0] - first[0]) * (
        second[1] - first[1]
    )


def _below(
    left: tuple[float, float], right: tuple[float, float], point: tuple[float, float]
) -> bool:
    """Return whether a point lies below the line through two others."""
    return (point[1] - left[1]) * (right[0] - left[0]) < (right[1] - left[1]) * (point[0] - left[0])
