"""Folds of a run in processes of their own, here or on a cluster, each kept when it is done.

`research.fold_runs` runs the steps of folds in threads of one process, which suits fits that leave
the interpreter to others for long, and one machine. A process for each fold suits all fits: it
waits for nobody. The table is mapped into each process, not copied, and what comes back is what a
fold keeps. The predictions are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import ConfigError
from catalog.progress import no_progress
from research.fit_job import FitOptions, starts_warm
from research.fold_runs import checkpoint_folder, forget_checkpoints, kept_facts, run_folds
from research.parallel import Workers, finished_jobs

if TYPE_CHECKING:
    import pandas as pd

    from research.fold_store import FoldStore
    from research.settings import WalkForwardConfig
    from research.splits import Fold
    from research.training_table import TrainingTable


@dataclass(frozen=True, slots=True)
class FoldJobs:
    """What all folds of a run share.

    Parameters
    ----------
    table : TrainingTable
        Features and labels.
    config : WalkForwardConfig
        Settings; of the number of threads the workers' count, not its own.
    options : FitOptions
        Its progress is told of the stage ``folds``; that of the fits stays in their processes.
    keep : FoldStore
        Where folds are kept, by this process.
    workers : Workers
        Who fits.
    """

    table: TrainingTable
    config: WalkForwardConfig
    options: FitOptions
    keep: FoldStore
    workers: Workers

    def run(self, folds: Sequence[Fold]) -> None:
        """Fit, predict and keep the folds that are not kept yet.

        Raises
        ------
        ConfigError
            If experts start warm: each fold needs the one before. Or as `finished_jobs`.
        DataError, RunFailedError
            As `research.fold_runs.run_folds`.
        """
        check_apart(self.config)
        # The longest first, so that no long one is left over for the end.
        ahead = [fold for fold in folds if not self.keep.has(fold.index)]
        ahead.sort(key=lambda fold: len(fold.train), reverse=True)
        done, progress = len(folds) - len(ahead), self.options.progress
        job = partial(fit_fold, self._shared())
        progress("folds", done, len(folds))
        for place, (frame, facts) in finished_jobs(job, ahead, self.workers):
            self.keep.save(ahead[place].index, frame, facts)
            done += 1
            progress("folds", done, len(folds))
        forget_checkpoints(self.keep)

    def _shared(self) -> SharedFolds:
        alone = self.config.model_copy(update={"threads": self.workers.threads})
        # Another machine may not see this one's disk.
        here = self.workers.cluster is None
        return SharedFolds(
            self.table,
            alone,
            self.options._replace(progress=no_progress),
            checkpoint_folder(self.keep) if here else None,
        )


@dataclass(frozen=True, slots=True)
class SharedFolds:
    """What a process that fits folds is given beside the fold.

    Parameters
    ----------
    table : TrainingTable
        Features and labels.
    config : WalkForwardConfig
        Settings.
    options : FitOptions
        What else is asked.
    checkpoints : Path, optional
        Folder of what interrupted fits left.
    """

    table: TrainingTable
    config: WalkForwardConfig
    options: FitOptions
    checkpoints: Path | None


def fit_fold(shared: SharedFolds, fold: Fold) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Fit and predict one fold, and return its predictions and how it went."""
    options = shared.options
    if shared.checkpoints is not None:
        options = options._replace(checkpoints=shared.checkpoints / f"fold-{fold.index}")
    frames, reports = run_folds(shared.table, [fold], shared.config, options)
    model = reports[0].model
    assert model is not None
    return frames[0], kept_facts(fold, model)


def check_apart(config: WalkForwardConfig) -> None:
    """Refuse folds that cannot be fitted apart from one another.

    Raises
    ------
    ConfigError
        If an expert starts warm.
    """
    warm = [name for name, one in config.experts.chosen().items() if starts_warm(one)]
    if warm:
        raise ConfigError(
            f"experts must start cold for --workers and --cluster, but experts.{warm[0]}."
            "warm_start was true: each fold begins from the one before; set it to false, or leave "
            "both options out"
        )
