"""A small process that stands for an engine: it publishes a status, and misbehaves as told.

`python fake_engine.py STATE ENGINE`; how it behaves stands in the file ``STATE/behave/ENGINE``,
read at its start: words such as ``crash``, ``hang``, ``leak``, ``deaf``, ``stale``, ``quit``,
``warming``, ``away``. It imports nothing of LeviBot, so that tests may start dozens; the registry
must be there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

STEP_SECS = 0.05
SCHEMA = 1


def identity() -> dict[str, object]:
    """Return what `live.processes` knows of this process."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    start_ns = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"pid": os.getpid(), "process_start_ns": start_ns, "boot": boot}


def publish(state: Path, name: str, words: list[str]) -> None:
    registry = sqlite3.connect(state / "registry.db", timeout=10.0, isolation_level=None)
    now = time.time_ns()
    status = {
        "schema": SCHEMA,
        "engine": name,
        **identity(),
        "state": "warming" if "warming" in words else "trading",
        "heartbeat_ns": now,
        "last_bar_ns": 1 if "stale" in words else now,
    }
    with contextlib.closing(registry), contextlib.suppress(sqlite3.OperationalError):
        # Somebody may just have moved the file away; the next time there is another.
        registry.execute(
            "INSERT OR REPLACE INTO statuses VALUES (?, ?, ?)", (name, now, json.dumps(status))
        )


def main() -> int:
    state, name = Path(sys.argv[1]), sys.argv[2]
    behave = state / "behave" / name
    words = behave.read_text().split() if behave.is_file() else []
    stopped = []
    ignored = "deaf" in words
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignored else lambda *_: stopped.append(1))
    with (state / f"{name}.pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    started, ballast = time.monotonic(), []
    while not stopped:
        ran = time.monotonic() - started
        if "hang" not in words or ran < 0.3:
            publish(state, name, words)
        if "leak" in words:
            ballast.append(bytearray(20_000_000))
        if "crash" in words and ran > 0.1:
            print("error: the market fell on me")
            return 5
        if "away" in words:
            print("error: the exchange must answer, did not")
            return 7
        if "quit" in words and ran > 0.2:
            return 0
        time.sleep(STEP_SECS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
