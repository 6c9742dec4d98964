"""What an exchange says of an order when it is asked, in our words."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from nautilus_trader.model import ClientOrderId

from strategies.recorder import TAKER


@dataclass(frozen=True, slots=True)
class TradeReport:
    """One trade of an order, as the exchange tells it.

    `commission` is a cost, USDT; NaN where it was charged in another coin.
    """

    trade_id: str
    ts_event: int
    quantity: float
    price: float
    commission: float
    liquidity: str = TAKER


@dataclass(frozen=True, slots=True)
class OrderReport:
    """What the exchange knows of an order.

    Parameters
    ----------
    client_order_id : str
        Ours.
    status : str
        ``ACCEPTED``, ``PARTIALLY_FILLED``, ``FILLED``, ``CANCELED``, ``REJECTED`` or ``EXPIRED``.
    trades : tuple of TradeReport
        All of them, oldest first.
    ts_event : int
        Of its last change, UTC nanoseconds.
    detail : str
        Why it was refused.
    """

    client_order_id: str
    status: str
    trades: tuple[TradeReport, ...] = ()
    ts_event: int = 0
    detail: str = ""


def as_event(report: OrderReport) -> Any:
    """Return a report in the form of the engine's events."""
    return SimpleNamespace(
        client_order_id=ClientOrderId(report.client_order_id),
        ts_event=report.ts_event,
        reason=report.detail,
        due_post_only=False,
    )
