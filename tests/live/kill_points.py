"""Kill a live strategy with SIGKILL at statements around journal and sending, one after the other.

Run as a program: ``python -m tests.live.kill_points POINTS SEED``. Its parent process is the
exchange, which lives on; each life of the strategy is a forked child with a database of its own,
killed when it comes to a statement of what journals, sends and recovers for the n-th time, n drawn
at random. Afterwards another life goes on to the end of the records, and what the exchange has seen
and what the journal holds must be what they are without a death.

Printed at the end, as JSON: how many statements there are and were tried (0 points: each of them),
what went wrong, how long a life took from its start until it was trading again (seconds).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from live.recovery import RecoveryConfig
from strategies.order_reports import OrderReport, TradeReport
from tests.live.kept_world import PAPER, BookExchange, Life, Setting, records_of, story
from tests.strategies.markets import BTC, ETH, make_predictor, wild
from tests.strategies.settings import plain_execution, trailing_policy

ROOT = Path(__file__).parents[2]
EVERY: tuple[str, ...] = ()
STATEMENTS = {
    "strategies/outbox.py": EVERY,
    "live/state_store.py": EVERY,
    "live/sqlite_file.py": EVERY,
    "live/recovery.py": EVERY,
    "strategies/order_desk.py": ("_submit", "leave", "recall", "cancel", "withdraw", "protect"),
    "strategies/kept.py": (
        *("recovered", "lost", "send_again", "take_back_strays", "restore"),
        *("on_order_filled", "_take_trade", "_book", "_status", "call"),
    ),
}
"""Modules in which is killed, and their functions; none for all of them."""
FUNCTIONS = {str(ROOT / path): names for path, names in STATEMENTS.items()}
BARS = 8

type Point = tuple[str, int, int]
"""Where is killed: module, line, and for which time it comes there."""


def setting() -> Setting:
    """Return a short market in which positions are opened, trailed, turned and closed."""
    inputs, signals = wild(7, BARS)
    policy = trailing_policy(entry_threshold=0.55)
    return Setting(inputs, lambda: make_predictor(signals, (BTC, ETH)), policy, plain_execution())


class PipeExchange:
    """The exchange as the child sees it: one line of JSON out, one in."""

    def __init__(self, end: socket.socket) -> None:
        self._file = end.makefile("rw")
        self.now = self._ask("now")

    def _ask(self, what: str, value: Any = None) -> Any:
        self._file.write(json.dumps([what, value]) + "\n")
        self._file.flush()
        return json.loads(self._file.readline())

    def submit(self, order: dict[str, Any]) -> None:
        self._ask("submit", order)

    def cancel(self, client_order_id: str) -> None:
        self._ask("cancel", client_order_id)

    def advance(self, number: int) -> list[dict[str, Any]]:
        told, self.now = self._ask("advance", number)
        return list(told)

    def lookup(self, client_order_id: str) -> OrderReport | None:
        found = self._ask("lookup", client_order_id)
        if found is None:
            return None
        trades = tuple(TradeReport(*one) for one in found.pop("trades"))
        return OrderReport(trades=trades, **found)

    def trading(self, ready: float) -> None:
        self._ask("trading", ready)


def serve(exchange: BookExchange, end: socket.socket, ready: list[float]) -> None:
    """Answer a child until it is gone."""
    with end, end.makefile("rw") as file:
        while line := file.readline():
            if not line.endswith("\n"):
                return
            what, value = json.loads(line)
            try:
                file.write(json.dumps(answer(exchange, what, value, ready)) + "\n")
                file.flush()
            except (BrokenPipeError, ConnectionResetError):
                return


def answer(exchange: BookExchange, what: str, value: Any, ready: list[float]) -> Any:
    """Do what is asked."""
    if what == "now":
        return exchange.now
    if what == "advance":
        return exchange.advance(value), exchange.now
    if what == "trading":
        ready.append(value)
        return None
    if what == "lookup":
        report = exchange.lookup(value)
        if report is None:
            return None
        trades = [
            (one.trade_id, one.ts_event, one.quantity, one.price, one.commission, one.liquidity)
            for one in report.trades
        ]
        return {
            "client_order_id": value,
            "status": report.status,
            "trades": trades,
            "ts_event": report.ts_event,
            "detail": report.detail,
        }
    getattr(exchange, what)(value)
    return None


class Trace:
    """Counts how often each statement is come to, and kills at one of them."""

    def __init__(self, kill_at: Point | None) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()
        self._kill_at = kill_at

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        code = frame.f_code
        functions = FUNCTIONS.get(code.co_filename)
        if functions is None or (functions and code.co_name not in functions):
            return None
        if event == "line":
            place = (code.co_filename, frame.f_lineno)
            self.counts[place] += 1
            if (*place, self.counts[place]) == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def live(
    market: Setting, end: socket.socket, path: Path, kill_at: Point | None, config: RecoveryConfig
) -> None:
    """Be the child: one life."""
    started = time.monotonic()
    exchange = PipeExchange(end)
    trace = Trace(kill_at)
    sys.settrace(trace)
    life = Life(market, records_of(market), exchange, path)
    life.trading = lambda: exchange.trading(time.monotonic() - started)
    life.run(config)
    sys.settrace(None)
    told = story(life, exchange, life.recorder.ledger.closed)  # type: ignore[arg-type]
    path.with_suffix(".json").write_text(
        json.dumps(
            {
                "orders": told.orders,
                "fills": told.fills,
                "decisions": told.decisions,
                "cash": told.cash,
                "positions": {name: one.quantity for name, one in told.positions.items()},
                "counts": [(*place, count) for place, count in trace.counts.items()],
                "errors": life.recorder.errors,
            }
        )
    )
    life.close()


def lives(
    market: Setting, kills: list[Point], config: RecoveryConfig, ready: list[float]
) -> tuple[BookExchange, dict[str, Any]]:
    """Live with deaths at these statements, then to the end; return exchange and journal."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    exchange = BookExchange(market, records_of(market))
    path = folder / "engine.db"
    try:
        for kill_at in (*kills, None):
            ours, theirs = socket.socketpair()
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    ours.close()
                    live(market, theirs, path, kill_at, config)
                    code = 0
                finally:
                    os._exit(code)
            theirs.close()
            serve(exchange, ours, ready)
            _, status = os.waitpid(child, 0)
            if os.WIFEXITED(status):
                if os.WEXITSTATUS(status) != 0:
                    raise RuntimeError(f"a life failed after deaths at {kills}")
                break
        return exchange, json.loads(path.with_suffix(".json").read_text())
    finally:
        shutil.rmtree(folder)


