"""Tearsheets from run folders: of any version, only of what was written, replacing nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from catalog.errors import ConfigError, DataError, IntegrityError
from live.cli import app
from live.runs import MARKET_FILE, file_hashes, write_json
from live.tearsheets import TearsheetRequest, make_tearsheet, read_sheet, settings_of
from tests.research.test_tearsheet_compare import viewed


def write_folder(folder: Path, *, market: bool = True, seed: int = 5) -> Path:
    """Write a run's folder without running anything."""
    data = viewed("x", seed=seed)
    frames, view = data.frames, data.view
    assert frames is not None
    assert view is not None
    folder.mkdir()
    data.predictions.to_parquet(folder / "predictions.parquet", index=False)
    for name in ("fills", "positions", "funding", "equity"):
        getattr(frames, name).to_parquet(folder / f"{name}.parquet", index=False)
    profile: dict[str, Any] = {
        "name": "made",
        "data": {"instruments": ["A"], "interval": "1h", "start": 0},
        "label": {"horizon_bars": 4},
        "execution": {"starting_balance": 100_000.0, "taker_fee_bps": 5.0, "slippage_bps": 1.0,
                      "funding": "none", "gone since": None},
        "strategy": {"entry_threshold": "swept", "stops": {"min_frac": 0.01, "trailing": False}},
        "bootstrap": {"samples": 30, "mean_block_days": 3.0, "seed": 1},
    }  # fmt: skip
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
    marks = zip(data.metrics["folds"], data.folds, strict=True)
    folds = [
        {**fold, "index": at, "test_start": mark.start, "test_end": mark.end}
        for at, (fold, mark) in enumerate(marks)
    ]
    metrics = {**data.metrics, "folds": folds, "references": {}}
    if market:
        view.to_frame().to_parquet(folder / MARKET_FILE, index=False)
        metrics |= {"market": view.to_json(), "span": {"start": data.start, "end": data.end}}
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "run.json", {"files": file_hashes(folder)})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    return write_folder(root / "new"), write_folder(root / "old", market=False, seed=6)


def test_the_command_compares_folders(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "sub" / "page.html"
    asked = ["tearsheet", *map(str, runs), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["html"] == str(out)
    page = out.read_text(encoding="utf-8")
    assert '<th class="n">new</th><th class="n">old</th>' in page
    assert "The run did not keep prices" in page
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 2
    assert "add --overwrite" in again.output


def test_an_older_run_says_its_span_by_its_equity(runs: tuple[Path, Path]) -> None:
    new, old = (read_sheet(run) for run in runs)
    assert (old.start, old.end) == (new.start, new.end)
    assert old.view is None
    assert new.view is not None
    assert list(new.benchmarks) == ["buy and hold"]
    assert new.title == "made"


def test_a_run_that_was_changed_is_refused(tmp_path: Path) -> None:
    run = write_folder(tmp_path / "run")
    (run / "metrics.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"metrics\.json changed"):
        read_sheet(run)
    with pytest.raises(DataError, match="must be a run's folder"):
        read_sheet(tmp_path)


def test_validation_counts_for_the_predictions_that_it_is_about(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    run = runs[0]
    record = json.loads((run / "run.json").read_text())
    path = tmp_path / "validation.json"
    write_json(path, {"predictions": record["files"]["predictions.parquet"], "null": None})
    assert read_sheet(run, validation=tmp_path).validation == json.loads(path.read_text())
    assert read_sheet(run, validation=path).validation is not None
    assert read_sheet(run).validation is None
    with pytest.raises(IntegrityError, match="about other predictions"):
        read_sheet(runs[1], validation=path)
    with pytest.raises(DataError, match=r"--validation must be a validation\.json"):
        read_sheet(run, validation=tmp_path / "nowhere")
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(DataError, match="it holds no object"):
        read_sheet(run, validation=tmp_path / "list.json")
    with pytest.raises(ConfigError, match="at most once for each run, was 2 times for 1 runs"):
        make_tearsheet(TearsheetRequest((run,), tmp_path / "x", validations=(path, path)))


def test_settings_are_words_and_what_is_off_is_left_out() -> None:
    profile = {
        "execution": {"fee_bps": 5.0, "post_only": False, "none": None},
        "strategy": {"stops": {"min_frac": 0.01, "target": None}, "groups": {}, "ids": ["a", "b"]},
    }
    assert settings_of(profile) == {
        "fee bps": "5.0",
        "post only": "no",
        "stops: min frac": "0.01",
        "ids": "a, b",
    }


@pytest.mark.parametrize("option", ["out", "pdf", "png", "quantstats"])
def test_a_place_that_cannot_be_made_is_told_before_any_work(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("live.tearsheets.read_sheet", None)  # would raise if called
    (tmp_path / "file").write_text("", encoding="utf-8")
    place: dict[str, Any] = {option: tmp_path / "file" / "a" / "b"}
    asked = replace(TearsheetRequest((tmp_path,), tmp_path / "x.html"), **place)
    with pytest.raises(ConfigError, match="file"):
        make_tearsheet(asked)
