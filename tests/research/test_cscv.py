"""The probability of backtest overfitting against a literal version and the paper's test cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from catalog.errors import ConfigError, DataError
from research.cscv import backtest_overfitting


def noise(seed: int, days: int = 400, trials: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.01, (days, trials))


def literal(returns: np.ndarray, groups: int) -> list[tuple[int, float, float, float]]:
    """Return chosen trial, both ratios and logit of every combination, as the paper words it."""
    parts = np.array_split(np.arange(len(returns)), groups)
    found = []
    for choice in itertools.combinations(range(groups), groups // 2):
        train = returns[np.concatenate([parts[g] for g in choice])]
        test = returns[np.concatenate([parts[g] for g in range(groups) if g not in choice])]
        ratios = [[np.mean(c) / np.std(c, ddof=1) for c in half.T] for half in (train, test)]
        best = int(np.argmax(ratios[0]))
        relative = stats.rankdata(ratios[1])[best] / (returns.shape[1] + 1)
        logit = math.log(relative / (1 - relative))
        found.append((best, float(ratios[0][best]), float(ratios[1][best]), logit))
    return found


@pytest.mark.parametrize(("groups", "days"), [(4, 100), (8, 160)])
def test_agrees_with_the_literal_version(groups: int, days: int) -> None:
    returns = noise(5, days, 7) + np.linspace(0.0, 0.002, 7)
    found = backtest_overfitting(returns, groups=groups)
    chosen, inside, outside, logits = zip(*literal(returns, groups), strict=True)
    assert len(found.logits) == math.comb(groups, groups // 2)
    assert found.chosen.tolist() == list(chosen)
    np.testing.assert_allclose(found.in_sample, inside, rtol=1e-10)
    np.testing.assert_allclose(found.out_of_sample, outside, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-12)
    line = stats.linregress(inside, outside)
    assert found.slope == pytest.approx(line.slope, rel=1e-8)
    assert found.intercept == pytest.approx(line.intercept, rel=1e-8)
    assert found.r_squared == pytest.approx(line.rvalue**2, rel=1e-8)
    assert found.value == np.mean(np.array(logits) <= 0)
    assert found.probability_of_loss == np.mean(np.array(outside) < 0)


def test_no_trial_with_skill_over_the_whole_span_is_full_overfitting() -> None:
    # Bailey et al. (2015), test case 1: noise moved so that no trial earns anything over the
    # whole span. What is gained on one half is lost on the other; the paper finds 1.
    returns = noise(1, 1000, 100)
    returns -= returns.mean(axis=0)
    found = backtest_overfitting(returns)
    assert found.value > 0.99
    assert found.probability_of_loss > 0.99
    by_mean = backtest_overfitting(returns, groups=8, measure="mean")
    assert by_mean.slope == pytest.approx(-1.0)
    assert by_mean.r_squared == pytest.approx(1.0)


def test_a_trial_with_skill_is_hardly_overfitted() -> None:
    # Test case 2 of the paper: one trial of a hundred with an annual ratio of 2 and more.
    returns = noise(2, 1000, 100)
    returns[:, 40] += 0.002
    found = backtest_overfitting(returns)
    assert found.value < 0.05
    assert (found.chosen == 40).mean() > 0.9
    assert found.as_dict()["combinations"] == 12870


def test_noise_is_chosen_by_luck() -> None:
    values = [backtest_overfitting(noise(s, 320, 20), groups=8).value for s in range(60)]
    assert 0.4 < float(np.mean(values)) < 0.65


def test_the_order_and_the_scale_of_trials_do_not_matter() -> None:
    returns = noise(7)
    found = backtest_overfitting(returns, groups=8)
    order = np.random.default_rng(0).permutation(returns.shape[1])
    scale = np.random.default_rng(1).uniform(0.1, 10, returns.shape[1])
    other = backtest_overfitting((returns * scale)[:, order], groups=8)
    np.testing.assert_allclose(other.logits, found.logits)
    assert (order[other.chosen] == found.chosen).all()
    assert other.value == found.value


def test_equal_trials_are_at_the_median() -> None:
    found = backtest_overfitting(np.repeat(noise(3, trials=1), 5, axis=1), groups=6)
    assert (np.abs(found.logits) < 1e-12).all()


def test_a_trial_that_never_trades_earns_nothing() -> None:
    returns = noise(4, trials=3) - 0.02
    returns[:, 1] = 0.0
    found = backtest_overfitting(returns, groups=6)
    assert (found.chosen == 1).all()
    assert (found.out_of_sample == 0.0).all()
    assert found.value == 0.0
    assert found.as_dict()["slope"] is None


def test_wrong_arguments() -> None:
    returns = noise(1, 100, 4)
    with pytest.raises(ConfigError, match="even and from 4 to 20, was 5"):
        backtest_overfitting(returns, groups=5)
    with pytest.raises(ConfigError, match="two days each, there were 20 days"):
        backtest_overfitting(returns[:20])
    with pytest.raises(DataError, match=r"at least two trials, had \(100, 1\)"):
        backtest_overfitting(returns[:, :1])
    returns[3, 2] = math.nan
    with pytest.raises(DataError, match="day 3 of trial 2 was nan"):
        backtest_overfitting(returns, groups=4)
    returns[:, 2] = 0.001
    with pytest.raises(DataError, match="returns of trial 2 must vary"):
        backtest_overfitting(returns, groups=4)
