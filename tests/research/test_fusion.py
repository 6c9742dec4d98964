"""The fusion: what every method keeps, what it recovers, and that its choice is nested."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from catalog.errors import ConfigError, DataError, IntegrityError
from catalog.timestamps import NS_PER_MINUTE
from research.calibration import CalibrationConfig
from research.experts import ExpertOutput
from research.fusion import FIRST_WEIGHTS, METHODS, Fusion, FusionConfig
from research.fusion_fit import SILENCE, FusionRows, fit_fusion, fit_method
from research.fusion_moments import combine_moments, mixture_epistemic, mixture_moments
from research.probabilities import log_losses

STEP = 15 * NS_PER_MINUTE
NAMES = ("lightgbm", "tft", "sentiment")
PLAIN = CalibrationConfig(method="none")


def sigmoid(value: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-value)))


def rows_of(
    columns: list[np.ndarray], label: np.ndarray, names: tuple[str, ...] = NAMES, horizon: int = 1
) -> FusionRows:
    ts = np.repeat(np.arange(1, len(label) // 2 + 1) * STEP, 2)  # two instruments a time
    regime = np.tile([-1.0, 0.0, 1.0, np.nan], len(label) // 4)
    table = np.stack(columns, axis=1)
    return FusionRows(names, table, label, None, regime, ts, ts + horizon * STEP)


def market(seed: int, n_rows: int = 24_000, spread: float = 0.3) -> tuple[np.ndarray, ...]:
    """Return two independent parts of the truth's log-odds, and labels."""
    random = np.random.default_rng(seed)
    one, other = random.normal(0, spread, (2, n_rows))
    label = (random.random(n_rows) < sigmoid(one + other)).astype(np.float64)
    return one, other, label


def noisy(seed: int, n_rows: int = 600) -> FusionRows:
    """Return three correlated experts with holes."""
    random = np.random.default_rng(seed)
    one, other, label = market(seed, n_rows)
    columns = [sigmoid(one + other + random.normal(0, 0.4, n_rows)) for _ in NAMES]
    for column in columns:
        column[random.random(n_rows) < 0.1] = np.nan
    columns[0][np.isnan(columns).all(axis=0)] = 0.5
    return rows_of(columns, label)


