"""Features: batch, stream, and how long the first call takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from research.features import FeatureConfig, FeatureStream, compute_features, feature_table
from tests.benchmarks.harness import BenchmarkResult, main, median_seconds
from tests.research.markets import (
    EVERYTHING,
    FULL,
    INSTRUMENTS,
    Market,
    bars_by_time,
    calls,
    furnished,
    told,
)

ROOT = Path(__file__).resolve().parents[2]
THIRTY = FeatureConfig(instrument_code=True)  # the first 30 of the table
WITHOUT_PATH = FULL.model_copy(update={"path": False})

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
    panel = furnished(Market(1, 80_000).panel(), 1, late=False)
    rows = sum(len(bars) for bars in panel.bars)
    for name, config, budget in (
        ("batch features, first 30", THIRTY, 2_000_000),
        ("batch features, without groups", EVERYTHING, 1_000_000),
        ("batch features, all but the path", WITHOUT_PATH, 500_000),
        ("batch features, full table", FULL, 500_000),
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
    for name, config, compiled, budget in (
        ("streaming features, no groups, compiled", EVERYTHING, True, 10.0),
        ("streaming features, no groups, plain Python", EVERYTHING, False, 60.0),
        ("streaming features, full table, compiled", FULL, True, 60.0),
        ("streaming features, all but the path, plain Python", WITHOUT_PATH, False, 150.0),
        ("streaming features, full table, plain Python", FULL, False, 200.0),
    ):
        slots = 10_000 if compiled else 2_000
        yield BenchmarkResult(
            name=name,
            value=1e6 * seconds_per_bar(config, slots, compiled=compiled),
            unit="µs/bar",
            budget=budget,
            better="lower",
            tolerance=0.1,
            note=f"3 symbols, {len(feature_table(config))} columns, warm",
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


def seconds_per_bar(config: FeatureConfig, slots: int, *, compiled: bool) -> float:
    """Return the mean time of one bar of one instrument in a warm stream, all that it is told in.

    That is its flow, its minutes and the records of slow series that came since the bar before.
    """
    panel = furnished(Market(2, slots + 1_000).panel(), 2, late=False)
    stream = FeatureStream(INSTRUMENTS, panel.interval_ns, config, compiled=compiled)
    arriving = list(bars_by_time(panel).items())
    waiting = [(one[0], *calls(stream, *one)) for one in told(panel, config)]
    done, start = 0, 0.0
    for number, (ts_init, bars) in enumerate(arriving):
        if number == 1_000:
            start = time.perf_counter()
        while done < len(waiting) and waiting[done][0] <= ts_init:
            _, call, arguments = waiting[done]
            call(*arguments)
            done += 1
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
