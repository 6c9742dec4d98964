"""Each fault does what it says, and ends."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from catalog.errors import ConfigError
from tests.exchange.client import eventually
from tests.exchange.conftest import Opened
from tests.exchange.faults import Faults

PING = "/fapi/v1/ping"


@pytest.mark.parametrize(
    ("fault", "details", "status", "code", "retry"),
    [
        ("rate_limit", {"retry_after": 7}, 429, -1003, "7"),
        ("ban", {"retry_after": 120}, 418, -1003, "120"),
        ("server_error", {"status": 503}, 503, -1000, None),
        ("server_error", {"status": 502}, 502, -1000, None),
        ("maintenance", {}, 503, -1016, None),
    ],
)
def test_rest_refuses_in_the_venues_words(
    opened: Opened, fault: str, details: dict[str, int], status: int, code: int, retry: str | None
) -> None:
    async def run() -> None:
        async with opened() as client:
            await client.fault(fault, times=2, **details)
            for _ in range(2):
                answer = await client.public(PING)
                assert (answer.status, answer.code) == (status, code)
                assert answer.headers.get("Retry-After") == retry
            assert (await client.public(PING)).status == 200, "a fault ends"

    asyncio.run(run())


def test_a_fault_may_concern_some_requests_only(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            await client.fault("server_error", times=1, path="klines")
            assert (await client.public(PING)).status == 200
            answer = await client.public("/fapi/v1/klines", symbol="BTCUSDT", interval="15m")
            assert answer.status == 500

    asyncio.run(run())


def test_the_websocket_api_has_the_same_faults(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            await client.fault("server_error", times=1, status=503)
            assert (await client.call("ping", sign=False))["status"] == 503
            await client.fault("slow", times=1, delay_s=0.2)
            before = time.monotonic()
            assert (await client.call("ping", sign=False))["status"] == 200
            assert time.monotonic() - before >= 0.2

    asyncio.run(run())


def test_dropped_sockets_close_without_a_word_and_can_be_opened_again(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            market, user = await client.listen("btcusdt@kline_15m"), await client.listen_user()
            await client.call("ping", sign=False)
            await client.fault("drop", channel="market")
            await eventually(lambda: market == [{"e": "closed"}])
            assert not user
            await client.fault("drop", channel="all")
            await eventually(lambda: user == [{"e": "closed"}])
            assert client.socket is not None
            message = await client.socket.receive(timeout=2.0)
            assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            again = await client.listen("btcusdt@kline_15m")
            await client.until_bar()
            await eventually(lambda: again)

    asyncio.run(run())


def test_silence_keeps_sockets_open_and_answers_no_ping(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            market = await client.listen("btcusdt@kline_15m")
            socket = await client.connect("/ws", autoping=False)
            await client.fault("silence", seconds=0.3, channel="market")
            await socket.ping()
            await client.until_bar()
            with pytest.raises(TimeoutError):
                await socket.receive(timeout=0.1)
            assert not market
            await asyncio.sleep(0.3)
            await client.until_bar()
            await eventually(lambda: market)
            await socket.ping()
            assert (await socket.receive(timeout=1.0)).type is aiohttp.WSMsgType.PONG

    asyncio.run(run())


def test_the_bars_of_one_symbol_may_stay_away(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            silent = await client.listen("btcusdt@kline_15m")
            heard = await client.listen("ethusdt@kline_15m")
            socket = await client.connect("/ws", autoping=False)
            await client.fault("silence", seconds=60.0, path="btcusdt@kline")
            await client.fault("server_error", seconds=60.0, path="klines.*symbol=BTC")
            await client.until_bar()
            await eventually(lambda: heard)
            assert not silent
            await socket.ping()
            assert (await socket.receive(timeout=1.0)).type is aiohttp.WSMsgType.PONG
            assert (await client.call("ping", sign=False))["status"] == 200
            for symbol, status in (("BTCUSDT", 500), ("ETHUSDT", 200)):
                row = {"symbol": symbol, "interval": "15m"}
                assert (await client.public("/fapi/v1/klines", **row)).status == status

    asyncio.run(run())


def test_messages_may_come_twice_or_the_other_way_round(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            heard = await client.listen("btcusdt@kline_15m")
            await client.fault("duplicate", times=1, channel="market")
            await client.until_bar()
            await eventually(lambda: len(heard) == 2)
            assert heard[0] == heard[1]
            await client.fault("reorder", times=1, channel="market")
            await client.until_bar(2)
            await eventually(lambda: len(heard) == 4)
            assert heard[2]["k"]["t"] > heard[3]["k"]["t"]

    asyncio.run(run())


def test_listen_keys_end_with_a_word(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            heard = await client.listen_user()
            before = (await client.keyed("POST", "/fapi/v1/listenKey")).body["listenKey"]
            await client.fault("listen_key_expired")
            await eventually(lambda: heard)
            assert heard[0]["e"] == "listenKeyExpired"
            assert heard[0]["listenKey"] == before
            assert (await client.keyed("PUT", "/fapi/v1/listenKey")).code == -1125
            after = (await client.keyed("POST", "/fapi/v1/listenKey")).body["listenKey"]
            assert after != before

    asyncio.run(run())


def test_stops_are_refused_and_orders_are_not(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            await client.fault("reject_stop", times=1, code=-2021)
            assert (await (await client.start_stop(triggerPrice="20000.0"))).code == -2021
            assert (await client.bought()).status == 200
            await client.fault("reject_order", times=1, code=-2019)
            assert (await (await client.start_order())).code == -2019

    asyncio.run(run())


def test_a_skewed_clock_refuses_what_is_signed_by_another(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            await client.fault("clock_skew", seconds=60.0, skew_ms=-30_000)
            answer = await client.signed("GET", "/fapi/v2/account")
            assert answer.code == -1021
            now = (await client.public("/fapi/v1/time")).body["serverTime"]
            assert abs(now - time.time() * 1_000 + 30_000) < 1_000
            answer = await client.signed("GET", "/fapi/v2/account", timestamp=now)
            assert answer.status == 200
            await client.control("DELETE", "fault")
            assert (await client.signed("GET", "/fapi/v2/account")).status == 200

    asyncio.run(run())


@pytest.mark.parametrize("over", ["rest", "websocket"])
def test_a_lost_answer_is_an_order_all_the_same(opened: Opened, over: str) -> None:
    async def run() -> None:
        async with opened() as client:
            await client.until_bar()
            await client.fault("lost_answer", times=1, path="order")
            name = {"newClientOrderId": "lost"}
            sent: asyncio.Task[object]
            if over == "rest":
                sent = await client.start_order(**name)
            else:
                params: dict[str, Any] = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET"}
                params |= {"quantity": "0.010", **name}
                sent = asyncio.create_task(client.call("order.place", **params))
                await asyncio.sleep(0.05)
            await client.advance(2)
            with pytest.raises((aiohttp.ClientError, TypeError)):
                await sent
            found = await client.signed(
                "GET", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId="lost"
            )
            assert found.body["status"] == "FILLED"

    asyncio.run(run())


def test_maintenance_cuts_and_refuses_sockets(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            market = await client.listen("btcusdt@kline_15m")
            await client.fault("maintenance", seconds=0.3)
            await eventually(lambda: market == [{"e": "closed"}])
            assert (await client.public("/ws")).status == 503
            await asyncio.sleep(0.3)
            assert await client.listen("btcusdt@kline_15m") == []

    asyncio.run(run())


def test_what_is_no_fault_is_refused(opened: Opened) -> None:
    with pytest.raises(ConfigError, match="fault must be one of drop, silence"):
        Faults().add("earthquake", 1.0)
    with pytest.raises(ConfigError, match="must be given seconds or times, had neither"):
        Faults().add("silence")
    with pytest.raises(ConfigError, match="details must be among"):
        Faults().add("silence", 1.0, loud=True)
    with pytest.raises(ConfigError, match="channel must be one of"):
        Faults().add("silence", 1.0, channel="telephone")

    async def run() -> None:
        async with opened() as client:
            answer = await client.control("POST", "fault", {"name": "earthquake", "times": 1})
            assert "fault must be one of" in answer["error"]

    asyncio.run(run())
