"""An engine hears of settlements and fills in any order; in the end it has what its account has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nautilus_trader.model import Bar, FundingRateUpdate

from live.bar_gate import BarSet
from live.feed_delivery import Delivery, Receivers
from live.settlements import Settlement
from strategies.paid_funding import PaidFunding
from strategies.recorder import RunRecorder
from tests.live.kept_world import BookExchange, Life, records_of
from tests.live.test_kept import NAMES, setting
from tests.strategies.markets import START

HOUR = 3_600 * 10**9
HELD = 14
"""So many records come late: those of three closes."""


class LateLife(Life):
    """Its market data stay away for a while and then come all at once; fills come at once."""

    begin = 0

    def run(self, *_: Any) -> None:
        self.strategy.outbox.release()
        bars: dict[str, Any] = {}
        held: list[Any] = []
        for number, record in enumerate(self.records):
            for event in self.exchange.advance(number):
                self._tell(event)
            held.append(record)
            if not self.begin <= number < self.begin + HELD:
                for one in held:
                    self._show(one)
                held = []
            if isinstance(record, Bar):
                bars[str(record.bar_type.instrument_id)] = record
            last = number + 1 == len(self.records)
            if bars and (last or self.records[number + 1].ts_init > record.ts_init):
                if not held:
                    self._predict(record.ts_init, bars)
                bars = {}
        assert self.recorder.errors == []


def late(folder: Path, begin: int) -> float:
    """Return by how much our cash is off where the news from a record on are late, USDT."""
    market = setting("funding")
    records = records_of(market)
    exchange = BookExchange(market, records)
    life = LateLife(market, records, exchange, folder / f"{begin}.db")
    life.begin = begin
    life.run()
    life.close()
    return life.recorder.ledger.cash - exchange.book.ledger.cash


def test_settlements_that_are_told_late_are_paid_as_the_exchange_paid_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = records_of(setting("funding"))
    every = [at for at, one in enumerate(records) if isinstance(one, FundingRateUpdate)]
    settled = every[0:7:2]
    assert [late(tmp_path, at) for at in settled] == pytest.approx([0.0] * len(settled), abs=1e-7)
    # It matters: by what is held when the news come, some would be off.
    monkeypatch.setattr(PaidFunding, "_held_at", lambda self, name, ts: self._ledger.quantity(name))
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    assert sum(abs(late(wrong, at)) > 1e-3 for at in settled) > 2


class Strategy:
    """Takes settlements."""

    def __init__(self) -> None:
        self.recorder = RunRecorder(NAMES, 1_000.0)
        self.told: list[tuple[str, float, int]] = []

    def on_bar(self, bar: Any) -> None: ...
    def on_mark_price(self, mark_price: Any) -> None: ...

    def on_funding_rate(self, rate: Any) -> None:
        self.told.append((str(rate.instrument_id), float(rate.rate), rate.ts_event))


@pytest.mark.parametrize("known_until", [0, START + 8 * HOUR])
@pytest.mark.parametrize("exchange", [None, object()])
def test_true_rates_reach_the_strategy_that_trades_on_an_account(
    known_until: int, exchange: Any
) -> None:
    strategy, actor = Strategy(), LateActor()
    receivers = Receivers(actor, strategy, frozenset(NAMES[:1]), True, known_until)
    delivery = Delivery(receivers, known_until or START + 8 * HOUR, exchange)
    true = Settlement(NAMES[0], START + 8 * HOUR, 5e-4)
    stranger = Settlement(NAMES[1], START + 8 * HOUR, 5e-4)
    delivery.correct([true, stranger])
    told = [(NAMES[0], 5e-4, START + 8 * HOUR)]
    assert strategy.told == ([] if exchange else told)
    # After a restart the history tells it, with the closes that were handled before.
    strategy.told = []
    close = delivery.close(BarSet(START + 8 * HOUR, {}, (), False), [true, stranger])
    delivery.hand_on(close)
    assert strategy.told == ([] if exchange or not known_until else told)
    assert actor.funded == [NAMES[0], NAMES[1]]


class LateActor:
    """Takes what a predictor is told."""

    def __init__(self) -> None:
        self.funded: list[str] = []
        self.predictor: Any = self
        self.spec = self
        self.uses_funding = True

    def update_funding(self, name: str, rate: float, ts: int) -> None:
        self.funded.append(name)

    def update(self, ts: int, bars: Any) -> None: ...
    def on_bar(self, bar: Any) -> None: ...
    def close_timestamp(self, ts: int) -> None: ...
