"""What a paper exchange says to a node that starts: what is open, in the engine's words.

With it the engine knows orders and positions of an earlier process; those of a strategy that claims
its instruments (`StrategySettings.claims`) are that strategy's again. An order that has not arrived
is not told as accepted: the engine would not tell of its acceptance a second time, and a stop that
nobody seems to answer is not trailed.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

from nautilus_trader.model import (
    AccountId,
    ClientId,
    ClientOrderId,
    ExecutionMassStatus,
    OrderSide,
    OrderStatus,
    OrderStatusReport,
    OrderType,
    PositionSide,
    PositionStatusReport,
    Price,
    Quantity,
    TimeInForce,
    TriggerType,
    Venue,
    VenueOrderId,
)

from live.paper_book import PaperBook
from live.paper_orders import PaperOrder
from strategies.execution import BUY


class PaperAccount(NamedTuple):
    """Whose reports: names of venue and account, instruments by id."""

    venue: str
    account_id: str
    instruments: dict[str, Any]


def venue_order_id(client_order_id: str) -> VenueOrderId:
    """Return the exchange's name of an order."""
    return VenueOrderId(f"P-{client_order_id}")


def mass_status(account: PaperAccount, book: PaperBook, now: int) -> ExecutionMassStatus | None:
    """Return all that is open, None for an account that holds nothing and has no orders."""
    orders, positions = book.open_orders(), book.ledger.positions
    if not orders and not positions:
        return None
    venue, identity = account.venue, AccountId(account.account_id)
    status = ExecutionMassStatus(ClientId(venue), identity, Venue(venue), now)
    status.add_order_reports([_order(account, one, book, now) for one in orders])
    status.add_position_reports(
        [
            _position(account, name, (one.quantity, one.average_open), now)
            for name, one in positions.items()
        ]
    )
    return status


def _order(account: PaperAccount, order: PaperOrder, book: PaperBook, now: int) -> Any:
    instrument = account.instruments[order.instrument_id]
    filled = book.filled.get(order.client_order_id, 0.0)
    decimals = instrument.price_precision
    status = OrderStatus.PARTIALLY_FILLED if filled else OrderStatus.ACCEPTED
    if book.is_on_its_way(order.client_order_id):
        status = OrderStatus.SUBMITTED
    return OrderStatusReport(
        AccountId(account.account_id),
        instrument.id,
        venue_order_id(order.client_order_id),
        OrderSide.BUY if order.side == BUY else OrderSide.SELL,
        _type(order),
        TimeInForce.IOC if order.immediate else TimeInForce.GTC,
        status,
        Quantity(order.quantity, instrument.size_precision),
        Quantity(filled, instrument.size_precision),
        now,
        now,
        now,
        client_order_id=ClientOrderId(order.client_order_id),
        price=None if order.limit is None else Price(order.limit, decimals),
        trigger_price=None if order.trigger is None else Price(order.trigger, decimals),
        trigger_type=None if order.trigger is None else TriggerType.DEFAULT,
        avg_px=Decimal(repr(order.limit)) if filled and order.limit is not None else None,
        post_only=order.post_only,
        reduce_only=order.reduce_only,
    )


def _type(order: PaperOrder) -> OrderType:
    if order.limit is not None:
        return OrderType.LIMIT
    if order.trigger is None:
        return OrderType.MARKET
    return OrderType.MARKET_IF_TOUCHED if order.is_target else OrderType.STOP_MARKET


def _position(account: PaperAccount, name: str, held: tuple[float, float], now: int) -> Any:
    quantity, average = held
    instrument = account.instruments[name]
    return PositionStatusReport(
        AccountId(account.account_id),
        instrument.id,
        PositionSide.LONG if quantity > 0.0 else PositionSide.SHORT,
        Quantity(abs(quantity), instrument.size_precision),
        now,
        now,
        avg_px_open=Decimal(repr(average)),
    )
