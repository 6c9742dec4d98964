"""The REST interface: who may ask what, and what is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from aiohttp import web

from tests.exchange.account import Account
from tests.exchange.answers import (
    account_answer,
    balance_answer,
    exchange_info,
    position_answer,
)
from tests.exchange.errors import ExchangeError, mandatory, no_such_order, unknown_order
from tests.exchange.filters import check_price, check_quantity, listing_of, number, parse_order
from tests.exchange.limits import kline_weight
from tests.exchange.orders import Order, rest_algo, rest_order
from tests.exchange.public import Public
from tests.exchange.signing import account_of, check_signature, check_time, unsigned

if TYPE_CHECKING:
    from tests.exchange.server import ExchangeServer

type Params = Mapping[str, Any]
type Call = Callable[[Account, Params], Awaitable[Any]]
_PAGE = 500
_CHEAP_BY_SYMBOL = frozenset({"/fapi/v1/openOrders", "/fapi/v1/openAlgoOrders"})
_ALL_WEIGHT = 40
"""What a question for the open orders of all symbols weighs, as at the venue."""
_MOST = 1_000


class Rest:
    """The signed calls; the public ones are in `Public`.

    Parameters
    ----------
    server : ExchangeServer
        Whose.
    """

    def __init__(self, server: ExchangeServer) -> None:
        self._server = server
        self._public = Public(server)

    def add_routes(self, app: web.Application) -> None:
        """Add every path."""
        signed: tuple[tuple[str, str, int, Call], ...] = (
            ("POST", "/fapi/v1/order", 0, self.place_order),
            ("DELETE", "/fapi/v1/order", 1, self.cancel_order),
            ("PUT", "/fapi/v1/order", 1, self.modify_order),
            ("GET", "/fapi/v1/order", 1, self.query_order),
            ("GET", "/fapi/v1/openOrder", 1, self.open_order),
            ("GET", "/fapi/v1/openOrders", 1, self.open_orders),
            ("GET", "/fapi/v1/allOrders", 5, self.all_orders),
            ("DELETE", "/fapi/v1/allOpenOrders", 1, self.cancel_all),
            ("POST", "/fapi/v1/algoOrder", 0, self.place_algo),
            ("DELETE", "/fapi/v1/algoOrder", 1, self.cancel_algo),
            ("GET", "/fapi/v1/algoOrder", 1, self.query_algo),
            ("GET", "/fapi/v1/openAlgoOrders", 1, self.open_algos),
            ("GET", "/fapi/v1/allAlgoOrders", 5, self.all_algos),
            ("DELETE", "/fapi/v1/algoOpenOrders", 1, self.cancel_all_algos),
            ("GET", "/fapi/v1/userTrades", 5, self.user_trades),
            ("GET", "/fapi/v1/income", 30, self.income),
            ("GET", "/fapi/v1/commissionRate", 20, self.commission_rate),
            ("GET", "/fapi/v1/positionSide/dual", 30, self.dual),
            ("POST", "/fapi/v1/positionSide/dual", 1, self.set_dual),
            ("POST", "/fapi/v1/leverage", 1, self.leverage),
            ("POST", "/fapi/v1/marginType", 1, self.margin_type),
            ("GET", "/fapi/v2/account", 5, self.account_info),
            ("GET", "/fapi/v3/account", 5, self.account_info),
            ("GET", "/fapi/v2/balance", 5, self.balance),
            ("GET", "/fapi/v3/balance", 5, self.balance),
            ("GET", "/fapi/v2/positionRisk", 5, self.position_risk),
            ("GET", "/fapi/v3/positionRisk", 5, self.position_risk),
        )
        for method, path, weight, call in signed:
            app.router.add_route(method, path, self._signed(call, weight))
        for method, path, what in (
            ("POST", "/fapi/v1/listenKey", "open"),
            ("PUT", "/fapi/v1/listenKey", "extend"),
            ("DELETE", "/fapi/v1/listenKey", "close"),
        ):
            app.router.add_route(method, path, self._keyed(what))
        self._public.add_routes(app, self.answered)

    # ---- how a request is taken

    async def answered(
        self, request: web.Request, weight: int, call: Callable[[dict[str, str]], Awaitable[Any]]
    ) -> web.StreamResponse:
        """Answer a request by a call, in the venue's words where it is refused."""
        server = self._server
        try:
            await server.faults.before_answer(f"{request.method} {request.path_qs}")
            server.limits.use(weight, f"{request.method} {request.path}")
            body = await request.text()
            params = dict(parse_qsl(raw_query(request), keep_blank_values=True))
            params |= dict(parse_qsl(body, keep_blank_values=True))
            result = await call(params)
            if server.faults.find("lost_answer", "all", f"{request.method} {request.path}"):
                return _lost(request)
            return web.json_response(result, headers=server.limits.headers)
        except ExchangeError as error:
            headers = dict(server.limits.headers)
            if error.retry_after is not None:
                headers["Retry-After"] = str(error.retry_after)
            return web.json_response(error.body(), status=error.status, headers=headers)

    def _signed(
        self, call: Call, weight: int
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            async def checked(params: dict[str, str]) -> Any:
                return await call(await self._account(request, params), params)

            of_all = request.path in _CHEAP_BY_SYMBOL and "symbol" not in request.query
            cost = _ALL_WEIGHT if of_all and request.method == "GET" else weight
            return await self.answered(request, cost, checked)

        return handle

    async def _account(self, request: web.Request, params: dict[str, str]) -> Account:
        server = self._server
        account = account_of(server.exchange.accounts, request.headers.get("X-MBX-APIKEY"))
        payload = unsigned(raw_query(request)) + unsigned(await request.text())
        check_time(params, server.now_ms())
        check_signature(account.keys.secret, payload, params.get("signature"))
        return account

    def _keyed(self, what: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            async def checked(params: dict[str, str]) -> Any:
                server = self._server
                account = account_of(server.exchange.accounts, request.headers.get("X-MBX-APIKEY"))
                if what == "open":
                    return {"listenKey": server.streams.open_key(account)}
                if what == "extend":
                    return {"listenKey": server.streams.extend_key(account)}
                server.streams.close_key(account)
                return {}

            return await self.answered(request, 1, checked)

        return handle

    # ---- orders

    async def place_order(self, account: Account, params: Params) -> dict[str, Any]:
        """Take an order in, and answer when it has arrived."""
        return await self._place(account, params, algo=False)

    async def place_algo(self, account: Account, params: Params) -> dict[str, Any]:
        """Take a stop or target in, and answer when it has arrived."""
        return await self._place(account, params, algo=True)

    async def _place(self, account: Account, params: Params, *, algo: bool) -> dict[str, Any]:
        server = self._server
        account.requests += 1
        server.limits.use_order()
        exchange = server.exchange
        listing = listing_of(exchange.market, params)
        try:
            order = parse_order(listing, params, algo=algo, time_ms=exchange.clock_ms)
            server.faults.refuse_order(algo=algo)
            flight = exchange.place(account, order, algo=algo)
        except ExchangeError as error:
            name = params.get("clientAlgoId" if algo else "newClientOrderId", "")
            exchange.note({"refused": name, "code": error.code, "key": account.keys.key})
            raise
        server.commanded()
        assert flight.done is not None
        order = await asyncio.shield(flight.done)
        return rest_algo(order, listing) if algo else rest_order(order, listing)

    async def cancel_order(self, account: Account, params: Params) -> dict[str, Any]:
        """Take an order back."""
        name = self._found(account, params, algo=False)
        asked = str(params.get("origClientOrderId", ""))
        # The adapter may look for a stop here first; the request that follows is the one to count.
        if name is not None or account.find("", client_id=asked, algo=True) is None:
            account.requests += 1
        return rest_order(*await self._cancel(account, name, params))

    async def cancel_algo(self, account: Account, params: Params) -> dict[str, Any]:
        """Take a stop or target back."""
        account.requests += 1
        name = self._found(account, params, algo=True)
        order, _ = await self._cancel(account, name, {"symbol": _symbol_of(account, name)})
        return {
            "algoId": order.algo_id,
            "clientAlgoId": order.client_id,
            "code": "200",
            "msg": "success",
        }

    async def _cancel(
        self, account: Account, name: str | None, params: Params
    ) -> tuple[Order, Any]:
        if name is None:
            raise unknown_order()
        listing = listing_of(self._server.exchange.market, params)
        flight = self._server.exchange.cancel(account, name)
        self._server.commanded()
        assert flight.done is not None
        return await asyncio.shield(flight.done), listing

    async def cancel_all(self, account: Account, params: Params) -> dict[str, Any]:
        """Take back every order of an instrument but its stops and targets."""
        await self._cancel_every(account, params, algo=False)
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    async def cancel_all_algos(self, account: Account, params: Params) -> dict[str, Any]:
        """Take back every stop and target of an instrument."""
        await self._cancel_every(account, params, algo=True)
        return {"code": "200", "msg": "The operation of cancel all open order is done."}

    async def _cancel_every(self, account: Account, params: Params, *, algo: bool) -> None:
        listing = listing_of(self._server.exchange.market, params)
        flights = [
            self._server.exchange.cancel(account, name)
            for name, order in list(account.orders.items())
            if order.is_open and order.is_algo == algo and order.symbol == listing.symbol
        ]
        self._server.commanded()
        await asyncio.gather(
            *(one.done for one in flights if one.done is not None), return_exceptions=True
        )

    async def modify_order(self, account: Account, params: Params) -> dict[str, Any]:
        """Change price and quantity of a limit order."""
        account.requests += 1
        exchange = self._server.exchange
        listing = listing_of(exchange.market, params)
        name = self._found(account, params, algo=False)
        if name is None or not account.orders[name].is_open:
            raise no_such_order()
        quantity, price = number(params, "quantity"), number(params, "price")
        if quantity is None or price is None:
            raise mandatory("quantity" if quantity is None else "price")
        check_quantity(listing, quantity)
        check_price(listing, price)
        flight = exchange.amend(account, name, (float(quantity), float(price)))
        self._server.commanded()
        assert flight.done is not None
        return rest_order(await asyncio.shield(flight.done), listing)

    def _found(self, account: Account, params: Params, *, algo: bool) -> str | None:
        identity = params.get("algoId" if algo else "orderId")
        name = params.get("clientAlgoId" if algo else "origClientOrderId")
        if not identity and not name:
            raise ExchangeError(
                -1102,
                "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!",
            )
        symbol = "" if algo else listing_of(self._server.exchange.market, params).symbol
        try:
            number_ = int(identity or 0)
        except ValueError:
            raise ExchangeError(-1100, "Illegal characters found in parameter 'orderId'.") from None
        return account.find(symbol, order_id=number_, client_id=str(name or ""), algo=algo)

    # ---- questions

    async def query_order(self, account: Account, params: Params) -> dict[str, Any]:
        """Return an order, open or ended."""
        name = self._found(account, params, algo=False)
        order = self._server.exchange.order(account, name)
        return rest_order(order, listing_of(self._server.exchange.market, params))

    async def open_order(self, account: Account, params: Params) -> dict[str, Any]:
        """Return an order that is open."""
        name = self._found(account, params, algo=False)
        if name is None or not account.orders[name].is_open:
            raise no_such_order()
        return rest_order(account.orders[name], listing_of(self._server.exchange.market, params))

    async def query_algo(self, account: Account, params: Params) -> dict[str, Any]:
        """Return a stop or target, open or ended."""
        order = self._server.exchange.order(account, self._found(account, params, algo=True))
        return rest_algo(order, self._server.exchange.market.listings[order.symbol])

    async def open_orders(self, account: Account, params: Params) -> list[dict[str, Any]]:
        """Return open orders, of one instrument or all."""
        return self._listed(account, params, rest_order, algo=False, only_open=True)

    async def all_orders(self, account: Account, params: Params) -> list[dict[str, Any]]:
        """Return an instrument's orders."""
        return self._listed(account, params, rest_order, algo=False, only_open=False)

    async def open_algos(self, account: Account, params: Params) -> list[dict[str, Any]]:
        """Return open stops and targets."""
        return self._listed(account, params, rest_algo, algo=True, only_open=True)

    async def all_algos(self, account: Account, params: Params) -> list[dict[str, Any]]:
        """Return an instrument's stops and targets."""
        return self._listed(account, params, rest_algo, algo=True, only_open=False)

    def _listed(
        self,
        account: Account,
        params: Params,
        word: Callable[[Order, Any], dict[str, Any]],
        *,
        algo: bool,
        only_open: bool,
    ) -> list[dict[str, Any]]:
        listings = self._server.exchange.market.listings
        symbol = (
            listing_of(self._server.exchange.market, params).symbol
            if (params.get("symbol") or not only_open)
            else ""
        )
        found = [
            one
            for one in account.orders.values()
            # A stop that was triggered is an order of the matching engine, too.
            if (one.is_algo if algo else bool(one.order_id))
            and (not symbol or one.symbol == symbol)
            and (one.is_open or not only_open)
            and _in_span(one.time_ms, params)
        ]
        if not algo and params.get("orderId") and not only_open:
            found = [one for one in found if one.order_id >= int(params["orderId"])]
        return [word(one, listings[one.symbol]) for one in found[-_limit(params, _PAGE, _MOST) :]]

    async def user_trades(self, account: Account, params: Params) -> list[dict[str, Any]]:
        """Return an instrument's trades, oldest first."""
        symbol = listing_of(self._server.exchange.market, params).symbol
        rows = [
            one
            for one in account.trades
            if one["symbol"] == symbol
            and (not params.get("orderId") or one["orderId"] == int(params["orderId"]))
            and (not params.get("fromId") or one["id"] >= int(params["fromId"]))
            and _in_span(int(one["time"]), params)
        ]
        limit = _limit(params, _PAGE, _MOST)
        ahead = params.get("fromId") or params.get("startTime")
        return rows[:limit] if ahead else rows[-limit:]

    async def income(self, account: Account, params: Params) -> list[dict[str, Any]]:
        """Return settlements of funding, and what was paid in and taken out."""
        rows = [
            one
            for one in account.income
            if (not params.get("symbol") or one["symbol"] == params["symbol"])
            and (not params.get("incomeType") or one["incomeType"] == params["incomeType"])
            and _in_span(int(one["time"]), params)
        ]
        return rows[-_limit(params, 100, _MOST) :]

    async def commission_rate(self, account: Account, params: Params) -> dict[str, Any]:
        """Return the fees of the account's tier."""
        execution = self._server.settings.execution
        return {
            "symbol": listing_of(self._server.exchange.market, params).symbol,
            "makerCommissionRate": f"{execution.maker_fee_bps / 10_000:.6f}",
            "takerCommissionRate": f"{execution.taker_fee_bps / 10_000:.6f}",
        }

    async def dual(self, account: Account, params: Params) -> dict[str, Any]:
        """Return that positions are one-way."""
        return {"dualSidePosition": False}

    async def set_dual(self, account: Account, params: Params) -> dict[str, Any]:
        """Refuse hedge mode; one-way is what it is."""
        if str(params.get("dualSidePosition", "")).lower() != "false":
            raise ExchangeError(-4046, "This test exchange knows one-way positions only.")
        raise ExchangeError(-4059, "No need to change position side.")

    async def leverage(self, account: Account, params: Params) -> dict[str, Any]:
        """Set an instrument's leverage."""
        symbol = listing_of(self._server.exchange.market, params).symbol
        wanted = int(params.get("leverage") or 0)
        if not 1 <= wanted <= 125:
            raise ExchangeError(-4028, f"Leverage {wanted} is not valid")
        self._server.exchange.set_margin(account, symbol, leverage=wanted)
        return {"leverage": wanted, "maxNotionalValue": "1000000", "symbol": symbol}

    async def margin_type(self, account: Account, params: Params) -> dict[str, Any]:
        """Set whether an instrument's positions have a margin of their own."""
        symbol = listing_of(self._server.exchange.market, params).symbol
        if params.get("marginType") not in ("ISOLATED", "CROSSED"):
            raise ExchangeError(-4049, "Invalid marginType.")
        isolated = params["marginType"] == "ISOLATED"
        self._server.exchange.set_margin(account, symbol, isolated=isolated)
        return {"code": 200, "msg": "success"}

    async def account_info(self, account: Account, params: Params) -> dict[str, Any]:
        """Return balances and positions."""
        return account_answer(account, self._server.exchange)

    async def balance(self, account: Account, params: Params) -> list[dict[str, Any]]:
        """Return balances."""
        return balance_answer(account, self._server.exchange)

    async def position_risk(self, account: Account, params: Params) -> list[dict[str, Any]]:
        """Return positions."""
        symbol = str(params.get("symbol") or "")
        if symbol:
            listing_of(self._server.exchange.market, params)
        return position_answer(account, self._server.exchange, symbol)


def raw_query(request: web.Request) -> str:
    """Return the query as it was sent: it is signed in the client's own encoding."""
    return request.raw_path.partition("?")[2]


def _lost(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _symbol_of(account: Account, name: str | None) -> str:
    if name is None:
        raise unknown_order()
    return account.orders[name].symbol


def _limit(params: Params, usual: int, most: int) -> int:
    limit = int(params.get("limit") or usual)
    if not 1 <= limit <= most:
        raise ExchangeError(-1130, "Data sent for parameter 'limit' is not valid.")
    return limit


def _in_span(ts_ms: int, params: Params) -> bool:
    start, end = params.get("startTime"), params.get("endTime")
    return (not start or ts_ms >= int(start)) and (not end or ts_ms <= int(end))


__all__ = ["Rest", "exchange_info", "kline_weight"]
