"""A reversal on an exchange whose answers take their time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from live.recovery import RecoveryConfig
from strategies.kept import LOST
from strategies.policy_config import FusionPolicy
from tests.live.kept_world import PAPER, BookExchange, Killed, Life, Setting, records_of
from tests.strategies.markets import BTC, close_time, flat_bars, make_inputs, make_predictor
from tests.strategies.settings import plain_execution

UP, DOWN = 0.9, 0.1
TURN = close_time(3)
"""When the position is to be reversed."""


class Market(BookExchange):
    """A long position from the second bar on; at the close of the fourth the short side is wanted.

    `refuses` names the orders that it refuses with the next record, `ignores` those that never
    reach it.
    """

    def __init__(self, folder: Path, *, until: int = 8) -> None:
        signals = {number: UP if close_time(number) < TURN else DOWN for number in range(until)}
        policy = FusionPolicy(
            entry_threshold=0.6,
            exit_threshold=0.5,
            position_frac=0.5,
            min_holding_bars=0,
            stop_loss_frac=0.1,
        )
        setting = Setting(
            make_inputs(flat_bars(8)),
            lambda: make_predictor(signals, volatility=0.01),
            policy,
            plain_execution(),
        )
        super().__init__(setting, records_of(setting))
        self.path = folder / "engine.db"
        self.refuses: Callable[[dict[str, Any]], bool] = lambda order: False
        self.ignores: Callable[[dict[str, Any]], bool] = lambda order: False
        self._refused: list[str] = []

    def life(self, calls: int = -1, *, first: bool = True) -> Life:
        life = Life(self.setting, self.records, self, self.path, calls)
        life.strategy.outbox.exits_first = first
        return life

    def submit(self, order: dict[str, Any]) -> None:
        if self.ignores(order):
            return
        if self.refuses(order):
            self._refused.append(order["client_order_id"])
            return
        super().submit(order)

    def advance(self, number: int) -> list[dict[str, Any]]:
        told = super().advance(number)
        refused, self._refused = self._refused, []
        no = {"what": "reject", "ts_event": self.now, "reason": "-2022", "post_only": False}
        return [{"client_order_id": name, **no} for name in refused] + told

    def story(self) -> list[str]:
        """Return the orders and trades since the reversal, as the exchange had them."""
        kinds = {"E": "entry", "X": "exit", "S": "stop"}
        later = [one for one in self.truth if one[0] == "order" or one[3] > TURN]
        told = [kinds[one[1].split("-")[1][0]] if one[0] == "order" else "trade" for one in later]
        return told[2:]


def is_exit(order: dict[str, Any]) -> bool:
    return bool(order["reduce_only"]) and order["trigger"] is None


def kinds(life: Life) -> dict[str, str]:
    """Return the statuses of the orders of the reversal."""
    rows = [row for row in life.recorder.orders.values() if row.ts_init == TURN]
    return {row.client_order_id.split("-")[1][0]: row.status for row in rows}


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (True, ["exit", "trade", "entry", "trade", "stop"]),
        (False, ["exit", "entry", "trade", "trade", "stop"]),
    ],
    ids=["at an exchange", "within a process"],
)
def test_the_entry_of_a_reversal_leaves_after_the_answer_to_its_exit(
    tmp_path: Path, first: bool, told: list[str]
) -> None:
    market = Market(tmp_path)
    life = market.life(first=first)
    life.run()
    assert market.story() == told
    held = life.recorder.ledger.quantity(BTC)
    assert held < 0.0
    assert market.book.ledger.quantity(BTC) == held
    life.close()


def test_an_exit_that_is_refused_takes_the_entry_with_it(tmp_path: Path) -> None:
    market = Market(tmp_path)
    market.refuses = lambda order: is_exit(order) and market.now == TURN
    life = market.life()
    life.run()
    # The next close decides anew, and nothing was sent in between.
    assert kinds(life) == {"X": "REJECTED", "E": "CANCELED"}
    assert market.story() == ["exit", "trade", "entry", "trade", "stop"]
    entry = next(row for row in life.recorder.orders.values() if row.detail == LOST)
    kept = life.store.order(entry.client_order_id)
    assert kept is not None
    assert kept.state not in ("planned", "sent")
    assert market.lookup(entry.client_order_id) is None
    assert market.book.ledger.quantity(BTC) == life.recorder.ledger.quantity(BTC) < 0.0
    life.close()


def test_an_entry_waits_in_silence_and_what_reduces_does_not(tmp_path: Path) -> None:
    market = Market(tmp_path)
    market.ignores = is_exit
    life = market.life()
    life.run()
    strategy = life.strategy
    assert kinds(life) == {"X": "INITIALIZED", "E": "INITIALIZED"}
    (entry,) = strategy.outbox.unsent()
    stop = strategy.desk.market("F", BTC, TURN + 1, -strategy.recorder.ledger.quantity(BTC), "kill")
    assert strategy.outbox.unsent() == {entry}
    for name in (
        next(row for row in strategy.alive() if row.ts_init == TURN).client_order_id,
        stop,
    ):
        strategy.lost(name, TURN + 2)
    assert kinds(life) == {"X": "CANCELED", "E": "CANCELED"}
    assert market.story() == []
    life.close()


def test_an_entry_that_waits_is_taken_back_without_a_word_to_the_exchange(tmp_path: Path) -> None:
    market = Market(tmp_path)
    market.ignores = is_exit
    life = market.life()
    life.run()
    life.strategy.desk.take_back_entries(TURN + 1)
    assert kinds(life) == {"X": "INITIALIZED", "E": "CANCELED"}
    assert life.strategy.outbox.waiting() == 0
    life.close()


@pytest.mark.parametrize("arrives", [True, False], ids=["arrived", "lost"])
def test_a_process_that_dies_between_exit_and_entry(tmp_path: Path, arrives: bool) -> None:
    market = Market(tmp_path)
    take = market.submit

    def dies(order: dict[str, Any]) -> None:
        if arrives or not is_exit(order):
            take(order)
        if is_exit(order):
            raise Killed

    market.submit = dies  # type: ignore[method-assign]
    life = market.life()
    with pytest.raises(Killed):
        life.run()
    life.close()
    market.submit = take  # type: ignore[method-assign]
    life = market.life()
    life.run(PAPER if arrives else RecoveryConfig(in_flight_secs=0.001, fresh_secs=1e9))
    assert kinds(life) == {
        "X": "FILLED" if arrives else "CANCELED",
        "E": "FILLED" if arrives else "CANCELED",
    }
    assert market.twice == []
    assert market.book.ledger.quantity(BTC) == life.recorder.ledger.quantity(BTC) < 0.0
    life.close()
