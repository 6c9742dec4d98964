"""Paired tests against literal computation, and how often they cry wolf."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR
from research.comparisons import (
    ComparisonConfig,
    compare_forecasts,
    daily_sums,
    diebold_mariano,
    holm,
    long_run_variance,
)

FAST = ComparisonConfig(samples=400)


def forecasts(seed: int, n_days: int = 60, edge: float = 0.0) -> pd.DataFrame:
    """Return an hour's rows of two instruments: the truth, a rival and one that is worse."""
    random = np.random.default_rng(seed)
    ts = np.repeat(np.arange(1, n_days * 24 + 1) * NS_PER_HOUR, 2)
    odds = random.normal(0, 0.5, len(ts))

    def said(value: np.ndarray) -> np.ndarray:
        return np.asarray(1.0 / (1.0 + np.exp(-value)))

    label = (random.random(len(ts)) < said(odds)).astype(np.float64)
    return pd.DataFrame(
        {
            "ts_init": ts,
            "label": label,
            "base": said(edge * odds + random.normal(0, 0.2, len(ts))),
            "rival": said(edge * odds + random.normal(0, 0.2, len(ts))),
            "truth": said(odds),
            "loud": said(5.0 * odds + 1.0),
        }
    )


def literal_diebold_mariano(values: list[float], h: int, lags: int) -> tuple[float, float]:
    n = len(values)
    mean = sum(values) / n
    gamma = [
        sum((values[i] - mean) * (values[i - lag] - mean) for i in range(lag, n)) / n
        for lag in range(lags + 1)
    ]
    variance = gamma[0] + 2.0 * sum(
        (1.0 - lag / (lags + 1.0)) * gamma[lag] for lag in range(1, lags + 1)
    )
    factor = math.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n)
    statistic = factor * mean / math.sqrt(variance / n)
    return statistic, 2.0 * float(student.sf(abs(statistic), n - 1))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(10, 200), h=st.integers(1, 6))
def test_diebold_mariano_equals_its_literal_definition(seed: int, n: int, h: int) -> None:
    values = np.random.default_rng(seed).normal(0.1, 1.0, n)
    lags = max(h - 1, int(4.0 * (n / 100.0) ** (2.0 / 9.0)))
    found = diebold_mariano(values, horizon_steps=h)
    statistic, p = literal_diebold_mariano(values.tolist(), h, lags)
    assert found.statistic == pytest.approx(statistic, rel=1e-9)
    assert found.p == pytest.approx(p, rel=1e-9)


def test_steps_of_equally_many_rows_are_steps_of_one() -> None:
    values = np.random.default_rng(1).normal(0.1, 1.0, 80)
    one, many = diebold_mariano(values), diebold_mariano(24.0 * values, np.full(80, 24.0))
    assert many == pytest.approx(one, rel=1e-12)


def test_the_variance_is_never_negative_and_knows_sticky_series() -> None:
    random = np.random.default_rng(2)
    swings = np.tile([1.0, -1.0], 50)
    assert long_run_variance(swings, 5) >= 0.0
    assert long_run_variance(swings, 0) == pytest.approx(1.0)
    noise = random.normal(0, 1, 20_000)
    sticky = np.empty_like(noise)
    sticky[0] = noise[0]
    for place in range(1, len(noise)):
        sticky[place] = 0.5 * sticky[place - 1] + noise[place]
    assert long_run_variance(sticky - sticky.mean(), 40) == pytest.approx(4.0, rel=0.15)


def test_no_difference_at_all_is_no_difference() -> None:
    assert diebold_mariano(np.zeros(50)) == (0.0, 1.0)
    assert math.isnan(diebold_mariano(np.array([1.0])).p)


@settings(max_examples=50, deadline=None)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_what_the_paper_says(p: list[float]) -> None:
    found = holm(np.array(p))
    order = sorted(range(len(p)), key=lambda place: p[place])
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for step, place in enumerate(order):  # stop at the first that is not small enough
            if p[place] > alpha / (len(p) - step):
                break
            rejected.add(place)
        near = {place for place in order if math.isclose(found[place], alpha, rel_tol=1e-9)}
        assert {place for place in order if found[place] <= alpha} - near == rejected - near
    assert (found >= np.array(p)).all()
    assert (found <= 1.0).all()


