"""Orders: filters, names, fills by the paper book's rule, stops, money."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from adapters.accounts import _fill
from strategies.execution import ExecutionConfig, InstrumentTerms, commission, slipped_price
from tests.exchange.account import USDT_PER_BNB
from tests.exchange.client import Client, eventually
from tests.exchange.conftest import START, Opened
from tests.exchange.settings import COSTS

LATENCY_MS = 250


def traded(opened: Opened, run: Callable[[Client], Awaitable[None]], **changes: Any) -> None:
    async def main() -> None:
        async with opened(**changes) as client:
            await run(client)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"symbol": "XUSDT"}, -1121),
        ({"side": "HOLD"}, -1117),
        ({"type": "ICEBERG"}, -1116),
        ({"type": "STOP_MARKET", "stopPrice": "1"}, -4120),
        ({"quantity": "0.0105"}, -1111),
        ({"quantity": "0"}, -4003),
        ({"quantity": "much"}, -1100),
        ({"quantity": "NaN"}, -1100),
        ({"quantity": ""}, -1102),
        ({"quantity": "0.001"}, -4164),
        ({"quantity": "100"}, -2019),
        ({"type": "LIMIT", "price": "40000.05", "timeInForce": "GTC"}, -1111),
        ({"type": "LIMIT", "price": "-1", "timeInForce": "GTC"}, -4001),
        ({"type": "LIMIT", "timeInForce": "GTC"}, -1102),
        ({"type": "LIMIT", "price": "40000"}, -1102),
        ({"type": "LIMIT", "price": "40000", "timeInForce": "DAY"}, -1115),
        ({"newClientOrderId": "a" * 37}, -4015),
        ({"newClientOrderId": "a b"}, -1100),
        ({"positionSide": "LONG"}, -4061),
    ],
)
def test_an_order_that_breaks_a_filter_is_refused(
    opened: Opened, params: dict[str, str], code: int
) -> None:
    async def run(client: Client) -> None:
        answer = await (await client.start_order(**params))
        assert (answer.status, answer.code) == (400, code)
        accounts = await client.control("GET", "accounts")
        assert accounts["main"]["orders"] == {}
        assert accounts["main"]["requests"] == 1

    traded(opened, run)


def test_a_market_order_fills_at_the_next_open_with_slippage_and_fee(opened: Opened) -> None:
    async def run(client: Client) -> None:
        await client.until_bar()
        heard = await client.listen_user()
        market = await client.listen("btcusdt@bookTicker")
        order = await client.start_order(newClientOrderId="F1-E0000001-0000001")
        assert not order.done(), "it is on its way for one latency"
        (step,) = await client.advance()
        answer = await order
        await client.advance()
        await eventually(lambda: market)
        open_ = float(market[0]["b"])
        terms = InstrumentTerms.of(_instrument("BTCUSDT-PERP.BINANCE"))
        orders = [one for one in heard if one["e"] == "ORDER_TRADE_UPDATE"]
        assert [one["o"]["x"] for one in orders] == ["NEW", "TRADE"]
        trade = orders[1]
        price = float(trade["o"]["L"])
        least = slipped_price(1, open_, 1.4, terms.tick)
        assert price >= least > open_
        assert price <= slipped_price(1, open_, 1.4 + 50.0, terms.tick)
        assert float(trade["o"]["n"]) == commission(0.010, price, 5.0)
        assert trade["E"] == START // 1_000_000 + 15 * 60_000 + LATENCY_MS
        assert step["ts"] // 1_000_000 == trade["E"]
        assert answer.body["clientOrderId"] == "F1-E0000001-0000001"
        account = (await client.control("GET", "accounts"))["main"]
        assert account["cash"] == round(100_000.0 - float(trade["o"]["n"]), 8)
        assert account["positions"]["BTCUSDT"] == [0.010, price]
        balance = next(one for one in heard if one["e"] == "ACCOUNT_UPDATE")["a"]
        assert (balance["m"], float(balance["B"][0]["wb"])) == ("ORDER", account["cash"])
        assert float(balance["P"][0]["pa"]) == 0.010
        trades = (await client.signed("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")).body
        assert [float(one["price"]) for one in trades] == [price]
        risk = (await client.signed("GET", "/fapi/v2/positionRisk", symbol="BTCUSDT")).body
        assert [float(one["positionAmt"]) for one in risk] == [0.010]

    traded(opened, run)


def _instrument(name: str) -> Any:
    from catalog.instruments import instrument

    return instrument(name)


def test_a_name_is_free_again_once_its_order_has_ended(opened: Opened) -> None:
    async def run(client: Client) -> None:
        resting = {"type": "LIMIT", "price": "20000.0", "timeInForce": "GTC"}
        name = "again"
        first = await client.start_order(**resting, newClientOrderId=name)
        refused = await (await client.start_order(**resting, newClientOrderId=name))
        assert refused.code == -4116, "a name on its way is taken"
        await client.advance(2)
        assert (await first).body["status"] == "NEW"
        refused = await (await client.start_order(**resting, newClientOrderId=name))
        assert refused.code == -4116
        path = "/fapi/v1/order"
        cancel = asyncio.create_task(
            client.signed("DELETE", path, symbol="BTCUSDT", origClientOrderId=name)
        )
        await asyncio.sleep(0.02)
        await client.advance(2)
        assert (await cancel).body["status"] == "CANCELED"
        second = await client.start_order(**resting, newClientOrderId=name)
        await client.advance(2)
        assert (await second).body["orderId"] > (await first).body["orderId"]
        newest = await client.signed("GET", path, symbol="BTCUSDT", origClientOrderId=name)
        assert newest.body["orderId"] == (await second).body["orderId"]
        gone = await client.signed(
            "GET", path, symbol="BTCUSDT", orderId=(await first).body["orderId"]
        )
        assert gone.body["status"] == "CANCELED"

    traded(opened, run)


def test_what_is_not_there_cannot_be_cancelled_or_asked_for(opened: Opened) -> None:
    async def run(client: Client) -> None:
        path, name = "/fapi/v1/order", {"symbol": "BTCUSDT", "origClientOrderId": "nobody"}
        assert (await client.signed("DELETE", path, **name)).code == -2011
        assert (await client.signed("GET", path, **name)).code == -2013
        assert (await client.signed("GET", path, symbol="BTCUSDT")).code == -1102
        answer = await client.signed("DELETE", "/fapi/v1/algoOrder", clientAlgoId="nobody")
        assert answer.code == -2011

    traded(opened, run)


def test_what_only_reduces_needs_something_to_reduce(opened: Opened) -> None:
    async def run(client: Client) -> None:
        order = await client.start_order(side="SELL", reduceOnly="true")
        await client.advance(2)
        assert (await order).code == -2022

    traded(opened, run)


def test_a_stop_fills_and_ends_its_target(opened: Opened) -> None:
    async def run(client: Client) -> None:
        await client.bought()
        heard = await client.listen_user()
        stop = await client.start_stop(triggerPrice="1000.0", clientAlgoId="far")
        near = await client.start_stop(triggerPrice=await near_below(client), clientAlgoId="near")
        target = await client.start_stop(
            type="TAKE_PROFIT_MARKET", triggerPrice="90000.0", clientAlgoId="target"
        )
        while not (stop.done() and near.done() and target.done()):
            await client.advance()
        opened_ = (await client.signed("GET", "/fapi/v1/openAlgoOrders")).body
        assert {one["clientAlgoId"] for one in opened_} == {"far", "near", "target"}
        for _ in range(400):
            await client.advance()
            if not (await client.control("GET", "accounts"))["main"]["positions"]:
                break
        states = [(one["o"]["caid"], one["o"]["X"]) for one in heard if one["e"] == "ALGO_UPDATE"]
        assert states[:3] == [("far", "NEW"), ("near", "NEW"), ("target", "NEW")]
        assert ("near", "TRIGGERED") in states
        assert ("near", "FINISHED") in states
        assert ("far", "CANCELED") in states
        assert ("target", "CANCELED") in states
        fill = next(one for one in heard if one["e"] == "ORDER_TRADE_UPDATE")
        assert fill["o"]["c"] == "near"
        assert fill["o"]["X"] == "FILLED"
        orders = (await client.signed("GET", "/fapi/v1/allOrders", symbol="BTCUSDT")).body
        assert [one["type"] for one in orders] == ["MARKET", "MARKET"]
        algos = (await client.signed("GET", "/fapi/v1/allAlgoOrders", symbol="BTCUSDT")).body
        assert {one["algoStatus"] for one in algos} == {"FINISHED", "CANCELED"}

    traded(opened, run)


async def near_below(client: Client) -> str:
    price = (await client.public("/fapi/v1/ticker/price", symbol="BTCUSDT")).body["price"]
    return f"{float(price) * 0.998:.1f}"


def test_a_stop_that_the_market_has_passed_is_refused(opened: Opened) -> None:
    async def run(client: Client) -> None:
        await client.bought()
        stop = await client.start_stop(triggerPrice="90000.0")
        while not stop.done():
            await client.advance()
        assert (await stop).code == -2021

    traded(opened, run)


def test_what_reduces_covers_no_more_than_is_held(opened: Opened) -> None:
    async def run(client: Client) -> None:
        await client.bought()
        heard = await client.listen_user()
        stop = await client.start_stop(quantity="0.030", triggerPrice=await near_below(client))
        while not stop.done():
            await client.advance()
        while (await client.control("GET", "accounts"))["main"]["positions"]:
            assert await client.advance()
        trade = next(one["o"] for one in heard if one["e"] == "ORDER_TRADE_UPDATE")
        assert (trade["q"], trade["z"], trade["X"]) == ("0.010", "0.010", "FILLED")

    traded(opened, run)


def test_fills_come_in_parts_that_add_up(opened: Opened) -> None:
    async def run(client: Client) -> None:
        heard = await client.listen_user()
        await client.bought()
        await eventually(lambda: len(heard) == 7)
        trades = [one["o"] for one in heard if one["e"] == "ORDER_TRADE_UPDATE"]
        trades = [one for one in trades if one["x"] == "TRADE"]
        assert [one["X"] for one in trades] == ["PARTIALLY_FILLED", "PARTIALLY_FILLED", "FILLED"]
        assert [one["l"] for one in trades] == ["0.004", "0.003", "0.003"]
        assert len({one["t"] for one in trades}) == 3
        fee = round(sum(float(one["n"]) for one in trades), 8)
        assert fee == commission(0.010, float(trades[0]["L"]), 5.0)

    traded(opened, run, fill_parts=3)


def test_a_market_order_takes_its_part_of_the_volume_unless_it_must_get_out(
    opened: Opened,
) -> None:
    async def run(client: Client) -> None:
        await client.until_bar()
        wanted = {"quantity": "400.000", "side": "SELL"}
        free = await client.start_order(**wanted)
        forced = await client.start_order(
            **wanted | {"side": "BUY"}, newClientOrderId="x-aHRE4BCj-RF1-F0sr2zd0-1qz0q9w"
        )
        while not (free.done() and forced.done()):
            await client.advance()
        path = "/fapi/v1/allOrders"
        first, second = (await client.signed("GET", path, symbol="BTCUSDT")).body
        assert first["status"] == "EXPIRED"
        assert 0.0 < float(first["executedQty"]) < 400.0
        assert (second["status"], float(second["executedQty"])) == ("FILLED", 400.0)

    rich = ExecutionConfig(**COSTS | {"starting_balance": 1e9})
    traded(opened, run, execution=rich)


def test_a_limit_can_be_amended(opened: Opened) -> None:
    async def run(client: Client) -> None:
        heard = await client.listen_user()
        order = await client.start_order(
            type="LIMIT", price="20000.0", timeInForce="GTC", newClientOrderId="rest"
        )
        while not order.done():
            await client.advance()
        change = asyncio.create_task(
            client.call(
                "order.modify",
                symbol="BTCUSDT",
                origClientOrderId="rest",
                side="BUY",
                quantity="0.020",
                price="21000.0",
            )
        )
        await asyncio.sleep(0.05)
        while not change.done():
            await client.advance()
        result = (await change)["result"]
        assert (result["price"], result["origQty"], result["status"]) == ("21000.0", "0.020", "NEW")
        assert [one["o"]["x"] for one in heard] == ["NEW", "AMENDMENT"]
        everything = (await client.signed("GET", "/fapi/v1/openOrders")).body
        assert [one["origQty"] for one in everything] == ["0.020"]
        await client.advance(4)
        cancel = asyncio.create_task(
            client.call("order.cancel", symbol="BTCUSDT", origClientOrderId="rest")
        )
        await asyncio.sleep(0.05)
        while not cancel.done():
            await client.advance()
        assert (await cancel)["result"]["status"] == "CANCELED"
        assert (await client.signed("GET", "/fapi/v1/openOrders")).body == []

    traded(opened, run)


def test_funding_is_paid_for_what_is_held(opened: Opened) -> None:
    async def run(client: Client) -> None:
        heard = await client.listen_user()
        await client.bought()
        while not any(
            one["e"] == "ACCOUNT_UPDATE" and one["a"]["m"] == "FUNDING_FEE" for one in heard
        ):
            assert await client.advance()
        income = (await client.signed("GET", "/fapi/v1/income", symbol="BTCUSDT")).body
        assert [one["incomeType"] for one in income] == ["FUNDING_FEE"]
        assert income[0]["time"] == START // 1_000_000 + 8 * 3_600_000
        account = (await client.control("GET", "accounts"))["main"]
        fee = float(
            (await client.signed("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")).body[0][
                "commission"
            ]
        )
        assert account["cash"] == pytest.approx(
            100_000.0 - fee + float(income[0]["income"]), abs=1e-8
        )

    traded(opened, run)


def test_what_equity_no_longer_carries_is_taken_away(opened: Opened) -> None:
    async def run(client: Client) -> None:
        heard = await client.listen_user()
        await client.signed("POST", "/fapi/v1/leverage", symbol="BTCUSDT", leverage=125)
        await client.until_bar()
        order = await client.start_order(quantity="1.000", newClientOrderId="F1-F0000000-0000000")
        while not order.done():
            await client.advance()
        assert (await order).status == 200, (await order).body
        for _ in range(800):
            if any(
                one["e"] == "ORDER_TRADE_UPDATE" and one["o"]["o"] == "LIQUIDATION" for one in heard
            ):
                break
            assert await client.advance(), "the market ended before it"
        closing = next(
            one["o"]
            for one in heard
            if one["e"] == "ORDER_TRADE_UPDATE" and one["o"]["o"] == "LIQUIDATION"
        )
        assert closing["c"].startswith("autoclose-")
        assert not (await client.control("GET", "accounts"))["main"]["positions"]

    poor = ExecutionConfig(**COSTS | {"starting_balance": 450.0, "leverage": 100.0})
    traded(opened, run, execution=poor)


def test_leverage_margin_and_position_mode(opened: Opened) -> None:
    async def run(client: Client) -> None:
        path = "/fapi/v1/leverage"
        assert (await client.signed("POST", path, symbol="BTCUSDT", leverage=126)).code == -4028
        assert (await client.signed("GET", "/fapi/v1/positionSide/dual")).body == {
            "dualSidePosition": False
        }
        await client.signed("POST", path, symbol="BTCUSDT", leverage=1)
        refused = await (await client.start_order(quantity="3.000"))
        assert refused.code == -2019
        risk = (await client.signed("GET", "/fapi/v2/positionRisk", symbol="BTCUSDT")).body[0]
        assert (risk["leverage"], risk["marginType"]) == ("1", "cross")
        path = "/fapi/v1/marginType"
        for kind, code in (("CROSSED", -4046), ("NONE", -4049), ("ISOLATED", None)):
            answer = await client.signed("POST", path, symbol="BTCUSDT", marginType=kind)
            assert answer.code == code
        risk = (await client.signed("GET", "/fapi/v2/positionRisk")).body
        assert [one["marginType"] for one in risk] == ["isolated", "cross"]
        rate = await client.signed("GET", "/fapi/v1/commissionRate", symbol="BTCUSDT")
        assert rate.body["takerCommissionRate"] == "0.000500"

    traded(opened, run)


def test_fees_may_be_charged_in_another_coin(opened: Opened) -> None:
    async def run(client: Client) -> None:
        await client.until_bar()
        order = await client.start_order()
        await client.advance()
        await order
        await client.advance()
        (trade,) = (await client.signed("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")).body
        fee = commission(0.010, float(trade["price"]), 5.0) / USDT_PER_BNB
        assert trade["commissionAsset"] == "BNB"
        assert float(trade["commission"]) == pytest.approx(fee, abs=1e-8)
        assert (await client.control("GET", "accounts"))["main"]["cash"] == 100_000.0
        account = _fill(trade)
        assert math.isnan(account.commission)

    traded(opened, run, fee_asset="BNB")
