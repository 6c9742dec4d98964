"""The command line as a user meets it: a real process, its exit codes and what it prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from live.cli import app

ROOT = Path(__file__).resolve().parents[2]


def levibot(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "live.cli", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "100"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=250
    )


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog with a small synthetic market, made by the command itself."""
    catalog = tmp_path_factory.mktemp("cli") / "catalog"
    done = levibot("data", "synth", "--catalog", catalog, "--days", "80", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["synthetic"] is True
    return catalog


SMALL = (
    "--set=data.end=2024-03-20",
    "--set=validation.test_start=2024-02-20",
    "--set=validation.n_folds=2",
    "--set=experts.lightgbm.n_trees=20",
    "--set=bootstrap.samples=50",
    "--set=strategy.entry_threshold=0.55",
)


@pytest.fixture(scope="module")
def run(market: Path) -> Path:
    """A walk-forward over it."""
    out = market.parent / "run"
    done = levibot("walkforward", "-p", "synthetic", *SMALL, "-c", market, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(out)
    return out


def test_help_lists_every_command() -> None:
    text = levibot("--help").stdout
    for command in ("demo", "walkforward", "backtest", "train", "evaluate", "data", "audit"):
        assert command in text


def test_metrics_json_keeps_its_keys(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    wanted = {
        "prediction": [
            "n",
            "auc",
            "accuracy",
            "accuracy_at_10pct",
            "log_loss_skill",
            "brier",
            "ece",
            "accuracy_at_1pct",
        ],
        "trading": [
            "net_return",
            "net_sharpe",
            "max_drawdown",
            "trades",
            "fees",
            "slippage",
            "funding",
        ],
    }
    parts = [metrics, *metrics["folds"]]
    assert len(parts) == 3
    for part in parts:
        for name, keys in wanted.items():
            assert list(part[name]) == keys
            for key in keys:
                assert list(part[name][key]) == ["value", "low", "high"]
    assert list(metrics["provenance"]) == [
        "synthetic",
        "data_hash",
        "config_hash",
        "seed",
        "version",
    ]
    assert metrics["provenance"]["synthetic"] is True
    rows = {row["name"]: row["net_return"]["value"] for row in metrics["stress"]["rows"]}
    assert rows["costs x 1"] == pytest.approx(metrics["trading"]["net_return"]["value"])
    assert rows["costs x 0"] > rows["costs x 2"]
    # The synthetic market trades always and has no slow inputs that could be missing.
    assert metrics["degraded_frac"] == 0.0
    assert metrics["degraded_reasons"] == {}
    assert metrics["served"] is None
    for one in metrics["critic"]:
        assert list(one) == ["key", "severity", "text", "evidence"]
    # A month is a short record, and the planted edge does not outlast a bar of delay.
    assert {"delay"} <= {one["key"] for one in metrics["critic"]}
    assert metrics["seconds"]["total"] > 0
    assert metrics["peak_memory_mb"] > 0


def test_metrics_json_says_how_each_fold_was_fitted_and_why(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert [fit["fold"] for fit in metrics["fits"]] == [0, 1]
    for fit, fold in zip(metrics["fits"], metrics["folds"], strict=True):
        for key in ("test_start", "test_end", "train_start", "train_end", "n_train"):
            assert fit[key] == fold[key]
        curve = fit["calibration"]["lightgbm"]
        tried = [one["name"] for one in curve["methods"]]
        assert curve["chosen"] in tried
        assert {(tail["method"], tail["side"]) for tail in curve["tails"]} == {
            (name, side) for name in tried for side in ("low", "high")
        }
        assert fit["fusion"] is None  # there is nothing to fuse
        assert fit["cut_short"] == []
        assert fit["seconds"]["fit lightgbm"] > 0.0


def test_run_folder_is_complete_and_marked_synthetic(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    tables = ["predictions", "decisions", "orders", "fills", "positions", "funding", "equity"]
    assert {f"{name}.parquet" for name in tables} < names
    assert {"profile.yaml", "run.json", "metrics.json", "tearsheet.html"} < names
    assert "SYNTHETIC" in (run / "tearsheet.html").read_text()


@pytest.mark.slow
def test_a_run_repeats_bit_for_bit_from_its_folder(run: Path, market: Path) -> None:
    done = levibot("repeat", run, "-c", market, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["identical"] is True


def test_numbers_edited_by_hand_are_noticed(run: Path, market: Path) -> None:
    copy = run.parent / "edited"
    shutil.copytree(run, copy)
    metrics = copy / "metrics.json"
    metrics.write_text(metrics.read_text().replace("0.", "0.9", 1))
    done = levibot("repeat", copy, "-c", market)
    assert done.returncode == 4
    assert "metrics.json changed" in done.stderr


def test_version_names_the_sources() -> None:
    assert levibot("--version").stdout.startswith("levibot 0.")


@pytest.mark.slow
def test_backtest_over_kept_predictions_with_another_threshold(run: Path, market: Path) -> None:
    out = run.parent / "wider"
    again = "--set=strategy.entry_threshold=0.53"
    done = levibot(
        "backtest", "-p", "synthetic", *SMALL, again, "-c", market, "-o", out, "--predictions", run
    )
    assert done.returncode == 0, done.stderr
    first = json.loads((run / "metrics.json").read_text())
    second = json.loads((out / "metrics.json").read_text())
    assert second["prediction"] == first["prediction"]
    assert second["trading"]["trades"]["value"] > first["trading"]["trades"]["value"]


def test_kept_predictions_are_refused_after_the_target_changed(run: Path, market: Path) -> None:
    out = run.parent / "stale"
    other = "--set=label.horizon_bars=4"
    done = levibot(
        "backtest", "-p", "synthetic", *SMALL, other, "-c", market, "-o", out, "--predictions", run
    )
    assert done.returncode == 4
    assert "another question" in done.stderr
    assert "label was" in done.stderr
    assert not out.exists()


@pytest.mark.slow
def test_train_then_evaluate_on_a_span_that_it_has_not_seen(market: Path) -> None:
    bundle = market.parent / "bundle"
    until = ("--until", "2024-03-01")
    done = levibot("train", "-p", "synthetic", *SMALL, "-c", market, *until, "--out", bundle)
    assert done.returncode == 0, done.stderr

    out = market.parent / "evaluated"
    span = ("--from", "2024-03-01", "--to", "2024-03-15")
    done = levibot("evaluate", bundle, "-c", market, "-o", out, *span)
    assert done.returncode == 0, done.stderr
    n_rows = json.loads((out / "metrics.json").read_text())["prediction"]["n"]["value"]
    assert n_rows == pytest.approx(3 * 14 * 96, rel=0.02)

    span = ("--from", "2024-02-20", "--to", "2024-03-15")
    done = levibot("evaluate", bundle, "-c", market, "-o", market.parent / "seen", *span)
    assert done.returncode == 2
    assert "2024-03-01" in done.stderr

    done = levibot("repeat", out, "-c", market, "--source", bundle)
    assert done.returncode == 0, done.stderr

    # Bar by bar through the bundle, as live does, the same decisions come out.
    online = market.parent / "online"
    span = ("--from", "2024-03-01", "--to", "2024-03-15")
    done = levibot(
        "backtest", "-p", "synthetic", *SMALL, "-c", market, "-o", online, "--bundle", bundle, *span
    )
    assert done.returncode == 0, done.stderr
    # Whoever evaluates a bundle is told how it was fitted; so is who replays it.
    reports = json.loads((bundle / "reports.json").read_text())
    for folder in (out, online):
        (fit,) = json.loads((folder / "metrics.json").read_text())["fits"]
        assert reports.items() <= fit.items()
        assert fit["calibration"]["lightgbm"]["tails"]
    assert "no expert failed" in done.stdout
    for table in ("decisions", "fills", "equity"):
        name = f"{table}.parquet"
        assert (online / name).read_bytes() == (out / name).read_bytes()

    other = ("--set=label.horizon_bars=8", "--set=experts.lightgbm.n_trees=99")
    contradicting = (*SMALL, *other, "-c", market, "-o", market.parent / "other")
    done = levibot("backtest", "-p", "synthetic", *contradicting, "--bundle", bundle, *span)
    assert done.returncode == 2
    assert "differs in expert lightgbm, label" in done.stderr.replace("\n", " ")

    model = bundle / "experts" / "lightgbm" / "model.txt"
    text = model.read_text()
    model.write_text(text[:-2] + ("0" if text[-2] != "0" else "1") + text[-1])
    done = levibot("evaluate", bundle, "-c", market, "-o", market.parent / "broken", *span)
    assert done.returncode == 4
    assert "model.txt" in done.stderr


ALONE = ("--set=features.lead=null", "--set=features.ratios=[]", "--set=features.peers=false")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-p", "synthetic", "--set=data.interval=7m"), 2, "interval must be one of"),
        (("-p", "syntetic"), 2, "did you mean 'synthetic'"),
        (("-p", "synthetic", "--set=strategy.speed=1"), 2, "unknown key"),
        (
            ("-p", "synthetic", *ALONE, '--set=data.instruments=["BTCUSD-PERP.BINANCE"]'),
            3,
            "did you mean BTCUSDT-PERP.BINANCE",
        ),
        (("-p", "synthetic", "--set=data.start=2023-12-01"), 3, "2023-12-01"),
        (("-p", "synthetic", *SMALL, "--set=validation.test_start=2024-01-05"), 2, "test_start"),
    ],
)
def test_mistakes_end_with_a_message_and_nothing_written(
    market: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    out = market.parent / "none"
    command = ["walkforward", *arguments, "-c", str(market), "-o", str(out)]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "100"})
    assert done.exit_code == code, done.output
    assert "error:" in done.stderr
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_a_mistake_is_the_exit_code_of_the_process(market: Path) -> None:
    out = market.parent / "none"
    done = levibot(
        "walkforward", "-p", "synthetic", "--set=data.end=2030-01-01", "-c", market, "-o", out
    )
    assert done.returncode == 3, done.stderr
    assert "error:" in done.stderr
    assert "2030-01-01" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to know where the run is")
def test_interrupting_a_run_leaves_nothing_behind(market: Path) -> None:
    out = market.parent / "interrupted"
    command = [sys.executable, "-m", "live.cli", "walkforward", "-p", "synthetic", *SMALL]
    command += ["--set=experts.lightgbm.n_trees=1500", "-c", str(market), "-o", str(out)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
        # What a shell starts in the background ignores interrupts, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 100.0
    while "lib_lightgbm" not in maps.read_text():  # it is loaded by the first fit
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert not [path for path in market.parent.iterdir() if "interrupted" in path.name]


def test_a_catalog_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    done = levibot("data", "info", "--catalog", tmp_path / "none")
    assert done.returncode == 3
    assert not (tmp_path / "none").exists()


def test_data_info_and_check_speak_json(market: Path) -> None:
    info = json.loads(levibot("data", "info", "-c", market, "--json").stdout)
    assert info
    checked = levibot("data", "check", "-c", market, "--json")
    assert checked.returncode == 0, checked.stderr
    json.loads(checked.stdout)


@pytest.mark.slow
def test_lookahead_audit_passes_on_the_synthetic_market(market: Path) -> None:
    done = levibot(
        "audit", "lookahead", "-p", "synthetic", *SMALL, "-c", market, "--cuts", "1", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True


@pytest.mark.slow
def test_parity_audit_passes_on_the_synthetic_market(market: Path) -> None:
    span = ("--from", "2024-03-15", "--to", "2024-03-20")
    done = levibot("audit", "parity", "-p", "synthetic", *SMALL, "-c", market, *span, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert report["identical"] is True
    assert report["compared"]["fills"] > 0


@pytest.mark.slow
def test_sizing_trades_the_same_predictions_in_every_way(
    market: Path, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sizing"
    arguments = ("-p", "synthetic", *SMALL, "-c", market)
    done = levibot("sizing", *arguments, "--predictions", run, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = [row["name"] for row in found["rows"]]
    assert len(names) == 12
    assert {"kelly", "kelly_multi + guard", "fixed", "volatility_target + guard"} <= set(names)
    assert found["synthetic"] is True
    for row in found["rows"]:
        # Nothing may be larger than a fifth of equity, but for the move to the next open.
        assert 0.0 <= row["measures"]["largest_position"]["value"] < 0.21
    page = (out / "sizing.md").read_text(encoding="utf-8")
    assert "SYNTHETIC DATA" in page
    assert page.count("\n| ") == 14
    assert json.loads((out / "sizing.json").read_text())["rows"] == found["rows"]
    taken = levibot("sizing", *arguments, "--predictions", run, "-o", out)
    assert "--overwrite" in taken.stderr
    other = levibot("sizing", *arguments, "--set=label.horizon_bars=4", "--predictions", run,
                    "-o", tmp_path / "other")  # fmt: skip
    assert other.returncode != 0
    assert "made for another question" in other.stderr


@pytest.mark.slow
def test_execution_trades_the_same_predictions_in_every_order_style(
    market: Path, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "execution"
    arguments = ("-p", "synthetic", *SMALL, "-c", market, "--predictions", run, "-o", out)
    done = levibot("execution", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    market_row, limit, rested = found["rows"]
    names = [row["name"] for row in found["rows"]]
    assert names == ["market", "limit 2 bp, 2 bars", "limit 2 bp, 2 bars, post-only"]
    (plain,) = (one for one in market_row["execution"] if one["style"] == "market")
    assert (plain["maker_frac"], plain["missed_frac"]) == (0.0, 0.0)
    styles = [{one["style"]: one for one in row["execution"]} for row in (limit, rested)]
    assert all(0.0 < one["limit"]["maker_frac"] <= 1.0 for one in styles)
    assert styles[1]["limit"]["maker_frac"] == 1.0
    assert all(one["all decisions"]["fee_bps"] < plain["fee_bps"] for one in styles)
    page = (out / "execution.md").read_text(encoding="utf-8")
    assert page.count("\n| ") == 5


@pytest.mark.slow
def test_a_signal_is_measured_before_it_trades(market: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "signal"
    arguments = ("-p", "synthetic", *SMALL, "-c", market, "--predictions", run, "-o", out)
    chosen = ("--horizons", "1,4", "--delays", "0,2")
    done = levibot("signal", *arguments, *chosen, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["synthetic"] is True
    assert found == json.loads((out / "signal.json").read_text())
    # The edge was planted over the label's horizon, and is gone two bars later.
    pooled = [row for row in found["delays"] if row["scope"] == "pooled"]
    assert pooled[0]["ic"]["low"] > 0.0
    assert pooled[1]["ic"]["value"] < 0.5 * pooled[0]["ic"]["value"]
    page = (out / "signal.md").read_text(encoding="utf-8")
    assert "SYNTHETIC DATA" in page
    for picture in re.findall(r"\]\((.*?)\)", page):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert len(list(out.glob("*.png"))) == 5
    other = levibot("signal", *arguments, "--overwrite", "--column", "logistic_prob")
    assert other.returncode == 0, other.stderr
    assert "Information coefficient over" in other.stdout
