"""Keys, signatures, limits and history: what the exchange demands of a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from adapters.synthetic import SyntheticConfig
from catalog.timestamps import parse_time
from live.synthesis import make_market
from tests.exchange.client import MAIN, Client
from tests.exchange.conftest import START, Opened
from tests.exchange.signing import signature, sorted_payload

BAR_MS = 15 * 60_000
START_MS = START // 1_000_000


def query(**params: Any) -> str:
    params.setdefault("timestamp", int(time.time() * 1_000))
    text = urlencode(params)
    return f"{text}&signature={signature(MAIN.secret, text)}"


@pytest.mark.parametrize(
    ("make", "key", "status", "code"),
    [
        (lambda: query(), None, 401, -2014),
        (lambda: query(), "another", 401, -2015),
        (lambda: "symbol=BTCUSDT&signature=00", MAIN.key, 400, -1102),
        (lambda: f"timestamp={int(time.time() * 1_000)}", MAIN.key, 400, -1102),
        (lambda: query() + "0", MAIN.key, 400, -1022),
        (lambda: query() + "&symbol=ETHUSDT", MAIN.key, 400, -1022),
        (lambda: query(timestamp=int(time.time() * 1_000) - 6_000), MAIN.key, 400, -1021),
        (lambda: query(timestamp=int(time.time() * 1_000) + 2_000), MAIN.key, 400, -1021),
        (lambda: query(recvWindow=90_000), MAIN.key, 400, -1131),
        (lambda: query(timestamp="soon"), MAIN.key, 400, -1100),
    ],
)
def test_what_is_not_signed_as_it_must_be_is_refused(
    opened: Opened, make: Callable[[], str], key: str | None, status: int, code: int
) -> None:
    async def run() -> None:
        async with opened() as client:
            answer = await client.raw("GET", "/fapi/v2/account", make(), key)
            assert (answer.status, answer.code) == (status, code)

    asyncio.run(run())


def test_a_late_request_counts_within_its_own_window(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            late = int(time.time() * 1_000) - 8_000
            answer = await client.signed(
                "GET", "/fapi/v2/account", timestamp=late, recvWindow=20_000
            )
            assert answer.status == 200

    asyncio.run(run())


def test_the_websocket_api_checks_signatures_and_sessions(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as client:
            assert (await client.call("account.status"))["status"] == 200
            wrong = await client.call("account.status", signature="00")
            assert (wrong["status"], wrong["error"]["code"]) == (400, -1022)
            unsigned = await client.call("account.status", sign=False)
            assert (unsigned["status"], unsigned["error"]["code"]) == (401, -2014)
            assert (await client.call("session.logon"))["result"]["apiKey"] == MAIN.key
            now = int(time.time() * 1_000)
            assert (await client.call("account.status", sign=False, timestamp=now))["status"] == 200
            assert (await client.call("order.unknown"))["error"]["code"] == -1020

    asyncio.run(run())


def test_truth_values_are_signed_in_small_letters() -> None:
    assert sorted_payload({"b": True, "a": 1, "signature": "x"}) == "a=1&b=true"


def asked(opened: Opened, run: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with opened() as client:
            await run(client)

    asyncio.run(main())


def test_klines_are_limited_and_stamped_as_the_venue_does(opened: Opened) -> None:
    async def run(client: Client) -> None:
        path = "/fapi/v1/klines"
        base = {"symbol": "BTCUSDT", "interval": "15m"}
        rows = (await client.public(path, **base)).body
        assert len(rows) == 96, "one day is over, and no kline is shown before its close"
        assert rows[-1][6] == START_MS - 1
        assert rows[-1][0] == START_MS - BAR_MS
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)
        some = (await client.public(path, **base, limit=3)).body
        assert some == rows[-3:]
        first = (await client.public(path, **base, startTime=rows[10][0], limit=2)).body
        assert first == rows[10:12]
        until = (await client.public(path, **base, endTime=rows[10][0])).body
        assert until == rows[:11]
        too_many = await client.public(path, **base, limit=1_501)
        assert too_many.code == -1130
        assert (await client.public(path, symbol="BTCUSDT", interval="1h")).code == -1120
        assert (await client.public(path, symbol="XUSDT", interval="15m")).code == -1121
        assert (await client.public(path, symbol="BTCUSDT")).code == -1102
        await client.until_bar()
        assert len((await client.public(path, **base)).body) == 97

    asked(opened, run)


def test_a_request_returns_500_klines_and_1500_at_most(opened: Opened, tmp_path: Path) -> None:
    make_market(tmp_path / "long", SyntheticConfig(days=17))
    path, base = "/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "15m"}

    async def main() -> None:
        async with opened(catalog=tmp_path / "long", start=parse_time("2024-01-17")) as client:
            answer = await client.public(path, **base)
            assert len(answer.body) == 500
            assert answer.headers["X-MBX-USED-WEIGHT-1M"] == "5"
            answer = await client.public(path, **base, limit=1_500)
            assert len(answer.body) == 1_500
            assert answer.headers["X-MBX-USED-WEIGHT-1M"] == "15"
            assert (await client.public(path, **base, limit=1_501)).code == -1130

    asyncio.run(main())


def test_instruments_are_listed_with_their_filters(opened: Opened) -> None:
    async def run(client: Client) -> None:
        symbols = (await client.public("/fapi/v1/exchangeInfo")).body["symbols"]
        assert [one["symbol"] for one in symbols] == ["BTCUSDT", "ETHUSDT"]
        filters = {one["filterType"]: one for one in symbols[0]["filters"]}
        assert filters["PRICE_FILTER"]["tickSize"] == "0.1"
        assert filters["LOT_SIZE"]["stepSize"] == "0.001"
        assert float(filters["MIN_NOTIONAL"]["notional"]) == 100.0

    asked(opened, run)


def test_settlements_and_mark_prices(opened: Opened) -> None:
    async def run(client: Client) -> None:
        rows = (await client.public("/fapi/v1/fundingRate", symbol="BTCUSDT")).body
        assert rows
        assert rows[-1]["fundingTime"] == START_MS
        index = (await client.public("/fapi/v1/premiumIndex", symbol="BTCUSDT")).body
        assert index["nextFundingTime"] == START_MS + 8 * 3_600_000
        assert index["lastFundingRate"] == rows[-1]["fundingRate"]

    asked(opened, run)


def test_requests_are_weighed_and_orders_counted(opened: Opened) -> None:
    async def main() -> None:
        async with opened(weight_limit=12) as client:
            assert (await client.signed("GET", "/fapi/v2/account")).status == 200
            answer = await client.signed("GET", "/fapi/v2/account")
            assert int(answer.headers["X-MBX-USED-WEIGHT-1M"]) == 10
            answer = await client.signed("GET", "/fapi/v2/account")
            assert (answer.status, answer.code) == (429, -1003)
            assert 1 <= int(answer.headers["Retry-After"]) <= 61
        async with opened(order_limit=2) as client:
            orders = [await client.start_order() for _ in range(3)]
            last = await orders[-1]
            assert (last.status, last.code) == (429, -1015)
            for order in orders[:2]:
                order.cancel()

    asyncio.run(main())
