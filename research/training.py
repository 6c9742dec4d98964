"""From a panel to one fitted, calibrated model: the same path for a fold and for a bundle.

What a model used after `until` may know: rows whose label's span ends at or before `until` less
the embargo. How they are used inside is told in `research.fitting`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from catalog.errors import ConfigError, DataError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time
from research.fitted import FittedModel
from research.fitting import fit_rows
from research.panel import Panel
from research.settings import WalkForwardConfig
from research.splits import training_rows
from research.training_table import TrainingTable, build_table


def train_until(
    panel: Panel,
    config: WalkForwardConfig,
    until: int,
    *,
    progress: Progress = no_progress,
    measured: bool = False,
) -> FittedModel:
    """Fit one model on what was known at `until`.

    Parameters
    ----------
    panel : Panel
        Data; whatever became known after `until` is cut off first.
    config : WalkForwardConfig
        Settings.
    until : int
        UTC nanoseconds; the model may be used for rows known after it.
    measured : bool
        Whether its answers on held-out rows are measured (`FitReports.metrics`).

    Returns
    -------
    FittedModel
        Bit for bit the one that a walk-forward fits for a test block that starts at `until`.

    Raises
    ------
    ConfigError
        If `until` is not within the panel's bars.
    DataError
        If too few rows are left to train on.
    """
    last = max((int(bars.ts_init[-1]) for bars in panel.bars if len(bars)), default=until - 1)
    if until > last:
        raise ConfigError(
            f"until must not be after the last bar ({format_time(last)}), was {format_time(until)}"
        )
    table = build_table(panel.truncated(until), config, progress=progress)
    with one_blas_thread():
        return _fit_until(table, config, until, progress, measured)


def _fit_until(
    table: TrainingTable,
    config: WalkForwardConfig,
    until: int,
    progress: Progress,
    measured: bool,
) -> FittedModel:
    rows = np.flatnonzero(table.trainable & _allowed(table, config, until))
    if len(rows) < config.validation.min_train_rows:
        raise DataError(
            f"training until {format_time(until)} must have at least "
            f"{config.validation.min_train_rows} rows, had {len(rows)} past the warm-up; "
            "train until a later time or load more history"
        )
    return fit_rows(table, rows, config, until, progress=progress, measured=measured)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep matrix products on one thread: how they round depends on the number of threads.

    For the whole process, so enter it outside of any pool of workers.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def _allowed(table: TrainingTable, config: WalkForwardConfig, until: int) -> NDArray[np.bool_]:
    return training_rows(
        table.matrix.ts_init, table.labels.ts_end, config.validation, table.interval_ns, until
    )
