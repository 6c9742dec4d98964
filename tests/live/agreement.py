"""Whether engines and their exchange know the same: order by order, trade by trade, and the money.

One comparison for whoever runs engines on the test exchange: a test of one engine takes what the
exchange says of its account at the end, a soak also what its truth log says of the way there.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

PREFIX = "x-aHRE4BCj-R"
"""What the compiled adapter puts before each of our names."""
_REFUSED = frozenset({"REJECTED", "DENIED"})
_UNSENT = frozenset({"planned", "sent", "acknowledged"})


class Journalled(NamedTuple):
    """An order in an engine's journal."""

    engine: str
    state: str
    status: str
    filled: float


class Fill(NamedTuple):
    """A trade, as either side knows it."""

    order: str
    quantity: float
    price: float


@dataclass
class Books:
    """What one side knows.

    Parameters
    ----------
    orders : dict
        By our name.
    fills : dict of Fill
        By trade.
    doubled : list of str
        What is there more than once.
    money : dict of float
        What trades came to after their fees, USDT, by symbol.
    """

    orders: dict[str, Any] = field(default_factory=dict)
    fills: dict[str, Fill] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)
    money: dict[str, float] = field(default_factory=dict)


def journals(databases: Mapping[str, Path]) -> Books:
    """Read the databases of engines, by their names."""
    found = Books()
    for name, path in databases.items():
        with closing(sqlite3.connect(path)) as db:
            rows = db.execute("SELECT client_order_id, state, status, filled_quantity FROM orders")
            for client_id, *rest in rows:
                if client_id in found.orders:
                    found.doubled.append(f"{client_id} is in two journals")
                found.orders[client_id] = Journalled(name, *rest)
            rows = db.execute("SELECT trade_id, client_order_id, quantity, price FROM fills")
            for trade, *rest in rows:
                if trade in found.fills:
                    found.doubled.append(f"trade {trade} was booked twice")
                found.fills[trade] = Fill(*rest)
    return found


def truth(lines: Iterable[Mapping[str, Any]]) -> tuple[Books, dict[str, int]]:
    """Read the exchange's log: orders placed by how often, trades; and refusals by name."""
    found, refused = Books(), Counter[str]()
    for line in lines:
        if line.get("do") == "place":
            name = ours(line["order"]["client_id"])
            found.orders[name] = found.orders.get(name, 0) + 1
        if "refused" in line.get("note", ()):
            refused[ours(line["note"]["refused"])] += 1
        for event in line.get("events", ()):
            order = event.get("o", {})
            if event["e"] == "ORDER_TRADE_UPDATE" and order["x"] == "TRADE":
                _trade(found, order)
    found.doubled += [
        f"{name} was accepted {count} times" for name, count in found.orders.items() if count > 1
    ]
    return found, refused


def _trade(found: Books, order: Mapping[str, Any]) -> None:
    trade, symbol = str(order["t"]), order["s"]
    if trade in found.fills:
        found.doubled.append(f"the exchange traded {trade} twice")
    found.fills[trade] = Fill(ours(order["c"]), float(order["l"]), float(order["L"]))
    result = float(order["rp"]) - float(order["n"])
    found.money[symbol] = found.money.get(symbol, 0.0) + result


def differences(
    here: Books,
    there: Books | None,
    refused: Mapping[str, int],
    account: Mapping[str, Any],
) -> tuple[str, ...]:
    """Return, in words, everything that journals and exchange do not both know.

    Every order of the exchange is in one journal, once, with the same outcome. Every order of a
    journal was taken in, refused or given up.

    Parameters
    ----------
    here : Books
        Journals.
    there : Books or None
        The truth log; None: what the account says at the end has to do.
    refused : mapping of str to int
        How often the exchange refused a name.
    account : mapping
        What the exchange says of the account at the end (``GET /control/accounts``).
    """
    final = {ours(name): one for name, one in account["orders"].items()}
    taken = {name for name, one in account["orders"].items() if name.startswith(PREFIX)}
    theirs = {*map(ours, taken)} if there is None else {*there.orders}
    told = [*here.doubled, *(() if there is None else there.doubled)]
    told += [
        f"{name} is at the exchange, in no journal" for name in sorted(theirs - {*here.orders})
    ]
    for name, one in sorted(here.orders.items()):
        if name in theirs:
            told += _order(name, one, final[name])
        elif one.status not in _REFUSED and one.state != "lost" and name not in refused:
            told.append(f"{one.engine}: {name} is {one.state} and was never at the exchange")
        elif one.filled or one.state in _UNSENT:
            told.append(f"{one.engine}: {name} is {one.state} and was never taken in")
    if there is not None:
        told += _fills(here.fills, there.fills)
    return tuple(told)


def _order(name: str, one: Journalled, there: Mapping[str, Any]) -> list[str]:
    told = []
    if one.filled != there["executed"]:
        told.append(f"{name}: filled {one.filled:g} here, {there['executed']:g} there")
    if (one.state in ("closed", "lost")) == there["open"]:
        told.append(f"{name}: {one.state} here, {there['status']} there")
    return told


def _fills(here: Mapping[str, Fill], there: Mapping[str, Fill]) -> list[str]:
    told = []
    for trade in sorted(here.keys() | there.keys()):
        mine, theirs = here.get(trade), there.get(trade)
        if mine is None and theirs is not None:
            told.append(f"trade {trade} of {theirs.order} is in no journal")
        elif theirs is None and mine is not None:
            told.append(f"trade {trade} of {mine.order} never happened")
        elif mine != theirs:
            told.append(f"trade {trade}: {mine} here, {theirs} there")
    return told


def ours(name: str) -> str:
    """Return our name of an order, without what the adapter puts before it."""
    return name.removeprefix(PREFIX)
