"""Tables of a validation: what they hold, what is left out, and why one is not there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.arrays import Float64Array
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR
from research.comparisons import ComparisonConfig
from research.cscv import backtest_overfitting
from research.data_snooping import superior_ability
from research.prediction_tests import compare_losses
from research.validation_report import summary_lines
from research.validation_tables import (
    HOLDING,
    NOTHING,
    best_expert,
    forecast_tests,
    overfitting_points,
    path_table,
    track_record,
    variant_tables,
)

CONFIG = ComparisonConfig(samples=200, mean_block_days=5.0)
PATH = {"net_sharpe": 0.5, "net_return": 0.01}


def noise(days: int = 200, trials: int = 5) -> dict[str, Float64Array]:
    values = 0.01 * np.random.default_rng(3).standard_normal((days, trials))
    return {f"variant {number}": values[:, number] for number in range(trials)}


def holding(days: int = 200) -> Float64Array:
    return 0.02 * np.random.default_rng(4).standard_normal(days)


def test_tables_are_those_of_the_statistics() -> None:
    returns = noise()
    returns["good"] = noise()["variant 0"] + 0.005
    found = variant_tables(returns, holding(), CONFIG)
    matrix, names = np.column_stack(list(returns.values())), tuple(returns)
    assert found["pbo"] == backtest_overfitting(matrix).as_dict()
    assert found["spa_nothing"] == superior_ability(matrix, names, None, CONFIG).as_dict()
    assert found["spa_holding"] == superior_ability(matrix, names, holding(), CONFIG).as_dict()
    assert found["spa_nothing"]["consistent"] < 0.05
    assert found["spa_nothing"]["best"] == "good"
    assert set(found["mcs"]["p_values"]) == {*names, NOTHING, HOLDING}
    assert "good" in found["mcs"]["included"]
    assert NOTHING not in found["mcs"]["included"]
    assert found["refused"] == {}
    assert found["left_out"] == []


def test_a_ruined_variant_is_left_out_and_named() -> None:
    returns = noise()
    returns["ruined"] = np.append(np.full(199, -0.1), np.nan)
    found = variant_tables(returns, holding(), CONFIG)
    assert found["left_out"] == ["ruined"]
    assert found["pbo"]["trials"] == 5
    assert "ruined" not in found["mcs"]["p_values"]


def test_where_nothing_was_traded_tables_say_why() -> None:
    found = variant_tables(dict.fromkeys(("a", "b"), np.zeros(100)), holding(100), CONFIG)
    assert found["spa_nothing"] is None
    assert "look for trials that never traded" in found["refused"]["spa_nothing"]
    assert found["pbo"] is not None  # of equal variants none is better than the median
    assert found["pbo"]["value"] == 1.0


def test_where_every_variant_was_ruined_there_is_no_table() -> None:
    found = variant_tables({"a": np.full(100, np.nan)}, holding(100), CONFIG)
    assert found["pbo"] is None
    assert found["spa_nothing"] is None
    assert set(found["refused"]) >= {"pbo", "spa_nothing", "spa_holding"}
    assert overfitting_points({"a": np.full(100, np.nan)}) is None


def test_short_spans_have_fewer_groups() -> None:
    found = variant_tables(noise(days=30), holding(30), CONFIG)
    assert found["pbo"]["groups"] == 6
    assert overfitting_points(noise(days=30))["logits"].shape == (20,)


def forecasts() -> pd.DataFrame:
    random = np.random.default_rng(8)
    rows = 24 * 60
    truth = random.uniform(0.3, 0.7, rows)
    return pd.DataFrame(
        {
            "ts_init": np.arange(1, rows + 1) * NS_PER_HOUR + 19_000 * NS_PER_DAY,
            "label": (random.uniform(size=rows) < truth).astype(np.float64),
            "prob_up": 0.9 * truth + 0.05,
            "base_prob": 0.5001,
            "expert_good": truth,
            "expert_poor": 1.0 - truth,
            "expert_absent": np.nan,
        }
    )


def test_a_span_of_days_has_no_tables_and_the_summary_says_so() -> None:
    found = variant_tables(noise(days=4), holding(4), CONFIG)
    assert [found[name] for name in ("pbo", "spa_nothing", "spa_holding", "mcs")] == [None] * 4
    assert "two days each, there were 4 days" in str(found["refused"])
    assert overfitting_points(noise(days=4)) is None
    record: dict[str, Any] = {
        "cpcv": {
            "paths": [{"trades": 0}, {"trades": 3}],
            "splits": [{}],
            "spread": path_table([PATH]),
        },
        "variants": {"tables": found, "rows": [{}] * 5},
        "trials_line": "6 trials",
        "trials_before": {"dsr": None, "count": 6},
        "forecasts": {},
        "null": None,
    }
    lines = summary_lines(record)
    assert sum("not to be had" in line for line in lines) == 4
    assert lines[0].endswith("on 1 of them nothing was traded (a ratio of 0)")
    assert any(line.startswith("probability of backtest overfitting: not") for line in lines)


def test_forecasts_are_held_against_base_rate_and_best_expert() -> None:
    frame = forecasts()
    assert best_expert(frame) == "expert_good"
    found = forecast_tests(frame, NS_PER_HOUR)
    assert list(found) == ["base rate", "best expert (good)"]
    wanted = compare_losses(frame, "prob_up", "base_prob", horizon_ns=NS_PER_HOUR).as_dict()
    assert found["base rate"]["losses"] == wanted
    assert found["base rate"]["losses"]["difference"] < 0.0
    assert found["base rate"]["hits"]["p"] < 0.01
    assert best_expert(frame[["label", "ts_init", "expert_good"]]) is None


def test_a_rival_without_an_opinion_has_no_hits() -> None:
    found = forecast_tests(forecasts().assign(base_prob=0.5), NS_PER_HOUR)
    assert found["base rate"]["hits"] is None
    assert found["base rate"]["losses"] is not None


def test_paths_and_track_record() -> None:
    paths = [{"net_sharpe": one, "net_return": one / 10} for one in (-1.0, 0.5, 2.0)]
    found = path_table([*paths, {"net_sharpe": -3.0, "net_return": 0.0}])
    assert found["sharpe_mean"] == pytest.approx(-0.375)
    assert found["sharpe_least"] == -3.0
    assert found["share_lost"] == 0.25
    assert path_table(paths[:1])["sharpe_std"] is None
    record = track_record(noise()["variant 0"] + 0.01)
    assert record["days"] == 200
    assert 1.0 < record["needed_days"] < 200.0
