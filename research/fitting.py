"""The steps of a fit: experts, their held-out answers, calibrations, the fusion.

Every expert is judged on rows that it was not fitted on, inside the training span:

- boosted trees are cheap, so contiguous blocks are held out in turn (with purge and embargo) and
  the model itself is then fitted on all rows;
- sequence models are not, so that one fit leaves the last part of the span out (`holdout_frac`,
  with purge and embargo) and that part is what they are calibrated on; with `refit` a second one
  on the whole span takes its place;
- a rule that is not fitted is calibrated on the same part.

The fusion is fitted and chosen on that last part, on calibrated probabilities of which each was
made by a curve that had not seen its row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import ConfigError, DataError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time
from research.calibration import CalibrationRows, choose_calibration, too_few
from research.experts import FittedExpert
from research.fit_job import HEAD, WHOLE, FitJob, FitOptions, Learned, Spans, starts_warm
from research.fit_reports import held_out_metrics
from research.fitted import FitReports, FittedModel, Member, column
from research.fusion import Fusion, FusionConfig
from research.fusion_fit import FusionRows, fit_fusion
from research.guidance import Guidance, HeldOutRows
from research.models.lightgbm_expert import BinnedRows
from research.models.registry import EXPERT_KINDS, fit_expert
from research.references import References
from research.settings import predictor_spec
from research.splits import inner_blocks
from research.staleness import expert_freshness
from research.step_pool import StepPool

if TYPE_CHECKING:
    from research.calibration import CalibrationReport
    from research.fusion import Fusion
    from research.fusion_fit import FusionReport
    from research.settings import WalkForwardConfig
    from research.training_table import TrainingTable

__all__ = ["FitOptions", "StepPool", "fit_rows", "submit_fit"]

FALLBACKS = ("heuristic",)
"""Experts that are no part of a fusion of others."""
BLOCKS = "lightgbm"
"""The expert that is cheap enough to be fitted again for each held-out block."""


def fit_rows(
    table: TrainingTable,
    rows: Int64Array,
    config: WalkForwardConfig,
    until: int,
    *,
    progress: Progress = no_progress,
    measured: bool = False,
) -> FittedModel:
    """Fit the model, its calibration and its references on some rows of a table.

    Parameters
    ----------
    table : TrainingTable
        All rows; of those that are not in `rows`, experts of sequences read features known before
        the last of `rows`, and nothing else is looked at.
    rows : (n_train,) int64
        Ascending row numbers, all trainable.
    config : WalkForwardConfig
        Settings.
    until : int
        The model may be used after this time.
    progress : Progress
        Told when it begins and ends, under the stage ``fit``, and of the experts' own stages.
    measured : bool
        See `FitOptions`.

    Raises
    ------
    ConfigError
        If an expert is to start warm: there is no fit before this one.
    DataError
        If a span is too short, or the experts have no answers to be calibrated on.
    """
    warm = [name for name, one in config.experts.chosen().items() if starts_warm(one)]
    if warm:
        raise ConfigError(
            f"a single fit must start cold, but experts.{warm[0]}.warm_start was true: there is no "
            f"fold before it to start from; set experts.{warm[0]}.warm_start=false"
        )
    progress("fit", 0, 1)
    with StepPool(config.threads) as pool:
        options = FitOptions(progress, measured=measured)
        model = submit_fit(pool, table, rows, config, until, options).result()
    progress("fit", 1, 1)
    return model


def submit_fit(
    pool: StepPool,
    table: TrainingTable,
    rows: Int64Array,
    config: WalkForwardConfig,
    until: int,
    options: FitOptions = FitOptions(),  # noqa: B008 (immutable)
) -> Future[FittedModel]:
    """Have the steps of `fit_rows` done beside one another, and beside those of other fits.

    Every step runs on one thread and none depends on another's timing, so that the result is the
    same for any number of threads. It becomes an error if any step fails.
    """
    job = FitJob(pool, table, rows, config, until, options, Spans.of(table, rows, config))
    references = pool.submit(_fit_references, table, rows)
    names = list(config.experts.chosen())
    for name in names:
        # Here, not in the pool: two threads that import torch at once may each find half of it.
        import_module(EXPERT_KINDS[name].fit_module)
    judged = {
        name: _submit_blocks(job) if name == BLOCKS else _submit_once(job, name) for name in names
    }
    members = {
        name: pool.after([one], partial(_calibrate, job, name, one)) for name, one in judged.items()
    }

    def finish() -> FittedModel:
        found = {name: member.result() for name, member in members.items()}
        return _model(job, found, references.result())

    return pool.after([references, *members.values()], finish)


def _model(
    job: FitJob, found: dict[str, _Calibrated | _LeftOut], references: References
) -> FittedModel:
    """Put what the steps have found together."""
    table, rows, config = job.table, job.rows, job.config
    done = {name: one for name, one in found.items() if isinstance(one, _Calibrated)}
    left_out = {name: one.reason for name, one in found.items() if isinstance(one, _LeftOut)}
    if not done:
        told = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise DataError(
            f"no expert could be calibrated: {told}; train on a span whose end the inputs of the "
            "experts reach, or add an expert that answers every row, such as lightgbm"
        )
    # The rule stands in where no other answers; beside others it would only add noise.
    fused = tuple(name for name in done if name not in FALLBACKS) or tuple(done)
    done = {**{name: done[name] for name in fused}, **done}
    chosen = _fuse(job, done, fused)
    held_out = _held_out(job, done, fused, chosen.fusion)
    return FittedModel(
        config=config,
        spec=predictor_spec(config, table.matrix.instruments, table.interval_ns),
        feature_names=table.matrix.names,
        members=tuple(one.member for one in done.values()),
        fusion=chosen.fusion,
        guidance=Guidance.of(held_out, config.thresholds, bounds=config.calibration.bounds),
        references=references,
        n_rows=len(rows),
        train_start=int(table.matrix.ts_init[rows].min()),
        train_end=int(table.labels.ts_end[rows].max()),
        until=job.until,
        data_hash=table.data_hash,
        synthetic=table.synthetic,
        reports=FitReports(
            seconds={f"fit {name}": one.judged.seconds for name, one in found.items()},
            calibration={name: one.report for name, one in done.items()},
            fusion=chosen.report,
            alternatives=chosen.alternatives,
            cut_short=tuple(name for name, one in done.items() if one.judged.cut_short),
            left_out=left_out,
            started_cold={name: one.judged.cold for name, one in found.items() if one.judged.cold},
            learned_until={name: one.judged.until for name, one in done.items()},
            metrics=held_out_metrics(held_out, references.base_prob, config.bootstrap)
            if job.options.measured
            else {},
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """A fitted expert and its answers to training rows that it was not fitted on.

    `score` has one value a training row, NaN where the expert was fitted on the row; `until` is as
    in `Learned`; `cold` says why a warm start was not one.
    """

    expert: FittedExpert
    score: Float64Array
    seconds: float
    until: int
    cold: str = ""

    @property
    def cut_short(self) -> bool:
        """Whether a time budget ended the fit; rules and linear maps have none."""
        return getattr(getattr(self.expert, "report", None), "ended_by", "") == "time budget"


@dataclass(frozen=True, slots=True, eq=False)
class _Calibrated:
    """A calibrated expert, and its tail rows' probabilities by curves that had not seen them."""

    member: Member
    report: CalibrationReport
    tail: Float64Array
    judged: _Judged


