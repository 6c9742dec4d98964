"""A kill switch and an engine that is dead: it is named, and flat once it is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from live.kill_command import kill, require_flat
from tests.live.engine_world import EngineMarket, EngineProcess
from tests.live.test_engine import on, protected


@pytest.mark.slow
def test_what_a_dead_engine_holds_is_named_and_closed_when_it_starts(
    tmp_path: Path,
) -> None:
    market, state = EngineMarket.make(tmp_path), tmp_path / "state"
    with market.exchange() as exchange:
        with EngineProcess(market, state, on(exchange)) as engine:
            engine.until(protected, "positions with their stops")
            engine.kill()
        found = kill(state, "anna", "drill", wait_secs=0.0)
        assert [*found.not_flat] == [engine.name]
        assert ", holds " in found.not_flat[engine.name]
        assert exchange.remote.accounts()["main"]["positions"]
        with EngineProcess(market, state, on(exchange)) as engine:
            engine.until(lambda status: status.guard.level == "halted", "halted")
            found = kill(state, "anna", "drill", wait_secs=60.0)
            require_flat(found, 60.0)
            assert found.levels == {engine.name: "halted"}
            assert exchange.remote.accounts()["main"]["positions"] == {}
            assert engine.stop() == 0
        require_flat(kill(state, "anna", "drill", wait_secs=0.0), 0.0)
