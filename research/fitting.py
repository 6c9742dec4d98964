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

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import DataError
from catalog.progress import Progress, no_progress
from research.calibration import CalibrationRows, choose_calibration
from research.experts import FitContext, FittedExpert
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

if TYPE_CHECKING:
    from research.calibration import CalibrationReport
    from research.fusion import Fusion
    from research.fusion_fit import FusionReport
    from research.settings import WalkForwardConfig
    from research.training_table import TrainingTable

FALLBACKS = ("heuristic",)
"""Experts that are no part of a fusion of others."""
BLOCKS = "lightgbm"
"""The expert that is cheap enough to be fitted again for each held-out block."""


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
    previous : mapping of FittedExpert
        What a warm start begins from, by expert.
    """

    progress: Progress = no_progress
    alternatives: bool = False
    subsets: Mapping[str, tuple[str, ...]] = {}
    previous: Mapping[str, FittedExpert] = {}


class StepPool(ThreadPoolExecutor):
    """Threads for the steps of fits; on an error, steps that have not begun never do."""

    _ending = False

    def after[Result](
        self,
        earlier: Sequence[Future[Any]],
        step: Callable[[], Result],
        *,
        even_failed: bool = False,
    ) -> Future[Result]:
        """Have a step done once others are: no thread waits meanwhile.

        The result fails with the first of `earlier` that fails, unless the step is to be done
        even then (it will meet the error when it asks for their results).
        """
        outcome: Future[Result] = Future()
        lock, left = threading.Lock(), set(range(len(earlier)))

        def begin() -> None:
            # Once a step has failed, none may be submitted: the pool is locked while it cancels
            # those that wait, which is when we may be called.
            if self._ending:
                outcome.cancel()
            else:
                self.submit(step).add_done_callback(lambda done: _pass_on(done, outcome))

        def note(place: int, done: Future[Any]) -> None:
            with lock:
                left.discard(place)
                last = not left and not outcome.done()
            if not even_failed and (done.cancelled() or done.exception() is not None):
                _pass_on(done, outcome)
            elif last:
                begin()

        for place, future in enumerate(earlier):
            future.add_done_callback(partial(note, place))
        return outcome

    def __exit__(self, *error: object) -> None:
        """Wait for what runs."""
        self._ending = error[0] is not None
        self.shutdown(wait=True, cancel_futures=error[0] is not None)


def _pass_on(done: Future[Any], outcome: Future[Any]) -> None:
    """Let one future end as another did, unless it has ended already."""
    try:
        if done.cancelled():
            outcome.cancel()
        elif (error := done.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(done.result())
    except InvalidStateError:
        return


def fit_rows(
    table: TrainingTable,
    rows: Int64Array,
    config: WalkForwardConfig,
    until: int,
    *,
    progress: Progress = no_progress,
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
    """
    progress("fit", 0, 1)
    with StepPool(config.threads) as pool:
        model = submit_fit(pool, table, rows, config, until, FitOptions(progress)).result()
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
    job = _Job(pool, table, rows, config, options, _Spans.of(table, rows, config))
    references = pool.submit(_fit_references, table, rows)
    names = list(config.experts.chosen())
    for name in names:
        # Here, not in the pool: two threads that import torch at once may each find half of it.
        import_module(EXPERT_KINDS[name].fit_module)
    judged = {
        name: _submit_blocks(job) if name == BLOCKS else _submit_once(job, name) for name in names
    }
    members = {
        name: pool.after([one], partial(_calibrate, job, one)) for name, one in judged.items()
    }

    def finish() -> FittedModel:
        done = {name: member.result() for name, member in members.items()}
        # The rule stands in where no other answers; beside others it would only add noise.
        fused = tuple(name for name in done if name not in FALLBACKS) or tuple(done)
        done = {**{name: done[name] for name in fused}, **done}
        chosen = _fuse(job, done, fused)
        seconds = {f"fit {name}": one.seconds for name, one in done.items()}
        return FittedModel(
            config=config,
            spec=predictor_spec(config, table.matrix.instruments, table.interval_ns),
            feature_names=table.matrix.names,
            members=tuple(one.member for one in done.values()),
            fusion=chosen.fusion,
            guidance=_guidance(job, done, fused, chosen.fusion),
            references=references.result(),
            n_rows=len(rows),
            train_start=int(table.matrix.ts_init[rows].min()),
            train_end=int(table.labels.ts_end[rows].max()),
            until=until,
            data_hash=table.data_hash,
            synthetic=table.synthetic,
            reports=FitReports(
                seconds,
                {name: one.report for name, one in done.items()},
                chosen.report,
                chosen.alternatives,
                tuple(name for name, one in done.items() if _is_cut_short(one.member.expert)),
            ),
        )

    return pool.after([references, *members.values()], finish)


def _is_cut_short(expert: FittedExpert) -> bool:
    """Return whether a time budget ended an expert's fit; rules and linear maps have none."""
    return getattr(getattr(expert, "report", None), "ended_by", "") == "time budget"


@dataclass(frozen=True, slots=True, eq=False)
class _Spans:
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
    def of(cls, table: TrainingTable, rows: Int64Array, config: WalkForwardConfig) -> _Spans:
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


