"""What an engine does when its exchange fails in each of the ways that exchanges do.

One engine lives through all of them, one after the other; the last test compares its journal with
the exchange's books. Those that need an engine of their own are in `test_engine.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from live.engine_status import EngineStatus
from tests.live.engine_world import EngineMarket, EngineProcess
from tests.live.test_engine import on, require_agreement

pytestmark = pytest.mark.slow


@dataclass
class World:
    """One exchange and one engine."""

    exchange: Any
    engine: EngineProcess

    def status(self) -> EngineStatus:
        """What the engine said last."""
        found = self.engine.status()
        assert found is not None, self.engine.output()
        return found

    def lines(self, *kinds: str) -> int:
        """How many lines of some kinds its log has."""
        return len(self.engine.log(*kinds))

    def traded(self, bars: int) -> None:
        """Wait until it trades, with so many further bars."""
        seen = self.status().counters.bars
        self.engine.until(
            lambda one: one.state == "trading" and one.counters.bars >= seen + bars, "more bars"
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An engine that trades often."""
    folder = tmp_path_factory.mktemp("faults")
    market = EngineMarket.make(folder)
    with market.exchange() as exchange:
        engine = EngineProcess(market, folder / "state", on(exchange))
        with engine:
            engine.until(lambda one: one.counters.fills > 0, "a fill")
            yield World(exchange, engine)


type Did = Callable[[EngineStatus, EngineStatus, World], object]


class Case(NamedTuple):
    """A fault, and what the engine must have done about it."""

    fault: str
    details: dict[str, Any]
    did: Did


def _reconnected(before: EngineStatus, after: EngineStatus, world: World) -> object:
    return after.counters.reconnects > before.counters.reconnects


def _fetched(before: EngineStatus, after: EngineStatus, world: World) -> object:
    return after.counters.backfilled > before.counters.backfilled


def _nothing_twice(before: EngineStatus, after: EngineStatus, world: World) -> object:
    return after.counters.duplicate > before.counters.duplicate


def _complete(before: EngineStatus, after: EngineStatus, world: World) -> object:
    """Every bar has been handled: as many closes as time has passed."""
    closes = (after.last_bar_ns - before.last_bar_ns) // 900_000_000_000
    return closes and after.counters.bars - before.counters.bars >= 3 * closes


def _said(text: str) -> Did:
    def check(before: EngineStatus, after: EngineStatus, world: World) -> object:
        return any(text in one["text"] for one in world.engine.log("account", "reject", "waiting"))

    return check


CASES = {
    "asks its account less, and says that it was told to (429)": Case(
        "rate_limit", {"seconds": 17.0, "retry_after": 1, "path": "balance"}, _said("429")
    ),
    "asks no more while it is banned, and trades on its streams (418)": Case(
        "ban", {"seconds": 17.0, "retry_after": 3, "path": "balance"}, _said("418")
    ),
    "tries again later (5xx)": Case("server_error", {"seconds": 3.0, "status": 502}, _complete),
    "handles every bar in order, however slow the answers": Case(
        "slow", {"seconds": 4.0, "delay_s": 0.8}, _complete
    ),
    "takes each bar once": Case("duplicate", {"seconds": 5.0, "channel": "market"}, _nothing_twice),
    "books each fill once": Case("duplicate", {"seconds": 5.0, "channel": "user"}, _complete),
    "puts bars in order": Case("reorder", {"seconds": 5.0, "channel": "market"}, _complete),
    "puts up with what happens in another order": Case(
        "reorder", {"seconds": 5.0, "channel": "user"}, _complete
    ),
    "learns what became of an order without an answer": Case(
        "lost_answer", {"times": 2, "path": "rder"}, _complete
    ),
    "connects anew, and fetches the bars that it missed": Case("drop", {}, _reconnected),
    "fetches what a silent stream keeps to itself": Case(
        "silence", {"seconds": 5.0, "channel": "market"}, _fetched
    ),
    "is told of fills again with a new listen key": Case("listen_key_expired", {}, _complete),
    "trades again when the exchange is back": Case("maintenance", {"seconds": 3.0}, _reconnected),
    "sets its clock by the exchange's (ahead)": Case(
        "clock_skew", {"seconds": 4.0, "skew_ms": 8_000}, _complete
    ),
    "sets its clock by the exchange's (behind)": Case(
        "clock_skew", {"seconds": 4.0, "skew_ms": -8_000}, _complete
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_it(world: World, what: str) -> None:
    case, before = CASES[what], world.status()
    world.exchange.remote.fault(case.fault, **case.details)
    time.sleep(case.details.get("seconds", 0.0) + 1.0)
    world.exchange.remote.clear_faults()
    world.traded(5)
    deadline = time.monotonic() + 20.0
    while not case.did(before, world.status(), world):
        assert time.monotonic() < deadline, (before.counters, world.status().counters)
        time.sleep(0.2)
    assert world.status().pid == before.pid
    assert world.lines("error") == 0, world.engine.log("error")


def test_it_opens_nothing_while_neither_stream_nor_history_answers(world: World) -> None:
    # Both, because what a stream keeps to itself is fetched.
    world.exchange.remote.fault("silence", seconds=8.0, channel="market")
    world.exchange.remote.fault("server_error", seconds=8.0, status=503)
    world.engine.until(lambda one: one.state == "waiting", "waiting", 30.0)
    orders = world.status().counters.orders
    time.sleep(1.0)
    assert world.status().counters.orders == orders
    world.exchange.remote.clear_faults()
    world.traded(5)


def test_at_the_end_journal_and_exchange_agree(world: World) -> None:
    world.exchange.remote.clear_faults()
    world.traded(3)
    world.exchange.remote.pause()
    # What is on its way, and the next comparison of books.
    time.sleep(18.0)
    held = {name: one.quantity for name, one in world.status().positions.items()}
    assert world.engine.stop() == 0
    account = require_agreement(world.engine, world.exchange.remote)
    there = {f"{name}-PERP.BINANCE": one[0] for name, one in account["positions"].items()}
    assert held == there