def faults(
    first: tuple[BookExchange, dict[str, Any]], other: tuple[BookExchange, dict[str, Any]]
) -> list[str]:
    """Return in which way two histories differ."""
    found = []
    exchange, told = other
    if exchange.twice:
        found.append(f"sent twice: {exchange.twice}")
    if exchange.truth != first[0].truth:
        found.append("the exchange saw something else")
    compared = ("orders", "fills", "decisions", "cash", "positions")
    found += [f"{key} differ" for key in compared if told[key] != first[1][key]]
    return found + told["errors"]


def careful_faults(exchange: BookExchange, told: dict[str, Any]) -> list[str]:
    """Return what is wrong where an order that was sent and is unknown is given up."""
    found = [f"sent twice: {exchange.twice}"] if exchange.twice else []
    journal = {one[0]: one for one in told["orders"]}
    # Columns of the journal without its state: name, instrument, ..., status, filled, detail.
    sent = [one[1] for one in exchange.truth if one[0] == "order"]
    if unknown := [one for one in sent if one not in journal]:
        found.append(f"not in the journal: {unknown}")
    for name, report in exchange.reports.items():
        filled = round(sum(one[2] for one in report["trades"]), 9)
        if journal[name][-2] != filled:
            found.append(f"{name}: filled {filled}, journal {journal[name][-2]}")
    held = {name: one.quantity for name, one in exchange.book.ledger.positions.items()}
    if held != told["positions"]:
        found.append(f"held {held}, books {told['positions']}")
    stops = {one.instrument_id for one in exchange.book.open_orders() if one.trigger is not None}
    if set(held) - stops:
        found.append(f"without a stop: {set(held) - stops}")
    return found + told["errors"]


def main(points: int, seed: int) -> None:
    """Kill at so many statements, at every other one twice, and print what came of it."""
    market, draw, ready = setting(), random.Random(seed), []
    first = lives(market, [], PAPER, ready)
    # What recovers is come to in a second life only.
    a_death = [place for place in first[1]["counts"] if place[0].endswith("outbox.py")]
    middle = max(a_death, key=lambda one: one[2])
    second = lives(market, [(middle[0], middle[1], middle[2] // 2)], PAPER, ready)
    known = {tuple(one[:2]): (0, one[2]) for one in first[1]["counts"]}
    later = {tuple(one[:2]): (1, one[2]) for one in second[1]["counts"]}
    places = sorted((later | known).items())
    tried = places if points == 0 else draw.sample(places, points)
    wrong: dict[str, list[str]] = {}
    careful = RecoveryConfig(in_flight_secs=0.001, fresh_secs=1e9)
    for number, (place, (life, count)) in enumerate(tried):
        point = (*place, draw.randint(1, count))
        other, (_, most) = draw.choice(places)
        before = (*middle[:2], draw.randint(1, middle[2]))
        kills = [before, point] if life else [point]
        if number % 2:
            kills.append((*other, draw.randint(1, most)))
        bad = faults(first, lives(market, kills, PAPER, ready))
        if number % 4 == 0:
            bad += careful_faults(*lives(market, kills, careful, ready))
        if bad:
            wrong[str(kills)] = bad
    print(
        json.dumps(
            {
                "statements": len(places),
                "points": len(tried),
                "orders": len(first[1]["orders"]),
                "trades": len(first[1]["fills"]),
                "wrong": wrong,
                "slowest_secs": max(ready),
            }
        )
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # No thread of ours runs at a fork.
    main(int(sys.argv[1]), int(sys.argv[2]))
