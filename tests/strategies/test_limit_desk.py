"""Decisions as limit orders, in the real engine on made bars, and the check that follows a run."""

from __future__ import annotations

import copy

import pytest

from catalog.progress import no_progress
from strategies.backtest import FusionPolicy, Replay, run_backtest
from strategies.fill_check import FillCheck, FillRules
from strategies.risk_policy import RiskPolicy
from tests.strategies.markets import make_predictor, wild

LATENCY = 50_000_000
LONG = {0: 0.9}
STAY = dict.fromkeys(range(9), 0.9)


def policy(**changes):
    fields = {"entry_threshold": 0.6, "exit_threshold": 0.5, "min_holding_bars": 0}
    return FusionPolicy(**{**fields, "position_frac": 0.5, **changes})


def flat(price):
    return (price,) * 4


def limits(market, **changes):
    style = {"order_style": "limit", "limit_offset_bps": 10.0, "limit_timeout_bars": 2}
    return market.execution(**{**style, **changes})


def run(market, rows, signals, rules=None, volumes=None, **execution):
    bars = market.bars(rows, volumes=volumes)
    return run_backtest(
        market.inputs(bars),
        market.predictor(signals),
        rules or policy(),
        limits(market, **execution),
    )


def told(frame, *columns):
    return frame[list(columns)].values.tolist()


def test_a_touch_fills_nothing_and_a_trade_through_fills_at_the_limit_for_the_makers_fee(market):
    # 30,000 less 10 bp is 29,970.
    rows = [flat(30_000), (30_000, 30_000, 29_970, 30_000), (30_000, 30_000, 29_969.9, 30_000)]
    out = run(market, [*rows, flat(30_000)], STAY)
    (fill,) = out.fills.itertuples()
    assert (fill.ts_event, fill.price, fill.liquidity) == (market.close_time(2), 29_970.0, "maker")
    assert fill.commission == pytest.approx(fill.quantity * 29_970.0 * 2e-4, abs=1e-8)
    assert fill.slippage_cost == 0.0
    assert told(out.orders, "type", "limit_price", "status") == [["LIMIT", 29_970.0, "FILLED"]]
    # While it waited nothing else was decided.
    assert out.decisions.reason.tolist()[:2] == ["enter_long", "order_pending"]


def test_an_open_that_gaps_through_fills_at_the_limit_and_not_better(market):
    out = run(market, [flat(30_000)] * 2 + [flat(29_000)] * 2, STAY)
    (fill,) = out.fills.itertuples()
    opened = market.close_time(1) + LATENCY
    assert (fill.ts_event, fill.price, fill.liquidity) == (opened, 29_970.0, "maker")


@pytest.mark.parametrize(
    ("opened", "offset", "price"), [(29_900, 0.0, 29_914.9), (29_995, 0.0, 30_000.0)]
)
def test_a_limit_that_is_marketable_takes_at_the_open_and_never_beyond_its_price(
    market, opened, offset, price
):
    rows = [flat(30_000), (opened, 30_000, opened, 30_000), flat(30_000)]
    out = run(market, rows, LONG, limit_offset_bps=offset, slippage_bps=4.983)
    (fill,) = out.fills.itertuples()
    assert (fill.ts_event, fill.price) == (market.close_time(0) + LATENCY, price)
    assert (fill.reference_price, fill.liquidity) == (opened, "taker")
    assert fill.commission == pytest.approx(fill.quantity * price * 5e-4, abs=1e-8)


def test_an_entry_that_times_out_goes_to_the_market_with_the_next_decision_that_wants_it(market):
    out = run(market, [flat(30_000)] * 6, STAY)
    close = market.close_time
    assert told(out.orders, "ts_init", "type", "status", "ts_decided") == [
        [close(0), "LIMIT", "CANCELED", close(0)],
        [close(3), "MARKET", "FILLED", close(0)],
    ]
    assert out.fills.ts_event.tolist() == [close(3) + LATENCY]
    faded = run(market, [flat(30_000)] * 6, {**STAY, **dict.fromkeys((3, 4, 5), 0.55)})
    assert told(faded.orders, "type", "status") == [["LIMIT", "CANCELED"]]


def test_a_decision_that_wants_another_side_takes_an_entry_back_at_once(market):
    out = run(market, [flat(30_000)] * 5, {0: 0.9, 1: 0.1, 2: 0.1}, limit_timeout_bars=4)
    close = market.close_time
    assert out.decisions.reason.tolist()[1] == "limit_withdrawn"
    assert told(out.orders, "ts_init", "side", "type", "status")[:2] == [
        [close(0), 1, "LIMIT", "CANCELED"],
        [close(2), -1, "LIMIT", "OPEN_AT_END"],
    ]


