"""Replay: recorded data through a live node, one timestamp at a time.

A live node's clock is the wall clock and its data arrive when they arrive, so recorded data sent
as fast as possible would reach the strategies while their orders are still on the way. A
`ReplaySession` keeps them in step. After each timestamp it sends a `ReplayFence` down the data
channel; `FenceStrategy` answers it with an account query down the command channel. Both channels
keep their order, so when the query reaches the execution client every strategy has handled every
record sent before, and every order that it sent has arrived. The node handles execution events
before data, so fills emitted ahead of a record are seen ahead of it.

Everything here runs on the node's thread and event loop; nothing needs a lock.

What fills the orders is no business of this module: a `ReplayVenue` is shown every record before
the strategies are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from nautilus_trader.common import Clock
from nautilus_trader.config import DataClientConfig
from nautilus_trader.live import ClientCache
from nautilus_trader.live.clients import DataClientFactory, MarketDataClient
from nautilus_trader.model import (
    AccountId,
    Bar,
    ClientId,
    CustomData,
    DataType,
    FundingRateUpdate,
    MarkPriceUpdate,
    QuoteTick,
    Venue,
    register_custom_data_class,
)
from nautilus_trader.trading import Strategy, StrategyConfig
from pydantic import Field

from catalog.config import Config
from catalog.errors import DataError, RunFailedError
from catalog.progress import Progress, no_progress
from catalog.timestamps import NS_PER_SECOND, format_time
from catalog.types import customdataclass

FENCE_PARAMETER = "replay_fence"
"""Key of a fence's number in the parameters of the account query that answers it."""
_PROGRESS_EVERY = 200
_STAGE = "live replay"


@customdataclass()
class ReplayFence:
    """A mark between records: everything before it was handled once it is answered.

    Parameters
    ----------
    number : int
        Counts from 1 without gaps.
    closes : bool
        Whether no further record of its time follows.
    """

    number: int = 0
    closes: bool = False


class ReplayStopped(RunFailedError):
    """The node was stopped before the end of its replay."""


class ReplayConfig(Config):
    """How a replay is paced.

    Parameters
    ----------
    timeout_secs : float
        Longest wait, in seconds of wall-clock time, for the node to handle one timestamp. A
        decision takes milliseconds: a longer silence is a deadlock or a dead task.
    speed : float or None
        Seconds of data in a second of the clock; None for as fast as it goes.
    paced_from : int
        UTC nanoseconds; what is older, such as settlements that a predictor must know, passes as
        fast as it goes.
    may_stop : bool
        Whether the node may be stopped before the end: then that is no failure.
    """

    timeout_secs: float = Field(default=30.0, gt=0)
    speed: float | None = Field(default=None, gt=0)
    paced_from: int = 0
    may_stop: bool = False


class ReplayVenue(Protocol):
    """The exchange of a replay: fills orders from the records that strategies are about to see."""

    @property
    def emitted(self) -> int:
        """A number that grows with every emission, in answer to records or to orders."""

    def acts_on(self, record: Any) -> bool:
        """Return whether the record makes the venue emit something (a fill, a settlement)."""

    def on_record(self, record: Any) -> None:
        """Take the record in and emit what follows from it."""

    def next_due(self) -> int:
        """Return when something arrives of which no record tells, UTC ns; far away if nothing."""

    def on_clock(self, ts: int) -> None:
        """Let arrive what is due, and emit what follows from it."""

    def finish(self) -> None:
        """Emit what is still due: no further record follows."""


@dataclass(frozen=True, slots=True)
class ReplayFeed:
    """What is replayed.

    Parameters
    ----------
    venue : str
        Name of the venue and of the data client, such as ``BINANCE``.
    instruments : sequence of Nautilus instruments
        Published before the first record.
    records : sequence of Nautilus data (bars, quotes, mark prices, funding rates, custom data)
        In the order in which the backtest engine would see them; `ts_init` never decreases.
    """

    venue: str
    instruments: Sequence[Any]
    records: Sequence[Any]

    def checked(self) -> Self:
        """Return the feed after checking that its records are in order of time.

        Raises
        ------
        DataError
            If there are no records or the clock runs backwards.
        """
        if not self.records:
            raise DataError("a replay must have at least one record, had none: widen the span")
        previous = self.records[0].ts_init
        for index, record in enumerate(self.records):
            if record.ts_init < previous:
                raise DataError(
                    f"ts_init of replayed records must not decrease, was "
                    f"{format_time(record.ts_init)} in record {index} after "
                    f"{format_time(previous)}: sort the records by time"
                )
            previous = record.ts_init
        return self


