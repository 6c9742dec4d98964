"""The truth table: which markets it asks, what it counts, and that a failing checker is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from catalog.timestamps import NS_PER_DAY
from live import truth
from live.cli import app
from live.truth import ENTRIES, TruthConfig, TruthRequest, judge_market


def row(request: TruthRequest) -> dict[str, Any]:
    """Return a market's result: each second one without an edge trades nothing."""
    found = request.edge > 0.0
    return {
        "edge": request.edge,
        "seed": request.seed,
        "dsr": 0.99 if found else (None if request.seed % 2 else 0.4),
        "sharpe": 20.0 if found else None,
        "threshold": 2.0,
        "trials": 5,
        "entry": ENTRIES[0],
        "trades": 100,
        "log_loss_skill": 0.01,
        "seconds": 1.0,
        "peak_memory_mb": 100.0,
    }


def lucky(request: TruthRequest) -> dict[str, Any]:
    """Return a claim from every market: a checker that is fooled."""
    return {**row(request), "dsr": 0.99}


def blind(request: TruthRequest) -> dict[str, Any]:
    """Return a claim from no market."""
    return {**row(request), "dsr": 0.95}


def command(out: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["truth", "-o", str(out), "--workers=1", *more])


def test_markets_come_with_and_without_the_edge() -> None:
    requests = TruthConfig(seeds=3, first_seed=5, edge=2.0).requests()
    assert [(one.edge, one.seed) for one in requests] == [
        (edge, seed) for edge in (0.0, 2.0) for seed in (5, 6, 7)
    ]
    assert len({one.job().key for one in requests}) == 6
    profile = requests[0].profile
    execution = profile.execution
    assert execution.taker_fee_bps == execution.slippage_bps == 0.0
    tested = profile.data.end - profile.validation.test_start
    assert tested == 45 * NS_PER_DAY


@pytest.mark.parametrize(
    ("judge", "code", "false", "found"), [(row, 0, 0, 3), (lucky, 6, 3, 3), (blind, 6, 0, 0)]
)
def test_claims_are_counted_and_a_wrong_checker_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Any, code: int, false: int, found: int
) -> None:
    monkeypatch.setattr(truth, "judge_market", judge)
    result = command(tmp_path / "out", "--seeds=3")
    assert result.exit_code == code, result.output
    record = json.loads((tmp_path / "out" / "truth.json").read_text())
    assert (record["false_claims"], record["found"]) == (false, found)
    assert record["passed"] is (code == 0)
    assert len(record["rows"]) == 6
    page = (tmp_path / "out" / "truth.md").read_text()
    assert f"edge 0: {false} of 3 markets claimed; edge 1: {found} of 3 found" in page
    assert (tmp_path / "out" / "truth.png").read_bytes().startswith(b"\x89PNG")
    if code:
        assert "in at most 10% of the markets" in result.output.replace("\n", " ")


def test_a_table_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def interrupted(request: TruthRequest) -> dict[str, Any]:
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(request.seed)
        return row(request)

    monkeypatch.setattr(truth, "judge_market", interrupted)
    assert command(tmp_path / "out", "--seeds=3").exit_code != 0
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(
        truth, "judge_market", lambda request: (asked.append(request.seed), row(request))[1]
    )
    assert command(tmp_path / "out", "--seeds=3").exit_code == 0
    assert asked == [1, 2, 3, 1, 2, 3]


def test_markets_out_of_range_are_refused(tmp_path: Path) -> None:
    found = command(tmp_path / "out", "--days=3")
    assert found.exit_code == 2
    assert "days" in found.output


@pytest.mark.slow
def test_an_edge_is_found_and_none_where_none_is() -> None:
    for seed in (1, 2):
        without, planted = (judge_market(TruthRequest(edge, seed, 90)) for edge in (0.0, 1.0))
        assert without["dsr"] < 0.9
        assert planted["dsr"] > 0.999
        assert planted["log_loss_skill"] > 0.005 > abs(without["log_loss_skill"])
        assert planted["trials"] == len(ENTRIES)
