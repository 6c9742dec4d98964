"""A tuning on a small market: repeated, killed and resumed, blind for what comes after it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from adapters.synthetic import SyntheticConfig
from catalog.errors import ConfigError, DataError, RunFailedError
from catalog.timestamps import parse_time
from live.cli import app
from live.profile import load_profile
from live.study_sessions import alone
from live.synthesis import make_market
from live.trial_records import LEDGER_VARIABLE
from live.tuning_request import TuningRequest
from live.tuning_store import JOURNAL_FILE, mend_journal
from live.tuning_store import at_work as at_work_in
from research.bundle import load_bundle
from research.fold_runs import run_folds
from research.performance import DailyEquity, daily_equity
from research.trial_ledger import TrialLedger

ROOT = Path(__file__).resolve().parents[2]
BTC = "BTCUSDT-PERP.BINANCE"
TEST_START, END = "2024-02-10", "2024-02-14"
SMALL = (
    f'--set=data.instruments=["{BTC}"]',
    "--set=features.ratios=[]",
    "--set=features.peers=false",
    f"--set=data.end={END}",
    f"--set=validation.test_start={TEST_START}",
    "--set=validation.n_folds=2",
    "--set=validation.min_train_rows=200",
    "--set=experts.lightgbm.n_trees=5",
    "--set=strategy.entry_threshold=0.51",
    "--set=threads=1",
)
SPACE = """
parameters:
  experts.lightgbm.num_leaves: {low: 3, high: 31, log: true}
  label.horizon_bars: {choices: [1, 4]}
  strategy.entry_threshold: {low: 0.501, high: 0.52, step: 0.001}
  strategy.exit_threshold: {low: 0.45, high: 0.5}
