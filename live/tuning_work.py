"""One trial after the other: in this process, or in several that share the trials."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from catalog.progress import Progress, no_progress
from live.tuning_store import (
    FACTS,
    INDEX,
    REFUSED,
    at_work,
    counted,
    finished,
    open_study,
    queue_again,
    sampler_of,
    tuned_trials,
    under_way,
)
from live.tuning_trial import Bench, RefusedError
from research.parallel import Workers, run_jobs
from research.tuning import is_hopeless

if TYPE_CHECKING:
    import optuna

    from live.tuning_request import TuningRequest

STAGE = "trials"
_BENCHES: dict[str, Bench] = {}
"""The data of the question that this process is at work on: read once, used by every trial."""


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
        Told of the stage ``trials``, which counts those that are missing.

    Raises
    ------
    LeviBotError
        As a trial does; those that were done are kept.
    """
    before, total = len(finished(open_study(request, question))), request.options.trials
    options = request.options
    _BENCHES[question] = bench
    try:
        run_jobs(
            partial(_run, request, question, os.getpid()),
            range(before, total),
            Workers(options.workers, options.cluster),
            stage=STAGE,
            progress=progress if before < total else no_progress,
        )
    finally:
        del _BENCHES[question]


def _run(request: TuningRequest, question: str, leader: int, index: int) -> None:
    """Do one trial, wherever that is."""
    with at_work(request.out, leader):
        if question not in _BENCHES:
            _BENCHES.clear()
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
    for stale in under_way(study):
        # The worker that had this very job has died.
        if request.options.storage is None and stale.user_attrs.get(INDEX) == index:
            queue_again(study, stale)
    if counted(study) >= request.options.trials:
        return  # another machine was faster
    study.sampler = sampler_of(request, index, tuned_trials(study, request))
    study.optimize(lambda trial: _objective(trial, study, request, bench, index), n_trials=1)


def _objective(
    trial: optuna.Trial, study: optuna.Study, request: TuningRequest, bench: Bench, index: int
) -> tuple[float, ...]:
    import optuna

    trial.set_user_attr(INDEX, index)
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
        if error.trial is not None:
            bench.record(error.trial)
        trial.set_user_attr(REFUSED, str(error))
        trial.set_constraint("can be", 1.0)
        raise optuna.TrialPruned from error
    bench.record(found.trial)
    trial.set_user_attr(FACTS, found.facts())
    # Of one that was given up, that it was says enough.
    least = request.options.min_trades if request.trades and found.whole else 0
    trial.set_constraint("trades", least - found.trades)
    if not found.whole:
        raise optuna.TrialPruned
    return found.values
