"""Positions are closed and stops kept while engine and exchange do not hear of one another.

Real engines on the test exchange; what is claimed is read from the exchange's own books.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.agreement import PREFIX
from tests.live.engine_world import EngineMarket, EngineProcess
from tests.live.test_engine import on, protected, require_agreement, signed

pytestmark = pytest.mark.slow

CUT_SECS = 10.0
BACK_SECS = 12.0
"""Sent anew after the engine's own time-out it would be more than twenty."""


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> EngineMarket:
    return EngineMarket.make(tmp_path_factory.mktemp("cut"))


def orders(exchange: Any) -> dict[str, Any]:
    found: dict[str, Any] = exchange.remote.accounts()["main"]["orders"]
    return found


def held(exchange: Any) -> dict[str, float]:
    positions = exchange.remote.accounts()["main"]["positions"]
    return {name: one[0] for name, one in positions.items() if one[0]}


def until(what: Callable[[], Any], words: str, secs: float = 60.0) -> float:
    """Wait until something is true; return the seconds that it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < secs, words
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.parametrize("fault", ["maintenance", "silence"])
def test_a_kill_while_it_is_cut_off_is_carried_out_as_soon_as_the_exchange_is_back(
    market: EngineMarket, tmp_path: Path, fault: str
) -> None:
    with market.exchange() as exchange, EngineProcess(market, tmp_path, on(exchange)) as engine:
        engine.until(protected, "positions with their stops")
        exchange.remote.fault("drop")
        exchange.remote.fault(fault, seconds=CUT_SECS)
        back = time.monotonic() + CUT_SECS
        time.sleep(0.5)
        (tmp_path / "kill").touch()
        # What was decided before the switch is on its way out as well.
        until(lambda: any("-F" in name for name in engine.journal()), "an exit was sent")
        until(lambda: time.monotonic() > back, "the cut is over")
        seconds = until(lambda: not held(exchange), "flat", BACK_SECS)
        print(f"{fault}: flat {seconds:.1f} s after the exchange was back")
        engine.until(lambda one: not one.positions, "flat in its own books")
        exchange.remote.pause()
        time.sleep(4.0)
        status = engine.status()
        assert status is not None
        assert status.guard.level == "halted"
        assert engine.stop() == 0
        account = require_agreement(engine, exchange.remote)
        assert account["positions"] == {}
        assert not any(one["open"] for one in account["orders"].values())
        # Nothing was closed twice.
        exits = Counter(
            name.rpartition("-")[2]
            for name, one in account["orders"].items()
            if name.startswith(PREFIX) and "-F" in name and one["executed"]
        )
        assert set(exits.values()) <= {1}, exits


def test_orders_of_a_state_folder_that_is_lost_refuse_the_start(
    market: EngineMarket, tmp_path: Path
) -> None:
    with market.exchange() as exchange:
        with EngineProcess(market, tmp_path / "lost", on(exchange)) as engine:
            engine.until(protected, "positions with their stops")
            exchange.remote.pause()
            time.sleep(2.0)
            assert engine.stop() == 0
        ours = [name for name, one in orders(exchange).items() if one["open"]]
        assert ours
        with EngineProcess(market, tmp_path / "new", on(exchange)) as engine:
            code, text = engine.wait()
        assert code == 2
        assert all(name.removeprefix(PREFIX) in text for name in ours), text
        assert "must be in the journal of its state folder" in text
        assert "or cancel them at the exchange" in text
        # Nothing was touched: the old state folder goes on.
        exchange.remote.resume()
        assert [name for name, one in orders(exchange).items() if one["open"]] == ours
        with EngineProcess(market, tmp_path / "lost", on(exchange)) as engine:
            engine.until(lambda one: one.state == "trading" and protected(one), "it goes on")
            assert engine.stop() == 0


def test_what_rests_without_a_purpose_is_taken_back_and_what_nobody_knows_is_told(
    market: EngineMarket, tmp_path: Path
) -> None:
    with market.exchange() as exchange, EngineProcess(market, tmp_path, on(exchange)) as engine:
        engine.until(protected, "positions with their stops")
        until(
            lambda: any(
                "-S" in name and state == "closed"
                for name, (state, _, _) in engine.journal().items()
            ),
            "a stop that is over",
        )
        name = next(
            one
            for one, (state, _, _) in engine.journal().items()
            if "-S" in one and state == "closed"
        )
        side, price = ("SELL", 1_000) if held(exchange).get("BTCUSDT", 1.0) > 0.0 else ("BUY", 1e6)
        stop = {"symbol": "BTCUSDT", "side": side, "type": "STOP_MARKET", "quantity": "0.01"}
        stop |= {"algoType": "CONDITIONAL", "triggerPrice": f"{price:.1f}", "reduceOnly": "true"}
        stranger = name.partition("-")[0] + "-S0000001-0000000"
        for one in (name, stranger):
            signed(exchange.url, "POST", "/fapi/v1/algoOrder", clientAlgoId=PREFIX + one, **stop)
        until(lambda: not orders(exchange)[PREFIX + name]["open"], "taken back", 40.0)
        assert any(name in one["text"] for one in engine.log("account"))
        until(lambda: any(stranger in one["text"] for one in engine.log("reconcile")), "told", 40.0)
        assert orders(exchange)[PREFIX + stranger]["open"]
        status = engine.status()
        assert status is not None
        assert protected(status)
        assert engine.stop() == 0
        assert engine.log("error") == []


def test_a_stop_that_is_gone_without_a_word_is_found_missing_at_the_exchange(
    market: EngineMarket, tmp_path: Path
) -> None:
    with market.exchange() as exchange, EngineProcess(market, tmp_path, on(exchange)) as engine:
        engine.until(protected, "positions with their stops")
        # Nobody tells the engine: its own books still show the stop.
        exchange.remote.fault("silence", seconds=60.0, channel="user")
        gone = next(name for name, one in orders(exchange).items() if one["algo"] and one["open"])
        signed(exchange.url, "DELETE", "/fapi/v1/algoOrder", clientAlgoId=gone)
        before, end = {*orders(exchange)}, gone.rpartition("-")[2]

        def safe() -> bool:
            """Another stop, or an order to get out, has come to the exchange."""
            new = {*orders(exchange)} - before
            return any(name.endswith(end) and ("-S" in name or "-F" in name) for name in new)

        seconds = until(safe, "another stop, or a way out", 40.0)
        print(f"found missing after {seconds:.1f} s")
        told = [one["text"] for one in engine.log("reconcile")]
        assert any(gone.removeprefix(PREFIX) in text for text in told), told
        exchange.remote.clear_faults()
        assert engine.stop() == 0


def test_an_entry_that_filled_while_nobody_heard_of_it_gets_its_stop(
    market: EngineMarket, tmp_path: Path
) -> None:
    """Its answer is lost, streams are silent, and nothing can be asked: the engine gives it up."""
    secs = 38.0
    # The market stands still until the faults are on: of its first entries nothing is heard.
    played = market.exchange("--paused")
    with played as exchange, EngineProcess(market, tmp_path, on(exchange)) as engine:
        engine.until(lambda one: one.state in ("warming", "trading", "waiting"), "it runs")
        fault = exchange.remote.fault
        fault("lost_answer", seconds=secs, path="order.place")
        fault("silence", seconds=secs, channel="user")
        fault("server_error", seconds=secs, status=503, path="fapi.*(rder|Trades|v2/)")
        end = time.monotonic() + secs
        exchange.remote.resume()
        until(lambda: held(exchange), "something is held that the engine knows nothing of")
        time.sleep(0.5)
        exchange.remote.pause()
        names = {name for name, one in orders(exchange).items() if one["executed"]}
        # A moment before it can ask again.
        until(lambda: time.monotonic() > end - 1.5, "the engine has given up")
        status = engine.status()
        assert status is not None
        assert status.positions == {}
        exchange.remote.resume()

        def safe() -> bool:
            """Whatever is held there, the engine knows, and has a stop or a way out for it."""
            now, there = engine.status(), held(exchange)
            assert now is not None
            known = {name.partition("-")[0] for name in now.positions}
            resting = {
                name.rpartition("-")[2]
                for name, one in orders(exchange).items()
                if one["open"] and ("-S" in name or "-F" in name)
            }
            return known == set(there) and len(resting) >= len(there)

        until(safe, "known and protected, or closed", 30.0)
        exchange.remote.pause()
        time.sleep(4.0)
        told = [one["text"] for one in engine.log("account")]
        assert any("nobody had answered, is FILLED at the exchange" in one for one in told), told
        booked = {name: filled for name, (_, _, filled) in engine.journal().items()}
        for name in names:
            assert booked[name.removeprefix(PREFIX)] == orders(exchange)[name]["executed"]
        exchange.remote.resume()
        assert engine.stop() == 0
        require_agreement(engine, exchange.remote)
