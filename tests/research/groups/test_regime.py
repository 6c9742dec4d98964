from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from catalog.arrays import BarArrays, Ohlcv
from research.features import FeatureConfig, FeatureMatrix, compute_features
from research.groups import regime
from research.groups.regime import HORIZON, PATH, RECENT, SAMPLES, SPACING, WINDOW, regime_name
from research.kernel_tools import NEVER
from research.kernels import WARMUP_SLOTS
from research.panel import Panel
from tests.research.markets import FIRST_SLOT, Market

INTERVAL = 900 * 10**9
CONFIG = FeatureConfig(funding=False, instrument_code=False, regime=True)
NAMES = [feature.name for feature in regime.features(())]


def panel_of(closes: Sequence[float] | NDArray[np.float64]) -> Panel:
    """Return bars that lead from close to close."""
    close = np.asarray(closes, dtype=np.float64)
    first = np.concatenate([close[:1], close[:-1]])
    ts_init = (FIRST_SLOT + np.arange(len(close))) * INTERVAL
    high, low = np.maximum(first, close), np.minimum(first, close)
    bars = BarArrays("X", INTERVAL, ts_init, first, high, low, close, np.ones(len(close)))
    return Panel(INTERVAL, (bars,), {}, "made by hand", synthetic=True)


def regimes(panel: Panel) -> pd.DataFrame:
    """Return the group's columns of the valid rows of the first instrument."""
    return table_of(compute_features(panel, CONFIG))


def table_of(matrix: FeatureMatrix) -> pd.DataFrame:
    rows = np.flatnonzero(matrix.valid & (matrix.instrument == 0))
    places = [matrix.names.index(name) for name in NAMES]
    short = [name.removeprefix("regime_") for name in NAMES]
    values = matrix.values[rows][:, places]  # noqa: PD011 - no pandas frame
    return pd.DataFrame(values, columns=short, index=rows)


def reference(close: NDArray[np.float64], first_slot: int) -> pd.DataFrame:
    """Return the statistics by pandas, row by row of the bars."""
    log = pd.Series(np.log(close))
    change, longer = log.diff(), log.diff(HORIZON)
    volatility = np.sqrt((change**2).rolling(RECENT).mean())
    share = np.full(len(log), math.nan)
    slots = first_slot + np.arange(len(log))
    read = np.flatnonzero(slots % SPACING == 0)
    for row in range(SAMPLES * SPACING + RECENT, len(log)):
        last = volatility[read[read <= row][-SAMPLES:]]
        share[row] = float((last < volatility[row]).mean())
    long_variance = (longer**2).rolling(WINDOW - HORIZON + 1).mean() / HORIZON
    return pd.DataFrame(
        {
            "efficiency": (log - log.shift(PATH)).abs() / change.abs().rolling(PATH).sum(),
            "variance_ratio": long_variance / (change**2).rolling(WINDOW).mean(),
            "volatility_percentile": share,
        }
    )


def test_every_statistic_matches_a_literal_reference() -> None:
    panel = Market(31, 1_500).panel()
    found = regimes(panel)
    expected = reference(panel.bars[0].close, FIRST_SLOT).loc[found.index]
    assert len(found) == 1_500 - WARMUP_SLOTS
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, err_msg=name)
    assert found["volatility_percentile"].nunique() > 30


def test_a_straight_line_is_a_trend() -> None:
    found = regimes(panel_of(100.0 * 1.0001 ** np.arange(1_100)))
    np.testing.assert_allclose(found["efficiency"], 1.0, rtol=1e-9)
    np.testing.assert_allclose(found["variance_ratio"], HORIZON, rtol=1e-9)


def test_what_turns_back_at_once_is_mean_reverting() -> None:
    found = regimes(panel_of([100.0, 101.0] * 550))
    np.testing.assert_allclose(found["efficiency"], 0.0, atol=1e-12)
    np.testing.assert_allclose(found["variance_ratio"], 0.0, atol=1e-12)
    assert (found["regime"] == -1.0).all()


def test_a_trend_with_setbacks_after_a_random_walk_is_found_within_its_window() -> None:
    random = np.random.default_rng(3)
    walk = np.cumsum(random.normal(0.0, 1e-3, 1_100))
    trend = walk[-1] + np.cumsum(random.normal(1e-3, 1e-3, WINDOW))
    found = regimes(panel_of(100.0 * np.exp(np.concatenate([walk, trend]))))
    assert found["regime"].iloc[: 1_100 - WARMUP_SLOTS].mean() < 0.5
    assert (found["regime"].iloc[-100:] == 1.0).mean() > 0.9


