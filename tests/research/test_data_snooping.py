"""Tests of many trials against literal versions, closed forms and how often they cry wolf."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arch.bootstrap import StationaryBootstrap

from catalog.errors import ConfigError, DataError
from research.comparisons import ComparisonConfig
from research.data_snooping import (
    bootstrap_p_value,
    model_confidence_set,
    superior_ability,
)

FAST = ComparisonConfig(samples=300, mean_block_days=5)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"trial {i}" for i in range(count))


def noise(seed: int, days: int = 200, trials: int = 8) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(0.0, 0.01, (days, trials)) * random.uniform(0.5, 4.0, trials)


def literal_spa(returns: np.ndarray, config: ComparisonConfig) -> tuple[float, float, float]:
    """Return Hansen's lower, consistent and upper p-value as in the paper, with arch's draws."""
    n, count = returns.shape
    q = 1.0 / config.mean_block_days
    mean = returns.mean(axis=0)
    omega = np.empty(count)
    for k in range(count):
        gamma = [
            sum((returns[j, k] - mean[k]) * (returns[j + i, k] - mean[k]) for j in range(n - i)) / n
            for i in range(n)
        ]
        kappa = [(n - i) / n * (1 - q) ** i + i / n * (1 - q) ** (n - i) for i in range(n)]
        omega[k] = math.sqrt(gamma[0] + 2 * sum(kappa[i] * gamma[i] for i in range(1, n)))
    observed = max(math.sqrt(n) * mean[k] / omega[k] for k in range(count))
    far = [-omega[k] * math.sqrt(2 * math.log(math.log(n)) / n) for k in range(count)]
    shift = (
        [max(m, 0.0) for m in mean],
        [m if m >= far[k] else 0.0 for k, m in enumerate(mean)],
        list(mean),
    )
    reached = [0, 0, 0]
    draws = StationaryBootstrap(int(config.mean_block_days), returns, seed=config.seed)
    for (drawn,), _ in draws.bootstrap(config.samples):
        for which in range(3):
            values = math.sqrt(n) * (drawn.mean(axis=0) - shift[which]) / omega
            reached[which] += values.max() > observed
    lower, consistent, upper = ((r + 1) / (config.samples + 1) for r in reached)
    return lower, consistent, upper


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_superior_ability_is_hansens_studentised_statistic(seed: int) -> None:
    returns = noise(seed, 60) + np.linspace(-0.01, 0.002, 8)
    found = superior_ability(returns, names(8), config=FAST)
    expected = literal_spa(returns, FAST)
    assert (found.lower, found.consistent, found.upper) == pytest.approx(expected, abs=1e-12)
    assert found.lower <= found.consistent <= found.upper


def test_the_unit_of_a_trial_does_not_matter() -> None:
    # `arch` alone compares raw means, where a trial with ten times the stake decides.
    returns = noise(3)
    found = superior_ability(returns, names(8), config=FAST)
    other = superior_ability(returns * np.logspace(-2, 2, 8), names(8), config=FAST)
    assert other.as_dict() == pytest.approx(found.as_dict())


def test_superior_ability_finds_the_good_trial_and_nothing_else() -> None:
    returns = noise(4)
    benchmark = np.random.default_rng(8).normal(0, 0.01, len(returns))
    returns[:, 5] = benchmark + np.random.default_rng(9).normal(0.003, 0.01, len(returns))
    returns[:, 2] = benchmark
    found = superior_ability(returns, names(8), benchmark, FAST)
    assert found.best == "trial 5"
    assert found.trials == 7
    assert found.consistent < 0.02
    assert superior_ability(returns, names(8), returns[:, 5], FAST).consistent > 0.5


def test_superior_ability_cries_wolf_seldom() -> None:
    p = [superior_ability(noise(s, 150, 10), names(10), config=FAST).upper for s in range(25)]
    assert np.mean(np.array(p) < 0.1) < 0.25
    assert 0.3 < np.mean(p) < 0.7


def literal_confidence_set(losses: np.ndarray, config: ComparisonConfig) -> dict[int, float]:
    """Return the p-values of Hansen, Lunde and Nason (2011) with the range statistic."""
    n, count = losses.shape
    draws = StationaryBootstrap(int(config.mean_block_days), np.arange(n), seed=config.seed)
    means = [losses[rows].mean(axis=0) for ((rows,), _) in draws.bootstrap(config.samples)]
    mean = losses.mean(axis=0)

    def t(i: int, j: int) -> tuple[float, np.ndarray]:
        moved = np.array([m[i] - m[j] - (mean[i] - mean[j]) for m in means])
        error = math.sqrt(float(np.mean(moved**2)))
        return float(mean[i] - mean[j]) / error, moved / error

    left, found, largest = list(range(count)), {}, 0.0
    while len(left) > 1:
        pairs = {(i, j): t(i, j) for i in left for j in left if i != j}
        worst = max(pairs, key=lambda pair: pairs[pair][0])
        highest = np.max([drawn for _, drawn in pairs.values()], axis=0)
        largest = max(largest, float(np.mean(highest > pairs[worst][0])))
        found[worst[0]] = largest
        left.remove(worst[0])
    return found | {left[0]: 1.0}


def test_confidence_set_agrees_with_the_literal_version() -> None:
    # Columns already in the order in which equal columns are looked for.
    losses = noise(6, 120, 5) + np.array([0.0, 0.001, 0.004, 0.01, 0.03])
    losses = losses[:, np.argsort(losses[0])]
    found = model_confidence_set(losses, names(5), FAST)
    expected = literal_confidence_set(losses, FAST)
    assert {name: found.p_values[name] for name in names(5)} == pytest.approx(
        {f"trial {i}": p for i, p in expected.items()}
    )
    assert found.included == tuple(f"trial {i}" for i in range(5) if expected[i] > 0.05)
    assert 1 <= len(found.included) < 5


def test_equal_trials_stand_and_fall_together() -> None:
    losses = noise(2, 150, 4)
    losses[:, 3] = losses[:, 0]
    losses[:, 1] += 0.05
    found = model_confidence_set(losses, names(4), FAST)
    assert found.p_values["trial 0"] == found.p_values["trial 3"]
    assert "trial 1" not in found.included
    alike = model_confidence_set(losses[:, [0, 3]], names(2), FAST)
    assert alike.included == names(2)
    assert alike.as_dict()["included"] == ["trial 0", "trial 1"]


def test_the_seed_alone_decides_the_draws() -> None:
    returns = noise(1)
    again = ComparisonConfig(samples=300, mean_block_days=5, seed=8)
    first, second, other = (
        superior_ability(returns, names(8), config=config) for config in (FAST, FAST, again)
    )
    assert first == second
    assert first.upper != other.upper
    mine = [bootstrap_p_value(returns[:, 0], config=config) for config in (FAST, FAST, again)]
    assert mine[0] == mine[1]


def test_bootstrap_p_value_is_near_students_for_independent_days() -> None:
    from scipy.stats import ttest_1samp

    config = ComparisonConfig(samples=4000, mean_block_days=1)
    for seed, edge in ((0, 0.0), (1, 0.0005), (2, 0.001)):
        returns = np.random.default_rng(seed).normal(edge, 0.01, 400)
        expected = ttest_1samp(returns, 0.0, alternative="greater").pvalue
        assert bootstrap_p_value(returns, config=config) == pytest.approx(expected, abs=0.03)


def test_days_that_hang_together_prove_less() -> None:
    random = np.random.default_rng(1)
    returns = np.repeat(random.normal(0.003, 0.01, 40), 10)
    alone, blocks = (
        bootstrap_p_value(returns, config=ComparisonConfig(samples=1000, mean_block_days=days))
        for days in (1, 20)
    )
    assert alone < 0.5 * blocks


def test_a_benchmark_is_taken_off() -> None:
    returns = np.random.default_rng(3).normal(0.001, 0.01, 300)
    assert bootstrap_p_value(returns, returns - 0.001 * (np.arange(300) % 3), FAST) < 0.02
    assert math.isnan(bootstrap_p_value(returns, returns, FAST))
    assert math.isnan(bootstrap_p_value(returns[:7], config=FAST))
    returns[4] = math.nan
    assert math.isnan(bootstrap_p_value(returns, config=FAST))
    with pytest.raises(DataError, match=r"for each day, \(300,\), had \(299,\)"):
        bootstrap_p_value(returns, returns[1:], FAST)


def test_wrong_arguments() -> None:
    returns = noise(0, 50, 3)
    with pytest.raises(ConfigError, match=r"mean_block_days must be a whole number .* was 2.5"):
        superior_ability(returns, names(3), config=ComparisonConfig(mean_block_days=2.5))
    with pytest.raises(DataError, match=r"each of 2 names, had \(50, 3\)"):
        superior_ability(returns, names(2))
    with pytest.raises(DataError, match="must be distinct, a is there twice"):
        model_confidence_set(returns, ("a", "b", "a"))
    with pytest.raises(DataError, match="at least 8 days, were 7"):
        model_confidence_set(returns[:7], names(3))
    with pytest.raises(DataError, match="each of 50 days, had the shape"):
        superior_ability(returns, names(3), returns[:-1, 0])
    with pytest.raises(DataError, match="at least one of 3 trials must differ"):
        superior_ability(np.zeros((50, 3)), names(3))
    with pytest.raises(DataError, match=r"trial 1 must not differ .* was 0.01 apart"):
        superior_ability(np.stack([returns[:, 0], np.full(50, 0.01)], axis=1), names(2))
    returns[4, 1] = math.inf
    with pytest.raises(DataError, match="day 4 of trial 1 was inf"):
        superior_ability(returns, names(3))
