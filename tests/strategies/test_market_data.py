from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nautilus_trader.model import Price, Quantity

from strategies.market_data import OpenQuotes, price_number


@st.composite
def decimals(draw):
    """Numbers as an exchange writes them, up to those that a double cannot count exactly."""
    places = draw(st.integers(0, 16))
    units = draw(st.integers(0, 10 ** min(places + 9, 19)))
    return Decimal(units).scaleb(-places), places


@given(decimals())
@example((Decimal("39317.3"), 1))
@example((Decimal(2**50).scaleb(-16), 16))
@example((Decimal(2**50 - 1).scaleb(-16), 16))
@example((Decimal(2**53 + 1).scaleb(-9), 9))
def test_a_price_becomes_the_double_nearest_to_its_decimal(number):
    exact, places = number
    for kind in (Price, Quantity):
        assert price_number(kind.from_decimal_dp(exact, places)) == float(exact)


@given(decimals())
def test_a_negative_price_mirrors_a_positive_one(number):
    exact, places = number
    assert price_number(Price.from_decimal_dp(-exact, places)) == -float(exact)


@given(st.lists(st.integers(0, 50), min_size=1, unique=True).map(sorted), st.integers(-1, 60))
def test_the_last_quote_is_the_one_at_or_before(times, now):
    price = np.arange(len(times)) + 1.0
    quotes = OpenQuotes("X", np.array(times, dtype=np.int64), price, price - 1.0)
    known = [row for row, ts in enumerate(times) if ts <= now]
    if known:
        assert quotes.last(now) == known[-1] + 1.0
    else:
        with pytest.raises(LookupError, match="X has no quote until"):
            quotes.last(now)
