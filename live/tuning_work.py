"""One trial after the other: in this process, or in several that share the trials."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import RunFailedError
from catalog.progress import Progress
from live.runs import keep_large_blocks_apart
from live.tuning_store import (
    FACTS,
    REFUSED,
    counted,
    finished,
    join_workers,
    open_study,
    sampler_of,
    tuned_trials,
)
from live.tuning_trial import Bench, RefusedError
from research.tuning import is_hopeless

if TYPE_CHECKING:
    import optuna

    from live.tuning_request import TuningRequest

STAGE = "trials"
_POLL_SECS = 0.5
_THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    "NUMBA_NUM_THREADS",
)


def work(request: TuningRequest, bench: Bench, question: str, progress: Progress) -> None:
    """Run trials until there are as many as were asked for.

    Parameters
    ----------
    request : TuningRequest
        What is asked.
    bench : Bench
        The data, for trials in this process.
    question : str
        Hash of what is asked of these data.
    progress : Progress
        Told of the stage ``trials``.

    Raises
    ------
    LeviBotError
        As a trial does; those that were done are kept.
    """
    total = request.options.trials
    before = len(finished(open_study(request, question)))
    progress(STAGE, min(before, total), total)
    if request.options.workers > 1 and before < total:
        _beside_one_another(request, question, before, progress)
        return
    for index in range(before, total):
        run_trial(request, bench, question, index)
        progress(STAGE, index + 1, total)


def _beside_one_another(
    request: TuningRequest, question: str, before: int, progress: Progress
) -> None:
    """Let worker processes run the trials; each reads the data once."""
    total, workers = request.options.trials, request.options.workers
    # Started anew, not forked: the engine hangs after a fork.
    context = multiprocessing.get_context("spawn")
    start: Any = (request.out, os.getpid())
    with (
        _one_thread_each(),
        ProcessPoolExecutor(
            min(workers, total - before), context, initializer=_begin, initargs=start
        ) as pool,
    ):
        tasks = [
            pool.submit(_run_in_worker, request, question, index) for index in range(before, total)
        ]
        try:
            _await(tasks, before, total, progress)
        except BrokenProcessPool as error:
            raise RunFailedError(
                "a worker of the tuning was ended from outside, perhaps for want of memory; run "
                "the same command again to go on, with fewer --workers"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _await(tasks: list[Future[None]], before: int, total: int, progress: Progress) -> None:
    waiting: set[Future[None]] = set(tasks)
    while waiting:
        done, waiting = wait(waiting, timeout=_POLL_SECS, return_when=FIRST_EXCEPTION)
        for task in done:
            task.result()
        progress(STAGE, min(before + len(tasks) - len(waiting), total), total)


_BENCHES: dict[str, Bench] = {}
"""The one of a worker, which has one question for as long as it lives."""


def _begin(folder: Path, parent: int) -> None:
    keep_large_blocks_apart()
    join_workers(folder, parent)


def _run_in_worker(request: TuningRequest, question: str, index: int) -> None:
    if question not in _BENCHES:
        _BENCHES[question] = Bench.open(request)
    run_trial(request, _BENCHES[question], question, index)


def run_trial(request: TuningRequest, bench: Bench, question: str, index: int) -> None:
    """Draw a configuration, judge it, record it.

    Parameters
    ----------
    request : TuningRequest
        What is asked.
    bench : Bench
        The data.
    question : str
        Hash of what is asked of these data.
    index : int
        How many trials there were before, for the draw.
    """
    study = open_study(request, question)
    if counted(study) >= request.options.trials:
        return  # another machine was faster
    study.sampler = sampler_of(request, index, tuned_trials(study, request))
    study.optimize(lambda trial: _objective(trial, study, request, bench), n_trials=1)


def _objective(
    trial: optuna.Trial, study: optuna.Study, request: TuningRequest, bench: Bench
) -> tuple[float, ...]:
    import optuna

    values = request.space.suggest(trial)
    alone = len(request.objectives) == 1

    def give_up(fold: int, running: tuple[float, ...]) -> bool:
        if alone:
            trial.report(running[0], fold)
        others = [
            one.running[fold]
            for one in tuned_trials(study, request)
            if one.whole and len(one.running) > fold
        ]
        return is_hopeless(running, others)

    try:
        found = bench.evaluate(values, give_up)
    except RefusedError as error:
        trial.set_user_attr(REFUSED, str(error))
        trial.set_constraint("can be", 1.0)
        raise optuna.TrialPruned from error
    bench.record(found)
    trial.set_user_attr(FACTS, found.facts())
    # Of one that was given up, that it was says enough.
    least = request.options.min_trades if request.trades and found.whole else 0
    trial.set_constraint("trades", least - found.trades)
    if not found.whole:
        raise optuna.TrialPruned
    return found.values


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that are started inside know that there are others: one thread for each.

    Libraries read it when they are imported, which is before any of our code could tell them.
    """
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
