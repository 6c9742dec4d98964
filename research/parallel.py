"""Independent jobs on all cores of this machine, or on a cluster of many.

Folds, paths, trials and null runs do not know of one another, so they run beside one another::

    results = run_jobs(fit_one, requests, Workers(count=2), stage="null runs", progress=bars)

`fit_one` is a function of a module, given one request; ``results[i]`` is what it returned for
``requests[i]``. `finished_jobs` yields the same as jobs are done, to keep each at once. Neither
the number of workers nor where they run changes a result, as long as a job's result depends on
its request alone: random numbers come from a seed in the request, and what a request holds is
read, never written.

Workers are processes of their own, begun anew and not by forking (the engine hangs after a fork),
through joblib: its loky backend here, Ray's on a cluster. Each keeps to its share of the cores: the
libraries' threads (BLAS, OpenMP, numba, torch) are bounded by its environment, which is set before
anything is imported. Arrays of more than a megabyte are not copied but mapped into memory, here
from a file and on a cluster from each machine's object store, and are read-only. What all jobs
share goes into the function, ``functools.partial(fit_one, table)``, which is sent once.

A worker that is killed costs the jobs that were under way, not the run: they are done anew.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.errors import ConfigError, RunFailedError
from catalog.progress import Progress, no_progress

if TYPE_CHECKING:
    from joblib import Parallel

MAX_LOSSES = 3
"""Deaths of workers in a row, without a job done in between, after which a run is given up."""
MAPPED_FROM_BYTES = 1 << 20
"""Arrays of at least so many bytes are mapped instead of copied."""


@dataclass(frozen=True, slots=True)
class Workers:
    """How many processes do the jobs, and where.

    Parameters
    ----------
    count : int, optional
        Processes at once. None: one for each core that this process may use, or each of the
        cluster's. With one, and no cluster, jobs are done in this process.
    cluster : str, optional
        Address of a Ray cluster, such as ``ray://10.0.0.1:10001``; ``auto`` is the one that this
        machine is part of. None: this machine's cores.
    threads : int
        Threads of the libraries in each process.

    Raises
    ------
    ConfigError
        If a number is below 1, or the cluster's address is not of these forms.
    """

    count: int | None = None
    cluster: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ConfigError(f"--workers must be at least 1, was {self.count}")
        if self.threads < 1:
            raise ConfigError(f"threads of a worker must be at least 1, was {self.threads}")
        if self.cluster is not None:
            from research.cluster import check_address

            check_address(self.cluster)

    def number(self) -> int:
        """Return how many processes there are at most.

        Raises
        ------
        ConfigError
            If the cluster cannot be reached, or has fewer cores.
        """
        if self.cluster is not None:
            from research.cluster import worker_count

            return worker_count(self.cluster, self.count, self.threads)
        return available_cores() if self.count is None else self.count


ALONE = Workers(1)
"""This process, one job after the other."""


def available_cores() -> int:
    """Return how many cores this process may use: affinity and the container's share count."""
    from joblib import cpu_count

    return int(cpu_count())


def run_jobs[Request, Result](
    work: Callable[[Request], Result],
    requests: Sequence[Request],
    workers: Workers = Workers(),
    *,
    stage: str = "jobs",
    progress: Progress = no_progress,
) -> list[Result]:
    """Do all jobs and return their results in the order of the requests.

    Parameters
    ----------
    work : callable
        A function of a module, or a `functools.partial` of one with what all jobs share; called
        with one request.
    requests : sequence
        One for each job; what they hold can be pickled.
    workers : Workers
        Who does them. A job that itself calls this does its jobs one by one, in its own process.
    stage : str
        What progress calls the jobs.
    progress : Progress
        Told how many are done.

    Returns
    -------
    list
        A result for each request. It is the same for every number of workers.

    Raises
    ------
    ConfigError
        If the cluster cannot be used.
    IntegrityError
        If a machine of the cluster has other code.
    RunFailedError
        If workers die `MAX_LOSSES` times in a row.
    Exception
        Whatever a job raises: the first, and no further job begins.
    """
    found = dict(finished_jobs(work, requests, workers, stage=stage, progress=progress))
    return [found[place] for place in range(len(requests))]


