import math
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from strategies.execution import (
    BUY,
    SELL,
    ExecutionConfig,
    InstrumentTerms,
    commission,
    funding_payment,
    slippage_cost,
    slipped_price,
    stop_is_triggered,
    stop_reference,
    stop_trigger,
)
from strategies.sizing import confidence, order_quantity, target_fraction
from tests.strategies.settings import PLAIN, plain_execution

TICK = Decimal("0.1")
prices = st.integers(1, 10**7).map(lambda units: units / 10)
sides = st.sampled_from([BUY, SELL])


@given(prices, st.floats(0, 500), sides)
def test_slippage_is_never_in_our_favour_and_less_than_a_tick_too_much(price, bps, side):
    filled = slipped_price(side, price, bps, TICK)
    exact = price * (1 + side * bps / 1e4)
    assert side * (filled - price) >= 0 or filled == 0.1
    assert abs(filled - max(exact, 0.1)) < 0.1 + 1e-6
    assert math.isclose(filled * 10, round(filled * 10), abs_tol=1e-6)


def test_no_slippage_fills_at_the_reference_bit_for_bit():
    for units in range(299_900, 300_100):
        assert slipped_price(BUY, units / 10, 0.0, TICK) == units / 10
        assert slipped_price(SELL, units / 10, 0.0, TICK) == units / 10


def test_slippage_that_hits_a_tick_exactly_is_not_rounded_a_tick_further():
    # 30000 x 1.0002 is 30005.999999999996 in binary and 30006 in the shop.
    assert slipped_price(BUY, 30_000.0, 2.0, TICK) == 30_006.0
    assert slipped_price(SELL, 30_000.0, 2.0, TICK) == 29_994.0


@given(prices, prices)
def test_a_stop_never_fills_better_than_its_trigger_or_the_open(trigger, open_price):
    assert stop_reference(SELL, trigger, open_price) == min(trigger, open_price)
    assert stop_reference(BUY, trigger, open_price) == max(trigger, open_price)


@given(prices, st.floats(0.001, 0.5), sides)
def test_a_stop_lies_on_the_losing_side_of_the_entry(entry, fraction, side):
    trigger = stop_trigger(side, entry, fraction, TICK)
    assert side * (trigger - entry) >= 0 or trigger == 0.1


def test_triggers_are_reached_by_touching():
    assert stop_is_triggered(SELL, 99.0, high=101.0, low=99.0)
    assert not stop_is_triggered(SELL, 99.0, high=101.0, low=99.1)
    assert stop_is_triggered(BUY, 101.0, high=101.0, low=99.0)
    assert not stop_is_triggered(BUY, 101.1, high=101.0, low=99.0)


def test_costs_by_hand():
    assert commission(2.0, 30_000.0, 5.0) == 30.0
    assert slippage_cost(BUY, 2.0, 30_006.0, 30_000.0) == 12.0
    assert slippage_cost(SELL, 2.0, 29_994.0, 30_000.0) == 12.0
    assert funding_payment(1.0, 30_000.0, 0.001) == -30.0
    assert funding_payment(-1.0, 30_000.0, 0.001) == 30.0


@pytest.mark.parametrize("field", list(ExecutionConfig.model_fields))
def test_every_execution_setting_must_be_stated(field):
    stated = {name: value for name, value in PLAIN.items() if name != field}
    with pytest.raises(ValidationError, match=field):
        ExecutionConfig(**stated)


def test_zero_latency_is_refused():
    with pytest.raises(ValidationError, match="latency_ms"):
        plain_execution(latency_ms=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("limit_offset_bps", 1.0), ("limit_timeout_bars", 2), ("post_only", True)],
)
def test_settings_of_limits_where_there_are_none_are_refused(field, value):
    limits = plain_execution(order_style="limit", **{field: value})
    assert getattr(limits, field) == value
    assert limits.uses_limits
    with pytest.raises(ValidationError, match=f"{field} must be .* where order_style is market"):
        plain_execution(**{field: value})


def test_fees_that_are_not_those_of_their_tier_are_refused():
    assert plain_execution(fee_tier="binance-usdm-regular").taker_fee_bps == 5.0
    with pytest.raises(ValidationError, match=r"must be 1\.6 bp to make and 4 bp to take, were 2"):
        plain_execution(fee_tier="binance-usdm-vip1")


TERMS = InstrumentTerms("X", TICK, Decimal("0.001"), Decimal("0.001"), Decimal("100"))


@given(st.floats(1, 1e8), st.floats(0.0, 3), prices)
def test_a_size_never_exceeds_its_fraction_and_never_breaks_a_minimum(equity, fraction, price):
    quantity = order_quantity(equity, fraction, price, TERMS)
    assert quantity * price <= equity * fraction * (1 + 1e-12)
    if quantity:
        assert quantity >= 0.001
        assert quantity * price >= 100 * (1 - 1e-12)
        assert math.isclose(quantity * 1000, round(quantity * 1000), rel_tol=1e-12)
    else:
        wanted = equity * fraction
        assert wanted < 100 + 0.001 * price * (1 + 1e-9) or wanted < 0.001 * price * (1 + 1e-9)


@given(st.floats(0.0, 1.0), st.floats(0.01, 5.0))
def test_confidence_scales_between_half_and_all(prob_up, frac):
    fraction = target_fraction(frac, confidence(prob_up))
    assert 0.5 * frac <= fraction <= frac
    assert confidence(0.5) == 0.0
    assert confidence(0.0) == confidence(1.0) == 1.0


@pytest.mark.parametrize("equity", [0.0, -5.0])
def test_nothing_is_bought_without_equity(equity):
    assert order_quantity(equity, 1.0, 100.0, TERMS) == 0.0


def test_an_order_by_confidence_is_no_larger_than_the_exchange_takes():
    limited = replace(TERMS, max_quantity=Decimal("1.2345"))
    assert order_quantity(100_000.0, 0.5, 100.0, limited) == 1.234
    assert order_quantity(200.0, 0.5, 100.0, limited) == 1.0
    for nothing in ((0.0, 0.5, 100.0), (math.nan, 0.5, 100.0), (1e5, 0.5, 0.0), (1e5, 0.5, -1.0)):
        assert order_quantity(*nothing, limited) == 0.0
    assert order_quantity(1e5, 0.5, math.nan, limited) == 0.0
