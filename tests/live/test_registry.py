from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import ConfigError, DataError
from live.engine_status import (
    EngineStatus,
    ExpertStatus,
    GuardLevel,
    LatencyHistogram,
    PositionStatus,
    PredictionStatus,
    check_engine_name,
)
from live.processes import ProcessId
from live.registry import EngineRecord, Registry

ROOT = Path(__file__).parents[2]
FULL = EngineStatus(
    engine="BTCUSDT",
    profile="perps",
    pid=7,
    state="trading",
    instruments=("BTCUSDT-PERP.BINANCE",),
    equity=1000.5,
    positions={"BTCUSDT-PERP.BINANCE": PositionStatus(0.1, 50_000.0, 50_100.0, 49_000.0)},
    predictions={"BTCUSDT-PERP.BINANCE": PredictionStatus(5, 0.6, 0.1, 0.2, True)},
    experts={"lightgbm": ExpertStatus("open", 1, 2, 3)},
    guard=GuardLevel("halted", ("daily_loss", "manual")),
    input_ages_s={"dvol": 1.5},
)


def test_a_status_survives_json() -> None:
    assert EngineStatus.from_json(FULL.to_json()) == FULL
    assert EngineStatus.from_json(EngineStatus().to_json()) == EngineStatus()


@given(st.floats(), st.integers(0, 2**62), st.text(max_size=50))
@settings(max_examples=25, deadline=None)
def test_whatever_an_engine_counts_becomes_json(value: float, ts: int, text: str) -> None:
    status = EngineStatus(engine="A", equity=value, heartbeat_ns=ts, last_error=text)
    found = EngineStatus.from_json(status.to_json())
    assert found.equity == (value if math.isfinite(value) else None)
    assert (found.heartbeat_ns, found.last_error) == (ts, text)


def test_a_reader_takes_what_it_knows_and_refuses_another_schema() -> None:
    content = {**FULL.to_dict(), "a_later_field": 1}
    del content["equity"]
    assert EngineStatus.from_dict(content).equity is None
    assert EngineStatus.from_dict(content).guard == FULL.guard
    with pytest.raises(DataError, match="schema 1, was 2"):
        EngineStatus.from_dict({**content, "schema": 2})
    with pytest.raises(DataError, match=r"must fit: pid .* was 'many'"):
        EngineStatus.from_dict({**content, "pid": "many"})
    with pytest.raises(DataError, match="must be JSON"):
        EngineStatus.from_json("{")


def test_the_quantile_of_a_histogram_is_the_bound_of_its_bucket() -> None:
    found = LatencyHistogram((10.0, 50.0), (90, 9, 1), 0.0, 100)
    assert [found.quantile(q) for q in (0.5, 0.95, 0.999)] == [10.0, 50.0, math.inf]
    assert LatencyHistogram().quantile(0.5) is None


@pytest.mark.parametrize("name", ["", "a/b", "..", "a" * 33, "a b"])
def test_a_name_that_could_leave_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="1 to 32 letters"):
        check_engine_name(name)


def test_statuses_commands_and_audit_are_kept(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.db")
    registry.publish(FULL)
    registry.publish(EngineStatus(engine="ETHUSDT"))
    record = EngineRecord("BTCUSDT", "running", True, 7, 8, "boot", 9, 2, 1, 0, "why", 0.5, 1, 2)
    registry.record(record)
    first = registry.ask("stop", "BTCUSDT", "anna")
    second = registry.ask("start", "*", "bert")
    registry.answered(first, "done")
    registry.audit("anna", "stop", "BTCUSDT", "done")
    registry.set_fact("supervisor", "x")
    other = Registry(tmp_path / "registry.db", create=False)
    assert other.statuses() == {"BTCUSDT": FULL, "ETHUSDT": EngineStatus(engine="ETHUSDT")}
    assert other.status("SOLUSDT") is None
    assert other.records() == {"BTCUSDT": record}
    assert [(one.id, one.by) for one in other.pending()] == [(second, "bert")]
    assert other.wait_for(first, 0.0) == "done"
    assert other.wait_for(second, 0.0) is None
    assert other.audited()[0].who == "anna"
    fact = other.fact("supervisor")
    assert fact is not None
    assert fact[1] == "x"
    other.forget("BTCUSDT")
    assert list(registry.statuses()) == ["ETHUSDT"]
    registry.close()
    other.close()


def test_a_status_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.db")
    registry.publish(FULL)
    registry.publish(EngineStatus(engine="ETHUSDT"))
    with sqlite3.connect(tmp_path / "registry.db") as raw:
        raw.execute("UPDATE statuses SET status = '{' WHERE engine = 'ETHUSDT'")
    raw.close()
    found = registry.statuses()
    assert found["BTCUSDT"] == FULL
    assert found["ETHUSDT"].state == "unknown"
    registry.close()


def test_what_is_no_registry_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="check --state"):
        Registry(tmp_path / "registry.db", create=False)
    (tmp_path / "registry.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(DataError, match=r"registry\.db must be usable"):
        Registry(tmp_path / "registry.db")
    later = sqlite3.connect(tmp_path / "later.db")
    later.execute("PRAGMA user_version = 9")
    later.close()
    with pytest.raises(DataError, match="version 1, was 9"):
        Registry(tmp_path / "later.db")


WRITE = """
import sys
sys.path.insert(0, {root!r})
from live.registry import Registry
from live.engine_status import EngineStatus
registry = Registry({path!r})
print("ready", flush=True)
number = 0
while True:
    number += 1
    registry.publish(EngineStatus(engine={name!r}, heartbeat_ns=number))
    registry.audit("x", "y", "z", str(number))
"""


def test_writers_that_are_killed_harm_neither_each_other_nor_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    code = [WRITE.format(root=str(ROOT), path=str(path), name=one) for one in ("A", "B")]
    writers = [
        subprocess.Popen([sys.executable, "-c", one], stdout=subprocess.PIPE) for one in code
    ]
    try:
        for one in writers:
            assert one.stdout is not None
            assert one.stdout.readline() == b"ready\n"
        reader = Registry(path, create=False)
        while len(reader.statuses()) < 2 or len(reader.audited(50)) < 20:
            assert all(one.poll() is None for one in writers)
    finally:
        for one in writers:
            one.kill()
            one.communicate()
    # Nobody else is alive.
    lines = reader.audited(10_000)
    assert [one.id for one in lines] == list(range(len(lines), 0, -1))
    reader.publish(FULL)
    assert json.loads(reader.statuses()["BTCUSDT"].to_json())["pid"] == 7
    reader.close()


def test_threads_may_share_a_registry(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.db")

    def work(name: str) -> None:
        for number in range(20):
            registry.publish(EngineStatus(engine=name, pid=number))
            registry.statuses()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ABC"]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {one.pid for one in registry.statuses().values()} == {19}
    registry.close()


def test_a_process_is_known_by_its_start_as_well() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        process = ProcessId.of(child.pid)
        assert process is not None
        assert process.alive()
        recycled = process._replace(start_ns=process.start_ns - 10_000_000)
        rebooted = process._replace(boot="another")
        assert not recycled.alive()
        assert not rebooted.alive()
        assert not recycled.send(9)  # type: ignore[arg-type]
        assert child.poll() is None
        assert process.send(15)  # type: ignore[arg-type]
        # Dead, though nobody has taken note of it yet: a zombie.
        assert process.wait(5.0)
        assert child.wait(5.0) == -15
    finally:
        child.kill()
        child.wait()
