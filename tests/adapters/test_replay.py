from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import Any, Self

import pytest
from nautilus_trader.model import (
    Bar,
    BarType,
    CryptoPerpetual,
    Currency,
    InstrumentId,
    OrderSide,
    Price,
    Quantity,
    Symbol,
)
from nautilus_trader.trading import Strategy, StrategyConfig

from adapters.replay import ReplayConfig, ReplayFeed, ReplaySession
from catalog.errors import DataError, RunFailedError
from live.node import fence_answer, run_node
from live.paper import PaperWiring
from tests.strategies.settings import plain_execution

MINUTE = 60 * 10**9
START = 1_700_000_000 * 10**9 // MINUTE * MINUTE
USDT = Currency.from_str("USDT")


def instrument(symbol: str) -> CryptoPerpetual:
    return CryptoPerpetual(
        InstrumentId.from_str(f"{symbol}USDT-PERP.BINANCE"),
        Symbol(f"{symbol}USDT"),
        Currency.from_str(symbol),
        USDT,
        USDT,
        False,
        1,
        3,
        Price.from_str("0.1"),
        Quantity.from_str("0.001"),
        0,
        0,
    )


BTC, ETH = instrument("BTC"), instrument("ETH")


def bar_type(one: CryptoPerpetual) -> BarType:
    return BarType.from_str(f"{one.id}-1-MINUTE-LAST-EXTERNAL")


def bars(size: int) -> list[Bar]:
    records = []
    for row in range(size):
        for one in (BTC, ETH):
            ts = START + row * MINUTE
            prices = [Price(100 + row, 1)] * 4
            records.append(Bar(bar_type(one), *prices, Quantity(1, 3), ts, ts))
    return records


class Toy(Strategy):
    """Send an order on every bar and note the replay's time of everything."""

    def __new__(cls, *arguments: Any) -> Self:
        return super().__new__(cls)

    def __init__(
        self, session: ReplaySession, subscribed: tuple[CryptoPerpetual, ...] = (BTC, ETH)
    ) -> None:
        super().__init__(StrategyConfig(order_id_tag="TOY"))
        self.session = session
        self.subscribed = subscribed
        self.seen: list[tuple[int, int]] = []
        self.known: list[bool] = []

    def on_start(self) -> None:
        self.known = [self.cache.instrument(one.id) is not None for one in (BTC, ETH)]
        for one in self.subscribed:
            self.subscribe_bars(bar_type(one))

    def on_bar(self, bar: Bar) -> None:
        self.seen.append((bar.ts_init, self.session.now))
        self.react(bar)

    def react(self, bar: Bar) -> None:
        identity = bar.bar_type.instrument_id
        order = self.order_factory.market(identity, OrderSide.BUY, Quantity(0.001, 3))
        self.submit_order(order)


class Raising(Toy):
    def react(self, bar: Bar) -> None:
        if len(self.seen) == 5:
            raise ValueError("planted in a callback")


def session_of(records: list[Bar], timeout_secs: float = 10.0, **arguments: Any) -> ReplaySession:
    feed = ReplayFeed("BINANCE", (BTC, ETH), records)
    return ReplaySession(feed, ReplayConfig(timeout_secs=timeout_secs), **arguments)


def wiring(session: ReplaySession, **changes: Any) -> PaperWiring:
    arguments: dict[str, Any] = {
        "venue": "BINANCE",
        "account_id": "BINANCE-001",
        "instruments": (BTC, ETH),
        "execution": plain_execution(
            maker_fee_bps=2,
            taker_fee_bps=5,
            latency_ms=100,
            slippage_bps=0,
            funding="none",
            starting_balance=10_000,
            leverage=1,
        ),
        "now": lambda: session.now,
        "note_reference": lambda name, price: None,
        "on_error": session.fail,
        "on_account_query": lambda parameters: fence_answer(session, parameters),
    }
    return PaperWiring(**{**arguments, **changes})


def test_every_record_is_handled_at_its_own_time_and_every_order_arrives_before_the_next() -> None:
    reported: list[tuple[str, int, int]] = []
    session = session_of(bars(300), progress=lambda *state: reported.append(state))
    toy = Toy(session)
    sent: list[int] = []
    client = run_node(session, wiring(session, now=lambda: _note(sent, session.now)), [], [toy])
    assert session.finished
    assert session.failure is None
    assert toy.known == [True, True]
    assert len(toy.seen) == 600
    assert all(ts == now for ts, now in toy.seen)
    assert client.received == 600
    # Between the stamp of the first account and that of the end, two orders a timestamp arrive
    # while the replay still stands at it.
    assert sent[1:-1] == [START + row * MINUTE for row in range(300) for _ in (BTC, ETH)]
    assert reported[-1][1:] == (600, 600)


def _note(where: list[int], now: int) -> int:
    where.append(now)
    return now


def test_a_pace_is_kept_from_where_it_begins() -> None:
    config = ReplayConfig(speed=60 * 20, paced_from=START + 295 * MINUTE)
    session = ReplaySession(ReplayFeed("BINANCE", (BTC, ETH), bars(300)), config)
    stamps: list[float] = []

    class Timed(Toy):
        def react(self, bar: Bar) -> None:
            stamps.append(time.monotonic())

    run_node(session, wiring(session), [], [Timed(session)])
    assert session.finished
    # Four of 300 minutes are paced, twenty a second; all of them would take 15 s.
    assert stamps[-1] - stamps[2 * 295] >= 0.2
    assert stamps[2 * 295] - stamps[0] < 7.5


