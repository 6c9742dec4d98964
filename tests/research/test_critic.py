"""For each objection a made-up run that deserves it and one that does not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, parse_time
from research.critic import criticise
from research.critic_case import SEVERITIES, Case, CriticConfig
from research.critic_evidence import ParameterSweep, TailGap
from research.estimates import Estimate
from research.performance import DailyEquity, net_return
from research.shuffled_signal import ShuffledTrades

START = parse_time("2024-01-01")


def estimate(value: float, half: float) -> dict[str, float | None]:
    known = not math.isnan(half)
    return {
        "value": value,
        "low": value - half if known else None,
        "high": value + half if known else None,
    }


def record(mean: float, spread: float = 0.01, days: int = 730, seed: int = 3) -> DailyEquity:
    """Return a record with exactly this mean and spread of its daily returns."""
    noise = np.random.default_rng(seed).standard_normal(days)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    ts = START + np.arange(days + 1, dtype=np.int64) * NS_PER_DAY
    return DailyEquity(ts, 1e5 * np.cumprod(np.append(1.0, 1.0 + mean + spread * noise)))


def fold(auc: float, result: float) -> dict[str, Any]:
    return {
        "prediction": {"auc": estimate(auc, 0.01)},
        "trading": {"net_return": estimate(result, 0.1)},
    }


def metrics(**changes: Any) -> dict[str, Any]:
    """Return the numbers of a sound run; a key such as ``trading.trades`` changes one of them."""
    found: dict[str, Any] = {
        "prediction": {"auc": estimate(0.55, 0.01), "log_loss_skill": estimate(0.006, 0.002)},
        "trading": {"net_return": estimate(1.5, 1.0), "trades": estimate(800.0, 60.0)},
        "folds": [fold(0.55, 0.2), fold(0.552, 0.1), fold(0.548, 0.3), fold(0.551, 0.25)],
        "references": {
            "base rate": {"log_loss_skill": estimate(0.0, 0.0)},
            "logistic regression": {"log_loss_skill": estimate(0.002, 0.002)},
        },
        "stress": {
            "break_even": 3.5,
            "rows": [{"name": "one bar later", "net_return": estimate(1.2, 1.0)}],
        },
        "provenance": {"synthetic": False},
        "trials": {"count": 20, "dsr": 0.98},
    }
    for key, value in changes.items():
        *path, last = key.split(".")
        place = found
        for name in path:
            place = place[name]
        place[last] = value
    return found


def good(**changes: Any) -> Case:
    """Return a sound run: a Sharpe ratio near 3 over two years, with changes to its metrics."""
    return Case(
        metrics=metrics(**changes),
        horizon_ns=NS_PER_HOUR,
        tail=TailGap(0.1, 0.61, 0.605, Estimate(0.005, -0.01, 0.02)),
        daily=record(0.0016),
        benchmarks={"buy and hold": record(0.0007, 0.03, seed=4)},
        shuffled=ShuffledTrades(9_000.0, np.linspace(-5_000.0, 5_000.0, 99)),
        sweeps=(plateau(),),
    )


def plateau() -> ParameterSweep:
    values, results = (0.56, 0.58, 0.6, 0.62, 0.64), (0.9, 1.1, 1.2, 1.1, 0.8)
    return ParameterSweep("the entry threshold", "the sum of returns", values, results, 0.6)


def found_in(case: Case, key: str) -> list[str]:
    """Return the severities of one objection."""
    return [one.severity for one in criticise(case) if one.key == key]


def test_a_good_run_has_nothing_to_answer_for() -> None:
    assert criticise(good()) == ()


def test_a_good_run_without_a_replay_neither() -> None:
    case = Case(metrics=metrics(trading=None, stress=None), horizon_ns=NS_PER_HOUR)
    assert criticise(case) == ()


@pytest.mark.parametrize(
    ("key", "severity", "changes"),
    [
        ("no_skill", "grave", {"prediction.auc": estimate(0.505, 0.01)}),
        ("no_skill", "serious", {"prediction.log_loss_skill": estimate(0.0025, 0.003)}),
        ("leak", "grave", {"prediction.auc": estimate(0.64, 0.01)}),
        (
            "benchmark",
            "serious",
            {"references.logistic regression": {"log_loss_skill": estimate(0.007, 0.002)}},
        ),
        (
            "drift",
            "serious",
            {"folds": [fold(auc, 0.1) for auc in (0.58, 0.56, 0.54, 0.52)]},
        ),
        ("drift", "minor", {"folds": [fold(auc, 0.1) for auc in (0.55, 0.58, 0.54, 0.57)]}),
        ("drift", "serious", {"folds": [fold(0.55, one) for one in (1.9, -0.1, -0.1, 0.0)]}),
        ("few_trades", "grave", {"trading.trades": estimate(12.0, 5.0)}),
        ("few_trades", "serious", {"trading.trades": estimate(60.0, 5.0)}),
        ("costs", "serious", {"stress.break_even": 1.2}),
        ("costs", "minor", {"stress.break_even": 1.8}),
        ("costs", "grave", {"trading.net_return": estimate(-0.2, 0.1), "stress.break_even": 0.7}),
        ("loss", "grave", {"trading.net_return": estimate(-0.2, 0.1), "stress.break_even": 0.0}),
        (
            "delay",
            "serious",
            {"stress.rows": [{"name": "one bar later", "net_return": estimate(-0.1, 1.0)}]},
        ),
        (
            "delay",
            "minor",
            {"stress.rows": [{"name": "one bar later", "net_return": estimate(0.5, 1.0)}]},
        ),
        ("trials", "serious", {"trials": {"count": 300, "dsr": 0.4}}),
    ],
)  # fmt: skip
def test_what_the_metrics_deserve(key: str, severity: str, changes: dict[str, Any]) -> None:
    said = criticise(good(**changes))
    assert [(one.key, one.severity) for one in said] == [(key, severity)]


def test_not_beating_the_base_rate_is_said_once() -> None:
    changes = {"prediction.log_loss_skill": estimate(-0.001, 0.002)}
    references = {"base rate": {"log_loss_skill": estimate(0.0, 0.0)}}
    assert [one.key for one in criticise(good(**changes, references=references))] == ["no_skill"]


def test_an_auc_may_be_higher_where_trades_are_minutes_apart_and_where_an_edge_was_planted() -> (
    None
):
    sharp = {"prediction.auc": estimate(0.64, 0.01)}
    assert found_in(replace(good(**sharp), horizon_ns=NS_PER_HOUR // 60), "leak") == []
    assert found_in(good(**sharp, **{"provenance.synthetic": True}), "leak") == []
    assert found_in(good(**{"prediction.auc": estimate(0.61, 0.02)}), "leak") == []
    # A single day leaves no interval: the value alone must do.
    assert found_in(good(**{"prediction.auc": estimate(0.64, math.nan)}), "leak") == ["grave"]


@pytest.mark.parametrize(
    ("gap", "severity"),
    [(Estimate(0.05, 0.02, 0.08), "serious"), (Estimate(-0.05, -0.08, -0.02), "minor"),
     (Estimate(0.05, -0.01, 0.1), None), (Estimate(0.01, 0.005, 0.015), None)],
)  # fmt: skip
def test_calibration_in_the_tail(gap: Estimate, severity: str | None) -> None:
    case = replace(good(), tail=TailGap(0.1, 0.6 + gap.value, 0.6, gap))
    assert found_in(case, "calibration_tail") == ([severity] if severity else [])


def test_results_from_few_days() -> None:
    returns = np.full(730, -0.0002)
    returns[[10, 200, 333, 500, 600]] = 0.08
    ts = START + np.arange(731, dtype=np.int64) * NS_PER_DAY
    few = DailyEquity(ts, 1e5 * np.cumprod(np.append(1.0, 1.0 + returns)))
    case = replace(good(), daily=few)
    assert found_in(case, "few_days") == ["serious"]
    steady = np.where(returns < 0.0, 0.00025, returns)
    some = DailyEquity(ts, 1e5 * np.cumprod(np.append(1.0, 1.0 + steady)))
    assert found_in(replace(case, daily=some), "few_days") == ["minor"]


def test_a_record_may_be_too_short() -> None:
    short = replace(good(), daily=record(0.0016, days=60), benchmarks={})
    (said,) = (one for one in criticise(short) if one.key == "short_record")
    assert said.severity == "serious"
    ratio = said.evidence["sharpe_per_day"]
    assert ratio is not None
    # Normal returns: about (1.645 / ratio)² days (Bailey and López de Prado, 2012).
    assert said.evidence["needed"] == pytest.approx(1.0 + (1.645 / ratio) ** 2, rel=0.1)


def test_a_record_of_a_few_days_cannot_be_judged() -> None:
    case = replace(good(), daily=record(0.0016, days=3), benchmarks={})
    (said,) = (one for one in criticise(case) if one.key == "short_record")
    assert "cannot even be judged" in said.text
    assert said.evidence["needed"] is None


def test_a_single_trial_is_left_to_the_track_record() -> None:
    assert found_in(good(trials={"count": 1, "dsr": 0.5}), "trials") == []
    assert found_in(good(trials={"count": 5, "dsr": None}), "trials") == []


@pytest.mark.parametrize(
    ("held", "severities"),
    [
        (record(0.003, 0.01, seed=4), ["serious"]),  # more, and more steadily
        (record(0.004, 0.06, seed=4), ["minor"]),  # more, at a higher risk
        (record(0.0008, 0.003, seed=4), ["minor"]),  # less, but better for its risk
        (record(-0.001, 0.03, seed=4), []),
    ],
)
def test_buying_and_holding_must_be_beaten(held: DailyEquity, severities: list[str]) -> None:
    case = replace(good(), benchmarks={"buy and hold": held})
    assert found_in(case, "benchmark") == severities


def test_the_timing_must_matter() -> None:
    drawn = np.linspace(-5_000.0, 20_000.0, 99)
    case = replace(good(), shuffled=ShuffledTrades(9_000.0, drawn))
    assert found_in(case, "shuffled_signal") == ["serious"]
    assert (
        found_in(replace(case, shuffled=ShuffledTrades(9e3, np.empty(0))), "shuffled_signal") == []
    )


def test_a_spike_an_edge_and_a_plateau() -> None:
    for results, severity in (
        ((-0.2, -0.1, 1.2, -0.3, 0.1), "serious"),
        ((0.2, 0.1, 1.2, 0.3, 0.1), "minor"),
        ((3.0, 2.0, 1.0, -0.1, -0.2), "minor"),
    ):
        case = replace(good(), sweeps=(replace(plateau(), results=results),))
        assert found_in(case, "sensitivity") == [severity]


def test_a_run_that_never_traded_is_told_that_and_nothing_of_profits() -> None:
    flat = DailyEquity(record(0.0).ts, np.full(731, 1e5))
    changes = {"trading.trades": estimate(0.0, 0.0), "trading.net_return": estimate(0.0, 0.0)}
    case = replace(
        good(**changes, **{"stress.break_even": None}),
        daily=flat,
        shuffled=ShuffledTrades(0.0, np.empty(0)),
    )
    (said,) = criticise(case)
    assert (said.key, said.severity) == ("few_trades", "grave")
    assert "never traded" in said.text


def test_the_gravest_come_first_and_all_is_json() -> None:
    changes = {
        "prediction.auc": estimate(0.505, 0.01),
        "trading.trades": estimate(50.0, 5.0),
        "stress.break_even": 1.8,
    }
    found = criticise(good(**changes))
    order = [SEVERITIES.index(one.severity) for one in found]
    assert order == sorted(order)
    assert len(set(order)) == 3
    text = json.dumps([one.as_dict() for one in found], allow_nan=False)
    assert set(json.loads(text)[0]) == {"key", "severity", "text", "evidence"}
    assert all(one.text.endswith(".") for one in found)


def test_the_lines_can_be_drawn_elsewhere() -> None:
    strict = CriticConfig(few_trades=1_000)
    assert [one.key for one in criticise(good(), strict)] == ["few_trades"]


def test_the_made_up_records_are_what_they_are_taken_for() -> None:
    daily = record(0.0016)
    assert daily.returns.mean() / daily.returns.std(ddof=1) * math.sqrt(365) == pytest.approx(
        3.06, abs=0.01
    )
    assert net_return(daily) > 1.0
