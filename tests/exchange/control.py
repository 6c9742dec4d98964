"""What a test tells the exchange: faults, time, questions. No venue has these paths.

``GET /control/state``, ``GET /control/accounts``, ``POST /control/advance`` (lock-step),
``POST /control/pause``, ``POST /control/resume``, ``POST /control/fault``, ``DELETE
/control/fault``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from catalog.errors import ConfigError
from tests.exchange.core import Step
from tests.exchange.orders import Order, algo_status

if TYPE_CHECKING:
    from tests.exchange.server import ExchangeServer


class Control:
    """The control paths.

    Parameters
    ----------
    server : ExchangeServer
        Whose.
    """

    def __init__(self, server: ExchangeServer) -> None:
        self._server = server

    def add_routes(self, app: web.Application) -> None:
        """Add every path."""
        app.router.add_get("/control/state", self._state)
        app.router.add_get("/control/accounts", self._accounts)
        app.router.add_post("/control/advance", self._advance)
        app.router.add_post("/control/pause", self._pause)
        app.router.add_post("/control/resume", self._resume)
        app.router.add_post("/control/transfer", self._transfer)
        app.router.add_post("/control/fault", self._fault)
        app.router.add_delete("/control/fault", self._clear)

    async def _state(self, request: web.Request) -> web.Response:
        state = self._server.state()
        state["subscriptions"] = self._server.streams.subscriptions()
        return web.json_response(state)

    async def _accounts(self, request: web.Request) -> web.Response:
        changed = request.query.get("changed") == "true"
        return web.json_response(self.accounts(changed=changed))

    def accounts(self, *, changed: bool = False) -> dict[str, Any]:
        """Return each account: money, positions, orders, how much was asked of it.

        Parameters
        ----------
        changed : bool
            Whether only the orders are wanted that changed since this was last asked for.
        """
        found = {}
        for account in self._server.exchange.accounts.values():
            names = account.changed if changed else account.orders
            orders = {
                account.orders[name].client_id: _order(account.orders[name]) for name in names
            }
            if changed:
                account.changed = set()
            positions = {
                name: [one.quantity, one.average_open]
                for name, one in account.ledger.positions.items()
            }
            found[account.keys.name] = {
                "cash": account.ledger.cash,
                "positions": positions,
                "orders": orders,
                "requests": account.requests,
                "income": _sums(account.income),
                "in_flight": self._server.exchange.in_flight(account),
            }
        return found

    async def _advance(self, request: web.Request) -> web.Response:
        step = await self._server.advance()
        accounts = self.accounts(changed=True)
        return web.json_response({"step": _told(step), "accounts": accounts})

    async def _pause(self, request: web.Request) -> web.Response:
        self._server.running.clear()
        self._server.commanded()
        return web.json_response(self._server.state())

    async def _resume(self, request: web.Request) -> web.Response:
        self._server.running.set()
        return web.json_response(self._server.state())

    async def _transfer(self, request: web.Request) -> web.Response:
        try:
            asked = await request.json()
            name, amount = str(asked.get("account", "main")), float(asked["amount"])
            kind = str(asked.get("kind", "TRANSFER"))
            owners = self._server.exchange.accounts.values()
            account = next(one for one in owners if one.keys.name == name)
        except (StopIteration, KeyError, TypeError, ValueError, AttributeError) as error:
            return web.json_response({"error": repr(error)}, status=400)
        step = self._server.exchange.transfer(account, amount, kind)
        await self._server.streams.send(step.messages)
        return web.json_response({"cash": account.ledger.cash})

    async def _fault(self, request: web.Request) -> web.Response:
        try:
            asked = await request.json()
            name = str(asked.pop("name"))
            await self.fault(name, **asked)
        except (ConfigError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"fault": name})

    async def fault(self, name: str, **details: Any) -> None:
        """Switch a fault on; those that happen at once happen now."""
        server = self._server
        fault = server.faults.add(name, **details)
        server.exchange.note({"fault": name, **details})
        if name == "drop" or name == "maintenance":
            await server.streams.drop(fault.channel)
            if fault.covers("trading"):
                await server.trading.drop()
        if name == "listen_key_expired":
            await server.streams.expire_all()
        if name in ("drop", "listen_key_expired"):
            server.faults.active.remove(fault)

    async def _clear(self, request: web.Request) -> web.Response:
        self._server.faults.clear()
        return web.json_response({})


def _sums(income: list[dict[str, Any]]) -> dict[str, float]:
    """Return what settlements of funding came to, by symbol."""
    found: dict[str, float] = {}
    for one in income:
        if one["incomeType"] == "FUNDING_FEE":
            found[one["symbol"]] = found.get(one["symbol"], 0.0) + float(one["income"])
    return found


def _order(order: Order) -> dict[str, Any]:
    return {
        "status": algo_status(order) if order.is_algo else order.status,
        "executed": order.executed,
        "algo": order.is_algo,
        "open": order.is_open,
        "accepted": order.accepted,
        "price": order.average,
        "reason": order.reason,
    }


def _told(step: Step | None) -> dict[str, Any] | None:
    if step is None:
        return None
    market = [one.name for one in step.messages if one.channel == "market"]
    user = [
        {"key": one.name, "event": one.payload["e"]}
        for one in step.messages
        if one.channel == "user"
    ]
    return {
        "number": step.number,
        "ts": step.ts,
        "kind": step.kind,
        "closes": step.closes,
        "market": market,
        "user": user,
    }
