"""What every group of features must hold to: one value, whoever computes it and wherever begun."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from research.features import WARMUP_BARS, FeatureConfig, FeatureMatrix, compute_features
from research.panel import Panel
from tests.research.markets import since, stream_rows

Rows = dict[tuple[str, int], NDArray[np.float64]]


def batch_rows(matrix: FeatureMatrix) -> Rows:
    """Return the rows that are warm by instrument and time."""
    return {
        (matrix.instruments[code], int(ts)): matrix.values[row]
        for row, (code, ts) in enumerate(zip(matrix.instrument, matrix.ts_init, strict=True))
        if matrix.valid[row]
    }


def assert_one_value(
    panel: Panel, config: FeatureConfig, offset: int, *, compiled: bool = True
) -> None:
    """Demand that a stream begun `offset` slots into a panel has the bits of the batch."""
    everything = batch_rows(compute_features(panel, config))
    start = int(panel.bars[0].ts_init[0]) + offset * panel.interval_ns
    listened = stream_rows(since(panel, start), config, compiled=compiled)
    warm_from = start + WARMUP_BARS * panel.interval_ns
    assert {key for key in everything if key[1] >= warm_from} <= listened.keys()
    assert listened
    for key, row in listened.items():
        assert row.tobytes() == everything[key].tobytes(), key


def columns(matrix: FeatureMatrix, prefix: str) -> dict[str, NDArray[np.float64]]:
    """Return the columns whose name begins with `prefix` under the rest of it; valid rows only."""
    return {
        name.removeprefix(prefix): matrix.values[matrix.valid, column]
        for column, name in enumerate(matrix.names)
        if name.startswith(prefix)
    }
