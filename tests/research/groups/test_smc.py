from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from catalog.arrays import BarArrays
from research import kernels
from research.feature_table import Feature
from research.features import FeatureConfig, FeatureMatrix, compute_features, feature_table
from research.groups import regime, smc, smc_structure
from research.lookahead import audit_features, choose_cuts
from research.panel import Panel
from tests.research.groups.reference_smc import reference
from tests.research.markets import COLUMNS, Market, since, stream_rows

BOTH = FeatureConfig(funding=False, instrument_code=False, smc=True, regime=True)
SMC = [feature.name for feature in smc.FEATURES]
REGIME = [feature.name for feature in regime.features(())]


def one(panel: Panel) -> Panel:
    """Return a panel of the first instrument alone."""
    return replace(panel, bars=panel.bars[:1], funding={})


def columns(matrix: FeatureMatrix, names: list[str]) -> NDArray[np.float64]:
    """Return some columns of the valid rows."""
    places = [matrix.names.index(name) for name in names]
    return np.ascontiguousarray(matrix.values[matrix.valid][:, places])


def with_prices(panel: Panel, prices: dict[str, NDArray[np.float64]]) -> Panel:
    return replace(panel, bars=(replace(panel.bars[0], **prices),))


# ---------------------------------------------------------------------------------------------
# What the table says.


def test_there_are_sixteen_features_of_smart_money_and_four_of_the_regime() -> None:
    assert len(SMC) == smc.COLUMNS == 16
    assert all(name.startswith("smc_") for name in SMC)
    assert REGIME == [
        "regime_efficiency",
        "regime_variance_ratio",
        "regime_volatility_percentile",
        "regime",
    ]
    names = [feature.name for feature in feature_table(BOTH)]
    assert set(SMC + REGIME) <= set(names)


def test_no_memory_is_longer_than_the_warm_up() -> None:
    assert smc_structure.MEMORY <= kernels.WARMUP_SLOTS
    assert regime.MEMORY <= kernels.WARMUP_SLOTS


def test_every_feature_matches_a_literal_reference() -> None:
    panel = one(Market(11, 1_500).panel())
    matrix = compute_features(panel, BOTH)
    expected = reference(panel.bars[0])
    assert set(expected) == set(SMC)
    found = columns(matrix, SMC)
    assert len(found) == 1_500 - kernels.WARMUP_SLOTS
    for place, name in enumerate(SMC):
        wanted = expected[name].to_numpy(dtype=float)[matrix.valid]
        np.testing.assert_allclose(found[:, place], wanted, rtol=1e-8, atol=1e-8, err_msg=name)
        assert len(np.unique(found[:, place][np.isfinite(found[:, place])])) > 1, name


# ---------------------------------------------------------------------------------------------
# One kernel: batch, stream and plain Python agree to the last bit, wherever a stream starts.


def assert_stream_equals_batch(panel: Panel, batch: Panel, *, compiled: bool) -> int:
    matrix = compute_features(batch, BOTH)
    streamed = stream_rows(panel, BOTH, compiled=compiled)
    compared = 0
    for row in np.flatnonzero(matrix.valid):
        key = (matrix.instruments[matrix.instrument[row]], int(matrix.ts_init[row]))
        if key in streamed:
            assert streamed[key].tobytes() == matrix.values[row].tobytes(), key
            compared += 1
    assert compared == len(streamed)
    return compared


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.0, 0.02, 0.3]),
    gap=st.one_of(st.none(), st.tuples(st.integers(0, 1_300), st.integers(1, 200))),
    offset=st.integers(1, 400),
)
def test_a_stream_started_anywhere_equals_the_batch(
    seed: int, missing: float, gap: tuple[int, int] | None, offset: int
) -> None:
    panel = Market(seed, 1_600, missing=missing, gap=gap).panel()
    start = int(panel.bars[0].ts_init[0]) + offset * panel.interval_ns
    assert_stream_equals_batch(since(panel, start), panel, compiled=True)


@pytest.mark.parametrize("market", [Market(1), Market(2, missing=0.2), Market(3, gap=(990, 40))])
def test_plain_python_equals_compiled(market: Market) -> None:
    panel = market.panel()
    assert assert_stream_equals_batch(panel, panel, compiled=False) > 300