def questions(seed: int, n_rows: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities with holes, freshness with zeros and regimes to combine."""
    random = np.random.default_rng(seed)
    said = random.uniform(0.02, 0.98, (n_rows, len(NAMES)))
    said[random.random(said.shape) < 0.3] = np.nan
    said[0] = np.nan
    fresh = np.where(random.random(said.shape) < 0.5, 1.0, random.random(said.shape).round(1))
    return said, fresh, random.choice([-1.0, 0.0, 1.0, np.nan], n_rows)


def loss(probability: np.ndarray, label: np.ndarray) -> float:
    return float(log_losses(probability, label).mean())


every_method = pytest.mark.parametrize("method", METHODS)


@every_method
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), calibrated=st.booleans())
def test_weights_sum_to_one_over_who_is_there(method: str, seed: int, calibrated: bool) -> None:
    again = CalibrationConfig(method="platt") if calibrated else PLAIN
    config = FusionConfig(method=method, recalibration=again)  # type: ignore[arg-type]
    fusion = fit_fusion(noisy(seed), config).fusion
    assert (fusion.calibration is not None) == calibrated
    said, fresh, regime = questions(seed)
    found = fusion.combine(said, fresh, regime)
    missing = np.isnan(said) | (fresh == 0.0)
    nobody = missing.all(axis=1)
    assert 0 < nobody.sum() < len(said)
    np.testing.assert_array_equal(found.missing, missing)
    np.testing.assert_array_equal(np.isnan(found.prob_up), nobody)
    assert (found.weights >= 0.0).all()
    assert (found.weights[missing] == 0.0).all()
    np.testing.assert_allclose(found.weights.sum(axis=1), ~nobody, atol=1e-12)
    told = found.prob_up[~nobody]
    assert ((told > 0.0) & (told < 1.0)).all()


@every_method
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_row_alone_and_a_fusion_from_json_give_the_same_bits(method: str, seed: int) -> None:
    fusion = fit_method(method, noisy(seed), FusionConfig())
    said, fresh, regime = questions(seed, 25)
    found = fusion.combine(said, fresh, regime)
    again = Fusion.from_json(fusion.to_json())
    assert again.to_json() == fusion.to_json()
    for place in range(len(said)):
        row = slice(place, place + 1)
        alone = again.combine(said[row], fresh[row], regime[row])
        np.testing.assert_array_equal(alone.prob_up, found.prob_up[row])
        np.testing.assert_array_equal(alone.weights, found.weights[row])


@every_method
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(3)))
def test_the_order_of_the_experts_does_not_matter(method: str, seed: int, order: list[int]) -> None:
    rows = noisy(seed)
    turned = replace(
        rows,
        experts=tuple(rows.experts[place] for place in order),
        probabilities=rows.probabilities[:, order],
    )
    said, fresh, regime = questions(seed)
    one = fit_method(method, rows, FusionConfig()).combine(said, fresh, regime)
    other = fit_method(method, turned, FusionConfig()).combine(
        said[:, order], fresh[:, order], regime
    )
    np.testing.assert_allclose(other.prob_up, one.prob_up, atol=1e-7)
    np.testing.assert_allclose(other.weights, one.weights[:, order], atol=1e-7)


@every_method
def test_an_expert_that_is_not_fresh_at_all_is_as_good_as_missing(method: str) -> None:
    fusion = fit_method(method, noisy(3), FusionConfig())
    said = np.random.default_rng(3).uniform(0.1, 0.9, (30, 3))
    fresh, holes = np.ones((30, 3)), said.copy()
    fresh[:, 1], holes[:, 1] = 0.0, np.nan
    np.testing.assert_array_equal(
        fusion.combine(said, fresh).prob_up, fusion.combine(holes).prob_up
    )


@every_method
def test_the_weight_of_a_stale_expert_falls_with_its_freshness(method: str) -> None:
    fusion = fit_method(method, noisy(4, 4000), FusionConfig())
    said, _, _ = questions(4, 1)
    said[:] = [[0.6, 0.45, 0.55]]
    grades = np.linspace(1.0, 0.0, 11)
    shares = []
    for grade in grades:
        fresh = np.array([[grade, 1.0, 1.0]])
        shares.append(fusion.combine(said, fresh).weights[0, 0])
    falls = np.diff(shares)
    if method == "best":  # all or nothing
        assert set(shares) <= {0.0, 1.0}
    else:
        assert (falls < 0.0).all() or shares[0] == 0.0
    assert shares[-1] == 0.0


@pytest.mark.parametrize("method", ["equal", "fixed", "log_pool", "regime"])
def test_a_pool_rises_with_each_expert(method: str) -> None:
    fusion = fit_method(method, noisy(5), FusionConfig())
    for expert in range(3):
        said = np.full((50, 3), 0.55)
        said[:, expert] = np.linspace(0.01, 0.99, 50)
        assert (np.diff(fusion.combine(said).prob_up) >= 0.0).all()


def test_means_are_what_they_say() -> None:
    rows = noisy(6)
    said = np.array([[0.6, 0.3, 0.8], [0.6, np.nan, 0.8], [0.5, 0.5, 0.5]])
    equal = fit_method("equal", rows, FusionConfig()).combine(said)
    np.testing.assert_allclose(equal.prob_up, [1.7 / 3.0, 0.7, 0.5])
    fixed = fit_method("fixed", rows, FusionConfig()).combine(said)
    assert FIRST_WEIGHTS == {"lightgbm": 0.5, "tft": 0.3, "sentiment": 0.2}
    first = 0.5 * 0.6 + 0.3 * 0.3 + 0.2 * 0.8
    np.testing.assert_allclose(fixed.prob_up, [first, (0.5 * 0.6 + 0.2 * 0.8) / 0.7, 0.5])
    sure = fit_method("confidence", rows, FusionConfig()).combine(said)
    np.testing.assert_allclose(sure.weights[0], [0.2 / 1.2, 0.4 / 1.2, 0.6 / 1.2])
    np.testing.assert_allclose(sure.weights[1], [0.2 / 0.8, 0.0, 0.6 / 0.8])
    np.testing.assert_allclose(sure.weights[2], np.full(3, 1.0 / 3.0))


def test_best_takes_the_next_best_where_the_best_is_missing() -> None:
    one, other, label = market(7)
    columns = [sigmoid(0.2 * one), sigmoid(one + other), sigmoid(one)]
    fusion = fit_method("best", rows_of(columns, label), FusionConfig())
    said = np.array([[0.1, 0.2, 0.3], [0.1, np.nan, 0.3], [0.1, np.nan, np.nan]])
    np.testing.assert_array_equal(fusion.combine(said).prob_up, [0.2, 0.3, 0.1])


def test_stacking_equals_scikit_learn_without_a_prior() -> None:
    rows = noisy(8, 4000)
    whole = rows.take(~np.isnan(rows.probabilities).any(axis=1))
    fusion = fit_method("stacking", whole, FusionConfig(prior_rows=1e-9, log_odds_limit=13.0))
    design = np.log(whole.probabilities / (1.0 - whole.probabilities))
    reference = LogisticRegression(C=1.0 / SILENCE, tol=1e-12, max_iter=1000)
    reference.fit(design, whole.label)
    # scikit-learn's ridge pulls to zero as ours does without prior rows; ours is about the centre.
    np.testing.assert_allclose(fusion.weights[0], reference.coef_[0], atol=1e-4)
    probability = reference.predict_proba(design)[:, 1]
    np.testing.assert_allclose(fusion.combine(whole.probabilities).prob_up, probability, atol=1e-4)


def test_the_pool_equals_a_literal_minimisation() -> None:
    rows = noisy(9, 3000)
    config = FusionConfig(prior_rows=300.0)
    fusion = fit_method("log_pool", rows, config)
    share = (rows.label.sum() + 1.0) / (len(rows.label) + 2.0)
    centre = np.log(share / (1.0 - share))
    odds = np.log(rows.probabilities / (1.0 - rows.probabilities))
    said = np.where(np.isnan(odds), 0.0, np.clip(odds, -5.0, 5.0) - centre)
    held = 300.0 * 0.25 * (said**2).mean(axis=0)

    def objective(w: np.ndarray) -> float:
        eta = centre + said @ w
        fit = np.logaddexp(0.0, eta) - rows.label * eta
        prior = held * (w - 1.0 / 3.0) ** 2 + SILENCE * w**2
        return float(fit.sum() + 0.5 * prior.sum())

    reference = minimize(
        objective, np.full(3, 0.3), bounds=[(0, None)] * 3, method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    np.testing.assert_allclose(fusion.weights[0], reference.x, atol=1e-4)
    assert fusion.centre == pytest.approx(centre, abs=1e-12)


def test_the_pool_of_independent_experts_beats_each_and_is_chosen() -> None:
    one, other, label = market(10, 60_000)
    columns = [sigmoid(one), sigmoid(other)]
    choice = fit_fusion(rows_of(columns, label, NAMES[:2]), FusionConfig())
    assert choice.report.chosen == "log_pool"
    alone = min(loss(column, label) for column in columns)
    oracle = loss(sigmoid(one + other), label)
    base = loss(np.full(len(label), label.mean()), label)
    fused = loss(choice.held_out, label)
    assert (base - fused) / (base - oracle) > 0.98
    assert fused < alone - 0.4 * (base - oracle)
    # Independent evidence adds up: the weights are about one each, not one half.
    np.testing.assert_allclose(choice.fusion.weights[0], [1.0, 1.0], atol=0.1)


def test_copies_of_an_expert_do_no_harm() -> None:
    one, _, label = market(11, 40_000)
    rows = rows_of([sigmoid(one)] * 3, label)
    choice = fit_fusion(rows, FusionConfig())
    assert loss(choice.held_out, label) < loss(sigmoid(one), label) + 2e-5
    pool = fit_method("log_pool", rows, FusionConfig())
    np.testing.assert_allclose(pool.weights[0], np.full(3, pool.weights.sum() / 3.0), atol=1e-9)


def test_a_noise_expert_is_not_heard() -> None:
    one, other, label = market(12, 40_000)
    noise = np.random.default_rng(0).normal(0, 0.3, len(label))
    columns = [sigmoid(one), sigmoid(other), sigmoid(noise)]
    rows = rows_of(columns, label)
    for method in ("log_pool", "stacking", "regime"):
        fusion = fit_method(method, rows, FusionConfig())
        share = fusion.combine(rows.probabilities, None, rows.regime).weights.mean(axis=0)
        assert share[2] < 0.05, method


def test_nor_is_one_that_says_next_to_nothing_whose_weight_the_rows_cannot_tell() -> None:
    one, other, label = market(12, 10_000)
    rate = np.log(label.mean() / (1.0 - label.mean()))
    for seed in range(6):
        whisper = rate + np.random.default_rng(seed).normal(0, 0.0005, len(label))
        rows = rows_of([sigmoid(one), sigmoid(other), sigmoid(whisper)], label)
        assert fit_method("log_pool", rows, FusionConfig()).weights[0, 2] < 0.15


def test_the_rest_takes_over_only_what_it_knows_of_the_missing() -> None:
    one, other, label = market(13, 40_000)
    apart = fit_method("log_pool", rows_of([sigmoid(one), sigmoid(other)], label, NAMES[:2]),
                       FusionConfig())  # fmt: skip
    copies = fit_method("log_pool", rows_of([sigmoid(one), sigmoid(one)], label, NAMES[:2]),
                        FusionConfig())  # fmt: skip
    said = np.array([[0.6, 0.6], [0.6, np.nan]])
    odds = np.log(0.6 / 0.4)
    for fusion, factor in ((apart, fusion_weight(apart)), (copies, copies.weights.sum())):
        found = np.log(fusion.combine(said).prob_up / (1.0 - fusion.combine(said).prob_up))
        expected = fusion.centre + factor * (odds - fusion.centre)
        assert found[1] == pytest.approx(expected, abs=0.01)


def fusion_weight(fusion: Fusion) -> float:
    """Return the first weight: what an independent expert keeps when the other is missing."""
    return float(fusion.weights[0, 0])


def test_an_expert_without_weight_speaks_for_the_pool_when_it_is_alone() -> None:
    one, other, label = market(14, 40_000)
    columns = [sigmoid(one + other), sigmoid(one + np.random.default_rng(1).normal(0, 0.3, 40_000))]
    fusion = fit_method("log_pool", rows_of(columns, label, NAMES[:2]), FusionConfig())
    silent = replace(fusion, weights=np.array([[1.0, 0.0]]))
    found = silent.combine(np.array([[np.nan, 0.7]]))
    np.testing.assert_array_equal(found.weights, [[0.0, 1.0]])
    # Half of what it says is noise: it foretells the pool with a factor of about one half.
    slope = np.log(found.prob_up / (1.0 - found.prob_up))[0] / np.log(0.7 / 0.3)
    assert slope == pytest.approx(0.5, abs=0.05)


def test_weights_follow_the_regime_where_the_truth_does() -> None:
    one, other, label = market(15, 60_000)
    rows = rows_of([sigmoid(one), sigmoid(other)], label, NAMES[:2])
    assert rows.regime is not None
    random = np.random.default_rng(15)
    truth = np.where(rows.regime == 1.0, 2.0 * one, np.where(rows.regime == -1.0, 2.0 * other, one))
    rows = replace(rows, label=(random.random(len(label)) < sigmoid(truth)).astype(np.float64))
    choice = fit_fusion(rows, FusionConfig(regime_prior_rows=2000.0))
    assert choice.report.chosen == "regime"
    common, reverting, neutral, trend = choice.fusion.weights
    assert reverting[1] > 1.3 > 0.3 > reverting[0]
    assert trend[0] > 1.3 > 0.3 > trend[1]
    assert neutral[0] > 0.8 > 0.4 > neutral[1]
    said = np.array([[0.7, 0.4]])
    unknown = choice.fusion.combine(said, None, np.array([np.nan])).weights[0]
    np.testing.assert_allclose(unknown, common / common.sum())


def test_a_linear_pool_is_sharpened_by_recalibration() -> None:
    one, other, label = market(16, 40_000)
    rows = rows_of([sigmoid(one), sigmoid(other)], label, NAMES[:2])
    plain = fit_fusion(rows, FusionConfig(method="equal", recalibration=PLAIN))
    again = fit_fusion(rows, FusionConfig(method="equal"))
    assert plain.fusion.calibration is None
    assert again.report.calibration.chosen == "platt"
    assert loss(again.held_out, label) < loss(plain.held_out, label) - 0.001
    # Ranjan and Gneiting (2010): a mean of calibrated probabilities is not sure enough.
    assert again.fusion.combine(np.array([[0.6, 0.6]])).prob_up[0] > 0.65


@pytest.mark.parametrize("method", ["best", "log_pool", "stacking", "regime"])
def test_held_out_rows_are_fused_by_what_did_not_see_them(method: str) -> None:
    rows = replace(noisy(17, 4000), ts_end=noisy(17, 4000).ts_init + 8 * STEP)
    config = FusionConfig(method=method, recalibration=PLAIN, choice_folds=4)  # type: ignore[arg-type]
    before = fit_fusion(rows, config).held_out
    label = rows.label.copy()
    label[1000 - 14 : 2000] = 1.0 - label[1000 - 14 : 2000]  # the second block, and what is purged
    after = fit_fusion(replace(rows, label=label), config).held_out
    np.testing.assert_array_equal(after[1000:2000], before[1000:2000])
    assert (after[2000:] != before[2000:]).any()


def test_the_report_tells_methods_experts_and_correlations() -> None:
    rows = noisy(18, 4000)
    choice = fit_fusion(rows, FusionConfig())
    report = choice.report
    assert tuple(method.name for method in report.methods) == METHODS == tuple(choice.tried)
    assert [expert.name for expert in report.experts] == list(NAMES)
    assert sum(expert.weight for expert in report.experts) == pytest.approx(1.0, abs=1e-9)
    assert report.experts[1].answered == pytest.approx(
        1.0 - np.isnan(rows.probabilities[:, 1]).mean()
    )
    assert report.correlation[0][0] == pytest.approx(1.0)
    assert report.correlation[0][1] == report.correlation[1][0] < 1.0
    text = str(report).splitlines()
    assert text[0].startswith(f"fusion: {report.chosen}, recalibrated by")
    assert len(text) == 2 + len(METHODS) + 1 + 3
    assert json.loads(json.dumps(report.as_dict()))["chosen"] == report.chosen


def test_rows_that_nobody_answered_are_left_out() -> None:
    rows = noisy(19)
    holes = rows.probabilities.copy()
    holes[::5] = np.nan
    choice = fit_fusion(replace(rows, probabilities=holes), FusionConfig(method="log_pool"))
    assert choice.report.rows == 480
    np.testing.assert_array_equal(np.isnan(choice.held_out), np.arange(600) % 5 == 0)


def test_without_regimes_or_named_experts_auto_leaves_those_methods_out() -> None:
    rows = replace(noisy(20), regime=None, experts=("a", "b", "c"))
    tried = fit_fusion(rows, FusionConfig()).tried
    assert set(METHODS) - set(tried) == {"fixed", "regime"}
    with pytest.raises(ConfigError, match="must give one of the experts a, b, c a weight"):
        fit_fusion(rows, FusionConfig(method="fixed"))
    with pytest.raises(ConfigError, match="regime needs the regime of each row"):
        fit_fusion(rows, FusionConfig(method="regime"))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_mixture_moments_are_those_of_the_mixture(seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.ones(3), 20)
    mu, sigma = random.normal(0, 1, (20, 3)), random.uniform(0.1, 2.0, (20, 3))
    gone = random.random((20, 3)) < 0.3
    mu[gone], sigma[gone] = np.nan, np.nan
    mean, scale = mixture_moments(weights, mu, sigma)
    for row in range(20):
        there = ~gone[row]
        if not there.any():
            assert np.isnan(mean[row])
            assert np.isnan(scale[row])
            continue
        share = weights[row, there] / weights[row, there].sum()
        first = (share * mu[row, there]).sum()
        second = (share * (sigma[row, there] ** 2 + mu[row, there] ** 2)).sum()
        assert mean[row] == pytest.approx(first)
        assert scale[row] == pytest.approx(np.sqrt(second - first**2))


def test_a_return_by_experts_without_weight_is_no_return() -> None:
    weights = np.array([[1.0, 0.0, 0.0], [0.4, 0.6, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    mu = np.array([[np.nan, 0.2, 0.4]] * 4)
    sigma = np.array([[np.nan, 1.0, 3.0]] * 4)
    mean, scale = mixture_moments(weights, mu, sigma)
    np.testing.assert_array_equal(mean, [np.nan, 0.2, np.nan, 0.4])
    np.testing.assert_array_equal(scale, [np.nan, 1.0, np.nan, 3.0])


def test_experts_without_weight_neither_know_nor_doubt() -> None:
    said = np.array([[0.6, 0.4, 0.5]] * 3)
    members = np.array([[np.nan, 0.02, 0.03]] * 3)
    weights = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    alone, one, none = mixture_epistemic(weights, said, members)
    assert np.isnan(alone)
    assert one == pytest.approx(0.02)
    assert none == pytest.approx(np.sqrt(np.mean([0.01, 0.01 + 0.02**2, 0.03**2])))


def test_disagreement_is_epistemic_and_one_voice_without_members_knows_nothing_of_it() -> None:
    weights = np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]])
    said = np.array([[0.4, 0.6], [0.4, 0.6], [0.4, np.nan], [0.4, np.nan]])
    members = np.array([[np.nan, np.nan], [0.03, np.nan], [np.nan, np.nan], [0.03, np.nan]])
    found = mixture_epistemic(weights, said, members)
    expected = [0.1, np.sqrt(0.01 + 0.03**2 / 2.0), np.nan, 0.03]
    np.testing.assert_allclose(found, expected)


def test_moments_of_experts_that_the_fusion_left_out_do_not_count() -> None:
    fusion = fit_method("equal", rows_of(list(noisy(1).probabilities.T[:2]), noisy(1).label,
                                         NAMES[:2]), FusionConfig())  # fmt: skip
    nan = np.full(2, np.nan)
    outputs = [
        ExpertOutput(np.array([0.5, 0.5]), np.array([0.2, 0.2]), np.ones(2), np.full(2, 0.01)),
        ExpertOutput(np.array([0.7, 0.7]), np.array([0.4, 0.4]), np.ones(2), nan),
    ]
    said = np.stack([output.prob_up for output in outputs], axis=1)
    result = fusion.combine(said, np.array([[1.0, 1.0], [1.0, 0.0]]))
    mu, sigma, epistemic = combine_moments(outputs, result)
    np.testing.assert_allclose(mu, [0.3, 0.2])
    np.testing.assert_allclose(sigma, [np.sqrt(1.01), 1.0])
    np.testing.assert_allclose(epistemic, [np.sqrt(0.01 + 0.01**2 / 2.0), 0.01])
    other = combine_moments(outputs, result, np.full((2, 2), 0.6))[2]
    np.testing.assert_allclose(other, [0.01 / np.sqrt(2.0), 0.01])


@pytest.mark.parametrize(
    ("said", "fresh", "regime", "text"),
    [
        (np.full((2, 2), 0.5), None, None, r"must be \(n_rows, 3\) for the experts lightgbm, tft"),
        (np.full((2, 3), 0.5), np.ones((3, 3)), None, r"were \(2, 3\) and \(3, 3\)"),
        (np.full((2, 3), 1.0), None, None, r"lightgbm must be inside \(0, 1\) or NaN, one was 1.0"),
        (np.full((2, 3), 0.5), np.full((2, 3), np.nan), None, r"freshness must be in \[0, 1\]"),
        (np.full((2, 3), 0.5), None, np.array([0.0]), r"regime must be \(2,\), was \(1,\)"),
        (np.full((2, 3), 0.5), None, np.array([0.5, 0.0]), "regime must be one of"),
    ],
)
def test_questions_that_cannot_be_are_refused(
    said: np.ndarray, fresh: np.ndarray | None, regime: np.ndarray | None, text: str
) -> None:
    with pytest.raises(DataError, match=text):
        fit_method("equal", noisy(1), FusionConfig()).combine(said, fresh, regime)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"method": "magic"}, "fusion method must be one of .*, was 'magic'"),
        ({"experts": ["a", "a", "b"]}, "experts must be different names"),
        ({"weights": [[1.0, 2.0]]}, r"must be \(1, 3\) and \(3, 3\), were \(1, 2\)"),
        ({"weights": [[1.0, -0.1, 0.0]]}, "weights must be >= 0 for log_pool"),
        ({"weights": [[1.0, float("nan"), 0.0]]}, "numbers must be finite"),
        ({"calibration": {"method": "magic"}}, "calibration method must be one of"),
        ({"centre": "high"}, "must be a JSON record of weights"),
    ],
)
def test_records_that_no_fusion_could_have_written_are_refused(
    change: dict[str, object], text: str
) -> None:
    record = json.loads(fit_method("log_pool", noisy(1), FusionConfig()).to_json())
    with pytest.raises(IntegrityError, match=text):
        Fusion.from_json(json.dumps({**record, **change}))


def test_rows_that_cannot_be_fused_are_refused() -> None:
    rows = noisy(1)
    with pytest.raises(DataError, match=r"must be \(600, 2\) for the experts a, b, were"):
        fit_fusion(replace(rows, experts=("a", "b")), FusionConfig())
    with pytest.raises(DataError, match="must have different names"):
        fit_fusion(replace(rows, experts=("a", "b", "a")), FusionConfig())
    with pytest.raises(DataError, match="labels to fuse on must be 0 or 1"):
        fit_fusion(replace(rows, label=rows.label * 2.0), FusionConfig())
    with pytest.raises(DataError, match="at least 100 answered rows, had 80"):
        fit_fusion(rows.take(np.arange(80)), FusionConfig())


@pytest.mark.parametrize("weights", [{}, {"tft": 0.0}, {"tft": 1.0, "lstm": -0.1}])
def test_fixed_weights_must_be_weights(weights: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="fixed_weights must not be negative"):
        FusionConfig(fixed_weights=weights)
