"""An engine that is given up leaves no entry at the exchange that would open a position."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from adapters.accounts import AccountOrder
from adapters.errors import AdapterError
from live.engine_process import EngineEvent
from live.given_up import GivenUp
from tests.strategies.markets import BTC


def order(name: str, kind: str = "LIMIT") -> AccountOrder:
    return AccountOrder(name, "1", BTC, 1, 1.0, 0.0, 0.0, kind, "ACCEPTED")


class Account:
    """An account that does not answer the first questions."""

    def __init__(self, *orders: AccountOrder, silent: int = 0) -> None:
        self.orders = list(orders)
        self.silent = silent
        self.asked = 0
        self.cancelled: list[str] = []

    def state(self, instruments: tuple[str, ...]) -> Any:
        assert instruments == (BTC,)
        self.asked += 1
        if self.asked <= self.silent:
            raise AdapterError("the exchange must answer, did not")
        return SimpleNamespace(orders=tuple(self.orders))

    def cancel(self, one: AccountOrder) -> None:
        self.cancelled.append(one.client_order_id)


def observer(account: Account, told: list[str]) -> GivenUp:
    request: Any = SimpleNamespace(order_tag="F1", traded=(BTC,))
    return GivenUp({"btc": request}, told.append, lambda _: account, again_secs=0.01)


def until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + 20.0
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_entries_that_rest_are_taken_back_and_nothing_else() -> None:
    others = (order("F1-S1", "STOP_MARKET"), order("F1-X1"), order("F2-E1"), order("web_abc"))
    account, told = Account(order("F1-E1"), *others, silent=2), []
    looks = observer(account, told)
    looks.on_event(EngineEvent("btc", "crashed", "why"))
    looks.on_event(EngineEvent("other", "given_up", "why"))
    assert account.asked == 0
    looks.on_event(EngineEvent("btc", "given_up", "why"))
    until(lambda: len(told) == 2)
    assert account.cancelled == ["F1-E1"]
    # An exchange that stays away is told once.
    assert "cannot be taken back yet" in told[0]
    assert "F1-E1 are taken back" in told[1]


def test_an_engine_that_is_started_again_looks_after_its_own() -> None:
    account, told = Account(order("F1-E1"), silent=10**9), []
    looks = observer(account, told)
    looks.on_event(EngineEvent("btc", "given_up", "why"))
    until(lambda: account.asked > 1)
    looks.on_event(EngineEvent("btc", "started", ""))
    time.sleep(0.1)
    asked = account.asked
    time.sleep(0.1)
    assert account.asked == asked
    assert account.cancelled == []
