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
from live.account_watch import (
    AFTER_FILL_SECS,
    LEAST_PAUSE_SECS,
    MOST_PAUSE_SECS,
    PERIOD_SECS,
    AccountWatch,
)
from live.silent_orders import ASK_SECS, GIVE_UP_SECS, SILENT_SECS, Silence
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
        self.cache = SimpleNamespace(order=lambda name: None)
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
            store=SimpleNamespace(
                read=lambda section: None, order=lambda name: None, write=lambda *all_: None
            ),
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
        world.until_asked()
        # What the exchange knows of it is wanted soon; what it does not know may be on its way.
        assert world.until_asked() < ASK_SECS + 1.5
        began = world.clock
        while not world.strategy.did:
            world.tick()
        assert SILENT_SECS - ASK_SECS - 1.5 < world.clock - began < SILENT_SECS < PERIOD_SECS
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
        while world.clock < 1_000.0 + SILENT_SECS + 2.0:
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
        # It is an exit that has ended: once more soon.
        world.until_asked()
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


def filled(name: str, side: int = 1) -> AccountOrder:
    return AccountOrder(name, "7", BTC, side, 1.0, 1.0, 100.0, "MARKET", "FILLED")


def tell_trades(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have reports tell a trade, and have it booked as the strategy does."""
    monkeypatch.setattr(
        account_watch,
        "report_of",
        lambda _, one: OrderReport(
            one.client_order_id, one.status, (TradeReport("7", 1, one.filled, 100.0, 0.02),)
        ),
    )

    def recovered(report: OrderReport) -> None:
        row = world.rows[report.client_order_id]
        row.status, row.filled_quantity = report.status, report.trades[0].quantity
        world.parts.recorder.fills.append(object())
        world.strategy.did.append((report.status, report.client_order_id))

    world.strategy.recovered = recovered


@pytest.mark.parametrize("status", ["SUBMITTED", "ACCEPTED"])
def test_a_market_order_whose_fill_nobody_tells_is_asked_for_after_seconds(
    play: Any, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    with play(order(ENTRY, status)) as world:
        tell_trades(world, monkeypatch)
        world.until_asked()
        world.known = {ENTRY: filled(ENTRY)}
        while not world.strategy.did:
            world.tick()
        assert world.clock < 1_000.0 + AFTER_FILL_SECS + ASK_SECS + 1.5
        assert world.strategy.did == [("FILLED", ENTRY)]


def test_an_order_that_ended_in_part_is_booked_once_its_trades_are_listed(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = AccountOrder(ENTRY, "7", BTC, 1, 1.0, 0.4, 100.0, "MARKET", "EXPIRED")
    trades: list[tuple[TradeReport, ...]] = [()]
    monkeypatch.setattr(
        account_watch, "report_of", lambda _, one: OrderReport(ENTRY, "EXPIRED", trades[0])
    )
    with play(order(ENTRY), known={ENTRY: ended}) as world:
        asked_after_silence(world)
        world.tick()
        assert world.strategy.did == []
        trades[0] = (TradeReport("7", 1, 0.4, 100.0, 0.02),)
        assert world.until_asked() < 2.0
        world.tick()
        assert world.strategy.did == [("EXPIRED", ENTRY)]
    # Trades that an exchange lists no more are not waited for without an end.
    trades[0] = ()
    with play(order(ENTRY), known={ENTRY: ended}) as world:
        while not world.strategy.did:
            assert world.clock < 1_100.0
            world.tick()
        assert world.clock > 1_000.0 + account_watch.LISTED_SECS


def test_what_a_stop_has_traded_is_booked_before_anything_else_is_made_of_it(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[object] = []
    monkeypatch.setattr(account_watch, "follow", lambda *all_: followed.append(all_))
    row = order(STOP, "SUBMITTED", "STOP_MARKET")
    with play(row, held=1.0) as world:
        tell_trades(world, monkeypatch)
        # Gone at the exchange, where nothing is held; our books hold 1, and have no answer to it.
        world.state = lambda instruments: AccountState(1_000.0, (), ())
        world.until_asked()
        world.tick()
        row.status = "ACCEPTED"
        world.known = {STOP: filled(STOP, -1)}
        world.until_asked()
        world.tick()
        # At once, and neither the order nor the position needs to be seen twice.
        assert world.strategy.did == [("FILLED", STOP)]
        assert followed == []


def test_what_an_order_has_filled_further_is_nobody_elses(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = AccountOrder(ENTRY, "7", BTC, 1, 1.0, 0.5, 100.0, "LIMIT", "PARTIALLY_FILLED")
    row = order(ENTRY, "ACCEPTED", "LIMIT")
    with play(row, there=(half,), known={ENTRY: half}) as world:
        tell_trades(world, monkeypatch)
        held = (HeldPosition(BTC, 0.5, 100.0),)
        world.state = lambda instruments: AccountState(1_000.0, held, (half,))
        world.until_asked()
        world.until_asked()
        world.tick()
        assert world.strategy.did == [("PARTIALLY_FILLED", ENTRY)]
        assert world.watch.found == []
        assert world.watch.foreign() == {}


def test_a_stop_that_is_gone_without_a_word_is_told_and_booked_at_once(play: Any) -> None:
    row = order(STOP, "ACCEPTED", "STOP_MARKET")
    gone = AccountOrder(STOP, "7", BTC, -1, 1.0, 0.0, 0.0, "STOP_MARKET", "CANCELED")
    with play(row, held=1.0, known={STOP: gone}) as world:
        world.until_asked()
        world.tick()
        assert world.strategy.did == [("CANCELED", STOP)]
        assert world.told == [f"order {STOP} is CANCELED at the exchange, and nobody had told"]


def test_an_exit_that_ended_by_itself_has_the_account_asked_at_once(play: Any) -> None:
    stop, own = order(STOP, "ACCEPTED", "STOP_MARKET"), order(EXIT, "ACCEPTED", "STOP_MARKET")
    own.ts_cancel = 7
    there = (resting(STOP), resting(EXIT))
    with play(stop, own, held=2.0, there=there) as world:
        world.strategy.wanted = {STOP, EXIT}
        world.until_asked()
        own.status = "CANCELED"
        world.there = (resting(STOP, 2.0),)
        assert world.until_asked() > 5.0
        stop.status = "CANCELED"
        assert world.until_asked() <= AFTER_FILL_SECS + 0.5


def test_exits_that_are_refused_again_and_again_do_not_put_the_comparison_off(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[object] = []
    monkeypatch.setattr(account_watch, "follow", lambda *all_: followed.append(all_))
    with play(held=1.0) as world:
        # A person has closed the position.
        world.state = lambda instruments: AccountState(1_000.0, (), ())
        while not followed:
            name = f"L1-F{len(world.rows)}-b"
            world.rows[name] = order(name, "REJECTED")
            world.tick()
            assert world.clock < 1_005.0


def test_a_stream_that_tells_of_no_trade_is_found_silent(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with play(order(ENTRY)) as world:
        cut: list[float] = []
        world.watch.stream._renew = lambda: cut.append(world.clock)
        tell_trades(world, monkeypatch)
        for number in range(2):
            name = f"L1-E{number}-b"
            world.rows[name] = order(name)
            world.known = {name: filled(name)}
            for _ in range(80):
                world.tick()
            assert world.rows[name].status == "FILLED"
            assert len(cut) == number
        assert "L1-E1-b" in world.watch.stream.fault
        told = [one for one in world.told if "stream" in one]
        assert ["L1-E0-b" in told[0], len(told)] == [True, 2]
        # It has told of a fill by itself.
        world.parts.recorder.fills.append(object())
        world.tick()
        assert world.watch.stream.refused() is None
