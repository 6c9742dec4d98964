"""What a signal is worth before it trades: against other libraries and slow literal versions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import spearmanr

from catalog.arrays import BarArrays
from catalog.errors import DataError
from catalog.timestamps import NS_PER_HOUR, parse_time
from research.metrics import BootstrapConfig
from research.signal_quality import forward_returns, signal_quality
from research.signal_results import SignalConfig, SignalQuality

START = parse_time("2024-01-01")
NAMES = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE", "SOLUSDT-PERP.BINANCE")
FEW = BootstrapConfig(samples=200, seed=3)


def market(n: int, seed: int = 1, names: tuple[str, ...] = NAMES) -> list[BarArrays]:
    """Hourly bars, each opening where the last one closed, of returns that nothing foretells."""
    random = np.random.default_rng(seed)
    ts = START + np.arange(1, n + 1) * NS_PER_HOUR
    found = []
    for number, name in enumerate(names):
        returns = 0.01 * (1 + number) * random.standard_normal(n)
        close = 100.0 * np.exp(np.cumsum(returns))
        opened = np.append(100.0, close[:-1])
        top, bottom = np.maximum(opened, close), np.minimum(opened, close)
        found.append(
            BarArrays(name, NS_PER_HOUR, ts, opened, top, bottom, close, np.ones(n))
        )  # fmt: skip
    return found


def signals(bars: list[BarArrays], strength: float, seed: int = 2) -> pd.DataFrame:
    """Return the next bar's return in noise: a signal that looks ahead, on purpose."""
    random = np.random.default_rng(seed)
    parts = []
    for one in bars:
        ahead = forward_returns(one, one.ts_init, horizon_bars=1)
        unit = np.nan_to_num(ahead / np.nanstd(ahead))
        value = strength * unit + random.standard_normal(len(one))
        parts.append(
            pd.DataFrame(
                {
                    "ts_init": one.ts_init,
                    "instrument_id": one.instrument_id,
                    "prob_up": 1.0 / (1.0 + np.exp(-value)),
                }
            )
        )
    return pd.concat(parts).sort_values("ts_init", kind="stable", ignore_index=True)


def measured(
    frame: pd.DataFrame, bars: list[BarArrays], horizon: int = 1, **settings_: Any
) -> SignalQuality:
    chosen = {"horizons_bars": (1, 2, 5), "delays_bars": (0, 1, 3), "bootstrap": FEW, **settings_}
    return signal_quality(frame, bars, SignalConfig(horizon_bars=horizon, **chosen))


def rows_of(quality: SignalQuality, table: str, scope: str) -> list[Any]:
    return [row for row in getattr(quality, table) if row.scope == scope]


def test_returns_begin_at_the_next_open_and_skip_nothing() -> None:
    (whole,) = market(40, names=NAMES[:1])
    kept = np.delete(np.arange(40), [7, 20, 21])
    bars = replace(
        whole, **{name: getattr(whole, name)[kept] for name in
                  ("ts_init", "open", "high", "low", "close", "volume")}
    )  # fmt: skip
    for horizon in (1, 3):
        for delay in (0, 2):
            found = forward_returns(bars, whole.ts_init, horizon_bars=horizon, delay_bars=delay)
            for row, value in enumerate(found):
                first, last = row + 1 + delay, row + 1 + delay + horizon
                if last >= 40 or {first, last} & {7, 20, 21}:
                    assert math.isnan(value)
                else:
                    assert value == pytest.approx(whole.open[last] / whole.open[first] - 1.0)


def test_nothing_known_at_the_signal_or_before_counts() -> None:
    (bars,) = market(60, names=NAMES[:1])
    row = 30
    other = replace(bars, open=bars.open.copy(), close=bars.close.copy())
    other.open[: row + 1] *= 1.5
    other.close[: row + 1] *= 0.5
    same = [forward_returns(one, bars.ts_init[row:], horizon_bars=4) for one in (bars, other)]
    np.testing.assert_array_equal(*same)


def test_coefficients_are_spearmans_and_pool_by_rows() -> None:
    bars = market(400)
    frame = signals(bars, 0.3)
    frame = frame.drop(index=frame.index[frame["instrument_id"] == NAMES[1]][:150])
    found = measured(frame, bars)
    for horizon in (1, 2, 5):
        expected, counts = [], []
        for one in bars:
            own = frame[frame["instrument_id"] == one.instrument_id]
            ahead = forward_returns(one, own["ts_init"].to_numpy(), horizon_bars=horizon)
            known = ~np.isnan(ahead)
            expected.append(spearmanr(own["prob_up"].to_numpy()[known], ahead[known]).statistic)
            counts.append(known.sum())
            (row,) = (r for r in rows_of(found, "information", one.instrument_id)
                      if r.horizon_bars == horizon)  # fmt: skip
            assert row.ic.value == pytest.approx(expected[-1], abs=1e-12)
            assert row.n == counts[-1]
            assert row.ic.low < row.ic.value < row.ic.high
        (pooled,) = (r for r in rows_of(found, "information", "pooled")
                     if r.horizon_bars == horizon)  # fmt: skip
        assert pooled.ic.value == pytest.approx(np.average(expected, weights=counts), abs=1e-12)


