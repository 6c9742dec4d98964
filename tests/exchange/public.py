"""The REST calls that need no key: instruments, history, prices, funding."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web

from catalog.timestamps import interval_name
from tests.exchange.answers import exchange_info
from tests.exchange.errors import ExchangeError, mandatory
from tests.exchange.filters import listing_of
from tests.exchange.limits import kline_weight
from tests.exchange.orders import NS_PER_MS

if TYPE_CHECKING:
    from tests.exchange.server import ExchangeServer

_KLINES, _MOST_KLINES = 500, 1_500
_RATES, _MOST_RATES = 100, 1_000
type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
type Answered = Callable[
    [web.Request, int, Callable[[dict[str, str]], Awaitable[Any]]], Awaitable[web.StreamResponse]
]


class Public:
    """The public calls.

    Parameters
    ----------
    server : ExchangeServer
        Whose.
    """

    def __init__(self, server: ExchangeServer) -> None:
        self._server = server

    def add_routes(self, app: web.Application, answered: Answered) -> None:
        """Add every path."""
        calls: tuple[tuple[str, int, Callable[[dict[str, str]], Awaitable[Any]]], ...] = (
            ("/fapi/v1/ping", 1, self.ping),
            ("/fapi/v1/time", 1, self.time),
            ("/fapi/v1/exchangeInfo", 1, self.info),
            ("/fapi/v1/premiumIndex", 1, self.premium),
            ("/fapi/v1/fundingRate", 1, self.funding),
            ("/fapi/v1/ticker/price", 1, self.price),
            ("/fapi/v1/ticker/bookTicker", 2, self.book_ticker),
        )
        for path, weight, call in calls:
            app.router.add_get(path, _handler(answered, weight, call))

        async def klines(request: web.Request) -> web.StreamResponse:
            try:
                weight = kline_weight(int(request.query.get("limit") or _KLINES))
            except ValueError:
                weight = 1
            return await answered(request, weight, self.klines)

        app.router.add_get("/fapi/v1/klines", klines)

    async def ping(self, params: dict[str, str]) -> dict[str, Any]:
        """Answer."""
        return {}

    async def time(self, params: dict[str, str]) -> dict[str, Any]:
        """Return the exchange's time on the wall."""
        return {"serverTime": self._server.now_ms()}

    async def info(self, params: dict[str, str]) -> dict[str, Any]:
        """Return what is listed."""
        server = self._server
        return exchange_info(server.exchange, server.now_ms(), server.limits.rows())

    async def klines(self, params: dict[str, str]) -> list[list[Any]]:
        """Return klines that are complete by the market's clock, oldest first."""
        exchange = self._server.exchange
        listing = listing_of(exchange.market, params)
        interval = params.get("interval") or ""
        if not interval:
            raise mandatory("interval")
        bars = listing.bars
        if interval != interval_name(bars.interval_ns):
            raise ExchangeError(-1120, "Invalid interval.")
        limit = _number(params, "limit", _KLINES)
        if not 1 <= limit <= _MOST_KLINES:
            raise ExchangeError(-1130, "Data sent for parameter 'limit' is not valid.")
        known = exchange.market.known_bars(listing.symbol, exchange.clock)
        opens = (bars.ts_init[:known] - bars.interval_ns) // NS_PER_MS
        first, last = 0, known
        if params.get("startTime"):
            first = int(np.searchsorted(opens, _number(params, "startTime", 0)))
        if params.get("endTime"):
            last = int(np.searchsorted(opens, _number(params, "endTime", 0), side="right"))
        # With a start the oldest come first; without, the newest are what is asked for.
        first, last = (
            (first, min(last, first + limit))
            if params.get("startTime")
            else (max(first, last - limit), last)
        )
        return [_kline(listing, row) for row in range(first, last)]

    async def premium(self, params: dict[str, str]) -> Any:
        """Return mark prices and the coming settlement."""
        exchange = self._server.exchange
        names = (
            [listing_of(exchange.market, params).symbol]
            if params.get("symbol")
            else list(exchange.market.listings)
        )
        rows = []
        for name in names:
            rate, due = exchange.market.rate(name, exchange.clock)
            price = exchange.market.listings[name].price(exchange.prices[name])
            rows.append(
                {
                    "symbol": name,
                    "markPrice": price,
                    "indexPrice": price,
                    "estimatedSettlePrice": price,
                    "lastFundingRate": f"{rate:.8f}",
                    "interestRate": "0.00010000",
                    "nextFundingTime": due // NS_PER_MS,
                    "time": exchange.clock_ms,
                }
            )
        return rows[0] if params.get("symbol") else rows

    async def funding(self, params: dict[str, str]) -> list[dict[str, Any]]:
        """Return settlements that are over, oldest first."""
        exchange = self._server.exchange
        limit = _number(params, "limit", _RATES)
        if not 1 <= limit <= _MOST_RATES:
            raise ExchangeError(-1130, "Data sent for parameter 'limit' is not valid.")
        names = (
            [listing_of(exchange.market, params).symbol]
            if params.get("symbol")
            else list(exchange.market.listings)
        )
        start, end = _number(params, "startTime", 0), _number(params, "endTime", 1 << 62)
        rows: list[dict[str, Any]] = []
        for name in names:
            series = exchange.market.listings[name].funding
            for row in range(exchange.market.known_funding(name, exchange.clock)):
                when = int(series.ts_event[row]) // NS_PER_MS
                if start <= when <= end:
                    rate = f"{float(series.value[row]):.8f}"
                    rows.append(
                        {"symbol": name, "fundingTime": when, "fundingRate": rate, "markPrice": ""}
                    )
        rows.sort(key=lambda one: int(one["fundingTime"]))
        return rows[:limit] if params.get("startTime") else rows[-limit:]

    async def price(self, params: dict[str, str]) -> Any:
        """Return last prices."""
        exchange = self._server.exchange
        rows = [
            {"symbol": name, "price": one.price(exchange.prices[name]), "time": exchange.clock_ms}
            for name, one in exchange.market.listings.items()
        ]
        return self._one(params, rows)

    async def book_ticker(self, params: dict[str, str]) -> Any:
        """Return bids and asks: both are the last price."""
        exchange = self._server.exchange
        rows = []
        for name, one in exchange.market.listings.items():
            price, size = one.price(exchange.prices[name]), one.size(1_000.0)
            rows.append(
                {
                    "symbol": name,
                    "bidPrice": price,
                    "bidQty": size,
                    "askPrice": price,
                    "askQty": size,
                    "time": exchange.clock_ms,
                }
            )
        return self._one(params, rows)

    def _one(self, params: dict[str, str], rows: list[dict[str, Any]]) -> Any:
        if not params.get("symbol"):
            return rows
        symbol = listing_of(self._server.exchange.market, params).symbol
        return next(one for one in rows if one["symbol"] == symbol)


def _handler(
    answered: Answered, weight: int, call: Callable[[dict[str, str]], Awaitable[Any]]
) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await answered(request, weight, call)

    return handle


def _number(params: dict[str, str], name: str, default: int) -> int:
    try:
        return int(params.get(name) or default)
    except ValueError:
        raise ExchangeError(-1100, f"Illegal characters found in parameter '{name}'.") from None


def _kline(listing: Any, row: int) -> list[Any]:
    bars = listing.bars
    close_ms = int(bars.ts_init[row]) // NS_PER_MS
    volume, close = float(bars.volume[row]), float(bars.close[row])
    quote, trades, bought, bought_quote = listing.volumes(row)
    prices = [listing.price(float(getattr(bars, one)[row])) for one in ("open", "high", "low")]
    return [
        close_ms - bars.interval_ns // NS_PER_MS,
        *prices,
        listing.price(close),
        listing.size(volume),
        # The venue's stamp of a close is its last millisecond.
        close_ms - 1,
        f"{quote:.8f}",
        trades,
        listing.size(bought),
        f"{bought_quote:.8f}",
        "0",
    ]
