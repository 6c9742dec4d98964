"""The strategy with sizing, volatility stops and risk guard, in the real engine on made bars."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from catalog.errors import ConfigError, RunFailedError
from catalog.progress import no_progress
from research.predictions import stamp_predictions
from research.predictor import PrecomputedPredictions
from strategies import protection
from strategies.backtest import FusionPolicy, Replay, run_backtest
from strategies.execution import stop_trigger
from strategies.guard_orders import Refused
from strategies.risk_policy import RiskPolicy
from strategies.sizing_config import SizingConfig
from strategies.stops import StopConfig

DAY_BARS = 96
LIMITS = {"found_groups": None, "sizing": {}, "correlation_groups": {}, "max_symbol_share": 10.0}


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


def risk(**changes):
    return RiskPolicy(**{**LIMITS, **changes})


def flat(price):
    return (price,) * 4


def rich_predictor(market, rows, **known):
    """Predictions at every bar that also know a volatility and an interval."""
    frame = pd.DataFrame(
        [(market.close_time(index), market.BTC, prob) for index, prob in rows.items()],
        columns=["ts_init", "instrument_id", "prob_up"],
    )
    for name, value in known.items():
        frame[name] = value
    spec = market.spec((market.BTC,))
    return PrecomputedPredictions.from_frame(stamp_predictions(frame, spec, "0" * 64), spec)


def crash(market, after=4, total=2 * DAY_BARS + 10):
    """Return bars that lose a tenth at once and stay there, and a long signal throughout."""
    rows = [flat(30_000)] * after + [(30_000, 30_000, 27_000, 27_000)]
    rows += [flat(27_000)] * (total - len(rows))
    return market.bars(rows), dict.fromkeys(range(total - 1), 0.9)


def test_a_crash_through_the_daily_limit_flattens_within_a_bar_and_blocks_the_day(market):
    bars, signals = crash(market)
    guarded = policy(risk=risk(max_daily_loss=0.03, max_drawdown=0.5))
    out = run_backtest(market.inputs(bars), market.predictor(signals), guarded, market.execution())
    halted = out.fills[out.fills.reason == "risk_guard"]
    # The loss shows at the close of bar 4; the exit fills at the next open.
    assert halted.ts_event.tolist() == [market.close_time(4) + 50_000_000]
    held = out.guard[out.guard.kind == "hold"]
    assert held.reason.tolist() == ["daily_loss"]
    assert held.ts.tolist() == [market.close_time(4)]
    entries = out.fills[out.fills.reason == "enter_long"]
    next_day = market.close_time(DAY_BARS - 1)
    assert entries.ts_event.iloc[0] < market.close_time(1)
    assert (entries.ts_event.iloc[1:] >= next_day).all()
    assert len(entries) == 2
    blocked = out.decisions[out.decisions.reason == "risk_guard"]
    assert len(blocked) > DAY_BARS - 10
    assert (blocked.quantity == 0.0).all()


def test_a_drawdown_ends_trading_for_good(market):
    bars, signals = crash(market)
    guarded = policy(risk=risk(max_daily_loss=0.03, max_drawdown=0.03))
    out = run_backtest(market.inputs(bars), market.predictor(signals), guarded, market.execution())
    assert (out.fills.reason == "enter_long").sum() == 1
    assert set(out.guard[out.guard.kind == "hold"].reason) == {"daily_loss", "drawdown"}
    assert out.equity.gross_exposure.iloc[-1] == 0.0


def test_without_a_guard_the_crash_is_held(market):
    bars, signals = crash(market)
    out = run_backtest(market.inputs(bars), market.predictor(signals), policy(), market.execution())
    assert len(out.guard) == 0
    assert out.equity.gross_exposure.iloc[-1] > 0.0


def test_an_order_beyond_a_share_is_made_smaller_and_says_so(market):
    bars = market.bars([flat(30_000)] * 4)
    guarded = policy(risk=risk(max_symbol_share=0.2))
    out = run_backtest(market.inputs(bars), market.predictor({0: 0.9}), guarded, market.execution())
    entry = out.orders.iloc[0]
    assert entry.bound_by == "max_symbol_share"
    assert entry.quantity == 0.666  # 0.2 x 100,000 / 30,000, rounded down
    assert out.decisions.target_weight.iloc[0] == pytest.approx(0.1998, abs=1e-4)


def test_a_sixth_correlated_long_is_refused(market):
    names = (market.BTC, market.ETH, market.SOL)
    bars = [market.bars([flat(100)] * 4, name) for name in names]
    groups = {"all": names}
    guarded = policy(position_frac=0.2, risk=risk(max_correlated=2, correlation_groups=groups))
    predictor = market.predictor({0: dict.fromkeys(names, 0.9)}, names)
    out = run_backtest(market.inputs(*bars), predictor, guarded, market.execution())
    assert out.fills.instrument_id.tolist() == [market.BTC, market.ETH]
    refused = out.decisions[out.decisions.instrument_id == market.SOL]
    assert refused.reason.tolist() == ["risk_guard"]


def test_the_size_is_the_sizings_and_its_reason_is_recorded(market):
    bars = market.bars([flat(30_000)] * 4)
    sized = policy(
        sizing=SizingConfig(method="fixed", fixed_frac=0.1, max_position=0.05),
        stops=StopConfig(stop_vol_multiple=2.0),
    )
    predictor = rich_predictor(market, {0: 0.9}, volatility=0.01)
    out = run_backtest(market.inputs(bars), predictor, sized, market.execution())
    entry = out.orders.iloc[0]
    assert entry.bound_by == "max_position"
    assert entry.quantity == 0.166
    assert entry.stop_frac == pytest.approx(0.02)
    stop = out.orders[out.orders.type == "STOP_MARKET"].iloc[0]
    assert stop.trigger_price == 29_400.0


def test_the_risk_policys_sizing_counts_where_the_strategy_has_none(market):
    bars = market.bars([flat(30_000)] * 4)
    limits = risk(sizing={"method": "fixed", "fixed_frac": 0.1, "max_position": 0.05})
    own = SizingConfig(method="fixed", fixed_frac=0.1, max_position=0.03)
    predictor = rich_predictor(market, {0: 0.9}, volatility=0.01)
    for sized, quantity in ((policy(risk=limits), 0.166), (policy(risk=limits, sizing=own), 0.1)):
        out = run_backtest(market.inputs(bars), predictor, sized, market.execution())
        assert out.orders.iloc[0].quantity == quantity
    with pytest.raises(ValueError, match="method"):
        policy(risk=risk(sizing={"method": "martingale"}))


def test_a_stop_follows_the_volatility_at_the_entry(market):
    rows = [flat(30_000), (30_000, 30_000, 29_500, 29_500), (29_500, 29_500, 29_000, 29_200)]
    bars = market.bars([*rows, flat(29_200)])
    outcomes = {}
    for volatility in (0.005, 0.02):
        stopped = policy(stops=StopConfig(stop_vol_multiple=2.0))
        predictor = rich_predictor(market, {0: 0.9}, volatility=volatility)
        out = run_backtest(market.inputs(bars), predictor, stopped, market.execution())
        outcomes[volatility] = out.positions.reason.tolist()
    assert outcomes == {0.005: ["stop_loss"], 0.02: ["open_at_end"]}


def test_after_a_stop_nothing_is_opened_for_a_while(market):
    rows = [flat(30_000), (30_000, 30_000, 29_000, 30_000), *[flat(30_000)] * 8]
    cooled = policy(stop_loss_frac=0.02, cooldown_bars=4)
    signals = dict.fromkeys(range(9), 0.9)
    out = run_backtest(
        market.inputs(market.bars(rows)), market.predictor(signals), cooled, market.execution()
    )
    assert out.decisions.reason.tolist()[:7] == [
        "enter_long",
        *["cooldown"] * 4,
        "enter_long",
        "hold",
    ]


def test_an_edge_that_does_not_pay_is_left_alone(market):
    bars = market.bars([flat(30_000)] * 4)
    careful = policy(edge_margin_bps=0.0)
    for volatility, reason in ((0.001, "edge_too_small"), (0.01, "enter_long")):
        predictor = rich_predictor(market, {0: 0.65}, volatility=volatility)
        out = run_backtest(market.inputs(bars), predictor, careful, market.execution())
        assert out.decisions.reason.tolist() == [reason]


def test_a_position_whose_stop_is_refused_is_closed_at_once(market, monkeypatch):
    calls = []

    def second_is_beyond_the_market(side, price, fraction, tick):
        calls.append(side)
        wrong = len(calls) == 2
        return stop_trigger(side, price, -0.05 if wrong else fraction, tick)

    monkeypatch.setattr(protection, "stop_trigger", second_is_beyond_the_market)
    # A reversal: exit, entry and forced exit fall into one second.
    bars = market.bars([flat(30_000)] * 6)
    replay = Replay(
        market.inputs(bars),
        market.predictor({0: 0.9, 1: 0.1}),
        policy(stop_loss_frac=0.02),
        market.execution(),
    )
    with pytest.raises(RunFailedError, match="REJECTED"):
        replay.run(no_progress)
    fills = [(row.reason, row.side) for row in replay.recorder.fills]
    assert fills == [
        ("enter_long", 1),
        ("reverse_to_short", -1),
        ("reverse_to_short", -1),
        ("stop_refused", 1),
    ]
    assert not replay.recorder.ledger.positions
    assert len({row.client_order_id for row in replay.recorder.orders.values()}) == 6


def test_a_stop_beside_stops_is_refused():
    with pytest.raises(ValueError, match="stop_loss_frac must be left out where stops are given"):
        policy(stop_loss_frac=0.02, stops=StopConfig(stop_vol_multiple=2.0))


def test_leverage_must_carry_what_the_sizing_may_hold(market):
    bars = market.bars([flat(30_000)] * 4)
    bold = policy(sizing=SizingConfig(method="fixed", max_position=6.0, max_gross=6.0))
    with pytest.raises(ConfigError, match=r"leverage must be at least 12 \(sizing.max_position 6"):
        run_backtest(market.inputs(bars), market.predictor({0: 0.9}), bold, market.execution())


def test_data_may_be_as_old_as_a_bar(market):
    bars = market.bars([flat(30_000)] * 4)
    impatient = policy(risk=risk(max_data_age_secs=899.0))
    with pytest.raises(
        ConfigError, match=r"max_data_age_secs .* at least a bar \(900 s\), was 899"
    ):
        run_backtest(market.inputs(bars), market.predictor({0: 0.9}), impatient, market.execution())


def test_what_is_unknown_is_nan(market):
    bars = market.bars([flat(30_000)] * 4)
    out = run_backtest(
        market.inputs(bars), market.predictor({0: 0.9}), policy(), market.execution()
    )
    entry = out.orders.iloc[0]
    assert entry.bound_by == "position_frac"
    assert math.isnan(entry.stop_frac)


class Gate:
    """Limits over all engines, as an engine's guard sees them."""

    def __init__(self, open_after=0):
        self.asked = []
        self.held = []
        self.open_after = open_after

    def admit(self, policy, intent):
        self.asked.append((policy, intent))
        closed = len(self.asked) <= self.open_after
        return Refused("global_positions", "another engine has it") if closed else None

    def hold(self, occupied):
        if not self.held or self.held[-1] != occupied:
            self.held.append(occupied)


