"""A limit entry has an end at the exchange, for a process that died takes nothing back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from nautilus_trader.model import TimeInForce

from catalog.timestamps import NS_PER_SECOND
from strategies.limit_orders import LimitStyle, ends_at
from strategies.order_desk import Intent, OrderDesk, StrategySettings
from strategies.recorder import RunRecorder
from tests.strategies.markets import BTC, flat_bars, make_inputs

MINUTE = 60 * NS_PER_SECOND
NOW = 1_795_286_311 * NS_PER_SECOND + 123


class Factory:
    """Takes down what the engine is asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def limit(self, *order: Any, **more: Any) -> str:
        self.asked = more
        return "order"


class Engine:
    """What an order desk asks of its strategy."""

    def __init__(self) -> None:
        self.clock = SimpleNamespace(timestamp_ns=lambda: NOW)
        self.order_factory = Factory()

    def submit_order(self, order: str) -> None:
        assert order == "order"


@pytest.mark.parametrize(
    ("expires", "kind", "post_only", "ends"),
    [
        (True, "E", False, True),
        # What only reduces may stay, a replay has no use for it, and Binance has no such order.
        (True, "X", False, False),
        (False, "E", False, False),
        (True, "E", True, False),
    ],
)
def test_an_entry_of_a_live_process_ends_by_itself(
    expires: bool, kind: Any, post_only: bool, ends: bool
) -> None:
    engine = Engine()
    (instrument,) = make_inputs(flat_bars(2)).instruments
    style = LimitStyle(2.0, 3, post_only)
    settings = StrategySettings((instrument,), 15 * MINUTE, limits=style)
    desk = OrderDesk(engine, settings, RunRecorder((BTC,), 1_000.0))
    desk.expires = expires
    desk.limit(Intent(kind, BTC, 0, 1.0, 30_000.0, "why"), 29_990.0, post_only=post_only)
    asked = engine.order_factory.asked
    assert ("expire_time" in asked) == ends
    if ends:
        assert asked["time_in_force"] == TimeInForce.GTD
        # Three bars and one more, in whole seconds: the compiled adapter denies any other.
        assert asked["expire_time"] == (NOW - 123) + 60 * MINUTE


def test_an_exchange_takes_no_end_within_ten_minutes() -> None:
    found = ends_at(LimitStyle(2.0, 1, post_only=False), NOW, MINUTE)
    assert found - NOW > 10 * MINUTE
    assert found % NS_PER_SECOND == 0
