"""The account is asked again and again: less where it says so, soon where orders are silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.accounts import AccountOrder, AccountState, HeldPosition
from adapters.errors import AdapterError, TooManyRequestsError
from live import account_watch
from live.account_watch import LEAST_PAUSE_SECS, MOST_PAUSE_SECS, PERIOD_SECS, AccountWatch
from live.silent_orders import GIVE_UP_SECS, SILENT_SECS, Silence
from strategies.kept import UNANSWERED
from strategies.order_reports import OrderReport, TradeReport
from strategies.recorder import OrderRow

BTC = "BTCUSDT-PERP.BINANCE"
ENTRY, EXIT, STOP = "L1-E1-b", "L1-F1-b", "L1-S1-b"


def order(name: str, status: str = "SUBMITTED", type_: str = "MARKET") -> OrderRow:
    side = 1 if name == ENTRY else -1
    row = OrderRow(name, 1, BTC, side, 1.0, "test", type_, reduce_only=name != ENTRY)  # type: ignore[arg-type]
    row.status = status
    return row


def resting(name: str, quantity: float = 1.0, type_: str = "STOP_MARKET") -> AccountOrder:
    return AccountOrder(name, "7", BTC, -1, quantity, 0.0, 0.0, type_, "ACCEPTED")


class Strategy:
    """What of a strategy an `AccountWatch` touches."""

    def __init__(self, rows: dict[str, OrderRow]) -> None:
        self.rows = rows
        self.did: list[tuple[str, str]] = []
        self.inferred: set[str] | None = None
        self.unanswered: set[str] = set()
        self.unsent: set[str] = set()
        self.wanted: set[str] = set()
        self.outbox = SimpleNamespace(unsent=lambda: self.unsent)
        self.protection = SimpleNamespace(wanted=lambda: self.wanted)
        terms = SimpleNamespace(step=0.001)
        self.desk = SimpleNamespace(silent=set(), states={BTC: SimpleNamespace(terms=terms)})
        rejects = self.did
        self.guard = SimpleNamespace(on_reject=lambda ts, why: rejects.append(("reject", why)))

    def alive(self) -> list[OrderRow]:
        return [one for one in self.rows.values() if one.status in ("SUBMITTED", "ACCEPTED")]

    def recovered(self, report: OrderReport) -> None:
        self.did.append((report.status, report.client_order_id))
        self.rows[report.client_order_id].status = report.status

    def lost(self, name: str, ts: int) -> None:
        self.did.append(("lost", name))
        self.rows[name].status = "CANCELED"


@dataclass
class World:
    """An `AccountWatch` whose account and clock the test moves."""

    rows: dict[str, OrderRow] = field(default_factory=dict)
    held: float = 0.0
    there: tuple[AccountOrder, ...] = ()
    known: dict[str, AccountOrder] = field(default_factory=dict)
    fails: Exception | None = None
    clock: float = 1_000.0
    told: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    watch: Any = None
    strategy: Any = None

    def __post_init__(self) -> None:
        self.strategy = Strategy(self.rows)
        position = SimpleNamespace(quantity=self.held)
        ledger = SimpleNamespace(
            positions={BTC: position} if self.held else {}, quantity=lambda name: self.held
        )
        self.parts: Any = SimpleNamespace(
            store=SimpleNamespace(read=lambda section: None, order=lambda name: None),
            recorder=SimpleNamespace(fills=[], orders=self.rows, ledger=ledger),
            strategy=self.strategy,
            prepared=SimpleNamespace(policy=SimpleNamespace(exit_rules=object())),
            request=SimpleNamespace(traded=(BTC,), order_tag="L1", claims=False),
        )

    # ---- the account

    def state(self, instruments: object) -> AccountState:
        if self.fails is not None:
            raise self.fails
        held = (HeldPosition(BTC, self.held, 100.0),) if self.held else ()
        return AccountState(1_000.0, held, self.there)

    def lookup(self, name: str, instrument_id: str) -> AccountOrder | None:
        return self.known.get(name)

    def fills(self, one: AccountOrder) -> tuple[Any, ...]:
        return ()

    def cancel(self, one: AccountOrder) -> None:
        self.cancelled.append(one.client_order_id)
        self.rows[one.client_order_id].status = "CANCELED"
        self.there = tuple(other for other in self.there if other != one)

    # ---- time

    def questions(self) -> int:
        count: int = self.watch.asked + self.watch.failures
        return count

    def tick(self, secs: float = 0.25) -> bool:
        """Let time pass, look once, and return whether a question was put and answered."""
        self.clock += secs
        before = self.questions()
        self.watch.look(0)
        if not self.watch._busy:
            return self.questions() > before
        until(lambda: not self.watch._busy)
        return True

    def until_asked(self, most: float = 200.0) -> float:
        """Let time pass until a question has been answered; return how long that took."""
        began = self.clock
        while not self.tick():
            assert self.clock - began < most, "never asked"
        return self.clock - began


def until(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10.0
    while not what() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert what()


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    @contextmanager
    def play(*rows: OrderRow, **settings: Any) -> Iterator[World]:
        world = World({one.client_order_id: one for one in rows}, **settings)
        monkeypatch.setattr(account_watch, "time", SimpleNamespace(monotonic=lambda: world.clock))
        teller: Any = SimpleNamespace(event=lambda kind, text, **_: world.told.append(text))
        world.watch = AccountWatch(
            world.parts,
            world,  # type: ignore[arg-type]
            lambda: 5,
            teller,
            world.cancel,
        )
        world.watch.start()
        try:
            yield world
        finally:
            world.watch.close()

    return play


def test_who_is_told_to_ask_less_asks_with_growing_pauses(play: Any) -> None:
    with play(fails=TooManyRequestsError("banned")) as world:
        pauses = []
        for _ in range(8):
            world.until_asked()
            pauses.append(world.watch._pause)
            # A fill asks at once, but not of one who has just refused.
            world.parts.recorder.fills.append(object())
        assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0]
        assert (pauses[0], pauses[-1]) == (LEAST_PAUSE_SECS, MOST_PAUSE_SECS)
        assert world.clock - 1_000.0 >= sum(pauses[:-1])
        world.fails = TooManyRequestsError("banned", 300.0)
        world.until_asked()
        assert world.until_asked(400.0) >= 300.0


def test_an_account_that_cannot_be_reached_is_asked_every_two_seconds(play: Any) -> None:
    with play(fails=AdapterError("connection refused")) as world:
        world.until_asked()
        waits = [world.until_asked() for _ in range(40)]
        assert max(waits) <= LEAST_PAUSE_SECS + 0.5
        # It is told that it still does not answer, but not each time.
        assert 2 <= len(world.told) <= 4
        world.fails = None
        assert world.until_asked() <= LEAST_PAUSE_SECS + 0.5
        assert world.until_asked() >= PERIOD_SECS


def test_an_answer_that_makes_no_sense_does_not_end_the_questions(play: Any) -> None:
    with play(fails=TypeError("string indices must be integers")) as world:
        world.until_asked()
        world.until_asked()
        assert world.watch.failures == 2


def asked_after_silence(world: World) -> float:
    """Let the first question pass, and return when the silent order was asked for."""
    world.until_asked()
    return world.until_asked()


@pytest.mark.parametrize("name", [EXIT, STOP])
def test_an_exit_that_the_exchange_does_not_know_is_given_up_after_seconds(
    play: Any, name: str
) -> None:
    with play(order(name)) as world:
        waited = asked_after_silence(world)
        assert SILENT_SECS - 2.0 < waited < SILENT_SECS + 1.5 < PERIOD_SECS
        world.tick()
        assert world.strategy.did == [("lost", name)]
        assert "the exchange does not know it" in world.told[0]


def test_an_exit_without_an_answer_is_not_given_up_while_nobody_can_be_asked(play: Any) -> None:
    with play(order(EXIT)) as world:
        world.fails = AdapterError("connection refused")
        while world.clock < 1_000.0 + GIVE_UP_SECS - 2.0:
            world.tick()
        assert world.strategy.did == []
        world.fails = None
        # Back within seconds.
        assert world.until_asked() <= LEAST_PAUSE_SECS + 0.5
        world.tick()
        assert world.strategy.did == [("lost", EXIT)]


def test_an_exit_is_given_up_in_the_end_where_the_account_never_answers(play: Any) -> None:
    with play(order(EXIT), order(STOP, type_="STOP_MARKET")) as world:
        world.fails = AdapterError("forbidden")
        while world.clock < 1_000.0 + GIVE_UP_SECS + 2.0:
            world.tick()
        # The stop may rest there: another beside it would be one too many.
        assert world.strategy.did == [("lost", EXIT)]


@pytest.mark.parametrize("status", ["ACCEPTED", "FILLED", "CANCELED"])
def test_what_the_exchange_knows_of_a_silent_exit_is_booked(play: Any, status: str) -> None:
    found = AccountOrder(EXIT, "7", BTC, -1, 1.0, 0.0, 0.0, "MARKET", status)
    with play(order(EXIT), known={EXIT: found}) as world:
        asked_after_silence(world)
        world.tick()
        assert world.strategy.did == [(status, EXIT)]


def test_a_stop_that_rests_counts_as_accepted_though_nobody_said_so(play: Any) -> None:
    with play(order(STOP, type_="STOP_MARKET"), held=1.0, there=(resting(STOP),)) as world:
        world.strategy.wanted = {STOP}
        world.until_asked()
        world.tick()
        # At once: without it the position would be taken for naked, and closed.
        assert world.strategy.did == [("ACCEPTED", STOP)]
        assert world.clock < 1_000.0 + 2.0
        world.until_asked()
        assert world.cancelled == []


def test_what_has_not_left_yet_is_not_silent(play: Any) -> None:
    with play(order(EXIT)) as world:
        world.strategy.unsent = {EXIT}
        world.until_asked()
        assert world.until_asked() >= PERIOD_SECS
        world.tick()
        assert world.strategy.did == []


def test_an_entry_is_given_up_only_after_the_engine_has_given_it_up(play: Any) -> None:
    with play(order(ENTRY)) as world:
        asked_after_silence(world)
        world.tick()
        assert world.strategy.did == []
        # But it keeps no exit of its instrument back.
        assert world.strategy.desk.silent == {ENTRY}
        world.strategy.unanswered.add(ENTRY)
        world.until_asked()
        world.tick()
        assert world.strategy.did == [("lost", ENTRY), ("reject", UNANSWERED)]
        assert world.strategy.unanswered == set()


@pytest.mark.parametrize("given_up", [False, True])
def test_what_a_silent_entry_has_traded_is_booked_once_its_trades_are_told(
    play: Any, monkeypatch: pytest.MonkeyPatch, given_up: bool
) -> None:
    filled = AccountOrder(ENTRY, "7", BTC, 1, 1.0, 1.0, 100.0, "MARKET", "FILLED")
    trades: list[tuple[TradeReport, ...]] = [()]
    monkeypatch.setattr(
        account_watch, "report_of", lambda _, one: OrderReport(ENTRY, "FILLED", trades[0])
    )
    with play(order(ENTRY), known={ENTRY: filled}) as world:
        booked: list[tuple[TradeReport, ...]] = []

        def recovered(report: OrderReport) -> None:
            # A fill ends the order, not the word of it.
            if report.trades:
                booked.append(report.trades)
                world.rows[ENTRY].status = "FILLED"

        world.strategy.recovered = recovered
        if given_up:
            world.strategy.unanswered.add(ENTRY)
        asked_after_silence(world)
        world.tick()
        assert booked == []
        trades[0] = (TradeReport("7", 1, 1.0, 100.0, 0.02),)
        assert world.until_asked() < 2.0
        world.tick()
        assert booked == [trades[0]]
        assert world.strategy.unanswered == set()
        assert world.strategy.did == []


def test_a_stop_that_the_engine_gave_up_and_that_rests_is_replaced_and_taken_back(
    play: Any,
) -> None:
    row = order(STOP, "ACCEPTED", "STOP_MARKET")
    with play(row, there=(resting(STOP),)) as world:
        world.strategy.wanted = {STOP}
        world.strategy.unanswered.add(STOP)

        def lost(name: str, ts: int) -> None:
            row.status = "CANCELED"
            world.strategy.wanted = set()
            world.strategy.did.append(("lost", name))

        world.strategy.lost = lost
        world.strategy.recovered = lambda report: None
        while not world.cancelled:
            world.until_asked()
            assert world.clock < 1_030.0
        assert world.strategy.did == [("lost", STOP)]
        assert world.cancelled == [STOP]


def test_a_stop_of_a_position_that_is_gone_is_taken_back_once_seen_twice(play: Any) -> None:
    with play(order(STOP, "ACCEPTED", "STOP_MARKET"), there=(resting(STOP),)) as world:
        world.until_asked()
        world.until_asked()
        assert world.cancelled == []
        assert world.until_asked() < 2.0
        assert world.cancelled == [STOP]
        assert world.until_asked() >= PERIOD_SECS - 0.5


def test_an_order_with_our_mark_that_no_journal_knows_is_told_and_left_alone(play: Any) -> None:
    with play(there=(resting("L1-S9-b"), resting("web_1"))) as world:
        for _ in range(4):
            world.until_asked()
        world.tick()
        assert world.cancelled == []
        # Told once, and not asked for every second from then on.
        assert world.until_asked() >= PERIOD_SECS - 0.5
        (told,) = [one for one in world.told if "L1-S9-b" in one]
        assert "not in our journal, left alone: cancel it there" in told


@pytest.mark.parametrize(("quantity", "short"), [(1.0, False), (0.999, True), (0.0, False)])
def test_a_stop_that_is_too_small_at_the_exchange_does_not_count(
    play: Any, quantity: float, short: bool
) -> None:
    row = order(STOP, "ACCEPTED", "STOP_MARKET")
    with play(row, held=1.0, there=(resting(STOP, quantity),)) as world:
        world.strategy.wanted = {STOP}
        world.until_asked()
        world.tick()
        # Once is not enough: books and answer may be of different moments.
        assert world.watch.uncovered() == frozenset()
        world.until_asked()
        world.tick()
        assert world.watch.uncovered() == ({BTC} if short else frozenset())


def test_silence_begins_anew_with_each_word() -> None:
    silence = Silence(6.0)
    assert silence.look(0.0, ["A", "B"]) == frozenset()
    assert silence.look(6.0, ["A"]) == frozenset()
    assert silence.look(6.1, ["A", "B"]) == {"A"}
    assert silence.look(12.1, ["B"]) == frozenset()
    assert silence.look(12.2, ["B"]) == {"B"}
