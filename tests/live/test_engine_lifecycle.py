"""Ends, absences and starts of engines, and markets that come in pieces: real processes on the test
exchange, judged by its truth log, trade by trade, and by its account, to the cent."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from catalog.timestamps import NS_PER_DAY
from live.engine_status import EngineStatus
from live.registry import Registry
from tests.exchange.runner import ExchangeProcess, Remote
from tests.exchange.truth import NAME as TRUTH
from tests.live.agreement import differences, journals, ours, truth
from tests.live.engine_world import ENGINE, ROOT, EngineMarket, EngineProcess
from tests.live.test_engine import protected
from tests.soak.fleet import Fleet
from tests.soak.market import FleetMarket

pytestmark = pytest.mark.slow
NS = 1_000_000_000
CENT = 0.005


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> EngineMarket:
    return EngineMarket.make(tmp_path_factory.mktemp("busy"), busy=True)


@contextmanager
def exchange_of(
    market: EngineMarket, folder: Path, *arguments: str, speed: str = "900"
) -> Iterator[ExchangeProcess]:
    """A test exchange that writes down everything; accelerated, it grants what real time would."""
    state = ("--state", str(folder / "exchange"), "--weight-limit", "48000")
    with market.exchange(*state, *arguments, speed=speed) as exchange:
        yield exchange


def engine_of(
    market: EngineMarket, folder: Path, exchange: ExchangeProcess, speed: str = "900"
) -> EngineProcess:
    """An engine of its own."""
    options = ("--mode", "testnet", "--exchange", exchange.url, "--speed", speed)
    return EngineProcess(market, folder / "state", options)


def until(what: Callable[[], Any], words: str, secs: float = 60.0) -> None:
    deadline = time.monotonic() + secs
    while not what():
        assert time.monotonic() < deadline, words
        time.sleep(0.02)


def account(remote: Remote) -> dict[str, Any]:
    found: dict[str, Any] = remote.accounts()["main"]
    return found


def require_agreement(folder: Path, remote: Remote) -> None:
    """Orders and trades are those of the exchange's truth log: none doubled, none lost."""
    lines = (folder / "exchange" / TRUTH).read_text(encoding="utf-8").splitlines()
    there, refused = truth(map(json.loads, lines))
    here = journals({ENGINE: folder / "state" / "engines" / ENGINE / "engine.db"})
    assert differences(here, there, refused, account(remote)) == ()
    assert len(there.fills) > 2


def require_stops(remote: Remote) -> None:
    """Every position of the account is covered by a stop that rests there."""
    found = account(remote)
    stops = [name for name, one in found["orders"].items() if one["open"] and one["algo"]]
    # A stop is named after its instrument: one each, and none of something else.
    assert len(stops) == len(found["positions"]), (found["positions"], stops)
    assert all("-S" in ours(name) for name in stops)


def require_covered(database: Path, account: dict[str, Any]) -> None:
    """The stops that rest are for what is held, in sum."""
    with closing(sqlite3.connect(database)) as db:
        rows = db.execute("SELECT client_order_id, instrument_id, quantity FROM orders")
        sent = {name: (instrument.split("-")[0], size) for name, instrument, size in rows}
    covered = Counter[str]()
    for name, one in account["orders"].items():
        if one["algo"] and one["open"]:
            symbol, size = sent[ours(name)]
            covered[symbol] += size
    held = {name: abs(one[0]) for name, one in account["positions"].items()}
    assert covered == pytest.approx(held)


def settled(exchange: ExchangeProcess, engine: EngineProcess) -> EngineStatus:
    """Stop the market, wait for what is on its way, and return what the engine says then."""
    exchange.remote.pause()
    time.sleep(6.0)
    # What a busy machine did not hear in time is found at the account some seconds later.
    end = time.monotonic() + 40.0
    while True:
        found = engine.status()
        assert found is not None
        off = abs(found.cash - account(exchange.remote)["cash"])
        if off <= CENT or time.monotonic() > end:
            return found
        time.sleep(1.0)


