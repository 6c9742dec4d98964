"""Fifteen engines on one address stay within the request weight that an exchange grants it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.timestamps import parse_time
from live.engine_plan import plan_of
from live.state_folder import StateFolder
from live.supervise_command import SuperviseRequest, supervisor_config
from live.supervisor import Supervisor, SupervisorConfig
from tests.live.engine_world import ENGINE, EngineMarket, EngineProcess
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


@dataclass
class Weighed:
    """What one engine asked for: by its start, in a minute of a market that goes on as markets do,
    and in the first minute in which it stands still."""

    start: int
    idle: float
    still: float


def weighed(folder: Path) -> Weighed:
    """Run an engine on a market at its own pace, whose next bar closes while it stands still."""
    market = EngineMarket.make(folder)
    asked: list[Counter[str]] = []
    with market.exchange(start="2024-01-26T00:13:40", speed="1") as exchange:

        def spent() -> int:
            asked.append(Counter(exchange.remote.state()["weight"]))
            return asked[-1].total()

        def grown(secs: float) -> float:
            before, began = spent(), time.monotonic()
            time.sleep(secs)
            return (spent() - before) / (time.monotonic() - began) * 60.0

        options = ("--mode", "testnet", "--exchange", exchange.url, "--speed", "1")
        # As one of several has: who takes all of an account also asks for its owner's transfers.
        options += ("--equity", "20000")
        state = folder / "state"
        with EngineProcess(
            market, state, (*options, "--symbols", "BTCUSDT", "--name", ENGINE)
        ) as engine:
            engine.until(lambda status: status.state == "trading", "trading")
            time.sleep(5.0)
            start = spent()
            idle = grown(IDLE_SECS)
            # A minute before the close at the latest, however long the start took.
            exchange.remote.pause()
            status = engine.status()
            assert status is not None
            assert status.last_bar_ns == parse_time("2024-01-26")
            engine.until(lambda status: status.state == "waiting", "a bar that stays away")
            still = grown(60.0)
            assert engine.stop() == 0
    print(*(f"{name}: {weight}" for name, weight in sorted(asked[-1].items())), sep="\n")
    return Weighed(start, idle, still)


@pytest.mark.slow
def test_what_engines_ask_for_fits_what_is_granted(tmp_path: Path) -> None:
    plan = plan_of(["BTCUSDT"], profile="synthetic", bundle="x", mode="testnet", equity=1_000.0)
    most = supervisor_config(SuperviseRequest(state=tmp_path), plan).starts_a_minute
    assert most is not None
    found = weighed(tmp_path)
    print(
        f"a start weighs {found.start}, a minute {found.idle:.0f}, without bars {found.still:.0f}"
    )
    assert most * found.start + ENGINES * found.idle < GRANTED
    # All of them miss their bars, and some of them are started again.
    assert 5 * found.start + ENGINES * found.still < GRANTED