def test_holm_leaves_out_what_was_not_tested() -> None:
    found = holm(np.array([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(found, [0.02, np.nan, 0.04])


def test_the_table_says_who_is_better_worse_or_the_same() -> None:
    frame = forecasts(3)
    candidates = {"rival": "rival", "the truth": "truth", "too loud": "loud"}
    table = compare_forecasts(frame, "base", candidates, FAST)
    assert list(table.columns) == [
        "score", "name", "rows", "difference", "low", "high", "p_bootstrap", "p_dm", "p",
        "p_holm", "verdict",
    ]  # fmt: skip
    assert list(table["score"]) == ["log_loss"] * 3 + ["brier"] * 3
    for score in ("log_loss", "brier"):
        part = table[table["score"] == score].set_index("name")
        assert part["verdict"].to_dict() == {
            "rival": "no difference shown",
            "the truth": "better",
            "too loud": "worse",
        }
        assert (part["low"] <= part["difference"]).all()
        assert (part["difference"] <= part["high"]).all()
        assert (part["p_holm"] >= part["p"]).all()
        assert (part["p"] == part[["p_bootstrap", "p_dm"]].max(axis=1)).all()
    brier = ((frame["truth"] - frame["label"]) ** 2 - (frame["base"] - frame["label"]) ** 2).mean()
    assert table.loc[4, "difference"] == pytest.approx(brier, abs=1e-12)


def test_turning_the_comparison_round_turns_its_sign() -> None:
    frame = forecasts(4)
    one = compare_forecasts(frame, "base", {"x": "truth"}, FAST).iloc[0]
    other = compare_forecasts(frame, "truth", {"x": "base"}, FAST).iloc[0]
    assert one["difference"] == pytest.approx(-other["difference"])
    assert one["low"] == pytest.approx(-other["high"])
    assert one["p"] == pytest.approx(other["p"])
    assert {one["verdict"], other["verdict"]} == {"better", "worse"}


def test_copies_of_an_instrument_add_rows_but_no_certainty() -> None:
    frame = forecasts(5)
    one = compare_forecasts(frame, "base", {"x": "rival"}, FAST).iloc[0]
    many = compare_forecasts(pd.concat([frame] * 5), "base", {"x": "rival"}, FAST).iloc[0]
    assert many["rows"] == 5 * one["rows"]
    for name in ("difference", "low", "high", "p_bootstrap", "p_dm"):
        assert many[name] == pytest.approx(one[name], rel=1e-9), name


def test_only_rows_that_both_have_answered_count() -> None:
    frame = forecasts(6)
    frame.loc[::3, "rival"] = np.nan
    frame.loc[1::6, "base"] = np.nan
    frame.loc[2::12, "label"] = np.nan
    whole = frame.dropna(subset=["rival", "base", "label"])
    one = compare_forecasts(frame, "base", {"x": "rival"}, FAST)
    pd.testing.assert_frame_equal(one, compare_forecasts(whole, "base", {"x": "rival"}, FAST))
    assert one.loc[0, "rows"] == len(whole)


def test_a_few_days_show_nothing() -> None:
    table = compare_forecasts(forecasts(7, n_days=5), "base", {"x": "truth"}, FAST)
    assert table["p"].isna().all()
    assert (table["verdict"] == "no difference shown").all()


def test_midnight_belongs_to_the_day_that_ends() -> None:
    sums, counts = daily_sums(
        np.array([1.0, 2.0, 4.0]), np.array([NS_PER_DAY, 1, NS_PER_DAY + 1], dtype=np.int64)
    )
    np.testing.assert_array_equal(sums, [3.0, 4.0])
    np.testing.assert_array_equal(counts, [2.0, 1.0])


def test_equal_forecasts_are_told_apart_about_as_often_as_alpha_allows() -> None:
    """With days that depend on each other; the two tests apart, and both together."""
    config = ComparisonConfig(samples=200)
    found = []
    for seed in range(150):
        random = np.random.default_rng(seed)
        days = np.convolve(random.normal(0, 1, 202), [1.0, 0.6, 0.3], mode="valid")
        odds = np.repeat(0.3 * days, 4) * random.choice([-1.0, 1.0], 800)
        up = 1.0 / (1.0 + np.exp(-odds))
        frame = pd.DataFrame(
            {
                "ts_init": (np.arange(800) + 1) * (NS_PER_DAY // 4),
                "label": (random.random(800) < 0.5).astype(np.float64),
                "base": up,
                "turned": 1.0 - up,
            }
        )
        table = compare_forecasts(frame, "base", {"x": "turned"}, config, scores=("brier",))
        found.append(table.iloc[0][["p_bootstrap", "p_dm", "p"]].to_numpy(dtype=np.float64))
    shares = (np.array(found) < 0.1).mean(axis=0)
    assert (shares > 0.02).all()
    assert (shares < 0.19).all()
    assert shares[2] <= shares[:2].min()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: f.drop(columns="rival"), r"must have the columns \['rival'\]"),
        (lambda f: f.assign(base=1.0), r"base must be inside \(0, 1\) or NaN, was 1.0"),
        (lambda f: f.assign(rival=np.nan), "rival and base must have answered rows in common"),
    ],
)
def test_frames_that_cannot_be_compared_are_refused(change: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        compare_forecasts(change(forecasts(1, 3)), "base", {"x": "rival"}, FAST)  # type: ignore[operator]