def settlement_times(engine: EngineProcess) -> set[int]:
    """Return the times of the settlements that an engine has booked in the last 18 hours."""
    with closing(sqlite3.connect(engine.state / "engines" / ENGINE / "engine.db")) as db:
        rows = db.execute("SELECT content FROM state WHERE section = 'strategy'")
        paid = json.loads(rows.fetchone()[0])["funding"]["paid"]
    return {ts for settled in paid.values() for ts, *_ in settled}


def in_flight(engine: EngineProcess) -> bool:
    """Whether an entry has left that has not filled."""
    return any(
        state in ("sent", "acknowledged") and "-E" in name
        for name, (state, _, _) in engine.journal().items()
    )


# ---- asked to end in the middle of an order


def test_asked_to_end_with_an_order_on_its_way_it_waits_for_the_fill_and_its_stop(
    busy: EngineMarket, tmp_path: Path
) -> None:
    # An order waits two seconds of the clock for the open at which it fills.
    with exchange_of(busy, tmp_path, "--hold-ms", "2000", speed="180") as exchange:
        with engine_of(busy, tmp_path, exchange, "180") as engine:
            engine.until(lambda one: one.counters.fills > 0, "a fill")
            until(lambda: in_flight(engine), "an order on its way", 90.0)
            assert engine.stop() == 0
            exchange.remote.pause()
        assert not in_flight(engine)
        require_stops(exchange.remote)
        assert engine.log("naked", "open", "error") == []
        exchange.remote.resume()
        with engine_of(busy, tmp_path, exchange, "180") as engine:
            engine.until(lambda one: one.state == "trading" and one.counters.fills > 0, "it trades")
            status = settled(exchange, engine)
            assert status.cash == pytest.approx(account(exchange.remote)["cash"], abs=1e-6)
            assert engine.stop() == 0
        require_agreement(tmp_path, exchange.remote)


def test_what_fills_after_its_end_is_found_and_protected_by_the_next_start(
    busy: EngineMarket, tmp_path: Path
) -> None:
    with exchange_of(busy, tmp_path) as exchange:
        with engine_of(busy, tmp_path, exchange) as engine:
            engine.until(lambda one: one.counters.fills > 0, "a fill")
            until(lambda: in_flight(engine), "an order on its way", 60.0)
            # The market stands still: no open comes at which it could fill.
            exchange.remote.pause()
            waited = time.monotonic()
            code = engine.stop()
            waited = time.monotonic() - waited
        assert code == 0
        if in_flight(engine):
            assert 7.0 < waited < 15.0
            (told,) = engine.log("open", "naked")
            assert "start it again" in told["text"]
        exchange.remote.resume()
        with engine_of(busy, tmp_path, exchange) as engine:
            engine.until(lambda one: one.state == "trading" and one.counters.fills > 0, "it trades")
            status = settled(exchange, engine)
            assert status.cash == pytest.approx(account(exchange.remote)["cash"], abs=1e-6)
            require_stops(exchange.remote)
            assert engine.stop() == 0
        require_agreement(tmp_path, exchange.remote)


# ---- away for two days


def hold_while_protected(remote: Remote) -> None:
    """Stop the market at a moment at which there are positions, each with its stop."""

    def held() -> bool:
        remote.pause()
        time.sleep(0.5)
        found = account(remote)
        stops = sum(one["open"] and one["algo"] for one in found["orders"].values())
        if found["positions"] and stops == len(found["positions"]) and not found["in_flight"]:
            return True
        remote.resume()
        time.sleep(0.3)
        return False

    until(held, "positions with their stops", 90.0)


