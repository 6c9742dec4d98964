"""Null markets: valid bars, what is kept is kept, and nothing that was planted can be foretold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.arrays import BarArrays
from catalog.errors import DataError
from catalog.timestamps import NS_PER_MINUTE
from research.features import compute_features
from research.null_test import (
    NullConfig,
    NullKind,
    block_order,
    null_panel,
    p_value,
    phase_randomised,
)
from research.panel import Panel
from tests.research.markets import BTC, ETH, FULL, INSTRUMENTS, SOL, Market, furnished

KINDS: tuple[NullKind, ...] = ("block_shuffle", "random_sign", "phase")
QUARTER = 15 * NS_PER_MINUTE


def log_returns(bars: BarArrays, start: float | None = None) -> np.ndarray:
    first = bars.open[:1] if start is None else [start]
    return np.diff(np.log(np.concatenate([first, bars.close])))


def planted(seed: int = 0, n: int = 2_000) -> Panel:
    """Return two instruments: the first has momentum and leads the second; volatility clusters."""
    random = np.random.default_rng(seed)
    level = np.zeros(n)
    shock = random.normal(0.0, 0.3, n)
    for i in range(1, n):
        level[i] = 0.95 * level[i - 1] + shock[i]
    noise = random.normal(0.0, 0.002, (n, 2)) * np.exp(level / 2.0)[:, None]
    returns = noise.copy()
    for i in range(1, n):
        returns[i, 0] += 0.25 * returns[i - 1, 0]
        returns[i, 1] += 0.4 * returns[i - 1, 0]
    bars = []
    for i, name in enumerate((BTC, ETH)):
        close = 100.0 * np.exp(np.cumsum(returns[:, i] + 1e-4))
        first = np.concatenate([[100.0], close[:-1]])
        high, low = np.maximum(first, close) * 1.001, np.minimum(first, close) * 0.998
        ts = (np.arange(n) + 1) * QUARTER
        bars.append(BarArrays(name, QUARTER, ts, first, high, low, close, np.exp(level)))
    return Panel(QUARTER, tuple(bars), {}, "planted", True)


def edges(panel: Panel) -> tuple[float, float, float]:
    """Return momentum of the first, its lead over the second, clustering of volatility."""
    one, two = (log_returns(bars) for bars in panel.bars)
    size = np.abs(one - one.mean())
    pairs = ((one[:-1], one[1:]), (one[:-1], two[1:]), (size[:-1], size[1:]))
    momentum, lead, clusters = (float(np.corrcoef(a, b)[0, 1]) for a, b in pairs)
    return momentum, lead, clusters


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), block=st.sampled_from([1, 7, 96]))
def test_bars_are_valid_and_each_is_there_once(kind: NullKind, seed: int, block: int) -> None:
    panel = Market(seed=seed % 50, slots=300, missing=0.05, gap=(120, 40)).panel()
    found = null_panel(panel, NullConfig(kind=kind, block_bars=block, seed=seed))
    slots = np.unique(np.concatenate([bars.ts_init for bars in panel.bars]))
    for old, new in zip(panel.bars, found.bars, strict=True):
        assert len(new) == len(old)
        assert np.isin(new.ts_init, slots).all()
        assert (np.diff(new.ts_init) > 0).all()
        assert (new.high >= np.maximum(new.open, new.close)).all()
        assert (new.low <= np.minimum(new.open, new.close)).all()
        assert (new.low > 0.0).all()
        before, after = log_returns(old), log_returns(new, old.open[0])
        if kind == "random_sign":
            assert new.ts_init.tolist() == old.ts_init.tolist()
            assert new.volume.tolist() == old.volume.tolist()
            middle = before.mean()
            np.testing.assert_allclose(np.abs(after - middle), np.abs(before - middle), atol=1e-12)
            continue
        np.testing.assert_allclose(np.sort(after), np.sort(before), atol=1e-12)
        assert np.sort(new.volume).tolist() == np.sort(old.volume).tolist()
        # Each volume with its own bar's return.
        assert after @ new.volume == pytest.approx(before @ old.volume, abs=1e-9)
        assert new.close[-1] == pytest.approx(old.close[-1], rel=1e-9)


@pytest.mark.parametrize("block", [1, 10])
def test_a_shuffle_keeps_what_is_between_instruments_and_inside_blocks(block: int) -> None:
    panel = Market(seed=4, slots=400).panel()
    found = null_panel(panel, NullConfig(block_bars=block, seed=1))
    old, new = (
        np.stack(
            [
                log_returns(bars, was.open[0])
                for bars, was in zip(one.bars, panel.bars, strict=True)
            ],
            axis=1,
        )
        for one in (panel, found)
    )
    np.testing.assert_allclose(np.corrcoef(new.T), np.corrcoef(old.T), atol=1e-12)
    # Where each new row was: rows are distinct.
    from_row = [int(np.abs(old - row).sum(axis=1).argmin()) for row in new]
    assert sorted(from_row) == list(range(400))
    broken = np.sum(np.diff(from_row) != 1)
    assert broken <= 400 // block + 1
    assert broken > 0.8 * 400 // block


@pytest.mark.parametrize("n", [400, 401])
def test_phases_are_new_and_amplitudes_are_not(n: int) -> None:
    values = np.random.default_rng(2).standard_t(3, (n, 3)).cumsum(axis=0) + 5.0
    found = phase_randomised(values, np.random.default_rng(9))
    old, new = np.fft.rfft(values, axis=0), np.fft.rfft(found, axis=0)
    np.testing.assert_allclose(np.abs(new), np.abs(old), rtol=1e-8)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        np.testing.assert_allclose(
            new[:, a] * new[:, b].conj(), old[:, a] * old[:, b].conj(), rtol=1e-7
        )
    np.testing.assert_allclose(found.mean(axis=0), values.mean(axis=0))
    np.testing.assert_allclose(np.corrcoef(found.T), np.corrcoef(values.T), atol=1e-9)
    assert np.abs(found - values).max() > values.std()


@pytest.mark.parametrize("kind", ["block_shuffle", "random_sign"])
def test_nothing_that_was_planted_can_be_foretold(kind: NullKind) -> None:
    panel = planted()
    observed = edges(panel)
    assert min(observed) > 0.15
    runs = np.array([edges(null_panel(panel, NullConfig(kind=kind, seed=s))) for s in range(60)])
    # Volatility clusters, so that the noise of a correlation is more than 1 / sqrt(n).
    error = runs[:, :2].std(axis=0, ddof=1) / np.sqrt(60)
    assert (np.abs(runs[:, :2].mean(axis=0)) < 4.0 * error + 1e-3).all()
    assert [p_value(observed[i], runs[:, i]) for i in (0, 1)] == [1 / 61, 1 / 61]
    if kind == "random_sign":
        np.testing.assert_allclose(runs[:, 2], observed[2], atol=0.01)
    else:
        assert np.abs(runs[:, 2]).max() < 0.5 * observed[2]


def test_blocks_keep_what_can_be_foretold_inside_them() -> None:
    found = edges(null_panel(planted(), NullConfig(block_bars=500, seed=3)))
    np.testing.assert_allclose(found, edges(planted()), atol=0.05)


def test_new_phases_keep_what_is_linear_and_nothing_else() -> None:
    panel = planted()
    observed = edges(panel)
    runs = np.array([edges(null_panel(panel, NullConfig(kind="phase", seed=s))) for s in range(20)])
    # The margin is that of putting ranks in place of returns with clusters.
    np.testing.assert_allclose(runs[:, :2].mean(axis=0), observed[:2], atol=0.08)
    assert np.abs(runs[:, 2]).max() < 0.6 * observed[2]


def test_the_drift_stays_when_directions_go() -> None:
    panel = planted()
    ends = [
        np.log(null_panel(panel, NullConfig(kind="random_sign", seed=s)).bars[0].close[-1] / 100.0)
        for s in range(200)
    ]
    expected = np.log(panel.bars[0].close[-1] / 100.0)
    assert np.mean(ends) == pytest.approx(expected, abs=4.0 * np.std(ends) / np.sqrt(200))


@pytest.mark.parametrize("kind", KINDS)
def test_bars_stay_on_their_side_of_a_listing(kind: NullKind) -> None:
    panel = Market(seed=1, slots=400).panel()
    late = panel.bars[2].ts_init[150]
    bars = (*panel.bars[:2], panel.bars[2].between(int(late), None))
    panel = replace(panel, bars=bars)
    found = null_panel(panel, NullConfig(kind=kind, seed=5))
    assert found.bars[2].ts_init.tolist() == bars[2].ts_init.tolist()
    cut = np.searchsorted(bars[0].ts_init, late, side="right")
    sizes = [np.sort(np.abs(one.volume[:cut])) for one in (bars[0], found.bars[0])]
    np.testing.assert_array_equal(*sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_flow_and_minutes_move_and_turn_with_their_bars(kind: NullKind) -> None:
    panel = furnished(Market(seed=3, slots=200).panel(), late=False)
    found = null_panel(panel, NullConfig(kind=kind, seed=2))
    for name, old, new in zip(INSTRUMENTS, panel.bars, found.bars, strict=True):
        flow, minutes = found.flow[name], found.minutes[name]
        assert flow.ts_init.tolist() == new.ts_init.tolist()
        assert (np.diff(minutes.ts_init) > 0).all()
        assert len(minutes) == len(panel.minutes[name])
        share = flow.taker_buy_quote_volume / np.where(flow.quote_volume > 0, flow.quote_volume, 1)
        assert ((share >= 0.0) & (share <= 1.0)).all()
        np.testing.assert_allclose(flow.quote_volume, new.volume * new.close, atol=1e-9)
        ends = [
            int(np.searchsorted(one.ts_init, bars.ts_init[50]))
            for one, bars in ((panel.minutes[name], old), (minutes, new))
        ]
        assert minutes.ts_init[ends[1]] == new.ts_init[50]
        drift = abs(float(log_returns(old).mean()))
        last = np.searchsorted(minutes.ts_init, new.ts_init, side="right") - 1
        own = minutes.ts_init[last] == new.ts_init
        off = np.abs(np.log(minutes.close[last][own] / new.close[own]))
        old_last = np.searchsorted(panel.minutes[name].ts_init, old.ts_init, side="right") - 1
        old_own = panel.minutes[name].ts_init[old_last] == old.ts_init
        old_off = np.abs(np.log(panel.minutes[name].close[old_last][old_own] / old.close[old_own]))
        assert np.sort(off)[-1] <= np.sort(old_off)[-1] + 2.0 * drift + 1e-9
    matrix = compute_features(found, FULL)
    assert len(matrix.ts_init) == sum(len(bars) for bars in found.bars)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides(kind: NullKind) -> None:
    panel = Market(seed=2, slots=200).panel()
    one, same, other = (null_panel(panel, NullConfig(kind=kind, seed=seed)) for seed in (1, 1, 2))
    assert one.bars[0].close.tolist() == same.bars[0].close.tolist()
    assert one.bars[0].close.tolist() != other.bars[0].close.tolist()
    assert one.synthetic
    assert one.data_hash == same.data_hash != other.data_hash
    assert one.data_hash.startswith("market 2#null:")


def test_prices_on_the_grid_stay_valid() -> None:
    panel = Market(seed=6, slots=300).panel()
    decimals = {BTC: 2, ETH: 1, SOL: 3}
    found = null_panel(panel, NullConfig(kind="random_sign", seed=1), price_decimals=decimals)
    for bars in found.bars:
        scale = 10.0 ** decimals[bars.instrument_id]
        for column in (bars.open, bars.high, bars.low, bars.close):
            np.testing.assert_allclose(column * scale, np.rint(column * scale), atol=1e-6)
        assert (bars.high >= np.maximum(bars.open, bars.close)).all()
        assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    with pytest.raises(DataError, match=f"price_decimals must name every instrument, lacks {ETH}"):
        null_panel(panel, NullConfig(), price_decimals={BTC: 2})
    with pytest.raises(DataError, match="must stay positive with -3 decimals, fell to 0"):
        null_panel(panel, NullConfig(), price_decimals=dict.fromkeys(decimals, -3))


def test_prices_must_be_positive() -> None:
    panel = Market(seed=6, slots=30).panel()
    low = panel.bars[0].low.copy()
    low[3] = 0.0
    panel = replace(panel, bars=(replace(panel.bars[0], low=low), *panel.bars[1:]))
    with pytest.raises(DataError, match=f"prices of {BTC} must be positive"):
        null_panel(panel, NullConfig())


@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 1000))
def test_blocks_hold_every_row_once(n: int, block: int, seed: int) -> None:
    order = block_order(n, block, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(n))


def test_the_p_value_counts_the_result_itself() -> None:
    assert p_value(2.0, [0.0, 1.0, 3.0]) == 0.5
    assert p_value(9.0, np.zeros(99)) == 0.01
    assert p_value(0.0, [0.0]) == 1.0
    with pytest.raises(DataError, match="at least one run"):
        p_value(1.0, [])
    with pytest.raises(DataError, match="results must be finite, one was nan"):
        p_value(1.0, [0.0, np.nan])
    with pytest.raises(DataError, match="results must be finite, one was inf"):
        p_value(np.inf, [0.0])


def test_the_p_value_is_small_as_often_as_it_says() -> None:
    values = np.random.default_rng(1).standard_normal((2_000, 20))
    found = np.array([p_value(row[0], row[1:]) for row in values])
    for level in (0.05, 0.25, 0.5):
        assert np.mean(found <= level + 1e-12) == pytest.approx(level, abs=0.04)


def test_a_bar_that_turns_shows_its_low_as_its_high_and_its_buyers_as_sellers() -> None:
    panel = furnished(Market(seed=8, slots=300).panel(), late=False)
    found = null_panel(panel, NullConfig(kind="random_sign", seed=4))
    for name, old, new in zip(INSTRUMENTS, panel.bars, found.bars, strict=True):
        before = np.log(np.stack([old.high, old.low])[:, 1:] / old.close[:-1])
        after = np.log(np.stack([new.high, new.low])[:, 1:] / new.close[:-1])
        drift = abs(float(log_returns(old).mean()))
        same = np.abs(after - before).max(axis=0) < 1e-12
        turned = np.abs(after + before[::-1]).max(axis=0) <= 2.0 * drift + 1e-12
        assert (same | turned).all()
        assert 100 < np.sum(~same) < 200
        flows = panel.flow[name], found.flow[name]
        known = flows[0].quote_volume[1:] > 0.0
        was, share = (
            one.taker_buy_quote_volume[1:][known] / one.quote_volume[1:][known] for one in flows
        )
        np.testing.assert_allclose(share, np.where(same[known], was, 1.0 - was), atol=1e-9)


def test_equal_returns_do_not_remember_their_order() -> None:
    panel = Market(seed=8, slots=500, still=True).panel()
    bars = tuple(replace(one, volume=np.arange(500.0)) for one in panel.bars)
    found = null_panel(replace(panel, bars=bars), NullConfig(kind="phase", seed=1))
    volume = found.bars[0].volume
    assert abs(np.corrcoef(volume[:-1], volume[1:])[0, 1]) < 0.2
