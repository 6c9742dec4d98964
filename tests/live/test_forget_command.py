"""An engine that is gone for good is forgotten; one that may come back is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catalog.errors import ConfigError, RunFailedError
from live.cli import app
from live.engine_status import EngineStatus, PositionStatus
from live.forget_command import forget_engine
from live.global_risk import SharedBook
from live.processes import ProcessId
from live.registry import SUPERVISOR_FACT, EngineRecord, Registry
from live.state_folder import StateFolder

HELD = {"ETHUSDT-PERP.BINANCE": PositionStatus(-2.0)}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with closing(Registry(StateFolder(tmp_path).registry)) as found:
        found.publish(EngineStatus("ETH", state="failed", positions=HELD))
        found.record(EngineRecord("ETH", stage="given_up"))
        found.publish(EngineStatus("BTC", state="stopped"))
        with closing(SharedBook(StateFolder(tmp_path).shared_book)) as book:
            book.hold("ETH", {"ETHUSDT-PERP.BINANCE": (True, False)})
        yield found


def places(state: Path) -> list[str]:
    with closing(SharedBook(StateFolder(state).shared_book)) as book:
        return [one.engine for one in book.places()]


def test_it_is_out_of_the_tables_and_limits_and_what_it_held_is_told(
    tmp_path: Path, registry: Registry
) -> None:
    assert places(tmp_path) == ["ETH"]
    told = CliRunner().invoke(app, ["live", "forget", "ETH", "--state", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert "-2 ETHUSDT-PERP.BINANCE" in told.output
    assert places(tmp_path) == []
    assert list(registry.statuses()) == ["BTC"]
    assert registry.records() == {}
    (line,) = registry.audited()
    assert (line.command, line.target, line.outcome) == ("forget", "ETH", "places given back: 1")
    with pytest.raises(ConfigError, match=r"'ETH' is not: BTC"):
        forget_engine(tmp_path, "ETH", "a person")


def test_one_whose_process_lives_or_is_wanted_again_is_kept(
    tmp_path: Path, registry: Registry
) -> None:
    own = ProcessId.own()
    registry.record(
        EngineRecord("ETH", "running", True, own.pid, process_start_ns=own.start_ns, boot=own.boot)
    )
    with pytest.raises(RunFailedError, match="its process runs"):
        forget_engine(tmp_path, "ETH", "a person")
    registry.record(EngineRecord("ETH", stage="backoff", wanted=True))
    registry.set_fact(SUPERVISOR_FACT, json.dumps({"pid": own.pid}))
    with pytest.raises(RunFailedError, match="is to start it again"):
        forget_engine(tmp_path, "ETH", "a person")
    assert (places(tmp_path), len(registry.statuses())) == (["ETH"], 2)
