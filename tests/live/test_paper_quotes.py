"""When what is sent to a paper exchange arrives: with quotes, by the clock, or in a silence."""

from __future__ import annotations

from typing import Any

from nautilus_trader.model import InstrumentId, Price, Quantity, QuoteTick

from live.paper_book import PaperAccept, PaperBook, PaperFill, PaperOrder
from live.paper_quotes import LatePaper, PaperQuotes, Quiet
from strategies.execution import InstrumentTerms
from tests.strategies.markets import BTC, flat_bars, make_inputs
from tests.strategies.settings import plain_execution

MS = 1_000_000
SECOND = 1_000 * MS
TICK = 20 * MS


class World:
    """A paper exchange beside a feed, and a clock on the wall."""

    def __init__(self, *, played: bool) -> None:
        inputs = make_inputs(flat_bars(2, 100.0))
        terms = {str(one.id): InstrumentTerms.of(one) for one in inputs.instruments}
        self.book = PaperBook(terms, plain_execution(latency_ms=50))
        self.wall = 0
        self.told: list[Any] = []
        paper = LatePaper()
        paper.client = self  # type: ignore[assignment]
        seen = [].append if played else None
        failed = [].append
        self.quotes = PaperQuotes(inputs.instruments, paper, lambda: self.wall, seen, failed)
        self.quotes._quiet = Quiet(lambda: self.wall)

    def on_record(self, quote: Any) -> None:
        self.told += self.book.on_time(quote.ts_init)
        self.told += self.book.on_quote(BTC, float(quote.bid_price), quote.ts_init)

    def on_clock(self, ts: int) -> None:
        self.told += self.book.on_time(ts + 1)

    def next_due(self) -> int:
        return self.book.next_arrival()

    def quote(self, ts: int) -> None:
        sides = (Price(100.0, 1), Price(100.0, 1), Quantity(1.0, 3), Quantity(1.0, 3))
        self.quotes.on_quote(QuoteTick(InstrumentId.from_str(BTC), *sides, ts, ts))

    def stop(self, ts: int) -> None:
        """Buy at a time, and send the stop when that is filled."""
        self.book.submit(PaperOrder("E", BTC, 1, 1.0, None, False), ts)
        self.quote(ts + 50 * MS)
        assert isinstance(self.told.pop(), PaperFill)
        self.book.submit(PaperOrder("S", BTC, -1, 1.0, 99.0, True), ts + 50 * MS)

    def look(self, nanos: int) -> None:
        """Let time pass on the wall, and look at each tick of it."""
        for _ in range(nanos // TICK):
            self.wall += TICK
            self.quotes._on_timer(None)


def test_between_two_quotes_of_played_data_a_stop_arrives_within_half_a_second() -> None:
    world = World(played=True)
    world.stop(900 * SECOND)
    world.look(SECOND // 4)
    assert world.told == []
    world.look(SECOND // 2)
    (accepted,) = world.told
    assert isinstance(accepted, PaperAccept)
    assert accepted.ts_event == 900 * SECOND + 100 * MS
    world.look(SECOND)
    assert world.told == [accepted]


def test_while_quotes_come_played_data_alone_say_how_late_it_is() -> None:
    world = World(played=True)
    world.stop(900 * SECOND)
    for number in range(5):
        world.look(SECOND // 4)
        world.quote(900 * SECOND + (50 + number) * MS)
    # Looked at late: what has come meanwhile was not seen yet.
    world.wall += 10 * SECOND
    world.look(SECOND // 4)
    assert world.told == []


def test_a_market_of_now_lives_by_the_clock() -> None:
    world = World(played=False)
    world.stop(0)
    world.look(80 * MS)
    assert world.told == []
    world.look(40 * MS)
    assert [type(one) for one in world.told] == [PaperAccept]
