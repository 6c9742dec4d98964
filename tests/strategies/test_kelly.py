import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from sklearn.covariance import ledoit_wolf

from strategies.kelly import (
    WeightCaps,
    binary_edge,
    binary_fraction,
    continuous_fraction,
    kelly_weights,
    rescaled_covariance,
    shrunk_covariance,
    uncertainty_factor,
)

LOOSE = WeightCaps(1e6, 1e6, 1e6)


def generator(seed):
    return np.random.Generator(np.random.PCG64(seed))


def log_growth(stake, prob, gain, loss):
    return prob * math.log1p(gain * stake) + (1.0 - prob) * math.log1p(-loss * stake)


@pytest.mark.parametrize(
    ("prob", "ratio", "published"),
    [(0.53, 1.0, 0.06), (0.6, 1.0, 0.2), (0.5, 2.0, 0.25), (0.4, 1.0, 0.0), (0.25, 3.0, 0.0)],
)
def test_kellys_formula_where_the_stake_is_lost(prob, ratio, published):
    assert binary_fraction(prob, ratio, 1.0) == pytest.approx(published, abs=1e-12)


@settings(max_examples=60)
@given(st.floats(0.05, 0.95), st.floats(0.002, 0.2), st.floats(0.002, 0.2))
def test_a_binary_stake_is_the_one_that_grows_fastest(prob, gain, loss):
    ceiling = (1.0 - 1e-9) / loss
    best = minimize_scalar(
        lambda stake: -log_growth(stake, prob, gain, loss),
        bounds=(0.0, ceiling),
        method="bounded",
        options={"xatol": 1e-7},
    )
    stake = binary_fraction(prob, gain, loss)
    assert 0.0 <= stake < 1.0 / loss
    assert stake == pytest.approx(float(best.x), rel=1e-3, abs=1e-3)


def test_a_bet_without_gain_has_no_stake():
    assert binary_fraction(0.99, 0.0, 0.01) == 0.0
    assert binary_fraction(0.99, -0.001, 0.01) == 0.0


def test_a_continuous_stake_is_that_of_small_binary_bets():
    # A random walk of +-sigma with drift: its variance is sigma^2, so both formulas must agree.
    sigma, edge = 1e-4, 1e-6
    prob = 0.5 * (1.0 + edge / sigma)
    assert continuous_fraction(edge, sigma) == pytest.approx(
        binary_fraction(prob, sigma, sigma), rel=1e-9
    )
    assert continuous_fraction(-edge, sigma) == 0.0
    assert continuous_fraction(1.0, 1e-200) == math.inf  # left to the caps, not an error


@pytest.mark.parametrize("relative_error", [0.3, 0.6, 1.0])
def test_the_uncertainty_factor_grows_fastest_when_the_estimate_errs(relative_error):
    """Monte Carlo of Baker and McHale's question, unclipped as their closed form is."""
    gain = loss = 0.01
    prob = 0.53
    edge = binary_edge(prob, gain, loss)
    prob_error = relative_error * edge / (gain + loss)
    estimates = generator(3).normal(prob, prob_error, 200_000)
    stakes = (estimates * gain - (1.0 - estimates) * loss) / (gain * loss)

    def loss_of_growth(share):
        scaled = share * stakes
        grown = prob * np.log1p(gain * scaled) + (1.0 - prob) * np.log1p(-loss * scaled)
        return -float(grown.mean())

    best = minimize_scalar(loss_of_growth, bounds=(0.0, 1.0), method="bounded")
    closed = uncertainty_factor(edge, prob_error * (gain + loss))
    assert closed == pytest.approx(float(best.x), abs=0.03)
    assert loss_of_growth(closed) < loss_of_growth(1.0)


@given(st.floats(1e-8, 0.1), st.floats(0.0, 0.1), st.floats(1.0001, 2.0))
def test_uncertainty_only_shrinks_and_leaves_the_order_of_edges(edge, error, more):
    factor = uncertainty_factor(edge, error)
    assert 0.0 <= factor <= 1.0
    assert uncertainty_factor(edge, 0.0) == 1.0
    assert uncertainty_factor(edge, error * more) <= factor
    assert edge * more * uncertainty_factor(edge * more, error) >= edge * factor


def test_without_an_edge_or_with_an_endless_error_nothing_is_left():
    assert uncertainty_factor(0.0, 0.0) == 0.0
    assert uncertainty_factor(-0.1, 0.0) == 0.0
    assert uncertainty_factor(0.1, math.inf) == 0.0


@pytest.mark.parametrize(("bars", "width"), [(300, 5), (10, 16), (3, 4), (500, 1)])
def test_the_shrunk_covariance_is_scikit_learns(bars, width):
    random = generator(11)
    mixing = random.normal(size=(width, width))
    returns = random.normal(size=(bars, width)) @ mixing * 0.003 + 0.001
    expected, _ = ledoit_wolf(returns)
    found = shrunk_covariance(returns)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-18)
    assert np.linalg.eigvalsh(found).min() > 0.0


