"""The measures of a comparison: against other code and literal arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from catalog.timestamps import NS_PER_HOUR
from research.performance import TradingSpan, trading_metrics
from research.trading_details import trading_details
from research.trading_measures import MEASURES, trading_measures
from tests.research.test_performance import BALANCE, START, simulate

DAYS = 60
END = START + DAYS * 24 * NS_PER_HOUR
SPAN = {"start": START, "end": END, "starting_balance": BALANCE}
FEW = {"samples": 100, "seed": 5}


@pytest.mark.parametrize("seed", range(5))
def test_they_agree_with_the_other_tables(seed: int) -> None:
    frames = simulate(DAYS, seed).frames()
    found = trading_measures(frames, **SPAN, **FEW)
    metrics = trading_metrics(frames, **SPAN, **FEW)
    for name in ("net_return", "net_sharpe", "max_drawdown", "trades"):
        assert found[name] == pytest.approx(metrics[name], rel=1e-9), name
    details = {one.key: one.value for one in trading_details(TradingSpan.cut(frames, **SPAN))}
    assert found["sortino"].value == pytest.approx(details["sortino"])
    assert found["time_in_market"].value == pytest.approx(details["time_in_market"])
    # One divides by the mean equity, the other each day's value by the day's equity.
    assert found["turnover"].value == pytest.approx(365.0 * details["turnover"], rel=0.2)


def test_costs_are_a_share_of_what_was_won_before_them() -> None:
    for seed in range(20):
        frames = simulate(DAYS, seed).frames()
        costs = float((frames.fills["commission"] + frames.fills["slippage_cost"]).sum())
        gross = float(frames.equity["equity"].iloc[-1]) - BALANCE + costs
        found = trading_measures(frames, **SPAN, **FEW)["cost_share"].value
        assert found == pytest.approx(costs / gross) if gross > 0.0 else math.isnan(found)


def test_the_largest_position_is_of_the_equity_at_its_entry() -> None:
    frames = simulate(DAYS, 1).frames()
    shares = []
    for row in frames.positions.itertuples():
        before = frames.equity[frames.equity["ts_init"] <= row.ts_opened]["equity"]
        equity = before.iloc[-1] if len(before) else BALANCE
        shares.append(row.quantity * row.average_open / equity)
    found = trading_measures(frames, **SPAN, **FEW)["largest_position"]
    assert found.value == pytest.approx(max(shares))
    assert math.isnan(found.low)


def test_without_trades_there_is_nothing_to_share() -> None:
    found = trading_measures(simulate(DAYS, 0, trades=False).frames(), **SPAN, **FEW)
    assert tuple(found) == MEASURES
    assert found["trades"].value == found["turnover"].value == 0.0
    assert found["largest_position"].value == found["time_in_market"].value == 0.0
    assert np.isnan([found["cost_share"].value, found["net_sharpe"].value]).all()


def test_intervals_hold_their_values() -> None:
    found = trading_measures(simulate(DAYS, 2).frames(), **SPAN, **FEW)
    for name in ("net_return", "net_sharpe", "turnover", "time_in_market", "trades"):
        assert found[name].low <= found[name].value <= found[name].high, name
