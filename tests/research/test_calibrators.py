"""The family of calibrations: references, what all of them keep, and which one is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from catalog.errors import DataError, IntegrityError
from catalog.timestamps import NS_PER_DAY, NS_PER_MINUTE
from research.calibration import (
    CalibrationConfig,
    CalibrationRows,
    calibration_from_json,
    choose_calibration,
    fit_calibration,
    too_few,
)
from research.calibrators import (
    BetaCalibration,
    Calibration,
    IdentityCalibration,
    IsotonicCalibration,
    PlattCalibration,
    VennAbersCalibration,
)
from research.nested import HeldOut, paired_standard_error, simplest_within_error
from research.penalised_logistic import Prior, WeightedRows, fit_logistic
from research.probabilities import SMALLEST, from_log_odds, log_odds

FAMILY = ("none", "platt", "beta", "isotonic", "venn_abers")
STEP = 15 * NS_PER_MINUTE


def draw(
    seed: int, n_rows: int, curve: Callable[[np.ndarray], np.ndarray] = lambda s: 0.2 + 0.6 * s
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, labels drawn from a curve of them, and weights."""
    random = np.random.default_rng(seed)
    score = random.beta(4, 4, n_rows)
    label = (random.random(n_rows) < curve(score)).astype(np.float64)
    return score, label, random.uniform(0.2, 2.0, n_rows)


def rows_of(score: np.ndarray, label: np.ndarray, horizon: int = 1) -> CalibrationRows:
    ts = np.repeat(np.arange(1, len(score) // 2 + 1) * STEP, 2)  # two instruments a time
    return CalibrationRows(score, label, None, ts, ts + horizon * STEP)


def test_platt_equals_scikit_learn_on_smoothed_targets() -> None:
    score, label, weight = draw(1, 900)
    found = PlattCalibration.fit(score, label, weight)
    even = weight / weight.mean()
    ups = (even * label).sum()
    downs = even.sum() - ups
    target = np.where(label == 1.0, (ups + 1.0) / (ups + 2.0), 1.0 / (downs + 2.0))
    design = np.log(score / (1.0 - score))[:, None]
    # A fractional target is one row of either label, weighted.
    reference = LogisticRegression(C=1e10, tol=1e-12, max_iter=1000).fit(
        np.vstack([design, design]),
        np.repeat([1, 0], len(score)),
        sample_weight=np.concatenate([even * target, even * (1.0 - target)]),
    )
    assert found.slope == pytest.approx(reference.coef_[0, 0], abs=1e-5)
    assert found.intercept == pytest.approx(reference.intercept_[0], abs=1e-5)


@pytest.mark.parametrize("curve", ["plain", "one slope held"])
def test_beta_equals_a_literal_minimisation_under_its_signs(curve: str) -> None:
    # With a curve that falls at the left, the unconstrained first slope would be negative.
    shape = {
        "plain": lambda s: from_log_odds(0.5 * np.log(s) - 1.5 * np.log(1 - s) - 0.3),
        "one slope held": lambda s: np.where(s < 0.3, 0.6, 0.2 + 0.5 * s),
    }[curve]
    score, label, weight = draw(2, 1500, shape)
    found = BetaCalibration.fit(score, label, weight)
    even = weight / weight.mean()
    ups = (even * label).sum()
    downs = even.sum() - ups
    target = np.where(label == 1.0, (ups + 1.0) / (ups + 2.0), 1.0 / (downs + 2.0))

    def loss(c: np.ndarray) -> float:
        eta = c[0] * np.log(score) - c[1] * np.log(1.0 - score) + c[2]
        return float((even * (np.logaddexp(0.0, eta) - target * eta)).sum())

    reference = minimize(
        loss, [1.0, 1.0, 0.0], bounds=[(0, None), (0, None), (None, None)], method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000},
    )  # fmt: skip
    ours = np.array([found.up_slope, found.down_slope, found.intercept])
    assert loss(ours) <= reference.fun + 1e-6
    assert (found.up_slope == 0.0) == (curve == "one slope held")


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), digits=st.integers(1, 5), weighted=st.booleans())
def test_venn_abers_equals_two_isotonic_regressions_for_each_row(
    seed: int, digits: int, weighted: bool
) -> None:
    score, label, weight = draw(seed, 60)
    score = np.round(score, digits)
    found = VennAbersCalibration.fit(score, label, weight if weighted else None)
    even = weight / weight.mean() if weighted else np.ones(60)
    probe = np.concatenate([score[:12], np.random.default_rng(seed).random(6), [0.0, 1.0]])
    for said, bound in zip((0.0, 1.0), found.bounds(probe), strict=True):
        for place, value in enumerate(probe):
            reference = IsotonicRegression().fit(
                np.append(score, value), np.append(label, said), np.append(even, 1.0)
            )
            assert bound[place] == pytest.approx(reference.predict([value])[0], abs=1e-9)


