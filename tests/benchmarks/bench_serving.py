"""One streamed decision of all experts: how long it takes, and what serving them costs in memory.

The networks have the default sizes and made-up weights: what they answer costs the same.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from research.experts import FitContext
from research.models.registry import EXPERT_KINDS, ExpertsConfig, fit_expert, load_expert
from tests.benchmarks.harness import BenchmarkResult, main

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = "--serve"
DECISIONS, WARM_UP = 1_500, 300
INTERVAL = 900_000_000_000


def benchmarks() -> Iterator[BenchmarkResult]:
    """Save every kind at its default size, then serve them in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        names = save_all(Path(folder))
        for instruments, budget in ((1, 5.0), (3, None)):
            found = serve(Path(folder), names, instruments)
            note = f"{instruments} instrument(s), 20 samples, {len(names)} columns, one core"
            yield BenchmarkResult(
                name=f"decision, all experts, {instruments} instrument(s), P95",
                value=found["p95"],
                unit="ms",
                budget=budget,
                better="lower",
                tolerance=0.2,
                note=f"{note}; median {found['median']:.3g}; of the processor's time: "
                f"median {found['processor_median']:.3g}, P95 {found['processor_p95']:.3g}",
            )
            for kind, median in found["experts"].items():
                yield BenchmarkResult(
                    name=f"{kind}, {instruments} instrument(s), median",
                    value=median,
                    unit="ms",
                    better="lower",
                    note=note,
                )
        for kind in EXPERT_KINDS:
            found = serve(Path(folder), names, 1, kind)
            yield BenchmarkResult(
                name=f"memory of {kind}",
                value=max(found["memory"], 0.01),
                unit="MB",
                budget=512.0,
                better="lower",
                note="resident, with what it imports, beyond numpy and the registry",
            )


def save_all(folder: Path) -> tuple[str, ...]:
    """Fit every kind to made-up rows, hardly, and save each into a folder of its own."""
    table = made_up_table()
    rows = np.arange(len(table.matrix.ts_init))
    everything: dict[str, dict[str, Any]] = {
        name: {} if name in ("lightgbm", "sentiment", "heuristic") else {"epochs": 1}
        for name in EXPERT_KINDS
    }
    for name, config in ExpertsConfig.model_validate(everything).chosen().items():
        (folder / name).mkdir()
        fit_expert(name, table, rows, config, FitContext()).save(folder / name)
    return tuple(table.matrix.names)


def made_up_table(n_rows: int = 3_000) -> Any:
    """Return a table with the columns of a full feature table and values drawn at random."""
    from types import SimpleNamespace

    from research.features import FeatureMatrix, feature_table
    from research.labels import Labels
    from tests.research.markets import EVERYTHING, INSTRUMENTS

    random = np.random.default_rng(0)
    names = [feature.name for feature in feature_table(EVERYTHING)]
    names += [f"extra_{place}" for place in range(40)] + ["news_score", "regime"]
    values = random.normal(size=(n_rows, len(names)))
    values[:, names.index("news_score")] = random.uniform(-1.0, 1.0, n_rows)
    for name in ("volatility_20", "volatility_ratio"):
        values[:, names.index(name)] = 1e-3
    values[:, names.index("instrument_code")] = 0.0
    ts_init = (1_900_000 + np.arange(n_rows)) * INTERVAL
    code = np.zeros(n_rows, dtype=np.int64)
    valid = np.ones(n_rows, dtype=np.bool_)
    matrix = FeatureMatrix(tuple(names), INSTRUMENTS, ts_init, code, values, valid)
    change = random.normal(0.0, 1e-3, n_rows)
    labels = Labels((change > 0.0).astype(float), change, ts_init + INTERVAL, np.ones(n_rows))
    return SimpleNamespace(matrix=matrix, labels=labels, interval_ns=INTERVAL)


def serve(
    folder: Path, names: tuple[str, ...], instruments: int, only: str | None = None
) -> dict[str, Any]:
    """Serve what was saved in a process of its own; return what it measured."""
    request = json.dumps([str(folder), names, instruments, only])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_serving", ARGUMENTS, request],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"serving failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(folder: str, names: list[str], instruments: int, only: str | None) -> dict[str, Any]:
    """Stream made-up rows through the experts and time every decision."""
    before = resident_mb()
    kinds = [only] if only else list(EXPERT_KINDS)
    streams = {
        kind: load_expert(kind, Path(folder) / kind, tuple(names)).stream(instruments)
        for kind in kinds
    }
    random = np.random.default_rng(1)
    codes = np.arange(instruments)
    place = names.index("news_score")
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    processor = np.zeros(DECISIONS)
    for slot in range(DECISIONS):
        values = random.normal(size=(instruments, len(names)))
        values[:, place] = 0.1
        for kind, stream in streams.items():
            start, worked = time.perf_counter(), time.thread_time()
            stream.update(slot, codes, values)
            seconds[kind].append(time.perf_counter() - start)
            processor[slot] += time.thread_time() - worked
    loaded = {name for name in ("torch", "lightgbm", "sklearn") if name in sys.modules}
    if loaded:
        raise RuntimeError(f"serving must not import {', '.join(sorted(loaded))}, did")
    warm = {kind: np.array(found[WARM_UP:]) * 1e3 for kind, found in seconds.items()}
    total = np.sum(list(warm.values()), axis=0)
    return {
        "p95": float(np.percentile(total, 95.0)),
        "median": float(np.median(total)),
        "processor_p95": float(np.percentile(processor[WARM_UP:], 95.0)) * 1e3,
        "processor_median": float(np.median(processor[WARM_UP:])) * 1e3,
        "experts": {kind: statistics.median(found.tolist()) for kind, found in warm.items()},
        "memory": resident_mb() - before,
    }


def resident_mb() -> float:
    """Return the memory that this process holds now, in MB."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == [ARGUMENTS]:
        print(json.dumps(measure(*json.loads(sys.argv[2]))))
        raise SystemExit(0)
    raise SystemExit(main(benchmarks))
