"""The summary of a run says what a person must know before believing its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from live.report import RunSummary

ESTIMATE = {"value": 0.5, "low": 0.4, "high": 0.6}
TABLE = ("auc", "log_loss_skill", "accuracy_at_10pct", "ece")


def summary(**changes: Any) -> list[str]:
    """Return the lines printed for a run with some numbers."""
    metrics: dict[str, Any] = {
        "prediction": {"auc": ESTIMATE},
        "trading": {"trades": ESTIMATE},
        "experts": {},
        "provenance": {"synthetic": False},
        "degraded_frac": 0.0,
        "degraded_reasons": {},
        "served": None,
        "fits": [],
        "cut_short": {},
        "stress": {"rows": [], "break_even": None},
        "step_seconds": {},
        "seconds": {"total": 1.0},
        "peak_memory_mb": 100.0,
    }
    return str(RunSummary(Path("runs/x"), {**metrics, **changes})).splitlines()


def test_a_sound_run_says_so_in_few_words() -> None:
    lines = summary()
    assert "degraded: none" in lines
    assert not any("SYNTHETIC" in line or "served" in line or "fold" in line for line in lines)


def test_what_is_made_up_is_marked_on_the_first_line() -> None:
    assert summary(provenance={"synthetic": True})[0].startswith("SYNTHETIC DATA")


def test_degraded_rows_are_told_with_their_reasons() -> None:
    lines = summary(degraded_frac=0.05, degraded_reasons={"no expert of the fusion answered": 0.05})
    assert (
        "degraded: 5.00% (no expert of the fusion answered 5.00%); they count in all prediction "
        "metrics"
    ) in lines


def test_each_expert_stands_with_the_rows_on_which_it_answered() -> None:
    def found(rows: float) -> dict[str, Any]:
        return {"n": {"value": rows}, **dict.fromkeys(TABLE, ESTIMATE)}

    lines = summary(experts={"lightgbm": found(26174.0), "sentiment": found(812.0)})
    header = next(line for line in lines if line.startswith("expert"))
    assert header.split() == ["expert", "n", *TABLE]
    assert next(line for line in lines if line.startswith("lightgbm")).split()[1] == "26,174"
    assert next(line for line in lines if line.startswith("sentiment")).split()[1] == "812"


def test_breakers_that_tripped_are_told_with_their_last_words() -> None:
    good = {"trips": 0, "failures": 0, "calls": 9, "refusals": 0, "reason": ""}
    bad = {"trips": 2, "failures": 2, "calls": 5, "refusals": 7, "reason": "raised E: words"}
    served = {"rows": 9, "degraded_frac": 0.0, "degraded_reasons": {}}
    lines = summary(served={**served, "breakers": {"lightgbm": good, "lstm": bad}})
    assert "served bar by bar: 9 predictions, degraded: none" in lines
    told = "lstm (trips: 2, failed: 2 of 5 calls, held back: 7; at last: raised E: words)"
    assert f"expert {told}" in lines
    assert not any(line.startswith("expert lightgbm") for line in lines)
    assert "no expert failed" in summary(served={**served, "breakers": {"lightgbm": good}})


def test_experts_that_a_fold_is_without_are_told() -> None:
    fits = [
        {"fold": 0, "left_out": {}, "started_cold": {}},
        {
            "fold": 1,
            "left_out": {"sentiment": "no news"},
            "started_cold": {"lstm": "other columns"},
        },
    ]
    lines = summary(fits=fits, cut_short={"tft": 2})
    assert "sentiment left out in fold 1: no news" in lines
    assert "lstm started cold in fold 1: other columns" in lines
    assert "ended by their time budget, so another run may differ: tft in 2 folds" in lines


def test_what_the_critic_says_is_told_or_that_it_says_nothing() -> None:
    one = {"key": "few_trades", "severity": "grave", "text": "12 trades are few.", "evidence": {}}
    lines = summary(critic=[one])
    assert lines[lines.index("critic:") + 1] == "  grave: 12 trades are few."
    assert "critic: no objection found" in summary(critic=[])
    assert not any("critic" in line for line in summary())  # a run older than the critic
