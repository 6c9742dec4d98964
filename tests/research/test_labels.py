from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.arrays import BarArrays
from catalog.timestamps import NS_PER_MINUTE
from research.labels import LabelConfig, average_uniqueness, compute_labels
from research.panel import Panel

INTERVAL = 15 * NS_PER_MINUTE


def panel_of(*series: tuple[list[int], list[float]]) -> Panel:
    bars = []
    for number, (slots, closes) in enumerate(series):
        close = np.array(closes, dtype=np.float64)
        ts_init = np.array(slots, dtype=np.int64) * INTERVAL
        bars.append(BarArrays(f"I{number}", INTERVAL, ts_init, close, close, close, close, close))
    return Panel(INTERVAL, tuple(bars), {}, "hash", False)


def test_sign_and_return_of_the_next_bar() -> None:
    labels = compute_labels(
        panel_of(([1, 2, 3, 4], [100.0, 110.0, 99.0, 99.0])), LabelConfig(horizon_bars=1)
    )
    np.testing.assert_array_equal(labels.value, [1.0, 0.0, np.nan, np.nan])
    np.testing.assert_allclose(labels.forward_return, [0.1, -0.1, 0.0, np.nan])
    np.testing.assert_array_equal(labels.ts_end, np.array([2, 3, 4, 5]) * INTERVAL)


def test_the_horizon_is_a_time_and_not_a_count_of_rows() -> None:
    # The bar at 4 is missing: 2 + 2 has no label, while 1 + 2 and 3 + 2 have theirs.
    labels = compute_labels(
        panel_of(([1, 2, 3, 5], [100.0, 100.0, 101.0, 99.0])), LabelConfig(horizon_bars=2)
    )
    np.testing.assert_array_equal(labels.value, [1.0, np.nan, 0.0, np.nan])


def test_rows_are_instrument_major_and_labels_do_not_run_over_the_border() -> None:
    labels = compute_labels(
        panel_of(([1, 2], [1.0, 2.0]), ([3, 4], [2.0, 1.0])), LabelConfig(horizon_bars=1)
    )
    np.testing.assert_array_equal(labels.value, [1.0, np.nan, 0.0, np.nan])


@pytest.mark.parametrize("horizon", [0, -1])
def test_horizon_must_be_positive(horizon: int) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        LabelConfig(horizon_bars=horizon)


def uniqueness_by_definition(slots: list[int], horizon: int) -> list[float]:
    """Count for each bar's length of time the spans over it; average their reciprocals."""
    covering = {
        moment: sum(1 for slot in slots if slot <= moment < slot + horizon)
        for moment in range(min(slots), max(slots) + horizon)
    }
    return [
        sum(1.0 / covering[moment] for moment in range(slot, slot + horizon)) / horizon
        for slot in slots
    ]


@given(
    slots=st.lists(st.integers(1, 60), min_size=1, max_size=40, unique=True).map(sorted),
    horizon=st.integers(1, 20),
)
def test_uniqueness_matches_its_definition(slots: list[int], horizon: int) -> None:
    found = average_uniqueness(np.array(slots) * INTERVAL, horizon * INTERVAL)
    np.testing.assert_allclose(found, uniqueness_by_definition(slots, horizon), rtol=1e-9)
    assert np.all((found > 0.0) & (found <= 1.0))


def test_uniqueness_of_overlapping_and_lonely_labels() -> None:
    # Lonely ones have it all; of two that share half of their spans each keeps 3/4.
    assert average_uniqueness(np.array([10, 20]), 5).tolist() == [1.0, 1.0]
    assert average_uniqueness(np.array([10, 11]), 2).tolist() == [0.75, 0.75]
    inner = average_uniqueness(np.arange(100), 4)[10:80]
    np.testing.assert_allclose(inner, 0.25)
    assert average_uniqueness(np.array([], dtype=np.int64), 5).tolist() == []


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    horizon=st.integers(1, 12),
    cut=st.integers(5, 55),
)
def test_only_the_last_horizon_may_change_with_the_future(
    seed: int, horizon: int, cut: int
) -> None:
    random = np.random.default_rng(seed)
    slots = np.flatnonzero(random.random(60) < 0.8) + 1
    closes = np.exp(random.normal(0.0, 0.01, len(slots)))
    whole = panel_of((slots.tolist(), closes.tolist()))
    config = LabelConfig(horizon_bars=horizon)
    full = compute_labels(whole, config)
    known = compute_labels(whole.truncated(cut * INTERVAL), config)
    sure = int(np.searchsorted(slots, cut - horizon, side="right"))
    for name in ("value", "forward_return", "ts_end", "weight"):
        np.testing.assert_array_equal(getattr(full, name)[:sure], getattr(known, name)[:sure])
