"""On a real Ray cluster: the results of one machine, also when a worker is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from catalog.errors import ConfigError
from research.parallel import Workers
from tests.research.experiments import result
from tests.research.source_copy import copied_sources


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_two_machines_do_what_one_does(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    sources = copied_sources(tmp_path)
    command = [sys.executable, "-m", "tests.research.cluster_run", str(tmp_path)]
    # The program imports Ray before it connects: what `connect` would set is set here.
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    # A busy machine begins nodes more slowly than Ray waits for them.
    quiet["RAY_raylet_start_wait_time_s"] = "120"
    environment = {**os.environ, "PYTHONPATH": str(sources), **quiet}
    ended = subprocess.run(
        command, cwd=sources, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    # What Ray hears of workers that end is nothing for programs.
    assert "(raylet)" in ended.stderr
    assert "(raylet)" not in ended.stdout
    assert found["number"] == 2
    jobs = found["where"]
    total = 200_000 * 199_999 / 2
    assert [one["result"] for one in jobs] == [total * number for number in range(6)]
    # Spread over both machines, from their object stores, one thread each.
    assert len({one["node"] for one in jobs}) == 2
    assert {(one["writeable"], one["threads"]) for one in jobs} == {(False, "1")}
    assert found["killed"] == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "mark").exists()
    assert found["error"] in ("ValueError: number 1 is refused", "ValueError: number 2 is refused")
    assert found["many"].startswith("ConfigError: --workers on a cluster must be 2 to 2")
    assert found["client"] == [[0, 0], [1, 1], [2, 4], [3, 9]]
    predictions = pd.read_parquet(tmp_path / "predictions.parquet")
    pd.testing.assert_frame_equal(predictions, result().predictions, check_exact=True)
    assert len(list((tmp_path / "folds").glob("fold-*.json"))) == 3


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'levibot\[cluster\]'"):
        Workers(2, "auto").number()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="--cluster must be the address"):
        Workers(2, "ray://127.0.0.1:9").number()
