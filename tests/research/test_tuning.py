"""Choosing from many noisy trials: plateau, spike, and what is given up early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from catalog.errors import RunFailedError
from research.tuning import (
    PRUNE_LEAST,
    Choice,
    TunedTrial,
    choose,
    is_hopeless,
    promising_fits,
    scores,
)
from research.tuning_report import importances
from research.tuning_space import ParameterRange, SearchSpace

X, Y = "strategy.position_frac", "strategy.edge_margin_bps"
FIT = "experts.lightgbm.num_leaves"
SPACE = SearchSpace(
    parameters={X: ParameterRange(low=0.0, high=1.0), Y: ParameterRange(low=0.0, high=1.0)}
)


def tried(number: int, x: float, value: float | tuple[float, ...], y: float = 0.5) -> TunedTrial:
    values = (value,) if isinstance(value, float) else value
    return TunedTrial(
        number=number,
        params={X: x, Y: y},
        whole=True,
        feasible=True,
        values=values,
        running=(values,),
        fit="",
        facts={"trades": 50},
    )


def hill_and_spike(seed: int, noise: float = 0.0) -> list[TunedTrial]:
    """A broad hill around 0.25 and a spike at 0.8 that is higher."""
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(100):
        x = float(rng.random())
        value = float(np.exp(-(((x - 0.25) / 0.15) ** 2)) + noise * rng.normal())
        trials.append(tried(number, x, value, y=float(rng.random())))
    return [*trials, tried(100, 0.8, 1.5, y=0.5)]


@pytest.mark.parametrize("seed", range(5))
def test_the_middle_of_a_hill_is_chosen_and_a_higher_spike_is_not(seed: int) -> None:
    trials = hill_and_spike(seed)
    choice = choose(trials, SPACE)
    assert choice.best == 100
    assert not choice.is_plateau
    assert abs(float(trials[choice.chosen].params[X]) - 0.25) < 0.12
    assert 100 not in choice.plateau


def test_noise_costs_the_chosen_one_less_than_the_best_one() -> None:
    """Over many draws: what is left, of the truth, of the single best and of the chosen one."""
    best, chosen = [], []
    for seed in range(40):
        trials = hill_and_spike(seed, noise=0.7)[:-1]
        found = choose(trials, SPACE)
        for number, kept in ((found.best, best), (found.chosen, chosen)):
            x = float(trials[number].params[X])
            kept.append(float(np.exp(-(((x - 0.25) / 0.15) ** 2))))
    assert np.mean(chosen) > np.mean(best) + 0.05


def test_a_plateau_is_said_to_be_one() -> None:
    choice = choose(hill_and_spike(1)[:-1], SPACE)
    assert choice.is_plateau
    assert choice.firmness > 0.6


def literal(trials: Sequence[TunedTrial], count: int) -> dict[int, float]:
    """Return neighbourhood means the slow way."""
    found = {}
    for one in trials:

        def distance(other: TunedTrial, one: TunedTrial = one) -> tuple[float, bool, int]:
            apart = [abs(float(one.params[key]) - float(other.params[key])) for key in (X, Y)]
            return sum(apart) / 2.0, other.number != one.number, other.number

        near = sorted(trials, key=distance)[:count]
        members = sorted(near, key=lambda other: other.number)
        found[one.number] = float(np.mean([other.values[0] for other in members]))
    return found


def test_neighbourhoods_and_medoid_are_those_of_a_literal_version() -> None:
    trials = hill_and_spike(3, noise=0.2)
    choice = choose(trials, SPACE)
    assert choice.neighbours == 11  # the root of 101, rounded up
    means = literal(trials, choice.neighbours)
    assert dict(choice.means) == pytest.approx(means)
    order = sorted(means, key=lambda number: (-means[number], number))
    assert list(choice.plateau) == order[:11]  # a tenth, rounded up
    members = [one for one in trials if one.number in choice.plateau]

    def total(one: TunedTrial) -> float:
        pairs = [(one.params[key], other.params[key]) for other in members for key in (X, Y)]
        return sum(abs(float(a) - float(b)) for a, b in pairs)

    assert choice.chosen == min(members, key=total).number


def test_the_order_and_the_scale_of_results_do_not_matter() -> None:
    trials = hill_and_spike(4, noise=0.3)
    choice = choose(trials, SPACE)
    scaled = [replace(one, values=(3.0 * one.values[0] - 7.0,)) for one in trials]
    for others in (trials[::-1], scaled):
        assert choose(others, SPACE).chosen == choice.chosen


def test_what_was_given_up_counts_as_a_neighbour_and_is_never_chosen() -> None:
    trials = hill_and_spike(5)[:-1]
    # On the hill all but a few were given up, having shown little.
    poor = [
        replace(one, whole=False, values=(-1.0,))
        if abs(float(one.params[X]) - 0.25) < 0.2 and one.number % 4
        else one
        for one in trials
    ]
    before, after = choose(trials, SPACE), choose(poor, SPACE)
    given_up = {one.number for one in poor if not one.whole}
    assert before.chosen != after.chosen
    assert not given_up & {after.chosen, after.best, *after.plateau, *after.means}
    assert all(after.means[number] <= before.means[number] + 1e-12 for number in after.means)


def test_without_enough_trades_nothing_is_chosen() -> None:
    trials = [replace(one, feasible=False) for one in hill_and_spike(1)]
    with pytest.raises(RunFailedError, match=r"none had \(most trades: 50\); .*--min-trades"):
        choose(trials, SPACE)
    one = replace(trials[7], feasible=True)
    choice = choose([*trials[:7], one, *trials[8:]], SPACE)
    assert choice.chosen == choice.best == 7


def test_one_trial_alone_is_chosen_and_nothing_is_claimed() -> None:
    choice = choose([tried(0, 0.5, 1.0)], SPACE)
    assert choice.chosen == 0
    assert np.isnan(choice.firmness)
    assert choice.as_dict()["verdict"] == "unknown"
    assert not choice.is_plateau


def test_several_objectives_weigh_the_same_whatever_their_units() -> None:
    rng = np.random.default_rng(1)
    trials = [
        tried(at, float(x), (float(a), float(b) * 1e-6))
        for at, (x, a, b) in enumerate(rng.random((30, 3)))
    ]
    found = scores(trials)
    ranks = np.argsort(np.argsort([one.values for one in trials], axis=0), axis=0) / 29.0
    assert [found[at] for at in range(30)] == pytest.approx(ranks.mean(axis=1).tolist())
    choice = choose(trials, SPACE)
    front = set(choice.front)
    for one in trials:
        beaten = any(
            all(b > a for a, b in zip(one.values, other.values, strict=True)) for other in trials
        )
        assert (one.number in front) == (not beaten)


def test_only_what_is_worse_in_everything_is_given_up() -> None:
    others = [(float(at), float(-at)) for at in range(PRUNE_LEAST)]
    assert is_hopeless((0.0,), [(one[0],) for one in others])
    assert not is_hopeless((2.0,), [(one[0],) for one in others])
    assert not is_hopeless((0.0, 0.0), others)
    assert is_hopeless((-1.0, -9.0), others)
    # With few others nobody knows what is poor.
    assert not is_hopeless((-9.0, -9.0), others[1:])


def test_policies_are_tried_on_the_fits_that_promise_most() -> None:
    trials = [
        replace(tried(at, 0.1, float(value)), fit=f"f{fit}", params={FIT: fit, X: 0.1, Y: 0.1})
        for at, (fit, value) in enumerate([(1, 0.0), (1, 9.0), (2, 5.0), (3, 7.0), (4, 8.0)])
    ]
    fits = promising_fits(trials, [FIT])
    assert fits == [{FIT: 1}, {FIT: 4}, {FIT: 3}]
    # One that traded too little is no promise while others traded enough.
    trials[1] = replace(trials[1], feasible=False)
    assert promising_fits(trials, [FIT])[0] == {FIT: 4}
    assert promising_fits([replace(one, whole=False) for one in trials], [FIT]) == []


def test_importance_finds_the_parameter_that_decides() -> None:
    found = importances(hill_and_spike(2)[:40], SPACE, 0, seed=7)
    assert list(found) == [X, Y]
    assert found[X] > 0.8
    assert sum(found.values()) == pytest.approx(1.0)
    assert importances(hill_and_spike(2)[:7], SPACE, 0, seed=7) == {}
    alike = [replace(one, values=(1.0,)) for one in hill_and_spike(2)]
    assert importances(alike, SPACE, 0, seed=7) == {}


def test_a_choice_says_everything() -> None:
    choice = choose(hill_and_spike(1), SPACE)
    told = choice.as_dict()
    assert isinstance(choice, Choice)
    assert told["verdict"] == "spike"
    assert set(told["scores"]) == {str(number) for number in range(101)}