class _Job(NamedTuple):
    """What all steps of one fit share."""

    pool: StepPool
    table: TrainingTable
    rows: Int64Array
    config: WalkForwardConfig
    options: FitOptions
    spans: _Spans


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """A fitted expert and its answers to training rows that it was not fitted on.

    `score` has one value a training row, NaN where the expert was fitted on the row.
    """

    expert: FittedExpert
    score: Float64Array
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Calibrated:
    """A calibrated expert, and its tail rows' probabilities by curves that had not seen them."""

    member: Member
    report: CalibrationReport
    tail: Float64Array
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Fused:
    fusion: Fusion
    report: FusionReport | None
    alternatives: dict[str, Fusion]


def _submit_blocks(job: _Job) -> Future[_Judged]:
    """Fit boosted trees on all rows, and on all but each block in turn."""
    pool, table, rows, config = job.pool, job.table, job.rows, job.config
    settings = config.experts.lightgbm
    assert settings is not None
    ts_init, ts_end = table.matrix.ts_init[rows], table.labels.ts_end[rows]
    count = config.calibration.inner_folds
    binned = pool.submit(_timed, lambda: BinnedRows.of_table(table, rows, settings))
    model = pool.after([binned], lambda: _timed(binned.result()[0].fit))
    blocks = inner_blocks(ts_init, ts_end, count, job.spans.embargo_ns)

    def held_out(block: int) -> Float64Array:
        train, left_out = blocks[block]
        expert = binned.result()[0].fit(train)
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
        return _Judged(model.result()[0], score, seconds)

    return pool.after([model, *parts], gather)


def _submit_once(job: _Job, name: str) -> Future[_Judged]:
    """Fit an expert on the head of the span and ask it about the tail.

    Where its settings say `refit`, the expert itself is one fitted on the whole span: what the
    first one's answers say of calibration and weights is then taken to hold for it, as with the
    blocks of boosted trees.
    """
    table, options = job.table, job.options
    context = FitContext(options.progress, threads=1, previous=options.previous.get(name))

    settings = job.config.experts.chosen()[name]

    def judge() -> _Judged:
        started = time.perf_counter()
        expert = fit_expert(name, table, job.rows[job.spans.head], settings, context)
        score = np.full(len(job.rows), np.nan)
        tail = job.rows[job.spans.tail]
        score[job.spans.tail] = expert.predict(table.matrix, tail).prob_up
        return _Judged(expert, score, time.perf_counter() - started)

    judged = job.pool.submit(judge)
    if not getattr(settings, "refit", False):
        return judged
    again = job.pool.submit(
        lambda: _timed(lambda: fit_expert(name, table, job.rows, settings, context))
    )

    def gather() -> _Judged:
        found, (expert, seconds) = judged.result(), again.result()
        return _Judged(expert, found.score, found.seconds + seconds)

    return job.pool.after([judged, again], gather)


def _timed[Result](step: Callable[[], Result]) -> tuple[Result, float]:
    """Return a step's result and the seconds that it took."""
    started = time.perf_counter()
    return step(), time.perf_counter() - started


def _calibrate(job: _Job, fit: Future[_Judged]) -> _Calibrated:
    judged = fit.result()
    table, rows = job.table, job.rows
    choice = choose_calibration(
        CalibrationRows(
            judged.score,
            table.labels.value[rows],
            table.labels.weight[rows],
            table.matrix.ts_init[rows],
            table.labels.ts_end[rows],
        ),
        job.config.calibration,
        embargo_ns=job.spans.embargo_ns,
    )
    return _Calibrated(
        Member(judged.expert, choice.calibration),
        choice.report,
        choice.held_out[job.spans.tail],
        judged.seconds,
    )


def _fuse(job: _Job, done: dict[str, _Calibrated], fused: tuple[str, ...]) -> _Fused:
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
        part, part_config = _fusion_rows(job, done, experts)
        others[name] = fit_fusion(part, part_config, embargo_ns=embargo).fusion
    return _Fused(choice.fusion, choice.report if len(fused) > 1 else None, others)


def _fusion_rows(
    job: _Job, done: dict[str, _Calibrated], experts: tuple[str, ...]
) -> tuple[FusionRows, FusionConfig]:
    """Return the answers of some experts on the tail; one alone is passed through as it is."""
    table, places = job.table, job.rows[job.spans.tail]
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


def _guidance(
    job: _Job, done: dict[str, _Calibrated], fused: tuple[str, ...], fusion: Fusion
) -> Guidance:
    """Say how sure the fusion is and when it pays, by its answers on the tail."""
    table, places = job.table, job.rows[job.spans.tail]
    tail = np.column_stack([done[name].tail for name in fused])
    fresh = expert_freshness(
        table.matrix.values[places], table.matrix.names, fused, job.config.staleness
    )
    return Guidance.of(
        HeldOutRows(
            fusion.combine(tail, fresh, _regime(table, places)).prob_up,
            table.labels.value[places],
            table.labels.weight[places],
            table.labels.forward_return[places],
            table.matrix.ts_init[places],
            table.labels.ts_end[places],
            table.matrix.instrument[places],
        ),
        job.config.thresholds,
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
