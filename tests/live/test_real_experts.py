"""Every expert and every input that there is, on real bars: one set of numbers, and no future."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from adapters.importing import import_path
from catalog.store import Catalog
from catalog.timestamps import parse_time
from live.audit import audit_lookahead, audit_parity
from live.parity import SEQUENCE_TOLERANCE
from live.pipeline import load_market
from live.profile import Profile, load_profile
from live.served import Served
from research.bundle import save_bundle
from research.models.deep.fit import DeepExpert
from research.predictor import BundlePredictor
from research.training import train_until
from research.walkforward import evaluate
from strategies.backtest import run_backtest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TINY = "d_model: 8, samples: 3, epochs: 1, chunk_bars: 64, batch_bars: 2048"
DEEP = ("transformer", "tft", "lstm")
ROW_MODELS = ("lightgbm", "sentiment", "heuristic")
OVERRIDES = (
    "features.smc=true",
    "features.timeframes=[1h, 4h]",
    "features.cross=true",
    "features.regime=true",
    "features.onchain=coinmetrics.btc",
    "features.dvol=[dvol.btc, dvol.eth]",
    "features.fear_greed=fear_greed",
    "features.news=[bitcoin_news_2021_2023]",
    "features.funding_terms=true",
    "experts.lightgbm.n_trees=12",
    f"experts.transformer={{{TINY}, heads: 2, layers: 2, reach_bars: 13, feedforward: 8}}",
    f"experts.tft={{{TINY}, heads: 2, period_bars: 16}}",
    f"experts.lstm={{{TINY}, layers: 1, period_bars: 16}}",
    "experts.sentiment={}",
    "experts.heuristic={}",
    # What an expert said is then told as it said it: a flat curve would hide a difference.
    "calibration.method=none",
    "fusion.method=log_pool",
    "validation.n_folds=1",
    "bootstrap.samples=0",
    "strategy.entry_threshold=0.51",
)


@pytest.fixture(scope="module")
def catalog(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "catalog"
    parts = ("bars/perp", "funding", "onchain", "volatility")
    for part in (*parts, "news/bitcoin_news_2021_2023.csv"):
        assert import_path(shared_data / part, Catalog.open(folder, create=True)).ok, part
    return folder


def profile(start: str, tested: str, end: str, *more: str) -> Profile:
    dates = (f"data.start={start}", f"validation.test_start={tested}", f"data.end={end}")
    return load_profile("perps-15m", [*OVERRIDES, *dates, *more])


def apart(batch: pd.DataFrame, stream: pd.DataFrame, name: str) -> float:
    """Return the largest difference of a column; what is missing on one side is infinite."""
    one, other = batch[name].to_numpy(), stream[name].to_numpy()
    both = np.isnan(one) & np.isnan(other)
    return float(np.nan_to_num(np.abs(one - other)[~both], nan=np.inf).max(initial=0.0))


def test_batch_and_stream_say_the_same_for_a_year(catalog: Path, tmp_path: Path) -> None:
    # Nothing is traded: what untrained experts would do for a year ends with an empty account.
    quiet = "strategy.entry_threshold=0.99"
    settings = profile("2023-01-01", "2023-02-01", "2024-02-01", quiet)
    start, end = settings.validation.test_start, settings.data.end
    market = load_market(settings, catalog)
    model = train_until(market.panel, settings.walk_forward_config(), start)
    batch = evaluate(market.panel, model, start, end).predictions
    save_bundle(tmp_path / "bundle", model)
    predictor = BundlePredictor.from_folder(tmp_path / "bundle")
    market.warm_up(predictor, start)
    inputs = market.replay_inputs(start, end, len(batch))
    stream = run_backtest(inputs, predictor, settings.strategy, settings.execution).predictions

    keys = ["ts_init", "instrument_id"]
    stream = stream.astype({"instrument_id": str}).sort_values(keys, ignore_index=True)
    batch = batch.astype({"instrument_id": str}).sort_values(keys, ignore_index=True)
    assert len(batch) == 3 * 365 * 96
    pd.testing.assert_frame_equal(batch[keys], stream[keys])
    for name in ROW_MODELS:
        assert apart(batch, stream, f"expert_{name}") == 0.0, name
    for name in DEEP:
        assert apart(batch, stream, f"expert_{name}") <= SEQUENCE_TOLERANCE, name
        assert batch[f"expert_{name}"].notna().mean() > 0.99
        assert batch[f"expert_{name}"].std() > 100.0 * SEQUENCE_TOLERANCE
    for name in ("prob_up", "epistemic", "mu", "sigma"):
        assert apart(batch, stream, name) <= SEQUENCE_TOLERANCE, name
    served = Served.of(stream, predictor.breakers)
    served.require_equal(stream, batch, SEQUENCE_TOLERANCE)
    for name in ("side", "regime"):
        assert (batch[name] == stream[name]).all(), name
    assert all(state.trips == 0 for state in predictor.breakers)
    # News end in December: without them the sentiment expert falls silent, and is left out.
    assert batch["expert_sentiment"].notna().iloc[:1_000].all()
    assert batch["expert_sentiment"].isna().iloc[-1_000:].all()


def test_the_live_node_decides_as_the_backtest_with_every_expert(catalog: Path) -> None:
    settings = profile("2023-01-01", "2023-02-01", "2023-03-04")
    span = (parse_time("2023-03-01"), parse_time("2023-03-04"))
    report = audit_parity(settings, catalog, span=span)
    assert report.identical, str(report)
    assert report.tolerance == SEQUENCE_TOLERANCE
    assert report.compared["fills"] > 0


SHORT = ("2023-01-01", "2023-01-25", "2023-01-30")


def test_nothing_looks_ahead_with_every_feature_and_expert(catalog: Path) -> None:
    report = audit_lookahead(profile(*SHORT), catalog, cuts=1)
    assert report.violations == []
    assert report.audited["features"] > 110


def test_a_sequence_expert_that_reads_one_bar_ahead_is_found(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = DeepExpert.predict

    def peeking(self: Any, matrix: Any, rows: Any) -> Any:
        code = matrix.instrument
        ahead = np.minimum(np.arange(len(code)) + 1, len(code) - 1)
        ahead = np.where(code[ahead] == code, ahead, np.arange(len(code)))
        features = matrix.values  # noqa: PD011 (an array, no frame)
        return honest(self, replace(matrix, values=features[ahead]), rows)

    monkeypatch.setattr(DeepExpert, "predict", peeking)
    report = audit_lookahead(profile(*SHORT), catalog, cuts=1)
    assert {f"expert_{name}" for name in DEEP} <= {one.name for one in report.violations}