@dataclass(frozen=True, slots=True, eq=False)
class _LeftOut:
    """An expert that nothing is known of, and why."""

    reason: str
    judged: _Judged


@dataclass(frozen=True, slots=True, eq=False)
class _Fused:
    fusion: Fusion
    report: FusionReport | None
    alternatives: dict[str, Fusion]


def _submit_blocks(job: FitJob) -> Future[_Judged]:
    """Fit boosted trees on all rows, and on all but each block in turn."""
    pool, table, rows, config = job.pool, job.table, job.rows, job.config
    settings = config.experts.lightgbm
    assert settings is not None
    ts_init, ts_end = table.matrix.ts_init[rows], table.labels.ts_end[rows]
    count = config.calibration.inner_folds
    binned = pool.submit(_timed, lambda: BinnedRows.of_table(table, rows, settings))
    model = pool.after(
        [binned], lambda: _timed(lambda: binned.result()[0].fit(progress=job.progress()))
    )
    blocks = inner_blocks(ts_init, ts_end, count, job.spans.embargo_ns)

    def held_out(block: int) -> Float64Array:
        train, left_out = blocks[block]
        expert = binned.result()[0].fit(train, job.progress(f"without block {block}"))
        features = table.matrix.values
        return expert.score(features, rows[left_out])

    parts = [
        pool.after([binned], partial(_timed, partial(held_out, block))) for block in range(count)
    ]

    def gather() -> _Judged:
        score = np.full(len(rows), np.nan)
        for (_, left_out), part in zip(blocks, parts, strict=True):
            score[left_out] = part.result()[0]
        seconds = binned.result()[1] + model.result()[1] + sum(part.result()[1] for part in parts)
        return _Judged(model.result()[0], score, seconds, int(ts_end.max()))

    return pool.after([model, *parts], gather)


