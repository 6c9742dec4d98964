"""What the contract tests of experts run on: one small table, and every kind fitted to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.config import Config
from research.experts import ExpertOutput, ExpertStream, FitContext, FittedExpert
from research.features import FeatureMatrix, compute_features
from research.labels import LabelConfig, compute_labels
from research.models.deep.config import LSTMConfig, TFTConfig, TransformerConfig
from research.models.heuristic import HeuristicConfig
from research.models.lightgbm_expert import LightGBMConfig
from research.models.registry import fit_expert
from research.models.sentiment import SentimentConfig
from research.training_table import TrainingTable
from tests.research.markets import EVERYTHING, Market

COLUMNS = ("prob_up", "mu", "sigma", "epistemic")
SLOTS = 1_750
_DEEP: dict[str, Any] = {
    "d_model": 8,
    "samples": 3,
    "epochs": 1,
    "chunk_bars": 64,
    "batch_bars": 512,
}
CONFIGS: dict[str, Config] = {
    "lightgbm": LightGBMConfig(n_trees=12, min_rows_in_leaf=30),
    "transformer": TransformerConfig(**_DEEP, heads=2, layers=2, reach_bars=13, feedforward=8),
    "tft": TFTConfig(**_DEEP, heads=2, period_bars=16),
    "lstm": LSTMConfig(**_DEEP, layers=1, period_bars=16),
    "sentiment": SentimentConfig(prior_scale=5.0),
    "heuristic": HeuristicConfig(),
}
KINDS = tuple(CONFIGS)
DEEP = ("transformer", "tft", "lstm")
SLOW = ("funding_rate", "funding_age", "news_score")
"""Columns that can be missing for a long time in live."""


@dataclass(frozen=True)
class Case:
    """A table, the rows to fit on and those to answer."""

    table: TrainingTable
    train: Int64Array
    asked: Int64Array

    @property
    def matrix(self) -> FeatureMatrix:
        return self.table.matrix


@cache
def case() -> Case:
    """Return a market with missing bars, a hole, and news that mean something."""
    panel = Market(seed=2, slots=SLOTS, missing=0.02, gap=(1_450, 80)).panel()
    labels = compute_labels(panel, LabelConfig(horizon_bars=2))
    matrix = compute_features(panel, EVERYTHING)
    random = np.random.default_rng(5)
    count = len(matrix.ts_init)
    direction = np.where(np.isnan(labels.value), 0.0, 2.0 * labels.value - 1.0)
    score = np.clip(0.3 * direction + random.normal(0.0, 0.5, count), -1.0, 1.0)
    score[random.random(count) < 0.3] = np.nan
    regime = random.integers(-1, 2, count).astype(np.float64)
    extra = np.column_stack([score, regime])
    extra[~matrix.valid] = np.nan
    matrix = replace(
        matrix,
        names=(*matrix.names, "news_score", "regime"),
        values=np.concatenate([matrix.values, extra], axis=1),
    )
    table = TrainingTable(
        matrix, labels, np.zeros(count), panel.interval_ns, panel.data_hash, synthetic=True
    )
    valid = np.unique(matrix.ts_init[matrix.valid])
    cut = valid[int(0.6 * len(valid))]
    train = np.flatnonzero(table.trainable & (labels.ts_end <= cut))
    asked = np.flatnonzero(matrix.valid & (matrix.ts_init > cut))
    return Case(table, train, asked)


def fit(name: str) -> FittedExpert:
    """Fit a kind anew."""
    return fit_expert(name, case().table, case().train, CONFIGS[name], FitContext())


@cache
def fitted(name: str) -> FittedExpert:
    """Return a kind fitted once for all tests of a process."""
    return fit(name)


def columns(output: ExpertOutput) -> Float64Array:
    """Return the answers as (4, n_rows)."""
    return np.stack([getattr(output, name) for name in COLUMNS])


def part(matrix: FeatureMatrix, kept: Any) -> FeatureMatrix:
    """Return some rows of a matrix."""
    return replace(
        matrix,
        ts_init=matrix.ts_init[kept],
        instrument=matrix.instrument[kept],
        values=matrix.values[kept],
        valid=matrix.valid[kept],
    )


def streamed(
    expert: FittedExpert, matrix: FeatureMatrix, stream: ExpertStream | None = None
) -> Float64Array:
    """Feed a matrix time by time as it would arrive; return the answers, (4, n_rows)."""
    stream = expert.stream(len(matrix.instruments)) if stream is None else stream
    found = np.full((4, len(matrix.ts_init)), np.nan)
    interval = case().table.interval_ns
    for ts_init in np.unique(matrix.ts_init[matrix.valid]):
        rows = np.flatnonzero((matrix.ts_init == ts_init) & matrix.valid)
        answer = stream.update(
            int(ts_init // interval), matrix.instrument[rows], matrix.values[rows]
        )
        found[:, rows] = columns(answer)
    return found


def agree(name: str, one: Float64Array, other: Float64Array) -> None:
    """Demand the same answers: bit for bit of what is answered row by row, else to 1e-5."""
    if name in DEEP:
        np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-5)
    else:
        np.testing.assert_array_equal(one, other)
