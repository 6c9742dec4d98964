"""Metrics against scikit-learn and against literal, slow recomputation."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_MINUTE
from research import metrics
from research.metrics import (
    ECE_BINS,
    PREDICTION_METRICS,
    BootstrapConfig,
    day_weights,
    prediction_metrics,
    reliability_curve,
)

STEP = 15 * NS_PER_MINUTE


def predictions(
    seed: int, n_times: int = 600, instruments: int = 2, digits: int = 3, skill: float = 2.0
) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    ts = np.repeat(np.arange(1, n_times + 1) * STEP, instruments)
    probability = np.clip(np.round(random.normal(0.5, 0.08, len(ts)), digits), 0.05, 0.95)
    truth = np.clip(0.5 + skill * (probability - 0.5), 0.01, 0.99)
    label = (random.random(len(ts)) < truth).astype(np.float64)
    label[random.random(len(ts)) < 0.02] = np.nan
    return pd.DataFrame({"ts_init": ts, "prob_up": probability, "label": label, "base_prob": 0.48})


def literal(frame: pd.DataFrame) -> dict[str, float]:
    """Compute every metric as its definition reads, row by row."""
    rows = frame.dropna(subset=["label"])
    p, y = rows["prob_up"].tolist(), rows["label"].tolist()
    n = len(p)
    hit = [0.5 if a == 0.5 else float((a > 0.5) == (b > 0.5)) for a, b in zip(p, y, strict=True)]
    return {
        "n": n,
        "auc": literal_auc(p, y),
        "accuracy": sum(hit) / n,
        "accuracy_at_10pct": literal_top(p, hit),
        "log_loss_skill": 1.0 - literal_loss(p, y) / literal_loss(rows["base_prob"].tolist(), y),
        "brier": sum((a - b) ** 2 for a, b in zip(p, y, strict=True)) / n,
        "ece": literal_ece(p, y),
        "accuracy_at_1pct": literal_top(p, hit, 0.01),
    }


def literal_auc(p: list[float], y: list[float]) -> float:
    ups = np.array([a for a, b in zip(p, y, strict=True) if b == 1.0])
    downs = np.array([a for a, b in zip(p, y, strict=True) if b == 0.0])
    if len(ups) == 0 or len(downs) == 0:
        return math.nan
    wins = (ups[:, None] > downs[None]).sum() + 0.5 * (ups[:, None] == downs[None]).sum()
    return wins / (len(ups) * len(downs))


def literal_loss(p: list[float], y: list[float]) -> float:
    return -sum(math.log(a if b == 1.0 else 1.0 - a) for a, b in zip(p, y, strict=True)) / len(p)


def literal_top(p: list[float], hit: list[float], coverage: float = 0.10) -> float:
    wanted, taken, hits = len(p) * coverage, 0.0, 0.0
    confidence = [abs(a - 0.5) for a in p]
    for level in sorted(set(confidence), reverse=True):
        tied = [h for c, h in zip(confidence, hit, strict=True) if c == level]
        share = min(1.0, (wanted - taken) / len(tied))
        hits += share * sum(tied)
        taken += share * len(tied)
        if taken >= wanted - 1e-12:
            break
    return hits / wanted


def literal_ece(p: list[float], y: list[float]) -> float:
    levels = sorted(set(p))
    if len(levels) <= ECE_BINS:
        bin_of = {level: position for position, level in enumerate(levels)}
    else:
        bin_of, below = {}, 0
        for level in levels:
            size = p.count(level)
            bin_of[level] = int((below + size / 2.0) * ECE_BINS / len(p))
            below += size
    gaps: dict[int, float] = {}
    for a, b in zip(p, y, strict=True):
        gaps[bin_of[a]] = gaps.get(bin_of[a], 0.0) + a - b
    return sum(abs(gap) for gap in gaps.values()) / len(p)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n_times=st.integers(20, 200), digits=st.integers(1, 5))
def test_every_metric_equals_its_literal_definition(seed: int, n_times: int, digits: int) -> None:
    frame = predictions(seed, n_times, digits=digits)
    found = prediction_metrics(frame, samples=0)
    assert tuple(found) == PREDICTION_METRICS
    for name, value in literal(frame).items():
        assert found[name].value == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_equals_scikit_learn() -> None:
    frame = predictions(1, 5000, digits=9)
    rows = frame.dropna()
    label, probability = rows["label"].to_numpy(), rows["prob_up"].to_numpy()
    found = {name: estimate.value for name, estimate in prediction_metrics(frame).items()}
    assert found["auc"] == pytest.approx(roc_auc_score(label, probability), abs=1e-12)
    assert found["accuracy"] == pytest.approx(accuracy_score(label, probability > 0.5))
    assert found["brier"] == pytest.approx(brier_score_loss(label, probability), abs=1e-12)
    skill = 1.0 - log_loss(label, probability) / log_loss(label, rows["base_prob"])
    assert found["log_loss_skill"] == pytest.approx(skill, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_of_rows_does_not_matter(seed: int) -> None:
    frame = predictions(seed, 200, digits=2)
    shuffled = frame.sample(frac=1.0, random_state=seed)
    one, other = prediction_metrics(frame, samples=50), prediction_metrics(shuffled, samples=50)
    for name in PREDICTION_METRICS:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-12)


def test_turning_the_market_upside_down_changes_no_skill() -> None:
    frame = predictions(3, 800)
    turned = frame.assign(
        prob_up=1.0 - frame["prob_up"], label=1.0 - frame["label"], base_prob=0.52
    )
    one, other = prediction_metrics(frame, samples=0), prediction_metrics(turned, samples=0)
    for name in ("auc", "accuracy", "log_loss_skill", "brier"):
        assert one[name].value == pytest.approx(other[name].value, abs=1e-12), name


@pytest.mark.parametrize("name", PREDICTION_METRICS[1:])
def test_each_bootstrap_value_is_the_metric_of_the_resampled_days(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeat each day's rows as often as it was drawn and compute literally."""
    frame = predictions(5, n_times=96 * 7, digits=2)
    day = (frame["ts_init"].to_numpy() - 1) // NS_PER_DAY
    weights = day_weights(7, 40, 2.0, 11)
    seen: list[np.ndarray] = []
    interval = metrics._interval

    def spy(value: float, drawn: np.ndarray) -> metrics.Estimate:
        seen.append(drawn)
        return interval(value, drawn)

    monkeypatch.setattr(metrics, "_interval", spy)
    prediction_metrics(frame, seed=11, samples=40, mean_block_days=2.0)
    drawn = seen[PREDICTION_METRICS.index(name) - 1]
    assert len(drawn) == 40
    if name == "ece":  # the bins stay those of the sample: only shape and spread are compared
        assert drawn.std() > 0.0
        return
    for sample in range(0, 40, 8):
        rows = np.concatenate(
            [np.tile(np.flatnonzero(day == d), int(weights[sample, d])) for d in range(7)]
        )
        assert drawn[sample] == pytest.approx(literal(frame.iloc[rows])[name], abs=1e-12)


