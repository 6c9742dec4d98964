"""The folds of a walk-forward run: beside one another, one after the other, or on from where.

What decides a fold's predictions is in `research.fitting`; here is only when each is made, what is
kept of it, and how a failure names it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import IntegrityError, LeviBotError, RunFailedError
from research.fit_job import FitOptions
from research.fit_reports import fit_report
from research.fitted import FittedModel, predict_rows
from research.fitting import submit_fit
from research.fold_store import FoldStore, fold_facts
from research.step_pool import StepPool
from research.training import one_blas_thread
from research.walkforward_result import FoldReport
from research.warm_folds import WarmFolds

if TYPE_CHECKING:
    import pandas as pd

    from research.settings import WalkForwardConfig
    from research.splits import Fold
    from research.training_table import TrainingTable

_FIT = "fit"
"""Where a kept fold says all that `fit_report` does."""


def run_folds(
    table: TrainingTable,
    folds: list[Fold],
    config: WalkForwardConfig,
    options: FitOptions,
    *,
    keep: FoldStore | None = None,
) -> tuple[list[pd.DataFrame], list[FoldReport]]:
    """Run the steps of all folds beside one another, and return the folds in order.

    Where folds are kept, only as many are under way as there are threads: all at once would all
    be done at the very end, and an interruption would lose them all. Those that are kept already
    are not run, and nothing is returned. Where experts start warm, one fold follows the other.
    """
    warm = WarmFolds.of(config, keep)
    # The longest first, so that no long one is left over for the end.
    ahead = sorted(folds, key=lambda fold: len(fold.train))
    most = len(folds) if keep is None else config.threads
    if warm is not None:
        ahead, most = warm.ahead(folds, table.matrix.names)[::-1], 1
    elif keep is not None:
        ahead = [fold for fold in ahead if not keep.has(fold.index)]
    jobs = _Folds(table, config, options, keep, warm)
    found = _run(jobs, ahead, most, done=len(folds) - len(ahead))
    if keep is not None:
        forget_checkpoints(keep)
        if warm is not None:
            warm.forget(len(folds))
        return [], []
    frames, reports = zip(*(found[fold.index] for fold in folds), strict=True)
    return list(frames), list(reports)


def checkpoint_folder(keep: FoldStore) -> Path:
    """Return where the fits of a store's folds leave what they need to go on.

    Another question has another folder: a fit cannot go on from one of other data or code.
    """
    return keep.folder / "checkpoints" / keep.question.key[:16]


def forget_checkpoints(keep: FoldStore) -> None:
    """Remove what fits needed to go on, once all folds of a store are done."""
    shutil.rmtree(checkpoint_folder(keep).parent, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Folds:
    """What the steps of all folds share."""

    table: TrainingTable
    config: WalkForwardConfig
    options: FitOptions
    keep: FoldStore | None
    warm: WarmFolds | None

    def of_fold(self, fold: Fold) -> FitOptions:
        """Return what one fold's fit is asked."""
        found = self.options._replace(stage=f"fold {fold.index}: ")
        if self.keep is not None:
            folder = checkpoint_folder(self.keep) / f"fold-{fold.index}"
            found = found._replace(checkpoints=folder)
        if self.warm is not None:
            found = found._replace(previous=self.warm.before(fold.index))
        return found


def _run(
    jobs: _Folds, ahead: list[Fold], most: int, done: int
) -> dict[int, tuple[pd.DataFrame, FoldReport]]:
    """Run folds from the end of `ahead` on, at most `most` at once; `done` are done already."""
    count, progress = done + len(ahead), jobs.options.progress
    progress("folds", done, count)
    found: dict[int, tuple[pd.DataFrame, FoldReport]] = {}
    with one_blas_thread(), StepPool(jobs.config.threads) as pool:
        running: dict[Future[tuple[pd.DataFrame, FoldReport]], int] = {}
        while ahead or running:
            while ahead and len(running) < most:
                fold = ahead.pop()
                running[_submit_fold(pool, fold, jobs)] = fold.index
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                index, result = running.pop(task), task.result()
                done += 1
                if jobs.keep is None:
                    found[index] = result
                progress("folds", done, count)
    return found


def _submit_fold(
    pool: StepPool, fold: Fold, jobs: _Folds
) -> Future[tuple[pd.DataFrame, FoldReport]]:
    """Have one fold fitted, predicted and, where there is a place for it, kept."""
    table, options = jobs.table, jobs.of_fold(fold)
    with _naming(fold):
        fit = submit_fit(pool, table, fold.train, jobs.config, fold.test_start, options)

    def finish() -> tuple[pd.DataFrame, FoldReport]:
        with _naming(fold):
            model = fit.result()
            started = time.perf_counter()
            frame = predict_rows(table, fold.test, model, fold.index)
            model.reports.seconds["predict"] = time.perf_counter() - started
            if jobs.warm is not None:
                jobs.warm.learned(fold.index, model)
            if jobs.keep is not None:
                jobs.keep.save(fold.index, frame, kept_facts(fold, model))
            if jobs.warm is not None:
                jobs.warm.forget(fold.index)
            if options.checkpoints is not None:
                shutil.rmtree(options.checkpoints, ignore_errors=True)
            return frame, fold_report(fold, model)

    return pool.after([fit], finish, even_failed=True)


def kept_facts(fold: Fold, model: FittedModel) -> dict[str, Any]:
    """Return what a fold keeps beside its predictions, for JSON."""
    facts = fold_facts(fold, model)
    # Its seconds stand beside it: they are all that differs from one run to the next.
    report = {name: one for name, one in fit_report(model).items() if name != "seconds"}
    return {**facts, _FIT: report}


def kept_report(keep: FoldStore, index: int) -> FoldReport:
    """Return the same of a fold that is kept, without its model.

    Raises
    ------
    IntegrityError
        If what is kept does not say it.
    """
    facts = keep.facts(index)
    numbers = ("test_start", "test_end", "train_start", "train_end", "n_train", "n_test")
    try:
        known = {name: int(facts[name]) for name in numbers}
        fit = {**facts[_FIT], "seconds": facts["seconds"]}
        return FoldReport(index=index, **known, metrics={}, model=None, fit=fit)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"fold {index} kept in {keep.folder} must say how it went, does not ({error!r}); "
            "remove its files and go on"
        ) from error


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


def fold_report(fold: Fold, model: FittedModel) -> FoldReport:
    """Return what a fold was fitted on and how; nothing is measured yet."""
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
        fit=fit_report(model),
    )
