"""Commands and the ledger: each result is recorded once, before anybody sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from adapters.synthetic import SyntheticConfig
from catalog.errors import ConfigError, DataError, IntegrityError
from live import runs
from live.cli import app
from live.runs import METRICS_FILE
from live.sizing_comparison import METHODS
from live.synthesis import make_market
from live.trial_records import LEDGER_FILE, LEDGER_VARIABLE, verdict_line
from research.overfitting import probabilistic_sharpe
from research.trial_ledger import TrialLedger
from tests.live.quick_page import quick_page

BTC = "BTCUSDT-PERP.BINANCE"
END = "2024-02-04"
SMALL = (
    f'--set=data.instruments=["{BTC}"]',
    "--set=features.ratios=[]",
    "--set=features.peers=false",
    f"--set=data.end={END}",
    "--set=validation.test_start=2024-01-24",
    "--set=validation.n_folds=2",
    "--set=experts.lightgbm.n_trees=20",
    "--set=strategy.entry_threshold=0.52",
    "--set=bootstrap.samples=10",
    "--set=threads=1",
)


@pytest.fixture(scope="module", autouse=True)
def _quick_page() -> Iterator[None]:
    """Drawing takes longer than all the rest; test_tearsheet.py draws."""

    def pictures(_: object) -> dict[str, bytes]:
        return dict.fromkeys(("reliability", "folds", "weights"), b"")

    with quick_page() as patch:
        patch.setattr("live.study.study_pictures", pictures)
        yield


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trials") / "catalog"
    make_market(folder, SyntheticConfig(instruments=(BTC,), end=END, news_per_day=0.0))
    return folder


@pytest.fixture(scope="module")
def run(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A walk-forward, and the ledger beside its data; not to be changed."""
    out = tmp_path_factory.mktemp("trials") / "run"
    found = CliRunner().invoke(
        app, ["walkforward", "-p", "synthetic", "-c", str(market), "-o", str(out), *SMALL]
    )
    assert found.exit_code == 0, found.output
    return out


@pytest.fixture
def ledger(run: Path, market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialLedger:
    """A copy of the ledger with the walk-forward, which commands then write to."""
    path = tmp_path / "moved.jsonl"
    path.write_bytes((market / LEDGER_FILE).read_bytes())
    monkeypatch.setenv(LEDGER_VARIABLE, str(path))
    return TrialLedger(path)


def command(name: str, market: Path, run: Path, out: Path, *more: str) -> Result:
    fixed = [name, "-p", "synthetic", "-c", str(market), "-o", str(out), *SMALL]
    return CliRunner().invoke(app, [*fixed, f"--predictions={run}", *more])


def metrics(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / METRICS_FILE).read_text())
    return found


def test_a_walk_forward_records_itself_with_its_headline(run: Path, market: Path) -> None:
    (one,) = TrialLedger(market / LEDGER_FILE).read().trials
    found = metrics(run)
    assert one.command == {"name": "walkforward"}
    assert one.profile == "synthetic"
    assert one.config_hash == found["provenance"]["config_hash"]
    assert one.data.hash == found["provenance"]["data_hash"]
    assert one.code == found["provenance"]["version"]
    assert one.seed == found["provenance"]["seed"]
    assert one.data.synthetic
    assert one.data.start == found["folds"][0]["test_start"]
    assert one.data.end == found["folds"][-1]["test_end"]
    results, trading = one.results, found["trading"]
    assert results.sharpe_annual == pytest.approx(trading["net_sharpe"]["value"], abs=1e-12)
    assert results.net_return == trading["net_return"]["value"]
    assert results.log_loss_skill == found["prediction"]["log_loss_skill"]["value"]
    assert results.days == 11
    shown = found["trials"]
    assert (shown["count"], shown["sharpe_count"], shown["spread"]) == (1, 1, None)
    assert shown["dsr"] == pytest.approx(probabilistic_sharpe(results.moments), abs=1e-12)


@pytest.mark.slow
def test_a_backtest_is_a_trial_of_its_own_and_a_repeated_one_is_not(
    run: Path, market: Path, ledger: TrialLedger, tmp_path: Path
) -> None:
    beside = (market / LEDGER_FILE).read_bytes()
    other = "--set=strategy.entry_threshold=0.53"
    for name in ("first", "second"):
        done = command("backtest", market, run, tmp_path / name, other)
        assert done.exit_code == 0, done.output
        assert "2 trials on these data" in done.output
    walked, replayed = ledger.read().trials
    assert replayed.command["name"] == "backtest"
    assert replayed.config["strategy"]["entry_threshold"] == 0.53
    found = metrics(tmp_path / "second")["trials"]
    ratios = [walked.results.sharpe, replayed.results.sharpe]
    assert found["count"] == found["sharpe_count"] == 2
    assert found["best"] == max(one for one in ratios if one is not None)
    # The same trades asked for by another command are no new luck, though a line of their own.
    assert command("backtest", market, run, tmp_path / "same").exit_code == 0
    assert len(ledger.read().trials) == 3
    assert metrics(tmp_path / "same")["trials"]["count"] == 2
    # The one beside the data was not touched: the environment says where.
    assert (market / LEDGER_FILE).read_bytes() == beside