def test_venn_abers_bounds_hold_the_merged_probability_and_narrow_with_rows() -> None:
    probe = np.linspace(0.2, 0.8, 50)
    widths = []
    for n_rows in (200, 20_000):
        found = VennAbersCalibration.fit(*draw(3, n_rows)[:2])
        low, high = found.bounds(probe)
        assert ((low <= found(probe)) & (found(probe) <= high)).all()
        widths.append((high - low).mean())
    assert widths[1] < widths[0] / 5


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), method=st.sampled_from(FAMILY), n_rows=st.integers(50, 400))
def test_every_map_rises_stays_inside_and_comes_back_from_json(
    seed: int, method: str, n_rows: int
) -> None:
    score, label, weight = draw(seed, n_rows)
    found = fit_calibration(method, score, label, weight)
    probe = np.linspace(0.0, 1.0, 777)
    said = found(probe)
    assert (np.diff(said) >= 0.0).all()
    assert said.min() >= SMALLEST
    assert said.max() <= 1.0 - SMALLEST
    again = calibration_from_json(found.to_json())
    assert type(again) is type(found)
    assert again.to_json() == found.to_json()
    np.testing.assert_array_equal(again(probe), said)
    assert again.n_parameters == found.n_parameters


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), method=st.sampled_from(FAMILY))
def test_a_row_alone_gives_the_same_bits_as_in_a_batch(seed: int, method: str) -> None:
    score, label, weight = draw(seed, 200)
    found = fit_calibration(method, score, label, weight)
    probe = np.append(score[:60], np.nan)
    alone = np.concatenate([found(probe[place : place + 1]) for place in range(len(probe))])
    np.testing.assert_array_equal(found(probe), alone)
    strided = np.stack([probe, probe], axis=1)
    np.testing.assert_array_equal(found(strided[:, 0]), alone)
    assert np.isnan(alone[-1])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), method=st.sampled_from(FAMILY))
def test_order_scale_and_direction_do_not_matter(seed: int, method: str) -> None:
    score, label, weight = draw(seed, 300)
    order = np.random.default_rng(seed).permutation(len(score))
    probe = np.linspace(0.05, 0.95, 99)
    found = fit_calibration(method, score, label, weight)(probe)
    shuffled = fit_calibration(method, score[order], label[order], 7.0 * weight[order])(probe)
    np.testing.assert_allclose(shuffled, found, rtol=0, atol=1e-7)
    turned = fit_calibration(method, 1.0 - score, 1.0 - label, weight)(1.0 - probe)
    np.testing.assert_allclose(1.0 - turned, found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["platt", "beta", "isotonic", "venn_abers"])
def test_scores_that_are_all_equal_give_about_the_share_of_rises(method: str) -> None:
    label = (np.arange(400) % 4 == 0).astype(np.float64)
    found = fit_calibration(method, np.full(400, 0.6), label)
    assert found(np.array([0.6]))[0] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("method", ["platt", "beta"])
def test_a_score_that_is_wrong_way_round_is_not_turned_but_silenced(method: str) -> None:
    score, label, _ = draw(5, 4000, lambda s: 0.8 - 0.6 * s)
    said = fit_calibration(method, score, label)(np.linspace(0.1, 0.9, 9))
    assert (np.diff(said) >= 0.0).all()
    assert said[-1] - said[0] < 0.25


@pytest.mark.parametrize("method", ["platt", "beta"])
def test_separated_classes_converge(method: str) -> None:
    score = np.linspace(0.01, 0.99, 200)
    said = fit_calibration(method, score, (score > 0.5).astype(np.float64))(score)
    assert said[0] < 0.05
    assert said[-1] > 0.95


def test_the_solver_equals_a_literal_minimisation_with_prior_signs_and_offset() -> None:
    random = np.random.default_rng(4)
    columns = random.normal(0, 1, (4, 500))
    target = random.random(500)
    weight = random.uniform(0.5, 1.5, 500)
    prior = Prior(
        np.array([0.3, 0.3, -0.2, 0.0]),
        np.array([5.0, 1.0, 3.0, 0.1]),
        np.array([True, True, False, True]),
    )
    found = fit_logistic(WeightedRows(columns, target, weight, 0.4), prior)

    def loss(c: np.ndarray) -> float:
        eta = 0.4 + c @ columns
        penalty = 0.5 * (prior.strength * (c - prior.centre) ** 2).sum()
        return float((weight * (np.logaddexp(0.0, eta) - target * eta)).sum() + penalty)

    bounds = [(0, None), (0, None), (None, None), (0, None)]
    options = {"ftol": 1e-15, "gtol": 1e-9}
    reference = minimize(loss, np.zeros(4), bounds=bounds, method="L-BFGS-B", options=options)
    np.testing.assert_allclose(found, reference.x, atol=1e-4)
    assert loss(found) <= reference.fun + 1e-9


CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda s: s,
    "platt": lambda s: from_log_odds(0.4 * log_odds(s) + 0.25),
    "beta": lambda s: from_log_odds(0.1 * np.log(s) - 2.0 * np.log(1.0 - s) - 1.6),
    "isotonic": lambda s: np.where(s < 0.4, 0.35, np.where(s < 0.6, 0.5, 0.65)),
}


@pytest.mark.parametrize("truth", list(CURVES))
@pytest.mark.parametrize("seed", [1, 2])
def test_the_map_that_the_data_came_from_is_chosen(truth: str, seed: int) -> None:
    score, label, _ = draw(seed, 30_000, CURVES[truth])
    calibration, report, _ = choose_calibration(
        rows_of(score, label), CalibrationConfig(method="auto")
    )
    assert report.chosen == truth == calibration.name
    probe = np.linspace(0.2, 0.8, 61)
    assert np.abs(calibration(probe) - CURVES[truth](probe)).mean() < 0.02


def test_isotonic_flattens_the_tail_and_the_report_says_so() -> None:
    score, label, _ = draw(7, 20_000, CURVES["platt"])
    choice = choose_calibration(rows_of(score, label), CalibrationConfig(method="auto"))
    report = choice.report
    assert len(report.tails) == 4 * 2 * 3
    for tail in report.tails:
        if tail.method == "isotonic" and tail.fraction == 0.005:
            assert tail.distinct == 1
        if tail.method == "platt":
            assert tail.distinct == tail.rows
            assert abs(tail.predicted - tail.observed) < 0.12
    high = {t.fraction: t for t in report.tails if t.method == "none" and t.side == "high"}
    assert {f: t.rows for f, t in high.items()} == {0.005: 100, 0.01: 200, 0.05: 1000}
    top = score >= np.sort(score)[-200]
    assert high[0.01].observed == pytest.approx(label[top].mean())
    assert high[0.01].predicted == pytest.approx(score[top].mean())
    assert report.distinct["platt"] == 20_000 > 200 > report.distinct["isotonic"]
    text = str(report)
    assert text.startswith("calibration: platt, of 20,000 rows")
    assert len({len(line) for line in text.splitlines()[1:6]}) == 1
    assert json.loads(json.dumps(report.as_dict()))["methods"][1]["name"] == "platt"


def held_out(rows: CalibrationRows, folds: int = 4) -> np.ndarray:
    config = CalibrationConfig(method="platt", choice_folds=folds)
    return choose_calibration(rows, config).held_out


def test_held_out_rows_are_calibrated_by_a_map_that_did_not_see_them() -> None:
    score, label, _ = draw(8, 2000)
    before = held_out(rows_of(score, label))
    changed = label.copy()
    changed[:500] = 1.0 - changed[:500]  # the first of four blocks
    after = held_out(rows_of(score, changed))
    np.testing.assert_array_equal(after[:500], before[:500])
    assert (after[500:] != before[500:]).all()


def test_labels_that_look_into_a_held_out_block_are_purged() -> None:
    score, label, _ = draw(9, 2000)
    horizon = 8
    before = held_out(rows_of(score, label, horizon))
    changed = label.copy()
    purged = slice(1000 - 2 * (horizon - 1), 1000)  # their spans end inside the third block
    changed[purged] = 1.0 - changed[purged]
    after = held_out(rows_of(score, changed, horizon))
    np.testing.assert_array_equal(after[1000:1500], before[1000:1500])
    assert (after[:500] != before[:500]).all()


def test_rows_without_an_answer_are_left_out() -> None:
    score, label, _ = draw(10, 1000)
    gaps = score.copy()
    gaps[::3] = np.nan
    config = CalibrationConfig(method="beta")
    choice = choose_calibration(rows_of(gaps, label), config)
    assert choice.report.rows == np.isfinite(gaps).sum()
    np.testing.assert_array_equal(np.isnan(choice.held_out), np.isnan(gaps))
    kept = np.isfinite(gaps)
    assert choice.calibration == BetaCalibration.fit(score[kept], label[kept])


