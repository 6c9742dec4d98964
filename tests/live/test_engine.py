"""`levibot live run` in processes of its own: on a recording, and on the test exchange through the
engine's compiled clients. What each test claims is read from what the exchange says, from the
engine's journal and from its log."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from catalog.timestamps import parse_time
from live.engine_status import EngineStatus
from live.pipeline import load_market
from live.profile import load_profile
from strategies.backtest import run_backtest
from tests.exchange.runner import Remote
from tests.live.agreement import differences, journals
from tests.live.engine_world import ENGINE, EngineMarket, EngineProcess

SPAN = ("2024-01-26", "2024-01-27")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> EngineMarket:
    return EngineMarket.make(tmp_path_factory.mktemp("engine"))


def signed(url: str, method: str, path: str, **query: Any) -> Any:
    """What a person does beside the engine, with the same account."""
    stamp = {"timestamp": int(time.time() * 1_000), "recvWindow": 10_000}
    text = urlencode({**query, **stamp})
    sign = hmac.new(b"test-secret", text.encode(), hashlib.sha256).hexdigest()
    answer = requests.request(
        method,
        f"{url}{path}?{text}&signature={sign}",
        headers={"X-MBX-APIKEY": "test-key"},
        timeout=10,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def on(exchange: Any, mode: str = "testnet") -> tuple[str, ...]:
    return ("--mode", mode, "--exchange", exchange.url, "--speed", "900")


def protected(status: EngineStatus) -> bool:
    return bool(status.positions) and all(one.stop for one in status.positions.values())


def require_agreement(engine: EngineProcess, remote: Remote) -> dict[str, Any]:
    """Every order is in journal and exchange, once, with the same outcome; so are positions."""
    account = remote.accounts()["main"]
    path = engine.state / "engines" / engine.name / "engine.db"
    assert differences(journals({engine.name: path}), None, {}, account) == ()
    return account


def fills(state: Path) -> list[tuple[Any, ...]]:
    query = "SELECT ts_event, instrument_id, side, quantity, price, commission FROM fills"
    with sqlite3.connect(state / "engines" / ENGINE / "engine.db") as db:
        return db.execute(f"{query} ORDER BY seq").fetchall()


@pytest.mark.slow
def test_on_a_recording_it_fills_as_the_backtest_also_after_a_kill(
    market: EngineMarket, tmp_path: Path
) -> None:
    span = f"{SPAN[0]}..{SPAN[1]}"
    # An hour in a second: long enough to be killed on the way.
    slow = ("--replay", span, "--speed", "43200")
    with EngineProcess(market, tmp_path, slow) as engine:
        engine.until(lambda status: status.counters.fills > 0, "a fill")
        engine.kill()
    with EngineProcess(market, tmp_path, ("--replay", span)) as engine:
        code, text = engine.wait()
    assert (code, "stopped in order" in text) == (0, True), text
    profile = load_profile(str(market.profile))
    start, end = map(parse_time, SPAN)
    loaded = load_market(profile, market.market.catalog, span=(start, end), warmup=True)
    predictor = market.market.predictor()
    loaded.warm_up(predictor, start)
    inputs = loaded.replay_inputs(start, end, None)
    expected = run_backtest(inputs, predictor, profile.strategy, profile.execution).fills
    columns = ["ts_event", "instrument_id", "side", "quantity", "price", "commission"]
    assert fills(tmp_path) == [tuple(row) for row in expected[columns].itertuples(index=False)]
    assert len(expected) > 2


def test_it_trades_on_the_exchange_and_goes_on_after_a_kill(
    market: EngineMarket, tmp_path: Path
) -> None:
    with market.exchange() as exchange:
        with EngineProcess(market, tmp_path, on(exchange)) as engine:
            engine.until(protected, "positions with their stops")
            engine.kill()
        held = exchange.remote.accounts()["main"]["positions"]
        assert held
        with EngineProcess(market, tmp_path, on(exchange)) as engine:
            seconds = engine.until(lambda status: status.state == "trading", "trading again")
            engine.until(lambda status: status.counters.bars > 0, "a bar")
            # What was paid and filled must have been told before the two are compared.
            exchange.remote.pause()
            time.sleep(4.0)
            status = engine.status()
            assert status is not None
            assert protected(status)
            assert engine.stop() == 0
        account = require_agreement(engine, exchange.remote)
        assert [one["text"] for one in engine.log("naked", "error", "reconcile", "guard")] == []
        states = [one["text"].partition(":")[0] for one in engine.log("state")]
        assert states[:2] == ["starting -> warming", "warming -> trading"]
        assert "trading -> warming" not in states
        assert status.cash == pytest.approx(account["cash"], abs=1e-8)
        print(f"trading {seconds:.1f} s after a start")
        texts = "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
        assert "test-secret" not in texts


@pytest.mark.slow
def test_paper_on_a_feed_outlives_its_process(market: EngineMarket, tmp_path: Path) -> None:
    with market.exchange() as exchange:
        with EngineProcess(market, tmp_path, on(exchange, "paper")) as engine:
            engine.until(protected, "positions with their stops")
            before = engine.status()
            engine.kill()
        with EngineProcess(market, tmp_path, on(exchange, "paper")) as engine:
            engine.until(lambda one: one.counters.bars > 0, "a bar")
            after = engine.status()
            assert engine.stop() == 0
        assert before is not None
        assert after is not None
        assert protected(after)
        assert exchange.remote.accounts()["main"]["orders"] == {}
        assert engine.log("error", "naked") == []


@pytest.mark.slow
def test_a_stop_that_a_person_takes_away_is_an_alarm_and_the_position_is_closed(
    market: EngineMarket, tmp_path: Path
) -> None:
    with market.exchange() as exchange, EngineProcess(market, tmp_path, on(exchange)) as engine:
        engine.until(protected, "positions with their stops")
        orders = exchange.remote.accounts()["main"]["orders"]
        name = next(key for key, one in orders.items() if one["algo"] and one["open"])
        signed(exchange.url, "DELETE", "/fapi/v1/algoOrder", clientAlgoId=name)
        seconds = engine.until(lambda one: one.counters.naked_alarms == 1, "the alarm")
        assert seconds > 1.5
        engine.until(lambda _: any("-F" in key for key in engine.journal()), "an exit by force")
        assert engine.stop() == 0
        require_agreement(engine, exchange.remote)
        (told,) = engine.log("naked")
        assert "was without its stop for 2" in told["text"]


@pytest.mark.slow
def test_an_exchange_that_refuses_stops_leaves_no_position_behind(
    market: EngineMarket, tmp_path: Path
) -> None:
    with market.exchange() as exchange, EngineProcess(market, tmp_path, on(exchange)) as engine:
        exchange.remote.fault("reject_stop", seconds=60.0)
        engine.until(
            lambda one: one.counters.rejects >= 3 and not one.positions, "refused and left"
        )
        # The market goes on: in one that stands still no way out would ever fill. What the next
        # close has opened meanwhile, the engine gets out of before it ends.
        assert engine.stop() == 0
        account = require_agreement(engine, exchange.remote)
        assert account["positions"] == {}


@pytest.mark.slow
def test_what_a_person_holds_is_left_alone_unless_it_is_claimed(
    market: EngineMarket, tmp_path: Path
) -> None:
    with market.exchange() as exchange:
        order = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.5"}
        signed(exchange.url, "POST", "/fapi/v1/order", **order)
        with EngineProcess(market, tmp_path / "alone", on(exchange)) as engine:
            engine.until(protected, "positions with their stops")
            status = engine.status()
            assert engine.stop() == 0
        assert status is not None
        own = {name: one.quantity for name, one in status.positions.items()}
        theirs = exchange.remote.accounts()["main"]["positions"]["BTCUSDT"][0]
        assert theirs == pytest.approx(0.5 + own.get("BTCUSDT-PERP.BINANCE", 0.0))
        (foreign,) = engine.log("foreign")
        assert foreign["text"] == "0.5 BTCUSDT-PERP.BINANCE is not ours and is left alone"
        # Its stops are those of another state folder: a new one would not start beside them.
        for name, order in exchange.remote.accounts()["main"]["orders"].items():
            if order["open"]:
                signed(exchange.url, "DELETE", "/fapi/v1/algoOrder", clientAlgoId=name)
        claiming = (*on(exchange), "--set", "live.claim=true")
        with EngineProcess(market, tmp_path / "claim", claiming) as engine:
            engine.until(lambda one: "BTCUSDT-PERP.BINANCE" in one.positions, "claimed")
            engine.until(protected, "what is claimed has a stop")
            assert engine.log("naked") == []
            assert engine.stop() == 0


@pytest.mark.slow
def test_it_goes_on_trading_after_a_silence_of_everything(
    market: EngineMarket, tmp_path: Path
) -> None:
    # Each fault by itself is in test_engine_faults.
    with market.exchange() as exchange, EngineProcess(market, tmp_path, on(exchange)) as engine:
        engine.until(protected, "positions with their stops")
        exchange.remote.fault("silence", seconds=4.0)
        time.sleep(5.0)
        status = engine.status()
        assert status is not None
        seen = status.last_bar_ns
        engine.until(lambda one: one.state == "trading" and one.last_bar_ns > seen, "back")
        # Time for what was on its way, and for the books to be compared. An order that was lost is
        # given up by the engine's own time-out.
        exchange.remote.pause()
        time.sleep(4.0)
        deadline = time.monotonic() + 40.0
        while any(state == "sent" for state, _, _ in engine.journal().values()):
            assert time.monotonic() < deadline, engine.journal()
            time.sleep(0.5)
        status = engine.status()
        assert status is not None
        assert protected(status) or not status.positions
        assert engine.stop() == 0
        account = require_agreement(engine, exchange.remote)
        held = {f"{name}-PERP.BINANCE": one[0] for name, one in account["positions"].items()}
        assert held == {name: one.quantity for name, one in status.positions.items()}


@pytest.mark.slow
def test_an_engine_that_stops_does_not_silence_those_beside_it(
    market: EngineMarket, tmp_path: Path
) -> None:
    with market.exchange() as exchange:
        one = (*on(exchange), "--symbols", "BTCUSDT", "--name", ENGINE, "--equity", "30000")
        two = (*on(exchange), "--symbols", "ETHUSDT", "--name", "other", "--equity", "30000")
        with (
            EngineProcess(market, tmp_path / "1", one) as first,
            EngineProcess(market, tmp_path / "2", two, name="other") as second,
        ):
            first.until(lambda status: status.state == "trading", "first trades")
            second.until(lambda status: status.state == "trading", "second trades")
            assert first.stop() == 0
            assert "engine synthetic stopped in order" in first.output()
            assert exchange.remote.state()["connections"]["user"] == 1
            second.until(protected, "second is told of its fills")
            assert second.stop() == 0
        found = first.status()
        assert found is not None
        assert found.state == "stopped"


def test_money_needs_a_word_and_keys(market: EngineMarket, tmp_path: Path) -> None:
    arguments = ("--mode", "live", "--exchange", "http://127.0.0.1:9")
    with EngineProcess(market, tmp_path, arguments) as engine:
        code, text = engine.wait()
    assert code == 2
    assert "LEVIBOT_ALLOW_LIVE must be yes in the environment, was not set" in text
    assert "test-secret" not in text