def test_an_exception_in_a_callback_stops_the_replay() -> None:
    # The node takes a tenth of a second to stop, in which a short replay would come to its end.
    session = session_of(bars(6_000))
    toy = Raising(session)
    run_node(session, wiring(session), [], [toy])
    assert not session.finished
    assert isinstance(session.failure, RunFailedError)
    assert "must run to the end of the replay, stopped at 2023-11-1" in str(session.failure)


def test_a_data_task_that_dies_ends_the_replay_with_its_own_error() -> None:
    session = session_of(bars(50))

    def acts_on(record: Any) -> bool:
        if record.ts_init == START + 7 * MINUTE:
            raise OSError("planted in the data task")
        return False

    def created_venue(parameters: dict[str, Any]) -> None:
        assert session.venue is not None
        session.venue.acts_on = acts_on  # type: ignore[method-assign]
        fence_answer(session, parameters)

    run_node(session, wiring(session, on_account_query=created_venue), [], [Toy(session)])
    assert not session.finished
    with pytest.raises(OSError, match="planted in the data task"):
        raise session.failure or AssertionError
    assert session.now == START + 7 * MINUTE


def test_an_execution_hook_that_dies_ends_the_replay_with_its_own_error() -> None:
    session = session_of(bars(50))

    def now() -> int:
        if session.now == START + 3 * MINUTE:
            raise KeyError("planted in a hook")
        return session.now

    run_node(session, wiring(session, now=now), [], [Toy(session)])
    with pytest.raises(KeyError, match="planted in a hook"):
        raise session.failure or AssertionError


def test_a_lost_answer_times_out_and_says_what_was_waited_for() -> None:
    session = session_of(bars(50), timeout_secs=0.3)

    def answer(parameters: dict[str, Any]) -> None:
        if parameters["replay_fence"] < 4:
            fence_answer(session, parameters)

    run_node(session, wiring(session, on_account_query=answer), [], [Toy(session)])
    assert isinstance(session.failure, RunFailedError)
    text = str(session.failure)
    assert "must be answered within 0.3 s, but was still waiting" in text
    assert "the 2 records and events up to 2023-11-14 22:14:00" in text
    assert "(fence 4)" in text


def test_a_subscription_to_an_instrument_that_is_not_replayed_fails() -> None:
    session = session_of(bars(5))
    run_node(session, wiring(session), [], [Toy(session, (BTC, instrument("XRP")))])
    with pytest.raises(DataError, match=r"one of the replay's .* was XRPUSDT-PERP.BINANCE"):
        raise session.failure or AssertionError


def test_nodes_can_run_one_after_another_in_a_process_also_after_a_failure() -> None:
    counts = []
    for kind in (Toy, Raising, Toy):
        session = session_of(bars(3_000 if kind is Raising else 20))
        toy = kind(session)
        run_node(session, wiring(session), [], [toy])
        counts.append(len(toy.seen))
    assert counts[0] == counts[2] == 40
    assert counts[1] < 6_000


def test_the_listener_hears_of_every_timestamp_once_and_after_its_records() -> None:
    session = session_of(bars(30))
    toy = Toy(session)
    heard: list[tuple[int, int]] = []
    session.on_timestamp = lambda ts: heard.append((ts, len(toy.seen)))
    run_node(session, wiring(session), [], [toy])
    assert heard == [(START + row * MINUTE, 2 * (row + 1)) for row in range(30)]


def test_a_feed_without_records_is_refused() -> None:
    with pytest.raises(DataError, match="must have at least one record, had none"):
        session_of([])


def test_a_feed_whose_clock_runs_backwards_is_refused() -> None:
    records = bars(5)
    with pytest.raises(DataError, match="must not decrease, was 2023-11-14 22:13:00 in record 3"):
        session_of([records[0], records[2], records[4], records[1]])


def test_the_failure_that_came_first_is_kept() -> None:
    session = session_of(bars(2))
    session.fail(ValueError("first"))
    session.fail(ValueError("second"))
    assert str(session.failure) == "first"


def test_a_late_answer_to_an_old_fence_does_not_release_a_newer_one() -> None:
    session = session_of(bars(3), timeout_secs=0.05)
    session.venue = _Idle()
    session.subscribed.add(Bar)
    answers: list[int] = []

    def emit(data: Any) -> None:
        if hasattr(data, "data"):
            answers.append(data.data.number)
            # Only the first fence is answered, again and again.
            session.fence_arrived(1)

    with pytest.raises(RunFailedError, match=r"\(fence 2\)"):
        asyncio.run(session.run(emit))
    assert answers == [1, 2]


class _Idle:
    emitted = 0

    def acts_on(self, record: Any) -> bool:
        return False

    def on_record(self, record: Any) -> None:
        assert Decimal(str(record.close)) > 0

    def next_due(self) -> int:
        return 1 << 62

    def on_clock(self, ts: int) -> None:
        raise AssertionError("nothing is ever due")

    def finish(self) -> None:
        raise AssertionError("the replay never comes to its end")
