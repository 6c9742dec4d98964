"""What each style of orders cost, worked out by hand."""

from __future__ import annotations

import pytest

from strategies.backtest import FusionPolicy, run_backtest
from strategies.execution_quality import execution_lines, execution_quality
from tests.strategies.markets import make_predictor, wild


def policy(**changes):
    fields = {"entry_threshold": 0.6, "exit_threshold": 0.5, "min_holding_bars": 0}
    return FusionPolicy(**{**fields, "position_frac": 0.5, **changes})


def flat(price):
    return (price,) * 4


def measured(market, rows, signals, rules=None, **execution):
    bars = market.bars(rows)
    out = run_backtest(
        market.inputs(bars),
        market.predictor(signals),
        rules or policy(),
        market.execution(**execution),
    )
    return {row.style: row for row in execution_quality(out, (bars,))}


def test_a_market_order_falls_short_by_gap_and_slippage(market):
    rows = [flat(30_000), flat(30_030), flat(30_030)]
    found = measured(market, rows, {0: 0.9}, slippage_bps=10.0)
    row = found["market"]
    # Bought at 30,060.1 after a close at 30,000: a tick above 10 bp on 30,030.
    assert row.shortfall_bps == pytest.approx(1e4 * 60.1 / 30_060.1)
    assert row.slippage_bps == pytest.approx(1e4 * 30.1 / 30_060.1)
    assert (row.orders, row.filled_frac, row.missed_frac, row.maker_frac) == (1, 1.0, 0.0, 0.0)
    assert row.fee_bps == pytest.approx(5.0)
    assert found["all decisions"].traded == row.traded


def test_a_market_order_after_a_limit_is_measured_from_the_first_decision(market):
    rows = [flat(30_000), flat(30_300), flat(30_300), flat(30_600), flat(30_600)]
    limits = {"order_style": "limit", "limit_offset_bps": 10.0, "limit_timeout_bars": 1}
    found = measured(market, rows, dict.fromkeys(range(5), 0.9), **limits)
    assert found["limit"].missed_frac == 1.0
    assert found["limit"].to_json()["fee_bps"] is None
    later = found["market after a limit"]
    assert later.shortfall_bps == pytest.approx(1e4 * 600 / 30_600)
    assert (found["all decisions"].orders, found["all decisions"].missed_frac) == (2, 0.5)


def test_a_limit_that_rested_earns_its_offset_and_pays_the_makers_fee(market):
    rows = [flat(30_000), (30_000, 30_000, 29_900, 30_000), flat(30_000)]
    found = measured(market, rows, {0: 0.9}, order_style="limit", limit_offset_bps=10.0)
    row = found["limit"]
    assert row.shortfall_bps == pytest.approx(-1e4 * 30 / 29_970)
    assert (row.maker_frac, row.slippage_bps) == (1.0, 0.0)
    assert row.fee_bps == pytest.approx(2.0)


def test_what_protects_stands_apart_and_the_table_has_a_line_for_each_style(market):
    inputs, signals = wild(3, 120)
    out = run_backtest(
        inputs,
        make_predictor(signals, (market.BTC, market.ETH)),
        policy(position_frac=0.3, stop_loss_frac=0.006),
        market.execution(order_style="limit", limit_offset_bps=5.0, slippage_bps=1.0),
    )
    rows = execution_quality(out, inputs.bars)
    styles = [row.style for row in rows]
    assert styles == [
        *("limit", "market after a limit", "forced", "stop or target", "all decisions")
    ]
    stops = rows[3].to_json()
    assert stops["filled_frac"] is stops["shortfall_bps"] is None
    whole = sum(row.traded for row in rows[:4])
    assert whole == pytest.approx((out.fills.quantity * out.fills.price).sum())
    table = execution_lines([row.to_json() for row in rows])
    assert [line[0] for line in table[1:]] == styles
    assert {len(line) for line in table} == {8}


def test_a_run_without_orders_has_no_rows(market):
    assert measured(market, [flat(30_000)] * 3, {0: 0.5}) == {}
