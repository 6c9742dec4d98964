"""Features and labels side by side: what models are fitted on and asked about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from catalog.progress import Progress, no_progress
from catalog.timestamps import NS_PER_DAY
from research.features import FeatureMatrix, compute_features
from research.labels import Labels, compute_labels
from research.panel import Panel

if TYPE_CHECKING:
    from research.settings import WalkForwardConfig


@dataclass(frozen=True, slots=True, eq=False)
class TrainingTable:
    """Features and labels of a panel, row by row: instrument-major, time-sorted within.

    Parameters
    ----------
    matrix : FeatureMatrix
        Features, (n_rows, n_features).
    labels : Labels
        Labels of the same rows.
    last_sign : (n_rows,) float64
        Sign of the return of each row's own bar: -1, 0, 1 (0 for an instrument's first).
    interval_ns : int
        Length of a bar.
    data_hash : str
        Of the panel.
    synthetic : bool
        Whether any of the data was made up.
    """

    matrix: FeatureMatrix
    labels: Labels
    last_sign: Float64Array
    interval_ns: int
    data_hash: str
    synthetic: bool

    @property
    def trainable(self) -> NDArray[np.bool_]:
        """Rows past the warm-up with a known label, (n_rows,)."""
        return self.matrix.valid & ~np.isnan(self.labels.value)


def build_table(
    panel: Panel,
    config: WalkForwardConfig,
    *,
    progress: Progress = no_progress,
    matrix: FeatureMatrix | None = None,
) -> TrainingTable:
    """Compute features and labels of a panel; `matrix` are its features, where they are known."""
    if matrix is None:
        matrix = compute_features(panel, config.features, progress=progress)
    labels = compute_labels(panel, config.label)
    if config.half_life_days is not None:
        weight = labels.weight * recency(matrix.ts_init, config.half_life_days)
        labels = replace(labels, weight=weight)
    signs = [
        np.sign(np.diff(bars.close, prepend=bars.close[:1])) if len(bars) else np.empty(0)
        for bars in panel.bars
    ]
    return TrainingTable(
        matrix,
        labels,
        np.concatenate(signs),
        panel.interval_ns,
        panel.data_hash,
        panel.synthetic,
    )


def recency(ts_init: Int64Array, half_life_days: float) -> Float64Array:
    """Return how much rows count for their age, (n_rows,): 1 for the first, then ever more.

    Every fit divides weights by their mean, so that only their proportions matter: counting from
    the first row instead of from the end of a span gives every span the same ones.
    """
    if not len(ts_init):
        return np.empty(0)
    days = (ts_init - ts_init.min()) / NS_PER_DAY
    weight: Float64Array = np.exp2(days / half_life_days)
    return weight
