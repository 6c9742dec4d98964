"""Where a tuning keeps its trials, who is at work on them, and how it goes on after a kill.

The journal is a file of JSON lines in the folder of the tuning, or a database that several
machines share. A trial whose process was killed is given up and queued once more with the same
parameters; its folds that were done are read again, its place in the ledger is the same, so
nothing is lost and nothing counts twice. On one machine that is known at once, by locks that end
with their process; between machines by heartbeats.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.errors import ConfigError, DataError
from research.trials import hash_of
from research.tuning import TunedTrial, promising_fits

if TYPE_CHECKING:
    import optuna

    from live.tuning_request import TuningRequest
    from research.tuning_space import Value

JOURNAL_FILE = "trials.journal"
WORKERS_LOCK = ".workers"
QUESTION, BASELINE = "question", "baseline"
FACTS, REFUSED, INDEX = "facts", "refused", "index"
HEARTBEAT_SECS = 30
_ORPHANS_SECS = 30.0
_PREFIX = "levibot-tune"


class _FileLock:
    """The journal's lock, by the operating system: a killed process leaves none behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: Any = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._handle = self._path.open("a")
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let go of it."""
        self._handle.close()


def open_study(
    request: TuningRequest, question: str, sampler: optuna.samplers.BaseSampler | None = None
) -> optuna.Study:
    """Open the trials of a tuning; nothing is made anew that is there.

    Raises
    ------
    ConfigError
        If the folder holds the trials of another question.
    DataError
        If the database cannot be reached, or the journal is damaged.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    # Its own remarks on every trial would stand between our progress bars.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name = f"{_PREFIX}-{question[:16]}"
    try:
        storage = _storage(request)
        if request.options.storage is None:
            _refuse_others(storage, name, request)
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            directions=["maximize"] * len(request.objectives),
            load_if_exists=True,
        )
    except (ValueError, OSError, optuna.exceptions.StorageInternalError) as error:
        where = (request.options.storage and "--storage") or request.out / JOURNAL_FILE
        raise DataError(f"the trials of the tuning in {where} must be readable: {error}") from error
    except (ImportError, SQLAlchemyError) as error:
        raise DataError(_unreachable(request, error)) from error
    if QUESTION not in study.user_attrs:
        study.set_user_attr(QUESTION, question)
    return study


def _unreachable(request: TuningRequest, error: Exception) -> str:
    """Return what is wrong with a database, in one line and without what its address may hide."""
    kind = str(request.options.storage).partition("://")[0]
    why = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    if isinstance(error, ImportError):
        why = f"its driver is not installed ({why})"
    return (
        f"--storage must be a database that can be reached, a {kind} one, is not: {why}; see that "
        "it runs, that address, user and password are right, and that its driver is installed "
        "beside LeviBot"
    )


def _refuse_others(storage: Any, name: str, request: TuningRequest) -> None:
    others = [one.study_name for one in storage.get_all_studies() if one.study_name != name]
    if others:
        raise ConfigError(
            f"--out must be a new folder or that of the same tuning, {request.out} holds trials of "
            "another: the profile, its data, the search space or the objective was a different "
            "one; choose another folder"
        )


def _storage(request: TuningRequest) -> optuna.storages.BaseStorage:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    url = request.options.storage
    if url is None:
        path = request.out / JOURNAL_FILE
        lock: Any = _FileLock(path.with_name(f".{path.name}.lock"))
        return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            url,
            heartbeat_interval=HEARTBEAT_SECS,
            grace_period=4 * HEARTBEAT_SECS,
            heartbeat_stale_trial_callback=_queue_again,
        )


