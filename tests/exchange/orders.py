"""Orders as the exchange keeps them, and in the three ways in which it words them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from strategies.execution import BUY, Side
from tests.exchange.feed import Listing

OPEN = ("NEW", "PARTIALLY_FILLED")
CONDITIONAL = ("STOP_MARKET", "TAKE_PROFIT_MARKET")
NS_PER_MS = 1_000_000
type OrderType = Literal["MARKET", "LIMIT", "STOP_MARKET", "TAKE_PROFIT_MARKET", "LIQUIDATION"]


@dataclass(slots=True)
class Order:
    """An order of an account.

    Parameters
    ----------
    order_id : int
        The exchange's; an algo order has it from its trigger on, and 0 before.
    algo_id : int
        Of a stop or target; 0 for others.
    client_id : str
        The client's, at most 36 characters.
    symbol, side, kind
        What it does. `kind` is ``MARKET``, ``LIMIT``, ``STOP_MARKET`` ...
    quantity : float
        Base units.
    price, trigger : float or None
        Limit and trigger price.
    time_in_force : str
        ``GTC``, ``IOC``, ``FOK``, ``GTX`` (post-only) or ``GTD``.
    reduce_only : bool
        Whether it may only bring the position closer to zero.
    time_ms : int
        When it was received, milliseconds of market time.
    """

    order_id: int
    algo_id: int
    client_id: str
    symbol: str
    side: Side
    kind: str
    quantity: float
    price: float | None
    trigger: float | None
    time_in_force: str
    reduce_only: bool
    time_ms: int
    close_position: bool = False
    good_till_ms: int = 0
    working_type: str = "CONTRACT_PRICE"
    status: str = "NEW"
    executed: float = 0.0
    quote: float = 0.0
    update_ms: int = 0
    trigger_ms: int = 0
    reason: str = ""
    accepted: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it may still trade."""
        return self.status in OPEN

    @property
    def is_algo(self) -> bool:
        """Whether it is a stop or target, which have an interface of their own."""
        return self.algo_id > 0

    @property
    def side_name(self) -> str:
        """``BUY`` or ``SELL``."""
        return "BUY" if self.side == BUY else "SELL"

    @property
    def average(self) -> float:
        """Average price of what was filled, 0 for nothing."""
        return self.quote / self.executed if self.executed else 0.0

    @property
    def working_kind(self) -> str:
        """The type as the matching engine sees it: a triggered stop is a market order."""
        return "MARKET" if self.is_algo else self.kind


def rest_order(order: Order, listing: Listing) -> dict[str, Any]:
    """Return an order as REST and the WebSocket API answer it."""
    return {
        "orderId": order.order_id,
        "symbol": order.symbol,
        "status": order.status,
        "clientOrderId": order.client_id,
        "price": listing.price(order.price or 0.0),
        "avgPrice": f"{order.average:.8f}",
        "origQty": listing.size(order.quantity),
        "executedQty": listing.size(order.executed),
        "cumQty": listing.size(order.executed),
        "cumQuote": f"{order.quote:.8f}",
        "timeInForce": order.time_in_force,
        "type": order.working_kind,
        "reduceOnly": order.reduce_only,
        "closePosition": order.close_position,
        "side": order.side_name,
        "positionSide": "BOTH",
        "stopPrice": listing.price(0.0),
        "workingType": order.working_type,
        "priceProtect": False,
        "origType": order.working_kind,
        "priceMatch": "NONE",
        "selfTradePreventionMode": "EXPIRE_MAKER",
        "goodTillDate": order.good_till_ms,
        "time": order.time_ms,
        "updateTime": order.update_ms or order.time_ms,
    }


def algo_status(order: Order) -> str:
    """Return the state of a stop or target in the words of the algo service."""
    if order.status == "FILLED":
        return "FINISHED"
    return "TRIGGERED" if order.status == "PARTIALLY_FILLED" else order.status


def rest_algo(order: Order, listing: Listing) -> dict[str, Any]:
    """Return a stop or target as the algo service answers it."""
    return {
        "algoId": order.algo_id,
        "clientAlgoId": order.client_id,
        "algoType": "CONDITIONAL",
        "orderType": order.kind,
        "symbol": order.symbol,
        "side": order.side_name,
        "positionSide": "BOTH",
        "timeInForce": order.time_in_force,
        "quantity": listing.size(order.quantity),
        "algoStatus": algo_status(order),
        "actualOrderId": str(order.order_id) if order.order_id else "",
        "actualPrice": f"{order.average:.8f}",
        "actualType": "MARKET" if order.order_id else "",
        "actualQty": listing.size(order.executed),
        "triggerPrice": listing.price(order.trigger or 0.0),
        "price": listing.price(0.0),
        "icebergQuantity": None,
        "selfTradePreventionMode": "EXPIRE_MAKER",
        "workingType": order.working_type,
        "priceMatch": "NONE",
        "closePosition": order.close_position,
        "priceProtect": False,
        "reduceOnly": order.reduce_only,
        "createTime": order.time_ms,
        "updateTime": order.update_ms or order.time_ms,
        "triggerTime": order.trigger_ms,
        "goodTillDate": order.good_till_ms,
    }


@dataclass(frozen=True, slots=True)
class Execution:
    """A part of a fill; `quantity` 0 for an event without one."""

    quantity: float = 0.0
    price: float = 0.0
    commission: float = 0.0
    trade_id: int = 0
    maker: bool = False
    realized: float = 0.0
    fee_asset: str = "USDT"


NO_EXECUTION = Execution()


def rest_trade(order: Order, part: Execution, ts_ms: int) -> dict[str, Any]:
    """Return a trade of an order, as REST answers it."""
    return {
        "symbol": order.symbol,
        "id": part.trade_id,
        "orderId": order.order_id,
        "clientOrderId": order.client_id,
        "price": repr(part.price),
        "qty": repr(part.quantity),
        "quoteQty": f"{part.quantity * part.price:.8f}",
        "realizedPnl": f"{part.realized:.8f}",
        "side": order.side_name,
        "positionSide": "BOTH",
        "time": ts_ms,
        "buyer": order.side > 0,
        "maker": part.maker,
        "commission": f"{part.commission:.8f}",
        "commissionAsset": part.fee_asset,
        "marginAsset": "USDT",
    }
