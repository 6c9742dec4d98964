"""Fifteen engines on one address stay within the request weight that an exchange grants it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from live.engine_plan import plan_of
from live.state_folder import StateFolder
from live.supervise_command import SuperviseRequest, supervisor_config
from live.supervisor import Supervisor, SupervisorConfig
from tests.live.engine_world import EngineMarket, EngineProcess
from tests.live.test_engine import on
from tests.live.test_supervisor import RULES, fake_command, until

GRANTED, ENGINES = 2_400, 15
IDLE_SECS = 35.0


def test_no_more_engines_start_in_a_minute_than_was_said(tmp_path: Path) -> None:
    config = SupervisorConfig(RULES, starts_at_once=3, starts_a_minute=2)
    names = ["AAA", "BBB", "CCC"]
    supervisor = Supervisor(StateFolder(tmp_path), plan_of(names), fake_command(tmp_path), config)
    try:
        now = time.monotonic()

        def running(at: float) -> int:
            supervisor.turn(at)
            return sum(one.running for one in supervisor.engines.values())

        until(lambda: running(now) == 2)
        assert running(now + 59.0) == 2
        assert running(now + 61.0) == 3
    finally:
        supervisor.shut_down()
        supervisor.close()


@pytest.mark.slow
def test_what_engines_ask_for_fits_what_is_granted(tmp_path: Path) -> None:
    market = EngineMarket.make(tmp_path)
    with market.exchange("--paused") as exchange:

        def spent() -> int:
            return sum(exchange.remote.state()["weight"].values())

        with EngineProcess(market, tmp_path / "state", (*on(exchange), "--symbols", "BTCUSDT")) as (
            engine
        ):
            until(lambda: (tmp_path / "state" / "logs").exists(), 60.0)
            time.sleep(5.0)
            start, began = spent(), time.monotonic()
            time.sleep(IDLE_SECS)
            idle = (spent() - start) / (time.monotonic() - began) * 60.0
            assert engine.stop() == 0
    plan = plan_of(
        ["BTCUSDT"], profile=str(market.profile), bundle="x", mode="testnet", equity=1_000.0
    )
    most = supervisor_config(SuperviseRequest(state=tmp_path), plan).starts_a_minute
    assert most is not None
    print(f"a start weighs {start}, a minute {idle:.0f}")
    assert most * start + ENGINES * idle < GRANTED
