"""All positions together, in the real engine: the rebalancing, and joint Kelly sizes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from nautilus_trader.model import CryptoPerpetual

from live.live_replay import run_live_replay
from research.predictions import stamp_predictions
from research.predictor import PrecomputedPredictions
from strategies.backtest import FusionPolicy, run_backtest
from strategies.intent import NO_COSTS, MarketView, TradeCosts
from strategies.joint_kelly import Candidate, joint_weight
from strategies.kelly import WeightCaps, kelly_weights
from strategies.rebalance import RebalanceConfig
from strategies.returns_window import ReturnsWindow
from strategies.risk_policy import RiskPolicy
from strategies.sizing_config import SizingConfig
from strategies.stops import StopConfig

BARS = 260
HOURLY = "0 * * * *"
ENTRY = 130
"""The bar at which everything is bought: late enough for returns to be known."""


def wiggling(market, name, scale, seed, bars=BARS):
    """Return bars whose closes move by a scale, around 10,000."""
    moves = np.random.default_rng(seed).normal(0.0, scale, bars)
    closes = np.round(10_000.0 * np.exp(np.cumsum(moves)), 1)
    opens = np.concatenate([[10_000.0], closes[:-1]])
    rows = [
        (first, max(first, last), min(first, last), last)
        for first, last in zip(opens.tolist(), closes.tolist(), strict=True)
    ]
    return market.bars(rows, name)


def predictor(market, names, probs, **known):
    """Predictions for all names at every bar from `ENTRY` on; neutral before."""
    rows = [
        (market.close_time(bar), name, probs[name] if bar >= ENTRY else 0.5)
        for bar in range(BARS - 1)
        for name in names
    ]
    frame = pd.DataFrame(rows, columns=["ts_init", "instrument_id", "prob_up"])
    for name, value in known.items():
        frame[name] = value
    spec = market.spec(names)
    return PrecomputedPredictions.from_frame(stamp_predictions(frame, spec, "0" * 64), spec)


def held(**changes):
    return FusionPolicy(
        **{
            "entry_threshold": 0.6,
            "exit_threshold": 0.5,
            "position_frac": 0.2,
            "min_holding_bars": 0,
            **changes,
        }
    )


def traded(market, policy, bars, probs, **known):
    names = tuple(one.instrument_id for one in bars)
    source = predictor(market, names, probs, **known)
    return run_backtest(market.inputs(*bars), source, policy, market.execution())


def closes_of(bars):
    return dict(zip(bars.ts_init.tolist(), bars.close.tolist(), strict=True))


def three(market, wild=0.01):
    return [
        wiggling(market, market.BTC, wild, 1),
        wiggling(market, market.ETH, 0.002, 2),
        wiggling(market, market.SOL, 0.002, 3),
    ]


def test_the_wild_one_is_reduced_and_the_calm_ones_grow(market):
    bars = three(market)
    probs = dict.fromkeys((market.BTC, market.ETH, market.SOL), 0.9)
    config = RebalanceConfig(schedule=HOURLY, drift_frac=0.02, max_position=0.4)
    out = traded(market, held(rebalance=config), bars, probs)
    orders = out.orders[out.orders.reason == "rebalance"]
    first = orders[orders.ts_init == orders.ts_init.min()].set_index("instrument_id")
    # The first full hour at which all three are held: bar 131 closes at 09:00.
    assert first.ts_init.unique().tolist() == [market.close_time(131)]
    assert first.side[market.BTC] == -1
    assert bool(first.reduce_only[market.BTC])
    assert (first.side[[market.ETH, market.SOL]] == 1).all()
    assert not first.reduce_only[[market.ETH, market.SOL]].any()
    assert (orders.status == "FILLED").all()
    # No position was opened or closed by it.
    assert len(out.positions) == 3


def test_positions_within_the_band_are_left_alone(market):
    bars = three(market, wild=0.002)
    probs = dict.fromkeys((market.BTC, market.ETH, market.SOL), 0.9)
    config = RebalanceConfig(schedule=HOURLY, drift_frac=0.05)
    out = traded(market, held(rebalance=config), bars, probs)
    assert not (out.orders.reason == "rebalance").any()


def test_the_stop_follows_the_quantity(market):
    bars = three(market)
    probs = dict.fromkeys((market.BTC, market.ETH, market.SOL), 0.9)
    config = RebalanceConfig(schedule=HOURLY, drift_frac=0.02, max_position=0.4)
    stops = StopConfig(stop_vol_multiple=50.0, min_frac=0.5, max_frac=0.6)
    policy = held(rebalance=config, stops=stops)
    out = traded(market, policy, bars, probs, volatility=0.01)
    assert (out.orders.reason == "rebalance").any()
    alive = out.orders[(out.orders.type == "STOP_MARKET") & (out.orders.status == "OPEN_AT_END")]
    open_at_end = out.positions.set_index("instrument_id")
    held_now = out.fills.assign(signed=out.fills.side * out.fills.quantity)
    quantities = held_now.groupby("instrument_id").signed.sum()
    assert len(alive) == len(open_at_end) == 3
    for row in alive.itertuples():
        assert row.quantity == pytest.approx(quantities[row.instrument_id], abs=1e-9)


def test_the_guard_refuses_what_would_break_a_share(market):
    bars = three(market)
    probs = dict.fromkeys((market.BTC, market.ETH, market.SOL), 0.9)
    risk = RiskPolicy(
        rebalance=HOURLY, found_groups=None, sizing={}, max_symbol_share=0.2, max_drawdown=0.9
    )
    config = RebalanceConfig(drift_frac=0.01, max_position=0.4)
    out = traded(market, held(risk=risk, rebalance=config), bars, probs)
    orders = out.orders[out.orders.reason == "rebalance"]
    assert len(orders) > 0
    ordered = out.orders[~out.orders.reduce_only]
    closes = {one.instrument_id: closes_of(one) for one in bars}
    equity = dict(zip(out.equity.ts_init, out.equity.equity, strict=True))
    bought: dict[str, float] = {}
    for row in out.orders.sort_values("ts_init", kind="stable").itertuples():
        bought[row.instrument_id] = bought.get(row.instrument_id, 0.0) + row.side * row.quantity
        if not row.reduce_only:
            worth = bought[row.instrument_id] * closes[row.instrument_id][row.ts_init]
            assert worth <= 0.2 * equity[row.ts_init] * (1.0 + 1e-9)
    assert len(ordered) >= 3


def test_the_schedule_is_the_risk_policys_where_there_is_one():
    risk = RiskPolicy(rebalance="0 3 * * TUE", max_symbol_share=0.15)
    found = held(risk=risk).rebalancing
    assert found is not None
    assert (found.schedule, found.max_position) == ("0 3 * * TUE", 0.15)
    none = RiskPolicy(rebalance=None)
    assert held(risk=none, rebalance=RebalanceConfig()).rebalancing is None
    assert held().rebalancing is None
    assert held(rebalance=RebalanceConfig()).rebalancing == RebalanceConfig()


@pytest.mark.parametrize("method", ["risk_parity", "kelly"])
def test_paper_rebalances_as_the_replay_does(market, method):
    bars = three(market)
    probs = {market.BTC: 0.9, market.ETH: 0.7, market.SOL: 0.1}
    config = RebalanceConfig(
        schedule=HOURLY, method=method, drift_frac=0.02, max_position=0.4, kelly_fraction=0.5
    )
    stops = StopConfig(stop_vol_multiple=3.0)
    sizing = SizingConfig(method="kelly_multi", max_position=0.3, lookback_bars=96)
    policy = held(rebalance=config, stops=stops, sizing=sizing)
    names = tuple(one.instrument_id for one in bars)

    def source():
        return predictor(market, names, probs, volatility=0.01)

    inputs, execution = market.inputs(*bars), market.execution()
    replayed = run_backtest(inputs, source(), policy, execution)
    paper = run_live_replay(inputs, source, policy, execution)
    assert len(replayed.fills) > 3
    for table in ("decisions", "orders", "fills", "positions", "equity"):
        pd.testing.assert_frame_equal(getattr(replayed, table), getattr(paper, table))


def test_kelly_closes_what_is_no_longer_expected_to_pay(market):
    bars = three(market)
    probs = {market.BTC: 0.9, market.ETH: 0.9, market.SOL: 0.51}
    config = RebalanceConfig(schedule=HOURLY, method="kelly", drift_frac=0.01, max_position=0.2)
    names = tuple(one.instrument_id for one in bars)
    rows = []
    for bar in range(BARS - 1):
        for name in names:
            prob = 0.9 if bar == ENTRY else probs[name]
            rows.append((market.close_time(bar), name, prob if bar >= ENTRY else 0.5))
    frame = pd.DataFrame(rows, columns=["ts_init", "instrument_id", "prob_up"])
    frame["volatility"], frame["epistemic"] = 0.01, 0.2
    spec = market.spec(names)
    source = PrecomputedPredictions.from_frame(stamp_predictions(frame, spec, "0" * 64), spec)
    sizing = SizingConfig(method="fixed", fixed_frac=0.2)
    policy = held(exit_threshold=0.4, rebalance=config, sizing=sizing)
    out = run_backtest(market.inputs(*bars), source, policy, market.execution())
    sold = out.orders[(out.orders.reason == "rebalance") & (out.orders.instrument_id == market.SOL)]
    assert len(sold) > 0
    assert sold.reduce_only.all()


def test_two_that_move_as_one_share_what_one_alone_would_get(market):
    bars = [
        wiggling(market, market.BTC, 0.01, 1),
        wiggling(market, market.ETH, 0.01, 1),
        wiggling(market, market.SOL, 0.01, 9),
    ]
    probs = dict.fromkeys((market.BTC, market.ETH, market.SOL), 0.62)
    sizing = SizingConfig(
        method="kelly_multi", fraction=0.02, max_position=1.0, max_gross=3.0, max_net=3.0
    )
    out = traded(market, held(sizing=sizing), bars, probs, volatility=0.01)
    first = out.orders[out.orders.ts_init == market.close_time(ENTRY)].set_index("instrument_id")
    worth = first.quantity
    assert (first.bound_by == "kelly_multi").all()
    # The twin of what is already wanted adds little; the independent one is sized as if alone.
    assert worth.get(market.ETH, 0.0) < 0.7 * worth[market.BTC]
    assert worth[market.SOL] > 0.7 * worth[market.BTC]


def test_without_enough_returns_nothing_is_sized(market):
    bars = three(market)[:1]
    rows = dict.fromkeys(range(40), 0.9)
    frame = pd.DataFrame(
        [(market.close_time(bar), market.BTC, prob) for bar, prob in rows.items()],
        columns=["ts_init", "instrument_id", "prob_up"],
    )
    frame["volatility"] = 0.01
    spec = market.spec((market.BTC,))
    source = PrecomputedPredictions.from_frame(stamp_predictions(frame, spec, "0" * 64), spec)
    policy = held(sizing=SizingConfig(method="kelly_multi"))
    out = run_backtest(market.inputs(*bars), source, policy, market.execution())
    assert len(out.orders) == 0
    assert set(out.decisions.reason) == {"below_minimum"}


class _Signal:
    horizon_bars, mu, sigma, epistemic = 16, math.nan, math.nan, math.nan
    prob_low = prob_high = math.nan

    def __init__(self, prob_up):
        self.prob_up = prob_up


def test_a_joint_weight_is_kellys_of_the_whole():
    rng = np.random.default_rng(5)
    returns = rng.normal(0.0, 0.01, (2_000, 3)) + rng.normal(0.0, 0.01, (2_000, 1))
    view = MarketView(100.0, 0.01, math.nan, 0.0, math.nan)
    costs = TradeCosts(0.001, math.nan)
    candidates = [
        Candidate("A", 1, _Signal(0.60), view, NO_COSTS),
        Candidate("B", -1, _Signal(0.42), view, NO_COSTS),
        Candidate("C", 1, _Signal(0.58), view, costs),
    ]
    config = SizingConfig(method="kelly_multi", max_position=9.0, max_gross=20.0, max_net=20.0)
    scale = math.sqrt(2.0 / math.pi) * 0.01 * 4.0
    mu = np.array([0.20 * scale, -0.16 * scale, 0.16 * scale - 0.001])
    correlation = np.corrcoef(returns.T)
    covariance = correlation * (0.01 * 4.0) ** 2
    exact = kelly_weights(mu, covariance, 0.5, WeightCaps(9.0, 20.0, 20.0))[-1]
    # Correlations are shrunk: near, not equal.
    assert joint_weight(config, candidates, returns) == pytest.approx(exact, rel=0.05)
    assert math.isnan(joint_weight(config, candidates, returns[:50]))
    assert math.isnan(joint_weight(config, candidates, np.zeros((500, 3))))


def test_a_window_forgets_and_keeps_order():
    window = ReturnsWindow(("A", "B"), 3)
    for close in (1.0, 2.0, 4.0, 8.0, 4.0):
        window.update({"A": close, "B": 1.0})
    assert window.returns()[:, 0].tolist() == pytest.approx(
        [math.log(2), math.log(2), -math.log(2)]
    )
    window.update({"A": 4.0})
    assert len(window.complete(["A"])) == 3
    assert len(window.complete(["A", "B"])) == 2


@pytest.mark.parametrize("live", [False, True])
def test_what_a_rebalancing_opens_anew_is_left_at_once(market, live):
    rows = [(10_000.0 + bar % 2, 10_001.0, 10_000.0, 10_000.0 + bar % 2) for bar in range(140)]
    # Bought at the open of bar 101; enlarged at that of bar 104, which has passed the stop.
    rows[104:] = [(8_000.0, 8_001.0, 8_000.0, 8_000.0 + bar % 2) for bar in range(36)]
    bars = [market.bars(rows, market.BTC)]
    config = RebalanceConfig(schedule=HOURLY, drift_frac=0.02, gross=0.5, max_position=0.5)
    policy = held(rebalance=config, stop_loss_frac=0.1, cooldown_bars=50)
    signals = {bar: 0.9 if bar >= 102 else 0.5 for bar in range(139)}
    inputs, execution = market.inputs(*bars), market.execution()
    if live:
        out = run_live_replay(inputs, lambda: market.predictor(signals), policy, execution)
    else:
        out = run_backtest(inputs, market.predictor(signals), policy, execution)
    assert out.fills.reason.tolist() == ["enter_long", "stop_loss", "rebalance", "reopened"]
    assert out.equity.gross_exposure.iloc[-1] == 0.0


def test_no_position_grows_beyond_what_one_order_can_close(market):
    bars = three(market)
    inputs = market.inputs(*bars)
    smaller = []
    for one in inputs.instruments:
        # What an entry of 0.18 of equity takes at most, at about 10,000.
        terms = CryptoPerpetual.from_dict({**one.to_dict(), "max_quantity": "2.000"})
        smaller.append(terms if str(one.id) == market.ETH else one)
    inputs = replace(inputs, instruments=tuple(smaller))
    probs = dict.fromkeys((market.BTC, market.ETH, market.SOL), 0.9)
    config = RebalanceConfig(schedule=HOURLY, drift_frac=0.02, max_position=0.4)
    names = tuple(one.instrument_id for one in bars)
    policy = held(rebalance=config, stop_loss_frac=0.2)
    out = run_backtest(inputs, predictor(market, names, probs), policy, market.execution())
    orders = out.orders[out.orders.instrument_id == market.ETH]
    grown = orders[(orders.reason == "rebalance") & (orders.bound_by == "max_quantity")]
    assert len(grown) > 0
    assert orders[orders.type == "STOP_MARKET"].quantity.max() == 2.0


def test_what_a_decision_closes_is_left_alone(market):
    bars = three(market)
    names = tuple(one.instrument_id for one in bars)
    leaving = 131  # a full hour, at which the other two are rebalanced
    rows = []
    for bar in range(BARS - 1):
        for name in names:
            prob = 0.9 if bar >= ENTRY else 0.5
            prob = 0.3 if (bar, name) == (leaving, market.BTC) else prob
            rows.append((market.close_time(bar), name, prob))
    frame = pd.DataFrame(rows, columns=["ts_init", "instrument_id", "prob_up"])
    spec = market.spec(names)
    source = PrecomputedPredictions.from_frame(stamp_predictions(frame, spec, "0" * 64), spec)
    config = RebalanceConfig(schedule=HOURLY, drift_frac=0.01, gross=0.9, max_position=0.4)
    policy = held(rebalance=config, allow_short=False)
    out = run_backtest(market.inputs(*bars), source, policy, market.execution())
    then = out.orders[out.orders.ts_init == market.close_time(leaving)]
    assert then[then.instrument_id == market.BTC].reason.tolist() == ["exit_opposite"]
    assert set(then[then.reason == "rebalance"].instrument_id) == {market.ETH, market.SOL}


def test_the_guard_makes_an_increase_smaller(market):
    bars = three(market)
    probs = dict.fromkeys((market.BTC, market.ETH, market.SOL), 0.9)
    risk = RiskPolicy(
        rebalance=HOURLY,
        found_groups=None,
        sizing={},
        max_symbol_share=0.4,
        max_position_usd=20_500.0,
        max_drawdown=0.9,
    )
    config = RebalanceConfig(drift_frac=0.01, gross=0.9, max_position=0.4)
    out = traded(market, held(risk=risk, rebalance=config), bars, probs)
    grown = out.orders[(out.orders.reason == "rebalance") & ~out.orders.reduce_only]
    assert len(grown) > 0
    assert (grown.bound_by == "max_position_usd").any()


def test_nothing_is_rebalanced_before_risk_is_known(market):
    bars = three(market)
    names = tuple(one.instrument_id for one in bars)
    signals = {bar: dict.fromkeys(names, 0.9) for bar in range(BARS - 1)}
    config = RebalanceConfig(schedule=HOURLY, drift_frac=0.01, gross=0.9, max_position=0.4)
    policy = held(rebalance=config)
    source = market.predictor(signals, names)
    out = run_backtest(market.inputs(*bars), source, policy, market.execution())
    first = out.orders[out.orders.reason == "rebalance"].ts_init.min()
    # 96 returns take 97 closes; what was due before is done as soon as they are there.
    assert first == market.close_time(96)
