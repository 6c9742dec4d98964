"""A validation of a small run: what it says, what it records, what it keeps."""

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
from catalog.errors import DataError
from live import null_runs
from live.cli import app
from live.null_runs import (
    STATISTICS,
    NullRequest,
    NullTestConfig,
    null_market,
    reduced_profile,
    run_reduced,
)
from live.pipeline import load_market
from live.profile import load_profile
from live.replay_jobs import Replayed, market_of
from live.synthesis import make_market
from live.trial_records import LEDGER_VARIABLE
from live.variants import OWN
from research.null_test import NullConfig, p_value
from research.settings import predictor_spec
from research.trial_ledger import TrialLedger
from tests.live.quick_page import quick_page

BTC = "BTCUSDT-PERP.BINANCE"
END = "2024-02-04"
KEYS = (
    f'data.instruments=["{BTC}"]',
    "features.ratios=[]",
    "features.peers=false",
    f"data.end={END}",
    "validation.test_start=2024-01-24",
    "validation.n_folds=2",
    "validation.min_train_rows=300",
    "holdout_frac=0.3",
    "experts.lightgbm.n_trees=10",
    "experts.lightgbm.min_rows_in_leaf=20",
    "strategy.entry_threshold=0.54",
    "strategy.stop_loss_frac=null",
    "fusion.side_threshold=0.54",  # lower entries are left out: five variants
    "bootstrap.samples=10",
    "threads=1",
)

SMALL = tuple(f"--set={key}" for key in KEYS)
SCALE = ("--groups=3", "--test-groups=2", "--null-runs=2", "--workers=1")


@pytest.fixture(scope="module", autouse=True)
def _quick_page() -> Iterator[None]:
    with quick_page():
        yield


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation") / "catalog"
    make_market(folder, SyntheticConfig(instruments=(BTC,), end=END, news_per_day=0.0))
    return folder


