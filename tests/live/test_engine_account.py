"""What the owner of an account does with it, what somebody else does to its stream, and sockets
that fall while stops are replaced. Real engines on the test exchange."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from live.engine_status import EngineStatus
from tests.live.agreement import PREFIX, differences, journals
from tests.live.engine_world import ENGINE, EngineMarket, EngineProcess
from tests.live.test_engine import on, protected, require_agreement, signed
from tests.live.test_engine_cut import held, orders, until
from tests.live.test_engine_lifecycle import hold_while_protected

pytestmark = pytest.mark.slow
BTC = "BTCUSDT-PERP.BINANCE"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> EngineMarket:
    return EngineMarket.make(tmp_path_factory.mktemp("account"), busy=True)


def texts(engine: EngineProcess, *kinds: str) -> list[str]:
    return [one["text"] for one in engine.log(*kinds)]


def closed_by_hand(exchange: Any) -> str:
    """Close a position as a person does who sells more than there is; return its instrument."""
    symbol, quantity = next(iter(held(exchange).items()))
    order = {"symbol": symbol, "side": "SELL" if quantity > 0.0 else "BUY", "type": "MARKET"}
    size = f"{abs(quantity) * 3.0:.2f}"
    signed(exchange.url, "POST", "/fapi/v1/order", quantity=size, reduceOnly="true", **order)
    return symbol


def test_what_is_done_to_an_account_beside_its_engine(market: EngineMarket, tmp_path: Path) -> None:
    options = ("--weight-limit", "48000", "--fee-asset", "BNB")
    with market.exchange(*options) as exchange:
        path = "/fapi/v1/marginType"
        signed(exchange.url, "POST", path, symbol="BTCUSDT", marginType="ISOLATED")
        with EngineProcess(market, tmp_path, on(exchange)) as engine:
            code, text = engine.wait()
        assert (code, f"margin of {BTC} must be crossed, is isolated" in text) == (2, True), text
        signed(exchange.url, "POST", path, symbol="BTCUSDT", marginType="CROSSED")
        with EngineProcess(market, tmp_path, on(exchange)) as engine:
            engine.until(protected, "positions with their stops")
            # The engine's own client cannot make anything of that order, and goes on.
            symbol = closed_by_hand(exchange)
            until(lambda: any(symbol in one for one in texts(engine, "reconcile")), "told", 20.0)
            assert len(texts(engine, "reject")) <= 2, texts(engine, "reject")
            # Another one on the account ends the listen key, and nobody says so.
            before = exchange.remote.state()["connections"]["accepted"]
            signed(exchange.url, "DELETE", "/fapi/v1/listenKey")
            until(lambda: _told(engine, "all connections are made new"), "it is noticed", 90.0)
            until(lambda: _is_new(exchange, before), "listens anew", 60.0)
            until(lambda: _told(engine, "speaks again"), "it is told again", 60.0)
            exchange.remote.pause()
            time.sleep(4.0)
            assert engine.stop() == 0
        assert texts(engine, "error") == []
        require_agreement(engine, exchange.remote)
    with closing(sqlite3.connect(tmp_path / "engines" / ENGINE / "engine.db")) as db:
        rows = db.execute(
            "SELECT quantity * price, commission FROM fills WHERE commission > 0"
        ).fetchall()
    assert len(rows) > 5
    assert all(fee == pytest.approx(value * 0.0005, abs=1e-7) for value, fee in rows)


def _told(engine: EngineProcess, text: str) -> bool:
    return any(text in one for one in texts(engine, "account"))


def _is_new(exchange: Any, before: int) -> bool:
    now = exchange.remote.state()["connections"]
    return bool(now["user"] == 1 and now["accepted"] > before)


TRAILING = "{stop_vol_multiple: 1.0, min_frac: 0.004, max_frac: 0.008, trailing: true}"


def test_sockets_that_fall_while_stops_are_replaced_leave_one_stop_for_each_position(
    market: EngineMarket, tmp_path: Path
) -> None:
    options = ("--set", "strategy.stop_loss_frac=null", "--set", f"strategy.stops={TRAILING}")
    with (
        market.exchange("--weight-limit", "48000") as exchange,
        EngineProcess(market, tmp_path, (*on(exchange), *options)) as engine,
    ):
        engine.until(protected, "positions with their stops")
        for number in range(8):
            # The next stop arrives, its answer does not, and sockets fall at that moment.
            sent = _stops(engine)
            exchange.remote.fault("lost_answer", times=1, path="algoOrder")
            until(lambda sent=sent: _stops(engine) > sent, "another stop", 30.0)
            exchange.remote.fault("drop", channel=("user", "all")[number % 2])
        exchange.remote.clear_faults()
        replaced = sum(one["status"] == "CANCELED" for one in orders(exchange).values())
        engine.until(_trades, "it trades")
        until(lambda: _covered(exchange), "one stop for each position, and no other", 30.0)
        hold_while_protected(exchange.remote)
        # What fell silent is learnt with the next question.
        until(lambda: not _differences(engine, exchange), "the outcome of each order", 40.0)
        assert engine.stop() == 0
        assert texts(engine, "error") == []
        account = require_agreement(engine, exchange.remote)
        assert replaced > 0
        assert not any(one["open"] and not one["algo"] for one in account["orders"].values())


def _trades(status: EngineStatus) -> bool:
    return status.state == "trading"


def _differences(engine: EngineProcess, exchange: Any) -> tuple[str, ...]:
    path = engine.state / "engines" / ENGINE / "engine.db"
    account = exchange.remote.accounts()["main"]
    return differences(journals({ENGINE: path}), None, {}, account)


def _stops(engine: EngineProcess) -> int:
    return sum("-S" in name for name in engine.journal())


def _covered(exchange: Any) -> bool:
    """Whether each position has one stop of its engine, and nothing else rests."""
    ends = [
        name.rpartition("-")[2]
        for name, one in orders(exchange).items()
        if one["open"] and name.startswith(PREFIX)
    ]
    return len(ends) == len(set(ends)) == len(held(exchange))
