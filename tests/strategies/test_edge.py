import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.edge import (
    expected_move,
    expected_return,
    funding_cost_frac,
    horizon_sigma,
    round_trip_cost_frac,
    settlements_until,
    trade_cost_frac,
    with_impact,
)
from strategies.intent import MarketView, TradeCosts

probabilities = st.floats(0.0, 1.0)
scales = st.floats(1e-6, 1.0)


def test_the_models_own_scale_comes_before_the_markets():
    assert horizon_sigma(0.02, 0.003, 16) == 0.02
    assert horizon_sigma(math.nan, 0.003, 16) == pytest.approx(0.012)
    assert horizon_sigma(0.0, 0.003, 16) == pytest.approx(0.012)
    for unknown in (math.nan, 0.0, -1.0, math.inf):
        assert math.isnan(horizon_sigma(math.nan, unknown, 16))


def test_expected_return_is_the_mean_of_a_normal_size_with_that_sign():
    generator = np.random.Generator(np.random.PCG64(7))
    sizes = np.abs(generator.normal(0.0, 0.02, 400_000))
    signs = np.where(generator.random(400_000) < 0.6, 1.0, -1.0)
    returns = signs * sizes
    error = returns.std() / math.sqrt(len(returns))
    assert expected_return(0.6, 0.02) == pytest.approx(returns.mean(), abs=4.0 * error)
    assert expected_move(0.02) == pytest.approx(sizes.mean(), abs=4.0 * error)


@given(probabilities, scales)
def test_expected_return_is_antisymmetric_and_linear(prob, sigma):
    mirrored = expected_return(1.0 - prob, sigma)
    assert expected_return(prob, sigma) == pytest.approx(-mirrored, abs=1e-15)
    assert expected_return(prob, 2.0 * sigma) == 2.0 * expected_return(prob, sigma)
    assert expected_return(0.5, sigma) == 0.0


def test_a_round_trip_pays_twice():
    assert round_trip_cost_frac(5.0, 1.0) == pytest.approx(0.0012)


@pytest.mark.parametrize(
    ("following", "every", "horizon", "count"),
    [
        (math.nan, 32.0, 16, 0),
        (17.0, 32.0, 16, 0),
        (16.0, 32.0, 16, 1),  # at the horizon's end: the exit fills after it
        (1.0, 32.0, 16, 1),
        (0.0, 32.0, 16, 0),  # now: the entry fills after it
        (0.0, 32.0, 32, 1),
        (8.0, 8.0, 32, 4),
        (8.0, math.nan, 32, 1),
        (0.0, math.nan, 32, 0),
        (-1.0, 8.0, 32, 0),
    ],
)
def test_settlements_that_a_position_meets(following, every, horizon, count):
    assert settlements_until(following, every, horizon) == count


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 200))
def test_settlements_are_those_that_counting_bars_finds(following, every, horizon):
    met = [
        bar for bar in range(1, horizon + 1) if bar >= following and (bar - following) % every == 0
    ]
    assert settlements_until(float(following), float(every), horizon) == len(met)


@given(st.sampled_from((-1, 1)), st.floats(-0.0075, 0.0075), st.floats(0, 40), st.integers(1, 96))
def test_what_a_long_pays_a_short_receives(side, rate, following, horizon):
    paid = funding_cost_frac(side, rate, following, 32.0, horizon)
    assert paid == -funding_cost_frac(-side, rate, following, 32.0, horizon)


def view(rate=0.0, following=math.nan):
    return MarketView(100.0, 0.003, 10.0, rate, following)


def test_the_cost_of_a_trade_is_never_negative_and_never_silently_unknown():
    costs = TradeCosts(0.0012, 32.0)
    assert trade_cost_frac(1, view(), costs, 16) == 0.0012
    assert trade_cost_frac(1, view(0.0075, 4.0), costs, 16) == pytest.approx(0.0087)
    assert trade_cost_frac(-1, view(0.0005, 4.0), costs, 16) == pytest.approx(0.0007)
    assert trade_cost_frac(-1, view(0.0075, 4.0), costs, 16) == 0.0
    assert math.isnan(trade_cost_frac(1, view(math.nan, 4.0), costs, 16))
    assert math.isnan(trade_cost_frac(1, view(), TradeCosts(math.nan, 32.0), 16))


# ---- what a size adds


MOVED = TradeCosts(0.0012, 32.0, impact_bps=35.0, impact_cap_bps=50.0, max_participation=0.04)


def thin(volume=1_000.0, price=100.0):
    return view()._replace(price=price, volume=volume)


def test_a_size_adds_the_impact_of_its_entry_and_its_exit():
    # A hundredth of the volume: a tenth of 35 basis points, twice.
    found = with_impact(MOVED, 1_000.0, thin())
    assert found.round_trip_frac == pytest.approx(0.0012 + 2 * 3.5e-4)
    assert found._replace(round_trip_frac=0.0012) == MOVED


@pytest.mark.parametrize(
    ("value", "market", "moved_bps"),
    [
        (1e9, thin(), 7.0),  # no more than a 25th of a bar fills at once
        (1_000.0, thin(volume=0.0), 50.0),
        (1_000.0, thin(volume=math.nan), 50.0),
        (1_000.0, thin(price=math.nan), 7.0),
        (1_000.0, thin(price=0.0), 7.0),
        (0.0, thin(), 0.0),
        (-5.0, thin(volume=0.0), 0.0),
        (math.nan, thin(), 0.0),
    ],
)
def test_what_is_unknown_costs_the_most_and_nothing_costs_nothing(value, market, moved_bps):
    found = with_impact(MOVED, value, market).round_trip_frac
    assert found == pytest.approx(0.0012 + 2e-4 * moved_bps)


@given(st.floats(1.0, 1e9), st.floats(1.0, 3.0), st.floats(0.0, 1e6), st.floats(1.0, 3.0))
def test_impact_grows_with_size_and_falls_with_volume(value, larger, volume, more):
    costs = MOVED._replace(max_participation=math.inf)
    least = with_impact(costs, value, thin(more * volume)).round_trip_frac
    found = with_impact(costs, value, thin(volume)).round_trip_frac
    most = with_impact(costs, larger * value, thin(volume)).round_trip_frac
    assert 0.0012 <= least <= found <= most <= 0.0012 + 2 * 50e-4 + 1e-12
    free = costs._replace(impact_bps=0.0)
    assert with_impact(free, value, thin(volume)) is free
