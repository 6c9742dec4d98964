"""An engine that is asked to end leaves nothing on its way and no position without its stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from live.orderly_stop import MOST_SECS, STOPPING, LeavingGate, OrderlyStop, StopHooks
from tests.live.test_metrics import BTC, ETH


@dataclass
class World:
    """An engine by hand: its open orders, what is naked, and who asked it to end."""

    rows: list[Any] = field(default_factory=list)
    naked: frozenset[str] = frozenset()
    asked: int = 0
    clock: float = 100.0
    done: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        desk = SimpleNamespace(take_back_entries=lambda ts: self.done.append(f"take back {ts}"))
        strategy = SimpleNamespace(alive=lambda: self.rows, desk=desk)
        world = self

        class Signals:
            def take(self) -> None:
                if not world.asked:
                    world.done.append("take")

            @property
            def count(self) -> int:
                return world.asked

            @property
            def seen(self) -> bool:
                return world.asked > 0

        hooks = StopHooks(
            now=lambda: 7,
            naked=lambda: self.naked,
            begin=lambda: self.done.append("begin"),
            stop=lambda: self.done.append("stop"),
            clock=lambda: self.clock,
        )
        teller = SimpleNamespace(event=lambda kind, text: self.told.append((kind, text)))
        parts: Any = SimpleNamespace(strategy=strategy)
        signals: Any = Signals()
        self.stop = OrderlyStop(parts, signals, teller, hooks)

    def look(self) -> list[str]:
        self.done.clear()
        self.stop.look(0)
        return list(self.done)


def row(name: str = BTC, **fields: Any) -> Any:
    given = {"type": "MARKET", "status": "SUBMITTED", "reduce_only": False, **fields}
    return SimpleNamespace(instrument_id=name, **given)


STOP = row(type="STOP_MARKET", status="ACCEPTED", reduce_only=True)


def test_it_takes_the_signals_and_does_nothing_until_one_comes() -> None:
    world = World(rows=[row()], naked=frozenset({BTC}))
    assert world.look() == ["take"]
    assert not world.stop.begun


def test_without_anything_open_it_ends_at_once() -> None:
    world = World(rows=[STOP], asked=1)
    assert world.look() == ["begin", "take back 7", "stop"]
    assert world.look() == []
    assert world.told == []


@pytest.mark.parametrize(
    "open_",
    [
        row(),
        row(status="PARTIALLY_FILLED"),
        row(type="LIMIT", status="ACCEPTED"),
        row(type="STOP_MARKET", status="SUBMITTED", reduce_only=True),
    ],
)
def test_it_waits_for_what_may_still_trade_and_then_for_its_stop(open_: Any) -> None:
    world = World(rows=[open_], asked=1)
    assert world.look() == ["begin", "take back 7"]
    assert world.stop.begun
    assert world.look() == []
    # It has filled, and its stop is on its way.
    world.rows, world.naked = [], frozenset({BTC})
    assert world.look() == []
    world.rows, world.naked = [STOP], frozenset()
    assert world.look() == ["stop"]
    assert world.told == []


def test_it_waits_for_some_seconds_only_and_says_what_is_left() -> None:
    world = World(rows=[row(ETH)], naked=frozenset({BTC}), asked=1)
    world.look()
    world.clock += MOST_SECS
    assert world.look() == []
    world.clock += 0.1
    assert world.look() == ["stop"]
    ((kind, text),) = world.told
    assert kind == "naked"
    assert f"without their stop: {BTC}; with orders under way: {ETH}" in text


def test_asked_twice_it_ends_at_once() -> None:
    world = World(rows=[row()], asked=1)
    world.look()
    world.asked = 2
    assert world.look() == ["stop"]
    assert [kind for kind, _ in world.told] == ["open"]


def test_one_that_fails_ends_in_order_too_and_no_later_for_what_fails_on() -> None:
    world = World(rows=[row(type="LIMIT", status="ACCEPTED")])
    assert world.look() == ["take"]
    world.stop.fail()
    assert world.look() == ["take", "begin", "take back 7"]
    # Whatever fails fails again: that is no reason to end sooner.
    world.stop.fail()
    assert world.look() == ["take"]
    world.rows = []
    assert world.look() == ["take", "stop"]


def test_one_whose_looks_fail_ends_after_the_longest_wait() -> None:
    world = World(rows=[row()])
    world.stop.fail()
    world.clock += MOST_SECS + 0.1
    world.stop.fail()
    assert world.done == ["stop"]


def test_who_is_ending_opens_nothing() -> None:
    held: list[object] = []
    then: Any = SimpleNamespace(admit=lambda policy, intent: None, hold=held.append)
    leaving = False
    gate = LeavingGate(lambda: leaving, then)
    policy: Any = None
    intent: Any = None
    assert gate.admit(policy, intent) is None
    leaving = True
    refused = gate.admit(policy, intent)
    assert refused is not None
    assert refused.why == STOPPING
    gate.hold({BTC: (True, False)})
    assert held == [{BTC: (True, False)}]
