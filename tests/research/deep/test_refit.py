"""A sequence model in a fit with others: judged on the tail, fitted again on the whole span."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from catalog.errors import DataError
from research.experts import FitContext
from research.fitted import FittedModel, predict_rows
from research.fitting import fit_rows
from research.models.deep.config import LSTMConfig
from research.models.heuristic import HeuristicConfig
from research.models.lightgbm_expert import LightGBMConfig
from research.models.registry import ExpertsConfig, fit_expert
from research.settings import WalkForwardConfig
from research.training_table import TrainingTable, build_table
from research.walkforward import usable_folds
from tests.research.experiments import config, panel

LSTM = LSTMConfig(
    d_model=8, samples=2, epochs=1, period_bars=8, batch_bars=256, validation_frac=0.0
)


def settings(*, refit: bool = False, **changes: object) -> WalkForwardConfig:
    experts = ExpertsConfig(
        lightgbm=LightGBMConfig(n_trees=5, min_rows_in_leaf=30),
        lstm=LSTM.model_copy(update={"refit": refit}),
        heuristic=HeuristicConfig(),
    )
    found: WalkForwardConfig = config().model_copy(update={"experts": experts, **changes})
    return found


@cache
def table() -> TrainingTable:
    return build_table(panel(), settings())


@cache
def fitted(*, refit: bool) -> FittedModel:
    fold = usable_folds(table(), settings())[0]
    return fit_rows(table(), fold.train, settings(refit=refit), fold.test_start)


def test_the_expert_that_stays_has_seen_the_whole_span_and_is_judged_by_one_that_has_not() -> None:
    fold = usable_folds(table(), settings())[0]
    once, again = fitted(refit=False), fitted(refit=True)
    whole = fit_expert("lstm", table(), fold.train, LSTM, FitContext())
    found = [model.members[1].expert for model in (once, again)]
    answers = [expert.predict(table().matrix, fold.test).prob_up for expert in found]
    wanted = whole.predict(table().matrix, fold.test).prob_up
    np.testing.assert_array_equal(answers[1], wanted)
    assert np.nanmax(np.abs(answers[0] - wanted)) > 1e-4
    # What is known of calibration and weights comes from the expert that was held back.
    for one, two in zip(once.members, again.members, strict=True):
        assert one.calibration.to_json() == two.calibration.to_json()
    assert once.fusion.to_json() == again.fusion.to_json()


def test_the_rule_stands_behind_the_fusion_and_in_where_nobody_answers() -> None:
    model, fold = fitted(refit=False), usable_folds(table(), settings())[0]
    assert model.fusion.experts == ("lightgbm", "lstm")
    assert [member.name for member in model.members] == ["lightgbm", "lstm", "heuristic"]
    frame = predict_rows(table(), fold.test, model, 0)
    assert (frame["weight_heuristic"] == 0.0).all()
    rows = fold.test[:50]
    values = table().matrix.values[rows]
    rule = {"heuristic": model.members[2].expert.predict(table().matrix, rows)}
    alone = model.answers(rule, values)
    assert np.isfinite(alone.prob_up).all()
    np.testing.assert_array_equal(alone.weights[:, 2], 1.0)
    assert (alone.side == 0).all()
    assert all("no expert of the fusion answered" in reason for reason in alone.reasons)
    nobody = model.answers({}, values)
    assert (nobody.prob_up == model.references.base_prob).all()


def test_a_span_too_short_to_hold_anything_back_is_refused() -> None:
    fold = usable_folds(table(), settings())[0]
    with pytest.raises(DataError, match="must leave some on both sides of the last"):
        fit_rows(table(), fold.train[:1], settings(), fold.test_start)


def test_rows_count_by_their_age_in_proportions_that_no_later_row_changes() -> None:
    aged = settings(half_life_days=5.0)
    cut = usable_folds(table(), settings())[0].test_start
    whole, early = build_table(panel(), aged), build_table(panel().truncated(cut), aged)
    plain = table().labels.weight
    share = whole.labels.weight / plain
    ts_init = whole.matrix.ts_init
    days = (ts_init - ts_init.min()) / 86_400e9
    np.testing.assert_allclose(share, 2.0 ** (days / 5.0), rtol=1e-12)
    rows = np.flatnonzero(whole.labels.ts_end <= cut)
    same = np.flatnonzero(early.labels.ts_end <= cut)
    np.testing.assert_array_equal(whole.labels.weight[rows], early.labels.weight[same])