def test_an_exit_waits_at_its_limit_and_then_goes_to_the_market_at_once(market):
    rows = [flat(30_000), (29_900, 30_000, 29_900, 30_000)] + [flat(30_000)] * 5
    out = run(market, rows, {0: 0.9, 1: 0.45, 2: 0.45, 3: 0.45}, limit_timeout_bars=2)
    close = market.close_time
    assert told(out.orders, "ts_init", "side", "type", "status", "reduce_only", "ts_decided") == [
        [close(0), 1, "LIMIT", "FILLED", False, close(0)],
        [close(1), -1, "LIMIT", "CANCELED", True, close(1)],
        [close(3), -1, "MARKET", "FILLED", True, close(1)],
    ]
    assert out.fills.ts_event.tolist()[1] == close(3) + LATENCY


def test_of_a_timed_out_exit_and_its_limit_at_one_open_only_one_trades(market):
    rows = [flat(30_000), (29_900, 30_000, 29_900, 30_000), flat(30_000), flat(31_000)]
    out = run(market, [*rows, flat(31_000)], {0: 0.9, 1: 0.45}, limit_timeout_bars=1)
    limit, rest = list(out.orders.itertuples())[1:]
    assert (limit.type, limit.status, rest.type, rest.status) == (
        *("LIMIT", "FILLED"),
        *("MARKET", "REJECTED"),
    )
    assert out.fills.price.tolist()[1] == 30_030.0
    assert len(out.reconciliation.refused) == 1


def test_a_post_only_order_that_would_take_is_refused_and_its_like_goes_to_the_market(market):
    guarded = policy(
        risk=RiskPolicy(
            found_groups=None,
            sizing={},
            correlation_groups={},
            max_symbol_share=10.0,
            max_rejected_orders=1,
        )
    )
    rows = [flat(30_000), (29_900, 30_000, 29_900, 30_000)] + [flat(30_000)] * 3
    out = run(market, rows, STAY, guarded, post_only=True)
    assert told(out.orders, "type", "status", "ts_decided") == [
        ["LIMIT", "REJECTED", market.close_time(0)],
        ["MARKET", "FILLED", market.close_time(0)],
    ]
    assert out.orders.detail[0].startswith("POST_ONLY LIMIT BUY order limit px of 29970.0 would")
    # It asked for that: the guard, who halts after one refusal, is not told.
    assert len(out.guard) == 0


def test_a_part_is_protected_from_its_fill_on_and_the_rest_goes_to_the_market(market):
    rows = [flat(30_000), (30_000, 30_000, 29_900, 30_000)] + [flat(30_000)] * 4
    out = run(
        market,
        rows,
        STAY,
        policy(stop_loss_frac=0.05),
        volumes=[2.0, 2.0, 2.0, 10.0, 10.0, 10.0],
        max_participation=0.5,
    )
    close = market.close_time
    assert told(out.fills, "ts_event", "quantity", "liquidity") == [
        [close(1), 1.0, "maker"],
        [close(2) + LATENCY, 0.5, "taker"],
    ]
    stops = out.orders[out.orders.type == "STOP_MARKET"]
    assert told(stops, "ts_init", "quantity", "trigger_price", "status") == [
        [close(1), 1.0, 28_471.5, "CANCELED"],
        [close(2) + LATENCY, 1.5, 28_471.5, "OPEN_AT_END"],
    ]
    topped = out.decisions[out.decisions.ts_init == close(2)].iloc[0]
    assert topped.quantity == 0.5


def test_a_reversal_is_an_exit_first(market):
    rows = [flat(30_000), (29_900, 30_000, 29_900, 30_000)] + [flat(30_000)] * 3
    out = run(market, rows, {0: 0.9, 1: 0.1, 2: 0.1}, limit_offset_bps=0.0)
    assert out.decisions.reason.tolist()[:3] == ["enter_long", "exit_opposite", "enter_short"]
    assert out.orders.reduce_only.tolist() == [False, True, False]


def test_the_guard_gets_out_though_an_exit_waits_at_its_limit(market):
    guarded = policy(
        risk=RiskPolicy(found_groups=None, sizing={}, correlation_groups={}, max_symbol_share=10.0)
    )
    rows = [flat(30_000), (29_900, 30_000, 29_900, 30_000), (30_000, 30_000, 27_000, 27_000)]
    out = run(market, [*rows, *[flat(27_000)] * 2], {0: 0.9, 1: 0.45, 2: 0.45}, guarded)
    assert told(out.orders, "type", "reason", "status") == [
        ["LIMIT", "enter_long", "FILLED"],
        ["LIMIT", "exit_threshold", "CANCELED"],
        ["MARKET", "risk_guard", "FILLED"],
    ]
    assert out.fills.ts_event.tolist()[-1] == market.close_time(2) + LATENCY


