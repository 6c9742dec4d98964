"""A walk-forward that keeps its folds, from the command line; and what a run's end says of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from adapters.synthetic import SyntheticConfig
from catalog.errors import ConfigError, DataError
from live.cli import app
from live.report import RunSummary
from live.runs import PREDICTIONS_FILE
from live.synthesis import make_market
from research import fold_runs
from research.fold_store import held_alone

BTC = "BTCUSDT-PERP.BINANCE"
END = "2024-02-04"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keep") / "catalog"
    make_market(folder, SyntheticConfig(instruments=(BTC,), end=END, news_per_day=0.0))
    return folder


def walkforward(catalog: Path, out: Path, *more: str) -> Result:
    settings = (
        f'data.instruments=["{BTC}"]',
        "features.ratios=[]",
        "features.peers=false",
        f"data.end={END}",
        "validation.test_start=2024-01-24",
        "validation.n_folds=3",
        "experts.lightgbm.n_trees=3",
        "bootstrap.samples=10",
        "threads=1",
    )
    words = [f"--set={setting}" for setting in settings]
    fixed = ["walkforward", "-p", "synthetic", "-c", str(catalog), "-o", str(out)]
    return CliRunner().invoke(app, [*fixed, *words, *more])


def test_an_interrupted_run_goes_on_and_writes_the_same_predictions(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert walkforward(catalog, tmp_path / "whole").exit_code == 0
    fit, fitted = fold_runs.submit_fit, []

    def counted(*arguments: Any) -> Any:
        fitted.append(arguments[4])
        if len(fitted) == 2:
            raise DataError("the power went")
        return fit(*arguments)

    monkeypatch.setattr(fold_runs, "submit_fit", counted)
    keep = f"--keep={tmp_path / 'kept'}"
    broken = walkforward(catalog, tmp_path / "run", keep)
    assert broken.exit_code == DataError.exit_code
    assert "the power went" in broken.stderr
    assert not (tmp_path / "run").exists()
    assert len(list((tmp_path / "kept").glob("*.parquet"))) == 1
    again = walkforward(catalog, tmp_path / "run", keep)
    assert again.exit_code == 0, again.output
    assert len(fitted) == 4  # three folds, of which one was tried twice
    ours, theirs = (tmp_path / name / PREDICTIONS_FILE for name in ("run", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()
    # Another question is answered anew, and why is told.
    other = walkforward(catalog, tmp_path / "other", keep, "--set=experts.lightgbm.n_trees=4")
    assert other.exit_code == 0
    assert "fold 0 must be made anew: expert lightgbm changed" in other.stderr
    assert len(fitted) == 7


def test_a_run_says_who_was_left_out_and_who_started_cold() -> None:
    metrics: dict[str, Any] = {
        "provenance": {"synthetic": False},
        "prediction": {},
        "trading": {},
        "degraded_frac": 0.0,
        "degraded_reasons": {},
        "served": None,
        "experts": {},
        "cut_short": {},
        "stress": {"rows": [], "break_even": None},
        "fits": [
            {"fold": 0, "left_out": {"sentiment": "answered 0 held-out rows"}, "started_cold": {}},
            {"fold": 1, "left_out": {}, "started_cold": {"lstm": "the fold before had none"}},
            {},
        ],
        "step_seconds": {},
        "seconds": {},
        "peak_memory_mb": 1.0,
    }
    text = str(RunSummary(Path("run"), metrics))
    assert "sentiment left out in fold 0: answered 0 held-out rows" in text
    assert "lstm started cold in fold 1: the fold before had none" in text


def test_a_second_process_on_the_same_folder_is_refused(catalog: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with held_alone(kept):
        refused = walkforward(catalog, tmp_path / "run", f"--keep={kept}")
    assert refused.exit_code == ConfigError.exit_code
    text = " ".join(refused.stderr.split())
    assert "no folder that another walk-forward is using" in text
    assert f"by process {os.getpid()}" in text
    assert not (tmp_path / "run").exists()
    # It ends with whoever held it.
    with held_alone(kept):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="must be a folder"), held_alone(tmp_path / "file" / "kept"):
        raise AssertionError("held")