def finished_jobs[Request, Result](
    work: Callable[[Request], Result],
    requests: Sequence[Request],
    workers: Workers = Workers(),
    *,
    stage: str = "jobs",
    progress: Progress = no_progress,
) -> Iterator[tuple[int, Result]]:
    """Yield each job's place among the requests and its result as soon as it is done.

    As `run_jobs`, for a caller that keeps each result at once. The order is that in which jobs end.
    Whoever stops asking ends the workers and what they do.
    """
    progress(stage, 0, len(requests))
    left = dict(enumerate(requests))
    losses = 0
    while left:
        try:
            for place, result in _attempt(work, left, workers):
                del left[place]
                losses = 0
                progress(stage, len(requests) - len(left), len(requests))
                yield place, result
        except BrokenProcessPool as error:
            losses += 1
            if losses == MAX_LOSSES:
                raise RunFailedError(
                    f"workers of {stage} must live to the end of a job, died {losses} times in a "
                    f"row with {len(left)} of {len(requests)} jobs left; most often memory ran "
                    "out: take fewer --workers, and go on"
                ) from error


def _attempt[Request, Result](
    work: Callable[[Request], Result], left: dict[int, Request], workers: Workers
) -> Iterator[tuple[int, Result]]:
    """Do the jobs that are left, as far as the workers live."""
    ahead = list(left.items())
    if _Inside.job or (workers.cluster is None and workers.number() == 1):
        for place, request in ahead:
            yield _do((place, request), work, workers.threads)
        return
    from joblib import delayed

    with _pool(workers, len(ahead)) as pool:
        shared, asked = _sent_once(work, workers)
        yield from pool(delayed(_do)(one, shared, workers.threads, asked) for one in ahead)


@contextmanager
def _pool(workers: Workers, n_jobs: int) -> Iterator[Parallel]:
    """Give what calls functions in workers and yields what they return as they do."""
    from joblib import Parallel, parallel_config

    if workers.cluster is not None:
        from research.cluster import cluster_pool

        with cluster_pool(workers.cluster, workers.count, workers.threads) as pool:
            yield pool
        return
    # Never one: joblib would do the jobs in this process, which one that kills its own would end.
    count = max(2, min(workers.number(), n_jobs))
    with parallel_config(backend="loky", inner_max_num_threads=workers.threads):
        # No more jobs ahead than workers: what an error or a death makes worthless is small.
        yield Parallel(
            n_jobs=count,
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch=count,
            max_nbytes=MAPPED_FROM_BYTES,
            mmap_mode="r",
        )


class _Inside:
    """Whether this process does a job just now, so that jobs of a job begin no more workers."""

    job = False


def _sent_once(work: Any, workers: Workers) -> tuple[Any, dict[str, str] | None]:
    """Return the function as workers are given it, and what must be installed where they are."""
    if workers.cluster is None:
        return work, None
    from research.cluster import installed, share

    return share(work), installed()


def _do(
    job: tuple[int, Any], work: Any, threads: int, asked: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Do one job, here or in a worker, where what was `asked` for must be installed.

    `work` is what `_sent_once` made of the function.
    """
    if asked is not None:
        from research.cluster import check_installed, shared

        check_installed(asked)
        work = shared(work)
    place, request = job
    before, _Inside.job = _Inside.job, True
    try:
        with thread_limit(threads):
            return place, work(request)
    finally:
        _Inside.job = before


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Keep the libraries that are loaded by now to a number of threads, and let them go after.

    A worker's environment does the same for those that are loaded later. How sums are rounded may
    depend on it, so that a job that is done in this process has as many as one in a worker.

    Parameters
    ----------
    threads : int
        Of BLAS, OpenMP (LightGBM, scikit-learn) and torch, each.
    """
    from threadpoolctl import threadpool_limits

    torch: Any = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    with threadpool_limits(limits=threads):
        if torch is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            if torch is not None:
                torch.set_num_threads(before)