def _queue_again(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Queue a trial whose process has ended, with the parameters that it had."""
    study.enqueue_trial(trial.params, user_attrs={"again": trial.number})


def queue_again(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Give up a trial whose process has ended, and queue another with the same parameters."""
    from optuna.trial import TrialState

    study.tell(trial.number, state=TrialState.FAIL)
    _queue_again(study, trial)


def revive(study: optuna.Study) -> int:
    """Queue anew the trials that no process is at work on, and return how many.

    Only where nobody else is at work, which `no_orphans` makes sure of.
    """
    stale = under_way(study)
    for trial in stale:
        queue_again(study, trial)
    return len(stale)


def mend_journal(folder: Path) -> int:
    """Cut off what a process that was killed in the middle of a line left; return its length.

    Raises
    ------
    DataError
        If the journal cannot be written.
    """
    path = folder / JOURNAL_FILE
    if not path.is_file():
        return 0
    try:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        last = content.rfind(b"\n", 0, max(whole - 1, 0)) + 1
        if whole and not _is_json(content[last:whole]):
            whole = last
        if whole < len(content):
            os.truncate(path, whole)
    except OSError as error:
        raise DataError(f"{path} must be writable, was not: {error.strerror}") from error
    return len(content) - whole


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def no_orphans(folder: Path) -> Iterator[None]:
    """Wait until workers of a killed tuning have ended, which they do by themselves.

    Raises
    ------
    ConfigError
        If they do not.
    """
    with (folder / WORKERS_LOCK).open("a") as handle:
        deadline = time.monotonic() + _ORPHANS_SECS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"--out must be no folder that workers are busy in, {folder} is; wait for "
                        "their end"
                    ) from None
                time.sleep(0.1)
    yield


@contextlib.contextmanager
def at_work(folder: Path, leader: int) -> Iterator[None]:
    """Be seen to be at work in a folder for as long as a trial takes.

    Parameters
    ----------
    folder : Path
        Of the tuning.
    leader : int
        Process that has given the trial away. One that does the trial and is a child of it ends
        at once when it is gone: a tuning that is killed must leave nobody who writes on.
    """
    # On another machine with the same database it is not there yet.
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / WORKERS_LOCK).open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        if os.getppid() == leader and leader not in _WATCHED:
            _WATCHED.add(leader)
            threading.Thread(target=_watch, args=(leader,), daemon=True).start()
        yield


_WATCHED: set[int] = set()
_WATCH_SECS = 0.25


def _watch(leader: int) -> None:
    while os.getppid() == leader:
        time.sleep(_WATCH_SECS)
    os._exit(1)


def sampler_of(
    request: TuningRequest, index: int, tried: list[TunedTrial]
) -> optuna.samplers.BaseSampler:
    """Return what draws the parameters of a trial; the same for the same trials before it.

    Parameters
    ----------
    request : TuningRequest
        Its space and options count.
    index : int
        How many trials there were before. Each has a random generator of its own, so that a
        tuning that is interrupted goes on as it would have.
    tried : list of TunedTrial
        What is known.

    Returns
    -------
    BaseSampler
        The tree-structured Parzen estimator over all parameters at once (Bergstra et al., 2011);
        trials that traded too little are to be avoided. Where it is the turn of a policy, the
        parameters of the fit are those of a promising one.
    """
    import optuna

    rng = np.random.default_rng([request.seed, index])
    fixed = _promising(request, index, tried, rng)
    found: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(
        seed=int(rng.integers(2**31)),
        multivariate=True,
        constant_liar=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if fixed:
            found = optuna.samplers.PartialFixedSampler(fixed, found)
    return found


def _promising(
    request: TuningRequest, index: int, tried: list[TunedTrial], rng: np.random.Generator
) -> dict[str, Value]:
    """Return the parameters of the fit that a trial makes other trades of; none for a new fit."""
    space, each = request.space, request.options.trials_per_fit
    if not space.fit_keys or not space.trade_keys or index % each == 0:
        return {}
    fits = promising_fits(tried, space.fit_keys)
    return fits[int(rng.integers(len(fits)))] if fits else {}


def tuned_trials(study: optuna.Study, request: TuningRequest) -> list[TunedTrial]:
    """Return the trials that have a value, in the order of their numbers."""
    least = request.options.min_trades if request.trades else 0
    found = []
    for trial in finished(study):
        facts = trial.user_attrs.get(FACTS)
        if facts is None:
            continue
        running = tuple(tuple(one) for one in facts["running"])
        fit = {key: trial.params[key] for key in request.space.fit_keys}
        found.append(
            TunedTrial(
                number=trial.number,
                params=request.space.written(trial.params),
                whole=bool(facts["whole"]),
                feasible=facts["trades"] >= least,
                values=running[-1],
                running=running,
                fit=hash_of(fit),
                facts=facts,
            )
        )
    return found


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that count: judged, given up or refused; not those that were killed."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def under_way(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that a process is at work on, or was when it ended."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def counted(study: optuna.Study) -> int:
    """Return how many trials count or are under way."""
    return len(finished(study)) + len(under_way(study))
