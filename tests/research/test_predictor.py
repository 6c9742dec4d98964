"""Predictors: the stream gives the batch's bits, and old answers are not served."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.arrays import BarArrays, Ohlcv, SeriesArrays
from catalog.errors import DataError, IntegrityError
from catalog.timestamps import NS_PER_DAY, interval_ns
from research.bundle import save_bundle
from research.fitted import predict_rows
from research.models.lightgbm_expert import LightGBMConfig
from research.models.registry import ExpertsConfig
from research.panel import Panel
from research.predictions import SPEC_KEY, hash_parts, stamp_predictions
from research.predictor import (
    BundlePredictor,
    PrecomputedPredictions,
    read_predictions,
    write_predictions,
)
from research.settings import predictor_spec
from research.training import train_until
from research.training_table import build_table
from tests.research.experiments import (
    by_key,
    config,
    feed,
    model,
    panel,
    result,
    time_at,
)
from tests.research.markets import since

BAR = Ohlcv(1.0, 1.0, 1.0, 1.0, 1.0)


def batch(market: Panel, start: int) -> pd.DataFrame:
    table = build_table(market, model().config)
    rows = np.flatnonzero(table.matrix.valid & (table.matrix.ts_init > start))
    return predict_rows(table, rows, model(), 0)


@pytest.mark.parametrize("compiled", [True, False])
def test_stream_equals_batch_bit_for_bit(tmp_path: Path, compiled: bool) -> None:
    save_bundle(tmp_path / "model", model())
    predictor = BundlePredictor.from_folder(tmp_path / "model", compiled=compiled)
    found = feed(predictor, panel())
    wanted = by_key(batch(panel(), 0))
    assert set(found) == set(wanted)
    for key, prediction in found.items():
        assert prediction.prob_up == wanted[key].prob_up
        assert prediction.degraded_reason == wanted[key].degraded_reason
        assert prediction.degraded == (prediction.degraded_reason != "")
    assert {prediction.model_version for prediction in found.values()} == {
        predictor.spec.model_version
    }


def test_a_stream_that_starts_late_equals_the_batch_after_its_warm_up() -> None:
    predictor = BundlePredictor(model())
    start = time_at(0.3)
    warm = start + predictor.spec.warmup_bars * panel().interval_ns
    wanted = by_key(batch(panel(), warm))
    found = feed(predictor, since(panel(), start - 2 * NS_PER_DAY))
    later = {key: prediction for key, prediction in found.items() if key[1] > warm}
    assert len(later) > 500
    for key, prediction in later.items():
        assert prediction.prob_up == wanted[key].prob_up


def test_precomputed_predictions_equal_the_stream_of_each_fold() -> None:
    fold = result().folds[0]
    online = feed(BundlePredictor(fold.model), panel().truncated(fold.test_end))
    served = feed(
        PrecomputedPredictions.from_frame(result().predictions, result().spec),
        panel().truncated(fold.test_end),
    )
    assert len(served) == fold.n_test
    for key, prediction in served.items():
        again = online[key]._replace(model_version=result().spec.model_version)
        assert repr(prediction) == repr(again)  # NaN is equal to NaN here


def test_predictions_of_a_time_stand_in_the_profiles_order() -> None:
    for predictor in (
        BundlePredictor(model()),
        PrecomputedPredictions.from_frame(result().predictions, result().spec),
    ):
        keys = list(feed(predictor, panel()))
        rank = {name: place for place, name in enumerate(panel().instruments())}
        order = [(ts, rank[name]) for name, ts in keys]
        assert len(order) > 500
        assert order == sorted(order)


def test_a_missing_lead_bar_degrades_the_others() -> None:
    predictor = BundlePredictor(model())
    feed(predictor, panel())
    last = int(panel().bars[0].ts_init[-1])
    step = panel().interval_ns
    names = panel().instruments()
    bars = {bars.instrument_id: Ohlcv(*_last(bars)) for bars in panel().bars}
    assert len(predictor.update(last + step, bars)) == 3
    found = predictor.update(last + 2 * step, {name: bars[name] for name in names[1:]})
    assert [prediction.instrument_id for prediction in found] == list(names[1:])
    for prediction in found:
        assert 0.0 < prediction.prob_up < 1.0


def _last(bars: BarArrays) -> tuple[float, ...]:
    return tuple(float(getattr(bars, name)[-1]) for name in Ohlcv._fields)


def test_undefined_features_mark_a_prediction_degraded() -> None:
    """Without any settlement the funding rate is unknown, and the prediction says so."""
    predictor = BundlePredictor(model())
    found = feed(predictor, replace(panel(), funding={}))
    assert found
    for prediction in found.values():
        assert prediction.degraded
        assert "funding" in prediction.degraded_reason


def test_only_instruments_with_a_bar_are_served() -> None:
    frame = result().predictions
    predictor = PrecomputedPredictions.from_frame(frame, result().spec)
    ts_init = int(frame["ts_init"].iloc[-1])
    names = panel().instruments()
    assert predictor.update(ts_init, {}) == []
    assert predictor.update(ts_init + 1, dict.fromkeys(names, BAR)) == []
    (only,) = predictor.update(ts_init, {names[1]: BAR})
    assert only.instrument_id == names[1]


def spec(**changes: Any) -> Any:
    settings = config().model_copy(update=changes)
    return predictor_spec(settings, panel().instruments(), panel().interval_ns)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"label": config(horizon=16).label}, "horizon_bars was 2, now 16; label was"),
        (
            {"experts": ExpertsConfig(lightgbm=LightGBMConfig(n_trees=9))},
            "expert lightgbm was",
        ),
        ({"features": config().features.model_copy(update={"peers": False})}, "features was"),
        ({"validation": config(n_folds=2).validation}, "validation was"),
    ],
)
def test_predictions_of_another_question_are_refused_with_the_part_that_differs(
    tmp_path: Path, changes: dict[str, Any], part: str
) -> None:
    with pytest.raises(IntegrityError, match=part):
        PrecomputedPredictions.from_frame(result().predictions, spec(**changes))
    path = tmp_path / "predictions.parquet"
    write_predictions(path, result().predictions)
    with pytest.raises(IntegrityError, match=part):
        read_predictions(path, spec(**changes), None)


def test_threads_and_bootstrap_are_no_part_of_the_question() -> None:
    other = spec(threads=2, bootstrap=config().bootstrap)
    assert other.spec_hash == result().spec.spec_hash


def test_predictions_from_other_data_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    write_predictions(path, result().predictions)
    read_predictions(path, result().spec, result().data_hash)
    with pytest.raises(IntegrityError, match="data was market 0, now another"):
        read_predictions(path, result().spec, "another")


def test_predictions_survive_the_file_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    write_predictions(path, result().predictions)
    first = path.read_bytes()
    found = read_predictions(path, result().spec, None)
    pd.testing.assert_frame_equal(found, result().predictions, check_exact=True)
    assert found.attrs[SPEC_KEY] == result().predictions.attrs[SPEC_KEY]
    write_predictions(path, result().predictions)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "predictions.parquet"
    path.write_bytes(b"older")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device; nothing was changed"):
        write_predictions(path, result().predictions)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    write_predictions(path, result().predictions)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="must be a complete Parquet file"):
        read_predictions(path, result().spec, None)
    with pytest.raises(DataError, match="must be a file"):
        read_predictions(tmp_path / "absent.parquet", result().spec, None)


def test_a_frame_without_a_stamp_is_refused(tmp_path: Path) -> None:
    bare = result().predictions.copy()
    bare.attrs = {}
    with pytest.raises(IntegrityError, match="must say which specification made it"):
        PrecomputedPredictions.from_frame(bare, result().spec)
    with pytest.raises(DataError, match="must be stamped"):
        write_predictions(tmp_path / "p.parquet", bare)
    stamped = stamp_predictions(bare, result().spec, result().data_hash)
    assert PrecomputedPredictions.from_frame(stamped, result().spec).spec == result().spec
    assert bare.attrs == {}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: f.drop(columns="prob_up"), r"must have the columns \['prob_up'\]"),
        (lambda f: f.assign(instrument_id="XRP"), r"that the specification does not: \['XRP'\]"),
        (lambda f: f.assign(prob_up=0.0), r"prob_up must be inside \(0, 1\), was 0.0 in row 0"),
        (lambda f: f.assign(prob_up=np.nan), r"prob_up must be inside \(0, 1\), was nan"),
        (lambda f: f.assign(ts_init=5), "must have one prediction; ts_init=5"),
    ],
)
def test_unusable_frames_are_refused(change: Any, text: str) -> None:
    frame = change(result().predictions)
    frame.attrs = dict(result().predictions.attrs)
    with pytest.raises(DataError, match=text):
        PrecomputedPredictions.from_frame(frame, result().spec)


def test_the_order_of_parts_does_not_change_their_hash() -> None:
    assert hash_parts({"a": "1", "b": "2"}) == hash_parts({"b": "2", "a": "1"})
    assert hash_parts({"a": "1"}) != hash_parts({"a": "2"})


def real_panel(shared_data: Path, n_bars: int) -> Panel:
    """Return the first real bars, read here without the catalog."""
    length = interval_ns("15m")
    bars, funding = [], {}
    for symbol, name in zip(("BTC", "ETH", "SOL"), panel().instruments(), strict=True):
        path = shared_data / "bars" / "perp" / f"{symbol}_USDT_USDT-15m-futures.feather"
        frame = pd.read_feather(path).iloc[:n_bars]
        ts = frame["date"].astype("datetime64[ns, UTC]").astype("int64").to_numpy() + length
        columns = [frame[column].to_numpy(dtype=np.float64) for column in Ohlcv._fields]
        bars.append(BarArrays(name, length, ts, *columns))
        path = shared_data / "funding" / f"{symbol}_USDT_USDT-8h-funding_rate.feather"
        rates = pd.read_feather(path)
        known = rates["date"].astype("datetime64[ns, UTC]").astype("int64").to_numpy()
        series = SeriesArrays(name, "fraction", known, known, rates["open"].to_numpy(np.float64))
        funding[name] = series.between(int(ts[0]) - NS_PER_DAY, int(ts[-1]))
    return Panel(length, tuple(bars), funding, "real", synthetic=False)


def test_stream_equals_batch_on_real_bars(shared_data: Path) -> None:
    market = real_panel(shared_data, 3000)
    until = time_at(0.8, market)
    fitted = train_until(market, config(test_start=until), until)
    table = build_table(market, fitted.config)
    rows = np.flatnonzero(table.matrix.valid & (table.matrix.ts_init > until))
    wanted = by_key(predict_rows(table, rows, fitted, 0))
    found = feed(BundlePredictor(fitted), market)
    later = {key: prediction for key, prediction in found.items() if key[1] > until}
    assert set(later) == set(wanted)
    assert len(later) > 1500
    for key, prediction in later.items():
        assert prediction.prob_up == wanted[key].prob_up