def test_the_cross_section_is_the_mean_of_each_times_rank_correlation() -> None:
    bars = market(120)
    frame = signals(bars, 0.5)
    frame.loc[frame.index[10], "prob_up"] = np.nan  # leaves two instruments: not an order
    frame["prob_up"] = frame["prob_up"].round(1)  # ties
    found = measured(frame, bars)
    returns = {
        one.instrument_id: pd.Series(
            forward_returns(one, one.ts_init, horizon_bars=1), index=one.ts_init
        )
        for one in bars
    }
    each = []
    for ts, part in frame.groupby("ts_init"):
        ahead = np.array([returns[name][ts] for name in part["instrument_id"]])
        value = part["prob_up"].to_numpy()
        known = ~(np.isnan(value) | np.isnan(ahead))
        if known.sum() == 3 and len(set(value[known])) > 1:
            each.append(spearmanr(value[known], ahead[known]).statistic)
    (row, *_) = rows_of(found, "information", "cross-section")
    assert row.n == len(each)
    assert row.ic.value == pytest.approx(np.mean(each), abs=1e-12)


def test_two_instruments_have_no_cross_section() -> None:
    bars = market(100, names=NAMES[:2])
    assert not rows_of(measured(signals(bars, 0.2), bars), "information", "cross-section")


def test_quantiles_and_their_spread_are_those_of_pandas() -> None:
    (bars,) = market(503, names=NAMES[:1])
    frame = signals([bars], 0.4)
    found = measured(frame, [bars], quantiles=4)
    ahead = 1e4 * forward_returns(bars, frame["ts_init"].to_numpy(), horizon_bars=1)
    known = ~np.isnan(ahead)
    bins = pd.qcut(frame["prob_up"][known].rank(method="first"), 4, labels=False)
    means = pd.Series(ahead[known]).groupby(bins.to_numpy()).mean()
    table = rows_of(found, "quantiles", NAMES[0])
    assert [row.quantile for row in table] == [1, 2, 3, 4]
    assert sum(row.n for row in table) == known.sum()
    assert max(abs(row.n - known.sum() / 4) for row in table) <= 1
    # A row at a border may go either way: pandas cuts by value, we by rank.
    np.testing.assert_allclose([row.mean_bps.value for row in table], means, atol=3.0)
    spread = rows_of(found, "spreads", NAMES[0])[0]
    assert spread.spread_bps.value == pytest.approx(
        table[-1].mean_bps.value - table[0].mean_bps.value
    )
    assert spread.monotony == pytest.approx(1.0)


def test_turnover_is_that_of_a_slow_count() -> None:
    bars = market(200, names=NAMES[:2])
    frame = signals(bars, 0.0)
    smooth = frame.groupby("instrument_id")["prob_up"].transform(lambda x: x.ewm(span=9).mean())
    frame["prob_up"] = smooth
    frame = frame.drop(index=frame.index[50:60])
    found = {row.lag_bars: row for row in rows_of(measured(frame, bars), "turnover", NAMES[0])}
    own = frame[frame["instrument_id"] == NAMES[0]].set_index("ts_init")["prob_up"]
    quantile = np.minimum((own.rank() - 0.5) / len(own) * 5 // 1, 4)
    for lag, row in found.items():
        gone = count = 0
        for ts in own.index[quantile == 4]:
            if ts - lag * NS_PER_HOUR in quantile.index:
                count += 1
                gone += quantile[ts - lag * NS_PER_HOUR] != 4
        assert row.top == pytest.approx(gone / count)
    assert found[1].autocorrelation > found[5].autocorrelation > -0.2
    constant = frame.assign(prob_up=0.5)
    still = measured_turnover(constant, bars)
    assert math.isnan(still.autocorrelation)


def measured_turnover(frame: pd.DataFrame, bars: list[BarArrays]) -> Any:
    return rows_of(measured(frame, bars), "turnover", "pooled")[0]


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), strength=st.floats(-0.5, 0.5))
def test_only_the_order_within_an_instrument_counts(seed: int, strength: float) -> None:
    bars = market(24 * 10, seed)
    frame = signals(bars, strength, seed)
    level = frame["instrument_id"].map(dict(zip(NAMES, (1.0, 5.0, -3.0), strict=True)))
    moved = frame.assign(prob_up=level + 7.0 * frame["prob_up"] ** 3)
    mixed = moved.sample(frac=1.0, random_state=seed)
    ours, theirs = measured(frame, bars), measured(mixed, bars)
    for scope in (*NAMES, "pooled"):
        assert rows_of(ours, "information", scope) == rows_of(theirs, "information", scope)
        assert rows_of(ours, "turnover", scope) == rows_of(theirs, "turnover", scope)
    turned = measured(frame.assign(prob_up=-frame["prob_up"]), bars)
    for one, other in zip(ours.information, turned.information, strict=True):
        assert one.ic.value == pytest.approx(-other.ic.value, abs=1e-12)
        assert one.p == pytest.approx(other.p, rel=1e-6, nan_ok=True)


