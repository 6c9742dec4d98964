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
from tests.strategies.markets import (
    BTC,
    ETH,
    close_time,
    make_bars,
    make_inputs,
    make_predictor,
    wild,
)
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
    names: tuple[str, ...] = NAMES,
) -> tuple[BacktestOutcome, BacktestOutcome]:
    def predictor() -> Predictor:
        return make_predictor(signals, names)

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


def flat(price: float) -> tuple[float, float, float, float]:
    return (price,) * 4


def trailed(*after: tuple[float, float, float, float]) -> tuple[Any, ...]:
    """A long entry at 29,970 of which a third takes at an open, and whose stop trails to 30,690."""
    return (flat(30_000), (29_900, 31_000, 29_900, 30_200), *after)


STAYS = dict.fromkeys(range(9), 0.9)
ENDED_WITH_ITS_POSITION = {
    # At the close of bar 1 the stop has been passed: one open closes what is held, then meets
    # the cancel of the rest. The entry at the close of bar 2 is another one.
    "an entry's rest": (trailed(*[flat(30_200)] * 3), STAYS, 0.01, 0.6, ("LIMIT", 2)),
    # The next open gaps through the limit as well, so that a second part stays; nobody decided on
    # the third.
    "a rest beside a forced exit": (
        trailed((29_900, 30_800, 29_900, 30_750), *[flat(30_750)] * 2),
        dict.fromkeys(range(3), 0.9),
        *(0.01, 0.6, None),
    ),
    # The exit's time is over at the close of bar 2, and the next open is beyond the stop.
    "an exit's rest": (
        (flat(30_000), (29_900, 30_000, 29_900, 30_000), flat(30_000), *[flat(29_000)] * 3),
        {0: 0.9, 1: 0.45, 2: 0.45, 3: 0.1},
        *(0.02, 100, ("LIMIT", 3)),
    ),
}


@pytest.mark.parametrize("scene", ENDED_WITH_ITS_POSITION)
def test_what_a_limit_left_undone_ends_with_its_position(scene: str) -> None:
    rows, signals, frac, volume, wanted = ENDED_WITH_ITS_POSITION[scene]
    inputs = make_inputs(make_bars(rows, BTC, volumes=[volume] * len(rows)))
    execution = limits(limit_offset_bps=10.0, limit_timeout_bars=1, max_participation=0.5)
    by_name = {index: {BTC: value} for index, value in signals.items()}
    backtest, paper = both(inputs, by_name, policy(frac, None), execution, names=(BTC,))
    compare(backtest, paper).require_identical()
    orders = backtest.orders
    assert orders.reason.isin({"trailing_stop", "stop_loss"}).any()
    later = orders[~orders.reduce_only].iloc[1:]
    found = [(row.type, row.ts_init, row.ts_decided) for row in later.itertuples()][:1]
    assert found == ([] if wanted is None else [(wanted[0], *[close_time(wanted[1])] * 2)])


def test_an_exit_that_the_guard_takes_back_before_it_met_an_open_is_in_both_books() -> None:
    # No bar of the first follows its exit at the close of bar 2 until the loss of the second has
    # halted all: in the replay the exit has not left yet.
    held = [flat(30_000), (29_900, 30_000, 29_900, 30_000), *[flat(30_000)] * 6]
    lost = [flat(2_000), (1_990, 2_000, 1_990, 2_000), flat(2_000), *[flat(1_900)] * 5]
    inputs = make_inputs(make_bars(held, BTC, missing=(3, 4)), make_bars(lost, ETH))
    signals = {index: {BTC: 0.9, ETH: 0.9} for index in range(2)}
    signals |= {2: {BTC: 0.45, ETH: 0.9}, 3: {ETH: 0.9}}
    execution = limits(limit_offset_bps=10.0, limit_timeout_bars=4)
    backtest, paper = both(inputs, signals, policy(0.2, None, risk=GUARD), execution)
    compare(backtest, paper).require_identical()
    exits = backtest.orders[(backtest.orders.instrument_id == BTC) & backtest.orders.reduce_only]
    sent = exits[exits.type != "STOP_MARKET"]
    assert sent[["type", "reason", "status"]].values.tolist() == [
        ["LIMIT", "exit_threshold", "CANCELED"],
        ["MARKET", "risk_guard", "FILLED"],
    ]


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


@settings(max_examples=2, deadline=None)
@given(games)
def test_whatever_the_bars_both_give_equal_tables(game: dict[str, Any]) -> None:
    check_game(game)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(games)
def test_whatever_the_bars_both_give_equal_tables_in_many_games(game: dict[str, Any]) -> None:
    check_game(game)
