"""Features: batch, stream, and how long the first call takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from research.features import FeatureConfig, FeatureStream, compute_features, feature_table
from tests.benchmarks.harness import BenchmarkResult, main, median_seconds
from tests.research.markets import EVERYTHING, INSTRUMENTS, Market, bars_by_time

ROOT = Path(__file__).resolve().parents[2]
THIRTY = FeatureConfig(instrument_code=True)  # the first 30 of the table

_FIRST_CALL = """
import time
import numba
from research.features import compute_features
from tests.research.markets import EVERYTHING, Market
panel = Market(1, 100).panel()
start = time.perf_counter()
compute_features(panel, EVERYTHING)
print(time.perf_counter() - start)
"""


def benchmarks() -> Iterator[BenchmarkResult]:
    """Yield the figures of DESIGN.md, section 5."""
    panel = Market(1, 80_000).panel()
    rows = sum(len(bars) for bars in panel.bars)
    for name, config, budget in (
        ("batch features, first 30", THIRTY, 2_000_000),
        ("batch features, full table", EVERYTHING, 500_000),
    ):
        seconds = median_seconds(lambda config=config: compute_features(panel, config), repeats=7)
        yield BenchmarkResult(
            name=name,
            value=rows / seconds,
            unit="bars/s",
            budget=budget,
            better="higher",
            tolerance=0.1,
            note=f"3 symbols x 80,000 bars, {len(feature_table(config))} columns, one core, warm",
        )
    for name, compiled, slots, budget in (
        ("streaming features, compiled", True, 20_000, 10.0),
        ("streaming features, plain Python", False, 3_000, 60.0),
    ):
        yield BenchmarkResult(
            name=name,
            value=1e6 * seconds_per_bar(slots, compiled=compiled),
            unit="µs/bar",
            budget=budget,
            better="lower",
            tolerance=0.1,
            note=f"3 symbols, {len(feature_table(EVERYTHING))} columns, warm",
        )
    for name, seconds, budget in zip(
        ("kernels, first call, cold", "kernels, first call, from cache"),
        first_calls(),
        (10.0, 1.5),
        strict=True,
    ):
        yield BenchmarkResult(
            name=name,
            value=seconds,
            unit="s",
            budget=budget,
            better="lower",
            tolerance=0.2,
            note="batch driver in a new process, after `import numba`",
        )


def seconds_per_bar(slots: int, *, compiled: bool) -> float:
    """Return the mean time of one bar of one instrument in a warm stream."""
    panel = replace(Market(2, slots + 1_000).panel(), funding={})
    arriving = list(bars_by_time(panel).items())
    stream = FeatureStream(INSTRUMENTS, panel.interval_ns, EVERYTHING, compiled=compiled)
    for ts_init, bars in arriving[:1_000]:
        stream.update(ts_init, bars)
    start = time.perf_counter()
    for ts_init, bars in arriving[1_000:]:
        stream.update(ts_init, bars)
    return (time.perf_counter() - start) / (slots * len(INSTRUMENTS))


def first_calls() -> tuple[float, float]:
    """Return the seconds of the first call with an empty cache, and with a filled one."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "LEVIBOT_CACHE_DIR": folder, "PYTHONPATH": str(ROOT)}
        # An installed environment has byte code; without it numba compiles scipy's Python first.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "bytecode")
        cold, cached = (
            float(
                subprocess.run(
                    [sys.executable, "-c", _FIRST_CALL],
                    cwd=ROOT,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for _ in range(2)
        )
    return cold, cached


if __name__ == "__main__":
    raise SystemExit(main(benchmarks))