"""
SPACE_END = b'"param_name":"strategy.exit_threshold"'
TRIALS = 4
HORIZON = "label.horizon_bars"


@pytest.fixture(scope="module", autouse=True)
def _quick_pictures() -> Iterator[None]:
    """Drawing takes longer than all the rest; test_tuning_report.py draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("live.tuning.tuning_pictures", lambda *_: {"history": b""})
        patch.setattr("research.tuning_report.importances", lambda *_, **__: {})
        yield


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "catalog"
    make_market(folder, SyntheticConfig(instruments=(BTC,), end=END, news_per_day=0.0))
    return folder


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(SPACE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The ledger of the module's tunings; each test that counts takes one of its own."""
    path = tmp_path_factory.mktemp("ledger") / "whole.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LEDGER_VARIABLE, str(path))
        yield path


def arguments(market: Path, space: Path, out: Path, *more: str) -> list[str]:
    """Return the words of a small tuning; what comes later replaces what comes first."""
    fixed = ["--workers=1", f"--trials={TRIALS}", "--trials-per-fit=2", "--folds=2"]
    fixed += ["--min-trades=1", "--tested-frac=0.4", "--space", str(space), *SMALL]
    return ["tune", "-p", "synthetic", "-c", str(market), "-o", str(out), *fixed, *more]


def tune(market: Path, space: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(app, arguments(market, space, out, *more))


@pytest.fixture(scope="module")
def whole(
    market: Path, space: Path, ledger: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tuning that nothing has interrupted; not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "tuning"
    done = tune(market, space, out)
    assert done.exit_code == 0, done.output
    return out


def record_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "tuning.json").read_text(encoding="utf-8"))
    return found


def told(out: Path) -> list[Any]:
    """Return what was tried and what came out, without times and numbers of trials."""
    rows = []
    for row in record_of(out)["history"]:
        facts = {
            name: one for name, one in row["facts"].items() if name not in ("seconds", "trial")
        }
        rows.append([row["params"], row["whole"], row["running"], facts])
    return rows


def ids(path: Path) -> list[str]:
    return [one.id for one in TrialLedger(path).read().trials]


def test_a_tuning_leaves_a_profile_and_everything_that_was_tried(whole: Path, ledger: Path) -> None:
    record = record_of(whole)
    assert record["counts"]["trials"] == len(record["history"]) == TRIALS
    # Every second trial trades the predictions of an earlier one.
    assert record["counts"]["fits"] == TRIALS // 2
    tuned = load_profile(str(whole / "profile.yaml"))
    own = load_profile("synthetic", [one.removeprefix("--set=") for one in SMALL])
    assert tuned.name == "synthetic-tuned"
    assert tuned.validation == own.validation
    assert tuned.data == own.data
    chosen = record["chosen"]["params"]
    assert tuned.label.horizon_bars == chosen["label.horizon_bars"]
    assert tuned.strategy.exit_threshold == chosen["strategy.exit_threshold"]
    assert tuned.content_hash() == record["provenance"]["chosen_profile"]
    page = (whole / "tuning.md").read_text(encoding="utf-8")
    assert f"to {TEST_START} 00:00:00. The latter is where the profile's own test begins" in page
    # The profile as it is and every trial, once each, on what lies before the test.
    trials = TrialLedger(ledger).read().trials
    wanted = {row["facts"]["trial"] for row in record["history"]} | {record["baseline"]["trial"]}
    assert wanted <= {one.id for one in trials}
    mine = [one for one in trials if one.id in wanted]
    assert {one.parent for one in mine} == {record["provenance"]["question"]}
    assert all(one.data.end <= tuned.validation.test_start for one in mine)


@pytest.mark.slow
def test_asked_again_it_does_nothing_and_asked_for_more_it_goes_on(
    market: Path, space: Path, whole: Path, ledger: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuning"
    shutil.copytree(whole, out)
    before = ids(ledger)
    assert tune(market, space, out).exit_code == 0
    assert told(out) == told(whole)
    assert ids(ledger) == before
    assert tune(market, space, out, "--trials=7").exit_code == 0
    assert told(out)[:TRIALS] == told(whole)
    assert record_of(out)["counts"]["trials"] == 7


def at_work(out: Path) -> tuple[int, bool]:
    """Return how many trials of a journal have ended, and whether one more has drawn its values."""
    path = out / JOURNAL_FILE
    lines = path.read_bytes().splitlines() if path.exists() else []
    ended = sum(b'"op_code":6' in line for line in lines)
    drawn = {json.loads(line)["trial_id"] for line in lines if SPACE_END in line}
    return ended, len(drawn) > ended


def start(words: list[str], ledger: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, LEDGER_VARIABLE: str(ledger), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "live.cli", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_after(process: subprocess.Popen[bytes], out: Path, trials: int) -> bool:
    """Kill a tuning in the middle of a trial, after so many have ended; return whether it was."""
    deadline = time.monotonic() + 200
    while at_work(out) < (trials, True):
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return at_work(out)[1]


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_one_that_was_never_interrupted(
    market: Path, space: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, own = tmp_path / "tuning", tmp_path / "own.jsonl"
    monkeypatch.setenv(LEDGER_VARIABLE, str(own))
    words = arguments(market, space, out)
    # While it fits, which takes longer than a replay; the one that is killed counts as ended.
    amid = [kill_after(start(words, own), out, trials) for trials in (2, 5)]
    assert any(amid)
    assert tune(market, space, out).exit_code == 0
    assert told(out) == told(whole)
    assert record_of(out)["choice"]["scores"].values()
    assert len(ids(own)) == len(set(ids(own)))
    trials = {row["facts"]["trial"] for row in record_of(out)["history"]}
    assert set(ids(own)) == trials | {record_of(out)["baseline"]["trial"]}


@pytest.mark.slow
def test_workers_end_with_their_leader_and_nothing_counts_twice(
    market: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, own = tmp_path / "tuning", tmp_path / "own.jsonl"
    monkeypatch.setenv(LEDGER_VARIABLE, str(own))
    kill_after(start(arguments(market, space, out, "--workers=2"), own), out, 2)
    assert tune(market, space, out, "--workers=2").exit_code == 0
    record = record_of(out)
    assert record["counts"]["trials"] == TRIALS
    trials = {row["facts"]["trial"] for row in record["history"]}
    assert set(ids(own)) == trials | {record["baseline"]["trial"]}


def test_a_torn_end_of_the_journal_is_cut_off(whole: Path, tmp_path: Path) -> None:
    journal = tmp_path / JOURNAL_FILE
    content = (whole / JOURNAL_FILE).read_bytes()
    for torn in (b'{"op_code":4,"wor', b"\0\0\0\n", b"\0" * 9):
        journal.write_bytes(content + torn)
        assert mend_journal(tmp_path) == len(torn)
        assert journal.read_bytes() == content
    assert mend_journal(tmp_path) == 0
    assert mend_journal(tmp_path / "nowhere") == 0


@pytest.mark.slow
def test_what_comes_after_the_test_start_changes_nothing(
    space: Path, whole: Path, ledger: Path, tmp_path: Path
) -> None:
    """A market that ends where the test begins: there is nothing else to be seen."""
    market = tmp_path / "catalog"
    make_market(market, SyntheticConfig(instruments=(BTC,), end=TEST_START, news_per_day=0.0))
    before = ids(ledger)
    assert tune(market, space, tmp_path / "tuning", "--trials=2").exit_code == 0
    assert told(tmp_path / "tuning") == told(whole)[:2]
    # The same questions of the same data: nothing was tried that was not tried before.
    assert ids(ledger) == before


@pytest.mark.slow
def test_skill_is_tuned_without_a_replay(
    market: Path, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("there is nothing to replay")

    monkeypatch.setattr("strategies.backtest.run_backtest", never)
    path = tmp_path / "space.yaml"
    path.write_text(SPACE.replace("[1, 4]", "[1, 5000]"), encoding="utf-8")
    out = tmp_path / "tuning"
    found = tune(market, path, out, "--objective=skill", "--trials=4")
    assert found.exit_code == 0, found.output
    record = record_of(out)
    assert set(record["space"]) == {"experts.lightgbm.num_leaves", "label.horizon_bars"}
    # A horizon that no fold has room for is a trial that could not be, and no reason to stop.
    assert record["counts"]["refused"] > 0
    assert record["counts"]["trials"] == 4
    assert {row["params"]["label.horizon_bars"] for row in record["history"]} == {1}
    sharpe = [one.results.sharpe for one in TrialLedger(ledger).read().trials]
    assert None in sharpe


def test_a_bundle_by_one_command_has_not_seen_the_test(
    market: Path, space: Path, whole: Path, ledger: Path, tmp_path: Path
) -> None:
    out, bundle = tmp_path / "tuning", tmp_path / "bundle"
    shutil.copytree(whole, out)
    found = tune(market, space, out, "--bundle", str(bundle), "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["bundle"] == str(bundle)
    model = load_bundle(bundle).model
    assert model.config.label.horizon_bars == record_of(out)["chosen"]["params"][HORIZON]
    assert model.train_end <= parse_time(TEST_START)
    again = tune(market, space, out, "--bundle", str(bundle))
    assert again.exit_code == 2
    assert "--bundle must be a new folder" in again.output


def test_other_folders_and_other_questions_are_refused(
    market: Path, space: Path, whole: Path, ledger: Path, tmp_path: Path
) -> None:
    other = tune(market, space, whole, "--set=seed=8")
    assert other.exit_code == 2
    assert "holds trials of another" in " ".join(other.output.split())
    (tmp_path / "strange.txt").write_text("", encoding="utf-8")
    strange = tune(market, space, tmp_path)
    assert strange.exit_code == 2
    assert "holds strange.txt" in " ".join(strange.output.split())
    with alone(whole), pytest.raises(ConfigError, match="works in now"), alone(whole):
        pass


def test_a_profile_that_cannot_be_judged_before_its_test_is_told(
    market: Path, space: Path, ledger: Path, tmp_path: Path
) -> None:
    found = tune(market, space, tmp_path / "tuning", "--set=validation.min_train_rows=9999")
    assert found.exit_code == 2, found.exception
    text = " ".join(found.output.split())
    assert "must be one that can be judged before its own test begins" in text
    assert "at least 9999 training rows" in text


@pytest.mark.slow
def test_a_configuration_that_ruins_the_account_counts_as_a_trial(
    market: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, marked = tmp_path / "own.jsonl", []
    monkeypatch.setenv(LEDGER_VARIABLE, str(own))

    def ruined(equity: Any, **span: Any) -> DailyEquity:
        marked.append(span)
        daily = daily_equity(equity, **span)
        lost = np.where(np.arange(len(daily.ts)) > 0, 0.0, daily.equity)
        return daily if len(marked) <= 2 else DailyEquity(daily.ts, lost)  # the profile itself

    monkeypatch.setattr("live.tuning_trial.daily_equity", ruined)
    found = tune(market, space, tmp_path / "tuning", "--trials=2")
    assert found.exit_code == RunFailedError.exit_code, found.exception
    results = [one.results for one in TrialLedger(own).read().trials]
    assert len(results) == 3
    assert [one.sharpe for one in results[1:]] == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("cause", [None, OSError("no room")])
def test_a_fit_that_cannot_be_is_a_trial_and_a_full_disk_an_end(
    market: Path,
    space: Path,
    ledger: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cause: Exception | None,
) -> None:
    fits: list[Any] = []

    def failing(*arguments: Any, **options: Any) -> Any:
        fits.append(arguments)
        if len(fits) == 4:  # after the profile's own two folds and the first of a trial
            raise DataError("calibration must have at least 50 rows") from cause
        return run_folds(*arguments, **options)

    monkeypatch.setattr("live.tuning_trial.run_folds", failing)
    found = tune(market, space, tmp_path / "tuning", "--trials=2")
    if cause is not None:
        assert found.exit_code == DataError.exit_code
        return
    assert found.exit_code == 0, found.output
    counts = record_of(tmp_path / "tuning")["counts"]
    assert (counts["trials"], counts["refused"]) == (2, 1)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite:////nowhere/at/all/trials.db", "unable to open database file"),
        ("nobody://knows:secret@127.0.0.1/this", "Can't load plugin"),
        ("postgresql+none://me:secret@127.0.0.1:1/name", "a postgresql+none one, is not"),
    ],
)
def test_a_database_that_cannot_be_reached_is_told_without_its_password(
    market: Path, space: Path, ledger: Path, tmp_path: Path, url: str, why: str
) -> None:
    found = tune(market, space, tmp_path / "tuning", f"--storage={url}")
    assert found.exit_code == DataError.exit_code, found.exception
    text = " ".join(found.output.split())
    assert "--storage must be a database that can be reached" in text
    assert why in text
    assert "secret" not in text


def test_on_a_cluster_all_its_workers_are_taken_each_with_a_core(
    market: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TuningRequest] = []

    def stopped(request: TuningRequest, **_: Any) -> None:
        asked.append(request)
        raise DataError("seen enough")

    monkeypatch.setattr("live.tuning.run_tuning", stopped)
    monkeypatch.setenv(LEDGER_VARIABLE, "own.jsonl")
    monkeypatch.chdir(tmp_path)
    words = [one for one in arguments(market, space, tmp_path) if one != "--workers=1"]
    CliRunner().invoke(app, [*words, "--cluster=auto"])
    CliRunner().invoke(app, [*words, "--set=threads=4", "--workers=1"])
    assert [one.options.workers for one in asked] == [None, 1]
    assert [one.threads for one in asked] == [1, 4]
    # What a worker elsewhere cannot know from its environment travels with the request.
    assert [one.ledger for one in asked] == [tmp_path / "own.jsonl"] * 2
    wrong = CliRunner().invoke(app, [*words, "--cluster=nearby"])
    assert wrong.exit_code == 2
    assert len(asked) == 2


def test_a_worker_makes_the_folder_where_it_is_not_yet(tmp_path: Path) -> None:
    out = tmp_path / "not" / "yet"
    with at_work_in(out, os.getpid()):
        assert out.is_dir()


@pytest.mark.slow
def test_two_folders_share_the_trials_of_a_database(
    market: Path, space: Path, whole: Path, ledger: Path, tmp_path: Path
) -> None:
    storage = f"--storage=sqlite:///{tmp_path / 'trials.db'}"
    assert tune(market, space, tmp_path / "one", storage, "--trials=3").exit_code == 0
    assert tune(market, space, tmp_path / "two", storage).exit_code == 0
    assert told(tmp_path / "two") == told(whole)
    assert not (tmp_path / "two" / JOURNAL_FILE).exists()
