"""Whose money an engine's books count, and how much of it."""

from __future__ import annotations

import json
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from catalog.errors import ConfigError
from live.book_owner import (
    EQUITY,
    Part,
    follow_equity,
    require_own_account,
    require_own_books,
)
from live.engine_request import EngineRequest, ReplaySpan
from live.profile import load_profile
from live.state_store import StateStore
from strategies.guard_state import GuardState
from strategies.ledger import Ledger

BTC = "BTCUSDT-PERP.BINANCE"
REQUEST = EngineRequest(
    profile=load_profile("perps-swing"),
    bundle=Path("bundle"),
    state=Path("state"),
    traded=(BTC,),
    name="BTCUSDT",
)


class Outbox(nullcontext[None]):
    touched = False


def parts(store: StateStore, cash: float) -> Any:
    state = GuardState(equity=cash, day_start_equity=cash + 10.0, peak_equity=cash + 20.0)
    watch = SimpleNamespace(save=lambda: None)
    return SimpleNamespace(
        store=store,
        request=REQUEST,
        recorder=SimpleNamespace(ledger=Ledger(cash), errors=[]),
        guard=SimpleNamespace(guard=SimpleNamespace(state=state), watch=watch),
        strategy=SimpleNamespace(outbox=Outbox()),
    )


class Told:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def event(self, kind: str, text: str, **fields: object) -> None:
        self.texts.append(f"{kind}: {text}")


@pytest.mark.parametrize(
    "other",
    [
        {"mode": "testnet"},
        {"mode": "live"},
        {"exchange": "http://127.0.0.1:1"},
        {"replay": ReplaySpan(1, 2), "catalog": Path("c")},
    ],
)
def test_books_of_play_money_do_not_go_on_with_real_money(
    tmp_path: Path, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(StateStore(tmp_path / "engine.db")) as store:
        require_own_books(store, REQUEST)
        # Nothing was ever committed: they may begin anywhere.
        require_own_books(store, replace(REQUEST, **other))
        require_own_books(store, REQUEST)
        monkeypatch.setattr(StateStore, "snapshot", lambda self: object())
        require_own_books(store, REQUEST)
        with pytest.raises(ConfigError, match=r"must go on where they were begun, paper, Binance"):
            require_own_books(store, replace(REQUEST, **other))


def test_books_go_on_with_the_account_that_they_were_begun_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(REQUEST, mode="testnet")
    with closing(StateStore(tmp_path / "engine.db")) as store:
        require_own_account(store, request, "SgsR")
        # Nothing was ever committed: they may begin anywhere.
        require_own_account(store, request, "another")
        require_own_account(store, request, "SgsR")
        monkeypatch.setattr(StateStore, "snapshot", lambda self: object())
        require_own_account(store, request, "SgsR")
        require_own_account(store, request, "")
        with pytest.raises(ConfigError, match="the keys are another account's"):
            require_own_account(store, request, "another")
        assert b"SgsR" not in (tmp_path / "engine.db").read_bytes()


def test_a_changed_part_of_the_account_moves_books_and_what_the_guard_compares_with(
    tmp_path: Path,
) -> None:
    told = Told()
    with closing(StateStore(tmp_path / "engine.db")) as store:
        follow_equity(parts(store, 5_000.0), Part(5_000.0), told)
        # It has lost 100 since then.
        went_on = parts(store, 4_900.0)
        follow_equity(went_on, Part(5_000.0), told)
        assert (went_on.recorder.ledger.cash, told.texts) == (4_900.0, [])
        follow_equity(went_on, Part(500.0), told)
        assert went_on.recorder.ledger.cash == 400.0
        state = went_on.guard.guard.state
        # In proportion they are as far from the equity as they were.
        assert state.equity == 400.0
        assert state.day_start_equity == pytest.approx(4_910.0 * 400.0 / 4_900.0)
        assert state.peak_equity == pytest.approx(4_920.0 * 400.0 / 4_900.0)
        assert went_on.recorder.ledger.transferred == -4_500.0
        assert told.texts == ["equity: its part of the account is 500.00 USDT from now on"]
        follow_equity(went_on, Part(500.0), told)
        assert (went_on.recorder.ledger.cash, len(told.texts)) == (400.0, 1)
        follow_equity(went_on, Part(None, balance=3_000.0), told)
        assert went_on.recorder.ledger.cash == 3_000.0
        with pytest.raises(ConfigError, match="would take"):
            follow_equity(parts(store, 0.0), Part(0.0), told)


def test_a_move_that_was_interrupted_is_made_once(tmp_path: Path) -> None:
    with closing(StateStore(tmp_path / "engine.db")) as store:
        store.write(EQUITY, json.dumps({"given": 500.0, "cash": 400.0, "paper": None}))
        for cash in (4_900.0, 400.0):
            went_on = parts(store, cash)
            follow_equity(went_on, Part(500.0), Told())
            assert went_on.recorder.ledger.cash == 400.0
            assert went_on.guard.guard.state.equity == 400.0
