"""Folds, fits, out-of-sample predictions and what they are worth.

Each fold trains on what was known before its test block, calibrates inside that span, and
predicts rows that nothing in it has seen. The backtest is not called from here: a caller hands
`WalkForwardResult.predictions` to it, so that research knows no strategy.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.errors import LeviBotError, RunFailedError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time
from research.estimates import Estimate
from research.metrics import (
    PREDICTION_METRICS,
    ReliabilityCurve,
    prediction_metrics,
    reliability_curve,
)
from research.panel import Panel
from research.predictions import PredictorSpec, stamp_predictions
from research.splits import Fold, walk_forward_splits
from research.training import (
    REFERENCES,
    FittedModel,
    TrainingTable,
    WalkForwardConfig,
    build_table,
    fit_rows,
    predict_rows,
    predictor_spec,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FoldReport", "WalkForwardConfig", "WalkForwardResult", "walk_forward"]


@dataclass(frozen=True, slots=True)
class FoldReport:
    """One fold: what it was fitted on and how well it predicted what came after.

    Parameters
    ----------
    index : int
        0 for the first.
    test_start, test_end : int
        Tested span ``(test_start, test_end]`` on ts_init, UTC nanoseconds.
    train_start, train_end : int
        First ts_init and last ts_end of the rows fitted on, UTC nanoseconds.
    n_train, n_test : int
        Rows fitted on; rows predicted (with or without a known label).
    seconds : float
        Time spent fitting, calibrating and predicting.
    metrics : dict of Estimate
        Keys as in `research.metrics.PREDICTION_METRICS`.
    model : FittedModel
        The fold's model and calibration.
    """

    index: int
    test_start: int
    test_end: int
    train_start: int
    train_end: int
    n_train: int
    n_test: int
    seconds: float
    metrics: dict[str, Estimate]
    model: FittedModel


@dataclass(frozen=True, slots=True)
class WalkForwardResult:
    """Out-of-sample predictions of every fold, and what they are worth.

    Parameters
    ----------
    predictions : DataFrame
        ts_init int64 UTC ns, instrument_id, fold, raw_prob, prob_up, label (1, 0, NaN while
        unknown or for a return of zero), forward_return, and the reference probabilities
        base_prob, last_sign_prob and logistic_prob; sorted by time, then the panel's instruments.
        Stamped with `spec` and the data's hash (see research.predictions).
    folds : tuple of FoldReport
        In time order.
    metrics : dict of Estimate
        Pooled over all folds.
    references : dict of dict of Estimate
        The same metrics for ``base rate``, ``last sign`` and ``logistic regression``.
    reliability : ReliabilityCurve
        Of the calibrated probabilities, pooled.
    spec : PredictorSpec
        The question that the predictions answer.
    data_hash : str
        Of the panel.
    synthetic : bool
        Whether any of the data was made up.
    seconds : dict of float
        Time spent by stage: features, fit, metrics.
    """

    predictions: pd.DataFrame
    folds: tuple[FoldReport, ...]
    metrics: dict[str, Estimate]
    references: dict[str, dict[str, Estimate]]
    reliability: ReliabilityCurve
    spec: PredictorSpec
    data_hash: str
    synthetic: bool
    seconds: dict[str, float]

    def __str__(self) -> str:
        """Print one aligned table: folds, pooled, references."""
        header = ["", "rows", *PREDICTION_METRICS[1:]]
        lines = [_line(f"fold {fold.index}", fold.metrics) for fold in self.folds]
        lines.append(_line("pooled", self.metrics))
        lines += [_line(name, found) for name, found in self.references.items()]
        table = [header, *lines]
        widths = [max(len(line[column]) for line in table) for column in range(len(header))]
        title = "SYNTHETIC DATA\n" if self.synthetic else ""
        return title + "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        )


def _line(name: str, metrics: Mapping[str, Estimate]) -> list[str]:
    values = [str(metrics[key]) for key in PREDICTION_METRICS[1:]]
    return [name, f"{metrics['n'].value:.0f}", *values]


def walk_forward(
    panel: Panel, config: WalkForwardConfig, *, progress: Progress = no_progress
) -> WalkForwardResult:
    """Fit and predict fold by fold, out of sample, and measure the predictions.

    Parameters
    ----------
    panel : Panel
        All data; each fold is fitted on what ends before its test block.
    config : WalkForwardConfig
        Features, label, model, calibration, folds and bootstrap.
    progress : Progress
        Told of the stages ``features``, ``folds`` and ``metrics``.

    Returns
    -------
    WalkForwardResult

    Raises
    ------
    ConfigError
        If the tested span does not fit the data or the warm-up (nothing is moved silently).
    DataError
        If a fold has no test rows or too few training rows.
    RunFailedError
        If a fold fails, naming it and its span, raised from the error that stopped it.
    """
    clock = time.perf_counter
    started = clock()
    table = build_table(panel, config, progress=progress)
    spec = predictor_spec(config, panel.instruments(), panel.interval_ns)
    folds = walk_forward_splits(
        table.ts_init, table.ts_end, config.validation, panel.interval_ns, table.usable
    )
    prepared = clock()
    frames, models, durations = [], [], []
    for fold in folds:
        progress("folds", fold.index, len(folds))
        before = clock()
        model, frame = _run_fold(table, fold, config)
        durations.append(clock() - before)
        models.append(model)
        frames.append(frame)
    progress("folds", len(folds), len(folds))
    fitted = clock()
    return _measure(table, config, spec, folds, models, frames, durations, progress)
