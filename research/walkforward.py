"""Folds, fits, out-of-sample predictions and what they are worth.

Each fold trains on what was known before its test block, calibrates inside that span, and
predicts rows that nothing in it has seen. The backtest is not called from here: a caller hands
`WalkForwardResult.predictions` to it, so that research knows no strategy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from catalog.errors import ConfigError, DataError, LeviBotError, RunFailedError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time, interval_name
from research.features import WARMUP_BARS
from research.fitted import FittedModel, predict_rows
from research.fitting import FitOptions, StepPool, submit_fit
from research.fold_store import FoldStore, fold_facts, joined
from research.metrics import (
    BootstrapConfig,
    prediction_metrics,
    reliability_curve,
)
from research.panel import Panel
from research.predictions import EXPERT_PREFIX, stamp_predictions
from research.references import REFERENCES
from research.settings import WalkForwardConfig
from research.splits import Fold, check_fold, walk_forward_splits
from research.training import one_blas_thread
from research.training_table import TrainingTable, build_table
from research.walkforward_result import FoldReport, WalkForwardResult

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FoldReport",
    "WalkForwardConfig",
    "WalkForwardResult",
    "check_unseen",
    "evaluate",
    "usable_folds",
    "walk_forward",
]


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
    started = time.perf_counter()
    table = build_table(panel, config, progress=progress)
    folds = usable_folds(table, config)
    prepared = time.perf_counter()
    frames, reports = _run_folds(table, folds, config, FitOptions(progress))
    del table, folds  # the largest things of a run, and done with
    fitted = time.perf_counter()
    with one_blas_thread():
        result = _assemble(panel, config, frames, reports, progress)
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
        and not fitted again.

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
    if keep is not None:
        ahead = [fold for fold in folds if not keep.has(fold.index)]
        _run_folds(table, ahead, config, options, keep=keep)
        return joined(keep, indices)
    frames, reports = _run_folds(table, folds, config, options)
    predictions = pd.concat(frames, ignore_index=True)
    return stamp_predictions(predictions, reports[0].model.spec, panel.data_hash)


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
        report = _report(Fold(0, start, end, np.empty(0, dtype=np.int64), rows), model)
        result = _assemble(panel, config, [frame], [report], progress)
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
        check_fold(kept, config.validation)
        folds.append(kept)
    return folds


def _run_folds(
    table: TrainingTable,
    folds: list[Fold],
    config: WalkForwardConfig,
    options: FitOptions,
    *,
    keep: FoldStore | None = None,
) -> tuple[list[pd.DataFrame], list[FoldReport]]:
    """Run the steps of all folds beside one another, and return the folds in order.

    Where folds are kept, only as many are under way as there are threads: all at once would all
    be done at the very end, and an interruption would lose them all.
    """
    options.progress("folds", 0, len(folds))
    most = len(folds) if keep is None else config.threads
    found: dict[int, tuple[pd.DataFrame, FoldReport]] = {}
    # The longest first, so that no long one is left over for the end.
    ahead = sorted(folds, key=lambda fold: len(fold.train))
    with one_blas_thread(), StepPool(config.threads) as pool:
        running: dict[Future[tuple[pd.DataFrame, FoldReport]], int] = {}
        while ahead or running:
            while ahead and len(running) < most:
                fold = ahead.pop()
                running[_submit_fold(pool, table, fold, config, options, keep)] = fold.index
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                found[running.pop(task)] = task.result()
                options.progress("folds", len(found), len(folds))
    frames, reports = zip(*(found[fold.index] for fold in folds), strict=True)
    return list(frames), list(reports)


def _submit_fold(
    pool: StepPool,
    table: TrainingTable,
    fold: Fold,
    config: WalkForwardConfig,
    options: FitOptions,
    keep: FoldStore | None = None,
) -> Future[tuple[pd.DataFrame, FoldReport]]:
    """Have one fold fitted, predicted and, where there is a place for it, kept."""
    with _naming(fold):
        fit = submit_fit(pool, table, fold.train, config, fold.test_start, options)

    def finish() -> tuple[pd.DataFrame, FoldReport]:
        with _naming(fold):
            model = fit.result()
            started = time.perf_counter()
            frame = predict_rows(table, fold.test, model, fold.index)
            model.reports.seconds["predict"] = time.perf_counter() - started
            if keep is not None:
                keep.save(fold.index, frame, fold_facts(fold, model))
            return frame, _report(fold, model)

    return pool.after([fit], finish, even_failed=True)


@contextmanager
def _naming(fold: Fold) -> Iterator[None]:
    """Let a failure name the fold, and keep the error that caused it."""
    try:
        yield
    except LeviBotError as error:
        raise type(error)(f"{fold.name} failed: {error}") from error
    except Exception as error:
        raise RunFailedError(
            f"{fold.name} with {len(fold.train)} training and {len(fold.test)} test rows failed: "
            f"{type(error).__name__}: {error}"
        ) from error


def _report(fold: Fold, model: FittedModel) -> FoldReport:
    return FoldReport(
        index=fold.index,
        test_start=fold.test_start,
        test_end=fold.test_end,
        train_start=model.train_start,
        train_end=model.train_end,
        n_train=model.n_rows,
        n_test=len(fold.test),
        metrics={},
        model=model,
    )


def _assemble(
    panel: Panel,
    config: WalkForwardConfig,
    frames: list[pd.DataFrame],
    reports: list[FoldReport],
    progress: Progress,
) -> WalkForwardResult:
    """Put the folds together and measure them one by one, pooled, and beside the references."""
    import pandas as pd

    spec = reports[0].model.spec
    bootstrap = config.bootstrap
    settings = bootstrap.model_dump()
    experts = [name for name in map(str, frames[0]) if name.startswith(EXPERT_PREFIX)]
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
        synthetic=panel.synthetic or any(report.model.synthetic for report in reports),
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
