"""A trailing stop and an exchange that takes its time to answer."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from nautilus_trader.model import Price

from strategies.order_desk import ExitOrder
from strategies.protection import Protection
from strategies.recorder import FillRow, OrderRow, RunRecorder
from strategies.stops import ExitRules
from tests.strategies.markets import BTC

SECOND = 10**9
RULES = ExitRules(0.01, 0.01, trailing=True)


class Desk:
    """An order desk whose exchange answers when the test says so."""

    def __init__(self, recorder: RunRecorder) -> None:
        self.recorder = recorder
        terms = SimpleNamespace(tick=Decimal("0.1"))
        self.states = {BTC: SimpleNamespace(terms=terms, stop_frac=0.01, since=0)}
        self.sent: list[str] = []
        self.cancelled: list[str] = []

    def protect(self, order: ExitOrder) -> str:
        name = f"{order.kind}{order.named}"
        row = OrderRow(name, order.ts, BTC, -1, abs(order.quantity), order.reason)
        row.type, row.trigger_price = "STOP_MARKET", order.trigger
        self.recorder.order(row)
        self.sent.append(name)
        return name

    def cancel(self, client_order_id: str) -> None:
        self.cancelled.append(client_order_id)

    def is_leaving(self, instrument_id: str) -> bool:
        return False


class World:
    """One long position at 30,000 with a stop 1 % away."""

    def __init__(self) -> None:
        self.recorder = RunRecorder((BTC,), 100_000.0)
        self.desk: Any = Desk(self.recorder)
        self.protection = Protection(RULES, self.desk, self.recorder)
        self.recorder.order(OrderRow("E", 0, BTC, 1, 1.0, "enter_long"))
        self.recorder.fill(FillRow(1, "E", BTC, 1, 1.0, 30_000.0, 0.0, "enter_long"))
        self.protection.opened(BTC, 1)
        self.answer(2)

    def answer(self, ts: int) -> None:
        """Let the newest stop be accepted."""
        name = self.desk.sent[-1]
        self.recorder.order_status(name, "ACCEPTED")
        self.protection.accepted(name, ts)

    def bar(self, number: int) -> None:
        """Close a bar, each ten higher than the last."""
        price = Price(30_000.0 + 10.0 * number, 1)
        prices = dict.fromkeys(("open", "high", "low", "close"), price)
        self.protection.on_bar(BTC, SimpleNamespace(ts_init=number * SECOND, **prices))

    def triggers(self) -> list[float]:
        return [self.recorder.orders[name].trigger_price for name in self.desk.sent]


def test_bars_that_were_missed_do_not_send_a_stop_each() -> None:
    """An engine that was away is handed all of them before any answer can come."""
    world = World()
    for number in range(1, 41):
        world.bar(number)
    assert world.triggers() == [29_700.0, 29_709.9]
    assert world.desk.cancelled == []
    world.answer(41 * SECOND)
    # What has moved since leaves with the answer, and what it replaces goes with the next.
    assert world.triggers()[2:] == [30_096.0]
    assert world.desk.cancelled == world.desk.sent[:1]
    world.answer(42 * SECOND)
    assert len(world.desk.sent) == 3
    assert world.desk.cancelled == world.desk.sent[:2]
    assert world.protection.wanted() == {world.desk.sent[-1]}


def test_what_a_stop_is_to_follow_survives_the_process() -> None:
    world = World()
    for number in range(1, 4):
        world.bar(number)
    kept = world.protection.snapshot()
    world.protection = Protection(RULES, world.desk, world.recorder)
    world.protection.restore(kept)
    world.answer(4 * SECOND)
    assert world.triggers() == [29_700.0, 29_709.9, 29_729.7]


def test_a_stop_that_is_answered_before_the_next_bar_moves_at_each() -> None:
    world = World()
    for number in range(1, 4):
        world.bar(number)
        world.answer(number * SECOND + 1)
    assert world.triggers() == [29_700.0, 29_709.9, 29_719.8, 29_729.7]