@pytest.fixture(scope="module")
def run(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("validation") / "run"
    found = CliRunner().invoke(
        app, ["walkforward", "-p", "synthetic", "-c", str(market), "-o", str(out), *SMALL]
    )
    assert found.exit_code == 0, found.output
    return out


def validate(market: Path, run: Path | None, out: Path, *more: str) -> Result:
    fixed = ["validate", "-p", "synthetic", "-c", str(market), "-o", str(out)]
    judged = [] if run is None else ["--run", str(run)]
    return CliRunner().invoke(app, [*fixed, *judged, *SMALL, *SCALE, *more])


@pytest.fixture(scope="module")
def validated(market: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A validation; not to be changed."""
    out = tmp_path_factory.mktemp("validation") / "validated"
    found = validate(market, run, out)
    assert found.exit_code == 0, found.output
    return out


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "validation.json").read_text())
    return found


def test_the_report_holds_every_part(validated: Path, run: Path) -> None:
    found = record(validated)
    assert len(found["cpcv"]["splits"]) == 3
    assert len(found["cpcv"]["paths"]) == 2
    assert found["variants"]["rows"][0]["name"] == OWN
    assert found["variants"]["tables"]["pbo"]["trials"] == len(found["variants"]["rows"])
    assert set(found["forecasts"]) == {"base rate", "logistic regression"}
    assert set(found["null"]["p_values"]) == set(STATISTICS)
    assert found["synthetic"] is True
    assert found["seconds"]["total"] > 0.0
    assert found["peak_memory_mb"]["worker"] > 0.0
    page = (validated / "validation.md").read_text()
    assert "SYNTHETIC DATA" in page
    assert "blocks of 1 bar(s)" in page
    for kind in ("paths", "overfitting", "null"):
        assert f"(validation-{kind}.png)" in page
        assert (validated / f"validation-{kind}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(validated.with_name("validated.kept").glob("paths/*"))


def test_the_profiles_own_variant_is_the_run(validated: Path, run: Path) -> None:
    trading = json.loads((run / "metrics.json").read_text())["trading"]
    own = record(validated)["variants"]["rows"][0]
    assert own["net_return"] == pytest.approx(trading["net_return"]["value"], rel=1e-12)
    assert own["net_sharpe"] == pytest.approx(trading["net_sharpe"]["value"], rel=1e-12)
    assert own["trades"] == trading["trades"]["value"] > 0


def test_p_values_are_those_of_the_runs(validated: Path) -> None:
    null = record(validated)["null"]
    for name in STATISTICS:
        assert null["p_values"][name] == p_value(null["observed"][name], null["null"][name])
        assert len(null["null"][name]) == 2


def test_variants_and_the_reduced_run_are_trials_and_null_runs_are_not(
    validated: Path, market: Path, run: Path
) -> None:
    trials = TrialLedger(market / "trials.jsonl").read().trials
    names = [one.label for one in trials]
    assert len(names) == 7
    variants = [row["name"] for row in record(validated)["variants"]["rows"]]
    assert names == ["", *variants, "reduced for the null test"]
    # The profile's own variant is the run over again: it drew no luck of its own.
    found = record(validated)["trials"]
    assert record(validated)["trials_before"]["count"] == 1
    outcomes = {one.results.outcome or one.id for one in trials}
    assert found["count"] == len(outcomes)


def test_what_is_kept_is_not_made_again(
    validated: Path, market: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEDGER_VARIABLE, str(tmp_path / "trials.jsonl"))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("this is kept")

    monkeypatch.setattr("live.validation.validation_pictures", lambda _: {})  # slow to draw
    monkeypatch.setattr("strategies.backtest.run_backtest", never)
    monkeypatch.setattr("research.cpcv.run_folds", never)
    monkeypatch.setattr(null_runs, "predict_forward", never)
    keep = validated.with_name("validated.kept")
    found = validate(market, run, tmp_path / "again", f"--keep={keep}")
    assert found.exit_code == 0, found.output
    first, again = record(validated), record(tmp_path / "again")
    for one in (first, again):
        del one["cpcv"]["seconds"]
    for name in ("cpcv", "variants", "forecasts", "null"):
        assert again[name] == first[name]


@pytest.mark.slow
def test_without_a_run_it_makes_the_profiles_own(
    validated: Path, market: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEDGER_VARIABLE, str(tmp_path / "trials.jsonl"))
    monkeypatch.setattr("live.validation.validation_pictures", lambda _: {})  # slow to draw
    keep = tmp_path / "kept"
    shutil.copytree(validated.with_name("validated.kept"), keep)
    out = tmp_path / "luck"
    found = validate(market, None, out, f"--keep={keep}", "--null-runs=0")
    assert found.exit_code == 0, found.output
    made, own = (json.loads((one / "run.json").read_text()) for one in (tmp_path / "luck.run", run))
    assert made["files"]["predictions.parquet"] == own["files"]["predictions.parquet"]
    assert record(out)["predictions"] == record(validated)["predictions"]
    assert record(out)["seconds"]["walk-forward"] > 0.0
    # What lies there is made anew from its folds, unless it is no run.
    (tmp_path / "luck.run" / "run.json").unlink()
    refused = validate(market, None, out, f"--keep={keep}", "--null-runs=0", "--overwrite")
    assert refused.exit_code == 2
    assert "is not one (it has no run.json)" in refused.output


def test_other_predictions_and_ranges_are_refused(market: Path, run: Path, tmp_path: Path) -> None:
    other = validate(market, run, tmp_path / "out", "--set=label.horizon_bars=2")
    assert other.exit_code == 4
    assert "label" in other.output
    wrong = validate(market, run, tmp_path / "out", "--null-runs=-1")
    assert wrong.exit_code == 2
    assert "null.runs" in wrong.output
    assert not (tmp_path / "out").exists()


# -- the reduced pipeline ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["perps-15m", "perps-swing", "synthetic"])
def test_a_reduced_profile_keeps_what_is_judged(name: str) -> None:
    full = load_profile(name)
    small = reduced_profile(full)
    for part in ("features", "label", "strategy", "execution", "seed"):
        assert getattr(small, part) == getattr(full, part)
    assert list(small.experts.chosen()) == ["lightgbm"]
    assert small.data.end == full.data.end
    assert full.data.start <= small.data.start < small.validation.test_start < small.data.end


def test_null_markets_differ_by_seed_and_can_be_traded(market: Path) -> None:
    profile = load_profile("synthetic", KEYS)
    real = load_market(profile, market)
    one, other = (null_market(real, config) for config in NullTestConfig(runs=2).markets())
    closes = [each.panel.bars[0].close for each in (real, one, other)]
    assert not np.array_equal(closes[1], closes[2])
    for close in closes[1:]:
        np.testing.assert_allclose(np.diff(close).std(), np.diff(closes[0]).std(), rtol=0.1)
    one.replay_inputs(profile.validation.test_start, profile.data.end, None)  # exact on the grid


def test_a_replay_reads_the_data_that_it_is_asked_of(market: Path, tmp_path: Path) -> None:
    """A process that stays, such as a notebook's, sees the catalog change under it."""
    profile, catalog = load_profile("synthetic", KEYS), tmp_path / "catalog"
    config = profile.walk_forward_config()
    shutil.copytree(market, catalog)

    def asked(data_hash: str) -> Replayed:
        spec = predictor_spec(config, (BTC,), 1)
        return Replayed(profile, catalog, tmp_path / "x", "digest", spec, data_hash, 0, 1)

    before = load_market(profile, catalog).panel.data_hash
    assert market_of(asked(before)).panel.data_hash == before
    shutil.rmtree(catalog)
    other = SyntheticConfig(instruments=(BTC,), end=END, news_per_day=0.0, seed=8)
    make_market(catalog, other)
    after = load_market(profile, catalog).panel.data_hash
    assert market_of(asked(after)).panel.data_hash == after
    with pytest.raises(DataError, match="it was changed since"):
        market_of(asked(before))


@pytest.mark.slow
def test_a_planted_edge_stands_out_from_null_markets(tmp_path: Path) -> None:
    profile = load_profile("synthetic", [*KEYS, "data.end=2024-04-01"])
    make_market(
        tmp_path, SyntheticConfig(instruments=(BTC,), end="2024-04-01", news_per_day=0.0, edge=2.0)
    )
    small = reduced_profile(profile)
    skills = [
        run_reduced(NullRequest(small, tmp_path, null))["log_loss_skill"]
        for null in (None, *(NullConfig(seed=seed) for seed in range(5)))
    ]
    assert skills[0] > 5.0 * max(map(abs, skills[1:]))


@pytest.mark.slow
def test_a_killed_validation_goes_on_and_says_the_same(
    validated: Path, market: Path, run: Path, tmp_path: Path
) -> None:
    out, keep = tmp_path / "out", tmp_path / "out.kept"
    fixed = ["validate", "-p", "synthetic", "-c", str(market), "--run", str(run), "-o", str(out)]
    command = [sys.executable, "-m", "live.cli", *fixed, *SMALL, *SCALE, "--workers=2"]
    environment = {**os.environ, LEDGER_VARIABLE: str(tmp_path / "trials.jsonl")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if len(list(keep.glob("jobs/*.json"))) >= 3 or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in keep.glob("jobs/*.json")}
    assert len(kept) >= 3
    assert not (tmp_path / "trials.jsonl").exists()  # nobody saw a result
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    first, again = record(validated), record(out)
    assert again["variants"]["tables"] == first["variants"]["tables"]
    assert again["null"]["p_values"] == first["null"]["p_values"]
    assert again["null"]["null"] == first["null"]["null"]
    names = ("returns", "trades", "net_sharpe")
    for one, other in zip(again["cpcv"]["paths"], first["cpcv"]["paths"], strict=True):
        assert [one[name] for name in names] == [other[name] for name in names]
    recorded = TrialLedger(tmp_path / "trials.jsonl").read().trials
    assert len(recorded) == len({one.id for one in recorded}) == len(again["variants"]["rows"]) + 1
