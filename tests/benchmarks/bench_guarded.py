"""Sixteen symbols through one engine, with sizing, volatility stops and the risk guard on.

The prices are those of real spot markets, treated as perpetuals. Two of the files cover another
year than the rest: rows are put side by side by their number, and take the stamps of the first.
The probabilities are made up: what they cost is the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from catalog.arrays import BarArrays
from catalog.encoding import decimals_needed
from catalog.instruments import definition, infer_instrument
from catalog.progress import no_progress
from research.predictions import stamp_predictions
from research.predictor import PrecomputedPredictions, PredictorSpec
from strategies.backtest import FusionPolicy, Replay, ReplayInputs
from strategies.risk_policy import RiskPolicy
from strategies.sizing_config import SizingConfig
from strategies.stops import StopConfig
from tests.benchmarks.harness import BenchmarkResult, SkipBenchmark, main, peak_memory_mb
from tests.strategies.settings import plain_execution

ROOT = Path(__file__).resolve().parents[2]
INTERVAL = 900 * 10**9
POLICY = FusionPolicy(
    entry_threshold=0.60,
    exit_threshold=0.50,
    position_frac=0.1,
    regime_shift=0.02,
    cooldown_bars=4,
    edge_margin_bps=0.0,
    stops=StopConfig(stop_vol_multiple=2.0),
    sizing=SizingConfig(method="kelly", max_position=0.1, max_gross=1.5),
)
GUARDED = POLICY.model_copy(update={"risk": RiskPolicy(max_daily_loss=0.05, max_drawdown=0.99)})
HORIZON = 16


def benchmarks() -> Iterator[BenchmarkResult]:
    """Replay all symbols without and with the guard."""
    data = Path(os.environ.get("LEVIBOT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    folder = data / "bars" / "spot"
    if not folder.is_dir():
        raise SkipBenchmark("real market data is absent")
    inputs = read_market(sorted(folder.glob("*-15m.feather")))
    execution = plain_execution(slippage_bps=1, starting_balance=1e6, leverage=10)
    for name, policy in (("without the guard", POLICY), ("with the guard", GUARDED)):
        replay = Replay(inputs, predictions(inputs), policy, execution)
        started = time.process_time()
        outcome = replay.run(no_progress)
        seconds = time.process_time() - started
        bars = sum(map(len, inputs.bars))
        yield BenchmarkResult(
            name=f"replay of {len(inputs.bars)} symbols {name}",
            value=bars / seconds,
            unit="bars/s",
            better="higher",
            note=f"{bars:,} bars, {len(outcome.orders):,} orders, {len(outcome.guard)} events of "
            "the guard; the processor's time, frames included",
        )
    yield BenchmarkResult(
        name=f"peak memory of {len(inputs.bars)} symbols",
        value=peak_memory_mb(),
        unit="MB",
        better="lower",
        note="the whole process",
    )


def read_market(files: list[Path]) -> ReplayInputs:
    """Return the bars of all files side by side, as perpetuals."""
    tables = {path.name.split("_")[0]: pd.read_feather(path) for path in files}
    count = min(map(len, tables.values()))
    first = next(iter(tables.values()))
    opens = pd.DatetimeIndex(first["date"]).as_unit("ns").asi8[:count]
    times = opens[0] + (np.arange(count, dtype=np.int64) + 1) * INTERVAL
    bars, instruments = [], []
    for symbol, table in tables.items():
        name = f"{symbol}USDT-PERP.BINANCE"
        columns = {key: table[key].to_numpy(dtype=np.float64)[:count] for key in _COLUMNS}
        prices = np.concatenate([columns[key] for key in _COLUMNS[:4]])
        spec = infer_instrument(
            name, decimals_needed(prices, 0)[0], decimals_needed(columns["volume"], 0)[0]
        )
        bars.append(BarArrays(name, INTERVAL, times, *(columns[key] for key in _COLUMNS)))
        instruments.append(definition(spec))
    return ReplayInputs(tuple(instruments), tuple(bars))


_COLUMNS = ("open", "high", "low", "close", "volume")


def predictions(inputs: ReplayInputs) -> PrecomputedPredictions:
    """Return made-up probabilities with the true volatility of each bar beside them."""
    random = np.random.default_rng(7)
    frames = []
    for one in inputs.bars:
        moves = pd.Series(np.diff(np.log(one.close), prepend=np.log(one.close[0])))
        frames.append(
            pd.DataFrame(
                {
                    "ts_init": one.ts_init,
                    "instrument_id": one.instrument_id,
                    "prob_up": np.clip(random.normal(0.5, 0.04, len(one)), 0.01, 0.99),
                    "volatility": np.sqrt((moves**2).rolling(96).mean()),
                    "regime": random.choice(["trend", "neutral", "mean_reverting"], len(one)),
                }
            )
        )
    names = tuple(one.instrument_id for one in inputs.bars)
    spec = PredictorSpec(names, INTERVAL, HORIZON, 0, "bench", False, "0" * 64)
    frame = pd.concat(frames, ignore_index=True)
    return PrecomputedPredictions.from_frame(stamp_predictions(frame, spec, "0" * 64), spec)


if __name__ == "__main__":
    raise SystemExit(main(benchmarks))
