"""Speed of the replay, as ratios to the engine alone and to an idle strategy on the same data."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from nautilus_trader.backtest import BacktestEngine
from nautilus_trader.model import Bar, BarType, InstrumentId
from nautilus_trader.trading import Strategy, StrategyConfig

from catalog.arrays import BarArrays, SeriesArrays
from catalog.instruments import bar_type, instrument
from catalog.progress import no_progress
from catalog.timestamps import NS_PER_HOUR
from research.predictions import stamp_predictions
from research.predictor import PrecomputedPredictions, PredictorSpec
from strategies.backtest import FusionPolicy, Replay, ReplayInputs, engine_config
from strategies.predictor_actor import PREDICTION_TYPE
from strategies.replay_data import record_groups
from tests.benchmarks.harness import BenchmarkResult, main
from tests.strategies.settings import plain_execution

INTERVAL = 900 * 10**9
START = 1_672_531_200 * 10**9
PRICES = {
    "BTCUSDT-PERP.BINANCE": (30_000.0, 1),
    "ETHUSDT-PERP.BINANCE": (2_000.0, 2),
    "SOLUSDT-PERP.BINANCE": (100.0, 3),
}
BARS = 83_000
REPEATS = 3
EXECUTION = plain_execution(
    maker_fee_bps=2,
    taker_fee_bps=5,
    latency_ms=50,
    slippage_bps=1,
    funding="recorded",
    starting_balance=1e6,
    leverage=10,
)
# Random probabilities beyond these thresholds give about one order per 50 bars.
POLICY = FusionPolicy(
    entry_threshold=0.99, exit_threshold=0.01, position_frac=0.5, min_holding_bars=0
)


def market(count: int) -> tuple[ReplayInputs, PrecomputedPredictions]:
    """Return three random walks, their funding and random predictions for each bar."""
    rng = np.random.default_rng(7)
    times = START + (np.arange(count, dtype=np.int64) + 1) * INTERVAL
    bars, funding = [], {}
    for name, (price, decimals) in PRICES.items():
        close = np.round(price * np.exp(np.cumsum(rng.normal(0, 5e-4, count))), decimals)
        open_ = np.round(close * (1 + rng.normal(0, 1e-4, count)), decimals)
        high = np.round(np.maximum(open_, close) * 1.001, decimals)
        low = np.round(np.minimum(open_, close) * 0.999, decimals)
        volume = np.round(rng.random(count) * 100, 2)
        bars.append(BarArrays(name, INTERVAL, times, open_, high, low, close, volume))
        due = np.arange(START, times[-1] + 1, 8 * NS_PER_HOUR, dtype=np.int64)
        rates = np.round(rng.normal(0, 1e-4, len(due)), 8)
        funding[name] = SeriesArrays(name, "fraction", due, due.copy(), rates)
    names = tuple(PRICES)
    spec = PredictorSpec(names, INTERVAL, 16, 0, "bench", False, "0" * 64)
    rows = {
        "ts_init": np.repeat(times, len(names)),
        "instrument_id": np.tile(np.array(names, dtype=object), count),
        "prob_up": rng.uniform(0.001, 0.999, (count, len(names))).ravel(),
    }
    frame = stamp_predictions(pd.DataFrame(rows), spec, "0" * 64)
    instruments = tuple(instrument(name) for name in names)
    inputs = ReplayInputs(instruments, tuple(bars), funding)
    return inputs, PrecomputedPredictions.from_frame(frame, spec)


class Idle(Strategy):
    """Take bars, or everything that the real strategy takes, and do nothing."""

    def __new__(cls, everything: bool) -> Idle:
        return super().__new__(cls)

    def __init__(self, everything: bool) -> None:
        super().__init__(StrategyConfig(order_id_tag="IDLE"))
        self._everything = everything

    def on_start(self) -> None:
        for name in PRICES:
            self.subscribe_bars(BarType.from_str(bar_type(name, "15m")))
            if self._everything:
                self.subscribe_mark_prices(InstrumentId.from_str(name))
                self.subscribe_funding_rates(InstrumentId.from_str(name))
        if self._everything:
            self.subscribe_data(PREDICTION_TYPE)

    def on_bar(self, bar: Any) -> None:
        pass

    def on_data(self, data: Any) -> None:
        pass

    def on_mark_price(self, mark_price: Any) -> None:
        pass

    def on_funding_rate(self, funding_rate: Any) -> None:
        pass


class Timed(Replay):
    """A replay that knows how long its engine ran, in CPU seconds."""

    engine_seconds = 0.0

    def run_engine(self, engine: Any) -> None:
        self.engine_seconds += timed(lambda: super(Timed, self).run_engine(engine))


def timed(call: Any) -> float:
    gc.collect()
    start = time.process_time()
    call()
    return time.process_time() - start


def idle_seconds(replay: Timed, *, everything: bool) -> float:
    """Return the CPU seconds of an idle strategy, on bars only or on everything."""
    engine = BacktestEngine(engine_config())
    try:
        replay.add_venue(engine, lambda: 0)
        if everything:
            engine.add_actor(replay.actor(lambda _: None))
            engine.add_strategy(Idle(everything))
            replay.feed(engine)
            return replay.engine_seconds
        for batch in record_groups(replay.inputs, replay.execution):
            if isinstance(batch[0], Bar):
                engine.add_data(batch, validate=False, sort=False)
        engine.sort_data()
        engine.add_strategy(Idle(everything))
        return timed(engine.run)
    finally:
        engine.dispose()


def measure(count: int) -> tuple[float, float, float, int]:
    """Return CPU seconds of empty, control and real run, and the number of orders."""
    inputs, predictor = market(count)

    def fresh() -> Timed:
        return Timed(inputs, predictor, POLICY, EXECUTION)

    empty = idle_seconds(fresh(), everything=False)
    control = idle_seconds(fresh(), everything=True)
    replay = fresh()
    outcome = replay.run(no_progress)
    return empty, control, replay.engine_seconds, len(outcome.orders)


def benchmarks() -> Iterator[BenchmarkResult]:
    """Compare back to back, and take the median of the paired ratios."""
    rounds = [measure(BARS) for _ in range(REPEATS)]
    orders = rounds[0][3]
    note = f"3 x {BARS:,} bars, {orders:,} orders, CPU time of one core"
    yield BenchmarkResult(
        name="replay against the engine with an empty strategy",
        value=statistics.median(empty / real for empty, _, real, _ in rounds),
        unit="ratio",
        budget=0.10,
        tolerance=0.1,
        note=note,
    )
    yield BenchmarkResult(
        name="replay against an idle strategy on the same data",
        value=statistics.median(control / real for _, control, real, _ in rounds),
        unit="ratio",
        budget=0.50,
        tolerance=0.1,
        note=note,
    )
    half = measure(BARS // 2)
    yield BenchmarkResult(
        name="replay of twice the span",
        value=statistics.median(real / half[2] for _, _, real, _ in rounds),
        unit="times",
        budget=2.5,
        better="lower",
        tolerance=0.1,
        note=f"against 3 x {BARS // 2:,} bars",
    )
    yield BenchmarkResult(
        name="replay",
        value=3 * BARS / statistics.median(real for _, _, real, _ in rounds),
        unit="bars/s",
        note=note,
    )


if __name__ == "__main__":
    raise SystemExit(main(benchmarks))
