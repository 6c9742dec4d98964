from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from catalog.errors import ConfigError, DataError, IntegrityError
from live.runs import (
    RUN_FILE,
    TABLES,
    Stopwatch,
    check_free,
    code_version,
    file_hashes,
    finite,
    read_run,
    run_folder,
    table_hashes,
    write_json,
    write_tables,
)


def fill(folder: Path, value: float) -> None:
    write_tables(folder, {name: pd.DataFrame({"x": [value]}) for name in TABLES})
    write_json(folder / RUN_FILE, {"files": file_hashes(folder)})


def test_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "one"
    with run_folder(out) as folder:
        fill(folder, 1.0)
        assert not out.exists()
    assert read_run(out)["files"].keys() == {f"{name}.parquet" for name in TABLES}
    assert [path.name for path in out.parent.iterdir()] == ["one"]


def test_failure_leaves_nothing_and_keeps_the_old_run(tmp_path: Path) -> None:
    out = tmp_path / "one"
    with run_folder(out) as folder:
        fill(folder, 1.0)
    before = table_hashes(out)

    def break_off() -> None:
        with run_folder(out, overwrite=True) as folder:
            fill(folder, 2.0)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        break_off()
    assert table_hashes(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_existing_run_is_only_replaced_on_request(tmp_path: Path) -> None:
    out = tmp_path / "one"
    with run_folder(out) as folder:
        fill(folder, 1.0)
    with pytest.raises(ConfigError, match="add --overwrite"), run_folder(out):
        pass
    with run_folder(out, overwrite=True) as folder:
        fill(folder, 2.0)
    assert pd.read_parquet(out / "fills.parquet")["x"].tolist() == [2.0]


def test_a_folder_that_is_no_run_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    with (
        pytest.raises(ConfigError, match="replaces runs only"),
        run_folder(tmp_path / "precious", overwrite=True),
    ):
        pass


def test_changed_table_is_found(tmp_path: Path) -> None:
    out = tmp_path / "one"
    with run_folder(out) as folder:
        fill(folder, 1.0)
    pd.DataFrame({"x": [3.0]}).to_parquet(out / "equity.parquet")
    with pytest.raises(IntegrityError, match=r"equity\.parquet changed"):
        read_run(out)


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a run's folder"):
        read_run(tmp_path)


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    assert finite({"a": float("nan"), "b": [float("inf"), 1]}) == {"a": None, "b": [None, 1]}
    write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None}


def test_stopwatch_adds_up_stages() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch.stage("load"):
            pass
    found = watch.total()
    assert list(found) == ["load", "total"]
    assert found["total"] >= found["load"] >= 0.0


def test_version_names_the_release_and_the_sources() -> None:
    release, _, digest = code_version().partition("+")
    assert release
    assert len(digest) == 12


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        check_free(tmp_path / "file" / "run", overwrite=False)


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    abandoned = tmp_path / f".one.{dead.pid}.partial"
    alive = tmp_path / f".one.{os.getppid()}.partial"
    abandoned.mkdir()
    alive.mkdir()
    with run_folder(tmp_path / "one") as folder:
        fill(folder, 1.0)
    assert not abandoned.exists()
    assert alive.exists()
