"""`levibot tune --cluster auto` on a real Ray cluster of two machines on this one; prints JSON.

In a process of its own: Ray begins a dozen others, which end with it. While the trials are done one
of its workers is killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster

from live.trial_records import LEDGER_VARIABLE
from tests.live.test_tune import at_work

NODE = {"num_cpus": 1, "object_store_memory": 200_000_000}
_PATIENCE_SECS = 300


def workers() -> list[psutil.Process]:
    """Return the processes that do a job just now; a pool's have its actor's name."""
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            if one.cmdline()[0].startswith("ray::PoolActor."):
                found.append(one)
        except (psutil.Error, IndexError):
            continue
    return found


def kill_one(process: subprocess.Popen[str], out: Path) -> int:
    """Kill a worker in the middle of a trial, once one has ended; return which."""
    deadline = time.monotonic() + _PATIENCE_SECS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            return 0
        if at_work(out) >= (1, True) and (busy := workers()):
            busy[0].kill()
            return int(busy[0].pid)
        time.sleep(0.01)


def main(out: Path, ledger: Path, words: list[str]) -> None:
    # The nodes begin without it: on another machine nobody has set it.
    assert LEDGER_VARIABLE not in os.environ
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        cluster.add_node(**NODE)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, LEDGER_VARIABLE: str(ledger)}
        # Elsewhere than the nodes: what is given by a relative name is still found.
        process = subprocess.Popen(
            [sys.executable, "-m", "live.cli", *words],
            cwd=out.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        killed = kill_one(process, out)
        stdout, stderr = process.communicate()
    finally:
        ray.shutdown()
        cluster.shutdown()
    found = {"code": process.returncode, "killed": killed, "stdout": stdout, "stderr": stderr}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
