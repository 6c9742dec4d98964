"""Predictions from a frame carry what the frame knows, through a file and back."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from catalog.arrays import Ohlcv
from catalog.errors import DataError
from research.predictions import (
    PrecomputedPredictions,
    Prediction,
    PredictorSpec,
    read_predictions,
    stamp_predictions,
    write_predictions,
)

BTC, ETH = NAMES = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")
SPEC = PredictorSpec(NAMES, 900, 4, 0, "v1", False, "0" * 64)
BAR = Ohlcv(1.0, 1.0, 1.0, 1.0, 1.0)


def frame(**extra: object) -> pd.DataFrame:
    rows = pd.DataFrame(
        {
            "ts_init": np.array([1800, 900, 900], dtype=np.int64),
            "instrument_id": [BTC, ETH, BTC],
            "prob_up": [0.6, 0.5, 0.4],
            **extra,
        }
    )
    return stamp_predictions(rows, SPEC, "d" * 64)


RICH = {
    "mu": [1e-4, math.nan, -1e-4],
    "sigma": [1e-3, math.nan, 2e-3],
    "epistemic": [0.01, math.nan, 0.02],
    "volatility": [1e-3, math.nan, 2e-3],
    "prob_low": [0.58, math.nan, 0.39],
    "prob_high": [0.62, math.nan, 0.41],
    "entry_threshold": [0.56, 0.56, 0.56],
    "side": np.array([1, 0, -1]),
    "regime": ["trend", "", "mean_reverting"],
    "expert_lightgbm": [0.61, 0.5, 0.41],
    "weight_lightgbm": [0.7, 1.0, 0.7],
    "expert_tft": [0.58, math.nan, 0.38],
    "weight_tft": [0.3, 0.0, 0.3],
    "degraded_reason": ["", "no answer of tft", ""],
}


def served(rows: pd.DataFrame) -> list[Prediction]:
    predictor = PrecomputedPredictions.from_frame(rows, SPEC)
    return [one for ts in (900, 1800) for one in predictor.update(ts, dict.fromkeys(NAMES, BAR))]


def test_what_the_frame_knows_is_served(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.parquet", frame(**RICH))
    read = read_predictions(tmp_path / "p.parquet", SPEC, "d" * 64)
    for rows in (frame(**RICH), read):
        first, second, third = served(rows)
        assert first == Prediction(
            BTC,
            900,
            0.4,
            4,
            "v1",
            mu=-1e-4,
            sigma=2e-3,
            epistemic=0.02,
            volatility=2e-3,
            prob_low=0.39,
            prob_high=0.41,
            entry_threshold=0.56,
            side=-1,
            regime="mean_reverting",
            experts=(("lightgbm", 0.41, 0.7), ("tft", 0.38, 0.3)),
        )
        assert (second.instrument_id, second.degraded_reason) == (ETH, "no answer of tft")
        assert (second.side, second.regime) == (0, "")
        assert all(map(math.isnan, (second.mu, second.sigma, second.epistemic)))
        name, probability, weight = second.experts[1]
        assert (name, weight) == ("tft", 0.0)
        assert math.isnan(probability)
        assert (third.ts_init, third.side, third.regime) == (1800, 1, "trend")
        assert all(type(value) is float for value in (first.mu, first.sigma, *first.experts[0][1:]))


def test_a_bare_frame_serves_bare_predictions() -> None:
    one = served(frame())[0]
    assert (one.instrument_id, one.ts_init, one.prob_up) == (BTC, 900, 0.4)
    assert (one.side, one.regime, one.experts, one.input_ages) == (None, "", (), ())
    assert all(map(math.isnan, (one.mu, one.sigma, one.epistemic)))


def test_an_expert_without_its_weight_is_refused() -> None:
    with pytest.raises(DataError, match=r"a weight beside each expert, had none of \['tft'\]"):
        served(frame(expert_tft=[0.5, 0.5, 0.5]))


def test_stored_predictions_ask_for_no_slow_inputs_and_ignore_them() -> None:
    spec = replace(SPEC, series=("news.x",), uses_flow=True, uses_minutes=True)
    predictor = PrecomputedPredictions.from_frame(frame(), spec)
    assert (predictor.spec.series, predictor.spec.uses_flow) == ((), False)
    assert not predictor.spec.uses_minutes
    predictor.update_series("news.x", 1.0, 900)
    predictor.update_flow(BTC, (1.0, 2.0, 3.0, 4.0), 900)
    predictor.update_minute(BTC, 900, BAR)
    assert len(predictor.update(900, {BTC: BAR})) == 1
