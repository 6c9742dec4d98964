"""The numbers behind the critic's objections, against slow versions and known distributions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from catalog.arrays import BarArrays
from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, parse_time
from research.critic_evidence import (
    ParameterSweep,
    best_days,
    fold_drift,
    implied_information_ratio,
    tail_gap,
    threshold_sweep,
)
from research.estimates import Estimate
from research.metrics import BootstrapConfig
from research.performance import DailyEquity
from research.shuffled_signal import shuffled_trades

START = parse_time("2024-01-01")
NAMES = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")


def record(returns: np.ndarray) -> DailyEquity:
    ts = START + np.arange(len(returns) + 1, dtype=np.int64) * NS_PER_DAY
    return DailyEquity(ts, 1e5 * np.cumprod(np.append(1.0, 1.0 + returns)))


def test_best_days_of_a_normal_record_are_as_expected() -> None:
    random = np.random.default_rng(4)
    found = [best_days(record(0.002 + 0.01 * random.standard_normal(500)), 5) for _ in range(200)]
    # Per record the two share their mean and spread, so that the rest is the luck of five days.
    gaps = np.array([one.share - one.expected_share for one in found])
    assert abs(gaps.mean()) < 0.01
    assert 0.0 < found[0].without < math.expm1(500 * 0.004)


def test_best_days_of_one_lucky_day() -> None:
    returns = np.full(100, -0.001)
    returns[40] = 0.5
    found = best_days(record(returns), 1)
    assert found.share == pytest.approx(math.log(1.5) / (math.log(1.5) + 99 * math.log(0.999)))
    assert found.without == pytest.approx(0.999**99 - 1.0)
    assert found.share > 1.5 * found.expected_share


def predictions(n_days: int, said: float, right: float, seed: int = 1) -> pd.DataFrame:
    """Hourly predictions: nine in ten near one half and calibrated, one in ten says `said`."""
    random = np.random.default_rng(seed)
    n = 24 * n_days
    loud = np.arange(n) % 10 == 0
    up = random.random(n) < 0.5
    prob_up = np.where(loud, np.where(up, said, 1.0 - said), 0.5 + 0.01 * (random.random(n) - 0.5))
    hit = random.random(n) < np.where(loud, right, 0.5)
    likelier_up = prob_up > 0.5
    ts = START + np.arange(1, n + 1, dtype=np.int64) * NS_PER_HOUR
    label = np.where(hit, likelier_up, ~likelier_up).astype(np.float64)
    return pd.DataFrame({"ts_init": ts, "prob_up": prob_up, "label": label})


def test_the_tail_says_what_it_said() -> None:
    frame = predictions(400, said=0.7, right=0.6)
    found = tail_gap(frame, BootstrapConfig(samples=200))
    assert found is not None
    assert found.said == pytest.approx(0.7)
    assert found.right == pytest.approx(0.6, abs=0.05)
    assert found.gap.value == pytest.approx(found.said - found.right)
    assert 0.0 < found.gap.low < found.gap.value < found.gap.high
    honest = tail_gap(predictions(400, said=0.6, right=0.6), BootstrapConfig(samples=200))
    assert honest is not None
    assert honest.gap.low < 0.0 < honest.gap.high
    assert tail_gap(frame.assign(label=np.nan), BootstrapConfig()) is None


def folds(values: list[float], spread: float = 0.005) -> list[Estimate]:
    return [Estimate(value, value - 1.96 * spread, value + 1.96 * spread) for value in values]


def test_folds_that_only_differ_by_luck_do_not_drift() -> None:
    random = np.random.default_rng(2)
    found = [
        fold_drift(folds((0.55 + 0.005 * random.standard_normal(6)).tolist())) for _ in range(400)
    ]
    false = np.mean([min(one.p_equal, one.p_trend) < 0.05 for one in found])
    assert 0.02 < false < 0.09


def test_a_trend_and_a_jump_are_told_apart() -> None:
    fading = fold_drift(folds([0.57, 0.565, 0.56, 0.555, 0.55, 0.545]))
    assert fading.p_trend < 1e-3
    assert fading.slope == pytest.approx(-0.005)
    place = np.arange(6) - 2.5
    error = 0.005 / math.sqrt(float(np.sum(place**2)))  # of the slope of six equal weights
    assert fading.p_trend == pytest.approx(2.0 * 2.0 * norm.sf(0.005 / error), rel=0.01)
    jumping = fold_drift(folds([0.55, 0.56, 0.53, 0.53, 0.56, 0.55]))
    assert jumping.p_equal < 1e-3
    assert jumping.p_trend > 0.5
    unknown = fold_drift([Estimate(0.55, math.nan, math.nan)] * 6)
    assert math.isnan(unknown.p_equal)


def test_the_information_ratio_is_that_of_simulated_bets() -> None:
    """Two normal scores an AUC of 0.6 apart: correlation of score and side, times root of bets."""
    random = np.random.default_rng(1)
    side = random.integers(0, 2, 400_000)
    score = random.standard_normal(len(side)) + math.sqrt(2.0) * norm.ppf(0.6) * side
    expected = np.corrcoef(score, side)[0, 1] * math.sqrt(365 * 24)
    assert implied_information_ratio(0.6, NS_PER_HOUR) == pytest.approx(expected, rel=0.02)
    assert implied_information_ratio(0.5, NS_PER_HOUR) == 0.0
    assert implied_information_ratio(0.4, NS_PER_HOUR) == pytest.approx(-expected, rel=0.02)


def sweep(results: tuple[float, ...], chosen: float = 3.0) -> ParameterSweep:
    return ParameterSweep("depth", "Sharpe", (1.0, 2.0, 3.0, 4.0, 5.0)[: len(results)], results,
                          chosen)  # fmt: skip


def test_plateaus_spikes_and_edges() -> None:
    nan = math.nan
    assert sweep((0.9, 1.0, 1.1, 1.0, 0.8)).spike() is None
    spike = sweep((0.1, 0.0, 1.1, 0.2, 0.1)).spike()
    assert spike is not None
    assert spike.beside == pytest.approx(0.1)
    edge = sweep((3.0, 2.0, 1.0, -0.1, -0.2)).spike()
    assert edge is not None
    assert (edge.worst, edge.neighbours) == (-0.1, (1.0, 2.0, 4.0, 5.0))
    assert sweep((1.0, 1.0, -0.5, 1.0, 1.0)).spike() is None  # nothing was won
    assert sweep((nan, nan, 1.0, 0.1, nan)).spike() is None  # nothing is known
    assert sweep((1.0, 0.9, 0.8, 0.1, 0.0), chosen=1.0).spike() is None
    with pytest.raises(ConfigError, match="chosen must be one of the values of depth"):
        sweep((1.0, 1.0), chosen=7.0)
    with pytest.raises(ConfigError, match="values of depth must ascend with one result each"):
        ParameterSweep("depth", "Sharpe", (2.0, 1.0), (1.0, 1.0), 2.0)


def test_the_threshold_is_swept_as_a_slow_loop_would() -> None:
    random = np.random.default_rng(3)
    n, horizon, cost = 300, 4, 14.0
    ts = START + np.arange(1, n + 1, dtype=np.int64) * NS_PER_HOUR
    frame = pd.concat(
        [
            pd.DataFrame(
                {
                    "ts_init": ts,
                    "instrument_id": name,
                    "prob_up": np.clip(0.5 + 0.08 * random.standard_normal(n), 0.05, 0.95),
                    "forward_return": 0.01 * random.standard_normal(n),
                    "own": np.where(np.arange(n) < 150, 0.55, 0.6),
                }
            )
            for name in NAMES
        ]
    ).sample(frac=1.0, random_state=1)
    frame.iloc[::17, frame.columns.get_loc("own")] = np.nan
    found = threshold_sweep(frame, frame["own"].to_numpy(), horizon * NS_PER_HOUR, cost)
    assert found is not None
    assert found.chosen == 0.0
    for shift, result in zip(found.values, found.results, strict=True):
        total = 0.0
        for _, own in frame.sort_values("ts_init").groupby("instrument_id"):
            free = 0
            for row in own.itertuples():
                side = (row.prob_up >= row.own + shift) - (1 - row.prob_up >= row.own + shift)
                if side and row.ts_init >= free:
                    total += side * row.forward_return - cost / 1e4
                    free = row.ts_init + horizon * NS_PER_HOUR
        assert result == pytest.approx(total)
    none = np.full(len(frame), np.nan)
    assert threshold_sweep(frame, none, NS_PER_HOUR, cost) is None


def bars(n: int, seed: int = 1) -> list[BarArrays]:
    random = np.random.default_rng(seed)
    ts = START + np.arange(1, n + 1) * NS_PER_HOUR
    found = []
    for name in NAMES:
        opened = 100.0 * np.exp(np.cumsum(0.01 * random.standard_normal(n)))
        found.append(BarArrays(name, NS_PER_HOUR, ts, opened, opened, opened, opened, opened))
    return found


def trades(market: list[BarArrays], *, knows: bool, long_only: bool = False) -> pd.DataFrame:
    """Trades of three bars, every seven, a moment after opens; on the right side if it knows."""
    rows = []
    for one in market:
        for first in range(5, len(one) - 5, 7):
            move = one.open[first + 3] - one.open[first]
            side = 1 if long_only else (int(np.sign(move)) if knows else (1, -1)[first % 2])
            rows.append(
                {
                    "instrument_id": one.instrument_id,
                    "ts_opened": one.ts_init[first] - NS_PER_HOUR + 250_000_000,
                    "ts_closed": one.ts_init[first + 3] - NS_PER_HOUR + 250_000_000,
                    "side": side,
                    "quantity": 2.0,
                    "average_open": one.open[first],
                }
            )
    return pd.DataFrame(rows)


def test_trades_at_other_times_earn_what_a_slow_loop_says() -> None:
    market = bars(120)
    taken = trades(market, knows=True)
    found = shuffled_trades(taken, market, seed=5, rotations=10_000)
    assert len(found.drawn) == 119  # every rotation but the own one
    results = []
    for shift in range(120):
        total = 0.0
        for row in taken.itertuples():
            (one,) = (part for part in market if part.instrument_id == row.instrument_id)
            first = int(np.searchsorted(one.ts_init - NS_PER_HOUR, row.ts_opened) - 1)
            level = 1.0
            place = (first + shift) % 120
            for _ in range(3):
                after = place + 1
                if after == 120:  # the last open is known only by the first one's side
                    place = after = 0
                level *= one.open[after] / one.open[place]
                place = after
            total += row.side * row.quantity * row.average_open * (level - 1.0)
        results.append(total)
    assert found.observed == pytest.approx(results[0])
    np.testing.assert_allclose(np.sort(found.drawn), np.sort(results[1:]), atol=1e-9)


def test_timing_is_told_from_being_long() -> None:
    market = bars(600)
    rising = [
        replace(one, open=one.open * np.exp(0.01 * np.arange(len(one)))) for one in market
    ]  # fmt: skip
    known = shuffled_trades(trades(market, knows=True), market, seed=1)
    assert known.p == pytest.approx(1.0 / 501)
    assert shuffled_trades(trades(market, knows=False), market, seed=1).p > 0.05
    always = shuffled_trades(trades(rising, knows=False, long_only=True), rising, seed=1)
    assert always.observed > 0.0
    assert always.p > 0.05
    again = shuffled_trades(trades(market, knows=True), market, seed=1)
    np.testing.assert_array_equal(known.drawn, again.drawn)


def test_without_trades_or_bars_there_is_nothing_to_shuffle() -> None:
    market = bars(50)
    none = shuffled_trades(trades(market, knows=True).iloc[:0], market, seed=1)
    assert none.observed == 0.0
    assert math.isnan(none.p)
    assert none.as_dict() == {"observed": 0.0, "mean": None, "rotations": 0, "p": None}
