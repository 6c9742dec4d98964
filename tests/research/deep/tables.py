"""Small made-up training tables for tests of sequence models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np

from research.features import FeatureMatrix
from research.labels import Labels

if TYPE_CHECKING:
    from research.training_table import TrainingTable

INTERVAL = 900_000_000_000
FIRST_SLOT = 1_900_123
NAMES = ("volatility_20", "volatility_ratio", "signal", "noise", "seldom", "instrument_code")
VOL = 1e-3
INSTRUMENTS = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")


def planted_table(
    slots: int = 1_500,
    *,
    edge: float = 1.0,
    seed: int = 0,
    missing: float = 0.0,
    hole: tuple[int, int] | None = None,
    horizon: int = 1,
) -> TrainingTable:
    """Return a table whose return follows the signal of two bars before, `edge` to the noise.

    `missing` is the share of bars left out, `hole` a stretch of slots that the first instrument
    lacks; `seldom` is NaN half of the time.
    """
    random = np.random.default_rng(seed)
    parts = []
    for code in range(len(INSTRUMENTS)):
        signal = random.normal(size=slots)
        follows = np.concatenate([[0.0, 0.0], signal[:-2]])
        change = VOL * (edge * follows + random.normal(size=slots))
        seldom = np.where(random.random(slots) < 0.5, np.nan, random.normal(size=slots))
        kept = random.random(slots) >= missing
        if hole is not None and code == 0:
            kept[hole[0] : hole[0] + hole[1]] = False
        slot = FIRST_SLOT + np.arange(slots)
        values = np.column_stack(
            [
                np.full(slots, VOL),
                np.ones(slots),
                signal,
                random.normal(size=slots),
                seldom,
                np.full(slots, float(code)),
            ]
        )
        parts.append((slot[kept], np.full(kept.sum(), code), values[kept], np.expm1(change)[kept]))
    slot, code, values, change = (np.concatenate(part) for part in zip(*parts, strict=True))
    label = (change > 0).astype(float)
    label[slot >= FIRST_SLOT + slots - horizon] = np.nan
    matrix = FeatureMatrix(
        NAMES, INSTRUMENTS, slot * INTERVAL, code, values, np.ones(len(slot), dtype=np.bool_)
    )
    labels = Labels(
        label,
        np.where(np.isnan(label), np.nan, change),
        (slot + horizon) * INTERVAL,
        np.ones(len(slot)),
    )
    return table_of(matrix, labels, INTERVAL)


def table_of(matrix: FeatureMatrix, labels: Labels, interval_ns: int) -> TrainingTable:
    """Return as much of a training table as a fit of a sequence model looks at."""
    table = SimpleNamespace(matrix=matrix, labels=labels, interval_ns=interval_ns)
    return cast("TrainingTable", table)


def trainable_rows(table: TrainingTable, until: float = 1.0) -> np.ndarray:
    """Return the rows with a label in the first part of the span, as a fit gets them."""
    ts_init = table.matrix.ts_init
    last = ts_init.min() + until * (ts_init.max() - ts_init.min())
    inside = table.matrix.valid & (table.labels.ts_end <= last) & ~np.isnan(table.labels.value)
    return np.flatnonzero(inside)
