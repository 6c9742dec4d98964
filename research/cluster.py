"""The same jobs on a Ray cluster: who is asked for workers, and what they must be.

Ray is an extra: ``pip install 'levibot[cluster]'`` on every machine. The code is not sent: every
machine has the project installed, the same sources and libraries, and refuses jobs from others.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from catalog.errors import ConfigError, IntegrityError
from research.code_identity import library_versions

if TYPE_CHECKING:
    from joblib import Parallel

AUTO = "auto"
"""The cluster that this machine is part of."""
CLIENT_PREFIX = "ray://"
PACKAGES = ("catalog", "adapters", "research", "strategies", "live")
"""Whose sources must be the same on every machine."""
_THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"),
)
_RESTARTS = 3
_RAY_THREADS = ("ray_", "(_log_main)")
"""What is in the names of its threads that print, of a driver's and of a client's."""


def check_address(address: str) -> None:
    """Refuse what is no address of a cluster.

    Raises
    ------
    ConfigError
        Unless it is ``auto`` or begins with ``ray://``.
    """
    if address != AUTO and not (address.startswith(CLIENT_PREFIX) and len(address) > 6):
        raise ConfigError(
            f"--cluster must be {AUTO} or an address such as {CLIENT_PREFIX}10.0.0.1:10001, was "
            f"{address!r}; leave it out for this machine's cores"
        )


def worker_count(cluster: str, count: int | None, threads: int = 1) -> int:
    """Return how many workers a cluster gives.

    Parameters
    ----------
    cluster : str
        Its address.
    count : int, optional
        How many are wanted; None: as many as its cores are for.
    threads : int
        Cores that each takes.

    Raises
    ------
    ConfigError
        If Ray is not installed, the cluster does not answer, or it has too few cores.
    """
    ray = connect(cluster)
    cores = int(ray.cluster_resources().get("CPU", 0))
    most = cores // threads
    wanted = most if count is None else count
    if not 2 <= wanted <= most:
        raise ConfigError(
            f"--workers on a cluster must be 2 to {most} (it has {cores} cores, {threads} for "
            f"each worker), was {wanted}; leave --workers out for all of them, or --cluster out "
            "for this machine's cores"
        )
    return wanted


def connect(cluster: str) -> Any:
    """Return the module `ray`, connected; a process that is connected already stays so.

    Raises
    ------
    ConfigError
        If Ray is not installed, or nothing answers at the address.
    """
    # Else its threads leave repeated messages to the end of the process, which prints them.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--cluster must have Ray, which is not installed; run "
            "`pip install 'levibot[cluster]'` here and on every machine of the cluster"
        ) from error
    if not ray.is_initialized():
        if not isinstance(sys.stdout, _WithoutRay):
            sys.stdout = _WithoutRay(sys.stdout)
        try:
            with warnings.catch_warnings():
                # That nothing answers is said below.
                warnings.simplefilter("ignore")
                ray.init(address=cluster, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, TimeoutError) as error:
            raise ConfigError(
                f"--cluster must be the address of a Ray cluster that runs, was {cluster!r}, "
                "where none answers; start one with `ray start --head` (docs/scaling.md)"
            ) from error
    return ray


class _WithoutRay:
    """Standard output for everybody but Ray, whose messages go to standard error.

    Its threads print what they hear of the cluster, such as a worker that ends, whenever they
    hear it and whatever they are told of logging, and would print it into a result for programs.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        thread = threading.current_thread().name
        ray_speaks = any(part in thread for part in _RAY_THREADS)
        stream = sys.stderr if ray_speaks else self._stream
        return stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def cluster_pool(cluster: str, count: int | None, threads: int) -> Iterator[Parallel]:
    """Give what calls functions on a cluster and yields what they return as they do.

    Raises
    ------
    ConfigError
        As `worker_count`.
    """
    number = worker_count(cluster, count, threads)
    connection = connect(cluster).get_runtime_context().get_job_id()
    pool = _kept_pool(_Key(cluster, number, threads, connection))
    try:
        yield pool
    except BaseException as error:
        # Whoever stops asking ends the workers and what they do.
        _end_pool()
        from ray.exceptions import RayActorError

        if isinstance(error, RayActorError):
            # By the name that it has on one machine.
            raise BrokenProcessPool(str(error)) from error
        raise


class _Key(NamedTuple):
    """What a pool's workers are: those of another stage of a command serve, of another no."""

    cluster: str
    number: int
    threads: int
    connection: str


_POOL: dict[_Key, Parallel] = {}
"""The pool of the last jobs, if they ended well: its workers took seconds to begin and import."""


def _kept_pool(key: _Key) -> Parallel:
    if key not in _POOL:
        _end_pool()
        _POOL[key] = _new_pool(key).__enter__()
    return _POOL[key]


def _end_pool() -> None:
    """End the workers of the last jobs."""
    while _POOL:
        _, pool = _POOL.popitem()
        # Those of a cluster that was left are gone.
        with contextlib.suppress(Exception):
            pool.__exit__(None, None, None)


def _new_pool(key: _Key) -> Parallel:
    from joblib import Parallel

    number, threads = key.number, key.threads
    variables = {name: str(threads) for name in _THREAD_VARIABLES}
    settings = {
        # Ray counts none for a worker of a pool, and would put all of them on one machine.
        "num_cpus": threads,
        "scheduling_strategy": "SPREAD",
        "runtime_env": {"env_vars": variables},
        # A worker that dies is begun anew, and its job with it.
        "max_restarts": _RESTARTS,
        "max_task_retries": _RESTARTS,
    }
    return Parallel(
        n_jobs=number,
        backend=_backend(settings),
        return_as="generator_unordered",
        batch_size=1,
        pre_dispatch=number,
    )


def share(thing: Any) -> Any:
    """Put a thing into the cluster's object store, once for all jobs that are given it."""
    import ray

    return ray.put(thing)


def shared(reference: Any) -> Any:
    """Return, in a worker, the thing that was put into the object store; arrays are mapped."""
    import ray

    return ray.get(reference)


def _backend(settings: dict[str, Any]) -> Any:
    """Return joblib's Ray backend, which here also yields results as they come."""
    from ray.util.joblib.ray_backend import RayBackend

    class Streaming(RayBackend):
        supports_return_generator = True

    return Streaming(ray_remote_args=settings)


@cache
def installed() -> dict[str, str]:
    """Return what of a machine decides results: its sources, Python and libraries."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    versions = {"python": platform.python_version(), **library_versions(deep=True)}
    return {"sources": digest.hexdigest()[:16], **versions}


def check_installed(asked: dict[str, str]) -> None:
    """Refuse a job from a machine with other code: its result would be that of neither.

    Parameters
    ----------
    asked : dict of str
        What `installed` says where the job comes from.

    Raises
    ------
    IntegrityError
        If this machine differs, naming it and what differs.
    """
    here = installed()
    differs = [
        f"{name} {here.get(name, 'absent')} for {asked.get(name, 'absent')}"
        for name in sorted({*here, *asked})
        if here.get(name) != asked.get(name)
    ]
    if differs:
        raise IntegrityError(
            f"machine {socket.gethostname()} of the cluster must have the code and libraries of "
            f"the one that asks, had {', '.join(differs)}; install the same commit and the same "
            "locked requirements on every machine, and start Ray there anew"
        )