def _submit_once(job: FitJob, name: str) -> Future[_Judged]:
    """Fit an expert on the head of the span and ask it about the tail.

    Where its settings say `refit`, the expert itself is one fitted on the whole span: what the
    first one's answers say of calibration and weights is then taken to hold for it, as with the
    blocks of boosted trees.
    """
    table, rows = job.table, job.rows
    settings = job.config.experts.chosen()[name]
    head = rows[job.spans.head]
    previous, cold = _warm_start(job, name)

    def judge() -> _Judged:
        started = time.perf_counter()
        begin = None if previous is None else previous.expert
        expert = fit_expert(name, table, head, settings, job.context(name, HEAD, begin))
        score = np.full(len(rows), np.nan)
        score[job.spans.tail] = expert.predict(table.matrix, job.tail).prob_up
        until = int(table.labels.ts_end[head].max())
        until = until if previous is None else max(until, previous.until)
        return _Judged(expert, score, time.perf_counter() - started, until, cold)

    judged = job.pool.submit(judge)
    if not getattr(settings, "refit", False):
        return judged

    def fit_again() -> FittedExpert:
        return fit_expert(name, table, rows, settings, job.context(name, WHOLE, None))

    again = job.pool.submit(lambda: _timed(fit_again))

    def gather() -> _Judged:
        found, (expert, seconds) = judged.result(), again.result()
        until = int(table.labels.ts_end[rows].max())
        return _Judged(expert, found.score, found.seconds + seconds, until)

    return job.pool.after([judged, again], gather)


def _warm_start(job: FitJob, name: str) -> tuple[Learned | None, str]:
    """Return what an expert begins from, or nothing and, after the first fold, why.

    Whatever the earlier one has learned must have ended, its labels' spans and the embargo
    included, before the rows that this one is calibrated on begin: it would know them else.
    """
    before = job.options.previous
    if before is None or not starts_warm(job.config.experts.chosen()[name]):
        return None, ""
    if name not in before:
        return None, "the fold before had none"
    known, begin = before[name].until, int(job.table.matrix.ts_init[job.tail].min())
    if known + job.spans.embargo_ns >= begin:
        return None, (
            f"the one of the fold before had learned from labels until {format_time(known)}, which "
            f"with the embargo is not before {format_time(begin)}, from where on this one is judged"
        )
    return before[name], ""


def _timed[Result](step: Callable[[], Result]) -> tuple[Result, float]:
    """Return a step's result and the seconds that it took."""
    started = time.perf_counter()
    return step(), time.perf_counter() - started