def test_a_shock_is_not_called_mean_reverting() -> None:
    closes = [100.0, 100.1] * 550
    closes[-3:] = [103.0, 100.0, 103.0]
    found = regimes(panel_of(closes))
    assert found["volatility_percentile"].iloc[-1] == 1.0
    assert found["regime"].iloc[-5] == -1.0
    assert found["regime"].iloc[-1] == 0.0


@pytest.mark.parametrize(
    ("efficiency", "ratio", "share", "expected"),
    [
        (0.2, 1.0, 0.2, 1.0),
        (0.19, 1.0, 0.2, 0.0),
        (0.2, 0.99, 0.2, 0.0),
        (0.2, 1.0, 0.19, 0.0),
        (0.1, 0.8, 0.9, -1.0),
        (0.11, 0.8, 0.9, 0.0),
        (0.1, 0.81, 0.9, 0.0),
        (0.1, 0.8, 0.91, 0.0),
    ],
)
def test_each_threshold_decides(
    efficiency: float, ratio: float, share: float, expected: float
) -> None:
    assert regime.verdict(efficiency, ratio, share) == expected


def test_the_readings_stay_the_last_ones_in_order() -> None:
    random = np.random.default_rng(4)
    values = np.round(random.lognormal(0.0, 1.0, 300), 1).tolist()  # with equal ones
    f = [0.0] * regime.FLOATS
    for number, value in enumerate(values):
        f[regime.VOLATILITY] = value
        regime.read_volatility(f, number * SPACING)
        kept = ([0.0] * SAMPLES + values[: number + 1])[-SAMPLES:]
        assert f[regime.SORTED : regime.SORTED + SAMPLES] == sorted(kept)
        f[regime.VOLATILITY] = values[number // 2]
        below = sum(other < values[number // 2] for other in kept)
        assert regime.percentile(f) == below / SAMPLES


def test_shares_of_a_random_walk_are_as_documented() -> None:
    walk = np.cumsum(np.random.default_rng(5).normal(0.0, 1e-3, 30_000))
    shares = regimes(panel_of(100.0 * np.exp(walk)))["regime"].value_counts(normalize=True)
    assert 0.07 < shares[1.0] < 0.13
    assert 0.07 < shares[-1.0] < 0.13


def test_shares_of_real_bars_are_as_documented(shared_data: Path) -> None:
    path = shared_data / "bars" / "perp" / "BTC_USDT_USDT-15m-futures.feather"
    frame = pd.read_feather(path).iloc[: 365 * 96]
    panel = panel_of(frame["close"].to_numpy(np.float64))
    columns = {name: frame[name].to_numpy(np.float64) for name in Ohlcv._fields}
    panel = replace(panel, bars=(replace(panel.bars[0], **columns),))
    shares = regimes(panel)["regime"].value_counts(normalize=True)
    assert shares[1.0] == pytest.approx(0.09, abs=0.01)
    assert shares[-1.0] == pytest.approx(0.22, abs=0.01)


@settings(max_examples=50, deadline=None)
@given(
    closes=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=150),
    gaps=st.lists(st.integers(1, 70), min_size=150, max_size=150),
)
def test_statistics_stay_in_their_ranges(closes: list[float], gaps: list[int]) -> None:
    f, k = [0.0] * regime.FLOATS, [NEVER] * regime.INTS
    row, bars = [0.0] * 4, [[0.0] * 5, [0.0] * 5]
    slot = FIRST_SLOT
    for close, gap in zip(closes, gaps, strict=False):
        slot += gap
        bars[0] = [close] * 4 + [1.0]
        regime.step(slot, INTERVAL, [1], bars, [f], [k], [0], [row], [0], [True])
        efficiency, ratio, share, state = row
        assert math.isnan(efficiency) or 0.0 <= efficiency <= 1.0
        assert math.isnan(ratio) or ratio >= 0.0
        assert math.isnan(share) or 0.0 <= share <= 1.0
        assert math.isnan(state) or state in (-1.0, 0.0, 1.0)


def test_a_regime_has_a_name() -> None:
    names = [regime_name(code) for code in (1.0, 0.0, -1.0, math.nan)]
    assert names == ["trend", "neutral", "mean_reverting", ""]
    with pytest.raises(ValueError, match=r"regime must be -1, 0, 1 or NaN, was 0\.5"):
        regime_name(0.5)
