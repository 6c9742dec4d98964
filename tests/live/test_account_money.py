"""Engines whose account's owner pays in and takes out, and engines beside each other on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.accounts import AccountState, Transfer
from adapters.errors import AdapterError
from catalog.errors import ConfigError
from live import account_money
from live.account_claim import Share
from live.account_money import ACCOUNT_SHORT, TRANSFERS, AccountGate, AccountMoney
from live.state_store import StateStore
from strategies.guard_orders import REFUSALS
from tests.live.engine_world import EngineMarket, EngineProcess
from tests.live.test_book_owner import Told, parts
from tests.live.test_engine import on, protected, require_agreement


class Exchange:
    """An account that says what it is told to say."""

    def __init__(self) -> None:
        self.listed: tuple[Transfer, ...] = ()
        self.asked = 0
        self.fails = False

    def transfers(self, since_ns: int) -> tuple[Transfer, ...]:
        self.asked += 1
        if self.fails:
            raise AdapterError("silent")
        return self.listed


class Claim:
    """What other engines count with."""

    def __init__(self) -> None:
        self.shares: dict[str, Share] = {}
        self.said: list[float] = []

    def alone(self) -> Any:
        return closing(SimpleNamespace(close=lambda: None))

    def others(self) -> dict[str, Share]:
        return self.shares

    def share(self, cash: float) -> None:
        self.said.append(cash)


class World:
    """One engine's money, a clock, an exchange."""

    def __init__(self, store: StateStore, cash: float, equity: float | None = None) -> None:
        self.books: Any = parts(store, cash)
        self.books.request = replace(self.books.request, mode="testnet", equity=equity)
        self.exchange, self.claim, self.told = Exchange(), Claim(), Told()
        self.clock = 1_000.0
        self.money = AccountMoney(
            self.books,
            self.exchange,  # type: ignore[arg-type]
            self.claim,  # type: ignore[arg-type]
            lambda: 1_700_000_000_000_000_000,
            self.told,
        )

    @property
    def cash(self) -> float:
        return float(self.books.recorder.ledger.cash)

    def hear(self, balance: float, secs: float = 1.0) -> None:
        """Let time pass, the account answer, and the engine look."""
        self.clock += secs
        self.money.judge(AccountState(balance, (), ()), settled=True)
        self.money.look(0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with closing(StateStore(tmp_path / "engine.db")) as found:
        yield found


@pytest.fixture
def one(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> World:
    return made(store, monkeypatch)


def made(store: StateStore, monkeypatch: pytest.MonkeyPatch, **given: Any) -> World:
    world = World(store, 1_000.0, **given)

    class Now:
        def __init__(self, target: Any, args: Any, **_: Any) -> None:
            self.start = lambda: target(*args)

    monkeypatch.setattr(account_money, "threading", SimpleNamespace(Thread=Now))
    monkeypatch.setattr(account_money.time, "monotonic", lambda: world.clock)
    return world


def paid(amount: float, name: str = "1") -> Transfer:
    return Transfer(name, 1_700_000_000_000_000_000, amount)


def test_what_is_paid_in_or_taken_out_is_booked_once_as_neither_gain_nor_loss(one: World) -> None:
    one.exchange.listed = (paid(300.0, "before"),)
    one.money.begin(1_000.0, fresh=True)
    state = one.books.guard.guard.state
    before = state.day_start_equity, state.peak_equity
    one.hear(1_000.0)
    assert one.exchange.asked == 1, "only at the start"
    one.exchange.listed += (paid(-400.0, "after"),)
    one.hear(600.0)
    assert (one.cash, state.equity) == (600.0, 600.0)
    assert (state.day_start_equity, state.peak_equity) == tuple(0.6 * x for x in before)
    for _ in range(100):
        one.hear(600.0)
    assert (one.cash, one.exchange.asked, one.money.short) == (600.0, 2, "")
    # Again soon: it is asked for as soon as it may be, and nothing is opened until then.
    one.hear(600.0, 0.0)
    one.exchange.listed += (paid(900.0, "later"),)
    one.hear(1_500.0, 60.0)
    assert one.cash == 1_500.0
    assert one.books.recorder.ledger.transferred == 500.0
    assert [text.partition(",")[0] for text in one.told.texts if "paid" in text] == [
        "equity: 900.00 USDT were paid in"
    ]


def test_what_is_missing_for_no_reason_is_a_loss_and_what_is_too_much_is_not_counted(
    one: World,
) -> None:
    one.money.begin(1_000.0, fresh=True)
    peak = one.books.guard.guard.state.peak_equity
    one.hear(990.0)
    assert "the account holds 990.00 USDT" in one.money.short
    refused = AccountGate((one.money.refused,)).admit(None, None)  # type: ignore[arg-type]
    assert refused is not None
    assert refused.why == ACCOUNT_SHORT
    assert ACCOUNT_SHORT in REFUSALS
    one.exchange.fails = True
    for _ in range(10):
        one.hear(990.0, 30.0)
    assert one.cash == 1_000.0, "nobody has said that it was no transfer"
    one.exchange.fails = False
    for _ in range(4):
        one.hear(990.0, 30.0)
    assert (one.cash, one.money.short) == (990.0, "")
    assert one.books.guard.guard.state.peak_equity == peak
    asked = one.exchange.asked
    for _ in range(10):
        one.hear(1_200.0, 30.0)
    assert (one.cash, one.money.short) == (990.0, "")
    assert one.exchange.asked == asked + 2
    assert sum("left alone" in text for text in one.told.texts) == 1


def test_a_transfer_that_a_process_died_over_is_booked_by_the_next(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(store, monkeypatch)
    one.money.begin(1_000.0, fresh=True)
    one.exchange.listed = (paid(-400.0),)
    with monkeypatch.context() as patch:
        patch.setattr(account_money, "move_books", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one.hear(600.0)
    again = made(store, monkeypatch)
    again.exchange.listed = one.exchange.listed
    again.money.repair()
    again.money.begin(600.0, fresh=False)
    assert again.cash == 600.0
    # It had booked it, and died before it could say so.
    store.write(TRANSFERS, json.dumps({"ids": {"1": 1}, "amount": -400.0, "before": 0.0}))
    again.money.repair()
    assert again.cash == 600.0


def test_engines_must_fit_into_their_account_when_they_begin(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(store, monkeypatch, equity=1_000.0)
    one.claim.shares = {"two": Share(500.0, False)}
    with pytest.raises(
        ConfigError, match=r"count with 1,500.00 in all \(BTCUSDT 1,000.00, two 500"
    ):
        one.money.begin(1_499.0 - 1.6, fresh=True)
    assert one.claim.said == []
    one.money.begin(1_500.0, fresh=True)
    assert one.claim.said == [1_000.0]
    # Who goes on has positions to look after.
    one.money.begin(1_400.0, fresh=False)
    assert "holds 1,400.00 USDT" in one.money.short
    one.hear(1_500.0)
    assert one.money.short == ""
    one.hear(1_400.0)
    assert one.money.short == "", "one answer may come between a fill and its booking"
    one.hear(1_400.0)
    assert one.money.short
    assert one.exchange.asked == 0
    assert one.cash == 1_000.0
    one.claim.shares = {"two": Share(500.0, True)}
    with pytest.raises(ConfigError, match="must share it by --equity, two would count with all"):
        one.money.begin(9_000.0, fresh=False)
    all_ = made(store, monkeypatch)
    all_.claim.shares = {"two": Share(500.0, False)}
    with pytest.raises(ConfigError, match="BTCUSDT would count with all of it beside BTCUSDT, two"):
        all_.money.begin(9_000.0, fresh=False)


# ---- real processes


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> EngineMarket:
    return EngineMarket.make(tmp_path_factory.mktemp("money"))


@pytest.mark.slow
def test_an_engine_follows_its_account_while_it_runs_and_between_runs(
    market: EngineMarket, tmp_path: Path
) -> None:
    with market.exchange() as exchange:
        with EngineProcess(market, tmp_path, on(exchange)) as engine:
            engine.until(protected, "positions with their stops")
            exchange.remote.transfer(-40_000.0)
            engine.until(lambda one: one.transferred == -40_000.0, "taken out")
            status = engine.status()
            assert status is not None
            assert status.guard.level == "normal"
            assert status.equity == pytest.approx(60_000.0, rel=0.05)
            for value in (status.day_start_equity, status.peak_equity):
                assert value == pytest.approx(60_000.0, rel=0.05)
            assert engine.stop() == 0
        exchange.remote.transfer(25_000.0)
        with EngineProcess(market, tmp_path, on(exchange)) as engine:
            engine.until(lambda one: one.transferred == -15_000.0, "paid in")
            engine.until(lambda one: one.state == "trading" and one.counters.bars > 3, "trading")
            exchange.remote.pause()
            engine.until(lambda one: one.state in ("trading", "waiting"), "still there")
            status = engine.status()
            assert engine.stop() == 0
        assert status is not None
        assert status.guard.level == "normal"
        account = require_agreement(engine, exchange.remote)
        assert status.cash == pytest.approx(account["cash"], abs=100.0)
        assert [one["text"] for one in engine.log("reconcile", "guard", "error")] == []


@pytest.mark.slow
def test_engines_with_parts_say_when_their_account_no_longer_holds_them(
    market: EngineMarket, tmp_path: Path
) -> None:
    with market.exchange() as exchange:
        one = (*on(exchange), "--symbols", "BTCUSDT", "--equity", "60000")
        two = (*on(exchange), "--symbols", "ETHUSDT", "--name", "two", "--equity")
        with EngineProcess(market, tmp_path / "1", (*one, "--name", "synthetic")) as first:
            first.until(protected, "a position with its stop")
            with EngineProcess(market, tmp_path / "2", (*two, "50000")) as second:
                code, text = second.wait()
            assert code == 2, text
            assert "the account holds 100,0" in " ".join(text.split()) or "99,9" in text
            assert "--equity of engine two must fit into the account" in " ".join(text.split())
            exchange.remote.transfer(-60_000.0)
            first.until(lambda _: len(first.log("account")) == 1, "told")
            (told,) = first.log("account")
            assert "nothing new is opened" in told["text"]
            status = first.status()
            assert status is not None
            assert (status.transferred, status.guard.level) == (0.0, "normal")
            exchange.remote.transfer(60_000.0)
            first.until(lambda _: len(first.log("account")) == 2, "told again")
            assert first.stop() == 0


@pytest.mark.slow
def test_another_account_is_refused_for_the_same_books(
    market: EngineMarket, tmp_path: Path
) -> None:
    accounts = ("--account", "main:test-key:test-secret", "--account", "other:k2:s2")
    rotated = {"BINANCE_TESTNET_API_KEY": "k2", "BINANCE_TESTNET_API_SECRET": "s2"}
    with market.exchange(*accounts) as exchange:
        with EngineProcess(market, tmp_path, on(exchange)) as engine:
            engine.until(protected, "positions with their stops")
            assert engine.stop() == 0
        with EngineProcess(market, tmp_path, on(exchange), rotated) as engine:
            code, text = engine.wait()
        assert code == 2
        assert "the keys are another account's" in " ".join(text.split())
        assert exchange.remote.accounts()["other"]["requests"] == 0
        assert "s2" not in text
