"""Slow inputs reach a predictor in the backtest, in a live node and in a warm start alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from catalog.arrays import BarArrays, Ohlcv, SeriesArrays
from catalog.errors import DataError, RunFailedError
from catalog.instruments import instrument
from catalog.store import FlowArrays
from live.live_replay import run_live_replay
from live.parity import compare
from live.warm_start import feed_history
from research.predictor import Prediction, PredictorSpec
from strategies import predictor_actor
from strategies.backtest import BacktestOutcome, ReplayInputs, run_backtest
from strategies.fusion import FusionPolicy
from strategies.slow_data import SlowInputs
from tests.strategies.settings import plain_execution

MINUTE = 60 * 10**9
INTERVAL = 15 * MINUTE
START = 1_704_067_200 * 10**9
BTC, ETH = NAMES = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")
ONCHAIN, INDEX, NEWS = "onchain.coinmetrics.btc.AdrActCnt", "index.dvol.btc", "news.first_seen"
SPEC = PredictorSpec(
    NAMES,
    INTERVAL,
    4,
    48,
    "listener",
    True,
    "0" * 64,
    series=(ONCHAIN, INDEX, NEWS),
    uses_flow=True,
    uses_minutes=True,
)
POLICY = FusionPolicy(entry_threshold=0.55, exit_threshold=0.5, position_frac=0.3)
EXECUTION = plain_execution(
    maker_fee_bps=2,
    taker_fee_bps=5,
    latency_ms=250,
    slippage_bps=1,
    funding="recorded",
    starting_balance=100_000,
    leverage=5,
)


class Listener:
    """Writes down all that it is told; its probability depends on every number so far."""

    def __init__(self) -> None:
        self.spec = SPEC
        self.told: list[tuple[Any, ...]] = []
        self.state = 0.0
        self.age = math.nan

    def _take(self, kind: str, name: str, ts_init: int, *values: float) -> None:
        self.told.append((kind, name, ts_init, *map(repr, values)))
        known = [value for value in values if value == value]
        self.state = math.sin(3.0 * self.state + sum(known) + len(name))

    def update_funding(self, instrument_id: str, rate: float, ts_init: int) -> None:
        self._take("funding", instrument_id, ts_init, 1e4 * rate)

    def update_series(self, name: str, value: float, ts_init: int, extra: float = math.nan) -> None:
        self.age = 0.0
        self._take("series", name, ts_init, value, extra)

    def update_flow(self, instrument_id: str, values: tuple[float, ...], ts_init: int) -> None:
        self._take("flow", instrument_id, ts_init, *values)

    def update_minute(self, instrument_id: str, ts_init: int, bar: Ohlcv) -> None:
        self._take("minute", instrument_id, ts_init, *bar)

    def update(self, ts_init: int, bars: Mapping[str, Ohlcv]) -> list[Prediction]:
        self.age += 1.0
        found = []
        for code, name in enumerate(SPEC.instruments):
            if name in bars:
                self._take("bar", name, ts_init, *bars[name])
                up = 0.5 + 0.1 * self.state
                side = int(up > 0.52) - int(up < 0.48)
                experts = (("lstm", up, 0.7), ("tft", math.nan, 0.0))
                found.append(
                    Prediction(
                        name,
                        ts_init,
                        up,
                        SPEC.horizon_bars,
                        "listener",
                        mu=1e-3 * self.state,
                        sigma=2e-3,
                        side=side,
                        regime="trend" if code else "",
                        experts=experts,
                        input_ages=((INDEX, self.age),),
                    )
                )
        return found


def bars_of(name: str, count: int, step: int, rng: np.random.Generator) -> BarArrays:
    decimals = instrument(name).price_precision
    close = 3_000.0 * np.exp(np.cumsum(rng.normal(0, 0.003, count)))
    open_ = np.concatenate(([3_000.0], close[:-1]))
    prices = [
        np.round(one, decimals)
        for one in (open_, np.maximum(open_, close), np.minimum(open_, close), close)
    ]
    ts = START + step * np.arange(1, count + 1, dtype=np.int64)
    volume = np.round(rng.random(count) * 100, instrument(name).size_precision)
    return BarArrays(name, step, ts, *prices, volume)


def market(count: int, *, seed: int = 0) -> ReplayInputs:
    rng = np.random.default_rng(seed)
    bars = tuple(bars_of(name, count, INTERVAL, rng) for name in NAMES)
    times = START + 32 * INTERVAL * np.arange(count // 32 + 1, dtype=np.int64)
    rates = {name: np.round(rng.normal(0, 1e-4, len(times)), 8) for name in NAMES}
    funding = {
        name: SeriesArrays(name, "fraction", times, times, rate) for name, rate in rates.items()
    }

    def events(count: int, latest: int, *, second: bool = False) -> SimpleNamespace:
        # Some before any bar, some at the stamps of bars, several at one stamp.
        ts = START + MINUTE * np.sort(rng.integers(-60, latest, count))
        value = rng.uniform(-1, 1, count)
        value[::5] = np.nan if second else 0.25
        return SimpleNamespace(ts_init=ts, value=value, extra=rng.random(count) if second else None)

    latest = 15 * count + 30
    slow = SlowInputs(
        {
            NEWS: events(60, latest, second=True),
            ONCHAIN: events(5, latest),
            INDEX: events(40, latest),
        },
        {
            one.instrument_id: FlowArrays(
                one.instrument_id,
                INTERVAL,
                one.ts_init,
                rng.random(count),
                rng.integers(1, 999, count),
                rng.random(count),
                rng.random(count),
            )
            for one in bars
        },
        {name: bars_of(name, 15 * count, MINUTE, rng) for name in NAMES},
    )
    return ReplayInputs(tuple(map(instrument, NAMES)), bars, funding, slow=slow)


def backtest(inputs: ReplayInputs, listener: Listener | None = None) -> BacktestOutcome:
    return run_backtest(inputs, listener or Listener(), POLICY, EXECUTION)


def test_backtest_and_live_node_tell_a_predictor_the_same() -> None:
    inputs = market(96)
    tested, live = Listener(), Listener()
    one = backtest(inputs, tested)
    other = run_live_replay(inputs, lambda: live, POLICY, EXECUTION)
    assert tested.told == live.told
    compare(one, other).require_identical()
    assert one.reconciliation.faults() == other.reconciliation.faults() == []
    assert len(one.fills) > 20
    # Everything came, in order of time, and nothing after the last bar.
    end = inputs.ts_end
    kinds = [call[0] for call in tested.told]
    assert kinds.count("bar") == 2 * 96
    assert kinds.count("minute") == 2 * 96 * 15
    assert kinds.count("flow") == 2 * 96
    due = sum(int(np.sum(one.ts_init <= end)) for one in inputs.slow.series.values())
    assert kinds.count("series") == due > 90
    stamps = [call[2] for call in tested.told]
    assert stamps == sorted(stamps)
    # At equal stamps bars come last.
    for before, after in zip(tested.told, tested.told[1:], strict=False):
        if before[2] == after[2] and before[0] == "bar":
            assert after[0] == "bar"


def test_a_warm_start_and_what_follows_tell_what_one_piece_tells() -> None:
    inputs = market(96, seed=1)
    whole = Listener()
    backtest(inputs, whole)
    start = int(inputs.bars[0].ts_init[47])
    warm = Listener()
    slow = replace(inputs.slow, after=start)
    feed_history(warm, inputs.bars, inputs.funding, start, slow=slow)
    rest = replace(
        inputs,
        bars=tuple(one.between(start, None) for one in inputs.bars),
        funding={name: one.between(start, None) for name, one in inputs.funding.items()},
        slow=slow,
    )
    backtest(rest, warm)
    # Of one instant, what comes beside the bars may come in another order.
    assert warm.told[-1] == whole.told[-1]
    assert sorted(warm.told, key=_moment) == sorted(whole.told, key=_moment)


def _moment(call: tuple[Any, ...]) -> tuple[int, bool, str]:
    return (call[2], call[0] == "bar", str(call))


def test_a_warm_start_tells_all_of_a_series_but_only_the_last_bars() -> None:
    inputs = market(96, seed=2)
    start = int(inputs.bars[0].ts_init[-1])
    warm = Listener()
    feed_history(warm, inputs.bars, inputs.funding, start, slow=inputs.slow)
    first = start - SPEC.warmup_bars * INTERVAL
    for kind in ("bar", "minute", "flow"):
        assert min(call[2] for call in warm.told if call[0] == kind) > first
    assert min(call[2] for call in warm.told if call[0] == "series") < START
    assert sum(call[0] == "minute" for call in warm.told) == 2 * 15 * SPEC.warmup_bars


def test_what_was_published_is_recorded_as_it_was() -> None:
    inputs = market(24)
    frame = backtest(inputs).predictions
    assert len(frame) == 48
    assert frame["expert_lstm"].equals(frame["prob_up"].rename("expert_lstm"))
    assert frame["expert_tft"].isna().all()
    assert set(frame["weight_lstm"]) == {0.7}
    assert set(frame["side"]) == {-1, 0, 1}
    assert set(frame["regime"]) == {"", "trend"}
    assert frame[f"age_{INDEX}"].max() >= 1.0
    assert np.allclose(frame["mu"], 1e-2 * (frame["prob_up"] - 0.5))


def test_what_is_published_carries_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    genuine = predictor_actor._new_record

    def made(*fields: Any) -> Any:
        seen.append(genuine(*fields))
        return seen[-1]

    monkeypatch.setattr(predictor_actor, "_new_record", made)
    frame = backtest(market(24)).predictions
    assert len(seen) == len(frame) == 48
    one, row = seen[-1], frame.iloc[-1]
    for name in ("prob_up", "mu", "sigma", "side", "regime", "degraded", "degraded_reason"):
        assert getattr(one, name) == row[name]
    assert one.confidence == abs(2.0 * one.prob_up - 1.0)
    assert math.isnan(one.epistemic)
    assert json.loads(one.experts) == {"lstm": [one.prob_up, 0.7], "tft": [None, 0.0]}
    assert json.loads(one.input_ages) == {INDEX: row[f"age_{INDEX}"]}
    assert (one.ts_init, one.horizon_bars, one.model_version) == (row["ts_init"], 4, "listener")


def test_a_predictor_that_says_flat_opens_nothing() -> None:
    class Flat(Listener):
        def update(self, ts_init: int, bars: Mapping[str, Ohlcv]) -> list[Prediction]:
            found = super().update(ts_init, bars)
            return [one._replace(side=0, prob_up=0.9) for one in found]

    outcome = run_backtest(market(24), Flat(), POLICY, EXECUTION)
    assert len(outcome.orders) == 0
    assert set(outcome.decisions["reason"]) == {"predictor_flat"}


def test_inputs_that_are_not_there_stop_a_run_before_it_begins() -> None:
    bare = replace(market(24), slow=SlowInputs())
    with pytest.raises(DataError, match=f"lacked {ONCHAIN}, {INDEX}, {NEWS}: load them"):
        backtest(bare)
    with pytest.raises(DataError, match="series that the predictor asks for"):
        run_live_replay(bare, Listener, POLICY, EXECUTION)
    with pytest.raises(DataError, match="series that the predictor asks for"):
        feed_history(Listener(), bare.bars, {}, bare.ts_end)


def test_a_predictor_that_raises_on_a_slow_input_fails_the_run() -> None:
    class Failing(Listener):
        def update_series(self, *arguments: Any) -> None:
            raise ZeroDivisionError("planted")

    match = "PredictorActor.on_data: ZeroDivisionError: planted"
    with pytest.raises(RunFailedError, match=match):
        run_backtest(market(24), Failing(), POLICY, EXECUTION)
    with pytest.raises(RunFailedError, match=match):
        run_live_replay(market(24), Failing, POLICY, EXECUTION)
