"""The exchange on a loopback port: REST, streams, WebSocket API, control, and the passing of time.

How time flows. There are two clocks. The *market clock* stamps bars, fills and funding; it stands
at the last step (`tests.exchange.core`). The *wall clock* is what requests are signed with, limits
are counted in and listen keys expire by. ``GET /fapi/v1/time`` is the wall clock.

``timed``
    Steps happen `speed` times as fast as in the catalog. After a close the next open waits
    `hold_ms` on the wall: orders sent until then are stamped with the close and fill at that open,
    as a backtest's do. Orders sent later trade at once at the last price; so do guards that must
    get out in the middle of a bar.
``max``
    Without waiting, as fast as sockets take the messages.
``lockstep``
    One step for each ``POST /control/advance``, which answers with what the step sent and what the
    accounts look like. The client's process calls it when its actors have handled everything of
    the last step (`tests.exchange.lockstep` waits for that), so a replay is exact. Market orders
    wait for the next open, whatever it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Any

from aiohttp import web

from tests.exchange.control import Control
from tests.exchange.core import Exchange, Step
from tests.exchange.faults import Faults
from tests.exchange.limits import Limits
from tests.exchange.rest import Rest
from tests.exchange.settings import ExchangeSettings
from tests.exchange.streams import Streams
from tests.exchange.trading import Trading

_YIELD_EVERY = 20


class ExchangeServer:
    """An exchange that listens.

    Parameters
    ----------
    settings : ExchangeSettings
        What it is made of.
    port : int
        Port on 127.0.0.1; 0 for a free one.

    Attributes
    ----------
    url : str
        Such as ``http://127.0.0.1:40123``, known once it has started.
    """

    def __init__(self, settings: ExchangeSettings, port: int = 0) -> None:
        self.settings = settings
        self.exchange = Exchange(settings)
        self.faults = Faults()
        self.limits = Limits(settings.weight_limit, settings.order_limit)
        self.streams = Streams(self)
        self.rest = Rest(self)
        self.trading = Trading(self)
        self.control = Control(self)
        self.running = asyncio.Event()
        self.error: BaseException | None = None
        self._commands = asyncio.Event()
        self._port = port
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._anchor = (0.0, 0)
        self.url = ""
        if not settings.paused:
            self.running.set()

    # ---- life

    async def start(self) -> str:
        """Listen, let time pass, and return the URL."""
        app = web.Application(client_max_size=1 << 20)
        for part in (self.control, self.streams, self.trading, self.rest):
            part.add_routes(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        await web.SockSite(self._runner, listener).start()
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if self.settings.mode != "lockstep":
            self._tasks.append(asyncio.create_task(self._pace()))
        if self.settings.mode == "timed" and self.settings.partials:
            self._tasks.append(asyncio.create_task(self._murmur()))
        self._tasks.append(asyncio.create_task(self.streams.expire_keys()))
        return self.url

    async def stop(self) -> None:
        """Close every socket and the log."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.streams.close()
        await self.trading.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self.exchange.close()

    # ---- time

    def now_ms(self) -> int:
        """Return the exchange's own idea of the time on the wall, milliseconds."""
        return int(time.time() * 1_000) + self.faults.skew_ms

    def commanded(self) -> None:
        """Wake the clock up: an order or a cancel came in."""
        self._commands.set()

    async def advance(self) -> Step | None:
        """Let one step happen, and send what it says."""
        step = self.exchange.step()
        if step is not None:
            await self.streams.send(step.messages)
        return step

    async def _pace(self) -> None:
        try:
            await self._keep_pace()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # A silent exchange would look like a fault that was asked for.
            self.error = error
            raise

    async def _keep_pace(self) -> None:
        self._set_anchor()
        steps = 0
        while (ts := self.exchange.next_time()) is not None:
            if not self.running.is_set():
                await self.running.wait()
                self._set_anchor()
            if self.settings.mode == "timed" and not await self._reach(ts):
                continue
            await self.advance()
            steps += 1
            if self.settings.mode == "max" and steps % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        while True:
            await self._wait_command(3_600.0)
            await self._serve_arrivals()

    async def _murmur(self) -> None:
        """Send klines of bars that are being traded; nothing follows from them."""
        exchange, settings = self.exchange, self.settings
        length = exchange.market.interval_ns / 1e9 / settings.speed
        while not exchange.over:
            await asyncio.sleep(length / (settings.partials + 1))
            if self.running.is_set():
                await self.streams.send(exchange.unfinished())

    def _set_anchor(self) -> None:
        self._anchor = (time.monotonic(), self.exchange.clock)

    async def _reach(self, ts: int) -> bool:
        """Wait until it is time for a step; false if a command came in meanwhile."""
        wall, market = self._anchor
        due = wall + (ts - market) / 1e9 / self.settings.speed
        latency = self.settings.execution.latency_ns
        interval = self.exchange.market.interval_ns
        if (ts - latency) % interval == 0 and latency % interval:
            due += min(self.settings.hold_ms / 1e3, 0.5 * interval / 1e9 / self.settings.speed)
        pause = due - time.monotonic()
        if pause <= 0.0:
            return True
        if await self._wait_command(pause):
            await self._serve_arrivals()
            return False
        return self.running.is_set()

    async def _wait_command(self, pause: float) -> bool:
        try:
            async with asyncio.timeout(pause):
                await self._commands.wait()
        except TimeoutError:
            return False
        self._commands.clear()
        return True

    async def _serve_arrivals(self) -> None:
        """Let orders arrive that came between two records, and trade at the last price."""
        while (step := self.exchange.arrive()) is not None:
            await self.streams.send(step.messages)
        step = self.exchange.meet_price()
        if step is not None:
            await self.streams.send(step.messages)

    def state(self) -> dict[str, Any]:
        """Return how far the market is, for control."""
        exchange = self.exchange
        return {
            "clock": exchange.clock,
            "next": exchange.next_time(),
            "steps": exchange.steps,
            "over": exchange.over,
            "mode": self.settings.mode,
            "running": self.running.is_set(),
            "error": None if self.error is None else repr(self.error),
            "connections": self.streams.counts(),
            "weight": dict(self.limits.spent),
            "too_many": self.limits.refused,
        }
