from __future__ import annotations

import itertools
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.execution import BUY, SELL
from strategies.fees import EXPLICIT, FEE_TIERS, fee_fault
from strategies.impact import impact_bps, latency_spread_bps, participation, takes
from strategies.limit_orders import is_marketable, limit_price, trades_through
from strategies.liquidation import is_liquidated, liquidation_price, maintenance_margin

STEP = Decimal("0.001")
sizes = st.integers(1, 10**7).map(lambda steps: steps / 1000)
volumes = st.one_of(st.sampled_from([0.0, math.nan]), st.floats(1e-3, 1e6))


def test_impact_is_the_square_root_of_participation_up_to_its_cap():
    assert participation(2.0, 50.0) == 0.04
    assert impact_bps(2.0, 50.0, 30.0, 100.0) == pytest.approx(6.0)
    assert impact_bps(8.0, 50.0, 30.0, 100.0) == pytest.approx(12.0)
    assert impact_bps(50.0, 50.0, 30.0, 100.0) == 30.0
    assert impact_bps(5_000.0, 50.0, 30.0, 100.0) == 100.0


@pytest.mark.parametrize("volume", [0.0, math.nan])
def test_a_bar_in_which_nothing_traded_is_the_thinnest_market(volume):
    assert impact_bps(1.0, volume, 30.0, 100.0) == 100.0
    assert takes(1.0, volume, 0.1, STEP) == 0.001


@given(sizes, sizes, volumes, st.floats(0, 100), st.floats(0, 100))
def test_impact_grows_with_size_and_never_beyond_its_cap(one, two, volume, coefficient, cap):
    small, large = sorted([one, two])
    less = impact_bps(small, volume, coefficient, cap)
    assert 0.0 <= less <= impact_bps(large, volume, coefficient, cap)
    assert less <= cap


@given(sizes, volumes, st.one_of(st.none(), st.floats(1e-4, 1.0)))
def test_the_market_takes_whole_steps_within_the_limit(quantity, volume, limit):
    taken = takes(quantity, volume, limit, STEP)
    assert 0.0 < taken <= quantity
    assert Decimal(repr(taken)) % STEP == 0
    if limit is None:
        assert taken == quantity
    elif taken < quantity and taken > 0.001:
        assert taken <= volume * limit * (1 + 1e-12) < taken + 0.001 * (1 + 1e-9)


def test_a_varying_delay_costs_the_move_that_happens_meanwhile():
    # A hundredth of a bar is a tenth of its volatility: 0.1 x 0.2 %.
    assert latency_spread_bps(9_000.0, 0.002, 900_000.0) == pytest.approx(2.0)


def test_standard_fees_fall_with_the_tier_and_makers_pay_less():
    tiers = list(FEE_TIERS.values())
    assert tiers[0] == (2.0, 5.0)
    assert all(later < earlier for earlier, later in itertools.pairwise(tiers))
    assert all(one.maker_bps < one.taker_bps for one in tiers)
    # The announcement of 2026-02-02 has half of each taker fee.
    halves = [2.5, 2.0, 1.75, 1.6, 1.5, 1.35, 1.25, 1.1, 1.0, 0.85]
    assert [one.taker_bps / 2 for one in tiers] == halves


def test_fees_must_be_those_of_the_tier_that_is_named():
    assert fee_fault(EXPLICIT, 9.0, 9.0) is None
    assert fee_fault("binance-usdm-vip1", 1.6, 4.0) is None
    assert "must be 1.6 bp to make and 4 bp to take" in fee_fault("binance-usdm-vip1", 2.0, 4.0)
    assert "fee_tier must be explicit or one of binance-usdm-regular" in fee_fault("x", 2.0, 4.0)


def test_a_limit_waits_on_our_side_rounded_away_from_the_market():
    tick = Decimal("0.1")
    assert limit_price(BUY, 30_000.0, 1.0, tick) == 29_997.0
    assert limit_price(SELL, 30_000.0, 1.0, tick) == 30_003.0
    assert limit_price(BUY, 30_000.3, 0.001, tick) == 30_000.2
    assert limit_price(SELL, 30_000.3, 0.001, tick) == 30_000.4
    assert limit_price(BUY, 0.1, 5_000.0, tick) == 0.1


def test_to_touch_a_limit_is_not_enough():
    assert not trades_through(BUY, 100.0, high=101.0, low=100.0)
    assert trades_through(BUY, 100.0, high=101.0, low=99.9)
    assert not trades_through(SELL, 101.0, high=101.0, low=100.0)
    assert trades_through(SELL, 101.0, high=101.1, low=100.0)
    assert is_marketable(BUY, 100.0, 100.0)
    assert not is_marketable(BUY, 99.9, 100.0)
    assert is_marketable(SELL, 100.0, 100.0)
    assert not is_marketable(SELL, 100.1, 100.0)


@given(
    st.sampled_from([BUY, SELL]),
    st.floats(1.0, 1e5),
    st.floats(1.0, 1e5),
    st.floats(1.0, 1e5),
)
def test_a_limit_that_fills_is_one_that_was_passed(side, limit, one, two):
    low, high = sorted([one, two])
    touched = low <= limit if side == BUY else high >= limit
    assert touched or not trades_through(side, limit, high, low)


def test_an_account_is_liquidated_when_it_no_longer_covers_its_positions():
    need = maintenance_margin([30_000.0, -20_000.0], 0.004)
    assert need == 200.0
    assert not is_liquidated(200.01, need)
    assert is_liquidated(200.0, need)
    assert is_liquidated(-5.0, need)
    assert is_liquidated(math.nan, need)
    assert not is_liquidated(-5.0, maintenance_margin([], 0.004))


@given(
    st.floats(0.001, 100.0),
    st.sampled_from([1.0, -1.0]),
    st.floats(10.0, 1e5),
    st.floats(0.02, 0.9),
    st.floats(0.0, 0.02),
)
def test_at_its_liquidation_price_equity_is_the_maintenance_margin(size, side, price, part, frac):
    quantity = side * size
    cash = part * size * price
    mark = liquidation_price(quantity, price, cash, frac)
    equity = cash + quantity * (mark - price)
    assert equity == pytest.approx(maintenance_margin([quantity * mark], frac), abs=1e-6 * cash)
    assert (mark < price) == (side > 0) or math.isclose(mark, price)


def test_a_position_without_leverage_is_not_liquidated_above_zero():
    assert liquidation_price(1.0, 100.0, 100.0, 0.004) == 0.0
