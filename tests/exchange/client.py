"""A small client of the venue's protocol, for tests: signed REST, streams, the WebSocket API."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from itertools import count
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from tests.exchange.settings import AccountKeys
from tests.exchange.signing import signature, sorted_payload

MAIN = AccountKeys()
_WAIT_S = 5.0


class Answer:
    """What REST answered."""

    def __init__(self, status: int, body: Any, headers: Any) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    @property
    def code(self) -> int | None:
        """The venue's error code; None for success."""
        return self.body.get("code") if isinstance(self.body, dict) and self.status != 200 else None


class Client:
    """One account's connection.

    Parameters
    ----------
    url : str
        Of the exchange.
    keys : AccountKeys
        Whose.
    """

    def __init__(self, url: str, keys: AccountKeys = MAIN) -> None:
        self.url = url
        self.keys = keys
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self.events: list[dict[str, Any]] = []
        self._readers: list[asyncio.Task[None]] = []
        self._sockets: list[aiohttp.ClientWebSocketResponse] = []
        self._numbers = count(1)

    async def __aenter__(self) -> Self:
        """Open."""
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Close."""
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for socket in self._sockets:
            await socket.close()
        await self.session.close()

    async def public(self, path: str, **params: Any) -> Answer:
        """Ask without a key."""
        return await self._send("GET", path, urlencode(params), {})

    async def keyed(self, method: str, path: str) -> Answer:
        """Ask with the key and without a signature."""
        return await self._send(method, path, "", {"X-MBX-APIKEY": self.keys.key})

    async def signed(self, method: str, path: str, **params: Any) -> Answer:
        """Ask with key and signature; `timestamp` may be given."""
        params.setdefault("timestamp", int(time.time() * 1_000))
        query = urlencode(params)
        query += "&signature=" + signature(self.keys.secret, query)
        return await self._send(method, path, query, {"X-MBX-APIKEY": self.keys.key})

    async def raw(self, method: str, path: str, query: str, key: str | None) -> Answer:
        """Ask with exactly these."""
        return await self._send(method, path, query, {} if key is None else {"X-MBX-APIKEY": key})

    async def _send(self, method: str, path: str, query: str, headers: dict[str, str]) -> Answer:
        address = f"{self.url}{path}" + (f"?{query}" if query else "")
        # What is signed must not be written in another way.
        exact = URL(address, encoded=True)
        async with self.session.request(method, exact, headers=headers) as answer:
            return Answer(answer.status, await answer.json(content_type=None), answer.headers)

    # ---- control

    async def control(self, method: str, path: str, body: Any = None) -> Any:
        """Ask control."""
        async with self.session.request(method, f"{self.url}/control/{path}", json=body) as answer:
            return await answer.json()

    async def advance(self, steps: int = 1) -> list[dict[str, Any]]:
        """Let steps happen; return them."""
        found = []
        for _ in range(steps):
            step = (await self.control("POST", "advance"))["step"]
            if step is None:
                break
            found.append(step)
        await asyncio.sleep(0.01)
        return found

    async def until_bar(self, number: int = 1) -> None:
        """Let steps happen until so many bars have closed."""
        seen = 0
        while seen < number:
            (step,) = await self.advance()
            seen += any("@kline_" in name for name in step["market"])

    async def fault(self, name: str, **details: Any) -> None:
        """Switch a fault on."""
        answer = await self.control("POST", "fault", {"name": name, **details})
        assert "error" not in answer, answer

    # ---- streams

    async def connect(self, path: str, **options: Any) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket, which is closed with the client."""
        # A server that keeps silent answers no farewell.
        patience = aiohttp.ClientWSTimeout(ws_close=0.2)
        address = f"{self.url}{path}"
        self._sockets.append(await self.session.ws_connect(address, timeout=patience, **options))
        return self._sockets[-1]

    async def listen(self, *streams: str) -> list[dict[str, Any]]:
        """Listen to market streams; the list that is returned grows."""
        socket = await self.connect("/ws")
        await socket.send_json({"method": "SUBSCRIBE", "params": list(streams), "id": 1})
        assert await socket.receive_json() == {"result": None, "id": 1}
        return self._read(socket)

    async def listen_user(self) -> list[dict[str, Any]]:
        """Listen to the account; the list that is returned grows."""
        key = (await self.keyed("POST", "/fapi/v1/listenKey")).body["listenKey"]
        return self._read(await self.connect(f"/ws?listenKey={key}"))

    def _read(self, socket: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []

        async def read() -> None:
            while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                heard.append(json.loads(message.data))
            heard.append({"e": "closed"})

        self._readers.append(asyncio.create_task(read()))
        return heard

    # ---- the WebSocket API

    async def call(self, method: str, *, sign: bool = True, **params: Any) -> dict[str, Any]:
        """Ask over the WebSocket API."""
        if self.socket is None or self.socket.closed:
            self.socket = await self.connect("/ws-fapi/v1")
        if sign:
            params.setdefault("apiKey", self.keys.key)
            params.setdefault("timestamp", int(time.time() * 1_000))
            params.setdefault("signature", signature(self.keys.secret, sorted_payload(params)))
        identity = str(next(self._numbers))
        await self.socket.send_json({"id": identity, "method": method, "params": params})
        answer: dict[str, Any] = await self.socket.receive_json(timeout=_WAIT_S)
        assert answer["id"] == identity
        return answer

    # ---- orders

    async def start_order(self, **params: Any) -> asyncio.Task[Answer]:
        """Send an order, whose answer comes when it has arrived."""
        base = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.010"}
        task = asyncio.create_task(self.signed("POST", "/fapi/v1/order", **{**base, **params}))
        await asyncio.sleep(0.02)
        return task

    async def start_stop(self, **params: Any) -> asyncio.Task[Answer]:
        """Send a stop or target, whose answer comes when it has arrived."""
        base = {
            "algoType": "CONDITIONAL",
            "symbol": "BTCUSDT",
            "side": "SELL",
            "type": "STOP_MARKET",
            "quantity": "0.010",
            "reduceOnly": "true",
        }
        task = asyncio.create_task(self.signed("POST", "/fapi/v1/algoOrder", **{**base, **params}))
        await asyncio.sleep(0.02)
        return task

    async def bought(self) -> Answer:
        """Buy 0.010 BTC after a bar and let it fill; before one nothing is known of volumes."""
        await self.until_bar()
        order = await self.start_order()
        while not order.done():
            await self.advance()
        return order.result()


async def eventually(what: Callable[[], object], seconds: float = _WAIT_S) -> None:
    """Wait until a callable returns something true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "nothing of the kind happened"
        await asyncio.sleep(0.005)
