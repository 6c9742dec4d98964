"""Risk parity against its optimality conditions, a general solver and its symmetries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize
from sklearn.covariance import ledoit_wolf

from catalog.errors import DataError
from strategies.risk_parity import (
    FloatArray,
    equal_risk_weights,
    risk_contributions,
    risk_covariance,
)

NO_CAP = 1e6


@st.composite
def markets(draw: st.DrawFn) -> tuple[FloatArray, list[int]]:
    """One covariance with a common factor and unequal variances, and sides."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 8))
    factor = rng.normal(size=(80, 1)) * rng.uniform(0.0, 1.5)
    returns = (factor + rng.normal(size=(80, n))) * rng.uniform(0.001, 0.05, n)
    sides = [int(side) for side in rng.choice([-1, 1], n)]
    return risk_covariance(returns, [str(i) for i in range(n)]), sides


@settings(max_examples=60, deadline=None)
@given(markets(), st.floats(0.01, 3.0))
def test_every_position_contributes_the_same_risk(
    market: tuple[FloatArray, list[int]], gross: float
) -> None:
    covariance, sides = market
    weights = equal_risk_weights(covariance, sides, gross, NO_CAP)
    contributions = risk_contributions(weights, covariance)
    assert np.allclose(contributions, contributions.mean(), rtol=1e-8, atol=0.0)
    assert np.sign(weights).tolist() == sides
    assert np.abs(weights).sum() == pytest.approx(gross, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(markets(), st.floats(0.05, 1.2), st.floats(0.05, 0.5))
def test_under_a_largest_weight_the_others_share_the_risk_alike(
    market: tuple[FloatArray, list[int]], gross: float, max_weight: float
) -> None:
    covariance, sides = market
    weights = equal_risk_weights(covariance, sides, gross, max_weight)
    sizes = np.abs(weights)
    assert sizes.max() <= max_weight
    assert sizes.sum() == pytest.approx(min(gross, len(sides) * max_weight), rel=1e-9)
    # Karush-Kuhn-Tucker: the gradient Cw - k / w is 0 below the bound, at most 0 at it.
    contributions = risk_contributions(weights, covariance)
    free = sizes < max_weight * (1.0 - 1e-9)
    if free.any():
        common = contributions[free].mean()
        assert np.allclose(contributions[free], common, rtol=1e-7, atol=0.0)
        assert np.all(contributions[~free] <= common * (1.0 + 1e-7))


@pytest.mark.parametrize("max_weight", [NO_CAP, 0.2])
def test_a_general_solver_finds_the_same_weights(max_weight: float) -> None:
    rng = np.random.default_rng(5)
    returns = (rng.normal(size=(200, 1)) + rng.normal(size=(200, 4))) * [0.01, 0.02, 0.03, 0.05]
    covariance = risk_covariance(returns, "abcd")
    sides = np.array([1, 1, -1, 1])
    gross = 0.6
    weights = equal_risk_weights(covariance, sides.tolist(), gross, max_weight)
    flipped = covariance * np.outer(sides, sides) * 1e4
    # Among weights of one gross the solution has the least variance for its sum of logarithms.
    penalty = float(np.log(np.abs(weights)).sum())
    reference = minimize(
        lambda w: float(w @ flipped @ w),
        np.full(4, gross / 4),
        jac=lambda w: 2.0 * flipped @ w,
        bounds=[(1e-6, min(max_weight, 1.0))] * 4,
        constraints=[
            LinearConstraint(np.ones(4), gross, gross),
            {
                "type": "ineq",
                "fun": lambda w: float(np.log(w).sum()) - penalty,
                "jac": lambda w: 1.0 / w,
            },
        ],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert reference.success
    assert np.allclose(reference.x, np.abs(weights), atol=1e-4)


def test_two_instruments_are_weighted_by_the_inverse_of_volatility() -> None:
    # Maillard, Roncalli and Teiletche (2010), section 2.2: whatever their correlation.
    covariance = np.array([[0.04, 0.018], [0.018, 0.09]])
    weights = equal_risk_weights(covariance, [1, 1], 1.0, NO_CAP)
    assert weights == pytest.approx([0.6, 0.4], rel=1e-12)


def test_a_published_example() -> None:
    # Roncalli (2013), "Introduction to Risk Parity and Budgeting", three assets of volatilities
    # 30, 20 and 15 %, correlations 0.8, 0.5 and 0.3: weights of 19.69, 32.44 and 47.87 %.
    scale = np.array([0.30, 0.20, 0.15])
    correlation = np.array([[1.0, 0.8, 0.5], [0.8, 1.0, 0.3], [0.5, 0.3, 1.0]])
    covariance = correlation * np.outer(scale, scale)
    weights = equal_risk_weights(covariance, [1, 1, 1], 1.0, NO_CAP)
    assert weights == pytest.approx([0.1969, 0.3244, 0.4787], abs=5e-5)


@settings(max_examples=40, deadline=None)
@given(markets(), st.floats(0.1, 1.0), st.floats(1e-6, 1e6), st.randoms(use_true_random=False))
def test_units_order_and_direction_do_not_matter(
    market: tuple[FloatArray, list[int]], gross: float, unit: float, random: object
) -> None:
    covariance, sides = market
    weights = equal_risk_weights(covariance, sides, gross, 0.3)
    assert np.allclose(equal_risk_weights(covariance * unit, sides, gross, 0.3), weights, rtol=1e-8)
    mirrored = equal_risk_weights(covariance, [-side for side in sides], gross, 0.3)
    assert np.allclose(mirrored, -weights, rtol=1e-9)
    order = np.arange(len(sides))[::-1]
    turned = equal_risk_weights(
        covariance[np.ix_(order, order)], [sides[i] for i in order], gross, 0.3
    )
    assert np.allclose(turned, weights[order], rtol=1e-8)


def test_what_is_not_held_gets_no_weight_and_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    covariance = risk_covariance(rng.normal(size=(100, 4)), "abcd")
    weights = equal_risk_weights(covariance, [1, 0, -1, 0], 0.5, 0.4)
    kept = np.ix_([0, 2], [0, 2])
    assert weights[[1, 3]].tolist() == [0.0, 0.0]
    assert np.allclose(weights[[0, 2]], equal_risk_weights(covariance[kept], [1, -1], 0.5, 0.4))
    assert equal_risk_weights(covariance, [0, 0, 0, 0], 0.5, 0.4).tolist() == [0.0] * 4
    assert equal_risk_weights(covariance, [1, 1, 1, 1], 0.0, 0.4).tolist() == [0.0] * 4


def test_a_hedged_pair_may_be_larger_than_what_stands_alone() -> None:
    covariance = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    alike = np.abs(equal_risk_weights(covariance, [1, 1, 1], 1.0, NO_CAP))
    hedged = np.abs(equal_risk_weights(covariance, [1, -1, 1], 1.0, NO_CAP))
    assert alike[0] < alike[2]
    assert hedged[0] > hedged[2]


def test_shrinking_keeps_variances_and_draws_correlations_to_none() -> None:
    rng = np.random.default_rng(2)
    scale = np.array([0.001, 0.02, 0.3])
    returns = (rng.normal(size=(60, 1)) + rng.normal(size=(60, 3))) * scale
    covariance = risk_covariance(returns, "abc")
    sample = np.cov(returns.T, bias=True)
    assert np.allclose(np.diag(covariance), np.diag(sample), rtol=1e-12)
    off = ~np.eye(3, dtype=bool)
    ratio = covariance[off] / sample[off]
    assert np.allclose(ratio, ratio[0])
    assert 0.0 < ratio[0] < 1.0
    # What it deviates from: shrinking covariances would pull the variances together.
    assert ledoit_wolf(returns)[0][0, 0] > 2.0 * sample[0, 0]


def test_fewer_bars_than_instruments_still_give_weights() -> None:
    returns = np.random.default_rng(3).normal(size=(4, 6))
    weights = equal_risk_weights(risk_covariance(returns, "abcdef"), [1] * 6, 1.0, NO_CAP)
    assert np.all(weights > 0.0)


def test_unusable_returns_are_refused() -> None:
    returns = np.random.default_rng(4).normal(size=(10, 2))
    with pytest.raises(DataError, match=r"must have shape \(n_bars >= 2, 3\), was \(10, 2\)"):
        risk_covariance(returns, "abc")
    with pytest.raises(DataError, match=r"n_bars >= 2"):
        risk_covariance(returns[:1], "ab")
    holed = returns.copy()
    holed[3, 1] = np.nan
    with pytest.raises(DataError, match="returns of b must all be known, 1 of 10 were not"):
        risk_covariance(holed, "ab")
    still = returns * [1.0, 0.0]
    with pytest.raises(DataError, match="returns of b must not all be equal"):
        risk_covariance(still, "ab")


@pytest.mark.parametrize(
    "covariance", [[[1.0, 1.0], [1.0, 1.0]], [[1.0, np.nan], [np.nan, 1.0]], [[1.0, 2.0], [2.0, 1]]]
)
def test_a_covariance_that_is_none_is_refused(covariance: list[list[float]]) -> None:
    with pytest.raises(DataError, match="must be known and positive definite"):
        equal_risk_weights(np.array(covariance), [1, 1], 1.0, 10.0)
