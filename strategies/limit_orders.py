"""When a limit order fills inside a bar, and at which price: pure functions.

A bar says which prices were seen, not who traded at them. At the limit's own price there is a
queue, of which we would be the end, so a touch is not enough: the price must trade through the
limit by at least a tick, and then the order has filled at its limit and not better. A limit that
is marketable on arrival takes at the open, or, if it is post-only, is refused.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from strategies.execution import BUY, Side, exact_decimal

_BPS = Decimal(10_000)


def limit_price(side: Side, reference: float, offset_bps: float, tick: Decimal) -> float:
    """Return the limit of an order that waits `offset_bps` on our side of a price.

    Parameters
    ----------
    side : {-1, 1}
        Direction of the order: a buy waits below the reference, a sale above it.
    reference : float
        The last close, quote units.
    offset_bps : float
        Basis points, at least 0.
    tick : Decimal
        Price increment; rounded away from the market.
    """
    exact = exact_decimal(reference) * (1 - side * exact_decimal(offset_bps) / _BPS)
    rounding = ROUND_FLOOR if side == BUY else ROUND_CEILING
    return float(max((exact / tick).to_integral_value(rounding), Decimal(1)) * tick)


def is_marketable(side: Side, limit: float, price: float) -> bool:
    """Return whether a limit order would trade at once at this price of the other side."""
    return limit >= price if side == BUY else limit <= price


def trades_through(side: Side, limit: float, high: float, low: float) -> bool:
    """Return whether a bar's range went beyond a resting limit; to touch it is not enough."""
    return low < limit if side == BUY else high > limit
