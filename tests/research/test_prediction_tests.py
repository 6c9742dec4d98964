"""Paired tests of two forecasts against statsmodels, and how often they cry wolf."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar

from catalog.errors import ConfigError, DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR
from research.comparisons import compare_forecasts
from research.prediction_tests import compare_hits, compare_losses


def forecasts(seed: int, n_days: int = 80, horizon: int = 1, copies: int = 2) -> pd.DataFrame:
    """Return hourly rows of some instruments that move alike, with labels that look ahead."""
    random = np.random.default_rng(seed)
    hours = n_days * 24
    steps = random.normal(size=hours + horizon)
    ahead = np.convolve(steps, np.ones(horizon), "valid")[1 : hours + 1]
    ts = np.repeat(np.arange(1, hours + 1) * NS_PER_HOUR, copies)
    known = np.repeat(np.convolve(steps, np.ones(horizon), "full")[:hours], copies)

    def said(value: np.ndarray) -> np.ndarray:
        return np.asarray(1.0 / (1.0 + np.exp(-value)))

    walk = np.repeat(np.convolve(random.normal(size=hours), np.ones(20) / 5, "same"), copies)
    other = np.repeat(np.convolve(random.normal(size=hours), np.ones(20) / 5, "same"), copies)
    return pd.DataFrame(
        {
            "ts_init": ts,
            "label": np.repeat((ahead > 0).astype(np.float64), copies),
            "one": said(0.2 * walk),
            "two": said(0.2 * other),
            "seer": said(0.4 * np.repeat(ahead, copies) + random.normal(0, 0.5, hours * copies)),
            "known": said(0.01 * known),
        }
    )


def literal_losses(frame: pd.DataFrame, name: str, score: str) -> np.ndarray:
    p, y = frame[name].to_numpy(), frame["label"].to_numpy()
    if score == "brier":
        return np.asarray((p - y) ** 2)
    return np.asarray(-(y * np.log(p) + (1 - y) * np.log(1 - p)))


@pytest.mark.parametrize("score", ["log_loss", "brier"])
@pytest.mark.parametrize("horizon", [1, 30, 100])
def test_the_statistic_is_that_of_a_regression_with_hac_errors(score: str, horizon: int) -> None:
    frame = forecasts(3, horizon=horizon)
    found = compare_losses(
        frame,
        "one",
        "two",
        horizon_ns=horizon * NS_PER_HOUR,
        score=score,  # type: ignore[arg-type]
    )
    difference = literal_losses(frame, "one", score) - literal_losses(frame, "two", score)
    daily = pd.Series(difference).groupby((frame["ts_init"] - 1) // NS_PER_DAY).mean().to_numpy()
    h = math.ceil(horizon / 24) + 1
    lags = max(h - 1, int(4 * (len(daily) / 100) ** (2 / 9)))
    fit = OLS(daily, np.ones(len(daily))).fit(
        cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False}
    )
    n = len(daily)
    factor = math.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n)
    assert found.horizon_steps == h
    assert found.steps == n == 80
    assert found.rows == len(frame)
    assert found.difference == pytest.approx(difference.mean(), rel=1e-12)
    assert found.statistic == pytest.approx(float(fit.tvalues[0]) * factor, rel=1e-9)


def test_it_is_the_test_of_the_tables_for_short_horizons() -> None:
    frame = forecasts(5)
    table = compare_forecasts(frame, "two", {"one": "one"}, scores=("brier",))
    found = compare_losses(frame, "one", "two", horizon_ns=NS_PER_HOUR, score="brier")
    assert found.difference == pytest.approx(table["difference"][0])
    # Two steps instead of one change the correction for small samples only.
    assert found.p == pytest.approx(table["p_dm"][0], abs=0.02)


def test_mcnemar_agrees_with_statsmodels() -> None:
    frame = forecasts(7, n_days=20)
    found = compare_hits(frame, "one", "two", horizon_ns=NS_PER_HOUR)
    up = frame["label"] > 0.5
    one, two = ((frame[name] > 0.5) == up for name in ("one", "two"))
    counts = [[np.sum(one & two), np.sum(one & ~two)], [np.sum(~one & two), np.sum(~one & ~two)]]
    assert found.first_only == counts[0][1]
    assert found.second_only == counts[1][0]
    assert found.p_rows == pytest.approx(float(mcnemar(counts, exact=True).pvalue), rel=1e-12)
    assert found.difference == pytest.approx(one.mean() - two.mean())


def test_mcnemars_published_example() -> None:
    # Agresti (1990), table 10.1: 1,600 voters, 150 changed to disapproval and 86 the other way;
    # without continuity correction z² = 17.36 and p far below 0.001.
    label = np.ones(1600)
    first, second = np.full(1600, 0.6), np.full(1600, 0.6)
    second[:150] = 0.4
    first[150:236] = 0.4
    ts = np.arange(1, 1601) * NS_PER_DAY
    frame = pd.DataFrame({"ts_init": ts, "label": label, "first": first, "second": second})
    # In random order, so that neighbours do not depend on each other.
    order = np.random.default_rng(0).permutation(1600)
    frame[["first", "second"]] = frame[["first", "second"]].to_numpy()[order]
    found = compare_hits(frame, "first", "second", horizon_ns=1)
    assert (found.first_only, found.second_only) == (150, 86)
    assert found.p_rows == pytest.approx(3.7e-5, rel=0.02)
    assert found.p == pytest.approx(3.1e-5, rel=3.0)


def test_rows_that_stand_together_are_one_observation() -> None:
    once, tenfold = (forecasts(11, copies=copies) for copies in (1, 10))
    for compare in (compare_losses, compare_hits):
        one, ten = (
            compare(frame, "one", "two", horizon_ns=NS_PER_HOUR) for frame in (once, tenfold)
        )
        assert ten.p == pytest.approx(one.p, rel=1e-6)
    plain = [compare_hits(f, "one", "two", horizon_ns=NS_PER_HOUR).p_rows for f in (once, tenfold)]
    assert plain[1] < plain[0]


def test_overlapping_labels_do_not_cry_wolf() -> None:
    horizon = 48
    found = []
    for seed in range(60):
        frame = forecasts(seed, n_days=60, horizon=horizon)
        tests = (
            compare_losses(frame, "one", "two", horizon_ns=horizon * NS_PER_HOUR),
            compare_hits(frame, "one", "two", horizon_ns=horizon * NS_PER_HOUR),
        )
        found.append([tests[0].p, tests[1].p, tests[1].p_rows])
    often = np.mean(np.array(found) < 0.05, axis=0)
    assert often[0] < 0.15
    assert often[1] < 0.15
    # As if rows were independent: wrong most of the time.
    assert often[2] > 0.4


def test_a_seer_is_found() -> None:
    frame = forecasts(2)
    better = compare_losses(frame, "seer", "one", horizon_ns=NS_PER_HOUR)
    assert better.difference < 0
    assert better.statistic < 0
    assert better.p < 1e-6
    turned = compare_losses(frame, "one", "seer", horizon_ns=NS_PER_HOUR)
    assert turned.statistic == pytest.approx(-better.statistic)
    assert compare_hits(frame, "seer", "one", horizon_ns=NS_PER_HOUR).p < 1e-6


def test_steps_of_a_bar() -> None:
    frame = forecasts(4, n_days=10, horizon=4)
    found = compare_losses(frame, "one", "two", horizon_ns=4 * NS_PER_HOUR, step_ns=NS_PER_HOUR)
    assert found.steps == 240
    assert found.horizon_steps == 5


def test_few_days_give_no_p_value() -> None:
    frame = forecasts(1, n_days=7)
    assert compare_losses(frame, "one", "two", horizon_ns=NS_PER_HOUR).as_dict()["p"] is None
    assert compare_hits(frame, "one", "two", horizon_ns=NS_PER_HOUR).as_dict()["p"] is None
    same = compare_hits(forecasts(1), "one", "one", horizon_ns=NS_PER_HOUR)
    assert (same.p_rows, same.p) == (1.0, 1.0)


def test_wrong_arguments() -> None:
    frame = forecasts(0, n_days=10)
    with pytest.raises(ConfigError, match="horizon_ns must be positive, was 0"):
        compare_losses(frame, "one", "two", horizon_ns=0)
    with pytest.raises(ConfigError, match="step_ns must be positive, was -1"):
        compare_hits(frame, "one", "two", horizon_ns=1, step_ns=-1)
    with pytest.raises(DataError, match=r"must have the columns \['three'\]"):
        compare_losses(frame, "one", "three", horizon_ns=1)
    with pytest.raises(DataError, match="must have answered rows in common"):
        compare_losses(frame.assign(one=np.nan), "one", "two", horizon_ns=1)
    with pytest.raises(DataError, match=r"must differ from 0.5 in some row"):
        compare_hits(frame.assign(one=0.5), "one", "two", horizon_ns=1)
    with pytest.raises(DataError, match=r"one must be inside \(0, 1\)"):
        compare_losses(frame.assign(one=1.0), "one", "two", horizon_ns=1)
