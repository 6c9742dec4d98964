"""A small process that stands for an engine: it publishes a status, and misbehaves as told.

`python fake_engine.py STATE ENGINE`; how it behaves stands in the file ``STATE/behave/ENGINE``,
read at its start: words such as ``crash``, ``hang``, ``leak``, ``deaf``, ``stale``, ``quit``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from live.engine_process import SHARED_ACCOUNT_VARIABLE
from live.engine_status import EngineStatus
from live.processes import ProcessId
from live.registry import Registry

STEP_SECS = 0.05


def main() -> int:
    state, name = Path(sys.argv[1]), sys.argv[2]
    behave = state / "behave" / name
    words = behave.read_text().split() if behave.is_file() else []
    stopped = []
    ignored = "deaf" in words
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignored else lambda *_: stopped.append(1))
    with (state / f"{name}.pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    registry = Registry(state / "registry.db")
    process = ProcessId.own()
    started, ballast = time.monotonic(), []
    while not stopped:
        ran = time.monotonic() - started
        now = time.time_ns()
        if "hang" not in words or ran < 0.3:
            registry.publish(
                EngineStatus(
                    engine=name,
                    pid=process.pid,
                    process_start_ns=process.start_ns,
                    boot=process.boot,
                    state="trading",
                    heartbeat_ns=now,
                    last_bar_ns=1 if "stale" in words else now,
                )
            )
        if "leak" in words:
            ballast.append(bytearray(20_000_000))
        if "crash" in words and ran > 0.1:
            print("error: the market fell on me")
            return 5
        if "quit" in words and ran > 0.2:
            return 0
        time.sleep(STEP_SECS)
    # What a node's exchange client does at its end, unless the account is shared.
    url = os.environ.get("FAKE_EXCHANGE", "")
    if url and os.environ.get(SHARED_ACCOUNT_VARIABLE) != "1":
        request = urllib.request.Request(f"{url}/fapi/v1/listenKey", method="DELETE")
        urllib.request.urlopen(request).close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
