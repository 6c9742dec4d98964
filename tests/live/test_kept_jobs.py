"""Work in pieces: done once, kept under its question, and the same from any number of processes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import ConfigError, DataError
from live.kept_jobs import Bench, Job
from research.parallel import Workers


def square(request: tuple[float, Path]) -> dict[str, Any]:
    number, log = request
    with log.open("a") as file:
        file.write(f"{number}\n")
    if number < 0:
        raise DataError(f"number must not be negative, was {number}")
    return {"square": number * number, "nothing": math.nan}


def jobs(log: Path, numbers: list[float], **more: object) -> list[Job]:
    return [Job({"number": one, **more}, square, (one, log)) for one in numbers]


def done(log: Path) -> list[float]:
    return [float(line) for line in log.read_text().split()] if log.exists() else []


def test_results_come_in_order_and_are_made_once(tmp_path: Path) -> None:
    log, told = tmp_path / "log", []
    bench = Bench(tmp_path / "jobs", progress=lambda *seen: told.append(seen))
    first = bench.run("squares", jobs(log, [3.0, 1.0, 2.0, 3.0]))
    assert [one["square"] for one in first] == [9.0, 1.0, 4.0, 9.0]
    assert first[0]["nothing"] is None
    assert done(log) == [3.0, 1.0, 2.0]  # the same question twice is one job
    assert told == [("squares", count, 3) for count in range(4)]
    again = bench.run("squares", jobs(log, [2.0, 5.0]))
    assert [one["square"] for one in again] == [4.0, 25.0]
    assert done(log) == [3.0, 1.0, 2.0, 5.0]
    assert told[-2:] == [("squares", 1, 2), ("squares", 2, 2)]


def test_another_question_finds_nothing(tmp_path: Path) -> None:
    log, bench = tmp_path / "log", Bench(tmp_path / "jobs")
    bench.run("squares", jobs(log, [2.0], code="a"))
    bench.run("squares", jobs(log, [2.0], code="b"))
    assert done(log) == [2.0, 2.0]


@pytest.mark.parametrize("damage", ["torn", "changed", "other"])
def test_a_damaged_piece_is_made_anew(tmp_path: Path, damage: str) -> None:
    log, bench = tmp_path / "log", Bench(tmp_path / "jobs")
    bench.run("squares", jobs(log, [2.0]))
    (path,) = bench.folder.iterdir()
    text = path.read_text()
    if damage == "torn":
        path.write_text(text[: len(text) // 2])
    elif damage == "changed":
        path.write_text(text.replace("4.0", "5.0"))
    else:
        path.write_text(json.dumps({"result": {"square": 5.0}}))
    assert bench.run("squares", jobs(log, [2.0]))[0]["square"] == 4.0
    assert done(log) == [2.0, 2.0]


def test_what_is_done_before_an_error_is_kept(tmp_path: Path) -> None:
    log, bench = tmp_path / "log", Bench(tmp_path / "jobs")
    with pytest.raises(DataError, match="number must not be negative, was -1"):
        bench.run("squares", jobs(log, [2.0, -1.0, 3.0]))
    assert bench.run("squares", jobs(log, [2.0]))[0]["square"] == 4.0
    assert done(log) == [2.0, -1.0]
    assert [path.suffix for path in bench.folder.iterdir()] == [".json"]


def test_no_worker_does_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--workers must be at least 1, was 0"):
        Bench(tmp_path, Workers(0)).run("squares", [])
