"""A live node on the market feed, with an exchange whose time, stream and history a script plays.

The exchange has its own time, which only the script moves, so hours pass in a blink. It stamps bars
a millisecond before their close, streams funding that is only expected, and gives its history in
pages, the unfinished bar included, as the reference venue does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from nautilus_trader.config import DataClientConfig
from nautilus_trader.live import BarsResponse, ClientCache, FundingRatesResponse
from nautilus_trader.live.clients import DataClientFactory, MarketDataClient
from nautilus_trader.model import (
    Bar,
    FundingRateUpdate,
    InstrumentId,
    Price,
    Quantity,
    QuoteTick,
    Venue,
)

from catalog.arrays import BarArrays, SeriesArrays
from catalog.instruments import bar_type, instrument
from live.bar_gate import BarSet
from live.feed_delivery import Receivers
from live.history import StoredHistory
from live.market_feed import FeedConfig, FeedWiring, MarketFeed
from live.node import run_feed
from live.paper import PaperExecutionClient, PaperWiring
from research.predictor import Predictor
from strategies.execution import ExecutionConfig
from strategies.fusion import FusionPolicy, FusionStrategy, StrategySettings
from strategies.limit_orders import LimitStyle
from strategies.market_data import bar_records
from strategies.predictor_actor import PredictorActor, PredictorActorConfig
from strategies.recorder import RunRecorder
from tests.strategies.settings import plain_execution

MILLISECOND = 10**6
HOUR = 3_600 * 10**9
FUNDING = 8 * HOUR
QUICK = FeedConfig.model_validate(
    {
        "gate": {"ask_after_secs": 2.0, "patience_secs": 10.0},
        "history": {"timeout_secs": 0.3, "retry_secs": 0.02, "requests_per_second": 1e6},
        "look_interval_ms": 10,
    }
)


@dataclass
class World:
    """What a script can see and change, on the node's own thread.

    Parameters
    ----------
    bars, funding
        All that ever happens, by instrument.
    now : int
        The exchange's time, UTC nanoseconds.
    page : int
        Most bars in one answer.
    silent : bool
        Whether the history answers nothing; `deaf`: nothing either, but to say that it has nothing.
    hidden : set of (str, int)
        Bars that the exchange has not got: by instrument and close.
    """

    bars: Mapping[str, BarArrays]
    funding: Mapping[str, SeriesArrays]
    now: int
    page: int = 1_500
    latency_ns: int = 50 * MILLISECOND
    silent: bool = False
    deaf: bool = False
    hidden: set[tuple[str, int]] = field(default_factory=set)
    requests: list[tuple[str, int, int, int]] = field(default_factory=list)
    handled: list[tuple[int, bool]] = field(default_factory=list)
    latencies: list[int | None] = field(default_factory=list)
    failure: BaseException | None = None
    client: Any = None
    exchange: PaperExecutionClient | None = None
    feed: Any = None
    strategy: Any = None
    actor: Any = None
    recorder: Any = None
    errors: list[BaseException] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.interval = next(iter(self.bars.values())).interval_ns
        self.instruments = tuple(instrument(name) for name in self.bars)
        self.records = {
            str(one.id): {
                bar.ts_init: bar
                for bar in bar_records(self.bars[str(one.id)], bar_type(str(one.id), "15m"), one)
            }
            for one in self.instruments
        }

    def arriving(self, name: str, close: int) -> Bar:
        """Return a bar as the exchange sends it: stamped x:59.999, known on arrival."""
        one = self.records[name][close]
        stamp = close - MILLISECOND
        return Bar(
            one.bar_type, one.open, one.high, one.low, one.close, one.volume, stamp, time.time_ns()
        )

    def send(self, name: str, close: int) -> None:
        """Stream a bar."""
        self.client._handle_data(self.arriving(name, close))

    def send_all(self, close: int) -> None:
        """Stream the bars of a close, and what funding is expected next."""
        self.now = max(self.now, close)
        for name, records in self.records.items():
            if close in records and (name, close) not in self.hidden:
                self.send(name, close)

    def expect_funding(self) -> None:
        """Stream the rate that the next settlement is expected to have: slightly wrong."""
        due = (self.now // FUNDING + 1) * FUNDING
        for name in self.funding:
            rate = FundingRateUpdate(
                InstrumentId.from_str(name), Decimal("0.00007"), self.now, self.now, None, due
            )
            self.client._handle_data(rate)

    async def until(self, what: Callable[[], Any], name: str, within_secs: float = 10.0) -> None:
        """Wait for something to be so."""
        started = time.monotonic()
        while not what():
            if self.errors:
                raise self.errors[0]
            if time.monotonic() - started > within_secs:
                raise AssertionError(
                    f"{name} did not come true within {within_secs} s: {self.feed.status()}, "
                    f"errors {self.recorder.errors}"
                )
            await asyncio.sleep(0.002)

    async def warm(self) -> None:
        """Wait until the feed trades."""
        self.expect_funding()
        await self.until(lambda: self.state == "trading", "trading")

    def handle(self, found: BarSet, latency_ns: int | None) -> None:
        """Take note of a close that was handled."""
        self.handled.append((found.ts, found.fresh))
        self.latencies.append(latency_ns)

    async def play(self, first: int, last: int) -> None:
        """Stream all that happens in ``[first, last]``, waiting for each close to be handled."""
        for close in range(first, last + 1, self.interval):
            self.send_all(close)
            self.expect_funding()
            await self.until(lambda close=close: self.done(close), f"close {close}")

    async def trade(self, first: int, last: int) -> None:
        """Stream all that happens, and let orders arrive and fill as they would in a replay."""
        for close in range(first, last + 1, self.interval):
            self.send_all(close)
            self.expect_funding()
            await self.until(lambda close=close: self.done(close), f"close {close}")
            await self.until(self.settled, "orders to arrive")
            await self.open_next(close)

    async def open_next(self, close: int) -> None:
        """Quote the open of the next bar, and wait until what follows has been heard of."""
        assert self.exchange is not None
        self.now = close + self.latency_ns
        for one in self.instruments:
            following = self.records[str(one.id)].get(close + self.interval)
            if following is not None:
                size = Quantity(1_000_000.0, one.size_precision)
                price = following.open
                self.exchange.on_record(
                    QuoteTick(one.id, price, price, size, size, self.now, self.now)
                )
        await self.until(self.settled, "fills to be heard of")
        # What was sent on a fill arrives after the latency.
        self.now += self.latency_ns
        self.exchange.on_clock(self.now)
        await self.until(self.settled, "stops to be heard of")

    def settled(self) -> bool:
        """Nothing is on its way between strategy and exchange."""
        assert self.exchange is not None
        rows = self.recorder.orders
        filled = {name: row.filled_quantity for name, row in rows.items()}
        theirs = {name: self.exchange.book.filled.get(name, 0.0) for name in rows}
        waits = any(row.status == "INITIALIZED" for row in rows.values())
        return self.exchange.received == len(rows) and filled == theirs and not waits

    def done(self, close: int) -> bool:
        return bool(self.handled) and self.handled[-1][0] >= close

    def quote(self, price: float) -> None:
        """Quote a price in each instrument, to the paper exchange alone."""
        for one in self.instruments:
            found = Price(price, one.price_precision)
            size = Quantity(1_000.0, one.size_precision)
            tick = QuoteTick(one.id, found, found, size, size, self.now, self.now)
            assert self.exchange is not None
            self.exchange.on_record(tick)

    @property
    def state(self) -> str:
        return str(self.feed.status().state)

    @property
    def counters(self) -> dict[str, int]:
        found: dict[str, int] = self.feed.status().counters
        return found

    def predictions(self) -> Any:
        return self.recorder.predictions.frame()


class Stream(MarketDataClient):
    """Streams what the script says, and answers requests for history."""

    def __init__(self, world: World, script: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._world = world
        self._script = script

    async def _connect(self) -> None:
        self._world.client = self
        for one in self._world.instruments:
            self._handle_instrument(one)

    async def _disconnect(self) -> None:
        return

    async def _subscribe_bars(self, command: Any) -> None:
        if self._script is not None:
            script, self._script = self._script, None
            self.create_task(self._play(script), "script")

    async def _play(self, script: Any) -> None:
        try:
            await script(self._world)
        except BaseException as error:
            self._world.failure = error
        finally:
            self._world.stop()

    async def _request_bars(self, request: Any) -> None:
        world = self._world
        name = str(request.bar_type.instrument_id)
        world.requests.append((name, request.start_ns, request.end_ns, request.limit))
        if world.silent:
            return
        await asyncio.sleep(0)
        opens = range(request.start_ns, request.end_ns + 1, world.interval)
        found = []
        for open_ in opens:
            close = open_ + world.interval
            known = close in world.records[name] and (name, close) not in world.hidden
            # The bar under way is part of the history, with the numbers that it has so far.
            if known and open_ < world.now and not world.deaf:
                found.append(world.arriving(name, close))
        limit = min(request.limit or 500, world.page)
        self._handle_response(
            BarsResponse(
                self.client_id, request.bar_type, found[:limit], request.request_id, time.time_ns()
            )
        )

    async def _request_funding_rates(self, request: Any) -> None:
        world = self._world
        name = str(request.instrument_id)
        if world.silent:
            return
        known = world.funding[name].between(None, world.now)
        rates = [
            # Settlements are booked some milliseconds late.
            FundingRateUpdate(
                request.instrument_id, Decimal(repr(rate)), ts + 3 * MILLISECOND, time.time_ns()
            )
            for ts, rate in zip(known.ts_event.tolist(), known.value.tolist(), strict=True)
        ][-request.limit :]
        self._handle_response(
            FundingRatesResponse(
                self.client_id, request.instrument_id, rates, request.request_id, time.time_ns()
            )
        )

    async def _nothing(self, command: Any) -> None:
        return

    _subscribe = _subscribe_funding_rates = _subscribe_instrument = _nothing
    _unsubscribe = _unsubscribe_bars = _unsubscribe_funding_rates = _nothing


def run_world(
    world: World,
    predictor: Predictor,
    script: Any,
    *,
    stored: StoredHistory | None = None,
    config: FeedConfig = QUICK,
    execution: ExecutionConfig | None = None,
    **policy: Any,
) -> World:
    """Run a node until the script has ended; raise what it raised."""
    names = tuple(world.bars)
    execution = execution or plain_execution(funding="recorded")
    world.recorder = recorder = RunRecorder(names, 100_000.0)
    settings = StrategySettings(
        world.instruments,
        world.interval,
        books_funding=execution.funding == "recorded",
        limits=LimitStyle.of(execution),
        fed=True,
    )
    rules = {"entry_threshold": 0.52, "exit_threshold": 0.5, "position_frac": 0.1, **policy}
    world.strategy = FusionStrategy(FusionPolicy(**rules), settings, recorder)
    world.actor = PredictorActor(predictor, recorder, PredictorActorConfig(60_000, fed=True))
    receivers = Receivers(world.actor, world.strategy, frozenset(names), settings.books_funding)
    wiring = FeedWiring(
        receivers,
        "BINANCE",
        world.instruments,
        stored or StoredHistory(),
        now=lambda: world.now,
        on_handled=world.handle,
        on_error=world.errors.append,
    )
    world.feed = MarketFeed(wiring, config)

    class Factory(DataClientFactory):
        @staticmethod
        def create(
            *, name: str, config: DataClientConfig, cache: ClientCache, clock: Any
        ) -> MarketDataClient:
            return Stream(
                world,
                script,
                name=name,
                config=config,
                cache=cache,
                clock=clock,
                venue=Venue("BINANCE"),
            )

    def ready(client: PaperExecutionClient, stop: Callable[[], None]) -> None:
        world.exchange, world.stop = client, stop
        world.feed.exchange = client

    paper = PaperWiring(
        venue="BINANCE",
        account_id="BINANCE-001",
        instruments=world.instruments,
        execution=execution,
        now=lambda: world.now,
        note_reference=recorder.reference,
        on_error=world.errors.append,
        on_account_query=lambda parameters: None,
    )
    run_feed(Factory, paper, ready, [world.actor, world.feed], [world.strategy])
    if world.failure is not None:
        raise world.failure
    assert not world.errors
    assert recorder.errors == []
    return world


def market(names: Sequence[str], bars: Sequence[BarArrays], funding: Sequence[SeriesArrays]) -> Any:
    """Return bars and settlements by instrument."""
    return dict(zip(names, bars, strict=True)), dict(zip(names, funding, strict=True))