def test_a_planted_signal_fades_with_its_delay() -> None:
    bars = market(24 * 60)
    frame = signals(bars, 0.4)
    found = measured(frame, bars)
    at_once, *late = rows_of(found, "delays", "pooled")
    assert at_once.ic.low > 0.25
    assert at_once.p_holm < 1e-6
    assert all(row.ic.low < 0.0 < row.ic.high for row in late)
    assert 0.4 < found.half_life_bars < 0.6
    assert found.information[0].ic.value > 0.0
    noise = measured(frame.assign(prob_up=np.random.default_rng(5).random(len(frame))), bars)
    assert all(row.p_holm > 0.01 for row in noise.information)
    lasting = replace(found, delays=tuple(row._replace(ic=at_once.ic) for row in found.delays))
    assert math.isinf(lasting.half_life_bars)
    reversed_ = measured(frame.assign(prob_up=-frame["prob_up"]), bars)
    assert math.isnan(reversed_.half_life_bars)


@pytest.mark.slow
def test_overlap_widens_the_interval_as_much_as_it_must() -> None:
    """A slow signal without worth, held for two days: 95 % of the intervals should hold zero."""
    hits = naive = claims = 0
    runs = 120
    for seed in range(runs):
        (bars,) = market(24 * 150, seed, NAMES[:1])
        random = np.random.default_rng(1_000 + seed)
        slow = pd.Series(random.standard_normal(len(bars))).ewm(span=60).mean().to_numpy()
        frame = pd.DataFrame({"ts_init": bars.ts_init, "instrument_id": NAMES[0], "prob_up": slow})
        found = measured(frame, [bars], 48, horizons_bars=(48,), delays_bars=(0,))
        row = rows_of(found, "information", NAMES[0])[0]
        hits += row.ic.low <= 0.0 <= row.ic.high
        naive += abs(row.ic.value) < 1.96 / math.sqrt(row.n)
        claims += row.p < 0.05
    assert hits >= 0.86 * runs
    assert claims <= 0.12 * runs
    assert naive <= 0.5 * runs  # what rows taken as independent would say


def test_months_add_up_to_the_pooled_coefficient() -> None:
    bars = market(24 * 70)
    found = measured(signals(bars, 0.2), bars)
    assert [row.month for row in found.months] == ["2024-01", "2024-02", "2024-03"]
    total = sum(row.n * row.ic for row in found.months) / sum(row.n for row in found.months)
    assert total == pytest.approx(rows_of(found, "information", "pooled")[0].ic.value)


def test_everything_is_there_as_json() -> None:
    import json

    bars = market(100)
    found = measured(signals(bars, 0.2), bars).to_json()
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["information"][0]["ic"].keys() == {"value", "low", "high"}


def test_what_cannot_be_measured_is_refused() -> None:
    bars = market(50)
    frame = signals(bars, 0.1)
    with pytest.raises(DataError, match=r"must have the columns \['mu'\]"):
        signal_quality(frame, bars, SignalConfig(horizon_bars=1), column="mu")
    with pytest.raises(DataError, match=r"every instrument of the signal must have bars, .*ETH"):
        measured(frame, bars[:1])
    with pytest.raises(DataError, match="1 are there twice"):
        measured(pd.concat([frame, frame.iloc[:1]]), bars)
    with pytest.raises(DataError, match="60 bars ahead, none of 150 has"):
        measured(frame, bars, 60)
    with pytest.raises(ValidationError, match="must ascend from 1 on"):
        SignalConfig(horizon_bars=1, horizons_bars=(0, 1))
    with pytest.raises(ValidationError, match="must ascend and begin with 0"):
        SignalConfig(horizon_bars=1, delays_bars=(1, 2))


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_no_interval_of_a_coefficient_goes_beyond_one(side: float) -> None:
    bars = market(24 * 4)
    frame = signals(bars, side * 10.0)
    rows = measured(frame, bars).information
    own = [row.ic for row in rows if row.horizon_bars == 1]
    assert all(side * one.value > 0.7 for one in own)
    assert max(max(abs(one.low), abs(one.high)) for one in own) == 1.0
    assert all(-1.0 <= one.low <= one.high <= 1.0 for one in own)


def test_one_day_leaves_intervals_open() -> None:
    bars = market(24)
    row = measured(signals(bars, 0.5), bars).information[0]
    assert math.isnan(row.ic.low)
    assert math.isnan(row.p)
    assert math.isfinite(row.ic.value)
