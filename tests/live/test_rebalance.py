"""`levibot rebalance`: what it prints, and that it sees nothing after its time."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from adapters.synthetic import SyntheticConfig
from catalog.timestamps import interval_ns, parse_time
from live.cli import app
from live.profile import load_profile
from live.runs import PREDICTIONS_FILE
from live.synthesis import make_market
from research.predictions import stamp_predictions, write_predictions
from research.settings import predictor_spec

NAMES = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE", "SOLUSDT-PERP.BINANCE")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rebalance") / "catalog"
    config = SyntheticConfig(instruments=NAMES, end="2024-01-10", news_per_day=0.0)
    make_market(folder, config)
    return folder


def rebalance(catalog: Path, held: object, *more: str, at: str = "2024-01-08") -> Result:
    book = catalog.parent / "held.json"
    book.write_text(json.dumps(held), encoding="utf-8")
    arguments = ("rebalance", "-p", "synthetic", "-c", str(catalog), "--holdings", str(book))
    fixed = ("--equity=100000", f"--at={at}", "--lookback-bars=480")
    return CliRunner().invoke(app, [*arguments, *fixed, *more])


def test_the_plan_reduces_what_is_too_large_first(catalog: Path) -> None:
    held = {NAMES[0]: 2.0, NAMES[1]: -1.0}
    done = rebalance(catalog, held)
    assert done.exit_code == 0, done.stderr
    assert "Rebalancing at 2024-01-08 00:00:00 (next 2024-01-08 02:00:00)" in done.stdout
    found = json.loads(rebalance(catalog, held, "--json").stdout)
    first = found["trades"][0]
    assert (first["instrument"], first["side"], first["reduce_only"]) == (NAMES[0], -1, True)
    assert 0.0 < first["quantity"] < 2.0
    assert found["refused"] == ""
    assert found["cost"] == pytest.approx(sum(one["cost"] for one in found["trades"]))


def test_within_the_band_nothing_is_traded(catalog: Path) -> None:
    found = json.loads(rebalance(catalog, {NAMES[0]: 0.1}, "--drift=1", "--json").stdout)
    assert found["trades"] == []


def test_what_comes_later_changes_nothing(catalog: Path, tmp_path: Path) -> None:
    shorter = tmp_path / "shorter"
    config = SyntheticConfig(instruments=NAMES, end="2024-01-09", news_per_day=0.0)
    make_market(shorter, config)
    held = {NAMES[0]: 2.0, NAMES[2]: 100.0}
    assert rebalance(shorter, held, "--json").stdout == rebalance(catalog, held, "--json").stdout


@pytest.mark.parametrize(
    ("held", "more", "told"),
    [
        ([1, 2], (), "holdings must be a JSON object of quantities by instrument"),
        ({}, (), "holdings must be finite quantities other than 0, were not for any instrument"),
        ({NAMES[0]: 0.0}, (), f"other than 0, were not for {NAMES[0]}"),
        ({"DOGEUSDT-PERP.BINANCE": 1.0}, (), "DOGEUSDT-PERP.BINANCE"),
        ({NAMES[0]: 1.0}, ("--equity=0",), "equity must be above 0 and finite, was 0.0"),
        ({NAMES[0]: 1.0}, ("--drift=2",), "drift_frac: Input should be less than or equal to 1"),
        ({NAMES[0]: 1.0}, ("--lookback-bars=4000",), "BTCUSDT-PERP.BINANCE"),
    ],
)
def test_a_book_that_cannot_be_planned_is_refused(
    catalog: Path, held: object, more: tuple[str, ...], told: str
) -> None:
    done = rebalance(catalog, held, *more)
    assert done.exit_code != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def predicted(folder: Path, probs: dict[str, float], at: str) -> Path:
    """Write a run that holds nothing but predictions at one close."""
    profile = load_profile("synthetic")
    config, data = profile.walk_forward_config(), profile.data
    spec = predictor_spec(config, data.instruments, interval_ns(data.interval))
    frame = pd.DataFrame(
        [(parse_time(at), name, prob) for name, prob in probs.items()],
        columns=["ts_init", "instrument_id", "prob_up"],
    )
    frame["volatility"] = 0.002
    folder.mkdir()
    write_predictions(folder / PREDICTIONS_FILE, stamp_predictions(frame, spec, "0" * 64))
    return folder


def test_kelly_closes_what_is_not_expected_to_pay(catalog: Path, tmp_path: Path) -> None:
    run = predicted(tmp_path / "run", {NAMES[0]: 0.6, NAMES[1]: 0.4}, "2024-01-08")
    held = {NAMES[0]: 0.1, NAMES[1]: 1.0}
    method = ("--set", "strategy.rebalance={method: kelly, drift_frac: 0.01}")
    done = rebalance(catalog, held, *method, "--predictions", str(run), "--json")
    assert done.exit_code == 0, done.stderr
    trades = {one["instrument"]: one for one in json.loads(done.stdout)["trades"]}
    assert trades[NAMES[1]]["reason"] == "close"
    assert trades[NAMES[0]]["side"] == 1
    unknown = predicted(tmp_path / "other", {NAMES[0]: 0.6}, "2024-01-08")
    done = rebalance(catalog, held, *method, "--predictions", str(unknown))
    assert f"must cover {NAMES[1]} at 2024-01-08 00:00:00, did not" in done.stderr
    done = rebalance(catalog, held, *method)
    assert "method must be risk_parity where no predictions are given" in done.stderr
