from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from catalog.arrays import BarArrays
from catalog.timestamps import NS_PER_MINUTE
from research.features import FeatureConfig, compute_features
from research.labels import LabelConfig, compute_labels
from research.lookahead import audit_labels
from research.panel import Panel
from tests.research.groups.agreement import assert_one_value
from tests.research.markets import BTC, COLUMNS, INSTRUMENTS

INTERVAL = 15 * NS_PER_MINUTE


@pytest.fixture(scope="module")
def panel(shared_data: Path) -> Panel:
    feather = pytest.importorskip("pyarrow.feather")
    bars = []
    for name in INSTRUMENTS:
        path = shared_data / "bars" / "perp" / f"{name[:3]}_USDT_USDT-15m-futures.feather"
        frame = feather.read_table(path).slice(20_000, 3_000).to_pandas()
        ts_init = frame["date"].astype("datetime64[ns, UTC]").astype("int64") + INTERVAL
        columns = [frame[column].to_numpy(np.float64) for column in COLUMNS[1:]]
        bars.append(BarArrays(name, INTERVAL, ts_init.to_numpy(), *columns))
    return Panel(INTERVAL, tuple(bars), {}, "shared data", False)


def test_higher_intervals_and_the_set_have_one_value_on_real_bars(panel: Panel) -> None:
    config = FeatureConfig(funding=False, lead=BTC, cross=True, timeframes=("1h", "4h"))
    assert_one_value(panel, config, 401)
    assert_one_value(panel, config, 1_403, compiled=False)
    matrix = compute_features(panel, config)
    assert np.isfinite(matrix.values[matrix.valid]).mean() > 0.999


@pytest.mark.parametrize("horizon", [4, 16])
def test_barriers_on_real_bars_decide_early_and_evenly(panel: Panel, horizon: int) -> None:
    config = LabelConfig(kind="triple_barrier", horizon_bars=horizon)
    labels = compute_labels(panel, config)
    known = np.isfinite(labels.value)
    assert known.mean() > 0.9
    assert 0.45 < labels.value[known].mean() < 0.55
    assert labels.ts_decided is not None
    assert 0.25 < (labels.ts_decided < labels.ts_end).mean() < 0.9
    assert audit_labels(panel, config) == []
