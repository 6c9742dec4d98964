"""What an account holds, as its exchange says: asked directly, beside the engine's own client.

The engine reconciles by itself while it runs. Before it runs, somebody must know what became of
orders that an earlier process journalled, and afterwards somebody must be able to check: that is
an `AccountReader`, which only ever asks. `BinanceAccount` is one for Binance USDT-M; it also takes
back an order of ours that the engine's client has given up and that is there all the same.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import urlencode

import requests

from adapters.connections import Connection
from adapters.errors import (
    AdapterError,
    NotFoundError,
    RetryableError,
    TooManyRequestsError,
)
from adapters.http_status import refusal
from catalog.errors import ConfigError
from catalog.instruments import symbol_of

_MS = 1_000_000
_NO_SUCH_ORDER = frozenset({-2011, -2013})
_TRANSFERS = ("TRANSFER", "INTERNAL_TRANSFER", "COIN_SWAP_DEPOSIT", "COIN_SWAP_WITHDRAW")
"""Kinds of income that are the owner's doing: between wallets, between accounts, and what a coin
was converted into or from."""
_LONGEST_WAIT_SECS = 10.0
_CLOCK = -1021
_ALL_WEIGHT = 40
"""What a question for the open orders of all symbols weighs; 1 for those of one."""
_BINANCE_URLS = {"live": "https://fapi.binance.com", "testnet": "https://testnet.binancefuture.com"}
_PREFIX = "x-aHRE4BCj-R"
"""What the engine's client puts before our order identifiers."""


@dataclass(frozen=True, slots=True)
class HeldPosition:
    """A position: signed quantity (base units), entry price (quote units)."""

    instrument_id: str
    quantity: float
    entry_price: float


@dataclass(frozen=True, slots=True)
class AccountOrder:
    """An order as the exchange knows it.

    Parameters
    ----------
    client_order_id : str
        Ours, or whatever somebody else chose.
    venue_order_id : str
        The exchange's.
    instrument_id : str
        Of the catalog.
    side : int
        1 buys, -1 sells.
    quantity, filled : float
        Base units.
    average_price : float
        Of what was filled, quote units; 0 for nothing.
    type, status : str
        In the engine's words, such as ``STOP_MARKET`` and ``ACCEPTED``, ``FILLED``, ``CANCELED``.
    trigger : float
        Of a stop or target, quote units; 0 for others.
    reduce_only : bool
        Whether it may only reduce.
    ts_ns : int
        Last change, UTC nanoseconds.
    """

    client_order_id: str
    venue_order_id: str
    instrument_id: str
    side: int
    quantity: float
    filled: float
    average_price: float
    type: str
    status: str
    trigger: float = 0.0
    reduce_only: bool = False
    ts_ns: int = 0


@dataclass(frozen=True, slots=True)
class AccountFill:
    """A trade: positive quantity (base units), price (quote units).

    `commission` is a cost, USDT; NaN where it was charged in another coin.
    """

    trade_id: str
    venue_order_id: str
    instrument_id: str
    side: int
    quantity: float
    price: float
    commission: float
    maker: bool
    ts_ns: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """What was paid into an account, or taken out of it (below 0): USDT, UTC nanoseconds."""

    identity: str
    ts_ns: int
    amount: float


