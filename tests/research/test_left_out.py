"""An expert whose series ends before the held-out rows begin is left out, and it is told."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.errors import DataError
from research.bundle import load_bundle, save_bundle
from research.events import EventArrays
from research.models.heuristic import HeuristicConfig
from research.models.lightgbm_expert import LightGBMConfig
from research.models.registry import ExpertsConfig
from research.models.sentiment import SentimentConfig
from research.panel import Panel
from research.settings import WalkForwardConfig
from research.training import train_until
from research.walkforward import evaluate, walk_forward
from tests.research import experiments
from tests.research.experiments import time_at
from tests.research.markets import EVERYTHING

TREES = LightGBMConfig(n_trees=4, min_rows_in_leaf=30)
WITH_NEWS = EVERYTHING.model_copy(update={"news": ("wire",)})


@cache
def panel(until: float) -> Panel:
    """Return a market whose only news series ends so far into it."""
    market = experiments.panel()
    ts_init = np.arange(time_at(0.0), time_at(until), 3_600 * 10**9, dtype=np.int64)
    score = np.sin(np.arange(len(ts_init)))
    events = EventArrays("news.wire", ts_init, score, np.ones(len(ts_init)))
    return replace(market, series={"news.wire": events})


def config(**experts: Any) -> WalkForwardConfig:
    found: WalkForwardConfig = experiments.config(n_folds=2).model_copy(
        update={"features": WITH_NEWS, "experts": ExpertsConfig(**experts)}
    )
    return found


def test_an_expert_without_answers_is_left_out_and_the_rest_is_as_without_it() -> None:
    found = walk_forward(panel(0.45), config(lightgbm=TREES, sentiment=SentimentConfig()))
    without = walk_forward(panel(0.45), config(lightgbm=TREES))
    for fold in found.folds:
        assert fold.model is not None
        assert [member.name for member in fold.model.members] == ["lightgbm"]
        assert set(fold.model.reports.left_out) == {"sentiment"}
    assert list(found.left_out) == ["sentiment, fold 0", "sentiment, fold 1"]
    reason = found.left_out["sentiment, fold 0"]
    assert reason.startswith("answered 0 held-out rows, of which each of 5 blocks must leave 50")
    assert "news_score was last known: 20" in reason
    assert without.left_out == {}
    columns = list(without.predictions.columns)
    pd.testing.assert_frame_equal(
        found.predictions[columns], without.predictions, check_exact=True, obj="predictions"
    )
    assert found.predictions["expert_sentiment"].isna().all()
    assert (found.predictions["weight_sentiment"] == 0.0).all()
    assert found.experts == {}


def test_a_series_that_ends_between_two_folds_is_heard_in_the_first() -> None:
    found = walk_forward(panel(0.65), config(lightgbm=TREES, sentiment=SentimentConfig()))
    assert list(found.left_out) == ["sentiment, fold 1"]
    heard = found.predictions.groupby("fold")["expert_sentiment"].agg(lambda one: one.notna().any())
    assert heard.tolist() == [True, False]
    assert set(found.experts) == {"lightgbm", "sentiment"}


def test_the_rule_stands_alone_where_nobody_else_answers() -> None:
    experts = {"sentiment": SentimentConfig(), "heuristic": HeuristicConfig()}
    found = walk_forward(panel(0.45), config(**experts))
    assert found.folds[0].model is not None
    assert found.folds[0].model.fusion.experts == ("heuristic",)
    assert "sentiment, fold 0" in found.left_out


def test_without_any_expert_the_error_says_who_when_and_what_to_do() -> None:
    wanted = (
        r"fold \d .*no expert could be calibrated: sentiment answered 0 held-out "
        r"rows, .* of 20.* to 20.* \(news_score was last known: 20.*\); train on a span .* or add "
    )
    with pytest.raises(DataError, match=wanted):
        walk_forward(panel(0.45), config(sentiment=SentimentConfig()))


def test_a_bundle_without_a_chosen_expert_comes_back(tmp_path: Path) -> None:
    settings = config(lightgbm=TREES, sentiment=SentimentConfig(), heuristic=HeuristicConfig())
    model = train_until(panel(0.45), settings, time_at(0.6))
    assert model.reports.left_out.keys() == {"sentiment"}
    save_bundle(tmp_path / "bundle", model)
    bundle = load_bundle(tmp_path / "bundle")
    assert [member.name for member in bundle.model.members] == ["lightgbm", "heuristic"]
    span = (time_at(0.6), time_at(0.7))
    ours, theirs = (evaluate(panel(0.45), one, *span) for one in (model, bundle.model))
    pd.testing.assert_frame_equal(ours.predictions, theirs.predictions, check_exact=True)


def test_only_named_experts_take_part() -> None:
    assert list(ExpertsConfig().chosen()) == ["lightgbm"]
    assert list(ExpertsConfig.model_validate({"heuristic": {}}).chosen()) == ["heuristic"]
    both = ExpertsConfig.model_validate({"heuristic": {}, "lightgbm": {"n_trees": 3}})
    assert list(both.chosen()) == ["lightgbm", "heuristic"]
    for one in (ExpertsConfig(), both, ExpertsConfig(sentiment=SentimentConfig())):
        assert ExpertsConfig.model_validate(one.model_dump(mode="json")) == one


def test_a_warm_start_and_a_refit_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="lstm must not have warm_start and refit together"):
        ExpertsConfig.model_validate({"lstm": {"warm_start": True, "refit": True}})
