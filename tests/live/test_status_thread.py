"""A status reaches the registry that others read, also where somebody has removed it."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from live.engine_status import EngineStatus
from live.registry import Registry
from live.status_thread import StatusThread


def read(path: Path) -> EngineStatus | None:
    if not path.exists():
        return None
    with closing(Registry(path)) as registry:
        return registry.status("BTCUSDT")


def until_published(path: Path, equity: float) -> bool:
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        found = read(path)
        if found is not None and found.equity == equity:
            return True
        time.sleep(0.02)
    return False


def test_a_registry_that_is_removed_while_an_engine_runs_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    thread = StatusThread(path, period_secs=0.02)
    thread.offer(EngineStatus(engine="BTCUSDT", equity=1.0))
    thread.start()
    try:
        assert until_published(path, 1.0)
        for one in tmp_path.iterdir():
            one.unlink()
        thread.offer(EngineStatus(engine="BTCUSDT", equity=2.0))
        assert until_published(path, 2.0)
    finally:
        thread.close()