@pytest.mark.slow
def test_a_result_that_cannot_be_recorded_is_not_shown(
    run: Path,
    market: Path,
    ledger: TrialLedger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before, out = ledger.path.read_bytes(), tmp_path / "out"
    other = "--set=strategy.entry_threshold=0.53"
    with monkeypatch.context() as patch:
        patch.setattr("research.trial_ledger._append_whole", full)
        done = command("backtest", market, run, out, other)
    assert done.exit_code == DataError.exit_code
    assert "No space left" in done.stderr
    assert not list(tmp_path.glob("*out*"))
    assert ledger.path.read_bytes() == before
    # Killed between the ledger and the folder: the trial counts, and counts once.
    with monkeypatch.context() as patch:
        patch.setattr(runs, "_replace", full)
        assert command("backtest", market, run, out, other).exit_code != 0
    assert not out.exists()
    assert len(ledger.read().trials) == 2
    assert command("backtest", market, run, out, other).exit_code == 0
    assert len(ledger.read().trials) == 2
    assert metrics(out)["trials"]["count"] == 2


@pytest.mark.parametrize("name", ["walkforward", "backtest", "sizing", "study", "evaluate"])
def test_a_ledger_that_was_changed_stops_a_command_before_its_work(
    name: str, market: Path, ledger: TrialLedger, tmp_path: Path
) -> None:
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b'"seed":7', b'"seed":8'))
    words = [name, "-c", str(market), "-o", str(tmp_path / "out")]
    if name == "evaluate":
        words += ["bundle", "--from=2024-01-24", f"--to={END}"]
    else:
        words += ["-p", "synthetic", *SMALL]
    if name in ("backtest", "sizing"):
        words += ["--predictions", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == IntegrityError.exit_code, done.output
    assert "line 1 of the ledger of trials" in done.stderr
    assert not (tmp_path / "out" / METRICS_FILE).exists()


def trials(market: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["trials", "-c", str(market), *more])


def test_the_list_shows_trials_and_how_often_the_data_were_asked(
    run: Path, market: Path, ledger: TrialLedger, tmp_path: Path
) -> None:
    done = trials(market, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (group,) = found["groups"]
    assert group["instruments"] == [BTC]
    assert (group["count"], group["sharpe_count"]) == (1, 1)
    assert group["best_trial"]["dsr"] == metrics(run)["trials"]["dsr"]
    assert found["trials"][0]["config"]["name"] == "synthetic"
    shown = trials(market, "--profile=synthetic", "--from=2024-01-30", "--to=2024-02-01").output
    assert "walkforward" in shown
    assert ledger.read().trials[0].id[:12] in shown
    for nothing in (["--profile=other"], ["--from=2024-02-04"], ["--to=2024-01-24"]):
        assert "no such trial" in trials(market, *nothing).output
    wrong = trials(market, "--from=2024-02-01", "--to=2024-01-01")
    assert wrong.exit_code == ConfigError.exit_code
    assert trials(tmp_path / "absent").exit_code == DataError.exit_code
    with ledger.path.open("ab") as file:
        file.write(b'{"sha256":"ab')
    assert "13 bytes of an unfinished line" in trials(market).output


def test_the_line_for_people_says_what_the_number_rests_on() -> None:
    shown = {"count": 1, "dsr": None, "spread_measured": True, "spread_used_annual": None}
    assert verdict_line(shown) == "1 trial on these data; no Sharpe ratio to deflate"
    assert "against 0: 0.912" in verdict_line({**shown, "dsr": 0.9123})
    many = {"count": 9, "dsr": 0.5, "threshold_annual": 1.25, "spread_used_annual": 0.8}
    told = verdict_line({**many, "spread_measured": False})
    assert "9 trials on these data, Sharpe ratios spread by 0.80 a year (that of luck" in told
    assert "luck alone would have found 1.25" in told
    assert "too few" not in verdict_line({**many, "spread_measured": True})


@pytest.mark.slow
def test_each_way_of_sizing_is_a_trial(
    run: Path, market: Path, ledger: TrialLedger, tmp_path: Path
) -> None:
    settings = ["--set=strategy.stop_loss_frac=0.02"]
    for name in ("first", "second"):
        done = command("sizing", market, run, tmp_path / name, *settings)
        assert done.exit_code == 0, done.output
    own = ledger.read().trials[1:]
    assert len(own) == 2 * len(METHODS)
    assert {one.label for one in own} >= {"fixed", "fixed + guard"}
    assert len({one.parent for one in own}) == 1
    found = json.loads((tmp_path / "second" / "sizing.json").read_text())
    for row, one in zip(found["rows"], own, strict=True):
        measured = row["measures"]["net_sharpe"]["value"]
        assert one.label == row["name"]
        if measured is not None:
            assert one.results.sharpe_annual == pytest.approx(measured, abs=1e-9)
    assert found["trials"]["count"] <= 1 + 2 * len(METHODS)
    assert "The best row: " in (tmp_path / "second" / "sizing.md").read_text()


@pytest.mark.slow
def test_each_walk_forward_of_a_study_is_a_trial_and_a_resumed_one_adds_none(
    market: Path, ledger: TrialLedger, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    words = ["study", "-p", "synthetic", "-c", str(market), "-o", str(out), *SMALL]
    words += ["--horizons=1,4", "--ablations=funding"]
    assert CliRunner().invoke(app, words).exit_code == 0
    record = json.loads((out / "study.json").read_text())
    found = {one.label: one for one in ledger.read().trials[1:]}
    assert set(found) == {one["name"] for one in record["provenance"]["variants"]}
    assert len({one.parent for one in found.values()}) == 1
    for one in found.values():
        assert one.results.sharpe is None
        assert one.results.log_loss_skill is not None
        assert one.data.start == ledger.read().trials[0].data.start
    content = ledger.path.read_bytes()
    assert CliRunner().invoke(app, words).exit_code == 0
    assert ledger.path.read_bytes() == content
    # A report of what is there records nothing, not even in an empty ledger.
    ledger.path.unlink()
    assert CliRunner().invoke(app, [*words, "--report-only"]).exit_code == 0
    assert not ledger.path.exists()
    assert CliRunner().invoke(app, words).exit_code == 0
    assert len(ledger.read().trials) == len(found)
