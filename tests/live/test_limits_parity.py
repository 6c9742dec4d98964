"""Limit orders: the paper exchange does with them what the backtest's does."""

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
from strategies.execution import ExecutionConfig
from strategies.risk_policy import RiskPolicy
from strategies.stops import StopConfig
from tests.strategies.markets import BTC, ETH, make_predictor, wild
from tests.strategies.settings import plain_execution

NAMES = (BTC, ETH)
GUARD = RiskPolicy(
    found_groups=None,
    sizing={},
    correlation_groups={},
    max_symbol_share=10.0,
    max_daily_loss=0.01,
    max_drawdown=0.5,
)


def limits(**changes: Any) -> ExecutionConfig:
    style = {"order_style": "limit", "limit_offset_bps": 2.0, "limit_timeout_bars": 2}
    costs = {"slippage_bps": 1.0, "impact_bps": 20.0, "impact_cap_bps": 10.0}
    return plain_execution(**{**costs, **style, **changes})


def policy(frac: float = 0.006, target: float | None = 1.5, **changes: Any) -> FusionPolicy:
    stops = StopConfig(
        stop_vol_multiple=1.0,
        target_vol_multiple=target,
        min_frac=frac,
        max_frac=frac,
        trailing=changes.pop("trailing", True),
    )
    fields = {"entry_threshold": 0.6, "exit_threshold": 0.5, "position_frac": 0.3}
    return FusionPolicy(**{**fields, "min_holding_bars": 0, "stops": stops, **changes})


def both(
    inputs: ReplayInputs,
    signals: dict[int, dict[str, float]],
    rules: FusionPolicy,
    execution: ExecutionConfig,
) -> tuple[BacktestOutcome, BacktestOutcome]:
    def predictor() -> Predictor:
        return make_predictor(signals, NAMES)

    return (
        run_backtest(inputs, predictor(), rules, execution),
        run_live_replay(inputs, predictor, rules, execution),
    )


@pytest.mark.parametrize("post_only", [False, True])
def test_replay_and_paper_are_identical_with_limits_stops_and_targets(post_only: bool) -> None:
    inputs, signals = wild(3, 260)
    execution = limits(post_only=post_only, max_participation=0.5)
    backtest, paper = both(inputs, signals, policy(risk=GUARD), execution)
    compare(backtest, paper).require_identical()
    # It would mean little if nothing had happened.
    orders, fills = backtest.orders, backtest.fills
    sent = orders[orders.type == "LIMIT"]
    assert {"FILLED", "CANCELED", "REJECTED"} <= set(sent.status)
    assert sent.detail.str.startswith("POST_ONLY").any() == post_only
    assert set(fills.liquidity) == {"maker", "taker"}
    assert (fills.groupby("client_order_id").size() > 1).any()
    assert (orders.ts_decided < orders.ts_init).any()
    assert {"stop_loss", "trailing_stop", "take_profit"} <= set(fills.reason)
    assert "limit_withdrawn" in set(backtest.decisions.reason)
    assert (backtest.guard.kind == "hold").any()


def test_bars_to_come_change_nothing_that_was_sent_before() -> None:
    inputs, signals = wild(6, 200)
    late = int(inputs.bars[0].ts_init[120])
    changed = []
    for one in inputs.bars:
        rows = one.ts_init > late
        columns = {
            name: np.where(rows, np.round(getattr(one, name) * 1.05, 1), getattr(one, name))
            for name in ("open", "high", "low", "close")
        }
        changed.append(replace(one, **columns))
    found = []
    for data in (inputs, replace(inputs, bars=tuple(changed))):
        out = run_backtest(data, make_predictor(signals, NAMES), policy(), limits())
        sent = ["client_order_id", "ts_init", "side", "type", "quantity", "limit_price", "reason"]
        early = out.orders[out.orders.ts_init <= late][sent]
        found.append((early, out.fills[out.fills.ts_event <= late]))
    assert len(found[0][0]) > 80
    for one, other in zip(*found, strict=True):
        assert one.equals(other)


games = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 100_000),
        "count": st.integers(12, 40),
        "frac": st.sampled_from([0.003, 0.006]),
        "target": st.sampled_from([None, 1.0, 2.5]),
        "trailing": st.booleans(),
        "risk": st.sampled_from([None, GUARD]),
        "max_participation": st.sampled_from([None, 0.5, 0.05]),
        "limit_offset_bps": st.sampled_from([0.0, 2.0, 10.0]),
        "limit_timeout_bars": st.sampled_from([1, 2, 4]),
        "post_only": st.booleans(),
    }
)


def check_game(game: dict[str, Any]) -> None:
    inputs, signals = wild(game["seed"], game["count"])
    names = ("max_participation", "limit_offset_bps", "limit_timeout_bars", "post_only")
    rules = policy(game["frac"], game["target"], trailing=game["trailing"], risk=game["risk"])
    backtest, paper = both(inputs, signals, rules, limits(**{name: game[name] for name in names}))
    compare(backtest, paper).require_identical()


@settings(max_examples=5, deadline=None)
@given(games)
def test_whatever_the_bars_both_give_equal_tables(game: dict[str, Any]) -> None:
    check_game(game)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(games)
def test_whatever_the_bars_both_give_equal_tables_in_many_games(game: dict[str, Any]) -> None:
    check_game(game)
