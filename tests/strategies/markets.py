"""A market of constructed bars, and predictions at will: for tests of replay and paper alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from catalog.arrays import BarArrays, SeriesArrays
from catalog.instruments import instrument
from research.predictions import stamp_predictions
from research.predictor import PrecomputedPredictions, PredictorSpec
from strategies.backtest import ReplayInputs

INTERVAL = 900 * 10**9
START = 1_704_067_200 * 10**9  # 2024-01-01 00:00, a settlement and a bar boundary
BTC = "BTCUSDT-PERP.BINANCE"
ETH = "ETHUSDT-PERP.BINANCE"
SOL = "SOLUSDT-PERP.BINANCE"


def close_time(index: int) -> int:
    """Close of bar `index`, counted from 0."""
    return START + (index + 1) * INTERVAL


def make_bars(
    rows: Sequence[tuple[float, float, float, float]],
    name: str = BTC,
    *,
    missing: Sequence[int] = (),
    interval_ns: int = INTERVAL,
    volumes: Sequence[float] | None = None,
) -> BarArrays:
    kept = [index for index in range(len(rows)) if index not in missing]
    columns = np.array([rows[index] for index in kept], dtype=np.float64)
    times = np.array([START + (index + 1) * interval_ns for index in kept], dtype=np.int64)
    return BarArrays(
        name,
        interval_ns,
        times,
        columns[:, 0].copy(),
        columns[:, 1].copy(),
        columns[:, 2].copy(),
        columns[:, 3].copy(),
        np.array([10.0 if volumes is None else volumes[index] for index in kept]),
    )


def flat_bars(
    count: int, price: float = 30_000.0, name: str = BTC, **keywords: object
) -> BarArrays:
    return make_bars([(price, price, price, price)] * count, name, **keywords)


def make_funding(rates: Mapping[int, float], name: str = BTC) -> SeriesArrays:
    """Settlements by time."""
    times = np.array(sorted(rates), dtype=np.int64)
    values = np.array([rates[ts] for ts in sorted(rates)], dtype=np.float64)
    return SeriesArrays(name, "fraction", times, times.copy(), values)


def make_spec(
    names: Sequence[str] = (BTC,), *, horizon: int = 1, **changes: object
) -> PredictorSpec:
    fields = {
        "instruments": tuple(names),
        "interval_ns": INTERVAL,
        "horizon_bars": horizon,
        "warmup_bars": 0,
        "model_version": "test",
        "uses_funding": False,
        "spec_hash": "0" * 64,
    }
    return PredictorSpec(**{**fields, **changes})


def make_predictor(
    probabilities: Mapping[int, Mapping[str, float]] | Mapping[int, float],
    names: Sequence[str] = (BTC,),
    *,
    horizon: int = 1,
    **known: float,
) -> PrecomputedPredictions:
    """Predictions by bar index and instrument; a bare number means BTC.

    `known` is what all of them know beside a probability, such as ``volatility=0.01``.
    """
    rows = []
    for index, found in probabilities.items():
        by_name = found if isinstance(found, Mapping) else {BTC: found}
        rows += [(close_time(index), name, by_name[name]) for name in names if name in by_name]
    frame = pd.DataFrame(rows, columns=["ts_init", "instrument_id", "prob_up"]).assign(**known)
    spec = make_spec(names, horizon=horizon)
    return PrecomputedPredictions.from_frame(stamp_predictions(frame, spec, "0" * 64), spec)


def make_inputs(
    *bars: BarArrays, funding: Mapping[str, SeriesArrays] | None = None, **keywords: object
) -> ReplayInputs:
    instruments = tuple(instrument(one.instrument_id) for one in bars)
    return ReplayInputs(instruments, tuple(bars), funding or {}, **keywords)


def wild(seed: int, count: int) -> tuple[ReplayInputs, dict[int, dict[str, float]]]:
    """Two walks with wicks and gaps, a few bars missing, and signals for them."""
    draw = np.random.default_rng(seed)
    arrays: list[BarArrays] = []
    for name, start, decimals in ((BTC, 30_000.0, 1), (ETH, 2_000.0, 2)):
        close = start * np.exp(np.cumsum(draw.normal(0, 0.003, count)))
        gaps = np.where(draw.random(count) < 0.4, draw.normal(0, 0.004, count), 0.0)
        opened = np.concatenate(([start], close[:-1])) * np.exp(gaps)
        high = np.maximum(opened, close) * np.exp(np.abs(draw.normal(0, 0.003, count)))
        low = np.minimum(opened, close) * np.exp(-np.abs(draw.normal(0, 0.003, count)))
        rows = np.round(np.stack([opened, high, low, close], axis=1), decimals)
        missing = draw.choice(np.arange(2, count - 2), count // 20, replace=False).tolist()
        volumes = np.round(draw.random(count) * 20.0, 3).tolist()
        arrays.append(
            make_bars([tuple(row) for row in rows.tolist()], name, missing=missing, volumes=volumes)
        )
    probs = draw.uniform(0.3, 0.7, (count, 2)).tolist()
    signals = {bar: dict(zip((BTC, ETH), probs[bar], strict=True)) for bar in range(count - 1)}
    return make_inputs(*arrays), signals
