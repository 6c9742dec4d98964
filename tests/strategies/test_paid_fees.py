"""A fee that was charged in another coin is booked at the profile's rate."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from nautilus_trader.model import Currency, Money, Price, Quantity

from strategies.fees import FeeTier
from strategies.order_reports import TradeReport
from strategies.paid_fees import fee_reported, fee_told
from strategies.recorder import MAKER, TAKER

RATES = FeeTier(2.0, 5.0)
USDT, BNB = Currency.from_str("USDT"), Currency.from_str("BNB")


def fill(fee: Any) -> Any:
    return SimpleNamespace(
        commission=fee, currency=USDT, last_qty=Quantity(0.5, 3), last_px=Price(40_000.0, 1)
    )


@pytest.mark.parametrize(
    ("fee", "maker", "booked"),
    [
        (Money(9.87654321, USDT), False, 9.87654321),
        (Money(0.015, BNB), False, 10.0),
        (Money(0.006, BNB), True, 4.0),
        (None, False, 0.0),
    ],
)
def test_what_the_engine_tells(fee: Any, maker: bool, booked: float) -> None:
    assert fee_told(fill(fee), RATES, maker=maker) == booked


@pytest.mark.parametrize(
    ("fee", "liquidity", "booked"),
    [(9.87, TAKER, 9.87), (0.0, MAKER, 0.0), (math.nan, TAKER, 10.0), (math.nan, MAKER, 4.0)],
)
def test_what_the_account_reports(fee: float, liquidity: str, booked: float) -> None:
    trade = TradeReport("7", 1, 0.5, 40_000.0, fee, liquidity)
    assert fee_reported(trade, RATES) == booked
