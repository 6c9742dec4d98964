from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from strategies.policy import REASONS, Held, decide, entry_side
from strategies.policy_config import FusionPolicy


class Signal(NamedTuple):
    prob_up: float
    horizon_bars: int
    degraded: bool
    side: int


FLAT = Held(0, 0)


def make(**changes):
    return FusionPolicy(
        **{"entry_threshold": 0.6, "exit_threshold": 0.5, "position_frac": 0.5, **changes}
    )


def verdict(policy, prob, holding=FLAT, *, horizon=4, degraded=False, side=None):
    stance = (prob > 0.5) - (prob < 0.5) if side is None else side
    found = decide(policy, Signal(prob, horizon, degraded, stance), holding)
    return found.side, found.reason


LONG, SHORT = Held(1, 10), Held(-1, 10)


@pytest.mark.parametrize(
    ("prob", "holding", "expected"),
    [
        (0.6, FLAT, (1, "enter_long")),
        (0.4, FLAT, (-1, "enter_short")),
        (0.59, FLAT, (0, "no_signal")),
        (0.5, LONG, (1, "hold")),
        (0.49, LONG, (0, "exit_threshold")),
        (0.51, SHORT, (0, "exit_threshold")),
        (0.5, SHORT, (-1, "hold")),
        (0.4, LONG, (-1, "reverse_to_short")),
        (0.6, SHORT, (1, "reverse_to_long")),
        (0.49, Held(1, 3), (1, "hold_minimum")),
        (0.4, Held(1, 3), (-1, "reverse_to_short")),
    ],
)
def test_the_table_of_decisions(prob, holding, expected):
    assert verdict(make(), prob, holding) == expected


def test_without_shorts_the_opposite_signal_only_exits():
    policy = make(allow_short=False)
    assert verdict(policy, 0.1) == (0, "short_not_allowed")
    assert verdict(policy, 0.1, Held(1, 0)) == (0, "exit_opposite")


def test_a_stated_minimum_replaces_the_horizon():
    policy = make(min_holding_bars=0)
    assert verdict(policy, 0.49, Held(1, 1)) == (0, "exit_threshold")


def test_exit_after_the_horizon_unless_the_signal_stands_again():
    policy = make(exit_after_horizon=True)
    assert verdict(policy, 0.55, Held(1, 3)) == (1, "hold_minimum")
    assert verdict(policy, 0.55, Held(1, 4)) == (0, "exit_horizon")
    again = decide(policy, Signal(0.7, 4, False, 1), Held(1, 4))
    assert (again.side, again.reason, again.renew) == (1, "hold", True)


probabilities = st.floats(0.0, 1.0)
holdings = st.builds(Held, st.sampled_from([-1, 1]), st.integers(0, 50)) | st.just(FLAT)
policies = st.builds(
    make,
    entry_threshold=st.floats(0.51, 0.9),
    allow_short=st.booleans(),
    min_holding_bars=st.none() | st.integers(0, 20),
    exit_after_horizon=st.booleans(),
)


@given(policies, probabilities, holdings)
def test_a_degraded_prediction_never_opens_or_turns_a_position(policy, prob, holding):
    side, reason = verdict(policy, prob, holding, degraded=True)
    assert side in (0, holding.side)
    assert reason in REASONS


@given(policies, probabilities, holdings, st.booleans())
def test_a_predictor_that_says_flat_never_opens_or_turns_a_position(
    policy, prob, holding, degraded
):
    side, reason = verdict(policy, prob, holding, degraded=degraded, side=0)
    assert side in (0, holding.side)
    assert reason in REASONS


@given(policies, probabilities, holdings, st.booleans())
def test_an_entry_is_always_on_the_side_of_the_predictor(policy, prob, holding, agrees):
    stance = (1 if prob > 0.5 else -1) * (1 if agrees else -1)
    found = decide(policy, Signal(prob, 4, False, stance), holding)
    if found.side != holding.side and found.side != 0:
        assert found.side == stance
    assert not found.renew or found.side == stance


def test_a_flat_predictor_is_named_as_the_reason():
    assert verdict(make(), 0.9, side=0) == (0, "predictor_flat")
    assert verdict(make(), 0.9, side=0, degraded=True) == (0, "degraded")
    assert verdict(make(), 0.1, Held(1, 0), side=0) == (0, "exit_opposite")
    # Holding on is not opening, but the horizon is not begun anew.
    policy = make(exit_after_horizon=True)
    assert verdict(policy, 0.9, Held(1, 2), side=0) == (1, "hold_minimum")
    assert verdict(policy, 0.9, Held(1, 4), side=0) == (0, "exit_horizon")


@given(policies.filter(lambda p: p.allow_short), st.integers(0, 64).map(lambda n: n / 64), holdings)
def test_long_and_short_mirror_each_other(policy, prob, holding):
    side, _ = verdict(policy, prob, holding)
    mirrored, _ = verdict(policy, 1.0 - prob, Held(-holding.side, holding.bars))
    assert mirrored == -side


@given(st.lists(probabilities, max_size=200))
def test_a_higher_threshold_enters_less_often(probs):
    counts = [sum(entry_side(threshold, p) != 0 for p in probs) for threshold in (0.55, 0.6, 0.7)]
    assert counts == sorted(counts, reverse=True)


def test_leaving_at_the_moment_of_entering_is_refused():
    with pytest.raises(ValidationError, match="exit_threshold must be at most entry_threshold"):
        make(exit_threshold=0.7)


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError, match="stop_los"):
        make(stop_los_frac=0.1)
