"""Stops that trail, targets, and what replaces them, in the real engine on made bars."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.progress import no_progress
from strategies.backtest import FusionPolicy, Replay, run_backtest
from strategies.execution import target_reference
from strategies.fusion import FusionStrategy
from strategies.liquidation import maintenance_margin
from strategies.rebalance import RebalanceConfig
from strategies.risk_policy import RiskPolicy
from strategies.sizing_config import SizingConfig
from strategies.stops import ExitRules, StopConfig

LATENCY = 50_000_000
UP, DOWN = 0.9, 0.1


def stops(frac=0.01, target=None, *, trailing=False):
    """Stops at a fixed distance, targets at a multiple of it."""
    return StopConfig(
        stop_vol_multiple=1.0,
        target_vol_multiple=target,
        min_frac=frac,
        max_frac=frac,
        trailing=trailing,
    )


def policy(config, **changes):
    return FusionPolicy(
        **{
            "entry_threshold": 0.6,
            "exit_threshold": 0.5,
            "position_frac": 0.3,
            "min_holding_bars": 0,
            "stops": config,
            **changes,
        }
    )


def flat(price):
    return (price,) * 4


def played(market, rows, config, *, signals=None, execution=None, **changes):
    """Run bars in which a position is opened at the open of the second."""
    return run_backtest(
        market.inputs(market.bars(rows)),
        market.predictor({0: UP} if signals is None else signals),
        policy(config, **changes),
        execution or market.execution(),
    )


def exits(out):
    """Stops and targets in the order in which they were sent: type, trigger, status, reason."""
    rows = out.orders[out.orders.type.isin(["STOP_MARKET", "MARKET_IF_TOUCHED"])]
    return [
        ("S" if row.type == "STOP_MARKET" else "T", row.trigger_price, row.status, row.reason)
        for row in rows.itertuples()
    ]


# ---- targets


@pytest.mark.parametrize(
    ("row", "price", "close"),
    [
        ((30_000, 30_600, 30_000, 30_100), 30_600.0, True),
        ((30_900, 31_000, 30_800, 30_900), 30_900.0, False),
    ],
    ids=["a touch fills at the target", "a gap fills at the better open"],
)
def test_a_target_takes_the_profit_and_ends_the_stop(market, row, price, close):
    rows = [flat(30_000), flat(30_000), row, flat(row[3])]
    out = played(market, rows, stops(0.01, 2.0))
    assert exits(out) == [
        ("S", 29_700.0, "CANCELED", "stop_loss"),
        ("T", 30_600.0, "FILLED", "take_profit"),
    ]
    fill = out.fills.iloc[-1]
    assert (fill.reason, fill.price, fill.reference_price) == ("take_profit", price, price)
    assert fill.ts_event == (market.close_time(2) if close else market.close_time(1) + LATENCY)
    assert out.orders.reduce_only.tolist() == [False, True, True]


def test_a_target_takes_and_pays_slippage_like_a_stop(market):
    execution = market.execution(slippage_bps=2.0)
    rows = [flat(30_000), (30_000, 31_000, 30_000, 30_100), flat(30_100)]
    out = played(market, rows, stops(0.01, 2.0), execution=execution)
    trigger = exits(out)[1][1]
    assert trigger == 30_606.1  # 2 % above 30,006, rounded towards it
    fill = out.fills.iloc[-1]
    assert fill.reference_price == trigger
    assert fill.price == 30_599.9
    assert fill.commission == pytest.approx(fill.price * fill.quantity * 5e-4)


@pytest.mark.parametrize(
    ("signal", "filled", "difference"),
    [(UP, "take_profit", 29_700.0 - 30_600.0), (DOWN, "stop_loss", 30_300.0 - 29_400.0)],
    ids=["a long's target first", "a short's stop first"],
)
def test_a_bar_that_held_both_is_counted_with_the_other_order(market, signal, filled, difference):
    rows = [flat(30_000), (30_000, 30_700, 29_300, 30_000), flat(30_000)]
    out = played(market, rows, stops(0.01, 2.0), signals={0: signal})
    assert out.positions.reason.tolist() == [filled]
    found = out.reconciliation.ambiguous
    quantity = out.positions.quantity.iloc[0]
    assert found.exits == 1
    assert found.as_filled == pytest.approx(out.positions.realized_pnl.iloc[0])
    assert found.difference == pytest.approx(difference * quantity)
    assert "held both stop and target: 1, worth" in str(found)
    assert found.to_json()["difference"] == found.difference


@pytest.mark.parametrize(
    "row",
    [(30_000, 30_700, 29_800, 30_000), (30_000, 30_500, 29_300, 30_000)],
    ids=["target only", "stop only"],
)
def test_a_bar_that_held_one_of_them_is_not_ambiguous(market, row):
    out = played(market, [flat(30_000), row, flat(30_000)], stops(0.01, 2.0))
    assert len(out.positions) == 1
    assert out.reconciliation.ambiguous.exits == 0


def test_the_cool_down_follows_stops_only(market):
    rows = [flat(30_000), flat(30_000), (30_000, 30_700, 30_000, 30_000), *[flat(30_000)] * 3]
    signals = dict.fromkeys(range(5), UP)
    out = played(market, rows, stops(0.01, 2.0), signals=signals, cooldown_bars=2)
    assert out.decisions.reason.tolist()[:3] == ["enter_long", "hold", "enter_long"]
    rows[2] = (30_000, 30_290, 30_000, 30_290)
    rows[3] = (30_290, 30_290, 29_900, 30_000)
    config = stops(0.01, 5.0, trailing=True)
    out = played(market, rows, config, signals=signals, cooldown_bars=2)
    assert out.positions.reason.iloc[0] == "trailing_stop"
    assert out.decisions.reason.tolist()[3:] == ["cooldown", "cooldown"]


# ---- trailing


def test_a_stop_follows_the_best_price_and_the_old_ones_go(market):
    rows = [
        flat(30_000),
        (30_000, 30_200, 30_000, 30_200),
        (30_200, 30_200, 30_100, 30_200),
        (30_200, 30_500, 30_200, 30_500),
        (30_500, 30_500, 30_195, 30_300),
        (30_300, 30_300, 30_150, 30_200),
        flat(30_200),
    ]
    out = played(market, rows, stops(trailing=True))
    assert exits(out) == [
        ("S", 29_700.0, "CANCELED", "stop_loss"),
        ("S", 29_898.0, "CANCELED", "trailing_stop"),
        ("S", 30_195.0, "FILLED", "trailing_stop"),
    ]
    # Moved at the closes of bars 1 and 3; bar 4 reaches what was sent at the close of bar 3.
    sent = out.orders[out.orders.type == "STOP_MARKET"].ts_init.tolist()
    assert sent == [
        market.close_time(0) + LATENCY,
        market.close_time(1),
        market.close_time(3),
    ]
    fill = out.fills.iloc[-1]
    assert (fill.reason, fill.price) == ("trailing_stop", 30_195.0)
    assert fill.ts_event == market.close_time(4)


def test_a_close_that_has_passed_the_new_trigger_is_left_at_the_market(market):
    rows = [flat(30_000), (30_000, 31_000, 30_000, 30_500), flat(30_400), flat(30_400)]
    out = played(market, rows, stops(trailing=True))
    # 1 % below 31,000 is 30,690: above the close.
    assert exits(out) == [("S", 29_700.0, "CANCELED", "stop_loss")]
    left = out.fills.iloc[-1]
    assert (left.reason, left.price) == ("trailing_stop", 30_400.0)
    assert left.ts_event == market.close_time(1) + LATENCY
    assert out.decisions.reason.tolist() == ["enter_long"]


def test_a_decision_at_the_close_that_leaves_waits_for_it(market):
    rows = [flat(30_000), (30_000, 31_000, 30_000, 30_500), flat(30_400), flat(30_400)]
    out = played(market, rows, stops(trailing=True), signals={0: UP, 1: DOWN})
    assert out.decisions.reason.tolist() == ["enter_long", "order_pending"]


@pytest.mark.parametrize(
    ("row", "reasons", "ended"),
    [
        ((30_600, 30_700, 30_600, 30_600), ["stop_refused"], "FILLED"),
        ((30_600, 30_700, 29_600, 29_800), ["stop_loss"], "REJECTED"),
    ],
    ids=["left at the next open", "the old stop was still there"],
)
def test_where_the_new_stop_is_refused_the_old_one_stays_until_all_is_closed(
    market, row, reasons, ended
):
    rows = [flat(30_000), (30_000, 31_000, 30_000, 30_900), row, flat(30_600), flat(30_600)]
    out = played(market, rows, stops(trailing=True))
    old, new = exits(out)
    assert new == ("S", 30_690.0, "REJECTED", "trailing_stop")
    assert old[2] == ("CANCELED" if ended == "FILLED" else "FILLED")
    assert out.positions.reason.tolist() == reasons
    forced = out.orders[out.orders.reason == "stop_refused"].iloc[0]
    assert (forced.ts_init, forced.status) == (market.close_time(1) + LATENCY, ended)
    assert len(out.reconciliation.refused) == (1 if ended == "FILLED" else 2)


def test_a_stop_trails_though_another_instrument_misses_its_bar(market):
    rise = [flat(30_000), (30_000, 30_200, 30_000, 30_200), *[flat(30_200)] * 2]
    other = market.bars([flat(2_000)] * 4, market.ETH, missing=(1,))
    names = (market.BTC, market.ETH)
    out = run_backtest(
        market.inputs(market.bars(rise), other),
        market.predictor({0: {market.BTC: UP}}, names),
        policy(stops(trailing=True)),
        market.execution(),
    )
    assert [trigger for _, trigger, *_ in exits(out)] == [29_700.0, 29_898.0]


def test_a_gap_after_a_replacement_meets_only_the_new_stop(market):
    rows = [flat(30_000), (30_000, 30_200, 30_000, 30_200), flat(30_200), *[flat(29_000)] * 2]
    bars = market.bars(rows, missing=(2,))
    out = run_backtest(
        market.inputs(bars),
        market.predictor({0: UP}),
        policy(stops(trailing=True)),
        market.execution(),
    )
    assert [(status, reason) for _, _, status, reason in exits(out)] == [
        ("CANCELED", "stop_loss"),
        ("FILLED", "trailing_stop"),
    ]
    assert out.fills.price.iloc[-1] == 29_000.0


# ---- what else ends or changes a position


def test_a_rebalanced_position_is_covered_anew_at_the_same_triggers(market):
    names, count = (market.BTC, market.ETH), 160
    closes = 1_000.0 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.01, (2, count)), 1))
    bars = [
        market.bars([flat(round(price, 1)) for price in closes[place]], name)
        for place, name in enumerate(names)
    ]
    held = policy(
        stops(0.5, 1.5),
        rebalance=RebalanceConfig(schedule="0 * * * *", drift_frac=0.01, max_position=0.4),
    )
    # Bought late: a rebalancing must know a hundred returns.
    signals = {bar: dict.fromkeys(names, UP if bar >= 130 else 0.5) for bar in range(count - 1)}
    out = run_backtest(
        market.inputs(*bars), market.predictor(signals, names), held, market.execution()
    )
    changed = out.orders[(out.orders.reason == "rebalance") & (out.orders.status == "FILLED")]
    assert len(changed) > 1
    for name in names:
        own = out.orders[out.orders.instrument_id == name]
        fills = out.fills[out.fills.instrument_id == name]
        left = float((fills.side * fills.quantity).sum())
        for kind in ("STOP_MARKET", "MARKET_IF_TOUCHED"):
            sent = own[own.type == kind]
            assert sent.status.tolist()[:-1] == ["CANCELED"] * (len(sent) - 1)
            assert sent.trigger_price.nunique() == 1
            assert sent.quantity.iloc[-1] == pytest.approx(left)
            assert len(sent) == 1 + (changed.instrument_id == name).sum()


def test_a_guard_that_flattens_and_a_liquidation_leave_no_exit_alive(market):
    config = stops(0.15, 5.0, trailing=True)
    rows = [flat(30_000), flat(30_000), (30_000, 30_000, 27_000, 27_000), *[flat(27_000)] * 3]
    limits = RiskPolicy(
        found_groups=None, sizing={}, max_symbol_share=10.0, max_daily_loss=0.02, max_drawdown=0.9
    )
    out = played(market, rows, config, risk=limits)
    assert out.positions.reason.tolist() == ["risk_guard"]
    assert {status for _, _, status, _ in exits(out)} == {"CANCELED"}
    rows = [flat(30_000), flat(30_000), flat(26_700), flat(26_700)]
    execution = market.execution(liquidation=True, leverage=20.0)
    assert maintenance_margin([1.0], 0.004) > 0.0
    out = played(market, rows, config, execution=execution, position_frac=9.99)
    assert out.positions.reason.tolist() == ["liquidation"]
    assert {status for _, _, status, _ in exits(out)} == {"CANCELED"}


# ---- the policy


def test_exit_rules_are_what_the_policy_says():
    assert policy(stops(0.01, 2.0, trailing=True)).exit_rules == ExitRules(0.01, 0.01, 2.0, True)
    assert policy(None, stop_loss_frac=0.02).exit_rules == ExitRules(0.02, 0.02, None, False)
    assert policy(None).exit_rules is None


def test_a_bet_between_stop_and_target_has_the_payoff_ratio_of_the_target():
    between = SizingConfig(method="kelly", loss_at="stop")
    assert policy(stops(0.01, 2.5), sizing=between).position_sizing.payoff_ratio == 2.5
    assert policy(stops(0.01), sizing=between).position_sizing.payoff_ratio == 1.0
    moves = SizingConfig(method="kelly")
    assert policy(stops(0.01, 2.5), sizing=moves).position_sizing.payoff_ratio == 1.0
    limits = RiskPolicy(sizing={"method": "kelly", "loss_at": "stop"})
    assert policy(stops(0.01, 2.5), risk=limits).position_sizing.payoff_ratio == 2.5


def test_a_gap_over_a_target_is_to_our_advantage():
    assert target_reference(-1, 105.0, 107.0) == 107.0
    assert target_reference(-1, 105.0, 100.0) == 105.0
    assert target_reference(1, 95.0, 93.0) == 93.0
    assert target_reference(1, 95.0, 100.0) == 95.0


# ---- whatever the bars do


class _Watched(FusionStrategy):
    """Notes when stops become alive and die, and when positions begin and end."""

    def note(self, what, event):
        if not hasattr(self, "seen"):
            self.seen = []
        self.seen.append((event.ts_event, what, event))

    def on_order_accepted(self, event):
        self.note("accepted", event)
        super().on_order_accepted(event)

    def on_order_canceled(self, event):
        self.note("ended", event)
        super().on_order_canceled(event)

    def on_order_filled(self, event):
        self.note("ended", event)
        super().on_order_filled(event)

    def on_position_opened(self, event):
        self.note("opened", event)
        super().on_position_opened(event)

    def on_position_closed(self, event):
        self.note("closed", event)
        super().on_position_closed(event)


class _WatchedReplay(Replay):
    def strategy(self):
        plain = super().strategy()
        self.watched = _Watched(plain.policy, plain.settings, self.recorder)
        return self.watched


def naked(replay):
    """Return the times at which a position had no stop alive though it was old enough to."""
    alive, opened, found = set(), None, []
    events = getattr(replay.watched, "seen", [])
    for place, (ts, what, event) in enumerate(events):
        if what in ("opened", "closed"):
            opened = ts if what == "opened" else None
        else:
            name = event.client_order_id.value
            if replay.recorder.orders[name].type == "STOP_MARKET":
                (alive.add if what == "accepted" else alive.discard)(name)
        settled = place + 1 == len(events) or events[place + 1][0] > ts
        # The alert that delivers an order comes a nanosecond after it.
        if settled and opened is not None and ts > opened + 2 * LATENCY and not alive:
            found.append(ts)
    return found


def walks(draw):
    """Bars of a wild walk: steps of up to 2 %, wicks of up to 2 %, gaps between them."""
    step = st.floats(-0.02, 0.02)
    wick = st.floats(0.0, 0.02)
    rows, price = [], 30_000.0
    for _ in range(draw(st.integers(4, 14))):
        opened = price * (1.0 + draw(st.sampled_from([0.0, 0.0, 0.01, -0.01])))
        close = opened * (1.0 + draw(step))
        high = max(opened, close) * (1.0 + draw(wick))
        low = min(opened, close) * (1.0 - draw(wick))
        rows.append(tuple(round(one, 1) for one in (opened, high, low, close)))
        price = close
    return rows


@st.composite
def games(draw):
    rows = walks(draw)
    signals = {bar: draw(st.sampled_from([UP, DOWN, 0.5])) for bar in range(len(rows) - 1)}
    config = stops(
        draw(st.sampled_from([0.003, 0.01])),
        draw(st.sampled_from([None, 1.0, 3.0])),
        trailing=draw(st.booleans()),
    )
    missing = draw(st.sets(st.integers(2, len(rows) - 2), max_size=2)) if len(rows) > 4 else set()
    return rows, signals, config, tuple(missing)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(games())
def test_whatever_the_bars_do_the_books_balance_and_no_position_is_naked(market, game):
    rows, signals, config, missing = game
    replay = _WatchedReplay(
        market.inputs(market.bars(rows, missing=missing)),
        market.predictor(signals),
        policy(config),
        market.execution(slippage_bps=1.0),
    )
    replay.run(no_progress)
    assert naked(replay) == []
