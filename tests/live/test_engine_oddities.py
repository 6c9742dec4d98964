"""What happens to engines that is no fault of an exchange: bundles, files, and real money."""

from __future__ import annotations

import shutil
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest

from research.bundle import save_bundle
from research.training import train_until
from tests.live.engine_world import EngineMarket, EngineProcess
from tests.live.feed_market import UNTIL
from tests.live.test_engine import on, protected, require_agreement

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> EngineMarket:
    return EngineMarket.make(tmp_path_factory.mktemp("oddities"))


@pytest.mark.parametrize(
    ("override", "differs"),
    [
        ("data.interval=1h", "instruments or interval"),
        ("features.funding=false", "features"),
        ("label.horizon_bars=8", "label"),
    ],
)
def test_a_bundle_of_another_question_is_refused_before_anything_is_asked(
    market: EngineMarket, tmp_path: Path, override: str, differs: str
) -> None:
    nowhere = ("--mode", "testnet", "--exchange", "http://127.0.0.1:9", "--set", override)
    with EngineProcess(market, tmp_path, nowhere) as engine:
        code, text = engine.wait()
    assert code == 2
    assert f"but differs in {differs}; only strategy and execution may" in " ".join(text.split())
    assert not (tmp_path / "engines").exists()


def test_a_bundle_that_is_replaced_between_two_runs_goes_on_with_what_is_open(
    market: EngineMarket, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(market.bundle, bundle)
    mine = replace(market, bundle=bundle)
    with market.exchange() as exchange:
        with EngineProcess(mine, tmp_path / "state", on(exchange)) as engine:
            engine.until(protected, "positions with their stops")
            held = engine.status()
            engine.kill()
        shutil.rmtree(bundle)
        config = market.market.profile.walk_forward_config()
        model = train_until(market.market.panel, config, UNTIL - 5 * 86_400 * 10**9)
        save_bundle(bundle, model, profile=market.market.profile.model_dump(mode="json"))
        with EngineProcess(mine, tmp_path / "state", on(exchange)) as engine:
            engine.until(lambda one: one.counters.predictions > 2, "it predicts")
            status = engine.status()
            assert engine.stop() == 0
        assert held is not None
        assert status is not None
        assert status.model.digest != held.model.digest
        (told,) = engine.log("model")
        assert status.model.digest[:12] in told["text"]
        assert held.model.digest[:12] in told["text"]
        assert engine.log("error", "naked", "reconcile") == []


def test_an_engine_trades_on_while_another_process_has_the_registry(
    market: EngineMarket, tmp_path: Path
) -> None:
    with market.exchange() as exchange, EngineProcess(market, tmp_path, on(exchange)) as engine:
        engine.until(protected, "positions with their stops")
        holder = sqlite3.connect(tmp_path / "registry.db", isolation_level=None, timeout=30.0)
        holder.execute("BEGIN EXCLUSIVE")
        before = engine.status()
        time.sleep(8.0)
        during = engine.status()
        assert before is not None
        assert during is not None
        assert during.heartbeat_ns == before.heartbeat_ns, "nobody can write"
        told = len(engine.log("prediction"))
        time.sleep(6.0)
        assert len(engine.log("prediction")) > told
        holder.execute("ROLLBACK")
        holder.close()
        seen = before.counters.bars
        engine.until(lambda one: one.counters.bars >= seen + 3 * 8, "nothing was missed")
        assert engine.log("error", "naked") == []
        assert engine.stop() == 0


def test_with_money_it_says_what_it_risks_and_trades(market: EngineMarket, tmp_path: Path) -> None:
    allowed = {"LEVIBOT_ALLOW_LIVE": "yes"}
    with market.exchange() as exchange:
        with EngineProcess(market, tmp_path, on(exchange, "live"), allowed) as engine:
            engine.until(protected, "positions with their stops")
            exchange.remote.pause()
            time.sleep(2.0)
            assert engine.process is not None
            engine.process.terminate()
            code, text = engine.wait()
        words = " ".join(text.split())
        assert code == 0, text
        assert words.startswith("live: engine synthetic trades BTCUSDT-PERP.BINANCE, ETHUSDT")
        for part in ("with all of the account", "a day may lose 50.0%", "Stop everything: touch"):
            assert part in words
        require_agreement(engine, exchange.remote)
        everything = text + "".join(
            path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()
        )
        assert "test-secret" not in everything
        assert "test-key" not in everything
