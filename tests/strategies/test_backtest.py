"""The real engine, fed with constructed bars: what fills, when, and for how much."""

import pandas as pd
import pytest

from catalog.errors import ConfigError, DataError
from strategies import backtest
from strategies.backtest import FusionPolicy, run_backtest

HOUR = 3600 * 10**9
LATENCY = 50_000_000


def policy(**changes):
    return FusionPolicy(
        **{
            "entry_threshold": 0.6,
            "exit_threshold": 0.5,
            "position_frac": 0.5,
            "min_holding_bars": 0,
            **changes,
        }
    )


def only(frame, **wanted):
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


def test_a_market_order_fills_at_the_next_open_plus_slippage(market):
    # The close on which is decided, the open after it and that bar's close all differ.
    bars = market.bars([(30_000, 30_000, 30_000, 30_000), (30_500, 30_900, 30_400, 30_800)])
    execution = market.execution(slippage_bps=2.0)
    out = run_backtest(market.inputs(bars), market.predictor({0: 0.7}), policy(), execution)
    fill = only(out.fills)
    assert fill.ts_event == market.close_time(0) + LATENCY
    assert fill.reference_price == 30_500.0
    assert fill.price == 30_506.1
    # 0.5 of equity x (0.5 + 0.5 x 0.4) at the close of 30,000, rounded down.
    assert fill.quantity == 1.166
    assert fill.slippage_cost == pytest.approx(1.166 * 6.1, abs=1e-8)
    assert fill.commission == pytest.approx(1.166 * 30_506.1 * 5e-4, abs=1e-8)


def test_a_large_order_pays_for_its_part_of_the_last_completed_bar(market):
    # What is traded in the bar of the fill is not known when the order is sent.
    rows = [(30_000, 30_000, 30_000, 30_000), (30_500, 30_900, 30_400, 30_800)]
    bars = market.bars(rows, volumes=[4.664, 1_000.0])
    execution = market.execution(slippage_bps=2.0, impact_bps=16.0, impact_cap_bps=100.0)
    out = run_backtest(market.inputs(bars), market.predictor({0: 0.7}), policy(), execution)
    fill = only(out.fills)
    # A quarter of the volume: half of the impact of all of it. 30,500 x 10 bp = 30.5.
    assert (fill.quantity, fill.price) == (1.166, 30_530.5)
    assert fill.slippage_cost == pytest.approx(1.166 * 30.5, abs=1e-8)
    # Closing it at the end would take a thousandth and a bit of the last bar: 16 x 0.034 bp.
    closing = only(out.positions).closing_cost
    fee = 1.166 * 30_800 * 5e-4
    slip = 1.166 * 30_800 * (2 + 16 * (1.166 / 1_000) ** 0.5) / 1e4
    assert closing == pytest.approx(fee + slip, abs=0.15)


