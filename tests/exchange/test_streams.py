"""Streams and listen keys."""

from __future__ import annotations

import asyncio

import aiohttp

from tests.exchange.client import Client, eventually
from tests.exchange.conftest import START, Opened
from tests.exchange.settings import AccountKeys

START_MS = START // 1_000_000
BAR_MS = 15 * 60_000


def test_market_streams_tell_of_closed_bars_in_the_venues_stamps(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            klines = await client.listen("btcusdt@kline_15m")
            marks = await client.listen("ethusdt@markPrice@1s")
            await client.until_bar(2)
            await eventually(lambda: len(klines) == 2 and marks)
            first = klines[0]["k"]
            assert (first["t"], first["T"]) == (START_MS, START_MS + BAR_MS - 1)
            assert (first["x"], first["i"]) == (True, "15m")
            assert {one["s"] for one in klines} == {"BTCUSDT"}
            path, row = "/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "15m", "limit": 1}
            last = (await client.public(path, **row)).body[0]
            keys = ("t", "o", "h", "l", "c", "v", "T")
            assert [klines[1]["k"][key] for key in keys] == last[:7]
            assert marks[0]["T"] == START_MS + 8 * 3_600_000

    asyncio.run(run())


def test_a_subscription_can_be_ended_and_listed(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            socket = await client.connect("/ws/btcusdt@kline_15m")
            for number, (method, params, result) in enumerate(
                [
                    ("LIST_SUBSCRIPTIONS", [], ["btcusdt@kline_15m"]),
                    ("SUBSCRIBE", ["ethusdt@kline_15m"], None),
                    ("UNSUBSCRIBE", ["btcusdt@kline_15m"], None),
                    ("LIST_SUBSCRIPTIONS", [], ["ethusdt@kline_15m"]),
                ]
            ):
                await socket.send_json({"method": method, "params": params, "id": number})
                assert await socket.receive_json() == {"result": result, "id": number}
            await socket.send_json({"method": "SHOUT", "id": 9})
            assert (await socket.receive_json())["code"] == 2
            await socket.send_str("no json")
            assert (await socket.receive_json())["code"] == 2
            many = [f"x{number}@kline_15m" for number in range(201)]
            await socket.send_json({"method": "SUBSCRIBE", "params": many, "id": 10})
            assert (await socket.receive_json())["code"] == 2

    asyncio.run(run())


def test_combined_streams_name_their_stream(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            socket = await client.connect("/stream?streams=btcusdt@kline_15m/ethusdt@kline_15m")
            await client.until_bar()
            message = await socket.receive_json()
            assert message["stream"] == "btcusdt@kline_15m"
            assert message["data"]["e"] == "kline"

    asyncio.run(run())


def test_all_of_an_account_share_one_listen_key_and_its_end(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client, Client(client.url) as other:
            path = "/fapi/v1/listenKey"
            key = (await client.keyed("POST", path)).body["listenKey"]
            assert (await other.keyed("POST", path)).body["listenKey"] == key
            assert (await other.keyed("PUT", path)).body["listenKey"] == key
            mine, theirs = await client.listen_user(), await other.listen_user()
            await client.bought()
            await eventually(lambda: mine and mine == theirs)
            heard = len(mine)
            assert (await other.keyed("DELETE", path)).status == 200
            await client.bought()
            await asyncio.sleep(0.05)
            assert len(mine) == heard, "who deletes the key silences everybody on it"
            assert (await client.keyed("PUT", path)).code == -1125
            again = await client.listen_user()
            await client.bought()
            await eventually(lambda: again)

    asyncio.run(run())


def test_accounts_hear_of_themselves_only(opened: Opened) -> None:
    second = AccountKeys("second", "key-2", "secret-2", 5_000.0)

    async def run() -> None:
        async with (
            opened(accounts=(AccountKeys(), second)) as client,
            Client(client.url, second) as other,
        ):
            mine, theirs = await client.listen_user(), await other.listen_user()
            await other.bought()
            await eventually(lambda: theirs)
            assert not mine
            accounts = await client.control("GET", "accounts")
            assert accounts["main"]["cash"] == 100_000.0
            assert accounts["second"]["cash"] < 5_000.0
            assert accounts["second"]["positions"]

    asyncio.run(run())


def test_unfinished_klines_are_sent_where_asked_for(opened: Opened) -> None:
    async def run() -> None:
        async with opened(mode="timed", speed=9_000.0, partials=2) as client:
            klines = await client.listen("btcusdt@kline_15m")
            await eventually(lambda: sum(one["k"]["x"] for one in klines) >= 3)
            assert sum(not one["k"]["x"] for one in klines) >= 3
            for one in klines:
                assert one["k"]["T"] == one["k"]["t"] + BAR_MS - 1

    asyncio.run(run())


def test_a_stream_of_nobody_hears_nothing(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            socket = await client.connect("/ws?listenKey=unknown")
            await client.bought()
            try:
                heard: object = await socket.receive(timeout=0.05)
            except TimeoutError:
                heard = None
            assert not isinstance(heard, aiohttp.WSMessage)

    asyncio.run(run())
