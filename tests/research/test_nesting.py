"""Nothing that a split chooses depends on what it is tested on.

Chosen are: trees and networks, how many there are of them where training stops early, the map that
calibrates each expert, the method and the weights of the fusion, the entry threshold.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from research.cpcv import CpcvConfig, cpcv_splits
from research.cross_validation import LabelSpans, PurgedWalkForward
from research.fitting import fit_rows
from research.fusion import FusionConfig
from research.guidance import ThresholdConfig
from research.models.deep.config import LSTMConfig
from research.models.heuristic import HeuristicConfig
from research.models.lightgbm_expert import LightGBMConfig
from research.models.registry import ExpertsConfig
from research.models.sentiment import SentimentConfig
from research.panel import Panel
from research.settings import WalkForwardConfig
from research.splits import Fold
from research.training_table import TrainingTable, build_table
from research.walkforward import usable_folds
from tests.research.experiments import config, panel
from tests.research.markets import EVERYTHING, NEWS, furnished
from tests.research.nesting import chosen, with_features_made_up, with_labels_shuffled

GROUPS = CpcvConfig(n_groups=4, n_test_groups=2)
TREES = LightGBMConfig(n_trees=6, min_rows_in_leaf=30)
PARTS = (
    "experts/lightgbm/calibration.json",
    "fusion.json",
    "guidance.json",
    "references.json",
    "weighed up",
)


@cache
def market() -> Panel:
    return furnished(panel(), late=False)


def settings(**experts: Any) -> WalkForwardConfig:
    """Choose all that can be: calibration, fusion and threshold."""
    named = {"lightgbm": TREES, "sentiment": SentimentConfig(), "heuristic": HeuristicConfig()}
    found: WalkForwardConfig = config(horizon=4, threads=2).model_copy(
        update={
            "features": EVERYTHING.model_copy(update={"news": NEWS, "regime": True}),
            "experts": ExpertsConfig(**{**named, **experts}),
            "fusion": FusionConfig(method="auto"),
            "thresholds": ThresholdConfig(cost_bps=0.0, min_trades=5),
        }
    )
    return found


@cache
def table() -> TrainingTable:
    """Return a market with an edge, so that there is something to choose."""
    found = build_table(market(), settings())
    random = np.random.default_rng(11)
    count = len(found.last_sign)
    rises = (found.matrix.values[:, 0] > 0.0) ^ (random.random(count) < 0.25)
    known = np.where(np.isnan(found.labels.value), np.nan, rises.astype(np.float64))
    moves = 0.01 * random.random(count) * np.where(rises, 1.0, -1.0)
    return replace(found, labels=replace(found.labels, value=known, forward_return=moves))


def splits(kind: str) -> list[Fold]:
    if kind == "walk-forward":
        return usable_folds(table(), settings())
    return [*cpcv_splits(table(), settings(), GROUPS)]


def others(fold: Fold) -> np.ndarray:
    """Return every row that does not train."""
    return np.setdiff1d(np.arange(len(table().matrix.ts_init)), fold.train)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("walk-forward", 1),
        ("combinatorial", 3),
        *(pytest.param("combinatorial", number, marks=pytest.mark.slow) for number in (0, 1, 5)),
    ],
)
def test_shuffled_test_labels_change_nothing_that_is_chosen(
    kind: str, number: int, tmp_path: Path
) -> None:
    fold = splits(kind)[number]
    assert np.isin(fold.test, others(fold)).all()
    found = chosen(fit_rows(table(), fold.train, settings(), fold.test_start), tmp_path / "true")
    assert set(PARTS) <= set(found)
    for name, changed in (
        ("labels", with_labels_shuffled(table(), others(fold))),
        ("rows", with_features_made_up(table(), fold.test)),
    ):
        again = fit_rows(changed, fold.train, settings(), fold.test_start)
        assert chosen(again, tmp_path / name) == found, name


def test_shuffled_training_labels_change_everything_that_is_chosen(tmp_path: Path) -> None:
    """The proof above could pass on a pipeline that chooses nothing."""
    fold = splits("combinatorial")[3]
    one = fit_rows(table(), fold.train, settings(), fold.test_start)
    other = fit_rows(
        with_labels_shuffled(table(), fold.train), fold.train, settings(), fold.test_start
    )
    assert one.fusion.experts == ("lightgbm", "sentiment")
    before, after = chosen(one, tmp_path / "one"), chosen(other, tmp_path / "other")
    assert {name for name in PARTS if before[name] != after[name]} == set(PARTS)
    thresholds = {one.guidance.entry_threshold, other.guidance.entry_threshold}
    assert len(thresholds) == 2


@pytest.mark.slow
def test_networks_and_when_they_stop_are_chosen_without_the_test_labels(tmp_path: Path) -> None:
    lstm = LSTMConfig(
        d_model=8, samples=2, epochs=4, period_bars=8, batch_bars=512, validation_frac=0.15
    )
    own = settings(lstm=lstm)
    fold = splits("combinatorial")[3]
    changed = with_labels_shuffled(table(), others(fold))
    found = chosen(fit_rows(table(), fold.train, own, fold.test_start), tmp_path / "one")
    assert any(name.startswith("experts/lstm/") for name in found)
    assert chosen(fit_rows(changed, fold.train, own, fold.test_start), tmp_path / "two") == found


def test_hyperparameters_that_scikit_learn_chooses_inside_are_nested_too() -> None:
    """A search over the training rows alone, by our own splitter, within each split."""
    features = np.nan_to_num(table().matrix.values)

    def best(own: TrainingTable, fold: Fold) -> tuple[Any, list[float]]:
        rows = fold.train
        spans = LabelSpans(own.matrix.ts_init[rows], own.labels.ts_end[rows])
        inner = PurgedWalkForward(3, spans=spans, embargo=4 * own.interval_ns)
        search = GridSearchCV(
            LogisticRegression(max_iter=200),
            {"C": [1e-4, 1e-2]},
            cv=inner,
            scoring="neg_log_loss",
        ).fit(features[rows, :5], own.labels.value[rows])
        return search.best_params_, search.cv_results_["mean_test_score"].tolist()

    fold = splits("combinatorial")[2]
    found = best(table(), fold)
    assert best(with_labels_shuffled(table(), others(fold)), fold) == found
    assert best(with_labels_shuffled(table(), fold.train), fold)[1] != found[1]