def test_what_the_market_does_not_take_is_cancelled_and_decided_anew(market):
    rows = [(30_000,) * 4] * 4 + [(30_000, 30_000, 28_000, 29_000), (29_000,) * 4]
    bars = market.bars(rows, volumes=[4.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    out = run_backtest(
        market.inputs(bars),
        market.predictor({0: 0.7, 1: 0.3, 2: 0.3, 3: 0.7}),
        policy(stop_loss_frac=0.05, allow_short=False),
        market.execution(max_participation=0.2),
    )
    entry, first, second, stop = out.fills.itertuples()
    # A fifth of each last completed bar; what was held at the end was left to its stop.
    assert (entry.quantity, first.quantity, second.quantity) == (0.8, 0.4, 0.2)
    assert (stop.quantity, stop.reason, stop.price) == (0.2, "stop_loss", 28_500.0)
    orders = out.orders.set_index("client_order_id")
    asked = orders.loc[[entry.client_order_id, first.client_order_id, second.client_order_id]]
    assert list(asked.quantity) == [1.166, 0.8, 0.4]
    assert list(asked.status) == ["CANCELED"] * 3
    assert (asked.filled_quantity == [0.8, 0.4, 0.2]).all()
    assert orders.loc[stop.client_order_id].status == "FILLED"
    assert only(out.positions).quantity == 0.8


def test_an_exit_fills_at_the_next_open_and_the_position_tells_its_costs(market):
    bars = market.bars(
        [(100, 100, 100, 100), (101, 101, 101, 101), (103, 103, 103, 103), (104, 104, 104, 104)],
        market.SOL,
    )
    predictor = market.predictor({0: {market.SOL: 0.7}, 1: {market.SOL: 0.2}}, (market.SOL,))
    out = run_backtest(
        market.inputs(bars), predictor, policy(allow_short=False), market.execution()
    )
    position = only(out.positions)
    assert (position.average_open, position.average_close) == (101.0, 103.0)
    assert (position.side, position.reason, position.closing_cost) == (1, "exit_opposite", 0.0)
    assert position.commission == pytest.approx(out.fills.commission.sum(), abs=1e-8)
    assert list(out.decisions.reason) == ["enter_long", "exit_opposite"]


def test_a_dip_inside_the_entry_bar_hits_the_stop(market):
    bars = market.bars([(30_000,) * 4, (30_000, 30_100, 29_000, 30_050), (30_050,) * 4])
    execution = market.execution(slippage_bps=1.0)
    out = run_backtest(
        market.inputs(bars), market.predictor({0: 0.7}), policy(stop_loss_frac=0.02), execution
    )
    stop = only(out.fills, reason="stop_loss")
    entry = out.fills.iloc[0]
    trigger = only(out.orders, type="STOP_MARKET").trigger_price
    assert entry.price == 30_003.0
    assert trigger == 29_403.0
    assert stop.ts_event == market.close_time(1)
    assert (stop.reference_price, stop.price) == (29_403.0, 29_400.0)
    assert only(out.positions).reason == "stop_loss"


def test_a_gap_through_the_stop_fills_at_the_open_and_not_at_the_trigger(market):
    bars = market.bars([(30_000,) * 4, (30_000,) * 4, (28_000, 28_100, 27_900, 28_000)])
    out = run_backtest(
        market.inputs(bars),
        market.predictor({0: 0.7, 1: 0.55}),
        policy(stop_loss_frac=0.02),
        market.execution(),
    )
    stop = only(out.fills, reason="stop_loss")
    assert stop.ts_event == market.close_time(1) + LATENCY
    assert (stop.reference_price, stop.price) == (28_000.0, 28_000.0)


def test_a_short_is_stopped_above(market):
    bars = market.bars([(30_000,) * 4, (30_000, 31_000, 29_900, 30_000), (32_000,) * 4])
    out = run_backtest(
        market.inputs(bars),
        market.predictor({0: 0.3}),
        policy(stop_loss_frac=0.02),
        market.execution(),
    )
    assert only(out.fills, reason="stop_loss").price == 30_600.0


def test_a_stop_that_a_gap_and_an_exit_reach_together_closes_once(market):
    bars = market.bars([(30_000,) * 4, (30_000,) * 4, (28_000,) * 4, (28_000,) * 4])
    out = run_backtest(
        market.inputs(bars),
        market.predictor({0: 0.7, 1: 0.3}),
        policy(stop_loss_frac=0.02, allow_short=False),
        market.execution(),
    )
    assert len(out.fills) == 2
    assert out.positions.reason.tolist() == ["stop_loss"]
    (refused,) = out.reconciliation.refused
    assert "would have increased position" in refused


def test_the_stop_of_a_closed_position_is_gone(market):
    bars = market.bars([*[(30_000.0,) * 4] * 3, (30_000, 30_000, 20_000, 30_000)])
    out = run_backtest(
        market.inputs(bars),
        market.predictor({0: 0.7, 1: 0.4}),
        policy(stop_loss_frac=0.02, allow_short=False),
        market.execution(),
    )
    assert only(out.orders, type="STOP_MARKET").status == "CANCELED"
    assert out.positions.reason.tolist() == ["exit_opposite"]


def test_settlements_are_paid_on_the_mark_price(market):
    # 1 BTC long over two settlements of 0.1 % at 30,000 loses 60 USDT.
    count = 66
    times = {market.START + hours * HOUR: 0.001 for hours in (0, 8, 16)}
    inputs = market.inputs(market.flat(count), funding={market.BTC: market.funding(times)})
    execution = market.execution(funding="recorded", starting_balance=60_000.1, taker_fee_bps=0.0)
    out = run_backtest(
        inputs, market.predictor({0: 1 - 1e-12}), policy(min_holding_bars=999), execution
    )
    assert out.fills.quantity.tolist() == [1.0]
    assert out.funding.payment.tolist() == [-30.0, -30.0]
    assert out.funding.mark_price.tolist() == [30_000.0, 30_000.0]
    assert only(out.positions).funding == -60.0
    assert out.equity.equity.iloc[-1] == pytest.approx(60_000.1 - 60.0, abs=1e-9)
    assert out.reconciliation.settlements_due == out.reconciliation.settlements_booked == 2


def test_the_mark_price_of_a_settlement_is_the_close_of_its_own_stamp(market):
    rows = [(30_000 + i, 30_001 + i, 30_000 + i, 30_001 + i) for i in range(34)]
    times = {market.START + hours * HOUR: 0.001 for hours in (0, 8)}
    inputs = market.inputs(market.bars(rows), funding={market.BTC: market.funding(times)})
    out = run_backtest(
        inputs,
        market.predictor({0: 0.9}),
        policy(min_holding_bars=999),
        market.execution(funding="recorded"),
    )
    assert out.funding.mark_price.tolist() == [30_032.0]


@pytest.mark.parametrize("hours", [(), (0,), (0, 16)])
def test_recorded_funding_without_records_is_refused_and_not_taken_as_zero(market, hours):
    times = {market.START + hour * HOUR: 0.001 for hour in hours}
    funding = {market.BTC: market.funding(times)} if times else {}
    inputs = market.inputs(market.flat(66), funding=funding)
    with pytest.raises(DataError, match=r"funding of BTCUSDT-PERP.BINANCE must .*had none|absent"):
        run_backtest(inputs, market.predictor({}), policy(), market.execution(funding="recorded"))


def test_a_position_open_at_the_end_is_marked_and_its_closing_cost_shown(market):
    bars = market.bars([(30_000,) * 4, (30_000,) * 4, (31_000,) * 4])
    out = run_backtest(
        market.inputs(bars),
        market.predictor({0: 0.7, 1: 0.7}),
        policy(),
        market.execution(slippage_bps=2.0),
    )
    position = only(out.positions)
    assert (position.reason, position.average_close) == ("open_at_end", 31_000.0)
    # Sold at 30,993.8 for a fee of 5 bp: 6.2 of slippage and 15.4969 a coin.
    assert position.closing_cost == pytest.approx(position.quantity * 21.6969, abs=1e-6)
    assert out.equity.equity.iloc[-1] == pytest.approx(
        100_000 + position.realized_pnl - position.commission, abs=1e-6
    )


def test_an_order_of_the_last_bar_is_listed_and_never_filled(market):
    out = run_backtest(
        market.inputs(market.flat(3)), market.predictor({2: 0.7}), policy(), market.execution()
    )
    assert out.fills.empty
    assert out.orders.status.tolist() == ["OPEN_AT_END"]
    assert out.equity.equity.tolist() == [100_000.0] * 3


def test_predictions_wait_for_all_instruments_and_a_missing_bar_degrades_them(market):
    names = (market.BTC, market.ETH)
    btc = market.flat(6)
    eth = market.flat(6, 2_000.0, market.ETH, missing=(2, 4))
    wanted = {
        2: dict.fromkeys(names, 0.7),
        3: dict.fromkeys(names, 0.7),
        4: dict.fromkeys(names, 0.2),
    }
    out = run_backtest(
        market.inputs(btc, eth),
        market.predictor(wanted, names),
        policy(position_frac=0.3),
        market.execution(),
    )
    found = out.decisions.set_index(["ts_init", "instrument_id"]).reason
    assert found[market.close_time(2)].to_dict() == {market.BTC: "degraded"}
    assert found[market.close_time(3)].to_dict() == dict.fromkeys(names, "enter_long")
    # A degraded prediction may leave a position but not turn it.
    assert found[market.close_time(4)].to_dict() == {market.BTC: "exit_opposite"}
    exits = out.fills[out.fills.reason == "exit_opposite"]
    assert exits.ts_event.tolist() == [market.close_time(4) + LATENCY]


@pytest.mark.parametrize("part", [2, 100_000])
@pytest.mark.parametrize("others", [(), (1, 2)], ids=["the others trade on", "nobody trades"])
@pytest.mark.parametrize("alone", [True, False])
def test_an_order_sent_before_a_gap_waits_for_its_own_next_open(
    market, monkeypatch, alone, others, part
):
    monkeypatch.setattr(backtest, "PART_RECORDS", part)
    rows = [(30_000,) * 4, *[(1.0,) * 4] * 2, (40_000, 40_200, 40_000, 40_100), (41_000,) * 4]
    btc = market.bars(rows, missing=(1, 2))
    eth = market.flat(5, 2_000.0, market.ETH, missing=others)
    names = (market.BTC,) if alone else (market.BTC, market.ETH)
    # A settlement within the gap finds nothing held, and moves no order.
    inside = market.START + 2 * market.INTERVAL
    rates = {market.START: 0.0, inside: 0.01}
    out = run_backtest(
        market.inputs(
            *((btc,) if alone else (btc, eth)),
            funding={name: market.funding(rates, name) for name in names},
        ),
        market.predictor({0: {market.BTC: 0.7}}, names),
        policy(position_frac=0.3),
        market.execution(funding="recorded"),
    )
    fill = only(out.fills)
    assert (fill.ts_event, fill.price) == (market.close_time(2) + LATENCY, 40_000.0)
    assert only(out.orders).ts_init == market.close_time(0)
    assert out.funding.empty


def test_an_exit_that_waits_over_a_gap_meets_the_stop_at_the_open_after_it(market):
    rows = [(30_000,) * 4, (30_000,) * 4, (1.0,) * 4, (28_000,) * 4, (28_000,) * 4]
    names = (market.BTC, market.ETH)
    out = run_backtest(
        market.inputs(
            market.bars(rows, missing=(2,)), market.flat(5, 2_000.0, market.ETH, missing=())
        ),
        market.predictor({0: {market.BTC: 0.7}, 1: {market.BTC: 0.3}}, names),
        policy(stop_loss_frac=0.02, allow_short=False, position_frac=0.3),
        market.execution(),
    )
    stop = only(out.fills, reason="stop_loss")
    assert (stop.ts_event, stop.price) == (market.close_time(2) + LATENCY, 28_000.0)
    assert out.positions.reason.tolist() == ["stop_loss"]
    (refused,) = out.reconciliation.refused
    assert "would have increased position" in refused


def test_a_reversal_waits_over_a_gap_as_a_whole(market):
    bars = market.bars(
        [(30_000,) * 4, (30_000,) * 4, (1.0,) * 4, (30_100,) * 4, (30_100,) * 4], missing=(2,)
    )
    out = run_backtest(
        market.inputs(bars), market.predictor({0: 0.7, 1: 0.3}), policy(), market.execution()
    )
    assert out.fills.price.tolist() == [30_000.0, 30_100.0, 30_100.0]
    assert out.fills.side.tolist() == [1, -1, -1]


def test_an_order_before_the_end_of_its_own_instrument_is_listed_and_never_filled(market):
    names = (market.BTC, market.ETH)
    out = run_backtest(
        market.inputs(market.flat(3), market.flat(9, 2_000.0, market.ETH)),
        market.predictor({2: {market.BTC: 0.7}}, names),
        policy(position_frac=0.3),
        market.execution(),
    )
    assert out.fills.empty
    assert out.orders.status.tolist() == ["OPEN_AT_END"]
    assert out.reconciliation.open_at_end == tuple(out.orders.client_order_id)


def test_a_reversal_closes_and_opens_at_one_open(market):
    bars = market.bars([(30_000,) * 4, (30_000,) * 4, (30_100,) * 4, (30_100,) * 4])
    out = run_backtest(
        market.inputs(bars), market.predictor({0: 0.7, 1: 0.3}), policy(), market.execution()
    )
    assert out.fills.side.tolist() == [1, -1, -1]
    assert out.fills.price.tolist() == [30_000.0, 30_100.0, 30_100.0]
    assert out.decisions.quantity.iloc[1] == pytest.approx(-out.fills.quantity.iloc[1:].sum())
    assert out.positions.side.tolist() == [1, -1]


def test_too_small_an_order_is_explained(market):
    execution = market.execution(starting_balance=50.0)
    out = run_backtest(
        market.inputs(market.flat(3)), market.predictor({0: 0.7}), policy(), execution
    )
    assert out.decisions.reason.tolist() == ["below_minimum"]
    assert out.orders.empty


def test_an_empty_run_has_frames_with_types(market):
    out = run_backtest(
        market.inputs(market.flat(3)), market.predictor({}), policy(), market.execution()
    )
    assert out.fills.dtypes["ts_event"] == "int64"
    assert out.fills.dtypes["price"] == "float64"
    assert len(out.equity) == 3


def test_prices_off_the_tick_are_refused_instead_of_rounded(market):
    with pytest.raises(DataError, match=r"at most 1 decimals, was 30000\.05"):
        market.inputs(market.bars([(30_000.05,) * 4]))


def test_binary_noise_in_the_columns_changes_nothing(market):
    noisy = 39_317.299999999996
    assert noisy != 39_317.3
    out = run_backtest(
        market.inputs(market.flat(4, noisy)),
        market.predictor({0: 0.7}),
        policy(),
        market.execution(),
    )
    assert out.fills.reference_price.tolist() == [39_317.3]
    assert out.positions.average_close.tolist() == [39_317.3]


@pytest.mark.parametrize(
    ("changes", "execution", "message"),
    [
        ({"position_frac": 4.0}, {"leverage": 5.0}, "leverage must be at least 8"),
        ({}, {"latency_ms": 60_000}, None),
    ],
)
def test_contradictory_settings_are_refused(market, changes, execution, message):
    arguments = (
        market.inputs(market.flat(3)),
        market.predictor({}),
        policy(**changes),
        market.execution(**execution),
    )
    if message is None:
        run_backtest(*arguments)
        return
    with pytest.raises(ConfigError, match=message):
        run_backtest(*arguments)


def test_instruments_must_be_those_of_the_predictor(market):
    with pytest.raises(ConfigError, match="same instruments in the same order"):
        run_backtest(
            market.inputs(market.flat(3)),
            market.predictor({}, (market.ETH,)),
            policy(),
            market.execution(),
        )


def test_two_runs_are_equal_to_the_bit(market):
    bars = market.bars([(30_000 + 7 * i % 90,) * 4 for i in range(60)])
    probs = {i: 0.05 + 0.9 * ((i * 37) % 60) / 60 for i in range(60)}
    runs = [
        run_backtest(
            market.inputs(bars),
            market.predictor(probs),
            policy(stop_loss_frac=0.001),
            market.execution(slippage_bps=1.5),
        )
        for _ in range(2)
    ]
    for name in ("decisions", "orders", "fills", "positions", "funding", "equity"):
        pd.testing.assert_frame_equal(
            getattr(runs[0], name), getattr(runs[1], name), check_exact=True
        )
    assert len(runs[0].fills) > 20


def test_a_time_that_was_predicted_is_reported(market):
    seen = []
    run_backtest(
        market.inputs(market.flat(3)),
        market.predictor({}),
        policy(),
        market.execution(),
        progress=lambda *call: seen.append(call),
    )
    assert seen[-1] == ("replay", 3, 3)
