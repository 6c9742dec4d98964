"""The engine's own compiled adapter on the exchange, against the paper client in a replay."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.timestamps import parse_time
from tests.exchange.runner import threaded_exchange
from tests.exchange.settings import ExchangeSettings

ROOT = Path(__file__).resolve().parents[2]
END = parse_time("2024-01-02T12:00")


def scripted(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.exchange.scripted", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            found: dict[str, Any] = json.loads(line[7:])
            assert found["errors"] == []
            return found
    raise AssertionError(done.stdout + done.stderr)


def test_in_lock_step_the_compiled_adapter_trades_as_the_paper_client(
    settings: ExchangeSettings,
) -> None:
    span = (str(settings.start), str(END))
    paper = scripted("paper", str(settings.catalog), *span)
    with threaded_exchange(replace(settings, end=END)) as remote:
        exchange = scripted("exchange", remote.url)
        account = remote.accounts()["main"]
        assert remote.state()["over"]
    assert len(paper["fills"]) > 20
    assert sorted(exchange["fills"]) == sorted(paper["fills"])
    assert sorted(exchange["ends"]) == sorted(paper["ends"])
    assert {one[0] for one in paper["ends"]} >= {"OrderCanceled"}
    assert account["cash"] == paper["cash"]
