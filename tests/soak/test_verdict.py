"""What the judges of a soak find, in books that are made up."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from live.engine_plan import plan_of
from live.engine_status import EngineStatus, PositionStatus
from tests.live.agreement import PREFIX, Books, Fill, Journalled, differences, truth
from tests.soak.verdict import compare_money, compare_positions


def event(name: str, trade: int, quantity: float, result: float, fee: float) -> dict[str, Any]:
    order = {"s": "BTCUSDT", "c": PREFIX + name, "x": "TRADE", "t": trade, "l": str(quantity)}
    order |= {"L": "100.0", "rp": str(result), "n": str(fee)}
    return {"e": "ORDER_TRADE_UPDATE", "o": order}


LINES: list[dict[str, Any]] = [
    {"do": "place", "order": {"client_id": f"{PREFIX}in"}},
    {"events": [event("in", 1, 2.0, 0.0, 0.1)]},
    {"do": "place", "order": {"client_id": f"{PREFIX}out"}},
    {"note": {"refused": f"{PREFIX}no"}},
]
ACCOUNT = {
    "orders": {
        f"{PREFIX}in": {"executed": 2.0, "open": False, "status": "FILLED"},
        f"{PREFIX}out": {"executed": 0.0, "open": True, "status": "NEW"},
    },
    "positions": {"BTCUSDT": [2.0, 100.0]},
    "income": {"BTCUSDT": -0.5},
    "cash": 99_999.4,
}


def journal() -> Books:
    return Books(
        {
            "in": Journalled("BTCUSDT", "closed", "FILLED", 2.0),
            "out": Journalled("BTCUSDT", "acknowledged", "ACCEPTED", 0.0),
            "no": Journalled("BTCUSDT", "closed", "CANCELED", 0.0),
            "gone": Journalled("BTCUSDT", "lost", "CANCELED", 0.0),
            "denied": Journalled("BTCUSDT", "closed", "DENIED", 0.0),
        },
        {"1": Fill("in", 2.0, 100.0)},
    )


def test_two_sides_that_agree() -> None:
    theirs, refused = truth(LINES)
    assert refused == {"no": 1}
    assert theirs.money == {"BTCUSDT": -0.1}
    assert differences(journal(), theirs, refused, ACCOUNT) == ()


@pytest.mark.parametrize(
    ("name", "order", "words"),
    [
        ("in", None, "in is at the exchange, in no journal"),
        ("in", Journalled("E", "closed", "FILLED", 1.0), "in: filled 1 here, 2 there"),
        ("in", Journalled("E", "sent", "SUBMITTED", 2.0), "in: sent here, FILLED there"),
        ("out", Journalled("E", "closed", "CANCELED", 0.0), "out: closed here, NEW there"),
        ("new", Journalled("E", "closed", "CANCELED", 0.0), "new is closed and was never at the"),
        ("new", Journalled("E", "sent", "REJECTED", 0.0), "new is sent and was never taken in"),
        ("new", Journalled("E", "closed", "REJECTED", 1.0), "new is closed and was never taken in"),
    ],
)
@pytest.mark.parametrize("with_log", [True, False])
def test_an_order_that_one_side_does_not_know_as_the_other_does(
    name: str, order: Journalled | None, words: str, with_log: bool
) -> None:
    theirs, refused = truth(LINES)
    ours = journal()
    ours.orders.pop(name, None)
    if order is not None:
        ours.orders[name] = order
    (told,) = differences(ours, theirs if with_log else None, refused, ACCOUNT)
    assert words in told


def test_trades_that_are_missing_strange_other_or_doubled() -> None:
    theirs, refused = truth([*LINES, LINES[0], LINES[1]])
    assert theirs.doubled == ["the exchange traded 1 twice", "in was accepted 2 times"]
    ours = journal()
    ours.fills = {"2": Fill("in", 2.0, 100.0)}
    found = differences(ours, truth(LINES)[0], refused, ACCOUNT)
    assert found == ("trade 1 of in is in no journal", "trade 2 of in never happened")
    ours.fills = {"1": Fill("in", 2.0, 100.1)}
    (told,) = differences(ours, truth(LINES)[0], refused, ACCOUNT)
    assert told.startswith("trade 1: ")


def test_money_and_positions() -> None:
    plan = plan_of(["BTCUSDT"], profile="p", bundle="b", mode="testnet", equity=1_000.0)
    held = {
        "BTCUSDT-PERP.BINANCE": PositionStatus(
            quantity=2.0, entry_price=100.0, mark=100.0, stop=98.0
        )
    }
    status = EngineStatus(engine="BTCUSDT", cash=999.4, positions=held)
    engines, theirs = {"BTCUSDT": status}, truth(LINES)[0]
    assert compare_positions(engines, ACCOUNT) == []
    assert compare_money(plan, theirs, engines, ACCOUNT) == []
    account = deepcopy(ACCOUNT)
    account["income"] = {}
    (told,) = compare_money(plan, theirs, engines, account)
    assert told.endswith("0.000000 by funding there: -0.500000")
    account = {**ACCOUNT, "cash": 99_999.3}
    (told,) = compare_money(plan, theirs, engines, account)
    assert told == "cash of all engines is +0.100000 USDT off the account's"
    bare = {
        "BTCUSDT": EngineStatus(engine="BTCUSDT", positions={"B": PositionStatus(quantity=1.5)})
    }
    found = compare_positions(bare, ACCOUNT)
    assert found == [
        "BTCUSDT: 1.5 held here, 2 there",
        "BTCUSDT: a position of 2 without its stop at the end",
    ]
