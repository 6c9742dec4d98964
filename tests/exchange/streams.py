"""The WebSocket streams: market data for whoever subscribes, user data for who has a listen key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from tests.exchange.account import Account
from tests.exchange.core import Message
from tests.exchange.errors import ExchangeError
from tests.exchange.messages import latest_price

if TYPE_CHECKING:
    from tests.exchange.server import ExchangeServer

KEY_LIFE_S = 3_600.0
"""A listen key that nobody extends ends after an hour."""
_MAX_STREAMS = 200
_POLL_S = 0.5


@dataclass(eq=False, slots=True)
class _Socket:
    """A connection: what it listens to, and what was held back to change the order."""

    ws: web.WebSocketResponse
    user: str = ""
    combined: bool = False
    streams: set[str] = field(default_factory=set)
    held: str | None = None

    @property
    def channel(self) -> str:
        """``user`` or ``market``."""
        return "user" if self.user else "market"


class Streams:
    """The sockets that listen, and the listen keys.

    Parameters
    ----------
    server : ExchangeServer
        Whose.
    """

    def __init__(self, server: ExchangeServer) -> None:
        self._server = server
        self._sockets: set[_Socket] = set()
        self._until: dict[str, float] = {}
        self.accepted = 0
        """Connections that were taken in, all in all."""

    def add_routes(self, app: web.Application) -> None:
        """Add the paths under which the venue offers streams."""
        for prefix in ("", "/market", "/public", "/private"):
            app.router.add_get(prefix + "/ws", self._serve)
            app.router.add_get(prefix + "/ws/{names:.+}", self._serve)
            app.router.add_get(prefix + "/stream", self._serve)

    def counts(self) -> dict[str, int]:
        """Return how many sockets listen to what."""
        user = sum(one.channel == "user" for one in self._sockets)
        return {"market": len(self._sockets) - user, "user": user, "accepted": self.accepted}

    def subscriptions(self) -> list[str]:
        """Return the streams that somebody listens to."""
        return sorted({name for one in self._sockets for name in one.streams})

    # ---- listen keys: one per account

    def open_key(self, account: Account) -> str:
        """Return the account's listen key, extended; a new one where it has none."""
        exchange, name = self._server.exchange, account.keys.key
        if name not in exchange.listen_keys:
            exchange.listen(account, secrets.token_hex(32))
        self._until[name] = time.monotonic() + KEY_LIFE_S
        return exchange.listen_keys[name]

    def extend_key(self, account: Account) -> str:
        """Extend the account's listen key.

        Raises
        ------
        ExchangeError
            -1125 where there is none.
        """
        if account.keys.key not in self._server.exchange.listen_keys:
            raise ExchangeError(-1125, "This listenKey does not exist.")
        return self.open_key(account)

    def close_key(self, account: Account) -> None:
        """End the account's listen key: nobody on it hears anything any more."""
        self._server.exchange.listen(account, "")

    async def expire_all(self) -> None:
        """End every listen key and say so on its streams."""
        for name in list(self._server.exchange.listen_keys):
            await self._expire(name)

    async def expire_keys(self) -> None:
        """End listen keys that nobody extended."""
        while True:
            await asyncio.sleep(_POLL_S)
            now = time.monotonic()
            for name in list(self._server.exchange.listen_keys):
                if self._until.setdefault(name, now + KEY_LIFE_S) < now:
                    await self._expire(name)

    async def _expire(self, name: str) -> None:
        exchange = self._server.exchange
        key = exchange.listen_keys[name]
        message = {"e": "listenKeyExpired", "E": self._server.now_ms(), "listenKey": key}
        for one in [each for each in self._sockets if each.user == key]:
            await self._write(one, json.dumps(message))
        exchange.listen(exchange.accounts[name], "")

    # ---- sending

    async def send(self, messages: Iterable[Message]) -> None:
        """Send what a step says."""
        for message in messages:
            for one in list(self._sockets):
                if self._hears(one, message):
                    await self._deliver(one, message)

    def _hears(self, one: _Socket, message: Message) -> bool:
        if message.channel == "user":
            key = self._server.exchange.listen_keys.get(message.name)
            return key is not None and one.user == key
        return any(_plain(name) == message.name for name in one.streams)

    async def _deliver(self, one: _Socket, message: Message) -> None:
        faults = self._server.faults
        if faults.find("silence", one.channel, message.name) is not None:
            return
        payload: Any = message.payload
        if one.combined:
            payload = {"stream": message.name, "data": payload}
        text = json.dumps(payload, separators=(",", ":"))
        if one.held is None and faults.find("reorder", one.channel) is not None:
            one.held = text
            return
        await self._write(one, text)
        if faults.find("duplicate", one.channel) is not None:
            await self._write(one, text)
        if one.held is not None:
            held, one.held = one.held, None
            await self._write(one, held)

    async def _write(self, one: _Socket, text: str) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):
            await one.ws.send_str(text)

    # ---- connections

    async def drop(self, channel: str) -> int:
        """Cut the sockets of a channel without a word; return how many."""
        hit = [one for one in self._sockets if channel in ("all", one.channel)]
        for one in hit:
            cut(one.ws)
        return len(hit)

    async def close(self) -> None:
        """Close every socket."""
        for one in list(self._sockets):
            await one.ws.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self._server.faults.find("maintenance") is not None:
            return web.json_response({"code": -1016, "msg": "Maintenance."}, status=503)
        silent = self._server.faults
        # aiohttp answers pings by itself unless told not to: a silent exchange does not.
        ws = web.WebSocketResponse(autoping=False, max_msg_size=1 << 16)
        await ws.prepare(request)
        one = _Socket(ws, combined=request.path.endswith("/stream"))
        names = request.match_info.get("names", "") or request.query.get("streams", "")
        one.user = request.query.get("listenKey", "")
        for name in names.split("/") if names else []:
            if name in self._server.exchange.listen_keys.values():
                one.user = name
            else:
                one.streams.add(name)
        self._sockets.add(one)
        self.accepted += 1
        try:
            async for message in ws:
                # A silence of some streams only is none of the connection.
                if silent.find("silence", one.channel, "the connection") is not None:
                    continue
                if message.type is WSMsgType.PING:
                    await ws.pong(message.data)
                elif message.type is WSMsgType.TEXT:
                    await self._command(one, message.data)
        finally:
            self._sockets.discard(one)
        return ws

    async def _command(self, one: _Socket, text: str) -> None:
        try:
            command = json.loads(text)
            method, names = str(command["method"]), list(command.get("params") or [])
        except (ValueError, KeyError, TypeError):
            await self._write(one, json.dumps({"code": 2, "msg": "Invalid request"}))
            return
        result: Any = None
        if method == "SUBSCRIBE":
            if len(one.streams) + len(names) > _MAX_STREAMS:
                error = {"code": 2, "msg": f"Invalid request: more than {_MAX_STREAMS} streams"}
                await self._write(one, json.dumps(error | {"id": command.get("id")}))
                return
            one.streams.update(map(str, names))
        elif method == "UNSUBSCRIBE":
            one.streams.difference_update(map(str, names))
        elif method == "LIST_SUBSCRIPTIONS":
            result = sorted(one.streams)
        else:
            error = {"code": 2, "msg": f"Invalid request: unknown method {method}"}
            await self._write(one, json.dumps(error | {"id": command.get("id")}))
            return
        await self._write(one, json.dumps({"result": result, "id": command.get("id")}))
        if method == "SUBSCRIBE":
            await self._greet(one, map(str, names))

    async def _greet(self, one: _Socket, names: Iterable[str]) -> None:
        """Say what the prices are now, for whoever has just come."""
        for name in map(_plain, names):
            exchange = self._server.exchange
            payload = latest_price(exchange.market, exchange.prices, exchange.clock, name)
            if payload is not None:
                await self._deliver(one, Message("market", name, payload))


def cut(ws: web.WebSocketResponse) -> None:
    """End a connection as a fallen line does: without a closing handshake."""
    transport = ws._req.transport if ws._req is not None else None
    if transport is not None:
        transport.abort()


def _plain(name: str) -> str:
    """Return a stream's name without its speed."""
    return name.removesuffix("@1s").removesuffix("@3s")
