"""What an order must look like: the venue's filters and the codes with which it refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from tests.exchange.errors import ExchangeError, mandatory
from tests.exchange.feed import Listing, Market
from tests.exchange.orders import CONDITIONAL, Order

_ID = re.compile(r"^[.A-Z:/a-z0-9_-]{1,36}$")
_TIMES = ("GTC", "IOC", "FOK", "GTX", "GTD")
_CONDITIONAL_NAMES = (*CONDITIONAL, "STOP", "TAKE_PROFIT", "TRAILING_STOP_MARKET")
_EIGHT_DECIMALS = 8


def listing_of(market: Market, params: Mapping[str, Any]) -> Listing:
    """Return the instrument that a request names.

    Raises
    ------
    ExchangeError
        If it names none, or one that is not listed.
    """
    symbol = params.get("symbol")
    if not symbol:
        raise mandatory("symbol")
    listing = market.listings.get(str(symbol))
    if listing is None:
        raise ExchangeError(-1121, "Invalid symbol.")
    return listing


def client_id(params: Mapping[str, Any], name: str, default: str) -> str:
    """Return the client's name of an order, or `default` where it has none.

    Raises
    ------
    ExchangeError
        If it is longer than 36 characters, or has others than the venue allows.
    """
    given = params.get(name)
    if given is None or given == "":
        return default
    text = str(given)
    if len(text) > 36:
        raise ExchangeError(-4015, "Client order id length should not be more than 36 chars")
    if not _ID.match(text):
        raise ExchangeError(
            -1100,
            f"Illegal characters found in parameter '{name}'; legal range is "
            r"'^[\.A-Z\:/a-z0-9_-]{1,36}$'.",
        )
    return text


def number(params: Mapping[str, Any], name: str) -> Decimal | None:
    """Return a number of a request; None where it is absent.

    Raises
    ------
    ExchangeError
        If it is no number.
    """
    value = params.get(name)
    if value is None or value == "":
        return None
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        raise ExchangeError(-1100, f"Illegal characters found in parameter '{name}'.") from None
    if not found.is_finite():
        raise ExchangeError(-1100, f"Illegal characters found in parameter '{name}'.")
    return found


def flag(params: Mapping[str, Any], name: str) -> bool:
    """Return a truth value of a request; false where it is absent."""
    return str(params.get(name, "false")).lower() == "true"


def parse_order(listing: Listing, params: Mapping[str, Any], *, algo: bool, time_ms: int) -> Order:
    """Return the order that a request asks for, checked against the instrument's filters.

    Parameters
    ----------
    listing : Listing
        The instrument.
    params : mapping
        The request.
    algo : bool
        Whether it was sent to the interface of stops and targets.
    time_ms : int
        Market time, milliseconds.

    Raises
    ------
    ExchangeError
        With the venue's code.
    """
    side = str(params.get("side", ""))
    if side not in ("BUY", "SELL"):
        raise ExchangeError(-1117, "Invalid side.") if side else mandatory("side")
    if str(params.get("positionSide", "BOTH")) != "BOTH":
        raise ExchangeError(-4061, "Order's position side does not match user's setting.")
    kind = _kind(params, algo=algo)
    price = _price(listing, params, "price") if kind == "LIMIT" else None
    trigger = _price(listing, params, "triggerPrice") if algo else None
    closing = flag(params, "closePosition")
    quantity = _quantity(listing, params) if not (closing and algo) else Decimal(0)
    return Order(
        order_id=0,
        algo_id=0,
        client_id=client_id(params, "clientAlgoId" if algo else "newClientOrderId", ""),
        symbol=listing.symbol,
        side=1 if side == "BUY" else -1,
        kind=kind,
        quantity=float(quantity),
        price=None if price is None else float(price),
        trigger=None if trigger is None else float(trigger),
        time_in_force=_time_in_force(params, kind),
        reduce_only=flag(params, "reduceOnly"),
        time_ms=time_ms,
        close_position=closing,
        good_till_ms=int(params.get("goodTillDate") or 0),
        working_type=str(params.get("workingType") or "CONTRACT_PRICE"),
    )


def _kind(params: Mapping[str, Any], *, algo: bool) -> str:
    kind = str(params.get("type", ""))
    if not kind:
        raise mandatory("type")
    if algo:
        if str(params.get("algoType", "CONDITIONAL")) != "CONDITIONAL":
            raise ExchangeError(-1102, "Mandatory parameter 'algoType' was malformed.")
        if kind not in CONDITIONAL:
            raise ExchangeError(-1116, "Invalid orderType.")
        return kind
    if kind in _CONDITIONAL_NAMES:
        raise ExchangeError(
            -4120,
            "Order type not supported for this endpoint. Please use the Algo Order API "
            "endpoints instead.",
        )
    if kind not in ("MARKET", "LIMIT"):
        raise ExchangeError(-1116, "Invalid orderType.")
    return kind


def _time_in_force(params: Mapping[str, Any], kind: str) -> str:
    given = params.get("timeInForce")
    if given is None or given == "":
        if kind == "LIMIT":
            raise mandatory("timeInForce")
        return "GTC"
    if str(given) not in _TIMES:
        raise ExchangeError(-1115, "Invalid timeInForce.")
    return str(given)


def _decimals(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _price(listing: Listing, params: Mapping[str, Any], name: str) -> Decimal:
    value = number(params, name)
    if value is None:
        raise mandatory(name)
    if value <= 0:
        raise ExchangeError(-4001, "Price less than 0.")
    return check_price(listing, value)


def check_price(listing: Listing, value: Decimal) -> Decimal:
    """Return a price after checking that it is on the tick; `ExchangeError` where it is not."""
    if _decimals(value) > _EIGHT_DECIMALS or _decimals(value) > listing.terms.price_decimals:
        raise ExchangeError(-1111, "Precision is over the maximum defined for this asset.")
    if value % listing.terms.tick:
        raise ExchangeError(-4014, "Price not increased by tick size.")
    return value


def _quantity(listing: Listing, params: Mapping[str, Any]) -> Decimal:
    value = number(params, "quantity")
    if value is None:
        raise mandatory("quantity")
    return check_quantity(listing, value)


def check_quantity(listing: Listing, value: Decimal) -> Decimal:
    """Return a quantity after checking step, minimum and maximum; `ExchangeError` otherwise."""
    terms = listing.terms
    if value <= 0:
        raise ExchangeError(-4003, "Quantity less than or equal to zero.")
    if _decimals(value) > listing.size_decimals:
        raise ExchangeError(-1111, "Precision is over the maximum defined for this asset.")
    if value % terms.step:
        raise ExchangeError(-4023, "Qty not increased by step size.")
    if value < terms.min_quantity:
        raise ExchangeError(-4004, "Quantity less than min quantity.")
    if terms.max_quantity and value > terms.max_quantity:
        raise ExchangeError(-4005, "Quantity greater than max quantity.")
    return value


def check_notional(listing: Listing, order: Order, price: float) -> None:
    """Refuse an order that is worth too little at a price, unless it only reduces.

    Raises
    ------
    ExchangeError
        -4164.
    """
    least = listing.terms.min_notional
    if order.reduce_only or order.close_position or order.is_algo:
        return
    if Decimal(repr(order.quantity)) * Decimal(repr(price)) < least:
        raise ExchangeError(
            -4164,
            f"Order's notional must be no smaller than {least} (unless you choose reduce only).",
        )
