"""A tuning on a real Ray cluster: its workers share the trials, and all of them count once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.synthetic import SyntheticConfig
from live.profile import load_profile
from live.synthesis import make_market
from live.trial_records import LEDGER_FILE, LEDGER_VARIABLE
from live.tuning_store import JOURNAL_FILE
from tests.live.test_tune import BTC, END, SPACE, arguments, ids, record_of
from tests.research.source_copy import copied_sources

TRIALS = 6
_CREATED = 4
"""Of the journal's operations, that which begins a trial."""


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_cluster_does_the_trials_also_when_a_worker_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    sources = copied_sources(tmp_path)
    market, space, out = tmp_path / "catalog", tmp_path / "space.yaml", tmp_path / "tuning"
    make_market(market, SyntheticConfig(instruments=(BTC,), end=END, news_per_day=0.0))
    space.write_text(SPACE, encoding="utf-8")
    names = (Path(one.name) for one in (market, space, out))
    words = [
        one
        for one in arguments(*names, f"--trials={TRIALS}", "--cluster=auto", "--json")
        if one != "--workers=1"
    ]
    # Names of the driver's folder, which is not that of the nodes: they are made absolute.
    ledger = Path("ledger.jsonl")
    command = [sys.executable, "-m", "tests.live.tune_cluster_run", str(out), str(ledger), *words]
    environment = {name: one for name, one in os.environ.items() if name != LEDGER_VARIABLE}
    environment |= {"PYTHONPATH": str(sources), "RAY_USAGE_STATS_ENABLED": "0"}
    # A busy machine begins nodes more slowly than Ray waits for them.
    environment["RAY_raylet_start_wait_time_s"] = "120"
    ended = subprocess.run(
        command, cwd=sources, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["code"] == 0, found["stderr"][-3000:]
    # Nothing but the result is printed, whatever Ray hears of the worker that was killed.
    assert json.loads(found["stdout"])["folder"] == str(out)
    assert found["killed"] > 0
    record = record_of(out)
    assert record["counts"]["trials"] == len(record["history"]) == TRIALS
    lines = (out / JOURNAL_FILE).read_text(encoding="utf-8").splitlines()
    begun = [one for one in map(json.loads, lines) if one["op_code"] == _CREATED]
    assert len({one["worker_id"] for one in begun}) >= 2
    # Each once, where the one that asked counts, not where the nodes would.
    trials = {row["facts"]["trial"] for row in record["history"]}
    assert sorted(ids(tmp_path / ledger)) == sorted(trials | {record["baseline"]["trial"]})
    assert not (market / LEDGER_FILE).exists()
    assert record["trials"] is not None
    tuned = load_profile(str(out / "profile.yaml"))
    assert tuned.content_hash() == record["provenance"]["chosen_profile"]
