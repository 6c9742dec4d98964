import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from catalog.arrays import Ohlcv
from strategies.execution import BUY, SELL, stop_trigger
from strategies.stops import (
    AmbiguousBars,
    Levels,
    StopConfig,
    already_passed,
    ambiguous,
    best_price,
    stop_fraction,
    target_fraction_,
    target_is_reached,
    target_trigger,
    tightened,
    trailing_trigger,
)

TICK = Decimal("0.1")
NAN = math.nan


def make(**changes):
    return StopConfig(
        **{"stop_vol_multiple": 2.0, "target_vol_multiple": 3.0, "min_frac": 0.01, **changes}
    )


def bar(open_, high, low):
    return Ohlcv(open_, high, low, open_, 1.0)


def test_distances_are_multiples_of_the_volatility_over_the_horizon():
    assert stop_fraction(make(), 0.004, 16) == pytest.approx(0.032)
    assert target_fraction_(make(), 0.004, 16) == pytest.approx(0.048)
    assert target_fraction_(make(target_vol_multiple=None), 0.004, 16) is None


@pytest.mark.parametrize(
    ("volatility", "stop"),
    [(0.0, 0.01), (0.0001, 0.01), (1.0, 0.2), (NAN, 0.2), (math.inf, 0.2)],
)
def test_bounds_keep_the_payoff_ratio_and_the_unknown_is_wide(volatility, stop):
    assert stop_fraction(make(), volatility, 16) == stop
    assert target_fraction_(make(), volatility, 16) == pytest.approx(1.5 * stop)
    assert make().payoff_ratio == 1.5


def test_impossible_distances_are_refused():
    with pytest.raises(ValidationError, match=r"max_frac must be at least min_frac \(0.3\)"):
        make(min_frac=0.3)
    with pytest.raises(ValidationError, match="target of a short would be at or below zero"):
        make(target_vol_multiple=10.0)


def test_the_target_is_rounded_towards_the_entry_but_never_onto_it():
    assert target_trigger(SELL, 100.0, 0.0159, TICK) == 101.5
    assert target_trigger(BUY, 100.0, 0.0159, TICK) == 98.5
    assert target_trigger(SELL, 100.0, 0.0001, TICK) == 100.1
    assert target_trigger(BUY, 100.05, 0.0001, TICK) == 100.0
    assert target_trigger(BUY, 0.1, 0.5, TICK) == 0.1


prices = st.integers(10, 10**7).map(lambda ticks: ticks / 10)
fractions = st.floats(0.001, 0.5)
sides = st.sampled_from([SELL, BUY])


@given(sides, prices, fractions)
def test_stop_and_target_mirror_each_other_around_the_entry(side, entry, fraction):
    wide = fraction * entry > 0.2
    target = target_trigger(side, entry, fraction, TICK)
    if wide:
        assert target == stop_trigger(-side, entry, fraction, TICK)
        assert (target - entry) * side < 0.0
    assert abs(target - entry) <= max(fraction * entry, 0.1) * (1.0 + 1e-9)


@given(st.floats(0.0, 0.1), st.floats(0.0, 0.1), st.integers(1, 100))
def test_stops_are_wider_when_volatile_and_within_their_bounds(calm, wild, horizon):
    calm, wild = sorted((calm, wild))
    found = [stop_fraction(make(), one, horizon) for one in (calm, wild)]
    assert 0.01 <= found[0] <= found[1] <= 0.2


@given(sides, fractions, prices, st.lists(st.tuples(prices, prices), max_size=20))
def test_a_trailing_stop_only_tightens(side, fraction, entry, extremes):
    best, trigger = entry, stop_trigger(side, entry, fraction, TICK)
    for one in extremes:
        best = best_price(side, best, max(one), min(one))
        moved = trailing_trigger(side, best, fraction, TICK)
        assert moved == tightened(side, trigger, moved)
        assert moved == tightened(side, moved, trigger)
        trigger = moved


def test_a_trailing_stop_beyond_the_last_close_is_known_as_passed():
    trigger = trailing_trigger(SELL, best_price(SELL, 100.0, 110.0, 99.0), 0.05, TICK)
    assert trigger == 104.5
    assert already_passed(SELL, trigger, 104.5)
    assert not already_passed(SELL, trigger, 104.6)
    assert already_passed(BUY, 95.5, 95.5)
    assert not already_passed(BUY, 95.5, 95.4)


def test_a_touch_reaches_a_target():
    assert target_is_reached(SELL, 101.0, 101.0, 99.0)
    assert not target_is_reached(SELL, 101.0, 100.9, 99.0)
    assert target_is_reached(BUY, 99.0, 101.0, 99.0)
    assert not target_is_reached(BUY, 99.0, 101.0, 99.1)
    assert not target_is_reached(SELL, NAN, 1e9, 0.0)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (bar(100.0, 103.1, 98.0), True),
        (bar(100.0, 103.0, 98.0), True),
        (bar(100.0, 102.9, 98.0), False),
        (bar(100.0, 103.1, 98.1), False),
        (bar(97.0, 103.1, 97.0), False),
        (bar(98.0, 103.1, 98.0), False),
        (bar(103.5, 104.0, 97.0), False),
        (bar(103.0, 104.0, 97.0), False),
        (bar(102.9, 104.0, 97.0), True),
    ],
)
def test_a_bar_is_ambiguous_when_only_the_path_inside_it_could_tell(one, expected):
    assert ambiguous(SELL, Levels(98.0, 103.0), one) is expected
    mirrored = bar(200.0 - one.open, 200.0 - one.low, 200.0 - one.high)
    assert ambiguous(BUY, Levels(102.0, 97.0), mirrored) is expected
    assert not ambiguous(SELL, Levels(98.0, NAN), one)


def test_what_the_other_order_of_events_would_have_given():
    found = AmbiguousBars().add(2.0, 100.0, 98.0, 103.0).add(-1.0, 100.0, 97.0, 102.0)
    assert found == (2, -4.0 + 3.0, 6.0 - 2.0)
    assert found.difference == 5.0
