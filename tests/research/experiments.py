"""A small experiment that the tests of walk-forward, bundle and predictor share."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from research.fitted import FittedModel
from research.labels import LabelConfig
from research.metrics import BootstrapConfig
from research.models.lightgbm_expert import LightGBMConfig
from research.models.lightgbm_serving import LightGBMExpert
from research.models.registry import ExpertsConfig
from research.panel import Panel
from research.predictions import Prediction, Predictor
from research.splits import ValidationConfig
from research.training import train_until
from research.walkforward import WalkForwardConfig, WalkForwardResult, walk_forward
from tests.research.markets import EVERYTHING, Market, bars_by_time

SLOTS = 2_600


@cache
def panel(seed: int = 0, missing: float = 0.01) -> Panel:
    return Market(seed=seed, slots=SLOTS, missing=missing).panel()


def time_at(fraction: float, market: Panel | None = None) -> int:
    """Return the time that lies this far into the market."""
    ts = (market or panel()).bars[0].ts_init
    return int(ts[int(fraction * (len(ts) - 1))])


def config(*, horizon: int = 2, trees: int = 8, threads: int = 1, **validation: Any) -> Any:
    settings = {
        "n_folds": 3,
        "test_start": time_at(0.6),
        "embargo_bars": 4,
        "min_train_rows": 500,
        **validation,
    }
    return WalkForwardConfig(
        features=EVERYTHING,
        label=LabelConfig(horizon_bars=horizon),
        experts=ExpertsConfig(lightgbm=LightGBMConfig(n_trees=trees, min_rows_in_leaf=30)),
        threads=threads,
        validation=ValidationConfig(**settings),
        bootstrap=BootstrapConfig(samples=50),
    )


@cache
def result() -> WalkForwardResult:
    return walk_forward(panel(), config())


@cache
def model() -> FittedModel:
    return train_until(panel(), config(), time_at(0.6))


def feed(predictor: Predictor, market: Panel) -> dict[tuple[str, int], Prediction]:
    """Feed a market in the order of time; return the predictions by instrument and time."""
    settlements = sorted(
        (int(ts), name, float(rate))
        for name, series in market.funding.items()
        for ts, rate in zip(series.ts_init, series.value, strict=True)
    )
    found = {}
    for ts_init, bars in bars_by_time(market).items():
        while settlements and settlements[0][0] <= ts_init:
            known_at, name, rate = settlements.pop(0)
            predictor.update_funding(name, rate, known_at)
        for prediction in predictor.update(ts_init, bars):
            found[prediction.instrument_id, prediction.ts_init] = prediction
    return found


def by_key(frame: Any) -> dict[tuple[str, int], Any]:
    """Return a frame's rows by instrument and time."""
    return {(row.instrument_id, row.ts_init): row for row in frame.itertuples()}


def trees_of(fitted: FittedModel) -> LightGBMExpert:
    """Return the boosted trees, which are a model's first expert."""
    expert = fitted.members[0].expert
    assert isinstance(expert, LightGBMExpert)
    return expert


def texts(fitted: FittedModel) -> tuple[str, ...]:
    """Return everything that a model of boosted trees has learned, as text."""
    maps = [member.calibration.to_json() for member in fitted.members]
    return trees_of(fitted).to_text(), *maps, fitted.fusion.to_json(), fitted.references.to_json()


def same_numbers(one: Any, other: Any, columns: tuple[str, ...]) -> None:
    """Demand equal bits, NaN being equal to NaN."""
    for column in columns:
        np.testing.assert_array_equal(one[column].to_numpy(), other[column].to_numpy(), column)
