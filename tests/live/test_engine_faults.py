"""What an engine does when its exchange fails in each of the ways that exchanges do.

One engine that trades at most closes lives through all of them, one after the other; the last test
compares its journal with the exchange's books. Those that need an engine of their own are in
`test_engine.py` and `test_engine_lifecycle.py`; docs/live/exchange.md has the list.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from live.engine_status import EngineStatus
from tests.live.agreement import PREFIX
from tests.live.engine_world import ENGINE, EngineMarket, EngineProcess
from tests.live.test_engine import on, require_agreement

pytestmark = pytest.mark.slow
BAR_NS = 900_000_000_000
UNANSWERED_SECS = 8.0
"""After so long an order without an answer is one that somebody should have asked about."""


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

    def texts(self, *kinds: str) -> list[str]:
        """The lines of some kinds in its log."""
        return [one["text"] for one in self.engine.log(*kinds)]

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What its database has."""
        with closing(sqlite3.connect(self.engine.state / "engines" / ENGINE / "engine.db")) as db:
            return db.execute(query, values).fetchall()

    def kinds(self, kind: str) -> int:
        """How many orders of a kind (`strategies.order_ids`) are in its journal."""
        return sum(f"-{kind}" in name for name in self.engine.journal())

    def lost(self) -> int:
        """How many orders of its journal were given up."""
        return sum(state == "lost" for state, _, _ in self.engine.journal().values())

    def unanswered(self) -> list[str]:
        """Orders that have left long ago, and of which it knows nothing."""
        query = "SELECT client_order_id FROM orders WHERE state = 'sent' AND sent_ns < ?"
        return [one for (one,) in self.rows(query, time.time_ns() - int(UNANSWERED_SECS * 1e9))]

    def answers(self) -> int:
        """How often its account was asked and answered, in request weight."""
        return int(self.exchange.remote.state()["weight"].get("GET /fapi/v2/balance", 0))

    def traded(self, *, asks: bool = False) -> None:
        """Wait until it trades, is told of fills, and waits for no answer.

        With `asks`, until it has also been told of its account, which it asks for every 15 s.
        """
        fills, answers = self.status().counters.fills, self.answers()
        self.engine.until(
            lambda one: (
                one.state == "trading"
                and one.counters.fills > fills
                and not self.unanswered()
                and (not asks or self.answers() > answers)
            ),
            "it trades",
            90.0,
        )

    def booked_as_there(self) -> None:
        """Each order that has ended is booked with what the exchange has executed, once."""
        theirs = self.exchange.remote.accounts()["main"]["orders"]
        booked = dict(
            self.rows("SELECT client_order_id, sum(quantity) FROM fills GROUP BY client_order_id")
        )
        for name, (state, _, filled) in self.engine.journal().items():
            if state == "closed" and f"{PREFIX}{name}" in theirs:
                executed = theirs[f"{PREFIX}{name}"]["executed"]
                assert filled == executed, name
                assert booked.get(name, 0.0) == pytest.approx(executed, abs=1e-9), name

    def decided_in_order(self) -> None:
        """Each instrument was decided on once at a close, and closes came in order."""
        rows = self.rows("SELECT ts_init, instrument_id FROM decisions ORDER BY seq")
        assert len(set(rows)) == len(rows)
        assert [ts for ts, _ in rows] == sorted(ts for ts, _ in rows)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> EngineMarket:
    return EngineMarket.make(tmp_path_factory.mktemp("faults"), busy=True)


@pytest.fixture(scope="module")
def world(market: EngineMarket) -> Iterator[World]:
    """One for many faults."""
    with living(market, market.folder / "many") as found:
        yield found


@contextmanager
def living(market: EngineMarket, folder: Path) -> Iterator[World]:
    """An engine that trades at most closes, of which there is one a second."""
    # Each fill is followed by questions, and here there are hundreds of times as many a minute.
    with market.exchange("--weight-limit", "48000") as exchange:
        engine = EngineProcess(market, folder / "state", on(exchange))
        with engine:
            engine.until(lambda one: one.counters.fills > 0, "a fill")
            yield World(exchange, engine)