def _calibrate(job: FitJob, name: str, fit: Future[_Judged]) -> _Calibrated | _LeftOut:
    """Calibrate an expert, or leave it out if it has too few answers to be calibrated on."""
    judged = fit.result()
    table, rows, embargo = job.table, job.rows, job.spans.embargo_ns
    answers = CalibrationRows(
        judged.score,
        table.labels.value[rows],
        table.labels.weight[rows],
        table.matrix.ts_init[rows],
        table.labels.ts_end[rows],
    )
    lacking = too_few(answers, job.config.calibration, embargo_ns=embargo)
    if lacking:
        return _LeftOut(lacking + _silence(job, name), judged)
    choice = choose_calibration(answers, job.config.calibration, embargo_ns=embargo)
    return _Calibrated(
        Member(judged.expert, choice.calibration),
        choice.report,
        choice.held_out[job.spans.tail],
        judged,
    )


def _silence(job: FitJob, name: str) -> str:
    """Say where the held-out rows lie, and when the inputs of an expert of few were last known."""
    matrix = job.table.matrix
    times = matrix.ts_init[job.tail]
    told = f" of {format_time(int(times.min()))} to {format_time(int(times.max()))}"
    for feature in EXPERT_KINDS[name].inputs:
        known = ~np.isnan(column(matrix.values[job.rows], matrix.names, feature))
        last = format_time(int(matrix.ts_init[job.rows[known]].max())) if known.any() else "never"
        told += f" ({feature} was last known: {last})"
    return told


def _fuse(job: FitJob, done: dict[str, _Calibrated], fused: tuple[str, ...]) -> _Fused:
    """Fit the fusion on the tail, and those that a study asks for beside it."""
    embargo, options = job.spans.embargo_ns, job.options
    rows, config = _fusion_rows(job, done, fused)
    choice = fit_fusion(rows, config, embargo_ns=embargo)
    others: dict[str, Fusion] = {}
    if len(fused) > 1 and options.alternatives:
        every = config.model_copy(update={"method": "auto"})
        tried = choice if config.method == "auto" else fit_fusion(rows, every, embargo_ns=embargo)
        others.update(tried.tried)
    for name, experts in options.subsets.items():
        there = tuple(expert for expert in experts if expert in done)
        if there:
            part, part_config = _fusion_rows(job, done, there)
            others[name] = fit_fusion(part, part_config, embargo_ns=embargo).fusion
    return _Fused(choice.fusion, choice.report if len(fused) > 1 else None, others)


def _fusion_rows(
    job: FitJob, done: dict[str, _Calibrated], experts: tuple[str, ...]
) -> tuple[FusionRows, FusionConfig]:
    """Return the answers of some experts on the tail; one alone is passed through as it is."""
    table, places = job.table, job.tail
    rows = FusionRows(
        experts,
        np.column_stack([done[name].tail for name in experts]),
        table.labels.value[places],
        table.labels.weight[places],
        _regime(table, places),
        table.matrix.ts_init[places],
        table.labels.ts_end[places],
    )
    alone = FusionConfig(method="equal", recalibration=_NO_CURVE)
    return rows, alone if len(experts) == 1 else job.config.fusion


def _held_out(
    job: FitJob, done: dict[str, _Calibrated], fused: tuple[str, ...], fusion: Fusion
) -> HeldOutRows:
    """Return what the fusion answers on the tail, and what happened."""
    table, places = job.table, job.tail
    tail = np.column_stack([done[name].tail for name in fused])
    fresh = expert_freshness(
        table.matrix.values[places], table.matrix.names, fused, job.config.staleness
    )
    return HeldOutRows(
        fusion.combine(tail, fresh, _regime(table, places)).prob_up,
        table.labels.value[places],
        table.labels.weight[places],
        table.labels.forward_return[places],
        table.matrix.ts_init[places],
        table.labels.ts_end[places],
        table.matrix.instrument[places],
    )


_NO_CURVE = FusionConfig().recalibration.model_copy(update={"method": "none"})


def _regime(table: TrainingTable, places: Int64Array) -> Float64Array | None:
    """Return the regime of some rows; None where it is no feature."""
    if "regime" not in table.matrix.names:
        return None
    return column(table.matrix.values[places], table.matrix.names, "regime")


def _fit_references(table: TrainingTable, rows: Int64Array) -> References:
    features = table.matrix.values
    return References.fit(features, rows, table.labels.value[rows], table.last_sign[rows])
