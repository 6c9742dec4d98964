"""From files to a report: importing all of the real data, and one whole walk-forward on it.

Each is the command itself, in a process of its own, with its start and its imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import BenchmarkResult, SkipBenchmark, main

ROOT = Path(__file__).resolve().parents[2]
PROFILES = (
    ("perps-swing", 30.0, 500.0),
    ("perps-15m", 450.0, 1_500.0),
    ("perps-experts", 900.0, 2_048.0),
)
"""Six folds of three symbols each, with the most seconds and mebibytes that they may take."""


def benchmarks() -> Iterator[BenchmarkResult]:
    """Import, import again, walk forward, and walk forward over the demonstration."""
    data = Path(os.environ.get("LEVIBOT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not data.is_dir():
        raise SkipBenchmark("real market data is absent")
    with tempfile.TemporaryDirectory() as folder:
        catalog = Path(folder) / "catalog"
        imported = ("data", "import", data, "--catalog", catalog)
        seconds, report = levibot(*imported)
        note = f"{report['added']:,} records in {len(report['files'])} files"
        yield seconds_result("import of all shared data", seconds, 60.0, note)
        seconds, report = levibot(*imported)
        yield seconds_result("the same import again", seconds, None, f"{report['added']} new")
        for profile, most_seconds, most_memory in PROFILES:
            out = Path(folder) / profile
            seconds, report = levibot(
                "walkforward", "--profile", profile, "--catalog", catalog, "--out", out
            )
            auc = report["prediction"]["auc"]["value"]
            steps = ", ".join(
                f"{step} {spent:.0f}" for step, spent in report["step_seconds"].items()
            )
            note = f"AUC {auc:.4f}; seconds of one core: {steps}"
            yield seconds_result(f"walk-forward {profile}", seconds, most_seconds, note)
            yield BenchmarkResult(
                name=f"peak memory of walk-forward {profile}",
                value=report["peak_memory_mb"],
                unit="MB",
                budget=most_memory,
                better="lower",
                tolerance=0.2,
                note="resident, the whole process",
            )


def seconds_result(name: str, seconds: float, budget: float | None, note: str) -> BenchmarkResult:
    """Return a duration of a whole command."""
    return BenchmarkResult(
        name=name,
        value=seconds,
        unit="s",
        budget=budget,
        better="lower",
        tolerance=0.15,
        note=note,
    )


def levibot(*arguments: str | Path) -> tuple[float, dict[str, Any]]:
    """Run a command with --json and return its wall time and answer."""
    command = [sys.executable, "-m", "live.cli", *map(str, arguments), "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[3:])} failed: {done.stderr[-2000:]}")
    return time.perf_counter() - start, json.loads(done.stdout)


if __name__ == "__main__":
    raise SystemExit(main(benchmarks))
