"""What the exchange knows against what the engines know, after a soak: order by order."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from live.engine_plan import load_plan
from tests.soak.fleet import Fleet, TruthTail

PREFIX = "x-aHRE4BCj-R"
"""What the compiled adapter puts before each of our names."""
_LIVE = frozenset({"NEW"})
_REFUSED = frozenset({"REJECTED", "DENIED"})


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
    """

    orders: dict[str, Any] = field(default_factory=dict)
    fills: dict[str, Fill] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)


class Audit(NamedTuple):
    """How many were compared, and every way in which the two sides differ."""

    orders: int
    fills: int
    refused: int
    differences: tuple[str, ...]


def journals(fleet: Fleet) -> Books:
    """Read the engines' databases."""
    found = Books()
    for name in fleet.market.symbols:
        path = fleet.state.engine(name) / "engine.db"
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
            name = _ours(line["order"]["client_id"])
            found.orders[name] = found.orders.get(name, 0) + 1
        if "refused" in line.get("note", ()):
            refused[_ours(line["note"]["refused"])] += 1
        for event in line.get("events", ()):
            order = event.get("o", {})
            if event["e"] == "ORDER_TRADE_UPDATE" and order["x"] == "TRADE":
                trade = str(order["t"])
                fill = Fill(_ours(order["c"]), float(order["l"]), float(order["L"]))
                if trade in found.fills:
                    found.doubled.append(f"the exchange traded {trade} twice")
                found.fills[trade] = fill
    found.doubled += [
        f"{name} was accepted {count} times" for name, count in found.orders.items() if count > 1
    ]
    return found, refused


def compare(
    ours: Books, theirs: Books, refused: Mapping[str, int], account: Mapping[str, Any]
) -> Audit:
    """Compare journals and truth order by order and trade by trade.

    Parameters
    ----------
    ours, theirs : Books
        Journals; truth log.
    refused : mapping of str to int
        How often the exchange refused a name.
    account : mapping
        What the exchange says of the account at the end (``GET /control/accounts``).
    """
    told = [*ours.doubled, *theirs.doubled]
    final = {_ours(name): one for name, one in account["orders"].items()}
    strange = sorted(theirs.orders.keys() - ours.orders.keys())
    told += [f"{name} is at the exchange and in no journal" for name in strange]
    for name, one in sorted(ours.orders.items()):
        if name not in theirs.orders:
            if one.status not in _REFUSED and one.state != "lost" and name not in refused:
                told.append(f"{one.engine}: {name} is {one.state} and was never at the exchange")
            elif one.filled or one.state in ("planned", "sent", "acknowledged"):
                told.append(f"{one.engine}: {name} is {one.state} and was never taken in")
            continue
        there = final[name]
        if one.filled != there["executed"]:
            told.append(f"{name}: filled {one.filled:g} here, {there['executed']:g} there")
        if (one.state in ("closed", "lost")) == there["open"]:
            told.append(f"{name}: {one.state} here, {there['status']} there")
    told += _compare_fills(ours.fills, theirs.fills)
    return Audit(len(theirs.orders), len(theirs.fills), sum(refused.values()), tuple(told))


def _compare_fills(ours: Mapping[str, Fill], theirs: Mapping[str, Fill]) -> list[str]:
    told = []
    for trade in sorted(ours.keys() | theirs.keys()):
        here, there = ours.get(trade), theirs.get(trade)
        if here is None and there is not None:
            told.append(f"trade {trade} of {there.order} is in no journal")
        elif there is None and here is not None:
            told.append(f"trade {trade} of {here.order} never happened")
        elif here != there:
            told.append(f"trade {trade}: {here} here, {there} there")
    return told


def compare_positions(
    fleet: Fleet, engines: Mapping[str, Any], account: Mapping[str, Any]
) -> list[str]:
    """Compare what engines and exchange hold, and the money that came of it."""
    told, plan = [], load_plan(fleet.market.plan)
    earned = 0.0
    for name, status in engines.items():
        here = sum(one.quantity for one in status.positions.values())
        there = account["positions"].get(name, [0.0])[0]
        if abs(here - there) > 1e-9:
            told.append(f"{name}: {here:g} held here, {there:g} there")
        if there and not all(one.stop for one in status.positions.values()):
            told.append(f"{name}: a position of {there:g} without its stop at the end")
        earned += (status.cash or 0.0) - (plan.equity_of(name) or 0.0)
    difference = 100_000.0 + earned - account["cash"]
    if abs(difference) > 1e-4:
        told.append(f"cash of all engines is {difference:+.6f} USDT off the account's")
    return told


class Naked(NamedTuple):
    """A position without its stop: symbol, when it began and ended (monotonic seconds)."""

    symbol: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.begin


def naked_times(tail: TruthTail, until: float) -> list[Naked]:
    """Return every stretch of time in which the exchange held a position without a stop."""
    held: dict[str, float] = {}
    stops: dict[str, set[int]] = defaultdict(set)
    since: dict[str, float] = {}
    found = []
    for when, line in tail.lines:
        touched = set()
        for event in line.get("events", ()):
            touched |= _take(event, held, stops)
        for symbol in touched:
            bare = bool(held.get(symbol)) and not stops[symbol]
            if bare:
                since.setdefault(symbol, when)
            elif symbol in since:
                found.append(Naked(symbol, since.pop(symbol), when))
    return found + [Naked(symbol, begin, until) for symbol, begin in since.items()]


def _take(event: Mapping[str, Any], held: dict[str, float], stops: dict[str, set[int]]) -> set[str]:
    if event["e"] == "ACCOUNT_UPDATE":
        for one in event["a"]["P"]:
            held[one["s"]] = float(one["pa"])
        return {one["s"] for one in event["a"]["P"]}
    if event["e"] == "ALGO_UPDATE" and event["o"]["o"] == "STOP_MARKET":
        order = event["o"]
        (stops[order["s"]].add if order["X"] in _LIVE else stops[order["s"]].discard)(order["aid"])
        return {order["s"]}
    return set()


def log_kinds(folder: Path) -> Counter[str]:
    """Count the lines of the engines' logs by kind."""
    found: Counter[str] = Counter()
    for path in sorted(folder.glob("engine-*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            found[json.loads(text)["kind"]] += 1
    return found


def _ours(name: str) -> str:
    return name.removeprefix(PREFIX)
