"""When a limit order fills inside a bar, how much of it and at which price: pure functions.

A bar says which prices were seen, not who traded at them. At the limit's own price there is a
queue, of which we would be the end, so a touch is not enough: the price must trade through the
limit by at least a tick, and then the order has filled at its limit and not better, at an open
that gaps through it too. A limit that is marketable on arrival takes at the open, or, if it is
post-only, is refused.

In each bar an order takes at most `max_participation` of the last COMPLETED bar's volume, at the
bar's open and within its range together, as every other order is measured: the volume of the bar
in which it fills is known to nobody while it fills. What is left is taken back at the bar's close
(`strategies.limit_desk`), as the rest of a market order is; until the cancel arrives it fills only
where the next open gaps through the limit anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import NamedTuple, Self

from catalog.timestamps import NS_PER_SECOND
from strategies.execution import (
    BUY,
    ExecutionConfig,
    InstrumentTerms,
    Side,
    exact_decimal,
    slipped_price,
)
from strategies.impact import fill_slippage_bps, takes

_BPS = Decimal(10_000)
_LEAST_LIFE_NS = 11 * 60 * NS_PER_SECOND
QUANTITY_DECIMALS = 9
"""To which sums of quantities are rounded: binary ones are a bit off."""


@dataclass(frozen=True, slots=True)
class LimitStyle:
    """How entries and exits by decision are sent as limit orders.

    Parameters are those of `ExecutionConfig`: `limit_offset_bps`, `limit_timeout_bars`,
    `post_only`.
    """

    offset_bps: float
    timeout_bars: int
    post_only: bool

    @classmethod
    def of(cls, execution: ExecutionConfig) -> Self | None:
        """Return the style of a profile's execution; None for market orders."""
        if not execution.uses_limits:
            return None
        return cls(execution.limit_offset_bps, execution.limit_timeout_bars, execution.post_only)


def ends_at(style: LimitStyle | None, now: int, interval_ns: int) -> int:
    """Return when an exchange is to end a limit that nobody takes back, UTC nanoseconds.

    A bar after its sender would have. Binance takes whole seconds, and no end that is less than ten
    minutes away.
    """
    bars = 1 if style is None else style.timeout_bars + 1
    end = now + max(bars * interval_ns, _LEAST_LIFE_NS)
    return end // NS_PER_SECOND * NS_PER_SECOND


class Waiting(NamedTuple):
    """What is left of a limit order.

    Parameters
    ----------
    side : {-1, 1}
        Direction of the order.
    limit : float
        Quote units.
    left : float
        What has not filled, base units.
    taken : float
        What has filled in the bar at hand, base units.
    """

    side: Side
    limit: float
    left: float
    taken: float


class LimitFill(NamedTuple):
    """A fill of a limit order; `reference` is the price before slippage."""

    quantity: float
    price: float
    reference: float


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
    """Return whether a price range went beyond a resting limit; to touch it is not enough."""
    return low < limit if side == BUY else high > limit


def gaps_through(side: Side, limit: float, previous: float, price: float) -> bool:
    """Return whether an open went beyond a resting limit that the last close had not passed.

    What the market had passed before has had its part.
    """
    passed = trades_through(side, limit, previous, previous)
    return trades_through(side, limit, price, price) and not passed


def fills_now(
    order: Waiting, volume: float, max_participation: float | None, step: Decimal
) -> float:
    """Return how much of a limit order fills where its price is met, base units.

    Parameters
    ----------
    order : Waiting
        What is left of it.
    volume : float
        Base units traded in the last completed bar; 0 or NaN where there is none.
    max_participation, step
        As for `strategies.impact.takes`.

    Returns
    -------
    float
        A multiple of the step; 0 where the order has had its part of the bar.
    """
    most = takes(
        round(order.left + order.taken, QUANTITY_DECIMALS), volume, max_participation, step
    )
    return max(0.0, round(most - order.taken, QUANTITY_DECIMALS))


def maker_fill(
    order: Waiting, volume: float, execution: ExecutionConfig, terms: InstrumentTerms
) -> LimitFill:
    """Return the fill of a resting limit that the price trades through: at the limit."""
    quantity = fills_now(order, volume, execution.max_participation, terms.step)
    return LimitFill(quantity, order.limit, order.limit)


def taker_fill(
    order: Waiting,
    open_price: float,
    volume: float,
    execution: ExecutionConfig,
    terms: InstrumentTerms,
) -> LimitFill:
    """Return the fill of a limit that is marketable when it arrives at an open.

    It pays the slippage of a market order, but never a price beyond its limit.
    """
    quantity = fills_now(order, volume, execution.max_participation, terms.step)
    slippage = fill_slippage_bps(execution, quantity, volume)
    price = slipped_price(order.side, open_price, slippage, terms.tick)
    bounded = min(price, order.limit) if order.side == BUY else max(price, order.limit)
    return LimitFill(quantity, bounded, open_price)


def would_take(side: Side, limit: float, price: float, tick: Decimal) -> str:
    """Return the words with which a post-only order is refused that would take.

    They are the engine's own, so that the tables of orders of replay and paper are equal.
    """
    decimals = max(0, -int(tick.as_tuple().exponent))
    action = "BUY" if side == BUY else "SELL"
    return (
        f"{POST_ONLY} LIMIT {action} order limit px of {limit:.{decimals}f} would have been a "
        f"TAKER: bid={price:.{decimals}f}, ask={price:.{decimals}f}"
    )


POST_ONLY = "POST_ONLY"
"""With what the refusal of a post-only order begins."""
