"""Trials: what makes two of them one, which overlap, and what their number does to a result."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from catalog.errors import IntegrityError
from live.profile import load_profile
from research.overfitting import SharpeMoments, probabilistic_sharpe
from research.performance import sharpe
from research.trials import (
    Trial,
    TrialCount,
    TrialData,
    TrialResults,
    distinct,
    group_trials,
    trials_for,
)

BTC, ETH, SOL = (f"{name}USDT-PERP.BINANCE" for name in ("BTC", "ETH", "SOL"))


def trial(number: int = 0, *, sharpe: float | None = 0.1, **changes: Any) -> Trial:
    """Return a trial that differs from those with other numbers in its configuration."""
    data = {"hash": "d", "instruments": (BTC,), "interval": "1h", "start": 0, "end": 100}
    data |= {name: changes.pop(name) for name in list(changes) if name in data}
    outcome = changes.pop("outcome", f"outcome {number} of {data}")
    settings = {
        "command": {"name": "walkforward"},
        "profile": "p",
        "config": {"threshold": number},
        "data": TrialData(**data),
        "code": "0.1.0+abc",
        "seed": 7,
        "results": TrialResults(
            days=100, sharpe=sharpe, skew=0.0, kurtosis=3.0, net_return=0.2, outcome=outcome
        ),
    }
    return Trial(**(settings | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"command": {"name": "backtest"}},
        {"config": {"threshold": 0.5}},
        {"hash": "e"},
        {"instruments": (BTC, ETH)},
        {"interval": "15m"},
        {"start": 1},
        {"end": 101},
        {"code": "0.1.0+abd"},
        {"seed": 8},
    ],
    ids=str,
)
def test_each_part_of_the_question_makes_another_trial(change: dict[str, Any]) -> None:
    assert trial(**change).id != trial().id


@pytest.mark.parametrize(
    "change",
    [{"time": 5}, {"label": "other"}, {"parent": "study"}, {"sharpe": 0.3}, {"outcome": "x"}],
    ids=str,
)
def test_who_asks_again_asks_the_same(change: dict[str, Any]) -> None:
    assert trial(**change).id == trial().id


def test_a_trial_comes_back_from_its_json() -> None:
    one = trial(3, label="kelly", parent="study", time=11, sharpe=1.0 / 3.0)
    again = Trial.from_dict(json.loads(json.dumps(one.as_dict())))
    assert again == one
    assert again.as_dict() == one.as_dict()
    with pytest.raises(IntegrityError, match="schema_version 1, had 2"):
        Trial.from_dict({**one.as_dict(), "schema_version": 2})
    without = one.as_dict()
    del without["seed"]
    with pytest.raises(IntegrityError, match="seed"):
        Trial.from_dict(without)


def test_the_configuration_of_a_profile_has_the_hash_of_the_profile() -> None:
    profile = load_profile("synthetic")
    assert trial(config=profile.hashed_content()).config_hash == profile.content_hash()


def test_results_are_those_of_the_daily_returns() -> None:
    returns = np.random.default_rng(3).standard_t(4, 200) * 0.01
    found = TrialResults.of_returns(returns, net_return=0.1, log_loss_skill=0.002)
    assert found.sharpe_annual == pytest.approx(sharpe(returns), abs=1e-12)
    assert found.moments == SharpeMoments.of(returns)
    assert (found.days, found.net_return, found.log_loss_skill) == (200, 0.1, 0.002)
    again = TrialResults.of_returns(returns.copy(), net_return=0.1)
    assert again.outcome == found.outcome
    returns[-1] = np.nextafter(returns[-1], 1.0)
    assert TrialResults.of_returns(returns, net_return=0.1).outcome != found.outcome


def test_a_ruined_or_idle_trial_has_no_ratio_and_still_counts() -> None:
    ruined = TrialResults.of_returns(np.array([0.1, -1.0, np.nan, np.nan]), net_return=-1.0)
    idle = TrialResults.of_returns(np.zeros(50), net_return=0.0)
    assert ruined.sharpe is None
    assert idle.sharpe is None
    assert idle.outcome is None
    json.dumps(ruined.as_dict(), allow_nan=False)
    many = [trial(number, results=idle) for number in range(3)] + [trial(9, results=ruined)]
    found = TrialCount.of(many)
    assert (found.count, found.sharpe_count, found.spread, found.best) == (4, 0, None, None)


def test_the_same_outcome_is_no_second_draw_of_luck() -> None:
    first = trial(1, outcome="same")
    assert distinct([first, first, trial(1, outcome="other")]) == [first]
    assert distinct([first, trial(2, outcome="same")]) == [first]
    assert len(distinct([first, trial(2, outcome="same", end=99)])) == 2
    assert len(distinct([trial(1, outcome=None), trial(2, outcome=None)])) == 2


@pytest.mark.parametrize(
    ("span", "instruments", "counted"),
    [
        ((0, 100), [BTC], 1),
        ((99, 200), [BTC], 1),
        ((-5, 1), [BTC, SOL], 1),
        ((20, 21), [BTC], 1),
        # Spans are open at their start: 100 was known before (100, 200] begins.
        ((100, 200), [BTC], 0),
        ((-5, 0), [BTC], 0),
        ((0, 100), [ETH], 0),
        ((0, 100), [], 0),
    ],
)
def test_trials_count_where_span_and_instruments_overlap(
    span: tuple[int, int], instruments: list[str], counted: int
) -> None:
    assert trials_for([trial()], span, instruments).count == counted


def test_number_and_spread_are_those_of_the_deflated_ratio() -> None:
    ratios = [0.02, 0.05, -0.01, 0.08]
    trials = [trial(number, sharpe=ratio) for number, ratio in enumerate(ratios)]
    trials.append(trial(4, sharpe=None, outcome=None))
    found = TrialCount.of([*trials, *trials])
    assert (found.count, found.sharpe_count, found.best) == (5, 4, 0.08)
    assert found.variance == pytest.approx(np.var(ratios, ddof=1))
    best = trials[3].results
    verdict = found.deflated(best)
    # Bailey and López de Prado (2014): z of 1 - 1/N and of 1 - 1/(N e), weighted with Euler's.
    usual, extreme = norm.ppf(1 - 1 / 5), norm.ppf(1 - 1 / (5 * math.e))
    luck = (1 - np.euler_gamma) * usual + np.euler_gamma * extreme
    assert verdict.deflated.threshold == pytest.approx(luck * np.std(ratios, ddof=1), rel=1e-9)
    expected = probabilistic_sharpe(best.moments, verdict.deflated.threshold)
    shown = verdict.as_dict()
    assert shown["dsr"] == expected
    assert shown["spread_measured"] is True
    assert shown["spread_annual"] == pytest.approx(np.std(ratios, ddof=1) * math.sqrt(365))


def test_more_trials_make_a_result_worth_less() -> None:
    results = trial(sharpe=0.15).results
    alone = TrialCount.of([trial(sharpe=0.15)]).deflated(results)
    assert alone.deflated.value == probabilistic_sharpe(results.moments)
    assert alone.deflated.threshold == 0.0
    scored = [trial(number, sharpe=None, outcome=None) for number in range(1, 50)]
    values = [
        TrialCount.of([trial(sharpe=0.15), *scored[:number]]).deflated(results).deflated.value
        for number in (0, 1, 5, 20, 49)
    ]
    assert all(after < before for before, after in pairwise(values))
    unmeasured = TrialCount.of([trial(sharpe=0.15), *scored]).deflated(results)
    assert not unmeasured.measured
    assert unmeasured.deflated.spread == 1.0 / math.sqrt(99)


def literal_groups(trials: list[Trial]) -> set[frozenset[str]]:
    """Return the groups by joining whatever overlaps until nothing changes."""
    groups = [[one] for one in trials]
    changed = True
    while changed:
        changed = False
        for a in range(len(groups)):
            for b in range(a + 1, len(groups)):
                near = any(
                    one.data.overlaps((two.data.start, two.data.end), two.data.instruments)
                    for one in groups[a]
                    for two in groups[b]
                )
                if near and not changed:
                    groups[a] += groups.pop(b)
                    changed = True
                    break
            if changed:
                break
    return {frozenset(one.id for one in group) for group in groups}


SPANS = st.tuples(
    st.integers(0, 20),
    st.integers(1, 8),
    st.sets(st.sampled_from([BTC, ETH, SOL]), min_size=1, max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SPANS, max_size=8))
def test_groups_are_what_overlaps_directly_or_through_others(
    spans: list[tuple[int, int, set[str]]],
) -> None:
    trials = [
        trial(number, start=start, end=start + length, instruments=tuple(sorted(names)))
        for number, (start, length, names) in enumerate(spans)
    ]
    found = group_trials(trials)
    assert {frozenset(one.id for one in group.trials) for group in found} == literal_groups(trials)
    assert sum(len(group.trials) for group in found) == len(trials)
