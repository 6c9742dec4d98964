"""Folds, fits, out-of-sample predictions and what they are worth.

Each fold trains on what was known before its test block, calibrates inside that span, and
predicts rows that nothing in it has seen. The backtest is not called from here: a caller hands
`WalkForwardResult.predictions` to it, so that research knows no strategy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catalog.errors import ConfigError, DataError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time, interval_name
from research.feature_store import FeatureStore
from research.features import WARMUP_BARS
from research.fit_job import FitOptions
from research.fitted import FittedModel, predict_rows
from research.fold_jobs import FoldJobs
from research.fold_runs import fold_report, kept_report, run_folds
from research.fold_store import FoldQuestion, FoldStore, held_alone, joined
from research.metrics import (
    BootstrapConfig,
    prediction_metrics,
    reliability_curve,
)
from research.panel import Panel
from research.parallel import Workers
from research.predictions import EXPERT_PREFIX, stamp_predictions
from research.references import REFERENCES
from research.settings import WalkForwardConfig, predictor_spec
from research.splits import Fold, check_fold, walk_forward_splits
from research.training import one_blas_thread
from research.training_table import TrainingTable, build_table
from research.walkforward_result import FoldReport, WalkForwardResult

if TYPE_CHECKING:
    import pandas as pd

    from research.predictions import PredictorSpec

__all__ = [
    "FoldReport",
    "Keep",
    "WalkForwardConfig",
    "WalkForwardResult",
    "check_unseen",
    "evaluate",
    "usable_folds",
    "walk_forward",
]


@dataclass(frozen=True, slots=True)
class Keep:
    """Where a walk-forward keeps its folds, to go on from them after an interruption.

    Parameters
    ----------
    folder : Path
        See `FoldStore`; whatever answers another question there is made anew. Features are kept
        beside the folds, in ``features/`` (see `FeatureStore`).
    tell : callable
        Given a sentence for each fold that must be.
    workers : Workers, optional
        Processes that fit the folds that are missing, each a whole one. None: the steps of all
        folds in ``threads`` of this process.
    """

    folder: Path
    tell: Callable[[str], None] = lambda _: None
    workers: Workers | None = None


def walk_forward(
    panel: Panel,
    config: WalkForwardConfig,
    *,
    progress: Progress = no_progress,
    keep: Keep | None = None,
) -> WalkForwardResult:
    """Fit and predict fold by fold, out of sample, and measure the predictions.

    Parameters
    ----------
    panel : Panel
        All data; each fold is fitted on what ends before its test block.
    config : WalkForwardConfig
        Features, label, model, calibration, folds and bootstrap.
    progress : Progress
        Told of the stages ``features``, ``folds`` and ``metrics``, and of each fold's fits.
    keep : Keep, optional
        Where folds are kept as soon as they are done; those that are there already are read and
        not fitted again. The predictions are the same bit for bit, but no models are returned.

    Returns
    -------
    WalkForwardResult

    Raises
    ------
    ConfigError
        If the tested span does not fit the data or the warm-up (nothing is moved silently), or
        another process keeps its folds in the same folder.
    DataError
        If a fold has no test rows or too few training rows, or a fold cannot be kept.
    RunFailedError
        If a fold fails, naming it and its span, raised from the error that stopped it.
    """
    if keep is None:
        return _walk_forward(panel, config, progress, None)
    with held_alone(keep.folder):
        return _walk_forward(panel, config, progress, keep)


def _walk_forward(
    panel: Panel, config: WalkForwardConfig, progress: Progress, keep: Keep | None
) -> WalkForwardResult:
    started = time.perf_counter()
    options = FitOptions(progress)
    store: FoldStore | None = None
    frames: list[pd.DataFrame] = []
    reports: list[FoldReport] = []
    if keep is not None:
        store = FoldStore(keep.folder, FoldQuestion.of(panel, config, options), keep.tell)
    if store is None or not store.holds(config.validation.n_folds):
        matrix = None
        if keep is not None:
            features = FeatureStore(keep.folder / "features", keep.tell)
            matrix = features.matrix(panel, config, progress=progress)
        table = build_table(panel, config, progress=progress, matrix=matrix)
        folds = usable_folds(table, config)
        prepared = time.perf_counter()
        if store is not None and keep is not None and keep.workers is not None:
            FoldJobs(table, config, options, store, keep.workers).run(folds)
        else:
            frames, reports = run_folds(table, folds, config, options, keep=store)
        del table, folds, matrix  # the largest things of a run, and done with
    else:
        prepared = started
    if store is not None:
        indices = range(config.validation.n_folds)
        frames = [store.load(index) for index in indices]
        reports = [kept_report(store, index) for index in indices]
    fitted = time.perf_counter()
    spec = predictor_spec(config, panel.instruments(), panel.interval_ns)
    with one_blas_thread():
        result = _assemble(panel, config, frames, reports, spec, progress)
    result.seconds.update(
        features=prepared - started,
        fit=fitted - prepared,
        metrics=time.perf_counter() - fitted,
    )
    return result


def predict_forward(
    panel: Panel,
    config: WalkForwardConfig,
    options: FitOptions = FitOptions(),  # noqa: B008 (immutable)
    *,
    keep: FoldStore | None = None,
) -> pd.DataFrame:
    """Fit and predict fold by fold as `walk_forward` does, and measure nothing.

    Parameters
    ----------
    panel : Panel
        All data.
    config : WalkForwardConfig
        Settings; bootstrap does not count.
    options : FitOptions
        Progress, and other fusions to fit on the same rows.
    keep : FoldStore, optional
        Where each fold is kept as soon as it is done; folds that are kept there already are read
        and not fitted again. Fits of sequence models that were interrupted go on from their last
        whole epoch.

    Returns
    -------
    DataFrame
        As `WalkForwardResult.predictions`, stamped likewise; labels may be unknown throughout.

    Raises
    ------
    ConfigError, DataError, RunFailedError
        As `walk_forward`.
    """
    import pandas as pd

    indices = range(config.validation.n_folds)
    if keep is not None and keep.holds(len(indices)):
        return joined(keep, indices)
    table = build_table(panel, config, progress=options.progress)
    folds = usable_folds(table, config)
    frames, _ = run_folds(table, folds, config, options, keep=keep)
    if keep is not None:
        return joined(keep, indices)
    predictions = pd.concat(frames, ignore_index=True)
    spec = predictor_spec(config, panel.instruments(), panel.interval_ns)
    return stamp_predictions(predictions, spec, panel.data_hash)


def evaluate(
    panel: Panel,
    model: FittedModel,
    start: int,
    end: int,
    *,
    bootstrap: BootstrapConfig | None = None,
    progress: Progress = no_progress,
) -> WalkForwardResult:
    """Predict and measure a span that a fitted model has not seen, as a result of one fold.

    Parameters
    ----------
    panel : Panel
        Data from at least the warm-up before `start` to `end`, or later.
    model : FittedModel
        From `train_until` or a bundle.
    start, end : int
        Span ``(start, end]`` on ts_init, UTC nanoseconds.
    bootstrap : BootstrapConfig, optional
        Intervals; the model's own if absent.

    Raises
    ------
    ConfigError
        If the span begins before the end of the model's training span plus the embargo, if the
        panel's instruments or interval are not the model's, or if the panel does not hold the
        span and the warm-up before it.
    DataError
        If no row of the span can be predicted.
    """
    check_unseen(model, start, end)
    _check_same_market(panel, model)
    started = time.perf_counter()
    config = model.config
    if bootstrap is not None:
        config = config.model_copy(update={"bootstrap": bootstrap})
    table = build_table(panel, config, progress=progress)
    ts_init = table.matrix.ts_init
    rows = np.flatnonzero(table.matrix.valid & (ts_init > start) & (ts_init <= end))
    _check_span(table, start, end, len(rows))
    prepared = time.perf_counter()
    with one_blas_thread():
        frame = predict_rows(table, rows, model, fold=0)
        report = fold_report(Fold(0, start, end, np.empty(0, dtype=np.int64), rows), model)
        result = _assemble(panel, config, [frame], [report], model.spec, progress)
    result.seconds.update(features=prepared - started, metrics=time.perf_counter() - prepared)
    return result


def check_unseen(model: FittedModel, start: int, end: int) -> None:
    """Refuse to judge a model on a span that it has seen, or on one before what it has seen.

    Raises
    ------
    ConfigError
        Unless ``train_end + embargo <= start < end``, where train_end is the end of the last
        label span that the model was fitted on.
    """
    if end <= start:
        raise ConfigError(
            f"the evaluated span must end after its start {format_time(start)}, "
            f"ended {format_time(end)}"
        )
    embargo_bars = model.config.validation.embargo_bars
    earliest = model.train_end + embargo_bars * model.spec.interval_ns
    if start < earliest:
        raise ConfigError(
            f"the evaluated span must start at or after {format_time(earliest)} (the model's "
            f"training labels reach to {format_time(model.train_end)}, and the embargo is "
            f"{embargo_bars} bars), was {format_time(start)} to {format_time(end)}; the model "
            "has seen part of it: evaluate a later span or train until an earlier time"
        )


def usable_folds(table: TrainingTable, config: WalkForwardConfig) -> list[Fold]:
    """Return the walk-forward folds over a table's usable rows.

    Test rows are past the warm-up; training rows also have a known label.

    Raises
    ------
    ConfigError, DataError
        As `walk_forward_splits`.
    """
    usable = np.flatnonzero(table.matrix.valid)
    if len(usable) == 0:
        raise DataError(
            f"the span must hold more bars than the warm-up of {WARMUP_BARS}, had at most "
            f"{len(table.matrix.ts_init) // len(table.matrix.instruments)} per instrument; "
            "load more history"
        )
    divided = walk_forward_splits(
        table.matrix.ts_init[usable],
        table.labels.ts_end[usable],
        config.validation,
        table.interval_ns,
    )
    folds = []
    for fold in divided:
        train = usable[fold.train]
        kept = replace(fold, train=train[table.trainable[train]], test=usable[fold.test])
        check_fold(kept, config.validation, unlabelled=len(train) - len(kept.train))
        folds.append(kept)
    return folds


def _assemble(
    panel: Panel,
    config: WalkForwardConfig,
    frames: list[pd.DataFrame],
    reports: list[FoldReport],
    spec: PredictorSpec,
    progress: Progress,
) -> WalkForwardResult:
    """Put the folds together and measure them one by one, pooled, and beside the references."""
    import pandas as pd

    bootstrap = config.bootstrap
    settings = bootstrap.model_dump()
    experts = [
        name
        for name in map(str, frames[0])
        if name.startswith(EXPERT_PREFIX) and any(frame[name].notna().any() for frame in frames)
    ]
    columns = {name.removeprefix(EXPERT_PREFIX): name for name in experts if len(experts) > 1}
    steps = len(frames) + 1 + len(REFERENCES) + len(columns)
    for done, (frame, report) in enumerate(zip(frames, reports, strict=True)):
        progress("metrics", done, steps)
        report.metrics.update(prediction_metrics(frame, **settings))
    pooled = pd.concat(frames, ignore_index=True)
    progress("metrics", len(frames), steps)
    metrics = prediction_metrics(pooled, **settings)
    alone = {}
    for done, (name, column) in enumerate({**REFERENCES, **columns}.items()):
        progress("metrics", len(frames) + 1 + done, steps)
        answered = pooled[pooled[column].notna()]
        alone[name] = prediction_metrics(answered, column=column, **settings)
    progress("metrics", steps, steps)
    return WalkForwardResult(
        predictions=stamp_predictions(pooled, spec, panel.data_hash),
        folds=tuple(reports),
        metrics=metrics,
        references={name: alone[name] for name in REFERENCES},
        reliability=reliability_curve(pooled, config=bootstrap),
        spec=spec,
        data_hash=panel.data_hash,
        synthetic=panel.synthetic
        or any(report.model is not None and report.model.synthetic for report in reports),
        seconds={},
        experts={name: alone[name] for name in columns},
    )


def _check_same_market(panel: Panel, model: FittedModel) -> None:
    wanted, found = model.spec.instruments, panel.instruments()
    if wanted != found:
        raise ConfigError(
            f"the panel must hold the model's instruments {wanted} in that order, held {found}"
        )
    if panel.interval_ns != model.spec.interval_ns:
        raise ConfigError(
            f"the panel's bars must be the model's {interval_name(model.spec.interval_ns)}, "
            f"were {interval_name(panel.interval_ns)}"
        )


def _check_span(table: TrainingTable, start: int, end: int, n_rows: int) -> None:
    """Refuse a span that the usable rows do not cover: it would be shortened silently."""
    usable = table.matrix.ts_init[table.matrix.valid]
    if len(usable) == 0 or n_rows == 0:
        raise DataError(
            f"no row from {format_time(start)} to {format_time(end)} can be predicted; load the "
            "span and the warm-up before it"
        )
    first, last = int(usable.min()), int(usable.max())
    if first > start + table.interval_ns or last < end:
        raise ConfigError(
            f"the evaluated span must lie within the usable rows ({format_time(first)} to "
            f"{format_time(last)}, after the warm-up), was {format_time(start)} to "
            f"{format_time(end)}; load more history or evaluate another span"
        )
