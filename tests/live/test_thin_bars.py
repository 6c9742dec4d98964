"""Bars in which hardly anything traded: their range triggers stops in replay and paper alike."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from catalog.errors import RunFailedError
from live.live_replay import run_live_replay
from live.parity import compare
from strategies import replay_data
from strategies.backtest import BacktestOutcome, ReplayInputs, run_backtest
from strategies.fusion import FusionPolicy
from strategies.stops import StopConfig
from tests.strategies import markets
from tests.strategies.settings import plain_execution

POLICY = FusionPolicy(
    entry_threshold=0.6,
    exit_threshold=0.5,
    position_frac=0.5,
    min_holding_bars=0,
    stop_loss_frac=0.02,
)
NAMES = (markets.BTC, markets.SOL)
STEP = {markets.BTC: 0.001, markets.SOL: 1.0}


def flat(price: float) -> tuple[float, float, float, float]:
    return (price,) * 4


def market(units: float, close: float = 100.0) -> ReplayInputs:
    """Return a long that a wick of its third bar stops, in which `units` steps were traded."""
    bars = []
    for name in NAMES:
        volumes = [1_000.0, 1_000.0, units * STEP[name], *[1_000.0] * 5]
        wick = (100.0, 103.0, 97.0, close)
        rows = [flat(100.0)] * 2 + [wick] + [flat(close)] * 5
        bars.append(markets.make_bars(rows, name, volumes=volumes))
    return markets.make_inputs(*bars)


def predictor() -> Any:
    return markets.make_predictor({0: {markets.BTC: 0.9, markets.SOL: 0.1}}, NAMES)


def replayed(inputs: ReplayInputs, **settings: Any) -> BacktestOutcome:
    return run_backtest(inputs, predictor(), POLICY, plain_execution(**settings))


@pytest.mark.parametrize("units", [0, 1, 2, 3, 4, 5])
def test_a_stop_inside_a_thin_bar_fills_at_its_trigger(units: float) -> None:
    out = replayed(market(units))
    stopped = out.fills[out.fills.reason == "stop_loss"]
    assert stopped.price.tolist() == [98.0, 102.0]
    assert set(stopped.ts_event) == {markets.close_time(2)}


@pytest.mark.parametrize("units", [0, 1])
def test_the_engine_alone_would_not_look_at_it(
    units: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_data, "range_records", lambda bars, instrument: [])
    with pytest.raises(RunFailedError, match="not protected by their stop"):
        replayed(market(units))


@pytest.mark.parametrize("units", [2, 3])
def test_the_close_of_a_thin_bar_is_the_last_price_where_the_next_bar_is_missing(
    units: int,
) -> None:
    # The stop that follows the high must be taken, though the bar's low is beyond it.
    rows = [flat(100.0)] * 3 + [(100.0, 103.0, 99.0, 102.9)] + [flat(102.9)] * 3
    volumes = [1_000.0] * 3 + [units * 0.01] + [1_000.0] * 3
    inputs = markets.make_inputs(markets.make_bars(rows, markets.SOL, missing=[4], volumes=volumes))
    stops = StopConfig(stop_vol_multiple=1.0, min_frac=0.02, max_frac=0.02, trailing=True)
    rules = POLICY.model_copy(
        update={"stop_loss_frac": None, "stops": stops, "min_holding_bars": 100}
    )

    def said() -> Any:
        return markets.make_predictor({0: {markets.SOL: 0.9}}, (markets.SOL,), volatility=0.001)

    out = run_backtest(inputs, said(), rules, plain_execution())
    assert set(out.orders[out.orders.type == "STOP_MARKET"].status) == {"CANCELED", "OPEN_AT_END"}
    compare(out, run_live_replay(inputs, said, rules, plain_execution())).require_identical()


def test_an_empty_bar_is_alike_in_paper_trading() -> None:
    inputs = market(0, close=97.5)
    paper = run_live_replay(inputs, predictor, POLICY, plain_execution())
    report = compare(replayed(inputs), paper)
    report.require_identical()
    assert report.compared["fills"] == 4


def test_a_settlement_at_the_end_of_an_empty_bar_finds_nothing_held() -> None:
    funding = {
        name: markets.make_funding({markets.START: 0.0, markets.close_time(2): 0.001}, name)
        for name in NAMES
    }
    bars = market(0).bars
    inputs = markets.make_inputs(*bars, funding=funding)
    out = replayed(inputs, funding="recorded")
    assert len(out.positions) == 2
    assert len(out.funding) == 0


def test_what_an_empty_bar_reaches_does_not_liquidate() -> None:
    # Only opens do. Twenty per cent down and back again, at five times equity, without a stop.
    rows = [flat(100.0)] * 2 + [(100.0, 100.0, 80.0, 100.0)] + [flat(100.0)] * 3
    volumes = [1_000.0, 1_000.0, 0.0, 1_000.0, 1_000.0, 1_000.0]
    inputs = markets.make_inputs(markets.make_bars(rows, volumes=volumes))
    bold = POLICY.model_copy(update={"stop_loss_frac": None, "position_frac": 5.0})
    execution = plain_execution(liquidation=True)
    out = run_backtest(inputs, markets.make_predictor({0: 0.9}), bold, execution)
    assert out.fills.reason.tolist() == ["enter_long"]


def test_a_bar_without_range_needs_no_help() -> None:
    quiet = markets.flat_bars(4, volumes=[0.0] * 4)
    assert replay_data.range_records(quiet, markets.make_inputs(quiet).instruments[0]) == []


def wild(seed: int) -> tuple[ReplayInputs, dict[int, dict[str, float]], FusionPolicy]:
    """Return two markets of which most bars are all but empty, and what is said of them."""
    draw = random.Random(seed)
    bars = []
    for name, price, decimals in zip(NAMES, (30_000.0, 100.0), (1, 3), strict=True):
        rows, volumes = [], []
        for _ in range(60):
            open_ = price * math.exp(draw.gauss(0, 0.004))
            price = open_ * math.exp(draw.gauss(0, 0.006))
            high = max(open_, price) * math.exp(abs(draw.gauss(0, 0.004)))
            low = min(open_, price) * math.exp(-abs(draw.gauss(0, 0.004)))
            rows.append(tuple(round(one, decimals) for one in (open_, high, low, price)))
            volumes.append(round(draw.choice([0, 1, 2, 3, 5, 1e6]) * STEP[name], 3))
        bars.append(markets.make_bars(rows, name, volumes=volumes))
    signals = {row: {name: draw.choice([0.1, 0.5, 0.9]) for name in NAMES} for row in range(59)}
    stops = StopConfig(
        stop_vol_multiple=1.0,
        target_vol_multiple=draw.choice([None, 1.5]),
        trailing=draw.random() < 0.5,
        min_frac=0.004,
    )
    return (
        markets.make_inputs(*bars),
        signals,
        POLICY.model_copy(update={"stop_loss_frac": None, "stops": stops, "position_frac": 0.3}),
    )


@pytest.mark.parametrize("seeds", [range(2, 4), pytest.param(range(4, 40), marks=pytest.mark.slow)])
def test_random_thin_markets_are_alike_in_replay_and_paper(seeds: range) -> None:
    reasons = set()
    for seed in seeds:
        inputs, signals, rules = wild(seed)

        def said(signals: dict[int, dict[str, float]] = signals) -> Any:
            return markets.make_predictor(signals, NAMES, volatility=0.005)

        execution = plain_execution()
        out = run_backtest(inputs, said(), rules, execution)
        compare(out, run_live_replay(inputs, said, rules, execution)).require_identical()
        reasons |= set(out.fills.reason)
    assert {"stop_loss", "take_profit", "trailing_stop"} <= reasons
