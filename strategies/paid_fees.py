"""What a fill has cost, where the fee was charged in another coin than the books are kept in.

An account may pay its fees in a coin of the exchange. Of such a fee the books know no price. They
take the rate of the profile instead, which is a little more than was paid, because that way of
paying has a discount.
"""

from __future__ import annotations

import math
from typing import Any

from strategies.execution import commission
from strategies.fees import FeeTier
from strategies.market_data import price_number
from strategies.order_reports import TradeReport
from strategies.recorder import MAKER


def fee_told(event: Any, rates: FeeTier, *, maker: bool) -> float:
    """Return what a fill that the engine tells has cost, in the currency of its instrument."""
    fee = event.commission
    if fee is None:
        return 0.0
    if fee.currency == event.currency:
        return float(fee.as_decimal())
    rate = rates.maker_bps if maker else rates.taker_bps
    return commission(price_number(event.last_qty), price_number(event.last_px), rate)


def fee_reported(trade: TradeReport, rates: FeeTier) -> float:
    """Return what a trade that an account reports has cost."""
    if not math.isnan(trade.commission):
        return trade.commission
    rate = rates.maker_bps if trade.liquidity == MAKER else rates.taker_bps
    return commission(trade.quantity, trade.price, rate)
