"""What `levibot live kill` says of engines: who is not flat is named, whatever its state."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catalog.errors import DataError
from live.cli import app
from live.engine_status import EngineStatus, GuardLevel
from live.kill_command import kill, not_flat, require_flat
from live.kill_switch import read_kill
from live.overview import RegistryReader
from live.processes import ProcessId
from live.registry import Registry
from tests.live.fleet import BTC, NS, record, trading

OBEYS = GuardLevel("halted", ("kill_switch",))


def own() -> dict[str, Any]:
    """Of a process that lives: this one."""
    found = ProcessId.own()
    return {"pid": found.pid, "process_start_ns": found.start_ns, "boot": found.boot}


def engine(name: str, heartbeat_secs: float = 0.0, **changes: Any) -> EngineStatus:
    now = time.time_ns()
    settings = {"engine": name, "mode": "live", "last_bar_ns": now, **changes}
    return trading(now - round(heartbeat_secs * NS), **settings)


def fleet(state: Path) -> dict[str, str]:
    with closing(RegistryReader(state)) as folder:
        return not_flat(folder.overview())


@pytest.fixture
def registry(tmp_path: Path) -> Any:
    with closing(Registry(tmp_path / "registry.db")) as found:
        yield found


def test_who_may_hold_something_is_named_whatever_its_state(
    tmp_path: Path, registry: Registry
) -> None:
    open_ = engine("A").positions
    flat: dict[str, Any] = {"positions": {}}
    for status in (
        engine("OBEYS", guard=OBEYS, state="halted", **flat),
        engine("RUNS"),
        engine("IDLE", **flat),
        engine("CLOSING", guard=OBEYS, state="halted"),
        engine("HUNG", 11.0, **own(), **flat),
        engine("HUNG_FLAT", 11.0, guard=OBEYS, **own(), **flat),
        engine("GIVEN_UP", 4_000.0, state="failed"),
        engine("STOPPED", 9_000.0, state="stopped"),
        engine("STOPPED_FLAT", 9_000.0, state="stopped", **flat),
        engine("KILLED_FLAT", 9_000.0, **flat),
        engine("PAPER", 9_000.0, state="stopped", mode="paper"),
        engine("REPLAY", 9_000.0, state="stopped", mode="paper", last_bar_ns=NS),
        engine("OLD", 9_000.0, state="stopped", last_bar_ns=NS),
    ):
        registry.publish(status)
    registry.record(record("GIVEN_UP", stage="given_up", pid=0))
    registry.record(record("STARTING", **own()))
    found = fleet(tmp_path)
    assert set(found) == {
        *("RUNS", "IDLE", "CLOSING", "HUNG", "GIVEN_UP", "STOPPED", "PAPER", "OLD", "STARTING")
    }
    assert open_[BTC].quantity == 0.05
    holds = f"holds +0.05 {BTC} with a stop"
    assert found["RUNS"] == f"its risk guard says normal, {holds} (live)"
    assert found["HUNG"] == "no heartbeat for 11 s"
    assert found["GIVEN_UP"] == f"no process (given up), {holds} (live)"
    assert found["STOPPED"] == f"no process (stopped), {holds} (live)"
    assert found["STARTING"] == "no heartbeat yet"


def test_one_that_fails_while_it_is_waited_for_is_named(tmp_path: Path, registry: Registry) -> None:
    registry.publish(engine("OK"))
    registry.publish(engine("FAILS"))

    def go_on() -> None:
        while read_kill(tmp_path) is None:
            time.sleep(0.01)
        registry.publish(engine("OK", guard=OBEYS, state="halted", positions={}))
        registry.publish(engine("FAILS", state="failed"))

    thread = threading.Thread(target=go_on)
    thread.start()
    found = kill(tmp_path, "anna", "drill", wait_secs=1.0)
    thread.join()
    assert found.levels == {"OK": "halted"}
    assert [*found.not_flat] == ["FAILS"]
    assert found.to_json()["not_flat"] == found.not_flat
    with pytest.raises(
        DataError, match=r"FAILS: no process \(failed\), holds .*levibot live start"
    ):
        require_flat(found, 1.0)


def test_nothing_is_waited_for_where_all_are_flat(tmp_path: Path, registry: Registry) -> None:
    registry.publish(engine("STOPPED", 9_000.0, state="stopped", positions={}))
    begun = time.monotonic()
    found = kill(tmp_path, "anna", "drill", wait_secs=60.0)
    assert time.monotonic() - begun < 30.0
    require_flat(found, 60.0)
    assert found.not_flat == {}


def test_the_command_ends_with_3_for_an_engine_that_hangs(
    tmp_path: Path, registry: Registry
) -> None:
    registry.publish(engine("OK", guard=OBEYS, state="halted", positions={}))
    registry.publish(engine("HUNG", 11.0, **own()))
    done = CliRunner().invoke(app, ["live", "kill", "--state", str(tmp_path), "--wait", "0"])
    assert done.exit_code == 3
    assert "HUNG: no heartbeat for" in " ".join(done.stderr.split())


def test_a_registry_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database" * 100)
    found = kill(tmp_path, "anna", "drill", wait_secs=60.0)
    assert read_kill(tmp_path) == found.switch
    with pytest.raises(DataError, match="look at the exchange"):
        require_flat(found, 60.0)