def test_an_entry_that_waits_ends_with_the_position_that_it_adds_to(market):
    rows = [flat(30_000), (30_000, 30_000, 29_900, 30_000), (30_000, 30_000, 28_000, 28_000)]
    out = run(
        market,
        [*rows, *[flat(28_000)] * 3],
        {0: 0.9},
        policy(stop_loss_frac=0.02),
        volumes=[2.0, 2.0, 2.0, 2.0, 2.0, 2.0],
        max_participation=0.5,
        limit_timeout_bars=5,
    )
    entry = out.orders.iloc[0]
    assert (entry.status, entry.filled_quantity) == ("CANCELED", 1.0)
    assert out.positions.reason.tolist() == ["stop_loss"]


def test_an_entry_too_small_for_its_limit_goes_to_the_market(market):
    # 0.002 are worth 100 USDT at the close, the exchange's minimum, and less at a limit below it.
    rows = [flat(50_000)] * 4
    out = run(market, rows, LONG, policy(position_frac=0.00125), limit_offset_bps=100.0)
    assert told(out.orders, "type", "status") == [["MARKET", "FILLED"]]


def test_an_order_worth_the_minimum_at_the_close_is_taken_whatever_the_open_before_it(market):
    bars = market.bars([flat(49_000), (49_000, 50_000, 49_000, 50_000), *[flat(50_000)] * 2])
    out = run_backtest(
        market.inputs(bars),
        market.predictor({1: 0.9}),
        policy(position_frac=0.00125),
        market.execution(),
    )
    assert told(out.orders, "type", "quantity", "status") == [["MARKET", 0.002, "FILLED"]]


@pytest.fixture(scope="module")
def replay(market):
    inputs, signals = wild(3, 200)
    rules = policy(stop_loss_frac=0.006, position_frac=0.3)
    done = Replay(
        inputs,
        make_predictor(signals, (market.BTC, market.ETH)),
        rules,
        limits(market, slippage_bps=1.0, max_participation=0.5, limit_offset_bps=2.0),
    )
    done.run(no_progress)
    return done


def fills_of(recorder, liquidity):
    return [
        row
        for row, fill in enumerate(recorder.fills)
        if fill.liquidity == liquidity and recorder.orders[fill.client_order_id].type == "LIMIT"
    ]


def change_fill(sort, /, **changes):
    def alter(recorder):
        rows = fills_of(recorder, sort)
        row = rows[len(rows) // 2]
        recorder.fills[row] = recorder.fills[row]._replace(
            **{
                name: by if isinstance(by, str) else getattr(recorder.fills[row], name) + by
                for name, by in changes.items()
            }
        )

    return alter


def drop_a_fill(recorder):
    del recorder.fills[fills_of(recorder, "maker")[5]]


def limit_orders(recorder, status):
    return [row for row in recorder.orders.values() if (row.type, row.status) == ("LIMIT", status)]


def move_a_limit(recorder):
    fill = recorder.fills[fills_of(recorder, "maker")[5]]
    recorder.orders[fill.client_order_id].limit_price += 0.1


def take_back_late(recorder):
    limit_orders(recorder, "CANCELED")[2].ts_cancel += 900 * 10**9


def refuse_one(recorder):
    limit_orders(recorder, "CANCELED")[1].status = "REJECTED"


@pytest.mark.parametrize(
    "alter",
    [
        change_fill("maker", price=0.1),
        change_fill("maker", ts_event=LATENCY),
        change_fill("maker", quantity=-0.001),
        change_fill("maker", liquidity="taker"),
        change_fill("taker", price=-0.1),
        change_fill("taker", reference_price=0.1),
        change_fill("taker", liquidity="maker"),
        drop_a_fill,
        move_a_limit,
        take_back_late,
        refuse_one,
    ],
)
def test_an_alteration_is_found(replay, alter):
    rules = FillRules(replay.inputs.bars, replay.terms, replay.execution, replay.policy.exit_rules)

    def faults(recorder):
        check = FillCheck(recorder, rules)
        return check.market_faults() + check.refusals()[1]

    assert faults(replay.recorder) == ()
    recorder = copy.deepcopy(replay.recorder)
    alter(recorder)
    assert faults(recorder) != ()
