"""The sentiment and the heuristic expert: what they say by hand, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from catalog.errors import ConfigError, DataError
from research.experts import FitContext
from research.features import FeatureMatrix
from research.models import heuristic, sentiment
from research.models.heuristic import HeuristicConfig, HeuristicExpert
from research.models.sentiment import SentimentConfig, SentimentExpert

NAMES = ("return_4", "ema_distance_20", "zscore_20", "news_score", "regime")


def matrix(values: np.ndarray, names: tuple[str, ...] = NAMES) -> FeatureMatrix:
    count = len(values)
    return FeatureMatrix(
        names,
        ("A",),
        np.arange(count, dtype=np.int64),
        np.zeros(count, dtype=np.int64),
        values,
        np.ones(count, dtype=np.bool_),
    )


def news(strength: float, count: int = 4_000, seed: int = 0) -> Any:
    """Return a table whose labels follow the news by a known strength."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, len(NAMES)))
    score = random.uniform(-1.0, 1.0, count)
    score[random.random(count) < 0.4] = np.nan
    values[:, 3] = score
    known = np.where(np.isnan(score), 0.0, score)
    label = (random.random(count) < 1.0 / (1.0 + np.exp(-strength * known))).astype(float)
    weight = random.uniform(0.2, 1.0, count)
    return SimpleNamespace(
        matrix=matrix(values), labels=SimpleNamespace(value=label, weight=weight)
    )


def learn(table: Any, **config: float) -> SentimentExpert:
    rows = np.arange(len(table.labels.value))
    return sentiment.fit(table, rows, SentimentConfig(**config), FitContext())


def test_the_strength_is_the_minimum_of_the_penalised_loss() -> None:
    table = news(1.5)
    score, label, weight = table.matrix.values[:, 3], table.labels.value, table.labels.weight
    known = np.isfinite(score)

    def loss(strength: float) -> float:
        log_odds = strength * score[known] * (2.0 * label[known] - 1.0)
        return float(weight[known] @ np.log1p(np.exp(-log_odds)) + strength**2 / (2 * 0.5**2))

    found = learn(table, prior_scale=0.5).record
    best = minimize_scalar(loss, bounds=(0.0, 5.0), method="bounded", options={"xatol": 1e-8}).x
    assert found.strength == pytest.approx(best, abs=1e-5)
    assert found.n_scored == known.sum()


def test_a_planted_strength_is_found_and_doubt_holds_it_back() -> None:
    found = learn(news(1.5, count=40_000), prior_scale=10.0).record
    assert abs(found.strength - 1.5) < 4.0 * found.standard_error
    held_back = [learn(news(1.5), prior_scale=scale).record.strength for scale in (0.01, 0.1, 1.0)]
    assert 0.0 < held_back[0] < held_back[1] < held_back[2]


def test_news_that_mislead_are_not_believed() -> None:
    expert = learn(news(-1.5))
    assert expert.record.strength == 0.0
    assert expert.predict(matrix(np.ones((1, len(NAMES)))), np.array([0])).prob_up[0] == 0.5


def test_without_news_in_training_there_is_a_half_and_without_a_score_no_answer() -> None:
    table = news(1.0)
    table.matrix.values[:, 3] = np.nan
    expert = learn(table)
    assert (expert.record.strength, expert.record.n_scored) == (0.0, 0)
    assert expert.record.standard_error == pytest.approx(0.2)
    values = np.zeros((2, len(NAMES)))
    values[1, 3] = np.nan
    found = expert.predict(matrix(values), np.arange(2)).prob_up
    assert found[0] == 0.5
    assert np.isnan(found[1])


@given(st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_better_news_never_lower_the_probability(one: float, other: float) -> None:
    expert = learn(news(1.0))
    values = np.zeros((3, len(NAMES)))
    values[:, 3] = min(one, other), max(one, other), -max(one, other)
    low, high, mirrored = expert.predict(matrix(values), np.arange(3)).prob_up
    assert low <= high
    assert mirrored == pytest.approx(1.0 - high, abs=1e-15)


def test_sentiment_refuses_what_it_cannot_read() -> None:
    table = news(1.0)
    table.matrix.values[5, 3] = 1.5
    with pytest.raises(DataError, match=r"news_score must be in \[-1, 1\], was 1.5"):
        learn(table)
    bare = SimpleNamespace(matrix=matrix(np.zeros((5, 3)), NAMES[:3]), labels=table.labels)
    with pytest.raises(ConfigError, match=r"must have the column news_score .* features\.news"):
        sentiment.fit(bare, np.arange(5), SentimentConfig(), FitContext())


def rule(names: tuple[str, ...] = NAMES, tilt: float = 0.04) -> HeuristicExpert:
    table: Any = SimpleNamespace(matrix=matrix(np.zeros((1, len(names))), names))
    return heuristic.fit(table, np.arange(0), HeuristicConfig(tilt=tilt), FitContext())


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ((1.0, 3.0, 9.0, 0.0, 1.0), 0.5 + 0.04 * 2.0 / 3.0),  # a trend goes on
        ((1.0, 3.0, 3.0, 0.0, 0.0), 0.5 - 0.04 * 3.0 / 4.0),  # else it comes back
        ((1.0, 3.0, -1.0, 0.0, -1.0), 0.5 + 0.04 * 1.0 / 2.0),
        ((1.0, 3.0, 3.0, 0.0, np.nan), 0.5 - 0.04 * 3.0 / 4.0),
        ((np.nan, 2.0, 9.0, 0.0, 1.0), 0.5 + 0.04 * 1.0 / 2.0),  # what is undefined is nothing
        ((np.nan,) * 5, 0.5),
    ],
)
def test_the_rule_by_hand(row: tuple[float, ...], wanted: float) -> None:
    found = rule().predict(matrix(np.array([row])), np.array([0]))
    assert found.prob_up[0] == pytest.approx(wanted, abs=1e-15)
    without = rule(NAMES[:3]).predict(matrix(np.array([row[:3]]), NAMES[:3]), np.array([0]))
    drive = -np.nan_to_num(row[2])
    assert without.prob_up[0] == pytest.approx(0.5 + 0.04 * drive / (1 + abs(drive)), abs=1e-15)


@given(st.lists(st.floats(-1e9, 1e9), min_size=5, max_size=5))
@settings(max_examples=100, deadline=None)
def test_the_rule_stays_near_a_half_and_knows_no_direction(row: list[float]) -> None:
    row[4] = float(np.sign(row[4]))
    turned = [-row[0], -row[1], -row[2], row[3], row[4]]
    found = rule().predict(matrix(np.array([row, turned])), np.arange(2)).prob_up
    assert np.all(np.abs(found - 0.5) <= 0.04)
    assert found[0] + found[1] == pytest.approx(1.0, abs=1e-12)


def test_the_rule_needs_its_columns() -> None:
    with pytest.raises(ConfigError, match=r"must have the columns .* had no zscore_20"):
        rule(NAMES[:2])
    one = matrix(np.zeros((2, 5)))
    with pytest.raises(DataError, match="feature 0 of heuristic must be 'return_4'"):
        rule().predict(replace(one, names=NAMES[::-1]), np.arange(2))