class ReplaySession:
    """The lock-step between the data client, the strategies and the execution client.

    Parameters
    ----------
    feed : ReplayFeed
        What is replayed.
    config : ReplayConfig
        Its pace.
    progress : Progress
        Told how many records are done.

    Attributes
    ----------
    now : int
        The replay's time: `ts_init` of the records being replayed, UTC nanoseconds.
    failure : BaseException or None
        What ended the replay before its time.
    started, finished : bool
        Whether the replay began; whether every record was replayed and answered.
    stopped : bool
        Whether the node was stopped before the end, where it may be.
    done : int
        Records shown to the venue and to whoever subscribed to their kind.
    subscribed : set of type or DataType
        Kinds of records that strategies see; others are shown to the venue only. Custom data are
        told apart by their data type, which names the series.
    """

    def __init__(
        self, feed: ReplayFeed, config: ReplayConfig, *, progress: Progress = no_progress
    ) -> None:
        register_custom_data_class(ReplayFence)
        self.feed = feed.checked()
        self.config = config
        self.now = feed.records[0].ts_init - 1
        self.failure: BaseException | None = None
        self.started = False
        self.finished = False
        self.stopped = False
        self.venue: ReplayVenue | None = None
        self.on_timestamp: Callable[[int], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self._progress = progress
        self.done = 0
        self.subscribed: set[type | DataType] = set()
        self._emit: Callable[[object], None] | None = None
        self._answered = asyncio.Event()
        self._fence = 0
        self._unanswered = 0

    def fail(self, error: BaseException) -> None:
        """Note the first failure and end the replay."""
        if self.config.may_stop and isinstance(error, (asyncio.CancelledError, ReplayStopped)):
            self.stopped = True
            self._answered.set()
        elif self.failure is None and not (self.finished or self.stopped):
            self.failure = error
            self._answered.set()
        if self.on_end is not None:
            self.on_end()

    def fence_arrived(self, number: int) -> None:
        """Take the answer to a fence: called by the execution client's account query."""
        if number == self._fence:
            self._answered.set()

    def close_timestamp(self) -> None:
        """Tell the listener that no further record of this timestamp will come.

        This is what a time-out of the wall clock says in real trading; recorded data know it.
        """
        if self.on_timestamp is not None:
            self.on_timestamp(self.now)

    async def run(self, emit: Callable[[object], None]) -> None:
        """Replay every record; whatever happens, the end is reported to `on_end`.

        Raises
        ------
        RunFailedError
            If the node does not answer in time.
        """
        self.started = True
        try:
            self._emit = emit
            await self._replay()
            self._progress(_STAGE, len(self.feed.records), len(self.feed.records))
            self.finished = True
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            if self.on_end is not None:
                self.on_end()

    async def _replay(self) -> None:
        total = len(self.feed.records)
        for index, record in enumerate(self.feed.records):
            if record.ts_init != self.now:
                await self._flush(closes=True)
                await self._pass_time(record.ts_init)
                await self._keep_pace(record.ts_init)
                self.now = record.ts_init
            await self._show(record)
            self.done = index + 1
            if index % _PROGRESS_EVERY == 0:
                self._progress(_STAGE, index, total)
        await self._flush(closes=True)
        assert self.venue is not None
        self.venue.finish()

    async def _show(self, record: Any) -> None:
        """Show a record to the venue, then to the strategies if they subscribed to its kind."""
        assert self._emit is not None
        assert self.venue is not None
        if self.venue.acts_on(record):
            # What was sent before must be seen before the events of this record: the node would
            # handle those first.
            await self._flush(closes=False)
        before = self.venue.emitted
        self.venue.on_record(record)
        self._unanswered += self.venue.emitted - before
        kind = type(record)
        if (record.data_type if kind is CustomData else kind) in self.subscribed:
            self._emit(record)
            self._unanswered += 1

    async def _keep_pace(self, until: int) -> None:
        """Wait as long as data of this much time take at the speed asked for."""
        since = max(self.now, self.config.paced_from)
        if self.config.speed is not None and self.done and until > since:
            await asyncio.sleep((until - since) / NS_PER_SECOND / self.config.speed)

    async def _pass_time(self, until: int) -> None:
        """Let orders arrive between two records, and the strategies answer when they do."""
        assert self.venue is not None
        while (due := self.venue.next_due()) < until:
            self.now = max(self.now, due)
            before = self.venue.emitted
            self.venue.on_clock(self.now)
            self._unanswered += self.venue.emitted - before
            await self._flush(closes=False)

    async def _flush(self, *, closes: bool) -> None:
        """Wait until all that was sent was handled, and all that followed from it, and so on."""
        assert self.venue is not None
        while self._unanswered > 0:
            before = self.venue.emitted
            await self._pass_fence(closes=closes)
            # An order that arrived was answered with events, which somebody may answer in turn.
            self._unanswered = self.venue.emitted - before
            closes = False

    async def _pass_fence(self, *, closes: bool) -> None:
        assert self._emit is not None
        self._answered.clear()
        self._fence += 1
        self._emit(CustomData(_FENCE_TYPE, _fence(self.now, self._fence, closes)))
        try:
            async with asyncio.timeout(self.config.timeout_secs):
                await self._answered.wait()
        except TimeoutError:
            raise RunFailedError(self._stuck()) from None
        if self.failure is not None:
            raise self.failure

    def _stuck(self) -> str:
        return (
            f"the live replay must be answered within {self.config.timeout_secs:g} s, but was "
            f"still waiting for the strategies to handle the {self._unanswered} records and events "
            f"up to {format_time(self.now)} and for their orders to arrive (fence {self._fence}): "
            f"a callback that never returns, or a node that lost a client"
        )


_FENCE_TYPE = DataType("ReplayFence")


def _fence(now: int, number: int, closes: bool) -> ReplayFence:
    # The decorator puts the two times first in the constructor.
    make: Any = ReplayFence
    fence: ReplayFence = make(now, now, number, closes)
    return fence


class FenceStrategy(Strategy):
    """Answer every fence with an account query, which travels behind all orders sent before it.

    Parameters
    ----------
    session : ReplaySession
        The replay.
    account_id : str
        The account of the execution client that must answer.
    """

    def __new__(cls, session: ReplaySession, account_id: str) -> Self:
        """Create the native part, whose own constructor refuses our arguments."""
        return super().__new__(cls)

    def __init__(self, session: ReplaySession, account_id: str) -> None:
        super().__init__(StrategyConfig(order_id_tag="FENCE"))
        self._session = session
        self._account_id = AccountId(account_id)

    def on_start(self) -> None:
        """Subscribe, which is also the sign that the strategies added before are ready."""
        self.subscribe_data(_FENCE_TYPE, client_id=ClientId(self._session.feed.venue))

    def on_data(self, data: Any) -> None:
        """Close the timestamp, then send the answer."""
        payload = data.data if isinstance(data, CustomData) else data
        try:
            if payload.closes:
                self._session.close_timestamp()
        except BaseException as error:
            self._session.fail(error)
            raise
        self.query_account(self._account_id, params={FENCE_PARAMETER: payload.number})


class ReplayDataClient(MarketDataClient):
    """Publish the instruments on connecting and stream the records once the fence is listened to.

    The node adds strategies in order, so `FenceStrategy` must be the last one added.
    """

    def __init__(self, session: ReplaySession, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._session = session
        self._known = {str(instrument.id) for instrument in session.feed.instruments}

    async def _connect(self) -> None:
        for instrument in self._session.feed.instruments:
            self._handle_instrument(instrument)
        self.create_task(self._watch_start(), "replay start")

    async def _watch_start(self) -> None:
        """Fail a replay that nobody starts: the node would idle for ever."""
        await asyncio.sleep(self._session.config.timeout_secs)
        if not self._session.started:
            self._session.fail(
                RunFailedError(
                    f"the live replay must start within {self._session.config.timeout_secs:g} s, "
                    f"but no strategy subscribed to its fences: add FenceStrategy last"
                )
            )

    async def _disconnect(self) -> None:
        if not self._session.finished:
            self._session.fail(
                ReplayStopped(
                    f"the node must run to the end of the replay, stopped at "
                    f"{format_time(self._session.now)}: its log names the cause"
                )
            )

    async def _subscribe(self, command: Any) -> None:
        if command.data_type.type_name == _FENCE_TYPE.type_name:
            self.create_task(self._session.run(self._handle_data), "replay")
        else:
            self._session.subscribed.add(command.data_type)

    async def _subscribe_bars(self, command: Any) -> None:
        self._open(Bar, str(command.bar_type.instrument_id))

    async def _subscribe_quotes(self, command: Any) -> None:
        self._open(QuoteTick, str(command.instrument_id))

    async def _subscribe_mark_prices(self, command: Any) -> None:
        self._open(MarkPriceUpdate, str(command.instrument_id))

    async def _subscribe_funding_rates(self, command: Any) -> None:
        self._open(FundingRateUpdate, str(command.instrument_id))

    async def _subscribe_instrument(self, command: Any) -> None:
        # Published on connecting.
        return

    async def _subscribe_instruments(self, command: Any) -> None:
        return

    def _open(self, kind: type, instrument_id: str) -> None:
        if instrument_id not in self._known:
            error = DataError(
                f"subscribed instrument must be one of the replay's ({', '.join(self._known)}), "
                f"was {instrument_id}: add it to the profile"
            )
            self._session.fail(error)
            raise error
        self._session.subscribed.add(kind)

    async def _unsubscribe(self, command: Any) -> None:
        return

    async def _unsubscribe_bars(self, command: Any) -> None:
        return

    async def _unsubscribe_quotes(self, command: Any) -> None:
        return

    async def _unsubscribe_mark_prices(self, command: Any) -> None:
        return

    async def _unsubscribe_funding_rates(self, command: Any) -> None:
        return

    async def _unsubscribe_instrument(self, command: Any) -> None:
        return

    async def _unsubscribe_instruments(self, command: Any) -> None:
        return


def replay_data_factory(session: ReplaySession) -> type[DataClientFactory]:
    """Return a factory class that hands the session to the client which the node builds."""

    class _Factory(DataClientFactory):
        @staticmethod
        def create(
            *, name: str, config: DataClientConfig, cache: ClientCache, clock: Clock
        ) -> ReplayDataClient:
            return ReplayDataClient(
                session,
                name=name,
                config=config,
                cache=cache,
                clock=clock,
                venue=Venue(session.feed.venue),
            )

    return _Factory
