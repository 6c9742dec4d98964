"""What the steps of one fit share: what is asked, of which rows, and where it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from catalog.arrays import Int64Array
from catalog.errors import DataError
from catalog.progress import Progress, no_progress
from research.experts import FitContext, FittedExpert
from research.models.registry import EXPERT_KINDS
from research.step_pool import StepPool, StepProgress

if TYPE_CHECKING:
    from catalog.config import Config
    from research.settings import WalkForwardConfig
    from research.training_table import TrainingTable

HEAD, WHOLE = "head", "whole span"
"""Which rows an expert that is fitted once or twice is fitted on."""


class Learned(NamedTuple):
    """A fitted expert and how far it has seen.

    Parameters
    ----------
    expert : FittedExpert
        The expert.
    until : int
        End of the last label that it, or any before it that it began from, was fitted on or
        judged by, UTC nanoseconds.
    """

    expert: FittedExpert
    until: int


class FitOptions(NamedTuple):
    """What a caller may ask of a fit beside its result.

    Parameters
    ----------
    progress : Progress
        Told of every expert's fit.
    alternatives : bool
        Whether every method of fusion is fitted, for a study that compares them.
    subsets : mapping of tuple of str
        Further fusions by name, each of these experts only and by the configured method: what
        one of them is worth to the others. Names of experts that there are.
    previous : mapping of Learned, optional
        What a warm start begins from, by expert: of the fold before. None for the first.
    checkpoints : Path, optional
        Folder in which fits of sequence models leave what they need to go on after an
        interruption, each in a folder of its own. They are those of this fit alone.
    stage : str
        Put before the stages' names, such as ``fold 2: ``.
    measured : bool
        Whether the answers on held-out rows are measured (`FitReports.metrics`).
    """

    progress: Progress = no_progress
    alternatives: bool = False
    subsets: Mapping[str, tuple[str, ...]] = {}
    previous: Mapping[str, Learned] | None = None
    checkpoints: Path | None = None
    stage: str = ""
    measured: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """The two parts of a training span: places among the training rows, ascending.

    Parameters
    ----------
    head : (n_head,) int64
        Rows whose labels, and the embargo after them, end before the tail.
    tail : (n_tail,) int64
        The last rows in time.
    embargo_ns : int
        What is left out between the two beyond the labels' spans.
    """

    head: Int64Array
    tail: Int64Array
    embargo_ns: int

    @classmethod
    def of(cls, table: TrainingTable, rows: Int64Array, config: WalkForwardConfig) -> Spans:
        """Divide some rows.

        Raises
        ------
        DataError
            If one of the parts would be empty.
        """
        ts_init, ts_end = table.matrix.ts_init[rows], table.labels.ts_end[rows]
        embargo = config.validation.embargo_bars * table.interval_ns
        cut = int(np.quantile(ts_init, 1.0 - config.holdout_frac, method="lower"))
        head = np.flatnonzero(ts_end <= cut - embargo)
        tail = np.flatnonzero(ts_init > cut)
        if not len(head) or not len(tail):
            raise DataError(
                f"{len(rows)} training rows must leave some on both sides of the last "
                f"{config.holdout_frac:g} of their time, left {len(head)} and {len(tail)}; train "
                "on a longer span"
            )
        return cls(head, tail, embargo)


class FitJob(NamedTuple):
    """What all steps of one fit share."""

    pool: StepPool
    table: TrainingTable
    rows: Int64Array
    config: WalkForwardConfig
    until: int
    options: FitOptions
    spans: Spans

    def progress(self, part: str = "") -> Progress:
        """Return what one of the fits tells its progress; `part` is which it is of its expert."""
        after = f" ({part})" if part else ""
        return StepProgress(self.options.progress, self.pool, self.options.stage, after)

    def context(self, name: str, part: str, previous: FittedExpert | None) -> FitContext:
        """Return what one fit of an expert is given; `part` is which."""
        folder = self.options.checkpoints
        if folder is not None and EXPERT_KINDS[name].deep:
            folder = folder / name / part
            folder.mkdir(parents=True, exist_ok=True)
        told = self.progress("" if part == HEAD else part)
        return FitContext(told, threads=1, checkpoint=folder, previous=previous)

    @property
    def tail(self) -> Int64Array:
        """Row numbers of the last part of the span."""
        return self.rows[self.spans.tail]


def starts_warm(settings: Config) -> bool:
    """Return whether an expert of these settings begins from the one of the fold before."""
    return bool(getattr(settings, "warm_start", False))
