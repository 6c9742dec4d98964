"""The actor that looks for the guard, in the real engine by the replay's clock, and its parts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from catalog.errors import ConfigError
from catalog.progress import no_progress
from catalog.timestamps import NS_PER_DAY
from live.live_replay import run_live_replay
from live.parity import compare
from research.predictions import stamp_predictions
from research.predictor import PrecomputedPredictions
from strategies.backtest import FusionPolicy, Replay, run_backtest
from strategies.correlation import GroupFinder
from strategies.guard import Guard
from strategies.guard_desk import GuardDesk
from strategies.guard_store import GuardStore
from strategies.guard_watch import GuardWatch
from strategies.recorder import RunRecorder
from strategies.risk_guard import RiskGuard, RiskGuardConfig
from strategies.risk_policy import FoundGroups, RiskPolicy
from strategies.throttle import require_room

LIMITS = {"found_groups": None, "sizing": {}, "correlation_groups": {}, "max_symbol_share": 10.0}
SECOND = 10**9
START, BTC = 20_000 * NS_PER_DAY, "BTCUSDT-PERP.BINANCE"


def policy(position_frac=0.5, **limits):
    return FusionPolicy(
        entry_threshold=0.6,
        exit_threshold=0.5,
        position_frac=position_frac,
        min_holding_bars=0,
        risk=RiskPolicy(**{**LIMITS, **limits}),
    )


def rich_predictor(market, rows):
    """Predictions that also know a volatility, which sizing asks for."""
    frame = pd.DataFrame(
        [(market.close_time(index), market.BTC, prob, 0.01) for index, prob in rows.items()],
        columns=["ts_init", "instrument_id", "prob_up", "volatility"],
    )
    spec = market.spec((market.BTC,))
    return PrecomputedPredictions.from_frame(stamp_predictions(frame, spec, "0" * 64), spec)


def flat(price):
    return (price,) * 4


class Looked(Replay):
    """A replay with the actor; `stops_after` looks it looks no more."""

    def __init__(self, *arguments, interval_ms=60_000, watch=None, on_look=None):
        super().__init__(*arguments)
        self.interval_ms, self.watch_of, self.on_look = interval_ms, watch, on_look
        self.looks, self.failures = [], []

    def watchers(self, strategy):
        watch = None if self.watch_of is None else self.watch_of(strategy)
        actor = RiskGuard(strategy, RiskGuardConfig(self.interval_ms, watch))
        genuine = actor.look

        def look(now):
            self.looks.append(now)
            try:
                if self.on_look is not None and self.on_look(now, strategy):
                    return
            except BaseException as error:
                # The engine would only log it.
                self.failures.append(error)
            genuine(now)

        actor.look = look
        return (actor,)

    def run(self, progress):
        out = super().run(progress)
        assert self.failures == []
        return out


def test_in_a_replay_the_actor_looks_by_the_replays_clock_and_sees_prices_between_closes(market):
    # The open of bar 4 is 10 % lower than the close before: its quote says so, 15 minutes early.
    rows = [flat(30_000)] * 4 + [(27_000, 27_100, 26_900, 27_000)] + [flat(27_000)] * 3
    bars, signals = market.bars(rows), dict.fromkeys(range(7), 0.9)
    replay = Looked(market.inputs(bars), market.predictor(signals), policy(), market.execution())
    out = replay.run(no_progress)
    assert set(np.diff(replay.looks)) == {60 * SECOND}
    held = out.guard[out.guard.kind == "hold"]
    assert held.reason.tolist() == ["daily_loss"]
    opened = market.close_time(3)
    assert opened < held.ts.iloc[0] <= opened + 60 * SECOND
    # By the closes alone it is seen at the end of that bar.
    plain = run_backtest(
        market.inputs(bars), market.predictor(signals), policy(), market.execution()
    )
    assert plain.guard[plain.guard.kind == "hold"].ts.iloc[0] == market.close_time(4)
    # Without the actor replay and live node still decide alike.
    live = run_live_replay(
        market.inputs(bars), lambda: market.predictor(signals), policy(), market.execution()
    )
    compare(plain, live).require_identical()


def test_a_kill_switch_file_ends_trading_at_the_next_look(market, tmp_path):
    kill = tmp_path / "KILL"
    bars, signals = market.bars([flat(30_000)] * 8), dict.fromkeys(range(7), 0.9)
    limits = {"kill_switch_file": str(kill)}
    appears = market.close_time(3) + 100 * SECOND
    store = GuardStore(tmp_path / "guard.json")

    def on_look(now, strategy):
        if now >= appears:
            kill.touch()

    replay = Looked(
        market.inputs(bars),
        market.predictor(signals),
        policy(**limits),
        market.execution(),
        watch=lambda strategy: GuardWatch(strategy.guard.guard, store),
        on_look=on_look,
    )
    out = replay.run(no_progress)
    assert out.guard.kind.tolist() == ["hold", "flat"]
    assert appears <= out.guard.ts.iloc[0] <= appears + 60 * SECOND
    assert out.fills.reason.tolist() == ["enter_long", "risk_guard"]
    # Everything was stored the moment that it happened, and a restart stays halted.
    assert store.load().holds.keys() == {"kill_switch"}
    assert store.load().history[-1].kind == "flat"


def test_a_quote_counts_as_data_once_and_not_at_every_look(market):
    bars = market.bars([flat(30_000)] * 16, missing=range(4, 14))
    replay = Looked(
        market.inputs(bars),
        market.predictor({0: 0.5}),
        policy(max_data_age_secs=3_600.0),
        market.execution(),
    )
    out = replay.run(no_progress)
    held = out.guard[out.guard.kind == "hold"]
    assert held.reason.tolist() == ["stale_data"]
    # The last record is the bar that closed then.
    last = market.close_time(3)
    assert last + 3_600 * SECOND < held.ts.iloc[0] <= last + 3_720 * SECOND


def test_a_hold_is_stored_before_anything_follows_from_it(market, tmp_path):
    # The close says it; the next look is a moment later.
    bars = market.bars([flat(30_000)] * 3 + [(30_000, 30_000, 27_000, 27_000)] * 2)
    store, saved = GuardStore(tmp_path / "guard.json"), []

    class Watch(GuardWatch):
        def save(self):
            super().save()
            saved.append((len(replay.recorder.orders), "daily_loss" in store.load().holds))

    replay = Looked(
        market.inputs(bars),
        market.predictor(dict.fromkeys(range(4), 0.9)),
        policy(kill_switch_file=str(tmp_path / "KILL")),
        market.execution(),
        watch=lambda strategy: Watch(strategy.guard.guard, store),
    )
    replay.run(no_progress)
    # With the entry only, and not yet with the order that closes.
    assert (1, True) in saved
    assert saved[-1] == (2, True)


def test_an_exception_in_a_callback_of_the_actor_ends_trading(market):
    replay = Replay(
        market.inputs(market.bars([flat(100)] * 4)),
        market.predictor({0: 0.9}),
        policy(),
        market.execution(),
    )
    strategy = replay.strategy()
    actor = RiskGuard(strategy, RiskGuardConfig())
    actor.on_quote(None)
    assert strategy.guard.guard.reasons == "guard_failure"
    assert "on_quote: AttributeError" in strategy.guard.guard.state.holds["guard_failure"].detail


def test_trading_ends_where_nobody_looks_any_more(market):
    bars, signals = market.bars([flat(30_000)] * 8), dict.fromkeys(range(7), 0.9)
    last = market.close_time(3)
    replay = Looked(
        market.inputs(bars),
        market.predictor(signals),
        policy(),
        market.execution(),
        on_look=lambda now, strategy: now > last,
    )
    out = replay.run(no_progress)
    held = out.guard[out.guard.kind == "hold"]
    assert held.reason.tolist() == ["guard_failure"]
    assert "must look every 600 s" in held.detail.iloc[0]
    assert held.ts.iloc[0] == market.close_time(4)
    assert out.fills.reason.tolist() == ["enter_long", "risk_guard"]


def test_another_policy_counts_from_now_on_its_sizing_included(market):
    bars = market.bars([flat(30_000)] * 8)
    sized = {"sizing": {"method": "fixed", "fixed_frac": 0.1, "max_position": 0.1}}

    before, changed = policy(**sized), market.close_time(3)

    def on_look(now, strategy):
        if now > changed and strategy.policy == before:
            with pytest.raises(ConfigError, match=r"does not fit .* method: .*was 'martingale'"):
                strategy.adopt_risk(
                    now, RiskPolicy(**{**LIMITS, "sizing": {"method": "martingale"}})
                )
            assert strategy.policy == before
            assert strategy.guard.guard.policy == before.risk
            smaller = {"sizing": {**sized["sizing"], "fixed_frac": 0.05}}
            strategy.adopt_risk(now, RiskPolicy(**{**LIMITS, **smaller}))

    replay = Looked(
        market.inputs(bars),
        rich_predictor(market, {0: 0.9, 2: 0.45, 5: 0.9}),
        before,
        market.execution(),
        on_look=on_look,
    )
    out = replay.run(no_progress)
    entries = out.orders[~out.orders.reduce_only]
    assert entries.quantity.tolist() == [0.333, 0.166]
    assert out.guard.kind.tolist() == ["policy"]


@pytest.mark.parametrize(
    ("groups", "held"),
    [
        # At the first bar nothing is known, which counts as correlated until the next day.
        ("unchanged", 1),
        (FoundGroups(limit=0.99, window_bars=10, min_bars=5), 2),
        (FoundGroups(limit=0.99, window_bars=10, min_bars=10), 1),
        (None, 2),
    ],
)
def test_another_policys_groups_are_found_at_the_next_bar(market, groups, held):
    rng = np.random.default_rng(3)
    names = (market.BTC, market.ETH)
    rows = [[flat(round(price)) for price in rng.uniform(900, 1100, 12)] for _ in names]
    bars = [market.bars(one, name) for one, name in zip(rows, names, strict=True)]
    limits = {"max_correlated": 1, "max_daily_loss": 0.5, "max_drawdown": 0.5}
    first = FoundGroups(limit=0.99, window_bars=20, min_bars=5)
    before = policy(position_frac=0.1, found_groups=first, **limits)

    def on_look(now, strategy):
        changes = now > market.close_time(7) and groups != "unchanged"
        if changes and strategy.policy == before:
            risk = {**LIMITS, **limits, "found_groups": groups}
            strategy.adopt_risk(now, RiskPolicy(**risk))

    replay = Looked(
        market.inputs(*bars),
        market.predictor({9: dict.fromkeys(names, 0.9)}, names),
        before,
        market.execution(),
        on_look=on_look,
    )
    out = replay.run(no_progress)
    assert out.fills.instrument_id.tolist() == list(names[:held])


def test_groups_are_found_with_the_new_settings_on_the_returns_that_are_known():
    rng = np.random.default_rng(0)
    names = ("A", "B", "C")
    shared = rng.normal(0.0, 0.01, 400)
    steps = np.column_stack([shared + rng.normal(0.0, 0.003, 400) for _ in names])
    closes = 100.0 * np.exp(np.cumsum(steps, axis=0))
    narrow = FoundGroups(limit=0.999, window_bars=200, min_bars=50)
    wide = FoundGroups(limit=0.5, window_bars=100, min_bars=50)
    changed, always = GroupFinder(names, narrow), GroupFinder(names, wide)
    found = {}
    for number, row in enumerate(closes):
        ts = (number + 1) * NS_PER_DAY // 96
        known = dict(zip(names, row.tolist(), strict=True))
        if number == 300:
            changed = changed.changed(wide)
        found[number] = (changed.update(ts, known), always.update(ts, known))
    assert found[300][0] == (frozenset(names),)
    assert found[95] == ((), (frozenset(names),))
    later = [one for number, one in found.items() if number > 300 and one[1] is not None]
    assert later
    assert all(mine == theirs for mine, theirs in later)


def test_the_engines_throttle_must_leave_room_to_flatten():
    fast = RiskPolicy(max_orders_per_second=100, max_orders_per_minute=300)
    require_room(fast, 15)
    require_room(None, 15, 1)
    require_room(fast, 15, 360)
    match = r"max_orders_per_second of the risk policy must be at most 99, was 100: .* 360 orders"
    with pytest.raises(ConfigError, match=match):
        require_room(fast, 15, 359)


def test_an_actor_without_a_guard_or_with_a_wrong_interval_is_refused(market):
    bare = FusionPolicy(entry_threshold=0.6, exit_threshold=0.5, position_frac=0.5)
    replay = Replay(
        market.inputs(market.bars([flat(100)] * 4)),
        market.predictor({0: 0.9}),
        bare,
        market.execution(),
    )
    with pytest.raises(ConfigError, match="a risk guard needs a risk policy"):
        RiskGuard(replay.strategy(), RiskGuardConfig())
    with pytest.raises(ConfigError, match="look_interval_ms must be 10 to 86400000, was 5"):
        RiskGuardConfig(5)


def test_every_limit_can_be_written_and_read_back(tmp_path):
    # What a watch compares: a file that says the same is no other policy.
    limits = RiskPolicy()
    assert RiskPolicy.model_validate(yaml.safe_load(yaml.safe_dump(limits.model_dump()))) == limits


def test_a_bar_that_is_handed_on_late_is_no_clock_that_goes_back():
    state = SimpleNamespace(bar_ts=START)
    desk = SimpleNamespace(states={BTC: state}, under_way=lambda: 0)
    guard = Guard(RiskPolicy(max_clock_lag_secs=5.0))
    recorder = RunRecorder((BTC,), 1_000.0)
    recorder.ledger.mark(BTC, 100.0)
    watching = GuardDesk(guard, desk, recorder)
    watching.expect_looks(START, 100 * SECOND)
    watching.look(START + 60 * SECOND, {})
    watching.watch(START)
    assert [event.kind for event in guard.state.history] == []
    assert guard.state.equity == 1_000.0
    watching.look(START + 10 * SECOND, {})
    assert [event.kind for event in guard.state.history] == ["clock"]
