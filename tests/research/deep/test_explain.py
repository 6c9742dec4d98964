"""What a fitted TFT says that it looked at belongs to the rows that were asked about."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import ConfigError
from research.experts import FitContext
from research.models.deep.config import LSTMConfig, TFTConfig
from research.models.deep.explain import LookedAt, explain_rows
from research.models.deep.fit import DeepExpert, fit, load_fitted
from research.training_table import TrainingTable
from tests.research.deep.tables import INTERVAL, planted_table, trainable_rows

PERIOD = 8


@cache
def table() -> TrainingTable:
    """Return a planted table with the clock, which a TFT needs."""
    found = planted_table(slots=500, missing=0.05, edge=2.0)
    matrix = found.matrix
    day = 2.0 * np.pi * (matrix.ts_init / (96 * INTERVAL) % 1.0)
    names = ("day_sine", "day_cosine", *matrix.names)
    values = np.column_stack([np.sin(day), np.cos(day), matrix.values])
    return replace_matrix(found, names, values)


def replace_matrix(
    found: TrainingTable, names: tuple[str, ...], values: np.ndarray
) -> TrainingTable:
    """Return the table with other features."""
    found.matrix = replace(found.matrix, names=names, values=values)  # type: ignore[misc]
    return found


@cache
def expert() -> DeepExpert:
    config = TFTConfig(
        d_model=16,
        heads=2,
        period_bars=PERIOD,
        epochs=4,
        batch_bars=128,
        learning_rate=1e-2,
        samples=2,
    )
    return fit(table(), trainable_rows(table()), config, FitContext())


@cache
def everything() -> LookedAt:
    return explain_rows(expert(), table().matrix, np.arange(len(table().matrix.ts_init)))


def test_weights_of_answered_rows_sum_to_one_and_others_are_absent() -> None:
    matrix, found = table().matrix, everything()
    answered = ~np.isnan(expert().predict(matrix, np.arange(len(matrix.ts_init))).prob_up)
    assert 0 < answered.sum() < len(answered)
    for part in (found.past_weights, found.known_weights, found.attention):
        np.testing.assert_allclose(np.nansum(part[answered], axis=1), 1.0, rtol=1e-4)
        assert np.isnan(part[~answered]).all()
        assert not (part < 0.0).any()
    assert found.known_names == ("day",)
    assert found.past_names == (
        "day",
        "volatility_20",
        "volatility_ratio",
        "signal",
        "noise",
        "seldom",
    )


def test_attention_begins_where_the_answering_state_did() -> None:
    """Between one and two periods of tokens, less those that are missing."""
    found = everything().attention
    assert found.shape[1] == 2 * PERIOD
    lags = (~np.isnan(found[~np.isnan(found[:, 0])])).sum(axis=1)
    assert lags.max() == 2 * PERIOD
    assert lags.min() >= PERIOD - 4
    last = int((~np.isnan(found)).sum(axis=1).argmax())
    assert not np.isnan(found[last, : lags.max()]).any()


def test_rows_are_answered_as_asked_and_alone() -> None:
    asked = np.array([700, 30, 700, 200])
    some = explain_rows(expert(), table().matrix, asked)
    for part in ("past_weights", "known_weights", "attention"):
        np.testing.assert_allclose(
            getattr(some, part), getattr(everything(), part)[asked], rtol=0.0, atol=1e-5
        )


def test_nothing_later_changes_what_was_looked_at() -> None:
    matrix = table().matrix
    row = 300
    values = matrix.values.copy()
    values[row + 1 :, 4] += 1.0
    other = explain_rows(expert(), replace(matrix, values=values), np.array([row]))
    np.testing.assert_allclose(other.past_weights, everything().past_weights[[row]], atol=1e-6)
    np.testing.assert_allclose(other.attention, everything().attention[[row]], atol=1e-6)


def test_an_expert_that_came_back_from_its_files_says_the_same(tmp_path: Path) -> None:
    expert().save(tmp_path)
    names = table().matrix.names
    back = load_fitted(tmp_path, "tft", names)
    found = explain_rows(back, table().matrix, np.array([200]))
    np.testing.assert_allclose(found.past_weights, everything().past_weights[[200]], atol=1e-6)


def test_another_kind_of_expert_is_refused() -> None:
    config = LSTMConfig(d_model=4, period_bars=8, epochs=1, samples=1)
    other = fit(table(), trainable_rows(table()), config, FitContext())
    with pytest.raises(ConfigError, match="must be a tft, was lstm"):
        explain_rows(other, table().matrix, np.array([200]))
