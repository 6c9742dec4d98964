"""Jobs beside one another: the same results from any number of workers, whatever befalls them."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_info

from catalog.errors import ConfigError, DataError, IntegrityError, RunFailedError
from research import parallel
from research.cluster import check_installed, installed
from research.cpcv import CpcvConfig, cross_validate
from research.parallel import Workers, available_cores, finished_jobs, run_jobs
from research.walkforward import Keep, walk_forward
from tests.research.experiments import config, panel
from tests.research.experiments import result as walk_forward_result

TWO = Workers(2)
GROUPS = CpcvConfig(n_groups=4, n_test_groups=2)


def draw(table: np.ndarray[Any, Any], seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "sum": float(table.sum()) + random.normal(),
        "process": os.getpid(),
        "writeable": table.flags.writeable,
        "mapped": isinstance(table, np.memmap),
        "threads": max([one["num_threads"] for one in threadpool_info()], default=1),
        "environment": os.environ.get("OMP_NUM_THREADS"),
        "inner": run_jobs(_process, [0, 1], TWO),
    }


def _process(_: int) -> int:
    return os.getpid()


def refuse(number: int) -> int:
    if number == 2:
        raise DataError(f"number must not be 2, was {number}")
    return number


def die_once(mark: Path, number: int) -> int:
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def die(number: int) -> int:
    if number == 2:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_do_not_depend_on_the_number_of_workers() -> None:
    table = np.arange(200_000.0)
    told: list[tuple[str, int, int]] = []
    work = partial(draw, table)
    alone = run_jobs(work, range(5), Workers(1))
    spread = run_jobs(work, range(5), TWO, stage="draws", progress=lambda *seen: told.append(seen))
    assert [one["sum"] for one in spread] == [one["sum"] for one in alone]
    assert told == [("draws", done, 5) for done in range(6)]
    assert {one["process"] for one in alone} == {os.getpid()}
    assert os.getpid() not in {one["process"] for one in spread}
    for one in spread:
        # Mapped, not copied; one thread each; and jobs of jobs begin no more processes.
        assert (one["mapped"], one["writeable"]) == (True, False)
        assert (one["threads"], one["environment"]) == (1, "1")
        assert one["inner"] == [one["process"]] * 2
    assert {one["threads"] for one in alone} == {1}


def test_an_error_ends_the_run_and_keeps_its_words() -> None:
    found: dict[int, int] = {}
    with pytest.raises(DataError, match="number must not be 2, was 2"):
        found.update(finished_jobs(refuse, [0, 1, 2, 3], Workers(1)))
    assert found == {0: 0, 1: 1}
    with pytest.raises(DataError, match="number must not be 2, was 2"):
        run_jobs(refuse, [0, 1, 2, 3], TWO)
    assert run_jobs(refuse, [4, 5], TWO) == [4, 5]


def test_a_killed_worker_costs_no_result(tmp_path: Path) -> None:
    work = partial(die_once, tmp_path / "mark")
    assert run_jobs(work, range(6), TWO) == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "mark").exists()


def test_a_job_that_always_kills_its_worker_ends_the_run() -> None:
    found: dict[int, int] = {}
    with pytest.raises(RunFailedError, match="died 3 times in a row with 1 of 4 jobs left"):
        found.update(finished_jobs(die, [0, 1, 2, 3], TWO))
    assert found == {0: 0, 1: 1, 3: 3}


def test_no_job_needs_no_worker() -> None:
    assert run_jobs(die, [], TWO) == []


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"count": 0}, "--workers must be at least 1, was 0"),
        ({"threads": 0}, "threads of a worker must be at least 1, was 0"),
        ({"cluster": "10.0.0.1"}, "--cluster must be auto or an address such as ray://"),
        ({"cluster": "ray://"}, "--cluster must be auto or an address such as ray://"),
    ],
)
def test_workers_that_cannot_be_are_refused(made: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Workers(**made)


def test_workers_are_the_cores_unless_told() -> None:
    assert Workers().number() == available_cores() >= 1
    assert Workers(7).number() == 7


def test_threads_are_given_back() -> None:
    before = {one["filepath"]: one["num_threads"] for one in threadpool_info()}
    with parallel.thread_limit(1):
        assert all(one["num_threads"] == 1 for one in threadpool_info())
    assert {one["filepath"]: one["num_threads"] for one in threadpool_info()} == before


def test_a_machine_with_other_code_is_refused() -> None:
    check_installed(installed())
    other = {**installed(), "sources": "0" * 16, "numpy": "1.0"}
    with pytest.raises(IntegrityError, match=r"must have the code .* numpy .* for 1\.0, sources"):
        check_installed(other)


@pytest.mark.slow
def test_folds_in_processes_predict_what_threads_do(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    keep = Keep(tmp_path / "folds", workers=TWO)
    found = walk_forward(panel(), config(), keep=keep, progress=lambda *seen: told.append(seen))
    expected = walk_forward_result()
    pd.testing.assert_frame_equal(found.predictions, expected.predictions, check_exact=True)
    assert repr(found.metrics) == repr(expected.metrics)
    assert [seen[1] for seen in told if seen[0] == "folds"] == [0, 1, 2, 3]
    (tmp_path / "folds" / "fold-1.json").unlink()
    told.clear()
    again = walk_forward(panel(), config(), keep=keep, progress=lambda *seen: told.append(seen))
    pd.testing.assert_frame_equal(again.predictions, expected.predictions, check_exact=True)
    assert [seen[1] for seen in told if seen[0] == "folds"] == [2, 3]


def test_splits_in_processes_predict_what_threads_do(tmp_path: Path) -> None:
    found = cross_validate(panel(), config(), GROUPS, keep=Keep(tmp_path, workers=TWO))
    expected = cross_validate(panel(), config(), GROUPS)
    for path in range(expected.n_paths):
        one, other = found.path(path), expected.path(path)
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert repr(found.metrics) == repr(expected.metrics)
