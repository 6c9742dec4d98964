"""A real Ray cluster of two machines on this one, and what runs on it; prints JSON.

In a process of its own: Ray begins a dozen others, which end with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

from catalog.errors import LeviBotError
from research.parallel import Workers, finished_jobs, run_jobs
from research.walkforward import Keep, walk_forward
from tests.research.experiments import config, panel


def where(table: np.ndarray[Any, Any], number: int) -> dict[str, Any]:
    time.sleep(0.2)
    node = ray.get_runtime_context().get_node_id()
    return {
        "result": float(table.sum()) * number,
        "node": node,
        "writeable": table.flags.writeable,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def die_once(mark: Path, number: int) -> int:
    time.sleep(0.1)
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def refuse(number: int) -> int:
    raise ValueError(f"number {number} is refused")


def told(call: Any) -> str:
    try:
        call()
    except (LeviBotError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def connected(workers: Workers) -> None:
    # A busy machine begins the client's server more slowly than Ray waits for it.
    for _ in range(4):
        with contextlib.suppress(LeviBotError):
            workers.number()
            return


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main(folder: Path) -> None:
    port = free_port()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": False,
            "ray_client_server_port": port,
            "object_store_memory": 200_000_000,
        },
    )
    cluster.add_node(num_cpus=1, object_store_memory=200_000_000)
    os.environ["RAY_ADDRESS"] = cluster.address
    found: dict[str, Any] = {}
    try:
        workers = Workers(cluster="auto")
        found["number"] = workers.number()
        table = np.arange(200_000.0)
        found["where"] = run_jobs(partial(where, table), range(6), workers)
        found["killed"] = run_jobs(partial(die_once, folder / "mark"), range(6), workers)
        found["error"] = told(lambda: run_jobs(refuse, [1, 2], workers))
        found["many"] = told(lambda: Workers(5, "auto").number())
        result = walk_forward(panel(), config(), keep=Keep(folder / "folds", workers=workers))
        result.predictions.to_parquet(folder / "predictions.parquet")
        ray.shutdown()
        away = Workers(2, f"ray://127.0.0.1:{port}")
        connected(away)
        found["client"] = sorted(finished_jobs(partial(die_once, folder / "mark"), range(4), away))
        ray.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
