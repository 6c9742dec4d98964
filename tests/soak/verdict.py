"""What the exchange knows against what the engines know, after a soak: order by order."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from live.engine_plan import FleetPlan, load_plan
from tests.live.agreement import Books, differences, journals, truth
from tests.soak.fleet import Fleet, TruthTail

_MONEY, _MONEY_OF_ALL = 1e-5, 1e-4
"""USDT: each booking is rounded to 1e-8, and the two sides divide trades differently."""
_LIVE = frozenset({"NEW"})
_START = 100_000.0
"""What the account of the test exchange begins with, USDT."""


class Audit(NamedTuple):
    """How many were compared, and every way in which the two sides differ."""

    orders: int
    fills: int
    refused: int
    differences: tuple[str, ...]


def compare(
    fleet: Fleet, tail: TruthTail, engines: Mapping[str, Any], account: Mapping[str, Any]
) -> Audit:
    """Compare what all engines know with what the exchange knows.

    Parameters
    ----------
    fleet : Fleet
        Whose journals; all its engines have ended.
    tail : TruthTail
        What the exchange wrote down.
    engines : mapping of str to EngineStatus
        What they said last.
    account : mapping
        What the exchange says of the account at the end (``GET /control/accounts``).
    """
    here = journals({name: fleet.state.engine(name) / "engine.db" for name in engines})
    there, refused = truth(line for _, line in tail.lines)
    told = (
        *differences(here, there, refused, account),
        *compare_positions(engines, account),
        *compare_money(load_plan(fleet.market.plan), there, engines, account),
    )
    return Audit(len(there.orders), len(there.fills), sum(refused.values()), told)


def compare_positions(engines: Mapping[str, Any], account: Mapping[str, Any]) -> list[str]:
    """Compare what engines and exchange hold."""
    told = []
    for name, status in engines.items():
        here = sum(one.quantity for one in status.positions.values())
        there = account["positions"].get(name, [0.0])[0]
        if abs(here - there) > 1e-9:
            told.append(f"{name}: {here:g} held here, {there:g} there")
        if there and not all(one.stop for one in status.positions.values()):
            told.append(f"{name}: a position of {there:g} without its stop at the end")
    return told


def compare_money(
    plan: FleetPlan, there: Books, engines: Mapping[str, Any], account: Mapping[str, Any]
) -> list[str]:
    """Compare what engines and exchange say was earned, engine by engine and altogether."""
    told, total = [], 0.0
    for name, status in engines.items():
        earned = (status.cash or 0.0) - (plan.equity_of(name) or 0.0)
        total += earned
        traded, paid = there.money.get(name, 0.0), account["income"].get(name, 0.0)
        off = earned - traded - paid
        if abs(off) > _MONEY:
            told.append(
                f"{name}: earned {earned:.6f} USDT here; {traded:.6f} by trades and {paid:.6f} by "
                f"funding there: {off:+.6f}"
            )
    off = _START + total - account["cash"]
    if abs(off) > _MONEY_OF_ALL:
        told.append(f"cash of all engines is {off:+.6f} USDT off the account's")
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
