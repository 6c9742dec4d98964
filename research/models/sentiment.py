"""The news alone: a score in [-1, 1] mapped to a probability, its strength learned.

``p = sigmoid(strength * score)``. There is no intercept, so that news which say nothing (a score
of 0) give a half, whatever the market did in training; calibration comes after the experts. The
strength is not negative: a score's sign has a meaning of its own, and where prices went against it
the honest answer of an expert that believes in news is none, 0.5. (That markets overshoot after
news is for experts that also see the price.)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import Field

from catalog.arrays import Float64Array, Int64Array
from catalog.config import Config
from catalog.errors import ConfigError, DataError
from research.experts import ExpertCost, ExpertOutput, FitContext
from research.models.contract import (
    ExpertRecord,
    RowStream,
    check_matrix,
    check_names,
    read_record,
    write_record,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from research.features import FeatureMatrix
    from research.training_table import TrainingTable

SCORE = "news_score"
FILE = "sentiment.json"
_STEPS = 50
_TOLERANCE = 1e-10


class SentimentConfig(Config):
    """How strongly the strength is held back.

    Parameters
    ----------
    prior_scale : float
        Standard deviation of the normal distribution around zero from which the strength is
        thought to come, before the data are seen. With 0.2, news of score 1 that mean a
        probability of 0.55 are thought to be usual, and 0.6 to be rare.
    """

    prior_scale: float = Field(default=0.2, gt=0.0)

    def identity_hash(self) -> str:
        """Return a hash of every setting that can change a result: all of them."""
        return self.content_hash()

    @property
    def reach(self) -> int:
        """Bars of history beyond the features' own: none."""
        return 0


class SentimentRecord(ExpertRecord):
    """What is kept of a fitted expert.

    Parameters
    ----------
    names : tuple of str
        Features of a row, in order.
    strength : float
        Log-odds of a rise for each unit of the score; at least 0.
    standard_error : float
        Of the strength, from the curvature of the penalised likelihood.
    n_scored : int
        Training rows that had a score.
    """

    names: tuple[str, ...]
    strength: float = Field(ge=0.0)
    standard_error: float = Field(ge=0.0)
    n_scored: int = Field(ge=0)


class SentimentExpert:
    """A fitted strength. Rows without a score get no answer.

    Parameters
    ----------
    record : SentimentRecord
        What was fitted.
    """

    name = "sentiment"
    reach_bars = 0

    def __init__(self, record: SentimentRecord) -> None:
        self.record = record
        self.names = record.names
        self._column = score_column(record.names)

    @property
    def cost(self) -> ExpertCost:
        """One number."""
        return ExpertCost(1, len(self.record.model_dump_json()))

    def predict(self, matrix: FeatureMatrix, rows: Int64Array) -> ExpertOutput:
        """Answer some rows of a matrix; each depends on its own score alone."""
        check_matrix(self.name, self.names, matrix)
        return self._answer(matrix.values[rows, self._column])

    def stream(self, n_instruments: int) -> RowStream:
        """Return a stream, which needs no state: its answers are the batch's, bit for bit."""
        return RowStream(
            n_instruments, len(self.names), lambda values: self._answer(values[:, self._column])
        )

    def save(self, folder: Path) -> None:
        """Write the strength into a folder."""
        write_record(folder / FILE, self.record)

    @classmethod
    def load(cls, folder: Path, names: tuple[str, ...]) -> Self:
        """Load what `save` wrote.

        Raises
        ------
        IntegrityError
            If it is not that, or was fitted on other features than `names`.
        """
        record = read_record(folder / FILE, SentimentRecord)
        check_names(cls.name, record.names, names)
        return cls(record)

    def _answer(self, score: Float64Array) -> ExpertOutput:
        # A copy side by side in memory: numpy rounds exponentials of a strided array otherwise.
        score = np.ascontiguousarray(score)
        return ExpertOutput.of_probability(_sigmoid(self.record.strength * score))


def fit(
    table: TrainingTable, rows: Int64Array, config: SentimentConfig, context: FitContext
) -> SentimentExpert:
    """Fit the strength by penalised likelihood.

    Minimises ``sum of weight * log loss + strength^2 / (2 prior_scale^2)`` over strengths of at
    least 0 on the rows with a score. The weights are the labels' uniqueness as they are: their
    sum is the number of independent labels, against which the prior is to count.

    Parameters
    ----------
    table : TrainingTable
        All rows; none but `rows` is looked at.
    rows : (n_rows,) int64
        Row numbers, all trainable.
    config : SentimentConfig
        Settings.
    context : FitContext
        Told of the progress.

    Returns
    -------
    SentimentExpert
        With a strength of 0 where no row has a score, or rises followed bad news.

    Raises
    ------
    ConfigError
        If the features have no news.
    DataError
        If a score is not in [-1, 1].
    """
    context.progress("fit sentiment", 0, 1)
    score = table.matrix.values[rows, score_column(table.matrix.names)]
    scored = np.isfinite(score)
    score = score[scored]
    if len(score) and np.abs(score).max() > 1.0:
        raise DataError(f"{SCORE} must be in [-1, 1], was {score[np.abs(score).argmax()]:g}")
    label, weight = table.labels.value[rows][scored], table.labels.weight[rows][scored]
    strength, curvature = _strength(score, label, weight, config.prior_scale)
    record = SentimentRecord(
        names=table.matrix.names,
        strength=strength,
        standard_error=curvature**-0.5,
        n_scored=len(score),
    )
    context.progress("fit sentiment", 1, 1)
    return SentimentExpert(record)


def score_column(names: Sequence[str]) -> int:
    """Return the column of the score.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if SCORE not in names:
        raise ConfigError(
            f"features must have the column {SCORE} for a sentiment expert, had none; name a "
            "series of headlines in features.news or leave the expert out"
        )
    return list(names).index(SCORE)


def _strength(
    score: Float64Array, label: Float64Array, weight: Float64Array, prior_scale: float
) -> tuple[float, float]:
    """Return the best strength by Newton's method, and the curvature there.

    The loss is convex and its slope at zero decides whether zero is the best: then no step is
    made. From zero upwards the curvature falls, so that no step overshoots.
    """
    penalty = prior_scale**-2
    strength = 0.0
    for _ in range(_STEPS):
        probability = _sigmoid(strength * score)
        slope = float(np.sum(weight * score * (probability - label))) + penalty * strength
        spread = probability * (1.0 - probability)
        curvature = float(np.sum(weight * score**2 * spread)) + penalty
        if strength == 0.0 and slope >= 0.0:
            return 0.0, curvature
        strength = max(strength - slope / curvature, 0.0)
        if abs(slope) <= _TOLERANCE * curvature:
            return strength, curvature
    raise DataError(
        f"the strength of {SCORE} must be found within {_STEPS} steps, was not; "
        "weights of training rows must be finite and positive"
    )


def _sigmoid(log_odds: Float64Array) -> Float64Array:
    return np.asarray(1.0 / (1.0 + np.exp(-log_odds)))