class Margin(NamedTuple):
    """How positions in an instrument are held, and what they may be worth.

    `isolated` where each has a margin of its own, `leverage` what a position may be worth for each
    USDT of margin, `hedged` where long and short are held side by side.
    """

    instrument_id: str
    isolated: bool
    leverage: float
    hedged: bool = False


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account at one moment: wallet balance (USDT), positions, open orders, margins.

    `identity` is the exchange's own name of the account, no part of a key; "" where it has none.
    """

    balance: float
    positions: tuple[HeldPosition, ...]
    orders: tuple[AccountOrder, ...]
    identity: str = ""
    margins: tuple[Margin, ...] = ()


class AccountReader(Protocol):
    """Asks an exchange about one account; never changes anything."""

    def state(self, instruments: Sequence[str] = ()) -> AccountState:
        """Return balance, positions and open orders.

        Parameters
        ----------
        instruments : sequence of str
            Whose orders are wanted; none for those of all. Exchanges count a question about one
            instrument for much less than one about all.

        Raises
        ------
        AdapterError
            If the exchange cannot be asked.
        """

    def lookup(self, client_order_id: str, instrument_id: str) -> AccountOrder | None:
        """Return an order, open or ended; None if the exchange knows none of that name.

        Raises
        ------
        AdapterError
            If the exchange cannot be asked: then nothing is known.
        """

    def fills(self, order: AccountOrder) -> tuple[AccountFill, ...]:
        """Return the trades of an order, oldest first.

        Raises
        ------
        AdapterError
            If the exchange cannot be asked.
        """

    def transfers(self, since_ns: int) -> tuple[Transfer, ...]:
        """Return what was paid in and taken out since a time (UTC nanoseconds), oldest first.

        Raises
        ------
        AdapterError
            If the exchange cannot be asked.
        """

    def server_ns(self) -> int:
        """Return the exchange's time, UTC nanoseconds.

        Raises
        ------
        AdapterError
            If the exchange cannot be asked.
        """


class BinanceAccount:
    """An account on Binance USDT-M futures, by signed requests.

    Parameters
    ----------
    connection : Connection
        Which exchange, and the keys.
    timeout_secs : float
        Longest silence of the server.
    attempts : int
        How often a request that fails in passing is tried.
    """

    def __init__(
        self, connection: Connection, *, timeout_secs: float = 5.0, attempts: int = 4
    ) -> None:
        if connection.keys is None:
            raise ConfigError("an account must be asked with its keys, had none")
        self._url = connection.http or _BINANCE_URLS[connection.environment]
        self._keys = connection.keys
        self._timeout_secs = timeout_secs
        self._attempts = attempts
        self._session = requests.Session()
        self._session.headers["X-MBX-APIKEY"] = self._keys.values[0]
        # Of the server's clock before ours: an exchange refuses what is stamped otherwise.
        self._ahead_ms: int | None = None

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def server_ns(self) -> int:
        """Return the exchange's time, UTC nanoseconds; see `AccountReader`."""
        answer = cast("dict[str, Any]", self._get("/fapi/v1/time", {}, signed=False))
        return int(answer["serverTime"]) * _MS

    def state(self, instruments: Sequence[str] = ()) -> AccountState:
        """Return balance, positions and open orders; see `AccountReader`.

        Open orders weigh 1 for a symbol and 40 for all, of 2,400 a minute that all engines of an
        address share.
        """
        balances = self._get("/fapi/v2/balance")
        only = [{"symbol": symbol_of(one)} for one in instruments]
        held = self._get("/fapi/v2/positionRisk", only[0] if len(only) == 1 else {})
        asked = only if 0 < len(only) < _ALL_WEIGHT else [{}]
        plain = [row for one in asked for row in self._get("/fapi/v1/openOrders", one)]
        algo = [row for one in asked for row in _rows(self._get("/fapi/v1/openAlgoOrders", one))]
        balance = sum(float(one["balance"]) for one in balances if one["asset"] == "USDT")
        positions = (
            HeldPosition(
                _instrument(one["symbol"]), float(one["positionAmt"]), float(one["entryPrice"])
            )
            for one in held
        )
        orders = (*map(_order, plain), *map(_algo, algo))
        held_now = tuple(one for one in positions if one.quantity)
        margins = tuple(_margin(one) for one in held if "marginType" in one)
        return AccountState(balance, held_now, orders, _identity(balances), margins)

    def lookup(self, client_order_id: str, instrument_id: str) -> AccountOrder | None:
        """Return an order, open or ended; see `AccountReader`."""
        name = _PREFIX + client_order_id
        symbol = symbol_of(instrument_id)
        try:
            found = self._get("/fapi/v1/order", {"symbol": symbol, "origClientOrderId": name})
            return _order(cast("dict[str, Any]", found))
        except NotFoundError:
            pass
        try:
            algo = self._get("/fapi/v1/algoOrder", {"clientAlgoId": name})
        except NotFoundError:
            return None
        return _algo(cast("dict[str, Any]", algo))

    def fills(self, order: AccountOrder) -> tuple[AccountFill, ...]:
        """Return the trades of an order, oldest first; see `AccountReader`."""
        symbol = symbol_of(order.instrument_id)
        query = {"symbol": symbol, "orderId": order.venue_order_id}
        rows = self._get("/fapi/v1/userTrades", query)
        own = [_fill(one) for one in rows if str(one["orderId"]) == order.venue_order_id]
        return tuple(sorted(own, key=lambda fill: (fill.ts_ns, fill.trade_id)))

    def identity(self) -> str:
        """Return the exchange's own name of the account, "" where it has none; see `AccountState`.

        Raises
        ------
        AdapterError
            If the exchange cannot be asked.
        """
        return _identity(self._get("/fapi/v2/balance"))

    def transfers(self, since_ns: int) -> tuple[Transfer, ...]:
        """Return what was paid in and taken out; see `AccountReader`. It weighs 30 a kind."""
        query = {"startTime": since_ns // _MS, "limit": 1_000}
        rows = [
            row
            for kind in _TRANSFERS
            for row in self._get("/fapi/v1/income", {**query, "incomeType": kind})
        ]
        found = (
            Transfer(_transfer_name(one), int(one["time"]) * _MS, float(one["income"]))
            for one in rows
            if one["asset"] == "USDT"
        )
        return tuple(sorted(found, key=lambda one: (one.ts_ns, one.identity)))

    def cancel(self, order: AccountOrder) -> None:
        """Take back an order of ours that the engine's own client knows nothing of any more.

        Raises
        ------
        AdapterError
            If the exchange cannot be asked: then the order may still be there.
        """
        name = _PREFIX + order.client_order_id
        try:
            if order.type in _ALGO_TYPES:
                self._ask("/fapi/v1/algoOrder", {"clientAlgoId": name}, True, "DELETE")
            else:
                query = {"symbol": symbol_of(order.instrument_id), "origClientOrderId": name}
                self._ask("/fapi/v1/order", query, True, "DELETE")
        except NotFoundError:
            return

    def _get(
        self, path: str, query: Mapping[str, Any] | None = None, *, signed: bool = True
    ) -> Any:
        wait = 0.25
        for attempt in range(1, self._attempts + 1):
            try:
                return self._ask(path, query or {}, signed)
            except RetryableError as error:
                waits = error.retry_after_secs or wait
                # Who asks on while it is told to wait is shut out for longer and longer.
                if attempt == self._attempts or waits > _LONGEST_WAIT_SECS:
                    text = (
                        f"the exchange at {self._url} must answer {path}, did not in {attempt} "
                        f"attempts: {error}"
                    )
                    if error.too_many:
                        raise TooManyRequestsError(text, error.retry_after_secs) from error
                    raise AdapterError(text) from error
                time.sleep(waits)
                wait *= 2.0
        raise AssertionError("every attempt returns or raises")

    def _ask(self, path: str, query: Mapping[str, Any], signed: bool, method: str = "GET") -> Any:
        text = self._signed(query) if signed else urlencode(query)
        url = f"{self._url}{path}?{text}"
        try:
            response = self._session.request(method, url, timeout=self._timeout_secs)
        except requests.RequestException as error:
            # Its text has the whole address, signature included.
            raise RetryableError(f"{path}: {type(error).__name__}") from None
        if response.status_code != requests.codes.ok:
            raise self._refused(path, response)
        try:
            return response.json()
        except ValueError:
            # A page of some proxy, or of the exchange's maintenance.
            text = f"{path}: must answer with JSON, was {response.text[:40]!r}"
            raise RetryableError(self._keys.mask(text)) from None

    def _signed(self, query: Mapping[str, Any]) -> str:
        if self._ahead_ms is None:
            self._ahead_ms = self.server_ns() // _MS - time.time_ns() // _MS
        stamp = time.time_ns() // _MS + self._ahead_ms
        text = urlencode({**query, "recvWindow": 10_000, "timestamp": stamp})
        secret = self._keys.values[1].encode()
        return f"{text}&signature={hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()}"

    def _refused(self, path: str, response: requests.Response) -> AdapterError:
        code, message = _error(response)
        if code in _NO_SUCH_ORDER:
            return NotFoundError(f"{path}: {message}")
        if code == _CLOCK:
            self._ahead_ms = None
            return RetryableError(f"{path}: {message}")
        text = self._keys.mask(f"{path}: the exchange answered {response.status_code}: {message}")
        return refusal(response, text)


def _error(response: requests.Response) -> tuple[int, str]:
    try:
        content = response.json()
        return int(content["code"]), str(content["msg"])
    except (ValueError, KeyError, TypeError):
        return 0, response.reason or "no reason given"


def _rows(answer: Any) -> list[dict[str, Any]]:
    """Return the orders of an answer, which some releases wrap in an object."""
    found = answer.get("orders", []) if isinstance(answer, dict) else answer
    return cast("list[dict[str, Any]]", found)


def _transfer_name(row: dict[str, Any]) -> str:
    """Return the name of a transfer, whose number is its own among those of its kind only."""
    number, kind = str(row["tranId"]), row["incomeType"]
    return number if kind == _TRANSFERS[0] else f"{kind} {number}"


def _identity(balances: list[dict[str, Any]]) -> str:
    return max((str(one.get("accountAlias") or "") for one in balances), default="")


def _instrument(symbol: str) -> str:
    return f"{symbol}-PERP.BINANCE"


def _margin(row: dict[str, Any]) -> Margin:
    return Margin(
        _instrument(row["symbol"]),
        isolated=row["marginType"] == "isolated",
        leverage=float(row["leverage"]),
        hedged=row["positionSide"] != "BOTH",
    )


def _client_id(raw: str) -> str:
    """Return our identifier of an order, or the whole name that somebody else gave it."""
    return raw.removeprefix(_PREFIX)


_STATUSES = {
    "NEW": "ACCEPTED",
    "PARTIALLY_FILLED": "PARTIALLY_FILLED",
    "TRIGGERED": "ACCEPTED",
    "TRIGGERING": "ACCEPTED",
    "FILLED": "FILLED",
    "FINISHED": "FILLED",
    "CANCELED": "CANCELED",
    "EXPIRED": "CANCELED",
    "EXPIRED_IN_MATCH": "CANCELED",
    "REJECTED": "REJECTED",
}
_TYPES = {"TAKE_PROFIT_MARKET": "MARKET_IF_TOUCHED"}
_ALGO_TYPES = frozenset({"STOP_MARKET", "MARKET_IF_TOUCHED"})


def _order(row: dict[str, Any]) -> AccountOrder:
    return AccountOrder(
        client_order_id=_client_id(row["clientOrderId"]),
        venue_order_id=str(row["orderId"]),
        instrument_id=_instrument(row["symbol"]),
        side=1 if row["side"] == "BUY" else -1,
        quantity=float(row["origQty"]),
        filled=float(row["executedQty"]),
        average_price=float(row.get("avgPrice") or 0.0),
        type=_TYPES.get(row["type"], row["type"]),
        status=_STATUSES.get(row["status"], row["status"]),
        trigger=float(row.get("stopPrice") or 0.0),
        reduce_only=bool(row.get("reduceOnly")),
        ts_ns=int(row.get("updateTime") or row.get("time") or 0) * _MS,
    )


def _algo(row: dict[str, Any]) -> AccountOrder:
    """Return a stop or target, which the exchange keeps apart until it is triggered."""
    executed = float(row.get("actualQty") or 0.0)
    status = _STATUSES.get(row["algoStatus"], row["algoStatus"])
    if status == "FILLED" and executed == 0.0:
        # Its work is done without a trade of its own: nothing was left to reduce.
        status = "CANCELED"
    return AccountOrder(
        client_order_id=_client_id(row["clientAlgoId"]),
        venue_order_id=str(row.get("actualOrderId") or row["algoId"]),
        instrument_id=_instrument(row["symbol"]),
        side=1 if row["side"] == "BUY" else -1,
        quantity=float(row.get("quantity") or 0.0),
        filled=executed,
        average_price=float(row.get("actualPrice") or 0.0),
        type=_TYPES.get(row["orderType"], row["orderType"]),
        status=status,
        trigger=float(row.get("triggerPrice") or 0.0),
        reduce_only=bool(row.get("reduceOnly")),
        ts_ns=int(row.get("updateTime") or row.get("createTime") or 0) * _MS,
    )


def _fill(row: dict[str, Any]) -> AccountFill:
    return AccountFill(
        trade_id=str(row["id"]),
        venue_order_id=str(row["orderId"]),
        instrument_id=_instrument(row["symbol"]),
        side=1 if row["side"] == "BUY" else -1,
        quantity=float(row["qty"]),
        price=float(row["price"]),
        commission=float(row["commission"]) if row["commissionAsset"] == "USDT" else math.nan,
        maker=bool(row.get("maker")),
        ts_ns=int(row["time"]) * _MS,
    )
