"""Hands bars and settlements that passed the gate to whoever lives by them, in a replay's order.

At one close: mark prices and settlements, then the bars; a paper exchange before the predictor,
the predictor before the strategy. Closes on which no decision is made any more (history, a gap that
was filled late) go through the predictor, whose answers are dropped, and past the strategy, which
marks its positions by them and moves its stops, but is given no prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from typing import Any, Protocol

from nautilus_trader.model import Bar, FundingRateUpdate, InstrumentId, MarkPriceUpdate, Price

from catalog.arrays import Ohlcv
from live.bar_gate import BarSet, RawBar
from live.settlements import Settlement
from research.predictor import Predictor
from strategies.market_data import price_number
from strategies.recorder import RunRecorder

_LATEST = 64
"""Fills that can be on their way at once: a stop and a target of each of 16 instruments, twice."""


class Answers(Protocol):
    """Who predicts; `strategies.predictor_actor.PredictorActor`, fed."""

    predictor: Predictor

    def on_bar(self, bar: Any) -> None:
        """Take a bar; the last of its time makes predictions."""

    def close_timestamp(self, ts: int) -> None:
        """Predict without the bars that are missing."""


class Trades(Protocol):
    """Who trades; `strategies.fusion.FusionStrategy`, fed."""

    recorder: RunRecorder

    def on_bar(self, bar: Any) -> None:
        """Take a bar; the last of its time lets it decide on the predictions that it has."""

    def on_mark_price(self, mark_price: Any) -> None:
        """Take the price at which the settlement that follows is paid."""

    def on_funding_rate(self, funding_rate: Any) -> None:
        """Take a settlement."""


class Book(Protocol):
    """What a paper exchange knows of its orders; `live.paper_book.PaperBook`."""

    filled: dict[str, float]


class Exchange(Protocol):
    """A paper exchange, which is shown everything first; `live.paper.PaperExecutionClient`."""

    @property
    def book(self) -> Book:
        """Its orders."""

    @property
    def emitted(self) -> int:
        """A number that grows with every event that it sends."""

    def on_record(self, record: Any) -> None:
        """Take a record in and send what follows from it."""


@dataclass(frozen=True, slots=True)
class Receivers:
    """To whom records are handed.

    Parameters
    ----------
    actor : PredictorActor
        Made with `PredictorActorConfig.fed`.
    strategy : FusionStrategy
        Made with `StrategySettings.fed`.
    traded : frozenset of str
        Instruments that the strategy trades, of those that are predicted.
    books_funding : bool
        Whether the strategy books settlements.
    known_until : int
        The last close that strategy and paper exchange have seen in an earlier process, UTC
        nanoseconds; 0: there was none, and what closed before the start is history to them.
    past : callable, optional
        Shown the closes of that history, by instrument and with their time (UTC nanoseconds), for
        what the strategy remembers of prices.
    """

    actor: Answers
    strategy: Trades
    traded: frozenset[str]
    books_funding: bool
    known_until: int = 0
    past: Callable[[int, Mapping[str, float]], None] | None = None


@dataclass(slots=True)
class Close:
    """What is handed on at one close."""

    bars: BarSet
    marks: list[MarkPriceUpdate] = field(default_factory=list)
    funding: list[FundingRateUpdate] = field(default_factory=list)
    records: list[Bar] = field(default_factory=list)

    @property
    def ts(self) -> int:
        """The close, UTC nanoseconds."""
        return self.bars.ts


class Delivery:
    """Hand closes on; see the module.

    Parameters
    ----------
    receivers : Receivers
        To whom.
    known_until : int
        Strategy and paper exchange are handed only what closed later, UTC nanoseconds.
    exchange : Exchange, optional
        Where orders are filled in paper trading.
    """

    def __init__(
        self, receivers: Receivers, known_until: int, exchange: Exchange | None = None
    ) -> None:
        self._to = receivers
        self._exchange = exchange
        self._known_until = known_until
        self._closes: dict[str, Price] = {}

    def close(self, found: BarSet, settled: Sequence[Settlement]) -> Close:
        """Make the engine's records of a close, stamped with it.

        A settlement is paid at the last close known by then, as in a replay.
        """
        close = Close(found)
        before = dict(self._closes)
        for name, raw in found.bars.items():
            bar = _stamped(raw, found.ts)
            close.records.append(bar)
            self._closes[name] = bar.close
        for one in settled:
            known = self._closes if one.ts >= found.ts else before
            identity = InstrumentId.from_str(one.instrument_id)
            price = known.get(one.instrument_id)
            if price is not None:
                close.marks.append(MarkPriceUpdate(identity, price, one.ts, one.ts))
            close.funding.append(_funding(one))
        return close

    def show(self, close: Close) -> bool:
        """Show a close to the paper exchange; return whether anything follows from it.

        Its events must reach the strategy before the bars do, which the caller sees to.
        """
        exchange = self._exchange
        if exchange is None or close.ts <= self._known_until:
            return False
        before = exchange.emitted
        for record in (*self._traded(close.marks), *self._traded(close.funding)):
            exchange.on_record(record)
        for bar in close.records:
            if self._trades(bar.bar_type.instrument_id):
                exchange.on_record(bar)
        return exchange.emitted != before

    def heard(self) -> bool:
        """Return whether the strategy has heard of every fill of the paper exchange.

        Events travel through the engine; neither a clock's alert nor anything else that an actor
        can send is sure to come behind them.
        """
        if self._exchange is None:
            return True
        filled, rows = self._exchange.book.filled, self._to.strategy.recorder.orders
        latest = islice(reversed(filled.items()), _LATEST)
        return all(name not in rows or rows[name].filled_quantity == one for name, one in latest)

    def hand_on(self, close: Close) -> None:
        """Hand a close to predictor and strategy; a fresh one lets them predict and decide."""
        to, fresh = self._to, close.bars.fresh
        told = close.ts > self._known_until
        self._hand_on_settlements(close, told)
        if not fresh:
            named = {str(bar.bar_type.instrument_id): _ohlcv(bar) for bar in close.records}
            to.actor.predictor.update(close.ts, named)
        if to.past is not None and not (told or to.known_until):
            bars = close.records
            to.past(close.ts, {str(b.bar_type.instrument_id): price_number(b.close) for b in bars})
        for bar in close.records:
            if fresh:
                to.actor.on_bar(bar)
            if told and self._trades(bar.bar_type.instrument_id):
                to.strategy.on_bar(bar)
        if fresh and close.bars.missing:
            to.actor.close_timestamp(close.ts)

    def correct(self, settled: Sequence[Settlement]) -> None:
        """Tell the strategy the true rates of settlements that were handed on with others.

        What a paper exchange has paid stays paid, and the predictor goes on from what it was told.
        """
        self._correct([_funding(one) for one in settled])

    def _correct(self, settled: Sequence[FundingRateUpdate]) -> None:
        if self._to.books_funding and self._exchange is None:
            for one in settled:
                if self._trades(one.instrument_id):
                    self._to.strategy.on_funding_rate(one)

    def _hand_on_settlements(self, close: Close, told: bool) -> None:
        to = self._to
        predictor = to.actor.predictor
        if predictor.spec.uses_funding:
            for one in close.funding:
                name = str(one.instrument_id)
                predictor.update_funding(name, float(one.rate), one.ts_init)
        if told and to.books_funding:
            for mark in self._traded(close.marks):
                to.strategy.on_mark_price(mark)
            for one in self._traded(close.funding):
                to.strategy.on_funding_rate(one)
        elif not told and to.known_until:
            # An earlier process may have booked one at the rate that was only expected.
            self._correct(close.funding)

    def _traded(self, records: Sequence[Any]) -> Iterator[Any]:
        """Yield marks or settlements that concern strategy and paper exchange."""
        for one in records:
            if one.ts_init > self._known_until and self._trades(one.instrument_id):
                yield one

    def _trades(self, identity: Any) -> bool:
        return str(identity) in self._to.traded


def raw_bar(bar: Any, *, streamed: bool, seen: int | None = None) -> RawBar:
    """Return an engine's bar as the gate takes it; `seen` as there."""
    name = str(bar.bar_type.instrument_id)
    return RawBar(name, bar.ts_event, tuple(_ohlcv(bar)), bar, streamed, seen)


def _funding(one: Settlement) -> FundingRateUpdate:
    identity, rate = InstrumentId.from_str(one.instrument_id), Decimal(repr(one.rate))
    return FundingRateUpdate(identity, rate, one.ts, one.ts, next_funding_ns=one.ts)


def _stamped(raw: RawBar, ts: int) -> Bar:
    """Return a bar that became known when it closed: not before it, and not on arrival."""
    bar: Bar = raw.bar
    if bar.ts_event == bar.ts_init == ts:
        return bar
    return Bar(bar.bar_type, bar.open, bar.high, bar.low, bar.close, bar.volume, ts, ts)


def _ohlcv(bar: Any) -> Ohlcv:
    numbers = (bar.open, bar.high, bar.low, bar.close, bar.volume)
    return Ohlcv(*map(price_number, numbers))
