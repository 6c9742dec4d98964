"""Sequence models: training, and answering whole spans with all members of the ensemble."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch

from research.experts import FitContext
from research.features import compute_features
from research.labels import LabelConfig, compute_labels
from research.models.deep.config import DeepConfig, LSTMConfig, TransformerConfig
from research.models.deep.fit import fit
from tests.benchmarks.harness import BenchmarkResult, main, median_seconds, peak_memory_mb
from tests.research.deep.tables import table_of, trainable_rows
from tests.research.markets import EVERYTHING, Market

TRAINED_SLOTS, ANSWERED_ROWS = 12_000, 3_000


def benchmarks() -> Iterator[BenchmarkResult]:
    """Yield the figures of DESIGN.md, section 5, that concern training."""
    panel = Market(1, TRAINED_SLOTS).panel()
    table = table_of(
        compute_features(panel, EVERYTHING),
        compute_labels(panel, LabelConfig(horizon_bars=1)),
        panel.interval_ns,
    )
    rows = trainable_rows(table)
    cores = os.cpu_count() or 1
    small = TransformerConfig(d_model=64, feedforward=128)
    for name, config, threads, budget in (
        ("transformer training, d 128", TransformerConfig(), 2, 20_000),
        ("transformer training, d 128, one thread", TransformerConfig(), 1, None),
        ("transformer training, d 64, one thread", small, 1, None),
        ("LSTM training, d 64, one thread", LSTMConfig(), 1, None),
    ):
        if threads > cores:
            continue
        yield BenchmarkResult(
            name=name,
            value=_bars_per_second(table, rows, config, threads),
            unit="bars/s",
            budget=budget,
            better="higher",
            tolerance=0.1,
            note=f"{len(table.matrix.names)} features, 3 symbols, {threads} of {cores} cores, "
            "validation apart",
        )
    for name, config in (("transformer, d 128", TransformerConfig()), ("transformer, d 64", small)):
        yield BenchmarkResult(
            name=f"batch answers, {name}",
            value=_answers_per_second(table, rows, config),
            unit="bars/s",
            note=f"{config.samples} dropout samples, one thread, reach {config.reach_bars}",
        )
    yield BenchmarkResult(
        name="memory of fitting and answering",
        value=peak_memory_mb(),
        unit="MB",
        budget=1_500,
        better="lower",
        tolerance=0.1,
        note=f"{len(rows):,} rows, torch {torch.__version__} included",
    )


def _bars_per_second(table, rows, config: DeepConfig, threads: int) -> float:  # type: ignore[no-untyped-def]
    """Return the rows trained on in a second, from fits of two and of one epoch."""
    whole = {"validation_frac": 0.0}
    seconds = [
        median_seconds(
            lambda epochs=epochs: fit(
                table,
                rows,
                config.model_copy(update=whole | {"epochs": epochs}),
                FitContext(threads=threads),
            ),
            repeats=3,
            warm_up=epochs == 1,
        )
        for epochs in (1, 2)
    ]
    return len(rows) / (seconds[1] - seconds[0])


def _answers_per_second(table, rows, config: DeepConfig) -> float:  # type: ignore[no-untyped-def]
    one = config.model_copy(update={"epochs": 1, "max_seconds": 1e-9})
    expert = fit(table, rows, one, FitContext())
    asked = rows[: np.searchsorted(rows, rows[0] + ANSWERED_ROWS)]
    return len(asked) / median_seconds(lambda: expert.predict(table.matrix, asked), repeats=3)


if __name__ == "__main__":
    raise SystemExit(main(benchmarks))
