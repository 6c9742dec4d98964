"""The WebSocket API: orders placed, cancelled, amended and asked for over one connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from tests.exchange.account import Account
from tests.exchange.errors import ExchangeError
from tests.exchange.signing import account_of, check_signature, check_time, sorted_payload
from tests.exchange.streams import cut

if TYPE_CHECKING:
    from tests.exchange.server import ExchangeServer


class Trading:
    """The connections of the WebSocket API.

    Parameters
    ----------
    server : ExchangeServer
        Whose.
    """

    def __init__(self, server: ExchangeServer) -> None:
        self._server = server
        self._sockets: set[web.WebSocketResponse] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._logged_on: dict[web.WebSocketResponse, Account] = {}

    def add_routes(self, app: web.Application) -> None:
        """Add the path under which the venue offers it."""
        app.router.add_get("/ws-fapi/v1", self._serve)

    async def drop(self) -> int:
        """Cut every connection without a word; return how many there were."""
        hit = list(self._sockets)
        for ws in hit:
            cut(ws)
        return len(hit)

    async def close(self) -> None:
        """Close every connection."""
        for task in list(self._tasks):
            task.cancel()
        for ws in list(self._sockets):
            await ws.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        faults = self._server.faults
        if faults.find("maintenance") is not None:
            return web.json_response({"code": -1016, "msg": "Maintenance."}, status=503)
        ws = web.WebSocketResponse(autoping=False, max_msg_size=1 << 16)
        await ws.prepare(request)
        self._sockets.add(ws)
        try:
            async for message in ws:
                if faults.find("silence", "trading", "trading") is not None:
                    continue
                if message.type is WSMsgType.PING:
                    await ws.pong(message.data)
                elif message.type is WSMsgType.TEXT:
                    # Each request has its own answer, in the order in which they are found.
                    task = asyncio.ensure_future(self._answer(ws, message.data))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                    # A request is taken in before the next: orders keep the order of sending.
                    await asyncio.sleep(0)
        finally:
            self._sockets.discard(ws)
            self._logged_on.pop(ws, None)
        return ws

    async def _answer(self, ws: web.WebSocketResponse, text: str) -> None:
        identity: Any = None
        try:
            request = json.loads(text)
            identity = request.get("id")
            method, params = str(request["method"]), dict(request.get("params") or {})
        except (ValueError, KeyError, TypeError, AttributeError):
            error = ExchangeError(-1135, "Invalid JSON Request").body()
            await _write(ws, {"id": identity, "status": 400, "error": error})
            return
        faults = self._server.faults
        try:
            result = await self._carry_out(ws, method, params)
            answer: dict[str, Any] = {"id": identity, "status": 200, "result": result}
        except ExchangeError as error:
            answer = {"id": identity, "status": error.status, "error": error.body()}
        if faults.find("lost_answer", "trading", method) is not None:
            cut(ws)
            return
        answer["rateLimits"] = self._server.limits.rows()
        await _write(ws, answer)

    async def _carry_out(
        self, ws: web.WebSocketResponse, method: str, params: dict[str, Any]
    ) -> Any:
        server = self._server
        await server.faults.before_answer(method)
        if method == "ping":
            return {}
        if method == "time":
            return {"serverTime": server.now_ms()}
        logged_on = self._logged_on.get(ws)
        key = params.get("apiKey")
        if logged_on is not None and not key:
            account = logged_on
        else:
            account = account_of(server.exchange.accounts, None if key is None else str(key))
            payload = sorted_payload(params)
            check_signature(account.keys.secret, payload, params.get("signature"))
        check_time(params, server.now_ms())
        if method == "session.logon":
            self._logged_on[ws] = account
            return {"apiKey": account.keys.key, "serverTime": server.now_ms()}
        return await self._order(method, account, params)

    async def _order(self, method: str, account: Account, params: dict[str, Any]) -> Any:
        rest = self._server.rest
        calls = {
            "order.place": rest.place_order,
            "order.cancel": rest.cancel_order,
            "order.modify": rest.modify_order,
            "order.status": rest.query_order,
            "algoOrder.place": rest.place_algo,
            "algoOrder.cancel": rest.cancel_algo,
            "account.position": rest.position_risk,
            "v2/account.position": rest.position_risk,
            "account.balance": rest.balance,
            "v2/account.balance": rest.balance,
            "account.status": rest.account_info,
            "v2/account.status": rest.account_info,
        }
        call = calls.get(method)
        if call is None:
            raise ExchangeError(-1020, f"Unsupported operation: {method}.")
        return await call(account, params)


async def _write(ws: web.WebSocketResponse, answer: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError, RuntimeError):
        await ws.send_str(json.dumps(answer, separators=(",", ":")))
