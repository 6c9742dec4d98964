"""How time flows, and that an exchange goes on where it was when it is killed."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from adapters.accounts import BinanceAccount
from adapters.connections import Connection, Keys
from catalog.errors import ConfigError, DataError, RunFailedError
from catalog.timestamps import parse_time
from tests.exchange.client import Client, eventually
from tests.exchange.conftest import START, Opened
from tests.exchange.core import Exchange
from tests.exchange.feed import Kind, Market
from tests.exchange.filters import parse_order
from tests.exchange.runner import ExchangeProcess, threaded_exchange
from tests.exchange.settings import ExchangeSettings
from tests.exchange.truth import NAME

BAR_NS = 15 * 60 * 1_000_000_000


def test_records_come_in_the_order_of_a_replay(settings: ExchangeSettings) -> None:
    market = Market(settings)
    rows = [market.record(place) for place in range(len(market))]
    order = list(settings.instruments)
    keys = [(one.ts, one.kind, order.index(f"{one.symbol}-PERP.BINANCE")) for one in rows]
    assert keys == sorted(keys)
    assert {one.kind for one in rows} == set(Kind)
    first = rows[0]
    assert (first.kind, first.ts) == (Kind.QUOTE, START + 250_000_000)


def test_a_span_without_bars_is_refused(settings: ExchangeSettings) -> None:
    with pytest.raises(DataError, match="the span must hold a bar, had none after 2030-01-01"):
        Market(replace(settings, start=parse_time("2030-01-01")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speed": 0.0}, "speed must be above 0, was 0"),
        ({"instruments": ()}, "instruments must name at least one, were none"),
        ({"fill_parts": 0}, "fill_parts must be at least 1, was 0"),
        ({"accounts": ()}, "accounts must have keys of their own"),
    ],
)
def test_settings_that_make_no_exchange_are_refused(
    settings: ExchangeSettings, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(settings, **changes)


def test_the_clock_runs_as_fast_as_it_is_told_and_can_be_stopped(opened: Opened) -> None:
    async def run() -> None:
        async with opened(mode="timed", speed=9_000.0, paused=True) as client:
            klines = await client.listen("btcusdt@kline_15m")
            await asyncio.sleep(0.15)
            assert not klines
            before = time.monotonic()
            await client.control("POST", "resume")
            await eventually(lambda: len(klines) >= 5)
            assert 0.3 < time.monotonic() - before < 2.0, "ten bars in a second"
            await client.control("POST", "pause")
            await asyncio.sleep(0.1)
            heard = len(klines)
            await asyncio.sleep(0.3)
            assert len(klines) == heard

    asyncio.run(run())


def test_without_a_pause_the_market_is_over_soon(opened: Opened) -> None:
    async def run() -> None:
        async with opened(mode="max") as client:
            end = time.monotonic() + 10.0
            while not (state := await client.control("GET", "state"))["over"]:
                assert time.monotonic() < end
                assert state["error"] is None
                await asyncio.sleep(0.02)

    asyncio.run(run())


def test_an_order_after_a_close_fills_at_the_next_open_and_one_later_at_once(
    opened: Opened,
) -> None:
    async def run() -> None:
        async with opened(mode="timed", speed=600.0, hold_ms=300.0) as client:
            klines = await client.listen("btcusdt@kline_15m")
            heard = await client.listen_user()
            await eventually(lambda: klines)
            first = await client.start_order()
            assert (await first).body["status"] in ("NEW", "FILLED")
            await eventually(lambda: heard)
            close = klines[0]["k"]["T"] + 1
            fills = [one for one in heard if one["e"] == "ORDER_TRADE_UPDATE"]
            assert {one["E"] for one in fills} == {close + 250}
            await asyncio.sleep(0.3)
            assert len(klines) == 1, "the bar is being traded"
            second = await client.start_order(side="SELL")
            assert (await second).body["status"] == "FILLED"
            assert len(klines) == 1, "it did not wait for the next open"
            trades = (await client.signed("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")).body
            assert [one["side"] for one in trades] == ["BUY", "SELL"]
            assert close + 250 <= trades[1]["time"] < close + 15 * 60_000

    asyncio.run(run())


# ---- restarts


def trade_at_random(exchange: Exchange, rng: random.Random) -> None:
    """Send or cancel something, sometimes."""
    (account,) = exchange.accounts.values()
    what = rng.random()
    listing = exchange.market.listings[rng.choice(["BTCUSDT", "ETHUSDT"])]
    price = exchange.prices[listing.symbol]
    side = rng.choice(["BUY", "SELL"])
    size = listing.size(rng.uniform(200.0, 5_000.0) / price)
    params: dict[str, Any] = {"side": side, "quantity": size}
    if what < 0.25:
        params |= {"type": "MARKET"}
    elif what < 0.45:
        params |= {"type": "LIMIT", "timeInForce": "GTC"}
        params["price"] = listing.price(price * (0.999 if side == "BUY" else 1.001))
    elif what < 0.6:
        away = 0.997 if side == "SELL" else 1.003
        params |= {"type": "STOP_MARKET", "triggerPrice": listing.price(price * away)}
        params["reduceOnly"] = "true"
    else:
        resting = [name for name, one in account.orders.items() if one.is_open]
        if what > 0.98 and not account.quantity(listing.symbol):
            exchange.set_margin(account, listing.symbol, leverage=rng.choice([1, 2, 50]))
            isolated = listing.symbol not in account.isolated
            exchange.set_margin(account, listing.symbol, isolated=isolated)
        elif resting and what < 0.7:
            exchange.cancel(account, rng.choice(resting))
        elif resting and what < 0.75:
            name = rng.choice(resting)
            order = account.orders[name]
            if order.kind == "LIMIT" and not account.is_amending(name):
                assert order.price is not None
                exchange.amend(account, name, (order.quantity * 2.0, order.price))
        return
    algo = "triggerPrice" in params
    order = parse_order(listing, params, algo=algo, time_ms=exchange.clock_ms)
    exchange.place(account, order, algo=algo)


def picture(exchange: Exchange) -> Any:
    """Return everything that an account could see."""
    (account,) = exchange.accounts.values()
    return (
        exchange.clock,
        exchange.steps,
        exchange.prices,
        exchange.listen_keys,
        account.ledger.cash,
        {name: (one.quantity, one.average_open) for name, one in account.ledger.positions.items()},
        {name: repr(one) for name, one in account.orders.items()},
        account.trades,
        account.income,
        (account.leverage, account.isolated),
        exchange.in_flight(account),
    )


@pytest.mark.parametrize("seed", range(4))
def test_recovered_anywhere_it_goes_on_as_if_nothing_had_happened(
    settings: ExchangeSettings, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    market = Market(settings)
    exchange = Exchange(replace(settings, state=tmp_path), market)
    cuts = {rng.randrange(20, 400) for _ in range(6)}
    for number in range(420):
        trade_at_random(exchange, rng)
        if rng.random() < 0.1:
            exchange.meet_price()
        elif rng.random() < 0.1:
            exchange.arrive()
        elif rng.random() < 0.02:
            (account,) = exchange.accounts.values()
            exchange.transfer(account, rng.choice([-50.0, 80.0]))
        else:
            exchange.step()
        if number in cuts:
            before = picture(exchange)
            exchange.close()
            if rng.random() < 0.5:
                # The last line was not whole when the power went.
                with (tmp_path / NAME).open("a") as file:
                    file.write('{"n": 99')
            exchange = Exchange(replace(settings, state=tmp_path), market)
            assert picture(exchange) == before
    (account,) = exchange.accounts.values()
    assert len(account.trades) > 20
    assert account.ledger.cash == pytest.approx(account.book.ledger.cash, abs=1e-8)
    exchange.close()
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    events = [one for line in lines for one in line.get("events", ())]
    trades = [one["o"]["t"] for one in events if one["e"] == "ORDER_TRADE_UPDATE" and one["o"]["t"]]
    assert trades == [one["id"] for one in account.trades], "the log holds each trade once"


def test_a_log_of_another_exchange_is_refused(settings: ExchangeSettings, tmp_path: Path) -> None:
    Exchange(replace(settings, state=tmp_path)).close()
    with pytest.raises(ConfigError, match="must have been begun with the same settings"):
        Exchange(replace(settings, state=tmp_path, fill_parts=2))


def test_a_log_that_does_not_fit_the_catalog_is_refused(
    settings: ExchangeSettings, tmp_path: Path
) -> None:
    exchange = Exchange(replace(settings, state=tmp_path))
    exchange.close()
    with (tmp_path / NAME).open("a") as file:
        file.write('{"n": 100000, "ts": 1}\n')
    with pytest.raises(
        RunFailedError, match="must fit the catalog, which ended before step 100000"
    ):
        Exchange(replace(settings, state=tmp_path))


@pytest.mark.slow
def test_a_process_that_is_killed_comes_back_on_its_port(
    settings: ExchangeSettings, tmp_path: Path
) -> None:
    process = ExchangeProcess(
        [
            *("--catalog", str(settings.catalog), "--instruments", ",".join(settings.instruments)),
            *("--from", "2024-01-02", "--speed", "lockstep", "--state", str(tmp_path)),
        ]
    )

    async def before(url: str) -> tuple[Any, Any]:
        async with Client(url) as client:
            await client.listen_user()
            await client.bought()
            order = await client.start_order(side="SELL", newClientOrderId="under-way")
            found = await client.control("GET", "accounts"), await client.control("GET", "state")
            order.cancel()
            return found

    async def after(url: str) -> None:
        async with Client(url) as client:
            heard = await client.listen_user()
            await client.until_bar()
            await client.advance(3)
            await eventually(lambda: heard)
            names = {one["o"]["c"] for one in heard if one["e"] == "ORDER_TRADE_UPDATE"}
            assert names == {"under-way"}
            found = await client.control("GET", "accounts")
            assert found["main"]["orders"]["under-way"]["status"] == "FILLED"
            assert not found["main"]["positions"]

    with process:
        url = process.url
        accounts, state = asyncio.run(before(url))
        process.kill()
        process.start()
        assert process.url == url
        again = process.remote.accounts()
        assert again["main"] == accounts["main"] | {"requests": 0}
        assert process.remote.state()["clock"] == state["clock"]
        asyncio.run(after(url))


@pytest.mark.slow
def test_a_process_that_cannot_start_says_why() -> None:
    process = ExchangeProcess(["--catalog", "absent", "--instruments", "X", "--from", "2024-01-01"])
    with pytest.raises(RunFailedError, match="the test exchange must start, ended with 2"):
        process.start()


def test_what_an_owner_pays_in_and_takes_out_is_told_apart_from_results(
    settings: ExchangeSettings,
) -> None:
    with threaded_exchange(settings) as remote:
        account = BinanceAccount(
            Connection("testnet", remote.url, Keys(("test-key", "test-secret")))
        )
        before = account.state()
        assert (before.balance, before.identity) == (100_000.0, "main")
        remote.transfer(-500.0)
        remote.transfer(80.5)
        assert account.state().balance == 99_580.5
        assert [one.amount for one in account.transfers(START)] == [-500.0, 80.5]
        assert len({one.identity for one in account.transfers(START)}) == 2
        # Between accounts, and into another coin; what a promotion pays is a result.
        remote.transfer(30.0, kind="INTERNAL_TRANSFER")
        remote.transfer(-20.0, kind="COIN_SWAP_WITHDRAW")
        remote.transfer(7.0, kind="WELCOME_BONUS")
        found = account.transfers(START)
        assert sorted(one.amount for one in found) == [-500.0, -20.0, 30.0, 80.5]
        assert len({one.identity for one in found}) == 4
        assert account.transfers(START + BAR_NS) == ()
        account.close()
        with pytest.raises(RunFailedError, match="must answer /control/transfer"):
            remote.transfer(1.0, "nobody")


def test_an_account_takes_back_an_order_once(settings: ExchangeSettings) -> None:
    secret = Keys(("test-key", "test-secret"))
    with threaded_exchange(replace(settings, mode="timed", speed=900.0)) as remote:
        account = BinanceAccount(Connection("testnet", remote.url, secret))
        plain = {"type": "LIMIT", "price": "1000.0", "newClientOrderId": "x-aHRE4BCj-RL1-E1-b"}
        stop = {"type": "STOP_MARKET", "triggerPrice": "1000.0", "algoType": "CONDITIONAL"}
        for path, more in (
            ("order", plain | {"timeInForce": "GTC", "side": "BUY"}),
            ("algoOrder", stop | {"clientAlgoId": "x-aHRE4BCj-RL1-S1-b", "side": "SELL"}),
        ):
            text = account._signed({"symbol": "BTCUSDT", "quantity": "0.2", **more})
            url = f"{remote.url}/fapi/v1/{path}?{text}"
            answer = requests.post(url, headers={"X-MBX-APIKEY": "test-key"}, timeout=10)
            assert answer.ok, answer.text
        found = account.state().orders
        assert {one.client_order_id for one in found} == {"L1-E1-b", "L1-S1-b"}
        for one in (*found, *found):
            # What is gone already is as good.
            account.cancel(one)
        assert account.state().orders == ()
        account.close()


def test_an_exchange_in_a_thread(settings: ExchangeSettings) -> None:
    with threaded_exchange(settings) as remote:
        assert remote.advance()["step"]["number"] == 1
        remote.fault("server_error", times=1)
        remote.clear_faults()
        remote.pause()
        assert remote.state()["running"] is False
        remote.resume()
        with pytest.raises(RunFailedError, match="must answer /control/fault"):
            remote.fault("earthquake")