class Seen(NamedTuple):
    """What was there before a fault."""

    status: EngineStatus
    lines: int
    naked: int
    lost: int
    forced: int
    accepted: int


type Did = Callable[[Seen, EngineStatus, World], object]


class Case(NamedTuple):
    """A fault, and what the engine must have done about it."""

    fault: str
    details: dict[str, Any]
    did: Did
    cut: bool = False
    """Whether stops may come late: a position without its stop for two seconds is closed then."""
    asks: bool = False
    """Whether it is about the questions to its account."""


LINES = ("account", "reject", "state", "reconcile")


def _grew(*names: str) -> Did:
    """Counters that must have grown since."""

    def check(seen: Seen, now: EngineStatus, world: World) -> object:
        before = seen.status.counters
        return all(getattr(now.counters, one) > getattr(before, one) for one in names)

    return check


def _traded(seen: Seen, now: EngineStatus, world: World) -> object:
    return now.counters.fills > seen.status.counters.fills + 2


def _told(text: str, most: int = 1_000) -> Did:
    """Its log says something, not too often."""

    def check(seen: Seen, now: EngineStatus, world: World) -> object:
        return 0 < sum(text in one for one in world.texts(*LINES)[seen.lines :]) <= most

    return check


def _gave_up(seen: Seen, now: EngineStatus, world: World) -> object:
    return world.lost() > seen.lost


def _left(seen: Seen, now: EngineStatus, world: World) -> object:
    return world.kinds("F") > seen.forced


def _listens(seen: Seen, now: EngineStatus, world: World) -> object:
    """There is a new connection to the account, and one only."""
    connections = world.exchange.remote.state()["connections"]
    return connections["user"] == 1 and connections["accepted"] > seen.accepted


def _all(*checks: Did) -> Did:
    return lambda seen, now, world: all(one(seen, now, world) for one in checks)


CASES = {
    "asks its account ever less, and trades on what it is told (429)": Case(
        "rate_limit",
        {"seconds": 17.0, "retry_after": 1, "path": "balance"},
        _all(_told("429", most=4), _traded),
        asks=True,
    ),
    "asks no more while it is banned, and trades on what it is told (418)": Case(
        "ban",
        {"seconds": 17.0, "retry_after": 3, "path": "balance"},
        _all(_told("418", most=4), _traded),
        asks=True,
    ),
    "handles each bar once, in order, however slow the answers": Case(
        "slow", {"seconds": 8.0, "delay_s": 0.8}, _traded, cut=True
    ),
    "takes each bar once": Case(
        "duplicate", {"seconds": 5.0, "channel": "market"}, _grew("duplicate")
    ),
    "books each fill once": Case("duplicate", {"seconds": 5.0, "channel": "user"}, _traded),
    "puts bars in order": Case("reorder", {"seconds": 5.0, "channel": "market"}, _traded),
    "books what happens in another order": Case(
        "reorder", {"seconds": 5.0, "channel": "user"}, _traded
    ),
    "connects anew where an order had no answer, and learns what became of it": Case(
        "lost_answer", {"times": 2, "path": "order.place"}, _grew("reconnects")
    ),
    "connects anew, and is told of its account again (drop)": Case(
        "drop", {}, _all(_grew("reconnects"), _listens)
    ),
    "waits, and fetches what a silent stream keeps to itself": Case(
        "silence",
        {"seconds": 5.0, "channel": "market"},
        _all(_grew("gaps", "backfilled"), _told("trading -> waiting")),
    ),
    "leaves a position whose stop was refused": Case(
        "reject_stop", {"times": 1, "code": -2021}, _all(_grew("rejects"), _left)
    ),
    "takes a refused order for one that is not, and decides anew": Case(
        "reject_order", {"times": 2, "code": -2019}, _all(_grew("rejects"), _told("-2019"))
    ),
    "waits, connects anew, and fetches what it missed (maintenance)": Case(
        "maintenance", {"seconds": 3.0}, _all(_grew("reconnects", "backfilled"), _listens), cut=True
    ),
    "gives up orders that nobody answered once the exchange does not know them (5xx)": Case(
        "server_error", {"seconds": 3.0, "status": 502}, _gave_up, cut=True
    ),
    "gives up orders that went into a silent connection": Case(
        "silence", {"seconds": 6.0, "channel": "trading"}, _gave_up, cut=True
    ),
    "says that its orders are refused while its clock is ahead": Case(
        "clock_skew",
        {"seconds": 4.0, "skew_ms": -8_000},
        _all(_grew("rejects"), _told("-1021")),
        cut=True,
    ),
    "says that its orders are refused while its clock is behind": Case(
        "clock_skew",
        {"seconds": 4.0, "skew_ms": 8_000},
        _all(_grew("rejects"), _told("-1021")),
        cut=True,
    ),
}


