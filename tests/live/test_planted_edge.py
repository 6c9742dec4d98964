"""A planted edge is recovered, and none is found where none is: the oracle's own probability tells.

How much can be recovered is a matter of rows. With the shipped settings boosted trees recovered
76 % in half a year, 87 % in two years and 91 % in four; mirrored ones 87 %, 91 % and 92 %. Trees
fitted to the oracle's own log-odds reach 98 %: the inputs are all there, the rest is estimation.
The heuristic is the fallback of the trees here: the fusion is theirs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from adapters.synthetic import SyntheticConfig, oracle_series
from catalog.arrays import Float64Array
from catalog.store import Catalog
from live.pipeline import load_market
from live.profile import load_profile
from live.synthesis import make_market
from research.walkforward import WalkForwardResult, walk_forward

pytestmark = pytest.mark.slow

START = "2022-01-01"
OVERRIDES = (
    f"data.start={START}",
    "data.end=2025-12-31",
    "validation.test_start=2025-01-01",
    "validation.n_folds=1",
    "experts.lightgbm.mirror=true",
    "experts.heuristic={}",
    "features.regime=true",
)


def walked(folder: Path, edge: float) -> WalkForwardResult:
    """Walk forward over four years of a market with this edge."""
    profile = load_profile("synthetic", OVERRIDES)
    make_market(folder, SyntheticConfig(start=START, end="2025-12-31", edge=edge, news_per_day=0.0))
    panel = load_market(profile, folder).panel
    return walk_forward(panel, profile.walk_forward_config())


def oracle(folder: Path, frame: pd.DataFrame) -> Float64Array:
    """Return the true probability of each row."""
    found = np.full(len(frame), np.nan)
    for name in frame["instrument_id"].unique():
        records = Catalog.open(folder).records("index", oracle_series(name))
        rows = (frame["instrument_id"] == name).to_numpy()
        by_time = pd.Series(records["close"], index=records["ts_init"])
        found[rows] = by_time.reindex(frame["ts_init"][rows]).to_numpy()
    return found


def expected_loss(truth: Float64Array, probability: Float64Array) -> float:
    """Return the mean log loss that a probability must expect: without the luck of outcomes."""
    return float(-np.mean(truth * np.log(probability) + (1.0 - truth) * np.log(1.0 - probability)))


def test_the_fusion_recovers_nine_tenths_of_what_the_oracle_knows(tmp_path: Path) -> None:
    result = walked(tmp_path / "catalog", edge=1.0)
    frame = result.predictions.dropna(subset=["label"])
    truth = oracle(tmp_path / "catalog", frame)
    base, fused = (
        expected_loss(truth, frame[name].to_numpy()) for name in ("base_prob", "prob_up")
    )
    best = expected_loss(truth, truth)
    assert (base - fused) / (base - best) >= 0.90
    skill = result.metrics["log_loss_skill"]
    assert skill.low <= 1.0 - fused / base <= skill.high


def test_where_there_is_no_edge_none_is_found(tmp_path: Path) -> None:
    result = walked(tmp_path / "catalog", edge=0.0)
    assert result.metrics["log_loss_skill"].low <= 0.0
    assert result.metrics["auc"].low <= 0.5 <= result.metrics["auc"].high