def test_returns_that_cannot_give_a_covariance_are_refused():
    with pytest.raises(ValueError, match=r"n_bars >= 3.*was \(2, 4\)"):
        shrunk_covariance(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="must be finite"):
        shrunk_covariance(np.array([[1.0], [np.nan], [2.0]]))


def test_rescaling_keeps_correlations():
    covariance = np.array([[4.0, 1.0], [1.0, 9.0]])
    sigmas = np.array([0.01, 0.02])
    found = rescaled_covariance(covariance, sigmas)
    assert np.sqrt(np.diag(found)) == pytest.approx(sigmas)
    assert found[0, 1] / (0.01 * 0.02) == pytest.approx(1.0 / 6.0)


def market(seed, width):
    random = generator(seed)
    mixing = random.normal(size=(width, width)) + 0.7
    covariance = (mixing @ mixing.T / width + 0.1 * np.eye(width)) * 1e-4
    mu = random.normal(0.0, 0.003, width)
    mu[random.random(width) < 0.2] = 0.0
    return mu, covariance


def test_one_instrument_alone_is_the_continuous_fraction():
    found = kelly_weights(np.array([-0.001]), np.array([[1e-4]]), 0.5, LOOSE)
    assert found == pytest.approx([-0.5 * continuous_fraction(0.001, 0.01)])


def test_uncorrelated_instruments_are_sized_alone_and_correlated_ones_share():
    mu = np.array([0.001, 0.001])
    alone = kelly_weights(mu, np.diag([1e-4, 1e-4]), 1.0, LOOSE)
    assert alone == pytest.approx([10.0, 10.0])
    together = kelly_weights(mu, np.array([[1.0, 0.9], [0.9, 1.0]]) * 1e-4, 1.0, LOOSE)
    assert together == pytest.approx([10.0 / 1.9, 10.0 / 1.9])
    hedged = kelly_weights(np.array([0.001, -0.001]), np.diag([1e-4, 1e-4]), 1.0, LOOSE)
    assert hedged == pytest.approx([10.0, -10.0])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "caps",
    [LOOSE, WeightCaps(0.2, 2.0, 1.0), WeightCaps(5.0, 3.0, 3.0), WeightCaps(5.0, 8.0, 0.3)],
)
def test_weights_are_those_of_a_general_solver(seed, caps):
    mu, covariance = market(seed, 2 + seed)
    fraction = 0.5
    found = kelly_weights(mu, covariance, fraction, caps)
    signs = np.sign(mu)

    def cost(sizes):
        weights = signs * sizes
        return 1e3 * (weights @ covariance @ weights / (2.0 * fraction) - mu @ weights)

    def slope(sizes):
        return 1e3 * (signs * (covariance @ (signs * sizes)) / fraction - signs * mu)

    reference = minimize(
        cost,
        np.abs(found) * 0.5,
        jac=slope,
        bounds=[(0.0, caps.max_position if sign else 0.0) for sign in signs],
        constraints=[
            {"type": "ineq", "fun": lambda sizes: caps.max_gross - sizes.sum()},
            {"type": "ineq", "fun": lambda sizes: caps.max_net - signs @ sizes},
            {"type": "ineq", "fun": lambda sizes: caps.max_net + signs @ sizes},
        ],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert cost(np.abs(found)) <= cost(reference.x) + 1e-8
    assert (found * signs >= 0.0).all()
    assert np.abs(found).max() <= caps.max_position
    assert np.abs(found).sum() <= caps.max_gross
    assert abs(found.sum()) <= caps.max_net


def test_weights_mirror_with_the_signals_and_follow_a_permutation():
    mu, covariance = market(5, 6)
    caps = WeightCaps(0.5, 1.0, 0.4)
    found = kelly_weights(mu, covariance, 0.5, caps)
    assert kelly_weights(-mu, covariance, 0.5, caps) == pytest.approx(-found, abs=1e-9)
    order = generator(1).permutation(6)
    permuted = kelly_weights(mu[order], covariance[np.ix_(order, order)], 0.5, caps)
    assert permuted == pytest.approx(found[order], abs=1e-9)


def test_nothing_expected_is_nothing_held():
    assert (kelly_weights(np.zeros(3), np.eye(3), 0.5, LOOSE) == 0.0).all()
    assert kelly_weights(np.zeros(0), np.zeros((0, 0)), 0.5, LOOSE).shape == (0,)


def test_what_cannot_be_weighted_is_refused():
    good = np.array([0.001, 0.002])
    with pytest.raises(ValueError, match=r"covariance must have one row.*was \(3, 3\)"):
        kelly_weights(good, np.eye(3), 0.5, LOOSE)
    with pytest.raises(ValueError, match="must be finite"):
        kelly_weights(np.array([np.nan, 0.1]), np.eye(2), 0.5, LOOSE)
    with pytest.raises(ValueError, match="positive definite, was not: use shrunk_covariance"):
        kelly_weights(good, np.ones((2, 2)) - 2.0 * np.eye(2), 0.5, LOOSE)
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\], was 0"):
        kelly_weights(good, np.eye(2), 0.0, LOOSE)
    with pytest.raises(ValueError, match="caps must be above 0"):
        kelly_weights(good, np.eye(2), 0.5, WeightCaps(0.2, 0.0, 1.0))
