"""Work that is done piece by piece in other processes, each piece kept as soon as it is done.

A kept piece lies in a file that is named after the hash of its question: everything that decides
its result, the code among it. A run that is killed goes on with what is missing, and a result of
another question is never found, because it has another name. Files are written as soon as a piece
is done, whole or not at all; a file that is damaged is made anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.progress import Progress, no_progress
from live.study_sessions import json_bytes, write_whole
from research.parallel import ALONE, Workers, finished_jobs
from research.trials import hash_of

type Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work.

    Parameters
    ----------
    question : mapping
        Everything that decides the result, as JSON.
    work : callable
        A function of a module (it is called in another process) that returns JSON; numbers that
        are not finite become None.
    request : object
        What it is given.
    """

    question: Mapping[str, Any]
    work: Callable[[Any], Result]
    request: Any

    @property
    def key(self) -> str:
        """Hash of the question, 64 hex digits."""
        return hash_of(self.question)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where jobs are done and kept.

    Parameters
    ----------
    folder : Path
        Of the kept results; made when the first is kept.
    workers : Workers
        Who does the jobs; with one the work is done in this process.
    progress : Progress
        Told how many are done.
    """

    folder: Path
    workers: Workers = ALONE
    progress: Progress = no_progress

    def run(self, stage: str, jobs: Sequence[Job]) -> list[Result]:
        """Return the results of all jobs in order, doing only those that are not kept.

        Parameters
        ----------
        stage : str
            What progress calls it.
        jobs : sequence of Job
            What to do. The result does not depend on the number of workers.

        Raises
        ------
        ConfigError, IntegrityError, RunFailedError
            As `research.parallel.run_jobs`.
        LeviBotError
            The first error of a job; jobs that are done by then are kept.
        """
        found = {job.key: kept for job in jobs if (kept := self.kept(job)) is not None}
        missing = list({job.key: job for job in jobs if job.key not in found}.values())
        count = len(found) + len(missing)
        self.progress(stage, len(found), count)
        for place, result in finished_jobs(do_job, missing, self.workers):
            found[missing[place].key] = result
            self._keep(missing[place].key, result)
            self.progress(stage, len(found), count)
        return [found[job.key] for job in jobs]

    def kept(self, job: Job) -> Result | None:
        """Return a job's kept result; None where there is none, or its file is damaged."""
        try:
            record = json.loads(self._path(job.key).read_text(encoding="utf-8"))
            result: Result = record["result"]
            whole = record["key"] == job.key and record["sha256"] == hash_of(result)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return result if whole else None

    def _keep(self, key: str, result: Result) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"key": key, "sha256": hash_of(result), "result": result}
        write_whole(self._path(key), json_bytes(record))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key[:40]}.json"


def do_job(job: Job) -> Result:
    """Do a job and return its result as it is kept."""
    # Through JSON at once, so that a result does not depend on whether it was kept.
    result: Result = json.loads(json_bytes(job.work(job.request)))
    return result
