"""A hundred tuned rules on markets that nobody can foretell are exposed; an honest one is not."""

from __future__ import annotations

import numpy as np
import pytest

from catalog.arrays import Float64Array
from catalog.errors import ConfigError, DataError
from research.cscv import backtest_overfitting
from research.overfitting import SharpeMoments, deflated_sharpe
from research.planted_overfit import MEMORY_DAYS, plant_overfit


def market(seed: int, days: int = 500) -> Float64Array:
    return 0.02 * np.random.default_rng(seed).standard_t(5.0, size=days)


@pytest.mark.parametrize("seed", range(5))
def test_rules_tuned_on_the_test_span_are_exposed(seed: int) -> None:
    found = plant_overfit(market(seed), seed=seed)
    assert found.returns.shape == (500 - MEMORY_DAYS, 100)
    assert found.tried == 5000
    assert found.probability.value > 0.5
    assert found.honest.value < 0.95
    assert found.is_exposed
    # Its inventor, who counts nothing, sees a discovery; and the better, the worse it becomes.
    assert found.naive.value > 0.99
    assert found.probability.slope < 0.0


def test_rules_are_what_the_text_says() -> None:
    values = market(3, days=120)
    found = plant_overfit(values, rules=4, tunings=3, groups=4, seed=11)
    weights = np.random.default_rng(11).standard_normal((12, MEMORY_DAYS))
    every = np.zeros((120 - MEMORY_DAYS, 12))
    for day in range(MEMORY_DAYS, 120):
        for rule in range(12):
            opinion = sum(weights[rule, k] * values[day - MEMORY_DAYS + k] for k in range(10))
            every[day - MEMORY_DAYS, rule] = np.sign(opinion) * values[day]
    ratios = every.mean(axis=0) / every.std(axis=0, ddof=1)
    chosen = [3 * rule + int(np.argmax(ratios[3 * rule : 3 * rule + 3])) for rule in range(4)]
    np.testing.assert_allclose(found.returns, every[:, chosen], rtol=1e-12)
    best = every[:, chosen[found.best]]
    wanted = deflated_sharpe(
        SharpeMoments.of(best), trials=12, spread=float(np.std(ratios, ddof=1))
    )
    assert found.honest.value == pytest.approx(wanted.value, rel=1e-12)


def test_a_rule_that_knows_something_is_no_overfit() -> None:
    random = np.random.default_rng(5)
    returns = 0.01 * random.standard_normal((500, 100))
    returns[:, 17] += 0.003
    found = backtest_overfitting(returns)
    assert found.value < 0.05
    ratios = returns.mean(axis=0) / returns.std(axis=0, ddof=1)
    others = float(np.std(np.delete(ratios, 17), ddof=1))
    assert deflated_sharpe(SharpeMoments.of(returns[:, 17]), trials=100, spread=others).value > 0.95


def test_it_is_the_same_for_the_same_seed() -> None:
    one, other = (plant_overfit(market(1), rules=10, tunings=5, seed=2) for _ in range(2))
    np.testing.assert_array_equal(one.returns, other.returns)


def test_what_cannot_be_planted_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 rules and a draw of each, were 1 and 50"):
        plant_overfit(market(1), rules=1)
    with pytest.raises(ConfigError, match="more than 26 days for 16 groups, had 26"):
        plant_overfit(market(1, days=26))
    with pytest.raises(DataError, match="finite return"):
        plant_overfit(np.array([0.1, np.nan] * 50))
