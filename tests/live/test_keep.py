"""A walk-forward that keeps its folds, from the command line; and what a run's end says of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from adapters.synthetic import SyntheticConfig
from catalog.errors import ConfigError, DataError
from live.cli import app
from live.report import RunSummary
from live.runs import PREDICTIONS_FILE, code_version
from live.synthesis import make_market
from live.trial_records import LEDGER_VARIABLE
from research import fold_runs
from research.fold_store import held_alone
from research.trial_ledger import TrialLedger
from tests.live.quick_page import quick_page

ROOT = Path(__file__).resolve().parents[2]
BTC = "BTCUSDT-PERP.BINANCE"
END = "2024-02-04"


@pytest.fixture(scope="module", autouse=True)
def _quick_page() -> Iterator[None]:
    with quick_page():
        yield


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keep") / "catalog"
    make_market(folder, SyntheticConfig(instruments=(BTC,), end=END, news_per_day=0.0))
    return folder


def arguments(catalog: Path, out: Path, *more: str) -> list[str]:
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
    return [*fixed, *words, *more]


def walkforward(catalog: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(app, arguments(catalog, out, *more))


@pytest.mark.slow
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


DIES_ONCE = """
import os, signal, sys
from pathlib import Path
from live import trial_records
from live.cli import app
from research.fold_store import FoldStore
from research.trial_ledger import TrialLedger

# Whoever works on the sources meanwhile would make it another trial.
trial_records.code_version = lambda: sys.argv[2]
kind, mark = {"fold": (FoldStore, "save"), "ledger": (TrialLedger, "append")}[sys.argv[1]]
honest = getattr(kind, mark)

def deadly(self, *arguments):
    found = honest(self, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(kind, mark, deadly)
app(sys.argv[3:])
"""
"""A command that is killed right after its first fold is kept, or its trial is recorded."""


@pytest.mark.slow
@pytest.mark.parametrize(("where", "kept", "recorded"), [("fold", 1, 0), ("ledger", 3, 1)])
def test_a_killed_run_goes_on_and_counts_once(
    catalog: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    kept: int,
    recorded: int,
) -> None:
    own = tmp_path / "own.jsonl"
    monkeypatch.setenv(LEDGER_VARIABLE, str(own))
    words = arguments(catalog, tmp_path / "run", f"--keep={tmp_path / 'kept'}")
    killed = subprocess.run(
        [sys.executable, "-c", DIES_ONCE, where, code_version(), *words],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    folds = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("fold-*.parquet")}
    assert len(folds) == kept
    assert not (tmp_path / "run").exists()
    assert len(TrialLedger(own).read().trials) == recorded
    assert walkforward(catalog, tmp_path / "run", words[-1]).exit_code == 0
    assert all(path.stat().st_mtime_ns == then for path, then in folds.items())
    assert len(TrialLedger(own).read().trials) == 1
    assert not list(tmp_path.glob(".run.*"))  # what the killed one had begun is gone
    monkeypatch.setenv(LEDGER_VARIABLE, str(tmp_path / "other.jsonl"))
    assert walkforward(catalog, tmp_path / "whole").exit_code == 0
    ours, theirs = (tmp_path / name / PREDICTIONS_FILE for name in ("run", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


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
    assert "no folder that another command is using" in text
    assert f"by process {os.getpid()}" in text
    assert not (tmp_path / "run").exists()
    # It ends with whoever held it.
    with held_alone(kept):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="must be a folder"), held_alone(tmp_path / "file" / "kept"):
        raise AssertionError("held")
