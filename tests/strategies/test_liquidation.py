"""Positions that the exchange takes away: in the real engine, and checked against the account."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import replace

import pytest

from catalog.errors import RunFailedError
from catalog.progress import no_progress
from strategies.backtest import FusionPolicy, Replay, run_backtest
from strategies.liquidation import liquidation_price
from strategies.liquidation_check import LiquidationCheck
from tests.strategies.settings import plain_execution

LATENCY = 50_000_000


def policy(**changes):
    fields = {"entry_threshold": 0.6, "exit_threshold": 0.5, "min_holding_bars": 0}
    return FusionPolicy(**{**fields, "position_frac": 5.0, **changes})


def flat(price):
    return (price,) * 4


def leveraged(**changes):
    return plain_execution(leverage=10.0, **{"liquidation": True, **changes})


def crash_to(price, market):
    """Five times the equity in BTC, which opens the fourth bar at a price and stays there."""
    bars = market.bars([flat(30_000)] * 3 + [flat(price)] * 3)
    return market.inputs(bars), market.predictor(dict.fromkeys(range(5), 0.99))


def test_a_crash_through_the_maintenance_margin_takes_the_position_away(market):
    inputs, predictor = crash_to(24_000, market)
    out = run_backtest(inputs, predictor, policy(), leveraged(slippage_bps=10.0))
    entry, taken = out.fills.itertuples()
    assert (taken.reason, taken.side, taken.quantity) == ("liquidation", -1, entry.quantity)
    # At the open that showed the loss, with slippage and fee as any other order.
    assert taken.ts_event == market.close_time(2) + LATENCY
    assert (taken.reference_price, taken.price) == (24_000.0, 23_976.0)
    assert taken.commission == pytest.approx(entry.quantity * 23_976 * 5e-4, abs=1e-8)
    row = out.orders.set_index("client_order_id").loc[taken.client_order_id]
    assert (row.type, row.status, row.reason) == ("LIQUIDATION", "FILLED", "liquidation")
    assert out.positions.reason.tolist() == ["liquidation"]
    # What is left, here a debt, is all that there is to trade with.
    assert out.equity.equity.iloc[-1] < 0.0
    assert out.decisions.reason.iloc[-1] == "below_minimum"


@pytest.mark.parametrize(("above", "liquidated"), [(1.001, False), (0.999, True)])
def test_the_margin_is_that_of_the_whole_value_at_the_entry(market, above, liquidated):
    # The engine's own would be a tenth of it, at ten times leverage.
    quantity = 16.5
    cash = 100_000.0 - quantity * 30_000 * 5e-4
    # Margin of the value at the entry: as if the position needed it in cash beforehand.
    price = liquidation_price(quantity, 30_000.0, cash - 0.004 * quantity * 30_000, 0.0)
    inputs, predictor = crash_to(round(price * above, 1), market)
    out = run_backtest(inputs, predictor, policy(), leveraged())
    assert out.fills.quantity.iloc[0] == quantity
    assert ("liquidation" in set(out.fills.reason)) == liquidated


def test_without_liquidation_the_position_is_held_through_debt(market):
    inputs, predictor = crash_to(20_000, market)
    out = run_backtest(inputs, predictor, policy(), leveraged(liquidation=False))
    assert set(out.fills.reason) == {"enter_long"}


def test_all_positions_go_together_and_their_stops_are_cancelled(market):
    falling = market.bars([flat(30_000)] * 3 + [flat(18_000)] * 3)
    steady = market.bars([flat(2_000)] * 6, market.ETH)
    names = (market.BTC, market.ETH)
    predictor = market.predictor({0: dict.fromkeys(names, 0.99)}, names)
    out = run_backtest(
        market.inputs(falling, steady),
        predictor,
        policy(position_frac=2.5, stop_loss_frac=0.5),
        leveraged(),
    )
    taken = out.fills[out.fills.reason == "liquidation"]
    assert set(taken.instrument_id) == set(names)
    assert taken.ts_event.nunique() == 1
    stops = out.orders[out.orders.type == "STOP_MARKET"]
    assert stops.status.tolist() == ["CANCELED"] * 2


def test_a_liquidation_takes_everything_however_thin_the_market_is(market):
    rows = [flat(30_000)] * 3 + [flat(24_000)] * 3
    bars = market.bars(rows, volumes=[40.0, 40.0, 1.0, 1.0, 1.0, 1.0])
    execution = leveraged(max_participation=0.5, impact_bps=10.0, impact_cap_bps=20.0)
    predictor = market.predictor({0: 0.99})
    out = run_backtest(market.inputs(bars), predictor, policy(), execution)
    entry, taken = out.fills.itertuples()
    assert entry.quantity == taken.quantity == 16.5
    # Of sixteen times the volume of the last completed bar the impact is at its cap.
    assert taken.price == 23_952.0


def test_a_stop_that_the_same_open_passes_comes_first(market):
    inputs, predictor = crash_to(24_000, market)
    out = run_backtest(inputs, predictor, policy(stop_loss_frac=0.1), leveraged())
    assert out.fills.reason.tolist()[:2] == ["enter_long", "stop_loss"]


class Ruined(Replay):
    """A replay in which an account without free cash may be denied an entry."""

    def reconcile(self, engine, records):
        return replace(super().reconcile(engine, records), denied=())


def wild(market, seed):
    """Two instruments that jump about, at five to nine times leverage."""
    draw = random.Random(seed)
    names = (market.BTC, market.ETH)
    arrays = []
    for name, price, decimals in zip(names, (30_000.0, 2_000.0), (1, 2), strict=True):
        rows = []
        for _ in range(60):
            open_ = price * math.exp(draw.gauss(0, 0.09))
            close = open_ * math.exp(draw.gauss(0, 0.03))
            high, low = max(open_, close) * 1.01, min(open_, close) * 0.99
            rows.append(tuple(round(one, decimals) for one in (open_, high, low, close)))
            price = close
        missing = [i for i in range(1, 60) if draw.random() < 0.05]
        arrays.append(market.bars(rows, name, missing=missing))
    # A view that lasts: who changes it often is stopped out before.
    views = {name: [draw.choice([0.1, 0.9]) for _ in range(6)] for name in names}
    probs = {i: {name: views[name][i // 10] for name in names} for i in range(60)}
    chosen = policy(position_frac=draw.choice([1.5, 2.5]), stop_loss_frac=draw.choice([None, 0.3]))
    execution = leveraged(
        slippage_bps=draw.choice([0.0, 2.0]), max_participation=draw.choice([None, 1.0])
    )
    return Ruined(market.inputs(*arrays), market.predictor(probs, names), chosen, execution)


def test_wild_accounts_are_liquidated_just_when_they_must_be(market):
    taken = 0
    for seed in range(25):
        out = wild(market, seed).run(no_progress)
        taken += int((out.fills.reason == "liquidation").sum())
    assert taken >= 10


@pytest.fixture(scope="module")
def liquidated(market):
    """A finished run with a liquidation."""
    for seed in range(25):
        replay = wild(market, seed)
        replay.run(no_progress)
        if any(fill.reason == "liquidation" for fill in replay.recorder.fills):
            return replay
    raise AssertionError("no run was liquidated")


def alter_price(recorder):
    row = next(i for i, one in enumerate(recorder.fills) if one.reason == "liquidation")
    recorder.fills[row] = recorder.fills[row]._replace(price=recorder.fills[row].price + 0.1)


def alter_cash(by):
    def alter(recorder):
        history = recorder.ledger.history
        recorder.starting_balance += by
        recorder.ledger.history = [one._replace(cash=one.cash + by) for one in history]

    return alter


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (alter_price, "must be for"),
        (alter_cash(50_000.0), "must not be taken away"),
        (alter_cash(-50_000.0), "must be taken away"),
    ],
)
def test_a_mistaken_liquidation_is_found(liquidated, alter, message):
    recorder = copy.deepcopy(liquidated.recorder)
    assert LiquidationCheck(recorder, liquidated.fill_rules()).faults() == ()
    alter(recorder)
    found = LiquidationCheck(recorder, liquidated.fill_rules()).faults()
    assert any(message in text for text in found), found


def test_a_liquidation_that_the_engine_leaves_out_fails_the_run(market):
    inputs, predictor = crash_to(24_000, market)

    class Lenient(Replay):
        def add_venue(self, engine, now):
            whole, self.execution = self.execution, leveraged(liquidation=False)
            super().add_venue(engine, now)
            self.execution = whole

    with pytest.raises(RunFailedError, match=r"liquidations mistaken or missed: positions must be"):
        Lenient(inputs, predictor, policy(), leveraged()).run(no_progress)
