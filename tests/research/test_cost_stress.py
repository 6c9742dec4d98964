"""A run under other costs: against literal arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from catalog.arrays import BarArrays
from catalog.timestamps import NS_PER_HOUR
from research.cost_stress import MULTIPLES, cost_stress, delay_costs
from research.performance import TradingFrames, trading_metrics
from tests.research.test_performance import BALANCE, START, Account, simulate

DAYS = 40
END = START + DAYS * 24 * NS_PER_HOUR
SPAN = {"start": START, "end": END, "starting_balance": BALANCE, "samples": 100}


def bars(account: Account, seed: int = 1) -> BarArrays:
    """Return hourly bars whose opens are other prices than any that was traded at."""
    times = np.array([row["ts_init"] for row in account.equity], dtype=np.int64)
    opens = 100.0 + np.random.default_rng(seed).normal(0.0, 5.0, len(times))
    flat = (opens, opens, opens, opens)
    return BarArrays("X-PERP.SIM", NS_PER_HOUR, times, *flat, np.ones(len(times)))


def frames(seed: int = 0, *, trades: bool = True) -> tuple[TradingFrames, BarArrays]:
    account = simulate(DAYS, seed, trades=trades)
    return account.frames(), bars(account)


def test_the_runs_own_costs_give_the_runs_own_result() -> None:
    run, opens = frames()
    found = cost_stress(run, [opens], **SPAN)
    own = {row.name: row for row in found.rows}["costs x 1"]
    wanted = trading_metrics(run, **SPAN)
    assert own.net_return.value == pytest.approx(wanted["net_return"].value, rel=1e-9)
    assert own.net_sharpe == pytest.approx(wanted["net_sharpe"], rel=1e-9)
    assert own.net_return[1:] == pytest.approx(wanted["net_return"][1:], rel=1e-9)


def test_more_costs_never_earn_more() -> None:
    run, opens = frames(3)
    found = cost_stress(run, [opens], **SPAN)
    by_multiple = [row.net_return.value for row in found.rows[: len(MULTIPLES)]]
    assert by_multiple == sorted(by_multiple, reverse=True)
    assert [row.name for row in found.rows] == [
        *("costs x 0", "costs x 1", "costs x 2", "costs x 3"),
        "one bar later",
    ]


def test_at_the_break_even_the_trades_pay_for_themselves() -> None:
    for seed in range(20):
        run, opens = frames(seed)
        found = cost_stress(run, [opens], **SPAN)
        costs = float((run.fills["commission"] + run.fills["slippage_cost"]).sum())
        gross = float(run.equity["equity"].iloc[-1]) - BALANCE + costs
        assert found.break_even == pytest.approx(max(gross, 0.0) / costs)


def test_a_bar_of_delay_moves_each_fill_to_the_next_open() -> None:
    run, opens = frames(5)
    wanted = []
    for fill in run.fills.itertuples():
        inside = int(np.flatnonzero(opens.ts_init >= fill.ts_event)[0])
        later = opens.open[inside + 1] if inside + 1 < len(opens) else fill.reference_price
        wanted.append(fill.side * fill.quantity * (later - fill.reference_price))
    found = delay_costs(run.fills, {"X-PERP.SIM": opens})
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert cost_stress(run, [opens], **SPAN).delay_cost == pytest.approx(math.fsum(wanted))


def test_stops_and_other_instruments_stay_where_they_are() -> None:
    run, opens = frames(5)
    stopped = replace(run, fills=run.fills.assign(reason="stop_loss"))
    assert not delay_costs(stopped.fills, {"X-PERP.SIM": opens}).any()
    assert not delay_costs(run.fills, {"Y-PERP.SIM": opens}).any()


def test_without_trades_nothing_is_said_of_costs() -> None:
    run, opens = frames(trades=False)
    found = cost_stress(run, [opens], **SPAN)
    assert math.isnan(found.break_even)
    assert found.delay_cost == 0.0
    assert {row.net_return.value for row in found.rows} == {0.0}
    assert found.as_dict()["break_even"] is None
