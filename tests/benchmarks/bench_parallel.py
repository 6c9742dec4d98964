"""Two cores against one on the validation run, and Ray's workers against joblib's.

The run is `levibot validate` on a synthetic market, without the null test: every split fitted,
every path and variant replayed. Ratios of one process each, the same work to the last bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import BenchmarkResult, main

ROOT = Path(__file__).resolve().parents[2]
DAYS = 182
SETTINGS = ("--set", "experts={lightgbm: {n_trees: 200}}")


def benchmarks() -> Iterator[BenchmarkResult]:
    """Validate with one worker and with two; then fit the splits on a cluster of two."""
    with tempfile.TemporaryDirectory() as folder:
        catalog, run = Path(folder) / "catalog", Path(folder) / "run"
        levibot("data", "synth", "--catalog", catalog, "--days", DAYS, "--edge", 1)
        profile = ("--profile", "synthetic", "--catalog", catalog, *SETTINGS)
        levibot("walkforward", *profile, "--out", run)
        validate = ("validate", *profile, "--run", run, "--null-runs", 0)
        seconds: dict[str, float] = {}
        for name, more in _places():
            out = Path(folder) / name
            spent, report = levibot(*validate, "--out", out, *more)
            # Reading the data, tests and pictures are not divided among workers.
            steps = report["seconds"]
            divided = ("cross-validation", "paths", "variants")
            seconds[name] = sum(one for step, one in steps.items() if step in divided)
            yield BenchmarkResult(
                name=f"validate, {name}",
                value=spent,
                unit="s",
                better="lower",
                note=f"{seconds[name]:.0f} s of it fits and replays",
            )
        yield BenchmarkResult(
            name="two workers against one",
            value=seconds["one worker"] / seconds["two workers"],
            unit="ratio",
            budget=1.7,
            tolerance=0.1,
            note="fits and replays of the validation run, cold workers",
        )
        if "ray" in seconds:
            yield BenchmarkResult(
                name="Ray's two workers against joblib's",
                value=seconds["ray"] / seconds["two workers"],
                unit="ratio",
                budget=1.2,
                better="lower",
                tolerance=0.1,
                note="the same, on a cluster that runs",
            )


def _places() -> Iterator[tuple[str, tuple[object, ...]]]:
    yield "one worker", ("--workers", 1)
    yield "two workers", ("--workers", 2)
    if find_spec("ray") is None:
        return
    ray = Path(sys.executable).with_name("ray")
    start = ("start", "--head", "--num-cpus=2", "--include-dashboard=false", "--port=6399")
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([ray, *start], **quiet)  # type: ignore[call-overload]
    try:
        os.environ["RAY_ADDRESS"] = "127.0.0.1:6399"
        yield "ray", ("--cluster", "auto", "--workers", 2)
    finally:
        subprocess.run([ray, "stop"], **quiet)  # type: ignore[call-overload]


def levibot(*arguments: object) -> tuple[float, dict[str, Any]]:
    """Run a command in a process of its own; return its wall time and its JSON."""
    command = [sys.executable, "-m", "live.cli", *map(str, arguments), "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return time.perf_counter() - start, json.loads(done.stdout)


if __name__ == "__main__":
    raise SystemExit(main(benchmarks))