def test_merged_groups_barely_move_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = predictions(9, 4000, digits=9)
    coarse = prediction_metrics(frame, samples=200)
    monkeypatch.setattr(metrics, "MAX_GROUPS", 1_000_000)
    exact = prediction_metrics(frame, samples=200)
    for name in PREDICTION_METRICS[1:]:
        assert coarse[name].value == exact[name].value
        width = exact[name].high - exact[name].low
        assert abs(coarse[name].low - exact[name].low) < 0.03 * width
        assert abs(coarse[name].high - exact[name].high) < 0.03 * width


def test_intervals_hold_the_value_and_widen_with_their_own_days() -> None:
    short = prediction_metrics(predictions(2, 96 * 10))
    long = prediction_metrics(predictions(2, 96 * 160))
    for name in PREDICTION_METRICS[1:]:
        for found in (short, long):
            assert found[name].low <= found[name].value <= found[name].high
        assert long[name].high - long[name].low < short[name].high - short[name].low


def test_copies_of_an_instrument_add_rows_but_no_certainty() -> None:
    """Ten instruments that move as one must not make the interval narrower than one does."""
    one = predictions(4, 96 * 60, instruments=1)
    copies = pd.concat([one] * 10, ignore_index=True)
    single, pooled = prediction_metrics(one), prediction_metrics(copies)
    for name in ("auc", "accuracy", "brier", "log_loss_skill"):
        assert pooled[name].low == pytest.approx(single[name].low, abs=1e-9)
        assert pooled[name].high == pytest.approx(single[name].high, abs=1e-9)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(100):
        frame = predictions(seed, 60 * 8, instruments=1, skill=1.0)
        frame["ts_init"] *= 12  # eight rows a day
        found = prediction_metrics(frame, samples=200, seed=seed, mean_block_days=2.0)["brier"]
        p = frame["prob_up"].to_numpy()
        hits += found.low <= float(np.mean(p * (1.0 - p))) <= found.high
    assert 88 <= hits <= 100


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    frame = predictions(8)
    one, same = prediction_metrics(frame, seed=1), prediction_metrics(frame, seed=1)
    assert [tuple(one[k]) for k in PREDICTION_METRICS[1:]] == [
        tuple(same[k]) for k in PREDICTION_METRICS[1:]
    ]
    assert one["auc"] != prediction_metrics(frame, seed=2)["auc"]