@pytest.mark.parametrize("horizon", [1, 12])
@pytest.mark.parametrize("count", [0, 1, 49, 50, 62, 63, 70, 86, 87, 200])
def test_too_few_answers_are_told_exactly_where_no_map_could_be_chosen(
    count: int, horizon: int
) -> None:
    score, label, _ = draw(11, 1000)
    label[::2] = 1.0 - label[1::2]  # both classes in any few rows
    score[count:] = np.nan
    rows, config = rows_of(score, label, horizon), CalibrationConfig()
    found = too_few(rows, config)
    if not found:
        assert choose_calibration(rows, config).report.rows == count
        return
    assert found.startswith(f"answered {count} held-out rows, of which each of 5 blocks must leave")
    with pytest.raises(DataError):
        choose_calibration(rows, config)


def test_ties_go_to_the_simpler_and_clear_differences_do_not() -> None:
    ts = np.arange(1000) * NS_PER_DAY
    random = np.random.default_rng(1)
    base = random.random(1000)
    noise = random.normal(0, 0.1, 1000)
    noise -= noise.mean()
    weight = np.ones(1000)
    tied = HeldOut(("simple", "rich"), np.stack([base + noise + 0.001, base]), weight, ts)
    assert simplest_within_error(tied.measured((0, 9))) == "simple"
    apart = HeldOut(("simple", "rich"), np.stack([base + noise + 0.02, base]), weight, ts)
    assert simplest_within_error(apart.measured((0, 9))) == "rich"


def test_the_standard_error_knows_that_neighbours_agree() -> None:
    random = np.random.default_rng(3)
    ts = np.arange(40_000) * STEP
    independent = random.normal(0, 1, 40_000)
    error = paired_standard_error(independent, np.ones(40_000), ts)
    assert error == pytest.approx(1.0 / 200.0, rel=0.25)
    sticky = np.repeat(independent[:400], 100)  # a hundred bars that move as one
    error = paired_standard_error(sticky, np.ones(40_000), ts)
    assert error == pytest.approx(1.0 / 20.0, rel=0.25)
    copies = np.tile(sticky, 3)  # three instruments that move as one add nothing
    same = paired_standard_error(copies, np.ones(120_000), np.tile(ts, 3))
    assert same == pytest.approx(error, rel=1e-9)
    assert paired_standard_error(sticky, np.ones(40_000), np.zeros(40_000, np.int64)) == np.inf


KINDS: tuple[type[Calibration], ...] = (
    IdentityCalibration, PlattCalibration, BetaCalibration, IsotonicCalibration,
    VennAbersCalibration,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["{", "[]", "3", '{"method": "other"}', "{}"])
def test_other_json_is_refused_by_each(kind: type[Calibration], text: str) -> None:
    with pytest.raises(IntegrityError, match="calibration"):
        kind.from_json(text)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"method": "magic"}, "must be one of .*, was 'magic'"),
        ({"method": ["platt"]}, "must be one of"),
        ({"method": "platt", "slope": -1.0, "intercept": 0.0}, "slope .* must be >= 0, was -1"),
        ({"method": "platt", "slope": 1.0}, "record of slope, intercept"),
        ({"method": "platt", "slope": float("nan"), "intercept": 0.0}, "must be finite, was nan"),
        (
            {"method": "beta", "up_slope": 1.0, "down_slope": -0.5, "intercept": 0.0},
            "down_slope .* must be >= 0, was -0.5",
        ),
        (
            {
                "method": "venn_abers", "lower_score": [0.2, 0.1], "lower": [0.1, 0.2],
                "upper_score": [0.1], "upper": [0.3],
            },
            "lower steps must be equally many, scores strictly ascending",
        ),
    ],
)  # fmt: skip
def test_records_that_no_map_could_have_written_are_refused(
    record: dict[str, object], text: str
) -> None:
    with pytest.raises(IntegrityError, match=text):
        calibration_from_json(json.dumps(record))


@pytest.mark.parametrize("method", FAMILY)
def test_unusable_rows_are_refused_by_every_map(method: str) -> None:
    score, label, weight = draw(1, 60)
    with pytest.raises(DataError, match="at least 50 out-of-fold rows, had 49"):
        fit_calibration(method, score[:49], label[:49])
    with pytest.raises(DataError, match="labels to calibrate on must be 0 or 1"):
        fit_calibration(method, score, label + 0.5)
    with pytest.raises(DataError, match="weights to calibrate with must be positive"):
        fit_calibration(method, score, label, weight - weight.min())


def test_columns_of_different_length_are_refused() -> None:
    score, label, _ = draw(1, 60)
    with pytest.raises(DataError, match=r"must be equally long, were .*'label': 59"):
        CalibrationRows(score, label[1:], None, np.arange(60), np.arange(60))