ALONE = {
    "asks for fills that nobody tells it": Case(
        "silence", {"seconds": 6.0, "channel": "user"}, _traded, cut=True
    ),
    "listens again with a new key, once": Case("listen_key_expired", {}, _listens),
}
"""Faults in which fills may get lost on their way."""


@pytest.mark.parametrize("what", CASES)
def test_it(world: World, what: str) -> None:
    endure(world, CASES[what])


@pytest.mark.parametrize("what", ALONE)
def test_it_alone(market: EngineMarket, tmp_path: Path, what: str) -> None:
    with living(market, tmp_path) as world:
        endure(world, ALONE[what])
        world.exchange.remote.pause()
        # What is on its way, and the next comparison of books.
        time.sleep(18.0)
        world.booked_as_there()


def endure(world: World, case: Case) -> None:
    """Let a fault happen, and check what the engine does about it, and that it goes on."""
    world.traded()
    before = world.status()
    accepted = world.exchange.remote.state()["connections"]["accepted"]
    lines = len(world.texts(*LINES))
    naked = len(world.texts("naked"))
    seen = Seen(before, lines, naked, world.lost(), world.kinds("F"), accepted)
    lasting = {"seconds": 90.0} if case.cut else {}
    world.exchange.remote.fault(case.fault, **{**case.details, **lasting})
    if case.cut:
        # It must meet an entry or an exit: one that has been journalled since.
        sent = world.kinds("E") + world.kinds("X")
        world.engine.until(lambda _: world.kinds("E") + world.kinds("X") > sent, "an order")
    if "times" in case.details:
        world.engine.until(lambda one: case.did(seen, one, world), "what it does", 60.0)
    time.sleep(case.details.get("seconds", 0.0))
    world.exchange.remote.clear_faults()
    world.traded(asks=case.asks)
    deadline = time.monotonic() + 20.0
    while not case.did(seen, world.status(), world):
        assert time.monotonic() < deadline, (before, world.status(), world.texts(*LINES)[lines:])
        time.sleep(0.2)
    after = world.status()
    assert after.pid == before.pid
    assert world.texts("error") == []
    assert case.cut or len(world.texts("naked")) == naked, world.texts("naked")
    closes = (after.last_bar_ns - before.last_bar_ns) // BAR_NS
    # Of the next close some bars may be in already.
    assert abs(after.counters.bars - before.counters.bars - 3 * closes) <= 2
    world.decided_in_order()


def test_it_opens_nothing_while_neither_stream_nor_history_answers(world: World) -> None:
    # Both, because what a stream keeps to itself is fetched.
    world.traded()
    world.exchange.remote.fault("silence", seconds=8.0, channel="market")
    world.exchange.remote.fault("server_error", seconds=8.0, status=503, path="klines")
    world.engine.until(lambda one: one.state == "waiting", "waiting", 30.0)
    entries = world.kinds("E")
    time.sleep(2.0)
    assert world.kinds("E") == entries
    assert world.status().state == "waiting"
    world.exchange.remote.clear_faults()
    world.traded()


def test_at_the_end_journal_and_exchange_agree(world: World) -> None:
    world.exchange.remote.clear_faults()
    world.traded()
    world.exchange.remote.pause()
    # What is on its way, and the next comparison of books.
    time.sleep(18.0)
    world.booked_as_there()
    held = {name: one.quantity for name, one in world.status().positions.items()}
    assert world.engine.stop() == 0
    account = require_agreement(world.engine, world.exchange.remote)
    there = {f"{name}-PERP.BINANCE": one[0] for name, one in account["positions"].items()}
    assert held == there