def stops_hit(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of the stops that filled between two looks at an account."""
    return [
        name
        for name, one in after["orders"].items()
        if one["algo"] and one["executed"] and not before["orders"][name]["executed"]
    ]


@pytest.mark.parametrize("ends", ["in order", "killed"])
def test_away_for_two_market_days_with_settlements_and_stops_its_books_are_the_exchanges(
    busy: EngineMarket, tmp_path: Path, ends: str
) -> None:
    # A market hour in a second: four bars. Stops far enough away to outlive the end.
    with exchange_of(busy, tmp_path, speed="3600") as exchange:
        engine = engine_of(busy, tmp_path, exchange, "3600")
        engine.arguments += ("--set", "strategy.stop_loss_frac=0.015")
        with engine:
            engine.until(protected, "positions with their stops")
            hold_while_protected(exchange.remote)
            if ends == "killed":
                engine.kill()
            else:
                assert engine.stop() == 0
        left = account(exchange.remote)
        assert left["positions"]
        clock = exchange.remote.state()["clock"]
        away = left
        while exchange.remote.state()["clock"] <= clock + 2 * NS_PER_DAY or not stops_hit(
            left, away
        ):
            assert exchange.remote.advance()["step"], "no stop was hit until the market's end"
            away = account(exchange.remote)
        exchange.remote.resume()
        paid = sum(away["income"].values()) - sum(left["income"].values())
        assert paid != 0.0, "no funding was settled meanwhile"
        with engine:
            engine.until(lambda one: one.state == "trading" and one.counters.bars > 0, "it trades")
            status = settled(exchange, engine)
            assert engine.stop() == 0
        found = account(exchange.remote)
        assert status.cash == pytest.approx(found["cash"], abs=CENT)
        held = {f"{name}-PERP.BINANCE": one[0] for name, one in found["positions"].items()}
        assert {name: one.quantity for name, one in status.positions.items()} == held
        require_agreement(tmp_path, exchange.remote)


# ---- a market in pieces


def test_an_engine_that_never_hears_when_funding_is_due_books_it_all_the_same(
    busy: EngineMarket, tmp_path: Path
) -> None:
    with exchange_of(busy, tmp_path, speed="3600") as exchange:
        exchange.remote.fault("silence", seconds=600.0, path="@markPrice")
        engine = engine_of(busy, tmp_path, exchange, "3600")
        engine.arguments += ("--set", "strategy.stop_loss_frac=0.015")
        with engine:
            engine.until(protected, "positions with their stops")
            # Two settlements at least.
            until(lambda: len(settlement_times(engine)) > 1, "two settlements", 60.0)
            status = settled(exchange, engine)
            assert engine.stop() == 0
        found = account(exchange.remote)
        assert sum(map(abs, found["income"].values())) > 10 * CENT, "no funding was settled"
        assert status.cash == pytest.approx(found["cash"], abs=1e-4)


def test_while_the_bars_of_one_symbol_stay_away_it_waits_and_opens_nothing(
    busy: EngineMarket, tmp_path: Path
) -> None:
    with exchange_of(busy, tmp_path) as exchange, engine_of(busy, tmp_path, exchange) as engine:
        engine.until(lambda one: one.counters.fills > 0, "a fill")
        for fault, details in (
            ("silence", {"path": "ethusdt@kline"}),
            ("server_error", {"path": "klines.*ETHUSDT", "status": 503}),
        ):
            exchange.remote.fault(fault, seconds=600.0, **details)
        engine.until(lambda one: one.state == "waiting", "waiting", 60.0)
        before = engine.status()
        assert before is not None
        entries = [name for name in engine.journal() if "-E" in name]
        time.sleep(8.0)
        after = engine.status()
        assert after is not None
        # Nobody's decisions go on: a prediction looks at all of them, and none is made on a part.
        assert after.state == "waiting"
        assert after.counters.predictions == before.counters.predictions
        assert [name for name in engine.journal() if "-E" in name] == entries
        exchange.remote.clear_faults()
        engine.until(
            lambda one: (
                one.state == "trading"
                and one.counters.fills > after.counters.fills
                and one.counters.backfilled >= before.counters.backfilled + 6
            ),
            "it has fetched them, and trades",
        )
        settled(exchange, engine)
        require_stops(exchange.remote)
        assert engine.stop() == 0
        require_agreement(tmp_path, exchange.remote)


def test_each_part_of_a_fill_is_booked_and_stops_cover_all_of_it(
    busy: EngineMarket, tmp_path: Path
) -> None:
    with exchange_of(busy, tmp_path, "--fill-parts", "3") as exchange:
        with engine_of(busy, tmp_path, exchange) as engine:
            engine.until(lambda one: one.counters.fills > 30, "fills")
            status = settled(exchange, engine)
            found = account(exchange.remote)
            require_stops(exchange.remote)
            assert status.cash == pytest.approx(found["cash"], abs=1e-6)
            held = {f"{name}-PERP.BINANCE": one[0] for name, one in found["positions"].items()}
            assert {name: one.quantity for name, one in status.positions.items()} == held
            assert engine.stop() == 0
        assert engine.log("naked", "error") == []
        path = tmp_path / "state" / "engines" / ENGINE / "engine.db"
        require_covered(path, found)
        booked = journals({ENGINE: path})
        parts = [fill.order for fill in booked.fills.values()]
        assert max(map(parts.count, parts)) == 3
        require_agreement(tmp_path, exchange.remote)


def test_an_exchange_that_is_away_for_longer_than_its_client_asks_ends_no_engine(
    busy: EngineMarket, tmp_path: Path
) -> None:
    # After about half a minute the compiled client gives up its own questions, with errors.
    with exchange_of(busy, tmp_path) as exchange, engine_of(busy, tmp_path, exchange) as engine:
        engine.until(lambda one: one.counters.fills > 0, "a fill")
        exchange.remote.fault("maintenance", seconds=42.0)
        engine.until(lambda one: one.state == "waiting", "waiting", 30.0)
        time.sleep(42.0)
        fills = (engine.status() or EngineStatus()).counters.fills
        engine.until(lambda one: one.state == "trading" and one.counters.fills > fills, "it trades")
        status = settled(exchange, engine)
        assert status.cash == pytest.approx(account(exchange.remote)["cash"], abs=CENT)
        require_stops(exchange.remote)
        assert engine.stop() == 0
        assert engine.log("error") == []
        require_agreement(tmp_path, exchange.remote)


# ---- engines that share an account


def test_a_supervised_engine_that_is_stopped_leaves_the_others_their_fills(tmp_path: Path) -> None:
    market = FleetMarket.make(tmp_path / "market", 2, min_holding_bars=0, exit_threshold=0.5)
    first, second = market.symbols
    with Fleet(market, tmp_path / "fleet") as fleet:
        until(fleet.state.registry.exists, "a registry")
        with closing(Registry(fleet.state.registry)) as registry:

            def said(name: str) -> EngineStatus:
                return registry.status(name) or EngineStatus()

            until(lambda: all(said(one).counters.fills for one in market.symbols), "fills", 180.0)
            command(fleet, "stop", first)
            assert said(first).state == "stopped"
            before = said(second).counters
            # Its listen key is the account's, and still hears.
            assert fleet.exchange.remote.state()["connections"]["user"] == 1
            until(
                lambda: said(second).counters.fills > before.fills + 4, "the other's fills", 120.0
            )
            assert said(second).counters.reconnects == before.reconnects
            command(fleet, "start", first)
            until(lambda: said(first).state == "trading", "the first trades again")
            until(lambda: said(first).counters.fills, "and is told of fills", 120.0)
            fleet.exchange.remote.pause()
            time.sleep(8.0)
            held = {
                one.split("-")[0]: place.quantity
                for name in market.symbols
                for one, place in said(name).positions.items()
            }
        assert fleet.stop() == 0
        found = account(fleet.exchange.remote)
        assert held == {name: one[0] for name, one in found["positions"].items()}
        databases = {one: fleet.state.engine(one) / "engine.db" for one in market.symbols}
        lines = fleet.truth.read_text(encoding="utf-8").splitlines()
        there, refused = truth(map(json.loads, lines))
        assert differences(journals(databases), there, refused, found) == ()


def command(fleet: Fleet, word: str, engine: str) -> None:
    """What a person types."""
    program = [sys.executable, "-m", "live.cli", "live", word, engine]
    done = subprocess.run(
        [*program, "--state", str(fleet.state.root)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{word} {engine}: done" in done.stdout
