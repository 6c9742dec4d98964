"""Calibration against scikit-learn, and what no probability may ever be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.isotonic import IsotonicRegression

from catalog.errors import DataError, IntegrityError
from research.calibration import CalibrationConfig, IsotonicCalibration, join_tails


def sample(seed: int, n_rows: int, digits: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    score = np.round(random.beta(5, 5, n_rows), digits)
    truth = 0.5 + 0.3 * (score - 0.5)
    return score, (random.random(n_rows) < truth).astype(np.float64)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n_rows=st.integers(60, 800), digits=st.integers(1, 6))
def test_equals_scikit_learn_at_every_score(seed: int, n_rows: int, digits: int) -> None:
    score, label = sample(seed, n_rows, digits)
    weight = np.random.default_rng(seed).uniform(0.1, 2.0, n_rows)
    found = IsotonicCalibration.fit(score, label, weight)
    tail = max(1, int(n_rows * 0.005))
    bound = 1.0 / (tail + 2.0)
    reference = IsotonicRegression(y_min=bound, y_max=1.0 - bound, out_of_bounds="clip")
    reference.fit(join_tails(score, tail), label, sample_weight=weight)
    probe = np.concatenate([score, np.linspace(0.0, 1.0, 501)])
    np.testing.assert_allclose(found(probe), reference.predict(probe), rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n_rows=st.integers(50, 500))
def test_is_monotone_and_never_certain(seed: int, n_rows: int) -> None:
    score, label = sample(seed, n_rows)
    found = IsotonicCalibration.fit(score, label)(np.linspace(0.0, 1.0, 1001))
    assert (np.diff(found) >= 0.0).all()
    assert found.min() >= 1.0 / (n_rows + 2.0)
    assert found.max() <= 1.0 - 1.0 / (n_rows + 2.0)


def test_perfect_separation_is_bounded_by_laplace() -> None:
    score = np.linspace(0.0, 1.0, 1000)
    label = (score > 0.5).astype(np.float64)
    found = IsotonicCalibration.fit(score, label, tail_frac=0.01)
    # Ten rows at either end share a score, all of one kind: (0 + 1) / (10 + 2).
    assert found(np.array([0.0]))[0] == pytest.approx(1.0 / 12.0)
    assert found(np.array([1.0]))[0] == pytest.approx(11.0 / 12.0)


@pytest.mark.parametrize("ups", [0.0, 1.0])
def test_labels_of_one_kind_give_laplace_and_not_certainty(ups: float) -> None:
    score = np.linspace(0.2, 0.8, 200)
    found = IsotonicCalibration.fit(score, np.full(200, ups), tail_frac=0.005)
    np.testing.assert_allclose(found(score), 2.0 / 3.0 if ups else 1.0 / 3.0)


def test_calibrated_mean_is_the_observed_rate() -> None:
    score, label = sample(3, 20_000)
    found = IsotonicCalibration.fit(score, label)(score)
    # Isotonic regression keeps the total.
    assert found.mean() == pytest.approx(label.mean(), abs=1e-9)


def test_an_end_step_rests_on_the_tail_and_the_inside_is_left_alone() -> None:
    score = np.linspace(0.0, 1.0, 1000)
    label = (np.arange(1000) % 2).astype(np.float64)
    label[:3], label[-3:] = 0.0, 1.0  # three lucky rows at either end
    label[500:-20] = np.tile([1.0, 1.0, 0.0], 160)
    joined = IsotonicCalibration.fit(score, label, tail_frac=0.02)
    alone = IsotonicCalibration.fit(score, label, tail_frac=0.001)
    assert alone(score)[0] < 0.35 < 0.4 < joined(score)[0]
    np.testing.assert_allclose(joined(score)[100:400], alone(score)[100:400], atol=0.01)


def test_order_of_rows_does_not_matter() -> None:
    score, label = sample(5, 3000, digits=3)
    shuffled = np.random.default_rng(0).permutation(len(score))
    one = IsotonicCalibration.fit(score, label)
    other = IsotonicCalibration.fit(score[shuffled], label[shuffled])
    probe = np.linspace(0, 1, 333)
    np.testing.assert_allclose(one(probe), other(probe), rtol=0, atol=1e-12)


def test_json_keeps_every_bit() -> None:
    score, label = sample(7, 5000)
    found = IsotonicCalibration.fit(score, label)
    again = IsotonicCalibration.from_json(found.to_json())
    np.testing.assert_array_equal(found.score, again.score)
    np.testing.assert_array_equal(found.probability, again.probability)
    assert again.to_json() == found.to_json()


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ("{", "must be a JSON record of knots"),
        ('{"method": "isotonic"}', "must be a JSON record of knots"),
        (json.dumps({"method": "platt", "score": [], "probability": []}), "must be 'isotonic'"),
        (json.dumps({"method": "isotonic", "score": [], "probability": []}), "equally many"),
        (
            json.dumps({"method": "isotonic", "score": [0.2, 0.1], "probability": [0.3, 0.4]}),
            "strictly ascending",
        ),
        (
            json.dumps({"method": "isotonic", "score": [0.1, 0.2], "probability": [0.4, 0.3]}),
            "ascending inside",
        ),
        (json.dumps({"method": "isotonic", "score": [0.1], "probability": [1.0]}), "inside"),
    ],
)
def test_other_json_is_refused(record: str, text: str) -> None:
    with pytest.raises(IntegrityError, match=text):
        IsotonicCalibration.from_json(record)


@pytest.mark.parametrize(
    ("score", "label", "text"),
    [
        (np.linspace(0, 1, 49), np.zeros(49), "at least 50 out-of-fold rows, had 49"),
        (np.full(60, np.nan), np.zeros(60), "scores to calibrate must be finite"),
        (np.linspace(0, 1, 60), np.full(60, 0.5), "labels to calibrate on must be 0 or 1"),
    ],
)
def test_unusable_rows_are_refused(score: np.ndarray, label: np.ndarray, text: str) -> None:
    with pytest.raises(DataError, match=text):
        IsotonicCalibration.fit(score, label)


def test_one_inner_fold_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        CalibrationConfig(inner_folds=1)