class GatedReplay(Replay):
    gate = None

    def watchers(self, strategy):
        strategy.guard.gate = self.gate
        return ()


def test_what_other_engines_hold_refuses_an_entry_and_no_exit(market):
    bars = market.bars([flat(30_000)] * 8)
    guarded = policy(risk=risk())
    signals = {0: 0.9, 1: 0.9, 2: 0.9, 3: 0.1}
    replay = GatedReplay(
        market.inputs(bars), market.predictor(signals), guarded, market.execution()
    )
    replay.gate = gate = Gate(open_after=1)
    out = replay.run(no_progress)
    assert out.decisions.reason.tolist()[0] == "risk_guard"
    assert out.decisions.quantity.iloc[0] == 0.0
    # The second is let pass, then held; the exit is not asked for, the entry that follows is.
    entries = out.orders[~out.orders.reduce_only]
    assert len(gate.asked) == 1 + len(entries)
    assert {intent.side for _, intent in gate.asked} == {1, -1}
    assert all(asked == guarded.risk for asked, _ in gate.asked)
    assert gate.held[0] == {}
    assert {market.BTC: (True, False)} in gate.held


def test_without_other_engines_a_gate_changes_nothing(market):
    bars, signals = crash(market, total=20)
    guarded = policy(risk=risk())
    replay = GatedReplay(
        market.inputs(bars), market.predictor(signals), guarded, market.execution()
    )
    replay.gate = Gate()
    plain = run_backtest(
        market.inputs(bars), market.predictor(signals), guarded, market.execution()
    )
    out = replay.run(no_progress)
    assert len(out.fills) > 0
    pd.testing.assert_frame_equal(out.fills, plain.fills)
    pd.testing.assert_frame_equal(out.decisions, plain.decisions)


def test_a_running_strategy_adopts_what_each_decision_reads_and_keeps_its_stops(market):
    before = policy(risk=risk(), stop_loss_frac=0.05)
    replay = Replay(
        market.inputs(market.bars([flat(30_000)] * 4)),
        market.predictor({0: 0.9}),
        before,
        market.execution(),
    )
    strategy = replay.strategy()
    after = before.model_copy(update={"entry_threshold": 0.7, "risk": risk(max_positions=2)})
    strategy.adopt(market.close_time(0), after)
    assert strategy.policy.entry_threshold == 0.7
    assert strategy.guard.guard.policy.max_positions == 2
    with pytest.raises(ConfigError, match="stops of a running strategy"):
        strategy.adopt(market.close_time(0), after.model_copy(update={"stop_loss_frac": 0.1}))
    assert strategy.policy == after