def test_day_weights_draw_blocks_of_the_stated_mean_length() -> None:
    weights = day_weights(200, 500, 8.0, 3)
    assert weights.shape == (500, 200)
    assert (weights.sum(axis=1) == 200).all()
    # Every day is drawn equally often (the sample is circular).
    assert weights.mean(axis=0) == pytest.approx(np.ones(200), abs=0.4)
    # Neighbours come together: their counts' correlation is about 1 - 1/8.
    left, right = weights[:, :-1].ravel() - 1.0, weights[:, 1:].ravel() - 1.0
    assert (left @ right) / (left @ left) == pytest.approx(1.0 - 1.0 / 8.0, abs=0.05)


def test_one_day_leaves_the_interval_open() -> None:
    found = prediction_metrics(predictions(1, 90))
    assert math.isnan(found["auc"].low)
    assert not math.isnan(found["auc"].value)


def test_midnight_belongs_to_the_day_that_ends() -> None:
    frame = predictions(1, 96)  # 00:15 .. 24:00 of one day
    assert math.isnan(prediction_metrics(frame)["auc"].low)


def test_one_class_has_no_auc() -> None:
    frame = predictions(1, 300).assign(label=1.0)
    assert math.isnan(prediction_metrics(frame)["auc"].value)


def test_reliability_curve_counts_every_row_once() -> None:
    frame = predictions(6, 3000, digits=9)
    curve = reliability_curve(frame, 12)
    rows = frame.dropna()
    assert len(curve.count) == 12
    assert curve.count.sum() == len(rows)
    assert curve.count.max() - curve.count.min() <= 2
    assert (np.diff(curve.mean_probability) > 0).all()
    shares = np.array([estimate.value for estimate in curve.observed])
    assert curve.count @ shares == pytest.approx(rows["label"].sum())
    assert curve.count @ curve.mean_probability == pytest.approx(rows["prob_up"].sum())
    for estimate in curve.observed:
        assert estimate.low < estimate.value < estimate.high


def test_reliability_gap_is_the_ece() -> None:
    frame = predictions(6, 1000, digits=2)
    curve = reliability_curve(frame, ECE_BINS, config=BootstrapConfig(samples=0))
    shares = np.array([estimate.value for estimate in curve.observed])
    gap = (curve.count * np.abs(curve.mean_probability - shares)).sum() / curve.count.sum()
    assert prediction_metrics(frame, samples=0)["ece"].value == pytest.approx(gap, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: f.drop(columns="base_prob"), r"must have the columns \['base_prob'\]"),
        (lambda f: f.assign(label=np.nan), "must have rows with a label"),
        (lambda f: f.assign(prob_up=1.0), r"prob_up must be inside \(0, 1\), was 1.0"),
        (lambda f: f.assign(prob_up=np.nan), r"prob_up must be inside \(0, 1\), was nan"),
    ],
)
def test_unusable_frames_are_refused(change: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        prediction_metrics(change(predictions(1, 200)))  # type: ignore[operator]


@pytest.mark.slow
def test_a_year_and_a_half_of_three_instruments_takes_seconds() -> None:
    frame = predictions(1, 48_192, instruments=3, digits=4)
    started = time.perf_counter()
    prediction_metrics(frame)
    assert time.perf_counter() - started < 10.0  # about 0.3 s on an idle core