_CHANGED = 1_200  # after the warm-up, so that every feature is seen to move
_PASTS: list[tuple[FeatureMatrix, FeatureMatrix, NDArray[np.int64]]] = []


def two_pasts() -> tuple[FeatureMatrix, FeatureMatrix, NDArray[np.int64]]:
    """Return features of one present with two pasts, and the slots of their rows."""
    if not _PASTS:
        panel = Market(5, 2_600).panel()
        changed = []
        for bars in panel.bars:
            factor = np.ones(len(bars))
            factor[:_CHANGED] = np.random.default_rng(9).uniform(0.5, 2.0, _CHANGED)
            changed.append(
                replace(bars, **{name: getattr(bars, name) * factor for name in COLUMNS[1:]})
            )
        matrix = compute_features(panel, BOTH)
        other = compute_features(replace(panel, bars=tuple(changed)), BOTH)
        first = min(int(bars.ts_init[0]) for bars in panel.bars)
        _PASTS.append((matrix, other, (matrix.ts_init - first) // panel.interval_ns))
    return _PASTS[0]


@pytest.mark.parametrize(
    "feature", [*smc.FEATURES, *regime.features(())], ids=lambda feature: feature.name
)
def test_no_feature_remembers_more_than_its_table_says(feature: Feature) -> None:
    matrix, other, slots = two_pasts()
    column = matrix.names.index(feature.name)
    forgotten = matrix.valid & (slots >= _CHANGED + feature.warmup_bars)
    np.testing.assert_array_equal(matrix.values[forgotten, column], other.values[forgotten, column])
    assert not np.array_equal(matrix.values[:, column], other.values[:, column], equal_nan=True)


# ---------------------------------------------------------------------------------------------
# Nothing looks ahead.


def test_no_feature_moves_when_the_future_is_changed() -> None:
    panel = Market(7, 1_250, missing=0.01, gap=(1_100, 30)).panel()
    first = min(int(bars.ts_init[0]) for bars in panel.bars)
    after = first + 1_030 * panel.interval_ns
    cuts = choose_cuts(panel, after=after, count=2)
    assert audit_features(panel, BOTH, cuts) == []


# ---------------------------------------------------------------------------------------------
# What must not matter, and what must turn round.


def test_the_unit_of_prices_does_not_matter() -> None:
    panel = one(Market(12, 1_500).panel())
    bars = panel.bars[0]
    scaled = {name: 3.7 * getattr(bars, name) for name in COLUMNS[1:5]}
    matrix = compute_features(panel, BOTH)
    other = compute_features(with_prices(panel, scaled), BOTH)
    names = SMC + REGIME
    np.testing.assert_allclose(columns(matrix, names), columns(other, names), rtol=1e-7, atol=1e-9)


PARTNERS = {
    **{
        f"smc_{what}_above_distance": f"smc_{what}_below_distance"
        for what in ("block", "gap", "liquidity")
    },
    "smc_swing_high_distance": "smc_swing_low_distance",
}


def test_signs_flip_in_the_mirror() -> None:
    panel = one(Market(13, 1_500).panel())
    bars = panel.bars[0]
    mirrored = with_prices(panel, mirror_prices(bars))
    matrix, other = compute_features(panel, BOTH), compute_features(mirrored, BOTH)
    partners = PARTNERS | {below: above for above, below in PARTNERS.items()}
    for name in SMC + REGIME:
        sign = 1.0 if name.endswith("_age") or name in REGIME else -1.0
        found = columns(other, [name])
        expected = sign * columns(matrix, [partners.get(name, name)])
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9, err_msg=name)


def mirror_prices(bars: BarArrays) -> dict[str, NDArray[np.float64]]:
    """Return the prices of a market in which every rise is a fall."""
    return {
        "open": 1e4 / bars.open,
        "high": 1e4 / bars.low,
        "low": 1e4 / bars.high,
        "close": 1e4 / bars.close,
    }


def test_a_market_that_stands_still_has_no_features() -> None:
    matrix = compute_features(one(Market(1, 1_000, still=True).panel()), BOTH)
    assert matrix.valid.sum() == 40
    assert np.isnan(columns(matrix, SMC + REGIME)).all()
