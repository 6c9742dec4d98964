"""What a paper exchange is sent and what it answers, and the words in which it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from strategies.execution import BUY, InstrumentTerms, Side, stop_is_triggered
from strategies.limit_orders import trades_through
from strategies.stops import target_is_reached


@dataclass(frozen=True, slots=True)
class PaperOrder:
    """An order as the exchange knows it.

    Parameters
    ----------
    client_order_id : str
        Unique among all orders of a run.
    instrument_id : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    side : {-1, 1}
        Sells or buys.
    quantity : float
        Base units, positive.
    trigger : float or None
        Trigger price of a stop or target, quote units; None for a market order.
    reduce_only : bool
        Whether it may only bring the position closer to zero.
    immediate : bool
        Whether it fills up to the participation limit and the rest is cancelled.
    is_target : bool
        Whether the trigger is that of a target.
    limit : float or None
        Price of a limit order, quote units; None for all others.
    post_only : bool
        Whether a limit order that would take is refused.
    """

    client_order_id: str
    instrument_id: str
    side: Side
    quantity: float
    trigger: float | None
    reduce_only: bool
    immediate: bool = False
    is_target: bool = False
    limit: float | None = None
    post_only: bool = False

    @property
    def rises(self) -> bool:
        """Whether it waits for a higher price."""
        return (self.side == BUY) != (self.is_target or self.limit is not None)


class PaperFill(NamedTuple):
    """A fill; `reference` is before slippage, `commission` a cost, both in USDT.

    `left` is what the order still waits for: nothing, unless it is a limit order. `made` says
    whether it rested.
    """

    order: PaperOrder
    quantity: float
    price: float
    reference: float
    commission: float
    ts_event: int
    left: float = 0.0
    made: bool = False


class PaperAccept(NamedTuple):
    """A stop, target or limit that arrived and rests."""

    order: PaperOrder
    ts_event: int


class PaperCancel(NamedTuple):
    """An order that was taken back on request, or ended with its position."""

    order: PaperOrder
    ts_event: int


class PaperReject(NamedTuple):
    """An order that the exchange refused when it arrived or would have traded, and why.

    `would_take` says that it is a post-only order which would have taken.
    """

    order: PaperOrder
    ts_event: int
    reason: str
    would_take: bool = False


type PaperEvent = PaperFill | PaperAccept | PaperCancel | PaperReject


def place(order: PaperOrder) -> tuple[bool, int, bool, float]:
    """Return an order's place among those that one bar reaches."""
    price = order.trigger if order.limit is None else order.limit
    assert price is not None
    far = price if order.rises else -price
    return not order.rises, -order.side, order.limit is None, far


def reached(order: PaperOrder, high: float, low: float) -> bool:
    """Return whether a price range fills an order that rests."""
    if order.limit is not None:
        return trades_through(order.side, order.limit, high, low)
    assert order.trigger is not None
    if order.is_target:
        return target_is_reached(order.side, order.trigger, high, low)
    return stop_is_triggered(order.side, order.trigger, high, low)


def would_increase(order: PaperOrder) -> str:
    """Return why an order that only reduces is refused where there is nothing to reduce."""
    # The engine's own words, so that the backtest's table of orders and ours are equal.
    return (
        f"Reduce-only order {order.client_order_id} ({_type(order)}-{_way(order)}) would have "
        f"increased position"
    )


def in_the_market(order: PaperOrder, price: float, terms: InstrumentTerms) -> str:
    """Return why a stop or target is refused that the market has passed."""
    # The engine's own words, too.
    what = "trigger" if order.is_target else "stop"
    shown = f"{price:.{terms.price_decimals}f}"
    return (
        f"{_type(order)} {_way(order)} order {what} px of "
        f"{order.trigger:.{terms.price_decimals}f} was in the market: bid={shown}, ask={shown}, "
        f"but rejected because of configuration"
    )


def _type(order: PaperOrder) -> str:
    if order.limit is not None:
        return "LIMIT"
    if order.trigger is None:
        return "MARKET"
    return "MARKET_IF_TOUCHED" if order.is_target else "STOP_MARKET"


def _way(order: PaperOrder) -> str:
    return "BUY" if order.side == BUY else "SELL"
