"""Stops that trail and targets: the paper exchange does with them what the backtest's does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live.live_replay import run_live_replay
from live.parity import compare
from research.predictor import Predictor
from strategies.backtest import BacktestOutcome, FusionPolicy, ReplayInputs, run_backtest
from strategies.stops import StopConfig
from tests.strategies.markets import BTC, ETH, make_predictor, wild
from tests.strategies.settings import plain_execution

NAMES = (BTC, ETH)
EXECUTION = plain_execution(
    slippage_bps=1.0, impact_bps=20.0, impact_cap_bps=10.0, max_participation=0.5
)


def policy(frac: float = 0.004, target: float | None = 1.5, *, trailing: bool = True) -> Any:
    config = StopConfig(
        stop_vol_multiple=1.0,
        target_vol_multiple=target,
        min_frac=frac,
        max_frac=frac,
        trailing=trailing,
    )
    return FusionPolicy(
        entry_threshold=0.6,
        exit_threshold=0.5,
        position_frac=0.3,
        min_holding_bars=0,
        cooldown_bars=2,
        stops=config,
    )


def both(
    inputs: ReplayInputs, signals: dict[int, dict[str, float]], rules: FusionPolicy
) -> tuple[BacktestOutcome, BacktestOutcome]:
    def predictor() -> Predictor:
        return make_predictor(signals, NAMES)

    return (
        run_backtest(inputs, predictor(), rules, EXECUTION),
        run_live_replay(inputs, predictor, rules, EXECUTION),
    )


def test_replay_and_paper_are_identical_with_trailing_stops_and_targets() -> None:
    inputs, signals = wild(7, 260)
    backtest, paper = both(inputs, signals, policy())
    compare(backtest, paper).require_identical()
    assert backtest.reconciliation.ambiguous == paper.reconciliation.ambiguous
    # It would mean little if nothing had happened.
    assert backtest.reconciliation.ambiguous.exits > 5
    ended = set(backtest.positions.reason)
    assert {"stop_loss", "trailing_stop", "take_profit", "stop_refused"} <= ended
    orders = backtest.orders
    refused = orders[(orders.type == "STOP_MARKET") & (orders.status == "REJECTED")]
    assert refused.detail.str.contains("was in the market").any()
    assert refused.detail.str.contains("would have increased position").any()
    moved = orders[(orders.type == "STOP_MARKET") & (orders.reason == "trailing_stop")]
    assert {"CANCELED", "FILLED", "REJECTED"} <= set(moved.status)


def test_bars_to_come_change_nothing_that_was_sent_before() -> None:
    inputs, signals = wild(6, 200)
    cut = 120
    full = run_backtest(inputs, make_predictor(signals, NAMES), policy(), EXECUTION)
    late = int(inputs.bars[0].ts_init[cut])
    changed = []
    for one in inputs.bars:
        rows = one.ts_init > late
        columns = {
            name: np.where(rows, np.round(getattr(one, name) * 1.05, 1), getattr(one, name))
            for name in ("open", "high", "low", "close")
        }
        changed.append(replace(one, **columns))
    other = replace(inputs, bars=tuple(changed))
    again = run_backtest(other, make_predictor(signals, NAMES), policy(), EXECUTION)
    sent = ["client_order_id", "ts_init", "side", "type", "quantity", "trigger_price", "reason"]
    early = [one.orders[one.orders.ts_init <= late][sent] for one in (full, again)]
    assert len(early[0]) > 100
    assert early[0].equals(early[1])
    filled = [one.fills[one.fills.ts_event <= late] for one in (full, again)]
    assert filled[0].equals(filled[1])


games = st.tuples(
    st.integers(0, 10_000),
    st.integers(12, 30),
    st.sampled_from([0.003, 0.006]),
    st.sampled_from([None, 1.0, 2.5]),
    st.booleans(),
)


def check_game(game: tuple[int, int, float, float | None, bool]) -> None:
    seed, count, frac, target, trailing = game
    inputs, signals = wild(seed, count)
    backtest, paper = both(inputs, signals, policy(frac, target, trailing=trailing))
    compare(backtest, paper).require_identical()


@settings(max_examples=2, deadline=None)
@given(games)
def test_whatever_the_bars_both_give_equal_tables(game: Any) -> None:
    check_game(game)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(games)
def test_whatever_the_bars_both_give_equal_tables_in_many_games(game: Any) -> None:
    check_game(game)
