"""How sure a probability is, and from where on it pays: on rows whose truth is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import DataError, IntegrityError
from research.calibrators import VennAbersCalibration
from research.guidance import (
    Guidance,
    HeldOutRows,
    ThresholdConfig,
    calibration_band,
    net_trades,
    sweep,
)

BAR = 900_000_000_000


def rows(
    n_rows: int = 4_000, seed: int = 0, horizon: int = 1, edge: float = 1.0, **other: Any
) -> HeldOutRows:
    """Return rows of two instruments whose probabilities are true, or too bold for `edge` < 1."""
    random = np.random.default_rng(seed)
    said = random.uniform(0.35, 0.65, n_rows)
    true = 0.5 + edge * (said - 0.5)
    up = random.uniform(size=n_rows) < true
    half = n_rows // 2
    slots = np.concatenate([np.arange(half), np.arange(n_rows - half)])
    ts_init = (slots + 1) * BAR
    parts: dict[str, Any] = {
        "prob_up": said,
        "value": up.astype(float),
        "weight": np.ones(n_rows),
        "forward_return": np.where(up, 0.004, -0.004),
        "ts_init": ts_init,
        "ts_end": ts_init + horizon * BAR,
        "instrument": np.repeat([0, 1], [half, n_rows - half]),
    }
    return HeldOutRows(**(parts | other))


def literal_trades(held: HeldOutRows, threshold: float, cost_bps: float) -> list[float]:
    """Walk over the rows one by one."""
    found = []
    for code in sorted(set(held.instrument.tolist())):
        free_from = -1
        for row in np.flatnonzero(held.instrument == code).tolist():
            p, r = held.prob_up[row], held.forward_return[row]
            side = 1 if p >= threshold else -1 if 1.0 - p >= threshold else 0
            if side and held.ts_init[row] >= free_from and not math.isnan(r):
                found.append(side * math.expm1(r) - cost_bps / 10_000.0)
                free_from = held.ts_end[row]
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    horizon=st.integers(1, 20),
    threshold=st.floats(0.5, 0.66),
    cost=st.floats(0.0, 50.0),
)
def test_trades_are_those_of_a_walk_over_the_rows(
    seed: int, horizon: int, threshold: float, cost: float
) -> None:
    held = rows(300, seed, horizon)
    held.forward_return[::17] = np.nan
    held.prob_up[::13] = np.nan
    found = net_trades(held, threshold, cost)
    np.testing.assert_allclose(found, literal_trades(held, threshold, cost), rtol=1e-12)


def test_what_costs_more_than_it_brings_is_not_traded() -> None:
    held = rows(20_000)
    # An edge of 2p - 1 times 40 basis points pays 8 from p = 0.6 on.
    found = sweep(held, ThresholdConfig(cost_bps=8.0))
    assert 0.58 <= found <= 0.63
    assert sweep(held, ThresholdConfig(cost_bps=1.0)) < 0.54
    assert math.isnan(sweep(held, ThresholdConfig(cost_bps=20.0)))
    assert math.isnan(sweep(rows(20_000, edge=0.0), ThresholdConfig(cost_bps=1.0)))


def test_a_threshold_with_few_trades_is_not_judged() -> None:
    held = rows(60)
    assert math.isnan(sweep(held, ThresholdConfig(cost_bps=0.0, min_trades=1_000)))


def test_no_cost_no_threshold() -> None:
    assert math.isnan(Guidance.of(rows(), ThresholdConfig()).entry_threshold)


def test_both_sides_count_alike() -> None:
    held = rows(6_000, seed=3)
    mirrored = rows(
        6_000,
        seed=3,
        prob_up=1.0 - held.prob_up,
        value=1.0 - held.value,
        forward_return=np.log(2.0 - np.exp(held.forward_return)),
    )
    config = ThresholdConfig(cost_bps=5.0)
    assert sweep(held, config) == sweep(mirrored, config)


@pytest.mark.parametrize("edge", [1.0, 0.3])
def test_what_happens_lies_in_the_interval(edge: float) -> None:
    guidance = Guidance.of(rows(40_000, edge=edge), ThresholdConfig())
    said = np.array([0.38, 0.45, 0.5, 0.55, 0.62])
    low, high = guidance.interval(said)
    true = 0.5 + edge * (said - 0.5)
    assert ((low <= true + 0.01) & (true - 0.01 <= high)).all()
    assert ((low < said) & (said < high)).all()


def test_overlapping_labels_make_the_interval_wider() -> None:
    alone, shared = rows(), rows(weight=np.full(4_000, 1.0 / 16.0))
    assert calibration_band(shared)[1].mean() > 2.0 * calibration_band(alone)[1].mean()


def test_without_answers_nothing_is_known() -> None:
    guidance = Guidance.of(rows(100, prob_up=np.full(100, np.nan)), ThresholdConfig(cost_bps=1.0))
    low, high = guidance.interval(np.array([0.6]))
    assert np.isnan([low[0], high[0], guidance.entry_threshold]).all()


@pytest.mark.parametrize("edge", [1.0, 0.3])
def test_venn_abers_bounds_take_the_place_of_the_band(edge: float) -> None:
    held = rows(40_000, edge=edge)
    held.value[::11] = np.nan
    held.prob_up[::13] = np.nan
    guidance = Guidance.of(held, ThresholdConfig(), bounds=True)
    known = ~np.isnan(held.prob_up) & ~np.isnan(held.value)
    reference = VennAbersCalibration.fit(held.prob_up[known], held.value[known])
    said = np.array([0.38, 0.45, 0.5, 0.55, 0.62, np.nan])
    low, high = guidance.interval(said)
    lower, upper = reference.bounds(said)
    np.testing.assert_array_equal(low, np.minimum(lower, said))
    np.testing.assert_array_equal(high, np.maximum(upper, said))
    true = 0.5 + edge * (said - 0.5)
    assert ((low[:5] <= true[:5] + 0.03) & (true[:5] - 0.03 <= high[:5])).all()
    band = Guidance.of(held, ThresholdConfig()).interval(said)
    assert (band[0][:5] != low[:5]).all()
    one = [guidance.interval(said[at : at + 1]) for at in range(len(said))]
    np.testing.assert_array_equal(np.array(one)[:, :, 0].T, [low, high])


def test_bounds_need_rows() -> None:
    with pytest.raises(DataError, match="at least 50 out-of-fold rows, had 40"):
        Guidance.of(rows(40), ThresholdConfig(), bounds=True)


@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize("cost", [None, 3.0])
def test_it_survives_json(cost: float | None, bounds: bool) -> None:
    guidance = Guidance.of(rows(), ThresholdConfig(cost_bps=cost), bounds=bounds)
    assert ("bounds" in guidance.to_json()) is bounds
    again = Guidance.from_json(guidance.to_json())
    assert again.to_json() == guidance.to_json()
    assert again.centres == guidance.centres
    said = np.linspace(0.3, 0.7, 30)
    np.testing.assert_array_equal(again.interval(said), guidance.interval(said))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"centres": [0.5], "half_widths": [], "entry_threshold": null}']
)
def test_damaged_json_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="guidance of a bundle must"):
        Guidance.from_json(text)


def test_candidates_must_ascend() -> None:
    with pytest.raises(ValueError, match=r"candidates must ascend within \[0.5, 1\)"):
        ThresholdConfig(candidates=(0.6, 0.55))
